/*-------------------------------------------------------------------------
 *
 * wait_etcd.c
 *	  The second part of a wait: for etcd's lock.
 *
 * The session has PostgreSQL's lock.  It asks the shared table, and sleeps until the
 * worker, or another session, has changed something there.  PostgreSQL knows nothing of
 * this wait: that the worker is alive, that there is a link, deadlocks and the log are
 * looked after here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "session/deadlock.h"
#include "session/lock_check.h"
#include "session/wait_etcd.h"
#include "shared/link_status.h"
#include "shared/lock_holds.h"
#include "shared/lock_trace.h"
#include "shared/role_budget.h"
#include "shared/settings.h"
#include "shared/wait_events.h"
#include "storage/proc.h"

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
#define WORKER_TIMEOUT	INT64CONST(2000000)

/*
 * A wait that ends by an error asks who holds the lock so long before, that the
 * error can tell; and again each POLL, as long as it is not known who is ahead.
 * Microseconds.
 */
#define ASK_HOLDER_BEFORE	INT64CONST(200000)
#define ASK_HOLDER_POLL		INT64CONST(10000)

/* As the worker has it; microseconds. */
#define LONGEST_PROBE_INTERVAL	INT64CONST(60000000)

static void
report_no_worker(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the etcd_lock worker is not responding"),
			 errhint("See the server log for the reason; the server restarts the worker.")));
}

static bool
has_lease(void)
{
	return pg_atomic_read_u32(&lock_shared->link_up) != 0 &&
		pg_atomic_read_u64(&lock_shared->lease) != 0;
}

static void
check_worker(WaitEtcd *wait)
{
	int64		now = clock_now();
	uint64		heartbeat = pg_atomic_read_u64(&lock_shared->worker_heartbeat);

	if (heartbeat != wait->heartbeat)
	{
		wait->heartbeat = heartbeat;
		wait->beat_at = now;
	}
	if (now - wait->beat_at >= Max((int64) etcd_lock_connect_timeout * 1000, WORKER_TIMEOUT))
		report_no_worker();

	/* For its heartbeat; of many who wait, one wakes it. */
	if (now - wait->asked_at >= WATCHDOG * INT64CONST(1000) &&
		now - (int64) heartbeat >= WATCHDOG * INT64CONST(1000))
		lock_table_wake_worker();
}

/*
 * One with a tick has more time: when the response is lost, the tick may be claimed,
 * and nobody would run.
 */
static bool
must_be_answered(const WaitEtcd *wait)
{
	return wait->local->hold->is_try && !wait->local->hold->has_tick;
}

/*
 * A waiter that has its place in etcd's queue keeps it through an outage, as long as the
 * lease lives; a request without one is not kept waiting for longer than
 * connect_timeout.
 */
static void
check_link(WaitEtcd *wait)
{
	LockHold   *hold = wait->local->hold;
	int64		now = clock_now();

	if (must_be_answered(wait))
		wait_deadlines_check_response(wait->deadlines);
	if (has_lease() || (!hold->is_try && lock_hold_is_queued(hold)))
		wait->last_progress_at = now;
	else if (now - wait->last_progress_at >= (int64) etcd_lock_connect_timeout * 1000)
		lock_check_report_unreachable(etcd_lock_connect_timeout);
}

/* For the trace of this session, ask once who has the lock. */
static void
trace_holder(WaitEtcd *wait)
{
	LockHold   *hold = wait->local->hold;
	char	   *holder = NULL;

	if (wait->trace_holder == TRACE_HOLDER_SAID || !lock_hold_is_queued(hold))
		return;
	if (wait->trace_holder == TRACE_HOLDER_ASKED)
		holder = wait_log_get_holder(hold);
	if (holder != NULL)
	{
		wait->trace_holder = TRACE_HOLDER_SAID;
		lock_trace_say_holder(&wait->local->name, holder);
	}
	else
	{
		wait->trace_holder = TRACE_HOLDER_ASKED;
		lock_hold_ask_holder(hold, true);
	}
}

static void
ask_holder_in_time(WaitEtcd *wait)
{
	int64		now = clock_now();

	if (now < wait->ask_holder_at)
		return;
	lock_hold_ask_holder(wait->local->hold, false);
	wait->ask_holder_at = now + ASK_HOLDER_POLL;
}

/*
 * After a long wait, ask the worker to search for a deadlock.  The worker then
 * repeats the search by itself; a later worker has to be asked again.
 */
static void
look_for_deadlock(WaitEtcd *wait)
{
	int64		now = clock_now();

	if (now < wait->probe_at)
		return;
	lock_hold_ask_probe(wait->local->hold);
	wait->probe_interval = Min(wait->probe_interval * 2, LONGEST_PROBE_INTERVAL);
	wait->probe_at = now + wait->probe_interval;
}

/*
 * PostgreSQL does not know that we wait here, and for whom, so log it, because
 * somebody may wonder why an index build does not end.
 */
static void
log_deadlock(WaitEtcd *wait)
{
	if (wait->deadlock_logged || MyProc->fpVXIDLock ||
		clock_now() - wait->asked_at < (int64) DeadlockTimeout * 1000)
		return;
	wait->deadlock_logged = true;
	ereport(LOG,
			(errmsg("a session that waits for etcd lock \"%s\" holds up another one that waits for its transaction",
					lock_name_for_message(&wait->local->name)),
			 errhint("Wait with \"CALL etcd_lock_wait(...)\", which holds no snapshot while it waits.")));
}

