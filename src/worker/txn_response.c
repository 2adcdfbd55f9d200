/*-------------------------------------------------------------------------
 *
 * txn_response.c
 *	  What the response to a Txn means for each of its operations.
 *
 * No response is thrown away: what etcd says wins over what the table
 * believes.  If there is none, the request may still be applied.  A key that
 * may have been put in this way is marked deleting, its serial is not used
 * again before its end is certain, and the session asks anew (README.md, rules
 * 1, 11, 15).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "client/sqlstate.h"
#include "etcd/etcd_error.h"
#include "mb/pg_wchar.h"
#include "shared/link_status.h"
#include "worker/held_keys.h"
#include "worker/key_step.h"
#include "worker/lease.h"
#include "worker/name_queue.h"
#include "worker/recent_names.h"
#include "worker/tick.h"
#include "worker/tick_lease.h"
#include "worker/txn_build.h"
#include "worker/txn_queue.h"
#include "worker/txn_response.h"

#define RETRY_PAUSE			INT64CONST(200000)	/* microseconds */
#define REFUSED_PAUSE		INT64CONST(1000000)

/* How often a try is put after a read before it waits in the queue. */
#define MAX_RACES			3

/* What became of an operation if its Txn was not applied. */
typedef enum Outcome
{
	OUTCOME_UNKNOWN,			/* may still be applied */
	OUTCOME_NOT_SENT,			/* certainly not applied */
	OUTCOME_REFUSED,			/* not applied; *error says why */
	OUTCOME_TOO_LONG			/* likely applied; *error says so */
} Outcome;

/* Does the slot still have the key that the request was about? */
static bool
op_is_current(const TxnOp *op)
{
	return op->key->key_id == op->key_id;
}

/* Tell the sessions that ask for this key, which is gone. */
static void
fail_key(WorkerKey *key, KeyEvent event, LockFailureKind kind, int sqlerrcode,
		 const char *message)
{
	LockFailure failure = {.kind = kind,.sqlerrcode = sqlerrcode};

	strlcpy(failure.message, message, sizeof(failure.message));
	failure.message[pg_encoding_mbcliplen(PG_UTF8, failure.message, strlen(failure.message),
										  sizeof(failure.message) - 1)] = '\0';
	key_step(key, event, &failure);
}

/*
 * Tell the sessions that try to have this key, and did so before a read of the
 * queue was sent, what that has shown.
 */
static void
refuse_key(WorkerKey *key, LockFailureKind kind, int64 sent_at)
{
	LockFailure failure = {.kind = kind,.seen_at = sent_at};

	key_step(key, KEY_ON_BLOCKED, &failure);
}

/*
 * Tell the sessions that still ask for it what etcd said, and leave the key as it
 * is.
 */
static void
tell_failure(const TxnOp *op, LockFailureKind kind, const EtcdError *error)
{
	LockFailure failure = {.kind = kind,.sqlerrcode = sqlstate_of(error)};
	LWLock	   *lock = name_lock(op->name);

	strlcpy(failure.message, error->message, sizeof(failure.message));
	if (name_shared_key(op->key)->state != KEY_ABANDONED)
		(void) lock_key_tell_failure(op->name->entry, name_shared_key(op->key), &failure);
	lock_table_unlock(lock);
}

/*
 * The queue is too long for a response.  If the operation was alone, its
 * session is told; others are tried again, alone.  A key that may have been
 * put is deleted, and put anew; a read is repeated.
 */
static void
op_too_long(TxnOp *op, const EtcdError *error, bool alone)
{
	WorkerKey  *key = op->key;

	recent_name_note_oversized(op->name->entry, true);
	if (alone && op->kind == TXN_OP_READ)
	{
		fail_key(key, KEY_ON_REFUSE, FAILURE_ERROR, sqlstate_of(error), error->message);
		return;
	}
	if (alone)
		tell_failure(op, FAILURE_ERROR, error);
	key_step(key, KEY_ON_UNKNOWN, NULL);
}

static void
fail_range(WorkerName *name, const EtcdError *error)
{
	LockFailure failure = {.kind = FAILURE_ERROR,.sqlerrcode = sqlstate_of(error)};

	strlcpy(failure.message, error->message, sizeof(failure.message));
	name_queue_refused(name, &failure);
}

static bool
op_puts(const TxnOp *op)
{
	return op->kind == TXN_OP_PUT || op->kind == TXN_OP_PUT_FIRST ||
		op->kind == TXN_OP_TRY;
}

