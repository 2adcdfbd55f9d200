/*-------------------------------------------------------------------------
 *
 * loss.c
 *	  Telling the user that a lock was lost.
 *
 * A running statement is cancelled, or the session terminated, at once
 * (etcd_lock.on_loss at the time of the loss): see loss_signal.c and
 * loss_timer.c.  PostgreSQL's own messages for that say "due to user request"
 * and "administrator command"; here they get the true reason.
 *
 * An idle session does not notice a cancel.  Its next statement that would
 * change something is refused; reading, unlocking and ROLLBACK are allowed,
 * and the commit guard stops whatever slips through (commit.c).
 *
 * One flag, LocalHold.told, says whether the user knows; every message about a
 * loss sets it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "session/loss.h"
#include "shared/lock_name.h"
#include "shared/loss_signal.h"
#include "shared/settings.h"
#include "storage/proc.h"

static emit_log_hook_type prev_emit_log = NULL;

/* Finds a lost lock, preferably one that the user was not told about. */
static void
find_lost(LocalHold *local, void *arg)
{
	LocalHold **found = arg;

	if (*found != NULL && !(*found)->told)
		return;
	if (local->nowners > 0 && local->hold != NULL &&
		lock_session_has_tag(local) && lock_session_is_lost(local))
		*found = local;
}

static LocalHold *
a_lost_hold(void)
{
	LocalHold  *found = NULL;

	if (lock_session_any_lost())
		lock_session_foreach(find_lost, &found);
	return found;
}

static LocalHold *
an_untold_hold(void)
{
	LocalHold  *lost = a_lost_hold();

	return lost == NULL || lost->told ? NULL : lost;
}

/*
 * After a reload, processes that are no backends get here, too, and have no
 * inbox.  A session that takes a lock says then what it wants.
 */
void
loss_assign_on_loss(int on_loss, void *extra)
{
	if (lock_session_holds_any())
		loss_signal_set_on_loss(on_loss);
}

static void
report_cancel(LocalHold *lost)
{
	lost->told = true;
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("canceling statement because etcd lock \"%s\" was lost",
					lock_name_for_message(&lost->name)),
			 errdetail_internal("%s", lock_session_loss_detail(lost)),
			 lock_session_outlives_transaction(lost) ?
			 errhint("Roll back, release the lock with %s, and retry.",
					 lock_session_unlock_function(lost)) :
			 errhint("Roll back, and retry.")));
}

void
loss_cancel(void)
{
	LocalHold  *lost = a_lost_hold();

	if (lost != NULL)
		report_cancel(lost);
}

void
loss_translate_cancel(MemoryContext context)
{
	LocalHold  *lost;

	if (geterrcode() != ERRCODE_QUERY_CANCELED)
		return;
	lost = an_untold_hold();
	if (lost == NULL)
		return;
	MemoryContextSwitchTo(context);
	FlushErrorState();
	report_cancel(lost);
}

void
loss_refuse_change(void)
{
	LocalHold  *lost;

	if (etcd_lock_commit_guard == COMMIT_GUARD_OFF)
		return;
	lost = a_lost_hold();
	if (lost == NULL)
		return;
	if (etcd_lock_on_loss == ON_LOSS_WARN)
	{
		if (!lost->told)
			ereport(WARNING,
					(errcode(ERRCODE_ETCD_LOCK_LOST),
					 errmsg("etcd lock \"%s\" was lost", lock_name_for_message(&lost->name)),
					 errhint("The transaction cannot be committed.")));
		lost->told = true;
		return;
	}
	lock_session_report_lost(lost);
}

/* ----------------------------------------------------------------
 *		The end of a session
 * ----------------------------------------------------------------
 */

/* While a statement runs, the error itself can name the lock. */
void
loss_error_context(void *arg)
{
	LocalHold  *lost;

	if (geterrcode() != ERRCODE_ADMIN_SHUTDOWN)
		return;
	lost = an_untold_hold();
	if (lost == NULL)
		return;
	lost->told = true;
	errcontext("loss of etcd lock \"%s\": %s", lock_name_for_message(&lost->name),
			   lock_session_loss_detail(lost));
}

/*
 * Otherwise, send a warning before the error: for an idle session, and for a
 * cancel outside of our hooks, such as that of a logical replication apply
 * worker.
 */
static void
explain(ErrorData *edata)
{
	static bool explaining = false;
	LocalHold  *lost;

	if (prev_emit_log)
		prev_emit_log(edata);
	if (explaining || MyProc == NULL || !lock_session_holds_any() ||
		!((edata->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN && edata->elevel == FATAL) ||
		  (edata->sqlerrcode == ERRCODE_QUERY_CANCELED && edata->elevel == ERROR)))
		return;
	lost = an_untold_hold();
	if (lost == NULL)
		return;
	lost->told = true;
	explaining = true;
	ereport(WARNING,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 errmsg("etcd lock \"%s\" was lost", lock_name_for_message(&lost->name)),
			 errdetail_internal("%s", lock_session_loss_detail(lost))));
	explaining = false;
}

void
loss_init(void)
{
	prev_emit_log = emit_log_hook;
	emit_log_hook = explain;
}
