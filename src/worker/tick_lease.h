/*-------------------------------------------------------------------------
 *
 * tick_lease.h
 *	  The leases by which ticks of etcd_try_once() expire.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TICK_LEASE_H
#define TICK_LEASE_H

#include "shared/lock_table.h"

extern void tick_lease_create(void);
extern void tick_lease_tick(void);
extern int64 tick_lease_next_time(void);

/*
 * Returns the lease to attach a tick to.  Returns false if there is none yet;
 * ask again after TICK_LEASE_PAUSE.
 */
extern bool tick_lease_get(int64 *id);

/* Why etcd refuses to give one, or NULL. */
extern const LockFailure *tick_lease_refusal(void);

#define TICK_LEASE_PAUSE	INT64CONST(10000)	/* microseconds */

/* Etcd does not know a lease that was just used; it may have been this one. */
extern void tick_lease_doubt(void);

#endif							/* TICK_LEASE_H */
