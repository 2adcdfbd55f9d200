/*-------------------------------------------------------------------------
 *
 * health.h
 *	  How etcd itself does: its members, its database, its alarms.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HEALTH_H
#define HEALTH_H

#include "lock_table.h"

/* Of a longer list of endpoints the rest is not shown. */
#define HEALTH_MAX_ENDPOINTS	16

/* An endpoint, as it was when it was last looked at. */
typedef struct EndpointHealth
{
	char		url[256];
	bool		looked;			/* else nothing of what follows is known */
	bool		healthy;
	TimestampTz looked_at;
	int64		took;			/* microseconds; -1: no answer */
	char		version[32];	/* empty: not known */
	int64		db_size;		/* bytes; -1: not known */
	bool		is_leader;
	char		error[LOCK_FAILURE_SIZE];
} EndpointHealth;

/* All of it under lock_shared->status_lock. */
typedef struct HealthShared
{
	int			nendpoints;
	EndpointHealth endpoints[HEALTH_MAX_ENDPOINTS];
	int64		db_size;		/* of the member in use; -1: not known */
	char		alarms[256];	/* comma-separated */
	int			watches;
} HealthShared;

extern Size health_shmem_size(void);
extern void health_shmem_init(void);

/* For the worker. */
extern void health_set_endpoints(char **urls, int n);
extern void health_worked(const char *url);
extern void health_failed(const char *url, const char *error);
extern void health_soon(void);
extern void health_no_space(void);
extern void health_tick(void);

/* For views: a copy. */
extern void health_get(HealthShared *copy);

#endif							/* HEALTH_H */
