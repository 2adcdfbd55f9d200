/*-------------------------------------------------------------------------
 *
 * sim_lockmgr.c
 *	  PostgreSQL's lock manager, as far as processes share it.
 *
 * Like lock.c and proc.c: a lock is granted when it conflicts neither with what
 * others hold nor with what those wait for who stand ahead in its queue.  Who
 * holds the lock already goes ahead of those who wait for it.  On release the
 * queue is gone through in order.  The check for deadlocks follows those who
 * hold what is waited for, and those ahead in the queue; it does not rearrange
 * queues as PostgreSQL's does, so it finds a few deadlocks more.
 *
 * Only three modes are used: ShareLock, ExclusiveLock, AccessExclusiveLock.
 *
 *-------------------------------------------------------------------------
 */
#include "sim_kernel.h"

#include <stdlib.h>
#include <string.h>

#define SHARE				5
#define EXCLUSIVE			7
#define ACCESS_EXCLUSIVE	8
#define MODES				9

typedef struct Lock
{
	struct Lock *next;
	SimLockTag	tag;
	int			held[SIM_MAX_PROCS][MODES]; /* how often, by each process, */
	int			masks[SIM_MAX_PROCS];	/* and whether at all: bits by modes */
	SimProc    *queue[SIM_MAX_PROCS];
	int			nqueue;
} Lock;

/* What a process waits for: proc->lock_wait. */
typedef struct Wait
{
	Lock	   *lock;			/* NULL: nothing */
	int			mode;
	bool		granted;
} Wait;

static Wait waits[SIM_MAX_SERVERS][SIM_MAX_PROCS];
static Lock *unused;

static Wait *
wait_of(const SimProc *proc)
{
	return &waits[proc->server->number - 1][proc->procno];
}

static bool
conflict(int a, int b)
{
	return !(a == SHARE && b == SHARE);
}

static Lock *
find_lock(SimServer *server, const SimLockTag *tag, bool add)
{
	Lock	   *lock;

	for (lock = server->locks; lock != NULL; lock = lock->next)
	{
		if (memcmp(&lock->tag, tag, sizeof(SimLockTag)) == 0)
			return lock;
	}
	if (!add)
		return NULL;
	lock = unused;
	if (lock != NULL)
		unused = lock->next;
	else
		lock = calloc(1, sizeof(Lock)); /* nobody holds it, or waits for it */
	lock->tag = *tag;
	lock->next = server->locks;
	server->locks = lock;
	return lock;
}

static int
held_mask(const Lock *lock, int procno)
{
	return lock->masks[procno];
}

static void
hold(Lock *lock, int procno, int mode)
{
	lock->held[procno][mode]++;
	lock->masks[procno] |= 1 << mode;
}

static bool
mask_conflicts(int mask, int mode)
{
	return (mask & ~(mode == SHARE ? 1 << SHARE : 0)) != 0;
}

static bool
held_against(const SimServer *server, const Lock *lock, int procno, int mode)
{
	for (int other = 0; other < server->nprocs; other++)
	{
		if (other != procno && mask_conflicts(held_mask(lock, other), mode))
			return true;
	}
	return false;
}

static void
forget_if_unused(SimServer *server, Lock *lock)
{
	Lock	  **link = (Lock **) &server->locks;

	if (lock->nqueue > 0)
		return;
	for (int procno = 0; procno < server->nprocs; procno++)
	{
		if (held_mask(lock, procno) != 0)
			return;
	}
	while (*link != lock)
		link = &(*link)->next;
	*link = lock->next;
	lock->next = unused;
	unused = lock;
}

/* Those in the queue who can have it now get it, in order. */
static void
wake_queue(SimServer *server, Lock *lock)
{
	int			ahead = 0;		/* modes that those wait for who stay */
	int			kept = 0;

	for (int i = 0; i < lock->nqueue; i++)
	{
		SimProc    *proc = lock->queue[i];
		Wait	   *wait = wait_of(proc);

		if (!mask_conflicts(ahead, wait->mode) &&
			!held_against(server, lock, proc->procno, wait->mode))
		{
			hold(lock, proc->procno, wait->mode);
			wait->granted = true;
			sim_wake(proc);
		}
		else
		{
			ahead |= 1 << wait->mode;
			lock->queue[kept++] = proc;
		}
	}
	lock->nqueue = kept;
}

