/*-------------------------------------------------------------------------
 *
 * lease.h
 *	  The server's lease: granted, kept alive, believed, revoked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LEASE_H
#define LEASE_H

#include "postgres.h"
#include "etcd/etcd_response.h"

/* What the lease means for others. */
typedef struct LeaseCallbacks
{
	/*
	 * The lease has ended, and with it the epoch: everything granted by it is
	 * lost. reason is NULL if nothing was granted, or nobody needs to be
	 * told.
	 */
	void		(*ended) (const char *reason);

	/*
	 * It was kept alive: may the deadline be extended, as far as the audit is
	 * concerned?
	 */
	bool		(*may_extend) (void);

	/* Somebody has put a key below the sentinel. */
	void		(*message) (const EtcdKeyValue *kv);
} LeaseCallbacks;

extern void lease_create(const LeaseCallbacks *callbacks);
extern void lease_tick(void);
extern int64 lease_next_time(void);
extern bool lease_alive(void);
extern void lease_gone(const char *reason);

/*
 * Send a keepalive at once, as the lease may be gone, or may be extended
 * again.
 */
extern void lease_hurry(void);

/*
 * Read the messages below the sentinel, as the watch may have missed some.  False: there
 * are too many.
 */
extern bool lease_read_messages(void);

extern void lease_saw_header(const EtcdResponse *response, const EtcdHeader *header);

/*
 * No session holds anything any more, and none will: revoke the lease, with
 * every key on it.
 */
extern void lease_revoke_for_exit(void);
extern bool lease_is_leaving(void);
extern bool lease_is_revoked(void);

#endif							/* LEASE_H */
