/*-------------------------------------------------------------------------
 *
 * queue_slots.c
 *	  Slots that transfer pages of etcd's keys from the worker to a session.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/queue_slots.h"
#include "storage/shmem.h"

#define QUEUE_TRANCHE		"etcd_lock_queue"

QueueShared *queue_slots;

Size
queue_slots_shmem_size(void)
{
	return MAXALIGN(sizeof(QueueShared));
}

void
queue_slots_request_locks(void)
{
	RequestNamedLWLockTranche(QUEUE_TRANCHE, 1);
}

void
queue_slots_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	queue_slots = ShmemInitStruct("etcd_lock queue pages", sizeof(QueueShared),
								  &found);
	if (!found)
	{
		memset(queue_slots, 0, sizeof(QueueShared));
		queue_slots->lock = &GetNamedLWLockTranche(QUEUE_TRANCHE)->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}
