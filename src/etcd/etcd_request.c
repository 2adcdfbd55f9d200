/*-------------------------------------------------------------------------
 *
 * etcd_request.c
 *	  Requests to etcd, as gRPC carries them.
 *
 * The field numbers are those of etcd's api/etcdserverpb/rpc.proto.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/etcd_request.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "etcd/pb.h"

/* Initial size of a request's memory, bytes. */
#define FIRST_SIZE		256

/* Fields */
enum
{
	RANGE_KEY = 1, RANGE_END = 2, RANGE_LIMIT = 3, RANGE_REVISION = 4,
	RANGE_KEYS_ONLY = 8,
	PUT_KEY = 1, PUT_VALUE = 2, PUT_LEASE = 3,
	DELETE_KEY = 1, DELETE_END = 2,
	OP_RANGE = 1, OP_PUT = 2, OP_DELETE = 3, OP_TXN = 4,
	COMPARE_RESULT = 1, COMPARE_TARGET = 2, COMPARE_KEY = 3,
	COMPARE_CREATE_REVISION = 5, COMPARE_MOD_REVISION = 6, COMPARE_END = 64,
	TXN_COMPARE = 1, TXN_SUCCESS = 2, TXN_FAILURE = 3,
	GRANT_TTL = 1, GRANT_ID = 2,
	LEASE_ID = 1, TIMETOLIVE_KEYS = 2,
	WATCH_CREATE = 1, WATCH_CANCEL = 2,
	CREATE_KEY = 1, CREATE_END = 2, CREATE_FILTERS = 5, CREATE_WATCH_ID = 7,
	CREATE_FRAGMENT = 8,
	CANCEL_WATCH_ID = 1,
	AUTH_NAME = 1, AUTH_PASSWORD = 2
};

/* Values of enumerations */
enum
{
	COMPARE_IS_EQUAL = 0, COMPARE_IS_GREATER = 1, COMPARE_IS_LESS = 2,
	COMPARE_TO_CREATE = 1, COMPARE_TO_MOD = 2,
	FILTER_NOPUT = 0
};

const char *
etcd_request_path(EtcdMethod method)
{
	switch (method)
	{
		case ETCD_METHOD_RANGE:
			return "/etcdserverpb.KV/Range";
		case ETCD_METHOD_TXN:
			return "/etcdserverpb.KV/Txn";
		case ETCD_METHOD_LEASE_GRANT:
			return "/etcdserverpb.Lease/LeaseGrant";
		case ETCD_METHOD_LEASE_REVOKE:
			return "/etcdserverpb.Lease/LeaseRevoke";
		case ETCD_METHOD_LEASE_KEEPALIVE:
			return "/etcdserverpb.Lease/LeaseKeepAlive";
		case ETCD_METHOD_LEASE_TIMETOLIVE:
			return "/etcdserverpb.Lease/LeaseTimeToLive";
		case ETCD_METHOD_STATUS:
			return "/etcdserverpb.Maintenance/Status";
		case ETCD_METHOD_AUTHENTICATE:
			return "/etcdserverpb.Auth/Authenticate";
		case ETCD_METHOD_WATCH:
			return "/etcdserverpb.Watch/Watch";
	}
	return "";
}

/* The message that was written, which takes over its memory. */
static EtcdMessage
finish(EtcdMethod method, PbWriter *writer)
{
	EtcdMessage message = {method, NULL, 0};

	if (writer->failed)
		free(writer->data);
	else
	{
		message.data = writer->data;
		message.len = writer->len;
	}
	return message;
}

/* An empty end would be left out, and mean "only the key". */
static void
write_end(PbWriter *writer, int field, const EtcdRange *range)
{
	assert(range->end == NULL || range->end_len > 0);
	if (range->end != NULL)
		pb_write_bytes(writer, field, range->end, range->end_len);
}

