/*-------------------------------------------------------------------------
 *
 * backend.c
 *	  What a process runs: the background worker, or a session's statements.
 *
 * As postgres.c: an error ends a statement and its transaction; with a FATAL one
 * the process ends, and the client's coroutine with it.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "session/lock_session.h"
#include "shared/lease_id.h"
#include "shared/lock_grant.h"
#include "shared/lock_holds.h"
#include "shared/lock_keys.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/worker.h"

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

static const SimCommand *running;
static SimResult *into;
static int64 prepared;			/* the transaction that is to be finished */
#define GATE_COMMITTING		0x80000000U /* as loss_signal.c has it */

static int	lost_before;		/* of a command that commits, when it began */

static void
add_argument(FunctionCallInfo fcinfo, Oid type, Datum value)
{
	pg_call_types[pg_call_nargs] = type;
	fcinfo->args[pg_call_nargs].value = value;
	fcinfo->args[pg_call_nargs++].isnull = false;
}

static Datum
names_array(void)
{
	Datum		elements[SIM_MANY];

	for (int i = 0; i < running->nnames; i++)
		elements[i] = PointerGetDatum(cstring_to_text(running->names[i]));
	return PointerGetDatum(construct_array(elements, running->nnames, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

static void
take_tokens(ArrayType *array)
{
	Datum	   *elements;
	bool	   *nulls;

	deconstruct_array(array, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE, &elements, &nulls,
					  &into->ntokens);
	for (int i = 0; i < into->ntokens; i++)
		into->tokens[i] = DatumGetInt64(elements[i]);
}

static void
call_function(void)
{
	LOCAL_FCINFO(fcinfo, 4);
	FmgrInfo	flinfo = {0};
	CallContext call = {.type = T_CallContext,.atomic = false};
	PGFunction	function = (PGFunction) sim_symbol(running->function);
	Datum		value;

	flinfo.fn_addr = function;
	flinfo.fn_oid = 1;
	flinfo.fn_mcxt = MessageContext;
	InitFunctionCallInfoData(*fcinfo, &flinfo, 0, InvalidOid, NULL, NULL);
	pg_call_nargs = 0;
	if (running->is_call)
		fcinfo->context = (Node *) &call;
	if (running->nnames > 0)
		add_argument(fcinfo, TEXTARRAYOID, names_array());
	else if (running->nkeys == 1)
		add_argument(fcinfo, INT8OID, Int64GetDatum(running->keys[0]));
	else if (running->nkeys == 2)
	{
		add_argument(fcinfo, INT4OID, Int32GetDatum((int32) running->keys[0]));
		add_argument(fcinfo, INT4OID, Int32GetDatum((int32) running->keys[1]));
	}
	else if (running->name != NULL)
		add_argument(fcinfo, TEXTOID, PointerGetDatum(cstring_to_text(running->name)));
	if (running->has_wait || running->is_call)
	{
		Interval   *interval = palloc0(sizeof(Interval));

		interval->time = running->wait;
		add_argument(fcinfo, INTERVALOID, IntervalPGetDatum(interval));
		/* its default */
		fcinfo->args[pg_call_nargs - 1].isnull = !running->has_wait;
	}
	if (running->has_tick)
		add_argument(fcinfo, TIMESTAMPTZOID, TimestampTzGetDatum(running->tick));
	if (running->has_token)
		add_argument(fcinfo, INT8OID, Int64GetDatum(running->token));
	fcinfo->nargs = pg_call_nargs;
	pg_before_unlock();
	value = function(fcinfo);
	if (strstr(running->function, "unlock") != NULL)
		pg_after_unlock();
	into->is_null = fcinfo->isnull;
	if (running->nnames > 0)
		take_tokens(DatumGetArrayTypeP(value));
	else
		into->value = (int64) value;
}

static void
sleep_interruptibly(int64 microseconds)
{
	int64		until = sim_after(microseconds);

	for (;;)
	{
		int64		left = until - sim_now();

		CHECK_FOR_INTERRUPTS();
		if (left <= 0)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT, left / 1000 + 1, 0);
		ResetLatch(MyLatch);
	}
}

void
standard_ExecutorStart(QueryDesc *queryDesc, int eflags)
{
	/* a transaction id is assigned when the first row is written */
}

void
standard_ExecutorRun(QueryDesc *queryDesc, ScanDirection direction, uint64 count,
					 bool execute_once)
{
	CHECK_FOR_INTERRUPTS();
	switch (running->statement)
	{
		case SIM_SELECT:
			call_function();
			break;
		case SIM_UPDATE:
			pg_assign_xid();
			break;
		case SIM_UPDATE_FOREIGN:
			pg_change_elsewhere();
			break;
		case SIM_SELECT_SLEEP:
			sleep_interruptibly(running->duration);
			break;
		case SIM_VIEWS:
			pg_look_at_views();
			break;
		case SIM_ROW_LOCK:
			pg_assign_xid();
			pg_lock_row(running->row);
			break;
	}
	CHECK_FOR_INTERRUPTS();
}

void
standard_ExecutorFinish(QueryDesc *queryDesc)
{
}

void
standard_ExecutorEnd(QueryDesc *queryDesc)
{
}

void
standard_ProcessUtility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
						ProcessUtilityContext context, ParamListInfo params,
						QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	if (IsA(pstmt->utilityStmt, CallStmt))
		call_function();
	else if (IsA(pstmt->utilityStmt, TransactionStmt))
	{
		switch (castNode(TransactionStmt, pstmt->utilityStmt)->kind)
		{
			case TRANS_STMT_COMMIT_PREPARED:
				pg_commit_prepared(prepared, lost_before);
				break;
			case TRANS_STMT_ROLLBACK_PREPARED:
				pg_rollback_prepared(prepared);
				break;
			default:
				break;
		}
	}
}

static void
run_utility(Node *statement)
{
	PlannedStmt pstmt = {.type = T_PlannedStmt,.commandType = CMD_UTILITY,.utilityStmt = statement};

	if (ProcessUtility_hook)
		ProcessUtility_hook(&pstmt, "", false, PROCESS_UTILITY_TOPLEVEL, NULL, NULL, NULL, NULL);
	else
		standard_ProcessUtility(&pstmt, "", false, PROCESS_UTILITY_TOPLEVEL, NULL, NULL, NULL, NULL);
}

static void
run_transaction_statement(TransactionStmtKind kind)
{
	TransactionStmt statement = {.type = T_TransactionStmt,.kind = kind};

	run_utility((Node *) &statement);
}

/* A commit has them held back, until it has ended in whichever way. */
static void
check_signals_come(void)
{
	if (!pg_in_transaction() &&
		(pg_atomic_read_u32(&lock_table_proc(MyProc->pgprocno)->inbox.gate) & GATE_COMMITTING) != 0)
		sim_wrong("signals are held back outside of a transaction");
}

/*
 * All that may throw goes through here.  What a statement leaves behind when it
 * fails is postgres.c's business.
 */
static void
guarded(void (*fn) (void *arg), void *arg, SimResult *result)
{
	sigjmp_buf	here;
	sigjmp_buf *outer = PG_exception_stack;

	memset(result, 0, sizeof(*result));
	into = result;
	pg_result = result;
	if (sigsetjmp(here, 0) != 0)
	{
		pg_disable_all_timeouts();
		QueryCancelPending = false;
		pg_doing_command_read = false;
		error_context_stack = NULL;
		HOLD_INTERRUPTS();
		pg_error_to_result(result);
		PG_exception_stack = outer;
		pg_abort_transaction();
		FlushErrorState();
		MemoryContextReset(MessageContext);
		check_signals_come();
		RESUME_INTERRUPTS();
		pg_doing_command_read = true;
		pg_result = NULL;
		return;
	}
	PG_exception_stack = &here;
	pg_doing_command_read = false;
	pg_deliver();
	CHECK_FOR_INTERRUPTS();
	MemoryContextSwitchTo(MessageContext);
	fn(arg);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(MessageContext);
	CHECK_FOR_INTERRUPTS();
	pg_doing_command_read = true;
	PG_exception_stack = outer;
	pg_result = NULL;
	check_signals_come();
	result->ok = true;
}

static void
finish_command(void)
{
	if (!pg_in_block())
		pg_commit_transaction();
}

static void
run_query(QueryDesc *desc)
{
	if (ExecutorStart_hook)
		ExecutorStart_hook(desc, 0);
	else
		standard_ExecutorStart(desc, 0);
	if (ExecutorRun_hook)
		ExecutorRun_hook(desc, ForwardScanDirection, 0, true);
	else
		standard_ExecutorRun(desc, ForwardScanDirection, 0, true);
}

void
pg_run_update(void)
{
	static const SimCommand update = {.statement = SIM_UPDATE};
	PlannedStmt pstmt = {.type = T_PlannedStmt,.commandType = CMD_UPDATE};
	QueryDesc	desc = {.operation = CMD_UPDATE,.plannedstmt = &pstmt};
	const SimCommand *outer = running;

	running = &update;
	run_query(&desc);
	running = outer;
}

static void
do_execute(void *arg)
{
	PlannedStmt pstmt = {.type = T_PlannedStmt};
	QueryDesc	desc = {.plannedstmt = &pstmt};
	ResourceOwner portal;
	List	   *marks = NIL;

	running = arg;
	pg_start_transaction(false);
	portal = pg_open_portal();
	if (running->is_call)
	{
		CallStmt	statement = {.type = T_CallStmt};

		/* a procedure that commits cannot leave its portal's owner */
		CurrentResourceOwner = CurTransactionResourceOwner;
		run_utility((Node *) &statement);
		finish_command();
		return;
	}
	desc.operation = running->statement == SIM_UPDATE || running->statement == SIM_UPDATE_FOREIGN ?
		CMD_UPDATE : CMD_SELECT;
	pstmt.commandType = desc.operation;
	if (running->statement == SIM_ROW_LOCK)
		marks = list_make1_int(1);
	pstmt.rowMarks = marks;
	run_query(&desc);
	if (running->keep_portal)
		CurrentResourceOwner = CurTransactionResourceOwner;
	else
		pg_close_portal(portal);
	finish_command();
}

static void
image_execute(const SimCommand *command, SimResult *result)
{
	guarded(do_execute, (void *) command, result);
}

static void
do_begin(void *arg)
{
	pg_start_transaction(false);
	run_transaction_statement(TRANS_STMT_BEGIN);
	pg_begin_block();
}

static void
image_begin(SimResult *result)
{
	guarded(do_begin, NULL, result);
}

static void
do_commit(void *arg)
{
	if (pg_transaction_failed())
	{
		pg_rollback();
		return;
	}
	run_transaction_statement(TRANS_STMT_COMMIT);

	/* from here on an error rolls the whole back */
	pg_end_block();
	pg_commit_transaction();
}

static void
image_commit(SimResult *result)
{
	guarded(do_commit, NULL, result);
}

static void
do_rollback(void *arg)
{
	if (!pg_transaction_failed())
		run_transaction_statement(TRANS_STMT_ROLLBACK);
	pg_rollback();
}

static void
image_rollback(SimResult *result)
{
	guarded(do_rollback, NULL, result);
}

static void
do_savepoint(void *arg)
{
	run_transaction_statement(TRANS_STMT_SAVEPOINT);
	pg_savepoint();
}

static void
image_savepoint(SimResult *result)
{
	guarded(do_savepoint, NULL, result);
}

static void
do_rollback_to(void *arg)
{
	run_transaction_statement(TRANS_STMT_ROLLBACK_TO);
	if (!pg_rollback_to())
		ereport(ERROR,
				(errcode(ERRCODE_S_E_INVALID_SPECIFICATION),
				 errmsg("savepoint does not exist")));
}

static void
image_rollback_to(SimResult *result)
{
	guarded(do_rollback_to, NULL, result);
}

static void
do_release(void *arg)
{
	run_transaction_statement(TRANS_STMT_RELEASE);
	if (!pg_release())
		ereport(ERROR,
				(errcode(ERRCODE_S_E_INVALID_SPECIFICATION),
				 errmsg("savepoint does not exist")));
}

static void
image_release(SimResult *result)
{
	guarded(do_release, NULL, result);
}

static void
do_discard_all(void *arg)
{
	DiscardStmt statement = {.type = T_DiscardStmt,.target = DISCARD_ALL};

	pg_start_transaction(false);
	run_utility((Node *) &statement);
	pg_locks_release_session();
	pg_gave_up_all();
	finish_command();
}

static void
image_discard_all(SimResult *result)
{
	guarded(do_discard_all, NULL, result);
}

static void
do_prepare(void *arg)
{
	if (pg_transaction_failed())
	{
		pg_rollback();
		return;
	}
	run_transaction_statement(TRANS_STMT_PREPARE);
	pg_end_block();
	into->value = pg_prepare_transaction();
}

static void
image_prepare(SimResult *result)
{
	guarded(do_prepare, NULL, result);
}

static void
do_finish_prepared(void *arg)
{
	TransactionStmtKind kind = *(bool *) arg ? TRANS_STMT_COMMIT_PREPARED :
		TRANS_STMT_ROLLBACK_PREPARED;

	pg_start_transaction(false);
	lost_before = pg_lost_holds();
	sim_commit_begins();
	run_transaction_statement(kind);
	finish_command();
}

static void
image_finish_prepared(SimResult *result, int64_t number, bool commit)
{
	prepared = number;
	guarded(do_finish_prepared, &commit, result);
}

/* The client thinks. */
static void
image_idle(int64_t microseconds)
{
	int64		until = sim_after(microseconds);

	for (;;)
	{
		int64		left = until - sim_now();

		CHECK_FOR_INTERRUPTS();
		if (left <= 0)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT, left / 1000 + 1, 0);
		ResetLatch(MyLatch);
	}
}

