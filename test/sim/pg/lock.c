/*-------------------------------------------------------------------------
 *
 * lock.c
 *	  PostgreSQL's lock manager: what a process knows of its own locks, and how
 *	  it waits.  sim_lockmgr.c has what processes share.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/backend_status.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#define MAX_LOCAL	256
#define MAX_OWNERS	16

typedef struct Owner
{
	ResourceOwner owner;		/* NULL: the session */
	int64		n;
} Owner;

typedef struct Local
{
	LOCKTAG		tag;
	LOCKMODE	mode;
	int64		n;				/* 0: not in use, or waited for */
	bool		used;
	XLogRecPtr	last_commit;	/* the session's, when it got the lock */
	Owner		owners[MAX_OWNERS];
	int			nowners;
} Local;

static Local locals[MAX_LOCAL];
static int	nlocals = 0;			/* those behind are not in use */
static Local *awaited = NULL;
static ResourceOwner awaited_owner = NULL;
static volatile sig_atomic_t got_deadlock_timeout = false;

static SimLockTag
shared_tag(const LOCKTAG *tag)
{
	SimLockTag	result;

	StaticAssertStmt(sizeof(LOCKTAG) == sizeof(SimLockTag), "size of a tag");
	memcpy(&result, tag, sizeof(result));
	return result;
}

static Local *
find_local(const LOCKTAG *tag, LOCKMODE mode, bool add)
{
	Local	   *unused = NULL;

	for (int i = 0; i < nlocals; i++)
	{
		Local	   *local = &locals[i];

		if (!local->used)
		{
			if (unused == NULL)
				unused = local;
		}
		else if (local->mode == mode && memcmp(&local->tag, tag, sizeof(LOCKTAG)) == 0)
			return local;
	}
	if (!add)
		return NULL;
	if (unused == NULL && nlocals == MAX_LOCAL)
		elog(PANIC, "too many local locks");
	if (unused == NULL)
		unused = &locals[nlocals++];
	memset(unused, 0, sizeof(Local));
	unused->tag = *tag;
	unused->mode = mode;
	unused->used = true;
	return unused;
}

static void
grant_local(Local *local, ResourceOwner owner)
{
	if (local->n++ == 0)
		local->last_commit = XactLastCommitEnd;
	for (int i = 0; i < local->nowners; i++)
	{
		if (local->owners[i].owner == owner)
		{
			local->owners[i].n++;
			return;
		}
	}
	if (local->nowners >= MAX_OWNERS)
		elog(PANIC, "too many owners of a lock");
	local->owners[local->nowners++] = (Owner) {owner, 1};
}

static void
release_shared(Local *local)
{
	SimLockTag	tag = shared_tag(&local->tag);

	/* The next session that gets it must not see changes that a crash undoes. */
	if (local->tag.locktag_type == LOCKTAG_ADVISORY && local->last_commit != XactLastCommitEnd)
		Assert(pg_commits_are_flushed());
	sim_lock_release(&tag, local->mode);
	local->used = false;
	while (nlocals > 0 && !locals[nlocals - 1].used)
		nlocals--;
}

/* As ProcSleep() when it joins a queue and finds that all would wait in a circle. */
static void
report_deadlock(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
			 errmsg("deadlock detected")));
}

void
CheckDeadLockAlert(void)
{
	got_deadlock_timeout = true;
	SetLatch(MyLatch);
}

/*
 * The lock was granted, or we wait no more.  Called wherever an error or an
 * interrupt ends the waiting: the grant may have come first.
 */
void
LockErrorCleanup(void)
{
	HOLD_INTERRUPTS();
	if (awaited != NULL)
	{
		Local	   *local = awaited;

		disable_timeout(DEADLOCK_TIMEOUT, false);
		disable_timeout(LOCK_TIMEOUT, true);
		awaited = NULL;
		if (sim_lock_granted())
			grant_local(local, awaited_owner);
		else
		{
			sim_lock_stop_waiting();
			local->used = local->n > 0;
		}
	}
	RESUME_INTERRUPTS();
}

