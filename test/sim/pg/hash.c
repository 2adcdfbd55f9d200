/*-------------------------------------------------------------------------
 *
 * hash.c
 *	  Hash tables as dynahash.c has them: in the process, and in shared memory.
 *
 * What processes share is the table; the functions to go about it are each
 * process's own.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "common/hashfn.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#define NBUCKETS	256

/* What is shared, in front of the elements of a fixed table. */
typedef struct Table
{
	HASHELEMENT *buckets[NBUCKETS];
	HASHELEMENT *free;
	long		entries;
} Table;

struct HTAB
{
	Table	   *table;
	HashValueFunc hash;
	HashCompareFunc match;
	HashCopyFunc copy;
	Size		keysize;
	Size		entrysize;
	bool		fixed;
	MemoryContext context;
};

static Size
element_size(Size entrysize)
{
	return MAXALIGN(sizeof(HASHELEMENT)) + MAXALIGN(entrysize);
}

static void *
entry_of(HASHELEMENT *element)
{
	return (char *) element + MAXALIGN(sizeof(HASHELEMENT));
}

static HTAB *
new_table(const HASHCTL *info, int flags, MemoryContext context)
{
	HTAB	   *htab = MemoryContextAllocZero(context, sizeof(HTAB));

	htab->keysize = info->keysize;
	htab->entrysize = info->entrysize;
	htab->context = context;
	htab->hash = (flags & HASH_FUNCTION) ? info->hash :
		(flags & HASH_STRINGS) ? string_hash : tag_hash;
	htab->match = (flags & HASH_COMPARE) ? info->match :
		(flags & HASH_STRINGS) ? (HashCompareFunc) strncmp : memcmp;
	htab->copy = (flags & HASH_KEYCOPY) ? info->keycopy :
		(flags & HASH_STRINGS) ? (HashCopyFunc) strlcpy : memcpy;
	return htab;
}

HTAB *
hash_create(const char *tabname, long nelem, const HASHCTL *info, int flags)
{
	HTAB	   *htab = new_table(info, flags, (flags & HASH_CONTEXT) ? info->hcxt : TopMemoryContext);

	htab->table = MemoryContextAllocZero(htab->context, sizeof(Table));
	return htab;
}

HTAB *
ShmemInitHash(const char *name, long init_size, long max_size, HASHCTL *info, int hash_flags)
{
	HTAB	   *htab = new_table(info, hash_flags, TopMemoryContext);
	Size		size = element_size(info->entrysize);
	bool		found;
	char	   *elements;

	htab->fixed = true;
	htab->table = sim_shmem(name, sizeof(Table) + max_size * size, &found);
	if (found)
		return htab;
	elements = (char *) (htab->table + 1);
	for (long i = max_size; --i >= 0;)
	{
		HASHELEMENT *element = (HASHELEMENT *) (elements + i * size);

		element->link = htab->table->free;
		htab->table->free = element;
	}
	return htab;
}

Size
hash_estimate_size(long num_entries, Size entrysize)
{
	return sizeof(Table) + num_entries * element_size(entrysize);
}

void *
hash_search_with_hash_value(HTAB *hashp, const void *keyPtr, uint32 hashvalue,
							HASHACTION action, bool *foundPtr)
{
	Table	   *table = hashp->table;
	HASHELEMENT **link = &table->buckets[hashvalue % NBUCKETS];
	HASHELEMENT *element;

	while (*link != NULL &&
		   ((*link)->hashvalue != hashvalue ||
			hashp->match(entry_of(*link), keyPtr, hashp->keysize) != 0))
		link = &(*link)->link;
	element = *link;
	if (foundPtr != NULL)
		*foundPtr = element != NULL;
	if (action == HASH_FIND)
		return element == NULL ? NULL : entry_of(element);
	if (action == HASH_REMOVE)
	{
		if (element == NULL)
			return NULL;
		*link = element->link;
		table->entries--;
		element->link = table->free;
		table->free = element;

		/* a pointer to it is of no use, and shows */
		memset((char *) entry_of(element) + hashp->keysize, 0x7E,
			   hashp->entrysize - hashp->keysize);
		return entry_of(element);
	}
	if (element != NULL)
		return entry_of(element);
	element = table->free;
	if (element != NULL)
		table->free = element->link;
	else if (!hashp->fixed)
		element = MemoryContextAlloc(hashp->context, element_size(hashp->entrysize));
	else if (action == HASH_ENTER_NULL)
		return NULL;
	else
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of shared memory")));
	element->hashvalue = hashvalue;
	element->link = table->buckets[hashvalue % NBUCKETS];
	table->buckets[hashvalue % NBUCKETS] = element;
	table->entries++;
	hashp->copy(entry_of(element), keyPtr, hashp->keysize);
	return entry_of(element);
}

void *
hash_search(HTAB *hashp, const void *keyPtr, HASHACTION action, bool *foundPtr)
{
	return hash_search_with_hash_value(hashp, keyPtr, hashp->hash(keyPtr, hashp->keysize),
									   action, foundPtr);
}

uint32
get_hash_value(HTAB *hashp, const void *keyPtr)
{
	return hashp->hash(keyPtr, hashp->keysize);
}

long
hash_get_num_entries(HTAB *hashp)
{
	return hashp->table->entries;
}

/* The current one may be removed meanwhile: the next one is known already. */
void
hash_seq_init(HASH_SEQ_STATUS *status, HTAB *hashp)
{
	status->hashp = hashp;
	status->curBucket = 0;
	status->curEntry = NULL;
}

void *
hash_seq_search(HASH_SEQ_STATUS *status)
{
	HASHELEMENT *element = status->curEntry;

	while (element == NULL)
	{
		if (status->curBucket >= NBUCKETS)
			return NULL;
		element = status->hashp->table->buckets[status->curBucket++];
	}
	status->curEntry = element->link;
	return entry_of(element);
}

void
hash_seq_term(HASH_SEQ_STATUS *status)
{
}

/* ---- shared memory ---- */

void *
ShmemInitStruct(const char *name, Size size, bool *foundPtr)
{
	return sim_shmem(name, size, foundPtr);
}

Size
add_size(Size s1, Size s2)
{
	return s1 + s2;
}

Size
mul_size(Size s1, Size s2)
{
	return s1 * s2;
}
