/*-------------------------------------------------------------------------
 *
 * endpoints.c
 *	  The addresses at which etcd may be found, and the search for one that
 *	  serves.
 *
 * An endpoint is a URL, from the setting or from DNS SRV records.  Its host
 * name may have several addresses, of different members or of a load balancer.
 * Each address is a *candidate*, which can be abandoned for another one of the
 * same name.  A name is resolved when it is first needed, whenever a search
 * begins, and again when its addresses have failed twice; SRV records are
 * looked up again as long as a search lasts.  While all is well, no name
 * server is asked.
 *
 * Some of the candidates may be down, some may accept connections but never
 * respond, some may have no leader, and the names of some may take long to
 * resolve.  So we ask all of them at the same time, each repeatedly over its
 * own connection, and take the first one that responds, with that connection.
 * The request is a linearizable read: only a member that is in touch with a
 * majority can respond to it, which a leader that was cut off and does not
 * know it yet cannot.
 *
 * Two responses are held back until the other candidates had their chance:
 * that of the candidate that has just failed, and that of one that belongs to
 * another cluster, which has none of our locks: it is not taken while our
 * lease lives.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/auth.h"
#include "client/endpoints.h"
#include "client/etcd_client.h"
#include "client/response.h"
#include "client/tls.h"
#include "etcd/etcd_error.h"
#include "etcd/key_layout.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "net/resolver.h"
#include "net/target.h"
#include "shared/clock.h"
#include "shared/counters.h"
#include "shared/link_status.h"
#include "shared/lock_table.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

/* Pause before a candidate is asked again; microseconds. */
#define FIRST_PAUSE		INT64CONST(100000)
#define LAST_PAUSE		INT64CONST(1000000)

/* Head start over the next one in the list, and of the one to return to. */
#define HEAD_START		INT64CONST(10000)
#define RETURN_START	INT64CONST(150000)

/* Head start of the connection in use over new ones, in a race. */
#define RACE_START		INT64CONST(100000)

/* How long the candidate that has failed must wait for the others. */
#define GRACE			INT64CONST(300000)

/* Least pause between two lookups of a name, and how long each may take. */
#define LOOKUP_PAUSE	INT64CONST(1000000)
#define LOOKUP_TIMEOUT	5000	/* milliseconds */

typedef struct Endpoint
{
	dlist_node	node;
	char	   *url;
	bool		is_valid;		/* else it is not a URL of an etcd */
	Target		target;
	bool		listed;			/* while a new list is read */
	ResolverLookup *lookup;		/* in flight */
	int64		looked_up_at;	/* clock_now(); 0: never */
	char		error[LINK_ENDPOINT_ERROR_SIZE];	/* why it has no address */
} Endpoint;

typedef struct Candidate
{
	dlist_node	node;
	Endpoint   *endpoint;
	char		address[RESOLVER_ADDRESS_SIZE];
	bool		listed;			/* while a lookup's answer is read */
	Channel    *channel;		/* over which it is asked; NULL: it is not */
	int64		asked_at;		/* clock_now() */
	int64		ask_at;			/* clock_now(): not before */
	int64		pause;
	bool		serves;			/* but is held back */
	bool		foreign;		/* of another cluster */
	bool		said_foreign;	/* this was logged */
	char		error[LINK_ENDPOINT_ERROR_SIZE];	/* of this search */
} Candidate;

/* A request to an endpoint that is not in use. */
typedef struct Asked
{
	Channel    *channel;
	EndpointsAsked done;
	void	   *arg;
} Asked;

/* The DNS SRV records to look up. */
#define NSERVICES		2

typedef struct Service
{
	const char *name;
	const char *scheme;
	ResolverLookup *lookup;
	ResolverAnswer answer;
} Service;

struct Endpoints
{
	Loop	   *loop;
	const EndpointsHooks *hooks;
	dlist_head	endpoints;
	dlist_head	candidates;

	/* The current endpoint, by value, because lists come and go. */
	char	   *current_url;	/* NULL: none yet */
	char		current_address[RESOLVER_ADDRESS_SIZE];

	EndpointsSearch searching;
	int64		search_began;	/* clock_now() */

	Service		services[NSERVICES];
	char	   *discovered;		/* the domain that the list comes from */
	int64		discover_at;	/* clock_now(); PG_INT64_MAX: not needed */
};

