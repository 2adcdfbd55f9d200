/*-------------------------------------------------------------------------
 *
 * serials.c
 *	  The serials in the names of our keys in etcd, and whose they are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/lock_table.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/serials.h"

/*
 * Serials to be used again.  A name gets its own one back if possible, which
 * waits for it at the place of the name's hash; 0: none.
 */
#define OWN_SERIALS			16384

typedef struct SerialEntry
{
	uint64		serial;			/* hash key */
	void	   *owner;
} SerialEntry;

struct Serials
{
	HTAB	   *owners;			/* of SerialEntry */
	uint64		own[OWN_SERIALS];
	uint64	   *spare;
	int			nspare;
	int			max_spare;
};

#define MySerials (MyWorker->serials)

void
serials_create(void)
{
	MySerials = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Serials));
}

uint64
serial_take(uint32 hashcode)
{
	uint64	   *own = &MySerials->own[hashcode % OWN_SERIALS];
	uint64		serial = *own;

	*own = 0;
	if (serial != 0)
		return serial;
	if (MySerials->nspare > 0)
		return MySerials->spare[--MySerials->nspare];
	return lock_shared->next_serial++;
}

void
serial_give_back(uint32 hashcode, uint64 serial)
{
	uint64	   *own = &MySerials->own[hashcode % OWN_SERIALS];

	Assert(serial_owner(serial) == NULL);
	if (*own == 0)
	{
		*own = serial;
		return;
	}
	if (MySerials->nspare == MySerials->max_spare)
	{
		MySerials->max_spare = Max(2 * MySerials->max_spare, 64);
		MySerials->spare = MySerials->spare == NULL
			? MemoryContextAlloc(TopMemoryContext, MySerials->max_spare * sizeof(uint64))
			: repalloc(MySerials->spare, MySerials->max_spare * sizeof(uint64));
	}
	MySerials->spare[MySerials->nspare++] = serial;
}

static HTAB *
owners(void)
{
	HASHCTL		info;

	if (MySerials->owners != NULL)
		return MySerials->owners;
	info.keysize = sizeof(uint64);
	info.entrysize = sizeof(SerialEntry);
	info.hcxt = TopMemoryContext;
	MySerials->owners = hash_create("etcd_lock serials", 256, &info,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return MySerials->owners;
}

void
serial_set_owner(uint64 serial, void *owner)
{
	SerialEntry *entry;

	if (owner == NULL)
	{
		(void) hash_search(owners(), &serial, HASH_REMOVE, NULL);
		return;
	}
	entry = hash_search(owners(), &serial, HASH_ENTER, NULL);
	entry->owner = owner;
}

void *
serial_owner(uint64 serial)
{
	SerialEntry *entry = hash_search(owners(), &serial, HASH_FIND, NULL);

	return entry == NULL ? NULL : entry->owner;
}

int
serials_count(void)
{
	return hash_get_num_entries(owners());
}
