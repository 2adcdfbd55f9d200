/*-------------------------------------------------------------------------
 *
 * lock_holds.c
 *	  What a session wants or holds: recorded, checked, dropped, broken.
 *
 * The numbers of waiters and holders are never counted, only taken from the
 * lists: a counter can leak, a list cannot (rule 18).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "shared/counters.h"
#include "shared/local_waits.h"
#include "shared/lock_holds.h"
#include "shared/lock_keep.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

/*
 * For so long it counts that others stood ahead of a key of ours that is gone;
 * microseconds.
 */
#define BETWEEN_KEYS	INT64CONST(1000000)

/* Returns a record for this session, or NULL if there is no room. */
static LockHold *
make_hold(const LockName *name, LockMode mode, bool upgrader)
{
	LockHold   *hold = lock_table_take_hold();

	if (hold == NULL)
		return NULL;
	memset(hold, 0, sizeof(LockHold));
	hold->procno = compat_my_procno();
	hold->pid = MyProcPid;
	hold->began_at = clock_now();
	hold->mode = mode;
	hold->state = HOLD_WAITING;
	hold->upgrader = upgrader;
	hold->namespace_len = name->namespace_len;
	hold->role = MyProc->roleId;
	hold->max_requests = etcd_lock_max_requests_per_role;
	hold->wait_start = GetCurrentTimestamp();
	return hold;
}

/*
 * Two tags for one name would admit two sessions of this server at once.  The
 * tag of an integer key can change only if a database of the same name was
 * created again.
 */
static bool
adopt_tag(LockEntry *entry, const LockName *name)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (name->tag.locktag_field4 == LOCK_TAG_TEXT ||
		memcmp(&entry->tag, &name->tag, sizeof(LOCKTAG)) == 0)
		return true;
	if (lock_table_in_use(entry))
		return false;
	entry->tag = name->tag;
	return true;
}

/*
 * Record that this session wants the lock, before it asks PostgreSQL for it.
 */
LockWaitResult
lock_hold_wait(const LockName *name, LockMode mode, bool upgrader,
			   LockHold **wanted)
{
	LockHold   *hold = make_hold(name, mode, upgrader);
	uint32		hashcode = lock_table_hashcode(name->key);
	LWLock	   *lock = lock_table_partition_of(hashcode);
	LockEntry  *entry = NULL;
	LockWaitResult result = LOCK_WAIT_TABLE_FULL;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (hold != NULL)
		entry = lock_table_enter(name, hashcode);
	if (entry != NULL)
		result = adopt_tag(entry, name) ? LOCK_WAIT_OK : LOCK_WAIT_NAME_CONFLICT;
	if (result == LOCK_WAIT_OK)
	{
		hold->entry = entry;
		if (upgrader)
			dlist_push_head(&entry->waiters, &hold->link);
		else
			dlist_push_tail(&entry->waiters, &hold->link);
		local_wait_begin(hold);
		counters_asked(hashcode, hold);
	}
	lock_table_unlock(lock);

	if (result == LOCK_WAIT_OK)
		*wanted = hold;
	else if (hold != NULL)
		lock_table_free_hold(hold);
	return result;
}

/*
 * Does the session have a place in etcd's queue, and are others ahead of it?
 */
static void
get_place(LockHold *hold, bool *queued, bool *behind)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	const LockKey *key;

	LWLockAcquire(lock, LW_SHARED);
	key = lock_key_live(entry, hold->mode);
	*queued = key != NULL && key->state == KEY_QUEUED;
	*behind = *queued && key->is_behind;
	lock_table_unlock(lock);
}

/* The session cannot have what it asked lock_hold_wait() for. */
void
lock_hold_turned_away(const LockName *name)
{
	uint32		hashcode = lock_table_hashcode(name->key);
	LWLock	   *lock = lock_table_partition_of(hashcode);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	counters_turned_away(hashcode);
	LWLockRelease(lock);
}

/* Does the session already have a place in etcd's queue? */
bool
lock_hold_is_queued(LockHold *hold)
{
	bool		queued;
	bool		behind;

	get_place(hold, &queued, &behind);
	return queued;
}

