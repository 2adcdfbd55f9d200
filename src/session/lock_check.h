/*-------------------------------------------------------------------------
 *
 * lock_check.h
 *	  Asking etcd whether it still has our keys.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_CHECK_H
#define LOCK_CHECK_H

#include "session/lock_session.h"

typedef enum LockCheck
{
	LOCK_CHECK_HELD,
	LOCK_CHECK_LOST,
	LOCK_CHECK_UNKNOWN			/* etcd does not respond */
} LockCheck;

extern LockCheck lock_check(LocalHold *local);

/*
 * Check all locks of the session at once; LocalHold.unknown has each result.
 */
extern void lock_check_all(void);

/*
 * Raise the error that there is no response, or no lease; waited:
 * milliseconds.
 */
extern void lock_check_report_unreachable(int waited);

#endif							/* LOCK_CHECK_H */
