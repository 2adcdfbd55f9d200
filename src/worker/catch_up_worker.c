/*-------------------------------------------------------------------------
 *
 * catch_up_worker.c
 *	  How far the primary had written: a standby's worker asks, the primary's
 *	  worker answers.
 *
 * Sessions of a standby that were granted a lock ask for this
 * (session/catch_up.c).  The standby's worker reads who is registered as a
 * primary of this system (duplicate.c), and puts a question below that
 * server's sentinel, which that server watches.  The primary's worker puts the
 * answer below the sentinel of the asker, and deletes the question in the same
 * Txn.  Each key is attached to the lease of the server that is to read it.
 *
 * A watch can miss what is put while it is being opened.  So the asker repeats
 * the question each second; the answer to any of them counts, because all were
 * asked after the grant.
 *
 * Of several primaries, we ask the one with the highest timeline, which was
 * promoted last.  A crashed one stays registered until its lease ends.  Of
 * those with the same timeline, we ask the one that came first, because the
 * other one is a copy; but of the keys of the same server, we take the last
 * one, because the others are leftovers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "client/link.h"
#include "etcd/etcd_holder.h"
#include "etcd/key_layout.h"
#include "miscadmin.h"
#include "shared/catch_up_slot.h"
#include "shared/clock.h"
#include "shared/deadline.h"
#include "shared/lease_id.h"
#include "shared/lock_table.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/catch_up_worker.h"
#include "worker/context.h"
#include "worker/key_value.h"
#include "worker/lease.h"
#include "worker/orphans.h"

/*
 * When to ask again without an answer, or if the primary has just gone;
 * microseconds.
 */
#define ASK_AGAIN		INT64CONST(1000000)
#define LOOK_AGAIN		INT64CONST(50000)

/* How many registered primaries are considered. */
#define MAX_SEEN		16

/*
 * How many answers are in flight at a time; an asker that gets none asks
 * again.
 */
#define MAX_ANSWERS		32

/* How long to look for a primary that was there; microseconds. */
#define RETURN_TIME		INT64CONST(2000000)

/* "timeline position", as in "1 0/16B3748". */
#define POSITION_TEXT	64

#define UNEXPECTED		"unexpected response from etcd"

struct CatchUpWorker
{
	uint64		question;		/* of the sessions; 0: none */
	uint64		id;				/* of our question to the primary */
	uint64		next_id;
	int64		give_up_at;		/* clock_now() */
	int64		next_time;		/* likewise: to look for the primary */
	bool		busy;			/* a request is in flight */

	bool		saw_primary;
	int64		missing_since;	/* clock_now(): when a question found none */
	uint64		primary;		/* the lease of the primary that is asked */
	int64		min_revision;	/* highest known when the request was sent, */
	uint64		epoch;			/* and the epoch */

	int			nanswers;		/* of ours as a primary, in flight */
};

#define MyCatchUp (MyWorker->catch_up_worker)

void
catch_up_worker_create(void)
{
	MyCatchUp = MemoryContextAllocZero(TopMemoryContext, sizeof(struct CatchUpWorker));
	if (!pg_strong_random(&MyCatchUp->next_id, sizeof(MyCatchUp->next_id)))
		MyCatchUp->next_id = (uint64) GetCurrentTimestamp();
	MyCatchUp->next_id >>= 24;	/* room to count on */
}

int64
catch_up_worker_next_time(void)
{
	if (MyCatchUp->question == 0)
		return PG_INT64_MAX;
	return MyCatchUp->busy ? MyCatchUp->give_up_at :
		Min(MyCatchUp->next_time, MyCatchUp->give_up_at);
}

/* ----------------------------------------------------------------
 *		The standby asks
 * ----------------------------------------------------------------
 */

static void
finish(const CatchUpAnswer *answer)
{
	catch_up_slot_answer(MyCatchUp->question, answer);
	MyCatchUp->question = 0;
}

static void
fail(const char *error)
{
	CatchUpAnswer answer = {.kind = CATCH_UP_FAILED};

	strlcpy(answer.message, error, sizeof(answer.message));
	finish(&answer);
}

