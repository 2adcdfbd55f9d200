/*-------------------------------------------------------------------------
 *
 * lock_sql.c
 *	  The functions that users call.
 *
 * Each lock function exists for a name, for a bigint and for two ints, like
 * pg_advisory_lock().  They differ only in how they read the name, so one C
 * function serves all three: the declared number and types of the SQL
 * function's arguments tell which it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "session/claim.h"
#include "session/lock_acquire.h"
#include "session/lock_check.h"
#include "session/lock_sql.h"
#include "shared/lock_text.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_lock);
PG_FUNCTION_INFO_V1(etcd_lock_sql_lock_shared);
PG_FUNCTION_INFO_V1(etcd_lock_sql_xact_lock);
PG_FUNCTION_INFO_V1(etcd_lock_sql_xact_lock_shared);
PG_FUNCTION_INFO_V1(etcd_lock_sql_try_lock);
PG_FUNCTION_INFO_V1(etcd_lock_sql_try_lock_shared);
PG_FUNCTION_INFO_V1(etcd_lock_sql_try_xact_lock);
PG_FUNCTION_INFO_V1(etcd_lock_sql_try_xact_lock_shared);
PG_FUNCTION_INFO_V1(etcd_lock_sql_try_once);
PG_FUNCTION_INFO_V1(etcd_lock_sql_unlock);
PG_FUNCTION_INFO_V1(etcd_lock_sql_unlock_shared);
PG_FUNCTION_INFO_V1(etcd_lock_sql_unlock_all);
PG_FUNCTION_INFO_V1(etcd_lock_sql_advisory_unlock);
PG_FUNCTION_INFO_V1(etcd_lock_sql_advisory_unlock_shared);
PG_FUNCTION_INFO_V1(etcd_lock_sql_advisory_unlock_all);
PG_FUNCTION_INFO_V1(etcd_lock_sql_wait);
PG_FUNCTION_INFO_V1(etcd_lock_sql_token);
PG_FUNCTION_INFO_V1(etcd_lock_sql_check);

/*
 * The declared type of an argument.  The call need not come from an expression
 * that has the type (the fastpath protocol).
 */
static Oid
declared_type(FunctionCallInfo fcinfo, int arg)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;

	if (flinfo->fn_extra == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(flinfo->fn_mcxt);
		Oid		   *types;
		int			ntypes;

		(void) get_func_signature(flinfo->fn_oid, &types, &ntypes);
		Assert(ntypes == PG_NARGS());
		flinfo->fn_extra = types;
		MemoryContextSwitchTo(old);
	}
	return ((Oid *) flinfo->fn_extra)[arg];
}

void
lock_sql_refuse_null(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of an etcd lock must not be null", what)));
}

/*
 * Autovacuum, or a superuser's REINDEX, runs a tenant's function, for example
 * in an index expression, as the tenant's role.  But the settings that limit
 * the role, including its namespace, are those of the session that runs the
 * function.
 */
void
lock_sql_require_session(void)
{
	lock_table_require_preload();
	if (InSecurityRestrictedOperation() || compat_am_autovacuum_worker())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot use etcd locks within a security-restricted operation"),
				 errdetail("Autovacuum, ANALYZE, REINDEX and the like run functions of other roles, whose namespace and limits do not apply there.")));
	if (IsParallelWorker())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot use etcd locks in a parallel worker"),
				 errdetail("Its leader has the session's locks.")));
}

/*
 * Read the name from the first argument, or the first two; returns how many
 * arguments it took.
 */
static int
get_name(FunctionCallInfo fcinfo, LockName *name)
{
	lock_sql_require_session();
	lock_sql_refuse_null(fcinfo, 0, _("name"));
	switch (declared_type(fcinfo, 0))
	{
		case INT8OID:
			lock_name_from_int8(name, PG_GETARG_INT64(0));
			return 1;
		case INT4OID:
			lock_sql_refuse_null(fcinfo, 1, _("name"));
			lock_name_from_int4(name, PG_GETARG_INT32(0), PG_GETARG_INT32(1));
			return 2;
		case TEXTOID:
			lock_name_from_text(name, PG_GETARG_TEXT_PP(0));
			return 1;
		default:
			elog(ERROR, "unexpected type of an etcd lock's name");
			return 0;
	}
}

