/*-------------------------------------------------------------------------
 *
 * transport_smoke.c
 *	  Test of etcd_transport.c against a real etcd, whose endpoint is in the
 *	  environment variable ETCD_ENDPOINT, and against peers that misbehave.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "etcd_api.h"
#include "etcd_stream.h"
#include "etcd_transport.h"
#include "tap.h"

/* Long enough for a slow machine, where waiting is for what must come. */
#define PATIENCE_MS		60000

static const char *endpoint;
static EtcdTransport *transport;

static double
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

/* What has become of a request. */
typedef struct Outcome
{
	EtcdRequest *request;
	int			ndone;
	int			ndata;
	EtcdAnswer	answer;			/* body is a copy */
	EtcdStream	stream;
	int			created;
	int			deletes;
	EtcdRequest *cancel;		/* cancel this one from the callback */
	bool		jump;			/* leave the callback with a longjmp */
	int			repost;			/* post so many again, one after the other */
} Outcome;

static jmp_buf escape;
static const EtcdCallbacks unary;

static void
note_done(void *arg, const EtcdAnswer *answer)
{
	Outcome    *outcome = arg;

	outcome->ndone++;
	free((char *) outcome->answer.body);
	outcome->answer = *answer;
	outcome->answer.body = NULL;
	if (answer->len < 1000000)
	{
		char	   *copy = malloc(answer->len + 1);

		memcpy(copy, answer->body, answer->len + 1);
		outcome->answer.body = copy;
	}
	if (outcome->cancel != NULL)
		etcd_transport_cancel(outcome->cancel);
	if (outcome->repost-- > 0)
		outcome->request = etcd_transport_post(transport, "http://127.0.0.1:1", "/", strdup("{}"), 1000, &unary, outcome);
	if (outcome->jump)
		longjmp(escape, 1);
}

static void
note_message(void *arg, const char *message, size_t len)
{
	Outcome    *outcome = arg;
	EtcdWatchMessage watch;
	EtcdError	err;
	int			i;

	if (!etcd_decode_watch(message, len, &watch, &err))
	{
		diag("%s", err.message);
		return;
	}
	outcome->created += watch.created;
	for (i = 0; i < watch.nevents; i++)
		outcome->deletes += watch.events[i].type == ETCD_EVENT_DELETE;
	etcd_watch_message_free(&watch);
}

static void
note_data(void *arg, const char *data, size_t len)
{
	Outcome    *outcome = arg;

	outcome->ndata++;
	if (outcome->cancel != NULL)
		etcd_transport_cancel(outcome->cancel);
	if (outcome->jump)
		longjmp(escape, 1);
	/* The data must still be there, though the request may be gone. */
	etcd_stream_feed(&outcome->stream, data, len, note_message, outcome);
}

static const EtcdCallbacks unary = {NULL, note_done, false, 0};
static const EtcdCallbacks streaming = {note_data, note_done, false, 0};

static void
outcome_free(Outcome *outcome)
{
	free((char *) outcome->answer.body);
	etcd_stream_free(&outcome->stream);
	memset(outcome, 0, sizeof(*outcome));
}

/* Sleep until the transport wants to run, and run it. */
static void
turn(long most_ms)
{
	struct pollfd pfd = {.fd = etcd_transport_fd(transport), .events = POLLIN};
	long		timeout = etcd_transport_timeout(transport);

	if (timeout < 0 || timeout > most_ms)
		timeout = most_ms;
	poll(&pfd, 1, (int) timeout);
	etcd_transport_run(transport);
}

/* Turn until *count is at least "expected". */
static bool
wait_for(const int *count, int expected)
{
	double		start = now_ms();

	while (*count < expected && now_ms() - start < PATIENCE_MS)
		turn(1000);
	return *count >= expected;
}

static EtcdRequest *
post(const char *where, const char *path, char *body, long timeout_ms, Outcome *outcome)
{
	outcome->request = etcd_transport_post(transport, where, path, body, timeout_ms, &unary, outcome);
	return outcome->request;
}

static EtcdRequest *
watch(const char *key, Outcome *outcome)
{
	EtcdRange	range = {key, strlen(key), NULL, 0};

	etcd_stream_init(&outcome->stream, 1000000);
	outcome->request = etcd_transport_post(transport, endpoint, ETCD_PATH_WATCH,
										   etcd_encode_watch_create(&range, true),
										   PATIENCE_MS, &streaming, outcome);
	return outcome->request;
}

