/*-------------------------------------------------------------------------
 *
 * deadlock_worker.c
 *	  Detecting deadlocks over several servers.
 *
 * README.md, "Deadlocks over several servers", has the idea.  This file has
 *
 * - seekers: keys of ours that have waited for longer than deadlock_timeout.  Each sends
 *	 a probe to the servers whose keys are first in the queue, again when those change, and
 *	 after twice the time, up to a minute.
 *
 * - trails: probes that have come here, about a key of ours.  A trail is kept: when a
 *	 session that uses the key begins to wait later, the probe is sent on from here, and
 *	 its sender need not ask again.  No probe is sent on twice.
 *
 * - cycles: probes of ours that have come back, on their second round.
 *
 * Anybody who may write below our sentinel can put a message.  It can make us
 * search, and pass on to others what it says, both within limits; but we end a
 * wait only if our own cycle, with the number that we have drawn, comes back
 * as it was sent, and we verify our part of it ourselves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "shared/clock.h"
#include "shared/deadlock_report.h"
#include "shared/lease_id.h"
#include "shared/local_waits.h"
#include "shared/settings.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/context.h"
#include "worker/deadlock_post.h"
#include "worker/deadlock_search.h"
#include "worker/deadlock_worker.h"
#include "worker/key_value.h"
#include "worker/orphans.h"

/* Between two probes of a wait, and at most between two looks at a trail; microseconds. */
#define LONGEST_INTERVAL	INT64CONST(60000000)
#define SHORTEST_INTERVAL	INT64CONST(100000)
#define LONGEST_LOOK		INT64CONST(500000)

/* Longer than between two probes, so that a trail is there until the next one. */
#define KEEP_TRAIL			INT64CONST(130000000)

/* A second round takes milliseconds; microseconds. */
#define KEEP_CYCLE			INT64CONST(3000000)

#define MAX_SEEKERS			10000
#define MAX_TRAILS			1000
#define MAX_CYCLES			100

/*
 * Limits of messages processed within a second, and of processes within one
 * tick.
 */
#define MAX_PER_SECOND		1000
#define PROCESSES_A_TICK	50

/* Pause if there was no room for a message; microseconds. */
#define ROOM_PAUSE			INT64CONST(100000)

/* Looks at trails are gathered to such moments; microseconds. */
#define TRAIL_GRAIN			INT64CONST(50000)

/* Limits for one probe: keys ahead that it is sent to, and times that a trail sends it. */
#define MAX_AHEAD			64
#define MAX_SENT			1000

typedef struct Seeker
{
	dlist_node	link;
	DeadlockKey key;
	int64		next_at;		/* clock_now(): of the next probe, unless keys
								 * go */
	int64		look_at;		/* likewise: whether they have, not before */
	uint64		looked;			/* WorkerContext.ahead_gone then */
	int64		interval;
	int64		probed_at;		/* clock_now() */
	int			nahead;			/* keys ahead then */
} Seeker;

typedef struct Sent
{
	int			pid;
	uint64		wait;			/* of that session, by which it has gone on */
	int64		ahead;			/* create_revision of the key, to whose server */
} Sent;

typedef struct Trail
{
	dlist_node	link;
	DeadlockKey to;				/* our key */
	DeadlockKey origin;			/* the wait that the probe is about, */
	uint64		origin_lease;
	uint64		number;
	unsigned char *message;		/* palloc'd */
	size_t		len;
	int64		expires_at;		/* clock_now() */
	int64		next_at;
	DeadlockSearch *search;		/* NULL: it rests */
	int			nsent;
	int			max_sent;
	Sent	   *sent;			/* palloc'd; NULL: there is room for none */
} Trail;

typedef struct Cycle
{
	dlist_node	link;
	uint64		number;
	DeadlockKey wanted;			/* the victim's */
	DeadlockKey held;			/* its server's, by which the probe came back, */
	uint64		first_number;	/* and the probe's number in the first round */
	LocalWait	wait;
	int64		expires_at;
	unsigned char *message;		/* palloc'd */
	size_t		len;
} Cycle;

