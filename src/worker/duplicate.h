/*-------------------------------------------------------------------------
 *
 * duplicate.h
 *	  Detecting another live primary with our system identifier.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DUPLICATE_H
#define DUPLICATE_H

#include "postgres.h"

extern void duplicate_create(void);
extern void duplicate_tick(void);
extern int64 duplicate_next_time(void);

#endif							/* DUPLICATE_H */