/* Does it have a place with somebody else ahead? */
bool
lock_hold_is_behind(LockHold *hold)
{
	bool		queued;
	bool		behind;

	get_place(hold, &queued, &behind);
	return behind;
}

/*
 * Have others been ahead in etcd's queue since the session began?  Between two
 * keys of ours, the queue was known a moment ago; if a key is first in it and
 * waits for the lease, nobody is ahead.  Lock held exclusively.
 */
static bool
others_ahead(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	bool		queued = false;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		LockKey    *key = &entry->keys[i];

		queued = queued || key->state == KEY_QUEUED;
		if (!(hold->is_try && key->tries_wait) &&
			lock_key_behind_since(entry, key, hold->began_at))
			return true;
	}
	return !queued &&
		entry->others_seen_at >= Max(hold->began_at, clock_now() - BETWEEN_KEYS);
}

/*
 * The same, for a session that has PostgreSQL's lock.  If this is not known
 * yet, the worker looks.
 */
bool
lock_hold_others_ahead(LockHold *hold)
{
	LWLock	   *lock = lock_table_partition(hold->entry);
	bool		ahead;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	ahead = others_ahead(hold);
	lock_table_unlock(lock);
	return ahead;
}

/*
 * The session could not get PostgreSQL's lock.  Does somebody have etcd's
 * lock, or had it since the session began?  Or is another session of this
 * server just asking for it, which may fail?
 */
bool
lock_hold_somebody_has(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	dlist_iter	iter;
	bool		held;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	held = others_ahead(hold);
	dlist_foreach(iter, &entry->owners)
	{
		const LockHold *other = dlist_container(LockHold, link, iter.cur);

		held = held || (other->state == HOLD_HOLDING && !other->superseded &&
						other->procno != hold->procno);
	}
	lock_table_unlock(lock);
	return held;
}

/*
 * Does another session here have PostgreSQL's lock by our functions, or will it
 * soon?
 */
bool
lock_hold_others_have_tag(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	dlist_iter	iter;
	bool		found = false;

	LWLockAcquire(lock, LW_SHARED);
	dlist_foreach(iter, &entry->owners)
	{
		const LockHold *other = dlist_container(LockHold, link, iter.cur);

		found = found || (other->state != HOLD_WAITING && !other->superseded &&
						  other->procno != hold->procno);
	}
	LWLockRelease(lock);
	return found;
}

static bool
has_pid(dlist_head *list, int pid)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		if (dlist_container(LockHold, link, iter.cur)->pid == pid)
			return true;
	}
	return false;
}

/*
 * Does this process, which has PostgreSQL's lock, neither hold nor want the lock by our
 * functions?  pid 0 is a prepared transaction, which cannot have used them.
 */
bool
lock_hold_is_foreign(LockHold *hold, int pid, LockForeignHolder *foreign)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	bool		known;
	PGPROC	   *proc;

	foreign->pid = pid;
	foreign->given_up = 0;
	if (pid == 0)
		return true;

	LWLockAcquire(lock, LW_SHARED);
	known = has_pid(&entry->owners, pid) || has_pid(&entry->waiters, pid) ||
		has_pid(&entry->drainers, pid);
	LWLockRelease(lock);
	if (known)
		return false;

	proc = BackendPidGetProc(pid);
	if (proc == NULL)
		return false;			/* it has just ended */
	foreign->given_up = pg_atomic_read_u32(&lock_table_proc(compat_procno(proc))->given_up);
	return foreign->given_up % 2 == 0;
}

/*
 * Between the two calls, this session drops its record of a lock on an integer key that it
 * did not get, and then PostgreSQL's lock.  Nobody else writes the counter.
 */
void
lock_hold_begin_give_up(void)
{
	pg_atomic_uint32 *given_up = &lock_table_proc(compat_my_procno())->given_up;

	pg_atomic_write_u32(given_up, pg_atomic_read_u32(given_up) | 1);
	pg_write_barrier();
}

void
lock_hold_end_give_up(void)
{
	pg_atomic_uint32 *given_up = &lock_table_proc(compat_my_procno())->given_up;

	pg_write_barrier();
	pg_atomic_write_u32(given_up, (pg_atomic_read_u32(given_up) | 1) + 1);
}

