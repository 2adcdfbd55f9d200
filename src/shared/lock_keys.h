/*-------------------------------------------------------------------------
 *
 * lock_keys.h
 *	  The life of a key in the shared table: wanted, sent, queued, held, deleted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_KEYS_H
#define LOCK_KEYS_H

#include "shared/lock_table.h"

/* Who holds a lock by a key, or waits with it. */
typedef struct LockHolder
{
	bool		somebody;		/* else the key waits for the next session */
	int			pid;
	TimestampTz since;
	LockWho		who;
} LockHolder;

/* A key whose deletion a session may want to wait for. */
typedef struct LockReleasedKey
{
	LockKey    *key;
	uint64		key_id;
} LockReleasedKey;

/*
 * The caller holds the lock of the entry's partition, exclusively if something
 * changes.
 */
extern int	lock_key_slot(const LockEntry *entry, uint64 key_id);
extern LockKey *lock_key_live(LockEntry *entry, LockMode mode);
extern uint64 lock_key_id(const LockKey *key);
extern bool lock_key_held_valid(const LockKey *key);
extern bool lock_key_needed(const LockEntry *entry, const LockKey *key);
extern int	lock_key_count_holders(LockEntry *entry, const LockKey *key);
extern LockHold *lock_key_holder(LockEntry *entry, const LockKey *key, int pid);
extern void lock_key_await_holder_change(LockEntry *entry, LockKey *key);
extern void lock_key_holder_changed(LockEntry *entry, LockKey *key);
extern void lock_key_copy_holder(LockEntry *entry, const LockKey *key, int pid,
								 LockHolder *holder);
extern LockKey *lock_key_want(LockEntry *entry, LockHold *hold);
extern void lock_key_mark_deleting(LockEntry *entry, LockKey *key);
extern int	lock_key_step(LockEntry *entry, LockKey *key, KeyEvent event);
extern int	lock_key_fail(LockEntry *entry, LockKey *key, KeyEvent event,
						  const LockFailure *failure);
extern int	lock_key_take(LockEntry *entry, LockKey *key, KeyEvent event,
						  uint64 serial);
extern int	lock_key_put(LockEntry *entry, LockKey *key, int64 create_revision);
extern void lock_key_set_behind(LockEntry *entry, LockKey *key, bool is_behind,
								bool tries_wait);
extern bool lock_key_refuses_tries(const LockKey *key);
extern void lock_key_grant(LockEntry *entry, LockKey *key);
extern void lock_key_note_breaker(LockEntry *entry, const LockKey *key,
								  const char *by);
extern void lock_key_break(LockEntry *entry, LockKey *key, int release_waiter);
extern int64 lock_key_ask_look(LockEntry *entry, LockKey *key);
extern bool lock_key_wants_look(const LockKey *key);
extern bool lock_key_behind_since(LockEntry *entry, LockKey *key, int64 since);
extern bool lock_key_is_unsure(LockEntry *entry, const LockKey *key);
extern bool lock_key_tell_failure(LockEntry *entry, const LockKey *key,
								  const LockFailure *failure);
extern void lock_key_checked(LockEntry *entry, LockKey *key,
							 bool foreign_waiter, int64 looked_at);
extern void lock_key_looked(LockEntry *entry, LockKey *key, int64 looked_at);

#endif							/* LOCK_KEYS_H */
