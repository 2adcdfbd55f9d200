/*-------------------------------------------------------------------------
 *
 * test_net.c
 *	  Unit test of target.c, of loop.c, and of grpc.c by frames made by hand.
 *
 *-------------------------------------------------------------------------
 */
#include <malloc.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nghttp2/nghttp2.h>

#include "net/grpc.h"
#include "net/loop.h"
#include "net/target.h"
#include "tap.h"

static void
test_targets(void)
{
	static const struct
	{
		const char *url;
		bool		is_tls;
		const char *host;
		int			port;
		bool		is_numeric;
	}			good[] = {
		{"http://127.0.0.1:2379", false, "127.0.0.1", 2379, true},
		{"https://etcd-1.example:2379/", true, "etcd-1.example", 2379, false},
		{"http://[::1]:2379", false, "::1", 2379, true},
		{"https://h", true, "h", 443, false},
		{"http://h", false, "h", 80, false},
	};
	static const char *const bad[] = {
		"", "h:2379", "ftp://h", "http://", "http://:2379", "http://h:0", "http://h:65536",
		"http://h:port", "http://h:1/v3", "http://u@h", "http://h?x", "http://h#x",
		"http://[::1", "http://[h]:1", "http://[::1]x", "http://h h", "http://h:1 ", "http://::1:2379"
	};
	Target		target;
	size_t		i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		ok(target_parse(good[i].url, &target) && target.is_tls == good[i].is_tls &&
		   strcmp(target.host, good[i].host) == 0 && target.port == good[i].port &&
		   target.is_numeric == good[i].is_numeric, "%s", good[i].url);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(!target_parse(bad[i], &target), "not \"%s\"", bad[i]);
}

/* ---- the loop ---- */

typedef struct Task
{
	LoopTask	task;
	int			runs;
	LoopTask   *remove;			/* when it runs */
} Task;

static void
run_task(void *arg)
{
	Task	   *task = arg;

	task->runs++;
	task->task.due = LOOP_NEVER;
	if (task->remove != NULL)
		loop_remove(task->remove);
}

static bool
is_due(const Loop *loop)
{
	struct pollfd fd = {loop_fd(loop), POLLIN, 0};

	return poll(&fd, 1, 0) > 0;
}

static void
test_loop(void)
{
	Loop	   *loop = loop_create();
	Task		a = {.runs = 0};
	Task		b = {.runs = 0};
	int			fds[2];

	loop_add(loop, &a.task, run_task, &a);
	loop_add(loop, &b.task, run_task, &b);
	ok(loop_timeout(loop) == -1, "nothing is due");
	a.task.due = loop_now() + 1000000;
	ok(loop_timeout(loop) > 900 && loop_timeout(loop) <= 1000, "a timer");
	a.task.due = b.task.due = loop_now();
	a.remove = &b.task;
	loop_run(loop);
	ok(a.runs == 1 && b.runs == 0, "a task that was removed does not run");
	a.task.due = loop_now();
	a.remove = &a.task;
	loop_run(loop);
	ok(a.runs == 2 && loop_timeout(loop) == -1, "a task removes itself");

	a.remove = NULL;
	loop_add(loop, &a.task, run_task, &a);
	ok(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0, "sockets");
	loop_watch(&a.task, fds[0], true, false);
	ok(!is_due(loop), "nothing to read");
	close(fds[1]);
	ok(is_due(loop), "the other end is gone");
	loop_run(loop);
	ok(a.runs == 3, "the task is told");
	loop_watch(&a.task, fds[0], false, false);
	ok(!is_due(loop), "what is neither read nor written is not watched");
	close(fds[0]);
	loop_remove(&a.task);
	loop_destroy(loop);
}

/* ---- calls ---- */

typedef struct Ended
{
	int			times;
	bool		delivered;
	bool		ambiguous;
	int			status;
	char		text[300];
	size_t		len;
} Ended;

