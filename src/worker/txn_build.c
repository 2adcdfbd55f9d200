/*-------------------------------------------------------------------------
 *
 * txn_build.c
 *	  Building a Txn: its operations, compares and ranges.
 *
 * Each request that waits in a queue of txn_queue.c becomes an operation of
 * the Txn, which notes the index of its result for txn_response.c.
 *
 * A write is a nested Txn.  Etcd evaluates the compares of all of them before
 * any operation, so a Txn puts at most one key of a name: two that exclude
 * each other by their compares would both be put.
 *
 * Some releases, such as etcd 3.4.23 and 3.5.16, check the user's permissions
 * only for the operations of the outer Txn, not for those of nested ones.  So
 * we repeat what the nested ones read and write in the outer one's failure
 * branch.  That branch never runs, because the outer Txn has no compares, but
 * etcd checks it, and refuses a name that the user may not lock.  Without a
 * user, there is nothing to check but whether there is space, and we save etcd
 * the work.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "shared/lease_id.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/context.h"
#include "worker/key_value.h"
#include "worker/tick.h"
#include "worker/txn_build.h"

/* A server that allows fewer operations is useless. */
#define LEAST_OPS			(TXN_INNER_OPS + TXN_OP_RIGHTS)

/* Bytes of keys and values in a Txn: etcd takes 1.5 MB, JSON makes it more. */
#define MAX_BYTES			(512 * 1024)

struct TxnBuild
{
	/*
	 * Limit of operations in a Txn: lowered when a server says that it allows
	 * less.
	 */
	int			max_ops;
	MemoryContext context;

	/* Unused Txns, kept because they are big. */
	Txn		   *spare[6];
	int			nspare;

	TxnBuilder	builder;		/* only one is used at a time */
};

#define MyTxnBuild (MyWorker->txn_build)

void
txn_build_create(void)
{
	MyTxnBuild = MemoryContextAllocZero(TopMemoryContext, sizeof(struct TxnBuild));
	MyTxnBuild->max_ops = TXN_MAX_OPS;
	MyTxnBuild->context = AllocSetContextCreate(TopMemoryContext, "etcd_lock request",
												ALLOCSET_DEFAULT_SIZES);
}

int
txn_build_max_ops(void)
{
	return MyTxnBuild->max_ops;
}

/*
 * If etcd refuses a Txn that was built with this limit, because it has too many
 * operations, use fewer.  Returns false if that is
 * not the error, or if we cannot.
 */
bool
txn_build_note_error(const EtcdError *error, int max_ops)
{
	if (strstr(error->message, "too many operations") == NULL ||
		max_ops <= LEAST_OPS)
		return false;
	if (max_ops > MyTxnBuild->max_ops)
		return true;			/* it has been lowered since */
	MyTxnBuild->max_ops = Max(MyTxnBuild->max_ops / 2, LEAST_OPS);
	return true;
}

/* Is there room for nops operations of the outer Txn? */
bool
txn_build_has_room(const TxnBuilder *b, int nops)
{
	int			max = MyTxnBuild->max_ops - TXN_INNER_OPS;

	return b->nops + nops <= max &&
		(b->nrights == 0 || b->nrights + TXN_OP_RIGHTS <= max) &&
		b->bytes < MAX_BYTES;
}

static bool
op_puts(const TxnOp *op)
{
	return op->kind == TXN_OP_PUT || op->kind == TXN_OP_PUT_FIRST ||
		op->kind == TXN_OP_TRY;
}

/* Does it already put a key of this name? */
bool
txn_build_has_put(const TxnBuilder *b, const WorkerName *name)
{
	for (int i = 0; i < b->txn->nops; i++)
	{
		if (op_puts(&b->txn->ops[i]) && b->txn->ops[i].name == name)
			return true;
	}
	return false;
}

/* Does it delete this key? */
bool
txn_build_has_delete(const TxnBuilder *b, const WorkerKey *key)
{
	for (int i = 0; i < b->txn->nops; i++)
	{
		if (b->txn->ops[i].kind == TXN_OP_DELETE && b->txn->ops[i].key == key)
			return true;
	}
	return false;
}

static TxnOp *
add_op(TxnBuilder *b, TxnOpKind kind, WorkerName *name, WorkerKey *key)
{
	TxnOp	   *op = &b->txn->ops[b->txn->nops++];

	Assert(b->txn->nops <= TXN_OPS);
	memset(op, 0, sizeof(TxnOp));
	op->kind = kind;
	op->name = name;
	op->key = key;
	op->result = b->nops;
	if (name != NULL)
		name_retain(name);
	if (key != NULL)
	{
		op->key_id = key->key_id;
		op->role = name_shared_key(key)->role;
	}
	return op;
}

