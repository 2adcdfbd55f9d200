/*-------------------------------------------------------------------------
 *
 * commit_guard.h
 *	  A transaction that lost its lock does not commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMIT_GUARD_H
#define COMMIT_GUARD_H

#include "etcd_lock.h"

/* Let the guard run before other modules' callbacks. */
extern void commit_guard_to_front(void);

/* This transaction sends a notification. */
extern void commit_guard_note_notify(void);

/* Refuse what is about to be committed if any lock was lost. */
extern void commit_guard_check_all(void);

#endif							/* COMMIT_GUARD_H */
