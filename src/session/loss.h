/*-------------------------------------------------------------------------
 *
 * loss.h
 *	  Telling the user that a lock was lost.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOSS_H
#define LOSS_H

#include "session/lock_session.h"

extern void loss_init(void);

/* The assign hook of the setting on_loss. */
extern void loss_assign_on_loss(int on_loss, void *extra);

/*
 * Refuse a statement that would change something, in a session that has lost a
 * lock, because it could not be committed.
 */
extern void loss_refuse_change(void);

/* Cancel the running statement if a lock is lost. */
extern void loss_cancel(void);

/* In PG_CATCH: replace a cancel of ours by our own error. */
extern void loss_translate_cancel(MemoryContext context);

/* An ErrorContextCallback that names the lock whose loss ends the session. */
extern void loss_error_context(void *arg);

#endif							/* LOSS_H */
