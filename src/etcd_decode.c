/*-------------------------------------------------------------------------
 *
 * etcd_decode.c
 *	  Answers of etcd's JSON gateway.
 *
 * What decides who holds a lock is checked for sense, not only for its type:
 * a header must be there, a key has a name and, outside of DELETE events, a
 * create_revision.  A decoder works on a zeroed result and the entry points
 * free it when anything is wrong, so that the functions in between just
 * return false.  Counts are set before the elements are read, for the same
 * reason.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_api.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "etcd_base64.h"
#include "etcd_json.h"

static bool
out_of_memory(EtcdError *err)
{
	return etcd_json_bad(err, "out of memory while reading etcd's answer");
}

/*
 * Zeroed memory for the elements of "array" (NULL: none), and their number.
 */
static bool
allocate_elements(const cJSON *array, size_t size, void **elements, int *n,
				  EtcdError *err)
{
	const cJSON *item;
	size_t		count = 0;

	*elements = NULL;
	*n = 0;
	if (array == NULL)
		return true;
	for (item = array->child; item != NULL; item = item->next)
		count++;
	if (count == 0)
		return true;
	if (count <= INT_MAX)
		*elements = calloc(count, size);
	if (*elements == NULL)
		return out_of_memory(err);
	*n = (int) count;
	return true;
}

static bool
decode_bytes(const char *text, size_t text_len, char *dst, size_t *len,
			 const char *name, EtcdError *err)
{
	if (!etcd_base64_decode(text, text_len, dst, len))
		return etcd_json_bad(err, "\"%s\" in etcd's answer is not valid base64",
							 name);
	dst[*len] = '\0';
	return true;
}

/* Key and value share one piece of memory, which "key" owns. */
static bool
decode_key_value_texts(const char *key, const char *value, EtcdKeyValue *kv,
					   EtcdError *err)
{
	size_t		key_text = strlen(key);
	size_t		value_text = strlen(value);
	size_t		key_size = ETCD_BASE64_DECODED_LEN(key_text) + 1;

	kv->key = malloc(key_size + ETCD_BASE64_DECODED_LEN(value_text) + 1);
	if (kv->key == NULL)
		return out_of_memory(err);
	kv->value = kv->key + key_size;
	if (!decode_bytes(key, key_text, kv->key, &kv->key_len, "key", err) ||
		!decode_bytes(value, value_text, kv->value, &kv->value_len, "value", err))
		return false;
	if (kv->key_len == 0)
		return etcd_json_bad(err, "a key without a name in etcd's answer");
	return true;
}

static bool
decode_key_value(const cJSON *object, EtcdKeyValue *kv, EtcdError *err)
{
	const char *key;
	const char *value;

	if (!cJSON_IsObject(object))
		return etcd_json_bad(err, "a key in etcd's answer is not an object");
	return etcd_json_string(object, "key", &key, err) &&
		etcd_json_string(object, "value", &value, err) &&
		etcd_json_int64(object, "create_revision", &kv->create_revision, err) &&
		etcd_json_int64(object, "mod_revision", &kv->mod_revision, err) &&
		etcd_json_int64(object, "lease", &kv->lease, err) &&
		decode_key_value_texts(key, value, kv, err);
}

static bool
check_revisions(const EtcdKeyValue *kv, EtcdError *err)
{
	if (kv->create_revision < 1 || kv->mod_revision < kv->create_revision ||
		kv->mod_revision > ETCD_MAX_REVISION)
		return etcd_json_bad(err, "a key with impossible revisions in etcd's answer");
	return true;
}

static void
free_key_values(EtcdKeyValue *kvs, int n)
{
	int			i;

	for (i = 0; i < n; i++)
		free(kvs[i].key);
	free(kvs);
}

static bool
decode_header_of(const cJSON *message, EtcdHeader *header, EtcdError *err)
{
	const cJSON *object;

	if (!etcd_json_object(message, "header", &object, err))
		return false;
	if (object == NULL)
		return etcd_json_bad(err, "no header in etcd's answer");
	if (!etcd_json_uint64(object, "cluster_id", &header->cluster_id, err) ||
		!etcd_json_uint64(object, "member_id", &header->member_id, err) ||
		!etcd_json_int64(object, "revision", &header->revision, err) ||
		!etcd_json_uint64(object, "raft_term", &header->raft_term, err))
		return false;
	if (header->cluster_id == 0 || header->revision < 0 ||
		header->revision > ETCD_MAX_REVISION)
		return etcd_json_bad(err, "no cluster or an impossible revision in the header of etcd's answer");
	return true;
}

