/*-------------------------------------------------------------------------
 *
 * break_message.c
 *	  Messages below our sentinel that another server has broken a lock of ours.
 *
 * Anybody who may write below our sentinel can leave such a message.  We
 * believe it only if the key that it names is gone, which a watch or a read of
 * the queue shows, before or after the message.  So we keep both for a while,
 * and log at most as many breaks as locks are lost.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "etcd/key_layout.h"
#include "shared/clock.h"
#include "shared/lock_table.h"
#include "utils/memutils.h"
#include "worker/break_message.h"
#include "worker/context.h"

#define BREAKER_TEXT	512

/* How many breaks are remembered at a time. */
#define MAX_BREAKS		64

/*
 * A message and the loss belong together if both come within this time;
 * microseconds.
 */
#define FORGET_AFTER	INT64CONST(60000000)

typedef struct Break
{
	uint64		serial;			/* of the key; 0: not in use */
	int64		at;				/* clock_now(): when we first learned of it */
	char		by[BREAKER_TEXT];	/* who did it; empty: no message yet */
	char		name[ETCD_LOCK_MAX_KEY + 1];	/* the lock's; empty: the key
												 * is not lost yet */
	bool		said;
} Break;

struct BreakMessages
{
	Break		breaks[MAX_BREAKS];
	unsigned	next;
};

#define MyBreaks (MyWorker->break_messages)

void
break_message_create(void)
{
	MyBreaks = MemoryContextAllocZero(TopMemoryContext, sizeof(struct BreakMessages));
}

/* Returns the lock's name, or NULL if it is not a message to us. */
static char *
message_name(const char *key, size_t key_len, uint64 *serial)
{
	const char *name;
	size_t		name_len;

	if (!key_layout_is_message(key, key_len, lock_shared->sentinel_key,
							   &name, &name_len, serial))
		return NULL;
	return pnstrdup(name, name_len);
}

bool
break_message_is(const char *key, size_t key_len, uint64 *serial)
{
	char	   *name = message_name(key, key_len, serial);

	if (name == NULL)
		return false;
	pfree(name);
	return true;
}

static void
describe(char *text, const EtcdHolder *by)
{
	EtcdHolder	shown;

	if (by == NULL)
	{
		strlcpy(text, "another server", BREAKER_TEXT);
		return;
	}
	shown = *by;
	etcd_holder_printable(shown.user);
	etcd_holder_printable(shown.server);
	etcd_holder_printable(shown.database);
	snprintf(text, BREAKER_TEXT, "user \"%s\" on server \"%s\" (process %d, database \"%s\")",
			 shown.user, shown.server, shown.pid, shown.database);
}

/* A serial can be used for another key later. */
static bool
is_about(const Break *one, uint64 serial)
{
	return one->serial == serial && clock_now() - one->at < FORGET_AFTER;
}

/* Returns the break of this key, or else the oldest one, reset. */
static Break *
find(uint64 serial)
{
	Break	   *one = NULL;

	for (int i = 0; i < MAX_BREAKS; i++)
	{
		if (is_about(&MyBreaks->breaks[i], serial))
			return &MyBreaks->breaks[i];
	}
	one = &MyBreaks->breaks[MyBreaks->next++ % MAX_BREAKS];
	memset(one, 0, sizeof(Break));
	one->serial = serial;
	one->at = clock_now();
	return one;
}

/* Log a break once both are known. */
static void
say(Break *one)
{
	if (one->said || one->by[0] == '\0' || one->name[0] == '\0')
		return;
	one->said = true;
	ereport(LOG,
			(errmsg("etcd_lock: lock \"%s\" was broken by %s", one->name, one->by)));
}

bool
break_message_is_awaited(uint64 serial)
{
	for (int i = 0; i < MAX_BREAKS; i++)
	{
		if (is_about(&MyBreaks->breaks[i], serial))
			return true;
	}
	return false;
}

void
break_message_came(uint64 serial, const EtcdHolder *by)
{
	Break	   *one = find(serial);

	/*
	 * The breaker's own message comes with the deletion, so not before
	 * others.
	 */
	describe(one->by, by);
	say(one);
}

void
break_message_key_lost(uint64 serial, const char *name)
{
	Break	   *one = find(serial);

	strlcpy(one->name, name, sizeof(one->name));
	say(one);
}
