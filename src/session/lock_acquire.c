/*-------------------------------------------------------------------------
 *
 * lock_acquire.c
 *	  Acquiring a lock: first PostgreSQL's within the server, then etcd's.
 *
 * The steps, which rule 18 of README.md explains:
 *
 *	1. local memory and the exit callback;
 *	2. a shared record that says that we wait;
 *	3. LockAcquire() on the tag, which may wait in the ordinary way (wait_tag.c);
 *	4. ask the shared table, and sleep until the worker has a result (wait_etcd.c);
 *	5. record it for the resource owner: from the grant on, nothing can throw;
 *	6. on a standby: wait until what the primary had written is replayed (catch_up.c).
 *
 * Whatever goes wrong, the tag and the record are released; after a FATAL
 * error, the exit callback does that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "session/catch_up.h"
#include "session/claim.h"
#include "session/commit.h"
#include "session/deadlock.h"
#include "session/lock_acquire.h"
#include "session/lock_check.h"
#include "session/wait_end.h"
#include "session/wait_etcd.h"
#include "session/wait_tag.h"
#include "shared/lock_holds.h"
#include "shared/lock_keep.h"
#include "shared/lock_name.h"
#include "shared/lock_text.h"
#include "shared/lock_trace.h"
#include "shared/role_budget.h"
#include "shared/wait_events.h"
#include "storage/lmgr.h"
#include "storage/proc.h"

/*
 * How often to check whether an earlier primary is registered; milliseconds.
 */
#define DUPLICATE_POLL		20

/*
 * If the table is full: how often, in milliseconds, and for how long, in
 * microseconds, to look for room while keys that no session uses are being
 * deleted.
 */
#define ROOM_POLL			5
#define ROOM_TIMEOUT		INT64CONST(1000000)

/* Steps 3 and 4 of one lock. */
typedef struct Acquisition
{
	LocalHold  *local;
	const LockRequest *request;
	WaitDeadlines deadlines;
	WaitEtcd	wait;
	bool		had_tag;		/* before */
	bool		have_tag;
} Acquisition;

/* PostgreSQL's messages about a tag do not know the lock's name (rule 28). */
static void
error_context(void *arg)
{
	const LocalHold *local = arg;

	errcontext("while waiting for etcd lock \"%s\"",
			   lock_name_for_message(&local->name));
	if (geterrcode() != ERRCODE_T_R_DEADLOCK_DETECTED ||
		local->hold->failure.kind != FAILURE_NONE || !TransactionIdIsValid(MyProc->xmin))
		return;
	if (local->mode == LOCK_EXCLUSIVE)
		errhint("If another session waits for this one's snapshot, as CREATE INDEX CONCURRENTLY does, wait with \"CALL etcd_lock_wait(...)\", which holds none.");
	else
		errhint("If another session waits for this one's snapshot, as CREATE INDEX CONCURRENTLY does, call etcd_try_lock_shared() repeatedly, each time in a separate transaction.");
}

/*
 * Release what we have of a lock that was not granted: the record first, so
 * that the next session in PostgreSQL's queue does not find it.
 */
static void
give_up(LocalHold *local, bool have_tag, bool session)
{
	LOCKTAG		tag = local->name.tag;
	LOCKMODE	pgmode = lock_session_pgmode(local->mode);

	/* Only integer keys may be anybody else's (wait_tag.c). */
	bool		is_seen = have_tag && tag.locktag_field1 != InvalidOid;

	if (is_seen)
		lock_hold_begin_give_up();
	lock_session_forget(local);
	if (have_tag)
		LockRelease(&tag, pgmode, session);
	if (is_seen)
		lock_hold_end_give_up();
}

