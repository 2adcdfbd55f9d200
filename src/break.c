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
 *-------------------------------------------------------------------------
 */
#include "break.h"

#include "commands/dbcommands.h"
#include "errand.h"
#include "lock_session.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_break);

typedef struct BreakRequest
{
	char		key[ETCD_LOCK_MAX_KEY + 1];
	int64		create_revision;
	int			procno;			/* of who asks, */
	int			pid;
} BreakRequest;

static Errand *break_errand;

Size
break_shmem_size(void)
{
	return errand_shmem_size(sizeof(BreakRequest));
}

void
break_shmem_init(void)
{
	break_errand = errand_shmem_init("etcd_lock break", sizeof(BreakRequest));
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

#define MESSAGE_PART	"/broken/"

static BreakRequest current;
static uint64 current_id;
static char *broken_key = NULL; /* the key that is to be deleted */
static size_t broken_key_len;
static int64 broken_lease;
static bool with_message;
static int64 floor_revision;	/* highest known when the Txn was sent, */
static uint64 epoch;			/* and the epoch */

/* Is the answer about the request that is under way now? */
static bool
is_current(void *arg)
{
	return (uint64) (uintptr_t) arg == current_id;
}

static void
finish(bool broken)
{
	errand_done(break_errand, current_id, broken);
}

static void
fail(int sqlerrcode, const char *error)
{
	errand_failed(break_errand, current_id, sqlerrcode, error);
}

static bool
answered(const EtcdAnswer *answer, bool decoded, const EtcdError *error)
{
	if (!answer->delivered)
		fail(ERRCODE_CONNECTION_FAILURE, answer->error);
	else if (!decoded)
		fail(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, error->message);
	return answer->delivered && decoded;
}

static void delete_key(void);

/* Is it the answer to our Txn?  What has deleted something is newer. */
static bool
delete_fits(const EtcdTxnResult *result)
{
	if (result->succeeded)
		return result->nresults == (with_message ? 2 : 1) &&
			result->results[0].type == ETCD_OP_DELETE &&
			result->header.revision > floor_revision;
	return result->nresults == 0 && result->header.revision >= floor_revision;
}

static void
delete_done(void *arg, const EtcdAnswer *answer)
{
	EtcdTxnResult result;
	EtcdError	error = {0};
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
	{
		if (!delete_fits(&result))
			fail(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
				 "etcd's answer is not one to the request");
		else
		{
			if (epoch == deadline_epoch(&lock_shared->deadline))
				lease_saw_header(&result.header);
			finish(result.succeeded);
		}
	}
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
		fail(ERRCODE_CONNECTION_FAILURE, "could not send the request");
}

/* <sentinel>/broken/<name>/<lease>-<number> */
static char *
message_key(const QueueKeyParts *parts)
{
	return psprintf("%s%sserver/%llx" MESSAGE_PART "%s/%llx-%012llu",
					etcd_lock_namespace, ETCD_LOCK_RESERVED,
					(unsigned long long) parts->lease, current.key,
					(unsigned long long) parts->lease,
					(unsigned long long) parts->number);
}

static void
delete_key(void)
{
	EtcdOp		ops[2] = {{.type = ETCD_OP_DELETE}, {.type = ETCD_OP_PUT}};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_EQUAL,
		.revision = current.create_revision
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
		ops[1].value = worker_describe(&lock_table_proc(current.procno)->who,
									   current.pid, GetCurrentTimestamp());
		ops[1].value_len = strlen(ops[1].value);
		ops[1].lease = broken_lease;
		txn.nsuccess = 2;
	}
	floor_revision = lock_shared->highest_revision;
	epoch = deadline_epoch(&lock_shared->deadline);
	send(ETCD_PATH_TXN, etcd_encode_txn(&txn), delete_done);
}

static void
range_done(void *arg, const EtcdAnswer *answer)
{
	EtcdRangeResult result;
	EtcdError	error = {0};
	QueueView	view = {.name = current.key, .name_len = strlen(current.key), .owner = ""};
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

		found = kv->create_revision == current.create_revision &&
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
		finish(false);
	etcd_range_result_free(&result);
}

void
break_tick(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE, .keys_only = true};
	char		prefix[ETCD_LOCK_MAX_KEY + 2];
	char		end[ETCD_LOCK_MAX_KEY + 2];
	uint64		id = errand_take(break_errand, &current);

	if (id == 0)
		return;
	current_id = id;

	op.range.key_len = snprintf(prefix, sizeof(prefix), "%s/", current.key);
	op.range.key = prefix;
	op.range.end_len = snprintf(end, sizeof(end), "%s%c", current.key, '/' + 1);
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

/*
 * Ask the worker to delete the key in etcd.  It bounds each of the two requests
 * that it takes.
 */
static bool
break_in_etcd(const LockName *name, int64 create_revision)
{
	BreakRequest request = {
		.create_revision = create_revision, .procno = compat_my_procno(), .pid = MyProcPid
	};
	int			broken = false;
	LockFailure failure;

	memcpy(request.key, name->key, sizeof(request.key));
	switch (errand_run(break_errand, &request, 2 * etcd_lock_request_timeout,
					   &broken, &failure))
	{
		case ERRAND_DONE:
			break;
		case ERRAND_FAILED:
			ereport(ERROR,
					(errcode(failure.sqlerrcode),
					 errmsg("could not break the lock"),
					 errdetail("%s", lock_text_for_user(failure.message, strlen(failure.message)))));
			break;
		case ERRAND_NO_TURN:
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("another session is breaking a lock")));
			break;
		case ERRAND_NO_ANSWER:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("etcd did not answer in time"),
					 errhint("Whether the lock was broken is not known; look at its queue.")));
			break;
	}
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
