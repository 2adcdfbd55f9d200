/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  Claiming a tick for a lock that is held already.
 *
 * etcd_try_once() puts the tick together with the lock's key.  When the session
 * holds the lock, its key is there: then a Txn puts the tick if that very key
 * still is, and nobody has put a tick since it was read.  So here, too, a tick is
 * claimed once, and only by who holds the lock in etcd.
 *
 * When no answer comes, the tick may have been claimed, and the session gets an
 * error: at most one runs, as ever.
 *
 * It is a rare request, so there is one place for it in shared memory, which
 * sessions take in turn.  ClaimShared.mutex protects all of it.
 *
 *-------------------------------------------------------------------------
 */
#include "claim.h"

#include "batch.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

/* The tick may change between a look at it and the Txn, but not for ever. */
#define MAX_ROUNDS		20

#define TICK_KEY_SIZE	(ETCD_LOCK_MAX_KEY + 32)

typedef enum ClaimState
{
	CLAIM_FREE,
	CLAIM_ASKED,
	CLAIM_SENT,
	CLAIM_DONE
} ClaimState;

typedef enum ClaimResult
{
	CLAIM_CLAIMED,
	CLAIM_TAKEN,
	CLAIM_LOST,					/* the lock's key is not there any more */
	CLAIM_FAILED
} ClaimResult;

typedef struct ClaimRequest
{
	uint64		id;				/* who gave up has another */
	uint64		key_number;		/* of the lock's key */
	char		tick_key[TICK_KEY_SIZE];
	TimestampTz tick;
	uint64		claim;
} ClaimRequest;

typedef struct ClaimShared
{
	slock_t		mutex;
	ConditionVariable changed;
	ClaimState	state;
	ClaimRequest request;
	ClaimResult result;
	LockFailure failure;
} ClaimShared;

static ClaimShared *claim_shared;

Size
claim_shmem_size(void)
{
	return MAXALIGN(sizeof(ClaimShared));
}

void
claim_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	claim_shared = ShmemInitStruct("etcd_lock claim", sizeof(ClaimShared), &found);
	if (!found)
	{
		memset(claim_shared, 0, sizeof(ClaimShared));
		SpinLockInit(&claim_shared->mutex);
		ConditionVariableInit(&claim_shared->changed);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

static ClaimRequest current;
static int	rounds;

static void
finish(ClaimResult result, int sqlerrcode, const char *error)
{
	SpinLockAcquire(&claim_shared->mutex);
	if (claim_shared->request.id == current.id && claim_shared->state == CLAIM_SENT)
	{
		claim_shared->state = CLAIM_DONE;
		claim_shared->result = result;
		claim_shared->failure.sqlerrcode = sqlerrcode;
		strlcpy(claim_shared->failure.message, error, LOCK_FAILURE_SIZE);
	}
	SpinLockRelease(&claim_shared->mutex);
	ConditionVariableBroadcast(&claim_shared->changed);
}

static EtcdRange
one_key(const char *key)
{
	EtcdRange	range = {key, strlen(key), NULL, 0};

	return range;
}

static int64 floor_revision;	/* highest known when the Txn was sent */

static void txn_done(void *arg, const EtcdAnswer *answer);

/* Put the tick if it is as it was at this revision (0: there was none). */
static void
send_txn(int64 tick_revision)
{
	static const EtcdCallbacks callbacks = {NULL, txn_done};
	const char *lock_key;
	int64		lock_revision;
	char	   *value;
	char	   *body;
	EtcdCompare compare[2] = {
		{.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_EQUAL},
		{.target = ETCD_COMPARE_MOD, .result = ETCD_COMPARE_EQUAL}
	};
	EtcdOp		put = {.type = ETCD_OP_PUT, .range = one_key(current.tick_key)};
	EtcdOp		look[2] = {{.type = ETCD_OP_RANGE}, {.type = ETCD_OP_RANGE}};
	EtcdTxn		txn = {compare, 2, &put, 1, look, 2};

	if (!names_find_held(current.key_number, &lock_key, &lock_revision))
	{
		finish(CLAIM_LOST, 0, "");
		return;
	}
	compare[0].range = one_key(lock_key);
	compare[0].revision = lock_revision;
	compare[1].range = put.range;
	compare[1].revision = tick_revision;
	look[0].range = compare[0].range;
	look[1].range = compare[1].range;
	floor_revision = lock_shared->highest_revision;
	value = batch_tick_value(current.tick, current.claim);
	put.value = value;
	put.value_len = strlen(value);
	body = etcd_encode_txn(&txn);
	pfree(value);
	if (body == NULL ||
		link_call(ETCD_PATH_TXN, body, etcd_lock_request_timeout, &callbacks,
				  (void *) (uintptr_t) current.id) == NULL)
		finish(CLAIM_FAILED, ERRCODE_CONNECTION_FAILURE, "could not send the request");
}

/* A compare has failed: which one, and is there a point in another round? */
static void
look_again(const EtcdTxnResult *txn)
{
	const EtcdOpResult *lock = &txn->results[0];
	const EtcdOpResult *tick = &txn->results[1];
	const char *lock_key;
	int64		lock_revision;

	if (!names_find_held(current.key_number, &lock_key, &lock_revision) ||
		lock->nkvs == 0 || lock->kvs[0].create_revision != lock_revision)
		finish(CLAIM_LOST, 0, "");
	else if (tick->nkvs > 0 && !batch_holds_tick(tick))
		finish(CLAIM_FAILED, ERRCODE_DATA_CORRUPTED,
			   "the tick's key in etcd does not hold a tick");
	else if (batch_tick_is_taken(tick, current.tick, current.claim))
		finish(CLAIM_TAKEN, 0, "");
	else if (++rounds > MAX_ROUNDS)
		finish(CLAIM_FAILED, ERRCODE_T_R_SERIALIZATION_FAILURE,
			   "others claim ticks of this name all the time");
	else
		send_txn(tick->nkvs > 0 ? tick->kvs[0].mod_revision : 0);
}

static bool
has_looks(const EtcdTxnResult *txn)
{
	return txn->nresults == 2 && txn->results[0].type == ETCD_OP_RANGE &&
		txn->results[1].type == ETCD_OP_RANGE;
}

static void
txn_done(void *arg, const EtcdAnswer *answer)
{
	EtcdTxnResult result;
	EtcdError	error;

	if ((uint64) (uintptr_t) arg != current.id)
		return;					/* its session has given up */
	if (!answer->delivered)
	{
		finish(CLAIM_FAILED, ERRCODE_CONNECTION_FAILURE, answer->error);
		return;
	}
	if (!etcd_decode_txn(answer->body, answer->len, answer->http_status,
						 &result, &error))
	{
		finish(CLAIM_FAILED, worker_sqlerrcode(&error), error.message);
		return;
	}
	/* What has put something is newer than all that was known before. */
	if (result.succeeded && result.header.revision > floor_revision)
		finish(CLAIM_CLAIMED, 0, "");
	else if (has_looks(&result))
		look_again(&result);
	else
		finish(CLAIM_FAILED, ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
			   "etcd's answer is not one to the request");
	etcd_txn_result_free(&result);
}

void
claim_take_work(void)
{
	bool		asked;

	if (claim_shared->state != CLAIM_ASKED)
		return;					/* seen again when the latch is set */
	SpinLockAcquire(&claim_shared->mutex);
	asked = claim_shared->state == CLAIM_ASKED;
	if (asked)
	{
		claim_shared->state = CLAIM_SENT;
		current = claim_shared->request;
	}
	SpinLockRelease(&claim_shared->mutex);
	if (!asked)
		return;
	rounds = 0;
	send_txn(0);
}

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

/* Take the place, unless somebody has it. */
static bool
try_to_ask(ClaimRequest *request)
{
	bool		taken;

	SpinLockAcquire(&claim_shared->mutex);
	taken = claim_shared->state == CLAIM_FREE;
	if (taken)
	{
		request->id = claim_shared->request.id + 1;
		claim_shared->request = *request;
		claim_shared->state = CLAIM_ASKED;
	}
	SpinLockRelease(&claim_shared->mutex);
	return taken;
}

/* Give the place back, whatever the worker is doing about our request. */
static void
let_go(uint64 id)
{
	SpinLockAcquire(&claim_shared->mutex);
	if (claim_shared->request.id == id)
		claim_shared->state = CLAIM_FREE;
	SpinLockRelease(&claim_shared->mutex);
	ConditionVariableBroadcast(&claim_shared->changed);
}

static void
let_go_at_exit(int code, Datum id)
{
	let_go(DatumGetUInt64(id));
}

static bool
is_done(uint64 id, ClaimResult *result, LockFailure *failure)
{
	bool		done;

	SpinLockAcquire(&claim_shared->mutex);
	done = claim_shared->request.id == id && claim_shared->state == CLAIM_DONE;
	if (done)
	{
		*result = claim_shared->result;
		*failure = claim_shared->failure;
	}
	SpinLockRelease(&claim_shared->mutex);
	return done;
}

static void
report_no_answer(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not get an answer from etcd within %d ms",
					etcd_lock_request_timeout),
			 errdetail("Whether the tick was claimed is not known.")));
}

