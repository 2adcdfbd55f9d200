/*-------------------------------------------------------------------------
 *
 * lease.c
 *	  The server's lease: granted, kept alive, believed, given back.
 *
 * One lease for the server; all its keys hang on it.  Its id is ours to
 * choose:
 *
 *		base (random, chosen by the postmaster once)	39 bits
 *		how often shared memory was made anew			12 bits
 *		epoch of the deadline							12 bits
 *
 * so that a new worker knows the leases that went before by their base, and
 * revokes them: after a crash of a backend the locks of dead sessions are free
 * at once.  The base is never written to disk, as a base backup would carry
 * it to another server.
 *
 * The deadline.  It counts from the moment the keepalive was sent, and a
 * keepalive is believed only when a linearizable read of the sentinel, a key
 * of ours on the lease, sent after the keepalive's answer, comes back in the
 * same raft term with the revision that we know: keepalives do not go through
 * raft, and a deposed leader may answer them (README.md, "The lease").
 *
 * After each keepalive etcd lists the keys on the lease.  One that is not ours
 * any more is deleted; one that is missing is looked for, and lost if it is
 * gone.  Held keys need no watch for that.
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "break.h"
#include "health.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "stats.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define EPOCH_BITS		12
#define RESTART_BITS	12
#define BASE_BITS		39

#define RETRY_PAUSE		INT64CONST(100000)	/* microseconds */
#define REFUSED_PAUSE	INT64CONST(1000000)
#define REPEAT_LOG		INT64CONST(60000000)

#define TOO_LATE		"the lease could not be renewed in time"

typedef enum LeaseState
{
	LEASE_NONE,					/* next: see what went before */
	LEASE_LISTED,				/* next: ask for one */
	LEASE_GRANTED,				/* next: put the sentinel */
	LEASE_ALIVE					/* next: keepalive */
} LeaseState;

static LeaseState state = LEASE_NONE;
static bool busy = false;		/* a request of ours is under way */
static int64 next_time = 0;		/* clock_now(): nothing to do before */
static char hex[20];
static int64 ttl;				/* as granted, microseconds */
static ClockReading sent;		/* grant or keepalive */
static uint64 raft_term;		/* of its answer */
static int64 floor_revision;	/* highest seen when the sentinel was read */
static int64 listed_at;			/* when the list of keys was asked for */
static int64 leaving = 0;		/* the lease to be given back at exit */
static bool revoking_for_exit = false;
static bool revoked = false;

/* Leases of ours that are no longer, to be revoked. */
static int64 *stale = NULL;
static int	nstale = 0;

static bool hurry = false;		/* the next keepalive is due at once */
static Watch *sentinel_watch = NULL;
static int64 watch_not_before = 0;

/* ----------------------------------------------------------------
 *		Ids
 * ----------------------------------------------------------------
 */

/*
 * In the postmaster, at every start of shared memory: after a crash of a
 * backend too, when the base must stay and the second part change.
 */
