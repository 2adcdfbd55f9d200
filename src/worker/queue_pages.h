/*-------------------------------------------------------------------------
 *
 * queue_pages.h
 *	  Reading etcd's keys for sessions, page by page.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_PAGES_H
#define QUEUE_PAGES_H

#include "postgres.h"

extern void queue_pages_create(void);
extern void queue_pages_tick(void);
extern int64 queue_pages_next_time(void);

#endif							/* QUEUE_PAGES_H */
