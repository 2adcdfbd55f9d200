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

extern Size break_shmem_size(void);
extern void break_shmem_init(void);

/* Worker: take up what a session asks for. */
extern void break_tick(void);

#endif							/* BREAK_H */