static void
write_range(PbWriter *writer, const EtcdOp *op)
{
	pb_write_bytes(writer, RANGE_KEY, op->range.key, op->range.key_len);
	write_end(writer, RANGE_END, &op->range);
	pb_write_int(writer, RANGE_LIMIT, op->limit);
	pb_write_int(writer, RANGE_REVISION, op->revision);
	pb_write_int(writer, RANGE_KEYS_ONLY, op->keys_only);
}

/* A put never has an end, whatever op->range.end says. */
static void
write_put(PbWriter *writer, const EtcdOp *op)
{
	pb_write_bytes(writer, PUT_KEY, op->range.key, op->range.key_len);
	pb_write_bytes(writer, PUT_VALUE, op->value, op->value_len);
	pb_write_int(writer, PUT_LEASE, op->lease);
}

static void
write_delete(PbWriter *writer, const EtcdOp *op)
{
	pb_write_bytes(writer, DELETE_KEY, op->range.key, op->range.key_len);
	write_end(writer, DELETE_END, &op->range);
}

static void
write_compare(PbWriter *writer, const EtcdCompare *compare)
{
	static const int results[] = {
		[ETCD_COMPARE_EQUAL] = COMPARE_IS_EQUAL,
		[ETCD_COMPARE_GREATER] = COMPARE_IS_GREATER,
		[ETCD_COMPARE_LESS] = COMPARE_IS_LESS
	};
	bool		create = compare->target == ETCD_COMPARE_CREATE;

	pb_write_int(writer, COMPARE_RESULT, results[compare->result]);
	pb_write_int(writer, COMPARE_TARGET, create ? COMPARE_TO_CREATE : COMPARE_TO_MOD);
	pb_write_bytes(writer, COMPARE_KEY, compare->range.key, compare->range.key_len);
	pb_write_int_always(writer, create ? COMPARE_CREATE_REVISION : COMPARE_MOD_REVISION,
						compare->revision);
	write_end(writer, COMPARE_END, &compare->range);
}

static void write_txn(PbWriter *writer, const EtcdTxn *txn);

static void
write_op(PbWriter *writer, const EtcdOp *op)
{
	static const int fields[] = {
		[ETCD_OP_RANGE] = OP_RANGE,
		[ETCD_OP_PUT] = OP_PUT,
		[ETCD_OP_DELETE] = OP_DELETE,
		[ETCD_OP_TXN] = OP_TXN
	};
	size_t		opened = pb_write_open(writer, fields[op->type]);

	switch (op->type)
	{
		case ETCD_OP_RANGE:
			write_range(writer, op);
			break;
		case ETCD_OP_PUT:
			write_put(writer, op);
			break;
		case ETCD_OP_DELETE:
			write_delete(writer, op);
			break;
		case ETCD_OP_TXN:
			write_txn(writer, op->txn);
			break;
	}
	pb_write_close(writer, opened);
}

static void
write_ops(PbWriter *writer, int field, const EtcdOp *ops, int n)
{
	int			i;

	for (i = 0; i < n; i++)
	{
		size_t		opened = pb_write_open(writer, field);

		write_op(writer, &ops[i]);
		pb_write_close(writer, opened);
	}
}

static void
write_txn(PbWriter *writer, const EtcdTxn *txn)
{
	int			i;

	for (i = 0; i < txn->ncompare; i++)
	{
		size_t		opened = pb_write_open(writer, TXN_COMPARE);

		write_compare(writer, &txn->compare[i]);
		pb_write_close(writer, opened);
	}
	write_ops(writer, TXN_SUCCESS, txn->success, txn->nsuccess);
	write_ops(writer, TXN_FAILURE, txn->failure, txn->nfailure);
}

EtcdMessage
etcd_request_range(const EtcdOp *op)
{
	PbWriter	writer;

	if (pb_write_start(&writer, FIRST_SIZE))
		write_range(&writer, op);
	return finish(ETCD_METHOD_RANGE, &writer);
}

