/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Putting a Txn together: which operations, compares and ranges.
 *
 * Each operation that waits in a queue of requests.c becomes an item of a
 * batch, with the places of its answers; answers.c goes through them.
 *
 *-------------------------------------------------------------------------
 */
#include "batch.h"

#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Bytes of keys and values in a Txn: etcd takes 1.5 MB, JSON makes it more. */
#define MAX_BYTES			(512 * 1024)

static MemoryContext building_context = NULL;

/* Batches that are not in use, kept because they are big. */
static Batch *spare[4];
static int	nspare = 0;

/* As etcd keeps it: the tick, TICK_LEN long, and whose claim it is. */
char *
batch_tick_value(TimestampTz tick, uint64 claim)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(tick, NULL, &tm, &fsec, NULL, NULL) != 0)
		elog(ERROR, "timestamp out of range");
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ %016llx",
					tm.tm_year, tm.tm_mon, tm.tm_mday,
					tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fsec,
					(unsigned long long) claim);
}

bool
batch_has_room(const Building *b, int ncompare, int nsuccess, int nfailure)
{
	return b->batch->nitems < MAX_OPS &&
		b->ncompare + ncompare <= requests_max_ops &&
		b->nsuccess + nsuccess <= requests_max_ops &&
		b->nfailure + nfailure <= requests_max_ops &&
		b->bytes < MAX_BYTES;
}

/* Is a key of this name to be put by it already? */
bool
batch_has_put(const Building *b, const WorkerName *name)
{
	for (int i = 0; i < b->batch->nitems; i++)
	{
		const Item *item = &b->batch->items[i];

		if ((item->kind == ITEM_PUT || item->kind == ITEM_PUT_FIRST) &&
			item->name == name)
			return true;
	}
	return false;
}

/* Is this key to be deleted by it? */
bool
batch_has_delete(const Building *b, const WorkerKey *key)
{
	for (int i = 0; i < b->batch->nitems; i++)
	{
		const Item *item = &b->batch->items[i];

		if (item->kind == ITEM_DELETE && item->key == key)
			return true;
	}
	return false;
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

/* Others may have put any bytes into it, a NUL too. */
static EtcdRange
stray_range(const Stray *stray)
{
	EtcdRange	range = {stray->key, stray->key_len, NULL, 0};

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

/* No key below the name was created after this revision; 0: none is there. */
static EtcdCompare
no_key_since(const WorkerName *name, int64 revision)
{
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_LESS,
		.range = queue_op(name).range, .revision = revision + 1
	};

	return compare;
}

static EtcdOp
put_op(Building *b, WorkerKey *key)
{
	EtcdOp		op = {.type = ETCD_OP_PUT, .range = one_key(key->etcd_key)};
	int			asker = shared_key(key)->asker;

	key->told_pid = ProcGlobal->allProcs[asker].pid;
	key->told_since = GetCurrentTimestamp();
	op.value = worker_describe(&lock_table_proc(asker)->who, key->told_pid,
							   key->told_since);
	op.value_len = strlen(op.value);
	op.lease = lease_id();
	b->bytes += op.range.key_len + op.value_len + key->name->name_len * 4;
	return op;
}

/*
 * Another key of the same name may be put later.  The compare keeps a deletion
 * that is carried out late, or twice, from hitting that one (rule 11).
 */
static EtcdCompare
still_this_key(EtcdRange key, int64 create_revision)
{
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_EQUAL,
		.range = key, .revision = create_revision
	};

	return compare;
}

void
batch_add_delete(Building *b, WorkerKey *key)
{
	Item	   *item = add_item(b, ITEM_DELETE, key->name, key);

	item->fenced = key->create_revision != 0;
	if (item->fenced)
		b->compare[b->ncompare++] = still_this_key(one_key(key->etcd_key),
												   key->create_revision);
	b->success[b->nsuccess++] = delete_op(key->etcd_key);
	b->bytes += strlen(key->etcd_key);
}

/*
 * The compare makes a request that is carried out twice harmless: the second
 * time nothing happens, and nobody believes that anything did.
 */
void
batch_add_put(Building *b, WorkerKey *key)
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
}

/*
 * Where the queue is believed to be empty: nothing but the put, under the
 * condition that it is.  etcd's gateway spends most of its time on JSON, and
 * this is a third less of it.
 *
 * Compares see what was before the Txn.  So when keys of our own are deleted in
 * it, the condition is that none came behind them: "since" is the revision of
 * the last one, which held the lock exclusively, so that none is ahead of it.
 */
void
batch_add_put_first(Building *b, WorkerKey *key, int64 since)
{
	(void) add_item(b, ITEM_PUT_FIRST, key->name, key);
	b->compare[b->ncompare++] = no_key_since(key->name, since);
	b->success[b->nsuccess++] = put_op(b, key);
}

