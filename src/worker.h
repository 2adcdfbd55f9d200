/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The background worker that speaks with etcd for the whole server.
 *
 * One process, one event loop, nothing that blocks.  The parts share the
 * process and its private memory, and no lock but those of lock_table.h:
 *
 *	worker.c	the loop
 *	names.c		what to do about each name
 *	judge.c		what etcd shows of its queue
 *	own_keys.c	our keys in etcd
 *	held.c		what is held for long
 *	lease.c		the server's lease, its deadline, keys nobody knows
 *	requests.c	group commit: what is sent when
 *	batch.c		a Txn of many operations
 *	answers.c	what etcd has answered to it
 *	watch.c		watches
 *	link.c		requests to the endpoint in use, and how it does
 *	endpoints.c	which endpoint
 *	auth.c		logging in
 *	tls.c		certificates
 *	health.c	how etcd does
 *
 * What sessions ask for apart from locks is taken up by break.c, claim.c,
 * queue_pages.c and wait_log.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WORKER_H
#define WORKER_H

#include "lock_table.h"

#include "etcd_api.h"
#include "etcd_transport.h"
#include "queue_rules.h"

/* Where a key stands on its way to etcd and back. */
typedef enum KeyPhase
{
	PHASE_NONE,					/* nothing to send for it */
	PHASE_PUT,					/* to be put at the back of the queue */
	PHASE_TRY,					/* to be put if its conflicts are all gone */
	PHASE_DELETE
} KeyPhase;

typedef struct WorkerName WorkerName;
typedef struct Watch Watch;
typedef struct LinkCall LinkCall;

/* A key that must be gone before ours is granted. */
typedef struct AheadKey
{
	char	   *key;
	size_t		key_len;
	int64		create_revision;
} AheadKey;

/* The worker's own data for a LockKey, in the same slot. */
typedef struct WorkerKey
{
	WorkerName *name;
	uint64		number;			/* 0: not in use */
	uint64		serial;			/* see LockKey */
	LockMode	mode;
	char	   *etcd_key;
	int64		create_revision;	/* 0: not known */
	bool		deleted;		/* surely: its serial may be used again */
	int64		held_since;		/* clock_now(); 0: not held */
	bool		listed;			/* in etcd's list of keys on the lease */
	KeyPhase	phase;
	bool		sent;			/* was ever part of a request */
	bool		in_flight;		/* is part of one now */
	bool		alone;			/* send it apart from others */
	bool		freed;			/* the shared key is free: to be forgotten */
	bool		waiting;		/* QUEUED */
	bool		queued;			/* in a queue of requests.c */
	dlist_node	queue_link;
	int64		retry_at;		/* clock_now(): not before */
	int64		linger_until;	/* DELETE: nor before this, if alone */

	/* PHASE_TRY */
	bool		looked;			/* first step done: nobody in the way at */
	int64		look_revision;
	int64		tick_revision;	/* mod_revision of the tick's key, or 0 */

	/* QUEUED: who is ahead; good while ahead_known */
	bool		ahead_known;
	AheadKey   *ahead;
	int			nahead;

	/* HELD, for held.c */
	bool		held;			/* in one of its lists */
	bool		settled;		/* for long */
	dlist_node	held_link;
	int			told_pid;		/* whom etcd says to have it, */
	TimestampTz told_since;		/* and since when */
	char	   *note;			/* the note on it that etcd may have, or NULL */
	int64		note_revision;	/* its create_revision; 0: not put, -1: not
								 * known */
	int64		noted_at;
} WorkerKey;

/* The worker's own data for a LockEntry, while that has keys. */
struct WorkerName
{
	dlist_node	link;			/* of all names */
	LockEntry  *entry;			/* NULL: has no key any more, but requests */
	char	   *name;			/* the lock's name in etcd */
	size_t		name_len;
	char	   *prefix;			/* "<name>/" */
	char	   *prefix_end;		/* "<name>0", the end of the range */
	WorkerKey	keys[LOCK_KEYS_PER_NAME];
	int			in_flight;		/* requests that refer to this name */

	/* a look at the whole queue */
	bool		range_queued;
	bool		range_in_flight;
	bool		range_again;	/* something happened meanwhile */
	bool		range_alone;
	dlist_node	range_link;
	int64		range_retry_at;
	int64		ranged_at;		/* when the last one was answered */
	bool		asks_holder;	/* see wait_log.c */
	int64		event_revision; /* highest that the watch has told of */

	/* waiting */
	bool		waiting;		/* in the list of names with a queued key */
	dlist_node	waiting_link;
	Watch	   *watch;
	bool		keep_watch;		/* though nobody waits: for held.c */
	int64		watch_retry_at;
	int64		window_end;		/* 0, or when to look at an idle key */
};

/* What sessions see of the key; while the name has its entry. */
static inline LockKey *
shared_key(const WorkerKey *key)
{
	return &key->name->entry->keys[key - key->name->keys];
}

/* worker.c */
extern PGDLLEXPORT void etcd_lock_worker_main(Datum arg);
extern void worker_register(void);
extern EtcdTransport *worker_transport;
extern bool worker_stopping;
extern char *worker_describe(const LockWho *who, int pid, TimestampTz since);

