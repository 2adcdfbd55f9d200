/*-------------------------------------------------------------------------
 *
 * sim_world.c
 *	  One run: its plan, its servers and their postmasters, its faults.
 *
 * A run has three parts: with faults; without them, when everybody must be
 * served; and the end, when nobody wants anything any more and nothing may be
 * left.
 *
 *-------------------------------------------------------------------------
 */
#include "sim_world.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALM			(32 * SIM_SECOND)	/* without faults, but with work */
#define LAST_STATEMENTS	(45 * SIM_SECOND)	/* for sessions to end */
#define CLEANING		(15 * SIM_SECOND)	/* for what they leave to go */
#define WORKER_RESTART	SIM_SECOND

SimPlan		sim_plan;
SimCounts	sim_counts;
bool		sim_faults_on;
int64_t		sim_faults_over_at;
bool		sim_work_over;

static int64_t began_at;
static int	faults_left;		/* -1: no limit */
static bool nospace;
static int64_t slow_not_before;

/* ----------------------------------------------------------------
 *		What the servers' processes call
 * ----------------------------------------------------------------
 */

const char *
sim_setting(const char *name)
{
	static char value[32];
	const SimPlan *plan = &sim_plan;
	const struct
	{
		const char *name;
		int			value;
	}			ints[] = {
		{"etcd_lock.lease_ttl", plan->lease_ttl},
		{"etcd_lock.handoff_window", plan->handoff_window},
		{"etcd_lock.keep_window", plan->keep_window},
		{"etcd_lock.commit_guard", plan->commit_guard},
		{"etcd_lock.on_loss", plan->on_loss},
		{"etcd_lock.connect_timeout", plan->connect_timeout},
		{"etcd_lock.request_timeout", plan->request_timeout},
		{"etcd_lock.synchronous_release", plan->synchronous_release},
		{"synchronous_commit", plan->synchronous_commit},
		{"deadlock_timeout", plan->deadlock_timeout},
		{"etcd_lock.max_names", 32}
	};

	if (strcmp(name, "etcd_lock.endpoints") == 0)
		return plan->one_endpoint ? sim_cluster_endpoint((sim_server() - 1) % plan->nmembers) :
			sim_cluster_endpoints();
	if ((plan->faults & FAULT_AUTH) != 0 && strcmp(name, "etcd_lock.username") == 0)
		return "locker";
	if ((plan->faults & FAULT_AUTH) != 0 && strcmp(name, "etcd_lock.password_file") == 0)
		return "/password";
	for (size_t i = 0; i < sizeof(ints) / sizeof(ints[0]); i++)
	{
		if (strcmp(name, ints[i].name) == 0)
		{
			snprintf(value, sizeof(value), "%d", ints[i].value);
			return value;
		}
	}
	return NULL;
}

/* Only the worker runs out of memory, so that it ends at any step. */
bool
sim_should_fail(const char *what)
{
	(void) what;
	if (!sim_faults_on || (sim_plan.faults & FAULT_WORKER) == 0 || sim_checking ||
		sim_self == NULL || sim_self->kind != SIM_WORKER || faults_left == 0 ||
		!sim_random_one_in(&sim_fault_rand, 30000))
		return false;
	sim_counts.faults++;
	if (faults_left > 0)
		faults_left--;
	return true;
}

void
sim_commit_begins(void)
{
	sim_check_commit_begins(sim_self);
}

bool
sim_may_interrupt(void)
{
	return (sim_plan.faults & (FAULT_CANCEL | FAULT_SHUTDOWN)) != 0 ||
		sim_check_sender_stood_still(sim_self);
}

void
sim_epoch_ends(void)
{
	sim_check_epoch_ended(sim_self->server);
}

void
sim_wrong(const char *what)
{
	sim_violation("%s: %s", sim_proc_name(sim_self), what);
}

static void
check_committed(bool changes, int lost, bool guarded)
{
	if (changes && guarded && sim_plan.commit_guard != 0)
		sim_check_committed(sim_self);
	if (changes && lost > 0 && sim_plan.commit_guard != 0)
		sim_violation("%s has committed a change after it had lost a lock", sim_proc_name(sim_self));
}

/* By another module, before the commit here. */
void
sim_committed_elsewhere(int lost, bool guarded)
{
	check_committed(true, lost, guarded);
}

