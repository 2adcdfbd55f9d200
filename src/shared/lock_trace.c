/*-------------------------------------------------------------------------
 *
 * lock_trace.c
 *	  What happens to a lock, step by step, as debug messages.
 *
 * With client_min_messages (or log_min_messages) at debug1, a session reports
 * what becomes of its own locks; with log_min_messages at debug2, the worker
 * reports what becomes of this server's keys.
 *
 * A step is noted where a state changes, which is where no message may be
 * sent: under an LWLock, or past the commit.  lock_trace_say() reports it
 * later, with the time at which it was noted.  The session's next statement
 * reports the steps of a transaction's end.  All of this is in the memory of
 * the process, except the time at which a key was wanted, which is in shared
 * memory.
 *
 * While tracing is off, a step costs the test of one variable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "shared/lock_text.h"
#include "shared/lock_trace.h"

/* Further steps before the next report are only counted. */
#define MAX_NOTES	64

typedef struct TraceNote
{
	LockTraceStep step;
	int64		after;			/* microseconds */
	int64		number;
	int			namespace_len;
	LOCKTAG		tag;
	char		key[ETCD_LOCK_MAX_KEY + 1];
} TraceNote;

bool		lock_trace_on = false;

static TraceNote notes[MAX_NOTES];
static int	nnotes = 0;
static int	nmore = 0;
static bool in_worker = false;
static int64 began_at;			/* a session's */
static int64 noted_revision;	/* of the key that the session saw last */

/* Formats for the note's number. */
static const char *const texts[] = {
	[LOCK_TRACE_ASKED_SHARED] = "asked for, shared",
	[LOCK_TRACE_ASKED_EXCLUSIVE] = "asked for, exclusive",
	[LOCK_TRACE_WAITS_HERE] = "waits for process " INT64_FORMAT " of this server",
	[LOCK_TRACE_TAG] = "acquired PostgreSQL's lock on this server",
	[LOCK_TRACE_KEY_WANTED] = "needs a key in etcd",
	[LOCK_TRACE_KEY_SENT] = "key is sent to etcd",
	[LOCK_TRACE_KEY_PUT] = "key is in etcd, revision " INT64_FORMAT,
	[LOCK_TRACE_KEY_BEHIND] = "waits behind " INT64_FORMAT " keys",
	[LOCK_TRACE_KEY_HELD] = "key of revision " INT64_FORMAT " is granted to this server",
	[LOCK_TRACE_KEY_KEPT] = "key is kept for sessions here, for " INT64_FORMAT " ms at most",
	[LOCK_TRACE_KEY_DELETING] = "key of revision " INT64_FORMAT " is to be deleted",
	[LOCK_TRACE_KEY_GONE] = "key of revision " INT64_FORMAT " is gone from etcd",
	[LOCK_TRACE_KEY_LOST] = "key of revision " INT64_FORMAT " is lost",
	[LOCK_TRACE_KEY_FAILED] = "key is not granted",
	[LOCK_TRACE_GRANTED] = "granted by etcd, token " INT64_FORMAT,
	[LOCK_TRACE_PASSED_ON] = "granted within this server, token " INT64_FORMAT,
	[LOCK_TRACE_DRAINS] = "waits until those who share it here release it",
	[LOCK_TRACE_BEHIND] = "waits until this standby has replayed what the primary had written",
	[LOCK_TRACE_CAUGHT_UP] = "this standby has replayed it",
	[LOCK_TRACE_NOT_GRANTED] = "not granted",
	[LOCK_TRACE_RELEASED] = "released, held for " INT64_FORMAT " ms",
	[LOCK_TRACE_CONFIRMED] = "etcd confirmed the deletion of " INT64_FORMAT " keys"
};

/* The same if the number is 1, where that makes a difference. */
static const char *const texts_for_one[
									   lengthof(texts)] =
{
	[LOCK_TRACE_KEY_BEHIND] = "waits behind 1 key",
		[LOCK_TRACE_CONFIRMED] = "etcd confirmed the deletion of 1 key"
};

