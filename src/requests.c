/*-------------------------------------------------------------------------
 *
 * requests.c
 *	  Group commit: many operations in one Txn.
 *
 * What is to be sent stands in queues.  While requests are under way, more
 * gathers, and the next Txn takes as much as etcd allows: first deletions,
 * then new keys, each with a range that shows the queue it came into.  Reads
 * are gathered likewise, apart from the writes.
 *
 * A Txn is all or nothing, so one operation that etcd refuses fails its
 * neighbours too: then each is sent again alone, to see which it was.
 *
 * A request that is not answered may still be carried out.  A key that may
 * have been put so is condemned, its number never used again, and the session
 * asks anew (README.md, rules 1, 11, 15).
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "nodes/pg_list.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * Operations in a Txn: etcd's default limit, counted on the longest of its
 * three lists.  Lowered when a server says that it allows less.
 */
#define MAX_OPS				128

/* Bytes of keys and values in a Txn: etcd takes 1.5 MB, JSON makes it more. */
#define MAX_BYTES			(512 * 1024)

/*
 * Requests under way at a time.  More only queue in etcd.
 */
#define MAX_WRITES			2
#define MAX_READS			2

/* Keys to be deleted that nobody knows; there should be none. */
#define MAX_STRAYS			1000

#define RETRY_PAUSE			INT64CONST(200000)	/* microseconds */
#define REFUSED_PAUSE		INT64CONST(1000000)

/* A tick's value in etcd: ISO 8601, UTC, which sorts as text. */
#define TICK_LEN			27

typedef enum ItemKind
{
	ITEM_PUT,
	ITEM_TRY,
	ITEM_DELETE,
	ITEM_STRAY,					/* a key of ours that nobody knows */
	ITEM_LOOK,					/* first step of a try */
	ITEM_RANGE					/* look at the queue */
} ItemKind;

typedef struct Item
{
	ItemKind	kind;
	WorkerName *name;			/* NULL for strays */
	WorkerKey  *key;			/* PUT, TRY, DELETE, LOOK */
	uint64		number;
	char	   *stray;
	int			result;			/* index of its first answer if all goes well */
	int			else_result;	/* if a compare fails */
	bool		has_tick;		/* TRY, LOOK: the tick's answer follows */
	LockChecks	checks;			/* RANGE */
} Item;

typedef struct Batch
{
	bool		is_read;
	uint64		epoch;			/* in which it was sent */
	int			nsuccess;		/* operations in each branch */
	int			nfailure;
	int			nitems;
	Item		items[MAX_OPS];
} Batch;

/* A Txn being put together. */
typedef struct Building
{
	Batch	   *batch;
	size_t		bytes;
	EtcdCompare compare[MAX_OPS];
	int			ncompare;
	EtcdOp		success[MAX_OPS];
	int			nsuccess;
	EtcdOp		failure[MAX_OPS];
	int			nfailure;
} Building;

static dlist_head deletes = DLIST_STATIC_INIT(deletes);
static dlist_head new_keys = DLIST_STATIC_INIT(new_keys);
static dlist_head tries = DLIST_STATIC_INIT(tries);
static dlist_head looks = DLIST_STATIC_INIT(looks);
static dlist_head ranges = DLIST_STATIC_INIT(ranges);
static List *strays = NIL;		/* of char * */
static int64 strays_not_before = 0;

static int	max_ops = MAX_OPS;
static int	writes = 0;			/* under way */
static int	reads = 0;

static MemoryContext building_context = NULL;

/* ----------------------------------------------------------------
 *		Queues
 * ----------------------------------------------------------------
 */

static void
enqueue_key(WorkerKey *key)
{
	dlist_head *queue;

	switch (key->phase)
	{
		case PHASE_PUT:
			queue = &new_keys;
			break;
		case PHASE_TRY:
			queue = key->looked ? &tries : &looks;
			break;
		case PHASE_DELETE:
			queue = &deletes;
			break;
		default:
			return;
	}
	dlist_push_tail(queue, &key->queue_link);
	key->queued = true;
}

static void
dequeue_key(WorkerKey *key)
{
	dlist_delete(&key->queue_link);
	key->queued = false;
}

/* The key is to go through this phase; what it was queued for is forgotten. */
void
requests_key(WorkerKey *key, KeyPhase phase)
{
	requests_forget_key(key);
	key->phase = phase;
	if (!key->in_flight)
		enqueue_key(key);
}

