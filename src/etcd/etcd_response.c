/*-------------------------------------------------------------------------
 *
 * etcd_response.c
 *	  Responses of etcd, as gRPC carries them: decoded, and checked for sanity.
 *
 * What decides who holds a lock is checked for sanity, not only for its type:
 * there must be a header, and a key has a name and, except in DELETE events, a
 * create_revision.  A field may come only once, with the right type; unknown
 * fields are skipped, because later releases may have more.
 *
 * A decoder works on a zeroed result, and the entry points free it if anything
 * is wrong, so that the functions in between can just return false.  For the
 * same reason, an element is counted before it is read.
 *
 * The field numbers are those of etcd's api/etcdserverpb/rpc.proto and
 * api/mvccpb/kv.proto.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/etcd_response.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "etcd/decoder.h"
#include "etcd/printable.h"

enum
{
	HEADER_CLUSTER = 1, HEADER_MEMBER = 2, HEADER_REVISION = 3, HEADER_TERM = 4,
	KV_KEY = 1, KV_CREATE_REVISION = 2, KV_MOD_REVISION = 3, KV_VALUE = 5,
	KV_LEASE = 6,
	RESPONSE_HEADER = 1,		/* of all responses */
	RANGE_KVS = 2, RANGE_MORE = 3, RANGE_COUNT = 4,
	DELETE_DELETED = 2,
	OP_RANGE = 1, OP_PUT = 2, OP_DELETE = 3, OP_TXN = 4,
	TXN_SUCCEEDED = 2, TXN_RESPONSES = 3,
	LEASE_ID = 2, LEASE_TTL = 3, LEASE_KEYS = 5,
	STATUS_VERSION = 2, STATUS_DB_SIZE = 3, STATUS_LEADER = 4, STATUS_ERRORS = 8,
	STATUS_DB_SIZE_IN_USE = 9, STATUS_IS_LEARNER = 10, STATUS_DB_QUOTA = 12,
	AUTH_TOKEN = 2,
	WATCH_ID = 2, WATCH_CREATED = 3, WATCH_CANCELED = 4,
	WATCH_COMPACT_REVISION = 5, WATCH_CANCEL_REASON = 6, WATCH_EVENTS = 11,
	EVENT_TYPE = 1, EVENT_KV = 2,
	EVENT_IS_PUT = 0, EVENT_IS_DELETE = 1
};

/* ----------------------------------------------------------------
 *		Errors
 * ----------------------------------------------------------------
 */

void
etcd_response_error(const EtcdReply *reply, EtcdError *err)
{
	memset(err, 0, sizeof(*err));
	err->code = reply->status;
	if (reply->message != NULL)
		printable_copy(err->message, sizeof(err->message), reply->message,
					   strlen(reply->message));
	if (err->message[0] == '\0')
		snprintf(err->message, sizeof(err->message), "gRPC status %d", reply->status);
}

/* ----------------------------------------------------------------
 *		Header
 * ----------------------------------------------------------------
 */

static bool
read_header_fields(Decoder *decoder, EtcdHeader *header)
{
	while (decoder_next_field(decoder))
	{
		bool		good = true;

		switch (decoder->field.number)
		{
			case HEADER_CLUSTER:
				good = decoder_read_uint(decoder, &header->cluster_id);
				break;
			case HEADER_MEMBER:
				good = decoder_read_uint(decoder, &header->member_id);
				break;
			case HEADER_REVISION:
				good = decoder_read_int(decoder, &header->revision);
				break;
			case HEADER_TERM:
				good = decoder_read_uint(decoder, &header->raft_term);
				break;
		}
		if (!good)
			return false;
	}
	if (!decoder_is_whole(decoder))
		return false;
	if (header->cluster_id == 0 || header->revision < 0 ||
		header->revision > ETCD_MAX_REVISION)
		return decoder_bad(decoder->err, "no cluster or an impossible revision in the header of etcd's response");
	return true;
}

static bool
read_header(Decoder *decoder, EtcdHeader *header)
{
	Decoder		inner;

	if (!decoder_is_single(decoder, PB_BYTES))
		return false;
	inner = decoder_open_field(decoder);
	return read_header_fields(&inner, header);
}

static bool
has_header(const Decoder *decoder)
{
	return decoder_was_seen(decoder, RESPONSE_HEADER) ||
		decoder_bad(decoder->err, "no header in etcd's response");
}

