/*-------------------------------------------------------------------------
 *
 * txn_response.h
 *	  What the response to a Txn means for each of its operations.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TXN_RESPONSE_H
#define TXN_RESPONSE_H

#include "etcd/etcd_response.h"
#include "worker/txn.h"

extern void txn_response_done(Txn *txn, const EtcdResponse *response);

#endif							/* TXN_RESPONSE_H */
