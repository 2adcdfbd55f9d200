/*-------------------------------------------------------------------------
 *
 * lock_acquire.c
 *	  Getting a lock: first PostgreSQL's within the server, then etcd's.
 *
 * The steps, which rule 18 of README.md explains:
 *
 *	1. local memory and the exit callback;
 *	2. a shared record that says that we wait;
 *	3. LockAcquire() on the tag, which may wait in the ordinary way;
 *	4. ask the shared table, and sleep until the worker has an answer;
 *	5. count it for the resource owner: from the grant on, nothing can throw.
 *
 * Whatever goes wrong, the tag and the record are given back; a FATAL error
 * leaves that to the exit callback.
 *
 *-------------------------------------------------------------------------
 */
#include "lock_session.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "commands/dbcommands.h"
#include "commit_guard.h"
#include "deadlock.h"
#include "loss.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "wait_log.h"

/*
 * A waiter looks at least this often whether the worker is alive, in
 * milliseconds.
 */
#define WATCHDOG	500

/*
 * A worker whose heart has not beaten for so long does not answer, whatever
 * connect_timeout says: when it has nothing to do it is only woken by the
 * watchdog.  Microseconds.
 */
#define WORKER_PATIENCE	INT64CONST(2000000)

/* Until when to wait; clock_now(), PG_INT64_MAX: for ever. */
typedef struct Patience
{
	int64		lock_timeout_at;	/* the lock_timeout setting: an error */
	int64		give_up_at;		/* the caller's own wish: a plain "no" */
} Patience;

typedef enum TagResult
{
	TAG_ACQUIRED,
	TAG_NOT_AVAILABLE,
	TAG_TRY_AGAIN
} TagResult;

static TimeoutId snapshot_timeout = MAX_TIMEOUTS;
static bool described = false;

static void
report_lock_timeout(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("canceling statement due to lock timeout")));
}

/*
 * While we wait in PostgreSQL's lock manager, somebody may begin to wait for
 * our transaction, as CREATE INDEX CONCURRENTLY does for every older snapshot.
 * When that is the holder of the lock, both wait for ever: our own check for
 * deadlocks ran before there was one, and the holder's check would end the
 * holder.  So check again, but only once somebody waits for us, which shows
 * in our virtual transaction's lock having left the fast path (rule 20).
 */
static void
snapshot_timeout_handler(void)
{
	/* A FATAL error leaves the timer armed until the process has ended. */
	if (MyProc != NULL && !MyProc->fpVXIDLock)
		CheckDeadLockAlert();
}

static void
arm_snapshot_timeout(void)
{
	int			every = Max(DeadlockTimeout / 3, 10);

	if (snapshot_timeout == MAX_TIMEOUTS)
		snapshot_timeout = RegisterTimeout(USER_TIMEOUT,
										   snapshot_timeout_handler);
	enable_timeout_every(snapshot_timeout,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), every),
						 every);
}

/* PostgreSQL's messages about a tag do not know its name (rule 28). */
static void
error_context(void *arg)
{
	const LocalHold *local = arg;

	errcontext("while waiting for etcd lock \"%s\"",
			   lock_name_for_user(local->name.key, local->name.namespace_len,
								  &local->name.tag));
	if (geterrcode() != ERRCODE_T_R_DEADLOCK_DETECTED || !TransactionIdIsValid(MyProc->xmin))
		return;
	if (local->mode == LOCK_EXCLUSIVE)
		errhint("If another session waits for this one's snapshot, as CREATE INDEX CONCURRENTLY does, wait with \"CALL etcd_lock_wait(...)\", which holds none.");
	else
		errhint("If another session waits for this one's snapshot, as CREATE INDEX CONCURRENTLY does, call etcd_try_lock_shared() again and again, each time in a transaction of its own.");
}

/* Milliseconds for LockTimeout, which has 0 for "none". */
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
	}
	PG_END_TRY();
}

/*
 * The same, but an end of the caller's own patience is no error, nor is another
 * session's deadlock (rule 20).  Only a subtransaction can catch one (rule 27).
 */
