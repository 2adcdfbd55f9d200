/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The background worker: its main loop, its start and its end.
 *
 * The loop waits for its latch, for the postmaster's death, and for one
 * descriptor that stands for all sockets.  The timeout of that wait serves all
 * timers.
 *
 * There is one event loop, in which nothing blocks.  The parts share the
 * process and its private memory, and need no locks except those of
 * lock_table.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "client/etcd_client.h"
#include "client/link.h"
#include "client/watch.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "postmaster/postmaster.h"
#include "shared/clock.h"
#include "shared/compat.h"
#include "shared/lease_id.h"
#include "shared/lock_keep.h"
#include "shared/lock_table.h"
#include "shared/lock_trace.h"
#include "shared/wait_events.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/ps_status.h"
#include "utils/timestamp.h"
#include "worker/audit.h"
#include "worker/break_message.h"
#include "worker/break_worker.h"
#include "worker/catch_up_worker.h"
#include "worker/claim_worker.h"
#include "worker/context.h"
#include "worker/deadlock_post.h"
#include "worker/deadlock_worker.h"
#include "worker/duplicate.h"
#include "worker/health.h"
#include "worker/held_keys.h"
#include "worker/key_value.h"
#include "worker/lease.h"
#include "worker/name.h"
#include "worker/names.h"
#include "worker/old_leases.h"
#include "worker/orphans.h"
#include "worker/queue_pages.h"
#include "worker/recent_names.h"
#include "worker/role_requests.h"
#include "worker/serials.h"
#include "worker/tick_lease.h"
#include "worker/txn_response.h"
#include "worker/txn_build.h"
#include "worker/txn_queue.h"
#include "worker/worker.h"

/* Longest sleep, microseconds, because sessions watch our heartbeat. */
#define LONGEST_SLEEP		INT64CONST(10000000)

/* How long to wait at a shutdown for holders to end, microseconds. */
#define STOP_WAIT			INT64CONST(5000000)
#define REVOKE_WAIT			INT64CONST(1000000)
#define STOP_POLL			INT64CONST(20000)

/* How often the process title is updated, microseconds. */
#define TITLE_INTERVAL		INT64CONST(1000000)

/*
 * A worker that exits is restarted at once, because with a short lease less
 * than a second is left.  A worker that keeps failing pauses itself;
 * microseconds.
 */
#define RESTART_PAUSE		INT64CONST(1000000)

static volatile sig_atomic_t stop_requested = false;
static MemoryContext loop_context;

void
worker_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	strlcpy(worker.bgw_name, "etcd_lock worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "etcd_lock worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "etcd_lock", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "etcd_lock_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 0;
	RegisterBackgroundWorker(&worker);
}

/* "http://host:port" without the scheme. */
static const char *
address_of(const char *endpoint)
{
	const char *host = strstr(endpoint, "://");

	return host != NULL ? host + 3 : endpoint;
}

/* The process title: "etcd_lock: lease <id>, <n> keys, <host:port>". */
static void
show_title(void)
{
	static char shown[256];
	static int64 next_time = 0;
	int64		now = clock_now();
	char		title[256];

	if (now < next_time)
		return;
	next_time = now + TITLE_INTERVAL;
	if (lease_alive())
		snprintf(title, sizeof(title), "lease %s, %d keys, %s",
				 lease_id_hex(), serials_count(), address_of(link_endpoint()));
	else
		snprintf(title, sizeof(title), "no lease, %s",
				 address_of(link_endpoint()));
	if (strcmp(title, shown) == 0)
		return;
	strlcpy(shown, title, sizeof(shown));
	set_ps_display(title);
}

static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	stop_requested = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

static void
goodbye(int code, Datum arg)
{
	pg_atomic_write_u32(&lock_shared->worker_procno, INVALID_WORKER);
	pg_atomic_write_u32(&lock_shared->worker_pid, 0);
	pg_atomic_write_u32(&lock_shared->link_up, 0);
}

/*
 * Is the whole server stopping, or only the worker?  The postmaster's file
 * tells.
 */
