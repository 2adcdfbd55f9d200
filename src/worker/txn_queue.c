/*-------------------------------------------------------------------------
 *
 * txn_queue.c
 *	  Group commit: many operations in one Txn.
 *
 * Operations to send wait in queues.  While requests are in flight, more
 * gather, and the next Txn takes as many as reasonable: first deletions, then
 * new keys and tries, each in a nested Txn.  Reads are gathered in the same
 * way, separately from the writes.
 *
 * A failed compare affects only its own operation, but an operation that etcd
 * refuses (a name that may not be written, a response that is too long) fails
 * the whole Txn.  Then its halves are sent again, and their halves, until that
 * operation is alone.  All this has a separate lane, in which names and
 * sessions that were refused recently start, so that others do not wait for
 * it.  Requests whose responses are long, because there are many keys below
 * the name, also have a lane.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "etcd/turns.h"
#include "shared/counters.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/lease.h"
#include "worker/recent_names.h"
#include "worker/role_requests.h"
#include "worker/tick_lease.h"
#include "worker/txn_build.h"
#include "worker/txn_queue.h"

/*
 * Requests in flight at a time.  More would only queue in etcd.
 */
#define MAX_WRITES			2
#define MAX_READS			2

/* The same in the lane of refused requests: its budget. */
#define MAX_SUSPECTS		1

/*
 * A request that has had no response for OVERDUE microseconds may be lost,
 * while others get responses.  It no longer counts as in flight; otherwise all
 * locks would wait for it for request_timeout.  At most MAX_OVERDUE of them in
 * a lane do not count.
 */
#define OVERDUE				INT64CONST(500000)
#define MAX_OVERDUE			16

/*
 * The lane of long responses sends one request at a time, followed by a pause
 * of this many times its duration.  So names with many names below them occupy
 * etcd and the worker for only a part of the time.
 */
#define LONG_REST			2

/*
 * While one Txn is in flight, the next one is not sent before it has as many
 * operations, or this time has passed; microseconds.  Most of what a request
 * costs etcd does not depend on how much is in it.
 */
#define GATHERING			INT64CONST(2000)

typedef struct Lane
{
	dlist_head	deletes;		/* of WorkerKey.queue_link */
	dlist_head	puts;			/* likewise: puts, and tries to be put */
	dlist_head	key_reads;		/* likewise: first steps of tries */
	dlist_head	ranges;			/* of WorkerName.range_link */
	dlist_head	sent;			/* of Txn.link: in flight, the oldest first */
	int			writes;			/* in flight, and not overdue */
	int			write_ops;		/* operations in them */
	int64		write_sent_at;	/* the latest one; clock_now() */
	int			reads;			/* in flight, and not overdue */
	int			extra_writes;	/* likewise, apart from those; see
								 * send_extra() */
	int			extra_reads;
	int			overdue;		/* in flight, and overdue */
	int64		rests_until;	/* LONG: nothing is sent before */
	Oid			last_delete;	/* whose deletion was the last one, */
	Oid			last_put;		/* whose put, */
	Oid			last_key_read;	/* and whose first step of a try */
	int			first_read;		/* which kind of reads is first next time */
	bool		puts_first;		/* before deletions, in the next write */
	bool		writes_first;	/* LONG: a read was the last one */
} Lane;

struct TxnQueue
{
	TxnDone		done;
	Lane		lanes[TXN_NLANES];
	int			orphan_txns;	/* deletions of orphans in flight */
};

#define MyTxnQueue (MyWorker->txn_queue)

static void
lane_init(Lane *lane)
{
	dlist_init(&lane->deletes);
	dlist_init(&lane->puts);
	dlist_init(&lane->key_reads);
	dlist_init(&lane->ranges);
	dlist_init(&lane->sent);
}

void
txn_queue_create(TxnDone done)
{
	MyTxnQueue = MemoryContextAllocZero(TopMemoryContext, sizeof(struct TxnQueue));
	MyTxnQueue->done = done;
	for (int i = 0; i < TXN_NLANES; i++)
		lane_init(&MyTxnQueue->lanes[i]);
}

/* ----------------------------------------------------------------
 *		Lanes
 * ----------------------------------------------------------------
 */

