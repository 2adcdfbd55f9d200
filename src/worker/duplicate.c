/*-------------------------------------------------------------------------
 *
 * duplicate.c
 *	  Detecting another live primary with our system identifier.
 *
 * A copy of a server, made from a base backup or a snapshot, also has its
 * settings: it comes up with the same endpoints and names, and takes the locks
 * and claims the ticks of the server that it was copied from.  So a primary
 * registers below its system identifier, with a key on its lease, and checks
 * who else is registered there: a system can have many standbys, but only one
 * live primary.
 *
 * The one that registered later is the duplicate.  With
 * etcd_lock.duplicate_primary set to "refuse", its sessions get no locks, and
 * no session gets one before its server has checked.
 *
 * A killed server leaves its key until its lease ends, and must not warn about
 * itself: so there is no warning before the other key has been there for some
 * time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "client/link.h"
#include "etcd/etcd_holder.h"
#include "etcd/key_layout.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "shared/clock.h"
#include "shared/deadline.h"
#include "shared/lease_id.h"
#include "shared/link_status.h"
#include "shared/lock_table.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/context.h"
#include "worker/duplicate.h"
#include "worker/key_value.h"
#include "worker/lease.h"

/* How often to check if all is well, and if it is not; microseconds. */
#define LOOK_INTERVAL	INT64CONST(10000000)
#define LOOK_AGAIN		INT64CONST(1000000)

/*
 * How long another key must be seen before it counts as that of a live server,
 * in addition to the TTL of its lease; and the longest TTL that we assume if
 * it was not our former self that left the key.
 */
#define GRACE			INT64CONST(2000000)
#define LONGEST_TTL		INT64CONST(10000000)

#define REPEAT_LOG		INT64CONST(3600000000)

/* How many registered servers are considered. */
#define MAX_SEEN		16

/* Foreign clients may put values of any size there; bytes. */
#define MAX_RESPONSE	(1024 * 1024)

struct Duplicate
{
	bool		busy;			/* a request of ours is in flight */
	int64		looked_lease;	/* our lease at the last check */
	int64		next_time;		/* clock_now() */
	int64		error_logged_at;

	int64		other_lease;	/* of the other server; 0: there is none */
	int64		other_since;	/* clock_now() */
	bool		told;
	int64		told_at;
};

#define MyDuplicate (MyWorker->duplicate)

void
duplicate_create(void)
{
	MyDuplicate = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Duplicate));
}

/*
 * Does this server check?  Standbys share their primary's system identifier.
 */
static bool
is_concerned(void)
{
	return lease_alive() && !MyWorker->stopping;
}

/* A standby may be promoted at any time without notice. */
int64
duplicate_next_time(void)
{
	if (MyDuplicate->busy || !is_concerned() || !link_ready())
		return PG_INT64_MAX;
	if (RecoveryInProgress())
		return clock_now() + LOOK_AGAIN;
	return MyDuplicate->looked_lease == lease_id() ? MyDuplicate->next_time : 0;
}

/* ----------------------------------------------------------------
 *		What was found
 * ----------------------------------------------------------------
 */

/* Did we, or our predecessor, leave it before we were started? */
static bool
is_former_self(const EtcdHolder *other)
{
	char	   *value = key_value_make(NULL, MyProcPid, GetCurrentTimestamp());
	EtcdHolder	own;
	bool		same;

	same = etcd_holder_decode(value, strlen(value), &own) &&
		strcmp(own.host, other->host) == 0 && own.port == other->port;
	pfree(value);
	return same;
}

static void
tell(EtcdHolder *other, bool is_later)
{
	char		which[LINK_DUPLICATE_SIZE];

	etcd_holder_printable(other->server);
	etcd_holder_printable(other->host);
	snprintf(which, sizeof(which), "server \"%s\", host \"%s\", port %d",
			 other->server, other->host, other->port);
	link_status_set_duplicate(which);
	if (MyDuplicate->told && clock_now() - MyDuplicate->told_at < REPEAT_LOG)
		return;
	MyDuplicate->told = true;
	MyDuplicate->told_at = clock_now();
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("etcd_lock: another live primary has this server's system identifier: %s", which),
			 errdetail_log("One of them is a copy of the other, as made by a base backup or a snapshot.  Both take locks and claim ticks under the same names.%s",
						   etcd_lock_duplicate_primary == DUPLICATE_PRIMARY_REFUSE && is_later ?
						   "  This server, which came later, takes none." : ""),
			 errhint("Stop the copy, or give it endpoints or a namespace of its own.")));
}

static void
no_other(void)
{
	if (MyDuplicate->told)
		ereport(LOG,
				(errmsg("etcd_lock: there is no other live primary with this server's system identifier any more")));
	link_status_set_duplicate("");
	MyDuplicate->told = false;
	MyDuplicate->other_lease = 0;
}

/* Returns the key of the earliest other primary, or NULL. */
static const EtcdKeyValue *
find_other(const EtcdOpResult *range, int64 *own_revision)
{
	const EtcdKeyValue *other = NULL;

	*own_revision = 0;
	for (int i = 0; i < range->nkvs; i++)
	{
		const EtcdKeyValue *kv = &range->kvs[i];

		if (kv->lease == lease_id())
			*own_revision = kv->create_revision;
		else if (kv->lease != 0 && !lease_id_is_own(kv->lease) &&
				 (other == NULL || kv->create_revision < other->create_revision))
			other = kv;
	}
	return other;
}

