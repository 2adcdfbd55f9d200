/*-------------------------------------------------------------------------
 *
 * left_over.c
 *	  What a server's processes have left in its shared memory.
 *
 * Some of the extension's structures are its files' own.  So these files are compiled
 * a second time here, under other names, and attach to the same memory.
 *
 *-------------------------------------------------------------------------
 */
#pragma GCC diagnostic ignored "-Wunused-function"

#define request_slot_shmem_size peek_request_slot_shmem_size
#define request_slot_shmem_init peek_request_slot_shmem_init
#define request_slot_run peek_request_slot_run
#define request_slot_take peek_request_slot_take
#define request_slot_done peek_request_slot_done
#define request_slot_failed peek_request_slot_failed
#define role_budget_shmem_size peek_role_budget_shmem_size
#define role_budget_request_locks peek_role_budget_request_locks
#define role_budget_shmem_init peek_role_budget_shmem_init
#define role_budget_take peek_role_budget_take
#define role_budget_release peek_role_budget_release
#define role_budget_begin_wait peek_role_budget_begin_wait
#define role_budget_end_wait peek_role_budget_end_wait
#define role_budget_limits_waits peek_role_budget_limits_waits
#define slot_turns_shmem_size peek_slot_turns_shmem_size
#define slot_turns_request_locks peek_slot_turns_request_locks
#define slot_turns_shmem_init peek_slot_turns_shmem_init
#define slot_turns_take peek_slot_turns_take
#define slot_turns_release peek_slot_turns_release

#include "shared/request_slot.c"
#include "shared/role_budget.c"
#include "shared/slot_turns.c"

#include "pg.h"
#include "shared/lock_holds.h"
#include "shared/lock_keys.h"
#include "shared/queue_slots.h"
#include "shared/settings.h"

#define GATE_COMMITTING		0x80000000U /* as loss_signal.c has it */

/* What there is, and one of it. */
typedef struct LeftOver
{
	int			n;
	char	   *what;
	size_t		size;
} LeftOver;

static void
add(LeftOver *left, const char *format,...)
{
	va_list		args;

	left->n++;
	va_start(args, format);
	vsnprintf(left->what, left->size, format, args);
	va_end(args);
}

static void
add_entries(LeftOver *left)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	dlist_iter	iter;
	int			free_holds = 0;

	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
		add(left, "entry \"%s\" keys %d %d %d %d, in work %d, worker's %p, in use %d",
			entry->key, entry->keys[0].state, entry->keys[1].state, entry->keys[2].state,
			entry->keys[3].state, entry->in_work, entry->worker_name,
			!dlist_is_empty(&entry->owners) + 2 * !dlist_is_empty(&entry->waiters) +
			4 * !dlist_is_empty(&entry->drainers));
	dlist_foreach(iter, &lock_shared->free_holds)
		free_holds++;
	if (free_holds != 2 * etcd_lock_max_names + 4 * MaxBackends)
		add(left, "%d free holds", free_holds);
	if (!dlist_is_empty(&lock_shared->work))
		add(left, "work for the worker");
}

static void
add_procs(LeftOver *left)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		LockProc   *proc = lock_table_proc(i);

		if (proc->wants != NULL)
			add(left, "what process %d wants", i);
		if (pg_atomic_read_u32(&proc->given_up) % 2 != 0)
			add(left, "process %d is giving up", i);
		if ((pg_atomic_read_u32(&proc->inbox.gate) & GATE_COMMITTING) != 0)
			add(left, "process %d is committing", i);
	}
}

static void
add_slots(LeftOver *left)
{
	slot_turns_shmem_init();
	for (int pool = 0; pool < SLOT_NPOOLS; pool++)
	{
		if (!dlist_is_empty(&turns->pools[pool].waiters))
			add(left, "who waits for a slot of pool %d", pool);
		for (int i = 0; i < nslots[pool]; i++)
		{
			if (turns->pools[pool].slots[i].taken)
				add(left, "slot %d of pool %d", i, pool);
		}
	}
	request_slot_shmem_init();
	for (RequestKind kind = 0; kind < REQUEST_NKINDS; kind++)
	{
		for (int i = 0; i < kinds[kind].nslots; i++)
		{
			if (get_slot(kind, i)->state != REQUEST_SLOT_FREE)
				add(left, "request %d of kind %d", i, (int) kind);
		}
	}
	for (int i = 0; i < QUEUE_SLOTS; i++)
	{
		if (queue_slots->slots[i].state != SLOT_FREE)
			add(left, "slot %d of queues", i);
	}
}

static void
add_roles(LeftOver *left)
{
	role_budget_shmem_init();
	for (int i = 0; i < MaxBackends; i++)
	{
		RoleRow    *row = &table->rows[i].row;

		if (row->sessions != 0)
			add(left, "%d sessions of role %u", row->sessions, row->role);
		for (int use = 0; use < ROLE_NUSES; use++)
		{
			if (pg_atomic_read_u32(&row->used[use]) != 0)
				add(left, "%u of use %d of role %u", pg_atomic_read_u32(&row->used[use]), use,
					row->role);
		}
	}
}

int
pg_left_over(char *what, size_t size)
{
	LeftOver	left = {0, what, size};

	*what = '\0';
	add_entries(&left);
	add_procs(&left);
	add_slots(&left);
	add_roles(&left);
	return left.n;
}
