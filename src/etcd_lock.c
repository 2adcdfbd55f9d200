/*-------------------------------------------------------------------------
 *
 * etcd_lock.c
 *	  Entry point of the module: settings, shared memory, the worker.
 *
 * If the module is not in shared_preload_libraries, it loads silently, so that
 * CREATE EXTENSION and pg_dump work; each function then reports what is
 * missing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "session/commit.h"
#include "session/hooks.h"
#include "session/loss.h"
#include "shared/catch_up_slot.h"
#include "shared/compat.h"
#include "shared/counters.h"
#include "shared/deadlock_report.h"
#include "shared/hot_names.h"
#include "shared/lease_id.h"
#include "shared/link_status.h"
#include "shared/lock_table.h"
#include "shared/queue_slots.h"
#include "shared/request_slot.h"
#include "shared/role_budget.h"
#include "shared/settings.h"
#include "shared/slot_turns.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "worker/worker.h"

COMPAT_MODULE_MAGIC("etcd_lock", ETCD_LOCK_VERSION);

PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(add_size(lock_table_shmem_size(),
									request_slot_shmem_size()));
	RequestAddinShmemSpace(add_size(counters_shmem_size(), link_status_shmem_size()));
	RequestAddinShmemSpace(add_size(queue_slots_shmem_size(), catch_up_slot_shmem_size()));
	RequestAddinShmemSpace(add_size(hot_names_shmem_size(), deadlock_report_shmem_size()));
	RequestAddinShmemSpace(add_size(slot_turns_shmem_size(), role_budget_shmem_size()));
	lock_table_request_locks();
	link_status_request_locks();
	queue_slots_request_locks();
	slot_turns_request_locks();
	role_budget_request_locks();
	deadlock_report_request_locks();
}

/* Runs again, in the postmaster, after the crash of a backend. */
static void
shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	lock_table_shmem_init();
	hot_names_shmem_init();
	lease_id_shmem_init();
	slot_turns_shmem_init();
	role_budget_shmem_init();
	request_slot_shmem_init();
	catch_up_slot_shmem_init();
	deadlock_report_shmem_init();
	counters_shmem_init();
	queue_slots_shmem_init();
	link_status_shmem_init();
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	settings_define(loss_assign_on_loss);
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	commit_init();
	loss_init();
	hooks_init();
	worker_register();
}
