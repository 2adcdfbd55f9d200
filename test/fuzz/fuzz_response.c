/*-------------------------------------------------------------------------
 *
 * fuzz_response.c
 *	  etcd_response.c: the first byte of the input chooses what is read.
 *
 * What is believed makes sense; what is not leaves nothing behind but a printable
 * message.  The same with a field that nobody knows in front means the same.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/etcd_response.h"
#include "fuzz.h"

static bool
is_zero(const void *data, size_t len)
{
	const uint8_t *byte = data;
	size_t		i;

	for (i = 0; i < len; i++)
	{
		if (byte[i] != 0)
			return false;
	}
	return true;
}

/* No control characters, and not longer than its room. */
static void
is_printable(const char *text, size_t size)
{
	size_t		len = strnlen(text, size);
	size_t		i;

	check(len < size);
	for (i = 0; i < len; i++)
		check((uint8_t) text[i] >= ' ' && text[i] != 0x7f);
}

static void
is_refused(const EtcdError *err, const void *result, size_t size)
{
	check(is_zero(result, size));
	check(err->code == ETCD_BAD_RESPONSE && err->message[0] != '\0');
	is_printable(err->message, sizeof(err->message));
}

static void
has_sense(const EtcdHeader *header, bool has_revision)
{
	check(header->cluster_id != 0);
	check(header->revision >= (has_revision ? 1 : 0) && header->revision <= ETCD_MAX_REVISION);
}

static uint64_t
look_at_key(uint64_t hash, const EtcdKeyValue *kv)
{
	check(kv->key_len > 0 && kv->key[kv->key_len] == '\0' && kv->value[kv->value_len] == '\0');
	hash = hash_bytes(hash_number(hash, kv->key_len), kv->key, kv->key_len);
	hash = hash_bytes(hash_number(hash, kv->value_len), kv->value, kv->value_len);
	hash = hash_number(hash_number(hash, (uint64_t) kv->create_revision), (uint64_t) kv->mod_revision);
	return hash_number(hash, (uint64_t) kv->lease);
}

/* It is within the response. */
static uint64_t
look_at_name(uint64_t hash, const EtcdKeyName *name, const EtcdReply *reply)
{
	check(name->key_len > 0 && name->key >= (const char *) reply->data &&
		  name->key + name->key_len <= (const char *) reply->data + reply->len);
	return hash_bytes(hash_number(hash, name->key_len), name->key, name->key_len);
}

static uint64_t
look_at_op(uint64_t hash, const EtcdOpResult *op, int depth)
{
	int			i;

	check(depth <= ETCD_MAX_TXN_DEPTH);
	hash = hash_number(hash, op->type);
	check(op->nkvs == 0 || op->type == ETCD_OP_RANGE);
	check(op->nresults == 0 || op->type == ETCD_OP_TXN);
	check(op->count >= op->nkvs && op->deleted >= 0);
	hash = hash_number(hash_number(hash, (uint64_t) op->count), (uint64_t) op->deleted);
	for (i = 0; i < op->nkvs; i++)
	{
		const EtcdKeyValue *kv = &op->kvs[i];

		check(kv->create_revision >= 1 && kv->mod_revision >= kv->create_revision &&
			  kv->mod_revision <= ETCD_MAX_REVISION);
		hash = look_at_key(hash, kv);
	}
	for (i = 0; i < op->nresults; i++)
		hash = look_at_op(hash, &op->results[i], depth + 1);
	return hash;
}

static uint64_t
look_at_txn(const EtcdTxnResult *txn)
{
	uint64_t	hash = hash_number(HASH_START, txn->succeeded);
	int			i;

	has_sense(&txn->header, true);
	for (i = 0; i < txn->nresults; i++)
		hash = look_at_op(hash, &txn->results[i], 1);
	return hash_number(hash, (uint64_t) txn->header.revision);
}

