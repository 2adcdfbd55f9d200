/*-------------------------------------------------------------------------
 *
 * loss_signal.h
 *	  Signals to a session that has lost a lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOSS_SIGNAL_H
#define LOSS_SIGNAL_H

#include "shared/lock_table.h"

/*
 * Tell a session that it has lost a lock, unless it is committing.  The second
 * function is for the end of a lease, of which a session is told only once.
 * Both may run in a signal handler.
 */
extern void loss_signal_send(int procno, int pid);
extern void loss_signal_send_epoch(int procno, int pid, uint64 epoch);

/* For the session itself: the value of on_loss from now on. */
extern void loss_signal_set_on_loss(int on_loss);

/*
 * Record who has broken the lock that the session holds by this key; text in
 * UTF-8.  Not for signal handlers.
 */
extern void loss_signal_note_breaker(int procno, uint64 key_id, const char *by);

/*
 * For the session itself.  Returns false if nobody is known to have broken it.
 */
extern bool loss_signal_breaker(uint64 key_id, char *by);

/* Count the session's losses, so that it can see that there was none. */
extern void loss_signal_count(int procno);
extern uint32 loss_signal_losses(void);

/*
 * For the session itself: hold signals back from now on.  When this returns,
 * no signal is on its way.
 */
extern void loss_signal_hold_back(void);

/* Let them through again.  Returns true if one was held back meanwhile. */
extern bool loss_signal_let_through(void);

/* Is any session between these two? */
extern bool loss_signal_any_committing(void);

#endif							/* LOSS_SIGNAL_H */
