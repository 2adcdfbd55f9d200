/*-------------------------------------------------------------------------
 *
 * role_budget.c
 *	  How much of what is bounded for a role its sessions use together.
 *
 * A role here is the one that has logged in: its settings are those of the session.
 * Each session attaches to the row of its role when it first needs it, and counts there
 * what it takes, with or without a limit, by an atomic operation.  A row goes with the
 * last session of the role, so there are never more of them than processes.
 *
 * A session remembers what it has taken, and releases it when it ends, in whatever way.
 * Only a crash skips that, and then shared memory is made anew.
 *
 * RoleTable.lock protects which row is whose; the counters need no lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "shared/role_budget.h"
#include "shared/settings.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#define ROLES_TRANCHE		"etcd_lock_roles"

typedef struct RoleRow
{
	Oid			role;
	int			sessions;		/* that are attached; 0: the row is free */
	pg_atomic_uint32 used[ROLE_NUSES];
} RoleRow;

typedef union PaddedRow
{
	RoleRow		row;
	char		pad[TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(RoleRow))];
} PaddedRow;

typedef struct RoleTable
{
	LWLock	   *lock;
	PaddedRow	rows[FLEXIBLE_ARRAY_MEMBER];	/* MaxBackends of them */
} RoleTable;

static RoleTable *table = NULL;

/* This session's row, and its part of what is counted there. */
static RoleRow *mine = NULL;
static uint32 taken[ROLE_NUSES];

Size
role_budget_shmem_size(void)
{
	return CACHELINEALIGN(add_size(offsetof(RoleTable, rows),
								   mul_size(MaxBackends, sizeof(PaddedRow))));
}

void
role_budget_request_locks(void)
{
	RequestNamedLWLockTranche(ROLES_TRANCHE, 1);
}

void
role_budget_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	table = ShmemInitStruct("etcd_lock roles", role_budget_shmem_size(), &found);
	if (!found)
	{
		memset(table, 0, role_budget_shmem_size());
		table->lock = &GetNamedLWLockTranche(ROLES_TRANCHE)->lock;
		for (int i = 0; i < MaxBackends; i++)
		{
			for (int use = 0; use < ROLE_NUSES; use++)
				pg_atomic_init_u32(&table->rows[i].row.used[use], 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/* The row of this role, or a free one.  Lock held. */
static RoleRow *
find_row(Oid role)
{
	RoleRow    *free_row = NULL;

	for (int i = 0; i < MaxBackends; i++)
	{
		RoleRow    *row = &table->rows[i].row;

		if (row->sessions > 0 && row->role == role)
			return row;
		if (row->sessions == 0 && free_row == NULL)
			free_row = row;
	}
	Assert(free_row != NULL);
	return free_row;
}

static void
detach(int code, Datum arg)
{
	for (int use = 0; use < ROLE_NUSES; use++)
	{
		pg_atomic_sub_fetch_u32(&mine->used[use], taken[use]);
		taken[use] = 0;
	}
	LWLockAcquire(table->lock, LW_EXCLUSIVE);
	mine->sessions--;
	LWLockRelease(table->lock);
	mine = NULL;
}

static void
attach(void)
{
	RoleRow    *row;

	on_shmem_exit(detach, (Datum) 0);
	LWLockAcquire(table->lock, LW_EXCLUSIVE);
	row = find_row(MyProc->roleId);
	row->role = MyProc->roleId;
	row->sessions++;
	LWLockRelease(table->lock);
	mine = row;
}

static int
limit_of(RoleUse use)
{
	return use == ROLE_USE_NAME ? etcd_lock_max_names_per_role :
		etcd_lock_max_waiting_per_role;
}

bool
role_budget_limits_waits(void)
{
	return limit_of(ROLE_USE_WAIT) >= 0;
}

/* One more, unless there are as many as there may be. */
static bool
try_to_take(RoleUse use, int limit)
{
	uint32		used = pg_atomic_read_u32(&mine->used[use]);

	do
	{
		if (limit >= 0 && used >= (uint32) limit)
			return false;
	} while (!pg_atomic_compare_exchange_u32(&mine->used[use], &used, used + 1));
	return true;
}

static void
refuse(RoleUse use, int limit)
{
	const char *role = GetUserNameFromId(MyProc->roleId, true);

	if (role == NULL)
		role = "?";				/* dropped meanwhile */
	if (use == ROLE_USE_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many etcd locks of role \"%s\"", role),
				 errdetail("Its sessions may hold %d on this server.", limit),
				 errhint("Release locks, or let a superuser increase \"%s\" for the role.",
						 "etcd_lock.max_names_per_role")));
	else
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many sessions of role \"%s\" wait for etcd locks", role),
				 errdetail("The lock is not free, and no more than %d of its sessions may wait on this server.",
						   limit),
				 errhint("Try again later, or let a superuser increase \"%s\" for the role.",
						 "etcd_lock.max_waiting_per_role")));
}

void
role_budget_take(RoleUse use)
{
	int			limit = limit_of(use);

	if (mine == NULL)
		attach();
	if (!try_to_take(use, limit))
		refuse(use, limit);
	taken[use]++;
}

void
role_budget_release(RoleUse use)
{
	if (taken[use] == 0)
		return;					/* the session ends, and has released all */
	taken[use]--;
	pg_atomic_sub_fetch_u32(&mine->used[use], 1);
}

void
role_budget_begin_wait(void)
{
	if (taken[ROLE_USE_WAIT] == 0)
		role_budget_take(ROLE_USE_WAIT);
}

void
role_budget_end_wait(void)
{
	role_budget_release(ROLE_USE_WAIT);
}