/*
 * Header of an answer about keys: its revision is never 0.  (It is in some
 * messages of a watch.)
 */
static bool
decode_header_with_revision(const cJSON *message, EtcdHeader *header,
							EtcdError *err)
{
	if (!decode_header_of(message, header, err))
		return false;
	if (header->revision == 0)
		return etcd_json_bad(err, "no revision in the header of etcd's answer");
	return true;
}

/* What a range request finds, alone or within a Txn. */
static bool
decode_range_fields(const cJSON *object, EtcdOpResult *result, EtcdError *err)
{
	const cJSON *kvs;
	const cJSON *item;
	EtcdKeyValue *kv;

	result->type = ETCD_OP_RANGE;
	if (!etcd_json_bool(object, "more", &result->more, err) ||
		!etcd_json_int64(object, "count", &result->count, err) ||
		!etcd_json_array(object, "kvs", &kvs, err) ||
		!allocate_elements(kvs, sizeof(EtcdKeyValue), (void **) &result->kvs,
						   &result->nkvs, err))
		return false;
	kv = result->kvs;
	for (item = kvs == NULL ? NULL : kvs->child; item != NULL; item = item->next)
	{
		if (!decode_key_value(item, kv, err) || !check_revisions(kv, err))
			return false;
		kv++;
	}
	if (result->count < result->nkvs)
		return etcd_json_bad(err, "etcd's answer counts fewer keys than it lists");
	return true;
}

static bool
decode_op_result(const cJSON *object, EtcdOpResult *result, EtcdError *err)
{
	const cJSON *range;
	const cJSON *put;
	const cJSON *delete_range;

	if (!cJSON_IsObject(object) || object->child == NULL ||
		object->child->next != NULL)
		return etcd_json_bad(err, "a response in etcd's answer to a Txn has no clear type");
	if (!etcd_json_object(object, "response_range", &range, err) ||
		!etcd_json_object(object, "response_put", &put, err) ||
		!etcd_json_object(object, "response_delete_range", &delete_range, err))
		return false;

	if (range != NULL)
		return decode_range_fields(range, result, err);
	if (put != NULL)
	{
		result->type = ETCD_OP_PUT;
		return true;
	}
	if (delete_range != NULL)
	{
		result->type = ETCD_OP_DELETE;
		if (!etcd_json_int64(delete_range, "deleted", &result->deleted, err))
			return false;
		return result->deleted >= 0 ||
			etcd_json_bad(err, "etcd's answer tells of a negative number of deleted keys");
	}
	return etcd_json_bad(err, "a response of unknown type in etcd's answer to a Txn");
}

static bool
decode_txn_fields(const cJSON *message, EtcdTxnResult *result, EtcdError *err)
{
	const cJSON *responses;
	const cJSON *item;
	EtcdOpResult *op;

	if (!decode_header_with_revision(message, &result->header, err) ||
		!etcd_json_bool(message, "succeeded", &result->succeeded, err) ||
		!etcd_json_array(message, "responses", &responses, err) ||
		!allocate_elements(responses, sizeof(EtcdOpResult),
						   (void **) &result->results, &result->nresults, err))
		return false;
	op = result->results;
	for (item = responses == NULL ? NULL : responses->child; item != NULL; item = item->next)
	{
		if (!decode_op_result(item, op, err))
			return false;
		op++;
	}
	return true;
}

static bool
decode_lease_fields(const cJSON *message, EtcdLeaseResult *result, EtcdError *err)
{
	const cJSON *keys;
	const cJSON *item;
	EtcdKeyValue *key;

	if (!decode_header_of(message, &result->header, err) ||
		!etcd_json_int64(message, "ID", &result->id, err) ||
		!etcd_json_int64(message, "TTL", &result->ttl, err) ||
		!etcd_json_int64(message, "grantedTTL", &result->granted_ttl, err) ||
		!etcd_json_array(message, "keys", &keys, err))
		return false;
	if (result->id == 0)
		return etcd_json_bad(err, "no lease id in etcd's answer");
	if (result->ttl > ETCD_MAX_TTL || result->ttl < -1)
		return etcd_json_bad(err, "an impossible TTL in etcd's answer");
	if (!allocate_elements(keys, sizeof(EtcdKeyValue), (void **) &result->keys,
						   &result->nkeys, err))
		return false;
	key = result->keys;
	for (item = keys == NULL ? NULL : keys->child; item != NULL; item = item->next)
	{
		if (!cJSON_IsString(item))
			return etcd_json_bad(err, "a key of a lease is no string in etcd's answer");
		if (!decode_key_value_texts(item->valuestring, "", key, err))
			return false;
		key++;
	}
	return true;
}

