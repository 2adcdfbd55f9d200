/*-------------------------------------------------------------------------
 *
 * lock_table.h
 *	  What this server wants and holds: the shared table of names, keys and holds.
 *
 * Three structures, all in shared memory:
 *
 *	LockEntry	one for each name that a session here wants or holds, or whose
 *				keys are not yet gone from etcd.
 *	LockKey		a key that this server has, had, or is about to have in etcd.
 *				Each entry has room for LOCK_KEYS_PER_NAME of them.
 *	LockHold	one for each session, name and mode: waiting or holding.
 *
 * Locking.  The entries are divided into LOCK_PARTITIONS partitions by the
 * hash of their name.  Each partition has an LWLock, which protects its part
 * of the hash table, its entries, their keys, and the holds linked to them.
 * Everything that decides about a grant or a release is one step under that
 * lock (README.md, rules 1, 18), and nothing may ereport while it is held.
 * LockKey.key_id can be read without it.
 *
 * work_mutex protects the links of the work list, and hold_mutex the free
 * holds; both are taken last and held for only a few instructions.
 *
 * lock_table.c has the table itself, lock_keys.c the life of a key,
 * lock_keep.c how long a key is passed on or kept, lock_grant.c the decision
 * which session gets a lock, and lock_holds.c what else sessions do.
 *
 * lock_keys.c writes a LockKey's fields, and lock_keep.c company, idle_since,
 * kept_until and look_at, window_end when the server is no longer alone,
 * just_granted and has_tick when a session takes the key, and release_waiter
 * when one releases it; no other file does.
 *
 * Sessions make keys WANTED and mark them deleting; only the worker moves a
 * key through all other states and frees it (etcd/key_machine.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_TABLE_H
#define LOCK_TABLE_H

#include "shared/settings.h"

#include "datatype/timestamp.h"
#include "etcd/key_machine.h"
#include "lib/ilist.h"
#include "shared/deadline.h"
#include "shared/lock_name.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#define LOCK_PARTITIONS			16

/*
 * There is at most one live key for each mode, and dead ones that etcd has not
 * yet confirmed to be gone.  If all slots are in use, a new request waits for
 * that.
 */
#define LOCK_KEYS_PER_NAME		4

/*
 * A fencing token is (create_revision, number of the passing-on).  The latter
 * has this many bits; a key that was passed on more often is deleted.
 */
#define TOKEN_PASS_BITS			20
#define TOKEN_MAX_PASS			((INT64CONST(1) << TOKEN_PASS_BITS) - 1)

#define LOCK_FAILURE_SIZE		256

typedef enum LockMode
{
	LOCK_SHARED,
	LOCK_EXCLUSIVE
} LockMode;

/*
 * What is known about other owners in the queue of a held key that may be
 * kept.
 */
typedef enum KeyCompany
{
	KEY_COMPANY_UNKNOWN,		/* they may be there, or come, unseen */
	KEY_ALONE,					/* there is none, and a watch would show one */
	KEY_OTHERS_WAIT
} KeyCompany;

typedef struct LockKey
{
	/* Unique on this server; 0 when the slot is free.  Never used twice. */
	pg_atomic_uint64 key_id;
	KeyState	state;			/* key_machine.h; changed by lock_keys.c alone */
	LockMode	mode;
	bool		is_try;			/* put only if no other owner is in the way */
	int			requester;		/* procno of the session that it is put for, */
	int			requester_pid;	/* its process */
	Oid			role;			/* and its role; */
	int			max_requests;	/* etcd_lock.max_requests_per_role there */
	int64		wanted_at;		/* clock_now() */
	int			release_waiter; /* procno that waits for its end, or -1 */
	uint64		epoch;			/* in which it was put */
	uint64		serial;			/* the number in its name in etcd; set when
								 * the worker takes it up */
	int64		create_revision;	/* from QUEUED on; 0: not known */
	bool		just_granted;	/* HELD, and no session has used it yet */
	bool		tells_holder;	/* HELD: the worker wants to hear, once, that
								 * it may have another holder (held_keys.c) */
	int64		window_end;		/* HELD: may be passed on until (clock_now) */

	/*
	 * For keys that are HELD although no session uses them (lock_keep.c).
	 * Times are from clock_now(); 0: none.
	 */
	unsigned	keep;			/* milliseconds for which it may be kept, as
								 * in its name in etcd */
	KeyCompany	company;
	int64		idle_since;		/* no session has used it since; 0: one does */
	int64		kept_until;		/* if so */
	int64		look_at;		/* when the worker checks whether it is used */

	/*
	 * What the last read of the queue in etcd showed, valid for a moment:
	 * checked_until is a time from clock_now().
	 */
	int64		checked_until;
	bool		foreign_waiter; /* another owner waits for this key */
	bool		is_behind;		/* QUEUED: others are ahead; else it waits for
								 * proof of the lease */
	bool		tries_wait;		/* only behind keys that may just be kept: no
								 * try is refused yet */

	/*
	 * A session may want to know the queue in etcd as it is from some moment
	 * on.  A read that was sent later shows it.  Times are from clock_now().
	 */
	int64		look_wanted_at; /* the last time a session asked for a read */
	int64		looked_at;		/* when the last request was sent whose
								 * response has shown the queue */

	/*
	 * For etcd_try_once(): the tick to claim together with the key, as a
	 * TimestampTz, and a number by which the caller recognizes its claim.
	 */
	bool		has_tick;
	TimestampTz tick;
	uint64		claim;
	int			max_ticks;		/* limit of names with ticks in its namespace */
	int			namespace_len;	/* of entry->key, as the requester sees it */
} LockKey;

