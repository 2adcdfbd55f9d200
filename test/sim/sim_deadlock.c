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
 * Whoever is ended was in a cycle so long ago at most: the second round takes no longer.
 * One of the others may have given up meanwhile.
 */
#define BEFORE			(SIM_SECOND / 2)
#define BEFORE_FAULTS	(4 * SIM_SECOND)

/* How long a cycle may last: by PostgreSQL's or our check, without faults or behind them. */
#define LIMIT			(15 * SIM_SECOND)
#define LIMIT_FAULTS	(25 * SIM_SECOND)

/* A wait that was ended is over by then. */
#define ENDING			(100 * SIM_MS)

#define MAX_HOLDS		4000
#define NODES			(SIM_MAX_SERVERS * SIM_MAX_PROCS)

typedef struct Record
{
	int			server;			/* index */
	SimHold		hold;
} Record;

static Record records[MAX_HOLDS];
static int	nrecords;
static int	stride;				/* nodes of each server, as many as it has processes */
static int	nnodes;				/* in use: what follows is looked at up to there only */
static bool edge[NODES][NODES];
static int64_t seen_at[NODES];	/* it was in a cycle then; 0: never */
static int64_t since[NODES];	/* and has been since then; 0: it is in none */
static int64_t ended_at[NODES]; /* as a victim; 0: never */
static bool ended_with[NODES][NODES];	/* likewise: who was in its cycle, if there was
										 * one cycle only */

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

	if (strcmp(a->hold.name, b->hold.name) != 0)
		return false;
	if (a->hold.state == SIM_HOLD_DRAINS)
		return same_server && b->hold.state == SIM_HOLD_HAS && a->hold.procno != b->hold.procno;
	return a->hold.state == SIM_HOLD_WAITS && !same_server &&
		(b->hold.state == SIM_HOLD_HAS || b->hold.state == SIM_HOLD_WAITS) &&
		b->hold.revision < a->hold.revision && (a->hold.exclusive || b->hold.exclusive);
}

static void
make_edges(void)
{
	for (int i = 0; i < nnodes; i++)
		memset(edge[i], 0, nnodes * sizeof(bool));
	take_records();
	for (int i = 0; i < nrecords; i++)
	{
		for (int j = 0; j < nrecords; j++)
		{
			if (waits_for(&records[i], &records[j]))
				edge[node(records[i].server, records[i].hold.procno)]
					[node(records[j].server, records[j].hold.procno)] = true;
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
					edge[node(s, p)][node(s, other)] = true;
			}
		}
	}
	for (int i = 0; i < nnodes; i++)
	{
		if (ended_at[i] != 0 && sim_now() - ended_at[i] < ENDING)
			memset(edge[i], 0, nnodes * sizeof(bool));
	}
}

static bool
reaches(int from, int to, bool *visited)
{
	for (int next = 0; next < nnodes; next++)
	{
		if (!edge[from][next] || visited[next])
			continue;
		if (next == to)
			return true;
		visited[next] = true;
		if (reaches(next, to, visited))
			return true;
	}
	return false;
}

static void
note_cycles(void)
{
	int64_t		now = sim_now();

	make_edges();
	for (int i = 0; i < nnodes; i++)
	{
		bool		visited[NODES];

		memset(visited, 0, nnodes * sizeof(bool));
		if (!reaches(i, i, visited))
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
			if (edge[i][to] && next_of[i] < 0)
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
	sim_at(sim_now() + (sim_plan.crossed ? SAMPLE : SAMPLE_ORDERED), sample, NULL);
}

void
sim_deadlock_start(void)
{
	memset(seen_at, 0, sizeof(seen_at));
	memset(since, 0, sizeof(since));
	memset(ended_at, 0, sizeof(ended_at));
	stride = 1 + sim_plan.nsessions;
	nnodes = sim_plan.nservers * stride;
	if (sim_plan.crossed)
		sim_at(sim_now() + (sim_plan.crossed ? SAMPLE : SAMPLE_ORDERED), sample, NULL);
}

/* Who is in the same cycle as this one?  Nobody, if several cycles meet. */
static void
note_ended(int victim)
{
	bool		from[NODES] = {false};

	ended_at[victim] = sim_now();
	memset(ended_with[victim], 0, sizeof(ended_with[victim]));
	(void) reaches(victim, -1, from);
	for (int i = 0; i < nnodes; i++)
	{
		bool		visited[NODES];

		memset(visited, 0, nnodes * sizeof(bool));
		ended_with[victim][i] = from[i] && reaches(i, victim, visited);
	}
	for (int i = 0; i < nnodes; i++)
	{
		int			n = 0;

		for (int j = 0; j < nnodes; j++)
			n += ended_with[victim][i] && ended_with[victim][j] && edge[i][j];
		if (n > 1)
		{
			memset(ended_with[victim], 0, sizeof(ended_with[victim]));
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
			ended_with[i][victim] && seen_at[victim] <= ended_at[i])
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

	note_cycles();
	sim_counts.deadlocks++;
	for (int p = 0; p < server->nprocs; p++)
	{
		int			i = node(server->number - 1, p);

		if (!server->procs[p].alive || server->procs[p].pid != pid)
			continue;
		if (seen_at[i] == 0 || sim_now() - seen_at[i] > before)
			sim_violation("%s is ended as the victim of a deadlock, and was in none",
						  sim_proc_name(&server->procs[p]));
		check_once(i, before);
		note_ended(i);
	}
}
