/*-------------------------------------------------------------------------
 *
 * key_step.c
 *	  A step in the life of a key of ours: in the table, and in the worker.
 *
 * etcd/key_machine.c says what follows from an event, and shared/lock_keys.c
 * does it in the shared table.  This file does the rest, for the worker: it
 * puts keys with something to send into a queue of txn_queue.c, and has queues
 * read again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "worker/key_step.h"
#include "worker/recent_names.h"
#include "worker/serials.h"
#include "worker/txn_queue.h"

static void
act(WorkerKey *key, int actions)
{
	if (actions & KEY_DO_REUSE)
		key->reuse_serial = true;
	if (actions & KEY_DO_QUEUE)
		txn_queue_key(key);
	if (actions & KEY_DO_READ)
		txn_queue_range(key->name);
}

void
key_step_locked(WorkerKey *key, KeyEvent event, const LockFailure *failure)
{
	LockEntry  *entry = key->name->entry;
	LockKey    *shared = name_shared_key(key);

	act(key, failure == NULL ? lock_key_step(entry, shared, event) :
		lock_key_fail(entry, shared, event, failure));
}

void
key_step_put(WorkerKey *key, int64 create_revision)
{
	key->create_revision = create_revision;
	act(key, lock_key_put(key->name->entry, name_shared_key(key), create_revision));
}

void
key_step(WorkerKey *key, KeyEvent event, const LockFailure *failure)
{
	WorkerName *name = key->name;
	LWLock	   *lock = name_lock(name);

	key_step_locked(key, event, failure);
	lock_table_unlock(lock);
	name_settle(name);
}

void
key_step_take(WorkerName *name, int slot, KeyEvent event)
{
	LockEntry  *entry = name->entry;
	LockKey    *shared = &entry->keys[slot];
	int			actions = lock_key_take(entry, shared, event, serial_take(entry->hashcode));
	WorkerKey  *key = name_make_key(name, slot);

	/* A name or session that was refused recently goes alone. */
	if (recent_name_was_refused(entry, shared->requester_pid, clock_now()))
		key->max_ops = 1;
	act(key, actions);
}

WorkerKey *
key_step_adopt(WorkerName *name, int slot)
{
	WorkerKey  *key = name_make_key(name, slot);

	key_step_locked(key, KEY_ON_ADOPT, NULL);
	return key;
}