void
sim_committed(bool changes, int lost, bool guarded)
{
	sim_counts.guarded += changes && guarded;
	check_committed(changes, lost, guarded);
}

/* ----------------------------------------------------------------
 *		Postmasters
 * ----------------------------------------------------------------
 */

/* What is to be started later, unless the server's memory is new by then. */
typedef struct Start
{
	SimServer  *server;
	int			procno;
	int			generation;
} Start;

static void
start_now(void *arg)
{
	Start	   *start = arg;
	SimServer  *server = start->server;

	if (server->up && !server->stopping && server->generation == start->generation &&
		!server->procs[start->procno].alive)
	{
		if (start->procno == SIM_WORKER_PROCNO)
			sim_proc_start(server, start->procno, SIM_WORKER, NULL, NULL);
		else if (!sim_work_over)
			sim_proc_start(server, start->procno, SIM_SESSION, sim_session_body, NULL);
	}
	free(start);
}

static void
start_later(SimServer *server, int procno, int64_t delay)
{
	Start	   *start = malloc(sizeof(Start));

	start->server = server;
	start->procno = procno;
	start->generation = server->generation;
	sim_at(sim_now() + delay, start_now, start);
}

static void
start_all(SimServer *server)
{
	start_later(server, SIM_WORKER_PROCNO, sim_random_between(&sim_rand, 1, 20 * SIM_MS));
	for (int i = 1; i < server->nprocs; i++)
		start_later(server, i, sim_random_between(&sim_rand, 1, 100 * SIM_MS));
}

static void boot(SimServer *server);

static void
boot_later(void *arg)
{
	boot(arg);
}

/* machine: it is off, too, and so is its memory of what ran */
static void
go_down(SimServer *server, bool machine, int64_t duration)
{
	if (machine)
		server->boot++;
	sim_check_went_down(server, !machine);
	sim_server_halt(server);
	sim_at(sim_now() + duration, boot_later, server);
}

static void
crash(SimServer *server)
{
	if (server->stopping)
	{
		/* a postmaster that shuts down does not start anew */
		go_down(server, false, sim_random_between(&sim_rand, 1, SIM_SECOND));
		return;
	}
	sim_trace("== server %d: crash restart", server->number);
	sim_server_crash(server);
	start_all(server);
}

static void
proc_gone(SimProc *proc)
{
	sim_net_forget(proc);
	sim_check_forget(proc);
	if (proc->kind == SIM_SESSION)
		sim_workload_forget(proc);
}

static bool
anybody_alive(const SimServer *server)
{
	for (int i = 0; i < server->nprocs; i++)
	{
		if (server->procs[i].alive)
			return true;
	}
	return false;
}

static void
proc_ended(SimProc *proc, int code)
{
	SimServer  *server = proc->server;

	sim_trace("== %s has ended with %d", sim_proc_name(proc), code);
	if (server->stopping && (code == 0 || code == 1))
	{
		if (anybody_alive(server))
			return;
		sim_trace("== server %d is shut down", server->number);
		go_down(server, false, sim_random_between(&sim_rand, 1, 2 * SIM_SECOND));
	}
	else if (code != 0 && code != 1)
	{
		sim_violation("%s has ended with %d", sim_proc_name(proc), code);
		crash(server);
	}
	else if (proc->kind == SIM_WORKER)
		start_later(server, SIM_WORKER_PROCNO, WORKER_RESTART);
	else
		start_later(server, proc->procno, sim_random_between(&sim_rand, 1, 200 * SIM_MS));
}

static void
boot(SimServer *server)
{
	sim_server_boot(server);
	start_all(server);
}

/* ----------------------------------------------------------------
 *		Faults
 * ----------------------------------------------------------------
 */

static int64_t
random_between(int64_t low, int64_t high)
{
	return sim_random_between(&sim_fault_rand, low, high);
}

static int
below(int n)
{
	return (int) sim_random_below(&sim_fault_rand, n);
}

static SimServer *
any_server(void)
{
	return &sim_servers[below(sim_nservers)];
}

