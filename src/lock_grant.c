/*-------------------------------------------------------------------------
 *
 * lock_grant.c
 *	  Who of this server's sessions gets a lock, and by which key.
 *
 * A session that has PostgreSQL's lock asks here.  It is granted by a key that
 * the server holds, or waits for one; README.md has the rules.
 *
 *-------------------------------------------------------------------------
 */
#include "lock_table.h"

#include "stats.h"
#include "utils/timestamp.h"

static void
set_state(LockHold *hold, LockHoldState state)
{
	LockEntry  *entry = hold->entry;

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
 * Having got PostgreSQL's lock, we know that whoever is still recorded as an
 * owner in a conflicting mode has lost it: it is about to drop its record, or
 * an integer key's tag was dropped by pg_advisory_unlock() (rules 13, 18).
 */
static void
supersede_others(LockEntry *entry, LockHold *hold)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *other = dlist_container(LockHold, link, iter.cur);

		if (other->procno != hold->procno &&
			(hold->mode == LOCK_EXCLUSIVE || other->mode == LOCK_EXCLUSIVE))
		{
			other->superseded = true;
			stats_released(other);
		}
	}
}

/* Can a token count one passing-on more? */
static bool
may_pass_on(const LockEntry *entry)
{
	return (entry->last_token & TOKEN_MAX_PASS) != TOKEN_MAX_PASS;
}

/*
 * The next token of the name (rule 10): counted on from the last one, which
 * may stem from a younger key than this one (a read key that outlives an
 * exclusive one).  When no more can be counted, sharers get the last one again;
 * a new exclusive holder never comes here then.
 */
static int64
next_token(LockEntry *entry, const LockKey *key)
{
	int64		next = entry->last_token + (may_pass_on(entry) ? 1 : 0);

	entry->last_token = Max(next, key->create_revision << TOKEN_PASS_BITS);
	return entry->last_token;
}

static LockAskResult
grant(LockEntry *entry, LockHold *hold, LockKey *key)
{
	bool		from_etcd = key->fresh;

	set_state(hold, HOLD_HOLDING);
	key->fresh = false;
	key->has_tick = false;
	hold->key_number = lock_key_number(key);
	hold->epoch = key->epoch;
	hold->token = next_token(entry, key);
	hold->held_since = GetCurrentTimestamp();
	stats_granted(hold, from_etcd);
	return LOCK_ASK_GRANTED;
}

static LockAskResult
wait_as_asker(LockHold *hold)
{
	if (hold->state != HOLD_ASKED)
		set_state(hold, HOLD_ASKED);
	return LOCK_ASK_WAIT;
}

/* The key is on its way to etcd, be it for somebody else. */
static LockAskResult
wait_for_put(LockHold *hold, const LockKey *key)
{
	if (key->state == KEY_SENT && hold->state != HOLD_ASKED)
		hold->late_for = lock_key_number(key);
	return wait_as_asker(hold);
}

static LockAskResult
refuse(LockHold *hold)
{
	hold->failure.kind = FAILURE_REFUSED;
	return LOCK_ASK_FAILED;
}

/* Does this session hold the lock in the other mode by this very key? */
static bool
rides_on(LockEntry *entry, const LockHold *hold, const LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *other = dlist_container(LockHold, link, iter.cur);

		if (other->procno == hold->procno && other != hold &&
			other->state == HOLD_HOLDING && !other->superseded &&
			other->key_number == lock_key_number(key))
			return true;
	}
	return false;
}

static LockAskResult
want_and_wait(LockEntry *entry, LockHold *hold)
{
	wait_as_asker(hold);
	(void) lock_key_want(entry, hold);
	return LOCK_ASK_WAIT;
}

static LockAskResult
ask_exclusive(LockEntry *entry, LockHold *hold)
{
	LockKey    *key = lock_entry_live_key(entry, LOCK_EXCLUSIVE);

	if (key == NULL)
		return want_and_wait(entry, hold);

	switch (key->state)
	{
		case KEY_HELD:
			if (!lock_key_held_valid(key))
				return wait_as_asker(hold); /* the worker will end the epoch */

			/*
			 * A session that shares under its own exclusive key may have it
			 * back whatever the window says: it never let go (rule 9).
			 */
			if (rides_on(entry, hold, key))
				return grant(entry, hold, key);
			if (hold->has_tick)
			{
				/* only by the key that was put together with the tick */
				if (key->has_tick && key->claim == hold->claim)
					return grant(entry, hold, key);
			}
			else if (key->fresh ||
					 (clock_now() < key->window_end && may_pass_on(entry)))
				return grant(entry, hold, key);
			lock_key_condemn(entry, key);
			return want_and_wait(entry, hold);

		case KEY_QUEUED:

			/*
			 * Of its own key a try hears more: it may be there with the tick,
			 * and wait for the lease.
			 */
			if (hold->is_try &&
				!(hold->has_tick && key->has_tick && key->claim == hold->claim))
				return refuse(hold);
			return wait_as_asker(hold);

		default:
			/* wanted or sent for somebody who has just left: see its fate */
			return wait_for_put(hold, key);
	}
}

