/*-------------------------------------------------------------------------
 *
 * link.c
 *	  The worker's link to etcd: which endpoint, and how it does.
 *
 * All requests go to one endpoint, the current one.  When it fails (no
 * connection, no answer in time, no leader), another one is searched for
 * (endpoints.c), and requests that are under way are given up: those who asked
 * know what to do when an answer is missing, and need not wait for it.  Of a
 * single endpoint nothing is given up; it is asked again after a pause, so that
 * an etcd that is down is not hammered.  A change of state is logged once.
 *
 * While we are not logged in to an etcd that wants us to be (auth.c), requests
 * are put aside, and so are those that etcd has refused because of their token:
 * they are sent when there is a new one, and who asked need not know.
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "auth.h"
#include "endpoints.h"
#include "health.h"
#include "stats.h"
#include "tls.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Pause after a failure, microseconds: doubled from first to last. */
#define FIRST_PAUSE		INT64CONST(100000)
#define LAST_PAUSE		INT64CONST(1000000)

/*
 * When a request has had no answer for so long, microseconds, the endpoint is
 * asked whether it serves at all, and again while that goes on.
 */
#define SLOW			INT64CONST(500000)

static uint64 generation = 0;	/* changes with the current endpoint */
static int	unreached = 0;		/* how often in a row there was no connection */
static int64 backoff = 0;
static int64 not_before = 0;	/* clock_now() */
static bool up = false;
static bool said_down = false;
static bool said_up = false;

static uint64 answering = 0;	/* generation of the request whose answer is
								 * being looked at */
static bool said_bad = false;	/* link_bad_answer() was called for it */

/* One request, and what its sender wants to hear. */
struct LinkCall
{
	dlist_node	node;
	EtcdRequest *request;		/* NULL: put aside */
	EtcdCallbacks callbacks;
	void	   *arg;
	uint64		generation;
	int64		sent_at;		/* clock_now() */

	/* To send it again with another token. */
	const char *path;
	char	   *body;			/* malloc'ed; NULL: it cannot be sent again */
	uint64		token;			/* number of the one it was sent with */
	uint64		raft_term;		/* highest seen when it was sent */
	int64		give_up_at;		/* clock_now() */
};

static dlist_head calls = DLIST_STATIC_INIT(calls);	/* under way, oldest first */
static dlist_head streams = DLIST_STATIC_INIT(streams);	/* likewise */
static dlist_head aside = DLIST_STATIC_INIT(aside);	/* put aside */
static int64 slow_at = 0;		/* clock_now(): not to ask before */
static uint64 raft_term = 0;	/* highest seen */

static void
publish(const char *error)
{
	LWLockAcquire(lock_shared->status_lock, LW_EXCLUSIVE);
	lock_shared->status.up = up;
	strlcpy(lock_shared->status.endpoint, link_endpoint(),
			sizeof(lock_shared->status.endpoint));
	if (error != NULL)
	{
		strlcpy(lock_shared->status.last_error, error,
				sizeof(lock_shared->status.last_error));
		lock_shared->status.last_error_at = GetCurrentTimestamp();
	}
	LWLockRelease(lock_shared->status_lock);
	pg_atomic_write_u32(&lock_shared->link_up, up ? 1 : 0);
}

/*
 * Certificates that cannot be used are told of at once, whether they are
 * needed or not.
 */
static void
load_tls(void)
{
	char	   *error = tls_load();

	if (error == NULL)
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 tls_loaded() ? errmsg("etcd_lock: certificates were not reloaded: %s", error) :
			 errmsg("etcd_lock: no certificates: %s", error)));
	link_note_error(error);
}

/*
 * What was asked of an endpoint that has failed ends without an answer, with
 * the next run of the transport.
 */
static void
abort_all(dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		LinkCall   *call = dlist_container(LinkCall, node, iter.cur);

		etcd_transport_abort(call->request, "given up: the endpoint has failed or is no longer in use");
	}
}

/* The settings were read: where to begin. */
static void
begin(void)
{
	said_down = false;			/* say what is wrong with the new settings */
	publish(NULL);
	load_tls();
	auth_reload();
}

void
link_init(void)
{
	(void) endpoints_read();
	begin();
	if (endpoints_count() > 1)
		endpoints_search(NULL);
}

