/*-------------------------------------------------------------------------
 *
 * compare.c
 *	  The same random requests to the simulated etcd and to a real one: their
 *	  answers must agree, revision by revision, and so must what their watches
 *	  tell.
 *
 * The real one must be fresh, since revisions are compared as they are.
 *
 *	compare ENDPOINT [SEED [REQUESTS]]
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "real_etcd.h"
#include "sim_etcd.h"

#include "etcd/etcd_response.h"
#include "sim_random.h"

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

#define MAX_OPS			6
#define MAX_KEYS		14
#define NLEASES			4
#define NWATCHES		4

/* Longest that a real watch, or the end of a real lease, may take, milliseconds. */
#define TIMEOUT		60000

/* The TTL of leases that do not run out, and of the one that does, seconds. */
#define LONG_TTL		600
#define SHORT_TTL		SIM_MIN_TTL

/* By fewer requests, some kinds of answers may not come up. */
#define ENOUGH_REQUESTS	5000

static SimRandom seed;
static SimEtcd *etcd;
static int64_t request = 0;
static int64_t compacted = 0;
static bool is_full = false;

/* Answers that the same requests must have had, so that they are compared at all. */
typedef enum AnswerKind
{
	ANSWER_PAST,
	ANSWER_COMPACTED,
	ANSWER_FUTURE,
	ANSWER_NO_LEASE,
	ANSWER_NO_SPACE,
	NANSWERS
} AnswerKind;

static const char *const answer_names[NANSWERS] = {
	"of the past", "compacted", "of the future", "without the lease", "without space"
};
static int64_t answers[NANSWERS];

/* ---- texts to be compared ---- */

typedef struct Text
{
	char	   *data;
	size_t		len;
	size_t		max;
} Text;

static void
say(Text *text, const char *format,...)
{
	va_list		args;
	int			n;

	if (text->max - text->len < 4096)
	{
		text->max = text->max * 2 + 8192;
		text->data = realloc(text->data, text->max);
	}
	va_start(args, format);
	n = vsnprintf(text->data + text->len, 4096, format, args);
	va_end(args);
	text->len += n < 4096 ? n : 4095;
}

static void
say_kv(Text *text, const EtcdKeyValue *kv)
{
	say(text, " %.*s=%.*s(create %" PRId64 " mod %" PRId64 " lease %" PRId64 ")",
		(int) kv->key_len, kv->key, (int) kv->value_len, kv->value,
		kv->create_revision, kv->mod_revision, kv->lease);
}

static void
say_results(Text *text, const EtcdOpResult *results, int n)
{
	for (int i = 0; i < n; i++)
	{
		const EtcdOpResult *result = &results[i];

		switch (result->type)
		{
			case ETCD_OP_RANGE:
				say(text, " [range %" PRId64 "%s:", result->count, result->more ? " more" : "");
				for (int k = 0; k < result->nkvs; k++)
					say_kv(text, &result->kvs[k]);
				break;
			case ETCD_OP_PUT:
				say(text, " [put");
				break;
			case ETCD_OP_DELETE:
				say(text, " [deleted %" PRId64, result->deleted);
				break;
			case ETCD_OP_TXN:
				say(text, " [%s:", result->succeeded ? "succeeded" : "failed");
				say_results(text, result->results, result->nresults);
				break;
		}
		say(text, "]");
	}
}

static void
say_error(Text *text, const EtcdError *err)
{
	static const char *const messages[NANSWERS] = {
		NULL, "has been compacted", "is a future revision", "lease not found", "space exceeded"
	};

	say(text, "error %d %s", err->code, err->message);
	for (int i = 0; i < NANSWERS; i++)
		answers[i] += messages[i] != NULL && strstr(err->message, messages[i]) != NULL;
}

static void say_ops(Text *text, const EtcdOp *ops, int n);

