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
 * neighbours too: then each is sent again alone, to see which it was.  So does a
 * queue that others have filled until the answer is too long to be read.
 *
 *-------------------------------------------------------------------------
 */
#include "batch.h"

#include "stats.h"
#include "utils/memutils.h"

/*
 * Requests under way at a time.  More only queue in etcd.
 */
#define MAX_WRITES			2
#define MAX_READS			2

/* Keys to be deleted that nobody knows; there should be none. */
#define MAX_STRAYS			1000
#define STRAY_PAUSE			INT64CONST(1000000)	/* microseconds, when refused */

static dlist_head deletes = DLIST_STATIC_INIT(deletes);
static dlist_head new_keys = DLIST_STATIC_INIT(new_keys);
static dlist_head tries = DLIST_STATIC_INIT(tries);
static dlist_head looks = DLIST_STATIC_INIT(looks);
static dlist_head ranges = DLIST_STATIC_INIT(ranges);
static dlist_head strays = DLIST_STATIC_INIT(strays);
static int	nstrays = 0;

/* Lowered when a server says that it allows less. */
int			requests_max_ops = MAX_OPS;

/*
 * While one Txn is under way, the next one is not sent before as many operations
 * have come together, or this time has passed; microseconds.  Most of what a
 * request costs etcd does not depend on how much is in it.
 */
#define GATHERING			INT64CONST(2000)

static int	writes = 0;			/* under way */
static int	write_items = 0;	/* operations in them */
static int64 write_sent_at = 0; /* the latest one; clock_now() */
static int	reads = 0;

/* ----------------------------------------------------------------
 *		Queues
 * ----------------------------------------------------------------
 */

/*
 * Is a try likely to succeed, so that it is put at once if the queue is empty,
 * without a look before?  A tick has to be looked at.
 */
static bool
try_may_be_first(const WorkerKey *key)
{
	const LockKey *shared = &key->name->entry->keys[key - key->name->keys];

	return !shared->has_tick && !name_is_crowded(key->name, clock_now());
}

/* Into the queue of its phase. */
void
requests_requeue(WorkerKey *key)
{
	dlist_head *queue;

	switch (key->phase)
	{
		case PHASE_PUT:
			queue = &new_keys;
			break;
		case PHASE_TRY:
			queue = key->looked ? &tries :
				try_may_be_first(key) ? &new_keys : &looks;
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
		requests_requeue(key);
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

/* Delete a key that nobody knows.  create_revision may be 0: not known. */
void
requests_stray(const char *key, size_t key_len, int64 create_revision)
{
	Stray	   *stray;
	dlist_iter	iter;

	dlist_foreach(iter, &strays)
	{
		stray = dlist_container(Stray, link, iter.cur);
		if (stray->key_len == key_len && memcmp(stray->key, key, key_len) == 0)
			return;
	}
	if (nstrays >= MAX_STRAYS)
		return;					/* they are found again */
	stray = MemoryContextAllocZero(TopMemoryContext,
								   offsetof(Stray, key) + key_len);
	memcpy(stray->key, key, key_len);
	stray->key_len = key_len;
	stray->create_revision = create_revision;
	dlist_push_tail(&strays, &stray->link);
	nstrays++;
}

void
requests_forget_stray(Stray *stray)
{
	dlist_delete(&stray->link);
	nstrays--;
	pfree(stray);
}

void
requests_stray_later(Stray *stray)
{
	stray->under_way = false;
	stray->retry_at = clock_now() + STRAY_PAUSE;
}

static bool
is_ready(const WorkerKey *key, int64 now)
{
	return key->retry_at <= now;
}

/* Is there anything to write that is not to wait for company? */
static bool
in_a_hurry(int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &deletes)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (is_ready(key, now) && key->linger_until <= now)
			return true;
	}
	if (!lease_alive() || worker_stopping)
		return false;
	dlist_foreach(iter, &new_keys)
	{
		if (is_ready(dlist_container(WorkerKey, queue_link, iter.cur), now))
			return true;
	}
	return false;
}

