/*-------------------------------------------------------------------------
 *
 * health.c
 *	  The health of etcd: its members, its database, its alarms.
 *
 * About once a minute, while the link is up, the worker asks every endpoint for
 * its status: the one in use, and those that it might move to.  The status is a
 * better test than /health, which fails because of alarms that leave a member
 * usable; it tells whether the member knows a leader, and includes alarms.  A
 * member that refuses it, as etcd 3.5.28 does to all users but root, counts as
 * healthy.  link.c reports what goes wrong in between.
 *
 * Nothing waits for this, and the responses of endpoints that are not in use
 * do not affect the link.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "client/watch.h"
#include "etcd/etcd_api.h"
#include "etcd/etcd_error.h"
#include "shared/clock.h"
#include "shared/link_status.h"
#include "shared/lock_table.h"
#include "shared/settings.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/context.h"
#include "worker/health.h"
#include "worker/lease.h"

/* How often to ask, and how soon again if there is a reason; microseconds. */
#define LOOK_INTERVAL		INT64CONST(60000000)
#define LEAST_INTERVAL		INT64CONST(1000000)

#define PROBE_TIMEOUT		2000	/* milliseconds */

/*
 * The size limit of etcd's database if etcd does not tell it (before 3.6): the
 * default of --quota-backend-bytes.  The database is near its quota from the
 * first percentage on, until it is below the second one.
 */
#define DEFAULT_QUOTA		INT64CONST(2147483648)
#define NEAR_QUOTA			80
#define FAR_FROM_QUOTA		70

struct Health
{
	int64		next_look;		/* clock_now() */
	int64		looked_at;
	char		known_alarms[256];
	uint64		known_news;		/* see link_status_news() */
	bool		space_is_short; /* etcd says so */
	bool		near_quota;
	bool		said_revokes;
	bool		said_shows_keys;
	int			shown_watches;
};

#define MyHealth (MyWorker->health)

void
health_create(void)
{
	MyHealth = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Health));
	MyHealth->shown_watches = -1;
}

/* A request to an endpoint that is not in use. */
typedef struct Probe
{
	char	   *url;
	int64		sent_at;
} Probe;

/* ----------------------------------------------------------------
 *		The database and its alarms
 * ----------------------------------------------------------------
 */

/* Is it a release before 3.4.<patch_of_4> and 3.5.<patch_of_5>? */
static bool
is_before(const char *version, int patch_of_4, int patch_of_5)
{
	int			major;
	int			minor;
	int			patch;

	if (sscanf(version, "%d.%d.%d", &major, &minor, &patch) != 3 || major != 3)
		return false;
	return minor < 4 || (minor == 4 && patch < patch_of_4) ||
		(minor == 5 && patch < patch_of_5);
}

/* Etcd issue 15247. */
static void
look_for_revoked_leases(const char *version)
{
	if (MyHealth->said_revokes || !is_before(version, 31, 13))
		return;
	MyHealth->said_revokes = true;
	ereport(WARNING,
			(errmsg("etcd_lock: etcd %s can revoke leases that are alive",
					version),
			 errdetail("Sessions that lose a lock by that are told."),
			 errhint("Upgrade to etcd 3.4.31, 3.5.13 or later.")));
}

/* CVE-2023-32082; it matters where users of etcd have different rights. */
static void
look_for_shown_keys(const char *version)
{
	bool		has_user = etcd_lock_username[0] != '\0' || etcd_lock_cert[0] != '\0';

	if (MyHealth->said_shows_keys || !has_user || !is_before(version, 26, 9))
		return;
	MyHealth->said_shows_keys = true;
	ereport(WARNING,
			(errmsg("etcd_lock: etcd %s shows the names of locks to users of etcd who may not read them",
					version),
			 errdetail("It tells everybody who can log in which keys are attached to a lease (CVE-2023-32082)."),
			 errhint("Upgrade to etcd 3.4.26, 3.5.9 or later.")));
}