static void
say_range(Text *text, const EtcdRange *range)
{
	say(text, "%.*s", (int) range->key_len, range->key);
	if (range->end != NULL)
		say(text, "..%.*s", range->end_len == 1 && range->end[0] == '\0' ? 3 : (int) range->end_len,
			range->end_len == 1 && range->end[0] == '\0' ? "end" : range->end);
}

static void
say_txn(Text *text, const EtcdTxn *txn)
{
	say(text, "if");
	for (int i = 0; i < txn->ncompare; i++)
	{
		say(text, " %s(", txn->compare[i].target == ETCD_COMPARE_CREATE ? "create" : "mod");
		say_range(text, &txn->compare[i].range);
		say(text, ")%c%" PRId64, "=><"[txn->compare[i].result], txn->compare[i].revision);
	}
	say(text, " then");
	say_ops(text, txn->success, txn->nsuccess);
	say(text, " else");
	say_ops(text, txn->failure, txn->nfailure);
}

static void
say_ops(Text *text, const EtcdOp *ops, int n)
{
	for (int i = 0; i < n; i++)
	{
		say(text, " [%s ", ops[i].type == ETCD_OP_RANGE ? "range" :
			ops[i].type == ETCD_OP_PUT ? "put" :
			ops[i].type == ETCD_OP_DELETE ? "delete" : "");
		if (ops[i].type == ETCD_OP_TXN)
			say_txn(text, ops[i].txn);
		else
			say_range(text, &ops[i].range);
		if (ops[i].type == ETCD_OP_PUT)
			say(text, "=%.*s lease %" PRId64, (int) ops[i].value_len, ops[i].value, ops[i].lease);
		if (ops[i].type == ETCD_OP_RANGE)
			say(text, "%s limit %" PRId64 " at %" PRId64, ops[i].keys_only ? " keys" : "",
				ops[i].limit, ops[i].revision);
		say(text, "]");
	}
}

static void
agree(const Text *asked, Text *simulated, Text *real)
{
	say(simulated, "%s", "");
	say(real, "%s", "");
	if (strcmp(simulated->data, real->data) != 0)
	{
		printf("not ok - request %" PRId64 ": %s\n# simulated: %s\n# real:      %s\n",
			   request, asked->data, simulated->data, real->data);
		exit(1);
	}
	free(simulated->data);
	free(real->data);
}

/* ---- random requests; their texts live until the next one ---- */

static char texts[64 * 1024];
static size_t used;

static char *
new_text(size_t len)
{
	char	   *text = texts + used;

	used += len;
	if (used > sizeof(texts))
		abort();
	return text;
}

static const char *
random_key(void)
{
	char	   *key = new_text(16);
	static const char *const prefixes[] = {"a/", "a/b/", "a0", "b"};

	if (sim_random_one_in(&seed, 200))
		return "";
	snprintf(key, 16, "%s%d", prefixes[sim_random_below(&seed, 4)],
			 (int) sim_random_below(&seed, MAX_KEYS / 4));
	return key;
}

static EtcdRange
random_range(bool one_key)
{
	EtcdRange	range = {0};

	range.key = random_key();
	range.key_len = strlen(range.key);
	if (one_key || sim_random_one_in(&seed, 2))
		return range;
	switch (sim_random_below(&seed, 4))
	{
		case 0:
			range.key = "a/";
			range.end = "a0";
			break;
		case 1:
			range.end = "";		/* one NUL: no end */
			range.key_len = strlen(range.key);
			range.end_len = 1;
			return range;
		default:
			range.end = random_key();
			if (*range.end == '\0')
				range.end = "c";
			break;
	}
	range.key_len = strlen(range.key);
	range.end_len = strlen(range.end);
	return range;
}

/* About now, about what has been compacted, or any since then. */
static int64_t
random_revision(void)
{
	int64_t		newest = sim_etcd_header(etcd)->revision;
	int64_t		revision;

	switch (sim_random_below(&seed, 4))
	{
		case 0:
			revision = compacted + sim_random_between(&seed, -2, 2);
			break;
		case 1:
			revision = sim_random_between(&seed, compacted, newest);
			break;
		default:
			revision = newest + sim_random_between(&seed, -3, 1);
			break;
	}
	return revision < 0 ? 0 : revision;
}

