/*-------------------------------------------------------------------------
 *
 * lock_session.h
 *	  The etcd locks of this session: what it holds, and how that ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_SESSION_H
#define LOCK_SESSION_H

#include "lock_table.h"

#include "utils/resowner.h"

/*
 * Ticks of etcd_try_once(): years 1 to 9999, whose ISO form in etcd has a fixed
 * width.  Microseconds since 2000-01-01.
 */
#define LOCK_FIRST_TICK	(INT64CONST(-730119) * 86400 * 1000000)
#define LOCK_END_TICK	(INT64CONST(2921940) * 86400 * 1000000)

/* How often a resource owner holds the lock; owner NULL: the session. */
typedef struct LocalOwner
{
	ResourceOwner owner;
	int64		count;
} LocalOwner;

/* A lock that this session holds, or is about to. */
typedef struct LocalHold
{
	char		id[ETCD_LOCK_MAX_KEY + 2];	/* hash key: mode, then
											 * LockName.key */
	LockName	name;
	LockMode	mode;
	LockHold   *hold;			/* in shared memory; NULL: not yet */
	int64		token;
	bool		told;			/* its loss was reported to the user */
	bool		warned;			/* ... by a warning at a commit */
	LocalOwner *owners;
	int			nowners;
	int			max_owners;
} LocalHold;

typedef struct LockRequest
{
	LockMode	mode;
	bool		session;		/* else for the transaction */
	bool		is_try;			/* do not wait for other holders */
	bool		is_call;		/* nothing of the transaction is before it */
	int64		wait;			/* give up after so many microseconds; -1: never */
	bool		has_tick;		/* a try that claims a tick as well, by a session
								 * that does not hold the lock yet */
	TimestampTz tick;
	uint64		claim;			/* another number for each */
} LockRequest;

/* lock_session.c */
extern void lock_session_init(void);
extern LOCKMODE lock_session_pgmode(LockMode mode);
extern LocalHold *lock_session_find(const LockName *name, LockMode mode);
extern LocalHold *lock_session_enter(const LockName *name, LockMode mode);
extern void lock_session_forget(LocalHold *local);
extern void lock_session_count(LocalHold *local, ResourceOwner owner, int64 add);
extern bool lock_session_has_tag(const LocalHold *local);
extern void lock_session_flush_commits(void);
extern bool lock_session_holds_any(void);
extern bool lock_session_unlock(const LockName *name, LockMode mode,
								ResourceOwner owner);
extern void lock_session_unlock_all(void);

/* Call for each hold; the callback must not change what is held. */
typedef void (*LocalHoldCallback) (LocalHold *local, void *arg);
extern void lock_session_foreach(LocalHoldCallback callback, void *arg);

/* lock_acquire.c: returns the fencing token, 0 when the lock was not to be had */
extern int64 lock_acquire(const LockName *name, const LockRequest *request);
typedef enum LockCheck
{
	LOCK_CHECK_HELD,
	LOCK_CHECK_LOST,
	LOCK_CHECK_UNKNOWN			/* etcd does not answer */
} LockCheck;

extern LockCheck lock_check(LocalHold *local);
extern void lock_report_unreachable(int waited);
extern void lock_describe_session(void);
extern void lock_report_lost(LocalHold *local);

#endif							/* LOCK_SESSION_H */
