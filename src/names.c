/*-------------------------------------------------------------------------
 *
 * names.c
 *	  What the worker does about each name: make etcd agree with the table.
 *
 * The shared table says what sessions want.  For each name that has keys the
 * worker has a WorkerName of its own, with what it knows about these keys on
 * their way to etcd and back.  It lives as long as the name has keys, or a
 * request refers to it.
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "break.h"
#include "etcd_holder.h"
#include "stats.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "wait_log.h"

/*
 * While a session waits: how often to look at the queue when there is no
 * watch, and how often even though there is one, as watches can stall.
 * Microseconds.
 */
#define POLL_INTERVAL		INT64CONST(200000)
#define DISTRUST_INTERVAL	INT64CONST(3000000)

/* Beyond so many watches, queues are looked at regularly instead. */
#define MAX_WATCHES			128
#define WATCH_PAUSE			INT64CONST(200000)

/* Before a look that events have overtaken is repeated. */
#define EVENT_PAUSE			INT64CONST(1000)

static dlist_head names = DLIST_STATIC_INIT(names);
static dlist_head waiting_names = DLIST_STATIC_INIT(waiting_names);
static int	nkeys = 0;
static int64 next_poll = 0;
static int64 next_window_end = PG_INT64_MAX;

/* Finds a WorkerKey by the number in its name in etcd. */
typedef struct SerialEntry
{
	uint64		serial;			/* hash key */
	WorkerKey  *key;
} SerialEntry;

static HTAB *keys_by_serial = NULL;

/*
 * Serials of keys that are surely gone, to be used again: etcd's index keeps
 * every key that ever was until the next compaction, and goes through all of
 * them when it looks at a queue.  So a name gets its own one back if possible,
 * which waits for it at the place that the name's hash tells; 0: none.
 */
#define OWN_SERIALS			16384

static uint64 own_serials[OWN_SERIALS];
static uint64 *free_serials = NULL;
static int	nfree_serials = 0;
static int	max_free_serials = 0;

/*
 * Until when a name's queue is believed to have others in it, by the hash of
 * the name, as clock_now() counts.  Names that share a place only lose the
 * shorter request.
 */
#define CROWDS				4096
#define CROWD_VALID			INT64CONST(5000000)

static int64 crowded_until[CROWDS];

/*
 * How long a deletion that nobody waits for may wait for company, which makes
 * one request of two; microseconds.
 */
#define LINGER				INT64CONST(1000)

/*
 * Likewise until when a name's queue is believed to be too long for one answer
 * together with others'.
 */
static int64 huge_until[CROWDS];

static void watch_name(WorkerName *name);
static void unwatch_name(WorkerName *name);

static LockKey *
shared_key(const WorkerKey *key)
{
	return &key->name->entry->keys[key - key->name->keys];
}

static LWLock *
lock_name(const WorkerName *name)
{
	LWLock	   *lock = lock_entry_lock(name->entry);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	return lock;
}

/* ----------------------------------------------------------------
 *		Making and freeing
 * ----------------------------------------------------------------
 */

static void *
top_alloc(size_t size)
{
	return MemoryContextAlloc(TopMemoryContext, size);
}

static WorkerName *
make_name(LockEntry *entry)
{
	WorkerName *name = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(WorkerName));

	name->entry = entry;
	name->name_len = strlen(entry->key);
	name->name = MemoryContextStrdup(TopMemoryContext, entry->key);
	name->prefix = top_alloc(name->name_len + 2);
	name->prefix_end = top_alloc(name->name_len + 2);
	sprintf(name->prefix, "%s/", entry->key);
	sprintf(name->prefix_end, "%s%c", entry->key, '/' + 1);
	dlist_push_tail(&names, &name->link);
	entry->worker_name = name;
	return name;
}

static uint64 *
own_serial(const WorkerName *name)
{
	return &own_serials[name->entry->hashcode % OWN_SERIALS];
}

static uint64
take_serial(const WorkerName *name)
{
	uint64	   *own = own_serial(name);
	uint64		serial = *own;

	*own = 0;
	if (serial != 0)
		return serial;
	if (nfree_serials > 0)
		return free_serials[--nfree_serials];
	return lock_shared->next_serial++;
}

static void
give_serial(const WorkerName *name, uint64 serial)
{
	uint64	   *own = own_serial(name);

	if (*own == 0)
	{
		*own = serial;
		return;
	}
	if (nfree_serials == max_free_serials)
	{
		max_free_serials = Max(2 * max_free_serials, 64);
		free_serials = free_serials == NULL
			? top_alloc(max_free_serials * sizeof(uint64))
			: repalloc(free_serials, max_free_serials * sizeof(uint64));
	}
	free_serials[nfree_serials++] = serial;
}

