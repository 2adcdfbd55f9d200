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

#include <signal.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define LOCK_TRANCHE	"etcd_lock"

/*
 * How long the answer to "does another owner wait for this key?" is believed
 * when it was yes, in microseconds.  It may give up.
 */
#define FOREIGN_WAITER_VALID	INT64CONST(1000000)

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

static void
wake_procno(int procno)
{
	SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

static void
wake_list(dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
		wake_procno(dlist_container(LockHold, link, iter.cur)->procno);
}

/* Everyone who may get further by looking at the entry again. */
void
lock_entry_wake(LockEntry *entry)
{
	wake_list(&entry->owners);
	wake_list(&entry->drainers);
}

void
lock_table_wake_worker(void)
{
	uint32		procno = pg_atomic_read_u32(&lock_shared->worker_procno);

	if (procno != INVALID_WORKER)
		wake_procno((int) procno);
}

/* The worker is to look at the entry.  Entry's lock held exclusively. */
void
lock_table_push_work(LockEntry *entry)
{
	if (entry->in_work)
		return;
	entry->in_work = true;
	SpinLockAcquire(&lock_shared->work_mutex);
	dlist_push_tail(&lock_shared->work, &entry->work_link);
	SpinLockRelease(&lock_shared->work_mutex);
	lock_table_wake_worker();
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
 *		Keys.  All with the entry's lock held exclusively.
 * ----------------------------------------------------------------
 */

int
lock_entry_slot(const LockEntry *entry, uint64 number)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (pg_atomic_read_u64(unconstify(pg_atomic_uint64 *,
										  &entry->keys[i].number)) == number)
			return i;
	}
	return -1;
}

static bool
key_is_live(const LockKey *key)
{
	return key->state != KEY_FREE && key->state != KEY_DELETING;
}

static LockKey *
live_key(LockEntry *entry, LockMode mode)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		LockKey    *key = &entry->keys[i];

		if (key_is_live(key) && key->mode == mode)
			return key;
	}
	return NULL;
}

static uint64
key_number(const LockKey *key)
{
	return pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &key->number));
}

static bool
key_held_valid(const LockKey *key)
{
	return key->state == KEY_HELD &&
		deadline_valid(&lock_shared->deadline, key->epoch);
}

/*
 * Does a session need this key?  Only one that has PostgreSQL's lock counts:
 * it rides on the key, or asks etcd for it.  Were those counted that wait in
 * PostgreSQL, servers could wait for each other for ever (rule 5).
 */
bool
lock_key_needed(const LockEntry *entry, const LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, unconstify(dlist_head *, &entry->owners))
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->superseded)
			continue;
		if (hold->state == HOLD_HOLDING
			? hold->key_number == key_number(key)
			: hold->mode == key->mode)
			return true;
	}
	return false;
}

/* Does a session hold the lock by this key? */
static bool
key_has_holders(LockEntry *entry, const LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (!hold->superseded && hold->state == HOLD_HOLDING &&
			hold->key_number == key_number(key))
			return true;
	}
	return false;
}

/* Does anybody wait in PostgreSQL's lock manager for this name? */
static bool
has_waiters(LockEntry *entry)
{
	return !dlist_is_empty(&entry->waiters);
}

void
lock_key_free(LockEntry *entry, LockKey *key)
{
	key->state = KEY_FREE;
	pg_atomic_write_u64(&key->number, 0);
	if (key->releaser >= 0)
		wake_procno(key->releaser);
	lock_entry_wake(entry);
}

/*
 * From here on the key is never granted again, whatever etcd or a timeout
 * may say (rule 1).  The worker deletes it; one that was never sent is gone
 * at once.
 */
void
lock_key_condemn(LockEntry *entry, LockKey *key)
{
	Assert(key_is_live(key));

	if (key->state == KEY_WANTED)
	{
		lock_key_free(entry, key);
		return;
	}
	key->state = KEY_DELETING;
	lock_table_push_work(entry);
	lock_entry_wake(entry);
}

/*
 * A new key in the given mode for this hold; NULL when all slots are still
 * taken by dying ones, which wakes us when it changes.
 *
 * A key of one mode condemns that of the other mode unless a session needs
 * it; else it could be adopted later and tokens would run backwards (rule 6).
 */
