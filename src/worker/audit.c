/*-------------------------------------------------------------------------
 *
 * audit.c
 *	  Compares this server's keys in etcd with what the server believes.
 *
 * Watches show deletions at once; the audit is the safety net below them, and
 * safety rests on it.  Each key that is held for longer than a moment is
 * compared at least once in audit_bound(), no matter how long the lease lives:
 *
 * - by the list of the keys attached to our lease, while that is short: it costs
 *	 etcd the least, and shows orphans, too.  It comes from etcd's leader, and a
 *	 deposed one may give it, but not for long: the lease is then not proven.
 *
 * - else by reading the keys, in slices of many keys each, those first that were
 *	 looked at longest ago.  The list comes once a minute then, for orphans.
 *
 * If that is not possible for longer than the bound, the lease cannot be
 * believed either: the deadline is not extended, and the worker logs that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "etcd/etcd_error.h"
#include "etcd/etcd_holder.h"
#include "etcd/key_layout.h"
#include "shared/lease_id.h"
#include "shared/lock_keys.h"
#include "utils/memutils.h"
#include "worker/audit.h"
#include "worker/break_message.h"
#include "worker/context.h"
#include "worker/held_keys.h"
#include "worker/lease.h"
#include "worker/name.h"
#include "worker/name_queue.h"
#include "worker/orphans.h"
#include "worker/serials.h"
#include "worker/txn_build.h"
#include "worker/txn_queue.h"

/*
 * How long a complete audit may take: this time, or this many keys a second.
 */
#define AUDIT_LEAST			INT64CONST(2000000) /* microseconds */
#define AUDIT_RATE			20000

/*
 * The list is used while our keys' names have at most this many bytes
 * together, and all have a watch: it does not tell create_revisions.  So a key
 * that was deleted, and put again by a request that was applied twice, looks as
 * if it had always been there; a watch shows the deletion.
 */
#define LIST_BYTES			(2 * 1024 * 1024)

/*
 * How often it is asked for when it does not serve, or when nothing is held: what a worker
 * has left that died is found by it.
 */
#define LIST_PAUSE			INT64CONST(60000000)
#define LIST_IDLE			INT64CONST(4000000)

/*
 * Slices in flight at a time, so that a way to etcd and back of 30 ms does not keep us
 * from the rate; bytes of names in one.
 */
#define MAX_SLICES			8
#define SLICE_BYTES			(256 * 1024)

#define RETRY_PAUSE			INT64CONST(100000)
#define REPEAT_LOG			INT64CONST(60000000)

/* A read of many keys. */
typedef struct Slice
{
	dlist_node	link;
	uint64		epoch;
	int64		min_revision;	/* highest known when it was sent */
	int64		sent_at;		/* clock_now() */
	int64		oldest;			/* when one of them was compared last */
	int			max_ops;		/* the limit of etcd, as known then */
	int			n;
	struct
	{
		uint64		serial;
		uint64		key_id;
	}			key[TXN_MAX_OPS];
} Slice;

struct Audit
{
	/* the list */
	bool		listing;		/* it is asked for */
	int64		listed_at;		/* when that was, for the last time */
	uint64		list_epoch;
	int64		list_min_revision;
	int64		list_pause;		/* before the next one; 0: the last one has
								 * come */
	int64		list_retry_at;
	int64		slices_until;	/* it cannot be had, so slices have to do */

	dlist_head	slices;			/* in flight */
	int			nslices;
	int64		slice_not_before;

	bool		withheld;		/* the deadline was not extended */
	int64		told_at;
};

#define MyAudit (MyWorker->audit)

void
audit_create(void)
{
	MyAudit = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Audit));
	dlist_init(&MyAudit->slices);
}

/* ----------------------------------------------------------------
 *		How old it is
 * ----------------------------------------------------------------
 */

/* How long a complete audit may take, while etcd responds. */
static int64
audit_bound(void)
{
	return Max(AUDIT_LEAST, name_count_audited() * INT64CONST(1000000) / AUDIT_RATE);
}

/* The same, and the time that etcd has for a response. */
static int64
overdue_after(void)
{
	return audit_bound() + (int64) etcd_lock_request_timeout * 1000;
}

/* From one comparison of a key to the next: some time is left for the response. */
static int64
audit_interval(void)
{
	return audit_bound() * 3 / 4;
}

/*
 * When the key with the oldest comparison was compared; PG_INT64_MAX if there
 * is none.
 */