void
lease_shmem_init(void)
{
	static uint64 base = 0;
	static uint64 restarts = 0;

	if (base == 0)
	{
		if (!pg_strong_random(&base, sizeof(base)))
			ereport(FATAL,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random lease id")));
		base &= (UINT64CONST(1) << BASE_BITS) - 1;
		base |= UINT64CONST(1) << (BASE_BITS - 1);	/* neither 0 nor short */
	}
	lock_shared->lease_base = (base << (RESTART_BITS + EPOCH_BITS)) |
		((restarts++ & ((1 << RESTART_BITS) - 1)) << EPOCH_BITS);
}

int64
lease_id(void)
{
	uint64		epoch = deadline_epoch(&lock_shared->deadline);

	return (int64) (lock_shared->lease_base | (epoch & ((1 << EPOCH_BITS) - 1)));
}

const char *
lease_hex(void)
{
	snprintf(hex, sizeof(hex), "%llx", (unsigned long long) lease_id());
	return hex;
}

/* What the ids of all our leases begin with, be they of former epochs. */
const char *
lease_base_hex(void)
{
	static char base[20];
	int			digits = strlen(lease_hex()) - (RESTART_BITS + EPOCH_BITS) / 4;

	snprintf(base, sizeof(base), "%.*s", digits, lease_hex());
	return base;
}

static bool
is_our_base(int64 id)
{
	return ((uint64) id >> (RESTART_BITS + EPOCH_BITS)) ==
		(lock_shared->lease_base >> (RESTART_BITS + EPOCH_BITS));
}

/* ----------------------------------------------------------------
 *		Time
 * ----------------------------------------------------------------
 */

/*
 * What is kept back of the TTL: etcd's clock and ours run alike, but between
 * a session's look at the deadline and what it does then some time goes by.
 */
static int64
margin(void)
{
	return Min(ttl / 2, Max(ttl / 10, INT64CONST(1000000)));
}

static int64
keepalive_interval(void)
{
	return ttl / 5;
}

/* A keepalive that is not answered must not eat up the time for the next. */
static long
keepalive_timeout(void)
{
	return (long) Min(Max(keepalive_interval() / 1000, 200),
					  etcd_lock_request_timeout);
}

/* What may be asked again at once need not wait for long. */
static long
repeatable_timeout(void)
{
	return Min(Max(keepalive_timeout(), 1000), etcd_lock_request_timeout);
}

bool
lease_alive(void)
{
	return state == LEASE_ALIVE &&
		deadline_left(&lock_shared->deadline) > 0;
}

int64
lease_next_time(void)
{
	int64		next = next_time;

	if (busy || (worker_stopping && state != LEASE_ALIVE))
		next = PG_INT64_MAX;
	else
		next = Max(next, link_next_time());
	if (state == LEASE_ALIVE)
		next = Min(next, clock_now() + deadline_left(&lock_shared->deadline) + 1000);
	return next;
}

static void
retry_later(void)
{
	next_time = clock_now() + RETRY_PAUSE;
}

/* ----------------------------------------------------------------
 *		Loss
 * ----------------------------------------------------------------
 */

/* The lease is over, whatever etcd does with it: so is what hung on it. */
void
lease_gone(const char *reason)
{
	if (state != LEASE_ALIVE && state != LEASE_GRANTED)
		return;
	state = LEASE_NONE;
	next_time = 0;
	pg_atomic_write_u64(&lock_shared->lease, 0);
	lock_shared->sentinel_revision = 0;
	names_end_epoch(reason);
}

/*
 * An etcd that was restored from a backup, or another etcd, knows nothing of
 * our locks even if it knows our lease (rule 16).
 */
void
lease_saw_header(const EtcdHeader *header)
{
	if (lock_shared->cluster_id != 0 &&
		header->cluster_id != lock_shared->cluster_id)
	{
		lock_shared->highest_revision = 0;
		lock_shared->cluster_id = header->cluster_id;
		lease_gone("the endpoint belongs to another etcd cluster");
		return;
	}
	lock_shared->cluster_id = header->cluster_id;
	lock_shared->highest_revision = Max(lock_shared->highest_revision,
										header->revision);
}

/* ----------------------------------------------------------------
 *		Requests
 * ----------------------------------------------------------------
 */

static void
call(const char *path, char *body, long timeout,
	 void (*done) (void *arg, const EtcdAnswer *answer))
{
	EtcdCallbacks callbacks = {NULL, done};

	if (link_call(path, body, timeout, &callbacks,
				  (void *) (uintptr_t) deadline_epoch(&lock_shared->deadline)) != NULL)
		busy = true;
	else
		retry_later();
}

/* Every answer comes here first.  False: it is about a lease of the past. */
static bool
still_current(void *arg)
{
	busy = false;
	return (uint64) (uintptr_t) arg == deadline_epoch(&lock_shared->deadline);
}

/* There is no answer, or one without end: ask again. */
static void
not_delivered(const EtcdAnswer *answer)
{
	if (answer->too_long)
		link_bad_answer(answer->error);
	retry_later();
}

/* The same for answers that can only be asked for again when there is none. */
static bool
has_answer(void *arg, const EtcdAnswer *answer)
{
	if (!still_current(arg))
		return false;
	if (!answer->delivered)
		not_delivered(answer);
	return answer->delivered;
}

/*
 * Has this been logged within the last minute?  Several messages are remembered,
 * as several endpoints may give different ones in turn.
 */
static bool
was_said(const char *message)
{
	static struct
	{
		char		message[ETCD_MESSAGE_SIZE];
		int64		at;
	}			said[8];
	int64		now = clock_now();
	int			oldest = 0;

	for (int i = 0; i < lengthof(said); i++)
	{
		if (said[i].at != 0 && now - said[i].at < REPEAT_LOG &&
			strcmp(said[i].message, message) == 0)
			return true;
		if (said[i].at < said[oldest].at)
			oldest = i;
	}
	strlcpy(said[oldest].message, message, sizeof(said[oldest].message));
	said[oldest].at = now;
	return false;
}

/* Etcd has refused something: say so, but not again and again. */
static void
report(const char *what, const EtcdError *error)
{
	if (!was_said(error->message))
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("etcd_lock: could not %s: %s", what, error->message)));
	link_note_error(error->message);
	if (error->code == ETCD_RESOURCE_EXHAUSTED)
		health_no_space();
	if (error->code == ETCD_BAD_ANSWER)
		link_bad_answer(error->message);

	/* A member without a leader: the next one may have one. */
	next_time = clock_now() +
		(error->code == ETCD_UNAVAILABLE ? RETRY_PAUSE : REFUSED_PAUSE);
}