static void
range_not_done(WorkerName *name, Outcome outcome, const EtcdError *error, int nops)
{
	bool		alone = nops == 1;

	name->range_retry_at = clock_now() +
		(outcome == OUTCOME_TOO_LONG && alone ? REFUSED_PAUSE : RETRY_PAUSE);
	if (outcome == OUTCOME_REFUSED || outcome == OUTCOME_TOO_LONG)
		name->range_max_ops = Max(nops / 2, 1);
	if (alone && (outcome == OUTCOME_TOO_LONG || error->code == ETCD_PERMISSION_DENIED))
		fail_range(name, error);
	txn_queue_range(name);
}

/*
 * Etcd has no space left, which it may find out after it has applied the Txn.
 * So the session is told, and the key deleted.
 */
static void
op_without_space(TxnOp *op, const EtcdError *error)
{
	tell_failure(op, op->kind == TXN_OP_TRY && op->has_tick ? FAILURE_UNSURE : FAILURE_ERROR,
				 error);
	key_step(op->key, KEY_ON_UNKNOWN, NULL);
}

/*
 * Etcd has refused the Txn.  If this operation was not alone, another one may
 * be the reason, so next time only half as many go together.
 */
static void
op_refused(TxnOp *op, const EtcdError *error, int nops)
{
	WorkerKey  *key = op->key;

	if (op_puts(op) && error->code == ETCD_RESOURCE_EXHAUSTED &&
		strstr(error->message, "database space exceeded") != NULL)
	{
		op_without_space(op, error);
		return;
	}
	if (nops > 1)
	{
		key->max_ops = nops / 2;
		key->retry_at = 0;
		key_step(key, KEY_ON_UNSENT, NULL);
		return;
	}
	if (op->kind == TXN_OP_DELETE)
	{
		/* etcd may have refused to delete the note on it */
		if (op->has_note)
			held_keys_leave_note(key);
		key->max_ops = 1;
		key->retry_at = clock_now() + REFUSED_PAUSE;
		key_step(key, KEY_ON_REFUSE, NULL);
		return;
	}
	if (error->code == ETCD_PERMISSION_DENIED || error->code == ETCD_INVALID_ARGUMENT)
		recent_name_note_refused(key->name->entry, name_shared_key(key)->requester_pid);
	fail_key(key, KEY_ON_REFUSE, FAILURE_ERROR, sqlstate_of(error), error->message);
}

/* The Txn with nops operations was not applied, or its outcome is unknown. */
static void
op_not_done(TxnOp *op, Outcome outcome, const EtcdError *error, int nops)
{
	if (op->kind == TXN_OP_ORPHAN || op->kind == TXN_OP_ORPHAN_READ)
		orphan_retry_later(op->orphan, outcome == OUTCOME_REFUSED);
	else if (op->kind == TXN_OP_RANGE)
		range_not_done(op->name, outcome, error, nops);
	else if (!op_is_current(op))
		 /* no longer needed */ ;
	else if (outcome == OUTCOME_TOO_LONG && op->kind != TXN_OP_DELETE)
		op_too_long(op, error, nops == 1);
	else if (outcome == OUTCOME_REFUSED)
		op_refused(op, error, nops);
	else
	{
		bool		unsent = outcome == OUTCOME_NOT_SENT;

		if (op_puts(op) && !unsent)
			orphan_expect(op->key->etcd_key, op->key->etcd_key_len);

		/* What may have been put is deleted without a pause. */
		op->key->retry_at = unsent || !op_puts(op) ? clock_now() + RETRY_PAUSE : 0;
		key_step(op->key, unsent ? KEY_ON_UNSENT : KEY_ON_UNKNOWN, NULL);
	}
}

/* Was there a request without a response that may claim the key's tick? */
static bool
is_unsure(const WorkerKey *key)
{
	LWLock	   *lock = name_lock(key->name);
	bool		unsure = lock_key_is_unsure(key->name->entry, name_shared_key(key));

	lock_table_unlock(lock);
	return unsure;
}

/*
 * A try is refused.  It may have claimed its tick before, with a request whose
 * response got lost, or may yet claim it, when those ahead are gone and that
 * request is applied late: then nobody else runs for this tick, and "false"
 * would be a lie.  Only another one's claim of the same tick rules that out.
 */
