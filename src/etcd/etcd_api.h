/*-------------------------------------------------------------------------
 *
 * etcd_api.h
 *	  etcd's v3 API as plain structs: requests and responses.
 *
 * Only etcd_request.c and etcd_response.c know the format on the wire, and
 * they do not depend on PostgreSQL or the network, so unit tests and fuzzers
 * link these files alone.
 *
 * Memory is allocated with malloc().
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_API_H
#define ETCD_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Outcome of a request: gRPC's status codes as etcd uses them, and one of our
 * own for something that is not a response of etcd (HTML, a broken message, a
 * missing field).
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
	ETCD_BAD_RESPONSE = 100
} EtcdCode;

#define ETCD_MESSAGE_SIZE 256

/*
 * Limits that no etcd comes near; a response beyond them is not believed.  The
 * highest revision is that of 14 years with 20,000 writes a second, and the
 * most that a token can hold.  The longest TTL, in seconds, is etcd's own
 * limit.
 */
#define ETCD_MAX_REVISION	((INT64_C(1) << 43) - 1)
#define ETCD_MAX_TTL		INT64_C(9000000000)

typedef struct EtcdError
{
	int			code;			/* EtcdCode, or another gRPC code */
	char		message[ETCD_MESSAGE_SIZE]; /* printable, NUL-terminated, cut
											 * between UTF-8 characters */
} EtcdError;

/* The header of every response. */
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
	const char *end;			/* NULL: only the key */
	size_t		end_len;		/* not 0: etcd would take that for "no end" */
} EtcdRange;

typedef enum EtcdOpType
{
	ETCD_OP_RANGE,
	ETCD_OP_PUT,
	ETCD_OP_DELETE,
	ETCD_OP_TXN					/* a nested Txn */
} EtcdOpType;

/*
 * How deep Txns may be nested, including the outermost one.  Etcd evaluates
 * the compares of all levels before any operation: two nested puts that
 * exclude each other by their compares both run.
 */
#define ETCD_MAX_TXN_DEPTH	4

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
	bool		keys_only;		/* the response has no values */
	int64_t		limit;			/* 0: no limit */
	int64_t		revision;		/* as of this revision; 0: the current one */
	/* txn */
	const struct EtcdTxn *txn;
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
	char	   *key;			/* NUL-terminated, but may contain other NULs */
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
	bool		more;			/* range: the limit cut the result */
	int64_t		count;			/* range: keys in it, regardless of the limit */
	int64_t		deleted;		/* delete: how many keys */
	bool		succeeded;		/* txn: which of its branches ran */
	int			nresults;		/* txn: one for each operation of it */
	struct EtcdOpResult *results;
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

/* A key of which only the name is told. */
typedef struct EtcdKeyName
{
	const char *key;			/* in the response, as long as that lives; no
								 * NUL ends it */
	size_t		key_len;
} EtcdKeyName;

/* Response to grant, keepalive and timetolive. */
typedef struct EtcdLeaseResult
{
	EtcdHeader	header;
	int64_t		id;
	int64_t		ttl;			/* seconds; 0 or less: no such lease */
	int			nkeys;			/* timetolive with keys */
	EtcdKeyName *keys;
} EtcdLeaseResult;

typedef struct EtcdStatusResult
{
	EtcdHeader	header;
	char		version[32];
	int64_t		db_size;		/* bytes */
	int64_t		db_size_in_use;
	int64_t		db_quota;		/* 0: unknown (before 3.6) */
	uint64_t	leader;			/* 0: none known */
	bool		is_learner;		/* does not vote yet, and grants no leases */
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
	EtcdKeyValue kv;			/* a DELETE has only key and mod_revision */
} EtcdEvent;

/* One message of a watch stream. */
typedef struct EtcdWatchMessage
{
	EtcdHeader	header;
	int64_t		watch_id;		/* the one that the watch was created with */
	bool		created;		/* the watch is set up: events from now on */
	bool		canceled;		/* no event will follow */
	int64_t		compact_revision;
	char		cancel_reason[ETCD_MESSAGE_SIZE];
	int			nevents;
	EtcdEvent  *events;
} EtcdWatchMessage;

#endif							/* ETCD_API_H */
