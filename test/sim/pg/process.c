/*-------------------------------------------------------------------------
 *
 * process.c
 *	  A process among others: latches, LWLocks, signals, timers, its end.
 *
 * Signals and timers are seen where the process could be interrupted: at
 * pg_step() and while it waits.  Their handlers run there, in the process, as
 * real ones do.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "access/xlog.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "postmaster/postmaster.h"
#include "sim_message.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/ps_status.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_HELD	64
#define MAX_EXITS	16
#define NSIGNALS	32

#define PASSWORD	"secret\n"

/* ---- PostgreSQL's variables ---- */

PGPROC	   *MyProc = NULL;
PROC_HDR   *ProcGlobal = NULL;
Latch	   *MyLatch = NULL;
int			MyProcPid = 0;
int			MaxBackends = SIM_MAX_PROCS;
Oid			MyDatabaseId = 5;
LWLockPadded *MainLWLockArray = NULL;
volatile sig_atomic_t InterruptPending = false;
volatile sig_atomic_t QueryCancelPending = false;
volatile sig_atomic_t ProcDiePending = false;
volatile sig_atomic_t ConfigReloadPending = false;
volatile sig_atomic_t ShutdownRequestPending = false;
volatile uint32 InterruptHoldoffCount = 0;
volatile uint32 QueryCancelHoldoffCount = 0;
volatile uint32 CritSectionCount = 0;
int			DeadlockTimeout = 1000;
int			LockTimeout = 0;
int			StatementTimeout = 0;
bool		log_lock_waits = false;
int			PostPortNumber = 5432;
char	   *DataDir = "/data";
char	   *cluster_name = "";
char	   *application_name = "sim";
bool		process_shared_preload_libraries_in_progress = false;
shmem_request_hook_type shmem_request_hook = NULL;
shmem_startup_hook_type shmem_startup_hook = NULL;
bool		proc_exit_inprogress = false;
bool		IsUnderPostmaster = true;
int			ParallelWorkerNumber = -1;
static uint32 wait_event_info;
uint32	   *my_wait_event_info = &wait_event_info;

bool		pg_doing_command_read = false;

/* ----------------------------------------------------------------
 *		Signals and timers
 * ----------------------------------------------------------------
 */

typedef struct Timer
{
	timeout_handler_proc handler;
	bool		active;
	bool		indicator;
	int64		at;				/* sim_now() */
	int64		every;			/* 0: once */
} Timer;

static Timer timers[MAX_TIMEOUTS];
static pqsigfunc handlers[NSIGNALS];
static bool in_handler = false;

/* When the next timer is due, at the earliest: one that was disabled may still count. */
static int64 earliest_timer = 0;

pqsigfunc
pqsignal(int signo, pqsigfunc func)
{
	pqsigfunc	old = handlers[signo];

	handlers[signo] = func;
	return old;
}

int64_t
pg_next_timer(void)
{
	int64		next = SIM_FOREVER;

	if (earliest_timer == SIM_FOREVER)
		return SIM_FOREVER;
	for (int i = 0; i < MAX_TIMEOUTS; i++)
	{
		if (timers[i].active)
			next = Min(next, timers[i].at);
	}
	earliest_timer = next;
	return next;
}

static void
run_timers(void)
{
	for (int i = 0; i < MAX_TIMEOUTS; i++)
	{
		if (!timers[i].active || timers[i].at > sim_now())
			continue;
		timers[i].indicator = true;
		if (timers[i].every > 0)
			timers[i].at = sim_after(timers[i].every);
		else
			timers[i].active = false;
		timers[i].handler();
	}
	(void) pg_next_timer();
}

/* Run the handlers of what has come. */
void
pg_deliver(void)
{
	uint32_t	signals;

	if (in_handler || sim_checking)
		return;
	in_handler = true;
	signals = sim_take_signals();
	for (int signo = 1; signals != 0 && signo < NSIGNALS; signo++)
	{
		if ((signals & (UINT32_C(1) << signo)) != 0 &&
			handlers[signo] != SIG_DFL && handlers[signo] != SIG_IGN)
			handlers[signo] (signo);
	}
	if (earliest_timer <= sim_now())
		run_timers();
	in_handler = false;
}