static void
refuse_try(WorkerKey *key, TickState tick, int64 sent_at)
{
	bool		unsure = is_unsure(key);

	if (tick == TICK_OURS)
		fail_key(key, KEY_ON_BLOCKED, FAILURE_UNSURE, ERRCODE_CONNECTION_FAILURE,
				 "The tick is claimed, but the lock has another owner by now; nobody runs for this tick.");
	else if (tick == TICK_PAST && unsure)
		fail_key(key, KEY_ON_BLOCKED, FAILURE_UNSURE, ERRCODE_CONNECTION_FAILURE,
				 "It is not known whether the tick was claimed; a later one has been since.");
	else if (tick == TICK_FREE && unsure)
		fail_key(key, KEY_ON_BLOCKED, FAILURE_UNSURE, ERRCODE_CONNECTION_FAILURE,
				 "It is not known whether the tick will be claimed; the lock has another owner by now.");
	else
		refuse_key(key, FAILURE_REFUSED, sent_at);
}

/*
 * The keys ahead may only be kept by their servers, which give them up once
 * ours is in the queue.  So the try puts its key and waits for a while.  A
 * tick cannot be claimed in this way; its session gets the lock first.
 * Likewise if keys come and go below the name, in the way of nobody, but each
 * time between our read and our put.
 */
static void
try_behind_kept(WorkerKey *key, int64 sent_at)
{
	if (name_shared_key(key)->has_tick && is_unsure(key))
		refuse_try(key, TICK_FREE, sent_at);
	else if (name_shared_key(key)->has_tick)
		refuse_key(key, FAILURE_KEPT, sent_at);
	else
		key_step(key, KEY_ON_KEPT, NULL);
}

/*
 * The first step of a try, or a second one that found something new: the
 * results are the queue, and then the tick.  If the name has no tick yet,
 * those of the namespace are counted.
 */
static void
try_read(const TxnOp *op, const EtcdOpResult *results, int64 revision, int64 sent_at)
{
	WorkerKey  *key = op->key;
	QueueView	view;
	bool		is_free;
	bool		is_data;
	bool		is_kept;
	LockFailure data;
	TickState	tick = TICK_FREE;
	bool		is_another_tick = false;

	name_queue_view(key->name->name, &results[0], &view);

	/*
	 * Our own key is there: the Txn was applied twice, and this is the
	 * response to the second time.  What the first time did is unknown.
	 */
	if (name_queue_has_key(&view, key))
	{
		pfree(unconstify(QueueKey *, view.keys));
		key_step(key, KEY_ON_EXISTS, NULL);
		return;
	}
	is_free = queue_is_free(&view, key->mode == LOCK_EXCLUSIVE);
	is_data = name_queue_is_data_ahead(&view, key->mode, PG_INT64_MAX, &data);
	is_kept = queue_kept_ahead(&view, key->mode == LOCK_EXCLUSIVE, PG_INT64_MAX) > 0;
	if (view.nkeys > 0)
		recent_name_note_contended(key->name->entry);
	name_queue_note_length(key->name, name_shared_key(key)->requester_pid, view.nkeys);
	pfree(unconstify(QueueKey *, view.keys));

	if (name_shared_key(key)->has_tick)
	{
		key->tick_revision = results[1].nkvs == 0 ? 0 : results[1].kvs[0].mod_revision;
		tick_copy(key->tick_value, &results[1]);
		if (op->kind == TXN_OP_TRY && results[2].succeeded)
			key->tick_revision = revision;	/* see fence_tick() */
		tick = tick_state_of(&results[1], name_shared_key(key)->tick, name_shared_key(key)->claim);
		is_another_tick = op->kind == TXN_OP_READ && key->tick_revision == 0;
	}
	if (tick == TICK_ODD)
		fail_key(key, KEY_ON_BLOCKED, FAILURE_ERROR, ERRCODE_DATA_CORRUPTED,
				 psprintf("key \"%s\" in etcd does not hold a tick",
						  txn_build_tick_key(key)));
	else if (is_data)
		fail_key(key, KEY_ON_BLOCKED, data.kind, data.sqlerrcode, data.message);
	else if (is_kept && tick == TICK_FREE)
		try_behind_kept(key, sent_at);
	else if (!is_free || tick == TICK_TAKEN || tick == TICK_PAST)
		refuse_try(key, tick, sent_at);
	else if (is_another_tick && op->counts_ticks && results[2].count >= name_shared_key(key)->max_ticks)
		fail_key(key, KEY_ON_BLOCKED, FAILURE_TICKS, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "");
	else if (is_another_tick && !op->counts_ticks)
	{
		key->counts_ticks = true;
		key_step(key, KEY_ON_UNSENT, NULL); /* read once more */
	}
	else if (op->kind == TXN_OP_TRY && ++key->nraces > MAX_RACES)
		try_behind_kept(key, sent_at);
	else
	{
		key->was_read = true;
		key->read_revision = revision;
		key_step(key, KEY_ON_CLEAR, NULL);
	}
}

