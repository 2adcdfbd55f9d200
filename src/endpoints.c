/*-------------------------------------------------------------------------
 *
 * endpoints.c
 *	  The list of endpoints, and the search for one that serves.
 *
 * Among endpoints some may be down, some may accept connections and never
 * answer, some may have no leader, and the names of some may take long to
 * resolve.  So all are asked at the same time, each again and again, and the
 * first one that answers is taken.  What is asked is a linearizable read: only
 * a member that a majority listens to can answer it, which a leader that was
 * cut off and does not know it yet cannot.
 *
 * Two answers are held back until the others had their chance: that of the
 * endpoint that has just failed, and that of one that belongs to another
 * cluster, where none of our locks is: it is not taken while our lease lives.
 *
 *-------------------------------------------------------------------------
 */
#include "endpoints.h"

#include "health.h"
#include "lib/stringinfo.h"
#include "tls.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

/* Pause before an endpoint is asked again, microseconds. */
#define FIRST_PAUSE		INT64CONST(100000)
#define LAST_PAUSE		INT64CONST(1000000)

/* Head start over the next one in the list. */
#define HEAD_START		INT64CONST(10000)

/* How long the one that has failed must wait for the others. */
#define GRACE			INT64CONST(300000)

/* For the current one to show that it serves, milliseconds. */
#define ASK_TIMEOUT		1000

typedef struct Endpoint
{
	char	   *url;
	EtcdRequest *request;		/* under way */
	int64		ask_at;			/* clock_now() */
	int64		pause;
	bool		serves;			/* but is held back */
	bool		foreign;		/* of another cluster */
	bool		said_foreign;
	int			unreached;		/* how often in a row */
	char		error[LOCK_FAILURE_SIZE];	/* of this search */
} Endpoint;

static Endpoint *endpoints = NULL;
static int	nendpoints = 0;
static Endpoint *current = NULL;

static bool searching = false;
static int64 search_began = 0;
static Endpoint *failed = NULL;	/* that the search is there to replace */
static EtcdRequest *asked_current = NULL;

/* ----------------------------------------------------------------
 *		The list
 * ----------------------------------------------------------------
 */

static void
stop_asking(void)
{
	for (int i = 0; i < nendpoints; i++)
	{
		if (endpoints[i].request != NULL)
			etcd_transport_cancel(endpoints[i].request);
		endpoints[i].request = NULL;
	}
	if (asked_current != NULL)
		etcd_transport_cancel(asked_current);
	asked_current = NULL;
}

static void
free_list(void)
{
	stop_asking();
	searching = false;
	failed = NULL;
	for (int i = 0; i < nendpoints; i++)
		pfree(endpoints[i].url);
	if (endpoints != NULL)
		pfree(endpoints);
	endpoints = NULL;
	nendpoints = 0;
}

static void
read_list(void)
{
	char	   *copy = pstrdup(etcd_lock_endpoints);
	List	   *names = NIL;
	ListCell   *cell;
	char	  **urls;

	if (!SplitGUCList(copy, ',', &names) || names == NIL)
	{
		ereport(LOG,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list syntax in parameter \"%s\"",
						"etcd_lock.endpoints")));
		names = list_make1("");
	}
	endpoints = MemoryContextAllocZero(TopMemoryContext,
									   list_length(names) * sizeof(Endpoint));
	urls = palloc(list_length(names) * sizeof(char *));
	foreach(cell, names)
	{
		char	   *url = MemoryContextStrdup(TopMemoryContext, lfirst(cell));
		size_t		len = strlen(url);

		while (len > 0 && url[len - 1] == '/')
			url[--len] = '\0';
		urls[nendpoints] = url;
		endpoints[nendpoints++].url = url;
	}
	list_free(names);
	pfree(copy);
	health_set_endpoints(urls, nendpoints);
	pfree(urls);
}

bool
endpoints_read(void)
{
	char	   *old = pstrdup(current != NULL ? current->url : "");
	bool		found = false;

	free_list();
	read_list();
	current = &endpoints[0];
	for (int i = 0; i < nendpoints && !found; i++)
	{
		found = strcmp(endpoints[i].url, old) == 0;
		if (found)
			current = &endpoints[i];
	}
	pfree(old);
	return found;
}

