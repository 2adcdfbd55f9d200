/*-------------------------------------------------------------------------
 *
 * answers.c
 *	  What etcd has answered to a Txn, item by item.
 *
 * Never throw away an answer: what etcd says wins over what the table believes.
 * Where there is none, the request may still be carried out.  A key that may
 * have been put so is condemned, its number not used again before its end is
 * sure, and the session asks anew (README.md, rules 1, 11, 15).
 *
 *-------------------------------------------------------------------------
 */
#include "batch.h"

#include "health.h"
#include "mb/pg_wchar.h"

#define RETRY_PAUSE			INT64CONST(200000)	/* microseconds */
#define REFUSED_PAUSE		INT64CONST(1000000)

/* What became of an item, when its Txn was not carried out. */
typedef enum Outcome
{
	OUTCOME_UNKNOWN,			/* may be carried out yet */
	OUTCOME_NOT_SENT,			/* surely not */
	OUTCOME_REFUSED,			/* not carried out; *error says why */
	OUTCOME_TOO_LONG			/* likely carried out; *error says so */
} Outcome;

/* Is the slot still used for the key that the request was about? */
static bool
item_is_current(const Item *item)
{
	return item->name->entry != NULL && item->key->number == item->number;
}

static void
condemn(WorkerKey *key)
{
	LockEntry  *entry = key->name->entry;
	LockKey    *shared = shared_key(key);
	LWLock	   *lock = lock_entry_lock(entry);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	lock_key_note_unsure(entry, shared);
	if (shared->state != KEY_DELETING)
	{
		lock_key_condemn(entry, shared);
		lock_entry_wake(entry);
	}
	lock_entry_unlock(lock);
	requests_key(key, PHASE_DELETE);
}

/* The sessions that ask for this key are told, and it is gone. */
static void
fail_key(WorkerKey *key, LockFailureKind kind, int sqlerrcode,
		 const char *message)
{
	LockEntry  *entry = key->name->entry;
	LockKey    *shared = shared_key(key);
	LWLock	   *lock = lock_entry_lock(entry);
	LockFailure failure = {.kind = kind, .sqlerrcode = sqlerrcode};

	strlcpy(failure.message, message, sizeof(failure.message));
	failure.message[pg_encoding_mbcliplen(PG_UTF8, failure.message, strlen(failure.message),
										  sizeof(failure.message) - 1)] = '\0';
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (shared->state == KEY_DELETING)
		lock_key_free(entry, shared);
	else
		lock_key_fail(entry, shared, &failure);
	lock_entry_unlock(lock);
	name_free_key(key);
}

/* The SQLSTATE for what etcd has refused. */
int
worker_sqlerrcode(const EtcdError *error)
{
	switch (error->code)
	{
		case ETCD_PERMISSION_DENIED:
			return ERRCODE_INSUFFICIENT_PRIVILEGE;
		case ETCD_UNAUTHENTICATED:
			return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
		case ETCD_RESOURCE_EXHAUSTED:
			return ERRCODE_DISK_FULL;
		case ETCD_BAD_ANSWER:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		default:
			return ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	}
}

/*
 * A queue that is too long for an answer: who asked alone is told; others ask
 * again, alone.  A key that may have been put is deleted.
 */
static void
item_too_long(Item *item, const EtcdError *error, bool alone)
{
	WorkerKey  *key = item->key;
	LockEntry  *entry = item->name->entry;
	LockFailure failure = {.kind = FAILURE_ERROR, .sqlerrcode = worker_sqlerrcode(error)};

	name_note_huge(item->name, true);
	if (alone && key->phase != PHASE_DELETE)
	{
		LWLock	   *lock = lock_entry_lock(entry);

		strlcpy(failure.message, error->message, sizeof(failure.message));
		LWLockAcquire(lock, LW_EXCLUSIVE);
		lock_key_tell_failure(entry, shared_key(key), &failure);
		lock_entry_unlock(lock);
	}
	condemn(key);
}

/*
 * The name's queue cannot be read, and will not be by asking again: nobody is to
 * wait for it for ever.
 */
