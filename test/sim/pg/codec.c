/*-------------------------------------------------------------------------
 *
 * codec.c
 *	  Instead of etcd_request.c and etcd_response.c: requests and responses as
 *	  structs.  A message's data is a pointer to one.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "etcd/etcd_request.h"
#include "etcd/etcd_response.h"
#include "sim_message.h"

/* ---- requests ---- */

static EtcdMessage
message_of(EtcdMethod method, SimAsk *ask)
{
	EtcdMessage message = {.method = method,.len = sizeof(ask)};

	message.data = malloc(sizeof(ask));
	memcpy(message.data, &ask, sizeof(ask));
	return message;
}

const char *
etcd_request_path(EtcdMethod method)
{
	return "";
}

EtcdMessage
etcd_request_range(const EtcdOp *op)
{
	return message_of(ETCD_METHOD_RANGE, sim_ask_range(op));
}

EtcdMessage
etcd_request_txn(const EtcdTxn *txn)
{
	return message_of(ETCD_METHOD_TXN, sim_ask_txn(txn));
}

static EtcdMessage
about_lease(EtcdMethod method, SimMethod sim_method, int64_t id, int64_t ttl, bool keys)
{
	SimAsk	   *ask = sim_ask(sim_method);

	ask->id = id;
	ask->ttl = ttl;
	ask->keys = keys;
	return message_of(method, ask);
}

EtcdMessage
etcd_request_lease_grant(int64_t id, int64_t ttl_seconds)
{
	return about_lease(ETCD_METHOD_LEASE_GRANT, SIM_LEASE_GRANT, id, ttl_seconds, false);
}

EtcdMessage
etcd_request_lease_revoke(int64_t id)
{
	return about_lease(ETCD_METHOD_LEASE_REVOKE, SIM_LEASE_REVOKE, id, 0, false);
}

EtcdMessage
etcd_request_lease_keepalive(int64_t id)
{
	return about_lease(ETCD_METHOD_LEASE_KEEPALIVE, SIM_LEASE_KEEPALIVE, id, 0, false);
}

EtcdMessage
etcd_request_lease_timetolive(int64_t id, bool keys)
{
	return about_lease(ETCD_METHOD_LEASE_TIMETOLIVE, SIM_LEASE_TIMETOLIVE, id, 0, keys);
}

EtcdMessage
etcd_request_status(void)
{
	return message_of(ETCD_METHOD_STATUS, sim_ask(SIM_STATUS));
}

EtcdMessage
etcd_request_authenticate(const char *name, const char *password)
{
	return message_of(ETCD_METHOD_AUTHENTICATE, sim_ask_login(name, password));
}

EtcdMessage
etcd_request_watch_create(int64_t watch_id, const EtcdRange *range, bool deletes_only)
{
	return message_of(ETCD_METHOD_WATCH, sim_ask_watch(range, deletes_only, watch_id));
}

EtcdMessage
etcd_request_watch_cancel(int64_t watch_id)
{
	SimAsk	   *ask = sim_ask(SIM_WATCH_CANCEL);

	ask->id = watch_id;
	return message_of(ETCD_METHOD_WATCH, ask);
}

static SimAsk *
ask_of(const EtcdMessage *message)
{
	SimAsk	   *ask;

	memcpy(&ask, message->data, sizeof(ask));
	return ask;
}

void
etcd_request_free(EtcdMessage *message)
{
	if (message->data != NULL)
	{
		sim_ask_free(ask_of(message));
		free(message->data);
	}
	message->data = NULL;
	message->len = 0;
}

/* ---- responses ---- */

void
etcd_response_error(const EtcdReply *reply, EtcdError *err)
{
	memset(err, 0, sizeof(*err));
	err->code = reply->status;
	strlcpy(err->message, reply->message != NULL ? reply->message : "", sizeof(err->message));
}

static const SimAnswer *
answer_of(const EtcdReply *reply, EtcdError *err)
{
	if (reply->status == ETCD_OK)
		return reply->data;
	etcd_response_error(reply, err);
	return NULL;
}

