/*-------------------------------------------------------------------------
 *
 * watch.h
 *	  Watches: etcd reports deletions as they happen.
 *
 * First "created" is called, then "deleted" and "put" for each event, and at last
 * "ended", unless the owner has closed the watch; each of them may open and close
 * watches.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WATCH_H
#define WATCH_H

#include "postgres.h"
#include "etcd/etcd_api.h"

typedef struct Watch Watch;

typedef struct WatchCallbacks
{
	void		(*created) (void *arg); /* acknowledged: it is effective from
										 * now on */
	void		(*deleted) (void *arg, const char *key, size_t key_len,
							int64 mod_revision);
	void		(*ended) (void *arg);	/* it has ended, and is freed */
	/* NULL: only deletions are wanted */
	void		(*put) (void *arg, const EtcdKeyValue *kv);
} WatchCallbacks;

extern void watch_create(void);
extern Watch *watch_open(const EtcdRange *range, const WatchCallbacks *callbacks,
						 void *arg);
extern void watch_close(Watch *watch);
extern bool watch_is_open(const Watch *watch);
extern bool watch_covers(const Watch *watch, int64 revision);
extern bool watch_is_current(const Watch *watch);
extern int	watch_count(void);

#endif							/* WATCH_H */
