/*-------------------------------------------------------------------------
 *
 * fuzz_encode.c
 *	  etcd_encode.c: the input is drawn on for requests whose keys and values
 *	  are any bytes.
 *
 * Each body must be JSON of printable ASCII in which cJSON finds, member by
 * member, just what was asked for: nothing that a name holds gets out of its
 * string.
 *
 *-------------------------------------------------------------------------
 */
#include <cjson/cJSON.h>
#include <inttypes.h>

#include "etcd_api.h"
#include "fuzz.h"

#define MAX_LIST	6
#define MAX_BYTES	700			/* around the encoder's own buffer, and more */

typedef struct Input
{
	const uint8_t *data;
	size_t		left;
} Input;

static uint8_t
take(Input *input)
{
	if (input->left == 0)
		return 0;
	input->left--;
	return *input->data++;
}

static int64_t
take_int64(Input *input)
{
	uint64_t	number = 0;
	int			n = take(input) % 9;

	while (n-- > 0)
		number = number << 8 | take(input);
	return (int64_t) number;
}

static const char *
take_bytes(Input *input, size_t *len)
{
	const char *bytes;
	size_t		n = (take(input) | take(input) << 8) % MAX_BYTES;

	if (n > input->left)
		n = input->left;
	bytes = (const char *) input->data;
	input->data += n;
	input->left -= n;
	*len = n;
	return bytes;
}

static EtcdRange
take_range(Input *input)
{
	EtcdRange	range = {0};

	range.key = take_bytes(input, &range.key_len);
	if (take(input) % 2 == 1)
		range.end = take_bytes(input, &range.end_len);
	return range;
}

static EtcdOp
take_op(Input *input)
{
	EtcdOp		op = {.type = take(input) % 3};

	op.range = take_range(input);
	op.value = take_bytes(input, &op.value_len);
	op.lease = take_int64(input);
	op.keys_only = take(input) % 2 == 1;
	op.limit = take_int64(input);
	return op;
}

static EtcdCompare
take_compare(Input *input)
{
	EtcdCompare compare = {
		.target = take(input) % 2, .result = take(input) % 3
	};

	compare.range = take_range(input);
	compare.revision = take_int64(input);
	return compare;
}

/*
 * Looking at what was encoded: each sees one more member of an object, and
 * is_all() that there are no others.
 */

static int
members(const cJSON *object)
{
	return cJSON_GetArraySize(object);
}

static const cJSON *
get(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	check(item != NULL);
	return item;
}

static int
see_bytes(const cJSON *object, const char *name, const char *bytes, size_t len)
{
	const cJSON *item = get(object, name);
	size_t		text_len;
	size_t		n;
	char	   *plain;

	check(cJSON_IsString(item));
	text_len = strlen(item->valuestring);
	plain = malloc(text_len + 1);
	check(plain != NULL);
	check(plain_base64(item->valuestring, text_len, plain, &n));
	check(n == len && (len == 0 || memcmp(plain, bytes, len) == 0));
	free(plain);
	return 1;
}

static int
see_int64(const cJSON *object, const char *name, int64_t number)
{
	const cJSON *item = get(object, name);
	char		digits[32];

	snprintf(digits, sizeof(digits), "%" PRId64, number);
	check(cJSON_IsString(item) && strcmp(item->valuestring, digits) == 0);
	return 1;
}

static int
see_string(const cJSON *object, const char *name, const char *string)
{
	const cJSON *item = get(object, name);

	check(cJSON_IsString(item) && strcmp(item->valuestring, string) == 0);
	return 1;
}

static int
see_range(const cJSON *object, const EtcdRange *range)
{
	int			n = see_bytes(object, "key", range->key, range->key_len);

	if (range->end != NULL)
		n += see_bytes(object, "range_end", range->end, range->end_len);
	return n;
}

static void
see_op(const cJSON *object, const EtcdOp *op)
{
	int			n = 0;

	switch (op->type)
	{
		case ETCD_OP_RANGE:
			n += see_range(object, &op->range);
			if (op->limit != 0)
				n += see_int64(object, "limit", op->limit);
			if (op->keys_only)
				n += cJSON_IsTrue(get(object, "keys_only"));
			break;
		case ETCD_OP_PUT:
			n += see_bytes(object, "key", op->range.key, op->range.key_len);
			if (op->value_len != 0)
				n += see_bytes(object, "value", op->value, op->value_len);
			if (op->lease != 0)
				n += see_int64(object, "lease", op->lease);
			break;
		case ETCD_OP_DELETE:
			n += see_range(object, &op->range);
			break;
	}
	check(members(object) == n);
}

static void
see_ops(const cJSON *root, const char *name, const EtcdOp *ops, int n)
{
	static const char *const names[] = {
		"request_range", "request_put", "request_delete_range"
	};
	int			i;

	check(n == 0 || members(get(root, name)) == n);
	for (i = 0; i < n; i++)
	{
		const cJSON *object = cJSON_GetArrayItem(get(root, name), i);

		check(members(object) == 1);
		see_op(get(object, names[ops[i].type]), &ops[i]);
	}
}

