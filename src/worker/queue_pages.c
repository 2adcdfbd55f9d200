/*-------------------------------------------------------------------------
 *
 * queue_pages.c
 *	  Reading etcd's keys for sessions, page by page.
 *
 * The worker reads a number of keys without their values.  For each page it
 * picks those that are keys of locks, and then reads only their values, and
 * the notes on who has them now (held_keys.c).  All pages of a reader show one
 * revision of etcd.  Others may have put the keys: if a response is too long,
 * the worker just asks for less.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "client/sqlstate.h"
#include "etcd/etcd_api.h"
#include "etcd/key_layout.h"
#include "shared/clock.h"
#include "shared/lock_table.h"
#include "shared/queue_slots.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/queue_pages.h"
#include "worker/txn_build.h"

/*
 * Limits of keys in a response, and of keys of locks in a page.  For each
 * request etcd goes through the whole rest of the range, so there should be
 * few requests.
 */
#define SCAN_LIMIT			2500
#define PAGE_KEYS			60
#define PAGE_BYTES			(256 * 1024)	/* of their names, but for the
											 * last one */

/* Longest response that the worker accepts for a page, bytes. */
#define MAX_RESPONSE			(4 * 1024 * 1024)

#define RETRY_PAUSE			INT64CONST(200000)	/* microseconds */

StaticAssertDecl(MAXALIGN(sizeof(QueuePageKey)) + MAXALIGN(QUEUE_MAX_SHOWN_KEY) +
				 MAXALIGN(QUEUE_MAX_VALUE) <= QUEUE_PAGE_SIZE,
				 "a page must have room for any key");

/* A page that is being read. */
typedef struct PageCall
{
	int			slot;
	uint64		id;
	LinkCall   *link;			/* the request in flight */
	int			nchosen;		/* keys of locks, to be in the page */
	QueuePageKey chosen[PAGE_KEYS];
	int			index[PAGE_KEYS];	/* of PageProgress.keys */
	int			upto;			/* likewise: where the page ends */
} PageCall;

/* How far the reading for the owner of a slot has come. */
typedef struct PageProgress
{
	uint64		id;
	char		end[ETCD_LOCK_MAX_KEY + 2];
	char		ns[ETCD_LOCK_MAX_KEY + 1];
	EtcdRangeResult keys;		/* read, */
	int			pos;			/* and how many were put into pages */
	char	   *next;			/* where the next keys begin */
	size_t		next_len;
	int64		revision;		/* of etcd, for all pages; 0: not yet known */
	int			limit;			/* keys in a response */
	int64		retry_at;
	PageCall   *call;
} PageProgress;

struct QueuePages
{
	PageProgress progress[QUEUE_SLOTS];
};

#define MyPages (MyWorker->queue_pages)

static void send_values(PageCall *call);

static void
end_call(PageCall *call)
{
	MyPages->progress[call->slot].call = NULL;
	pfree(call);
}

static void
forget_keys(PageProgress *p)
{
	etcd_response_free_range(&p->keys);
	p->pos = 0;
}

/* A new worker does not get the responses that the old one waited for. */
void
queue_pages_create(void)
{
	MyPages = MemoryContextAllocZero(TopMemoryContext, sizeof(struct QueuePages));
	LWLockAcquire(queue_slots->lock, LW_EXCLUSIVE);
	for (int i = 0; i < QUEUE_SLOTS; i++)
	{
		if (queue_slots->slots[i].state == SLOT_SENT)
			queue_slots->slots[i].state = SLOT_ASKED;
	}
	LWLockRelease(queue_slots->lock);
}

/* Is the session that asked still there?  Lock held. */
static bool
is_wanted(const PageCall *call)
{
	const QueueSlot *slot = &queue_slots->slots[call->slot];

	return slot->id == call->id && slot->state == SLOT_SENT;
}

/* Tell the session why it gets no page. */
static void
fail(PageCall *call, int sqlerrcode, const char *message)
{
	QueueSlot  *slot = &queue_slots->slots[call->slot];

	LWLockAcquire(queue_slots->lock, LW_EXCLUSIVE);
	if (is_wanted(call))
	{
		slot->failure.kind = FAILURE_ERROR;
		slot->failure.sqlerrcode = sqlerrcode;
		strlcpy(slot->failure.message, message, sizeof(slot->failure.message));
		slot->state = SLOT_DONE;
		lock_table_wake(slot->procno);
	}
	LWLockRelease(queue_slots->lock);
	end_call(call);
}

/*
 * The link may be better the next time; the session decides how long it waits.
 */