int
endpoints_count(void)
{
	return nendpoints;
}

const char *
endpoints_current(void)
{
	return current->url;
}

bool
endpoints_searching(void)
{
	return searching;
}

/* ----------------------------------------------------------------
 *		Asking
 * ----------------------------------------------------------------
 */

/*
 * Does the answer show that the member serves?  A refusal is as good as a
 * result: it may come of our token.
 */
static bool
shows_service(const EtcdAnswer *answer, bool *foreign, char *error, size_t size)
{
	EtcdRangeResult result;
	EtcdError	etcd_error;

	*foreign = false;
	if (!answer->delivered)
	{
		strlcpy(error, answer->error, size);
		return false;
	}
	if (!etcd_decode_range(answer->body, answer->len, answer->http_status,
						   &result, &etcd_error))
	{
		strlcpy(error, etcd_error.message, size);
		return etcd_error.code != ETCD_BAD_ANSWER &&
			etcd_error.code != ETCD_UNAVAILABLE &&
			etcd_error.code != ETCD_UNKNOWN &&
			etcd_error.code != ETCD_DEADLINE_EXCEEDED;
	}
	*foreign = lock_shared->cluster_id != 0 &&
		result.header.cluster_id != lock_shared->cluster_id;
	if (!*foreign)
		link_saw_term(result.header.raft_term);
	etcd_range_result_free(&result);
	return true;
}

/* A key of ours, which our role may read. */
static EtcdRequest *
ask(const Endpoint *endpoint, long timeout_ms,
	void (*done) (void *arg, const EtcdAnswer *answer), void *arg)
{
	EtcdCallbacks callbacks = {.done = done};
	EtcdOp		op = {.type = ETCD_OP_RANGE, .keys_only = true};
	char	   *key = psprintf("%s%sserver/", etcd_lock_namespace, ETCD_LOCK_RESERVED);
	char	   *body;

	op.range.key = key;
	op.range.key_len = strlen(key);
	body = etcd_encode_range(&op);
	pfree(key);
	return body == NULL ? NULL :
		etcd_transport_post(worker_transport, endpoint->url, ETCD_PATH_RANGE,
							body, timeout_ms, &callbacks, arg);
}

/* ----------------------------------------------------------------
 *		The search
 * ----------------------------------------------------------------
 */

static void
take(Endpoint *endpoint)
{
	bool		changed = endpoint != current;

	stop_asking();
	searching = false;
	failed = NULL;
	current = endpoint;
	link_found(changed);
}

/* Has every other endpoint had its chance? */
static bool
no_other(const Endpoint *endpoint)
{
	for (int i = 0; i < nendpoints; i++)
	{
		if (&endpoints[i] != endpoint && endpoints[i].error[0] == '\0')
			return false;
	}
	return true;
}

static bool
is_held_back(const Endpoint *endpoint)
{
	if (endpoint->foreign)
		return lease_alive() || !no_other(endpoint);
	return endpoint == failed && clock_now() - search_began < GRACE &&
		!no_other(endpoint);
}

/* Tell what is wrong with each of them, the current one first. */
static void
tell_errors(void)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, current->error);
	for (int i = 0; i < nendpoints; i++)
	{
		if (&endpoints[i] != current && endpoints[i].error[0] != '\0')
			appendStringInfo(&text, "%s%s: %s", text.len > 0 ? "; " : "",
							 endpoints[i].url, endpoints[i].error);
	}
	link_search_errors(text.data, no_other(NULL));
	pfree(text.data);
}

static void
does_not_serve(Endpoint *endpoint, const char *error)
{
	bool		news = strcmp(endpoint->error, error) != 0;

	strlcpy(endpoint->error, error, sizeof(endpoint->error));
	health_failed(endpoint->url, error);
	endpoint->pause = endpoint->pause == 0 ? FIRST_PAUSE :
		Min(2 * endpoint->pause, LAST_PAUSE);
	endpoint->ask_at = clock_now() + endpoint->pause;
	if (news)
		tell_errors();
}

