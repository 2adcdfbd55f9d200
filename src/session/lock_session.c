/*-------------------------------------------------------------------------
 *
 * lock_session.c
 *	  The etcd locks of this session: what it holds, and how that ends.
 *
 * The bookkeeping follows lock.c's LOCALLOCK: a hold has a count for each
 * resource owner, and one for the session.  PostgreSQL's own lock on the tag
 * is acquired and released as often as ours, with the same owner, so both end
 * together: PostgreSQL drops its lock in the release phase LOCKS, we drop our
 * record in the next phase, AFTER_LOCKS.
 *
 * PostgreSQL's lock is the truth about who holds a lock within this server.
 * It may vanish behind our back (DISCARD ALL, pg_advisory_unlock_all(), for
 * an integer key pg_advisory_unlock()); the end of each transaction drops
 * holds whose tag is gone (README.md, rule 19).
 *
 * A commit releases the locks in several steps: those of a portal that is
 * still open belong to its own resource owner, which is released before the
 * transaction's.  We collect the keys of all, and wait for them once, at the
 * transaction's owner (rule 32).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "session/lock_session.h"
#include "session/loss_timer.h"
#include "shared/clock.h"
#include "shared/lock_holds.h"
#include "shared/lock_name.h"
#include "shared/lock_text.h"
#include "shared/lock_trace.h"
#include "shared/loss_signal.h"
#include "shared/role_budget.h"
#include "shared/settings.h"
#include "shared/wait_events.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * How long the end of a transaction or an unlock waits for etcd to confirm
 * that a key is gone, in milliseconds.
 */
#define RELEASE_WAIT	1000

static HTAB *local_holds = NULL;
static bool exit_registered = false;
static bool described = false;

static const LockSessionCallbacks *callbacks;

/*
 * Keys that a release has marked deleting and has to wait for.  Space is
 * reserved when a lock is acquired, because a release may come after commit,
 * where nothing may fail.
 */
static LockReleasedKey *released = NULL;
static int	nreleased = 0;
static int	max_released = 0;

/* A hold uses one key, and the key of the other mode may go with it. */
#define RELEASED_BY_HOLD	2

/*
 * How many locks each resource owner holds.  Most owners hold none, and their
 * release must not go through all that the session holds.
 */
typedef struct OwnerTally
{
	ResourceOwner owner;
	int			nholds;
} OwnerTally;

static OwnerTally *tallies = NULL;
static int	ntallies = 0;
static int	max_tallies = 0;

/*
 * As long as no loss was counted since the session held nothing, and the epoch
 * of its first lock lasts, no lock is lost.
 */
static uint32 losses_before = 0;
static uint64 first_epoch = 0;	/* 0: holds nothing */

LOCKMODE
lock_session_pgmode(LockMode mode)
{
	return mode == LOCK_EXCLUSIVE ? ExclusiveLock : ShareLock;
}

static void
make_id(char *id, const LockName *name, LockMode mode)
{
	id[0] = mode == LOCK_EXCLUSIVE ? 'x' : 's';
	strlcpy(id + 1, name->key, ETCD_LOCK_MAX_KEY + 1);
}

LocalHold *
lock_session_find(const LockName *name, LockMode mode)
{
	char		id[ETCD_LOCK_MAX_KEY + 2];

	if (local_holds == NULL)
		return NULL;
	make_id(id, name, mode);
	return hash_search(local_holds, id, HASH_FIND, NULL);
}

/*
 * Does PostgreSQL still say that we have the lock, not counting what the
 * core's own functions have acquired?
 */
bool
lock_session_has_tag(const LocalHold *local)
{
	return compat_lock_held_by_me(&local->name.tag,
								  lock_session_pgmode(local->mode));
}

bool
lock_session_holds_any(void)
{
	return local_holds != NULL && hash_get_num_entries(local_holds) > 0;
}

