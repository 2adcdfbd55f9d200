/*-------------------------------------------------------------------------
 *
 * instance.h
 *	  Identifies this server: which run of which data directory on which machine.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INSTANCE_H
#define INSTANCE_H

#include "postgres.h"

#define INSTANCE_TEXT		256

/*
 * The same text means the same data directory, on the same machine, since the
 * same boot.  An empty text means that nothing is known.
 */
extern void instance_describe(char *identity);

#endif							/* INSTANCE_H */
