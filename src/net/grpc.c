/*-------------------------------------------------------------------------
 *
 * grpc.c
 *	  gRPC calls over one HTTP/2 connection, independent of the socket.
 *
 * Each call is an HTTP/2 stream.  nghttp2 knows the call only as the stream's
 * user data: when a call ends before its stream does, the user data is reset,
 * and what still comes for the stream is dropped.  So a call can be freed as
 * soon as its caller no longer needs it.
 *
 * While nghttp2 is running, received data is only stored; grpc_deliver()
 * passes it to the callbacks afterwards, from the list of ready calls.  A
 * callback may cancel any call, including its own: so the call is removed from
 * the list first, and freed afterwards if it is the one being delivered.
 *
 *-------------------------------------------------------------------------
 */
#include "net/grpc.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nghttp2/nghttp2.h>

#include "net/ring.h"

/*
 * Flow-control windows: how much a server may send that has not arrived yet.
 * nghttp2 opens them again as data arrives; what we store of it has limits of
 * its own (grpc.h).
 */
#define STREAM_WINDOW		(1024 * 1024)
#define CONNECTION_WINDOW	(4 * 1024 * 1024)

/*
 * Bytes prepared for one write: no frame is added to more than half of this.  (A
 * frame has at most 16 kB.)
 */
#define WRITE_SIZE			(64 * 1024)

/*
 * HTTP/2 numbers the streams of a connection, and there is none after the
 * 2^30th.  So a connection that has come this far is not used for further
 * calls, while those in flight may still send what they have.
 */
#define LAST_STREAM_ID		0x7fff0000

#define FRAME_HEADER		5	/* of a gRPC message: flags and length */
#define FIRST_SIZE			4096

/*
 * The deadline that the server is told is later than ours by this, so that
 * ours ends the call.  Milliseconds.
 */
#define SERVER_GRACE		500

#define NO_GRPC_STATUS_YET	(-2)
#define ERROR_SIZE			256
#define EXCERPT				200 /* bytes kept of what is not gRPC */

struct Grpc
{
	nghttp2_session *session;
	bool		is_tls;
	char	   *authority;
	size_t	   *stored;			/* see grpc_create() */

	bool		open;			/* the server's settings have come */
	bool		closing;		/* it has sent GOAWAY, or its streams are
								 * almost used up */
	bool		got_goaway;
	uint32_t	goaway_code;	/* of HTTP/2 */
	char		error[ERROR_SIZE];	/* not empty: the connection is gone */
	char		detail[ERROR_SIZE]; /* the last message of nghttp2, since then */
	uint8_t		first[EXCERPT]; /* the first bytes that came, for explain() */
	size_t		nfirst;

	uint8_t    *out;			/* to be sent */
	size_t		out_len;
	size_t		out_off;
	size_t		out_size;
	bool		was_sent;		/* some of it */

	RingLink	calls;			/* all, oldest first */
	RingLink	ready;			/* with something to deliver, in order */
	RingLink	delivering;		/* of those, the ones of this round */
	GrpcCall   *current;		/* whose callback is running */
	int			ncalls;			/* of "calls" */
};

struct GrpcCall
{
	Grpc	   *grpc;
	RingLink	in_calls;
	RingLink	in_ready;
	GrpcCallbacks callbacks;
	void	   *arg;
	bool		is_stream;

	const char *path;
	char	   *token;			/* until it is submitted */
	int64_t		timeout;
	int64_t		deadline;		/* -1: none */
	int32_t		id;				/* of the stream; 0: not submitted */
	bool		sent;			/* the server may have got some of it */

	uint8_t    *out;			/* messages that are not sent yet */
	size_t		out_len;
	size_t		out_off;
	size_t		out_size;
	bool		deferred;		/* nghttp2 waits for more of them */

	uint8_t    *in;				/* what has come and is not delivered */
	size_t		in_len;
	size_t		in_off;
	size_t		in_size;
	size_t		scanned;		/* start of the incomplete message */
	int			nmessages;		/* that have come */

	size_t		header_len;
	int			http_status;	/* 0: none yet */
	bool		is_grpc;		/* according to its content type */
	bool		got_end;		/* the server has ended the response */
	int			status;
	char		message[ERROR_SIZE * 2];

	bool		ended;			/* "done" is to be called */
	bool		cancelled;		/* in its own callback, or it is its last one:
								 * to be freed then */
	bool		delivered;
	bool		ambiguous;
	bool		too_long;
	char		error[ERROR_SIZE];
};

/* ----------------------------------------------------------------
 *		Memory
 * ----------------------------------------------------------------
 */

static void
free_bytes(const GrpcCall *call, uint8_t *bytes, size_t size)
{
	if (bytes != NULL && call->callbacks.secret)
		explicit_bzero(bytes, size);
	free(bytes);
}

