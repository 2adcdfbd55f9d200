/*-------------------------------------------------------------------------
 *
 * errand.c
 *	  A rare request that the worker carries out for a session.
 *
 * As it is rare, there is one place for each kind in shared memory, which sessions
 * take in turn.  Who gives up, or ends, gives the place back whatever the worker
 * is doing about the request; the number tells that one from the next.  When the
 * worker dies meanwhile, nobody answers, and the session gives up in time.
 *
 * Errand.mutex protects all of it.
 *
 *-------------------------------------------------------------------------
 */
#include "errand.h"

#include "etcd_lock.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

/* The session looks so often, even if nobody wakes it; milliseconds. */
#define ERRAND_LOOK			100

typedef enum ErrandState
{
	ERRAND_FREE,
	ERRAND_ASKED,
	ERRAND_TAKEN,
	ERRAND_ENDED
} ErrandState;

struct Errand
{
	slock_t		mutex;
	ConditionVariable changed;
	ErrandState state;
	uint64		id;				/* who gave up has another */
	int			result;
	LockFailure failure;		/* FAILURE_NONE: it is done */
	size_t		request_size;
	char		request[FLEXIBLE_ARRAY_MEMBER];
};

/* What a session has taken and must give back. */
typedef struct ErrandTaken
{
	Errand	   *errand;
	uint64		id;
} ErrandTaken;

Size
errand_shmem_size(size_t request_size)
{
	return MAXALIGN(offsetof(Errand, request) + request_size);
}

Errand *
errand_shmem_init(const char *name, size_t request_size)
{
	Size		size = errand_shmem_size(request_size);
	Errand	   *errand;
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	errand = ShmemInitStruct(name, size, &found);
	if (!found)
	{
		memset(errand, 0, size);
		SpinLockInit(&errand->mutex);
		ConditionVariableInit(&errand->changed);
		errand->request_size = request_size;
	}
	LWLockRelease(AddinShmemInitLock);
	return errand;
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

uint64
errand_take(Errand *errand, void *request)
{
	uint64		id = 0;

	if (errand->state != ERRAND_ASKED)
		return 0;				/* seen again when the latch is set */
	SpinLockAcquire(&errand->mutex);
	if (errand->state == ERRAND_ASKED)
	{
		errand->state = ERRAND_TAKEN;
		id = errand->id;
		memcpy(request, errand->request, errand->request_size);
	}
	SpinLockRelease(&errand->mutex);
	return id;
}

static void
end(Errand *errand, uint64 id, int result, const LockFailure *failure)
{
	SpinLockAcquire(&errand->mutex);
	if (errand->id == id && errand->state == ERRAND_TAKEN)
	{
		errand->state = ERRAND_ENDED;
		errand->result = result;
		errand->failure = *failure;
	}
	SpinLockRelease(&errand->mutex);
	ConditionVariableBroadcast(&errand->changed);
}

void
errand_done(Errand *errand, uint64 id, int result)
{
	LockFailure none = {.kind = FAILURE_NONE};

	end(errand, id, result, &none);
}

void
errand_failed(Errand *errand, uint64 id, int sqlerrcode, const char *error)
{
	LockFailure failure = {.kind = FAILURE_ERROR, .sqlerrcode = sqlerrcode};

	strlcpy(failure.message, error, sizeof(failure.message));
	end(errand, id, 0, &failure);
}

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

/* Take the place, unless somebody has it. */
static bool
try_to_ask(ErrandTaken *taken, const void *request)
{
	Errand	   *errand = taken->errand;
	bool		is_free;

	SpinLockAcquire(&errand->mutex);
	is_free = errand->state == ERRAND_FREE;
	if (is_free)
	{
		taken->id = ++errand->id;
		memcpy(errand->request, request, errand->request_size);
		errand->state = ERRAND_ASKED;
	}
	SpinLockRelease(&errand->mutex);
	return is_free;
}

static void
give_back(const ErrandTaken *taken)
{
	Errand	   *errand = taken->errand;

	SpinLockAcquire(&errand->mutex);
	if (errand->id == taken->id)
		errand->state = ERRAND_FREE;
	SpinLockRelease(&errand->mutex);
	ConditionVariableBroadcast(&errand->changed);
}

static void
give_back_at_exit(int code, Datum arg)
{
	give_back((ErrandTaken *) DatumGetPointer(arg));
}

static bool
has_ended(const ErrandTaken *taken, int *result, LockFailure *failure)
{
	Errand	   *errand = taken->errand;
	bool		ended;

	SpinLockAcquire(&errand->mutex);
	ended = errand->id == taken->id && errand->state == ERRAND_ENDED;
	if (ended)
	{
		*result = errand->result;
		*failure = errand->failure;
	}
	SpinLockRelease(&errand->mutex);
	return ended;
}

/* False: the time is over. */
static bool
sleep_until(Errand *errand, int64 give_up_at)
{
	if (clock_now() >= give_up_at)
		return false;
	(void) ConditionVariableTimedSleep(&errand->changed, ERRAND_LOOK,
									   etcd_lock_wait_event_check());
	return true;
}

ErrandEnd
errand_run(Errand *errand, const void *request, int timeout_ms,
		   int *result, LockFailure *failure)
{
	int64		give_up_at = clock_now() + (int64) timeout_ms * 1000;
	ErrandTaken taken = {.errand = errand};
	volatile bool ended = false;

	ConditionVariablePrepareToSleep(&errand->changed);
	while (!try_to_ask(&taken, request))
	{
		if (!sleep_until(errand, give_up_at))
		{
			ConditionVariableCancelSleep();
			return ERRAND_NO_TURN;
		}
	}

	/* Also when the session is terminated: nobody else gives it back. */
	PG_ENSURE_ERROR_CLEANUP(give_back_at_exit, PointerGetDatum(&taken));
	{
		lock_table_wake_worker();
		do
			ended = has_ended(&taken, result, failure);
		while (!ended && sleep_until(errand, give_up_at));
	}
	PG_END_ENSURE_ERROR_CLEANUP(give_back_at_exit, PointerGetDatum(&taken));
	give_back(&taken);
	ConditionVariableCancelSleep();

	if (!ended)
		return ERRAND_NO_ANSWER;
	return failure->kind == FAILURE_NONE ? ERRAND_DONE : ERRAND_FAILED;
}
