/*-------------------------------------------------------------------------
 *
 * loss.h
 *	  Telling a session that it has lost a lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOSS_H
#define LOSS_H

#include "lock_session.h"

extern void loss_init(void);

/* The session has got a lock: watch the deadline of its epoch. */
extern void loss_watch(const LocalHold *local);

/* It holds nothing any more. */
extern void loss_unwatch(void);

/* An error has disabled all timeouts. */
extern void loss_rearm(void);

#endif							/* LOSS_H */
