/*-------------------------------------------------------------------------
 *
 * serials.h
 *	  The serials in the names of our keys in etcd, and whose they are.
 *
 * Etcd's index keeps every key that ever existed until the next compaction,
 * and goes through all of them when it reads a queue.  So serials are used
 * again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SERIALS_H
#define SERIALS_H

#include "postgres.h"

extern void serials_create(void);

/*
 * Take a serial for a new key of the name with this hash; return it once the
 * key is certainly gone.
 */
extern uint64 serial_take(uint32 hashcode);
extern void serial_give_back(uint32 hashcode, uint64 serial);

/* Who has the serial now; NULL: nobody. */
extern void serial_set_owner(uint64 serial, void *owner);
extern void *serial_owner(uint64 serial);

/* How many serials have an owner. */
extern int	serials_count(void);

#endif							/* SERIALS_H */
