/*-------------------------------------------------------------------------
 *
 * xact.c
 *	  Transactions, subtransactions, resource owners, and who is told of them.
 *
 * The order of steps at commit and abort is xact.c's and resowner.c's.  What a
 * transaction writes is nothing; its commit takes the time of a WAL flush, and a
 * moment in which others may run between each two steps.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/memutils.h"

#define MAX_CALLBACKS	16
#define MAX_PREPARED	64

typedef struct ResourceOwnerData
{
	ResourceOwner parent;
	ResourceOwner firstchild;
	ResourceOwner nextchild;
	const char *name;
} ResourceOwnerData;

typedef struct Subxact
{
	struct Subxact *parent;
	SubTransactionId id;
	ResourceOwner owner;
	ResourceOwner saved_owner;	/* CurrentResourceOwner before it */
	bool		is_savepoint;
} Subxact;

ResourceOwner CurrentResourceOwner = NULL;
ResourceOwner CurTransactionResourceOwner = NULL;
ResourceOwner TopTransactionResourceOwner = NULL;
int			MyXactFlags = 0;
bool		XactReadOnly = false;
int			XactIsoLevel = XACT_READ_COMMITTED;
XLogRecPtr	XactLastCommitEnd = InvalidXLogRecPtr;
XLogRecPtr	XactLastRecEnd = InvalidXLogRecPtr;

static enum
{
	XACT_NONE,
	XACT_RUNNING,
	XACT_FAILED
}			state = XACT_NONE;
static bool in_block = false;
static TransactionId xid = InvalidTransactionId;
static bool changed_elsewhere = false;
static int	unlocked_lost = 0;		/* locks, behind changes */
static int	lost_before_unlock;
static int	lost_at_commit;		/* when it began */
static bool gave_up_all = false;	/* DISCARD ALL: there are only its records yet */
static bool past_commit = false;
static Subxact *subxact = NULL;
static SubTransactionId next_subid = 2;
static LocalTransactionId next_lxid = 1;
int			wal_segment_size = DEFAULT_XLOG_SEG_SIZE;
static XLogRecPtr flushed = 0;
static XLogRecPtr written = 1000;

typedef struct XactItem
{
	struct XactItem *next;
	XactCallback callback;		/* NULL: not in use */
	void	   *arg;
} XactItem;

static XactItem xact_items[MAX_CALLBACKS];
static XactItem *xact_callbacks = NULL; /* newest first */
static XactItem *called_next = NULL;	/* while they are called */

static struct
{
	SubXactCallback callback;
	void	   *arg;
}			subxact_callbacks[MAX_CALLBACKS];
static int	nsubxact_callbacks = 0;

static struct
{
	ResourceReleaseCallback callback;
	void	   *arg;
}			release_callbacks[MAX_CALLBACKS];
static int	nrelease_callbacks = 0;

/* ----------------------------------------------------------------
 *		Callbacks
 * ----------------------------------------------------------------
 */

void
RegisterXactCallback(XactCallback callback, void *arg)
{
	XactItem   *item = xact_items;

	if (past_commit)
		sim_wrong("a callback is registered past the commit, which allocates memory");
	while (item->callback != NULL)
	{
		if (++item == xact_items + MAX_CALLBACKS)
			elog(PANIC, "too many callbacks");
	}
	*item = (XactItem) {xact_callbacks, callback, arg};
	xact_callbacks = item;
}

void
UnregisterXactCallback(XactCallback callback, void *arg)
{
	for (XactItem **link = &xact_callbacks; *link != NULL; link = &(*link)->next)
	{
		XactItem   *item = *link;

		if (item->callback != callback || item->arg != arg)
			continue;
		/* it is freed, and the next one to be called was read before */
		if (item == called_next)
		{
			sim_wrong("a callback is unregistered when its turn comes next");
			called_next = item->next;
		}
		*link = item->next;
		item->callback = NULL;
		break;
	}
}

void
RegisterSubXactCallback(SubXactCallback callback, void *arg)
{
	subxact_callbacks[nsubxact_callbacks].callback = callback;
	subxact_callbacks[nsubxact_callbacks++].arg = arg;
}

void
UnregisterSubXactCallback(SubXactCallback callback, void *arg)
{
	for (int i = 0; i < nsubxact_callbacks; i++)
	{
		if (subxact_callbacks[i].callback == callback)
		{
			subxact_callbacks[i] = subxact_callbacks[--nsubxact_callbacks];
			break;
		}
	}
}

