/*-------------------------------------------------------------------------
 *
 * loss.c
 *	  Telling a session that it has lost a lock.
 *
 * A running statement is cancelled, or the session terminated, at once
 * (etcd_lock.on_loss).  The worker signals it when etcd has lost the key.  When
 * the deadline passes, the session signals itself by a timer of its own, which
 * works when the worker is dead or hangs.  Each loss by deadline is told once:
 * whoever raises LockProc.told_epoch first sends the signal.
 *
 * A cancel by signal says "due to user request".  Hooks around the execution
 * of statements put the true reason there.
 *
 * An idle session does not notice a cancel.  Its next statement that would
 * change something is refused; reading, unlocking and ROLLBACK go through, and
 * whatever slips by is stopped by the commit guard.
 *
 *-------------------------------------------------------------------------
 */
#include "loss.h"

#include <signal.h>

#include "catalog/objectaccess.h"
#include "commit_guard.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

static TimeoutId loss_timeout = MAX_TIMEOUTS;
static volatile uint64 watched_epoch = 0;	/* 0: nothing to watch */
static bool in_hook = false;	/* only the outermost statement translates */

static ExecutorStart_hook_type prev_executor_start = NULL;
static ExecutorRun_hook_type prev_executor_run = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

/* ----------------------------------------------------------------
 *		The timer
 * ----------------------------------------------------------------
 */

static void
arm(void)
{
	int64		left = deadline_left(&lock_shared->deadline);

	enable_timeout_after(loss_timeout, (int) Min(left / 1000 + 1, 60000));
}

/* In a signal handler: nothing but atomics, clocks and signals. */
static void
loss_timeout_handler(void)
{
	uint64		epoch = watched_epoch;

	if (epoch == 0 || MyProc == NULL)
		return;
	if (deadline_valid(&lock_shared->deadline, epoch))
		arm();
	else
		lock_tell_loss(compat_my_procno(), MyProcPid, epoch, etcd_lock_on_loss);
}

void
loss_watch(const LocalHold *local)
{
	if (loss_timeout == MAX_TIMEOUTS)
		loss_timeout = RegisterTimeout(USER_TIMEOUT, loss_timeout_handler);
	watched_epoch = local->hold->epoch;
	if (!get_timeout_active(loss_timeout))
		arm();
}

void
loss_unwatch(void)
{
	watched_epoch = 0;
}

void
loss_rearm(void)
{
	if (watched_epoch != 0 && !get_timeout_active(loss_timeout) &&
		deadline_valid(&lock_shared->deadline, watched_epoch))
		arm();
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

/* One that the user was not told of, if there is one. */
static void
find_lost(LocalHold *local, void *arg)
{
	LocalHold **found = arg;

	if (*found != NULL && !(*found)->told)
		return;
	if (local->nowners > 0 && local->hold != NULL &&
		lock_session_has_tag(local) && !lock_table_hold_valid(local->hold))
		*found = local;
}

static LocalHold *
a_lost_hold(void)
{
	LocalHold  *found = NULL;

	lock_session_foreach(find_lost, &found);
	return found;
}

static char *
lost_name(const LocalHold *local)
{
	return lock_name_for_user(local->name.key, local->name.namespace_len,
							  &local->name.tag);
}

/* A cancel that is ours gets our words.  In PG_CATCH, with a lost hold. */
static void
translate_cancel(MemoryContext context)
{
	LocalHold  *lost;

	if (geterrcode() != ERRCODE_QUERY_CANCELED)
		return;
	lost = a_lost_hold();
	if (lost == NULL || lost->told)
		return;
	lost->told = true;
	MemoryContextSwitchTo(context);
	FlushErrorState();
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("canceling statement because etcd lock \"%s\" was lost",
					lost_name(lost)),
			 errdetail("This session held it with token " INT64_FORMAT "; another server may have it now.",
					   lost->token),
			 errhint("Roll back, release a lock of the session with etcd_unlock(), and retry.")));
}

/*
 * A statement that would change something, in a session that has lost a lock:
 * its outcome could not be committed.
 */