static int64
oldest(void)
{
	dlist_head *keys = name_list_audited();
	int64		at = PG_INT64_MAX;
	dlist_iter	iter;

	if (!dlist_is_empty(keys))
		at = dlist_head_element(WorkerKey, audit_link, keys)->audited_at;
	dlist_foreach(iter, &MyAudit->slices)
		at = Min(at, dlist_container(Slice, link, iter.cur)->oldest);
	return at;
}

static void
publish(void)
{
	int64		at = oldest();

	pg_atomic_write_u64(&lock_shared->audited_at, at == PG_INT64_MAX ? 0 : (uint64) at);
}

/*
 * May the lease be extended?  Not if a comparison is overdue by more than the
 * time that etcd has for a response.
 */
bool
audit_permits(void)
{
	int64		now = clock_now();
	int64		at = oldest();

	MyAudit->withheld = at != PG_INT64_MAX && now - at > overdue_after();
	if (!MyAudit->withheld)
		return true;
	link_note_error("the locks that this server holds could not be compared with etcd's keys");
	if (MyAudit->told_at == 0 || now - MyAudit->told_at >= REPEAT_LOG)
	{
		MyAudit->told_at = now;
		ereport(WARNING,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("etcd_lock: could not compare the locks that this server holds with etcd's keys for %d s",
						(int) ((now - at) / 1000000)),
				 errdetail("The lease is not relied on for longer than until its deadline, which is in %d ms.",
						   (int) (deadline_left(&lock_shared->deadline) / 1000))));
	}
	return false;
}

/* Keys were compared: if the deadline waits for that, extend it now. */
static void
resume_extension(void)
{
	publish();
	if (MyAudit->withheld && audit_permits())
		lease_hurry();
}

/* Milliseconds; without a response the request is repeated. */
static long
request_timeout(void)
{
	return (long) Min(audit_bound() / 1000, etcd_lock_request_timeout);
}

static bool
uses_list(int64 now)
{
	return name_audited_bytes() <= LIST_BYTES &&
		held_keys_all_watched() && now >= MyAudit->slices_until;
}

/* Does the list come?  Else slices do, too. */
static bool
list_serves(int64 now)
{
	return uses_list(now) && MyAudit->list_pause == 0;
}

/* When the list may be requested again. */
static int64
next_list(int64 now)
{
	if (MyAudit->listing)
		return PG_INT64_MAX;
	if (!uses_list(now))
		return MyAudit->listed_at + LIST_PAUSE;
	if (MyAudit->list_pause != 0)
		return MyAudit->list_retry_at;
	return MyAudit->listed_at +
		(name_count_audited() == 0 ? LIST_IDLE : audit_interval());
}

/* The same for the next slice. */
static int64
next_slice(int64 now)
{
	dlist_head *keys = name_list_audited();
	const WorkerKey *key;

	if (list_serves(now) || MyAudit->nslices >= MAX_SLICES || dlist_is_empty(keys))
		return PG_INT64_MAX;
	key = dlist_head_element(WorkerKey, audit_link, keys);
	return Max(Max(key->audited_at, key->audit_sent_at) + audit_interval(),
			   MyAudit->slice_not_before);
}

/* ----------------------------------------------------------------
 *		The list
 * ----------------------------------------------------------------
 */

/* Etcd has listed this key among those attached to our lease. */
static void
look_at_listed(const EtcdKeyName *kv, uint64 lease, int64 listed_at)
{
	WorkerKey  *key = name_key_of(kv->key, kv->key_len);
	uint64		serial;
	uint64		asker;

	/* Almost all belong to our locks, so check for that first. */
	if (key != NULL)
		key->listed_at = listed_at;
	else if (key_layout_is_note(kv->key, kv->key_len, lease, &serial))
	{
		key = name_key_of_serial(serial);
		if (key == NULL || !held_keys_knows_note(key, kv->key, kv->key_len))
			orphan_add(kv->key, kv->key_len, 0);
	}
	else if (break_message_is(kv->key, kv->key_len, &serial))
	{
		/* the watch on the sentinel has missed it */
		if (name_key_of_serial(serial) != NULL)
			break_message_came(serial, NULL);
		orphan_add(kv->key, kv->key_len, 0);
	}

	/*
	 * A question or an answer that has been read, or that the watch has
	 * missed.
	 */
	else if (key_layout_is_question(kv->key, kv->key_len, lock_shared->sentinel_key,
									&asker, &serial) ||
			 key_layout_is_position(kv->key, kv->key_len, lock_shared->sentinel_key,
									&asker, &serial))
		orphan_add(kv->key, kv->key_len, 0);

	/* Likewise a probe, whose sender may not repeat it for a minute. */
	else if (key_layout_is_deadlock(kv->key, kv->key_len, lock_shared->sentinel_key,
									&asker, &serial))
	{
		if (!orphan_is_known(kv->key, kv->key_len) && !lease_read_messages())
			orphan_add(kv->key, kv->key_len, 0);
	}

	/*
	 * Others may attach keys to our lease, and the list may be wrong.  We
	 * delete only what we have put, and not the sentinel.
	 */
	else if (key_layout_is_own(kv->key, kv->key_len, lease, &serial))
		orphan_add(kv->key, kv->key_len, 0);
}

