/*-------------------------------------------------------------------------
 *
 * lock_table.h
 *	  What this server wants and has: the shared table of names, keys, holds.
 *
 * Three structures, all in shared memory:
 *
 *	LockEntry	one for each name that somebody here wants or holds, or whose
 *				keys are not yet gone from etcd.
 *	LockKey		a key that this server has, had, or is about to have in etcd.
 *				Each entry has room for LOCK_KEYS_PER_NAME of them.
 *	LockHold	one for each session, name and mode: waiting or holding.
 *
 * Locking.  The entries are divided into LOCK_PARTITIONS parts by the hash of
 * their name, with an LWLock each, which protects the part of the hash table,
 * its entries, their keys, and the holds linked to them.  Everything that
 * decides about a grant or a release is one step under that lock
 * (README.md, rules 1, 18), and nothing may ereport while it is held.
 * LockKey.number can be read without it.
 *
 * work_mutex protects the links of the work list, hold_mutex the free holds;
 * both are taken last and held for a few instructions.  LockShared.status_lock
 * protects what is reported about the link to etcd; no other lock is taken
 * under it.
 *
 * lock_table.c has the table itself, lock_keys.c the life of a key, lock_grant.c
 * the decision who gets a lock.
 *
 * Who changes what: sessions make keys WANTED and condemn them (DELETING);
 * the worker alone moves a key through SENT, QUEUED and HELD and frees it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_TABLE_H
#define LOCK_TABLE_H

#include "etcd_lock.h"

#include "datatype/timestamp.h"
#include "deadline.h"
#include "lib/ilist.h"
#include "lock_name.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#define LOCK_PARTITIONS			16

/*
 * At most one live key for each mode, and dead ones that etcd has not yet
 * confirmed to be gone.  When all are in use a new request waits for that.
 */
#define LOCK_KEYS_PER_NAME		4

/*
 * A fencing token is (create_revision, number of the passing-on).  So many
 * bits are for the latter; a key that was passed on more often is given back.
 */
#define TOKEN_PASS_BITS			20
#define TOKEN_MAX_PASS			((INT64CONST(1) << TOKEN_PASS_BITS) - 1)

#define LOCK_FAILURE_SIZE		256

/* The same about the link: it may tell of several endpoints. */
#define LINK_ERROR_SIZE			1024

typedef enum LockMode
{
	LOCK_SHARED,
	LOCK_EXCLUSIVE
} LockMode;

typedef enum LockKeyState
{
	KEY_FREE,					/* slot not in use */
	KEY_WANTED,					/* a session asks for it */
	KEY_SENT,					/* taken up by the worker; may be in etcd */
	KEY_QUEUED,					/* in etcd, behind others */
	KEY_HELD,					/* granted by etcd */
	KEY_DELETING				/* condemned: never granted again (rule 1) */
} LockKeyState;

typedef struct LockKey
{
	/* Unique on this server; 0 when the slot is free.  Never used twice. */
	pg_atomic_uint64 number;
	LockKeyState state;
	LockMode	mode;
	bool		is_try;			/* put only if nobody is in the way */
	int			asker;			/* procno of the session it is put for */
	int			releaser;		/* procno that waits for its end, or -1 */
	uint64		epoch;			/* in which lease's time */
	uint64		serial;			/* the number in its name in etcd, from SENT on */
	int64		create_revision;	/* from QUEUED on; 0: not known */
	bool		fresh;			/* HELD, and nobody has had it yet */
	int64		window_end;		/* HELD: may be passed on until (clock_now) */
	bool		window_timer;	/* the worker looks again at window_end */

	/*
	 * What the last look at the queue in etcd said, good for a moment:
	 * checked_until is a time on clock_now().
	 */
	int64		checked_until;
	bool		foreign_waiter; /* another owner waits for this key */

	/*
	 * Sessions that want to know whether the key is still in etcd draw a
	 * number from checks_asked and wait until checks_done has reached it.
	 */
	uint64		checks_asked;
	uint64		checks_done;

	/*
	 * etcd_try_once(): the tick to claim together with the key, in
	 * microseconds as PostgreSQL counts them, and a number by which the
	 * caller knows its claim.
	 */
	bool		has_tick;
	TimestampTz tick;
	uint64		claim;
	int			namespace_len;	/* of entry->key, as the asker sees it */
} LockKey;