static bool
server_is_stopping(void)
{
	FILE	   *file = AllocateFile("postmaster.pid", "r");
	char		line[MAXPGPATH];
	bool		stopping = true;	/* if in doubt */

	if (file == NULL)
		return true;
	for (int i = 1; fgets(line, sizeof(line), file) != NULL; i++)
	{
		if (i == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(line, PM_STATUS_STOPPING,
							   strlen(PM_STATUS_STOPPING)) == 0;
	}
	FreeFile(file);
	return stopping;
}

/*
 * A shutdown signals us together with the backends, some of which may be
 * committing under a lock: grant nothing new, keep the lease until no session
 * holds or wants anything, then revoke it (rule 22).  If that takes too long,
 * leave the lease to run out: the holders know its deadline.
 *
 * Kept keys are given up in the same step as that check: otherwise a session
 * could release a lock and leave its key, and another one take that key between
 * the check and the end of the lease, and commit under it.
 *
 * If only the worker is stopping, its successor continues with the lease.
 */
static void
stop(int64 *stop_at)
{
	int64		now = clock_now();
	bool		in_use;

	if (!MyWorker->stopping && !server_is_stopping())
		proc_exit(1);
	if (*stop_at == 0)
		*stop_at = now + STOP_WAIT;
	MyWorker->stopping = true;
	if (now >= *stop_at || lease_is_revoked())
		proc_exit(1);			/* after 0 it would not be restarted */
	if (lease_is_leaving())
		return;
	(void) lock_keep_end_idle(&in_use);
	if (!in_use)
	{
		lease_revoke_for_exit();
		*stop_at = Min(*stop_at, now + REVOKE_WAIT);
	}
}

/* Returns the milliseconds until something is due. */
static long
time_to_sleep(void)
{
	int64		now = clock_now();
	int64		next = now + LONGEST_SLEEP;
	long		timeout;
	long		sleep;

	next = Min(next, link_tick_time());
	next = Min(next, lease_next_time());
	next = Min(next, old_leases_next_time());
	next = Min(next, txn_queue_next_time());
	next = Min(next, names_next_time());
	next = Min(next, held_keys_next_time());
	next = Min(next, claim_worker_next_time());
	next = Min(next, tick_lease_next_time());
	next = Min(next, audit_next_time());
	next = Min(next, queue_pages_next_time());
	next = Min(next, duplicate_next_time());
	next = Min(next, catch_up_worker_next_time());
	next = Min(next, deadlock_worker_next_time());
	if (MyWorker->stopping)
		next = Min(next, now + STOP_POLL);
	sleep = next <= now ? 0 : (long) ((next - now + 999) / 1000);

	timeout = link_timeout();
	if (timeout >= 0)
		sleep = Min(sleep, timeout);
	return sleep;
}

/* Somebody has put a key below our sentinel.  Each part recognizes its own. */
static void
message_came(const EtcdKeyValue *message)
{
	audit_broken(message);
	catch_up_worker_message(message);
	deadlock_worker_message(message);
}

/*
 * Each part uses those before it, and reports to those after it by callbacks.
 */
static void
create_parts(void)
{
	static const LeaseCallbacks lease_callbacks = {
		.ended = names_end_epoch,
		.may_extend = audit_permits,
		.message = message_came
	};

	MyWorker = context_create();
	watch_create();
	key_value_create();
	recent_names_create();
	break_message_create();
	serials_create();
	orphans_create();
	old_leases_create();
	lease_create(&lease_callbacks);
	name_create();
	role_requests_create();
	txn_build_create();
	txn_queue_create(txn_response_done);
	held_keys_create();
	audit_create();
	deadlock_post_create();
	deadlock_worker_create();
	names_create();
	break_worker_create();
	tick_lease_create();
	claim_worker_create();
	catch_up_worker_create();
	queue_pages_create();
	health_create();
	duplicate_create();
}

/* No more than one start in each RESTART_PAUSE. */
static void
pause_after_failure(void)
{
	int64		last = (int64) pg_atomic_read_u64(&lock_shared->worker_started_at);

	while (!stop_requested)
	{
		int64		left = last + RESTART_PAUSE - clock_now();

		if (last == 0 || left <= 0 || left > RESTART_PAUSE)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left / 1000 + 1, wait_events_worker());
		ResetLatch(MyLatch);
	}
	pg_atomic_write_u64(&lock_shared->worker_started_at, (uint64) clock_now());
}

/* Sending comes last, because all parts leave something to send. */
static void
run_parts(void)
{
	link_tick();
	lease_tick();
	old_leases_tick();
	names_take_work();
	held_keys_tick(clock_now());
	audit_tick(clock_now());
	names_tick();
	break_worker_tick();
	claim_worker_tick();
	tick_lease_tick();
	catch_up_worker_tick();
	deadlock_worker_tick();
	queue_pages_tick();
	health_tick();
	duplicate_tick();
	txn_queue_send();
}

/* From now on, sessions wake us, and see that we are there. */
static void
announce(void)
{
	before_shmem_exit(goodbye, (Datum) 0);
	pg_atomic_write_u32(&lock_shared->worker_pid, MyProcPid);
	pg_atomic_write_u32(&lock_shared->worker_procno, compat_my_procno());
}

static void
reload(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	lock_trace_begin_worker();
	link_reload();
}

void
etcd_lock_worker_main(Datum arg)
{
	WaitEventSet *set;
	bool		sockets_ready = false;
	int64		stop_at = 0;

	pqsignal(SIGTERM, handle_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	pause_after_failure();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	init_ps_display("etcd_lock:");

	MyClient = etcd_client_create();
	if (!link_create())
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("etcd_lock: could not set up the network: %m")));

	loop_context = AllocSetContextCreate(TopMemoryContext, "etcd_lock loop",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(loop_context);

	set = compat_wait_event_set(3);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(set, WL_SOCKET_READABLE, link_fd(),
					  NULL, NULL);

	lock_trace_begin_worker();
	create_parts();

	announce();
	link_init();
	lock_table_start_work();
	names_take_work();			/* before the lease is found to be over */

	for (;;)
	{
		WaitEvent	events[3];
		int			nevents;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();
		pg_atomic_write_u64(&lock_shared->worker_heartbeat, (uint64) clock_now());

		if (sockets_ready || link_timeout() == 0)
			link_run();
		run_parts();
		if (stop_requested)
			stop(&stop_at);
		show_title();
		lock_trace_say();
		MemoryContextReset(loop_context);

		nevents = WaitEventSetWait(set, time_to_sleep(), events, lengthof(events),
								   wait_events_worker());
		ResetLatch(MyLatch);
		sockets_ready = false;
		for (int i = 0; i < nevents; i++)
			sockets_ready |= (events[i].events & WL_SOCKET_READABLE) != 0;
	}
}