/* Would the response be long?  That of a deletion is always short. */
static bool
key_is_long(const WorkerKey *key, int64 now)
{
	const LockKey *shared = name_shared_key(key);

	return shared->state != KEY_DELETE_READY &&
		(key->name->nkeys > RECENT_LONG_QUEUE ||
		 recent_name_is_long(key->name->entry, shared->requester_pid, now));
}

static bool
range_is_long(const WorkerName *name, int64 now)
{
	return name->nkeys > RECENT_LONG_QUEUE ||
		recent_name_is_long(name->entry, 0, now);
}

/* How many operations may its Txn have at most, including itself? */
static int
key_max_ops(const WorkerKey *key, int64 now)
{
	if (key_is_long(key, now) || recent_name_is_oversized(key->name->entry, now))
		return 1;
	return key->max_ops == 0 ? TXN_OPS : key->max_ops;
}

static int
range_max_ops(const WorkerName *name, int64 now)
{
	if (range_is_long(name, now) || recent_name_is_oversized(name->entry, now))
		return 1;
	return name->range_max_ops == 0 ? TXN_OPS : name->range_max_ops;
}

static Lane *
lane_for(int max_ops, bool is_long)
{
	return &MyTxnQueue->lanes[is_long ? TXN_LANE_LONG :
							  max_ops < TXN_OPS ? TXN_LANE_SUSPECTS : TXN_LANE_MAIN];
}

static TxnLane
lane_kind(const Lane *lane)
{
	return (TxnLane) (lane - MyTxnQueue->lanes);
}

/* May the lane send one more request? */
static bool
lane_has_room(const Lane *lane, int in_flight, int max, int64 now)
{
	switch (lane_kind(lane))
	{
		case TXN_LANE_SUSPECTS:
			return in_flight < MAX_SUSPECTS;
		case TXN_LANE_LONG:
			return lane->reads + lane->writes == 0 && lane->rests_until <= now;
		default:
			return in_flight < max;
	}
}

/* ----------------------------------------------------------------
 *		Queues
 * ----------------------------------------------------------------
 */

static Lane *
lane_of(const WorkerKey *key, int64 now)
{
	return lane_for(key_max_ops(key, now), key_is_long(key, now));
}

static void
queue_key(WorkerKey *key, int64 now)
{
	Lane	   *lane = lane_of(key, now);
	dlist_head *queue;

	name_leave_queue(key);
	switch (name_shared_key(key)->state)
	{
		case KEY_PUT_READY:
		case KEY_TRY_READY:
			queue = &lane->puts;
			break;
		case KEY_READ_READY:
			queue = &lane->key_reads;
			break;
		case KEY_DELETE_READY:
			queue = &lane->deletes;
			break;
		default:
			return;
	}
	dlist_push_tail(queue, &key->queue_link);
	key->queued = true;
}

/* The key has something to send, according to its state. */
void
txn_queue_key(WorkerKey *key)
{
	queue_key(key, clock_now());
}

/*
 * The key becomes part of a request now.  Returns false if a session has
 * marked it deleting meanwhile, for which it is in the work list.  In both
 * cases it leaves its queue.
 */
static bool
start_sending(WorkerKey *key)
{
	LockEntry  *entry = key->name->entry;
	LockKey    *shared = name_shared_key(key);
	LWLock	   *lock = name_lock(key->name);
	bool		is_ready = key_machine_step(shared->state, KEY_ON_SEND).legal;

	if (is_ready)
		(void) lock_key_step(entry, shared, KEY_ON_SEND);
	lock_table_unlock(lock);
	name_leave_queue(key);
	return is_ready;
}

/* A try that cannot expect to be first: read its queue before. */
static void
read_before_try(WorkerKey *key)
{
	LockKey    *shared = name_shared_key(key);
	LWLock	   *lock = name_lock(key->name);

	if (shared->state == KEY_TRY_READY)
		(void) lock_key_step(key->name->entry, shared, KEY_ON_TAKE_READ);
	lock_table_unlock(lock);
	txn_queue_key(key);
}

