/*-------------------------------------------------------------------------
 *
 * audit.h
 *	  Compares this server's keys in etcd with what the server believes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUDIT_H
#define AUDIT_H

#include "postgres.h"

#include "etcd/etcd_api.h"

extern void audit_create(void);
extern void audit_tick(int64 now);
extern int64 audit_next_time(void);

/* May the lease be extended?  Logs why not. */
extern bool audit_permits(void);

/* Another server has left a message: it has broken a lock of ours. */
extern void audit_broken(const EtcdKeyValue *message);

#endif							/* AUDIT_H */
