/*-------------------------------------------------------------------------
 *
 * key_value.h
 *	  The value of our keys in etcd: who asked for the lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KEY_VALUE_H
#define KEY_VALUE_H

#include "shared/lock_table.h"

extern void key_value_create(void);

/* What this server is called; size bytes at most. */
extern void key_value_server(char *text, size_t size);

/* palloc'd; who is NULL for the key of the server itself. */
extern char *key_value_make(const LockWho *who, int pid, TimestampTz since);
extern char *key_value_make_kept(void);

#endif							/* KEY_VALUE_H */