static void
done(void *arg, const GrpcReply *reply)
{
	Ended	   *ended = arg;

	ended->times++;
	ended->delivered = reply->delivered;
	ended->ambiguous = reply->ambiguous;
	ended->status = reply->status;
	ended->len = reply->len;
	snprintf(ended->text, sizeof(ended->text), "%s", reply->delivered ? reply->message : reply->error);
}

static const GrpcCallbacks callbacks = {.done = done};
static size_t stored;

static Grpc *
open_connection(bool settings)
{
	Grpc	   *grpc = grpc_create(false, "h:1", &stored);

	if (settings)
		grpc_receive(grpc, "\0\0\0\4\0\0\0\0\0", 9);
	return grpc;
}

static void
send_all(Grpc *grpc)
{
	const void *data;
	size_t		len;

	while ((len = grpc_to_send(grpc, &data)) > 0)
		grpc_sent(grpc, len);
}

static GrpcCall *
call(Grpc *grpc, Ended *ended)
{
	GrpcRequest request = {.path = "/a.B/C",.data = "x",.len = 1,.now = 1000,.timeout = 5000};

	memset(ended, 0, sizeof(*ended));
	return grpc_call(grpc, &request, &callbacks, ended);
}

static void
receive(Grpc *grpc, uint8_t type, uint8_t flags, uint8_t stream, const char *payload, size_t len)
{
	uint8_t		frame[9 + 500] = {0, (uint8_t) (len >> 8), (uint8_t) len, type, flags, 0, 0, 0, stream};

	memcpy(frame + 9, payload, len);
	grpc_receive(grpc, frame, 9 + len);
}

#define HEADERS "\x88\0\014content-type\020application/grpc"
#define OK_TRAILERS "\0\013grpc-status\001" "0"
#define BYTES(text) text, sizeof(text) - 1
#define END_STREAM 1
#define END_HEADERS 4

static void
test_calls(void)
{
	Grpc	   *grpc = open_connection(true);
	Ended		a,
				b,
				c;

	call(grpc, &a);
	send_all(grpc);
	receive(grpc, 1, END_HEADERS, 1, BYTES(HEADERS));
	receive(grpc, 0, 0, 1, BYTES("\0\0\0\0\5he"));
	receive(grpc, 0, 0, 1, BYTES("llo"));
	grpc_deliver(grpc);
	ok(a.times == 0, "a response is not complete without its status");
	receive(grpc, 1, END_HEADERS | END_STREAM, 1, BYTES(OK_TRAILERS));
	grpc_deliver(grpc);
	ok(a.times == 1 && a.delivered && a.status == 0 && a.len == 5, "a response: %s", a.text);

	call(grpc, &a);
	send_all(grpc);
	receive(grpc, 1, END_HEADERS | END_STREAM, 3,
			BYTES(HEADERS "\0\013grpc-status\001" "7\0\014grpc-message\013no%21%0a%zz"));
	grpc_deliver(grpc);
	ok(a.delivered && a.status == 7 && strcmp(a.text, "no!\n%zz") == 0, "a refusal: %s", a.text);

	call(grpc, &a);
	call(grpc, &b);
	call(grpc, &c);
	send_all(grpc);
	receive(grpc, 3, 0, 5, BYTES("\0\0\0\7"));
	receive(grpc, 3, 0, 7, BYTES("\0\0\0\2"));
	grpc_deliver(grpc);
	ok(!a.delivered && !a.ambiguous, "refused without being processed: %s", a.text);
	ok(!b.delivered && b.ambiguous, "reset: %s", b.text);
	grpc_expire(grpc, 5999);
	grpc_deliver(grpc);
	ok(c.times == 0, "one has time left");
	ok(grpc_next_expiry(grpc) == 6000, "until then");
	grpc_expire(grpc, 6000);
	grpc_deliver(grpc);
	ok(c.times == 1 && !c.delivered && c.ambiguous, "and then none: %s", c.text);

	call(grpc, &a);
	call(grpc, &b);
	send_all(grpc);
	receive(grpc, 7, 0, 0, BYTES("\0\0\0\x0b\0\0\0\0"));	/* GOAWAY, up to 11 */
	grpc_deliver(grpc);
	ok(a.times == 0 && b.times == 1 && !b.ambiguous, "GOAWAY: what is above was not processed");
	ok(grpc_is_closing(grpc) && call(grpc, &c) == NULL, "and no other call is taken");
	receive(grpc, 1, END_HEADERS, 11, BYTES(HEADERS));
	receive(grpc, 0, 0, 11, BYTES("\0\0\0\0\0"));
	receive(grpc, 1, END_HEADERS | END_STREAM, 11, BYTES(OK_TRAILERS));
	grpc_deliver(grpc);
	ok(a.delivered && a.status == 0, "what was below is answered");
	grpc_destroy(grpc);
	is_int((long long) stored, 0, "nothing is left");
}

