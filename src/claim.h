/*-------------------------------------------------------------------------
 *
 * claim.h
 *	  Claiming a tick for a lock that is held already.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CLAIM_H
#define CLAIM_H

#include "lock_session.h"

extern Size claim_shmem_size(void);
extern void claim_shmem_init(void);

/* Session: false when the tick, or a later one, is claimed already. */
extern bool claim_tick(LocalHold *local, TimestampTz tick, uint64 claim);

/* Worker: take up what a session asks for. */
extern void claim_take_work(void);

#endif							/* CLAIM_H */
