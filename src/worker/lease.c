/*-------------------------------------------------------------------------
 *
 * lease.c
 *	  The server's lease: granted, kept alive, believed, revoked.
 *
 * The server has one lease, to which all its keys are attached
 * (shared/lease_id.c).  This file reports the end of the lease by callbacks;
 * what that means for the keys is up to others.
 *
 * Earlier leases are revoked independently (old_leases.c).
 *
 * The deadline counts from the moment the keepalive was sent.  A keepalive is
 * believed only when a linearizable read of the sentinel, a key of ours on the
 * lease, sent after the keepalive's response, returns the same raft term and
 * the revision that we know: keepalives do not go through raft, and a deposed
 * leader may respond to them (README.md, "The lease").  The lease is not
 * extended if the audit of its keys is overdue (audit.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "client/link.h"
#include "client/watch.h"
#include "etcd/etcd_error.h"
#include "etcd/etcd_holder.h"
#include "etcd/key_layout.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "shared/clock.h"
#include "shared/counters.h"
#include "shared/deadline.h"
#include "shared/lease_id.h"
#include "shared/link_status.h"
#include "shared/lock_table.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/context.h"
#include "worker/instance.h"
#include "worker/key_value.h"
#include "worker/lease.h"
#include "worker/old_leases.h"

#define RETRY_PAUSE		INT64CONST(100000)	/* microseconds */
#define REFUSED_PAUSE	INT64CONST(1000000) /* at most, */
#define REFUSED_PART	8		/* of what is left of the lease */
#define REPEAT_LOG		INT64CONST(60000000)

/* How many sentinels, and keys below them, to search for old leases. */
#define MAX_SENTINELS	10000

/* How often the search may get no response, or one that is too long; bytes. */
#define MAX_SEEKS		2
#define MAX_RESPONSE		(4 * 1024 * 1024)

/* At most so many messages are read at a time: others may put any number. */
#define MAX_MESSAGES	1000

/* How many taken ids to try before a pause. */
#define MAX_DRAWS		20

#define TOO_LATE		"the lease could not be renewed in time"

typedef enum LeaseState
{
	LEASE_NONE,					/* next: search for earlier leases */
	LEASE_SOUGHT,				/* next: ask for one */
	LEASE_GRANTED,				/* next: put the sentinel */
	LEASE_ALIVE,				/* next: keepalive */
	LEASE_LEAVING,				/* at exit; next: revoke it */
	LEASE_LEFT					/* revoked, or there was none */
} LeaseState;

struct Lease
{
	LeaseCallbacks callbacks;
	LeaseState	state;
	bool		busy;			/* a request of ours is in flight */
	int64		next_time;		/* clock_now(): nothing to do before */
	uint64		refused_by;		/* if so, with this generation of the link; 0:
								 * with any */

	int64		ttl;			/* as granted, microseconds */
	ClockReading sent;			/* grant or keepalive */
	uint64		raft_term;		/* of its response */
	int64		min_revision;	/* highest seen when the sentinel was read */
	int64		leaving;		/* LEAVING: the lease to be revoked */
	bool		registers;		/* as a primary, together with the sentinel */
	bool		may_not_register;	/* etcd has refused that */

	int			seeks;			/* NONE: failed searches for old leases */
	int			draws;			/* SOUGHT: ids that others had already taken */

	/* ALIVE: it may have been deleted, so ask at once. */
	bool		hurry;
	Watch	   *sentinel_watch;
	int64		watch_not_before;
	bool		reading;		/* messages below the sentinel, apart from the
								 * watch; */
	bool		too_many_messages;	/* the last time there were */
	int64		missed;			/* highest revision read that the watch is to
								 * show, too; */
	int64		shown;			/* and highest one that it has shown */

	/* What was logged within the last minute. */
	struct
	{
		char		message[ETCD_MESSAGE_SIZE];
		int64		at;
	}			said[8];
};

#define MyLease (MyWorker->lease)

/* ----------------------------------------------------------------
 *		Time
 * ----------------------------------------------------------------
 */

/*
 * The part of the TTL that is not used: etcd's clock and ours run at the same
 * speed, but some time passes between a session's check of the deadline and
 * what it does then.
 */