/*
 * Take deletions that are ready into the Txn.
 */
static void
take_deletes(Building *b, int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &deletes)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (!is_ready(key, now))
			continue;
		if (!batch_has_room(b, 1, 1, 0))
			break;
		if (key->alone && b->batch->nitems > 0)
			continue;
		dequeue_key(key);
		batch_add_delete(b, key);
		if (key->alone)
			break;
	}
}

static bool
goes_alone(const WorkerKey *key, int64 now)
{
	return key->alone || name_is_huge(key->name, now);
}

static bool
range_goes_alone(const WorkerName *name, int64 now)
{
	return name->range_alone || name_is_huge(name, now);
}

/*
 * May a new key be expected to be the first in its queue?  Not when others were
 * seen there lately, nor when there are keys of our own but for such that held
 * the lock exclusively and are deleted by the same Txn.
 */
static bool
may_be_first(const Building *b, const WorkerKey *key, int64 now, int64 *since)
{
	*since = 0;
	if (name_is_crowded(key->name, now))
		return false;
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		const WorkerKey *other = &key->name->keys[i];

		if (other->number == 0 || other == key)
			continue;
		if (other->mode != LOCK_EXCLUSIVE || other->held_since == 0 ||
			!batch_has_delete(b, other))
			return false;
		*since = Max(*since, other->create_revision);
	}
	return true;
}

/*
 * Take new keys that are ready into the Txn, one for a name at most: keys put
 * together share a create_revision.  Those whose queue is believed to be empty
 * go apart from the others, whom their compares would hold up.  A try goes alone.
 */
static void
take_puts(Building *b, int64 now)
{
	dlist_mutable_iter iter;
	bool		any = false;
	bool		first = false;
	int64		since;

	dlist_foreach_modify(iter, &new_keys)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (!is_ready(key, now))
			continue;
		if (!batch_has_room(b, 1, 2, 0))
			break;
		if ((goes_alone(key, now) || key->phase == PHASE_TRY) && b->batch->nitems > 0)
			continue;
		if (key->phase == PHASE_TRY && !may_be_first(b, key, now, &since))
		{
			dequeue_key(key);
			dlist_push_tail(&looks, &key->queue_link);
			key->queued = true;
			continue;
		}
		if (batch_has_put(b, key->name) ||
			(any && first != may_be_first(b, key, now, &since)))
			continue;
		first = may_be_first(b, key, now, &since);
		any = true;
		dequeue_key(key);
		if (first)
			batch_add_put_first(b, key, since);
		else
			batch_add_put(b, key);
		if (goes_alone(key, now) || key->phase == PHASE_TRY)
			break;
	}
}

static void
take_stray_looks(Building *b, int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &strays)
	{
		Stray	   *stray = dlist_container(Stray, link, iter.cur);

		if (stray->under_way || stray->create_revision != 0 ||
			stray->retry_at > now || !batch_has_room(b, 0, 1, 0))
			continue;
		stray->under_way = true;
		batch_add_stray_look(b, stray);
	}
}

static void
take_looks(Building *b, int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &looks)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (!is_ready(key, now) || !batch_has_room(b, 0, 2, 0))
			continue;
		if (goes_alone(key, now) && b->batch->nitems > 0)
			continue;
		dequeue_key(key);
		batch_add_look(b, key);
		if (goes_alone(key, now))
			return;
	}
	dlist_foreach_modify(iter, &ranges)
	{
		WorkerName *name = dlist_container(WorkerName, range_link, iter.cur);

		if (name->range_retry_at > now || !batch_has_room(b, 0, 1, 0))
			continue;
		if (range_goes_alone(name, now) && b->batch->nitems > 0)
			continue;
		dlist_delete(&name->range_link);
		batch_add_range(b, name);
		if (range_goes_alone(name, now))
			return;
	}
}