void
RegisterResourceReleaseCallback(ResourceReleaseCallback callback, void *arg)
{
	release_callbacks[nrelease_callbacks].callback = callback;
	release_callbacks[nrelease_callbacks++].arg = arg;
}

/* As CallXactCallbacks(): a callback may unregister itself, and register others. */
static void
call_xact(XactEvent event)
{
	for (XactItem *item = xact_callbacks; item != NULL; item = called_next)
	{
		called_next = item->next;
		item->callback(event, item->arg);
	}
}

static void
call_subxact(SubXactEvent event, SubTransactionId id, SubTransactionId parent)
{
	for (int i = nsubxact_callbacks; --i >= 0;)
		subxact_callbacks[i].callback(event, id, parent, subxact_callbacks[i].arg);
}

/* ----------------------------------------------------------------
 *		Resource owners
 * ----------------------------------------------------------------
 */

ResourceOwner
ResourceOwnerCreate(ResourceOwner parent, const char *name)
{
	ResourceOwner owner = MemoryContextAllocZero(TopMemoryContext, sizeof(ResourceOwnerData));

	owner->name = name;
	owner->parent = parent;
	if (parent != NULL)
	{
		owner->nextchild = parent->firstchild;
		parent->firstchild = owner;
	}
	return owner;
}

ResourceOwner
ResourceOwnerGetParent(ResourceOwner owner)
{
	return owner->parent;
}

void
ResourceOwnerDelete(ResourceOwner owner)
{
	while (owner->firstchild != NULL)
		ResourceOwnerDelete(owner->firstchild);
	if (owner->parent != NULL)
	{
		ResourceOwner *link = &owner->parent->firstchild;

		while (*link != owner)
			link = &(*link)->nextchild;
		*link = owner->nextchild;
	}
	if (CurrentResourceOwner == owner)
		CurrentResourceOwner = NULL;
	pfree(owner);
}

void
ResourceOwnerRelease(ResourceOwner owner, ResourceReleasePhase phase, bool isCommit,
					 bool isTopLevel)
{
	ResourceOwner save = CurrentResourceOwner;

	for (ResourceOwner child = owner->firstchild; child != NULL; child = child->nextchild)
		ResourceOwnerRelease(child, phase, isCommit, isTopLevel);
	CurrentResourceOwner = owner;
	if (phase == RESOURCE_RELEASE_LOCKS)
	{
		if (isTopLevel)
		{
			if (owner == TopTransactionResourceOwner)
				pg_locks_release_xact();
		}
		else if (isCommit)
			pg_locks_reassign(owner, owner->parent);
		else
			pg_locks_release_owner(owner);
	}
	for (int i = nrelease_callbacks; --i >= 0;)
		release_callbacks[i].callback(phase, isCommit, isTopLevel, release_callbacks[i].arg);
	CurrentResourceOwner = save;
	pg_step();
}

static void
release_owner(ResourceOwner owner, bool is_commit, bool is_top)
{
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, is_commit, is_top);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_LOCKS, is_commit, is_top);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_AFTER_LOCKS, is_commit, is_top);
}

ResourceOwner
pg_open_portal(void)
{
	ResourceOwner portal = ResourceOwnerCreate(CurTransactionResourceOwner, "Portal");

	CurrentResourceOwner = portal;
	return portal;
}

/* The portal is dropped; what it holds goes to its transaction. */
void
pg_close_portal(ResourceOwner portal)
{
	release_owner(portal, true, false);
	ResourceOwnerDelete(portal);
	CurrentResourceOwner = CurTransactionResourceOwner;
}

/* ----------------------------------------------------------------
 *		Transactions
 * ----------------------------------------------------------------
 */

bool
pg_in_transaction(void)
{
	return state != XACT_NONE;
}

bool
pg_in_block(void)
{
	return state != XACT_NONE && in_block;
}

bool
pg_transaction_failed(void)
{
	return state == XACT_FAILED;
}

bool
IsTransactionState(void)
{
	return state == XACT_RUNNING;
}

bool
IsTransactionBlock(void)
{
	return in_block;
}

bool
IsInTransactionBlock(bool isTopLevel)
{
	return in_block || subxact != NULL;
}

bool
IsSubTransaction(void)
{
	return subxact != NULL;
}

TransactionId
GetTopTransactionIdIfAny(void)
{
	return xid;
}

