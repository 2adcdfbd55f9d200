/*-------------------------------------------------------------------------
 *
 * wait_tag.c
 *	  The first part of a wait: for PostgreSQL's lock.
 *
 * LockAcquire() waits in the ordinary way, with three exceptions: lock_timeout
 * covers both parts of the wait; the caller's own deadline is not an error;
 * and other sessions may wait for this session's snapshot (rule 20).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "session/deadlock.h"
#include "session/wait_tag.h"
#include "shared/lock_holds.h"
#include "shared/lock_trace.h"
#include "shared/role_budget.h"
#include "shared/wait_events.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/*
 * How often a try checks whether another session here gets the lock, in
 * milliseconds: a part of the time waited, because for an integer key each
 * check copies PostgreSQL's whole lock table.
 */
#define SHORTEST_TRY_POLL	2
#define LONGEST_TRY_POLL	50

/* How often a waiter checks whether somebody waits for it. */
#define TICKS_BEFORE_DEADLOCK_TIMEOUT	3

/* How long a session waits that overtakes those who wait for it, in microseconds. */
#define OVERTAKING		INT64CONST(5000)

/* For find_foreign_holder(). */
#define ANYBODY			(-1)

typedef enum TagResult
{
	TAG_ACQUIRED,
	TAG_NOT_AVAILABLE,
	TAG_TRY_AGAIN
} TagResult;

static TimeoutId snapshot_timeout = MAX_TIMEOUTS;
static int	snapshot_ticks;

/*
 * While we wait in PostgreSQL's lock manager, somebody may begin to wait for
 * our transaction, as CREATE INDEX CONCURRENTLY does for every older snapshot.
 * If that is the holder of the lock, both wait forever: our own deadlock check
 * ran before there was a deadlock, and the holder's check would end the
 * holder.  So check again, but only once somebody waits for us, which is the
 * case when our virtual transaction's lock has left the fast path (rule 20).
 */
static void
snapshot_timeout_handler(void)
{
	/* ProcSleep() has logged the wait, and would again each time it is woken. */
	if (++snapshot_ticks > TICKS_BEFORE_DEADLOCK_TIMEOUT)
		log_lock_waits = false;

	/* A FATAL error leaves the timer armed until the process has ended. */
	if (MyProc != NULL && !MyProc->fpVXIDLock)
		CheckDeadLockAlert();
}

/* Three times in each deadlock_timeout, but never at its end. */
static void
arm_snapshot_timeout(void)
{
	int			every = Max(DeadlockTimeout / TICKS_BEFORE_DEADLOCK_TIMEOUT, 10);

	if (snapshot_timeout == MAX_TIMEOUTS)
		snapshot_timeout = RegisterTimeout(USER_TIMEOUT,
										   snapshot_timeout_handler);
	snapshot_ticks = 0;
	enable_timeout_every(snapshot_timeout,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), every / 2),
						 every);
}

/* In the words in which PostgreSQL would have logged it. */
static void
log_acquired_tag(const LocalHold *local, int64 since)
{
	int64		waited = clock_now() - since;
	StringInfoData buf;

	initStringInfo(&buf);
	DescribeLockTag(&buf, &local->name.tag);
	ereport(LOG,
			(errmsg("process %d acquired %s on %s after %lld.%03d ms", MyProcPid,
					GetLockmodeName(DEFAULT_LOCKMETHOD, lock_session_pgmode(local->mode)),
					buf.data, (long long) (waited / 1000), (int) (waited % 1000))));
	pfree(buf.data);
}

/* Milliseconds for LockTimeout, for which 0 means "none". */
static int
left_for_lock_timeout(int64 until)
{
	int64		left;

	if (until == PG_INT64_MAX)
		return 0;
	left = (until - clock_now() + 999) / 1000;
	return (int) Max(Min(left, PG_INT32_MAX), 1);
}

/* LockAcquire() with what is left of lock_timeout. */
static void
wait_for_tag(LocalHold *local, bool session, int64 until)
{
	int			saved = LockTimeout;
	bool		logs_waits = log_lock_waits;
	int64		since = clock_now();
	volatile bool silenced = false;

	arm_snapshot_timeout();
	PG_TRY();
	{
		LockTimeout = left_for_lock_timeout(until);
		(void) LockAcquire(&local->name.tag, lock_session_pgmode(local->mode),
						   session, false);
	}
	PG_FINALLY();
	{
		LockTimeout = saved;
		disable_timeout(snapshot_timeout, false);
		silenced = logs_waits && !log_lock_waits;
		log_lock_waits = logs_waits;
	}
	PG_END_TRY();
	if (silenced)
		log_acquired_tag(local, since);
}

/*
 * The same, but neither the end of the caller's own deadlines nor another
 * session's deadlock (rule 20) is an error.  Only a subtransaction can catch
 * those errors (rule 27).
 */
static TagResult
wait_for_tag_at_most(LocalHold *local, const LockRequest *request,
					 const WaitDeadlines *deadlines)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile TagResult result = TAG_ACQUIRED;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		/* The lock is to belong to the caller's owner. */
		CurrentResourceOwner = owner;
		wait_for_tag(local, request->session,
					 Min(deadlines->give_up_at, deadlines->lock_timeout_at));
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED &&
			(request->is_try || !deadlock_is_ours()))
			result = TAG_TRY_AGAIN;
		else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE &&
				 deadlines->lock_timeout_at > deadlines->give_up_at)
			result = clock_now() < deadlines->give_up_at ?	/* PostgreSQL's longest */
				TAG_TRY_AGAIN : TAG_NOT_AVAILABLE;
		else
			ReThrowError(error);
		FlushErrorState();
		FreeErrorData(error);

		/* The end of our deadlines and the grant may have coincided. */
		if (lock_session_has_tag(local))
			result = TAG_ACQUIRED;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return result;
}