static TagResult
wait_for_tag_at_most(LocalHold *local, bool session, Patience patience)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile TagResult result = TAG_ACQUIRED;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		/* The lock is to belong to the caller's owner. */
		CurrentResourceOwner = owner;
		wait_for_tag(local, session,
					 Min(patience.give_up_at, patience.lock_timeout_at));
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
			!deadlock_is_ours())
			result = TAG_TRY_AGAIN;
		else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE &&
				 patience.lock_timeout_at > patience.give_up_at)
			result = TAG_NOT_AVAILABLE;
		else
			ReThrowError(error);
		FlushErrorState();
		FreeErrorData(error);

		/* The end of our patience and the grant may have met. */
		if (lock_session_has_tag(local))
			result = TAG_ACQUIRED;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return result;
}

static TagResult
acquire_tag(LocalHold *local, const LockRequest *request, Patience patience)
{
	TagResult	result;

	if (request->is_try || request->wait >= 0)
	{
		if (LockAcquire(&local->name.tag, lock_session_pgmode(local->mode),
						request->session, true) != LOCKACQUIRE_NOT_AVAIL)
			return TAG_ACQUIRED;
		if (request->is_try || patience.give_up_at <= clock_now())
			return TAG_NOT_AVAILABLE;
	}
	else if (!request->is_call)
	{
		wait_for_tag(local, request->session, patience.lock_timeout_at);
		return TAG_ACQUIRED;
	}

	do
		result = wait_for_tag_at_most(local, request->session, patience);
	while (result == TAG_TRY_AGAIN);
	return result;
}

static void
release_tag(LocalHold *local, bool session)
{
	LockRelease(&local->name.tag, lock_session_pgmode(local->mode), session);
}

/*
 * Give back what there is of a lock that was not granted: the record first,
 * so that the next one in PostgreSQL's queue does not find it.
 */
static void
give_up(LocalHold *local, bool have_tag, bool session)
{
	LOCKTAG		tag = local->name.tag;
	LOCKMODE	pgmode = lock_session_pgmode(local->mode);

	lock_session_forget(local);
	if (have_tag)
		LockRelease(&tag, pgmode, session);
}

/* Copy what the worker last met with; the caller reports it. */
static void
get_link_status(LinkStatus *status)
{
	LWLockAcquire(lock_shared->status_lock, LW_SHARED);
	*status = lock_shared->status;
	LWLockRelease(lock_shared->status_lock);
}

void
lock_report_unreachable(int waited)
{
	LinkStatus	status;

	get_link_status(&status);
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 pg_atomic_read_u32(&lock_shared->link_up) == 0 ?
			 errmsg("could not reach etcd within %d ms", waited) :
			 errmsg("could not get an answer or a lease from etcd within %d ms",
					waited),
			 status.last_error[0] != '\0' ?
			 errdetail("%s: %s", status.endpoint,
					   lock_text_for_user(status.last_error, strlen(status.last_error))) :
			 errdetail("There is no answer from \"%s\" yet.", status.endpoint),
			 errhint("Check the configuration parameter \"%s\" and the health of etcd.",
					 "etcd_lock.endpoints")));
}

static void
report_no_worker(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the etcd_lock worker does not answer"),
			 errhint("The server log tells why; it is restarted by the server.")));
}

static void
report_failure(LocalHold *local, const LockFailure *failure)
{
	char	   *name = lock_name_for_user(local->name.key,
										  local->name.namespace_len,
										  &local->name.tag);

	if (failure->kind == FAILURE_DEADLOCK)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
				 errmsg("deadlock detected"),
				 errdetail("This server shares etcd lock \"%s\" and wants it exclusively; another server that waits for it exclusively came first.",
						   name),
				 errhint("Release the shared lock before asking for the exclusive one.")));
	else if (failure->kind == FAILURE_UNSURE)
		ereport(ERROR,
				(errcode(failure->sqlerrcode),
				 errmsg("lost the answer to a claim of a tick for etcd lock \"%s\"", name),
				 errdetail("%s", failure->message)));
	else if (failure->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		ereport(ERROR,
				(errcode(failure->sqlerrcode),
				 errmsg("permission denied by etcd for \"%s\"", name),
				 errdetail("%s", lock_text_for_user(failure->message, strlen(failure->message)))));
	else
		ereport(ERROR,
				(errcode(failure->sqlerrcode),
				 errmsg("etcd refused lock \"%s\"", name),
				 errdetail("%s", lock_text_for_user(failure->message, strlen(failure->message)))));
}

