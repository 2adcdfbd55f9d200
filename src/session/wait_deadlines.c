/*-------------------------------------------------------------------------
 *
 * wait_deadlines.c
 *	  The deadlines of a session's wait for a lock.
 *
 * All deadlines are set once, when the session asks for the lock: they end
 * each part of the wait, no matter how often the session starts over with
 * PostgreSQL's lock, or asks etcd with another key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "session/lock_check.h"
#include "session/wait_deadlines.h"
#include "shared/clock.h"
#include "shared/settings.h"
#include "storage/proc.h"

void
wait_deadlines_begin(WaitDeadlines *deadlines, const LockRequest *request)
{
	int64		now = clock_now();
	int64		lock_timeout_at = PG_INT64_MAX;
	int64		give_up_at = PG_INT64_MAX;

	if (LockTimeout > 0)
		lock_timeout_at = now + (int64) LockTimeout * 1000;
	if (request->wait >= 0 && request->wait < PG_INT64_MAX - now)
		give_up_at = now + request->wait;

	deadlines->began_at = now;
	deadlines->lock_timeout_at = lock_timeout_at;
	deadlines->give_up_at = give_up_at;
	deadlines->respond_by = request->is_try ?
		now + (int64) etcd_lock_request_timeout * 1000 : PG_INT64_MAX;
	deadlines->error_at = request->is_call || lock_timeout_at <= give_up_at ?
		Min(lock_timeout_at, give_up_at) : PG_INT64_MAX;
}

/* If the caller's own deadline ends first, that is not an error. */
void
wait_deadlines_check_lock_timeout(const WaitDeadlines *deadlines)
{
	if (deadlines->lock_timeout_at <= deadlines->give_up_at &&
		clock_now() >= deadlines->lock_timeout_at)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("canceling statement due to lock timeout")));
}

void
wait_deadlines_check_response(const WaitDeadlines *deadlines)
{
	if (clock_now() >= deadlines->respond_by)
		lock_check_report_unreachable(etcd_lock_request_timeout);
}

long
wait_deadlines_left(int64 until, int most)
{
	int64		left;

	if (until == PG_INT64_MAX)
		return most;
	left = (until - clock_now()) / 1000 + 1;
	return (long) Max(Min(left, most), 0);
}
