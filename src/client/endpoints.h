/*-------------------------------------------------------------------------
 *
 * endpoints.h
 *	  The addresses at which etcd may be found, and the search for one that
 *	  serves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ENDPOINTS_H
#define ENDPOINTS_H

#include "postgres.h"

#include "etcd/etcd_request.h"
#include "etcd/etcd_response.h"
#include "net/channel.h"

/* What endpoints.c reports to link.c. */
typedef struct EndpointsHooks
{
	/* an address serves: from now on the channel to it is the link's */
	void		(*found) (Channel *channel);

	/* what is wrong with the candidates; all: with every one */
	void		(*errors) (const char *text, bool all);

	/* a name server no longer lists the one in use */
	void		(*unlisted) (void);

	/* one has reported this raft term */
	void		(*saw_term) (uint64 raft_term);
} EndpointsHooks;

/* Why an endpoint is searched for. */
typedef enum EndpointsSearch
{
	SEARCH_NONE,
	SEARCH_RACE,				/* the current one remains in use meanwhile */
	SEARCH_RETURN,				/* its connection was closed: it goes first */
	SEARCH_OTHER				/* it has failed: others go first */
} EndpointsSearch;

extern void endpoints_create(Loop *loop, const EndpointsHooks *hooks);

/*
 * Read the setting.  The current endpoint stays current if the list still has
 * it; returns false if not.
 */
extern bool endpoints_read(void);

/*
 * The URL of the current endpoint, or of the one to be tried first; never
 * NULL.
 */
extern const char *endpoints_current(void);

/* The same with its address, if that is not in the URL; palloc'd. */
extern char *endpoints_describe(void);

/*
 * Ask all addresses at the same time, and take the one that serves first.
 * "error": why the current one is given up, or NULL.
 */
extern void endpoints_search(EndpointsSearch why, const char *error);
extern void endpoints_stop_search(void);
extern EndpointsSearch endpoints_searching(void);

/* Do what is due; when that is: clock_now(). */
extern void endpoints_tick(void);
extern int64 endpoints_time(void);

/*
 * Send a request to an endpoint that is not in use.  Returns false if that is
 * not possible at the moment; then the callback is not called.
 */
typedef void (*EndpointsAsked) (void *arg, const EtcdResponse *response);

extern bool endpoints_ask(const char *url, EtcdMessage *message, long timeout_ms,
						  EndpointsAsked done, void *arg);

/*
 * A linearizable read, to which only a member that is in touch with a majority
 * responds; and whether the response shows that.  A foreign member belongs to
 * another cluster than the one with our locks.
 */
extern EtcdMessage endpoints_probe(void);

/* If not, fills "error".  raft_term: 0: not known, or that of a foreign member. */
extern bool endpoints_probe_served(const EtcdResponse *response, bool *foreign,
								   uint64 *raft_term, char *error, size_t size);

#endif							/* ENDPOINTS_H */
