/*-------------------------------------------------------------------------
 *
 * sim_world.h
 *	  One run: its plan, which a seed decides, what happens in it, and what is
 *	  checked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "sim_cluster.h"
#include "sim_image.h"

#define SIM_MAX_NAMES		11
#define SIM_TICK_NAME		(SIM_MAX_NAMES - 1) /* for ticks alone */
#define SIM_TICK			(5 * SIM_SECOND)	/* from one tick to the next */
#define INTEGER_KEY			".etcd_lock/int/db/"
#define SIM_TRY				(3 * SIM_SECOND)	/* that a try may take until others
												 * give up what they keep */

/* Kinds of faults; a run has some of them. */
typedef enum SimFault
{
	FAULT_NETWORK = 1 << 0,		/* lost, slow, repeated, refused requests */
	FAULT_PARTITION = 1 << 1,	/* between servers and members */
	FAULT_MEMBERS = 1 << 2,		/* stop, hang, are cut off, change the leader */
	FAULT_PAUSE = 1 << 3,		/* processes and servers stand still */
	FAULT_WORKER = 1 << 4,		/* the worker ends */
	FAULT_CRASH = 1 << 5,		/* a backend is killed, a machine is off */
	FAULT_CANCEL = 1 << 6,		/* statements are cancelled, sessions ended */
	FAULT_CLOCK = 1 << 7,		/* clocks jump, run fast, stop in a suspend */
	FAULT_RESTORE = 1 << 8,		/* etcd goes back in time */
	FAULT_HAND = 1 << 9,		/* keys are deleted and leases revoked by hand */
	FAULT_SPACE = 1 << 10,		/* etcd has no space left */
	FAULT_WATCHES = 1 << 11,	/* watches stall or are cancelled */
	FAULT_AUTH = 1 << 12,		/* tokens are forgotten, logins and keys refused */
	FAULT_BREAK = 1 << 13,		/* etcd_lock_break() */
	FAULT_SHUTDOWN = 1 << 14,	/* servers are shut down and started again */
	FAULT_SLOW = 1 << 15,		/* a server's network is slow, and then cut off */
	FAULT_LATE = 1 << 16,		/* it is cut off when its lease was just renewed, late */
	FAULT_REPEAT = 1 << 17,		/* many answers are lost, and requests applied again */
	FAULT_REFUSE = 1 << 18		/* many requests are refused */
} SimFault;

#define SIM_NFAULTS			19
#define SIM_ALL_FAULTS		((1 << SIM_NFAULTS) - 1)

typedef struct SimPlan
{
	uint64_t	seed;
	int64_t		seconds;		/* of virtual time with faults */
	int			nservers;
	int			nsessions;		/* on each server */
	int			nnames;
	int			nmembers;
	int			nforeign;
	int			faults;			/* SimFault */
	int			fault_every;	/* milliseconds on average */
	int			max_faults;		/* so many, then no more; -1: no limit */
	int			lease_ttl;
	int			handoff_window;
	int			keep_window;
	int			commit_guard;
	int			on_loss;
	int			deadlock_timeout;
	int			connect_timeout;
	int			request_timeout;
	bool		synchronous_release;
	bool		synchronous_commit;
	bool		pause_long;		/* longer than the lease's margin */
	bool		one_endpoint;	/* each server knows one member only */
	int			net_delay;		/* microseconds, at most, as a rule */
	bool		crossed;		/* sessions take locks and rows in any order,
								 * and wait for them without end */
	bool		modes;			/* sessions take both modes of a lock, in any order */
	bool		busy;			/* many short transactions under each lock */
	bool		hasty;			/* waits end soon, and begin anew; with crossed */
	bool		views;			/* sessions look at the views */
	bool		fair;			/* all sessions want one name, again and again */
} SimPlan;