static void
leave_queue(SimProc *proc, Lock *lock)
{
	int			kept = 0;

	for (int i = 0; i < lock->nqueue; i++)
	{
		if (lock->queue[i] != proc)
			lock->queue[kept++] = lock->queue[i];
	}
	lock->nqueue = kept;
}

SimLockResult
sim_lock_ask(const SimLockTag *tag, int mode, bool may_wait)
{
	SimProc    *self = sim_self;
	Lock	   *lock = find_lock(self->server, tag, true);
	Wait	   *wait = wait_of(self);
	int			mine = held_mask(lock, self->procno);
	int			place = lock->nqueue;
	int			ahead = 0;

	/* The same mode once more: nothing to ask. */
	if (lock->held[self->procno][mode] > 0)
	{
		hold(lock, self->procno, mode);
		return SIM_LOCK_GRANTED;
	}

	/* Ahead of the first one who waits for what we hold. */
	for (int i = 0; i < lock->nqueue && mine != 0; i++)
	{
		if (mask_conflicts(mine, wait_of(lock->queue[i])->mode))
		{
			place = i;
			break;
		}
	}
	for (int i = 0; i < lock->nqueue && i < (may_wait ? place : lock->nqueue); i++)
		ahead |= 1 << wait_of(lock->queue[i])->mode;
	if (!mask_conflicts(ahead, mode) &&
		!held_against(self->server, lock, self->procno, mode))
	{
		hold(lock, self->procno, mode);
		return SIM_LOCK_GRANTED;
	}
	if (!may_wait)
	{
		forget_if_unused(self->server, lock);
		return SIM_LOCK_WOULD_WAIT;
	}
	memmove(&lock->queue[place + 1], &lock->queue[place],
			(lock->nqueue - place) * sizeof(SimProc *));
	lock->queue[place] = self;
	lock->nqueue++;
	wait->lock = lock;
	wait->mode = mode;
	wait->granted = false;
	return SIM_LOCK_WAITING;
}

bool
sim_lock_is_granted(void)
{
	return wait_of(sim_self)->granted;
}

bool
sim_lock_granted(void)
{
	Wait	   *wait = wait_of(sim_self);

	if (!wait->granted)
		return false;
	wait->lock = NULL;
	wait->granted = false;
	return true;
}

void
sim_lock_stop_waiting(void)
{
	Wait	   *wait = wait_of(sim_self);
	Lock	   *lock = wait->lock;

	if (lock == NULL || wait->granted)
		return;
	wait->lock = NULL;
	leave_queue(sim_self, lock);
	wake_queue(sim_self->server, lock);
	forget_if_unused(sim_self->server, lock);
}

void
sim_lock_release(const SimLockTag *tag, int mode)
{
	Lock	   *lock = find_lock(sim_self->server, tag, false);

	if (lock == NULL || lock->held[sim_self->procno][mode] == 0)
		sim_panic("a lock is released that is not held");
	if (--lock->held[sim_self->procno][mode] > 0)
		return;
	lock->masks[sim_self->procno] &= ~(1 << mode);
	wake_queue(sim_self->server, lock);
	forget_if_unused(sim_self->server, lock);
}

void
sim_lockmgr_forget(SimProc *proc)
{
	Wait	   *wait = wait_of(proc);
	Lock	   *lock = proc->server->locks;

	if (wait->lock != NULL && !wait->granted)
		leave_queue(proc, wait->lock);
	memset(wait, 0, sizeof(*wait));
	while (lock != NULL)
	{
		Lock	   *next = lock->next;

		memset(lock->held[proc->procno], 0, sizeof(lock->held[proc->procno]));
		lock->masks[proc->procno] = 0;
		wake_queue(proc->server, lock);
		forget_if_unused(proc->server, lock);
		lock = next;
	}
}