static void
report_failure(LocalHold *local, const LockFailure *failure)
{
	char	   *name = lock_name_for_message(&local->name);

	if (failure->kind == FAILURE_DEADLOCK)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
				 errmsg("deadlock detected"),
				 errdetail("This server holds etcd lock \"%s\" in shared mode and waits for exclusive mode; another server that waits for exclusive mode came first.",
						   name),
				 errhint("Release the shared lock before asking for the exclusive one.")));
	else if (failure->kind == FAILURE_CYCLE)
		deadlock_raise_cycle(local->hold);
	else if (failure->kind == FAILURE_DATA)
		ereport(ERROR,
				(errcode(failure->sqlerrcode),
				 errmsg("a key in etcd that is not a lock blocks etcd lock \"%s\"", name),
				 errdetail("Key \"%s\" has no lease.",
						   lock_text_etcd_message(failure->message)),
				 errhint("Use another name or \"%s\" for locks than for other data in etcd, or delete the key if nobody needs it.",
						 "etcd_lock.namespace")));
	else if (failure->kind == FAILURE_TICKS)
		claim_report_too_many();
	else if (failure->kind == FAILURE_UNSURE)
		ereport(ERROR,
				(errcode(failure->sqlerrcode),
				 errmsg("lost the response to the claim of a tick for etcd lock \"%s\"", name),
				 errdetail("%s", lock_text_etcd_message(failure->message))));
	else if (failure->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		ereport(ERROR,
				(errcode(failure->sqlerrcode),
				 errmsg("permission denied by etcd for \"%s\"", name),
				 errdetail("%s", lock_text_etcd_message(failure->message))));
	else
		ereport(ERROR,
				(errcode(failure->sqlerrcode),
				 errmsg("etcd refused lock \"%s\"", name),
				 errdetail("%s", lock_text_etcd_message(failure->message))));
}

/* What an error that has ended a call for a lock is counted as. */
static LockOutcome
outcome_of(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return LOCK_OUTCOME_TIMEOUT;
		case ERRCODE_T_R_DEADLOCK_DETECTED:
			return LOCK_OUTCOME_DEADLOCK;
		case ERRCODE_QUERY_CANCELED:
			return LOCK_OUTCOME_CANCELLED;
		default:
			return LOCK_OUTCOME_FAILED;
	}
}

/*
 * The session cannot have the lock now, or within its own deadline.  Returns
 * if that is a plain "no", because somebody else has the lock.
 */
static void
refuse(LocalHold *local, const LockRequest *request, bool somebody_has)
{
	if (request->is_call)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not acquire etcd lock \"%s\" in time",
						lock_name_for_message(&local->name))));
	if (!somebody_has)
		lock_check_report_unreachable((int) Min(request->wait / 1000, PG_INT32_MAX));
}

/*
 * An error has ended the wait; the session has given up what it had.  The
 * error of a lock timeout says who was in the way.
 */
static void
rethrow(const WaitEnd *end)
{
	ErrorData  *error = CopyErrorData();

	FlushErrorState();
	error->detail = lock_text_for_message(wait_end_detail(end));
	ReThrowError(error);
}

/* Is it a failure to report as an error?  A plain "no" is not. */
static bool
is_failure(const LockFailure *failure)
{
	return failure->kind != FAILURE_NONE && failure->kind != FAILURE_REFUSED &&
		failure->kind != FAILURE_KEPT;
}

/* Steps 3 and 4.  Returns true if granted, false if not available. */
static bool
wait_for_both(Acquisition *acquisition)
{
	LocalHold  *local = acquisition->local;
	const LockRequest *request = acquisition->request;
	bool		stood_back = false; /* for somebody whom etcd has shown */

	for (;;)
	{
		LockAskResult result;

		if (!acquisition->have_tag)
		{
			if (!wait_tag_acquire(local, request, &acquisition->deadlines))
			{
				refuse(local, request,
					   request->is_try || stood_back || wait_tag_somebody_has(local));
				return false;
			}
			acquisition->have_tag = true;
			lock_trace_name(LOCK_TRACE_TAG, &local->name, 0);
		}

		result = wait_etcd_grant(&acquisition->wait);
		switch (result)
		{
			case LOCK_ASK_GRANTED:
				wait_log_granted(&acquisition->wait.log, local);
				return true;
			case LOCK_ASK_FAILED:
				if (is_failure(&local->hold->failure))
					report_failure(local, &local->hold->failure);
				refuse(local, request, true);
				return false;
			case LOCK_ASK_WAIT:
				refuse(local, request, stood_back);
				return false;
			case LOCK_ASK_DRAIN:
				stood_back = true;
				break;
		}

		acquisition->have_tag = false;
		wait_tag_release(local, request);
		if (!wait_etcd_drain(&acquisition->wait))
		{
			refuse(local, request, true);
			return false;
		}
	}
}