static int64
margin(int64 ttl)
{
	return Min(ttl / 2, Max(ttl / 10, INT64CONST(1000000)));
}

static int64
keepalive_interval(void)
{
	return MyLease->ttl / 5;
}

/* A keepalive without a response must not use up the time for the next. */
static long
keepalive_timeout(void)
{
	return (long) Min(Max(keepalive_interval() / 1000, 200),
					  etcd_lock_request_timeout);
}

/* Requests that may be repeated at once need not wait for long. */
static long
repeatable_timeout(void)
{
	return Min(Max(keepalive_timeout(), 1000), etcd_lock_request_timeout);
}

bool
lease_alive(void)
{
	return MyLease->state == LEASE_ALIVE &&
		deadline_left(&lock_shared->deadline) > 0;
}

int64
lease_next_time(void)
{
	int64		next = MyLease->next_time;

	if (MyLease->busy || (MyWorker->stopping && MyLease->state != LEASE_ALIVE) ||
		(MyLease->state == LEASE_GRANTED && old_leases_await()))
		next = PG_INT64_MAX;
	else
		next = Max(next, link_next_time());
	if (MyLease->state == LEASE_ALIVE)
		next = Min(next, clock_now() + deadline_left(&lock_shared->deadline) + 1000);
	return next;
}

static void
retry_later(void)
{
	MyLease->next_time = clock_now() + RETRY_PAUSE;
}

/* ----------------------------------------------------------------
 *		Loss
 * ----------------------------------------------------------------
 */

static bool
has_lease(void)
{
	return MyLease->state == LEASE_ALIVE || MyLease->state == LEASE_GRANTED;
}

/*
 * Everything that was, or may have been, granted by the lease is over.  The
 * epoch ends first, so that nothing can look valid meanwhile (rule 3).
 */
static void
end_epoch(const char *reason)
{
	deadline_end_epoch(&lock_shared->deadline);
	lease_id_draw(ERROR);
	MyLease->callbacks.ended(reason);
}

/* The lease is over, whatever etcd does with it, and so are its keys. */
void
lease_gone(const char *reason)
{
	if (!has_lease())
		return;
	MyLease->state = LEASE_NONE;
	MyLease->next_time = 0;
	pg_atomic_write_u64(&lock_shared->lease, 0);
	lock_shared->sentinel_revision = 0;

	/*
	 * Etcd may still have it.  What the guard has let through is to be
	 * committed before another server can have its locks, as if the lease had
	 * run out by itself.
	 */
	(void) old_leases_add(lease_id(), clock_now() + margin(MyLease->ttl));
	end_epoch(reason);
}

/*
 * Is this the right etcd cluster?  Servers with endpoints of different
 * clusters would each get every lock.
 */
static bool
is_right_cluster(const EtcdResponse *response, const EtcdHeader *header)
{
	if (etcd_lock_cluster_id[0] == '\0' ||
		header->cluster_id == strtou64(etcd_lock_cluster_id, NULL, 16))
		return true;
	link_bad_response(response,
					  psprintf("the endpoint belongs to etcd cluster %llx, and not to %s",
							   (unsigned long long) header->cluster_id, etcd_lock_cluster_id));
	return false;
}

/*
 * An etcd that was restored from a backup, or another etcd, does not know our
 * locks even if it knows our lease (rule 16).
 */
void
lease_saw_header(const EtcdResponse *response, const EtcdHeader *header)
{
	if (!is_right_cluster(response, header))
	{
		lease_gone("the endpoint belongs to another etcd cluster than is set");
		return;
	}
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
	lock_shared->token_revision = Max(lock_shared->token_revision, header->revision);
}

/* ----------------------------------------------------------------
 *		Requests
 * ----------------------------------------------------------------
 */

static void
call_as(LinkClass class, EtcdMessage message, long timeout,
		const LinkCallbacks *callbacks)
{
	if (link_call(class, message, timeout, callbacks,
				  (void *) (uintptr_t) deadline_epoch(&lock_shared->deadline)) != NULL)
		MyLease->busy = true;
	else
		retry_later();
}

