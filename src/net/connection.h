/*-------------------------------------------------------------------------
 *
 * connection.h
 *	  One TCP or TLS connection, established and verified by libcurl, never
 *	  blocking.
 *
 * The address is numeric, so nothing has to be resolved; the server's
 * certificate is verified against the host name of the URL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONNECTION_H
#define CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/loop.h"

/* The contents of PEM files; a length of 0 means that there is none. */
typedef struct NetTls
{
	const void *cacert;			/* none: the system's */
	size_t		cacert_len;
	const void *cert;			/* the client's, with its chain */
	size_t		cert_len;
	const void *key;
	size_t		key_len;
} NetTls;

/* A copy that connections share; the last one to release it wipes the key. */
typedef struct ConnectionTls ConnectionTls;

extern ConnectionTls *connection_tls_create(const NetTls *tls); /* NULL: no memory */
extern void connection_tls_release(ConnectionTls *tls);
extern bool connection_tls_is(const ConnectionTls *tls, const NetTls *other);

typedef struct Connection Connection;

typedef enum ConnectionState
{
	CONNECTION_CONNECTING,
	CONNECTION_OPEN,
	CONNECTION_FAILED
} ConnectionState;

/*
 * Begin to connect to "http[s]://host:port" at this numeric address; the task
 * runs when there is something to do.  Returns NULL if out of memory, or if
 * libcurl cannot do that.
 */
extern Connection *connection_create(LoopTask *task, const char *url, int port,
									 const char *address, ConnectionTls *tls,
									 long timeout_ms);
extern void connection_destroy(Connection *connection);

/* Continue to connect; sets the task's timer. */
extern ConnectionState connection_advance(Connection *connection);

/*
 * When open.  They return the number of bytes, 0 if none at the moment, -1 if
 * failed.
 */
extern ssize_t connection_read(Connection *connection, void *data, size_t size);
extern ssize_t connection_write(Connection *connection, const void *data, size_t len);

/* Is the task to run when something can be written, too? */
extern void connection_want_write(Connection *connection, bool want);

/* Returns why it has failed. */
extern const char *connection_error(const Connection *connection);

#endif							/* CONNECTION_H */
