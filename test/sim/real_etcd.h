/*-------------------------------------------------------------------------
 *
 * real_etcd.h
 *	  A real etcd, asked by the project's own codec and transport, one request
 *	  after the other: what compare.c holds the simulated one against.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REAL_ETCD_H
#define REAL_ETCD_H

#include "etcd/etcd_api.h"

typedef struct RealWatch RealWatch;

extern void real_etcd_connect(const char *endpoint);
extern bool real_etcd_range(const EtcdOp *op, EtcdRangeResult *result, EtcdError *err);
extern bool real_etcd_txn(const EtcdTxn *txn, EtcdTxnResult *result, EtcdError *err);
extern bool real_etcd_compact(int64_t revision, EtcdError *err);

/* As if its database had become larger than its quota, or the alarm were disarmed. */
extern void real_etcd_alarm_nospace(bool on);
extern bool real_etcd_lease_grant(int64_t id, int64_t ttl, EtcdLeaseResult *result,
								  EtcdError *err);
extern bool real_etcd_lease_revoke(int64_t id, EtcdHeader *header, EtcdError *err);
extern bool real_etcd_lease_keepalive(int64_t id, EtcdLeaseResult *result, EtcdError *err);
extern bool real_etcd_lease_timetolive(int64_t id, EtcdLeaseResult *result, EtcdError *err);

/* "message" is called for each message from here on, from real_etcd_wait(). */
extern RealWatch *real_etcd_watch(const EtcdRange *range, bool deletes_only,
								  void (*message) (void *arg, const EtcdWatchMessage *msg),
								  void *arg);
extern void real_etcd_end_watch(RealWatch *watch);

/* Let watches speak, for at most so long or until *done. */
extern void real_etcd_wait(int ms, const bool *done);

#endif							/* REAL_ETCD_H */
