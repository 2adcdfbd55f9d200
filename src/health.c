/*-------------------------------------------------------------------------
 *
 * health.c
 *	  How etcd itself does: its members, its database, its alarms.
 *
 * About once a minute, when the link is well, the worker asks every endpoint
 * for its status: the one in use, and those that it might move to.  That
 * request asks more of a member than /health, which fails on an alarm that
 * leaves a member usable, and must have an answer from a member that sees a
 * leader; it needs no permission.  Alarms come with it, too.  What goes wrong in
 * between is told by link.c.
 *
 * None of this is waited for, and the answers of endpoints that are not in use
 * do not touch the link.
 *
 *-------------------------------------------------------------------------
 */
#include "health.h"

#include "auth.h"
#include "storage/shmem.h"
#include "tls.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker.h"

/* How often to look, and how soon again when there is a reason; microseconds. */
#define LOOK_INTERVAL		INT64CONST(60000000)
#define LEAST_INTERVAL		INT64CONST(1000000)

#define PROBE_TIMEOUT		2000	/* milliseconds */

/*
 * What etcd's database may grow to, when etcd does not tell (before 3.6): the
 * default of --quota-backend-bytes.  Near is from the first per cent on; the
 * second one says when it is no more.
 */
#define DEFAULT_QUOTA		INT64CONST(2147483648)
#define NEAR_QUOTA			80
#define FAR_FROM_QUOTA		70

static HealthShared *health = NULL;

static int64 next_look = 0;		/* clock_now() */
static int64 looked_at = 0;
static char known_alarms[256];
static bool near_quota = false;
static bool space_is_short = false;	/* etcd says so */
static bool said_old = false;

/* A look at an endpoint that is not in use. */
typedef struct Probe
{
	char	   *url;
	int64		sent_at;
} Probe;

Size
health_shmem_size(void)
{
	return MAXALIGN(sizeof(HealthShared));
}

void
health_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	health = ShmemInitStruct("etcd_lock health", sizeof(HealthShared), &found);
	if (!found)
	{
		memset(health, 0, sizeof(HealthShared));
		health->db_size = -1;
	}
	LWLockRelease(AddinShmemInitLock);
}

void
health_get(HealthShared *copy)
{
	LWLockAcquire(lock_shared->status_lock, LW_SHARED);
	*copy = *health;
	LWLockRelease(lock_shared->status_lock);
}

/* ----------------------------------------------------------------
 *		Endpoints
 * ----------------------------------------------------------------
 */

/* With status_lock held. */
static EndpointHealth *
find_endpoint(const char *url)
{
	for (int i = 0; i < health->nendpoints; i++)
	{
		if (strcmp(health->endpoints[i].url, url) == 0)
			return &health->endpoints[i];
	}
	return NULL;
}