/*
 * Is this only a number?  interval_in() would take it for seconds, while
 * PostgreSQL's own timeouts would take it for milliseconds.  Zero needs no
 * unit.
 */
static bool
lacks_unit(const char *wait)
{
	bool		all_zero = true;

	for (; *wait != '\0'; wait++)
	{
		if (strchr(" \t\n+-.0123456789", *wait) == NULL)
			return false;
		all_zero &= *wait < '1' || *wait > '9';
	}
	return !all_zero;
}

/*
 * Get the argument "wait", whatever its type: drivers send untyped parameters,
 * even numbers, for which PostgreSQL chooses text.  An integer is never right;
 * without a function for it, PostgreSQL would take the name for the first of
 * two integer keys.
 */
static Interval *
get_wait(FunctionCallInfo fcinfo, int arg)
{
	char	   *wait;

	lock_sql_refuse_null(fcinfo, arg, _("argument \"wait\""));
	switch (declared_type(fcinfo, arg))
	{
		case INTERVALOID:
			return PG_GETARG_INTERVAL_P(arg);
		case TEXTOID:
			wait = text_to_cstring(PG_GETARG_TEXT_PP(arg));
			if (!lacks_unit(wait))
				return DatumGetIntervalP(DirectFunctionCall3(interval_in,
															 CStringGetDatum(wait),
															 ObjectIdGetDatum(InvalidOid),
															 Int32GetDatum(-1)));
			break;
		default:
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("argument \"wait\" of an etcd lock must be an interval, not a number"),
			 errhint("Write it with its unit, such as wait => '5 s'.")));
	return NULL;
}

/* 0 or less means no wait. */
static void
set_wait(LockRequest *request, const Interval *wait)
{
	int64		days = (int64) wait->month * DAYS_PER_MONTH + wait->day;
	int64		result;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &result) ||
		pg_add_s64_overflow(result, wait->time, &result))
		result = days < 0 ? 0 : PG_INT64_MAX;
	if (result > 0)
		request->wait = result;
	else
		request->is_try = true;
}

/* A pooler may have given the connection to another client before the unlock. */
void
lock_sql_check_session_lock(void)
{
	if (etcd_lock_session_locks == SESSION_LOCKS_OFF)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("session-level etcd locks are not allowed here"),
				 errdetail("\"%s\" is off: behind a pooler that shares connections, another client would keep using the lock.",
						   "etcd_lock.session_locks"),
				 errhint("Use a transaction-level lock, such as that of etcd_xact_lock().")));
	if (etcd_lock_session_locks == SESSION_LOCKS_WARN)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("session-level etcd lock in a session that may be shared"),
				 errdetail("Behind a pooler that shares connections, another client keeps using the lock."),
				 errhint("Use a transaction-level lock, such as that of etcd_xact_lock().")));
}

static int64
acquire(FunctionCallInfo fcinfo, LockMode mode, bool session, bool is_try)
{
	LockName	name;
	LockRequest request = {.mode = mode,.session = session,.wait = -1};
	int			used = get_name(fcinfo, &name);

	if (session)
		lock_sql_check_session_lock();
	if (is_try && PG_NARGS() > used)
		set_wait(&request, get_wait(fcinfo, used));
	else
		request.is_try = is_try;
	return lock_acquire(&name, &request);
}

Datum
etcd_lock_sql_lock(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(acquire(fcinfo, LOCK_EXCLUSIVE, true, false));
}

Datum
etcd_lock_sql_lock_shared(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(acquire(fcinfo, LOCK_SHARED, true, false));
}

Datum
etcd_lock_sql_xact_lock(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(acquire(fcinfo, LOCK_EXCLUSIVE, false, false));
}

