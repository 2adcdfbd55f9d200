/*-------------------------------------------------------------------------
 *
 * fuzz_decode.c
 *	  etcd_decode.c and etcd_json.c: the input is the body of an answer, given
 *	  to every decoder.
 *
 * What a decoder believes must make sense; what it does not believe leaves
 * nothing behind but a message for people.  The same JSON written differently
 * means the same.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_api.h"
#include "fuzz.h"

/* cJSON's own limit: each level is one of its recursion. */
#define MAX_DEPTH	1000

typedef union AnyResult
{
	EtcdRangeResult range;
	EtcdTxnResult txn;
	EtcdLeaseResult lease;
	EtcdLeasesResult leases;
	EtcdStatusResult status;
	EtcdAuthResult auth;
	EtcdHeader	header;
	EtcdWatchMessage watch;
} AnyResult;

typedef enum Kind
{
	RANGE, SINGLE, TXN, LEASE, LEASES, STATUS, AUTH, HEADER, WATCH, N_KINDS
} Kind;

static bool
decode(Kind kind, const char *body, size_t len, int http_status,
	   AnyResult *result, EtcdError *err)
{
	switch (kind)
	{
		case RANGE:
			return etcd_decode_range(body, len, http_status, &result->range, err);
		case SINGLE:
			return etcd_decode_single_range(body, len, http_status, &result->txn, err);
		case TXN:
			return etcd_decode_txn(body, len, http_status, &result->txn, err);
		case LEASE:
			return etcd_decode_lease(body, len, http_status, &result->lease, err);
		case LEASES:
			return etcd_decode_leases(body, len, http_status, &result->leases, err);
		case STATUS:
			return etcd_decode_status(body, len, http_status, &result->status, err);
		case AUTH:
			return etcd_decode_auth(body, len, http_status, &result->auth, err);
		case HEADER:
			return etcd_decode_header(body, len, http_status, &result->header, err);
		default:
			return etcd_decode_watch(body, len, &result->watch, err);
	}
}

static void
release(Kind kind, AnyResult *result)
{
	switch (kind)
	{
		case RANGE:
			etcd_range_result_free(&result->range);
			break;
		case SINGLE:
		case TXN:
			etcd_txn_result_free(&result->txn);
			break;
		case LEASE:
			etcd_lease_result_free(&result->lease);
			break;
		case LEASES:
			etcd_leases_result_free(&result->leases);
			break;
		case STATUS:
			etcd_status_result_free(&result->status);
			break;
		case AUTH:
			etcd_auth_result_free(&result->auth);
			break;
		case WATCH:
			etcd_watch_message_free(&result->watch);
			break;
		default:
			break;
	}
}

/*
 * What is believed: checked, and hashed to compare it with another reading.
 */

static uint64_t
see_header(uint64_t hash, const EtcdHeader *header, bool has_revision)
{
	check(header->cluster_id != 0);
	check(header->revision >= (has_revision ? 1 : 0) &&
		  header->revision <= ETCD_MAX_REVISION);
	hash = hash_number(hash, header->cluster_id);
	hash = hash_number(hash, header->member_id);
	hash = hash_number(hash, (uint64_t) header->revision);
	return hash_number(hash, header->raft_term);
}

static uint64_t
see_key(uint64_t hash, const EtcdKeyValue *kv, bool has_value)
{
	check(kv->key_len > 0 && kv->key[kv->key_len] == '\0');
	hash = hash_bytes(hash, kv->key, kv->key_len);
	check(kv->value != NULL && kv->value[kv->value_len] == '\0');
	check(has_value || kv->value_len == 0);
	return hash_bytes(hash_number(hash, kv->value_len), kv->value, kv->value_len);
}

static uint64_t
see_revisions(uint64_t hash, const EtcdKeyValue *kv)
{
	check(kv->create_revision >= 1 && kv->create_revision <= kv->mod_revision &&
		  kv->mod_revision <= ETCD_MAX_REVISION);
	hash = hash_number(hash, (uint64_t) kv->create_revision);
	hash = hash_number(hash, (uint64_t) kv->mod_revision);
	return hash_number(hash, (uint64_t) kv->lease);
}

