/*-------------------------------------------------------------------------
 *
 * sim_checks.c
 *	  What must hold whatever happens.
 *
 * A session believes that it has a lock from the moment on when the function
 * has returned, as long as its record in the shared table is there and valid by
 * its server's own clock: that is what it would be told if it asked.
 *
 *-------------------------------------------------------------------------
 */
#include "sim_world.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A token counts in its lower bits how often its key was passed on. */
#define TOKEN_PASS_BITS 20
#define TOKEN_MAX_PASS ((INT64_C(1) << TOKEN_PASS_BITS) - 1)

#define MAX_NOTES	256
#define MAX_GRANTS	64
#define MAX_TICKS	256
#define MAX_REFUSED	64
#define MAX_BROKEN	64
#define MAX_COMMIT	16
#define MARKED		(UINT32_C(1) << 31)
#define IN_USE_BIT(name)	(UINT32_C(1) << ((name) + SIM_MAX_NAMES))
#define SENTINEL	".etcd_lock/server/"

/*
 * When etcd has gone back in time, nobody can know it before he hears of it: no later
 * than by the next keepalive, without which the deadline passes.
 */
#define GRACE(ttl)	((ttl) * SIM_SECOND)

/*
 * When somebody deletes a key of ours, a watch tells, or the audit: without one for
 * longer than this and the time of a request, the lease is not extended any more.
 */
#define AUDIT_BOUND	(2 * SIM_SECOND)
#define DELETED_GRACE \
	(AUDIT_BOUND + sim_plan.request_timeout * SIM_MS + GRACE(sim_plan.lease_ttl))

/*
 * Most that a worker that has nothing to do may have in use, bytes.  In 250 runs it was 678,000 at most,
 * of which what it allocates at its start is 659,000.
 */
#define MEMORY		(700 * 1000)

/*
 * Of so many reads of queues, most that may show nothing new: in 150 runs it was 0.06 to 0.45.
 */
#define REPEATED	0.55
#define ENOUGH_READS	500

/* Within this time all is well again behind faults of some kinds. */
#define RECOVERY	(5 * SIM_SECOND)

/* In which a worker has taken over what its predecessor left. */
#define TAKEOVER		SIM_SECOND

/* By so much a call may take longer than its own limit. */
#define MARGIN			SIM_SECOND

/* Most that a release may take, which waits for a second at most. */
#define RELEASE		(3 * SIM_SECOND / 2)

/*
 * How long a server may keep a key that no session needs when others wait: its watch shows
 * them at once.
 */
#define IDLE		SIM_SECOND

/*
 * While others wait, a server keeps a key over such a gap between two of its sessions, and etcd
 * has to delete it then.
 */
#define GAP			(5 * SIM_MS)

/* Over slower networks that takes longer than a try waits. */
#define FAST_NETWORK	SIM_MS

/*
 * Longest that who waits may have to, once there are no faults; and if he may wait behind
 * one deadlock after the other, or behind sessions with a hundred transactions each.
 */
#define ORDINARY_WAIT	(30 * SIM_SECOND)
#define LONG_WAIT	(60 * SIM_SECOND)

typedef struct Note
{
	SimProc    *proc;
	int			pid;
	int			name;
	bool		exclusive;
	int64_t		token;
	int64_t		revision;		/* create_revision of its key, which the token need not
								 * tell: one shared behind an exclusive grant counts on */
	int64_t		since;
} Note;

/* etcd_lock_break() has said "true" of it. */
typedef struct Broken
{
	int			name;
	int64_t		token;
	int64_t		at;
} Broken;

/* What a session believed to have when its transaction began to commit. */
typedef struct Commit
{
	int64_t		began_at;
	int			n;
	Note		notes[MAX_COMMIT];
	bool		absent;			/* etcd had no key for one of them any more */
} Commit;

typedef struct Grant
{
	int			pid;
	bool		exclusive;
	int64_t		token;
} Grant;

typedef struct Tick
{
	int			name;
	int64_t		tick;
	int			claimed;
	int			refused;
	int			asking;			/* without an answer yet, or for ever */
	int			busy;			/* transactions about it that are not over */
	int64_t		first_asked;
	int64_t		locked_until;	/* that long their locks may be seen */
	bool		excused;		/* somebody else may have had the lock */
} Tick;

/* A call of etcd_try_once() that said "false". */
typedef struct Refused
{
	const SimProc *proc;
	uint64_t	claim;			/* the call's number */
	int64_t		at;
} Refused;

/* What a server cannot know yet of its locks of a name: not to be believed. */
typedef struct Doubt
{
	int64_t		until;
	int64_t		revision;		/* of keys created up to this one */
} Doubt;

/* A key by which a session waits: since when nobody else's has been ahead of it; 0: one is. */
typedef struct First
{
	int64_t		revision;
	int64_t		since;
	int64_t		asked_at;		/* when it was first seen */
} First;

static First firsts[SIM_MAX_SERVERS][SIM_MAX_PROCS];
static Note notes[MAX_NOTES];
static int	nnotes;
static Grant grants[SIM_MAX_NAMES][MAX_GRANTS];
static int	ngrants[SIM_MAX_NAMES];
static Tick ticks[MAX_TICKS];
static int	nticks;
static Refused refused[MAX_REFUSED];	/* a ring */
static int	nrefused;
static Doubt doubts[SIM_MAX_SERVERS + 1][SIM_MAX_NAMES];
static int64_t restored_at;
static Broken broken[MAX_BROKEN];
static int	nbroken;
static Broken breaking[MAX_BROKEN];	/* likewise, asked for only */
static int	nbreaking;
static Commit commits[SIM_MAX_SERVERS][SIM_MAX_PROCS];
static uint64_t idle_requests;	/* sent until nobody wanted anything any more */
static int64_t idle_since;