void
requests_forget_key(WorkerKey *key)
{
	if (key->queued)
		dequeue_key(key);
	key->phase = PHASE_NONE;
}

/* Look at the name's whole queue, as it is from now on. */
void
requests_range(WorkerName *name)
{
	if (name->range_in_flight)
		name->range_again = true;
	else if (!name->range_queued)
	{
		name->range_queued = true;
		dlist_push_tail(&ranges, &name->range_link);
	}
}

void
requests_forget_name(WorkerName *name)
{
	if (name->range_queued)
		dlist_delete(&name->range_link);
	name->range_queued = false;
	name->range_again = false;
}

void
requests_delete_stray(const char *key, size_t key_len)
{
	MemoryContext old;
	ListCell   *cell;

	foreach(cell, strays)
	{
		if (strlen(lfirst(cell)) == key_len &&
			memcmp(lfirst(cell), key, key_len) == 0)
			return;
	}
	if (list_length(strays) >= MAX_STRAYS)
		return;					/* they are found again */
	old = MemoryContextSwitchTo(TopMemoryContext);
	strays = lappend(strays, pnstrdup(key, key_len));
	MemoryContextSwitchTo(old);
}

/* ----------------------------------------------------------------
 *		Putting a Txn together
 * ----------------------------------------------------------------
 */

static bool
has_room(const Building *b, int ncompare, int nsuccess, int nfailure)
{
	return b->batch->nitems < MAX_OPS &&
		b->ncompare + ncompare <= max_ops &&
		b->nsuccess + nsuccess <= max_ops &&
		b->nfailure + nfailure <= max_ops &&
		b->bytes < MAX_BYTES;
}

static Item *
add_item(Building *b, ItemKind kind, WorkerName *name, WorkerKey *key)
{
	Item	   *item = &b->batch->items[b->batch->nitems++];

	memset(item, 0, sizeof(Item));
	item->kind = kind;
	item->name = name;
	item->key = key;
	item->result = b->nsuccess;
	item->else_result = b->nfailure;
	if (name != NULL)
		name->in_flight++;
	if (key != NULL)
	{
		item->number = key->number;
		key->in_flight = true;
		key->sent = true;
	}
	return item;
}

static EtcdRange
one_key(const char *key)
{
	EtcdRange	range = {key, strlen(key), NULL, 0};

	return range;
}

static EtcdOp
delete_op(const char *key)
{
	EtcdOp		op = {.type = ETCD_OP_DELETE, .range = one_key(key)};

	return op;
}

static EtcdOp
queue_op(const WorkerName *name)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE, .keys_only = true};

	op.range.key = name->prefix;
	op.range.key_len = name->name_len + 1;
	op.range.end = name->prefix_end;
	op.range.end_len = name->name_len + 1;
	return op;
}

static EtcdOp
put_op(Building *b, const WorkerKey *key)
{
	EtcdOp		op = {.type = ETCD_OP_PUT, .range = one_key(key->etcd_key)};
	const LockKey *shared = &key->name->entry->keys[key - key->name->keys];
	int			asker = shared->asker;

	op.value = worker_describe(lock_table_proc(asker),
							   ProcGlobal->allProcs[asker].pid,
							   GetCurrentTimestamp());
	op.value_len = strlen(op.value);
	op.lease = lease_id();
	b->bytes += op.range.key_len + op.value_len + key->name->name_len * 4;
	return op;
}

static void
add_delete(Building *b, WorkerKey *key)
{
	(void) add_item(b, ITEM_DELETE, key->name, key);
	b->success[b->nsuccess++] = delete_op(key->etcd_key);
	b->failure[b->nfailure++] = delete_op(key->etcd_key);
	b->bytes += strlen(key->etcd_key) * 2;
}

/*
 * The compare makes a request that is carried out twice harmless: the second
 * time it only shows the queue.
 */
static void
add_put(Building *b, WorkerKey *key)
{
	Item	   *item = add_item(b, ITEM_PUT, key->name, key);
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_EQUAL,
		.range = one_key(key->etcd_key), .revision = 0
	};

	item->result = b->nsuccess + 1; /* the range behind the put */
	b->compare[b->ncompare++] = compare;
	b->success[b->nsuccess++] = put_op(b, key);
	b->success[b->nsuccess++] = queue_op(key->name);
	b->failure[b->nfailure++] = queue_op(key->name);
}

static bool
is_ready(const WorkerKey *key, int64 now)
{
	return key->retry_at <= now;
}

