/*-------------------------------------------------------------------------
 *
 * sim_cluster.c
 *	  The etcd cluster: its members, who leads, and the network to them.
 *
 * There is one state, that of sim_etcd.c, on which the majority agrees.  A
 * request that has to be agreed on (all but keepalives and what is asked about
 * leases) is applied to it at one moment between its arrival and its answer, if
 * there is a leader; one that was on its way to a leader that is no more may be
 * lost or come late.  Members show what was agreed on a while later.
 *
 * A leader that is cut off, or hangs, believes in itself for a while, and
 * answers from what it knew then.
 *
 *-------------------------------------------------------------------------
 */
#include "sim_cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim_message.h"

#define RAFT_DELAY			800 /* microseconds, at most, as a rule */
#define REQUEST_TIMEOUT		(7 * SIM_SECOND)	/* etcd's own */
#define ELECTION_TICK		(100 * SIM_MS)
#define EXPIRY_TICK			(500 * SIM_MS)
#define SYNC_TICK			(100 * SIM_MS)
#define COMPACT_TICK		(30 * SIM_SECOND)
#define KEPT_REVISIONS		2000

typedef struct Member
{
	int			number;
	char		url[64];
	bool		up;
	bool		isolated;
	int64_t		hangs_until;
	int64_t		lag;
	int64_t		shows;			/* newest revision that it shows */
	int64_t		leads_until;	/* deposed: believes in itself until then */
	uint64_t	term;			/* that it knows */
	SimEtcd    *stale;			/* what it knew when it was cut off */
	uint64_t	incarnation;
} Member;

struct SimCall
{
	SimCall    *next;
	SimCall   **link;
	SimProc    *proc;			/* NULL: nobody waits for it any more */
	int			server;
	Member	   *member;
	uint64_t	incarnation;	/* of the member */
	SimAsk	   *ask;
	void	   *arg;
	bool		ended;
	int			references;
	uint64_t	number;

	/* a watch */
	SimWatch   *watch;
	SimCall    *next_watch;		/* all that have one */
	SimCall   **watch_link;
	bool		on_stale;
	bool		stalled;
	int64_t		last_delivery;	/* messages stay in order */
	int			stream;			/* 0: of none */
};

/* What is sent on one stream arrives in order, and so does what comes back. */
typedef struct Stream
{
	int64_t		last_arrival;
	int64_t		last_delivery;
} Stream;

typedef struct Queued
{
	struct Queued *next;
	SimNetEvent event;
} Queued;

/* proc->net */
typedef struct Inbox
{
	Queued	   *first;
	Queued	  **last;
} Inbox;

/* What is to be done when a server's lease has been renewed: sim_net_await_renewal(). */
typedef struct Renewal
{
	void		(*fn) (void *arg);	/* NULL: nothing */
	void	   *arg;
	bool		kept_alive;		/* the sentinel is still to be read */
} Renewal;

SimNetFaults sim_net_faults;
SimNetCounts sim_net_counts;

/* The last read of each queue by each server, by a hash of the name. */
#define LAST_READS		64

typedef struct LastRead
{
	uint64_t	asked;
	uint64_t	told;
	int64_t		at;
} LastRead;

static LastRead last_reads[SIM_MAX_SERVERS + 1][LAST_READS];
int64_t		sim_net_delay = 300;
void		(*sim_after_change) (void) = NULL;
void		(*sim_before_delete) (int server, const char *key, size_t len) = NULL;

static SimEtcd *state;
static SimEtcd *snapshot;
static Member members[SIM_MAX_MEMBERS];
static int	nmembers;
static int	leader;				/* -1: none */
static uint64_t term;
static uint64_t generation;		/* of the state: a restore begins a new one */
static int64_t leaderless_since;
static int64_t election_takes;
static int64_t restored_at;
static bool parted[SIM_MAX_SERVERS + 1][SIM_MAX_MEMBERS];
static int64_t slow_by[SIM_MAX_SERVERS + 1];
static Renewal renewals[SIM_MAX_SERVERS + 1];
static SimCall *calls;
static SimCall *watches;
static uint64_t next_call;
static char endpoints[512];
static uint64_t token;			/* that is valid now; 0: nobody needs one */
static bool refuses_logins;
static char denied[64];			/* what keys that are denied begin with */
static Stream *streams;
static int	nstreams;
static int	max_streams;

static bool
chance(int one_in)
{
	return one_in > 0 && sim_random_one_in(&sim_fault_rand, one_in);
}

static int64_t
network_delay(void)
{
	int64_t		delay = sim_random_between(&sim_rand, sim_net_delay / 6, sim_net_delay);

	if (chance(sim_net_faults.slow))
		delay += sim_random_between(&sim_fault_rand, 1, 3 * SIM_SECOND);
	return delay;
}

/* ----------------------------------------------------------------
 *		Calls
 * ----------------------------------------------------------------
 */

static void
end_watch_of(SimCall *call)
{
	if (call->watch == NULL)
		return;
	sim_etcd_end_watch(call->watch);
	call->watch = NULL;
	*call->watch_link = call->next_watch;
	if (call->next_watch != NULL)
		call->next_watch->watch_link = call->watch_link;
}

static void
release_call(SimCall *call)
{
	if (--call->references > 0)
		return;
	end_watch_of(call);
	*call->link = call->next;
	if (call->next != NULL)
		call->next->link = call->link;
	sim_ask_free(call->ask);
	free(call);
}

static Inbox *
inbox_of(SimProc *proc)
{
	if (proc->net == NULL)
	{
		Inbox	   *inbox = calloc(1, sizeof(Inbox));

		inbox->last = &inbox->first;
		proc->net = inbox;
	}
	return proc->net;
}

