/*-------------------------------------------------------------------------
 *
 * etcd_api.h
 *	  etcd's v3 API as plain structs: what is asked and what is answered.
 *
 * Nothing outside etcd_encode.c, etcd_decode.c, etcd_json.c, etcd_base64.c and
 * etcd_stream.c knows that etcd speaks JSON and base64, and nothing in there
 * knows PostgreSQL or curl, so unit tests and fuzzers link these files alone.
 *
 * Memory is malloc's: an encoder returns a NUL-terminated request body that
 * the caller frees, or NULL when memory is exhausted; a decoder fills a result
 * that the matching _free function releases (safe on a zeroed or already freed
 * result).
 *
 * Both generations of etcd's gateway are understood: int64 values arrive as
 * strings or numbers, zero, false and empty fields may be missing, unknown
 * fields are ignored.  A decoder never believes an answer that it does not
 * understand: it returns false with code ETCD_BAD_ANSWER.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_API_H
#define ETCD_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Paths of the gateway, all of them called with POST. */
#define ETCD_PATH_RANGE				"/v3/kv/range"
#define ETCD_PATH_TXN				"/v3/kv/txn"
#define ETCD_PATH_LEASE_GRANT		"/v3/lease/grant"
#define ETCD_PATH_LEASE_REVOKE		"/v3/lease/revoke"
#define ETCD_PATH_LEASE_KEEPALIVE	"/v3/lease/keepalive"
#define ETCD_PATH_LEASE_TIMETOLIVE	"/v3/lease/timetolive"
#define ETCD_PATH_LEASE_LEASES		"/v3/lease/leases"
#define ETCD_PATH_WATCH				"/v3/watch"
#define ETCD_PATH_STATUS			"/v3/maintenance/status"
#define ETCD_PATH_AUTHENTICATE		"/v3/auth/authenticate"

/*
 * Outcome of a request: gRPC's status codes as etcd uses them, and one of our
 * own for answers that are no answer of etcd's (HTML, broken JSON, a missing
 * field).
 *
 * NOT_FOUND always is a word of etcd's: a 404 for a path that the server does
 * not know is a bad answer, so that it never looks like a lost lease.
 */
typedef enum EtcdCode
{
	ETCD_OK = 0,
	ETCD_UNKNOWN = 2,
	ETCD_INVALID_ARGUMENT = 3,
	ETCD_DEADLINE_EXCEEDED = 4,
	ETCD_NOT_FOUND = 5,
	ETCD_PERMISSION_DENIED = 7,
	ETCD_RESOURCE_EXHAUSTED = 8,
	ETCD_FAILED_PRECONDITION = 9,
	ETCD_OUT_OF_RANGE = 11,
	ETCD_UNAVAILABLE = 14,
	ETCD_UNAUTHENTICATED = 16,
	ETCD_BAD_ANSWER = 100
} EtcdCode;

#define ETCD_MESSAGE_SIZE 256

/*
 * What no etcd comes near; an answer that goes beyond is not believed.
 * Revisions: 14 years of 20,000 writes a second, and all that a token can hold.
 * Seconds of a lease: etcd's own limit.
 */
#define ETCD_MAX_REVISION	((INT64_C(1) << 43) - 1)
#define ETCD_MAX_TTL		INT64_C(9000000000)

typedef struct EtcdError
{
	int			code;			/* EtcdCode, or another gRPC code */
	int			http_status;
	char		message[ETCD_MESSAGE_SIZE]; /* printable, NUL-terminated, cut
											 * between UTF-8 characters */
} EtcdError;

/* The header that every answer carries. */
typedef struct EtcdHeader
{
	uint64_t	cluster_id;
	uint64_t	member_id;
	int64_t		revision;
	uint64_t	raft_term;
} EtcdHeader;

/* A key, or with "end" the range [key, end).  Bytes, not NUL-terminated. */
typedef struct EtcdRange
{
	const char *key;
	size_t		key_len;
	const char *end;			/* NULL: the one key */
	size_t		end_len;		/* not 0: etcd would take that for "no end" */
} EtcdRange;

typedef enum EtcdOpType
{
	ETCD_OP_RANGE,
	ETCD_OP_PUT,
	ETCD_OP_DELETE
} EtcdOpType;

/* One operation of a Txn. */
typedef struct EtcdOp
{
	EtcdOpType	type;
	EtcdRange	range;			/* put: the key only */
	/* put */
	const char *value;
	size_t		value_len;
	int64_t		lease;			/* 0: none */
	/* range */
	bool		keys_only;		/* answers carry no values */
	int64_t		limit;			/* 0: no limit */
	int64_t		revision;		/* as of then; 0: as it is */
} EtcdOp;

typedef enum EtcdCompareTarget
{
	ETCD_COMPARE_CREATE,		/* create_revision */
	ETCD_COMPARE_MOD			/* mod_revision */
} EtcdCompareTarget;

typedef enum EtcdCompareResult
{
	ETCD_COMPARE_EQUAL,
	ETCD_COMPARE_GREATER,
	ETCD_COMPARE_LESS
} EtcdCompareResult;

/*
 * One condition of a Txn.  Over a range it must hold for every key in it; a
 * missing key and an empty range count as one key with revisions 0.
 */
typedef struct EtcdCompare
{
	EtcdCompareTarget target;
	EtcdCompareResult result;
	EtcdRange	range;
	int64_t		revision;
} EtcdCompare;

typedef struct EtcdTxn
{
	const EtcdCompare *compare;
	int			ncompare;
	const EtcdOp *success;
	int			nsuccess;
	const EtcdOp *failure;
	int			nfailure;
} EtcdTxn;

