/*-------------------------------------------------------------------------
 *
 * wire_smoke.c
 *	  The wire, from libcurl's connection to etcd's responses, with a real etcd
 *	  at $ETCD_ENDPOINT ("http://127.0.0.1:port").
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CARES_NO_DEPRECATED
#include <ares.h>

#include "etcd/etcd_request.h"
#include "etcd/etcd_response.h"
#include "net/channel.h"
#include "net/resolver.h"
#include "tap.h"

static Loop *loop;
static ChannelTarget target = {false, "127.0.0.1", 0, "127.0.0.1"};

/* How a call ended, with a copy of what it brought. */
typedef struct Ended
{
	bool		done;
	bool		delivered;
	bool		ambiguous;
	bool		too_long;
	int			status;
	char		text[512];
	char	   *data;
	size_t		len;
} Ended;

static bool failed;
static char failure[512];

static void
run_once(void)
{
	long		timeout = loop_timeout(loop);
	struct pollfd fd = {loop_fd(loop), POLLIN, 0};

	poll(&fd, 1, timeout < 0 || timeout > 100 ? 100 : (int) timeout);
	loop_run(loop);
}

/* Run until *flag is set; false: it took longer than "ms". */
static bool
run_until(const bool *flag, int ms)
{
	int64_t		end = loop_now() + (int64_t) ms * 1000;

	while (!*flag && loop_now() < end)
		run_once();
	return *flag;
}

static void
channel_failed(void *arg, const char *error)
{
	(void) arg;
	failed = true;
	snprintf(failure, sizeof(failure), "%s", error);
}

static const ChannelCallbacks channel_callbacks = {.failed = channel_failed};

static void
call_done(void *arg, const GrpcReply *reply)
{
	Ended	   *ended = arg;

	free(ended->data);
	memset(ended, 0, sizeof(*ended));
	ended->done = true;
	ended->delivered = reply->delivered;
	ended->ambiguous = reply->ambiguous;
	ended->too_long = reply->too_long;
	ended->status = reply->status;
	snprintf(ended->text, sizeof(ended->text), "%s",
			 reply->delivered ? reply->message : reply->error);
	ended->data = malloc(reply->len + 1);
	if (reply->len > 0)
		memcpy(ended->data, reply->data, reply->len);
	ended->len = reply->len;
}

static const GrpcCallbacks call_callbacks = {.done = call_done};

static GrpcCall *
start(Channel *channel, EtcdMessage message, int timeout_ms,
	  const GrpcCallbacks *callbacks, void *arg)
{
	GrpcRequest request = {.path = etcd_request_path(message.method),.data = message.data,
	.len = message.len,.timeout = (int64_t) timeout_ms * 1000};
	GrpcCall   *call = channel_call(channel, &request, callbacks, arg);

	etcd_request_free(&message);
	return call;
}

/* One call, to its end. */
static EtcdReply
call(Channel *channel, EtcdMessage message)
{
	static Ended ended;
	EtcdReply	reply = {ETCD_BAD_RESPONSE, ended.text, NULL, 0};

	free(ended.data);
	memset(&ended, 0, sizeof(ended));
	if (start(channel, message, 2000, &call_callbacks, &ended) == NULL ||
		!run_until(&ended.done, 5000) || !ended.delivered)
	{
		diag("not delivered: %s", ended.text);
		return reply;
	}
	reply.status = ended.status;
	reply.data = ended.data;
	reply.len = ended.len;
	return reply;
}

