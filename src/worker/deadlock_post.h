/*-------------------------------------------------------------------------
 *
 * deadlock_post.h
 *	  Messages to other servers about paths of waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLOCK_POST_H
#define DEADLOCK_POST_H

#include "etcd/deadlock_probe.h"
#include "worker/name.h"

extern void deadlock_post_create(void);

/*
 * These return false if there is no room at the moment.
 *
 * To the server with this lease, whose sentinel is in this namespace.
 */
extern bool deadlock_post_to_server(const DeadlockProbe *probe, uint64 lease, const char *ns);

/*
 * To the server with this lease, which owns this key; its value tells where
 * the sentinel is.
 */
extern bool deadlock_post_to_owner(const DeadlockProbe *probe, uint64 lease,
								   const AheadKey *key);

extern void deadlock_post_tick(int64 now);
extern int64 deadlock_post_next_time(void);

#endif							/* DEADLOCK_POST_H */
