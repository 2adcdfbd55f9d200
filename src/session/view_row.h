/*-------------------------------------------------------------------------
 *
 * view_row.h
 *	  Rows of views, whose columns differ between versions of the extension.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VIEW_ROW_H
#define VIEW_ROW_H

#include "postgres.h"

#include "access/tupdesc.h"

#define VIEW_MAX_COLUMNS	32

/* A column that we can fill. */
typedef struct ViewColumn
{
	const char *name;
	const char *old_name;		/* its name before version 1.1; NULL: the same */
} ViewColumn;

typedef struct ViewRow
{
	Datum		values[VIEW_MAX_COLUMNS];	/* in the order of the ViewColumns */
	bool		nulls[VIEW_MAX_COLUMNS];
	int			natts;			/* of the requested row */
	int			column[VIEW_MAX_COLUMNS];	/* the ViewColumn of each of its
											 * columns */
} ViewRow;

extern void view_row_init(ViewRow *row, TupleDesc desc,
						  const ViewColumn *columns, int ncolumns);

/* Put the values into the requested order. */
extern void view_row_arrange(const ViewRow *row, Datum *values, bool *nulls);

#endif							/* VIEW_ROW_H */
