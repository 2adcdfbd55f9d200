/*-------------------------------------------------------------------------
 *
 * wire.c
 *	  What etcd costs by gRPC without PostgreSQL, over one connection for each
 *	  client: the extension's own network code and nothing else.
 *
 *		wire put|late_put|range|v3lock ENDPOINT SECONDS [CLIENTS]
 *
 * Each client has one request in flight at a time.  A "late_put" comes 10 to 15 ms after
 * the last one, in which nothing happened.  "range" is linearizable.
 * "v3lock" is etcd's lock service, the lock and the unlock.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "etcd/etcd_request.h"
#include "etcd/etcd_response.h"
#include "etcd/pb.h"
#include "net/channel.h"
#include "net/target.h"
#include "sample.h"

#define MAX_CLIENTS		256
#define TIMEOUT_MS		10000
#define WARM_UP			10		/* operations of each client not counted */

typedef struct Client
{
	int			number;
	Channel    *channel;
	long		operations;
	double		sent;
	char		key[256];		/* v3lock: what to unlock */
	size_t		key_len;		/* 0: not locked */
	double		lock_us;		/* and how long the lock took */
} Client;

static const char *work;
static Target target;
static Loop *loop;
static Client clients[MAX_CLIENTS];
static int	running;
static double until;
static long operations;
static int64_t lease;

static void answered(void *arg, const GrpcReply *reply);

static void
call(Client *client, const char *path, const void *data, size_t len,
	 void (*done) (void *arg, const GrpcReply *reply))
{
	GrpcCallbacks callbacks = {.done = done};
	GrpcRequest request = {.path = path,.data = data,.len = len,
	.timeout = (int64_t) TIMEOUT_MS * 1000};

	client->sent = now_us();
	if (channel_call(client->channel, &request, &callbacks, client) == NULL)
		fail("cannot call");
}

static void
call_written(Client *client, const char *path, PbWriter *writer)
{
	if (writer->failed)
		fail("out of memory");
	call(client, path, writer->data, writer->len, answered);
	free(writer->data);
}

/* As large as a lock's key and value. */
static void
call_put(Client *client)
{
	char		key[128];
	char		value[200];
	PbWriter	writer;

	snprintf(key, sizeof(key), "/bench/put/%d/write/7f0123456789abcd-0000000000000001",
			 client->number);
	memset(value, 'v', sizeof(value));
	if (!pb_write_start(&writer, 512))
		fail("out of memory");
	pb_write_bytes(&writer, 1, key, strlen(key));
	pb_write_bytes(&writer, 2, value, sizeof(value));
	call_written(client, "/etcdserverpb.KV/Put", &writer);
}

static void
call_range(Client *client)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true};
	EtcdMessage message;

	op.range.key = "/bench/range/";
	op.range.key_len = strlen(op.range.key);
	op.range.end = "/bench/range0";
	op.range.end_len = strlen(op.range.end);
	message = etcd_request_range(&op);
	call(client, etcd_request_path(message.method), message.data, message.len, answered);
	etcd_request_free(&message);
}

static void
call_v3lock(Client *client)
{
	char		name[64];
	PbWriter	writer;

	if (!pb_write_start(&writer, 512))
		fail("out of memory");
	if (client->key_len > 0)
	{
		pb_write_bytes(&writer, 1, client->key, client->key_len);
		call_written(client, "/v3lockpb.Lock/Unlock", &writer);
		return;
	}
	snprintf(name, sizeof(name), "/bench/v3lock/%d", client->number);
	pb_write_bytes(&writer, 1, name, strlen(name));
	pb_write_int(&writer, 2, lease);
	call_written(client, "/v3lockpb.Lock/Lock", &writer);
}

static void
next(Client *client)
{
	if (now_us() >= until && client->key_len == 0)
	{
		running--;
		return;
	}
	if (strcmp(work, "late_put") == 0)
		usleep((useconds_t) (10000 + random() % 5000));
	if (strcmp(work, "put") == 0 || strcmp(work, "late_put") == 0)
		call_put(client);
	else if (strcmp(work, "range") == 0)
		call_range(client);
	else
		call_v3lock(client);
}

