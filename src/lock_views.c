/*-------------------------------------------------------------------------
 *
 * lock_views.c
 *	  What can be seen of this server's locks, and of its etcd.
 *
 *-------------------------------------------------------------------------
 */
#include "health.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_locks);
PG_FUNCTION_INFO_V1(etcd_lock_sql_status);
PG_FUNCTION_INFO_V1(etcd_lock_sql_endpoints);

/* A hold, copied out of shared memory. */
typedef struct SeenHold
{
	char		key[ETCD_LOCK_MAX_KEY + 1];
	LOCKTAG		tag;
	int			namespace_len;
	int			pid;
	LockMode	mode;
	bool		holding;
	bool		session;		/* by which scopes */
	bool		xact;
	bool		lost;
	int64		token;
	TimestampTz wait_start;
	TimestampTz held_since;
} SeenHold;

typedef struct SeenHolds
{
	SeenHold   *holds;
	int			n;
	int			max;
} SeenHolds;

/* Room for so many is there before anything is locked. */
#define FIRST_ROOM		256

/*
 * EXECUTE may have been granted together with that on the other functions,
 * but what all databases and namespaces do is not for everyone.
 */
void
lock_require_monitor(void)
{
	lock_require_preload();
	if (!has_privs_of_role(GetUserId(), ROLE_PG_MONITOR))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to look at etcd locks"),
				 errdetail("Only roles with privileges of the \"%s\" role may look at them.",
						   "pg_monitor")));
}

static void
copy_hold(SeenHold *copy, const LockEntry *entry, const LockHold *hold)
{
	bool		granted = hold->session_count > 0 || hold->xact_count > 0;

	strlcpy(copy->key, entry->key, sizeof(copy->key));
	copy->tag = entry->tag;
	copy->namespace_len = hold->namespace_len;
	copy->pid = hold->pid;
	copy->mode = hold->mode;
	copy->holding = hold->state == HOLD_HOLDING;
	copy->session = granted ? hold->session_count > 0 : hold->for_session;
	copy->xact = granted ? hold->xact_count > 0 : !hold->for_session;
	copy->lost = copy->holding &&
		(hold->lost || !deadline_valid(&lock_shared->deadline, hold->epoch));
	copy->token = hold->token;
	copy->wait_start = hold->wait_start;
	copy->held_since = hold->held_since;
}

/*
 * Whoever is superseded has let go of PostgreSQL's lock already, as pg_locks
 * shows, and is about to drop its record.
 */
static void
copy_list(SeenHolds *seen, LockEntry *entry, dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		const LockHold *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_HOLDING && hold->superseded)
			continue;
		if (seen->n < seen->max)
			copy_hold(&seen->holds[seen->n], entry, hold);
		seen->n++;
	}
}

/*
 * As of one moment: all partitions are locked, as for pg_locks.  Nothing is
 * allocated meanwhile: when there is no room for all, count the rest, make
 * room and begin anew.
 */
static void
copy_holds(SeenHolds *seen)
{
	seen->max = FIRST_ROOM;
	for (;;)
	{
		HASH_SEQ_STATUS status;
		LockEntry  *entry;

		seen->holds = palloc_extended(seen->max * sizeof(SeenHold),
									  MCXT_ALLOC_HUGE);
		seen->n = 0;
		lock_table_lock_all(LW_SHARED);
		hash_seq_init(&status, lock_table_hash());
		while ((entry = hash_seq_search(&status)) != NULL)
		{
			copy_list(seen, entry, &entry->owners);
			copy_list(seen, entry, &entry->waiters);
			copy_list(seen, entry, &entry->drainers);
		}
		lock_table_unlock_all();
		if (seen->n <= seen->max)
			return;
		seen->max = seen->n + FIRST_ROOM;
		pfree(seen->holds);
	}
}

Datum
etcd_lock_sql_locks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SeenHolds	seen;

	lock_require_monitor();
	InitMaterializedSRF(fcinfo, 0);
	copy_holds(&seen);
	for (int i = 0; i < seen.n; i++)
	{
		const SeenHold *row = &seen.holds[i];
		Datum		values[9];
		bool		nulls[9] = {false};

		values[0] = CStringGetTextDatum(lock_name_for_user(row->key,
														   row->namespace_len,
														   &row->tag));
		values[1] = CStringGetTextDatum(row->mode == LOCK_EXCLUSIVE ?
										"exclusive" : "shared");
		values[2] = CStringGetTextDatum(!row->session ? "transaction" :
										!row->xact ? "session" :
										"session and transaction");
		values[3] = BoolGetDatum(row->holding);
		values[4] = Int32GetDatum(row->pid);
		values[5] = Int64GetDatum(row->token);
		nulls[5] = !row->holding;
		values[6] = TimestampTzGetDatum(row->wait_start);
		nulls[6] = row->holding;
		values[7] = TimestampTzGetDatum(row->held_since);
		nulls[7] = !row->holding;
		values[8] = BoolGetDatum(row->lost);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* How many keys etcd has granted us, and how many sessions wait. */
static void
count_table(int64 *keys_held, int64 *waiting)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	dlist_iter	iter;

	*keys_held = 0;
	*waiting = 0;
	lock_table_lock_all(LW_SHARED);
	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
			*keys_held += entry->keys[i].state == KEY_HELD;
		dlist_foreach(iter, &entry->owners)
			*waiting += dlist_container(LockHold, link, iter.cur)->state != HOLD_HOLDING;
		dlist_foreach(iter, &entry->waiters)
			(*waiting)++;
		dlist_foreach(iter, &entry->drainers)
			(*waiting)++;
	}
	lock_table_unlock_all();
}

