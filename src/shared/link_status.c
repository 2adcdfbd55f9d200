/*-------------------------------------------------------------------------
 *
 * link_status.c
 *	  What is known about the link to etcd, and about etcd, for views.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/clock.h"
#include "shared/link_status.h"
#include "shared/lock_table.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define STATUS_TRANCHE	"etcd_lock_status"

static LinkStatus *link_status;
static LWLock *status_lock;		/* protects it; no other lock is taken under
								 * it */

/* The worker's own. */
static uint64 news = 0;
static bool no_space = false;

Size
link_status_shmem_size(void)
{
	return MAXALIGN(sizeof(LinkStatus));
}

void
link_status_request_locks(void)
{
	RequestNamedLWLockTranche(STATUS_TRANCHE, 1);
}

void
link_status_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	link_status = ShmemInitStruct("etcd_lock link status", sizeof(LinkStatus), &found);
	status_lock = &GetNamedLWLockTranche(STATUS_TRANCHE)->lock;
	if (!found)
	{
		memset(link_status, 0, sizeof(LinkStatus));
		link_status->db_size = -1;
	}
	LWLockRelease(AddinShmemInitLock);
}

void
link_status_get(LinkStatus *copy)
{
	LWLockAcquire(status_lock, LW_SHARED);
	*copy = *link_status;
	LWLockRelease(status_lock);
}

uint64
link_status_news(void)
{
	return news;
}

/* Etcd has refused something for lack of space: probably an alarm. */
void
link_status_note_no_space(void)
{
	/* Only the worker writes this, so it may read it without the lock. */
	if (link_status->alarms[0] != '\0')
		return;
	no_space = true;
	news++;
}

bool
link_status_take_no_space(void)
{
	bool		taken = no_space;

	no_space = false;
	return taken;
}

/* ----------------------------------------------------------------
 *		The link
 * ----------------------------------------------------------------
 */

void
link_status_set_link(bool up, const char *endpoint, const char *error)
{
	LWLockAcquire(status_lock, LW_EXCLUSIVE);
	if (link_status->up && !up)
	{
		link_status->down_since = GetCurrentTimestamp();
		link_status->down_at = clock_now();
	}
	link_status->up = up;
	strlcpy(link_status->endpoint, endpoint, sizeof(link_status->endpoint));
	if (error != NULL)
	{
		strlcpy(link_status->last_error, error, sizeof(link_status->last_error));
		link_status->last_error_at = GetCurrentTimestamp();
	}
	LWLockRelease(status_lock);
	pg_atomic_write_u32(&lock_shared->link_up, up ? 1 : 0);
}

void
link_status_set_duplicate(const char *text)
{
	LWLockAcquire(status_lock, LW_EXCLUSIVE);
	strlcpy(link_status->duplicate, text, sizeof(link_status->duplicate));
	LWLockRelease(status_lock);
}

void
link_status_set_server(const char *version, int64 db_size, const char *alarms)
{
	LWLockAcquire(status_lock, LW_EXCLUSIVE);
	strlcpy(link_status->server_version, version, sizeof(link_status->server_version));
	link_status->db_size = db_size;
	strlcpy(link_status->alarms, alarms, sizeof(link_status->alarms));
	LWLockRelease(status_lock);
}

void
link_status_set_watches(int n)
{
	LWLockAcquire(status_lock, LW_EXCLUSIVE);
	link_status->watches = n;
	LWLockRelease(status_lock);
}

/* ----------------------------------------------------------------
 *		Endpoints
 * ----------------------------------------------------------------
 */

/* The caller holds the lock. */
static EndpointHealth *
find_endpoint(const char *url)
{
	for (int i = 0; i < link_status->nendpoints; i++)
	{
		if (strcmp(link_status->endpoints[i].url, url) == 0)
			return &link_status->endpoints[i];
	}
	return NULL;
}

/* Keeps what is known about endpoints that stay. */
void
link_status_set_endpoints(char **urls, int n)
{
	EndpointHealth *updated;

	n = Min(n, LINK_MAX_ENDPOINTS);
	updated = palloc0(n * sizeof(EndpointHealth));
	LWLockAcquire(status_lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
	{
		EndpointHealth *old = find_endpoint(urls[i]);

		if (old != NULL)
			updated[i] = *old;
		else
			strlcpy(updated[i].url, urls[i], sizeof(updated[i].url));
	}
	memcpy(link_status->endpoints, updated, n * sizeof(EndpointHealth));
	link_status->nendpoints = n;
	LWLockRelease(status_lock);
	pfree(updated);
	news++;
}

void
link_status_endpoint_failed(const char *url, const char *error)
{
	EndpointHealth *endpoint;

	LWLockAcquire(status_lock, LW_EXCLUSIVE);
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
	LWLockRelease(status_lock);
}

void
link_status_endpoint_works(const char *url)
{
	EndpointHealth *endpoint;

	LWLockAcquire(status_lock, LW_EXCLUSIVE);
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
	LWLockRelease(status_lock);
	news++;
}

void
link_status_endpoint_responded(const char *url, int64 took, const EtcdStatusResult *status,
							   const char *error)
{
	EndpointHealth *endpoint;

	LWLockAcquire(status_lock, LW_EXCLUSIVE);
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
	LWLockRelease(status_lock);
}
