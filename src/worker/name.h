/*-------------------------------------------------------------------------
 *
 * name.h
 *	  The worker's own data for a name and for its keys.
 *
 * This file manages their life; other parts of the worker do everything else.
 * Each part has its own fields here, and lists which freed names and keys
 * leave automatically.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NAME_H
#define NAME_H

#include "client/watch.h"
#include "lib/pairingheap.h"
#include "etcd/queue.h"
#include "shared/lock_keys.h"
#include "worker/tick.h"

typedef struct WorkerName WorkerName;

/* A key that must be gone before ours can be granted. */
typedef struct AheadKey
{
	char	   *key;
	size_t		key_len;
	int64		create_revision;
} AheadKey;

/*
 * The worker's own data for a LockKey, in the same slot.  Only LockKey.state
 * tells where the key is in its life.
 */
typedef struct WorkerKey
{
	WorkerName *name;
	int			slot;
	LockMode	mode;
	uint64		key_id;			/* 0: not in use */
	uint64		serial;			/* see LockKey */
	char	   *etcd_key;
	int64		create_revision;	/* 0: not known */
	int64		seen_revision;	/* of the latest read that told of it */
	int			etcd_key_len;
	unsigned	keep;			/* see LockKey */
	int64		held_since;		/* clock_now(); 0: not held */

	/* all flags; the sections below say more */
	bool		reuse_serial;	/* when it is freed; see rule 15 */
	bool		is_audited;		/* in audit.c's list, by audited_at */
	bool		queued;			/* in a queue of txn_queue.c */
	bool		was_read;		/* try: first step done, nobody in the way */
	int			nraces;			/* try: keys that came and went before it */
	bool		counts_ticks;	/* there is no tick: count those of the
								 * namespace */
	bool		ahead_known;	/* QUEUED: ahead and nahead are good */
	bool		lost_untold;	/* was lost, which is yet to be logged */
	bool		held;			/* in a list of held_keys.c */
	bool		settled;		/* for long */
	bool		is_sought;		/* deadlock_worker.c has a seeker for it */

	/* HELD, for audit.c */
	dlist_node	audit_link;
	int64		audited_at;		/* clock_now(): its state is known as of then */
	int64		audit_sent_at;	/* when it was last read separately */
	int64		listed_at;		/* when the last list with it was requested */
	int64		doubt_until;	/* etcd has shown that it is gone, or does not
								 * show it: if it refuses a read of the queue
								 * from then on, the lock is lost; 0: no doubt */
	int64		missing_since;	/* when the first request was sent that showed
								 * that it is gone; 0: none */

	int			max_ops;		/* most operations that its Txn may have, as a
								 * longer one was refused; 0: no limit */
	int			nahead;			/* QUEUED: who is ahead */
	dlist_node	queue_link;
	int64		retry_at;		/* clock_now(): not before */
	int64		linger_until;	/* to be deleted: not before this, unless with
								 * others */

	/* a try */
	int64		read_revision;	/* of its first step */
	int64		tick_revision;	/* mod_revision of the tick's key, or 0 */
	char		tick_value[TICK_MAX_LEN + 1];	/* as it was then, or
												 * TICK_NEVER */

	/* QUEUED */
	AheadKey   *ahead;
	int64		queued_at;		/* clock_now() */
	int64		tries_wait_until;	/* those ahead may only be kept: no try is
									 * refused before; 0: they are not, or it
									 * is over */
	int64		tries_wait_ended;	/* clock_now(): if it is over, only a read
									 * that is sent later refuses a try; 0:
									 * not yet */

	/* HELD, for held_keys.c */
	dlist_node	held_link;
	int64		holder_look_at; /* 0, or when to check who has it now */
	pairingheap_node holder_look_node;	/* if so */
	int			told_pid;		/* who has it according to etcd, */
	TimestampTz told_since;		/* and since when */
	char	   *note;			/* its note, which etcd may have, or NULL */
	int64		note_revision;	/* of its last put; 0: unknown, -1: it is
								 * there */
	int64		noted_at;
} WorkerKey;

/* Etcd has shown a held key. */
static inline void
name_key_is_there(WorkerKey *key)
{
	key->doubt_until = key->missing_since = 0;
}

/* The list in which a name is because of its watch. */
typedef enum WatchList
{
	WATCH_LIST_NONE,
	WATCH_LIST_CHANGED,			/* may have to be opened or closed */
	WATCH_LIST_MISSING			/* could not be opened, to be tried again */
} WatchList;

/* The worker's own data for a LockEntry, while that has keys. */
struct WorkerName
{
	dlist_node	link;			/* of all names */
	LockEntry  *entry;			/* whose worker_name this is */
	const char *name;			/* the lock's name in etcd: the entry's */
	size_t		name_len;
	WorkerKey  *keys[LOCK_KEYS_PER_NAME];	/* made when first needed */
	int			in_flight;		/* requests that refer to this name */

