/*-------------------------------------------------------------------------
 *
 * fuzz_request.c
 *	  pb.c and etcd_request.c: names and values of any bytes.
 *
 * A plain reader of the format, written for this, finds just what was asked for,
 * field by field; pb.c's reader agrees.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/etcd_request.h"
#include "etcd/pb.h"
#include "fuzz.h"

/* What is left of the input. */
typedef struct Input
{
	const uint8_t *next;
	size_t		left;
} Input;

static uint8_t
take_byte(Input *input)
{
	if (input->left == 0)
		return 0;
	input->left--;
	return *input->next++;
}

static int64_t
take_int(Input *input)
{
	uint64_t	value = 0;
	int			n = take_byte(input) % 9;

	while (n-- > 0)
		value = value << 8 | take_byte(input);
	return (int64_t) value;
}

static const char *
take_bytes(Input *input, size_t *len)
{
	const char *bytes = (const char *) input->next;
	size_t		n = take_byte(input);

	if (n > 200)
		n = n * 40;
	bytes = (const char *) input->next;
	if (n > input->left)
		n = input->left;
	input->next += n;
	input->left -= n;
	*len = n;
	return n > 0 ? bytes : "";
}

static EtcdRange
take_range(Input *input)
{
	EtcdRange	range = {0};

	range.key = take_bytes(input, &range.key_len);
	if (take_byte(input) % 2)
	{
		range.end = take_bytes(input, &range.end_len);
		if (range.end_len == 0)
			range.end = NULL;
	}
	return range;
}

/* ---- a plain reader: the n-th field of this number ---- */

typedef struct Plain
{
	bool		found;
	uint64_t	value;
	const uint8_t *data;
	size_t		len;
} Plain;

static uint64_t
plain_varint(const uint8_t *data, size_t len, size_t *at)
{
	uint64_t	value = 0;
	int			shift = 0;

	for (;;)
	{
		check(*at < len && shift < 70);
		value |= shift < 64 ? (uint64_t) (data[*at] & 0x7f) << shift : 0;
		shift += 7;
		if ((data[(*at)++] & 0x80) == 0)
			return value;
	}
}

static Plain
plain_field(const uint8_t *data, size_t len, int number, int n)
{
	Plain		plain = {0};
	size_t		at = 0;

	while (at < len)
	{
		uint64_t	tag = plain_varint(data, len, &at);
		Plain		field = {.found = true};

		check((tag & 7) == 0 || (tag & 7) == 2);
		field.value = plain_varint(data, len, &at);
		if ((tag & 7) == 2)
		{
			check(field.value <= len - at);
			field.data = data + at;
			field.len = (size_t) field.value;
			at += field.len;
		}
		if (tag >> 3 == (uint64_t) number && n-- == 0)
			plain = field;
	}
	check(at == len);
	return plain;
}

static void
has_bytes(Plain message, int number, const char *bytes, size_t len)
{
	Plain		field = plain_field(message.data, message.len, number, 0);

	check(field.found == (len > 0));
	check(field.len == len && (len == 0 || memcmp(field.data, bytes, len) == 0));
}

static void
has_int(Plain message, int number, int64_t value)
{
	check(plain_field(message.data, message.len, number, 0).value == (uint64_t) value);
}

static void
has_range(Plain message, const EtcdRange *range, int end)
{
	has_bytes(message, 1, range->key, range->key_len);
	has_bytes(message, end, range->end, range->end != NULL ? range->end_len : 0);
}

/* pb.c's reader finds the same fields. */
static void
readers_agree(const uint8_t *data, size_t len)
{
	PbReader	reader;
	PbField		field;
	size_t		at = 0;

	pb_read_start(&reader, data, len);
	while (pb_read(&reader, &field))
	{
		uint64_t	tag = plain_varint(data, len, &at);
		uint64_t	value = plain_varint(data, len, &at);

		check(tag == ((uint64_t) field.number << 3 | field.wire));
		check(field.wire == PB_VARINT ? field.value == value : field.len == value);
		if (field.wire == PB_BYTES)
			at += field.len;
	}
	check(!reader.broken && at == len);
}