static void
again_at(int64 pause)
{
	MyCatchUp->next_time = clock_now() + pause;
}

static void
call(EtcdMessage message, void (*done) (void *, const EtcdResponse *))
{
	LinkCallbacks callbacks = {.done = done};
	int64		left = (MyCatchUp->give_up_at - clock_now()) / 1000 + 1;

	MyCatchUp->min_revision = lock_shared->highest_revision;
	MyCatchUp->epoch = deadline_epoch(&lock_shared->deadline);
	MyCatchUp->busy = link_call(LINK_LOCK, message, left, &callbacks,
								(void *) (uintptr_t) MyCatchUp->id) != NULL;
	if (!MyCatchUp->busy)
		again_at(LOOK_AGAIN);
}

/*
 * Is the response about the current question?  Then nothing is in flight any
 * more.
 */
static bool
is_current(void *arg)
{
	if ((uint64) (uintptr_t) arg != MyCatchUp->id)
		return false;
	MyCatchUp->busy = false;
	return MyCatchUp->question != 0;
}

/* Is it no older than what was known before? */
static bool
is_recent(const EtcdResponse *response, const EtcdHeader *header)
{
	if (MyCatchUp->epoch == deadline_epoch(&lock_shared->deadline))
		lease_saw_header(response, header);
	return header->revision >= MyCatchUp->min_revision;
}

/* ---- which primary ---- */

typedef struct Primary
{
	const EtcdKeyValue *kv;
	EtcdHolder	holder;
} Primary;

static bool
read_primary(const EtcdKeyValue *kv, Primary *primary)
{
	char		key[KEY_LAYOUT_SIZE];
	size_t		len = key_layout_primary(key, etcd_lock_namespace, GetSystemIdentifier(),
										 (uint64) kv->lease);

	if (kv->lease == 0 || lease_id_is_own(kv->lease) || kv->key_len != len ||
		memcmp(kv->key, key, len) != 0)
		return false;
	primary->kv = kv;
	(void) etcd_holder_decode(kv->value, kv->value_len, &primary->holder);
	return true;
}

/* Is a the better one to ask? */
static bool
comes_first(const Primary *a, const Primary *b)
{
	bool		older = a->kv->create_revision < b->kv->create_revision;

	if (a->holder.timeline != b->holder.timeline)
		return a->holder.timeline > b->holder.timeline;
	if (strcmp(a->holder.host, b->holder.host) == 0 && a->holder.port == b->holder.port)
		return !older;
	return older;
}

/* Returns false if there is none. */
static bool
choose(const EtcdOpResult *range, Primary *best)
{
	Primary		other;

	best->kv = NULL;
	for (int i = 0; i < range->nkvs; i++)
	{
		if (read_primary(&range->kvs[i], &other) &&
			(best->kv == NULL || comes_first(&other, best)))
			*best = other;
	}
	return best->kv != NULL;
}

/*
 * The sentinel of another server is where the value of its key says.  Our own
 * namespace may be another one, until the next lease after a reload.
 */
static void
make_sentinel(char *sentinel, const EtcdHolder *holder, uint64 lease)
{
	(void) key_layout_sentinel(sentinel,
							   holder->has_sentinel_ns ? holder->sentinel_ns :
							   lock_shared->sentinel_ns, lease);
}

/* ---- the question ---- */

/* The primary's lease may have ended since we saw it: then look again. */
static void
asked(void *arg, const EtcdResponse *response)
{
	EtcdTxnResult result;
	EtcdError	error;

	if (!is_current(arg))
		return;
	again_at(ASK_AGAIN);
	if (!response->delivered)
		return;
	if (!etcd_response_txn(&response->reply, &result, &error))
	{
		if (error.code == ETCD_PERMISSION_DENIED)
			fail(error.message);
		else if (error.code == ETCD_NOT_FOUND)
			again_at(LOOK_AGAIN);
		return;
	}
	if (!is_recent(response, &result.header))
		fail(UNEXPECTED);
	else if (!result.succeeded)
		again_at(LOOK_AGAIN);
	etcd_response_free_txn(&result);
}