/*
 * A suspected orphan may be gone, or be known by now, because the list that
 * showed it was older.
 */
static void
orphan_read(Orphan *orphan, const EtcdOpResult *result)
{
	if (result->nkvs == 0 || name_knows_key(orphan->key, orphan->key_len))
		orphan_not_found(orphan);
	else
	{
		orphan->create_revision = result->kvs[0].create_revision;
		orphan->in_flight = false;
	}
}

/* The key was put into an empty queue, so it is the only one. */
static void
key_put_first(WorkerKey *key, int64 revision, int64 sent_at)
{
	EtcdKeyValue own = {
		.key = key->etcd_key,.key_len = key->etcd_key_len,.value = "",
		.create_revision = revision,.mod_revision = revision
	};
	EtcdOpResult queue = {
		.type = ETCD_OP_RANGE,.nkvs = 1,.kvs = &own,.count = 1
	};

	name_queue_key_put(key, &queue, revision, sent_at);
}

/*
 * Only the request itself can have put its key before: if so, it was applied
 * twice, and this is the response to the second time.
 */
static void
put_done(WorkerKey *key, const EtcdOpResult *put, const EtcdOpResult *queue, int64 revision,
		 int64 sent_at)
{
	if (!put->succeeded)
		key_step(key, KEY_ON_EXISTS, NULL);
	else if (queue == NULL)
		key_put_first(key, revision, sent_at);
	else
		name_queue_key_put(key, queue, revision, sent_at);
}

static void
key_op_done(TxnOp *op, const EtcdOpResult *result, int64 revision, int64 sent_at)
{
	WorkerKey  *key = op->key;
	bool		deleted;
	bool		was_empty;

	key->max_ops = 0;
	switch (op->kind)
	{
		case TXN_OP_DELETE:

			/*
			 * else it is gone, or another key has the name by now
			 */
			deleted = op->fenced && result->succeeded &&
				result->results[0].deleted == 1;
			if (deleted && op->has_note)
				held_keys_note_deleted(key, revision);
			key_step(key, deleted ? KEY_ON_DELETED : KEY_ON_MISSING, NULL);
			break;

		case TXN_OP_PUT:
			put_done(key, result, result->succeeded ? &result->results[1] : NULL, revision,
					 sent_at);
			break;

		case TXN_OP_PUT_FIRST:
			was_empty = result[1].succeeded;
			if (!was_empty)
				recent_name_note_contended(op->name->entry);
			put_done(key, result, was_empty ? NULL : &result[1].results[0], revision,
					 sent_at);
			break;

		case TXN_OP_TRY:
			if (result->succeeded)
				name_queue_key_put(key, &result->results[1], revision, sent_at);
			else
				try_read(op, result->results, revision, sent_at);
			break;

		case TXN_OP_READ:
			try_read(op, result, revision, sent_at);
			break;

		default:
			Assert(false);
	}
}

static void
op_done(TxnOp *op, const EtcdTxnResult *result, int64 sent_at)
{
	const EtcdOpResult *first = &result->results[op->result];
	int64		revision = result->header.revision;

	switch (op->kind)
	{
		case TXN_OP_ORPHAN_READ:
			orphan_read(op->orphan, first);
			break;

		case TXN_OP_ORPHAN:
			/* deleted, or gone, or another key by now */
			orphan_forget(op->orphan);
			break;

		case TXN_OP_RANGE:
			op->name->range_max_ops = 0;
			name_queue_update(op->name, first, revision, sent_at);
			break;

		default:
			if (op_is_current(op))
				key_op_done(op, first, revision, sent_at);
			break;
	}
}

/* ----------------------------------------------------------------
 *		Is it the response to this request?
 * ----------------------------------------------------------------
 */

/* Is it the queue of this name, a range below it? */
static bool
is_queue_of(const WorkerName *name, const EtcdOpResult *result)
{
	if (result->type != ETCD_OP_RANGE)
		return false;
	for (int i = 0; i < result->nkvs; i++)
	{
		if (!key_layout_is_below(result->kvs[i].key, result->kvs[i].key_len,
								 name->name, name->name_len))
			return false;
	}
	return true;
}