/*
 * An answer about our lease.  One about another lease is the answer to another
 * request, and would make us believe, or delete, what is not ours.
 */
static bool
decode_lease(const EtcdAnswer *answer, EtcdLeaseResult *result, EtcdError *error)
{
	if (!etcd_decode_lease(answer->body, answer->len, answer->http_status,
						   result, error))
		return false;
	if (result->id == lease_id())
		return true;
	etcd_lease_result_free(result);
	memset(error, 0, sizeof(*error));
	error->code = ETCD_BAD_ANSWER;
	strlcpy(error->message, "the answer is about another lease",
			sizeof(error->message));
	return false;
}

/* ---- what went before ---- */

static void
revoke_done(void *arg, const EtcdAnswer *answer)
{
	EtcdHeader	header;
	EtcdError	error;

	busy = false;
	if (revoking_for_exit)
	{
		/* The connection may have broken; the wait for this is bounded. */
		revoked = answer->delivered;
		if (!revoked)
			retry_later();
		return;
	}
	if (!answer->delivered)
		not_delivered(answer);
	else if (etcd_decode_header(answer->body, answer->len, answer->http_status,
								&header, &error) || error.code == ETCD_NOT_FOUND)
		nstale--;
	else
	{
		report("revoke an old lease", &error);
		if (error.code != ETCD_BAD_ANSWER && error.code != ETCD_UNAVAILABLE &&
			error.code != ETCD_RESOURCE_EXHAUSTED && error.code != ETCD_DEADLINE_EXCEEDED)
			nstale--;			/* it will run out by itself */
	}
}

static void
list_done(void *arg, const EtcdAnswer *answer)
{
	EtcdLeasesResult result;
	EtcdError	error;

	if (!still_current(arg))
	{
		retry_later();
		return;
	}
	if (!answer->delivered)
	{
		not_delivered(answer);
		return;
	}
	nstale = 0;
	state = LEASE_LISTED;
	if (!etcd_decode_leases(answer->body, answer->len, answer->http_status,
							&result, &error))
	{
		/* Without a list they run out by themselves. */
		if (error.code == ETCD_BAD_ANSWER || error.code == ETCD_UNAVAILABLE)
		{
			state = LEASE_NONE;
			report("list leases", &error);
		}
		return;
	}
	if (stale != NULL)
		pfree(stale);
	stale = MemoryContextAlloc(TopMemoryContext,
							   Max(result.nids, 1) * sizeof(int64));
	for (int i = 0; i < result.nids; i++)
	{
		if (is_our_base(result.ids[i]) && result.ids[i] != lease_id())
			stale[nstale++] = result.ids[i];
	}
	etcd_leases_result_free(&result);
}

/* ---- grant and sentinel ---- */

