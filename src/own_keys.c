/*-------------------------------------------------------------------------
 *
 * own_keys.c
 *	  The keys that this server has in etcd, by the serials in their names.
 *
 * Etcd's index keeps every key that ever was until the next compaction, and goes
 * through all of them when it looks at a queue.  So serials are used again, once
 * it is sure that the key is gone.
 *
 * The list of the keys on our lease, which comes with each keepalive, shows those
 * that should not be there, and those that are missing.
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "break.h"
#include "etcd_holder.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* Finds a WorkerKey by the number in its name in etcd. */
typedef struct SerialEntry
{
	uint64		serial;			/* hash key */
	WorkerKey  *key;
} SerialEntry;

static HTAB *keys_by_serial = NULL;

/*
 * Serials to be used again.  A name gets its own one back if possible, which
 * waits for it at the place that the name's hash tells; 0: none.
 */
#define OWN_SERIALS			16384

static uint64 own_serials[OWN_SERIALS];
static uint64 *free_serials = NULL;
static int	nfree_serials = 0;
static int	max_free_serials = 0;

/* ----------------------------------------------------------------
 *		Serials
 * ----------------------------------------------------------------
 */

static uint64 *
own_serial(const WorkerName *name)
{
	return &own_serials[name->entry->hashcode % OWN_SERIALS];
}

uint64
own_keys_take_serial(const WorkerName *name)
{
	uint64	   *own = own_serial(name);
	uint64		serial = *own;

	*own = 0;
	if (serial != 0)
		return serial;
	if (nfree_serials > 0)
		return free_serials[--nfree_serials];
	return lock_shared->next_serial++;
}

void
own_keys_give_serial(const WorkerName *name, uint64 serial)
{
	uint64	   *own = own_serial(name);

	if (*own == 0)
	{
		*own = serial;
		return;
	}
	if (nfree_serials == max_free_serials)
	{
		max_free_serials = Max(2 * max_free_serials, 64);
		free_serials = free_serials == NULL
			? MemoryContextAlloc(TopMemoryContext, max_free_serials * sizeof(uint64))
			: repalloc(free_serials, max_free_serials * sizeof(uint64));
	}
	free_serials[nfree_serials++] = serial;
}

static SerialEntry *
serial_entry(uint64 serial, HASHACTION action)
{
	if (keys_by_serial == NULL)
	{
		HASHCTL		info;

		info.keysize = sizeof(uint64);
		info.entrysize = sizeof(SerialEntry);
		info.hcxt = TopMemoryContext;
		keys_by_serial = hash_create("etcd_lock keys by serial", 256, &info,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	return hash_search(keys_by_serial, &serial, action, NULL);
}

void
own_keys_add(WorkerKey *key)
{
	serial_entry(key->serial, HASH_ENTER)->key = key;
}

void
own_keys_remove(const WorkerKey *key)
{
	(void) serial_entry(key->serial, HASH_REMOVE);
}

int
own_keys_count(void)
{
	return keys_by_serial == NULL ? 0 : hash_get_num_entries(keys_by_serial);
}

/* The key, if it is still the one with this number. */
WorkerKey *
own_keys_find(uint64 serial, uint64 number)
{
	SerialEntry *entry = serial_entry(serial, HASH_FIND);

	return entry == NULL || entry->key->number != number ? NULL : entry->key;
}

/* The number behind the last dash of a key's name; 0: not one of ours. */
static uint64
serial_of(const char *key, size_t len)
{
	size_t		i = len;

	while (i > 0 && key[i - 1] >= '0' && key[i - 1] <= '9')
		i--;
	if (i == 0 || i == len || key[i - 1] != '-')
		return 0;
	return strtou64(key + i, NULL, 10);
}

/* The key with the serial that this name ends in. */
static WorkerKey *
find_serial(const char *etcd_key, size_t len)
{
	uint64		serial = serial_of(etcd_key, len);
	SerialEntry *entry = serial == 0 ? NULL : serial_entry(serial, HASH_FIND);

	return entry == NULL ? NULL : entry->key;
}

static WorkerKey *
find_key(const char *etcd_key, size_t len)
{
	WorkerKey  *key = find_serial(etcd_key, len);

	if (key == NULL || strlen(key->etcd_key) != len ||
		memcmp(key->etcd_key, etcd_key, len) != 0)
		return NULL;
	return key;
}

/* Is it a key that we have, or are about to put or delete? */
bool
own_keys_know(const char *etcd_key, size_t len)
{
	WorkerKey  *key = find_key(etcd_key, len);

	return key != NULL && !key->freed;
}

/* ----------------------------------------------------------------
 *		What the lease shows
 * ----------------------------------------------------------------
 */

/*
 * Is it named as make_key() names keys?  Others may hang keys on our lease, or
 * the list be one of other keys: what we did not put we do not delete.
 */
static bool
is_named_by_us(const char *key, size_t len)
{
	const char *owner = lease_hex();
	size_t		owner_len = strlen(owner);
	QueueKeyParts parts;

	return queue_split_key(key, len, &parts) && parts.is_server &&
		len - parts.last > owner_len &&
		memcmp(key + parts.last, owner, owner_len) == 0 &&
		key[parts.last + owner_len] == '-';
}

/*
 * Etcd's list of the keys on our lease, asked for at listed_at.  One of ours that
 * we do not know is deleted.  One that was held already when we asked and is
 * missing is looked for in the queue itself, which decides: the list may come
 * from a deposed leader.
 */
void
own_keys_compare(const EtcdLeaseResult *listed, int64 listed_at)
{
	HASH_SEQ_STATUS status;
	SerialEntry *entry;

	for (int i = 0; i < listed->nkeys; i++)
	{
		const EtcdKeyValue *kv = &listed->keys[i];
		WorkerKey  *key;

		if (held_is_note(kv->key, kv->key_len))
		{
			key = find_serial(kv->key, kv->key_len);
			if (key == NULL || !held_knows_note(key, kv->key))
				requests_stray(kv->key, kv->key_len, 0);
			continue;
		}
		if (break_is_message(kv->key, kv->key_len))
		{
			/* the watch on the sentinel has missed it */
			break_log_message(kv->key, NULL);
			requests_stray(kv->key, kv->key_len, 0);
			continue;
		}
		if (!is_named_by_us(kv->key, kv->key_len))
			continue;			/* the sentinel, for one */
		key = find_key(kv->key, kv->key_len);
		if (key == NULL)
			requests_stray(kv->key, kv->key_len, 0);
		else
			key->listed = true;
	}

	if (keys_by_serial == NULL)
		return;
	hash_seq_init(&status, keys_by_serial);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		WorkerKey  *key = entry->key;

		if (key->held_since != 0 && key->held_since < listed_at &&
			!key->listed && key->name->entry != NULL)
			requests_range(key->name);
		key->listed = false;
	}
}

/*
 * A message of another server's: it has broken a lock of ours.  Whether that is
 * so, a look at the queue shows.
 */
void
own_keys_broken(const EtcdKeyValue *message)
{
	WorkerKey  *key = find_serial(message->key, message->key_len);
	EtcdHolder	by;

	break_log_message(message->key, etcd_holder_decode(message->value, message->value_len, &by) ?
					  &by : NULL);
	if (key != NULL && key->name->entry != NULL)
		requests_range(key->name);
}