/*
 * Whose keys were last seen in etcd below each name, and when; owner 0: foreign
 * clients, else the number of the server.
 */
static int64_t seen_at[SIM_MAX_NAMES][SIM_MAX_SERVERS + 1];
static bool seen_now[SIM_MAX_NAMES][SIM_MAX_SERVERS + 1];
static int64_t seen_since[SIM_MAX_NAMES][SIM_MAX_SERVERS + 1];

/* When was there last one that is not put to be kept for a while? */
static int64_t in_use_at[SIM_MAX_NAMES][SIM_MAX_SERVERS + 1];
static bool in_use_now[SIM_MAX_NAMES][SIM_MAX_SERVERS + 1];
static uint64_t former_base[SIM_MAX_SERVERS];	/* 0: none that is known */
static int64_t former_since[SIM_MAX_SERVERS];	/* its lease is seen beside its successor's */
static char found[512];
const char *sim_found;

static void
tell_server(const SimServer *server)
{
	for (int p = 1; p < server->nprocs; p++)
	{
		const SimProc *proc = &server->procs[p];

		if (proc->alive && sim_waits_since(proc) != 0)
			sim_trace("   %s has been in %s for %.3f ms", sim_proc_name(proc), sim_waits_for(proc),
					  (double) (sim_now() - sim_waits_since(proc)) / 1000);
	}
	sim_lockmgr_tell(server);
}

void
sim_violation(const char *format,...)
{
	va_list		args;

	if (sim_found != NULL)
		return;
	va_start(args, format);
	vsnprintf(found, sizeof(found), format, args);
	va_end(args);
	sim_found = found;
	sim_trace("!! %s", found);
	for (int s = 0; sim_tracing && s < sim_nservers; s++)
		tell_server(&sim_servers[s]);
	sim_stop();
}

void
sim_checks_start(void)
{
	nnotes = 0;
	memset(firsts, 0, sizeof(firsts));
	memset(ngrants, 0, sizeof(ngrants));
	nticks = 0;
	memset(refused, 0, sizeof(refused));
	nrefused = 0;
	memset(doubts, 0, sizeof(doubts));
	restored_at = 0;
	nbroken = 0;
	memset(refused, 0, sizeof(refused));
	nbreaking = 0;
	memset(commits, 0, sizeof(commits));
	memset(former_base, 0, sizeof(former_base));
	memset(seen_at, 0, sizeof(seen_at));
	memset(seen_now, 0, sizeof(seen_now));
	memset(seen_since, 0, sizeof(seen_since));
	memset(in_use_at, 0, sizeof(in_use_at));
	memset(in_use_now, 0, sizeof(in_use_now));
	sim_found = NULL;
}

/* What its sessions have and wait for; how many. */
static int
holds_of(SimServer *server, SimHold *holds, int max)
{
	SimProc    *self = sim_self;
	int			n;

	sim_self = &server->postmaster;
	sim_checking = true;
	n = sim_self->image->holds(holds, max);
	sim_checking = false;
	sim_self = self;
	return n;
}

/* As the server's postmaster: nobody else runs meanwhile. */
static bool
believes(Note *note)
{
	SimProc    *self = sim_self;
	int64_t		revision;

	if (!note->proc->alive || note->proc->pid != note->pid)
		return false;
	sim_self = &note->proc->server->postmaster;
	sim_checking = true;
	revision = sim_self->image->believes(note->proc->procno, sim_names[note->name],
										 note->exclusive, note->token);
	sim_checking = false;
	sim_self = self;
	if (revision != 0)
		note->revision = revision;
	return revision != 0;
}

/* Did something happen to it that its server cannot know yet? */
static bool
in_doubt(const Note *note)
{
	const Doubt *doubt = &doubts[note->proc->server->number][note->name];

	if (restored_at != 0 && note->since <= restored_at + GRACE(sim_plan.lease_ttl) &&
		sim_now() < restored_at + GRACE(sim_plan.lease_ttl))
		return true;
	return sim_now() < doubt->until && note->revision <= doubt->revision;
}

static void
begin_doubt(int server, int name, int64_t revision)
{
	Doubt	   *doubt = &doubts[server][name];

	doubt->until = sim_now() + DELETED_GRACE;
	if (revision > doubt->revision)
		doubt->revision = revision;
}

/* Which of the names is this key of?  -1: of none. */
static int
name_of_key(const char *key, size_t len)
{
	for (int name = 0; name < SIM_MAX_NAMES; name++)
	{
		size_t		name_len = strlen(sim_names[name]);

		if (len > name_len && memcmp(key, sim_names[name], name_len) == 0 &&
			key[name_len] == '/' &&
			memchr(key + name_len + 1, '/', len - name_len - 1) ==
			(strncmp(key + name_len, "/read/", 6) == 0 ? key + name_len + 5 :
			 strncmp(key + name_len, "/write/", 7) == 0 ? key + name_len + 6 : NULL))
			return name;
	}
	return -1;
}

static int	owner_of(int64_t lease);

