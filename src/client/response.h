/*-------------------------------------------------------------------------
 *
 * response.h
 *	  How a call ended: etcd's response, or why there is none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RESPONSE_H
#define RESPONSE_H

#include "etcd/etcd_response.h"
#include "net/grpc.h"

/* The result points to the reply's data. */
extern void response_set(EtcdResponse *response, const GrpcReply *reply);

#endif							/* RESPONSE_H */