static void
refuse_change(void)
{
	LocalHold  *lost;

	if (etcd_lock_commit_guard == COMMIT_GUARD_OFF)
		return;
	lost = a_lost_hold();
	if (lost == NULL)
		return;
	if (etcd_lock_on_loss == ON_LOSS_WARN)
	{
		if (!lost->told)
			ereport(WARNING,
					(errcode(ERRCODE_ETCD_LOCK_LOST),
					 errmsg("etcd lock \"%s\" was lost", lost_name(lost)),
					 errhint("The transaction cannot be committed.")));
		lost->told = true;
		return;
	}
	lock_report_lost(lost);
}

static void
loss_executor_start(QueryDesc *queryDesc, int eflags)
{
	if (lock_session_holds_any() &&
		(queryDesc->operation != CMD_SELECT ||
		 queryDesc->plannedstmt->hasModifyingCTE ||
		 queryDesc->plannedstmt->rowMarks != NIL))
		refuse_change();
	if (prev_executor_start)
		prev_executor_start(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);
}

static void
run_executor(QueryDesc *queryDesc, ScanDirection direction, uint64 count
			 COMPAT_EXECUTE_ONCE_PARAM)
{
	if (prev_executor_run)
		prev_executor_run(queryDesc, direction, count COMPAT_EXECUTE_ONCE);
	else
		standard_ExecutorRun(queryDesc, direction, count COMPAT_EXECUTE_ONCE);
}

static void
loss_executor_run(QueryDesc *queryDesc, ScanDirection direction, uint64 count
				  COMPAT_EXECUTE_ONCE_PARAM)
{
	MemoryContext context = CurrentMemoryContext;

	if (in_hook || !lock_session_holds_any())
	{
		run_executor(queryDesc, direction, count COMPAT_EXECUTE_ONCE);
		if (lock_session_holds_any())
			commit_guard_to_front();
		return;
	}

	loss_rearm();
	in_hook = true;
	PG_TRY();
	{
		run_executor(queryDesc, direction, count COMPAT_EXECUTE_ONCE);
	}
	PG_CATCH();
	{
		in_hook = false;
		translate_cancel(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	in_hook = false;
	commit_guard_to_front();
}

static void
run_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			ProcessUtilityContext context, ParamListInfo params,
			QueryEnvironment *queryEnv, DestReceiver *dest,
			QueryCompletion *qc)
{
	if (prev_process_utility)
		prev_process_utility(pstmt, queryString, readOnlyTree, context, params,
							 queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

/* It changes something, though it needs no transaction id before it commits. */
static void
notifies(void)
{
	commit_guard_note_notify();
	refuse_change();
}

static void
loss_object_access(ObjectAccessType access, Oid classId, Oid objectId,
				   int subId, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, classId, objectId, subId, arg);
	if (access == OAT_FUNCTION_EXECUTE && objectId == F_PG_NOTIFY)
		notifies();
}

static void
loss_process_utility(PlannedStmt *pstmt, const char *queryString,
					 bool readOnlyTree, ProcessUtilityContext context,
					 ParamListInfo params, QueryEnvironment *queryEnv,
					 DestReceiver *dest, QueryCompletion *qc)
{
	MemoryContext memory = CurrentMemoryContext;
	Node	   *statement = pstmt->utilityStmt;

	if (IsA(statement, NotifyStmt))
		notifies();
	else if (IsA(statement, TransactionStmt) && lock_session_holds_any())
		commit_guard_to_front();

	if (in_hook || !lock_session_holds_any())
	{
		run_utility(pstmt, queryString, readOnlyTree, context, params,
					queryEnv, dest, qc);
		return;
	}

	/*
	 * COMMIT PREPARED commits before any callback of ours could refuse, so it
	 * is refused here (rule 23).
	 */
	if (IsA(statement, TransactionStmt))
	{
		if (((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED)
			commit_guard_check_all();
	}
	else if (GetCommandLogLevel(statement) != LOGSTMT_ALL)
		refuse_change();		/* what log_statement = 'mod' would log */

	loss_rearm();
	in_hook = true;
	PG_TRY();
	{
		run_utility(pstmt, queryString, readOnlyTree, context, params,
					queryEnv, dest, qc);
	}
	PG_CATCH();
	{
		in_hook = false;
		translate_cancel(memory);
		PG_RE_THROW();
	}
	PG_END_TRY();
	in_hook = false;
	commit_guard_to_front();
}

void
loss_init(void)
{
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = loss_executor_start;
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = loss_executor_run;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = loss_process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = loss_object_access;
}
