/*-------------------------------------------------------------------------
 *
 * lock_keys.c
 *	  The life of a key in the shared table: wanted, sent, queued, held, deleted.
 *
 * etcd/key_machine.c has the states and the transitions between them.  Only
 * this file writes a key's state, and does in the same step what the
 * transition means for the sessions of this server; it returns to the caller
 * what it means for the worker.  All callers hold the entry's lock
 * exclusively.  Sessions want keys and mark them deleting; the worker does the
 * rest (lock_table.h).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/counters.h"
#include "shared/hot_names.h"
#include "shared/lock_keys.h"
#include "shared/lock_trace.h"
#include "shared/loss_signal.h"

/*
 * How long we believe that another owner waits for this key, in microseconds.
 * That owner may give up.
 */
#define FOREIGN_WAITER_VALID	INT64CONST(1000000)

int
lock_key_slot(const LockEntry *entry, uint64 key_id)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (pg_atomic_read_u64(unconstify(pg_atomic_uint64 *,
										  &entry->keys[i].key_id)) == key_id)
			return i;
	}
	return -1;
}

LockKey *
lock_key_live(LockEntry *entry, LockMode mode)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		LockKey    *key = &entry->keys[i];

		if (key_machine_is_live(key->state) && key->mode == mode)
			return key;
	}
	return NULL;
}

uint64
lock_key_id(const LockKey *key)
{
	return pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &key->key_id));
}

bool
lock_key_held_valid(const LockKey *key)
{
	return key->state == KEY_HELD &&
		deadline_valid(&lock_shared->deadline, key->epoch);
}

/*
 * Does a session need this key?  Only sessions that have PostgreSQL's lock
 * count: they hold the lock by the key, or ask etcd for it.  If those that
 * wait in PostgreSQL counted, servers could wait for each other forever (rule
 * 5).
 */
bool
lock_key_needed(const LockEntry *entry, const LockKey *key)
{
	/*
	 * What becomes of a tick's key is told to the session with that claim
	 * only.
	 */
	bool		of_claim = key->has_tick && key->state != KEY_HELD;
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED(entry);
	dlist_foreach(iter, unconstify(dlist_head *, &entry->owners))
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->superseded)
			continue;
		if (hold->state == HOLD_HOLDING
			? hold->key_id == lock_key_id(key)
			: hold->mode == key->mode && (!of_claim || hold->claim == key->claim))
			return true;
	}
	return false;
}

/* Returns how many sessions hold the lock by this key. */
int
lock_key_count_holders(LockEntry *entry, const LockKey *key)
{
	int			n = 0;
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED(entry);
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (!hold->superseded && hold->state == HOLD_HOLDING &&
			hold->key_id == lock_key_id(key))
			n++;
	}
	return n;
}

/*
 * Returns the session to show for the key: one that holds the lock by it, else
 * one that asks for it, or NULL.  Of several, it is the one with this pid,
 * else the one that has been there for longest.
 */
LockHold *
lock_key_holder(LockEntry *entry, const LockKey *key, int pid)
{
	LockHold   *found = NULL;
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED(entry);
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->superseded ||
			(key->state == KEY_HELD
			 ? hold->state != HOLD_HOLDING || hold->key_id != lock_key_id(key)
			 : hold->state != HOLD_ASKED || hold->mode != key->mode))
			continue;
		if (hold->pid == pid)
			return hold;
		if (found == NULL)
			found = hold;
	}
	return found;
}

/* Push the entry to the worker's list the next time that its holder may change. */
void
lock_key_await_holder_change(LockEntry *entry, LockKey *key)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	key->tells_holder = true;
}

/*
 * Another session may now be the one to show for the key.  The worker is told
 * only once until it has looked, so that a lock that is passed on rapidly costs
 * next to nothing.
 */
void
lock_key_holder_changed(LockEntry *entry, LockKey *key)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (!key->tells_holder)
		return;
	key->tells_holder = false;
	lock_table_push_work(entry);
}

/* A key that is marked deleting has no holder. */
void
lock_key_copy_holder(LockEntry *entry, const LockKey *key, int pid,
					 LockHolder *holder)
{
	const LockHold *hold = key_machine_is_deleting(key->state) ? NULL :
		lock_key_holder(entry, key, pid);

	holder->somebody = hold != NULL;
	if (hold == NULL)
		return;
	holder->pid = hold->pid;
	holder->since = hold->state == HOLD_HOLDING ? hold->held_since :
		hold->wait_start;
	holder->who = lock_table_proc(hold->procno)->who;
}