static bool
is_orphan(const Orphan *orphan, const EtcdOpResult *result)
{
	return result->type == ETCD_OP_RANGE &&
		(result->nkvs == 0 ||
		 (result->nkvs == 1 && result->kvs[0].key_len == orphan->key_len &&
		  memcmp(result->kvs[0].key, orphan->key, orphan->key_len) == 0));
}

static bool
is_tick(const EtcdOpResult *result)
{
	return result->type == ETCD_OP_RANGE && result->nkvs <= 1;
}

/* Is it a Txn with the right number of results for the branch that ran? */
static bool
is_txn(const EtcdOpResult *result, int nsuccess, int nfailure)
{
	return result->type == ETCD_OP_TXN &&
		result->nresults == (result->succeeded ? nsuccess : nfailure);
}

static bool
is_delete(const EtcdOpResult *result, bool has_note)
{
	return is_txn(result, has_note ? 2 : 1, 0) &&
		(!result->succeeded ||
		 (result->results[0].type == ETCD_OP_DELETE &&
		  (!has_note || result->results[1].type == ETCD_OP_DELETE)));
}

static bool
is_put(const WorkerName *name, const EtcdOpResult *result)
{
	return is_txn(result, 2, 0) &&
		(!result->succeeded ||
		 (result->results[0].type == ETCD_OP_PUT &&
		  is_queue_of(name, &result->results[1])));
}

static bool
is_try(const TxnOp *op, const EtcdOpResult *result)
{
	if (!is_txn(result, op->has_tick ? 3 : 2, op->has_tick ? 3 : 1))
		return false;
	if (result->succeeded)
		return result->results[0].type == ETCD_OP_PUT &&
			is_queue_of(op->name, &result->results[1]) &&
			(!op->has_tick || result->results[2].type == ETCD_OP_PUT);
	return is_queue_of(op->name, &result->results[0]) &&
		(!op->has_tick ||
		 (is_tick(&result->results[1]) && is_txn(&result->results[2], 1, 0) &&
		  (!result->results[2].succeeded ||
		   result->results[2].results[0].type == ETCD_OP_PUT)));
}

static bool
op_fits(const TxnOp *op, const EtcdOpResult *result)
{
	switch (op->kind)
	{
		case TXN_OP_DELETE:
		case TXN_OP_ORPHAN:
			return is_delete(result, op->has_note);
		case TXN_OP_ORPHAN_READ:
			return is_orphan(op->orphan, result);
		case TXN_OP_PUT:
			return is_put(op->name, result);
		case TXN_OP_PUT_FIRST:
			return is_txn(result, 1, 0) &&
				(!result->succeeded || result->results[0].type == ETCD_OP_PUT) &&
				is_txn(&result[1], 0, 1) &&
				(result[1].succeeded || is_queue_of(op->name, &result[1].results[0]));
		case TXN_OP_TRY:
			return is_try(op, result);
		case TXN_OP_RANGE:
			return is_queue_of(op->name, result);
		case TXN_OP_READ:
			return is_queue_of(op->name, result) &&
				(!op->has_tick || is_tick(&result[1])) &&
				(!op->counts_ticks || is_tick(&result[2]));
	}
	return false;
}

/* Has it put a key? */
static bool
op_has_put(const TxnOp *op, const EtcdOpResult *result)
{
	return op_puts(op) && result->succeeded;
}

/*
 * Is it the response to this request, and not to another one?  It must have as
 * many results as the Txn had operations, of the right kinds and about the
 * right names, and be no older than what we knew when we sent the request; a
 * put must have made a new revision.  Otherwise nothing in it is believed.
 * (Another cluster has its own revisions: see lease_saw_header().)
 */
static bool
response_fits(const Txn *txn, const EtcdTxnResult *result)
{
	int64		least = txn->min_revision;

	if (!result->succeeded || result->nresults != txn->nresults)
		return false;
	for (int i = 0; i < txn->nops; i++)
	{
		const TxnOp *op = &txn->ops[i];

		if (!op_fits(op, &result->results[op->result]))
			return false;
		if (op_has_put(op, &result->results[op->result]))
			least = txn->min_revision + 1;
	}
	return result->header.revision >= least ||
		result->header.cluster_id != lock_shared->cluster_id;
}

