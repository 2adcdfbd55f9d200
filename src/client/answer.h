/*-------------------------------------------------------------------------
 *
 * answer.h
 *	  How a call ended: etcd's response, or why there is none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANSWER_H
#define ANSWER_H

#include "etcd/etcd_response.h"
#include "net/grpc.h"

/* The result points to the reply's data. */
extern void answer_set(EtcdAnswer *answer, const GrpcReply *reply);

/*
 * Does this error say that the member cannot serve?  Otherwise a healthy
 * member has refused the request.
 */
extern bool answer_is_unwell(const EtcdError *error);

/* Has etcd not accepted this request because it is behind with others? */
extern bool answer_is_busy(const EtcdError *error);

#endif							/* ANSWER_H */
