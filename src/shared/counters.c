/*-------------------------------------------------------------------------
 *
 * counters.c
 *	  Counters since the server's start, or since they were reset.
 *
 * There is one set of session counters for each partition of the table of
 * names, protected by the partition's lock, which a process that grants, loses
 * or drops a hold has anyway.  A LockHold remembers what it is counted as, so
 * each is counted exactly once on its way, and at any time (with all
 * partitions locked)
 *
 *		held at the reset + acquired = released + lost + held
 *		waiting at the reset + asked = acquired + what ended otherwise + waiting
 *
 * The numbers held and waiting are not counters; they are taken from the
 * lists.
 *
 * A spinlock protects the worker's counters.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/counters.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

/*
 * Upper bounds of the histograms' buckets, microseconds; the last bucket has
 * none.
 */
const int64 counters_bounds[COUNTERS_NBOUNDS] = {
	50, 100, 250, 500,
	1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000,
	1000000, 2500000, 5000000, 10000000, 30000000, 60000000, 300000000
};

typedef union PaddedCounters
{
	SessionCounters counters;
	char		pad[TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(SessionCounters))];
} PaddedCounters;

typedef struct CountersShared
{
	/* all partitions' locks */
	TimestampTz reset_at;
	int64		held_at_reset;
	int64		waiting_at_reset;

	/*
	 * Lost holds whose sessions released them before the worker ended the
	 * epoch.
	 */
	pg_atomic_uint64 lost_before;

	slock_t		mutex;			/* protects worker */
	WorkerCounters worker;

	PaddedCounters partitions[LOCK_PARTITIONS];
} CountersShared;

static CountersShared *counters_shared = NULL;

Size
counters_shmem_size(void)
{
	return CACHELINEALIGN(sizeof(CountersShared));
}

