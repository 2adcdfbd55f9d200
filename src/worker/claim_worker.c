/*-------------------------------------------------------------------------
 *
 * claim_worker.c
 *	  Claiming a tick in etcd for a lock that is held, for etcd_try_once().
 *
 * See session/claim.c.  First the worker reads the tick, and if there is none,
 * how many the namespace has; then it puts the tick, if nothing has changed
 * meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "client/sqlstate.h"
#include "etcd/etcd_api.h"
#include "lib/ilist.h"
#include "shared/deadline.h"
#include "shared/lock_keys.h"
#include "shared/lock_table.h"
#include "shared/request_slot.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "worker/claim_worker.h"
#include "worker/context.h"
#include "worker/lease.h"
#include "worker/name.h"
#include "worker/tick.h"
#include "worker/tick_lease.h"

/* How often the tick may change between the read and the Txn. */
#define MAX_ROUNDS		20

/* The operations of a read, and the indexes of their results. */
enum
{
	READ_LOCK,
	READ_TICK,
	READ_TICKS,					/* if counts_ticks */
	MAX_READS
};

typedef struct Claim
{
	ClaimRequest request;
	uint64		id;				/* in the slot */
	int			rounds;
	bool		counts_ticks;
	int64		tick_revision;	/* of the tick that was read; 0: none */
	int64		min_revision;	/* highest known when the request was sent, */
	uint64		epoch;			/* and the epoch */
	dlist_node	link;			/* if it waits for a lease of ticks */
} Claim;

struct ClaimWorker
{
	dlist_head	waiting;
};

#define MyClaims (MyWorker->claim_worker)

void
claim_worker_create(void)
{
	MyClaims = MemoryContextAllocZero(TopMemoryContext, sizeof(struct ClaimWorker));
	dlist_init(&MyClaims->waiting);
}

static void
finish(Claim *claim, ClaimResult result)
{
	request_slot_done(REQUEST_CLAIM, claim->id, result);
	pfree(claim);
}

static void
fail(Claim *claim, int sqlerrcode, const char *error)
{
	request_slot_failed(REQUEST_CLAIM, claim->id, sqlerrcode, error);
	pfree(claim);
}

/* The lock's key, if it is still the one by which the session holds the lock. */
static bool
find_held(const Claim *claim, const char **etcd_key, int64 *create_revision)
{
	LWLock	   *lock;
	LockEntry  *entry = lock_table_find(claim->request.name, LW_SHARED, &lock);
	const WorkerName *name;
	int			slot;
	bool		held;

	if (entry == NULL)
		return false;
	name = entry->worker_name;
	slot = lock_key_slot(entry, claim->request.key_id);
	held = name != NULL && slot >= 0 && entry->keys[slot].state == KEY_HELD &&
		name_key(name, slot) != NULL &&
		name->keys[slot]->key_id == claim->request.key_id;
	if (held)
	{
		*etcd_key = name->keys[slot]->etcd_key;
		*create_revision = entry->keys[slot].create_revision;
	}
	LWLockRelease(lock);
	return held;
}

static EtcdRange
one_key(const char *key)
{
	EtcdRange	range = {key, strlen(key), NULL, 0};

	return range;
}

static void
send(Claim *claim, const EtcdTxn *txn, void (*done) (void *arg, const EtcdResponse *response))
{
	LinkCallbacks callbacks = {.done = done};

	int64		left = claim->request.give_up_at - clock_now();

	if (left <= 0)
	{
		fail(claim, ERRCODE_CONNECTION_FAILURE, "its session has given up");
		return;
	}
	claim->min_revision = lock_shared->highest_revision;
	claim->epoch = deadline_epoch(&lock_shared->deadline);
	if (link_call(LINK_LOCK, etcd_request_txn(txn), (int) Max(left / 1000, 1), &callbacks,
				  claim) == NULL)
		fail(claim, ERRCODE_CONNECTION_FAILURE, "could not send the request");
}

static void read_done(void *arg, const EtcdResponse *response);
static void put_done(void *arg, const EtcdResponse *response);