static void
fail_range(WorkerName *name, const EtcdError *error)
{
	LockFailure failure = {.kind = FAILURE_ERROR, .sqlerrcode = worker_sqlerrcode(error)};
	LWLock	   *lock = name_lock(name);

	strlcpy(failure.message, error->message, sizeof(failure.message));
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (name->keys[i].number != 0)
			lock_key_tell_failure(name->entry, shared_key(&name->keys[i]), &failure);
	}
	lock_entry_wake(name->entry);
	lock_entry_unlock(lock);
}

static void
item_not_done(Item *item, Outcome outcome, const EtcdError *error, bool alone)
{
	int64		now = clock_now();

	if (item->kind == ITEM_STRAY || item->kind == ITEM_STRAY_LOOK)
	{
		requests_stray_later(item->stray);
		return;
	}
	if (item->kind == ITEM_RANGE)
	{
		if (item->name->entry == NULL)
			return;
		item->name->range_retry_at = now +
			(outcome == OUTCOME_TOO_LONG && alone ? REFUSED_PAUSE : RETRY_PAUSE);
		item->name->range_alone = outcome == OUTCOME_REFUSED || outcome == OUTCOME_TOO_LONG;
		if (alone && (outcome == OUTCOME_TOO_LONG || error->code == ETCD_PERMISSION_DENIED))
			fail_range(item->name, error);
		requests_range(item->name);
		return;
	}
	if (!item_is_current(item))
		return;

	if (outcome == OUTCOME_TOO_LONG && item->kind != ITEM_DELETE)
	{
		item_too_long(item, error, alone);
		return;
	}

	/* A put that may come late is never tried again under the same number. */
	if ((item->kind == ITEM_PUT || item->kind == ITEM_PUT_FIRST ||
		 item->kind == ITEM_TRY) && outcome == OUTCOME_UNKNOWN)
	{
		condemn(item->key);
		return;
	}
	if (outcome == OUTCOME_REFUSED && alone && item->kind != ITEM_DELETE &&
		item->key->phase != PHASE_DELETE)
	{
		fail_key(item->key, FAILURE_ERROR, worker_sqlerrcode(error), error->message);
		return;
	}
	item->key->alone = outcome == OUTCOME_REFUSED;
	item->key->retry_at = now +
		(outcome == OUTCOME_REFUSED ? (alone ? REFUSED_PAUSE : 0) : RETRY_PAUSE);
	if (item->kind != ITEM_DELETE && item->key->phase != PHASE_DELETE)
		item->key->sent = false;
	requests_requeue(item->key);
}

/*
 * What is in a tick's key?  Claimed by the same call it is as good as free: an
 * earlier request was carried out, but the answer got lost, so nobody has been
 * told that the tick is theirs.
 */
TickState
batch_tick_state(const EtcdOpResult *result, TimestampTz tick, uint64 claim)
{
	const EtcdKeyValue *kv = result->kvs;
	TickState	state;
	char	   *wanted;
	int			order;

	if (result->nkvs == 0)
		return TICK_FREE;
	if (kv->value_len < TICK_LEN || strlen(kv->value) != kv->value_len)
		return TICK_ODD;
	wanted = batch_tick_value(tick, claim);
	order = strncmp(kv->value, wanted, TICK_LEN);
	if (order < 0)
		state = TICK_FREE;
	else if (order > 0)
		state = TICK_PAST;
	else
		state = strcmp(kv->value, wanted) == 0 ? TICK_OURS : TICK_TAKEN;
	pfree(wanted);
	return state;
}

/*
 * A try is refused.  It may have claimed its tick before, by a request whose
 * answer got lost: then nobody else runs for this tick, and "false" would be a lie.
 */
static void
refuse_try(WorkerKey *key, TickState tick)
{
	LWLock	   *lock = name_lock(key->name);
	bool		unsure = lock_key_is_unsure(key->name->entry, shared_key(key));

	lock_entry_unlock(lock);
	if (tick == TICK_OURS)
		fail_key(key, FAILURE_UNSURE, ERRCODE_CONNECTION_FAILURE,
				 "The tick is claimed, but the lock has another owner by now; nobody runs for this tick.");
	else if (tick == TICK_PAST && unsure)
		fail_key(key, FAILURE_UNSURE, ERRCODE_CONNECTION_FAILURE,
				 "Whether the tick was claimed is not known; a later one has been since.");
	else
		fail_key(key, FAILURE_REFUSED, 0, "");
}