static void
sleep_until_changed(WaitEtcd *wait)
{
	const WaitDeadlines *deadlines = wait->deadlines;
	int64		until = Min(deadlines->lock_timeout_at, deadlines->give_up_at);

	if (must_be_answered(wait))
		until = Min(until, deadlines->respond_by);
	until = Min(until, wait_log_next_time(&wait->log));
	until = Min(until, wait->ask_holder_at);
	until = Min(until, wait->probe_at);
	until = Min(until, wait->last_progress_at + (int64) etcd_lock_connect_timeout * 1000);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 wait_deadlines_left(until, WATCHDOG), wait_events_acquire());
}

void
wait_etcd_begin(WaitEtcd *wait, LocalHold *local, const WaitDeadlines *deadlines)
{
	memset(wait, 0, sizeof(*wait));
	wait->local = local;
	wait->deadlines = deadlines;
	wait->drain_check_at = clock_now() + (int64) DeadlockTimeout * 1000;
}

/*
 * Since when has this request made no progress?  Sessions that ask for a lock while there
 * is no link do not each wait for connect_timeout, one after another in PostgreSQL's queue.
 */
static int64
last_progress(const WaitEtcd *wait, int64 now)
{
	LinkStatus	status;

	if (has_lease())
		return now;
	link_status_get(&status);
	return !status.up && wait->deadlines->began_at >= status.down_at ?
		wait->deadlines->began_at : now;
}

/* PostgreSQL's lock has just been acquired. */
static void
begin_again(WaitEtcd *wait)
{
	int64		now = clock_now();

	wait->asked_at = now;
	wait->last_progress_at = last_progress(wait, now);
	wait->heartbeat = 0;
	wait->beat_at = now;
	wait->ask_holder_at = wait->deadlines->error_at - ASK_HOLDER_BEFORE;
	wait->probe_interval = (int64) DeadlockTimeout * 1000;
	wait->probe_at = wait->local->hold->is_try ? PG_INT64_MAX : now + wait->probe_interval;
	wait->deadlock_logged = false;
	wait->trace_holder = TRACE_HOLDER_UNKNOWN;
}

/*
 * Having PostgreSQL's lock, wait for etcd's.  When the caller's own deadline has
 * passed, returns LOCK_ASK_FAILED if somebody else has the lock, as far as etcd has
 * said, and LOCK_ASK_WAIT if etcd has said nothing.
 */
LockAskResult
wait_etcd_grant(WaitEtcd *wait)
{
	LocalHold  *local = wait->local;

	Assert(lock_session_has_tag(local));
	begin_again(wait);
	for (;;)
	{
		LockAskResult result;
		bool		others = false;

		ResetLatch(MyLatch);

		/* A timeout may have met the grant of PostgreSQL's lock. */
		CHECK_FOR_INTERRUPTS();
		result = lock_grant_ask(local->hold);
		if (result != LOCK_ASK_WAIT)
			return result;

		if (unlikely(lock_trace_on))
		{
			lock_trace_say_noted();
			trace_holder(wait);
		}
		check_worker(wait);
		check_link(wait);
		wait_log_tick(&wait->log, local, false);
		if (!local->hold->is_try && lock_hold_is_behind(local->hold))
			role_budget_begin_wait();
		if (wait->deadlines->give_up_at != PG_INT64_MAX)
			others = lock_hold_others_ahead(local->hold);
		ask_holder_in_time(wait);
		wait_deadlines_check_lock_timeout(wait->deadlines);

		if (clock_now() >= wait->deadlines->give_up_at)
			return others ? LOCK_ASK_FAILED : LOCK_ASK_WAIT;
		log_deadlock(wait);
		look_for_deadlock(wait);
		sleep_until_changed(wait);
	}
}

/* Those who share the lock here may wait for us, unseen by PostgreSQL. */
static void
check_drain_deadlock(WaitEtcd *wait)
{
	int			holder;

	if (clock_now() < wait->drain_check_at)
		return;
	holder = deadlock_with_holder(wait->local->hold);
	if (holder != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
				 errmsg("deadlock detected"),
				 errdetail("Process %d waits until etcd lock \"%s\" is released, which process %d holds; process %d waits for process %d.",
						   MyProcPid,
						   lock_name_for_message(&wait->local->name),
						   holder, holder, MyProcPid)));
	wait->drain_check_at = clock_now() + (int64) DeadlockTimeout * 1000;
}

/*
 * Without PostgreSQL's lock, wait until the key that we may not join has drained:
 * while we had that lock, a session here that shares and asks for exclusive mode
 * would wait for us unseen (rule 21).  Returns false if the caller's own deadline has
 * passed.
 */
bool
wait_etcd_drain(WaitEtcd *wait)
{
	const WaitDeadlines *deadlines = wait->deadlines;
	int64		until = Min(deadlines->lock_timeout_at, deadlines->give_up_at);

	role_budget_begin_wait();
	wait_log_tick(&wait->log, wait->local, true);
	until = Min(until, wait_log_next_time(&wait->log));

	wait_deadlines_check_lock_timeout(deadlines);
	if (clock_now() >= deadlines->give_up_at)
		return false;
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 wait_deadlines_left(until, WATCHDOG), wait_events_acquire());
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	check_drain_deadlock(wait);
	return true;
}