static char *
put_body(const char *key, const char *value)
{
	EtcdOp		ops[2] = {
		{.type = ETCD_OP_PUT, .range = {key, strlen(key), NULL, 0}, .value = value, .value_len = strlen(value)},
		{.type = ETCD_OP_RANGE, .range = {key, strlen(key), NULL, 0}},
	};
	EtcdTxn		txn = {NULL, 0, ops, 2, NULL, 0};

	return etcd_encode_txn(&txn);
}

static char *
delete_body(const char *key)
{
	EtcdOp		op = {.type = ETCD_OP_DELETE, .range = {key, strlen(key), NULL, 0}};
	EtcdTxn		txn = {NULL, 0, &op, 1, NULL, 0};

	return etcd_encode_txn(&txn);
}

static bool
get_txn(Outcome *outcome, EtcdTxnResult *result)
{
	EtcdError	err = {0};

	if (outcome->answer.delivered &&
		etcd_decode_txn(outcome->answer.body, outcome->answer.len,
						outcome->answer.http_status, result, &err))
		return true;
	diag("%s%s", outcome->answer.error, err.message);
	memset(result, 0, sizeof(*result));
	return false;
}

/*
 * Peers: a listening socket, and perhaps a child process that answers.
 */

static int
listen_socket(int backlog, char *url)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t	len = sizeof(address);
	int			fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		(backlog >= 0 && listen(fd, backlog) != 0) ||
		getsockname(fd, (struct sockaddr *) &address, &len) != 0)
	{
		perror("listen");
		exit(1);
	}
	sprintf(url, "http://127.0.0.1:%d", ntohs(address.sin_port));
	return fd;
}

static int
connect_to(const char *url)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons((uint16_t) atoi(strrchr(url, ':') + 1));
	(void) !connect(fd, (struct sockaddr *) &address, sizeof(address));
	return fd;
}

static void
send_text(int fd, const char *text)
{
	(void) !write(fd, text, strlen(text));
}

/* A child that serves connections with "serve", each after its request. */
static pid_t
start_peer(void (*serve) (int fd), char *url)
{
	int			fd = listen_socket(10, url);
	pid_t		pid = fork();

	if (pid == 0)
	{
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
		{
			char		request[10000];
			int			client = accept(fd, NULL, NULL);

			if (read(client, request, sizeof(request)) > 0)
				serve(client);
			close(client);
		}
	}
	close(fd);
	return pid;
}