static void
call(EtcdMessage message, long timeout,
	 void (*done) (void *arg, const EtcdResponse *response))
{
	LinkCallbacks callbacks = {.done = done};

	call_as(LINK_LEASE, message, timeout, &callbacks);
}

/*
 * Every response comes here first.  Returns false if it is about an earlier
 * lease.
 */
static bool
still_current(void *arg)
{
	MyLease->busy = false;
	return MyLease->state < LEASE_LEAVING &&
		(uint64) (uintptr_t) arg == deadline_epoch(&lock_shared->deadline);
}

/* There is no response, or one that is too long: ask again. */
static void
not_delivered(const EtcdResponse *response)
{
	if (response->too_long)
		link_bad_response(response, response->error);
	retry_later();
}

/* The same for requests that are repeated only if there is no response. */
static bool
has_response(void *arg, const EtcdResponse *response)
{
	if (!still_current(arg))
		return false;
	if (!response->delivered)
		not_delivered(response);
	return response->delivered;
}

/*
 * Has this been logged within the last minute?  We remember several messages,
 * because several endpoints may return different ones in turn.
 */
static bool
was_said(const char *message)
{
	int64		now = clock_now();
	int			oldest = 0;

	for (int i = 0; i < lengthof(MyLease->said); i++)
	{
		if (MyLease->said[i].at != 0 && now - MyLease->said[i].at < REPEAT_LOG &&
			strcmp(MyLease->said[i].message, message) == 0)
			return true;
		if (MyLease->said[i].at < MyLease->said[oldest].at)
			oldest = i;
	}
	strlcpy(MyLease->said[oldest].message, message, sizeof(MyLease->said[oldest].message));
	MyLease->said[oldest].at = now;
	return false;
}

/*
 * How long to wait before the next attempt.  If a member has no leader, the
 * next one may have one.  The rest of the lease must not run out meanwhile.
 */
static int64
pause_after(const EtcdError *error)
{
	int64		left = PG_INT64_MAX;

	if (MyLease->state == LEASE_ALIVE)
		left = deadline_left(&lock_shared->deadline);
	else if (MyLease->state == LEASE_GRANTED)
		left = MyLease->sent.boottime + MyLease->ttl - margin(MyLease->ttl) - clock_now();
	return Min(error->code == ETCD_UNAVAILABLE ? RETRY_PAUSE : REFUSED_PAUSE,
			   Max(left / REFUSED_PART, RETRY_PAUSE / 4));
}

/* Etcd has refused something: log it, but not repeatedly. */
static void
report(const EtcdResponse *response, const char *what, const EtcdError *error)
{
	if (!was_said(error->message))
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("etcd_lock: could not %s: %s", what, error->message)));
	link_note_error(error->message);
	if (error->code == ETCD_RESOURCE_EXHAUSTED)
		link_status_note_no_space();
	if (error->code == ETCD_BAD_RESPONSE)
		link_bad_response(response, error->message);

	MyLease->next_time = clock_now() + pause_after(error);
	MyLease->refused_by = link_generation();
}

/*
 * Decode a response about our lease.  One about another lease belongs to
 * another request, and would make us believe, or delete, what is not ours.
 */
static bool
decode_lease(const EtcdResponse *response, EtcdLeaseResult *result, EtcdError *error)
{
	if (!etcd_response_lease(&response->reply,
							 result, error))
		return false;
	if (result->id == lease_id())
		return true;
	etcd_response_free_lease(result);
	memset(error, 0, sizeof(*error));
	error->code = ETCD_BAD_RESPONSE;
	strlcpy(error->message, "the response is about another lease",
			sizeof(error->message));
	return false;
}

/* ---- earlier leases ---- */

/*
 * Is it the sentinel of a lease of ours: one of this postmaster, or of our
 * predecessor (instance.c)?
 */
static bool
is_old_lease(const EtcdKeyValue *kv, const char *instance)
{
	char		sentinel[KEY_LAYOUT_SIZE];
	size_t		len = key_layout_sentinel(sentinel, etcd_lock_namespace, (uint64) kv->lease);
	EtcdHolder	holder;

	if (kv->lease == 0 || kv->lease == lease_id() ||
		kv->key_len != len || memcmp(kv->key, sentinel, len) != 0)
		return false;
	return lease_id_is_own(kv->lease) ||
		(instance[0] != '\0' && etcd_holder_decode(kv->value, kv->value_len, &holder) &&
		 strcmp(holder.instance, instance) == 0);
}