#define MyEndpoints (MyClient->endpoints)

static void resolve(Endpoint *endpoint);

/* ----------------------------------------------------------------
 *		Candidates
 * ----------------------------------------------------------------
 */

static bool
is_current(const Candidate *candidate)
{
	return MyEndpoints->current_url != NULL &&
		strcmp(candidate->endpoint->url, MyEndpoints->current_url) == 0 &&
		strcmp(candidate->address, MyEndpoints->current_address) == 0;
}

static void
stop_asking(Candidate *candidate)
{
	channel_destroy(candidate->channel);
	candidate->channel = NULL;
}

static void
free_candidate(Candidate *candidate)
{
	stop_asking(candidate);
	dlist_delete(&candidate->node);
	pfree(candidate);
}

static Candidate *
find_candidate(const Endpoint *endpoint, const char *address)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		Candidate  *candidate = dlist_container(Candidate, node, iter.cur);

		if (candidate->endpoint == endpoint && strcmp(candidate->address, address) == 0)
			return candidate;
	}
	return NULL;
}

static void
add_candidate(Endpoint *endpoint, const char *address)
{
	Candidate  *candidate = find_candidate(endpoint, address);

	if (candidate == NULL)
	{
		candidate = MemoryContextAllocZero(TopMemoryContext, sizeof(Candidate));
		candidate->endpoint = endpoint;
		strlcpy(candidate->address, address, sizeof(candidate->address));
		candidate->ask_at = clock_now();
		dlist_push_tail(&MyEndpoints->candidates, &candidate->node);
	}
	candidate->listed = true;
}

static int
count_candidates(const Endpoint *endpoint)
{
	int			n = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		if (dlist_container(Candidate, node, iter.cur)->endpoint == endpoint)
			n++;
	}
	return n;
}

/* Describe a candidate: its URL, and its address if that is not in the URL. */
static char *
describe(const Candidate *candidate)
{
	return candidate->endpoint->target.is_numeric ?
		pstrdup(candidate->endpoint->url) :
		psprintf("%s (%s)", candidate->endpoint->url, candidate->address);
}

/* ----------------------------------------------------------------
 *		Errors
 * ----------------------------------------------------------------
 */

/* Has every other candidate, and every name without one, had its chance? */
static bool
no_other(const Candidate *except)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		const Candidate *candidate = dlist_container(Candidate, node, iter.cur);

		if (candidate != except && candidate->error[0] == '\0')
			return false;
	}
	dlist_foreach(iter, &MyEndpoints->endpoints)
	{
		const Endpoint *endpoint = dlist_container(Endpoint, node, iter.cur);

		if (endpoint->error[0] == '\0' && count_candidates(endpoint) == 0)
			return false;
	}
	return true;
}

static void
append_error(StringInfo text, const char *who, const char *error)
{
	if (error[0] != '\0')
		appendStringInfo(text, "%s%s%s%s", text->len > 0 ? "; " : "", who,
						 who[0] != '\0' ? ": " : "", error);
}

/* Report what is wrong with each of them, the current one first. */
static void
tell_errors(void)
{
	StringInfoData text;
	dlist_iter	iter;

	initStringInfo(&text);
	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		const Candidate *candidate = dlist_container(Candidate, node, iter.cur);

		if (is_current(candidate))
			append_error(&text, "", candidate->error);
	}
	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		const Candidate *candidate = dlist_container(Candidate, node, iter.cur);
		bool		is_shown = text.len == 0 &&
			strcmp(candidate->endpoint->url, endpoints_current()) == 0 &&
			candidate->endpoint->target.is_numeric;

		if (!is_current(candidate))
			append_error(&text, is_shown ? "" : describe(candidate), candidate->error);
	}
	dlist_foreach(iter, &MyEndpoints->endpoints)
	{
		const Endpoint *endpoint = dlist_container(Endpoint, node, iter.cur);
		bool		is_shown = text.len == 0 &&
			strcmp(endpoint->url, endpoints_current()) == 0;

		append_error(&text, is_shown ? "" : endpoint->url, endpoint->error);
	}
	if (text.len > 0)
		MyEndpoints->hooks->errors(text.data, no_other(NULL));
	pfree(text.data);
}

/* ----------------------------------------------------------------
 *		Names
 * ----------------------------------------------------------------
 */

