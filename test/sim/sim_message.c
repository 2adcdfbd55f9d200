/*-------------------------------------------------------------------------
 *
 * sim_message.c
 *	  Requests to etcd and its answers: copied, freed, and told to people.
 *
 *-------------------------------------------------------------------------
 */
#include "sim_message.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory of a request: a list of pieces, the newest first ---- */

#define PIECE_SIZE	2000

typedef struct Piece
{
	struct Piece *next;
	size_t		size;
	size_t		used;
	char		data[];
} Piece;

static void *
get(SimAsk *ask, size_t size)
{
	Piece	   *piece = ask->memory;
	size_t		needed = (size + 1 + 7) & ~(size_t) 7;

	if (piece == NULL || piece->used + needed > piece->size)
	{
		size_t		room = needed > PIECE_SIZE ? needed : PIECE_SIZE;

		piece = malloc(sizeof(Piece) + room);
		if (piece == NULL)
			abort();
		piece->size = room;
		piece->used = 0;
		piece->next = ask->memory;
		ask->memory = piece;
	}
	piece->used += needed;
	return piece->data + piece->used - needed;
}

static char *
get_bytes(SimAsk *ask, const char *bytes, size_t len)
{
	char	   *copy;

	if (bytes == NULL)
		return NULL;
	copy = get(ask, len);
	memcpy(copy, bytes, len);
	copy[len] = '\0';
	return copy;
}

static void
copy_range(SimAsk *ask, EtcdRange *range)
{
	range->key = get_bytes(ask, range->key, range->key_len);
	range->end = get_bytes(ask, range->end, range->end_len);
}

static const EtcdTxn *copy_nested(SimAsk *ask, const EtcdTxn *txn);

static void
copy_op(SimAsk *ask, EtcdOp *op)
{
	if (op->type == ETCD_OP_TXN)
	{
		op->txn = copy_nested(ask, op->txn);
		return;
	}
	copy_range(ask, &op->range);
	if (op->type == ETCD_OP_PUT)
		op->value = get_bytes(ask, op->value == NULL ? "" : op->value, op->value_len);
}

static const EtcdOp *
copy_ops(SimAsk *ask, const EtcdOp *ops, int n)
{
	EtcdOp	   *copy = get(ask, n * sizeof(EtcdOp));

	if (n > 0)
		memcpy(copy, ops, n * sizeof(EtcdOp));
	for (int i = 0; i < n; i++)
		copy_op(ask, &copy[i]);
	return copy;
}

static void
copy_txn(SimAsk *ask, EtcdTxn *txn)
{
	EtcdCompare *compare = get(ask, txn->ncompare * sizeof(EtcdCompare));

	if (txn->ncompare > 0)
		memcpy(compare, txn->compare, txn->ncompare * sizeof(EtcdCompare));
	for (int i = 0; i < txn->ncompare; i++)
		copy_range(ask, &compare[i].range);
	txn->compare = compare;
	txn->success = copy_ops(ask, txn->success, txn->nsuccess);
	txn->failure = copy_ops(ask, txn->failure, txn->nfailure);
}

static const EtcdTxn *
copy_nested(SimAsk *ask, const EtcdTxn *txn)
{
	EtcdTxn    *copy = get(ask, sizeof(EtcdTxn));

	*copy = *txn;
	copy_txn(ask, copy);
	return copy;
}

SimAsk *
sim_ask(SimMethod method)
{
	SimAsk	   *ask = calloc(1, sizeof(SimAsk));

	if (ask == NULL)
		abort();
	ask->method = method;
	ask->references = 1;
	return ask;
}

SimAsk *
sim_ask_range(const EtcdOp *op)
{
	SimAsk	   *ask = sim_ask(SIM_RANGE);

	ask->op = *op;
	copy_op(ask, &ask->op);
	return ask;
}

SimAsk *
sim_ask_txn(const EtcdTxn *txn)
{
	SimAsk	   *ask = sim_ask(SIM_TXN);

	ask->txn = *txn;
	copy_txn(ask, &ask->txn);
	return ask;
}

SimAsk *
sim_ask_watch(const EtcdRange *range, bool deletes_only, int64_t id)
{
	SimAsk	   *ask = sim_ask(SIM_WATCH_CREATE);

	ask->op.range = *range;
	copy_range(ask, &ask->op.range);
	ask->deletes_only = deletes_only;
	ask->id = id;
	return ask;
}

SimAsk *
sim_ask_login(const char *name, const char *password)
{
	SimAsk	   *ask = sim_ask(SIM_AUTHENTICATE);

	ask->name = get_bytes(ask, name, strlen(name));
	ask->password = get_bytes(ask, password, strlen(password));
	return ask;
}

SimAsk *
sim_ask_keep(SimAsk *ask)
{
	ask->references++;
	return ask;
}

