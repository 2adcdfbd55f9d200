/*-------------------------------------------------------------------------
 *
 * link.c
 *	  The worker's link to etcd: requests to the address in use, and its state.
 *
 * All requests go over one connection, to the address that endpoints.c has
 * found to serve.  There are three reasons to search for another one:
 *
 *	- The connection was closed.  That may be anybody's idle timeout, so the same
 *	  address is tried first, and nothing is said unless it fails.
 *	- A request about the lease got no response, or one that says that the member
 *	  cannot serve.  The link is down until some address serves.
 *	- A request about locks takes long.  Then the current member is asked whether
 *	  it serves at all, and shortly after that all others, too.  The first one to
 *	  respond is taken, so an address is abandoned only for a better one.
 *
 * Requests in flight on an abandoned address complete without a response;
 * callers must handle that (README.md, rule 15).  Those that etcd has
 * certainly not applied are sent again, and so are those that it has refused
 * because of their token (auth.c); their callers do not notice.  Nothing else
 * is sent twice.
 *
 * While there is no link, or no token, requests wait here.  A change of state is
 * logged once.
 *
 * All of this is the worker's own memory; only what views show is shared
 * (link_status.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/auth.h"
#include "client/endpoints.h"
#include "client/etcd_client.h"
#include "client/link.h"
#include "client/response.h"
#include "client/tls.h"
#include "etcd/etcd_error.h"
#include "lib/ilist.h"
#include "net/channel.h"
#include "shared/clock.h"
#include "shared/counters.h"
#include "shared/link_status.h"
#include "shared/settings.h"
#include "utils/memutils.h"

/*
 * When a request has had no response for this time (microseconds), we ask the
 * member whether it serves at all, and again as long as there is no response.
 */
#define SLOW			INT64CONST(500000)

/* Side requests in flight at a time. */
#define MAX_SIDE		4

/* How often a request that was not processed is sent again. */
#define MAX_RESENDS		3

/* After a request that could not be handed to the connection; microseconds. */
#define SEND_PAUSE		INT64CONST(10000)

/* A request: in flight if it has a channel, else waiting. */
struct LinkCall
{
	dlist_node	node;
	LinkClass	class;
	EtcdMessage message;
	LinkCallbacks callbacks;
	void	   *arg;
	int64		give_up_at;		/* clock_now() */
	int			resends;
	bool		was_denied;		/* see check_token() */

	/* while it is in flight */
	Channel    *channel;
	GrpcCall   *call;
	uint64		generation;
	uint64		token;			/* number of the one it was sent with */
	uint64		raft_term;		/* highest seen when it was sent */
	int64		sent_at;		/* clock_now() */
};

struct LinkStream
{
	dlist_node	node;
	Channel    *channel;
	GrpcCall   *call;
	LinkStreamCallbacks callbacks;
	void	   *arg;
	uint64		token;
};

struct Link
{
	Loop	   *loop;
	Channel    *channel;		/* the one in use */
	uint64		generation;		/* changes with it */
	bool		up;				/* requests get responses, as far as we know */
	bool		said_down;		/* "no link" was logged */
	bool		replacing;		/* a search goes on although nothing is wrong
								 * with the connection */
	char	   *proven;			/* for which "connected" was logged; palloc'd */

	dlist_head	calls;			/* in flight, oldest first */
	dlist_head	aside;			/* waiting to be sent */
	int64		send_after;		/* clock_now(); SEND_PAUSE */
	dlist_head	streams;
	int			nside;			/* side requests in flight */

	int64		probe_at;		/* clock_now(): do not suspect before */
	LinkCall   *probe;			/* the current member is being asked */
	LinkCall   *login;
	LinkCall   *token_check;	/* see may_be_the_token() */
	bool		token_doubted;	/* it is to be checked */
	uint64		raft_term;		/* highest seen */
};

#define MyLink (MyClient->link)

static const char given_up[] =
"given up: the endpoint has failed or is no longer in use";

/* ----------------------------------------------------------------
 *		State
 * ----------------------------------------------------------------
 */

static void
publish(const char *error)
{
	link_status_set_link(MyLink->up, link_endpoint(), error);
}

void
link_note_error(const char *error)
{
	publish(error);
}

const char *
link_endpoint(void)
{
	return endpoints_current();
}

