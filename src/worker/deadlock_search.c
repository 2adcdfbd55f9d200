/*-------------------------------------------------------------------------
 *
 * deadlock_search.c
 *	  From a key of this server to the sessions that its users wait for.
 *
 * The users of a key hold the lock by it, or wait in etcd's queue with it.  A
 * session that waits for the key waits for all of them, for everybody they
 * wait for on this server, and so on.  Some of these wait in etcd's queue with
 * another key: there the path leaves the server.
 *
 * We ask PostgreSQL's lock manager about one process at a time, which locks
 * all of it for some microseconds, so a search proceeds in steps.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/local_waits.h"
#include "worker/deadlock_search.h"

WorkerKey *
deadlock_search_key(const DeadlockKey *key, LockKey *shared)
{
	WorkerKey  *found = name_key_of_serial(key->serial);
	LWLock	   *lock;
	bool		is_live;

	if (found == NULL || found->key_id == 0 || name_key_is_freed(found))
		return NULL;
	lock = name_lock(found->name);
	*shared = *name_shared_key(found);
	lock_table_unlock(lock);
	is_live = (shared->state == KEY_QUEUED || shared->state == KEY_HELD) &&
		shared->create_revision == key->create_revision;
	return is_live ? found : NULL;
}

static int
find_process(const DeadlockSearch *search, int pid)
{
	for (int i = 0; i < search->nprocesses; i++)
	{
		if (search->processes[i].pid == pid)
			return i;
	}
	return -1;
}

static void
add_process(DeadlockSearch *search, int pid, int parent)
{
	DeadlockReached *reached;

	if (search->nprocesses == DEADLOCK_SEARCH_MAX_PROCESSES || find_process(search, pid) >= 0)
		return;
	reached = &search->processes[search->nprocesses++];
	reached->pid = pid;
	reached->parent = parent;
	reached->wait = 0;
}

/* Does this session hold the lock by the key, or wait with it?  Entry's lock held. */
static bool
uses(const LockHold *hold, const WorkerKey *key, const LockKey *shared)
{
	if (hold->superseded)
		return false;
	if (shared->state == KEY_HELD)
		return hold->state == HOLD_HOLDING && hold->key_id == key->key_id;
	return hold->state == HOLD_ASKED && hold->mode == key->mode && !hold->is_try;
}

/* Get the users of the key; returns how many there are. */
static int
get_users(WorkerKey *key, const LockKey *shared, int *pids)
{
	LWLock	   *lock = name_lock(key->name);
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &key->name->entry->owners)
	{
		const LockHold *hold = dlist_container(LockHold, link, iter.cur);

		if (uses(hold, key, shared) && n < DEADLOCK_SEARCH_MAX_PROCESSES)
			pids[n++] = hold->pid;
	}
	lock_table_unlock(lock);
	return n;
}

bool
deadlock_search_begin(DeadlockSearch *search, const DeadlockKey *key)
{
	LockKey		shared;
	WorkerKey  *found = deadlock_search_key(key, &shared);
	int		   *pids;
	int			n;

	if (found == NULL)
		return false;
	pids = palloc(DEADLOCK_SEARCH_MAX_PROCESSES * sizeof(int));
	n = get_users(found, &shared, pids);
	search->waits_itself = shared.state == KEY_QUEUED;
	search->nprocesses = 0;
	search->next = 0;
	search->nfound = 0;
	for (int i = 0; i < n; i++)
		add_process(search, pids[i], -1);
	pfree(pids);
	return true;
}

/*
 * Of sessions that wait with the same key, the first one stands for all: the
 * path through it is the shortest.
 */
static void
add_found(DeadlockSearch *search, int process, const LocalWait *wait)
{
	DeadlockFound *found;

	for (int i = 0; i < search->nfound; i++)
	{
		if (search->found[i].wanted.serial == wait->serial &&
			search->found[i].wanted.create_revision == wait->create_revision)
			return;
	}
	found = &search->found[search->nfound++];
	found->process = process;
	found->wanted.serial = wait->serial;
	found->wanted.create_revision = wait->create_revision;
	found->exclusive = wait->mode == LOCK_EXCLUSIVE;
}

/*
 * What does the process wait for?  Only long waits count, because most waits
 * end by themselves.  We take the number of its wait first: if it has changed
 * since, the second round shows that.
 */
static void
look_at(DeadlockSearch *search, int process)
{
	int			pid = search->processes[process].pid;
	bool		is_long;
	LocalWait	wait;
	List	   *blockers;
	ListCell   *cell;

	search->processes[process].wait = local_wait_stamp(pid, &is_long);
	if (!is_long)
		return;
	if (local_wait_get(pid, &wait) && wait.state == HOLD_ASKED)
	{
		search->processes[process].wait = wait.number;
		if (wait.serial != 0)
			add_found(search, process, &wait);
		return;
	}
	blockers = local_wait_add_blockers(NIL, pid);
	foreach(cell, blockers)
		add_process(search, lfirst_int(cell), process);
	list_free(blockers);
}

