/*-------------------------------------------------------------------------
 *
 * channel.c
 *	  Instead of net/: connections and gRPC calls over the simulated network.
 *
 * As net/channel.h has it.  A connection breaks as a whole, with all calls on it;
 * a call that was not sent yet was surely not applied.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "client/tls.h"
#include "net/channel.h"
#include "net/resolver.h"
#include "sim_message.h"

typedef enum Kind
{
	KIND_CONNECT,
	KIND_CALL,
	KIND_WATCH
} Kind;

/* What an event of the network is for; the first member of each. */
typedef struct Receiver
{
	Kind		kind;
} Receiver;

struct Loop
{
	Channel    *channels;
};

struct Channel
{
	Receiver	receiver;
	Channel    *next;
	Loop	   *loop;
	SimCall    *connect;		/* NULL: the connection is gone */
	char		url[300];
	int			order;			/* for sim_net_call() */
	ChannelCallbacks callbacks;
	void	   *arg;
	GrpcCall   *calls;
	bool		open;
	bool		failed;
	bool		wake;			/* there is something to be done */
	bool		told;			/* "failed" was called */
	bool		retired;
	bool		doomed;
	char		error[256];
};

/* One watch on a stream. */
typedef struct StreamWatch
{
	Receiver	receiver;
	struct StreamWatch *next;
	GrpcCall   *stream;
	SimCall    *net;
	int64		id;
} StreamWatch;

struct GrpcCall
{
	Receiver	receiver;
	GrpcCall   *next;
	Channel    *channel;
	GrpcCallbacks callbacks;
	void	   *arg;
	bool		is_stream;
	uint64_t	token;
	SimAsk	   *ask;			/* not sent yet; unary */
	SimAsk	   *asks[64];		/* likewise; a stream */
	int			nasks;
	SimCall    *net;
	StreamWatch *watches;
	int64		deadline;		/* sim_now(); SIM_FOREVER */
	bool		sent;
	bool		in_done;
	bool		gone;			/* cancelled or ended: to be freed */
	bool		aborted;
	char		error[256];
};

int64_t
loop_now(void)
{
	return sim_clock(SIM_RAW);
}

/* ---- calls ---- */

static void
drop_network(GrpcCall *call)
{
	if (call->net != NULL)
		sim_net_cancel(call->net);
	call->net = NULL;
	while (call->watches != NULL)
	{
		StreamWatch *watch = call->watches;

		call->watches = watch->next;
		if (watch->net != NULL)
			sim_net_cancel(watch->net);
		free(watch);
	}
	if (call->ask != NULL)
		sim_ask_free(call->ask);
	call->ask = NULL;
	for (int i = 0; i < call->nasks; i++)
		sim_ask_free(call->asks[i]);
	call->nasks = 0;
}

static void
end_call(GrpcCall *call, const GrpcReply *reply)
{
	if (call->gone)
		return;
	drop_network(call);
	call->in_done = true;
	call->callbacks.done(call->arg, reply);
	call->gone = true;
}

static void
end_undelivered(GrpcCall *call, const char *error, bool ambiguous)
{
	GrpcReply	reply = {.error = error,.ambiguous = ambiguous,.message = "",.data = ""};

	end_call(call, &reply);
}

static void
send_on_stream(GrpcCall *call, SimAsk *ask)
{
	StreamWatch *watch;

	ask->token = call->token;
	if (ask->method == SIM_WATCH_CANCEL)
	{
		/* its effect is told to the watch; nobody waits for it */
		SimCall    *cancel = sim_net_call(call->channel->url, ask, 0, call->channel->order, NULL);

		sim_net_cancel(cancel);
		return;
	}
	watch = calloc(1, sizeof(StreamWatch));
	watch->receiver.kind = KIND_WATCH;
	watch->stream = call;
	watch->id = ask->id;
	watch->next = call->watches;
	call->watches = watch;
	watch->net = sim_net_call(call->channel->url, ask, 0, call->channel->order, watch);
}

static void
send_waiting(GrpcCall *call)
{
	if (call->gone || call->aborted || !call->channel->open)
		return;
	call->sent = true;
	if (call->is_stream)
	{
		int			n = call->nasks;

		call->nasks = 0;
		for (int i = 0; i < n; i++)
			send_on_stream(call, call->asks[i]);
	}
	else if (call->ask != NULL)
	{
		SimAsk	   *ask = call->ask;

		call->ask = NULL;
		ask->token = call->token;
		call->net = sim_net_call(call->channel->url, ask,
								 call->deadline == SIM_FOREVER ? 0 : Max(call->deadline - sim_now(), 1),
								 0, call);
	}
}