static SerialEntry *
serial_entry(uint64 serial, HASHACTION action)
{
	if (keys_by_serial == NULL)
	{
		HASHCTL		info;

		info.keysize = sizeof(uint64);
		info.entrysize = sizeof(SerialEntry);
		info.hcxt = TopMemoryContext;
		keys_by_serial = hash_create("etcd_lock keys by serial", 256, &info,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	return hash_search(keys_by_serial, &serial, action, NULL);
}

static WorkerKey *
make_key(WorkerName *name, int slot)
{
	WorkerKey  *key = &name->keys[slot];
	LockKey    *shared = &name->entry->keys[slot];

	memset(key, 0, sizeof(WorkerKey));
	key->name = name;
	key->number = pg_atomic_read_u64(&shared->number);
	key->serial = shared->serial;
	key->mode = shared->mode;
	key->create_revision = shared->create_revision;
	key->etcd_key = MemoryContextStrdup(TopMemoryContext,
										psprintf("%s/%s/%s-%012llu",
												 name->name,
												 key->mode == LOCK_SHARED ? "read" : "write",
												 lease_hex(),
												 (unsigned long long) key->serial));
	serial_entry(key->serial, HASH_ENTER)->key = key;
	nkeys++;
	return key;
}

/* The key, if it is still the one with this number. */
WorkerKey *
names_find_key(uint64 serial, uint64 number)
{
	SerialEntry *entry = serial_entry(serial, HASH_FIND);

	return entry == NULL || entry->key->number != number ? NULL : entry->key;
}

static void
forget_ahead(WorkerKey *key)
{
	for (int i = 0; i < key->nahead; i++)
		pfree(key->ahead[i].key);
	if (key->ahead != NULL)
		pfree(key->ahead);
	key->ahead = NULL;
	key->nahead = 0;
	key->ahead_known = false;
}

static void
update_waiting(WorkerName *name)
{
	bool		waiting = false;

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		waiting |= name->keys[i].number != 0 && name->keys[i].waiting;

	if (waiting && !name->waiting)
	{
		if (dlist_is_empty(&waiting_names))
			next_poll = clock_now() + POLL_INTERVAL;
		dlist_push_tail(&waiting_names, &name->waiting_link);
	}
	else if (!waiting && name->waiting)
		dlist_delete(&name->waiting_link);
	name->waiting = waiting;
	if (!waiting)
		name_update_watch(name);
}

/*
 * The shared key is free already.  May be the end of the name.
 *
 * Its serial is used again if it never left us, or if etcd has confirmed the
 * end of this very key: requests that may yet be carried out late must not
 * find another one under the same name (rule 15).
 */
void
name_free_key(WorkerKey *key)
{
	requests_forget_key(key);
	held_remove(key);
	forget_ahead(key);
	(void) serial_entry(key->serial, HASH_REMOVE);
	if (key->deleted || !key->sent)
		give_serial(key->name, key->serial);
	pfree(key->etcd_key);
	key->etcd_key = NULL;
	key->number = 0;
	key->waiting = false;
	nkeys--;
	update_waiting(key->name);
	name_release(key->name);
}

/* Forget the keys that were freed while the entry's lock was held. */
static void
name_forget_freed(WorkerName *name)
{
	name->in_flight++;			/* until we are through with it */
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (name->keys[i].number != 0 && name->keys[i].freed)
			name_free_key(&name->keys[i]);
	}
	name->in_flight--;
	name_release(name);
}

/*
 * When the name has no keys any more and no request refers to it, let go of
 * the entry and of the name.
 */
void
name_release(WorkerName *name)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (name->keys[i].number != 0)
			return;
	}
	if (name->in_flight > 0)
		return;
	if (name->entry != NULL)
	{
		LockEntry  *entry = name->entry;
		LWLock	   *lock = lock_name(name);

		entry->worker_name = NULL;
		name->entry = NULL;
		(void) lock_entry_remove_if_idle(entry);
		lock_entry_unlock(lock);
		requests_forget_name(name);
	}
	unwatch_name(name);
	dlist_delete(&name->link);
	pfree(name->name);
	pfree(name->prefix);
	pfree(name->prefix_end);
	pfree(name);
}