static void
take_old_leases(const EtcdOpResult *sentinels)
{
	char		instance[INSTANCE_TEXT];

	instance_describe(instance);
	for (int i = 0; i < sentinels->nkvs; i++)
	{
		int64		id = sentinels->kvs[i].lease;

		/* It may have been given up a moment ago, by a worker that has ended. */
		int64		hold_until = lease_id_is_own(id) ?
			clock_now() + margin((int64) etcd_lock_lease_ttl * 1000000) : 0;

		if (is_old_lease(&sentinels->kvs[i], instance) && old_leases_add(id, hold_until) &&
			!lease_id_is_own(id))
			ereport(LOG,
					(errmsg("etcd_lock: freeing the locks of this server's last run, lease %llx",
							(unsigned long long) id)));
	}
}

/*
 * Without this, the old leases run out by themselves.  If others have put more
 * keys there than can be read in time, that must not prevent us from getting a
 * lease.
 */
static void
seek_done(void *arg, const EtcdResponse *response)
{
	EtcdRangeResult result;
	EtcdError	error;

	if (!still_current(arg) || MyLease->state != LEASE_NONE)
		return;
	if (response->too_long || (!response->delivered && ++MyLease->seeks >= MAX_SEEKS))
		MyLease->state = LEASE_SOUGHT;
	else if (!response->delivered)
		retry_later();
	else if (etcd_response_range(&response->reply, &result, &error))
	{
		MyLease->state = LEASE_SOUGHT;
		if (is_right_cluster(response, &result.header))
			take_old_leases(&result.range);
		etcd_response_free_range(&result);
	}
	else if (error.code == ETCD_BAD_RESPONSE || error.code == ETCD_UNAVAILABLE)
		report(response, "look for this server's old leases", &error);
	else
		MyLease->state = LEASE_SOUGHT;
}

static void
seek_old_leases(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.limit = MAX_SENTINELS};
	char		start[KEY_LAYOUT_SIZE];
	char		end[KEY_LAYOUT_SIZE];
	LinkCallbacks callbacks = {.done = seek_done,.max_message = MAX_RESPONSE,.is_urgent = true};

	op.range.key = start;
	op.range.key_len = key_layout_sentinels(start, etcd_lock_namespace);
	op.range.end = end;
	op.range.end_len = key_layout_sentinels_end(end, etcd_lock_namespace);
	call_as(LINK_SIDE, etcd_request_range(&op), repeatable_timeout(), &callbacks);
}

/* ---- grant and sentinel ---- */

/*
 * Tokens are made of revisions: if those go back, because etcd was restored
 * from a backup or is a new one, tokens of new locks can be below those of
 * older ones.
 */
static void
check_revision(int64 revision)
{
	if (revision < lock_shared->token_revision)
		ereport(WARNING,
				(errcode(ERRCODE_ETCD_LOCK_LOST),
				 errmsg("etcd_lock: etcd's revisions have gone back from " INT64_FORMAT " to " INT64_FORMAT,
						lock_shared->token_revision, revision),
				 errdetail("It was restored from a backup or rebuilt.  Fencing tokens are lower than before, and ticks may be claimed again."),
				 errhint("Where etcd_lock_fence() refuses the tokens of rightful holders, use etcd_lock_fence_reset().")));
	lock_shared->token_revision = revision;
}

/*
 * The sentinel is there, with this create_revision: sessions can have locks.
 * From here on this etcd's revisions count, even if it was restored from a
 * backup.
 */
static void
begin_epoch(const EtcdHeader *header, int64 sentinel_revision)
{
	Assert(MyLease->state == LEASE_GRANTED);
	check_revision(header->revision);
	lock_shared->cluster_id = header->cluster_id;
	lock_shared->highest_revision = header->revision;
	lock_shared->sentinel_revision = sentinel_revision;
	deadline_extend(&lock_shared->deadline, MyLease->sent, MyLease->ttl - margin(MyLease->ttl));
	pg_atomic_write_u64(&lock_shared->lease, (uint64) lease_id());
	MyLease->state = LEASE_ALIVE;
	MyLease->next_time = MyLease->sent.boottime + keepalive_interval();
}