uint64
link_generation(void)
{
	return MyLink->generation;
}

/* May requests be sent to the current member? */
static bool
is_open(void)
{
	return MyLink->channel != NULL && !channel_is_closing(MyLink->channel) &&
		endpoints_searching() != SEARCH_OTHER;
}

bool
link_ready(void)
{
	return is_open() && auth_ready();
}

bool
link_is_anonymous(void)
{
	/* a connection that is renewed may still have the former certificate */
	return !auth_configured() && etcd_lock_cert[0] == '\0' && !MyLink->replacing;
}

int64
link_next_time(void)
{
	return link_ready() ? 0 : PG_INT64_MAX;
}

static void
forget_proven(void)
{
	if (MyLink->proven != NULL)
		pfree(MyLink->proven);
	MyLink->proven = NULL;
}

static void
say_down(const char *error)
{
	if (MyLink->said_down)
		return;
	MyLink->said_down = true;
	forget_proven();
	ereport(WARNING,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("etcd_lock: no link to etcd at \"%s\": %s",
					link_endpoint(), error)));
}

/* Is this response from the connection in use? */
static bool
is_current(const EtcdResponse *response)
{
	const LinkCall *call = response->origin;

	return call != NULL && call->generation == MyLink->generation;
}

/*
 * Only this proves that the link works, because servers other than etcd
 * respond, too.
 */
void
link_proven(const EtcdResponse *response)
{
	char	   *endpoint;

	if (!is_current(response))
		return;
	endpoint = endpoints_describe();
	if (MyLink->proven == NULL || strcmp(MyLink->proven, endpoint) != 0)
	{
		forget_proven();
		MyLink->proven = MemoryContextStrdup(TopMemoryContext, endpoint);
		MyLink->said_down = false;
		ereport(LOG,
				(errmsg("etcd_lock: connected to etcd at \"%s\"", endpoint)));
	}
	pfree(endpoint);
}

static void
abort_streams(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyLink->streams)
	{
		LinkStream *stream = dlist_container(LinkStream, node, iter.cur);

		channel_abort(stream->channel, stream->call, given_up);
	}
}

/*
 * The current member cannot serve: search for one that can.  Watches are
 * closed even if they still work: an etcd 3.5 that is stopping sometimes waits
 * 7 s for them to end, and accepts no requests meanwhile.
 */
static void
failed(const char *error)
{
	MyLink->up = false;
	MyLink->replacing = false;
	publish(error);
	link_status_endpoint_failed(link_endpoint(), error);
	say_down(error);
	abort_streams();
	if (endpoints_searching() != SEARCH_OTHER)
		endpoints_search(SEARCH_OTHER, error);
}

/*
 * The connection is no longer used.  Its requests end now, or complete
 * normally if nothing is wrong with it.
 */
static void
leave_channel(bool abort)
{
	if (MyLink->channel == NULL)
		return;
	MyLink->generation++;
	abort_streams();
	if (abort)
		channel_abort_calls(MyLink->channel, given_up);
	channel_retire(MyLink->channel);
	MyLink->channel = NULL;
}

/* ----------------------------------------------------------------
 *		Events of the network
 * ----------------------------------------------------------------
 */

/*
 * Look for another connection, to the same address if possible.  If one has
 * been looked for although nothing was wrong with this one, what was in its
 * way has not mattered, and now does: begin again.
 */
static void
search_return(void)
{
	if (endpoints_searching() == SEARCH_NONE || endpoints_searching() == SEARCH_RACE ||
		MyLink->replacing)
		endpoints_search(SEARCH_RETURN, NULL);
	MyLink->replacing = false;
}

/* All requests on it have already ended. */
static void
connection_failed(void *arg, const char *error)
{
	Assert(MyLink->channel != NULL);
	channel_destroy(MyLink->channel);
	MyLink->channel = NULL;
	MyLink->generation++;
	ereport(DEBUG1,
			(errmsg_internal("etcd_lock: lost the connection to etcd at \"%s\": %s",
							 link_endpoint(), error)));
	search_return();
}

/* The server is about to stop, or a load balancer says so. */
static void
connection_closing(void *arg)
{
	search_return();
	abort_streams();			/* they would keep the server from stopping */
}

static const ChannelCallbacks channel_callbacks = {
	.failed = connection_failed,
	.closing = connection_closing
};