/*
 * The revision of a response about keys is never 0.  (That of some messages of
 * a watch is.)
 */
static bool
has_revision(const Decoder *decoder, const EtcdHeader *header)
{
	return has_header(decoder) &&
		(header->revision > 0 ||
		 decoder_bad(decoder->err, "no revision in the header of etcd's response"));
}

/* ----------------------------------------------------------------
 *		Keys
 * ----------------------------------------------------------------
 */

/* Key and value share one piece of memory, which "key" owns. */
static bool
copy_key_value(const PbField *key, const PbField *value, EtcdKeyValue *kv,
			   EtcdError *err)
{
	if (key->len == 0)
		return decoder_bad(err, "key without a name in etcd's response");
	kv->key = malloc(key->len + 1 + value->len + 1);
	if (kv->key == NULL)
		return decoder_out_of_memory(err);
	memcpy(kv->key, key->data, key->len);
	kv->key[key->len] = '\0';
	kv->key_len = key->len;
	kv->value = kv->key + key->len + 1;
	if (value->len > 0)
		memcpy(kv->value, value->data, value->len);
	kv->value[value->len] = '\0';
	kv->value_len = value->len;
	return true;
}

static bool
read_key_value_fields(Decoder *decoder, EtcdKeyValue *kv)
{
	PbField		key = {0};
	PbField		value = {0};

	while (decoder_next_field(decoder))
	{
		bool		good = true;

		switch (decoder->field.number)
		{
			case KV_KEY:
				good = decoder_is_single(decoder, PB_BYTES);
				key = decoder->field;
				break;
			case KV_CREATE_REVISION:
				good = decoder_read_int(decoder, &kv->create_revision);
				break;
			case KV_MOD_REVISION:
				good = decoder_read_int(decoder, &kv->mod_revision);
				break;
			case KV_VALUE:
				good = decoder_is_single(decoder, PB_BYTES);
				value = decoder->field;
				break;
			case KV_LEASE:
				good = decoder_read_int(decoder, &kv->lease);
				break;
		}
		if (!good)
			return false;
	}
	return decoder_is_whole(decoder) && copy_key_value(&key, &value, kv, decoder->err);
}

/* Read a key of a list, or that of an event. */
static bool
read_key_value(Decoder *decoder, EtcdKeyValue *kv)
{
	Decoder		inner = decoder_open_field(decoder);

	return read_key_value_fields(&inner, kv);
}

static bool
check_revisions(const EtcdKeyValue *kv, EtcdError *err)
{
	return (kv->create_revision >= 1 && kv->mod_revision >= kv->create_revision &&
			kv->mod_revision <= ETCD_MAX_REVISION) ||
		decoder_bad(err, "key with impossible revisions in etcd's response");
}

static void
free_key_values(EtcdKeyValue *kvs, int n)
{
	int			i;

	for (i = 0; i < n; i++)
		free(kvs[i].key);
	free(kvs);
}

/* ----------------------------------------------------------------
 *		Range and Txn
 * ----------------------------------------------------------------
 */

/* One of the keys that a range request has found. */
static bool
add_key_value(Decoder *decoder, EtcdOpResult *result)
{
	EtcdKeyValue *kv;

	if (!decoder_has_wire(decoder, PB_BYTES))
		return false;
	kv = decoder_add_element(decoder, (void **) &result->kvs, &result->nkvs, sizeof(*kv));
	return kv != NULL && read_key_value(decoder, kv) &&
		check_revisions(kv, decoder->err);
}

/* What a range request has found; "header" is NULL within a Txn. */
static bool
read_range_fields(Decoder *decoder, EtcdOpResult *result, EtcdHeader *header)
{
	result->type = ETCD_OP_RANGE;
	while (decoder_next_field(decoder))
	{
		bool		good = true;

		switch (decoder->field.number)
		{
			case RESPONSE_HEADER:
				if (header != NULL)
					good = read_header(decoder, header);
				break;
			case RANGE_KVS:
				good = add_key_value(decoder, result);
				break;
			case RANGE_MORE:
				good = decoder_read_bool(decoder, &result->more);
				break;
			case RANGE_COUNT:
				good = decoder_read_int(decoder, &result->count);
				break;
		}
		if (!good)
			return false;
	}
	if (!decoder_is_whole(decoder))
		return false;
	if (result->count < result->nkvs)
		return decoder_bad(decoder->err, "etcd's response counts fewer keys than it lists");
	return true;
}