EtcdMessage
etcd_request_txn(const EtcdTxn *txn)
{
	PbWriter	writer;

	if (pb_write_start(&writer, FIRST_SIZE))
		write_txn(&writer, txn);
	return finish(ETCD_METHOD_TXN, &writer);
}

EtcdMessage
etcd_request_lease_grant(int64_t id, int64_t ttl_seconds)
{
	PbWriter	writer;

	if (pb_write_start(&writer, FIRST_SIZE))
	{
		pb_write_int(&writer, GRANT_TTL, ttl_seconds);
		pb_write_int(&writer, GRANT_ID, id);
	}
	return finish(ETCD_METHOD_LEASE_GRANT, &writer);
}

/* A request that consists of a lease's id. */
static EtcdMessage
lease_request(EtcdMethod method, int64_t id, bool keys)
{
	PbWriter	writer;

	if (pb_write_start(&writer, FIRST_SIZE))
	{
		pb_write_int(&writer, LEASE_ID, id);
		pb_write_int(&writer, TIMETOLIVE_KEYS, keys);
	}
	return finish(method, &writer);
}

EtcdMessage
etcd_request_lease_revoke(int64_t id)
{
	return lease_request(ETCD_METHOD_LEASE_REVOKE, id, false);
}

EtcdMessage
etcd_request_lease_keepalive(int64_t id)
{
	return lease_request(ETCD_METHOD_LEASE_KEEPALIVE, id, false);
}

EtcdMessage
etcd_request_lease_timetolive(int64_t id, bool keys)
{
	return lease_request(ETCD_METHOD_LEASE_TIMETOLIVE, id, keys);
}

/* A request without a field. */
static EtcdMessage
empty_request(EtcdMethod method)
{
	PbWriter	writer;

	(void) pb_write_start(&writer, 1);
	return finish(method, &writer);
}

EtcdMessage
etcd_request_status(void)
{
	return empty_request(ETCD_METHOD_STATUS);
}

/*
 * There is room for everything from the start, so that no copy of the password
 * is left.
 */
EtcdMessage
etcd_request_authenticate(const char *name, const char *password)
{
	PbWriter	writer;

	if (pb_write_start(&writer, FIRST_SIZE + strlen(name) + strlen(password)))
	{
		pb_write_bytes(&writer, AUTH_NAME, name, strlen(name));
		pb_write_bytes(&writer, AUTH_PASSWORD, password, strlen(password));
	}
	return finish(ETCD_METHOD_AUTHENTICATE, &writer);
}

EtcdMessage
etcd_request_watch_create(int64_t watch_id, const EtcdRange *range, bool deletes_only)
{
	PbWriter	writer;

	if (pb_write_start(&writer, FIRST_SIZE))
	{
		size_t		opened = pb_write_open(&writer, WATCH_CREATE);

		pb_write_bytes(&writer, CREATE_KEY, range->key, range->key_len);
		write_end(&writer, CREATE_END, range);
		if (deletes_only)
			pb_write_int_always(&writer, CREATE_FILTERS, FILTER_NOPUT);
		pb_write_int(&writer, CREATE_WATCH_ID, watch_id);
		pb_write_int(&writer, CREATE_FRAGMENT, true);
		pb_write_close(&writer, opened);
	}
	return finish(ETCD_METHOD_WATCH, &writer);
}

EtcdMessage
etcd_request_watch_cancel(int64_t watch_id)
{
	PbWriter	writer;

	if (pb_write_start(&writer, FIRST_SIZE))
	{
		size_t		opened = pb_write_open(&writer, WATCH_CANCEL);

		pb_write_int(&writer, CANCEL_WATCH_ID, watch_id);
		pb_write_close(&writer, opened);
	}
	return finish(ETCD_METHOD_WATCH, &writer);
}

void
etcd_request_free(EtcdMessage *message)
{
	if (message->data != NULL && message->method == ETCD_METHOD_AUTHENTICATE)
		explicit_bzero(message->data, message->len);
	free(message->data);
	message->data = NULL;
	message->len = 0;
}