static void
see_compare(const cJSON *object, const EtcdCompare *compare)
{
	static const char *const results[] = {"EQUAL", "GREATER", "LESS"};
	bool		create = compare->target == ETCD_COMPARE_CREATE;
	int			n = see_range(object, &compare->range);

	n += see_string(object, "target", create ? "CREATE" : "MOD");
	n += see_string(object, "result", results[compare->result]);
	n += see_int64(object, create ? "create_revision" : "mod_revision",
				   compare->revision);
	check(members(object) == n);
}

/* Printable ASCII, and JSON to its end; the body is freed. */
static cJSON *
parse(char *body)
{
	cJSON	   *root;
	const char *c;

	check(body != NULL);
	for (c = body; *c != '\0'; c++)
		check(*c >= 0x20 && *c < 0x7f);
	root = cJSON_ParseWithOpts(body, NULL, 1);
	check(cJSON_IsObject(root));
	free(body);
	return root;
}

static void
try_txn(Input *input)
{
	EtcdCompare compare[MAX_LIST];
	EtcdOp		success[MAX_LIST];
	EtcdOp		failure[MAX_LIST];
	EtcdTxn		txn = {
		compare, take(input) % MAX_LIST, success, take(input) % MAX_LIST,
		failure, take(input) % MAX_LIST
	};
	cJSON	   *root;
	int			i;

	for (i = 0; i < txn.ncompare; i++)
		compare[i] = take_compare(input);
	for (i = 0; i < txn.nsuccess; i++)
		success[i] = take_op(input);
	for (i = 0; i < txn.nfailure; i++)
		failure[i] = take_op(input);

	root = parse(etcd_encode_txn(&txn));
	check(members(root) ==
		  (txn.ncompare > 0) + (txn.nsuccess > 0) + (txn.nfailure > 0));
	check(txn.ncompare == 0 || members(get(root, "compare")) == txn.ncompare);
	for (i = 0; i < txn.ncompare; i++)
		see_compare(cJSON_GetArrayItem(get(root, "compare"), i), &compare[i]);
	see_ops(root, "success", success, txn.nsuccess);
	see_ops(root, "failure", failure, txn.nfailure);
	cJSON_Delete(root);
}

static void
try_range(Input *input)
{
	EtcdOp		op = take_op(input);
	cJSON	   *root;

	op.type = ETCD_OP_RANGE;
	root = parse(etcd_encode_range(&op));
	see_op(root, &op);
	cJSON_Delete(root);
}

static void
try_watch(Input *input)
{
	bool		deletes_only = take(input) % 2 == 1;
	EtcdRange	range = take_range(input);
	cJSON	   *root = parse(etcd_encode_watch_create(&range, deletes_only));
	const cJSON *create = get(root, "create_request");
	int			n = see_range(create, &range);

	check(members(root) == 1);
	if (deletes_only)
	{
		const cJSON *filters = get(create, "filters");

		n++;
		check(members(filters) == 1 &&
			  strcmp(cJSON_GetArrayItem(filters, 0)->valuestring, "NOPUT") == 0);
	}
	check(members(create) == n);
	cJSON_Delete(root);
}

static void
try_lease(Input *input)
{
	int64_t		id = take_int64(input);
	int64_t		ttl = take_int64(input);
	bool		keys = take(input) % 2 == 1;
	cJSON	   *root = parse(etcd_encode_lease_grant(id, ttl));

	check(members(root) == see_int64(root, "ID", id) + see_int64(root, "TTL", ttl));
	cJSON_Delete(root);
	root = parse(etcd_encode_lease_id(id));
	check(members(root) == see_int64(root, "ID", id));
	cJSON_Delete(root);
	root = parse(etcd_encode_lease_timetolive(id, keys));
	check(members(root) == see_int64(root, "ID", id) + keys);
	check(!keys || cJSON_IsTrue(get(root, "keys")));
	cJSON_Delete(root);
	root = parse(etcd_encode_empty());
	check(members(root) == 0);
	cJSON_Delete(root);
}

/* Up to a NUL, as settings and files have them; malloc'd. */
static char *
take_string(Input *input)
{
	size_t		len;
	const char *bytes = take_bytes(input, &len);
	char	   *string = malloc(len + 1);

	check(string != NULL);
	memcpy(string, bytes, len);
	string[len] = '\0';
	return string;
}

static void
try_auth(Input *input)
{
	char	   *name = take_string(input);
	char	   *password = take_string(input);
	char	   *body = etcd_encode_auth(name, password);
	cJSON	   *root = cJSON_ParseWithOpts(body, NULL, 1);

	check(cJSON_IsObject(root));
	check(members(root) ==
		  see_string(root, "name", name) + see_string(root, "password", password));
	cJSON_Delete(root);
	free(body);
	free(name);
	free(password);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Input		input = {data, size};

	switch (take(&input) % 5)
	{
		case 0:
			try_txn(&input);
			break;
		case 1:
			try_range(&input);
			break;
		case 2:
			try_watch(&input);
			break;
		case 3:
			try_lease(&input);
			break;
		case 4:
			try_auth(&input);
			break;
	}
	return 0;
}