struct DeadlockWorker
{
	dlist_head	seekers;
	int			nseekers;
	dlist_head	trails;
	int			ntrails;
	dlist_head	cycles;
	int			ncycles;
	int64		next_time;		/* clock_now() */
	int64		second;			/* likewise: when it began */
	int			nsecond;		/* messages since */
};

#define MyDeadlocks (MyWorker->deadlock_worker)

void
deadlock_worker_create(void)
{
	MyDeadlocks = MemoryContextAllocZero(TopMemoryContext, sizeof(struct DeadlockWorker));
	dlist_init(&MyDeadlocks->seekers);
	dlist_init(&MyDeadlocks->trails);
	dlist_init(&MyDeadlocks->cycles);
	MyDeadlocks->next_time = PG_INT64_MAX;
}

static uint64
draw_number(void)
{
	uint64		number;

	do
	{
		if (!pg_strong_random(&number, sizeof(number)))
			number = (uint64) GetCurrentTimestamp();
	} while (number == 0);
	return number;
}

/* In core each session has its own setting, but this is the server's. */
static int64
deadlock_interval(void)
{
	return Max((int64) DeadlockTimeout * 1000, SHORTEST_INTERVAL);
}

static void
wake_at(int64 when)
{
	MyDeadlocks->next_time = Min(MyDeadlocks->next_time, when);
}

static bool
same_key(const DeadlockKey *a, const DeadlockKey *b)
{
	return a->serial == b->serial && a->create_revision == b->create_revision;
}

static DeadlockProbe *
decode(const void *data, size_t len)
{
	DeadlockProbe *probe = palloc(sizeof(DeadlockProbe));

	return deadlock_probe_decode(data, len, probe) ? probe : NULL;
}

/* Returns a copy that stays, or NULL if out of memory. */
static unsigned char *
encode(const DeadlockProbe *probe, size_t *len)
{
	unsigned char *message = deadlock_probe_encode(probe, len);
	unsigned char *copy;

	if (message == NULL)
		return NULL;
	copy = MemoryContextAlloc(TopMemoryContext, *len);
	memcpy(copy, message, *len);
	free(message);
	return copy;
}

/* ----------------------------------------------------------------
 *		Seekers
 * ----------------------------------------------------------------
 */

static Seeker *
find_seeker(const DeadlockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyDeadlocks->seekers)
	{
		Seeker	   *seeker = dlist_container(Seeker, link, iter.cur);

		if (same_key(&seeker->key, key))
			return seeker;
	}
	return NULL;
}

/* Thousands of names may be waited for, so this goes through no list. */
static void
add_seeker(WorkerKey *key)
{
	Seeker	   *seeker;

	if (key->is_sought || MyDeadlocks->nseekers >= MAX_SEEKERS)
		return;
	key->is_sought = true;
	seeker = MemoryContextAllocZero(TopMemoryContext, sizeof(Seeker));
	seeker->key.serial = key->serial;
	seeker->key.create_revision = key->create_revision;
	seeker->next_at = clock_now();
	seeker->interval = deadlock_interval();
	dlist_push_tail(&MyDeadlocks->seekers, &seeker->link);
	MyDeadlocks->nseekers++;
	wake_at(seeker->next_at);
}

/* Has a session waited for long with this key?  Entry's lock held. */
static bool
is_waited_with(LockEntry *entry, const LockKey *key)
{
	dlist_iter	iter;

	if (key->state != KEY_QUEUED || key->create_revision == 0)
		return false;
	dlist_foreach(iter, &entry->owners)
	{
		const LockHold *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_ASKED && hold->mode == key->mode && hold->wants_probe)
			return true;
	}
	return false;
}

static bool
has_long_wait(dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		if (dlist_container(LockHold, link, iter.cur)->wants_probe)
			return true;
	}
	return false;
}

/*
 * The flag stays set as long as a session waits, for a worker that follows
 * this one.
 */
