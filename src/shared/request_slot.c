/*-------------------------------------------------------------------------
 *
 * request_slot.c
 *	  A rare request that a session leaves for the worker.
 *
 * Because such requests are rare, there are only a few slots for each kind in
 * shared memory, which sessions take in turn (slot_turns.c).  A session that gives up or
 * exits frees its slot, regardless of the worker's progress; the request's id
 * distinguishes it from the next one.  If the worker dies meanwhile, nobody
 * responds, and the session times out.
 *
 * RequestSlot.mutex protects the whole slot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/request_slot.h"
#include "shared/slot_turns.h"
#include "shared/wait_events.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

/*
 * How often the session checks the slot even if nobody wakes it; milliseconds.
 */
#define REQUEST_SLOT_LOOK			100

typedef enum RequestSlotState
{
	REQUEST_SLOT_FREE,
	REQUEST_SLOT_ASKED,
	REQUEST_SLOT_TAKEN,
	REQUEST_SLOT_ENDED
} RequestSlotState;

typedef struct RequestSlot
{
	slock_t		mutex;
	ConditionVariable changed;
	RequestSlotState state;
	uint64		id;				/* distinguishes this request from earlier
								 * ones */
	int			result;
	LockFailure failure;		/* FAILURE_NONE: it is done */
	size_t		request_size;
	char		request[FLEXIBLE_ARRAY_MEMBER];
} RequestSlot;

/* What a session has taken and must free. */
typedef struct RequestSlotTaken
{
	RequestKind kind;
	int			number;
	RequestSlot *slot;
	uint64		id;
} RequestSlotTaken;

/* In shared memory: the slots of each kind, one behind the other. */
static char *slots[REQUEST_NKINDS];

static const struct
{
	size_t		request_size;
	SlotPool	pool;
	int			nslots;
}			kinds[REQUEST_NKINDS] = {
	[REQUEST_BREAK] = {sizeof(BreakRequest), SLOT_POOL_BREAK, SLOT_POOL_BREAKS},
	[REQUEST_CLAIM] = {sizeof(ClaimRequest), SLOT_POOL_CLAIM, SLOT_POOL_CLAIMS}
};

/* A request's id for the worker has the slot's number in its lowest bits. */
#define SLOT_BITS			8

static Size
slot_size(RequestKind kind)
{
	return MAXALIGN(offsetof(RequestSlot, request) + kinds[kind].request_size);
}

static Size
kind_size(RequestKind kind)
{
	return mul_size(kinds[kind].nslots, slot_size(kind));
}

static RequestSlot *
get_slot(RequestKind kind, int i)
{
	return (RequestSlot *) (slots[kind] + i * slot_size(kind));
}

Size
request_slot_shmem_size(void)
{
	Size		size = 0;

	for (RequestKind kind = 0; kind < REQUEST_NKINDS; kind++)
		size = add_size(size, kind_size(kind));
	return size;
}