bool
deadlock_search_step(DeadlockSearch *search, int *budget)
{
	while (search->next < search->nprocesses && *budget > 0)
	{
		look_at(search, search->next++);
		(*budget)--;
	}
	return search->next == search->nprocesses;
}

int
deadlock_search_path(const DeadlockSearch *search, const DeadlockFound *found,
					 DeadlockProcess *processes)
{
	int			n = 0;
	int			at = found->process;

	for (int i = at; i >= 0; i = search->processes[i].parent)
		n++;
	if (n > DEADLOCK_PROBE_MAX_PROCESSES)
		return 0;
	for (int i = n - 1; i >= 0; i--)
	{
		memset(&processes[i], 0, sizeof(DeadlockProcess));
		processes[i].pid = search->processes[at].pid;
		processes[i].wait = search->processes[at].wait;
		at = search->processes[at].parent;
	}
	return n;
}

/* ----------------------------------------------------------------
 *		The second round
 * ----------------------------------------------------------------
 */

static bool
is_user(const DeadlockKey *held, int pid)
{
	LockKey		shared;
	WorkerKey  *key = deadlock_search_key(held, &shared);
	int		   *pids;
	int			n;
	bool		found = false;

	if (key == NULL)
		return false;
	pids = palloc(DEADLOCK_SEARCH_MAX_PROCESSES * sizeof(int));
	n = get_users(key, &shared, pids);
	for (int i = 0; i < n && !found; i++)
		found = pids[i] == pid;
	pfree(pids);
	return found;
}

static bool
is_blocked_by(int pid, int blocker)
{
	List	   *blockers = local_wait_add_blockers(NIL, pid);
	bool		found = list_member_int(blockers, blocker);

	list_free(blockers);
	return found;
}

bool
deadlock_search_confirm(const DeadlockHop *hop, const DeadlockProcess *processes)
{
	int			last = hop->nprocesses - 1;
	bool		is_long;
	LocalWait	wait;

	if (!is_user(&hop->held, processes[0].pid))
		return false;
	for (int i = 0; i < last; i++)
	{
		if (!is_blocked_by(processes[i].pid, processes[i + 1].pid) ||
			local_wait_stamp(processes[i].pid, &is_long) != processes[i].wait)
			return false;
	}
	return local_wait_get(processes[last].pid, &wait) && wait.state == HOLD_ASKED &&
		wait.number == processes[last].wait && wait.serial == hop->wanted.serial &&
		wait.create_revision == hop->wanted.create_revision;
}

bool
deadlock_search_is_behind(const DeadlockKey *wanted, uint64 lease, const DeadlockKey *other)
{
	LockKey		shared;
	const WorkerKey *key = deadlock_search_key(wanted, &shared);
	QueueKeyParts parts;

	for (int i = 0; key != NULL && i < key->nahead; i++)
	{
		if (key->ahead[i].create_revision == other->create_revision &&
			key_layout_split(key->ahead[i].key, key->ahead[i].key_len, &parts) &&
			parts.is_server && parts.lease == lease && parts.serial == other->serial)
			return true;
	}
	return false;
}

/* ----------------------------------------------------------------
 *		What they wait for
 * ----------------------------------------------------------------
 */

static void
tell_name(DeadlockProcess *process, const LocalWait *wait, const char *names_ns)
{
	process->kind = DEADLOCK_WAIT_NAME;
	process->mode = wait->mode == LOCK_EXCLUSIVE ? ExclusiveLock : ShareLock;
	if (names_ns != NULL && strlen(names_ns) == wait->namespace_len &&
		strncmp(names_ns, wait->name, wait->namespace_len) == 0)
		strlcpy(process->name, wait->name + wait->namespace_len, sizeof(process->name));
}

static void
tell_tag(DeadlockProcess *process)
{
	const BlockedProcsData *data = GetBlockerStatusData(process->pid);

	for (int i = 0; i < data->nprocs; i++)
	{
		const BlockedProcData *blocked = &data->procs[i];

		for (int j = 0; j < blocked->num_locks; j++)
		{
			const LockInstanceData *lock = &data->locks[blocked->first_lock + j];

			if (lock->pid != blocked->pid || lock->waitLockMode == NoLock)
				continue;
			process->kind = DEADLOCK_WAIT_TAG;
			process->mode = lock->waitLockMode;
			process->tag[0] = lock->locktag.locktag_field1;
			process->tag[1] = lock->locktag.locktag_field2;
			process->tag[2] = lock->locktag.locktag_field3;
			process->tag[3] = lock->locktag.locktag_field4;
			process->tag[4] = lock->locktag.locktag_type;
			process->tag[5] = lock->locktag.locktag_lockmethodid;
			return;
		}
	}
}

void
deadlock_search_tell(DeadlockProcess *processes, int n, const char *names_ns)
{
	LocalWait	wait;

	for (int i = 0; i < n; i++)
	{
		if (local_wait_get(processes[i].pid, &wait))
			tell_name(&processes[i], &wait, names_ns);
		else
			tell_tag(&processes[i]);
	}
}