void
pg_assign_xid(void)
{
	static TransactionId next_xid = FirstNormalTransactionId;

	if (!TransactionIdIsValid(xid))
		xid = next_xid++;
	written++;
}

static bool
has_changes(void)
{
	return TransactionIdIsValid(xid) || changed_elsewhere;
}

void
pg_gave_up_all(void)
{
	gave_up_all = true;
}

/* Does the session have a lock, for what it commits? */
static bool
is_guarded(void)
{
	return pg_any_hold() && !gave_up_all;
}

/* ----------------------------------------------------------------
 *		Other modules
 * ----------------------------------------------------------------
 */

static void
refused_by_module(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("another module refuses the commit")));
}

/* As postgres_fdw's: commits elsewhere before the commit here. */
static void
foreign_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT || !changed_elsewhere)
		return;
	pg_pause(100 + (int64) (sim_random_number() % 2000));
	if (sim_random_number() % 20 == 0)
		refused_by_module();
	sim_committed_elsewhere(lost_at_commit, is_guarded());
}

/* It is there from the session's beginning, and does at times what a module may do. */
static void
module_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
		return;
	switch (sim_random_number() % 64)
	{
		case 0:
			refused_by_module();
			break;
		case 1:
			pg_run_update();
			break;
		case 2:
			CHECK_FOR_INTERRUPTS();
			break;
	}
}

/* Not every session has it. */
void
pg_load_module(void)
{
	if (sim_random_number() % 2 == 0)
		RegisterXactCallback(module_callback, NULL);
}

/* postgres_fdw registers its callback when it is needed for the first time. */
void
pg_change_elsewhere(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(foreign_callback, NULL);
	registered = true;
	changed_elsewhere = true;
}

bool
pg_is_past_commit(void)
{
	return past_commit;
}

void
pg_before_unlock(void)
{
	lost_before_unlock = has_changes() ? pg_lost_holds() : 0;
}

void
pg_after_unlock(void)
{
	if (pg_lost_holds() < lost_before_unlock)
		unlocked_lost++;
}

bool
RecoveryInProgress(void)
{
	return false;
}

/* There is no standby here: nobody asks, and nobody is asked. */
TimeLineID
GetWALInsertionTimeLine(void)
{
	return 1;
}

XLogRecPtr
GetXLogReplayRecPtr(TimeLineID *timeline)
{
	*timeline = 1;
	return flushed;
}

RecoveryPauseState
GetRecoveryPauseState(void)
{
	return RECOVERY_NOT_PAUSED;
}

XLogRecPtr
GetXLogInsertRecPtr(void)
{
	return written;
}

XLogRecPtr
GetFlushRecPtr(TimeLineID *timeline)
{
	return flushed;
}

void
XLogSetAsyncXactLSN(XLogRecPtr position)
{
}

void
XLogFlush(XLogRecPtr record)
{
	if (record <= flushed)
		return;
	HOLD_INTERRUPTS();
	pg_pause(100 + (int64) (sim_random_number() % 300));
	RESUME_INTERRUPTS();
	flushed = Max(flushed, record);
}

static bool is_in_procedure = false;
static TimestampTz statement_start;

void
pg_start_transaction(bool block)
{
	if (!is_in_procedure)
		statement_start = GetCurrentTimestamp();
	if (state == XACT_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
				 errmsg("current transaction is aborted, commands ignored until end of transaction block")));
	if (state != XACT_NONE)
		return;
	TopTransactionResourceOwner = ResourceOwnerCreate(NULL, "TopTransaction");
	CurTransactionResourceOwner = TopTransactionResourceOwner;
	CurrentResourceOwner = TopTransactionResourceOwner;
	state = XACT_RUNNING;
	in_block = block;
	xid = InvalidTransactionId;
	changed_elsewhere = false;
	unlocked_lost = 0;
	gave_up_all = false;
	MyXactFlags = 0;
	MyProc->lxid = next_lxid++;
	MyProc->fpVXIDLock = true;
}

void
pg_begin_block(void)
{
	in_block = true;
}

void
pg_end_block(void)
{
	in_block = false;
}

static void
end_state(void)
{
	state = XACT_NONE;
	in_block = false;
	xid = InvalidTransactionId;
	CurrentResourceOwner = NULL;
	CurTransactionResourceOwner = NULL;
	if (TopTransactionResourceOwner != NULL)
		ResourceOwnerDelete(TopTransactionResourceOwner);
	TopTransactionResourceOwner = NULL;
	CurrentResourceOwner = NULL;
	MemoryContextReset(TopTransactionContext);
}

