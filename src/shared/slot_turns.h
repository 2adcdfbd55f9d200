/*-------------------------------------------------------------------------
 *
 * slot_turns.h
 *	  Decides which session is next for one of a few slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SLOT_TURNS_H
#define SLOT_TURNS_H

#include "postgres.h"

/* What the slots are for. */
typedef enum SlotPool
{
	SLOT_POOL_BREAK,
	SLOT_POOL_CLAIM,
	SLOT_POOL_QUEUE
} SlotPool;

#define SLOT_NPOOLS			(SLOT_POOL_QUEUE + 1)

#define SLOT_POOL_BREAKS	1
#define SLOT_POOL_CLAIMS	8
#define SLOT_POOL_QUEUES	4
#define SLOT_POOL_MOST		8	/* of any */

extern Size slot_turns_shmem_size(void);
extern void slot_turns_request_locks(void);
extern void slot_turns_shmem_init(void);

/*
 * Wait for a slot, which this session has until it releases it.  Returns its
 * number, or -1 if there was none until give_up_at, on clock_now().
 */
extern int	slot_turns_take(SlotPool pool, int64 give_up_at);
extern void slot_turns_release(SlotPool pool, int slot);

#endif							/* SLOT_TURNS_H */
