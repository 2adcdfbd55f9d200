/*-------------------------------------------------------------------------
 *
 * etcd_encode.c
 *	  Request bodies for etcd's JSON gateway.
 *
 * Every member is added to its object before it is filled, so that deleting
 * the root frees all of it, wherever memory ran out.  int64 values are sent
 * as strings, as protobuf's JSON mapping has it: numbers lose precision above
 * 2^53.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_api.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "etcd_base64.h"

/*
 * Print and free a request.  "ok" tells whether it was built completely.
 */
static char *
finish(cJSON *root, bool ok)
{
	char	   *body = NULL;

	if (ok)
		body = cJSON_PrintUnformatted(root);
	cJSON_Delete(root);
	return body;
}

/*
 * Member names are string literals: "CS" spares copying them.  cJSON takes
 * "item" over only when it succeeds.
 */
static bool
add_item(cJSON *object, const char *name, cJSON *item)
{
	if (item == NULL)
		return false;
	if (!cJSON_AddItemToObjectCS(object, name, item))
	{
		cJSON_Delete(item);
		return false;
	}
	return true;
}

static cJSON *
add_object(cJSON *object, const char *name)
{
	cJSON	   *item = cJSON_CreateObject();

	return add_item(object, name, item) ? item : NULL;
}

static cJSON *
add_array(cJSON *object, const char *name)
{
	cJSON	   *item = cJSON_CreateArray();

	return add_item(object, name, item) ? item : NULL;
}

static cJSON *
append_object(cJSON *array)
{
	cJSON	   *item = cJSON_CreateObject();

	if (item != NULL && !cJSON_AddItemToArray(array, item))
	{
		cJSON_Delete(item);
		return NULL;
	}
	return item;
}

/* A string that outlives the request, so that it need not be copied. */
static bool
add_literal(cJSON *object, const char *name, const char *value)
{
	return add_item(object, name, cJSON_CreateStringReference(value));
}

static bool
add_true(cJSON *object, const char *name)
{
	return add_item(object, name, cJSON_CreateTrue());
}

static bool
add_int64(cJSON *object, const char *name, int64_t value)
{
	char		digits[32];

	snprintf(digits, sizeof(digits), "%" PRId64, value);
	return add_item(object, name, cJSON_CreateString(digits));
}

static bool
add_bytes(cJSON *object, const char *name, const char *data, size_t len)
{
	char		small[512];
	char	   *text = small;
	bool		ok;

	if (ETCD_BASE64_ENCODED_LEN(len) >= sizeof(small))
		text = malloc(ETCD_BASE64_ENCODED_LEN(len) + 1);
	if (text == NULL)
		return false;
	etcd_base64_encode(data, len, text);
	ok = add_item(object, name, cJSON_CreateString(text));
	if (text != small)
		free(text);
	return ok;
}

static bool
add_range(cJSON *object, const EtcdRange *range)
{
	if (!add_bytes(object, "key", range->key, range->key_len))
		return false;
	return range->end == NULL ||
		add_bytes(object, "range_end", range->end, range->end_len);
}

static bool
fill_range(cJSON *object, const EtcdOp *op)
{
	return add_range(object, &op->range) &&
		(op->limit == 0 || add_int64(object, "limit", op->limit)) &&
		(op->revision == 0 || add_int64(object, "revision", op->revision)) &&
		(!op->keys_only || add_true(object, "keys_only"));
}

/* A put never has a range_end, whatever op->range.end says. */
static bool
fill_put(cJSON *object, const EtcdOp *op)
{
	return add_bytes(object, "key", op->range.key, op->range.key_len) &&
		(op->value_len == 0 ||
		 add_bytes(object, "value", op->value, op->value_len)) &&
		(op->lease == 0 || add_int64(object, "lease", op->lease));
}

static bool
fill_op(cJSON *object, const EtcdOp *op)
{
	cJSON	   *request;

	switch (op->type)
	{
		case ETCD_OP_RANGE:
			request = add_object(object, "request_range");
			return request != NULL && fill_range(request, op);
		case ETCD_OP_PUT:
			request = add_object(object, "request_put");
			return request != NULL && fill_put(request, op);
		case ETCD_OP_DELETE:
			request = add_object(object, "request_delete_range");
			return request != NULL && add_range(request, &op->range);
	}
	return false;
}

