/*-------------------------------------------------------------------------
 *
 * sim_etcd.c
 *	  What an etcd cluster has agreed on: keys with their history, leases.
 *
 * Keys stand in one sorted array, each with its versions, oldest first; a
 * deletion is a version without a value.  Those that are there stand in a second one,
 * as most requests are about the present.  Besides, every change is an event in
 * one list, by which watches go.  Compaction drops what is older in both.
 *
 *-------------------------------------------------------------------------
 */
#include "sim_etcd.h"

#include "etcd/etcd_response.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Version
{
	int64_t		mod;
	int64_t		create;			/* 0: deleted */
	int64_t		lease;
	char	   *value;
	size_t		value_len;
} Version;

typedef struct Key
{
	char	   *key;
	size_t		len;
	Version    *versions;
	int			n;
	int			max;
	uint32_t	mark;			/* the checks' */
} Key;

typedef struct Event
{
	EtcdEventType type;
	char	   *key;
	size_t		key_len;
	int64_t		mod;
	int64_t		create;
	int64_t		lease;
	char	   *value;
	size_t		value_len;
} Event;

typedef struct Lease
{
	int64_t		id;
	int64_t		ttl;			/* seconds */
	int64_t		expires;		/* microseconds */
} Lease;

struct SimWatch
{
	SimEtcd    *etcd;
	SimWatch   *next;
	char	   *key;
	size_t		key_len;
	char	   *end;			/* NULL: the one key */
	size_t		end_len;
	bool		no_puts;
	bool		no_deletes;
	bool		told_created;
	bool		unsynced;
	bool		wants_progress;
	bool		canceled;
	bool		told_canceled;
	char		reason[ETCD_MESSAGE_SIZE];
	int64_t		created_at;		/* revision that the first message tells */
	int64_t		next_revision;	/* of the first event that it has not had */
};

struct SimEtcd
{
	EtcdHeader	header;			/* revision: the newest one */
	int64_t		compacted;
	bool		nospace;
	Key		  **keys;
	int			nkeys;
	int			max_keys;
	Key		  **live;			/* those of them that are not deleted */
	int			nlive;
	int			max_live;
	Event	   *events;
	int			first_event;	/* in use are [first_event, nevents) */
	int			nevents;
	int			max_events;
	Lease	   *leases;
	int			nleases;
	int			max_leases;
	SimWatch   *watches;
};

