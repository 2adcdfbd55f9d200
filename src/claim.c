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
 *-------------------------------------------------------------------------
 */
#include "claim.h"

#include "batch.h"
#include "errand.h"

/* The tick may change between a look at it and the Txn, but not for ever. */
#define MAX_ROUNDS		20

#define TICK_KEY_SIZE	(ETCD_LOCK_MAX_KEY + 32)

typedef enum ClaimResult
{
	CLAIM_CLAIMED,
	CLAIM_TAKEN,
	CLAIM_LOST					/* the lock's key is not there any more */
} ClaimResult;

typedef struct ClaimRequest
{
	uint64		key_number;		/* of the lock's key */
	char		tick_key[TICK_KEY_SIZE];
	TimestampTz tick;
	uint64		claim;
} ClaimRequest;

static Errand *claim_errand;

Size
claim_shmem_size(void)
{
	return errand_shmem_size(sizeof(ClaimRequest));
}

void
claim_shmem_init(void)
{
	claim_errand = errand_shmem_init("etcd_lock claim", sizeof(ClaimRequest));
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

static ClaimRequest current;
static uint64 current_id;
static int	rounds;

static void
finish(ClaimResult result)
{
	errand_done(claim_errand, current_id, result);
}

static void
fail(int sqlerrcode, const char *error)
{
	errand_failed(claim_errand, current_id, sqlerrcode, error);
}

static EtcdRange
one_key(const char *key)
{
	EtcdRange	range = {key, strlen(key), NULL, 0};

	return range;
}

/* When the Txn was sent: the highest revision known, the epoch. */
static int64 floor_revision;
static uint64 epoch;

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
		finish(CLAIM_LOST);
		return;
	}
	compare[0].range = one_key(lock_key);
	compare[0].revision = lock_revision;
	compare[1].range = put.range;
	compare[1].revision = tick_revision;
	look[0].range = compare[0].range;
	look[1].range = compare[1].range;
	floor_revision = lock_shared->highest_revision;
	epoch = deadline_epoch(&lock_shared->deadline);
	value = batch_tick_value(current.tick, current.claim);
	put.value = value;
	put.value_len = strlen(value);
	body = etcd_encode_txn(&txn);
	pfree(value);
	if (body == NULL ||
		link_call(ETCD_PATH_TXN, body, etcd_lock_request_timeout, &callbacks,
				  (void *) (uintptr_t) current_id) == NULL)
		fail(ERRCODE_CONNECTION_FAILURE, "could not send the request");
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
	{
		finish(CLAIM_LOST);
		return;
	}
	switch (batch_tick_state(tick, current.tick, current.claim))
	{
		case TICK_ODD:
			fail(ERRCODE_DATA_CORRUPTED, "the tick's key in etcd does not hold a tick");
			break;
		case TICK_TAKEN:
		case TICK_PAST:
			finish(CLAIM_TAKEN);
			break;
		default:
			if (++rounds > MAX_ROUNDS)
				fail(ERRCODE_T_R_SERIALIZATION_FAILURE,
					 "others claim ticks of this name all the time");
			else
				send_txn(tick->nkvs > 0 ? tick->kvs[0].mod_revision : 0);
			break;
	}
}

/*
 * Is it the answer to our Txn?  What has put something is newer than all that was
 * known before.
 */
static bool
answer_fits(const EtcdTxnResult *result)
{
	if (result->succeeded)
		return result->nresults == 1 && result->results[0].type == ETCD_OP_PUT &&
			result->header.revision > floor_revision;
	return result->nresults == 2 && result->results[0].type == ETCD_OP_RANGE &&
		result->results[1].type == ETCD_OP_RANGE &&
		result->header.revision >= floor_revision;
}

static void
txn_done(void *arg, const EtcdAnswer *answer)
{
	EtcdTxnResult result;
	EtcdError	error;

	if ((uint64) (uintptr_t) arg != current_id)
		return;					/* its session has given up */
	if (!answer->delivered)
	{
		fail(ERRCODE_CONNECTION_FAILURE, answer->error);
		return;
	}
	if (!etcd_decode_txn(answer->body, answer->len, answer->http_status,
						 &result, &error))
	{
		fail(worker_sqlerrcode(&error), error.message);
		return;
	}
	if (!answer_fits(&result))
		fail(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
			 "etcd's answer is not one to the request");
	else
	{
		if (epoch == deadline_epoch(&lock_shared->deadline))
			lease_saw_header(&result.header);
		if (result.succeeded)
			finish(CLAIM_CLAIMED);
		else
			look_again(&result);
	}
	etcd_txn_result_free(&result);
}

void
claim_take_work(void)
{
	uint64		id = errand_take(claim_errand, &current);

	if (id == 0)
		return;
	current_id = id;
	rounds = 0;
	send_txn(0);
}

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

bool
claim_tick(LocalHold *local, TimestampTz tick, uint64 claim)
{
	ClaimRequest request = {
		.key_number = local->hold->key_number, .tick = tick, .claim = claim
	};
	int			result = CLAIM_LOST;
	LockFailure failure;

	snprintf(request.tick_key, sizeof(request.tick_key), "%.*s%stick/%s",
			 local->name.namespace_len, local->name.key, ETCD_LOCK_RESERVED,
			 local->name.key + local->name.namespace_len);

	switch (errand_run(claim_errand, &request, etcd_lock_request_timeout,
					   &result, &failure))
	{
		case ERRAND_DONE:
			break;
		case ERRAND_FAILED:
			ereport(ERROR,
					(errcode(failure.sqlerrcode),
					 errmsg("could not claim the tick for etcd lock \"%s\"",
							lock_name_for_user(local->name.key, local->name.namespace_len,
											   &local->name.tag)),
					 errdetail("%s", failure.message)));
			break;
		case ERRAND_NO_TURN:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not get an answer from etcd within %d ms",
							etcd_lock_request_timeout),
					 errdetail("The tick was not claimed; claims of other sessions were under way.")));
			break;
		case ERRAND_NO_ANSWER:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not get an answer from etcd within %d ms",
							etcd_lock_request_timeout),
					 errdetail("Whether the tick was claimed is not known.")));
			break;
	}
	if (result == CLAIM_LOST)
		lock_report_lost(local);
	return result == CLAIM_CLAIMED;
}