/*
 * Take what is ready from a queue of keys into the Txn, one put for a name at
 * most: keys put together share a create_revision.
 */
static void
take_keys(Building *b, dlist_head *queue, ItemKind kind, int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, queue)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (!is_ready(key, now))
			continue;
		if (kind == ITEM_DELETE ? !has_room(b, 0, 1, 1) : !has_room(b, 1, 2, 1))
			break;
		if (key->alone && b->batch->nitems > 0)
			continue;
		if (kind == ITEM_PUT)
		{
			bool		twice = false;

			for (int i = 0; i < b->batch->nitems; i++)
			{
				if (b->batch->items[i].kind == ITEM_PUT &&
					b->batch->items[i].name == key->name)
					twice = true;
			}
			if (twice)
				continue;
		}
		dequeue_key(key);
		if (kind == ITEM_DELETE)
			add_delete(b, key);
		else
			add_put(b, key);
		if (key->alone)
			break;
	}
}

static void
take_strays(Building *b, int64 now)
{
	if (now < strays_not_before)
		return;
	while (strays != NIL && has_room(b, 0, 1, 1))
	{
		char	   *key = linitial(strays);
		Item	   *item = add_item(b, ITEM_STRAY, NULL, NULL);

		item->stray = key;
		strays = list_delete_first(strays);
		b->success[b->nsuccess++] = delete_op(key);
		b->failure[b->nfailure++] = delete_op(key);
	}
}

static char *
tick_key(const WorkerKey *key)
{
	const LockEntry *entry = key->name->entry;
	const LockKey *shared = &entry->keys[key - key->name->keys];

	return psprintf("%.*s%stick/%s", shared->namespace_len, entry->key,
					ETCD_LOCK_RESERVED, entry->key + shared->namespace_len);
}

/* As etcd keeps it; see TICK_LEN. */
static char *
tick_value(TimestampTz tick)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(tick, NULL, &tm, &fsec, NULL, NULL) != 0)
		elog(ERROR, "timestamp out of range");
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
					tm.tm_year, tm.tm_mon, tm.tm_mday,
					tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fsec);
}

static LockKey *
shared_key(const WorkerKey *key)
{
	return &key->name->entry->keys[key - key->name->keys];
}

/*
 * Second step of a try.  The look has found nobody in the way at
 * look_revision; if no key has come since, nobody is.  Deeper names come
 * under the same compare and only cost another look.
 */
static void
add_try(Building *b, WorkerKey *key)
{
	Item	   *item = add_item(b, ITEM_TRY, key->name, key);
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_LESS,
		.range = queue_op(key->name).range, .revision = key->look_revision + 1
	};

	item->result = b->nsuccess + 1;
	item->has_tick = shared_key(key)->has_tick;
	b->compare[b->ncompare++] = compare;
	b->success[b->nsuccess++] = put_op(b, key);
	b->success[b->nsuccess++] = queue_op(key->name);
	b->failure[b->nfailure++] = queue_op(key->name);
	if (item->has_tick)
	{
		EtcdCompare same_tick = {
			.target = ETCD_COMPARE_MOD, .result = ETCD_COMPARE_EQUAL,
			.range = one_key(tick_key(key)), .revision = key->tick_revision
		};
		EtcdOp		put = {.type = ETCD_OP_PUT, .range = same_tick.range};
		EtcdOp		range = {.type = ETCD_OP_RANGE, .range = same_tick.range};

		put.value = tick_value(shared_key(key)->tick);
		put.value_len = strlen(put.value);
		b->compare[b->ncompare++] = same_tick;
		b->success[b->nsuccess++] = put;
		b->failure[b->nfailure++] = range;
	}
}

static void
add_look(Building *b, WorkerKey *key)
{
	Item	   *item = add_item(b, ITEM_LOOK, key->name, key);

	item->has_tick = shared_key(key)->has_tick;
	b->success[b->nsuccess++] = queue_op(key->name);
	if (item->has_tick)
	{
		EtcdOp		range = {.type = ETCD_OP_RANGE, .range = one_key(tick_key(key))};

		b->success[b->nsuccess++] = range;
	}
}

static void
add_range(Building *b, WorkerName *name)
{
	Item	   *item = add_item(b, ITEM_RANGE, name, NULL);

	/*
	 * Read without the lock: who asks just now pushes the name into the work
	 * list, and is served by the next look.
	 */
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		item->checks.number[i] = pg_atomic_read_u64(&name->entry->keys[i].number);
		item->checks.asked[i] = name->entry->keys[i].checks_asked;
	}
	name->range_queued = false;
	name->range_in_flight = true;
	name->range_again = false;
	b->success[b->nsuccess++] = queue_op(name);
}

