/*-------------------------------------------------------------------------
 *
 * held.c
 *	  Keys that are held for long: who has them now, and that they are there.
 *
 * What is held for a moment only costs nothing here.  A key that has been held
 * for half a second is settled:
 *
 * - It is watched, so that a deletion by hand is known at once and not with the
 *	 next keepalive.  A watch takes a connection here and in etcd, so there are a
 *	 few only, and those of names that somebody waits for come first.
 *
 * - Its value in etcd tells who asked for it, and since when.  Within the server
 *	 the lock may have been passed on; the key is never put again (README.md, "In
 *	 etcd").  So a note beside it tells who has it now.  It is written when what
 *	 etcd says has been wrong for half a second, and goes with the key, or with
 *	 the lease.  Nothing depends on it but what etcd_lock_queue() shows.
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Microseconds. */
#define SETTLED_AFTER		INT64CONST(500000)
#define LOOK_INTERVAL		INT64CONST(500000)
#define NOTE_INTERVAL		INT64CONST(1000000) /* of one key */
#define SAME_TIME			INT64CONST(1000000) /* what nobody minds */
#define REFUSED_PAUSE		INT64CONST(10000000)

#define MAX_HELD_WATCHES	32

/* Notes in a request. */
#define MAX_NOTES			64

#define NOTE_PART			ETCD_LOCK_RESERVED "holder/"

/* Keys by how long they have been held; the oldest come first in both. */
static dlist_head young = DLIST_STATIC_INIT(young);
static dlist_head settled = DLIST_STATIC_INIT(settled);
static int64 next_look = 0;
static int	nwatched = 0;		/* names with keep_watch */

/* Notes that are being put. */
typedef struct Notes
{
	int			n;
	uint64		epoch;
	struct
	{
		uint64		serial;		/* of the key */
		uint64		number;
		char	   *key;		/* of the note */
		int			pid;
		TimestampTz since;
	}			note[MAX_NOTES];
} Notes;

static bool notes_under_way = false;
static int64 notes_not_before = 0;

/*
 * Where the note on a server's key is.  A key's name may be used again, so the
 * note tells by its create_revision which one it is about.
 */
char *
worker_note_key(const char *ns, int64 create_revision, uint64 lease,
				uint64 serial)
{
	return psprintf("%s" NOTE_PART INT64_FORMAT "/%llx-%012llu", ns,
					create_revision, (unsigned long long) lease,
					(unsigned long long) serial);
}

static char *
note_key(const WorkerKey *key)
{
	const LockEntry *entry = key->name->entry;
	int			namespace_len = entry->keys[key - key->name->keys].namespace_len;

	return worker_note_key(pnstrdup(entry->key, namespace_len),
						   key->create_revision, lease_id(), key->serial);
}

/* ----------------------------------------------------------------
 *		What is held
 * ----------------------------------------------------------------
 */

void
held_add(WorkerKey *key)
{
	Assert(!key->held);
	key->held = true;
	dlist_push_tail(&young, &key->held_link);
}

/* Does this name still have a key that is worth a watch? */
static bool
has_settled_key(const WorkerName *name)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (name->keys[i].number != 0 && name->keys[i].settled)
			return true;
	}
	return false;
}

static void
let_watch_go(WorkerName *name)
{
	name->keep_watch = false;
	nwatched--;
	name_update_watch(name);
}

/* The key is no more, or about to be. */
void
held_remove(WorkerKey *key)
{
	if (key->note != NULL)
	{
		requests_stray(key->note, strlen(key->note), Max(key->note_revision, 0));
		pfree(key->note);
		key->note = NULL;
	}
	if (!key->held)
		return;
	dlist_delete(&key->held_link);
	key->held = false;
	key->settled = false;
	if (key->name->keep_watch && !has_settled_key(key->name))
		let_watch_go(key->name);
}

/* ----------------------------------------------------------------
 *		Watches
 * ----------------------------------------------------------------
 */

