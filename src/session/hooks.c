/*-------------------------------------------------------------------------
 *
 * hooks.c
 *	  Hooks around the statements of a session: what each changes, and what to
 *	  report to the session.
 *
 * In any session, commit.c learns of statements that may change something,
 * because a lock may come later in the transaction.  In a session that holds
 * locks, such a statement is refused if a lock is lost; a cancel gets its true
 * reason; and the commit guard is put in front of other modules' callbacks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "session/commit.h"
#include "session/hooks.h"
#include "session/lock_session.h"
#include "session/loss.h"
#include "session/loss_timer.h"
#include "shared/compat.h"
#include "shared/lock_trace.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"

static bool in_hook = false;	/* only the outermost statement translates */

static ExecutorStart_hook_type prev_executor_start = NULL;
static ExecutorRun_hook_type prev_executor_run = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

static void
note_change(void)
{
	commit_note_change();
	if (lock_session_holds_any())
		loss_refuse_change();
}

/* A statement begins: report what the end of the last transaction could not. */
static void
tell(void)
{
	if (!in_hook)
		commit_begin_statement();
	commit_tell();
	lock_trace_say();
}

static void
hooks_executor_start(QueryDesc *queryDesc, int eflags)
{
	tell();
	if ((eflags & EXEC_FLAG_EXPLAIN_ONLY) != 0)
		 /* it is not run */ ;
	else if (queryDesc->operation != CMD_SELECT ||
			 queryDesc->plannedstmt->hasModifyingCTE)
		note_change();
	else if (queryDesc->plannedstmt->rowMarks != NIL && lock_session_holds_any())
		loss_refuse_change();
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
hooks_executor_run(QueryDesc *queryDesc, ScanDirection direction, uint64 count
				   COMPAT_EXECUTE_ONCE_PARAM)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback error_context = {
		.previous = error_context_stack,
		.callback = loss_error_context
	};

	/* A portal may have been bound before the command that acts at once. */
	if (!in_hook)
		commit_begin_statement();
	if (in_hook || !lock_session_holds_any())
	{
		run_executor(queryDesc, direction, count COMPAT_EXECUTE_ONCE);
		if (commit_is_watched())
			commit_to_front();
		return;
	}

	loss_timer_rearm();
	in_hook = true;
	error_context_stack = &error_context;
	PG_TRY();
	{
		run_executor(queryDesc, direction, count COMPAT_EXECUTE_ONCE);
	}
	PG_CATCH();
	{
		in_hook = false;
		error_context_stack = error_context.previous;
		loss_translate_cancel(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	in_hook = false;
	error_context_stack = error_context.previous;
	commit_to_front();
}

static void
hooks_object_access(ObjectAccessType access, Oid classId, Oid objectId,
					int subId, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, classId, objectId, subId, arg);
	if (access == OAT_FUNCTION_EXECUTE && objectId == F_PG_NOTIFY)
		note_change();
}

/*
 * Does the command act before its commit, so that refusing the commit would be
 * too late?
 */
static bool
acts_at_once(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_CreatedbStmt:
		case T_DropdbStmt:
		case T_AlterDatabaseStmt:
		case T_CreateTableSpaceStmt:
		case T_DropTableSpaceStmt:
		case T_CreateSubscriptionStmt:
		case T_AlterSubscriptionStmt:
		case T_DropSubscriptionStmt:
		case T_AlterSystemStmt:
			return true;
		case T_TransactionStmt:
			return ((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED;
		default:
			return false;
	}
}

/*
 * A command changes something if log_statement = 'mod' would log it, or if it
 * is NOTIFY. PREPARE is logged like the statement that it prepares, but runs
 * nothing.
 */
static bool
changes_something(Node *statement)
{
	return IsA(statement, NotifyStmt) ||
		(!IsA(statement, TransactionStmt) && !IsA(statement, PrepareStmt) &&
		 GetCommandLogLevel(statement) != LOGSTMT_ALL);
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

/* In a session that holds a lock: report a loss as what it is. */
static void
run_watched_utility(PlannedStmt *pstmt, const char *queryString,
					bool readOnlyTree, ProcessUtilityContext context,
					ParamListInfo params, QueryEnvironment *queryEnv,
					DestReceiver *dest, QueryCompletion *qc)
{
	MemoryContext memory = CurrentMemoryContext;
	ErrorContextCallback error_context = {
		.previous = error_context_stack,
		.callback = loss_error_context
	};

	loss_timer_rearm();
	in_hook = true;
	error_context_stack = &error_context;
	PG_TRY();
	{
		run_utility(pstmt, queryString, readOnlyTree, context, params,
					queryEnv, dest, qc);
	}
	PG_CATCH();
	{
		in_hook = false;
		error_context_stack = error_context.previous;
		loss_translate_cancel(memory);
		PG_RE_THROW();
	}
	PG_END_TRY();
	in_hook = false;
	error_context_stack = error_context.previous;
}

static void
hooks_process_utility(PlannedStmt *pstmt, const char *queryString,
					  bool readOnlyTree, ProcessUtilityContext context,
					  ParamListInfo params, QueryEnvironment *queryEnv,
					  DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	bool		at_once = acts_at_once(statement);

	if (!IsA(statement, TransactionStmt))
		tell();
	else if (commit_is_watched())
		commit_to_front();
	if (changes_something(statement))
		note_change();
	if (at_once && lock_session_holds_any())
		commit_begin_command(IsInTransactionBlock(context == PROCESS_UTILITY_TOPLEVEL));

	if (in_hook || !lock_session_holds_any())
		run_utility(pstmt, queryString, readOnlyTree, context, params,
					queryEnv, dest, qc);
	else
		run_watched_utility(pstmt, queryString, readOnlyTree, context, params,
							queryEnv, dest, qc);
	if (at_once)
		commit_end_command();
	if (commit_is_watched())
		commit_to_front();
}

void
hooks_init(void)
{
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = hooks_executor_start;
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = hooks_executor_run;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = hooks_process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = hooks_object_access;
}
