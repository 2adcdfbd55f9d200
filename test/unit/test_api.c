/*-------------------------------------------------------------------------
 *
 * test_api.c
 *	  Unit test of etcd_encode.c, etcd_decode.c and etcd_json.c.
 *
 * The answers in here are what etcd 3.4.23 (first generation of the gateway)
 * and Debian's 3.5.16 (second generation) really send.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "etcd_api.h"
#include "tap.h"

#define HEADER34 "\"header\":{\"cluster_id\":\"17813028752796227155\"," \
	"\"member_id\":\"10101413036177112355\",\"revision\":\"4\",\"raft_term\":\"2\"}"
#define HEADER35 "\"header\":{\"cluster_id\":\"17813028752796227155\", " \
	"\"member_id\":\"10101413036177112355\", \"revision\":\"4\", \"raft_term\":\"2\"}"
#define KEY34 "{\"key\":\"bGsvd3JpdGUvYQ==\",\"create_revision\":\"2\"," \
	"\"mod_revision\":\"3\",\"version\":\"1\",\"value\":\"eyJwaWQiOjF9\"," \
	"\"lease\":\"1234567890123456789\"}"
#define KEY35 "{\"key\":\"bGsvd3JpdGUvYQ==\", \"create_revision\":\"2\", " \
	"\"mod_revision\":\"3\", \"version\":\"1\", \"value\":\"eyJwaWQiOjF9\", " \
	"\"lease\":\"1234567890123456789\"}"

typedef enum Kind
{
	RANGE, TXN, LEASE, LEASES, STATUS, HEADER, AUTH, WATCH
} Kind;

/* Room for the result of any decoder. */
typedef union AnyResult
{
	EtcdRangeResult range;
	EtcdTxnResult txn;
	EtcdLeaseResult lease;
	EtcdLeasesResult leases;
	EtcdStatusResult status;
	EtcdHeader	header;
	EtcdAuthResult auth;
	EtcdWatchMessage watch;
} AnyResult;

/* Decode from memory of the exact size, so that reading beyond is noticed. */
static bool
decode_bytes(Kind kind, const char *body, size_t len, int http_status,
			 AnyResult *result, EtcdError *err)
{
	char	   *copy = malloc(len > 0 ? len : 1);
	bool		good = false;

	memcpy(copy, body, len);
	memset(result, 0xee, sizeof(*result));
	memset(err, 0xee, sizeof(*err));
	switch (kind)
	{
		case RANGE:
			good = etcd_decode_range(copy, len, http_status, &result->range, err);
			break;
		case TXN:
			good = etcd_decode_txn(copy, len, http_status, &result->txn, err);
			break;
		case LEASE:
			good = etcd_decode_lease(copy, len, http_status, &result->lease, err);
			break;
		case LEASES:
			good = etcd_decode_leases(copy, len, http_status, &result->leases, err);
			break;
		case STATUS:
			good = etcd_decode_status(copy, len, http_status, &result->status, err);
			break;
		case HEADER:
			good = etcd_decode_header(copy, len, http_status, &result->header, err);
			break;
		case AUTH:
			good = etcd_decode_auth(copy, len, http_status, &result->auth, err);
			break;
		case WATCH:
			good = etcd_decode_watch(copy, len, &result->watch, err);
			break;
	}
	free(copy);
	return good;
}

static void
free_result(Kind kind, AnyResult *result)
{
	switch (kind)
	{
		case RANGE:
			etcd_range_result_free(&result->range);
			break;
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
		case HEADER:
			break;
		case AUTH:
			etcd_auth_result_free(&result->auth);
			break;
		case WATCH:
			etcd_watch_message_free(&result->watch);
			break;
	}
}

static bool
decode(Kind kind, const char *body, int http_status, AnyResult *result,
	   EtcdError *err)
{
	return decode_bytes(kind, body, strlen(body), http_status, result, err);
}

/* Decode what must be a good answer. */
static bool
good(Kind kind, const char *body, AnyResult *result, const char *name)
{
	EtcdError	err;
	bool		is_good = decode(kind, body, 200, result, &err);

	ok(is_good, "%s", name);
	if (!is_good)
		diag("%s", err.message);
	return is_good;
}

/*
 * Encoders
 */

static void
is_body(char *got, const char *expected, const char *name)
{
	is_string(got, expected, name);
	free(got);
}

static void
test_encode_range(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE, .range = {.key = "lk/", .key_len = 3}};

	is_body(etcd_encode_range(&op), "{\"key\":\"bGsv\"}", "range of one key");
	op.range.end = "lk0";
	op.range.end_len = 3;
	op.keys_only = true;
	op.limit = INT64_MAX;
	is_body(etcd_encode_range(&op),
			"{\"key\":\"bGsv\",\"range_end\":\"bGsw\",\"limit\":\"9223372036854775807\",\"keys_only\":true}",
			"range with everything");
	op = (EtcdOp) {.type = ETCD_OP_RANGE, .range = {.key = "\0a\xff", .key_len = 3}};
	is_body(etcd_encode_range(&op), "{\"key\":\"AGH/\"}", "key of any bytes");
}

static void
test_encode_txn(void)
{
	EtcdCompare compare[] = {
		{ETCD_COMPARE_CREATE, ETCD_COMPARE_EQUAL, {"lk/", 3, "lk0", 3}, 0},
		{ETCD_COMPARE_MOD, ETCD_COMPARE_LESS, {"a", 1, NULL, 0}, 7},
		{ETCD_COMPARE_CREATE, ETCD_COMPARE_GREATER, {"a", 1, NULL, 0}, 1},
	};
	EtcdOp		success[] = {
		{.type = ETCD_OP_PUT, .range = {"a", 1, NULL, 0}, .value = "b", .value_len = 1,
		.lease = 1234567890123456789},
		{.type = ETCD_OP_PUT, .range = {"a", 1, "ignored", 7}},
		{.type = ETCD_OP_RANGE, .range = {"a", 1, NULL, 0}},
		{.type = ETCD_OP_DELETE, .range = {"lk/", 3, "lk0", 3}},
	};
	EtcdOp		failure = {.type = ETCD_OP_DELETE, .range = {"a", 1, NULL, 0}};
	EtcdTxn		txn = {compare, 3, success, 4, &failure, 1};
	EtcdTxn		empty = {NULL, 0, NULL, 0, NULL, 0};

	is_body(etcd_encode_txn(&txn),
			"{\"compare\":["
			"{\"target\":\"CREATE\",\"result\":\"EQUAL\",\"key\":\"bGsv\",\"range_end\":\"bGsw\",\"create_revision\":\"0\"},"
			"{\"target\":\"MOD\",\"result\":\"LESS\",\"key\":\"YQ==\",\"mod_revision\":\"7\"},"
			"{\"target\":\"CREATE\",\"result\":\"GREATER\",\"key\":\"YQ==\",\"create_revision\":\"1\"}],"
			"\"success\":["
			"{\"request_put\":{\"key\":\"YQ==\",\"value\":\"Yg==\",\"lease\":\"1234567890123456789\"}},"
			"{\"request_put\":{\"key\":\"YQ==\"}},"
			"{\"request_range\":{\"key\":\"YQ==\"}},"
			"{\"request_delete_range\":{\"key\":\"bGsv\",\"range_end\":\"bGsw\"}}],"
			"\"failure\":[{\"request_delete_range\":{\"key\":\"YQ==\"}}]}",
			"Txn");
	is_body(etcd_encode_txn(&empty), "{}", "empty Txn");
}