/* The endpoint in use stays so when the new list has it too. */
void
link_reload(void)
{
	bool		searching = endpoints_searching() || !up;

	if (!endpoints_read())
	{
		up = false;
		generation++;
		abort_all(&calls);
		backoff = 0;
		not_before = 0;
		searching = true;
	}
	begin();
	if (searching && endpoints_count() > 1)
		endpoints_search(NULL);
}

const char *
link_endpoint(void)
{
	return endpoints_current();
}

uint64
link_generation(void)
{
	return generation;
}

/* May the current endpoint be asked for anything? */
bool
link_open(void)
{
	return !endpoints_searching() && clock_now() >= not_before;
}

/*
 * May a request be sent now?  Else from link_next_time() on, or when somebody
 * is told of the end of the wait.
 */
bool
link_ready(void)
{
	return link_open() && auth_ready();
}

int64
link_next_time(void)
{
	return auth_ready() && !endpoints_searching() ? not_before : PG_INT64_MAX;
}

static void
succeeded(void)
{
	backoff = 0;
	unreached = 0;
	not_before = 0;
	if (up)
		return;
	up = true;
	publish(NULL);
	health_worked(link_endpoint());
}

/*
 * The lease is granted or kept alive.  Only this tells that the link is of use:
 * something else that listens there may answer, too, and be left again, many
 * times a second.
 */
void
link_proven(void)
{
	static char proven[256];

	if (answering != generation ||
		(said_up && strcmp(proven, link_endpoint()) == 0))
		return;
	strlcpy(proven, link_endpoint(), sizeof(proven));
	said_up = true;
	said_down = false;
	ereport(LOG,
			(errmsg("etcd_lock: connected to etcd at \"%s\"", link_endpoint())));
}

static void
failed(uint64 of_generation, const char *error)
{
	/* An answer from an endpoint that was left already says nothing. */
	if (of_generation != generation)
		return;

	up = false;
	publish(error);
	health_failed(link_endpoint(), error);
	if (!said_down)
	{
		said_down = true;
		said_up = false;
		ereport(WARNING,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("etcd_lock: no link to etcd at \"%s\": %s",
						link_endpoint(), error)));
	}

	generation++;

	/*
	 * Watches are not kept even if they are still open: an etcd 3.5 that is
	 * being stopped at times waits 7 s for them to end, and takes no requests
	 * then.
	 */
	abort_all(&streams);
	if (endpoints_count() > 1)
	{
		abort_all(&calls);
		endpoints_search(error);
	}
	else
	{
		backoff = backoff == 0 ? FIRST_PAUSE : Min(2 * backoff, LAST_PAUSE);
		not_before = clock_now() + backoff;
	}
}

/* What is wrong with the endpoints, one after the other. */
void
link_search_errors(const char *errors, bool all)
{
	publish(errors);
	if (!all || said_down)
		return;
	said_down = true;
	said_up = false;
	ereport(WARNING,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("etcd_lock: no link to etcd at \"%s\": %s",
					link_endpoint(), errors)));
}

/* The search has an end: this endpoint serves. */
void
link_found(bool changed)
{
	if (changed)
	{
		up = false;
		generation++;
		abort_all(&calls);
	}
	backoff = 0;
	not_before = 0;
	succeeded();
}

/* The endpoint answers neither what we want of it nor whether it is well. */
void
link_hangs(const char *error)
{
	failed(generation, error);
}

/*
 * The answer that is being looked at is not one that etcd would send, or says
 * that this member cannot serve.  Called by "done" callbacks.
 */
void
link_bad_answer(const char *error)
{
	said_bad = true;
	failed(answering, error);
}

/* For people to see; the link as such is well. */
void
link_note_error(const char *error)
{
	publish(error);
}

/* Etcd answers, but it will not do anything for us. */
void
link_not_logged_in(const char *error)
{
	up = false;
	publish(error);
}

/* ----------------------------------------------------------------
 *		Requests
 * ----------------------------------------------------------------
 */

static void
free_call(LinkCall *call)
{
	dlist_delete(&call->node);
	free(call->body);
	pfree(call);
}

static void
call_data(void *arg, const char *data, size_t len)
{
	LinkCall   *call = arg;

	call->callbacks.data(call->arg, data, len);
}

/*
 * What an answer tells about the endpoint, and about the token.  True: the
 * request was refused for its token.
 */
