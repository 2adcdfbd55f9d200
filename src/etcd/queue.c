/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  Who is next: the rules of a lock's queue in etcd.
 *
 * The keys of a lock are ordered by their create_revisions.  A key is granted
 * when no conflicting key of another owner is ahead of it.  Owners are servers,
 * whose keys begin alike, and other clients, each key of which counts as an
 * owner.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/queue.h"

#include <assert.h>
#include <string.h>

QueueKeyKind
queue_key_kind(const QueueView *view, const char *key, size_t key_len)
{
	size_t		last;

	return key_layout_kind(view->name, view->name_len, key, key_len, &last);
}

bool
queue_key_is_own(const QueueView *view, const char *key, size_t key_len)
{
	size_t		last;
	QueueKeyKind kind = key_layout_kind(view->name, view->name_len, key, key_len, &last);

	/*
	 * Without an owner, every key would be our own, and no lock would exclude
	 * others.
	 */
	assert(view->owner_len > 0);
	return (kind == QUEUE_KEY_READ || kind == QUEUE_KEY_WRITE) &&
		key_len - last >= view->owner_len &&
		memcmp(key + last, view->owner, view->owner_len) == 0;
}

bool
queue_conflicts(bool exclusive, QueueKeyKind kind)
{
	if (kind == QUEUE_KEY_OTHER)
		return false;
	return exclusive || kind != QUEUE_KEY_READ;
}

/* Does this key conflict with a request for the given mode, wherever it is? */
static bool
foreign_conflict(const QueueView *view, bool exclusive, const QueueKey *key)
{
	return queue_conflicts(exclusive, queue_key_kind(view, key->key, key->key_len)) &&
		!queue_key_is_own(view, key->key, key->key_len);
}

QueueVerdict
queue_decide(const QueueView *view, bool exclusive,
			 int64_t create_revision, int64_t own_read,
			 int *ahead, int *nahead)
{
	QueueVerdict verdict = QUEUE_GRANTED;
	int			n = 0;

	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];

		if (key->create_revision >= create_revision ||
			!foreign_conflict(view, exclusive, key))
			continue;

		if (ahead != NULL)
			ahead[n] = i;
		n++;

		/*
		 * A foreign key for exclusive mode that came after our read key waits
		 * for it, and we wait for that key: nobody would ever move.  The
		 * later one gives up.
		 */
		if (exclusive && own_read != 0 && key->create_revision > own_read &&
			queue_key_kind(view, key->key, key->key_len) != QUEUE_KEY_READ)
			verdict = QUEUE_DEADLOCK;
		else if (verdict == QUEUE_GRANTED)
			verdict = QUEUE_WAIT;
	}
	if (nahead != NULL)
		*nahead = n;
	return verdict;
}

bool
queue_is_free(const QueueView *view, bool exclusive)
{
	return queue_decide(view, exclusive, INT64_MAX, 0, NULL, NULL) == QUEUE_GRANTED;
}

/* A key that is put to be kept for a while, and what its name says. */
typedef struct KeptKey
{
	const QueueKey *key;		/* NULL: there is none */
	QueueKeyParts parts;
} KeptKey;

/* Must this key of another owner wait until the kept one is gone? */
static bool
waits_for(const KeptKey *kept, const QueueKey *key)
{
	QueueKeyParts parts;

	return kept->key != NULL && key->create_revision > kept->key->create_revision &&
		key_layout_split(key->key, key->key_len, &parts) &&
		(parts.kind != QUEUE_KEY_READ || kept->parts.kind != QUEUE_KEY_READ) &&
		!(parts.is_server && parts.lease == kept->parts.lease);
}

unsigned
queue_kept_ahead(const QueueView *view, bool exclusive, int64_t create_revision)
{
	KeptKey		first = {NULL};
	unsigned	longest = 0;

	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];
		QueueKeyParts parts;

		if (key->create_revision >= create_revision ||
			!foreign_conflict(view, exclusive, key) ||
			!key_layout_split(key->key, key->key_len, &parts) || parts.keep == 0)
			continue;
		if (first.key == NULL || key->create_revision < first.key->create_revision)
			first = (KeptKey)
		{
			.key = key,.parts = parts
		};
		if (parts.keep > longest)
			longest = parts.keep;
	}
	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];
		QueueKeyParts parts;

		if (key->create_revision >= create_revision ||
			!foreign_conflict(view, exclusive, key) ||
			(!key->no_lease && key_layout_split(key->key, key->key_len, &parts) &&
			 parts.keep > 0))
			continue;
		if (key->no_lease || !waits_for(&first, key))
			return 0;
	}
	return longest;
}

int
queue_find_data(const QueueView *view, bool exclusive, int64_t create_revision)
{
	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];

		if (key->no_lease && key->create_revision < create_revision &&
			foreign_conflict(view, exclusive, key))
			return i;
	}
	return -1;
}