/* Somebody else than its owner deletes this key, or revokes its lease. */
void
sim_check_deletes(int by, const char *key, size_t len, bool whole_lease)
{
	SimEtcd    *etcd = sim_cluster_state();
	int64_t		lease = 0;
	EtcdKeyValue kv;

	for (int i = 0; i < sim_etcd_nlive(etcd); i++)
	{
		sim_etcd_live(etcd, i, &kv);
		if (kv.key_len == len && memcmp(kv.key, key, len) == 0)
			lease = kv.lease;
	}
	if (lease == 0 || owner_of(lease) == by || owner_of(lease) == 0)
		return;
	for (int i = 0; i < sim_etcd_nlive(etcd); i++)
	{
		sim_etcd_live(etcd, i, &kv);
		if (kv.lease == lease && name_of_key(kv.key, kv.key_len) >= 0 &&
			(whole_lease || (kv.key_len == len && memcmp(kv.key, key, len) == 0)))
			begin_doubt(owner_of(lease), name_of_key(kv.key, kv.key_len),
						whole_lease ? INT64_MAX : kv.create_revision);
	}
}

static void
add_broken(Broken *list, int *n, int name, int64_t token)
{
	if (*n == MAX_BROKEN)
		memmove(&list[0], &list[1], --*n * sizeof(Broken));
	list[(*n)++] = (Broken) {name, token, sim_now()};
}

/* Sessions that had it do not believe in it for much longer. */
void
sim_check_broken(int name, int64_t token)
{
	add_broken(broken, &nbroken, name, token);
}

void
sim_check_breaking(int name, int64_t token)
{
	add_broken(breaking, &nbreaking, name, token);
}

/*
 * Those who share a key lose it together; and a token that was given behind an exclusive
 * grant may be that of a session that shares by an older key.
 */
static bool
is_breaking(const Note *note)
{
	for (int i = 0; i < nbreaking; i++)
	{
		int64_t		revision = breaking[i].token >> TOKEN_PASS_BITS;

		if (breaking[i].name == note->name &&
			(breaking[i].token == note->token || note->revision == revision ||
			 (!note->exclusive && note->revision < revision &&
			  (breaking[i].token & TOKEN_MAX_PASS) != 0)))
			return true;
	}
	return false;
}

/* What is granted later with the same token is another lock: see sim_check_restored(). */
static void
check_broken(const Note *note)
{
	for (int i = 0; i < nbroken; i++)
	{
		if (broken[i].name == note->name && broken[i].token == note->token &&
			note->since <= broken[i].at &&
			sim_now() > broken[i].at + DELETED_GRACE)
			sim_violation("%s still has \"%s\" by token %" PRId64 ", which was broken %d s ago",
						  sim_proc_name(note->proc), sim_names[note->name], note->token,
						  (int) ((sim_now() - broken[i].at) / SIM_SECOND));
	}
}

/* A lock that somebody has; false: nobody has any. */
bool
sim_check_any(int which, int *name, int64_t *token)
{
	if (nnotes == 0)
		return false;
	*name = notes[which % nnotes].name;
	*token = notes[which % nnotes].token;
	return true;
}

static bool
in_conflict(const Note *a, const Note *b)
{
	return a->name == b->name && a->proc != b->proc && (a->exclusive || b->exclusive);
}

void
sim_check_commit_begins(SimProc *proc)
{
	Commit	   *commit = &commits[proc->server->number - 1][proc->procno];

	commit->began_at = sim_now();
	commit->n = 0;
	commit->absent = false;
	for (int i = 0; i < nnotes; i++)
	{
		if (notes[i].proc != proc || notes[i].pid != proc->pid || !believes(&notes[i]) ||
			commit->n == MAX_COMMIT)
			continue;
		commit->notes[commit->n++] = notes[i];
		commit->absent |= !seen_now[notes[i].name][proc->server->number];
	}
}

/* Was it stopped, or its server's clock moved, since it began to commit? */
static bool
stood_still(const SimProc *proc)
{
	int64_t		began_at = commits[proc->server->number - 1][proc->procno].began_at;

	return proc->held_up_until > began_at || proc->server->clock_moved_at >= began_at;
}

/* Then a signal may come when a commit has waited for its sender for long enough. */
bool
sim_check_sender_stood_still(const SimProc *proc)
{
	const SimServer *server = proc->server;
	int64_t		began_at = commits[server->number - 1][proc->procno].began_at;

	for (int i = 0; i < server->nprocs; i++)
	{
		if (server->procs[i].held_up_until > began_at)
			return true;
	}
	return false;
}

/*
 * A change has been committed.  Nobody has got a lock of the session's meanwhile:
 * the margin is for the time from the guard's look on, unless the process stood still.
 */
void
sim_check_committed(SimProc *proc)
{
	Commit	   *commit = &commits[proc->server->number - 1][proc->procno];
	bool		excused = stood_still(proc);

	if (commit->n > 0 && commit->absent && sim_plan.commit_guard == 2)
		sim_violation("%s has committed a change, though etcd had no key for its lock",
					  sim_proc_name(proc));
	for (int c = 0; c < commit->n; c++)
	{
		Note	   *note = &commit->notes[c];

		for (int i = 0; i < nnotes; i++)
		{
			if (in_conflict(note, &notes[i]) && believes(&notes[i]) && !believes(note) &&
				!excused && !in_doubt(note) && !in_doubt(&notes[i]) && !is_breaking(note))
				sim_violation("%s has committed a change when %s had \"%s\" already",
							  sim_proc_name(proc), sim_proc_name(notes[i].proc),
							  sim_names[note->name]);
		}
	}
}

/*
 * Nobody is kept waiting for long by what he gives up.  A guard that asks etcd waits for
 * its answer before that.
 */
