/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings: their variables, ranges and checks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/compat.h"
#include "shared/settings.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/varlena.h"

char	   *etcd_lock_endpoints;
char	   *etcd_lock_discovery_srv;
char	   *etcd_lock_namespace;
char	   *etcd_lock_cacert;
char	   *etcd_lock_cert;
char	   *etcd_lock_key;
char	   *etcd_lock_username;
char	   *etcd_lock_password_file;
int			etcd_lock_lease_ttl;
int			etcd_lock_handoff_window;
int			etcd_lock_keep_window;
int			etcd_lock_connect_timeout;
int			etcd_lock_request_timeout;
bool		etcd_lock_synchronous_release;
bool		etcd_lock_catch_up;
int			etcd_lock_commit_guard;
int			etcd_lock_on_loss;
int			etcd_lock_session_locks;
int			etcd_lock_duplicate_primary;
char	   *etcd_lock_cluster_id;
int			etcd_lock_max_names_per_session;
int			etcd_lock_max_names_per_role;
int			etcd_lock_max_waiting_per_role;
int			etcd_lock_max_requests_per_role;
int			etcd_lock_max_names;
int			etcd_lock_max_ticks;
int			etcd_lock_tick_retention;

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

static const struct config_enum_entry duplicate_primary_options[] = {
	{"warn", DUPLICATE_PRIMARY_WARN, false},
	{"refuse", DUPLICATE_PRIMARY_REFUSE, false},
	{NULL, 0, false}
};

static const struct config_enum_entry session_locks_options[] = {
	{"on", SESSION_LOCKS_ON, false},
	{"warn", SESSION_LOCKS_WARN, false},
	{"off", SESSION_LOCKS_OFF, false},
	{NULL, 0, false}
};

/*
 * Is it http[s]://host[:port], and nothing else?  A user name, a path or a
 * line break would go into requests.
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
			/* Do not show it, because it may contain a password. */
			GUC_check_errdetail("Element %d is not of the form http://host:port or https://host:port.",
								foreach_current_index(cell) + 1);
			return false;
		}
	}
	list_free(urls);
	pfree(copy);
	return true;
}

/* As etcdctl shows it: up to 16 hex digits. */
static bool
check_cluster_id(char **newval, void **extra, GucSource source)
{
	size_t		len = strlen(*newval);

	if (len <= 16 && strspn(*newval, "0123456789abcdefABCDEF") == len)
		return true;
	GUC_check_errdetail("It must be a hexadecimal number of up to 16 digits, without \"0x\".");
	return false;
}

/* With none, nothing of the role would ever be sent. */
static bool
check_max_requests(int *newval, void **extra, GucSource source)
{
	if (*newval != 0)
		return true;
	GUC_check_errdetail("It must be at least 1, or -1 for no limit.");
	return false;
}