void
pg_step(void)
{
	if (sim_step())
		pg_deliver();
}

TimeoutId
RegisterTimeout(TimeoutId id, timeout_handler_proc handler)
{
	if (id == USER_TIMEOUT)
	{
		while (id < MAX_TIMEOUTS && timers[id].handler != NULL)
			id++;
		if (id >= MAX_TIMEOUTS)
			ereport(FATAL,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("cannot add more timeout reasons")));
	}
	timers[id].handler = handler;
	return id;
}

void
enable_timeout_after(TimeoutId id, int delay_ms)
{
	timers[id].active = true;
	timers[id].indicator = false;
	timers[id].every = 0;
	timers[id].at = sim_after((int64) delay_ms * 1000);
	earliest_timer = Min(earliest_timer, timers[id].at);
}

void
enable_timeout_every(TimeoutId id, TimestampTz fin_time, int delay_ms)
{
	enable_timeout_after(id, delay_ms);
	timers[id].every = (int64) delay_ms * 1000;
}

void
disable_timeout(TimeoutId id, bool keep_indicator)
{
	timers[id].active = false;
	if (!keep_indicator)
		timers[id].indicator = false;
}

void
pg_disable_all_timeouts(void)
{
	for (int i = 0; i < MAX_TIMEOUTS; i++)
	{
		timers[i].active = false;
		timers[i].indicator = false;
	}
}

bool
get_timeout_active(TimeoutId id)
{
	return timers[id].active;
}

bool
get_timeout_indicator(TimeoutId id, bool reset_indicator)
{
	bool		result = timers[id].indicator;

	if (reset_indicator)
		timers[id].indicator = false;
	return result;
}

static void
handle_cancel(SIGNAL_ARGS)
{
	if (!proc_exit_inprogress)
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
	SetLatch(MyLatch);
}

static void
handle_die(SIGNAL_ARGS)
{
	if (!proc_exit_inprogress)
	{
		InterruptPending = true;
		ProcDiePending = true;
	}
	SetLatch(MyLatch);
}

static void
handle_lock_timeout(void)
{
	handle_cancel(SIGINT);
}

void
SignalHandlerForConfigReload(SIGNAL_ARGS)
{
	ConfigReloadPending = true;
	SetLatch(MyLatch);
}

void
ProcessInterrupts(void)
{
	if (InterruptHoldoffCount != 0 || CritSectionCount != 0)
		return;
	InterruptPending = false;
	if (ProcDiePending)
	{
		ProcDiePending = false;
		QueryCancelPending = false;
		LockErrorCleanup();
		ereport(FATAL,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("terminating connection due to administrator command")));
	}
	if (QueryCancelPending && QueryCancelHoldoffCount != 0)
		InterruptPending = true;
	else if (QueryCancelPending)
	{
		QueryCancelPending = false;
		if (get_timeout_indicator(LOCK_TIMEOUT, true))
		{
			LockErrorCleanup();
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("canceling statement due to lock timeout")));
		}
		if (!pg_doing_command_read)
		{
			LockErrorCleanup();
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("canceling statement due to user request")));
		}
	}
}

/* The system's own, as the extension calls it: the sender may be stopped on either side of it. */
int
kill(pid_t pid, int sig)
{
	for (int i = 0; i < 2; i++)
	{
		if (sim_random_number() % 4 == 0)
			sim_stop_for((int64) (sim_random_number() % 20000));
		if (i == 0)
			sim_signal(pid, sig);
	}
	pg_deliver();
	return 0;
}

/* Likewise: signals are delivered when a system call returns. */
pid_t
getppid(void)
{
	pg_deliver();
	return 1;
}

/* ----------------------------------------------------------------
 *		Time
 * ----------------------------------------------------------------
 */

int
clock_gettime(clockid_t id, struct timespec *ts)
{
	int64		t;

	pg_step();
	t = sim_clock(id == CLOCK_BOOTTIME ? SIM_BOOTTIME :
				  id == CLOCK_REALTIME ? SIM_WALL : SIM_RAW);
	ts->tv_sec = t / 1000000;
	ts->tv_nsec = (t % 1000000) * 1000;
	return 0;
}

