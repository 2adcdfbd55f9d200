/*-------------------------------------------------------------------------
 *
 * stats_view.c
 *	  The SQL functions that show the counters.
 *
 * The numbers held and waiting are not counters; they are taken from the
 * lists.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "session/lock_views.h"
#include "session/view_row.h"
#include "shared/counters.h"
#include "shared/lock_table.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_stats);
PG_FUNCTION_INFO_V1(etcd_lock_sql_stats_histogram);
PG_FUNCTION_INFO_V1(etcd_lock_sql_stats_reset);

/* All values of one moment. */
typedef struct StatsSnapshot
{
	CountersSnapshot counters;
	int64		held;
	int64		waiting;
	int64		kept;
	WorkerCounters worker;
} StatsSnapshot;

static void
count_list(dlist_head *list, int64 *held, int64 *waiting)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->counted == COUNTED_HELD)
			(*held)++;
		else if (hold->counted == COUNTED_WAITING)
			(*waiting)++;
	}
}

/* The caller has locked all partitions. */
static void
count_holds(int64 *held, int64 *waiting)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;

	*held = 0;
	*waiting = 0;
	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		count_list(&entry->owners, held, waiting);
		count_list(&entry->waiters, held, waiting);
		count_list(&entry->drainers, held, waiting);
	}
}

/* Count keys that the server keeps although no session uses them. */
static int64
count_kept(void)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	int64		n = 0;

	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		{
			const LockKey *key = &entry->keys[i];

			if (key->state == KEY_HELD && key->keep > 0 && key->idle_since != 0)
				n++;
		}
	}
	return n;
}

static void
take_snapshot(StatsSnapshot *s)
{
	lock_table_lock_all(LW_SHARED);
	counters_read(&s->counters);
	count_holds(&s->held, &s->waiting);
	s->kept = count_kept();
	lock_table_unlock_all();
	counters_read_worker(&s->worker);
}

static Datum
seconds(uint64 microseconds)
{
	return Float8GetDatum(microseconds / 1000000.0);
}

/* In the order in which fill_stats() has them. */
static const ViewColumn stats_columns[] = {
	{"asked"}, {"acquired_etcd"}, {"acquired_passed_on"}, {"tries_failed"},
	{"timeouts"}, {"deadlocks"}, {"cancelled"}, {"failed"}, {"waiting"}, {"released"},
	{"lost"}, {"held"}, {"reused"}, {"kept"}, {"given_up"}, {"wait_seconds"},
	{"requests"}, {"request_errors"}, {"request_seconds"}, {"batches"},
	{"batch_operations"}, {"leases_lost"}, {"lowest_ttl_left"}, {"waiting_at_reset"},
	{"held_at_reset"}, {"stats_reset"}
};

static void
fill_stats(ViewRow *row, const StatsSnapshot *s)
{
	int			i = 0;

	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.asked);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.acquired_etcd);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.acquired_passed_on);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.ended[LOCK_OUTCOME_TRY_FAILED]);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.ended[LOCK_OUTCOME_TIMEOUT]);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.ended[LOCK_OUTCOME_DEADLOCK]);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.ended[LOCK_OUTCOME_CANCELLED]);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.ended[LOCK_OUTCOME_FAILED]);
	row->values[i++] = Int64GetDatum(s->waiting);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.released);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.lost);
	row->values[i++] = Int64GetDatum(s->held);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.reused);
	row->values[i++] = Int64GetDatum(s->kept);
	row->values[i++] = Int64GetDatum((int64) s->counters.sessions.given_up);
	row->values[i++] = seconds(s->counters.sessions.wait.sum);
	row->values[i++] = Int64GetDatum((int64) s->worker.requests);
	row->values[i++] = Int64GetDatum((int64) s->worker.request_errors);
	row->values[i++] = seconds(s->worker.request.sum);
	row->values[i++] = Int64GetDatum((int64) s->worker.batches);
	row->values[i++] = Int64GetDatum((int64) s->worker.batch_operations);
	row->values[i++] = Int64GetDatum((int64) s->worker.leases_lost);
	row->nulls[i] = s->worker.lowest_ttl_left < 0;
	row->values[i++] = seconds(Max(s->worker.lowest_ttl_left, 0));
	row->values[i++] = Int64GetDatum(s->counters.waiting_at_reset);
	row->values[i++] = Int64GetDatum(s->counters.held_at_reset);
	row->values[i++] = TimestampTzGetDatum(s->counters.reset_at);
	Assert(i == lengthof(stats_columns));
}

Datum
etcd_lock_sql_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[VIEW_MAX_COLUMNS];
	bool		nulls[VIEW_MAX_COLUMNS];
	StatsSnapshot s;
	ViewRow		row;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	lock_views_require_monitor();
	take_snapshot(&s);

	view_row_init(&row, tupdesc, stats_columns, lengthof(stats_columns));
	fill_stats(&row, &s);
	view_row_arrange(&row, values, nulls);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

/* Cumulative, as in Prometheus: how many took no longer than this. */
static void
put_histogram(ReturnSetInfo *rsinfo, const char *kind, const CountersHistogram *histogram)
{
	uint64		count = 0;

	for (int i = 0; i < COUNTERS_NBUCKETS; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		count += histogram->buckets[i];
		values[0] = CStringGetTextDatum(kind);
		values[1] = i < COUNTERS_NBOUNDS ? seconds(counters_bounds[i]) :
			Float8GetDatum(get_float8_infinity());
		values[2] = Int64GetDatum((int64) count);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

Datum
etcd_lock_sql_stats_histogram(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CountersSnapshot counters;
	WorkerCounters worker;

	lock_views_require_monitor();
	InitMaterializedSRF(fcinfo, 0);
	lock_table_lock_all(LW_SHARED);
	counters_read(&counters);
	lock_table_unlock_all();
	counters_read_worker(&worker);
	put_histogram(rsinfo, "wait", &counters.sessions.wait);
	put_histogram(rsinfo, "request", &worker.request);
	return (Datum) 0;
}

Datum
etcd_lock_sql_stats_reset(PG_FUNCTION_ARGS)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		held;
	int64		waiting;

	lock_views_require_monitor();
	lock_table_lock_all(LW_EXCLUSIVE);
	count_holds(&held, &waiting);
	counters_reset(held, waiting, now);
	lock_table_unlock_all();
	counters_reset_worker();
	PG_RETURN_VOID();
}
