/*-------------------------------------------------------------------------
 *
 * break.c
 *	  Taking a lock away from whoever holds it, on whatever server.
 *
 * etcd_lock_break() names a lock and a token.
 *
 * If a session of this server holds the lock with that token, it loses it in the
 * shared table, in the step that looks at the token, and the key goes the way of
 * all keys that nobody needs.
 *
 * Else the token's upper part is the create_revision of the key that stands for
 * the lock in etcd, be it another server's or a foreign client's; that key is
 * looked for and deleted, fenced by its create_revision.  (Who of another
 * server's sessions has the lock, etcd does not know for sure, so the rest of
 * the token is not looked at.)  In the same Txn a message is put below that
 * server's sentinel, which it watches: so it tells the holder at once, and knows
 * who did it.  The message hangs on its lease and is deleted by it.
 *
 * It is a rare request, so there is one place for it in shared memory, which
 * sessions take in turn.  BreakShared.mutex protects all of it.
 *
 *-------------------------------------------------------------------------
 */
#include "break.h"

#include "commands/dbcommands.h"
#include "lock_session.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_break);

typedef enum BreakState
{
	BREAK_FREE,
	BREAK_ASKED,
	BREAK_SENT,
	BREAK_DONE
} BreakState;

typedef struct BreakShared
{
	slock_t		mutex;
	ConditionVariable changed;
	BreakState	state;
	uint64		id;				/* of the request; who gave up has another */
	char		key[ETCD_LOCK_MAX_KEY + 1];
	int64		create_revision;
	int			procno;			/* of who asks, */
	int			pid;
	bool		broken;
	LockFailure failure;
} BreakShared;

static BreakShared *break_shared;

Size
break_shmem_size(void)
{
	return MAXALIGN(sizeof(BreakShared));
}

void
break_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	break_shared = ShmemInitStruct("etcd_lock break", sizeof(BreakShared), &found);
	if (!found)
	{
		memset(break_shared, 0, sizeof(BreakShared));
		SpinLockInit(&break_shared->mutex);
		ConditionVariableInit(&break_shared->changed);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

#define MESSAGE_PART	"/broken/"

static uint64 current_id;
static char current_key[ETCD_LOCK_MAX_KEY + 1];
static int64 current_revision;
static int	current_procno;
static int	current_pid;
static char *broken_key = NULL; /* the key that is to be deleted */
static size_t broken_key_len;
static int64 broken_lease;
static bool with_message;

/* Is the answer about the request that is under way now? */
static bool
is_current(void *arg)
{
	return (uint64) (uintptr_t) arg == current_id;
}

static void
finish(bool broken, int sqlerrcode, const char *error)
{
	SpinLockAcquire(&break_shared->mutex);
	if (break_shared->id == current_id && break_shared->state == BREAK_SENT)
	{
		break_shared->state = BREAK_DONE;
		break_shared->broken = broken;
		break_shared->failure.kind = error == NULL ? FAILURE_NONE : FAILURE_ERROR;
		break_shared->failure.sqlerrcode = sqlerrcode;
		strlcpy(break_shared->failure.message, error == NULL ? "" : error,
				LOCK_FAILURE_SIZE);
	}
	SpinLockRelease(&break_shared->mutex);
	ConditionVariableBroadcast(&break_shared->changed);
}

static bool
answered(const EtcdAnswer *answer, bool decoded, const EtcdError *error)
{
	if (!answer->delivered)
		finish(false, ERRCODE_CONNECTION_FAILURE, answer->error);
	else if (!decoded)
		finish(false, ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, error->message);
	return answer->delivered && decoded;
}

static void delete_key(void);

static void
delete_done(void *arg, const EtcdAnswer *answer)
{
	EtcdTxnResult result;
	EtcdError	error;
	bool		decoded;

	decoded = answer->delivered &&
		etcd_decode_txn(answer->body, answer->len, answer->http_status,
						&result, &error);
	if (!is_current(arg))
		 /* given up */ ;
	else if (answer->delivered && !decoded && with_message &&
			 (error.code == ETCD_PERMISSION_DENIED || error.code == ETCD_NOT_FOUND))
	{
		/* We may not write there, or the lease is gone: then without it. */
		with_message = false;
		delete_key();
	}
	else if (answered(answer, decoded, &error))
		finish(result.succeeded, 0, NULL);
	if (decoded)
		etcd_txn_result_free(&result);
}

static void
send(const char *path, char *body, void (*done) (void *, const EtcdAnswer *))
{
	EtcdCallbacks callbacks = {NULL, done};

	if (body == NULL ||
		link_call(path, body, etcd_lock_request_timeout, &callbacks,
				  (void *) (uintptr_t) current_id) == NULL)
		finish(false, ERRCODE_CONNECTION_FAILURE, "could not send the request");
}

/* <sentinel>/broken/<name>/<lease>-<number> */
static char *
message_key(const QueueKeyParts *parts)
{
	return psprintf("%s%sserver/%llx" MESSAGE_PART "%s/%llx-%012llu",
					etcd_lock_namespace, ETCD_LOCK_RESERVED,
					(unsigned long long) parts->lease, current_key,
					(unsigned long long) parts->lease,
					(unsigned long long) parts->number);
}

static void
delete_key(void)
{
	EtcdOp		ops[2] = {{.type = ETCD_OP_DELETE}, {.type = ETCD_OP_PUT}};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_EQUAL,
		.revision = current_revision
	};
	EtcdTxn		txn = {&compare, 1, ops, 1, NULL, 0};
	QueueKeyParts parts;

	ops[0].range.key = broken_key;
	ops[0].range.key_len = broken_key_len;
	compare.range = ops[0].range;
	with_message = with_message && broken_lease != 0 &&
		queue_split_key(broken_key, broken_key_len, &parts) && parts.is_server;
	if (with_message)
	{
		ops[1].range.key = message_key(&parts);
		ops[1].range.key_len = strlen(ops[1].range.key);
		ops[1].value = worker_describe(&lock_table_proc(current_procno)->who,
									   current_pid, GetCurrentTimestamp());
		ops[1].value_len = strlen(ops[1].value);
		ops[1].lease = broken_lease;
		txn.nsuccess = 2;
	}
	send(ETCD_PATH_TXN, etcd_encode_txn(&txn), delete_done);
}

