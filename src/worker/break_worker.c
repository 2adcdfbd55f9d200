/*-------------------------------------------------------------------------
 *
 * break_worker.c
 *	  Deleting the key of another server's lock, for etcd_lock_break().
 *
 * See session/break.c.  There is one request at a time, because there is one
 * slot.
 *
 * A token names a key by its create_revision, but tokens of a name must rise:
 * a server whose write key was granted behind its own read key shares the lock
 * by the read key with tokens of the write key, all but the first.  So we delete
 * both keys, in one step.  If the write key is gone, the past of the queue,
 * which etcd keeps until it compacts it, says which server it was of.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "etcd/etcd_api.h"
#include "etcd/etcd_error.h"
#include "etcd/etcd_holder.h"
#include "etcd/key_layout.h"
#include "etcd/printable.h"
#include "etcd/queue.h"
#include "shared/deadline.h"
#include "shared/lock_table.h"
#include "shared/request_slot.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/break_worker.h"
#include "worker/context.h"
#include "worker/key_value.h"
#include "worker/lease.h"
#include "worker/name_queue.h"

#define MAX_TARGETS		2

/* How often we look at a queue that has changed before a deletion. */
#define MAX_TRIES		5

/* A key that is to be deleted. */
typedef struct Target
{
	char	   *key;			/* palloc'd */
	size_t		key_len;
	int64		create_revision;
	int64		lease;
} Target;

struct BreakWorker
{
	BreakRequest current;
	uint64		current_id;
	char	   *past_key;		/* the key that the token names, if it is gone */
	size_t		past_key_len;
	Target		targets[MAX_TARGETS];
	int			ntargets;
	int			tries;
	char		ns[ETCD_HOLDER_TEXT];	/* namespace of its server's sentinel */
	bool		with_message;
	int64		min_revision;	/* highest known when the request was sent, */
	uint64		epoch;			/* and the epoch */
};

#define MyBreak (MyWorker->break_worker)

void
break_worker_create(void)
{
	MyBreak = MemoryContextAllocZero(TopMemoryContext, sizeof(struct BreakWorker));
}

/* Is the response to the request that is in flight now? */
static bool
is_current(void *arg)
{
	return (uint64) (uintptr_t) arg == MyBreak->current_id;
}

static void
finish(bool broken)
{
	request_slot_done(REQUEST_BREAK, MyBreak->current_id, broken);
}

static void
fail(int sqlerrcode, const char *error)
{
	request_slot_failed(REQUEST_BREAK, MyBreak->current_id, sqlerrcode, error);
}

static bool
has_response(const EtcdResponse *response, bool decoded, const EtcdError *error)
{
	if (!response->delivered)
		fail(ERRCODE_CONNECTION_FAILURE, response->error);
	else if (!decoded)
		fail(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, error->message);
	return response->delivered && decoded;
}

/* ----------------------------------------------------------------
 *		Deleting the keys
 * ----------------------------------------------------------------
 */

static void delete_keys(void);
static void find_again(void);

/*
 * Is it the response to our Txn?  If it deleted something, it must be newer.
 */
static bool
delete_fits(const EtcdTxnResult *result)
{
	if (!result->succeeded)
		return result->nresults == 0 && result->header.revision >= MyBreak->min_revision;
	for (int i = 0; i < Min(MyBreak->ntargets, result->nresults); i++)
	{
		if (result->results[i].type != ETCD_OP_DELETE)
			return false;
	}
	return result->nresults == MyBreak->ntargets * (MyBreak->with_message ? 2 : 1) &&
		result->header.revision > MyBreak->min_revision;
}

static void
delete_done(void *arg, const EtcdResponse *response)
{
	EtcdTxnResult result;
	EtcdError	error = {0};
	bool		decoded;

	decoded = response->delivered &&
		etcd_response_txn(&response->reply,
						  &result, &error);
	if (!is_current(arg))
		 /* given up */ ;
	else if (response->delivered && !decoded && MyBreak->with_message &&
			 (error.code == ETCD_PERMISSION_DENIED || error.code == ETCD_NOT_FOUND ||
			  (error.code == ETCD_RESOURCE_EXHAUSTED && !etcd_error_is_busy(&error))))
	{
		/*
		 * We may not write there, the lease is gone, or etcd is full: delete
		 * without a message.
		 */
		MyBreak->with_message = false;
		delete_keys();
	}
	else if (has_response(response, decoded, &error))
	{
		if (!delete_fits(&result))
			fail(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
				 "unexpected response from etcd");
		else
		{
			if (MyBreak->epoch == deadline_epoch(&lock_shared->deadline))
				lease_saw_header(response, &result.header);
			if (result.succeeded)
				finish(true);
			else
				find_again();
		}
	}
	if (decoded)
		etcd_response_free_txn(&result);
}

