/*-------------------------------------------------------------------------
 *
 * judge.c
 *	  What etcd shows of a name's queue, and what follows for our keys in it.
 *
 * Whose turn it is the pure part says (queue_rules.c).  What it is told comes from
 * the answer to a put, from looks at the whole queue, and from a watch
 * (README.md, "Granting on a DELETE event").
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "utils/memutils.h"

/* Beyond so many watches, queues are looked at regularly instead. */
#define MAX_WATCHES			128
#define WATCH_PAUSE			INT64CONST(200000)	/* microseconds */

/* Before a look that events have overtaken is repeated; microseconds. */
#define EVENT_PAUSE			INT64CONST(1000)

/*
 * Until when a name's queue is believed to have others in it, by the hash of
 * the name, as clock_now() counts.  Names that share a place only lose the
 * shorter request.
 */
#define CROWDS				4096
#define CROWD_VALID			INT64CONST(5000000)

static int64 crowded_until[CROWDS];

/*
 * Likewise until when a name's queue is believed to be too long for one answer
 * together with others'.
 */
static int64 huge_until[CROWDS];

/* ----------------------------------------------------------------
 *		What was seen lately
 * ----------------------------------------------------------------
 */

/* Were others seen in the name's queue lately? */
bool
name_is_crowded(const WorkerName *name, int64 now)
{
	return crowded_until[name->entry->hashcode % CROWDS] > now;
}

void
name_note_crowd(const WorkerName *name)
{
	crowded_until[name->entry->hashcode % CROWDS] = clock_now() + CROWD_VALID;
}

/* Must requests about the name go apart, or they fail their neighbours? */
bool
name_is_huge(const WorkerName *name, int64 now)
{
	return huge_until[name->entry->hashcode % CROWDS] > now;
}

void
name_note_huge(const WorkerName *name, bool huge)
{
	huge_until[name->entry->hashcode % CROWDS] = huge ? clock_now() + CROWD_VALID : 0;
}

/* ----------------------------------------------------------------
 *		The queue
 * ----------------------------------------------------------------
 */

/* view->keys is palloc'd. */
void
name_view(const WorkerName *name, const EtcdOpResult *range, QueueView *view)
{
	QueueKey   *keys = palloc(Max(range->nkvs, 1) * sizeof(QueueKey));

	for (int i = 0; i < range->nkvs; i++)
	{
		keys[i].key = range->kvs[i].key;
		keys[i].key_len = range->kvs[i].key_len;
		keys[i].create_revision = range->kvs[i].create_revision;
	}
	view->name = name->name;
	view->name_len = name->name_len;
	/* what is left of former epochs is ours, too (rule 14) */
	view->owner = lease_base_hex();
	view->owner_len = strlen(view->owner);
	view->keys = keys;
	view->nkeys = range->nkvs;
}

static const QueueKey *
find_own(const QueueView *view, const WorkerKey *key)
{
	size_t		len = strlen(key->etcd_key);

	for (int i = 0; i < view->nkeys; i++)
	{
		if (view->keys[i].key_len == len &&
			memcmp(view->keys[i].key, key->etcd_key, len) == 0)
			return &view->keys[i];
	}
	return NULL;
}

bool
name_has_key(const QueueView *view, const WorkerKey *key)
{
	return find_own(view, key) != NULL;
}

void
name_forget_ahead(WorkerKey *key)
{
	for (int i = 0; i < key->nahead; i++)
		pfree(key->ahead[i].key);
	if (key->ahead != NULL)
		pfree(key->ahead);
	key->ahead = NULL;
	key->nahead = 0;
	key->ahead_known = false;
}

/* Granted, if we may still believe our lease.  Entry's lock held. */
static void
grant_key(WorkerKey *key)
{
	LockKey    *shared = shared_key(key);

	if (worker_stopping ||
		!deadline_valid(&lock_shared->deadline, shared->epoch))
		return;
	lock_key_grant(key->name->entry, shared);
	key->held_since = clock_now();
	held_add(key);
	key->waiting = false;
	name_forget_ahead(key);
}

/* The read key of this server that sessions need, or 0. */
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
 * A key of ours in the queue: is it its turn?  Entry's lock held.
 *
 * Who is ahead can only become less, so the set found here stays right as
 * long as a watch tells each deletion since (README.md, "Granting").
 */
static void
judge_queued(WorkerKey *key, const QueueView *view, bool watched)
{
	WorkerName *name = key->name;
	LockKey    *shared = shared_key(key);
	int		   *ahead = palloc(Max(view->nkeys, 1) * sizeof(int));
	int			nahead;
	LockFailure failure = {.kind = FAILURE_DEADLOCK};

	name_forget_ahead(key);
	switch (queue_judge(view, key->mode == LOCK_EXCLUSIVE,
						shared->create_revision,
						needed_read_revision(name->entry), ahead, &nahead))
	{
		case QUEUE_GRANTED:
			grant_key(key);
			/* without a valid lease it waits for the next look */
			key->waiting = shared->state == KEY_QUEUED;
			break;

		case QUEUE_DEADLOCK:
			lock_key_fail(name->entry, shared, &failure);
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
			key->ahead_known = watched;
			key->waiting = true;
			break;
	}
	pfree(ahead);
}