static void
enqueue(SimCall *call, SimNetEvent event)
{
	Inbox	   *inbox = inbox_of(call->proc);
	Queued	   *queued = calloc(1, sizeof(Queued));

	event.call = call;
	event.arg = call->arg;
	queued->event = event;
	*inbox->last = queued;
	inbox->last = &queued->next;
	sim_wake(call->proc);
}

/* The process hears of the call's end.  The call is its own until then. */
static void
end_call(SimCall *call, bool delivered, bool ambiguous, const char *error, SimAnswer *answer)
{
	SimNetEvent event = {
		.delivered = delivered,.ambiguous = ambiguous,.error = error,.answer = answer
	};

	if (call->ended || call->proc == NULL)
	{
		sim_answer_free(answer);
		return;
	}
	call->ended = true;
	end_watch_of(call);
	if (sim_tracing)
		sim_trace("   #%" PRIu64 " %s: %s", call->number, sim_proc_name(call->proc),
				  delivered ? sim_answer_text(answer) : error);
	enqueue(call, event);
}

bool
sim_net_pending(void)
{
	return sim_self->net != NULL && ((Inbox *) sim_self->net)->first != NULL;
}

bool
sim_net_next(SimNetEvent *event)
{
	Inbox	   *inbox = sim_self->net;
	Queued	   *queued;

	if (inbox == NULL || inbox->first == NULL)
		return false;
	queued = inbox->first;
	inbox->first = queued->next;
	if (inbox->first == NULL)
		inbox->last = &inbox->first;
	*event = queued->event;
	free(queued);
	if (!event->message)
	{
		event->call->proc = NULL;
		release_call(event->call);
	}
	return true;
}

/* What has come for the call is dropped. */
static void
purge(SimProc *proc, SimCall *call)
{
	Inbox	   *inbox = proc->net;
	Queued	  **link;

	if (inbox == NULL)
		return;
	link = &inbox->first;
	while (*link != NULL)
	{
		Queued	   *queued = *link;

		if (call != NULL && queued->event.call != call)
		{
			link = &queued->next;
			continue;
		}
		*link = queued->next;
		sim_answer_free(queued->event.answer);
		free(queued);
	}
	inbox->last = link;
}

void
sim_net_cancel(SimCall *call)
{
	if (call->proc == NULL)
		return;
	purge(call->proc, call);
	call->proc = NULL;
	end_watch_of(call);
	release_call(call);
}

void
sim_net_forget(SimProc *proc)
{
	SimCall    *call = calls;

	while (call != NULL)
	{
		SimCall    *next = call->next;

		if (call->proc == proc)
		{
			call->proc = NULL;
			end_watch_of(call);
			release_call(call);
		}
		call = next;
	}
	purge(proc, NULL);
	free(proc->net);
	proc->net = NULL;
}

/* ----------------------------------------------------------------
 *		Members
 * ----------------------------------------------------------------
 */

static bool
hangs(const Member *member)
{
	return member->hangs_until > sim_now();
}

static bool
takes_part(const Member *member)
{
	return member->up && !member->isolated && !hangs(member);
}

static int
count_majority(void)
{
	int			n = 0;

	for (int i = 0; i < nmembers; i++)
		n += takes_part(&members[i]);
	return n;
}

static bool
has_leader(void)
{
	return leader >= 0 && takes_part(&members[leader]) && count_majority() > nmembers / 2;
}

bool
sim_cluster_has_leader(void)
{
	return has_leader();
}

int
sim_cluster_leader(void)
{
	return leader;
}

/* Does it know that there is no leader?  (etcd cancels what asks for one.) */
static bool
knows_no_leader(const Member *member)
{
	if (takes_part(member))
		return !has_leader() && sim_now() - leaderless_since > 1500 * SIM_MS;
	return sim_now() > member->leads_until;
}

static bool
believes_to_lead(const Member *member)
{
	return member->stale != NULL && sim_now() < member->leads_until &&
		!(leader == member->number && has_leader());
}

static void
keep_stale(Member *member)
{
	if (member->stale != NULL)
		return;
	member->stale = sim_etcd_copy(state);
	member->term = term;
	member->leads_until = leader == member->number ?
		sim_now() + sim_random_between(&sim_rand, 500 * SIM_MS, 1500 * SIM_MS) : 0;
}

static void
drop_stale(Member *member)
{
	/* Its watches go with it: each process that has one is told. */
	for (SimCall *call = calls; call != NULL; call = call->next)
	{
		if (call->member == member && call->watch != NULL && call->on_stale)
		{
			end_watch_of(call);
			end_call(call, false, true, "the stream has ended", NULL);
		}
	}
	if (member->stale != NULL)
		sim_etcd_free(member->stale);
	member->stale = NULL;
}

static void end_streams(Member *member);

static void
elect(void *arg)
{
	(void) arg;
	if (!has_leader())
	{
		if (leaderless_since == 0)
		{
			leaderless_since = sim_now();
			election_takes = sim_random_between(&sim_rand, 800 * SIM_MS, 2500 * SIM_MS);
		}
		if (count_majority() > nmembers / 2 && sim_now() - leaderless_since >= election_takes)
		{
			int			pick = sim_random_below(&sim_rand, count_majority());

			for (int i = 0; i < nmembers; i++)
			{
				if (takes_part(&members[i]) && pick-- == 0)
					leader = i;
			}
			term += 1 + sim_random_below(&sim_rand, 2);
			sim_etcd_header(state)->raft_term = term;
			sim_etcd_promote(state, sim_now(), sim_random_between(&sim_rand, 0, 2 * SIM_SECOND));
			leaderless_since = 0;
			sim_trace("== member %d leads in term %" PRIu64, leader, term);
		}
	}
	else
		leaderless_since = 0;
	for (int i = 0; i < nmembers; i++)
	{
		Member	   *member = &members[i];

		if (member->stale != NULL && takes_part(member) && sim_now() >= member->leads_until)
			drop_stale(member);
		if (member->up && !hangs(member) && knows_no_leader(member))
			end_streams(member);
	}
	sim_at(sim_now() + ELECTION_TICK, elect, NULL);
}