static void
sleep_until(int64 give_up_at)
{
	if (clock_now() >= give_up_at)
		report_no_answer();
	(void) ConditionVariableTimedSleep(&claim_shared->changed, 100,
									   etcd_lock_wait_event_check());
}

static ClaimResult
wait_for_claim(uint64 id, int64 give_up_at, LockFailure *failure)
{
	ClaimResult result;

	lock_table_wake_worker();
	while (!is_done(id, &result, failure))
		sleep_until(give_up_at);
	return result;
}

bool
claim_tick(LocalHold *local, TimestampTz tick, uint64 claim)
{
	ClaimRequest request = {
		.key_number = local->hold->key_number, .tick = tick, .claim = claim
	};
	int64		give_up_at = clock_now() + (int64) etcd_lock_request_timeout * 1000;
	volatile ClaimResult result = CLAIM_FAILED;
	LockFailure failure;

	snprintf(request.tick_key, sizeof(request.tick_key), "%.*s%stick/%s",
			 local->name.namespace_len, local->name.key, ETCD_LOCK_RESERVED,
			 local->name.key + local->name.namespace_len);

	ConditionVariablePrepareToSleep(&claim_shared->changed);
	while (!try_to_ask(&request))
		sleep_until(give_up_at);

	/* Also when the session is terminated: nobody else gives it back. */
	PG_ENSURE_ERROR_CLEANUP(let_go_at_exit, UInt64GetDatum(request.id));
	{
		result = wait_for_claim(request.id, give_up_at, &failure);
	}
	PG_END_ENSURE_ERROR_CLEANUP(let_go_at_exit, UInt64GetDatum(request.id));
	let_go(request.id);
	ConditionVariableCancelSleep();

	if (result == CLAIM_LOST)
		lock_report_lost(local);
	if (result == CLAIM_FAILED)
		ereport(ERROR,
				(errcode(failure.sqlerrcode),
				 errmsg("could not claim the tick for etcd lock \"%s\"",
						lock_name_for_user(local->name.key, local->name.namespace_len,
										   &local->name.tag)),
				 errdetail("%s", failure.message)));
	return result == CLAIM_CLAIMED;
}