/* The key with this number, if etcd has granted it. */
bool
names_find_held(uint64 number, const char **etcd_key, int64 *create_revision)
{
	dlist_iter	iter;

	dlist_foreach(iter, &names)
	{
		WorkerName *name = dlist_container(WorkerName, link, iter.cur);

		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		{
			LockKey    *shared;
			LWLock	   *lock;
			bool		held;

			if (name->entry == NULL || name->keys[i].number != number)
				continue;
			shared = &name->entry->keys[i];
			lock = lock_name(name);
			held = shared->state == KEY_HELD;
			*etcd_key = name->keys[i].etcd_key;
			*create_revision = shared->create_revision;
			lock_entry_unlock(lock);
			return held;
		}
	}
	return false;
}

int
names_count_keys(void)
{
	return nkeys;
}

/* ----------------------------------------------------------------
 *		What sessions want
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

/*
 * A key is taken up: from here on only the worker frees it, or a condemned one
 * is deleted first.  A key in a state that we know nothing of was left by a
 * worker that died.
 */
static void
take_key(WorkerName *name, int slot)
{
	LockEntry  *entry = name->entry;
	LockKey    *shared = &entry->keys[slot];
	WorkerKey  *key = &name->keys[slot];
	bool		known = key->number != 0;

	switch (shared->state)
	{
		case KEY_FREE:
			break;

		case KEY_WANTED:
			shared->state = KEY_SENT;
			shared->serial = take_serial(name);
			shared->epoch = deadline_epoch(&lock_shared->deadline);
			key = make_key(name, slot);
			requests_key(key, shared->is_try ? PHASE_TRY : PHASE_PUT);
			break;

		case KEY_SENT:
			if (known)
				break;
			/* it may be in etcd or not, or come there yet */
			lock_key_condemn(entry, shared);
			lock_entry_wake(entry);
			/* FALLTHROUGH */
		case KEY_DELETING:
			if (!known)
			{
				key = make_key(name, slot);
				key->sent = true;
			}
			if (key->waiting)
			{
				key->waiting = false;
				update_waiting(name);
			}
			if (key->sent)
			{
				if (key->phase != PHASE_DELETE)
					requests_key(key, PHASE_DELETE);
				if (shared->releaser < 0 && !name_is_crowded(name, clock_now()))
					key->linger_until = clock_now() + LINGER;
			}
			else
			{
				lock_key_free(entry, shared);
				key->freed = true;
			}
			break;

		case KEY_QUEUED:
			if (!known)
			{
				key = make_key(name, slot);
				key->sent = true;
				key->waiting = true;
				update_waiting(name);
				requests_range(name);
			}
			break;

		case KEY_HELD:
			if (!known)
			{
				key = make_key(name, slot);
				key->sent = true;
				key->held_since = clock_now();
				held_add(key);
				requests_range(name);
			}
			if (shared->checks_asked > shared->checks_done)
				requests_range(name);
			if (shared->window_timer)
			{
				if (name->window_end == 0 || shared->window_end < name->window_end)
					name->window_end = shared->window_end;
				next_window_end = Min(next_window_end, name->window_end);
			}
			break;
	}
}

/* Look at what sessions have changed since. */
void
names_take_work(void)
{
	LockEntry  *entry;

	while ((entry = lock_table_next_work()) != NULL)
	{
		WorkerName *name = entry->worker_name;
		LWLock	   *lock = lock_entry_lock(entry);
		HolderQuestion question = {0};
		bool		has_keys = false;

		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
			has_keys |= entry->keys[i].state != KEY_FREE;
		if (has_keys && name == NULL)
			name = make_name(entry);
		for (int i = 0; name != NULL && i < LOCK_KEYS_PER_NAME; i++)
			take_key(name, i);
		if (name == NULL)
			(void) lock_entry_remove_if_idle(entry);
		else
			wait_log_take(name, &question);
		lock_entry_unlock(lock);

		if (name != NULL)
			name_forget_freed(name);
		wait_log_ask_etcd(&question);
	}
}

/* ----------------------------------------------------------------
 *		What etcd shows
 * ----------------------------------------------------------------
 */