static void
add_plain(TxnBuilder *b, EtcdOp op)
{
	Assert(b->nops < lengthof(b->ops));
	b->ops[b->nops++] = op;
}

/* A nested Txn, with room for the most that its parts can be. */
typedef struct InnerTxn
{
	EtcdTxn		txn;
	EtcdCompare compare[2];
	EtcdOp		success[3];
	EtcdOp		failure[3];
} InnerTxn;

static InnerTxn *
make_inner(void)
{
	InnerTxn   *inner = palloc0(sizeof(InnerTxn));

	inner->txn.compare = inner->compare;
	inner->txn.success = inner->success;
	inner->txn.failure = inner->failure;
	return inner;
}

static void
inner_compare(InnerTxn *inner, EtcdCompare compare)
{
	Assert(inner->txn.ncompare < lengthof(inner->compare));
	inner->compare[inner->txn.ncompare++] = compare;
}

static void
inner_success(InnerTxn *inner, EtcdOp op)
{
	Assert(inner->txn.nsuccess < lengthof(inner->success));
	inner->success[inner->txn.nsuccess++] = op;
}

static void
inner_failure(InnerTxn *inner, EtcdOp op)
{
	Assert(inner->txn.nfailure < lengthof(inner->failure));
	inner->failure[inner->txn.nfailure++] = op;
}

static EtcdOp
inner_op(const InnerTxn *inner)
{
	EtcdOp		op = {.type = ETCD_OP_TXN,.txn = &inner->txn};

	return op;
}

/*
 * Add an operation that etcd checks but never runs.  Without a user, one put is
 * enough: it shows etcd, which does not look into nested Txns for that, that the
 * Txn needs space, so that an etcd that is full refuses it.
 */
static void
claim_right(TxnBuilder *b, EtcdOp op)
{
	if (b->is_anonymous && (op.type != ETCD_OP_PUT || b->nrights > 0))
		return;
	Assert(b->nrights < lengthof(b->rights));
	op.value = "";
	op.value_len = 0;
	op.lease = 0;
	b->rights[b->nrights++] = op;
}

/* Add a nested Txn as an operation, with the permissions that it needs. */
static void
add_inner(TxnBuilder *b, const InnerTxn *inner)
{
	add_plain(b, inner_op(inner));
	for (int i = 0; i < inner->txn.nsuccess; i++)
		claim_right(b, inner->success[i]);
}

static EtcdRange
one_key(const char *key)
{
	EtcdRange	range = {key, strlen(key), NULL, 0};

	return range;
}

/* Others may have put any bytes into its name, even a NUL. */
static EtcdRange
orphan_range(const Orphan *orphan)
{
	EtcdRange	range = {orphan->key, orphan->key_len, NULL, 0};

	return range;
}

static EtcdOp
delete_op(EtcdRange range)
{
	EtcdOp		op = {.type = ETCD_OP_DELETE,.range = range};

	return op;
}

static EtcdOp
queue_op(const WorkerName *name)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true};

	op.range = name_range(name);
	return op;
}

/*
 * Compare: no key below the name was created after this revision; 0: none
 * exists.
 */
static EtcdCompare
no_key_since(const WorkerName *name, int64 revision)
{
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE,.result = ETCD_COMPARE_LESS,
		.range = queue_op(name).range,.revision = revision + 1
	};

	return compare;
}

/* Compare: the key exists with this create_revision; 0: it does not exist. */
static EtcdCompare
created_at(EtcdRange key, int64 create_revision)
{
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE,.result = ETCD_COMPARE_EQUAL,
		.range = key,.revision = create_revision
	};

	return compare;
}

static EtcdOp
put_op(TxnBuilder *b, WorkerKey *key)
{
	EtcdOp		op = {.type = ETCD_OP_PUT,.range = one_key(key->etcd_key)};
	int			requester = name_shared_key(key)->requester;

	key->told_pid = ProcGlobal->allProcs[requester].pid;
	key->told_since = GetCurrentTimestamp();
	op.value = key_value_make(&lock_table_proc(requester)->who, key->told_pid,
							  key->told_since);
	op.value_len = strlen(op.value);
	op.lease = lease_id();
	b->bytes += op.range.key_len + op.value_len + key->name->name_len * 4;
	return op;
}

/*
 * Another key of the same name may be put later.  The compare prevents a
 * deletion that is applied late, or twice, from hitting that one (rule 11).
 * The note on the key is deleted, too.
 */