static bool
decode(const Txn *txn, const EtcdResponse *response, EtcdTxnResult *result,
	   EtcdError *error)
{
	if (txn->is_single)
		return etcd_response_single_range(&response->reply, result, error);
	return etcd_response_txn(&response->reply,
							 result, error);
}

/* Does it attach anything to another lease? */
static bool
has_tick(const Txn *txn)
{
	for (int i = 0; i < txn->nops; i++)
	{
		if (txn->ops[i].kind == TXN_OP_TRY && txn->ops[i].has_tick)
			return true;
	}
	return false;
}

/* What an error of etcd says about the Txn. */
static Outcome
outcome_of_error(const Txn *txn, const EtcdResponse *response, const EtcdError *error)
{
	switch (error->code)
	{
		case ETCD_NOT_FOUND:
			/* a put, but no such lease */
			if (has_tick(txn))
				tick_lease_doubt();
			else if (!txn->is_read &&
					 txn->epoch == deadline_epoch(&lock_shared->deadline))
				lease_gone("etcd does not know the lease any more");
			return OUTCOME_NOT_SENT;

		case ETCD_RESOURCE_EXHAUSTED:
			if (etcd_error_is_busy(error))
				return OUTCOME_NOT_SENT;
			link_status_note_no_space();
			return OUTCOME_REFUSED;

		case ETCD_INVALID_ARGUMENT:
		case ETCD_PERMISSION_DENIED:
		case ETCD_FAILED_PRECONDITION:
		case ETCD_OUT_OF_RANGE:
		case ETCD_UNAUTHENTICATED:
			if (txn_build_note_error(error, txn->max_ops))
				return OUTCOME_NOT_SENT;
			return OUTCOME_REFUSED;

		default:
			/* not to be repeated without a pause */
			link_bad_response(response, error->message);
			return OUTCOME_UNKNOWN;
	}
}

/*
 * Returns true if *result has what etcd did; else sets *outcome, and perhaps
 * *error.
 */
static bool
read_response(const Txn *txn, const EtcdResponse *response, EtcdTxnResult *result,
			  Outcome *outcome, EtcdError *error)
{
	*outcome = OUTCOME_UNKNOWN;
	if (response->too_long)
	{
		*outcome = OUTCOME_TOO_LONG;
		error->code = ETCD_BAD_RESPONSE;
		strlcpy(error->message, response->error, sizeof(error->message));
		return false;
	}
	if (!response->delivered)
	{
		if (!response->ambiguous)
			*outcome = OUTCOME_NOT_SENT;
		return false;
	}
	if (!decode(txn, response, result, error))
	{
		*outcome = outcome_of_error(txn, response, error);
		return false;
	}
	if (!response_fits(txn, result))
	{
		etcd_response_free_txn(result);
		link_bad_response(response, "unexpected response from etcd");
		return false;
	}
	return true;
}

/* Its reads of queues are no longer in flight, whatever became of them. */
static void
note_landed(const Txn *txn)
{
	for (int i = 0; i < txn->nops; i++)
	{
		const TxnOp *op = &txn->ops[i];

		/* behind an overdue one there may be another by now */
		if (op->kind == TXN_OP_RANGE && !txn->overdue)
			op->name->range_in_flight = false;
	}
}

/* The Txn referred to its names until now; see name_release(). */
static void
release_names(Txn *txn)
{
	for (int i = 0; i < txn->nops; i++)
	{
		WorkerName *name = txn->ops[i].name;

		if (name == NULL)
			continue;
		if (name->range_again && !name->range_in_flight)
		{
			name->range_again = false;
			txn_queue_range(name);
		}
		name_release(name);
	}
}

void
txn_response_done(Txn *txn, const EtcdResponse *response)
{
	EtcdTxnResult result;
	EtcdError	error = {0};
	Outcome		outcome;
	bool		done;

	note_landed(txn);
	done = read_response(txn, response, &result, &outcome, &error);
	if (done && txn->epoch == deadline_epoch(&lock_shared->deadline))
		lease_saw_header(response, &result.header);
	if (done && txn->nops == 1 && txn->is_read &&
		txn->ops[0].name != NULL)
		recent_name_note_oversized(txn->ops[0].name->entry, false);

	for (int i = 0; i < txn->nops; i++)
	{
		if (done)
			op_done(&txn->ops[i], &result, txn->sent_at);
		else
			op_not_done(&txn->ops[i], outcome, &error, txn->nops);
	}
	if (done)
		etcd_response_free_txn(&result);

	release_names(txn);
	txn_build_free(txn);
}