static bool
read_delete_fields(Decoder *decoder, EtcdOpResult *result)
{
	result->type = ETCD_OP_DELETE;
	while (decoder_next_field(decoder))
	{
		if (decoder->field.number == DELETE_DELETED &&
			!decoder_read_int(decoder, &result->deleted))
			return false;
	}
	if (!decoder_is_whole(decoder))
		return false;
	return result->deleted >= 0 ||
		decoder_bad(decoder->err, "negative number of deleted keys in etcd's response");
}

static bool
read_put_fields(Decoder *decoder, EtcdOpResult *result)
{
	result->type = ETCD_OP_PUT;
	while (decoder_next_field(decoder))
		 /* nothing in it matters */ ;
	return decoder_is_whole(decoder);
}

static bool read_txn_fields(Decoder *decoder, EtcdOpResult *result,
							EtcdHeader *header, int depth);

static bool
read_op_result(Decoder *decoder, EtcdOpResult *result, int depth)
{
	Decoder		inner = decoder_open_field(decoder);

	switch (decoder->field.number)
	{
		case OP_RANGE:
			return read_range_fields(&inner, result, NULL);
		case OP_PUT:
			return read_put_fields(&inner, result);
		case OP_DELETE:
			return read_delete_fields(&inner, result);
		case OP_TXN:
			return read_txn_fields(&inner, result, NULL, depth + 1);
	}
	return decoder_bad(decoder->err, "response of unknown type in etcd's response to a Txn");
}

/* The result of one operation: a message with just one field. */
static bool
add_op_result(Decoder *decoder, EtcdOpResult *txn, int depth)
{
	Decoder		inner;
	EtcdOpResult *result;

	if (!decoder_has_wire(decoder, PB_BYTES))
		return false;
	result = decoder_add_element(decoder, (void **) &txn->results, &txn->nresults,
								 sizeof(*result));
	if (result == NULL)
		return false;
	inner = decoder_open_field(decoder);
	if (!decoder_next_field(&inner))
		return decoder_is_whole(&inner) &&
			decoder_bad(decoder->err, "empty response in etcd's response to a Txn");
	if (!decoder_has_wire(&inner, PB_BYTES) || !read_op_result(&inner, result, depth))
		return false;
	if (decoder_next_field(&inner))
		return decoder_bad(decoder->err, "ambiguous type of a response in etcd's response to a Txn");
	return decoder_is_whole(&inner);
}

static bool
read_txn_fields(Decoder *decoder, EtcdOpResult *result, EtcdHeader *header, int depth)
{
	result->type = ETCD_OP_TXN;
	if (depth > ETCD_MAX_TXN_DEPTH)
		return decoder_bad(decoder->err, "Txns nested too deeply in etcd's response");
	while (decoder_next_field(decoder))
	{
		bool		good = true;

		switch (decoder->field.number)
		{
			case RESPONSE_HEADER:
				if (header != NULL)
					good = read_header(decoder, header);
				break;
			case TXN_SUCCEEDED:
				good = decoder_read_bool(decoder, &result->succeeded);
				break;
			case TXN_RESPONSES:
				good = add_op_result(decoder, result, depth);
				break;
		}
		if (!good)
			return false;
	}
	return decoder_is_whole(decoder);
}

static void
free_op_results(EtcdOpResult *results, int n)
{
	int			i;

	for (i = 0; i < n; i++)
	{
		free_key_values(results[i].kvs, results[i].nkvs);
		free_op_results(results[i].results, results[i].nresults);
	}
	free(results);
}

/* ----------------------------------------------------------------
 *		Leases, status, authentication
 * ----------------------------------------------------------------
 */

static bool
add_lease_key(Decoder *decoder, EtcdLeaseResult *result)
{
	EtcdKeyName *key;

	if (!decoder_has_wire(decoder, PB_BYTES))
		return false;
	if (decoder->field.len == 0)
		return decoder_bad(decoder->err, "key without a name in etcd's response");
	key = decoder_add_element(decoder, (void **) &result->keys, &result->nkeys, sizeof(*key));
	if (key == NULL)
		return false;
	key->key = (const char *) decoder->field.data;
	key->key_len = decoder->field.len;
	return true;
}