static void
free_string(char *secret)
{
	if (secret != NULL)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

static void
free_in(GrpcCall *call)
{
	assert(*call->grpc->stored >= call->in_size);
	*call->grpc->stored -= call->in_size;
	free_bytes(call, call->in, call->in_size);
	call->in = NULL;
	call->in_len = call->in_off = call->in_size = call->scanned = 0;
}

static void
free_out(GrpcCall *call)
{
	free_bytes(call, call->out, call->out_size);
	call->out = NULL;
	call->out_len = call->out_off = call->out_size = 0;
}

static void
free_call(GrpcCall *call)
{
	if (ring_has(&call->in_calls))
		call->grpc->ncalls--;
	ring_remove(&call->in_calls);
	ring_remove(&call->in_ready);
	free_string(call->token);
	free_out(call);
	free_in(call);
	free(call);
}

/* Keep only what is printable. */
static void
copy_printable(char *dst, size_t size, const uint8_t *src, size_t len)
{
	size_t		n = 0;
	size_t		i;

	for (i = 0; i < len && n + 1 < size; i++)
		dst[n++] = src[i] >= ' ' && src[i] <= '~' ? (char) src[i] : ' ';
	dst[n] = '\0';
}

/* ----------------------------------------------------------------
 *		The end of a call
 * ----------------------------------------------------------------
 */

static void
make_ready(GrpcCall *call)
{
	if (!ring_has(&call->in_ready))
		ring_append(&call->grpc->ready, &call->in_ready, call);
}

/* From here on, nghttp2 does not know the call. */
static void
detach(GrpcCall *call)
{
	if (call->id == 0 || call->grpc->session == NULL)
		return;
	nghttp2_session_set_stream_user_data(call->grpc->session, call->id, NULL);
	call->id = 0;
}

/* Tell the server that nobody waits for its response any longer. */
static void
reset_stream(GrpcCall *call)
{
	int32_t		id = call->id;

	if (id == 0 || call->grpc->session == NULL)
		return;
	detach(call);
	nghttp2_submit_rst_stream(call->grpc->session, NGHTTP2_FLAG_NONE, id,
							  NGHTTP2_CANCEL);
}

static void
end_call(GrpcCall *call)
{
	assert(!call->ended && !call->cancelled);
	detach(call);
	free_out(call);
	call->ended = true;
	make_ready(call);
}

static void
end_undelivered(GrpcCall *call, bool ambiguous, const char *error)
{
	call->delivered = false;
	call->ambiguous = ambiguous;
	snprintf(call->error, sizeof(call->error), "%s", error);
	end_call(call);
}

/* Give up a call whose data exceeds a limit. */
static void
refuse(GrpcCall *call, const char *what, size_t limit)
{
	char		error[ERROR_SIZE];

	snprintf(error, sizeof(error), "%s longer than %zu bytes", what, limit);
	call->too_long = true;
	reset_stream(call);
	end_undelivered(call, true, error);
}

/* The data violates the protocol. */
static void
refuse_broken(GrpcCall *call, const char *error)
{
	reset_stream(call);
	end_undelivered(call, true, error);
}

/* The server has ended the response, and there is a status. */
static void
end_with_status(GrpcCall *call)
{
	if (call->status == 0 && !call->is_stream && call->nmessages == 0)
	{
		end_undelivered(call, true, "the response has no message");
		return;
	}
	if (call->status == 0 && call->scanned != call->in_len)
	{
		end_undelivered(call, true, "the response ends in the middle of a message");
		return;
	}
	call->delivered = true;
	end_call(call);
}

/* The HTTP response of a server that does not speak gRPC. */
static void
end_without_grpc(GrpcCall *call)
{
	char		excerpt[EXCERPT + 1];

	copy_printable(excerpt, sizeof(excerpt), call->in, call->in_len);
	snprintf(call->message, sizeof(call->message),
			 "HTTP status %d instead of a response from etcd%s%s", call->http_status,
			 excerpt[0] != '\0' ? ": " : "", excerpt);
	call->status = GRPC_NO_STATUS;
	call->delivered = true;
	end_call(call);
}

static void
stream_closed(GrpcCall *call, uint32_t code)
{
	char		error[ERROR_SIZE];

	if (call->got_end && call->http_status != 0 && !call->is_grpc)
		end_without_grpc(call);
	else if (call->got_end && call->status >= 0)
		end_with_status(call);
	else if (code == NGHTTP2_REFUSED_STREAM)
		end_undelivered(call, false, "refused by the server without being processed");
	else
	{
		if (code == NGHTTP2_NO_ERROR)
			snprintf(error, sizeof(error), "the response ends without a status");
		else
			snprintf(error, sizeof(error), "reset by the server: %s",
					 nghttp2_http2_strerror(code));
		end_undelivered(call, call->sent, error);
	}
}

/* ----------------------------------------------------------------
 *		Receiving: callbacks of nghttp2's
 * ----------------------------------------------------------------
 */

static GrpcCall *
call_of(nghttp2_session *session, int32_t id)
{
	return nghttp2_session_get_stream_user_data(session, id);
}

/* Returns a number of one to three digits, or -1. */
static int
parse_status(const uint8_t *value, size_t len)
{
	int			status = 0;
	size_t		i;

	if (len == 0 || len > 3)
		return -1;
	for (i = 0; i < len; i++)
	{
		if (value[i] < '0' || value[i] > '9')
			return -1;
		status = status * 10 + (value[i] - '0');
	}
	return status;
}

static int
hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* grpc-message is percent-encoded. */
static void
decode_message(char *dst, size_t size, const uint8_t *value, size_t len)
{
	size_t		n = 0;
	size_t		i;

	for (i = 0; i < len && n + 1 < size; i++)
	{
		int			c = value[i];

		if (c == '%' && len - i > 2 &&
			hex_digit(value[i + 1]) >= 0 && hex_digit(value[i + 2]) >= 0)
		{
			c = hex_digit(value[i + 1]) << 4 | hex_digit(value[i + 2]);
			i += 2;
		}
		dst[n++] = c != '\0' ? (char) c : ' ';
	}
	dst[n] = '\0';
}

static bool
name_is(const uint8_t *name, size_t len, const char *expected)
{
	return len == strlen(expected) && memcmp(name, expected, len) == 0;
}

static int
header_received(nghttp2_session *session, const nghttp2_frame *frame,
				const uint8_t *name, size_t name_len, const uint8_t *value,
				size_t value_len, uint8_t flags, void *arg)
{
	static const char grpc_type[] = "application/grpc";
	GrpcCall   *call = call_of(session, frame->hd.stream_id);

	(void) flags;
	(void) arg;
	if (call == NULL)
		return 0;
	call->header_len += name_len + value_len + 32;	/* as RFC 9113 counts */
	if (call->header_len > GRPC_MAX_HEADER)
	{
		refuse(call, "the header of the response is", GRPC_MAX_HEADER);
		return 0;
	}
	if (name_is(name, name_len, ":status"))
		call->http_status = parse_status(value, value_len);
	else if (name_is(name, name_len, "content-type"))
		call->is_grpc = value_len >= sizeof(grpc_type) - 1 &&
			memcmp(value, grpc_type, sizeof(grpc_type) - 1) == 0;
	else if (name_is(name, name_len, "grpc-status"))
	{
		call->status = parse_status(value, value_len);
		if (call->status < 0)
			refuse_broken(call, "the status of the response is not a number");
	}
	else if (name_is(name, name_len, "grpc-message"))
		decode_message(call->message, sizeof(call->message), value, value_len);
	return 0;
}

/* Make room for "more" bytes, or end the call if that exceeds a limit. */
static bool
reserve_in(GrpcCall *call, size_t more)
{
	Grpc	   *grpc = call->grpc;
	size_t		max = call->callbacks.max_message + FRAME_HEADER +
		(call->is_stream ? STREAM_WINDOW : 0);
	size_t		size = call->in_size == 0 ? FIRST_SIZE : call->in_size;
	uint8_t    *in;

	assert(call->in_len <= max && call->in_len <= call->in_size);
	assert(*grpc->stored <= GRPC_MAX_STORED);
	if (more > max - call->in_len)
	{
		refuse(call, call->is_stream ? "the unread part of the stream is" : "the response is",
			   max - FRAME_HEADER);
		return false;
	}
	while (size < call->in_len + more)
		size *= 2;
	if (size == call->in_size)
		return true;
	if (size - call->in_size > GRPC_MAX_STORED - *grpc->stored)
	{
		refuse(call, "the responses in flight are", GRPC_MAX_STORED);
		return false;
	}
	in = call->callbacks.secret ? malloc(size) : realloc(call->in, size);
	if (in == NULL)
	{
		refuse_broken(call, "out of memory");
		return false;
	}
	if (call->callbacks.secret)
	{
		if (call->in_len > 0)
			memcpy(in, call->in, call->in_len);
		free_bytes(call, call->in, call->in_size);
	}
	*grpc->stored += size - call->in_size;
	call->in = in;
	call->in_size = size;
	return true;
}

static size_t
message_len(const uint8_t *header)
{
	return (size_t) header[1] << 24 | (size_t) header[2] << 16 |
		(size_t) header[3] << 8 | (size_t) header[4];
}

/* Find the ends of messages, or end the call if one is invalid. */
static void
scan_messages(GrpcCall *call)
{
	while (call->in_len - call->scanned >= FRAME_HEADER)
	{
		const uint8_t *header = call->in + call->scanned;
		size_t		len = message_len(header);

		if (header[0] != 0)
		{
			refuse_broken(call, "the response is compressed, although this was not requested");
			return;
		}
		if (len > call->callbacks.max_message)
		{
			refuse(call, "the response is", call->callbacks.max_message);
			return;
		}
		if (call->in_len - call->scanned - FRAME_HEADER < len)
			return;
		if (++call->nmessages > 1 && !call->is_stream)
		{
			refuse_broken(call, "the response has more than one message");
			return;
		}
		call->scanned += FRAME_HEADER + len;
		if (call->is_stream)
			make_ready(call);
	}
}

static int
data_received(nghttp2_session *session, uint8_t flags, int32_t id,
			  const uint8_t *data, size_t len, void *arg)
{
	GrpcCall   *call = call_of(session, id);

	(void) flags;
	(void) arg;
	if (call == NULL)
		return 0;
	if (!call->is_grpc)
	{
		/* for an error message, the beginning is enough */
		size_t		room = call->in_len < EXCERPT ? EXCERPT - call->in_len : 0;

		len = len < room ? len : room;
	}
	if (len == 0 || !reserve_in(call, len))
		return 0;
	memcpy(call->in + call->in_len, data, len);
	call->in_len += len;
	if (call->is_grpc)
		scan_messages(call);
	return 0;
}

static void submit(GrpcCall *call);

/* The server speaks HTTP/2: what has waited may be sent now. */
static void
opened(Grpc *grpc)
{
	RingLink   *link;

	grpc->open = true;
	for (link = grpc->calls.next; link != &grpc->calls; link = link->next)
	{
		GrpcCall   *call = link->element;

		if (call->id == 0 && !call->ended)
			submit(call);
	}
}

/*
 * If the request has not ended, which that of a stream never does, nghttp2 does
 * not close the stream, and the server need not reset it: so that is up to us.
 */
static void
response_ended(GrpcCall *call)
{
	call->got_end = true;
	if (!call->is_stream && call->out == NULL)
		return;
	reset_stream(call);
	stream_closed(call, NGHTTP2_NO_ERROR);
}

static int
frame_received(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	Grpc	   *grpc = arg;
	GrpcCall   *call;

	switch (frame->hd.type)
	{
		case NGHTTP2_SETTINGS:
			if (!grpc->open && (frame->hd.flags & NGHTTP2_FLAG_ACK) == 0)
				opened(grpc);
			break;
		case NGHTTP2_GOAWAY:
			grpc->closing = true;
			grpc->got_goaway = true;
			grpc->goaway_code = frame->goaway.error_code;
			grpc->detail[0] = '\0';
			break;
		case NGHTTP2_HEADERS:
		case NGHTTP2_DATA:
			call = call_of(session, frame->hd.stream_id);
			if (call != NULL && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
				response_ended(call);
			break;
	}
	return 0;
}

static int
stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
	GrpcCall   *call = call_of(session, id);

	(void) arg;
	if (call != NULL)
		stream_closed(call, code);
	return 0;
}

/* From here on, the server may have received a part of the request. */
static int
before_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	(void) arg;
	if (frame->hd.type == NGHTTP2_HEADERS)
	{
		GrpcCall   *call = call_of(session, frame->hd.stream_id);

		if (call != NULL)
			call->sent = true;
	}
	return 0;
}

