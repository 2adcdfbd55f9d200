/*-------------------------------------------------------------------------
 *
 * lock_name.h
 *	  What a lock is called: in SQL, in etcd, and to PostgreSQL's lock manager.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_NAME_H
#define LOCK_NAME_H

#include "etcd_lock.h"

typedef struct LockName
{
	char		key[ETCD_LOCK_MAX_KEY + 1]; /* the name in etcd, UTF-8, with
											 * the namespace in front */
	int			namespace_len;
	LOCKTAG		tag;
} LockName;

/* As the user writes them; bad names are reported with ereport(ERROR). */
extern void lock_name_from_text(LockName *name, text *user_name);
/* The same, or ".etcd_lock/int/<database>/<key>" for an integer key. */
extern void lock_name_from_shown(LockName *name, text *user_name);

extern void lock_name_from_int8(LockName *name, int64 key);
extern void lock_name_from_int4(LockName *name, int32 key1, int32 key2);

/* Back again, in the database's encoding, without the namespace. */
extern char *lock_name_for_user(const char *key, int namespace_len,
								const LOCKTAG *tag);

/*
 * Text between the database's encoding and UTF-8.  Never fails: what the other
 * side has no character for, or is no text at all, is escaped as \xNN.
 */
extern void lock_text_to_utf8(const char *text, char *utf8, size_t size);
extern char *lock_text_for_user(const char *utf8, size_t len);

/* What the names of this database's integer keys begin with in etcd. */
extern char *lock_name_integer_prefix(void);

#endif							/* LOCK_NAME_H */
