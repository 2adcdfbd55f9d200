/*-------------------------------------------------------------------------
 *
 * request_slot.h
 *	  A rare request that a session leaves for the worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REQUEST_SLOT_H
#define REQUEST_SLOT_H

#include "shared/lock_table.h"

/* There are some slots for each kind. */
typedef enum RequestKind
{
	REQUEST_BREAK,
	REQUEST_CLAIM
} RequestKind;

#define REQUEST_NKINDS	(REQUEST_CLAIM + 1)

/* Delete the key of a lock that is not this server's. */
typedef struct BreakRequest
{
	char		key[ETCD_LOCK_MAX_KEY + 1];
	int64		token;
	int			procno;			/* of the session that asks, */
	int			pid;
} BreakRequest;

typedef enum ClaimResult
{
	CLAIM_CLAIMED,
	CLAIM_TAKEN,
	CLAIM_TOO_MANY,				/* ticks in the namespace */
	CLAIM_LOST					/* the lock's key no longer exists */
} ClaimResult;

typedef struct ClaimRequest
{
	char		name[ETCD_LOCK_MAX_KEY + 1];	/* the lock's, */
	uint64		key_id;			/* and its key's id */
	char		tick_key[KEY_LAYOUT_SIZE];
	TimestampTz tick;
	uint64		claim;
	int			max_ticks;		/* limit of names with ticks in the namespace; */
	int			namespace_len;	/* its part of the name */
	int64		give_up_at;		/* clock_now(): no tick is claimed after that */
} ClaimRequest;

/* How it ended, as the session sees it. */
typedef enum RequestSlotEnd
{
	REQUEST_SLOT_DONE,
	REQUEST_SLOT_FAILED,
	REQUEST_SLOT_NO_TURN,		/* others took too long: it was never sent */
	REQUEST_SLOT_NO_RESPONSE	/* it may have been applied, or may still be */
} RequestSlotEnd;

extern Size request_slot_shmem_size(void);
extern void request_slot_shmem_init(void);

/*
 * Session: leave the request for the worker and wait for its end, for at most
 * timeout_ms.  Sets *result if it is done, *failure if it has failed.
 */
extern RequestSlotEnd request_slot_run(RequestKind kind, const void *request, int timeout_ms,
									   int *result, LockFailure *failure);

/*
 * Worker: take the next request.  Returns its id, for the functions below, or
 * 0 if there is none.
 */
extern uint64 request_slot_take(RequestKind kind, void *request);
extern void request_slot_done(RequestKind kind, uint64 id, int result);
extern void request_slot_failed(RequestKind kind, uint64 id, int sqlerrcode, const char *error);

#endif							/* REQUEST_SLOT_H */
