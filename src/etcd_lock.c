/*-------------------------------------------------------------------------
 *
 * etcd_lock.c
 *	  Entry of the module: settings, shared memory, the worker.
 *
 * Without shared_preload_libraries the module loads quietly, so that CREATE
 * EXTENSION and pg_dump work; each function then says what is missing.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_lock.h"

#include "break.h"
#include "claim.h"
#include "health.h"
#include "lock_session.h"
#include "loss.h"
#include "miscadmin.h"
#include "queue_pages.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/varlena.h"
#include "worker.h"

COMPAT_MODULE_MAGIC("etcd_lock", ETCD_LOCK_VERSION);

PGDLLEXPORT void _PG_init(void);

char	   *etcd_lock_endpoints;
char	   *etcd_lock_namespace;
char	   *etcd_lock_cacert;
char	   *etcd_lock_cert;
char	   *etcd_lock_key;
char	   *etcd_lock_username;
char	   *etcd_lock_password_file;
int			etcd_lock_lease_ttl;
int			etcd_lock_handoff_window;
int			etcd_lock_connect_timeout;
int			etcd_lock_request_timeout;
bool		etcd_lock_synchronous_release;
int			etcd_lock_commit_guard;
int			etcd_lock_on_loss;
int			etcd_lock_session_locks;
int			etcd_lock_max_names_per_session;
int			etcd_lock_max_names;

static const struct config_enum_entry commit_guard_options[] = {
	{"off", COMMIT_GUARD_OFF, false},
	{"lease", COMMIT_GUARD_LEASE, false},
	{"etcd", COMMIT_GUARD_ETCD, false},
	{NULL, 0, false}
};

static const struct config_enum_entry on_loss_options[] = {
	{"cancel", ON_LOSS_CANCEL, false},
	{"terminate", ON_LOSS_TERMINATE, false},
	{"warn", ON_LOSS_WARN, false},
	{NULL, 0, false}
};

static const struct config_enum_entry session_locks_options[] = {
	{"on", SESSION_LOCKS_ON, false},
	{"warn", SESSION_LOCKS_WARN, false},
	{"off", SESSION_LOCKS_OFF, false},
	{NULL, 0, false}
};

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/*
 * Is it http[s]://host[:port], and nothing else?  A user's name in it, a path
 * or a line's end would go into requests.
 */
