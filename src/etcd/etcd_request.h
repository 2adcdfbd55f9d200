/*-------------------------------------------------------------------------
 *
 * etcd_request.h
 *	  Requests to etcd, as gRPC carries them.
 *
 * A request contains its method.  Its data is malloc'd; NULL: out of memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_REQUEST_H
#define ETCD_REQUEST_H

#include "etcd/etcd_api.h"

typedef enum EtcdMethod
{
	ETCD_METHOD_RANGE,
	ETCD_METHOD_TXN,
	ETCD_METHOD_LEASE_GRANT,
	ETCD_METHOD_LEASE_REVOKE,
	ETCD_METHOD_LEASE_KEEPALIVE,
	ETCD_METHOD_LEASE_TIMETOLIVE,
	ETCD_METHOD_STATUS,
	ETCD_METHOD_AUTHENTICATE,
	ETCD_METHOD_WATCH
} EtcdMethod;

typedef struct EtcdMessage
{
	EtcdMethod	method;
	uint8_t    *data;
	size_t		len;
} EtcdMessage;

/* "/<service>/<method>" */
extern const char *etcd_request_path(EtcdMethod method);

extern EtcdMessage etcd_request_range(const EtcdOp *op);
extern EtcdMessage etcd_request_txn(const EtcdTxn *txn);
extern EtcdMessage etcd_request_lease_grant(int64_t id, int64_t ttl_seconds);
extern EtcdMessage etcd_request_lease_revoke(int64_t id);
extern EtcdMessage etcd_request_lease_keepalive(int64_t id);
extern EtcdMessage etcd_request_lease_timetolive(int64_t id, bool keys);
extern EtcdMessage etcd_request_status(void);
extern EtcdMessage etcd_request_authenticate(const char *name, const char *password);

/*
 * Messages of a watch stream.  We choose the id, which is above 0.  Events
 * come from the moment at which the watch is set up.  Etcd splits messages
 * that are longer than its limit for requests (2 MB), so that no message has
 * to be longer than that plus a key.
 */
extern EtcdMessage etcd_request_watch_create(int64_t watch_id, const EtcdRange *range,
											 bool deletes_only);
extern EtcdMessage etcd_request_watch_cancel(int64_t watch_id);

/* Frees the data; a password is wiped. */
extern void etcd_request_free(EtcdMessage *message);

#endif							/* ETCD_REQUEST_H */
