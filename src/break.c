/*-------------------------------------------------------------------------
 *
 * break.c
 *	  Taking a lock away from whoever holds it, on whatever server.
 *
 * etcd_lock_break() names a lock and a token.  The token's upper part is the
 * create_revision of the key that stands for it in etcd; that key is looked
 * for and deleted, fenced by its create_revision, so that nobody else's is
 * ever hit.  The server that had it finds out with its next keepalive.
 *
 * It is a rare request, so there is one place for it in shared memory, which
 * sessions take in turn.  BreakShared.mutex protects all of it.
 *
 *-------------------------------------------------------------------------
 */
#include "break.h"

#include "lock_table.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_break);

typedef enum BreakState
{
	BREAK_FREE,
	BREAK_ASKED,
	BREAK_SENT,
	BREAK_DONE
} BreakState;

typedef struct BreakShared
{
	slock_t		mutex;
	ConditionVariable changed;
	BreakState	state;
	uint64		id;				/* of the request; who gave up has another */
	char		key[ETCD_LOCK_MAX_KEY + 1];
	int64		create_revision;
	bool		broken;
	LockFailure failure;
} BreakShared;

static BreakShared *break_shared;

Size
break_shmem_size(void)
{
	return MAXALIGN(sizeof(BreakShared));
}

void
break_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	break_shared = ShmemInitStruct("etcd_lock break", sizeof(BreakShared), &found);
	if (!found)
	{
		memset(break_shared, 0, sizeof(BreakShared));
		SpinLockInit(&break_shared->mutex);
		ConditionVariableInit(&break_shared->changed);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

static uint64 current_id;
static char current_key[ETCD_LOCK_MAX_KEY + 1];
static int64 current_revision;

/* Is the answer about the request that is under way now? */
static bool
is_current(void *arg)
{
	return (uint64) (uintptr_t) arg == current_id;
}

static void
finish(bool broken, int sqlerrcode, const char *error)
{
	SpinLockAcquire(&break_shared->mutex);
	if (break_shared->id == current_id && break_shared->state == BREAK_SENT)
	{
		break_shared->state = BREAK_DONE;
		break_shared->broken = broken;
		break_shared->failure.kind = error == NULL ? FAILURE_NONE : FAILURE_ERROR;
		break_shared->failure.sqlerrcode = sqlerrcode;
		strlcpy(break_shared->failure.message, error == NULL ? "" : error,
				LOCK_FAILURE_SIZE);
	}
	SpinLockRelease(&break_shared->mutex);
	ConditionVariableBroadcast(&break_shared->changed);
}

static bool
answered(const EtcdAnswer *answer, bool decoded, const EtcdError *error)
{
	if (!answer->delivered)
		finish(false, ERRCODE_CONNECTION_FAILURE, answer->error);
	else if (!decoded)
		finish(false, ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, error->message);
	return answer->delivered && decoded;
}

static void
delete_done(void *arg, const EtcdAnswer *answer)
{
	EtcdTxnResult result;
	EtcdError	error;
	bool		decoded;

	decoded = answer->delivered &&
		etcd_decode_txn(answer->body, answer->len, answer->http_status,
						&result, &error);
	if (is_current(arg) && answered(answer, decoded, &error))
		finish(result.succeeded, 0, NULL);
	if (decoded)
		etcd_txn_result_free(&result);
}

static void
send(const char *path, char *body, void (*done) (void *, const EtcdAnswer *))
{
	EtcdCallbacks callbacks = {NULL, done};

	if (body == NULL ||
		link_call(path, body, etcd_lock_request_timeout, &callbacks,
				  (void *) (uintptr_t) current_id) == NULL)
		finish(false, ERRCODE_CONNECTION_FAILURE, "could not send the request");
}

static void
delete_key(const EtcdKeyValue *kv)
{
	EtcdOp		op = {.type = ETCD_OP_DELETE};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_EQUAL,
		.revision = current_revision
	};
	EtcdTxn		txn = {&compare, 1, &op, 1, NULL, 0};

	op.range.key = kv->key;
	op.range.key_len = kv->key_len;
	compare.range = op.range;
	send(ETCD_PATH_TXN, etcd_encode_txn(&txn), delete_done);
}

static void
range_done(void *arg, const EtcdAnswer *answer)
{
	EtcdRangeResult result;
	EtcdError	error;
	QueueView	view = {.name = current_key, .name_len = strlen(current_key), .owner = ""};
	bool		found = false;
	bool		decoded;

	decoded = answer->delivered &&
		etcd_decode_range(answer->body, answer->len, answer->http_status,
						  &result, &error);
	if (!is_current(arg) || !answered(answer, decoded, &error))
	{
		if (decoded)
			etcd_range_result_free(&result);
		return;
	}
	for (int i = 0; i < result.range.nkvs && !found; i++)
	{
		const EtcdKeyValue *kv = &result.range.kvs[i];

		found = kv->create_revision == current_revision &&
			queue_key_kind(&view, kv->key, kv->key_len) != QUEUE_KEY_OTHER;
		if (found)
			delete_key(kv);
	}
	if (!found)
		finish(false, 0, NULL);
	etcd_range_result_free(&result);
}

