/*-------------------------------------------------------------------------
 *
 * wait_log.c
 *	  log_lock_waits for waits that PostgreSQL's lock manager does not see.
 *
 * A session that has waited for another server for longer than
 * deadlock_timeout says so in the log, and who holds the lock, and says it
 * again when it has the lock, in the words of ProcSleep().  Who holds it is
 * what the value of the key at the head of the queue tells, or the note beside
 * it (held.c): the session asks the worker, and the worker etcd.  When there is
 * no answer within a moment, the session logs what it knows.
 *
 * The question is a flag in the hold and one in the entry, the answer a text in
 * LockProc; all under the entry's lock.
 *
 *-------------------------------------------------------------------------
 */
#include "wait_log.h"

#include "etcd_holder.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How long to wait for the answer, microseconds. */
#define ANSWER_WAIT			INT64CONST(1000000)

/* A value that is longer is none of ours; bytes, with what JSON makes of it. */
#define MAX_ANSWER			(64 * 1024)

/* ----------------------------------------------------------------
 *		Session
 * ----------------------------------------------------------------
 */

static void
ask_holder(LockHold *hold)
{
	LWLock	   *lock = lock_entry_lock(hold->entry);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	hold->wants_holder = true;
	hold->entry->holder_wanted = true;
	lock_table_push_work(hold->entry);
	lock_entry_unlock(lock);
}

/* NULL: no answer yet. */
static char *
get_holder(LockHold *hold)
{
	LWLock	   *lock = lock_entry_lock(hold->entry);
	char		text[LOCK_HOLDER_TEXT] = "";
	bool		answered;

	LWLockAcquire(lock, LW_SHARED);
	answered = !hold->wants_holder;
	if (answered)
		strlcpy(text, lock_table_proc(hold->procno)->holder, sizeof(text));
	LWLockRelease(lock);
	return answered ? lock_text_for_user(text, strlen(text)) : NULL;
}

static char *
name_of(const LocalHold *local)
{
	return lock_name_for_user(local->name.key, local->name.namespace_len,
							  &local->name.tag);
}

static void
log_waiting(const WaitLog *log, LocalHold *local, const char *detail)
{
	int64		waited = clock_now() - log->since;

	ereport(LOG,
			(errmsg("process %d still waiting for %s on etcd lock \"%s\" after %lld.%03d ms",
					MyProcPid,
					GetLockmodeName(DEFAULT_LOCKMETHOD, lock_session_pgmode(local->mode)),
					name_of(local), (long long) (waited / 1000), (int) (waited % 1000)),
			 errdetail_log("%s", detail)));
}

/* Called each time when the session looks whether it has the lock. */
void
wait_log_tick(WaitLog *log, LocalHold *local, bool draining)
{
	int64		now = clock_now();
	char	   *holder;

	if (log->since == 0)
		log->since = now;
	if (!log_lock_waits || log->logged ||
		now - log->since < (int64) DeadlockTimeout * 1000)
		return;

	if (draining)
	{
		log->logged = true;
		log_waiting(log, local,
					_("It is shared here; another server that waits for it exclusively comes first."));
		return;
	}
	if (log->asked_at == 0)
		log->asked_at = now;
	else
	{
		holder = get_holder(local->hold);
		if (holder != NULL || now - log->asked_at >= ANSWER_WAIT)
		{
			log->logged = true;
			log_waiting(log, local, holder != NULL ? holder :
						_("Etcd does not tell who holds the lock."));
			return;
		}
	}
	ask_holder(local->hold);
}

/* When to call it at the latest; clock_now(). */
int64
wait_log_next_time(const WaitLog *log)
{
	if (!log_lock_waits || log->logged || log->asked_at != 0)
		return PG_INT64_MAX;
	return log->since + (int64) DeadlockTimeout * 1000;
}

void
wait_log_granted(const WaitLog *log, LocalHold *local)
{
	int64		waited = clock_now() - log->since;

	if (!log->logged)
		return;
	ereport(LOG,
			(errmsg("process %d acquired %s on etcd lock \"%s\" after %lld.%03d ms",
					MyProcPid,
					GetLockmodeName(DEFAULT_LOCKMETHOD, lock_session_pgmode(local->mode)),
					name_of(local), (long long) (waited / 1000), (int) (waited % 1000))));
}

