/*-------------------------------------------------------------------------
 *
 * wait_deadlines.h
 *	  The deadlines of a session's wait for a lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WAIT_DEADLINES_H
#define WAIT_DEADLINES_H

#include "session/lock_request.h"

/* Times from clock_now(); PG_INT64_MAX: never. */
typedef struct WaitDeadlines
{
	int64		began_at;		/* when the session asked for the lock */
	int64		lock_timeout_at;	/* the lock_timeout setting: an error */
	int64		give_up_at;		/* the caller's own deadline: a plain "no" */
	int64		respond_by;		/* a try has no response by then: an error */
	int64		error_at;		/* the one that raises a lock timeout */
} WaitDeadlines;

extern void wait_deadlines_begin(WaitDeadlines *deadlines, const LockRequest *request);

/* Each raises its error if its time has come. */
extern void wait_deadlines_check_lock_timeout(const WaitDeadlines *deadlines);
extern void wait_deadlines_check_response(const WaitDeadlines *deadlines);

/* For WaitLatch(): milliseconds until "until", but no more than "most". */
extern long wait_deadlines_left(int64 until, int most);

#endif							/* WAIT_DEADLINES_H */