void
counters_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	counters_shared = ShmemInitStruct("etcd_lock statistics", counters_shmem_size(), &found);
	if (!found)
	{
		memset(counters_shared, 0, sizeof(CountersShared));
		SpinLockInit(&counters_shared->mutex);
		pg_atomic_init_u64(&counters_shared->lost_before, 0);
		counters_shared->worker.lowest_ttl_left = -1;
		counters_shared->reset_at = GetCurrentTimestamp();
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------------------------------------------------------------
 *		Counting
 * ----------------------------------------------------------------
 */

static void
observe(CountersHistogram *histogram, int64 took)
{
	int			bucket = 0;

	took = Max(took, 0);		/* the clock may have been set back */
	while (bucket < COUNTERS_NBOUNDS && took > counters_bounds[bucket])
		bucket++;
	histogram->buckets[bucket]++;
	histogram->sum += took;
}

static SessionCounters *
counters_of(uint32 hashcode)
{
	Assert(LWLockHeldByMeInMode(lock_table_partition_of(hashcode), LW_EXCLUSIVE));
	return &counters_shared->partitions[hashcode % LOCK_PARTITIONS].counters;
}

/* A session asks for a lock that it does not have. */
void
counters_asked(uint32 hashcode, LockHold *hold)
{
	counters_of(hashcode)->asked++;
	hold->counted = COUNTED_WAITING;
}

/* The same, when there was no room for its hold. */
void
counters_turned_away(uint32 hashcode)
{
	SessionCounters *counters = counters_of(hashcode);

	counters->asked++;
	counters->ended[LOCK_OUTCOME_FAILED]++;
}

/* The caller has set hold->held_since. */
void
counters_granted(LockHold *hold, bool from_etcd)
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
counters_lost(LockHold *hold)
{
	if (hold->counted != COUNTED_HELD)
		return;
	hold->counted = COUNTED_ENDED;
	counters_of(hold->entry->hashcode)->lost++;
}

void
counters_released(LockHold *hold)
{
	if (hold->counted != COUNTED_HELD)
		return;
	hold->counted = COUNTED_ENDED;
	counters_of(hold->entry->hashcode)->released++;
}

/* A hold ends.  valid says that its deadline has not passed. */
void
counters_dropped(LockHold *hold, bool valid)
{
	if (hold->counted == COUNTED_WAITING)
		counters_of(hold->entry->hashcode)->ended[hold->outcome]++;
	else if (valid)
		counters_released(hold);
	else if (hold->counted == COUNTED_HELD)
	{
		counters_lost(hold);
		pg_atomic_fetch_add_u64(&counters_shared->lost_before, 1);
	}
	hold->counted = COUNTED_ENDED;
}

/* A session acquired the lock by a key that no session used in between. */
void
counters_reused(uint32 hashcode)
{
	counters_of(hashcode)->reused++;
}

/* A key that no session used went because others came. */
void
counters_given_up(uint32 hashcode)
{
	counters_of(hashcode)->given_up++;
}

void
counters_request(int64 took, bool failed)
{
	SpinLockAcquire(&counters_shared->mutex);
	counters_shared->worker.requests++;
	if (failed)
		counters_shared->worker.request_errors++;
	observe(&counters_shared->worker.request, took);
	SpinLockRelease(&counters_shared->mutex);
}

void
counters_batch(int noperations)
{
	SpinLockAcquire(&counters_shared->mutex);
	counters_shared->worker.batches++;
	counters_shared->worker.batch_operations += noperations;
	SpinLockRelease(&counters_shared->mutex);
}

/* A keepalive is believed; left: what was left of the lease before. */
void
counters_lease_renewed(int64 left)
{
	SpinLockAcquire(&counters_shared->mutex);
	if (counters_shared->worker.lowest_ttl_left < 0 || left < counters_shared->worker.lowest_ttl_left)
		counters_shared->worker.lowest_ttl_left = left;
	SpinLockRelease(&counters_shared->mutex);
}

/*
 * Returns how many holds were lost with the lease; the worker has found some
 * of them.
 */
int
counters_lease_lost(int found)
{
	SpinLockAcquire(&counters_shared->mutex);
	counters_shared->worker.leases_lost++;
	SpinLockRelease(&counters_shared->mutex);
	return found + (int) pg_atomic_exchange_u64(&counters_shared->lost_before, 0);
}

/* ----------------------------------------------------------------
 *		Reading and resetting
 * ----------------------------------------------------------------
 */

static void
add_histogram(CountersHistogram *to, const CountersHistogram *from)
{
	to->sum += from->sum;
	for (int i = 0; i < COUNTERS_NBUCKETS; i++)
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
	to->reused += from->reused;
	to->given_up += from->given_up;
	for (int i = 0; i < LOCK_NOUTCOMES; i++)
		to->ended[i] += from->ended[i];
	add_histogram(&to->wait, &from->wait);
}

void
counters_read(CountersSnapshot *snapshot)
{
	memset(snapshot, 0, sizeof(CountersSnapshot));
	for (int i = 0; i < LOCK_PARTITIONS; i++)
		add_counters(&snapshot->sessions, &counters_shared->partitions[i].counters);
	snapshot->reset_at = counters_shared->reset_at;
	snapshot->held_at_reset = counters_shared->held_at_reset;
	snapshot->waiting_at_reset = counters_shared->waiting_at_reset;
}

void
counters_reset(int64 held, int64 waiting, TimestampTz at)
{
	memset(counters_shared->partitions, 0, sizeof(counters_shared->partitions));
	counters_shared->held_at_reset = held;
	counters_shared->waiting_at_reset = waiting;
	counters_shared->reset_at = at;
}

void
counters_read_worker(WorkerCounters *copy)
{
	SpinLockAcquire(&counters_shared->mutex);
	*copy = counters_shared->worker;
	SpinLockRelease(&counters_shared->mutex);
}

void
counters_reset_worker(void)
{
	SpinLockAcquire(&counters_shared->mutex);
	memset(&counters_shared->worker, 0, sizeof(counters_shared->worker));
	counters_shared->worker.lowest_ttl_left = -1;
	SpinLockRelease(&counters_shared->mutex);
}