static void
take_looks(Building *b, int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &looks)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (!is_ready(key, now) || !has_room(b, 0, 2, 0))
			continue;
		if (key->alone && b->batch->nitems > 0)
			continue;
		dequeue_key(key);
		add_look(b, key);
		if (key->alone)
			return;
	}
	dlist_foreach_modify(iter, &ranges)
	{
		WorkerName *name = dlist_container(WorkerName, range_link, iter.cur);

		if (name->range_retry_at > now || !has_room(b, 0, 1, 0))
			continue;
		if (name->range_alone && b->batch->nitems > 0)
			continue;
		dlist_delete(&name->range_link);
		add_range(b, name);
		if (name->range_alone)
			return;
	}
}

/* ----------------------------------------------------------------
 *		Answers
 * ----------------------------------------------------------------
 */

/* What became of an item, when its Txn was not carried out. */
typedef enum Outcome
{
	OUTCOME_UNKNOWN,			/* may be carried out yet */
	OUTCOME_NOT_SENT,			/* surely not */
	OUTCOME_REFUSED				/* not carried out; *error says why */
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
	if (shared->state != KEY_DELETING)
	{
		lock_key_condemn(entry, shared);
		lock_entry_wake(entry);
	}
	LWLockRelease(lock);
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
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (shared->state == KEY_DELETING)
		lock_key_free(entry, shared);
	else
		lock_key_fail(entry, shared, &failure);
	LWLockRelease(lock);
	name_free_key(key);
}

static int
sqlerrcode_for(const EtcdError *error)
{
	switch (error->code)
	{
		case ETCD_PERMISSION_DENIED:
			return ERRCODE_INSUFFICIENT_PRIVILEGE;
		case ETCD_UNAUTHENTICATED:
			return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
		case ETCD_RESOURCE_EXHAUSTED:
			return ERRCODE_DISK_FULL;
		default:
			return ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	}
}

static void
item_not_done(Item *item, Outcome outcome, const EtcdError *error, bool alone)
{
	int64		now = clock_now();

	if (item->kind == ITEM_STRAY)
	{
		/* When it is still there, the next list of keys shows it again. */
		pfree(item->stray);
		strays_not_before = now + REFUSED_PAUSE;
		return;
	}
	if (item->kind == ITEM_RANGE)
	{
		if (item->name->entry == NULL)
			return;
		item->name->range_retry_at = now + RETRY_PAUSE;
		item->name->range_alone = outcome == OUTCOME_REFUSED;
		requests_range(item->name);
		return;
	}
	if (!item_is_current(item))
		return;

	/* A put that may come late is never tried again under the same number. */
	if ((item->kind == ITEM_PUT || item->kind == ITEM_TRY) &&
		outcome == OUTCOME_UNKNOWN)
	{
		condemn(item->key);
		return;
	}
	if (outcome == OUTCOME_REFUSED && alone && item->kind != ITEM_DELETE &&
		item->key->phase != PHASE_DELETE)
	{
		fail_key(item->key, FAILURE_ERROR, sqlerrcode_for(error), error->message);
		return;
	}
	item->key->alone = outcome == OUTCOME_REFUSED;
	item->key->retry_at = now +
		(outcome == OUTCOME_REFUSED ? (alone ? REFUSED_PAUSE : 0) : RETRY_PAUSE);
	if (item->kind != ITEM_DELETE && item->key->phase != PHASE_DELETE)
		item->key->sent = false;
	enqueue_key(item->key);
}

/* Is the tick claimed already, or a later one?  An odd value counts as one. */
static bool
tick_is_taken(WorkerKey *key, const EtcdOpResult *result, char **odd)
{
	char	   *wanted;
	bool		taken;

	*odd = NULL;
	key->tick_revision = 0;
	if (result->nkvs == 0)
		return false;
	key->tick_revision = result->kvs[0].mod_revision;
	if (result->kvs[0].value_len != TICK_LEN)
	{
		*odd = result->kvs[0].key;
		return true;
	}
	wanted = tick_value(shared_key(key)->tick);
	taken = strcmp(result->kvs[0].value, wanted) >= 0;
	pfree(wanted);
	return taken;
}