static EtcdTxn *random_txn(int depth);

static EtcdOp
random_op(int depth)
{
	EtcdOp		op = {0};
	char	   *value;

	switch (sim_random_below(&seed, depth < ETCD_MAX_TXN_DEPTH ? 10 : 8))
	{
		case 0:
		case 1:
		case 2:
			op.type = ETCD_OP_RANGE;
			op.range = random_range(false);
			op.keys_only = sim_random_one_in(&seed, 2);
			op.limit = sim_random_one_in(&seed, 3) ? sim_random_below(&seed, 4) : 0;
			op.revision = sim_random_one_in(&seed, 12) ? random_revision() : 0;
			break;
		case 3:
		case 4:
			op.type = ETCD_OP_DELETE;
			op.range = random_range(!sim_random_one_in(&seed, 3));
			break;
		case 8:
		case 9:
			op.type = ETCD_OP_TXN;
			op.txn = random_txn(depth + 1);
			break;
		default:
			op.type = ETCD_OP_PUT;
			op.range = random_range(true);
			value = new_text(16);
			snprintf(value, 16, "%d", (int) sim_random_below(&seed, 1000));
			op.value = value;
			op.value_len = sim_random_one_in(&seed, 10) ? 0 : strlen(value);
			op.lease = sim_random_one_in(&seed, 2) ? sim_random_below(&seed, NLEASES + 1) : 0;
			break;
	}
	return op;
}

static const EtcdOp *
random_ops(int depth, int *n)
{
	EtcdOp	   *ops;

	*n = sim_random_below(&seed, depth == 1 ? MAX_OPS : 3);
	used = (used + 15) & ~(size_t) 15;
	ops = (EtcdOp *) new_text(*n * sizeof(EtcdOp));
	for (int i = 0; i < *n; i++)
	{
		EtcdOp		op = random_op(depth);

		ops[i] = op;
	}
	return ops;
}

static EtcdTxn *
random_txn(int depth)
{
	EtcdTxn    *txn;
	EtcdCompare *compare;

	used = (used + 15) & ~(size_t) 15;
	txn = (EtcdTxn *) new_text(sizeof(EtcdTxn));
	memset(txn, 0, sizeof(*txn));
	txn->ncompare = sim_random_below(&seed, 3);
	compare = (EtcdCompare *) new_text(txn->ncompare * sizeof(EtcdCompare));
	for (int i = 0; i < txn->ncompare; i++)
	{
		compare[i].target = sim_random_below(&seed, 2);
		compare[i].result = sim_random_below(&seed, 3);
		compare[i].range = random_range(!sim_random_one_in(&seed, 3));
		compare[i].revision = sim_random_one_in(&seed, 2) ? 0 : random_revision();
	}
	txn->compare = compare;
	txn->success = random_ops(depth, &txn->nsuccess);
	txn->failure = random_ops(depth, &txn->nfailure);
	return txn;
}

/* ---- watches ---- */

typedef struct BothWatches
{
	SimWatch   *simulated;
	RealWatch  *real;
	Text		told_simulated;
	Text		told_real;
	bool		created;
	int64_t		events_simulated;
	int64_t		events_real;
	bool		done;
} BothWatches;

static BothWatches watches[NWATCHES];

static void
note_message(Text *text, int64_t *n, const EtcdWatchMessage *msg)
{
	for (int i = 0; i < msg->nevents; i++)
	{
		say(text, "\n# %s", msg->events[i].type == ETCD_EVENT_PUT ? "PUT" : "DELETE");
		say_kv(text, &msg->events[i].kv);
		++*n;
	}
}

static void
real_message(void *arg, const EtcdWatchMessage *msg)
{
	BothWatches *both = arg;

	both->created |= msg->created;
	note_message(&both->told_real, &both->events_real, msg);
	both->done = both->created && both->events_real >= both->events_simulated;
}