/*
 * Etcd has shown, by a request sent at this time, that it does not have the key.  The key is
 * looked for in its queue, which decides.  If that cannot be read for as long as an audit
 * and a response may take, the lock is not believed in any longer.
 */
static void
doubt(WorkerKey *key, int64 sent_at)
{
	key->doubt_until = sent_at;
	if (key->missing_since == 0)
		key->missing_since = sent_at;
	if (sent_at - key->missing_since > overdue_after())
		name_queue_unseen(key);
	else
		txn_queue_range(key->name);
}

/*
 * Every key that was held already when the list was asked for should be in it.  One that
 * is missing is looked for in its queue, which decides: the list may come from a deposed
 * leader.
 *
 * Keys that are read in slices are not to be due all at once because of the list.
 */
static void
look_for_missing(int64 listed_at)
{
	bool		counts = uses_list(listed_at);
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, name_list_audited())
	{
		WorkerKey  *key = dlist_container(WorkerKey, audit_link, iter.cur);

		if (key->audited_at >= listed_at)
			continue;			/* granted since */
		if (counts)
			key->audited_at = listed_at;
		if (key->listed_at == listed_at)
			name_key_is_there(key);
		else
			doubt(key, listed_at);
	}
}

/* Is it about our lease, and no older than what was known when it was asked for? */
static bool
list_fits(const EtcdLeaseResult *listed)
{
	return listed->id == lease_id() &&
		(listed->header.revision >= MyAudit->list_min_revision ||
		 listed->header.cluster_id != lock_shared->cluster_id);
}

/* The list is not available, and asking again at once will not help. */
static void
do_without_list(const EtcdResponse *response, const EtcdError *error)
{
	if (error->code == ETCD_NOT_FOUND)
		lease_gone("etcd does not know the lease any more");
	else if (error->code == ETCD_BAD_RESPONSE)
		link_bad_response(response, error->message);
	else if (error->code != ETCD_UNAVAILABLE && !etcd_error_is_busy(error))
		MyAudit->slices_until = clock_now() + LIST_PAUSE;
}

/* It has not come yet: in which time to ask for it again. */
static void
retry_list(void)
{
	MyAudit->list_pause = MyAudit->list_pause == 0 ? RETRY_PAUSE :
		Min(2 * MyAudit->list_pause, audit_interval());
	MyAudit->list_retry_at = clock_now() + MyAudit->list_pause;
}

static void
list_done(void *arg, const EtcdResponse *response)
{
	EtcdLeaseResult listed;
	EtcdError	error = {0};

	MyAudit->listing = false;
	if (MyAudit->list_epoch != deadline_epoch(&lock_shared->deadline))
		return;
	retry_list();
	if (response->too_long)
		MyAudit->slices_until = clock_now() + LIST_PAUSE;
	if (!response->delivered)
		return;
	if (!etcd_response_lease(&response->reply, &listed, &error))
	{
		do_without_list(response, &error);
		return;
	}
	if (!list_fits(&listed))
		link_bad_response(response, "unexpected response from etcd");
	else if (listed.ttl <= 0)
		lease_hurry();
	else
	{
		MyAudit->list_pause = 0;
		for (int i = 0; i < listed.nkeys; i++)
			look_at_listed(&listed.keys[i], (uint64) listed.id, MyAudit->listed_at);
		look_for_missing(MyAudit->listed_at);
		resume_extension();
	}
	etcd_response_free_lease(&listed);
}

static void
send_list(int64 now)
{
	/* without it, we no longer rely on our locks */
	static const LinkCallbacks callbacks = {.done = list_done,.is_urgent = true};

	MyAudit->listed_at = now;
	MyAudit->list_epoch = deadline_epoch(&lock_shared->deadline);
	MyAudit->list_min_revision = lock_shared->highest_revision;
	MyAudit->listing = link_call(LINK_SIDE, etcd_request_lease_timetolive(lease_id(), true),
								 request_timeout(), &callbacks, NULL) != NULL;
	if (!MyAudit->listing)
		retry_list();
}

