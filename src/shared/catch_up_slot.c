/*-------------------------------------------------------------------------
 *
 * catch_up_slot.c
 *	  How sessions of a standby learn how far the primary had written.
 *
 * All sessions ask the same question, so they share one slot: a session draws
 * a number, and an answer to a later question also answers its own.  A session
 * that gives up has nothing to clean up.
 *
 * CatchUpSlot.mutex protects the whole slot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/catch_up_slot.h"
#include "shared/wait_events.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"

typedef struct CatchUpSlot
{
	slock_t		mutex;
	ConditionVariable answered;
	uint64		last_asked;
	uint64		last_answered;
	CatchUpAnswer answer;
} CatchUpSlot;

static CatchUpSlot *slot = NULL;

Size
catch_up_slot_shmem_size(void)
{
	return MAXALIGN(sizeof(CatchUpSlot));
}

void
catch_up_slot_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	slot = ShmemInitStruct("etcd_lock catch-up", catch_up_slot_shmem_size(), &found);
	if (!found)
	{
		memset(slot, 0, sizeof(CatchUpSlot));
		SpinLockInit(&slot->mutex);
		ConditionVariableInit(&slot->answered);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

uint64
catch_up_slot_ask(void)
{
	uint64		question;

	SpinLockAcquire(&slot->mutex);
	question = ++slot->last_asked;
	SpinLockRelease(&slot->mutex);
	lock_table_wake_worker();
	return question;
}

bool
catch_up_slot_get(uint64 question, CatchUpAnswer *answer)
{
	bool		answered;

	SpinLockAcquire(&slot->mutex);
	answered = slot->last_answered >= question;
	if (answered)
		*answer = slot->answer;
	SpinLockRelease(&slot->mutex);
	return answered;
}

void
catch_up_slot_sleep(long timeout_ms)
{
	(void) ConditionVariableTimedSleep(&slot->answered, timeout_ms, wait_events_catch_up());
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

uint64
catch_up_slot_open_question(void)
{
	uint64		question;

	SpinLockAcquire(&slot->mutex);
	question = slot->last_answered < slot->last_asked ? slot->last_asked : 0;
	SpinLockRelease(&slot->mutex);
	return question;
}

void
catch_up_slot_answer(uint64 question, const CatchUpAnswer *answer)
{
	SpinLockAcquire(&slot->mutex);
	Assert(question <= slot->last_asked);
	if (slot->last_answered < question)
	{
		slot->last_answered = question;
		slot->answer = *answer;
	}
	SpinLockRelease(&slot->mutex);
	ConditionVariableBroadcast(&slot->answered);
}