static void
watch_settled(WorkerName *name)
{
	/* An etcd that is away has enough to do with those who wait. */
	if (pg_atomic_read_u32(&lock_shared->link_up) == 0)
		return;
	if (!name->keep_watch)
	{
		if (nwatched >= MAX_HELD_WATCHES)
			return;
		name->keep_watch = true;
		nwatched++;
	}
	name_update_watch(name);
}

/* Somebody waits, and there is no watch left for him.  False: nor is one here. */
bool
held_give_watch(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &settled)
	{
		WorkerName *name = dlist_container(WorkerKey, held_link, iter.cur)->name;

		if (name->keep_watch && name->watch != NULL && !name->waiting)
		{
			let_watch_go(name);
			return true;
		}
	}
	return false;
}

/* ----------------------------------------------------------------
 *		Notes
 * ----------------------------------------------------------------
 */

static void
free_notes(Notes *notes)
{
	for (int i = 0; i < notes->n; i++)
		pfree(notes->note[i].key);
	pfree(notes);
}

static void
notes_done(void *arg, const EtcdAnswer *answer)
{
	Notes	   *notes = arg;
	EtcdTxnResult result;
	EtcdError	error = {0};
	bool		done;

	notes_under_way = false;
	done = answer->delivered &&
		etcd_decode_txn(answer->body, answer->len, answer->http_status,
						&result, &error);
	if (answer->delivered && !done)
	{
		/* The keepalive finds out whether the lease is gone. */
		if (error.code == ETCD_BAD_ANSWER)
			link_bad_answer(error.message);
		else
			notes_not_before = clock_now() + REFUSED_PAUSE;
	}

	if (done && notes->epoch == deadline_epoch(&lock_shared->deadline))
		lease_saw_header(&result.header);
	for (int i = 0; i < notes->n && notes->epoch == deadline_epoch(&lock_shared->deadline); i++)
	{
		WorkerKey  *key = own_keys_find(notes->note[i].serial,
										 notes->note[i].number);

		if (key == NULL)
			requests_stray(notes->note[i].key, strlen(notes->note[i].key), 0);
		else if (done)
		{
			if (key->note_revision == 0)
				key->note_revision = result.header.revision;
			key->told_pid = notes->note[i].pid;
			key->told_since = notes->note[i].since;
		}
	}
	if (done)
		etcd_txn_result_free(&result);
	free_notes(notes);
}

static void
send_notes(Notes *notes, EtcdOp *ops)
{
	static const EtcdCallbacks callbacks = {NULL, notes_done};
	EtcdTxn		txn = {NULL, 0, ops, notes->n, NULL, 0};
	char	   *body = notes->n == 0 ? NULL : etcd_encode_txn(&txn);

	if (body == NULL ||
		link_call(ETCD_PATH_TXN, body, etcd_lock_request_timeout, &callbacks,
				  notes) == NULL)
		free_notes(notes);
	else
		notes_under_way = true;
}

/* A note that says who has the key. */
static void
add_note(Notes *notes, EtcdOp *ops, WorkerKey *key, const LockHolder *holder,
		 int64 now)
{
	EtcdOp	   *op = &ops[notes->n];

	if (key->note == NULL)
		key->note = MemoryContextStrdup(TopMemoryContext, note_key(key));
	key->noted_at = now;

	memset(op, 0, sizeof(EtcdOp));
	op->type = ETCD_OP_PUT;
	op->range.key = key->note;
	op->range.key_len = strlen(key->note);
	op->value = worker_describe(&holder->who, holder->pid, holder->since);
	op->value_len = strlen(op->value);
	op->lease = lease_id();

	notes->note[notes->n].serial = key->serial;
	notes->note[notes->n].number = key->number;
	notes->note[notes->n].key = MemoryContextStrdup(TopMemoryContext, key->note);
	notes->note[notes->n].pid = holder->pid;
	notes->note[notes->n].since = holder->since;
	notes->n++;
}

