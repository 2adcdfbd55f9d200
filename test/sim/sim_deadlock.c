/*-------------------------------------------------------------------------
 *
 * sim_deadlock.c
 *	  Who waits for whom, over all servers, as nobody in them can see it.
 *
 * The extension's workers find deadlocks over several servers by messages that take
 * time.  Here all tables and lock managers are looked at in one moment, so that it is
 * known who was in a cycle, and for how long.
 *
 *-------------------------------------------------------------------------
 */
#include "sim_world.h"

#include <stdio.h>
#include <string.h>

/* How often it is looked; where locks are not crossed, cycles are few, but there are some. */
#define SAMPLE			(10 * SIM_MS)
#define SAMPLE_ORDERED	(50 * SIM_MS)

/*
 * A session that is ended was in a cycle so long ago at most: the second round takes no longer.
 * One of the others may have given up meanwhile.
 */
#define BEFORE			(SIM_SECOND / 2)
#define BEFORE_FAULTS	(4 * SIM_SECOND)

/* How long a cycle may last: by PostgreSQL's or our check, without faults or behind them. */
#define LIMIT			(15 * SIM_SECOND)
#define LIMIT_FAULTS	(25 * SIM_SECOND)

/* A wait that was ended is over by then, and others may begin before. */
#define ENDING			(100 * SIM_MS)

#define MAX_HOLDS		4000
#define NODES			(SIM_MAX_SERVERS * SIM_MAX_PROCS)

/* A set of nodes: bits of so many words, of which nwords are in use. */
#define WORDS			((NODES + 63) / 64)

typedef uint64_t Set[WORDS];

typedef struct Record
{
	int			server;			/* index */
	SimHold		hold;
} Record;

static Record records[MAX_HOLDS];
static int	nrecords;
static int	stride;				/* nodes of each server, as many as it has processes */
static int	nnodes;				/* in use: what follows is looked at up to there only */
static int64_t looked_at;		/* last, for all of this */
static int	nwords;
static Set	edge[NODES];		/* for whom each one waits */
static Set	reach[NODES];		/* and for whom those wait, and so on */
static int64_t seen_at[NODES];	/* it was in a cycle then; 0: never */
static int64_t since[NODES];	/* and has been since then; 0: it is in none */
static int64_t ended_at[NODES]; /* as a victim; 0: never */
static Set	ended_with[NODES];	/* likewise: who was in its cycle, if there was
								 * one cycle only */

static bool
has(const uint64_t *set, int i)
{
	return (set[i / 64] >> (i % 64) & 1) != 0;
}

static void
add(uint64_t *set, int i)
{
	set[i / 64] |= UINT64_C(1) << (i % 64);
}

static void
clear(uint64_t *set)
{
	memset(set, 0, nwords * sizeof(uint64_t));
}

static int
node(int server, int procno)
{
	return server * stride + procno;
}

static const char *
proc_name(int i)
{
	return sim_proc_name(&sim_servers[i / stride].procs[i % stride]);
}

static void
take_records(void)
{
	static SimHold holds[MAX_HOLDS];
	SimProc    *self = sim_self;

	nrecords = 0;
	for (int s = 0; s < sim_nservers; s++)
	{
		int			n;

		if (!sim_servers[s].up)
			continue;
		sim_self = &sim_servers[s].postmaster;
		sim_checking = true;
		n = sim_self->image->holds(holds, MAX_HOLDS);
		sim_checking = false;
		for (int i = 0; i < n && nrecords < MAX_HOLDS; i++)
		{
			records[nrecords].server = s;
			records[nrecords++].hold = holds[i];
		}
	}
	sim_self = self;
}

/* Does the one wait for the other because of this lock? */
static bool
waits_for(const Record *a, const Record *b)
{
	bool		same_server = a->server == b->server;

	if (a->hold.state == SIM_HOLD_DRAINS ?
		!same_server || b->hold.state != SIM_HOLD_HAS || a->hold.procno == b->hold.procno :
		same_server || b->hold.state == SIM_HOLD_DRAINS ||
		b->hold.revision >= a->hold.revision || !(a->hold.exclusive || b->hold.exclusive))
		return false;
	return strcmp(a->hold.name, b->hold.name) == 0;
}

static void
make_edges(void)
{
	for (int i = 0; i < nnodes; i++)
		clear(edge[i]);
	take_records();
	for (int i = 0; i < nrecords; i++)
	{
		for (int j = 0; records[i].hold.state != SIM_HOLD_HAS && j < nrecords; j++)
		{
			if (waits_for(&records[i], &records[j]))
				add(edge[node(records[i].server, records[i].hold.procno)],
					node(records[j].server, records[j].hold.procno));
		}
	}
	for (int s = 0; s < sim_nservers; s++)
	{
		for (int p = 0; p < sim_servers[s].nprocs; p++)
		{
			uint32_t	set = sim_servers[s].procs[p].alive ?
				sim_lock_waits_of(&sim_servers[s].procs[p]) : 0;

			for (int other = 0; other < sim_servers[s].nprocs; other++)
			{
				if ((set & (UINT32_C(1) << other)) != 0)
					add(edge[node(s, p)], node(s, other));
			}
		}
	}
	for (int i = 0; i < nnodes; i++)
	{
		if (ended_at[i] != 0 && sim_now() - ended_at[i] < ENDING &&
			sim_waits_since(&sim_servers[i / stride].procs[i % stride]) <= ended_at[i])
			clear(edge[i]);
	}
}

