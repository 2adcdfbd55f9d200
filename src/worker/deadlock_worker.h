/*-------------------------------------------------------------------------
 *
 * deadlock_worker.h
 *	  Detecting deadlocks over several servers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLOCK_WORKER_H
#define DEADLOCK_WORKER_H

#include "etcd/etcd_api.h"
#include "worker/name.h"

extern void deadlock_worker_create(void);

/* Has a session waited for long?  The caller holds the entry's lock. */
extern void deadlock_worker_take(WorkerName *name);

/* Somebody has put a key below our sentinel. */
extern void deadlock_worker_message(const EtcdKeyValue *message);

extern void deadlock_worker_tick(void);
extern int64 deadlock_worker_next_time(void);

#endif							/* DEADLOCK_WORKER_H */