/* ----------------------------------------------------------------
 *		Steps
 * ----------------------------------------------------------------
 */

/* Sessions that hold the lock by this key have lost it; tell them. */
static void
lose_holders(LockEntry *entry, LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_HOLDING && hold->key_id == lock_key_id(key))
		{
			hold->lost = true;
			hold->lost_key = hold->key_id;
			hold->key_id = 0;
			counters_lost(hold);
			loss_signal_count(hold->procno);
			if (hold->superseded)
				continue;
			if (key->epoch == deadline_epoch(&lock_shared->deadline))
				loss_signal_send(hold->procno, hold->pid);
			else
				loss_signal_send_epoch(hold->procno, hold->pid, hold->epoch);
		}
	}
}

static LockHold *
find_claim(LockEntry *entry, const LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (key->has_tick && hold->has_tick && hold->claim == key->claim)
			return hold;
	}
	return NULL;
}

/* It is unknown whether the key's tick, if it has one, is claimed. */
static void
note_unsure(LockEntry *entry, const LockKey *key)
{
	LockHold   *hold = find_claim(entry, key);

	if (hold != NULL)
		hold->claim_unsure = true;
}

bool
lock_key_is_unsure(LockEntry *entry, const LockKey *key)
{
	const LockHold *hold = find_claim(entry, key);

	return hold != NULL && hold->claim_unsure;
}

/*
 * The key will not be granted: tell those who ask for it.  Returns whether there are any.
 */
bool
lock_key_tell_failure(LockEntry *entry, const LockKey *key,
					  const LockFailure *failure)
{
	bool		told = false;
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);
		LockFailureKind kind = failure->kind;

		if (hold->state != HOLD_ASKED || hold->mode != key->mode)
			continue;

		/*
		 * Only a try is refused, but not because of a read that was sent
		 * before it began, or of another session's tick; others that wait for
		 * the key ask again.
		 */
		if (key->has_tick != hold->has_tick ||
			(key->has_tick && key->claim != hold->claim))
			continue;

		/* A try does not wait, so it is no part of a deadlock. */
		if (kind == FAILURE_DEADLOCK && hold->is_try)
			kind = FAILURE_REFUSED;
		if ((kind == FAILURE_REFUSED || kind == FAILURE_KEPT) &&
			(!hold->is_try || failure->seen_at < hold->began_at))
			continue;
		hold->failure = *failure;
		hold->failure.kind = kind;
		told = true;
	}
	return told;
}

static void
free_slot(LockKey *key)
{
	pg_atomic_write_u64(&key->key_id, 0);
	if (key->release_waiter >= 0)
		lock_table_wake_later(key->release_waiter);
}

static void
trace_step(const LockEntry *entry, const LockKey *key, KeyStep step)
{
	int64		revision = key->create_revision;

	if (step.actions & KEY_DO_LOSE)
		lock_trace_key(LOCK_TRACE_KEY_LOST, entry, key, revision);
	if (step.actions & KEY_DO_FAIL)
		lock_trace_key(LOCK_TRACE_KEY_FAILED, entry, key, revision);
	if (step.next == KEY_FREE && key->state != KEY_WANTED)
		lock_trace_key(LOCK_TRACE_KEY_GONE, entry, key, revision);
	else if (key_machine_is_deleting(step.next) && !key_machine_is_deleting(key->state))
		lock_trace_key(LOCK_TRACE_KEY_DELETING, entry, key, revision);
}

/*
 * Change the key's state after an event, and do what follows for sessions.
 * Returns what the worker has to do, of KeyAction.  An event that the table
 * does not have for this state changes nothing: a key that waits for the end
 * of its lease is better than one that is granted by mistake.
 */