void
sim_ask_free(SimAsk *ask)
{
	if (--ask->references > 0)
		return;
	while (ask->memory != NULL)
	{
		Piece	   *piece = ask->memory;

		ask->memory = piece->next;
		free(piece);
	}
	free(ask);
}

/* ---- results ---- */

static void *
zeroed(size_t n, size_t size)
{
	void	   *memory = n == 0 ? NULL : calloc(n, size);

	if (n > 0 && memory == NULL)
		abort();
	return memory;
}

static void
copy_kv(const EtcdKeyValue *from, EtcdKeyValue *to)
{
	size_t		value_len = from->value == NULL ? 0 : from->value_len;

	*to = *from;
	to->key = malloc(from->key_len + value_len + 2);
	if (to->key == NULL)
		abort();
	memcpy(to->key, from->key, from->key_len);
	to->key[from->key_len] = '\0';
	to->value = to->key + from->key_len + 1;
	if (value_len > 0)
		memcpy(to->value, from->value, value_len);
	to->value[value_len] = '\0';
	to->value_len = value_len;
}

static EtcdKeyValue *
copy_kvs(const EtcdKeyValue *from, int n)
{
	EtcdKeyValue *to = zeroed(n, sizeof(EtcdKeyValue));

	for (int i = 0; i < n; i++)
		copy_kv(&from[i], &to[i]);
	return to;
}

void
sim_copy_op(const EtcdOpResult *from, EtcdOpResult *to)
{
	*to = *from;
	to->kvs = copy_kvs(from->kvs, from->nkvs);
	to->results = zeroed(from->nresults, sizeof(EtcdOpResult));
	for (int i = 0; i < from->nresults; i++)
		sim_copy_op(&from->results[i], &to->results[i]);
}

void
sim_copy_txn(const EtcdTxnResult *from, EtcdTxnResult *to)
{
	*to = *from;
	to->results = zeroed(from->nresults, sizeof(EtcdOpResult));
	for (int i = 0; i < from->nresults; i++)
		sim_copy_op(&from->results[i], &to->results[i]);
}

/* Its keys' names stay where they are, as in a real response. */
void
sim_copy_lease(const EtcdLeaseResult *from, EtcdLeaseResult *to)
{
	*to = *from;
	to->keys = zeroed(from->nkeys, sizeof(EtcdKeyName));
	if (from->nkeys > 0)
		memcpy(to->keys, from->keys, from->nkeys * sizeof(EtcdKeyName));
}

void
sim_copy_watch(const EtcdWatchMessage *from, EtcdWatchMessage *to)
{
	*to = *from;
	to->events = zeroed(from->nevents, sizeof(EtcdEvent));
	for (int i = 0; i < from->nevents; i++)
	{
		to->events[i].type = from->events[i].type;
		copy_kv(&from->events[i].kv, &to->events[i].kv);
	}
}

static void
free_kvs(EtcdKeyValue *kvs, int n)
{
	for (int i = 0; i < n; i++)
		free(kvs[i].key);
	free(kvs);
}

static void
free_ops(EtcdOpResult *results, int n)
{
	for (int i = 0; i < n; i++)
	{
		free_kvs(results[i].kvs, results[i].nkvs);
		free_ops(results[i].results, results[i].nresults);
	}
	free(results);
}

void
sim_answer_free(SimAnswer *answer)
{
	if (answer == NULL)
		return;
	if (answer->code == ETCD_OK)
	{
		switch (answer->method)
		{
			case SIM_RANGE:
				free_kvs(answer->of.range.range.kvs, answer->of.range.range.nkvs);
				break;
			case SIM_TXN:
				free_ops(answer->of.txn.results, answer->of.txn.nresults);
				break;
			case SIM_LEASE_GRANT:
			case SIM_LEASE_KEEPALIVE:
			case SIM_LEASE_TIMETOLIVE:
				for (int i = 0; i < answer->of.lease.nkeys; i++)
					free((char *) answer->of.lease.keys[i].key);
				free(answer->of.lease.keys);
				break;
			case SIM_AUTHENTICATE:
				free(answer->of.auth.token);
				break;
			case SIM_WATCH_CREATE:
			case SIM_WATCH_CANCEL:
				for (int i = 0; i < answer->of.watch.nevents; i++)
					free(answer->of.watch.events[i].kv.key);
				free(answer->of.watch.events);
				break;
			case SIM_LEASE_REVOKE:
			case SIM_STATUS:
			case SIM_CONNECT:
				break;
		}
	}
	free(answer);
}

/* ---- for people ---- */

typedef struct Text
{
	char		data[2000];
	size_t		len;
} Text;

static Text text;

static void
say(const char *format,...)
{
	va_list		args;
	int			n;

	va_start(args, format);
	n = vsnprintf(text.data + text.len, sizeof(text.data) - text.len, format, args);
	va_end(args);
	text.len += n;
	if (text.len >= sizeof(text.data))
		text.len = sizeof(text.data) - 1;
}

