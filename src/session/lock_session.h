/*-------------------------------------------------------------------------
 *
 * lock_session.h
 *	  The etcd locks of this session: what it holds, and how that ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_SESSION_H
#define LOCK_SESSION_H

#include "shared/lock_keys.h"

#include "utils/resowner.h"

/*
 * Ticks of etcd_try_once(): years 1 to 9999, whose ISO form in etcd has a fixed
 * width.  Microseconds since 2000-01-01.
 */
#define LOCK_FIRST_TICK	(INT64CONST(-730119) * 86400 * 1000000)
#define LOCK_END_TICK	(INT64CONST(2921940) * 86400 * 1000000)

/* How many times a resource owner holds the lock; owner NULL: the session. */
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
	bool		told;			/* some message has told the user that it is
								 * lost */
	int64		check;			/* see lock_check.c */
	bool		unknown;		/* etcd was asked, and has not responded */
	LocalOwner *owners;
	int			nowners;
	int			max_owners;
} LocalHold;

/* What this file reports to those above it. */
typedef struct LockSessionCallbacks
{
	/* A lost lock is unlocked: was something changed under it? */
	void		(*unlocked_lost) (LocalHold *local);

	/*
	 * The transaction has released all its locks, and waited for that.  Must
	 * not throw.
	 */
	void		(*transaction_released) (void);

	/* The session ends. */
	void		(*session_ends) (void);
} LockSessionCallbacks;

extern void lock_session_init(const LockSessionCallbacks *callbacks);
extern void lock_session_describe(void);
extern LOCKMODE lock_session_pgmode(LockMode mode);
extern LocalHold *lock_session_find(const LockName *name, LockMode mode);
extern LocalHold *lock_session_enter(const LockName *name, LockMode mode);
extern void lock_session_forget(LocalHold *local);
extern void lock_session_granted(LocalHold *local, ResourceOwner owner);
extern void lock_session_count(LocalHold *local, ResourceOwner owner, int64 add);
extern bool lock_session_has_tag(const LocalHold *local);
extern bool lock_session_in_transaction(const LocalHold *local);
extern bool lock_session_outlives_transaction(const LocalHold *local);
extern const char *lock_session_unlock_function(const LocalHold *local);
extern void lock_session_flush_commits(void);
extern bool lock_session_holds_any(void);
extern bool lock_session_unlock(const LockName *name, LockMode mode,
								ResourceOwner owner);
extern void lock_session_unlock_all(void);

/*
 * Unlock several, one by one, and then wait for etcd once: it may take a second
 * if etcd does not respond, however many they are.
 */
extern bool lock_session_unlock_one(const LockName *name, LockMode mode,
									ResourceOwner owner);
extern void lock_session_await_release(void);

/* Is it lost?  A lock whose tag is gone was unlocked, and is not lost. */
extern bool lock_session_is_lost(const LocalHold *local);

/* Returns false if no lock is lost; if true, check each of them. */
extern bool lock_session_any_lost(void);
extern void lock_session_report_lost(LocalHold *local);

/* Describes the loss, for a message's detail. */
extern char *lock_session_loss_detail(const LocalHold *local);

/* Called for each hold; must not change what is held. */
typedef void (*LocalHoldCallback) (LocalHold *local, void *arg);
extern void lock_session_foreach(LocalHoldCallback callback, void *arg);

#endif							/* LOCK_SESSION_H */
