/*-------------------------------------------------------------------------
 *
 * break_worker.c
 *	  Deleting the key of another server's lock, for etcd_lock_break().
 *
 * See session/break.c.  There is one request at a time, because there is one
 * slot.
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

struct BreakWorker
{
	BreakRequest current;
	uint64		current_id;
	char	   *broken_key;		/* the key that is to be deleted */
	size_t		broken_key_len;
	int64		broken_lease;
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

static void delete_key(void);

/*
 * Is it the response to our Txn?  If it deleted something, it must be newer.
 */
static bool
delete_fits(const EtcdTxnResult *result)
{
	if (result->succeeded)
		return result->nresults == (MyBreak->with_message ? 2 : 1) &&
			result->results[0].type == ETCD_OP_DELETE &&
			result->header.revision > MyBreak->min_revision;
	return result->nresults == 0 && result->header.revision >= MyBreak->min_revision;
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
		delete_key();
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
			finish(result.succeeded);
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
delete_key(void)
{
	EtcdOp		ops[2] = {{.type = ETCD_OP_DELETE}, {.type = ETCD_OP_PUT}};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE,.result = ETCD_COMPARE_EQUAL,
		.revision = MyBreak->current.create_revision
	};
	EtcdTxn		txn = {&compare, 1, ops, 1, NULL, 0};
	QueueKeyParts parts;
	char		message[KEY_LAYOUT_SIZE];

	ops[0].range.key = MyBreak->broken_key;
	ops[0].range.key_len = MyBreak->broken_key_len;
	compare.range = ops[0].range;
	MyBreak->with_message = MyBreak->with_message && MyBreak->broken_lease != 0 &&
		key_layout_split(MyBreak->broken_key, MyBreak->broken_key_len, &parts) && parts.is_server;
	if (MyBreak->with_message)
	{
		ops[1].range.key = message;
		ops[1].range.key_len = key_layout_message(message, MyBreak->ns,
												  parts.lease, MyBreak->current.key,
												  parts.serial);
		ops[1].value = key_value_make(&lock_table_proc(MyBreak->current.procno)->who,
									  MyBreak->current.pid, GetCurrentTimestamp());
		ops[1].value_len = strlen(ops[1].value);
		ops[1].lease = MyBreak->broken_lease;
		txn.nsuccess = 2;
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
	const EtcdKeyValue *kv;
	EtcdHolder	holder;

	decoded = response->delivered &&
		etcd_response_range(&response->reply, &result, &error);
	if (is_current(arg) && has_response(response, decoded, &error) &&
		read_fits(&result, MyBreak->broken_key, MyBreak->broken_key_len))
	{
		kv = result.range.nkvs == 1 ? &result.range.kvs[0] : NULL;
		if (kv == NULL || kv->create_revision != MyBreak->current.create_revision)
			finish(false);
		else
		{
			strlcpy(MyBreak->ns,
					etcd_holder_decode(kv->value, kv->value_len, &holder) &&
					holder.has_sentinel_ns ? holder.sentinel_ns :
					lock_shared->sentinel_ns,
					sizeof(MyBreak->ns));
			delete_key();
		}
	}
	if (decoded)
		etcd_response_free_range(&result);
}

/* This is the key to delete. */
static void
read_value(const EtcdKeyValue *kv)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE};

	if (MyBreak->broken_key != NULL)
		pfree(MyBreak->broken_key);
	MyBreak->broken_key = MemoryContextAlloc(TopMemoryContext, kv->key_len);
	memcpy(MyBreak->broken_key, kv->key, kv->key_len);
	MyBreak->broken_key_len = kv->key_len;
	MyBreak->broken_lease = kv->lease;
	MyBreak->with_message = true;

	op.range.key = MyBreak->broken_key;
	op.range.key_len = MyBreak->broken_key_len;
	send(etcd_request_range(&op), value_done);
}

static const EtcdKeyValue *
find_key(const EtcdOpResult *range)
{
	QueueView	view = {.name = MyBreak->current.key,
	.name_len = strlen(MyBreak->current.key),.owner = ""};

	for (int i = 0; i < range->nkvs; i++)
	{
		const EtcdKeyValue *kv = &range->kvs[i];

		if (kv->create_revision == MyBreak->current.create_revision &&
			queue_key_kind(&view, kv->key, kv->key_len) != QUEUE_KEY_OTHER)
			return kv;
	}
	return NULL;
}

static void
range_done(void *arg, const EtcdResponse *response)
{
	EtcdRangeResult result;
	EtcdError	error = {0};
	const EtcdKeyValue *found;
	bool		decoded;
	char		start[KEY_LAYOUT_SIZE];
	size_t		start_len = key_layout_queue_start(start, MyBreak->current.key);

	decoded = response->delivered &&
		etcd_response_range(&response->reply, &result, &error);
	if (is_current(arg) && has_response(response, decoded, &error) &&
		read_fits(&result, start, start_len))
	{
		found = find_key(&result.range);
		if (found == NULL)
			finish(false);
		else if (found->lease == 0)
		{
			char		shown[LOCK_FAILURE_SIZE / 2];

			printable_copy(shown, sizeof(shown), found->key, found->key_len);
			fail(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
				 psprintf("key \"%s\" in etcd is not a lock: it has no lease", shown));
		}
		else
			read_value(found);
	}
	if (decoded)
		etcd_response_free_range(&result);
}

void
break_worker_tick(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true};
	char		start[KEY_LAYOUT_SIZE];
	char		end[KEY_LAYOUT_SIZE];
	uint64		id = request_slot_take(REQUEST_BREAK, &MyBreak->current);

	if (id == 0)
		return;
	MyBreak->current_id = id;

	op.range.key_len = key_layout_queue_start(start, MyBreak->current.key);
	op.range.key = start;
	op.range.end_len = key_layout_queue_end(end, MyBreak->current.key);
	op.range.end = end;
	send(etcd_request_range(&op), range_done);
}
