/*-------------------------------------------------------------------------
 *
 * queue_rules.c
 *	  Who is next: the rules of a lock's queue in etcd.
 *
 * The keys of a lock stand in the order of their create_revisions.  One is
 * granted when no conflicting key of another owner stands ahead of it.
 *
 *-------------------------------------------------------------------------
 */
#include "queue_rules.h"

#include <string.h>

#define READ_PART	"read/"
#define WRITE_PART	"write/"

static bool
starts_with(const char *s, size_t len, const char *start, size_t start_len)
{
	return len >= start_len && memcmp(s, start, start_len) == 0;
}

/*
 * Split a key below <name>/ into its kind and its last part.  A last part
 * holds no slash and is not empty: what has more slashes belongs to a lock
 * with a longer name, even though Go's clients see it otherwise.
 */
static QueueKeyKind
split_key(const QueueView *view, const char *key, size_t key_len,
		  const char **last, size_t *last_len)
{
	QueueKeyKind kind = QUEUE_KEY_PLAIN;

	if (!starts_with(key, key_len, view->name, view->name_len))
		return QUEUE_KEY_OTHER;
	key += view->name_len;
	key_len -= view->name_len;
	if (key_len == 0 || *key != '/')
		return QUEUE_KEY_OTHER;
	key++;
	key_len--;

	if (starts_with(key, key_len, READ_PART, strlen(READ_PART)))
	{
		kind = QUEUE_KEY_READ;
		key += strlen(READ_PART);
		key_len -= strlen(READ_PART);
	}
	else if (starts_with(key, key_len, WRITE_PART, strlen(WRITE_PART)))
	{
		kind = QUEUE_KEY_WRITE;
		key += strlen(WRITE_PART);
		key_len -= strlen(WRITE_PART);
	}
	if (key_len == 0 || memchr(key, '/', key_len) != NULL)
		return QUEUE_KEY_OTHER;

	*last = key;
	*last_len = key_len;
	return kind;
}

QueueKeyKind
queue_key_kind(const QueueView *view, const char *key, size_t key_len)
{
	const char *last;
	size_t		last_len;

	return split_key(view, key, key_len, &last, &last_len);
}

bool
queue_key_is_own(const QueueView *view, const char *key, size_t key_len)
{
	const char *last;
	size_t		last_len;
	QueueKeyKind kind = split_key(view, key, key_len, &last, &last_len);

	return (kind == QUEUE_KEY_READ || kind == QUEUE_KEY_WRITE) &&
		starts_with(last, last_len, view->owner, view->owner_len);
}

bool
queue_conflicts(bool exclusive, QueueKeyKind kind)
{
	if (kind == QUEUE_KEY_OTHER)
		return false;
	return exclusive || kind != QUEUE_KEY_READ;
}

/* Must a request for the given mode wait for this key, wherever it stands? */
static bool
foreign_conflict(const QueueView *view, bool exclusive, const QueueKey *key)
{
	return queue_conflicts(exclusive, queue_key_kind(view, key->key, key->key_len)) &&
		!queue_key_is_own(view, key->key, key->key_len);
}

QueueVerdict
queue_judge(const QueueView *view, bool exclusive,
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
		 * for it, and we wait for that key: nobody would ever move.  Whoever
		 * came later gives up.
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
	return queue_judge(view, exclusive, INT64_MAX, 0, NULL, NULL) == QUEUE_GRANTED;
}

bool
queue_somebody_waits(const QueueView *view, bool exclusive,
					 int64_t create_revision)
{
	for (int i = 0; i < view->nkeys; i++)
	{
		const QueueKey *key = &view->keys[i];

		/* Conflicts are symmetric: who would make us wait waits for us. */
		if (key->create_revision > create_revision &&
			foreign_conflict(view, exclusive, key))
			return true;
	}
	return false;
}

/* ----------------------------------------------------------------
 *		The queue seen from outside
 * ----------------------------------------------------------------
 */

/* As our servers write it: no upper case, no sign, nothing above 64 bits. */
static bool
read_number(const char *text, size_t len, unsigned base, uint64_t *value)
{
	uint64_t	result = 0;

	if (len == 0)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		unsigned	digit;

		if (text[i] >= '0' && text[i] <= '9')
			digit = text[i] - '0';
		else if (text[i] >= 'a' && text[i] <= 'f')
			digit = text[i] - 'a' + 10;
		else
			return false;
		if (digit >= base || result > (UINT64_MAX - digit) / base)
			return false;
		result = result * base + digit;
	}
	*value = result;
	return true;
}

static bool
ends_in_part(const char *key, size_t len, const char *part)
{
	size_t		part_len = strlen(part);

	return len > part_len && key[len - part_len - 1] == '/' &&
		memcmp(key + len - part_len, part, part_len) == 0;
}

bool
queue_split_key(const char *key, size_t key_len, QueueKeyParts *parts)
{
	size_t		last = key_len;
	const char *dash;

	memset(parts, 0, sizeof(*parts));
	while (last > 0 && key[last - 1] != '/')
		last--;
	if (last == 0 || last == key_len)
		return false;			/* no slash, or nothing behind it */

	parts->last = last;
	parts->name_len = last - 1;
	if (ends_in_part(key, last - 1, "read"))
	{
		parts->kind = QUEUE_KEY_READ;
		parts->name_len -= strlen(READ_PART);
	}
	else if (ends_in_part(key, last - 1, "write"))
	{
		parts->kind = QUEUE_KEY_WRITE;
		parts->name_len -= strlen(WRITE_PART);
	}
	else
		parts->kind = QUEUE_KEY_PLAIN;
	if (parts->name_len == 0)
		return false;

	key += last;
	key_len -= last;
	dash = memchr(key, '-', key_len);
	parts->is_server = parts->kind != QUEUE_KEY_PLAIN && dash != NULL &&
		read_number(key, dash - key, 16, &parts->lease) &&
		read_number(dash + 1, key + key_len - dash - 1, 10, &parts->number);
	return true;
}

/* The owners of the keys passed so far, as far as that matters. */
typedef struct Owners
{
	int			n;				/* 2: more than one */
	bool		is_server;		/* the only one: a server, by its lease; */
	uint64_t	lease;
	const char *key;			/* or somebody else, by the key itself */
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
 * Other clients than our servers see some things differently: for Go's, keys
 * of deeper names are in the way too, and its readers look at writers only.
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
		if (!queue_split_key(key->key, key->key_len, &parts) ||
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
