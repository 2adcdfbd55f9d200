/*-------------------------------------------------------------------------
 *
 * channel.c
 *	  gRPC to one address: a connection, and the calls on it.
 *
 * The channel's task does everything: it reads bytes and gives them to the
 * calls, delivers what they contain, and then writes what has to be sent, so
 * that what callbacks send goes out at once, many frames in one write.
 *
 *-------------------------------------------------------------------------
 */
#include "net/channel.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_SIZE		(64 * 1024)

/* Read no more than this in one run, so that others have their turn. */
#define MAX_READ		(1024 * 1024)

struct Channel
{
	LoopTask	task;
	Connection *connection;		/* NULL: closed */
	Grpc	   *grpc;
	ChannelCallbacks callbacks;
	void	   *arg;
	bool		running;		/* its task is running: do not free it */
	bool		doomed;			/* free it when the task has ended */
	bool		retired;		/* free it when its calls have ended */
	bool		said_closing;	/* "closing" was called */
	bool		has_more;		/* there is more to read, but no event will
								 * say so */
};

/* Bytes that wait in all calls of this process. */
static size_t stored = 0;

static void
free_channel(Channel *channel)
{
	assert(!channel->running);
	grpc_destroy(channel->grpc);
	connection_destroy(channel->connection);
	loop_remove(&channel->task);
	free(channel);
}

void
channel_set_callbacks(Channel *channel, const ChannelCallbacks *callbacks, void *arg)
{
	channel->callbacks = *callbacks;
	channel->arg = arg;
}

void
channel_destroy(Channel *channel)
{
	if (channel == NULL)
		return;
	channel->doomed = true;
	if (channel->running)
		grpc_cancel_all(channel->grpc);
	else
		free_channel(channel);
}

/* The task has something to do, if only to write. */
static void
wake(Channel *channel)
{
	channel->task.due = loop_now();
}

void
channel_retire(Channel *channel)
{
	if (channel == NULL)
		return;
	channel->retired = true;
	memset(&channel->callbacks, 0, sizeof(channel->callbacks));
	wake(channel);
}

void
channel_abort_calls(Channel *channel, const char *error)
{
	grpc_fail(channel->grpc, error);
	wake(channel);
}

/*
 * Read what has come, and deliver it.  Returns false if the connection has
 * failed.
 */
static bool
read_some(Channel *channel)
{
	static uint8_t data[READ_SIZE];
	size_t		total = 0;
	ssize_t		n;

	channel->has_more = false;
	while ((n = connection_read(channel->connection, data, sizeof(data))) > 0)
	{
		if (!grpc_receive(channel->grpc, data, (size_t) n))
			return true;		/* see grpc_error() */
		grpc_deliver(channel->grpc);
		if (channel->doomed)
			return true;
		total += (size_t) n;
		if (total >= MAX_READ)
		{
			channel->has_more = true;
			break;
		}
	}
	return n >= 0;
}

/*
 * Write what is to be sent, as far as possible.  Returns false if the connection
 * has failed.
 */
static bool
write_some(Channel *channel)
{
	const void *data;
	size_t		len;

	while ((len = grpc_to_send(channel->grpc, &data)) > 0)
	{
		ssize_t		n = connection_write(channel->connection, data, len);

		if (n < 0)
			return false;
		grpc_sent(channel->grpc, (size_t) n);
		if (n == 0)
			break;
	}
	connection_want_write(channel->connection, len > 0);
	return true;
}

/* Transfer bytes in both directions. */
static void
exchange(Channel *channel)
{
	if (!read_some(channel) && grpc_error(channel->grpc)[0] == '\0')
	{
		grpc_fail(channel->grpc, connection_error(channel->connection));
		return;
	}
	grpc_expire(channel->grpc, loop_now());
	grpc_deliver(channel->grpc);
	if (channel->doomed)
		return;
	channel->task.due = LOOP_NEVER; /* what woke it goes out now */
	if (!write_some(channel))
		grpc_fail(channel->grpc, connection_error(channel->connection));
}

/* Report once that the server takes no more calls. */
static void
tell_closing(Channel *channel)
{
	if (channel->said_closing || !grpc_is_closing(channel->grpc) ||
		grpc_error(channel->grpc)[0] != '\0')
		return;
	channel->said_closing = true;
	if (channel->callbacks.closing != NULL)
		channel->callbacks.closing(channel->arg);
}

/*
 * End all calls, and then tell the channel's owner.  The owner may leave it at
 * that: so the connection is closed here, because the loop would report an end
 * of file again and again.
 */