static void
sentinel_done(void *arg, const EtcdAnswer *answer)
{
	EtcdTxnResult result;
	EtcdError	error;
	int64		revision = 0;

	/* When there is no answer it may have been put: the next attempt finds it. */
	if (!has_answer(arg, answer) || state != LEASE_GRANTED)
		return;
	if (!etcd_decode_txn(answer->body, answer->len, answer->http_status,
						 &result, &error))
	{
		if (error.code == ETCD_NOT_FOUND)
			lease_gone("etcd does not know the lease");
		else
			report("put this server's key", &error);
		return;
	}
	if (result.succeeded)
		revision = result.header.revision;
	else if (result.nresults == 1 && result.results[0].nkvs == 1 &&
			 result.results[0].kvs[0].lease == lease_id())
		revision = result.results[0].kvs[0].create_revision;

	if (revision != 0)
	{
		/*
		 * From here on this etcd's revisions count, be it one that was
		 * restored from a backup.
		 */
		lock_shared->cluster_id = result.header.cluster_id;
		lock_shared->highest_revision = result.header.revision;
		lock_shared->sentinel_revision = revision;
		deadline_extend(&lock_shared->deadline, sent, ttl - margin());
		pg_atomic_write_u64(&lock_shared->lease, (uint64) lease_id());
		state = LEASE_ALIVE;
		next_time = sent.boottime + keepalive_interval();
		link_proven();
		ereport(LOG,
				(errmsg("etcd_lock: lease %s granted for %d s",
						lease_hex(), (int) (ttl / 1000000))));
	}
	else
		lease_gone("this server's key belongs to another lease");
	etcd_txn_result_free(&result);
}

static void
put_sentinel(void)
{
	EtcdOp		put = {.type = ETCD_OP_PUT};
	EtcdOp		range = {.type = ETCD_OP_RANGE, .keys_only = true};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE, .result = ETCD_COMPARE_EQUAL, .revision = 0
	};
	EtcdTxn		txn = {&compare, 1, &put, 1, &range, 1};
	char	   *value = worker_describe(NULL, MyProcPid, GetCurrentTimestamp());

	snprintf(lock_shared->sentinel_key, sizeof(lock_shared->sentinel_key),
			 "%s%sserver/%s", etcd_lock_namespace, ETCD_LOCK_RESERVED, lease_hex());
	put.range.key = lock_shared->sentinel_key;
	put.range.key_len = strlen(lock_shared->sentinel_key);
	put.value = value;
	put.value_len = strlen(value);
	put.lease = lease_id();
	range.range = put.range;
	compare.range = put.range;
	call(ETCD_PATH_TXN, etcd_encode_txn(&txn), keepalive_timeout(), sentinel_done);
	pfree(value);
}

static void
grant_done(void *arg, const EtcdAnswer *answer)
{
	EtcdLeaseResult result;
	EtcdError	error;

	if (!still_current(arg))
		return;
	if (!answer->delivered)
	{
		/* It may have been granted: see what is there before the next. */
		if (answer->ambiguous)
			names_end_epoch(NULL);
		state = LEASE_NONE;
		not_delivered(answer);
		return;
	}
	if (!decode_lease(answer, &result, &error))
	{
		names_end_epoch(NULL);
		state = LEASE_NONE;
		report("get a lease", &error);
		return;
	}
	if (result.ttl < 1)
	{
		/* granted, as it says, for no time: it may live, or be gone */
		etcd_lease_result_free(&result);
		names_end_epoch(NULL);
		state = LEASE_NONE;
		link_bad_answer("etcd has granted a lease without a TTL");
		retry_later();
		return;
	}
	ttl = Min(ttl, result.ttl * 1000000);
	lease_saw_header(&result.header);
	etcd_lease_result_free(&result);
	state = LEASE_GRANTED;
}

static void
send_grant(void)
{
	ttl = (int64) etcd_lock_lease_ttl * 1000000;
	sent = clock_read();
	call(ETCD_PATH_LEASE_GRANT,
		 etcd_encode_lease_grant(lease_id(), etcd_lock_lease_ttl),
		 etcd_lock_request_timeout, grant_done);
}

