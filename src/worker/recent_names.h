/*-------------------------------------------------------------------------
 *
 * recent_names.h
 *	  What was recently seen of names: contended, oversized, refused.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RECENT_NAMES_H
#define RECENT_NAMES_H

#include "shared/lock_table.h"

extern void recent_names_create(void);

/* Were others recently seen in the name's queue? */
extern bool recent_name_is_contended(const LockEntry *entry, int64 now);
extern void recent_name_note_contended(const LockEntry *entry);

/*
 * Must requests about the name go alone, because their response may be too
 * long?
 */
extern bool recent_name_is_oversized(const LockEntry *entry, int64 now);
extern void recent_name_note_oversized(const LockEntry *entry, bool oversized);

/*
 * Did the name, or another one that this session asked for, have so many keys
 * below it, of any locks, that its responses are a burden?  pid is 0 if
 * there is no session.
 */
#define RECENT_LONG_QUEUE	100

extern bool recent_name_is_long(const LockEntry *entry, int pid, int64 now);
extern void recent_name_note_long(const LockEntry *entry, int pid);

/*
 * Did etcd refuse the name, or another one that this session asked for?  Names
 * that share a place here only become slower.
 */
extern bool recent_name_was_refused(const LockEntry *entry, int pid, int64 now);
extern void recent_name_note_refused(const LockEntry *entry, int pid);

#endif							/* RECENT_NAMES_H */
