/*-------------------------------------------------------------------------
 *
 * break_message.h
 *	  Messages below our sentinel that another server has broken a lock of ours.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BREAK_MESSAGE_H
#define BREAK_MESSAGE_H

#include "postgres.h"
#include "etcd/etcd_holder.h"

/* Is it such a message?  Then returns the serial of the broken key. */
extern bool break_message_is(const char *key, size_t key_len, uint64 *serial);

extern void break_message_create(void);

/*
 * Such a message has come about a key of ours; by is NULL if it does not say
 * who broke the lock.
 */
extern void break_message_came(uint64 serial, const EtcdHolder *by);

/* Was the key lost recently, without a message? */
extern bool break_message_is_awaited(uint64 serial);

/*
 * A read of the queue, or a watch, has shown that a held key of ours is gone.
 */
extern void break_message_key_lost(uint64 serial, const char *name);

#endif							/* BREAK_MESSAGE_H */