static Datum
seconds_interval(int64 microseconds)
{
	Datum		zero = Int32GetDatum(0);

	return DirectFunctionCall7(make_interval, zero, zero, zero, zero, zero, zero,
							   Float8GetDatum(microseconds / 1000000.0));
}

/* A comma-separated list as an array. */
static Datum
text_list(const char *list)
{
	return DirectFunctionCall2Coll(text_to_array, C_COLLATION_OID,
								   CStringGetTextDatum(list),
								   CStringGetTextDatum(","));
}

/* This server's link to etcd, as the worker last saw it. */
Datum
etcd_lock_sql_status(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[13];
	bool		nulls[13] = {false};
	LinkStatus	status;
	HealthShared health;
	uint64		lease;
	int64		left;
	int64		keys_held;
	int64		waiting;
	bool		works;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	lock_require_monitor();

	LWLockAcquire(lock_shared->status_lock, LW_SHARED);
	status = lock_shared->status;
	LWLockRelease(lock_shared->status_lock);
	health_get(&health);
	count_table(&keys_held, &waiting);
	lease = pg_atomic_read_u64(&lock_shared->lease);
	left = deadline_left(&lock_shared->deadline);
	works = pg_atomic_read_u32(&lock_shared->worker_pid) != 0;

	values[0] = CStringGetTextDatum(!works ? "no worker" :
									!status.up ? "disconnected" :
									left == 0 ? "no lease" : "ready");
	values[1] = CStringGetTextDatum(status.endpoint);
	values[2] = CStringGetTextDatum(status.server_version);
	nulls[2] = status.server_version[0] == '\0';
	values[3] = CStringGetTextDatum(psprintf("%llx", (unsigned long long) lease));
	nulls[3] = lease == 0;
	values[4] = seconds_interval(left);
	nulls[4] = lease == 0;
	values[5] = Int64GetDatum(keys_held);
	values[6] = Int64GetDatum(waiting);
	values[7] = Int32GetDatum(works ? health.watches : 0);
	values[8] = Int64GetDatum(health.db_size);
	nulls[8] = health.db_size < 0;
	values[9] = text_list(health.alarms);
	values[10] = CStringGetTextDatum(status.last_error);
	nulls[10] = status.last_error[0] == '\0';
	values[11] = TimestampTzGetDatum(status.last_error_at);
	nulls[11] = nulls[10];
	values[12] = Int32GetDatum((int32) pg_atomic_read_u32(&lock_shared->worker_pid));
	nulls[12] = !works;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

/* Every member that the server may turn to, as it was last seen. */
Datum
etcd_lock_sql_endpoints(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LinkStatus	status;
	HealthShared health;

	lock_require_monitor();
	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(lock_shared->status_lock, LW_SHARED);
	status = lock_shared->status;
	LWLockRelease(lock_shared->status_lock);
	health_get(&health);

	for (int i = 0; i < health.nendpoints; i++)
	{
		const EndpointHealth *endpoint = &health.endpoints[i];
		bool		in_use = strcmp(endpoint->url, status.endpoint) == 0;
		Datum		values[9];
		bool		nulls[9] = {false};

		values[0] = CStringGetTextDatum(endpoint->url);
		values[1] = BoolGetDatum(in_use);
		values[2] = BoolGetDatum(endpoint->healthy);
		nulls[2] = !endpoint->looked;
		values[3] = TimestampTzGetDatum(endpoint->looked_at);
		nulls[3] = !endpoint->looked;
		values[4] = Float8GetDatum(endpoint->took / 1000.0);
		nulls[4] = !endpoint->looked || endpoint->took < 0;
		values[5] = CStringGetTextDatum(endpoint->version);
		nulls[5] = endpoint->version[0] == '\0';
		values[6] = Int64GetDatum(endpoint->db_size);
		nulls[6] = !endpoint->looked || endpoint->db_size < 0;
		values[7] = BoolGetDatum(endpoint->is_leader);
		nulls[7] = nulls[6];
		values[8] = CStringGetTextDatum(endpoint->error);
		nulls[8] = endpoint->error[0] == '\0';
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