/* An error has ended the wait: give up what we have, and raise it again. */
static void
end_by_error(Acquisition *acquisition, MemoryContext memory)
{
	LocalHold  *local = acquisition->local;
	bool		is_timeout = geterrcode() == ERRCODE_LOCK_NOT_AVAILABLE;
	WaitEnd		end;

	/*
	 * An interrupt may have coincided with the grant of PostgreSQL's lock:
	 * then it is ours, although LockAcquire() did not return.  Session locks
	 * survive the abort that follows.
	 */
	LockErrorCleanup();
	role_budget_end_wait();
	if (!acquisition->had_tag && lock_session_has_tag(local))
		acquisition->have_tag = true;
	lock_trace_name(LOCK_TRACE_NOT_GRANTED, &local->name, 0);
	local->hold->outcome = outcome_of(geterrcode());
	if (is_timeout)
		wait_end_look(local->hold, acquisition->have_tag, &end);
	give_up(local, acquisition->have_tag, acquisition->request->session);
	if (is_timeout)
	{
		MemoryContextSwitchTo(memory);
		rethrow(&end);
	}
	PG_RE_THROW();
}

/* Returns true if granted; false if not available, and nothing is acquired. */
static bool
acquire_both(Acquisition *acquisition)
{
	LocalHold  *local = acquisition->local;
	volatile bool granted = false;
	MemoryContext memory = CurrentMemoryContext;
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = error_context,
		.arg = local
	};

	acquisition->had_tag = lock_session_has_tag(local);
	wait_etcd_begin(&acquisition->wait, local, &acquisition->deadlines);
	error_context_stack = &context;
	PG_TRY();
	{
		granted = wait_for_both(acquisition);
	}
	PG_CATCH();
	{
		error_context_stack = context.previous;
		end_by_error(acquisition, memory);
	}
	PG_END_TRY();
	error_context_stack = context.previous;
	role_budget_end_wait();

	if (!granted)
	{
		if (acquisition->request->only_kept != NULL)
			*acquisition->request->only_kept = local->hold->failure.kind == FAILURE_KEPT;
		lock_trace_name(LOCK_TRACE_NOT_GRANTED, &local->name, 0);
		local->hold->outcome = acquisition->request->is_try ?
			LOCK_OUTCOME_TRY_FAILED : LOCK_OUTCOME_TIMEOUT;
		give_up(local, acquisition->have_tag, acquisition->request->session);
	}
	return granted;
}

/*
 * With duplicate_primary = refuse: raise an error if another live primary with
 * our system identifier was registered before us; wait while that is unknown
 * (worker/duplicate.c).
 */
static void
refuse_duplicate(const WaitDeadlines *deadlines)
{
	int64		started_at = clock_now();
	int64		until = Min(started_at + (int64) etcd_lock_connect_timeout * 1000,
							deadlines->give_up_at);

	while (etcd_lock_duplicate_primary == DUPLICATE_PRIMARY_REFUSE && !RecoveryInProgress())
	{
		uint64		lease = pg_atomic_read_u64(&lock_shared->lease);

		if (lease != 0 && pg_atomic_read_u64(&lock_shared->single_lease) == lease)
			return;
		if (lease != 0 && pg_atomic_read_u64(&lock_shared->duplicate_lease) == lease)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot acquire etcd locks on a copy of another live server"),
					 errdetail("Another primary with this server's system identifier registered in etcd first."),
					 errhint("Give this server endpoints or a namespace of its own, or stop the other one; see \"%s\".",
							 "etcd_lock.duplicate_primary")));
		CHECK_FOR_INTERRUPTS();
		wait_deadlines_check_lock_timeout(deadlines);
		wait_deadlines_check_response(deadlines);
		if (clock_now() >= until)
			lock_check_report_unreachable((int) ((until - started_at) / 1000));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 DUPLICATE_POLL, wait_events_acquire());
		ResetLatch(MyLatch);
	}
}