typedef struct LockEntry
{
	char		key[ETCD_LOCK_MAX_KEY + 1]; /* hash key: see LockName */
	uint32		hashcode;
	LOCKTAG		tag;

	dlist_head	owners;			/* ASKED and HOLDING: have the lock tag */
	dlist_head	waiters;		/* WAITING; sessions that upgrade come first */
	dlist_head	drainers;		/* DRAINING */

	int64		last_token;		/* highest token given out for the name */
	LockKey		keys[LOCK_KEYS_PER_NAME];

	bool		in_work;		/* the worker has yet to look at it */
	dlist_node	work_link;		/* work_mutex */
	bool		holder_wanted;	/* by a session, see wait_log.c */
	void	   *worker_name;	/* the worker's own data for this name; the entry
								 * stays as long as it has some */
} LockEntry;

typedef enum LockHoldState
{
	HOLD_WAITING,				/* in PostgreSQL's lock manager */
	HOLD_DRAINING,				/* until a key that it may not join is gone */
	HOLD_ASKED,					/* for etcd */
	HOLD_HOLDING
} LockHoldState;

typedef enum LockFailureKind
{
	FAILURE_NONE,
	FAILURE_REFUSED,			/* a try that found the lock taken */
	FAILURE_UNSURE,				/* likewise, but its tick may be claimed */
	FAILURE_DEADLOCK,
	FAILURE_ERROR				/* etcd refused this request */
} LockFailureKind;

typedef struct LockFailure
{
	LockFailureKind kind;
	int			sqlerrcode;
	char		message[LOCK_FAILURE_SIZE]; /* what etcd said */
} LockFailure;

/* Why a session that asked for a lock has not got it. */
typedef enum LockOutcome
{
	LOCK_OUTCOME_CANCELLED,		/* also when the session ends */
	LOCK_OUTCOME_TRY_FAILED,
	LOCK_OUTCOME_TIMEOUT,
	LOCK_OUTCOME_DEADLOCK,
	LOCK_OUTCOME_FAILED
} LockOutcome;

#define LOCK_NOUTCOMES	(LOCK_OUTCOME_FAILED + 1)

typedef struct LockHold
{
	dlist_node	link;			/* in a list of the entry's, or free */
	LockEntry  *entry;
	int			procno;
	int			pid;
	LockMode	mode;
	LockHoldState state;
	bool		is_try;
	bool		upgrader;		/* the session has the shared mode already */
	bool		superseded;		/* somebody else has got the lock tag */
	bool		lost;			/* etcd has lost the key */
	int			on_loss;		/* OnLoss of the session */
	bool		has_tick;
	TimestampTz tick;
	uint64		claim;
	bool		claim_unsure;	/* a request of it may have been carried out */
	int			namespace_len;
	bool		for_session;	/* asked for; else for the transaction */
	int			session_count;	/* how often, for etcd_locks */
	int			xact_count;

	/* for stats.c */
	enum
	{
		COUNTED_NOT,
		COUNTED_WAITING,
		COUNTED_HELD,
		COUNTED_ENDED
	}			counted;
	LockOutcome outcome;		/* the session's own, when it gives up */

	uint64		asked_key;		/* number of the key that was granted while the
								 * session asked for it */

	/* a look at the queue that was asked for, to join those who share */
	uint64		check_key;		/* number of the key */
	uint64		check;			/* see LockKey.checks_asked */

	/* number of a key that was on its way before the session asked for it */
	uint64		late_for;

	/* HOLDING */
	uint64		key_number;		/* the key that it rides on; 0: lost */
	uint64		epoch;
	int64		token;

	TimestampTz wait_start;
	TimestampTz held_since;
	bool		wants_holder;	/* see wait_log.c */
	LockFailure failure;
} LockHold;

/* Microseconds from 1970-01-01 to where PostgreSQL counts from. */
#define UNIX_TO_POSTGRES \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Names in UTF-8, also such as a database had to escape. */
#define LOCK_PROC_TEXT		(4 * NAMEDATALEN)

