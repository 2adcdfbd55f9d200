/*-------------------------------------------------------------------------
 *
 * claim_worker.h
 *	  Claiming a tick in etcd for a lock that is held, for etcd_try_once().
 *
 *-------------------------------------------------------------------------
 */
#ifndef CLAIM_WORKER_H
#define CLAIM_WORKER_H

#include "postgres.h"

extern void claim_worker_create(void);

/* Take up a session's request. */
extern void claim_worker_tick(void);

/* When to check again a claim that waits for a lease of ticks. */
extern int64 claim_worker_next_time(void);

#endif							/* CLAIM_WORKER_H */
