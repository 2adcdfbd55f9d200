/*-------------------------------------------------------------------------
 *
 * queue_pages.c
 *	  What is in etcd, page by page, from the worker to a session.
 *
 * A session has no link to etcd of its own, so the worker reads for it.  What
 * there is to read has no bound, shared memory does: so it comes in pages,
 * each asked for by the session when it has taken the one before.  There are a
 * few slots, which sessions take for as long as they read.
 *
 * The worker reads a stretch of keys without their values.  For each page it
 * picks from it those that are keys of locks, and then reads just their values,
 * with the notes on who has them now (held.c).  All pages of a reader show one
 * revision of etcd.  What is read is foreign: an answer that is too long only
 * makes the worker ask for less.
 *
 * QueueShared.lock protects everything here; it is held for copying a page at
 * most.  The owner of a slot changes its state from TAKEN and DONE to ASKED
 * and gives it back in any state; the worker goes from ASKED over SENT to DONE.
 * QueueSlot.id tells a slot's owners apart, so that an answer that comes late
 * meets nobody else.
 *
 *-------------------------------------------------------------------------
 */
#include "queue_pages.h"

#include "lock_session.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "worker.h"

#define QUEUE_TRANCHE		"etcd_lock_queue"

#define QUEUE_SLOTS			4
#define QUEUE_PAGE_SIZE		(64 * 1024)

/*
 * Keys in an answer at most, and keys of locks in a page.  For each request
 * etcd goes through all of the range that is left, so there are to be few.
 */
#define SCAN_LIMIT			2500
#define PAGE_KEYS			60

/* Longest answer that the worker takes in for a page, bytes. */
#define MAX_ANSWER			(4 * 1024 * 1024)

#define RETRY_PAUSE			INT64CONST(200000)	/* microseconds */

typedef enum QueueSlotState
{
	SLOT_FREE,
	SLOT_TAKEN,
	SLOT_ASKED,
	SLOT_SENT,
	SLOT_DONE
} QueueSlotState;

typedef struct QueueSlot
{
	QueueSlotState state;
	uint64		id;				/* of who has it now */
	int			procno;			/* likewise */
	bool		first;			/* the first page is asked for */
	char		start[ETCD_LOCK_MAX_KEY + 2];
	char		end[ETCD_LOCK_MAX_KEY + 2];
	char		ns[ETCD_LOCK_MAX_KEY + 1];

	/* the page */
	LockFailure failure;
	bool		last;			/* there are no more */
	int			scanned;
	uint32		used;			/* bytes of data */
	char		data[QUEUE_PAGE_SIZE];
} QueueSlot;

typedef struct QueueShared
{
	LWLock	   *lock;
	ConditionVariable freed;
	QueueSlot	slots[QUEUE_SLOTS];
} QueueShared;

static QueueShared *queue_shared;

Size
queue_pages_shmem_size(void)
{
	return MAXALIGN(sizeof(QueueShared));
}

void
queue_pages_request_locks(void)
{
	RequestNamedLWLockTranche(QUEUE_TRANCHE, 1);
}