void
lock_session_foreach(LocalHoldCallback callback, void *arg)
{
	HASH_SEQ_STATUS status;
	LocalHold  *local;

	if (!lock_session_holds_any())
		return;
	hash_seq_init(&status, local_holds);
	while ((local = hash_seq_search(&status)) != NULL)
		callback(local, arg);
}

/*
 * The role that has logged in, as pg_stat_activity shows it, whatever SET
 * SESSION AUTHORIZATION says.  A background worker may not have logged in.
 */
static Oid
login_role(void)
{
	return OidIsValid(MyProc->roleId) ? MyProc->roleId : GetSessionUserId();
}

/* Tell the shared table who we are, for the values of our keys in etcd. */
void
lock_session_describe(void)
{
	LockProc   *proc = lock_table_proc(compat_my_procno());
	char	   *database;
	char	   *user;

	/*
	 * Once is enough: the database cannot be renamed while we are connected,
	 * and a role that is keeps its old name here, as it would in a log.
	 */
	if (!described)
	{
		/*
		 * So that it is not allocated after commit, where nothing may throw.
		 */
		(void) wait_events_release();

		database = get_database_name(MyDatabaseId);
		lock_text_to_utf8(database ? database : "", proc->who.database,
						  LOCK_PROC_TEXT);
		user = GetUserNameFromId(login_role(), true);
		lock_text_to_utf8(user ? user : "", proc->who.username, LOCK_PROC_TEXT);
		described = true;
	}
	/* ASCII, whatever the database's encoding */
	strlcpy(proc->who.application, application_name ? application_name : "",
			LOCK_PROC_TEXT);
}

/* ----------------------------------------------------------------
 *		Who holds something
 * ----------------------------------------------------------------
 */

static int
find_tally(ResourceOwner owner)
{
	int			i = ntallies - 1;

	/* The youngest owners are looked up most often. */
	while (i >= 0 && tallies[i].owner != owner)
		i--;
	return i;
}

/* One lock more or less for a resource owner; the session has no tally. */
static void
tally(ResourceOwner owner, int add)
{
	int			i;

	if (owner == NULL)
		return;
	i = find_tally(owner);
	if (i < 0)
	{
		Assert(ntallies < max_tallies);
		i = ntallies++;
		tallies[i].owner = owner;
		tallies[i].nholds = 0;
	}
	tallies[i].nholds += add;
	if (tallies[i].nholds == 0)
		tallies[i] = tallies[--ntallies];
}

/* ----------------------------------------------------------------
 *		Dropping
 * ----------------------------------------------------------------
 */

/*
 * The next holder, on any server, may rely on what we committed: it must be on
 * disk before we release the lock, including PostgreSQL's part of it (rule
 * 17).  With synchronous_commit on, it already is, and this costs nothing.
 */
void
lock_session_flush_commits(void)
{
	if (!XLogRecPtrIsInvalid(XactLastCommitEnd) && !RecoveryInProgress())
		XLogFlush(XactLastCommitEnd);
}

/* Drop the shared record, and remember which keys go.  Must not throw. */
static void
drop_shared(LocalHold *local, bool collect)
{
	LockReleasedKey keys[LOCK_KEYS_PER_NAME];
	int			n;

	if (local->hold == NULL)
		return;
	lock_session_flush_commits();
	if (local->hold->state == HOLD_HOLDING && lock_trace_on)
		lock_trace_name(LOCK_TRACE_RELEASED, &local->name,
						(GetCurrentTimestamp() - local->hold->held_since) / 1000);
	n = lock_hold_drop(local->hold, collect ? keys : NULL);
	local->hold = NULL;
	for (int i = 0; collect && i < n && nreleased < max_released; i++)
		released[nreleased++] = keys[i];
}

static void
forget_local(LocalHold *local)
{
	if (local->owners != NULL)
		pfree(local->owners);
	hash_search(local_holds, local->id, HASH_REMOVE, NULL);
	if (!lock_session_holds_any())
	{
		loss_timer_unwatch();
		first_epoch = 0;
	}
}

