/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  The settings of the module, its limits and its SQLSTATEs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SETTINGS_H
#define SETTINGS_H

#include "postgres.h"

#include "etcd/key_layout.h"
#include "shared/compat.h"
#include "utils/guc.h"

#define ETCD_LOCK_VERSION		"1.1.0"

/* Longest namespace and name together, in bytes of UTF-8. */
#define ETCD_LOCK_MAX_KEY		KEY_LAYOUT_MAX_NAME

/* Longest namespace alone. */
#define ETCD_LOCK_MAX_NAMESPACE	255

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

typedef enum DuplicatePrimary
{
	DUPLICATE_PRIMARY_WARN,
	DUPLICATE_PRIMARY_REFUSE
} DuplicatePrimary;

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

/* Settings; units and ranges are with their definitions in settings.c. */
extern char *etcd_lock_endpoints;
extern char *etcd_lock_discovery_srv;
extern char *etcd_lock_namespace;
extern char *etcd_lock_cacert;
extern char *etcd_lock_cert;
extern char *etcd_lock_key;
extern char *etcd_lock_username;
extern char *etcd_lock_password_file;
extern int	etcd_lock_lease_ttl;
extern int	etcd_lock_handoff_window;
extern int	etcd_lock_keep_window;
extern int	etcd_lock_connect_timeout;
extern int	etcd_lock_request_timeout;
extern bool etcd_lock_synchronous_release;
extern bool etcd_lock_catch_up;
extern int	etcd_lock_commit_guard;
extern int	etcd_lock_on_loss;
extern int	etcd_lock_session_locks;
extern int	etcd_lock_duplicate_primary;
extern char *etcd_lock_cluster_id;
extern int	etcd_lock_max_names_per_session;
extern int	etcd_lock_max_names_per_role;
extern int	etcd_lock_max_waiting_per_role;
extern int	etcd_lock_max_requests_per_role;
extern int	etcd_lock_max_names;
extern int	etcd_lock_max_ticks;
extern int	etcd_lock_tick_retention;

/* on_loss_assign: is called when on_loss changes in this process. */
extern void settings_define(GucEnumAssignHook on_loss_assign);

#endif							/* SETTINGS_H */