static void
endpoint_failed(Endpoint *endpoint, const char *error)
{
	/* what is remembered may be only its beginning */
	bool		news = strncmp(endpoint->error, error, sizeof(endpoint->error) - 1) != 0;

	strlcpy(endpoint->error, error, sizeof(endpoint->error));
	link_status_endpoint_failed(endpoint->url, error);
	if (news && MyEndpoints->searching != SEARCH_NONE)
		tell_errors();
}

/*
 * Give up addresses that are gone, unless there is no other.  A search hears out
 * those that it has asked: a name server may tell a part of them each time.
 */
static void
addresses_found(void *arg, const ResolverAnswer *answer)
{
	Endpoint   *endpoint = arg;
	dlist_mutable_iter iter;

	endpoint->lookup = NULL;
	endpoint->looked_up_at = clock_now();
	if (answer->n == 0)
	{
		if (count_candidates(endpoint) == 0)
			endpoint_failed(endpoint, psprintf("could not resolve host \"%s\": %s",
											   endpoint->target.host, answer->error));
		return;
	}
	endpoint->error[0] = '\0';
	for (int i = 0; i < answer->n; i++)
		add_candidate(endpoint, answer->results[i].host);
	dlist_foreach_modify(iter, &MyEndpoints->candidates)
	{
		Candidate  *candidate = dlist_container(Candidate, node, iter.cur);

		if (candidate->endpoint != endpoint)
			continue;
		if (candidate->listed)
			candidate->listed = false;
		else if (candidate->channel == NULL || MyEndpoints->searching == SEARCH_NONE)
			free_candidate(candidate);
	}
}

static void
resolve(Endpoint *endpoint)
{
	if (!endpoint->is_valid || endpoint->target.is_numeric ||
		endpoint->lookup != NULL ||
		(endpoint->looked_up_at != 0 &&
		 clock_now() - endpoint->looked_up_at < LOOKUP_PAUSE))
		return;
	endpoint->lookup = resolver_addresses(MyEndpoints->loop, endpoint->target.host, LOOKUP_TIMEOUT,
										  addresses_found, endpoint);
	if (endpoint->lookup == NULL)
	{
		endpoint->looked_up_at = clock_now();
		endpoint_failed(endpoint, "out of memory");
	}
}

/* ----------------------------------------------------------------
 *		The list
 * ----------------------------------------------------------------
 */

static void
free_endpoint(Endpoint *endpoint)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &MyEndpoints->candidates)
	{
		Candidate  *candidate = dlist_container(Candidate, node, iter.cur);

		if (candidate->endpoint == endpoint)
			free_candidate(candidate);
	}
	if (endpoint->lookup != NULL)
		resolver_cancel(endpoint->lookup);
	dlist_delete(&endpoint->node);
	pfree(endpoint->url);
	pfree(endpoint);
}

static Endpoint *
find_endpoint(const char *url)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyEndpoints->endpoints)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, node, iter.cur);

		if (strcmp(endpoint->url, url) == 0)
			return endpoint;
	}
	return NULL;
}

static Endpoint *
make_endpoint(const char *url)
{
	Endpoint   *endpoint = MemoryContextAllocZero(TopMemoryContext, sizeof(Endpoint));

	endpoint->url = MemoryContextStrdup(TopMemoryContext, url);
	endpoint->is_valid = target_parse(url, &endpoint->target);
	dlist_push_tail(&MyEndpoints->endpoints, &endpoint->node);
	if (!endpoint->is_valid)
		endpoint_failed(endpoint, "not the URL of an etcd member (\"http[s]://host:port\")");
	else if (endpoint->target.is_numeric)
		add_candidate(endpoint, endpoint->target.host);
	return endpoint;
}

/*
 * Set the list, in this order; keep what is known about endpoints that stay.
 */
static void
set_list(char **urls, int n)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &MyEndpoints->endpoints)
		dlist_container(Endpoint, node, iter.cur)->listed = false;
	link_status_set_endpoints(urls, n);
	for (int i = 0; i < n; i++)
	{
		Endpoint   *endpoint = find_endpoint(urls[i]);

		if (endpoint == NULL)
			endpoint = make_endpoint(urls[i]);
		else if (!endpoint->listed)
		{
			dlist_delete(&endpoint->node);
			dlist_push_tail(&MyEndpoints->endpoints, &endpoint->node);
		}
		endpoint->listed = true;
	}
	dlist_foreach_modify(iter, &MyEndpoints->endpoints)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, node, iter.cur);

		if (!endpoint->listed)
			free_endpoint(endpoint);
	}
	dlist_foreach_modify(iter, &MyEndpoints->candidates)
		dlist_container(Candidate, node, iter.cur)->listed = false;
}