static void
wait_for_lock(Local *local, ResourceOwner owner)
{
	bool		deadlock = false;

	awaited = local;
	awaited_owner = owner;
	got_deadlock_timeout = false;
	enable_timeout_after(DEADLOCK_TIMEOUT, DeadlockTimeout);
	pg_atomic_write_u64(&MyProc->waitStart, (uint64) GetCurrentTimestamp());
	if (LockTimeout > 0)
		enable_timeout_after(LOCK_TIMEOUT, LockTimeout);
	for (;;)
	{
		/* who grants it sets the latch, too */
		pg_deliver();
		while (!MyLatch->is_set && !sim_lock_is_granted())
		{
			(void) sim_block(pg_next_timer());
			pg_deliver();
		}
		ResetLatch(MyLatch);
		if (got_deadlock_timeout)
		{
			got_deadlock_timeout = false;
			deadlock = sim_lock_deadlock();
		}
		CHECK_FOR_INTERRUPTS();
		if (sim_lock_granted())
			break;
		if (deadlock)
		{
			LockErrorCleanup();
			report_deadlock();
		}
	}
	awaited = NULL;
	disable_timeout(DEADLOCK_TIMEOUT, false);
	disable_timeout(LOCK_TIMEOUT, false);
	grant_local(local, owner);
}

LockAcquireResult
LockAcquire(const LOCKTAG *locktag, LOCKMODE lockmode, bool sessionLock, bool dontWait)
{
	Local	   *local = find_local(locktag, lockmode, true);
	ResourceOwner owner = sessionLock ? NULL : CurrentResourceOwner;
	SimLockTag	tag = shared_tag(locktag);

	if (local->n > 0)
	{
		grant_local(local, owner);
		return LOCKACQUIRE_ALREADY_HELD;
	}
	pg_step();
	switch (sim_lock_ask(&tag, lockmode, !dontWait))
	{
		case SIM_LOCK_WOULD_WAIT:
			local->used = false;
			return LOCKACQUIRE_NOT_AVAIL;
		case SIM_LOCK_GRANTED:
			grant_local(local, owner);
			break;
		case SIM_LOCK_WAITING:
			wait_for_lock(local, owner);
			break;
	}
	pg_step();
	return LOCKACQUIRE_OK;
}

/* False: this owner has no count of it. */
static bool
ungrant_local(Local *local, ResourceOwner owner, bool all)
{
	for (int i = 0; i < local->nowners; i++)
	{
		int64		n = all ? local->owners[i].n : 1;

		if (local->owners[i].owner != owner)
			continue;
		local->owners[i].n -= n;
		local->n -= n;
		if (local->owners[i].n == 0)
			local->owners[i] = local->owners[--local->nowners];
		if (local->n == 0)
			release_shared(local);
		return true;
	}
	return false;
}

bool
LockRelease(const LOCKTAG *locktag, LOCKMODE lockmode, bool sessionLock)
{
	Local	   *local = find_local(locktag, lockmode, false);

	if (local == NULL || local->n == 0 ||
		!ungrant_local(local, sessionLock ? NULL : CurrentResourceOwner, false))
	{
		elog(WARNING, "you don't own a lock of type %d", lockmode);
		return false;
	}
	pg_step();
	return true;
}

bool
LockHeldByMe(const LOCKTAG *locktag, LOCKMODE lockmode)
{
	Local	   *local = find_local(locktag, lockmode, false);

	return local != NULL && local->n > 0;
}

static void
foreach_owner(bool (*wanted) (const Owner *owner, void *arg), void *arg)
{
	for (int i = 0; i < nlocals; i++)
	{
		Local	   *local = &locals[i];

		for (int o = 0; local->used && o < local->nowners;)
		{
			if (wanted(&local->owners[o], arg))
				(void) ungrant_local(local, local->owners[o].owner, true);
			else
				o++;
		}
	}
}

static bool
is_xact(const Owner *owner, void *arg)
{
	return owner->owner != NULL;
}

static bool
is_any(const Owner *owner, void *arg)
{
	return true;
}

static bool
is_this(const Owner *owner, void *arg)
{
	return owner->owner == arg;
}