/* ----------------------------------------------------------------
 *		Worker
 * ----------------------------------------------------------------
 */

/* The mode of a session here that wants to know.  False: none does. */
static bool
who_asks(LockEntry *entry, LockMode *mode)
{
	dlist_iter	iter;

	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_ASKED && hold->wants_holder)
		{
			*mode = hold->mode;
			return true;
		}
	}
	return false;
}

/* The key of the note on a server's key, if it is one. */
static char *
note_on(const LockEntry *entry, int slot, const AheadKey *ahead)
{
	QueueKeyParts parts;
	char	   *ns;

	if (!queue_split_key(ahead->key, ahead->key_len, &parts) || !parts.is_server)
		return NULL;
	ns = pnstrdup(entry->key, entry->keys[slot].namespace_len);
	return worker_note_key(ns, ahead->create_revision, parts.lease, parts.number);
}

/*
 * With the entry's lock held: is there something to ask etcd for?  Not as long
 * as it is not known who is ahead; the session asks again.
 */
void
wait_log_take(WorkerName *name, HolderQuestion *question)
{
	LockEntry  *entry = name->entry;

	question->key = NULL;
	if (!entry->holder_wanted)
		return;
	entry->holder_wanted = false;
	if (name->asks_holder || !who_asks(entry, &question->mode))
		return;
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		const WorkerKey *key = &name->keys[i];
		const AheadKey *first = NULL;

		if (key->number == 0 || key->mode != question->mode || !key->waiting)
			continue;
		for (int j = 0; j < key->nahead; j++)
		{
			if (first == NULL || key->ahead[j].create_revision < first->create_revision)
				first = &key->ahead[j];
		}
		if (first == NULL)
			continue;
		question->name = pstrdup(name->name);
		question->key = pnstrdup(first->key, first->key_len);
		question->key_len = first->key_len;
		question->note = note_on(entry, i, first);
		question->nahead = key->nahead;
		name->asks_holder = true;
		return;
	}
}

/* What others have written is not to look like lines of the log. */
static void
append_printable(StringInfo buf, const char *text)
{
	for (; *text != '\0'; text++)
		appendStringInfoChar(buf, (unsigned char) *text < ' ' || *text == 0x7f ?
							 '?' : *text);
}

static void
append_quoted(StringInfo buf, const char *what, const char *text)
{
	if (text[0] == '\0')
		return;
	appendStringInfo(buf, ", %s \"", what);
	append_printable(buf, text);
	appendStringInfoChar(buf, '"');
}

static void
describe_holder(StringInfo buf, const EtcdHolder *holder)
{
	TimestampTz since = holder->since - UNIX_TO_POSTGRES;

	appendStringInfoString(buf, _("Holder of the lock: server \""));
	append_printable(buf, holder->server);
	appendStringInfoChar(buf, '"');
	append_quoted(buf, "host", holder->host);
	if (holder->has_port)
		appendStringInfo(buf, ", port %d", holder->port);
	if (holder->has_pid)
		appendStringInfo(buf, ", process %d", holder->pid);
	if (holder->has_session)
	{
		append_quoted(buf, "user", holder->user);
		append_quoted(buf, "database", holder->database);
		append_quoted(buf, "application", holder->application);
	}
	if (holder->has_since && IS_VALID_TIMESTAMP(since))
		appendStringInfo(buf, ", since %s", timestamptz_to_str(since));
	appendStringInfoChar(buf, '.');
}

