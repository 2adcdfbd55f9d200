/*-------------------------------------------------------------------------
 *
 * sim_main.c
 *	  The simulator's command line.
 *
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim_world.h"

static const char *const fault_names[SIM_NFAULTS] = {
	"network", "partition", "members", "pause", "worker", "crash", "cancel",
	"clock", "restore", "hand", "space", "watches",
	"auth", "break", "shutdown", "slow", "late", "repeat", "refuse"
};

static double
wall(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static const char *
faults_text(int faults)
{
	static char text[300];

	text[0] = '\0';
	for (int i = 0; i < SIM_NFAULTS; i++)
	{
		if (faults & (1 << i))
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s",
					 text[0] == '\0' ? "" : ",", fault_names[i]);
	}
	return text[0] == '\0' ? "none" : text;
}

static int
faults_from_text(const char *text)
{
	int			faults = 0;
	char	   *copy = strdup(text);

	for (char *name = strtok(copy, ","); name != NULL; name = strtok(NULL, ","))
	{
		int			i;

		if (strcmp(name, "none") == 0)
			continue;
		if (strcmp(name, "all") == 0)
		{
			faults = SIM_ALL_FAULTS;
			continue;
		}
		for (i = 0; i < SIM_NFAULTS && strcmp(name, fault_names[i]) != 0; i++)
			;
		if (i == SIM_NFAULTS)
		{
			fprintf(stderr, "no such fault: %s\n", name);
			exit(2);
		}
		faults |= 1 << i;
	}
	free(copy);
	return faults;
}

typedef struct Options
{
	int64_t		seconds;
	int			nservers;
	int			nsessions;
	int			nnames;
	int			nforeign;
	int			faults;			/* -1: by seed */
	int			max_faults;
	int			crossed;		/* -1: by seed */
	int			modes;			/* likewise */
	int			busy;
	int			hasty;
	int			views;
	int			one_endpoint;
	int			net_delay;
	int			lease_ttl;
	int			commit_guard;
	bool		fair;
} Options;

static void
make_plan(SimPlan *plan, uint64_t seed, const Options *options)
{
	if (options->fair)
		sim_plan_fair(plan, seed);
	else
		sim_plan_by_seed(plan, seed);
	if (options->seconds >= 0)
		plan->seconds = options->seconds;
	if (options->nservers > 0)
		plan->nservers = options->nservers;
	if (options->nsessions > 0)
		plan->nsessions = options->nsessions;
	if (options->nnames > 0)
		plan->nnames = options->nnames;
	if (options->nforeign >= 0)
		plan->nforeign = options->nforeign;
	if (options->faults >= 0)
		plan->faults = options->faults;
	plan->max_faults = options->max_faults;
	if (options->crossed >= 0)
		plan->crossed = options->crossed != 0;
	if (options->modes >= 0)
		plan->modes = options->modes != 0;
	if (options->busy >= 0)
		plan->busy = options->busy != 0;
	if (options->hasty >= 0)
		plan->hasty = options->hasty != 0;
	if (options->views >= 0)
		plan->views = options->views != 0;
	if (options->one_endpoint >= 0)
		plan->one_endpoint = options->one_endpoint != 0;
	if (options->net_delay > 0)
		plan->net_delay = options->net_delay;
	if (options->lease_ttl > 0)
		plan->lease_ttl = options->lease_ttl;
	if (options->commit_guard >= 0)
		plan->commit_guard = options->commit_guard;
}

/* What a run has come to; it is made in a process of its own, which may crash. */
typedef struct Outcome
{
	bool		failed;
	char		found[512];
	double		virtual;
	double		wall;
	SimCounts	counts;
	SimNetCounts net;
} Outcome;

static Outcome *outcome;

