/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  The commit of a session with locks: a transaction that has lost its lock
 *	  does not commit.
 *
 * The state of the transaction is one variable, CommitState; README.md has the
 * diagram.  It changes at the first statement that changes something, at the
 * unlock of a lost lock, in the guard, and at the end.
 *
 * The guard runs as late as a transaction can still be refused: in
 * XACT_EVENT_PRE_COMMIT, or before a command that acts before its commit.
 * First it asks etcd, if commit_guard = etcd.  Then it has signals held back
 * and checks the locks: it sees a loss that happened before, and a later one
 * interrupts nobody (rule 30).  What follows (ON COMMIT actions, the WAL
 * flush, the wait for synchronous replication) is the window that remains; the
 * user's documentation describes it.
 *
 * Past the commit nothing may throw: a loss is noted in static memory, and
 * reported by the next statement (rule 31).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "session/commit.h"
#include "session/lock_check.h"
#include "session/lock_session.h"
#include "session/loss.h"
#include "session/loss_timer.h"
#include "shared/lock_name.h"
#include "shared/loss_signal.h"
#include "shared/settings.h"
#include "storage/ipc.h"

typedef enum CommitState
{
	XACT_READS,					/* changes nothing so far */
	XACT_CHANGES,				/* changes something, here or elsewhere */
	XACT_DOOMED,				/* a lost lock was unlocked after changes */
	XACT_COMMITTING				/* past the guard */
} CommitState;

/* The state of the transaction with this lxid; any other one only reads. */
static CommitState state = XACT_READS;
static LocalTransactionId state_lxid = InvalidLocalTransactionId;

static bool committing_changes; /* XACT_COMMITTING: does it change something? */

static LockName doomed_by;		/* XACT_DOOMED: the lock */

/*
 * Whether a command that acts before its commit has passed the guard; the
 * transaction in which it ends does not pass it again.
 */
static enum
{
	COMMAND_NONE,
	COMMAND_RUNS,
	COMMAND_DONE,
	COMMAND_COMMITS
}			command = COMMAND_NONE;

/*
 * Locks that were found lost past a commit; only the first one has its name
 * here.
 */
static struct
{
	int			nlocks;
	LockName	name;
	int64		token;
}			late;

/*
 * At a procedure's COMMIT, the signal for the loss of a lock that is still held
 * was held back: the start of the client's statement that has called the
 * procedure, any further statement of which is cancelled; or 0.
 */
static TimestampTz cancel_next = 0;

static bool registered = false;

/* ----------------------------------------------------------------
 *		Changes
 * ----------------------------------------------------------------
 */

static CommitState
get_state(void)
{
	if (state_lxid != compat_my_lxid())
		return XACT_READS;
	return state;
}

static void
set_state(CommitState new_state)
{
	state = new_state;
	state_lxid = compat_my_lxid();
}

bool
commit_is_watched(void)
{
	return lock_session_holds_any() || get_state() >= XACT_DOOMED ||
		command != COMMAND_NONE;
}

/* Any change on this server assigns a transaction id. */
static bool
changes(void)
{
	if (get_state() == XACT_READS && TransactionIdIsValid(GetTopTransactionIdIfAny()))
		set_state(XACT_CHANGES);
	return get_state() != XACT_READS;
}

/*
 * A lost lock is unlocked.  That releases the lock, but does not save what was
 * changed under it (rule 33).
 */
static void
unlocked_lost(LocalHold *local)
{
	if (!IsTransactionState() || !changes() || get_state() != XACT_CHANGES)
		return;
	doomed_by = local->name;
	set_state(XACT_DOOMED);
}

/* ----------------------------------------------------------------
 *		The guard
 * ----------------------------------------------------------------
 */

static void
refuse(const LockName *name, bool unknown, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_ETCD_LOCK_COMMIT_REFUSED),
			 unknown ?
			 errmsg("transaction was not committed because etcd lock \"%s\" could not be checked",
					lock_name_for_message(name)) :
			 errmsg("transaction was not committed because etcd lock \"%s\" was lost",
					lock_name_for_message(name)),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

/*
 * Without a lock of its own, the transaction must not commit.  If a lock of
 * the session is lost, the transaction must not change anything; one that only
 * reads gets a warning.
 */