static void
expire(void *arg)
{
	(void) arg;
	if (has_leader())
	{
		sim_etcd_expire(state, sim_now());
		sim_cluster_changed();
	}
	sim_at(sim_now() + EXPIRY_TICK, expire, NULL);
}

static void
compact(void *arg)
{
	EtcdError	err;

	(void) arg;
	if (has_leader())
		(void) sim_etcd_compact(state, sim_etcd_header(state)->revision - KEPT_REVISIONS, &err);
	sim_at(sim_now() + COMPACT_TICK, compact, NULL);
}

static void
sync_watches(void *arg)
{
	(void) arg;
	for (SimCall *call = watches; call != NULL; call = call->next_watch)
		sim_etcd_sync_watch(call->watch);
	sim_at(sim_now() + SYNC_TICK, sync_watches, NULL);
}

/* ----------------------------------------------------------------
 *		Watches
 * ----------------------------------------------------------------
 */

/* A keepalive counts once the sentinel has been read behind it. */
static void
note_renewal(const SimCall *call, const SimAnswer *answer)
{
	Renewal    *renewal = &renewals[call->server];

	if (renewal->fn == NULL || answer == NULL || answer->code != ETCD_OK)
		return;
	if (answer->method == SIM_LEASE_KEEPALIVE)
		renewal->kept_alive = answer->of.lease.ttl > 0;
	else if (renewal->kept_alive && answer->method == SIM_RANGE && call->ask->op.range.end == NULL &&
			 strncmp(call->ask->op.range.key, ".etcd_lock/server/", 18) == 0)
	{
		sim_at(sim_now() + sim_random_between(&sim_fault_rand, 1, SIM_MS), renewal->fn, renewal->arg);
		renewal->fn = NULL;
	}
}

void
sim_net_await_renewal(int server, void (*fn) (void *arg), void *arg)
{
	renewals[server] = (Renewal) {fn, arg, false};
}

typedef struct Delivery
{
	SimCall    *call;
	SimAnswer  *answer;
	SimNetEvent end;			/* answer NULL or a unary one */
	bool		message;
} Delivery;

static void
deliver(void *arg)
{
	Delivery   *delivery = arg;
	SimCall    *call = delivery->call;
	SimNetEvent event = {.message = true,.answer = delivery->answer};

	if (call->proc != NULL && !call->ended && parted[call->server][call->member->number])
	{
		/* TCP sends again what did not get through; an answer may be too late. */
		sim_at(sim_now() + sim_random_between(&sim_rand, 200 * SIM_MS, 400 * SIM_MS), deliver, delivery);
		return;
	}
	if (!delivery->message && call->proc != NULL && !call->ended)
		note_renewal(call, delivery->answer);
	if (!delivery->message)
		end_call(call, delivery->end.delivered, delivery->end.ambiguous, delivery->end.error,
				 delivery->answer);
	else if (call->proc == NULL || call->ended)
		sim_answer_free(delivery->answer);
	else
	{
		if (sim_tracing)
			sim_trace("   #%" PRIu64 " %s: %s", call->number, sim_proc_name(call->proc),
					  sim_answer_text(delivery->answer));
		enqueue(call, event);
	}
	release_call(call);
	free(delivery);
}

static void
send_back(SimCall *call, SimAnswer *answer, bool message, SimNetEvent end)
{
	Delivery   *delivery = calloc(1, sizeof(Delivery));
	int64_t		at = sim_now() + network_delay() + slow_by[call->server];
	int64_t    *last = call->stream > 0 ? &streams[call->stream - 1].last_delivery :
		&call->last_delivery;

	if (at < *last)
		at = *last;
	*last = at;
	call->last_delivery = at;
	delivery->call = call;
	delivery->answer = answer;
	delivery->message = message;
	delivery->end = end;
	call->references++;
	sim_at(at, deliver, delivery);
}

static void
end_stream(SimCall *call, const char *error)
{
	SimNetEvent end = {.ambiguous = true,.error = error};

	end_watch_of(call);
	send_back(call, NULL, false, end);
}

static void
pump_watch(SimCall *call, int64_t upto)
{
	static const SimNetEvent none;
	EtcdWatchMessage msg;

	while (call->watch != NULL && !call->stalled &&
		   sim_etcd_watch_next(call->watch, upto, &msg))
	{
		SimAnswer  *answer = calloc(1, sizeof(SimAnswer));

		answer->method = SIM_WATCH_CREATE;
		answer->of.watch = msg;
		send_back(call, answer, true, none);
		if (msg.canceled)
			end_stream(call, "cancelled");
		else if (chance(sim_net_faults.stalled_watch))
			call->stalled = true;
		else if (chance(sim_net_faults.cancelled_watch))
			sim_etcd_cancel_watch(call->watch, "etcdserver: no leader");
	}
}

/* The member has caught up with this revision. */
typedef struct CaughtUp
{
	Member	   *member;
	int64_t		revision;
	uint64_t	generation;
} CaughtUp;

