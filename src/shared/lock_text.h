/*-------------------------------------------------------------------------
 *
 * lock_text.h
 *	  Converts text between the database's encoding and UTF-8, which etcd has.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_TEXT_H
#define LOCK_TEXT_H

#include "postgres.h"

/*
 * Convert text between the database's encoding and UTF-8.  These never fail:
 * bytes that have no equivalent on the other side, or are invalid, are escaped
 * as \xNN.
 */
extern void lock_text_to_utf8(const char *text, char *utf8, size_t size);
extern char *lock_text_for_user(const char *utf8, size_t len);

/*
 * Escape what the client's encoding does not have in a text in the database's
 * encoding: an error message that cannot be converted would be replaced by
 * another error.
 */
extern char *lock_text_for_message(const char *text);

/* The same from UTF-8, for etcd's errors. */
extern char *lock_text_etcd_message(const char *utf8);

/*
 * Look up what these need from the catalogs: a session that waits for a lock
 * without a snapshot must not do that any more (rule 26).
 */
extern void lock_text_prepare(void);

#endif							/* LOCK_TEXT_H */