static void
look_at(LocalHold *local, void *arg)
{
	bool		changing = *(bool *) arg;
	bool		has_tag = lock_session_has_tag(local);
	bool		lost = lock_session_is_lost(local);
	const char *hint = _("Retry the transaction.");

	if (local->nowners == 0 || !(lost || (changing && local->unknown)))
		return;
	if (!changing && !(has_tag && lock_session_in_transaction(local)))
	{
		if (has_tag && !local->told)
			ereport(WARNING,
					(errcode(ERRCODE_ETCD_LOCK_LOST),
					 errmsg("etcd lock \"%s\" of this session was lost",
							lock_name_for_message(&local->name)),
					 errhint("Release it with %s.", lock_session_unlock_function(local))));
		local->told = true;
		return;
	}

	if (has_tag && lost && lock_session_outlives_transaction(local))
		hint = psprintf(_("Release the lock with %s, acquire it again, and retry the transaction."),
						lock_session_unlock_function(local));
	refuse(&local->name, !lost,
		   !lost ?
		   _("Etcd did not respond, so it is unknown whether the lock is still held.") :
		   local->hold->lost ?
		   lock_session_loss_detail(local) :
		   _("The lease of this server ran out or was revoked; another server may have the lock."),
		   hint);
}

/* Act on interrupts that came before the signals were held back. */
static void
last_interrupts(void)
{
	MemoryContext context = CurrentMemoryContext;

	if (!InterruptPending)
		return;
	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
	}
	PG_CATCH();
	{
		loss_translate_cancel(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static void
forget_unknown(LocalHold *local, void *arg)
{
	local->unknown = false;
}

/* When this returns, the transaction will commit. */
static void
guard(bool changing)
{
	bool		looks = etcd_lock_commit_guard != COMMIT_GUARD_OFF;

	if (looks && get_state() == XACT_DOOMED)
		refuse(&doomed_by, false,
			   _("It was unlocked by this transaction, which had made changes, when it was lost already."),
			   _("Retry the transaction."));

	lock_session_foreach(forget_unknown, NULL);
	if (looks && changing && etcd_lock_commit_guard == COMMIT_GUARD_ETCD)
		lock_check_all();

	loss_signal_hold_back();
	set_state(XACT_COMMITTING);
	committing_changes = changing;
	if (looks)
		lock_session_foreach(look_at, &changing);
	last_interrupts();
}

/* The transaction goes on, so a signal that was held back is in time. */
static void
leave_guard(void)
{
	set_state(XACT_CHANGES);
	if (loss_signal_let_through())
		loss_signal_send(compat_my_procno(), MyProcPid);
}

/*
 * A statement is about to change something.  It may come from another module's
 * callback behind the guard, which has let a transaction pass that only read.
 */
void
commit_note_change(void)
{
	if (get_state() == XACT_READS)
		set_state(XACT_CHANGES);
	else if (get_state() == XACT_COMMITTING && !committing_changes)
	{
		leave_guard();
		PG_TRY();
		{
			guard(true);
		}
		PG_CATCH();
		{
			/* If the error is caught, the next change passes it, too. */
			loss_signal_hold_back();
			set_state(XACT_COMMITTING);
			committing_changes = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
}

/*
 * Begin a command that acts before its commit, such as DROP DATABASE and
 * COMMIT PREPARED. It may commit several times.  If it is part of a longer
 * transaction, it passes the guard now, and the transaction passes it again at
 * its end.
 */
void
commit_begin_command(bool in_transaction)
{
	if (!in_transaction)
	{
		guard(true);
		command = COMMAND_RUNS;
		return;
	}

	/* another module's callback runs it */
	if (get_state() == XACT_COMMITTING)
		return;
	PG_TRY();
	{
		guard(true);
	}
	PG_CATCH();
	{
		/* The error may be caught, and the transaction go on. */
		if (get_state() == XACT_COMMITTING)
			leave_guard();
		PG_RE_THROW();
	}
	PG_END_TRY();
	leave_guard();
}

/*
 * In a pipeline, a statement may follow such a command in the same
 * transaction, which then passes the guard at its end, too.
 */
void
commit_begin_statement(void)
{
	if (command != COMMAND_DONE)
		return;
	command = COMMAND_NONE;
	leave_guard();
}

void
commit_end_command(void)
{
	if (command == COMMAND_RUNS)
		command = COMMAND_DONE;
}

static void
pre_commit(bool changing)
{
	/* An exiting session only cleans up after itself. */
	if (proc_exit_inprogress)
		return;
	if (command == COMMAND_NONE)
	{
		guard(changing);
		return;
	}
	/* What other modules' callbacks run from now on is no further statement. */
	if (command == COMMAND_DONE)
		command = COMMAND_COMMITS;
	loss_signal_hold_back();
	set_state(XACT_COMMITTING);
	committing_changes = true;
}

static void
refuse_prepare(LocalHold *local, void *arg)
{
	if (lock_session_in_transaction(local))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has acquired etcd locks"),
				 errdetail("Lock \"%s\" would have to outlive the session.",
						   lock_name_for_message(&local->name))));
}

/* ----------------------------------------------------------------
 *		Past the commit: nothing here may throw
 * ----------------------------------------------------------------
 */

static void
note_late(LocalHold *local, void *arg)
{
	if (!lock_session_has_tag(local) || !lock_session_is_lost(local) || local->told)
		return;
	if (late.nlocks++ == 0)
	{
		late.name = local->name;
		late.token = local->token;
	}
	local->told = true;
}

static void
committed(void)
{
	lock_session_flush_commits();
	if (state == XACT_COMMITTING && committing_changes &&
		etcd_lock_commit_guard != COMMIT_GUARD_OFF && lock_session_any_lost())
		lock_session_foreach(note_late, NULL);
}

static void
is_any_lost(LocalHold *local, void *arg)
{
	bool	   *any = arg;

	*any = *any || (lock_session_has_tag(local) && lock_session_is_lost(local));
}

/* The transaction is over, and what it released is free. */
static void
transaction_released(void)
{
	bool		still_lost = false;

	if (state != XACT_COMMITTING || command == COMMAND_RUNS)
		return;
	state = XACT_READS;
	state_lxid = InvalidLocalTransactionId;
	if (command == COMMAND_COMMITS)
		command = COMMAND_NONE;
	if (!loss_signal_let_through() || proc_exit_inprogress)
		return;

	/*
	 * A signal that was held back matters only for what the session still
	 * holds.  If this was a procedure's COMMIT, there is something to cancel:
	 * its next statement.
	 */
	lock_session_foreach(is_any_lost, &still_lost);
	if (still_lost && etcd_lock_on_loss == ON_LOSS_TERMINATE)
		kill(MyProcPid, SIGTERM);
	if (still_lost && etcd_lock_on_loss == ON_LOSS_CANCEL && SPI_inside_nonatomic_context())
		cancel_next = GetCurrentStatementStartTimestamp();
}

static void
warn_late(int nlocks)
{
	ereport(WARNING,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 nlocks == 1 ?
			 errmsg("etcd lock \"%s\" was lost while the last transaction committed",
					lock_name_for_message(&late.name)) :
			 errmsg("etcd lock \"%s\" and %d more were lost while the last transaction committed",
					lock_name_for_message(&late.name), nlocks - 1),
			 errdetail("Its token was " INT64_FORMAT ".", late.token)));
}

/*
 * The next statement calls this, because a name may need a conversion, which
 * may fail.
 */
void
commit_tell(void)
{
	int			nlocks = late.nlocks;
	bool		cancel = cancel_next != 0 &&
		cancel_next == GetCurrentStatementStartTimestamp();

	late.nlocks = 0;
	cancel_next = 0;
	if (nlocks > 0)
		warn_late(nlocks);
	if (cancel)
		loss_cancel();
}

/* There will be no next statement. */
static void
session_ends(void)
{
	(void) loss_signal_let_through();
	if (late.nlocks > 0)
		ereport(LOG_SERVER_ONLY,
				(errcode(ERRCODE_ETCD_LOCK_LOST),
				 errmsg("etcd_lock: %d locks were lost while the last transaction of a session committed",
						late.nlocks),
				 errdetail("The token of one of them was " INT64_FORMAT ".", late.token)));
	late.nlocks = 0;
}

/* ----------------------------------------------------------------
 *		Callbacks
 * ----------------------------------------------------------------
 */

static void
xact_callback(XactEvent event, void *arg)
{
	if (!commit_is_watched())
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			lock_session_foreach(refuse_prepare, NULL);
			pre_commit(true);
			break;
		case XACT_EVENT_PRE_COMMIT:
			pre_commit(changes());
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			committed();
			break;
		case XACT_EVENT_ABORT:
			command = COMMAND_NONE;
			loss_timer_rearm();
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		loss_timer_rearm();
}

/*
 * Callbacks run newest first.  Another module's may do what cannot be undone,
 * such as postgres_fdw's, which commits remotely, and it may register at any
 * statement.  So we put ours in front again after each statement of a session
 * that holds a lock, and when it acquires one (rule 23).
 */
void
commit_to_front(void)
{
	if (registered)
		UnregisterXactCallback(xact_callback, NULL);
	else
		RegisterSubXactCallback(subxact_callback, NULL);
	RegisterXactCallback(xact_callback, NULL);
	registered = true;
}

void
commit_init(void)
{
	static const LockSessionCallbacks callbacks = {
		unlocked_lost, transaction_released, session_ends
	};

	lock_session_init(&callbacks);
}