/* How long a fault lasts: often short, at times longer than a lease. */
static int64_t
duration(void)
{
	switch (below(4))
	{
		case 0:
			return random_between(1, 100 * SIM_MS);
		case 1:
			return random_between(100 * SIM_MS, 2 * SIM_SECOND);
		case 2:
			return random_between(SIM_SECOND, 8 * SIM_SECOND);
		default:
			return random_between(1, sim_plan.lease_ttl * 2 * SIM_SECOND);
	}
}

/* A process stands still for so long that nothing can be promised about it. */
static int64_t
pause_duration(void)
{
	return sim_plan.pause_long ? duration() : random_between(1, 400 * SIM_MS);
}

static void
end_partition(void *arg)
{
	int			pair = (int) (intptr_t) arg;

	sim_net_part(pair / 100, pair % 100, false);
}

static void
part_network(void)
{
	int			server = 1 + below(sim_nservers);
	int64_t		until = sim_now() + duration();
	bool		all = below(3) == 0;
	int			one = below(sim_cluster_nmembers());

	for (int member = 0; member < sim_cluster_nmembers(); member++)
	{
		if (!all && member != one)
			continue;
		sim_net_part(server, member, true);
		sim_at(until, end_partition, (void *) (intptr_t) (server * 100 + member));
	}
}

static void
member_back(void *arg)
{
	int			member = (int) (intptr_t) arg;

	sim_member_restart(member);
	sim_member_isolate(member, false);
	sim_member_lag(member, 0);
}

/*
 * A leader hangs for so long that there is another one, answers a keepalive when it
 * goes on, and the server that believes in it is cut off right behind that.
 */
static void
cut_off_later(void *arg)
{
	int			server = (int) (intptr_t) arg;
	int64_t		until = sim_now() + 2 * sim_plan.lease_ttl * SIM_SECOND;

	if (!sim_faults_on)
		return;
	for (int member = 0; member < sim_cluster_nmembers(); member++)
	{
		sim_net_part(server, member, true);
		sim_at(until, end_partition, (void *) (intptr_t) (server * 100 + member));
	}
}

/*
 * So slow that keepalives are still answered in time; and then, as a rule, nothing gets
 * through any more.  The other servers are well, and may get what it has.
 */
static void
no_longer_slow(void *arg)
{
	if (!sim_faults_on)
		return;
	if (below(4) != 0)
		cut_off_later(arg);
	sim_net_slow((int) (intptr_t) arg, 0);
}

static void
slow_down(void)
{
	int			server = 1 + below(sim_nservers);
	int64_t		ttl = sim_plan.lease_ttl * SIM_SECOND;

	if (sim_now() < slow_not_before)
		return;
	slow_not_before = sim_now() + 4 * ttl;
	sim_net_slow(server, random_between(ttl / 40, ttl / 10));
	sim_at(sim_now() + random_between(SIM_MS, ttl), no_longer_slow, (void *) (intptr_t) server);
}

static void
cut_off_late(void *arg)
{
	cut_off_later(arg);
	sim_net_slow((int) (intptr_t) arg, 0);
}

static void
await_renewal(void *arg)
{
	if (sim_faults_on)
		sim_net_await_renewal((int) (intptr_t) arg, cut_off_late, arg);
}

/* If it was not renewed any more. */
static void
give_up_late(void *arg)
{
	int			server = (int) (intptr_t) arg;

	sim_net_await_renewal(server, NULL, NULL);
	sim_net_slow(server, 0);
}

/*
 * A server is cut off just when it has been told that its lease was renewed, and has the
 * least right to count on that: the answer took long, or came from a leader that hung
 * until there was another one.
 */
static void
late_renewal(void)
{
	int64_t		ttl = sim_plan.lease_ttl * SIM_SECOND;
	int64_t		until = sim_now() + random_between(3 * SIM_SECOND, ttl);
	int			server = 1 + below(sim_nservers);

	if (sim_now() < slow_not_before)
		return;
	slow_not_before = sim_now() + 4 * ttl;
	if (sim_plan.one_endpoint && sim_cluster_has_leader() && below(2) == 0)
	{
		/* one that knows no other member */
		while ((server - 1) % sim_cluster_nmembers() != sim_cluster_leader() && server > 1)
			server--;
		sim_member_hang(sim_cluster_leader(), until);
		sim_at(until, await_renewal, (void *) (intptr_t) server);
	}
	else
	{
		sim_net_slow(server, random_between(ttl / 40, ttl / 10));
		sim_at(sim_now() + random_between(1, ttl / 2), await_renewal, (void *) (intptr_t) server);
	}
	sim_at(sim_now() + 2 * ttl, give_up_late, (void *) (intptr_t) server);
}