Datum
etcd_lock_sql_xact_lock_shared(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(acquire(fcinfo, LOCK_SHARED, false, false));
}

Datum
etcd_lock_sql_try_lock(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(acquire(fcinfo, LOCK_EXCLUSIVE, true, true) != 0);
}

Datum
etcd_lock_sql_try_lock_shared(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(acquire(fcinfo, LOCK_SHARED, true, true) != 0);
}

Datum
etcd_lock_sql_try_xact_lock(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(acquire(fcinfo, LOCK_EXCLUSIVE, false, true) != 0);
}

Datum
etcd_lock_sql_try_xact_lock_shared(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(acquire(fcinfo, LOCK_SHARED, false, true) != 0);
}

LocalHold *
lock_sql_find_hold(const LockName *name)
{
	LocalHold  *local = lock_session_find(name, LOCK_EXCLUSIVE);

	if (local == NULL || !lock_session_has_tag(local))
		local = lock_session_find(name, LOCK_SHARED);
	if (local == NULL || !lock_session_has_tag(local))
		return NULL;
	return local;
}

/*
 * etcd_try_once() in a session that already holds the lock: first take the
 * transaction lock in addition, which also upgrades a shared lock, then claim
 * the tick.  Also used when another server may only be keeping the lock.
 */
static bool
try_once_holding(const LockName *name, TimestampTz tick, uint64 claim)
{
	LockRequest request = {.mode = LOCK_EXCLUSIVE,.wait = -1,.is_try = true};

	if (lock_acquire(name, &request) == 0)
		return false;
	if (claim_tick(lock_session_find(name, LOCK_EXCLUSIVE), tick, claim))
		return true;
	(void) lock_session_unlock(name, LOCK_EXCLUSIVE, CurrentResourceOwner);
	return false;
}

/*
 * Returns true to one caller on all servers for each tick, which also gets the
 * lock.
 */