void
deadlock_worker_take(WorkerName *name)
{
	LockEntry  *entry = name->entry;

	if (!entry->probe_wanted)
		return;
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = name_key(name, i);

		if (key != NULL && is_waited_with(entry, name_shared_key(key)))
			add_seeker(key);
	}
	entry->probe_wanted = has_long_wait(&entry->owners) || has_long_wait(&entry->waiters) ||
		has_long_wait(&entry->drainers);
}

/* The lowest create_revisions of two owners' keys. */
typedef struct First
{
	int64		revision[2];
	uint64		owner[2];
} First;

static void
note_first(First *first, uint64 owner, int64 revision)
{
	if (revision < first->revision[0])
	{
		if (owner != first->owner[0])
		{
			first->revision[1] = first->revision[0];
			first->owner[1] = first->owner[0];
		}
		first->revision[0] = revision;
		first->owner[0] = owner;
	}
	else if (owner != first->owner[0] && revision < first->revision[1])
	{
		first->revision[1] = revision;
		first->owner[1] = owner;
	}
}

static bool
is_behind(const First *first, uint64 owner, int64 revision)
{
	return first->revision[first->owner[0] == owner] < revision;
}

/*
 * Of the servers' keys ahead of ours: the first ones of all, and of those that are exclusive.
 * A key that is behind a conflicting one of another server waits for it in this same queue,
 * and for nothing that our key, or the first exclusive one, does not wait for, too.  So no
 * probe has to go there, and of N servers that wait for a name each sends one probe, not N.
 * A foreign client's key makes no other one superfluous, because it passes no probe on.
 */
static void
find_first(const WorkerKey *key, First *all, First *exclusive)
{
	QueueKeyParts parts;

	*all = *exclusive = (First)
	{
		.revision =
		{
			PG_INT64_MAX, PG_INT64_MAX
		}
	};
	for (int i = 0; i < key->nahead; i++)
	{
		const AheadKey *ahead = &key->ahead[i];

		if (!key_layout_split(ahead->key, ahead->key_len, &parts) || !parts.is_server ||
			parts.lease == 0)
			continue;
		note_first(all, parts.lease, ahead->create_revision);
		if (parts.kind != QUEUE_KEY_READ)
			note_first(exclusive, parts.lease, ahead->create_revision);
	}
}

static bool
was_sent(const Trail *trail, int pid, uint64 wait, int64 ahead)
{
	for (int i = 0; i < trail->nsent; i++)
	{
		if (trail->sent[i].pid == pid && trail->sent[i].wait == wait &&
			trail->sent[i].ahead == ahead)
			return true;
	}
	return false;
}

static void
note_sent(Trail *trail, int pid, uint64 wait, int64 ahead)
{
	Sent	   *sent;

	if (trail->nsent == trail->max_sent)
	{
		int			n = Max(2 * trail->max_sent, 4);

		trail->sent = trail->sent == NULL ?
			MemoryContextAlloc(TopMemoryContext, n * sizeof(Sent)) :
			repalloc(trail->sent, n * sizeof(Sent));
		trail->max_sent = n;
	}
	sent = &trail->sent[trail->nsent++];
	sent->pid = pid;
	sent->wait = wait;
	sent->ahead = ahead;
}

/*
 * A read key waits for exclusive ones only, and they also for read keys that are not ahead
 * of it: there the probe gets through the first exclusive key alone.  That key's server may
 * pass none on, because it is of version 1.0, or may not be written to.  So one more of the
 * exclusive keys gets the probe, drawn by its number.  Returns its create_revision, or 0.
 */
static int64
draw_relay(const WorkerKey *key, const First *all, uint64 number)
{
	int64	   *behind = palloc(Max(key->nahead, 1) * sizeof(int64));
	int64		drawn;
	int			n = 0;
	QueueKeyParts parts;

	for (int i = 0; i < key->nahead && key->mode == LOCK_SHARED; i++)
	{
		const AheadKey *ahead = &key->ahead[i];

		if (key_layout_split(ahead->key, ahead->key_len, &parts) && parts.is_server &&
			parts.lease != 0 && is_behind(all, parts.lease, ahead->create_revision))
			behind[n++] = ahead->create_revision;
	}
	drawn = n == 0 ? 0 : behind[number % (uint64) n];
	pfree(behind);
	return drawn;
}

