/*-------------------------------------------------------------------------
 *
 * held_keys.h
 *	  Keys that are held for long: who has them now, and that they still exist.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HELD_KEYS_H
#define HELD_KEYS_H

#include "worker/name.h"

/* Limit of watches; beyond it, queues are read regularly instead. */
#define HELD_KEYS_MAX_WATCHES	10000

extern void held_keys_create(void);
extern void held_keys_add(WorkerKey *key);
extern void held_keys_look(WorkerKey *key);
extern void held_keys_watch(WorkerKey *key);
extern bool held_keys_give_watch(void);

/* Has each key that is held for long been given a watch?  (It may have ended since.) */
extern bool held_keys_all_watched(void);

/* The note on a key that is deleted has gone with it, or is not to. */
extern void held_keys_note_deleted(WorkerKey *key, int64 revision);
extern void held_keys_leave_note(WorkerKey *key);

/* Is this note, which etcd lists on our lease, about the key? */
extern bool held_keys_knows_note(WorkerKey *key, const char *note, size_t len);

extern void held_keys_tick(int64 now);
extern int64 held_keys_next_time(void);

#endif							/* HELD_KEYS_H */