static LockKey *
want_key(LockEntry *entry, LockHold *hold)
{
	LockKey    *other;
	LockKey    *key = NULL;

	other = live_key(entry, hold->mode == LOCK_SHARED ? LOCK_EXCLUSIVE : LOCK_SHARED);
	if (other != NULL && !lock_key_needed(entry, other))
		lock_key_condemn(entry, other);

	for (int i = 0; i < LOCK_KEYS_PER_NAME && key == NULL; i++)
	{
		if (entry->keys[i].state == KEY_FREE)
			key = &entry->keys[i];
	}
	if (key == NULL)
		return NULL;

	key->state = KEY_WANTED;
	key->mode = hold->mode;
	key->is_try = hold->is_try;
	key->asker = hold->procno;
	key->releaser = -1;
	key->epoch = deadline_epoch(&lock_shared->deadline);
	key->create_revision = 0;
	key->window_end = 0;
	key->window_timer = false;
	key->checked_until = 0;
	key->foreign_waiter = false;
	key->checks_asked = 0;
	key->checks_done = 0;
	key->has_tick = hold->has_tick;
	key->tick = hold->tick;
	key->namespace_len = hold->namespace_len;
	pg_atomic_write_u64(&key->number,
						pg_atomic_fetch_add_u64(&lock_shared->next_number, 1));
	lock_table_push_work(entry);
	return key;
}

/*
 * Etcd has the key; whether it is granted follows.  Sessions that only try
 * look again.
 */
void
lock_key_queue(LockEntry *entry, LockKey *key, int64 create_revision)
{
	Assert(key->state == KEY_SENT);
	key->state = KEY_QUEUED;
	key->create_revision = create_revision;
	lock_entry_wake(entry);
}

void
lock_key_grant(LockEntry *entry, LockKey *key)
{
	Assert(key->state == KEY_QUEUED);

	key->state = KEY_HELD;
	key->fresh = true;
	key->window_end = clock_now() + (int64) etcd_lock_handoff_window * 1000;
	lock_entry_wake(entry);
}

static void
signal_loss(int pid, int on_loss)
{
	if (on_loss == ON_LOSS_CANCEL)
		kill(pid, SIGINT);
	else if (on_loss == ON_LOSS_TERMINATE)
		kill(pid, SIGTERM);
}

/*
 * The worker and the session's own timer both come here when a deadline has
 * passed; the second one finds that it was told.  May run in a signal handler.
 */
void
lock_tell_loss(int procno, int pid, uint64 epoch, int on_loss)
{
	uint64		told = pg_atomic_read_u64(&procs[procno].told_epoch);

	if (on_loss == ON_LOSS_WARN)
		return;

	while (told < epoch)
	{
		if (pg_atomic_compare_exchange_u64(&procs[procno].told_epoch, &told, epoch))
		{
			signal_loss(pid, on_loss);
			return;
		}
	}
}

/* etcd has the key no more: whoever holds the lock by it has lost it. */
void
lock_key_lost(LockEntry *entry, LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_HOLDING && hold->key_number == key_number(key))
		{
			hold->lost = true;
			hold->key_number = 0;
			if (hold->superseded)
				continue;
			if (key->epoch == deadline_epoch(&lock_shared->deadline))
				signal_loss(hold->pid, hold->on_loss);
			else
				lock_tell_loss(hold->procno, hold->pid, hold->epoch,
							   hold->on_loss);
		}
	}
	lock_key_free(entry, key);
}

/*
 * The key will not be granted: tell those who ask for it.  One that etcd has
 * must be deleted there.
 */
void
lock_key_fail(LockEntry *entry, LockKey *key, const LockFailure *failure)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state != HOLD_ASKED || hold->mode != key->mode)
			continue;
		/* Only a try is refused; others who wait with it ask again. */
		if (failure->kind == FAILURE_REFUSED && !hold->is_try)
			continue;
		hold->failure = *failure;
	}
	if (key->state == KEY_QUEUED)
	{
		lock_key_condemn(entry, key);
		lock_entry_wake(entry);
	}
	else
		lock_key_free(entry, key);
}