/*
 * Is there any hope left?  A waiter that has its place in etcd's queue keeps
 * it through an outage, as long as the lease lives; a request without one is not
 * kept waiting for longer than connect_timeout.  hopeful_at: when all was well,
 * or it had a place, for the last time.
 */
static void
check_link(LocalHold *local, int64 *hopeful_at, int64 *heartbeat, int64 *beat_at)
{
	int64		now = clock_now();
	int64		beat = (int64) pg_atomic_read_u64(&lock_shared->worker_heartbeat);
	int64		timeout = (int64) etcd_lock_connect_timeout * 1000;

	if (beat != *heartbeat)
	{
		*heartbeat = beat;
		*beat_at = now;
	}
	if (now - *beat_at >= Max(timeout, WORKER_PATIENCE))
		report_no_worker();
	if ((pg_atomic_read_u32(&lock_shared->link_up) != 0 &&
		 pg_atomic_read_u64(&lock_shared->lease) != 0) ||
		(!local->hold->is_try && lock_table_is_queued(local->hold)))
		*hopeful_at = now;
	else if (now - *hopeful_at >= timeout)
		lock_report_unreachable(etcd_lock_connect_timeout);
}

/*
 * Having PostgreSQL's lock, wait for etcd's.  Returns LOCK_ASK_WAIT when the
 * caller's own patience has ended.
 */
static LockAskResult
await_etcd(LocalHold *local, Patience patience, WaitLog *log)
{
	int64		asked_at = clock_now();
	int64		hopeful_at = asked_at;
	int64		beat_at = asked_at;
	int64		heartbeat = 0;
	bool		deadlock_logged = false;

	for (;;)
	{
		LockAskResult result;
		int64		now;
		int64		left;

		ResetLatch(MyLatch);

		/* A timeout may have met the grant of PostgreSQL's lock. */
		CHECK_FOR_INTERRUPTS();
		result = lock_table_ask(local->hold);
		if (result != LOCK_ASK_WAIT)
			return result;

		check_link(local, &hopeful_at, &heartbeat, &beat_at);
		wait_log_tick(log, local, false);
		now = clock_now();
		if (now >= patience.lock_timeout_at &&
			patience.lock_timeout_at <= patience.give_up_at)
			report_lock_timeout();
		if (now >= patience.give_up_at)
			return LOCK_ASK_WAIT;

		/*
		 * Here PostgreSQL does not know that we wait, and for whom: say so
		 * to whoever wonders why an index build does not end.
		 */
		if (!deadlock_logged && !MyProc->fpVXIDLock &&
			now - asked_at >= (int64) DeadlockTimeout * 1000)
		{
			deadlock_logged = true;
			ereport(LOG,
					(errmsg("a session that waits for etcd lock \"%s\" holds up another one that waits for its transaction",
							local->name.key),
					 errhint("Wait with \"CALL etcd_lock_wait(...)\", which holds no snapshot while it waits.")));
		}

		left = Min(patience.lock_timeout_at, patience.give_up_at);
		left = Min(left, wait_log_next_time(log));
		left = Min(left, hopeful_at + (int64) etcd_lock_connect_timeout * 1000);
		left = Max(Min((left - now) / 1000 + 1, WATCHDOG), 0);
		if (now - asked_at >= WATCHDOG * INT64CONST(1000))
			lock_table_wake_worker();	/* for its heartbeat */
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) left, etcd_lock_wait_event_acquire());
	}
}

/* Those who share the lock here may wait for us, unseen by PostgreSQL. */
static void
check_drain_deadlock(LocalHold *local)
{
	int			holder = deadlock_with_holder(local->hold);

	if (holder != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
				 errmsg("deadlock detected"),
				 errdetail("Process %d waits until etcd lock \"%s\" is released, which process %d holds; process %d waits for process %d.",
						   MyProcPid,
						   lock_name_for_user(local->name.key,
											  local->name.namespace_len,
											  &local->name.tag),
						   holder, holder, MyProcPid)));
}

/*
 * Without the lock tag, wait until the key that we may not join has drained:
 * while we had the tag, a session here that shares and asks for exclusive mode
 * would wait for us unseen (rule 21).  False: our patience has ended.
 */