void
break_tick(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE, .keys_only = true};
	char		prefix[ETCD_LOCK_MAX_KEY + 2];
	char		end[ETCD_LOCK_MAX_KEY + 2];
	bool		asked;

	if (break_shared->state != BREAK_ASKED)
		return;					/* seen again when the latch is set */
	SpinLockAcquire(&break_shared->mutex);
	asked = break_shared->state == BREAK_ASKED;
	if (asked)
	{
		break_shared->state = BREAK_SENT;
		current_id = break_shared->id;
		current_revision = break_shared->create_revision;
		memcpy(current_key, break_shared->key, sizeof(current_key));
	}
	SpinLockRelease(&break_shared->mutex);
	if (!asked)
		return;

	op.range.key_len = snprintf(prefix, sizeof(prefix), "%s/", current_key);
	op.range.key = prefix;
	op.range.end_len = snprintf(end, sizeof(end), "%s%c", current_key, '/' + 1);
	op.range.end = end;
	send(ETCD_PATH_RANGE, etcd_encode_range(&op), range_done);
}

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

/* Take the place, unless somebody has it. */
static bool
try_to_ask(const LockName *name, int64 create_revision, uint64 *id)
{
	bool		taken;

	SpinLockAcquire(&break_shared->mutex);
	taken = break_shared->state == BREAK_FREE;
	if (taken)
	{
		*id = ++break_shared->id;
		break_shared->state = BREAK_ASKED;
		break_shared->create_revision = create_revision;
		memcpy(break_shared->key, name->key, sizeof(break_shared->key));
	}
	SpinLockRelease(&break_shared->mutex);
	return taken;
}

/* Give the place back, whatever the worker is doing about our request. */
static void
let_go(uint64 id)
{
	SpinLockAcquire(&break_shared->mutex);
	if (break_shared->id == id)
		break_shared->state = BREAK_FREE;
	SpinLockRelease(&break_shared->mutex);
	ConditionVariableBroadcast(&break_shared->changed);
}

static bool
is_done(uint64 id, bool *broken, LockFailure *failure)
{
	bool		done;

	SpinLockAcquire(&break_shared->mutex);
	done = break_shared->id == id && break_shared->state == BREAK_DONE;
	if (done)
	{
		*broken = break_shared->broken;
		*failure = break_shared->failure;
	}
	SpinLockRelease(&break_shared->mutex);
	return done;
}

/*
 * Wait until it is done.  The worker bounds each of the two requests it takes;
 * the rest is for one that does not answer.
 */
static bool
wait_for_break(uint64 id, int64 give_up_at)
{
	LockFailure failure;
	bool		broken;

	ConditionVariablePrepareToSleep(&break_shared->changed);
	while (!is_done(id, &broken, &failure))
	{
		if (clock_now() >= give_up_at)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("etcd did not answer in time"),
					 errhint("Whether the lock was broken is not known; look at its queue.")));
		(void) ConditionVariableTimedSleep(&break_shared->changed, 100,
										   etcd_lock_wait_event_check());
	}
	ConditionVariableCancelSleep();
	if (failure.kind != FAILURE_NONE)
		ereport(ERROR,
				(errcode(failure.sqlerrcode),
				 errmsg("could not break the lock"),
				 errdetail("%s", lock_text_for_user(failure.message, strlen(failure.message)))));
	return broken;
}

Datum
etcd_lock_sql_break(PG_FUNCTION_ARGS)
{
	LockName	name;
	int64		token = PG_GETARG_INT64(1);
	int64		give_up_at = clock_now() + 2 * (int64) etcd_lock_request_timeout * 1000;
	uint64		id;
	volatile bool broken = false;

	lock_require_preload();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to break an etcd lock")));
	lock_name_from_text(&name, PG_GETARG_TEXT_PP(0));

	ConditionVariablePrepareToSleep(&break_shared->changed);
	while (!try_to_ask(&name, token >> TOKEN_PASS_BITS, &id))
	{
		if (clock_now() >= give_up_at)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("another session is breaking a lock")));
		(void) ConditionVariableTimedSleep(&break_shared->changed, 100,
										   etcd_lock_wait_event_check());
	}
	ConditionVariableCancelSleep();

	PG_TRY();
	{
		lock_table_wake_worker();
		broken = wait_for_break(id, give_up_at);
	}
	PG_FINALLY();
	{
		let_go(id);
	}
	PG_END_TRY();

	if (broken)
		ereport(LOG,
				(errmsg("etcd lock \"%s\" with token " INT64_FORMAT " was broken by user \"%s\"",
						name.key, token, GetUserNameFromId(GetUserId(), true))));
	PG_RETURN_BOOL(broken);
}