/* ---- keepalive, sentinel, keys ---- */

static void
keys_done(void *arg, const EtcdAnswer *answer)
{
	EtcdLeaseResult result;
	EtcdError	error;

	if (!still_current(arg))
		return;
	next_time = hurry ? 0 : sent.boottime + keepalive_interval();
	if (!answer->delivered)
		return;
	if (!decode_lease(answer, &result, &error))
	{
		if (error.code == ETCD_NOT_FOUND)
			lease_gone("etcd does not know the lease any more");
		else if (error.code == ETCD_BAD_ANSWER)
			link_bad_answer(error.message);
		return;
	}
	if (result.ttl > 0)
		own_keys_compare(&result, listed_at);
	else
		next_time = 0;
	etcd_lease_result_free(&result);
}

static void
list_keys(void)
{
	listed_at = clock_now();
	call(ETCD_PATH_LEASE_TIMETOLIVE,
		 etcd_encode_lease_timetolive(lease_id(), true),
		 keepalive_timeout(), keys_done);
}

/* Is it our sentinel, and nothing else? */
static bool
is_sentinel(const EtcdOpResult *range)
{
	size_t		len = strlen(lock_shared->sentinel_key);

	return range->nkvs == 1 && range->kvs[0].key_len == len &&
		memcmp(range->kvs[0].key, lock_shared->sentinel_key, len) == 0;
}

static void
sentinel_read(void *arg, const EtcdAnswer *answer)
{
	EtcdRangeResult result;
	EtcdError	error;

	if (!has_answer(arg, answer))
		return;
	if (!etcd_decode_range(answer->body, answer->len, answer->http_status,
						   &result, &error))
	{
		report("read this server's key", &error);
		return;
	}
	if (result.header.revision < floor_revision)
		lease_gone("etcd has gone back in time");
	else if (deadline_left(&lock_shared->deadline) == 0)
		lease_gone(TOO_LATE);	/* sessions may know already */
	else
		lease_saw_header(&result.header);

	if (state != LEASE_ALIVE)
		 /* gone */ ;
	else if (!is_sentinel(&result.range) ||
			 result.range.kvs[0].create_revision != lock_shared->sentinel_revision)
		lease_gone("this server's key was deleted from etcd");
	else if (result.header.raft_term != raft_term)
		retry_later();			/* a change of leaders: ask again */
	else
	{
		stats_lease_renewed(deadline_left(&lock_shared->deadline));
		deadline_extend(&lock_shared->deadline, sent, ttl - margin());
		link_proven();
		list_keys();
	}
	etcd_range_result_free(&result);
}

static void
read_sentinel(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE, .keys_only = true};

	op.range.key = lock_shared->sentinel_key;
	op.range.key_len = strlen(lock_shared->sentinel_key);
	floor_revision = lock_shared->highest_revision;
	call(ETCD_PATH_RANGE, etcd_encode_range(&op), keepalive_timeout(),
		 sentinel_read);
}

static void
keepalive_done(void *arg, const EtcdAnswer *answer)
{
	EtcdLeaseResult result;
	EtcdError	error;

	if (!has_answer(arg, answer))
		return;
	if (!decode_lease(answer, &result, &error))
	{
		if (error.code == ETCD_NOT_FOUND)
			lease_gone("etcd does not know the lease any more");
		else
			report("keep the lease alive", &error);
		return;
	}
	raft_term = result.header.raft_term;
	link_saw_term(raft_term);
	if (result.ttl <= 0)
		lease_gone("the lease ran out or was revoked");
	else
	{
		ttl = Min(ttl, result.ttl * 1000000);
		read_sentinel();
	}
	etcd_lease_result_free(&result);
}

static void
send_keepalive(void)
{
	hurry = false;
	sent = clock_read();
	call(ETCD_PATH_LEASE_KEEPALIVE, etcd_encode_lease_id(lease_id()),
		 keepalive_timeout(), keepalive_done);
}

/* ---- the sentinel's end ---- */

static void
sentinel_watched(void *arg)
{
}

