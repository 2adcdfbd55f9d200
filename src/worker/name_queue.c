/*-------------------------------------------------------------------------
 *
 * name_queue.c
 *	  What etcd shows about a name's queue, and what follows for our keys in it.
 *
 * queue.c decides whose turn it is.  Its input comes from the response to a
 * put, from reads of the whole queue, and from a watch (README.md, "Granting
 * on a DELETE event").
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "etcd/printable.h"
#include "shared/lease_id.h"
#include "shared/lock_keep.h"
#include "shared/lock_trace.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/break_message.h"
#include "worker/held_keys.h"
#include "worker/key_step.h"
#include "worker/name_queue.h"
#include "worker/old_leases.h"
#include "worker/orphans.h"
#include "worker/recent_names.h"
#include "worker/txn_queue.h"

#define WATCH_PAUSE			INT64CONST(200000)	/* microseconds */

/* How long after a read a watch may show the same; microseconds. */
#define WATCH_LAG			INT64CONST(1000000)

/* Pause before a read that events have overtaken is repeated; microseconds. */
#define EVENT_PAUSE			INT64CONST(1000)

/* A short keep_window is over before a handover can be. */
#define LEAST_TRIES_WAIT		INT64CONST(50000)

/* ----------------------------------------------------------------
 *		The queue
 * ----------------------------------------------------------------
 */

/* view->keys is palloc'd. */
void
name_queue_view(const char *name, const EtcdOpResult *range, QueueView *view)
{
	QueueKey   *keys = palloc(Max(range->nkvs, 1) * sizeof(QueueKey));

	for (int i = 0; i < range->nkvs; i++)
	{
		keys[i].key = range->kvs[i].key;
		keys[i].key_len = range->kvs[i].key_len;
		keys[i].create_revision = range->kvs[i].create_revision;
		keys[i].no_lease = range->kvs[i].lease == 0;
	}
	view->name = name;
	view->name_len = strlen(name);
	/* keys that are left from earlier epochs are ours, too (rule 14) */
	view->owner = lease_id_base_hex();
	view->owner_len = strlen(view->owner);
	view->keys = keys;
	view->nkeys = range->nkvs;
}

/*
 * Note how many keys a response had; pid: of the session whose request it was, or 0.
 */
void
name_queue_note_length(WorkerName *name, int pid, int nkeys)
{
	name->nkeys = nkeys;
	if (nkeys > RECENT_LONG_QUEUE)
		recent_name_note_long(name->entry, pid);
}

static const QueueKey *
find_own(const QueueView *view, const WorkerKey *key)
{
	for (int i = 0; i < view->nkeys; i++)
	{
		if (view->keys[i].key_len == key->etcd_key_len &&
			memcmp(view->keys[i].key, key->etcd_key, key->etcd_key_len) == 0)
			return &view->keys[i];
	}
	return NULL;
}

bool
name_queue_has_key(const QueueView *view, const WorkerKey *key)
{
	return find_own(view, key) != NULL;
}

/* Grant the key, if we may still believe our lease.  Entry's lock held. */
static void
grant_key(WorkerKey *key)
{
	LockKey    *shared = name_shared_key(key);

	if (MyWorker->stopping ||
		!deadline_valid(&lock_shared->deadline, shared->epoch))
	{
		lock_key_set_behind(key->name->entry, shared, false, false);
		return;
	}
	lock_key_grant(key->name->entry, shared);
	key->held_since = clock_now();
	held_keys_add(key);
	name_audit_key(key);
	if (key->keep > 0)
		held_keys_watch(key);
	name_forget_ahead(key);
}

/*
 * Returns the create_revision of this server's read key if sessions need it,
 * or 0.
 */
static int64
needed_read_revision(const LockEntry *entry)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		const LockKey *key = &entry->keys[i];

		if (key->state == KEY_HELD && key->mode == LOCK_SHARED &&
			lock_key_needed(entry, key))
			return key->create_revision;
	}
	return 0;
}