/*
 * Send the probe to the owners of those keys ahead of ours that wait for none of the
 * others, and to which the trail, if it is one's, has not sent it yet.  Foreign clients'
 * keys end the path.  False: there was no room for a message.
 */
static bool
send_ahead(DeadlockProbe *probe, const WorkerKey *key, Trail *trail, int pid, uint64 wait,
		   bool only_readers)
{
	First		all;
	First		exclusive;
	QueueKeyParts parts;
	int64		relay;
	int			n = 0;

	find_first(key, &all, &exclusive);
	relay = draw_relay(key, &all, probe->number);
	for (int i = 0; i < key->nahead && n < MAX_AHEAD; i++)
	{
		const AheadKey *ahead = &key->ahead[i];

		if (!key_layout_split(ahead->key, ahead->key_len, &parts) || !parts.is_server ||
			parts.lease == 0 || (only_readers && parts.kind != QUEUE_KEY_READ) ||
			(ahead->create_revision != relay &&
			 is_behind(parts.kind == QUEUE_KEY_READ ? &exclusive : &all, parts.lease,
					   ahead->create_revision)))
			continue;
		n++;
		if (trail != NULL && (trail->nsent == MAX_SENT ||
							  was_sent(trail, pid, wait, ahead->create_revision)))
			continue;
		probe->to.serial = parts.serial;
		probe->to.create_revision = ahead->create_revision;
		if (!deadlock_post_to_owner(probe, parts.lease, ahead))
			return false;
		if (trail != NULL)
			note_sent(trail, pid, wait, ahead->create_revision);
	}
	return true;
}

/*
 * Add this server as the next one on the path; returns NULL if there is no
 * room.
 */
static DeadlockHop *
add_own_hop(DeadlockProbe *probe, const DeadlockKey *wanted, bool exclusive)
{
	DeadlockHop *hop = deadlock_probe_add_hop(probe);

	if (hop == NULL)
		return NULL;
	hop->lease = (uint64) lease_id();
	strlcpy(hop->ns, lock_shared->sentinel_ns, sizeof(hop->ns));
	hop->wanted = *wanted;
	hop->exclusive = exclusive;
	return hop;
}

typedef enum SeekResult
{
	SEEK_UNCHANGED,				/* since the last probe */
	SEEK_NOT_YET,				/* keys have gone, but the last probe was just
								 * sent */
	SEEK_SENT,
	SEEK_NO_ROOM,
	SEEK_OVER					/* no session waits with the key any more */
} SeekResult;

/* When keys ahead have gone, the next ones may be waited for in a circle, too. */
static bool
is_due(const Seeker *seeker, const WorkerKey *key, int64 now)
{
	return seeker->next_at <= now ||
		(key->nahead < seeker->nahead && seeker->probed_at + deadlock_interval() <= now);
}

static SeekResult
seek(Seeker *seeker, int64 now)
{
	LockKey		shared;
	WorkerKey  *key = deadlock_search_key(&seeker->key, &shared);
	DeadlockProbe *probe;
	LWLock	   *lock;
	bool		waits;
	bool		sent;

	if (key == NULL)
		return SEEK_OVER;
	lock = name_lock(key->name);
	waits = is_waited_with(key->name->entry, name_shared_key(key));
	lock_table_unlock(lock);
	if (!waits)
		return SEEK_OVER;
	if (!is_due(seeker, key, now))
		return key->nahead < seeker->nahead ? SEEK_NOT_YET : SEEK_UNCHANGED;
	probe = palloc0(sizeof(DeadlockProbe));
	probe->round = 1;
	probe->number = draw_number();
	(void) add_own_hop(probe, &seeker->key, key->mode == LOCK_EXCLUSIVE);
	sent = send_ahead(probe, key, NULL, 0, 0, false);
	pfree(probe);
	if (!sent)
		return SEEK_NO_ROOM;
	seeker->probed_at = now;
	seeker->nahead = key->nahead;
	return SEEK_SENT;
}