static void
open_watch(BothWatches *both)
{
	EtcdRange	range;
	bool		deletes_only = sim_random_one_in(&seed, 2);
	EtcdWatchMessage msg;

	memset(both, 0, sizeof(*both));
	do
		range = random_range(false);
	while (range.key_len == 0);
	both->real = real_etcd_watch(&range, deletes_only, real_message, both);
	real_etcd_wait(TIMEOUT, &both->done);
	both->simulated = sim_etcd_watch(etcd, &range, deletes_only, false, 0, 0);
	(void) sim_etcd_watch_next(both->simulated, sim_etcd_header(etcd)->revision, &msg);
}

static void
end_watch(BothWatches *both)
{
	static const Text asked = {"a watch", 7, 8};
	EtcdWatchMessage msg;

	while (sim_etcd_watch_next(both->simulated, sim_etcd_header(etcd)->revision, &msg))
	{
		note_message(&both->told_simulated, &both->events_simulated, &msg);
		etcd_response_free_watch(&msg);
	}
	both->done = both->events_real >= both->events_simulated;
	real_etcd_wait(TIMEOUT, &both->done);
	real_etcd_end_watch(both->real);
	sim_etcd_end_watch(both->simulated);
	agree(&asked, &both->told_simulated, &both->told_real);
}

/* ---- one request to both ---- */

static void
do_txn(void)
{
	const EtcdTxn *txn = random_txn(1);
	Text		asked = {0};
	Text		texts_of[2] = {{0}, {0}};

	say_txn(&asked, txn);
	for (int i = 0; i < 2; i++)
	{
		EtcdTxnResult result;
		EtcdError	err;

		if (i == 0 ? sim_etcd_txn(etcd, txn, &result, &err) : real_etcd_txn(txn, &result, &err))
		{
			say(&texts_of[i], "revision %" PRId64 " %s", result.header.revision,
				result.succeeded ? "succeeded" : "failed");
			say_results(&texts_of[i], result.results, result.nresults);
			etcd_response_free_txn(&result);
		}
		else
			say_error(&texts_of[i], &err);
	}
	agree(&asked, &texts_of[0], &texts_of[1]);
	free(asked.data);
}

static void
do_range(void)
{
	EtcdOp		op = random_op(ETCD_MAX_TXN_DEPTH);
	Text		asked = {0};
	Text		texts_of[2] = {{0}, {0}};

	op.type = ETCD_OP_RANGE;
	if (sim_random_one_in(&seed, 3))
		op.revision = random_revision();
	say_ops(&asked, &op, 1);
	for (int i = 0; i < 2; i++)
	{
		EtcdRangeResult result;
		EtcdError	err;

		if (i == 0 ? sim_etcd_range(etcd, &op, &result, &err) : real_etcd_range(&op, &result, &err))
		{
			answers[ANSWER_PAST] += op.revision > 0 && op.revision < result.header.revision;
			say(&texts_of[i], "revision %" PRId64, result.header.revision);
			say_results(&texts_of[i], &result.range, 1);
			etcd_response_free_range(&result);
		}
		else
			say_error(&texts_of[i], &err);
	}
	agree(&asked, &texts_of[0], &texts_of[1]);
	free(asked.data);
}