/* Servers that lock in different clusters do not exclude each other. */
static void
is_foreign(Endpoint *endpoint)
{
	if (!endpoint->said_foreign)
		ereport(WARNING,
				(errmsg("etcd_lock: endpoint \"%s\" belongs to another etcd cluster",
						endpoint->url),
				 errhint("All endpoints must belong to the same cluster.")));
	endpoint->said_foreign = true;
	strlcpy(endpoint->error, "belongs to another etcd cluster",
			sizeof(endpoint->error));
	tell_errors();
}

static void
search_done(void *arg, const EtcdAnswer *answer)
{
	Endpoint   *endpoint = arg;
	char		error[LOCK_FAILURE_SIZE];

	endpoint->request = NULL;

	/* Addresses are kept for good, unless they turn out to be of no use. */
	endpoint->unreached = answer->delivered || answer->ambiguous ? 0 :
		endpoint->unreached + 1;
	if (endpoint->unreached > FORGET_ADDRESS_AFTER)
		etcd_transport_forget_address(worker_transport, endpoint->url);

	if (!shows_service(answer, &endpoint->foreign, error, sizeof(error)))
	{
		does_not_serve(endpoint, error);
		return;
	}
	endpoint->serves = true;
	if (endpoint->foreign)
		is_foreign(endpoint);
	if (!is_held_back(endpoint))
		take(endpoint);
}

static void
ask_endpoint(Endpoint *endpoint)
{
	char	   *error = NULL;

	if (!tls_loaded() && strncmp(endpoint->url, "https://", 8) == 0)
		error = tls_load();
	if (error == NULL)
		endpoint->request = ask(endpoint, etcd_lock_request_timeout, search_done,
								endpoint);
	if (endpoint->request == NULL)
		does_not_serve(endpoint, error != NULL ? error : "not a URL, or out of memory");
}

void
endpoints_search(const char *error)
{
	int			first = current - endpoints + (error != NULL ? 1 : 0);

	stop_asking();
	searching = true;
	search_began = clock_now();
	failed = error != NULL ? current : NULL;
	for (int i = 0; i < nendpoints; i++)
	{
		Endpoint   *endpoint = &endpoints[(first + i) % nendpoints];

		endpoint->ask_at = search_began + i * HEAD_START;
		endpoint->pause = 0;
		endpoint->serves = false;
		endpoint->foreign = false;
		endpoint->error[0] = '\0';
	}
	if (error != NULL)
		strlcpy(current->error, error, sizeof(current->error));
}

void
endpoints_tick(void)
{
	int64		now = clock_now();

	if (!searching)
		return;
	for (int i = 0; i < nendpoints; i++)
	{
		Endpoint   *endpoint = &endpoints[i];

		if (endpoint->serves && !is_held_back(endpoint))
		{
			take(endpoint);
			return;
		}
		if (!endpoint->serves && endpoint->request == NULL && now >= endpoint->ask_at)
			ask_endpoint(endpoint);
	}
}

int64
endpoints_time(void)
{
	int64		next = PG_INT64_MAX;

	if (!searching)
		return next;
	for (int i = 0; i < nendpoints; i++)
	{
		const Endpoint *endpoint = &endpoints[i];

		if (endpoint->serves)
			next = Min(next, Max(search_began + GRACE, clock_now() + FIRST_PAUSE));
		else if (endpoint->request == NULL)
			next = Min(next, endpoint->ask_at);
	}
	return next;
}

/* ----------------------------------------------------------------
 *		The current one
 * ----------------------------------------------------------------
 */

static void
current_done(void *arg, const EtcdAnswer *answer)
{
	char		error[LOCK_FAILURE_SIZE];
	bool		foreign;

	asked_current = NULL;
	if (!shows_service(answer, &foreign, error, sizeof(error)))
		link_hangs(error);
}

void
endpoints_ask_current(void)
{
	if (searching || asked_current != NULL)
		return;
	asked_current = ask(current, ASK_TIMEOUT, current_done, NULL);
}