static void
stale_answers(void)
{
	int64_t		until = sim_now() + random_between(2 * SIM_SECOND, 5 * SIM_SECOND);

	if (!sim_cluster_has_leader())
		return;
	sim_member_hang(sim_cluster_leader(), until);
	sim_at(until + random_between(0, SIM_SECOND), cut_off_later,
		   (void *) (intptr_t) (1 + below(sim_nservers)));
}

static void
hurt_member(void)
{
	int			member = below(2) == 0 && sim_cluster_leader() >= 0 ? sim_cluster_leader() :
		below(sim_cluster_nmembers());
	int64_t		until = sim_now() + duration();

	switch (below(6))
	{
		case 5:
			stale_answers();
			return;
		case 0:
			sim_member_stop(member);
			break;
		case 1:
			sim_member_hang(member, until);
			break;
		case 2:
			sim_member_isolate(member, true);
			break;
		case 3:
			sim_member_lag(member, random_between(1, 2 * SIM_SECOND));
			break;
		case 4:
			sim_cluster_move_leader();
			break;
	}
	sim_at(until, member_back, (void *) (intptr_t) member);
}

static void
pause_something(void)
{
	SimServer  *server = any_server();
	int64_t		until = sim_now() + pause_duration();

	if (below(3) == 0)
	{
		sim_trace("== server %d stands still for %.3f ms", server->number,
				  (double) (until - sim_now()) / 1000);
		server->frozen_until = until;
	}
	else
	{
		SimProc    *proc = &server->procs[below(3) == 0 ? 0 : below(server->nprocs)];

		if (!proc->alive)
			return;
		sim_trace("== %s stands still for %.3f ms", sim_proc_name(proc),
				  (double) (until - sim_now()) / 1000);
		sim_proc_freeze(proc, until);
	}
}

/* The server goes on, so its worker ends at once, and leaves the rest to the next one. */
typedef struct Ending
{
	SimProc    *proc;
	int			pid;
} Ending;

static void
check_ended(void *arg)
{
	Ending	   *ending = arg;
	SimProc    *proc = ending->proc;

	if (proc->alive && proc->pid == ending->pid && !proc->server->stopping)
		sim_violation("%s goes on for a second after SIGTERM", sim_proc_name(proc));
	free(ending);
}

static void
expect_end(SimProc *worker)
{
	Ending	   *ending;

	/* it may stand still, or not be there yet */
	if ((sim_plan.faults & (FAULT_PAUSE | FAULT_CLOCK)) != 0 ||
		sim_now() - worker->started_at < SIM_SECOND)
		return;
	ending = malloc(sizeof(Ending));
	ending->proc = worker;
	ending->pid = worker->pid;
	sim_at(sim_now() + SIM_SECOND, check_ended, ending);
}

static void
end_worker(void)
{
	SimProc    *worker = &any_server()->procs[SIM_WORKER_PROCNO];

	if (!worker->alive)
		return;
	sim_trace("== SIGTERM for %s", sim_proc_name(worker));
	expect_end(worker);
	sim_send_signal(worker, SIGTERM);
}

static void
kill_something(void)
{
	SimServer  *server = any_server();
	SimProc    *proc = &server->procs[below(server->nprocs)];

	if (!server->up)
		return;
	if (below(4) == 0)
	{
		bool		machine = below(2) == 0;

		sim_trace("== %s %d is off", machine ? "the machine of server" : "server",
				  server->number);
		go_down(server, machine, duration());
	}
	else if (proc->alive)
	{
		sim_trace("== SIGKILL for %s", sim_proc_name(proc));
		sim_proc_kill(proc);
		crash(server);
	}
}

static void
shut_down(void)
{
	SimServer  *server = any_server();

	if (!server->up || server->stopping)
		return;
	sim_trace("== server %d is being shut down", server->number);
	server->stopping = true;
	for (int i = 0; i < server->nprocs; i++)
		sim_send_signal(&server->procs[i], SIGTERM);
	if (!anybody_alive(server))
		go_down(server, false, SIM_SECOND);
}

