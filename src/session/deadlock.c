/*-------------------------------------------------------------------------
 *
 * deadlock.c
 *	  Deadlocks that PostgreSQL cannot detect, and false positives.
 *
 * Those over several servers are found by the workers (worker/deadlock_worker.c); here is
 * what their victim is told.
 *
 * On this server, a session that drains (rule 21) waits for those who share the lock here, and
 * has no place in PostgreSQL's lock manager meanwhile.  One of them may wait for
 * its transaction: CREATE INDEX CONCURRENTLY does for its snapshot, others for a
 * row that it has changed.  Then neither would ever go on.  As elsewhere it is
 * the waiter that ends, not the holder.
 *
 * Conversely, a session that is in the queue ahead of one that is in a
 * deadlock with the holder may find that deadlock by its own check, and is
 * ended although nobody waits for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "pgstat.h"
#include "session/deadlock.h"
#include "shared/deadlock_report.h"
#include "shared/lease_id.h"
#include "shared/local_waits.h"
#include "shared/lock_holds.h"
#include "shared/lock_text.h"
#include "storage/lmgr.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"

/*
 * Returns the process id of a session that holds the lock on this server and
 * waits for us, directly or through others, or 0.
 */
int
deadlock_with_holder(LockHold *hold)
{
	int			found = 0;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etcd_lock deadlock check",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int		   *holders = palloc(MaxBackends * sizeof(int));
	int			n = lock_hold_others(hold, holders, MaxBackends);

	for (int i = 0; i < n && found == 0; i++)
	{
		List	   *pids = list_make1_int(holders[i]);

		/* The list grows while we go through it. */
		for (int j = 0; j < list_length(pids); j++)
			pids = local_wait_add_blockers(pids, list_nth_int(pids, j));
		if (list_member_int(pids, MyProcPid))
			found = holders[i];
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return found;
}

/* Does anybody wait for a PostgreSQL lock that we hold? */
bool
deadlock_is_ours(void)
{
	LockData   *data = GetLockStatusData();

	for (int i = 0; i < data->nelements; i++)
	{
		const LockInstanceData *held = &data->locks[i];

		if (held->pid != MyProcPid || held->holdMask == 0)
			continue;
		for (int j = 0; j < data->nelements; j++)
		{
			const LockInstanceData *wanted = &data->locks[j];

			if (wanted->pid != MyProcPid && wanted->waitLockMode != NoLock &&
				memcmp(&wanted->locktag, &held->locktag, sizeof(LOCKTAG)) == 0)
				return true;
		}
	}
	return false;
}

/* ----------------------------------------------------------------
 *		Over several servers
 * ----------------------------------------------------------------
 */

/* Another server may have modes that we do not know. */
static const char *
mode_name(int mode)
{
	return mode > NoLock && mode <= MaxLockMode ?
		GetLockmodeName(DEFAULT_LOCKMETHOD, mode) : _("an unknown mode");
}

static void
append_lock(StringInfo buf, const DeadlockProcess *process)
{
	LOCKTAG		tag;

	switch (process->kind)
	{
		case DEADLOCK_WAIT_UNTOLD:
			appendStringInfoString(buf, _("a lock"));
			break;
		case DEADLOCK_WAIT_NAME:
			appendStringInfo(buf, _("%s on "),
							 mode_name(process->mode));
			if (process->name[0] == '\0')
				appendStringInfoString(buf, _("an etcd lock of another namespace"));
			else
				appendStringInfo(buf, _("etcd lock \"%s\""),
								 lock_text_etcd_message(process->name));
			break;
		case DEADLOCK_WAIT_TAG:
			tag.locktag_field1 = process->tag[0];
			tag.locktag_field2 = process->tag[1];
			tag.locktag_field3 = process->tag[2];
			tag.locktag_field4 = (uint16) process->tag[3];
			tag.locktag_type = (uint8) process->tag[4];
			tag.locktag_lockmethodid = (uint8) process->tag[5];
			appendStringInfo(buf, _("%s on "), mode_name(process->mode));
			DescribeLockTag(buf, &tag);
			break;
	}
}

/* The servers of all processes of the path, and in which order those are told. */
typedef struct Told
{
	const DeadlockProcess *process;
	const DeadlockHop *hop;
} Told;

/* The victim comes first, as in core: it is the last process of the first hop. */
static void
put_in_order(const DeadlockProbe *probe, Told *told)
{
	int			skipped = probe->hops[0].nprocesses - 1;
	int			at = 0;

	for (int i = 0; i < probe->nhops; i++)
	{
		for (int j = 0; j < probe->hops[i].nprocesses; j++, at++)
		{
			Told	   *one = &told[(at - skipped + probe->nprocesses) % probe->nprocesses];

			one->process = &probe->processes[at];
			one->hop = &probe->hops[i];
		}
	}
}

/*
 * Each process and what it waits for, in core's words.  Not the queries: they would have
 * to go through etcd, where others may read them.
 */
static char *
describe_path(const Told *told, int n)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < n; i++)
	{
		const Told *next = &told[(i + 1) % n];

		if (i > 0)
			appendStringInfoChar(&buf, '\n');
		appendStringInfo(&buf, _("Process %d of server \"%s\" waits for "),
						 told[i].process->pid, lock_text_etcd_message(told[i].hop->server));
		append_lock(&buf, told[i].process);
		appendStringInfo(&buf, _("; blocked by process %d of server \"%s\"."),
						 next->process->pid, lock_text_etcd_message(next->hop->server));
	}
	return buf.data;
}

/* The same for the log, with the queries of this server's processes. */
static char *
describe_queries(const Told *told, int n, const char *path)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, path);
	for (int i = 0; i < n; i++)
	{
		if (told[i].hop->lease == (uint64) lease_id())
			appendStringInfo(&buf, _("\nProcess %d: %s"), told[i].process->pid,
							 pgstat_get_backend_current_activity(told[i].process->pid, false));
	}
	return buf.data;
}

/* Report why the worker has ended our wait. */
void
deadlock_raise_cycle(const LockHold *hold)
{
	DeadlockProbe *probe = palloc(sizeof(DeadlockProbe));
	Told		told[DEADLOCK_PROBE_MAX_PROCESSES];
	char	   *path;

	if (!deadlock_report_get(hold->wait_number, probe))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
				 errmsg("deadlock detected"),
				 errdetail("Sessions of several servers wait for each other.")));
	put_in_order(probe, told);
	path = describe_path(told, probe->nprocesses);
	ereport(ERROR,
			(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
			 errmsg("deadlock detected"),
			 errdetail_internal("%s", path),
			 errdetail_log("%s", describe_queries(told, probe->nprocesses, path)),
			 errhint("See server log for query details.")));
}