static void
test_requests(Channel *channel)
{
	EtcdCompare compare = {ETCD_COMPARE_CREATE, ETCD_COMPARE_EQUAL, {"w/a", 3, NULL, 0}, 0};
	EtcdOp		put = {.type = ETCD_OP_PUT,.range = {"w/a", 3, NULL, 0},.value = "v",.value_len = 1,.lease = 77};
	EtcdOp		range = {.type = ETCD_OP_RANGE,.range = {"w/", 2, "w0", 2}};
	EtcdOp		inner_ops[2];
	EtcdTxn		inner = {&compare, 1, inner_ops, 2, &range, 1};
	EtcdOp		ops[2] = {{.type = ETCD_OP_TXN,.txn = &inner}, {.type = ETCD_OP_DELETE,.range = {"nope", 4, NULL, 0}}};
	EtcdTxn		txn = {NULL, 0, ops, 2, NULL, 0};
	EtcdTxnResult result;
	EtcdRangeResult found;
	EtcdLeaseResult lease;
	EtcdStatusResult status;
	EtcdHeader	header;
	EtcdError	err = {0};
	EtcdReply	reply;

	reply = call(channel, etcd_request_status());
	if (ok(etcd_response_status(&reply, &status, &err), "status: %s", err.message))
	{
		ok(strncmp(status.version, "3.", 2) == 0, "etcd %s", status.version);
		ok(status.leader != 0 && status.db_size > 0 && status.nerrors == 0, "its leader and size");
		etcd_response_free_status(&status);
	}
	reply = call(channel, etcd_request_lease_grant(77, 60));
	ok(etcd_response_lease(&reply, &lease, &err) && lease.id == 77 && lease.ttl == 60,
	   "grant: %s", err.message);
	etcd_response_free_lease(&lease);
	reply = call(channel, etcd_request_lease_grant(77, 60));
	ok(!etcd_response_lease(&reply, &lease, &err) && err.code == ETCD_FAILED_PRECONDITION,
	   "the same lease again: %s", err.message);

	inner_ops[0] = put;
	inner_ops[1] = range;
	reply = call(channel, etcd_request_txn(&txn));
	if (ok(etcd_response_txn(&reply, &result, &err), "nested Txn: %s", err.message))
	{
		ok(result.succeeded && result.nresults == 2, "two results");
		ok(result.results[0].type == ETCD_OP_TXN && result.results[0].succeeded &&
		   result.results[0].nresults == 2 && result.results[0].results[1].nkvs == 1, "the inner one put and read");
		ok(result.results[1].type == ETCD_OP_DELETE && result.results[1].deleted == 0, "nothing deleted");
		etcd_response_free_txn(&result);
	}
	reply = call(channel, etcd_request_txn(&txn));
	if (ok(etcd_response_txn(&reply, &result, &err), "again: %s", err.message))
	{
		ok(result.succeeded && !result.results[0].succeeded && result.results[0].nresults == 1,
		   "the inner compare fails alone");
		etcd_response_free_txn(&result);
	}
	reply = call(channel, etcd_request_range(&range));
	if (ok(etcd_response_range(&reply, &found, &err), "range: %s", err.message))
	{
		const EtcdKeyValue *kv = found.range.kvs;

		ok(found.range.nkvs == 1 && found.range.count == 1 && strcmp(kv->key, "w/a") == 0 &&
		   strcmp(kv->value, "v") == 0 && kv->lease == 77 && kv->create_revision == kv->mod_revision,
		   "the key with all it has");
		etcd_response_free_range(&found);
	}
	reply = call(channel, etcd_request_range(&range));
	ok(etcd_response_single_range(&reply, &result, &err) && result.nresults == 1 &&
	   result.results[0].nkvs == 1, "as a Txn's");
	etcd_response_free_txn(&result);

	reply = call(channel, etcd_request_lease_keepalive(77));
	ok(etcd_response_lease(&reply, &lease, &err) && lease.ttl == 60, "keepalive: %s", err.message);
	etcd_response_free_lease(&lease);
	reply = call(channel, etcd_request_lease_keepalive(78));
	ok(etcd_response_lease(&reply, &lease, &err) && lease.ttl == 0, "of a lease that is not: %s", err.message);
	etcd_response_free_lease(&lease);
	reply = call(channel, etcd_request_lease_timetolive(77, true));
	ok(etcd_response_lease(&reply, &lease, &err) && lease.ttl > 50 && lease.nkeys == 1 &&
	   lease.keys[0].key_len == 3 && memcmp(lease.keys[0].key, "w/a", 3) == 0, "time to live with keys: %s", err.message);
	etcd_response_free_lease(&lease);
	reply = call(channel, etcd_request_lease_revoke(77));
	ok(etcd_response_header(&reply, &header, &err) && header.revision > 1, "revoke: %s", err.message);
	reply = call(channel, etcd_request_lease_revoke(77));
	ok(!etcd_response_header(&reply, &header, &err) && err.code == ETCD_NOT_FOUND, "again: %s", err.message);
	put.lease = 79;
	inner_ops[0] = put;
	reply = call(channel, etcd_request_txn(&txn));
	ok(!etcd_response_txn(&reply, &result, &err) && err.code == ETCD_NOT_FOUND,
	   "a put on a lease that is not: %s", err.message);
	reply = call(channel, etcd_request_authenticate("root", "secret"));
	{
		EtcdAuthResult auth;

		ok(!etcd_response_auth(&reply, &auth, &err) && err.code == ETCD_FAILED_PRECONDITION,
		   "authentication is not enabled: %s", err.message);
	}
}

