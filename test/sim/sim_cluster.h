/*-------------------------------------------------------------------------
 *
 * sim_cluster.h
 *	  The etcd cluster: its members, who leads, and the network to them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_CLUSTER_H
#define SIM_CLUSTER_H

#include "sim_etcd.h"
#include "sim_kernel.h"

#define SIM_MAX_MEMBERS		5

/* Chances, as "once in n"; 0: never. */
typedef struct SimNetFaults
{
	int			loss;			/* a request or an answer is lost in silence */
	int			broken;			/* the connection breaks under a request */
	int			twice;			/* a request is applied once more, later */
	int			slow;			/* takes long on its way */
	int			refused;		/* "too many requests", "leader changed" */
	int			stalled_watch;	/* a watch tells nothing any more */
	int			cancelled_watch;
} SimNetFaults;

extern SimNetFaults sim_net_faults;
extern int64_t sim_net_delay;	/* most that a message usually takes */

typedef struct SimNetCounts
{
	uint64_t	requests;
	uint64_t	writes;
	uint64_t	watches;
	uint64_t	lost;
	uint64_t	reads;			/* of queues */
	uint64_t	repeated;		/* of them, those that the server has had a moment ago,
								 * and of which nothing has changed */
} SimNetCounts;

extern SimNetCounts sim_net_counts;

extern void sim_cluster_start(int nmembers);
extern void sim_cluster_end(void);
extern const char *sim_cluster_endpoints(void); /* for etcd_lock.endpoints */
extern const char *sim_cluster_endpoint(int member);
extern int	sim_cluster_nmembers(void);

/* What all have agreed on, for foreign clients and checks. */
extern SimEtcd *sim_cluster_state(void);

/* A server is about to delete a key, though not as one of its own. */
extern void (*sim_before_delete) (int server, const char *key, size_t len);

/* Called when it has changed. */
extern void (*sim_after_change) (void);

/* After a change of it that did not come over the network. */
extern void sim_cluster_changed(void);

extern bool sim_cluster_has_leader(void);
extern int	sim_cluster_leader(void);

/* Faults of members. */
extern void sim_member_stop(int member);
extern void sim_member_restart(int member);
extern void sim_member_hang(int member, int64_t until);
extern void sim_member_isolate(int member, bool isolated);	/* from the others */
extern void sim_member_lag(int member, int64_t lag);
extern void sim_net_slow(int server, int64_t by);	/* each way; 0: no more */

/* Call it when the server has been told that its lease lives on, for the next time. */
extern void sim_net_await_renewal(int server, void (*fn) (void *arg), void *arg);
extern void sim_net_part(int server, int member, bool parted);

/* Those who log in need a token; etcd forgets those that it has given; lets nobody in. */
extern void sim_auth_enable(void);
extern void sim_auth_forget(void);
extern void sim_auth_refuse(bool refuse);

/* Nobody may use the keys that begin so; NULL: all are allowed again. */
extern void sim_auth_deny(const char *prefix);

extern void sim_cluster_move_leader(void);
extern void sim_cluster_restore(bool other_cluster);	/* from the last snapshot */
extern void sim_cluster_take_snapshot(void);
extern int64_t sim_cluster_restored_at(void);	/* 0: never */

/* A process is no more: its connections are closed. */
extern void sim_net_forget(SimProc *proc);
extern int	sim_net_nwatches(void);

#endif							/* SIM_CLUSTER_H */
