/*-------------------------------------------------------------------------
 *
 * sqlstate.c
 *	  SQLSTATEs for etcd's errors.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/sqlstate.h"

int
sqlstate_of(const EtcdError *error)
{
	switch (error->code)
	{
		case ETCD_PERMISSION_DENIED:
			return ERRCODE_INSUFFICIENT_PRIVILEGE;
		case ETCD_UNAUTHENTICATED:
			return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
		case ETCD_RESOURCE_EXHAUSTED:
			return ERRCODE_DISK_FULL;
		case ETCD_BAD_RESPONSE:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		default:
			return ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	}
}