void
sim_check_release(SimProc *proc, const char *what, int64_t since)
{
	int64_t		limit = RELEASE;

	if (sim_plan.commit_guard == 2)
		limit += sim_plan.request_timeout * SIM_MS;
	if ((sim_plan.faults & (FAULT_PAUSE | FAULT_CLOCK | FAULT_MEMBERS)) == 0 &&
		sim_now() - since > limit)
		sim_violation("%s has waited for %.1f s in %s until its locks were released",
					  sim_proc_name(proc), (double) (sim_now() - since) / SIM_SECOND, what);
}

bool
sim_check_lossless(void)
{
	int			may = FAULT_CANCEL | FAULT_CRASH | FAULT_SHUTDOWN | FAULT_WATCHES;

	if (sim_plan.lease_ttl >= 6)
		may |= FAULT_WORKER | FAULT_REFUSE;
	return (sim_plan.faults & ~may) == 0;
}

void
sim_check_now(void)
{
	int			n = 0;

	/* what nobody believes any more is forgotten */
	for (int i = 0; i < nnotes; i++)
	{
		if (believes(&notes[i]))
			notes[n++] = notes[i];
	}
	nnotes = n;
	for (int i = 0; i < nnotes; i++)
	{
		bool		foreign_exclusive;

		check_broken(&notes[i]);
		for (int j = i + 1; j < nnotes; j++)
		{
			if (!in_conflict(&notes[i], &notes[j]) ||
				in_doubt(&notes[i]) || in_doubt(&notes[j]))
				continue;
			sim_violation("two have \"%s\": %s (%s, token %" PRId64 ") and %s (%s, token %" PRId64 ")",
						  sim_names[notes[i].name],
						  sim_proc_name(notes[i].proc),
						  notes[i].exclusive ? "exclusive" : "shared", notes[i].token,
						  sim_proc_name(notes[j].proc),
						  notes[j].exclusive ? "exclusive" : "shared", notes[j].token);
			return;
		}
		if (!in_doubt(&notes[i]) &&
			sim_foreign_holders(notes[i].name, &foreign_exclusive) > 0 &&
			(notes[i].exclusive || foreign_exclusive))
			sim_violation("%s and a foreign client have \"%s\" (token %" PRId64 ")",
						  sim_proc_name(notes[i].proc), sim_names[notes[i].name], notes[i].token);
	}
}

static void
check_token(const Note *note)
{
	Grant	   *list = grants[note->name];
	int			n = ngrants[note->name];

	for (int i = 0; i < n; i++)
	{
		if (!note->exclusive && !list[i].exclusive)
			continue;
		if (list[i].pid == note->pid ? note->token < list[i].token : note->token <= list[i].token)
			sim_violation("token of \"%s\" does not rise: %" PRId64 " for %s (%s) after %" PRId64 " (%s)",
						  sim_names[note->name], note->token, sim_proc_name(note->proc),
						  note->exclusive ? "exclusive" : "shared", list[i].token,
						  list[i].exclusive ? "exclusive" : "shared");
	}
	if (n == MAX_GRANTS)
	{
		memmove(&list[0], &list[1], (MAX_GRANTS - 1) * sizeof(Grant));
		n--;
	}
	list[n].pid = note->pid;
	list[n].exclusive = note->exclusive;
	list[n].token = note->token;
	ngrants[note->name] = n + 1;
}

void
sim_check_granted(SimProc *proc, int name, bool exclusive, int64_t token)
{
	Note	   *note = NULL;
	bool		held = false;

	sim_counts.grants++;
	for (int i = 0; i < nnotes; i++)
	{
		if (notes[i].proc == proc && notes[i].pid == proc->pid && notes[i].name == name &&
			notes[i].exclusive == exclusive && notes[i].token == token)
		{
			held = true;
			note = &notes[i];
		}
	}
	if (!held)
	{
		if (nnotes == MAX_NOTES)
			sim_check_now();
		if (nnotes == MAX_NOTES)
			sim_panic("too many locks are held");
		note = &notes[nnotes++];
		note->proc = proc;
		note->pid = proc->pid;
		note->name = name;
		note->exclusive = exclusive;
		note->token = token;
		note->revision = 0;
		note->since = sim_now();
		/* where etcd has gone back in time, so have revisions, and tokens */
		if (believes(note) && sim_cluster_restored_at() == 0 && !in_doubt(note))
			check_token(note);
	}
	sim_check_now();
}

/* Whatever the session had all the time while it looked is shown. */
void
sim_check_views(SimProc *proc)
{
	for (int i = 0; i < nnotes; i++)
	{
		const char *name = sim_names[notes[i].name];

		if (notes[i].proc != proc || !believes(&notes[i]))
			continue;
		if (strncmp(name, INTEGER_KEY, strlen(INTEGER_KEY)) == 0)
			name += strlen(INTEGER_KEY);
		if (!proc->image->locks_show(name, notes[i].exclusive, notes[i].token))
			sim_violation("etcd_locks does not show \"%s\" of %s, token %" PRId64, name,
						  sim_proc_name(proc), notes[i].token);
		if (!proc->image->queue_shows(name, notes[i].revision))
			sim_violation("etcd_lock_queue() does not show \"%s\" of %s, revision %" PRId64, name,
						  sim_proc_name(proc), notes[i].revision);
	}
}

bool
sim_check_holds(const SimProc *proc, int name, bool exclusive)
{
	for (int i = 0; i < nnotes; i++)
	{
		if (notes[i].proc == proc && notes[i].pid == proc->pid && notes[i].name == name &&
			notes[i].exclusive == exclusive)
			return believes(&notes[i]);
	}
	return false;
}