bool
lock_hold_get_holder(LockHold *hold, char *text)
{
	LWLock	   *lock = lock_table_partition(hold->entry);
	bool		answered;

	LWLockAcquire(lock, LW_SHARED);
	answered = !hold->wants_holder;
	strlcpy(text, lock_table_proc(hold->procno)->holder, LOCK_HOLDER_TEXT);
	LWLockRelease(lock);
	return answered;
}

void
lock_hold_ask_holder(LockHold *hold, bool again)
{
	LWLock	   *lock = lock_table_partition(hold->entry);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (again || lock_table_proc(hold->procno)->holder[0] == '\0')
	{
		hold->wants_holder = true;
		hold->entry->holder_wanted = true;
		lock_table_push_work(hold->entry);
	}
	lock_table_unlock(lock);
}

void
lock_hold_ask_probe(LockHold *hold)
{
	LWLock	   *lock = lock_table_partition(hold->entry);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	hold->wants_probe = true;
	hold->entry->probe_wanted = true;
	lock_table_push_work(hold->entry);
	lock_table_unlock(lock);
}

/* Prefers one that holds the lock to one that comes before this session. */
static LockHold *
find_other(LockEntry *entry, const LockHold *hold)
{
	LockHold   *found = NULL;
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED(entry);
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *other = dlist_container(LockHold, link, iter.cur);

		if (other->procno == hold->procno || other->superseded)
			continue;
		if (other->state == HOLD_HOLDING)
			return other;
		found = other;
	}
	return found;
}

bool
lock_hold_other(LockHold *hold, bool ask, LockOther *other)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	LockHold   *found;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	found = find_other(entry, hold);
	if (found != NULL)
	{
		const LockProc *proc = lock_table_proc(found->procno);

		other->holding = found->state == HOLD_HOLDING;
		other->pid = found->pid;
		other->since = found->held_since;
		other->who = proc->who;
		strlcpy(other->holder, proc->holder, sizeof(other->holder));
		if (ask && !other->holding && other->holder[0] == '\0')
		{
			found->wants_holder = true;
			entry->holder_wanted = true;
			lock_table_push_work(entry);
		}
	}
	lock_table_unlock(lock);
	return found != NULL;
}

int
lock_hold_blocker(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	dlist_iter	iter;
	int			pid = 0;

	LWLockAcquire(lock, LW_SHARED);
	dlist_foreach(iter, &entry->owners)
	{
		const LockHold *other = dlist_container(LockHold, link, iter.cur);

		if (other->procno != hold->procno && !other->superseded &&
			(other->mode == LOCK_EXCLUSIVE || hold->mode == LOCK_EXCLUSIVE))
			pid = other->pid;
	}
	LWLockRelease(lock);
	return pid;
}

/*
 * Returns the number of other sessions that hold the lock here, and their
 * pids.
 */
int
lock_hold_others(LockHold *hold, int *pids, int max)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	dlist_iter	iter;
	int			n = 0;

	LWLockAcquire(lock, LW_SHARED);
	dlist_foreach(iter, &entry->owners)
	{
		const LockHold *other = dlist_container(LockHold, link, iter.cur);

		if (other->state == HOLD_HOLDING && !other->superseded &&
			other->procno != hold->procno && n < max)
			pids[n++] = other->pid;
	}
	LWLockRelease(lock);
	return n;
}

/*
 * The session no longer needs the lock.  Removing its record and deciding what
 * becomes of the keys is one step.  Returns how many keys are now to be
 * deleted from etcd, and which: released has room for LOCK_KEYS_PER_NAME.
 */
int
lock_hold_drop(LockHold *hold, LockReleasedKey *released)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	int			slot;
	int			n;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = hold->key_id == 0 ? -1 : lock_key_slot(entry, hold->key_id);
	counters_dropped(hold, deadline_valid(&lock_shared->deadline, hold->epoch));
	local_wait_end(hold);
	dlist_delete(&hold->link);
	if (slot >= 0 && !dlist_is_empty(&entry->owners))
		lock_key_holder_changed(entry, &entry->keys[slot]);
	n = lock_keep_settle(entry, released);
	(void) lock_table_remove_if_idle(entry);

	/*
	 * Under the lock, so that nobody who iterates sees the hold in two lists.
	 */
	lock_table_free_hold(hold);
	lock_table_unlock(lock);
	return n;
}

