/*-------------------------------------------------------------------------
 *
 * txn_build.h
 *	  Building a Txn: its operations, compares and ranges.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TXN_BUILD_H
#define TXN_BUILD_H

#include "etcd/etcd_request.h"
#include "worker/txn.h"

/* A Txn that is being built. */
typedef struct TxnBuilder
{
	Txn		   *txn;
	size_t		bytes;
	int			max_ops;		/* most operations that those in it allow */
	EtcdOp		ops[TXN_MAX_OPS];
	int			nops;
	EtcdOp		rights[TXN_MAX_OPS];	/* see txn_build.c */
	int			nrights;
	bool		is_anonymous;	/* nobody's rights are checked */
} TxnBuilder;

extern void txn_build_create(void);
extern int	txn_build_max_ops(void);
extern bool txn_build_note_error(const EtcdError *error, int max_ops);
extern TxnBuilder *txn_build_start(bool is_read, TxnLane lane);
extern void txn_build_free(Txn *txn);
extern bool txn_build_has_room(const TxnBuilder *b, int nops);
extern bool txn_build_has_delete(const TxnBuilder *b, const WorkerKey *key);
extern bool txn_build_has_put(const TxnBuilder *b, const WorkerName *name);
extern void txn_build_add_delete(TxnBuilder *b, WorkerKey *key);
extern void txn_build_add_orphan_read(TxnBuilder *b, Orphan *orphan);
extern void txn_build_add_orphan(TxnBuilder *b, Orphan *orphan);
extern void txn_build_add_put(TxnBuilder *b, WorkerKey *key);
extern void txn_build_add_put_first(TxnBuilder *b, WorkerKey *key, int64 since);
extern void txn_build_add_try(TxnBuilder *b, WorkerKey *key, int64 tick_lease);
extern void txn_build_add_read(TxnBuilder *b, WorkerKey *key);
extern void txn_build_add_range(TxnBuilder *b, WorkerName *name);
extern char *txn_build_tick_key(const WorkerKey *key);
extern EtcdMessage txn_build_encode(TxnBuilder *b);

#endif							/* TXN_BUILD_H */
