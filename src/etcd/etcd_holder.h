/*-------------------------------------------------------------------------
 *
 * etcd_holder.h
 *	  Who holds a lock or waits for it: the value of a key in etcd.
 *
 * Independent of PostgreSQL.  All text is UTF-8.
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
 * Unknown members are empty, or their has_ flag is false.  Anybody who may
 * write to etcd can write anything here: texts may contain any bytes except
 * NUL.
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
	char		instance[ETCD_HOLDER_TEXT]; /* see worker/instance.c */
	bool		has_sentinel_ns;	/* unless it is of version 1.0 */
	char		sentinel_ns[ETCD_HOLDER_TEXT];	/* namespace of its sentinel */
	bool		has_timeline;
	int32_t		timeline;		/* of a primary's WAL */
	bool		has_since;
	int64_t		since;			/* microseconds since 1970-01-01, UTC */
} EtcdHolder;

/* Returns the value, malloc'd and NUL-terminated, or NULL if out of memory. */
extern char *etcd_holder_encode(const EtcdHolder *holder);

/*
 * Read a value.  Members that are not understood stay unknown.  Returns false
 * if nothing is understood, for example because it is not JSON.  A foreign
 * client may have put anything.
 */
extern bool etcd_holder_decode(const char *value, size_t len, EtcdHolder *holder);

/* Make foreign text fit for a log, in place. */
extern void etcd_holder_printable(char *value);

#endif							/* ETCD_HOLDER_H */
