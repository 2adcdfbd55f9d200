/*-------------------------------------------------------------------------
 *
 * fuzz_queue.c
 *	  queue.c: the input is a lock's name, and the keys that a range below
 *	  it has brought.
 *
 * Lines of text: the name; then for each key its create_revision, a space, and
 * the key (any bytes but a line's end), where a first "@" stands for the name.
 *
 * Foreign keys are told apart by a simpler rule, and no two owners may ever be
 * granted what conflicts.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"
#include "etcd/queue.h"

#define MAX_KEYS	40

typedef struct Queue
{
	char	   *name;
	size_t		name_len;
	QueueKey	keys[MAX_KEYS];
	int			nkeys;
} Queue;

static void
read_key(Queue *queue, const char *line, size_t len)
{
	QueueKey   *key = &queue->keys[queue->nkeys++];
	size_t		prefix_len;
	char	   *text;

	key->create_revision = 0;
	for (; len > 0 && *line >= '0' && *line <= '9'; line++, len--)
		key->create_revision = (key->create_revision * 10 + (*line - '0')) % 1000;
	if (len > 0 && *line == ' ')
		line++, len--;
	prefix_len = len > 0 && *line == '@' ? queue->name_len : 0;
	if (prefix_len > 0)
		line++, len--;

	key->key_len = prefix_len + len;
	text = malloc(key->key_len > 0 ? key->key_len : 1);
	check(text != NULL);
	memcpy(text, queue->name, prefix_len);
	memcpy(text + prefix_len, line, len);
	key->key = text;
}

static void
read_queue(Queue *queue, const char *text, size_t len)
{
	memset(queue, 0, sizeof(*queue));
	while (len > 0 && queue->nkeys < MAX_KEYS)
	{
		const char *end = memchr(text, '\n', len);
		size_t		line_len = end == NULL ? len : (size_t) (end - text);

		if (queue->name == NULL)
		{
			queue->name = exact_copy(text, line_len);
			queue->name_len = line_len;
		}
		else
			read_key(queue, text, line_len);
		text += line_len;
		len -= line_len;
		if (end != NULL)
			text++, len--;
	}
}

static void
free_queue(Queue *queue)
{
	int			i;

	free(queue->name);
	for (i = 0; i < queue->nkeys; i++)
		free((char *) queue->keys[i].key);
}

/* What kind of key it is, by its slashes. */
static QueueKeyKind
plain_kind(const Queue *queue, const QueueKey *key, const char **last,
		   size_t *last_len)
{
	const char *rest = key->key + queue->name_len + 1;
	size_t		len = key->key_len - queue->name_len - 1;
	const char *slash;

	if (key->key_len < queue->name_len + 2 ||
		memcmp(key->key, queue->name, queue->name_len) != 0 || rest[-1] != '/')
		return QUEUE_KEY_OTHER;
	slash = memchr(rest, '/', len);
	*last = slash == NULL ? rest : slash + 1;
	*last_len = len - (size_t) (*last - rest);
	if (slash == NULL)
		return QUEUE_KEY_PLAIN;
	if (*last_len == 0 || memchr(*last, '/', *last_len) != NULL)
		return QUEUE_KEY_OTHER;
	if (slash - rest == 4 && memcmp(rest, "read", 4) == 0)
		return QUEUE_KEY_READ;
	if (slash - rest == 5 && memcmp(rest, "write", 5) == 0)
		return QUEUE_KEY_WRITE;
	return QUEUE_KEY_OTHER;
}

/* "<lease>-" of a key that a server may have put; false: it is none. */
static bool
owner_of(const Queue *queue, const QueueKey *key, const char **owner,
		 size_t *len)
{
	QueueKeyKind kind = plain_kind(queue, key, owner, len);
	const char *dash;

	if (kind != QUEUE_KEY_READ && kind != QUEUE_KEY_WRITE)
		return false;
	dash = memchr(*owner, '-', *len);
	if (dash == NULL)
		return false;
	*len = (size_t) (dash + 1 - *owner);
	return true;
}

static QueueView
view_of(const Queue *queue, const char *owner, size_t owner_len)
{
	QueueView	view = {
		.name = queue->name, .name_len = queue->name_len,
		.owner = owner, .owner_len = owner_len,
		.keys = queue->keys, .nkeys = queue->nkeys
	};

	return view;
}

static void
check_kinds(const Queue *queue)
{
	int			i;

	for (i = 0; i < queue->nkeys; i++)
	{
		const QueueKey *key = &queue->keys[i];
		const char *owner;
		size_t		len;
		QueueView	view = view_of(queue, "", 0);

		check(queue_key_kind(&view, key->key, key->key_len) ==
			  plain_kind(queue, key, &owner, &len));
		if (!owner_of(queue, key, &owner, &len))
			continue;
		view = view_of(queue, owner, len);
		check(queue_key_is_own(&view, key->key, key->key_len));
		view = view_of(queue, "0-", 2);
		check(queue_key_is_own(&view, key->key, key->key_len) ==
			  (len == 2 && *owner == '0'));
	}
}