/* The search has succeeded: this address serves. */
static void
found(Channel *its_channel)
{
	/* Nothing was wrong with the old connection. */
	bool		is_well = MyLink->channel != NULL &&
		(MyLink->replacing || channel_is_closing(MyLink->channel));

	Assert(its_channel != NULL && its_channel != MyLink->channel);
	MyLink->replacing = false;
	leave_channel(!is_well);
	MyLink->channel = its_channel;
	channel_set_callbacks(MyLink->channel, &channel_callbacks, NULL);
	MyLink->generation++;
	MyLink->probe_at = clock_now() + SLOW;

	/* Without a login the link is not usable yet; see end_call(). */
	MyLink->up = MyLink->up || auth_ready();
	publish(NULL);
	link_status_endpoint_works(link_endpoint());
}

/* What is wrong with the candidates. */
static void
search_errors(const char *errors, bool all)
{
	/* the one in use may be healthy, and only the others are not */
	if (endpoints_searching() == SEARCH_RACE ||
		(endpoints_searching() == SEARCH_RETURN && is_open()))
		return;
	if (endpoints_searching() == SEARCH_RETURN)
	{
		failed(errors);
		return;
	}
	MyLink->up = false;
	publish(errors);
	if (all)
		say_down(errors);
}

/* For new certificates, or another endpoint: this one is used meanwhile. */
static void
replace_channel(void)
{
	MyLink->replacing = true;
	endpoints_search(SEARCH_RETURN, NULL);
}

static const EndpointsHooks endpoints_hooks = {
	.found = found,
	.errors = search_errors,
	.unlisted = replace_channel,
	.saw_term = link_saw_term
};

/* ----------------------------------------------------------------
 *		Requests
 * ----------------------------------------------------------------
 */

/* Remove it from all lists. */
static void
unlist_call(LinkCall *call)
{
	dlist_delete(&call->node);
	if (call->channel != NULL && call->class == LINK_SIDE)
		MyLink->nside--;
	Assert(MyLink->nside >= 0);
	if (call == MyLink->probe)
		MyLink->probe = NULL;
	if (call == MyLink->login)
		MyLink->login = NULL;
	if (call == MyLink->token_check)
		MyLink->token_check = NULL;
}

static void
free_call(LinkCall *call)
{
	etcd_request_free(&call->message);
	pfree(call);
}

static void
put_aside(LinkCall *call)
{
	if (call->channel != NULL && call->class == LINK_SIDE)
		MyLink->nside--;
	Assert(MyLink->nside >= 0);
	call->channel = NULL;
	call->call = NULL;
	dlist_push_tail(&MyLink->aside, &call->node);
}

/* The call ends; its callback may call anything here. */
static void
end_call(LinkCall *call, EtcdResponse *response)
{
	bool		is_good = call->class != LINK_SIDE && response->delivered &&
		response->reply.status == ETCD_OK;

	unlist_call(call);
	response->origin = call;
	call->callbacks.done(call->arg, response);
	if (is_good && !MyLink->up && is_current(response) && endpoints_searching() == SEARCH_NONE)
	{
		MyLink->up = true;
		publish(NULL);
	}
	free_call(call);
}

/*
 * Find out whether the current member is really slow, and another one faster.
 * A search that goes on for another reason takes the first one that serves
 * anyway.
 */
static void
suspect(void)
{
	if (!is_open() || endpoints_searching() != SEARCH_NONE || MyLink->probe != NULL ||
		clock_now() < MyLink->probe_at)
		return;
	endpoints_search(SEARCH_RACE, NULL);
	/* see probe_done() */
	MyLink->probe_at = clock_now() + SLOW;
}

/*
 * With client certificates, etcd says "permission denied" instead of "invalid
 * token", because it takes the certificate's name, even an empty one, for the
 * user's.  So a refusal is believed only after a read that we may certainly do
 * has succeeded; the request waits for that, and is sent again.
 */
static bool
may_be_the_token(LinkCall *call, const EtcdError *error)
{
	if (error->code != ETCD_PERMISSION_DENIED || call->was_denied ||
		call == MyLink->token_check || !auth_configured() || etcd_lock_cert[0] == '\0')
		return false;
	call->was_denied = true;
	MyLink->token_doubted = true;
	return true;
}

