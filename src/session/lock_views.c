/*-------------------------------------------------------------------------
 *
 * lock_views.c
 *	  The views of this server's locks, and of its link to etcd.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "session/lock_views.h"
#include "session/view_row.h"
#include "shared/deadline.h"
#include "shared/link_status.h"
#include "shared/lock_name.h"
#include "shared/lock_table.h"
#include "shared/lock_text.h"
#include "shared/settings.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_locks);
PG_FUNCTION_INFO_V1(etcd_lock_sql_status);
PG_FUNCTION_INFO_V1(etcd_lock_sql_endpoints);

/* A hold, copied out of shared memory. */
typedef struct SeenHold
{
	char		key[ETCD_LOCK_MAX_KEY + 1];
	LOCKTAG		tag;
	int			namespace_len;
	int			pid;
	char		datname[LOCK_PROC_TEXT];	/* UTF-8 */
	char		usename[LOCK_PROC_TEXT];
	int			depth;
	LockMode	mode;
	bool		holding;
	bool		kept;			/* no session's: only name and mode are set */
	bool		session;		/* the scopes */
	bool		xact;
	bool		lost;
	int64		token;
	TimestampTz wait_start;
	TimestampTz held_since;
} SeenHold;

typedef struct SeenHolds
{
	SeenHold   *holds;
	int			n;
	int			max;
} SeenHolds;

/* Initial room, made before anything is locked. */
#define FIRST_ROOM		256

/*
 * EXECUTE may have been granted together with that on other functions, but not
 * everybody may see what happens in all databases and namespaces.
 */
void
lock_views_require_monitor(void)
{
	lock_table_require_preload();
	if (!has_privs_of_role(GetUserId(), ROLE_PG_MONITOR))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to view etcd locks"),
				 errdetail("Only roles with privileges of the \"%s\" role may view them.",
						   "pg_monitor")));
}

static void
copy_hold(SeenHold *copy, const LockEntry *entry, const LockHold *hold)
{
	bool		granted = hold->session_count > 0 || hold->xact_count > 0;
	const LockWho *who = &lock_table_proc(hold->procno)->who;

	strlcpy(copy->key, entry->key, sizeof(copy->key));
	copy->tag = entry->tag;
	copy->namespace_len = hold->namespace_len;
	copy->pid = hold->pid;
	strlcpy(copy->datname, who->database, sizeof(copy->datname));
	strlcpy(copy->usename, who->username, sizeof(copy->usename));
	copy->depth = hold->session_count + hold->xact_count;
	copy->mode = hold->mode;
	copy->holding = hold->state == HOLD_HOLDING;
	copy->kept = false;
	copy->session = granted ? hold->session_count > 0 : hold->for_session;
	copy->xact = granted ? hold->xact_count > 0 : !hold->for_session;
	copy->lost = copy->holding &&
		(hold->lost || !deadline_valid(&lock_shared->deadline, hold->epoch));
	copy->token = hold->token;
	copy->wait_start = hold->wait_start;
	copy->held_since = hold->held_since;
}

/*
 * A superseded session has already released PostgreSQL's lock, as pg_locks
 * shows, and is about to drop its record.
 */
static void
copy_list(SeenHolds *seen, LockEntry *entry, dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		const LockHold *hold = dlist_container(LockHold, link, iter.cur);

		if (hold->state == HOLD_HOLDING && hold->superseded)
			continue;
		if (seen->n < seen->max)
			copy_hold(&seen->holds[seen->n], entry, hold);
		seen->n++;
	}
}

/* Keys that the server keeps although no session uses them. */
static void
copy_kept_keys(SeenHolds *seen, const LockEntry *entry)
{
	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		const LockKey *key = &entry->keys[i];

		if (key->state != KEY_HELD || key->keep == 0 || key->idle_since == 0)
			continue;
		if (seen->n < seen->max)
		{
			SeenHold   *copy = &seen->holds[seen->n];

			memset(copy, 0, sizeof(SeenHold));
			strlcpy(copy->key, entry->key, sizeof(copy->key));
			copy->tag = entry->tag;
			copy->namespace_len = key->namespace_len;
			copy->mode = key->mode;
			copy->kept = true;
		}
		seen->n++;
	}
}