/* The sentence for the log, in UTF-8; note NULL: there is none. */
static char *
describe(const HolderQuestion *question, const EtcdKeyValue *key,
		 const EtcdKeyValue *note)
{
	EtcdHolder	holder;
	StringInfoData buf;

	initStringInfo(&buf);
	if (key == NULL)
		appendStringInfoString(&buf, _("The holder of the lock has just released it."));
	else if ((note != NULL &&
			  etcd_holder_decode(note->value, note->value_len, &holder) &&
			  holder.server[0] != '\0') ||
			 (etcd_holder_decode(key->value, key->value_len, &holder) &&
			  holder.server[0] != '\0'))
		describe_holder(&buf, &holder);
	else
	{
		appendStringInfoString(&buf, _("Holder of the lock: another client of etcd, key \""));
		append_printable(&buf, key->key);
		appendStringInfo(&buf, "\", lease %llx.", (unsigned long long) key->lease);
	}
	if (question->nahead > 1)
		appendStringInfo(&buf, _(" Ahead in the queue: %d."), question->nahead);
	return buf.data;
}

/* text NULL: etcd does not tell; then the sessions log without. */
static void
answer_sessions(const HolderQuestion *question, const char *text)
{
	LWLock	   *lock;
	LockEntry  *entry = lock_table_find(question->name, LW_EXCLUSIVE, &lock);
	dlist_iter	iter;

	if (entry == NULL)
		return;
	if (entry->worker_name != NULL)
		((WorkerName *) entry->worker_name)->asks_holder = false;
	dlist_foreach(iter, &entry->owners)
	{
		LockHold   *hold = dlist_container(LockHold, link, iter.cur);

		if (text == NULL || !hold->wants_holder || hold->mode != question->mode)
			continue;
		hold->wants_holder = false;
		strlcpy(lock_table_proc(hold->procno)->holder, text, LOCK_HOLDER_TEXT);
		lock_wake_procno(hold->procno);
	}
	lock_entry_unlock(lock);
}

static void
free_question(HolderQuestion *question)
{
	pfree(question->name);
	pfree(question->key);
	if (question->note != NULL)
		pfree(question->note);
	pfree(question);
}

/* The one key that a range has found, or NULL. */
static const EtcdKeyValue *
found(const EtcdTxnResult *txn, int i)
{
	if (i >= txn->nresults || txn->results[i].type != ETCD_OP_RANGE ||
		txn->results[i].nkvs != 1)
		return NULL;
	return &txn->results[i].kvs[0];
}

static void
holder_done(void *arg, const EtcdAnswer *answer)
{
	HolderQuestion *question = arg;
	EtcdTxnResult txn;
	EtcdError	error;

	if (answer->delivered &&
		etcd_decode_txn(answer->body, answer->len, answer->http_status,
						&txn, &error))
	{
		answer_sessions(question, describe(question, found(&txn, 0), found(&txn, 1)));
		etcd_txn_result_free(&txn);
	}
	else
		answer_sessions(question, NULL);
	free_question(question);
}

/* Without any lock: sending may log. */
void
wait_log_ask_etcd(const HolderQuestion *question)
{
	static const EtcdCallbacks callbacks = {
		.done = holder_done, .max_answer = MAX_ANSWER
	};
	EtcdOp		ops[2] = {{.type = ETCD_OP_RANGE}, {.type = ETCD_OP_RANGE}};
	EtcdTxn		txn = {.success = ops, .nsuccess = 1};
	HolderQuestion *copy;

	if (question->key == NULL)
		return;
	copy = MemoryContextAlloc(TopMemoryContext, sizeof(HolderQuestion));
	*copy = *question;
	copy->name = MemoryContextStrdup(TopMemoryContext, question->name);
	copy->key = MemoryContextAlloc(TopMemoryContext, question->key_len);
	memcpy(copy->key, question->key, question->key_len);

	ops[0].range.key = copy->key;
	ops[0].range.key_len = copy->key_len;
	if (question->note != NULL)
	{
		copy->note = MemoryContextStrdup(TopMemoryContext, question->note);
		ops[1].range.key = copy->note;
		ops[1].range.key_len = strlen(copy->note);
		txn.nsuccess = 2;
	}
	if (link_call(ETCD_PATH_TXN, etcd_encode_txn(&txn),
				  etcd_lock_request_timeout, &callbacks, copy) == NULL)
	{
		answer_sessions(copy, NULL);
		free_question(copy);
	}
}