/* First step of a try, or a second one that found that something has come. */
static void
try_looked(WorkerKey *key, const EtcdOpResult *results, int64 revision)
{
	QueueView	view;
	bool		is_free;
	TickState	tick = TICK_FREE;

	if (key->phase != PHASE_TRY)
	{
		requests_requeue(key);		/* condemned meanwhile */
		return;
	}
	name_view(key->name, &results[0], &view);

	/*
	 * Our own key is there: the Txn was carried out twice, and this is the
	 * second answer.  What the first one did is unknown.
	 */
	if (name_has_key(&view, key))
	{
		pfree(unconstify(QueueKey *, view.keys));
		condemn(key);
		return;
	}
	is_free = queue_is_free(&view, key->mode == LOCK_EXCLUSIVE);
	pfree(unconstify(QueueKey *, view.keys));

	if (shared_key(key)->has_tick)
	{
		key->tick_revision = results[1].nkvs == 0 ? 0 : results[1].kvs[0].mod_revision;
		tick = batch_tick_state(&results[1], shared_key(key)->tick, shared_key(key)->claim);
	}
	if (tick == TICK_ODD)
		fail_key(key, FAILURE_ERROR, ERRCODE_DATA_CORRUPTED,
				 psprintf("key \"%s\" in etcd does not hold a tick",
						  batch_tick_key(key)));
	else if (!is_free || tick == TICK_TAKEN || tick == TICK_PAST)
		refuse_try(key, tick);
	else
	{
		key->looked = true;
		key->look_revision = revision;
		key->sent = false;
		requests_requeue(key);
	}
}

/* A condemned key is in etcd no more. */
static void
key_gone(WorkerKey *key)
{
	LockEntry  *entry = key->name->entry;
	LWLock	   *lock = lock_entry_lock(entry);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	lock_key_free(entry, shared_key(key));
	lock_entry_unlock(lock);
	name_free_key(key);
}

/*
 * What looked like a stray may be gone, or have become known again: the list
 * that showed it was older.
 */
static void
stray_looked(Stray *stray, const EtcdOpResult *result)
{
	if (result->nkvs == 0 || own_keys_know(stray->key, stray->key_len))
		requests_forget_stray(stray);
	else
	{
		stray->create_revision = result->kvs[0].create_revision;
		stray->under_way = false;
	}
}

/* The key was put into an empty queue: it is all there is. */
static void
put_first(WorkerKey *key, int64 revision)
{
	EtcdKeyValue own = {
		.key = key->etcd_key, .key_len = strlen(key->etcd_key), .value = "",
		.create_revision = revision, .mod_revision = revision
	};
	EtcdOpResult queue = {
		.type = ETCD_OP_RANGE, .nkvs = 1, .kvs = &own, .count = 1
	};

	name_key_put(key, &queue, revision);
}

/* The key is in etcd. */
static void
key_put(const Item *item, const EtcdTxnResult *txn)
{
	WorkerKey  *key = item->key;

	key->create_revision = txn->header.revision;
	if (key->phase == PHASE_DELETE)
	{
		requests_requeue(key);		/* condemned meanwhile */
		return;
	}
	key->phase = PHASE_NONE;
	if (item->kind == ITEM_PUT_FIRST)
		put_first(key, txn->header.revision);
	else
		name_key_put(key, &txn->results[item->result], txn->header.revision);
}

/*
 * A compare has failed, and this time nothing was done.
 *
 * Where keys were to be the first in their queues, somebody may be in one of
 * them: now they stand in line.  A key to be deleted may be gone: each is sent
 * again alone, to see which it was.  Or the request was carried out twice, and
 * this is the second answer.  Nothing else makes the compare of a plain put
 * fail, to which all puts come in the end.
 */
static void
item_compare_failed(Item *item, bool alone)
{
	switch (item->kind)
	{
		case ITEM_STRAY:
			/* gone, or another key by now */
			requests_forget_stray(item->stray);
			break;

		case ITEM_DELETE:
			if (!item_is_current(item))
				break;
			if (alone)
				key_gone(item->key);
			else
			{
				item->key->alone = true;
				requests_requeue(item->key);
			}
			break;

		case ITEM_PUT_FIRST:
			if (!item_is_current(item))
				break;
			name_note_crowd(item->name);
			requests_requeue(item->key);
			break;

		default:
			if (item_is_current(item))
				condemn(item->key);
			break;
	}
}

