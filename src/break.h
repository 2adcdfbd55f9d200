/*-------------------------------------------------------------------------
 *
 * break.h
 *	  Taking a lock away from whoever holds it, on whatever server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BREAK_H
#define BREAK_H

#include "etcd_lock.h"

#include "etcd_holder.h"

extern Size break_shmem_size(void);
extern void break_shmem_init(void);

/* Worker: take up what a session asks for. */
extern void break_tick(void);

/*
 * Worker: messages that another server leaves below our sentinel when it has
 * broken a lock of ours.
 */
extern bool break_is_message(const char *key, size_t key_len);
extern void break_log_message(const char *key, const EtcdHolder *by);

#endif							/* BREAK_H */