/* names.c */
extern void names_take_work(void);
extern void names_tick(void);
extern int64 names_next_time(void);
extern bool names_in_use(void);
extern bool names_find_held(uint64 number, const char **etcd_key,
							int64 *create_revision);
extern void names_end_epoch(const char *reason);
extern LWLock *name_lock(const WorkerName *name);
extern void name_update_waiting(WorkerName *name);
extern void name_free_key(WorkerKey *key);
extern void name_forget_freed(WorkerName *name);
extern void name_release(WorkerName *name);

/* judge.c */
extern bool name_is_crowded(const WorkerName *name, int64 now);
extern void name_note_crowd(const WorkerName *name);
extern bool name_is_huge(const WorkerName *name, int64 now);
extern void name_note_huge(const WorkerName *name, bool huge);
extern void name_view(const WorkerName *name, const EtcdOpResult *range,
					  QueueView *view);
extern bool name_has_key(const QueueView *view, const WorkerKey *key);
extern void name_judge(WorkerName *name, const EtcdOpResult *range,
					   int64 revision, const LockChecks *checks);
extern void name_key_put(WorkerKey *key, const EtcdOpResult *range,
						 int64 revision);
extern void name_forget_ahead(WorkerKey *key);
extern void name_watch(WorkerName *name);
extern void name_unwatch(WorkerName *name);
extern void name_update_watch(WorkerName *name);

/* own_keys.c */
extern uint64 own_keys_take_serial(const WorkerName *name);
extern void own_keys_give_serial(const WorkerName *name, uint64 serial);
extern void own_keys_add(WorkerKey *key);
extern void own_keys_remove(const WorkerKey *key);
extern int	own_keys_count(void);
extern WorkerKey *own_keys_find(uint64 serial, uint64 number);
extern bool own_keys_know(const char *etcd_key, size_t len);
extern void own_keys_compare(const EtcdLeaseResult *listed, int64 listed_at);
extern void own_keys_broken(const EtcdKeyValue *message);

/* answers.c */
extern int	worker_sqlerrcode(const EtcdError *error);

/* requests.c */
extern int	requests_max_ops;
extern void requests_key(WorkerKey *key, KeyPhase phase);
extern void requests_range(WorkerName *name);
extern void requests_forget_key(WorkerKey *key);
extern void requests_forget_name(WorkerName *name);
extern void requests_stray(const char *key, size_t key_len,
						   int64 create_revision);
extern void requests_send(void);
extern int64 requests_next_time(void);

/* watch.c */
typedef struct WatchCallbacks
{
	void		(*created) (void *arg); /* acknowledged: it tells from now on */
	void		(*deleted) (void *arg, const char *key, size_t key_len,
							int64 mod_revision);
	void		(*ended) (void *arg);	/* it is no more */
	/* NULL: only deletions are wanted */
	void		(*put) (void *arg, const EtcdKeyValue *kv);
} WatchCallbacks;

extern Watch *watch_open(const EtcdRange *range, const WatchCallbacks *callbacks,
						 void *arg);
extern void watch_close(Watch *watch);
extern bool watch_is_open(const Watch *watch);
extern bool watch_covers(const Watch *watch, int64 revision);
extern bool watch_is_current(const Watch *watch);
extern int	watch_count(void);

/* held.c */
extern void held_add(WorkerKey *key);
extern void held_remove(WorkerKey *key);
extern bool held_give_watch(void);
extern bool held_is_note(const char *key, size_t len);
extern bool held_knows_note(WorkerKey *key, const char *note);
extern void held_tick(int64 now);
extern int64 held_next_time(void);
extern char *worker_note_key(const char *ns, int64 create_revision,
							 uint64 lease, uint64 serial);

/* lease.c */
extern void lease_shmem_init(void);
extern void lease_start(void);
extern void lease_tick(void);
extern int64 lease_next_time(void);
extern bool lease_alive(void);
extern int64 lease_id(void);
extern const char *lease_hex(void);
extern const char *lease_base_hex(void);
extern void lease_gone(const char *reason);
extern void lease_saw_header(const EtcdHeader *header);
extern void lease_revoke_for_exit(void);
extern bool lease_is_revoked(void);

/* link.c */

/*
 * After so many attempts to connect, with their pauses some five seconds, the
 * addresses of a host are looked up anew.  Not earlier: while an etcd restarts
 * they are good, and the resolver may be slow.
 */
#define FORGET_ADDRESS_AFTER	8

extern void link_init(void);
extern void link_reload(void);
extern const char *link_endpoint(void);
extern uint64 link_generation(void);
extern bool link_open(void);
extern bool link_ready(void);
extern void link_proven(void);
extern int64 link_next_time(void);
extern void link_tick(void);
extern int64 link_tick_time(void);
extern void link_not_logged_in(const char *error);
extern void link_search_errors(const char *errors, bool all);
extern void link_found(bool changed);
extern void link_hangs(const char *error);
extern void link_saw_term(uint64 term);
extern void link_bad_answer(const char *error);
extern void link_note_error(const char *error);
extern LinkCall *link_call(const char *path, char *body, long timeout_ms,
						   const EtcdCallbacks *callbacks, void *arg);
extern void link_watch_refused(const LinkCall *call, const char *reason);
extern void link_cancel(LinkCall *call);

#endif							/* WORKER_H */
