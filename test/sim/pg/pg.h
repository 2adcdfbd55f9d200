/*-------------------------------------------------------------------------
 *
 * pg.h
 *	  What the stand-ins of PostgreSQL's functions share among each other.
 *
 * Each process of a server has all of it to itself.  Real are PostgreSQL's
 * headers and the few functions from libpgcommon and libpgport; README.md lists
 * what is not.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_PG_H
#define SIM_PG_H

#include "postgres.h"

#include "sim.h"
#include "sim_image.h"
#include "utils/resowner.h"
#include "utils/timeout.h"

/* error.c */
extern void pg_error_to_result(SimResult *result);
extern SimResult *pg_result;	/* of the statement that runs: for warnings */

/* memory.c */
extern void pg_memory_init(void);
extern void pg_free_memory(void);
extern size_t pg_memory(void);

/* process.c */
extern void pg_step(void);		/* others may run; then signals are delivered */
extern void pg_deliver(void);
extern int64_t pg_next_timer(void);
extern void pg_disable_all_timeouts(void);
extern bool pg_get_timeout_indicator(TimeoutId id);
extern void pg_lwlock_release_all(void);
extern bool pg_doing_command_read;
extern void pg_attach_shmem(SimProc *proc);
extern void pg_process_init(SimProc *proc);
extern void pg_pause(int64_t microseconds);

/* lock.c */
extern void pg_locks_release_xact(void);
extern void pg_locks_release_session(void);
extern void pg_locks_reassign(ResourceOwner from, ResourceOwner to);
extern void pg_locks_release_owner(ResourceOwner owner);
extern void pg_lock_row(int row);

/* xact.c */
extern bool pg_in_transaction(void);
extern bool pg_in_block(void);
extern bool pg_transaction_failed(void);
extern void pg_start_transaction(bool block);
extern void pg_commit_transaction(void);
extern int64_t pg_prepare_transaction(void);
extern int64_t pg_any_prepared(void);
extern void pg_rollback_prepared(int64_t number);
extern void pg_commit_prepared(int64_t number, int lost);	/* as its command began */
extern void pg_abort_transaction(void); /* after an error: a block waits for ROLLBACK */
extern void pg_rollback(void);
extern void pg_begin_block(void);
extern void pg_end_block(void);
extern void pg_savepoint(void);
extern bool pg_rollback_to(void);
extern bool pg_release(void);
extern bool pg_commits_are_flushed(void);	/* this session's */
extern void pg_assign_xid(void);
extern void pg_change_elsewhere(void);	/* by a statement, without a transaction id */
extern bool pg_is_past_commit(void);
extern void pg_gave_up_all(void);	/* this transaction, its session's locks */
extern void pg_load_module(void);	/* another one than ours */
extern void pg_before_unlock(void);	/* of a session's locks, by whatever function */
extern void pg_after_unlock(void);
extern ResourceOwner pg_open_portal(void);
extern void pg_close_portal(ResourceOwner portal);

/* backend.c */
extern void pg_run_update(void);	/* as another module's statement */

/* of this session, in the shared table, but no longer valid */
extern int	pg_lost_holds(void);
extern bool pg_any_hold(void);	/* does this session have any lock? */

/* views.c: look at them all; did they show this lock of this session's? */
extern void pg_look_at_views(void);
extern bool pg_locks_show(const char *name, bool exclusive, int64_t token);
extern bool pg_queue_shows(const char *name, int64_t revision);

/* left_over.c, left_over_worker.c: see SimImage */
extern int	pg_left_over(char *what, size_t size);
extern const char *pg_left_over_worker(void);

/* text.c: the arguments of the function that is being called */
extern Oid	pg_call_types[4];
extern int	pg_call_nargs;

#endif							/* SIM_PG_H */