/*
 * A request that cannot be sent, for example because the server says it is too
 * long.
 */
static int
frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int code,
			   void *arg)
{
	GrpcCall   *call;

	(void) arg;
	if (frame->hd.type != NGHTTP2_HEADERS)
		return 0;
	call = call_of(session, frame->hd.stream_id);
	if (call != NULL)
		end_undelivered(call, false, nghttp2_strerror(code));
	return 0;
}

static int
note_detail(nghttp2_session *session, int code, const char *text, size_t len,
			void *arg)
{
	Grpc	   *grpc = arg;

	(void) session;
	(void) code;
	copy_printable(grpc->detail, sizeof(grpc->detail), (const uint8_t *) text, len);
	return 0;
}

/* ----------------------------------------------------------------
 *		Sending
 * ----------------------------------------------------------------
 */

/* nghttp2 wants more of a request. */
static ssize_t
give_data(nghttp2_session *session, int32_t id, uint8_t *buf, size_t size,
		  uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	GrpcCall   *call = call_of(session, id);
	size_t		n;

	(void) source;
	(void) arg;
	if (call == NULL)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;	/* it is reset */
	n = call->out_len - call->out_off;
	if (n == 0 && call->is_stream)
	{
		call->deferred = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	if (n > size)
		n = size;
	memcpy(buf, call->out + call->out_off, n);
	call->out_off += n;
	if (call->out_off == call->out_len)
	{
		free_out(call);
		if (!call->is_stream)
			*flags |= NGHTTP2_DATA_FLAG_EOF;
	}
	return (ssize_t) n;
}

/*
 * Make room for so many bytes of messages.  A larger piece is a new one, so
 * that a secret leaves no copy, and begins with what is not sent yet.
 */
static bool
reserve_out(GrpcCall *call, size_t more)
{
	size_t		unsent = call->out_len - call->out_off;
	size_t		size = (unsent + more) * (unsent > 0 ? 2 : 1);
	uint8_t    *out;

	assert(call->out_off <= call->out_len && call->out_len <= call->out_size);
	if (more <= call->out_size - call->out_len)
		return true;
	out = malloc(size);
	if (out == NULL)
		return false;
	if (unsent > 0)
		memcpy(out, call->out + call->out_off, unsent);
	free_out(call);
	call->out = out;
	call->out_len = unsent;
	call->out_size = size;
	return true;
}

static bool
append_message(GrpcCall *call, const void *data, size_t len)
{
	uint8_t    *to;

	if (len > GRPC_MAX_MESSAGE || !reserve_out(call, FRAME_HEADER + len))
		return false;
	to = call->out + call->out_len;
	to[0] = 0;
	to[1] = (uint8_t) (len >> 24);
	to[2] = (uint8_t) (len >> 16);
	to[3] = (uint8_t) (len >> 8);
	to[4] = (uint8_t) len;
	if (len > 0)
		memcpy(to + FRAME_HEADER, data, len);
	call->out_len += FRAME_HEADER + len;
	return true;
}

static nghttp2_nv
header(const char *name, const char *value)
{
	nghttp2_nv	nv = {
		(uint8_t *) name, (uint8_t *) value, strlen(name), strlen(value),
		NGHTTP2_NV_FLAG_NONE
	};

	return nv;
}

/* Give the request to nghttp2. */
static void
submit(GrpcCall *call)
{
	Grpc	   *grpc = call->grpc;
	nghttp2_data_provider provider = {{0}, give_data};
	nghttp2_nv	headers[10];
	char		timeout[32];
	size_t		n = 0;
	int32_t		id;

	headers[n++] = header(":method", "POST");
	headers[n++] = header(":scheme", grpc->is_tls ? "https" : "http");
	headers[n++] = header(":path", call->path);
	headers[n++] = header(":authority", grpc->authority);
	headers[n++] = header("te", "trailers");
	headers[n++] = header("content-type", "application/grpc");
	headers[n++] = header("user-agent", "etcd_lock");
	/* fail at once if etcd has no leader */
	headers[n++] = header("hasleader", "true");
	if (call->timeout > 0 && !call->is_stream)
	{
		snprintf(timeout, sizeof(timeout), "%dm",
				 (int) (call->timeout / 1000) + SERVER_GRACE);
		headers[n++] = header("grpc-timeout", timeout);
	}
	if (call->token != NULL)
	{
		/* keep it out of the other side's tables */
		headers[n] = header("token", call->token);
		headers[n++].flags = NGHTTP2_NV_FLAG_NO_INDEX;
	}
	id = nghttp2_submit_request(grpc->session, NULL, headers, n, &provider, call);
	free_string(call->token);
	call->token = NULL;
	if (id < 0)
	{
		end_undelivered(call, false, nghttp2_strerror(id));
		return;
	}
	call->id = id;
	if (id >= LAST_STREAM_ID)
		grpc->closing = true;
}

/* ----------------------------------------------------------------
 *		The connection's side
 * ----------------------------------------------------------------
 */

static bool
set_up_session(Grpc *grpc)
{
	static const nghttp2_settings_entry settings[] = {
		{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, GRPC_MAX_HEADER}
	};
	nghttp2_session_callbacks *callbacks;
	int			rc;

	if (nghttp2_session_callbacks_new(&callbacks) != 0)
		return false;
	nghttp2_session_callbacks_set_on_header_callback(callbacks, header_received);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, data_received);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, frame_received);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, stream_close);
	nghttp2_session_callbacks_set_before_frame_send_callback(callbacks, before_frame_send);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, frame_not_sent);
	nghttp2_session_callbacks_set_error_callback2(callbacks, note_detail);
	rc = nghttp2_session_client_new(&grpc->session, callbacks, grpc);
	nghttp2_session_callbacks_del(callbacks);
	return rc == 0 &&
		nghttp2_submit_settings(grpc->session, NGHTTP2_FLAG_NONE, settings,
								sizeof(settings) / sizeof(settings[0])) == 0 &&
		nghttp2_session_set_local_window_size(grpc->session, NGHTTP2_FLAG_NONE, 0,
											  CONNECTION_WINDOW) == 0;
}

