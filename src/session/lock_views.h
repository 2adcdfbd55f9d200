/*-------------------------------------------------------------------------
 *
 * lock_views.h
 *	  The check that all of the views make first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_VIEWS_H
#define LOCK_VIEWS_H

#include "postgres.h"

/* Raise an error unless the module is loaded and the user has pg_monitor. */
extern void lock_views_require_monitor(void);

#endif							/* LOCK_VIEWS_H */
