/*-------------------------------------------------------------------------
 *
 * slot_turns.c
 *	  Decides which session is next for one of a few slots.
 *
 * Rare requests reach the worker through a few slots for each kind.  A session
 * that finds none waits in a list.  A session that no longer needs its slot
 * hands it over to one in that list, so that no newcomer can take it: to the
 * first one whose role was not served last.  No role gets all slots of a kind,
 * or more than its etcd_lock.max_requests_per_role.  So a role whose sessions
 * do nothing else delays those of another role for no longer than one request
 * takes.
 *
 * SlotTurns.lock protects everything here.  It is held for a walk along the list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "miscadmin.h"
#include "shared/clock.h"
#include "shared/compat.h"
#include "shared/lock_table.h"
#include "shared/settings.h"
#include "shared/slot_turns.h"
#include "shared/wait_events.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#define TURNS_TRANCHE		"etcd_lock_turns"

/* How often a session checks even if nobody wakes it; milliseconds. */
#define TURNS_LOOK			100

#define NO_SLOT				(-1)

/* A session that waits, by process number. */
typedef struct SlotWaiter
{
	dlist_node	link;			/* in Pool.waiters, as long as it has no slot */
	Oid			role;
	int			max;			/* slots that its role may have */
	int			slot;			/* NO_SLOT, or the one that it was given */
} SlotWaiter;

typedef struct PoolSlot
{
	bool		taken;
	Oid			role;			/* if so: whose */
} PoolSlot;

typedef struct Pool
{
	dlist_head	waiters;		/* in the order in which they came */
	Oid			last_role;		/* which was served last */
	PoolSlot	slots[SLOT_POOL_MOST];
} Pool;

typedef struct SlotTurns
{
	LWLock	   *lock;
	Pool		pools[SLOT_NPOOLS];
	SlotWaiter	waiters[FLEXIBLE_ARRAY_MEMBER];
} SlotTurns;

static SlotTurns *turns = NULL;

static const int nslots[SLOT_NPOOLS] = {
	[SLOT_POOL_BREAK] = SLOT_POOL_BREAKS,
	[SLOT_POOL_CLAIM] = SLOT_POOL_CLAIMS,
	[SLOT_POOL_QUEUE] = SLOT_POOL_QUEUES
};

StaticAssertDecl(SLOT_POOL_BREAKS <= SLOT_POOL_MOST && SLOT_POOL_CLAIMS <= SLOT_POOL_MOST &&
				 SLOT_POOL_QUEUES <= SLOT_POOL_MOST, "too many slots");

Size
slot_turns_shmem_size(void)
{
	return MAXALIGN(add_size(offsetof(SlotTurns, waiters),
							 mul_size(MaxBackends, sizeof(SlotWaiter))));
}

void
slot_turns_request_locks(void)
{
	RequestNamedLWLockTranche(TURNS_TRANCHE, 1);
}

