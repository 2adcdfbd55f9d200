/*-------------------------------------------------------------------------
 *
 * etcd_client.h
 *	  The state of a client of etcd as a whole; a process can have several clients.
 *
 * As with the worker's own state (worker/context.h), each part keeps its state
 * in a structure that no other part looks into, and that its function
 * ..._create() creates.  A program that runs several clients sets MyClient to
 * one of them before each step.
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
