/*-------------------------------------------------------------------------
 *
 * break_worker.h
 *	  Deleting the key of another server's lock, for etcd_lock_break().
 *
 *-------------------------------------------------------------------------
 */
#ifndef BREAK_WORKER_H
#define BREAK_WORKER_H

#include "postgres.h"

extern void break_worker_create(void);

/* Take up a session's request. */
extern void break_worker_tick(void);

#endif							/* BREAK_WORKER_H */
