/*-------------------------------------------------------------------------
 *
 * lock_session.c
 *	  The etcd locks of this session: what it holds, and how that ends.
 *
 * The bookkeeping follows lock.c's LOCALLOCK: a hold has a count for each
 * resource owner, and one for the session.  PostgreSQL's own lock on the tag
 * is acquired and released as often as ours, with the same owner, so both end
 * together: PostgreSQL drops its lock in the release phase LOCKS, we drop our
 * record in the phase behind it, AFTER_LOCKS.
 *
 * PostgreSQL's lock is the truth about who holds a lock within this server.
 * It may vanish behind our back (DISCARD ALL, pg_advisory_unlock_all(), for
 * an integer key pg_advisory_unlock()); the end of each transaction drops
 * holds whose tag is gone (README.md, rule 19).
 *
 *-------------------------------------------------------------------------
 */
#include "lock_session.h"

#include "access/xlog.h"
#include "loss.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/*
 * How long the end of a transaction or an unlock waits for etcd to confirm
 * that a key is gone, in milliseconds.
 */
#define RELEASE_WAIT	1000

static HTAB *local_holds = NULL;
static bool exit_registered = false;

/* Keys that this release has condemned. */
typedef struct ReleasedKeys
{
	LockReleasedKey *keys;
	int			n;
	int			max;
} ReleasedKeys;

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
 * Does PostgreSQL still say that we have the lock, by a count that is not
 * only the core's own?
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

/* ----------------------------------------------------------------
 *		Dropping
 * ----------------------------------------------------------------
 */

/*
 * Whoever gets the lock next, on whatever server, may rely on what we
 * committed: it must be on disk before the lock goes, PostgreSQL's part of it
 * included (rule 17).  With synchronous_commit on it is already, and this costs
 * nothing.
 */
void
lock_session_flush_commits(void)
{
	if (!XLogRecPtrIsInvalid(XactLastCommitEnd) && !RecoveryInProgress())
		XLogFlush(XactLastCommitEnd);
}

/* Drop the shared record, remember which keys go.  Must not throw. */
static void
drop_shared(LocalHold *local, ReleasedKeys *released)
{
	LockReleasedKey keys[LOCK_KEYS_PER_NAME];
	int			n;

	if (local->hold == NULL)
		return;
	lock_session_flush_commits();
	n = lock_table_drop(local->hold, released != NULL ? keys : NULL);
	local->hold = NULL;

	/* Those for which there is no room are not waited for. */
	for (int i = 0; released != NULL && i < n; i++)
	{
		if (released->n < released->max)
			released->keys[released->n++] = keys[i];
	}
}

static void
remove_local(LocalHold *local)
{
	if (local->owners != NULL)
		pfree(local->owners);
	hash_search(local_holds, local->id, HASH_REMOVE, NULL);
	if (!lock_session_holds_any())
		loss_unwatch();
}

/* Give up a hold that was never granted, or whose tag is gone. */
void
lock_session_forget(LocalHold *local)
{
	drop_shared(local, NULL);
	remove_local(local);
}

/*
 * Wait until etcd has confirmed that the keys are gone, so that a try on
 * another server succeeds once our caller has its answer.
 *
 * This may run after commit: it must not throw, and nothing but the confirming
 * matters any more.  Like SyncRepWaitForLSN() it gives way to a cancel or a
 * termination without acting on it (rule 24).
 */
static void
wait_for_release(ReleasedKeys *released)
{
	int64		give_up = clock_now() + RELEASE_WAIT * INT64CONST(1000);
	int			i = 0;

	while (i < released->n)
	{
		LockReleasedKey *key = &released->keys[i];
		int64		left;
		int			events;

		ResetLatch(MyLatch);
		if (pg_atomic_read_u64(&key->key->number) != key->number)
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
						   left / 1000 + 1, etcd_lock_wait_event_release());
		if (events & WL_POSTMASTER_DEATH)
			break;
	}

	/* We may have taken a wake-up that was meant for somebody else's loop. */
	if (released->n > 0)
		SetLatch(MyLatch);
}

/* ----------------------------------------------------------------
 *		Counting
 * ----------------------------------------------------------------
 */

/* Room for one more owner, before anything that cannot be undone. */
static void
reserve_owner(LocalHold *local)
{
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
	lock_table_set_counts(local->hold, (int) Min(session, PG_INT32_MAX),
						  (int) Min(xact, PG_INT32_MAX));
}

/*
 * Count for an owner.  Does not fail: the caller of lock_session_enter() has
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
	}
	local->owners[i].count += add;
	if (local->owners[i].count == 0)
		local->owners[i] = local->owners[--local->nowners];
	show_counts(local);
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

/* ----------------------------------------------------------------
 *		Ends
 * ----------------------------------------------------------------
 */

typedef struct OwnerRelease
{
	ResourceOwner owner;
	ResourceOwner parent;		/* counts go there; NULL: they end */
	bool		reconcile;		/* drop holds whose tag is gone */
	bool		wait;			/* until the keys are gone from etcd */
	ReleasedKeys released;
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
	 * One that is only being acquired has no count yet; its end is its
	 * acquirer's business, whose own subtransaction may be what ends here.
	 */
	if ((count > 0 && local->nowners == 0) ||
		(release->reconcile && local->nowners > 0 &&
		 !lock_session_has_tag(local)))
	{
		drop_shared(local, release->wait ? &release->released : NULL);
		remove_local(local);	/* dynahash allows this for the current one */
	}
}

