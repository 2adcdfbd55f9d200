/*-------------------------------------------------------------------------
 *
 * resolver.c
 *	  Resolves names to addresses by c-ares, never blocking.
 *
 * c-ares may have an answer at once (a numeric address, the hosts file).  It
 * is stored, and the next run of the lookup's task delivers it.
 *
 * c-ares asks for IPv4 and IPv6 addresses at the same time, and returns none
 * before both questions have ended.  Some name servers never answer the second
 * one.  So if the answer takes long, each is asked alone, too, and what has
 * addresses first ends the lookup.
 *
 *-------------------------------------------------------------------------
 */
#define CARES_NO_DEPRECATED
#include "net/resolver.h"

#include <assert.h>
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <ares.h>

/* How long one name server has to answer before another one is asked. */
#define TRY_TIMEOUT		1000	/* milliseconds */
#define TRIES			3

/* When each family of addresses is asked for alone; microseconds. */
#define ALONE_AFTER		INT64_C(1500000)

#define MAX_SOCKETS		16

typedef struct LookupSocket
{
	ares_socket_t fd;
	bool		read;
	bool		write;
} LookupSocket;

struct ResolverLookup
{
	LoopTask	task;
	ares_channel channel;
	bool		has_channel;
	LookupSocket sockets[MAX_SOCKETS];
	int			nsockets;
	char		host[RESOLVER_HOST_SIZE];
	int64_t		alone_at;		/* INT64_MAX: not, or not again */
	int			nquestions;		/* about addresses, that have not ended */
	long		timeout_ms;
	int64_t		deadline;
	bool		answered;
	ResolverAnswer answer;
	ResolverDone done;
	void	   *arg;
};

static bool
global_init(void)
{
	static bool done = false;

	if (!done)
		done = ares_library_init(ARES_LIB_INIT_ALL) == ARES_SUCCESS;
	return done;
}

/*
 * Answers
 */

static void
note_error(ResolverLookup *lookup, int status)
{
	snprintf(lookup->answer.error, sizeof(lookup->answer.error), "%s",
			 ares_strerror(status));
	lookup->answer.none = status == ARES_ENODATA || status == ARES_ENOTFOUND;
}

static void
answered(ResolverLookup *lookup)
{
	lookup->answered = true;
	lookup->task.due = loop_now();
}

static bool
add_address(ResolverAnswer *answer, const struct ares_addrinfo_node *node)
{
	ResolverResult *result = &answer->results[answer->n];
	const void *address;
	int			i;

	if (answer->n == RESOLVER_MAX_RESULTS)
		return false;
	if (node->ai_family == AF_INET)
		address = &((const struct sockaddr_in *) (const void *) node->ai_addr)->sin_addr;
	else if (node->ai_family == AF_INET6)
		address = &((const struct sockaddr_in6 *) (const void *) node->ai_addr)->sin6_addr;
	else
		return false;
	if (inet_ntop(node->ai_family, address, result->host, RESOLVER_ADDRESS_SIZE) == NULL)
		return false;
	for (i = 0; i < answer->n; i++)
	{
		if (strcmp(answer->results[i].host, result->host) == 0)
			return false;
	}
	answer->n++;
	return true;
}

/* What fails counts only if nothing else may still succeed. */
static void
addresses_found(void *arg, int status, int timeouts, struct ares_addrinfo *found)
{
	ResolverLookup *lookup = arg;
	const struct ares_addrinfo_node *node;

	(void) timeouts;
	assert(lookup->nquestions > 0);
	lookup->nquestions--;
	if (status == ARES_SUCCESS && found != NULL)
	{
		for (node = found->nodes; node != NULL; node = node->ai_next)
			(void) add_address(&lookup->answer, node);
	}
	if (found != NULL)
		ares_freeaddrinfo(found);
	if (lookup->answer.n == 0 && lookup->nquestions > 0)
		return;
	if (lookup->answer.n == 0)
		note_error(lookup, status == ARES_SUCCESS ? ARES_ENODATA : status);
	answered(lookup);
}

static void
ask_for_addresses(ResolverLookup *lookup, int family)
{
	struct ares_addrinfo_hints hints = {.ai_family = family,.ai_socktype = SOCK_STREAM};

	lookup->nquestions++;
	ares_getaddrinfo(lookup->channel, lookup->host, NULL, &hints, addresses_found, lookup);
}

static int
by_priority(const void *a, const void *b)
{
	return ((const ResolverResult *) a)->priority - ((const ResolverResult *) b)->priority;
}

static void
services_found(void *arg, int status, int timeouts, unsigned char *data, int len)
{
	ResolverLookup *lookup = arg;
	ResolverAnswer *answer = &lookup->answer;
	struct ares_srv_reply *first = NULL;
	struct ares_srv_reply *service;

	(void) timeouts;
	if (status == ARES_SUCCESS)
		status = ares_parse_srv_reply(data, len, &first);
	for (service = first; status == ARES_SUCCESS && service != NULL; service = service->next)
	{
		ResolverResult *result = &answer->results[answer->n];

		/* "." as a host says that there is no such service */
		if (answer->n == RESOLVER_MAX_RESULTS || service->port == 0 ||
			service->host[0] == '\0' || strcmp(service->host, ".") == 0 ||
			snprintf(result->host, sizeof(result->host), "%s", service->host) >=
			(int) sizeof(result->host))
			continue;
		result->port = service->port;
		result->priority = service->priority;
		answer->n++;
	}
	if (first != NULL)
		ares_free_data(first);
	if (answer->n > 0)
		qsort(answer->results, (size_t) answer->n, sizeof(ResolverResult), by_priority);
	else
		note_error(lookup, status != ARES_SUCCESS ? status : ARES_ENODATA);
	answered(lookup);
}

