/*-------------------------------------------------------------------------
 *
 * deadlock.c
 *	  Deadlocks on this server that PostgreSQL does not see, and such that it
 *	  sees where there are none.
 *
 * A session that drains (rule 21) waits for those who share the lock here, and
 * has no place in PostgreSQL's lock manager meanwhile.  One of them may wait for
 * its transaction: CREATE INDEX CONCURRENTLY does for its snapshot, others for a
 * row that it has changed.  Then neither would ever go on.  As elsewhere it is
 * the waiter that ends, not the holder.
 *
 * The other way round, whoever stands in the queue ahead of a session that is in
 * a deadlock with the holder may find that deadlock by its own check, and is ended
 * though nobody waits for it.
 *
 *-------------------------------------------------------------------------
 */
#include "deadlock.h"

#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

/* Enough to find out by; those beyond are looked at when these have gone. */
#define MAX_HOLDERS		64

/* Those whom PostgreSQL lets this process wait for; no duplicates in the list. */
static List *
add_blockers(List *pids, int pid)
{
	ArrayType  *array = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids,
															   Int32GetDatum(pid)));
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	const int32 *blockers = (const int32 *) ARR_DATA_PTR(array);

	for (int i = 0; i < n; i++)
		pids = list_append_unique_int(pids, blockers[i]);
	return pids;
}

/*
 * The process id of a session that holds the lock on this server and waits for
 * us, be it by way of others; 0: there is none.
 */
int
deadlock_with_holder(LockHold *hold)
{
	int			holders[MAX_HOLDERS];
	int			n = lock_table_holders(hold, holders, MAX_HOLDERS);
	int			found = 0;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etcd_lock deadlock check",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int i = 0; i < n && found == 0; i++)
	{
		List	   *pids = list_make1_int(holders[i]);

		/* The list grows while we go through it. */
		for (int j = 0; j < list_length(pids); j++)
			pids = add_blockers(pids, list_nth_int(pids, j));
		if (list_member_int(pids, MyProcPid))
			found = holders[i];
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return found;
}

/* Does anybody wait for a lock of PostgreSQL's that we hold? */
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
