/*-------------------------------------------------------------------------
 *
 * lock_trace.h
 *	  What happens to a lock, step by step, as debug messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_TRACE_H
#define LOCK_TRACE_H

#include "shared/lock_table.h"

typedef enum LockTraceStep
{
	LOCK_TRACE_ASKED_SHARED,
	LOCK_TRACE_ASKED_EXCLUSIVE,
	LOCK_TRACE_WAITS_HERE,		/* number: a process that has PostgreSQL's
								 * lock */
	LOCK_TRACE_TAG,				/* has PostgreSQL's lock */
	LOCK_TRACE_KEY_WANTED,
	LOCK_TRACE_KEY_SENT,
	LOCK_TRACE_KEY_PUT,			/* number: create_revision */
	LOCK_TRACE_KEY_BEHIND,		/* number: how many keys */
	LOCK_TRACE_KEY_HELD,		/* number: create_revision */
	LOCK_TRACE_KEY_KEPT,		/* number: for how many milliseconds at most */
	LOCK_TRACE_KEY_DELETING,
	LOCK_TRACE_KEY_GONE,
	LOCK_TRACE_KEY_LOST,
	LOCK_TRACE_KEY_FAILED,
	LOCK_TRACE_GRANTED,			/* number: token */
	LOCK_TRACE_PASSED_ON,		/* number: token */
	LOCK_TRACE_DRAINS,
	LOCK_TRACE_BEHIND,
	LOCK_TRACE_CAUGHT_UP,
	LOCK_TRACE_NOT_GRANTED,
	LOCK_TRACE_RELEASED,		/* number: milliseconds that it was held */
	LOCK_TRACE_CONFIRMED		/* number: how many keys */
} LockTraceStep;

/* Is tracing on? */
extern bool lock_trace_on;

/*
 * A session begins to acquire or release a lock.  Times are measured from
 * here, and this decides whether to trace at all.
 */
extern void lock_trace_begin(void);

/* The same for the worker, whenever its settings may have changed. */
extern void lock_trace_begin_worker(void);

extern void lock_trace_note_step(LockTraceStep step, const char *key,
								 int namespace_len, const LOCKTAG *tag,
								 int64 since, int64 number);
extern void lock_trace_note_put(const LockEntry *entry, const LockKey *key);
extern void lock_trace_say_noted(void);
extern void lock_trace_say_holder(const LockName *name, const char *holder);

/* A step in the life of a key; the caller holds the entry's lock. */
static inline void
lock_trace_key(LockTraceStep step, const LockEntry *entry, const LockKey *key,
			   int64 number)
{
	if (unlikely(lock_trace_on))
		lock_trace_note_step(step, entry->key, key->namespace_len, &entry->tag,
							 key->wanted_at, number);
}

/* A step of a session. */
static inline void
lock_trace_name(LockTraceStep step, const LockName *name, int64 number)
{
	if (unlikely(lock_trace_on))
		lock_trace_note_step(step, name->key, name->namespace_len, &name->tag,
							 0, number);
}

/* A step that concerns several locks. */
static inline void
lock_trace_all(LockTraceStep step, int64 number)
{
	if (unlikely(lock_trace_on))
		lock_trace_note_step(step, "", 0, NULL, 0, number);
}

/* Report what was noted.  Call it where that is safe. */
static inline void
lock_trace_say(void)
{
	if (unlikely(lock_trace_on))
		lock_trace_say_noted();
}

#endif							/* LOCK_TRACE_H */
