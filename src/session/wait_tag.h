/*-------------------------------------------------------------------------
 *
 * wait_tag.h
 *	  The first part of a wait: for PostgreSQL's lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WAIT_TAG_H
#define WAIT_TAG_H

#include "session/lock_session.h"
#include "session/wait_deadlines.h"

/* Returns false if another session has the lock and the deadlines allow no wait. */
extern bool wait_tag_acquire(LocalHold *local, const LockRequest *request,
							 const WaitDeadlines *deadlines);
extern void wait_tag_release(LocalHold *local, const LockRequest *request);
extern bool wait_tag_somebody_has(LocalHold *local);

#endif							/* WAIT_TAG_H */