static void
token_checked(void *arg, const EtcdResponse *response)
{
	EtcdError	error;
	uint64		number = (uint64) (uintptr_t) arg;

	if (!response->delivered || response->reply.status == ETCD_OK)
		return;
	etcd_response_error(&response->reply, &error);
	if (error.code == ETCD_PERMISSION_DENIED)
		auth_token_refused(number);
}

static void
check_token(void)
{
	static const LinkCallbacks callbacks = {.done = token_checked};

	if (!MyLink->token_doubted || MyLink->token_check != NULL || !link_ready())
		return;
	MyLink->token_doubted = false;
	MyLink->token_check = link_call(LINK_LEASE, endpoints_probe(), etcd_lock_request_timeout,
									&callbacks,
									(void *) (uintptr_t) auth_token_number());
}

/*
 * What a response says about the member.  Returns true if its token was
 * refused.
 */
static bool
check_reply(LinkCall *call, const EtcdReply *reply)
{
	bool		needs_token = call->message.method == ETCD_METHOD_RANGE ||
		call->message.method == ETCD_METHOD_TXN;
	EtcdError	error;

	if (reply->status != ETCD_OK)
	{
		etcd_response_error(reply, &error);
		if (auth_is_refusal(&error))
		{
			auth_token_refused(call->token);
			return true;
		}
		if (may_be_the_token(call, &error))
			return true;
		if (call == MyLink->token_check)
			return false;
		if (etcd_error_is_unwell(&error))
		{
			if (call->generation != MyLink->generation)
				return false;
			if (call->class == LINK_LEASE)
				failed(error.message);
			else if (call->class == LINK_LOCK)
				suspect();
			return false;
		}
	}
	if (needs_token)
		auth_token_worked(call->token);
	return false;
}

/*
 * A request that was on its way to a deposed leader may be lost, and then etcd
 * responds only when its own deadlines end.
 */
static bool
may_be_lost(const LinkCall *call)
{
	return call->raft_term != 0 && call->raft_term < MyLink->raft_term;
}

/*
 * What a missing response says.  Returns true if the request has to be sent
 * again.
 */
static bool
check_silence(LinkCall *call, const EtcdResponse *response)
{
	if (response->too_long)
		return false;			/* that is the requester's business */
	if (!response->ambiguous && clock_now() < call->give_up_at &&
		call->resends++ < MAX_RESENDS)
		return true;

	/* This one was given up because of a leader that is gone. */
	if (may_be_lost(call))
		return false;

	/* The loss of the connection is reported separately. */
	if (call->generation != MyLink->generation || endpoints_searching() == SEARCH_OTHER ||
		MyLink->channel == NULL || !channel_is_open(MyLink->channel))
		return false;
	if (call->class == LINK_LEASE)
		failed(response->error);
	else if (call->class == LINK_LOCK)
		suspect();
	return false;
}

static void
call_done(void *arg, const GrpcReply *reply)
{
	LinkCall   *call = arg;
	EtcdResponse response;
	bool		again;

	Assert(call->channel != NULL && call->call != NULL);
	response_set(&response, reply);
	counters_request(clock_now() - call->sent_at,
					 !response.delivered || response.reply.status != ETCD_OK);
	if (response.delivered)
		again = check_reply(call, &response.reply) && call != MyLink->login &&
			clock_now() < call->give_up_at;
	else
		again = check_silence(call, &response);
	if (again)
	{
		dlist_delete(&call->node);
		put_aside(call);
		return;
	}
	end_call(call, &response);
}

static bool
may_be_sent(const LinkCall *call)
{
	if (call->message.method == ETCD_METHOD_AUTHENTICATE)
		return is_open();
	if (call->was_denied && (MyLink->token_doubted || MyLink->token_check != NULL))
		return false;
	if (call->callbacks.is_anonymous && !link_is_anonymous())
		return false;			/* the user's rights would not be checked */
	return link_ready() && (call->class != LINK_SIDE || call->callbacks.is_urgent ||
							MyLink->nside < MAX_SIDE);
}

/*
 * Send it on the connection in use.  If that fails, returns false, and it is
 * on no list.
 */
