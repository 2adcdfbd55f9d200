/*-------------------------------------------------------------------------
 *
 * key_step.h
 *	  A step in the life of a key of ours: in the table, and in the worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KEY_STEP_H
#define KEY_STEP_H

#include "worker/name.h"

/*
 * The caller holds the entry's lock, and calls name_settle() after it has
 * released it. failure: what the sessions that ask for the key are told if the
 * step fails them, or NULL if it never does.
 */
extern void key_step_locked(WorkerKey *key, KeyEvent event, const LockFailure *failure);

/* Etcd has put the key, with this create_revision.  Likewise. */
extern void key_step_put(WorkerKey *key, int64 create_revision);

/* Takes the lock itself.  The key, and its name, may be gone afterwards. */
extern void key_step(WorkerKey *key, KeyEvent event, const LockFailure *failure);

/*
 * A session wants this key: create the worker's own data for it.  Lock held.
 */
extern void key_step_take(WorkerName *name, int slot, KeyEvent event);

/* The same for a key of a worker that died. */
extern WorkerKey *key_step_adopt(WorkerName *name, int slot);

#endif							/* KEY_STEP_H */
