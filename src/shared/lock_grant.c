/*-------------------------------------------------------------------------
 *
 * lock_grant.c
 *	  Which of this server's sessions gets a lock, and by which key.
 *
 * A session that has PostgreSQL's lock asks here.  It is granted the lock by a
 * key that the server holds, or waits for one; README.md has the rules.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "etcd/etcd_api.h"
#include "shared/counters.h"
#include "shared/local_waits.h"
#include "shared/lock_grant.h"
#include "shared/lock_keep.h"
#include "shared/lock_keys.h"
#include "shared/lock_trace.h"
#include "shared/loss_signal.h"
#include "utils/timestamp.h"

StaticAssertDecl(ETCD_MAX_REVISION <= PG_INT64_MAX >> TOKEN_PASS_BITS,
				 "a token must have room for each revision");

static void
set_state(LockHold *hold, LockHoldState state)
{
	LockEntry  *entry = hold->entry;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	dlist_delete(&hold->link);
	hold->state = state;
	if (state == HOLD_DRAINING)
		dlist_push_tail(&entry->drainers, &hold->link);
	else if (state == HOLD_WAITING)
		dlist_push_tail(&entry->waiters, &hold->link);
	else
		dlist_push_tail(&entry->owners, &hold->link);
}

/*
 * Because we have PostgreSQL's lock, a session that is still recorded as an
 * owner in a conflicting mode has lost it: it is about to drop its record, or
 * pg_advisory_unlock() has released an integer key's tag (rules 13, 18).
 */
static void
supersede_others(LockEntry *entry, LockHold *hold)
{
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *other = dlist_container(LockHold, link, iter.cur);

		if (other->procno != hold->procno &&
			(hold->mode == LOCK_EXCLUSIVE || other->mode == LOCK_EXCLUSIVE))
		{
			other->superseded = true;
			loss_signal_count(other->procno);
			counters_released(other);
		}
	}
}

/* Can the token count another passing-on? */
static bool
may_pass_on(const LockEntry *entry)
{
	return (entry->last_token & TOKEN_MAX_PASS) != TOKEN_MAX_PASS;
}

/*
 * The next token of the name (rule 10).  It continues from the last one, which
 * may stem from a younger key than this one (if a read key outlives an
 * exclusive one).  When the count is exhausted, sharers get the last token
 * again; a new exclusive holder never gets here then.
 */
static int64
next_token(LockEntry *entry, const LockKey *key)
{
	int64		next = entry->last_token + (may_pass_on(entry) ? 1 : 0);

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	entry->last_token = Max(next, key->create_revision << TOKEN_PASS_BITS);
	return entry->last_token;
}

static LockAskResult
grant(LockEntry *entry, LockHold *hold, LockKey *key)
{
	bool		from_etcd = key->just_granted;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	set_state(hold, HOLD_HOLDING);
	hold->wants_probe = false;
	hold->wants_holder = false;
	local_wait_end(hold);
	lock_keep_taken(entry, key);
	hold->key_id = lock_key_id(key);
	hold->epoch = key->epoch;
	hold->token = next_token(entry, key);
	hold->held_since = GetCurrentTimestamp();
	counters_granted(hold, from_etcd);
	lock_key_holder_changed(entry, key);
	lock_trace_key(from_etcd ? LOCK_TRACE_GRANTED : LOCK_TRACE_PASSED_ON,
				   entry, key, hold->token);
	return LOCK_ASK_GRANTED;
}

static LockAskResult
wait_as_requester(LockHold *hold)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(hold->entry);
	if (hold->state != HOLD_ASKED)
		set_state(hold, HOLD_ASKED);
	return LOCK_ASK_WAIT;
}

static LockAskResult
refuse(LockHold *hold)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(hold->entry);
	hold->failure.kind = FAILURE_REFUSED;
	return LOCK_ASK_FAILED;
}

/* Does this session hold the lock in the other mode by this very key? */
static bool
holds_by(LockEntry *entry, const LockHold *hold, const LockKey *key)
{
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED(entry);
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *other = dlist_container(LockHold, link, iter.cur);

		if (other->procno == hold->procno && other != hold &&
			other->state == HOLD_HOLDING && !other->superseded &&
			other->key_id == lock_key_id(key))
			return true;
	}
	return false;
}

static LockAskResult
want_and_wait(LockEntry *entry, LockHold *hold)
{
	wait_as_requester(hold);
	(void) lock_key_want(entry, hold);
	return LOCK_ASK_WAIT;
}

/* The key is in etcd's queue.  A try is refused if it is behind others. */
static LockAskResult
wait_in_queue(LockEntry *entry, LockHold *hold, LockKey *key)
{
	if (hold->is_try && lock_key_refuses_tries(key) &&
		lock_key_behind_since(entry, key, hold->began_at))
		return refuse(hold);
	return wait_as_requester(hold);
}

