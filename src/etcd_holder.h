/*-------------------------------------------------------------------------
 *
 * etcd_holder.h
 *	  Who holds a lock or waits for it: the value of a key in etcd.
 *
 * Pure of PostgreSQL.  All text is UTF-8.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_HOLDER_H
#define ETCD_HOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ETCD_HOLDER_TEXT	256

/*
 * What is not known is empty, or its has_ flag false.  Whoever may write to
 * etcd can write anything here: texts may hold any bytes but NUL.
 */
typedef struct EtcdHolder
{
	char		server[ETCD_HOLDER_TEXT];
	char		host[ETCD_HOLDER_TEXT];
	char		database[ETCD_HOLDER_TEXT];
	char		user[ETCD_HOLDER_TEXT];
	char		application[ETCD_HOLDER_TEXT];
	bool		has_session;	/* database, user, application are there */
	bool		has_port;
	int32_t		port;
	bool		has_pid;
	int32_t		pid;
	bool		has_since;
	int64_t		since;			/* microseconds since 1970-01-01, UTC */
} EtcdHolder;

/* The value, malloc'd and NUL-terminated; NULL: out of memory. */
extern char *etcd_holder_encode(const EtcdHolder *holder);

/*
 * Read a value.  What is not understood stays unknown; false: nothing is, for
 * example because it is no JSON.  A foreign client may have put anything.
 */
extern bool etcd_holder_decode(const char *value, size_t len, EtcdHolder *holder);

/* Make of foreign text, in its place, what can be put into a log. */
extern void etcd_printable(char *text);

#endif							/* ETCD_HOLDER_H */