static void
read_setting(void)
{
	char	   *copy = pstrdup(etcd_lock_endpoints);
	List	   *names = NIL;
	ListCell   *cell;
	char	  **urls;
	int			n = 0;

	if (!SplitGUCList(copy, ',', &names) || names == NIL)
	{
		ereport(LOG,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list syntax in parameter \"%s\"",
						"etcd_lock.endpoints")));
		names = list_make1("");
	}
	urls = palloc(list_length(names) * sizeof(char *));
	foreach(cell, names)
	{
		char	   *url = pstrdup(lfirst(cell));
		size_t		len = strlen(url);

		while (len > 0 && url[len - 1] == '/')
			url[--len] = '\0';
		urls[n++] = url;
	}
	set_list(urls, n);
}

/* ----------------------------------------------------------------
 *		Discovery by DNS SRV records
 * ----------------------------------------------------------------
 */

static bool
has_lookup(void)
{
	for (int i = 0; i < NSERVICES; i++)
	{
		if (MyEndpoints->services[i].lookup != NULL)
			return true;
	}
	return false;
}

static void
stop_discovery(void)
{
	for (int i = 0; i < NSERVICES; i++)
	{
		if (MyEndpoints->services[i].lookup != NULL)
			resolver_cancel(MyEndpoints->services[i].lookup);
		MyEndpoints->services[i].lookup = NULL;
	}
	MyEndpoints->discover_at = PG_INT64_MAX;
}

static bool
is_listed(const char *url)
{
	return url == NULL || find_endpoint(url) != NULL;
}

/* Add the endpoints that a service's records list.  Returns their number. */
static int
add_found(const Service *service, char **urls, int n)
{
	for (int i = 0; i < service->answer.n; i++)
	{
		const ResolverResult *result = &service->answer.results[i];
		size_t		len = strlen(result->host);

		if (len > 0 && result->host[len - 1] == '.')
			len--;
		urls[n + i] = psprintf("%s://%.*s:%d", service->scheme, (int) len, result->host,
							   result->port);
	}
	return service->answer.n;
}

/*
 * Add those that are known from before, if the name server has not answered
 * whether there still are any.  Returns their number.
 */
static int
add_known(const Service *service, char **urls, int n)
{
	bool		is_tls = strcmp(service->scheme, "https") == 0;
	int			added = 0;
	dlist_iter	iter;

	if (service->answer.n > 0 || service->answer.none)
		return 0;
	dlist_foreach(iter, &MyEndpoints->endpoints)
	{
		const Endpoint *endpoint = dlist_container(Endpoint, node, iter.cur);

		if (endpoint->is_valid && endpoint->target.is_tls == is_tls &&
			added < RESOLVER_MAX_RESULTS)
			urls[n + added++] = pstrdup(endpoint->url);
	}
	return added;
}

static void
discovery_ended(void)
{
	char	   *urls[NSERVICES * RESOLVER_MAX_RESULTS];
	int			nfound = 0;
	int			nknown = 0;

	Assert(!has_lookup());
	for (int i = 0; i < NSERVICES; i++)
		nfound += add_found(&MyEndpoints->services[i], urls, nfound);
	if (nfound > 0)
	{
		for (int i = 0; i < NSERVICES; i++)
			nknown += add_known(&MyEndpoints->services[i], urls, nfound + nknown);
		Assert(nfound + nknown <= lengthof(urls));
		set_list(urls, nfound + nknown);
		MyEndpoints->discover_at = PG_INT64_MAX;
		if (!is_listed(MyEndpoints->current_url) &&
			(MyEndpoints->searching == SEARCH_NONE || MyEndpoints->searching == SEARCH_RACE))
			MyEndpoints->hooks->unlisted();
		else if (MyEndpoints->searching != SEARCH_NONE)
			endpoints_search(MyEndpoints->searching, NULL);
		return;
	}
	MyEndpoints->discover_at =
		MyEndpoints->searching == SEARCH_NONE && !dlist_is_empty(&MyEndpoints->endpoints) ?
		PG_INT64_MAX : clock_now() + LOOKUP_PAUSE;
	if (dlist_is_empty(&MyEndpoints->endpoints))
		MyEndpoints->hooks->errors(psprintf("could not find DNS SRV records \"%s.%s\": %s",
											MyEndpoints->services[0].name, MyEndpoints->discovered, MyEndpoints->services[0].answer.error),
								   true);
}