/* ---- watches ---- */

#define NWATCHES	500

typedef struct Watches
{
	int			created;
	int			canceled;
	int			events;
	int64_t		last_id;
	bool		all_created;
	bool		got_event;
	bool		got_cancel;
	bool		ended;
} Watches;

static void
watch_message(void *arg, const void *data, size_t len)
{
	Watches    *w = arg;
	EtcdWatchMessage msg;
	EtcdError	err;

	if (!etcd_response_watch(data, len, &msg, &err))
	{
		ok(false, "a watch message: %s", err.message);
		return;
	}
	w->created += msg.created;
	w->canceled += msg.canceled;
	w->all_created = w->created >= NWATCHES;
	w->got_cancel = w->canceled > 0;
	if (msg.nevents > 0)
	{
		w->events += msg.nevents;
		w->last_id = msg.watch_id;
		w->got_event = true;
	}
	etcd_response_free_watch(&msg);
}

static void
watch_done(void *arg, const GrpcReply *reply)
{
	Watches    *w = arg;

	w->ended = true;
	diag("the watch stream ended: %s", reply->delivered ? reply->message : reply->error);
}

static void
test_watches(Channel *channel)
{
	static const GrpcCallbacks callbacks = {.message = watch_message,.done = watch_done};
	Watches		w = {0};
	GrpcRequest request = {0};
	GrpcCall   *stream = NULL;
	EtcdMessage message;
	EtcdOp		put = {.type = ETCD_OP_PUT,.range = {"watch/123", 9, NULL, 0}};
	EtcdOp		del = {.type = ETCD_OP_DELETE,.range = {"watch/123", 9, NULL, 0}};
	EtcdTxn		txn = {NULL, 0, &put, 1, NULL, 0};
	EtcdTxnResult result;
	EtcdError	err;
	EtcdReply	reply;
	int			i;

	for (i = 1; i <= NWATCHES; i++)
	{
		char		key[32];
		EtcdRange	range = {key, 0, NULL, 0};

		snprintf(key, sizeof(key), "watch/%d", i);
		range.key_len = strlen(key);
		message = etcd_request_watch_create(i, &range, true);
		if (stream == NULL)
		{
			request.path = etcd_request_path(message.method);
			request.data = message.data;
			request.len = message.len;
			stream = channel_stream(channel, &request, &callbacks, &w);
		}
		else
			channel_send(channel, stream, message.data, message.len);
		etcd_request_free(&message);
	}
	ok(stream != NULL && run_until(&w.all_created, 5000), "%d watches on one stream", w.created);
	reply = call(channel, etcd_request_txn(&txn));
	ok(etcd_response_txn(&reply, &result, &err), "a put, which the watches do not tell");
	etcd_response_free_txn(&result);
	txn.success = &del;
	reply = call(channel, etcd_request_txn(&txn));
	ok(etcd_response_txn(&reply, &result, &err), "a delete");
	etcd_response_free_txn(&result);
	ok(run_until(&w.got_event, 2000) && w.events == 1 && w.last_id == 123, "one event, of watch %d", (int) w.last_id);

	if (w.ended)
		return;
	message = etcd_request_watch_cancel(123);
	channel_send(channel, stream, message.data, message.len);
	etcd_request_free(&message);
	ok(run_until(&w.got_cancel, 2000) && !w.ended, "one is cancelled, the others go on");
	channel_cancel(channel, stream);
	reply = call(channel, etcd_request_status());
	ok(reply.status == 0 && !w.ended, "the stream is dropped, and calls go on");
}

/* ---- limits and ends ---- */