static void
range_done(void *arg, const EtcdAnswer *answer)
{
	EtcdRangeResult result;
	EtcdError	error;
	QueueView	view = {.name = current_key, .name_len = strlen(current_key), .owner = ""};
	bool		found = false;
	bool		decoded;

	decoded = answer->delivered &&
		etcd_decode_range(answer->body, answer->len, answer->http_status,
						  &result, &error);
	if (!is_current(arg) || !answered(answer, decoded, &error))
	{
		if (decoded)
			etcd_range_result_free(&result);
		return;
	}
	for (int i = 0; i < result.range.nkvs && !found; i++)
	{
		const EtcdKeyValue *kv = &result.range.kvs[i];

		found = kv->create_revision == current_revision &&
			queue_key_kind(&view, kv->key, kv->key_len) != QUEUE_KEY_OTHER;
		if (found)
		{
			if (broken_key != NULL)
				pfree(broken_key);
			broken_key = MemoryContextAlloc(TopMemoryContext, kv->key_len);
			memcpy(broken_key, kv->key, kv->key_len);
			broken_key_len = kv->key_len;
			broken_lease = kv->lease;
			with_message = true;
			delete_key();
		}
	}
	if (!found)
		finish(false, 0, NULL);
	etcd_range_result_free(&result);
}

void
break_tick(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE, .keys_only = true};
	char		prefix[ETCD_LOCK_MAX_KEY + 2];
	char		end[ETCD_LOCK_MAX_KEY + 2];
	bool		asked;

	if (break_shared->state != BREAK_ASKED)
		return;					/* seen again when the latch is set */
	SpinLockAcquire(&break_shared->mutex);
	asked = break_shared->state == BREAK_ASKED;
	if (asked)
	{
		break_shared->state = BREAK_SENT;
		current_id = break_shared->id;
		current_revision = break_shared->create_revision;
		current_procno = break_shared->procno;
		current_pid = break_shared->pid;
		memcpy(current_key, break_shared->key, sizeof(current_key));
	}
	SpinLockRelease(&break_shared->mutex);
	if (!asked)
		return;

	op.range.key_len = snprintf(prefix, sizeof(prefix), "%s/", current_key);
	op.range.key = prefix;
	op.range.end_len = snprintf(end, sizeof(end), "%s%c", current_key, '/' + 1);
	op.range.end = end;
	send(ETCD_PATH_RANGE, etcd_encode_range(&op), range_done);
}

/* ----------------------------------------------------------------
 *		Worker: when it is our lock
 * ----------------------------------------------------------------
 */

bool
break_is_message(const char *key, size_t key_len)
{
	size_t		len = strlen(lock_shared->sentinel_key);

	return strlen(key) == key_len && strncmp(key, lock_shared->sentinel_key, len) == 0 &&
		strncmp(key + len, MESSAGE_PART, strlen(MESSAGE_PART)) == 0;
}

/* by is NULL when nothing can be read of who did it. */
void
break_log_message(const char *key, const EtcdHolder *by)
{
	char	   *name = pstrdup(key + strlen(lock_shared->sentinel_key) +
							   strlen(MESSAGE_PART));
	char	   *last = strrchr(name, '/');
	EtcdHolder	shown;

	if (last == NULL)
		return;
	*last = '\0';
	etcd_printable(name);
	if (by == NULL)
	{
		ereport(LOG,
				(errmsg("etcd_lock: lock \"%s\" was broken by another server",
						name)));
		return;
	}
	shown = *by;
	etcd_printable(shown.user);
	etcd_printable(shown.server);
	etcd_printable(shown.database);
	ereport(LOG,
			(errmsg("etcd_lock: lock \"%s\" was broken by user \"%s\" on server \"%s\" (process %d, database \"%s\")",
					name, shown.user, shown.server, shown.pid, shown.database)));
}

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

