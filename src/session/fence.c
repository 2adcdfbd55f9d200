/*-------------------------------------------------------------------------
 *
 * fence.c
 *	  etcd_lock_fence(): refuse the writes of a former holder.
 *
 * The table etcd_lock_fences of this database has a row with the highest token
 * seen for each name, including the namespace, so that one tenant cannot fence
 * off another.  A raised row stays locked until the end of the transaction, so
 * a writer with an older token that comes meanwhile waits for it.
 *
 * Tokens are made of etcd's revisions.  After etcd was rebuilt, or restored
 * from a backup, or after a dump of this database was loaded next to another
 * etcd, the rightful holder's token may be below the row.  A session that
 * holds the lock with the token that it passes gets an error and not "false",
 * which would mean that it no longer holds the lock.
 *
 * The SQL functions are SECURITY DEFINER, because nobody else may write the
 * table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "session/lock_session.h"
#include "session/lock_sql.h"
#include "shared/lock_holds.h"
#include "shared/lock_name.h"
#include "shared/settings.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* How far etcd may be ahead of the last revision that this server has seen. */
#define MAX_AHEAD			INT64CONST(100000)

PG_FUNCTION_INFO_V1(etcd_lock_sql_fence);
PG_FUNCTION_INFO_V1(etcd_lock_sql_fence_reset);

/* The table, which lies in the schema of the function. */
static char *
fences_table(FunctionCallInfo fcinfo)
{
	char	   *schema = get_namespace_name(get_func_namespace(fcinfo->flinfo->fn_oid));

	return quote_qualified_identifier(schema, "etcd_lock_fences");
}

/* The INSERT would fail anyway, but its message would be puzzling. */
static void
require_writable(const char *function)
{
	if (RecoveryInProgress() || XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s in a read-only transaction", function),
				 errdetail("It notes the token in this database, in the transaction that it protects.")));
}

/*
 * Run a statement about the row of a name.  Returns whether its result has a
 * row, and its first column.
 */
static bool
run(const char *sql, const char *name, int64 token, int64 *result)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2] = {CStringGetTextDatum(name), Int64GetDatum(token)};
	bool		found;
	bool		isnull;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 1) < 0)
		elog(ERROR, "could not execute: %s", sql);
	found = SPI_processed > 0;
	if (found)
		*result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return found;
}

/* The name of the row.  Each way to write an integer key is the same lock. */
static char *
row_name(FunctionCallInfo fcinfo, LockName *name)
{
	lock_sql_refuse_null(fcinfo, 0, _("name"));
	lock_name_from_shown(name, PG_GETARG_TEXT_PP(0));
	return psprintf("%s%s", etcd_lock_namespace,
					name->tag.locktag_field1 != InvalidOid ?
					lock_name_for_user(name->key, name->namespace_len, &name->tag) :
					text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

/*
 * The token was refused.  Raise an error if this session holds the lock with
 * it.
 */
static void
report_own_token(const LockName *name, const char *shown, int64 token, int64 highest)
{
	LocalHold  *local = lock_sql_find_hold(name);

	if (local == NULL || local->token != token ||
		!lock_hold_valid(local->hold))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("token " INT64_FORMAT " of etcd lock \"%s\" is below its fence, though this session holds the lock with it",
					token, shown),
			 errdetail("The highest token seen in this database is " INT64_FORMAT ": etcd was rebuilt or restored since, the database was used with another etcd before, or etcd_lock_fence() was called with a token that was never issued.",
					   highest),
			 errhint("Once no holder with an older token can write any more, a superuser can reset the highest token: SELECT etcd_lock_fence_reset(%s).",
					 quote_literal_cstr(shown))));
}

/*
 * A token that etcd cannot have issued yet would fence off all future holders.
 * The worker learns etcd's revision with each response, at least every fifth
 * of the lease's TTL; another server's token may be newer.
 */
static void
refuse_token_to_come(int64 token, const char *shown)
{
	int64		known = lock_shared->highest_revision;

	if (known == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("cannot check token " INT64_FORMAT " of etcd lock \"%s\"", token, shown),
				 errdetail("This server has had no response from etcd yet.")));
	if ((token >> TOKEN_PASS_BITS) <= known + MAX_AHEAD)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("token " INT64_FORMAT " of etcd lock \"%s\" is higher than etcd can have issued",
					token, shown),
			 errdetail("Its revision is " INT64_FORMAT "; the last one of etcd that this server knows is " INT64_FORMAT ".",
					   token >> TOKEN_PASS_BITS, known),
			 errhint("If this server had no link to etcd for a long time, try again when it has one.")));
}

/*
 * Was a higher token seen?  This reads the row without a lock on it, which the
 * INSERT takes also if it changes nothing: a writer that comes after the rightful
 * one has committed must not block its next transaction.
 */
static bool
is_refused(const char *table, const char *row, const LockName *name, int64 token,
		   const char *shown)
{
	int64		highest;

	if (!run(psprintf("SELECT token FROM %s "
					  "WHERE name OPERATOR(pg_catalog.=) $1 "
					  "AND token OPERATOR(pg_catalog.>) $2", table),
			 row, token, &highest))
		return false;
	report_own_token(name, shown, token, highest);
	return true;
}

/*
 * Returns true, and records the token, unless a higher one was seen before.
 */
Datum
etcd_lock_sql_fence(PG_FUNCTION_ARGS)
{
	LockName	name;
	char	   *row;
	char	   *table;
	char	   *shown;
	int64		token;
	int64		highest;

	lock_sql_require_session();
	row = row_name(fcinfo, &name);
	lock_sql_refuse_null(fcinfo, 1, _("token"));
	token = PG_GETARG_INT64(1);
	require_writable("etcd_lock_fence()");
	shown = text_to_cstring(PG_GETARG_TEXT_PP(0));
	refuse_token_to_come(token, shown);

	table = fences_table(fcinfo);

	/*
	 * Reading the table, a serializable transaction would conflict with all
	 * others that have a fence; so it may be in the way.
	 */
	if (!IsolationIsSerializable() && is_refused(table, row, &name, token, shown))
		PG_RETURN_BOOL(false);
	if (run(psprintf("INSERT INTO %s AS f (name, token) VALUES ($1, $2) "
					 "ON CONFLICT (name) DO UPDATE SET token = excluded.token "
					 "WHERE f.token OPERATOR(pg_catalog.<=) excluded.token "
					 "RETURNING token", table),
			row, token, &highest))
		PG_RETURN_BOOL(true);

	/* A higher one was committed meanwhile. */
	(void) is_refused(table, row, &name, token, shown);
	PG_RETURN_BOOL(false);
}

/* Forget the highest token.  Returns false if none was seen. */
Datum
etcd_lock_sql_fence_reset(PG_FUNCTION_ARGS)
{
	LockName	name;
	char	   *row;
	int64		token;
	bool		found;

	lock_sql_require_session();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to reset the fence of an etcd lock")));
	row = row_name(fcinfo, &name);
	require_writable("etcd_lock_fence_reset()");
	found = run(psprintf("DELETE FROM %s WHERE name OPERATOR(pg_catalog.=) $1 "
						 "AND $2 OPERATOR(pg_catalog.=) 0 RETURNING token",
						 fences_table(fcinfo)),
				row, 0, &token);
	if (found)
		ereport(LOG,
				(errmsg("etcd_lock: the fence of lock \"%s\", token " INT64_FORMAT ", was reset by user \"%s\" (process %d)",
						row, token, GetUserNameFromId(GetUserId(), true), MyProcPid)));
	PG_RETURN_BOOL(found);
}