static void
catch_up(void *arg)
{
	CaughtUp   *caught = arg;
	Member	   *member = caught->member;

	if (caught->generation == generation && member->up && !hangs(member) && !member->isolated)
	{
		SimCall    *next;

		if (caught->revision > member->shows)
			member->shows = caught->revision;
		for (SimCall *call = watches; call != NULL; call = next)
		{
			next = call->next_watch;
			if (call->member == member && !call->on_stale)
				pump_watch(call, member->shows);
		}
	}
	free(caught);
}

static int64_t told_revision;

void
sim_cluster_changed(void)
{
	int64_t		revision = sim_etcd_header(state)->revision;

	if (revision == told_revision)
		return;
	told_revision = revision;
	if (sim_after_change != NULL)
		sim_after_change();
	for (int i = 0; i < nmembers; i++)
	{
		CaughtUp   *caught = calloc(1, sizeof(CaughtUp));

		caught->member = &members[i];
		caught->revision = revision;
		caught->generation = generation;
		sim_at(sim_now() + sim_random_between(&sim_rand, 10, 200) + members[i].lag, catch_up, caught);
	}
}

/* ----------------------------------------------------------------
 *		Requests
 * ----------------------------------------------------------------
 */

static SimAnswer *
refusal(const SimAsk *ask, EtcdCode code, const char *message)
{
	SimAnswer  *answer = calloc(1, sizeof(SimAnswer));

	answer->method = ask->method;
	answer->code = code;
	answer->error.code = code;
	snprintf(answer->error.message, sizeof(answer->error.message), "%s", message);
	return answer;
}

/* It is applied to this state. */
static SimAnswer *
carry_out(SimEtcd *on, const SimAsk *ask, bool effect)
{
	SimAnswer  *answer = calloc(1, sizeof(SimAnswer));
	EtcdError	err;
	bool		ok = true;

	answer->method = ask->method;
	switch (ask->method)
	{
		case SIM_RANGE:
			ok = sim_etcd_range(on, &ask->op, &answer->of.range, &err);
			break;
		case SIM_TXN:
			ok = sim_etcd_txn(on, &ask->txn, &answer->of.txn, &err);
			break;
		case SIM_LEASE_GRANT:
			ok = sim_etcd_lease_grant(on, ask->id, ask->ttl, sim_now(), &answer->of.lease, &err);
			break;
		case SIM_LEASE_REVOKE:
			ok = sim_etcd_lease_revoke(on, ask->id, &answer->of.header, &err);
			break;
		case SIM_LEASE_KEEPALIVE:
			sim_etcd_lease_keepalive(on, ask->id, sim_now(), effect, &answer->of.lease);
			break;
		case SIM_LEASE_TIMETOLIVE:
			sim_etcd_lease_timetolive(on, ask->id, ask->keys, sim_now(), &answer->of.lease);
			break;
		case SIM_STATUS:
			answer->of.status.header = *sim_etcd_header(on);
			snprintf(answer->of.status.version, sizeof(answer->of.status.version), "3.5.16");
			answer->of.status.db_size = answer->of.status.db_size_in_use = 1000000;
			answer->of.status.leader = leader + 1;
			break;
		case SIM_AUTHENTICATE:
			ok = token != 0 && !refuses_logins;
			if (ok)
			{
				answer->of.auth.header = *sim_etcd_header(on);
				answer->of.auth.token = malloc(24);
				snprintf(answer->of.auth.token, 24, "%" PRIu64, token);
				break;
			}
			memset(&err, 0, sizeof(err));
			err.code = token == 0 ? ETCD_FAILED_PRECONDITION : ETCD_INVALID_ARGUMENT;
			snprintf(err.message, sizeof(err.message), "etcdserver: %s", token == 0 ?
					 "authentication is not enabled" :
					 "authentication failed, invalid user ID or password");
			break;
		case SIM_WATCH_CREATE:
		case SIM_WATCH_CANCEL:
		case SIM_CONNECT:
			break;
	}
	if (!ok)
	{
		answer->code = err.code;
		answer->error = err;
	}
	return answer;
}

static EtcdHeader *
header_of(SimAnswer *answer)
{
	return answer->code != ETCD_OK ? NULL :
		answer->method == SIM_RANGE ? &answer->of.range.header :
		answer->method == SIM_TXN ? &answer->of.txn.header :
		answer->method == SIM_STATUS ? &answer->of.status.header :
		answer->method == SIM_LEASE_REVOKE ? &answer->of.header : &answer->of.lease.header;
}

static void
reply(SimCall *call, SimAnswer *answer)
{
	SimNetEvent end = {.delivered = true};
	EtcdHeader *header = header_of(answer);

	if (header != NULL)
		header->member_id = call->member->number + 1;
	if (chance(sim_net_faults.loss))
	{
		sim_net_counts.lost++;
		sim_answer_free(answer);
		return;
	}
	send_back(call, answer, false, end);
}

/* A member without a leader ends the streams that are to have one. */
static void
end_streams(Member *member)
{
	for (SimCall *call = calls; call != NULL; call = call->next)
	{
		if (call->member != member || call->watch == NULL || call->stream == 0)
			continue;
		end_watch_of(call);
		if (call->proc != NULL && !call->ended)
			reply(call, refusal(call->ask, ETCD_UNAVAILABLE, "etcdserver: no leader"));
	}
}

/* The call goes on later. */
static void
later(SimCall *call, int64_t delay, void (*step) (void *arg))
{
	call->references++;
	sim_at(sim_now() + delay, step, call);
}

