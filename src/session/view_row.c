/*-------------------------------------------------------------------------
 *
 * view_row.c
 *	  Rows of views, whose columns differ between versions of the extension.
 *
 * A restart replaces the library; ALTER EXTENSION UPDATE replaces the SQL
 * definitions, in each database separately, perhaps much later, perhaps never.
 * So we look up by name which columns a caller wants, and where.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "session/view_row.h"

static bool
is_column(const ViewColumn *column, const char *name)
{
	return strcmp(column->name, name) == 0 ||
		(column->old_name != NULL && strcmp(column->old_name, name) == 0);
}

void
view_row_init(ViewRow *row, TupleDesc desc, const ViewColumn *columns, int ncolumns)
{
	Assert(ncolumns <= VIEW_MAX_COLUMNS);
	if (desc->natts > VIEW_MAX_COLUMNS)
		elog(ERROR, "too many columns in the definition of an etcd_lock view");
	memset(row, 0, sizeof(ViewRow));
	row->natts = desc->natts;
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);
		int			found = 0;

		while (found < ncolumns && !is_column(&columns[found], name))
			found++;
		if (found == ncolumns)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" is not known to this version of the etcd_lock library", name),
					 errhint("Restart the server, so that it loads the library that belongs to the extension.")));
		row->column[i] = found;
	}
}

void
view_row_arrange(const ViewRow *row, Datum *values, bool *nulls)
{
	for (int i = 0; i < row->natts; i++)
	{
		values[i] = row->values[row->column[i]];
		nulls[i] = row->nulls[row->column[i]];
	}
}
