/*-------------------------------------------------------------------------
 *
 * wait_log_worker.c
 *	  Asking etcd who holds a lock that a session waits for.
 *
 * See session/wait_log.c.  The question is a flag in the hold and one in the
 * entry, the response a text in LockProc; the lock of the entry's partition
 * protects all of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "etcd/etcd_holder.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/wait_log_worker.h"

/* A longer value is not one of ours; bytes. */
#define MAX_RESPONSE			(64 * 1024)

/*
 * Returns the mode of a session here that wants to know; false if there is
 * none.
 */
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

/*
 * Returns the key of the note on a server's key, or NULL if it is not a
 * server's.
 */
static char *
note_on(const LockEntry *entry, int slot, const AheadKey *ahead)
{
	QueueKeyParts parts;
	char	   *note;

	if (!key_layout_split(ahead->key, ahead->key_len, &parts) || !parts.is_server)
		return NULL;
	note = palloc(KEY_LAYOUT_SIZE);
	key_layout_note(note, pnstrdup(entry->key, entry->keys[slot].namespace_len),
					ahead->create_revision, parts.lease, parts.serial);
	return note;
}

/*
 * The caller holds the entry's lock.  Is there something to ask etcd?  Not as
 * long as it is unknown who is ahead; the session will ask again.
 */
void
wait_log_worker_take(WorkerName *name, HolderQuestion *question)
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
		const WorkerKey *key = name_key(name, i);
		const AheadKey *first = NULL;

		if (key == NULL || key->mode != question->mode ||
			entry->keys[i].state != KEY_QUEUED)
			continue;
		for (int j = 0; j < key->nahead; j++)
		{
			if (first == NULL || key->ahead[j].create_revision < first->create_revision)
				first = &key->ahead[j];
		}
		if (first == NULL)
			continue;
		question->name = pstrdup(name->name);
		question->key = palloc(first->key_len); /* a foreign one may have any
												 * bytes */
		memcpy(question->key, first->key, first->key_len);
		question->key_len = first->key_len;
		question->note = note_on(entry, i, first);
		question->nahead = key->nahead;
		name->asks_holder = true;
		return;
	}
}

/* Foreign text must not look like lines of the log. */
static void
append_printable(StringInfo buf, const char *bytes)
{
	for (const char *c = bytes; *c != '\0'; c++)
		appendStringInfoChar(buf, (unsigned char) *c < ' ' || *c == 0x7f ? '?' : *c);
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

/*
 * Returns the sentence for the log, in UTF-8; note is NULL if there is none.
 */
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

/* If text is NULL, etcd did not tell; then the sessions log without it. */
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

		if (text == NULL || !hold->wants_holder || hold->mode != question->mode ||
			hold->state != HOLD_ASKED)
			continue;
		hold->wants_holder = false;
		strlcpy(lock_table_proc(hold->procno)->holder, text, LOCK_HOLDER_TEXT);
		lock_table_wake(hold->procno);
	}
	lock_table_unlock(lock);
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

/* Returns the key that a range has found, or NULL. */
static const EtcdKeyValue *
found(const EtcdTxnResult *txn, int i)
{
	if (i >= txn->nresults || txn->results[i].type != ETCD_OP_RANGE ||
		txn->results[i].nkvs != 1)
		return NULL;
	return &txn->results[i].kvs[0];
}

static void
holder_done(void *arg, const EtcdResponse *response)
{
	HolderQuestion *question = arg;
	EtcdTxnResult txn;
	EtcdError	error;

	if (response->delivered &&
		etcd_response_txn(&response->reply,
						  &txn, &error))
	{
		answer_sessions(question, describe(question, found(&txn, 0), found(&txn, 1)));
		etcd_response_free_txn(&txn);
	}
	else
		answer_sessions(question, NULL);
	free_question(question);
}

/* The caller holds no lock, because sending may log. */
void
wait_log_worker_ask(const HolderQuestion *question)
{
	static const LinkCallbacks callbacks = {
		.done = holder_done,.max_message = MAX_RESPONSE
	};
	EtcdOp		ops[2] = {{.type = ETCD_OP_RANGE}, {.type = ETCD_OP_RANGE}};
	EtcdTxn		txn = {.success = ops,.nsuccess = 1};
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
	if (link_call(LINK_SIDE, etcd_request_txn(&txn),
				  etcd_lock_request_timeout, &callbacks, copy) == NULL)
	{
		answer_sessions(copy, NULL);
		free_question(copy);
	}
}