/*
 * A namespace ends in a slash; otherwise it could end within a part of another
 * one's names.  It is ASCII, because other characters have different bytes in
 * databases with other encodings.
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
	if (key_layout_has_reserved(namespace, len))
	{
		GUC_check_errdetail("\"%s\" is reserved.", KEY_LAYOUT_RESERVED);
		return false;
	}
	return true;
}

static void
define_all(GucEnumAssignHook on_loss_assign)
{
	DefineCustomStringVariable("etcd_lock.endpoints",
							   "Comma-separated URLs of etcd's members.",
							   NULL,
							   &etcd_lock_endpoints,
							   "http://127.0.0.1:2379",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_endpoints, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.discovery_srv",
							   "Domain whose DNS SRV records name etcd's members.",
							   "If it is set, \"etcd_lock.endpoints\" is not used.",
							   &etcd_lock_discovery_srv,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.cacert",
							   "File with the CA certificates used to verify https endpoints.",
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
							   "Prefix of the name of each lock.",
							   "Superusers may set it for a database or a role.",
							   &etcd_lock_namespace,
							   "",
							   PGC_SUSET, 0,
							   check_namespace, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.lease_ttl",
							"How long etcd keeps this server's locks without a keepalive.",
							"Applies to the next lease.",
							&etcd_lock_lease_ttl,
							10, 2, 3600,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.handoff_window",
							"How long this server may pass a lock on between its own sessions.",
							"0 asks etcd each time, unless the lock is kept; see \"etcd_lock.keep_window\".",
							&etcd_lock_handoff_window,
							100, 0, 10000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.keep_window",
							"How long this server keeps a lock that it takes again and again while no session uses it.",
							"Another server that asks for the lock gets it at once.  0 keeps none.",
							&etcd_lock_keep_window,
							200, 0, KEY_LAYOUT_MAX_KEEP,
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
							"How long the worker waits for the response to one request.",
							NULL,
							&etcd_lock_request_timeout,
							5000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("etcd_lock.synchronous_release",
							 "Unlock and commit wait until etcd confirms that the lock is free.",
							 NULL,
							 &etcd_lock_synchronous_release,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("etcd_lock.catch_up",
							 "On a standby, a session waits after acquiring a lock until everything the primary had written is replayed.",
							 NULL,
							 &etcd_lock_catch_up,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("etcd_lock.commit_guard",
							 "What is checked before a transaction with an etcd lock commits.",
							 NULL,
							 &etcd_lock_commit_guard,
							 COMMIT_GUARD_LEASE, commit_guard_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("etcd_lock.on_loss",
							 "What happens to a session when it loses an etcd lock.",
							 "\"cancel\" ends the running statement, \"terminate\" ends the session.",
							 &etcd_lock_on_loss,
							 ON_LOSS_CANCEL, on_loss_options,
							 PGC_SUSET, 0,
							 NULL, on_loss_assign, NULL);
	DefineCustomEnumVariable("etcd_lock.duplicate_primary",
							 "What happens when another live primary has this server's system identifier.",
							 "One of them is a copy of the other.  With \"refuse\", the later one takes no locks.",
							 &etcd_lock_duplicate_primary,
							 DUPLICATE_PRIMARY_WARN, duplicate_primary_options,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable("etcd_lock.cluster_id",
							   "Id of the only etcd cluster to be used, in hexadecimal.",
							   "Empty uses the cluster of the endpoint that responds first.",
							   &etcd_lock_cluster_id,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_cluster_id, NULL, NULL);
	DefineCustomEnumVariable("etcd_lock.session_locks",
							 "Whether locks that outlive their transaction may be acquired.",
							 "Use \"off\" or \"warn\" for sessions behind a pooler that shares connections between transactions.",
							 &etcd_lock_session_locks,
							 SESSION_LOCKS_ON, session_locks_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.max_names_per_session",
							"Maximum number of etcd locks that one session may hold.",
							NULL,
							&etcd_lock_max_names_per_session,
							1024, 1, 1000000,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.max_names_per_role",
							"How many etcd locks all sessions of a role together may hold or want on this server.",
							"-1 means no limit.",
							&etcd_lock_max_names_per_role,
							-1, -1, 1000000,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.max_waiting_per_role",
							"How many sessions of a role may wait on this server for etcd locks that somebody else has.",
							"-1 means no limit.",
							&etcd_lock_max_waiting_per_role,
							-1, -1, 1000000,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.max_requests_per_role",
							"How many requests of one kind this server sends to etcd at a time for a role's sessions.",
							"Others of the role wait for their turn.  -1 means no limit.",
							&etcd_lock_max_requests_per_role,
							-1, -1, 1000000,
							PGC_SUSET, 0,
							check_max_requests, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.max_names",
							"Maximum number of names of etcd locks in use at a time on this server.",
							NULL,
							&etcd_lock_max_names,
							4096, 16, 1000000,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.max_ticks",
							"Maximum number of names in one namespace that have a tick in etcd.",
							"etcd_try_once() refuses further names.",
							&etcd_lock_max_ticks,
							10000, 0, 1000000,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_lock.tick_retention",
							"Minimum time that etcd keeps the tick of a name after its last claim.",
							"A caller that asks for the same tick later may get it once more.",
							&etcd_lock_tick_retention,
							30 * 24 * 60 * 60, 2, 3650 * 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("etcd_lock");
}

/* What a setting is given in the configuration files, before it is defined. */
typedef struct GivenSetting
{
	const char *name;
	char	   *value;
} GivenSetting;

static List *
find_given(void)
{
	int			nvariables;
	struct config_generic **variables = compat_guc_variables(&nvariables);
	List	   *result = NIL;

	for (int i = 0; i < nvariables; i++)
	{
		GivenSetting *given;

		if (!(variables[i]->flags & GUC_CUSTOM_PLACEHOLDER) ||
			pg_strncasecmp(variables[i]->name, "etcd_lock.", strlen("etcd_lock.")) != 0)
			continue;
		given = palloc(sizeof(GivenSetting));
		given->name = pstrdup(variables[i]->name);
		given->value = pstrdup(GetConfigOption(given->name, false, false));
		result = lappend(result, given);
	}
	return result;
}

/*
 * When PostgreSQL defines a setting, it only warns about an invalid value in a
 * configuration file, and uses the default.  A server that takes its locks
 * elsewhere than its administrator believes would exclude nobody, so it does
 * not start; neither does it with an invalid setting of PostgreSQL's own.
 */
void
settings_define(GucEnumAssignHook on_loss_assign)
{
	List	   *all_given = find_given();
	ListCell   *cell;

	define_all(on_loss_assign);
	foreach(cell, all_given)
	{
		const GivenSetting *given = lfirst(cell);

		if (GetConfigOption(given->name, true, false) != NULL)
			(void) set_config_option(given->name, given->value, PGC_POSTMASTER, PGC_S_FILE,
									 GUC_ACTION_SET, false, FATAL, false);
	}
}
