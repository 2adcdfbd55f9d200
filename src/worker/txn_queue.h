/*-------------------------------------------------------------------------
 *
 * txn_queue.h
 *	  Group commit: many operations in one Txn.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TXN_QUEUE_H
#define TXN_QUEUE_H

#include "etcd/etcd_response.h"
#include "worker/txn.h"

/*
 * Called when a Txn is no longer in flight, with a response or without one.
 * The callback frees the Txn.
 */
typedef void (*TxnDone) (Txn *txn, const EtcdResponse *response);

extern void txn_queue_create(TxnDone done);

extern void txn_queue_key(WorkerKey *key);
extern void txn_queue_range(WorkerName *name);
extern void txn_queue_send(void);
extern int64 txn_queue_next_time(void);

#endif							/* TXN_QUEUE_H */