void
slot_turns_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	turns = ShmemInitStruct("etcd_lock turns", slot_turns_shmem_size(), &found);
	if (!found)
	{
		memset(turns, 0, slot_turns_shmem_size());
		turns->lock = &GetNamedLWLockTranche(TURNS_TRANCHE)->lock;
		for (int i = 0; i < SLOT_NPOOLS; i++)
			dlist_init(&turns->pools[i].waiters);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* May this role have another slot?  Lock held. */
static bool
may_have(SlotPool pool, const SlotWaiter *waiter)
{
	int			n = 0;

	for (int i = 0; i < nslots[pool]; i++)
	{
		const PoolSlot *slot = &turns->pools[pool].slots[i];

		n += slot->taken && slot->role == waiter->role;
	}
	return n < waiter->max;
}

static void
give(SlotPool pool, int slot, SlotWaiter *waiter)
{
	turns->pools[pool].slots[slot].taken = true;
	turns->pools[pool].slots[slot].role = waiter->role;
	turns->pools[pool].last_role = waiter->role;
	waiter->slot = slot;
}

/* Take a slot that is free and that no waiter may have.  Lock held. */
static void
take_free(SlotPool pool, SlotWaiter *waiter)
{
	if (!may_have(pool, waiter))
		return;
	for (int i = 0; i < nslots[pool] && waiter->slot == NO_SLOT; i++)
	{
		if (!turns->pools[pool].slots[i].taken)
			give(pool, i, waiter);
	}
}

/*
 * A slot has become free.  Returns the waiter that gets it, to be woken, or
 * NULL.  Lock held.
 */
static SlotWaiter *
pass_on(SlotPool pool, int slot)
{
	SlotWaiter *next = NULL;
	dlist_iter	iter;

	turns->pools[pool].slots[slot].taken = false;
	dlist_foreach(iter, &turns->pools[pool].waiters)
	{
		SlotWaiter *waiter = dlist_container(SlotWaiter, link, iter.cur);

		if ((next != NULL && waiter->role == turns->pools[pool].last_role) ||
			!may_have(pool, waiter))
			continue;
		next = waiter;
		if (waiter->role != turns->pools[pool].last_role)
			break;
	}
	if (next == NULL)
		return NULL;
	dlist_delete(&next->link);
	give(pool, slot, next);
	return next;
}

static void
wake(const SlotWaiter *waiter)
{
	if (waiter != NULL)
		lock_table_wake((int) (waiter - turns->waiters));
}

void
slot_turns_release(SlotPool pool, int slot)
{
	SlotWaiter *next;

	LWLockAcquire(turns->lock, LW_EXCLUSIVE);
	next = pass_on(pool, slot);
	LWLockRelease(turns->lock);
	wake(next);
}

/* The session no longer wants a slot, even if it has just been given one. */
static void
leave(int code, Datum arg)
{
	SlotPool	pool = DatumGetInt32(arg);
	SlotWaiter *me = &turns->waiters[compat_my_procno()];
	SlotWaiter *next = NULL;

	LWLockAcquire(turns->lock, LW_EXCLUSIVE);
	if (me->slot == NO_SLOT)
		dlist_delete(&me->link);
	else
		next = pass_on(pool, me->slot);
	LWLockRelease(turns->lock);
	wake(next);
}

static bool
has_slot(const SlotWaiter *me)
{
	bool		has;

	LWLockAcquire(turns->lock, LW_SHARED);
	has = me->slot != NO_SLOT;
	LWLockRelease(turns->lock);
	return has;
}

/* Returns false if it has no slot; then it is no longer in the list. */
static bool
wait_for_turn(SlotPool pool, const SlotWaiter *me, int64 give_up_at)
{
	volatile bool has = false;

	/*
	 * Also when the session is terminated: nobody else takes it from the
	 * list.
	 */
	PG_ENSURE_ERROR_CLEANUP(leave, Int32GetDatum(pool));
	{
		while (!(has = has_slot(me)) && clock_now() < give_up_at)
		{
			CHECK_FOR_INTERRUPTS();
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 TURNS_LOOK, wait_events_check());
			ResetLatch(MyLatch);
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(leave, Int32GetDatum(pool));
	if (!has)
		leave(0, Int32GetDatum(pool));
	return has;
}

int
slot_turns_take(SlotPool pool, int64 give_up_at)
{
	SlotWaiter *me = &turns->waiters[compat_my_procno()];
	bool		has;

	LWLockAcquire(turns->lock, LW_EXCLUSIVE);
	me->role = MyProc->roleId;
	me->max = Max(nslots[pool] - 1, 1);
	if (etcd_lock_max_requests_per_role >= 0)
		me->max = Min(me->max, etcd_lock_max_requests_per_role);
	me->slot = NO_SLOT;
	take_free(pool, me);
	has = me->slot != NO_SLOT;
	if (!has)
		dlist_push_tail(&turns->pools[pool].waiters, &me->link);
	LWLockRelease(turns->lock);
	return has || wait_for_turn(pool, me, give_up_at) ? me->slot : NO_SLOT;
}
