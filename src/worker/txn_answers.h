/*-------------------------------------------------------------------------
 *
 * txn_answers.h
 *	  What the response to a Txn means for each of its operations.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TXN_ANSWERS_H
#define TXN_ANSWERS_H

#include "etcd/etcd_response.h"
#include "worker/txn.h"

extern void txn_answers_done(Txn *txn, const EtcdAnswer *answer);

#endif							/* TXN_ANSWERS_H */