/*
 * Copy the holds of one moment: all partitions are locked, as for pg_locks.
 * Nothing is allocated meanwhile: if there is no room for all, count the rest,
 * make room and start over.
 */
static void
copy_holds(SeenHolds *seen)
{
	seen->max = FIRST_ROOM;
	for (;;)
	{
		HASH_SEQ_STATUS status;
		LockEntry  *entry;

		seen->holds = palloc_extended(seen->max * sizeof(SeenHold),
									  MCXT_ALLOC_HUGE);
		seen->n = 0;
		lock_table_lock_all(LW_SHARED);
		hash_seq_init(&status, lock_table_hash());
		while ((entry = hash_seq_search(&status)) != NULL)
		{
			copy_list(seen, entry, &entry->owners);
			copy_list(seen, entry, &entry->waiters);
			copy_list(seen, entry, &entry->drainers);
			copy_kept_keys(seen, entry);
		}
		lock_table_unlock_all();
		if (seen->n <= seen->max)
			return;
		seen->max = seen->n + FIRST_ROOM;
		pfree(seen->holds);
	}
}

enum
{
	LOCKS_NAME,
	LOCKS_MODE,
	LOCKS_SCOPE,
	LOCKS_GRANTED,
	LOCKS_PID,
	LOCKS_DATNAME,
	LOCKS_USENAME,
	LOCKS_DEPTH,
	LOCKS_TOKEN,
	LOCKS_WAITSTART,
	LOCKS_HELDSINCE,
	LOCKS_LOST
};

static const ViewColumn locks_columns[] = {
	{"name"}, {"mode"}, {"scope"}, {"granted"}, {"pid"}, {"datname"}, {"usename"},
	{"depth"}, {"token"}, {"waitstart"}, {"heldsince"}, {"lost"}
};

/* What comes from etcd, or from other sessions, is UTF-8. */
static Datum
text_of(const char *utf8)
{
	return CStringGetTextDatum(lock_text_for_user(utf8, strlen(utf8)));
}

static void
set_text(ViewRow *row, int column, const char *utf8)
{
	row->values[column] = text_of(utf8);
}

static void
fill_locks_row(ViewRow *row, const SeenHold *hold)
{
	for (int i = LOCKS_SCOPE; i <= LOCKS_LOST; i++)
		row->nulls[i] = hold->kept;
	row->values[LOCKS_NAME] =
		CStringGetTextDatum(lock_name_for_user(hold->key, hold->namespace_len, &hold->tag));
	row->values[LOCKS_MODE] =
		CStringGetTextDatum(hold->mode == LOCK_EXCLUSIVE ? "exclusive" : "shared");
	if (hold->kept)
		return;
	row->values[LOCKS_SCOPE] =
		CStringGetTextDatum(!hold->session ? "transaction" :
							!hold->xact ? "session" : "session and transaction");
	row->values[LOCKS_GRANTED] = BoolGetDatum(hold->holding && !hold->lost);
	row->values[LOCKS_PID] = Int32GetDatum(hold->pid);
	set_text(row, LOCKS_DATNAME, hold->datname);
	set_text(row, LOCKS_USENAME, hold->usename);
	row->values[LOCKS_DEPTH] = Int32GetDatum(hold->depth);
	row->nulls[LOCKS_DEPTH] = !hold->holding;
	row->values[LOCKS_TOKEN] = Int64GetDatum(hold->token);
	row->nulls[LOCKS_TOKEN] = !hold->holding;
	row->values[LOCKS_WAITSTART] = TimestampTzGetDatum(hold->wait_start);
	row->nulls[LOCKS_WAITSTART] = hold->holding;
	row->values[LOCKS_HELDSINCE] = TimestampTzGetDatum(hold->held_since);
	row->nulls[LOCKS_HELDSINCE] = !hold->holding;
	row->values[LOCKS_LOST] = BoolGetDatum(hold->lost);
}

