/*-------------------------------------------------------------------------
 *
 * health.h
 *	  The health of etcd: its members, its database, its alarms.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HEALTH_H
#define HEALTH_H

#include "postgres.h"

extern void health_create(void);
extern void health_tick(void);

#endif							/* HEALTH_H */