static void
find_reach(void)
{
	for (int i = 0; i < nnodes; i++)
		memcpy(reach[i], edge[i], nwords * sizeof(uint64_t));
	for (int via = 0; via < nnodes; via++)
	{
		for (int i = 0; i < nnodes; i++)
		{
			for (int w = 0; has(reach[i], via) && w < nwords; w++)
				reach[i][w] |= reach[via][w];
		}
	}
}

static void
note_cycles(void)
{
	int64_t		now = sim_now();

	looked_at = now;
	make_edges();
	find_reach();
	for (int i = 0; i < nnodes; i++)
	{
		if (!has(reach[i], i))
		{
			since[i] = 0;
			continue;
		}
		seen_at[i] = now;
		if (since[i] == 0)
			since[i] = now;
	}
}

/* Say who waits for whom: the shortest of this one's cycles. */
static void
trace_cycle(int from)
{
	static int	queue[NODES];
	static int	next_of[NODES];
	int			head = 0;
	int			tail = 0;
	int			at = from;

	/* backwards, so that the way back leads along the cycle */
	for (int i = 0; i < nnodes; i++)
		next_of[i] = -1;
	queue[tail++] = from;
	while (head < tail && next_of[from] < 0)
	{
		int			to = queue[head++];

		for (int i = 0; i < nnodes; i++)
		{
			if (has(edge[i], to) && next_of[i] < 0)
			{
				next_of[i] = to;
				queue[tail++] = i;
			}
		}
	}
	do
	{
		char		waiter[32];

		snprintf(waiter, sizeof(waiter), "%s", proc_name(at));
		at = next_of[at];
		sim_trace("%s waits for %s", waiter, proc_name(at));
	} while (at != from);
}

/* A cycle that lasts is broken. */
static void
check_duration(void)
{
	int64_t		limit = sim_plan.faults == 0 ? LIMIT : LIMIT_FAULTS;
	bool		calm = sim_plan.faults == 0 || sim_faults_over_at != 0;

	for (int i = 0; i < nnodes && calm; i++)
	{
		int64_t		begin = since[i] > sim_faults_over_at ? since[i] : sim_faults_over_at;

		if (since[i] != 0 && sim_now() - begin > limit)
		{
			trace_cycle(i);
			sim_violation("%s has been in a deadlock for %d s", proc_name(i),
						  (int) ((sim_now() - since[i]) / SIM_SECOND));
		}
	}
}

static void
sample(void *arg)
{
	(void) arg;
	note_cycles();
	check_duration();
	sim_at(sim_now() + SAMPLE, sample, NULL);
}

/*
 * Where locks are not crossed, we look behind other events instead of planning ones for it:
 * each planned event would change what a seed stands for.
 */
void
sim_deadlock_after_event(void)
{
	if (sim_plan.crossed || sim_now() - looked_at < SAMPLE_ORDERED)
		return;
	note_cycles();
	check_duration();
}

void
sim_deadlock_start(void)
{
	memset(seen_at, 0, sizeof(seen_at));
	memset(since, 0, sizeof(since));
	memset(ended_at, 0, sizeof(ended_at));
	stride = 1 + sim_plan.nsessions;
	nnodes = sim_plan.nservers * stride;
	looked_at = sim_now();
	nwords = (nnodes + 63) / 64;
	if (sim_plan.crossed)
		sim_at(sim_now() + SAMPLE, sample, NULL);
}

/* Who is in the same cycle as this one?  Nobody, if several cycles meet. */
static void
note_ended(int victim)
{
	uint64_t   *with = ended_with[victim];

	ended_at[victim] = sim_now();
	clear(with);
	for (int i = 0; i < nnodes; i++)
	{
		if (has(reach[victim], i) && has(reach[i], victim))
			add(with, i);
	}
	for (int i = 0; i < nnodes; i++)
	{
		int			n = 0;

		for (int w = 0; has(with, i) && w < nwords; w++)
			n += __builtin_popcountll(with[w] & edge[i][w]);
		if (n > 1)
		{
			clear(with);
			return;
		}
	}
}

/* It has been in no cycle since another one was ended that was in its only one. */
static void
check_once(int victim, int64_t before)
{
	for (int i = 0; i < nnodes; i++)
	{
		if (i != victim && ended_at[i] != 0 && sim_now() - ended_at[i] <= before &&
			has(ended_with[i], victim) && seen_at[victim] <= ended_at[i])
			sim_violation("two victims of one deadlock: %s, and before %s",
						  proc_name(victim), proc_name(i));
	}
}

/* A worker ends the wait of this process of its server. */
void
sim_check_victim(int pid)
{
	SimServer  *server = sim_self->server;
	int64_t		before = sim_plan.faults == 0 ? BEFORE : BEFORE_FAULTS;

	/* or it is not known who was in a cycle that has just ended */
	if (sim_now() - looked_at > BEFORE_FAULTS)
		sim_violation("nobody has looked for deadlocks in the %d s before a wait is ended",
					  (int) ((sim_now() - looked_at) / SIM_SECOND));
	note_cycles();
	sim_counts.deadlocks++;
	for (int p = 0; p < server->nprocs; p++)
	{
		int			i = node(server->number - 1, p);

		if (!server->procs[p].alive || server->procs[p].pid != pid)
			continue;
		if (seen_at[i] == 0 || sim_now() - seen_at[i] > before ||
			seen_at[i] < sim_waits_since(&server->procs[p]))
			sim_violation("%s is ended as the victim of a deadlock, and was in none",
						  sim_proc_name(&server->procs[p]));
		check_once(i, before);
		note_ended(i);
	}
}