Grpc *
grpc_create(bool is_tls, const char *authority, size_t *stored)
{
	Grpc	   *grpc = calloc(1, sizeof(Grpc));

	if (grpc == NULL)
		return NULL;
	grpc->is_tls = is_tls;
	grpc->stored = stored;
	ring_init(&grpc->calls);
	ring_init(&grpc->ready);
	ring_init(&grpc->delivering);
	grpc->authority = strdup(authority);
	if (grpc->authority == NULL || !set_up_session(grpc))
	{
		grpc_destroy(grpc);
		return NULL;
	}
	return grpc;
}

void
grpc_destroy(Grpc *grpc)
{
	nghttp2_session *session;

	if (grpc == NULL)
		return;
	assert(grpc->current == NULL);
	/* without callbacks for streams that end by this */
	session = grpc->session;
	while (!ring_is_empty(&grpc->calls))
	{
		GrpcCall   *call = grpc->calls.next->element;

		detach(call);
		free_call(call);
	}
	assert(grpc->ncalls == 0);
	grpc->session = NULL;
	nghttp2_session_del(session);
	free(grpc->authority);
	if (grpc->out != NULL)
		explicit_bzero(grpc->out, grpc->out_size);
	free(grpc->out);
	free(grpc);
}

/* Guess the protocol from the first bytes. */
static const char *
guess_protocol(const Grpc *grpc)
{
	if (grpc->nfirst >= 5 && memcmp(grpc->first, "HTTP/", 5) == 0)
		return "speaks HTTP/1 only";
	if (!grpc->is_tls && grpc->nfirst >= 2 && grpc->first[0] == 0x15 &&
		grpc->first[1] == 0x03)
		return "speaks TLS (is it an https endpoint?)";
	return "does not speak HTTP/2";
}

