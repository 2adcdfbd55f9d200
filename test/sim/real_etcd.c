/*-------------------------------------------------------------------------
 *
 * real_etcd.c
 *	  A real etcd, asked by the project's own codec and transport.
 *
 *-------------------------------------------------------------------------
 */
#include "real_etcd.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "etcd/etcd_request.h"
#include "etcd/etcd_response.h"
#include "etcd/pb.h"
#include "net/channel.h"
#include "net/target.h"

#define TIMEOUT_MS		30000

struct RealWatch
{
	GrpcCall   *stream;
	void		(*message) (void *arg, const EtcdWatchMessage *msg);
	void	   *arg;
};

/* What the request that is waited for has brought. */
typedef struct Answer
{
	bool		done;
	EtcdReply	reply;
	char		message[512];
	char	   *data;
} Answer;

static Loop *loop;
static Channel *channel;

static void
die(const char *message)
{
	fprintf(stderr, "real_etcd: %s\n", message);
	exit(2);
}

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void
failed(void *arg, const char *error)
{
	(void) arg;
	die(error);
}

void
real_etcd_connect(const char *url)
{
	static const ChannelCallbacks callbacks = {.failed = failed};
	static Target target;
	ChannelTarget to;

	if (!target_parse(url, &target) || !target.is_numeric)
		die("not a URL with a numeric address");
	to.is_tls = target.is_tls;
	to.host = to.address = target.host;
	to.port = target.port;
	loop = loop_create();
	channel = loop == NULL ? NULL :
		channel_create(loop, &to, NULL, TIMEOUT_MS, &callbacks, NULL);
	if (channel == NULL)
		die("cannot set up the network");
}

void
real_etcd_wait(int ms, const bool *done)
{
	int64_t		until = now_ms() + ms;

	while (!*done && now_ms() < until)
	{
		struct pollfd fd = {loop_fd(loop), POLLIN, 0};
		long		timeout = loop_timeout(loop);
		int64_t		left = until - now_ms();

		if (timeout < 0 || timeout > left)
			timeout = left > 0 ? left : 0;
		(void) poll(&fd, 1, (int) timeout);
		loop_run(loop);
	}
}

static void
answered(void *arg, const GrpcReply *from)
{
	Answer	   *answer = arg;

	if (!from->delivered)
		die(from->error);
	snprintf(answer->message, sizeof(answer->message), "%s", from->message);
	answer->data = malloc(from->len + 1);
	if (from->len > 0)
		memcpy(answer->data, from->data, from->len);
	answer->reply.status = from->status;
	answer->reply.message = answer->message;
	answer->reply.data = answer->data;
	answer->reply.len = from->len;
	answer->done = true;
}

/* The answer stays until the next one. */
static const EtcdReply *
ask_path(const char *path, const void *data, size_t len)
{
	static const GrpcCallbacks callbacks = {.done = answered};
	static Answer answer;
	GrpcRequest request = {.path = path,.data = data,.len = len,
	.timeout = (int64_t) TIMEOUT_MS * 1000};

	free(answer.data);
	memset(&answer, 0, sizeof(answer));
	if (channel_call(channel, &request, &callbacks, &answer) == NULL)
		die("cannot send a request");
	real_etcd_wait(2 * TIMEOUT_MS, &answer.done);
	if (!answer.done)
		die("no answer");
	return &answer.reply;
}

static const EtcdReply *
ask(EtcdMessage message)
{
	const EtcdReply *reply = ask_path(etcd_request_path(message.method), message.data,
									  message.len);

	etcd_request_free(&message);
	return reply;
}

bool
real_etcd_range(const EtcdOp *op, EtcdRangeResult *result, EtcdError *err)
{
	return etcd_response_range(ask(etcd_request_range(op)), result, err);
}

bool
real_etcd_txn(const EtcdTxn *txn, EtcdTxnResult *result, EtcdError *err)
{
	return etcd_response_txn(ask(etcd_request_txn(txn)), result, err);
}

bool
real_etcd_lease_grant(int64_t id, int64_t ttl, EtcdLeaseResult *result, EtcdError *err)
{
	return etcd_response_lease(ask(etcd_request_lease_grant(id, ttl)), result, err);
}

bool
real_etcd_lease_keepalive(int64_t id, EtcdLeaseResult *result, EtcdError *err)
{
	return etcd_response_lease(ask(etcd_request_lease_keepalive(id)), result, err);
}

bool
real_etcd_lease_timetolive(int64_t id, EtcdLeaseResult *result, EtcdError *err)
{
	return etcd_response_lease(ask(etcd_request_lease_timetolive(id, true)), result, err);
}

bool
real_etcd_lease_revoke(int64_t id, EtcdHeader *header, EtcdError *err)
{
	return etcd_response_header(ask(etcd_request_lease_revoke(id)), header, err);
}

/* A request that the project has no use for itself, with integers as its fields. */
static const EtcdReply *
ask_with_ints(const char *path, int n, const int64_t *fields)
{
	PbWriter	writer;
	const EtcdReply *reply;

	if (!pb_write_start(&writer, 64))
		die("out of memory");
	for (int i = 0; i < n; i++)
		pb_write_int(&writer, i + 1, fields[i]);
	reply = ask_path(path, writer.data, writer.len);
	free(writer.data);
	return reply;
}

bool
real_etcd_compact(int64_t revision, EtcdError *err)
{
	EtcdHeader	header;

	return etcd_response_header(ask_with_ints("/etcdserverpb.KV/Compact", 1, &revision),
								&header, err);
}

/* The response of etcd 3.4 has no header. */
void
real_etcd_alarm_nospace(bool on)
{
	/* activate or deactivate, by which member, NOSPACE */
	int64_t		fields[] = {on ? 1 : 2, 1, 1};

	if (ask_with_ints("/etcdserverpb.Maintenance/Alarm", 3, fields)->status != 0)
		die("the alarm is refused");
}

static void
stream_message(void *arg, const void *data, size_t len)
{
	RealWatch  *watch = arg;
	EtcdWatchMessage msg;
	EtcdError	err;

	if (!etcd_response_watch(data, len, &msg, &err))
		die(err.message);
	watch->message(watch->arg, &msg);
	etcd_response_free_watch(&msg);
}

static void
watch_done(void *arg, const GrpcReply *reply)
{
	(void) arg;
	die(reply->delivered ? "a watch has ended" : reply->error);
}

RealWatch *
real_etcd_watch(const EtcdRange *range, bool deletes_only,
				void (*message) (void *arg, const EtcdWatchMessage *msg), void *arg)
{
	static const GrpcCallbacks callbacks = {.message = stream_message,.done = watch_done};
	RealWatch  *watch = calloc(1, sizeof(RealWatch));
	EtcdMessage create = etcd_request_watch_create(1, range, deletes_only);
	GrpcRequest request = {.path = etcd_request_path(create.method),
	.data = create.data,.len = create.len};

	watch->message = message;
	watch->arg = arg;
	watch->stream = channel_stream(channel, &request, &callbacks, watch);
	etcd_request_free(&create);
	if (watch->stream == NULL)
		die("cannot open a watch");
	return watch;
}

void
real_etcd_end_watch(RealWatch *watch)
{
	channel_cancel(channel, watch->stream);
	free(watch);
}
