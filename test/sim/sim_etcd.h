/*-------------------------------------------------------------------------
 *
 * sim_etcd.h
 *	  What an etcd cluster has agreed on: keys with their history, leases.
 *
 * The replicated state alone, without members, network or time of its own:
 * each function is one step that a cluster applies, and "now" is what its
 * caller says, in microseconds.  sim_cluster.c adds the members.
 * test/sim/compare checks it against a real etcd.
 *
 * Requests and results are the structs of etcd_api.h; results are released by
 * its _free functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_ETCD_H
#define SIM_ETCD_H

#include "etcd/etcd_api.h"

typedef struct SimEtcd SimEtcd;
typedef struct SimWatch SimWatch;

/* Operations in a Txn, on the longest of its three lists; etcd's default. */
#define SIM_MAX_TXN_OPS		128

/* Least seconds of a lease, with etcd's default timing. */
#define SIM_MIN_TTL			2

extern SimEtcd *sim_etcd_create(void);
extern SimEtcd *sim_etcd_copy(const SimEtcd *etcd); /* without its watches */
extern void sim_etcd_free(SimEtcd *etcd);

/* What every answer says; cluster and member are the caller's to set. */
extern EtcdHeader *sim_etcd_header(SimEtcd *etcd);

/* NOSPACE: nothing that takes space is done. */
extern void sim_etcd_set_nospace(SimEtcd *etcd, bool nospace);

/*
 * False: *err says what etcd says, and nothing has changed.  The range may be
 * read as of a revision of the past (op->revision).
 */
extern bool sim_etcd_range(SimEtcd *etcd, const EtcdOp *op,
						   EtcdRangeResult *result, EtcdError *err);
extern bool sim_etcd_txn(SimEtcd *etcd, const EtcdTxn *txn,
						 EtcdTxnResult *result, EtcdError *err);
extern bool sim_etcd_compact(SimEtcd *etcd, int64_t revision, EtcdError *err);

/* Does the Txn write anything, whichever branches run? */
extern bool sim_etcd_txn_writes(const EtcdTxn *txn);

extern bool sim_etcd_lease_grant(SimEtcd *etcd, int64_t id, int64_t ttl, int64_t now,
								 EtcdLeaseResult *result, EtcdError *err);
extern bool sim_etcd_lease_revoke(SimEtcd *etcd, int64_t id,
								  EtcdHeader *header, EtcdError *err);

/*
 * effect false: as a leader answers that is none any more and does not know it.
 */
extern bool sim_etcd_lease_expired(SimEtcd *etcd, int64_t id, int64_t now);
extern void sim_etcd_lease_keepalive(SimEtcd *etcd, int64_t id, int64_t now, bool effect,
									 EtcdLeaseResult *result);
extern void sim_etcd_lease_timetolive(SimEtcd *etcd, int64_t id, bool keys, int64_t now,
									  EtcdLeaseResult *result);

/* A new leader gives each lease its whole TTL again, and so much more. */
extern void sim_etcd_promote(SimEtcd *etcd, int64_t now, int64_t extend);

/* Revoke what has run out. */
extern void sim_etcd_expire(SimEtcd *etcd, int64_t now);

/*
 * A watch: from start_revision on, 0: from now on.  A member that lags behind sees
 * as_of as the newest revision; 0: it does not.  The first message says that it was
 * created.  One that starts in the past is "unsynced": it gets no event
 * before sim_etcd_sync_watch(), which etcd calls every 100 ms.
 */
extern SimWatch *sim_etcd_watch(SimEtcd *etcd, const EtcdRange *range, bool no_puts,
								bool no_deletes, int64_t start_revision, int64_t as_of);
extern void sim_etcd_sync_watch(SimWatch *watch);
extern void sim_etcd_end_watch(SimWatch *watch);

/* Cancel it: the last message says so, with this reason. */
extern void sim_etcd_cancel_watch(SimWatch *watch, const char *reason);

/* The next message is one about progress: no events, the revision alone. */
extern void sim_etcd_watch_progress(SimWatch *watch);

/*
 * The next message, of events up to this revision, if there is one.
 */
extern bool sim_etcd_watch_next(SimWatch *watch, int64_t upto, EtcdWatchMessage *msg);
extern bool sim_etcd_watch_pending(const SimWatch *watch, int64_t upto);

/* All keys that are there or in the history, in order. */
extern int	sim_etcd_nkeys(const SimEtcd *etcd);
extern bool sim_etcd_key(const SimEtcd *etcd, int i, EtcdKeyValue *kv);	/* false: deleted */

/* For checks: all keys that are there, in order. */
extern int	sim_etcd_nlive(const SimEtcd *etcd);
extern void sim_etcd_live(const SimEtcd *etcd, int i, EtcdKeyValue *kv);
extern int64_t sim_etcd_live_lease(const SimEtcd *etcd, int i); /* 0: none */
extern uint32_t *sim_etcd_live_mark(SimEtcd *etcd, int i);	/* 0 in a new one */
extern int	sim_etcd_nleases(const SimEtcd *etcd);
extern int	sim_etcd_nwatches(const SimEtcd *etcd);

/* The memory that the history takes: its events. */
extern int	sim_etcd_nevents(const SimEtcd *etcd);

#endif							/* SIM_ETCD_H */