static bool
judge_answer(const LinkCall *call, const EtcdAnswer *answer)
{
	bool		needs_token = strncmp(call->path, "/v3/kv/", 7) == 0;
	EtcdHeader	header;
	EtcdError	error;

	stats_request(clock_now() - call->sent_at,
				  !answer->delivered || answer->http_status != 200);
	if (answer->too_long)
		return false;			/* that is the asker's business */
	if (!answer->delivered)
	{
		/* Addresses are kept for good, unless they turn out to be of no use. */
		if (!answer->ambiguous && call->generation == generation &&
			++unreached > FORGET_ADDRESS_AFTER)
			etcd_transport_forget_address(worker_transport, link_endpoint());
		failed(call->generation, answer->error);
		return false;
	}
	if (answer->http_status == 200)
	{
		if (needs_token)
			auth_token_worked(call->token);
		return false;
	}

	/* Servers that are no etcd may send back what they were sent. */
	auth_censor(unconstify(char *, answer->body), answer->len);
	if (etcd_decode_header(answer->body, answer->len, answer->http_status,
						   &header, &error))
		return false;
	if (error.code == ETCD_BAD_ANSWER || error.code == ETCD_UNAVAILABLE ||
		error.code == ETCD_DEADLINE_EXCEEDED)
	{
		failed(call->generation, error.message);
		return false;
	}
	if (!auth_is_refusal(&error))
	{
		if (needs_token)
			auth_token_worked(call->token);
		return false;
	}
	auth_token_refused(call->token);
	return true;
}

static void
put_aside(LinkCall *call)
{
	call->request = NULL;
	dlist_push_tail(&aside, &call->node);
}

static void
call_done(void *arg, const EtcdAnswer *answer)
{
	LinkCall   *call = arg;
	EtcdCallbacks callbacks = call->callbacks;
	void	   *callback_arg = call->arg;
	uint64		of_generation = call->generation;
	bool		good = callbacks.data == NULL && answer->delivered &&
		answer->http_status == 200;

	/*
	 * The end of a watch says little about the endpoint; the requests that
	 * follow it will tell.
	 */
	if (callbacks.data == NULL && judge_answer(call, answer) &&
		call->body != NULL && clock_now() < call->give_up_at)
	{
		dlist_delete(&call->node);
		put_aside(call);
		return;
	}
	free_call(call);
	answering = of_generation;
	said_bad = false;
	callbacks.done(callback_arg, answer);

	/* unless whoever has read it says that it was no answer of etcd's */
	if (good && !said_bad && of_generation == generation)
		succeeded();
}

/*
 * May the current endpoint be spoken to?  Without certificates, when those that
 * were asked for cannot be used, not by https; then they are read anew each
 * time, as they may come later than we do.
 */
static bool
has_certificates(void)
{
	char	   *error;

	if (tls_loaded() || strncmp(link_endpoint(), "https://", 8) != 0)
		return true;
	error = tls_load();
	if (error != NULL)
		failed(generation, error);
	return error == NULL;
}

/* Send it to the current endpoint; the body is taken over. */
static bool
send_call(LinkCall *call, char *body)
{
	EtcdCallbacks own = call->callbacks;
	int64		now = clock_now();

	own.data = call->callbacks.data != NULL ? call_data : NULL;
	own.done = call_done;

	if (!has_certificates())
	{
		free(body);
		return false;
	}
	call->generation = generation;
	call->token = auth_token_number();
	call->raft_term = raft_term;
	call->sent_at = now;
	call->request = etcd_transport_post(worker_transport, link_endpoint(),
										call->path, body,
										(long) ((call->give_up_at - now) / 1000),
										&own, call);
	if (call->request == NULL)
	{
		failed(generation, "not a URL, or out of memory");
		return false;
	}
	dlist_push_tail(call->callbacks.data != NULL ? &streams : &calls, &call->node);
	return true;
}

/*
 * Send a request; its body is taken over.  NULL when it could not be sent; then
 * nothing will be called.
 */