StaticAssertDecl(lengthof(texts) == LOCK_TRACE_CONFIRMED + 1,
				 "each step has a text");

void
lock_trace_begin(void)
{
	lock_trace_on = message_level_is_interesting(DEBUG1);
	if (!lock_trace_on)
	{
		/* tracing was turned off: drop what was noted */
		nnotes = nmore = 0;
		return;
	}
	began_at = clock_now();
	noted_revision = 0;
}

void
lock_trace_begin_worker(void)
{
	in_worker = true;
	lock_trace_on = message_level_is_interesting(DEBUG2);
}

/* Must not throw or take a lock.  since: for the worker; from clock_now(). */
void
lock_trace_note_step(LockTraceStep step, const char *key, int namespace_len,
					 const LOCKTAG *tag, int64 since, int64 number)
{
	TraceNote  *note;

	if (nnotes == MAX_NOTES)
	{
		nmore++;
		return;
	}
	note = &notes[nnotes++];
	note->step = step;
	note->after = clock_now() - (in_worker ? since : began_at);
	note->number = number;
	note->namespace_len = namespace_len;
	if (tag != NULL)
		note->tag = *tag;
	strlcpy(note->key, key, sizeof(note->key));
}

/* The session sees that the worker has put the key, or that it was there. */
void
lock_trace_note_put(const LockEntry *entry, const LockKey *key)
{
	if (key == NULL || key->create_revision == 0 || key->create_revision == noted_revision)
		return;
	noted_revision = key->create_revision;
	lock_trace_key(LOCK_TRACE_KEY_PUT, entry, key, key->create_revision);
}

/* The lock's name for a message. */
static char *
lock_of(const char *key, int namespace_len, const LOCKTAG *tag)
{
	if (key[0] == '\0')
		return "etcd locks";
	return psprintf("etcd lock \"%s\"",
					in_worker ? key :
					lock_text_for_message(lock_name_for_user(key, namespace_len, tag)));
}

static void
say(const TraceNote *note)
{
	const char *one = note->number == 1 ? texts_for_one[note->step] : NULL;
	char		step[128];

	snprintf(step, sizeof(step), one != NULL ? one : texts[note->step], note->number);
	ereport(in_worker ? DEBUG2 : DEBUG1,
			(errmsg_internal("%s: %s (%lld.%03d ms)",
							 lock_of(note->key, note->namespace_len, &note->tag), step,
							 (long long) (note->after / 1000),
							 (int) (note->after % 1000)),
			 errhidestmt(true), errhidecontext(true)));
}

/*
 * Call it where a message does no harm: no lock is held, and what was granted
 * is recorded.  The caller handles interrupts.
 */
void
lock_trace_say_noted(void)
{
	int			n = nnotes;
	int			more = nmore;

	/* If a message fails, do not repeat it. */
	nnotes = nmore = 0;
	if (n == 0)
		return;
	HOLD_INTERRUPTS();
	for (int i = 0; i < n; i++)
		say(&notes[i]);
	if (more > 0)
		ereport(in_worker ? DEBUG2 : DEBUG1,
				(errmsg_internal("etcd locks: %d more steps", more),
				 errhidestmt(true), errhidecontext(true)));
	RESUME_INTERRUPTS();
}

/* Report whom the session waits for, as log_lock_waits does. */
void
lock_trace_say_holder(const LockName *name, const char *holder)
{
	int64		after = clock_now() - began_at;

	ereport(DEBUG1,
			(errmsg_internal("%s: waits for another server (%lld.%03d ms)",
							 lock_of(name->key, name->namespace_len, &name->tag),
							 (long long) (after / 1000), (int) (after % 1000)),
			 errdetail_internal("%s", lock_text_for_message(holder)),
			 errhidestmt(true), errhidecontext(true)));
}