/* ----------------------------------------------------------------
 *		Slices
 * ----------------------------------------------------------------
 */

/* Returns NULL if we no longer have it. */
static WorkerKey *
key_of_slice(const Slice *slice, int i)
{
	WorkerKey  *key = name_key_of_serial(slice->key[i].serial);

	return key != NULL && key->key_id == slice->key[i].key_id && key->is_audited ? key : NULL;
}

/* Is it the response to this read: for each key, that one or nothing? */
static bool
slice_fits(const Slice *slice, const EtcdTxnResult *result)
{
	if (!result->succeeded || result->nresults != slice->n ||
		(result->header.revision < slice->min_revision &&
		 result->header.cluster_id == lock_shared->cluster_id))
		return false;
	for (int i = 0; i < slice->n; i++)
	{
		const EtcdOpResult *range = &result->results[i];
		const WorkerKey *key = key_of_slice(slice, i);

		if (range->type != ETCD_OP_RANGE || range->nkvs > 1)
			return false;
		if (key != NULL && range->nkvs == 1 &&
			(range->kvs[0].key_len != key->etcd_key_len ||
			 memcmp(range->kvs[0].key, key->etcd_key, range->kvs[0].key_len) != 0))
			return false;
	}
	return true;
}

/* If a key is not as we know it, read its queue. */
static void
compare_slice(const Slice *slice, const EtcdTxnResult *result)
{
	for (int i = 0; i < slice->n; i++)
	{
		const EtcdOpResult *range = &result->results[i];
		WorkerKey  *key = key_of_slice(slice, i);

		if (key == NULL)
			continue;
		key->audited_at = slice->sent_at;
		if (range->nkvs == 1 && range->kvs[0].create_revision == key->create_revision)
			name_key_is_there(key);
		else
			doubt(key, slice->sent_at);
	}
}

/*
 * Etcd has refused to read one of them, or their names are too long together: each is
 * looked for in its queue, apart from others where that has to be (txn_queue.c).  The one
 * to blame may still be there, but is not believed in for longer than without a response.
 */
static void
look_one_by_one(const Slice *slice)
{
	for (int i = 0; i < slice->n; i++)
	{
		WorkerKey  *key = key_of_slice(slice, i);

		if (key == NULL)
			continue;
		if (key->doubt_until == 0)
			key->doubt_until = slice->sent_at + overdue_after();
		txn_queue_range(key->name);
		key->audited_at = slice->sent_at;
	}
}

/* They were not compared, so they come next. */
static void
take_back_slice(const Slice *slice)
{
	for (int i = slice->n; --i >= 0;)
	{
		WorkerKey  *key = key_of_slice(slice, i);

		if (key == NULL)
			continue;
		key->audit_sent_at = 0;
		dlist_move_head(name_list_audited(), &key->audit_link);
	}
	MyAudit->slice_not_before = clock_now() + RETRY_PAUSE;
}

static void
slice_responded(Slice *slice, const EtcdResponse *response)
{
	EtcdTxnResult result;
	EtcdError	error = {0};

	if (response->too_long)
		look_one_by_one(slice);
	else if (!response->delivered)
		take_back_slice(slice);
	else if (!etcd_response_txn(&response->reply, &result, &error))
	{
		if (error.code == ETCD_PERMISSION_DENIED)
			look_one_by_one(slice);
		else
		{
			(void) txn_build_note_error(&error, slice->max_ops);
			take_back_slice(slice);
		}
		if (error.code == ETCD_BAD_RESPONSE)
			link_bad_response(response, error.message);
	}
	else
	{
		if (slice_fits(slice, &result))
		{
			lease_saw_header(response, &result.header);
			compare_slice(slice, &result);
			resume_extension();
		}
		else
		{
			take_back_slice(slice);
			link_bad_response(response, "unexpected response from etcd");
		}
		etcd_response_free_txn(&result);
	}
}

static void
slice_done(void *arg, const EtcdResponse *response)
{
	Slice	   *slice = arg;

	dlist_delete(&slice->link);
	MyAudit->nslices--;
	if (slice->epoch == deadline_epoch(&lock_shared->deadline))
		slice_responded(slice, response);
	pfree(slice);
}

