/*-------------------------------------------------------------------------
 *
 * gateway.c
 *	  What etcd's JSON gateway costs without PostgreSQL, over kept connections:
 *	  the extension's own transport and nothing else.
 *
 *		gateway put|range|v3lock ENDPOINT SECONDS [CLIENTS]
 *
 * Each client has one request under way at a time.  "range" is linearizable.
 * "v3lock" is etcd's lock service, the lock and the unlock.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <cjson/cJSON.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "etcd_api.h"
#include "etcd_base64.h"
#include "etcd_transport.h"
#include "sample.h"

#define MAX_CLIENTS		256
#define TIMEOUT_MS		10000
#define WARM_UP			10		/* operations of each client not counted */

typedef struct Client
{
	int			number;
	long		operations;
	double		sent;
	char		key[256];		/* v3lock: what to unlock; empty: not locked */
	double		lock_us;		/* and how long the lock took */
} Client;

static const char *work;
static const char *endpoint;
static EtcdTransport *transport;
static Client clients[MAX_CLIENTS];
static int	running;
static double until;
static long operations;
static int64_t lease;

static void answered(void *arg, const EtcdAnswer *answer);
static const EtcdCallbacks unary = {.done = answered};

static const char *
base64(const char *text)
{
	static char encoded[512];

	etcd_base64_encode(text, strlen(text), encoded);
	return encoded;
}

static void
post(Client *client, const char *path, char *body)
{
	client->sent = now_us();
	if (body == NULL ||
		etcd_transport_post(transport, endpoint, path, body, TIMEOUT_MS,
							&unary, client) == NULL)
		fail("cannot post");
}

/* As large as a lock's key and value. */
static void
post_put(Client *client)
{
	char		key[128];
	char		value[201];
	char	   *body;
	char	   *encoded;

	snprintf(key, sizeof(key), "/bench/put/%d/write/7f0123456789abcd-0000000000000001",
			 client->number);
	encoded = strdup(base64(key));
	memset(value, 'v', 200);
	value[200] = '\0';
	if (encoded == NULL ||
		asprintf(&body, "{\"key\":\"%s\",\"value\":\"%s\"}", encoded, base64(value)) < 0)
		fail("out of memory");
	free(encoded);
	post(client, "/v3/kv/put", body);
}

static void
post_range(Client *client)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE, .keys_only = true};

	op.range.key = "/bench/range/";
	op.range.key_len = strlen(op.range.key);
	op.range.end = "/bench/range0";
	op.range.end_len = strlen(op.range.end);
	post(client, ETCD_PATH_RANGE, etcd_encode_range(&op));
}

static void
post_v3lock(Client *client)
{
	char		name[64];
	char	   *body;

	if (client->key[0] != '\0')
	{
		if (asprintf(&body, "{\"key\":\"%s\"}", client->key) < 0)
			fail("out of memory");
		post(client, "/v3/lock/unlock", body);
		return;
	}
	snprintf(name, sizeof(name), "/bench/v3lock/%d", client->number);
	if (asprintf(&body, "{\"name\":\"%s\",\"lease\":\"%lld\"}",
				 base64(name), (long long) lease) < 0)
		fail("out of memory");
	post(client, "/v3/lock/lock", body);
}

static void
next(Client *client)
{
	if (now_us() >= until && client->key[0] == '\0')
	{
		running--;
		return;
	}
	if (strcmp(work, "put") == 0)
		post_put(client);
	else if (strcmp(work, "range") == 0)
		post_range(client);
	else
		post_v3lock(client);
}

/* Note what a lock's answer says is to be unlocked. */
static void
note_locked(Client *client, const EtcdAnswer *answer)
{
	cJSON	   *json = cJSON_ParseWithLength(answer->body, answer->len);
	const char *key = cJSON_GetStringValue(cJSON_GetObjectItem(json, "key"));

	if (key == NULL || strlen(key) >= sizeof(client->key))
		fail("no key in the answer to a lock");
	strcpy(client->key, key);
	cJSON_Delete(json);
}

static void
answered(void *arg, const EtcdAnswer *answer)
{
	Client	   *client = arg;
	double		us = now_us() - client->sent;
	const char *kind = work;

	if (!answer->delivered || answer->http_status != 200)
		fail(answer->delivered ? answer->body : answer->error);
	if (strcmp(work, "v3lock") == 0)
	{
		bool		was_locked = client->key[0] != '\0';

		kind = was_locked ? "unlock" : "lock";
		if (was_locked)
		{
			client->key[0] = '\0';
			if (client->operations >= WARM_UP)
				sample("pair", client->lock_us + us);
		}
		else
		{
			note_locked(client, answer);
			client->lock_us = us;
		}
	}
	if (client->operations++ >= WARM_UP)
		sample(kind, us);
	if (client->key[0] == '\0')
		operations++;
	next(client);
}

static void
granted(void *arg, const EtcdAnswer *answer)
{
	EtcdLeaseResult result;
	EtcdError	err;

	if (!answer->delivered ||
		!etcd_decode_lease(answer->body, answer->len, answer->http_status, &result, &err))
		fail(answer->delivered ? err.message : answer->error);
	lease = result.id;
	etcd_lease_result_free(&result);
	running--;
}

static void
run(void)
{
	while (running > 0)
	{
		struct pollfd pfd = {.fd = etcd_transport_fd(transport), .events = POLLIN};

		poll(&pfd, 1, (int) etcd_transport_timeout(transport));
		etcd_transport_run(transport);
	}
}

int
main(int argc, char **argv)
{
	static const EtcdCallbacks grant = {.done = granted};
	double		began;
	int			n;
	int			i;

	if (argc < 4)
		fail("usage: gateway put|range|v3lock ENDPOINT SECONDS [CLIENTS]");
	work = argv[1];
	endpoint = argv[2];
	n = argc > 4 ? atoi(argv[4]) : 1;
	if (n < 1 || n > MAX_CLIENTS)
		fail("too many clients");
	signal(SIGPIPE, SIG_IGN);
	transport = etcd_transport_create();
	if (transport == NULL)
		fail("cannot set up the transport");

	if (strcmp(work, "v3lock") == 0)
	{
		running = 1;
		if (etcd_transport_post(transport, endpoint, ETCD_PATH_LEASE_GRANT,
								etcd_encode_lease_grant(0, 60), TIMEOUT_MS,
								&grant, NULL) == NULL)
			fail("cannot post");
		run();
	}

	began = now_us();
	until = began + atof(argv[3]) * 1e6;
	for (i = 0; i < n; i++)
	{
		running++;
		clients[i].number = i;
		next(&clients[i]);
	}
	run();
	print_samples(operations, now_us() - began);
	etcd_transport_destroy(transport);
	return 0;
}