static void
compare(const EtcdOpResult *range, int64 put_revision)
{
	int64		own_revision;
	const EtcdKeyValue *other = find_other(range, &own_revision);
	bool		is_later;
	int64		ttl = (int64) etcd_lock_lease_ttl * 1000000;
	EtcdHolder	holder = {0};

	MyDuplicate->next_time = clock_now() + (other == NULL ? LOOK_INTERVAL : LOOK_AGAIN);
	if (own_revision == 0)
		own_revision = put_revision;
	is_later = other != NULL && other->create_revision < own_revision;
	pg_atomic_write_u64(&lock_shared->primary_lease, (uint64) lease_id());
	pg_atomic_write_u64(&lock_shared->duplicate_lease, is_later ? (uint64) lease_id() : 0);
	pg_atomic_write_u64(&lock_shared->single_lease, is_later ? 0 : (uint64) lease_id());
	if (other == NULL)
	{
		no_other();
		return;
	}
	if (other->lease != MyDuplicate->other_lease)
	{
		MyDuplicate->other_lease = other->lease;
		MyDuplicate->other_since = clock_now();
	}
	(void) etcd_holder_decode(other->value, other->value_len, &holder);
	if (!is_former_self(&holder))
		ttl = Min(ttl, LONGEST_TTL);
	if (clock_now() - MyDuplicate->other_since >= ttl + GRACE)
		tell(&holder, is_later);
}

/* ----------------------------------------------------------------
 *		The check
 * ----------------------------------------------------------------
 */

static void
report(const char *error)
{
	if (MyDuplicate->error_logged_at != 0 &&
		clock_now() - MyDuplicate->error_logged_at < REPEAT_LOG)
		return;
	MyDuplicate->error_logged_at = clock_now();
	ereport(LOG,
			(errmsg("etcd_lock: could not look for another primary with this server's system identifier: %s",
					error)));
}

/* Returns the keys that the Txn has read, or NULL if it is not the response to it. */
static const EtcdOpResult *
range_of(const EtcdTxnResult *result)
{
	int			i = result->succeeded ? 1 : 0;

	if (result->nresults != i + 1 || result->results[i].type != ETCD_OP_RANGE)
		return NULL;
	return &result->results[i];
}

static void
looked(void *arg, const EtcdResponse *response)
{
	EtcdTxnResult result;
	EtcdError	error;

	MyDuplicate->busy = false;
	MyDuplicate->next_time = clock_now() + LOOK_AGAIN;
	if ((uint64) (uintptr_t) arg != (uint64) lease_id() || !lease_alive())
		return;
	if (response->delivered || response->too_long)
		MyDuplicate->looked_lease = lease_id();
	if (response->too_long)
		report(response->error);
	if (!response->delivered)
		return;
	if (!etcd_response_txn(&response->reply, &result, &error))
	{
		/* No standby will find us, so sessions must not wait for that. */
		if (error.code == ETCD_PERMISSION_DENIED)
			pg_atomic_write_u64(&lock_shared->primary_lease, (uint64) lease_id());
		if (error.code != ETCD_NOT_FOUND)	/* the lease has just ended */
			report(error.message);
		return;
	}
	if (range_of(&result) == NULL)
		report("unexpected response from etcd");
	else
		compare(range_of(&result), result.header.revision);
	etcd_response_free_txn(&result);
}

void
duplicate_tick(void)
{
	static const LinkCallbacks callbacks = {.done = looked,.max_message = MAX_RESPONSE};
	char		key[KEY_LAYOUT_SIZE];
	char		start[KEY_LAYOUT_SIZE];
	char		end[KEY_LAYOUT_SIZE];
	EtcdOp		ops[2] = {{.type = ETCD_OP_PUT}, {.type = ETCD_OP_RANGE}};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE,.result = ETCD_COMPARE_EQUAL,.revision = 0
	};
	EtcdTxn		txn = {&compare, 1, ops, 2, &ops[1], 1};
	char	   *value;

	if (clock_now() < duplicate_next_time())
		return;
	value = key_value_make(NULL, MyProcPid, GetCurrentTimestamp());
	ops[0].range.key = key;
	ops[0].range.key_len = key_layout_primary(key, etcd_lock_namespace, GetSystemIdentifier(),
											  (uint64) lease_id());
	ops[0].value = value;
	ops[0].value_len = strlen(value);
	ops[0].lease = lease_id();
	compare.range = ops[0].range;
	ops[1].range.key = start;
	ops[1].range.end = end;
	key_layout_primaries(start, end, etcd_lock_namespace, GetSystemIdentifier());
	ops[1].range.key_len = strlen(start);
	ops[1].range.end_len = strlen(end);
	ops[1].limit = MAX_SEEN;
	MyDuplicate->busy = link_call(LINK_SIDE, etcd_request_txn(&txn),
								  etcd_lock_request_timeout, &callbacks,
								  (void *) (uintptr_t) lease_id()) != NULL;
	pfree(value);
	if (!MyDuplicate->busy)
		MyDuplicate->next_time = clock_now() + LOOK_AGAIN;
}