static void
stop_peer(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/*
 * Tests
 */

static void
test_unary(void)
{
	Outcome		outcome = {0};
	EtcdTxnResult txn;
	EtcdLeaseResult lease;
	EtcdRangeResult range;
	EtcdStatusResult status;
	EtcdError	err;
	EtcdOp		op = {.type = ETCD_OP_RANGE, .range = {"unary/", 6, "unary0", 6}, .limit = 1};

	post(endpoint, ETCD_PATH_TXN, put_body("unary/a", "one"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 1) && get_txn(&outcome, &txn), "put and range");
	ok(txn.succeeded && txn.nresults == 2 && txn.results[0].type == ETCD_OP_PUT &&
	   txn.results[1].nkvs == 1 && strcmp(txn.results[1].kvs[0].value, "one") == 0 &&
	   txn.results[1].kvs[0].create_revision == txn.header.revision, "what was put is there");
	etcd_txn_result_free(&txn);

	post(endpoint, ETCD_PATH_TXN, put_body("unary/b", "two"), PATIENCE_MS, &outcome);
	wait_for(&outcome.ndone, 2);
	post(endpoint, ETCD_PATH_RANGE, etcd_encode_range(&op), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 3) &&
	   etcd_decode_range(outcome.answer.body, outcome.answer.len, outcome.answer.http_status, &range, &err) &&
	   range.range.nkvs == 1 && range.range.count == 2 && range.range.more, "range with a limit");
	etcd_range_result_free(&range);

	post(endpoint, ETCD_PATH_LEASE_GRANT, etcd_encode_lease_grant(INT64_C(0x694d77aa9e38260f), 60), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 4) &&
	   etcd_decode_lease(outcome.answer.body, outcome.answer.len, outcome.answer.http_status, &lease, &err) &&
	   lease.id == INT64_C(0x694d77aa9e38260f) && lease.ttl == 60, "grant");
	post(endpoint, ETCD_PATH_LEASE_KEEPALIVE, etcd_encode_lease_id(lease.id), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 5) &&
	   etcd_decode_lease(outcome.answer.body, outcome.answer.len, outcome.answer.http_status, &lease, &err) &&
	   lease.ttl == 60, "keepalive");
	post(endpoint, ETCD_PATH_LEASE_TIMETOLIVE, etcd_encode_lease_timetolive(lease.id, true), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 6) &&
	   etcd_decode_lease(outcome.answer.body, outcome.answer.len, outcome.answer.http_status, &lease, &err) &&
	   lease.granted_ttl == 60 && lease.nkeys == 0, "timetolive");
	post(endpoint, ETCD_PATH_LEASE_REVOKE, etcd_encode_lease_id(lease.id), PATIENCE_MS, &outcome);
	wait_for(&outcome.ndone, 7);
	is_int(outcome.answer.http_status, 200, "revoke");
	post(endpoint, ETCD_PATH_LEASE_REVOKE, etcd_encode_lease_id(lease.id), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 8) &&
	   !etcd_decode_lease(outcome.answer.body, outcome.answer.len, outcome.answer.http_status, &lease, &err) &&
	   err.code == ETCD_NOT_FOUND, "revoke of a lost lease");

	post(endpoint, ETCD_PATH_STATUS, etcd_encode_empty(), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 9) &&
	   etcd_decode_status(outcome.answer.body, outcome.answer.len, outcome.answer.http_status, &status, &err) &&
	   status.leader != 0, "status");
	diag("etcd %s", status.version);
	etcd_status_result_free(&status);

	post(endpoint, "/v3/nope", etcd_encode_empty(), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 10) && outcome.answer.delivered &&
	   !etcd_decode_lease(outcome.answer.body, outcome.answer.len, outcome.answer.http_status, &lease, &err) &&
	   err.code == ETCD_BAD_ANSWER, "an unknown path is no lost lease");
	outcome_free(&outcome);
}

/* A compare that holds, and one that does not. */
static void
test_compare(void)
{
	EtcdCompare free_range = {ETCD_COMPARE_CREATE, ETCD_COMPARE_EQUAL, {"compare/", 8, "compare0", 8}, 0};
	EtcdOp		put = {.type = ETCD_OP_PUT, .range = {"compare/a", 9, NULL, 0}};
	EtcdOp		get = {.type = ETCD_OP_RANGE, .range = {"compare/a", 9, NULL, 0}, .keys_only = true};
	EtcdTxn		txn = {&free_range, 1, &put, 1, &get, 1};
	EtcdTxnResult result;
	Outcome		outcome = {0};

	post(endpoint, ETCD_PATH_TXN, etcd_encode_txn(&txn), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 1) && get_txn(&outcome, &result) && result.succeeded &&
	   result.nresults == 1 && result.results[0].type == ETCD_OP_PUT, "compare holds");
	etcd_txn_result_free(&result);
	post(endpoint, ETCD_PATH_TXN, etcd_encode_txn(&txn), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 2) && get_txn(&outcome, &result) && !result.succeeded &&
	   result.nresults == 1 && result.results[0].nkvs == 1, "compare does not hold");
	etcd_txn_result_free(&result);
	outcome_free(&outcome);
}

