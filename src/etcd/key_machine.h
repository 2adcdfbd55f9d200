/*-------------------------------------------------------------------------
 *
 * key_machine.h
 *	  The life of a key: one state, and one table of what changes it.
 *
 * Pure: a state and an event go in; the next state and the actions come out.
 * lock_keys.c keeps the state in shared memory and does the actions there; the
 * worker does the rest (worker/key_step.c).
 *
 * Sessions cause KEY_ON_WANT and KEY_ON_ABANDON, both they and the worker
 * KEY_ON_BREAK; all other events come from the worker.  If the table has no
 * cell, the event cannot happen in that state.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KEY_MACHINE_H
#define KEY_MACHINE_H

#include <stdbool.h>

typedef enum KeyState
{
	KEY_FREE,					/* the slot is not in use */
	KEY_WANTED,					/* a session asks for it */

	/* on its way to etcd */
	KEY_PUT_READY,				/* to be put at the back of the queue */
	KEY_PUT_SENT,				/* may be in etcd */
	KEY_READ_READY,				/* a try: its queue is to be read first */
	KEY_READ_SENT,
	KEY_TRY_READY,				/* a try: to be put if nobody is in the way */
	KEY_TRY_SENT,				/* may be in etcd, with its tick */

	KEY_QUEUED,					/* in etcd, behind others */
	KEY_HELD,					/* granted */

	/* marked deleting: never granted again (rule 1) */
	KEY_DROPPED,				/* etcd never had it; the worker frees it */
	KEY_ABANDONED,				/* a request that puts it is in flight */
	KEY_DELETE_READY,
	KEY_DELETE_SENT
} KeyState;

#define KEY_NSTATES (KEY_DELETE_SENT + 1)

typedef enum KeyEvent
{
	KEY_ON_WANT,				/* a session asks for a key */
	KEY_ON_TAKE_PUT,			/* the worker takes it up: to be put */
	KEY_ON_TAKE_READ,			/* likewise, for a try whose queue had others */
	KEY_ON_TAKE_TRY,			/* likewise, for a try that expects to be
								 * first */
	KEY_ON_SEND,				/* it is part of a request now */
	KEY_ON_PUT,					/* etcd has put it */
	KEY_ON_UNSENT,				/* etcd certainly did not apply the request */
	KEY_ON_UNKNOWN,				/* it is unknown whether it did, or will */
	KEY_ON_REFUSE,				/* it refused the request, for good */
	KEY_ON_EXISTS,				/* the key was already there */
	KEY_ON_CLEAR,				/* read: no owner is in the way */
	KEY_ON_KEPT,				/* read: those in the way may only be keeping
								 * the lock */
	KEY_ON_BLOCKED,				/* read: another owner is in the way, or has
								 * the tick */
	KEY_ON_GRANT,				/* no owner is ahead any more */
	KEY_ON_MISSING,				/* etcd no longer has it */
	KEY_ON_HOPELESS,			/* it would wait forever */
	KEY_ON_DELETED,				/* etcd has deleted this very key */
	KEY_ON_ABANDON,				/* no session needs it any longer */
	KEY_ON_BREAK,				/* the lock is taken from those who hold it */
	KEY_ON_DROP,				/* the worker frees what etcd never had */
	KEY_ON_END_EPOCH,			/* the lease is over, and every key with it */
	KEY_ON_ADOPT				/* a new worker finds it in the table */
} KeyEvent;

#define KEY_NEVENTS (KEY_ON_ADOPT + 1)

/* The actions of a step, or'ed together; in this order. */
typedef enum KeyAction
{
	/* in shared memory */
	KEY_DO_UNSURE = 1 << 0,		/* note that its tick may be claimed */
	KEY_DO_LOSE = 1 << 1,		/* tell the holders that they lost the lock */
	KEY_DO_FAIL = 1 << 2,		/* tell those who ask for it why not */
	KEY_DO_FREE = 1 << 3,		/* the slot may be used again */
	KEY_DO_WORK = 1 << 4,		/* the worker has to look at it */
	KEY_DO_WAKE = 1 << 5,		/* wake the sessions that wait for a change */

	/* in the worker */
	KEY_DO_REUSE = 1 << 6,		/* its serial may be used again (rule 15) */
	KEY_DO_QUEUE = 1 << 7,		/* it has something to send */
	KEY_DO_READ = 1 << 8		/* read its queue */
} KeyAction;

typedef struct KeyStep
{
	bool		legal;
	KeyState	next;
	int			actions;		/* of KeyAction */
} KeyStep;

extern KeyStep key_machine_step(KeyState state, KeyEvent event);

/* Wanted or in etcd, and not marked deleting. */
extern bool key_machine_is_live(KeyState state);

/* Taken up by the worker, and not yet known to be in etcd. */
extern bool key_machine_is_on_its_way(KeyState state);

extern bool key_machine_is_deleting(KeyState state);

#endif							/* KEY_MACHINE_H */
