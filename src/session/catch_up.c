/*-------------------------------------------------------------------------
 *
 * catch_up.c
 *	  A session on a standby waits until the primary's commits are replayed.
 *
 * The last holder may have committed something on the primary that this
 * standby has not replayed yet.  So a session that was granted a lock asks
 * where the primary's WAL ended at a moment after the grant, and waits until
 * that is replayed here.  The workers ask and answer through etcd
 * (worker/catch_up_worker.c).  All this costs nothing on a primary.
 *
 * While it waits, the session asks again, because the primary may be gone for
 * good, and another one may have taken its place.  The timeline of this server
 * says which WAL it follows: when a server goes on to the next timeline, it
 * has replayed all that it will ever have of the old one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "session/catch_up.h"
#include "session/lock_session.h"
#include "shared/catch_up_slot.h"
#include "shared/clock.h"
#include "shared/lock_name.h"
#include "shared/lock_text.h"
#include "shared/lock_trace.h"
#include "shared/settings.h"
#include "storage/condition_variable.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* When to ask again while replay goes on; microseconds. */
#define ASK_AGAIN		INT64CONST(2000000)

/*
 * How often to check how far replay has come, in milliseconds: a part of the
 * time waited.
 */
#define SHORTEST_POLL	1
#define LONGEST_POLL	50

typedef struct CatchUp
{
	int64		started_at;
	uint64		question;		/* its number if not answered yet, else 0 */
	int64		ask_at;			/* when to ask again */
	bool		has_target;		/* the primary's position, in: */
	CatchUpAnswer target;
	bool		nothing_to_wait_for;
	bool		logged;
} CatchUp;

/* Note what to wait for, or that there is nothing. */
static void
note_answer(CatchUp *state, const CatchUpAnswer *answer)
{
	state->question = 0;
	state->ask_at = clock_now() + ASK_AGAIN;
	switch (answer->kind)
	{
		case CATCH_UP_NO_PRIMARY:
			state->nothing_to_wait_for = true;
			break;
		case CATCH_UP_POSITION:

			/*
			 * The same primary has written more since; the first answer is
			 * enough.
			 */
			if (state->has_target && state->target.primary == answer->primary)
				break;
			state->has_target = true;
			state->target = *answer;
			break;
		case CATCH_UP_FAILED:
			if (state->has_target)
				break;			/* it can still be reached */
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not determine how far the primary had written"),
					 errdetail("%s", lock_text_etcd_message(answer->message)),
					 errhint("Without it, this standby may not show what the last holder of the lock has committed; see \"%s\".",
							 "etcd_lock.catch_up")));
			break;
	}
}

static bool
is_replayed(const CatchUpAnswer *target)
{
	TimeLineID	timeline;
	XLogRecPtr	replayed = GetXLogReplayRecPtr(&timeline);

	return timeline > target->timeline ||
		(timeline == target->timeline && replayed >= target->position);
}

static bool
is_over(const CatchUp *state)
{
	return state->nothing_to_wait_for || !RecoveryInProgress() ||
		(state->has_target && is_replayed(&state->target));
}

/* ----------------------------------------------------------------
 *		Messages
 * ----------------------------------------------------------------
 */

static char *
describe(const CatchUp *state)
{
	TimeLineID	timeline;
	XLogRecPtr	replayed = GetXLogReplayRecPtr(&timeline);
	const char *paused = GetRecoveryPauseState() == RECOVERY_NOT_PAUSED ? "" :
		_("  Replay is paused.");

	if (!state->has_target)
		return pstrdup(_("The primary has not yet said how far it had written."));
	return psprintf(_("This standby has replayed WAL up to %X/%X of timeline %u; the primary had written up to %X/%X of timeline %u.%s"),
					LSN_FORMAT_ARGS(replayed), timeline,
					LSN_FORMAT_ARGS(state->target.position), state->target.timeline, paused);
}

static void
report_too_late(const CatchUp *state, bool is_lock_timeout)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 is_lock_timeout ? errmsg("canceling statement due to lock timeout") :
			 errmsg("this standby did not catch up with the primary in time"),
			 errdetail_internal("%s", describe(state)),
			 errhint("The session had acquired the lock, and has released it.  Wait longer, or see \"%s\".",
					 "etcd_lock.catch_up")));
}

static void
report_no_answer(const CatchUp *state, int64 now)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not determine within %d ms how far the primary had written",
					(int) ((now - state->started_at) / 1000)),
			 errhint("Without it, this standby may not show what the last holder of the lock has committed; see \"%s\".",
					 "etcd_lock.catch_up")));
}

