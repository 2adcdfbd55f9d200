/*-------------------------------------------------------------------------
 *
 * break.c
 *	  Taking a lock away from its holder, on any server.
 *
 * etcd_lock_break() names a lock and a token.
 *
 * If a session of this server holds the lock with that token, it loses it in
 * the shared table, in the same step that checks the token, and the key is
 * marked deleting like any key that no session needs.
 *
 * Otherwise the token's upper part is the create_revision of the key that
 * stands for the lock in etcd, of another server or a foreign client; the
 * worker looks for that key and deletes it, fenced by its create_revision, and
 * an older one of the same server if its sharers' tokens name that key, too.
 * (Etcd does not know for sure which of another server's sessions has the
 * lock, so we ignore the rest of the token.)  The same Txn puts a message
 * below that server's sentinel, which it watches: so it tells the holder at
 * once, and knows who broke the lock.  The message is attached to that
 * server's lease, and that server deletes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "session/lock_session.h"
#include "session/lock_sql.h"
#include "shared/clock.h"
#include "shared/compat.h"
#include "shared/lock_holds.h"
#include "shared/lock_keys.h"
#include "shared/lock_name.h"
#include "shared/lock_table.h"
#include "shared/lock_text.h"
#include "shared/request_slot.h"
#include "shared/settings.h"
#include "shared/wait_events.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_break);

/*
 * Ask the worker to delete the key in etcd.  The worker limits the time of
 * each of the requests, of which it sends six at most as a rule.
 */
static bool
break_in_etcd(const LockName *name, int64 token)
{
	BreakRequest request = {
		.token = token,.procno = compat_my_procno(),.pid = MyProcPid
	};
	int			broken = false;
	LockFailure failure;

	memcpy(request.key, name->key, sizeof(request.key));
	switch (request_slot_run(REQUEST_BREAK, &request, 6 * etcd_lock_request_timeout,
							 &broken, &failure))
	{
		case REQUEST_SLOT_DONE:
			break;
		case REQUEST_SLOT_FAILED:
			ereport(ERROR,
					(errcode(failure.sqlerrcode),
					 errmsg("could not break the lock"),
					 errdetail("%s", lock_text_etcd_message(failure.message))));
			break;
		case REQUEST_SLOT_NO_TURN:
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("another session is breaking a lock")));
			break;
		case REQUEST_SLOT_NO_RESPONSE:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("etcd did not respond in time"),
					 errhint("It is not known whether the lock was broken; look at its queue.")));
			break;
	}
	return broken;
}

/*
 * The lock of this server is broken already; wait until others can have it.
 */
static void
wait_for_deletion(const LockReleasedKey *released)
{
	int64		give_up_at = clock_now() + (int64) etcd_lock_request_timeout * 1000;

	for (;;)
	{
		ResetLatch(MyLatch);
		if (pg_atomic_read_u64(&released->key->key_id) != released->key_id)
			return;
		CHECK_FOR_INTERRUPTS();
		if (clock_now() >= give_up_at)
		{
			ereport(WARNING,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("etcd has not yet confirmed that the lock is free")));
			return;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100, wait_events_release());
	}
}

Datum
etcd_lock_sql_break(PG_FUNCTION_ARGS)
{
	LockName	name;
	int64		token;
	LockReleasedKey released;
	LockBreakResult result;
	bool		broken;
	char		by[LOCK_BREAKER_TEXT];

	lock_sql_require_session();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to break an etcd lock")));
	lock_sql_refuse_null(fcinfo, 0, _("name"));
	lock_sql_refuse_null(fcinfo, 1, _("token"));
	lock_name_from_shown(&name, PG_GETARG_TEXT_PP(0));
	token = PG_GETARG_INT64(1);
	lock_session_describe();

	snprintf(by, sizeof(by), "user \"%s\" on this server (process %d)",
			 lock_table_proc(compat_my_procno())->who.username, MyProcPid);
	result = lock_hold_break(name.key, token, by, &released);
	broken = result == LOCK_BREAK_DONE ||
		(result == LOCK_BREAK_ELSEWHERE &&
		 break_in_etcd(&name, token));
	if (broken)
		ereport(LOG,
				(errmsg("etcd_lock: lock \"%s\" with token " INT64_FORMAT " was broken by user \"%s\" (process %d, database \"%s\")",
						lock_name_for_message(&name), token, GetUserNameFromId(GetUserId(), true),
						MyProcPid, get_database_name(MyDatabaseId))));
	if (result == LOCK_BREAK_DONE)
		wait_for_deletion(&released);
	PG_RETURN_BOOL(broken);
}
