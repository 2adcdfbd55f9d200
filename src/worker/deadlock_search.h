/*-------------------------------------------------------------------------
 *
 * deadlock_search.h
 *	  From a key of this server to the sessions that its users wait for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLOCK_SEARCH_H
#define DEADLOCK_SEARCH_H

#include "etcd/deadlock_probe.h"
#include "worker/name.h"

/* A session that waits in etcd's queue, on which a user of the key depends. */
typedef struct DeadlockFound
{
	int			process;		/* in DeadlockSearch.processes */
	DeadlockKey wanted;			/* the key that it waits with */
	bool		exclusive;
} DeadlockFound;

/* A process that was reached. */
typedef struct DeadlockReached
{
	int			pid;
	int			parent;			/* the one that waits for it; -1: it uses the
								 * key */
	uint64		wait;			/* local_wait_stamp() */
} DeadlockReached;

/* Deadlocks through more sessions of a server are not found. */
#define DEADLOCK_SEARCH_MAX_PROCESSES	1000

typedef struct DeadlockSearch
{
	bool		waits_itself;	/* the key itself waits in its queue, too */
	int			nprocesses;
	int			next;			/* to be looked at */
	DeadlockReached processes[DEADLOCK_SEARCH_MAX_PROCESSES];
	int			nfound;			/* at most one for each key */
	DeadlockFound found[DEADLOCK_SEARCH_MAX_PROCESSES];
} DeadlockSearch;

/*
 * Returns our key as it is in etcd, or NULL if there is none, or it is being
 * deleted.
 */
extern WorkerKey *deadlock_search_key(const DeadlockKey *key, LockKey *shared);

/*
 * Begin returns false if there is no such key.  Step visits *budget processes;
 * true: done.
 */
extern bool deadlock_search_begin(DeadlockSearch *search, const DeadlockKey *key);
extern bool deadlock_search_step(DeadlockSearch *search, int *budget);

/*
 * Get the processes from the key's user to what was found; returns how many
 * there are.
 */
extern int	deadlock_search_path(const DeadlockSearch *search, const DeadlockFound *found,
								 DeadlockProcess *processes);

/*
 * Are these still the same waits, from a user of "held" on to the wait for "wanted"?
 */
extern bool deadlock_search_confirm(const DeadlockHop *hop, const DeadlockProcess *processes);

/* Is our key "wanted" behind this key of another server? */
extern bool deadlock_search_is_behind(const DeadlockKey *wanted, uint64 lease,
									  const DeadlockKey *other);

/*
 * Record what they wait for; names of locks only if of this namespace (NULL:
 * none).
 */
extern void deadlock_search_tell(DeadlockProcess *processes, int n, const char *names_ns);

#endif							/* DEADLOCK_SEARCH_H */
