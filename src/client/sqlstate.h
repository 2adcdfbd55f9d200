/*-------------------------------------------------------------------------
 *
 * sqlstate.h
 *	  SQLSTATEs for etcd's errors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SQLSTATE_H
#define SQLSTATE_H

#include "postgres.h"
#include "etcd/etcd_api.h"

/* For errors of requests that a session waits for. */
extern int	sqlstate_of(const EtcdError *error);

#endif							/* SQLSTATE_H */