static bool
decode_leases_fields(const cJSON *message, EtcdLeasesResult *result, EtcdError *err)
{
	const cJSON *leases;
	const cJSON *item;
	int64_t    *id;

	if (!decode_header_of(message, &result->header, err) ||
		!etcd_json_array(message, "leases", &leases, err) ||
		!allocate_elements(leases, sizeof(int64_t), (void **) &result->ids,
						   &result->nids, err))
		return false;
	id = result->ids;
	for (item = leases == NULL ? NULL : leases->child; item != NULL; item = item->next)
	{
		if (!cJSON_IsObject(item) || !etcd_json_int64(item, "ID", id, err) ||
			*id == 0)
			return etcd_json_bad(err, "a lease without an id in etcd's answer");
		id++;
	}
	return true;
}

static bool
decode_status_errors(const cJSON *message, EtcdStatusResult *result, EtcdError *err)
{
	const cJSON *errors;
	const cJSON *item;
	char	  **text;

	if (!etcd_json_array(message, "errors", &errors, err) ||
		!allocate_elements(errors, sizeof(char *), (void **) &result->errors,
						   &result->nerrors, err))
		return false;
	text = result->errors;
	for (item = errors == NULL ? NULL : errors->child; item != NULL; item = item->next)
	{
		size_t		len;

		if (!cJSON_IsString(item))
			return etcd_json_bad(err, "an error in etcd's status is no string");
		len = strlen(item->valuestring);
		*text = malloc(len + 1);
		if (*text == NULL)
			return out_of_memory(err);
		etcd_json_printable(*text, len + 1, item->valuestring, len);
		text++;
	}
	return true;
}

static bool
decode_status_fields(const cJSON *message, EtcdStatusResult *result, EtcdError *err)
{
	const char *version;

	if (!decode_header_of(message, &result->header, err) ||
		!etcd_json_string(message, "version", &version, err) ||
		!etcd_json_int64(message, "dbSize", &result->db_size, err) ||
		!etcd_json_int64(message, "dbSizeInUse", &result->db_size_in_use, err) ||
		!etcd_json_int64(message, "dbSizeQuota", &result->db_quota, err) ||
		!etcd_json_uint64(message, "leader", &result->leader, err))
		return false;
	etcd_json_printable(result->version, sizeof(result->version),
						version, strlen(version));
	if (result->version[0] == '\0')
		return etcd_json_bad(err, "no version in etcd's status");
	return decode_status_errors(message, result, err);
}

static bool
decode_event(const cJSON *object, EtcdEvent *event, EtcdError *err)
{
	const cJSON *kv;
	const char *type;

	if (!cJSON_IsObject(object))
		return etcd_json_bad(err, "an event in etcd's answer is not an object");
	if (!etcd_json_string(object, "type", &type, err) ||
		!etcd_json_object(object, "kv", &kv, err))
		return false;
	if (kv == NULL)
		return etcd_json_bad(err, "an event without a key in etcd's answer");
	if (*type == '\0' || strcmp(type, "PUT") == 0)
		event->type = ETCD_EVENT_PUT;
	else if (strcmp(type, "DELETE") == 0)
		event->type = ETCD_EVENT_DELETE;
	else
		return etcd_json_bad(err, "an event of unknown type \"%s\" in etcd's answer", type);

	if (!decode_key_value(kv, &event->kv, err))
		return false;
	if (event->type == ETCD_EVENT_PUT)
		return check_revisions(&event->kv, err);
	return (event->kv.mod_revision > 0 &&
			event->kv.mod_revision <= ETCD_MAX_REVISION) ||
		etcd_json_bad(err, "a DELETE event without a possible revision in etcd's answer");
}