/* Read the name's whole queue, as it is from now on. */
void
txn_queue_range(WorkerName *name)
{
	int64		now = clock_now();

	if (name->range_in_flight)
		name->range_again = true;
	else if (!name->range_queued)
	{
		name->range_queued = true;
		dlist_push_tail(&lane_for(range_max_ops(name, now), range_is_long(name, now))->ranges,
						&name->range_link);
	}
}

static bool
is_ready(const WorkerKey *key, int64 now)
{
	return key->retry_at <= now;
}

/* The same, of one whose role may have too many requests in flight. */
static bool
may_be_sent(const WorkerKey *key, int64 now)
{
	return is_ready(key, now) && role_requests_may_send(name_shared_key(key));
}

/* May this server put keys? */
static bool
may_put(void)
{
	return lease_alive() && !MyWorker->stopping;
}

/* Is it a Txn for this key?  An extra one is for roles that have nothing in flight. */
static bool
may_join(const TxnBuilder *b, const WorkerKey *key, int64 now)
{
	return !b->txn->is_extra ||
		(key->linger_until <= now && role_requests_is_idle(name_shared_key(key)->role));
}

/* Is there anything to write that must not wait for others? */
static bool
in_a_hurry(const Lane *lane, int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, unconstify(dlist_head *, &lane->deletes))
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (is_ready(key, now) && key->linger_until <= now)
			return true;
	}
	if (!may_put())
		return false;
	dlist_foreach(iter, unconstify(dlist_head *, &lane->puts))
	{
		if (may_be_sent(dlist_container(WorkerKey, queue_link, iter.cur), now))
			return true;
	}
	return false;
}

/* ----------------------------------------------------------------
 *		Filling a Txn
 * ----------------------------------------------------------------
 */

/*
 * If there is more than fits into this Txn, roles are served in turn, so that a
 * role with few requests does not wait for all of another one's.
 */
static void
take_turns(const TxnBuilder *b, Lane *lane, dlist_head *queue, Oid last)
{
	WorkerKey **keys;
	uint32	   *roles;
	int		   *order;
	int			n = 0;
	bool		is_one_role = true;
	dlist_iter	iter;

	dlist_foreach(iter, queue)
		n++;
	if (n <= (lane_kind(lane) == TXN_LANE_MAIN ? (TXN_OPS - b->txn->nops) / 3 : 1))
		return;
	keys = palloc(n * sizeof(*keys));
	roles = palloc(n * sizeof(*roles));
	n = 0;
	dlist_foreach(iter, queue)
	{
		keys[n] = dlist_container(WorkerKey, queue_link, iter.cur);
		roles[n] = name_shared_key(keys[n])->role;
		is_one_role &= roles[n] == roles[0];
		n++;
	}
	if (is_one_role)
		return;
	order = palloc(n * sizeof(*order));
	turns_order(roles, n, last, palloc(TURNS_SCRATCH(n) * sizeof(int)), order);
	for (int i = n - 1; i >= 0; i--)
	{
		dlist_delete(&keys[order[i]]->queue_link);
		dlist_push_head(queue, &keys[order[i]]->queue_link);
	}
}

/*
 * Is there room for nops operations, in a Txn of at most max_ops operations?
 */
static bool
fits(TxnBuilder *b, int nops, int max_ops)
{
	if (b->txn->nops >= Min(b->max_ops, max_ops) || !txn_build_has_room(b, nops))
		return false;
	b->max_ops = Min(b->max_ops, max_ops);
	return true;
}

/* The key's operation is in a Txn now. */
static void
note_taken(Oid *last, const WorkerKey *key)
{
	*last = name_shared_key(key)->role;
	role_requests_sent(*last);
}

/*
 * Does another lane send it by now, because its queue has become long, or the last
 * one of its session was?
 */
static bool
has_moved(WorkerKey *key, const Lane *lane, int64 now)
{
	if (lane_of(key, now) == lane)
		return false;
	queue_key(key, now);
	return true;
}

/* Take deletions that are ready into the Txn: half of it, where there is more to put. */
static void
take_deletes(TxnBuilder *b, Lane *lane, int64 now)
{
	int			max = may_put() && !dlist_is_empty(&lane->puts) ? TXN_OPS / 2 : TXN_OPS;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &lane->deletes)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (b->txn->nops >= max)
			break;
		if (!is_ready(key, now) || !may_join(b, key, now) ||
			!fits(b, 1, key_max_ops(key, now)) || !start_sending(key))
			continue;
		note_taken(&lane->last_delete, key);
		txn_build_add_delete(b, key);
	}
}

