/*-------------------------------------------------------------------------
 *
 * lock_table.c
 *	  What this server wants and has: the shared table of names, keys, holds.
 *
 * See lock_table.h for the structures and the locks, and README.md for the
 * rules that the comments here refer to.
 *
 * How many sessions wait or hold is never counted, only read off the lists:
 * a counter can leak, a list cannot (rule 18).
 *
 *-------------------------------------------------------------------------
 */
#include "lock_table.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "stats.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define LOCK_TRANCHE	"etcd_lock"

LockShared *lock_shared = NULL;

static LWLockPadded *partition_locks;	/* and behind them, status_lock */
static HTAB *entries;
static LockHold *holds;
static LockProc *procs;

/* Every function that users call begins with this. */
void
lock_require_preload(void)
{
	if (lock_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("etcd_lock is not loaded"),
				 errhint("Add etcd_lock to the configuration parameter \"%s\" and restart the server.",
						 "shared_preload_libraries")));
}

static int
max_holds(void)
{
	/*
	 * Every session waits for one lock at most; beyond that, room for each
	 * name to be held in both modes, or by two sessions in shared mode.
	 */
	return 2 * etcd_lock_max_names + 4 * MaxBackends;
}

Size
lock_table_shmem_size(void)
{
	Size		size = MAXALIGN(sizeof(LockShared));

	size = add_size(size, hash_estimate_size(etcd_lock_max_names,
											 sizeof(LockEntry)));
	size = add_size(size, mul_size(max_holds(), sizeof(LockHold)));
	size = add_size(size, mul_size(MaxBackends, sizeof(LockProc)));
	return size;
}

void
lock_table_request_locks(void)
{
	RequestNamedLWLockTranche(LOCK_TRANCHE, LOCK_PARTITIONS + 1);
}

/* Names are long and differ early or late: hash all of it, compare all of it. */
static uint32
entry_hash(const void *key, Size keysize)
{
	return string_hash(key, keysize);
}

static void *
entry_copy(void *dest, const void *src, Size keysize)
{
	strlcpy(dest, src, keysize);
	return dest;
}

static int
entry_compare(const void *key1, const void *key2, Size keysize)
{
	return strncmp(key1, key2, keysize);
}

void
lock_table_shmem_init(void)
{
	HASHCTL		info;
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);

	lock_shared = ShmemInitStruct("etcd_lock", sizeof(LockShared), &found);
	partition_locks = GetNamedLWLockTranche(LOCK_TRANCHE);
	if (!found)
	{
		memset(lock_shared, 0, sizeof(LockShared));
		deadline_init(&lock_shared->deadline);
		pg_atomic_init_u64(&lock_shared->lease, 0);
		pg_atomic_init_u64(&lock_shared->next_number, 1);
		lock_shared->next_serial = 1;
		pg_atomic_init_u32(&lock_shared->worker_procno, INVALID_WORKER);
		pg_atomic_init_u32(&lock_shared->worker_pid, 0);
		pg_atomic_init_u64(&lock_shared->worker_heartbeat, 0);
		pg_atomic_init_u32(&lock_shared->link_up, 0);
		SpinLockInit(&lock_shared->work_mutex);
		SpinLockInit(&lock_shared->hold_mutex);
		dlist_init(&lock_shared->work);
		dlist_init(&lock_shared->free_holds);
		lock_shared->status_lock = &partition_locks[LOCK_PARTITIONS].lock;
	}

	holds = ShmemInitStruct("etcd_lock holds",
							mul_size(max_holds(), sizeof(LockHold)), &found);
	if (!found)
	{
		for (int i = 0; i < max_holds(); i++)
			dlist_push_tail(&lock_shared->free_holds, &holds[i].link);
	}

	procs = ShmemInitStruct("etcd_lock processes",
							mul_size(MaxBackends, sizeof(LockProc)), &found);
	if (!found)
	{
		memset(procs, 0, MaxBackends * sizeof(LockProc));
		for (int i = 0; i < MaxBackends; i++)
			pg_atomic_init_u64(&procs[i].told_epoch, 0);
	}

	info.keysize = ETCD_LOCK_MAX_KEY + 1;
	info.entrysize = sizeof(LockEntry);
	info.hash = entry_hash;
	info.match = entry_compare;
	info.keycopy = entry_copy;
	info.num_partitions = LOCK_PARTITIONS;
	entries = ShmemInitHash("etcd_lock names", etcd_lock_max_names,
							etcd_lock_max_names, &info,
							HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
							HASH_KEYCOPY | HASH_PARTITION | HASH_FIXED_SIZE);

	LWLockRelease(AddinShmemInitLock);
}