static void
image_set_lock_timeout(int milliseconds)
{
	LockTimeout = milliseconds;
}

/* ----------------------------------------------------------------
 *		A process
 * ----------------------------------------------------------------
 */

static void
image_run(SimProc *proc)
{
	sigjmp_buf	here;

	if (TopMemoryContext == NULL)
		pg_memory_init();
	pg_attach_shmem(proc);
	if (proc->kind == SIM_POSTMASTER)
		return;
	pg_process_init(proc);
	if (sigsetjmp(here, 0) != 0)
	{
		SimResult	result;

		pg_error_to_result(&result);
		proc_exit(1);
	}
	PG_exception_stack = &here;
	if (proc->kind == SIM_WORKER)
		etcd_lock_worker_main((Datum) 0);
	else
	{
		pg_doing_command_read = true;
		proc->body(proc);
	}
	proc_exit(0);
}

/* ----------------------------------------------------------------
 *		For checks
 * ----------------------------------------------------------------
 */

/* No lock is taken: nobody runs meanwhile. */
static const LockHold *
find_hold(const char *name, int procno, LockMode mode)
{
	LockEntry  *entry = hash_search(lock_table_hash(), name, HASH_FIND, NULL);
	dlist_iter	iter;

	if (entry == NULL || dlist_is_empty(&entry->owners))
		return NULL;
	dlist_foreach(iter, &entry->owners)
	{
		const LockHold *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->procno == procno && hold->mode == mode && hold->state == HOLD_HOLDING)
			return hold;
	}
	return NULL;
}

