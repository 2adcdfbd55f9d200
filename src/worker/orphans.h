/*-------------------------------------------------------------------------
 *
 * orphans.h
 *	  Orphans: keys attached to our lease that no session knows, to be deleted.
 *
 * They stem from requests that were given up and were applied later.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ORPHANS_H
#define ORPHANS_H

#include "lib/ilist.h"

typedef struct Orphan
{
	dlist_node	link;
	int64		create_revision;	/* 0: to be looked up */
	int64		retry_at;		/* clock_now(): not before */
	int64		until;			/* for one that may still come: how long to
								 * look for it, */
	int64		pause;			/* and how long not to */
	bool		in_flight;
	bool		alone;			/* a Txn with it was refused */
	size_t		key_len;
	char		key[FLEXIBLE_ARRAY_MEMBER];
} Orphan;

extern void orphans_create(void);

/* create_revision is 0 if unknown. */
extern void orphan_add(const char *key, size_t key_len, int64 create_revision);
extern void orphan_forget(Orphan *orphan);
extern bool orphan_is_known(const char *key, size_t key_len);

/*
 * A key that a request without a response may still put, until etcd has given
 * up.
 */
extern void orphan_expect(const char *key, size_t key_len);

/* Will the list of the keys on our lease not show those that come later? */
extern void orphans_look_longer(bool look_longer);

/* It is not in etcd, or a session knows it. */
extern void orphan_not_found(Orphan *orphan);

/*
 * A request about it has failed.  alone: etcd may have refused it because of
 * this key.
 */
extern void orphan_retry_later(Orphan *orphan, bool alone);

/* Returns the list of orphans. */
extern dlist_head *orphans_all(void);

#endif							/* ORPHANS_H */
