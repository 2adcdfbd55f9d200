/*-------------------------------------------------------------------------
 *
 * wait_log_worker.h
 *	  Asking etcd who holds a lock that a session waits for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WAIT_LOG_WORKER_H
#define WAIT_LOG_WORKER_H

#include "worker/name.h"

/* What a session wants to know about a name; nothing if key is NULL. */
typedef struct HolderQuestion
{
	char	   *name;
	LockMode	mode;			/* of the session that asks */
	char	   *key;			/* of the holder, in etcd */
	size_t		key_len;
	char	   *note;			/* its note; NULL: it is not a server's key */
	int			nahead;
} HolderQuestion;

extern void wait_log_worker_take(WorkerName *name, HolderQuestion *question);
extern void wait_log_worker_ask(const HolderQuestion *question);

#endif							/* WAIT_LOG_WORKER_H */