/* What a look at the queue in etcd has shown about a key that is still there. */
void
lock_key_checked(LockEntry *entry, LockKey *key, bool foreign_waiter,
				 uint64 checks_done)
{
	key->foreign_waiter = foreign_waiter;
	key->checked_until = clock_now() +
		(foreign_waiter ? FOREIGN_WAITER_VALID :
		 (int64) etcd_lock_handoff_window * 1000);
	key->checks_done = Max(key->checks_done, checks_done);
	lock_entry_wake(entry);
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

/*
 * Keys that no session needs any more go back to etcd, but for one that
 * others here are about to take over: that stays for the rest of its window.
 * Returns how many were condemned, and which.
 */
static int
settle_keys(LockEntry *entry, LockReleasedKey *released)
{
	int			n = 0;

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		LockKey    *key = &entry->keys[i];

		if (!key_is_live(key) || lock_key_needed(entry, key))
			continue;
		if (has_waiters(entry) && key_held_valid(key) &&
			clock_now() < key->window_end)
		{
			if (!key->window_timer)
			{
				key->window_timer = true;
				lock_table_push_work(entry);
			}
			continue;
		}
		if (released != NULL && key->state == KEY_HELD)
		{
			released[n].key = key;
			released[n].number = key_number(key);
			n++;
			key->releaser = compat_my_procno();
		}
		lock_key_condemn(entry, key);
	}
	return n;
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
		return LOCK_WAIT_TABLE_FULL;

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
			LWLockRelease(lock);
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
	}
	LWLockRelease(lock);

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

static void
set_state(LockHold *hold, LockHoldState state)
{
	LockEntry  *entry = hold->entry;

	dlist_delete(&hold->link);
	hold->state = state;
	if (state == HOLD_DRAINING)
		dlist_push_tail(&entry->drainers, &hold->link);
	else if (state == HOLD_WAITING)
		dlist_push_tail(&entry->waiters, &hold->link);
	else
		dlist_push_tail(&entry->owners, &hold->link);
}

/*
 * Having got PostgreSQL's lock, we know that whoever is still recorded as an
 * owner in a conflicting mode has lost it: it is about to drop its record, or
 * an integer key's tag was dropped by pg_advisory_unlock() (rules 13, 18).
 */
static void
supersede_others(LockEntry *entry, LockHold *hold)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *other = dlist_container(LockHold, link, iter.cur);

		if (other->procno != hold->procno &&
			(hold->mode == LOCK_EXCLUSIVE || other->mode == LOCK_EXCLUSIVE))
			other->superseded = true;
	}
}

/*
 * The next token of the name (rule 10).  When a key has been passed on as
 * often as a token can count, sharers get the last one again; a new exclusive
 * holder never comes here then.
 */
static int64
next_token(LockEntry *entry, const LockKey *key)
{
	int64		first = key->create_revision << TOKEN_PASS_BITS;
	int64		token = Max(first, entry->last_token + 1);

	if (token > first + TOKEN_MAX_PASS)
		token = Max(first + TOKEN_MAX_PASS, entry->last_token);
	entry->last_token = token;
	return token;
}

static LockAskResult
grant(LockEntry *entry, LockHold *hold, LockKey *key)
{
	set_state(hold, HOLD_HOLDING);
	key->fresh = false;
	key->has_tick = false;
	hold->key_number = key_number(key);
	hold->epoch = key->epoch;
	hold->token = next_token(entry, key);
	hold->held_since = GetCurrentTimestamp();
	return LOCK_ASK_GRANTED;
}

static LockAskResult
wait_as_asker(LockHold *hold)
{
	if (hold->state != HOLD_ASKED)
		set_state(hold, HOLD_ASKED);
	return LOCK_ASK_WAIT;
}

static LockAskResult
refuse(LockHold *hold)
{
	hold->failure.kind = FAILURE_REFUSED;
	return LOCK_ASK_FAILED;
}

/* Does this session hold the lock in the other mode by this very key? */
static bool
rides_on(LockEntry *entry, const LockHold *hold, const LockKey *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *other = dlist_container(LockHold, link, iter.cur);

		if (other->procno == hold->procno && other != hold &&
			other->state == HOLD_HOLDING && !other->superseded &&
			other->key_number == key_number(key))
			return true;
	}
	return false;
}

static LockAskResult
want_and_wait(LockEntry *entry, LockHold *hold)
{
	wait_as_asker(hold);
	(void) want_key(entry, hold);
	return LOCK_ASK_WAIT;
}

static bool
may_pass_on(const LockEntry *entry, const LockKey *key)
{
	return entry->last_token <
		(key->create_revision << TOKEN_PASS_BITS) + TOKEN_MAX_PASS;
}