/* Etcd has carried out a put: here is the queue as it was right behind it. */
void
name_key_put(WorkerKey *key, const EtcdOpResult *range, int64 revision)
{
	WorkerName *name = key->name;
	LWLock	   *lock = name_lock(name);
	LockKey    *shared = shared_key(key);
	QueueView	view;
	const QueueKey *own;

	name_view(name, range, &view);
	if (range->nkvs > 1)
		name_note_crowd(name);
	own = find_own(&view, key);
	if (shared->state != KEY_SENT)
		 /* condemned meanwhile; that is in the work list */ ;
	else if (own == NULL)
	{
		/* put, but not there: nothing is certain about it */
		lock_key_condemn(name->entry, shared);
		lock_entry_wake(name->entry);
	}
	else
	{
		key->create_revision = own->create_revision;
		lock_key_queue(name->entry, shared, own->create_revision);
		judge_queued(key, &view,
					 watch_covers(name->watch, revision) &&
					 name->event_revision <= revision);
		if (key->waiting && watch_is_open(name->watch) && !key->ahead_known)
			requests_range(name);
	}
	lock_entry_unlock(lock);
	pfree(unconstify(QueueKey *, view.keys));

	name_update_waiting(name);
	if (name->waiting)
		name_watch(name);
}

static void
log_lost(const WorkerName *name)
{
	ereport(LOG,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 errmsg("etcd_lock: lock \"%s\" was lost: its key was deleted from etcd",
					name->name)));
}

/* Keys with our lease's id that nobody here knows would block everyone. */
static void
delete_ghosts(WorkerName *name, const QueueView *view)
{
	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *found = &view->keys[i];

		if (!queue_key_is_own(view, found->key, found->key_len))
			continue;
		if (!own_keys_know(found->key, found->key_len))
			requests_stray(found->key, found->key_len, found->create_revision);
	}
}

/*
 * The name's queue at this revision, read linearizably.
 */
void
name_judge(WorkerName *name, const EtcdOpResult *range, int64 revision,
		   const LockChecks *checks)
{
	LWLock	   *lock = name_lock(name);
	QueueView	view;
	bool		watched;
	bool		lost = false;

	name->ranged_at = clock_now();
	name_view(name, range, &view);
	if (range->nkvs > 1)
		name_note_crowd(name);

	/*
	 * Events that came before this answer but are younger are not in it: then
	 * look once more.  (A watch that is not acknowledged yet looks again when
	 * it is.)
	 */
	watched = watch_covers(name->watch, revision) &&
		name->event_revision <= revision;
	if (name->waiting && name->event_revision > revision)
	{
		name->range_again = true;
		name->range_retry_at = clock_now() + EVENT_PAUSE;
	}

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = &name->keys[i];
		LockKey    *shared = &name->entry->keys[i];
		const QueueKey *own;

		if (key->number == 0 ||
			(shared->state != KEY_QUEUED && shared->state != KEY_HELD) ||
			shared->create_revision > revision)
			continue;

		own = find_own(&view, key);
		if (own == NULL || own->create_revision != shared->create_revision)
		{
			/*
			 * Deleted by somebody else, and perhaps put again by a request of
			 * ours that was carried out twice: that is another key (rule 11).
			 * Condemn it in any case.
			 */
			if (shared->state == KEY_HELD)
			{
				(void) lock_key_lost(name->entry, shared);
				lost = true;
			}
			else
			{
				lock_key_condemn(name->entry, shared);
				lock_entry_wake(name->entry);
			}
			if (shared->state == KEY_FREE)
				key->freed = true;
			continue;
		}

		if (shared->state == KEY_QUEUED)
		{
			judge_queued(key, &view, watched);
			lock_key_looked(name->entry, shared,
							checks->number[i] == key->number ? checks->asked[i] : 0);
		}
		else
			lock_key_checked(name->entry, shared,
							 queue_somebody_waits(&view, key->mode == LOCK_EXCLUSIVE,
												  own->create_revision),
							 checks->number[i] == key->number ? checks->asked[i] : 0);
	}
	delete_ghosts(name, &view);
	lock_entry_unlock(lock);
	pfree(unconstify(QueueKey *, view.keys));
	if (lost)
		log_lost(name);

	name_forget_freed(name);	/* the caller's request keeps the name alive */
	name_update_waiting(name);
	if (name->waiting)
		name_watch(name);
}