/*
 * Is other data in the way, which nobody will ever release?  A session that
 * wants the lock is told which key it is, and does not wait.
 */
bool
name_queue_is_data_ahead(const QueueView *view, LockMode mode, int64 create_revision,
						 LockFailure *failure)
{
	int			i = queue_find_data(view, mode == LOCK_EXCLUSIVE, create_revision);

	if (i < 0)
		return false;
	failure->kind = FAILURE_DATA;
	failure->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	printable_copy(failure->message, sizeof(failure->message),
				   view->keys[i].key, view->keys[i].key_len);
	return true;
}

/*
 * Those ahead of a key of ours may only be keeping the lock, and give it up
 * now that our key is there; so no try is refused yet.  When that time is
 * over, a new read decides, because it may be us who are slow.  Entry's lock
 * held.
 */
static void
set_tries_wait(WorkerKey *key, const QueueView *view, int64 looked_at)
{
	LockKey    *shared = name_shared_key(key);
	int64		kept = (int64) queue_kept_ahead(view, key->mode == LOCK_EXCLUSIVE,
												shared->create_revision) * 1000;
	bool		is_over = kept == 0 ||
		(key->tries_wait_ended != 0 && looked_at >= key->tries_wait_ended);

	key->tries_wait_until = 0;
	if (!is_over && key->tries_wait_ended == 0)
	{
		kept = Min(Max(kept, LEAST_TRIES_WAIT), (int64) etcd_lock_request_timeout * 1000 / 2);
		key->tries_wait_until = key->queued_at + kept;
		name_look_by(key->name, key->tries_wait_until);
	}
	lock_key_set_behind(key->name->entry, shared, true, !is_over);
}

/*
 * The lock has not been given up in time, as far as we know.  Entry's lock
 * held.
 */
void
name_queue_end_tries_wait(WorkerKey *key)
{
	key->tries_wait_until = 0;
	key->tries_wait_ended = lock_key_ask_look(key->name->entry, name_shared_key(key));
}

/* A read of the queue is ahead of the watch, which has stalled if that lasts. */
static void
note_missed(WorkerName *name)
{
	if (name->missed_at == 0)
		name->missed_at = clock_now();
}

/*
 * Is it the turn of a key of ours in the queue?  Entry's lock held.
 *
 * The set of keys ahead can only shrink, so the set found here stays right as
 * long as a watch shows each deletion since (README.md, "Granting").
 */
static void
update_queued(WorkerKey *key, const QueueView *view, bool watched, int64 looked_at)
{
	WorkerName *name = key->name;
	LockKey    *shared = name_shared_key(key);
	int		   *ahead = palloc(Max(view->nkeys, 1) * sizeof(int));
	int			nahead;
	int			old_nahead = key->nahead;
	bool		was_known = key->ahead_known;
	LockFailure failure = {.kind = FAILURE_DEADLOCK,.seen_at = looked_at};

	name_forget_ahead(key);
	if (name_queue_is_data_ahead(view, key->mode, shared->create_revision, &failure))
	{
		key_step_locked(key, KEY_ON_HOPELESS, &failure);
		pfree(ahead);
		return;
	}
	switch (queue_decide(view, key->mode == LOCK_EXCLUSIVE,
						 shared->create_revision,
						 needed_read_revision(name->entry), ahead, &nahead))
	{
		case QUEUE_GRANTED:
			/* without a valid lease it waits for the next read */
			grant_key(key);
			break;

		case QUEUE_DEADLOCK:
			key_step_locked(key, KEY_ON_HOPELESS, &failure);
			break;

		case QUEUE_WAIT:
			key->ahead = MemoryContextAlloc(TopMemoryContext, nahead * sizeof(AheadKey));
			for (int i = 0; i < nahead; i++)
			{
				const QueueKey *other = &view->keys[ahead[i]];

				key->ahead[i].key = MemoryContextAlloc(TopMemoryContext, other->key_len + 1);
				memcpy(key->ahead[i].key, other->key, other->key_len);
				key->ahead[i].key_len = other->key_len;
				key->ahead[i].create_revision = other->create_revision;
			}
			key->nahead = nahead;
			if (nahead < old_nahead)
				MyWorker->ahead_gone++;
			if (nahead < old_nahead && was_known)
				note_missed(name);
			if (nahead != old_nahead)
				lock_trace_key(LOCK_TRACE_KEY_BEHIND, name->entry, shared, nahead);
			key->ahead_known = watched;
			set_tries_wait(key, view, looked_at);
			break;
	}
	pfree(ahead);
}