LockProc *
lock_table_proc(int procno)
{
	return &procs[procno];
}

static LWLock *
partition_lock(uint32 hashcode)
{
	return &partition_locks[hashcode % LOCK_PARTITIONS].lock;
}

LWLock *
lock_entry_lock(const LockEntry *entry)
{
	return partition_lock(entry->hashcode);
}

HTAB *
lock_table_hash(void)
{
	return entries;
}

/* ----------------------------------------------------------------
 *		Waking
 * ----------------------------------------------------------------
 */

/*
 * Whom to wake once the entry's lock is released: a process that is woken
 * before would only wait for that lock.
 */
#define MAX_WAKES	64

static int	wakes[MAX_WAKES];
static int	nwakes = 0;

void
lock_wake_procno(int procno)
{
	SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

/* Entry's lock held. */
void
lock_wake_later(int procno)
{
	for (int i = 0; i < nwakes; i++)
	{
		if (wakes[i] == procno)
			return;
	}
	if (nwakes < MAX_WAKES)
		wakes[nwakes++] = procno;
	else
		lock_wake_procno(procno);
}

static void
wake_noted(void)
{
	int			n = nwakes;

	nwakes = 0;
	for (int i = 0; i < n; i++)
		lock_wake_procno(wakes[i]);
}

void
lock_entry_unlock(LWLock *lock)
{
	LWLockRelease(lock);
	wake_noted();
}

static void
wake_list(dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
		lock_wake_later(dlist_container(LockHold, link, iter.cur)->procno);
}

void
lock_table_lock_all(LWLockMode mode)
{
	for (int i = 0; i < LOCK_PARTITIONS; i++)
		LWLockAcquire(&partition_locks[i].lock, mode);
}

void
lock_table_unlock_all(void)
{
	for (int i = LOCK_PARTITIONS; --i >= 0;)
		LWLockRelease(&partition_locks[i].lock);
	wake_noted();
}

/* Everyone who may get further by looking at the entry again. */
void
lock_entry_wake(LockEntry *entry)
{
	wake_list(&entry->owners);
	wake_list(&entry->drainers);
}

/* By whoever holds no entry's lock. */
void
lock_table_wake_worker(void)
{
	uint32		procno = pg_atomic_read_u32(&lock_shared->worker_procno);

	if (procno != INVALID_WORKER)
		lock_wake_procno((int) procno);
}

/* The worker is to look at the entry.  Entry's lock held exclusively. */
void
lock_table_push_work(LockEntry *entry)
{
	uint32		procno;

	if (entry->in_work)
		return;
	entry->in_work = true;
	SpinLockAcquire(&lock_shared->work_mutex);
	dlist_push_tail(&lock_shared->work, &entry->work_link);
	SpinLockRelease(&lock_shared->work_mutex);

	procno = pg_atomic_read_u32(&lock_shared->worker_procno);
	if (procno != INVALID_WORKER)
		lock_wake_later((int) procno);
}

/*
 * The next entry to look at, with its lock held; NULL: none.
 *
 * in_work stays set until the lock is held, and an entry is not removed while
 * it is set, so the pointer taken off the list remains good.
 */
LockEntry *
lock_table_next_work(void)
{
	LockEntry  *entry = NULL;

	SpinLockAcquire(&lock_shared->work_mutex);
	if (!dlist_is_empty(&lock_shared->work))
		entry = dlist_container(LockEntry, work_link,
								dlist_pop_head_node(&lock_shared->work));
	SpinLockRelease(&lock_shared->work_mutex);
	if (entry == NULL)
		return NULL;

	LWLockAcquire(lock_entry_lock(entry), LW_EXCLUSIVE);
	entry->in_work = false;
	return entry;
}

/*
 * A new worker looks at everything.  The old one may have died at any point,
 * so what it knew and had yet to look at is forgotten.
 */
void
lock_table_start_work(void)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;

	lock_table_lock_all(LW_EXCLUSIVE);
	SpinLockAcquire(&lock_shared->work_mutex);
	dlist_init(&lock_shared->work);
	SpinLockRelease(&lock_shared->work_mutex);

	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		entry->worker_name = NULL;
		entry->in_work = false;
		lock_table_push_work(entry);
	}
	lock_table_unlock_all();
}

