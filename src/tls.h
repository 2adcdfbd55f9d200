/*-------------------------------------------------------------------------
 *
 * tls.h
 *	  The worker's certificates and key, from the files that settings name.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TLS_H
#define TLS_H

/*
 * Read the files and use them for connections from now on.  NULL, or why not,
 * palloc'd; then those that were in use before stay so.
 */
extern char *tls_load(void);

/* Have they ever been read? */
extern bool tls_loaded(void);

#endif							/* TLS_H */
