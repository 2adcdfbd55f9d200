/*-------------------------------------------------------------------------
 *
 * sim_workload.c
 *	  What sessions and foreign clients do, as the seed has it.
 *
 * A session's client runs in its backend's coroutine: one statement after the
 * other, with pauses.  Where it waits for several locks without a timeout it
 * takes them in one order, so that no wait is for ever but by a fault of the
 * extension's.
 *
 *-------------------------------------------------------------------------
 */
#include "sim_world.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Those that a run has are the first of these; integer keys as they stand in etcd. */
static const char *const all_names[SIM_TICK_NAME] = {
	"jobs", "jobs/a", INTEGER_KEY "42", "report", INTEGER_KEY "1,2", "jobs/a/b",
	"jobsx", "report/7", "z", "m"
};

const char *sim_names[SIM_MAX_NAMES];

/* What each session does just now. */
typedef struct Doing
{
	int64_t		since;			/* of a statement that may wait; 0: none */
	const char *what;			/* the statement, and its argument, in full only if
								 * somebody reads it; NULL: none */
	const char *argument;
	int			name;			/* that it is about; -1: none */
	int			tick_name;		/* of the transaction about a tick; -1: none */
	int64_t		tick;
	bool		leaves;			/* its client goes, whatever it holds */
	int			lock_timeout;	/* milliseconds; 0: none */
	int			has[SIM_MAX_NAMES]; /* modes in which it has each lock, lost or not */
	int64_t		had[SIM_MAX_NAMES]; /* when it last had it */
	int64_t		wanted[SIM_MAX_NAMES];	/* when a statement about it last ended */
} Doing;

static Doing doing[SIM_MAX_SERVERS][SIM_MAX_PROCS];

static Doing *
doing_of(const SimProc *proc)
{
	return &doing[proc->server->number - 1][proc->procno];
}

int64_t
sim_waits_since(const SimProc *proc)
{
	return doing_of(proc)->since;
}

const char *
sim_waits_for(const SimProc *proc)
{
	static char text[100];
	const Doing *d = doing_of(proc);

	snprintf(text, sizeof(text), "%s(%s)", d->what != NULL ? d->what : "",
			 d->argument != NULL ? d->argument : "");
	return text;
}

static int
find_name(const char *text)
{
	for (int name = 0; name < SIM_MAX_NAMES; name++)
	{
		if (strcmp(sim_names[name], text) == 0)
			return name;
	}
	return -1;
}

void
sim_hold_begins(const char *text)
{
	int			name = find_name(text);

	if (name >= 0)
		doing_of(sim_self)->has[name]++;
}

void
sim_hold_ends(const char *text)
{
	int			name = find_name(text);

	if (name < 0)
		return;
	doing_of(sim_self)->has[name]--;
	doing_of(sim_self)->had[name] = sim_now();
}

/* Has another session of this server had the lock since then? */
bool
sim_others_had(const SimProc *proc, int name, int64_t since)
{
	for (int i = 1; i < proc->server->nprocs; i++)
	{
		const Doing *d = doing_of(&proc->server->procs[i]);

		if (i != proc->procno && (d->has[name] > 0 || d->had[name] >= since))
			return true;
	}
	return false;
}

/* Is its statement about this name?  One of many names counts for each. */
static bool
wants(const Doing *d, int name)
{
	return d->since != 0 &&
		(d->name == name || (d->what != NULL && (strcmp(d->what, "lock_all") == 0 ||
												 strcmp(d->what, "xact_lock_all") == 0)));
}

static void
note_wanted(Doing *d)
{
	for (int name = 0; name < SIM_MAX_NAMES; name++)
	{
		if (wants(d, name))
			d->wanted[name] = sim_now();
	}
}

/* When did a session of the server last have the lock, or ask for it?  0: never */
int64_t
sim_last_use(const SimServer *server, int name)
{
	int64_t		last = 0;

	for (int i = 1; i < server->nprocs; i++)
	{
		const Doing *d = doing_of(&server->procs[i]);

		if (d->has[name] > 0 || wants(d, name))
			return sim_now();
		last = d->had[name] > last ? d->had[name] : last;
		last = d->wanted[name] > last ? d->wanted[name] : last;
	}
	return last;
}

static int64_t
pick(int64_t n)
{
	return sim_random_below(&sim_work_rand, n);
}

