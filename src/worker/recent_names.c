/*-------------------------------------------------------------------------
 *
 * recent_names.c
 *	  What was recently seen of names: contended, oversized, refused.
 *
 * These are only hints: what is sent depends on them, but never what is
 * believed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/recent_names.h"

#define RECENT_NAMES		4096
#define RECENT_VALID		INT64CONST(5000000) /* microseconds */
#define REFUSED_VALID		INT64CONST(10000000)

/* A session, which those that come after it have no part in. */
typedef struct RecentSession
{
	int			pid;
	int64		until;
} RecentSession;

/*
 * A name, by its hash with a seed that nobody knows.  Of names that share a place the last
 * one counts: no tenant can choose names that are taken for another one's.
 */
typedef struct RecentName
{
	uint64		hash;
	int64		until;
} RecentName;

/*
 * Until when a name's queue is assumed to have others in it, and to be too long for a
 * response together with others; until when names and sessions count as refused.  Times are
 * from clock_now().
 */
struct RecentNames
{
	uint64		seed;
	RecentName	contended[RECENT_NAMES];
	RecentName	oversized[RECENT_NAMES];
	RecentName	refused[RECENT_NAMES];
	RecentName	long_queue[RECENT_NAMES];
	RecentSession refused_sessions[RECENT_NAMES];	/* by process id */
	RecentSession long_sessions[RECENT_NAMES];
};

#define MyRecentNames (MyWorker->recent_names)

void
recent_names_create(void)
{
	MyRecentNames = MemoryContextAllocZero(TopMemoryContext, sizeof(struct RecentNames));
	if (!pg_strong_random(&MyRecentNames->seed, sizeof(MyRecentNames->seed)))
		elog(ERROR, "could not generate a random seed");
}

static uint64
name_hash(const LockEntry *entry)
{
	return hash_bytes_extended((const unsigned char *) entry->key,
							   (int) strlen(entry->key), MyRecentNames->seed);
}

static bool
is_noted(const RecentName *names, const LockEntry *entry, int64 now)
{
	uint64		hash = name_hash(entry);
	const RecentName *name = &names[hash % RECENT_NAMES];

	return name->hash == hash && name->until > now;
}

static void
note(RecentName *names, const LockEntry *entry, int64 until)
{
	uint64		hash = name_hash(entry);

	names[hash % RECENT_NAMES] = (RecentName)
	{
		.hash = hash,.until = until
	};
}

bool
recent_name_is_contended(const LockEntry *entry, int64 now)
{
	return is_noted(MyRecentNames->contended, entry, now);
}

void
recent_name_note_contended(const LockEntry *entry)
{
	note(MyRecentNames->contended, entry, clock_now() + RECENT_VALID);
}

bool
recent_name_is_oversized(const LockEntry *entry, int64 now)
{
	return is_noted(MyRecentNames->oversized, entry, now);
}

void
recent_name_note_oversized(const LockEntry *entry, bool oversized)
{
	if (oversized)
		note(MyRecentNames->oversized, entry, clock_now() + RECENT_VALID);
	else if (is_noted(MyRecentNames->oversized, entry, 0))
		note(MyRecentNames->oversized, entry, 0);
}

static bool
is_session_noted(const RecentSession *sessions, int pid, int64 now)
{
	const RecentSession *session = &sessions[pid % RECENT_NAMES];

	return session->pid == pid && session->until > now;
}

static void
note_session(RecentSession *sessions, int pid, int64 until)
{
	sessions[pid % RECENT_NAMES] = (RecentSession)
	{
		.pid = pid,.until = until
	};
}

bool
recent_name_is_long(const LockEntry *entry, int pid, int64 now)
{
	return is_noted(MyRecentNames->long_queue, entry, now) ||
		(pid > 0 && is_session_noted(MyRecentNames->long_sessions, pid, now));
}

void
recent_name_note_long(const LockEntry *entry, int pid)
{
	int64		until = clock_now() + RECENT_VALID;

	note(MyRecentNames->long_queue, entry, until);
	if (pid > 0)
		note_session(MyRecentNames->long_sessions, pid, until);
}

bool
recent_name_was_refused(const LockEntry *entry, int pid, int64 now)
{
	return is_noted(MyRecentNames->refused, entry, now) ||
		is_session_noted(MyRecentNames->refused_sessions, pid, now);
}

void
recent_name_note_refused(const LockEntry *entry, int pid)
{
	int64		until = clock_now() + REFUSED_VALID;

	note(MyRecentNames->refused, entry, until);
	note_session(MyRecentNames->refused_sessions, pid, until);
}