static void
sentinel_done(void *arg, const EtcdResponse *response)
{
	EtcdTxnResult result;
	EtcdError	error;
	int64		revision = 0;

	/*
	 * If there is no response, the sentinel may have been put: the next
	 * attempt finds it.
	 */
	if (!has_response(arg, response) || MyLease->state != LEASE_GRANTED)
		return;
	if (!etcd_response_txn(&response->reply,
						   &result, &error))
	{
		if (error.code == ETCD_NOT_FOUND)
			lease_gone("etcd does not know the lease");
		else
			report(response, "put this server's key", &error);
		MyLease->may_not_register |= error.code == ETCD_PERMISSION_DENIED;
		return;
	}
	if (result.succeeded)
	{
		revision = result.header.revision;
		if (MyLease->registers)
			pg_atomic_write_u64(&lock_shared->primary_lease, (uint64) lease_id());
	}
	else if (result.nresults == 1 && result.results[0].nkvs == 1 &&
			 result.results[0].kvs[0].lease == lease_id())
		revision = result.results[0].kvs[0].create_revision;

	if (revision != 0)
	{
		begin_epoch(&result.header, revision);
		link_proven(response);
		ereport(LOG,
				(errmsg("etcd_lock: lease %s granted for %d s",
						lease_id_hex(), (int) (MyLease->ttl / 1000000))));
	}
	else
		lease_gone("this server's key belongs to another lease");
	etcd_response_free_txn(&result);
}

/*
 * Put the sentinel, and a primary's key (duplicate.c) with it: a standby must
 * find the primary as soon as the primary can have a lock.
 */
static void
put_sentinel(void)
{
	EtcdOp		puts[2] = {{.type = ETCD_OP_PUT}, {.type = ETCD_OP_PUT}};
	char		primary[KEY_LAYOUT_SIZE];
	EtcdOp		range = {.type = ETCD_OP_RANGE,.keys_only = true};
	EtcdCompare compare = {
		.target = ETCD_COMPARE_CREATE,.result = ETCD_COMPARE_EQUAL,.revision = 0
	};
	EtcdTxn		txn = {&compare, 1, puts, 1, &range, 1};
	char	   *value;

	Assert(MyLease->state == LEASE_GRANTED);
	MyLease->registers = !RecoveryInProgress() && !MyLease->may_not_register;
	txn.nsuccess = MyLease->registers ? 2 : 1;
	strlcpy(lock_shared->sentinel_ns, etcd_lock_namespace, sizeof(lock_shared->sentinel_ns));
	value = key_value_make(NULL, MyProcPid, GetCurrentTimestamp());
	key_layout_sentinel(lock_shared->sentinel_key, etcd_lock_namespace,
						(uint64) lease_id());
	puts[0].range.key = lock_shared->sentinel_key;
	puts[0].range.key_len = strlen(lock_shared->sentinel_key);
	puts[1].range.key = primary;
	puts[1].range.key_len = key_layout_primary(primary, etcd_lock_namespace,
											   GetSystemIdentifier(), (uint64) lease_id());
	for (int i = 0; i < lengthof(puts); i++)
	{
		puts[i].value = value;
		puts[i].value_len = strlen(value);
		puts[i].lease = lease_id();
	}
	range.range = puts[0].range;
	compare.range = puts[0].range;
	call(etcd_request_txn(&txn), keepalive_timeout(), sentinel_done);
	pfree(value);
}

/*
 * Does somebody else have a lease with this id?  Then try the next one at
 * once.
 */
static bool
id_was_taken(const EtcdError *error)
{
	return error->code == ETCD_FAILED_PRECONDITION &&
		strstr(error->message, "already exists") != NULL &&
		++MyLease->draws < MAX_DRAWS;
}