static int
compare_names(const void *a, const void *b)
{
	const EtcdKeyName *x = a;
	const EtcdKeyName *y = b;
	int			difference = memcmp(x->key, y->key, x->key_len < y->key_len ? x->key_len : y->key_len);

	return difference != 0 ? difference : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static void
say_lease(Text *text, EtcdLeaseResult *result, bool time_matters)
{
	say(text, "revision %" PRId64 " lease %" PRId64 " ttl %" PRId64,
		result->header.revision, result->id,
		time_matters || result->ttl < 0 ? result->ttl : INT64_C(1));
	if (result->nkeys > 0)
		qsort(result->keys, result->nkeys, sizeof(EtcdKeyName), compare_names);
	for (int i = 0; i < result->nkeys; i++)
		say(text, " %.*s", (int) result->keys[i].key_len, result->keys[i].key);
	etcd_response_free_lease(result);
}

static void
do_lease(void)
{
	int64_t		id = 1 + sim_random_below(&seed, NLEASES);
	int			kind = sim_random_below(&seed, 4);
	int64_t		ttl = sim_random_one_in(&seed, 20) ? ETCD_MAX_TTL + 1 : LONG_TTL;
	static const char *const names[] = {"grant", "revoke", "keepalive", "timetolive"};
	Text		asked = {0};
	Text		texts_of[2] = {{0}, {0}};

	say(&asked, "%s %" PRId64, names[kind], id);
	for (int i = 0; i < 2; i++)
	{
		Text	   *text = &texts_of[i];
		EtcdLeaseResult result;
		EtcdHeader	header;
		EtcdError	err;
		bool		ok = true;

		switch (kind)
		{
			case 0:
				ok = i == 0 ? sim_etcd_lease_grant(etcd, id, ttl, 0, &result, &err) :
					real_etcd_lease_grant(id, ttl, &result, &err);
				break;
			case 1:
				ok = i == 0 ? sim_etcd_lease_revoke(etcd, id, &header, &err) :
					real_etcd_lease_revoke(id, &header, &err);
				break;
			case 2:
				if (i == 0)
					sim_etcd_lease_keepalive(etcd, id, 0, true, &result);
				else
					ok = real_etcd_lease_keepalive(id, &result, &err);
				break;
			case 3:
				if (i == 0)
					sim_etcd_lease_timetolive(etcd, id, true, 0, &result);
				else
					ok = real_etcd_lease_timetolive(id, &result, &err);
				break;
		}
		if (!ok)
			say_error(text, &err);
		else if (kind == 1)
			say(text, "revision %" PRId64, header.revision);
		else
			say_lease(text, &result, kind != 3);
	}
	agree(&asked, &texts_of[0], &texts_of[1]);
	free(asked.data);
}

static void
do_compact(void)
{
	int64_t		revision = random_revision();
	Text		asked = {0};
	Text		texts_of[2] = {{0}, {0}};

	say(&asked, "compact %" PRId64, revision);

	/* A watch that has yet to be told would be cancelled. */
	for (int i = 0; i < NWATCHES; i++)
	{
		end_watch(&watches[i]);
		open_watch(&watches[i]);
	}
	for (int i = 0; i < 2; i++)
	{
		EtcdError	err;

		if (i == 0 ? sim_etcd_compact(etcd, revision, &err) : real_etcd_compact(revision, &err))
		{
			say(&texts_of[i], "done");
			compacted = revision;
		}
		else
			say_error(&texts_of[i], &err);
	}
	agree(&asked, &texts_of[0], &texts_of[1]);
	free(asked.data);
}

/* As if the database had become too large, or is no longer. */
static void
do_alarm(void)
{
	is_full = !is_full;
	sim_etcd_set_nospace(etcd, is_full);
	real_etcd_alarm_nospace(is_full);
}

/* What is there, and of which revision. */
static void
compare_all(const char *when)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE};
	Text		asked = {0};
	Text		texts_of[2] = {{0}, {0}};

	op.range.key = op.range.end = "";
	op.range.key_len = op.range.end_len = 1;
	say(&asked, "all keys %s", when);
	for (int i = 0; i < 2; i++)
	{
		EtcdRangeResult result;
		EtcdError	err;

		if (i == 0 ? sim_etcd_range(etcd, &op, &result, &err) : real_etcd_range(&op, &result, &err))
		{
			say(&texts_of[i], "revision %" PRId64, result.header.revision);
			say_results(&texts_of[i], &result.range, 1);
			etcd_response_free_range(&result);
		}
		else
			say_error(&texts_of[i], &err);
	}
	agree(&asked, &texts_of[0], &texts_of[1]);
	free(asked.data);
}