static void
ask_again(PageCall *call)
{
	QueueSlot  *slot = &queue_slots->slots[call->slot];

	MyPages->progress[call->slot].retry_at = clock_now() + RETRY_PAUSE;
	LWLockAcquire(queue_slots->lock, LW_EXCLUSIVE);
	if (is_wanted(call))
		slot->state = SLOT_ASKED;
	LWLockRelease(queue_slots->lock);
	end_call(call);
}

/* Etcd has returned an error. */
static void
refused(PageCall *call, const EtcdResponse *response, const EtcdError *error)
{
	if (error->code == ETCD_BAD_RESPONSE)
		link_bad_response(response, error->message);
	if (error->code == ETCD_BAD_RESPONSE || error->code == ETCD_UNAVAILABLE ||
		error->code == ETCD_DEADLINE_EXCEEDED)
		ask_again(call);
	else
		fail(call, sqlstate_of(error), error->message);
}

/* Set the next key to the one right after this one, in the order of bytes. */
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

/* Pick keys of locks, as many as fit into a page. */
static void
choose_keys(PageCall *call)
{
	const PageProgress *p = &MyPages->progress[call->slot];
	int			max = Min(PAGE_KEYS, Max(txn_build_max_ops() / 2, 1));
	size_t		bytes = 0;

	call->nchosen = 0;
	for (call->upto = p->pos; call->upto < p->keys.range.nkvs; call->upto++)
	{
		const EtcdKeyValue *kv = &p->keys.range.kvs[call->upto];
		QueuePageKey *key;
		QueueKeyParts parts;

		if (!key_layout_split(kv->key, kv->key_len, &parts) ||
			parts.name_len > ETCD_LOCK_MAX_KEY ||
			key_layout_is_reserved(kv->key, parts.name_len))
			continue;
		if (call->nchosen == max || bytes > PAGE_BYTES)
			return;
		bytes += kv->key_len;
		key = &call->chosen[call->nchosen];
		key->parts = parts;
		key->create_revision = kv->create_revision;
		key->lease = kv->lease;
		key->shown_len = Min(kv->key_len, QUEUE_MAX_SHOWN_KEY);
		key->cut = key->shown_len < kv->key_len;
		call->index[call->nchosen++] = call->upto;
	}
}

/* What is known about a key's holder: the note, else the key's own value. */
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

/* Pass the page to the session.  values is NULL if there are none. */
static void
publish(PageCall *call, const EtcdTxnResult *values)
{
	QueueSlot  *slot = &queue_slots->slots[call->slot];
	PageProgress *p = &MyPages->progress[call->slot];
	const EtcdOpResult *range = &p->keys.range;

	LWLockAcquire(queue_slots->lock, LW_EXCLUSIVE);
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
		lock_table_wake(slot->procno);
	}
	LWLockRelease(queue_slots->lock);
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
values_done(void *arg, const EtcdResponse *response)
{
	PageCall   *call = arg;
	EtcdTxnResult values;
	EtcdError	error;

	call->link = NULL;
	if (response->too_long && call->nchosen > 1)
	{
		call->nchosen /= 2;
		call->upto = call->index[call->nchosen];
		send_values(call);
	}
	else if (response->too_long)
		publish(call, NULL);	/* too long to be one of ours */
	else if (!response->delivered)
		ask_again(call);
	else if (!etcd_response_txn(&response->reply,
								&values, &error))
		refused(call, response, &error);
	else
	{
		if (values_fit(call, &values))
			publish(call, &values);
		else
		{
			link_bad_response(response, "unexpected response from etcd");
			ask_again(call);
		}
		etcd_response_free_txn(&values);
	}
}

/* Send a request for the page, and take over the message. */
static void
send(PageCall *call, EtcdMessage message,
	 void (*done) (void *arg, const EtcdResponse *response))
{
	LinkCallbacks callbacks = {.done = done,.max_message = MAX_RESPONSE};

	if (message.data == NULL)
	{
		fail(call, ERRCODE_OUT_OF_MEMORY, "out of memory");
		return;
	}
	call->link = link_call(LINK_SIDE, message, etcd_lock_request_timeout, &callbacks, call);
	if (call->link == NULL)
		ask_again(call);
}

/*
 * Read the value of each key, and the note on it.  Only servers' keys have
 * notes, but two operations for each key make the response easy to read.
 */