static int
owner_of(int64_t lease)
{
	for (int s = 0; s < sim_nservers; s++)
	{
		/* the lowest bits are another number in each epoch */
		if (sim_servers[s].up && lease >> 24 ==
			(int64_t) (sim_servers[s].postmaster.image->lease_base() >> 24))
			return s + 1;
	}
	return 0;
}

/* From here on nothing that its lease has granted looks valid. */
void
sim_check_epoch_ended(const SimServer *server)
{
	for (int i = 0; i < nnotes; i++)
	{
		if (notes[i].proc->server == server && believes(&notes[i]))
			sim_violation("%s still believes to have \"%s\" when its server's lease is over",
						  sim_proc_name(notes[i].proc), sim_names[notes[i].name]);
	}
}

/*
 * Sessions were told that somebody else has a tick, or its lock.  Etcd has the number of
 * the call that has claimed it: one of these?
 */
static void
check_refused_ticks(void)
{
	SimEtcd    *etcd = sim_cluster_state();

	for (int i = 0; i < sim_etcd_nlive(etcd); i++)
	{
		EtcdKeyValue kv;
		uint64_t	claim;

		sim_etcd_live(etcd, i, &kv);
		if (strncmp(kv.key, ".etcd_lock/tick/", strlen(".etcd_lock/tick/")) != 0 ||
			strrchr(kv.value, ' ') == NULL)
			continue;
		claim = strtoull(strrchr(kv.value, ' '), NULL, 16);
		for (int r = 0; r < MAX_REFUSED; r++)
		{
			if (refused[r].proc != NULL && refused[r].claim == claim)
				sim_violation("%s was refused \"%s\" at %.3f, which it has claimed itself",
							  sim_proc_name(refused[r].proc), kv.key,
							  (double) refused[r].at / SIM_SECOND);
		}
	}
}

/* A session was told that somebody else has the tick, or its lock. */
void
sim_check_tick_refused(SimProc *proc)
{
	refused[nrefused++ % MAX_REFUSED] = (Refused) {proc, proc->drawn, sim_now()};
	check_refused_ticks();
}

/* The server went down, but its machine is on: nobody of it lives any more. */
void
sim_check_went_down(SimServer *server, bool same_boot)
{
	former_since[server->number - 1] = 0;
	former_base[server->number - 1] = same_boot ? server->postmaster.image->lease_base() : 0;
}

/* A server ends its predecessor's lease, beside its other work. */
static void
check_predecessor(int64_t lease)
{
	for (int s = 0; s < sim_nservers; s++)
	{
		SimProc    *self = sim_self;
		bool		alive;

		if (former_base[s] == 0 || (uint64_t) lease >> 24 != former_base[s] >> 24 ||
			!sim_servers[s].up || sim_cluster_restored_at() != 0)
			continue;
		sim_self = &sim_servers[s].postmaster;
		sim_checking = true;
		alive = sim_self->image->lease_alive();
		sim_checking = false;
		sim_self = self;
		if (!alive || !sim_check_lossless())
			former_since[s] = 0;
		else if (former_since[s] == 0)
			former_since[s] = sim_now();
		else if (sim_now() - former_since[s] > 2 * SIM_SECOND)
			sim_violation("server %d has a lease, and so has its predecessor", s + 1);
	}
}

/* Put by one of the servers, for a name that it has again and again? */
static bool
may_be_kept(const EtcdKeyValue *kv)
{
	return owner_of(kv->lease) != 0 && strstr(kv->key, "-keep") != NULL;
}

/*
 * Below which of the names is the key?  A set, and MARKED; and of which name is it one that
 * is not kept?
 */
static uint32_t
names_above(SimEtcd *etcd, int i)
{
	uint32_t   *mark = sim_etcd_live_mark(etcd, i);
	EtcdKeyValue kv;

	if (*mark != 0)
		return *mark;
	sim_etcd_live(etcd, i, &kv);
	*mark = MARKED;
	for (int name = 0; name < SIM_MAX_NAMES; name++)
	{
		size_t		len = strlen(sim_names[name]);

		if (kv.key_len > len && memcmp(kv.key, sim_names[name], len) == 0 && kv.key[len] == '/')
			*mark |= UINT32_C(1) << name;
	}
	if (name_of_key(kv.key, kv.key_len) >= 0 && !may_be_kept(&kv))
		*mark |= IN_USE_BIT(name_of_key(kv.key, kv.key_len));
	return *mark;
}

/* Who has keys now? */
void
sim_check_keys(void)
{
	bool		now[SIM_MAX_NAMES][SIM_MAX_SERVERS + 1];
	bool		in_use[SIM_MAX_NAMES][SIM_MAX_SERVERS + 1];
	SimEtcd    *etcd = sim_cluster_state();
	int			n = sim_etcd_nlive(etcd);

	memset(now, 0, sizeof(now));
	memset(in_use, 0, sizeof(in_use));
	for (int i = 0; i < n; i++)
	{
		int64_t		lease = sim_etcd_live_lease(etcd, i);
		uint32_t	names = lease == 0 ? 0 : names_above(etcd, i);

		for (; (names & ~MARKED) != 0; names &= names - 1)
		{
			int			bit = __builtin_ctz(names);

			if (bit < SIM_MAX_NAMES)
				now[bit][owner_of(lease)] = true;
			else
				in_use[bit - SIM_MAX_NAMES][owner_of(lease)] = true;
		}
		if (lease != 0)
			check_predecessor(lease);
	}
	for (int name = 0; name < SIM_MAX_NAMES; name++)
	{
		for (int owner = 0; owner <= sim_nservers; owner++)
		{
			if (seen_now[name][owner] || now[name][owner])
				seen_at[name][owner] = sim_now();
			if (!seen_now[name][owner])
				seen_since[name][owner] = sim_now();
			if (in_use_now[name][owner] || in_use[name][owner])
				in_use_at[name][owner] = sim_now();
			in_use_now[name][owner] = in_use[name][owner];
		}

		/* of a server that has gone, nobody's from now on */
		for (int owner = 1; owner <= sim_nservers; owner++)
		{
			if (seen_now[name][owner] && !now[name][owner] && now[name][0] &&
				seen_since[name][owner] < seen_since[name][0])
				seen_since[name][0] = seen_since[name][owner];
		}
		memcpy(seen_now[name], now[name], sizeof(seen_now[name]));
	}
}

