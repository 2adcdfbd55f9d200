/*-------------------------------------------------------------------------
 *
 * lock_keys.c
 *	  The life of a key: wanted, sent, queued, held, deleted, lost.
 *
 * All of it with the entry's lock held exclusively.  Sessions want keys and
 * condemn them; the worker does the rest (lock_table.h).
 *
 *-------------------------------------------------------------------------
 */
#include "lock_table.h"

#include <signal.h>

#include "stats.h"

/*
 * How long the answer to "does another owner wait for this key?" is believed
 * when it was yes, in microseconds.  It may give up.
 */
#define FOREIGN_WAITER_VALID	INT64CONST(1000000)

int
lock_entry_slot(const LockEntry *entry, uint64 number)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (pg_atomic_read_u64(unconstify(pg_atomic_uint64 *,
										  &entry->keys[i].number)) == number)
			return i;
	}
	return -1;
}

static bool
key_is_live(const LockKey *key)
{
	return key->state != KEY_FREE && key->state != KEY_DELETING;
}

LockKey *
lock_entry_live_key(LockEntry *entry, LockMode mode)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		LockKey    *key = &entry->keys[i];

		if (key_is_live(key) && key->mode == mode)
			return key;
	}
	return NULL;
}

uint64
lock_key_number(const LockKey *key)
{
	return pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &key->number));
}

bool
lock_key_held_valid(const LockKey *key)
{
	return key->state == KEY_HELD &&
		deadline_valid(&lock_shared->deadline, key->epoch);
}

/*
 * Does a session need this key?  Only one that has PostgreSQL's lock counts:
 * it rides on the key, or asks etcd for it.  Were those counted that wait in
 * PostgreSQL, servers could wait for each other for ever (rule 5).
 */
bool
lock_key_needed(const LockEntry *entry, const LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, unconstify(dlist_head *, &entry->owners))
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->superseded)
			continue;
		if (hold->state == HOLD_HOLDING
			? hold->key_number == lock_key_number(key)
			: hold->mode == key->mode)
			return true;
	}
	return false;
}

/* Does a session hold the lock by this key? */
bool
lock_key_has_holders(LockEntry *entry, const LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (!hold->superseded && hold->state == HOLD_HOLDING &&
			hold->key_number == lock_key_number(key))
			return true;
	}
	return false;
}

/*
 * The session that stands for the key in what is shown of it: one that holds
 * the lock by it, else one that asks for it; NULL: none.  Of several it is the
 * one with this pid, else the one that has been there for longest.
 */
LockHold *
lock_key_holder(LockEntry *entry, const LockKey *key, int pid)
{
	LockHold   *found = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->superseded ||
			(key->state == KEY_HELD
			 ? hold->state != HOLD_HOLDING || hold->key_number != lock_key_number(key)
			 : hold->state != HOLD_ASKED || hold->mode != key->mode))
			continue;
		if (hold->pid == pid)
			return hold;
		if (found == NULL)
			found = hold;
	}
	return found;
}

/* Nobody has a key that is condemned. */
void
lock_key_copy_holder(LockEntry *entry, const LockKey *key, int pid,
					 LockHolder *holder)
{
	const LockHold *hold = key->state == KEY_DELETING ? NULL :
		lock_key_holder(entry, key, pid);

	holder->somebody = hold != NULL;
	if (hold == NULL)
		return;
	holder->pid = hold->pid;
	holder->since = hold->state == HOLD_HOLDING ? hold->held_since :
		hold->wait_start;
	holder->who = lock_table_proc(hold->procno)->who;
}

void
lock_key_free(LockEntry *entry, LockKey *key)
{
	key->state = KEY_FREE;
	pg_atomic_write_u64(&key->number, 0);
	if (key->releaser >= 0)
		lock_wake_later(key->releaser);
	lock_entry_wake(entry);
}

/*
 * From here on the key is never granted again, whatever etcd or a timeout
 * may say (rule 1).  The worker deletes it; one that was never sent is gone
 * at once.
 */