Datum
etcd_lock_sql_try_once(PG_FUNCTION_ARGS)
{
	LockName	name;
	LockRequest request = {.mode = LOCK_EXCLUSIVE,.wait = -1,.is_try = true};
	bool		only_kept = false;

	get_name(fcinfo, &name);
	lock_sql_refuse_null(fcinfo, 1, _("tick"));
	request.has_tick = true;
	request.tick = PG_GETARG_TIMESTAMPTZ(1);
	if (TIMESTAMP_NOT_FINITE(request.tick) ||
		request.tick < LOCK_FIRST_TICK || request.tick >= LOCK_END_TICK)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("tick must lie between the years 1 and 9999")));
	if (!pg_strong_random(&request.claim, sizeof(request.claim)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random number for a claim")));
	if (lock_sql_find_hold(&name) != NULL)
		PG_RETURN_BOOL(try_once_holding(&name, request.tick, request.claim));
	request.only_kept = &only_kept;
	if (lock_acquire(&name, &request) != 0)
		PG_RETURN_BOOL(true);
	PG_RETURN_BOOL(only_kept && try_once_holding(&name, request.tick, request.claim));
}

static Datum
unlock(FunctionCallInfo fcinfo, LockMode mode)
{
	LockName	name;
	bool		released;

	get_name(fcinfo, &name);
	released = lock_session_unlock(&name, mode, NULL);
	if (!released)
		ereport(WARNING,
				(errmsg("you don't own a session-level etcd lock \"%s\" in %s mode",
						lock_name_for_message(&name),
						mode == LOCK_EXCLUSIVE ? "exclusive" : "shared")));
	PG_RETURN_BOOL(released);
}

Datum
etcd_lock_sql_unlock(PG_FUNCTION_ARGS)
{
	return unlock(fcinfo, LOCK_EXCLUSIVE);
}

Datum
etcd_lock_sql_unlock_shared(PG_FUNCTION_ARGS)
{
	return unlock(fcinfo, LOCK_SHARED);
}

Datum
etcd_lock_sql_unlock_all(PG_FUNCTION_ARGS)
{
	lock_sql_require_session();
	lock_session_unlock_all();
	PG_RETURN_VOID();
}

/*
 * The functions of schema etcd_advisory.  Those that lock are the ones above,
 * because nobody looks at a result that is declared void.  Locks that are not
 * ours, or not held at all, are left to PostgreSQL, which has its own warning.
 */
static Datum
advisory_unlock(FunctionCallInfo fcinfo, LockMode mode, PGFunction unlock_int8,
				PGFunction unlock_int4)
{
	LockName	name;
	int			used = get_name(fcinfo, &name);

	if (lock_session_unlock(&name, mode, NULL))
		PG_RETURN_BOOL(true);
	return used == 1 ? unlock_int8(fcinfo) : unlock_int4(fcinfo);
}

Datum
etcd_lock_sql_advisory_unlock(PG_FUNCTION_ARGS)
{
	return advisory_unlock(fcinfo, LOCK_EXCLUSIVE, pg_advisory_unlock_int8,
						   pg_advisory_unlock_int4);
}

Datum
etcd_lock_sql_advisory_unlock_shared(PG_FUNCTION_ARGS)
{
	return advisory_unlock(fcinfo, LOCK_SHARED, pg_advisory_unlock_shared_int8,
						   pg_advisory_unlock_shared_int4);
}

Datum
etcd_lock_sql_advisory_unlock_all(PG_FUNCTION_ARGS)
{
	lock_sql_require_session();
	lock_session_unlock_all();
	return pg_advisory_unlock_all(fcinfo);
}

/*
 * CALL etcd_lock_wait(): a session lock, waited for without a snapshot.
 *
 * CREATE INDEX CONCURRENTLY waits for all older snapshots, and VACUUM keeps
 * what they may see; a statement that waits for a lock has one.  Ending the
 * transaction that CALL began releases the snapshot, and the new transaction
 * has none as long as it accesses no table (README.md, rule 26).
 */
Datum
etcd_lock_sql_wait(PG_FUNCTION_ARGS)
{
	CallContext *call = (CallContext *) fcinfo->context;
	LockName	name;
	LockRequest request = {
		.mode = LOCK_EXCLUSIVE,.session = true,.wait = -1,.is_call = true
	};
	int			used = get_name(fcinfo, &name);

	lock_sql_check_session_lock();
	/* NULL is this argument's default: wait forever */
	if (!PG_ARGISNULL(used))
		set_wait(&request, get_wait(fcinfo, used));

	/* Earlier statements of a pipeline would be committed, too. */
	if (call == NULL || !IsA(call, CallContext) || call->atomic ||
		(MyXactFlags & XACT_FLAGS_PIPELINING) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("etcd_lock_wait() cannot run inside a transaction block"),
				 errdetail("It waits without a snapshot, but the transaction has one already."),
				 errhint("Call it outside of BEGIN; a driver that begins transactions by itself must be in autocommit mode.")));

	/* Do first what needs the catalogs, and so a snapshot. */
	lock_session_describe();
	lock_text_prepare();
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	SPI_finish();

	(void) lock_acquire(&name, &request);
	PG_RETURN_VOID();
}

Datum
etcd_lock_sql_token(PG_FUNCTION_ARGS)
{
	LockName	name;
	LocalHold  *local;

	get_name(fcinfo, &name);
	local = lock_sql_find_hold(&name);
	if (local == NULL)
		PG_RETURN_NULL();
	PG_RETURN_INT64(local->token);
}

Datum
etcd_lock_sql_check(PG_FUNCTION_ARGS)
{
	LockName	name;
	LocalHold  *local;
	LockCheck	check;

	get_name(fcinfo, &name);
	local = lock_sql_find_hold(&name);
	if (local == NULL)
		PG_RETURN_BOOL(false);
	check = lock_check(local);
	if (check == LOCK_CHECK_UNKNOWN)
		lock_check_report_unreachable(etcd_lock_request_timeout);
	PG_RETURN_BOOL(check == LOCK_CHECK_HELD);
}