/* Has another session of the server been granted it, though its call may not have returned yet? */
static bool
another_is_granted(SimProc *proc, int name)
{
	static SimHold holds[2 * SIM_MAX_PROCS * SIM_MAX_NAMES];
	int			n = holds_of(proc->server, holds, sizeof(holds) / sizeof(holds[0]));

	for (int i = 0; i < n; i++)
	{
		if (holds[i].procno != proc->procno && holds[i].state == SIM_HOLD_HAS &&
			strcmp(holds[i].name, sim_names[name]) == 0)
			return true;
	}
	return false;
}

/* Has anybody used a key since then, or had one that is not just kept? */
static bool
is_used(SimProc *proc, int name, int64_t since)
{
	for (int owner = 0; owner <= sim_nservers; owner++)
	{
		if (owner == proc->server->number)
			continue;
		if (in_use_now[name][owner] || in_use_at[name][owner] >= since ||
			(owner > 0 && sim_last_use(&sim_servers[owner - 1], name) >= since - GAP))
			return true;
	}
	return sim_others_had(proc, name, since) || another_is_granted(proc, name);
}

/*
 * A try has said "false": then somebody else has it, or had it meanwhile, or at least
 * another owner had a key in etcd.  Where nothing fails, that is not one that is only kept,
 * unless the call's own limit was too short for that one to go.
 */
void
sim_check_refused(SimProc *proc, int name, int64_t since, int64_t wait)
{
	int			own = proc->server->number;

	if (sim_plan.faults == 0 && sim_plan.net_delay <= FAST_NETWORK &&
		(wait == 0 || wait > IDLE) && !is_used(proc, name, since))
		sim_violation("%s is refused \"%s\", which is only kept", sim_proc_name(proc),
					  sim_names[name]);

	/* keys become nobody's when their server starts again, without a change in etcd */
	sim_check_keys();
	for (int owner = 0; owner <= sim_nservers; owner++)
	{
		if (owner != own && (seen_now[name][owner] || seen_at[name][owner] >= since))
			return;
	}
	if (sim_others_had(proc, name, since) || another_is_granted(proc, name))
		return;
	sim_violation("%s is refused \"%s\", though nobody has it", sim_proc_name(proc),
				  sim_names[name]);
}

/* Nobody wants anything: etcd is asked for little from now on. */
void
sim_check_idle(void)
{
	idle_requests = sim_net_counts.requests;
	idle_since = sim_now();
}

static void
check_quiet(void)
{
	double		seconds = (double) (sim_now() - idle_since) / SIM_SECOND;
	double		rate = (double) (sim_net_counts.requests - idle_requests) / seconds / sim_nservers;

	/* a keepalive is three requests, five times within a lease's time */
	if (rate > 5 + 20.0 / sim_plan.lease_ttl)
		sim_violation("a server that has nothing to do asks etcd %.1f times a second", rate);
}

/*
 * What is asked of etcd for each statement, for each second that a session waits, and
 * for each second of a server, when there are no faults.
 */
static void
check_requests(void)
{
	double		seconds = (double) sim_run_time() / SIM_SECOND * sim_nservers;
	double		bound = 4.0 * (double) sim_counts.statements +
		10.0 * (double) sim_counts.waited / SIM_SECOND + 10.0 * seconds;

	if (sim_plan.faults == 0 && (double) sim_net_counts.requests > bound)
		sim_violation("%" PRIu64 " requests for %" PRIu64 " statements that waited for %.1f s",
					  sim_net_counts.requests, sim_counts.statements,
					  (double) sim_counts.waited / SIM_SECOND);
	/* busy sessions try again and again, and each try reads the queue */
	if (sim_plan.faults == 0 && !sim_plan.busy && sim_net_counts.reads > ENOUGH_READS &&
		(double) sim_net_counts.repeated > REPEATED * (double) sim_net_counts.reads)
		sim_violation("%" PRIu64 " of %" PRIu64 " reads of queues show what the last one has shown",
					  sim_net_counts.repeated, sim_net_counts.reads);
	/* nor for each server that waits for the same name beside */
	if (sim_plan.fair && sim_net_counts.requests > 2 * sim_counts.grants)
		sim_violation("%" PRIu64 " requests for %" PRIu64 " locks of one name that %d servers wait for",
					  sim_net_counts.requests, sim_counts.grants, sim_nservers);
}

void
sim_check_forget(SimProc *proc)
{
	for (int i = 0; i < nnotes;)
	{
		if (notes[i].proc == proc)
			notes[i] = notes[--nnotes];
		else
			i++;
	}
}

