/*-------------------------------------------------------------------------
 *
 * orphans.c
 *	  Orphans: keys attached to our lease that no session knows, to be deleted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/clock.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/orphans.h"

/* There should be none.  The pause after a refusal is in microseconds. */
#define MAX_ORPHANS			1000
#define ORPHAN_PAUSE		INT64CONST(1000000)

/*
 * How long etcd may still apply a request that nobody waits for any more: its
 * own limit is 5 s plus two election timeouts, by default of 1 s.  And how
 * often to check; microseconds.
 */
#define ETCD_MAY_APPLY		INT64CONST(8000000)
#define EXPECT_PAUSE		INT64CONST(250000)

/*
 * Some arrive later than that.  The list of the keys on our lease shows them; if it
 * cannot be had, or not often, we look for this much longer, at growing intervals.
 */
#define LOOK_LONGER			INT64CONST(120000000)
#define LONGEST_PAUSE		INT64CONST(4000000)

struct Orphans
{
	bool		look_longer;
	dlist_head	list;			/* of Orphan */
	int			n;
};

#define MyOrphans (MyWorker->orphans)

void
orphans_create(void)
{
	MyOrphans = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Orphans));
	dlist_init(&MyOrphans->list);
}

dlist_head *
orphans_all(void)
{
	return &MyOrphans->list;
}

static Orphan *
find(const char *key, size_t key_len)
{
	dlist_iter	iter;

	dlist_foreach(iter, &MyOrphans->list)
	{
		Orphan	   *orphan = dlist_container(Orphan, link, iter.cur);

		if (orphan->key_len == key_len && memcmp(orphan->key, key, key_len) == 0)
			return orphan;
	}
	return NULL;
}

bool
orphan_is_known(const char *key, size_t key_len)
{
	return find(key, key_len) != NULL;
}

/* Forget one that is looked for only in case etcd took longer than it should. */
static bool
make_room(void)
{
	int64		now = clock_now();
	dlist_iter	iter;

	dlist_foreach(iter, &MyOrphans->list)
	{
		Orphan	   *orphan = dlist_container(Orphan, link, iter.cur);

		if (orphan->create_revision == 0 && orphan->until != 0 && now >= orphan->until &&
			!orphan->in_flight)
		{
			orphan_forget(orphan);
			return true;
		}
	}
	return false;
}

static Orphan *
find_or_add(const char *key, size_t key_len)
{
	Orphan	   *orphan = find(key, key_len);

	if (orphan != NULL)
		return orphan;
	if (MyOrphans->n >= MAX_ORPHANS && !make_room())
		return NULL;			/* it will be found again */
	orphan = MemoryContextAllocZero(TopMemoryContext,
									offsetof(Orphan, key) + key_len);
	memcpy(orphan->key, key, key_len);
	orphan->key_len = key_len;
	dlist_push_tail(&MyOrphans->list, &orphan->link);
	MyOrphans->n++;
	return orphan;
}

/* Delete a key that no session knows.  create_revision is 0 if unknown. */
void
orphan_add(const char *key, size_t key_len, int64 create_revision)
{
	Orphan	   *orphan = find_or_add(key, key_len);

	if (orphan == NULL || orphan->in_flight || orphan->create_revision != 0)
		return;
	orphan->create_revision = create_revision;
	orphan->retry_at = 0;
}

void
orphan_expect(const char *key, size_t key_len)
{
	Orphan	   *orphan = find_or_add(key, key_len);
	int64		now = clock_now();

	if (orphan == NULL)
		return;
	orphan->until = now + ETCD_MAY_APPLY;
	orphan->pause = EXPECT_PAUSE;
	orphan->retry_at = now + orphan->pause;
}

void
orphans_look_longer(bool look_longer)
{
	MyOrphans->look_longer = look_longer;
}

void
orphan_not_found(Orphan *orphan)
{
	int64		now = clock_now();
	bool		look_longer = MyOrphans->look_longer && orphan->until != 0;

	if (now >= orphan->until + (look_longer ? LOOK_LONGER : 0))
	{
		orphan_forget(orphan);
		return;
	}
	if (now >= orphan->until)
		orphan->pause = Min(2 * orphan->pause, LONGEST_PAUSE);
	orphan->in_flight = false;
	orphan->retry_at = now + orphan->pause;
}

void
orphan_forget(Orphan *orphan)
{
	dlist_delete(&orphan->link);
	MyOrphans->n--;
	pfree(orphan);
}

void
orphan_retry_later(Orphan *orphan, bool alone)
{
	orphan->in_flight = false;
	orphan->alone |= alone;
	orphan->retry_at = clock_now() + ORPHAN_PAUSE;
}
