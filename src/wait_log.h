/*-------------------------------------------------------------------------
 *
 * wait_log.h
 *	  log_lock_waits for waits that PostgreSQL's lock manager does not see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WAIT_LOG_H
#define WAIT_LOG_H

#include "lock_session.h"
#include "worker.h"

/* One wait for etcd; starts zeroed. */
typedef struct WaitLog
{
	int64		since;			/* clock_now(); 0: has not waited yet */
	int64		asked_at;		/* 0: the holder has not been asked for */
	bool		logged;
} WaitLog;

/* Session. */
extern void wait_log_tick(WaitLog *log, LocalHold *local, bool draining);
extern int64 wait_log_next_time(const WaitLog *log);
extern void wait_log_granted(const WaitLog *log, LocalHold *local);

/* Worker: what a session wants to know of a name; key NULL: nothing. */
typedef struct HolderQuestion
{
	char	   *name;
	LockMode	mode;			/* of who asks */
	char	   *key;			/* of the holder, in etcd */
	size_t		key_len;
	char	   *note;			/* on who has that key now; NULL: no server's key */
	int			nahead;
} HolderQuestion;

extern void wait_log_take(WorkerName *name, HolderQuestion *question);
extern void wait_log_ask_etcd(const HolderQuestion *question);

#endif							/* WAIT_LOG_H */