void
txn_build_add_delete(TxnBuilder *b, WorkerKey *key)
{
	TxnOp	   *op = add_op(b, TXN_OP_DELETE, key->name, key);
	InnerTxn   *inner = make_inner();

	op->fenced = key->create_revision != 0;
	if (op->fenced)
		inner_compare(inner, created_at(one_key(key->etcd_key), key->create_revision));
	inner_success(inner, delete_op(one_key(key->etcd_key)));
	op->has_note = op->fenced && name_has_note(key);
	if (op->has_note)
	{
		inner_success(inner, delete_op(one_key(key->note)));
		b->bytes += strlen(key->note);
	}
	add_inner(b, inner);
	b->bytes += key->etcd_key_len;
}

/*
 * The compare makes it harmless if the request is applied twice: the second
 * time nothing happens, and the response says so.
 */
static InnerTxn *
new_key(TxnBuilder *b, WorkerKey *key)
{
	InnerTxn   *inner = make_inner();
	EtcdOp		put = put_op(b, key);

	inner_compare(inner, created_at(put.range, 0));
	inner_success(inner, put);
	return inner;
}

void
txn_build_add_put(TxnBuilder *b, WorkerKey *key)
{
	InnerTxn   *inner;

	(void) add_op(b, TXN_OP_PUT, key->name, key);
	inner = new_key(b, key);
	inner_success(inner, queue_op(key->name));
	add_inner(b, inner);
}

/*
 * If the queue is assumed to be empty: it is read only if it is not, which
 * saves the range.  The second operation does that, after the key was put at
 * the queue's end.
 *
 * Compares see the state before the Txn.  So if the Txn deletes keys of our
 * own, the condition is that no key came after them: "since" is the revision
 * of the last one, which held the lock exclusively, so that none is ahead of
 * it.
 */
void
txn_build_add_put_first(TxnBuilder *b, WorkerKey *key, int64 since)
{
	InnerTxn   *read = make_inner();

	(void) add_op(b, TXN_OP_PUT_FIRST, key->name, key);
	add_inner(b, new_key(b, key));
	inner_compare(read, no_key_since(key->name, since));
	inner_failure(read, queue_op(key->name));
	add_inner(b, read);
	claim_right(b, queue_op(key->name));
}

char *
txn_build_tick_key(const WorkerKey *key)
{
	const LockEntry *entry = key->name->entry;
	const LockKey *shared = name_shared_key(key);
	char	   *tick = palloc(KEY_LAYOUT_SIZE);

	key_layout_tick(tick, entry->key, shared->namespace_len);
	return tick;
}

/*
 * A try with a tick that was refused must stay so.  Otherwise it would claim the
 * tick, and nobody would run, if it were applied once more after the keys that
 * were in its way have gone: no compare can tell that something was there.  So
 * the tick gets a new mod_revision.  Returns what to do in the failure branch.
 */
static EtcdOp
fence_tick(const WorkerKey *key, EtcdCompare same_tick, int64 tick_lease)
{
	EtcdOp		put = {.type = ETCD_OP_PUT,.range = same_tick.range,.lease = tick_lease};
	InnerTxn   *fence = make_inner();

	Assert(key->was_read);
	put.value = key->tick_value;
	put.value_len = strlen(put.value);
	inner_compare(fence, same_tick);
	inner_success(fence, put);
	return inner_op(fence);
}

/*
 * A try.  A read has found no owner in the way at read_revision, or none is
 * expected; if no key has come since, none is in the way.  The compare
 * includes deeper names, which only cost another try.
 */
void
txn_build_add_try(TxnBuilder *b, WorkerKey *key, int64 tick_lease)
{
	TxnOp	   *op = add_op(b, TXN_OP_TRY, key->name, key);
	InnerTxn   *inner = make_inner();

	op->has_tick = name_shared_key(key)->has_tick;
	inner_compare(inner, no_key_since(key->name, key->read_revision));
	inner_success(inner, put_op(b, key));
	inner_success(inner, queue_op(key->name));
	inner_failure(inner, queue_op(key->name));
	if (op->has_tick)
	{
		EtcdCompare same_tick = {
			.target = ETCD_COMPARE_MOD,.result = ETCD_COMPARE_EQUAL,
			.range = one_key(txn_build_tick_key(key)),.revision = key->tick_revision
		};
		EtcdOp		put = {.type = ETCD_OP_PUT,.range = same_tick.range,.lease = tick_lease};
		EtcdOp		range = {.type = ETCD_OP_RANGE,.range = same_tick.range};

		put.value = tick_value(name_shared_key(key)->tick, name_shared_key(key)->claim);
		put.value_len = strlen(put.value);
		inner_compare(inner, same_tick);
		inner_success(inner, put);
		inner_failure(inner, range);
		inner_failure(inner, fence_tick(key, same_tick, tick_lease));
		claim_right(b, range);
	}
	add_inner(b, inner);
}

