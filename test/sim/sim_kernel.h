/*-------------------------------------------------------------------------
 *
 * sim_kernel.h
 *	  Virtual time, processes as coroutines, servers with their memory and
 *	  clocks: the simulator's own side of sim.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_KERNEL_H
#define SIM_KERNEL_H

#include "sim.h"
#include "sim_random.h"

#define SIM_MAX_SERVERS		128

#define SIM_MS				INT64_C(1000)
#define SIM_SECOND			INT64_C(1000000)

typedef struct SimProc SimProc;
typedef struct SimServer SimServer;
typedef struct SimImage SimImage;

typedef enum SimProcKind
{
	SIM_POSTMASTER,				/* sets shared memory up, and is done */
	SIM_WORKER,
	SIM_SESSION
} SimProcKind;

struct SimProc
{
	SimServer  *server;
	SimProcKind kind;
	int			procno;
	int			pid;
	const SimImage *image;		/* of the copy that it runs in */
	void	   *copy;
	bool		alive;
	void		(*body) (SimProc *proc);	/* SESSION: what its client does */
	void	   *arg;

	/* being scheduled */
	void	   *coroutine;
	bool		blocked;
	bool		woken;
	uint64_t	run;			/* number of the event that lets it run */
	int64_t		frozen_until;
	int64_t		held_up_until;	/* by that: it would have run before */
	const void *waits_on;		/* an LWLock */
	uint32_t	signals;

	int64_t		started_at;
	uint64_t	drawn;			/* the last random number of 64 bits that it has drawn */
	void	   *lock_wait;		/* sim_lockmgr.c */
	void	   *net;			/* sim_cluster.c: what has come */
};

struct SimServer
{
	int			number;
	bool		up;
	bool		stopping;
	int			boot;			/* the how manieth of its machine */
	int			generation;		/* of its shared memory */
	SimProc		postmaster;
	SimProc		procs[SIM_MAX_PROCS];
	int			nprocs;
	int			nwaiting;		/* processes with waits_on */
	int64_t		frozen_until;
	int64_t		worker_restart_at;

	/* clocks: base + true time * rate + offset */
	int64_t		base[3];
	double		rate[3];
	int64_t		clock_moved_at;	/* one that leases count on */

	void	   *shmem;
	void	   *locks;			/* sim_lockmgr.c */
	void	   *workload;
};

extern SimServer sim_servers[SIM_MAX_SERVERS];
extern int	sim_nservers;
extern SimProc *sim_self;		/* NULL: the simulator itself */

/* Streams of random numbers: a change in one moves none of the others. */
extern SimRandom sim_rand;		/* scheduling, network */
extern SimRandom sim_fault_rand;
extern SimRandom sim_work_rand;

extern bool sim_kernel_check(void);
extern void sim_kernel_preload(int ncopies);	/* of the library, one for each process */
extern void sim_kernel_start(uint64_t seed);
extern void sim_kernel_end(void);

/* Call it then. */
extern void sim_at(int64_t time, void (*fn) (void *arg), void *arg);

/* Let events happen until then, or until sim_stop(). */
extern void sim_run_until(int64_t time);
extern void sim_stop(void);
extern uint64_t sim_nsteps(void);

/* Called after each event. */
extern void (*sim_after_event) (void);

extern SimServer *sim_server_create(int nprocs);
extern void sim_server_boot(SimServer *server);	/* a new postmaster */
extern void sim_server_crash(SimServer *server);	/* a backend died: all end, memory is new */
extern void sim_server_halt(SimServer *server); /* the machine is off */
extern void sim_proc_start(SimServer *server, int procno, SimProcKind kind,
						   void (*body) (SimProc *proc), void *arg);
extern void sim_proc_kill(SimProc *proc);
extern void sim_proc_freeze(SimProc *proc, int64_t until);
extern void sim_wake(SimProc *proc);
extern void sim_send_signal(SimProc *proc, int sig);
extern int64_t sim_server_clock(const SimServer *server, SimClock clock);
extern const char *sim_proc_name(const SimProc *proc);	/* "s1.w", "s1.3" */

/* Called when a process has ended by itself. */
extern void (*sim_proc_ended) (SimProc *proc, int code);
extern void (*sim_proc_gone) (SimProc *proc);	/* in whichever way */

/* sim_lockmgr.c */
extern void sim_lockmgr_forget(SimProc *proc);
extern uint32_t sim_lock_waits_of(const SimProc *proc);	/* for whom: process numbers */
extern void sim_lockmgr_reset(SimServer *server);
extern void sim_lockmgr_tell(const SimServer *server);	/* into the trace */

extern void sim_panic(const char *format,...) __attribute__((noreturn, format(printf, 1, 2)));

#endif							/* SIM_KERNEL_H */