Datum
etcd_lock_sql_locks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ViewRow		row;
	SeenHolds	seen;

	lock_views_require_monitor();
	InitMaterializedSRF(fcinfo, 0);
	view_row_init(&row, rsinfo->setDesc, locks_columns, lengthof(locks_columns));
	copy_holds(&seen);
	for (int i = 0; i < seen.n; i++)
	{
		Datum		values[VIEW_MAX_COLUMNS];
		bool		nulls[VIEW_MAX_COLUMNS];

		fill_locks_row(&row, &seen.holds[i]);
		view_row_arrange(&row, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* How many keys etcd has granted us, and how many sessions wait. */
static void
count_table(int64 *keys_held, int64 *waiting)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	dlist_iter	iter;

	*keys_held = 0;
	*waiting = 0;
	lock_table_lock_all(LW_SHARED);
	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
			*keys_held += entry->keys[i].state == KEY_HELD;
		dlist_foreach(iter, &entry->owners)
			* waiting += dlist_container(LockHold, link, iter.cur)->state != HOLD_HOLDING;
		dlist_foreach(iter, &entry->waiters)
			(*waiting)++;
		dlist_foreach(iter, &entry->drainers)
			(*waiting)++;
	}
	lock_table_unlock_all();
}

static Datum
seconds_interval(int64 microseconds)
{
	Datum		zero = Int32GetDatum(0);

	return DirectFunctionCall7(make_interval, zero, zero, zero, zero, zero, zero,
							   Float8GetDatum(microseconds / 1000000.0));
}

/* A comma-separated list as an array. */
static Datum
text_list(const char *list)
{
	return DirectFunctionCall2Coll(text_to_array, C_COLLATION_OID,
								   text_of(list), CStringGetTextDatum(","));
}

enum
{
	STATUS_STATE,
	STATUS_ENDPOINT,
	STATUS_SERVER_VERSION,
	STATUS_LEASE,
	STATUS_TTL_LEFT,
	STATUS_KEYS_HELD,
	STATUS_WAITING,
	STATUS_WATCHES,
	STATUS_DB_SIZE,
	STATUS_ALARMS,
	STATUS_LAST_ERROR,
	STATUS_LAST_ERROR_AT,
	STATUS_WORKER_PID,
	STATUS_CLUSTER_ID,
	STATUS_DUPLICATE_PRIMARY,
	STATUS_AUDIT_AGE
};

static const ViewColumn status_columns[] = {
	{"state"}, {"endpoint"}, {"server_version"}, {"lease"}, {"ttl_left"}, {"keys_held"},
	{"waiting"}, {"watches"}, {"db_size"}, {"alarms"}, {"last_error"}, {"last_error_at"},
	{"worker_pid"}, {"cluster_id"}, {"duplicate_primary"}, {"audit_age"}
};

/* An empty text becomes null. */
static void
set_known(ViewRow *row, int column, const char *utf8)
{
	set_text(row, column, utf8);
	row->nulls[column] = utf8[0] == '\0';
}

static const char *
link_state(const LinkStatus *status, bool works, int64 left)
{
	if (!works)
		return "no worker";
	if (!status->up)
		return "disconnected";
	return left == 0 ? "no lease" : "ready";
}

