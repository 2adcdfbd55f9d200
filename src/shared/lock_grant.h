/*-------------------------------------------------------------------------
 *
 * lock_grant.h
 *	  Which of this server's sessions gets a lock, and by which key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_GRANT_H
#define LOCK_GRANT_H

#include "shared/lock_table.h"

typedef enum LockAskResult
{
	LOCK_ASK_GRANTED,
	LOCK_ASK_WAIT,				/* until the latch is set */
	LOCK_ASK_DRAIN,				/* likewise, but without the lock tag */
	LOCK_ASK_FAILED				/* hold->failure says why */
} LockAskResult;

extern LockAskResult lock_grant_ask(LockHold *hold);

#endif							/* LOCK_GRANT_H */