static void
test_encode_others(void)
{
	EtcdRange	range = {"lk/", 3, "lk0", 3};

	is_body(etcd_encode_lease_grant(INT64_MAX, 30),
			"{\"ID\":\"9223372036854775807\",\"TTL\":\"30\"}", "grant");
	is_body(etcd_encode_lease_id(5), "{\"ID\":\"5\"}", "revoke and keepalive");
	is_body(etcd_encode_lease_timetolive(5, false), "{\"ID\":\"5\"}", "timetolive");
	is_body(etcd_encode_lease_timetolive(5, true), "{\"ID\":\"5\",\"keys\":true}",
			"timetolive with keys");
	is_body(etcd_encode_empty(), "{}", "empty");
	is_body(etcd_encode_watch_create(&range, false),
			"{\"create_request\":{\"key\":\"bGsv\",\"range_end\":\"bGsw\"}}", "watch");
	is_body(etcd_encode_watch_create(&range, true),
			"{\"create_request\":{\"key\":\"bGsv\",\"range_end\":\"bGsw\",\"filters\":[\"NOPUT\"]}}",
			"watch for deletes");
	is_body(etcd_encode_auth("app", "secret"),
			"{\"name\":\"app\",\"password\":\"secret\"}", "login");
	is_body(etcd_encode_auth("a\"p\r\np", "\\\"},{\"\x01\x1f\xc3\xa4"),
			"{\"name\":\"a\\\"p\\r\\np\",\"password\":\"\\\\\\\"},{\\\"\\u0001\\u001f\xc3\xa4\"}",
			"login with odd characters");
}

/* Every character may need six bytes. */
static void
test_encode_long_password(void)
{
	char		password[3000];
	char	   *body;

	memset(password, 1, sizeof(password) - 1);
	password[sizeof(password) - 1] = '\0';
	body = etcd_encode_auth(password, password);
	ok(body != NULL && strlen(body) == 25 + 2 * 6 * (sizeof(password) - 1),
	   "login with a long password of control characters");
	free(body);
}

/* A value larger than what is encoded on the stack. */
static void
test_encode_long_value(void)
{
	size_t		len;
	bool		same = true;

	for (len = 370; len < 400; len++)
	{
		char		value[400];
		char		expected[700];
		size_t		i;
		EtcdOp		op = {.type = ETCD_OP_PUT, .range = {"a", 1, NULL, 0}, .value = value, .value_len = len};
		EtcdTxn		txn = {NULL, 0, &op, 1, NULL, 0};
		char	   *body;

		memset(value, 0, sizeof(value));
		strcpy(expected, "{\"success\":[{\"request_put\":{\"key\":\"YQ==\",\"value\":\"");
		for (i = 0; i < (len + 2) / 3 * 4; i++)
			strcat(expected, i < (len * 4 + 2) / 3 ? "A" : "=");
		strcat(expected, "\"}}]}");
		body = etcd_encode_txn(&txn);
		same = same && strcmp(body, expected) == 0;
		free(body);
	}
	ok(same, "values around the size of the buffer");
}

/*
 * Good answers
 */

static void
check_header(const EtcdHeader *header)
{
	ok(header->cluster_id == UINT64_C(17813028752796227155) &&
	   header->member_id == UINT64_C(10101413036177112355) &&
	   header->revision == 4 && header->raft_term == 2, "header");
}

static void
check_key(const EtcdKeyValue *kv)
{
	is_string(kv->key, "lk/write/a", "key");
	is_string(kv->value, "{\"pid\":1}", "value");
	ok(kv->key_len == 10 && kv->value_len == 9 && kv->create_revision == 2 &&
	   kv->mod_revision == 3 && kv->lease == 1234567890123456789, "the rest of the key");
}