/* Before its settings, an error means that the server is not etcd: say what it may be. */
static void
explain(Grpc *grpc, const char *error, char *text, size_t size)
{
	char		excerpt[EXCERPT + 1];
	size_t		len = 0;

	if (grpc->open || !grpc->was_sent)
	{
		snprintf(text, size, "%s", error);
		return;
	}
	if (grpc->nfirst == 0)
	{
		snprintf(text, size, "%s%s", error,
				 grpc->is_tls ? "" : " (does the endpoint speak https?)");
		return;
	}
	/* the first line, for a protocol of lines */
	while (len < grpc->nfirst && grpc->first[len] >= ' ' && grpc->first[len] <= '~')
		len++;
	copy_printable(excerpt, sizeof(excerpt), grpc->first, len);
	snprintf(text, size, "the endpoint %s%s%.100s", guess_protocol(grpc),
			 len > 4 ? ": " : "", len > 4 ? excerpt : "");
	if (len > 4 && strstr(excerpt, "400 Bad Request") != NULL && !grpc->is_tls)
		snprintf(text, size, "the endpoint %s: %.60s (does the endpoint speak https?)",
				 guess_protocol(grpc), excerpt);
}

void
grpc_fail(Grpc *grpc, const char *error)
{
	RingLink   *link;

	if (grpc->error[0] != '\0')
		return;
	explain(grpc, error, grpc->error, sizeof(grpc->error));
	for (link = grpc->calls.next; link != &grpc->calls; link = link->next)
	{
		GrpcCall   *call = link->element;

		if (!call->ended && !call->cancelled)
			end_undelivered(call, call->sent, grpc->error);
	}
}