static void
log_wait(CatchUp *state, int64 now)
{
	int64		waited = now - state->started_at;

	if (!log_lock_waits || state->logged || waited < (int64) DeadlockTimeout * 1000)
		return;
	state->logged = true;
	ereport(LOG,
			(errmsg("process %d has an etcd lock, and still waits for replay after %lld.%03d ms",
					MyProcPid, (long long) (waited / 1000), (int) (waited % 1000)),
			 errdetail_internal("%s", describe(state))));
}

/* ----------------------------------------------------------------
 *		The wait
 * ----------------------------------------------------------------
 */

/*
 * The caller's deadline; a try has as much time for this as for any response.
 */
static int64
own_deadline(const WaitDeadlines *deadlines)
{
	return Min(deadlines->give_up_at, deadlines->respond_by);
}

static void
check_deadlines(const CatchUp *state, const WaitDeadlines *deadlines, int64 now)
{
	int64		give_up_at = own_deadline(deadlines);
	int64		answer_at = state->started_at + (int64) etcd_lock_request_timeout * 1000;

	if (!state->has_target && now >= Min(answer_at, give_up_at))
		report_no_answer(state, now);
	if (now >= Min(deadlines->lock_timeout_at, give_up_at))
		report_too_late(state, deadlines->lock_timeout_at <= give_up_at);
}

/* Milliseconds until the next check. */
static long
poll_interval(const CatchUp *state, const WaitDeadlines *deadlines, int64 now)
{
	int64		poll = state->has_target ? (now - state->started_at) / 8000 : LONGEST_POLL;

	poll = Min(Max(poll, SHORTEST_POLL), LONGEST_POLL);
	return wait_deadlines_left(Min(deadlines->lock_timeout_at, own_deadline(deadlines)),
							   (int) poll);
}

/* Will a standby, which may have the lock next, find us? */
static bool
is_registered(void)
{
	uint64		lease = pg_atomic_read_u64(&lock_shared->lease);

	return lease == 0 || lease == pg_atomic_read_u64(&lock_shared->primary_lease);
}

/*
 * On a server that was promoted a moment ago: wait until it is registered as a
 * primary, so that standbys wait for what is committed from now on.
 */
static void
await_registration(const WaitDeadlines *deadlines)
{
	int64		started_at = clock_now();
	int64		until = started_at + (int64) etcd_lock_request_timeout * 1000;

	until = Min(until, Min(deadlines->lock_timeout_at, own_deadline(deadlines)));
	while (!is_registered())
	{
		CHECK_FOR_INTERRUPTS();
		if (clock_now() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not register this server, which was promoted, as a primary in etcd within %d ms",
							(int) ((until - started_at) / 1000))));
		lock_table_wake_worker();
		catch_up_slot_sleep(LONGEST_POLL);
	}
	ConditionVariableCancelSleep();
}

static void
await_replay(const WaitDeadlines *deadlines)
{
	CatchUp		state = {.started_at = clock_now()};

	lock_trace_all(LOCK_TRACE_BEHIND, 0);
	lock_trace_say();
	state.question = catch_up_slot_ask();
	for (;;)
	{
		CatchUpAnswer answer;
		int64		now = clock_now();

		CHECK_FOR_INTERRUPTS();
		if (state.question != 0 && catch_up_slot_get(state.question, &answer))
			note_answer(&state, &answer);
		if (is_over(&state))
			break;
		if (state.question == 0 && now >= state.ask_at)
			state.question = catch_up_slot_ask();
		check_deadlines(&state, deadlines, now);
		log_wait(&state, now);
		catch_up_slot_sleep(poll_interval(&state, deadlines, now));
	}
	ConditionVariableCancelSleep();
	lock_trace_all(LOCK_TRACE_CAUGHT_UP, 0);
	lock_trace_say();
}

void
catch_up_wait(const WaitDeadlines *deadlines)
{
	if (etcd_lock_catch_up && RecoveryInProgress())
		await_replay(deadlines);
	if (!RecoveryInProgress() && !is_registered())
		await_registration(deadlines);
}

void
catch_up_or_release(const LockName *name, const LockRequest *request,
					const WaitDeadlines *deadlines)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner volatile owner = request->session ? NULL : CurrentResourceOwner;

	PG_TRY();
	{
		catch_up_wait(deadlines);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		ConditionVariableCancelSleep();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		HOLD_INTERRUPTS();
		(void) lock_session_unlock(name, request->mode, owner);
		RESUME_INTERRUPTS();
		ReThrowError(error);
	}
	PG_END_TRY();
}
