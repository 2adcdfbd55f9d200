/*-------------------------------------------------------------------------
 *
 * etcd_response.h
 *	  Responses of etcd, as gRPC carries them: decoded, and checked for sanity.
 *
 * Each function fills *result and returns true; the matching _free function
 * releases it (and is safe on a zeroed or already freed result).  If the
 * function returns false, *err has etcd's error, or what is wrong with the
 * response, and *result is empty.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_RESPONSE_H
#define ETCD_RESPONSE_H

#include "etcd/etcd_api.h"

/*
 * How a call ended: gRPC's status, its text, and the message if the status is
 * 0.  If the status is ETCD_BAD_RESPONSE, the server did not speak gRPC.
 */
typedef struct EtcdReply
{
	int			status;
	const char *message;		/* NULL: none */
	const void *data;
	size_t		len;
} EtcdReply;

/* How a request ended: with a reply, or without one. */
typedef struct EtcdResponse
{
	bool		delivered;		/* there is a reply, even if a refusal */
	EtcdReply	reply;
	char		error[256];		/* not delivered: why, as a text */
	bool		ambiguous;		/* not delivered: etcd may have applied the
								 * request, or may still do so */
	bool		too_long;		/* not delivered: given up because of its
								 * length */
	const void *origin;			/* by which link.c knows the request */
} EtcdResponse;

extern bool etcd_response_range(const EtcdReply *reply, EtcdRangeResult *result,
								EtcdError *err);
extern bool etcd_response_txn(const EtcdReply *reply, EtcdTxnResult *result,
							  EtcdError *err);

/*
 * The response to a range that was sent without a Txn around it, which is
 * cheaper; the result is that of a Txn with this one operation.
 */
extern bool etcd_response_single_range(const EtcdReply *reply, EtcdTxnResult *result,
									   EtcdError *err);
extern bool etcd_response_lease(const EtcdReply *reply, EtcdLeaseResult *result,
								EtcdError *err);
extern bool etcd_response_status(const EtcdReply *reply, EtcdStatusResult *result,
								 EtcdError *err);

/* An error never quotes the message, which may repeat the password; only the status' text. */
extern bool etcd_response_auth(const EtcdReply *reply, EtcdAuthResult *result,
							   EtcdError *err);

/* For a response of which only the success matters (revoke). */
extern bool etcd_response_header(const EtcdReply *reply, EtcdHeader *header,
								 EtcdError *err);

/* One message of a watch stream. */
extern bool etcd_response_watch(const void *data, size_t len,
								EtcdWatchMessage *result, EtcdError *err);

/* The error of a reply whose status is not 0; its text becomes printable. */
extern void etcd_response_error(const EtcdReply *reply, EtcdError *err);

extern void etcd_response_free_range(EtcdRangeResult *result);
extern void etcd_response_free_txn(EtcdTxnResult *result);
extern void etcd_response_free_lease(EtcdLeaseResult *result);
extern void etcd_response_free_status(EtcdStatusResult *result);
extern void etcd_response_free_auth(EtcdAuthResult *result);
extern void etcd_response_free_watch(EtcdWatchMessage *result);

#endif							/* ETCD_RESPONSE_H */