const char *
grpc_error(const Grpc *grpc)
{
	return grpc->error;
}

/*
 * nghttp2 has ended the session: one of the two sides has broken the rules, or
 * the server has closed it, after the last call that it has taken.
 */
static void
session_ended(Grpc *grpc)
{
	char		error[ERROR_SIZE];

	if (grpc->detail[0] != '\0')
		snprintf(error, sizeof(error), "%s", grpc->detail);
	else if (!grpc->got_goaway)
		snprintf(error, sizeof(error), "the server violated the HTTP/2 protocol");
	else if (grpc->goaway_code == NGHTTP2_NO_ERROR)
		snprintf(error, sizeof(error), "the server closed the connection");
	else
		snprintf(error, sizeof(error), "the server closed the connection: %s",
				 nghttp2_http2_strerror(grpc->goaway_code));
	grpc_fail(grpc, error);
}

/* Later ones are not needed, and may be secret. */
static void
keep_first(Grpc *grpc, const void *data, size_t len)
{
	size_t		room = sizeof(grpc->first) - grpc->nfirst;

	if (len > room)
		len = room;
	memcpy(grpc->first + grpc->nfirst, data, len);
	grpc->nfirst += len;
}

bool
grpc_receive(Grpc *grpc, const void *data, size_t len)
{
	ssize_t		used;

	assert(grpc->current == NULL);
	if (grpc->error[0] != '\0')
		return false;
	if (!grpc->open)
		keep_first(grpc, data, len);
	used = nghttp2_session_mem_recv(grpc->session, data, len);
	if (used < 0)
		grpc_fail(grpc, nghttp2_strerror((int) used));
	else if (!nghttp2_session_want_read(grpc->session))
		session_ended(grpc);
	return grpc->error[0] == '\0';
}

