/*-------------------------------------------------------------------------
 *
 * local_waits.h
 *	  Which session of this server waits for which others, for any lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCAL_WAITS_H
#define LOCAL_WAITS_H

#include "nodes/pg_list.h"
#include "shared/lock_table.h"

/* What a session that has asked for an etcd lock waits for. */
typedef struct LocalWait
{
	uint64		number;			/* different for each wait of the process */
	TimestampTz since;
	LockHoldState state;		/* not HOLD_HOLDING */
	LockMode	mode;
	char		name[ETCD_LOCK_MAX_KEY + 1];	/* of the lock, with its
												 * namespace in front */
	int			namespace_len;

	/* HOLD_ASKED: the key that waits in etcd's queue; serial 0: none */
	uint64		key_id;
	uint64		serial;
	int64		create_revision;
} LocalWait;

/* The caller holds the lock of the entry's partition exclusively. */
extern void local_wait_begin(LockHold *hold);
extern void local_wait_end(LockHold *hold);

/* Returns false if it does not wait for an etcd lock; tries do not wait. */
extern bool local_wait_get(int pid, LocalWait *wait);

/*
 * Adds the processes that this one waits for within the server to the list,
 * each of them once: those that hold, or are ahead for, a PostgreSQL lock, and
 * those that have to release a key that it may not join.  Parallel workers
 * count as their leader.
 */
extern List *local_wait_add_blockers(List *pids, int pid);

/*
 * Distinguishes waits of a process: it is unchanged only if the process has
 * not stopped waiting since.  *is_long: it has lasted for deadlock_timeout.
 */
extern uint64 local_wait_stamp(int pid, bool *is_long);

/*
 * End the wait of a session by this failure, if it is still this wait, for this key.
 */
extern bool local_wait_fail(int pid, const LocalWait *wait, const LockFailure *failure);

#endif							/* LOCAL_WAITS_H */
