/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The background worker's loop, its start and its end.
 *
 * The loop waits for its latch, for the postmaster's death, and for one
 * descriptor behind which all of curl's sockets stand.  Timers are the timeout
 * of that wait.
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include <signal.h>
#include <unistd.h>

#include "break.h"
#include "claim.h"
#include "etcd_holder.h"
#include "health.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "postmaster/postmaster.h"
#include "queue_pages.h"
#include "storage/ipc.h"
#include "storage/fd.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/ps_status.h"
#include "utils/timestamp.h"

/* Longest sleep, microseconds: sessions watch our heartbeat. */
#define LONGEST_SLEEP		INT64CONST(10000000)

/* How long to wait at a shutdown for holders to end, microseconds. */
#define STOP_WAIT			INT64CONST(5000000)
#define REVOKE_WAIT			INT64CONST(1000000)
#define STOP_POLL			INT64CONST(20000)

/* How often "ps" shows something new, microseconds. */
#define TITLE_INTERVAL		INT64CONST(1000000)

/* Pause before a worker that failed is started again, seconds. */
#define RESTART_PAUSE		1

EtcdTransport *worker_transport = NULL;
bool		worker_stopping = false;

static char host[256];			/* ours, as gethostname() has it */
static volatile sig_atomic_t stop_requested = false;
static bool revoking = false;
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
	worker.bgw_restart_time = RESTART_PAUSE;
	RegisterBackgroundWorker(&worker);
}

/*
 * The value of a key of ours in etcd: who it is.  who is NULL for the key of
 * the server itself.
 */
char *
worker_describe(const LockWho *who, int pid, TimestampTz since)
{
	EtcdHolder	holder = {0};
	char	   *json;
	char	   *result;

	strlcpy(holder.host, host, sizeof(holder.host));
	if (cluster_name[0] != '\0')
		strlcpy(holder.server, cluster_name, sizeof(holder.server));
	else
		snprintf(holder.server, sizeof(holder.server), "%.*s:%d",
				 (int) sizeof(holder.server) - 8, host, PostPortNumber);
	holder.has_port = true;
	holder.port = PostPortNumber;
	holder.has_pid = true;
	holder.pid = pid;
	if (who != NULL)
	{
		holder.has_session = true;
		strlcpy(holder.database, who->database, sizeof(holder.database));
		strlcpy(holder.user, who->username, sizeof(holder.user));
		strlcpy(holder.application, who->application,
				sizeof(holder.application));
	}
	holder.has_since = true;
	holder.since = since + UNIX_TO_POSTGRES;

	json = etcd_holder_encode(&holder);
	if (json == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	result = pstrdup(json);
	free(json);
	return result;
}

/* "http://host:port" without the beginning. */
static const char *
address_of(const char *endpoint)
{
	const char *host = strstr(endpoint, "://");

	return host != NULL ? host + 3 : endpoint;
}

/* What "ps" shows: "etcd_lock: lease <id>, <n> keys, <host:port>". */
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
				 lease_hex(), own_keys_count(), address_of(link_endpoint()));
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

/* Is the whole server to end, or only we?  The postmaster has written it down. */
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
 * holds or wants anything, then give it back (rule 22).  When that takes too
 * long, leave the lease to run out: those who hold it know its deadline.
 *
 * When only we are to end, our successor goes on with the lease.
 */
static void
stop(int64 *stop_at)
{
	int64		now = clock_now();

	if (!worker_stopping && !server_is_stopping())
		proc_exit(1);
	if (*stop_at == 0)
		*stop_at = now + STOP_WAIT;
	worker_stopping = true;
	if (now >= *stop_at || lease_is_revoked())
		proc_exit(1);			/* not 0: that would be for good */
	if (!revoking && !names_in_use())
	{
		revoking = true;
		lease_revoke_for_exit();
		*stop_at = Min(*stop_at, now + REVOKE_WAIT);
	}
}

/* Milliseconds until something is due. */
static long
time_to_sleep(void)
{
	int64		now = clock_now();
	int64		next = now + LONGEST_SLEEP;
	long		transport;
	long		sleep;

	next = Min(next, link_tick_time());
	next = Min(next, lease_next_time());
	next = Min(next, requests_next_time());
	next = Min(next, names_next_time());
	next = Min(next, held_next_time());
	next = Min(next, queue_pages_next_time());
	if (worker_stopping)
		next = Min(next, now + STOP_POLL);
	sleep = next <= now ? 0 : (long) ((next - now + 999) / 1000);

	transport = etcd_transport_timeout(worker_transport);
	if (transport >= 0)
		sleep = Min(sleep, transport);
	return sleep;
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
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	init_ps_display("etcd_lock:");

	worker_transport = etcd_transport_create();
	if (worker_transport == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("etcd_lock: could not set up HTTP: %m")));

	if (!etcd_transport_resolves_async())
		ereport(WARNING,
				(errmsg("etcd_lock: this libcurl blocks while it resolves a name"),
				 errhint("Name etcd's endpoints by their addresses.")));

	loop_context = AllocSetContextCreate(TopMemoryContext, "etcd_lock loop",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(loop_context);

	set = compat_wait_event_set(3);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(set, WL_SOCKET_READABLE, etcd_transport_fd(worker_transport),
					  NULL, NULL);

	if (gethostname(host, sizeof(host)) != 0)
		host[0] = '\0';
	host[sizeof(host) - 1] = '\0';

	before_shmem_exit(goodbye, (Datum) 0);
	pg_atomic_write_u32(&lock_shared->worker_pid, MyProcPid);
	pg_atomic_write_u32(&lock_shared->worker_procno, compat_my_procno());
	link_init();
	lease_start();
	queue_pages_start();
	lock_table_start_work();
	names_take_work();			/* before the lease is found to be over */

	for (;;)
	{
		WaitEvent	events[3];
		int			nevents;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			link_reload();
		}
		pg_atomic_write_u64(&lock_shared->worker_heartbeat, (uint64) clock_now());

		if (sockets_ready || etcd_transport_timeout(worker_transport) == 0)
			etcd_transport_run(worker_transport);
		link_tick();
		lease_tick();
		names_take_work();
		names_tick();
		held_tick(clock_now());
		break_tick();
		claim_take_work();
		queue_pages_tick();
		health_tick();
		requests_send();
		if (stop_requested)
			stop(&stop_at);
		show_title();
		MemoryContextReset(loop_context);

		nevents = WaitEventSetWait(set, time_to_sleep(), events, lengthof(events),
								   etcd_lock_wait_event_worker());
		ResetLatch(MyLatch);
		sockets_ready = false;
		for (int i = 0; i < nevents; i++)
			sockets_ready |= (events[i].events & WL_SOCKET_READABLE) != 0;
	}
}
