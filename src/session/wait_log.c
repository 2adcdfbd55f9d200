/*-------------------------------------------------------------------------
 *
 * wait_log.c
 *	  log_lock_waits for waits that PostgreSQL's lock manager does not see.
 *
 * A session that has waited for another server for longer than deadlock_timeout
 * logs that, and who holds the lock, and logs again when it has acquired the
 * lock, in the words of ProcSleep().  The value of the key at the head of the
 * queue, or its note (held_keys.c), tells who holds the lock: the session asks
 * the worker, and the worker asks etcd.  If there is no answer within a moment,
 * the session logs what it knows.
 *
 * The question is a flag in the hold and one in the entry, the answer a text in
 * LockProc; the entry's lock protects all of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "session/wait_log.h"
#include "shared/lock_holds.h"
#include "shared/lock_text.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How long to wait for the answer, microseconds. */
#define ANSWER_WAIT			INT64CONST(1000000)

/* Returns NULL if there is no answer yet. */
char *
wait_log_get_holder(LockHold *hold)
{
	char		sentence[LOCK_HOLDER_TEXT];

	if (!lock_hold_get_holder(hold, sentence))
		return NULL;
	return lock_text_for_user(sentence, strlen(sentence));
}

static char *
name_of(const LocalHold *local)
{
	return lock_name_for_message(&local->name);
}

static void
log_waiting(const WaitLog *log, LocalHold *local, const char *detail)
{
	int64		waited = clock_now() - log->since;

	ereport(LOG,
			(errmsg("process %d still waiting for %s on etcd lock \"%s\" after %lld.%03d ms",
					MyProcPid,
					GetLockmodeName(DEFAULT_LOCKMETHOD, lock_session_pgmode(local->mode)),
					name_of(local), (long long) (waited / 1000), (int) (waited % 1000)),
			 errdetail_log("%s", detail)));
}

/* Called each time the session checks whether it has the lock. */
void
wait_log_tick(WaitLog *log, LocalHold *local, bool draining)
{
	int64		now = clock_now();
	char	   *holder;

	if (log->since == 0)
		log->since = now;
	if (!log_lock_waits || log->logged ||
		now - log->since < (int64) DeadlockTimeout * 1000)
		return;

	if (draining)
	{
		log->logged = true;
		log_waiting(log, local,
					_("It is shared here; another server that waits for it exclusively comes first."));
		return;
	}
	if (log->asked_at == 0)
		log->asked_at = now;
	else
	{
		holder = wait_log_get_holder(local->hold);
		if (holder != NULL || now - log->asked_at >= ANSWER_WAIT)
		{
			log->logged = true;
			log_waiting(log, local, holder != NULL ? holder :
						_("Etcd does not tell who holds the lock."));
			return;
		}
	}

	/*
	 * Again, as long as there is no answer: at first the holder may be
	 * unknown.
	 */
	lock_hold_ask_holder(local->hold, true);
}

/* When to call wait_log_tick() at the latest; on clock_now(). */
int64
wait_log_next_time(const WaitLog *log)
{
	if (!log_lock_waits || log->logged || log->asked_at != 0)
		return PG_INT64_MAX;
	return log->since + (int64) DeadlockTimeout * 1000;
}

void
wait_log_granted(const WaitLog *log, LocalHold *local)
{
	int64		waited = clock_now() - log->since;

	if (!log->logged)
		return;
	ereport(LOG,
			(errmsg("process %d acquired %s on etcd lock \"%s\" after %lld.%03d ms",
					MyProcPid,
					GetLockmodeName(DEFAULT_LOCKMETHOD, lock_session_pgmode(local->mode)),
					name_of(local), (long long) (waited / 1000), (int) (waited % 1000))));
}