typedef struct EtcdKeyValue
{
	char	   *key;			/* NUL behind the last byte; may hold others */
	size_t		key_len;
	char	   *value;			/* likewise; never NULL */
	size_t		value_len;
	int64_t		create_revision;
	int64_t		mod_revision;
	int64_t		lease;			/* 0: none */
} EtcdKeyValue;

typedef struct EtcdOpResult
{
	EtcdOpType	type;
	int			nkvs;			/* range */
	EtcdKeyValue *kvs;
	bool		more;			/* range: the limit cut the answer */
	int64_t		count;			/* range: keys in it, whatever the limit */
	int64_t		deleted;		/* delete: how many keys */
} EtcdOpResult;

typedef struct EtcdTxnResult
{
	EtcdHeader	header;
	bool		succeeded;		/* which branch ran */
	int			nresults;		/* one for each operation of that branch; the
								 * decoder cannot know how many were sent, so
								 * the caller checks number and types */
	EtcdOpResult *results;
} EtcdTxnResult;

typedef struct EtcdRangeResult
{
	EtcdHeader	header;
	EtcdOpResult range;			/* type ETCD_OP_RANGE */
} EtcdRangeResult;

/* Answer to grant, keepalive and timetolive. */
typedef struct EtcdLeaseResult
{
	EtcdHeader	header;
	int64_t		id;
	int64_t		ttl;			/* seconds; 0 or less: no such lease */
	int64_t		granted_ttl;	/* timetolive: as granted */
	int			nkeys;			/* timetolive with keys */
	EtcdKeyValue *keys;			/* names only, all else 0 */
} EtcdLeaseResult;

typedef struct EtcdLeasesResult
{
	EtcdHeader	header;
	int			nids;
	int64_t    *ids;
} EtcdLeasesResult;

typedef struct EtcdStatusResult
{
	EtcdHeader	header;
	char		version[32];
	int64_t		db_size;		/* bytes */
	int64_t		db_size_in_use;
	int64_t		db_quota;		/* 0: not told (before 3.6) */
	uint64_t	leader;			/* 0: none known */
	int			nerrors;		/* alarms and the like, as etcd words them */
	char	  **errors;
} EtcdStatusResult;

typedef struct EtcdAuthResult
{
	EtcdHeader	header;
	char	   *token;			/* printable, without spaces; a secret */
} EtcdAuthResult;

typedef enum EtcdEventType
{
	ETCD_EVENT_PUT,
	ETCD_EVENT_DELETE
} EtcdEventType;

typedef struct EtcdEvent
{
	EtcdEventType type;
	EtcdKeyValue kv;			/* a DELETE has key and mod_revision only */
} EtcdEvent;

/* One message of a watch stream. */
typedef struct EtcdWatchMessage
{
	EtcdHeader	header;
	bool		created;		/* the watch is set up: events from now on */
	bool		canceled;		/* no event will follow */
	int64_t		compact_revision;
	char		cancel_reason[ETCD_MESSAGE_SIZE];
	int			nevents;
	EtcdEvent  *events;
} EtcdWatchMessage;

/* Encoders. */
extern char *etcd_encode_range(const EtcdOp *op);
extern char *etcd_encode_txn(const EtcdTxn *txn);
extern char *etcd_encode_lease_grant(int64_t id, int64_t ttl_seconds);
extern char *etcd_encode_lease_id(int64_t id);	/* revoke and keepalive */
extern char *etcd_encode_lease_timetolive(int64_t id, bool keys);
extern char *etcd_encode_empty(void);	/* leases and status: "{}" */
extern char *etcd_encode_watch_create(const EtcdRange *range, bool deletes_only);
extern char *etcd_encode_auth(const char *name, const char *password);	/* a secret */

/*
 * Decoders: body and status of an answer to a unary request (keepalive too:
 * its single answer is wrapped in "result").  False: *err says what etcd
 * answered, or what is wrong with the answer, and *result holds nothing.
 */
extern bool etcd_decode_range(const char *body, size_t len, int http_status,
							  EtcdRangeResult *result, EtcdError *err);
extern bool etcd_decode_txn(const char *body, size_t len, int http_status,
							EtcdTxnResult *result, EtcdError *err);
/*
 * A range that was sent without a Txn around it, which is cheaper; the result
 * is what a Txn with this one operation would have.
 */
extern bool etcd_decode_single_range(const char *body, size_t len, int http_status,
									 EtcdTxnResult *result, EtcdError *err);
extern bool etcd_decode_lease(const char *body, size_t len, int http_status,
							  EtcdLeaseResult *result, EtcdError *err);
extern bool etcd_decode_leases(const char *body, size_t len, int http_status,
							   EtcdLeasesResult *result, EtcdError *err);
extern bool etcd_decode_status(const char *body, size_t len, int http_status,
							   EtcdStatusResult *result, EtcdError *err);

/* An error never tells what the body was, which may repeat the password. */
extern bool etcd_decode_auth(const char *body, size_t len, int http_status,
							 EtcdAuthResult *result, EtcdError *err);

/* An answer of which only the success matters (revoke). */
extern bool etcd_decode_header(const char *body, size_t len, int http_status,
							   EtcdHeader *header, EtcdError *err);

/* One message that etcd_stream.c has cut out of a watch's answer. */
extern bool etcd_decode_watch(const char *message, size_t len,
							  EtcdWatchMessage *result, EtcdError *err);

extern void etcd_range_result_free(EtcdRangeResult *result);
extern void etcd_txn_result_free(EtcdTxnResult *result);
extern void etcd_lease_result_free(EtcdLeaseResult *result);
extern void etcd_leases_result_free(EtcdLeasesResult *result);
extern void etcd_status_result_free(EtcdStatusResult *result);
extern void etcd_auth_result_free(EtcdAuthResult *result);
extern void etcd_watch_message_free(EtcdWatchMessage *result);

#endif							/* ETCD_API_H */
