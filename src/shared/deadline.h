/*-------------------------------------------------------------------------
 *
 * deadline.h
 *	  The time until which this server may rely on its locks.
 *
 * Only the worker writes the deadline.  All processes read it without a lock and
 * without the worker, so that a worker that hangs or died cannot make anyone a
 * false holder.  The deadline belongs to an epoch: every lease begins a new one.
 * What was granted in one epoch is never valid in another (README.md, rule 3).
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLINE_H
#define DEADLINE_H

#include "shared/clock.h"

#include "port/atomics.h"

typedef struct DeadlineShared
{
	pg_atomic_uint64 epoch;		/* starts at 1 */
	pg_atomic_uint64 boottime;	/* 0: no lease */
	pg_atomic_uint64 raw;
} DeadlineShared;

extern void deadline_init(DeadlineShared *deadline);
extern uint64 deadline_epoch(const DeadlineShared *deadline);

/* Are locks that were granted in this epoch still ours? */
extern bool deadline_valid(DeadlineShared *deadline, uint64 epoch);

/* Microseconds left in the current epoch, 0 if it is over. */
extern int64 deadline_left(DeadlineShared *deadline);

/* Worker only.  A deadline never moves back within an epoch. */
extern void deadline_extend(DeadlineShared *deadline, ClockReading from,
							int64 microseconds);
extern void deadline_end_epoch(DeadlineShared *deadline);

#endif							/* DEADLINE_H */