static void
item_done(Item *item, const EtcdTxnResult *txn)
{
	int			first = txn->succeeded ? item->result : item->else_result;
	WorkerKey  *key = item->key;

	switch (item->kind)
	{
		case ITEM_STRAY_LOOK:
			stray_looked(item->stray, &txn->results[first]);
			break;

		case ITEM_STRAY:
			requests_forget_stray(item->stray);
			break;

		case ITEM_DELETE:
			if (!item_is_current(item))
				break;
			key->deleted = item->fenced && txn->results[first].deleted == 1;
			key_gone(key);
			break;

		case ITEM_PUT:
		case ITEM_PUT_FIRST:
			if (item_is_current(item))
				key_put(item, txn);
			break;

		case ITEM_TRY:
			if (!item_is_current(item))
				break;
			if (txn->succeeded)
				key_put(item, txn);
			else
				try_looked(key, &txn->results[first], txn->header.revision);
			break;

		case ITEM_LOOK:
			if (item_is_current(item))
				try_looked(key, &txn->results[first], txn->header.revision);
			break;

		case ITEM_RANGE:
			item->name->range_alone = false;
			if (item->name->entry != NULL)
				name_judge(item->name, &txn->results[first],
							 txn->header.revision, &item->checks);
			break;
	}
}

/* Is it about the queue of this name: a range below it? */
static bool
is_queue_of(const WorkerName *name, const EtcdOpResult *result)
{
	if (result->type != ETCD_OP_RANGE)
		return false;
	for (int i = 0; i < result->nkvs; i++)
	{
		if (result->kvs[i].key_len <= name->name_len ||
			memcmp(result->kvs[i].key, name->prefix, name->name_len + 1) != 0)
			return false;
	}
	return true;
}

static bool
is_stray(const Stray *stray, const EtcdOpResult *result)
{
	return result->type == ETCD_OP_RANGE &&
		(result->nkvs == 0 ||
		 (result->nkvs == 1 && result->kvs[0].key_len == stray->key_len &&
		  memcmp(result->kvs[0].key, stray->key, stray->key_len) == 0));
}

static bool
item_fits(const Item *item, const EtcdTxnResult *txn)
{
	const EtcdOpResult *first = &txn->results[txn->succeeded ? item->result : item->else_result];

	switch (item->kind)
	{
		case ITEM_DELETE:
		case ITEM_STRAY:
			return first->type == ETCD_OP_DELETE;
		case ITEM_STRAY_LOOK:
			return is_stray(item->stray, first);
		case ITEM_PUT_FIRST:
			return first->type == ETCD_OP_PUT;
		case ITEM_PUT:
		case ITEM_RANGE:
			return is_queue_of(item->name, first);
		case ITEM_TRY:
		case ITEM_LOOK:
			return is_queue_of(item->name, first) &&
				(!item->has_tick || (item->kind == ITEM_TRY && txn->succeeded) ||
				 (first[1].type == ETCD_OP_RANGE && first[1].nkvs <= 1));
	}
	return false;
}

static bool
puts_something(const Batch *batch)
{
	for (int i = 0; i < batch->nitems; i++)
	{
		if (batch->items[i].kind == ITEM_PUT || batch->items[i].kind == ITEM_PUT_FIRST ||
			batch->items[i].kind == ITEM_TRY)
			return true;
	}
	return false;
}

/*
 * Is it the answer to this request, and not to another one?  It has as many
 * results as the Txn had operations, of the kinds and about the names that we
 * asked for, and is no older than what we knew when we asked; a put has made a
 * new revision.  Nothing of it is believed otherwise.  (Another cluster counts
 * anew: lease_saw_header.)
 */
static bool
answer_fits(const Batch *batch, const EtcdTxnResult *txn)
{
	int64		least = batch->floor;

	if (txn->nresults != (txn->succeeded ? batch->nsuccess : batch->nfailure))
		return false;
	if (txn->succeeded && puts_something(batch))
		least++;
	if (txn->header.revision < least &&
		txn->header.cluster_id == lock_shared->cluster_id)
		return false;
	for (int i = 0; i < batch->nitems && txn->nresults > 0; i++)
	{
		if (!item_fits(&batch->items[i], txn))
			return false;
	}
	return true;
}

