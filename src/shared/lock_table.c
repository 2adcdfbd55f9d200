/*-------------------------------------------------------------------------
 *
 * lock_table.c
 *	  What this server wants and holds: the shared table of names, keys and holds.
 *
 * See lock_table.h for the structures and the locks, and README.md for the
 * rules that the comments here refer to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "shared/lock_table.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#define LOCK_TRANCHE	"etcd_lock"

LockShared *lock_shared = NULL;

static LWLockPadded *partition_locks;
static HTAB *entries;
static LockHold *holds;
static LockProc *procs;

/* Each function that users call calls this first. */
void
lock_table_require_preload(void)
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
	 * Every session waits for at most one lock; beyond that, there is room
	 * for each name to be held in both modes, or by two sessions in shared
	 * mode.
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
	RequestNamedLWLockTranche(LOCK_TRANCHE, LOCK_PARTITIONS);
}

/* Names are long and may differ anywhere, so hash and compare all of them. */
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

static void
init_shared(void)
{
	bool		found;

	lock_shared = ShmemInitStruct("etcd_lock", sizeof(LockShared), &found);
	if (found)
		return;
	memset(lock_shared, 0, sizeof(LockShared));
	deadline_init(&lock_shared->deadline);
	pg_atomic_init_u64(&lock_shared->lease, 0);
	pg_atomic_init_u64(&lock_shared->single_lease, 0);
	pg_atomic_init_u64(&lock_shared->duplicate_lease, 0);
	pg_atomic_init_u64(&lock_shared->primary_lease, 0);
	pg_atomic_init_u64(&lock_shared->next_key_id, 1);
	pg_atomic_init_u64(&lock_shared->next_tag, 1);
	lock_shared->next_serial = 1;
	pg_atomic_init_u32(&lock_shared->worker_procno, INVALID_WORKER);
	pg_atomic_init_u32(&lock_shared->worker_pid, 0);
	pg_atomic_init_u64(&lock_shared->worker_heartbeat, 0);
	pg_atomic_init_u64(&lock_shared->worker_started_at, 0);
	pg_atomic_init_u32(&lock_shared->link_up, 0);
	pg_atomic_init_u64(&lock_shared->audited_at, 0);
	pg_atomic_init_u64(&lock_shared->room_next, 0);
	pg_atomic_init_u32(&lock_shared->room_expected, 0);
	SpinLockInit(&lock_shared->work_mutex);
	SpinLockInit(&lock_shared->hold_mutex);
	dlist_init(&lock_shared->work);
	dlist_init(&lock_shared->free_holds);
}

static void
init_holds(void)
{
	bool		found;

	holds = ShmemInitStruct("etcd_lock holds",
							mul_size(max_holds(), sizeof(LockHold)), &found);
	for (int i = 0; i < max_holds() && !found; i++)
		dlist_push_tail(&lock_shared->free_holds, &holds[i].link);
}

static void
init_procs(void)
{
	bool		found;

	procs = ShmemInitStruct("etcd_lock processes",
							mul_size(MaxBackends, sizeof(LockProc)), &found);
	if (found)
		return;
	memset(procs, 0, MaxBackends * sizeof(LockProc));
	for (int i = 0; i < MaxBackends; i++)
	{
		LossInbox  *inbox = &procs[i].inbox;

		pg_atomic_init_u32(&inbox->gate, 0);
		pg_atomic_init_u32(&inbox->on_loss, ON_LOSS_WARN);
		pg_atomic_init_u32(&inbox->losses, 0);
		pg_atomic_init_u64(&inbox->signalled_epoch, 0);
		SpinLockInit(&inbox->mutex);
		pg_atomic_init_u32(&procs[i].given_up, 0);
	}
}

static void
init_entries(void)
{
	HASHCTL		info;

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
}

void
lock_table_shmem_init(void)
{
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	init_shared();
	init_holds();
	init_procs();
	init_entries();
	partition_locks = GetNamedLWLockTranche(LOCK_TRANCHE);
	LWLockRelease(AddinShmemInitLock);
}