static bool
append_out(Grpc *grpc, const uint8_t *data, size_t len)
{
	size_t		need = grpc->out_len + len;

	if (need > grpc->out_size)
	{
		size_t		size = need > WRITE_SIZE ? need * 2 : WRITE_SIZE;
		uint8_t    *out = malloc(size);

		if (out == NULL)
			return false;
		if (grpc->out_len > 0)
			memcpy(out, grpc->out, grpc->out_len);
		if (grpc->out != NULL)
			explicit_bzero(grpc->out, grpc->out_size);
		free(grpc->out);
		grpc->out = out;
		grpc->out_size = size;
	}
	memcpy(grpc->out + grpc->out_len, data, len);
	grpc->out_len = need;
	return true;
}

/* Prepare many frames for one write. */
static void
fill_out(Grpc *grpc)
{
	grpc->out_off = grpc->out_len = 0;
	while (grpc->error[0] == '\0' && grpc->out_len < WRITE_SIZE / 2)
	{
		const uint8_t *frame;
		ssize_t		n = nghttp2_session_mem_send(grpc->session, &frame);

		if (n == 0)
		{
			/* it ends itself, when it has told the server of an error */
			if (!nghttp2_session_want_read(grpc->session))
				session_ended(grpc);
			break;
		}
		if (n < 0)
			grpc_fail(grpc, nghttp2_strerror((int) n));
		else if (!append_out(grpc, frame, (size_t) n))
			grpc_fail(grpc, "out of memory");
	}
}

/*
 * Bytes stay where they are until all of them are sent: when OpenSSL could not
 * write something, it insists on being called with the same bytes at the same
 * place.
 */
size_t
grpc_to_send(Grpc *grpc, const void **data)
{
	if (grpc->out_off == grpc->out_len)
		fill_out(grpc);
	*data = grpc->out + grpc->out_off;
	return grpc->error[0] == '\0' ? grpc->out_len - grpc->out_off : 0;
}

void
grpc_sent(Grpc *grpc, size_t len)
{
	assert(len <= grpc->out_len - grpc->out_off);
	grpc->out_off += len;
	grpc->was_sent = true;
}

bool
grpc_is_open(const Grpc *grpc)
{
	return grpc->open && grpc->error[0] == '\0';
}

bool
grpc_is_closing(const Grpc *grpc)
{
	return grpc->closing;
}

int
grpc_ncalls(const Grpc *grpc)
{
	return grpc->ncalls;
}

void
grpc_expire(Grpc *grpc, int64_t now)
{
	RingLink   *link;

	for (link = grpc->calls.next; link != &grpc->calls; link = link->next)
	{
		GrpcCall   *call = link->element;
		char		error[ERROR_SIZE];

		if (call->ended || call->deadline < 0 || call->deadline > now)
			continue;
		snprintf(error, sizeof(error), "no response within %d ms",
				 (int) (call->timeout / 1000));
		reset_stream(call);
		end_undelivered(call, call->sent, error);
	}
}

int64_t
grpc_next_expiry(const Grpc *grpc)
{
	const RingLink *link;
	int64_t		next = -1;

	for (link = grpc->calls.next; link != &grpc->calls; link = link->next)
	{
		const GrpcCall *call = link->element;

		if (!call->ended && call->deadline >= 0 &&
			(next < 0 || call->deadline < next))
			next = call->deadline;
	}
	return next;
}

/* ----------------------------------------------------------------
 *		Delivery
 * ----------------------------------------------------------------
 */

/* Discard the messages that were delivered. */
static void
discard_delivered(GrpcCall *call)
{
	assert(call->in_off <= call->scanned && call->scanned <= call->in_len);
	if (call->in_off == call->in_len)
	{
		free_in(call);
		return;
	}
	memmove(call->in, call->in + call->in_off, call->in_len - call->in_off);
	call->in_len -= call->in_off;
	call->scanned -= call->in_off;
	call->in_off = 0;
}