/* The next key, if it is due, with the read that looks at it. */
static WorkerKey *
add_to_slice(Slice *slice, EtcdOp *op, int64 now)
{
	WorkerKey  *key;

	if (next_slice(now) > now)
		return NULL;
	key = dlist_head_element(WorkerKey, audit_link, name_list_audited());
	op->type = ETCD_OP_RANGE;
	op->keys_only = true;
	op->range.key = key->etcd_key;
	op->range.key_len = key->etcd_key_len;
	slice->oldest = Min(slice->oldest, key->audited_at);
	slice->key[slice->n].serial = key->serial;
	slice->key[slice->n++].key_id = key->key_id;
	key->audit_sent_at = now;
	dlist_delete(&key->audit_link);
	dlist_push_tail(name_list_audited(), &key->audit_link);
	return key;
}

/*
 * Read the keys that are due, starting with those that were compared longest
 * ago.
 */
static void
send_slice(int64 now)
{
	static const LinkCallbacks callbacks = {.done = slice_done};
	Slice	   *slice = MemoryContextAlloc(TopMemoryContext, sizeof(Slice));
	EtcdOp	   *ops = palloc0(TXN_MAX_OPS * sizeof(EtcdOp));
	EtcdTxn		txn = {.success = ops};
	size_t		bytes = 0;

	slice->max_ops = txn_build_max_ops();
	slice->n = 0;
	slice->epoch = deadline_epoch(&lock_shared->deadline);
	slice->min_revision = lock_shared->highest_revision;
	slice->sent_at = now;
	slice->oldest = PG_INT64_MAX;
	while (slice->n < Min(TXN_MAX_OPS, slice->max_ops) && bytes < SLICE_BYTES)
	{
		const WorkerKey *key = add_to_slice(slice, &ops[slice->n], now);

		if (key == NULL)
			break;
		bytes += key->etcd_key_len;
	}
	txn.nsuccess = slice->n;
	dlist_push_tail(&MyAudit->slices, &slice->link);
	MyAudit->nslices++;
	if (link_call(LINK_LOCK, etcd_request_txn(&txn), request_timeout(), &callbacks,
				  slice) == NULL)
	{
		EtcdResponse not_sent = {.error = "could not send a request"};

		slice_done(slice, &not_sent);
	}
	pfree(ops);
}

/* ----------------------------------------------------------------
 *		Time
 * ----------------------------------------------------------------
 */

void
audit_tick(int64 now)
{
	publish();
	orphans_look_longer(!list_serves(now));
	if (!lease_alive() || !link_ready())
		return;
	if (next_list(now) <= now)
		send_list(now);
	while (next_slice(now) <= now)
		send_slice(now);
}

int64
audit_next_time(void)
{
	int64		now = clock_now();

	/* When there is a lease, and a link, something wakes us. */
	if (!lease_alive() || !link_ready())
		return PG_INT64_MAX;
	return Min(next_list(now), next_slice(now));
}

/* ----------------------------------------------------------------
 *		Messages
 * ----------------------------------------------------------------
 */

/* Record for the holders of the lock who has broken it. */
static void
note_breaker(const WorkerKey *key, const EtcdHolder *by)
{
	LockEntry  *entry = key->name->entry;
	LWLock	   *lock;
	EtcdHolder	shown = *by;
	char		breaker[LOCK_BREAKER_TEXT];
	int			slot;

	etcd_holder_printable(shown.user);
	etcd_holder_printable(shown.server);
	snprintf(breaker, sizeof(breaker), "user \"%s\" on server \"%s\" (process %d)",
			 shown.user, shown.server, shown.pid);
	lock = name_lock(key->name);
	slot = lock_key_slot(entry, key->key_id);
	if (slot >= 0)
		lock_key_note_breaker(entry, &entry->keys[slot], breaker);
	lock_table_unlock(lock);
}

/*
 * Another server's message says that it has broken a lock of ours.  A read of
 * the queue shows whether that is true.
 */
void
audit_broken(const EtcdKeyValue *message)
{
	uint64		serial;
	WorkerKey  *key;
	EtcdHolder	by;
	bool		known;

	if (!break_message_is(message->key, message->key_len, &serial))
		return;
	orphan_add(message->key, message->key_len, message->create_revision);
	key = name_key_of_serial(serial);
	known = etcd_holder_decode(message->value, message->value_len, &by);
	if (key == NULL && !break_message_is_awaited(serial))
		return;					/* not a key of ours */
	break_message_came(serial, known ? &by : NULL);
	if (known && key != NULL)
		note_breaker(key, &by);
	if (key != NULL)
		txn_queue_range(key->name);
}