/* ProcReleaseLocks(): at the end of a transaction. */
void
pg_locks_release_xact(void)
{
	LockErrorCleanup();
	foreach_owner(is_xact, NULL);
}

void
pg_locks_release_session(void)
{
	foreach_owner(is_any, NULL);
}

void
pg_locks_release_owner(ResourceOwner owner)
{
	foreach_owner(is_this, owner);
}

void
pg_locks_reassign(ResourceOwner from, ResourceOwner to)
{
	for (int i = 0; i < nlocals; i++)
	{
		Local	   *local = &locals[i];
		int			at = -1;

		for (int o = 0; local->used && o < local->nowners; o++)
		{
			if (local->owners[o].owner == from)
				at = o;
		}
		if (at < 0)
			continue;
		for (int o = 0; o < local->nowners; o++)
		{
			if (local->owners[o].owner == to)
			{
				local->owners[o].n += local->owners[at].n;
				local->owners[at] = local->owners[--local->nowners];
				at = -1;
				break;
			}
		}
		if (at >= 0)
			local->owners[at].owner = to;
	}
}

/* A row that is locked until the transaction ends; here with a tag of its own. */
void
pg_lock_row(int row)
{
	LOCKTAG		tag;

	SET_LOCKTAG_TUPLE(tag, MyDatabaseId, 1, 0, row);
	(void) LockAcquire(&tag, AccessExclusiveLock, false, false);
}

const char *
GetLockmodeName(LOCKMETHODID lockmethodid, LOCKMODE mode)
{
	return mode == ShareLock ? "ShareLock" : "ExclusiveLock";
}

/* ---- what others hold and wait for ---- */

static void
add_instance(void *arg, int pid, const SimLockTag *tag, int held_mask, int wait_mode)
{
	LockData   *data = arg;
	LockInstanceData *instance;

	if (data->nelements >= 1000)
		return;
	instance = &data->locks[data->nelements++];
	memset(instance, 0, sizeof(*instance));
	memcpy(&instance->locktag, tag, sizeof(LOCKTAG));
	instance->holdMask = held_mask;
	instance->waitLockMode = wait_mode;
	instance->pid = pid;
}

LockData *
GetLockStatusData(void)
{
	LockData   *data = palloc0(sizeof(LockData));

	data->locks = palloc0(1000 * sizeof(LockInstanceData));
	sim_lock_foreach(add_instance, data);
	return data;
}

Datum
pg_blocking_pids(PG_FUNCTION_ARGS)
{
	int			pids[SIM_MAX_PROCS];
	int			n = sim_lock_blockers(PG_GETARG_INT32(0), pids, SIM_MAX_PROCS);
	ArrayType  *array = palloc0(ARR_OVERHEAD_NONULLS(1) + n * sizeof(int32));

	SET_VARSIZE(array, ARR_OVERHEAD_NONULLS(1) + n * sizeof(int32));
	array->ndim = 1;
	array->elemtype = 23;
	ARR_DIMS(array)[0] = n;
	ARR_LBOUND(array)[0] = 1;
	memcpy(ARR_DATA_PTR(array), pids, n * sizeof(int32));
	PG_RETURN_ARRAYTYPE_P(array);
}

PGPROC *
BackendPidGetProc(int pid)
{
	for (int i = 0; pid != 0 && i < (int) ProcGlobal->allProcCount; i++)
	{
		if (ProcGlobal->allProcs[i].pid == pid)
			return &ProcGlobal->allProcs[i];
	}
	return NULL;
}

/* What processes wait for is only said in messages. */
BlockedProcsData *
GetBlockerStatusData(int blocked_pid)
{
	return palloc0(sizeof(BlockedProcsData));
}

const char *
pgstat_get_backend_current_activity(int pid, bool checkUser)
{
	return "a query";
}

int
ArrayGetNItems(int ndim, const int *dims)
{
	int			n = ndim > 0 ? 1 : 0;

	for (int i = 0; i < ndim; i++)
		n *= dims[i];
	return n;
}

void
DescribeLockTag(StringInfo buf, const LOCKTAG *tag)
{
	appendStringInfo(buf, "tag %u/%u", tag->locktag_field2, tag->locktag_field3);
}