void
sim_lockmgr_reset(SimServer *server)
{
	while (server->locks != NULL)
	{
		Lock	   *lock = server->locks;

		server->locks = lock->next;
		free(lock);
	}
	memset(waits[server->number - 1], 0, sizeof(waits[0]));
}

/* Whom this one waits for: a set of process numbers. */
static uint32_t
waits_for(const SimServer *server, const SimProc *proc)
{
	const Wait *wait = wait_of(proc);
	uint32_t	set = 0;

	if (wait->lock == NULL || wait->granted)
		return 0;
	for (int other = 0; other < server->nprocs; other++)
	{
		if (other != proc->procno && mask_conflicts(held_mask(wait->lock, other), wait->mode))
			set |= UINT32_C(1) << other;
	}
	for (int i = 0; i < wait->lock->nqueue && wait->lock->queue[i] != proc; i++)
	{
		if (conflict(wait_of(wait->lock->queue[i])->mode, wait->mode))
			set |= UINT32_C(1) << wait->lock->queue[i]->procno;
	}
	return set;
}

uint32_t
sim_lock_waits_of(const SimProc *proc)
{
	return waits_for(proc->server, proc);
}

bool
sim_lock_deadlock(void)
{
	SimServer  *server = sim_self->server;
	uint32_t	reached = waits_for(server, sim_self);
	uint32_t	done = 0;

	while ((reached & ~done) != 0)
	{
		int			procno = __builtin_ctz(reached & ~done);

		done |= UINT32_C(1) << procno;
		reached |= waits_for(server, &server->procs[procno]);
	}
	return (reached & (UINT32_C(1) << sim_self->procno)) != 0;
}

bool
sim_lock_waited_for(void)
{
	SimServer  *server = sim_self->server;

	for (int i = 0; i < server->nprocs; i++)
	{
		if ((waits_for(server, &server->procs[i]) & (UINT32_C(1) << sim_self->procno)) != 0)
			return true;
	}
	return false;
}

int
sim_lock_blockers(int pid, int *pids, int max)
{
	SimServer  *server = sim_self->server;
	int			n = 0;

	for (int i = 0; i < server->nprocs; i++)
	{
		uint32_t	set;

		if (!server->procs[i].alive || server->procs[i].pid != pid)
			continue;
		set = waits_for(server, &server->procs[i]);
		for (int other = 0; other < server->nprocs && n < max; other++)
		{
			if ((set & (UINT32_C(1) << other)) != 0)
				pids[n++] = server->procs[other].pid;
		}
	}
	return n;
}

void
sim_lock_foreach(void (*fn) (void *arg, int pid, const SimLockTag *tag, int held, int wait_mode),
				 void *arg)
{
	SimServer  *server = sim_self->server;

	for (const Lock *lock = server->locks; lock != NULL; lock = lock->next)
	{
		for (int i = 0; i < server->nprocs; i++)
		{
			const Wait *wait = wait_of(&server->procs[i]);
			int			mask = held_mask(lock, i);
			int			mode = wait->lock == lock && !wait->granted ? wait->mode : 0;

			if (server->procs[i].alive && (mask != 0 || mode != 0))
				fn(arg, server->procs[i].pid, &lock->tag, mask, mode);
		}
	}
}

void
sim_lockmgr_tell(const SimServer *server)
{
	for (const Lock *lock = server->locks; lock != NULL; lock = lock->next)
	{
		uint32_t	field[3];

		memcpy(field, lock->tag.bytes, sizeof(field));
		for (int i = 0; i < server->nprocs; i++)
		{
			for (int mode = 0; mode < MODES; mode++)
			{
				if (lock->held[i][mode] > 0)
					sim_trace("   tag %x/%x: %s has mode %d, %d times", field[1], field[2],
							  sim_proc_name(&server->procs[i]), mode, lock->held[i][mode]);
			}
		}
		for (int i = 0; i < lock->nqueue; i++)
			sim_trace("   tag %x/%x: %s waits for mode %d", field[1], field[2],
					  sim_proc_name(lock->queue[i]), wait_of(lock->queue[i])->mode);
	}
}