/* A look at the queue that begins from now on. */
static void
ask_for_look(LockEntry *entry, LockHold *hold, LockKey *key)
{
	hold->check_key = lock_key_number(key);
	hold->check = ++key->checks_asked;
	lock_table_push_work(entry);
}

/*
 * May a sharer join those who hold this key?  Within the window, yes; when a
 * session here waits for exclusive mode while it shares, too, as it waits for
 * the joiner (rule 8); else only if no other owner waits for the key.
 */
static LockAskResult
join(LockEntry *entry, LockHold *hold, LockKey *key)
{
	int64		now = clock_now();

	if (key->fresh || hold->asked_key == lock_key_number(key) ||
		now < key->window_end)
		return grant(entry, hold, key);
	if (lock_entry_has_waiters(entry) &&
		dlist_head_element(LockHold, link, &entry->waiters)->upgrader)
		return grant(entry, hold, key);

	if (now < key->checked_until)
	{
		if (!key->foreign_waiter)
			return grant(entry, hold, key);
		if (!lock_key_has_holders(entry, key))
		{
			lock_key_condemn(entry, key);
			return want_and_wait(entry, hold);
		}
		if (hold->is_try)
			return refuse(hold);

		/*
		 * It must wait until the key has drained; a key that has holders is
		 * never rotated (rule 2).
		 */
		set_state(hold, HOLD_DRAINING);
		return LOCK_ASK_DRAIN;
	}

	/* With a short window a look may be too old for others, but not for us. */
	if (hold->check_key == lock_key_number(key) && key->checks_done >= hold->check &&
		!key->foreign_waiter)
		return grant(entry, hold, key);

	if (hold->check_key != lock_key_number(key) || key->checks_done >= hold->check)
		ask_for_look(entry, hold, key);
	return wait_as_asker(hold);
}

/*
 * The key waits in etcd's queue, as far as is known: what the worker has heard last
 * may be older than the try.
 */
static LockAskResult
try_queued(LockEntry *entry, LockHold *hold, LockKey *key)
{
	if (hold->check_key != lock_key_number(key))
		ask_for_look(entry, hold, key);
	return key->checks_done >= hold->check ? refuse(hold) : wait_as_asker(hold);
}

static LockAskResult
ask_shared(LockEntry *entry, LockHold *hold)
{
	LockKey    *write_key = lock_entry_live_key(entry, LOCK_EXCLUSIVE);
	LockKey    *key = lock_entry_live_key(entry, LOCK_SHARED);

	if (write_key != NULL && lock_key_held_valid(write_key) &&
		rides_on(entry, hold, write_key))
		return grant(entry, hold, write_key);

	/*
	 * Others ride on an exclusive key only when somebody shares under it: a
	 * read key must not be younger than a live write key (rule 9).  An idle
	 * one is given back, so that sharers of other servers get in.
	 */
	if (key == NULL && write_key != NULL && lock_key_needed(entry, write_key))
		key = write_key;
	if (key == NULL)
		return want_and_wait(entry, hold);

	if (lock_key_held_valid(key))
		return join(entry, hold, key);
	if (key->state == KEY_QUEUED)
		return hold->is_try ? try_queued(entry, hold, key) : wait_as_asker(hold);
	return wait_for_put(hold, key);
}

/*
 * This session has PostgreSQL's lock: may it have etcd's?  Called again each
 * time the latch is set, until the answer is not LOCK_ASK_WAIT.
 */
LockAskResult
lock_table_ask(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_entry_lock(entry);
	LockAskResult result;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (hold->failure.kind != FAILURE_NONE)
		result = LOCK_ASK_FAILED;
	else
	{
		supersede_others(entry, hold);
		if (hold->mode == LOCK_EXCLUSIVE)
			result = ask_exclusive(entry, hold);
		else
			result = ask_shared(entry, hold);
	}
	lock_entry_unlock(lock);
	return result;
}