	/* a read of the whole queue */
	bool		range_queued;
	bool		range_in_flight;
	bool		range_again;	/* something happened meanwhile */
	int			range_max_ops;	/* see WorkerKey.max_ops */
	dlist_node	range_link;
	int64		range_retry_at;
	int64		ranged_at;		/* when the last response came */
	int			nkeys;			/* in the last response, deeper names' too */
	bool		asks_holder;	/* see wait_log.c */
	int64		event_revision; /* highest revision that the watch has shown:
								 * of a deletion, */
	int64		put_revision;	/* and of a key that another owner has put */

	/* waiting */
	bool		waiting;		/* in the list of names with a queued key */
	dlist_node	waiting_link;
	Watch	   *watch;
	bool		watch_puts;		/* it also shows other owners that come */
	bool		keep_watch;		/* although nobody waits: for held_keys.c */
	int64		watch_retry_at;
	int64		missed_at;		/* clock_now(): a read showed what the watch
								 * has not shown yet; 0: it has not */
	WatchList	watch_list;
	dlist_node	watch_link;
	int64		look_at;		/* 0, or when to check a key that no session
								 * uses, or that of a try */
	pairingheap_node look_node; /* if so */
};

/* The key in the shared table, while the name has its entry. */
static inline LockKey *
name_shared_key(const WorkerKey *key)
{
	return &key->name->entry->keys[key->slot];
}

/* The key in this slot, or NULL. */
static inline WorkerKey *
name_key(const WorkerName *name, int slot)
{
	WorkerKey  *key = name->keys[slot];

	return key != NULL && key->key_id != 0 ? key : NULL;
}

/*
 * Is the key in the table no longer this one?  Then the worker must forget its
 * data for it.
 */
static inline bool
name_key_is_freed(const WorkerKey *key)
{
	return lock_key_id(name_shared_key(key)) != key->key_id;
}

/* Is a note on it in etcd? */
static inline bool
name_has_note(const WorkerKey *key)
{
	return key->note != NULL && key->note_revision != 0;
}

extern void name_create(void);

/*
 * The life of a name and a key.  The caller holds the partition's lock for
 * name_make() and name_make_key().
 */
extern WorkerName *name_make(LockEntry *entry);
extern WorkerKey *name_make_key(WorkerName *name, int slot);

/* The keys of its queue, and of deeper names; palloc'd. */
extern EtcdRange name_range(const WorkerName *name);

/* The name's entry, locked exclusively. */
extern LWLock *name_lock(const WorkerName *name);

/*
 * Call this after the states of its keys have changed, and the entry's lock is
 * released.  It forgets freed keys, which may free the name.
 */
extern void name_settle(WorkerName *name);

/* Something refers to the name; then no longer, which may free it. */
extern void name_retain(WorkerName *name);
extern void name_release(WorkerName *name);

/*
 * Returns the key with this serial, or with exactly this name in etcd, or
 * NULL.
 */
extern WorkerKey *name_key_of_serial(uint64 serial);
extern WorkerKey *name_key_of(const char *etcd_key, size_t len);

/* Is it a key that we have, or are about to put or delete? */
extern bool name_knows_key(const char *etcd_key, size_t len);

/* Other changes. */
extern void name_leave_queue(WorkerKey *key);	/* of txn_queue.c */

extern void name_forget_ahead(WorkerKey *key);
extern void name_forget_note(WorkerKey *key);
extern void name_set_keep_watch(WorkerName *name, bool keep);
extern void name_set_holder_look(WorkerKey *key, int64 when);
extern void name_set_look_at(WorkerName *name, int64 when);
extern void name_look_by(WorkerName *name, int64 when);
extern void name_close_watch(WorkerName *name);

/* Its watch has ended: deletions are no longer noticed. */
extern void name_lost_watch(WorkerName *name);

/*
 * Its watch may have to be opened or closed.  names.c does that, and then
 * calls name_watch_reconciled(); missing says that the name needs a watch and
 * has none.
 */
extern void name_watch_changed(WorkerName *name);
extern void name_watch_reconciled(WorkerName *name, bool missing);

/* Does it have a key that may be kept when no session uses it, once it is held? */
extern bool name_is_kept(const WorkerName *name);

/*
 * The key is held, as etcd has just confirmed; audit.c checks it from now on.
 */
extern void name_audit_key(WorkerKey *key);

/* The number of such keys, and the total length of their names in etcd. */
extern int	name_count_audited(void);
extern size_t name_audited_bytes(void);

/*
 * Lists of these keys, by WorkerKey.audit_link, and of names, by WorkerName's
 * links.
 */
extern dlist_head *name_list_audited(void);
extern dlist_head *name_list_all(void);
extern dlist_head *name_list_waiting(void);
extern dlist_head *name_list_watch_changed(void);
extern dlist_head *name_list_watch_missing(void);

/* The name with the earliest look_at, or NULL. */
extern WorkerName *name_first_look(void);

/* The key with the earliest holder_look_at, or NULL. */
extern WorkerKey *name_first_holder_look(void);

/* How many names have keep_watch, and how many wait. */
extern int	name_count_kept_watches(void);
extern int	name_count_waiting(void);

#endif							/* NAME_H */