static bool
needs_agreement(const SimAsk *ask)
{
	switch (ask->method)
	{
		case SIM_LEASE_KEEPALIVE:
		case SIM_LEASE_TIMETOLIVE:
		case SIM_STATUS:
		case SIM_WATCH_CREATE:
		case SIM_WATCH_CANCEL:
			return false;
		default:
			return true;
	}
}

static void
time_out(void *arg)
{
	SimCall    *call = arg;

	if (!call->ended && call->proc != NULL)
		reply(call, refusal(call->ask, ETCD_UNAVAILABLE, "etcdserver: request timed out"));
	release_call(call);
}

/* Of Txns that look at keys and delete them, nothing else: they break a lock. */
static void
tell_of_delete(const SimCall *call)
{
	const EtcdTxn *txn = &call->ask->txn;

	if (call->ask->method != SIM_TXN || sim_before_delete == NULL || txn->ncompare == 0)
		return;
	for (int i = 0; i < txn->nsuccess; i++)
	{
		const EtcdOp *op = &txn->success[i];

		if (op->type == ETCD_OP_DELETE && op->range.end == NULL)
			sim_before_delete(call->server, op->range.key, op->range.key_len);
	}
}

/* ---- reads of queues that tell a server nothing ---- */

static uint64_t
mix(uint64_t hash, const void *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ ((const unsigned char *) bytes)[i]) * UINT64_C(0x100000001B3);
	return hash;
}

static void
note_read(int server, const EtcdRange *range, const EtcdOpResult *result)
{
	uint64_t	asked = mix(UINT64_C(0xCBF29CE484222325), range->key, range->key_len);
	uint64_t	told = asked;
	LastRead   *last = &last_reads[server][asked % LAST_READS];

	for (int i = 0; i < result->nkvs; i++)
		told = mix(told, &result->kvs[i].mod_revision, sizeof(int64_t));
	sim_net_counts.reads++;
	sim_net_counts.repeated += last->asked == asked && last->told == told &&
		sim_now() - last->at < SIM_SECOND;
	*last = (LastRead) {asked, told, sim_now()};
}

static void
note_reads(int server, const EtcdOp *ops, const EtcdOpResult *results, int n)
{
	for (int i = 0; i < n; i++)
	{
		const EtcdTxn *txn = ops[i].txn;
		bool		succeeded = results[i].succeeded;

		if (ops[i].type == ETCD_OP_RANGE && ops[i].range.end != NULL)
			note_read(server, &ops[i].range, &results[i]);
		else if (ops[i].type == ETCD_OP_TXN)
			note_reads(server, succeeded ? txn->success : txn->failure, results[i].results,
					   results[i].nresults);
	}
}

/* Requests about the servers themselves are others. */
static void
note_reads_of(const SimCall *call, const SimAnswer *answer)
{
	const EtcdTxn *txn = &call->ask->txn;
	const EtcdTxnResult *result = &answer->of.txn;

	if (answer->code != ETCD_OK)
		return;
	if (call->ask->method == SIM_RANGE)
		note_reads(call->server, &call->ask->op, &answer->of.range.range, 1);
	else if (call->ask->method == SIM_TXN)
		note_reads(call->server, result->succeeded ? txn->success : txn->failure,
				   result->results, result->nresults);
}

static void
apply_silently(void *arg)
{
	SimCall    *call = arg;

	if (has_leader())
	{
		tell_of_delete(call);
		sim_answer_free(carry_out(state, call->ask, true));
		sim_cluster_changed();
		sim_trace("   #%" PRIu64 " %s is applied, unseen", call->number, sim_ask_text(call->ask));
	}
	release_call(call);
}

static void
apply(void *arg)
{
	SimCall    *call = arg;

	if (!has_leader() || call->incarnation != call->member->incarnation)
	{
		/* It was on its way when the leader went. */
		later(call, REQUEST_TIMEOUT, time_out);
		if (call->incarnation == call->member->incarnation && sim_random_one_in(&sim_rand, 2))
			later(call, sim_random_between(&sim_rand, 1, 6 * SIM_SECOND), apply_silently);
	}
	else
	{
		SimAnswer  *answer;

		tell_of_delete(call);
		answer = carry_out(state, call->ask, true);
		sim_net_counts.writes += call->ask->method == SIM_TXN && sim_etcd_txn_writes(&call->ask->txn);
		note_reads_of(call, answer);
		sim_cluster_changed();
		reply(call, answer);
		if (chance(sim_net_faults.twice))
			later(call, sim_random_between(&sim_fault_rand, 1, 2 * SIM_SECOND), apply_silently);
	}
	release_call(call);
}

/* A keepalive and the like: what the leader knows by itself. */
static void
ask_leader(SimCall *call)
{
	Member	   *member = call->member;

	if (believes_to_lead(member))
	{
		/* one that cannot end a lease that has run out does not answer, either */
		if (call->ask->method == SIM_LEASE_KEEPALIVE &&
			sim_etcd_lease_expired(member->stale, call->ask->id, sim_now()))
			later(call, REQUEST_TIMEOUT, time_out);
		else
			reply(call, carry_out(member->stale, call->ask, true));
	}
	else if (!takes_part(member) || !has_leader())
	{
		if (knows_no_leader(member))
			reply(call, refusal(call->ask, ETCD_UNAVAILABLE, "etcdserver: no leader"));
		else
			later(call, REQUEST_TIMEOUT, time_out);
	}
	else
	{
		SimAnswer  *answer = carry_out(state, call->ask, true);

		sim_cluster_changed();	/* a lease may have run out */
		reply(call, answer);
	}
}

/* ---- who may do what ---- */

static bool
key_denied(const EtcdRange *range)
{
	size_t		len = strlen(denied);

	return len > 0 && range->key_len >= len && memcmp(range->key, denied, len) == 0;
}