typedef struct SimCounts
{
	uint64_t	grants;
	uint64_t	tries_failed;
	uint64_t	commits;
	uint64_t	guarded;		/* commits under a lock */
	uint64_t	errors;
	uint64_t	faults;
	uint64_t	lost;			/* locks that were lost */
	uint64_t	statements;
	uint64_t	foreign;
	uint64_t	ticks;
	uint64_t	deadlocks;		/* over several servers, found */
	int64_t		waited;			/* microseconds in statements */
} SimCounts;

extern SimPlan sim_plan;
extern SimCounts sim_counts;
extern const char *sim_names[SIM_MAX_NAMES];	/* in etcd; those in use come first, in
											 * order */
extern bool sim_faults_on;		/* else they are over, or not yet begun */
extern int64_t sim_faults_over_at;
extern bool sim_work_over;		/* sessions come to their end */

/* The first thing that was found; NULL: none. */
extern const char *sim_found;
extern void sim_violation(const char *format,...) __attribute__((format(printf, 1, 2)));

/* sim_world.c */
extern void sim_plan_by_seed(SimPlan *plan, uint64_t seed);
extern void sim_plan_fair(SimPlan *plan, uint64_t seed);
extern void sim_run(const SimPlan *plan);
extern int64_t sim_run_time(void);	/* virtual, since the beginning */

/* workload.c */
extern void sim_session_body(SimProc *proc);
extern void sim_workload_forget(SimProc *proc);
extern void sim_workload_count(uint64_t *grants);	/* of each server, since the last
													 * call; plan.fair */
extern void sim_names_start(int n);	/* so many of them are in use */
extern void sim_foreign_start(int n);
extern void sim_foreign_stop(void);
extern void sim_foreign_reset(void);
extern int	sim_foreign_holders(int name, bool *exclusive);
extern int64_t sim_waits_since(const SimProc *proc);	/* 0: it does not wait */
extern bool sim_others_had(const SimProc *proc, int name, int64_t since);
extern int64_t sim_last_use(const SimServer *server, int name);
extern const char *sim_waits_for(const SimProc *proc);

/* checks.c */
extern void sim_checks_start(void);
extern void sim_check_granted(SimProc *proc, int name, bool exclusive, int64_t token);
extern void sim_check_now(void);
extern void sim_check_end(void);
extern void sim_check_forget(SimProc *proc);
extern void sim_check_tick_asked(int name, int64_t tick);
extern void sim_check_tick(int name, int64_t tick, bool claimed, int64_t began);
extern void sim_check_tick_ended(int name, int64_t tick, bool clean);
extern bool sim_check_any(int which, int *name, int64_t *token);
extern void sim_check_broken(int name, int64_t token);
extern void sim_check_commit_begins(SimProc *proc);
extern void sim_check_committed(SimProc *proc);
extern bool sim_check_sender_stood_still(const SimProc *proc);	/* to this one */
extern void sim_check_breaking(int name, int64_t token);
extern void sim_check_limit(const SimProc *proc, int64_t since, int64_t limit);
extern void sim_check_waits(void);	/* to be called now and then */
extern void sim_check_release(SimProc *proc, const char *what, int64_t since);
extern bool sim_check_lossless(void);	/* no fault is such that a lock may be lost */
extern void sim_check_went_down(SimServer *server, bool same_boot);
extern void sim_check_refused(SimProc *proc, int name, int64_t since, int64_t wait);
extern void sim_check_keys(void);	/* etcd has changed */
extern void sim_check_views(SimProc *proc);	/* it has just looked at them */
extern void sim_check_epoch_ended(const SimServer *server);
extern void sim_check_served(void);	/* to be called now and then */
extern void sim_check_tick_refused(SimProc *proc);
extern void sim_check_idle(void);	/* nobody wants anything from here on */
extern void sim_check_restored(void);
extern void sim_check_deletes(int by, const char *key, size_t len, bool whole_lease);
extern bool sim_check_holds(const SimProc *proc, int name, bool exclusive);

/* sim_deadlock.c */
extern void sim_deadlock_start(void);
extern void sim_deadlock_after_event(void);

#endif							/* SIM_WORLD_H */