/* How many keys must be gone before this one is granted, counted plainly. */
static int
count_ahead(const Queue *queue, int number, const char *owner, size_t len,
			bool exclusive)
{
	int			n = 0;
	int			i;

	for (i = 0; i < queue->nkeys; i++)
	{
		const QueueKey *key = &queue->keys[i];
		const char *last;
		size_t		last_len;
		QueueKeyKind kind = plain_kind(queue, key, &last, &last_len);

		if (kind == QUEUE_KEY_OTHER || (kind == QUEUE_KEY_READ && !exclusive) ||
			key->create_revision >= queue->keys[number].create_revision)
			continue;
		n += kind == QUEUE_KEY_PLAIN || last_len < len ||
			memcmp(last, owner, len) != 0;
	}
	return n;
}

/* Is the key with this number granted to its owner? */
static bool
is_granted(const Queue *queue, int number, const char *owner, size_t len,
		   bool exclusive)
{
	const QueueKey *key = &queue->keys[number];
	QueueView	view = view_of(queue, owner, len);
	int			ahead[MAX_KEYS];
	int			nahead;
	int			i;
	QueueVerdict verdict = queue_decide(&view, exclusive, key->create_revision, 0,
									   ahead, &nahead);

	check(verdict != QUEUE_DEADLOCK);
	check((verdict == QUEUE_GRANTED) == (nahead == 0));
	check(nahead == count_ahead(queue, number, owner, len, exclusive));
	for (i = 0; i < nahead; i++)
	{
		check(ahead[i] >= 0 && ahead[i] < queue->nkeys && ahead[i] != number);
		check(i == 0 || ahead[i] > ahead[i - 1]);
		check(queue->keys[ahead[i]].create_revision < key->create_revision);
	}

	/* Who has somebody ahead is somebody whom that one makes wait. */
	for (i = 0; i < nahead; i++)
	{
		const QueueKey *other = &queue->keys[ahead[i]];
		const char *other_owner;
		size_t		other_len;

		if (!owner_of(queue, other, &other_owner, &other_len))
			continue;
		view = view_of(queue, other_owner, other_len);
		check(queue_somebody_waits(&view,
								   queue_key_kind(&view, other->key, other->key_len) == QUEUE_KEY_WRITE,
								   other->create_revision));
	}
	return nahead == 0;
}

/* A key that its owner is granted. */
typedef struct Grant
{
	const char *owner;
	size_t		len;
	bool		exclusive;
	int64_t		revision;
} Grant;

static bool
may_coexist(const Grant *a, const Grant *b)
{
	return (!a->exclusive && !b->exclusive) ||
		(a->len == b->len && memcmp(a->owner, b->owner, a->len) == 0) ||
		a->revision == b->revision; /* etcd gives none twice to keys of a lock */
}

static void
check_exclusion(const Queue *queue)
{
	Grant		grants[MAX_KEYS];
	int			n = 0;
	int			i;
	int			j;

	for (i = 0; i < queue->nkeys; i++)
	{
		const QueueKey *key = &queue->keys[i];
		Grant	   *grant = &grants[n];
		QueueView	view;

		if (!owner_of(queue, key, &grant->owner, &grant->len))
			continue;
		view = view_of(queue, grant->owner, grant->len);
		grant->exclusive =
			queue_key_kind(&view, key->key, key->key_len) == QUEUE_KEY_WRITE;
		grant->revision = key->create_revision;
		if (!is_granted(queue, i, grant->owner, grant->len, grant->exclusive))
			continue;
		for (j = 0; j < n; j++)
			check(may_coexist(&grants[j], grant));
		n++;
	}
}

static void
check_deadlock(const Queue *queue)
{
	QueueView	view = view_of(queue, "0-", 2);
	int			own_read;
	int			revision;

	for (own_read = 1; own_read < 10; own_read += 4)
		for (revision = 1; revision < 20; revision += 6)
		{
			bool		expected = false;
			int			i;
			int			nahead;

			for (i = 0; i < queue->nkeys; i++)
			{
				const QueueKey *key = &queue->keys[i];
				const char *last;
				size_t		len;
				QueueKeyKind kind = plain_kind(queue, key, &last, &len);

				expected |= key->create_revision > own_read &&
					key->create_revision < revision &&
					(kind == QUEUE_KEY_PLAIN ||
					 (kind == QUEUE_KEY_WRITE && !(len >= 2 && memcmp(last, "0-", 2) == 0)));
			}
			check((queue_decide(&view, true, revision, own_read, NULL, &nahead) ==
				   QUEUE_DEADLOCK) == expected);
			check(queue_decide(&view, false, revision, own_read, NULL, NULL) !=
				  QUEUE_DEADLOCK);
		}
	check(!queue_is_free(&view, false) || queue->nkeys == 0 ||
		  queue_decide(&view, false, INT64_MAX, 0, NULL, NULL) == QUEUE_GRANTED);
	check(!queue_is_free(&view, true) || queue_is_free(&view, false));
}