typedef struct LockEntry
{
	char		key[ETCD_LOCK_MAX_KEY + 1]; /* hash key: see LockName */
	uint32		hashcode;
	LOCKTAG		tag;

	dlist_head	owners;			/* ASKED and HOLDING: have the lock tag */
	dlist_head	waiters;		/* WAITING; sessions that upgrade come first */
	dlist_head	drainers;		/* DRAINING */

	int64		last_token;		/* highest token issued for the name */
	int64		others_seen_at; /* LockKey.looked_at of the last response that
								 * showed others ahead of a key of ours */
	LockKey		keys[LOCK_KEYS_PER_NAME];

	bool		in_work;		/* the worker has yet to look at it */
	dlist_node	work_link;		/* work_mutex */
	bool		holder_wanted;	/* by a session, see wait_log.c */
	bool		probe_wanted;	/* likewise, see deadlock_worker.c */
	void	   *worker_name;	/* the worker's own data for this name; the
								 * entry stays as long as there is some */
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
	FAILURE_KEPT,				/* a try with a tick that found the lock taken
								 * by keys that may only be kept */
	FAILURE_DEADLOCK,
	FAILURE_CYCLE,				/* a deadlock over several servers; see
								 * deadlock_report.h */
	FAILURE_DATA,				/* the key in the way is not a lock; message
								 * has its name */
	FAILURE_TICKS,				/* its namespace has too many ticks */
	FAILURE_ERROR				/* etcd refused this request */
} LockFailureKind;

typedef struct LockFailure
{
	LockFailureKind kind;
	int			sqlerrcode;
	int64		seen_at;		/* REFUSED, KEPT, DEADLOCK: when the request
								 * was sent whose response showed others;
								 * clock_now() */
	char		message[LOCK_FAILURE_SIZE]; /* what etcd said */
} LockFailure;

/* Why a session did not get the lock that it asked for. */
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
	bool		upgrader;		/* the session already has shared mode */
	bool		superseded;		/* another session has acquired the lock tag */
	bool		lost;			/* the key is gone from etcd */
	bool		has_tick;
	TimestampTz tick;
	uint64		claim;
	int			max_ticks;
	bool		claim_unsure;	/* one of its requests may have been applied */
	int			namespace_len;
	Oid			role;			/* of the session */
	int			max_requests;
	bool		for_session;	/* the scope that is asked for; else for the
								 * transaction */
	int			session_count;	/* how often, for etcd_locks */
	int			xact_count;

	/* for counters.c */
	enum
	{
		COUNTED_NOT,
		COUNTED_WAITING,
		COUNTED_HELD,
		COUNTED_ENDED
	}			counted;
	LockOutcome outcome;		/* the session's own, when it gives up */

	int64		began_at;		/* clock_now(), before it asked for anything */
	uint64		asked_key;		/* key_id of the key that was granted while
								 * the session asked for it */

	/* a read of the queue that was asked for, to join sharers */
	uint64		look_key;		/* key_id of the key */
	int64		look_from;		/* a LockKey.looked_at that suffices */

	/* HOLDING */
	bool		awaits_check;	/* see lock_hold_start_check() */
	uint64		key_id;			/* of the key by which it holds; 0: lost */
	uint64		lost_key;		/* of the key by which it held */
	uint64		epoch;
	int64		token;

	uint64		wait_number;	/* see LockProc.nwaits */
	TimestampTz wait_start;
	TimestampTz held_since;
	bool		wants_holder;	/* see wait_log.c */
	bool		wants_probe;	/* has waited for long: see deadlock_worker.c */
	LockFailure failure;
} LockHold;

/* Microseconds between the epochs of Unix and PostgreSQL. */
#define UNIX_TO_POSTGRES \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Room for a name in UTF-8, even if a database had to escape it. */
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

/* Room for who has broken a lock, in UTF-8. */
#define LOCK_BREAKER_TEXT	192

/* How a session learns that it has lost a lock; see loss_signal.c. */
typedef struct LossInbox
{
	pg_atomic_uint32 gate;		/* see loss_signal.c */
	pg_atomic_uint32 on_loss;	/* the session's current OnLoss */
	pg_atomic_uint32 losses;	/* of holds, one by one */
	pg_atomic_uint64 signalled_epoch;	/* it was told that its holds up to
										 * this epoch are lost */
	slock_t		mutex;			/* for the rest */
	uint64		broken_key;		/* key_id of the key that was broken last */
	char		breaker[LOCK_BREAKER_TEXT]; /* by whom, in UTF-8 */
} LossInbox;

