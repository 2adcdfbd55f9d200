/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  Who is next: the rules of a lock's queue in etcd.
 *
 * Pure: keys go in, a decision comes out.  Depends neither on PostgreSQL, nor
 * on etcd's wire format, nor on the clock.  README.md, "The queue", explains
 * the rules.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_H
#define QUEUE_H

#include "etcd/key_layout.h"

/* A key found below a lock's name, as etcd returned it. */
typedef struct QueueKey
{
	const char *key;
	size_t		key_len;
	int64_t		create_revision;
	bool		no_lease;		/* somebody's data: a lock's key has a lease */
} QueueKey;

/* A queue, and from whose point of view to look at it. */
typedef struct QueueView
{
	const char *name;			/* the lock's full name, without a final slash */
	size_t		name_len;
	const char *owner;			/* prefix of the last part of our own keys:
								 * that of all our leases' ids, in hex */
	size_t		owner_len;
	const QueueKey *keys;
	int			nkeys;
} QueueView;

typedef enum QueueVerdict
{
	QUEUE_GRANTED,				/* no conflicting key of another owner ahead */
	QUEUE_WAIT,
	QUEUE_DEADLOCK				/* somebody ahead waits for a key of ours */
} QueueVerdict;

extern QueueKeyKind queue_key_kind(const QueueView *view,
								   const char *key, size_t key_len);

/* Has this server put the key? */
extern bool queue_key_is_own(const QueueView *view,
							 const char *key, size_t key_len);

/* Must a request for the given mode wait for a key of this kind? */
extern bool queue_conflicts(bool exclusive, QueueKeyKind kind);

/*
 * Decide about our own key with the given create_revision.  own_read is the
 * create_revision of this server's read key that sessions need, or 0.  If
 * ahead is not NULL, it has room for view->nkeys indexes and is filled with
 * those of the keys that must go first; *nahead says how many.
 */
extern QueueVerdict queue_decide(const QueueView *view, bool exclusive,
								 int64_t create_revision, int64_t own_read,
								 int *ahead, int *nahead);

/* Would a new key at the end of the queue be granted at once? */
extern bool queue_is_free(const QueueView *view, bool exclusive);

/*
 * If each key that must go before a key in the given mode with this
 * create_revision is one that its server may only be keeping, or waits for the
 * first such key, returns for how many milliseconds at most they are kept, else 0.
 */
extern unsigned queue_kept_ahead(const QueueView *view, bool exclusive,
								 int64_t create_revision);

/*
 * Returns the index of a key without a lease that must go before a key in the
 * given mode with this create_revision, or -1.  It is not a lock, so a wait
 * for it would never end.
 */
extern int	queue_find_data(const QueueView *view, bool exclusive,
							int64_t create_revision);

/* Does another owner wait for our key in the given mode at this revision? */
extern bool queue_somebody_waits(const QueueView *view, bool exclusive,
								 int64_t create_revision);

/*
 * Sessions of a server whose write key has been granted behind its own read key
 * share the lock by the read key with tokens of the write key, which may be gone.
 * If only one server, and not ours, has keys before this revision, returns the index
 * of its youngest read key, else -1: then no key with this revision can have been
 * granted behind one.
 */
extern int	queue_find_older_read(const QueueView *view, int64_t create_revision);

/* Are these a write key and a read key of one lease? */
extern bool queue_is_write_of(const QueueView *view, const QueueKey *write,
							  const QueueKey *read);

/* The place of a key in the queue, for views. */
typedef struct QueuePlace
{
	int			position;		/* 1: head; 0: not a key of this lock */
	bool		granted;
} QueuePlace;

/*
 * Returns the place of each key of the view, which are in the order of their
 * create_revisions.  view->owner is not used.
 */
extern void queue_places(const QueueView *view, QueuePlace *places);

#endif							/* QUEUE_H */
