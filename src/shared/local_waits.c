/*-------------------------------------------------------------------------
 *
 * local_waits.c
 *	  Which session of this server waits for which others, for any lock.
 *
 * For PostgreSQL's locks we ask its lock manager, as pg_blocking_pids() does.
 * It does not know of sessions that wait for etcd, or until a key has drained;
 * the shared table does, and LockProc.wants leads there from the process.
 *
 * LockProc.wants is changed with the lock of the partition of the entry that
 * it leads to.  A reader does not know which one that is: so it reads it,
 * locks, and checks whether it has changed.  Entries and holds are reused, but
 * their memory always holds entries and holds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "shared/compat.h"
#include "shared/local_waits.h"
#include "shared/lock_keys.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

void
local_wait_begin(LockHold *hold)
{
	LockProc   *proc = lock_table_proc(hold->procno);

	if (hold->wait_number == 0)
		hold->wait_number = ++proc->nwaits;
	proc->wants = hold;
}

void
local_wait_end(LockHold *hold)
{
	LockProc   *proc = lock_table_proc(hold->procno);

	if (proc->wants == hold)
		proc->wants = NULL;
}

/* Returns -1 if the process cannot wait for an etcd lock. */
static int
procno_of(int pid)
{
	PGPROC	   *proc = BackendPidGetProc(pid);

	if (proc == NULL || compat_procno(proc) >= MaxBackends)
		return -1;
	return compat_procno(proc);
}

/*
 * Returns what the process wants, with the entry's lock held; or NULL, with no
 * lock held.
 */
static LockHold *
lock_wanted(int pid, LWLockMode lock_mode, LWLock **lock)
{
	int			procno = procno_of(pid);
	LockHold   *hold;
	LockEntry  *entry;

	if (procno < 0)
		return NULL;
	hold = *(LockHold *volatile *) &lock_table_proc(procno)->wants;
	entry = hold == NULL ? NULL : *(LockEntry *volatile *) &hold->entry;
	if (entry == NULL)
		return NULL;
	*lock = lock_table_partition(entry);
	LWLockAcquire(*lock, lock_mode);
	if (lock_table_proc(procno)->wants == hold && hold->entry == entry &&
		lock_table_partition(entry) == *lock && hold->pid == pid && !hold->is_try)
		return hold;
	LWLockRelease(*lock);
	return NULL;
}

static const LockKey *
queued_key(const LockHold *hold)
{
	const LockKey *key = hold->state == HOLD_ASKED ?
		lock_key_live(hold->entry, hold->mode) : NULL;

	return key != NULL && key->state == KEY_QUEUED && key->create_revision != 0 ? key : NULL;
}

bool
local_wait_get(int pid, LocalWait *wait)
{
	LWLock	   *lock;
	const LockHold *hold = lock_wanted(pid, LW_SHARED, &lock);
	const LockKey *key;

	if (hold == NULL)
		return false;
	memset(wait, 0, sizeof(*wait));
	wait->number = hold->wait_number;
	wait->since = hold->wait_start;
	wait->state = hold->state;
	wait->mode = hold->mode;
	strlcpy(wait->name, hold->entry->key, sizeof(wait->name));
	wait->namespace_len = hold->namespace_len;
	key = queued_key(hold);
	if (key != NULL)
	{
		wait->key_id = lock_key_id(key);
		wait->serial = key->serial;
		wait->create_revision = key->create_revision;
	}
	LWLockRelease(lock);
	return true;
}

/* Add the sessions that hold the key that this one may not join. */
static List *
add_drained(List *pids, int pid)
{
	int		   *holders = palloc(MaxBackends * sizeof(int));
	LWLock	   *lock;
	const LockHold *hold = lock_wanted(pid, LW_SHARED, &lock);
	int			n = 0;
	dlist_iter	iter;

	if (hold != NULL && hold->state == HOLD_DRAINING)
	{
		dlist_foreach(iter, &hold->entry->owners)
		{
			const LockHold *other = dlist_container(LockHold, link, iter.cur);

			if (other->state == HOLD_HOLDING && !other->superseded && other->pid != pid &&
				n < MaxBackends)
				holders[n++] = other->pid;
		}
	}
	if (hold != NULL)
		LWLockRelease(lock);
	for (int i = 0; i < n; i++)
		pids = list_append_unique_int(pids, holders[i]);
	pfree(holders);
	return pids;
}

List *
local_wait_add_blockers(List *pids, int pid)
{
	ArrayType  *array = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids,
															   Int32GetDatum(pid)));
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	const int32 *blockers = (const int32 *) ARR_DATA_PTR(array);

	for (int i = 0; i < n; i++)
	{
		/* a prepared transaction is not a process, and waits for nobody */
		if (blockers[i] != 0)
			pids = list_append_unique_int(pids, blockers[i]);
	}
	return add_drained(pids, pid);
}

/* A clock that was set back makes no wait short. */
static bool
has_lasted(TimestampTz since)
{
	TimestampTz now = GetCurrentTimestamp();

	return since > now || now - since >= (int64) DeadlockTimeout * 1000;
}

/*
 * In PostgreSQL's lock manager, this is when the wait began.  If a process
 * does not wait there, it may be left from its last wait.
 */
uint64
local_wait_stamp(int pid, bool *is_long)
{
	PGPROC	   *proc;
	LocalWait	wait;
	uint64		stamp;

	if (local_wait_get(pid, &wait) && wait.state != HOLD_WAITING)
	{
		*is_long = has_lasted(wait.since);
		return wait.number;
	}
	proc = BackendPidGetProc(pid);
	stamp = proc == NULL ? 0 : pg_atomic_read_u64(&proc->waitStart);
	*is_long = has_lasted((TimestampTz) stamp);
	return stamp;
}

bool
local_wait_fail(int pid, const LocalWait *wait, const LockFailure *failure)
{
	LWLock	   *lock;
	LockHold   *hold = lock_wanted(pid, LW_EXCLUSIVE, &lock);
	const LockKey *key;
	bool		is_same;

	if (hold == NULL)
		return false;
	key = queued_key(hold);
	is_same = hold->wait_number == wait->number && key != NULL &&
		lock_key_id(key) == wait->key_id && hold->failure.kind == FAILURE_NONE;
	if (is_same)
	{
		hold->failure = *failure;
		lock_table_wake_later(hold->procno);
	}
	lock_table_unlock(lock);
	return is_same;
}