/*
 * The end of a resource owner: of a portal, a subtransaction, a transaction.
 * Called for children first.  On commit what they hold goes to their parent.
 * Nothing may throw here: the transaction is already over.
 */
static void
release_callback(ResourceReleasePhase phase, bool is_commit,
				 bool is_top_level, void *arg)
{
	LockReleasedKey keys[64];
	OwnerRelease release;

	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !lock_session_holds_any())
		return;

	release.owner = CurrentResourceOwner;
	release.parent = NULL;
	if (is_commit && !is_top_level)
		release.parent = ResourceOwnerGetParent(CurrentResourceOwner);
	release.reconcile = is_top_level &&
		ResourceOwnerGetParent(CurrentResourceOwner) == NULL;
	release.released.keys = keys;
	release.released.n = 0;
	release.released.max = lengthof(keys);
	release.wait = is_commit && release.reconcile && etcd_lock_synchronous_release;
	lock_session_foreach(release_for_owner, &release);
	if (release.wait)
		wait_for_release(&release.released);
}

static void
drop_at_exit(LocalHold *local, void *arg)
{
	drop_shared(local, NULL);
}

/*
 * The session ends.  The transaction is over and PostgreSQL's locks are gone,
 * but MyProc is still ours.  Also reached by a FATAL error in the middle of
 * acquiring a lock, which skips PG_CATCH.
 */
static void
exit_callback(int code, Datum arg)
{
	loss_unwatch();
	lock_session_foreach(drop_at_exit, NULL);
}

void
lock_session_init(void)
{
	RegisterResourceReleaseCallback(release_callback, NULL);
}

/*
 * A local record for a lock that is about to be acquired, with room for one
 * owner more.
 */
LocalHold *
lock_session_enter(const LockName *name, LockMode mode)
{
	char		id[ETCD_LOCK_MAX_KEY + 2];
	LocalHold  *local;
	bool		found;

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

	make_id(id, name, mode);
	local = hash_search(local_holds, id, HASH_FIND, NULL);
	if (local == NULL)
	{
		if (hash_get_num_entries(local_holds) >= etcd_lock_max_names_per_session)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("too many etcd locks in one session"),
					 errdetail("A session may hold %d.",
							   etcd_lock_max_names_per_session),
					 errhint("Release locks, or increase the configuration parameter \"%s\".",
							 "etcd_lock.max_names_per_session")));
		local = hash_search(local_holds, id, HASH_ENTER, &found);
		local->name = *name;
		local->mode = mode;
		local->hold = NULL;
		local->token = 0;
		local->told = false;
		local->warned = false;
		local->owners = NULL;
		local->nowners = 0;
		local->max_owners = 0;
		PG_TRY();
		{
			reserve_owner(local);
		}
		PG_CATCH();
		{
			remove_local(local);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	else
		reserve_owner(local);
	return local;
}

/*
 * Release one count, of the session's (owner NULL) or of the current resource
 * owner's.  False when it has none, as for pg_advisory_unlock(): a lock of the
 * transaction ends with it.
 */
bool
lock_session_unlock(const LockName *name, LockMode mode, ResourceOwner owner)
{
	LocalHold  *local = lock_session_find(name, mode);
	LockReleasedKey keys[LOCK_KEYS_PER_NAME];
	ReleasedKeys released = {.keys = keys, .max = lengthof(keys)};
	LOCKMODE	pgmode = lock_session_pgmode(mode);

	Assert(owner == NULL || owner == CurrentResourceOwner);
	if (local != NULL && !lock_session_has_tag(local))
	{
		/* pg_advisory_unlock() has released it before us */
		lock_session_forget(local);
		local = NULL;
	}
	if (local == NULL || count_of(local, owner) == 0)
		return false;

	/*
	 * Our record first, so that the next one in PostgreSQL's queue does not
	 * find it.
	 */
	if (!lock_table_hold_valid(local->hold) && !local->told && !local->warned)
		ereport(WARNING,
				(errcode(ERRCODE_ETCD_LOCK_LOST),
				 errmsg("etcd lock \"%s\" was lost before it was released",
						lock_name_for_user(name->key, name->namespace_len,
										   &name->tag))));
	lock_session_count(local, owner, -1);
	if (local->nowners == 0)
	{
		drop_shared(local, etcd_lock_synchronous_release ? &released : NULL);
		remove_local(local);
		LockRelease(&name->tag, pgmode, owner == NULL);
	}
	else
	{
		LockRelease(&name->tag, pgmode, owner == NULL);
		if (!lock_session_has_tag(local))
			lock_session_forget(local);
	}

	if (etcd_lock_synchronous_release)
		wait_for_release(&released);
	return true;
}

static void
unlock_session_counts(LocalHold *local, void *arg)
{
	ReleasedKeys *released = arg;
	int64		count = count_of(local, NULL);
	LOCKTAG		tag = local->name.tag;
	LOCKMODE	pgmode = lock_session_pgmode(local->mode);
	bool		has_tag = lock_session_has_tag(local);

	if (count == 0)
		return;
	lock_session_count(local, NULL, -count);
	if (local->nowners == 0)
	{
		drop_shared(local, released);
		remove_local(local);
	}
	while (has_tag && count-- > 0)
		LockRelease(&tag, pgmode, true);
}

void
lock_session_unlock_all(void)
{
	LockReleasedKey keys[64];
	ReleasedKeys released = {.keys = keys, .max = lengthof(keys)};

	lock_session_foreach(unlock_session_counts,
						 etcd_lock_synchronous_release ? &released : NULL);
	if (etcd_lock_synchronous_release)
		wait_for_release(&released);
}