void
queue_pages_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	queue_shared = ShmemInitStruct("etcd_lock queue pages", sizeof(QueueShared),
								   &found);
	if (!found)
	{
		memset(queue_shared, 0, sizeof(QueueShared));
		queue_shared->lock = &GetNamedLWLockTranche(QUEUE_TRANCHE)->lock;
		ConditionVariableInit(&queue_shared->freed);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

/* A page that is being read. */
typedef struct PageCall
{
	int			slot;
	uint64		id;
	LinkCall   *link;			/* the request under way */
	int			nchosen;		/* keys of locks, to be in the page */
	QueuePageKey chosen[PAGE_KEYS];
	int			index[PAGE_KEYS];	/* of PageProgress.keys */
	int			upto;			/* likewise: where the page ends */
} PageCall;

/* Where the owner of a slot has got to. */
typedef struct PageProgress
{
	uint64		id;
	char		end[ETCD_LOCK_MAX_KEY + 2];
	char		ns[ETCD_LOCK_MAX_KEY + 1];
	EtcdRangeResult keys;		/* read, */
	int			pos;			/* and given away so far */
	char	   *next;			/* where the next ones begin */
	size_t		next_len;
	int64		revision;		/* of etcd, for all pages; 0: not yet known */
	int			limit;			/* keys in an answer */
	int64		retry_at;
	PageCall   *call;
} PageProgress;

static PageProgress progress[QUEUE_SLOTS];

static void send_values(PageCall *call);

static void
end_call(PageCall *call)
{
	progress[call->slot].call = NULL;
	pfree(call);
}

static void
forget_keys(PageProgress *p)
{
	etcd_range_result_free(&p->keys);
	p->pos = 0;
}

/* A new worker knows nothing of the answers that the old one waited for. */
void
queue_pages_start(void)
{
	LWLockAcquire(queue_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < QUEUE_SLOTS; i++)
	{
		if (queue_shared->slots[i].state == SLOT_SENT)
			queue_shared->slots[i].state = SLOT_ASKED;
	}
	LWLockRelease(queue_shared->lock);
}

/* Is the one who asked still there?  Lock held. */
static bool
is_wanted(const PageCall *call)
{
	const QueueSlot *slot = &queue_shared->slots[call->slot];

	return slot->id == call->id && slot->state == SLOT_SENT;
}

/* Tell the session why it gets no page. */
static void
fail(PageCall *call, int sqlerrcode, const char *message)
{
	QueueSlot  *slot = &queue_shared->slots[call->slot];

	LWLockAcquire(queue_shared->lock, LW_EXCLUSIVE);
	if (is_wanted(call))
	{
		slot->failure.kind = FAILURE_ERROR;
		slot->failure.sqlerrcode = sqlerrcode;
		strlcpy(slot->failure.message, message, sizeof(slot->failure.message));
		slot->state = SLOT_DONE;
		lock_wake_procno(slot->procno);
	}
	LWLockRelease(queue_shared->lock);
	end_call(call);
}

/*
 * The link may be better the next time; the session knows for how long it
 * wants to wait.
 */
static void
ask_again(PageCall *call)
{
	QueueSlot  *slot = &queue_shared->slots[call->slot];

	progress[call->slot].retry_at = clock_now() + RETRY_PAUSE;
	LWLockAcquire(queue_shared->lock, LW_EXCLUSIVE);
	if (is_wanted(call))
		slot->state = SLOT_ASKED;
	LWLockRelease(queue_shared->lock);
	end_call(call);
}

/* Etcd has answered with an error. */
static void
refused(PageCall *call, const EtcdError *error)
{
	if (error->code == ETCD_BAD_ANSWER)
		link_bad_answer(error->message);
	if (error->code == ETCD_BAD_ANSWER || error->code == ETCD_UNAVAILABLE ||
		error->code == ETCD_DEADLINE_EXCEEDED)
		ask_again(call);
	else
		fail(call, worker_sqlerrcode(error), error->message);
}

/* The key right behind this one, in the order of bytes. */
static void
set_next(PageProgress *p, const EtcdKeyValue *kv)
{
	char	   *next = MemoryContextAlloc(TopMemoryContext, kv->key_len + 1);

	memcpy(next, kv->key, kv->key_len);
	next[kv->key_len] = '\0';
	if (p->next != NULL)
		pfree(p->next);
	p->next = next;
	p->next_len = kv->key_len + 1;
}

/* Keys in a reserved place are no locks, unless they are integer ones. */
static bool
is_reserved(const char *key, size_t name_len)
{
	size_t		reserved = strlen(ETCD_LOCK_RESERVED);
	static const char integer[] = ETCD_LOCK_RESERVED "int/";

	for (size_t i = 0; i + reserved <= name_len + 1; i++)
	{
		if (memcmp(key + i, ETCD_LOCK_RESERVED, reserved) == 0)
			return i + strlen(integer) > name_len ||
				memcmp(key + i, integer, strlen(integer)) != 0;
	}
	return false;
}

/* Pick the keys of locks, as many as a page may have. */
static void
choose_keys(PageCall *call)
{
	const PageProgress *p = &progress[call->slot];
	int			max = Min(PAGE_KEYS, Max(requests_max_ops / 2, 1));

	call->nchosen = 0;
	for (call->upto = p->pos; call->upto < p->keys.range.nkvs; call->upto++)
	{
		const EtcdKeyValue *kv = &p->keys.range.kvs[call->upto];
		QueuePageKey *key;
		QueueKeyParts parts;

		if (!queue_split_key(kv->key, kv->key_len, &parts) ||
			parts.name_len > ETCD_LOCK_MAX_KEY ||
			is_reserved(kv->key, parts.name_len))
			continue;
		if (call->nchosen == max)
			return;
		key = &call->chosen[call->nchosen];
		key->parts = parts;
		key->create_revision = kv->create_revision;
		key->lease = kv->lease;
		key->shown_len = Min(kv->key_len, QUEUE_MAX_SHOWN_KEY);
		key->cut = key->shown_len < kv->key_len;
		call->index[call->nchosen++] = call->upto;
	}
}

/* What is known of a key's holder: the note, else the key's own value. */
static const EtcdKeyValue *
value_of(const EtcdTxnResult *values, int i)
{
	const EtcdOpResult *note = &values->results[2 * i + 1];
	const EtcdOpResult *own = &values->results[2 * i];

	if (note->nkvs == 1 && note->kvs[0].value_len <= QUEUE_MAX_VALUE)
		return &note->kvs[0];
	if (own->nkvs == 1 && own->kvs[0].value_len <= QUEUE_MAX_VALUE)
		return &own->kvs[0];
	return NULL;
}

static void
append(QueueSlot *slot, const void *data, size_t len)
{
	memcpy(slot->data + slot->used, data, len);
	slot->used += MAXALIGN(len);
}

/* Give the page to the session.  values: NULL when there are none. */
static void
publish(PageCall *call, const EtcdTxnResult *values)
{
	QueueSlot  *slot = &queue_shared->slots[call->slot];
	PageProgress *p = &progress[call->slot];
	const EtcdOpResult *range = &p->keys.range;

	LWLockAcquire(queue_shared->lock, LW_EXCLUSIVE);
	if (is_wanted(call))
	{
		slot->used = 0;
		for (int i = 0; i < call->nchosen; i++)
		{
			QueuePageKey *key = &call->chosen[i];
			const EtcdKeyValue *value = values == NULL ? NULL : value_of(values, i);

			key->value_len = value == NULL ? 0 : value->value_len;
			if (slot->used + MAXALIGN(sizeof(QueuePageKey)) +
				MAXALIGN(key->shown_len) + MAXALIGN(key->value_len) > QUEUE_PAGE_SIZE)
			{
				call->upto = call->index[i];
				break;
			}
			append(slot, key, sizeof(QueuePageKey));
			append(slot, range->kvs[call->index[i]].key, key->shown_len);
			if (key->value_len > 0)
				append(slot, value->value, key->value_len);
		}
		slot->last = call->upto == range->nkvs && !range->more;
		slot->scanned = call->upto - p->pos;
		slot->failure.kind = FAILURE_NONE;
		slot->state = SLOT_DONE;
		lock_wake_procno(slot->procno);
	}
	LWLockRelease(queue_shared->lock);
	p->pos = call->upto;
	if (p->pos == range->nkvs)
		forget_keys(p);
	end_call(call);
}

static bool
values_fit(const PageCall *call, const EtcdTxnResult *values)
{
	if (!values->succeeded || values->nresults != 2 * call->nchosen)
		return false;
	for (int i = 0; i < values->nresults; i++)
	{
		if (values->results[i].type != ETCD_OP_RANGE)
			return false;
	}
	return true;
}

static void
values_done(void *arg, const EtcdAnswer *answer)
{
	PageCall   *call = arg;
	EtcdTxnResult values;
	EtcdError	error;

	call->link = NULL;
	if (answer->too_long && call->nchosen > 1)
	{
		call->nchosen /= 2;
		call->upto = call->index[call->nchosen];
		send_values(call);
	}
	else if (answer->too_long)
		publish(call, NULL);	/* too long to be one of ours */
	else if (!answer->delivered)
		ask_again(call);
	else if (!etcd_decode_txn(answer->body, answer->len, answer->http_status,
							  &values, &error))
		refused(call, &error);
	else
	{
		if (values_fit(call, &values))
			publish(call, &values);
		else
		{
			link_bad_answer("the answer does not fit the request");
			ask_again(call);
		}
		etcd_txn_result_free(&values);
	}
}

/* Send a request for the page; its body is taken over. */
static void
send(PageCall *call, const char *path, char *body,
	 void (*done) (void *arg, const EtcdAnswer *answer))
{
	EtcdCallbacks callbacks = {.done = done, .max_answer = MAX_ANSWER};

	if (body == NULL)
	{
		fail(call, ERRCODE_OUT_OF_MEMORY, "out of memory");
		return;
	}
	call->link = link_call(path, body, etcd_lock_request_timeout, &callbacks, call);
	if (call->link == NULL)
		ask_again(call);
}

/*
 * The value of each key, and the note on it.  Only servers' keys have notes,
 * but two operations for each make the answer easy to read.
 */
static void
send_values(PageCall *call)
{
	const PageProgress *p = &progress[call->slot];
	EtcdOp		ops[2 * PAGE_KEYS];
	EtcdTxn		txn = {NULL, 0, ops, 2 * call->nchosen, NULL, 0};

	memset(ops, 0, sizeof(ops));
	for (int i = 0; i < call->nchosen; i++)
	{
		const EtcdKeyValue *kv = &p->keys.range.kvs[call->index[i]];
		const QueuePageKey *key = &call->chosen[i];
		char	   *note = worker_note_key(p->ns, key->create_revision,
										   key->parts.lease, key->parts.number);

		ops[2 * i].type = ETCD_OP_RANGE;
		ops[2 * i].range.key = kv->key;
		ops[2 * i].range.key_len = kv->key_len;
		ops[2 * i].revision = p->revision;
		ops[2 * i + 1] = ops[2 * i];
		ops[2 * i + 1].range.key = note;
		ops[2 * i + 1].range.key_len = strlen(note);
	}
	send(call, ETCD_PATH_TXN, etcd_encode_txn(&txn), values_done);
}

/* Of the keys that were read. */
static void
make_page(PageCall *call)
{
	choose_keys(call);
	if (call->nchosen > 0)
		send_values(call);
	else
		publish(call, NULL);
}

static void
keys_done(void *arg, const EtcdAnswer *answer)
{
	PageCall   *call = arg;
	PageProgress *p = &progress[call->slot];
	EtcdError	error;

	call->link = NULL;
	if (answer->too_long && p->limit > 1)
	{
		p->limit /= 2;
		ask_again(call);
		p->retry_at = 0;
	}
	else if (answer->too_long)
		fail(call, ERRCODE_PROGRAM_LIMIT_EXCEEDED, answer->error);
	else if (!answer->delivered)
		ask_again(call);
	else if (!etcd_decode_range(answer->body, answer->len, answer->http_status,
								&p->keys, &error))
		refused(call, &error);
	else
	{
		if (p->revision == 0)
			p->revision = p->keys.header.revision;
		if (p->keys.range.nkvs > 0)
			set_next(p, &p->keys.range.kvs[p->keys.range.nkvs - 1]);
		make_page(call);
	}
}

/* A session asks for a page. */
static void
read_page(int slotno)
{
	QueueSlot  *slot = &queue_shared->slots[slotno];
	PageProgress *p = &progress[slotno];
	EtcdOp		op = {.type = ETCD_OP_RANGE, .keys_only = true};
	PageCall   *call;
	char	   *start = MemoryContextAlloc(TopMemoryContext, sizeof(slot->start));

	call = MemoryContextAllocZero(TopMemoryContext, sizeof(PageCall));
	call->slot = slotno;
	LWLockAcquire(queue_shared->lock, LW_EXCLUSIVE);
	if (slot->state != SLOT_ASKED)
	{
		LWLockRelease(queue_shared->lock);
		pfree(call);
		pfree(start);
		return;
	}
	slot->state = SLOT_SENT;
	call->id = slot->id;
	if (slot->first && p->id != call->id)
	{
		strlcpy(start, slot->start, sizeof(slot->start));
		strlcpy(p->end, slot->end, sizeof(p->end));
		strlcpy(p->ns, slot->ns, sizeof(p->ns));
		forget_keys(p);
		if (p->next != NULL)
			pfree(p->next);
		p->next = start;
		p->next_len = Max(strlen(start), 1);	/* from the first key: a NUL */
		p->revision = 0;
		p->limit = SCAN_LIMIT;
		p->id = call->id;
	}
	else
		pfree(start);
	LWLockRelease(queue_shared->lock);

	p->call = call;
	if (p->id != call->id)
	{
		fail(call, ERRCODE_CONNECTION_FAILURE,
			 "the etcd_lock worker was restarted meanwhile");
		return;
	}

	if (p->pos < p->keys.range.nkvs)
	{
		make_page(call);
		return;
	}
	op.range.key = p->next;
	op.range.key_len = p->next_len;
	op.range.end = p->end;
	op.range.end_len = Max(strlen(p->end), 1);	/* to the last key: a NUL */
	op.limit = p->limit;
	op.revision = p->revision;
	send(call, ETCD_PATH_RANGE, etcd_encode_range(&op), keys_done);
}

/* Is what is under way for the slot still wanted? */
static void
drop_unwanted(PageCall *call)
{
	bool		wanted;

	LWLockAcquire(queue_shared->lock, LW_SHARED);
	wanted = is_wanted(call);
	LWLockRelease(queue_shared->lock);
	if (wanted)
		return;
	if (call->link != NULL)
		link_cancel(call->link);
	forget_keys(&progress[call->slot]);
	progress[call->slot].id = 0;
	end_call(call);
}

void
queue_pages_tick(void)
{
	for (int i = 0; i < QUEUE_SLOTS; i++)
	{
		if (progress[i].call != NULL)
			drop_unwanted(progress[i].call);

		/* Without the lock: a change is followed by our latch. */
		if (queue_shared->slots[i].state == SLOT_ASKED &&
			progress[i].call == NULL && clock_now() >= progress[i].retry_at &&
			link_ready())
			read_page(i);
	}
}

int64
queue_pages_next_time(void)
{
	int64		next = PG_INT64_MAX;

	for (int i = 0; i < QUEUE_SLOTS; i++)
	{
		if (queue_shared->slots[i].state == SLOT_ASKED && progress[i].call == NULL)
			next = Min(next, Max(progress[i].retry_at, link_next_time()));
	}
	return next;
}

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

struct QueueReader
{
	int			slot;
	bool		first;
	bool		last;
	int64		scanned;
	uint32		used;
	uint32		read;			/* bytes of data */
	QueuePageKey current;
	char		data[QUEUE_PAGE_SIZE];
};

static int	my_slot = -1;		/* a session reads one thing at a time */

static void
give_slot_back(void)
{
	if (my_slot < 0)
		return;
	LWLockAcquire(queue_shared->lock, LW_EXCLUSIVE);
	queue_shared->slots[my_slot].state = SLOT_FREE;
	queue_shared->slots[my_slot].id++;
	LWLockRelease(queue_shared->lock);
	my_slot = -1;
	ConditionVariableSignal(&queue_shared->freed);
}

static void
give_slot_back_at_exit(int code, Datum arg)
{
	give_slot_back();
}

static bool
take_slot(void)
{
	LWLockAcquire(queue_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < QUEUE_SLOTS && my_slot < 0; i++)
	{
		QueueSlot  *slot = &queue_shared->slots[i];

		if (slot->state != SLOT_FREE)
			continue;
		slot->state = SLOT_TAKEN;
		slot->id++;
		slot->procno = compat_my_procno();
		my_slot = i;
	}
	LWLockRelease(queue_shared->lock);
	return my_slot >= 0;
}

static void
wait_for_slot(void)
{
	int64		give_up_at = clock_now() + (int64) etcd_lock_connect_timeout * 1000;

	ConditionVariablePrepareToSleep(&queue_shared->freed);
	while (!take_slot())
	{
		if (clock_now() >= give_up_at)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("too many sessions look at queues of etcd locks"),
					 errdetail("%d can do so at a time.", QUEUE_SLOTS)));
		(void) ConditionVariableTimedSleep(&queue_shared->freed, 100,
										   etcd_lock_wait_event_check());
	}
	ConditionVariableCancelSleep();
}