static uint64_t
see_op(uint64_t hash, const EtcdOpResult *op)
{
	int			i;

	hash = hash_number(hash, (uint64_t) op->type);
	switch (op->type)
	{
		case ETCD_OP_RANGE:
			check(op->nkvs >= 0 && op->count >= op->nkvs);
			check((op->nkvs == 0) == (op->kvs == NULL));
			for (i = 0; i < op->nkvs; i++)
				hash = see_revisions(see_key(hash, &op->kvs[i], true), &op->kvs[i]);
			return hash_number(hash_number(hash, (uint64_t) op->count), op->more);
		case ETCD_OP_DELETE:
			check(op->deleted >= 0 && op->kvs == NULL);
			return hash_number(hash, (uint64_t) op->deleted);
		case ETCD_OP_PUT:
			check(op->kvs == NULL);
			return hash;
	}
	check(!"a type that there is");
	return 0;
}

static uint64_t
see_text(uint64_t hash, const char *text, size_t size)
{
	size_t		len = strnlen(text, size);

	check(len < size);
	return hash_bytes(hash, text, len);
}

static uint64_t
see_lease(uint64_t hash, const EtcdLeaseResult *lease)
{
	int			i;

	check(lease->id != 0 && lease->ttl >= -1 && lease->ttl <= ETCD_MAX_TTL);
	for (i = 0; i < lease->nkeys; i++)
		hash = see_key(hash, &lease->keys[i], false);
	return hash_number(hash_number(hash, (uint64_t) lease->id), (uint64_t) lease->ttl);
}

static uint64_t
see_status(uint64_t hash, const EtcdStatusResult *status)
{
	int			i;

	check(status->version[0] != '\0');
	hash = see_text(hash, status->version, sizeof(status->version));
	for (i = 0; i < status->nerrors; i++)
		hash = see_text(hash, status->errors[i], SIZE_MAX);
	hash = hash_number(hash_number(hash, status->leader), (uint64_t) status->db_size);
	return hash_number(hash, (uint64_t) status->db_size_in_use);
}

static uint64_t
see_watch(uint64_t hash, const EtcdWatchMessage *watch)
{
	int			i;

	hash = see_text(hash, watch->cancel_reason, sizeof(watch->cancel_reason));
	hash = hash_number(hash, watch->created | watch->canceled << 1);
	hash = hash_number(hash, (uint64_t) watch->compact_revision);
	for (i = 0; i < watch->nevents; i++)
	{
		const EtcdEvent *event = &watch->events[i];

		hash = see_key(hash_number(hash, (uint64_t) event->type), &event->kv, true);
		if (event->type == ETCD_EVENT_PUT)
			hash = see_revisions(hash, &event->kv);
		else
		{
			check(event->type == ETCD_EVENT_DELETE);
			check(event->kv.mod_revision > 0 &&
				  event->kv.mod_revision <= ETCD_MAX_REVISION);
			hash = hash_number(hash, (uint64_t) event->kv.mod_revision);
		}
	}
	return hash;
}

/* It becomes part of a header: nothing may get out of its line. */
static uint64_t
see_token(uint64_t hash, const char *token)
{
	const char *c;

	check(*token != '\0');
	for (c = token; *c != '\0'; c++)
		check(*c > ' ' && *c < 0x7f);
	return hash_bytes(hash, token, strlen(token));
}

static uint64_t
see(Kind kind, const AnyResult *result)
{
	uint64_t	hash;
	int			i;

	/* The header is the first member of each. */
	hash = see_header(HASH_START, &result->header,
					  kind == RANGE || kind == SINGLE || kind == TXN);
	switch (kind)
	{
		case RANGE:
			check(result->range.range.type == ETCD_OP_RANGE);
			return see_op(hash, &result->range.range);
		case SINGLE:
		case TXN:
			for (i = 0; i < result->txn.nresults; i++)
				hash = see_op(hash, &result->txn.results[i]);
			return hash_number(hash, result->txn.succeeded);
		case LEASE:
			return see_lease(hash, &result->lease);
		case LEASES:
			for (i = 0; i < result->leases.nids; i++)
			{
				check(result->leases.ids[i] != 0);
				hash = hash_number(hash, (uint64_t) result->leases.ids[i]);
			}
			return hash;
		case STATUS:
			return see_status(hash, &result->status);
		case AUTH:
			return see_token(hash, result->auth.token);
		case WATCH:
			return see_watch(hash, &result->watch);
		default:
			return hash;
	}
}