/*
 * Note whether other owners stand behind a key that is held, by a read of the queue.
 * Returns true if they do.  Entry's lock held.
 */
static bool
note_company(WorkerKey *key, const QueueView *view, bool tells_of_others)
{
	LockKey    *shared = name_shared_key(key);
	bool		somebody = queue_somebody_waits(view, key->mode == LOCK_EXCLUSIVE,
												shared->create_revision);

	if (somebody && shared->company == KEY_ALONE)
		note_missed(key->name);
	if (somebody)
		lock_keep_set_company(key->name->entry, shared, KEY_OTHERS_WAIT);
	else if (tells_of_others)
		lock_keep_set_company(key->name->entry, shared, KEY_ALONE);
	return somebody;
}

/* Etcd has applied a put; range is the queue as it was right after it. */
void
name_queue_key_put(WorkerKey *key, const EtcdOpResult *range, int64 revision,
				   int64 looked_at)
{
	WorkerName *name = key->name;
	LWLock	   *lock = name_lock(name);
	LockKey    *shared = name_shared_key(key);
	QueueView	view;
	const QueueKey *own;

	name_queue_view(name->name, range, &view);
	if (range->nkvs > 1)
		recent_name_note_contended(name->entry);
	name_queue_note_length(name, shared->requester_pid, range->nkvs);
	own = find_own(&view, key);
	if (own == NULL)
		/* put, but not there: its state is unknown */
		key_step_locked(key, KEY_ON_UNKNOWN, NULL);
	else
		key_step_put(key, own->create_revision);
	if (shared->state == KEY_QUEUED)
	{
		bool		watched = watch_covers(name->watch, revision) &&
			name->event_revision <= revision;

		key->queued_at = clock_now();
		key->seen_revision = revision;
		update_queued(key, &view, watched, looked_at);
		if (shared->state == KEY_QUEUED)
			lock_key_looked(name->entry, shared, looked_at);
		if (shared->state == KEY_HELD && key->keep > 0)
			(void) note_company(key, &view, watched && name->watch_puts &&
								name->put_revision <= revision);
		if (lock_key_wants_look(shared) || name->event_revision > revision ||
			(watch_is_open(name->watch) &&
			 ((shared->state == KEY_QUEUED && !key->ahead_known) ||
			  (shared->state == KEY_HELD && key->keep > 0 &&
			   shared->company == KEY_COMPANY_UNKNOWN))))
			txn_queue_range(name);
	}
	lock_table_unlock(lock);
	pfree(unconstify(QueueKey *, view.keys));
	name_settle(name);
}

#define DELETED		"its key was deleted from etcd"
#define UNSEEN		"etcd does not show its key any more"

static void
log_lost(WorkerName *name, const char *why)
{
	ereport(LOG,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 errmsg("etcd_lock: lock \"%s\" was lost: %s", name->name, why)));
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = name_key(name, i);

		if (key == NULL || !key->lost_untold)
			continue;
		break_message_key_lost(key->serial, name->name);
		key->lost_untold = false;
	}
}

/*
 * Keys with our leases' ids that no session knows would block everyone.  Those of
 * a lease that has just ended may still protect a commit, and go with it (rule
 * 12).
 */