static void
commit_subxact(void)
{
	Subxact    *old = subxact;
	SubTransactionId parent = old->parent != NULL ? old->parent->id : 1;

	call_subxact(SUBXACT_EVENT_PRE_COMMIT_SUB, old->id, parent);
	call_subxact(SUBXACT_EVENT_COMMIT_SUB, old->id, parent);
	release_owner(old->owner, true, false);
	CurTransactionResourceOwner = old->owner->parent;
	CurrentResourceOwner = CurTransactionResourceOwner;
	ResourceOwnerDelete(old->owner);
	subxact = old->parent;
	pfree(old);
}

static void
abort_subxact(void)
{
	Subxact    *old = subxact;
	SubTransactionId parent = old->parent != NULL ? old->parent->id : 1;

	HOLD_INTERRUPTS();
	pg_lwlock_release_all();
	LockErrorCleanup();
	CurrentResourceOwner = old->owner;
	call_subxact(SUBXACT_EVENT_ABORT_SUB, old->id, parent);
	release_owner(old->owner, false, false);
	CurTransactionResourceOwner = old->owner->parent;
	CurrentResourceOwner = CurTransactionResourceOwner;
	ResourceOwnerDelete(old->owner);
	subxact = old->parent;
	pfree(old);
	RESUME_INTERRUPTS();
}

static void
push_subxact(bool is_savepoint)
{
	Subxact    *new = MemoryContextAllocZero(TopMemoryContext, sizeof(Subxact));

	new->parent = subxact;
	new->id = next_subid++;
	new->is_savepoint = is_savepoint;
	new->saved_owner = CurrentResourceOwner;
	new->owner = ResourceOwnerCreate(CurTransactionResourceOwner, "SubTransaction");
	subxact = new;
	CurTransactionResourceOwner = new->owner;
	CurrentResourceOwner = new->owner;
	call_subxact(SUBXACT_EVENT_START_SUB, new->id, new->parent != NULL ? new->parent->id : 1);
}

/*
 * SyncRepWaitForLSN(): a signal ends the wait, and the client is told that its
 * transaction may not be replicated.
 */
static void
wait_for_standby(void)
{
	pg_pause(1000 + (int64) (sim_random_number() % 20000));
	if ((QueryCancelPending || ProcDiePending) && !sim_may_interrupt())
		sim_wrong("a commit's wait for its standby is interrupted");
}

/* synchronous_commit = off leaves the flush to the WAL writer. */
static void
write_commit(bool flush)
{
	static int	synchronous = -1;

	if (synchronous < 0)
		synchronous = atoi(sim_setting("synchronous_commit"));
	XactLastRecEnd = ++written;
	if (flush || synchronous)
		XLogFlush(XactLastRecEnd);
	XactLastCommitEnd = XactLastRecEnd;
	if (sim_random_number() % 8 == 0)
		wait_for_standby();
}

bool
pg_commits_are_flushed(void)
{
	return XactLastCommitEnd <= flushed;
}

static void
end_transaction(XactEvent before, XactEvent after)
{
	bool		writes;

	while (subxact != NULL)
		commit_subxact();
	CurrentResourceOwner = TopTransactionResourceOwner;
	lost_at_commit = pg_lost_holds() + unlocked_lost;
	sim_commit_begins();
	call_xact(before);
	writes = TransactionIdIsValid(xid);
	HOLD_INTERRUPTS();
	past_commit = true;
	if (writes)
		write_commit(after == XACT_EVENT_PREPARE);
	sim_committed(has_changes(), lost_at_commit, is_guarded());
	MyProc->lxid = InvalidLocalTransactionId;	/* ProcArrayEndTransaction() */
	pg_step();
	call_xact(after);
	release_owner(TopTransactionResourceOwner, true, true);
	past_commit = false;
	end_state();
	RESUME_INTERRUPTS();
}

void
pg_commit_transaction(void)
{
	end_transaction(XACT_EVENT_PRE_COMMIT, XACT_EVENT_COMMIT);
}

/* The server's, which any session may finish; a crash forgets them. */
typedef struct Prepared
{
	int64		last;			/* number of the one that was prepared last */
	int64		numbers[MAX_PREPARED];	/* 0: none */
} Prepared;

static Prepared *
prepared_transactions(void)
{
	bool		found;

	return sim_shmem("prepared", sizeof(Prepared), &found);
}