static void
service_found(void *arg, const ResolverAnswer *answer)
{
	Service    *service = arg;

	service->lookup = NULL;
	service->answer = *answer;
	if (!has_lookup())
		discovery_ended();
}

static void
discover(void)
{
	for (int i = 0; i < NSERVICES; i++)
	{
		Service    *service = &MyEndpoints->services[i];

		memset(&service->answer, 0, sizeof(service->answer));
		service->lookup =
			resolver_services(MyEndpoints->loop, psprintf("%s.%s", service->name, MyEndpoints->discovered),
							  LOOKUP_TIMEOUT, service_found, service);
		strlcpy(service->answer.error, "out of memory", sizeof(service->answer.error));
	}
	MyEndpoints->discover_at = has_lookup() ? PG_INT64_MAX : clock_now() + LAST_PAUSE;
}

/* None of the list may serve: there may be another one soon. */
static void
discover_again(void)
{
	if (MyEndpoints->discovered != NULL && MyEndpoints->discover_at == PG_INT64_MAX && !has_lookup())
		MyEndpoints->discover_at = clock_now() + LOOKUP_PAUSE;
}

/* The list comes from the name server, once that has answered. */
static void
read_discovery(void)
{
	if (MyEndpoints->discovered == NULL || strcmp(MyEndpoints->discovered, etcd_lock_discovery_srv) != 0)
	{
		if (MyEndpoints->discovered != NULL)
			pfree(MyEndpoints->discovered);
		MyEndpoints->discovered = MemoryContextStrdup(TopMemoryContext, etcd_lock_discovery_srv);
		set_list(NULL, 0);
	}
	stop_discovery();
	discover();
}

/* ----------------------------------------------------------------
 *		The current one
 * ----------------------------------------------------------------
 */

void
endpoints_create(Loop *loop, const EndpointsHooks *hooks)
{
	MyEndpoints = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Endpoints));
	MyEndpoints->loop = loop;
	MyEndpoints->hooks = hooks;
	dlist_init(&MyEndpoints->endpoints);
	dlist_init(&MyEndpoints->candidates);
	MyEndpoints->searching = SEARCH_NONE;
	MyEndpoints->services[0].name = "_etcd-client-ssl._tcp";
	MyEndpoints->services[0].scheme = "https";
	MyEndpoints->services[1].name = "_etcd-client._tcp";
	MyEndpoints->services[1].scheme = "http";
	MyEndpoints->discover_at = PG_INT64_MAX;
}

bool
endpoints_read(void)
{
	if (etcd_lock_discovery_srv[0] != '\0')
		read_discovery();
	else
	{
		stop_discovery();
		if (MyEndpoints->discovered != NULL)
			pfree(MyEndpoints->discovered);
		MyEndpoints->discovered = NULL;
		read_setting();
	}
	if (is_listed(MyEndpoints->current_url))
		return MyEndpoints->current_url != NULL;
	pfree(MyEndpoints->current_url);
	MyEndpoints->current_url = NULL;
	return false;
}

const char *
endpoints_current(void)
{
	if (MyEndpoints->current_url != NULL)
		return MyEndpoints->current_url;
	if (!dlist_is_empty(&MyEndpoints->endpoints))
		return dlist_head_element(Endpoint, node, &MyEndpoints->endpoints)->url;
	return MyEndpoints->discovered != NULL ? MyEndpoints->discovered : "";
}

char *
endpoints_describe(void)
{
	const Endpoint *endpoint = find_endpoint(endpoints_current());

	if (MyEndpoints->current_url == NULL || endpoint == NULL || endpoint->target.is_numeric)
		return pstrdup(endpoints_current());
	return psprintf("%s (%s)", MyEndpoints->current_url, MyEndpoints->current_address);
}

EndpointsSearch
endpoints_searching(void)
{
	return MyEndpoints->searching;
}