static GrpcCall *
new_call(Channel *channel, GrpcRequest *request, const GrpcCallbacks *callbacks, void *arg,
		 bool is_stream)
{
	GrpcCall   *call;
	SimAsk	   *ask;

	/* who takes over a connection that is gone hears of it now */
	channel->wake = true;
	if (channel->failed)
		return NULL;
	memcpy(&ask, request->data, sizeof(ask));
	call = calloc(1, sizeof(GrpcCall));
	call->receiver.kind = KIND_CALL;
	call->channel = channel;
	call->callbacks = *callbacks;
	call->arg = arg;
	call->is_stream = is_stream;
	call->token = request->token == NULL ? 0 : strtoull(request->token, NULL, 10);
	call->deadline = request->timeout > 0 ? sim_after(request->timeout) : SIM_FOREVER;
	if (is_stream)
		call->asks[call->nasks++] = sim_ask_keep(ask);
	else
		call->ask = sim_ask_keep(ask);
	call->next = channel->calls;
	channel->calls = call;
	send_waiting(call);
	return call;
}

GrpcCall *
channel_call(Channel *channel, GrpcRequest *request, const GrpcCallbacks *callbacks, void *arg)
{
	return new_call(channel, request, callbacks, arg, false);
}

GrpcCall *
channel_stream(Channel *channel, GrpcRequest *request, const GrpcCallbacks *callbacks, void *arg)
{
	return new_call(channel, request, callbacks, arg, true);
}

bool
channel_send(Channel *channel, GrpcCall *call, const void *data, size_t len)
{
	SimAsk	   *ask;

	memcpy(&ask, data, sizeof(ask));
	if (call->gone || call->aborted || call->nasks == lengthof(call->asks))
		return false;
	call->asks[call->nasks++] = sim_ask_keep(ask);
	send_waiting(call);
	return true;
}

void
channel_cancel(Channel *channel, GrpcCall *call)
{
	if (call->in_done || call->gone)
		return;
	drop_network(call);
	call->gone = true;
}

void
channel_abort(Channel *channel, GrpcCall *call, const char *error)
{
	if (call->gone || call->aborted || call->in_done)
		return;
	drop_network(call);
	call->aborted = true;
	strlcpy(call->error, error, sizeof(call->error));
}

/* ---- channels ---- */

Channel *
channel_create(Loop *loop, const ChannelTarget *target, ConnectionTls *tls,
			   long connect_timeout_ms, const ChannelCallbacks *callbacks, void *arg)
{
	Channel    *channel = calloc(1, sizeof(Channel));

	channel->receiver.kind = KIND_CONNECT;
	channel->loop = loop;
	channel->next = loop->channels;
	loop->channels = channel;
	channel->callbacks = *callbacks;
	channel->arg = arg;
	channel->order = sim_net_stream();
	snprintf(channel->url, sizeof(channel->url), "http://%s:%d", target->address, target->port);
	channel->connect = sim_net_call(channel->url, sim_ask(SIM_CONNECT),
									(int64) connect_timeout_ms * 1000, channel->order, channel);
	return channel;
}

void
channel_set_callbacks(Channel *channel, const ChannelCallbacks *callbacks, void *arg)
{
	channel->callbacks = *callbacks;
	channel->arg = arg;
}

static void
drop_calls(Channel *channel)
{
	for (GrpcCall *call = channel->calls; call != NULL; call = call->next)
	{
		if (!call->gone)
			drop_network(call);
		call->gone = true;
	}
}

void
channel_destroy(Channel *channel)
{
	if (channel == NULL)
		return;
	if (channel->connect != NULL)
		sim_net_cancel(channel->connect);
	channel->connect = NULL;
	channel->failed = true;
	channel->doomed = true;
	drop_calls(channel);
}

void
channel_retire(Channel *channel)
{
	if (channel == NULL)
		return;
	channel->retired = true;
	memset(&channel->callbacks, 0, sizeof(channel->callbacks));
}

void
channel_abort_calls(Channel *channel, const char *error)
{
	if (channel->failed)
		return;
	channel->failed = true;
	channel->wake = true;
	strlcpy(channel->error, error, sizeof(channel->error));
}

bool
channel_is_open(const Channel *channel)
{
	return channel->open;
}

bool
channel_is_closing(const Channel *channel)
{
	return false;
}

static void
fail_channel(Channel *channel, const char *error)
{
	if (channel->failed)
		return;
	channel->failed = true;
	channel->wake = true;
	strlcpy(channel->error, error, sizeof(channel->error));
}

/* All calls end, and then the owner is told. */
static void
end_channel(Channel *channel)
{
	if (channel->connect != NULL)
		sim_net_cancel(channel->connect);
	channel->connect = NULL;
	for (GrpcCall *call = channel->calls; call != NULL && !channel->doomed; call = call->next)
		end_undelivered(call, channel->error, call->sent);
	if (channel->doomed || channel->told)
		return;
	if (channel->retired)
		channel->doomed = true;
	else if (channel->callbacks.failed != NULL)
	{
		channel->told = true;
		channel->callbacks.failed(channel->arg, channel->error);
	}
}

/* ---- the loop ---- */

Loop *
loop_create(void)
{
	return calloc(1, sizeof(Loop));
}

void
loop_destroy(Loop *loop)
{
}

int
loop_fd(const Loop *loop)
{
	return 0;
}