static bool
send_call(LinkCall *call)
{
	int64		now = clock_now();
	GrpcCallbacks callbacks = {
		.done = call_done,
		.max_message = call->callbacks.max_message,
		.secret = call->message.method == ETCD_METHOD_AUTHENTICATE
	};
	GrpcRequest request = {
		.path = etcd_request_path(call->message.method),
		.token = callbacks.secret ? NULL : auth_token(),
		.data = call->message.data,.len = call->message.len,
		.timeout = Max(call->give_up_at - now, 1000)
	};

	Assert(may_be_sent(call) && call->channel == NULL);
	call->call = channel_call(MyLink->channel, &request, &callbacks, call);
	if (call->call == NULL)
	{
		MyLink->send_after = now + SEND_PAUSE;
		return false;
	}
	call->channel = MyLink->channel;
	call->generation = MyLink->generation;
	call->token = auth_token_number();
	call->raft_term = MyLink->raft_term;
	call->sent_at = now;
	if (call->class == LINK_SIDE)
		MyLink->nside++;
	dlist_push_tail(&MyLink->calls, &call->node);
	return true;
}

static LinkCall *
make_call(LinkClass class, EtcdMessage *message, long timeout_ms,
		  const LinkCallbacks *callbacks, void *arg)
{
	LinkCall   *call = MemoryContextAllocZero(TopMemoryContext, sizeof(LinkCall));

	call->class = class;
	call->message = *message;
	call->callbacks = *callbacks;
	call->arg = arg;
	call->give_up_at = clock_now() + (int64) timeout_ms * 1000;
	return call;
}

LinkCall *
link_call(LinkClass class, EtcdMessage message, long timeout_ms,
		  const LinkCallbacks *callbacks, void *arg)
{
	LinkCall   *call;

	if (message.data == NULL)
		return NULL;
	call = make_call(class, &message, timeout_ms, callbacks, arg);
	if (!may_be_sent(call) || !send_call(call))
		put_aside(call);
	return call;
}

void
link_cancel(LinkCall *call)
{
	if (call->channel != NULL)
		channel_cancel(call->channel, call->call);
	unlist_call(call);
	free_call(call);
}

void
link_bad_response(const EtcdResponse *response, const char *error)
{
	const LinkCall *call = response->origin;

	if (!is_current(response))
		return;
	if (call->class == LINK_LEASE)
		failed(error);
	else
		link_note_error(error);
	if (call->class == LINK_LOCK)
		suspect();
}

/* A waiting request ends, certainly without having been applied. */
static void
give_up(LinkCall *call)
{
	EtcdResponse response = {.error = "there is no link to etcd"};

	Assert(call->channel == NULL);
	call->generation = 0;
	end_call(call, &response);
}

/* Send what waits and may be sent now. */
static void
send_aside(void)
{
	dlist_mutable_iter iter;

	if (clock_now() < MyLink->send_after)
		return;
	dlist_foreach_modify(iter, &MyLink->aside)
	{
		LinkCall   *call = dlist_container(LinkCall, node, iter.cur);

		if (!may_be_sent(call))
			continue;
		dlist_delete(&call->node);
		if (!send_call(call))
		{
			dlist_push_tail(&MyLink->aside, &call->node);
			break;
		}
	}
}

/*
 * A waiting request whose time is over, or NULL.  When it ends, its callback may
 * change the list, so nobody goes through all of it at once.
 */
static LinkCall *
find_overdue(void)
{
	int64		now = clock_now();
	dlist_iter	iter;

	dlist_foreach(iter, &MyLink->aside)
	{
		LinkCall   *call = dlist_container(LinkCall, node, iter.cur);

		if (now >= call->give_up_at)
			return call;
	}
	return NULL;
}

/* ----------------------------------------------------------------
 *		Streams
 * ----------------------------------------------------------------
 */

static void
stream_message(void *arg, const void *data, size_t len)
{
	LinkStream *stream = arg;

	stream->callbacks.message(stream->arg, data, len);
}

static void
free_stream(LinkStream *stream)
{
	dlist_delete(&stream->node);
	pfree(stream);
}

/*
 * The end of a stream says little about the member; the following requests
 * will show.
 */
static void
stream_done(void *arg, const GrpcReply *reply)
{
	LinkStream *stream = arg;
	LinkStreamCallbacks callbacks = stream->callbacks;
	void	   *its_arg = stream->arg;
	EtcdResponse response;
	EtcdError	error;

	response_set(&response, reply);
	if (response.delivered && response.reply.status != ETCD_OK)
	{
		etcd_response_error(&response.reply, &error);
		if (auth_is_refusal(&error))
			auth_token_refused(stream->token);
	}
	free_stream(stream);
	callbacks.ended(its_arg, &response);
}