/* ----------------------------------------------------------------
 *		Entries.  All with the entry's lock held.
 * ----------------------------------------------------------------
 */

/* Does anybody wait in PostgreSQL's lock manager for this name? */
bool
lock_entry_has_waiters(LockEntry *entry)
{
	return !dlist_is_empty(&entry->waiters);
}

/* Is there a session that wants or has something under this name? */
bool
lock_entry_in_use(const LockEntry *entry)
{
	return !dlist_is_empty(unconstify(dlist_head *, &entry->owners)) ||
		!dlist_is_empty(unconstify(dlist_head *, &entry->waiters)) ||
		!dlist_is_empty(unconstify(dlist_head *, &entry->drainers));
}

bool
lock_entry_remove_if_idle(LockEntry *entry)
{
	if (entry->in_work || entry->worker_name != NULL || lock_entry_in_use(entry))
		return false;
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (entry->keys[i].state != KEY_FREE)
			return false;
	}
	hash_search_with_hash_value(entries, entry->key, entry->hashcode,
								HASH_REMOVE, NULL);
	return true;
}

/* ----------------------------------------------------------------
 *		Sessions
 * ----------------------------------------------------------------
 */

/* Note that this session wants the lock, before it asks PostgreSQL for it. */
LockWaitResult
lock_table_wait(const LockName *name, LockMode mode, bool upgrader,
				LockHold **result)
{
	uint32		hashcode = string_hash(name->key, ETCD_LOCK_MAX_KEY + 1);
	LWLock	   *lock = partition_lock(hashcode);
	LockEntry  *entry;
	LockHold   *hold = NULL;
	bool		found;

	SpinLockAcquire(&lock_shared->hold_mutex);
	if (!dlist_is_empty(&lock_shared->free_holds))
		hold = dlist_container(LockHold, link,
							   dlist_pop_head_node(&lock_shared->free_holds));
	SpinLockRelease(&lock_shared->hold_mutex);
	if (hold == NULL)
	{
		LWLockAcquire(lock, LW_EXCLUSIVE);
		stats_turned_away(hashcode);
		LWLockRelease(lock);
		return LOCK_WAIT_TABLE_FULL;
	}

	memset(hold, 0, sizeof(LockHold));
	hold->procno = compat_my_procno();
	hold->pid = MyProcPid;
	hold->mode = mode;
	hold->state = HOLD_WAITING;
	hold->upgrader = upgrader;
	hold->namespace_len = name->namespace_len;
	hold->wait_start = GetCurrentTimestamp();

	/*
	 * The table may have room for a few names more than it was asked for, but
	 * the limit is what the setting says.  Names that others are just adding
	 * may go unseen.
	 */
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = hash_search_with_hash_value(entries, name->key, hashcode,
										hash_get_num_entries(entries) < etcd_lock_max_names ?
										HASH_ENTER_NULL : HASH_FIND, &found);
	if (entry != NULL && !found)
	{
		entry->hashcode = hashcode;
		entry->tag = name->tag;
		dlist_init(&entry->owners);
		dlist_init(&entry->waiters);
		dlist_init(&entry->drainers);
		entry->last_token = 0;
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		{
			memset(&entry->keys[i], 0, sizeof(LockKey));
			pg_atomic_init_u64(&entry->keys[i].number, 0);
		}
		entry->in_work = false;
		entry->holder_wanted = false;
		entry->worker_name = NULL;
	}

	/*
	 * Two tags for one name would let two sessions of this server in at once.
	 * A tag can change only when a database of the same name was made anew.
	 */
	if (entry != NULL && memcmp(&entry->tag, &name->tag, sizeof(LOCKTAG)) != 0)
	{
		if (lock_entry_in_use(entry))
		{
			stats_turned_away(hashcode);
			lock_entry_unlock(lock);
			SpinLockAcquire(&lock_shared->hold_mutex);
			dlist_push_head(&lock_shared->free_holds, &hold->link);
			SpinLockRelease(&lock_shared->hold_mutex);
			return LOCK_WAIT_NAME_CONFLICT;
		}
		entry->tag = name->tag;
	}

	if (entry != NULL)
	{
		hold->entry = entry;
		if (upgrader)
			dlist_push_head(&entry->waiters, &hold->link);
		else
			dlist_push_tail(&entry->waiters, &hold->link);
		stats_asked(hashcode, hold);
	}
	else
		stats_turned_away(hashcode);
	lock_entry_unlock(lock);

	if (entry == NULL)
	{
		SpinLockAcquire(&lock_shared->hold_mutex);
		dlist_push_head(&lock_shared->free_holds, &hold->link);
		SpinLockRelease(&lock_shared->hold_mutex);
		return LOCK_WAIT_TABLE_FULL;
	}
	*result = hold;
	return LOCK_WAIT_OK;
}

