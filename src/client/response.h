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

/*
 * Does this error say that the member cannot serve?  Otherwise a healthy
 * member has refused the request.
 */
extern bool response_is_unwell(const EtcdError *error);

/* Has etcd not accepted this request because it is behind with others? */
extern bool response_is_busy(const EtcdError *error);

#endif							/* RESPONSE_H */