LinkStream *
link_stream(EtcdMessage message, const LinkStreamCallbacks *callbacks, void *arg)
{
	GrpcCallbacks grpc_callbacks = {
		.message = stream_message,.done = stream_done,
		.max_message = callbacks->max_message
	};
	GrpcRequest request = {
		.path = etcd_request_path(message.method),.token = auth_token(),
		.data = message.data,.len = message.len
	};
	LinkStream *stream;

	if (message.data == NULL || !link_ready())
	{
		etcd_request_free(&message);
		return NULL;
	}
	stream = MemoryContextAllocZero(TopMemoryContext, sizeof(LinkStream));
	stream->callbacks = *callbacks;
	stream->arg = arg;
	stream->token = auth_token_number();
	stream->channel = MyLink->channel;
	stream->call = channel_stream(MyLink->channel, &request, &grpc_callbacks, stream);
	etcd_request_free(&message);
	if (stream->call == NULL)
	{
		pfree(stream);
		return NULL;
	}
	dlist_push_tail(&MyLink->streams, &stream->node);
	return stream;
}

bool
link_stream_send(LinkStream *stream, EtcdMessage message)
{
	bool		sent = message.data != NULL &&
		channel_send(stream->channel, stream->call, message.data, message.len);

	etcd_request_free(&message);
	return sent;
}

void
link_stream_close(LinkStream *stream)
{
	channel_cancel(stream->channel, stream->call);
	free_stream(stream);
}

/*
 * Returns true if another stream may help.  A stream keeps the token with which it was
 * opened, and older releases of etcd do not say that a token is the reason.
 */
bool
link_watch_refused(const LinkStream *stream, const char *reason)
{
	EtcdError	error = {.code = ETCD_UNKNOWN};
	bool		is_refusal;

	strlcpy(error.message, reason, sizeof(error.message));
	is_refusal = auth_is_refusal(&error);
	if (is_refusal)
		auth_token_refused(stream->token);
	return is_refusal || stream->token != auth_token_number();
}

/* ----------------------------------------------------------------
 *		Logging in
 * ----------------------------------------------------------------
 */

static bool
send_login(EtcdMessage *message, void (*done) (void *arg, const EtcdResponse *response))
{
	LinkCallbacks callbacks = {.done = done};

	MyLink->login = link_call(LINK_LEASE, *message, etcd_lock_request_timeout, &callbacks, NULL);
	return MyLink->login != NULL;
}

static void
cancel_login(void)
{
	if (MyLink->login != NULL)
		link_cancel(MyLink->login);
}

static void
not_logged_in(const char *error)
{
	MyLink->up = false;
	publish(error);
}

static const AuthHooks auth_hooks = {
	send_login, cancel_login, is_open, not_logged_in, link_note_error
};

/* ----------------------------------------------------------------
 *		Slow requests
 * ----------------------------------------------------------------
 */

void
link_saw_term(uint64 term)
{
	MyLink->raft_term = Max(MyLink->raft_term, term);
}

static void
probe_done(void *arg, const EtcdResponse *response)
{
	char		error[LINK_ENDPOINT_ERROR_SIZE];
	bool		foreign;
	uint64		term;

	if (!is_current(response))
		return;
	if (!endpoints_probe_served(response, &foreign, &term, error, sizeof(error)))
	{
		failed(error);
		return;
	}
	link_saw_term(term);
	MyLink->probe_at = clock_now() + SLOW;
	if (endpoints_searching() == SEARCH_RACE)
		endpoints_stop_search();
}

/*
 * In a race, the one in use is asked by the connection in use.  It has as long as the
 * others: if all are slow, it stays.
 */
static void
probe_current(void)
{
	static const LinkCallbacks callbacks = {.done = probe_done};

	if (endpoints_searching() == SEARCH_RACE && MyLink->probe == NULL && link_ready())
		MyLink->probe = link_call(LINK_LEASE, endpoints_probe(), etcd_lock_request_timeout,
								  &callbacks, NULL);
}