static void
interrupt_session(void)
{
	SimServer  *server = any_server();
	SimProc    *proc = &server->procs[1 + below(server->nprocs - 1)];
	bool		terminate = below(4) == 0;

	if (!proc->alive)
		return;
	sim_trace("== %s for %s", terminate ? "SIGTERM" : "SIGINT", sim_proc_name(proc));
	sim_send_signal(proc, terminate ? SIGTERM : SIGINT);
}

static void
move_clock(void)
{
	SimServer  *server = any_server();
	int64_t		by = duration();
	int			kind = below(4);

	if (kind == 0 || kind == 2)
		server->clock_moved_at = sim_now();
	switch (kind)
	{
		case 0:					/* suspend: one of the clocks stands still */
			sim_trace("== server %d is suspended for %.3f ms", server->number, (double) by / 1000);
			server->frozen_until = sim_now() + by;
			server->base[SIM_RAW] -= by;
			break;
		case 1:
			server->base[SIM_WALL] += below(2) ? by : -by;
			break;
		case 2:
			/* one of the two runs fast; so a lease is given up too early */
			server->base[below(2) ? SIM_BOOTTIME : SIM_RAW] += by;
			break;
		case 3:
			/* not in step with etcd's clock, as real ones are */
			for (int i = 0; i < 2; i++)
			{
				double		rate = 1.0 + (double) random_between(-200, 200) * 1e-6;

				server->base[i] += (int64_t) ((server->rate[i] - rate) * (double) sim_now());
				server->rate[i] = rate;
			}
			break;
	}
}

static void
go_back_in_time(void)
{
	if (below(2) == 0)
		sim_cluster_take_snapshot();
	else
	{
		sim_cluster_restore(below(2) == 0);
		sim_foreign_reset();
		sim_check_restored();
	}
}

static void
interfere_by_hand(void)
{
	SimEtcd    *etcd = sim_cluster_state();
	EtcdKeyValue kv;
	int			n = sim_etcd_nkeys(etcd);
	int			at = n == 0 ? 0 : below(n);
	bool		by_lease;

	if (!sim_cluster_has_leader())
		return;
	for (int i = 0; i < n; i++)
	{
		/* who deletes a tick has it claimed once more */
		if (!sim_etcd_key(etcd, (at + i) % n, &kv) || kv.lease == 0 ||
			strncmp(kv.key, ".etcd_lock/tick", strlen(".etcd_lock/tick")) == 0)
			continue;
		by_lease = below(4) == 0;
		sim_check_deletes(-1, kv.key, kv.key_len, by_lease);
		if (by_lease)
		{
			EtcdHeader	header;
			EtcdError	err;

			sim_trace("== lease %" PRIx64 " is revoked by hand", kv.lease);
			(void) sim_etcd_lease_revoke(etcd, kv.lease, &header, &err);
		}
		else
		{
			EtcdOp		op = {.type = ETCD_OP_DELETE,.range = {kv.key, kv.key_len, NULL, 0}};
			EtcdTxn		txn = {.success = &op,.nsuccess = 1};
			EtcdTxnResult result;
			EtcdError	err;

			sim_trace("== %s is deleted by hand", kv.key);
			if (sim_etcd_txn(etcd, &txn, &result, &err))
				free(result.results);
		}
		sim_cluster_changed();
		return;
	}
}

static void
space_again(void *arg)
{
	(void) arg;
	nospace = false;
	sim_etcd_set_nospace(sim_cluster_state(), false);
}

static void
run_out_of_space(void)
{
	if (nospace)
		return;
	nospace = true;
	sim_trace("== etcd has no space left");
	sim_etcd_set_nospace(sim_cluster_state(), true);
	sim_at(sim_now() + duration(), space_again, NULL);
}

static void
let_in_again(void *arg)
{
	(void) arg;
	sim_auth_refuse(false);
	sim_auth_deny(NULL);
}

static void
trouble_with_rights(void)
{
	char		prefix[64];

	switch (below(4))
	{
		case 0:
		case 1:
			sim_auth_forget();
			return;
		case 2:
			sim_auth_refuse(true);
			break;
		case 3:
			snprintf(prefix, sizeof(prefix), "%s/", sim_names[below(sim_plan.nnames)]);
			sim_auth_deny(prefix);
			break;
	}
	sim_at(sim_now() + duration(), let_in_again, NULL);
}

