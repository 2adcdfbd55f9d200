/*-------------------------------------------------------------------------
 *
 * old_leases.h
 *	  Revoking earlier leases of this server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OLD_LEASES_H
#define OLD_LEASES_H

#include "postgres.h"

extern void old_leases_create(void);

/*
 * Revoke it, unless etcd has refused that; until clock_now() is hold_until, not while a
 * session is past the commit guard.  Returns false if that is already in flight.
 */
extern bool old_leases_add(int64 id, int64 hold_until);

/* May its keys not be deleted yet, because a session is past the commit guard? */
extern bool old_leases_is_held(int64 id);

extern void old_leases_tick(void);
extern int64 old_leases_next_time(void);

/*
 * Is there a lease whose locks would look like another server's, and for which
 * there was no attempt yet?
 */
extern bool old_leases_await(void);

#endif							/* OLD_LEASES_H */