/*
 * Can a new key be expected to be first in its queue?  Not if others were
 * recently seen there, nor if we have other keys there, unless they held the
 * lock exclusively and this Txn deletes them.
 */
static bool
may_be_first(const TxnBuilder *b, const WorkerKey *key, int64 now, int64 *since)
{
	*since = 0;
	if (recent_name_is_contended(key->name->entry, now))
		return false;
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		const WorkerKey *other = name_key(key->name, i);

		if (other == NULL || other == key)
			continue;
		if (other->mode != LOCK_EXCLUSIVE || other->held_since == 0 ||
			!txn_build_has_delete(b, other))
			return false;
		*since = Max(*since, other->create_revision);
	}
	return true;
}

/*
 * Etcd may refuse a lease for the tick, and the session need not wait for one.  It
 * marks the key deleting, which must not be sent any more.  Returns false if there is
 * nothing to tell.
 */
static bool
tell_refusal(const WorkerKey *key)
{
	LockEntry  *entry = key->name->entry;
	LockKey    *shared = name_shared_key(key);
	const LockFailure *refusal = tick_lease_refusal();
	LockFailure failure;
	LWLock	   *lock;
	bool		told;

	if (refusal == NULL)
		return false;
	failure = *refusal;
	lock = name_lock(key->name);
	if (lock_key_is_unsure(entry, shared))
		failure.kind = FAILURE_UNSURE;
	told = lock_key_tell_failure(entry, shared, &failure);
	lock_table_wake_entry(entry);
	lock_table_unlock(lock);
	return told;
}

/*
 * Take new keys and tries that are ready into the Txn, at most one for each
 * name: keys put together share a create_revision, and do not see each other.
 */
static void
take_puts(TxnBuilder *b, Lane *lane, int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &lane->puts)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);
		bool		is_try = name_shared_key(key)->state == KEY_TRY_READY;
		bool		first;
		int64		since;
		int64		tick_lease = 0;

		if (!may_be_sent(key, now) || !may_join(b, key, now) ||
			txn_build_has_put(b, key->name) || has_moved(key, lane, now))
			continue;
		first = may_be_first(b, key, now, &since);
		if (is_try && !key->was_read)
		{
			if (!first)
			{
				read_before_try(key);
				continue;
			}
			key->read_revision = since;
		}
		if (name_shared_key(key)->has_tick && !tick_lease_get(&tick_lease))
		{
			key->retry_at = tell_refusal(key) ? PG_INT64_MAX : now + TICK_LEASE_PAUSE;
			continue;
		}
		if (!fits(b, first && !is_try ? 2 : 1, key_max_ops(key, now)) || !start_sending(key))
			continue;
		note_taken(&lane->last_put, key);
		if (is_try)
			txn_build_add_try(b, key, tick_lease);
		else if (first)
			txn_build_add_put_first(b, key, since);
		else
			txn_build_add_put(b, key);
	}
}

static void
take_orphan_reads(TxnBuilder *b, int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, orphans_all())
	{
		Orphan	   *orphan = dlist_container(Orphan, link, iter.cur);

		if (orphan->in_flight || orphan->create_revision != 0 ||
			orphan->retry_at > now || !fits(b, 1, orphan->alone ? 1 : TXN_OPS))
			continue;
		orphan->in_flight = true;
		txn_build_add_orphan_read(b, orphan);
	}
}

static void
take_key_reads(TxnBuilder *b, Lane *lane, int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &lane->key_reads)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);

		if (!may_be_sent(key, now) || !may_join(b, key, now) || has_moved(key, lane, now) ||
			!fits(b, 3, key_max_ops(key, now)) || !start_sending(key))
			continue;
		note_taken(&lane->last_key_read, key);
		txn_build_add_read(b, key);
	}
}

static void
take_ranges(TxnBuilder *b, Lane *lane, int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &lane->ranges)
	{
		WorkerName *name = dlist_container(WorkerName, range_link, iter.cur);

		if (name->range_retry_at > now || !fits(b, 1, range_max_ops(name, now)))
			continue;
		dlist_delete(&name->range_link);
		txn_build_add_range(b, name);
	}
}