static void
ask(const Primary *primary)
{
	char		sentinel[KEY_LAYOUT_SIZE];
	char		key[KEY_LAYOUT_SIZE];
	char	   *value = key_value_make(NULL, MyProcPid, GetCurrentTimestamp());
	EtcdOp		put = {.type = ETCD_OP_PUT};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE,.result = ETCD_COMPARE_EQUAL,
		.revision = primary->kv->create_revision
	};
	EtcdTxn		txn = {&compare, 1, &put, 1, NULL, 0};

	compare.range.key = primary->kv->key;
	compare.range.key_len = primary->kv->key_len;
	make_sentinel(sentinel, &primary->holder, (uint64) primary->kv->lease);
	put.range.key = key;
	put.range.key_len = key_layout_question(key, sentinel, (uint64) lease_id(), MyCatchUp->id);
	put.value = value;
	put.value_len = strlen(value);
	put.lease = primary->kv->lease;
	MyCatchUp->primary = (uint64) primary->kv->lease;
	call(etcd_request_txn(&txn), asked);
	pfree(value);
}

/*
 * A primary that has lost its lease is not registered for some round trips, until
 * it has another one, while its locks are free already.  So look again for a while
 * if there was one.
 */
static bool
may_return(void)
{
	int64		now = clock_now();
	int64		longest = Min(RETURN_TIME, (int64) etcd_lock_request_timeout * 1000 / 2);

	if (!MyCatchUp->saw_primary)
		return false;
	if (MyCatchUp->missing_since == 0)
		MyCatchUp->missing_since = now;
	MyCatchUp->saw_primary = now - MyCatchUp->missing_since < longest;
	return MyCatchUp->saw_primary;
}

static void
looked(void *arg, const EtcdResponse *response)
{
	static const CatchUpAnswer no_primary = {.kind = CATCH_UP_NO_PRIMARY};
	EtcdRangeResult result;
	EtcdError	error;
	Primary		primary;
	bool		is_there;

	if (!is_current(arg))
		return;
	again_at(ASK_AGAIN);
	if (!response->delivered)
		return;
	if (!etcd_response_range(&response->reply, &result, &error))
	{
		if (error.code == ETCD_PERMISSION_DENIED)
			fail(error.message);
		return;
	}
	is_there = choose(&result.range, &primary);
	if (!is_recent(response, &result.header))
		fail(UNEXPECTED);
	else if (is_there)
	{
		MyCatchUp->saw_primary = true;
		MyCatchUp->missing_since = 0;
		ask(&primary);
	}
	else if (may_return())
		again_at(LOOK_AGAIN);
	else
		finish(&no_primary);
	etcd_response_free_range(&result);
}

static void
look(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.limit = MAX_SEEN};
	char		start[KEY_LAYOUT_SIZE];
	char		end[KEY_LAYOUT_SIZE];

	key_layout_primaries(start, end, etcd_lock_namespace, GetSystemIdentifier());
	op.range.key = start;
	op.range.key_len = strlen(start);
	op.range.end = end;
	op.range.end_len = strlen(end);
	call(etcd_request_range(&op), looked);
}

void
catch_up_worker_tick(void)
{
	int64		now = clock_now();

	if (MyCatchUp->question == 0)
	{
		MyCatchUp->question = catch_up_slot_open_question();
		if (MyCatchUp->question == 0)
			return;
		MyCatchUp->id = ++MyCatchUp->next_id;
		MyCatchUp->give_up_at = now + (int64) etcd_lock_request_timeout * 1000;
		MyCatchUp->next_time = now;
		MyCatchUp->busy = false;
		MyCatchUp->missing_since = 0;
		MyCatchUp->primary = 0;
	}
	if (now >= MyCatchUp->give_up_at)
		fail(MyCatchUp->primary == 0 ? "etcd did not tell in time which server is the primary" :
			 "the primary's server did not respond in time");
	else if (!MyCatchUp->busy && now >= MyCatchUp->next_time)
		look();
}