static bool txn_denied(const EtcdTxn *txn);

static bool
ops_denied(const EtcdOp *ops, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (ops[i].type == ETCD_OP_TXN ? txn_denied(ops[i].txn) : key_denied(&ops[i].range))
			return true;
	}
	return false;
}

static bool
txn_denied(const EtcdTxn *txn)
{
	for (int i = 0; i < txn->ncompare; i++)
	{
		if (key_denied(&txn->compare[i].range))
			return true;
	}
	return ops_denied(txn->success, txn->nsuccess) || ops_denied(txn->failure, txn->nfailure);
}

/* Why it may not be applied; NULL: it may. */
static const char *
denial(const SimAsk *ask, EtcdCode *code)
{
	bool		is_denied = false;

	switch (ask->method)
	{
		case SIM_RANGE:
		case SIM_WATCH_CREATE:
			is_denied = key_denied(&ask->op.range);
			break;
		case SIM_TXN:
			is_denied = txn_denied(&ask->txn);
			break;
		case SIM_LEASE_GRANT:
		case SIM_LEASE_REVOKE:
			break;
		default:
			return NULL;		/* no token is asked for */
	}
	*code = ETCD_UNAUTHENTICATED;
	if (token != 0 && ask->token != token)
		return "etcdserver: invalid auth token";
	*code = ETCD_PERMISSION_DENIED;
	return is_denied ? "etcdserver: permission denied" : NULL;
}

void
sim_auth_enable(void)
{
	token = 1;
}

void
sim_auth_forget(void)
{
	if (token == 0)
		return;
	token++;
	sim_trace("== etcd forgets its tokens");
}

void
sim_auth_refuse(bool refuse)
{
	if (refuses_logins != refuse)
		sim_trace("== etcd %s", refuse ? "lets nobody log in" : "lets everybody log in again");
	refuses_logins = refuse;
}

void
sim_auth_deny(const char *prefix)
{
	if (prefix == NULL && denied[0] != '\0')
		sim_trace("== keys of %s are allowed again", denied);
	if (prefix != NULL)
		sim_trace("== keys of %s are denied", prefix);
	snprintf(denied, sizeof(denied), "%s", prefix != NULL ? prefix : "");
}

static void
refuse_watch(SimCall *call, const char *why)
{
	SimAnswer  *answer = calloc(1, sizeof(SimAnswer));
	static const SimNetEvent none;

	answer->method = SIM_WATCH_CREATE;
	answer->of.watch.header = *sim_etcd_header(state);
	answer->of.watch.created = true;
	answer->of.watch.canceled = true;
	snprintf(answer->of.watch.cancel_reason, sizeof(answer->of.watch.cancel_reason), "%s", why);
	send_back(call, answer, true, none);
	end_stream(call, "cancelled");
}

static void
create_watch(SimCall *call)
{
	Member	   *member = call->member;
	SimEtcd    *on = member->stale != NULL ? member->stale : state;

	if (knows_no_leader(member) && call->stream > 0)
	{
		reply(call, refusal(call->ask, ETCD_UNAVAILABLE, "etcdserver: no leader"));
		return;
	}
	if (knows_no_leader(member))
	{
		refuse_watch(call, "etcdserver: no leader");
		return;
	}
	call->on_stale = member->stale != NULL;
	call->watch = sim_etcd_watch(on, &call->ask->op.range, call->ask->deletes_only, false, 0,
								 member->stale != NULL ? 0 : member->shows);
	call->next_watch = watches;
	call->watch_link = &watches;
	if (watches != NULL)
		watches->watch_link = &call->next_watch;
	watches = call;
	sim_net_counts.watches++;
	pump_watch(call, member->stale != NULL ? sim_etcd_header(on)->revision : member->shows);
}

/* The watch with this id on this stream: its last message says that it is no more. */
static void
cancel_watch(SimCall *cancel)
{
	SimCall    *next;

	for (SimCall *call = watches; call != NULL; call = next)
	{
		next = call->next_watch;
		if (call->stream == cancel->stream && call->ask->id == cancel->ask->id)
		{
			sim_etcd_cancel_watch(call->watch, "");
			pump_watch(call, call->member->shows);
		}
	}
}

static void
arrive(void *arg)
{
	SimCall    *call = arg;
	Member	   *member = call->member;
	EtcdCode	code = ETCD_OK;
	const char *refused = denial(call->ask, &code);

	if (!member->up || call->incarnation != member->incarnation)
	{
		SimNetEvent end = {.ambiguous = true,.error = "connection reset"};

		send_back(call, NULL, false, end);
	}
	else if (hangs(member))
	{
		/* It is looked at when the member goes on. */
		later(call, member->hangs_until - sim_now() + sim_random_between(&sim_rand, 1, 20 * SIM_MS),
			  arrive);
	}
	else if (call->ask->method == SIM_CONNECT)
	{
		static const SimNetEvent none;

		send_back(call, carry_out(state, call->ask, true), true, none);
	}
	else if (refused != NULL && call->ask->method != SIM_WATCH_CREATE)
		reply(call, refusal(call->ask, code, refused));
	else if (call->ask->method == SIM_WATCH_CREATE)
	{
		if (call->proc == NULL || call->ended)
			 /* nobody waits for it any more */ ;
		else if (refused != NULL)
			refuse_watch(call, refused);
		else
			create_watch(call);
	}
	else if (call->ask->method == SIM_WATCH_CANCEL)
		cancel_watch(call);
	else if (chance(sim_net_faults.refused))
		reply(call, sim_random_one_in(&sim_fault_rand, 2) ?
			  refusal(call->ask, ETCD_RESOURCE_EXHAUSTED, "etcdserver: too many requests") :
			  refusal(call->ask, ETCD_UNAVAILABLE, "etcdserver: leader changed"));
	else if (call->ask->method == SIM_STATUS)
		reply(call, carry_out(member->stale != NULL ? member->stale : state, call->ask, true));
	else if (!needs_agreement(call->ask))
		ask_leader(call);
	else if (!takes_part(member) || !has_leader())
	{
		if (knows_no_leader(member))
			reply(call, refusal(call->ask, ETCD_UNAVAILABLE, "etcdserver: no leader"));
		else
		{
			later(call, REQUEST_TIMEOUT, time_out);
			if (takes_part(member) && sim_random_one_in(&sim_rand, 3))
				later(call, sim_random_between(&sim_rand, 1, 6 * SIM_SECOND), apply_silently);
		}
	}
	else
		later(call, sim_random_between(&sim_rand, 50, RAFT_DELAY) + member->lag, apply);
	release_call(call);
}