LinkCall *
link_call(const char *path, char *body, long timeout_ms,
		  const EtcdCallbacks *callbacks, void *arg)
{
	LinkCall   *call = MemoryContextAllocZero(TopMemoryContext, sizeof(LinkCall));
	bool		is_login = callbacks->secret;

	call->callbacks = *callbacks;
	call->arg = arg;
	call->path = path;
	call->give_up_at = clock_now() + (int64) timeout_ms * 1000;
	if (auth_configured() && !is_login && callbacks->data == NULL && body != NULL)
		call->body = strdup(body);

	if ((auth_ready() || is_login) && !endpoints_searching())
	{
		if (send_call(call, body))
			return call;
	}
	else if (callbacks->data == NULL && !is_login && body != NULL)
	{
		free(call->body);
		call->body = body;
		put_aside(call);
		return call;
	}
	else
	{
		if (body != NULL && is_login)
			explicit_bzero(body, strlen(body));
		free(body);
	}
	free(call->body);
	pfree(call);
	return NULL;
}

/* Drop a request that is under way; its callbacks will not be called. */
void
link_cancel(LinkCall *call)
{
	if (call->request != NULL)
		etcd_transport_cancel(call->request);
	free_call(call);
}

/*
 * Etcd has cancelled a watch.  Whether that was for its token is said within an
 * answer of status 200.
 */
void
link_watch_refused(const LinkCall *call, const char *reason)
{
	EtcdError	error = {.code = ETCD_UNKNOWN};

	strlcpy(error.message, reason, sizeof(error.message));
	if (auth_is_refusal(&error))
		auth_token_refused(call->token);
}

/* One that was put aside ends, surely without having been carried out. */
static void
give_up(LinkCall *call)
{
	EtcdAnswer	answer = {.error = "there is no link to etcd"};
	EtcdCallbacks callbacks = call->callbacks;
	void	   *arg = call->arg;

	free_call(call);
	answering = 0;
	callbacks.done(arg, &answer);
}

/* Send again what was put aside; a callback may change the list. */
static void
send_aside(void)
{
	while (!dlist_is_empty(&aside) && link_ready())
	{
		LinkCall   *call = dlist_head_element(LinkCall, node, &aside);
		char	   *body = strdup(call->body);

		dlist_delete(&call->node);
		if (body == NULL || !send_call(call, body))
		{
			dlist_push_tail(&aside, &call->node);
			give_up(call);
		}
	}
}

static LinkCall *
find_overdue(void)
{
	int64		now = clock_now();
	dlist_iter	iter;

	dlist_foreach(iter, &aside)
	{
		LinkCall   *call = dlist_container(LinkCall, node, iter.cur);

		if (now >= call->give_up_at)
			return call;
	}
	return NULL;
}

void
link_saw_term(uint64 term)
{
	raft_term = Max(raft_term, term);
}

/*
 * What was on its way to a leader that is no more may be lost, and then etcd
 * answers only when its own patience ends.
 */
static bool
may_be_lost(const LinkCall *call)
{
	return call->raft_term != 0 && call->raft_term < raft_term;
}

/*
 * A request that takes long: it may have been lost, or the endpoint may not
 * serve at all, and then there is no need to wait for the end of its time when
 * there are others.
 */
static void
watch_slow_calls(void)
{
	int64		now;
	dlist_iter	iter;

	if (dlist_is_empty(&calls))
		return;
	now = clock_now();
	dlist_foreach(iter, &calls)
	{
		LinkCall   *call = dlist_container(LinkCall, node, iter.cur);

		if (now - call->sent_at < SLOW)
			break;
		if (may_be_lost(call))
			etcd_transport_abort(call->request, "given up: etcd has changed its leader");
		else if (endpoints_count() > 1 && now >= slow_at)
		{
			slow_at = now + SLOW;
			endpoints_ask_current();
		}
	}
}

static int64
slow_time(void)
{
	const LinkCall *call;

	if (dlist_is_empty(&calls))
		return PG_INT64_MAX;
	call = dlist_head_element(LinkCall, node, &calls);
	if (may_be_lost(call))
		return call->sent_at + SLOW;
	return endpoints_count() < 2 ? PG_INT64_MAX : Max(slow_at, call->sent_at + SLOW);
}

void
link_tick(void)
{
	LinkCall   *call;

	watch_slow_calls();
	endpoints_tick();
	auth_tick();
	while ((call = find_overdue()) != NULL)
		give_up(call);
	send_aside();
}

int64
link_tick_time(void)
{
	int64		next = Max(auth_next_time(), not_before);
	dlist_iter	iter;

	if (endpoints_searching())
		next = endpoints_time();
	next = Min(next, slow_time());

	dlist_foreach(iter, &aside)
		next = Min(next, dlist_container(LinkCall, node, iter.cur)->give_up_at);
	return next;
}
