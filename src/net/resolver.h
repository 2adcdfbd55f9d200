/*-------------------------------------------------------------------------
 *
 * resolver.h
 *	  Resolves names to addresses by c-ares, never blocking.
 *
 * Each lookup reads the system's configuration again (resolv.conf, hosts), and
 * has its own sockets and timeout, so that a name server that hangs holds up
 * only that lookup.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RESOLVER_H
#define RESOLVER_H

#include "net/loop.h"

#define RESOLVER_MAX_RESULTS	16
#define RESOLVER_HOST_SIZE		256
#define RESOLVER_ADDRESS_SIZE	64

/* A server of a service; or an address, for which only "host" is set. */
typedef struct ResolverResult
{
	char		host[RESOLVER_HOST_SIZE];
	int			port;
	int			priority;
} ResolverResult;

typedef struct ResolverAnswer
{
	int			n;				/* 0: there is an error */
	ResolverResult results[RESOLVER_MAX_RESULTS];
	char		error[256];
	bool		none;			/* an error: a name server says so, that there
								 * is nothing of that name and type */
} ResolverAnswer;

typedef struct ResolverLookup ResolverLookup;

/* "done" is called from loop_run(); the lookup is freed after it returns. */
typedef void (*ResolverDone) (void *arg, const ResolverAnswer *answer);

/* All IPv4 and IPv6 addresses of a host.  Returns NULL if out of memory. */
extern ResolverLookup *resolver_addresses(Loop *loop, const char *host,
										  long timeout_ms, ResolverDone done, void *arg);

/* The servers that a DNS SRV record names, in the order of their priority. */
extern ResolverLookup *resolver_services(Loop *loop, const char *name,
										 long timeout_ms, ResolverDone done, void *arg);

/* "done" is not called any more. */
extern void resolver_cancel(ResolverLookup *lookup);

#endif							/* RESOLVER_H */
