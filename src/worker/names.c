/*-------------------------------------------------------------------------
 *
 * names.c
 *	  What the worker does about each name: make etcd agree with the table.
 *
 * The shared table says what sessions want.  For each name that has keys, the
 * worker has a WorkerName (name.c), with what it knows about these keys on
 * their way to etcd and back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "shared/counters.h"
#include "shared/lock_keep.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/deadlock_worker.h"
#include "worker/held_keys.h"
#include "worker/key_step.h"
#include "worker/name_queue.h"
#include "worker/names.h"
#include "worker/orphans.h"
#include "worker/recent_names.h"
#include "worker/serials.h"
#include "worker/txn_queue.h"
#include "worker/wait_log_worker.h"

/*
 * While a session waits: how often to read the queue if there is no watch, and
 * how often even if there is one, because watches can stall.  Microseconds.
 */
#define POLL_INTERVAL		INT64CONST(200000)
#define DISTRUST_INTERVAL	INT64CONST(3000000)

/*
 * How long a deletion that nobody waits for may wait for other operations,
 * which saves a request; microseconds.
 */
#define LINGER				INT64CONST(1000)

struct NamesTimes
{
	int64		next_poll;		/* clock_now(); of names that wait */
	int64		next_missing;	/* of names that need a watch and have none */
	uint64		link_generation;	/* for which watches were checked */
};

#define MyTimes (MyWorker->names_times)

void
names_create(void)
{
	MyTimes = MemoryContextAllocZero(TopMemoryContext, sizeof(struct NamesTimes));
}

/* ----------------------------------------------------------------
 *		What sessions want
 * ----------------------------------------------------------------
 */

/* A session asks for the key: from here on, only the worker frees it. */
static void
take_wanted(WorkerName *name, int slot)
{
	const LockKey *shared = &name->entry->keys[slot];
	int64		now = clock_now();

	/* The tick has to be read first. */
	if (!shared->is_try)
		key_step_take(name, slot, KEY_ON_TAKE_PUT);
	else if (shared->has_tick || recent_name_is_contended(name->entry, now))
		key_step_take(name, slot, KEY_ON_TAKE_READ);
	else
		key_step_take(name, slot, KEY_ON_TAKE_TRY);

	/* so that all is known of others when it is granted */
	if (shared->keep > 0)
		held_keys_watch(name_key(name, slot));
}

/* Has a request been sent that may still put it, and nobody waits for any more? */
static bool
may_still_be_put(const LockKey *shared)
{
	return shared->create_revision == 0 &&
		(shared->state == KEY_PUT_SENT || shared->state == KEY_TRY_SENT ||
		 (key_machine_is_deleting(shared->state) && shared->state != KEY_DROPPED));
}

/*
 * A key of a worker that died.  It may be in etcd, or yet come there, and only
 * the table knows about it.  Nobody has watched meanwhile (rule 37).
 */
static void
adopt(WorkerName *name, int slot)
{
	bool		may_come = may_still_be_put(&name->entry->keys[slot]);
	WorkerKey  *key = key_step_adopt(name, slot);
	LockKey    *shared = name_shared_key(key);

	if (may_come)
		orphan_expect(key->etcd_key, key->etcd_key_len);
	if (shared->state == KEY_QUEUED)
		key->queued_at = clock_now();
	if (shared->state == KEY_HELD)
	{
		key->held_since = clock_now();
		held_keys_add(key);
		name_audit_key(key);
		lock_keep_set_company(name->entry, shared, KEY_COMPANY_UNKNOWN);
		if (key->keep > 0)
			held_keys_watch(key);
	}
}

/* A session has marked it deleting, and etcd has it. */
static void
take_deleting(WorkerKey *key)
{
	const LockKey *shared = name_shared_key(key);

	if (key->queued)
		return;
	txn_queue_key(key);
	if (shared->release_waiter < 0 && !recent_name_is_contended(key->name->entry, clock_now()))
		key->linger_until = clock_now() + LINGER;
}

/* It is in etcd, queued or held. */
static void
take_live(WorkerKey *key)
{
	const LockKey *shared = name_shared_key(key);
	WorkerName *name = key->name;

	if (lock_key_wants_look(shared))
		txn_queue_range(name);
	if (shared->state == KEY_HELD && shared->look_at != 0)
		name_look_by(name, shared->look_at);
	held_keys_look(key);
}

/*
 * Take up a key.  If its state is beyond WANTED and we do not know it, a
 * worker that died has left it.
 */
static void
take_key(WorkerName *name, int slot)
{
	const LockKey *shared = &name->entry->keys[slot];
	WorkerKey  *key;

	if (name_key(name, slot) == NULL && shared->state == KEY_WANTED)
		take_wanted(name, slot);
	else if (name_key(name, slot) == NULL && shared->state != KEY_FREE)
		adopt(name, slot);

	key = name->keys[slot];
	switch (shared->state)
	{
		case KEY_DROPPED:
			key_step_locked(key, KEY_ON_DROP, NULL);
			break;

		case KEY_DELETE_READY:
			take_deleting(key);
			break;

		case KEY_QUEUED:
		case KEY_HELD:
			take_live(key);
			break;

		default:
			break;
	}
}

/* Process what sessions have changed. */
void
names_take_work(void)
{
	LockEntry  *entry;

	while ((entry = lock_table_next_work()) != NULL)
	{
		WorkerName *name = entry->worker_name;
		LWLock	   *lock = lock_table_partition(entry);
		HolderQuestion question = {0};
		bool		has_keys = false;

		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
			has_keys |= entry->keys[i].state != KEY_FREE;
		if (has_keys && name == NULL)
			name = name_make(entry);
		for (int i = 0; name != NULL && i < LOCK_KEYS_PER_NAME; i++)
			take_key(name, i);
		if (name == NULL)
			(void) lock_table_remove_if_idle(entry);
		else
		{
			wait_log_worker_take(name, &question);
			deadlock_worker_take(name);
		}
		lock_table_unlock(lock);

		if (name != NULL)
			name_settle(name);
		wait_log_worker_ask(&question);
	}
}

