/*-------------------------------------------------------------------------
 *
 * queue_pages.h
 *	  What is in etcd, page by page, from the worker to a session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_PAGES_H
#define QUEUE_PAGES_H

#include "etcd_lock.h"

#include "queue_rules.h"

/* Bytes of a key, and of a value, that a page has room for. */
#define QUEUE_MAX_SHOWN_KEY		1024
#define QUEUE_MAX_VALUE			4096

/* A key of a lock, as a page has it; its bytes and its value's follow. */
typedef struct QueuePageKey
{
	QueueKeyParts parts;
	int64		create_revision;
	int64		lease;			/* 0: none */
	uint32		shown_len;		/* bytes of the key that follow; at least its
								 * name's, unless that is too long */
	bool		cut;			/* there are more */
	uint32		value_len;		/* 0: none, or too long to be one of ours */
} QueuePageKey;

/* Read what lies between two keys; both are copied. */
typedef struct QueueReader QueueReader;

extern QueueReader *queue_reader_open(const char *start, const char *end,
									  const char *ns);
extern void queue_reader_close(QueueReader *reader);

/*
 * The next page: keys of locks in the order of their bytes.  False: there are
 * no more.  ereports when etcd does not answer or refuses.
 */
extern bool queue_reader_next_page(QueueReader *reader);

/* Was this the last page? */
extern bool queue_reader_at_end(const QueueReader *reader);

/* How many keys were looked at so far, of locks or not. */
extern int64 queue_reader_scanned(const QueueReader *reader);

/* The next key of the page; NULL: end of the page. */
extern const QueuePageKey *queue_reader_next_key(QueueReader *reader,
												 const char **key,
												 const char **value);

/* Shared memory. */
extern Size queue_pages_shmem_size(void);
extern void queue_pages_request_locks(void);
extern void queue_pages_shmem_init(void);

/* Worker. */
extern void queue_pages_start(void);
extern void queue_pages_tick(void);
extern int64 queue_pages_next_time(void);

#endif							/* QUEUE_PAGES_H */
