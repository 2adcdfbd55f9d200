/*-------------------------------------------------------------------------
 *
 * lock_views.c
 *	  What can be seen of this server's locks.
 *
 *-------------------------------------------------------------------------
 */
#include "lock_table.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_locks);
PG_FUNCTION_INFO_V1(etcd_lock_sql_status);

/* A hold, copied out of shared memory. */
typedef struct SeenHold
{
	char		key[ETCD_LOCK_MAX_KEY + 1];
	LOCKTAG		tag;
	LockHold	hold;
} SeenHold;

typedef struct SeenHolds
{
	SeenHold   *holds;
	int			n;
	int			max;
} SeenHolds;

static int
count_list(dlist_head *list)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, list)
		n++;
	return n;
}

static void
copy_list(SeenHolds *seen, LockEntry *entry, dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		SeenHold   *copy = &seen->holds[seen->n++];

		Assert(seen->n <= seen->max);
		memcpy(copy->key, entry->key, sizeof(copy->key));
		copy->tag = entry->tag;
		copy->hold = *dlist_container(LockHold, link, iter.cur);
	}
}

/*
 * One partition at a time, and no allocation while its lock is held: first
 * count, then copy, again if there have come more meanwhile.
 */
static void
copy_holds(SeenHolds *seen)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	int			needed;

	for (;;)
	{
		seen->n = 0;
		needed = 0;
		lock_table_lock_all(LW_SHARED);
		hash_seq_init(&status, lock_table_hash());
		while ((entry = hash_seq_search(&status)) != NULL)
			needed += count_list(&entry->owners) + count_list(&entry->waiters) +
				count_list(&entry->drainers);
		if (needed <= seen->max)
		{
			hash_seq_init(&status, lock_table_hash());
			while ((entry = hash_seq_search(&status)) != NULL)
			{
				copy_list(seen, entry, &entry->owners);
				copy_list(seen, entry, &entry->waiters);
				copy_list(seen, entry, &entry->drainers);
			}
		}
		lock_table_unlock_all();
		if (needed <= seen->max)
			return;
		seen->max = needed + 64;
		if (seen->holds != NULL)
			pfree(seen->holds);
		seen->holds = palloc_extended(seen->max * sizeof(SeenHold),
									  MCXT_ALLOC_HUGE);
	}
}

Datum
etcd_lock_sql_locks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SeenHolds	seen = {0};

	lock_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	copy_holds(&seen);
	for (int i = 0; i < seen.n; i++)
	{
		const SeenHold *row = &seen.holds[i];
		const LockHold *hold = &row->hold;
		bool		holding = hold->state == HOLD_HOLDING;
		Datum		values[9];
		bool		nulls[9] = {false};

		values[0] = CStringGetTextDatum(lock_name_for_user(row->key,
														   hold->namespace_len,
														   &row->tag));
		values[1] = CStringGetTextDatum(hold->mode == LOCK_EXCLUSIVE ?
										"exclusive" : "shared");
		if (hold->session_count == 0 && hold->xact_count == 0)
			nulls[2] = true;
		else
			values[2] = CStringGetTextDatum(hold->session_count == 0 ? "transaction" :
											hold->xact_count == 0 ? "session" :
											"session and transaction");
		values[3] = BoolGetDatum(holding);
		values[4] = Int32GetDatum(hold->pid);
		values[5] = Int64GetDatum(hold->token);
		nulls[5] = !holding;
		values[6] = TimestampTzGetDatum(hold->wait_start);
		nulls[6] = holding;
		values[7] = TimestampTzGetDatum(hold->held_since);
		nulls[7] = !holding;
		values[8] = BoolGetDatum(holding &&
								 (hold->lost ||
								  !deadline_valid(&lock_shared->deadline, hold->epoch)));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* This server's link to etcd, as the worker last saw it. */
Datum
etcd_lock_sql_status(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[7];
	bool		nulls[7] = {false};
	LinkStatus	status;
	uint64		lease;
	int64		left;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	lock_require_preload();

	LWLockAcquire(lock_shared->status_lock, LW_SHARED);
	status = lock_shared->status;
	LWLockRelease(lock_shared->status_lock);
	lease = pg_atomic_read_u64(&lock_shared->lease);
	left = deadline_left(&lock_shared->deadline);

	values[0] = CStringGetTextDatum(pg_atomic_read_u32(&lock_shared->worker_pid) == 0 ? "no worker" :
									!status.up ? "disconnected" :
									left == 0 ? "no lease" : "ready");
	values[1] = CStringGetTextDatum(status.endpoint);
	values[2] = CStringGetTextDatum(psprintf("%llx", (unsigned long long) lease));
	nulls[2] = lease == 0;
	values[3] = DirectFunctionCall7(make_interval, Int32GetDatum(0),
									Int32GetDatum(0), Int32GetDatum(0),
									Int32GetDatum(0), Int32GetDatum(0),
									Int32GetDatum(0),
									Float8GetDatum(left / 1000000.0));
	nulls[3] = lease == 0;
	values[4] = Int32GetDatum((int32) pg_atomic_read_u32(&lock_shared->worker_pid));
	nulls[4] = pg_atomic_read_u32(&lock_shared->worker_pid) == 0;
	values[5] = CStringGetTextDatum(status.last_error);
	nulls[5] = status.last_error[0] == '\0';
	values[6] = TimestampTzGetDatum(status.last_error_at);
	nulls[6] = nulls[5];
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}