/* ----------------------------------------------------------------
 *		The end of the lease
 * ----------------------------------------------------------------
 */

/* The lease and its epoch are over, and all locks held by it are lost. */
void
names_end_epoch(const char *reason)
{
	dlist_mutable_iter iter;
	int			lost = 0;

	dlist_foreach_modify(iter, name_list_all())
	{
		WorkerName *name = dlist_container(WorkerName, link, iter.cur);
		LWLock	   *lock;

		lock = name_lock(name);
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		{
			WorkerKey  *key = name_key(name, i);

			if (key == NULL)
				continue;
			name_forget_note(key);	/* it goes with the lease */
			lost += lock_key_count_holders(name->entry, name_shared_key(key));
			key_step_locked(key, KEY_ON_END_EPOCH, NULL);
		}
		lock_table_unlock(lock);

		name->event_revision = 0;	/* the next etcd may have any revision */
		name->put_revision = 0;
		name_settle(name);
	}
	if (reason == NULL)
		return;
	lost = counters_lease_lost(lost);
	ereport(lost > 0 ? WARNING : LOG,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 errmsg("etcd_lock: lease lost: %s", reason),
			 errdetail_plural("%d lock was lost with it.",
							  "%d locks were lost with it.", lost, lost)));
}

/* ----------------------------------------------------------------
 *		Time
 * ----------------------------------------------------------------
 */

/*
 * Keys that were kept for sessions that have not come for them go back.  A try that has
 * waited for a key that may only be kept learns that it is used.
 */
static void
look_at_keys(WorkerName *name, int64 now)
{
	LWLock	   *lock = name_lock(name);
	int64		next = PG_INT64_MAX;

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		LockKey    *shared = &name->entry->keys[i];
		WorkerKey  *key = name_key(name, i);

		if (shared->state == KEY_HELD && shared->look_at != 0)
		{
			if (shared->look_at <= now)
				lock_keep_look(name->entry, shared, now);
			if (shared->look_at != 0)
				next = Min(next, shared->look_at);
		}
		else if (shared->state == KEY_QUEUED && key != NULL &&
				 key->tries_wait_until != 0)
		{
			if (key->tries_wait_until <= now)
				name_queue_end_tries_wait(key);
			else
				next = Min(next, key->tries_wait_until);
		}
	}
	lock_table_unlock(lock);
	name_set_look_at(name, next == PG_INT64_MAX ? 0 : next);
}

static void
look_at_names(int64 now)
{
	WorkerName *name;

	while ((name = name_first_look()) != NULL && name->look_at <= now)
	{
		look_at_keys(name, now);
		name_queue_check_watch(name, now);
		if (name_is_kept(name) && now - name->ranged_at >= LOCK_KEEP_LOOK_INTERVAL)
			txn_queue_range(name);
	}
}

static int64
next_look(void)
{
	const WorkerName *name = name_first_look();

	return name == NULL ? PG_INT64_MAX : name->look_at;
}

/*
 * Read the queues of names that wait, because watches may be missing or
 * stalled.
 */
static void
poll_waiting(int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, name_list_waiting())
	{
		WorkerName *name = dlist_container(WorkerName, waiting_link, iter.cur);

		name_queue_check_watch(name, now);
		if (!watch_is_open(name->watch) || now - name->ranged_at >= DISTRUST_INTERVAL)
			txn_queue_range(name);
	}
}

/* Watches of an abandoned endpoint show nothing. */
static void
look_at_link(void)
{
	dlist_iter	iter;

	if (MyTimes->link_generation == link_generation())
		return;
	MyTimes->link_generation = link_generation();
	dlist_foreach(iter, name_list_all())
	{
		WorkerName *name = dlist_container(WorkerName, link, iter.cur);

		if (name->watch != NULL)
			name_watch_changed(name);
	}
}

/* Open the watches that are needed, and close the others. */
static void
reconcile_watches(int64 now)
{
	dlist_head *changed = name_list_watch_changed();
	dlist_head *missing = name_list_watch_missing();

	look_at_link();
	if (now >= MyTimes->next_missing && link_ready())
	{
		while (!dlist_is_empty(missing))
			name_watch_changed(dlist_head_element(WorkerName, watch_link, missing));
		MyTimes->next_missing = now + POLL_INTERVAL;
	}
	while (!dlist_is_empty(changed))
	{
		WorkerName *name = dlist_head_element(WorkerName, watch_link, changed);

		name_watch_reconciled(name, !name_queue_reconcile_watch(name));
	}
}

void
names_tick(void)
{
	int64		now = clock_now();

	look_at_names(now);
	reconcile_watches(now);
	if (dlist_is_empty(name_list_waiting()))
		MyTimes->next_poll = 0;
	else if (MyTimes->next_poll == 0)
		MyTimes->next_poll = now + POLL_INTERVAL;
	else if (now >= MyTimes->next_poll)
	{
		MyTimes->next_poll = now + POLL_INTERVAL;
		poll_waiting(now);
	}
}

int64
names_next_time(void)
{
	int64		next = next_look();

	if (!dlist_is_empty(name_list_watch_changed()))
		return 0;
	if (!dlist_is_empty(name_list_watch_missing()) && link_ready())
		next = Min(next, MyTimes->next_missing);
	if (MyTimes->next_poll != 0)
		next = Min(next, MyTimes->next_poll);
	return next;
}
