/*-------------------------------------------------------------------------
 *
 * link_status.h
 *	  What is known about the link to etcd, and about etcd, for views.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LINK_STATUS_H
#define LINK_STATUS_H

#include "datatype/timestamp.h"
#include "etcd/etcd_api.h"

/* For an error of the link, which may describe several endpoints. */
#define LINK_ERROR_SIZE			1024

/* For an error of one endpoint. */
#define LINK_ENDPOINT_ERROR_SIZE	256

/* The rest of a longer list of endpoints is not shown. */
#define LINK_MAX_ENDPOINTS	16

/* An endpoint, as it was when it was last checked. */
typedef struct EndpointHealth
{
	char		url[256];
	bool		looked;			/* else the members below are not known */
	bool		healthy;
	TimestampTz looked_at;
	int64		took;			/* microseconds; -1: no response */
	char		version[32];	/* empty: not known */
	int64		db_size;		/* bytes; -1: not known */
	bool		is_leader;
	char		error[LINK_ENDPOINT_ERROR_SIZE];
} EndpointHealth;

/* "server ..., host ..., port ..." */
#define LINK_DUPLICATE_SIZE		768

typedef struct LinkStatus
{
	bool		up;
	TimestampTz down_since;		/* if not; 0: it was never up */
	int64		down_at;		/* likewise, on clock_now() */
	char		endpoint[256];
	char		last_error[LINK_ERROR_SIZE];
	TimestampTz last_error_at;

	int			nendpoints;
	EndpointHealth endpoints[LINK_MAX_ENDPOINTS];

	/* about the member in use */
	char		server_version[32];
	int64		db_size;		/* -1: not known */
	char		alarms[256];	/* comma-separated */

	int			watches;

	/* another live primary with our system identifier; empty: none */
	char		duplicate[LINK_DUPLICATE_SIZE];
} LinkStatus;

extern Size link_status_shmem_size(void);
extern void link_status_request_locks(void);
extern void link_status_shmem_init(void);

/* Returns a copy. */
extern void link_status_get(LinkStatus *copy);

/*
 * For the worker.  If error is NULL, the last one remains visible.
 */
extern void link_status_set_link(bool up, const char *endpoint, const char *error);
extern void link_status_set_endpoints(char **urls, int n);
extern void link_status_set_server(const char *version, int64 db_size, const char *alarms);
extern void link_status_set_watches(int n);
extern void link_status_set_duplicate(const char *text);

/* An endpoint does not respond, or not usefully. */
extern void link_status_endpoint_failed(const char *url, const char *error);

/* An endpoint responds; nothing else is known. */
extern void link_status_endpoint_works(const char *url);

/*
 * If status is NULL, the endpoint is healthy, but refuses to tell its status.
 */
extern void link_status_endpoint_responded(const char *url, int64 took,
										   const EtcdStatusResult *status,
										   const char *error);

/*
 * Counts the reasons to ask the endpoints for their status: the list has
 * changed, an endpoint works again, etcd has refused something for lack of
 * space.
 */
extern uint64 link_status_news(void);

extern void link_status_note_no_space(void);

/* Has etcd refused something for lack of space since the last call? */
extern bool link_status_take_no_space(void);

#endif							/* LINK_STATUS_H */