/* Only for etcd_locks: what otherwise only this session knows. */
void
lock_hold_set_counts(LockHold *hold, int session_count, int xact_count)
{
	hold->session_count = session_count;
	hold->xact_count = xact_count;
}

/*
 * Is the lock still ours?  No lock is needed to read the flags, because they
 * are single bytes and never cleared.
 */
bool
lock_hold_valid(LockHold *hold)
{
	return !hold->lost && !hold->superseded &&
		deadline_valid(&lock_shared->deadline, hold->epoch);
}

/* Ask the worker to look whether the key is still in etcd. */
int64
lock_hold_start_check(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	int			slot;
	int64		check = 0;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = hold->key_id == 0 ? -1 : lock_key_slot(entry, hold->key_id);
	if (slot >= 0)
	{
		check = lock_key_ask_look(entry, &entry->keys[slot]);
		hold->awaits_check = true;
	}
	lock_table_unlock(lock);
	return check;
}

/* Has the worker looked?  Also true if the key is gone. */
bool
lock_hold_check_done(LockHold *hold, int64 check)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_table_partition(entry);
	int			slot;
	bool		done;

	LWLockAcquire(lock, LW_SHARED);
	slot = hold->key_id == 0 ? -1 : lock_key_slot(entry, hold->key_id);
	done = slot < 0 || entry->keys[slot].looked_at >= check;
	if (done)
		hold->awaits_check = false; /* nobody else writes to it */
	lock_table_unlock(lock);
	return done;
}

bool
lock_hold_on_key(const char *name, int64 create_revision, LockHolder *holder)
{
	LWLock	   *lock;
	LockEntry  *entry = lock_table_find(name, LW_SHARED, &lock);
	bool		found = false;

	memset(holder, 0, sizeof(LockHolder));
	if (entry == NULL)
		return false;
	for (int i = 0; i < LOCK_KEYS_PER_NAME && !found; i++)
	{
		const LockKey *key = &entry->keys[i];

		found = key->state != KEY_FREE && key->create_revision == create_revision;
		if (found)
			lock_key_copy_holder(entry, key, 0, holder);
	}
	LWLockRelease(lock);
	return found;
}

/* The key by which a session of this server holds the lock with this token. */
static LockKey *
find_token(LockEntry *entry, int64 token)
{
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED(entry);
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);
		int			slot;

		if (hold->state != HOLD_HOLDING || hold->superseded || hold->lost ||
			hold->token != token || hold->key_id == 0)
			continue;
		slot = lock_key_slot(entry, hold->key_id);
		if (slot >= 0 && entry->keys[slot].state == KEY_HELD)
			return &entry->keys[slot];
	}
	return NULL;
}

/*
 * Take a lock of this server away from the session that has it with this
 * token.  The check of the token and the loss are one step, so that a session
 * that has acquired the lock since keeps it.  *released is the key whose
 * deletion the caller can wait for.
 */
LockBreakResult
lock_hold_break(const char *key, int64 token, const char *by,
				LockReleasedKey *released)
{
	LockBreakResult result = LOCK_BREAK_ELSEWHERE;
	LWLock	   *lock;
	LockEntry  *entry = lock_table_find(key, LW_EXCLUSIVE, &lock);
	LockKey    *found;

	if (entry == NULL)
		return result;
	found = find_token(entry, token);
	if (found != NULL)
	{
		released->key = found;
		released->key_id = lock_key_id(found);
		lock_key_note_breaker(entry, found, by);
		lock_key_break(entry, found, compat_my_procno());
		result = LOCK_BREAK_DONE;
	}
	for (int i = 0; i < LOCK_KEYS_PER_NAME && found == NULL; i++)
	{
		LockKey    *other = &entry->keys[i];

		if ((other->state == KEY_HELD || key_machine_is_deleting(other->state)) &&
			other->create_revision == token >> TOKEN_PASS_BITS)
			result = LOCK_BREAK_STALE;
	}
	lock_table_unlock(lock);
	return result;
}