static bool
read_lease_fields(Decoder *decoder, EtcdLeaseResult *result)
{
	while (decoder_next_field(decoder))
	{
		bool		good = true;

		switch (decoder->field.number)
		{
			case RESPONSE_HEADER:
				good = read_header(decoder, &result->header);
				break;
			case LEASE_ID:
				good = decoder_read_int(decoder, &result->id);
				break;
			case LEASE_TTL:
				good = decoder_read_int(decoder, &result->ttl);
				break;
			case LEASE_KEYS:
				good = add_lease_key(decoder, result);
				break;
		}
		if (!good)
			return false;
	}
	if (!decoder_is_whole(decoder) || !has_header(decoder))
		return false;
	if (result->id == 0)
		return decoder_bad(decoder->err, "no lease id in etcd's response");
	if (result->ttl > ETCD_MAX_TTL || result->ttl < -1)
		return decoder_bad(decoder->err, "impossible TTL in etcd's response");
	return true;
}

static bool
add_status_error(Decoder *decoder, EtcdStatusResult *result)
{
	const PbField *field = &decoder->field;
	char	  **text;

	if (!decoder_has_wire(decoder, PB_BYTES))
		return false;
	text = decoder_add_element(decoder, (void **) &result->errors, &result->nerrors, sizeof(*text));

	if (text == NULL)
		return false;
	*text = malloc(field->len + 1);
	if (*text == NULL)
		return decoder_out_of_memory(decoder->err);
	printable_copy(*text, field->len + 1, (const char *) field->data, field->len);
	return true;
}

static bool
read_status_fields(Decoder *decoder, EtcdStatusResult *result)
{
	while (decoder_next_field(decoder))
	{
		bool		good = true;

		switch (decoder->field.number)
		{
			case RESPONSE_HEADER:
				good = read_header(decoder, &result->header);
				break;
			case STATUS_VERSION:
				good = decoder_read_text(decoder, result->version, sizeof(result->version));
				break;
			case STATUS_DB_SIZE:
				good = decoder_read_int(decoder, &result->db_size);
				break;
			case STATUS_LEADER:
				good = decoder_read_uint(decoder, &result->leader);
				break;
			case STATUS_ERRORS:
				good = add_status_error(decoder, result);
				break;
			case STATUS_DB_SIZE_IN_USE:
				good = decoder_read_int(decoder, &result->db_size_in_use);
				break;
			case STATUS_IS_LEARNER:
				good = decoder_read_bool(decoder, &result->is_learner);
				break;
			case STATUS_DB_QUOTA:
				good = decoder_read_int(decoder, &result->db_quota);
				break;
		}
		if (!good)
			return false;
	}
	if (!decoder_is_whole(decoder) || !has_header(decoder))
		return false;
	if (result->db_size < 0 || result->db_size_in_use < 0 || result->db_quota < 0)
		return decoder_bad(decoder->err, "negative size in etcd's status");
	return result->version[0] != '\0' ||
		decoder_bad(decoder->err, "no version in etcd's status");
}

/* The token becomes part of a header. */
static bool
read_token(Decoder *decoder, EtcdAuthResult *result)
{
	size_t		i;

	if (!decoder_is_single(decoder, PB_BYTES))
		return false;
	for (i = 0; i < decoder->field.len; i++)
	{
		if (decoder->field.data[i] <= ' ' || decoder->field.data[i] > '~')
			return decoder_bad(decoder->err, "no valid token in etcd's response");
	}
	result->token = malloc(decoder->field.len + 1);
	if (result->token == NULL)
		return decoder_out_of_memory(decoder->err);
	memcpy(result->token, decoder->field.data, decoder->field.len);
	result->token[decoder->field.len] = '\0';
	return true;
}

static bool
read_auth_fields(Decoder *decoder, EtcdAuthResult *result)
{
	while (decoder_next_field(decoder))
	{
		bool		good = true;

		switch (decoder->field.number)
		{
			case RESPONSE_HEADER:
				good = read_header(decoder, &result->header);
				break;
			case AUTH_TOKEN:
				good = read_token(decoder, result);
				break;
		}
		if (!good)
			return false;
	}
	if (!decoder_is_whole(decoder) || !has_header(decoder))
		return false;
	return (result->token != NULL && result->token[0] != '\0') ||
		decoder_bad(decoder->err, "no valid token in etcd's response");
}