static void
one_fault(void)
{
	static const struct
	{
		SimFault	fault;
		void		(*fn) (void);
	}			kinds[] = {
		{FAULT_PARTITION, part_network},
		{FAULT_MEMBERS, hurt_member},
		{FAULT_PAUSE, pause_something},
		{FAULT_WORKER, end_worker},
		{FAULT_CRASH, kill_something},
		{FAULT_CANCEL, interrupt_session},
		{FAULT_CLOCK, move_clock},
		{FAULT_RESTORE, go_back_in_time},
		{FAULT_HAND, interfere_by_hand},
		{FAULT_SPACE, run_out_of_space},
		{FAULT_AUTH, trouble_with_rights},
		{FAULT_SHUTDOWN, shut_down},
		{FAULT_SLOW, slow_down},
		{FAULT_LATE, late_renewal}
	};
	int			enabled[SIM_NFAULTS];
	int			n = 0;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
	{
		if (sim_plan.faults & kinds[i].fault)
			enabled[n++] = (int) i;
	}
	if (n == 0)
		return;
	kinds[enabled[below(n)]].fn();
	sim_counts.faults++;
	if (faults_left > 0)
		faults_left--;
}

static void
fault_tick(void *arg)
{
	(void) arg;
	if (!sim_faults_on)
		return;
	if (faults_left != 0)
		one_fault();
	sim_at(sim_now() + random_between(1, 2 * sim_plan.fault_every * SIM_MS), fault_tick, NULL);
}

static void
set_net_faults(bool on)
{
	static const SimNetFaults none;

	sim_net_faults = none;
	if (!on)
		return;
	if (sim_plan.faults & FAULT_NETWORK)
	{
		sim_net_faults.loss = 300;
		sim_net_faults.broken = 200;
		sim_net_faults.twice = 300;
		sim_net_faults.slow = 100;
		sim_net_faults.refused = 400;
	}
	if (sim_plan.faults & FAULT_REPEAT)
	{
		sim_net_faults.loss = 60;
		sim_net_faults.twice = 8;
		sim_net_faults.slow = 60;
	}
	if (sim_plan.faults & FAULT_REFUSE)
		sim_net_faults.refused = 25;
	if (sim_plan.faults & FAULT_WATCHES)
	{
		sim_net_faults.stalled_watch = 30;
		sim_net_faults.cancelled_watch = 60;
	}
}

/* All is well from here on, and stays so. */
static void
end_faults(void)
{
	sim_faults_on = false;
	sim_faults_over_at = sim_now();
	set_net_faults(false);
	for (int member = 0; member < sim_cluster_nmembers(); member++)
	{
		member_back((void *) (intptr_t) member);
		for (int server = 1; server <= sim_nservers; server++)
			sim_net_part(server, member, false);
	}
	space_again(NULL);
	let_in_again(NULL);
	for (int s = 0; s < sim_nservers; s++)
	{
		sim_net_slow(sim_servers[s].number, 0);
		sim_net_await_renewal(sim_servers[s].number, NULL, NULL);
		sim_servers[s].frozen_until = 0;
		for (int p = 0; p < sim_servers[s].nprocs; p++)
			sim_servers[s].procs[p].frozen_until = 0;
	}
	sim_trace("== no faults any more");
}

/* ----------------------------------------------------------------
 *		A run
 * ----------------------------------------------------------------
 */