/* ----------------------------------------------------------------
 *		Asking
 * ----------------------------------------------------------------
 */

/* A key of ours, which our role may read. */
EtcdMessage
endpoints_probe(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true};
	char		key[KEY_LAYOUT_SIZE];

	op.range.key_len = key_layout_sentinels(key, etcd_lock_namespace);
	op.range.key = key;
	return etcd_request_range(&op);
}

/* A refusal is as good as a result, because it may be due to our token. */
bool
endpoints_probe_served(const EtcdResponse *response, bool *foreign, uint64 *raft_term,
					   char *error, size_t size)
{
	EtcdRangeResult result;
	EtcdError	etcd_error;

	*foreign = false;
	*raft_term = 0;
	if (!response->delivered)
	{
		strlcpy(error, response->error, size);
		return false;
	}
	if (!etcd_response_range(&response->reply, &result, &etcd_error))
	{
		strlcpy(error, etcd_error.message, size);
		return !etcd_error_is_unwell(&etcd_error);
	}
	*foreign = lock_shared->cluster_id != 0 &&
		result.header.cluster_id != lock_shared->cluster_id;
	if (!*foreign)
		*raft_term = result.header.raft_term;
	etcd_response_free_range(&result);
	return true;
}

/*
 * Connect, and send the request.  Returns NULL if that fails; *error says why.
 */
static Channel *
ask(const Candidate *candidate, EtcdMessage *message, long timeout_ms,
	void (*done) (void *arg, const GrpcReply *reply), void *arg, const char **error)
{
	static const ChannelCallbacks no_callbacks = {0};
	const Target *target = &candidate->endpoint->target;
	ChannelTarget to = {target->is_tls, target->host, target->port, candidate->address};
	GrpcCallbacks callbacks = {.done = done};
	GrpcRequest request = {.path = etcd_request_path(message->method),
		.token = auth_token(),.data = message->data,.len = message->len,
	.timeout = (int64) timeout_ms * 1000};
	Channel    *channel;

	if (target->is_tls && !tls_loaded())
	{
		*error = tls_load();
		if (*error != NULL)
			return NULL;
	}
	*error = "out of memory, or this libcurl was not built with OpenSSL";
	if (message->data == NULL)
		return NULL;
	channel = channel_create(MyEndpoints->loop, &to, tls_current(), timeout_ms, &no_callbacks, NULL);
	if (channel == NULL)
		return NULL;
	if (channel_call(channel, &request, &callbacks, arg) != NULL)
		return channel;
	channel_destroy(channel);
	return NULL;
}

/* ----------------------------------------------------------------
 *		The search
 * ----------------------------------------------------------------
 */

/* The search has found it: the connection over which it was asked is the link's. */
static void
take(Candidate *candidate)
{
	Channel    *channel = candidate->channel;

	Assert(candidate->serves && channel != NULL && MyEndpoints->searching != SEARCH_NONE);
	if (!channel_is_open(channel) || channel_is_closing(channel))
	{
		/* it was held back, and was closed meanwhile */
		stop_asking(candidate);
		candidate->serves = false;
		return;
	}
	candidate->channel = NULL;
	endpoints_stop_search();
	strlcpy(MyEndpoints->current_address, candidate->address, sizeof(MyEndpoints->current_address));
	if (MyEndpoints->current_url != NULL)
		pfree(MyEndpoints->current_url);
	MyEndpoints->current_url = MemoryContextStrdup(TopMemoryContext, candidate->endpoint->url);
	MyEndpoints->hooks->found(channel);
}

static bool
has_lease(void)
{
	return pg_atomic_read_u64(&lock_shared->lease) != 0 &&
		deadline_left(&lock_shared->deadline) > 0;
}

static bool
is_held_back(const Candidate *candidate)
{
	if (candidate->foreign)
		return has_lease() || !no_other(candidate);
	return MyEndpoints->searching == SEARCH_OTHER && is_current(candidate) &&
		clock_now() - MyEndpoints->search_began < GRACE && !no_other(candidate);
}

/* An endpoint of several addresses works if one of them does. */
static bool
all_have_failed(const Endpoint *endpoint)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		const Candidate *candidate = dlist_container(Candidate, node, iter.cur);

		if (candidate->endpoint == endpoint && candidate->error[0] == '\0')
			return false;
	}
	return true;
}

