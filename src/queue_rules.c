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
