/*-------------------------------------------------------------------------
 *
 * commit.h
 *	  The commit of a session with locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMIT_H
#define COMMIT_H

#include "postgres.h"

extern void commit_init(void);

/* This transaction changes something, here or elsewhere. */
extern void commit_note_change(void);

/* Is there something to guard? */
extern bool commit_is_watched(void);

/*
 * Have the guard run before other modules' callbacks.  Must not be called by
 * one.
 */
extern void commit_to_front(void);

/*
 * Call these around a command that acts before its commit.  The first one may
 * refuse the command; when it has returned, it is too late for that.  Call the
 * third one before each outermost statement.
 */
extern void commit_begin_command(bool in_transaction);
extern void commit_end_command(void);
extern void commit_begin_statement(void);

/* Report what a commit could not; called before each statement. */
extern void commit_tell(void);

#endif							/* COMMIT_H */