static int
do_step(LockEntry *entry, LockKey *key, KeyEvent event, const LockFailure *failure)
{
	KeyStep		step = key_machine_step(key->state, event);

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	Assert(step.legal);
	if (!step.legal)
		return 0;
	if (unlikely(lock_trace_on))
		trace_step(entry, key, step);
	if (step.actions & KEY_DO_UNSURE)
		note_unsure(entry, key);
	if (step.actions & KEY_DO_LOSE)
		lose_holders(entry, key);
	if (step.actions & KEY_DO_FAIL)
		(void) lock_key_tell_failure(entry, key, failure);
	key->state = step.next;
	if (step.actions & KEY_DO_FREE)
		free_slot(key);
	if (step.actions & KEY_DO_WORK)
		lock_table_push_work(entry);
	if (step.actions & KEY_DO_WAKE)
		lock_table_wake_entry(entry);
	return step.actions;
}

/* A step that reports no failure. */
int
lock_key_step(LockEntry *entry, LockKey *key, KeyEvent event)
{
	Assert((key_machine_step(key->state, event).actions & KEY_DO_FAIL) == 0);
	return do_step(entry, key, event, NULL);
}

/*
 * A step that tells the sessions that ask for the key why, if it fails them.
 */
int
lock_key_fail(LockEntry *entry, LockKey *key, KeyEvent event, const LockFailure *failure)
{
	return do_step(entry, key, event, failure);
}

/*
 * From here on the key is never granted again, regardless of etcd or a timeout
 * (rule 1).
 */
void
lock_key_mark_deleting(LockEntry *entry, LockKey *key)
{
	(void) lock_key_step(entry, key, KEY_ON_ABANDON);
}

/* The worker takes it up, to put it with this serial in the current epoch. */
int
lock_key_take(LockEntry *entry, LockKey *key, KeyEvent event, uint64 serial)
{
	Assert(serial != 0);
	key->serial = serial;
	key->epoch = deadline_epoch(&lock_shared->deadline);
	lock_trace_key(LOCK_TRACE_KEY_SENT, entry, key, 0);
	return lock_key_step(entry, key, event);
}

/*
 * Etcd has the key; whether it is granted is decided next.  Sessions that only
 * try check again.
 */
int
lock_key_put(LockEntry *entry, LockKey *key, int64 create_revision)
{
	key->create_revision = create_revision;
	lock_trace_key(LOCK_TRACE_KEY_PUT, entry, key, create_revision);
	return lock_key_step(entry, key, KEY_ON_PUT);
}

/*
 * Returns a new key for this hold, or NULL if dying keys still take all slots;
 * the end of one of them wakes us.
 *
 * A key of one mode marks that of the other mode deleting unless a session
 * needs it; otherwise it could be adopted later, and tokens would run
 * backwards (rule 6).
 */
LockKey *
lock_key_want(LockEntry *entry, LockHold *hold)
{
	LockKey    *other;
	LockKey    *key = NULL;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	other = lock_key_live(entry, hold->mode == LOCK_SHARED ? LOCK_EXCLUSIVE : LOCK_SHARED);
	if (other != NULL && !lock_key_needed(entry, other))
		lock_key_mark_deleting(entry, other);

	for (int i = 0; i < LOCK_KEYS_PER_NAME && key == NULL; i++)
	{
		if (entry->keys[i].state == KEY_FREE)
			key = &entry->keys[i];
	}
	if (key == NULL)
		return NULL;

	key->mode = hold->mode;
	key->is_try = hold->is_try;
	key->requester = hold->procno;
	key->requester_pid = hold->pid;
	key->role = hold->role;
	key->max_requests = hold->max_requests;
	key->wanted_at = clock_now();
	key->release_waiter = -1;
	key->epoch = deadline_epoch(&lock_shared->deadline);
	key->serial = 0;
	key->create_revision = 0;
	key->just_granted = false;
	key->window_end = 0;
	key->tells_holder = false;
	key->keep = hot_name_is_hot(entry->hashcode, key->wanted_at) ? etcd_lock_keep_window : 0;
	key->company = KEY_COMPANY_UNKNOWN;
	key->idle_since = 0;
	key->kept_until = 0;
	key->look_at = 0;
	key->checked_until = 0;
	key->foreign_waiter = false;
	key->is_behind = false;
	key->tries_wait = false;
	key->look_wanted_at = 0;
	key->looked_at = 0;
	key->has_tick = hold->has_tick;
	key->tick = hold->tick;
	key->claim = hold->claim;
	key->max_ticks = hold->max_ticks;
	key->namespace_len = hold->namespace_len;
	pg_atomic_write_u64(&key->key_id,
						pg_atomic_fetch_add_u64(&lock_shared->next_key_id, 1));
	lock_trace_key(LOCK_TRACE_KEY_WANTED, entry, key, 0);
	(void) lock_key_step(entry, key, KEY_ON_WANT);
	return key;
}

