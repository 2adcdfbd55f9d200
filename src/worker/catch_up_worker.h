/*-------------------------------------------------------------------------
 *
 * catch_up_worker.h
 *	  How far the primary had written: a standby's worker asks, the primary's
 *	  worker answers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CATCH_UP_WORKER_H
#define CATCH_UP_WORKER_H

#include "postgres.h"
#include "etcd/etcd_api.h"

extern void catch_up_worker_create(void);
extern void catch_up_worker_tick(void);
extern int64 catch_up_worker_next_time(void);

/*
 * Somebody has put this key below our sentinel, which may be a question or an
 * answer.
 */
extern void catch_up_worker_message(const EtcdKeyValue *message);

#endif							/* CATCH_UP_WORKER_H */