/* Sessions of nghttp2 begin with this stream: a test cannot make 2^30 calls. */
static int32_t first_id = 1;

int			__real_nghttp2_session_client_new(nghttp2_session **session,
											  const nghttp2_session_callbacks *callbacks, void *arg);
int			__wrap_nghttp2_session_client_new(nghttp2_session **session,
											  const nghttp2_session_callbacks *callbacks, void *arg);

int
__wrap_nghttp2_session_client_new(nghttp2_session **session,
								  const nghttp2_session_callbacks *callbacks, void *arg)
{
	int			rc = __real_nghttp2_session_client_new(session, callbacks, arg);

	if (rc == 0)
		rc = nghttp2_session_set_next_stream_id(*session, first_id);
	return rc;
}

static void
test_last_streams(void)
{
	Grpc	   *grpc;
	Ended		a,
				b;

	first_id = 0x7ffeffff;
	grpc = open_connection(true);
	first_id = 1;
	call(grpc, &a);
	ok(!grpc_is_closing(grpc), "so many streams may be used");
	call(grpc, &b);
	ok(grpc_is_closing(grpc), "then others are for another connection");
	ok(call(grpc, &b) == NULL, "no other call is taken");
	send_all(grpc);
	grpc_deliver(grpc);
	ok(a.times == 0 && b.times == 0, "those in flight go on");
	grpc_destroy(grpc);
}

/* TLS insists on the same bytes at the same place if it could not write them. */
static void
test_unsent(void)
{
	static char bytes[20000];
	Grpc	   *grpc = open_connection(true);
	GrpcRequest request = {.path = "/a.B/C",.data = bytes,.len = sizeof(bytes),.now = 1000,.timeout = 5000};
	Ended		ended = {0};
	const void *data;
	const char *rest = NULL;
	size_t		len;
	size_t		total = 0;
	bool		stays = true;

	receive(grpc, 8, 0, 0, BYTES("\0\x10\0\0"));	/* a window of 1 MB */
	send_all(grpc);
	for (int i = 0; i < 20; i++)
		grpc_call(grpc, &request, &callbacks, &ended);
	while ((len = grpc_to_send(grpc, &data)) > 0)
	{
		size_t		n = len < 5000 ? len : 5000;

		stays = stays && (rest == NULL || data == rest);
		grpc_sent(grpc, n);
		rest = n < len ? (const char *) data + n : NULL;
		total += n;
	}
	ok(total > 20 * sizeof(bytes), "requests are sent piece by piece");
	ok(stays, "what is not sent stays where it is");
	grpc_destroy(grpc);
}