bool
queue_somebody_waits(const QueueView *view, bool exclusive,
					 int64_t create_revision)
{
	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];

		/*
		 * Conflicts are symmetric: a key that would make us wait waits for
		 * us.
		 */
		if (key->create_revision > create_revision &&
			foreign_conflict(view, exclusive, key))
			return true;
	}
	return false;
}

/* The last parts of keys of one server begin alike, with whatever lease. */
static bool
is_same_server(const QueueView *view, const QueueKey *a, const QueueKeyParts *a_parts,
			   const QueueKey *b, const QueueKeyParts *b_parts)
{
	return a->key_len - a_parts->last >= view->owner_len &&
		b->key_len - b_parts->last >= view->owner_len &&
		memcmp(a->key + a_parts->last, b->key + b_parts->last, view->owner_len) == 0;
}

int
queue_find_older_read(const QueueView *view, int64_t create_revision)
{
	const QueueKey *first = NULL;
	QueueKeyParts first_parts = {QUEUE_KEY_OTHER};
	int			found = -1;

	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];
		QueueKeyParts parts;

		if (key->create_revision >= create_revision ||
			queue_key_kind(view, key->key, key->key_len) == QUEUE_KEY_OTHER)
			continue;
		if (key->no_lease || queue_key_is_own(view, key->key, key->key_len) ||
			!key_layout_split(key->key, key->key_len, &parts) || !parts.is_server)
			return -1;
		if (first == NULL)
		{
			first = key;
			first_parts = parts;
		}
		else if (!is_same_server(view, first, &first_parts, key, &parts))
			return -1;
		if (parts.kind == QUEUE_KEY_READ &&
			(found < 0 || key->create_revision > view->keys[found].create_revision))
			found = i;
	}
	return found;
}

bool
queue_is_write_of(const QueueView *view, const QueueKey *write, const QueueKey *read)
{
	QueueKeyParts write_parts;
	QueueKeyParts read_parts;

	return queue_key_kind(view, write->key, write->key_len) == QUEUE_KEY_WRITE &&
		queue_key_kind(view, read->key, read->key_len) == QUEUE_KEY_READ &&
		key_layout_split(write->key, write->key_len, &write_parts) && write_parts.is_server &&
		key_layout_split(read->key, read->key_len, &read_parts) && read_parts.is_server &&
		write_parts.lease == read_parts.lease;
}

/* ----------------------------------------------------------------
 *		The view of the queue
 * ----------------------------------------------------------------
 */

/* The owners of the keys so far, as far as it matters. */
typedef struct Owners
{
	int			n;				/* 2: more than one */
	bool		is_server;		/* the only one: a server, known by its lease, */
	uint64_t	lease;
	const char *key;			/* or another client, known by its key */
} Owners;

static bool
is_owner(const Owners *owners, const QueueKeyParts *parts, const char *key)
{
	return parts->is_server ?
		owners->is_server && owners->lease == parts->lease :
		owners->key == key;
}

static void
add_owner(Owners *owners, const QueueKeyParts *parts, const char *key)
{
	if (owners->n == 0)
	{
		owners->n = 1;
		owners->is_server = parts->is_server;
		owners->lease = parts->lease;
		owners->key = parts->is_server ? NULL : key;
	}
	else if (owners->n == 1 && !is_owner(owners, parts, key))
		owners->n = 2;
}

static bool
no_other_owner(const Owners *owners, const QueueKeyParts *parts, const char *key)
{
	return owners->n == 0 ||
		(owners->n == 1 && is_owner(owners, parts, key));
}

/*
 * Other clients see some things differently: for Go's, keys of deeper names
 * are in the way, too, and its readers look only at writers.
 */
void
queue_places(const QueueView *view, QueuePlace *places)
{
	Owners		all = {0};
	Owners		not_read = {0};
	bool		write_seen = false;
	bool		any_seen = false;
	int			position = 0;

	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];
		QueuePlace *place = &places[i];
		QueueKeyParts parts;

		memset(place, 0, sizeof(*place));
		if (!key_layout_split(key->key, key->key_len, &parts) ||
			parts.name_len != view->name_len ||
			memcmp(key->key, view->name, view->name_len) != 0)
		{
			any_seen = true;
			continue;
		}

		place->position = ++position;
		if (parts.is_server)
			place->granted = no_other_owner(parts.kind == QUEUE_KEY_READ ? &not_read : &all,
											&parts, key->key);
		else if (parts.kind == QUEUE_KEY_READ)
			place->granted = !write_seen;
		else
			place->granted = !any_seen;

		add_owner(&all, &parts, key->key);
		if (parts.kind != QUEUE_KEY_READ)
			add_owner(&not_read, &parts, key->key);
		write_seen |= parts.kind == QUEUE_KEY_WRITE;
		any_seen = true;
	}
}