/* ---- the answer ---- */

/* Accepts exactly what answer_question() writes. */
static bool
read_position(const EtcdKeyValue *kv, CatchUpAnswer *answer)
{
	uint32		high;
	uint32		low;
	int			used = 0;

	if (sscanf(kv->value, "%u %X/%X%n", &answer->timeline, &high, &low, &used) != 3 ||
		used != kv->value_len)
		return false;
	answer->position = ((uint64) high << 32) | low;
	return true;
}

static void
answer_came(const EtcdKeyValue *kv, uint64 primary, uint64 id)
{
	CatchUpAnswer answer = {.kind = CATCH_UP_POSITION,.primary = primary};

	if (MyCatchUp->question != 0 && id == MyCatchUp->id &&
		primary == MyCatchUp->primary && read_position(kv, &answer))
		finish(&answer);
}

/* ----------------------------------------------------------------
 *		The primary answers
 * ----------------------------------------------------------------
 */

/*
 * Returns the end of the WAL.  It has to reach the standby even if nothing is
 * committed for a while, so the WAL writer is told to flush it.  After a
 * record that ends at the end of its page, the address of the next record is
 * after the next page's header; if the WAL writer were told to flush up to
 * there, which is past the end of WAL, it would take the server down.
 */
static XLogRecPtr
end_of_wal(void)
{
	XLogRecPtr	end = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD ||
		end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= end % XLOG_BLCKSZ;
	if (GetFlushRecPtr(NULL) < end)
		XLogSetAsyncXactLSN(end);
	return end;
}

/*
 * The result does not matter, because an asker without an answer asks again.
 */
static void
answer_sent(void *arg, const EtcdResponse *response)
{
	MyCatchUp->nanswers--;
}

static void
answer_question(const EtcdKeyValue *question, uint64 asker, uint64 id)
{
	static const LinkCallbacks callbacks = {.done = answer_sent};
	char		sentinel[KEY_LAYOUT_SIZE];
	char		key[KEY_LAYOUT_SIZE];
	char		value[POSITION_TEXT];
	EtcdOp		ops[2] = {{.type = ETCD_OP_PUT}, {.type = ETCD_OP_DELETE}};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_MOD,.result = ETCD_COMPARE_EQUAL,
		.revision = question->mod_revision
	};
	EtcdTxn		txn = {&compare, 1, ops, 2, NULL, 0};
	EtcdHolder	holder;

	(void) etcd_holder_decode(question->value, question->value_len, &holder);
	make_sentinel(sentinel, &holder, asker);
	snprintf(value, sizeof(value), "%u %X/%X", GetWALInsertionTimeLine(),
			 LSN_FORMAT_ARGS(end_of_wal()));
	ops[0].range.key = key;
	ops[0].range.key_len = key_layout_position(key, sentinel, (uint64) lease_id(), id);
	ops[0].value = value;
	ops[0].value_len = strlen(value);
	ops[0].lease = (int64) asker;
	ops[1].range.key = question->key;
	ops[1].range.key_len = question->key_len;
	compare.range = ops[1].range;
	if (link_call(LINK_SIDE, etcd_request_txn(&txn), etcd_lock_request_timeout,
				  &callbacks, NULL) != NULL)
		MyCatchUp->nanswers++;
}

void
catch_up_worker_message(const EtcdKeyValue *message)
{
	uint64		lease;
	uint64		id;

	if (key_layout_is_position(message->key, message->key_len, lock_shared->sentinel_key,
							   &lease, &id))
	{
		orphan_add(message->key, message->key_len, message->create_revision);
		answer_came(message, lease, id);
	}
	else if (key_layout_is_question(message->key, message->key_len,
									lock_shared->sentinel_key, &lease, &id))
	{
		if (RecoveryInProgress() || MyWorker->stopping)
			orphan_add(message->key, message->key_len, message->create_revision);
		else if (MyCatchUp->nanswers < MAX_ANSWERS)
			answer_question(message, lease, id);
	}
}