static void
grant_done(void *arg, const EtcdResponse *response)
{
	EtcdLeaseResult result;
	EtcdError	error;

	if (!still_current(arg))
		return;
	Assert(MyLease->state == LEASE_SOUGHT);
	if (!response->delivered)
	{
		/* It may have been granted: search for it before the next attempt. */
		if (response->ambiguous)
			end_epoch(NULL);
		MyLease->state = LEASE_NONE;
		not_delivered(response);
		return;
	}
	if (!decode_lease(response, &result, &error))
	{
		end_epoch(NULL);
		if (!id_was_taken(&error))
		{
			MyLease->state = LEASE_NONE;
			report(response, "get a lease", &error);
		}
		return;
	}
	if (result.ttl < 1)
	{
		/* granted with a TTL of 0: it may be alive or gone */
		etcd_response_free_lease(&result);
		end_epoch(NULL);
		MyLease->state = LEASE_NONE;
		link_bad_response(response, "etcd has granted a lease without a TTL");
		retry_later();
		return;
	}
	if (!is_right_cluster(response, &result.header))
	{
		/* it runs out by itself there */
		etcd_response_free_lease(&result);
		end_epoch(NULL);
		MyLease->state = LEASE_NONE;
		retry_later();
		return;
	}
	MyLease->ttl = Min(MyLease->ttl, result.ttl * 1000000);
	MyLease->draws = MyLease->seeks = 0;
	lease_saw_header(response, &result.header);
	etcd_response_free_lease(&result);
	MyLease->state = LEASE_GRANTED;
}

static void
send_grant(void)
{
	MyLease->ttl = (int64) etcd_lock_lease_ttl * 1000000;
	MyLease->sent = clock_read();
	call(etcd_request_lease_grant(lease_id(), etcd_lock_lease_ttl),
		 etcd_lock_request_timeout, grant_done);
}

/* ---- keepalive, sentinel ---- */

/* Is it exactly our sentinel? */
static bool
is_sentinel(const EtcdOpResult *range)
{
	size_t		len = strlen(lock_shared->sentinel_key);

	return range->nkvs == 1 && range->kvs[0].key_len == len &&
		memcmp(range->kvs[0].key, lock_shared->sentinel_key, len) == 0;
}

static void
sentinel_read(void *arg, const EtcdResponse *response)
{
	EtcdRangeResult result;
	EtcdError	error;

	if (!has_response(arg, response))
		return;
	if (!etcd_response_range(&response->reply,
							 &result, &error))
	{
		report(response, "read this server's key", &error);
		return;
	}
	if (result.header.revision < MyLease->min_revision)
		lease_gone("etcd has gone back in time");
	else if (deadline_left(&lock_shared->deadline) == 0)
		lease_gone(TOO_LATE);	/* sessions may already know */
	else
		lease_saw_header(response, &result.header);

	if (MyLease->state != LEASE_ALIVE)
		 /* gone */ ;
	else if (!is_sentinel(&result.range) ||
			 result.range.kvs[0].create_revision != lock_shared->sentinel_revision)
		lease_gone("this server's key was deleted from etcd");
	else if (result.header.raft_term != MyLease->raft_term)
		retry_later();			/* a change of leaders: ask again */
	else
	{
		if (MyLease->callbacks.may_extend())
		{
			counters_lease_renewed(deadline_left(&lock_shared->deadline));
			deadline_extend(&lock_shared->deadline, MyLease->sent, MyLease->ttl - margin(MyLease->ttl));
		}
		link_proven(response);
		MyLease->next_time = MyLease->hurry ? 0 : MyLease->sent.boottime + keepalive_interval();
	}
	etcd_response_free_range(&result);
}

static void
read_sentinel(void)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.keys_only = true};

	op.range.key = lock_shared->sentinel_key;
	op.range.key_len = strlen(lock_shared->sentinel_key);
	MyLease->min_revision = lock_shared->highest_revision;
	call(etcd_request_range(&op), keepalive_timeout(),
		 sentinel_read);
}