/* Counts the names of this namespace that have a tick. */
static EtcdOp
tick_count_op(const char *name, int namespace_len)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true,.limit = 1};
	char	   *start = palloc(KEY_LAYOUT_SIZE);
	char	   *end = palloc(KEY_LAYOUT_SIZE);

	key_layout_ticks(start, end, name, namespace_len);
	op.range.key = start;
	op.range.key_len = strlen(start);
	op.range.end = end;
	op.range.end_len = strlen(end);
	return op;
}

void
txn_build_add_read(TxnBuilder *b, WorkerKey *key)
{
	TxnOp	   *op = add_op(b, TXN_OP_READ, key->name, key);

	op->has_tick = name_shared_key(key)->has_tick;
	add_plain(b, queue_op(key->name));
	if (op->has_tick)
	{
		EtcdOp		range = {.type = ETCD_OP_RANGE,.range = one_key(txn_build_tick_key(key))};

		add_plain(b, range);
	}
	op->counts_ticks = key->counts_ticks;
	if (op->counts_ticks)
		add_plain(b, tick_count_op(key->name->name, name_shared_key(key)->namespace_len));
}

void
txn_build_add_range(TxnBuilder *b, WorkerName *name)
{
	(void) add_op(b, TXN_OP_RANGE, name, NULL);
	name->range_queued = false;
	name->range_in_flight = true;
	name->range_again = false;
	add_plain(b, queue_op(name));
}

/* Read an orphan, a key with our lease's id, to learn its create_revision. */
void
txn_build_add_orphan_read(TxnBuilder *b, Orphan *orphan)
{
	TxnOp	   *op = add_op(b, TXN_OP_ORPHAN_READ, NULL, NULL);
	EtcdOp		range = {.type = ETCD_OP_RANGE,.range = orphan_range(orphan),
	.keys_only = true};

	op->orphan = orphan;
	add_plain(b, range);
	b->bytes += orphan->key_len;
}

void
txn_build_add_orphan(TxnBuilder *b, Orphan *orphan)
{
	TxnOp	   *op = add_op(b, TXN_OP_ORPHAN, NULL, NULL);
	InnerTxn   *inner = make_inner();

	op->orphan = orphan;
	inner_compare(inner, created_at(orphan_range(orphan), orphan->create_revision));
	inner_success(inner, delete_op(orphan_range(orphan)));
	add_inner(b, inner);
	b->bytes += orphan->key_len;
}

TxnBuilder *
txn_build_start(bool is_read, TxnLane lane)
{
	TxnBuilder *b = &MyTxnBuild->builder;
	Txn		   *txn;

	MemoryContextReset(MyTxnBuild->context);
	MemoryContextSwitchTo(MyTxnBuild->context);

	if (MyTxnBuild->nspare > 0)
		txn = MyTxnBuild->spare[--MyTxnBuild->nspare];
	else
		txn = MemoryContextAlloc(TopMemoryContext, sizeof(Txn));
	txn->is_read = is_read;
	txn->max_ops = MyTxnBuild->max_ops;
	txn->lane = lane;
	txn->is_extra = false;
	txn->epoch = deadline_epoch(&lock_shared->deadline);
	txn->min_revision = lock_shared->highest_revision;
	txn->nops = 0;

	/* it is too big to clear all of it */
	b->txn = txn;
	b->bytes = 0;
	b->max_ops = TXN_OPS;
	b->nops = 0;
	b->nrights = 0;
	b->is_anonymous = link_is_anonymous();
	return b;
}

void
txn_build_free(Txn *txn)
{
	if (MyTxnBuild->nspare < lengthof(MyTxnBuild->spare))
		MyTxnBuild->spare[MyTxnBuild->nspare++] = txn;
	else
		pfree(txn);
}

EtcdMessage
txn_build_encode(TxnBuilder *b)
{
	Txn		   *txn = b->txn;
	EtcdTxn		outer = {
		.success = b->ops,.nsuccess = b->nops,
		.failure = b->rights,.nfailure = b->nrights
	};

	txn->nresults = b->nops;
	txn->is_single = b->nops == 1 && b->ops[0].type == ETCD_OP_RANGE;
	return txn->is_single ? etcd_request_range(&b->ops[0]) :
		etcd_request_txn(&outer);
}