/* Does the session already have a place in etcd's queue? */
bool
lock_table_is_queued(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_entry_lock(entry);
	LockKey    *key;
	bool		queued;

	LWLockAcquire(lock, LW_SHARED);
	key = lock_entry_live_key(entry, hold->mode);
	queued = key != NULL && key->state == KEY_QUEUED;
	lock_entry_unlock(lock);
	return queued;
}

/* The process ids of other sessions that hold the lock here: how many. */
int
lock_table_holders(LockHold *hold, int *pids, int max)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_entry_lock(entry);
	dlist_iter	iter;
	int			n = 0;

	LWLockAcquire(lock, LW_SHARED);
	dlist_foreach(iter, &entry->owners)
	{
		const LockHold *other = dlist_container(LockHold, link, iter.cur);

		if (other->state == HOLD_HOLDING && !other->superseded &&
			other->procno != hold->procno && n < max)
			pids[n++] = other->pid;
	}
	LWLockRelease(lock);
	return n;
}

/*
 * The session needs the lock no more.  Removing its record and deciding what
 * becomes of the keys is one step.  Returns how many keys are now to be
 * deleted from etcd, and which: released has room for LOCK_KEYS_PER_NAME.
 */
int
lock_table_drop(LockHold *hold, LockReleasedKey *released)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_entry_lock(entry);
	int			n;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	stats_dropped(hold, deadline_valid(&lock_shared->deadline, hold->epoch));
	dlist_delete(&hold->link);
	n = lock_entry_settle(entry, released);
	(void) lock_entry_remove_if_idle(entry);

	/* Under the lock, so that nobody who iterates sees it in two lists. */
	SpinLockAcquire(&lock_shared->hold_mutex);
	dlist_push_head(&lock_shared->free_holds, &hold->link);
	SpinLockRelease(&lock_shared->hold_mutex);
	lock_entry_unlock(lock);
	return n;
}

/* For etcd_locks only: what this session knows by itself. */
void
lock_table_set_counts(LockHold *hold, int session_count, int xact_count)
{
	hold->session_count = session_count;
	hold->xact_count = xact_count;
}

/*
 * Is the lock still ours?  Flags are only ever set, and single bytes: no lock
 * is needed to read them.
 */
bool
lock_table_hold_valid(LockHold *hold)
{
	return !hold->lost && !hold->superseded &&
		deadline_valid(&lock_shared->deadline, hold->epoch);
}

