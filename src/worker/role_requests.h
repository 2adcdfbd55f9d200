/*-------------------------------------------------------------------------
 *
 * role_requests.h
 *	  Counts the requests of each role that are in flight.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ROLE_REQUESTS_H
#define ROLE_REQUESTS_H

#include "shared/lock_table.h"

extern void role_requests_create(void);

/*
 * May a request about this key be sent now?  If not, when a request of its
 * role has ended.
 */
extern bool role_requests_may_send(const LockKey *key);

/* Does the role have no request in flight? */
extern bool role_requests_is_idle(Oid role);

extern void role_requests_sent(Oid role);
extern void role_requests_ended(Oid role);

#endif							/* ROLE_REQUESTS_H */
