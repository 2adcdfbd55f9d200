/*-------------------------------------------------------------------------
 *
 * loss_timer.h
 *	  The session's own timer for the deadline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOSS_TIMER_H
#define LOSS_TIMER_H

#include "postgres.h"

/* The session has acquired a lock in this epoch: watch its deadline. */
extern void loss_timer_watch(uint64 epoch);

/* The session no longer holds anything. */
extern void loss_timer_unwatch(void);

/* An error has disabled all timeouts. */
extern void loss_timer_rearm(void);

#endif							/* LOSS_TIMER_H */