static void
send_read(Claim *claim)
{
	char		start[KEY_LAYOUT_SIZE];
	char		end[KEY_LAYOUT_SIZE];
	EtcdOp		ops[MAX_READS] = {{.type = ETCD_OP_RANGE}, {.type = ETCD_OP_RANGE},
	{.type = ETCD_OP_RANGE,.keys_only = true,.limit = 1}};
	EtcdTxn		txn = {NULL, 0, ops, claim->counts_ticks ? MAX_READS : READ_TICKS, NULL, 0};
	const char *lock_key;
	int64		lock_revision;

	if (!find_held(claim, &lock_key, &lock_revision))
	{
		finish(claim, CLAIM_LOST);
		return;
	}
	key_layout_ticks(start, end, claim->request.name, claim->request.namespace_len);
	ops[READ_LOCK].range = one_key(lock_key);
	ops[READ_TICK].range = one_key(claim->request.tick_key);
	ops[READ_TICKS].range = one_key(start);
	ops[READ_TICKS].range.end = end;
	ops[READ_TICKS].range.end_len = strlen(end);
	send(claim, &txn, read_done);
}

/* Put the tick if it has not changed since it was read. */
static void
send_put(Claim *claim)
{
	const char *lock_key;
	int64		lock_revision;
	char	   *value;
	EtcdCompare compare[2] = {
		{.target = ETCD_COMPARE_CREATE,.result = ETCD_COMPARE_EQUAL},
		{.target = ETCD_COMPARE_MOD,.result = ETCD_COMPARE_EQUAL}
	};
	EtcdOp		put = {.type = ETCD_OP_PUT,.range = one_key(claim->request.tick_key)};
	EtcdOp		look[2] = {{.type = ETCD_OP_RANGE}, {.type = ETCD_OP_RANGE}};
	EtcdTxn		txn = {compare, 2, &put, 1, look, 2};

	if (!tick_lease_get(&put.lease))
	{
		dlist_push_tail(&MyClaims->waiting, &claim->link);
		return;
	}
	if (!find_held(claim, &lock_key, &lock_revision))
	{
		finish(claim, CLAIM_LOST);
		return;
	}
	compare[0].range = one_key(lock_key);
	compare[0].revision = lock_revision;
	compare[1].range = put.range;
	compare[1].revision = claim->tick_revision;
	look[READ_LOCK].range = compare[0].range;
	look[READ_TICK].range = compare[1].range;
	value = tick_value(claim->request.tick, claim->request.claim);
	put.value = value;
	put.value_len = strlen(value);
	send(claim, &txn, put_done);
	pfree(value);
}

/*
 * The tick was read, because it was requested, or because a compare has
 * failed.
 */
static void
look(Claim *claim, const EtcdTxnResult *txn)
{
	const EtcdOpResult *lock = &txn->results[READ_LOCK];
	const EtcdOpResult *tick = &txn->results[READ_TICK];
	bool		counted = txn->nresults == MAX_READS;
	const char *lock_key;
	int64		lock_revision;
	TickState	state = tick_state_of(tick, claim->request.tick, claim->request.claim);

	claim->tick_revision = tick->nkvs > 0 ? tick->kvs[0].mod_revision : 0;
	if (!find_held(claim, &lock_key, &lock_revision) ||
		lock->nkvs == 0 || lock->kvs[0].create_revision != lock_revision)
		finish(claim, CLAIM_LOST);
	else if (state == TICK_ODD)
		fail(claim, ERRCODE_DATA_CORRUPTED, "the tick's key in etcd does not hold a tick");
	else if (state == TICK_TAKEN || state == TICK_PAST)
		finish(claim, CLAIM_TAKEN);
	else if (++claim->rounds > MAX_ROUNDS)
		fail(claim, ERRCODE_T_R_SERIALIZATION_FAILURE,
			 "others claim ticks of this name all the time");
	else if (tick->nkvs == 0 && !counted)
	{
		claim->counts_ticks = true;
		send_read(claim);
	}
	else if (tick->nkvs == 0 && txn->results[READ_TICKS].count >= claim->request.max_ticks)
		finish(claim, CLAIM_TOO_MANY);
	else
		send_put(claim);
}