static bool
read_header_only(Decoder *decoder, EtcdHeader *header)
{
	while (decoder_next_field(decoder))
	{
		if (decoder->field.number == RESPONSE_HEADER && !read_header(decoder, header))
			return false;
	}
	return decoder_is_whole(decoder) && has_header(decoder);
}

/* ----------------------------------------------------------------
 *		Watches
 * ----------------------------------------------------------------
 */

static bool
read_event_type(Decoder *decoder, EtcdEvent *event)
{
	if (!decoder_is_single(decoder, PB_VARINT))
		return false;
	switch (decoder->field.value)
	{
		case EVENT_IS_PUT:
			event->type = ETCD_EVENT_PUT;
			return true;
		case EVENT_IS_DELETE:
			event->type = ETCD_EVENT_DELETE;
			return true;
	}
	return decoder_bad(decoder->err, "event of unknown type in etcd's response");
}

static bool
add_event(Decoder *decoder, EtcdWatchMessage *result)
{
	Decoder		inner;
	EtcdEvent  *event;

	if (!decoder_has_wire(decoder, PB_BYTES))
		return false;
	event = decoder_add_element(decoder, (void **) &result->events, &result->nevents,
								sizeof(*event));
	if (event == NULL)
		return false;
	event->type = ETCD_EVENT_PUT;
	inner = decoder_open_field(decoder);
	while (decoder_next_field(&inner))
	{
		bool		good = true;

		if (inner.field.number == EVENT_TYPE)
			good = read_event_type(&inner, event);
		else if (inner.field.number == EVENT_KV)
			good = decoder_is_single(&inner, PB_BYTES) && read_key_value(&inner, &event->kv);
		if (!good)
			return false;
	}
	if (!decoder_is_whole(&inner))
		return false;
	if (!decoder_was_seen(&inner, EVENT_KV))
		return decoder_bad(decoder->err, "event without a key in etcd's response");
	if (event->type == ETCD_EVENT_PUT)
		return check_revisions(&event->kv, decoder->err);
	return (event->kv.mod_revision > 0 &&
			event->kv.mod_revision <= ETCD_MAX_REVISION) ||
		decoder_bad(decoder->err, "DELETE event with an impossible revision in etcd's response");
}

static bool
read_watch_fields(Decoder *decoder, EtcdWatchMessage *result)
{
	while (decoder_next_field(decoder))
	{
		bool		good = true;

		switch (decoder->field.number)
		{
			case RESPONSE_HEADER:
				good = read_header(decoder, &result->header);
				break;
			case WATCH_ID:
				good = decoder_read_int(decoder, &result->watch_id);
				break;
			case WATCH_CREATED:
				good = decoder_read_bool(decoder, &result->created);
				break;
			case WATCH_CANCELED:
				good = decoder_read_bool(decoder, &result->canceled);
				break;
			case WATCH_COMPACT_REVISION:
				good = decoder_read_int(decoder, &result->compact_revision);
				break;
			case WATCH_CANCEL_REASON:
				good = decoder_read_text(decoder, result->cancel_reason,
										 sizeof(result->cancel_reason));
				break;
			case WATCH_EVENTS:
				good = add_event(decoder, result);
				break;
		}
		if (!good)
			return false;
	}
	return decoder_is_whole(decoder) && has_header(decoder);
}

/* ----------------------------------------------------------------
 *		The interface
 * ----------------------------------------------------------------
 */

/* Returns false if etcd has refused the request; *err says why. */
static bool
open_reply(const EtcdReply *reply, Decoder *decoder, int *nelements, EtcdError *err)
{
	memset(err, 0, sizeof(*err));
	*nelements = 0;
	*decoder = decoder_open_message(reply->data, reply->len, nelements, err);
	if (reply->status == ETCD_OK)
		return true;
	etcd_response_error(reply, err);
	return false;
}

bool
etcd_response_range(const EtcdReply *reply, EtcdRangeResult *result, EtcdError *err)
{
	Decoder		decoder;
	int			nelements;

	memset(result, 0, sizeof(*result));
	if (open_reply(reply, &decoder, &nelements, err) &&
		read_range_fields(&decoder, &result->range, &result->header) &&
		has_revision(&decoder, &result->header))
		return true;
	etcd_response_free_range(result);
	return false;
}