/* Note what a lock's response says is to be unlocked. */
static void
note_locked(Client *client, const GrpcReply *reply)
{
	PbReader	reader;
	PbField		field;

	pb_read_start(&reader, reply->data, reply->len);
	while (pb_read(&reader, &field))
	{
		if (field.number != 2 || field.len > sizeof(client->key))
			continue;
		memcpy(client->key, field.data, field.len);
		client->key_len = field.len;
	}
	if (client->key_len == 0)
		fail("no key in the response to a lock");
}

static void
answered(void *arg, const GrpcReply *reply)
{
	Client	   *client = arg;
	double		us = now_us() - client->sent;
	const char *kind = work;

	if (!reply->delivered || reply->status != 0)
		fail(reply->delivered ? reply->message : reply->error);
	if (strcmp(work, "v3lock") == 0)
	{
		bool		was_locked = client->key_len > 0;

		kind = was_locked ? "unlock" : "lock";
		if (was_locked)
		{
			client->key_len = 0;
			if (client->operations >= WARM_UP)
				sample("pair", client->lock_us + us);
		}
		else
		{
			note_locked(client, reply);
			client->lock_us = us;
		}
	}
	if (client->operations++ >= WARM_UP)
		sample(kind, us);
	if (client->key_len == 0)
		operations++;
	next(client);
}

static void
granted(void *arg, const GrpcReply *reply)
{
	EtcdReply	etcd_reply = {reply->status, reply->message, reply->data, reply->len};
	EtcdLeaseResult result;
	EtcdError	err;

	if (!reply->delivered)
		fail(reply->error);
	if (!etcd_response_lease(&etcd_reply, &result, &err))
		fail(err.message);
	lease = result.id;
	etcd_response_free_lease(&result);
	running--;
}

static void
run(void)
{
	while (running > 0)
	{
		struct pollfd pfd = {.fd = loop_fd(loop),.events = POLLIN};

		poll(&pfd, 1, (int) loop_timeout(loop));
		loop_run(loop);
	}
}

static void
failed(void *arg, const char *error, bool was_open)
{
	fail(error);
}

int
main(int argc, char **argv)
{
	static const ChannelCallbacks callbacks = {.failed = failed};
	ChannelTarget to;
	double		began;
	int			n;
	int			i;

	if (argc < 4)
		fail("usage: wire put|late_put|range|v3lock ENDPOINT SECONDS [CLIENTS]");
	work = argv[1];
	n = argc > 4 ? atoi(argv[4]) : 1;
	if (n < 1 || n > MAX_CLIENTS)
		fail("too many clients");
	if (!target_parse(argv[2], &target) || target.is_tls || !target.is_numeric)
		fail("not a URL of an etcd without TLS, by its address");
	signal(SIGPIPE, SIG_IGN);
	loop = loop_create();
	to.is_tls = false;
	to.host = to.address = target.host;
	to.port = target.port;
	for (i = 0; i < n; i++)
	{
		clients[i].number = i;
		clients[i].channel = loop == NULL ? NULL :
			channel_create(loop, &to, NULL, TIMEOUT_MS, &callbacks, NULL);
		if (clients[i].channel == NULL)
			fail("cannot set up the network");
	}

	if (strcmp(work, "v3lock") == 0)
	{
		EtcdMessage message = etcd_request_lease_grant(0, 60);

		running = 1;
		call(&clients[0], etcd_request_path(message.method), message.data, message.len,
			 granted);
		run();
		etcd_request_free(&message);
	}

	began = now_us();
	until = began + atof(argv[3]) * 1e6;
	for (i = 0; i < n; i++)
	{
		running++;
		next(&clients[i]);
	}
	run();
	print_samples(operations, now_us() - began);
	return 0;
}
