/*-------------------------------------------------------------------------
 *
 * queue_reader.h
 *	  Reading etcd's keys page by page, with the worker's help.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_READER_H
#define QUEUE_READER_H

#include "shared/queue_slots.h"

/* Read what lies between two keys; both are copied. */
typedef struct QueueReader QueueReader;

extern QueueReader *queue_reader_open(const char *start, const char *end,
									  const char *ns);
extern void queue_reader_close(QueueReader *reader);

/*
 * Get the next page, which has keys of locks in the order of their bytes.
 * Returns false if there is none.  Raises an error if etcd does not respond or
 * refuses.
 */
extern bool queue_reader_next_page(QueueReader *reader);

/* Was this the last page? */
extern bool queue_reader_at_end(const QueueReader *reader);

/* How many keys were read so far, of locks or not. */
extern int64 queue_reader_scanned(const QueueReader *reader);

/* Returns the next key of the page, or NULL at its end. */
extern const QueuePageKey *queue_reader_next_key(QueueReader *reader,
												 const char **key,
												 const char **value);

#endif							/* QUEUE_READER_H */
