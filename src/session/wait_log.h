/*-------------------------------------------------------------------------
 *
 * wait_log.h
 *	  log_lock_waits for waits that PostgreSQL's lock manager does not see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WAIT_LOG_H
#define WAIT_LOG_H

#include "session/lock_session.h"

/* One wait for etcd; initially zeroed. */
typedef struct WaitLog
{
	int64		since;			/* clock_now(); 0: has not waited yet */
	int64		asked_at;		/* 0: has not asked for the holder */
	bool		logged;
} WaitLog;

extern char *wait_log_get_holder(LockHold *hold);
extern void wait_log_tick(WaitLog *log, LocalHold *local, bool draining);
extern int64 wait_log_next_time(const WaitLog *log);
extern void wait_log_granted(const WaitLog *log, LocalHold *local);

#endif							/* WAIT_LOG_H */
