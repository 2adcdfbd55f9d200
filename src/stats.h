/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  Counters since the server's start, or since they were reset.
 *
 *-------------------------------------------------------------------------
 */
#ifndef STATS_H
#define STATS_H

#include "lock_table.h"

extern Size stats_shmem_size(void);
extern void stats_shmem_init(void);

/*
 * What becomes of a session's wish for a lock.  All with the lock of the
 * entry's partition held exclusively; hashcode is the entry's.
 */
extern void stats_asked(uint32 hashcode, LockHold *hold);
extern void stats_turned_away(uint32 hashcode);
extern void stats_granted(LockHold *hold, bool from_etcd);
extern void stats_lost(LockHold *hold);
extern void stats_released(LockHold *hold);
extern void stats_dropped(LockHold *hold, bool valid);

/* What the worker does.  Times are in microseconds. */
extern void stats_request(int64 took, bool failed);
extern void stats_batch(int noperations);
extern void stats_lease_renewed(int64 left);
extern int	stats_lease_lost(int found);

#endif							/* STATS_H */
