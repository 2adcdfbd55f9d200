/*-------------------------------------------------------------------------
 *
 * held_keys.c
 *	  Keys that are held for long: who has them now, and that they still exist.
 *
 * A key that is held only for a moment costs nothing here.  A key that has
 * been held for half a second is settled:
 *
 * - It is watched, so that a deletion by hand is known at once and not with the
 *	 next audit.  Those of names that somebody waits for come first.
 *
 * - Its value in etcd tells who asked for it, and since when.  Within the server
 *	 the lock may have been passed on; the key is never put again (README.md, "In
 *	 etcd").  So a note beside it tells who has it now.  It is written when what
 *	 etcd says has been wrong for half a second, and goes with the key, or with
 *	 the lease.  Nothing depends on it but what etcd_lock_queue() shows.  Of a key
 *	 that may be kept, and that goes from hand to hand, it says that nobody in
 *	 particular has it, and is written once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "shared/lease_id.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/context.h"
#include "worker/held_keys.h"
#include "worker/key_value.h"
#include "worker/lease.h"
#include "worker/orphans.h"
#include "worker/txn_build.h"

/* Microseconds. */
#define SETTLED_AFTER		INT64CONST(500000)
#define WATCH_INTERVAL		INT64CONST(500000)
#define NOTE_INTERVAL		INT64CONST(1000000) /* of one key */
#define SAME_TIME			INT64CONST(1000000) /* a difference that does not
												 * matter */
#define REFUSED_PAUSE		INT64CONST(10000000)

/* Notes in a request. */
#define MAX_NOTES			64

/* Notes that are being put. */
typedef struct Notes
{
	int			n;
	int			max_ops;		/* the limit of etcd, as known then */
	uint64		epoch;
	struct
	{
		uint64		serial;		/* of the key */
		uint64		key_id;
		char	   *key;		/* of the note */
		int			pid;
		TimestampTz since;
	}			note[MAX_NOTES];
} Notes;

struct HeldKeys
{
	/* WorkerKey.held_link */
	dlist_head	young;			/* by how long they have been held */
	dlist_head	watched;		/* settled, and their names have keep_watch */
	dlist_head	unwatched;		/* settled, but there was no watch left */
	int64		next_watch;		/* clock_now(); if there are such */

	bool		notes_in_flight;
	int64		notes_not_before;
	int64		notes_alone_until;	/* clock_now(); one in a request: etcd
									 * refuses some of them */
};

#define MyHeldKeys (MyWorker->held_keys)

void
held_keys_create(void)
{
	MyHeldKeys = MemoryContextAllocZero(TopMemoryContext, sizeof(struct HeldKeys));
	dlist_init(&MyHeldKeys->young);
	dlist_init(&MyHeldKeys->watched);
	dlist_init(&MyHeldKeys->unwatched);
}

/*
 * The name of the note on a key.  It contains the key's create_revision,
 * because a key's name may be used again.
 */
static char *
note_key(const WorkerKey *key)
{
	const LockEntry *entry = key->name->entry;
	char	   *note = palloc(KEY_LAYOUT_SIZE);

	key_layout_note(note, pnstrdup(entry->key, name_shared_key(key)->namespace_len),
					key->create_revision, (uint64) lease_id(), key->serial);
	return note;
}

/* ----------------------------------------------------------------
 *		What is held
 * ----------------------------------------------------------------
 */

void
held_keys_add(WorkerKey *key)
{
	Assert(!key->held);
	key->held = true;
	dlist_push_tail(&MyHeldKeys->young, &key->held_link);
}

/* ----------------------------------------------------------------
 *		Watches
 * ----------------------------------------------------------------
 */

/*
 * Is there a watch for one more held name?  Waiters come first, and an etcd
 * that was away has enough to do with them.
 */
static bool
may_watch(void)
{
	return pg_atomic_read_u32(&lock_shared->link_up) != 0 &&
		name_count_kept_watches() + name_count_waiting() < HELD_KEYS_MAX_WATCHES;
}

/* The key may be kept: have a watch show other owners that come. */
void
held_keys_watch(WorkerKey *key)
{
	if (may_watch())
		name_set_keep_watch(key->name, true);
	name_watch_changed(key->name);
}

/* The key has been held for long: watch it if possible. */
static void
watch_settled(WorkerKey *key)
{
	if (may_watch())
		name_set_keep_watch(key->name, true);
	dlist_delete(&key->held_link);
	dlist_push_tail(key->name->keep_watch ? &MyHeldKeys->watched : &MyHeldKeys->unwatched,
					&key->held_link);
}

static void
unwatch(WorkerName *name)
{
	name_set_keep_watch(name, false);
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = name_key(name, i);

		if (key == NULL || !key->settled)
			continue;
		dlist_delete(&key->held_link);
		dlist_push_tail(&MyHeldKeys->unwatched, &key->held_link);
	}
	name_close_watch(name);
}

