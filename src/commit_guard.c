/*-------------------------------------------------------------------------
 *
 * commit_guard.c
 *	  A transaction that lost its lock does not commit.
 *
 * Looked at as late as a transaction may still be refused: in
 * XACT_EVENT_PRE_COMMIT.  What comes behind it (ON COMMIT actions, the WAL
 * flush, the wait for synchronous replication) is the window that remains;
 * the user's documentation names it.
 *
 *-------------------------------------------------------------------------
 */
#include "commit_guard.h"

#include "access/xact.h"
#include "lock_session.h"
#include "loss.h"
#include "miscadmin.h"

static bool registered = false;
static LocalTransactionId notified_in = InvalidLocalTransactionId;

static char *
user_name_of(const LocalHold *local)
{
	return lock_name_for_user(local->name.key, local->name.namespace_len,
							  &local->name.tag);
}

static bool
has_xact_count(const LocalHold *local)
{
	for (int i = 0; i < local->nowners; i++)
	{
		if (local->owners[i].owner != NULL)
			return true;
	}
	return false;
}

static void
refuse_commit(const LocalHold *local, LockCheck check, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_ETCD_LOCK_COMMIT_REFUSED),
			 check == LOCK_CHECK_UNKNOWN ?
			 errmsg("transaction was not committed because etcd lock \"%s\" could not be checked",
					user_name_of(local)) :
			 errmsg("transaction was not committed because etcd lock \"%s\" was lost",
					user_name_of(local)),
			 errdetail_internal("%s", detail),
			 has_xact_count(local) ?
			 errhint("Retry the transaction.") :
			 errhint("Release the lock with etcd_unlock(), acquire it anew, and retry the transaction.")));
}

/*
 * A lock of the transaction: it must not commit without.  A lock of the
 * session: it must not change anything; reading is let through with a
 * warning.
 */
static void
guard_hold(LocalHold *local, void *arg)
{
	bool		changes = *(bool *) arg;
	LockCheck	check = LOCK_CHECK_LOST;

	if (local->hold == NULL || local->nowners == 0 ||
		!lock_session_has_tag(local))
		return;

	if (lock_table_hold_valid(local->hold))
	{
		check = LOCK_CHECK_HELD;
		if (etcd_lock_commit_guard == COMMIT_GUARD_ETCD)
			check = lock_check(local);
	}
	if (check == LOCK_CHECK_HELD)
		return;

	if (has_xact_count(local) || changes)
		refuse_commit(local, check,
					  check == LOCK_CHECK_UNKNOWN ?
					  _("Etcd did not answer, so nobody knows whether it is still held.") :
					  local->hold->lost ?
					  _("Its key was deleted from etcd.") :
					  _("The lease of this server ran out or was revoked; another server may have the lock."));
	else if (!local->warned)
	{
		local->warned = true;
		ereport(WARNING,
				(errcode(ERRCODE_ETCD_LOCK_LOST),
				 errmsg("etcd lock \"%s\" of this session was lost",
						user_name_of(local)),
				 errhint("Release it with etcd_unlock().")));
	}
}

/*
 * After the commit: too late to refuse, but not to tell.  Nothing may throw
 * here: the name is made such that it needs no conversion.
 */
static void
warn_late(LocalHold *local, void *arg)
{
	if (local->hold == NULL || local->nowners == 0 ||
		!lock_session_has_tag(local) || lock_table_hold_valid(local->hold))
		return;
	ereport(WARNING,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 errmsg("etcd lock \"%s\" was lost while the transaction committed",
					user_name_of(local)),
			 errdetail("Its token was " INT64_FORMAT ".", local->token)));
}

static void
guard(bool changes)
{
	if (etcd_lock_commit_guard != COMMIT_GUARD_OFF)
		lock_session_foreach(guard_hold, &changes);
}

void
commit_guard_check_all(void)
{
	guard(true);
}

static void
refuse_prepare(LocalHold *local, void *arg)
{
	if (has_xact_count(local))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has acquired etcd locks"),
				 errdetail("Lock \"%s\" would have to outlive the session.",
						   user_name_of(local))));
}

static void
xact_callback(XactEvent event, void *arg)
{
	bool		changes;

	if (!lock_session_holds_any())
		return;
	changes = TransactionIdIsValid(GetTopTransactionIdIfAny()) ||
		notified_in == compat_my_lxid();
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			lock_session_foreach(refuse_prepare, NULL);
			guard(true);
			break;
		case XACT_EVENT_PRE_COMMIT:
			guard(changes);
			break;
		case XACT_EVENT_COMMIT:
			lock_session_flush_commits();
			if (changes && etcd_lock_commit_guard != COMMIT_GUARD_OFF)
				lock_session_foreach(warn_late, NULL);
			break;
		case XACT_EVENT_ABORT:
			loss_rearm();
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
		loss_rearm();
}

/*
 * Callbacks run newest first.  Another module's may do what cannot be undone,
 * as postgres_fdw's commits remotely, and it may register at any statement; so
 * ours is put in front again after each statement of a session that holds a
 * lock, and when it acquires one (rule 23).  Not to be called by a callback.
 */
void
commit_guard_to_front(void)
{
	if (registered)
		UnregisterXactCallback(xact_callback, NULL);
	else
		RegisterSubXactCallback(subxact_callback, NULL);
	RegisterXactCallback(xact_callback, NULL);
	registered = true;
}

/* NOTIFY changes something, though it has no transaction id before it commits. */
void
commit_guard_note_notify(void)
{
	notified_in = compat_my_lxid();
}