static void
deliver_messages(GrpcCall *call)
{
	while (!call->cancelled && call->in_off < call->scanned)
	{
		const uint8_t *header_bytes = call->in + call->in_off;
		size_t		len = message_len(header_bytes);

		call->in_off += FRAME_HEADER + len;
		call->callbacks.message(call->arg, header_bytes + FRAME_HEADER, len);
	}
	if (!call->cancelled && call->in_off > 0)
		discard_delivered(call);
}

static void
deliver_done(GrpcCall *call)
{
	GrpcReply	reply = {.delivered = call->delivered};

	if (call->delivered)
	{
		reply.status = call->status;
		reply.message = call->message;
		if (call->status == 0 && !call->is_stream)
		{
			assert(call->nmessages == 1 && call->scanned == call->in_len);
			reply.data = call->in + FRAME_HEADER;
			reply.len = call->in_len - FRAME_HEADER;
		}
	}
	else
	{
		reply.error = call->error;
		reply.ambiguous = call->ambiguous;
		reply.too_long = call->too_long;
	}
	call->cancelled = true;		/* whatever its callback does, it is freed */
	call->callbacks.done(call->arg, &reply);
}

/*
 * Deliver what is ready now.  What becomes ready meanwhile waits for the next
 * time; otherwise a callback that always makes another call would keep us here
 * forever.
 */
void
grpc_deliver(Grpc *grpc)
{
	assert(grpc->current == NULL && ring_is_empty(&grpc->delivering));
	ring_take_all(&grpc->delivering, &grpc->ready);
	while (!ring_is_empty(&grpc->delivering))
	{
		GrpcCall   *call = grpc->delivering.next->element;

		ring_remove(&call->in_ready);
		grpc->current = call;
		if (call->is_stream)
			deliver_messages(call);
		if (!call->cancelled && call->ended)
			deliver_done(call);
		grpc->current = NULL;
		if (call->cancelled)
			free_call(call);
	}
}

bool
grpc_has_ready(const Grpc *grpc)
{
	return !ring_is_empty(&grpc->ready);
}

/* ----------------------------------------------------------------
 *		The caller's side
 * ----------------------------------------------------------------
 */

static GrpcCall *
make_call(Grpc *grpc, const GrpcRequest *request, bool is_stream,
		  const GrpcCallbacks *callbacks, void *arg)
{
	GrpcCall   *call;

	if (grpc->error[0] != '\0' || grpc->closing)
		return NULL;
	call = calloc(1, sizeof(GrpcCall));
	if (call == NULL)
		return NULL;
	call->grpc = grpc;
	call->callbacks = *callbacks;
	if (call->callbacks.max_message == 0)
		call->callbacks.max_message = GRPC_MAX_MESSAGE;
	call->arg = arg;
	call->is_stream = is_stream;
	call->path = request->path;
	call->timeout = request->timeout;
	call->deadline = request->timeout > 0 ? request->now + request->timeout : -1;
	call->status = NO_GRPC_STATUS_YET;
	if (request->token != NULL)
		call->token = strdup(request->token);
	if ((request->token != NULL && call->token == NULL) ||
		!append_message(call, request->data, request->len))
	{
		free_call(call);
		return NULL;
	}
	ring_append(&grpc->calls, &call->in_calls, call);
	grpc->ncalls++;
	if (grpc->open)
		submit(call);
	return call;
}

GrpcCall *
grpc_call(Grpc *grpc, const GrpcRequest *request, const GrpcCallbacks *callbacks,
		  void *arg)
{
	return make_call(grpc, request, false, callbacks, arg);
}

GrpcCall *
grpc_stream(Grpc *grpc, const GrpcRequest *request, const GrpcCallbacks *callbacks,
			void *arg)
{
	return make_call(grpc, request, true, callbacks, arg);
}

bool
grpc_send(GrpcCall *call, const void *data, size_t len)
{
	assert(call->is_stream);
	if (call->ended || call->cancelled ||
		call->out_len - call->out_off + len > GRPC_MAX_UNSENT ||
		!append_message(call, data, len))
		return false;
	if (call->deferred)
	{
		call->deferred = false;
		nghttp2_session_resume_data(call->grpc->session, call->id);
	}
	return true;
}

void
grpc_cancel(GrpcCall *call)
{
	reset_stream(call);
	call->cancelled = true;
	if (call->grpc->current != call)
		free_call(call);
}

void
grpc_abort(GrpcCall *call, const char *error)
{
	if (call->ended || call->cancelled)
		return;
	reset_stream(call);
	end_undelivered(call, call->sent, error);
}

void
grpc_cancel_all(Grpc *grpc)
{
	RingLink   *link = grpc->calls.next;

	while (link != &grpc->calls)
	{
		GrpcCall   *call = link->element;

		link = link->next;
		grpc_cancel(call);
	}
}