/* This server's link to etcd, as the worker last saw it. */
Datum
etcd_lock_sql_status(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	ViewRow		row;
	Datum		values[VIEW_MAX_COLUMNS];
	bool		nulls[VIEW_MAX_COLUMNS];
	LinkStatus	status;
	uint64		lease;
	uint64		cluster_id;
	int64		audited_at;
	int64		left;
	int64		keys_held;
	int64		waiting;
	int32		worker_pid;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	lock_views_require_monitor();
	view_row_init(&row, tupdesc, status_columns, lengthof(status_columns));

	link_status_get(&status);
	count_table(&keys_held, &waiting);
	lease = pg_atomic_read_u64(&lock_shared->lease);
	cluster_id = lock_shared->cluster_id;
	audited_at = (int64) pg_atomic_read_u64(&lock_shared->audited_at);
	left = deadline_left(&lock_shared->deadline);
	worker_pid = (int32) pg_atomic_read_u32(&lock_shared->worker_pid);

	row.values[STATUS_STATE] =
		CStringGetTextDatum(link_state(&status, worker_pid != 0, left));
	row.values[STATUS_ENDPOINT] = CStringGetTextDatum(status.endpoint);
	set_known(&row, STATUS_SERVER_VERSION, status.server_version);
	row.values[STATUS_LEASE] =
		CStringGetTextDatum(psprintf("%llx", (unsigned long long) lease));
	row.nulls[STATUS_LEASE] = lease == 0;
	row.values[STATUS_TTL_LEFT] = seconds_interval(left);
	row.nulls[STATUS_TTL_LEFT] = lease == 0;
	row.values[STATUS_KEYS_HELD] = Int64GetDatum(keys_held);
	row.values[STATUS_WAITING] = Int64GetDatum(waiting);
	row.values[STATUS_WATCHES] = Int32GetDatum(worker_pid != 0 ? status.watches : 0);
	row.values[STATUS_DB_SIZE] = Int64GetDatum(status.db_size);
	row.nulls[STATUS_DB_SIZE] = status.db_size < 0;
	row.values[STATUS_ALARMS] = text_list(status.alarms);
	set_known(&row, STATUS_LAST_ERROR, status.last_error);
	row.values[STATUS_LAST_ERROR_AT] = TimestampTzGetDatum(status.last_error_at);
	row.nulls[STATUS_LAST_ERROR_AT] = row.nulls[STATUS_LAST_ERROR];
	row.values[STATUS_WORKER_PID] = Int32GetDatum(worker_pid);
	row.nulls[STATUS_WORKER_PID] = worker_pid == 0;
	row.values[STATUS_CLUSTER_ID] =
		CStringGetTextDatum(psprintf("%llx", (unsigned long long) cluster_id));
	row.nulls[STATUS_CLUSTER_ID] = cluster_id == 0;
	set_known(&row, STATUS_DUPLICATE_PRIMARY, status.duplicate);
	row.values[STATUS_AUDIT_AGE] = seconds_interval(Max(clock_now() - audited_at, 0));
	row.nulls[STATUS_AUDIT_AGE] = audited_at == 0;
	view_row_arrange(&row, values, nulls);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

/* The members that the server may use, as it last saw them. */
Datum
etcd_lock_sql_endpoints(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LinkStatus	status;

	lock_views_require_monitor();
	InitMaterializedSRF(fcinfo, 0);
	link_status_get(&status);

	for (int i = 0; i < status.nendpoints; i++)
	{
		const EndpointHealth *endpoint = &status.endpoints[i];
		bool		in_use = strcmp(endpoint->url, status.endpoint) == 0;
		Datum		values[9];
		bool		nulls[9] = {false};

		values[0] = CStringGetTextDatum(endpoint->url);
		values[1] = BoolGetDatum(in_use);
		values[2] = BoolGetDatum(endpoint->healthy);
		nulls[2] = !endpoint->looked;
		values[3] = TimestampTzGetDatum(endpoint->looked_at);
		nulls[3] = !endpoint->looked;
		values[4] = Float8GetDatum(endpoint->took / 1000.0);
		nulls[4] = !endpoint->looked || endpoint->took < 0;
		values[5] = text_of(endpoint->version);
		nulls[5] = endpoint->version[0] == '\0';
		values[6] = Int64GetDatum(endpoint->db_size);
		nulls[6] = !endpoint->looked || endpoint->db_size < 0;
		values[7] = BoolGetDatum(endpoint->is_leader);
		nulls[7] = nulls[6];
		values[8] = text_of(endpoint->error);
		nulls[8] = endpoint->error[0] == '\0';
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