static void
send(EtcdMessage message, void (*done) (void *, const EtcdResponse *))
{
	LinkCallbacks callbacks = {.done = done,.is_urgent = true};

	MyBreak->min_revision = lock_shared->highest_revision;
	MyBreak->epoch = deadline_epoch(&lock_shared->deadline);
	if (link_call(LINK_SIDE, message, etcd_lock_request_timeout, &callbacks,
				  (void *) (uintptr_t) MyBreak->current_id) == NULL)
		fail(ERRCODE_CONNECTION_FAILURE, "could not send the request");
}

static void
delete_keys(void)
{
	EtcdOp		ops[2 * MAX_TARGETS];
	EtcdCompare compares[MAX_TARGETS];
	int			n = MyBreak->ntargets;
	EtcdTxn		txn = {compares, n, ops, n, NULL, 0};
	QueueKeyParts parts;
	char		messages[MAX_TARGETS][KEY_LAYOUT_SIZE];
	char	   *value;

	for (int i = 0; i < n; i++)
	{
		const Target *target = &MyBreak->targets[i];

		ops[i] = (EtcdOp)
		{
			.type = ETCD_OP_DELETE,.range =
			{
				target->key, target->key_len
			}
		};
		compares[i] = (EtcdCompare)
		{
			.target = ETCD_COMPARE_CREATE,.result = ETCD_COMPARE_EQUAL,
				.range = ops[i].range,.revision = target->create_revision
		};
		MyBreak->with_message = MyBreak->with_message &&
			key_layout_split(target->key, target->key_len, &parts) && parts.is_server;
	}
	if (MyBreak->with_message)
	{
		value = key_value_make(&lock_table_proc(MyBreak->current.procno)->who,
							   MyBreak->current.pid, GetCurrentTimestamp());
		txn.nsuccess = 2 * n;
		for (int i = 0; i < n; i++)
		{
			const Target *target = &MyBreak->targets[i];
			EtcdOp	   *op = &ops[n + i];

			(void) key_layout_split(target->key, target->key_len, &parts);
			*op = (EtcdOp)
			{
				.type = ETCD_OP_PUT,.lease = target->lease,
					.value = value,.value_len = strlen(value)
			};
			op->range.key = messages[i];
			op->range.key_len = key_layout_message(messages[i], MyBreak->ns, parts.lease,
												   MyBreak->current.key, parts.serial);
		}
	}
	send(etcd_request_txn(&txn), delete_done);
}

/*
 * Is it the response to our read of keys that begin like this?  If it is an
 * older one, or one about other keys, "false" would be a lie; the session is
 * told.
 */
static bool
read_fits(const EtcdRangeResult *result, const char *prefix, size_t prefix_len)
{
	bool		fits = result->header.revision >= MyBreak->min_revision;

	for (int i = 0; i < result->range.nkvs; i++)
	{
		const EtcdKeyValue *kv = &result->range.kvs[i];

		fits = fits && kv->key_len >= prefix_len && memcmp(kv->key, prefix, prefix_len) == 0;
	}
	if (!fits)
		fail(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, "unexpected response from etcd");
	return fits;
}

/*
 * The key's value says in which namespace its server's sentinel is: servers
 * can have different namespaces although their sessions lock the same names.
 */
static void
value_done(void *arg, const EtcdResponse *response)
{
	EtcdRangeResult result;
	EtcdError	error = {0};
	bool		decoded;
	const Target *target = &MyBreak->targets[0];
	const EtcdKeyValue *kv;
	EtcdHolder	holder;

	decoded = response->delivered &&
		etcd_response_range(&response->reply, &result, &error);
	if (is_current(arg) && has_response(response, decoded, &error) &&
		read_fits(&result, target->key, target->key_len))
	{
		kv = result.range.nkvs == 1 ? &result.range.kvs[0] : NULL;
		if (kv == NULL || kv->create_revision != target->create_revision)
			find_again();
		else
		{
			strlcpy(MyBreak->ns,
					etcd_holder_decode(kv->value, kv->value_len, &holder) &&
					holder.has_sentinel_ns ? holder.sentinel_ns :
					lock_shared->sentinel_ns,
					sizeof(MyBreak->ns));
			delete_keys();
		}
	}
	if (decoded)
		etcd_response_free_range(&result);
}

static void
read_value(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE};

	MyBreak->with_message = true;
	op.range.key = MyBreak->targets[0].key;
	op.range.key_len = MyBreak->targets[0].key_len;
	send(etcd_request_range(&op), value_done);
}

/* ----------------------------------------------------------------
 *		Finding the keys
 * ----------------------------------------------------------------
 */

static char *
copy_key(const EtcdKeyValue *kv)
{
	char	   *key = MemoryContextAlloc(TopMemoryContext, kv->key_len);

	memcpy(key, kv->key, kv->key_len);
	return key;
}

static void
forget_targets(void)
{
	for (int i = 0; i < MyBreak->ntargets; i++)
		pfree(MyBreak->targets[i].key);
	MyBreak->ntargets = 0;
}

static void
forget_keys(void)
{
	forget_targets();
	if (MyBreak->past_key != NULL)
		pfree(MyBreak->past_key);
	MyBreak->past_key = NULL;
}