/* A message for people: of printable characters in whole UTF-8. */
static void
check_printable(const char *text, size_t size)
{
	const unsigned char *c = (const unsigned char *) text;

	check(strnlen(text, size) < size);
	while (*c != '\0')
	{
		int			more = *c < 0x80 ? 0 : *c < 0xe0 ? 1 : *c < 0xf0 ? 2 : 3;

		check(*c >= 0x20 && *c != 0x7f && (*c < 0x80 || *c >= 0xc2) && *c < 0xf5);
		for (c++; more > 0; more--)
			check((*c++ & 0xc0) == 0x80);
	}
}

static void
check_error(Kind kind, int http_status, const AnyResult *result,
			const EtcdError *err)
{
	static const AnyResult nothing;

	check(err->code >= 1 && (err->code <= 16 || err->code == ETCD_BAD_ANSWER));
	check(err->http_status == http_status ||
		  (err->http_status >= 100 && err->http_status <= 999));
	check_printable(err->message, sizeof(err->message));
	if (kind == HEADER)
		check(memcmp(&result->header, &nothing, sizeof(EtcdHeader)) == 0);
	else if (kind == AUTH)
		check(result->auth.token == NULL);
	else if (kind == TXN || kind == SINGLE)
		check(result->txn.results == NULL && result->txn.nresults == 0);
	else if (kind == RANGE)
		check(result->range.range.kvs == NULL && result->range.range.nkvs == 0);
	else if (kind == WATCH)
		check(result->watch.events == NULL && result->watch.nevents == 0);
}

/* True, and a hash, when the decoder believes the body. */
static bool
read_body(Kind kind, const char *body, size_t len, int http_status,
		  uint64_t *hash)
{
	AnyResult	result;
	EtcdError	err;
	bool		good;

	memset(&result, 0xee, sizeof(result));
	memset(&err, 0xee, sizeof(err));
	good = decode(kind, body, len, http_status, &result, &err);
	if (good)
		*hash = see(kind, &result);
	else
		check_error(kind, http_status, &result, &err);
	release(kind, &result);
	return good;
}

/* How deep objects and arrays are nested. */
static int
depth_of(const char *body, size_t len)
{
	bool		in_string = false;
	int			depth = 0;
	int			deepest = 0;
	size_t		i;

	for (i = 0; i < len; i++)
	{
		if (in_string && body[i] == '\\')
			i++;
		else if (body[i] == '"')
			in_string = !in_string;
		else if (!in_string && (body[i] == '{' || body[i] == '['))
			deepest = ++depth > deepest ? depth : deepest;
		else if (!in_string && (body[i] == '}' || body[i] == ']'))
			depth--;
	}
	return deepest;
}

/* The same JSON with white space around each token. */
static char *
write_anew(const char *body, size_t len, size_t *new_len)
{
	char	   *anew = malloc(3 * len + 1);
	bool		in_string = false;
	size_t		n = 0;
	size_t		i;

	check(anew != NULL);
	for (i = 0; i < len; i++)
	{
		bool		token = !in_string && memchr("{}[]:,", body[i], 6) != NULL;

		if (token)
			anew[n++] = ' ';
		anew[n++] = body[i];
		if (token)
			anew[n++] = '\n';
		if (in_string && body[i] == '\\' && i + 1 < len)
			anew[n++] = body[++i];
		else if (body[i] == '"')
			in_string = !in_string;
	}
	*new_len = n;
	return anew;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int errors[] = {400, 404, 503};
	char	   *body = exact_copy(data, size);
	char	   *anew = NULL;
	size_t		new_len;
	uint64_t	hash;
	uint64_t	hash_anew;
	int			kind;
	int			i;

	for (kind = 0; kind < N_KINDS; kind++)
	{
		if (!read_body(kind, body, size, 200, &hash))
			continue;
		check(depth_of(body, size) <= MAX_DEPTH);
		if (anew == NULL)
			anew = write_anew(body, size, &new_len);
		check(read_body(kind, anew, new_len, 200, &hash_anew));
		check(hash == hash_anew);
	}
	for (i = 0; i < 3; i++)
		check(!read_body(HEADER, body, size, errors[i], &hash));
	free(anew);
	free(body);
	return 0;
}