static void
remove_local(LocalHold *local)
{
	forget_local(local);
	role_budget_release(ROLE_USE_NAME);
}

/*
 * Is the lock lost?  If its tag is gone, a function of PostgreSQL has unlocked
 * it, and another session here may rightly have it; whether it was lost before
 * that is unknown.
 */
bool
lock_session_is_lost(const LocalHold *local)
{
	if (local->hold == NULL || local->nowners == 0)
		return false;
	if (lock_session_has_tag(local))
		return !lock_hold_valid(local->hold);
	return local->hold->lost ||
		!deadline_valid(&lock_shared->deadline, local->hold->epoch);
}

bool
lock_session_any_lost(void)
{
	return first_epoch != 0 &&
		(loss_signal_losses() != losses_before ||
		 !deadline_valid(&lock_shared->deadline, first_epoch));
}

/* Give up a hold that was never granted, or whose tag is gone. */
void
lock_session_forget(LocalHold *local)
{
	if (lock_session_is_lost(local))
		callbacks->unlocked_lost(local);
	for (int i = 0; i < local->nowners; i++)
		tally(local->owners[i].owner, -1);
	drop_shared(local, false);
	remove_local(local);
}

/*
 * Wait until etcd has confirmed that the keys are gone, so that a try on
 * another server succeeds once our caller has its result.
 *
 * This may run after commit, so it must not throw.  Like SyncRepWaitForLSN(),
 * it stops waiting at a cancel or a termination without acting on it (rule
 * 24).
 */
static void
wait_for_release(void)
{
	int64		give_up = clock_now() + RELEASE_WAIT * INT64CONST(1000);
	int			i = 0;

	while (i < nreleased)
	{
		LockReleasedKey *key = &released[i];
		int64		left;
		int			events;

		ResetLatch(MyLatch);
		if (pg_atomic_read_u64(&key->key->key_id) != key->key_id)
		{
			i++;
			continue;
		}
		left = give_up - clock_now();
		if (left <= 0 || ProcDiePending || QueryCancelPending ||
			pg_atomic_read_u32(&lock_shared->link_up) == 0)
			break;
		events = WaitLatch(MyLatch,
						   WL_LATCH_SET | WL_TIMEOUT | WL_POSTMASTER_DEATH,
						   left / 1000 + 1, wait_events_release());
		if (events & WL_POSTMASTER_DEATH)
			break;
	}

	if (i == nreleased && i > 0)
		lock_trace_all(LOCK_TRACE_CONFIRMED, i);

	/* We may have consumed a wake-up that was meant for another loop. */
	if (nreleased > 0)
		SetLatch(MyLatch);
	nreleased = 0;
}

/* ----------------------------------------------------------------
 *		Counting
 * ----------------------------------------------------------------
 */

/* Make room for n elements in an array in TopMemoryContext. */
static void *
reserve(void *array, int *max, int n, Size size)
{
	int			new_max = Max(2 * *max, 16);

	if (n <= *max)
		return array;
	new_max = Max(new_max, n);
	array = array == NULL ? MemoryContextAlloc(TopMemoryContext, new_max * size) :
		repalloc(array, new_max * size);
	*max = new_max;
	return array;
}

/*
 * Make room for one more owner, and for the release of one more lock, before
 * anything that cannot be undone.
 */
static void
reserve_owner(LocalHold *local)
{
	tallies = reserve(tallies, &max_tallies, ntallies + 2, sizeof(OwnerTally));
	released = reserve(released, &max_released,
					   RELEASED_BY_HOLD * (int) hash_get_num_entries(local_holds),
					   sizeof(LockReleasedKey));
	if (local->nowners < local->max_owners)
		return;
	if (local->max_owners == 0)
	{
		local->owners = MemoryContextAlloc(TopMemoryContext,
										   4 * sizeof(LocalOwner));
		local->max_owners = 4;
	}
	else
	{
		local->owners = repalloc(local->owners,
								 2 * local->max_owners * sizeof(LocalOwner));
		local->max_owners *= 2;
	}
}