/*
 * Who holds an integer key in PostgreSQL's lock table, and neither holds nor wants the
 * lock by our functions?  only: this process, unless it is ANYBODY.  Returns false if there
 * is nobody.
 */
static bool
find_foreign_holder(LocalHold *local, int only, LockForeignHolder *foreign)
{
	LockData   *locks = GetLockStatusData();
	bool		found = false;

	for (int i = 0; i < locks->nelements && !found; i++)
	{
		const LockInstanceData *lock = &locks->locks[i];

		found = lock->holdMask != 0 && lock->pid != MyProcPid &&
			(only == ANYBODY || lock->pid == only) &&
			memcmp(&lock->locktag, &local->name.tag, sizeof(LOCKTAG)) == 0 &&
			lock_hold_is_foreign(local->hold, lock->pid, foreign);
	}
	pfree(locks->locks);
	pfree(locks);
	return found;
}

/*
 * The session cannot have PostgreSQL's lock.  Does somebody have the lock, or
 * hold the integer key by pg_advisory_lock()?  Otherwise somebody is only
 * asking etcd.
 */
bool
wait_tag_somebody_has(LocalHold *local)
{
	LockForeignHolder first;
	LockForeignHolder second;

	if (lock_hold_somebody_has(local->hold))
		return true;
	if (local->name.tag.locktag_field1 == InvalidOid)
		return false;			/* a text name: nobody else knows its tag */

	/*
	 * A session that was asking etcd may have given up since PostgreSQL's
	 * table was copied.  If it has not between two copies that both have it,
	 * it was never ours.
	 */
	return find_foreign_holder(local, ANYBODY, &first) &&
		find_foreign_holder(local, first.pid, &second) &&
		first.given_up == second.given_up;
}

/* Returns false if another session has it, or is waiting. */
static bool
acquire_at_once(LocalHold *local, const LockRequest *request)
{
	return LockAcquire(&local->name.tag, lock_session_pgmode(local->mode),
					   request->session, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Returns false if another session has it.  Before PostgreSQL 17, LockAcquire()
 * lets a session that has the lock in the other mode overtake those that wait
 * for that only if it may wait itself.  It does not wait if it would have to:
 * in the queue, it would be in the way of others.
 */
static bool
acquire_without_waiting(LocalHold *local, const LockRequest *request,
						const WaitDeadlines *deadlines)
{
	LockMode	other = local->mode == LOCK_EXCLUSIVE ? LOCK_SHARED : LOCK_EXCLUSIVE;
	WaitDeadlines soon = *deadlines;

	if (acquire_at_once(local, request))
		return true;
#if PG_VERSION_NUM >= 170000
	return false;
#endif
	if (!compat_lock_held_by_me(&local->name.tag, lock_session_pgmode(other)) ||
		(local->mode == LOCK_EXCLUSIVE &&
		 (lock_hold_others_have_tag(local->hold) || wait_tag_somebody_has(local))))
		return false;
	soon.give_up_at = Min(soon.give_up_at, clock_now() + OVERTAKING);
	return wait_for_tag_at_most(local, request, &soon) == TAG_ACQUIRED;
}

/*
 * Another session here has PostgreSQL's lock.  Say "no" only if somebody has
 * etcd's, too: until that session knows, wait with it, because otherwise an
 * outage of etcd would look like a holder.
 */
static bool
try_again(LocalHold *local, const LockRequest *request, const WaitDeadlines *deadlines)
{
	int64		since = clock_now();

	while (!wait_tag_somebody_has(local))
	{
		int64		poll = (clock_now() - since) / 8000;

		CHECK_FOR_INTERRUPTS();
		wait_deadlines_check_lock_timeout(deadlines);
		wait_deadlines_check_response(deadlines);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) Min(Max(poll, SHORTEST_TRY_POLL), LONGEST_TRY_POLL),
						 wait_events_acquire());
		ResetLatch(MyLatch);
		if (acquire_without_waiting(local, request, deadlines))
			return true;
	}
	return false;
}

/* Report it before the wait, which may be long. */
static void
trace_blocker(LocalHold *local)
{
	int			pid = lock_hold_blocker(local->hold);

	if (pid != 0)
		lock_trace_name(LOCK_TRACE_WAITS_HERE, &local->name, pid);
	lock_trace_say_noted();
}

bool
wait_tag_acquire(LocalHold *local, const LockRequest *request,
				 const WaitDeadlines *deadlines)
{
	TagResult	result;

	if (request->is_try || request->wait >= 0)
	{
		if (acquire_without_waiting(local, request, deadlines))
			return true;
		if (request->is_try)
			return try_again(local, request, deadlines);
		if (deadlines->give_up_at <= clock_now())
			return false;

		/* If it never gets the lock, others must have been seen by then. */
		(void) lock_hold_somebody_has(local->hold);
	}
	else if (role_budget_limits_waits() &&
			 acquire_without_waiting(local, request, deadlines))
		return true;

	if (unlikely(lock_trace_on))
		trace_blocker(local);

	/*
	 * Without a limit it may not have to wait; then it is counted for a
	 * moment.
	 */
	role_budget_begin_wait();
	if (request->wait < 0 && !request->is_call)
	{
		wait_for_tag(local, request->session, deadlines->lock_timeout_at);
		return true;
	}

	do
		result = wait_for_tag_at_most(local, request, deadlines);
	while (result == TAG_TRY_AGAIN);
	return result == TAG_ACQUIRED;
}

void
wait_tag_release(LocalHold *local, const LockRequest *request)
{
	LockRelease(&local->name.tag, lock_session_pgmode(local->mode), request->session);
}