static void
delete_orphans(WorkerName *name, const QueueView *view)
{
	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *found = &view->keys[i];
		QueueKeyParts parts;

		if (!queue_key_is_own(view, found->key, found->key_len))
			continue;
		if (key_layout_split(found->key, found->key_len, &parts) && parts.is_server &&
			old_leases_is_held((int64) parts.lease))
			continue;
		if (!name_knows_key(found->key, found->key_len))
			orphan_add(found->key, found->key_len, found->create_revision);
	}
}

/*
 * Somebody else deleted our key, and perhaps a request of ours that was
 * applied twice put it again, which is another key (rule 11).  A held lock is
 * lost; if the key was queued, the session asks again (rule 4).  Returns true
 * if a lock is lost.
 */
static bool
key_is_gone(WorkerKey *key)
{
	const LockKey *shared = name_shared_key(key);

	/* a key that was only kept had no holder */
	bool		lost = shared->state == KEY_HELD &&
		lock_key_holder(key->name->entry, shared, 0) != NULL;

	key->lost_untold = lost;
	key_step_locked(key, KEY_ON_MISSING, NULL);
	return lost;
}

/*
 * Update one of our keys after a read of the whole queue at this revision, unless the
 * response to a later read has come before.  Entry's lock held.  Returns true if a lock is
 * lost.
 */
static bool
update_key(WorkerKey *key, const QueueView *view, int64 revision, bool watched,
		   bool tells_of_others, int64 looked_at)
{
	LockEntry  *entry = key->name->entry;
	LockKey    *shared = name_shared_key(key);
	const QueueKey *own = find_own(view, key);

	if (revision < key->seen_revision)
	{
		/* it is no use for who has asked for a look since */
		if (lock_key_wants_look(shared))
			txn_queue_range(key->name);
		return false;
	}
	key->seen_revision = revision;
	if (own == NULL || own->create_revision != shared->create_revision)
		return key_is_gone(key);
	name_key_is_there(key);

	if (shared->state == KEY_QUEUED)
	{
		update_queued(key, view, watched, looked_at);
		if (shared->state == KEY_HELD)
			(void) note_company(key, view, tells_of_others);
		else
			lock_key_looked(entry, shared, looked_at);
	}
	else
		lock_key_checked(entry, shared, note_company(key, view, tells_of_others),
						 looked_at);
	return false;
}

/*
 * Does the name's watch show everything after this revision?  A response does
 * not contain events that are newer but came before it: then the queue is read
 * once more.  (When a watch is acknowledged, the queue is read again, too.)
 */
static bool
is_watched_since(WorkerName *name, int64 revision)
{
	if ((name->waiting || name_is_kept(name)) && name->event_revision > revision)
	{
		name->range_again = true;
		name->range_retry_at = clock_now() + EVENT_PAUSE;
	}
	return watch_covers(name->watch, revision) && name->event_revision <= revision;
}

/*
 * The name's queue at this revision, read linearizably by a request that was sent
 * at looked_at.
 */
void
name_queue_update(WorkerName *name, const EtcdOpResult *range, int64 revision,
				  int64 looked_at)
{
	bool		watched = is_watched_since(name, revision);
	bool		tells_of_others = watched && name->watch_puts &&
		name->put_revision <= revision;
	LWLock	   *lock;
	QueueView	view;
	bool		lost = false;

	name->ranged_at = clock_now();
	name_queue_view(name->name, range, &view);
	if (range->nkvs > 1)
		recent_name_note_contended(name->entry);
	name_queue_note_length(name, 0, range->nkvs);

	lock = name_lock(name);
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = name_key(name, i);
		const LockKey *shared = &name->entry->keys[i];

		if (key != NULL &&
			(shared->state == KEY_QUEUED || shared->state == KEY_HELD) &&
			shared->create_revision <= revision)
			lost |= update_key(key, &view, revision, watched, tells_of_others, looked_at);
	}
	delete_orphans(name, &view);
	lock_table_unlock(lock);
	pfree(unconstify(QueueKey *, view.keys));
	if (lost)
		log_lost(name, DELETED);

	name_settle(name);			/* the caller's request keeps the name alive */
}