/* Take the place, unless somebody has it. */
static bool
try_to_ask(const LockName *name, int64 create_revision, uint64 *id)
{
	bool		taken;

	SpinLockAcquire(&break_shared->mutex);
	taken = break_shared->state == BREAK_FREE;
	if (taken)
	{
		*id = ++break_shared->id;
		break_shared->state = BREAK_ASKED;
		break_shared->create_revision = create_revision;
		break_shared->procno = compat_my_procno();
		break_shared->pid = MyProcPid;
		memcpy(break_shared->key, name->key, sizeof(break_shared->key));
	}
	SpinLockRelease(&break_shared->mutex);
	return taken;
}

/* Give the place back, whatever the worker is doing about our request. */
static void
let_go(uint64 id)
{
	SpinLockAcquire(&break_shared->mutex);
	if (break_shared->id == id)
		break_shared->state = BREAK_FREE;
	SpinLockRelease(&break_shared->mutex);
	ConditionVariableBroadcast(&break_shared->changed);
}

static bool
is_done(uint64 id, bool *broken, LockFailure *failure)
{
	bool		done;

	SpinLockAcquire(&break_shared->mutex);
	done = break_shared->id == id && break_shared->state == BREAK_DONE;
	if (done)
	{
		*broken = break_shared->broken;
		*failure = break_shared->failure;
	}
	SpinLockRelease(&break_shared->mutex);
	return done;
}

/*
 * Wait until it is done.  The worker bounds each of the two requests it takes;
 * the rest is for one that does not answer.
 */
static bool
wait_for_break(uint64 id, int64 give_up_at)
{
	LockFailure failure;
	bool		broken;

	ConditionVariablePrepareToSleep(&break_shared->changed);
	while (!is_done(id, &broken, &failure))
	{
		if (clock_now() >= give_up_at)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("etcd did not answer in time"),
					 errhint("Whether the lock was broken is not known; look at its queue.")));
		(void) ConditionVariableTimedSleep(&break_shared->changed, 100,
										   etcd_lock_wait_event_check());
	}
	ConditionVariableCancelSleep();
	if (failure.kind != FAILURE_NONE)
		ereport(ERROR,
				(errcode(failure.sqlerrcode),
				 errmsg("could not break the lock"),
				 errdetail("%s", lock_text_for_user(failure.message, strlen(failure.message)))));
	return broken;
}

/* An end of the session gives the place back, too. */
static void
let_go_at_exit(int code, Datum arg)
{
	let_go(DatumGetUInt64(arg));
}

/* Ask the worker to delete the key in etcd. */
static bool
break_in_etcd(const LockName *name, int64 create_revision)
{
	int64		give_up_at = clock_now() + 2 * (int64) etcd_lock_request_timeout * 1000;
	bool		broken = false;
	uint64		id;

	ConditionVariablePrepareToSleep(&break_shared->changed);
	while (!try_to_ask(name, create_revision, &id))
	{
		if (clock_now() >= give_up_at)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("another session is breaking a lock")));
		(void) ConditionVariableTimedSleep(&break_shared->changed, 100,
										   etcd_lock_wait_event_check());
	}
	ConditionVariableCancelSleep();

	PG_ENSURE_ERROR_CLEANUP(let_go_at_exit, UInt64GetDatum(id));
	{
		lock_table_wake_worker();
		broken = wait_for_break(id, give_up_at);
	}
	PG_END_ENSURE_ERROR_CLEANUP(let_go_at_exit, UInt64GetDatum(id));
	let_go(id);
	return broken;
}

/*
 * A lock of this server's is broken already; wait until others can have it.
 */
static void
wait_for_deletion(const LockReleasedKey *released)
{
	int64		give_up_at = clock_now() + (int64) etcd_lock_request_timeout * 1000;

	for (;;)
	{
		ResetLatch(MyLatch);
		if (pg_atomic_read_u64(&released->key->number) != released->number)
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
						 100, etcd_lock_wait_event_release());
	}
}

Datum
etcd_lock_sql_break(PG_FUNCTION_ARGS)
{
	LockName	name;
	int64		token = PG_GETARG_INT64(1);
	LockReleasedKey released;
	LockBreakResult result;
	bool		broken;

	lock_require_preload();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to break an etcd lock")));
	lock_name_from_shown(&name, PG_GETARG_TEXT_PP(0));
	lock_describe_session();

	result = lock_table_break(name.key, token, &released);
	broken = result == LOCK_BREAK_DONE ||
		(result == LOCK_BREAK_ELSEWHERE &&
		 break_in_etcd(&name, token >> TOKEN_PASS_BITS));
	if (broken)
		ereport(LOG,
				(errmsg("etcd_lock: lock \"%s\" with token " INT64_FORMAT " was broken by user \"%s\" (process %d, database \"%s\")",
						name.key, token, GetUserNameFromId(GetUserId(), true),
						MyProcPid, get_database_name(MyDatabaseId))));
	if (result == LOCK_BREAK_DONE)
		wait_for_deletion(&released);
	PG_RETURN_BOOL(broken);
}