static Plain
whole(const EtcdMessage *message)
{
	Plain		plain = {true, 0, message->data, message->len};

	return plain;
}

static void
test_txn(Input *input)
{
	EtcdCompare compare = {.target = ETCD_COMPARE_MOD,.result = ETCD_COMPARE_LESS};
	EtcdOp		ops[3] = {{.type = ETCD_OP_PUT}, {.type = ETCD_OP_RANGE}, {.type = ETCD_OP_TXN}};
	EtcdTxn		inner = {&compare, 1, &ops[1], 1, NULL, 0};
	EtcdTxn		txn = {&compare, 1, ops, 3, ops, 2};
	EtcdMessage message;
	Plain		op;

	compare.range = take_range(input);
	compare.revision = take_int(input);
	ops[0].range = take_range(input);
	ops[0].value = take_bytes(input, &ops[0].value_len);
	ops[0].lease = take_int(input);
	ops[1].range = take_range(input);
	ops[1].limit = take_int(input);
	ops[1].revision = take_int(input);
	ops[1].keys_only = take_byte(input) % 2;
	ops[2].txn = &inner;
	message = etcd_request_txn(&txn);
	check(message.data != NULL);
	readers_agree(message.data, message.len);

	op = plain_field(message.data, message.len, 1, 0);
	has_int(op, 1, 2);
	has_int(op, 2, 2);
	has_bytes(op, 3, compare.range.key, compare.range.key_len);
	has_int(op, 6, compare.revision);
	has_bytes(op, 64, compare.range.end, compare.range.end != NULL ? compare.range.end_len : 0);

	op = plain_field(message.data, message.len, 2, 0);
	op = plain_field(op.data, op.len, 2, 0);
	has_bytes(op, 1, ops[0].range.key, ops[0].range.key_len);
	has_bytes(op, 2, ops[0].value, ops[0].value_len);
	has_int(op, 3, ops[0].lease);

	op = plain_field(message.data, message.len, 3, 1);
	op = plain_field(op.data, op.len, 1, 0);
	has_range(op, &ops[1].range, 2);
	has_int(op, 3, ops[1].limit);
	has_int(op, 4, ops[1].revision);
	has_int(op, 8, ops[1].keys_only);

	op = plain_field(message.data, message.len, 2, 2);
	op = plain_field(op.data, op.len, 4, 0);
	check(plain_field(op.data, op.len, 1, 0).found && !plain_field(op.data, op.len, 3, 0).found);
	op = plain_field(op.data, op.len, 2, 0);
	op = plain_field(op.data, op.len, 1, 0);
	has_range(op, &ops[1].range, 2);
	etcd_request_free(&message);
}

static void
test_watch(Input *input)
{
	EtcdRange	range = take_range(input);
	int64_t		id = take_int(input);
	bool		deletes_only = take_byte(input) % 2;
	EtcdMessage message = etcd_request_watch_create(id, &range, deletes_only);
	Plain		create = plain_field(message.data, message.len, 1, 0);

	readers_agree(message.data, message.len);
	has_range(create, &range, 2);
	has_int(create, 7, id);
	check(plain_field(create.data, create.len, 5, 0).found == deletes_only);
	etcd_request_free(&message);
}

static void
test_lease(Input *input)
{
	int64_t		id = take_int(input);
	int64_t		ttl = take_int(input);
	EtcdMessage message = etcd_request_lease_grant(id, ttl);

	has_int(whole(&message), 1, ttl);
	has_int(whole(&message), 2, id);
	etcd_request_free(&message);
	message = etcd_request_lease_timetolive(id, true);
	has_int(whole(&message), 1, id);
	etcd_request_free(&message);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Input		input = {data, size};

	test_txn(&input);
	test_watch(&input);
	test_lease(&input);
	return 0;
}