/* 0: there are none. */
int64_t
pg_any_prepared(void)
{
	const Prepared *all = prepared_transactions();
	int64		any = 0;

	for (int i = 0; i < MAX_PREPARED; i++)
		any = Max(any, all->numbers[i]);
	return any;
}

static bool
replace_prepared(int64 old, int64 new)
{
	Prepared   *all = prepared_transactions();

	for (int i = 0; i < MAX_PREPARED; i++)
	{
		if (all->numbers[i] != old)
			continue;
		all->numbers[i] = new;
		return true;
	}
	return false;
}

/* Its number; 0: there are too many already, so nobody will finish it. */
int64_t
pg_prepare_transaction(void)
{
	int64		number = ++prepared_transactions()->last;

	end_transaction(XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE);
	return replace_prepared(0, number) ? number : 0;
}

static void
find_prepared(int64 number)
{
	if (!replace_prepared(number, 0))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("prepared transaction does not exist")));
}

void
pg_rollback_prepared(int64_t number)
{
	find_prepared(number);
}

void
pg_commit_prepared(int64_t number, int lost)
{
	find_prepared(number);
	HOLD_INTERRUPTS();
	write_commit(true);			/* whatever synchronous_commit is */
	sim_committed(true, lost, pg_any_hold());
	RESUME_INTERRUPTS();
}

static void
abort_all(void)
{
	HOLD_INTERRUPTS();
	pg_lwlock_release_all();
	LockErrorCleanup();
	while (subxact != NULL)
		abort_subxact();
	CurrentResourceOwner = TopTransactionResourceOwner;
	MyProc->lxid = InvalidLocalTransactionId;
	call_xact(XACT_EVENT_ABORT);
	release_owner(TopTransactionResourceOwner, false, true);
	end_state();
	RESUME_INTERRUPTS();
}

/*
 * After an error.  In a block the transaction is aborted at once, but for the
 * savepoint that it may yet go back to; the client has to say ROLLBACK.
 */
void
pg_abort_transaction(void)
{
	bool		block = in_block;

	is_in_procedure = false;
	if (state == XACT_NONE || TopTransactionResourceOwner == NULL)
	{
		/* there is no transaction, or it was aborted before */
		pg_lwlock_release_all();
		LockErrorCleanup();
		return;
	}
	while (subxact != NULL && !subxact->is_savepoint)
		abort_subxact();
	if (subxact != NULL)
	{
		/* the savepoint's own part is undone; it is there until ROLLBACK TO */
		abort_subxact();
		push_subxact(true);
		state = XACT_FAILED;
		return;
	}
	abort_all();
	if (block)
	{
		state = XACT_FAILED;
		in_block = true;
	}
}

void
pg_rollback(void)
{
	if (state == XACT_NONE)
		return;
	if (TopTransactionResourceOwner != NULL)
		abort_all();
	state = XACT_NONE;
	in_block = false;
}

void
pg_savepoint(void)
{
	push_subxact(true);
}

/* False: there is no savepoint. */
bool
pg_rollback_to(void)
{
	while (subxact != NULL && !subxact->is_savepoint)
		abort_subxact();
	if (subxact == NULL)
		return false;
	abort_subxact();
	state = XACT_RUNNING;
	push_subxact(true);
	return true;
}

bool
pg_release(void)
{
	if (subxact == NULL)
		return false;
	commit_subxact();
	return true;
}

/* ---- subtransactions of the code's own ---- */

void
BeginInternalSubTransaction(const char *name)
{
	push_subxact(false);
}

void
ReleaseCurrentSubTransaction(void)
{
	ResourceOwner saved = subxact->saved_owner;

	commit_subxact();
	CurrentResourceOwner = saved;
	CurrentResourceOwner = CurTransactionResourceOwner;
}

void
RollbackAndReleaseCurrentSubTransaction(void)
{
	abort_subxact();
}

/* ---- procedures ---- */

int
SPI_connect_ext(int options)
{
	is_in_procedure = true;
	return 1;
}

int
SPI_finish(void)
{
	is_in_procedure = false;
	return 1;
}

/* Ends the transaction, and begins another one. */
void
SPI_commit(void)
{
	pg_commit_transaction();
	pg_start_transaction(false);
}

bool
SPI_inside_nonatomic_context(void)
{
	return is_in_procedure;
}

TimestampTz
GetCurrentStatementStartTimestamp(void)
{
	return statement_start;
}