/* Entry's lock held.  Returns true if a lock is lost. */
static bool
break_unseen(WorkerKey *key)
{
	key->lost_untold = lock_key_holder(key->name->entry, name_shared_key(key), 0) != NULL;
	key_step_locked(key, KEY_ON_BREAK, NULL);
	return key->lost_untold;
}

/*
 * The audit has not seen our key for long, nor has any read of the queue: somebody else may
 * have the lock.  In case the key is there, it is deleted.
 */
void
name_queue_unseen(WorkerKey *key)
{
	WorkerName *name = key->name;
	LWLock	   *lock = name_lock(name);
	bool		lost = name_shared_key(key)->state == KEY_HELD && break_unseen(key);

	lock_table_wake_entry(name->entry);
	lock_table_unlock(lock);
	if (lost)
		log_lost(name, UNSEEN);
}

/*
 * Etcd refuses to show the queue, and asking again will not help: no session must wait
 * for it forever.  That alone costs no lock, but where the audit has not seen our key
 * either, nothing says that it is still there: somebody else may have the lock.  In case
 * it is there, it is deleted.
 */
void
name_queue_refused(WorkerName *name, const LockFailure *failure)
{
	LWLock	   *lock = name_lock(name);
	bool		lost = false;

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = name_key(name, i);
		LockKey    *shared = &name->entry->keys[i];

		if (key == NULL)
			continue;
		(void) lock_key_tell_failure(name->entry, shared, failure);
		if (shared->state != KEY_HELD ||
			key->doubt_until == 0 || clock_now() < key->doubt_until)
			continue;
		lost |= break_unseen(key);
	}
	lock_table_wake_entry(name->entry);
	lock_table_unlock(lock);
	if (lost)
		log_lost(name, UNSEEN);
}

/* ----------------------------------------------------------------
 *		What the watch shows
 * ----------------------------------------------------------------
 */

/* A key that was ahead of ours was deleted.  Entry's lock held. */
static void
ahead_key_deleted(WorkerKey *key, const char *etcd_key, size_t len,
				  int64 mod_revision)
{
	if (!key->ahead_known)
		return;					/* the read in flight will show it */
	for (int i = 0; i < key->nahead; i++)
	{
		AheadKey   *ahead = &key->ahead[i];

		if (ahead->key_len == len && memcmp(ahead->key, etcd_key, len) == 0 &&
			mod_revision > ahead->create_revision)
		{
			pfree(ahead->key);
			key->ahead[i] = key->ahead[--key->nahead];
			MyWorker->ahead_gone++;
			if (key->nahead > 0)
				lock_trace_key(LOCK_TRACE_KEY_BEHIND, key->name->entry,
							   name_shared_key(key), key->nahead);
			break;
		}
	}
	if (key->nahead > 0)
		return;
	grant_key(key);
	if (key->keep > 0 && watch_is_open(key->name->watch))
		txn_queue_range(key->name); /* who stands behind it? */
}

/*
 * A watch shows that a key was deleted.
 *
 * Events of one revision come one by one.  If our own key goes in the same
 * revision as the one ahead of it, we may be granted the lock for the moment
 * between the two; the second one then takes the lock away again.
 */