char *
batch_tick_key(const WorkerKey *key)
{
	const LockEntry *entry = key->name->entry;
	const LockKey *shared = &entry->keys[key - key->name->keys];

	return psprintf("%.*s%stick/%s", shared->namespace_len, entry->key,
					ETCD_LOCK_RESERVED, entry->key + shared->namespace_len);
}

/*
 * Second step of a try.  The look has found nobody in the way at
 * look_revision; if no key has come since, nobody is.  Deeper names come
 * under the same compare and only cost another look.
 */
void
batch_add_try(Building *b, WorkerKey *key)
{
	Item	   *item = add_item(b, ITEM_TRY, key->name, key);

	item->result = b->nsuccess + 1;
	item->has_tick = shared_key(key)->has_tick;
	b->compare[b->ncompare++] = no_key_since(key->name, key->look_revision);
	b->success[b->nsuccess++] = put_op(b, key);
	b->success[b->nsuccess++] = queue_op(key->name);
	b->failure[b->nfailure++] = queue_op(key->name);
	if (item->has_tick)
	{
		EtcdCompare same_tick = {
			.target = ETCD_COMPARE_MOD, .result = ETCD_COMPARE_EQUAL,
			.range = one_key(batch_tick_key(key)), .revision = key->tick_revision
		};
		EtcdOp		put = {.type = ETCD_OP_PUT, .range = same_tick.range};
		EtcdOp		range = {.type = ETCD_OP_RANGE, .range = same_tick.range};

		put.value = batch_tick_value(shared_key(key)->tick, shared_key(key)->claim);
		put.value_len = strlen(put.value);
		b->compare[b->ncompare++] = same_tick;
		b->success[b->nsuccess++] = put;
		b->failure[b->nfailure++] = range;
	}
}

void
batch_add_look(Building *b, WorkerKey *key)
{
	Item	   *item = add_item(b, ITEM_LOOK, key->name, key);

	item->has_tick = shared_key(key)->has_tick;
	b->success[b->nsuccess++] = queue_op(key->name);
	if (item->has_tick)
	{
		EtcdOp		range = {.type = ETCD_OP_RANGE, .range = one_key(batch_tick_key(key))};

		b->success[b->nsuccess++] = range;
	}
}

void
batch_add_range(Building *b, WorkerName *name)
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

Building *
batch_start(bool is_read)
{
	static Building building;	/* one at a time, and too big to be cleared */
	Batch	   *batch;

	if (building_context == NULL)
		building_context = AllocSetContextCreate(TopMemoryContext,
												 "etcd_lock request",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(building_context);
	MemoryContextSwitchTo(building_context);

	if (nspare > 0)
		batch = spare[--nspare];
	else
		batch = MemoryContextAlloc(TopMemoryContext, sizeof(Batch));
	batch->is_read = is_read;
	batch->epoch = deadline_epoch(&lock_shared->deadline);
	batch->floor = lock_shared->highest_revision;
	batch->nitems = 0;

	building.batch = batch;
	building.bytes = 0;
	building.ncompare = 0;
	building.nsuccess = 0;
	building.nfailure = 0;
	return &building;
}

void
batch_free(Batch *batch)
{
	if (nspare < lengthof(spare))
		spare[nspare++] = batch;
	else
		pfree(batch);
}

/* A key with our lease's id that nobody knows: which one is it? */
void
batch_add_stray_look(Building *b, Stray *stray)
{
	Item	   *item = add_item(b, ITEM_STRAY_LOOK, NULL, NULL);
	EtcdOp		op = {.type = ETCD_OP_RANGE, .range = stray_range(stray),
	.keys_only = true};

	item->stray = stray;
	b->success[b->nsuccess++] = op;
}

void
batch_add_stray(Building *b, Stray *stray)
{
	Item	   *item = add_item(b, ITEM_STRAY, NULL, NULL);
	EtcdOp		op = {.type = ETCD_OP_DELETE, .range = stray_range(stray)};

	item->stray = stray;
	b->compare[b->ncompare++] = still_this_key(op.range, stray->create_revision);
	b->success[b->nsuccess++] = op;
}

/* The request's body and where it is to be sent.  NULL: out of memory. */
char *
batch_encode(Building *b, const char **path)
{
	Batch	   *batch = b->batch;
	EtcdTxn		txn = {
		b->compare, b->ncompare, b->success, b->nsuccess, b->failure, b->nfailure
	};

	batch->nsuccess = b->nsuccess;
	batch->nfailure = b->nfailure;
	batch->is_single = b->nsuccess == 1 && b->success[0].type == ETCD_OP_RANGE;
	if (batch->is_single)
	{
		*path = ETCD_PATH_RANGE;
		return etcd_encode_range(&b->success[0]);
	}
	*path = ETCD_PATH_TXN;
	return etcd_encode_txn(&txn);
}