void
sim_plan_by_seed(SimPlan *plan, uint64_t seed)
{
	SimRandom	r = {seed ^ UINT64_C(0x5EED)};
	SimRandom	later = {seed ^ UINT64_C(0x1A7E)};	/* what was added later, */
	SimRandom	latest = {seed ^ UINT64_C(0x1A7E57)};	/* and still later */

	memset(plan, 0, sizeof(*plan));
	plan->seed = seed;
	plan->seconds = 60;
	plan->nservers = (int) sim_random_between(&r, 2, 4);
	plan->nsessions = (int) sim_random_between(&r, 1, 5);
	plan->nnames = (int) sim_random_between(&r, 1, 7);
	plan->nmembers = sim_random_one_in(&r, 3) ? 1 : 3;
	plan->nforeign = sim_random_one_in(&r, 2) ? 0 : (int) sim_random_between(&r, 1, 2);
	for (int i = 0; (1 << i) < FAULT_SLOW; i++)
	{
		/* what ends much of the rest is rarer */
		int			rare = (1 << i) & (FAULT_RESTORE | FAULT_HAND | FAULT_SPACE | FAULT_AUTH |
									   FAULT_SHUTDOWN);

		if (sim_random_one_in(&r, rare ? 6 : 2))
			plan->faults |= 1 << i;
	}
	if (sim_random_one_in(&r, 10))
		plan->faults = 0;
	plan->fault_every = (int) sim_random_between(&r, 50, 2000);
	plan->max_faults = -1;
	plan->lease_ttl = (int) sim_random_between(&r, 2, 10);
	plan->handoff_window = sim_random_one_in(&r, 4) ? 0 : (int) sim_random_between(&r, 1, 300);
	plan->keep_window = sim_random_one_in(&r, 4) ? 0 : (int) sim_random_between(&r, 1, 3000);
	plan->commit_guard = sim_random_one_in(&r, 3) ? 2 : 1;
	plan->on_loss = (int) sim_random_between(&r, 0, 2);
	plan->deadlock_timeout = (int) sim_random_between(&r, 50, 1000);
	plan->connect_timeout = (int) sim_random_between(&r, 500, 10000);
	plan->request_timeout = (int) sim_random_between(&r, 500, 5000);
	plan->synchronous_release = !sim_random_one_in(&r, 4);
	plan->synchronous_commit = !sim_random_one_in(&r, 4);
	plan->pause_long = sim_random_one_in(&r, 2);
	plan->one_endpoint = sim_random_one_in(&r, 5);
	plan->net_delay = sim_random_one_in(&r, 4) ? (int) sim_random_between(&r, 1000, 40000) : 300;
	if (sim_random_one_in(&r, 4))
		plan->fault_every = (int) sim_random_between(&r, 10, 100);
	plan->crossed = sim_random_one_in(&r, 3);
	plan->modes = sim_random_one_in(&later, 4);
	if (plan->faults != 0 && sim_random_one_in(&later, 6))
		plan->faults |= FAULT_SLOW;
	for (int i = 0; plan->faults != 0 && i < 3; i++)
	{
		if (sim_random_one_in(&latest, 8))
			plan->faults |= FAULT_LATE << i;
	}
	plan->busy = sim_random_one_in(&latest, 4);
	plan->hasty = plan->crossed && sim_random_one_in(&latest, 3);
	if (sim_random_one_in(&latest, 12))
		plan->commit_guard = 0;

	/* not by the first seeds, by which what is planted has been found */
	plan->views = seed > 1000 && sim_random_one_in(&latest, 4);
}

/* The settings' defaults, and nothing fails. */
void
sim_plan_fair(SimPlan *plan, uint64_t seed)
{
	memset(plan, 0, sizeof(*plan));
	plan->seed = seed;
	plan->fair = true;
	plan->seconds = 180;		/* each of 100 servers has its turn 18 times */
	plan->nservers = 100;
	plan->nsessions = 1;
	plan->nnames = 1;
	plan->nmembers = 1;
	plan->max_faults = -1;
	plan->fault_every = 1000;
	plan->lease_ttl = 10;
	plan->handoff_window = 100;
	plan->keep_window = 200;
	plan->commit_guard = 1;
	plan->deadlock_timeout = 1000;
	plan->connect_timeout = 10000;
	plan->request_timeout = 5000;
	plan->synchronous_release = true;
	plan->synchronous_commit = true;
	plan->net_delay = 300;
}

int64_t
sim_run_time(void)
{
	return sim_now() - began_at;
}

static uint64_t checks_at;
static int64_t next_look;

/*
 * Watches that have stalled stay so, and where connections were cut off in silence it takes
 * a while until that is noticed.
 */
