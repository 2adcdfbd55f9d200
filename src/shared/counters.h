/*-------------------------------------------------------------------------
 *
 * counters.h
 *	  Counters since the server's start, or since they were reset.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COUNTERS_H
#define COUNTERS_H

#include "shared/lock_table.h"

/* Buckets of a histogram; the last one has no upper end. */
#define COUNTERS_NBOUNDS	20
#define COUNTERS_NBUCKETS	(COUNTERS_NBOUNDS + 1)

extern const int64 counters_bounds[COUNTERS_NBOUNDS];

typedef struct CountersHistogram
{
	uint64		sum;			/* microseconds */
	uint64		buckets[COUNTERS_NBUCKETS];
} CountersHistogram;

/* Of a partition, or of all together. */
typedef struct SessionCounters
{
	uint64		asked;
	uint64		acquired_etcd;
	uint64		acquired_passed_on;
	uint64		released;
	uint64		lost;
	uint64		reused;			/* those of acquired_passed_on by a key that
								 * no session used in between */
	uint64		given_up;		/* kept keys that went because others came */
	uint64		ended[LOCK_NOUTCOMES];
	CountersHistogram wait;
} SessionCounters;

typedef struct WorkerCounters
{
	uint64		requests;
	uint64		request_errors;
	uint64		batches;
	uint64		batch_operations;
	uint64		leases_lost;
	int64		lowest_ttl_left;	/* microseconds; -1: not renewed yet */
	CountersHistogram request;
} WorkerCounters;

/* What sessions have done, as of one moment. */
typedef struct CountersSnapshot
{
	SessionCounters sessions;
	TimestampTz reset_at;
	int64		held_at_reset;
	int64		waiting_at_reset;
} CountersSnapshot;

extern Size counters_shmem_size(void);
extern void counters_shmem_init(void);

/*
 * What becomes of a session's call for a lock.  The caller holds the lock of
 * the entry's partition exclusively; hashcode is the entry's.
 */
extern void counters_asked(uint32 hashcode, LockHold *hold);
extern void counters_turned_away(uint32 hashcode);
extern void counters_granted(LockHold *hold, bool from_etcd);
extern void counters_lost(LockHold *hold);
extern void counters_released(LockHold *hold);
extern void counters_dropped(LockHold *hold, bool valid);
extern void counters_reused(uint32 hashcode);
extern void counters_given_up(uint32 hashcode);

/* What the worker does.  Times are in microseconds. */
extern void counters_request(int64 took, bool failed);
extern void counters_batch(int noperations);
extern void counters_lease_renewed(int64 left);
extern int	counters_lease_lost(int found);

/*
 * For views.  The caller has locked all partitions, exclusively for a reset.
 */
extern void counters_read(CountersSnapshot *snapshot);
extern void counters_reset(int64 held, int64 waiting, TimestampTz at);

/* The same for the worker's counters; no lock is needed. */
extern void counters_read_worker(WorkerCounters *copy);
extern void counters_reset_worker(void);

#endif							/* COUNTERS_H */
