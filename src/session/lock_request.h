/*-------------------------------------------------------------------------
 *
 * lock_request.h
 *	  What a session asks for when it acquires a lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_REQUEST_H
#define LOCK_REQUEST_H

#include "shared/lock_table.h"

typedef struct LockRequest
{
	LockMode	mode;
	bool		session;		/* else for the transaction */
	bool		is_try;			/* do not wait for other holders */
	bool		is_call;		/* by CALL: the transaction has done nothing
								 * before */
	int64		wait;			/* give up after this many microseconds; -1:
								 * never */
	bool		catch_up_later; /* the caller calls catch_up_wait() */
	bool		has_tick;		/* a try that also claims a tick, by a session
								 * that does not hold the lock yet */
	TimestampTz tick;
	uint64		claim;			/* a random number for each call */
	bool	   *only_kept;		/* with a tick: set if the lock is not
								 * acquired, but other servers may only be
								 * keeping it */
} LockRequest;

#endif							/* LOCK_REQUEST_H */