static void
test_limits(Channel *channel)
{
	static const GrpcCallbacks short_one = {.done = call_done,.max_message = 20000};
	char	   *value = calloc(1, 100000);
	EtcdOp		put = {.type = ETCD_OP_PUT,.range = {"big", 3, NULL, 0},.value = value,.value_len = 100000};
	EtcdOp		range = {.type = ETCD_OP_RANGE,.range = {"big", 3, NULL, 0}};
	EtcdTxn		txn = {NULL, 0, &put, 1, NULL, 0};
	EtcdTxnResult result;
	EtcdRangeResult found;
	EtcdError	err;
	EtcdReply	reply;
	Ended		ended = {0};
	GrpcCall   *one;

	reply = call(channel, etcd_request_txn(&txn));
	ok(etcd_response_txn(&reply, &result, &err), "a large value");
	etcd_response_free_txn(&result);
	reply = call(channel, etcd_request_range(&range));
	ok(etcd_response_range(&reply, &found, &err) && found.range.nkvs == 1 &&
	   found.range.kvs[0].value_len == 100000, "comes back");
	etcd_response_free_range(&found);
	start(channel, etcd_request_range(&range), 2000, &short_one, &ended);
	ok(run_until(&ended.done, 2000) && !ended.delivered && ended.too_long, "too long: %s", ended.text);
	reply = call(channel, etcd_request_status());
	ok(reply.status == 0, "calls go on");

	one = start(channel, etcd_request_status(), 2000, &call_callbacks, &ended);
	ended.done = false;
	channel_abort(channel, one, "given up");
	ok(run_until(&ended.done, 2000) && !ended.delivered && strcmp(ended.text, "given up") == 0, "a call is aborted");
	one = start(channel, etcd_request_status(), 2000, &call_callbacks, &ended);
	ended.done = false;
	channel_cancel(channel, one);
	run_until(&ended.done, 100);
	ok(!ended.done, "a call that is cancelled is not told of");
	free(ended.data);
	free(value);
}

static void
test_failures(void)
{
	ChannelTarget nobody = {false, "127.0.0.1", 1, "127.0.0.1"};
	Channel    *channel;
	Ended		ended = {0};

	failed = false;
	channel = channel_create(loop, &nobody, NULL, 2000, &channel_callbacks, NULL);
	start(channel, etcd_request_status(), 2000, &call_callbacks, &ended);
	ok(run_until(&failed, 3000), "nobody listens: %s", failure);
	ok(ended.done && !ended.delivered && !ended.ambiguous, "the call was surely not applied: %s", ended.text);
	channel_destroy(channel);
	free(ended.data);
}

/* What belongs to a channel that has failed, and is left alone, must not keep the loop busy. */
static void
test_left_alone(void)
{
	static const ChannelCallbacks no_callbacks = {0};
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t	len = sizeof(address);
	ChannelTarget here = {false, "127.0.0.1", 0, "127.0.0.1"};
	int			listener = socket(AF_INET, SOCK_STREAM, 0);
	Channel    *channel;
	Ended		ended = {0};
	int64_t		begin;
	int			runs = 0;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ok(bind(listener, (struct sockaddr *) &address, sizeof(address)) == 0 && listen(listener, 1) == 0 &&
	   getsockname(listener, (struct sockaddr *) &address, &len) == 0, "a server of its own");
	here.port = ntohs(address.sin_port);
	channel = channel_create(loop, &here, NULL, 2000, &no_callbacks, NULL);
	start(channel, etcd_request_status(), 2000, &call_callbacks, &ended);
	run_once();
	close(accept(listener, NULL, NULL));
	ok(run_until(&ended.done, 1500) && !ended.delivered, "it closes the connection: %s", ended.text);
	for (begin = loop_now(); loop_now() < begin + 200000; runs++)
		run_once();
	ok(runs <= 5, "then the loop is at rest: %d runs in 200 ms", runs);
	channel_destroy(channel);
	close(listener);
	free(ended.data);
}

/* ---- names ---- */

static bool resolved;
static ResolverAnswer answer;

static void
lookup_done(void *arg, const ResolverAnswer *found)
{
	(void) arg;
	resolved = true;
	answer = *found;
}

