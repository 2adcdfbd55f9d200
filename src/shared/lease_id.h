/*-------------------------------------------------------------------------
 *
 * lease_id.h
 *	  The id of this server's lease in etcd, which we choose.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LEASE_ID_H
#define LEASE_ID_H

#include "postgres.h"

extern void lease_id_shmem_init(void);

/*
 * The id in the current epoch.  The worker draws another one when the epoch
 * ends.
 */
extern int64 lease_id(void);
extern void lease_id_draw(int elevel);

/* In hex, as in the names of keys; the text is valid until the next call. */
extern const char *lease_id_hex(void);

/*
 * The common beginning of the ids of all our leases, including earlier epochs.
 */
extern const char *lease_id_base_hex(void);

/* Is it the id of one of our leases? */
extern bool lease_id_is_own(int64 id);

#endif							/* LEASE_ID_H */