static void
break_call(void *arg)
{
	SimCall    *call = arg;

	end_call(call, false, true, "connection reset", NULL);
	release_call(call);
}

static void
refuse_call(void *arg)
{
	SimCall    *call = arg;

	end_call(call, false, false, "connection refused", NULL);
	release_call(call);
}

static void
call_timeout(void *arg)
{
	SimCall    *call = arg;

	if (!call->ended && call->proc != NULL)
		end_call(call, false, true, "timeout", NULL);
	release_call(call);
}

static void
connect_timeout(void *arg)
{
	SimCall    *call = arg;

	if (!call->ended && call->proc != NULL && call->watch == NULL && call->last_delivery == 0)
		end_call(call, false, false, "timeout while connecting", NULL);
	release_call(call);
}

static Member *
find_member(const char *url)
{
	for (int i = 0; i < nmembers; i++)
	{
		if (strcmp(members[i].url, url) == 0)
			return &members[i];
	}
	sim_panic("no member at \"%s\"", url);
}

int
sim_net_stream(void)
{
	if (nstreams == max_streams)
	{
		max_streams = max_streams == 0 ? 64 : 2 * max_streams;
		streams = realloc(streams, max_streams * sizeof(Stream));
		if (streams == NULL)
			abort();
	}
	memset(&streams[nstreams], 0, sizeof(Stream));
	return ++nstreams;
}

/* TCP sends again until it gets through: late, and the process that asked may have given up. */
static void
send_again(void *arg)
{
	SimCall    *call = arg;

	if (parted[call->server][call->member->number])
		later(call, sim_random_between(&sim_rand, 200 * SIM_MS, 800 * SIM_MS), send_again);
	else
		later(call, network_delay(), arrive);
	release_call(call);
}

/* When it arrives: not before what was sent on the stream before. */
static int64_t
arrival_delay(const SimCall *call)
{
	int64_t		at = sim_now() + network_delay() + slow_by[call->server];

	if (call->stream > 0)
	{
		Stream	   *stream = &streams[call->stream - 1];

		if (at < stream->last_arrival)
			at = stream->last_arrival;
		stream->last_arrival = at;
	}
	return at - sim_now();
}

SimCall *
sim_net_call(const char *endpoint, SimAsk *ask, int64_t timeout, int stream, void *arg)
{
	SimCall    *call = calloc(1, sizeof(SimCall));

	call->stream = stream;
	call->proc = sim_self;
	call->server = sim_self->server->number;
	call->member = find_member(endpoint);
	call->incarnation = call->member->incarnation;
	call->ask = ask;
	call->arg = arg;
	call->references = 1;
	call->number = ++next_call;
	call->next = calls;
	call->link = &calls;
	if (calls != NULL)
		calls->link = &call->next;
	calls = call;
	sim_net_counts.requests++;
	sim_trace("#%" PRIu64 " to %d: %s", call->number, call->member->number, sim_ask_text(ask));

	if (timeout > 0)
		later(call, timeout, ask->method == SIM_CONNECT || ask->method == SIM_WATCH_CREATE ?
			  connect_timeout : call_timeout);
	if (parted[call->server][call->member->number])
	{
		if (sim_random_one_in(&sim_rand, 2))
			later(call, 200 * SIM_MS, send_again);
	}
	else if (!call->member->up)
		later(call, network_delay(), refuse_call);
	else if (stream == 0 && chance(sim_net_faults.loss))
		sim_net_counts.lost++;
	else if (chance(sim_net_faults.broken))
	{
		later(call, sim_random_between(&sim_fault_rand, 1, 2 * sim_net_delay), break_call);
		if (sim_random_one_in(&sim_fault_rand, 2))
			later(call, arrival_delay(call), arrive);
	}
	else
		later(call, arrival_delay(call), arrive);
	return call;
}

/* ----------------------------------------------------------------
 *		Faults
 * ----------------------------------------------------------------
 */

/* All connections to it break; who is on the other side of a partition knows nothing. */
static void
cut_connections(Member *member)
{
	SimCall    *next;

	for (SimCall *call = calls; call != NULL; call = next)
	{
		next = call->next;
		if (call->member != member || call->proc == NULL || call->ended)
			continue;
		end_watch_of(call);
		if (!parted[call->server][member->number])
			end_call(call, false, true, "connection reset", NULL);
	}
}

void
sim_member_stop(int number)
{
	Member	   *member = &members[number];

	if (!member->up)
		return;
	sim_trace("== member %d stops", number);
	member->up = false;
	member->incarnation++;
	sim_auth_forget();
	cut_connections(member);
	drop_stale(member);
}

