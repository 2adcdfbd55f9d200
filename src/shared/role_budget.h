/*-------------------------------------------------------------------------
 *
 * role_budget.h
 *	  How much of what is bounded for a role its sessions use together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ROLE_BUDGET_H
#define ROLE_BUDGET_H

#include "postgres.h"

typedef enum RoleUse
{
	ROLE_USE_NAME,				/* a lock that a session holds or wants */
	ROLE_USE_WAIT				/* a session that waits for a holder */
} RoleUse;

#define ROLE_NUSES			(ROLE_USE_WAIT + 1)

extern Size role_budget_shmem_size(void);
extern void role_budget_request_locks(void);
extern void role_budget_shmem_init(void);

/*
 * One more for the role of this session; an error if the role has as many as it may.
 * What is not released ends with the session.  Nothing but taking throws.
 */
extern void role_budget_take(RoleUse use);
extern void role_budget_release(RoleUse use);

/*
 * The session waits for a holder, which it may say again and again, or waits no more.
 * With a limit it is not to say so before the lock was found not to be free.
 */
extern void role_budget_begin_wait(void);
extern void role_budget_end_wait(void);
extern bool role_budget_limits_waits(void);

#endif							/* ROLE_BUDGET_H */
