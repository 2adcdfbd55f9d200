/*-------------------------------------------------------------------------
 *
 * lock_all.c
 *	  etcd_lock_all(): several locks, in one fixed order, all or none.
 *
 * Sessions that take several locks in the same order cannot deadlock with each
 * other.  The order is that of the names' bytes in etcd, which is the same in
 * every database of every server.  If one lock cannot be acquired, those that
 * this call has acquired are released, because the end of the transaction
 * would not release session locks.
 *
 * First we try all at once, so that those that are free go to etcd in one Txn.
 * No try waits for long (for keep_window at most, if the lock is hot on another
 * server), so that needs no order.  But a session that waits for a name
 * must not have a later one: locks that were acquired after the first one that
 * is taken are released, and from there on the locks are acquired one after
 * another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "session/catch_up.h"
#include "session/lock_acquire.h"
#include "session/lock_session.h"
#include "session/lock_sql.h"
#include "shared/lock_name.h"
#include "shared/lock_table.h"
#include "storage/condition_variable.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_lock_all);
PG_FUNCTION_INFO_V1(etcd_lock_sql_xact_lock_all);

typedef struct Wanted
{
	LockName	name;
	int			place;			/* in the caller's list */
	LocalHold  *tried;			/* a try that was begun and has not ended;
								 * else NULL */
	int64		token;			/* 0: not acquired by this call, or not yet */
} Wanted;

static int
compare_names(const void *a, const void *b)
{
	const Wanted *left = a;
	const Wanted *right = b;
	int			order = strcmp(left->name.key, right->name.key);

	return order != 0 ? order : left->place - right->place;
}

/* The names in the order in which they are acquired. */
static Wanted *
read_names(ArrayType *array, int *n)
{
	Datum	   *elements;
	bool	   *nulls;
	Wanted	   *wanted;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, n);
	wanted = palloc(Max(*n, 1) * sizeof(Wanted));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("name of an etcd lock must not be null")));
		lock_name_from_text(&wanted[i].name, DatumGetTextPP(elements[i]));
		wanted[i].place = i;
		wanted[i].tried = NULL;
		wanted[i].token = 0;
	}
	qsort(wanted, *n, sizeof(Wanted), compare_names);
	return wanted;
}

/* Is it the same name as the one before it?  Such a name is locked once. */
static bool
is_repeated(const Wanted *wanted, int i)
{
	return i > 0 && strcmp(wanted[i].name.key, wanted[i - 1].name.key) == 0;
}

/* The owner of the locks: none for session locks. */
static ResourceOwner
owner_of(const LockRequest *request)
{
	return request->session ? NULL : CurrentResourceOwner;
}

/* An error is being raised; interrupts wait until everything is released. */
static void
release(Wanted *wanted, int n, const LockRequest *request)
{
	HOLD_INTERRUPTS();
	for (int i = n - 1; i >= 0; i--)
	{
		if (wanted[i].tried != NULL)
			lock_acquire_drop_try(wanted[i].tried, request);
		else if (wanted[i].token != 0 && !is_repeated(wanted, i))
			(void) lock_session_unlock_one(&wanted[i].name, LOCK_EXCLUSIVE, owner_of(request));
	}
	lock_session_await_release();
	RESUME_INTERRUPTS();
}

/* Does the session already have the lock, so that it is only counted? */
static bool
is_held(const Wanted *wanted)
{
	LocalHold  *local = lock_session_find(&wanted->name, LOCK_EXCLUSIVE);

	return local != NULL && lock_session_has_tag(local);
}

/*
 * Does the session already have a record of the name?  Acquiring it may need a
 * wait.
 */
static bool
is_known(const Wanted *wanted)
{
	return lock_session_find(&wanted->name, LOCK_EXCLUSIVE) != NULL ||
		lock_session_find(&wanted->name, LOCK_SHARED) != NULL;
}

/*
 * Try all names up to the first one that is in use here, or for which there is no
 * room, at once: the worker is woken when it can see all of them.
 */
static void
begin_tries(Wanted *wanted, int n, const LockRequest *request)
{
	bool		in_use = false;

	lock_table_gather(true);
	PG_TRY();
	{
		for (int i = 0; i < n && !in_use; i++)
		{
			if (is_repeated(wanted, i) || is_held(&wanted[i]))
				continue;
			if (!is_known(&wanted[i]))
				wanted[i].tried = lock_acquire_begin_try(&wanted[i].name, request);
			in_use = wanted[i].tried == NULL;
		}
	}
	PG_FINALLY();
	{
		lock_table_gather(false);
	}
	PG_END_TRY();
}

/* End the tries.  After the first one that fails, none is kept. */
static void
end_tries(Wanted *wanted, int n, const LockRequest *request,
		  const WaitDeadlines *deadlines)
{
	bool		all = true;

	for (int i = 0; i < n; i++)
	{
		LocalHold  *tried = wanted[i].tried;

		if (tried == NULL)
			continue;
		wanted[i].tried = NULL;
		if (!all)
			lock_acquire_drop_try(tried, request);
		else if (lock_acquire_end_try(tried, request, deadlines))
			wanted[i].token = tried->token;
		else
			all = false;
	}
	lock_session_await_release();
}

static void
acquire_all(Wanted *wanted, int n, const LockRequest *request)
{
	LockRequest try = *request;
	WaitDeadlines deadlines;

	try.is_try = true;
	if (n > 1)
	{
		wait_deadlines_begin(&deadlines, &try);
		lock_acquire_prepare_tries(&deadlines);
		begin_tries(wanted, n, &try);
		end_tries(wanted, n, &try, &deadlines);
	}
	for (int i = 0; i < n; i++)
	{
		if (is_repeated(wanted, i))
			wanted[i].token = wanted[i - 1].token;
		else if (wanted[i].token == 0)
			wanted[i].token = lock_acquire(&wanted[i].name, request);
	}
	wait_deadlines_begin(&deadlines, request);
	if (n > 0)
		catch_up_wait(&deadlines);
}

static Datum
lock_all(FunctionCallInfo fcinfo, bool session)
{
	MemoryContext context = CurrentMemoryContext;
	LockRequest request = {
		.mode = LOCK_EXCLUSIVE,.session = session,.wait = -1,.catch_up_later = true
	};
	Wanted	   *wanted;
	Datum	   *tokens;
	int			n;

	lock_sql_require_session();
	lock_sql_refuse_null(fcinfo, 0, _("name"));
	wanted = read_names(PG_GETARG_ARRAYTYPE_P(0), &n);
	tokens = palloc(Max(n, 1) * sizeof(Datum));
	if (session)
		lock_sql_check_session_lock();

	PG_TRY();
	{
		acquire_all(wanted, n, &request);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		ConditionVariableCancelSleep();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		release(wanted, n, &request);
		ReThrowError(error);
	}
	PG_END_TRY();
	for (int i = 0; i < n; i++)
		tokens[wanted[i].place] = Int64GetDatum(wanted[i].token);
	PG_RETURN_ARRAYTYPE_P(construct_array(tokens, n, INT8OID, sizeof(int64),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

Datum
etcd_lock_sql_lock_all(PG_FUNCTION_ARGS)
{
	return lock_all(fcinfo, true);
}

Datum
etcd_lock_sql_xact_lock_all(PG_FUNCTION_ARGS)
{
	return lock_all(fcinfo, false);
}
