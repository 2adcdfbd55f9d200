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

#include "stats.h"
#include "utils/memutils.h"
#include "wait_log.h"

/*
 * While a session waits: how often to look at the queue when there is no
 * watch, and how often even though there is one, as watches can stall.
 * Microseconds.
 */
#define POLL_INTERVAL		INT64CONST(200000)
#define DISTRUST_INTERVAL	INT64CONST(3000000)

static dlist_head names = DLIST_STATIC_INIT(names);
static dlist_head waiting_names = DLIST_STATIC_INIT(waiting_names);
static int64 next_poll = 0;
static int64 next_window_end = PG_INT64_MAX;

/*
 * How long a deletion that nobody waits for may wait for company, which makes
 * one request of two; microseconds.
 */
#define LINGER				INT64CONST(1000)

/* The name's entry, locked. */
LWLock *
name_lock(const WorkerName *name)
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
	own_keys_add(key);
	return key;
}

void
name_update_waiting(WorkerName *name)
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
	name_forget_ahead(key);
	own_keys_remove(key);
	if (key->deleted || !key->sent)
		own_keys_give_serial(key->name, key->serial);
	pfree(key->etcd_key);
	key->etcd_key = NULL;
	key->number = 0;
	key->waiting = false;
	name_update_waiting(key->name);
	name_release(key->name);
}

/* Forget the keys that were freed while the entry's lock was held. */
void
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
		LWLock	   *lock = name_lock(name);

		entry->worker_name = NULL;
		name->entry = NULL;
		(void) lock_entry_remove_if_idle(entry);
		lock_entry_unlock(lock);
		requests_forget_name(name);
	}
	name_unwatch(name);
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
			lock = name_lock(name);
			held = shared->state == KEY_HELD;
			*etcd_key = name->keys[i].etcd_key;
			*create_revision = shared->create_revision;
			lock_entry_unlock(lock);
			return held;
		}
	}
	return false;
}

/* ----------------------------------------------------------------
 *		What sessions want
 * ----------------------------------------------------------------
 */

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
			shared->serial = own_keys_take_serial(name);
			shared->epoch = deadline_epoch(&lock_shared->deadline);
			key = make_key(name, slot);
			requests_key(key, shared->is_try ? PHASE_TRY : PHASE_PUT);
			break;

		case KEY_SENT:
			if (known)
				break;
			/* it may be in etcd or not, or come there yet */
			lock_key_note_unsure(entry, shared);
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
				name_update_waiting(name);
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
				name_update_waiting(name);
				requests_range(name);
			}
			if (shared->checks_asked > shared->checks_done)
				requests_range(name);
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
 *		The end of the lease
 * ----------------------------------------------------------------
 */

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
		lock = name_lock(name);
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		{
			LockKey    *shared = &name->entry->keys[i];

			if (name->keys[i].number == 0)
				continue;
			if (name->keys[i].note != NULL)
				pfree(name->keys[i].note);	/* it goes with the lease */
			name->keys[i].note = NULL;
			if (shared->state == KEY_SENT && name->keys[i].looked)
				lock_key_note_unsure(name->entry, shared);
			if (shared->state == KEY_HELD)
				lost += lock_key_lost(name->entry, shared);
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
	lost = stats_lease_lost(lost);
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
		lock = name_lock(name);
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

		name_watch(name);
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
