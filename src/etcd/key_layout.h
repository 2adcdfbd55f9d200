/*-------------------------------------------------------------------------
 *
 * key_layout.h
 *	  How keys are named in etcd: built and recognized.
 *
 * README.md, "In etcd", has the whole layout.  This file needs only libc.  The
 * functions that build a key return its length; the caller provides
 * KEY_LAYOUT_SIZE bytes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KEY_LAYOUT_H
#define KEY_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * After any namespace, the prefix of our keys that do not belong to text
 * locks.
 */
#define KEY_LAYOUT_RESERVED		".etcd_lock/"

/* Longest namespace and name together, in bytes of UTF-8. */
#define KEY_LAYOUT_MAX_NAME		512

/*
 * Longest time for which a server keeps a key that no session uses;
 * milliseconds.
 */
#define KEY_LAYOUT_MAX_KEEP		10000

/* Room for any key built here, including its NUL. */
#define KEY_LAYOUT_SIZE			1200

/* Room for the prefix of a database's integer keys, including its NUL. */
#define KEY_LAYOUT_INTEGER_SIZE(database_len) \
	(sizeof(KEY_LAYOUT_RESERVED "int/") + 3 * (database_len) + 1)

typedef enum QueueKeyKind
{
	QUEUE_KEY_OTHER,			/* belongs to another lock (a deeper name) */
	QUEUE_KEY_PLAIN,			/* <name>/X: a client that knows one mode */
	QUEUE_KEY_READ,				/* <name>/read/X */
	QUEUE_KEY_WRITE				/* <name>/write/X */
} QueueKeyKind;

/* What a key's name says, whatever lock it belongs to. */
typedef struct QueueKeyParts
{
	QueueKeyKind kind;			/* never QUEUE_KEY_OTHER */
	size_t		name_len;		/* of the lock's name, before the slash */
	size_t		last;			/* where the last part begins */
	bool		is_server;		/* <lease>-<serial>, a server's key */
	uint64_t	lease;			/* if so */
	uint64_t	serial;
	unsigned	keep;			/* milliseconds for which it may be kept
								 * although no session uses it; 0: never */
} QueueKeyParts;

/*
 * A key of ours for a lock with this full name; keep: milliseconds for which
 * it may be kept, at most KEY_LAYOUT_MAX_KEEP.
 */
extern size_t key_layout_lock(char *key, const char *name, bool exclusive,
							  uint64_t lease, uint64_t serial, unsigned keep);

/* All keys of a lock are between these two, and also those of deeper names. */
extern size_t key_layout_queue_start(char *key, const char *name);
extern size_t key_layout_queue_end(char *key, const char *name);

/* The end of the range of a namespace's keys; empty: there is none. */
extern size_t key_layout_namespace_end(char *key, const char *ns);

/*
 * What the names of locks by integer keys of this database begin with, after
 * the namespace.  The caller provides KEY_LAYOUT_INTEGER_SIZE() bytes.
 */
extern size_t key_layout_integer_prefix(char *prefix, const char *database);

/* A server's sentinel; the range of all sentinels. */
extern size_t key_layout_sentinel(char *key, const char *ns, uint64_t lease);
extern size_t key_layout_sentinels(char *key, const char *ns);
extern size_t key_layout_sentinels_end(char *key, const char *ns);

/* All keys below a sentinel are between these two. */
extern size_t key_layout_sentinel_start(char *key, const char *sentinel);
extern size_t key_layout_sentinel_end(char *key, const char *sentinel);

/*
 * The key of a primary, by its system identifier; all of them are between
 * these two.
 */
extern size_t key_layout_primary(char *key, const char *ns, uint64_t system,
								 uint64_t lease);
extern void key_layout_primaries(char *start, char *end, const char *ns,
								 uint64_t system);

/*
 * The message that somebody has broken the key <lease>-<serial> of this lock.
 */
extern size_t key_layout_message(char *key, const char *ns, uint64_t lease,
								 const char *name, uint64_t serial);

/*
 * Is it a message below this sentinel?  Then returns the lock's name and the
 * serial.
 */
extern bool key_layout_is_message(const char *key, size_t key_len,
								  const char *sentinel,
								  const char **name, size_t *name_len,
								  uint64_t *serial);

/*
 * A question below the sentinel of a primary: the server with the lease
 * "asker" asks for its WAL position.  The answer, below the sentinel of the
 * asker.  id is that of the question.
 */
extern size_t key_layout_question(char *key, const char *sentinel, uint64_t asker,
								  uint64_t id);
extern size_t key_layout_position(char *key, const char *sentinel, uint64_t primary,
								  uint64_t id);
extern bool key_layout_is_question(const char *key, size_t key_len, const char *sentinel,
								   uint64_t *asker, uint64_t *id);
extern bool key_layout_is_position(const char *key, size_t key_len, const char *sentinel,
								   uint64_t *primary, uint64_t *id);

/*
 * Below the sentinel of a server: a path of waits that may be a deadlock, from the
 * server with the lease "sender", with a number of its own.
 */
extern size_t key_layout_deadlock(char *key, const char *ns, uint64_t lease,
								  uint64_t sender, uint64_t id);
extern bool key_layout_is_deadlock(const char *key, size_t key_len, const char *sentinel,
								   uint64_t *sender, uint64_t *id);

/* The note that says who has a key now. */
extern size_t key_layout_note(char *key, const char *ns, int64_t create_revision,
							  uint64_t lease, uint64_t serial);
extern bool key_layout_is_note(const char *key, size_t key_len, uint64_t lease,
							   uint64_t *serial);

/*
 * The last tick of a lock; namespace_len: length of the namespace in the name.
 */
extern size_t key_layout_tick(char *key, const char *name, size_t namespace_len);

/* All ticks of that namespace are between these two. */
extern void key_layout_ticks(char *start, char *end, const char *name,
							 size_t namespace_len);

/*
 * The key of a lease that ticks are attached to; all of them are between these
 * two.
 */
extern size_t key_layout_tick_lease(char *key, const char *ns, uint64_t lease);
extern void key_layout_tick_leases(char *start, char *end, const char *ns);

/*
 * Returns what kind of key of this lock it is.  *last: where its last part
 * begins.
 */
extern QueueKeyKind key_layout_kind(const char *name, size_t name_len,
									const char *key, size_t key_len,
									size_t *last);

/* Returns false if it cannot be a key of a lock. */
extern bool key_layout_split(const char *key, size_t key_len, QueueKeyParts *parts);

/* Is it <lease>-<serial> of a lock, with exactly this lease? */
extern bool key_layout_is_own(const char *key, size_t key_len, uint64_t lease,
							  uint64_t *serial);

/* Is it a key of the lock with this name, or of one with a deeper name? */
extern bool key_layout_is_below(const char *key, size_t key_len,
								const char *name, size_t name_len);

/* Is a lock's name, as key_layout_split() returns it, reserved? */
extern bool key_layout_is_reserved(const char *key, size_t name_len);

/*
 * For names as users write them.  Does it contain the reserved prefix, if a
 * slash follows?  Would its keys look like those that another lock has for one
 * mode?  Does it belong to an integer key (without the namespace)?
 */
extern bool key_layout_has_reserved(const char *name, size_t len);
extern bool key_layout_ends_in_mode(const char *name, size_t len);
extern bool key_layout_is_integer(const char *name, size_t len);

/*
 * Returns where the part of a name begins that users write: after this prefix of
 * integer keys, if the name has it.
 */
extern size_t key_layout_written_part(const char *name, size_t len, const char *prefix);

#endif							/* KEY_LAYOUT_H */