static bool
is_endpoint(const char *url)
{
	const char *host;
	const char *c;

	if (strncmp(url, "http://", 7) == 0)
		host = url + 7;
	else if (strncmp(url, "https://", 8) == 0)
		host = url + 8;
	else
		return false;

	if (*host == '[')
	{
		c = host + 1 + strspn(host + 1, "0123456789abcdefABCDEF:.");
		if (c == host + 1 || *c++ != ']')
			return false;
	}
	else
	{
		c = host + strspn(host, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.");
		if (c == host)
			return false;
	}
	if (*c == ':')
	{
		size_t		digits = strspn(c + 1, "0123456789");

		if (digits < 1 || digits > 5 || atoi(c + 1) < 1 || atoi(c + 1) > 65535)
			return false;
		c += 1 + digits;
	}
	return *c == '\0' || strcmp(c, "/") == 0;
}

/* A list of http or https URLs without a path. */
static bool
check_endpoints(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *urls;
	ListCell   *cell;

	if (!SplitGUCList(copy, ',', &urls) || urls == NIL)
	{
		GUC_check_errdetail("It must be a list of URLs.");
		return false;
	}
	foreach(cell, urls)
	{
		if (!is_endpoint(lfirst(cell)))
		{
			/* Not what it is: there may be a password in it. */
			GUC_check_errdetail("Element %d is not of the form http://host:port or https://host:port.",
								foreach_current_index(cell) + 1);
			return false;
		}
	}
	list_free(urls);
	pfree(copy);
	return true;
}

/*
 * A namespace ends in a slash, or another one could begin within a part of a
 * name.  It is ASCII, as other characters have other bytes in a database of
 * another encoding.
 */
static bool
check_namespace(char **newval, void **extra, GucSource source)
{
	const char *namespace = *newval;
	size_t		len = strlen(namespace);

	for (const char *c = namespace; *c != '\0'; c++)
	{
		if (*c <= ' ' || *c > '~')
		{
			GUC_check_errdetail("It may hold printable ASCII characters only, and no spaces.");
			return false;
		}
	}
	if (len > 0 && namespace[len - 1] != '/')
	{
		GUC_check_errdetail("It must end in a slash.");
		return false;
	}
	if (len > ETCD_LOCK_MAX_NAMESPACE)
	{
		GUC_check_errdetail("It may not be longer than %d bytes.",
							ETCD_LOCK_MAX_NAMESPACE);
		return false;
	}
	if (strstr(namespace, ETCD_LOCK_RESERVED) != NULL)
	{
		GUC_check_errdetail("\"%s\" is reserved.", ETCD_LOCK_RESERVED);
		return false;
	}
	return true;
}

static void
define_settings(void)
{
	DefineCustomStringVariable("etcd_lock.endpoints",
							   "Comma-separated URLs of etcd's members.",
							   NULL,
							   &etcd_lock_endpoints,
							   "http://127.0.0.1:2379",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_endpoints, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.cacert",
							   "File with the certificates that those of https endpoints are verified by.",
							   "Empty uses the system's.",
							   &etcd_lock_cacert,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.cert",
							   "File with this server's certificate for https endpoints.",
							   NULL,
							   &etcd_lock_cert,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.key",
							   "File with the private key of etcd_lock.cert.",
							   NULL,
							   &etcd_lock_key,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.username",
							   "User to log in to etcd as.",
							   "Empty does not log in.",
							   &etcd_lock_username,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.password_file",
							   "File with the password of etcd_lock.username.",
							   NULL,
							   &etcd_lock_password_file,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.namespace",
							   "Put in front of the name of each lock.",
							   "Superusers may set it for a database or a role.",
							   &etcd_lock_namespace,
							   "",
							   PGC_SUSET, 0,
							   check_namespace, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.lease_ttl",
							"How long etcd keeps this server's locks when it hears nothing of it.",
							"Applies to the next lease.",
							&etcd_lock_lease_ttl,
							10, 2, 3600,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.handoff_window",
							"How long this server may pass a lock on between its own sessions.",
							"0 asks etcd each time.",
							&etcd_lock_handoff_window,
							100, 0, 10000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.connect_timeout",
							"How long a new request waits for a link to etcd.",
							NULL,
							&etcd_lock_connect_timeout,
							10000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.request_timeout",
							"How long the worker waits for the answer to one request.",
							NULL,
							&etcd_lock_request_timeout,
							5000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("etcd_lock.synchronous_release",
							 "Wait for etcd to confirm that a lock is free.",
							 NULL,
							 &etcd_lock_synchronous_release,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("etcd_lock.commit_guard",
							 "What is looked at before a transaction with an etcd lock commits.",
							 NULL,
							 &etcd_lock_commit_guard,
							 COMMIT_GUARD_LEASE, commit_guard_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("etcd_lock.on_loss",
							 "What happens to a session when it loses an etcd lock.",
							 "Cancel ends the running statement, terminate the session.",
							 &etcd_lock_on_loss,
							 ON_LOSS_CANCEL, on_loss_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("etcd_lock.session_locks",
							 "Whether locks that outlive their transaction may be acquired.",
							 "Off or warn is for sessions behind a pooler that shares connections between transactions.",
							 &etcd_lock_session_locks,
							 SESSION_LOCKS_ON, session_locks_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.max_names_per_session",
							"How many etcd locks one session may hold.",
							NULL,
							&etcd_lock_max_names_per_session,
							1024, 1, 1000000,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.max_names",
							"How many names of etcd locks may be in use at a time on this server.",
							NULL,
							&etcd_lock_max_names,
							4096, 16, 1000000,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("etcd_lock");
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(add_size(lock_table_shmem_size(), break_shmem_size()));
	RequestAddinShmemSpace(claim_shmem_size());
	RequestAddinShmemSpace(add_size(stats_shmem_size(), health_shmem_size()));
	RequestAddinShmemSpace(queue_pages_shmem_size());
	lock_table_request_locks();
	queue_pages_request_locks();
}

/* Runs again, in the postmaster, after the crash of a backend. */
static void
shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	lock_table_shmem_init();
	lease_shmem_init();
	break_shmem_init();
	claim_shmem_init();
	stats_shmem_init();
	queue_pages_shmem_init();
	health_shmem_init();
}

static uint32
wait_event(uint32 *event, const char *name)
{
	if (*event == 0)
		*event = compat_wait_event(name);
	return *event;
}

uint32
etcd_lock_wait_event_acquire(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockAcquire");
}

uint32
etcd_lock_wait_event_release(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockRelease");
}

uint32
etcd_lock_wait_event_check(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockCheck");
}

uint32
etcd_lock_wait_event_worker(void)
{
	static uint32 event = 0;

	return wait_event(&event, "EtcdLockWorkerMain");
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	define_settings();
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	lock_session_init();
	loss_init();
	worker_register();
}