static void
keepalive_done(void *arg, const EtcdResponse *response)
{
	EtcdLeaseResult result;
	EtcdError	error;

	if (!has_response(arg, response))
		return;
	if (!decode_lease(response, &result, &error))
	{
		if (error.code == ETCD_NOT_FOUND)
			lease_gone("etcd does not know the lease any more");
		else
			report(response, "keep the lease alive", &error);
		return;
	}
	MyLease->raft_term = result.header.raft_term;
	link_saw_term(MyLease->raft_term);
	if (result.ttl <= 0)
		lease_gone("the lease ran out or was revoked");
	else
	{
		MyLease->ttl = Min(MyLease->ttl, result.ttl * 1000000);
		read_sentinel();
	}
	etcd_response_free_lease(&result);
}

static void
send_keepalive(void)
{
	MyLease->hurry = false;
	MyLease->sent = clock_read();
	call(etcd_request_lease_keepalive(lease_id()),
		 keepalive_timeout(), keepalive_done);
}

/* ---- the sentinel's end ---- */

static void
messages_read(void *arg, const EtcdResponse *response)
{
	EtcdRangeResult result;
	EtcdError	error;

	MyLease->reading = false;
	MyLease->too_many_messages = response->too_long;
	if (!response->delivered || MyLease->state != LEASE_ALIVE ||
		(int64) (uintptr_t) arg != lease_id() ||
		!etcd_response_range(&response->reply, &result, &error))
		return;
	for (int i = 0; i < result.range.nkvs; i++)
	{
		const EtcdKeyValue *kv = &result.range.kvs[i];

		if (watch_covers(MyLease->sentinel_watch, kv->mod_revision - 1))
			MyLease->missed = Max(MyLease->missed, kv->mod_revision);
		MyLease->callbacks.message(kv);
	}
	etcd_response_free_range(&result);
}

static void
close_sentinel_watch(void)
{
	if (MyLease->sentinel_watch != NULL)
		watch_close(MyLease->sentinel_watch);
	MyLease->sentinel_watch = NULL;
}

/*
 * Those that the watch may have missed.  If it has still not shown those that were read
 * the last time, it has stalled, and another one is opened.
 */
bool
lease_read_messages(void)
{
	static const LinkCallbacks callbacks = {.done = messages_read,.max_message = MAX_RESPONSE,.is_urgent = true};
	EtcdOp		op = {.type = ETCD_OP_RANGE,.limit = MAX_MESSAGES};
	char		end[KEY_LAYOUT_SIZE];
	char		start[KEY_LAYOUT_SIZE];

	if (MyLease->reading || MyLease->state != LEASE_ALIVE)
		return true;
	if (MyLease->too_many_messages)
		return false;
	if (MyLease->missed > MyLease->shown)
		close_sentinel_watch();
	op.range.key = start;
	op.range.key_len = key_layout_sentinel_start(start, lock_shared->sentinel_key);
	op.range.end = end;
	op.range.end_len = key_layout_sentinel_end(end, lock_shared->sentinel_key);
	MyLease->reading = link_call(LINK_SIDE, etcd_request_range(&op), repeatable_timeout(),
								 &callbacks, (void *) (uintptr_t) lease_id()) != NULL;
	return true;
}

/* From here on the watch tells of them. */
static void
sentinel_watched(void *arg)
{
	MyLease->too_many_messages = false;
	(void) lease_read_messages();
}

void
lease_hurry(void)
{
	if (MyLease->state != LEASE_ALIVE)
		return;
	MyLease->hurry = true;
	MyLease->next_time = 0;
}

/* Ask at once what has become of the lease. */
static void
sentinel_deleted(void *arg, const char *key, size_t key_len, int64 mod_revision)
{
	MyLease->shown = mod_revision;
	if (MyLease->state == LEASE_ALIVE && mod_revision > lock_shared->sentinel_revision &&
		strcmp(key, lock_shared->sentinel_key) == 0)
		lease_hurry();
}

/* Somebody has left a message below it. */
static void
sentinel_put(void *arg, const EtcdKeyValue *kv)
{
	MyLease->shown = kv->mod_revision;
	if (MyLease->state == LEASE_ALIVE)
		MyLease->callbacks.message(kv);
}

static void
sentinel_unwatched(void *arg)
{
	MyLease->sentinel_watch = NULL;

	/* If the link has failed, wait for that. */
	if (link_ready())
		MyLease->watch_not_before = clock_now() + keepalive_interval();
}

/*
 * The next keepalive would show that the lease was revoked early; the watch
 * shows it within milliseconds.  Below the sentinel, other servers leave
 * messages for us.
 */