static const char *
compare_result_name(EtcdCompareResult result)
{
	switch (result)
	{
		case ETCD_COMPARE_EQUAL:
			return "EQUAL";
		case ETCD_COMPARE_GREATER:
			return "GREATER";
		case ETCD_COMPARE_LESS:
			return "LESS";
	}
	return "";
}

static bool
fill_compare(cJSON *object, const EtcdCompare *compare)
{
	bool		create = compare->target == ETCD_COMPARE_CREATE;

	return add_literal(object, "target", create ? "CREATE" : "MOD") &&
		add_literal(object, "result", compare_result_name(compare->result)) &&
		add_range(object, &compare->range) &&
		add_int64(object, create ? "create_revision" : "mod_revision",
				  compare->revision);
}

static bool
add_compares(cJSON *root, const EtcdCompare *compare, int n)
{
	cJSON	   *array;
	int			i;

	if (n == 0)
		return true;
	array = add_array(root, "compare");
	if (array == NULL)
		return false;
	for (i = 0; i < n; i++)
	{
		cJSON	   *object = append_object(array);

		if (object == NULL || !fill_compare(object, &compare[i]))
			return false;
	}
	return true;
}

static bool
add_ops(cJSON *root, const char *name, const EtcdOp *op, int n)
{
	cJSON	   *array;
	int			i;

	if (n == 0)
		return true;
	array = add_array(root, name);
	if (array == NULL)
		return false;
	for (i = 0; i < n; i++)
	{
		cJSON	   *object = append_object(array);

		if (object == NULL || !fill_op(object, &op[i]))
			return false;
	}
	return true;
}

char *
etcd_encode_range(const EtcdOp *op)
{
	cJSON	   *root = cJSON_CreateObject();

	return finish(root, root != NULL && fill_range(root, op));
}

char *
etcd_encode_txn(const EtcdTxn *txn)
{
	cJSON	   *root = cJSON_CreateObject();

	return finish(root, root != NULL &&
				  add_compares(root, txn->compare, txn->ncompare) &&
				  add_ops(root, "success", txn->success, txn->nsuccess) &&
				  add_ops(root, "failure", txn->failure, txn->nfailure));
}

char *
etcd_encode_lease_grant(int64_t id, int64_t ttl_seconds)
{
	cJSON	   *root = cJSON_CreateObject();

	return finish(root, root != NULL &&
				  add_int64(root, "ID", id) &&
				  add_int64(root, "TTL", ttl_seconds));
}

char *
etcd_encode_lease_id(int64_t id)
{
	cJSON	   *root = cJSON_CreateObject();

	return finish(root, root != NULL && add_int64(root, "ID", id));
}

char *
etcd_encode_lease_timetolive(int64_t id, bool keys)
{
	cJSON	   *root = cJSON_CreateObject();

	return finish(root, root != NULL &&
				  add_int64(root, "ID", id) &&
				  (!keys || add_true(root, "keys")));
}

char *
etcd_encode_empty(void)
{
	cJSON	   *root = cJSON_CreateObject();

	return finish(root, root != NULL);
}

/* Without a start_revision: events from the moment it is set up. */
char *
etcd_encode_watch_create(const EtcdRange *range, bool deletes_only)
{
	cJSON	   *root = cJSON_CreateObject();
	cJSON	   *create;
	cJSON	   *filters;
	bool		ok = false;

	create = root == NULL ? NULL : add_object(root, "create_request");
	if (create != NULL && add_range(create, range))
		ok = true;
	if (ok && deletes_only)
	{
		filters = add_array(create, "filters");
		ok = filters != NULL &&
			cJSON_AddItemToArray(filters, cJSON_CreateStringReference("NOPUT"));
	}
	return finish(root, ok);
}

/*
 * No copy of the password is left behind: it is printed to where it is to
 * stay.
 */
char *
etcd_encode_auth(const char *name, const char *password)
{
	cJSON	   *root = cJSON_CreateObject();
	size_t		size = 64 + 6 * (strlen(name) + strlen(password));
	char	   *body = malloc(size);

	if (root == NULL || body == NULL ||
		!add_literal(root, "name", name) ||
		!add_literal(root, "password", password) ||
		!cJSON_PrintPreallocated(root, body, (int) size, 0))
	{
		if (body != NULL)
			explicit_bzero(body, size);
		free(body);
		body = NULL;
	}
	cJSON_Delete(root);
	return body;
}
