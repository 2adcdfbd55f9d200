/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  Counters since the server's start, or since they were reset.
 *
 * What sessions do is counted for each partition of the table of names, under
 * that partition's lock, which whoever grants, loses or drops a hold has
 * anyway.  A LockHold remembers as what it is counted, so each counts exactly
 * once on its way, and at every moment (with all partitions locked)
 *
 *		held at the reset + acquired = released + lost + held
 *		waiting at the reset + asked = acquired + what ended otherwise + waiting
 *
 * Held and waiting are not counters but read off the lists.
 *
 * What the worker does is protected by a spinlock of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "stats.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_stats);
PG_FUNCTION_INFO_V1(etcd_lock_sql_stats_histogram);
PG_FUNCTION_INFO_V1(etcd_lock_sql_stats_reset);

/* Upper ends of the histograms' buckets, microseconds; one more has none. */
static const int64 bounds[] = {
	50, 100, 250, 500,
	1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000,
	1000000, 2500000, 5000000, 10000000, 30000000, 60000000, 300000000
};

#define NBUCKETS	(lengthof(bounds) + 1)

typedef struct Histogram
{
	uint64		sum;			/* microseconds */
	uint64		buckets[NBUCKETS];
} Histogram;

/* Of a partition, or of all together. */
typedef struct SessionCounters
{
	uint64		asked;
	uint64		acquired_etcd;
	uint64		acquired_passed_on;
	uint64		released;
	uint64		lost;
	uint64		ended[LOCK_NOUTCOMES];
	Histogram	wait;
} SessionCounters;

typedef union PaddedCounters
{
	SessionCounters counters;
	char		pad[TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(SessionCounters))];
} PaddedCounters;

typedef struct WorkerCounters
{
	uint64		requests;
	uint64		request_errors;
	uint64		batches;
	uint64		batch_operations;
	uint64		leases_lost;
	int64		lowest_ttl_left;	/* microseconds; -1: not renewed yet */
	Histogram	request;
} WorkerCounters;

typedef struct StatsShared
{
	/* all partitions' locks */
	TimestampTz reset_at;
	int64		held_at_reset;
	int64		waiting_at_reset;

	/* Lost holds whose sessions let go before the worker ended the epoch. */
	pg_atomic_uint64 lost_before;

	slock_t		mutex;			/* protects worker */
	WorkerCounters worker;

	PaddedCounters partitions[LOCK_PARTITIONS];
} StatsShared;

/* All there is, as of one moment. */
typedef struct StatsSnapshot
{
	SessionCounters sessions;
	int64		held;
	int64		waiting;
	TimestampTz reset_at;
	int64		held_at_reset;
	int64		waiting_at_reset;
	WorkerCounters worker;
} StatsSnapshot;

static StatsShared *stats = NULL;

Size
stats_shmem_size(void)
{
	return CACHELINEALIGN(sizeof(StatsShared));
}

