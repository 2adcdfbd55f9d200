/*-------------------------------------------------------------------------
 *
 * names.h
 *	  What the worker does about each name: make etcd agree with the table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NAMES_H
#define NAMES_H

#include "worker/name.h"

extern void names_create(void);
extern void names_take_work(void);
extern void names_tick(void);
extern int64 names_next_time(void);
extern void names_end_epoch(const char *reason);

#endif							/* NAMES_H */