/*
 * Our hold of this name in this mode, unless its tag has gone behind our back.
 */
static LocalHold *
find_hold(const LockName *name, LockMode mode)
{
	LocalHold  *local = lock_session_find(name, mode);

	if (local == NULL)
		return NULL;
	if (!lock_session_has_tag(local))
	{
		lock_session_forget(local);
		return NULL;
	}
	if (!lock_hold_valid(local->hold))
		lock_session_report_lost(local);
	return local;
}

/* The lock is held already: count it once more. */
static void
acquire_again(LocalHold *local, const LockRequest *request, ResourceOwner owner)
{
	(void) lock_session_enter(&local->name, request->mode);
	(void) LockAcquire(&local->name.tag, lock_session_pgmode(request->mode),
					   request->session, true);
	lock_session_count(local, owner, 1);
	commit_to_front();
}

/* The table is full.  Returns false if no room can be expected soon. */
static bool
wait_for_room(int64 until)
{
	if (clock_now() >= until || !lock_keep_make_room())
		return false;
	CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ROOM_POLL, wait_events_acquire());
	ResetLatch(MyLatch);
	return true;
}

/* Steps 1 and 2.  Returns NULL if the table is full. */
static LocalHold *
record_hold(const LockName *name, const LockRequest *request, bool is_upgrade)
{
	LocalHold  *local = lock_session_enter(name, request->mode);

	switch (lock_hold_wait(name, request->mode, is_upgrade, &local->hold))
	{
		case LOCK_WAIT_OK:
			break;
		case LOCK_WAIT_TABLE_FULL:
			lock_session_forget(local);
			return NULL;
		case LOCK_WAIT_NAME_CONFLICT:
			lock_session_forget(local);
			lock_hold_turned_away(name);
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("etcd lock name \"%s\" is in use for another kind of lock on this server",
							lock_name_for_message(name))));
			break;
	}
	local->name.tag = local->hold->entry->tag;
	local->hold->for_session = request->session;
	local->hold->is_try = request->is_try;
	local->hold->has_tick = request->has_tick;
	local->hold->tick = request->tick;
	local->hold->claim = request->claim;
	local->hold->max_ticks = etcd_lock_max_ticks;
	return local;
}

/* The same; if the table is full, wait a moment for room. */
static LocalHold *
begin_hold(const LockName *name, const LockRequest *request, bool is_upgrade)
{
	int64		until = clock_now() + ROOM_TIMEOUT;
	LocalHold  *local;

	while ((local = record_hold(name, request, is_upgrade)) == NULL)
	{
		if (wait_for_room(until))
			continue;
		lock_hold_turned_away(name);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("no room for another etcd lock on this server"),
				 errhint("You might need to increase the configuration parameter \"%s\".",
						 "etcd_lock.max_names")));
	}
	return local;
}

/* Checks that may take time, before the session asks for a new lock. */
static void
prepare(const WaitDeadlines *deadlines)
{
	refuse_duplicate(deadlines);
	lock_trace_begin();
	lock_trace_say();
	lock_table_proc(compat_my_procno())->holder[0] = '\0';
	lock_session_describe();
	commit_to_front();
}

static void
trace_asked(const LocalHold *local)
{
	lock_trace_name(local->mode == LOCK_EXCLUSIVE ?
					LOCK_TRACE_ASKED_EXCLUSIVE : LOCK_TRACE_ASKED_SHARED,
					&local->name, 0);
}

