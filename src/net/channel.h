/*-------------------------------------------------------------------------
 *
 * channel.h
 *	  gRPC to one address: a connection, and the calls on it.
 *
 * Calls may be made at once; they wait until the connection is established.
 * When it fails, or is closed, all of them end, and then "failed" is called;
 * after that the channel is useless, and waits to be destroyed.
 *
 * Callbacks are called only from loop_run().  They may make, cancel and abort
 * calls, and destroy any channel, including their own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CHANNEL_H
#define CHANNEL_H

#include "net/connection.h"
#include "net/grpc.h"
#include "net/loop.h"

typedef struct Channel Channel;

typedef struct ChannelTarget
{
	bool		is_tls;
	const char *host;			/* as in the URL, IPv6 without brackets */
	int			port;
	const char *address;		/* numeric */
} ChannelTarget;

typedef struct ChannelCallbacks
{
	/* the connection is gone */
	void		(*failed) (void *arg, const char *error);

	/* the server takes no more calls on this connection */
	void		(*closing) (void *arg);
} ChannelCallbacks;

/* Returns NULL if out of memory.  "tls" may be NULL for plain TCP. */
extern Channel *channel_create(Loop *loop, const ChannelTarget *target,
							   ConnectionTls *tls, long connect_timeout_ms,
							   const ChannelCallbacks *callbacks, void *arg);

/* From now on these are called instead. */
extern void channel_set_callbacks(Channel *channel, const ChannelCallbacks *callbacks,
								  void *arg);

/* No callback is called any more, not even those of calls. */
extern void channel_destroy(Channel *channel);

/*
 * The caller no longer needs it: no callback of the channel is called any
 * more.  It is destroyed when the calls in flight have ended, at their
 * deadlines at the latest.
 */
extern void channel_retire(Channel *channel);

/* Retired or not, give up all its calls. */
extern void channel_abort_calls(Channel *channel, const char *error);

/* As in grpc.h; request->now is set here, and data is sent by the next run. */
extern GrpcCall *channel_call(Channel *channel, GrpcRequest *request,
							  const GrpcCallbacks *callbacks, void *arg);
extern GrpcCall *channel_stream(Channel *channel, GrpcRequest *request,
								const GrpcCallbacks *callbacks, void *arg);
extern bool channel_send(Channel *channel, GrpcCall *call, const void *data, size_t len);
extern void channel_cancel(Channel *channel, GrpcCall *call);
extern void channel_abort(Channel *channel, GrpcCall *call, const char *error);

extern bool channel_is_open(const Channel *channel);
extern bool channel_is_closing(const Channel *channel);

#endif							/* CHANNEL_H */
