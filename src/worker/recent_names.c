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
 * A name, by its hash.  Of names that share a place the last one counts: no tenant's
 * names, however many, can be taken for another one's.
 */
typedef struct RecentName
{
	uint32		hash;
	int64		until;
} RecentName;

/*
 * Until when a name's queue is assumed to have others in it, and to be too long for a
 * response together with others; until when names and sessions count as refused.  Times are
 * from clock_now().
 */
struct RecentNames
{
	RecentName	contended[RECENT_NAMES];
	RecentName	oversized[RECENT_NAMES];
	RecentName	refused[RECENT_NAMES];
	RecentSession refused_sessions[RECENT_NAMES];	/* by process id */

	/*
	 * By the hash of the name with a seed that nobody knows, so that no
	 * tenant can make another one's names look long.
	 */
	uint64		seed;
	uint64		long_hash[RECENT_NAMES];
	int64		long_until[RECENT_NAMES];
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

static bool
is_noted(const RecentName *names, const LockEntry *entry, int64 now)
{
	const RecentName *name = &names[entry->hashcode % RECENT_NAMES];

	return name->hash == entry->hashcode && name->until > now;
}

static void
note(RecentName *names, const LockEntry *entry, int64 until)
{
	names[entry->hashcode % RECENT_NAMES] = (RecentName)
	{
		.hash = entry->hashcode,.until = until
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

static uint64
long_hash(const LockEntry *entry)
{
	return hash_bytes_extended((const unsigned char *) entry->key,
							   (int) strlen(entry->key), MyRecentNames->seed);
}

bool
recent_name_is_long(const LockEntry *entry, int pid, int64 now)
{
	uint64		hash = long_hash(entry);

	return (MyRecentNames->long_hash[hash % RECENT_NAMES] == hash &&
			MyRecentNames->long_until[hash % RECENT_NAMES] > now) ||
		(pid > 0 && is_session_noted(MyRecentNames->long_sessions, pid, now));
}

void
recent_name_note_long(const LockEntry *entry, int pid)
{
	uint64		hash = long_hash(entry);
	int64		until = clock_now() + RECENT_VALID;

	MyRecentNames->long_hash[hash % RECENT_NAMES] = hash;
	MyRecentNames->long_until[hash % RECENT_NAMES] = until;
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
