/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The background worker, which talks to etcd for the whole server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WORKER_H
#define WORKER_H

#include "postgres.h"

extern PGDLLEXPORT void etcd_lock_worker_main(Datum arg);
extern void worker_register(void);

#endif							/* WORKER_H */