static void
test_watch(void)
{
	Outcome		watcher = {0};
	Outcome		other = {0};

	post(endpoint, ETCD_PATH_TXN, put_body("watched", "x"), PATIENCE_MS, &other);
	wait_for(&other.ndone, 1);
	watch("watched", &watcher);
	ok(wait_for(&watcher.created, 1), "watch created");
	post(endpoint, ETCD_PATH_TXN, put_body("watched", "y"), PATIENCE_MS, &other);
	wait_for(&other.ndone, 2);
	post(endpoint, ETCD_PATH_TXN, delete_body("watched"), PATIENCE_MS, &other);
	ok(wait_for(&watcher.deletes, 1), "event");
	wait_for(&other.ndone, 3);
	is_int(watcher.ndone, 0, "the stream goes on");
	etcd_transport_cancel(watcher.request);
	post(endpoint, ETCD_PATH_TXN, put_body("watched", "x"), PATIENCE_MS, &other);
	wait_for(&other.ndone, 4);
	is_int(watcher.ndone, 0, "nothing is called after the cancel");
	outcome_free(&watcher);

	/* An error of etcd's is no data of the stream. */
	watcher.request = etcd_transport_post(transport, endpoint, "/v3/nope", strdup("{}"),
										  PATIENCE_MS, &streaming, &watcher);
	ok(wait_for(&watcher.ndone, 1) && watcher.ndata == 0 && watcher.answer.delivered &&
	   watcher.answer.http_status == 404 && watcher.answer.len > 0, "a stream refused");
	outcome_free(&watcher);
	outcome_free(&other);
}

static void
test_many(void)
{
	enum
	{
		N_WATCHES = 128, N_PUTS = 300
	};
	static Outcome watches[N_WATCHES];
	static Outcome puts[N_PUTS];
	char		key[40];
	int			i;
	int			all = 0;
	double		start;

	for (i = 0; i < N_WATCHES; i++)
	{
		sprintf(key, "many/%d", i);
		watch(key, &watches[i]);
	}
	for (i = 0; i < N_WATCHES; i++)
		all += wait_for(&watches[i].created, 1);
	is_int(all, N_WATCHES, "many watches at a time");

	for (i = 0; i < N_PUTS; i++)
	{
		sprintf(key, "many/%d", i);
		post(endpoint, ETCD_PATH_TXN, put_body(key, key), PATIENCE_MS, &puts[i]);
	}
	for (i = all = 0; i < N_PUTS; i++)
		all += wait_for(&puts[i].ndone, 1) && puts[i].answer.http_status == 200;
	is_int(all, N_PUTS, "many puts at a time");

	for (i = 0; i < N_WATCHES; i++)
	{
		sprintf(key, "many/%d", i);
		post(endpoint, ETCD_PATH_TXN, delete_body(key), PATIENCE_MS, &puts[i]);
	}
	for (i = all = 0; i < N_WATCHES; i++)
		all += wait_for(&watches[i].deletes, 1) && wait_for(&puts[i].ndone, 2);
	is_int(all, N_WATCHES, "every watch has its event");

	start = now_ms();
	for (i = 0; i < 200; i++)
	{
		post(endpoint, ETCD_PATH_TXN, put_body("many/put", "x"), PATIENCE_MS, &puts[0]);
		wait_for(&puts[0].ndone, 3 + i);
	}
	diag("put and range: %.3f ms", (now_ms() - start) / 200);

	for (i = 0; i < N_WATCHES; i++)
	{
		etcd_transport_cancel(watches[i].request);
		outcome_free(&watches[i]);
	}
	for (i = 0; i < N_PUTS; i++)
		outcome_free(&puts[i]);
}

static void
test_connections_kept(void)
{
	Outcome		outcome = {0};
	int			fd = dup(0);
	int			after;
	int			i;

	/* Descriptors are given out lowest first: a new socket would show. */
	close(fd);
	for (i = 0; i < 20; i++)
	{
		post(endpoint, ETCD_PATH_TXN, put_body("kept", "x"), PATIENCE_MS, &outcome);
		wait_for(&outcome.ndone, i + 1);
	}
	after = dup(0);
	close(after);
	is_int(after, fd, "twenty requests open no socket");
	outcome_free(&outcome);
}