void
lock_key_condemn(LockEntry *entry, LockKey *key)
{
	Assert(key_is_live(key));

	if (key->state == KEY_WANTED)
	{
		lock_key_free(entry, key);
		return;
	}
	key->state = KEY_DELETING;
	lock_table_push_work(entry);
	lock_entry_wake(entry);
}

/*
 * A new key in the given mode for this hold; NULL when all slots are still
 * taken by dying ones, which wakes us when it changes.
 *
 * A key of one mode condemns that of the other mode unless a session needs
 * it; else it could be adopted later and tokens would run backwards (rule 6).
 */
LockKey *
lock_key_want(LockEntry *entry, LockHold *hold)
{
	LockKey    *other;
	LockKey    *key = NULL;

	other = lock_entry_live_key(entry, hold->mode == LOCK_SHARED ? LOCK_EXCLUSIVE : LOCK_SHARED);
	if (other != NULL && !lock_key_needed(entry, other))
		lock_key_condemn(entry, other);

	for (int i = 0; i < LOCK_KEYS_PER_NAME && key == NULL; i++)
	{
		if (entry->keys[i].state == KEY_FREE)
			key = &entry->keys[i];
	}
	if (key == NULL)
		return NULL;

	key->state = KEY_WANTED;
	key->mode = hold->mode;
	key->is_try = hold->is_try;
	key->asker = hold->procno;
	key->releaser = -1;
	key->epoch = deadline_epoch(&lock_shared->deadline);
	key->serial = 0;
	key->create_revision = 0;
	key->window_end = 0;
	key->window_timer = false;
	key->checked_until = 0;
	key->foreign_waiter = false;
	key->checks_asked = 0;
	key->checks_done = 0;
	key->has_tick = hold->has_tick;
	key->tick = hold->tick;
	key->claim = hold->claim;
	key->namespace_len = hold->namespace_len;
	pg_atomic_write_u64(&key->number,
						pg_atomic_fetch_add_u64(&lock_shared->next_number, 1));
	lock_table_push_work(entry);
	return key;
}

/*
 * Etcd has the key; whether it is granted follows.  Sessions that only try
 * look again.
 */
void
lock_key_queue(LockEntry *entry, LockKey *key, int64 create_revision)
{
	Assert(key->state == KEY_SENT);
	key->state = KEY_QUEUED;
	key->create_revision = create_revision;
	lock_entry_wake(entry);
}

void
lock_key_grant(LockEntry *entry, LockKey *key)
{
	dlist_iter	iter;

	Assert(key->state == KEY_QUEUED);

	/* Whoever asked has a right to it, however late it looks. */
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_ASKED && hold->mode == key->mode)
			hold->asked_key = lock_key_number(key);
	}
	key->state = KEY_HELD;
	key->fresh = true;
	key->window_end = clock_now() + (int64) etcd_lock_handoff_window * 1000;
	lock_entry_wake(entry);
}

static void
signal_loss(int pid, int on_loss)
{
	if (on_loss == ON_LOSS_CANCEL)
		kill(pid, SIGINT);
	else if (on_loss == ON_LOSS_TERMINATE)
		kill(pid, SIGTERM);
}

/*
 * The worker and the session's own timer both come here when a deadline has
 * passed; the second one finds that it was told.  May run in a signal handler.
 */
void
lock_tell_loss(int procno, int pid, uint64 epoch, int on_loss)
{
	uint64		told = pg_atomic_read_u64(&lock_table_proc(procno)->told_epoch);

	if (on_loss == ON_LOSS_WARN)
		return;

	while (told < epoch)
	{
		if (pg_atomic_compare_exchange_u64(&lock_table_proc(procno)->told_epoch, &told, epoch))
		{
			signal_loss(pid, on_loss);
			return;
		}
	}
}