static void
send_values(PageCall *call)
{
	const PageProgress *p = &MyPages->progress[call->slot];
	EtcdOp		ops[2 * PAGE_KEYS];
	EtcdTxn		txn = {NULL, 0, ops, 2 * call->nchosen, NULL, 0};

	memset(ops, 0, sizeof(ops));
	for (int i = 0; i < call->nchosen; i++)
	{
		const EtcdKeyValue *kv = &p->keys.range.kvs[call->index[i]];
		const QueuePageKey *key = &call->chosen[i];
		char	   *note = palloc(KEY_LAYOUT_SIZE);

		ops[2 * i].type = ETCD_OP_RANGE;
		ops[2 * i].range.key = kv->key;
		ops[2 * i].range.key_len = kv->key_len;
		ops[2 * i].revision = p->revision;
		ops[2 * i + 1] = ops[2 * i];
		ops[2 * i + 1].range.key = note;
		ops[2 * i + 1].range.key_len = key_layout_note(note, p->ns, key->create_revision,
													   key->parts.lease,
													   key->parts.serial);
	}
	send(call, etcd_request_txn(&txn), values_done);
}

/* Make a page of the keys that were read. */
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
keys_done(void *arg, const EtcdResponse *response)
{
	PageCall   *call = arg;
	PageProgress *p = &MyPages->progress[call->slot];
	EtcdError	error;

	call->link = NULL;
	if (response->too_long && p->limit > 1)
	{
		p->limit /= 2;
		ask_again(call);
		p->retry_at = 0;
	}
	else if (response->too_long)
		fail(call, ERRCODE_PROGRAM_LIMIT_EXCEEDED, response->error);
	else if (!response->delivered)
		ask_again(call);
	else if (!etcd_response_range(&response->reply,
								  &p->keys, &error))
		refused(call, response, &error);
	else
	{
		if (p->revision == 0)
			p->revision = p->keys.header.revision;
		if (p->keys.range.nkvs > 0)
			set_next(p, &p->keys.range.kvs[p->keys.range.nkvs - 1]);
		make_page(call);
	}
}

/* Begin at the first page of what the slot asks for; start has room for its start. */
static void
begin_pages(PageProgress *p, const QueueSlot *slot, char *start)
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
	p->id = slot->id;
}

/* Take what a session asks for in this slot.  Returns NULL if it no longer does. */
static PageCall *
take_call(int slotno)
{
	QueueSlot  *slot = &queue_slots->slots[slotno];
	PageProgress *p = &MyPages->progress[slotno];
	PageCall   *call;
	char	   *start = MemoryContextAlloc(TopMemoryContext, sizeof(slot->start));

	call = MemoryContextAllocZero(TopMemoryContext, sizeof(PageCall));
	call->slot = slotno;
	LWLockAcquire(queue_slots->lock, LW_EXCLUSIVE);
	if (slot->state != SLOT_ASKED)
	{
		LWLockRelease(queue_slots->lock);
		pfree(call);
		pfree(start);
		return NULL;
	}
	slot->state = SLOT_SENT;
	call->id = slot->id;
	if (slot->first && p->id != call->id)
		begin_pages(p, slot, start);
	else
		pfree(start);
	LWLockRelease(queue_slots->lock);
	p->call = call;
	return call;
}

/* A session asks for a page. */
static void
read_page(int slotno)
{
	PageProgress *p = &MyPages->progress[slotno];
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true};
	PageCall   *call = take_call(slotno);

	if (call == NULL)
		return;
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
	send(call, etcd_request_range(&op), keys_done);
}

/* Is what is in flight for the slot still wanted? */
static void
drop_unwanted(PageCall *call)
{
	bool		wanted;

	LWLockAcquire(queue_slots->lock, LW_SHARED);
	wanted = is_wanted(call);
	LWLockRelease(queue_slots->lock);
	if (wanted)
		return;
	if (call->link != NULL)
		link_cancel(call->link);
	forget_keys(&MyPages->progress[call->slot]);
	MyPages->progress[call->slot].id = 0;
	end_call(call);
}

void
queue_pages_tick(void)
{
	for (int i = 0; i < QUEUE_SLOTS; i++)
	{
		if (MyPages->progress[i].call != NULL)
			drop_unwanted(MyPages->progress[i].call);

		/* Without the lock, because each change sets our latch. */
		if (queue_slots->slots[i].state == SLOT_ASKED &&
			MyPages->progress[i].call == NULL && clock_now() >= MyPages->progress[i].retry_at &&
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
		if (queue_slots->slots[i].state == SLOT_ASKED && MyPages->progress[i].call == NULL)
			next = Min(next, Max(MyPages->progress[i].retry_at, link_next_time()));
	}
	return next;
}