/* view->keys is palloc'd. */
void
name_view(const WorkerName *name, const EtcdOpResult *range, QueueView *view)
{
	QueueKey   *keys = palloc(Max(range->nkvs, 1) * sizeof(QueueKey));
	static char owner[32];

	for (int i = 0; i < range->nkvs; i++)
	{
		keys[i].key = range->kvs[i].key;
		keys[i].key_len = range->kvs[i].key_len;
		keys[i].create_revision = range->kvs[i].create_revision;
	}
	snprintf(owner, sizeof(owner), "%s-", lease_hex());
	view->name = name->name;
	view->name_len = name->name_len;
	view->owner = owner;
	view->owner_len = strlen(owner);
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

/* The number behind the last dash of a key's name; 0: not one of ours. */
static uint64
serial_of(const char *key, size_t len)
{
	size_t		i = len;

	while (i > 0 && key[i - 1] >= '0' && key[i - 1] <= '9')
		i--;
	if (i == 0 || i == len || key[i - 1] != '-')
		return 0;
	return strtou64(key + i, NULL, 10);
}

/* The key with the serial that this name ends in. */
static WorkerKey *
find_serial(const char *etcd_key, size_t len)
{
	uint64		serial = serial_of(etcd_key, len);
	SerialEntry *entry = serial == 0 ? NULL : serial_entry(serial, HASH_FIND);

	return entry == NULL ? NULL : entry->key;
}

static WorkerKey *
find_key(const char *etcd_key, size_t len)
{
	WorkerKey  *key = find_serial(etcd_key, len);

	if (key == NULL || strlen(key->etcd_key) != len ||
		memcmp(key->etcd_key, etcd_key, len) != 0)
		return NULL;
	return key;
}

/* Is it a key that we have, or are about to put or delete? */
bool
names_know_key(const char *etcd_key, size_t len)
{
	WorkerKey  *key = find_key(etcd_key, len);

	return key != NULL && !key->freed;
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
	forget_ahead(key);
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

	forget_ahead(key);
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
			key->ahead = top_alloc(nahead * sizeof(AheadKey));
			for (int i = 0; i < nahead; i++)
			{
				const QueueKey *other = &view->keys[ahead[i]];

				key->ahead[i].key = top_alloc(other->key_len + 1);
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
	LWLock	   *lock = lock_name(name);
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

	update_waiting(name);
	if (name->waiting)
		watch_name(name);
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
		if (!names_know_key(found->key, found->key_len))
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
	LWLock	   *lock = lock_name(name);
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
				lock_key_lost(name->entry, shared);
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
			judge_queued(key, &view, watched);
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
	update_waiting(name);
	if (name->waiting)
		watch_name(name);
}

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
		lock_key_lost(entry, shared);
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

	lock = lock_name(name);
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
	update_waiting(name);
	name->in_flight--;
	name_release(name);
}

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

static void
unwatch_name(WorkerName *name)
{
	if (name->watch == NULL)
		return;
	watch_close(name->watch);
	name_unwatched(name);
}

/* Watch the name, unless it is watched already or there are too many. */
static void
watch_name(WorkerName *name)
{
	static const WatchCallbacks callbacks = {
		name_watch_created, name_key_deleted, name_watch_ended
	};
	EtcdRange	range;

	if (name->watch != NULL && !watch_is_current(name->watch))
		unwatch_name(name);
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
		watch_name(name);
	else
		unwatch_name(name);
}

/* ----------------------------------------------------------------
 *		What the lease shows
 * ----------------------------------------------------------------
 */

/*
 * Is it named as make_key() names keys?  Others may hang keys on our lease, or
 * the list be one of other keys: what we did not put we do not delete.
 */
static bool
is_named_by_us(const char *key, size_t len)
{
	const char *owner = lease_hex();
	size_t		owner_len = strlen(owner);
	QueueKeyParts parts;

	return queue_split_key(key, len, &parts) && parts.is_server &&
		len - parts.last > owner_len &&
		memcmp(key + parts.last, owner, owner_len) == 0 &&
		key[parts.last + owner_len] == '-';
}

/*
 * Etcd's list of the keys on our lease, asked for at listed_at.  One of ours that
 * we do not know is deleted.  One that was held already when we asked and is
 * missing is looked for in the queue itself, which decides: the list may come
 * from a deposed leader.
 */
void
names_compare_keys(const EtcdLeaseResult *listed, int64 listed_at)
{
	HASH_SEQ_STATUS status;
	SerialEntry *entry;

	for (int i = 0; i < listed->nkeys; i++)
	{
		const EtcdKeyValue *kv = &listed->keys[i];
		WorkerKey  *key;

		if (held_is_note(kv->key, kv->key_len))
		{
			key = find_serial(kv->key, kv->key_len);
			if (key == NULL || !held_knows_note(key, kv->key))
				requests_stray(kv->key, kv->key_len, 0);
			continue;
		}
		if (break_is_message(kv->key, kv->key_len))
		{
			/* the watch on the sentinel has missed it */
			break_log_message(kv->key, NULL);
			requests_stray(kv->key, kv->key_len, 0);
			continue;
		}
		if (!is_named_by_us(kv->key, kv->key_len))
			continue;			/* the sentinel, for one */
		key = find_key(kv->key, kv->key_len);
		if (key == NULL)
			requests_stray(kv->key, kv->key_len, 0);
		else
			key->listed = true;
	}

	if (keys_by_serial == NULL)
		return;
	hash_seq_init(&status, keys_by_serial);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		WorkerKey  *key = entry->key;

		if (key->held_since != 0 && key->held_since < listed_at &&
			!key->listed && key->name->entry != NULL)
			requests_range(key->name);
		key->listed = false;
	}
}

