/*-------------------------------------------------------------------------
 *
 * grpc.h
 *	  gRPC calls over one HTTP/2 connection, independent of the socket.
 *
 * The caller puts in what was received, takes out what has to be sent, and
 * passes in the time: there is no socket and no clock in here.  nghttp2
 * handles the frames.
 *
 * A call is *unary*, with one message each way and a deadline, or a *stream*,
 * which lasts until it is cancelled or the server ends it.  No call is sent
 * before the server has shown, by its settings, that it speaks HTTP/2; so a
 * call that fails before that was certainly not applied.
 *
 * Only grpc_deliver() calls callbacks.  They may start, cancel and abort
 * calls, but must not call grpc_deliver() or grpc_destroy().
 *
 *-------------------------------------------------------------------------
 */
#ifndef GRPC_H
#define GRPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Limits in bytes beyond which a response is given up: of one message, of all
 * that are in flight, of the headers of one call.
 */
#define GRPC_MAX_MESSAGE	(16 * 1024 * 1024)
#define GRPC_MAX_STORED		(64 * 1024 * 1024)
#define GRPC_MAX_HEADER		(64 * 1024)

/* A stream with so many unsent bytes takes no more. */
#define GRPC_MAX_UNSENT		(4 * 1024 * 1024)

/* The response is not gRPC: an HTTP response of something else. */
#define GRPC_NO_STATUS		(-1)

typedef struct Grpc Grpc;
typedef struct GrpcCall GrpcCall;

/* How a call ended. */
typedef struct GrpcReply
{
	bool		delivered;		/* the server has said how it ended */
	int			status;			/* delivered: gRPC's, or GRPC_NO_STATUS */
	const char *message;		/* delivered: what the server says; may be
								 * empty */
	const void *data;			/* unary, delivered with status 0: the message */
	size_t		len;
	const char *error;			/* not delivered: why, as a text */
	bool		ambiguous;		/* not delivered: the server may have applied
								 * the request, or may still do so */
	bool		too_long;		/* not delivered: given up because of its
								 * length */
} GrpcReply;

typedef struct GrpcCallbacks
{
	/* streams: the next message */
	void		(*message) (void *arg, const void *data, size_t len);
	/* the call has ended; it is freed after this returns */
	void		(*done) (void *arg, const GrpcReply *reply);
	/* longest message, bytes; 0: GRPC_MAX_MESSAGE */
	size_t		max_message;
	bool		secret;			/* what is sent and received is wiped */
} GrpcCallbacks;

typedef struct GrpcRequest
{
	const char *path;			/* "/<service>/<method>" */
	const char *token;			/* NULL: none */
	const void *data;			/* the message; NULL with a length of 0 */
	size_t		len;
	int64_t		now;			/* microseconds */
	int64_t		timeout;		/* microseconds; 0: none */
} GrpcRequest;

/*
 * "stored" counts the bytes that wait in all connections of a process, for
 * GRPC_MAX_STORED.  NULL: out of memory.
 */
extern Grpc *grpc_create(bool is_tls, const char *authority, size_t *stored);
extern void grpc_destroy(Grpc *grpc);

/* Drop all calls; callbacks may do this, too. */
extern void grpc_cancel_all(Grpc *grpc);

/* ---- the connection's side ---- */

/*
 * Put in received bytes.  Returns false if the connection is unusable; see
 * grpc_error().
 */
extern bool grpc_receive(Grpc *grpc, const void *data, size_t len);

/*
 * Returns the number of bytes to send.  They stay where they are until
 * grpc_sent() removes them.
 */
extern size_t grpc_to_send(Grpc *grpc, const void **data);
extern void grpc_sent(Grpc *grpc, size_t len);

/* The connection is gone: all calls end, and no other can be made. */
extern void grpc_fail(Grpc *grpc, const char *error);
extern const char *grpc_error(const Grpc *grpc);	/* "" while it lives */

/* End calls whose time is over. */
extern void grpc_expire(Grpc *grpc, int64_t now);

/* When is the time of a call over?  -1: never. */
extern int64_t grpc_next_expiry(const Grpc *grpc);

/* Call the callbacks of calls that are ready. */
extern void grpc_deliver(Grpc *grpc);
extern bool grpc_has_ready(const Grpc *grpc);

/* ---- the caller's side ---- */

/* Has the server shown that it speaks HTTP/2? */
extern bool grpc_is_open(const Grpc *grpc);

/* Does it accept no more calls, although those in flight may continue? */
extern bool grpc_is_closing(const Grpc *grpc);
extern int	grpc_ncalls(const Grpc *grpc);

/*
 * Make a call, which waits until the connection is established.  Returns NULL
 * if out of memory, or if the connection is gone or closing; then no callback
 * is called.  The message is copied.
 */
extern GrpcCall *grpc_call(Grpc *grpc, const GrpcRequest *request,
						   const GrpcCallbacks *callbacks, void *arg);

/* The same for a stream; the message is its first one. */
extern GrpcCall *grpc_stream(Grpc *grpc, const GrpcRequest *request,
							 const GrpcCallbacks *callbacks, void *arg);

/*
 * Send another message.  Returns false if out of memory, or too much is
 * unsent.
 */
extern bool grpc_send(GrpcCall *call, const void *data, size_t len);

/* Drop a call; its callbacks are not called.  Does nothing within its own "done". */
extern void grpc_cancel(GrpcCall *call);

/* Give a call up: "done" is called with this error. */
extern void grpc_abort(GrpcCall *call, const char *error);

#endif							/* GRPC_H */
