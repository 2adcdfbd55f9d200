/*-------------------------------------------------------------------------
 *
 * etcd_client.c
 *	  The state of a client of etcd as a whole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/etcd_client.h"
#include "utils/memutils.h"

EtcdClient *MyClient = NULL;

EtcdClient *
etcd_client_create(void)
{
	return MemoryContextAllocZero(TopMemoryContext, sizeof(EtcdClient));
}