TimestampTz
GetCurrentTimestamp(void)
{
	return sim_clock(SIM_WALL) -
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

const char *
timestamptz_to_str(TimestampTz t)
{
	static char text[32];

	snprintf(text, sizeof(text), INT64_FORMAT, t);
	return text;
}

int
gethostname(char *name, size_t len)
{
	snprintf(name, len, "host%d", sim_server());
	return 0;
}

bool
pg_strong_random(void *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((unsigned char *) buf)[i] = (unsigned char) sim_random_number();
	if (len == sizeof(uint64))
		sim_drew(*(uint64 *) buf);
	return true;
}

void
pg_pause(int64_t microseconds)
{
	int64		until = sim_after(microseconds);

	while (sim_now() < until)
	{
		(void) sim_block(Min(until, pg_next_timer()));
		pg_deliver();
	}
}

/* Others go on meanwhile. */
void
pg_usleep(long microsec)
{
	pg_pause(microsec);
}

/* ----------------------------------------------------------------
 *		Latches
 * ----------------------------------------------------------------
 */

void
SetLatch(Latch *latch)
{
	if (latch->is_set)
		return;
	latch->is_set = true;
	if (latch->owner_pid != 0)
		sim_wake_pid(latch->owner_pid);
	if (!in_handler)
		pg_step();
}

void
ResetLatch(Latch *latch)
{
	latch->is_set = false;
}

int
WaitLatch(Latch *latch, int wakeEvents, long timeout, uint32 wait_event_info)
{
	int64		until = (wakeEvents & WL_TIMEOUT) ? sim_after((int64) timeout * 1000) : SIM_FOREVER;

	for (;;)
	{
		pg_deliver();
		if (latch != NULL && (wakeEvents & WL_LATCH_SET) && latch->is_set)
			return WL_LATCH_SET;
		if (sim_now() >= until)
			return WL_TIMEOUT;
		(void) sim_block(Min(until, pg_next_timer()));
	}
}

struct WaitEventSet
{
	Latch	   *latch;
	bool		network;
};

WaitEventSet *
CreateWaitEventSet(MemoryContext context, int nevents)
{
	return MemoryContextAllocZero(context, sizeof(WaitEventSet));
}

int
AddWaitEventToSet(WaitEventSet *set, uint32 events, pgsocket fd, Latch *latch, void *user_data)
{
	if (latch != NULL)
		set->latch = latch;
	if (events & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
		set->network = true;
	return 0;
}

void
ModifyWaitEvent(WaitEventSet *set, int pos, uint32 events, Latch *latch)
{
}

int
WaitEventSetWait(WaitEventSet *set, long timeout, WaitEvent *occurred_events, int nevents,
				 uint32 wait_event_info)
{
	int64		until = timeout >= 0 ? sim_after((int64) timeout * 1000) : SIM_FOREVER;

	for (;;)
	{
		int			n = 0;

		pg_deliver();
		if (set->latch->is_set)
		{
			memset(&occurred_events[n], 0, sizeof(WaitEvent));
			occurred_events[n++].events = WL_LATCH_SET;
		}
		if (set->network && n < nevents && sim_net_pending())
		{
			memset(&occurred_events[n], 0, sizeof(WaitEvent));
			occurred_events[n++].events = WL_SOCKET_READABLE;
		}
		if (n > 0 || sim_now() >= until)
			return n;
		(void) sim_block(Min(until, pg_next_timer()));
	}
}

/* ----------------------------------------------------------------
 *		LWLocks and condition variables
 * ----------------------------------------------------------------
 */

#define EXCLUSIVE	(UINT32_C(1) << 31)

static LWLock *held[MAX_HELD];
static int	nheld = 0;

static bool
try_lwlock(LWLock *lock, LWLockMode mode)
{
	uint32		state = pg_atomic_read_u32(&lock->state);

	if (mode == LW_EXCLUSIVE ? state != 0 : (state & EXCLUSIVE) != 0)
		return false;
	pg_atomic_write_u32(&lock->state, mode == LW_EXCLUSIVE ? EXCLUSIVE : state + 1);
	return true;
}

bool
LWLockAcquire(LWLock *lock, LWLockMode mode)
{
	bool		at_once = true;

	HOLD_INTERRUPTS();
	pg_step();
	for (int i = 0; i < nheld; i++)
		Assert(held[i] != lock);
	while (!try_lwlock(lock, mode))
	{
		at_once = false;
		if (sim_checking)
			break;				/* nobody runs meanwhile */
		sim_wait_on(lock);
	}
	if (nheld >= MAX_HELD)
		elog(ERROR, "too many LWLocks taken");
	held[nheld++] = lock;
	return at_once;
}

void
LWLockRelease(LWLock *lock)
{
	uint32		state = pg_atomic_read_u32(&lock->state);
	int			i = nheld;

	while (--i >= 0 && held[i] != lock)
		;
	if (i < 0)
		elog(ERROR, "lock is not held");
	nheld--;
	for (; i < nheld; i++)
		held[i] = held[i + 1];
	pg_atomic_write_u32(&lock->state, (state & EXCLUSIVE) ? 0 : state - 1);
	sim_released(lock);
	RESUME_INTERRUPTS();
	pg_step();
}

bool
LWLockHeldByMe(LWLock *lock)
{
	for (int i = 0; i < nheld; i++)
	{
		if (held[i] == lock)
			return true;
	}
	return false;
}

bool
LWLockHeldByMeInMode(LWLock *lock, LWLockMode mode)
{
	return LWLockHeldByMe(lock);
}

void
pg_lwlock_release_all(void)
{
	while (nheld > 0)
	{
		HOLD_INTERRUPTS();
		LWLockRelease(held[nheld - 1]);
	}
}

int
s_lock(volatile slock_t *lock, const char *file, int line, const char *func)
{
	while (TAS(lock))
		(void) sim_block(sim_after(10));
	return 0;
}

/* wakeup.head counts broadcasts. */
static ConditionVariable *sleeps_on = NULL;
static int	seen_broadcast;

void
ConditionVariableInit(ConditionVariable *cv)
{
	SpinLockInit(&cv->mutex);
	cv->wakeup.head = 0;
	cv->wakeup.tail = 0;
}

void
ConditionVariablePrepareToSleep(ConditionVariable *cv)
{
	sleeps_on = cv;
	seen_broadcast = cv->wakeup.head;
}

bool
ConditionVariableTimedSleep(ConditionVariable *cv, long timeout, uint32 wait_event_info)
{
	int64		until = timeout >= 0 ? sim_after((int64) timeout * 1000) : SIM_FOREVER;

	if (sleeps_on != cv)
	{
		ConditionVariablePrepareToSleep(cv);
		return false;
	}
	for (;;)
	{
		pg_deliver();
		CHECK_FOR_INTERRUPTS();
		if (cv->wakeup.head != seen_broadcast)
		{
			seen_broadcast = cv->wakeup.head;
			return false;
		}
		if (sim_now() >= until)
			return true;
		sim_wait_on_until(cv, Min(until, pg_next_timer()));
	}
}

void
ConditionVariableSleep(ConditionVariable *cv, uint32 wait_event_info)
{
	(void) ConditionVariableTimedSleep(cv, -1, wait_event_info);
}

void
ConditionVariableCancelSleep(void)
{
	sleeps_on = NULL;
}

void
ConditionVariableSignal(ConditionVariable *cv)
{
	cv->wakeup.head++;
	sim_released(cv);
}

void
ConditionVariableBroadcast(ConditionVariable *cv)
{
	ConditionVariableSignal(cv);
}

/* ----------------------------------------------------------------
 *		Beginning and end
 * ----------------------------------------------------------------
 */

typedef struct ExitCallback
{
	pg_on_exit_callback function;
	Datum		arg;
} ExitCallback;

static ExitCallback before_exits[MAX_EXITS];
static int	nbefore_exits = 0;
static ExitCallback on_exits[MAX_EXITS];
static int	non_exits = 0;

void
before_shmem_exit(pg_on_exit_callback function, Datum arg)
{
	before_exits[nbefore_exits].function = function;
	before_exits[nbefore_exits++].arg = arg;
}

void
on_shmem_exit(pg_on_exit_callback function, Datum arg)
{
	on_exits[non_exits].function = function;
	on_exits[non_exits++].arg = arg;
}

void
cancel_before_shmem_exit(pg_on_exit_callback function, Datum arg)
{
	if (nbefore_exits > 0 && before_exits[nbefore_exits - 1].function == function &&
		before_exits[nbefore_exits - 1].arg == arg)
		nbefore_exits--;
}

void
proc_exit(int code)
{
	proc_exit_inprogress = true;
	InterruptPending = false;
	ProcDiePending = false;
	QueryCancelPending = false;
	InterruptHoldoffCount = 1;
	CritSectionCount = 0;
	error_context_stack = NULL;
	PG_exception_stack = NULL;
	while (--nbefore_exits >= 0)
		before_exits[nbefore_exits].function(code, before_exits[nbefore_exits].arg);
	while (--non_exits >= 0)
		on_exits[non_exits].function(code, on_exits[non_exits].arg);
	sim_exit(code);
}

/* ShutdownPostgres() */
static void
end_transaction(int code, Datum arg)
{
	pg_rollback();
	pg_locks_release_session();
}

/* ProcKill() */
static void
end_proc(int code, Datum arg)
{
	pg_lwlock_release_all();
	pg_disable_all_timeouts();
	ConditionVariableCancelSleep();
	MyLatch->owner_pid = 0;
	MyProc->pid = 0;
	MyProc = NULL;
}

/* What all processes of a server share, PostgreSQL's part of it. */
typedef struct Common
{
	PROC_HDR	header;
	PGPROC		procs[SIM_MAX_PROCS];
	LWLockPadded main_locks[128];
} Common;

static char tranche_names[8][64];
static int	tranche_sizes[8];
static int	ntranches = 0;

void
RequestAddinShmemSpace(Size size)
{
}

void
RequestNamedLWLockTranche(const char *tranche_name, int num_lwlocks)
{
	strlcpy(tranche_names[ntranches], tranche_name, 64);
	tranche_sizes[ntranches++] = num_lwlocks;
}

LWLockPadded *
GetNamedLWLockTranche(const char *tranche_name)
{
	for (int i = 0; i < ntranches; i++)
	{
		char		name[80];
		bool		found;

		if (strcmp(tranche_names[i], tranche_name) != 0)
			continue;
		snprintf(name, sizeof(name), "tranche %s", tranche_name);
		return sim_shmem(name, tranche_sizes[i] * sizeof(LWLockPadded), &found);
	}
	elog(FATAL, "requested tranche is not registered");
}

void
LWLockInitialize(LWLock *lock, int tranche_id)
{
	pg_atomic_write_u32(&lock->state, 0);
}

int
LWLockNewTrancheId(void)
{
	return 100;
}

void
LWLockRegisterTranche(int tranche_id, const char *tranche_name)
{
}

extern void _PG_init(void);

/*
 * A child is made by fork, and has what the postmaster has set up.  Here it sets
 * up the same again; what the postmaster alone does to shared memory meanwhile is
 * undone.
 */
void
pg_attach_shmem(SimProc *proc)
{
	static bool loaded = false;
	bool		child = proc->kind != SIM_POSTMASTER;
	Common	   *common;
	bool		found;

	IsUnderPostmaster = child;
	common = sim_shmem("postgres", sizeof(Common), &found);
	ProcGlobal = &common->header;
	ProcGlobal->allProcs = common->procs;
	ProcGlobal->allProcCount = SIM_MAX_PROCS;
	MainLWLockArray = common->main_locks;
	if (!found)
	{
		for (int i = 0; i < SIM_MAX_PROCS; i++)
		{
			common->procs[i].pgprocno = i;
			common->procs[i].procLatch.is_shared = true;
		}
	}

	if (!loaded)
	{
		process_shared_preload_libraries_in_progress = true;
		_PG_init();
		process_shared_preload_libraries_in_progress = false;
		if (shmem_request_hook)
			shmem_request_hook();
		loaded = true;
	}
	if (child)
	{
		void	   *lock_shared_copy;
		char	   *shared;

		shared = sim_shmem("etcd_lock", 0, &found);
		lock_shared_copy = malloc(sim_shmem_size("etcd_lock"));
		memcpy(lock_shared_copy, shared, sim_shmem_size("etcd_lock"));
		sim_checking = true;
		shmem_startup_hook();
		sim_checking = false;
		memcpy(shared, lock_shared_copy, sim_shmem_size("etcd_lock"));
		free(lock_shared_copy);
	}
	else
		shmem_startup_hook();
}

void
pg_process_init(SimProc *proc)
{
	MyProcPid = proc->pid;
	MyProc = &ProcGlobal->allProcs[proc->procno];
	MyProc->pid = proc->pid;
	MyProc->fpVXIDLock = true;
	MyProc->lxid = InvalidLocalTransactionId;
	MyProc->databaseId = MyDatabaseId;
	MyProc->roleId = 10 + proc->procno % 3;	/* turns of roles */
	DeadlockTimeout = atoi(sim_setting("deadlock_timeout"));
	MyLatch = &MyProc->procLatch;
	MyLatch->is_set = false;
	MyLatch->owner_pid = proc->pid;
	cluster_name = psprintf("server%d", proc->server->number);
	PostPortNumber = 5430 + proc->server->number;

	pqsignal(SIGINT, handle_cancel);
	pqsignal(SIGTERM, handle_die);
	RegisterTimeout(DEADLOCK_TIMEOUT, CheckDeadLockAlert);
	RegisterTimeout(LOCK_TIMEOUT, handle_lock_timeout);
	on_shmem_exit(end_proc, (Datum) 0);
	before_shmem_exit(end_transaction, (Datum) 0);
	if (proc->kind == SIM_SESSION)
		pg_load_module();
}

/* ---- the background worker's surroundings ---- */

void
RegisterBackgroundWorker(BackgroundWorker *worker)
{
}

void
BackgroundWorkerUnblockSignals(void)
{
}

void
BackgroundWorkerInitializeConnection(const char *dbname, const char *username, uint32 flags)
{
}

void
init_ps_display(const char *fixed_part)
{
}

void
set_ps_display(const char *activity)
{
}

/* postmaster.pid, and what tells one run of the machine from the next */
FILE *
AllocateFile(const char *name, const char *mode)
{
	char		text[512] = "";

	if (strcmp(name, "/proc/sys/kernel/random/boot_id") == 0)
		snprintf(text, sizeof(text), "machine-%d-%d\n", sim_server(), sim_boot());
	else if (strcmp(name, "postmaster.pid") == 0)
	{
		for (int i = 1; i < LOCK_FILE_LINE_PM_STATUS; i++)
			strcat(text, "x\n");
		strcat(text, sim_stopping() ? PM_STATUS_STOPPING "\n" : PM_STATUS_READY "\n");
	}
	else
	{
		errno = ENOENT;
		return NULL;
	}
	return fmemopen(memcpy(palloc(sizeof(text)), text, sizeof(text)), strlen(text), "r");
}

int
FreeFile(FILE *file)
{
	return fclose(file);
}

/* The system's own calls, as the extension makes them: all machines look alike. */
ssize_t
readlink(const char *path, char *buf, size_t size)
{
	return snprintf(buf, size, "space:[1]");
}

static void
describe_file(struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_mode = S_IFREG | S_IRUSR;
	st->st_uid = geteuid();
	st->st_ino = 1;
	st->st_size = strlen(PASSWORD);
}

int
stat(const char *path, struct stat *st)
{
	describe_file(st);
	return 0;
}

int
fstat(int fd, struct stat *st)
{
	describe_file(st);
	return 0;
}

/* The password's file, the only one that is opened so here. */
int
OpenTransientFile(const char *fileName, int fileFlags)
{
	int			fd = memfd_create("password", 0);

	if (write(fd, PASSWORD, strlen(PASSWORD)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		elog(PANIC, "cannot make a file");
	return fd;
}

int
CloseTransientFile(int fd)
{
	return close(fd);
}

/* ----------------------------------------------------------------
 *		Settings
 * ----------------------------------------------------------------
 */

typedef struct IntSetting
{
	const char *name;
	int		   *variable;
	GucContext	context;
} IntSetting;

typedef struct StringSetting
{
	const char *name;
	char	  **variable;
	GucContext	context;
} StringSetting;

static IntSetting ints[64];
static int	nints = 0;
static StringSetting strings[64];
static int	nstrings = 0;

char	   *GUC_check_errmsg_string;
char	   *GUC_check_errdetail_string;
char	   *GUC_check_errhint_string;

static void
set_int(IntSetting *setting)
{
	const char *value = sim_setting(setting->name);

	if (value != NULL)
		*setting->variable = atoi(value);
}

static void
set_string(StringSetting *setting)
{
	const char *value = sim_setting(setting->name);

	if (value != NULL)
		*setting->variable = MemoryContextStrdup(TopMemoryContext, value);
}

void
DefineCustomIntVariable(const char *name, const char *short_desc, const char *long_desc,
						int *valueAddr, int bootValue, int minValue, int maxValue,
						GucContext context, int flags, GucIntCheckHook check_hook,
						GucIntAssignHook assign_hook, GucShowHook show_hook)
{
	*valueAddr = bootValue;
	ints[nints] = (IntSetting) {name, valueAddr, context};
	set_int(&ints[nints++]);
}

void
DefineCustomEnumVariable(const char *name, const char *short_desc, const char *long_desc,
						 int *valueAddr, int bootValue, const struct config_enum_entry *options,
						 GucContext context, int flags, GucEnumCheckHook check_hook,
						 GucEnumAssignHook assign_hook, GucShowHook show_hook)
{
	*valueAddr = bootValue;
	ints[nints] = (IntSetting) {name, valueAddr, context};
	set_int(&ints[nints++]);
}

void
DefineCustomBoolVariable(const char *name, const char *short_desc, const char *long_desc,
						 bool *valueAddr, bool bootValue, GucContext context, int flags,
						 GucBoolCheckHook check_hook, GucBoolAssignHook assign_hook,
						 GucShowHook show_hook)
{
	const char *value = sim_setting(name);

	*valueAddr = value != NULL ? atoi(value) != 0 : bootValue;
}

void
DefineCustomStringVariable(const char *name, const char *short_desc, const char *long_desc,
						   char **valueAddr, const char *bootValue, GucContext context,
						   int flags, GucStringCheckHook check_hook,
						   GucStringAssignHook assign_hook, GucShowHook show_hook)
{
	*valueAddr = MemoryContextStrdup(TopMemoryContext, bootValue);
	strings[nstrings] = (StringSetting) {name, valueAddr, context};
	set_string(&strings[nstrings++]);
}

void
MarkGUCPrefixReserved(const char *className)
{
}

/* Nobody has given one in a file before it was defined. */
int
GetNumConfigOptions(void)
{
	return 0;
}

struct config_generic **
get_guc_variables(void)
{
	return NULL;
}

const char *
GetConfigOption(const char *name, bool missing_ok, bool restrict_privileged)
{
	return NULL;
}

int
set_config_option(const char *name, const char *value, GucContext context, GucSource source,
				  GucAction action, bool changeVal, int elevel, bool is_reload)
{
	return 0;
}

void
ProcessConfigFile(GucContext context)
{
	for (int i = 0; i < nints; i++)
	{
		if (ints[i].context == PGC_SIGHUP)
			set_int(&ints[i]);
	}
	for (int i = 0; i < nstrings; i++)
	{
		if (strings[i].context == PGC_SIGHUP)
			set_string(&strings[i]);
	}
}

uint64
GetSystemIdentifier(void)
{
	return 1000 + sim_server();
}
