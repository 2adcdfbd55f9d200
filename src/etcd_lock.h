/*-------------------------------------------------------------------------
 *
 * etcd_lock.h
 *	  Settings of the module and limits that several files share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_LOCK_H
#define ETCD_LOCK_H

#include "postgres.h"

#include "compat.h"

#define ETCD_LOCK_VERSION		"1.0.0"

/* Longest namespace and name together, in bytes of UTF-8. */
#define ETCD_LOCK_MAX_KEY		512

/* Longest namespace alone. */
#define ETCD_LOCK_MAX_NAMESPACE	255

/* Names of ours that no lock may have; see README.md, "In etcd". */
#define ETCD_LOCK_RESERVED		".etcd_lock/"

/*
 * SQLSTATEs of our own, in a class that the SQL standard leaves to
 * implementations.
 */
#define ERRCODE_ETCD_LOCK_LOST			MAKE_SQLSTATE('E', 'L', '0', '0', '1')
#define ERRCODE_ETCD_LOCK_COMMIT_REFUSED	MAKE_SQLSTATE('E', 'L', '0', '0', '2')

typedef enum CommitGuard
{
	COMMIT_GUARD_OFF,
	COMMIT_GUARD_LEASE,
	COMMIT_GUARD_ETCD
} CommitGuard;

typedef enum SessionLocks
{
	SESSION_LOCKS_OFF,
	SESSION_LOCKS_WARN,
	SESSION_LOCKS_ON
} SessionLocks;

typedef enum OnLoss
{
	ON_LOSS_WARN,
	ON_LOSS_CANCEL,
	ON_LOSS_TERMINATE
} OnLoss;

/* Settings; units and ranges are with their definitions in etcd_lock.c. */
extern char *etcd_lock_endpoints;
extern char *etcd_lock_namespace;
extern char *etcd_lock_cacert;
extern char *etcd_lock_cert;
extern char *etcd_lock_key;
extern char *etcd_lock_username;
extern char *etcd_lock_password_file;
extern int	etcd_lock_lease_ttl;
extern int	etcd_lock_handoff_window;
extern int	etcd_lock_connect_timeout;
extern int	etcd_lock_request_timeout;
extern bool etcd_lock_synchronous_release;
extern int	etcd_lock_commit_guard;
extern int	etcd_lock_on_loss;
extern int	etcd_lock_session_locks;
extern int	etcd_lock_max_names_per_session;
extern int	etcd_lock_max_names;

/* Wait events, shown in pg_stat_activity. */
extern uint32 etcd_lock_wait_event_acquire(void);
extern uint32 etcd_lock_wait_event_release(void);
extern uint32 etcd_lock_wait_event_check(void);
extern uint32 etcd_lock_wait_event_worker(void);

#endif							/* ETCD_LOCK_H */