static bool
one_in(int64_t n)
{
	return sim_random_one_in(&sim_work_rand, n);
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

/* Errors that users have to expect; all others are faults of the code. */
static bool
is_expected(const char *sqlstate)
{
	static const char *const expected[] = {
		"55P03", "40P01", "57014", "57P01", "08006", "EL001", "EL002", "55000", "53000",
		"53200", "53100", "38000", "42501", "25P02", "3B001", "54000", "08001",
		"0A000", "28000", "40001"
	};

	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
	{
		if (strcmp(expected[i], sqlstate) == 0)
			return true;
	}
	return false;
}

/* A lock was lost; while there is no worker, a guard that asks etcd learns nothing. */
static bool
tells_of_loss(const SimResult *result)
{
	return strncmp(result->sqlstate, "EL00", 4) == 0 &&
		!((sim_plan.faults & FAULT_WORKER) != 0 &&
		  strstr(result->message, "could not be checked") != NULL);
}

static void
begin_doing(SimProc *proc, const char *what, const char *name)
{
	Doing	   *d = doing_of(proc);

	d->since = sim_now();
	d->name = -1;
	d->what = what;
	d->argument = name;
	sim_counts.statements++;
}

static void
end_doing(SimProc *proc, const SimResult *result)
{
	Doing	   *d = doing_of(proc);

	sim_counts.waited += sim_now() - d->since;
	note_wanted(d);
	d->since = 0;
	if (!result->ok)
	{
		sim_counts.errors++;
		if (tells_of_loss(result) && sim_check_lossless())
			sim_violation("%s has lost a lock without a fault by which it could: %s in %s: %s",
						  sim_proc_name(proc), result->sqlstate, sim_waits_for(proc), result->message);
		if (!is_expected(result->sqlstate))
			sim_violation("%s: unexpected error %s in %s: %s", sim_proc_name(proc),
						  result->sqlstate, sim_waits_for(proc), result->message);
	}
	else
		sim_trace("%s = %s%" PRId64, sim_waits_for(proc), result->is_null ? "null " : "", result->value);
}

static void
statement(SimProc *proc, void (*fn) (SimResult *result), const char *what)
{
	SimResult	result;

	begin_doing(proc, what, NULL);
	fn(&result);
	sim_check_release(proc, what, doing_of(proc)->since);
	end_doing(proc, &result);
}

static void
set_lock_timeout(SimProc *proc, int milliseconds)
{
	doing_of(proc)->lock_timeout = milliseconds;
	proc->image->set_lock_timeout(milliseconds);
}

/* What it may wait at most, as it was told; 0: for ever. */
static int64_t
limit_of(const SimProc *proc, const SimCommand *command)
{
	if (command->has_wait)
		return command->wait;
	if (strncmp(doing_of(proc)->what, "try_", 4) == 0)
		return SIM_TRY + sim_plan.request_timeout * SIM_MS;
	return (int64_t) doing_of(proc)->lock_timeout * SIM_MS *
		(command->nnames > 0 ? command->nnames : 1);
}

static bool
is_integer(int name)
{
	return name >= 0 && strncmp(sim_names[name], INTEGER_KEY, strlen(INTEGER_KEY)) == 0;
}

static bool
call(SimProc *proc, const char *function, int name, SimCommand command, SimResult *result)
{
	command.function = function;
	command.name = name < 0 ? NULL : sim_names[name];
	if (is_integer(name) && command.as_shown)
		command.name += strlen(INTEGER_KEY);
	else if (is_integer(name))
		command.nkeys = sscanf(sim_names[name] + strlen(INTEGER_KEY), "%" SCNd64 ",%" SCNd64,
							   &command.keys[0], &command.keys[1]);
	command.keep_portal = one_in(4);
	begin_doing(proc, function + strlen("etcd_lock_sql_"), command.name);
	doing_of(proc)->name = name;
	proc->image->execute(&command, result);
	sim_check_limit(proc, doing_of(proc)->since, limit_of(proc, &command));
	if (strncmp(doing_of(proc)->what, "unlock", 6) == 0)
		sim_check_release(proc, doing_of(proc)->what, doing_of(proc)->since);
	end_doing(proc, result);
	return result->ok;
}

static void
think(SimProc *proc, int64_t most)
{
	proc->image->idle(1 + pick(most));
}

/*
 * Does this session have the lock, as it sees it itself?  Another module may refuse to
 * commit even that.
 */
static bool
get_token(SimProc *proc, int name, SimResult *result)
{
	SimCommand	none = {0};

	do
		(void) call(proc, "etcd_lock_sql_token", name, none, result);
	while (!result->ok && strcmp(result->sqlstate, "40001") == 0 && !proc->image->in_block());
	return result->ok && !result->is_null;
}

/* Returns whether it has it now. */
static bool
acquire(SimProc *proc, int name, bool exclusive, bool session, bool try, int64_t wait)
{
	static const char *const functions[2][2][2] = {
		{{"etcd_lock_sql_xact_lock_shared", "etcd_lock_sql_try_xact_lock_shared"},
		{"etcd_lock_sql_lock_shared", "etcd_lock_sql_try_lock_shared"}},
		{{"etcd_lock_sql_xact_lock", "etcd_lock_sql_try_xact_lock"},
		{"etcd_lock_sql_lock", "etcd_lock_sql_try_lock"}}
	};
	SimCommand	command = {.has_wait = try && wait > 0,.wait = wait};
	SimResult	result;
	int64_t		began = sim_now();

	if (!call(proc, functions[exclusive][session][try], name, command, &result))
	{
		/* a session's lock stays if another module refuses the commit behind it */
		if (session && strcmp(result.sqlstate, "40001") == 0 && get_token(proc, name, &result))
			sim_check_granted(proc, name, exclusive, result.value);
		return false;
	}
	if (try)
	{
		if (!result.value)
		{
			sim_counts.tries_failed++;
			sim_check_refused(proc, name, began, wait);
			return false;
		}
		if (session || proc->image->in_block())
		{
			/* "true" only: ask for the token */
			if (!get_token(proc, name, &result))
				return true;
		}
		else
			return true;
	}
	if (session || proc->image->in_block())
		sim_check_granted(proc, name, exclusive, result.value);
	return true;
}

static void
do_something(SimProc *proc)
{
	SimCommand	command = {0};
	SimResult	result;

	switch (pick(6))
	{
		case 0:
		case 1:
		case 2:
			command.statement = SIM_UPDATE;
			break;
		case 3:
			command.statement = SIM_UPDATE_FOREIGN;
			break;
		default:
			command.statement = SIM_SELECT_SLEEP;
			command.duration = pick(20 * SIM_MS);
			break;
	}
	begin_doing(proc, command.statement == SIM_SELECT_SLEEP ? "sleep" : "update", NULL);
	proc->image->execute(&command, &result);
	end_doing(proc, &result);
}

static void
commit(SimProc *proc)
{
	SimResult	result;

	begin_doing(proc, "commit", NULL);
	proc->image->commit(&result);
	sim_check_release(proc, "commit", doing_of(proc)->since);
	end_doing(proc, &result);
	if (result.ok)
		sim_counts.commits++;
}

/* Each view is true, at least about this session's own locks. */
static void
look_at_views(SimProc *proc)
{
	static const SimCommand views = {.statement = SIM_VIEWS};
	SimResult	result;

	if (!sim_plan.views)
		return;
	begin_doing(proc, "views", NULL);
	proc->image->execute(&views, &result);
	if (result.ok && sim_check_lossless())
		sim_check_views(proc);
	end_doing(proc, &result);
}

static int64_t
some_wait(void)
{
	return one_in(2) ? 0 : pick(2 * SIM_SECOND);
}

/* A transaction with a few locks, in the order of their names. */
static void
transaction(SimProc *proc)
{
	int			first = pick(sim_plan.nnames);
	bool		ordered = !one_in(3);

	if (!ordered)
		set_lock_timeout(proc, 50 + pick(1000));
	statement(proc, proc->image->begin, "begin");
	for (int i = first; i < sim_plan.nnames && !proc->image->failed(); i++)
	{
		int			name = ordered ? i : pick(sim_plan.nnames);

		if (one_in(2) && i != first)
			continue;
		if (one_in(4))
			statement(proc, proc->image->savepoint, "savepoint");
		if (proc->image->failed())
			break;
		(void) acquire(proc, name, !one_in(3), false, one_in(3), some_wait());
		if (proc->image->failed() && one_in(2))
			statement(proc, proc->image->rollback_to, "rollback to");
		else if (!proc->image->failed() && one_in(5))
			statement(proc, proc->image->rollback_to, "rollback to");
		else if (!proc->image->failed() && one_in(8))
			statement(proc, proc->image->release, "release");
		if (proc->image->failed())
			break;
		do_something(proc);
		look_at_views(proc);
		think(proc, 5 * SIM_MS);
	}
	set_lock_timeout(proc, 0);
	if (one_in(5))
		statement(proc, proc->image->rollback, "rollback");
	else if (one_in(30))
		statement(proc, proc->image->prepare, "prepare");	/* refused, with a lock */
	else
		commit(proc);
}

/* It may be another session's, which finishes it first. */
static void
finish_prepared(SimProc *proc, int64_t number)
{
	SimResult	result;
	bool		is_commit = !one_in(4);

	begin_doing(proc, is_commit ? "commit prepared" : "rollback prepared", NULL);
	proc->image->finish_prepared(&result, number, is_commit);
	sim_check_release(proc, doing_of(proc)->what, doing_of(proc)->since);
	if (!result.ok && strcmp(result.sqlstate, "42704") == 0)
	{
		sim_counts.waited += sim_now() - doing_of(proc)->since;
		doing_of(proc)->since = 0;
		return;
	}
	end_doing(proc, &result);
}

/* In two steps, under a lock of the session's; at times another session takes the second one. */
static void
prepared_transaction(SimProc *proc)
{
	SimResult	result;

	statement(proc, proc->image->begin, "begin");
	do_something(proc);
	begin_doing(proc, "prepare", NULL);
	proc->image->prepare(&result);
	end_doing(proc, &result);
	if (proc->image->in_transaction())
		statement(proc, proc->image->rollback, "rollback");
	think(proc, 10 * SIM_MS);
	if (result.ok && result.value != 0 && !one_in(3))
		finish_prepared(proc, result.value);
	else if (proc->image->any_prepared() != 0)
		finish_prepared(proc, proc->image->any_prepared());
}

/* No lock of the session's is left. */
static void
discard_all(SimProc *proc)
{
	SimResult	result;

	begin_doing(proc, "discard all", NULL);
	proc->image->discard_all(&result);
	sim_check_release(proc, "discard all", doing_of(proc)->since);
	end_doing(proc, &result);
	for (int name = 0; result.ok && name < SIM_MAX_NAMES; name++)
	{
		if (sim_check_holds(proc, name, true) || sim_check_holds(proc, name, false))
			sim_violation("%s has \"%s\" behind DISCARD ALL", sim_proc_name(proc), sim_names[name]);
	}
}

/* At times as long as a lease lasts that cannot be renewed. */
static void
hold_on(SimProc *proc)
{
	bool		late = (sim_plan.faults & FAULT_LATE) != 0;

	if (sim_faults_on && (late || (sim_plan.faults & FAULT_SLOW) != 0) && one_in(late ? 3 : 8))
		think(proc, 2 * sim_plan.lease_ttl * SIM_SECOND);
}

/* A lock of the session's, with transactions under it. */
static void
session_lock(SimProc *proc)
{
	int			name = pick(sim_plan.nnames);
	bool		exclusive = !one_in(3);
	SimCommand	none = {0};
	SimResult	result;

	if (one_in(3))
		set_lock_timeout(proc, 50 + pick(2000));
	if (acquire(proc, name, exclusive, true, one_in(3), some_wait()))
	{
		int			n = pick(4);

		for (int i = 0; i < n; i++)
		{
			do_something(proc);
			look_at_views(proc);
			if (one_in(4))
				(void) call(proc, "etcd_lock_sql_check", name, none, &result);
			if (one_in(6))
				(void) acquire(proc, name, exclusive, true, true, 0);	/* once more */
			if (one_in(6) && !exclusive)
			{
				/* an upgrade: a deadlock with another one is found */
				set_lock_timeout(proc, one_in(2) ? 0 : 200 + pick(1000));
				(void) acquire(proc, name, true, !one_in(2), one_in(2), some_wait());
			}
			if (one_in(10))
				prepared_transaction(proc);
			hold_on(proc);
			think(proc, one_in(10) ? 400 * SIM_MS : 4 * SIM_MS);
		}
		doing_of(proc)->leaves = one_in(20);
		if (doing_of(proc)->leaves)
			return;
		if (one_in(4))
			discard_all(proc);
		else if (one_in(3))
			(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
		else
			(void) call(proc, exclusive ? "etcd_lock_sql_unlock" : "etcd_lock_sql_unlock_shared",
						name, none, &result);
	}
	set_lock_timeout(proc, 0);
	(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
}

/* Again and again the same name: what is passed on within the server. */
static void
hot_name(SimProc *proc)
{
	SimCommand	none = {0};
	SimResult	result;
	int			n = 2 + pick(8);

	for (int i = 0; i < n; i++)
	{
		if (acquire(proc, 0, true, true, false, 0))
		{
			if (one_in(2))
				do_something(proc);
		}
		(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
	}
}

/* Shares, and then wants it alone; others join meanwhile. */
static void
upgrade(SimProc *proc)
{
	int			name = pick(sim_plan.nnames);
	SimCommand	none = {0};
	SimResult	result;

	if (acquire(proc, name, false, true, false, 0))
	{
		think(proc, 20 * SIM_MS);
		if (acquire(proc, name, true, true, false, 0) && one_in(2))
			do_something(proc);
	}
	(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
}

static void
claim_tick(SimProc *proc)
{
	int			name = one_in(2) ? SIM_TICK_NAME : pick(sim_plan.nnames);
	int64_t		tick = sim_now() / SIM_TICK * SIM_TICK;
	int64_t		began = sim_now();
	SimCommand	command = {.has_tick = true,.tick = tick};
	SimResult	result;

	if (is_integer(name))
		return;
	statement(proc, proc->image->begin, "begin");
	if (one_in(6) && name != SIM_TICK_NAME)
		(void) acquire(proc, name, !one_in(3), false, true, 0);	/* holds it already */
	if (proc->image->failed())
		return;
	doing_of(proc)->tick_name = name;	/* it may be killed in the middle */
	doing_of(proc)->tick = tick;
	sim_check_tick_asked(name, tick);
	if (call(proc, "etcd_lock_sql_try_once", name, command, &result))
	{
		sim_check_tick(name, tick, result.value != 0, began);
		if (result.value == 0)
			sim_check_tick_refused(proc);
		if (result.value && get_token(proc, name, &result))
			sim_check_granted(proc, name, true, result.value);
	}
	do_something(proc);
	commit(proc);
	if (proc->image->in_transaction())
		statement(proc, proc->image->rollback, "rollback");
	sim_check_tick_ended(name, tick, true);
	doing_of(proc)->tick_name = -1;
	sim_counts.ticks++;
}

/* Several names at once, in whatever order they are named: all, or none. */
static void
several(SimProc *proc)
{
	SimCommand	command = {0};
	SimCommand	none = {0};
	SimResult	result;
	int			names[SIM_MANY];
	bool		session = one_in(2);
	int			first = pick(sim_plan.nnames);
	int			has = 0;

	for (int i = 0; i < sim_plan.nnames && command.nnames < SIM_MANY; i++)
	{
		int			name = (first + i) % sim_plan.nnames;

		if (is_integer(name) || one_in(4))
			continue;
		names[command.nnames] = name;
		command.names[command.nnames++] = sim_names[name];
	}
	if (command.nnames == 0)
		return;
	if (one_in(2))
		set_lock_timeout(proc, 20 + pick(500));
	if (!session)
		statement(proc, proc->image->begin, "begin");
	if (call(proc, session ? "etcd_lock_sql_lock_all" : "etcd_lock_sql_xact_lock_all", -1, command,
			 &result))
	{
		for (int i = 0; i < result.ntokens; i++)
			sim_check_granted(proc, names[i], true, result.tokens[i]);
		do_something(proc);
	}
	else
	{
		if (!session && proc->image->in_transaction())
			statement(proc, proc->image->rollback, "rollback");

		/*
		 * A session's locks stay if their statement fails behind the function's end.
		 * If that is because one of them was lost, it has the others.
		 */
		for (int i = 0; sim_check_lossless() && i < command.nnames; i++)
			has += get_token(proc, names[i], &result);
		if (has > 0 && has < command.nnames)
			sim_violation("%s has %d of %d names", sim_proc_name(proc), has, command.nnames);
	}
	set_lock_timeout(proc, 0);
	if (session)
		(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
	else if (proc->image->in_transaction())
		commit(proc);
}

/* Take a lock away from the session that has it. */
static void
break_lock(SimProc *proc)
{
	SimCommand	command = {.has_token = true,.as_shown = true};
	SimResult	result;
	int			name;

	if (!sim_check_any(pick(1000), &name, &command.token))
		return;
	sim_check_breaking(name, command.token);
	if (call(proc, "etcd_lock_sql_break", name, command, &result) && result.value != 0)
		sim_check_broken(name, command.token);
}

static void
call_wait(SimProc *proc)
{
	int			name = pick(sim_plan.nnames);
	SimCommand	command = {.is_call = true,.has_wait = one_in(2),.wait = 1 + pick(SIM_SECOND)};
	SimCommand	none = {0};
	SimResult	result;

	if (call(proc, "etcd_lock_sql_wait", name, command, &result))
	{
		if (get_token(proc, name, &result))
			sim_check_granted(proc, name, true, result.value);
		do_something(proc);
	}
	(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
}

/* Short transactions under a lock, as a session that works a queue off has them. */
static void
work_off(SimProc *proc)
{
	int			name = pick(sim_plan.nnames);
	bool		exclusive = !one_in(4);
	int			n = 5 + pick(100);
	SimCommand	none = {0};
	SimResult	result;

	if (!acquire(proc, name, exclusive, true, one_in(3), some_wait()))
		n = 0;
	for (int i = 0; i < n; i++)
	{
		bool		block = one_in(3);
		SimCommand	update = {.statement = one_in(6) ? SIM_UPDATE_FOREIGN : SIM_UPDATE};

		if (block)
			statement(proc, proc->image->begin, "begin");
		if (block && one_in(4) && !proc->image->failed())
			(void) acquire(proc, pick(sim_plan.nnames), one_in(2), false, true, 0);
		if (proc->image->failed())
			break;
		begin_doing(proc, "update", NULL);
		proc->image->execute(&update, &result);
		end_doing(proc, &result);
		if (!result.ok)
			break;
		if (block)
			commit(proc);
	}
	if (proc->image->in_transaction())
		statement(proc, proc->image->rollback, "rollback");
	(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
}

/* Tries again and again until the lock can be had. */
static void
poll_lock(SimProc *proc)
{
	int			name = pick(sim_plan.nnames);
	bool		exclusive = one_in(4);
	int			n = 3 + pick(20);
	SimCommand	none = {0};
	SimResult	result;

	while (n-- > 0 && !acquire(proc, name, exclusive, true, true, 0))
		think(proc, 20 * SIM_MS);
	if (one_in(2))
		do_something(proc);
	(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
}

/*
 * Has a lock, and waits for others: without end, or again and again for a little longer than
 * it takes until a deadlock is looked for.  So most of what looks like a cycle was never
 * there in one moment.
 */
static void
hasty(SimProc *proc)
{
	SimCommand	none = {0};
	SimResult	result;
	int			name = pick(sim_plan.nnames);
	bool		patient = one_in(3);
	int			n = 1 + pick(patient ? 2 : 6);

	set_lock_timeout(proc, sim_plan.deadlock_timeout * (1 + pick(3)));
	if (acquire(proc, name, true, true, false, 0))
	{
		for (int i = 0; i < n; i++)
		{
			set_lock_timeout(proc, patient ? 0 : sim_plan.deadlock_timeout +
										  pick(2 * sim_plan.deadlock_timeout));
			(void) acquire(proc, pick(sim_plan.nnames), !one_in(4), true, false, 0);
			think(proc, sim_plan.deadlock_timeout * SIM_MS);
		}
	}
	set_lock_timeout(proc, 0);
	(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
}

static void
autocommit(SimProc *proc)
{
	(void) acquire(proc, pick(sim_plan.nnames), one_in(2), false, one_in(2), some_wait());
}

/* Locks and rows in any order, most of them waited for without end: deadlocks. */
static void
crossed(SimProc *proc)
{
	SimCommand	none = {0};
	SimResult	result;
	int			n = 2 + pick(2);

	if (one_in(4))
		set_lock_timeout(proc, 20 + pick(2000));
	statement(proc, proc->image->begin, "begin");
	for (int i = 0; i < n && !proc->image->failed() && proc->image->in_transaction(); i++)
	{
		if (one_in(3))
		{
			SimCommand	row = {.statement = SIM_ROW_LOCK,.row = pick(2)};

			begin_doing(proc, "row", NULL);
			proc->image->execute(&row, &result);
			end_doing(proc, &result);
		}
		else
			(void) acquire(proc, pick(sim_plan.nnames), !one_in(3), one_in(2), false, 0);
		think(proc, 30 * SIM_MS);
	}
	set_lock_timeout(proc, 0);
	if (proc->image->in_transaction() && !proc->image->failed() && one_in(2))
		commit(proc);
	/* a COMMIT that was cancelled before it began leaves a failed transaction */
	if (proc->image->in_transaction())
		statement(proc, proc->image->rollback, "rollback");
	(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
}

/*
 * Shares what it has alone, shares it only, and wants it alone again: in a transaction
 * that has changed something by then, or outside of one.
 */
static void
both_modes(SimProc *proc)
{
	int			name = pick(sim_plan.nnames);
	SimCommand	none = {0};
	SimResult	result;

	if (one_in(3))
		set_lock_timeout(proc, 50 + pick(1000));
	if (one_in(2))
		statement(proc, proc->image->begin, "begin");
	if (acquire(proc, name, true, true, false, 0) && acquire(proc, name, false, true, false, 0))
	{
		do_something(proc);
		look_at_views(proc);
		if (one_in(3))
			think(proc, one_in(3) ? SIM_SECOND : 50 * SIM_MS);
		(void) call(proc, "etcd_lock_sql_unlock", name, none, &result);
		think(proc, one_in(4) ? 300 * SIM_MS : 5 * SIM_MS);
		if (one_in(2))
			(void) acquire(proc, name, true, true, one_in(3), some_wait());
		if (one_in(2))
			do_something(proc);
		if (one_in(3))
			(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
	}
	set_lock_timeout(proc, 0);
	if (proc->image->in_transaction() && !one_in(4))
		commit(proc);
	if (proc->image->in_transaction())
		statement(proc, proc->image->rollback, "rollback");
	(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
}

static uint64_t grants_of[SIM_MAX_SERVERS];

void
sim_workload_count(uint64_t *grants)
{
	memcpy(grants, grants_of, sizeof(grants_of));
	memset(grants_of, 0, sizeof(grants_of));
}

/* One name, and all the time. */
static void
one_name(SimProc *proc)
{
	SimCommand	none = {0};
	SimResult	result;

	while (!sim_work_over)
	{
		if (acquire(proc, 0, true, true, false, 0))
			grants_of[proc->server->number - 1]++;
		think(proc, SIM_MS / 10);
		(void) call(proc, "etcd_lock_sql_unlock_all", -1, none, &result);
		think(proc, SIM_MS / 10);
	}
}

void
sim_session_body(SimProc *proc)
{
	doing_of(proc)->since = 0;
	doing_of(proc)->tick_name = -1;
	doing_of(proc)->leaves = false;
	doing_of(proc)->lock_timeout = 0;
	think(proc, 50 * SIM_MS);
	if (sim_plan.fair)
		one_name(proc);
	while (!sim_work_over && !doing_of(proc)->leaves)
	{
		if (sim_faults_on && (sim_plan.faults & FAULT_BREAK) && one_in(20))
			break_lock(proc);
		if ((sim_plan.busy || sim_plan.hasty) && !one_in(8))
		{
			if (!sim_plan.busy || (sim_plan.hasty && one_in(2)))
				hasty(proc);
			else if (one_in(3))
				poll_lock(proc);
			else
				work_off(proc);
			doing_of(proc)->leaves |= one_in(200);
			think(proc, one_in(50) ? 100 * SIM_MS : 2 * SIM_MS);
			continue;
		}
		if ((sim_plan.crossed && one_in(2)) || (sim_plan.modes && one_in(3)))
		{
			if (sim_plan.modes && (!sim_plan.crossed || one_in(3)))
				both_modes(proc);
			else
				crossed(proc);
			doing_of(proc)->leaves |= one_in(200);
			think(proc, one_in(20) ? 500 * SIM_MS : 10 * SIM_MS);
			continue;
		}
		switch (pick(14))
		{
			case 0:
			case 1:
			case 2:
			case 3:
				transaction(proc);
				break;
			case 4:
			case 5:
			case 6:
				session_lock(proc);
				break;
			case 7:
				hot_name(proc);
				break;
			case 8:
				claim_tick(proc);
				break;
			case 9:
				call_wait(proc);
				break;
			case 10:
				several(proc);
				break;
			case 11:
				upgrade(proc);
				break;
			default:
				autocommit(proc);
				break;
		}
		if (proc->image->in_transaction())
			statement(proc, proc->image->rollback, "rollback");
		doing_of(proc)->leaves |= one_in(200);
		think(proc, one_in(20) ? 500 * SIM_MS : 10 * SIM_MS);
	}
}

/* ----------------------------------------------------------------
 *		Foreign clients: Go's Mutex and RWMutex
 *
 * They speak with etcd as if there were nothing in between, and keep their
 * leases alive.
 * ----------------------------------------------------------------
 */

typedef struct Foreign
{
	int			number;
	int64_t		lease;
	int			name;
	int			kind;			/* 0: Mutex; 1: RWMutex's Lock; 2: RLock */
	char		key[128];
	int64_t		create_revision;	/* 0: no key */
	bool		holds;
	int64_t		until;
	bool		stopped;
} Foreign;

#define MAX_FOREIGN	4

static Foreign foreign[MAX_FOREIGN];
static int	nforeign;

static bool
key_is_there(const Foreign *f)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE,.range = {f->key, strlen(f->key), NULL, 0}};
	EtcdRangeResult result;
	EtcdError	err;
	bool		there = false;

	if (f->create_revision == 0)
		return false;
	if (sim_etcd_range(sim_cluster_state(), &op, &result, &err))
	{
		there = result.range.nkvs == 1 &&
			result.range.kvs[0].create_revision == f->create_revision;
		for (int i = 0; i < result.range.nkvs; i++)
			free(result.range.kvs[i].key);
		free(result.range.kvs);
	}
	return there;
}

/* Is nobody ahead, as Go's client sees it? */
static bool
is_first(const Foreign *f)
{
	char		prefix[128];
	bool		first = true;
	EtcdKeyValue kv;

	if (f->kind == 2)
		snprintf(prefix, sizeof(prefix), "%s/write", sim_names[f->name]);
	else
		snprintf(prefix, sizeof(prefix), "%s/", sim_names[f->name]);
	for (int i = 0; i < sim_etcd_nlive(sim_cluster_state()); i++)
	{
		sim_etcd_live(sim_cluster_state(), i, &kv);
		if (strncmp(kv.key, prefix, strlen(prefix)) == 0 &&
			(f->kind == 0 ? kv.create_revision : kv.mod_revision) < f->create_revision)
			first = false;
	}
	return first;
}

static void
put_key(Foreign *f)
{
	EtcdOp		op = {.type = ETCD_OP_PUT,.value = "",.lease = f->lease};
	EtcdTxn		txn = {.success = &op,.nsuccess = 1};
	EtcdTxnResult result;
	EtcdLeaseResult lease;
	EtcdError	err;

	if (!sim_etcd_lease_grant(sim_cluster_state(), f->lease, 60, sim_now(), &lease, &err))
		sim_etcd_lease_keepalive(sim_cluster_state(), f->lease, sim_now(), true, &lease);
	snprintf(f->key, sizeof(f->key), "%s/%s%" PRIx64, sim_names[f->name],
			 f->kind == 0 ? "" : f->kind == 1 ? "write/" : "read/", f->lease);
	op.range.key = f->key;
	op.range.key_len = strlen(f->key);
	if (!sim_etcd_txn(sim_cluster_state(), &txn, &result, &err))
		return;
	free(result.results);
	f->create_revision = result.header.revision;
	sim_cluster_changed();
}

static void
delete_key(Foreign *f)
{
	EtcdOp		op = {.type = ETCD_OP_DELETE,.range = {f->key, strlen(f->key), NULL, 0}};
	EtcdTxn		txn = {.success = &op,.nsuccess = 1};
	EtcdTxnResult result;
	EtcdError	err;

	if (sim_etcd_txn(sim_cluster_state(), &txn, &result, &err))
	{
		free(result.results);
		sim_cluster_changed();
	}
	f->create_revision = 0;
	f->holds = false;
}

static void
foreign_step(void *arg)
{
	Foreign    *f = arg;
	int64_t		delay = sim_random_between(&sim_work_rand, 500, 30 * SIM_MS);

	if (!sim_cluster_has_leader())
		delay = 200 * SIM_MS;
	else if (f->create_revision == 0)
	{
		if (f->stopped)
			return;
		f->name = pick(sim_plan.nnames);
		f->kind = pick(3);
		put_key(f);
	}
	else if (!key_is_there(f))
	{
		f->create_revision = 0;	/* lost, and known at the next look */
		f->holds = false;
	}
	else if (f->holds)
	{
		if (sim_now() >= f->until || f->stopped)
		{
			delete_key(f);
			delay += pick(2 * SIM_SECOND);
		}
	}
	else if (is_first(f))
	{
		f->holds = true;
		sim_counts.foreign++;
		f->until = sim_now() + pick(300 * SIM_MS);
		sim_trace("foreign %d has %s", f->number, f->key);
		sim_check_now();
	}
	else if (f->stopped)
		delete_key(f);
	sim_at(sim_now() + delay, foreign_step, f);
}

static void
foreign_keepalive(void *arg)
{
	EtcdLeaseResult result;

	(void) arg;
	for (int i = 0; i < nforeign; i++)
		sim_etcd_lease_keepalive(sim_cluster_state(), foreign[i].lease, sim_now(), true, &result);
	sim_at(sim_now() + 5 * SIM_SECOND, foreign_keepalive, NULL);
}

void
sim_workload_forget(SimProc *proc)
{
	Doing	   *d = doing_of(proc);

	/* whatever it had to do with, it had until now */
	for (int i = 0; i < SIM_MAX_NAMES; i++)
	{
		if (d->has[i] > 0)
			d->had[i] = sim_now();
		d->has[i] = 0;
	}
	note_wanted(d);
	d->since = 0;
	if (d->tick_name >= 0)
		sim_check_tick_ended(d->tick_name, d->tick, false);
	d->tick_name = -1;
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Those in use in the order of their bytes, as etcd_lock_all() takes them. */
void
sim_names_start(int n)
{
	memcpy(sim_names, all_names, sizeof(all_names));
	qsort(sim_names, n, sizeof(sim_names[0]), compare_names);
	sim_names[SIM_TICK_NAME] = "ticks";
}

void
sim_foreign_start(int n)
{
	memset(foreign, 0, sizeof(foreign));
	memset(doing, 0, sizeof(doing));
	for (int s = 0; s < SIM_MAX_SERVERS; s++)
	{
		for (int p = 0; p < SIM_MAX_PROCS; p++)
			doing[s][p].tick_name = -1;
	}
	nforeign = n;
	for (int i = 0; i < n; i++)
	{
		foreign[i].number = i;
		foreign[i].lease = 0x1000 + i;
		sim_at(sim_now() + pick(SIM_SECOND), foreign_step, &foreign[i]);
	}
	if (n > 0)
		foreign_keepalive(NULL);
}

void
sim_foreign_stop(void)
{
	for (int i = 0; i < nforeign; i++)
		foreign[i].stopped = true;
}

/* Etcd has gone back in time: they end their sessions and begin new ones. */
void
sim_foreign_reset(void)
{
	for (int i = 0; i < nforeign; i++)
	{
		EtcdHeader	header;
		EtcdError	err;

		(void) sim_etcd_lease_revoke(sim_cluster_state(), foreign[i].lease, &header, &err);
		foreign[i].create_revision = 0;
		foreign[i].holds = false;
	}
	sim_cluster_changed();
}

/* Who has the lock, as long as its key is there; Mutex counts as exclusive. */
int
sim_foreign_holders(int name, bool *exclusive)
{
	int			n = 0;

	*exclusive = false;
	for (int i = 0; i < nforeign; i++)
	{
		if (!foreign[i].holds || foreign[i].name != name || !key_is_there(&foreign[i]))
			continue;
		n++;
		*exclusive |= foreign[i].kind != 2;
	}
	return n;
}