typedef struct LockProc
{
	LockWho		who;
	char		holder[LOCK_HOLDER_TEXT];	/* whom it waits for; under the
											 * lock of the entry that it waits
											 * for */
	LossInbox	inbox;
	pg_atomic_uint32 given_up;	/* odd: has dropped its record of a lock that
								 * it did not get, but not yet PostgreSQL's
								 * lock */

	/* see local_waits.c */
	LockHold   *wants;			/* what it has asked for and not got, or NULL */
	uint64		nwaits;			/* changed by the session alone */
} LockProc;

typedef struct LockShared
{
	DeadlineShared deadline;
	pg_atomic_uint64 lease;		/* its id; 0: none */

	/* our lease that has no earlier primary; our lease that has one */
	pg_atomic_uint64 single_lease;
	pg_atomic_uint64 duplicate_lease;
	pg_atomic_uint64 primary_lease; /* our lease on which the primary's key
									 * was put, or refused by etcd */
	uint64		lease_id;		/* see lease_id.c */
	pg_atomic_uint64 next_key_id;	/* LockKey.key_id */
	pg_atomic_uint64 next_tag;	/* of a text name's entry */
	uint64		next_serial;	/* worker only: first LockKey.serial never
								 * used */
	int64		sentinel_revision;	/* worker only; survives its restart */
	uint64		cluster_id;		/* likewise */
	int64		highest_revision;	/* likewise */
	int64		token_revision; /* likewise: no token can be higher */
	char		sentinel_key[KEY_LAYOUT_SIZE];	/* likewise */
	char		sentinel_ns[ETCD_LOCK_MAX_KEY + 1]; /* the setting then */

	pg_atomic_uint32 worker_procno; /* INVALID_WORKER: none */
	pg_atomic_uint32 worker_pid;
	pg_atomic_uint64 worker_heartbeat;	/* clock_now() */
	pg_atomic_uint64 worker_started_at; /* likewise */
	pg_atomic_uint32 link_up;
	pg_atomic_uint64 audited_at;	/* clock_now(): each held key was compared
									 * with etcd's since; 0: none is held */

	/* The table was full: see lock_keep_make_room(). */
	pg_atomic_uint64 room_next; /* clock_now(): not before */
	pg_atomic_uint32 room_expected;

	slock_t		work_mutex;
	dlist_head	work;			/* of LockEntry.work_link */
	slock_t		hold_mutex;
	dlist_head	free_holds;
} LockShared;

#define INVALID_WORKER	PG_UINT32_MAX

/* NULL if the module is not in shared_preload_libraries. */
extern LockShared *lock_shared;

extern void lock_table_require_preload(void);

extern Size lock_table_shmem_size(void);
extern void lock_table_request_locks(void);
extern void lock_table_shmem_init(void);

/* The entry of the process with this number. */
extern LockProc *lock_table_proc(int procno);

extern void lock_table_wake(int procno);

/*
 * The lock of an entry's partition.  Release it with lock_table_unlock(),
 * which wakes the processes for which something has changed.
 */
extern LWLock *lock_table_partition(const LockEntry *entry);

/* For callees that rely on it: the caller holds that lock. */
#define ASSERT_ENTRY_LOCKED(entry) \
	Assert(LWLockHeldByMe(lock_table_partition(entry)))
#define ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry) \
	Assert(LWLockHeldByMeInMode(lock_table_partition(entry), LW_EXCLUSIVE))
#define ASSERT_ENTRY_NOT_LOCKED(entry) \
	Assert(!LWLockHeldByMe(lock_table_partition(entry)))

extern uint32 lock_table_hashcode(const char *key);
extern LWLock *lock_table_partition_of(uint32 hashcode);
extern void lock_table_unlock(LWLock *lock);

/*
 * Between its begin and its end nobody is woken, so that the worker finds all
 * requests that were made meanwhile at once.  Nothing in between may wait or
 * throw.
 */
extern void lock_table_gather(bool begin);

/*
 * Returns the entry with its lock held, which is also in *lock; or NULL if
 * there is none, and then no lock is held.
 */
extern LockEntry *lock_table_find(const char *key, LWLockMode mode, LWLock **lock);

/* Lock all partitions, for views. */
extern void lock_table_lock_all(LWLockMode mode);
extern void lock_table_unlock_all(void);
extern HTAB *lock_table_hash(void);

/*
 * For the worker.
 */
extern LockEntry *lock_table_next_work(void);	/* with its lock held */
extern void lock_table_push_work(LockEntry *entry);
extern void lock_table_wake_worker(void);

/*
 * The caller holds the entry's lock.
 */
extern void lock_table_wake_later(int procno);
extern bool lock_table_has_waiters(LockEntry *entry);
extern void lock_table_wake_entry(LockEntry *entry);
extern void lock_table_start_work(void);
extern bool lock_table_in_use(const LockEntry *entry);
extern LockEntry *lock_table_enter(const LockName *name, uint32 hashcode);
extern bool lock_table_remove_if_idle(LockEntry *entry);

/* Take a free hold, or NULL if there is none; free it again. */
extern LockHold *lock_table_take_hold(void);
extern void lock_table_free_hold(LockHold *hold);

#endif							/* LOCK_TABLE_H */