static void
show_counts(LocalHold *local)
{
	int64		session = 0;
	int64		xact = 0;

	if (local->hold == NULL)
		return;
	for (int i = 0; i < local->nowners; i++)
	{
		if (local->owners[i].owner == NULL)
			session += local->owners[i].count;
		else
			xact += local->owners[i].count;
	}
	lock_hold_set_counts(local->hold, (int) Min(session, PG_INT32_MAX),
						 (int) Min(xact, PG_INT32_MAX));
}

/*
 * Count for an owner.  This cannot fail: lock_session_enter() has reserved
 * room for one owner, and a known one needs none.
 */
void
lock_session_count(LocalHold *local, ResourceOwner owner, int64 add)
{
	int			i;

	for (i = 0; i < local->nowners; i++)
	{
		if (local->owners[i].owner == owner)
			break;
	}
	if (i == local->nowners)
	{
		local->owners[i].owner = owner;
		local->owners[i].count = 0;
		local->nowners++;
		tally(owner, 1);
	}
	local->owners[i].count += add;
	if (local->owners[i].count == 0)
	{
		local->owners[i] = local->owners[--local->nowners];
		tally(owner, -1);
	}
	show_counts(local);
}

/* A new lock was granted: count it, and watch its deadline. */
void
lock_session_granted(LocalHold *local, ResourceOwner owner)
{
	lock_session_count(local, owner, 1);
	local->token = local->hold->token;
	if (first_epoch == 0)
		first_epoch = local->hold->epoch;
	loss_timer_watch(local->hold->epoch);
}

bool
lock_session_in_transaction(const LocalHold *local)
{
	for (int i = 0; i < local->nowners; i++)
	{
		if (local->owners[i].owner != NULL)
			return true;
	}
	return false;
}

static int64
count_of(const LocalHold *local, ResourceOwner owner)
{
	for (int i = 0; i < local->nowners; i++)
	{
		if (local->owners[i].owner == owner)
			return local->owners[i].count;
	}
	return 0;
}

/* Is it, perhaps among others, a session lock, which the user has to unlock? */
bool
lock_session_outlives_transaction(const LocalHold *local)
{
	return count_of(local, NULL) > 0;
}

/* For hints. */
const char *
lock_session_unlock_function(const LocalHold *local)
{
	return local->mode == LOCK_EXCLUSIVE ? "etcd_unlock()" : "etcd_unlock_shared()";
}

/* ----------------------------------------------------------------
 *		Ends
 * ----------------------------------------------------------------
 */

typedef struct OwnerRelease
{
	ResourceOwner owner;
	ResourceOwner parent;		/* counts go there; NULL: they end */
	bool		reconcile;		/* drop holds whose tag is gone */
	bool		collect;		/* the keys, to be waited for */
} OwnerRelease;

static void
release_for_owner(LocalHold *local, void *arg)
{
	OwnerRelease *release = arg;
	int64		count = count_of(local, release->owner);

	if (count > 0)
	{
		lock_session_count(local, release->owner, -count);
		if (release->parent != NULL)
			lock_session_count(local, release->parent, count);
	}

	/*
	 * A hold that is still being acquired has no count yet; its acquirer
	 * takes care of it, and it may be that one's own subtransaction that ends
	 * here.
	 */
	if ((count > 0 && local->nowners == 0) ||
		(release->reconcile && local->nowners > 0 &&
		 !lock_session_has_tag(local)))
	{
		for (int i = 0; i < local->nowners; i++)
			tally(local->owners[i].owner, -1);
		drop_shared(local, release->collect);
		remove_local(local);	/* dynahash allows this for the current
								 * element */
	}
}

/*
 * The end of the resource owner of a portal, a subtransaction or a
 * transaction.  Called for children first.  On commit their holds go to their
 * parent, or end if the transaction does.  Nothing may throw here, because it
 * is already over.
 */