static int
count_descriptors(void)
{
	int			n = 0;
	int			fd;

	for (fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Connections beyond the first are kept too. */
static void
test_many_connections_kept(void)
{
	enum
	{
		N = 40
	};
	static Outcome outcomes[N];
	EtcdTransport *saved = transport;
	int			before;
	int			i;

	transport = etcd_transport_create();
	before = count_descriptors();
	for (i = 0; i < N; i++)
		post(endpoint, ETCD_PATH_TXN, put_body("kept", "x"), PATIENCE_MS, &outcomes[i]);
	for (i = 0; i < N; i++)
		wait_for(&outcomes[i].ndone, 1);
	is_int(count_descriptors() - before, N, "as many connections are kept as were needed");
	etcd_transport_destroy(transport);
	transport = saved;
	for (i = 0; i < N; i++)
		outcome_free(&outcomes[i]);
}

/* TCP to a broadcast address fails within the call. */
static void
test_fails_at_once(void)
{
	Outcome		outcome = {0};

	post("http://255.255.255.255:1", "/", strdup("{}"), PATIENCE_MS, &outcome);
	is_int(outcome.ndone, 0, "nothing is called from post");
	is_int(etcd_transport_timeout(transport), 0, "what has failed wants to be told at once");
	etcd_transport_run(transport);
	ok(outcome.ndone == 1 && !outcome.answer.delivered && !outcome.answer.ambiguous, "and is");
	outcome_free(&outcome);
}

static void
test_refused(void)
{
	char		url[100];
	int			fd = listen_socket(-1, url);
	Outcome		outcome = {0};

	post(url, ETCD_PATH_TXN, strdup("{}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 1) && !outcome.answer.delivered, "connection refused");
	ok(!outcome.answer.ambiguous && outcome.answer.error[0] != '\0', "not ambiguous");
	diag("%s", outcome.answer.error);
	close(fd);
	outcome_free(&outcome);
}

static void
test_no_answer(void)
{
	char		url[100];
	int			fd = listen_socket(10, url);
	Outcome		outcome = {0};
	double		start = now_ms();

	post(url, ETCD_PATH_TXN, strdup("{}"), 1000, &outcome);
	ok(wait_for(&outcome.ndone, 1) && !outcome.answer.delivered, "no answer in time");
	ok(outcome.answer.ambiguous, "ambiguous");
	ok(now_ms() - start >= 990, "not too early");
	diag("%s, after %.0f ms", outcome.answer.error, now_ms() - start);
	close(fd);
	outcome_free(&outcome);
}

static void
test_no_connection(void)
{
	char		url[100];
	int			fd = listen_socket(0, url);
	int			full[8];
	Outcome		outcome = {0};
	Outcome		stream = {0};
	int			i;

	/* With the queue full, Linux leaves further connections without answer. */
	for (i = 0; i < 8; i++)
		full[i] = connect_to(url);
	post(url, ETCD_PATH_TXN, strdup("{}"), 300, &outcome);
	etcd_stream_init(&stream.stream, 1000);
	stream.request = etcd_transport_post(transport, url, "/", strdup("{}"), 300, &streaming, &stream);
	ok(wait_for(&outcome.ndone, 1) && !outcome.answer.delivered && !outcome.answer.ambiguous,
	   "no connection in time is not ambiguous");
	ok(wait_for(&stream.ndone, 1) && !stream.answer.delivered && !stream.answer.ambiguous,
	   "nor is it for a stream");
	diag("%s", outcome.answer.error);
	for (i = 0; i < 8; i++)
		close(full[i]);
	close(fd);
	outcome_free(&outcome);
	outcome_free(&stream);
}

/* A stream that is set up and silent outlives its timeout. */
static void
test_silent_stream(void)
{
	Outcome		watcher = {0};
	double		start;
	EtcdRange	range = {"silent", 6, NULL, 0};

	etcd_stream_init(&watcher.stream, 1000);
	watcher.request = etcd_transport_post(transport, endpoint, ETCD_PATH_WATCH,
										  etcd_encode_watch_create(&range, false),
										  2000, &streaming, &watcher);
	for (start = now_ms(); now_ms() - start < 3000;)
		turn(100);
	ok(watcher.ndone == 0 && watcher.created == 1, "a stream has no end by time");
	etcd_transport_cancel(watcher.request);
	outcome_free(&watcher);
}

static void
serve_nothing(int fd)
{
	(void) fd;
}

static void
serve_half(int fd)
{
	send_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"half\":");
}

static void
serve_endless(int fd)
{
	static char block[65536];

	memset(block, 'x', sizeof(block));
	send_text(fd, "HTTP/1.1 200 OK\r\n\r\n");
	while (write(fd, block, sizeof(block)) > 0)
		;
}

static void
serve_redirect(int fd)
{
	char		answer[200];

	sprintf(answer, "HTTP/1.1 307 Moved\r\nLocation: %s/\r\nContent-Length: 5\r\n\r\nmoved", endpoint);
	send_text(fd, answer);
}

static void
serve_garbage(int fd)
{
	send_text(fd, "SSH-2.0-OpenSSH\r\n");
}

/* What the request looks like: sent back as the answer. */
static pid_t
start_echo(char *url)
{
	int			fd = listen_socket(10, url);
	pid_t		pid = fork();

	if (pid == 0)
	{
		char		request[10000];
		char		head[100];
		int			client = accept(fd, NULL, NULL);
		ssize_t		n = read(client, request, sizeof(request));

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sprintf(head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", (int) n);
		send_text(client, head);
		(void) !write(client, request, (size_t) n);
		pause();
	}
	close(fd);
	return pid;
}

static void
test_request_on_the_wire(void)
{
	char		url[100];
	char		expected[500];
	pid_t		peer = start_echo(url);
	Outcome		outcome = {0};

	setenv("http_proxy", "http://127.0.0.1:1", 1);
	sprintf(expected, "POST /v3/kv/txn HTTP/1.1\r\nHost: %s\r\nUser-Agent: etcd_lock\r\nAccept: */*\r\n"
			"Content-Type: application/json\r\nGrpc-Metadata-hasleader: true\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
			url + strlen("http://"));
	strcat(url, "//");
	post(url, ETCD_PATH_TXN, strdup("{\"a\":1}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 1) && outcome.answer.delivered, "request echoed");
	is_string(outcome.answer.body, expected, "and looks as it should");
	unsetenv("http_proxy");
	stop_peer(peer);
	outcome_free(&outcome);
}

static void
test_bad_peers(void)
{
	char		url[100];
	pid_t		peer;
	Outcome		outcome = {0};
	Outcome		stream = {0};

	peer = start_peer(serve_nothing, url);
	post(url, "/", strdup("{}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 1) && !outcome.answer.delivered && outcome.answer.ambiguous,
	   "closed without an answer");
	stop_peer(peer);

	peer = start_peer(serve_half, url);
	post(url, "/", strdup("{}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 2) && !outcome.answer.delivered && outcome.answer.ambiguous,
	   "closed within an answer");
	etcd_stream_init(&stream.stream, 1000);
	stream.request = etcd_transport_post(transport, url, "/", strdup("{}"), PATIENCE_MS, &streaming, &stream);
	ok(wait_for(&stream.ndone, 1) && !stream.answer.delivered && stream.ndata == 1 &&
	   stream.stream.len == 8 && stream.answer.len == 0, "a stream closed: first its data, then the end");
	stop_peer(peer);

	peer = start_peer(serve_endless, url);
	post(url, "/", strdup("{}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 3) && !outcome.answer.delivered && outcome.answer.ambiguous,
	   "an endless answer is given up");
	is_string(outcome.answer.error, "the answer is longer than 16777216 bytes", "and says so");
	stop_peer(peer);

	peer = start_peer(serve_redirect, url);
	post(url, "/", strdup("{}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 4) && outcome.answer.delivered, "redirect answered");
	is_int(outcome.answer.http_status, 307, "and not followed");
	stop_peer(peer);

	peer = start_peer(serve_garbage, url);
	post(url, "/", strdup("{}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 5) && !outcome.answer.delivered, "no HTTP");
	diag("%s", outcome.answer.error);
	stop_peer(peer);

	outcome_free(&outcome);
	outcome_free(&stream);
}

static void
test_bad_endpoints(void)
{
	static const char *const endpoints[] = {
		"", "127.0.0.1:2379", "localhost", "http://", "http:///", "ftp://127.0.0.1", "file:///etc/passwd",
		"http://127.0.0.1:99999", "http://127.0.0.1:2379?x", "http://127.0.0.1#x", "http://a b", "unix:///tmp/x",
	};
	size_t		i;
	Outcome		outcome = {0};

	for (i = 0; i < sizeof(endpoints) / sizeof(endpoints[0]); i++)
		ok(post(endpoints[i], "/v3/kv/txn", strdup("{}"), 1000, &outcome) == NULL,
		   "no endpoint: \"%s\"", endpoints[i]);
	turn(0);
	is_int(outcome.ndone, 0, "nothing was called");
	ok(post(endpoint, "/v3/kv/txn", NULL, 1000, &outcome) == NULL, "no body: out of memory");
}

static void
test_cancel(void)
{
	char		refusing[100];
	char		silent[100];
	int			refusing_fd = listen_socket(-1, refusing);
	int			silent_fd = listen_socket(10, silent);
	Outcome		a = {0};
	Outcome		b = {0};
	int			i;

	/* At once, and while the answer is outstanding. */
	post(endpoint, ETCD_PATH_TXN, put_body("cancel", "x"), PATIENCE_MS, &a);
	etcd_transport_cancel(a.request);
	post(silent, "/", strdup("{}"), PATIENCE_MS, &a);
	for (i = 0; i < 5; i++)
		turn(20);
	etcd_transport_cancel(a.request);
	is_int(a.ndone, 0, "canceled");

	/* Two that end in the same run: the first cancels the second. */
	post(refusing, "/", strdup("{}"), PATIENCE_MS, &a);
	post(refusing, "/", strdup("{}"), PATIENCE_MS, &b);
	a.cancel = b.request;
	b.cancel = a.request;
	for (i = 0; i < 200 && a.ndone + b.ndone == 0; i++)
		turn(100);
	for (i = 0; i < 5; i++)
		turn(10);
	is_int(a.ndone + b.ndone, 1, "one canceled the other, whose end was known");
	outcome_free(&a);
	outcome_free(&b);

	/* Itself, from its own done, which is too late but harmless. */
	post(refusing, "/", strdup("{}"), PATIENCE_MS, &a);
	a.cancel = a.request;
	ok(wait_for(&a.ndone, 1), "cancel of itself from done");
	turn(10);
	outcome_free(&a);

	/* Itself, from its data; and one under way. */
	post(silent, "/", strdup("{}"), PATIENCE_MS, &b);
	watch("cancel", &a);
	a.cancel = a.request;
	ok(wait_for(&a.ndata, 1) && a.created == 1, "cancel of itself from data, which stays readable");
	for (i = 0; i < 5; i++)
		turn(10);
	ok(a.ndone == 0 && a.ndata == 1, "nothing is called afterwards");
	outcome_free(&a);
	watch("cancel", &a);
	a.cancel = b.request;
	ok(wait_for(&a.ndata, 1), "cancel of another from data");
	turn(10);
	is_int(b.ndone, 0, "it is canceled");
	etcd_transport_cancel(a.request);
	outcome_free(&a);
	outcome_free(&b);
	close(refusing_fd);
	close(silent_fd);
}

static void
test_longjmp(void)
{
	static Outcome a;
	static Outcome b;
	static Outcome stream;

	stream.jump = true;
	watch("jump", &stream);
	if (setjmp(escape) == 0)
		wait_for(&stream.ndone, 1);
	is_int(stream.ndata, 1, "left from data");
	etcd_transport_cancel(stream.request);

	a.jump = true;
	post(endpoint, ETCD_PATH_TXN, put_body("jump", "x"), PATIENCE_MS, &a);
	post(endpoint, ETCD_PATH_TXN, put_body("jump2", "x"), PATIENCE_MS, &b);
	if (setjmp(escape) == 0)
		wait_for(&b.ndone, 2);
	is_int(a.ndone, 1, "left from done");
	ok(wait_for(&b.ndone, 1), "the others go on");
	is_int(a.ndone, 1, "and it is not called again");
	outcome_free(&a);
	outcome_free(&b);
	outcome_free(&stream);
}

/* Requests from inside of done, even ones that fail at once. */
static void
test_post_from_done(void)
{
	char		url[100];
	int			fd = listen_socket(-1, url);
	Outcome		outcome = {.repost = 50};

	post(url, "/", strdup("{}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 51), "posts from done");
	close(fd);
	outcome_free(&outcome);
}

static void
test_destroy_with_requests(void)
{
	EtcdTransport *saved = transport;
	char		refusing[100];
	int			fd = listen_socket(-1, refusing);
	Outcome		a = {0};
	Outcome		b = {0};
	Outcome		stream = {0};

	transport = etcd_transport_create();
	watch("destroy", &stream);
	wait_for(&stream.created, 1);
	post(endpoint, ETCD_PATH_TXN, put_body("destroy", "x"), PATIENCE_MS, &a);
	post(refusing, "/", strdup("{}"), PATIENCE_MS, &b);
	etcd_transport_destroy(transport);
	ok(a.ndone == 0 && b.ndone == 0 && stream.ndone == 0, "destroyed with requests under way");
	transport = saved;
	close(fd);
	outcome_free(&a);
	outcome_free(&b);
	outcome_free(&stream);
	etcd_transport_destroy(NULL);
}

/* A kept connection that the server has closed does no harm. */
static void
serve_once(int fd)
{
	send_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
}

static void
test_kept_connection_closed(void)
{
	char		url[100];
	pid_t		peer = start_peer(serve_once, url);
	Outcome		outcome = {0};
	int			i;
	int			delivered = 0;

	for (i = 0; i < 20; i++)
	{
		post(url, "/", strdup("{}"), PATIENCE_MS, &outcome);
		wait_for(&outcome.ndone, i + 1);
		delivered += outcome.answer.delivered;
	}
	is_int(delivered, 20, "closed connections are replaced");
	stop_peer(peer);
	post(url, "/", strdup("{}"), PATIENCE_MS, &outcome);
	ok(wait_for(&outcome.ndone, 21) && !outcome.answer.delivered, "until the server is gone");
	outcome_free(&outcome);
}

static void
test_idle(void)
{
	int			i;

	for (i = 0; i < 1000 && etcd_transport_timeout(transport) == 0; i++)
		turn(10);
	ok(etcd_transport_timeout(transport) != 0, "an idle transport lets the caller sleep");
}

/*
 * Threads that curl starts must have all signals blocked: catch their start.
 * (Sanitizers have their own idea of pthread_create.)
 */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED
#endif

#ifndef SANITIZED
static int	threads_started = 0;
static bool all_blocked = true;

int			pthread_create(pthread_t *thread, const pthread_attr_t *attr,
						   void *(*start) (void *), void *arg);

int
pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			   void *(*start) (void *), void *arg)
{
	int			(*real) (pthread_t *, const pthread_attr_t *, void *(*) (void *), void *);
	sigset_t	mask;

	*(void **) &real = dlsym(RTLD_NEXT, "pthread_create");
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	threads_started++;
	all_blocked = all_blocked && sigismember(&mask, SIGALRM) && sigismember(&mask, SIGTERM) &&
		sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGCHLD) && sigismember(&mask, SIGURG);
	return real(thread, attr, start, arg);
}
#endif

static void
test_signals(void)
{
	Outcome		outcome = {0};
	sigset_t	mask;

	post("http://etcd.invalid:2379", "/", strdup("{}"), 2000, &outcome);
	ok(wait_for(&outcome.ndone, 1) && !outcome.answer.delivered && !outcome.answer.ambiguous,
	   "no such host");
	diag("%s", outcome.answer.error);
#ifndef SANITIZED
	diag("threads: %d", threads_started);
	ok(all_blocked, "threads start with signals blocked");
#endif
	sigprocmask(SIG_BLOCK, NULL, &mask);
	ok(!sigismember(&mask, SIGTERM), "signals are not blocked afterwards");
	outcome_free(&outcome);
}

int
main(int argc, char **argv)
{
	endpoint = argc > 1 ? argv[1] : getenv("ETCD_ENDPOINT");
	if (endpoint == NULL)
	{
		fprintf(stderr, "ETCD_ENDPOINT is not set\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	transport = etcd_transport_create();
	if (!ok(transport != NULL, "transport created"))
		return done_testing();
	ok(etcd_transport_timeout(transport) == -1, "nothing to do yet");

	test_unary();
	test_compare();
	test_watch();
	test_connections_kept();
	test_many_connections_kept();
	test_many();
	test_fails_at_once();
	test_refused();
	test_no_answer();
	test_no_connection();
	test_silent_stream();
	test_request_on_the_wire();
	test_bad_peers();
	test_bad_endpoints();
	test_cancel();
	test_longjmp();
	test_post_from_done();
	test_destroy_with_requests();
	test_kept_connection_closed();
	test_signals();
	test_idle();

	etcd_transport_destroy(transport);
	return done_testing();
}
