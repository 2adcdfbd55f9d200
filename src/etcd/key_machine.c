/*-------------------------------------------------------------------------
 *
 * key_machine.c
 *	  The life of a key: one state, and one table of what changes it.
 *
 * The rules in the comments are those of README.md.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/key_machine.h"

#define TO(state, actions)	{true, state, actions}

/* Sent, perhaps again. */
#define SEND(state)			TO(state, KEY_DO_QUEUE)

/* The response can no longer change anything. */
#define TOO_LATE(state)		TO(state, 0)

/*
 * The end of a key.  A serial is used again only if etcd never had the key, or
 * has reported both its create_revision and its end (rule 15).
 */
#define ENDS(more)			TO(KEY_FREE, KEY_DO_FREE | KEY_DO_WAKE | (more))
#define NEVER_WAS(more)		ENDS(KEY_DO_REUSE | (more))

/* To be deleted from etcd, by the worker, which knows. */
#define DELETES(more)		TO(KEY_DELETE_READY, KEY_DO_QUEUE | KEY_DO_WAKE | (more))

static const KeyStep steps[KEY_NSTATES][KEY_NEVENTS] = {
	[KEY_FREE] = {
		[KEY_ON_WANT] = TO(KEY_WANTED, KEY_DO_WORK),
	},

	/*
	 * The lease's end does not affect a key that the worker has not seen.
	 */
	[KEY_WANTED] = {
		[KEY_ON_TAKE_PUT] = SEND(KEY_PUT_READY),
		[KEY_ON_TAKE_READ] = SEND(KEY_READ_READY),
		[KEY_ON_TAKE_TRY] = SEND(KEY_TRY_READY),
		[KEY_ON_ABANDON] = ENDS(0),
	},

	[KEY_PUT_READY] = {
		[KEY_ON_SEND] = TO(KEY_PUT_SENT, 0),
		[KEY_ON_ABANDON] = TO(KEY_DROPPED, KEY_DO_WORK | KEY_DO_WAKE),
		[KEY_ON_END_EPOCH] = NEVER_WAS(0),
		[KEY_ON_ADOPT] = SEND(KEY_PUT_READY),
	},

	/*
	 * A put that may come late is never repeated with the same name (rules 1,
	 * 15).  Nor is one that found its key there, because only the request
	 * itself can have put it (rule 11).
	 */
	[KEY_PUT_SENT] = {
		[KEY_ON_PUT] = TO(KEY_QUEUED, KEY_DO_WAKE),
		[KEY_ON_UNSENT] = SEND(KEY_PUT_READY),
		[KEY_ON_UNKNOWN] = DELETES(0),
		[KEY_ON_REFUSE] = NEVER_WAS(KEY_DO_FAIL),
		[KEY_ON_EXISTS] = DELETES(0),
		[KEY_ON_ABANDON] = TO(KEY_ABANDONED, KEY_DO_WAKE),
		[KEY_ON_END_EPOCH] = ENDS(0),
		[KEY_ON_ADOPT] = DELETES(0),
	},

	[KEY_READ_READY] = {
		[KEY_ON_SEND] = TO(KEY_READ_SENT, 0),
		[KEY_ON_ABANDON] = TO(KEY_DROPPED, KEY_DO_WORK | KEY_DO_WAKE),
		[KEY_ON_END_EPOCH] = NEVER_WAS(0),
		[KEY_ON_ADOPT] = SEND(KEY_READ_READY),
	},

	/*
	 * A read changes nothing, so it can be repeated.  If it finds a key of
	 * the same name, that is an earlier one.
	 */
	[KEY_READ_SENT] = {
		[KEY_ON_UNSENT] = SEND(KEY_READ_READY),
		[KEY_ON_UNKNOWN] = SEND(KEY_READ_READY),
		[KEY_ON_REFUSE] = NEVER_WAS(KEY_DO_FAIL),
		[KEY_ON_EXISTS] = DELETES(0),
		[KEY_ON_CLEAR] = SEND(KEY_TRY_READY),
		[KEY_ON_KEPT] = SEND(KEY_PUT_READY),
		[KEY_ON_BLOCKED] = NEVER_WAS(KEY_DO_FAIL),
		[KEY_ON_ABANDON] = TO(KEY_DROPPED, KEY_DO_WORK | KEY_DO_WAKE),
		[KEY_ON_END_EPOCH] = NEVER_WAS(0),
		[KEY_ON_ADOPT] = SEND(KEY_READ_READY),
	},

	/* Only the worker that has read the queue knows the result. */
	[KEY_TRY_READY] = {
		[KEY_ON_TAKE_READ] = SEND(KEY_READ_READY),
		[KEY_ON_SEND] = TO(KEY_TRY_SENT, 0),
		[KEY_ON_ABANDON] = TO(KEY_DROPPED, KEY_DO_WORK | KEY_DO_WAKE),
		[KEY_ON_END_EPOCH] = NEVER_WAS(0),
		[KEY_ON_ADOPT] = SEND(KEY_READ_READY),
	},

	/*
	 * Like a put, except that its tick may have been claimed.  A try that was
	 * not put has read the queue.
	 */
	[KEY_TRY_SENT] = {
		[KEY_ON_PUT] = TO(KEY_QUEUED, KEY_DO_WAKE),
		[KEY_ON_UNSENT] = SEND(KEY_TRY_READY),
		[KEY_ON_UNKNOWN] = DELETES(KEY_DO_UNSURE),
		[KEY_ON_REFUSE] = NEVER_WAS(KEY_DO_FAIL),
		[KEY_ON_EXISTS] = DELETES(KEY_DO_UNSURE),
		[KEY_ON_CLEAR] = SEND(KEY_TRY_READY),
		[KEY_ON_KEPT] = SEND(KEY_PUT_READY),
		[KEY_ON_BLOCKED] = NEVER_WAS(KEY_DO_FAIL),
		[KEY_ON_ABANDON] = TO(KEY_ABANDONED, KEY_DO_WAKE),
		[KEY_ON_END_EPOCH] = ENDS(KEY_DO_UNSURE),
		[KEY_ON_ADOPT] = DELETES(KEY_DO_UNSURE),
	},

	/*
	 * If somebody deleted the key, the session asks anew for a place in the
	 * queue (rule 4).  The tick is claimed, although nobody runs yet.
	 */
	[KEY_QUEUED] = {
		[KEY_ON_GRANT] = TO(KEY_HELD, KEY_DO_WAKE),
		[KEY_ON_MISSING] = DELETES(KEY_DO_UNSURE),
		[KEY_ON_HOPELESS] = DELETES(KEY_DO_FAIL),
		[KEY_ON_ABANDON] = TO(KEY_DELETE_READY, KEY_DO_WORK | KEY_DO_WAKE),
		[KEY_ON_END_EPOCH] = ENDS(KEY_DO_UNSURE),
		[KEY_ON_ADOPT] = TO(KEY_QUEUED, KEY_DO_READ),
	},

	/*
	 * Perhaps no session has taken the lock yet: then its tick is claimed,
	 * too.
	 */
	[KEY_HELD] = {
		[KEY_ON_MISSING] = ENDS(KEY_DO_UNSURE | KEY_DO_LOSE),
		[KEY_ON_ABANDON] = TO(KEY_DELETE_READY, KEY_DO_WORK | KEY_DO_WAKE),
		[KEY_ON_BREAK] = TO(KEY_DELETE_READY, KEY_DO_UNSURE | KEY_DO_LOSE | KEY_DO_WORK | KEY_DO_WAKE),
		[KEY_ON_END_EPOCH] = ENDS(KEY_DO_UNSURE | KEY_DO_LOSE),
		[KEY_ON_ADOPT] = TO(KEY_HELD, KEY_DO_READ),
	},

	/* The response to a read may still come. */
	[KEY_DROPPED] = {
		[KEY_ON_UNSENT] = TOO_LATE(KEY_DROPPED),
		[KEY_ON_UNKNOWN] = TOO_LATE(KEY_DROPPED),
		[KEY_ON_REFUSE] = TOO_LATE(KEY_DROPPED),
		[KEY_ON_EXISTS] = TOO_LATE(KEY_DROPPED),
		[KEY_ON_CLEAR] = TOO_LATE(KEY_DROPPED),
		[KEY_ON_KEPT] = TOO_LATE(KEY_DROPPED),
		[KEY_ON_BLOCKED] = TOO_LATE(KEY_DROPPED),
		[KEY_ON_DROP] = NEVER_WAS(0),
		[KEY_ON_END_EPOCH] = NEVER_WAS(0),
		[KEY_ON_ADOPT] = TO(KEY_DROPPED, 0),
	},

	[KEY_ABANDONED] = {
		[KEY_ON_PUT] = DELETES(0),
		[KEY_ON_UNSENT] = NEVER_WAS(0),
		[KEY_ON_UNKNOWN] = DELETES(0),
		[KEY_ON_REFUSE] = NEVER_WAS(0),
		[KEY_ON_EXISTS] = DELETES(0),
		[KEY_ON_CLEAR] = NEVER_WAS(0),
		[KEY_ON_KEPT] = NEVER_WAS(0),
		[KEY_ON_BLOCKED] = NEVER_WAS(0),
		[KEY_ON_END_EPOCH] = ENDS(0),
		[KEY_ON_ADOPT] = DELETES(0),
	},

	[KEY_DELETE_READY] = {
		[KEY_ON_SEND] = TO(KEY_DELETE_SENT, 0),
		[KEY_ON_END_EPOCH] = ENDS(0),
		[KEY_ON_ADOPT] = SEND(KEY_DELETE_READY),
	},

	/* Repeated until etcd says that the key is gone (rule 15). */
	[KEY_DELETE_SENT] = {
		[KEY_ON_UNSENT] = SEND(KEY_DELETE_READY),
		[KEY_ON_UNKNOWN] = SEND(KEY_DELETE_READY),
		[KEY_ON_REFUSE] = SEND(KEY_DELETE_READY),
		[KEY_ON_MISSING] = ENDS(0),
		[KEY_ON_DELETED] = ENDS(KEY_DO_REUSE),
		[KEY_ON_END_EPOCH] = ENDS(0),
		[KEY_ON_ADOPT] = SEND(KEY_DELETE_READY),
	},
};

KeyStep
key_machine_step(KeyState state, KeyEvent event)
{
	static const KeyStep illegal = {false, KEY_FREE, 0};

	if ((unsigned) state >= KEY_NSTATES || (unsigned) event >= KEY_NEVENTS)
		return illegal;
	return steps[state][event];
}

bool
key_machine_is_live(KeyState state)
{
	return state >= KEY_WANTED && state <= KEY_HELD;
}

bool
key_machine_is_on_its_way(KeyState state)
{
	return state >= KEY_PUT_READY && state <= KEY_TRY_SENT;
}

bool
key_machine_is_deleting(KeyState state)
{
	return state >= KEY_DROPPED && state <= KEY_DELETE_SENT;
}
