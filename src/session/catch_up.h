/*-------------------------------------------------------------------------
 *
 * catch_up.h
 *	  A session on a standby waits until the primary's commits are replayed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CATCH_UP_H
#define CATCH_UP_H

#include "session/wait_deadlines.h"

/*
 * After a grant on a standby, wait until everything the primary had written is
 * replayed.  If this throws, the lock is still held.
 */
extern void catch_up_wait(const WaitDeadlines *deadlines);

/* The same, but the lock is released if this throws. */
extern void catch_up_or_release(const LockName *name, const LockRequest *request,
								const WaitDeadlines *deadlines);

#endif							/* CATCH_UP_H */
