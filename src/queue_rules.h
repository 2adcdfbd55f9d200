/*-------------------------------------------------------------------------
 *
 * queue_rules.h
 *	  Who is next: the rules of a lock's queue in etcd.
 *
 * Pure: keys in, decision out.  Knows neither PostgreSQL, nor etcd's wire
 * format, nor the clock.  The rules are told in README.md, "The queue".
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_RULES_H
#define QUEUE_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum QueueKeyKind
{
	QUEUE_KEY_OTHER,			/* belongs to another lock (a deeper name) */
	QUEUE_KEY_PLAIN,			/* <name>/X: a client that knows one mode */
	QUEUE_KEY_READ,				/* <name>/read/X */
	QUEUE_KEY_WRITE				/* <name>/write/X */
} QueueKeyKind;

/* A key found below a lock's name, as etcd answered it. */
typedef struct QueueKey
{
	const char *key;
	size_t		key_len;
	int64_t		create_revision;
} QueueKey;

/* Whose queue is judged, and from whose point of view. */
typedef struct QueueView
{
	const char *name;			/* the lock's full name, without last slash */
	size_t		name_len;
	const char *owner;			/* what our own keys' last part begins with:
								 * what all our leases' ids do, in hex */
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

/* What a key says by its name, whatever lock it belongs to. */
typedef struct QueueKeyParts
{
	QueueKeyKind kind;			/* never QUEUE_KEY_OTHER */
	size_t		name_len;		/* of the lock's name, before the slash */
	size_t		last;			/* where the last part begins */
	bool		is_server;		/* <lease>-<number>, a server's key */
	uint64_t	lease;			/* if so */
	uint64_t	number;
} QueueKeyParts;

/* False: it cannot be a key of a lock. */
extern bool queue_split_key(const char *key, size_t key_len,
							QueueKeyParts *parts);

extern QueueKeyKind queue_key_kind(const QueueView *view,
								   const char *key, size_t key_len);

/* Is it a key that this server put? */
extern bool queue_key_is_own(const QueueView *view,
							 const char *key, size_t key_len);

/* Must a request for the given mode wait for a key of this kind? */
extern bool queue_conflicts(bool exclusive, QueueKeyKind kind);

/*
 * Judge the own key with the given create_revision.  own_read is the
 * create_revision of this server's read key that sessions need, or 0.
 *
 * ahead, unless NULL, has room for view->nkeys indexes and is filled with
 * those of the keys that must go first; *nahead says how many.
 */
extern QueueVerdict queue_judge(const QueueView *view, bool exclusive,
								int64_t create_revision, int64_t own_read,
								int *ahead, int *nahead);

/* Would a new key, put at the back, have to wait? */
extern bool queue_is_free(const QueueView *view, bool exclusive);

/* Does another owner wait for our key in the given mode at this revision? */
extern bool queue_somebody_waits(const QueueView *view, bool exclusive,
								 int64_t create_revision);

/* Where a key stands in the queue, seen from outside. */
typedef struct QueuePlace
{
	int			position;		/* 1: head; 0: not a key of this lock */
	bool		granted;
} QueuePlace;

/*
 * For each key of the view, which stand in the order of their
 * create_revisions: its place.  view->owner is not looked at.
 */
extern void queue_places(const QueueView *view, QueuePlace *places);

#endif							/* QUEUE_RULES_H */