/*
 * Give up the watch of one such name so that a waiter can use it.  Returns false if
 * there is none.
 */
bool
held_keys_give_watch(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyHeldKeys->watched)
	{
		WorkerName *name = dlist_container(WorkerKey, held_link, iter.cur)->name;

		if (name->watch != NULL && !name->waiting)
		{
			unwatch(name);
			return true;
		}
	}
	return false;
}

bool
held_keys_all_watched(void)
{
	return dlist_is_empty(&MyHeldKeys->unwatched);
}

/* There may be watches again for names that had none. */
static void
watch_more(int64 now)
{
	if (now < MyHeldKeys->next_watch)
		return;
	MyHeldKeys->next_watch = now + WATCH_INTERVAL;
	while (!dlist_is_empty(&MyHeldKeys->unwatched) && may_watch())
		watch_settled(dlist_head_element(WorkerKey, held_link, &MyHeldKeys->unwatched));
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
notes_done(void *arg, const EtcdResponse *response)
{
	Notes	   *notes = arg;
	EtcdTxnResult result;
	EtcdError	error = {0};
	bool		done;
	bool		is_forbidden = false;

	MyHeldKeys->notes_in_flight = false;
	done = response->delivered &&
		etcd_response_txn(&response->reply,
						  &result, &error);
	if (response->delivered && !done)
	{
		/* The keepalive finds out whether the lease is gone. */
		if (error.code == ETCD_BAD_RESPONSE)
			link_bad_response(response, error.message);
		else if (error.code == ETCD_PERMISSION_DENIED)
			MyHeldKeys->notes_alone_until = clock_now() + REFUSED_PAUSE;
		else
			MyHeldKeys->notes_not_before = clock_now() + REFUSED_PAUSE;
		is_forbidden = error.code == ETCD_PERMISSION_DENIED && notes->n == 1;
		(void) txn_build_note_error(&error, notes->max_ops);
	}

	if (done && notes->epoch == deadline_epoch(&lock_shared->deadline))
		lease_saw_header(response, &result.header);
	for (int i = 0; i < notes->n && notes->epoch == deadline_epoch(&lock_shared->deadline); i++)
	{
		WorkerKey  *key = name_key_of_serial(notes->note[i].serial);

		if (key == NULL || key->key_id != notes->note[i].key_id || key->note == NULL)
			orphan_add(notes->note[i].key, strlen(notes->note[i].key), 0);
		else if (response->delivered && !done)
		{
			if (key->note_revision == 0)
				name_forget_note(key);	/* else it goes with the lease */
			if (is_forbidden)
				name_set_holder_look(key, clock_now() + REFUSED_PAUSE);
		}
		else if (done)
		{
			key->note_revision = result.header.revision;
			key->told_pid = notes->note[i].pid;
			key->told_since = notes->note[i].since;
		}
	}
	if (done)
		etcd_response_free_txn(&result);
	free_notes(notes);
}

static void
send_notes(Notes *notes, EtcdOp *ops)
{
	static const LinkCallbacks callbacks = {.done = notes_done};
	EtcdTxn		txn = {NULL, 0, ops, notes->n, NULL, 0};

	if (notes->n == 0 ||
		link_call(LINK_SIDE, etcd_request_txn(&txn), etcd_lock_request_timeout, &callbacks,
				  notes) == NULL)
		free_notes(notes);
	else
		MyHeldKeys->notes_in_flight = true;
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
	op->value = holder->somebody ?
		key_value_make(&holder->who, holder->pid, holder->since) : key_value_make_kept();
	op->value_len = strlen(op->value);
	op->lease = lease_id();

	notes->note[notes->n].serial = key->serial;
	notes->note[notes->n].key_id = key->key_id;
	notes->note[notes->n].key = MemoryContextStrdup(TopMemoryContext, key->note);
	notes->note[notes->n].pid = holder->somebody ? holder->pid : 0;
	notes->note[notes->n].since = holder->somebody ? holder->since : 0;
	notes->n++;
}

/* Does etcd say that this session has the key?  NULL: that nobody has. */
static bool
is_told(const WorkerKey *key, const LockHold *hold)
{
	if (hold == NULL)
		return key->told_pid == 0;
	return hold->pid == key->told_pid &&
		hold->held_since - key->told_since < SAME_TIME &&
		key->told_since - hold->held_since < SAME_TIME;
}

/*
 * Compare what etcd says about the key with who has it.  Returns true if it has been wrong
 * for a while, then *holder has it.  Else *again is when to look again: in a moment, if
 * somebody has just got it, or 0: not before a session says that there is another holder,
 * which we ask to hear.  A key that may be kept is shown as nobody's, unless a session has
 * had it for a while.
 */
static bool
compare_holder(WorkerKey *key, TimestampTz now, LockHolder *holder, TimestampTz *again)
{
	LockEntry  *entry = key->name->entry;
	LockKey    *shared = name_shared_key(key);
	LWLock	   *lock = name_lock(key->name);
	const LockHold *hold = NULL;
	bool		wrong;

	*again = 0;
	memset(holder, 0, sizeof(LockHolder));
	if (shared->state == KEY_HELD)
		hold = lock_key_holder(entry, shared, key->told_pid);
	wrong = !is_told(key, hold) &&
		(hold != NULL || (shared->state == KEY_HELD && key->keep > 0));
	if (!wrong)
		lock_key_await_holder_change(entry, shared);
	else if (hold != NULL && now - hold->held_since < SETTLED_AFTER)
	{
		*again = hold->held_since + SETTLED_AFTER;
		wrong = key->keep > 0 && key->told_pid != 0;
	}
	else if (hold != NULL)
		lock_key_copy_holder(entry, shared, key->told_pid, holder);
	lock_table_unlock(lock);
	return wrong;
}

/* A key's holder may have changed: who has it now?  Whatever comes of a note, look again. */
static void
look_at_holder(WorkerKey *key, Notes *notes, EtcdOp *ops, int64 now)
{
	TimestampTz time = GetCurrentTimestamp();
	TimestampTz again;
	LockHolder	holder;

	if (key->noted_at != 0 && now - key->noted_at < NOTE_INTERVAL)
		name_set_holder_look(key, key->noted_at + NOTE_INTERVAL);
	else if (compare_holder(key, time, &holder, &again))
	{
		add_note(notes, ops, key, &holder, now);
		name_set_holder_look(key, now + NOTE_INTERVAL);
	}
	else
		name_set_holder_look(key, again == 0 ? 0 : now + Max(again - time, 0));
}

static bool
may_note(void)
{
	return !MyHeldKeys->notes_in_flight && !MyWorker->stopping && lease_alive() && link_ready();
}

/*
 * If there are several thousand keys, some wait until others have their notes.
 */
static void
write_notes(int64 now)
{
	WorkerKey  *key = name_first_holder_look();
	EtcdOp	   *ops;
	Notes	   *notes;
	int			max_notes = 1;

	if (key == NULL || key->holder_look_at > now || now < MyHeldKeys->notes_not_before ||
		!may_note())
		return;
	ops = palloc(MAX_NOTES * sizeof(EtcdOp));
	notes = MemoryContextAlloc(TopMemoryContext, sizeof(Notes));
	notes->n = 0;
	notes->max_ops = txn_build_max_ops();
	notes->epoch = deadline_epoch(&lock_shared->deadline);
	if (now >= MyHeldKeys->notes_alone_until)
		max_notes = Min(MAX_NOTES, notes->max_ops);
	while (key != NULL && key->holder_look_at <= now && notes->n < max_notes)
	{
		look_at_holder(key, notes, ops, now);
		key = name_first_holder_look();
	}
	send_notes(notes, ops);
}

/* A session may have said that a key that is held for long has another holder. */
void
held_keys_look(WorkerKey *key)
{
	if (key->settled && key->holder_look_at == 0 && !name_shared_key(key)->tells_holder)
		name_set_holder_look(key, clock_now() + SETTLED_AFTER);
}

/* It went with its key, at this revision.  A request may have put it again behind that. */
void
held_keys_note_deleted(WorkerKey *key, int64 revision)
{
	if (key->note_revision <= revision)
		name_forget_note(key);
}

/*
 * The note is not deleted with its key, because etcd may refuse to delete it.
 */
void
held_keys_leave_note(WorkerKey *key)
{
	if (key->note != NULL)
		orphan_add(key->note, strlen(key->note), 0);
	name_forget_note(key);
}

bool
held_keys_knows_note(WorkerKey *key, const char *note, size_t len)
{
	char	   *expected;
	bool		known;

	if (key->held_since == 0)
		return false;
	expected = note_key(key);
	known = strlen(expected) == len && memcmp(expected, note, len) == 0;
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
held_keys_tick(int64 now)
{
	while (!dlist_is_empty(&MyHeldKeys->young))
	{
		WorkerKey  *key = dlist_head_element(WorkerKey, held_link, &MyHeldKeys->young);

		if (key->held_since + SETTLED_AFTER > now)
			break;
		key->settled = true;
		watch_settled(key);
		name_set_holder_look(key, now);
	}
	watch_more(now);
	write_notes(now);
}

int64
held_keys_next_time(void)
{
	const WorkerKey *key = name_first_holder_look();
	int64		next = PG_INT64_MAX;

	if (!dlist_is_empty(&MyHeldKeys->young))
		next = dlist_head_element(WorkerKey, held_link, &MyHeldKeys->young)->held_since + SETTLED_AFTER;
	if (!dlist_is_empty(&MyHeldKeys->unwatched))
		next = Min(next, MyHeldKeys->next_watch);

	/* Something wakes us when there is a lease again, and a link. */
	if (key != NULL && may_note())
		next = Min(next, Max(key->holder_look_at, MyHeldKeys->notes_not_before));
	return next;
}
