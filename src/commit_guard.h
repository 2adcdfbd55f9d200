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

/* This transaction acquires a lock. */
extern void commit_guard_arm(void);

/* Refuse what is about to be committed if any lock was lost. */
extern void commit_guard_check_all(void);

#endif							/* COMMIT_GUARD_H */
