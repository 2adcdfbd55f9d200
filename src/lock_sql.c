/*-------------------------------------------------------------------------
 *
 * lock_sql.c
 *	  The functions that users call.
 *
 * Each lock function exists for a name, for a bigint and for two ints, like
 * pg_advisory_lock().  They differ in how the name is read only, so one C
 * function serves the three: the number and types of the SQL function's
 * arguments as declared tell which it is.
 *
 *-------------------------------------------------------------------------
 */
#include "lock_session.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "claim.h"
#include "common/int.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
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
 * The type of the first argument as the function is declared.  A call need not
 * come from an expression that would tell it (the fastpath protocol).
 */
static Oid
key_type(FunctionCallInfo fcinfo)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;

	if (flinfo->fn_extra == NULL)
	{
		Oid		   *types;
		int			ntypes;
		Oid		   *cache = MemoryContextAlloc(flinfo->fn_mcxt, sizeof(Oid));

		(void) get_func_signature(flinfo->fn_oid, &types, &ntypes);
		*cache = ntypes > 0 ? types[0] : InvalidOid;
		flinfo->fn_extra = cache;
	}
	return *(Oid *) flinfo->fn_extra;
}

/*
 * Read the name from the first argument, or the first two; returns how many
 * it was.
 */
static int
get_name(FunctionCallInfo fcinfo, LockName *name)
{
	lock_require_preload();
	switch (key_type(fcinfo))
	{
		case INT8OID:
			lock_name_from_int8(name, PG_GETARG_INT64(0));
			return 1;
		case INT4OID:
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

/* The argument "wait"; 0 or less means not at all. */
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
static void
check_session_lock(void)
{
	if (etcd_lock_session_locks == SESSION_LOCKS_OFF)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("session-level etcd locks are not allowed here"),
				 errdetail("\"%s\" is off: behind a pooler that shares connections, another client would go on with the lock.",
						   "etcd_lock.session_locks"),
				 errhint("Use a transaction-level lock, as by etcd_xact_lock().")));
	if (etcd_lock_session_locks == SESSION_LOCKS_WARN)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("session-level etcd lock in a session that may be shared"),
				 errdetail("Behind a pooler that shares connections, another client goes on with the lock."),
				 errhint("Use a transaction-level lock, as by etcd_xact_lock().")));
}

static int64
acquire(FunctionCallInfo fcinfo, LockMode mode, bool session, bool is_try)
{
	LockName	name;
	LockRequest request = {.mode = mode, .session = session, .wait = -1};
	int			used = get_name(fcinfo, &name);

	if (session)
		check_session_lock();
	if (is_try && PG_NARGS() > used)
		set_wait(&request, PG_GETARG_INTERVAL_P(used));
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

/* The hold of this session, the exclusive one first; NULL: none. */
static LocalHold *
find_hold(const LockName *name)
{
	LocalHold  *local = lock_session_find(name, LOCK_EXCLUSIVE);

	if (local == NULL || !lock_session_has_tag(local))
		local = lock_session_find(name, LOCK_SHARED);
	if (local == NULL || !lock_session_has_tag(local))
		return NULL;
	return local;
}

/*
 * etcd_try_once() in a session that holds the lock: its transaction's lock on top
 * of it first, which also makes an exclusive one of a shared one, then the tick.
 */
static bool
try_once_holding(const LockName *name, TimestampTz tick, uint64 claim)
{
	LockRequest request = {.mode = LOCK_EXCLUSIVE, .wait = -1, .is_try = true};

	if (lock_acquire(name, &request) == 0)
		return false;
	if (claim_tick(lock_session_find(name, LOCK_EXCLUSIVE), tick, claim))
		return true;
	(void) lock_session_unlock(name, LOCK_EXCLUSIVE, CurrentResourceOwner);
	return false;
}

/* True for one caller among all servers for each tick, with the lock. */
Datum
etcd_lock_sql_try_once(PG_FUNCTION_ARGS)
{
	LockName	name;
	LockRequest request = {.mode = LOCK_EXCLUSIVE, .wait = -1, .is_try = true};

	get_name(fcinfo, &name);
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
	if (find_hold(&name) != NULL)
		PG_RETURN_BOOL(try_once_holding(&name, request.tick, request.claim));
	PG_RETURN_BOOL(lock_acquire(&name, &request) != 0);
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
						lock_name_for_user(name.key, name.namespace_len, &name.tag),
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
	lock_require_preload();
	lock_session_unlock_all();
	PG_RETURN_VOID();
}

/*
 * The functions of schema etcd_advisory.  Those that lock are the ones above: a
 * result that is declared void is not looked at.  What is not ours, or not held
 * at all, is PostgreSQL's business, with its own warning.
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
	lock_require_preload();
	lock_session_unlock_all();
	return pg_advisory_unlock_all(fcinfo);
}

/*
 * CALL etcd_lock_wait(): a session lock, waited for without a snapshot.
 *
 * CREATE INDEX CONCURRENTLY waits for all older snapshots, VACUUM spares what
 * they may see; a statement that waits for a lock has one.  Ending the
 * transaction that CALL began takes it away, and the new one has none as long
 * as nobody looks at a table (README.md, rule 26).
 */
Datum
etcd_lock_sql_wait(PG_FUNCTION_ARGS)
{
	CallContext *call = (CallContext *) fcinfo->context;
	LockName	name;
	LockRequest request = {
		.mode = LOCK_EXCLUSIVE, .session = true, .wait = -1, .is_call = true
	};
	int			used = key_type(fcinfo) == INT4OID ? 2 : 1;
	bool		has_wait = PG_NARGS() > used && !PG_ARGISNULL(used);

	for (int i = 0; i < used; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("name of an etcd lock must not be null")));
	}
	get_name(fcinfo, &name);
	check_session_lock();
	if (has_wait)
		set_wait(&request, PG_GETARG_INTERVAL_P(used));

	/* Earlier statements of a pipeline would be committed along. */
	if (call == NULL || !IsA(call, CallContext) || call->atomic ||
		(MyXactFlags & XACT_FLAGS_PIPELINING) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("etcd_lock_wait() cannot run inside a transaction block"),
				 errdetail("It waits without a snapshot, which the transaction has already."),
				 errhint("Call it outside of BEGIN; a driver that begins transactions by itself must be in autocommit mode.")));

	/* What needs the catalogs is done first: it would take a snapshot. */
	lock_describe_session();
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	SPI_finish();

	if (lock_acquire(&name, &request) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not acquire etcd lock \"%s\" in time",
						lock_name_for_user(name.key, name.namespace_len, &name.tag))));
	PG_RETURN_VOID();
}

Datum
etcd_lock_sql_token(PG_FUNCTION_ARGS)
{
	LockName	name;
	LocalHold  *local;

	get_name(fcinfo, &name);
	local = find_hold(&name);
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
	local = find_hold(&name);
	if (local == NULL)
		PG_RETURN_BOOL(false);
	check = lock_check(local);
	if (check == LOCK_CHECK_UNKNOWN)
		lock_report_unreachable(etcd_lock_request_timeout);
	PG_RETURN_BOOL(check == LOCK_CHECK_HELD);
}
