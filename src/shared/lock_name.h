/*-------------------------------------------------------------------------
 *
 * lock_name.h
 *	  What a lock is called: in SQL, in etcd, and to PostgreSQL's lock manager.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_NAME_H
#define LOCK_NAME_H

#include "shared/settings.h"

/*
 * Fourth part of a text name's lock tag; pg_advisory_lock() uses 1 for a
 * bigint and 2 for two ints.  The first three parts are 0 until the shared
 * table has assigned the name a number (README.md, "Lock tags").
 */
#define LOCK_TAG_TEXT	3

typedef struct LockName
{
	char		key[ETCD_LOCK_MAX_KEY + 1]; /* the name in etcd, UTF-8, with
											 * the namespace in front */
	int			namespace_len;
	LOCKTAG		tag;
} LockName;

/* Names as the user writes them.  Bad names raise an error. */
extern void lock_name_from_text(LockName *name, text *user_name);

/*
 * A name as views show it: an integer key of this database as it is, one of
 * another database as ".etcd_lock/int/<database>/<key>".
 */
extern void lock_name_from_shown(LockName *name, text *user_name);

extern void lock_name_from_int8(LockName *name, int64 key);
extern void lock_name_from_int4(LockName *name, int32 key1, int32 key2);

/*
 * Back to what the user wrote, in the database's encoding, without the
 * namespace.
 */
extern char *lock_name_for_user(const char *key, int namespace_len,
								const LOCKTAG *tag);

/* The same for a message to the client: see lock_text_for_message(). */
extern char *lock_name_for_message(const LockName *name);

/* The prefix of this database's integer keys in etcd. */
extern char *lock_name_integer_prefix(void);

#endif							/* LOCK_NAME_H */