/* The key, if it is still there, may be waited with again. */
static void
drop_seeker(Seeker *seeker)
{
	WorkerKey  *key = name_key_of_serial(seeker->key.serial);

	if (key != NULL && key->create_revision == seeker->key.create_revision)
		key->is_sought = false;
	dlist_delete(&seeker->link);
	MyDeadlocks->nseekers--;
	pfree(seeker);
}

static void
seekers_tick(int64 now)
{
	bool		has_room = true;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &MyDeadlocks->seekers)
	{
		Seeker	   *seeker = dlist_container(Seeker, link, iter.cur);

		if (has_room && (seeker->next_at <= now ||
						 (seeker->looked != MyWorker->ahead_gone && seeker->look_at <= now)))
		{
			SeekResult	result = seek(seeker, now);

			if (result == SEEK_OVER)
			{
				drop_seeker(seeker);
				continue;
			}
			has_room = result != SEEK_NO_ROOM;
			if (result == SEEK_SENT)
			{
				seeker->next_at = now + seeker->interval;
				seeker->interval = Min(seeker->interval * 2, LONGEST_INTERVAL);
			}
			if (result == SEEK_SENT || result == SEEK_UNCHANGED)
				seeker->looked = MyWorker->ahead_gone;
			seeker->look_at = now + LONGEST_LOOK;
		}
		wake_at(seeker->next_at <= now ? now + ROOM_PAUSE :
				Min(seeker->next_at, now + LONGEST_LOOK));
	}
}

/* ----------------------------------------------------------------
 *		Cycles
 * ----------------------------------------------------------------
 */

static void
drop_cycle(Cycle *cycle)
{
	dlist_delete(&cycle->link);
	MyDeadlocks->ncycles--;
	pfree(cycle->message);
	pfree(cycle);
}

static void
drop_trail(Trail *trail)
{
	dlist_delete(&trail->link);
	MyDeadlocks->ntrails--;
	if (trail->search != NULL)
		pfree(trail->search);
	if (trail->sent != NULL)
		pfree(trail->sent);
	pfree(trail->message);
	pfree(trail);
}

/*
 * The probe that has led to this cycle would do so again and again, and no other one of
 * this wait would begin meanwhile.
 */
static void
drop_trail_of(const Cycle *cycle)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &MyDeadlocks->trails)
	{
		Trail	   *trail = dlist_container(Trail, link, iter.cur);

		if (trail->number == cycle->first_number && same_key(&trail->to, &cycle->held))
			drop_trail(trail);
	}
}

/*
 * A cycle that does not come back has met a wait that has changed: search
 * again.
 */
static void
give_up_cycle(Cycle *cycle, int64 now)
{
	Seeker	   *seeker = find_seeker(&cycle->wanted);

	drop_trail_of(cycle);
	if (seeker != NULL)
	{
		seeker->next_at = now;
		seeker->interval = deadlock_interval();
	}
	drop_cycle(cycle);
}

static void
cycles_tick(int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &MyDeadlocks->cycles)
	{
		Cycle	   *cycle = dlist_container(Cycle, link, iter.cur);

		if (cycle->expires_at <= now)
			give_up_cycle(cycle, now);
		else
			wake_at(cycle->expires_at);
	}
}

static Cycle *
find_cycle(uint64 number, const DeadlockKey *wanted)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyDeadlocks->cycles)
	{
		Cycle	   *cycle = dlist_container(Cycle, link, iter.cur);

		if (number != 0 ? cycle->number == number : same_key(&cycle->wanted, wanted))
			return cycle;
	}
	return NULL;
}

