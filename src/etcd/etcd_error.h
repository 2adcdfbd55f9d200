/*-------------------------------------------------------------------------
 *
 * etcd_error.h
 *	  What an error of etcd says about the member that returned it.
 *
 * Pure.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_ERROR_H
#define ETCD_ERROR_H

#include "etcd/etcd_api.h"

/*
 * Does this error say that the member cannot serve?  Otherwise a healthy
 * member has refused the request.
 */
extern bool etcd_error_is_unwell(const EtcdError *error);

/* Has etcd not accepted this request because it is behind with others? */
extern bool etcd_error_is_busy(const EtcdError *error);

#endif							/* ETCD_ERROR_H */