/* Revisions, and so tokens, begin anew. */
void
sim_check_restored(void)
{
	memset(ngrants, 0, sizeof(ngrants));
	nbroken = 0;
	for (int i = 0; i < nticks; i++)
	{
		ticks[i].claimed = 0;
		ticks[i].excused = true;
	}
	restored_at = sim_now();
}

static Tick *
find_tick(int name, int64_t tick)
{
	Tick	   *t = NULL;

	for (int i = 0; i < nticks; i++)
	{
		if (ticks[i].name == name && ticks[i].tick == tick)
			t = &ticks[i];
	}
	if (t == NULL)
	{
		if (nticks == MAX_TICKS)
			nticks = 0;
		t = &ticks[nticks++];
		memset(t, 0, sizeof(*t));
		t->name = name;
		t->tick = tick;
		t->first_asked = sim_now();
	}
	return t;
}

/*
 * The name of ticks alone is locked for nothing else.  So when all who have asked for
 * a tick of it were told "false", somebody must have been about another tick of it, or
 * nobody knows how he has ended.
 */
static void
check_claimed(const Tick *t)
{
	if (t->name == SIM_TICK_NAME && t->refused > 0 && t->claimed == 0 && t->asking == 0 &&
		!t->excused && sim_now() - t->tick > SIM_TICK)
		sim_violation("all %d who asked for tick %" PRId64 " of \"%s\" were refused", t->refused,
					  t->tick, sim_names[t->name]);
}

static void
check_all_claimed(void)
{
	for (int i = 0; i < nticks; i++)
		check_claimed(&ticks[i]);
}

void
sim_check_tick_asked(int name, int64_t tick)
{
	Tick	   *t = find_tick(name, tick);

	t->asking++;
	t->busy++;
	check_all_claimed();
	check_refused_ticks();
}

void
sim_check_tick(int name, int64_t tick, bool claimed, int64_t began)
{
	Tick	   *t = find_tick(name, tick);

	t->asking--;
	if (claimed)
		t->claimed++;
	else
		t->refused++;
	for (int i = 0; i < nticks && !claimed; i++)
	{
		if (ticks[i].name == name && &ticks[i] != t &&
			(ticks[i].busy > 0 || ticks[i].locked_until >= began))
			t->excused = true;
	}
	/* one that is cut off cannot delete the key of its last tick */
	for (int owner = 0; owner <= sim_nservers && !claimed; owner++)
	{
		if (seen_now[name][owner] && seen_since[name][owner] < t->first_asked)
			t->excused = true;
	}
	if (t->claimed > 1)
		sim_violation("tick %" PRId64 " of \"%s\" is claimed twice", tick, sim_names[name]);
}

/* The transaction is over; clean: in no other way than by its end. */
void
sim_check_tick_ended(int name, int64_t tick, bool clean)
{
	Tick	   *t = find_tick(name, tick);

	t->busy--;
	t->locked_until = sim_now() + (clean ? 2 * SIM_SECOND : 3 * GRACE(sim_plan.lease_ttl));
}

