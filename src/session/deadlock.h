/*-------------------------------------------------------------------------
 *
 * deadlock.h
 *	  Deadlocks that PostgreSQL cannot detect, and false positives.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLOCK_H
#define DEADLOCK_H

#include "shared/lock_table.h"

extern int	deadlock_with_holder(LockHold *hold);
extern bool deadlock_is_ours(void);

/* Raises the error for one over several servers, of which the worker has made us the victim. */
extern void deadlock_raise_cycle(const LockHold *hold);

#endif							/* DEADLOCK_H */