/*
 * Record whether others are ahead of the key in the queue.  If nobody is, only
 * a lease that cannot be believed prevents the grant: no try is refused
 * because of that, nor while those ahead may only be keeping the lock.
 */
void
lock_key_set_behind(LockEntry *entry, LockKey *key, bool is_behind, bool tries_wait)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (key->state != KEY_QUEUED ||
		(key->is_behind == is_behind && key->tries_wait == tries_wait))
		return;
	key->is_behind = is_behind;
	key->tries_wait = tries_wait;
	lock_table_wake_entry(entry);
}

bool
lock_key_refuses_tries(const LockKey *key)
{
	return key->state == KEY_QUEUED && key->is_behind && !key->tries_wait;
}

void
lock_key_grant(LockEntry *entry, LockKey *key)
{
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	/* The sessions that asked are entitled to it, however late they look. */
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_ASKED && hold->mode == key->mode)
			hold->asked_key = lock_key_id(key);
	}
	lock_trace_key(LOCK_TRACE_KEY_HELD, entry, key, key->create_revision);
	key->just_granted = true;
	key->look_wanted_at = 0;
	key->looked_at = 0;			/* nobody has looked who is behind it */
	key->window_end = clock_now() + (int64) etcd_lock_handoff_window * 1000;
	(void) lock_key_step(entry, key, KEY_ON_GRANT);
}

/*
 * The sessions that hold the lock by this key are about to lose it; text in
 * UTF-8.
 */
void
lock_key_note_breaker(LockEntry *entry, const LockKey *key, const char *by)
{
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_HOLDING && hold->key_id == lock_key_id(key))
			loss_signal_note_breaker(hold->procno, lock_key_id(key), by);
	}
}

/*
 * Take the lock away from the sessions that hold it by this key;
 * release_waiter waits for the key's end.
 */
void
lock_key_break(LockEntry *entry, LockKey *key, int release_waiter)
{
	key->release_waiter = release_waiter;
	(void) lock_key_step(entry, key, KEY_ON_BREAK);
}

/*
 * Have the worker read the queue in etcd.  Returns what looked_at will have
 * reached then.
 */
int64
lock_key_ask_look(LockEntry *entry, LockKey *key)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	lock_table_push_work(entry);
	key->look_wanted_at = clock_now();
	return key->look_wanted_at;
}

/* Does a session want a read that has not been sent, or has no response yet? */
bool
lock_key_wants_look(const LockKey *key)
{
	return key->looked_at < key->look_wanted_at;
}

/*
 * Is a queued key known to have had others ahead at some moment since then?
 * What the worker has read last may be older, however long ago that was; then
 * have it read again.  So may what the response to its put shows: then it is
 * read after that.
 */
bool
lock_key_behind_since(LockEntry *entry, LockKey *key, int64 since)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (key_machine_is_on_its_way(key->state))
		key->look_wanted_at = Max(key->look_wanted_at, since);
	if (key->state != KEY_QUEUED || !key->is_behind)
		return false;
	if (key->looked_at < since && key->look_wanted_at < since)
		(void) lock_key_ask_look(entry, key);
	return key->looked_at >= since;
}

/*
 * What a read of the queue in etcd has shown about a key that is still there.
 */
void
lock_key_checked(LockEntry *entry, LockKey *key, bool foreign_waiter,
				 int64 looked_at)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	key->foreign_waiter = foreign_waiter;
	key->checked_until = clock_now() +
		(foreign_waiter ? FOREIGN_WAITER_VALID :
		 (int64) etcd_lock_handoff_window * 1000);
	key->looked_at = Max(key->looked_at, looked_at);
	lock_table_wake_entry(entry);
}

/*
 * The same about a key that still has to wait in the queue.  It may be what a
 * session waits for, even if others have asked for a read since it was sent.
 */
void
lock_key_looked(LockEntry *entry, LockKey *key, int64 looked_at)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (lock_key_wants_look(key) && looked_at > key->looked_at)
		lock_table_wake_entry(entry);
	key->looked_at = Max(key->looked_at, looked_at);
	if (lock_key_refuses_tries(key))
		entry->others_seen_at = Max(entry->others_seen_at, looked_at);
}