/*
 * Read the keys from start up to end, an empty end meaning the last one; ns is
 * where the notes are.  Until the reader is closed, errors must be caught and
 * close it too; an end of the session does so by itself.
 */
QueueReader *
queue_reader_open(const char *start, const char *end, const char *ns)
{
	static bool registered = false;
	QueueReader *reader = palloc0(sizeof(QueueReader));
	QueueSlot  *slot;

	if (!registered)
		before_shmem_exit(give_slot_back_at_exit, (Datum) 0);
	registered = true;
	give_slot_back();
	wait_for_slot();

	reader->slot = my_slot;
	reader->first = true;
	slot = &queue_shared->slots[my_slot];
	strlcpy(slot->start, start, sizeof(slot->start));
	strlcpy(slot->end, end, sizeof(slot->end));
	strlcpy(slot->ns, ns, sizeof(slot->ns));
	return reader;
}

void
queue_reader_close(QueueReader *reader)
{
	give_slot_back();
}

/* Copy the page, if it is there. */
static bool
take_page(QueueReader *reader, LockFailure *failure)
{
	QueueSlot  *slot = &queue_shared->slots[reader->slot];
	bool		done;

	LWLockAcquire(queue_shared->lock, LW_SHARED);
	done = slot->state == SLOT_DONE;
	if (done)
	{
		*failure = slot->failure;
		reader->last = slot->last;
		reader->scanned += slot->scanned;
		reader->used = slot->used;
		memcpy(reader->data, slot->data, slot->used);
	}
	LWLockRelease(queue_shared->lock);
	return done;
}

