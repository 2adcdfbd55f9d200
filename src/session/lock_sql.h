/*-------------------------------------------------------------------------
 *
 * lock_sql.h
 *	  Checks that all functions that users call make first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCK_SQL_H
#define LOCK_SQL_H

#include "session/lock_session.h"

/* NULL is an error, because a NULL result could be taken for success. */
extern void lock_sql_refuse_null(FunctionCallInfo fcinfo, int arg, const char *what);

/*
 * Raise an error unless the module is loaded, and this process works for the
 * role that has logged in, not for the owner of a function that it happens to
 * run.
 */
extern void lock_sql_require_session(void);

/* Raise an error if locks that outlive their transaction are not allowed. */
extern void lock_sql_check_session_lock(void);

/* Returns the hold of this session, preferably the exclusive one, or NULL. */
extern LocalHold *lock_sql_find_hold(const LockName *name);

#endif							/* LOCK_SQL_H */