void
request_slot_shmem_init(void)
{
	char	   *place;
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	place = ShmemInitStruct("etcd_lock requests", request_slot_shmem_size(), &found);
	for (RequestKind kind = 0; kind < REQUEST_NKINDS; kind++)
	{
		slots[kind] = place;
		place += kind_size(kind);
		Assert(kinds[kind].nslots > 0 && kinds[kind].nslots <= 1 << SLOT_BITS);
		for (int i = 0; i < kinds[kind].nslots && !found; i++)
		{
			RequestSlot *slot = get_slot(kind, i);

			memset(slot, 0, slot_size(kind));
			SpinLockInit(&slot->mutex);
			ConditionVariableInit(&slot->changed);
			slot->request_size = kinds[kind].request_size;
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

static uint64
take_from(RequestSlot *slot, void *request)
{
	uint64		id = 0;

	if (slot->state != REQUEST_SLOT_ASKED)
		return 0;				/* seen again when the latch is set */
	SpinLockAcquire(&slot->mutex);
	if (slot->state == REQUEST_SLOT_ASKED)
	{
		slot->state = REQUEST_SLOT_TAKEN;
		id = slot->id;
		memcpy(request, slot->request, slot->request_size);
	}
	SpinLockRelease(&slot->mutex);
	return id;
}

uint64
request_slot_take(RequestKind kind, void *request)
{
	for (int i = 0; i < kinds[kind].nslots; i++)
	{
		uint64		id = take_from(get_slot(kind, i), request);

		if (id != 0)
			return id << SLOT_BITS | i;
	}
	return 0;
}

static void
end(RequestKind kind, uint64 number, int result, const LockFailure *failure)
{
	RequestSlot *slot = get_slot(kind, number & ((1 << SLOT_BITS) - 1));
	uint64		id = number >> SLOT_BITS;

	SpinLockAcquire(&slot->mutex);
	if (slot->id == id && slot->state == REQUEST_SLOT_TAKEN)
	{
		slot->state = REQUEST_SLOT_ENDED;
		slot->result = result;
		slot->failure = *failure;
	}
	SpinLockRelease(&slot->mutex);
	ConditionVariableBroadcast(&slot->changed);
}

void
request_slot_done(RequestKind kind, uint64 id, int result)
{
	LockFailure none = {.kind = FAILURE_NONE};

	end(kind, id, result, &none);
}

void
request_slot_failed(RequestKind kind, uint64 id, int sqlerrcode, const char *error)
{
	LockFailure failure = {.kind = FAILURE_ERROR,.sqlerrcode = sqlerrcode};

	strlcpy(failure.message, error, sizeof(failure.message));
	end(kind, id, 0, &failure);
}

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

/* The slot is this session's now. */
static void
ask(RequestSlotTaken *taken, const void *request)
{
	RequestSlot *slot = taken->slot;

	SpinLockAcquire(&slot->mutex);
	taken->id = ++slot->id;
	memcpy(slot->request, request, slot->request_size);
	slot->state = REQUEST_SLOT_ASKED;
	SpinLockRelease(&slot->mutex);
}

static void
give_back(const RequestSlotTaken *taken)
{
	RequestSlot *slot = taken->slot;

	SpinLockAcquire(&slot->mutex);
	if (slot->id == taken->id)
		slot->state = REQUEST_SLOT_FREE;
	SpinLockRelease(&slot->mutex);
	slot_turns_release(kinds[taken->kind].pool, taken->number);
}

static void
give_back_at_exit(int code, Datum arg)
{
	give_back((RequestSlotTaken *) DatumGetPointer(arg));
}

static bool
has_ended(const RequestSlotTaken *taken, int *result, LockFailure *failure)
{
	RequestSlot *slot = taken->slot;
	bool		ended;

	SpinLockAcquire(&slot->mutex);
	ended = slot->id == taken->id && slot->state == REQUEST_SLOT_ENDED;
	if (ended)
	{
		*result = slot->result;
		*failure = slot->failure;
	}
	SpinLockRelease(&slot->mutex);
	return ended;
}

/* Returns false if the time is over. */
static bool
sleep_until(ConditionVariable *changed, int64 give_up_at)
{
	if (clock_now() >= give_up_at)
		return false;
	(void) ConditionVariableTimedSleep(changed, REQUEST_SLOT_LOOK,
									   wait_events_check());
	return true;
}

RequestSlotEnd
request_slot_run(RequestKind kind, const void *request, int timeout_ms,
				 int *result, LockFailure *failure)
{
	int64		give_up_at = clock_now() + (int64) timeout_ms * 1000;
	RequestSlotTaken taken = {.kind = kind};
	volatile bool ended = false;

	taken.number = slot_turns_take(kinds[kind].pool, give_up_at);
	if (taken.number < 0)
		return REQUEST_SLOT_NO_TURN;
	taken.slot = get_slot(kind, taken.number);
	ask(&taken, request);
	ConditionVariablePrepareToSleep(&taken.slot->changed);

	/*
	 * Also if the session is terminated, because nobody else frees the slot.
	 */
	PG_ENSURE_ERROR_CLEANUP(give_back_at_exit, PointerGetDatum(&taken));
	{
		lock_table_wake_worker();
		do
			ended = has_ended(&taken, result, failure);
		while (!ended && sleep_until(&taken.slot->changed, give_up_at));
	}
	PG_END_ENSURE_ERROR_CLEANUP(give_back_at_exit, PointerGetDatum(&taken));
	give_back(&taken);
	ConditionVariableCancelSleep();

	if (!ended)
		return REQUEST_SLOT_NO_RESPONSE;
	return failure->kind == FAILURE_NONE ? REQUEST_SLOT_DONE : REQUEST_SLOT_FAILED;
}
