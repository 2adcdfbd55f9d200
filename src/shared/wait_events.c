/*-------------------------------------------------------------------------
 *
 * wait_events.c
 *	  Wait events of sessions and the worker, for pg_stat_activity.
 *
 * The first call for each event in a process may allocate shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/compat.h"
#include "shared/wait_events.h"

static uint32
wait_event(uint32 *event, const char *name)
{
	if (*event == 0)
		*event = compat_wait_event(name);
	return *event;
}

uint32
wait_events_acquire(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockAcquire");
}

uint32
wait_events_release(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockRelease");
}

uint32
wait_events_check(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockCheck");
}

uint32
wait_events_catch_up(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockCatchUp");
}

uint32
wait_events_worker(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockWorkerMain");
}