static void
release_callback(ResourceReleasePhase phase, bool is_commit,
				 bool is_top_level, void *arg)
{
	OwnerRelease release = {.owner = CurrentResourceOwner};
	bool		is_root;

	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || local_holds == NULL)
		return;

	lock_trace_begin();
	is_root = is_top_level && CurrentResourceOwner == TopTransactionResourceOwner;
	if (is_commit && !is_top_level)
		release.parent = ResourceOwnerGetParent(CurrentResourceOwner);
	release.reconcile = is_root;
	release.collect = is_commit && is_top_level && etcd_lock_synchronous_release;
	if (is_root || find_tally(CurrentResourceOwner) >= 0)
		lock_session_foreach(release_for_owner, &release);
	if (!is_root)
		return;
	if (!is_commit)
		nreleased = 0;
	wait_for_release();
	callbacks->transaction_released();
}

static void
drop_at_exit(LocalHold *local, void *arg)
{
	drop_shared(local, false);
}

/*
 * The session ends.  The transaction is over and PostgreSQL's locks are gone,
 * but MyProc is still ours.  Also reached by a FATAL error in the middle of
 * acquiring a lock, which skips PG_CATCH.
 */
static void
exit_callback(int code, Datum arg)
{
	loss_timer_unwatch();
	lock_session_foreach(drop_at_exit, NULL);
	callbacks->session_ends();
}

void
lock_session_init(const LockSessionCallbacks *session_callbacks)
{
	callbacks = session_callbacks;
	RegisterResourceReleaseCallback(release_callback, NULL);
}