/* Add what this server knows about its part of the path. */
static void
tell(DeadlockProbe *probe, int hop)
{
	DeadlockProcess *processes = &probe->processes[deadlock_probe_first_process(probe, hop)];

	key_value_server(probe->hops[hop].server, sizeof(probe->hops[hop].server));
	deadlock_search_tell(processes, probe->hops[hop].nprocesses,
						 probe->tells_names ? probe->names_ns : NULL);
}

/* Names of locks are shown only to a session that may see them. */
static void
set_names_ns(DeadlockProbe *probe, const LocalWait *wait)
{
	probe->tells_names = wait->namespace_len < sizeof(probe->names_ns);
	if (probe->tells_names)
		strlcpy(probe->names_ns, wait->name, wait->namespace_len + 1);
}

/*
 * All the waits that the probe has met in the first round have been the same since before
 * the second began: so all were there at that moment, and it is a deadlock.
 */
static void
end_wait(const Cycle *cycle, const DeadlockProbe *probe)
{
	LockFailure failure = {.kind = FAILURE_CYCLE,.sqlerrcode = ERRCODE_T_R_DEADLOCK_DETECTED};
	int			pid = probe->processes[probe->hops[0].nprocesses - 1].pid;
	size_t		len;
	unsigned char *message = deadlock_probe_encode(probe, &len);

	if (message == NULL)
		return;
	deadlock_report_put(pid, cycle->wait.number, message, len);
	free(message);
	(void) local_wait_fail(pid, &cycle->wait, &failure);
}

/* A probe has come back to the wait that it is about: is each wait on it still the same? */
static void
begin_cycle(const Trail *trail, DeadlockProbe *probe, const DeadlockFound *found,
			DeadlockProcess *processes)
{
	int			n = deadlock_search_path(trail->search, found, processes);
	Cycle	   *cycle;
	LocalWait	wait;
	unsigned char *message;
	size_t		len;

	if (n == 0 || probe->nhops < 2 || MyDeadlocks->ncycles >= MAX_CYCLES ||
		find_cycle(0, &found->wanted) != NULL ||
		!local_wait_get(processes[n - 1].pid, &wait) ||
		!deadlock_probe_close(probe, &trail->to, processes, n))
		return;
	probe->round = 2;
	probe->number = draw_number();
	memset(&probe->to, 0, sizeof(probe->to));
	probe->at = 1;
	set_names_ns(probe, &wait);
	if (!deadlock_search_confirm(&probe->hops[0], probe->processes))
		return;
	tell(probe, 0);
	message = encode(probe, &len);
	if (message == NULL)
		return;
	cycle = MemoryContextAllocZero(TopMemoryContext, sizeof(Cycle));
	cycle->number = probe->number;
	cycle->wanted = found->wanted;
	cycle->held = trail->to;
	cycle->first_number = trail->number;
	cycle->wait = wait;
	cycle->expires_at = clock_now() + KEEP_CYCLE;
	cycle->message = message;
	cycle->len = len;
	dlist_push_tail(&MyDeadlocks->cycles, &cycle->link);
	MyDeadlocks->ncycles++;
	wake_at(cycle->expires_at);
	(void) deadlock_post_to_server(probe, probe->hops[1].lease, probe->hops[1].ns);
}

static bool
confirm(const DeadlockProbe *probe, int hop)
{
	const DeadlockHop *next = &probe->hops[(hop + 1) % probe->nhops];

	return deadlock_search_confirm(&probe->hops[hop],
								   &probe->processes[deadlock_probe_first_process(probe, hop)]) &&
		deadlock_search_is_behind(&probe->hops[hop].wanted, next->lease, &next->held);
}

static void
cycle_came(DeadlockProbe *probe)
{
	Cycle	   *cycle = find_cycle(probe->number, NULL);
	DeadlockProbe *sent;

	/*
	 * A worker that has stood still reads what came meanwhile before it
	 * forgets cycles.
	 */
	if (cycle == NULL || clock_now() >= cycle->expires_at)
		return;
	sent = decode(cycle->message, cycle->len);
	if (sent != NULL && deadlock_probe_same_path(sent, probe) && confirm(probe, 0))
	{
		end_wait(cycle, probe);
		drop_cycle(cycle);
	}
}

