/*-------------------------------------------------------------------------
 *
 * deadline.h
 *	  Until when this server may believe that it holds its locks.
 *
 * Written by the worker alone, read by everybody without a lock and without
 * the worker: a worker that hangs or died cannot make anyone a false holder.
 *
 * The deadline belongs to an epoch: every lease begins a new one.  What was
 * granted in one epoch is never valid in another (README.md, rule 3).
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLINE_H
#define DEADLINE_H

#include "etcd_lock.h"

#include "port/atomics.h"

/*
 * Two clocks, microseconds.  CLOCK_BOOTTIME goes on while the machine is
 * suspended; CLOCK_MONOTONIC_RAW is not slewed by NTP.  Whichever says first
 * that the time is over counts.
 */
typedef struct ClockReading
{
	int64		boottime;
	int64		raw;
} ClockReading;

typedef struct DeadlineShared
{
	pg_atomic_uint64 epoch;		/* starts at 1 */
	pg_atomic_uint64 boottime;	/* 0: no lease */
	pg_atomic_uint64 raw;
} DeadlineShared;

extern ClockReading clock_read(void);

/* CLOCK_BOOTTIME in microseconds, for timeouts and windows. */
extern int64 clock_now(void);

extern void deadline_init(DeadlineShared *deadline);
extern uint64 deadline_epoch(const DeadlineShared *deadline);

/* Is what was granted in this epoch still ours? */
extern bool deadline_valid(DeadlineShared *deadline, uint64 epoch);

/* Microseconds left in the current epoch, 0 when it is over. */
extern int64 deadline_left(DeadlineShared *deadline);

/* Worker only.  A deadline never moves back within an epoch. */
extern void deadline_extend(DeadlineShared *deadline, ClockReading from,
							int64 microseconds);
extern void deadline_end_epoch(DeadlineShared *deadline);

#endif							/* DEADLINE_H */