/* A server may end a stream without resetting it, although we could go on sending. */
static void
test_stream_end(void)
{
	Grpc	   *grpc = open_connection(true);
	GrpcRequest request = {.path = "/a.B/C",.data = "x",.len = 1,.now = 1000};
	Ended		ended = {0};

	grpc_stream(grpc, &request, &callbacks, &ended);
	send_all(grpc);
	receive(grpc, 1, END_HEADERS | END_STREAM, 1, BYTES(HEADERS "\0\013grpc-status\001" "9\0\014grpc-message\004over"));
	grpc_deliver(grpc);
	ok(ended.times == 1 && ended.delivered && ended.status == 9, "the server ends a stream: %s", ended.text);
	send_all(grpc);
	ok(grpc_error(grpc)[0] == '\0', "the connection lives");
	grpc_destroy(grpc);
}

static size_t
allocated(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

/*
 * A stream of which something is always left: what is sent does not take memory.
 */
static void
test_slow_stream(void)
{
	static char bytes[1000];
	Grpc	   *grpc = open_connection(true);
	GrpcRequest request = {.path = "/a.B/C",.data = bytes,.len = sizeof(bytes),.now = 1000};
	Ended		ended = {0};
	GrpcCall   *stream;
	size_t		before;
	bool		sent = true;

	receive(grpc, 4, 0, 0, BYTES("\0\4\0\0\0\0"));	/* no window at first */
	stream = grpc_stream(grpc, &request, &callbacks, &ended);
	send_all(grpc);
	before = allocated();
	for (int i = 0; i < 2000; i++)
	{
		sent = sent && grpc_send(stream, bytes, sizeof(bytes));
		receive(grpc, 8, 0, 0, BYTES("\0\0\3\xed"));	/* as many bytes for the connection */
		receive(grpc, 8, 0, 1, BYTES("\0\0\3\xed"));
		send_all(grpc);
	}
	ok(sent && grpc_error(grpc)[0] == '\0', "2000 messages are sent");
	ok(allocated() < before + 200000, "what is sent is freed");
	grpc_destroy(grpc);
}

/* A server that has served enough closes a connection without calls. */
static void
test_goaway(void)
{
	Grpc	   *grpc = open_connection(true);

	receive(grpc, 7, 0, 0, BYTES("\0\0\0\0\0\0\0\0"));
	send_all(grpc);
	ok(strcmp(grpc_error(grpc), "the server closed the connection") == 0, "closed: %s", grpc_error(grpc));
	grpc_destroy(grpc);

	grpc = open_connection(true);
	receive(grpc, 7, 0, 0, BYTES("\0\0\0\0\0\0\0\x0b"));
	send_all(grpc);
	ok(strstr(grpc_error(grpc), "closed the connection: ENHANCE_YOUR_CALM") != NULL, "closed: %s", grpc_error(grpc));
	grpc_destroy(grpc);

	grpc = open_connection(true);
	receive(grpc, 0, 0, 2, BYTES("data of no call"));
	send_all(grpc);
	ok(grpc_error(grpc)[0] != '\0' && strstr(grpc_error(grpc), "closed") == NULL, "broken: %s", grpc_error(grpc));
	grpc_destroy(grpc);
}

static void
test_before_settings(void)
{
	Grpc	   *grpc = open_connection(false);
	Ended		a;

	call(grpc, &a);
	send_all(grpc);
	grpc_receive(grpc, BYTES("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"));
	send_all(grpc);
	grpc_deliver(grpc);
	ok(a.times == 1 && !a.delivered && !a.ambiguous, "not HTTP/2: surely not applied");
	ok(strstr(a.text, "https") != NULL, "%s", a.text);
	grpc_destroy(grpc);

	grpc = open_connection(false);
	call(grpc, &a);
	send_all(grpc);
	grpc_fail(grpc, "the server closed the connection");
	grpc_deliver(grpc);
	ok(a.times == 1 && !a.ambiguous, "closed at once: %s", a.text);
	grpc_destroy(grpc);
}

int
main(void)
{
	test_targets();
	test_loop();
	test_calls();
	test_last_streams();
	test_goaway();
	test_unsent();
	test_slow_stream();
	test_stream_end();
	test_before_settings();
	return done_testing();
}