void
stats_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	stats = ShmemInitStruct("etcd_lock statistics", stats_shmem_size(), &found);
	if (!found)
	{
		memset(stats, 0, sizeof(StatsShared));
		SpinLockInit(&stats->mutex);
		pg_atomic_init_u64(&stats->lost_before, 0);
		stats->worker.lowest_ttl_left = -1;
		stats->reset_at = GetCurrentTimestamp();
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------------------------------------------------------------
 *		Counting
 * ----------------------------------------------------------------
 */

static void
observe(Histogram *histogram, int64 took)
{
	int			bucket = 0;

	took = Max(took, 0);		/* the clock may have been set back */
	while (bucket < lengthof(bounds) && took > bounds[bucket])
		bucket++;
	histogram->buckets[bucket]++;
	histogram->sum += took;
}

static SessionCounters *
counters_of(uint32 hashcode)
{
	return &stats->partitions[hashcode % LOCK_PARTITIONS].counters;
}

/* A session asks for a lock that it does not have. */
void
stats_asked(uint32 hashcode, LockHold *hold)
{
	counters_of(hashcode)->asked++;
	hold->counted = COUNTED_WAITING;
}

/* Another one, for which there was no room. */
void
stats_turned_away(uint32 hashcode)
{
	SessionCounters *counters = counters_of(hashcode);

	counters->asked++;
	counters->ended[LOCK_OUTCOME_FAILED]++;
}

/* hold->held_since is set. */
void
stats_granted(LockHold *hold, bool from_etcd)
{
	SessionCounters *counters = counters_of(hold->entry->hashcode);

	if (hold->counted != COUNTED_WAITING)
		return;
	hold->counted = COUNTED_HELD;
	if (from_etcd)
		counters->acquired_etcd++;
	else
		counters->acquired_passed_on++;
	observe(&counters->wait, hold->held_since - hold->wait_start);
}

void
stats_lost(LockHold *hold)
{
	if (hold->counted != COUNTED_HELD)
		return;
	hold->counted = COUNTED_ENDED;
	counters_of(hold->entry->hashcode)->lost++;
}

void
stats_released(LockHold *hold)
{
	if (hold->counted != COUNTED_HELD)
		return;
	hold->counted = COUNTED_ENDED;
	counters_of(hold->entry->hashcode)->released++;
}

/* The hold is no more; valid: its deadline has not passed. */
void
stats_dropped(LockHold *hold, bool valid)
{
	if (hold->counted == COUNTED_WAITING)
		counters_of(hold->entry->hashcode)->ended[hold->outcome]++;
	else if (valid)
		stats_released(hold);
	else if (hold->counted == COUNTED_HELD)
	{
		stats_lost(hold);
		pg_atomic_fetch_add_u64(&stats->lost_before, 1);
	}
	hold->counted = COUNTED_ENDED;
}

void
stats_request(int64 took, bool failed)
{
	SpinLockAcquire(&stats->mutex);
	stats->worker.requests++;
	if (failed)
		stats->worker.request_errors++;
	observe(&stats->worker.request, took);
	SpinLockRelease(&stats->mutex);
}

void
stats_batch(int noperations)
{
	SpinLockAcquire(&stats->mutex);
	stats->worker.batches++;
	stats->worker.batch_operations += noperations;
	SpinLockRelease(&stats->mutex);
}

/* A keepalive is believed; so much was left of the lease before. */
void
stats_lease_renewed(int64 left)
{
	SpinLockAcquire(&stats->mutex);
	if (stats->worker.lowest_ttl_left < 0 || left < stats->worker.lowest_ttl_left)
		stats->worker.lowest_ttl_left = left;
	SpinLockRelease(&stats->mutex);
}

/* Returns how many holds were lost with it, of which the worker found so many. */
int
stats_lease_lost(int found)
{
	SpinLockAcquire(&stats->mutex);
	stats->worker.leases_lost++;
	SpinLockRelease(&stats->mutex);
	return found + (int) pg_atomic_exchange_u64(&stats->lost_before, 0);
}

/* ----------------------------------------------------------------
 *		Reading and resetting
 * ----------------------------------------------------------------
 */

static void
add_histogram(Histogram *to, const Histogram *from)
{
	to->sum += from->sum;
	for (int i = 0; i < NBUCKETS; i++)
		to->buckets[i] += from->buckets[i];
}

static void
add_counters(SessionCounters *to, const SessionCounters *from)
{
	to->asked += from->asked;
	to->acquired_etcd += from->acquired_etcd;
	to->acquired_passed_on += from->acquired_passed_on;
	to->released += from->released;
	to->lost += from->lost;
	for (int i = 0; i < LOCK_NOUTCOMES; i++)
		to->ended[i] += from->ended[i];
	add_histogram(&to->wait, &from->wait);
}

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

/* With all partitions locked. */
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

/* Going through all holds is what costs most. */
static void
take_snapshot(StatsSnapshot *snapshot, bool with_holds)
{
	memset(snapshot, 0, sizeof(StatsSnapshot));
	lock_table_lock_all(LW_SHARED);
	for (int i = 0; i < LOCK_PARTITIONS; i++)
		add_counters(&snapshot->sessions, &stats->partitions[i].counters);
	if (with_holds)
		count_holds(&snapshot->held, &snapshot->waiting);
	snapshot->reset_at = stats->reset_at;
	snapshot->held_at_reset = stats->held_at_reset;
	snapshot->waiting_at_reset = stats->waiting_at_reset;
	lock_table_unlock_all();

	SpinLockAcquire(&stats->mutex);
	snapshot->worker = stats->worker;
	SpinLockRelease(&stats->mutex);
}

static Datum
seconds(uint64 microseconds)
{
	return Float8GetDatum(microseconds / 1000000.0);
}

Datum
etcd_lock_sql_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[24];
	bool		nulls[24] = {false};
	StatsSnapshot	s;
	int			i = 0;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	lock_require_monitor();
	take_snapshot(&s, true);

	values[i++] = Int64GetDatum((int64) s.sessions.asked);
	values[i++] = Int64GetDatum((int64) s.sessions.acquired_etcd);
	values[i++] = Int64GetDatum((int64) s.sessions.acquired_passed_on);
	values[i++] = Int64GetDatum((int64) s.sessions.ended[LOCK_OUTCOME_TRY_FAILED]);
	values[i++] = Int64GetDatum((int64) s.sessions.ended[LOCK_OUTCOME_TIMEOUT]);
	values[i++] = Int64GetDatum((int64) s.sessions.ended[LOCK_OUTCOME_DEADLOCK]);
	values[i++] = Int64GetDatum((int64) s.sessions.ended[LOCK_OUTCOME_CANCELLED]);
	values[i++] = Int64GetDatum((int64) s.sessions.ended[LOCK_OUTCOME_FAILED]);
	values[i++] = Int64GetDatum(s.waiting);
	values[i++] = Int64GetDatum((int64) s.sessions.released);
	values[i++] = Int64GetDatum((int64) s.sessions.lost);
	values[i++] = Int64GetDatum(s.held);
	values[i++] = seconds(s.sessions.wait.sum);
	values[i++] = Int64GetDatum((int64) s.worker.requests);
	values[i++] = Int64GetDatum((int64) s.worker.request_errors);
	values[i++] = seconds(s.worker.request.sum);
	values[i++] = Int64GetDatum((int64) s.worker.batches);
	values[i++] = Int64GetDatum((int64) s.worker.batch_operations);
	values[i++] = Int64GetDatum((int64) s.worker.leases_lost);
	nulls[i] = s.worker.lowest_ttl_left < 0;
	values[i++] = seconds(Max(s.worker.lowest_ttl_left, 0));
	values[i++] = Int64GetDatum(s.waiting_at_reset);
	values[i++] = Int64GetDatum(s.held_at_reset);
	values[i++] = TimestampTzGetDatum(s.reset_at);
	Assert(i == tupdesc->natts);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

/* Cumulative, as Prometheus has it: how many took no longer than this. */
static void
put_histogram(ReturnSetInfo *rsinfo, const char *kind, const Histogram *histogram)
{
	uint64		count = 0;

	for (int i = 0; i < NBUCKETS; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		count += histogram->buckets[i];
		values[0] = CStringGetTextDatum(kind);
		values[1] = i < lengthof(bounds) ? seconds(bounds[i]) :
			Float8GetDatum(get_float8_infinity());
		values[2] = Int64GetDatum((int64) count);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

Datum
etcd_lock_sql_stats_histogram(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StatsSnapshot	snapshot;

	lock_require_monitor();
	InitMaterializedSRF(fcinfo, 0);
	take_snapshot(&snapshot, false);
	put_histogram(rsinfo, "wait", &snapshot.sessions.wait);
	put_histogram(rsinfo, "request", &snapshot.worker.request);
	return (Datum) 0;
}

Datum
etcd_lock_sql_stats_reset(PG_FUNCTION_ARGS)
{
	TimestampTz now = GetCurrentTimestamp();

	lock_require_monitor();
	lock_table_lock_all(LW_EXCLUSIVE);
	memset(stats->partitions, 0, sizeof(stats->partitions));
	count_holds(&stats->held_at_reset, &stats->waiting_at_reset);
	stats->reset_at = now;
	lock_table_unlock_all();

	SpinLockAcquire(&stats->mutex);
	memset(&stats->worker, 0, sizeof(stats->worker));
	stats->worker.lowest_ttl_left = -1;
	SpinLockRelease(&stats->mutex);
	PG_RETURN_VOID();
}