/* False: it was gone before the real one had the keys. */
static bool
put_on_lease(int64_t id)
{
	static const char *const keys[] = {"a/b/9", "a/0", "b9"};
	EtcdOp		puts[lengthof(keys)];
	EtcdTxn		txn = {.success = puts,.nsuccess = lengthof(keys)};
	EtcdLeaseResult granted;
	EtcdTxnResult result;
	EtcdHeader	header;
	EtcdError	err;

	memset(puts, 0, sizeof(puts));
	for (int i = 0; i < (int) lengthof(keys); i++)
	{
		puts[i].type = ETCD_OP_PUT;
		puts[i].range.key = keys[i];
		puts[i].range.key_len = strlen(keys[i]);
		puts[i].value = "";
		puts[i].lease = id;
	}
	if (!sim_etcd_lease_grant(etcd, id, SHORT_TTL, 0, &granted, &err) ||
		!real_etcd_lease_grant(id, SHORT_TTL, &granted, &err))
	{
		printf("not ok - a lease: %s\n", err.message);
		exit(1);
	}
	if (!real_etcd_txn(&txn, &result, &err))
	{
		(void) sim_etcd_lease_revoke(etcd, id, &header, &err);
		return false;
	}
	etcd_response_free_txn(&result);
	if (sim_etcd_txn(etcd, &txn, &result, &err))
		etcd_response_free_txn(&result);
	return true;
}

/* Its keys go in one revision, those of other leases stay. */
static void
let_lease_run_out(void)
{
	static const bool never = false;
	int64_t		id = NLEASES + 1;
	int64_t		ttl = 0;

	while (!put_on_lease(id))
		id++;
	compare_all("before a lease has run out");
	for (int waited = 0; ttl >= 0 && waited < TIMEOUT; waited += 100)
	{
		EtcdLeaseResult result;
		EtcdError	err;

		real_etcd_wait(100, &never);
		ttl = -1;
		if (real_etcd_lease_timetolive(id, &result, &err))
		{
			ttl = result.ttl;
			etcd_response_free_lease(&result);
		}
	}
	sim_etcd_expire(etcd, (SHORT_TTL + 1) * INT64_C(1000000));
	compare_all("after a lease has run out");
}

static void
check_answers(void)
{
	for (int i = 0; i < NANSWERS; i++)
	{
		if (answers[i] == 0)
		{
			printf("not ok - no answer %s was compared\n", answer_names[i]);
			exit(1);
		}
	}
}

static void
one_request(int64_t *events)
{
	int64_t		kind = sim_random_below(&seed, 1000);

	used = 0;
	if (sim_random_one_in(&seed, is_full ? 50 : 500))
		do_alarm();
	if (kind < 600)
		do_txn();
	else if (kind < 800)
		do_range();
	else if (kind < 985)
		do_lease();
	else if (kind < 988)
		do_compact();
	else
	{
		BothWatches *both = &watches[sim_random_below(&seed, NWATCHES)];

		end_watch(both);
		*events += both->events_simulated;
		open_watch(both);
	}
}

int
main(int argc, char **argv)
{
	int64_t		requests = argc > 3 ? atoll(argv[3]) : 20000;
	int64_t		events = 0;

	if (argc < 2)
	{
		fprintf(stderr, "usage: compare ENDPOINT [SEED [REQUESTS]]\n");
		return 2;
	}
	seed.state = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	etcd = sim_etcd_create();
	real_etcd_connect(argv[1]);
	for (int i = 0; i < NWATCHES; i++)
		open_watch(&watches[i]);
	for (request = 1; request <= requests; request++)
		one_request(&events);
	if (is_full)
		do_alarm();
	let_lease_run_out();
	for (int i = 0; i < NWATCHES; i++)
		end_watch(&watches[i]);
	if (requests >= ENOUGH_REQUESTS)
		check_answers();
	printf("ok - %" PRId64 " requests by seed %s have the same answers, revision %" PRId64
		   "; %" PRId64 " events\n",
		   requests, argc > 2 ? argv[2] : "1", sim_etcd_header(etcd)->revision, events);
	sim_etcd_free(etcd);
	return 0;
}