static void
run_in_child(const SimPlan *plan)
{
	double		start = wall();
	int			status;
	pid_t		pid;

	if (outcome == NULL)
		outcome = mmap(NULL, sizeof(Outcome), PROT_READ | PROT_WRITE,
					   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(outcome, 0, sizeof(*outcome));
	sim_kernel_preload(plan->nservers * (2 + plan->nsessions));
	fflush(stdout);
	pid = fork();
	if (pid == 0)
	{
		sim_run(plan);
		outcome->virtual = (double) sim_run_time() / SIM_SECOND;
		outcome->counts = sim_counts;
		outcome->net = sim_net_counts;
		if (sim_found != NULL)
			snprintf(outcome->found, sizeof(outcome->found), "%s", sim_found);
		fflush(stdout);
		_exit(sim_found != NULL);
	}
	(void) waitpid(pid, &status, 0);
	outcome->wall = wall() - start;
	outcome->failed = status != 0;
	if (WIFSIGNALED(status))
		snprintf(outcome->found, sizeof(outcome->found), "the code crashed: %s",
				 strsignal(WTERMSIG(status)));
}

static const char *
plan_text(const SimPlan *plan)
{
	static char text[700];

	snprintf(text, sizeof(text), "--seed %" PRIu64 " --seconds %" PRId64
			 " --servers %d --sessions %d --names %d --foreign %d --faults %s --max-faults %d --crossed %d"
			 " --modes %d --busy %d --hasty %d --views %d --one-endpoint %d --net-delay %d --lease-ttl %d --commit-guard %d",
			 plan->seed, plan->seconds, plan->nservers, plan->nsessions, plan->nnames,
			 plan->nforeign, faults_text(plan->faults), plan->max_faults,
			 plan->crossed, plan->modes, plan->busy, plan->hasty, plan->views, plan->one_endpoint,
			 plan->net_delay, plan->lease_ttl, plan->commit_guard);
	return text;
}

/* Is it still found with this plan?  Then it is the plan from now on. */
static bool
try_smaller(SimPlan *plan, SimPlan smaller)
{
	run_in_child(&smaller);
	if (!outcome->failed)
		return false;
	*plan = smaller;
	printf("  still found: %s\n    %s\n", plan_text(plan), outcome->found);
	return true;
}

/* Fewer of everything, as long as something is found. */
static void
minimise(SimPlan plan)
{
	bool		again;
	int			most;

	run_in_child(&plan);
	if (!outcome->failed)
	{
		printf("nothing is found by %s\n", plan_text(&plan));
		return;
	}
	printf("%s\n    %s\n", plan_text(&plan), outcome->found);
	do
	{
		SimPlan		smaller;

		again = false;
		for (int i = 0; i < SIM_NFAULTS; i++)
		{
			smaller = plan;
			smaller.faults &= ~(1 << i);
			if (smaller.faults != plan.faults)
				again |= try_smaller(&plan, smaller);
		}
#define LESS(field, least) \
		smaller = plan; \
		if (--smaller.field >= (least)) \
			again |= try_smaller(&plan, smaller)
		LESS(nservers, 1);
		LESS(nsessions, 1);
		LESS(nnames, 1);
		LESS(nforeign, 0);
#undef LESS
		smaller = plan;
		smaller.seconds /= 2;
		if (smaller.seconds > 0)
			again |= try_smaller(&plan, smaller);
	} while (again);

	/* The last fault that it takes. */
	run_in_child(&plan);
	most = (int) outcome->counts.faults;
	for (int low = 0; low < most;)
	{
		SimPlan		smaller = plan;
		int			middle = low + (most - low) / 2;

		smaller.max_faults = middle;
		if (try_smaller(&plan, smaller))
			most = middle;
		else
			low = middle + 1;
	}
	printf("the smallest that was found:\n  %s\n", plan_text(&plan));
}

static void
usage(void)
{
	fprintf(stderr,
			"usage: simulate [OPTION...]\n"
			"  --seed N        the first seed (default: by the clock)\n"
			"  --runs N        so many seeds, one after the other (default: 1)\n"
			"  --wall N        as many seeds as are begun within N seconds\n"
			"  --seconds N     virtual seconds with faults in each run\n"
			"  --trace         what happens, step by step\n"
			"  --minimise      look for a smaller run in which something is found, too\n"
			"  --until-found   stop at the first seed that finds something\n"
			"  --fair          100 servers want one name, and nothing fails: each gets its share\n"
			"  --servers N --sessions N --names N --foreign N --faults LIST --max-faults N\n"
			"                  instead of what the seed says; the faults are all, none, or of\n"
			"                  %s\n"
			"  --crossed 0|1   likewise: locks are taken in any order, and deadlocks arise\n"
			"  --modes 0|1     likewise: sessions take both modes of a lock\n"
			"  --busy 0|1      likewise: many short transactions under each lock\n"
			"  --hasty 0|1     likewise, with --crossed 1: waits end soon, and begin anew\n"
			"  --views 0|1     sessions look at the views\n"
			"  --one-endpoint 0|1  likewise: each server knows one member only\n"
			"  --net-delay N   likewise: microseconds that a message takes, at most as a rule\n"
			"  --lease-ttl N   likewise\n"
			"  --commit-guard 0|1|2  likewise: off, on, etcd\n",
			faults_text(SIM_ALL_FAULTS));
	exit(2);
}

int
main(int argc, char **argv)
{
	static const struct option longs[] = {
		{"seed", required_argument, NULL, 's'},
		{"runs", required_argument, NULL, 'r'},
		{"wall", required_argument, NULL, 'w'},
		{"seconds", required_argument, NULL, 't'},
		{"trace", no_argument, NULL, 'v'},
		{"servers", required_argument, NULL, 1},
		{"sessions", required_argument, NULL, 2},
		{"names", required_argument, NULL, 3},
		{"foreign", required_argument, NULL, 4},
		{"faults", required_argument, NULL, 5},
		{"max-faults", required_argument, NULL, 6},
		{"crossed", required_argument, NULL, 7},
		{"modes", required_argument, NULL, 8},
		{"lease-ttl", required_argument, NULL, 9},
		{"busy", required_argument, NULL, 10},
		{"hasty", required_argument, NULL, 11},
		{"views", required_argument, NULL, 15},
		{"one-endpoint", required_argument, NULL, 12},
		{"net-delay", required_argument, NULL, 13},
		{"commit-guard", required_argument, NULL, 14},
		{"quiet", no_argument, NULL, 'q'},
		{"minimise", no_argument, NULL, 'm'},
		{"until-found", no_argument, NULL, 'u'},
		{"fair", no_argument, NULL, 'f'},
		{NULL, 0, NULL, 0}
	};
	Options		options = {.seconds = -1,.nforeign = -1,.faults = -1,.max_faults = -1,.crossed = -1,
	.modes = -1,.busy = -1,.hasty = -1,.views = -1,.one_endpoint = -1,.commit_guard = -1};
	uint64_t	seed = (uint64_t) time(NULL) * 1000;
	int64_t		runs = 1;
	double		limit = 0;
	bool		quiet = false;
	bool		smaller = false;
	bool		until_found = false;
	int			option;
	double		began;
	double		virtual = 0;
	SimCounts	sums = {0};
	double		took;
	uint64_t	requests = 0;
	int64_t		done = 0;
	int			failed = 0;

	while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1)
	{
		switch (option)
		{
			case 's':
				seed = strtoull(optarg, NULL, 0);
				break;
			case 'r':
				runs = atoll(optarg);
				break;
			case 'w':
				limit = atof(optarg);
				runs = INT64_MAX;
				break;
			case 't':
				options.seconds = atoll(optarg);
				break;
			case 'v':
				sim_tracing = true;
				break;
			case 'q':
				quiet = true;
				break;
			case 'm':
				smaller = true;
				break;
			case 'u':
				until_found = true;
				break;
			case 'f':
				options.fair = true;
				break;
			case 1:
				options.nservers = atoi(optarg);
				break;
			case 2:
				options.nsessions = atoi(optarg);
				break;
			case 3:
				options.nnames = atoi(optarg);
				break;
			case 4:
				options.nforeign = atoi(optarg);
				break;
			case 5:
				options.faults = faults_from_text(optarg);
				break;
			case 6:
				options.max_faults = atoi(optarg);
				break;
			case 7:
				options.crossed = atoi(optarg);
				break;
			case 8:
				options.modes = atoi(optarg);
				break;
			case 9:
				options.lease_ttl = atoi(optarg);
				break;
			case 10:
				options.busy = atoi(optarg);
				break;
			case 11:
				options.hasty = atoi(optarg);
				break;
			case 15:
				options.views = atoi(optarg);
				break;
			case 12:
				options.one_endpoint = atoi(optarg);
				break;
			case 13:
				options.net_delay = atoi(optarg);
				break;
			case 14:
				options.commit_guard = atoi(optarg);
				break;
			default:
				usage();
		}
	}
	if (optind < argc)
		usage();

	if (!sim_kernel_check())
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	began = wall();
	if (smaller)
	{
		SimPlan		plan;

		make_plan(&plan, seed, &options);
		minimise(plan);
		return 0;
	}
	for (; done < runs && (limit == 0 || wall() - began < limit) && !(until_found && failed); done++)
	{
		SimPlan		plan;

		make_plan(&plan, seed + done, &options);
		run_in_child(&plan);
		virtual += outcome->virtual;
		sums.grants += outcome->counts.grants;
		sums.commits += outcome->counts.commits;
		sums.guarded += outcome->counts.guarded;
		sums.errors += outcome->counts.errors;
		sums.faults += outcome->counts.faults;
		requests += outcome->net.requests;
		failed += outcome->failed;
		if (!quiet || outcome->failed)
			printf("seed %" PRIu64 ": %.1f s virtual in %.2f s, %d x %d sessions, %d names, faults %s: %"
				   PRIu64 " locks, %" PRIu64 " commits, %" PRIu64 " errors, %" PRIu64 " faults, %"
				   PRIu64 " requests, %" PRIu64 " deadlocks of servers%s%s\n",
				   plan.seed, outcome->virtual, outcome->wall,
				   plan.nservers, plan.nsessions, plan.nnames, faults_text(plan.faults),
				   outcome->counts.grants, outcome->counts.commits, outcome->counts.errors,
				   outcome->counts.faults, outcome->net.requests, outcome->counts.deadlocks,
				   outcome->failed ? "\n  FOUND: " : "", outcome->found);
	}
	took = wall() - began;
	printf("%" PRId64 " runs from seed %" PRIu64 " on, %d failed: %.0f s virtual in %.1f s (%.0f times real time), %"
		   PRIu64 " locks (%.1f requests each), %" PRIu64 " guarded commits (%.0f per second), %"
		   PRIu64 " errors, %" PRIu64 " faults\n",
		   done, seed, failed, virtual, took, virtual / took, sums.grants,
		   (double) requests / (sums.grants > 0 ? sums.grants : 1), sums.guarded,
		   sums.guarded / took, sums.errors, sums.faults);
	return failed > 0;
}