/* A sentence about the holder of a lock, in UTF-8. */
#define LOCK_HOLDER_TEXT	512

/* Who a session is, for the value of its keys. */
typedef struct LockWho
{
	char		database[LOCK_PROC_TEXT];
	char		username[LOCK_PROC_TEXT];
	char		application[LOCK_PROC_TEXT];
} LockWho;

typedef struct LockProc
{
	LockWho		who;
	char		holder[LOCK_HOLDER_TEXT];	/* whom it waits for; under the lock
											 * of the entry that it waits for */
	pg_atomic_uint64 told_epoch;	/* its holds of epochs up to this one were
									 * lost, and it was told */
} LockProc;

/* What is known of the link to etcd; status_lock. */
typedef struct LinkStatus
{
	bool		up;
	char		endpoint[256];
	char		server_version[32];
	char		last_error[LINK_ERROR_SIZE];
	TimestampTz last_error_at;
} LinkStatus;

typedef struct LockShared
{
	DeadlineShared deadline;
	pg_atomic_uint64 lease;		/* its id; 0: none */
	uint64		lease_base;		/* see lease.c */
	pg_atomic_uint64 next_number;	/* LockKey.number */
	uint64		next_serial;	/* worker only: LockKey.serial, never used yet */
	int64		sentinel_revision;	/* worker only; survives its restart */
	uint64		cluster_id;		/* likewise */
	int64		highest_revision;	/* likewise */
	char		sentinel_key[ETCD_LOCK_MAX_KEY + 64];	/* likewise */

	pg_atomic_uint32 worker_procno; /* INVALID_WORKER: none */
	pg_atomic_uint32 worker_pid;
	pg_atomic_uint64 worker_heartbeat;	/* clock_now() */
	pg_atomic_uint32 link_up;

	slock_t		work_mutex;
	dlist_head	work;			/* of LockEntry.work_link */
	slock_t		hold_mutex;
	dlist_head	free_holds;

	LWLock	   *status_lock;
	LinkStatus	status;
} LockShared;

#define INVALID_WORKER	PG_UINT32_MAX

/* NULL when the module is not in shared_preload_libraries. */
extern LockShared *lock_shared;

extern void lock_require_preload(void);

/* lock_views.c: the same, and that the user may look at what others do. */
extern void lock_require_monitor(void);

extern Size lock_table_shmem_size(void);
extern void lock_table_request_locks(void);
extern void lock_table_shmem_init(void);

/* Entry of this backend in an array by process number. */
extern LockProc *lock_table_proc(int procno);

extern void lock_wake_procno(int procno);

/*
 * The lock of an entry's partition; to be released with lock_entry_unlock(),
 * which wakes those for whom something has changed.
 */
extern LWLock *lock_entry_lock(const LockEntry *entry);
extern void lock_entry_unlock(LWLock *lock);

/*
 * For sessions.  Each takes the partition lock itself.
 */
typedef enum LockWaitResult
{
	LOCK_WAIT_OK,
	LOCK_WAIT_TABLE_FULL,
	LOCK_WAIT_NAME_CONFLICT		/* the key belongs to another lock tag */
} LockWaitResult;

typedef enum LockAskResult
{
	LOCK_ASK_GRANTED,
	LOCK_ASK_WAIT,				/* until the latch is set */
	LOCK_ASK_DRAIN,				/* likewise, without the lock tag */
	LOCK_ASK_FAILED				/* hold->failure says why */
} LockAskResult;

/* A key whose deletion a session may want to wait for. */
typedef struct LockReleasedKey
{
	LockKey    *key;
	uint64		number;
} LockReleasedKey;

extern LockWaitResult lock_table_wait(const LockName *name, LockMode mode,
									  bool upgrader, LockHold **hold);
extern LockAskResult lock_table_ask(LockHold *hold);
extern bool lock_table_is_queued(LockHold *hold);
extern int	lock_table_holders(LockHold *hold, int *pids, int max);
extern int	lock_table_drop(LockHold *hold, LockReleasedKey *released);
extern void lock_table_set_counts(LockHold *hold, int session_count,
								  int xact_count);
extern bool lock_table_hold_valid(LockHold *hold);
extern uint64 lock_table_start_check(LockHold *hold);
extern bool lock_table_check_done(LockHold *hold, uint64 check);

