/*-------------------------------------------------------------------------
 *
 * sim.h
 *	  What runs in the simulator: processes of several servers, one at a time.
 *
 * Each process is a coroutine that runs the extension's code, in a copy of
 * libserver.so of its own, so that its static variables are its own.  It runs
 * until it waits, or until it is interrupted at one of the points where the
 * stand-ins of PostgreSQL's functions call sim_step().  Time stands still
 * meanwhile: it is a number that the next event sets.
 *
 * This header is all that the two sides know of each other: the simulator's
 * program, and libserver.so (the extension and pg/).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_H
#define SIM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Process numbers of a server: the worker's, then the sessions'. */
#define SIM_WORKER_PROCNO	0
#define SIM_MAX_PROCS		24

#define SIM_FOREVER			INT64_MAX

/* ---- time, microseconds ---- */

typedef enum SimClock
{
	SIM_BOOTTIME,
	SIM_RAW,
	SIM_WALL					/* since 1970 */
} SimClock;

extern int64_t sim_now(void);	/* true time; nobody in a server knows it */
extern int64_t sim_clock(SimClock clock);	/* as the running process reads it */

/* Until when, in true time, that clock will have advanced by so much. */
extern int64_t sim_after(int64_t microseconds);

/* ---- the running process ---- */

extern int	sim_procno(void);
extern int	sim_pid(void);
extern int	sim_server(void);

/* Wait until then, or until it is woken: true. */
extern bool sim_block(int64_t until);

/* Others may run here.  True: they did. */
extern bool sim_step(void);

/* The process does not run for so long, whatever comes. */
extern void sim_stop_for(int64_t delay);

/* Signals that have come since: bits by their numbers. */
extern uint32_t sim_take_signals(void);
extern void sim_exit(int code) __attribute__((noreturn));

/* A seed's random number, for whom in the server it is. */
extern uint64_t sim_random_number(void);

/* The process has made this number of such ones. */
extern void sim_drew(uint64_t number);

/* The server's setting of this name; NULL: its default. */
extern const char *sim_setting(const char *name);

/* Is the server being shut down?  (It stands in postmaster.pid.) */
extern bool sim_stopping(void);

/* Of the running process's copy of the library. */
extern void *sim_symbol(const char *name);

/* The how manieth time is the server's machine on? */
extern int	sim_boot(void);

/*
 * The transaction has committed, after so many locks of the session's were lost
 * before anybody looked.  guarded: the session has any.
 */
extern void sim_committed(bool changes, int lost, bool guarded);

/* Likewise a part of it, on another server. */
extern void sim_committed_elsewhere(int lost, bool guarded);

/* A transaction is about to commit: what does the session believe to have? */
extern void sim_commit_begins(void);

/* May a session that runs a statement be interrupted by somebody's hand? */
extern bool sim_may_interrupt(void);

/* The session has a lock of this name from now on, in one more mode; no longer. */
extern void sim_hold_begins(const char *name);
extern void sim_hold_ends(const char *name);

/* The server's lease is over, as its worker, which runs, has just found out. */
extern void sim_epoch_ends(void);

/* Something that must not happen has happened in the running process. */
extern void sim_wrong(const char *what);

/* Should what may fail do so now?  what: for the trace */
extern bool sim_should_fail(const char *what);

/* ---- others of the same server ---- */

extern void sim_signal(int pid, int sig);
extern void sim_wake_pid(int pid);

/* LWLocks: wait until somebody releases it. */
extern void sim_wait_on(const void *lock);

/* The same for a while; a signal ends it, too. */
extern void sim_wait_on_until(const void *lock, int64_t until);
extern void sim_released(const void *lock);

/* Zeroed shared memory of this name. */
extern void *sim_shmem(const char *name, size_t size, bool *found);
extern size_t sim_shmem_size(const char *name);

/* Nobody else runs, as while the postmaster starts or somebody checks. */
extern bool sim_checking;

/* ---- PostgreSQL's lock manager, the part that processes share ---- */

typedef struct SimLockTag
{
	unsigned char bytes[16];
} SimLockTag;

typedef enum SimLockResult
{
	SIM_LOCK_GRANTED,
	SIM_LOCK_WOULD_WAIT,
	SIM_LOCK_WAITING			/* in its queue now */
} SimLockResult;

extern SimLockResult sim_lock_ask(const SimLockTag *tag, int mode, bool wait);
extern bool sim_lock_is_granted(void);	/* what this process waits for? */
extern bool sim_lock_granted(void); /* likewise, and then it waits no more */
extern void sim_lock_stop_waiting(void);	/* if it does */
extern void sim_lock_release(const SimLockTag *tag, int mode);
extern bool sim_lock_deadlock(void);	/* does this process wait in a circle? */
extern bool sim_lock_waited_for(void);	/* does anybody wait for this process? */

/* What each process holds and waits for: fn for each pair. */
extern void sim_lock_foreach(void (*fn) (void *arg, int pid, const SimLockTag *tag,
										 int held_mask, int wait_mode), void *arg);

/* Whom the process waits for; how many. */
extern int	sim_lock_blockers(int pid, int *pids, int max);
extern void sim_check_victim(int pid);	/* of a deadlock over several servers */

/* ---- tracing ---- */

extern bool sim_tracing;
extern void sim_trace_line(const char *format,...) __attribute__((format(printf, 1, 2)));

/* What it says is made only if somebody reads it. */
#define sim_trace(...) \
	do { \
		if (sim_tracing) \
			sim_trace_line(__VA_ARGS__); \
	} while (0)

#endif							/* SIM_H */