/* Ask at once what has become of the lease. */
static void
sentinel_deleted(void *arg, const char *key, size_t key_len, int64 mod_revision)
{
	if (state == LEASE_ALIVE && mod_revision > lock_shared->sentinel_revision &&
		strcmp(key, lock_shared->sentinel_key) == 0)
	{
		hurry = true;
		next_time = 0;
	}
}

/* Somebody tells that he has broken a lock of ours. */
static void
sentinel_put(void *arg, const EtcdKeyValue *kv)
{
	if (state == LEASE_ALIVE && break_is_message(kv->key, kv->key_len))
	{
		own_keys_broken(kv);
		requests_stray(kv->key, kv->key_len, kv->create_revision);
	}
}

static void
sentinel_unwatched(void *arg)
{
	sentinel_watch = NULL;

	/* If the link has failed, that is what to wait for. */
	if (link_ready())
		watch_not_before = clock_now() + keepalive_interval();
}

/*
 * A lease that is revoked early is noticed with the next keepalive anyway;
 * this makes it a matter of milliseconds.  Under the sentinel's name other
 * servers leave messages about locks that they have broken.
 */
static void
watch_sentinel(void)
{
	static const WatchCallbacks callbacks = {
		sentinel_watched, sentinel_deleted, sentinel_unwatched, sentinel_put
	};
	char		end[sizeof(lock_shared->sentinel_key) + 2];
	EtcdRange	range = {0};

	if (sentinel_watch != NULL &&
		(state != LEASE_ALIVE || !watch_is_current(sentinel_watch)))
	{
		watch_close(sentinel_watch);
		sentinel_watch = NULL;
	}
	if (sentinel_watch != NULL || state != LEASE_ALIVE ||
		clock_now() < watch_not_before || !link_ready())
		return;
	range.key = lock_shared->sentinel_key;
	range.key_len = strlen(lock_shared->sentinel_key);
	snprintf(end, sizeof(end), "%s%c", lock_shared->sentinel_key, '/' + 1);
	range.end = end;
	range.end_len = strlen(end);
	sentinel_watch = watch_open(&range, &callbacks, NULL);
}

/* ----------------------------------------------------------------
 *		Steps
 * ----------------------------------------------------------------
 */

/* A worker that follows another one goes on with its lease. */
void
lease_start(void)
{
	ttl = (int64) etcd_lock_lease_ttl * 1000000;
	if (pg_atomic_read_u64(&lock_shared->lease) == (uint64) lease_id())
		state = LEASE_ALIVE;
}

static void
revoke_for_exit(void)
{
	call(ETCD_PATH_LEASE_REVOKE, etcd_encode_lease_id(leaving),
		 repeatable_timeout(), revoke_done);
}

void
lease_tick(void)
{
	if (state == LEASE_ALIVE && deadline_left(&lock_shared->deadline) == 0)
		lease_gone(TOO_LATE);
	watch_sentinel();

	if (busy || clock_now() < next_time || !link_ready())
		return;
	if (revoking_for_exit)
	{
		if (!revoked)
			revoke_for_exit();
		return;
	}

	switch (state)
	{
		case LEASE_NONE:
			if (!worker_stopping)
				call(ETCD_PATH_LEASE_LEASES, etcd_encode_empty(),
					 repeatable_timeout(), list_done);
			break;
		case LEASE_LISTED:
			if (nstale > 0)
				call(ETCD_PATH_LEASE_REVOKE,
					 etcd_encode_lease_id(stale[nstale - 1]),
					 repeatable_timeout(), revoke_done);
			else if (!worker_stopping)
				send_grant();
			break;
		case LEASE_GRANTED:
			put_sentinel();
			break;
		case LEASE_ALIVE:
			send_keepalive();
			break;
	}
}

/*
 * Nobody holds anything any more, and nobody will: give the lease back, with
 * every key on it.
 */
void
lease_revoke_for_exit(void)
{
	revoking_for_exit = true;
	if (state != LEASE_ALIVE && state != LEASE_GRANTED)
	{
		revoked = true;
		return;
	}
	leaving = lease_id();
	lease_gone(NULL);
	revoke_for_exit();
}

bool
lease_is_revoked(void)
{
	return revoked;
}