static void
look_at_size(const EtcdStatusResult *status)
{
	int64		quota = status->db_quota > 0 ? status->db_quota : DEFAULT_QUOTA;
	int64		percent = status->db_size / (quota / 100 + 1);

	if (percent < FAR_FROM_QUOTA)
		MyHealth->near_quota = false;
	if (MyHealth->near_quota || percent < NEAR_QUOTA)
		return;
	MyHealth->near_quota = true;
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
 * Write the list of alarms, without duplicates, into buf.  "memberID:<id>
 * alarm:<name> " is an alarm; anything else is taken as it is.
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
	if (strcmp(alarms, MyHealth->known_alarms) == 0)
		return;
	if (alarms[0] == '\0')
		ereport(LOG,
				(errmsg("etcd_lock: etcd's alarm was cleared: %s", MyHealth->known_alarms)));
	else
		ereport(WARNING,
				(errcode(strstr(alarms, "NOSPACE") != NULL ? ERRCODE_DISK_FULL :
						 ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("etcd_lock: etcd has raised an alarm: %s", alarms),
				 strstr(alarms, "NOSPACE") == NULL ? 0 :
				 errdetail("Its database has reached its quota: it takes no new locks."),
				 strstr(alarms, "NOSPACE") == NULL ? 0 :
				 errhint("Compact its history, defragment it, and disarm the alarm.")));
	strlcpy(MyHealth->known_alarms, alarms, sizeof(MyHealth->known_alarms));
}

/* The status of the member that is in use. */
static void
look_at_status(const EtcdStatusResult *status)
{
	char		alarms[sizeof(MyHealth->known_alarms)];

	list_alarms(status, alarms, sizeof(alarms));
	look_for_revoked_leases(status->version);
	look_for_shown_keys(status->version);
	look_at_size(status);
	look_at_alarms(alarms);

	/* A reader of the view can find the warnings in the log. */
	link_status_set_server(status->version, status->db_size, alarms);
}

/* ----------------------------------------------------------------
 *		Asking
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

/*
 * Record what is known about the endpoint.  Returns false if there is no
 * status.
 */
static bool
get_status(const Probe *probe, const EtcdResponse *response, EtcdStatusResult *status)
{
	EtcdError	error;

	if (!response->delivered)
	{
		link_status_endpoint_failed(probe->url, response->error);
		return false;
	}
	if (etcd_response_status(&response->reply,
							 status, &error))
		return true;
	if (etcd_error_is_unwell(&error))
		link_status_endpoint_failed(probe->url, error.message);
	else
		link_status_endpoint_responded(probe->url, clock_now() - probe->sent_at, NULL, error.message);
	return false;
}

/* A member that responds may still be unable to grant locks. */
static void
note_status(const Probe *probe, const EtcdStatusResult *status)
{
	if (status->is_learner)
		link_status_endpoint_failed(probe->url, "is a learner, which grants no locks");
	else if (status->leader == 0)
		link_status_endpoint_failed(probe->url, "knows no leader");
	else
		link_status_endpoint_responded(probe->url, clock_now() - probe->sent_at, status, NULL);
}

/* The endpoint in use has responded. */
static void
current_done(void *arg, const EtcdResponse *response)
{
	Probe	   *probe = arg;
	EtcdStatusResult status;

	if (get_status(probe, response, &status))
	{
		note_status(probe, &status);
		look_at_status(&status);
		etcd_response_free_status(&status);
	}
	free_probe(probe);
}

/* Another endpoint has responded. */
static void
other_done(void *arg, const EtcdResponse *response)
{
	Probe	   *probe = arg;
	EtcdStatusResult status;

	if (get_status(probe, response, &status))
	{
		if (lock_shared->cluster_id != 0 &&
			status.header.cluster_id != lock_shared->cluster_id)
			link_status_endpoint_failed(probe->url, "belongs to another etcd cluster");
		else
			note_status(probe, &status);
		etcd_response_free_status(&status);
	}
	free_probe(probe);
}

static void
look_at_current(void)
{
	static const LinkCallbacks callbacks = {.done = current_done};
	Probe	   *probe = make_probe(link_endpoint());

	if (link_call(LINK_SIDE, etcd_request_status(),
				  etcd_lock_request_timeout, &callbacks, probe) == NULL)
		free_probe(probe);
}

static void
look_at_other(const char *url)
{
	Probe	   *probe = make_probe(url);

	if (!link_ask(url, etcd_request_status(), PROBE_TIMEOUT, other_done, probe))
		free_probe(probe);
}

/* There is a reason to ask soon. */
static void
look_soon(void)
{
	MyHealth->next_look = Min(MyHealth->next_look, MyHealth->looked_at + LEAST_INTERVAL);
}

static void
show_watches(void)
{
	if (watch_count() == MyHealth->shown_watches)
		return;
	MyHealth->shown_watches = watch_count();
	link_status_set_watches(MyHealth->shown_watches);
}

/*
 * This needs no timer, because the keepalive wakes the worker often enough.
 * Without a lease there are more urgent requests, unless lack of space is the
 * reason.
 */
void
health_tick(void)
{
	int64		now = clock_now();
	LinkStatus	status;

	show_watches();
	if (MyHealth->known_news != link_status_news())
	{
		MyHealth->known_news = link_status_news();
		look_soon();
		MyHealth->space_is_short |= link_status_take_no_space();
	}
	if (now < MyHealth->next_look || MyWorker->stopping || !link_ready() ||
		!(lease_alive() || MyHealth->space_is_short))
		return;
	MyHealth->space_is_short = false;
	MyHealth->looked_at = now;
	MyHealth->next_look = now + LOOK_INTERVAL;

	look_at_current();
	link_status_get(&status);
	for (int i = 0; i < status.nendpoints; i++)
	{
		if (strcmp(status.endpoints[i].url, link_endpoint()) != 0)
			look_at_other(status.endpoints[i].url);
	}
}