/* Logins say nothing, because checking a password takes long on purpose. */
static bool
tells_of_member(const LinkCall *call)
{
	return call->class != LINK_SIDE && call != MyLink->probe && call != MyLink->login &&
		call->generation == MyLink->generation;
}

/* A request that takes long may be lost, or the member may be unhealthy. */
static void
watch_slow_calls(void)
{
	int64		now = clock_now();
	dlist_iter	iter;

	dlist_foreach(iter, &MyLink->calls)
	{
		LinkCall   *call = dlist_container(LinkCall, node, iter.cur);

		if (now - call->sent_at < SLOW)
			break;
		if (may_be_lost(call))
			channel_abort(call->channel, call->call,
						  "given up: etcd's leader has changed");
		else if (tells_of_member(call))
			suspect();
	}
	probe_current();
}

/* When watch_slow_calls() has something to do. */
static int64
slow_time(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyLink->calls)
	{
		const LinkCall *call = dlist_container(LinkCall, node, iter.cur);

		if (may_be_lost(call))
			return call->sent_at + SLOW;
		if (!tells_of_member(call))
			continue;
		if (endpoints_searching() != SEARCH_NONE || MyLink->probe != NULL)
			continue;
		return Max(MyLink->probe_at, call->sent_at + SLOW);
	}
	return PG_INT64_MAX;
}

/* ----------------------------------------------------------------
 *		The interface
 * ----------------------------------------------------------------
 */

bool
link_create(void)
{
	Loop	   *loop = loop_create();

	if (loop == NULL)
		return false;
	MyLink = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Link));
	MyLink->loop = loop;
	dlist_init(&MyLink->calls);
	dlist_init(&MyLink->aside);
	dlist_init(&MyLink->streams);
	tls_create();
	endpoints_create(loop, &endpoints_hooks);
	auth_create(&auth_hooks);
	return true;
}

int
link_fd(void)
{
	return loop_fd(MyLink->loop);
}

long
link_timeout(void)
{
	return loop_timeout(MyLink->loop);
}

void
link_run(void)
{
	loop_run(MyLink->loop);
}

/*
 * Unusable certificates are reported at once, whether they are needed or not.
 */
static void
load_tls(void)
{
	char	   *error = tls_load();

	if (error == NULL)
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 tls_loaded() ? errmsg("etcd_lock: could not reload certificates: %s", error) :
			 errmsg("etcd_lock: could not load certificates: %s", error)));
	link_note_error(error);
}

/* The settings were read. */
static void
begin(void)
{
	MyLink->said_down = false;	/* say what is wrong with the new settings */
	publish(NULL);
	load_tls();
	auth_reload();
}

void
link_init(void)
{
	(void) endpoints_read();
	begin();
	endpoints_search(SEARCH_OTHER, NULL);
}

/*
 * The endpoint in use stays in use if the new list has it, too; with new
 * certificates over a new connection, while requests continue on the old one.
 */
void
link_reload(void)
{
	uint64		certificates = tls_generation();
	bool		was_up = MyLink->up;

	if (!endpoints_read())
	{
		MyLink->up = false;
		leave_channel(true);
	}
	begin();
	if (MyLink->channel == NULL || !was_up)
		endpoints_search(SEARCH_OTHER, NULL);
	else if (tls_generation() != certificates &&
			 strncmp(link_endpoint(), "https://", 8) == 0)
		replace_channel();
}

void
link_tick(void)
{
	LinkCall   *call;

	watch_slow_calls();
	check_token();
	endpoints_tick();
	auth_tick();
	while ((call = find_overdue()) != NULL)
		give_up(call);
	send_aside();
}

int64
link_tick_time(void)
{
	int64		next = Min(auth_next_time(), endpoints_time());
	dlist_iter	iter;

	next = Min(next, slow_time());
	dlist_foreach(iter, &MyLink->aside)
	{
		const LinkCall *call = dlist_container(LinkCall, node, iter.cur);

		next = Min(next, may_be_sent(call) ? MyLink->send_after : call->give_up_at);
	}
	return next;
}

bool
link_ask(const char *url, EtcdMessage message, long timeout_ms,
		 void (*done) (void *arg, const EtcdResponse *response), void *arg)
{
	bool		asked = message.data != NULL &&
		endpoints_ask(url, &message, timeout_ms, done, arg);

	etcd_request_free(&message);
	return asked;
}