/* ----------------------------------------------------------------
 *		Sending
 * ----------------------------------------------------------------
 */

void
requests_batch_ended(const Batch *batch)
{
	if (batch->is_read)
		reads--;
	else
	{
		writes--;
		write_items -= batch->nitems;
	}
}

/* False: there was nothing to send, or it could not be sent. */
static bool
finish_building(Building *b)
{
	static const EtcdCallbacks callbacks = {NULL, batch_done};
	EtcdAnswer	not_sent = {.error = "could not send a request"};
	Batch	   *batch = b->batch;
	const char *path;
	char	   *body;

	if (batch->nitems == 0)
	{
		batch_free(batch);
		return false;
	}
	if (batch->is_read)
		reads++;
	else
	{
		writes++;
		write_items += batch->nitems;
		write_sent_at = clock_now();
	}
	body = batch_encode(b, &path);
	if (body == NULL ||
		link_call(path, body, etcd_lock_request_timeout,
				  &callbacks, batch) == NULL)
	{
		batch_done(batch, &not_sent);
		return false;
	}
	stats_batch(batch->nitems);
	return true;
}

/* Has enough come together for another Txn? */
static bool
has_gathered(int64 now)
{
	int			n = 0;
	dlist_iter	iter;

	if (writes == 0 || now - write_sent_at >= GATHERING)
		return true;
	dlist_foreach(iter, &deletes)
	{
		if (++n >= write_items)
			return true;
	}
	dlist_foreach(iter, &new_keys)
	{
		if (++n >= write_items)
			return true;
	}
	return false;
}

static bool
send_writes(int64 now)
{
	Building   *b;

	if (!has_gathered(now) || !in_a_hurry(now))
		return false;
	b = batch_start(false);
	take_deletes(b, now);
	if (b->batch->nitems == 0 || !b->batch->items[0].key->alone)
	{
		if (lease_alive() && !worker_stopping)
			take_puts(b, now);
	}
	return finish_building(b);
}

/* Likely to find that the key is gone, so it goes alone. */
static bool
send_stray(int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &strays)
	{
		Stray	   *stray = dlist_container(Stray, link, iter.cur);
		Building   *b;

		if (stray->under_way || stray->create_revision == 0 ||
			stray->retry_at > now)
			continue;
		stray->under_way = true;
		b = batch_start(false);
		batch_add_stray(b, stray);
		return finish_building(b);
	}
	return false;
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
		b = batch_start(false);
		dequeue_key(key);
		batch_add_try(b, key);
		return finish_building(b);
	}
	return false;
}

static bool
send_reads(int64 now)
{
	Building   *b = batch_start(true);

	take_looks(b, now);
	take_stray_looks(b, now);
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
		if (!sent && !send_stray(now))
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

		next = Min(next, Max(key->retry_at, key->linger_until));
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
		dlist_foreach(iter, &strays)
		{
			const Stray *stray = dlist_container(Stray, link, iter.cur);

			if (!stray->under_way && stray->create_revision != 0)
				next = Min(next, stray->retry_at);
		}
		if (lease_alive() && !worker_stopping)
		{
			next = earliest_retry(&new_keys, next);
			next = earliest_retry(&tries, next);
		}
		if (writes > 0)
			next = Max(next, write_sent_at + GATHERING);
	}
	if (reads < MAX_READS)
	{
		next = earliest_retry(&looks, next);
		dlist_foreach(iter, &strays)
		{
			const Stray *stray = dlist_container(Stray, link, iter.cur);

			if (!stray->under_way && stray->create_revision == 0)
				next = Min(next, stray->retry_at);
		}
		dlist_foreach(iter, &ranges)
			next = Min(next, dlist_container(WorkerName, range_link, iter.cur)->range_retry_at);
	}
	return next == PG_INT64_MAX ? next : Max(next, link_next_time());
}
