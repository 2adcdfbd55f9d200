/*-------------------------------------------------------------------------
 *
 * hot_names.c
 *	  Remembers which names are used here again and again.
 *
 * A name is hot when a session asks for it within keep_window of its last release,
 * and that is not the first time in a row.  An entry of the shared table ends with
 * its last key, so this is remembered apart, by the hash of the name.
 *
 * Only hints: a name that finds no place is not remembered, and its keys are not
 * kept.  There is room for twice as many names as the table has; a name has a few
 * places to go to, and one that is hot is not driven out.
 *
 * All places of a name belong to one partition of the table, and are protected by its
 * lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bitutils.h"
#include "shared/hot_names.h"
#include "shared/lock_table.h"
#include "storage/shmem.h"

/* How many places a name can go to. */
#define PLACES				4

StaticAssertDecl((LOCK_PARTITIONS & (LOCK_PARTITIONS - 1)) == 0,
				 "the places of a name must belong to one partition");

/*
 * Twice the last gap, within these bounds; microseconds.  After a gap that was longer than
 * the second one, the others would wait for nothing.
 */
#define MIN_GAP				INT64CONST(200)
#define MAX_GAP				INT64CONST(3000)

typedef struct HotName
{
	uint32		hashcode;
	uint32		times;			/* in a row: asked for soon after a release */
	int64		released_at;	/* clock_now(); 0: not yet */
	int64		gap;			/* the last one, in microseconds */
} HotName;

static HotName *names = NULL;

/* A power of two, and so a multiple of LOCK_PARTITIONS. */
static uint32
count_buckets(void)
{
	return pg_nextpower2_32(Max(2 * etcd_lock_max_names / PLACES, LOCK_PARTITIONS));
}

Size
hot_names_shmem_size(void)
{
	return mul_size(mul_size(count_buckets(), PLACES), sizeof(HotName));
}

/* AddinShmemInitLock held. */
void
hot_names_shmem_init(void)
{
	bool		found;

	names = ShmemInitStruct("etcd_lock hot names", hot_names_shmem_size(), &found);
	if (!found)
		memset(names, 0, hot_names_shmem_size());
}

static HotName *
places_of(uint32 hashcode)
{
	return &names[hashcode % count_buckets() * PLACES];
}

static HotName *
find(uint32 hashcode)
{
	HotName    *places = places_of(hashcode);

	for (int i = 0; i < PLACES; i++)
	{
		if (places[i].hashcode == hashcode)
			return &places[i];
	}
	return NULL;
}

static bool
is_soon(const HotName *name, int64 now)
{
	return name->released_at != 0 &&
		now - name->released_at <= (int64) etcd_lock_keep_window * 1000;
}

void
hot_name_note_asked(uint32 hashcode, int64 now)
{
	HotName    *name = find(hashcode);

	if (name == NULL)
		return;
	if (!is_soon(name, now))
	{
		name->times = 0;
		return;
	}
	name->times = Min(name->times + 1, PG_INT32_MAX);
	name->gap = now - name->released_at;
}

/*
 * Returns the place that was released longest ago if its name is no longer
 * hot, else NULL.
 */
static HotName *
take_place(uint32 hashcode, int64 now)
{
	HotName    *places = places_of(hashcode);
	HotName    *oldest = &places[0];

	for (int i = 1; i < PLACES; i++)
	{
		if (places[i].released_at < oldest->released_at)
			oldest = &places[i];
	}
	if (oldest->times > 0 && is_soon(oldest, now))
		return NULL;
	memset(oldest, 0, sizeof(HotName));
	oldest->hashcode = hashcode;
	return oldest;
}

void
hot_name_note_released(uint32 hashcode, int64 now)
{
	HotName    *name;

	if (etcd_lock_keep_window == 0)
		return;
	name = find(hashcode);
	if (name == NULL)
		name = take_place(hashcode, now);
	if (name != NULL)
		name->released_at = now;
}

bool
hot_name_is_hot(uint32 hashcode, int64 now)
{
	const HotName *name = find(hashcode);

	return name != NULL && name->times > 0 && is_soon(name, now);
}

int64
hot_name_gap(uint32 hashcode)
{
	const HotName *name = find(hashcode);

	if (name == NULL || name->gap > MAX_GAP)
		return MIN_GAP;
	return Max(MIN_GAP, Min(2 * name->gap, MAX_GAP));
}