static bool
decode(const Batch *batch, const EtcdAnswer *answer, EtcdTxnResult *txn,
	   EtcdError *error)
{
	if (batch->is_single)
		return etcd_decode_single_range(answer->body, answer->len,
										answer->http_status, txn, error);
	return etcd_decode_txn(answer->body, answer->len, answer->http_status,
						   txn, error);
}

void
batch_done(void *arg, const EtcdAnswer *answer)
{
	Batch	   *batch = arg;
	EtcdTxnResult txn;
	EtcdError	error = {0};
	Outcome		outcome = OUTCOME_UNKNOWN;
	bool		done = false;

	requests_batch_ended(batch);

	/* The names stay while we go through the items; see name_release. */
	for (int i = 0; i < batch->nitems; i++)
	{
		Item	   *item = &batch->items[i];

		if (item->key != NULL && item_is_current(item))
			item->key->in_flight = false;
		if (item->kind == ITEM_RANGE)
			item->name->range_in_flight = false;
	}

	if (answer->too_long)
	{
		outcome = OUTCOME_TOO_LONG;
		error.code = ETCD_BAD_ANSWER;
		strlcpy(error.message, answer->error, sizeof(error.message));
	}
	else if (!answer->delivered)
		outcome = answer->ambiguous ? OUTCOME_UNKNOWN : OUTCOME_NOT_SENT;
	else if (!decode(batch, answer, &txn, &error))
	{
		switch (error.code)
		{
			case ETCD_NOT_FOUND:
				/* a put, but no such lease */
				if (!batch->is_read &&
					batch->epoch == deadline_epoch(&lock_shared->deadline))
					lease_gone("etcd does not know the lease any more");
				outcome = OUTCOME_NOT_SENT;
				break;
			case ETCD_BAD_ANSWER:
				link_bad_answer(error.message);
				outcome = OUTCOME_UNKNOWN;
				break;
			case ETCD_RESOURCE_EXHAUSTED:
				/* it is behind with what it has accepted, and has not taken this */
				if (strstr(error.message, "too many requests") != NULL)
				{
					outcome = OUTCOME_NOT_SENT;
					break;
				}
				outcome = OUTCOME_REFUSED;
				health_no_space();
				break;
			case ETCD_INVALID_ARGUMENT:
			case ETCD_PERMISSION_DENIED:
			case ETCD_FAILED_PRECONDITION:
			case ETCD_OUT_OF_RANGE:
			case ETCD_UNAUTHENTICATED:
				outcome = OUTCOME_REFUSED;
				if (strstr(error.message, "too many operations") != NULL &&
					requests_max_ops > 4)
				{
					requests_max_ops /= 2;
					outcome = OUTCOME_NOT_SENT;
				}
				break;
			default:
				/* not to be repeated without a pause */
				link_bad_answer(error.message);
				outcome = OUTCOME_UNKNOWN;
				break;
		}
	}
	else if (!answer_fits(batch, &txn))
	{
		etcd_txn_result_free(&txn);
		link_bad_answer("the answer does not fit the request");
	}
	else
	{
		done = true;
		if (batch->epoch == deadline_epoch(&lock_shared->deadline))
			lease_saw_header(&txn.header);
	}

	if (done && batch->nitems == 1 && batch->is_read &&
		batch->items[0].name != NULL && batch->items[0].name->entry != NULL)
		name_note_huge(batch->items[0].name, false);
	for (int i = 0; i < batch->nitems; i++)
	{
		Item	   *item = &batch->items[i];

		if (done && txn.nresults == 0)
			item_compare_failed(item, batch->nitems == 1);
		else if (done)
			item_done(item, &txn);
		else
			item_not_done(item, outcome, &error, batch->nitems == 1);
	}
	if (done)
		etcd_txn_result_free(&txn);

	for (int i = 0; i < batch->nitems; i++)
	{
		WorkerName *name = batch->items[i].name;

		if (name == NULL)
			continue;
		name->in_flight--;
		if (name->range_again && !name->range_in_flight && name->entry != NULL)
		{
			name->range_again = false;
			requests_range(name);
		}
		name_release(name);
	}
	batch_free(batch);
}
