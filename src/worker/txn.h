/*-------------------------------------------------------------------------
 *
 * txn.h
 *	  A Txn of many operations, and what each of them was for.
 *
 * A write is a nested Txn with its own compares, so that none pays for
 * another's refusal.  Reads are plain operations of the outer Txn, which then
 * does not go through raft.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TXN_H
#define TXN_H

#include "worker/name.h"
#include "worker/orphans.h"

/*
 * Etcd's default limit of operations, which applies to the longest of a Txn's
 * three lists; a nested Txn may have as many as the outer one leaves.
 */
#define TXN_MAX_OPS			128

/*
 * The most nested operations of an operation of the outer Txn: of a TRY, with
 * the one of a Txn nested in it.
 */
#define TXN_INNER_OPS		4

/*
 * TxnOps in one of our Txns.  More would not be cheaper for etcd, and all of
 * them would wait for the last.
 */
#define TXN_OPS				64

/*
 * The most operations that a write needs in the failure branch; see
 * txn_build.c.
 */
#define TXN_OP_RIGHTS		4

StaticAssertDecl(TXN_OPS + TXN_INNER_OPS <= TXN_MAX_OPS,
				 "etcd refuses a Txn of more operations");

typedef enum TxnOpKind
{
	/* writes */
	TXN_OP_PUT,					/* put it, and read the queue */
	TXN_OP_PUT_FIRST,			/* put it, and read the queue if it had others */
	TXN_OP_TRY,					/* put it if no owner is in the way */
	TXN_OP_DELETE,
	TXN_OP_ORPHAN,				/* delete an orphan */

	/* reads */
	TXN_OP_ORPHAN_READ,			/* read an orphan */
	TXN_OP_READ,				/* first step of a try */
	TXN_OP_RANGE				/* read the queue */
} TxnOpKind;

typedef struct TxnOp
{
	TxnOpKind	kind;
	WorkerName *name;			/* NULL for orphans */
	WorkerKey  *key;			/* PUT, PUT_FIRST, TRY, DELETE, READ */
	uint64		key_id;
	Oid			role;			/* if there is a key: who asked for it */
	Orphan	   *orphan;
	bool		fenced;			/* DELETE: only the key with this
								 * create_revision */
	bool		has_note;		/* DELETE: also the note on it */
	int			result;			/* index of its first result */
	bool		has_tick;		/* TRY, READ: the tick's result follows, */
	bool		counts_ticks;	/* READ: and their number */
} TxnOp;

/* Lanes keep requests separate, so that others do not wait for them. */
typedef enum TxnLane
{
	TXN_LANE_MAIN,
	TXN_LANE_SUSPECTS,			/* for requests that were refused, or may be */
	TXN_LANE_LONG				/* for requests with long responses */
} TxnLane;

#define TXN_NLANES	(TXN_LANE_LONG + 1)

typedef struct Txn
{
	bool		is_read;
	bool		is_single;		/* a range, sent without a Txn around it */

	/* of txn_queue.c */
	TxnLane		lane;
	dlist_node	link;			/* in Lane.sent */
	int64		sent_at;		/* clock_now() */
	bool		overdue;		/* it no longer counts as in flight */
	bool		is_extra;		/* of roles that had nothing in flight */

	uint64		epoch;			/* in which it was sent */
	int64		min_revision;	/* highest revision known before that */
	int			nresults;		/* operations of the outer Txn */
	int			max_ops;		/* the limit of etcd, as known then */
	int			nops;
	TxnOp		ops[TXN_OPS];
} Txn;

#endif							/* TXN_H */