int64
lock_acquire(const LockName *name, const LockRequest *request)
{
	bool		is_exclusive = request->mode == LOCK_EXCLUSIVE;
	ResourceOwner owner = request->session ? NULL : CurrentResourceOwner;
	Acquisition acquisition = {.request = request};
	LocalHold  *local;
	LocalHold  *other;
	bool		granted;

	wait_deadlines_begin(&acquisition.deadlines, request);
	local = find_hold(name, request->mode);
	if (local != NULL)
	{
		Assert(!request->has_tick);
		acquire_again(local, request, owner);
		return local->token;
	}

	prepare(&acquisition.deadlines);
	other = find_hold(name, is_exclusive ? LOCK_SHARED : LOCK_EXCLUSIVE);
	Assert(other == NULL || !request->has_tick);
	local = begin_hold(name, request, is_exclusive && other != NULL);
	trace_asked(local);

	acquisition.local = local;
	granted = acquire_both(&acquisition);
	if (granted)
		lock_session_granted(local, owner);
	lock_trace_say();
	if (granted && !request->catch_up_later)
		catch_up_or_release(name, request, &acquisition.deadlines);
	return granted ? local->token : 0;
}

/* ----------------------------------------------------------------
 *		A try in two steps
 *
 * Several tries can be begun before the first one is ended, and so go to etcd
 * together.  None of them waits for another holder, so their order does not
 * matter. ----------------------------------------------------------------
 */

void
lock_acquire_prepare_tries(const WaitDeadlines *deadlines)
{
	prepare(deadlines);
}

LocalHold *
lock_acquire_begin_try(const LockName *name, const LockRequest *request)
{
	LocalHold  *local = record_hold(name, request, false);
	volatile bool have_tag = false;
	volatile bool granted = false;

	Assert(request->is_try && !request->has_tick);
	if (local == NULL)
		return NULL;
	trace_asked(local);
	PG_TRY();
	{
		have_tag = LockAcquire(&local->name.tag, lock_session_pgmode(local->mode),
							   request->session, true) != LOCKACQUIRE_NOT_AVAIL;
		if (have_tag)
			lock_trace_name(LOCK_TRACE_TAG, &local->name, 0);
		granted = have_tag && lock_grant_ask(local->hold) == LOCK_ASK_GRANTED;
	}
	PG_CATCH();
	{
		lock_trace_name(LOCK_TRACE_NOT_GRANTED, &local->name, 0);
		local->hold->outcome = LOCK_OUTCOME_FAILED;
		give_up(local, have_tag, request->session);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (granted)
		lock_session_granted(local, request->session ? NULL : CurrentResourceOwner);
	else if (!have_tag)
	{
		lock_trace_name(LOCK_TRACE_NOT_GRANTED, &local->name, 0);
		local->hold->outcome = LOCK_OUTCOME_TRY_FAILED;
		give_up(local, false, request->session);
		return NULL;
	}
	return local;
}

void
lock_acquire_drop_try(LocalHold *local, const LockRequest *request)
{
	if (local->nowners > 0)
		(void) lock_session_unlock_one(&local->name, local->mode,
									   request->session ? NULL : CurrentResourceOwner);
	else
	{
		lock_trace_name(LOCK_TRACE_NOT_GRANTED, &local->name, 0);
		local->hold->outcome = LOCK_OUTCOME_TRY_FAILED;
		give_up(local, true, request->session);
	}
}

bool
lock_acquire_end_try(LocalHold *local, const LockRequest *request,
					 const WaitDeadlines *deadlines)
{
	Acquisition acquisition = {
		.local = local,.request = request,.deadlines = *deadlines,.have_tag = true
	};
	bool		granted = local->nowners > 0;

	if (!granted && acquire_both(&acquisition))
	{
		lock_session_granted(local, request->session ? NULL : CurrentResourceOwner);
		granted = true;
	}
	lock_trace_say();
	return granted;
}