/* The session's first lock makes room for records, and has them dropped at exit. */
static void
prepare_records(void)
{
	if (local_holds == NULL)
	{
		HASHCTL		info;

		info.keysize = ETCD_LOCK_MAX_KEY + 2;
		info.entrysize = sizeof(LocalHold);
		info.hcxt = TopMemoryContext;
		local_holds = hash_create("etcd_lock holds of this session", 16, &info,
								  HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	if (!exit_registered)
	{
		on_shmem_exit(exit_callback, (Datum) 0);
		exit_registered = true;
	}
}

/* A new record without owners, but with room for one. */
static LocalHold *
make_record(const char *id, const LockName *name, LockMode mode)
{
	LocalHold  *local;
	bool		found;

	if (hash_get_num_entries(local_holds) >= etcd_lock_max_names_per_session)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many etcd locks in one session"),
				 errdetail("A session may hold %d.",
						   etcd_lock_max_names_per_session),
				 errhint("Release locks, or increase the configuration parameter \"%s\".",
						 "etcd_lock.max_names_per_session")));
	local = hash_search(local_holds, id, HASH_ENTER, &found);
	Assert(!found);
	local->name = *name;
	local->mode = mode;
	local->hold = NULL;
	local->token = 0;
	local->told = false;
	local->unknown = false;
	local->owners = NULL;
	local->nowners = 0;
	local->max_owners = 0;
	PG_TRY();
	{
		reserve_owner(local);
		role_budget_take(ROLE_USE_NAME);
	}
	PG_CATCH();
	{
		forget_local(local);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return local;
}

/*
 * A local record for a lock that is about to be acquired, with room for one
 * more owner.
 */
LocalHold *
lock_session_enter(const LockName *name, LockMode mode)
{
	char		id[ETCD_LOCK_MAX_KEY + 2];
	LocalHold  *local;

	prepare_records();
	if (first_epoch == 0)
		losses_before = loss_signal_losses();
	loss_signal_set_on_loss(etcd_lock_on_loss);
	make_id(id, name, mode);
	local = hash_search(local_holds, id, HASH_FIND, NULL);
	if (local == NULL)
		return make_record(id, name, mode);
	reserve_owner(local);
	return local;
}

char *
lock_session_loss_detail(const LocalHold *local)
{
	char		by[LOCK_BREAKER_TEXT];

	if (local->hold == NULL || !loss_signal_breaker(local->hold->lost_key, by))
		return psprintf(_("This session held it with token " INT64_FORMAT "; another server may have it now."),
						local->token);
	return psprintf(_("This session held it with token " INT64_FORMAT "; it was broken by %s."),
					local->token, lock_text_etcd_message(by));
}

void
lock_session_report_lost(LocalHold *local)
{
	local->told = true;
	ereport(ERROR,
			(errcode(ERRCODE_ETCD_LOCK_LOST),
			 errmsg("etcd lock \"%s\" was lost", lock_name_for_message(&local->name)),
			 errdetail_internal("%s", lock_session_loss_detail(local)),
			 lock_session_outlives_transaction(local) ?
			 errhint("Release it with %s, then acquire it again.",
					 lock_session_unlock_function(local)) :
			 errhint("Retry the transaction.")));
}

/* The user unlocks a lost lock, and learns that others may have had it. */
static void
warn_unlocked_lost(LocalHold *local)
{
	callbacks->unlocked_lost(local);
	if (!local->told)
		ereport(WARNING,
				(errcode(ERRCODE_ETCD_LOCK_LOST),
				 errmsg("etcd lock \"%s\" was lost before it was released",
						lock_name_for_message(&local->name))));
	local->told = true;
}

/* Release one count of PostgreSQL's lock for each of ours. */
static void
release_tag(LocalHold *local, int64 count, bool session)
{
	LOCKTAG		tag = local->name.tag;
	LOCKMODE	pgmode = lock_session_pgmode(local->mode);

	/*
	 * Drop our record first, so that the next session in PostgreSQL's queue
	 * does not find it.
	 */
	if (local->nowners == 0)
	{
		drop_shared(local, etcd_lock_synchronous_release);
		remove_local(local);
		local = NULL;
	}
	for (int64 i = 0; i < count; i++)
		LockRelease(&tag, pgmode, session);
	if (local != NULL && count > 0 && !lock_session_has_tag(local))
		lock_session_forget(local);
}

/*
 * Release one count of the session (owner NULL) or of the current resource
 * owner.  Returns false if it has none, as pg_advisory_unlock() does:
 * transaction locks end with the transaction.
 */
bool
lock_session_unlock_one(const LockName *name, LockMode mode, ResourceOwner owner)
{
	LocalHold  *local = lock_session_find(name, mode);

	Assert(owner == NULL || owner == CurrentResourceOwner);
	if (local != NULL && !lock_session_has_tag(local))
	{
		/* pg_advisory_unlock() has released it before us */
		lock_session_forget(local);
		local = NULL;
	}
	if (local == NULL || count_of(local, owner) == 0)
		return false;

	lock_trace_begin();
	if (lock_session_is_lost(local))
		warn_unlocked_lost(local);
	lock_session_count(local, owner, -1);
	release_tag(local, 1, owner == NULL);
	return true;
}

/* Wait, once, until others can have what was unlocked. */
void
lock_session_await_release(void)
{
	wait_for_release();
	lock_trace_say();
}

bool
lock_session_unlock(const LockName *name, LockMode mode, ResourceOwner owner)
{
	bool		unlocked = lock_session_unlock_one(name, mode, owner);

	if (unlocked)
		lock_session_await_release();
	return unlocked;
}

static void
unlock_session_counts(LocalHold *local, void *arg)
{
	int64		count = count_of(local, NULL);
	bool		has_tag = lock_session_has_tag(local);

	if (count == 0)
		return;
	if (lock_session_is_lost(local))
		warn_unlocked_lost(local);
	lock_session_count(local, NULL, -count);
	release_tag(local, has_tag ? count : 0, true);
}

void
lock_session_unlock_all(void)
{
	lock_trace_begin();
	lock_session_foreach(unlock_session_counts, NULL);
	lock_session_await_release();
}