/* First step of a try, or a second one that found that something has come. */
static void
try_looked(WorkerKey *key, const EtcdOpResult *results, int64 revision)
{
	QueueView	view;
	bool		is_free;
	char	   *odd = NULL;

	if (key->phase != PHASE_TRY)
	{
		enqueue_key(key);		/* condemned meanwhile */
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

	if (is_free && shared_key(key)->has_tick)
		is_free = !tick_is_taken(key, &results[1], &odd);
	if (odd != NULL)
		fail_key(key, FAILURE_ERROR, ERRCODE_DATA_CORRUPTED,
				 psprintf("key \"%s\" in etcd does not hold a tick", odd));
	else if (!is_free)
		fail_key(key, FAILURE_REFUSED, 0, "");
	else
	{
		key->looked = true;
		key->look_revision = revision;
		key->sent = false;
		enqueue_key(key);
	}
}

static void
item_done(Item *item, const EtcdTxnResult *txn)
{
	int			first = txn->succeeded ? item->result : item->else_result;
	WorkerKey  *key = item->key;

	switch (item->kind)
	{
		case ITEM_STRAY:
			pfree(item->stray);
			break;

		case ITEM_DELETE:
			if (!item_is_current(item))
				break;
			{
				LockEntry  *entry = item->name->entry;
				LWLock	   *lock = lock_entry_lock(entry);

				LWLockAcquire(lock, LW_EXCLUSIVE);
				lock_key_free(entry, shared_key(key));
				LWLockRelease(lock);
				name_free_key(key);
			}
			break;

		case ITEM_PUT:
			if (!item_is_current(item))
				break;
			if (key->phase == PHASE_DELETE)
				enqueue_key(key);
			else
			{
				key->phase = PHASE_NONE;
				name_key_put(key, &txn->results[first], txn->header.revision);
			}
			break;

		case ITEM_TRY:
			if (!item_is_current(item))
				break;
			if (key->phase == PHASE_DELETE)
				enqueue_key(key);
			else if (txn->succeeded)
			{
				key->phase = PHASE_NONE;
				name_key_put(key, &txn->results[first], txn->header.revision);
			}
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

/*
 * Has the answer as many results as the Txn had operations, of the kinds that
 * we asked for?  Nothing of it is believed otherwise.
 */
static bool
answer_fits(const Batch *batch, const EtcdTxnResult *txn)
{
	if (txn->nresults != (txn->succeeded ? batch->nsuccess : batch->nfailure))
		return false;
	for (int i = 0; i < batch->nitems; i++)
	{
		const Item *item = &batch->items[i];
		int			first = txn->succeeded ? item->result : item->else_result;
		EtcdOpType	type;

		type = (item->kind == ITEM_DELETE || item->kind == ITEM_STRAY)
			? ETCD_OP_DELETE : ETCD_OP_RANGE;
		if (txn->results[first].type != type)
			return false;
		if ((item->kind == ITEM_LOOK || (item->kind == ITEM_TRY && !txn->succeeded)) &&
			item->has_tick && txn->results[first + 1].type != ETCD_OP_RANGE)
			return false;
	}
	return true;
}

static void
batch_done(void *arg, const EtcdAnswer *answer)
{
	Batch	   *batch = arg;
	EtcdTxnResult txn;
	EtcdError	error = {0};
	Outcome		outcome = OUTCOME_UNKNOWN;
	bool		done = false;

	if (batch->is_read)
		reads--;
	else
		writes--;

	/* The names stay while we go through the items; see name_release. */
	for (int i = 0; i < batch->nitems; i++)
	{
		Item	   *item = &batch->items[i];

		if (item->key != NULL && item_is_current(item))
			item->key->in_flight = false;
		if (item->kind == ITEM_RANGE)
			item->name->range_in_flight = false;
	}

	if (!answer->delivered)
		outcome = answer->ambiguous ? OUTCOME_UNKNOWN : OUTCOME_NOT_SENT;
	else if (!etcd_decode_txn(answer->body, answer->len, answer->http_status,
							  &txn, &error))
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
			case ETCD_INVALID_ARGUMENT:
			case ETCD_PERMISSION_DENIED:
			case ETCD_RESOURCE_EXHAUSTED:
			case ETCD_FAILED_PRECONDITION:
			case ETCD_OUT_OF_RANGE:
			case ETCD_UNAUTHENTICATED:
				outcome = OUTCOME_REFUSED;
				if (strstr(error.message, "too many operations") != NULL &&
					max_ops > 4)
				{
					max_ops /= 2;
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

	for (int i = 0; i < batch->nitems; i++)
	{
		Item	   *item = &batch->items[i];

		if (done)
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
	pfree(batch);
}

/* ----------------------------------------------------------------
 *		Sending
 * ----------------------------------------------------------------
 */

static Building *
start_building(bool is_read)
{
	Building   *b;

	if (building_context == NULL)
		building_context = AllocSetContextCreate(TopMemoryContext,
												 "etcd_lock request",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(building_context);
	MemoryContextSwitchTo(building_context);
	b = palloc0(sizeof(Building));
	b->batch = MemoryContextAlloc(TopMemoryContext, sizeof(Batch));
	b->batch->is_read = is_read;
	b->batch->epoch = deadline_epoch(&lock_shared->deadline);
	b->batch->nitems = 0;
	return b;
}

/* False: there was nothing to send, or it could not be sent. */
static bool
finish_building(Building *b)
{
	static const EtcdCallbacks callbacks = {NULL, batch_done};
	EtcdTxn		txn = {
		b->compare, b->ncompare, b->success, b->nsuccess, b->failure, b->nfailure
	};
	EtcdAnswer	not_sent = {.error = "could not send a request"};
	Batch	   *batch = b->batch;
	char	   *body;

	if (batch->nitems == 0)
	{
		pfree(batch);
		return false;
	}
	if (batch->is_read)
		reads++;
	else
		writes++;
	if (b->ncompare == 0)
		txn.nfailure = 0;
	batch->nsuccess = b->nsuccess;
	batch->nfailure = b->nfailure;
	body = etcd_encode_txn(&txn);
	if (body == NULL ||
		link_call(ETCD_PATH_TXN, body, etcd_lock_request_timeout,
				  &callbacks, batch) == NULL)
	{
		batch_done(batch, &not_sent);
		return false;
	}
	return true;
}

static bool
send_writes(int64 now)
{
	Building   *b = start_building(false);

	take_keys(b, &deletes, ITEM_DELETE, now);
	if (b->batch->nitems == 0 || !b->batch->items[0].key->alone)
	{
		take_strays(b, now);
		if (lease_alive() && !worker_stopping)
			take_keys(b, &new_keys, ITEM_PUT, now);
	}
	return finish_building(b);
}

/* A try's compare may fail, which must fail nobody else: it goes alone. */
static bool
send_try(int64 now)
{
	dlist_mutable_iter iter;
	Building   *b;

	if (!lease_alive() || worker_stopping)
		return false;
	dlist_foreach_modify(iter, &tries)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (!is_ready(key, now))
			continue;
		b = start_building(false);
		dequeue_key(key);
		add_try(b, key);
		return finish_building(b);
	}
	return false;
}

static bool
send_reads(int64 now)
{
	Building   *b = start_building(true);

	take_looks(b, now);
	return finish_building(b);
}

void
requests_send(void)
{
	static bool try_next = false;
	MemoryContext old = CurrentMemoryContext;
	int64		now = clock_now();

	if (!link_ready())
		return;
	while (writes < MAX_WRITES)
	{
		/* in turn, so that neither starves the other */
		bool		sent = try_next ? send_try(now) : send_writes(now);

		if (!sent)
			sent = try_next ? send_writes(now) : send_try(now);
		else
			try_next = !try_next;
		if (!sent)
			break;
	}
	while (reads < MAX_READS && send_reads(now))
		;
	MemoryContextSwitchTo(old);
}

static int64
earliest_retry(dlist_head *queue, int64 next)
{
	dlist_iter	iter;

	dlist_foreach(iter, queue)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		next = Min(next, key->retry_at);
	}
	return next;
}

/*
 * When there may be something to send that is not to be sent now.  What waits
 * for an answer or for a lease is taken up when that comes.
 */
int64
requests_next_time(void)
{
	int64		next = PG_INT64_MAX;
	dlist_iter	iter;

	if (writes < MAX_WRITES)
	{
		next = earliest_retry(&deletes, next);
		if (strays != NIL)
			next = Min(next, strays_not_before);
		if (lease_alive() && !worker_stopping)
		{
			next = earliest_retry(&new_keys, next);
			next = earliest_retry(&tries, next);
		}
	}
	if (reads < MAX_READS)
	{
		next = earliest_retry(&looks, next);
		dlist_foreach(iter, &ranges)
			next = Min(next, dlist_container(WorkerName, range_link, iter.cur)->range_retry_at);
	}
	return next == PG_INT64_MAX ? next : Max(next, link_next_time());
}
