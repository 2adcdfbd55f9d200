/*-------------------------------------------------------------------------
 *
 * catch_up_slot.h
 *	  How sessions of a standby learn how far the primary had written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CATCH_UP_SLOT_H
#define CATCH_UP_SLOT_H

#include "access/xlogdefs.h"
#include "shared/lock_table.h"

typedef enum CatchUpKind
{
	CATCH_UP_NO_PRIMARY,		/* none of this system is registered */
	CATCH_UP_POSITION,			/* it had written up to there */
	CATCH_UP_FAILED				/* it is not known; message says why */
} CatchUpKind;

typedef struct CatchUpAnswer
{
	CatchUpKind kind;
	uint64		primary;		/* its lease */
	TimeLineID	timeline;
	XLogRecPtr	position;
	char		message[LOCK_FAILURE_SIZE];
} CatchUpAnswer;

extern Size catch_up_slot_shmem_size(void);
extern void catch_up_slot_shmem_init(void);

/*
 * Session: catch_up_slot_ask() asks and returns the number of the question;
 * catch_up_slot_get() returns whether it has been answered;
 * catch_up_slot_sleep() waits for any answer, or until the timeout.
 */
extern uint64 catch_up_slot_ask(void);
extern bool catch_up_slot_get(uint64 question, CatchUpAnswer *answer);
extern void catch_up_slot_sleep(long timeout_ms);

/*
 * Worker: catch_up_slot_open_question() returns the number of the last
 * question if it is not answered yet, else 0.  An answer is for all questions
 * up to this one.
 */
extern uint64 catch_up_slot_open_question(void);
extern void catch_up_slot_answer(uint64 question, const CatchUpAnswer *answer);

#endif							/* CATCH_UP_SLOT_H */