static void *
must(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

static char *
copy_bytes(const char *bytes, size_t len)
{
	char	   *copy = must(malloc(len + 1));

	if (len > 0)
		memcpy(copy, bytes, len);
	copy[len] = '\0';
	return copy;
}

static bool
fail(EtcdError *err, EtcdCode code, const char *message)
{
	memset(err, 0, sizeof(*err));
	err->code = code;
	snprintf(err->message, sizeof(err->message), "%s", message);
	return false;
}

/* ----------------------------------------------------------------
 *		Keys
 * ----------------------------------------------------------------
 */

static int
compare_bytes(const char *a, size_t a_len, const char *b, size_t b_len)
{
	size_t		len = a_len < b_len ? a_len : b_len;
	int			order = len == 0 ? 0 : memcmp(a, b, len);

	if (order != 0)
		return order;
	return a_len < b_len ? -1 : a_len > b_len;
}

/* The place of the first key that is not less. */
static int
lower_bound(Key *const *keys, int n, const char *key, size_t len)
{
	int			low = 0;
	int			high = n;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		const Key  *k = keys[middle];

		if (compare_bytes(k->key, k->len, key, len) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* An end of one NUL byte stands for "no end". */
static bool
is_open_end(const EtcdRange *range)
{
	return range->end_len == 1 && range->end[0] == '\0';
}

static bool
key_in_range(const EtcdRange *range, const char *key, size_t len)
{
	if (range->end == NULL)
		return compare_bytes(key, len, range->key, range->key_len) == 0;
	return compare_bytes(key, len, range->key, range->key_len) >= 0 &&
		(is_open_end(range) ||
		 compare_bytes(key, len, range->end, range->end_len) < 0);
}

static bool
past_range(const EtcdRange *range, const Key *key)
{
	if (range->end == NULL)
		return compare_bytes(key->key, key->len, range->key, range->key_len) > 0;
	return !is_open_end(range) &&
		compare_bytes(key->key, key->len, range->end, range->end_len) >= 0;
}

/* As it was then; 0: as it is.  NULL: not there. */
static const Version *
version_at(const Key *key, int64_t revision)
{
	for (int i = key->n; --i >= 0;)
	{
		if (revision == 0 || key->versions[i].mod <= revision)
			return key->versions[i].create == 0 ? NULL : &key->versions[i];
	}
	return NULL;
}

static Key *
find_or_add_key(SimEtcd *etcd, const char *name, size_t len)
{
	int			at = lower_bound(etcd->keys, etcd->nkeys, name, len);
	Key		   *key;

	if (at < etcd->nkeys &&
		compare_bytes(etcd->keys[at]->key, etcd->keys[at]->len, name, len) == 0)
		return etcd->keys[at];
	if (etcd->nkeys == etcd->max_keys)
	{
		etcd->max_keys = etcd->max_keys == 0 ? 64 : 2 * etcd->max_keys;
		etcd->keys = must(realloc(etcd->keys, etcd->max_keys * sizeof(Key *)));
	}
	memmove(&etcd->keys[at + 1], &etcd->keys[at], (etcd->nkeys - at) * sizeof(Key *));
	etcd->nkeys++;
	key = must(calloc(1, sizeof(Key)));
	key->key = copy_bytes(name, len);
	key->len = len;
	etcd->keys[at] = key;
	return key;
}

static void
add_live(SimEtcd *etcd, Key *key)
{
	int			at = lower_bound(etcd->live, etcd->nlive, key->key, key->len);

	if (etcd->nlive == etcd->max_live)
	{
		etcd->max_live = etcd->max_live == 0 ? 64 : 2 * etcd->max_live;
		etcd->live = must(realloc(etcd->live, etcd->max_live * sizeof(Key *)));
	}
	memmove(&etcd->live[at + 1], &etcd->live[at], (etcd->nlive - at) * sizeof(Key *));
	etcd->live[at] = key;
	etcd->nlive++;
}

static Version *
add_version(Key *key)
{
	if (key->n == key->max)
	{
		key->max = key->max == 0 ? 4 : 2 * key->max;
		key->versions = must(realloc(key->versions, key->max * sizeof(Version)));
	}
	memset(&key->versions[key->n], 0, sizeof(Version));
	return &key->versions[key->n++];
}

static void
add_event(SimEtcd *etcd, EtcdEventType type, const Key *key, const Version *version)
{
	Event	   *event;

	if (etcd->nevents == etcd->max_events)
	{
		/* what is in use moves to the beginning; that may be room enough */
		if (etcd->first_event > etcd->max_events / 2)
		{
			etcd->nevents -= etcd->first_event;
			memmove(etcd->events, etcd->events + etcd->first_event,
					etcd->nevents * sizeof(Event));
			etcd->first_event = 0;
		}
		else
		{
			etcd->max_events = etcd->max_events == 0 ? 256 : 2 * etcd->max_events;
			etcd->events = must(realloc(etcd->events, etcd->max_events * sizeof(Event)));
		}
	}
	event = &etcd->events[etcd->nevents++];
	event->type = type;
	event->key = copy_bytes(key->key, key->len);
	event->key_len = key->len;
	event->mod = version->mod;
	event->create = version->create;
	event->lease = version->lease;
	event->value = copy_bytes(version->value, version->value_len);
	event->value_len = version->value_len;
}

static void
put_key(SimEtcd *etcd, const EtcdOp *op, int64_t revision)
{
	Key		   *key = find_or_add_key(etcd, op->range.key, op->range.key_len);
	bool		is_new = version_at(key, 0) == NULL;
	int64_t		create = is_new ? revision : version_at(key, 0)->create;
	Version    *version = add_version(key);

	version->mod = revision;
	version->create = create;
	version->lease = op->lease;
	version->value = copy_bytes(op->value, op->value_len);
	version->value_len = op->value_len;
	if (is_new)
		add_live(etcd, key);
	add_event(etcd, ETCD_EVENT_PUT, key, version);
}

/* The key at this place of those that are there. */
static void
delete_live(SimEtcd *etcd, int at, int64_t revision)
{
	Key		   *key = etcd->live[at];
	Version    *version = add_version(key);

	version->mod = revision;
	etcd->nlive--;
	memmove(&etcd->live[at], &etcd->live[at + 1], (etcd->nlive - at) * sizeof(Key *));
	add_event(etcd, ETCD_EVENT_DELETE, key, version);
}

/* How many there were. */
static int64_t
delete_keys(SimEtcd *etcd, const EtcdRange *range, int64_t revision)
{
	int			at = lower_bound(etcd->live, etcd->nlive, range->key, range->key_len);
	int64_t		n = 0;

	for (; at < etcd->nlive && !past_range(range, etcd->live[at]); n++)
		delete_live(etcd, at, revision);
	return n;
}

static void
fill_key_value(EtcdKeyValue *kv, const char *key, size_t key_len,
			   const char *value, size_t value_len)
{
	/* one piece of memory for both, as etcd_response.c has it */
	kv->key = must(malloc(key_len + value_len + 2));
	if (key_len > 0)
		memcpy(kv->key, key, key_len);
	kv->key[key_len] = '\0';
	kv->key_len = key_len;
	kv->value = kv->key + key_len + 1;
	if (value_len > 0)
		memcpy(kv->value, value, value_len);
	kv->value[value_len] = '\0';
	kv->value_len = value_len;
}

static void
read_keys(const SimEtcd *etcd, const EtcdOp *op, EtcdOpResult *result)
{
	Key *const *keys = op->revision == 0 ? etcd->live : etcd->keys;
	int			n = op->revision == 0 ? etcd->nlive : etcd->nkeys;
	int			max = 0;

	memset(result, 0, sizeof(*result));
	result->type = ETCD_OP_RANGE;
	for (int i = lower_bound(keys, n, op->range.key, op->range.key_len);
		 i < n && !past_range(&op->range, keys[i]); i++)
	{
		const Key  *key = keys[i];
		const Version *version = version_at(key, op->revision);
		EtcdKeyValue *kv;

		if (version == NULL)
			continue;
		result->count++;
		if (op->limit > 0 && result->nkvs >= op->limit)
		{
			result->more = true;
			continue;
		}
		if (result->nkvs == max)
		{
			max = max == 0 ? 8 : 2 * max;
			result->kvs = must(realloc(result->kvs, max * sizeof(EtcdKeyValue)));
		}
		kv = &result->kvs[result->nkvs++];
		memset(kv, 0, sizeof(*kv));
		fill_key_value(kv, key->key, key->len, version->value,
					   op->keys_only ? 0 : version->value_len);
		kv->create_revision = version->create;
		kv->mod_revision = version->mod;
		kv->lease = version->lease;
	}
}

/* ----------------------------------------------------------------
 *		Range and Txn
 * ----------------------------------------------------------------
 */

static bool
check_revision(const SimEtcd *etcd, int64_t revision, EtcdError *err)
{
	if (revision > etcd->header.revision)
		return fail(err, ETCD_OUT_OF_RANGE,
					"etcdserver: mvcc: required revision is a future revision");
	if (revision > 0 && revision < etcd->compacted)
		return fail(err, ETCD_OUT_OF_RANGE,
					"etcdserver: mvcc: required revision has been compacted");
	return true;
}

bool
sim_etcd_range(SimEtcd *etcd, const EtcdOp *op, EtcdRangeResult *result, EtcdError *err)
{
	memset(result, 0, sizeof(*result));
	if (op->range.key_len == 0)
		return fail(err, ETCD_INVALID_ARGUMENT, "etcdserver: key is not provided");
	if (!check_revision(etcd, op->revision, err))
		return false;
	result->header = etcd->header;
	read_keys(etcd, op, &result->range);
	return true;
}

/* Does the Txn have its keys, and no more operations than allowed? */
static bool
check_txn(const EtcdTxn *txn, int max_ops, EtcdError *err)
{
	int			ops = txn->ncompare;

	ops = txn->nsuccess > ops ? txn->nsuccess : ops;
	ops = txn->nfailure > ops ? txn->nfailure : ops;
	if (ops > max_ops)
		return fail(err, ETCD_INVALID_ARGUMENT,
					"etcdserver: too many operations in txn request");
	for (int i = 0; i < txn->ncompare; i++)
	{
		if (txn->compare[i].range.key_len == 0)
			return fail(err, ETCD_INVALID_ARGUMENT, "etcdserver: key is not provided");
	}
	for (int i = 0; i < txn->nsuccess + txn->nfailure; i++)
	{
		const EtcdOp *op = i < txn->nsuccess ? &txn->success[i] :
			&txn->failure[i - txn->nsuccess];

		if (op->type == ETCD_OP_TXN)
		{
			if (!check_txn(op->txn, max_ops - ops, err))
				return false;
		}
		else if (op->range.key_len == 0)
			return fail(err, ETCD_INVALID_ARGUMENT, "etcdserver: key is not provided");
	}
	return true;
}

/* What a branch puts and deletes, for the check that no key is put twice. */
typedef struct Touched
{
	const EtcdRange **puts;
	int			nputs;
	const EtcdRange **deletes;
	int			ndeletes;
} Touched;

static void
note_range(const EtcdRange ***list, int *n, const EtcdRange *range)
{
	*list = must(realloc((void *) *list, (*n + 1) * sizeof(EtcdRange *)));
	(*list)[(*n)++] = range;
}

static void
free_touched(Touched *touched)
{
	free((void *) touched->puts);
	free((void *) touched->deletes);
	memset(touched, 0, sizeof(*touched));
}

static bool
is_put(const Touched *touched, const EtcdRange *key)
{
	for (int i = 0; i < touched->nputs; i++)
	{
		if (compare_bytes(touched->puts[i]->key, touched->puts[i]->key_len,
						  key->key, key->key_len) == 0)
			return true;
	}
	return false;
}

/* Both branches of a Txn may put it: a set, so that it is there once. */
static void
note_put(Touched *touched, const EtcdRange *key)
{
	if (!is_put(touched, key))
		note_range(&touched->puts, &touched->nputs, key);
}

/* Here etcd takes an open end as it is written, so that nothing is before it. */
static bool
is_deleted(const Touched *touched, const EtcdRange *key)
{
	for (int i = 0; i < touched->ndeletes; i++)
	{
		const EtcdRange *range = touched->deletes[i];

		if (!(range->end != NULL && is_open_end(range)) &&
			key_in_range(range, key->key, key->key_len))
			return true;
	}
	return false;
}

static bool check_intervals(const EtcdOp *ops, int n, Touched *touched);

/* The two branches of a nested Txn exclude each other, so both may put a key. */
static bool
check_nested_intervals(const EtcdTxn *txn, Touched *touched)
{
	Touched		success = {0};
	Touched		failure = {0};
	bool		ok = check_intervals(txn->success, txn->nsuccess, &success) &&
		check_intervals(txn->failure, txn->nfailure, &failure);

	for (int i = 0; ok && i < success.nputs; i++)
	{
		ok = !is_put(touched, success.puts[i]) && !is_deleted(touched, success.puts[i]);
		note_put(touched, success.puts[i]);
	}
	for (int i = 0; ok && i < failure.nputs; i++)
	{
		ok = (!is_put(touched, failure.puts[i]) || is_put(&success, failure.puts[i])) &&
			!is_deleted(touched, failure.puts[i]);
		note_put(touched, failure.puts[i]);
	}
	for (int i = 0; i < success.ndeletes; i++)
		note_range(&touched->deletes, &touched->ndeletes, success.deletes[i]);
	for (int i = 0; i < failure.ndeletes; i++)
		note_range(&touched->deletes, &touched->ndeletes, failure.deletes[i]);
	free_touched(&success);
	free_touched(&failure);
	return ok;
}

static bool
check_intervals(const EtcdOp *ops, int n, Touched *touched)
{
	for (int i = 0; i < n; i++)
	{
		if (ops[i].type == ETCD_OP_DELETE)
			note_range(&touched->deletes, &touched->ndeletes, &ops[i].range);
	}
	for (int i = 0; i < n; i++)
	{
		if (ops[i].type == ETCD_OP_TXN &&
			!check_nested_intervals(ops[i].txn, touched))
			return false;
	}
	for (int i = 0; i < n; i++)
	{
		if (ops[i].type != ETCD_OP_PUT)
			continue;
		if (is_put(touched, &ops[i].range) || is_deleted(touched, &ops[i].range))
			return false;
		note_put(touched, &ops[i].range);
	}
	return true;
}

static bool
check_duplicates(const EtcdTxn *txn, EtcdError *err)
{
	Touched		success = {0};
	Touched		failure = {0};
	bool		ok = check_intervals(txn->success, txn->nsuccess, &success) &&
		check_intervals(txn->failure, txn->nfailure, &failure);

	free_touched(&success);
	free_touched(&failure);
	return ok || fail(err, ETCD_INVALID_ARGUMENT,
					  "etcdserver: duplicate key given in txn request");
}

static bool
compare_holds(const EtcdCompare *compare, const Version *version)
{
	int64_t		revision = 0;

	if (version != NULL)
		revision = compare->target == ETCD_COMPARE_CREATE ? version->create : version->mod;
	switch (compare->result)
	{
		case ETCD_COMPARE_EQUAL:
			return revision == compare->revision;
		case ETCD_COMPARE_GREATER:
			return revision > compare->revision;
		case ETCD_COMPARE_LESS:
			return revision < compare->revision;
	}
	return false;
}

static bool
all_hold(const SimEtcd *etcd, const EtcdTxn *txn)
{
	for (int c = 0; c < txn->ncompare; c++)
	{
		const EtcdCompare *compare = &txn->compare[c];
		bool		any = false;

		for (int i = lower_bound(etcd->live, etcd->nlive, compare->range.key, compare->range.key_len);
			 i < etcd->nlive && !past_range(&compare->range, etcd->live[i]); i++)
		{
			const Version *version = version_at(etcd->live[i], 0);

			any = true;
			if (!compare_holds(compare, version))
				return false;
		}
		if (!any && !compare_holds(compare, NULL))
			return false;
	}
	return true;
}

/*
 * Which branches run, level by level: all compares are evaluated before any
 * operation.
 */
typedef struct Path
{
	bool		succeeded;
	const EtcdOp *ops;
	int			nops;
	struct Path *nested;		/* for each operation; used for Txns */
} Path;

static void
find_path(const SimEtcd *etcd, const EtcdTxn *txn, Path *path)
{
	path->succeeded = all_hold(etcd, txn);
	path->ops = path->succeeded ? txn->success : txn->failure;
	path->nops = path->succeeded ? txn->nsuccess : txn->nfailure;
	path->nested = path->nops == 0 ? NULL : must(calloc(path->nops, sizeof(Path)));
	for (int i = 0; i < path->nops; i++)
	{
		if (path->ops[i].type == ETCD_OP_TXN)
			find_path(etcd, path->ops[i].txn, &path->nested[i]);
	}
}

static void
free_path(Path *path)
{
	for (int i = 0; i < path->nops; i++)
		free_path(&path->nested[i]);
	free(path->nested);
}

static Lease *
find_lease(const SimEtcd *etcd, int64_t id)
{
	for (int i = 0; i < etcd->nleases; i++)
	{
		if (etcd->leases[i].id == id)
			return &etcd->leases[i];
	}
	return NULL;
}

/* What is wrong with the puts, or with the ranges, that would run. */
static bool
check_path(const SimEtcd *etcd, const Path *path, EtcdOpType type, EtcdError *err)
{
	for (int i = 0; i < path->nops; i++)
	{
		const EtcdOp *op = &path->ops[i];

		if (op->type == ETCD_OP_TXN)
		{
			if (!check_path(etcd, &path->nested[i], type, err))
				return false;
		}
		else if (op->type != type)
			continue;
		else if (type == ETCD_OP_RANGE)
		{
			if (!check_revision(etcd, op->revision, err))
				return false;
		}
		else if (op->lease != 0 && find_lease(etcd, op->lease) == NULL)
			return fail(err, ETCD_NOT_FOUND, "etcdserver: requested lease not found");
	}
	return true;
}

/* Returns whether anything has changed; the new revision is the next one. */
static bool
run_path(SimEtcd *etcd, const Path *path, EtcdOpResult **results, int *nresults)
{
	int64_t		revision = etcd->header.revision + 1;
	bool		changed = false;

	*nresults = path->nops;
	*results = path->nops == 0 ? NULL : must(calloc(path->nops, sizeof(EtcdOpResult)));
	for (int i = 0; i < path->nops; i++)
	{
		const EtcdOp *op = &path->ops[i];
		EtcdOpResult *result = &(*results)[i];

		result->type = op->type;
		switch (op->type)
		{
			case ETCD_OP_RANGE:
				read_keys(etcd, op, result);
				break;
			case ETCD_OP_PUT:
				put_key(etcd, op, revision);
				changed = true;
				break;
			case ETCD_OP_DELETE:
				result->deleted = delete_keys(etcd, &op->range, revision);
				changed |= result->deleted > 0;
				break;
			case ETCD_OP_TXN:
				result->succeeded = path->nested[i].succeeded;
				changed |= run_path(etcd, &path->nested[i], &result->results,
									&result->nresults);
				break;
		}
	}
	return changed;
}

static bool
ops_write(const EtcdOp *ops, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (ops[i].type == ETCD_OP_PUT || ops[i].type == ETCD_OP_DELETE ||
			(ops[i].type == ETCD_OP_TXN && sim_etcd_txn_writes(ops[i].txn)))
			return true;
	}
	return false;
}

bool
sim_etcd_txn_writes(const EtcdTxn *txn)
{
	return ops_write(txn->success, txn->nsuccess) || ops_write(txn->failure, txn->nfailure);
}

static bool
ops_put(const EtcdOp *ops, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (ops[i].type == ETCD_OP_PUT)
			return true;
	}
	return false;
}

/* Etcd does not look into nested Txns for that. */
static bool
takes_space(const EtcdTxn *txn)
{
	return ops_put(txn->success, txn->nsuccess) || ops_put(txn->failure, txn->nfailure);
}

bool
sim_etcd_txn(SimEtcd *etcd, const EtcdTxn *txn, EtcdTxnResult *result, EtcdError *err)
{
	Path		path;
	bool		ok;

	memset(result, 0, sizeof(*result));
	if (!check_txn(txn, SIM_MAX_TXN_OPS, err) || !check_duplicates(txn, err))
		return false;
	if (etcd->nospace && takes_space(txn))
		return fail(err, ETCD_RESOURCE_EXHAUSTED,
					"etcdserver: mvcc: database space exceeded");
	find_path(etcd, txn, &path);
	ok = check_path(etcd, &path, ETCD_OP_PUT, err) &&
		check_path(etcd, &path, ETCD_OP_RANGE, err);
	if (ok)
	{
		result->succeeded = path.succeeded;
		if (run_path(etcd, &path, &result->results, &result->nresults))
			etcd->header.revision++;
		result->header = etcd->header;
	}
	free_path(&path);
	return ok;
}

/* ----------------------------------------------------------------
 *		Compaction
 * ----------------------------------------------------------------
 */

static void
free_event(Event *event)
{
	free(event->key);
	free(event->value);
}

static void
free_key(Key *key)
{
	for (int i = 0; i < key->n; i++)
		free(key->versions[i].value);
	free(key->versions);
	free(key->key);
	free(key);
}

/* Drop versions that nobody may ask for any more.  False: none is left. */
static bool
compact_key(Key *key, int64_t revision)
{
	int			keep = 0;		/* index of the first version that stays */

	for (int i = 0; i < key->n; i++)
	{
		if (key->versions[i].mod <= revision)
			keep = key->versions[i].create == 0 ? i + 1 : i;
	}
	for (int i = 0; i < keep; i++)
		free(key->versions[i].value);
	memmove(key->versions, key->versions + keep, (key->n - keep) * sizeof(Version));
	key->n -= keep;
	return key->n > 0;
}

bool
sim_etcd_compact(SimEtcd *etcd, int64_t revision, EtcdError *err)
{
	int			kept = 0;

	if (revision <= etcd->compacted)
		return fail(err, ETCD_OUT_OF_RANGE,
					"etcdserver: mvcc: required revision has been compacted");
	if (revision > etcd->header.revision)
		return fail(err, ETCD_OUT_OF_RANGE,
					"etcdserver: mvcc: required revision is a future revision");
	etcd->compacted = revision;
	for (int i = 0; i < etcd->nkeys; i++)
	{
		if (compact_key(etcd->keys[i], revision))
			etcd->keys[kept++] = etcd->keys[i];
		else
			free_key(etcd->keys[i]);
	}
	etcd->nkeys = kept;

	/* A watch may start at the compacted revision, but not before it. */
	while (etcd->first_event < etcd->nevents &&
		   etcd->events[etcd->first_event].mod < revision)
		free_event(&etcd->events[etcd->first_event++]);
	return true;
}

/* ----------------------------------------------------------------
 *		Leases
 * ----------------------------------------------------------------
 */

bool
sim_etcd_lease_grant(SimEtcd *etcd, int64_t id, int64_t ttl, int64_t now,
					 EtcdLeaseResult *result, EtcdError *err)
{
	Lease	   *lease;

	memset(result, 0, sizeof(*result));
	if (etcd->nospace)
		return fail(err, ETCD_RESOURCE_EXHAUSTED,
					"etcdserver: mvcc: database space exceeded");
	if (ttl > ETCD_MAX_TTL)
		return fail(err, ETCD_OUT_OF_RANGE, "etcdserver: too large lease TTL");
	if (find_lease(etcd, id) != NULL)
		return fail(err, ETCD_FAILED_PRECONDITION, "etcdserver: lease already exists");
	if (etcd->nleases == etcd->max_leases)
	{
		etcd->max_leases = etcd->max_leases == 0 ? 16 : 2 * etcd->max_leases;
		etcd->leases = must(realloc(etcd->leases, etcd->max_leases * sizeof(Lease)));
	}
	lease = &etcd->leases[etcd->nleases++];
	lease->id = id;
	lease->ttl = ttl < SIM_MIN_TTL ? SIM_MIN_TTL : ttl;
	lease->expires = now + lease->ttl * 1000000;
	result->header = etcd->header;
	result->id = id;
	result->ttl = lease->ttl;
	return true;
}

/* All keys of the lease go, in one revision. */
static void
end_lease(SimEtcd *etcd, int64_t id)
{
	int64_t		revision = etcd->header.revision + 1;
	bool		changed = false;
	Lease	   *lease = find_lease(etcd, id);

	for (int i = 0; i < etcd->nlive;)
	{
		if (version_at(etcd->live[i], 0)->lease == id)
		{
			delete_live(etcd, i, revision);
			changed = true;
		}
		else
			i++;
	}
	if (changed)
		etcd->header.revision = revision;
	*lease = etcd->leases[--etcd->nleases];
}

bool
sim_etcd_lease_revoke(SimEtcd *etcd, int64_t id, EtcdHeader *header, EtcdError *err)
{
	if (find_lease(etcd, id) == NULL)
		return fail(err, ETCD_NOT_FOUND, "etcdserver: requested lease not found");
	end_lease(etcd, id);
	*header = etcd->header;
	return true;
}

bool
sim_etcd_lease_expired(SimEtcd *etcd, int64_t id, int64_t now)
{
	const Lease *lease = find_lease(etcd, id);

	return lease != NULL && lease->expires <= now;
}

/* One that has run out is not renewed: etcd says when it is gone, with a TTL of 0. */
void
sim_etcd_lease_keepalive(SimEtcd *etcd, int64_t id, int64_t now, bool effect,
						 EtcdLeaseResult *result)
{
	Lease	   *lease;

	if (sim_etcd_lease_expired(etcd, id, now))
		end_lease(etcd, id);
	lease = find_lease(etcd, id);
	memset(result, 0, sizeof(*result));
	result->header = etcd->header;
	result->id = id;
	if (lease == NULL)
		return;
	result->ttl = lease->ttl;
	if (effect)
		lease->expires = now + lease->ttl * 1000000;
}

static void
add_lease_keys(const SimEtcd *etcd, int64_t id, EtcdLeaseResult *result)
{
	int			max = 0;

	for (int i = 0; i < etcd->nlive; i++)
	{
		EtcdKeyName *name;
		char	   *copy;

		if (version_at(etcd->live[i], 0)->lease != id)
			continue;
		if (result->nkeys == max)
		{
			max = max == 0 ? 8 : 2 * max;
			result->keys = must(realloc(result->keys, max * sizeof(EtcdKeyName)));
		}
		name = &result->keys[result->nkeys++];
		copy = must(malloc(etcd->live[i]->len));
		memcpy(copy, etcd->live[i]->key, etcd->live[i]->len);
		name->key = copy;
		name->key_len = etcd->live[i]->len;
	}
}

void
sim_etcd_lease_timetolive(SimEtcd *etcd, int64_t id, bool keys, int64_t now,
						  EtcdLeaseResult *result)
{
	const Lease *lease = find_lease(etcd, id);

	memset(result, 0, sizeof(*result));
	result->header = etcd->header;
	result->id = id;
	result->ttl = -1;
	if (lease == NULL)
		return;
	result->ttl = lease->expires > now ? (lease->expires - now) / 1000000 : 0;
	if (keys)
		add_lease_keys(etcd, id, result);
}

void
sim_etcd_promote(SimEtcd *etcd, int64_t now, int64_t extend)
{
	for (int i = 0; i < etcd->nleases; i++)
		etcd->leases[i].expires = now + etcd->leases[i].ttl * 1000000 + extend;
}

void
sim_etcd_expire(SimEtcd *etcd, int64_t now)
{
	for (int i = etcd->nleases; --i >= 0;)
	{
		if (etcd->leases[i].expires <= now)
			end_lease(etcd, etcd->leases[i].id);
	}
}

/* ----------------------------------------------------------------
 *		Watches
 * ----------------------------------------------------------------
 */

SimWatch *
sim_etcd_watch(SimEtcd *etcd, const EtcdRange *range, bool no_puts, bool no_deletes,
			   int64_t start_revision, int64_t as_of)
{
	int64_t		current = as_of > 0 ? as_of : etcd->header.revision;
	SimWatch   *watch = must(calloc(1, sizeof(SimWatch)));

	watch->etcd = etcd;
	watch->key = copy_bytes(range->key, range->key_len);
	watch->key_len = range->key_len;
	if (range->end != NULL)
		watch->end = copy_bytes(range->end, range->end_len);
	watch->end_len = range->end_len;
	watch->no_puts = no_puts;
	watch->no_deletes = no_deletes;
	watch->created_at = current;
	watch->unsynced = start_revision > 0 && start_revision <= current;
	watch->next_revision = start_revision > 0 ? start_revision : current + 1;
	watch->next = etcd->watches;
	etcd->watches = watch;
	return watch;
}

void
sim_etcd_sync_watch(SimWatch *watch)
{
	watch->unsynced = false;
}

void
sim_etcd_end_watch(SimWatch *watch)
{
	SimWatch  **link = &watch->etcd->watches;

	while (*link != watch)
		link = &(*link)->next;
	*link = watch->next;
	free(watch->key);
	free(watch->end);
	free(watch);
}

void
sim_etcd_cancel_watch(SimWatch *watch, const char *reason)
{
	watch->canceled = true;
	snprintf(watch->reason, sizeof(watch->reason), "%s", reason);
}

void
sim_etcd_watch_progress(SimWatch *watch)
{
	watch->wants_progress = true;
}

static bool
watch_wants(const SimWatch *watch, const Event *event)
{
	EtcdRange	range = {watch->key, watch->key_len, watch->end, watch->end_len};

	if (event->type == ETCD_EVENT_PUT ? watch->no_puts : watch->no_deletes)
		return false;
	return key_in_range(&range, event->key, event->key_len);
}

/* The first event that the watch may not have had. */
static int
first_event_of(const SimWatch *watch)
{
	const SimEtcd *etcd = watch->etcd;
	int			low = etcd->first_event;
	int			high = etcd->nevents;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (etcd->events[middle].mod < watch->next_revision)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool
next_wanted(const SimWatch *watch, int64_t upto, int *at)
{
	const SimEtcd *etcd = watch->etcd;

	for (int i = first_event_of(watch); i < etcd->nevents && etcd->events[i].mod <= upto; i++)
	{
		if (watch_wants(watch, &etcd->events[i]))
		{
			*at = i;
			return true;
		}
	}
	return false;
}

static bool
is_compacted(const SimWatch *watch)
{
	return watch->next_revision < watch->etcd->compacted;
}

bool
sim_etcd_watch_pending(const SimWatch *watch, int64_t upto)
{
	int			at;

	if (watch->told_canceled)
		return false;
	return !watch->told_created || watch->canceled ||
		(!watch->unsynced &&
		 (watch->wants_progress || is_compacted(watch) || next_wanted(watch, upto, &at)));
}

/* The first event that it is to have; if there is none, it has had all of them. */
static bool
find_next(SimWatch *watch, int64_t upto, int *at)
{
	if (next_wanted(watch, upto, at))
		return true;
	if (watch->next_revision <= upto)
		watch->next_revision = upto + 1;
	return false;
}

static void
add_watch_event(EtcdWatchMessage *msg, const Event *event)
{
	EtcdEvent  *added;

	msg->events = must(realloc(msg->events, (msg->nevents + 1) * sizeof(EtcdEvent)));
	added = &msg->events[msg->nevents++];
	memset(added, 0, sizeof(*added));
	added->type = event->type;
	fill_key_value(&added->kv, event->key, event->key_len, event->value, event->value_len);
	added->kv.mod_revision = event->mod;
	if (event->type == ETCD_EVENT_PUT)
	{
		added->kv.create_revision = event->create;
		added->kv.lease = event->lease;
	}
}

/* Events of one revision come together; a message has those of one. */
static bool
next_events(SimWatch *watch, int64_t upto, EtcdWatchMessage *msg)
{
	const SimEtcd *etcd = watch->etcd;
	int			at;

	if (!find_next(watch, upto, &at))
		return false;
	watch->next_revision = etcd->events[at].mod + 1;
	msg->header.revision = etcd->events[at].mod;
	for (; at < etcd->nevents && etcd->events[at].mod < watch->next_revision; at++)
	{
		if (watch_wants(watch, &etcd->events[at]))
			add_watch_event(msg, &etcd->events[at]);
	}
	return true;
}

bool
sim_etcd_watch_next(SimWatch *watch, int64_t upto, EtcdWatchMessage *msg)
{
	int			at;

	/* as a rule there is nothing */
	if (watch->told_canceled ||
		(watch->told_created && !watch->canceled && !watch->wants_progress &&
		 (watch->unsynced || (!is_compacted(watch) && !find_next(watch, upto, &at)))))
		return false;
	memset(msg, 0, sizeof(*msg));
	msg->header = watch->etcd->header;
	if (!watch->told_created)
	{
		watch->told_created = true;
		msg->header.revision = watch->created_at;
		msg->created = true;
		return true;
	}
	if (watch->canceled)
	{
		watch->told_canceled = true;
		msg->canceled = true;
		snprintf(msg->cancel_reason, sizeof(msg->cancel_reason), "%s", watch->reason);
		return true;
	}
	if (watch->unsynced)
		return false;
	if (is_compacted(watch))
	{
		watch->told_canceled = true;
		msg->canceled = true;
		msg->compact_revision = watch->etcd->compacted;
		return true;
	}
	if (next_events(watch, upto, msg))
		return true;
	if (watch->wants_progress)
	{
		watch->wants_progress = false;
		msg->header.revision = upto;
		return true;
	}
	return false;
}

/* ----------------------------------------------------------------
 *		The whole
 * ----------------------------------------------------------------
 */

SimEtcd *
sim_etcd_create(void)
{
	SimEtcd    *etcd = must(calloc(1, sizeof(SimEtcd)));

	etcd->header.cluster_id = 1;
	etcd->header.member_id = 1;
	etcd->header.revision = 1;
	etcd->header.raft_term = 2;
	return etcd;
}

SimEtcd *
sim_etcd_copy(const SimEtcd *etcd)
{
	SimEtcd    *copy = must(calloc(1, sizeof(SimEtcd)));

	copy->header = etcd->header;
	copy->compacted = etcd->compacted;
	copy->nospace = etcd->nospace;
	copy->keys = must(calloc(etcd->nkeys + 1, sizeof(Key *)));
	copy->nkeys = copy->max_keys = etcd->nkeys;
	copy->live = must(calloc(etcd->nlive + 1, sizeof(Key *)));
	copy->max_live = etcd->nlive;
	for (int i = 0; i < etcd->nkeys; i++)
	{
		const Key  *from = etcd->keys[i];
		Key		   *to = must(calloc(1, sizeof(Key)));

		to->key = copy_bytes(from->key, from->len);
		to->len = from->len;
		for (int v = 0; v < from->n; v++)
		{
			Version    *version = add_version(to);

			*version = from->versions[v];
			version->value = copy_bytes(from->versions[v].value, from->versions[v].value_len);
		}
		copy->keys[i] = to;
		if (version_at(to, 0) != NULL)
			copy->live[copy->nlive++] = to;
	}
	copy->events = must(calloc(etcd->nevents - etcd->first_event + 1, sizeof(Event)));
	for (int i = etcd->first_event; i < etcd->nevents; i++)
	{
		Event	   *event = &copy->events[copy->nevents++];

		*event = etcd->events[i];
		event->key = copy_bytes(event->key, event->key_len);
		event->value = copy_bytes(event->value, event->value_len);
	}
	copy->max_events = copy->nevents;
	copy->leases = must(calloc(etcd->nleases + 1, sizeof(Lease)));
	copy->nleases = copy->max_leases = etcd->nleases;
	for (int i = 0; i < etcd->nleases; i++)
		copy->leases[i] = etcd->leases[i];
	return copy;
}

void
sim_etcd_free(SimEtcd *etcd)
{
	while (etcd->watches != NULL)
		sim_etcd_end_watch(etcd->watches);
	for (int i = 0; i < etcd->nkeys; i++)
		free_key(etcd->keys[i]);
	free(etcd->keys);
	free(etcd->live);
	for (int i = etcd->first_event; i < etcd->nevents; i++)
		free_event(&etcd->events[i]);
	free(etcd->events);
	free(etcd->leases);
	free(etcd);
}

EtcdHeader *
sim_etcd_header(SimEtcd *etcd)
{
	return &etcd->header;
}

void
sim_etcd_set_nospace(SimEtcd *etcd, bool nospace)
{
	etcd->nospace = nospace;
}

int
sim_etcd_nkeys(const SimEtcd *etcd)
{
	return etcd->nkeys;
}

static void
describe_key(const Key *key, const Version *version, EtcdKeyValue *kv)
{
	memset(kv, 0, sizeof(*kv));
	kv->key = key->key;
	kv->key_len = key->len;
	kv->value = version->value;
	kv->value_len = version->value_len;
	kv->create_revision = version->create;
	kv->mod_revision = version->mod;
	kv->lease = version->lease;
}

bool
sim_etcd_key(const SimEtcd *etcd, int i, EtcdKeyValue *kv)
{
	const Version *version = version_at(etcd->keys[i], 0);

	if (version == NULL)
		return false;
	describe_key(etcd->keys[i], version, kv);
	return true;
}

int
sim_etcd_nlive(const SimEtcd *etcd)
{
	return etcd->nlive;
}

void
sim_etcd_live(const SimEtcd *etcd, int i, EtcdKeyValue *kv)
{
	describe_key(etcd->live[i], version_at(etcd->live[i], 0), kv);
}

int64_t
sim_etcd_live_lease(const SimEtcd *etcd, int i)
{
	return version_at(etcd->live[i], 0)->lease;
}

uint32_t *
sim_etcd_live_mark(SimEtcd *etcd, int i)
{
	return &etcd->live[i]->mark;
}

int
sim_etcd_nleases(const SimEtcd *etcd)
{
	return etcd->nleases;
}

int
sim_etcd_nwatches(const SimEtcd *etcd)
{
	int			n = 0;

	for (const SimWatch *watch = etcd->watches; watch != NULL; watch = watch->next)
		n++;
	return n;
}

int
sim_etcd_nevents(const SimEtcd *etcd)
{
	return etcd->nevents - etcd->first_event;
}