static LockAskResult
ask_exclusive(LockEntry *entry, LockHold *hold)
{
	LockKey    *key = live_key(entry, LOCK_EXCLUSIVE);

	if (key == NULL)
		return want_and_wait(entry, hold);

	switch (key->state)
	{
		case KEY_HELD:
			if (!key_held_valid(key))
				return wait_as_asker(hold); /* the worker will end the epoch */

			/*
			 * A session that shares under its own exclusive key may have it
			 * back whatever the window says: it never let go (rule 9).
			 */
			if (rides_on(entry, hold, key))
				return grant(entry, hold, key);
			if (hold->has_tick)
			{
				/* only by the key that was put together with the tick */
				if (key->has_tick && key->tick == hold->tick &&
					key->asker == hold->procno)
					return grant(entry, hold, key);
			}
			else if (key->fresh ||
					 (clock_now() < key->window_end && may_pass_on(entry, key)))
				return grant(entry, hold, key);
			lock_key_condemn(entry, key);
			return want_and_wait(entry, hold);

		case KEY_QUEUED:
			if (hold->is_try)
				return refuse(hold);
			return wait_as_asker(hold);

		default:
			/* wanted or sent for somebody who has just left: see its fate */
			return wait_as_asker(hold);
	}
}

/*
 * May a sharer join those who hold this key?  Within the window, yes; when a
 * session here waits for exclusive mode while it shares, too, as it waits for
 * the joiner (rule 8); else only if no other owner waits for the key.
 */
static LockAskResult
join(LockEntry *entry, LockHold *hold, LockKey *key)
{
	int64		now = clock_now();

	if (key->fresh || now < key->window_end)
		return grant(entry, hold, key);
	if (has_waiters(entry) &&
		dlist_head_element(LockHold, link, &entry->waiters)->upgrader)
		return grant(entry, hold, key);

	if (now < key->checked_until)
	{
		if (!key->foreign_waiter)
			return grant(entry, hold, key);
		if (!key_has_holders(entry, key))
		{
			lock_key_condemn(entry, key);
			return want_and_wait(entry, hold);
		}
		if (hold->is_try)
			return refuse(hold);

		/*
		 * It must wait until the key has drained; a key that has holders is
		 * never rotated (rule 2).
		 */
		set_state(hold, HOLD_DRAINING);
		return LOCK_ASK_DRAIN;
	}

	/* With a short window a look may be too old for others, but not for us. */
	if (hold->check_key == key_number(key) && key->checks_done >= hold->check &&
		!key->foreign_waiter)
		return grant(entry, hold, key);

	if (hold->check_key != key_number(key) || key->checks_done >= hold->check)
	{
		hold->check_key = key_number(key);
		hold->check = ++key->checks_asked;
		lock_table_push_work(entry);
	}
	return wait_as_asker(hold);
}

static LockAskResult
ask_shared(LockEntry *entry, LockHold *hold)
{
	LockKey    *write_key = live_key(entry, LOCK_EXCLUSIVE);
	LockKey    *key = live_key(entry, LOCK_SHARED);

	if (write_key != NULL && key_held_valid(write_key) &&
		rides_on(entry, hold, write_key))
		return grant(entry, hold, write_key);

	/*
	 * Others ride on an exclusive key only when somebody shares under it: a
	 * read key must not be younger than a live write key (rule 9).  An idle
	 * one is given back, so that sharers of other servers get in.
	 */
	if (key == NULL && write_key != NULL && lock_key_needed(entry, write_key))
		key = write_key;
	if (key == NULL)
		return want_and_wait(entry, hold);

	if (key_held_valid(key))
		return join(entry, hold, key);
	if (key->state == KEY_QUEUED && hold->is_try)
		return refuse(hold);
	return wait_as_asker(hold);
}

/*
 * This session has PostgreSQL's lock: may it have etcd's?  Called again each
 * time the latch is set, until the answer is not LOCK_ASK_WAIT.
 */
LockAskResult
lock_table_ask(LockHold *hold)
{
	LockEntry  *entry = hold->entry;
	LWLock	   *lock = lock_entry_lock(entry);
	LockAskResult result;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (hold->failure.kind != FAILURE_NONE)
		result = LOCK_ASK_FAILED;
	else
	{
		supersede_others(entry, hold);
		if (hold->mode == LOCK_EXCLUSIVE)
			result = ask_exclusive(entry, hold);
		else
			result = ask_shared(entry, hold);
	}
	LWLockRelease(lock);
	return result;
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
	key = live_key(entry, hold->mode);
	queued = key != NULL && key->state == KEY_QUEUED;
	LWLockRelease(lock);
	return queued;
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
	dlist_delete(&hold->link);
	n = settle_keys(entry, released);
	(void) lock_entry_remove_if_idle(entry);

	/* Under the lock, so that nobody who iterates sees it in two lists. */
	SpinLockAcquire(&lock_shared->hold_mutex);
	dlist_push_head(&lock_shared->free_holds, &hold->link);
	SpinLockRelease(&lock_shared->hold_mutex);
	LWLockRelease(lock);
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
	LWLockRelease(lock);
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
	LWLockRelease(lock);
	return done;
}