static void
does_not_serve(Candidate *candidate, const char *error)
{
	/* what is remembered may be only its beginning */
	bool		news = strncmp(candidate->error, error, sizeof(candidate->error) - 1) != 0;

	strlcpy(candidate->error, error, sizeof(candidate->error));
	if (all_have_failed(candidate->endpoint))
		link_status_endpoint_failed(candidate->endpoint->url, error);
	candidate->pause = candidate->pause == 0 ? FIRST_PAUSE :
		Min(2 * candidate->pause, LAST_PAUSE);
	candidate->ask_at = clock_now() + candidate->pause;
	resolve(candidate->endpoint);
	if (news)
		tell_errors();
}

/* Servers that lock in different clusters do not exclude each other. */
static void
is_foreign(Candidate *candidate)
{
	if (!candidate->said_foreign)
		ereport(WARNING,
				(errmsg("etcd_lock: endpoint \"%s\" belongs to another etcd cluster",
						describe(candidate)),
				 errhint("All endpoints must belong to the same cluster.")));
	candidate->said_foreign = true;
	strlcpy(candidate->error, "belongs to another etcd cluster",
			sizeof(candidate->error));
	tell_errors();
}

static void
search_done(void *arg, const GrpcReply *reply)
{
	Candidate  *candidate = arg;
	char		error[LINK_ENDPOINT_ERROR_SIZE];
	EtcdResponse response;
	uint64		raft_term;

	Assert(candidate->channel != NULL && !candidate->serves);
	response_set(&response, reply);
	if (!endpoints_probe_served(&response, &candidate->foreign, &raft_term, error,
								sizeof(error)))
	{
		counters_request(clock_now() - candidate->asked_at, true);
		stop_asking(candidate);
		does_not_serve(candidate, error);
		return;
	}
	counters_request(clock_now() - candidate->asked_at, false);
	candidate->serves = true;
	if (candidate->foreign)
		is_foreign(candidate);
	else
		MyEndpoints->hooks->saw_term(raft_term);
	if (!is_held_back(candidate))
		take(candidate);
}

static void
ask_candidate(Candidate *candidate)
{
	EtcdMessage message = endpoints_probe();
	const char *error;

	Assert(candidate->channel == NULL && !candidate->serves);
	candidate->asked_at = clock_now();
	candidate->channel = ask(candidate, &message, etcd_lock_request_timeout,
							 search_done, candidate, &error);
	etcd_request_free(&message);
	if (candidate->channel == NULL)
		does_not_serve(candidate, error);
}

/* Decide when a candidate is asked first; *next: when it is the next one's turn. */
static void
schedule(Candidate *candidate, int64 *next)
{
	int64		at = *next;

	if (is_current(candidate))
		at = MyEndpoints->searching == SEARCH_RETURN ? MyEndpoints->search_began :
			MyEndpoints->search_began + (MyEndpoints->searching == SEARCH_RACE ? GRACE : HEAD_START);
	else
		*next += HEAD_START;
	candidate->ask_at = at;
	candidate->pause = 0;
	candidate->serves = false;
	candidate->foreign = false;
	candidate->error[0] = '\0';
}

/*
 * A search is going on: from now on it is one for another candidate than the
 * current one.
 */
static void
search_other(const char *error)
{
	dlist_iter	iter;

	MyEndpoints->searching = SEARCH_OTHER;
	MyEndpoints->search_began = clock_now();
	discover_again();
	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		Candidate  *candidate = dlist_container(Candidate, node, iter.cur);

		if (!is_current(candidate))
			candidate->ask_at = Min(candidate->ask_at, MyEndpoints->search_began);
		else if (error != NULL)
			strlcpy(candidate->error, error, sizeof(candidate->error));
	}
}

void
endpoints_search(EndpointsSearch why, const char *error)
{
	int64		next;
	dlist_iter	iter;

	if (why == SEARCH_OTHER && MyEndpoints->searching != SEARCH_NONE)
	{
		search_other(error);
		return;
	}
	endpoints_stop_search();
	MyEndpoints->searching = why;
	MyEndpoints->search_began = clock_now();
	next = MyEndpoints->search_began + (why == SEARCH_RETURN ? RETURN_START :
										why == SEARCH_RACE ? RACE_START : 0);
	dlist_foreach(iter, &MyEndpoints->endpoints)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, node, iter.cur);

		if (endpoint->is_valid && endpoint->lookup == NULL)
			endpoint->error[0] = '\0';
		resolve(endpoint);
	}
	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		Candidate  *candidate = dlist_container(Candidate, node, iter.cur);

		schedule(candidate, &next);
		if (error != NULL && is_current(candidate))
			strlcpy(candidate->error, error, sizeof(candidate->error));
	}
	if (why == SEARCH_OTHER)
		discover_again();
}

