/*-------------------------------------------------------------------------
 *
 * etcd_client.h
 *	  The state of a client of etcd as a whole.
 *
 * As with the worker's own state (worker/context.h), each part keeps its state
 * in a structure of its own, which its ..._create() function allocates and no
 * other part accesses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_CLIENT_H
#define ETCD_CLIENT_H

typedef struct EtcdClient
{
	struct Auth *auth;
	struct Endpoints *endpoints;
	struct Link *link;
	struct TlsFiles *tls;
	struct Watches *watches;
} EtcdClient;

extern EtcdClient *MyClient;

/* Returns an empty client, in TopMemoryContext. */
extern EtcdClient *etcd_client_create(void);

#endif							/* ETCD_CLIENT_H */