/* What is known of those that stay is kept. */
void
health_set_endpoints(char **urls, int n)
{
	EndpointHealth *fresh;

	n = Min(n, HEALTH_MAX_ENDPOINTS);
	fresh = palloc0(n * sizeof(EndpointHealth));
	LWLockAcquire(lock_shared->status_lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
	{
		EndpointHealth *old = find_endpoint(urls[i]);

		if (old != NULL)
			fresh[i] = *old;
		else
			strlcpy(fresh[i].url, urls[i], sizeof(fresh[i].url));
	}
	memcpy(health->endpoints, fresh, n * sizeof(EndpointHealth));
	health->nendpoints = n;
	LWLockRelease(lock_shared->status_lock);
	pfree(fresh);
	health_soon();
}

/* An endpoint that answers nothing, or nothing of use. */
void
health_failed(const char *url, const char *error)
{
	EndpointHealth *endpoint;

	LWLockAcquire(lock_shared->status_lock, LW_EXCLUSIVE);
	endpoint = find_endpoint(url);
	if (endpoint != NULL)
	{
		endpoint->looked = true;
		endpoint->healthy = false;
		endpoint->looked_at = GetCurrentTimestamp();
		endpoint->took = -1;
		endpoint->db_size = -1;
		endpoint->is_leader = false;
		strlcpy(endpoint->error, error, sizeof(endpoint->error));
	}
	LWLockRelease(lock_shared->status_lock);
}

/* It answers; what else there is to know of it is asked for soon. */
void
health_worked(const char *url)
{
	EndpointHealth *endpoint;

	LWLockAcquire(lock_shared->status_lock, LW_EXCLUSIVE);
	endpoint = find_endpoint(url);
	if (endpoint != NULL && !endpoint->healthy)
	{
		endpoint->looked = true;
		endpoint->healthy = true;
		endpoint->looked_at = GetCurrentTimestamp();
		endpoint->took = -1;
		endpoint->db_size = -1;
		endpoint->error[0] = '\0';
	}
	LWLockRelease(lock_shared->status_lock);
	health_soon();
}

/* Error: a refusal by a member that is well; NULL: it has answered. */
static void
note_answer(const char *url, int64 took, const EtcdStatusResult *status,
			const char *error)
{
	EndpointHealth *endpoint;

	LWLockAcquire(lock_shared->status_lock, LW_EXCLUSIVE);
	endpoint = find_endpoint(url);
	if (endpoint != NULL)
	{
		endpoint->looked = true;
		endpoint->healthy = true;
		endpoint->looked_at = GetCurrentTimestamp();
		endpoint->took = took;
		strlcpy(endpoint->version, status ? status->version : "",
				sizeof(endpoint->version));
		endpoint->db_size = status ? status->db_size : -1;
		endpoint->is_leader = status != NULL &&
			status->leader == status->header.member_id;
		strlcpy(endpoint->error, error ? error : "", sizeof(endpoint->error));
	}
	LWLockRelease(lock_shared->status_lock);
}

/* Does this error say that the member cannot serve? */
static bool
is_unwell(const EtcdError *error)
{
	return error->code == ETCD_BAD_ANSWER || error->code == ETCD_UNAVAILABLE ||
		error->code == ETCD_DEADLINE_EXCEEDED;
}

/* ----------------------------------------------------------------
 *		The database and its alarms
 * ----------------------------------------------------------------
 */

/*
 * Releases before 3.4.31 and 3.5.13 can revoke leases that are alive
 * (etcd issue 15247).
 */
static bool
revokes_live_leases(const char *version)
{
	int			major;
	int			minor;
	int			patch;

	if (sscanf(version, "%d.%d.%d", &major, &minor, &patch) != 3 || major != 3)
		return false;
	return minor < 4 || (minor == 4 && patch < 31) || (minor == 5 && patch < 13);
}

static void
look_at_version(const char *version)
{
	if (said_old || !revokes_live_leases(version))
		return;
	said_old = true;
	ereport(WARNING,
			(errmsg("etcd_lock: etcd %s can revoke leases that are alive",
					version),
			 errdetail("Sessions that lose a lock by that are told."),
			 errhint("Upgrade to etcd 3.4.31, 3.5.13 or later.")));
}

static void
look_at_size(const EtcdStatusResult *status)
{
	int64		quota = status->db_quota > 0 ? status->db_quota : DEFAULT_QUOTA;
	int64		percent = status->db_size / (quota / 100 + 1);

	if (percent < FAR_FROM_QUOTA)
		near_quota = false;
	if (near_quota || percent < NEAR_QUOTA)
		return;
	near_quota = true;
	ereport(WARNING,
			(errcode(ERRCODE_DISK_FULL),
			 errmsg("etcd_lock: etcd's database has grown to %lld MB",
					(long long) (status->db_size / (1024 * 1024))),
			 status->db_quota > 0 ?
			 errdetail("It takes no new locks when it reaches its quota of %lld MB.",
					   (long long) (quota / (1024 * 1024))) :
			 errdetail("It takes no new locks when it reaches its quota, by default %lld MB.",
					   (long long) (quota / (1024 * 1024))),
			 errhint("Let etcd compact its history (--auto-compaction-retention), and defragment it.")));
}

/*
 * "memberID:<id> alarm:<name> " is an alarm; anything else is taken as it is.
 * The list, without duplicates, into buf.
 */
static void
list_alarms(const EtcdStatusResult *status, char *buf, size_t size)
{
	buf[0] = '\0';
	for (int i = 0; i < status->nerrors; i++)
	{
		const char *found = strstr(status->errors[i], "alarm:");
		char		name[64];
		char	   *c;

		strlcpy(name, found != NULL ? found + strlen("alarm:") : status->errors[i],
				sizeof(name));
		for (c = name; *c != '\0'; c++)
		{
			if (found != NULL && *c == ' ')
				break;
			if (*c == ',')
				*c = ';';
		}
		*c = '\0';
		if (name[0] == '\0' || strstr(buf, name) != NULL)
			continue;
		if (buf[0] != '\0')
			strlcat(buf, ",", size);
		strlcat(buf, name, size);
	}
}

static void
look_at_alarms(const char *alarms)
{
	if (strcmp(alarms, known_alarms) == 0)
		return;
	if (alarms[0] == '\0')
		ereport(LOG,
				(errmsg("etcd_lock: etcd's alarm is over: %s", known_alarms)));
	else
		ereport(WARNING,
				(errcode(strstr(alarms, "NOSPACE") != NULL ? ERRCODE_DISK_FULL :
						 ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("etcd_lock: alarm of etcd's: %s", alarms),
				 strstr(alarms, "NOSPACE") == NULL ? 0 :
				 errdetail("Its database has reached its quota: it takes no new locks."),
				 strstr(alarms, "NOSPACE") == NULL ? 0 :
				 errhint("Compact its history, defragment it, and disarm the alarm.")));
	strlcpy(known_alarms, alarms, sizeof(known_alarms));
}

/* The status of the member that is in use. */
static void
look_at_status(const EtcdStatusResult *status)
{
	char		alarms[sizeof(known_alarms)];

	list_alarms(status, alarms, sizeof(alarms));
	LWLockAcquire(lock_shared->status_lock, LW_EXCLUSIVE);
	strlcpy(lock_shared->status.server_version, status->version,
			sizeof(lock_shared->status.server_version));
	health->db_size = status->db_size;
	strlcpy(health->alarms, alarms, sizeof(health->alarms));
	LWLockRelease(lock_shared->status_lock);

	look_at_version(status->version);
	look_at_size(status);
	look_at_alarms(alarms);
}

/* ----------------------------------------------------------------
 *		Looking
 * ----------------------------------------------------------------
 */

static Probe *
make_probe(const char *url)
{
	Probe	   *probe = MemoryContextAlloc(TopMemoryContext, sizeof(Probe));

	probe->url = MemoryContextStrdup(TopMemoryContext, url);
	probe->sent_at = clock_now();
	return probe;
}

static void
free_probe(Probe *probe)
{
	pfree(probe->url);
	pfree(probe);
}

/* False: no status; what is known of the endpoint is noted. */
static bool
get_status(const Probe *probe, const EtcdAnswer *answer, EtcdStatusResult *status)
{
	EtcdError	error;

	if (!answer->delivered)
	{
		health_failed(probe->url, answer->error);
		return false;
	}
	auth_censor(unconstify(char *, answer->body), answer->len);
	if (etcd_decode_status(answer->body, answer->len, answer->http_status,
						   status, &error))
		return true;
	if (is_unwell(&error))
		health_failed(probe->url, error.message);
	else
		note_answer(probe->url, clock_now() - probe->sent_at, NULL, error.message);
	return false;
}

/* The endpoint in use has answered. */
static void
current_done(void *arg, const EtcdAnswer *answer)
{
	Probe	   *probe = arg;
	EtcdStatusResult status;

	if (get_status(probe, answer, &status))
	{
		note_answer(probe->url, clock_now() - probe->sent_at, &status, NULL);
		look_at_status(&status);
		etcd_status_result_free(&status);
	}
	free_probe(probe);
}

/* Another one. */
static void
other_done(void *arg, const EtcdAnswer *answer)
{
	Probe	   *probe = arg;
	EtcdStatusResult status;

	if (get_status(probe, answer, &status))
	{
		if (lock_shared->cluster_id != 0 &&
			status.header.cluster_id != lock_shared->cluster_id)
			health_failed(probe->url, "belongs to another etcd cluster");
		else
			note_answer(probe->url, clock_now() - probe->sent_at, &status, NULL);
		etcd_status_result_free(&status);
	}
	free_probe(probe);
}

static void
look_at_current(void)
{
	static const EtcdCallbacks callbacks = {NULL, current_done};
	Probe	   *probe = make_probe(link_endpoint());

	if (link_call(ETCD_PATH_STATUS, etcd_encode_empty(),
				  etcd_lock_request_timeout, &callbacks, probe) == NULL)
		free_probe(probe);
}

static void
look_at_other(const char *url)
{
	static const EtcdCallbacks callbacks = {NULL, other_done};
	Probe	   *probe;

	if (!tls_loaded() && strncmp(url, "https://", 8) == 0)
		return;
	probe = make_probe(url);
	if (etcd_transport_post(worker_transport, url, ETCD_PATH_STATUS,
							etcd_encode_empty(), PROBE_TIMEOUT, &callbacks,
							probe) == NULL)
		free_probe(probe);
}

/* There is a reason to look. */
void
health_soon(void)
{
	next_look = Min(next_look, looked_at + LEAST_INTERVAL);
}

/* Etcd has refused something for lack of room: probably an alarm. */
void
health_no_space(void)
{
	if (known_alarms[0] != '\0')
		return;
	space_is_short = true;
	health_soon();
}

static void
show_watches(void)
{
	static int	shown = -1;

	if (watch_count() == shown)
		return;
	shown = watch_count();
	LWLockAcquire(lock_shared->status_lock, LW_EXCLUSIVE);
	health->watches = shown;
	LWLockRelease(lock_shared->status_lock);
}

/*
 * No timer of its own: the keepalive wakes the worker often enough.  Without a
 * lease there are more urgent things to ask for; unless that is why.
 */
void
health_tick(void)
{
	int64		now = clock_now();
	HealthShared copy;

	show_watches();
	if (now < next_look || worker_stopping || !link_ready() ||
		!(lease_alive() || space_is_short))
		return;
	space_is_short = false;
	looked_at = now;
	next_look = now + LOOK_INTERVAL;

	look_at_current();
	health_get(&copy);
	for (int i = 0; i < copy.nendpoints; i++)
	{
		if (strcmp(copy.endpoints[i].url, link_endpoint()) != 0)
			look_at_other(copy.endpoints[i].url);
	}
}