/* By turns: no kind fills all requests. */
static void
take_reads(TxnBuilder *b, Lane *lane, int64 now)
{
	enum
	{
		KEY_READS, RANGES, ORPHAN_READS
	};
	int			nkinds = lane_kind(lane) == TXN_LANE_SUSPECTS ? 3 : 2;

	for (int i = 0; i < nkinds; i++)
	{
		switch ((lane->first_read + i) % nkinds)
		{
			case KEY_READS:
				take_turns(b, lane, &lane->key_reads, lane->last_key_read);
				take_key_reads(b, lane, now);
				break;
			case RANGES:
				take_ranges(b, lane, now);
				break;
			case ORPHAN_READS:
				take_orphan_reads(b, now);
				break;
		}
	}
	lane->first_read = (lane->first_read + 1) % nkinds;
}

/*
 * Deletions go first: a put may be the first in its queue if it goes with them.
 * Where few operations go together, puts do by turns, so that deletions which
 * etcd refuses again and again do not keep them waiting.
 */
static void
take_writes(TxnBuilder *b, Lane *lane, int64 now)
{
	bool		puts_first = lane_kind(lane) != TXN_LANE_MAIN && lane->puts_first;

	for (int i = 0; i < 2; i++)
	{
		if ((i == 0) != puts_first)
		{
			take_turns(b, lane, &lane->deletes, lane->last_delete);
			take_deletes(b, lane, now);
		}
		else if (may_put())
		{
			take_turns(b, lane, &lane->puts, lane->last_put);
			take_puts(b, lane, now);
		}
	}
	lane->puts_first = !lane->puts_first;
}

static void
take_orphans(TxnBuilder *b, int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, orphans_all())
	{
		Orphan	   *orphan = dlist_container(Orphan, link, iter.cur);

		if (orphan->in_flight || orphan->create_revision == 0 ||
			orphan->retry_at > now || !fits(b, 1, orphan->alone ? 1 : TXN_OPS))
			continue;
		orphan->in_flight = true;
		txn_build_add_orphan(b, orphan);
	}
}

/* ----------------------------------------------------------------
 *		Sending
 * ----------------------------------------------------------------
 */

static bool
deletes_orphans(const Txn *txn)
{
	return txn->ops[0].kind == TXN_OP_ORPHAN;
}

/* Count it as in flight (by is 1), or no longer (-1). */
static void
count_in_flight(const Txn *txn, int by)
{
	Lane	   *lane = &MyTxnQueue->lanes[txn->lane];

	for (int i = 0; i < txn->nops && by < 0; i++)
	{
		if (txn->ops[i].key != NULL)
			role_requests_ended(txn->ops[i].role);
	}
	if (txn->is_extra)
		*(txn->is_read ? &lane->extra_reads : &lane->extra_writes) += by;
	else if (txn->is_read)
		lane->reads += by;
	else if (deletes_orphans(txn))
		MyTxnQueue->orphan_txns += by;
	else
	{
		lane->writes += by;
		lane->write_ops += by * txn->nops;
	}
	Assert(lane->reads >= 0 && lane->writes >= 0 && MyTxnQueue->orphan_txns >= 0);
}

/* A Txn has ended: the reader of responses takes it over. */
static void
txn_ended(void *arg, const EtcdResponse *response)
{
	Txn		   *txn = arg;
	Lane	   *lane = &MyTxnQueue->lanes[txn->lane];

	if (txn->lane == TXN_LANE_LONG)
		lane->rests_until = clock_now() + LONG_REST *
			(response->delivered ? clock_now() - txn->sent_at : OVERDUE);
	dlist_delete(&txn->link);
	if (txn->overdue)
		lane->overdue--;
	else
		count_in_flight(txn, -1);
	MyTxnQueue->done(txn, response);
}

static void
note_started(Txn *txn)
{
	Lane	   *lane = &MyTxnQueue->lanes[txn->lane];

	txn->sent_at = clock_now();
	txn->overdue = false;
	dlist_push_tail(&lane->sent, &txn->link);
	count_in_flight(txn, 1);
	if (!txn->is_read && !txn->is_extra && !deletes_orphans(txn))
		lane->write_sent_at = txn->sent_at;
}

