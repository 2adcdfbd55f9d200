/*-------------------------------------------------------------------------
 *
 * name.c
 *	  The worker's own data for a name and for its keys.
 *
 * A WorkerName lives as long as the name has keys, or something retains it: a
 * request that refers to it, or a function that still needs it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/lease_id.h"
#include "shared/lock_keep.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/name.h"
#include "worker/orphans.h"
#include "worker/serials.h"

struct Names
{
	MemoryContext name_context; /* of WorkerName */
	MemoryContext key_context;	/* of WorkerKey */
	dlist_head	all;			/* WorkerName.link */
	dlist_head	waiting;		/* waiting_link */
	dlist_head	watch_changed;	/* watch_link */
	dlist_head	watch_missing;	/* likewise */
	int			nwaiting;
	pairingheap looks;			/* look_node, the earliest first */
	pairingheap holder_looks;	/* WorkerKey.holder_look_node, likewise */
	int			nkept;			/* names with keep_watch */
	dlist_head	audited;		/* WorkerKey.audit_link */
	int			naudited;
	size_t		audited_bytes;	/* of their names in etcd */
};

#define MyNames (MyWorker->names)

static int
compare_looks(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		x = pairingheap_const_container(WorkerName, look_node, a)->look_at;
	int64		y = pairingheap_const_container(WorkerName, look_node, b)->look_at;

	return x < y ? 1 : x > y ? -1 : 0;
}

static int
compare_holder_looks(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		x = pairingheap_const_container(WorkerKey, holder_look_node, a)->holder_look_at;
	int64		y = pairingheap_const_container(WorkerKey, holder_look_node, b)->holder_look_at;

	return x < y ? 1 : x > y ? -1 : 0;
}

void
name_create(void)
{
	MyNames = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Names));
	MyNames->name_context = SlabContextCreate(TopMemoryContext, "etcd_lock names", SLAB_DEFAULT_BLOCK_SIZE,
											  sizeof(WorkerName));
	MyNames->key_context = SlabContextCreate(TopMemoryContext, "etcd_lock keys", SLAB_DEFAULT_BLOCK_SIZE,
											 sizeof(WorkerKey));
	dlist_init(&MyNames->all);
	dlist_init(&MyNames->waiting);
	dlist_init(&MyNames->watch_changed);
	dlist_init(&MyNames->watch_missing);
	dlist_init(&MyNames->audited);
	MyNames->looks.ph_compare = compare_looks;
	MyNames->holder_looks.ph_compare = compare_holder_looks;
}

dlist_head *
name_list_all(void)
{
	return &MyNames->all;
}

dlist_head *
name_list_waiting(void)
{
	return &MyNames->waiting;
}

dlist_head *
name_list_watch_changed(void)
{
	return &MyNames->watch_changed;
}

dlist_head *
name_list_watch_missing(void)
{
	return &MyNames->watch_missing;
}

WorkerName *
name_first_look(void)
{
	return pairingheap_is_empty(&MyNames->looks) ? NULL :
		pairingheap_container(WorkerName, look_node, pairingheap_first(&MyNames->looks));
}

WorkerKey *
name_first_holder_look(void)
{
	return pairingheap_is_empty(&MyNames->holder_looks) ? NULL :
		pairingheap_container(WorkerKey, holder_look_node,
							  pairingheap_first(&MyNames->holder_looks));
}

dlist_head *
name_list_audited(void)
{
	return &MyNames->audited;
}

int
name_count_audited(void)
{
	return MyNames->naudited;
}

size_t
name_audited_bytes(void)
{
	return MyNames->audited_bytes;
}

int
name_count_kept_watches(void)
{
	return MyNames->nkept;
}

int
name_count_waiting(void)
{
	return MyNames->nwaiting;
}

LWLock *
name_lock(const WorkerName *name)
{
	LWLock	   *lock = lock_table_partition(name->entry);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	return lock;
}

/* ----------------------------------------------------------------
 *		Beginning
 * ----------------------------------------------------------------
 */

WorkerName *
name_make(LockEntry *entry)
{
	WorkerName *name = MemoryContextAllocZero(MyNames->name_context, sizeof(WorkerName));

	Assert(entry->worker_name == NULL);
	name->entry = entry;
	name->name = entry->key;
	name->name_len = strlen(entry->key);
	dlist_push_tail(&MyNames->all, &name->link);
	entry->worker_name = name;
	return name;
}