/* ----------------------------------------------------------------
 *		Deletions, as the watch tells them
 * ----------------------------------------------------------------
 */

/*
 * Our own key was deleted by somebody else: a place in the queue is lost, and
 * the session asks again (rule 4); a lock is lost.  Entry's lock held.
 */
static void
own_key_deleted(WorkerKey *key)
{
	LockEntry  *entry = key->name->entry;
	LockKey    *shared = shared_key(key);

	if (shared->state == KEY_HELD)
	{
		(void) lock_key_lost(entry, shared);
		key->freed = true;
	}
	else
	{
		lock_key_condemn(entry, shared);
		lock_entry_wake(entry);
	}
}

/* A key that stood ahead of ours was deleted.  Entry's lock held. */
static void
ahead_key_deleted(WorkerKey *key, const char *etcd_key, size_t len,
				  int64 mod_revision)
{
	if (!key->ahead_known)
		return;					/* the look that is under way will show it */
	for (int i = 0; i < key->nahead; i++)
	{
		AheadKey   *ahead = &key->ahead[i];

		if (ahead->key_len == len && memcmp(ahead->key, etcd_key, len) == 0 &&
			mod_revision > ahead->create_revision)
		{
			pfree(ahead->key);
			key->ahead[i] = key->ahead[--key->nahead];
			break;
		}
	}
	if (key->nahead == 0)
		grant_key(key);
}

/*
 * A watch tells that a key was deleted.
 *
 * Events of one revision come one by one.  When our own key goes in the same
 * revision as the one ahead of it, we may be granted for the moment between
 * the two; the second one then takes the lock away again.
 */
static void
name_key_deleted(void *arg, const char *etcd_key, size_t len,
				 int64 mod_revision)
{
	WorkerName *name = arg;
	QueueView	view = {.name = name->name, .name_len = name->name_len, .owner = ""};
	LWLock	   *lock;
	bool		lost = false;

	if (name->entry == NULL ||
		queue_key_kind(&view, etcd_key, len) == QUEUE_KEY_OTHER)
		return;					/* of a deeper name */
	name->event_revision = Max(name->event_revision, mod_revision);

	lock = name_lock(name);
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = &name->keys[i];
		LockKey    *shared = &name->entry->keys[i];

		if (key->number == 0 ||
			(shared->state != KEY_QUEUED && shared->state != KEY_HELD))
			continue;
		if (strlen(key->etcd_key) == len &&
			memcmp(key->etcd_key, etcd_key, len) == 0)
		{
			if (mod_revision > shared->create_revision)
			{
				lost |= shared->state == KEY_HELD;
				own_key_deleted(key);
			}
		}
		else if (shared->state == KEY_QUEUED)
			ahead_key_deleted(key, etcd_key, len, mod_revision);
	}
	lock_entry_unlock(lock);
	if (lost)
		log_lost(name);

	/* The watch that calls us is closed here if nobody waits any more. */
	name->in_flight++;
	name_forget_freed(name);
	name_update_waiting(name);
	name->in_flight--;
	name_release(name);
}

/* ----------------------------------------------------------------
 *		The watch
 * ----------------------------------------------------------------
 */

/* Nothing is known of deletions any more. */
static void
name_unwatched(WorkerName *name)
{
	name->watch = NULL;
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		name->keys[i].ahead_known = false;
}

/* Not by us: do not open it again at once. */
static void
name_watch_ended(void *arg)
{
	WorkerName *name = arg;

	name_unwatched(name);
	name->watch_retry_at = clock_now() + WATCH_PAUSE;
}

static void
name_watch_created(void *arg)
{
	requests_range(arg);
}

void
name_unwatch(WorkerName *name)
{
	if (name->watch == NULL)
		return;
	watch_close(name->watch);
	name_unwatched(name);
}

/* Watch the name, unless it is watched already or there are too many. */
void
name_watch(WorkerName *name)
{
	static const WatchCallbacks callbacks = {
		name_watch_created, name_key_deleted, name_watch_ended
	};
	EtcdRange	range;

	if (name->watch != NULL && !watch_is_current(name->watch))
		name_unwatch(name);
	if (name->watch != NULL || clock_now() < name->watch_retry_at || !link_ready())
		return;
	if (watch_count() >= MAX_WATCHES && !(name->waiting && held_give_watch()))
		return;

	range.key = name->prefix;
	range.key_len = name->name_len + 1;
	range.end = name->prefix_end;
	range.end_len = name->name_len + 1;
	name->watch = watch_open(&range, &callbacks, name);
}

/* Does the name need a watch, waiting or held for long? */
void
name_update_watch(WorkerName *name)
{
	if (name->waiting || name->keep_watch)
		name_watch(name);
	else
		name_unwatch(name);
}
