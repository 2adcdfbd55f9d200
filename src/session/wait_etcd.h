/*-------------------------------------------------------------------------
 *
 * wait_etcd.h
 *	  The second part of a wait: for etcd's lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WAIT_ETCD_H
#define WAIT_ETCD_H

#include "session/wait_deadlines.h"
#include "session/wait_log.h"
#include "shared/lock_grant.h"

/* Debug messages name the holder once. */
typedef enum TraceHolder
{
	TRACE_HOLDER_UNKNOWN,
	TRACE_HOLDER_ASKED,
	TRACE_HOLDER_SAID
} TraceHolder;

/* One wait.  Times are clock_now(). */
typedef struct WaitEtcd
{
	LocalHold  *local;
	const WaitDeadlines *deadlines;
	WaitLog		log;
	int64		drain_check_at; /* look for a deadlock by draining */

	/* Since PostgreSQL's lock was acquired for the last time. */
	int64		asked_at;
	int64		last_progress_at;	/* there was a link, or a place in etcd's
									 * queue */
	uint64		heartbeat;		/* the worker's last one */
	int64		beat_at;		/* when that was seen */
	int64		ask_holder_at;	/* ask who holds the lock, for the error */
	int64		probe_at;		/* look for a deadlock over several servers, */
	int64		probe_interval; /* and again after so long */
	bool		deadlock_logged;
	TraceHolder trace_holder;
} WaitEtcd;

extern void wait_etcd_begin(WaitEtcd *wait, LocalHold *local,
							const WaitDeadlines *deadlines);
extern LockAskResult wait_etcd_grant(WaitEtcd *wait);
extern bool wait_etcd_drain(WaitEtcd *wait);

#endif							/* WAIT_ETCD_H */