static void
add_target(const EtcdKeyValue *kv)
{
	Assert(MyBreak->ntargets < MAX_TARGETS);
	MyBreak->targets[MyBreak->ntargets++] = (Target)
	{
		.key = copy_key(kv),.key_len = kv->key_len,
			.create_revision = kv->create_revision,.lease = kv->lease
	};
}

static void
read_queue(int64 revision, void (*done) (void *, const EtcdResponse *))
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true,.revision = revision};
	char		start[KEY_LAYOUT_SIZE];
	char		end[KEY_LAYOUT_SIZE];

	op.range.key_len = key_layout_queue_start(start, MyBreak->current.key);
	op.range.key = start;
	op.range.end_len = key_layout_queue_end(end, MyBreak->current.key);
	op.range.end = end;
	send(etcd_request_range(&op), done);
}

static bool
is_our_queue(const EtcdRangeResult *result)
{
	char		start[KEY_LAYOUT_SIZE];
	size_t		start_len = key_layout_queue_start(start, MyBreak->current.key);

	return read_fits(result, start, start_len);
}

static int64
named_revision(void)
{
	return MyBreak->current.token >> TOKEN_PASS_BITS;
}

/* Returns the index of the key that the token names, or -1. */
static int
find_named(const QueueView *view)
{
	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];

		if (key->create_revision == named_revision() &&
			queue_key_kind(view, key->key, key->key_len) != QUEUE_KEY_OTHER)
			return i;
	}
	return -1;
}

static void past_done(void *arg, const EtcdResponse *response);

static void
find_targets(const EtcdRangeResult *result)
{
	QueueView	view;
	QueueKey	named = {MyBreak->past_key, MyBreak->past_key_len, named_revision()};
	int			found;
	int			older = -1;

	name_queue_view(MyBreak->current.key, &result->range, &view);
	found = find_named(&view);
	if (found >= 0)
		named = view.keys[found];
	if ((MyBreak->current.token & TOKEN_MAX_PASS) != 0)
		older = queue_find_older_read(&view, named_revision());

	if (named.no_lease)
	{
		char		shown[LOCK_FAILURE_SIZE / 2];

		printable_copy(shown, sizeof(shown), named.key, named.key_len);
		fail(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			 psprintf("key \"%s\" in etcd is not a lock: it has no lease", shown));
	}
	else if (named.key == NULL && older >= 0 && result->header.revision > named_revision())
		read_queue(named_revision(), past_done);
	else
	{
		forget_targets();
		if (found >= 0)
			add_target(&result->range.kvs[found]);
		if (older >= 0 && named.key != NULL &&
			queue_is_write_of(&view, &named, &view.keys[older]))
			add_target(&result->range.kvs[older]);
		if (MyBreak->ntargets == 0)
			finish(false);
		else
			read_value();
	}
	pfree(unconstify(QueueKey *, view.keys));
}

static void
queue_done(void *arg, const EtcdResponse *response)
{
	EtcdRangeResult result;
	EtcdError	error = {0};
	bool		decoded;

	decoded = response->delivered &&
		etcd_response_range(&response->reply, &result, &error);
	if (is_current(arg) && has_response(response, decoded, &error) && is_our_queue(&result))
		find_targets(&result);
	if (decoded)
		etcd_response_free_range(&result);
}

static void
find_again(void)
{
	if (++MyBreak->tries >= MAX_TRIES)
		fail(ERRCODE_OBJECT_IN_USE, "the queue has changed each time before a key was deleted");
	else
		read_queue(0, queue_done);
}

/* The queue as it was when the token's key was put: look at today's once more. */
static void
find_past_key(const EtcdRangeResult *result)
{
	QueueView	view;
	int			found;

	name_queue_view(MyBreak->current.key, &result->range, &view);
	found = find_named(&view);
	if (found < 0)
		finish(false);
	else
	{
		MyBreak->past_key = copy_key(&result->range.kvs[found]);
		MyBreak->past_key_len = result->range.kvs[found].key_len;
		read_queue(0, queue_done);
	}
	pfree(unconstify(QueueKey *, view.keys));
}

static void
past_done(void *arg, const EtcdResponse *response)
{
	EtcdRangeResult result;
	EtcdError	error = {0};
	bool		decoded;

	decoded = response->delivered &&
		etcd_response_range(&response->reply, &result, &error);
	if (!is_current(arg))
		 /* given up */ ;
	else if (response->delivered && !decoded && error.code == ETCD_OUT_OF_RANGE)
		fail(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			 "the key of this token is gone, and etcd has compacted its history: "
			 "a key of the queue may have the lock, but it is not known which");
	else if (has_response(response, decoded, &error) && is_our_queue(&result))
		find_past_key(&result);
	if (decoded)
		etcd_response_free_range(&result);
}

void
break_worker_tick(void)
{
	BreakRequest request;
	uint64		id = request_slot_take(REQUEST_BREAK, &request);

	if (id == 0)
		return;
	forget_keys();
	MyBreak->current = request;
	MyBreak->current_id = id;
	MyBreak->tries = 0;
	read_queue(0, queue_done);
}
