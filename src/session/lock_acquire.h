/*-------------------------------------------------------------------------
 *
 * lock_acquire.h
 *	  Acquiring a lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_ACQUIRE_H
#define LOCK_ACQUIRE_H

#include "session/lock_session.h"
#include "session/wait_deadlines.h"

/*
 * Returns the fencing token, or 0 if somebody else has the lock, which is an
 * error if the request has is_call.
 */
extern int64 lock_acquire(const LockName *name, const LockRequest *request);

/*
 * A try in two steps, for a session that does not have the lock in any mode.
 * Call lock_acquire_prepare_tries() once, which may take time.
 * lock_acquire_begin_try() never waits, and returns NULL if another session of
 * this server is in the way, or the table is full.  The caller must end or drop
 * each try that it has begun, and call lock_session_await_release() when it has
 * dropped some.
 */
extern void lock_acquire_prepare_tries(const WaitDeadlines *deadlines);
extern LocalHold *lock_acquire_begin_try(const LockName *name, const LockRequest *request);

/*
 * Returns true if granted and recorded.  If false, or an error, nothing is
 * left of it.
 */
extern bool lock_acquire_end_try(LocalHold *local, const LockRequest *request,
								 const WaitDeadlines *deadlines);
extern void lock_acquire_drop_try(LocalHold *local, const LockRequest *request);

#endif							/* LOCK_ACQUIRE_H */