/* How long to wait for a page, milliseconds; an etcd that is away for less. */
static int
patience(void)
{
	if (pg_atomic_read_u32(&lock_shared->link_up) == 0)
		return etcd_lock_connect_timeout;
	return Max(etcd_lock_connect_timeout, 2 * etcd_lock_request_timeout);
}

static void
wait_for_page(QueueReader *reader)
{
	int64		asked_at = clock_now();
	LockFailure failure;

	while (!take_page(reader, &failure))
	{
		CHECK_FOR_INTERRUPTS();
		if (clock_now() - asked_at >= (int64) patience() * 1000)
			lock_report_unreachable(patience());
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100, etcd_lock_wait_event_check());
		ResetLatch(MyLatch);
	}
	if (failure.kind != FAILURE_NONE)
		ereport(ERROR,
				(errcode(failure.sqlerrcode),
				 failure.sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ?
				 errmsg("permission denied by etcd to read the queue of etcd locks") :
				 errmsg("could not read the queue of etcd locks"),
				 errdetail("%s", failure.message)));
}

bool
queue_reader_next_page(QueueReader *reader)
{
	QueueSlot  *slot = &queue_shared->slots[reader->slot];

	if (reader->last)
		return false;
	LWLockAcquire(queue_shared->lock, LW_EXCLUSIVE);
	slot->first = reader->first;
	slot->state = SLOT_ASKED;
	LWLockRelease(queue_shared->lock);
	lock_table_wake_worker();

	reader->first = false;
	reader->read = 0;
	wait_for_page(reader);
	return true;
}

bool
queue_reader_at_end(const QueueReader *reader)
{
	return reader->last;
}

int64
queue_reader_scanned(const QueueReader *reader)
{
	return reader->scanned;
}

const QueuePageKey *
queue_reader_next_key(QueueReader *reader, const char **key, const char **value)
{
	const QueuePageKey *current = &reader->current;

	if (reader->read >= reader->used)
		return NULL;
	memcpy(&reader->current, reader->data + reader->read, sizeof(QueuePageKey));
	reader->read += MAXALIGN(sizeof(QueuePageKey));
	*key = reader->data + reader->read;
	reader->read += MAXALIGN(current->shown_len);
	*value = reader->data + reader->read;
	reader->read += MAXALIGN(current->value_len);
	return current;
}