static void
look_who_is_served(void)
{
	int			soon_over = FAULT_WORKER | FAULT_CRASH | FAULT_CANCEL | FAULT_AUTH | FAULT_BREAK |
		FAULT_SHUTDOWN | FAULT_REFUSE;

	next_look = sim_now() + SIM_SECOND / 5;
	if (!sim_plan.fair && (sim_plan.faults & ~soon_over) == 0 &&
		((sim_plan.faults & ~FAULT_WORKER) == 0 || sim_faults_over_at != 0))
		sim_check_served();
	if (sim_plan.faults == 0 || sim_faults_over_at != 0)
		sim_check_waits();
}

static void
after_event(void)
{
	/* a belief may come back without a grant; so look now and then */
	if (++checks_at % 256 == 0)
		sim_check_now();
	sim_deadlock_after_event();
	if (sim_now() >= next_look)
		look_who_is_served();
}

static bool
anybody_left(void)
{
	for (int s = 0; s < sim_nservers; s++)
	{
		for (int p = 1; p < sim_servers[s].nprocs; p++)
		{
			if (sim_servers[s].procs[p].alive)
				return true;
		}
	}
	return false;
}

static void
run_for(int64_t time)
{
	int64_t		until = sim_now() + time;

	while (sim_found == NULL && sim_now() < until)
		sim_run_until(until);
}

/* Each server gets at least half of what would be its share. */
static void
run_fair(void)
{
	uint64_t	grants[SIM_MAX_SERVERS];
	uint64_t	sum = 0;
	uint64_t	least = UINT64_MAX;
	uint64_t	most = 0;

	run_for(5 * SIM_SECOND);
	sim_workload_count(grants);
	run_for(sim_plan.seconds * SIM_SECOND);
	sim_workload_count(grants);
	for (int s = 0; s < sim_nservers; s++)
	{
		sum += grants[s];
		least = grants[s] < least ? grants[s] : least;
		most = grants[s] > most ? grants[s] : most;
	}
	printf("%d servers: %.0f locks per second; of its share one got %.2f at least, %.2f at most\n",
		   sim_nservers, (double) sum / sim_plan.seconds,
		   (double) least * sim_nservers / sum, (double) most * sim_nservers / sum);
	if (least * sim_nservers * 2 < sum)
		sim_violation("one server got %" PRIu64 " of %" PRIu64 " locks", least, sum);
}

static void
run(void)
{
	int64_t		until;

	if (sim_plan.fair)
		run_fair();
	else
	{
		run_for(3 * SIM_SECOND);
		sim_faults_on = true;
		set_net_faults(true);
		fault_tick(NULL);
		run_for(sim_plan.seconds * SIM_SECOND);
		end_faults();
		run_for(CALM);
	}

	sim_work_over = true;
	sim_foreign_stop();
	sim_trace("== the end begins");
	until = sim_now() + LAST_STATEMENTS;
	while (sim_found == NULL && anybody_left() && sim_now() < until)
		run_for(SIM_SECOND);
	run_for(CLEANING / 3);
	sim_check_idle();
	run_for(CLEANING * 2 / 3);
	if (sim_found == NULL)
		sim_check_end();
}

static void
check_delete(int server, const char *key, size_t len)
{
	sim_check_deletes(server, key, len, false);
}

void
sim_run(const SimPlan *plan)
{
	sim_plan = *plan;
	memset(&sim_counts, 0, sizeof(sim_counts));
	sim_faults_on = false;
	sim_work_over = false;
	sim_faults_over_at = 0;
	nospace = false;
	slow_not_before = 0;
	faults_left = plan->max_faults;
	checks_at = 0;
	next_look = 0;
	sim_net_delay = plan->net_delay;

	sim_kernel_start(plan->seed);
	began_at = sim_now();
	sim_checks_start();
	sim_deadlock_start();
	sim_proc_ended = proc_ended;
	sim_proc_gone = proc_gone;
	sim_cluster_start(plan->nmembers);
	if (!plan->fair)
		sim_after_change = sim_check_keys;
	sim_before_delete = check_delete;
	if (plan->faults & FAULT_AUTH)
		sim_auth_enable();
	sim_names_start(plan->nnames);
	for (int i = 0; i < plan->nservers; i++)
		boot(sim_server_create(1 + plan->nsessions));
	sim_foreign_start(plan->nforeign);
	sim_after_event = after_event;
	run();
	sim_after_event = NULL;
	sim_after_change = NULL;
	sim_before_delete = NULL;
	sim_kernel_end();
	sim_cluster_end();
}