bool
etcd_response_range(const EtcdReply *reply, EtcdRangeResult *result, EtcdError *err)
{
	const SimAnswer *answer = answer_of(reply, err);

	memset(result, 0, sizeof(*result));
	if (answer == NULL)
		return false;
	result->header = answer->of.range.header;
	sim_copy_op(&answer->of.range.range, &result->range);
	return true;
}

bool
etcd_response_txn(const EtcdReply *reply, EtcdTxnResult *result, EtcdError *err)
{
	const SimAnswer *answer = answer_of(reply, err);

	memset(result, 0, sizeof(*result));
	if (answer == NULL)
		return false;
	sim_copy_txn(&answer->of.txn, result);
	return true;
}

bool
etcd_response_single_range(const EtcdReply *reply, EtcdTxnResult *result, EtcdError *err)
{
	const SimAnswer *answer = answer_of(reply, err);

	memset(result, 0, sizeof(*result));
	if (answer == NULL)
		return false;
	result->header = answer->of.range.header;
	result->succeeded = true;
	result->nresults = 1;
	result->results = calloc(1, sizeof(EtcdOpResult));
	sim_copy_op(&answer->of.range.range, &result->results[0]);
	return true;
}

bool
etcd_response_lease(const EtcdReply *reply, EtcdLeaseResult *result, EtcdError *err)
{
	const SimAnswer *answer = answer_of(reply, err);

	memset(result, 0, sizeof(*result));
	if (answer == NULL)
		return false;
	sim_copy_lease(&answer->of.lease, result);
	return true;
}

bool
etcd_response_status(const EtcdReply *reply, EtcdStatusResult *result, EtcdError *err)
{
	const SimAnswer *answer = answer_of(reply, err);

	memset(result, 0, sizeof(*result));
	if (answer == NULL)
		return false;
	*result = answer->of.status;
	return true;
}

bool
etcd_response_auth(const EtcdReply *reply, EtcdAuthResult *result, EtcdError *err)
{
	const SimAnswer *answer = answer_of(reply, err);

	memset(result, 0, sizeof(*result));
	if (answer == NULL)
		return false;
	result->header = answer->of.auth.header;
	result->token = strdup(answer->of.auth.token);
	return true;
}

bool
etcd_response_header(const EtcdReply *reply, EtcdHeader *header, EtcdError *err)
{
	const SimAnswer *answer = answer_of(reply, err);

	memset(header, 0, sizeof(*header));
	if (answer == NULL)
		return false;
	*header = answer->of.header;
	return true;
}

bool
etcd_response_watch(const void *data, size_t len, EtcdWatchMessage *result, EtcdError *err)
{
	const SimAnswer *answer = data;

	memset(result, 0, sizeof(*result));
	sim_copy_watch(&answer->of.watch, result);
	return true;
}

static void
free_kvs(EtcdKeyValue *kvs, int n)
{
	for (int i = 0; i < n; i++)
		free(kvs[i].key);
	free(kvs);
}

static void
free_ops(EtcdOpResult *results, int n)
{
	for (int i = 0; i < n; i++)
	{
		free_kvs(results[i].kvs, results[i].nkvs);
		free_ops(results[i].results, results[i].nresults);
	}
	free(results);
}

void
etcd_response_free_range(EtcdRangeResult *result)
{
	free_kvs(result->range.kvs, result->range.nkvs);
	memset(result, 0, sizeof(*result));
}

void
etcd_response_free_txn(EtcdTxnResult *result)
{
	free_ops(result->results, result->nresults);
	memset(result, 0, sizeof(*result));
}

void
etcd_response_free_lease(EtcdLeaseResult *result)
{
	free(result->keys);
	memset(result, 0, sizeof(*result));
}

void
etcd_response_free_status(EtcdStatusResult *result)
{
	memset(result, 0, sizeof(*result));
}

void
etcd_response_free_auth(EtcdAuthResult *result)
{
	free(result->token);
	memset(result, 0, sizeof(*result));
}

void
etcd_response_free_watch(EtcdWatchMessage *result)
{
	for (int i = 0; i < result->nevents; i++)
		free(result->events[i].kv.key);
	free(result->events);
	memset(result, 0, sizeof(*result));
}
