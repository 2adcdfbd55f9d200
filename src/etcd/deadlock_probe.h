/*-------------------------------------------------------------------------
 *
 * deadlock_probe.h
 *	  A path of waits through several servers, as they pass it on.
 *
 * Independent of PostgreSQL.  README.md, "Deadlocks over several servers",
 * explains what it is for.  All text is UTF-8.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLOCK_PROBE_H
#define DEADLOCK_PROBE_H

#include "etcd/etcd_holder.h"
#include "etcd/key_layout.h"

/* Longer paths are not followed. */
#define DEADLOCK_PROBE_MAX_HOPS			16
#define DEADLOCK_PROBE_MAX_PROCESSES	32

/* Longest message, in bytes: a path of that length with the longest texts is shorter. */
#define DEADLOCK_PROBE_MAX_SIZE			(32 * 1024)

/* Identifies a key of a server: its serial, and when it was created. */
typedef struct DeadlockKey
{
	uint64_t	serial;
	int64_t		create_revision;
} DeadlockKey;

/* What a process waits for, which its server adds in the second round. */
typedef enum DeadlockWaitKind
{
	DEADLOCK_WAIT_UNTOLD,
	DEADLOCK_WAIT_TAG,			/* a lock of PostgreSQL's */
	DEADLOCK_WAIT_NAME			/* an etcd lock */
} DeadlockWaitKind;

typedef struct DeadlockProcess
{
	int32_t		pid;
	uint64_t	wait;			/* which of its waits it is: its server's own
								 * number */
	DeadlockWaitKind kind;
	int			mode;			/* PostgreSQL's */
	uint32_t	tag[6];			/* a lock tag's fields, its type and method */
	char		name[KEY_LAYOUT_MAX_NAME + 1];	/* of the lock, without
												 * namespace; empty: not to be
												 * told */
} DeadlockProcess;

/*
 * One server's part of the path.  The server before it waits for the key "held", by
 * which its first process has a lock, or is ahead in the queue.  Each process
 * waits for the next one, and the last one waits in etcd's queue with the key "wanted",
 * behind the next server's.
 */
typedef struct DeadlockHop
{
	uint64_t	lease;
	char		ns[ETCD_HOLDER_TEXT];	/* of the server's sentinel */
	DeadlockKey held;			/* of the first hop: not known in the first
								 * round */
	DeadlockKey wanted;
	bool		exclusive;		/* the mode of the latter */
	int			nprocesses;
	char		server[ETCD_HOLDER_TEXT];	/* told in the second round */
} DeadlockHop;

typedef struct DeadlockProbe
{
	int			round;			/* 1: is there a cycle?  2: is it still there? */
	uint64_t	number;			/* drawn by the first server for this round */
	DeadlockKey to;				/* round 1: the receiver's key, for which the
								 * last hop waits */
	int			at;				/* round 2: the receiver's hop */
	bool		tells_names;	/* round 2: names of this namespace may be */
	char		names_ns[ETCD_HOLDER_TEXT];

	int			nhops;
	DeadlockHop hops[DEADLOCK_PROBE_MAX_HOPS];
	int			nprocesses;		/* of all hops, in their order */
	DeadlockProcess processes[DEADLOCK_PROBE_MAX_PROCESSES];
} DeadlockProbe;

/*
 * The message, malloc'd; NULL: out of memory, or it is too long.  Decoding: false if it
 * is none, or one that no server of ours makes.
 */
extern unsigned char *deadlock_probe_encode(const DeadlockProbe *probe, size_t *len);
extern bool deadlock_probe_decode(const void *data, size_t len, DeadlockProbe *probe);

/* The first process of a hop, in probe->processes. */
extern int	deadlock_probe_first_process(const DeadlockProbe *probe, int hop);

/* What becomes of a path that has come to a server's wait with the key "wanted". */
typedef enum DeadlockVerdict
{
	DEADLOCK_GOES_ON,
	DEADLOCK_CLOSED,			/* it is the wait with which the path began */
	DEADLOCK_DROPPED			/* a younger wait is on it, which looks for
								 * itself; or it never ends */
} DeadlockVerdict;

extern DeadlockVerdict deadlock_probe_decide(const DeadlockProbe *probe, uint64_t lease,
											 const DeadlockKey *wanted);

/* Another hop, without processes.  False: there is no room. */
extern DeadlockHop *deadlock_probe_add_hop(DeadlockProbe *probe);

/* Another process, of the last hop; NULL: there is no room. */
extern DeadlockProcess *deadlock_probe_add_process(DeadlockProbe *probe);

/*
 * The path has come back: these are the processes of the first hop, from the key "held"
 * on.  False: there is no room.
 */
extern bool deadlock_probe_close(DeadlockProbe *probe, const DeadlockKey *held,
								 const DeadlockProcess *processes, int nprocesses);

/* Do both follow the same waits?  What is told in the second round is not looked at. */
extern bool deadlock_probe_same_path(const DeadlockProbe *a, const DeadlockProbe *b);

#endif							/* DEADLOCK_PROBE_H */
