/*-------------------------------------------------------------------------
 *
 * wait_events.h
 *	  Wait events of sessions and the worker, for pg_stat_activity.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_LOCK_WAIT_EVENTS_H
#define ETCD_LOCK_WAIT_EVENTS_H

#include "postgres.h"

extern uint32 wait_events_acquire(void);
extern uint32 wait_events_release(void);
extern uint32 wait_events_check(void);
extern uint32 wait_events_catch_up(void);
extern uint32 wait_events_worker(void);

#endif							/* ETCD_LOCK_WAIT_EVENTS_H */