static void
end(Channel *channel)
{
	connection_destroy(channel->connection);
	channel->connection = NULL;
	while (!channel->doomed && grpc_has_ready(channel->grpc))
		grpc_deliver(channel->grpc);
	if (channel->doomed)
		return;
	if (channel->retired)
		channel->doomed = true;
	else if (channel->callbacks.failed != NULL)
	{
		void		(*failed) (void *, const char *) = channel->callbacks.failed;

		memset(&channel->callbacks, 0, sizeof(channel->callbacks));
		failed(channel->arg, grpc_error(channel->grpc));
	}
}

static void
set_timer(Channel *channel)
{
	int64_t		expiry = grpc_next_expiry(channel->grpc);

	if (channel->has_more || grpc_has_ready(channel->grpc))
		channel->task.due = loop_now();
	else if (expiry >= 0 && expiry < channel->task.due)
		channel->task.due = expiry;
}

/* Connect, or transfer what there is. */
static void
proceed(Channel *channel)
{
	assert(channel->connection != NULL);
	switch (connection_advance(channel->connection))
	{
		case CONNECTION_CONNECTING:
			grpc_expire(channel->grpc, loop_now());
			grpc_deliver(channel->grpc);
			break;
		case CONNECTION_OPEN:
			exchange(channel);
			break;
		case CONNECTION_FAILED:
			grpc_fail(channel->grpc, connection_error(channel->connection));
			break;
	}
}

static void
run(void *arg)
{
	Channel    *channel = arg;

	assert(!channel->running && !channel->doomed);
	channel->running = true;
	channel->task.due = LOOP_NEVER;
	if (grpc_error(channel->grpc)[0] == '\0')
		proceed(channel);
	if (!channel->doomed)
		tell_closing(channel);
	if (!channel->doomed && grpc_error(channel->grpc)[0] != '\0')
		end(channel);
	if (channel->retired && grpc_ncalls(channel->grpc) == 0)
		channel->doomed = true;
	channel->running = false;
	if (channel->doomed)
		free_channel(channel);
	else
		set_timer(channel);
}

Channel *
channel_create(Loop *loop, const ChannelTarget *target, ConnectionTls *tls,
			   long connect_timeout_ms, const ChannelCallbacks *callbacks, void *arg)
{
	Channel    *channel = calloc(1, sizeof(Channel));
	bool		is_ipv6 = strchr(target->host, ':') != NULL;
	char		authority[300];
	char		url[320];

	if (channel == NULL)
		return NULL;
	loop_add(loop, &channel->task, run, channel);
	channel->callbacks = *callbacks;
	channel->arg = arg;
	if (snprintf(authority, sizeof(authority), "%s%s%s:%d", is_ipv6 ? "[" : "",
				 target->host, is_ipv6 ? "]" : "", target->port) < (int) sizeof(authority))
	{
		snprintf(url, sizeof(url), "%s://%s", target->is_tls ? "https" : "http", authority);
		channel->grpc = grpc_create(target->is_tls, authority, &stored);
		if (channel->grpc != NULL)
			channel->connection =
				connection_create(&channel->task, url, target->port, target->address,
								  target->is_tls ? tls : NULL, connect_timeout_ms);
	}
	if (channel->connection == NULL)
	{
		free_channel(channel);
		return NULL;
	}
	return channel;
}

GrpcCall *
channel_call(Channel *channel, GrpcRequest *request, const GrpcCallbacks *callbacks,
			 void *arg)
{
	request->now = loop_now();
	wake(channel);
	return grpc_call(channel->grpc, request, callbacks, arg);
}

GrpcCall *
channel_stream(Channel *channel, GrpcRequest *request,
			   const GrpcCallbacks *callbacks, void *arg)
{
	request->now = loop_now();
	wake(channel);
	return grpc_stream(channel->grpc, request, callbacks, arg);
}

bool
channel_send(Channel *channel, GrpcCall *call, const void *data, size_t len)
{
	wake(channel);
	return grpc_send(call, data, len);
}

void
channel_cancel(Channel *channel, GrpcCall *call)
{
	wake(channel);
	grpc_cancel(call);
}

void
channel_abort(Channel *channel, GrpcCall *call, const char *error)
{
	wake(channel);
	grpc_abort(call, error);
}

bool
channel_is_open(const Channel *channel)
{
	return grpc_is_open(channel->grpc);
}

bool
channel_is_closing(const Channel *channel)
{
	return grpc_is_closing(channel->grpc);
}