/* Are these the results of reads, and of the right number? */
static bool
are_reads(const EtcdTxnResult *result, int n)
{
	if (result->nresults != n)
		return false;
	for (int i = 0; i < n; i++)
	{
		if (result->results[i].type != ETCD_OP_RANGE)
			return false;
	}
	return true;
}

/*
 * Is it the response to our Txn?  If it put something, it must be newer than
 * everything known before.
 */
static bool
put_fits(const Claim *claim, const EtcdTxnResult *result)
{
	if (result->succeeded)
		return result->nresults == 1 && result->results[0].type == ETCD_OP_PUT &&
			result->header.revision > claim->min_revision;
	return are_reads(result, 2) && result->header.revision >= claim->min_revision;
}

static bool
read_fits(const Claim *claim, const EtcdTxnResult *result)
{
	return result->succeeded &&
		are_reads(result, claim->counts_ticks ? MAX_READS : READ_TICKS) &&
		result->header.revision >= claim->min_revision;
}

/* Returns false if there is no usable response; the session was told then. */
static bool
take_response(Claim *claim, const EtcdResponse *response, EtcdTxnResult *result,
			  bool (*fits) (const Claim *claim, const EtcdTxnResult *result))
{
	EtcdError	error;

	if (!response->delivered)
		fail(claim, ERRCODE_CONNECTION_FAILURE,
			 response->ambiguous && fits == put_fits ?
			 "no response; it is not known whether the tick was claimed" : response->error);
	else if (!etcd_response_txn(&response->reply, result, &error))
	{
		if (error.code != ETCD_NOT_FOUND || ++claim->rounds > MAX_ROUNDS)
			fail(claim, sqlstate_of(&error), error.message);
		else
		{
			tick_lease_doubt();
			send_put(claim);
		}
	}
	else if (!fits(claim, result))
	{
		etcd_response_free_txn(result);
		fail(claim, ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, "unexpected response from etcd");
	}
	else
	{
		if (claim->epoch == deadline_epoch(&lock_shared->deadline))
			lease_saw_header(response, &result->header);
		return true;
	}
	return false;
}

static void
read_done(void *arg, const EtcdResponse *response)
{
	EtcdTxnResult result;

	if (!take_response(arg, response, &result, read_fits))
		return;
	look(arg, &result);
	etcd_response_free_txn(&result);
}

static void
put_done(void *arg, const EtcdResponse *response)
{
	EtcdTxnResult result;

	if (!take_response(arg, response, &result, put_fits))
		return;
	if (result.succeeded)
		finish(arg, CLAIM_CLAIMED);
	else
		look(arg, &result);
	etcd_response_free_txn(&result);
}

static void
look_at_waiting(void)
{
	dlist_mutable_iter iter;
	int64		lease;

	if (dlist_is_empty(&MyClaims->waiting))
		return;
	dlist_foreach_modify(iter, &MyClaims->waiting)
	{
		Claim	   *claim = dlist_container(Claim, link, iter.cur);
		bool		has_lease = tick_lease_get(&lease);
		const LockFailure *refusal = tick_lease_refusal();

		if (!has_lease && refusal == NULL && clock_now() < claim->request.give_up_at)
			continue;
		dlist_delete(&claim->link);
		if (has_lease)
			send_put(claim);
		else if (refusal != NULL)
			fail(claim, refusal->sqlerrcode, refusal->message);
		else
			fail(claim, ERRCODE_CONNECTION_FAILURE, "no lease for ticks");
	}
}

void
claim_worker_tick(void)
{
	ClaimRequest request;
	uint64		id;

	look_at_waiting();
	while ((id = request_slot_take(REQUEST_CLAIM, &request)) != 0)
	{
		Claim	   *claim = MemoryContextAllocZero(TopMemoryContext, sizeof(Claim));

		claim->request = request;
		claim->id = id;
		send_read(claim);
	}
}

int64
claim_worker_next_time(void)
{
	return dlist_is_empty(&MyClaims->waiting) ? PG_INT64_MAX : clock_now() + TICK_LEASE_PAUSE;
}