static bool
await_drain(LocalHold *local, Patience patience, WaitLog *log)
{
	int64		now = clock_now();
	int64		left = Min(patience.lock_timeout_at, patience.give_up_at);

	wait_log_tick(log, local, true);
	left = Min(left, wait_log_next_time(log));

	if (now >= patience.lock_timeout_at &&
		patience.lock_timeout_at <= patience.give_up_at)
		report_lock_timeout();
	if (now >= patience.give_up_at)
		return false;
	left = left == PG_INT64_MAX ? WATCHDOG : Max(Min((left - now) / 1000 + 1, WATCHDOG), 0);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 (long) left, etcd_lock_wait_event_acquire());
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}

/* As what an error counts that has ended the acquiring of a lock. */
static LockOutcome
outcome_of(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return LOCK_OUTCOME_TIMEOUT;
		case ERRCODE_T_R_DEADLOCK_DETECTED:
			return LOCK_OUTCOME_DEADLOCK;
		case ERRCODE_QUERY_CANCELED:
			return LOCK_OUTCOME_CANCELLED;
		default:
			return LOCK_OUTCOME_FAILED;
	}
}

/* Steps 3 and 4.  True: granted; false: not available, nothing acquired. */
static bool
acquire_both(LocalHold *local, const LockRequest *request, Patience patience)
{
	bool		had_tag = lock_session_has_tag(local);
	volatile bool have_tag = false;
	volatile bool granted = false;
	int64		deadlock_check_at = clock_now() + (int64) DeadlockTimeout * 1000;
	WaitLog		log = {0};
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = error_context,
		.arg = local
	};

	error_context_stack = &context;
	PG_TRY();
	{
		for (;;)
		{
			LockAskResult result;

			if (acquire_tag(local, request, patience) != TAG_ACQUIRED)
				break;
			have_tag = true;

			result = await_etcd(local, patience, &log);
			if (result == LOCK_ASK_FAILED &&
				local->hold->failure.kind != FAILURE_REFUSED)
				report_failure(local, &local->hold->failure);
			granted = (result == LOCK_ASK_GRANTED);
			if (granted)
				wait_log_granted(&log, local);
			if (result != LOCK_ASK_DRAIN)
				break;

			have_tag = false;
			release_tag(local, request->session);
			if (!await_drain(local, patience, &log))
				break;
			if (clock_now() >= deadlock_check_at)
			{
				check_drain_deadlock(local);
				deadlock_check_at = clock_now() + (int64) DeadlockTimeout * 1000;
			}
		}
	}
	PG_CATCH();
	{
		error_context_stack = context.previous;

		/*
		 * An interrupt may have met the grant of PostgreSQL's lock: then it is
		 * ours, though LockAcquire() did not return.  Session locks survive
		 * the abort that follows.
		 */
		LockErrorCleanup();
		if (!had_tag && !have_tag && lock_session_has_tag(local))
			have_tag = true;
		local->hold->outcome = outcome_of(geterrcode());
		give_up(local, have_tag, request->session);
		PG_RE_THROW();
	}
	PG_END_TRY();
	error_context_stack = context.previous;

	if (!granted)
	{
		local->hold->outcome = request->is_try ? LOCK_OUTCOME_TRY_FAILED : LOCK_OUTCOME_TIMEOUT;
		give_up(local, have_tag, request->session);
	}
	return granted;
}

/* Tell the shared table who we are, for the values of our keys in etcd. */
void
lock_describe_session(void)
{
	LockProc   *proc = lock_table_proc(compat_my_procno());
	char	   *database;

	/* The name of neither can change while we are here. */
	if (!described)
	{
		/* Not to be allocated after commit, where nothing may throw. */
		(void) etcd_lock_wait_event_release();

		database = get_database_name(MyDatabaseId);
		lock_text_to_utf8(database ? database : "", proc->who.database,
						  LOCK_PROC_TEXT);
		lock_text_to_utf8(GetUserNameFromId(GetSessionUserId(), false),
						  proc->who.username, LOCK_PROC_TEXT);
		described = true;
	}
	/* ASCII, whatever the database's encoding */
	strlcpy(proc->who.application, application_name ? application_name : "",
			LOCK_PROC_TEXT);
}