static void
say_range(const EtcdRange *range)
{
	say("%.*s", (int) range->key_len, range->key);
	if (range->end != NULL)
		say("*");
}

static void say_txn(const EtcdTxn *txn);

static void
say_ops(const EtcdOp *ops, int n)
{
	for (int i = 0; i < n; i++)
	{
		switch (ops[i].type)
		{
			case ETCD_OP_RANGE:
				say(" read ");
				say_range(&ops[i].range);
				break;
			case ETCD_OP_PUT:
				say(" put ");
				say_range(&ops[i].range);
				break;
			case ETCD_OP_DELETE:
				say(" delete ");
				say_range(&ops[i].range);
				break;
			case ETCD_OP_TXN:
				say(" {");
				say_txn(ops[i].txn);
				say("}");
				break;
		}
	}
}

static void
say_txn(const EtcdTxn *txn)
{
	for (int i = 0; i < txn->ncompare; i++)
	{
		say("%s%s(", i == 0 ? "if " : " and ",
			txn->compare[i].target == ETCD_COMPARE_CREATE ? "create" : "mod");
		say_range(&txn->compare[i].range);
		say(")%c%" PRId64, "=><"[txn->compare[i].result], txn->compare[i].revision);
	}
	say_ops(txn->success, txn->nsuccess);
	if (txn->nfailure > 0)
	{
		say(" else");
		say_ops(txn->failure, txn->nfailure);
	}
}

const char *
sim_ask_text(const SimAsk *ask)
{
	static const char *const names[] = {
		"range", "txn", "grant", "revoke", "keepalive", "timetolive",
		"status", "authenticate", "watch", "unwatch", "connect"
	};

	text.len = 0;
	say("%s ", names[ask->method]);
	switch (ask->method)
	{
		case SIM_RANGE:
		case SIM_WATCH_CREATE:
			say_range(&ask->op.range);
			break;
		case SIM_TXN:
			say_txn(&ask->txn);
			break;
		default:
			if (ask->id != 0)
				say("%" PRIx64, ask->id);
			break;
	}
	return text.data;
}

static void
say_kvs(const EtcdKeyValue *kvs, int n)
{
	for (int i = 0; i < n; i++)
		say(" %.*s@%" PRId64, (int) kvs[i].key_len, kvs[i].key, kvs[i].create_revision);
}

static void
say_results(const EtcdOpResult *results, int n)
{
	for (int i = 0; i < n; i++)
	{
		switch (results[i].type)
		{
			case ETCD_OP_RANGE:
				say(" [");
				say_kvs(results[i].kvs, results[i].nkvs);
				say(" ]");
				break;
			case ETCD_OP_PUT:
				say(" put");
				break;
			case ETCD_OP_DELETE:
				say(" deleted %" PRId64, results[i].deleted);
				break;
			case ETCD_OP_TXN:
				say(results[i].succeeded ? " {yes" : " {no");
				say_results(results[i].results, results[i].nresults);
				say("}");
				break;
		}
	}
}

const char *
sim_answer_text(const SimAnswer *answer)
{
	text.len = 0;
	text.data[0] = '\0';
	if (answer->code != ETCD_OK)
	{
		say("error %d %s", answer->code, answer->error.message);
		return text.data;
	}
	switch (answer->method)
	{
		case SIM_RANGE:
			say("rev %" PRId64 " term %" PRIu64, answer->of.range.header.revision,
				answer->of.range.header.raft_term);
			say_kvs(answer->of.range.range.kvs, answer->of.range.range.nkvs);
			break;
		case SIM_TXN:
			say("rev %" PRId64 " %s", answer->of.txn.header.revision,
				answer->of.txn.succeeded ? "yes" : "no");
			say_results(answer->of.txn.results, answer->of.txn.nresults);
			break;
		case SIM_LEASE_GRANT:
		case SIM_LEASE_KEEPALIVE:
		case SIM_LEASE_TIMETOLIVE:
			say("term %" PRIu64 " ttl %" PRId64, answer->of.lease.header.raft_term,
				answer->of.lease.ttl);
			for (int i = 0; i < answer->of.lease.nkeys; i++)
				say(" %.*s", (int) answer->of.lease.keys[i].key_len,
					answer->of.lease.keys[i].key);
			break;
		case SIM_WATCH_CREATE:
		case SIM_WATCH_CANCEL:
			say("rev %" PRId64 "%s%s", answer->of.watch.header.revision,
				answer->of.watch.created ? " created" : "",
				answer->of.watch.canceled ? " canceled" : "");
			for (int i = 0; i < answer->of.watch.nevents; i++)
			{
				say(answer->of.watch.events[i].type == ETCD_EVENT_PUT ? " put" : " deleted");
				say(" %.*s@%" PRId64, (int) answer->of.watch.events[i].kv.key_len,
					answer->of.watch.events[i].kv.key, answer->of.watch.events[i].kv.mod_revision);
			}
			break;
		default:
			say("done");
			break;
	}
	return text.data;
}