/* Signal a session that its holds of this epoch are lost, once. */
extern void lock_tell_loss(int procno, int pid, uint64 epoch, int on_loss);

/* Who holds a lock by a key, or waits with it. */
typedef struct LockHolder
{
	bool		somebody;		/* else the key waits for whoever comes next */
	int			pid;
	TimestampTz since;
	LockWho		who;
} LockHolder;

/*
 * With its lock held, which is also in *lock; NULL: there is none, and no lock is
 * held.
 */
extern LockEntry *lock_table_find(const char *key, LWLockMode mode, LWLock **lock);

/* False: this server has no key of this name with this create_revision. */
extern bool lock_table_holder(const char *name, int64 create_revision,
							  LockHolder *holder);

typedef enum LockBreakResult
{
	LOCK_BREAK_ELSEWHERE,		/* not a lock of this server's */
	LOCK_BREAK_STALE,			/* it is, but nobody has that token any more */
	LOCK_BREAK_DONE				/* broken; the key is being deleted */
} LockBreakResult;

extern LockBreakResult lock_table_break(const char *key, int64 token,
										LockReleasedKey *released);

/* All partitions, in shared mode, for views. */
extern void lock_table_lock_all(LWLockMode mode);
extern void lock_table_unlock_all(void);
extern HTAB *lock_table_hash(void);

/*
 * For the worker.
 */
extern LockEntry *lock_table_next_work(void);	/* with its lock held */
extern void lock_table_push_work(LockEntry *entry);
extern void lock_table_wake_worker(void);

/* What sessions had asked to be checked when the worker looked. */
typedef struct LockChecks
{
	uint64		number[LOCK_KEYS_PER_NAME];
	uint64		asked[LOCK_KEYS_PER_NAME];
} LockChecks;

/*
 * Within the entry's lock, by whoever has it: lock_table.c, lock_keys.c.
 */
extern void lock_wake_later(int procno);
extern bool lock_entry_has_waiters(LockEntry *entry);
extern LockKey *lock_entry_live_key(LockEntry *entry, LockMode mode);
extern int	lock_entry_settle(LockEntry *entry, LockReleasedKey *released);
extern uint64 lock_key_number(const LockKey *key);
extern bool lock_key_held_valid(const LockKey *key);
extern bool lock_key_has_holders(LockEntry *entry, const LockKey *key);
extern LockKey *lock_key_want(LockEntry *entry, LockHold *hold);
extern int	lock_entry_slot(const LockEntry *entry, uint64 number);
extern bool lock_key_needed(const LockEntry *entry, const LockKey *key);
extern void lock_key_condemn(LockEntry *entry, LockKey *key);
extern void lock_key_queue(LockEntry *entry, LockKey *key,
						   int64 create_revision);
extern void lock_key_grant(LockEntry *entry, LockKey *key);
extern void lock_key_free(LockEntry *entry, LockKey *key);
extern int	lock_key_lost(LockEntry *entry, LockKey *key);
extern void lock_key_note_unsure(LockEntry *entry, const LockKey *key);
extern bool lock_key_is_unsure(LockEntry *entry, const LockKey *key);
extern void lock_key_tell_failure(LockEntry *entry, const LockKey *key,
								  const LockFailure *failure);
extern void lock_key_break(LockEntry *entry, LockKey *key);
extern void lock_key_fail(LockEntry *entry, LockKey *key,
						  const LockFailure *failure);
extern void lock_key_checked(LockEntry *entry, LockKey *key,
							 bool foreign_waiter, uint64 checks_done);
extern void lock_key_looked(LockEntry *entry, LockKey *key, uint64 checks_done);
extern LockHold *lock_key_holder(LockEntry *entry, const LockKey *key, int pid);
extern void lock_key_copy_holder(LockEntry *entry, const LockKey *key, int pid,
								 LockHolder *holder);
extern void lock_entry_wake(LockEntry *entry);
extern void lock_table_start_work(void);
extern bool lock_entry_in_use(const LockEntry *entry);
extern bool lock_entry_remove_if_idle(LockEntry *entry);

#endif							/* LOCK_TABLE_H */