/* Ask the worker to look whether the key is still in etcd. */
uint64
lock_table_start_check(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_entry_lock(entry);
	int			slot;
	uint64		check = 0;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = hold->key_number == 0 ? -1 : lock_entry_slot(entry, hold->key_number);
	if (slot >= 0)
	{
		check = ++entry->keys[slot].checks_asked;
		lock_table_push_work(entry);
	}
	lock_entry_unlock(lock);
	return check;
}

/* Has it looked?  True as well when there is no key any more to look at. */
bool
lock_table_check_done(LockHold *hold, uint64 check)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_entry_lock(entry);
	int			slot;
	bool		done;

	LWLockAcquire(lock, LW_SHARED);
	slot = hold->key_number == 0 ? -1 : lock_entry_slot(entry, hold->key_number);
	done = slot < 0 || entry->keys[slot].checks_done >= check;
	lock_entry_unlock(lock);
	return done;
}

LockEntry *
lock_table_find(const char *key, LWLockMode mode, LWLock **lock)
{
	char		name[ETCD_LOCK_MAX_KEY + 1];
	uint32		hashcode;
	LockEntry  *entry;

	if (strlcpy(name, key, sizeof(name)) >= sizeof(name))
		return NULL;
	hashcode = string_hash(name, sizeof(name));
	*lock = partition_lock(hashcode);
	LWLockAcquire(*lock, mode);
	entry = hash_search_with_hash_value(entries, name, hashcode, HASH_FIND, NULL);
	if (entry == NULL)
		LWLockRelease(*lock);
	return entry;
}

/* ----------------------------------------------------------------
 *		Views
 * ----------------------------------------------------------------
 */

bool
lock_table_holder(const char *name, int64 create_revision, LockHolder *holder)
{
	LWLock	   *lock;
	LockEntry  *entry = lock_table_find(name, LW_SHARED, &lock);
	bool		found = false;

	memset(holder, 0, sizeof(LockHolder));
	if (entry == NULL)
		return false;
	for (int i = 0; i < LOCK_KEYS_PER_NAME && !found; i++)
	{
		const LockKey *key = &entry->keys[i];

		found = key->state != KEY_FREE && key->create_revision == create_revision;
		if (found)
			lock_key_copy_holder(entry, key, 0, holder);
	}
	LWLockRelease(lock);
	return found;
}

/* The key by which a session of this server holds the lock with this token. */
static LockKey *
find_token(LockEntry *entry, int64 token)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);
		int			slot;

		if (hold->state != HOLD_HOLDING || hold->superseded || hold->lost ||
			hold->token != token || hold->key_number == 0)
			continue;
		slot = lock_entry_slot(entry, hold->key_number);
		if (slot >= 0 && entry->keys[slot].state == KEY_HELD)
			return &entry->keys[slot];
	}
	return NULL;
}

/*
 * Take a lock of this server away from whoever has it with this token.  The
 * look at the token and the loss are one step: who got the lock since is not
 * hit.  *released is the key whose deletion can be waited for.
 */
LockBreakResult
lock_table_break(const char *key, int64 token, LockReleasedKey *released)
{
	LockBreakResult result = LOCK_BREAK_ELSEWHERE;
	LWLock	   *lock;
	LockEntry  *entry = lock_table_find(key, LW_EXCLUSIVE, &lock);
	LockKey    *found;

	if (entry == NULL)
		return result;
	found = find_token(entry, token);
	if (found != NULL)
	{
		released->key = found;
		released->number = lock_key_number(found);
		found->releaser = compat_my_procno();
		lock_key_break(entry, found);
		result = LOCK_BREAK_DONE;
	}
	for (int i = 0; i < LOCK_KEYS_PER_NAME && found == NULL; i++)
	{
		LockKey    *other = &entry->keys[i];

		if ((other->state == KEY_HELD || other->state == KEY_DELETING) &&
			other->create_revision == token >> TOKEN_PASS_BITS)
			result = LOCK_BREAK_STALE;
	}
	lock_entry_unlock(lock);
	return result;
}