static bool
decode_watch_fields(const cJSON *message, EtcdWatchMessage *result, EtcdError *err)
{
	const cJSON *events;
	const cJSON *item;
	const char *reason;
	EtcdEvent  *event;

	if (!decode_header_of(message, &result->header, err) ||
		!etcd_json_bool(message, "created", &result->created, err) ||
		!etcd_json_bool(message, "canceled", &result->canceled, err) ||
		!etcd_json_int64(message, "compact_revision", &result->compact_revision, err) ||
		!etcd_json_string(message, "cancel_reason", &reason, err) ||
		!etcd_json_array(message, "events", &events, err) ||
		!allocate_elements(events, sizeof(EtcdEvent), (void **) &result->events,
						   &result->nevents, err))
		return false;
	etcd_json_printable(result->cancel_reason, sizeof(result->cancel_reason),
						reason, strlen(reason));
	event = result->events;
	for (item = events == NULL ? NULL : events->child; item != NULL; item = item->next)
	{
		if (!decode_event(item, event, err))
			return false;
		event++;
	}
	return true;
}

bool
etcd_decode_range(const char *body, size_t len, int http_status,
				  EtcdRangeResult *result, EtcdError *err)
{
	const cJSON *message;
	cJSON	   *root;
	bool		ok;

	memset(result, 0, sizeof(*result));
	root = etcd_json_open(body, len, http_status, &message, err);
	ok = root != NULL &&
		decode_header_with_revision(message, &result->header, err) &&
		decode_range_fields(message, &result->range, err);
	cJSON_Delete(root);
	if (!ok)
		etcd_range_result_free(result);
	return ok;
}

bool
etcd_decode_txn(const char *body, size_t len, int http_status,
				EtcdTxnResult *result, EtcdError *err)
{
	const cJSON *message;
	cJSON	   *root;
	bool		ok;

	memset(result, 0, sizeof(*result));
	root = etcd_json_open(body, len, http_status, &message, err);
	ok = root != NULL && decode_txn_fields(message, result, err);
	cJSON_Delete(root);
	if (!ok)
		etcd_txn_result_free(result);
	return ok;
}

bool
etcd_decode_single_range(const char *body, size_t len, int http_status,
						 EtcdTxnResult *result, EtcdError *err)
{
	const cJSON *message;
	cJSON	   *root;
	bool		ok;

	memset(result, 0, sizeof(*result));
	root = etcd_json_open(body, len, http_status, &message, err);
	ok = root != NULL &&
		decode_header_with_revision(message, &result->header, err);
	if (ok)
	{
		result->results = calloc(1, sizeof(EtcdOpResult));
		ok = result->results != NULL || out_of_memory(err);
	}
	if (ok)
	{
		result->nresults = 1;
		result->succeeded = true;
		ok = decode_range_fields(message, result->results, err);
	}
	cJSON_Delete(root);
	if (!ok)
		etcd_txn_result_free(result);
	return ok;
}

bool
etcd_decode_lease(const char *body, size_t len, int http_status,
				  EtcdLeaseResult *result, EtcdError *err)
{
	const cJSON *message;
	cJSON	   *root;
	bool		ok;

	memset(result, 0, sizeof(*result));
	root = etcd_json_open(body, len, http_status, &message, err);
	ok = root != NULL && decode_lease_fields(message, result, err);
	cJSON_Delete(root);
	if (!ok)
		etcd_lease_result_free(result);
	return ok;
}

bool
etcd_decode_leases(const char *body, size_t len, int http_status,
				   EtcdLeasesResult *result, EtcdError *err)
{
	const cJSON *message;
	cJSON	   *root;
	bool		ok;

	memset(result, 0, sizeof(*result));
	root = etcd_json_open(body, len, http_status, &message, err);
	ok = root != NULL && decode_leases_fields(message, result, err);
	cJSON_Delete(root);
	if (!ok)
		etcd_leases_result_free(result);
	return ok;
}

bool
etcd_decode_status(const char *body, size_t len, int http_status,
				   EtcdStatusResult *result, EtcdError *err)
{
	const cJSON *message;
	cJSON	   *root;
	bool		ok;

	memset(result, 0, sizeof(*result));
	root = etcd_json_open(body, len, http_status, &message, err);
	ok = root != NULL && decode_status_fields(message, result, err);
	cJSON_Delete(root);
	if (!ok)
		etcd_status_result_free(result);
	return ok;
}