static void
test_range(void)
{
	static const char *const one[] = {
		"{" HEADER34 ",\"kvs\":[" KEY34 "],\"more\":true,\"count\":\"2\"}",
		"{" HEADER35 ", \"kvs\":[" KEY35 "], \"more\":true, \"count\":\"2\"}",
		/* numbers, null, unknown members, another order, white space */
		"\n{ \"count\" : 2 ,\t\"new\":{\"kvs\":[]},\"more\":true,\"kvs\":[{\"lease\":\"1234567890123456789\","
		"\"x\":null,\"mod_revision\":3,\"create_revision\":2e0,\"value\":\"eyJwaWQiOjF9\","
		"\"key\":\"bGsvd3JpdGUvYQ\\u003d=\"}]," HEADER34 "}\r\n ",
	};
	static const char *const none[] = {
		"{" HEADER34 "}",
		"{" HEADER35 "}\n",
		"{" HEADER34 ",\"kvs\":[],\"more\":false,\"count\":\"0\"}",
		"{" HEADER34 ",\"kvs\":null,\"more\":null,\"count\":null}",
		/* not a NUL, but a backslash and a word */
		"{" HEADER34 ",\"new\":\"\\\\u0000\"}",
	};
	AnyResult	result;
	size_t		i;

	for (i = 0; i < sizeof(one) / sizeof(one[0]); i++)
		if (good(RANGE, one[i], &result, "range of one key"))
		{
			check_header(&result.range.header);
			ok(result.range.range.type == ETCD_OP_RANGE &&
			   result.range.range.nkvs == 1 && result.range.range.more, "one key, there are more");
			is_int(result.range.range.count, 2, "count");
			check_key(&result.range.range.kvs[0]);
			etcd_range_result_free(&result.range);
			etcd_range_result_free(&result.range);
		}
	for (i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		if (good(RANGE, none[i], &result, "empty range"))
		{
			check_header(&result.range.header);
			ok(result.range.range.nkvs == 0 && result.range.range.kvs == NULL &&
			   !result.range.range.more && result.range.range.count == 0, "nothing in it");
			etcd_range_result_free(&result.range);
		}
}

static void
test_keys_of_any_bytes(void)
{
	AnyResult	result;

	if (good(RANGE, "{" HEADER34 ",\"kvs\":[{\"key\":\"AGEA/w==\",\"create_revision\":\"1\","
			 "\"mod_revision\":\"1\",\"lease\":\"-5\"}],\"count\":\"1\"}", &result, "key of any bytes"))
	{
		const EtcdKeyValue *kv = result.range.range.kvs;

		ok(kv->key_len == 4 && memcmp(kv->key, "\0a\0\xff", 5) == 0, "its bytes and a NUL");
		ok(kv->value_len == 0 && kv->value != NULL && kv->value[0] == '\0', "empty value");
		is_int(kv->lease, -5, "a lease id may be negative");
		etcd_range_result_free(&result.range);
	}
}

#define TXN34 \
	"{" HEADER34 ",\"succeeded\":true,\"responses\":[" \
	"{\"response_put\":{\"header\":{\"revision\":\"4\"}}}," \
	"{\"response_range\":{\"header\":{\"revision\":\"4\"},\"kvs\":[" KEY34 "],\"count\":\"1\"}}," \
	"{\"response_range\":{\"header\":{\"revision\":\"4\"}}}," \
	"{\"response_delete_range\":{\"header\":{\"revision\":\"4\"},\"deleted\":\"1\"}}," \
	"{\"response_delete_range\":{\"header\":{\"revision\":\"4\"}}}]}"
#define TXN35 \
	"{" HEADER35 ", \"succeeded\":true, \"responses\":[" \
	"{\"response_put\":{\"header\":{\"revision\":\"4\"}}}, " \
	"{\"response_range\":{\"header\":{\"revision\":\"4\"}, \"kvs\":[" KEY35 "], \"count\":\"1\"}}, " \
	"{\"response_range\":{\"header\":{\"revision\":\"4\"}}}, " \
	"{\"response_delete_range\":{\"header\":{\"revision\":\"4\"}, \"deleted\":\"1\"}}, " \
	"{\"response_delete_range\":{\"header\":{\"revision\":\"4\"}}}]}"

static void
test_txn(void)
{
	static const char *const full[] = {TXN34, TXN35,
		"{" HEADER34 ",\"succeeded\":true,\"responses\":[{\"response_put\":{}},"
		"{\"response_range\":{\"kvs\":[" KEY35 "],\"count\":1}},{\"response_range\":{}},"
		"{\"response_delete_range\":{\"deleted\":1}},{\"response_delete_range\":{}}]}",
	};
	AnyResult	result;
	size_t		i;

	for (i = 0; i < sizeof(full) / sizeof(full[0]); i++)
		if (good(TXN, full[i], &result, "Txn"))
		{
			const EtcdOpResult *op = result.txn.results;

			check_header(&result.txn.header);
			ok(result.txn.succeeded && result.txn.nresults == 5, "five results");
			ok(op[0].type == ETCD_OP_PUT, "a put");
			ok(op[1].type == ETCD_OP_RANGE && op[1].nkvs == 1 && op[1].count == 1, "a range");
			check_key(&op[1].kvs[0]);
			ok(op[2].type == ETCD_OP_RANGE && op[2].nkvs == 0, "an empty range");
			ok(op[3].type == ETCD_OP_DELETE && op[3].deleted == 1, "a delete");
			ok(op[4].type == ETCD_OP_DELETE && op[4].deleted == 0, "a delete of nothing");
			etcd_txn_result_free(&result.txn);
		}
	if (good(TXN, "{" HEADER34 "}", &result, "failed Txn without operations"))
		ok(!result.txn.succeeded && result.txn.nresults == 0 && result.txn.results == NULL,
		   "no results");
}

#define KEEPALIVE34 "{\"result\":{" HEADER34 ",\"ID\":\"1234567890123456789\",\"TTL\":\"30\"}}\n"
#define TTL34 "{" HEADER34 ",\"ID\":\"1234567890123456789\",\"TTL\":\"29\",\"grantedTTL\":\"30\",\"keys\":[\"bGsvd3JpdGUvYQ==\",\"AA==\"]}"
#define LEASES34 "{" HEADER34 ",\"leases\":[{\"ID\":\"1234567890123456789\"},{\"ID\":\"7\"}]}"
#define STATUS34 \
	"{" HEADER34 ",\"version\":\"3.4.23\",\"dbSize\":\"24576\",\"leader\":\"10101413036177112355\"," \
	"\"raftIndex\":\"11\",\"raftTerm\":\"2\",\"raftAppliedIndex\":\"11\",\"dbSizeInUse\":\"16384\"}"
#define STATUS_ERRORS \
	"{" HEADER35 ", \"version\":\"3.5.16\", \"errors\":[\"memberID:1 alarm:NOSPACE \", \"etcdserver: no leader\"]}"

static void
test_leases(void)
{
	AnyResult	result;

	if (good(LEASE, "{" HEADER35 ", \"ID\":\"1234567890123456789\", \"TTL\":\"30\"}", &result, "grant"))
	{
		check_header(&result.lease.header);
		ok(result.lease.id == 1234567890123456789 && result.lease.ttl == 30 &&
		   result.lease.nkeys == 0, "the lease");
	}
	if (good(LEASE, "{" HEADER34 ",\"ID\":\"5\",\"TTL\":\"30\",\"error\":\"\"}", &result,
			 "grant with an empty error"))
		is_int(result.lease.ttl, 30, "the lease");
	if (good(LEASE, KEEPALIVE34, &result, "keepalive"))
	{
		check_header(&result.lease.header);
		ok(result.lease.id == 1234567890123456789 && result.lease.ttl == 30, "the lease");
	}
	if (good(LEASE, "{\"result\":{" HEADER34 ",\"ID\":\"77\"}}\n", &result, "keepalive of a lost lease"))
		ok(result.lease.id == 77 && result.lease.ttl == 0, "no TTL");
	if (good(LEASE, TTL34, &result, "timetolive"))
	{
		ok(result.lease.ttl == 29 && result.lease.granted_ttl == 30 &&
		   result.lease.nkeys == 2, "the lease");
		is_string(result.lease.keys[0].key, "lk/write/a", "first key");
		ok(result.lease.keys[1].key_len == 1 && result.lease.keys[1].key[0] == '\0' &&
		   result.lease.keys[1].value_len == 0, "second key");
		etcd_lease_result_free(&result.lease);
		etcd_lease_result_free(&result.lease);
	}
	if (good(LEASE, "{" HEADER34 ",\"ID\":\"77\",\"TTL\":\"-1\"}", &result, "timetolive of a lost lease"))
		is_int(result.lease.ttl, -1, "no TTL");
	if (good(LEASES, LEASES34, &result, "leases"))
	{
		ok(result.leases.nids == 2 && result.leases.ids[0] == 1234567890123456789 &&
		   result.leases.ids[1] == 7, "their ids");
		etcd_leases_result_free(&result.leases);
		etcd_leases_result_free(&result.leases);
	}
	if (good(LEASES, "{" HEADER34 "}", &result, "no leases"))
		ok(result.leases.nids == 0, "no ids");
	if (good(HEADER, "{" HEADER34 "}", &result, "revoke"))
		check_header(&result.header);
}

static void
test_status(void)
{
	AnyResult	result;

	if (good(STATUS, STATUS34, &result, "status"))
	{
		is_string(result.status.version, "3.4.23", "version");
		ok(result.status.db_size == 24576 && result.status.db_size_in_use == 16384 &&
		   result.status.leader == UINT64_C(10101413036177112355) &&
		   result.status.nerrors == 0, "the rest of the status");
		etcd_status_result_free(&result.status);
	}
	if (good(STATUS, "{" HEADER34 ",\"version\":\"3.6.0\",\"dbSize\":\"1\",\"dbSizeQuota\":\"2147483648\",\"isLearner\":false}",
			 &result, "status of 3.6"))
	{
		ok(result.status.db_quota == INT64_C(2147483648), "quota");
		etcd_status_result_free(&result.status);
	}
	if (good(STATUS, STATUS_ERRORS, &result, "status with errors"))
	{
		ok(result.status.leader == 0 && result.status.nerrors == 2, "two errors, no leader");
		is_string(result.status.errors[0], "memberID:1 alarm:NOSPACE", "first error");
		is_string(result.status.errors[1], "etcdserver: no leader", "second error");
		etcd_status_result_free(&result.status);
		etcd_status_result_free(&result.status);
	}
}

#define AUTH34 "{" HEADER34 ",\"token\":\"NsyrKNOGlLlfczio.12\"}"
#define AUTH35 "{" HEADER35 ", \"token\":\"TzGlpEJwdQtncPwM.12\"}"

static void
test_auth(void)
{
	static const char *const bad[] = {
		"{" HEADER34 "}",
		"{" HEADER34 ",\"token\":\"\"}",
		"{" HEADER34 ",\"token\":5}",
		"{" HEADER34 ",\"token\":\"a\\r\\nHost: b\"}",
		"{" HEADER34 ",\"token\":\"a b\"}",
		"{" HEADER34 ",\"token\":\"\xc3\xa4\"}",
		"{\"token\":\"a.1\"}",
	};
	AnyResult	result;
	EtcdError	err;
	size_t		i;

	if (good(AUTH, AUTH34, &result, "token"))
	{
		is_string(result.auth.token, "NsyrKNOGlLlfczio.12", "the token");
		etcd_auth_result_free(&result.auth);
		etcd_auth_result_free(&result.auth);
	}
	if (good(AUTH, AUTH35, &result, "token, second generation"))
	{
		is_string(result.auth.token, "TzGlpEJwdQtncPwM.12", "the token");
		etcd_auth_result_free(&result.auth);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(!decode(AUTH, bad[i], 200, &result, &err) && err.code == ETCD_BAD_ANSWER,
		   "no valid token %d", (int) i);

	ok(!decode(AUTH, "{\"code\":3, \"message\":\"etcdserver: authentication failed, invalid user ID or password\"}",
			   400, &result, &err) && err.code == ETCD_INVALID_ARGUMENT, "bad password");
	is_string(err.message, "etcdserver: authentication failed, invalid user ID or password",
			  "etcd's message");

	/* What comes from elsewhere may repeat what was sent. */
	ok(!decode(AUTH, "you sent {\"name\":\"app\",\"password\":\"secret\"}", 400, &result, &err),
	   "a page that repeats the password");
	is_string(err.message, "HTTP status 400, and no answer of etcd's", "nothing of it is told");
	ok(!decode(AUTH, "{\"code\":3,\"message\":\"secret\"}", 400, &result, &err),
	   "an error that repeats the password");
	is_string(err.message, "HTTP status 400, and no answer of etcd's", "nothing of it is told");

	ok(!decode(AUTH, "CommonName of client sending a request against gateway will be ignored and not used as expected\n",
			   400, &result, &err), "Common Name");
	ok(strstr(err.message, "Common Name") != NULL, "it is said what that means");
}

#define EVENTS34 \
	"{\"result\":{" HEADER34 ",\"events\":[{\"type\":\"DELETE\",\"kv\":{\"key\":\"bGsvd3JpdGUvYQ==\",\"mod_revision\":\"4\"}}," \
	"{\"kv\":" KEY34 "}]}}"

static void
test_watch(void)
{
	AnyResult	result;

	if (good(WATCH, "{\"result\":{" HEADER34 ",\"created\":true}}", &result, "watch created"))
		ok(result.watch.created && !result.watch.canceled && result.watch.nevents == 0, "created only");
	if (good(WATCH, EVENTS34, &result, "events"))
	{
		check_header(&result.watch.header);
		ok(!result.watch.created && !result.watch.canceled && result.watch.nevents == 2, "two events");
		ok(result.watch.events[0].type == ETCD_EVENT_DELETE &&
		   result.watch.events[0].kv.mod_revision == 4 &&
		   result.watch.events[0].kv.value_len == 0, "a DELETE");
		is_string(result.watch.events[0].kv.key, "lk/write/a", "its key");
		ok(result.watch.events[1].type == ETCD_EVENT_PUT, "a PUT");
		check_key(&result.watch.events[1].kv);
		etcd_watch_message_free(&result.watch);
		etcd_watch_message_free(&result.watch);
	}
	if (good(WATCH, "{\"result\":{\"header\":{\"cluster_id\":\"1\",\"member_id\":\"2\",\"raft_term\":\"2\"},"
			 "\"canceled\":true,\"compact_revision\":\"3\"}}", &result, "watch canceled by compaction"))
		ok(result.watch.canceled && result.watch.compact_revision == 3 &&
		   result.watch.cancel_reason[0] == '\0', "compact_revision");
	if (good(WATCH, "{\"result\":{" HEADER34 ",\"created\":true,\"canceled\":true,"
			 "\"cancel_reason\":\"rpc error: code = PermissionDenied\"}}", &result, "watch refused"))
	{
		ok(result.watch.created && result.watch.canceled, "created and canceled");
		is_string(result.watch.cancel_reason, "rpc error: code = PermissionDenied", "the reason");
	}
}

/*
 * Errors
 */

static void
test_errors(void)
{
	static const struct
	{
		int			status;
		const char *body;
		int			code;
		const char *message;
	}			errors[] =
	{
		/* unary, first and second generation */
		{404, "{\"error\":\"etcdserver: requested lease not found\",\"message\":\"etcdserver: requested lease not found\",\"code\":5}",
		ETCD_NOT_FOUND, "etcdserver: requested lease not found"},
		{404, "{\"code\":5, \"message\":\"etcdserver: requested lease not found\"}",
		ETCD_NOT_FOUND, "etcdserver: requested lease not found"},
		{412, "{\"error\":\"etcdserver: lease already exists\",\"message\":\"etcdserver: lease already exists\",\"code\":9}",
		ETCD_FAILED_PRECONDITION, "etcdserver: lease already exists"},
		{400, "{\"code\":9, \"message\":\"etcdserver: lease already exists\"}",
		ETCD_FAILED_PRECONDITION, "etcdserver: lease already exists"},
		{400, "{\"code\":11, \"message\":\"etcdserver: mvcc: required revision has been compacted\",\"details\":[]}",
		ETCD_OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"},
		{503, "{\"error\":\"etcdserver: no leader\",\"code\":14}", ETCD_UNAVAILABLE, "etcdserver: no leader"},
		{500, "{\"error\":\"unexpected EOF\",\"message\":\"unexpected EOF\",\"code\":2}", ETCD_UNKNOWN, "unexpected EOF"},
		{401, "{\"error\":\"etcdserver: invalid auth token\",\"code\":16}", ETCD_UNAUTHENTICATED, "etcdserver: invalid auth token"},
		/* streams, likewise, also with HTTP status 200 */
		{503, "{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"etcdserver: no leader\",\"http_status\":\"Service Unavailable\"}}",
		ETCD_UNAVAILABLE, "etcdserver: no leader"},
		{200, "{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"etcdserver: no leader\",\"http_status\":\"Service Unavailable\"}}",
		ETCD_UNAVAILABLE, "etcdserver: no leader"},
		{200, "{\"error\":{\"code\":14, \"message\":\"etcdserver: no leader\", \"details\":[]}}",
		ETCD_UNAVAILABLE, "etcdserver: no leader"},
		/* no such path: not a lost lease */
		{404, "{\"code\":5, \"message\":\"Not Found\"}", ETCD_BAD_ANSWER,
		"HTTP status 404, and no answer of etcd's: {\"code\":5, \"message\":\"Not Found\"}"},
		{404, "Not Found\n", ETCD_BAD_ANSWER, "HTTP status 404, and no answer of etcd's: Not Found"},
		{404, "404 page not found\n", ETCD_BAD_ANSWER, "HTTP status 404, and no answer of etcd's: 404 page not found"},
		{404, "{\"message\":\"not here\"}", ETCD_BAD_ANSWER, "HTTP status 404, and no answer of etcd's: {\"message\":\"not here\"}"},
		{404, "{\"kind\":\"Status\",\"message\":\"no\",\"code\":404}", ETCD_BAD_ANSWER,
		"HTTP status 404, and no answer of etcd's: {\"kind\":\"Status\",\"message\":\"no\",\"code\":404}"},
		/* not etcd */
		{400, "etcdserver: an auth error\n", ETCD_BAD_ANSWER, "HTTP status 400, and no answer of etcd's: etcdserver: an auth error"},
		{200, "<html>\n<head>\t<title>Hi</title>", ETCD_BAD_ANSWER, "HTTP status 200, and no answer of etcd's: <html> <head> <title>Hi</title>"},
		{302, "", ETCD_BAD_ANSWER, "HTTP status 302, and no answer of etcd's"},
		{200, "", ETCD_BAD_ANSWER, "HTTP status 200, and no answer of etcd's"},
		{500, "\x01\xff\x7f \xc3\xa4\xc3", ETCD_BAD_ANSWER, "HTTP status 500, and no answer of etcd's: \xc3\xa4"},
		{502, "<html>Bad Gateway</html>", ETCD_UNAVAILABLE, "HTTP status 502, and no answer of etcd's: <html>Bad Gateway</html>"},
		{503, "<html>", ETCD_UNAVAILABLE, "HTTP status 503, and no answer of etcd's: <html>"},
		{504, "<html>", ETCD_DEADLINE_EXCEEDED, "HTTP status 504, and no answer of etcd's: <html>"},
		{429, "slow down", ETCD_RESOURCE_EXHAUSTED, "HTTP status 429, and no answer of etcd's: slow down"},
		{401, "who?", ETCD_UNAUTHENTICATED, "HTTP status 401, and no answer of etcd's: who?"},
		{403, "{}", ETCD_PERMISSION_DENIED, "HTTP status 403, and no answer of etcd's: {}"},
		/* codes that make no sense */
		{400, "{\"code\":0,\"message\":\"x\"}", ETCD_BAD_ANSWER, "HTTP status 400, and no answer of etcd's: {\"code\":0,\"message\":\"x\"}"},
		{400, "{\"code\":17,\"message\":\"x\"}", ETCD_BAD_ANSWER, "HTTP status 400, and no answer of etcd's: {\"code\":17,\"message\":\"x\"}"},
		{503, "{\"code\":\"x\",\"message\":\"x\"}", ETCD_UNAVAILABLE, "HTTP status 503, and no answer of etcd's: {\"code\":\"x\",\"message\":\"x\"}"},
		{400, "{\"code\":5.5,\"message\":\"x\"}", ETCD_BAD_ANSWER, "HTTP status 400, and no answer of etcd's: {\"code\":5.5,\"message\":\"x\"}"},
		{200, "{\"error\":7}", ETCD_BAD_ANSWER, "HTTP status 200, and no answer of etcd's: {\"error\":7}"},
		{200, "{\"error\":\"x\"}", ETCD_BAD_ANSWER, "HTTP status 200, and no answer of etcd's: {\"error\":\"x\"}"},
	};
	size_t		i;

	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
	{
		AnyResult	result;
		AnyResult	zero;
		EtcdError	err;

		memset(&zero, 0, sizeof(zero));
		ok(!decode(TXN, errors[i].body, errors[i].status, &result, &err), "error %d", (int) i);
		is_int(err.code, errors[i].code, "its code");
		is_string(err.message, errors[i].message, "its message");
		ok(memcmp(&result, &zero, sizeof(result.txn)) == 0, "nothing in the result");
	}
}

/* An error's HTTP status, also where the stream's own was 200. */
static void
test_http_status_of_errors(void)
{
	AnyResult	result;
	EtcdError	err;

	decode(WATCH, "{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"m\"}}", 0, &result, &err);
	is_int(err.http_status, 503, "status named by the error");
	decode(WATCH, "{\"error\":{\"code\":14,\"message\":\"m\"}}", 0, &result, &err);
	is_int(err.http_status, 200, "status of the stream");
	ok(err.code == ETCD_UNAVAILABLE, "code");
	decode(RANGE, "{\"code\":3,\"message\":\"m\"}", 400, &result, &err);
	is_int(err.http_status, 400, "status of the answer");
}

/* An answer that succeeds only by its body is not believed. */
static void
test_success_with_other_status(void)
{
	static const int statuses[] = {0, 100, 201, 204, 301, 400, 500, 503};
	size_t		i;

	for (i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
	{
		AnyResult	result;
		EtcdError	err;

		ok(!decode(TXN, TXN34, statuses[i], &result, &err), "HTTP status %d", statuses[i]);
	}
}

static void
test_long_messages(void)
{
	char		body[2000];
	char		text[1000];
	AnyResult	result;
	EtcdError	err;
	int			shift;
	int			i;

	for (shift = 0; shift < 4; shift++)
	{
		memset(text, 'x', (size_t) shift);
		for (i = 0; i < 150; i++)
			memcpy(text + shift + i * 4, "\xf0\x9f\x94\x92", 5);
		snprintf(body, sizeof(body), "{\"code\":3,\"message\":\"%s\"}", text);
		decode(RANGE, body, 400, &result, &err);
		ok(strlen(err.message) == (size_t) (252 + (shift == 3 ? 3 : shift)) &&
		   strncmp(err.message, text, strlen(err.message)) == 0,
		   "cut between characters, %d bytes before them", shift);
	}
}

/* What PostgreSQL would refuse as UTF-8 must not get into a message. */
static void
test_invalid_utf8(void)
{
	static const char *const wrong[] = {
		"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xed\xa0\x80",
		"\xed\xbf\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
		"\xf8\x88\x80\x80\x80", "\x80", "\xbf", "\xc3", "\xe2\x82", "\xf0\x9f\x94",
		"\xc2\x85", "\x1b[0m", "\x7f",
	};
	static const char *const right[] = {
		"\xc2\xa0", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
		"\xef\xbf\xbd", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf",
	};
	char		body[100];
	AnyResult	result;
	EtcdError	err;
	size_t		i;

	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		snprintf(body, sizeof(body), "{\"code\":3,\"message\":\"a%.4sb\"}", wrong[i]);
		decode(RANGE, body, 400, &result, &err);
		ok(strncmp(err.message, "a ", 2) == 0 && err.message[strlen(err.message) - 1] == 'b' &&
		   strpbrk(err.message, "\x1b\x7f\x80\x85\xa0\xbf\xc0\xc1\xc2\xc3\xe0\xe2\xed\xf0\xf4\xf8") == NULL,
		   "invalid character %d left out", (int) i);
	}
	for (i = 0; i < sizeof(right) / sizeof(right[0]); i++)
	{
		char		expected[20];

		snprintf(body, sizeof(body), "{\"code\":3,\"message\":\"a%sb\"}", right[i]);
		snprintf(expected, sizeof(expected), "a%sb", right[i]);
		decode(RANGE, body, 400, &result, &err);
		is_string(err.message, expected, "valid character kept");
	}
}

/*
 * Bad answers
 */

#define KV(members) "{" HEADER34 ",\"kvs\":[{" members "}],\"count\":\"1\"}"
#define REVS "\"create_revision\":\"2\",\"mod_revision\":\"3\""
#define RESPONSES(list) "{" HEADER34 ",\"responses\":" list "}"
#define EVENTS(list) "{\"result\":{" HEADER34 ",\"events\":" list "}}"

static const struct
{
	Kind		kind;
	const char *body;
}			bad[] =
{
	/* the whole */
	{RANGE, "{}"}, {TXN, "{}"}, {LEASE, "{}"}, {LEASES, "{}"}, {STATUS, "{}"}, {HEADER, "{}"}, {WATCH, "{}"},
	{RANGE, "[]"}, {RANGE, "null"}, {RANGE, "\"\""}, {RANGE, "1"}, {RANGE, "true"},
	{RANGE, "{" HEADER34 "} x"}, {RANGE, "{" HEADER34 "}{" HEADER34 "}"}, {RANGE, "x{" HEADER34 "}"},
	{RANGE, "\xef\xbb\xbfx{" HEADER34 "}"}, {RANGE, "{" HEADER34 ",}"}, {RANGE, "{" HEADER34 ",\"a\":1,"},
	{RANGE, "{\"result\":7," HEADER34 "}"}, {RANGE, "{\"result\":[{" HEADER34 "}]}"}, {WATCH, "{\"result\":{}}"},
	/* the header */
	{RANGE, "{\"header\":{}}"}, {RANGE, "{\"header\":[]}"}, {RANGE, "{\"header\":null}"}, {RANGE, "{\"header\":\"\"}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\"}}"}, {TXN, "{\"header\":{\"cluster_id\":\"1\"}}"},
	{RANGE, "{\"header\":{\"revision\":\"1\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"-1\"}}"},
	{WATCH, "{\"result\":{\"header\":{\"cluster_id\":\"1\",\"revision\":\"-1\"}}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"-1\",\"revision\":\"1\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":-1,\"revision\":\"1\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"18446744073709551616\",\"revision\":\"1\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"9223372036854775808\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":9007199254740993}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":9007199254740992}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":1e300}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":1.5}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"1.0\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"1 \"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\" 1\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"+1\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"--1\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"-\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"0x1\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"1e3\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":true}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":[\"1\"]}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"1\\u0000\"}}"},
	{RANGE, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"1\"},\"x\":\"\\\\\\u0000\"}"},
	/* keys */
	{RANGE, "{" HEADER34 ",\"kvs\":{},\"count\":\"1\"}"}, {RANGE, "{" HEADER34 ",\"kvs\":[7],\"count\":\"1\"}"},
	{RANGE, "{" HEADER34 ",\"kvs\":[null],\"count\":\"1\"}"}, {RANGE, "{" HEADER34 ",\"kvs\":\"\"}"},
	{RANGE, "{" HEADER34 ",\"more\":\"true\"}"}, {RANGE, "{" HEADER34 ",\"more\":1}"},
	{RANGE, "{" HEADER34 ",\"kvs\":[" KEY34 "]}"}, {RANGE, "{" HEADER34 ",\"kvs\":[" KEY34 "],\"count\":\"0\"}"},
	{RANGE, "{" HEADER34 ",\"count\":\"-1\"}"},
	{RANGE, KV(REVS)}, {RANGE, KV(REVS ",\"key\":\"\"")}, {RANGE, KV(REVS ",\"key\":null")},
	{RANGE, KV(REVS ",\"key\":7")}, {RANGE, KV(REVS ",\"key\":\"YQ\"")}, {RANGE, KV(REVS ",\"key\":\"Y===\"")},
	{RANGE, KV(REVS ",\"key\":\"YR==\"")}, {RANGE, KV(REVS ",\"key\":\"Y Q=\"")},
	{RANGE, KV(REVS ",\"key\":\"YQ==\\u0000\"")}, {RANGE, KV(REVS ",\"key\":\"YQ==\",\"value\":\"!\"")},
	{RANGE, KV(REVS ",\"key\":\"YQ==\",\"value\":7")}, {RANGE, KV(REVS ",\"key\":\"YQ==\",\"lease\":\"x\"")},
	{RANGE, KV("\"key\":\"YQ==\"")}, {RANGE, KV("\"key\":\"YQ==\",\"create_revision\":\"2\"")},
	{RANGE, KV("\"key\":\"YQ==\",\"mod_revision\":\"2\"")},
	{RANGE, KV("\"key\":\"YQ==\",\"create_revision\":\"2\",\"mod_revision\":\"1\"")},
	{RANGE, KV("\"key\":\"YQ==\",\"create_revision\":\"-2\",\"mod_revision\":\"1\"")},
	/* Txns */
	{TXN, RESPONSES("{}")}, {TXN, RESPONSES("[{}]")}, {TXN, RESPONSES("[null]")}, {TXN, RESPONSES("[7]")},
	{TXN, RESPONSES("[[]]")}, {TXN, RESPONSES("[{\"response_put\":null}]")}, {TXN, RESPONSES("[{\"response_put\":[]}]")},
	{TXN, RESPONSES("[{\"response_range\":7}]")}, {TXN, RESPONSES("[{\"response_txn\":{}}]")},
	{TXN, RESPONSES("[{\"response_put\":{},\"response_range\":{}}]")},
	{TXN, RESPONSES("[{\"response_range\":{\"kvs\":[" KEY34 ",{}],\"count\":\"2\"}}]")},
	{TXN, RESPONSES("[{\"response_range\":{\"kvs\":[" KEY34 "],\"count\":\"1\"}},{\"response_nope\":{}}]")},
	{TXN, RESPONSES("[{\"response_delete_range\":{\"deleted\":\"x\"}}]")},
	{TXN, RESPONSES("[{\"response_delete_range\":{\"deleted\":\"-1\"}}]")},
	{TXN, "{" HEADER34 ",\"succeeded\":\"true\"}"},
	/* leases */
	{LEASE, "{" HEADER34 "}"}, {LEASE, "{" HEADER34 ",\"ID\":\"0\",\"TTL\":\"5\"}"}, {LEASE, "{" HEADER34 ",\"ID\":\"x\"}"},
	{LEASE, "{\"ID\":\"5\",\"TTL\":\"5\"}"}, {LEASE, "{" HEADER34 ",\"ID\":\"5\",\"TTL\":\"5s\"}"},
	{LEASE, "{" HEADER34 ",\"ID\":\"5\",\"keys\":[7]}"}, {LEASE, "{" HEADER34 ",\"ID\":\"5\",\"keys\":[\"YQ==\",\"\"]}"},
	{LEASE, "{" HEADER34 ",\"ID\":\"5\",\"keys\":[\"YQ==\",\"?\"]}"}, {LEASE, "{" HEADER34 ",\"ID\":\"5\",\"keys\":\"YQ==\"}"},
	{LEASE, "{" HEADER34 ",\"ID\":\"5\",\"TTL\":\"30\",\"error\":\"went wrong\"}"},
	{LEASES, "{" HEADER34 ",\"leases\":[{}]}"}, {LEASES, "{" HEADER34 ",\"leases\":[\"5\"]}"},
	{LEASES, "{" HEADER34 ",\"leases\":[{\"ID\":\"5\"},{\"ID\":\"5x\"}]}"}, {LEASES, "{" HEADER34 ",\"leases\":7}"},
	/* status */
	{STATUS, "{" HEADER34 "}"}, {STATUS, "{" HEADER34 ",\"version\":3}"},
	{STATUS, "{" HEADER34 ",\"version\":\"3.4.23\",\"dbSize\":\"big\"}"},
	{STATUS, "{" HEADER34 ",\"version\":\"3.4.23\",\"leader\":\"-1\"}"},
	{STATUS, "{" HEADER34 ",\"version\":\"3.4.23\",\"errors\":[\"a\",7]}"},
	{STATUS, "{" HEADER34 ",\"version\":\"3.4.23\",\"errors\":\"a\"}"},
	/* watches */
	{WATCH, "{\"result\":{\"created\":true}}"}, {WATCH, "{\"result\":{" HEADER34 ",\"created\":1}}"},
	{WATCH, "{\"result\":{" HEADER34 ",\"canceled\":\"\"}}"}, {WATCH, "{\"result\":{" HEADER34 ",\"cancel_reason\":1}}"},
	{WATCH, "{\"result\":{" HEADER34 ",\"compact_revision\":\"z\"}}"},
	{WATCH, EVENTS("{}")}, {WATCH, EVENTS("[{}]")}, {WATCH, EVENTS("[7]")}, {WATCH, EVENTS("[{\"kv\":7}]")},
	{WATCH, EVENTS("[{\"kv\":{}}]")}, {WATCH, EVENTS("[{\"type\":\"GONE\",\"kv\":" KEY34 "}]")},
	{WATCH, EVENTS("[{\"type\":1,\"kv\":" KEY34 "}]")}, {WATCH, EVENTS("[{\"kv\":{\"key\":\"YQ==\",\"mod_revision\":\"4\"}}]")},
	{WATCH, EVENTS("[{\"type\":\"DELETE\",\"kv\":{\"key\":\"YQ==\"}}]")},
	{WATCH, EVENTS("[{\"type\":\"DELETE\",\"kv\":{\"key\":\"YQ==\",\"mod_revision\":\"-4\"}}]")},
	{WATCH, EVENTS("[{\"kv\":" KEY34 "},{\"type\":\"DELETE\",\"kv\":{\"mod_revision\":\"4\"}}]")},
	/* 2^43, behind the greatest revision; a lease of 300 years */
	{HEADER, "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"8796093022208\"}}"},
	{RANGE, "{" HEADER34 ",\"kvs\":[{\"key\":\"YQ==\",\"create_revision\":\"1\",\"mod_revision\":\"8796093022208\"}],\"count\":\"1\"}"},
	{WATCH, EVENTS("[{\"type\":\"DELETE\",\"kv\":{\"key\":\"YQ==\",\"mod_revision\":\"8796093022208\"}}]")},
	{LEASE, "{" HEADER34 ",\"ID\":\"1\",\"TTL\":\"9000000001\"}"},
};

static void
test_bad(void)
{
	size_t		i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		AnyResult	result;
		EtcdError	err;
		bool		accepted = decode(bad[i].kind, bad[i].body, 200, &result, &err);

		if (!ok(!accepted && err.code == ETCD_BAD_ANSWER && err.message[0] != '\0',
				"bad answer %d", (int) i))
			diag("%s", bad[i].body);
		if (accepted)
			free_result(bad[i].kind, &result);
	}
}

/*
 * Real answers, cut and damaged
 */

static const struct
{
	Kind		kind;
	const char *body;
}			whole[] =
{
	{RANGE, "{" HEADER34 ",\"kvs\":[" KEY34 "," KEY35 "],\"more\":true,\"count\":\"2\"}"},
	{TXN, TXN34}, {TXN, TXN35}, {LEASE, KEEPALIVE34}, {LEASE, TTL34}, {LEASES, LEASES34},
	{STATUS, STATUS34}, {STATUS, STATUS_ERRORS}, {HEADER, "{" HEADER35 "}"}, {AUTH, AUTH34}, {AUTH, AUTH35}, {WATCH, EVENTS34},
};

#define N_WHOLE (sizeof(whole) / sizeof(whole[0]))

static size_t
length_without_space(const char *text)
{
	size_t		len = strlen(text);

	while (len > 0 && text[len - 1] == '\n')
		len--;
	return len;
}

static void
test_truncated(void)
{
	size_t		i;

	for (i = 0; i < N_WHOLE; i++)
	{
		size_t		len = length_without_space(whole[i].body);
		size_t		cut;
		bool		refused = true;
		AnyResult	result;
		EtcdError	err;

		for (cut = 0; cut < len; cut++)
			refused = refused &&
				!decode_bytes(whole[i].kind, whole[i].body, cut, 200, &result, &err) &&
				err.code == ETCD_BAD_ANSWER;
		ok(refused, "answer %d cut at every byte is refused", (int) i);
		ok(decode(whole[i].kind, whole[i].body, 200, &result, &err), "and is good when whole");
		free_result(whole[i].kind, &result);
	}
}

/*
 * Every byte replaced, left out and doubled: nothing must crash, and what is
 * refused must say so.
 */
static void
test_damaged(void)
{
	static const char with[] = "\0\"\\{}[],:0-xu\xff ";
	size_t		i;

	for (i = 0; i < N_WHOLE; i++)
	{
		const char *body = whole[i].body;
		size_t		len = strlen(body);
		char	   *copy = malloc(len + 1);
		bool		sane = true;
		size_t		at;
		size_t		w;

		for (at = 0; at < len; at++)
			for (w = 0; w < sizeof(with) + 1; w++)
			{
				AnyResult	result;
				EtcdError	err;
				size_t		copy_len = len;

				memcpy(copy, body, len);
				if (w < sizeof(with) - 1)
					copy[at] = with[w];
				else if (w == sizeof(with) - 1)
				{
					memmove(copy + at, copy + at + 1, len - at - 1);
					copy_len--;
				}
				else
				{
					memmove(copy + at + 1, copy + at, len - at);
					copy_len++;
				}
				if (decode_bytes(whole[i].kind, copy, copy_len, 200, &result, &err))
					free_result(whole[i].kind, &result);
				else
					sane = sane && err.code != 0 && err.message[0] != '\0' &&
						memchr(err.message, '\0', sizeof(err.message)) != NULL;
			}
		ok(sane, "answer %d damaged at every byte", (int) i);
		free(copy);
	}
}

static void
test_deep_nesting(void)
{
	size_t		depth = 200000;
	char	   *body = malloc(depth * 6 + 10);
	size_t		i;
	AnyResult	result;
	EtcdError	err;

	strcpy(body, "{\"a\":");
	memset(body + 5, '[', depth);
	memset(body + 5 + depth, ']', depth);
	strcpy(body + 5 + 2 * depth, "}");
	ok(!decode(RANGE, body, 200, &result, &err) && err.code == ETCD_BAD_ANSWER, "nested arrays");
	for (i = 0; i < depth; i++)
		memcpy(body + i * 5, "{\"a\":", 5);
	memset(body + depth * 5, '}', depth);
	body[depth * 6] = '\0';
	ok(!decode(RANGE, body, 200, &result, &err) && err.code == ETCD_BAD_ANSWER, "nested objects");
	free(body);
}

static long
peak_kb(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_maxrss;
}

/* Small values take many times their length in memory, unless refused first. */
static void
test_many_values(void)
{
	static const char *const values[] = {"0,", "[],", "{},", "\"\","};
	const size_t size = 16 * 1024 * 1024;
	char	   *body = malloc(size + 100);
	size_t		i;

	memset(body, ' ', size + 100);
	for (i = 0; i < sizeof(values) / sizeof(values[0]); i++)
	{
		size_t		len = sprintf(body, "{" HEADER34 ",\"kvs\":[");
		long		before = peak_kb();
		AnyResult	result;
		EtcdError	err;

		while (len < size)
			len += sprintf(body + len, "%s", values[i]);
		len += sprintf(body + len, "0]}");
		ok(!etcd_decode_range(body, len, 200, &result.range, &err) &&
		   err.code == ETCD_BAD_ANSWER, "16 MB of %s refused", values[i]);
		ok(peak_kb() - before < 1024, "without reading them");
	}
	free(body);
}

static double
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

/* The usual large batch; its times are told, not judged. */
static void
test_batch(void)
{
	static const char value[] = "{\"server\":\"db1\",\"host\":\"db1.example.org\",\"pid\":12345,\"database\":\"app\",\"user\":\"app\"}";
	EtcdOp		ops[128];
	EtcdTxn		txn = {NULL, 0, ops, 128, NULL, 0};
	char		key[] = "locks/some/name/write/694d77aa9e38260f-00000001";
	char	   *body = NULL;
	char	   *answer = malloc(64 * 1024);
	double		start;
	AnyResult	result;
	EtcdError	err;
	int			i;
	bool		all_good = true;

	memset(ops, 0, sizeof(ops));
	for (i = 0; i < 128; i++)
	{
		ops[i].type = i % 2 == 0 ? ETCD_OP_PUT : ETCD_OP_RANGE;
		ops[i].range = (EtcdRange) {key, sizeof(key) - 1, i % 2 == 0 ? NULL : "locks/some/name0", 16};
		ops[i].value = value;
		ops[i].value_len = sizeof(value) - 1;
		ops[i].lease = 1234567890123456789;
	}
	start = now_ms();
	for (i = 0; i < 100; i++)
	{
		free(body);
		body = etcd_encode_txn(&txn);
	}
	diag("encoding 64 x (put + range), %zu bytes: %.3f ms", strlen(body), (now_ms() - start) / 100);
	ok(strlen(body) > 10000, "a large Txn");
	free(body);

	strcpy(answer, "{" HEADER34 ",\"succeeded\":true,\"responses\":[");
	for (i = 0; i < 64; i++)
		strcat(answer, "{\"response_put\":{\"header\":{\"revision\":\"4\"}}},"
			   "{\"response_range\":{\"header\":{\"revision\":\"4\"},\"kvs\":[" KEY34 "],\"count\":\"1\"}},");
	answer[strlen(answer) - 1] = '\0';
	strcat(answer, "]}");
	start = now_ms();
	for (i = 0; i < 100; i++)
	{
		all_good = decode(TXN, answer, 200, &result, &err) && result.txn.nresults == 128 && all_good;
		free_result(TXN, &result);
	}
	diag("decoding its answer, %zu bytes: %.3f ms", strlen(answer), (now_ms() - start) / 100);
	ok(all_good, "its answer");
	free(answer);
}

int
main(void)
{
	test_encode_range();
	test_encode_txn();
	test_encode_others();
	test_encode_long_value();
	test_encode_long_password();
	test_range();
	test_keys_of_any_bytes();
	test_txn();
	test_leases();
	test_status();
	test_auth();
	test_watch();
	test_errors();
	test_http_status_of_errors();
	test_success_with_other_status();
	test_long_messages();
	test_invalid_utf8();
	test_bad();
	test_truncated();
	test_damaged();
	test_deep_nesting();
	test_many_values();
	test_batch();
	return done_testing();
}
