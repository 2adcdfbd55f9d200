/*-------------------------------------------------------------------------
 *
 * tick_lease.c
 *	  The leases by which ticks of etcd_try_once() expire.
 *
 * A tick must outlive the server that has claimed it, but not stay in etcd
 * forever.  So it is attached to a lease that nobody keeps alive: it expires
 * etcd_lock.tick_retention after the last claim of the name, or a little
 * later.  Each claim attaches the name's tick to the current lease.
 *
 * A lease is granted for a bit more than the retention, and is used as long as
 * at least the retention is left.  All servers of a namespace, also later
 * ones, share it: they find it by a key that is attached to it, the anchor.
 * So there are about PERIODS leases, no matter how many servers come and go.
 * The anchor also prevents users of etcd without permissions in the namespace
 * from revoking the lease.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "client/sqlstate.h"
#include "etcd/etcd_error.h"
#include "etcd/key_layout.h"
#include "shared/clock.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/old_leases.h"
#include "worker/tick_lease.h"

/* A lease is in use for this part of the retention. */
#define PERIODS			30

/* It must last for longer than it takes to get it; seconds. */
#define LEAST_PERIOD	10

/* Limit of anchors to read: there are PERIODS for each retention in use. */
#define MAX_ANCHORS		1000

#define RETRY_PAUSE		INT64CONST(1000000) /* microseconds */

typedef enum TickLeaseStep
{
	STEP_SEEK,					/* read the anchors */
	STEP_LOOK,					/* how much is left of the newest one's lease? */
	STEP_GRANT,
	STEP_ANCHOR,
	STEP_READY
} TickLeaseStep;

struct TickLease
{
	TickLeaseStep step;
	int64		id;				/* LOOK: to be looked at; ANCHOR, READY: ours */
	int64		good_until;		/* READY; clock_now() */
	int64		asked_at;		/* LOOK, GRANT: clock_now() */
	int			retention;		/* the setting when it was sought, seconds */
	int64		own_id;			/* to be granted, once it is chosen */
	bool		wanted;
	bool		busy;
	int64		retry_at;
	LockFailure refusal;		/* by etcd, the last time; kind NONE: it did
								 * not */
};

#define MyTickLease (MyWorker->tick_lease)

static void
start_anew(void)
{
	MyTickLease->step = STEP_SEEK;
	MyTickLease->id = 0;
	MyTickLease->own_id = 0;
}

void
tick_lease_create(void)
{
	MyTickLease = MemoryContextAllocZero(TopMemoryContext, sizeof(struct TickLease));
	start_anew();
}

static int
period(void)
{
	return Max(MyTickLease->retention / PERIODS, LEAST_PERIOD);
}

/* Use a lease that had at least ttl seconds left when that was requested. */
static void
use(int64 id, int64 ttl)
{
	MyTickLease->step = STEP_READY;
	MyTickLease->id = id;
	MyTickLease->good_until = MyTickLease->asked_at +
		(ttl - MyTickLease->retention) * 1000000;
}

/*
 * Is there a response that is not a refusal?  If not, everything starts over
 * after a pause.
 */
static bool
has_response(const EtcdResponse *response)
{
	MyTickLease->busy = false;
	MyTickLease->refusal.kind = FAILURE_NONE;
	if (!response->delivered)
		MyTickLease->retry_at = clock_now() + RETRY_PAUSE;
	return response->delivered;
}

/*
 * A lease that surely has no anchor is of no use to anybody.  After other errors it may
 * have one, and other servers' ticks by now.
 */
static void
refused(const EtcdResponse *response, const EtcdError *error)
{
	if (MyTickLease->step == STEP_ANCHOR && error->code == ETCD_PERMISSION_DENIED)
		(void) old_leases_add(MyTickLease->own_id, 0);
	if (error->code == ETCD_BAD_RESPONSE)
		link_bad_response(response, error->message);
	link_note_error(error->message);
	if (!etcd_error_is_unwell(error) && !etcd_error_is_busy(error))
	{
		MyTickLease->refusal.kind = FAILURE_ERROR;
		MyTickLease->refusal.sqlerrcode = sqlstate_of(error);
		strlcpy(MyTickLease->refusal.message, error->message,
				sizeof(MyTickLease->refusal.message));
	}
	start_anew();
	MyTickLease->wanted = false;
	MyTickLease->retry_at = clock_now() + RETRY_PAUSE;
}

static void
send(EtcdMessage message, void (*done) (void *arg, const EtcdResponse *response))
{
	LinkCallbacks callbacks = {.done = done,.is_urgent = true};

	MyTickLease->busy = link_call(LINK_SIDE, message, etcd_lock_request_timeout,
								  &callbacks, NULL) != NULL;
	if (!MyTickLease->busy)
		MyTickLease->retry_at = clock_now() + RETRY_PAUSE;
}

/* ---- the anchors ---- */

static bool
is_anchor(const EtcdKeyValue *kv)
{
	char		anchor[KEY_LAYOUT_SIZE];
	size_t		len = key_layout_tick_lease(anchor, etcd_lock_namespace, (uint64) kv->lease);

	return kv->lease != 0 && kv->key_len == len && memcmp(kv->key, anchor, len) == 0;
}