static LockAskResult
ask_exclusive(LockEntry *entry, LockHold *hold)
{
	LockKey    *key = lock_key_live(entry, LOCK_EXCLUSIVE);

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (key == NULL)
		return want_and_wait(entry, hold);

	switch (key->state)
	{
		case KEY_HELD:
			if (!lock_key_held_valid(key))
				return wait_as_requester(hold); /* the worker will end the
												 * epoch */

			/*
			 * A session that shares under its own exclusive key may have
			 * exclusive mode again regardless of the window, because it never
			 * released the key (rule 9).
			 */
			if (holds_by(entry, hold, key))
				return grant(entry, hold, key);
			if (hold->has_tick)
			{
				/* only by the key that was put together with the tick */
				if (key->has_tick && key->claim == hold->claim)
					return grant(entry, hold, key);
			}
			else if (key->just_granted ||
					 (lock_keep_may_pass(key, clock_now()) && may_pass_on(entry)))
				return grant(entry, hold, key);
			lock_key_mark_deleting(entry, key);
			return want_and_wait(entry, hold);

		case KEY_QUEUED:

			/*
			 * A try that put the key together with its tick is not refused:
			 * the key may be in etcd with the tick, and wait for the lease.
			 */
			if (hold->has_tick && key->has_tick && key->claim == hold->claim)
				return wait_as_requester(hold);
			return wait_in_queue(entry, hold, key);

		default:

			/*
			 * wanted or sent for a session that has just left: wait for its
			 * fate
			 */
			return wait_as_requester(hold);
	}
}

/*
 * May a sharer join those who hold this key?  Within the window, yes.  Also
 * while an upgrader waits here, because it waits for the joiner (rule 8).
 * Otherwise only if no other owner waits for the key.
 */
static LockAskResult
join(LockEntry *entry, LockHold *hold, LockKey *key)
{
	int64		now = clock_now();
	bool		is_valid = now < key->checked_until;

	/* With a short window, a read may be too old for others, but not for us. */
	bool		is_ours = hold->look_key == lock_key_id(key) &&
		key->looked_at >= hold->look_from;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (key->just_granted || hold->asked_key == lock_key_id(key) ||
		lock_keep_may_pass(key, now))
		return grant(entry, hold, key);
	if (lock_table_has_waiters(entry) &&
		dlist_head_element(LockHold, link, &entry->waiters)->upgrader)
		return grant(entry, hold, key);
	if ((is_valid || is_ours) && !key->foreign_waiter)
		return grant(entry, hold, key);

	if (is_valid && lock_key_count_holders(entry, key) == 0)
	{
		lock_key_mark_deleting(entry, key);
		return want_and_wait(entry, hold);
	}
	if (is_valid && key->looked_at >= hold->began_at)
	{
		if (hold->is_try)
			return refuse(hold);

		/*
		 * The sharer must wait until the key has drained: a key with holders
		 * is never rotated (rule 2).
		 */
		set_state(hold, HOLD_DRAINING);
		lock_trace_key(LOCK_TRACE_DRAINS, entry, key, 0);
		return LOCK_ASK_DRAIN;
	}

	if (hold->look_key != lock_key_id(key) || is_ours)
	{
		hold->look_key = lock_key_id(key);
		hold->look_from = lock_key_ask_look(entry, key);
	}
	return wait_as_requester(hold);
}

static LockAskResult
ask_shared(LockEntry *entry, LockHold *hold)
{
	LockKey    *write_key = lock_key_live(entry, LOCK_EXCLUSIVE);
	LockKey    *key = lock_key_live(entry, LOCK_SHARED);

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (write_key != NULL && lock_key_held_valid(write_key) &&
		holds_by(entry, hold, write_key))
		return grant(entry, hold, write_key);

	/*
	 * Sharers use an exclusive key only if a session needs it: a read key
	 * must not be younger than a live write key (rule 9).  An idle exclusive
	 * key is deleted, so that sharers of other servers get in.
	 */
	if (key == NULL && write_key != NULL && lock_key_needed(entry, write_key))
		key = write_key;
	if (key == NULL)
		return want_and_wait(entry, hold);

	if (lock_key_held_valid(key))
		return join(entry, hold, key);
	if (key->state == KEY_QUEUED)
		return wait_in_queue(entry, hold, key);
	return wait_as_requester(hold);
}

/*
 * This session has PostgreSQL's lock: may it have etcd's?  The session calls
 * this again each time its latch is set, until the result is not
 * LOCK_ASK_WAIT.
 */
LockAskResult
lock_grant_ask(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	LockAskResult result;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (hold->failure.kind != FAILURE_NONE)
		result = LOCK_ASK_FAILED;
	else
	{
		if (unlikely(lock_trace_on))
			lock_trace_note_put(entry, lock_key_live(entry, hold->mode));
		supersede_others(entry, hold);
		if (hold->mode == LOCK_EXCLUSIVE)
			result = ask_exclusive(entry, hold);
		else
			result = ask_shared(entry, hold);
	}
	lock_table_unlock(lock);
	return result;
}