bool
pg_any_hold(void)
{
	return lock_session_holds_any();
}

int
pg_lost_holds(void)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	int			n = 0;

	if (!pg_any_hold())
		return 0;
	sim_checking = true;
	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		dlist_iter	iter;

		dlist_foreach(iter, &entry->owners)
		{
			const LockHold *hold = dlist_container(LockHold, link, iter.cur);

			n += hold->procno == MyProc->pgprocno && hold->state == HOLD_HOLDING &&
				!hold->superseded &&
				(hold->lost || !deadline_valid(&lock_shared->deadline, hold->epoch));
		}
	}
	sim_checking = false;
	return n;
}

static int64_t
image_believes(int procno, const char *name, bool exclusive, int64_t token)
{
	const LockHold *hold = find_hold(name, procno, exclusive ? LOCK_EXCLUSIVE : LOCK_SHARED);
	int			slot;

	if (hold == NULL || hold->token != token || hold->lost || hold->superseded ||
		!deadline_valid(&lock_shared->deadline, hold->epoch))
		return 0;
	slot = lock_key_slot(hold->entry, hold->key_id);
	return slot < 0 ? INT64_MAX : hold->entry->keys[slot].create_revision;
}

static bool
image_lease_alive(void)
{
	return pg_atomic_read_u64(&lock_shared->lease) != 0 &&
		deadline_left(&lock_shared->deadline) > 0;
}