/*
 * Sockets
 */

static void
socket_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	ResolverLookup *lookup = arg;
	int			i;

	for (i = 0; i < lookup->nsockets && lookup->sockets[i].fd != fd; i++)
		 /* found, or not */ ;
	if (!readable && !writable)
	{
		if (i < lookup->nsockets)
			lookup->sockets[i] = lookup->sockets[--lookup->nsockets];
		loop_forget(&lookup->task, fd);
		return;
	}
	if (i == MAX_SOCKETS)
		return;					/* c-ares gives it up by itself */
	if (i == lookup->nsockets)
		lookup->sockets[lookup->nsockets++].fd = fd;
	lookup->sockets[i].read = readable != 0;
	lookup->sockets[i].write = writable != 0;
	loop_watch(&lookup->task, fd, readable != 0, writable != 0);
}

/* c-ares opens and closes sockets meanwhile, so work on a copy. */
static void
serve_sockets(ResolverLookup *lookup)
{
	LookupSocket sockets[MAX_SOCKETS];
	int			n = lookup->nsockets;
	int			i;

	memcpy(sockets, lookup->sockets, sizeof(sockets));
	for (i = 0; i < n; i++)
		ares_process_fd(lookup->channel,
						sockets[i].read ? sockets[i].fd : ARES_SOCKET_BAD,
						sockets[i].write ? sockets[i].fd : ARES_SOCKET_BAD);
	ares_process_fd(lookup->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}

static void
set_timer(ResolverLookup *lookup)
{
	struct timeval left;
	int64_t		due = lookup->alone_at < lookup->deadline ? lookup->alone_at : lookup->deadline;

	assert(!lookup->answered);
	if (ares_timeout(lookup->channel, NULL, &left) != NULL)
	{
		int64_t		next = loop_now() + (int64_t) left.tv_sec * 1000000 + left.tv_usec;

		if (next < due)
			due = next;
	}
	lookup->task.due = due;
}

static void
free_lookup(ResolverLookup *lookup)
{
	/* this ends what is in flight, and calls only "answered" */
	if (lookup->has_channel)
		ares_destroy(lookup->channel);
	loop_remove(&lookup->task);
	free(lookup);
}

static void
run(void *arg)
{
	ResolverLookup *lookup = arg;

	if (!lookup->answered)
		serve_sockets(lookup);
	if (!lookup->answered && loop_now() >= lookup->alone_at)
	{
		lookup->alone_at = INT64_MAX;
		ask_for_addresses(lookup, AF_INET);
		ask_for_addresses(lookup, AF_INET6);
	}
	if (!lookup->answered && loop_now() >= lookup->deadline)
	{
		snprintf(lookup->answer.error, sizeof(lookup->answer.error),
				 "no response from a name server within %ld ms", lookup->timeout_ms);
		lookup->answered = true;
	}
	if (!lookup->answered)
	{
		set_timer(lookup);
		return;
	}
	/* "done" may not cancel it: it has ended */
	assert(lookup->answer.n > 0 || lookup->answer.error[0] != '\0');
	lookup->done(lookup->arg, &lookup->answer);
	free_lookup(lookup);
}

static ResolverLookup *
create(Loop *loop, long timeout_ms, ResolverDone done, void *arg)
{
	ResolverLookup *lookup;
	struct ares_options options = {0};

	if (!global_init())
		return NULL;
	lookup = calloc(1, sizeof(ResolverLookup));
	if (lookup == NULL)
		return NULL;
	loop_add(loop, &lookup->task, run, lookup);
	lookup->alone_at = INT64_MAX;
	lookup->timeout_ms = timeout_ms;
	lookup->deadline = loop_now() + (int64_t) timeout_ms * 1000;
	lookup->done = done;
	lookup->arg = arg;
	options.timeout = TRY_TIMEOUT;
	options.tries = TRIES;
	options.sock_state_cb = socket_state;
	options.sock_state_cb_data = lookup;
	if (ares_init_options(&lookup->channel, &options,
						  ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB) !=
		ARES_SUCCESS)
	{
		free_lookup(lookup);
		return NULL;
	}
	lookup->has_channel = true;
	return lookup;
}

ResolverLookup *
resolver_addresses(Loop *loop, const char *host, long timeout_ms, ResolverDone done,
				   void *arg)
{
	ResolverLookup *lookup = create(loop, timeout_ms, done, arg);

	if (lookup == NULL)
		return NULL;
	snprintf(lookup->host, sizeof(lookup->host), "%s", host);
	lookup->alone_at = loop_now() + ALONE_AFTER;
	ask_for_addresses(lookup, AF_UNSPEC);
	if (!lookup->answered)
		set_timer(lookup);
	return lookup;
}

ResolverLookup *
resolver_services(Loop *loop, const char *name, long timeout_ms, ResolverDone done,
				  void *arg)
{
	ResolverLookup *lookup = create(loop, timeout_ms, done, arg);

	if (lookup == NULL)
		return NULL;
	ares_query(lookup->channel, name, ns_c_in, ns_t_srv, services_found, lookup);
	if (!lookup->answered)
		set_timer(lookup);
	return lookup;
}

void
resolver_cancel(ResolverLookup *lookup)
{
	free_lookup(lookup);
}
