/*-------------------------------------------------------------------------
 *
 * name_queue.h
 *	  What etcd shows about a name's queue, and what follows for our keys in it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NAME_QUEUE_H
#define NAME_QUEUE_H

#include "worker/name.h"

extern void name_queue_view(const char *name, const EtcdOpResult *range, QueueView *view);
extern bool name_queue_is_data_ahead(const QueueView *view, LockMode mode,
									 int64 create_revision, LockFailure *failure);
extern void name_queue_note_length(WorkerName *name, int pid, int nkeys);
extern void name_queue_end_tries_wait(WorkerKey *key);
extern bool name_queue_has_key(const QueueView *view, const WorkerKey *key);
extern void name_queue_update(WorkerName *name, const EtcdOpResult *range,
							  int64 revision, int64 looked_at);
extern void name_queue_refused(WorkerName *name, const LockFailure *failure);
extern void name_queue_unseen(WorkerKey *key);
extern void name_queue_key_put(WorkerKey *key, const EtcdOpResult *range,
							   int64 revision, int64 looked_at);

/* Has the name's watch stalled? */
extern void name_queue_check_watch(WorkerName *name, int64 now);

/* Open or close the name's watch as needed; see name_queue.c. */
extern bool name_queue_reconcile_watch(WorkerName *name);

#endif							/* NAME_QUEUE_H */