static uint64_t
image_lease_base(void)
{
	return lock_shared->lease_id;
}

/* False: neither has it the lock nor does it wait for somebody. */
static bool
describe_hold(LockEntry *entry, const LockHold *hold, SimHold *out)
{
	const LockKey *key = NULL;
	int			slot;

	memset(out, 0, sizeof(*out));
	out->procno = hold->procno;
	strlcpy(out->name, entry->key, sizeof(out->name));
	if (hold->superseded || (hold->is_try && hold->state != HOLD_HOLDING))
		return false;
	switch (hold->state)
	{
		case HOLD_HOLDING:
			slot = hold->key_id == 0 ? -1 : lock_key_slot(entry, hold->key_id);
			key = slot < 0 ? NULL : &entry->keys[slot];
			out->state = SIM_HOLD_HAS;
			break;
		case HOLD_ASKED:
			key = lock_key_live(entry, hold->mode);
			if (key != NULL && key->state != KEY_QUEUED)
				key = NULL;
			out->state = SIM_HOLD_WAITS;
			break;
		case HOLD_DRAINING:
			out->state = SIM_HOLD_DRAINS;
			return true;
		case HOLD_WAITING:
			break;
	}
	if (key == NULL)
		return false;
	out->exclusive = key->mode == LOCK_EXCLUSIVE;
	out->revision = key->create_revision;
	return true;
}