static void
name_key_deleted(void *arg, const char *etcd_key, size_t len,
				 int64 mod_revision)
{
	WorkerName *name = arg;
	QueueView	view = {.name = name->name,.name_len = name->name_len,.owner = ""};
	LWLock	   *lock;
	bool		lost = false;

	if (queue_key_kind(&view, etcd_key, len) == QUEUE_KEY_OTHER)
		return;					/* of a deeper name */
	name->event_revision = Max(name->event_revision, mod_revision);
	name->missed_at = 0;

	lock = name_lock(name);
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = name_key(name, i);
		LockKey    *shared = &name->entry->keys[i];

		if (key == NULL ||
			(shared->state != KEY_QUEUED && shared->state != KEY_HELD))
			continue;
		if (key->etcd_key_len == len &&
			memcmp(key->etcd_key, etcd_key, len) == 0)
		{
			if (mod_revision > shared->create_revision)
				lost |= key_is_gone(key);
		}
		else if (shared->state == KEY_QUEUED)
			ahead_key_deleted(key, etcd_key, len, mod_revision);
		else if (shared->company == KEY_OTHERS_WAIT)
			txn_queue_range(name);	/* are we alone again? */
	}
	lock_table_unlock(lock);
	if (lost)
		log_lost(name, DELETED);

	/* If this frees the name, it closes the watch that calls us. */
	name_settle(name);
}

/* A key was put below the name: another owner may want what we keep. */
static void
name_key_came(void *arg, const EtcdKeyValue *kv)
{
	WorkerName *name = arg;
	QueueView	view = {
		.name = name->name,.name_len = name->name_len,
		.owner = lease_id_base_hex(),.owner_len = strlen(lease_id_base_hex())
	};
	QueueKeyKind kind = queue_key_kind(&view, kv->key, kv->key_len);
	LWLock	   *lock;

	if (kind == QUEUE_KEY_OTHER || queue_key_is_own(&view, kv->key, kv->key_len))
		return;
	name->put_revision = Max(name->put_revision, kv->mod_revision);
	name->missed_at = 0;
	recent_name_note_contended(name->entry);
	lock = name_lock(name);
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		const WorkerKey *key = name_key(name, i);

		if (key != NULL &&
			queue_conflicts(key->mode == LOCK_EXCLUSIVE, kind))
			lock_keep_set_company(name->entry, &name->entry->keys[i], KEY_OTHERS_WAIT);
	}
	lock_table_unlock(lock);
}

/* ----------------------------------------------------------------
 *		The watch
 * ----------------------------------------------------------------
 */

/* Called if we did not close it: do not open it again at once. */
static void
name_watch_ended(void *arg)
{
	WorkerName *name = arg;

	name_lost_watch(name);
	name->watch_retry_at = clock_now() + WATCH_PAUSE;
}

static void
name_watch_created(void *arg)
{
	txn_queue_range(arg);
}

static void
open_watch(WorkerName *name)
{
	static const WatchCallbacks deletions = {
		name_watch_created, name_key_deleted, name_watch_ended
	};
	static const WatchCallbacks both = {
		name_watch_created, name_key_deleted, name_watch_ended, name_key_came
	};
	EtcdRange	range = name_range(name);

	name->missed_at = 0;
	name->watch_puts = name_is_kept(name);
	name->watch = watch_open(&range, name->watch_puts ? &both : &deletions, name);
}

/*
 * Close a watch that does not show what reads have shown, because a single watch can
 * stall; another one is opened.  If that one stalls, too, it is not acknowledged, and
 * the queue is read often.
 */
void
name_queue_check_watch(WorkerName *name, int64 now)
{
	if (name->missed_at == 0 || now - name->missed_at < WATCH_LAG)
		return;
	name->missed_at = 0;
	name_close_watch(name);
}

/*
 * A name is watched while a session waits, or one of its keys is held for
 * long, or may be kept; in the last case the watch also shows others that
 * come.  Returns false if the name needs a watch that it could not get now.
 */
bool
name_queue_reconcile_watch(WorkerName *name)
{
	bool		needed = name->waiting || name->keep_watch;

	if (name->watch != NULL &&
		!(needed && watch_is_current(name->watch) &&
		  (name->watch_puts || !name_is_kept(name))))
		name_close_watch(name);
	if (!needed || name->watch != NULL)
		return true;
	if (clock_now() < name->watch_retry_at || !link_ready() ||
		(watch_count() >= HELD_KEYS_MAX_WATCHES && !(name->waiting && held_keys_give_watch())))
		return false;
	open_watch(name);
	return name->watch != NULL;
}