WorkerKey *
name_make_key(WorkerName *name, int slot)
{
	WorkerKey  *key = name->keys[slot];
	const LockKey *shared = &name->entry->keys[slot];
	char		etcd_key[KEY_LAYOUT_SIZE];

	Assert(name_key(name, slot) == NULL);
	Assert(shared->state != KEY_FREE && shared->state != KEY_WANTED);
	Assert(shared->serial != 0);
	if (key == NULL)
		key = name->keys[slot] = MemoryContextAlloc(MyNames->key_context, sizeof(WorkerKey));
	memset(key, 0, sizeof(WorkerKey));
	key->name = name;
	key->slot = slot;
	key->key_id = lock_key_id(shared);
	key->serial = shared->serial;
	key->mode = shared->mode;
	key->keep = shared->keep;
	key->create_revision = shared->create_revision;
	key_layout_lock(etcd_key, name->name, key->mode == LOCK_EXCLUSIVE,
					(uint64) lease_id(), key->serial, key->keep);
	key->etcd_key = MemoryContextStrdup(TopMemoryContext, etcd_key);
	key->etcd_key_len = strlen(etcd_key);
	serial_set_owner(key->serial, key);
	return key;
}

EtcdRange
name_range(const WorkerName *name)
{
	char	   *start = palloc(2 * (name->name_len + 2));
	char	   *end = start + name->name_len + 2;
	EtcdRange	range = {start, name->name_len + 1, end, name->name_len + 1};

	key_layout_queue_start(start, name->name);
	key_layout_queue_end(end, name->name);
	return range;
}

/* ----------------------------------------------------------------
 *		Changes
 * ----------------------------------------------------------------
 */

void
name_leave_queue(WorkerKey *key)
{
	if (key->queued)
		dlist_delete(&key->queue_link);
	key->queued = false;
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

void
name_forget_note(WorkerKey *key)
{
	if (key->note != NULL)
		pfree(key->note);
	key->note = NULL;
}

void
name_audit_key(WorkerKey *key)
{
	Assert(!key->is_audited);
	key->is_audited = true;
	key->audited_at = clock_now();
	dlist_push_tail(&MyNames->audited, &key->audit_link);
	MyNames->naudited++;
	MyNames->audited_bytes += key->etcd_key_len;
}

static void
leave_audit(WorkerKey *key)
{
	if (!key->is_audited)
		return;
	key->is_audited = false;
	dlist_delete(&key->audit_link);
	MyNames->naudited--;
	MyNames->audited_bytes -= key->etcd_key_len;
}

static void
set_watch_list(WorkerName *name, WatchList list)
{
	if (name->watch_list == list)
		return;
	if (name->watch_list != WATCH_LIST_NONE)
		dlist_delete(&name->watch_link);
	if (list != WATCH_LIST_NONE)
		dlist_push_tail(list == WATCH_LIST_CHANGED ? &MyNames->watch_changed :
						&MyNames->watch_missing, &name->watch_link);
	name->watch_list = list;
}

void
name_watch_changed(WorkerName *name)
{
	set_watch_list(name, WATCH_LIST_CHANGED);
}

void
name_watch_reconciled(WorkerName *name, bool missing)
{
	set_watch_list(name, missing ? WATCH_LIST_MISSING : WATCH_LIST_NONE);
}

/* Count the name as waiting while a key of it is queued. */
static void
update_waiting(WorkerName *name)
{
	bool		waiting = false;

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		waiting |= name_key(name, i) != NULL && name->entry->keys[i].state == KEY_QUEUED;
	if (waiting == name->waiting)
		return;

	if (waiting)
		dlist_push_tail(&MyNames->waiting, &name->waiting_link);
	else
		dlist_delete(&name->waiting_link);
	name->waiting = waiting;
	MyNames->nwaiting += waiting ? 1 : -1;
	name_watch_changed(name);
}

void
name_set_keep_watch(WorkerName *name, bool keep)
{
	if (name->keep_watch == keep)
		return;
	name->keep_watch = keep;
	MyNames->nkept += keep ? 1 : -1;
	name_watch_changed(name);
}

void
name_set_look_at(WorkerName *name, int64 when)
{
	if (name->look_at == when)
		return;
	if (name->look_at != 0)
		pairingheap_remove(&MyNames->looks, &name->look_node);
	name->look_at = when;
	if (when != 0)
		pairingheap_add(&MyNames->looks, &name->look_node);
}

void
name_set_holder_look(WorkerKey *key, int64 when)
{
	if (key->holder_look_at != 0)
		pairingheap_remove(&MyNames->holder_looks, &key->holder_look_node);
	key->holder_look_at = when;
	if (when != 0)
		pairingheap_add(&MyNames->holder_looks, &key->holder_look_node);
}

/* At the latest. */
void
name_look_by(WorkerName *name, int64 when)
{
	if (name->look_at == 0 || when < name->look_at)
		name_set_look_at(name, when);
}

bool
name_is_kept(const WorkerName *name)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		const WorkerKey *key = name_key(name, i);

		if (key != NULL && key->keep > 0)
			return true;
	}
	return false;
}

