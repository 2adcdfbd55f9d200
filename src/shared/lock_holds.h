/*-------------------------------------------------------------------------
 *
 * lock_holds.h
 *	  What a session wants or holds: recorded, checked, dropped, broken.
 *
 * For sessions.  Each function takes the lock of the entry's partition itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_HOLDS_H
#define LOCK_HOLDS_H

#include "shared/lock_keys.h"

/*
 * Whether a session can be recorded as a waiter.
 */
typedef enum LockWaitResult
{
	LOCK_WAIT_OK,
	LOCK_WAIT_TABLE_FULL,
	LOCK_WAIT_NAME_CONFLICT		/* the key belongs to another lock tag */
} LockWaitResult;

extern LockWaitResult lock_hold_wait(const LockName *name, LockMode mode,
									 bool upgrader, LockHold **hold);
extern void lock_hold_turned_away(const LockName *name);
extern int	lock_hold_drop(LockHold *hold, LockReleasedKey *released);
extern bool lock_hold_valid(LockHold *hold);
extern bool lock_hold_is_queued(LockHold *hold);
extern bool lock_hold_is_behind(LockHold *hold);
extern bool lock_hold_others_ahead(LockHold *hold);
extern bool lock_hold_somebody_has(LockHold *hold);
extern bool lock_hold_others_have_tag(LockHold *hold);

/* Another session of this server that has PostgreSQL's lock, or wants etcd's. */
typedef struct LockOther
{
	bool		holding;
	int			pid;
	TimestampTz since;			/* holding: since when */
	LockWho		who;
	char		holder[LOCK_HOLDER_TEXT];	/* else whom it waits for; empty:
											 * unknown */
} LockOther;

/* Returns false if there is none.  ask: have etcd asked whom it waits for. */
extern bool lock_hold_other(LockHold *hold, bool ask, LockOther *other);

/*
 * Returns the process of a session of this server that has PostgreSQL's lock in
 * a conflicting mode, or 0.
 */
extern int	lock_hold_blocker(LockHold *hold);

/* A process that holds or wants a lock, but not by the functions of this module. */
typedef struct LockForeignHolder
{
	int			pid;			/* 0: a prepared transaction */
	uint32		given_up;		/* LockProc.given_up */
} LockForeignHolder;

extern bool lock_hold_is_foreign(LockHold *hold, int pid, LockForeignHolder *foreign);

/* Between these calls, the session is not foreign, although its record is gone. */
extern void lock_hold_begin_give_up(void);
extern void lock_hold_end_give_up(void);

/*
 * lock_hold_ask_holder() has etcd asked who holds the lock; unless again, only
 * if it has not responded during this wait.  lock_hold_get_holder() gets what it
 * said last, or an empty text, and returns false while a question is open; text
 * has room for LOCK_HOLDER_TEXT bytes.
 */
extern void lock_hold_ask_holder(LockHold *hold, bool again);
extern bool lock_hold_get_holder(LockHold *hold, char *text);

/* Have the worker look for a deadlock over several servers: deadlock_worker.c. */
extern void lock_hold_ask_probe(LockHold *hold);

extern int	lock_hold_others(LockHold *hold, int *pids, int max);
extern void lock_hold_set_counts(LockHold *hold, int session_count,
								 int xact_count);
extern int64 lock_hold_start_check(LockHold *hold);
extern bool lock_hold_check_done(LockHold *hold, int64 check);

/* Returns false if this server has no such key. */
extern bool lock_hold_on_key(const char *name, int64 create_revision,
							 LockHolder *holder);

typedef enum LockBreakResult
{
	LOCK_BREAK_ELSEWHERE,		/* not a lock of this server's */
	LOCK_BREAK_STALE,			/* it is, but no session has that token any
								 * more */
	LOCK_BREAK_DONE				/* broken; the key is being deleted */
} LockBreakResult;

/* by: who breaks the lock, in UTF-8. */
extern LockBreakResult lock_hold_break(const char *key, int64 token, const char *by,
									   LockReleasedKey *released);

#endif							/* LOCK_HOLDS_H */