void
lock_report_lost(LocalHold *local)
{
	ereport(ERROR,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 errmsg("etcd lock \"%s\" was lost",
					lock_name_for_user(local->name.key, local->name.namespace_len,
									   &local->name.tag)),
			 errdetail("This session held it with token " INT64_FORMAT "; another server may have it now.",
					   local->token),
			 errhint("Release it with etcd_unlock(), then acquire it anew.")));
}

int64
lock_acquire(const LockName *name, const LockRequest *request)
{
	LocalHold  *local = lock_session_find(name, request->mode);
	ResourceOwner owner = request->session ? NULL : CurrentResourceOwner;
	LockMode	other_mode = request->mode == LOCK_SHARED ? LOCK_EXCLUSIVE : LOCK_SHARED;
	LocalHold  *other;
	int64		now = clock_now();
	Patience	patience;

	/* PostgreSQL's lock does not keep the processes of one query apart. */
	if (IsParallelWorker())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot acquire etcd locks in a parallel worker")));

	if (local != NULL && !lock_session_has_tag(local))
	{
		lock_session_forget(local);
		local = NULL;
	}

	/* Held already: count it once more. */
	if (local != NULL)
	{
		if (!lock_table_hold_valid(local->hold))
			lock_report_lost(local);
		Assert(!request->has_tick);
		(void) lock_session_enter(name, request->mode);
		(void) LockAcquire(&name->tag, lock_session_pgmode(request->mode),
						   request->session, true);
		lock_session_count(local, owner, 1);
		commit_guard_to_front();
		return local->token;
	}

	other = lock_session_find(name, other_mode);
	if (other != NULL && !lock_session_has_tag(other))
	{
		lock_session_forget(other);
		other = NULL;
	}
	if (other != NULL)
	{
		if (!lock_table_hold_valid(other->hold))
			lock_report_lost(other);
		Assert(!request->has_tick);
	}

	patience.lock_timeout_at = LockTimeout > 0
		? now + (int64) LockTimeout * 1000 : PG_INT64_MAX;
	patience.give_up_at = request->wait >= 0 && request->wait < PG_INT64_MAX - now
		? now + request->wait : PG_INT64_MAX;

	lock_describe_session();
	commit_guard_to_front();
	local = lock_session_enter(name, request->mode);
	switch (lock_table_wait(name, request->mode,
							request->mode == LOCK_EXCLUSIVE && other != NULL,
							&local->hold))
	{
		case LOCK_WAIT_OK:
			break;
		case LOCK_WAIT_TABLE_FULL:
			lock_session_forget(local);
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("no room for another etcd lock on this server"),
					 errhint("You might need to increase the configuration parameter \"%s\".",
							 "etcd_lock.max_names")));
			break;
		case LOCK_WAIT_NAME_CONFLICT:
			lock_session_forget(local);
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("etcd lock name \"%s\" is in use for another kind of lock on this server",
							name->key)));
			break;
	}
	local->hold->on_loss = etcd_lock_on_loss;
	local->hold->for_session = request->session;
	local->hold->is_try = request->is_try;
	local->hold->has_tick = request->has_tick;
	local->hold->tick = request->tick;
	local->hold->claim = request->claim;

	if (!acquire_both(local, request, patience))
		return 0;

	lock_session_count(local, owner, 1);
	local->token = local->hold->token;
	loss_watch(local);
	return local->token;
}

/* ----------------------------------------------------------------
 *		Does etcd still have our key?
 * ----------------------------------------------------------------
 */

/* Asked of etcd, linearizably. */
LockCheck
lock_check(LocalHold *local)
{
	int64		asked_at = clock_now();
	int64		timeout = (int64) etcd_lock_request_timeout * 1000;
	uint64		check;

	if (!lock_table_hold_valid(local->hold))
		return LOCK_CHECK_LOST;
	check = lock_table_start_check(local->hold);
	for (;;)
	{
		ResetLatch(MyLatch);
		if (!lock_table_hold_valid(local->hold))
			return LOCK_CHECK_LOST;
		if (lock_table_check_done(local->hold, check))
			return lock_table_hold_valid(local->hold)
				? LOCK_CHECK_HELD : LOCK_CHECK_LOST;
		CHECK_FOR_INTERRUPTS();
		if (clock_now() - asked_at >= timeout)
			return LOCK_CHECK_UNKNOWN;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 WATCHDOG, etcd_lock_wait_event_check());
	}
}
