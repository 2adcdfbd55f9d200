/*-------------------------------------------------------------------------
 *
 * lock_keep.h
 *	  Keys that no session uses: kept for a while, or deleted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_KEEP_H
#define LOCK_KEEP_H

#include "shared/lock_keys.h"

/*
 * The caller holds the lock of the entry's partition exclusively; now:
 * clock_now().
 */

/*
 * How often the queue of a name that may be kept is read at least, because
 * watches have stalled in the field; microseconds.
 */
#define LOCK_KEEP_LOOK_INTERVAL		INT64CONST(3000000)

/* May the key pass from session to session here? */
extern bool lock_keep_may_pass(const LockKey *key, int64 now);

/* A session has acquired the lock by it. */
extern void lock_keep_taken(LockEntry *entry, LockKey *key);

/*
 * A session has released something: mark keys deleting that are no longer
 * needed.
 */
extern int	lock_keep_settle(LockEntry *entry, LockReleasedKey *released);

/*
 * Mark idle keys deleting.  Returns false if there is none, nor one that is
 * being deleted; in the same step, *in_use says whether any session holds or
 * wants a lock.  The caller holds no lock.
 */
extern bool lock_keep_end_idle(bool *in_use);

/*
 * The table is full: the same, for a session that has found no room.  Returns
 * whether there may be room soon.
 */
extern bool lock_keep_make_room(void);

/* For the worker. */
extern void lock_keep_look(LockEntry *entry, LockKey *key, int64 now);
extern void lock_keep_set_company(LockEntry *entry, LockKey *key, KeyCompany company);

#endif							/* LOCK_KEEP_H */
