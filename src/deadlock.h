/*-------------------------------------------------------------------------
 *
 * deadlock.h
 *	  Deadlocks on this server that PostgreSQL does not see, and such that it
 *	  sees where there are none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLOCK_H
#define DEADLOCK_H

#include "lock_table.h"

extern int	deadlock_with_holder(LockHold *hold);
extern bool deadlock_is_ours(void);

#endif							/* DEADLOCK_H */
