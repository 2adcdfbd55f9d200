/*-------------------------------------------------------------------------
 *
 * tls.h
 *	  The worker's certificates and key, from the files that settings name.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TLS_H
#define TLS_H

#include "postgres.h"

#include "net/connection.h"

extern void tls_create(void);

/*
 * Read the files and use them for connections from now on.  Returns NULL, or a
 * palloc'd error; then those that were in use before stay in use.
 */
extern char *tls_load(void);

/* Have they ever been read? */
extern bool tls_loaded(void);

/* What to connect with; NULL before the files were read. */
extern ConnectionTls *tls_current(void);

/* Changes when different files come into use. */
extern uint64 tls_generation(void);

#endif							/* TLS_H */