static int
image_holds(SimHold *holds, int max)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	int			n = 0;

	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		dlist_head *lists[] = {&entry->owners, &entry->drainers};

		for (int i = 0; i < lengthof(lists); i++)
		{
			dlist_iter	iter;

			dlist_foreach(iter, lists[i])
			{
				if (n < max &&
					describe_hold(entry, dlist_container(LockHold, link, iter.cur), &holds[n]))
					n++;
			}
		}
	}
	return n;
}

/* The workers' decision, seen from outside. */
extern void __real_deadlock_report_put(int pid, uint64 wait_number, const void *message, size_t len);
extern void __wrap_deadlock_report_put(int pid, uint64 wait_number, const void *message, size_t len);

void
__wrap_deadlock_report_put(int pid, uint64 wait_number, const void *message, size_t len)
{
	sim_check_victim(pid);
	__real_deadlock_report_put(pid, wait_number, message, len);
}

/* The worker draws the next lease's id as soon as it has ended an epoch. */
extern void __real_lease_id_draw(int elevel);
extern void __wrap_lease_id_draw(int elevel);

void
__wrap_lease_id_draw(int elevel)
{
	if (!sim_checking)
		sim_epoch_ends();
	__real_lease_id_draw(elevel);
}

/* From when to when a session has a lock. */
extern LockAskResult __real_lock_grant_ask(LockHold *hold);
extern LockAskResult __wrap_lock_grant_ask(LockHold *hold);
extern int	__real_lock_hold_drop(LockHold *hold, LockReleasedKey *released);
extern int	__wrap_lock_hold_drop(LockHold *hold, LockReleasedKey *released);

LockAskResult
__wrap_lock_grant_ask(LockHold *hold)
{
	LockAskResult result = __real_lock_grant_ask(hold);

	if (result == LOCK_ASK_GRANTED)
		sim_hold_begins(hold->entry->key);
	return result;
}

int
__wrap_lock_hold_drop(LockHold *hold, LockReleasedKey *released)
{
	bool		held = hold->state == HOLD_HOLDING;
	char		name[ETCD_LOCK_MAX_KEY + 1];
	int			n;

	strlcpy(name, hold->entry->key, sizeof(name));
	n = __real_lock_hold_drop(hold, released);
	if (held)
		sim_hold_ends(name);
	return n;
}

PGDLLEXPORT const SimImage sim_image = {
	.run = image_run,
	.free_memory = pg_free_memory,
	.memory = pg_memory,
	.execute = image_execute,
	.begin = image_begin,
	.commit = image_commit,
	.rollback = image_rollback,
	.savepoint = image_savepoint,
	.rollback_to = image_rollback_to,
	.release = image_release,
	.discard_all = image_discard_all,
	.prepare = image_prepare,
	.finish_prepared = image_finish_prepared,
	.any_prepared = pg_any_prepared,
	.locks_show = pg_locks_show,
	.queue_shows = pg_queue_shows,
	.in_transaction = pg_in_transaction,
	.in_block = pg_in_block,
	.failed = pg_transaction_failed,
	.idle = image_idle,
	.set_lock_timeout = image_set_lock_timeout,
	.believes = image_believes,
	.left_over = pg_left_over,
	.left_over_worker = pg_left_over_worker,
	.lease_alive = image_lease_alive,
	.lease_base = image_lease_base,
	.holds = image_holds
};