/* It becomes part of a header. */
static bool
decode_token(const cJSON *message, EtcdAuthResult *result, EtcdError *err)
{
	const char *token;
	const char *c;

	if (!decode_header_of(message, &result->header, err) ||
		!etcd_json_string(message, "token", &token, err))
		return false;
	for (c = token; *c > ' ' && *c <= '~'; c++)
		 /* printable */ ;
	if (*token == '\0' || *c != '\0')
		return etcd_json_bad(err, "no valid token in etcd's answer");
	result->token = malloc(strlen(token) + 1);
	if (result->token == NULL)
		return out_of_memory(err);
	strcpy(result->token, token);
	return true;
}

/* Nothing of it is to stay in memory that was freed. */
static void
wipe_strings(cJSON *item)
{
	for (; item != NULL; item = item->next)
	{
		if (item->valuestring != NULL)
			explicit_bzero(item->valuestring, strlen(item->valuestring));
		wipe_strings(item->child);
	}
}

bool
etcd_decode_auth(const char *body, size_t len, int http_status,
				 EtcdAuthResult *result, EtcdError *err)
{
	const cJSON *message;
	cJSON	   *root;
	bool		ok;

	memset(result, 0, sizeof(*result));
	root = etcd_json_open(body, len, http_status, &message, err);
	if (root == NULL && !etcd_json_is_etcds(err))
		snprintf(err->message, sizeof(err->message),
				 "HTTP status %d, and no answer of etcd's", http_status);
	ok = root != NULL && decode_token(message, result, err);
	wipe_strings(root);
	cJSON_Delete(root);
	if (!ok)
		etcd_auth_result_free(result);
	return ok;
}

void
etcd_auth_result_free(EtcdAuthResult *result)
{
	if (result->token != NULL)
		explicit_bzero(result->token, strlen(result->token));
	free(result->token);
	memset(result, 0, sizeof(*result));
}

bool
etcd_decode_header(const char *body, size_t len, int http_status,
				   EtcdHeader *header, EtcdError *err)
{
	const cJSON *message;
	cJSON	   *root;
	bool		ok;

	memset(header, 0, sizeof(*header));
	root = etcd_json_open(body, len, http_status, &message, err);
	ok = root != NULL && decode_header_of(message, header, err);
	cJSON_Delete(root);
	if (!ok)
		memset(header, 0, sizeof(*header));
	return ok;
}

bool
etcd_decode_watch(const char *message, size_t len, EtcdWatchMessage *result,
				  EtcdError *err)
{
	const cJSON *fields;
	cJSON	   *root;
	bool		ok;

	memset(result, 0, sizeof(*result));
	root = etcd_json_open(message, len, 200, &fields, err);
	ok = root != NULL && decode_watch_fields(fields, result, err);
	cJSON_Delete(root);
	if (!ok)
		etcd_watch_message_free(result);
	return ok;
}

void
etcd_range_result_free(EtcdRangeResult *result)
{
	free_key_values(result->range.kvs, result->range.nkvs);
	memset(result, 0, sizeof(*result));
}

void
etcd_txn_result_free(EtcdTxnResult *result)
{
	int			i;

	for (i = 0; i < result->nresults; i++)
		free_key_values(result->results[i].kvs, result->results[i].nkvs);
	free(result->results);
	memset(result, 0, sizeof(*result));
}

void
etcd_lease_result_free(EtcdLeaseResult *result)
{
	free_key_values(result->keys, result->nkeys);
	memset(result, 0, sizeof(*result));
}

void
etcd_leases_result_free(EtcdLeasesResult *result)
{
	free(result->ids);
	memset(result, 0, sizeof(*result));
}

void
etcd_status_result_free(EtcdStatusResult *result)
{
	int			i;

	for (i = 0; i < result->nerrors; i++)
		free(result->errors[i]);
	free(result->errors);
	memset(result, 0, sizeof(*result));
}

void
etcd_watch_message_free(EtcdWatchMessage *result)
{
	int			i;

	for (i = 0; i < result->nevents; i++)
		free(result->events[i].kv.key);
	free(result->events);
	memset(result, 0, sizeof(*result));
}