/*
 * A message of another server's: it has broken a lock of ours.  Whether that is
 * so, a look at the queue shows.
 */
void
names_key_broken(const EtcdKeyValue *message)
{
	WorkerKey  *key = find_serial(message->key, message->key_len);
	EtcdHolder	by;

	break_log_message(message->key, etcd_holder_decode(message->value, message->value_len, &by) ?
					  &by : NULL);
	if (key != NULL && key->name->entry != NULL)
		requests_range(key->name);
}

/*
 * The lease is over: whoever holds a lock by it has lost it.  The epoch ends
 * first, so that nothing can look valid meanwhile (rule 3).
 */
void
names_end_epoch(const char *reason)
{
	dlist_mutable_iter iter;
	int			lost = 0;

	deadline_end_epoch(&lock_shared->deadline);
	dlist_foreach_modify(iter, &names)
	{
		WorkerName *name = dlist_container(WorkerName, link, iter.cur);
		LWLock	   *lock;

		if (name->entry == NULL)
			continue;
		lock = lock_name(name);
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		{
			LockKey    *shared = &name->entry->keys[i];

			if (name->keys[i].number == 0)
				continue;
			if (name->keys[i].note != NULL)
				pfree(name->keys[i].note);	/* it goes with the lease */
			name->keys[i].note = NULL;
			if (shared->state == KEY_HELD)
			{
				lock_key_lost(name->entry, shared);
				lost++;
			}
			else if (shared->state != KEY_FREE)
				lock_key_free(name->entry, shared);
			name->keys[i].freed = true;
		}
		lock_entry_unlock(lock);

		name->event_revision = 0;	/* the next etcd may count from anywhere */
		name_forget_freed(name);
	}
	if (reason == NULL)
		return;
	stats_lease_lost();
	ereport(lost > 0 ? WARNING : LOG,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 errmsg("etcd_lock: lease lost: %s", reason),
			 errdetail_plural("%d lock was lost with it.",
							  "%d locks were lost with it.", lost, lost)));
}

/* ----------------------------------------------------------------
 *		Time
 * ----------------------------------------------------------------
 */

/* Keys that were kept for sessions that have not come for them. */
static void
end_windows(int64 now)
{
	dlist_mutable_iter iter;

	next_window_end = PG_INT64_MAX;
	dlist_foreach_modify(iter, &names)
	{
		WorkerName *name = dlist_container(WorkerName, link, iter.cur);
		LWLock	   *lock;

		if (name->window_end == 0 || name->entry == NULL)
			continue;
		if (name->window_end > now)
		{
			next_window_end = Min(next_window_end, name->window_end);
			continue;
		}
		name->window_end = 0;
		lock = lock_name(name);
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		{
			LockKey    *key = &name->entry->keys[i];

			if (key->state != KEY_HELD || !key->window_timer)
				continue;
			if (key->window_end > now)
			{
				/* the other one's */
				name->window_end = key->window_end;
				next_window_end = Min(next_window_end, key->window_end);
				continue;
			}
			key->window_timer = false;
			if (!lock_key_needed(name->entry, key))
				lock_key_condemn(name->entry, key);
		}
		lock_entry_unlock(lock);
	}
}

void
names_tick(void)
{
	int64		now = clock_now();
	dlist_mutable_iter iter;

	if (now >= next_window_end)
		end_windows(now);

	if (dlist_is_empty(&waiting_names) || now < next_poll)
		return;
	next_poll = now + POLL_INTERVAL;
	dlist_foreach_modify(iter, &waiting_names)
	{
		WorkerName *name = dlist_container(WorkerName, waiting_link, iter.cur);

		watch_name(name);
		if (!watch_is_open(name->watch) || now - name->ranged_at >= DISTRUST_INTERVAL)
			requests_range(name);
	}
}

int64
names_next_time(void)
{
	return Min(next_window_end,
			   dlist_is_empty(&waiting_names) ? PG_INT64_MAX : next_poll);
}

/* Does any session here hold, or want, a lock? */
bool
names_in_use(void)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	bool		in_use = false;

	lock_table_lock_all(LW_SHARED);
	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
		in_use |= lock_entry_in_use(entry);
	lock_table_unlock_all();
	return in_use;
}