void
name_lost_watch(WorkerName *name)
{
	name->watch = NULL;
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (name_key(name, i) != NULL)
			name->keys[i]->ahead_known = false;
	}
	if (name_is_kept(name))
	{
		LWLock	   *lock = name_lock(name);

		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
			lock_keep_set_company(name->entry, &name->entry->keys[i], KEY_COMPANY_UNKNOWN);
		lock_table_unlock(lock);
	}
	name_watch_changed(name);
}

void
name_close_watch(WorkerName *name)
{
	if (name->watch == NULL)
		return;
	watch_close(name->watch);
	name_lost_watch(name);
}

/* ----------------------------------------------------------------
 *		The end
 * ----------------------------------------------------------------
 */

/* Does this name still have a key that needs a watch? */
static bool
has_watched_key(const WorkerName *name)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		const WorkerKey *key = name_key(name, i);

		if (key != NULL && key->settled)
			return true;
	}
	return name_is_kept(name);
}

/* The key is gone.  Its note, if that was not deleted with it, is an orphan. */
static void
leave_held(WorkerKey *key)
{
	if (key->note != NULL)
	{
		orphan_add(key->note, strlen(key->note), 0);
		name_forget_note(key);
	}
	if (key->held)
	{
		dlist_delete(&key->held_link);
		name_set_holder_look(key, 0);
	}
	key->held = false;
	key->settled = false;
	key->keep = 0;
	if (!has_watched_key(key->name))
		name_set_keep_watch(key->name, false);
}

/* Free the name, and release its entry, if nothing needs it. */
static void
release_if_unused(WorkerName *name)
{
	LockEntry  *entry = name->entry;
	LWLock	   *lock;

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (name_key(name, i) != NULL)
			return;
	}
	if (name->in_flight > 0)
		return;

	lock = name_lock(name);
	entry->worker_name = NULL;
	(void) lock_table_remove_if_idle(entry);
	lock_table_unlock(lock);

	Assert(!name->waiting);
	if (name->range_queued)
		dlist_delete(&name->range_link);
	name_close_watch(name);
	name_set_keep_watch(name, false);
	name_set_look_at(name, 0);
	set_watch_list(name, WATCH_LIST_NONE);
	dlist_delete(&name->link);
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		if (name->keys[i] != NULL)
			pfree(name->keys[i]);
	}
	pfree(name);
}

/*
 * A request that is applied late must not find another key of the same name:
 * key_machine.c says when the serial may be used again (rule 15).
 */
static void
forget_key(WorkerKey *key)
{
	WorkerName *name = key->name;

	Assert(key->key_id != 0);
	name_leave_queue(key);
	leave_audit(key);
	leave_held(key);
	name_forget_ahead(key);
	serial_set_owner(key->serial, NULL);
	if (key->reuse_serial)
		serial_give_back(name->entry->hashcode, key->serial);
	pfree(key->etcd_key);
	key->etcd_key = NULL;
	key->key_id = 0;
	update_waiting(name);
	release_if_unused(name);
}

void
name_settle(WorkerName *name)
{
	ASSERT_ENTRY_NOT_LOCKED(name->entry);
	name_retain(name);
	update_waiting(name);
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		WorkerKey  *key = name_key(name, i);

		if (key != NULL && name_key_is_freed(key))
			forget_key(key);
	}
	name_release(name);
}

void
name_retain(WorkerName *name)
{
	name->in_flight++;
}

void
name_release(WorkerName *name)
{
	Assert(name->in_flight > 0);
	name->in_flight--;
	release_if_unused(name);
}

/* ----------------------------------------------------------------
 *		Finding
 * ----------------------------------------------------------------
 */

WorkerKey *
name_key_of_serial(uint64 serial)
{
	return serial_owner(serial);
}

WorkerKey *
name_key_of(const char *etcd_key, size_t len)
{
	QueueKeyParts parts;
	WorkerKey  *key;

	if (!key_layout_split(etcd_key, len, &parts) || !parts.is_server)
		return NULL;
	key = serial_owner(parts.serial);
	if (key == NULL || key->etcd_key_len != len ||
		memcmp(key->etcd_key, etcd_key, len) != 0)
		return NULL;
	return key;
}

bool
name_knows_key(const char *etcd_key, size_t len)
{
	const WorkerKey *key = name_key_of(etcd_key, len);

	return key != NULL && !name_key_is_freed(key);
}