static void
sought(void *arg, const EtcdResponse *response)
{
	EtcdRangeResult result;
	EtcdError	error;
	int64		newest = 0;

	if (!has_response(response))
		return;
	if (!etcd_response_range(&response->reply, &result, &error))
	{
		refused(response, &error);
		return;
	}
	MyTickLease->step = STEP_GRANT;
	for (int i = 0; i < result.range.nkvs; i++)
	{
		const EtcdKeyValue *kv = &result.range.kvs[i];

		if (!is_anchor(kv) || kv->create_revision <= newest)
			continue;
		newest = kv->create_revision;
		MyTickLease->id = kv->lease;
		MyTickLease->step = STEP_LOOK;
	}
	etcd_response_free_range(&result);
}

static void
seek(void)
{
	char		start[KEY_LAYOUT_SIZE];
	char		end[KEY_LAYOUT_SIZE];
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true,.limit = MAX_ANCHORS};

	key_layout_tick_leases(start, end, etcd_lock_namespace);
	op.range.key = start;
	op.range.key_len = strlen(start);
	op.range.end = end;
	op.range.end_len = strlen(end);
	MyTickLease->retention = etcd_lock_tick_retention;
	send(etcd_request_range(&op), sought);
}

static void
looked(void *arg, const EtcdResponse *response)
{
	EtcdLeaseResult result;
	EtcdError	error;

	if (!has_response(response))
		return;
	MyTickLease->step = STEP_GRANT;
	if (!etcd_response_lease(&response->reply, &result, &error))
	{
		if (error.code != ETCD_NOT_FOUND)
			refused(response, &error);
		return;
	}
	if (result.id == MyTickLease->id && result.ttl > MyTickLease->retention)
		use(result.id, result.ttl);
	etcd_response_free_lease(&result);
}

/* ---- one of our own ---- */

static void
anchored(void *arg, const EtcdResponse *response)
{
	EtcdTxnResult result;
	EtcdError	error;

	if (!has_response(response))
		return;					/* it is put again */
	if (!etcd_response_txn(&response->reply, &result, &error))
	{
		refused(response, &error);
		return;
	}
	use(MyTickLease->own_id, MyTickLease->retention + period());
	etcd_response_free_txn(&result);
}

static void
put_anchor(void)
{
	char		anchor[KEY_LAYOUT_SIZE];
	EtcdOp		put = {.type = ETCD_OP_PUT,.value = "",.lease = MyTickLease->own_id};
	EtcdTxn		txn = {NULL, 0, &put, 1, NULL, 0};

	put.range.key = anchor;
	put.range.key_len = key_layout_tick_lease(anchor, etcd_lock_namespace,
											  (uint64) MyTickLease->own_id);
	send(etcd_request_txn(&txn), anchored);
}

/*
 * The id is random: if it is taken, then by our own request whose response was
 * lost.
 */
static void
granted(void *arg, const EtcdResponse *response)
{
	EtcdLeaseResult result;
	EtcdError	error;

	if (!has_response(response))
		return;
	if (etcd_response_lease(&response->reply, &result, &error))
		etcd_response_free_lease(&result);
	else if (error.code != ETCD_FAILED_PRECONDITION ||
			 strstr(error.message, "already exists") == NULL)
	{
		refused(response, &error);
		return;
	}
	MyTickLease->step = STEP_ANCHOR;
}

static void
grant(void)
{
	if (MyTickLease->own_id == 0)
	{
		uint64		id;

		if (!pg_strong_random(&id, sizeof(id)))
			elog(ERROR, "could not generate a random lease id");
		MyTickLease->own_id = (int64) ((id >> 2) | 1);	/* none of servers' ids */
		MyTickLease->asked_at = clock_now();
	}
	send(etcd_request_lease_grant(MyTickLease->own_id, MyTickLease->retention + period()),
		 granted);
}

/* ---- steps ---- */

bool
tick_lease_get(int64 *id)
{
	if (MyTickLease->step == STEP_READY && clock_now() < MyTickLease->good_until &&
		MyTickLease->retention == etcd_lock_tick_retention)
	{
		*id = MyTickLease->id;
		return true;
	}
	if (MyTickLease->step == STEP_READY)
		start_anew();
	MyTickLease->wanted = true;
	return false;
}

/* For a moment; then etcd is asked again. */
const LockFailure *
tick_lease_refusal(void)
{
	return MyTickLease->refusal.kind == FAILURE_NONE || clock_now() >= MyTickLease->retry_at ?
		NULL : &MyTickLease->refusal;
}

void
tick_lease_doubt(void)
{
	if (MyTickLease->step == STEP_READY)
		start_anew();
}

void
tick_lease_tick(void)
{
	if (MyTickLease->step == STEP_READY)
		MyTickLease->wanted = false;
	if (!MyTickLease->wanted || MyTickLease->busy || MyWorker->stopping ||
		clock_now() < MyTickLease->retry_at || !link_ready())
		return;
	switch (MyTickLease->step)
	{
		case STEP_SEEK:
			seek();
			break;
		case STEP_LOOK:
			MyTickLease->asked_at = clock_now();
			send(etcd_request_lease_timetolive(MyTickLease->id, false), looked);
			break;
		case STEP_GRANT:
			grant();
			break;
		case STEP_ANCHOR:
			put_anchor();
			break;
		case STEP_READY:
			break;
	}
}

int64
tick_lease_next_time(void)
{
	if (!MyTickLease->wanted || MyTickLease->busy || MyWorker->stopping ||
		MyTickLease->step == STEP_READY)
		return PG_INT64_MAX;
	return Max(MyTickLease->retry_at, link_next_time());
}