static int64_t
later(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* What stands in the queue before a session's key. */
typedef enum Ahead
{
	AHEAD_NOTHING,
	AHEAD_KEPT,					/* keys that no session of their servers needs */
	AHEAD_IN_USE
} Ahead;

/* idle_since: of those that are only kept */
static Ahead
what_is_ahead(int server, const SimHold *hold, int64_t *idle_since)
{
	SimEtcd    *etcd = sim_cluster_state();
	Ahead		ahead = AHEAD_NOTHING;
	EtcdKeyValue kv;
	size_t		len = strlen(hold->name);

	*idle_since = 0;
	for (int i = 0; i < sim_etcd_nlive(etcd); i++)
	{
		int			name;
		int64_t		last_use;

		sim_etcd_live(etcd, i, &kv);
		if (kv.create_revision >= hold->revision || kv.key_len <= len ||
			memcmp(kv.key, hold->name, len) != 0)
			continue;
		name = name_of_key(kv.key, kv.key_len);
		if (name < 0 || strcmp(sim_names[name], hold->name) != 0 ||
			(!hold->exclusive && strncmp(kv.key + len, "/read/", 6) == 0) ||
			owner_of(kv.lease) == server)
			continue;
		if (!may_be_kept(&kv))
			return AHEAD_IN_USE;
		last_use = sim_last_use(&sim_servers[owner_of(kv.lease) - 1], name);
		if (last_use == sim_now())
			return AHEAD_IN_USE;
		*idle_since = later(*idle_since, last_use);
		ahead = AHEAD_KEPT;
	}
	return ahead;
}

/*
 * Since when has nothing been able to hold up anybody?  While only workers end, that is
 * when all have theirs.
 */
static int64_t
calm_since(void)
{
	int64_t		since = 0;

	if (sim_plan.faults == 0)
		return 0;
	if (sim_faults_over_at != 0)
		return sim_faults_over_at + RECOVERY;
	for (int s = 0; s < sim_nservers; s++)
	{
		const SimProc *worker = &sim_servers[s].procs[SIM_WORKER_PROCNO];
		int64_t		started_at = worker->alive ? worker->started_at : sim_now();

		since = later(since, started_at + TAKEOVER);
	}
	return since;
}

static void
check_first(SimProc *proc, const SimHold *hold)
{
	First	   *first = &firsts[proc->server->number - 1][proc->procno];
	int64_t		now = sim_now();
	int64_t		calm = calm_since();
	int64_t		idle_since;
	Ahead		ahead;

	if (first->revision != hold->revision)
		*first = (First) {hold->revision, 0, now};
	ahead = what_is_ahead(proc->server->number, hold, &idle_since);
	if (first->since == 0 && ahead == AHEAD_NOTHING)
		first->since = now;
	if (ahead == AHEAD_NOTHING && now - later(first->since, calm) > SIM_SECOND)
		sim_violation("%s has waited for \"%s\" for %.1f s since its key was the first one",
					  sim_proc_name(proc), hold->name, (double) (now - first->since) / SIM_SECOND);
	idle_since = later(idle_since, first->asked_at);
	if (ahead == AHEAD_KEPT && now - later(idle_since, calm) > IDLE)
		sim_violation("%s has waited for \"%s\" for %.1f s behind what is only kept",
					  sim_proc_name(proc), hold->name, (double) (now - idle_since) / SIM_SECOND);
}

/*
 * Where nothing fails, a session whose key is the first one in its queue has the lock
 * soon, and so has one that is only behind what others keep: nobody waits for the next time
 * that the queue is read.
 */
void
sim_check_served(void)
{
	static SimHold holds[2 * SIM_MAX_PROCS * SIM_MAX_NAMES];

	for (int s = 0; s < sim_nservers; s++)
	{
		int			n;

		if (!sim_servers[s].up)
			continue;
		n = holds_of(&sim_servers[s], holds, sizeof(holds) / sizeof(holds[0]));
		for (int i = 0; i < n; i++)
		{
			if (holds[i].state == SIM_HOLD_WAITS)
				check_first(&sim_servers[s].procs[holds[i].procno], &holds[i]);
		}
	}
}

/*
 * Who can be served is served in time, once there are no faults.  A foreign client waits
 * for names below its own, too, and a cycle through it is found by nobody.
 */
void
sim_check_waits(void)
{
	int64_t		now = sim_now();
	int64_t		limit = sim_plan.crossed || sim_plan.busy ? LONG_WAIT : ORDINARY_WAIT;

	if (sim_plan.crossed && sim_plan.nforeign > 0)
		return;
	for (int s = 0; s < sim_nservers; s++)
	{
		for (int p = 1; p < sim_servers[s].nprocs; p++)
		{
			const SimProc *proc = &sim_servers[s].procs[p];
			int64_t		since = proc->alive ? sim_waits_since(proc) : 0;

			if (since != 0 && now - since > limit && now - sim_faults_over_at > limit)
				sim_violation("%s has been in %s for %d s, without faults",
							  sim_proc_name(proc), sim_waits_for(proc),
							  (int) ((now - since) / SIM_SECOND));
		}
	}
}

/* A call ends by its own limit (0: it has none), unless something that fails delays it. */
void
sim_check_limit(const SimProc *proc, int64_t since, int64_t limit)
{
	bool		calm = sim_plan.faults == 0 ||
		(sim_faults_over_at != 0 && since > sim_faults_over_at + 2 * RECOVERY);

	if (limit != 0 && calm && sim_now() - since > limit + MARGIN)
		sim_violation("%s has been in %s for %.3f s, which should end after %.3f s",
					  sim_proc_name(proc), sim_waits_for(proc),
					  (double) (sim_now() - since) / SIM_SECOND, (double) limit / SIM_SECOND);
}

static void
check_server(SimServer *server)
{
	char		what[400];

	for (int p = 1; p < server->nprocs; p++)
	{
		if (server->procs[p].alive)
			sim_violation("%s does not end: in %s", sim_proc_name(&server->procs[p]),
						  sim_waits_for(&server->procs[p]));
	}
	if (!server->procs[0].alive)
		sim_violation("server %d has no worker", server->number);
	else if (server->procs[0].image->memory() > MEMORY)
		sim_violation("the worker of server %d has %zu bytes in use", server->number,
					  server->procs[0].image->memory());
	sim_checking = true;
	if (server->procs[0].alive)
	{
		const char *left;

		sim_self = &server->procs[0];
		left = sim_self->image->left_over_worker();
		if (left != NULL)
			sim_violation("left over in the worker of server %d: %s", server->number, left);
	}
	sim_self = &server->postmaster;
	if (sim_self->image->left_over(what, sizeof(what)) > 0)
		sim_violation("left over on server %d: %s", server->number, what);
	if (!sim_self->image->lease_alive())
		sim_violation("server %d has no lease", server->number);
	sim_checking = false;
	sim_self = NULL;
}

/* Each server watches its sentinel.  Etcd still has others over connections that were cut off. */
static void
check_watches(void)
{
	int			n = sim_etcd_nwatches(sim_cluster_state());

	if (sim_plan.faults == 0 && n != sim_nservers)
		sim_violation("%d servers have %d watches", sim_nservers, n);
}

void
sim_check_end(void)
{
	EtcdKeyValue kv;

	sim_check_waits();
	check_quiet();
	check_all_claimed();
	check_refused_ticks();
	check_requests();
	for (int s = 0; s < sim_nservers && sim_found == NULL; s++)
		check_server(&sim_servers[s]);
	check_watches();
	for (int i = 0; i < sim_etcd_nlive(sim_cluster_state()) && sim_found == NULL; i++)
	{
		sim_etcd_live(sim_cluster_state(), i, &kv);
		if (strncmp(kv.key, ".etcd_lock/tick", 15) == 0 ||
			strncmp(kv.key, ".etcd_lock/primary/", 19) == 0 ||
			(strncmp(kv.key, SENTINEL, strlen(SENTINEL)) == 0 &&
			 strchr(kv.key + strlen(SENTINEL), '/') == NULL))
			continue;
		sim_violation("left over in etcd: %s of revision %" PRId64, kv.key, kv.create_revision);
	}
}
