/*-------------------------------------------------------------------------
 *
 * views.c
 *	  What functions that return rows need, and what the views must show.
 *
 * A row is kept as the function has made it: its values by the names of their columns.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/tuplestore.h"

#define MAX_ROWS	256
#define MAX_COLUMNS	16
#define TEXT_SIZE	64

/* What of a view is looked at. */
typedef struct View
{
	const char *function;
	const char *columns[MAX_COLUMNS];
	int			ntexts;			/* the first ones */
	int			nrows;
	struct
	{
		Datum		values[MAX_COLUMNS];
		bool		nulls[MAX_COLUMNS];
		char		texts[3][TEXT_SIZE];
	}			rows[MAX_ROWS];
} View;

static View locks_view = {
	.function = "etcd_lock_sql_locks",
	.columns = {"name", "mode", "granted", "pid", "token", "lost"},
	.ntexts = 2
};

static View queue_view = {
	.function = "etcd_lock_sql_queue",
	.columns = {"name", "mode", "granted", "create_revision", "position"},
	.ntexts = 2
};

static View stats_view = {
	.function = "etcd_lock_sql_stats",
	.columns = {"waiting_at_reset", "asked", "acquired_etcd", "acquired_passed_on", "tries_failed",
	"timeouts", "deadlocks", "cancelled", "failed", "waiting", "held_at_reset", "released", "lost",
	"held"}
};

static View status_view = {
	.function = "etcd_lock_sql_status",
	.columns = {"state", "lease", "keys_held", "waiting", "worker_pid"},
	.ntexts = 2
};

static View *view;				/* that is being read */
static TupleDesc desc;

/* ---- stand-ins ---- */

static TupleDesc
make_desc(void)
{
	int			n = 0;
	TupleDesc	made;

	while (n < MAX_COLUMNS && view->columns[n] != NULL)
		n++;
	made = palloc0(offsetof(struct TupleDescData, attrs) + n * sizeof(FormData_pg_attribute));
	made->natts = n;
	for (int i = 0; i < n; i++)
		strlcpy(NameStr(TupleDescAttr(made, i)->attname), view->columns[i], NAMEDATALEN);
	return made;
}

/* Texts are copied, as the statement's memory goes. */
static void
add_row(Datum *values, bool *isnull)
{
	if (view->nrows == MAX_ROWS)
		return;
	for (int i = 0; i < desc->natts; i++)
	{
		view->rows[view->nrows].values[i] = values[i];
		view->rows[view->nrows].nulls[i] = isnull[i];
		if (i < view->ntexts && !isnull[i])
		{
			char	   *copy = TextDatumGetCString(values[i]);

			strlcpy(view->rows[view->nrows].texts[i], copy, TEXT_SIZE);
		}
	}
	view->nrows++;
}

void
InitMaterializedSRF(FunctionCallInfo fcinfo, bits32 flags)
{
	((ReturnSetInfo *) fcinfo->resultinfo)->setDesc = desc;
}

void
tuplestore_putvalues(Tuplestorestate *state, TupleDesc tdesc, Datum *values, bool *isnull)
{
	add_row(values, isnull);
}

TypeFuncClass
get_call_result_type(FunctionCallInfo fcinfo, Oid *resultTypeId, TupleDesc *resultTupleDesc)
{
	*resultTupleDesc = desc;
	return TYPEFUNC_COMPOSITE;
}

TupleDesc
BlessTupleDesc(TupleDesc tupdesc)
{
	return tupdesc;
}

HeapTuple
heap_form_tuple(TupleDesc tupleDescriptor, Datum *values, bool *isnull)
{
	add_row(values, isnull);
	return palloc0(sizeof(HeapTupleData));
}

Datum
HeapTupleHeaderGetDatum(HeapTupleHeader tuple)
{
	return (Datum) 0;
}

/* Intervals and arrays, at which nothing looks. */
Datum
DirectFunctionCall2Coll(PGFunction func, Oid collation, Datum arg1, Datum arg2)
{
	return (Datum) 0;
}

Datum
DirectFunctionCall7Coll(PGFunction func, Oid collation, Datum arg1, Datum arg2, Datum arg3,
						Datum arg4, Datum arg5, Datum arg6, Datum arg7)
{
	return (Datum) 0;
}

Datum
make_interval(PG_FUNCTION_ARGS)
{
	return (Datum) 0;
}

Datum
text_to_array(PG_FUNCTION_ARGS)
{
	return (Datum) 0;
}

/* ---- what they show ---- */

static void
look(View *at)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	flinfo = {0};
	ReturnSetInfo rsinfo = {.type = T_ReturnSetInfo};

	view = at;
	view->nrows = 0;
	desc = make_desc();
	InitFunctionCallInfoData(*fcinfo, &flinfo, 0, InvalidOid, NULL, (Node *) &rsinfo);
	(void) ((PGFunction) sim_symbol(view->function)) (fcinfo);
}

static int
column(const View *of, const char *name)
{
	int			i = 0;

	while (strcmp(of->columns[i], name) != 0)
		i++;
	return i;
}

static int64
number(const View *of, int row, const char *name)
{
	int			i = column(of, name);

	return of->rows[row].nulls[i] ? 0 : (int64) of->rows[row].values[i];
}

static bool
is_text(const View *of, int row, const char *name, const char *wanted)
{
	int			i = column(of, name);

	return !of->rows[row].nulls[i] && strcmp(of->rows[row].texts[i], wanted) == 0;
}

static int64
stat(const char *name)
{
	return number(&stats_view, 0, name);
}

static void
check_stats(void)
{
	int64		acquired = stat("acquired_etcd") + stat("acquired_passed_on");

	if (stats_view.nrows != 1 ||
		stat("waiting_at_reset") + stat("asked") !=
		acquired + stat("tries_failed") + stat("timeouts") + stat("deadlocks") +
		stat("cancelled") + stat("failed") + stat("waiting"))
		sim_wrong("the numbers of requests in etcd_lock_stats do not add up");
	if (stat("held_at_reset") + acquired != stat("released") + stat("lost") + stat("held"))
		sim_wrong("the numbers of locks in etcd_lock_stats do not add up");
}

/* As a statement of this session, which does nothing else meanwhile. */
void
pg_look_at_views(void)
{
	look(&stats_view);
	check_stats();
	look(&status_view);
	if (status_view.nrows != 1)
		sim_wrong("etcd_lock_status has no row");
	look(&locks_view);
	look(&queue_view);
}

/* Is the lock shown as this session's, granted, in this mode and with this token? */
bool
pg_locks_show(const char *name, bool exclusive, int64_t token)
{
	for (int i = 0; i < locks_view.nrows; i++)
	{
		if (number(&locks_view, i, "pid") == MyProcPid &&
			number(&locks_view, i, "token") == token && is_text(&locks_view, i, "name", name) &&
			is_text(&locks_view, i, "mode", exclusive ? "exclusive" : "shared"))
			return (bool) number(&locks_view, i, "granted") && !(bool) number(&locks_view, i, "lost");
	}
	return false;
}

/* Is the key with this create_revision shown as one that has the lock? */
bool
pg_queue_shows(const char *name, int64_t revision)
{
	for (int i = 0; i < queue_view.nrows; i++)
	{
		if (number(&queue_view, i, "create_revision") == revision &&
			is_text(&queue_view, i, "name", name))
			return (bool) number(&queue_view, i, "granted");
	}
	return false;
}