void
endpoints_stop_search(void)
{
	dlist_iter	iter;

	MyEndpoints->searching = SEARCH_NONE;
	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		Candidate  *candidate = dlist_container(Candidate, node, iter.cur);

		stop_asking(candidate);
		candidate->serves = false;
	}
}

/*
 * Is the endpoint a name that is to be looked up again and again while a search
 * goes on?  Its addresses may all be wrong by now, and those that swallow
 * packets do not say so before the lease is over.
 */
static bool
looks_up_again(const Endpoint *endpoint)
{
	return endpoint->is_valid && !endpoint->target.is_numeric &&
		(MyEndpoints->searching != SEARCH_RETURN || count_candidates(endpoint) == 0);
}

void
endpoints_tick(void)
{
	int64		now = clock_now();
	dlist_iter	name;
	dlist_mutable_iter iter;

	if (MyEndpoints->discovered != NULL && now >= MyEndpoints->discover_at && !has_lookup())
		discover();
	if (MyEndpoints->searching == SEARCH_NONE)
		return;
	dlist_foreach(name, &MyEndpoints->endpoints)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, node, name.cur);

		if (looks_up_again(endpoint))
			resolve(endpoint);
	}
	dlist_foreach_modify(iter, &MyEndpoints->candidates)
	{
		Candidate  *candidate = dlist_container(Candidate, node, iter.cur);

		if (candidate->serves && candidate->channel != NULL && !is_held_back(candidate))
		{
			take(candidate);
			return;
		}
		if (!candidate->serves && candidate->channel == NULL && now >= candidate->ask_at)
			ask_candidate(candidate);
	}
}

int64
endpoints_time(void)
{
	int64		next = MyEndpoints->discover_at;
	dlist_iter	iter;

	if (MyEndpoints->searching == SEARCH_NONE)
		return next;
	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		const Candidate *candidate = dlist_container(Candidate, node, iter.cur);

		if (candidate->serves)
			next = Min(next, Max(MyEndpoints->search_began + GRACE, clock_now() + FIRST_PAUSE));
		else if (candidate->channel == NULL)
			next = Min(next, candidate->ask_at);
	}
	dlist_foreach(iter, &MyEndpoints->endpoints)
	{
		const Endpoint *endpoint = dlist_container(Endpoint, node, iter.cur);

		if (looks_up_again(endpoint) && endpoint->lookup == NULL)
			next = Min(next, endpoint->looked_up_at + LOOKUP_PAUSE);
	}
	return next;
}

/* ----------------------------------------------------------------
 *		Others than the current one
 * ----------------------------------------------------------------
 */

static void
asked_done(void *arg, const GrpcReply *reply)
{
	Asked	   *ask_of = arg;
	EndpointsAsked done = ask_of->done;
	void	   *done_arg = ask_of->arg;
	EtcdResponse response;

	response_set(&response, reply);
	done(done_arg, &response);
	channel_destroy(ask_of->channel);
	pfree(ask_of);
}

bool
endpoints_ask(const char *url, EtcdMessage *message, long timeout_ms,
			  EndpointsAsked done, void *arg)
{
	Endpoint   *endpoint = find_endpoint(url);
	dlist_iter	iter;

	if (endpoint == NULL)
		return false;
	resolve(endpoint);
	dlist_foreach(iter, &MyEndpoints->candidates)
	{
		Candidate  *candidate = dlist_container(Candidate, node, iter.cur);
		const char *error;
		Asked	   *ask_of;

		if (candidate->endpoint != endpoint)
			continue;
		ask_of = MemoryContextAllocZero(TopMemoryContext, sizeof(Asked));
		ask_of->done = done;
		ask_of->arg = arg;
		ask_of->channel = ask(candidate, message, timeout_ms, asked_done, ask_of, &error);
		if (ask_of->channel != NULL)
			return true;
		pfree(ask_of);
		return false;
	}
	return false;
}