bool
etcd_response_txn(const EtcdReply *reply, EtcdTxnResult *result, EtcdError *err)
{
	Decoder		decoder;
	EtcdOpResult txn = {0};
	int			nelements;
	bool		good;

	memset(result, 0, sizeof(*result));
	good = open_reply(reply, &decoder, &nelements, err) &&
		read_txn_fields(&decoder, &txn, &result->header, 1) &&
		has_revision(&decoder, &result->header);
	result->succeeded = txn.succeeded;
	result->nresults = txn.nresults;
	result->results = txn.results;
	if (!good)
		etcd_response_free_txn(result);
	return good;
}

bool
etcd_response_single_range(const EtcdReply *reply, EtcdTxnResult *result, EtcdError *err)
{
	EtcdRangeResult range;

	memset(result, 0, sizeof(*result));
	if (!etcd_response_range(reply, &range, err))
		return false;
	result->results = malloc(sizeof(EtcdOpResult));
	if (result->results == NULL)
	{
		etcd_response_free_range(&range);
		return decoder_out_of_memory(err);
	}
	result->header = range.header;
	result->succeeded = true;
	result->nresults = 1;
	result->results[0] = range.range;
	return true;
}

bool
etcd_response_lease(const EtcdReply *reply, EtcdLeaseResult *result, EtcdError *err)
{
	Decoder		decoder;
	int			nelements;

	memset(result, 0, sizeof(*result));
	if (open_reply(reply, &decoder, &nelements, err) &&
		read_lease_fields(&decoder, result))
		return true;
	etcd_response_free_lease(result);
	return false;
}

bool
etcd_response_status(const EtcdReply *reply, EtcdStatusResult *result, EtcdError *err)
{
	Decoder		decoder;
	int			nelements;

	memset(result, 0, sizeof(*result));
	if (open_reply(reply, &decoder, &nelements, err) &&
		read_status_fields(&decoder, result))
		return true;
	etcd_response_free_status(result);
	return false;
}

bool
etcd_response_auth(const EtcdReply *reply, EtcdAuthResult *result, EtcdError *err)
{
	Decoder		decoder;
	int			nelements;

	memset(result, 0, sizeof(*result));
	if (open_reply(reply, &decoder, &nelements, err) &&
		read_auth_fields(&decoder, result))
		return true;
	if (err->code == ETCD_BAD_RESPONSE)
		decoder_bad(err, "unexpected response to a login");
	etcd_response_free_auth(result);
	return false;
}

bool
etcd_response_header(const EtcdReply *reply, EtcdHeader *header, EtcdError *err)
{
	Decoder		decoder;
	int			nelements;

	memset(header, 0, sizeof(*header));
	if (open_reply(reply, &decoder, &nelements, err) &&
		read_header_only(&decoder, header))
		return true;
	memset(header, 0, sizeof(*header));
	return false;
}

bool
etcd_response_watch(const void *data, size_t len, EtcdWatchMessage *result,
					EtcdError *err)
{
	EtcdReply	reply = {ETCD_OK, NULL, data, len};
	Decoder		decoder;
	int			nelements;

	memset(result, 0, sizeof(*result));
	if (open_reply(&reply, &decoder, &nelements, err) &&
		read_watch_fields(&decoder, result))
		return true;
	etcd_response_free_watch(result);
	return false;
}

void
etcd_response_free_range(EtcdRangeResult *result)
{
	free_key_values(result->range.kvs, result->range.nkvs);
	memset(result, 0, sizeof(*result));
}

void
etcd_response_free_txn(EtcdTxnResult *result)
{
	free_op_results(result->results, result->nresults);
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
	int			i;

	for (i = 0; i < result->nerrors; i++)
		free(result->errors[i]);
	free(result->errors);
	memset(result, 0, sizeof(*result));
}

void
etcd_response_free_auth(EtcdAuthResult *result)
{
	if (result->token != NULL)
		explicit_bzero(result->token, strlen(result->token));
	free(result->token);
	memset(result, 0, sizeof(*result));
}

void
etcd_response_free_watch(EtcdWatchMessage *result)
{
	int			i;

	for (i = 0; i < result->nevents; i++)
		free(result->events[i].kv.key);
	free(result->events);
	memset(result, 0, sizeof(*result));
}
