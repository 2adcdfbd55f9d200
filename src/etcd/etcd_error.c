/*-------------------------------------------------------------------------
 *
 * etcd_error.c
 *	  What an error of etcd says about the member that returned it.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/etcd_error.h"

#include <string.h>

/*
 * If etcd refuses a request, it uses one of these codes; others mean that
 * something is broken.
 */
bool
etcd_error_is_unwell(const EtcdError *error)
{
	switch (error->code)
	{
		case ETCD_INVALID_ARGUMENT:
		case ETCD_NOT_FOUND:
		case ETCD_PERMISSION_DENIED:
		case ETCD_RESOURCE_EXHAUSTED:
		case ETCD_FAILED_PRECONDITION:
		case ETCD_OUT_OF_RANGE:
		case ETCD_UNAUTHENTICATED:
			return false;
	}
	return true;
}

bool
etcd_error_is_busy(const EtcdError *error)
{
	return error->code == ETCD_RESOURCE_EXHAUSTED &&
		strstr(error->message, "too many requests") != NULL;
}