/*
 * Returns the request in flight that becomes overdue next, or NULL.  Long
 * responses may take their time.
 */
static Txn *
next_overdue(Lane *lane)
{
	dlist_iter	iter;

	if (lane_kind(lane) == TXN_LANE_LONG || lane->overdue == MAX_OVERDUE)
		return NULL;
	dlist_foreach(iter, &lane->sent)
	{
		Txn		   *txn = dlist_container(Txn, link, iter.cur);

		if (!txn->overdue)
			return txn;
	}
	return NULL;
}

/*
 * Who asks for a queue again need not wait either, though a late response still
 * counts: it shows all those that are ahead, and perhaps some that were.
 */
static void
read_again(const Txn *txn)
{
	for (int i = 0; i < txn->nops; i++)
	{
		WorkerName *name = txn->ops[i].name;

		if (txn->ops[i].kind != TXN_OP_RANGE)
			continue;
		name->range_in_flight = false;
		if (name->range_again)
		{
			name->range_again = false;
			txn_queue_range(name);
		}
	}
}

static void
note_overdue(Lane *lane, int64 now)
{
	Txn		   *txn;

	while ((txn = next_overdue(lane)) != NULL && now - txn->sent_at >= OVERDUE)
	{
		count_in_flight(txn, -1);
		txn->overdue = true;
		lane->overdue++;
		read_again(txn);
	}
}

/* Returns false if there was nothing to send, or it could not be sent. */
static bool
finish_building(TxnBuilder *b)
{
	LinkCallbacks callbacks = {.done = txn_ended,.is_anonymous = b->is_anonymous};
	EtcdResponse not_sent = {.error = "could not send a request"};
	Txn		   *txn = b->txn;

	if (txn->nops == 0)
	{
		txn_build_free(txn);
		return false;
	}
	note_started(txn);
	if (link_call(LINK_LOCK, txn_build_encode(b), etcd_lock_request_timeout,
				  &callbacks, txn) == NULL)
	{
		txn_ended(txn, &not_sent);
		return false;
	}
	counters_batch(txn->nops);
	return true;
}

/* Has enough gathered for another Txn? */
static bool
has_gathered(const Lane *lane, int64 now)
{
	int			n = 0;
	dlist_iter	iter;

	if (lane->writes == 0 || now - lane->write_sent_at >= GATHERING)
		return true;
	dlist_foreach(iter, unconstify(dlist_head *, &lane->deletes))
	{
		if (++n >= lane->write_ops)
			return true;
	}
	dlist_foreach(iter, unconstify(dlist_head *, &lane->puts))
	{
		if (++n >= lane->write_ops)
			return true;
	}
	return false;
}

static bool
send_writes(Lane *lane, int64 now)
{
	TxnBuilder *b;

	if (!has_gathered(lane, now) || !in_a_hurry(lane, now))
		return false;
	b = txn_build_start(false, lane_kind(lane));
	take_writes(b, lane, now);
	return finish_building(b);
}

static bool
send_orphans(int64 now)
{
	TxnBuilder *b = txn_build_start(false, TXN_LANE_SUSPECTS);

	take_orphans(b, now);
	return finish_building(b);
}

static bool
send_reads(Lane *lane, int64 now)
{
	TxnBuilder *b = txn_build_start(true, lane_kind(lane));

	take_reads(b, lane, now);
	return finish_building(b);
}

/* Does a role that has nothing in flight ask for something? */
static bool
has_newcomer(dlist_head *queue, int64 now)
{
	Oid			busy = InvalidOid;
	dlist_iter	iter;

	dlist_foreach(iter, queue)
	{
		WorkerKey  *key = dlist_container(WorkerKey, queue_link, iter.cur);
		Oid			role = name_shared_key(key)->role;

		if (role == busy)
			continue;
		if (!role_requests_is_idle(role))
			busy = role;
		else if (is_ready(key, now) && key->linger_until <= now)
			return true;
	}
	return false;
}

/*
 * While others' requests are in flight, or gather, a role that has none does not wait for
 * them: one more Txn is for all such roles.
 */