/* What it means, in one number; 0: nothing, it was refused. */
static uint64_t
read_as(int kind, const EtcdReply *reply)
{
	union
	{
		EtcdRangeResult range;
		EtcdTxnResult txn;
		EtcdLeaseResult lease;
		EtcdStatusResult status;
		EtcdAuthResult auth;
		EtcdHeader	header;
		EtcdWatchMessage watch;
	}			result;
	EtcdError	err;
	uint64_t	hash = HASH_START;
	int			i;

	memset(&result, 0xee, sizeof(result));
	memset(&err, 0xee, sizeof(err));
#define READ(decoder, member) \
	if (!(decoder)) \
	{ \
		is_refused(&err, &result.member, sizeof(result.member)); \
		return 0; \
	}
	switch (kind)
	{
		case 0:
			READ(etcd_response_range(reply, &result.range, &err), range);
			has_sense(&result.range.header, true);
			check(result.range.range.type == ETCD_OP_RANGE);
			hash = look_at_op(hash, &result.range.range, 1);
			etcd_response_free_range(&result.range);
			break;
		case 1:
			READ(etcd_response_txn(reply, &result.txn, &err), txn);
			hash = look_at_txn(&result.txn);
			etcd_response_free_txn(&result.txn);
			break;
		case 2:
			READ(etcd_response_single_range(reply, &result.txn, &err), txn);
			check(result.txn.succeeded && result.txn.nresults == 1);
			hash = look_at_txn(&result.txn);
			etcd_response_free_txn(&result.txn);
			break;
		case 3:
			READ(etcd_response_lease(reply, &result.lease, &err), lease);
			has_sense(&result.lease.header, false);
			check(result.lease.id != 0 && result.lease.ttl >= -1 && result.lease.ttl <= ETCD_MAX_TTL);
			for (i = 0; i < result.lease.nkeys; i++)
				hash = look_at_name(hash, &result.lease.keys[i], reply);
			hash = hash_number(hash_number(hash, (uint64_t) result.lease.id), (uint64_t) result.lease.ttl);
			etcd_response_free_lease(&result.lease);
			break;
		case 4:
			READ(etcd_response_status(reply, &result.status, &err), status);
			has_sense(&result.status.header, false);
			check(result.status.version[0] != '\0' && result.status.db_size >= 0);
			is_printable(result.status.version, sizeof(result.status.version));
			for (i = 0; i < result.status.nerrors; i++)
				is_printable(result.status.errors[i], strlen(result.status.errors[i]) + 1);
			hash = hash_number(hash, (uint64_t) result.status.db_size);
			etcd_response_free_status(&result.status);
			break;
		case 5:
			READ(etcd_response_auth(reply, &result.auth, &err), auth);
			is_printable(result.auth.token, strlen(result.auth.token) + 1);
			check(result.auth.token[0] != '\0' && strchr(result.auth.token, ' ') == NULL);
			hash = hash_bytes(hash, result.auth.token, strlen(result.auth.token));
			etcd_response_free_auth(&result.auth);
			break;
		case 6:
			READ(etcd_response_header(reply, &result.header, &err), header);
			has_sense(&result.header, false);
			hash = hash_number(hash, (uint64_t) result.header.revision);
			break;
		default:
			READ(etcd_response_watch(reply->data, reply->len, &result.watch, &err), watch);
			has_sense(&result.watch.header, false);
			is_printable(result.watch.cancel_reason, sizeof(result.watch.cancel_reason));
			for (i = 0; i < result.watch.nevents; i++)
			{
				check(result.watch.events[i].kv.mod_revision >= 1 &&
					  result.watch.events[i].kv.mod_revision <= ETCD_MAX_REVISION);
				hash = look_at_key(hash_number(hash, result.watch.events[i].type), &result.watch.events[i].kv);
			}
			hash = hash_number(hash, (uint64_t) result.watch.watch_id);
			etcd_response_free_watch(&result.watch);
	}
	return hash == 0 ? 1 : hash;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t unknown[] = {0xfa, 0x3e, 1, 'x'};
	EtcdReply	reply = {ETCD_OK, NULL, NULL, 0};
	uint64_t	meaning;
	char	   *copy;
	char	   *longer;
	int			kind;

	if (size == 0)
		return 0;
	kind = data[0] % 8;
	data++;
	size--;
	copy = exact_copy(data, size);
	reply.data = copy;
	reply.len = size;
	meaning = read_as(kind, &reply);
	free(copy);

	longer = malloc(sizeof(unknown) + size);
	check(longer != NULL);
	memcpy(longer, unknown, sizeof(unknown));
	if (size > 0)
		memcpy(longer + sizeof(unknown), data, size);
	reply.data = longer;
	reply.len = sizeof(unknown) + size;
	check(read_as(kind, &reply) == meaning);
	free(longer);
	return 0;
}
