/*-------------------------------------------------------------------------
 *
 * queue_slots.h
 *	  Slots that transfer pages of etcd's keys from the worker to a session.
 *
 * QueueShared.lock protects everything here; it is held for at most the time
 * to copy a page.  The owner of a slot changes its state from TAKEN or DONE to
 * ASKED, and may free it in any state; the worker changes it from ASKED to
 * SENT, then to DONE. QueueSlot.id distinguishes a slot's owners, so that a
 * late page does not reach another one.  Sessions take the slots in turn
 * (slot_turns.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUEUE_SLOTS_H
#define QUEUE_SLOTS_H

#include "etcd/queue.h"
#include "shared/lock_table.h"
#include "shared/slot_turns.h"

/* The longest key and value that a page shows, in bytes. */
#define QUEUE_MAX_SHOWN_KEY		1024
#define QUEUE_MAX_VALUE			4096

/* A key of a lock in a page; the bytes of the key and of its value follow. */
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

#define QUEUE_SLOTS			SLOT_POOL_QUEUES
#define QUEUE_PAGE_SIZE		(64 * 1024)

typedef enum QueueSlotState
{
	SLOT_FREE,
	SLOT_TAKEN,
	SLOT_ASKED,
	SLOT_SENT,
	SLOT_DONE
} QueueSlotState;

typedef struct QueueSlot
{
	QueueSlotState state;
	uint64		id;				/* of the current owner */
	int			procno;			/* likewise */
	bool		first;			/* asks for the first page */
	char		start[ETCD_LOCK_MAX_KEY + 2];
	char		end[ETCD_LOCK_MAX_KEY + 2];
	char		ns[ETCD_LOCK_MAX_KEY + 1];

	/* the page */
	LockFailure failure;
	bool		last;			/* there are no more */
	int			scanned;
	uint32		used;			/* bytes of data */
	char		data[QUEUE_PAGE_SIZE];
} QueueSlot;

typedef struct QueueShared
{
	LWLock	   *lock;
	QueueSlot	slots[QUEUE_SLOTS];
} QueueShared;

extern QueueShared *queue_slots;

extern Size queue_slots_shmem_size(void);
extern void queue_slots_request_locks(void);
extern void queue_slots_shmem_init(void);

#endif							/* QUEUE_SLOTS_H */