static void
watch_sentinel(void)
{
	static const WatchCallbacks callbacks = {
		sentinel_watched, sentinel_deleted, sentinel_unwatched, sentinel_put
	};
	char		end[KEY_LAYOUT_SIZE];
	EtcdRange	range = {0};

	if (MyLease->sentinel_watch != NULL &&
		(MyLease->state != LEASE_ALIVE || !watch_is_current(MyLease->sentinel_watch)))
		close_sentinel_watch();
	if (MyLease->sentinel_watch != NULL || MyLease->state != LEASE_ALIVE ||
		clock_now() < MyLease->watch_not_before || !link_ready())
		return;
	range.key = lock_shared->sentinel_key;
	range.key_len = strlen(lock_shared->sentinel_key);
	range.end = end;
	range.end_len = key_layout_sentinel_end(end, lock_shared->sentinel_key);
	MyLease->missed = MyLease->shown = 0;
	MyLease->sentinel_watch = watch_open(&range, &callbacks, NULL);
}

/* ----------------------------------------------------------------
 *		Steps
 * ----------------------------------------------------------------
 */

/* A worker continues with the lease of the one before it. */
void
lease_create(const LeaseCallbacks *callbacks)
{
	MyLease = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Lease));
	MyLease->callbacks = *callbacks;
	MyLease->ttl = (int64) etcd_lock_lease_ttl * 1000000;
	if (pg_atomic_read_u64(&lock_shared->lease) == (uint64) lease_id())
		MyLease->state = LEASE_ALIVE;
}

/*
 * The connection may have broken, or etcd may have had no leader: ask again,
 * but not if etcd refuses.  The wait for this is limited.
 */
static void
revoked_for_exit(void *arg, const EtcdResponse *response)
{
	EtcdError	error;
	bool		again = !response->delivered;

	if (MyLease->state != LEASE_LEAVING)
		return;					/* it was sent twice */
	MyLease->busy = false;
	if (response->delivered && response->reply.status != ETCD_OK)
	{
		etcd_response_error(&response->reply, &error);
		again = etcd_error_is_unwell(&error);
	}
	if (again)
		retry_later();
	else
		MyLease->state = LEASE_LEFT;
}

static void
revoke_for_exit(void)
{
	call(etcd_request_lease_revoke(MyLease->leaving),
		 repeatable_timeout(), revoked_for_exit);
}

void
lease_tick(void)
{
	if (MyLease->state == LEASE_ALIVE && deadline_left(&lock_shared->deadline) == 0)
		lease_gone(TOO_LATE);
	watch_sentinel();

	if (MyLease->busy || !link_ready())
		return;
	if (MyLease->refused_by != 0 && MyLease->refused_by != link_generation())
		MyLease->next_time = 0; /* another endpoint */
	if (clock_now() < MyLease->next_time)
		return;
	MyLease->refused_by = 0;
	switch (MyLease->state)
	{
		case LEASE_NONE:
			if (!MyWorker->stopping)
				seek_old_leases();
			break;
		case LEASE_SOUGHT:
			if (!MyWorker->stopping)
				send_grant();
			break;
		case LEASE_GRANTED:
			if (!old_leases_await())
				put_sentinel();
			break;
		case LEASE_ALIVE:
			send_keepalive();
			break;
		case LEASE_LEAVING:
			revoke_for_exit();
			break;
		case LEASE_LEFT:
			break;
	}
}

/*
 * No session holds anything any more, and none will: revoke the lease, with
 * every key on it.
 */
void
lease_revoke_for_exit(void)
{
	Assert(!lease_is_leaving());
	if (!has_lease())
	{
		MyLease->state = LEASE_LEFT;
		return;
	}
	MyLease->leaving = lease_id();
	lease_gone(NULL);
	Assert(MyLease->state == LEASE_NONE);
	MyLease->state = LEASE_LEAVING;
	revoke_for_exit();
}

bool
lease_is_leaving(void)
{
	return MyLease->state >= LEASE_LEAVING;
}

bool
lease_is_revoked(void)
{
	return MyLease->state == LEASE_LEFT;
}