static void
second_round_came(DeadlockProbe *probe)
{
	const DeadlockHop *next;

	if (probe->hops[probe->at].lease != (uint64) lease_id())
		return;
	if (probe->at == 0)
	{
		cycle_came(probe);
		return;
	}
	if (!confirm(probe, probe->at))
		return;
	tell(probe, probe->at);
	probe->at = (probe->at + 1) % probe->nhops;
	next = &probe->hops[probe->at];
	(void) deadlock_post_to_server(probe, next->lease, next->ns);
}

/* ----------------------------------------------------------------
 *		Trails
 * ----------------------------------------------------------------
 */

static Trail *
find_trail(const DeadlockProbe *probe)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyDeadlocks->trails)
	{
		Trail	   *trail = dlist_container(Trail, link, iter.cur);

		if (same_key(&trail->to, &probe->to) &&
			trail->origin_lease == probe->hops[0].lease &&
			same_key(&trail->origin, &probe->hops[0].wanted))
			return trail;
	}
	return NULL;
}

static Trail *
add_trail(const DeadlockProbe *probe)
{
	Trail	   *trail;

	/* The oldest one has waited longest without anything new. */
	if (MyDeadlocks->ntrails >= MAX_TRAILS)
		drop_trail(dlist_head_element(Trail, link, &MyDeadlocks->trails));
	trail = MemoryContextAllocZero(TopMemoryContext, sizeof(Trail));
	trail->to = probe->to;
	trail->origin = probe->hops[0].wanted;
	trail->origin_lease = probe->hops[0].lease;
	dlist_push_tail(&MyDeadlocks->trails, &trail->link);
	MyDeadlocks->ntrails++;
	return trail;
}

/* A probe may arrive on several ways: the first one counts. */
static void
first_round_came(const DeadlockProbe *probe, const void *data, size_t len)
{
	Trail	   *trail = find_trail(probe);
	LockKey		shared;

	if ((trail != NULL && trail->number == probe->number) ||
		deadlock_search_key(&probe->to, &shared) == NULL)
		return;
	if (trail == NULL)
		trail = add_trail(probe);
	else
	{
		pfree(trail->message);
		if (trail->search != NULL)
			pfree(trail->search);
		trail->search = NULL;
		dlist_delete(&trail->link);
		dlist_push_tail(&MyDeadlocks->trails, &trail->link);
	}
	trail->number = probe->number;
	trail->message = MemoryContextAlloc(TopMemoryContext, len);
	memcpy(trail->message, data, len);
	trail->len = len;
	trail->nsent = 0;
	trail->next_at = clock_now();
	trail->expires_at = trail->next_at + KEEP_TRAIL;
	wake_at(trail->next_at);
}

/* The probe goes on from a session that waits in etcd's queue with this key. */
static void
send_on(Trail *trail, const DeadlockFound *found, DeadlockProbe *probe, const WorkerKey *key,
		DeadlockProcess *processes)
{
	bool		same_queue = trail->search->waits_itself;
	bool		behind_exclusive = probe->hops[probe->nhops - 1].exclusive;
	DeadlockHop *hop = add_own_hop(probe, &found->wanted, found->exclusive);
	int			n;

	/*
	 * If the key that the probe is about waits in its queue, too, a session
	 * behind it waits for most of those ahead, and has asked their servers.
	 */
	if (hop == NULL || (same_queue && behind_exclusive))
		return;
	hop->held = trail->to;
	n = deadlock_search_path(trail->search, found, processes);
	for (int i = 0; i < n; i++)
	{
		DeadlockProcess *process = deadlock_probe_add_process(probe);

		if (process == NULL)
			return;
		*process = processes[i];
	}
	if (n > 0)
		(void) send_ahead(probe, key, trail, processes[n - 1].pid, processes[n - 1].wait,
						  same_queue);
}