/* Has what etcd says about the key been wrong for a while?  Then *holder. */
static bool
is_wrong(WorkerKey *key, TimestampTz now, LockHolder *holder)
{
	LockEntry  *entry = key->name->entry;
	const LockKey *shared = &entry->keys[key - key->name->keys];
	LWLock	   *lock = lock_entry_lock(entry);
	const LockHold *hold = NULL;
	bool		wrong;

	LWLockAcquire(lock, LW_SHARED);
	if (shared->state == KEY_HELD)
		hold = lock_key_holder(entry, shared, key->told_pid);
	wrong = hold != NULL && now - hold->held_since >= SETTLED_AFTER &&
		(hold->pid != key->told_pid ||
		 hold->held_since - key->told_since >= SAME_TIME ||
		 key->told_since - hold->held_since >= SAME_TIME);
	if (wrong)
		lock_key_copy_holder(entry, shared, key->told_pid, holder);
	LWLockRelease(lock);
	return wrong;
}

/* Of several thousand keys, some wait for the next look. */
static void
write_notes(int64 now)
{
	TimestampTz time = GetCurrentTimestamp();
	EtcdOp	   *ops;
	Notes	   *notes;
	LockHolder	holder;
	dlist_iter	iter;

	if (notes_under_way || now < notes_not_before || worker_stopping ||
		!lease_alive() || !link_ready())
		return;
	ops = palloc(MAX_NOTES * sizeof(EtcdOp));
	notes = MemoryContextAlloc(TopMemoryContext, sizeof(Notes));
	notes->n = 0;
	notes->epoch = deadline_epoch(&lock_shared->deadline);
	dlist_foreach(iter, &settled)
	{
		WorkerKey  *key = dlist_container(WorkerKey, held_link, iter.cur);

		if (notes->n == Min(MAX_NOTES, requests_max_ops))
			break;
		if (key->name->entry != NULL && now - key->noted_at >= NOTE_INTERVAL &&
			is_wrong(key, time, &holder))
			add_note(notes, ops, key, &holder, now);
	}
	send_notes(notes, ops);
}

/* Is it named as note_key() names notes? */
bool
held_is_note(const char *key, size_t len)
{
	const char *last = strrchr(key, '/');
	const char *owner = lease_hex();

	return strlen(key) == len && strstr(key, NOTE_PART) != NULL &&
		strncmp(last + 1, owner, strlen(owner)) == 0 &&
		last[1 + strlen(owner)] == '-';
}

/* Etcd lists this note on our lease: is it about the key? */
bool
held_knows_note(WorkerKey *key, const char *note)
{
	char	   *expected;
	bool		known;

	if (key->name->entry == NULL || key->held_since == 0)
		return false;
	expected = note_key(key);
	known = strcmp(expected, note) == 0;
	if (known && key->note == NULL)
	{
		key->note = MemoryContextStrdup(TopMemoryContext, expected);
		key->note_revision = -1;
	}
	pfree(expected);
	return known;
}

/* ----------------------------------------------------------------
 *		Time
 * ----------------------------------------------------------------
 */

void
held_tick(int64 now)
{
	dlist_iter	iter;

	while (!dlist_is_empty(&young))
	{
		WorkerKey  *key = dlist_head_element(WorkerKey, held_link, &young);

		if (key->held_since + SETTLED_AFTER > now)
			break;
		dlist_delete(&key->held_link);
		dlist_push_tail(&settled, &key->held_link);
		key->settled = true;
		watch_settled(key->name);
	}
	if (dlist_is_empty(&settled) || now < next_look)
		return;
	next_look = now + LOOK_INTERVAL;
	write_notes(now);

	/* A watch that has ended is opened again. */
	dlist_foreach(iter, &settled)
		watch_settled(dlist_container(WorkerKey, held_link, iter.cur)->name);
}

int64
held_next_time(void)
{
	int64		next = PG_INT64_MAX;

	if (!dlist_is_empty(&young))
		next = dlist_head_element(WorkerKey, held_link, &young)->held_since + SETTLED_AFTER;
	if (!dlist_is_empty(&settled))
		next = Min(next, next_look);
	return next;
}