LockProc *
lock_table_proc(int procno)
{
	Assert(procno >= 0 && procno < MaxBackends);
	return &procs[procno];
}

uint32
lock_table_hashcode(const char *key)
{
	return string_hash(key, ETCD_LOCK_MAX_KEY + 1);
}

LWLock *
lock_table_partition_of(uint32 hashcode)
{
	return &partition_locks[hashcode % LOCK_PARTITIONS].lock;
}

LWLock *
lock_table_partition(const LockEntry *entry)
{
	return lock_table_partition_of(entry->hashcode);
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
 * The processes to wake once the entry's lock is released: a process that is
 * woken earlier would only wait for that lock.
 */
#define MAX_WAKES	64

static int	wakes[MAX_WAKES];
static int	nwakes = 0;
static bool gathering = false;

void
lock_table_wake(int procno)
{
	SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

/* Entry's lock held. */
void
lock_table_wake_later(int procno)
{
	for (int i = 0; i < nwakes; i++)
	{
		if (wakes[i] == procno)
			return;
	}
	if (nwakes < MAX_WAKES)
		wakes[nwakes++] = procno;
	else
		lock_table_wake(procno);
}

static void
wake_noted(void)
{
	int			n = nwakes;

	if (gathering)
		return;
	nwakes = 0;
	for (int i = 0; i < n; i++)
		lock_table_wake(wakes[i]);
}

void
lock_table_gather(bool begin)
{
	gathering = begin;
	wake_noted();
}

void
lock_table_unlock(LWLock *lock)
{
	LWLockRelease(lock);
	wake_noted();
}

static void
wake_list(dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
		lock_table_wake_later(dlist_container(LockHold, link, iter.cur)->procno);
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

/*
 * Wake all sessions that may proceed when they check the entry again: not those that
 * hold the lock, unless they wait for a check.
 */
void
lock_table_wake_entry(LockEntry *entry)
{
	dlist_iter	iter;

	ASSERT_ENTRY_LOCKED(entry);
	dlist_foreach(iter, &entry->owners)
	{
		const LockHold *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state != HOLD_HOLDING || hold->awaits_check)
			lock_table_wake_later(hold->procno);
	}
	wake_list(&entry->drainers);
}

/* The caller holds no entry's lock. */
void
lock_table_wake_worker(void)
{
	uint32		procno = pg_atomic_read_u32(&lock_shared->worker_procno);

	if (procno != INVALID_WORKER)
		lock_table_wake((int) procno);
}

/* Have the worker look at the entry.  Entry's lock held exclusively. */
void
lock_table_push_work(LockEntry *entry)
{
	uint32		procno;

	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (entry->in_work)
		return;
	entry->in_work = true;
	SpinLockAcquire(&lock_shared->work_mutex);
	dlist_push_tail(&lock_shared->work, &entry->work_link);
	SpinLockRelease(&lock_shared->work_mutex);

	procno = pg_atomic_read_u32(&lock_shared->worker_procno);
	if (procno != INVALID_WORKER)
		lock_table_wake_later((int) procno);
}

/*
 * Returns the next entry to look at, with its lock held, or NULL.
 *
 * in_work stays set until the lock is held, and an entry is not removed while
 * it is set, so the pointer taken from the list remains valid.
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

	LWLockAcquire(lock_table_partition(entry), LW_EXCLUSIVE);
	entry->in_work = false;
	return entry;
}

/*
 * A new worker looks at everything.  The old one may have died at any point,
 * so forget what it knew and had yet to look at.
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

/* Does any session wait in PostgreSQL's lock manager for this name? */
bool
lock_table_has_waiters(LockEntry *entry)
{
	ASSERT_ENTRY_LOCKED(entry);
	return !dlist_is_empty(&entry->waiters);
}

/* Is there a session that wants or holds a lock of this name? */
bool
lock_table_in_use(const LockEntry *entry)
{
	ASSERT_ENTRY_LOCKED(entry);
	return !dlist_is_empty(unconstify(dlist_head *, &entry->owners)) ||
		!dlist_is_empty(unconstify(dlist_head *, &entry->waiters)) ||
		!dlist_is_empty(unconstify(dlist_head *, &entry->drainers));
}

/*
 * The lock tag of a new entry: that of a text name is a number that no other
 * name gets as long as the server runs.
 */
static LOCKTAG
new_tag(const LockName *name)
{
	LOCKTAG		tag = name->tag;
	uint64		number;

	if (tag.locktag_field4 == LOCK_TAG_TEXT)
	{
		number = pg_atomic_fetch_add_u64(&lock_shared->next_tag, 1);
		SET_LOCKTAG_ADVISORY(tag, InvalidOid, (uint32) (number >> 32),
							 (uint32) number, LOCK_TAG_TEXT);
	}
	return tag;
}

/*
 * Returns the name's entry, which is created if there is none, or NULL if
 * there is no room.
 *
 * The hash table may have room for a few more names than requested, but the
 * setting is the limit.  Names that others are just adding may go unnoticed.
 */
LockEntry *
lock_table_enter(const LockName *name, uint32 hashcode)
{
	HASHACTION	action = hash_get_num_entries(entries) < etcd_lock_max_names ?
		HASH_ENTER_NULL : HASH_FIND;
	bool		found;
	LockEntry  *entry = hash_search_with_hash_value(entries, name->key, hashcode,
													action, &found);

	Assert(LWLockHeldByMeInMode(lock_table_partition_of(hashcode), LW_EXCLUSIVE));
	if (entry == NULL || found)
		return entry;
	entry->hashcode = hashcode;
	entry->tag = new_tag(name);
	dlist_init(&entry->owners);
	dlist_init(&entry->waiters);
	dlist_init(&entry->drainers);
	entry->last_token = 0;
	entry->others_seen_at = 0;
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		memset(&entry->keys[i], 0, sizeof(LockKey));
		pg_atomic_init_u64(&entry->keys[i].key_id, 0);
	}
	entry->in_work = false;
	entry->holder_wanted = false;
	entry->probe_wanted = false;
	entry->worker_name = NULL;
	return entry;
}

bool
lock_table_remove_if_idle(LockEntry *entry)
{
	ASSERT_ENTRY_LOCKED_EXCLUSIVELY(entry);
	if (entry->in_work || entry->worker_name != NULL || lock_table_in_use(entry))
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

LockEntry *
lock_table_find(const char *key, LWLockMode mode, LWLock **lock)
{
	char		name[ETCD_LOCK_MAX_KEY + 1];
	uint32		hashcode;
	LockEntry  *entry;

	if (strlcpy(name, key, sizeof(name)) >= sizeof(name))
		return NULL;
	hashcode = string_hash(name, sizeof(name));
	*lock = lock_table_partition_of(hashcode);
	LWLockAcquire(*lock, mode);
	entry = hash_search_with_hash_value(entries, name, hashcode, HASH_FIND, NULL);
	if (entry == NULL)
		LWLockRelease(*lock);
	return entry;
}

/* ----------------------------------------------------------------
 *		Holds
 * ----------------------------------------------------------------
 */

LockHold *
lock_table_take_hold(void)
{
	LockHold   *hold = NULL;

	SpinLockAcquire(&lock_shared->hold_mutex);
	if (!dlist_is_empty(&lock_shared->free_holds))
		hold = dlist_container(LockHold, link,
							   dlist_pop_head_node(&lock_shared->free_holds));
	SpinLockRelease(&lock_shared->hold_mutex);
	return hold;
}

void
lock_table_free_hold(LockHold *hold)
{
	SpinLockAcquire(&lock_shared->hold_mutex);
	dlist_push_head(&lock_shared->free_holds, &hold->link);
	SpinLockRelease(&lock_shared->hold_mutex);
}