long
loop_timeout(const Loop *loop)
{
	int64		next = SIM_FOREVER;

	for (const Channel *channel = loop->channels; channel != NULL; channel = channel->next)
	{
		if (channel->doomed || (channel->failed && channel->wake && !channel->told))
			return 0;
		for (const GrpcCall *call = channel->calls; call != NULL; call = call->next)
		{
			if (call->gone || call->aborted)
				return 0;
			next = Min(next, call->deadline);
		}
	}
	if (next == SIM_FOREVER)
		return -1;
	return next <= sim_now() ? 0 : (long) ((next - sim_now() + 999) / 1000);
}

static void
connect_event(Channel *channel, const SimNetEvent *event)
{
	if (event->message)
	{
		channel->open = true;
		for (GrpcCall *call = channel->calls; call != NULL; call = call->next)
			send_waiting(call);
		return;
	}
	channel->connect = NULL;
	fail_channel(channel, event->delivered ? "closed" : event->error);
}

static void
call_event(GrpcCall *call, const SimNetEvent *event)
{
	call->net = NULL;
	if (event->delivered)
	{
		GrpcReply	reply = {
			.delivered = true,.status = event->answer->code,
			.message = event->answer->error.message,.data = event->answer,
			.len = sizeof(SimAnswer)
		};

		end_call(call, &reply);
	}
	else if (strcmp(event->error, "timeout") == 0)
		end_undelivered(call, "timeout", true);
	else
		fail_channel(call->channel, event->error);
}

static void
watch_event(StreamWatch *watch, const SimNetEvent *event)
{
	GrpcCall   *call = watch->stream;

	if (event->message)
	{
		event->answer->of.watch.watch_id = watch->id;
		call->callbacks.message(call->arg, event->answer, sizeof(SimAnswer));
		return;
	}
	watch->net = NULL;
	if (event->delivered)
	{
		GrpcReply	reply = {
			.delivered = true,.status = event->answer->code,
			.message = event->answer->error.message,.data = ""
		};

		end_call(call, &reply);
	}
	else if (strcmp(event->error, "cancelled") == 0)
	{
		StreamWatch **link = &call->watches;

		while (*link != watch)
			link = &(*link)->next;
		*link = watch->next;
		free(watch);
	}
	else if (strcmp(event->error, "the stream has ended") == 0)
		end_undelivered(call, event->error, true);
	else
		fail_channel(call->channel, event->error);
}

static void
sweep(Loop *loop)
{
	Channel   **link = &loop->channels;

	while (*link != NULL)
	{
		Channel    *channel = *link;
		GrpcCall  **at = &channel->calls;

		while (*at != NULL)
		{
			GrpcCall   *call = *at;

			if (!call->gone)
			{
				at = &call->next;
				continue;
			}
			*at = call->next;
			free(call);
		}
		if (channel->retired && channel->calls == NULL)
			channel->doomed = true;
		if (!channel->doomed)
		{
			link = &channel->next;
			continue;
		}
		if (channel->connect != NULL)
			sim_net_cancel(channel->connect);
		*link = channel->next;
		free(channel);
	}
}

void
loop_run(Loop *loop)
{
	SimNetEvent event;

	while (sim_net_next(&event))
	{
		Receiver   *receiver = event.arg;

		if (receiver == NULL)
			 /* nobody waits for it */ ;
		else if (receiver->kind == KIND_CONNECT)
			connect_event((Channel *) receiver, &event);
		else if (receiver->kind == KIND_CALL)
			call_event((GrpcCall *) receiver, &event);
		else
			watch_event((StreamWatch *) receiver, &event);
		sim_answer_free(event.answer);
		pg_step();
	}
	for (Channel *channel = loop->channels; channel != NULL; channel = channel->next)
	{
		for (GrpcCall *call = channel->calls; call != NULL && !channel->doomed; call = call->next)
		{
			if (call->aborted && !call->gone)
				end_undelivered(call, call->error, call->sent);
			else if (!call->gone && !call->sent && call->deadline <= sim_now())
				end_undelivered(call, "timeout", false);
		}
		if (channel->failed && channel->wake && !channel->told && !channel->doomed)
		{
			channel->wake = false;
			end_channel(channel);
		}
	}
	sweep(loop);
}

/* ---- not there: certificates, names ---- */

ConnectionTls *
connection_tls_create(const NetTls *tls)
{
	return NULL;
}

void
connection_tls_release(ConnectionTls *tls)
{
}

ResolverLookup *
resolver_addresses(Loop *loop, const char *host, long timeout_ms, ResolverDone done, void *arg)
{
	return NULL;
}

ResolverLookup *
resolver_services(Loop *loop, const char *name, long timeout_ms, ResolverDone done, void *arg)
{
	return NULL;
}

void
resolver_cancel(ResolverLookup *lookup)
{
}

void
tls_create(void)
{
}

char *
tls_load(void)
{
	return NULL;
}

bool
tls_loaded(void)
{
	return true;
}

ConnectionTls *
tls_current(void)
{
	return NULL;
}

uint64
tls_generation(void)
{
	return 0;
}