static bool
has_reserved_end(const char *name, size_t len)
{
	return (len >= 4 && memcmp(name + len - 4, "read", 4) == 0) ||
		(len >= 5 && memcmp(name + len - 5, "write", 5) == 0);
}

/* Seen from outside, without knowing the lock: the same kinds and names. */
static void
check_split(const Queue *queue)
{
	int			i;

	for (i = 0; i < queue->nkeys; i++)
	{
		const QueueKey *key = &queue->keys[i];
		QueueKeyParts parts;
		const char *last;
		size_t		len;
		QueueKeyKind kind = plain_kind(queue, key, &last, &len);
		bool		is_key = key_layout_split(key->key, key->key_len, &parts);

		if (kind != QUEUE_KEY_OTHER && queue->name_len > 0 &&
			!has_reserved_end(queue->name, queue->name_len))
			check(is_key && parts.kind == kind && parts.name_len == queue->name_len &&
				  key->key + parts.last == last);
		if (!is_key)
			continue;
		check(parts.kind != QUEUE_KEY_OTHER);
		check(parts.name_len > 0 && parts.name_len < parts.last &&
			  parts.last < key->key_len);
		check(memchr(key->key + parts.last, '/', key->key_len - parts.last) == NULL);
		if (parts.is_server)
		{
			char		text[64];
			int			hex = snprintf(text, sizeof(text), "%llx-", (unsigned long long) parts.lease);

			/* but for zeros in front */
			last = key->key + parts.last;
			len = key->key_len - parts.last;
			while (len > 1 && *last == '0' && last[1] != '-')
				last++, len--;
			check((int) len > hex && memcmp(last, text, (size_t) hex) == 0);
		}
	}
}

static int
by_revision(const void *a, const void *b)
{
	const QueueKey *x = a;
	const QueueKey *y = b;

	return (x->create_revision > y->create_revision) -
		(x->create_revision < y->create_revision);
}

/* Is the lease written in two ways, or in a key that no server puts? */
static bool
has_twin(const Queue *queue, uint64_t lease)
{
	char		text[64];
	size_t		text_len = (size_t) snprintf(text, sizeof(text), "%llx-", (unsigned long long) lease);
	int			i;

	for (i = 0; i < queue->nkeys; i++)
	{
		const char *owner;
		size_t		len;
		QueueKeyParts parts;
		bool		ours;

		if (!owner_of(queue, &queue->keys[i], &owner, &len))
			continue;
		ours = len == text_len && memcmp(owner, text, len) == 0;
		if (key_layout_split(queue->keys[i].key, queue->keys[i].key_len, &parts) &&
			parts.is_server ? ours != (parts.lease == lease) : ours)
			return true;
	}
	return false;
}

/* What is shown as granted is what the server itself believes. */
static void
check_places(const Queue *queue)
{
	Queue		sorted = *queue;
	QueuePlace	places[MAX_KEYS];
	QueueView	view;
	int			position = 0;
	int			i;

	qsort(sorted.keys, (size_t) sorted.nkeys, sizeof(QueueKey), by_revision);
	for (i = 1; i < sorted.nkeys; i++)
	{
		if (sorted.keys[i].create_revision == sorted.keys[i - 1].create_revision)
			return;
	}
	if (has_reserved_end(queue->name, queue->name_len) || queue->name_len == 0)
		return;
	view = view_of(&sorted, "", 0);
	queue_places(&view, places);
	for (i = 0; i < sorted.nkeys; i++)
	{
		const QueueKey *key = &sorted.keys[i];
		const char *owner;
		size_t		len;
		QueueKeyParts parts;
		QueueKeyKind kind = plain_kind(&sorted, key, &owner, &len);

		check(places[i].position == (kind == QUEUE_KEY_OTHER ? 0 : ++position));
		if (kind == QUEUE_KEY_OTHER)
			check(!places[i].granted);
		else if (key_layout_split(key->key, key->key_len, &parts) && parts.is_server &&
				 (*owner != '0' || owner[1] == '-') &&
				 owner_of(&sorted, key, &owner, &len) && !has_twin(&sorted, parts.lease))
			check(places[i].granted ==
				  is_granted(&sorted, i, owner, len, kind == QUEUE_KEY_WRITE));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Queue		queue;

	read_queue(&queue, (const char *) data, size);
	if (queue.name != NULL)
	{
		check_kinds(&queue);
		check_exclusion(&queue);
		check_deadlock(&queue);
		check_split(&queue);
		check_places(&queue);
	}
	free_queue(&queue);
	return 0;
}
