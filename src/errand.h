/*-------------------------------------------------------------------------
 *
 * errand.h
 *	  A rare request that the worker carries out for a session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ERRAND_H
#define ERRAND_H

#include "lock_table.h"

/* A place in shared memory for one request of a kind. */
typedef struct Errand Errand;

/* How it ended, as the session sees it. */
typedef enum ErrandEnd
{
	ERRAND_DONE,
	ERRAND_FAILED,
	ERRAND_NO_TURN,				/* others' took too long: it was never sent */
	ERRAND_NO_ANSWER			/* it may have been carried out, or may be yet */
} ErrandEnd;

/* Request: what a session hands over, of a fixed size. */
extern Size errand_shmem_size(size_t request_size);
extern Errand *errand_shmem_init(const char *name, size_t request_size);

/*
 * Session: hand it to the worker and wait for its end, for timeout_ms in all.
 * Fills *result when it is done, *failure when it has failed.
 */
extern ErrandEnd errand_run(Errand *errand, const void *request, int timeout_ms,
							int *result, LockFailure *failure);

/*
 * Worker: take up what is asked for.  Returns its number, by which the end is
 * told; 0: there is nothing.
 */
extern uint64 errand_take(Errand *errand, void *request);
extern void errand_done(Errand *errand, uint64 id, int result);
extern void errand_failed(Errand *errand, uint64 id, int sqlerrcode, const char *error);

#endif							/* ERRAND_H */