/* A session that waits in etcd's queue was found. */
static void
follow(Trail *trail, const DeadlockFound *found)
{
	DeadlockProbe *probe = decode(trail->message, trail->len);
	DeadlockProcess *processes;
	LockKey		shared;
	const WorkerKey *key = deadlock_search_key(&found->wanted, &shared);

	if (probe == NULL || key == NULL)
		return;
	processes = palloc(DEADLOCK_PROBE_MAX_PROCESSES * sizeof(DeadlockProcess));
	switch (deadlock_probe_decide(probe, (uint64) lease_id(), &found->wanted))
	{
		case DEADLOCK_CLOSED:
			begin_cycle(trail, probe, found, processes);
			break;
		case DEADLOCK_DROPPED:
			break;
		case DEADLOCK_GOES_ON:
			send_on(trail, found, probe, key, processes);
			break;
	}
	/* a thousand may be found at once */
	pfree(processes);
	pfree(probe);
}

/*
 * Follow a trail as far as the budget allows.  Returns false if its key is
 * gone.
 */
static bool
follow_trail(Trail *trail, int64 now, int *budget)
{
	if (trail->search == NULL)
	{
		DeadlockSearch *search = MemoryContextAlloc(TopMemoryContext, sizeof(DeadlockSearch));

		if (!deadlock_search_begin(search, &trail->to))
		{
			pfree(search);
			return false;
		}
		trail->search = search;
	}
	if (!deadlock_search_step(trail->search, budget))
		return true;
	for (int i = 0; i < trail->search->nfound; i++)
		follow(trail, &trail->search->found[i]);
	pfree(trail->search);
	trail->search = NULL;
	trail->next_at = now + Min(deadlock_interval() / 4, LONGEST_LOOK);
	trail->next_at += TRAIL_GRAIN - trail->next_at % TRAIL_GRAIN;
	return true;
}

static void
trails_tick(int64 now)
{
	int			budget = PROCESSES_A_TICK;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &MyDeadlocks->trails)
	{
		Trail	   *trail = dlist_container(Trail, link, iter.cur);

		if (trail->expires_at <= now ||
			(trail->next_at <= now && budget > 0 && !follow_trail(trail, now, &budget)))
		{
			drop_trail(trail);
			continue;
		}
		wake_at(Min(trail->next_at, trail->expires_at));
	}
}

/* ----------------------------------------------------------------
 *		Messages and time
 * ----------------------------------------------------------------
 */

/*
 * Messages beyond the limit are dropped, because sessions that wait ask again.
 */
static bool
is_too_much(void)
{
	int64		now = clock_now();

	if (now - MyDeadlocks->second >= INT64CONST(1000000))
	{
		MyDeadlocks->second = now;
		MyDeadlocks->nsecond = 0;
	}
	return ++MyDeadlocks->nsecond > MAX_PER_SECOND;
}

void
deadlock_worker_message(const EtcdKeyValue *message)
{
	DeadlockProbe *probe;
	uint64		sender;
	uint64		id;

	if (!key_layout_is_deadlock(message->key, message->key_len, lock_shared->sentinel_key,
								&sender, &id))
		return;
	orphan_add(message->key, message->key_len, message->create_revision);
	if (MyWorker->stopping || is_too_much())
		return;
	probe = decode(message->value, message->value_len);
	if (probe == NULL)
		return;
	if (probe->round == 1)
		first_round_came(probe, message->value, message->value_len);
	else
		second_round_came(probe);
	pfree(probe);
}

void
deadlock_worker_tick(void)
{
	int64		now = clock_now();

	if (now >= MyDeadlocks->next_time)
	{
		MyDeadlocks->next_time = PG_INT64_MAX;
		cycles_tick(now);
		seekers_tick(now);
		trails_tick(now);
	}
	deadlock_post_tick(now);
}

int64
deadlock_worker_next_time(void)
{
	return Min(MyDeadlocks->next_time, deadlock_post_next_time());
}