static void
test_resolver(void)
{
	ResolverLookup *lookup;

	resolver_addresses(loop, "127.0.0.1", 1000, lookup_done, NULL);
	ok(run_until(&resolved, 3000) && answer.n == 1 && strcmp(answer.results[0].host, "127.0.0.1") == 0, "a numeric address");
	resolved = false;
	resolver_addresses(loop, "localhost", 1000, lookup_done, NULL);
	ok(run_until(&resolved, 3000) && answer.n >= 1, "localhost: %s %s", answer.results[0].host, answer.error);
	resolved = false;
	resolver_addresses(loop, "::1", 1000, lookup_done, NULL);
	ok(run_until(&resolved, 3000) && answer.n == 1 && strcmp(answer.results[0].host, "::1") == 0, "an IPv6 address");
	resolved = false;
	lookup = resolver_addresses(loop, "no.such.name.invalid", 1000, lookup_done, NULL);
	resolver_cancel(lookup);
	run_until(&resolved, 50);
	ok(!resolved, "a lookup is cancelled");
	resolver_addresses(loop, "no.such.name.invalid", 500, lookup_done, NULL);
	ok(run_until(&resolved, 3000) && answer.n == 0 && answer.error[0] != '\0', "no such name: %s", answer.error);
}

/* ---- a name server that never answers one kind of question ---- */

static char name_server[40];	/* for c-ares; empty: the system's */

int			__real_ares_init_options(ares_channel *channel, struct ares_options *options, int mask);
int			__wrap_ares_init_options(ares_channel *channel, struct ares_options *options, int mask);

int
__wrap_ares_init_options(ares_channel *channel, struct ares_options *options, int mask)
{
	int			rc = __real_ares_init_options(channel, options, mask);

	if (rc == ARES_SUCCESS && name_server[0] != '\0')
		ares_set_servers_ports_csv(*channel, name_server);
	return rc;
}

/* Answer the question that waits, if it is of this type (A or AAAA), and if there is one. */
static void
serve_names(int fd, int type)
{
	static const char address[] = {127, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9};
	uint8_t		packet[600];
	struct sockaddr_in from;
	socklen_t	from_len = sizeof(from);
	ssize_t		len = recvfrom(fd, packet, 512, MSG_DONTWAIT, (struct sockaddr *) &from, &from_len);
	size_t		n = 12;
	uint8_t		size = type == 1 ? 4 : 16;

	if (len < 17)
		return;
	while (packet[n] != 0)
		n += 1 + packet[n];
	n += 5;
	if (packet[n - 3] != type)
		return;
	memcpy(packet + 2, "\x81\x80\0\1\0\1\0\0\0\0", 10);
	memcpy(packet + n, "\xc0\x0c\0\0\0\1\0\0\0\1\0", 11);
	packet[n + 3] = (uint8_t) type;
	packet[n + 11] = size;
	memcpy(packet + n + 12, address, size);
	(void) sendto(fd, packet, n + 12 + size, 0, (struct sockaddr *) &from, from_len);
}

static void
test_half_answers(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	len = sizeof(address);
	int			fd = socket(AF_INET, SOCK_DGRAM, 0);

	ok(bind(fd, (struct sockaddr *) &address, sizeof(address)) == 0 &&
	   getsockname(fd, (struct sockaddr *) &address, &len) == 0, "a name server of its own");
	snprintf(name_server, sizeof(name_server), "127.0.0.1:%d", ntohs(address.sin_port));
	for (int type = 1; type <= 28; type += 27)
	{
		int64_t		begin = loop_now();

		resolved = false;
		resolver_addresses(loop, "half.test", 5000, lookup_done, NULL);
		while (!resolved && loop_now() < begin + 8000000)
		{
			run_once();
			serve_names(fd, type);
		}
		ok(resolved && answer.n == 1 && loop_now() < begin + 4000000,
		   "only questions of type %d are answered: %s%s after %.1f s", type, answer.n > 0 ? answer.results[0].host : "",
		   answer.error, (double) (loop_now() - begin) / 1000000);
	}
	name_server[0] = '\0';
	close(fd);
}

int
main(void)
{
	const char *endpoint = getenv("ETCD_ENDPOINT");
	Channel    *channel;

	if (endpoint == NULL || strncmp(endpoint, "http://127.0.0.1:", 17) != 0)
	{
		printf("1..0 # skip no ETCD_ENDPOINT\n");
		return 0;
	}
	target.port = atoi(endpoint + 17);
	loop = loop_create();
	channel = channel_create(loop, &target, NULL, 2000, &channel_callbacks, NULL);
	test_requests(channel);
	test_watches(channel);
	test_limits(channel);
	ok(!failed, "all of that on one connection");
	channel_destroy(channel);
	test_failures();
	test_left_alone();
	test_resolver();
	test_half_answers();
	loop_destroy(loop);
	return done_testing();
}