/* Returns how many there were. */
static int
lose_holders(LockEntry *entry, LockKey *key)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_HOLDING && hold->key_number == lock_key_number(key))
		{
			hold->lost = true;
			hold->key_number = 0;
			stats_lost(hold);
			if (hold->superseded)
				continue;
			n++;
			if (key->epoch == deadline_epoch(&lock_shared->deadline))
				signal_loss(hold->pid, hold->on_loss);
			else
				lock_tell_loss(hold->procno, hold->pid, hold->epoch,
							   hold->on_loss);
		}
	}
	return n;
}

/*
 * etcd has the key no more: whoever holds the lock by it has lost it.  Returns how
 * many that are.
 */
int
lock_key_lost(LockEntry *entry, LockKey *key)
{
	int			n = lose_holders(entry, key);

	lock_key_free(entry, key);
	return n;
}

/* The lock is taken away from those who hold it by this key. */
void
lock_key_break(LockEntry *entry, LockKey *key)
{
	(void) lose_holders(entry, key);
	lock_key_condemn(entry, key);
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

/* Nobody knows what has become of a request that claims the key's tick, if it has one. */
void
lock_key_note_unsure(LockEntry *entry, const LockKey *key)
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

/* The key will not be granted: tell those who ask for it. */
void
lock_key_tell_failure(LockEntry *entry, const LockKey *key,
					  const LockFailure *failure)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state != HOLD_ASKED || hold->mode != key->mode)
			continue;

		/*
		 * Only a try is refused, and not by a look that may be older than it,
		 * nor by somebody else's tick; others who wait for the key ask again.
		 */
		if (key->has_tick != hold->has_tick ||
			(key->has_tick && key->claim != hold->claim))
			continue;
		if (failure->kind == FAILURE_REFUSED &&
			(!hold->is_try || hold->late_for == lock_key_number(key)))
			continue;
		hold->failure = *failure;
	}
}

/* The same, and let go of the key.  One that etcd has must be deleted there. */
void
lock_key_fail(LockEntry *entry, LockKey *key, const LockFailure *failure)
{
	lock_key_tell_failure(entry, key, failure);
	if (key->state == KEY_QUEUED)
	{
		lock_key_condemn(entry, key);
		lock_entry_wake(entry);
	}
	else
		lock_key_free(entry, key);
}

/* What a look at the queue in etcd has shown about a key that is still there. */
void
lock_key_checked(LockEntry *entry, LockKey *key, bool foreign_waiter,
				 uint64 checks_done)
{
	key->foreign_waiter = foreign_waiter;
	key->checked_until = clock_now() +
		(foreign_waiter ? FOREIGN_WAITER_VALID :
		 (int64) etcd_lock_handoff_window * 1000);
	key->checks_done = Max(key->checks_done, checks_done);
	lock_entry_wake(entry);
}

/* The same about one that waits in the queue, and still has to. */
void
lock_key_looked(LockEntry *entry, LockKey *key, uint64 checks_done)
{
	if (checks_done <= key->checks_done)
		return;
	key->checks_done = checks_done;
	lock_entry_wake(entry);
}

/*
 * Keys that no session needs any more go back to etcd, but for one that
 * others here are about to take over: that stays for the rest of its window.
 * Returns how many were condemned, and which.
 */
int
lock_entry_settle(LockEntry *entry, LockReleasedKey *released)
{
	int			n = 0;

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		LockKey    *key = &entry->keys[i];

		if (!key_is_live(key) || lock_key_needed(entry, key))
			continue;
		if (lock_entry_has_waiters(entry) && lock_key_held_valid(key) &&
			clock_now() < key->window_end)
		{
			if (!key->window_timer)
			{
				key->window_timer = true;
				lock_table_push_work(entry);
			}
			continue;
		}
		if (released != NULL && key->state == KEY_HELD)
		{
			released[n].key = key;
			released[n].number = lock_key_number(key);
			n++;
			key->releaser = compat_my_procno();
		}
		lock_key_condemn(entry, key);
	}
	return n;
}