static void
send_extra(Lane *lane, int64 now)
{
	TxnBuilder *b;

	if (lane->reads >= MAX_READS && lane->extra_reads == 0 && has_newcomer(&lane->key_reads, now))
	{
		b = txn_build_start(true, lane_kind(lane));
		b->txn->is_extra = true;
		take_key_reads(b, lane, now);
		(void) finish_building(b);
	}
	if (lane->writes > 0 && lane->extra_writes == 0 &&
		(has_newcomer(&lane->deletes, now) || (may_put() && has_newcomer(&lane->puts, now))))
	{
		b = txn_build_start(false, lane_kind(lane));
		b->txn->is_extra = true;
		take_deletes(b, lane, now);
		if (may_put())
			take_puts(b, lane, now);
		(void) finish_building(b);
	}
}

static void
send_all_writes(Lane *lane, int64 now)
{
	while (lane_has_room(lane, lane->writes, MAX_WRITES, now) && send_writes(lane, now))
		lane->writes_first = false;
}

static void
send_lane(Lane *lane, int64 now)
{
	bool		writes_first = lane_kind(lane) == TXN_LANE_LONG && lane->writes_first;

	if (writes_first)
		send_all_writes(lane, now);
	while (lane_has_room(lane, lane->reads, MAX_READS, now) && send_reads(lane, now))
		lane->writes_first = true;
	if (!writes_first)
		send_all_writes(lane, now);
	if (lane_kind(lane) == TXN_LANE_MAIN)
		send_extra(lane, now);
}

void
txn_queue_send(void)
{
	MemoryContext old = CurrentMemoryContext;
	int64		now = clock_now();

	if (!link_ready())
		return;
	for (int i = 0; i < TXN_NLANES; i++)
	{
		note_overdue(&MyTxnQueue->lanes[i], now);
		send_lane(&MyTxnQueue->lanes[i], now);
	}
	while (MyTxnQueue->orphan_txns < MAX_SUSPECTS && send_orphans(now))
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

		if (name_shared_key(key)->state == KEY_DELETE_READY || role_requests_may_send(name_shared_key(key)))
			next = Min(next, Max(key->retry_at, key->linger_until));
	}
	return next;
}

static int64
lane_next_time(Lane *lane)
{
	const Txn  *overdue = next_overdue(lane);
	int64		next = overdue == NULL ? PG_INT64_MAX : overdue->sent_at + OVERDUE;
	dlist_iter	iter;

	if (lane_has_room(lane, lane->writes, MAX_WRITES, PG_INT64_MAX))
	{
		int64		write = earliest_retry(&lane->deletes, PG_INT64_MAX);

		if (may_put())
			write = earliest_retry(&lane->puts, write);
		if (lane->writes > 0 && write != PG_INT64_MAX)
			write = Max(write, lane->write_sent_at + GATHERING);
		next = Min(next, write);
	}
	if (lane_has_room(lane, lane->reads, MAX_READS, PG_INT64_MAX))
	{
		next = earliest_retry(&lane->key_reads, next);
		dlist_foreach(iter, &lane->ranges)
			next = Min(next, dlist_container(WorkerName, range_link, iter.cur)->range_retry_at);
	}
	return next == PG_INT64_MAX ? next : Max(next, lane->rests_until);
}

/*
 * When there may be something to send that must not be sent now.  What waits
 * for a response or for a lease is sent when that comes.
 */
int64
txn_queue_next_time(void)
{
	int64		next = PG_INT64_MAX;
	dlist_iter	iter;

	for (int i = 0; i < TXN_NLANES; i++)
		next = Min(next, lane_next_time(&MyTxnQueue->lanes[i]));
	dlist_foreach(iter, orphans_all())
	{
		const Orphan *orphan = dlist_container(Orphan, link, iter.cur);

		if (!orphan->in_flight &&
			(orphan->create_revision == 0 ? MyTxnQueue->lanes[TXN_LANE_SUSPECTS].reads : MyTxnQueue->orphan_txns) < MAX_SUSPECTS)
			next = Min(next, orphan->retry_at);
	}
	return next == PG_INT64_MAX ? next : Max(next, link_next_time());
}