void
sim_member_restart(int number)
{
	Member	   *member = &members[number];

	if (member->up)
		return;
	sim_trace("== member %d is back", number);
	member->up = true;
	member->shows = sim_etcd_header(state)->revision;
	member->leads_until = 0;
}

void
sim_member_hang(int number, int64_t until)
{
	Member	   *member = &members[number];

	sim_trace("== member %d hangs until %.3f", number, (double) until / 1000);
	keep_stale(member);
	if (leader == number && until - sim_now() > 500 * SIM_MS)
		member->leads_until = until + sim_random_between(&sim_rand, 0, 800 * SIM_MS);
	member->hangs_until = until;
}

void
sim_member_isolate(int number, bool isolated)
{
	Member	   *member = &members[number];

	if (member->isolated == isolated)
		return;
	sim_trace("== member %d is %s", number, isolated ? "cut off" : "with the others again");
	if (isolated)
		keep_stale(member);
	else
	{
		drop_stale(member);
		member->shows = sim_etcd_header(state)->revision;
	}
	member->isolated = isolated;
}

void
sim_member_lag(int number, int64_t lag)
{
	members[number].lag = lag;
}

void
sim_net_part(int server, int member, bool value)
{
	if (parted[server][member] != value)
		sim_trace("== server %d and member %d %s", server, member, value ? "are parted" : "meet again");
	parted[server][member] = value;
}

void
sim_net_slow(int server, int64_t by)
{
	if (slow_by[server] != by)
		sim_trace("== server %d's network takes %.3f ms more each way", server, (double) by / 1000);
	slow_by[server] = by;
}

void
sim_cluster_move_leader(void)
{
	if (!has_leader() || nmembers < 3)
		return;
	keep_stale(&members[leader]);
	members[leader].leads_until = sim_now() + sim_random_between(&sim_rand, 0, 300 * SIM_MS);
	leader = -1;
}

void
sim_cluster_take_snapshot(void)
{
	if (snapshot != NULL)
		sim_etcd_free(snapshot);
	snapshot = sim_etcd_copy(state);
}

int64_t
sim_cluster_restored_at(void)
{
	return restored_at;
}

void
sim_cluster_restore(bool other_cluster)
{
	uint64_t	cluster = sim_etcd_header(state)->cluster_id;

	if (snapshot == NULL)
		return;
	sim_trace("== etcd is restored from a snapshot: revision %" PRId64 " after %" PRId64,
			  sim_etcd_header(snapshot)->revision, sim_etcd_header(state)->revision);
	for (int i = 0; i < nmembers; i++)
	{
		members[i].up = true;
		sim_member_stop(i);
	}
	for (SimCall *call = calls; call != NULL; call = call->next)
		end_watch_of(call);
	sim_etcd_free(state);
	state = snapshot;
	snapshot = NULL;
	sim_etcd_header(state)->cluster_id = other_cluster ? cluster + 1 : cluster;
	generation++;
	told_revision = 0;
	term++;
	sim_etcd_header(state)->raft_term = term;
	sim_etcd_promote(state, sim_now(), 0);
	restored_at = sim_now();
	for (int i = 0; i < nmembers; i++)
	{
		members[i].isolated = false;
		members[i].hangs_until = 0;
		sim_member_restart(i);
	}
	leader = -1;
}

int
sim_net_nwatches(void)
{
	int			n = 0;

	for (SimCall *call = calls; call != NULL; call = call->next)
		n += call->watch != NULL;
	return n;
}

/* ----------------------------------------------------------------
 *		All of it
 * ----------------------------------------------------------------
 */

SimEtcd *
sim_cluster_state(void)
{
	return state;
}

const char *
sim_cluster_endpoints(void)
{
	return endpoints;
}

const char *
sim_cluster_endpoint(int member)
{
	return members[member].url;
}

int
sim_cluster_nmembers(void)
{
	return nmembers;
}

void
sim_cluster_start(int n)
{
	state = sim_etcd_create();
	nmembers = n;
	leader = 0;
	term = 2;
	generation = 1;
	leaderless_since = 0;
	restored_at = 0;
	told_revision = 0;
	next_call = 0;
	token = 0;
	refuses_logins = false;
	denied[0] = '\0';
	nstreams = 0;
	calls = NULL;
	watches = NULL;
	memset(members, 0, sizeof(members));
	memset(parted, 0, sizeof(parted));
	memset(slow_by, 0, sizeof(slow_by));
	memset(renewals, 0, sizeof(renewals));
	memset(&sim_net_counts, 0, sizeof(sim_net_counts));
	memset(last_reads, 0, sizeof(last_reads));
	endpoints[0] = '\0';
	for (int i = 0; i < n; i++)
	{
		Member	   *member = &members[i];

		member->number = i;
		member->up = true;
		member->shows = 1;
		member->incarnation = 1;
		snprintf(member->url, sizeof(member->url), "http://10.0.0.%d:2379", i + 1);
		if (i > 0)
			strcat(endpoints, ",");
		strcat(endpoints, member->url);
	}
	elect(NULL);
	expire(NULL);
	compact(NULL);
	sync_watches(NULL);
}

void
sim_cluster_end(void)
{
	while (calls != NULL)
	{
		calls->references = 1;
		end_watch_of(calls);
		release_call(calls);
	}
	for (int i = 0; i < nmembers; i++)
	{
		if (members[i].stale != NULL)
			sim_etcd_free(members[i].stale);
	}
	if (snapshot != NULL)
		sim_etcd_free(snapshot);
	snapshot = NULL;
	sim_etcd_free(state);
}
