/*-------------------------------------------------------------------------
 *
 * key_layout.c
 *	  How keys are named in etcd: built and recognized.
 *
 * Anybody may have put the keys to recognize: they have bytes of any value and
 * any length.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/key_layout.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define READ_PART		"read/"
#define WRITE_PART		"write/"
#define INTEGER_PART	KEY_LAYOUT_RESERVED "int/"
#define SERVER_PART		KEY_LAYOUT_RESERVED "server/"
#define PRIMARY_PART	KEY_LAYOUT_RESERVED "primary/"
#define NOTE_PART		KEY_LAYOUT_RESERVED "holder/"
#define TICK_PART		KEY_LAYOUT_RESERVED "tick/"
#define TICK_LEASE_PART	KEY_LAYOUT_RESERVED "tick_lease/"
#define MESSAGE_PART	"/broken/"
#define QUESTION_PART	"/asked/"
#define POSITION_PART	"/position/"
#define DEADLOCK_PART	"/deadlock/"

/*
 * The last part of a server's key.  Serials have a fixed width, to be
 * readable.
 */
#define OWN_FORMAT		"%" PRIx64 "-%012" PRIu64

/* Appended if the key may be kept, with the number of milliseconds. */
#define KEEP_PART		"-keep"

/* Build a key, which is never too long, because names are limited. */
#define BUILD(key, ...) \
	built(snprintf((key), KEY_LAYOUT_SIZE, __VA_ARGS__))

static size_t
built(int len)
{
	assert(len > 0 && len < KEY_LAYOUT_SIZE);
	return (size_t) len;
}

/* ----------------------------------------------------------------
 *		Building
 * ----------------------------------------------------------------
 */

size_t
key_layout_lock(char *key, const char *name, bool exclusive, uint64_t lease,
				uint64_t serial, unsigned keep)
{
	assert(keep <= KEY_LAYOUT_MAX_KEEP);
	if (keep > 0)
		return BUILD(key, "%s/%s" OWN_FORMAT KEEP_PART "%u", name,
					 exclusive ? WRITE_PART : READ_PART, lease, serial, keep);
	return BUILD(key, "%s/%s" OWN_FORMAT, name,
				 exclusive ? WRITE_PART : READ_PART, lease, serial);
}

size_t
key_layout_queue_start(char *key, const char *name)
{
	return BUILD(key, "%s/", name);
}

size_t
key_layout_queue_end(char *key, const char *name)
{
	return BUILD(key, "%s%c", name, '/' + 1);
}

size_t
key_layout_namespace_end(char *key, const char *ns)
{
	size_t		len = strlen(ns);

	if (len == 0)
	{
		key[0] = '\0';
		return 0;
	}
	assert(ns[len - 1] == '/');
	return BUILD(key, "%.*s%c", (int) len - 1, ns, '/' + 1);
}

/*
 * A slash in the database's name would add a level to the key, and two names
 * could collide.
 */
size_t
key_layout_integer_prefix(char *prefix, const char *database)
{
	size_t		size = KEY_LAYOUT_INTEGER_SIZE(strlen(database));
	size_t		len = strlen(INTEGER_PART);

	memcpy(prefix, INTEGER_PART, len);
	for (const char *c = database; *c != '\0'; c++)
		len += snprintf(prefix + len, size - len, *c == '/' || *c == '%' ? "%%%02X" : "%c",
						(unsigned char) *c);
	prefix[len++] = '/';
	assert(len < size);
	prefix[len] = '\0';
	return len;
}

size_t
key_layout_sentinel(char *key, const char *ns, uint64_t lease)
{
	return BUILD(key, "%s" SERVER_PART "%" PRIx64, ns, lease);
}

size_t
key_layout_sentinels(char *key, const char *ns)
{
	return BUILD(key, "%s" SERVER_PART, ns);
}

size_t
key_layout_sentinels_end(char *key, const char *ns)
{
	size_t		len = key_layout_sentinels(key, ns);

	key[len - 1] = '/' + 1;
	return len;
}

size_t
key_layout_sentinel_start(char *key, const char *sentinel)
{
	return BUILD(key, "%s/", sentinel);
}

size_t
key_layout_sentinel_end(char *key, const char *sentinel)
{
	return BUILD(key, "%s%c", sentinel, '/' + 1);
}

size_t
key_layout_primary(char *key, const char *ns, uint64_t system, uint64_t lease)
{
	return BUILD(key, "%s" PRIMARY_PART "%" PRIu64 "/%" PRIx64, ns, system, lease);
}

void
key_layout_primaries(char *start, char *end, const char *ns, uint64_t system)
{
	(void) BUILD(start, "%s" PRIMARY_PART "%" PRIu64 "/", ns, system);
	(void) BUILD(end, "%s" PRIMARY_PART "%" PRIu64 "%c", ns, system, '/' + 1);
}

size_t
key_layout_message(char *key, const char *ns, uint64_t lease,
				   const char *name, uint64_t serial)
{
	return BUILD(key, "%s" SERVER_PART "%" PRIx64 MESSAGE_PART "%s/" OWN_FORMAT,
				 ns, lease, name, lease, serial);
}

size_t
key_layout_question(char *key, const char *sentinel, uint64_t asker, uint64_t id)
{
	return BUILD(key, "%s" QUESTION_PART OWN_FORMAT, sentinel, asker, id);
}

size_t
key_layout_position(char *key, const char *sentinel, uint64_t primary, uint64_t id)
{
	return BUILD(key, "%s" POSITION_PART OWN_FORMAT, sentinel, primary, id);
}

size_t
key_layout_deadlock(char *key, const char *ns, uint64_t lease, uint64_t sender, uint64_t id)
{
	return BUILD(key, "%s" SERVER_PART "%" PRIx64 DEADLOCK_PART OWN_FORMAT, ns, lease, sender, id);
}

size_t
key_layout_note(char *key, const char *ns, int64_t create_revision,
				uint64_t lease, uint64_t serial)
{
	return BUILD(key, "%s" NOTE_PART "%" PRId64 "/" OWN_FORMAT, ns,
				 create_revision, lease, serial);
}

size_t
key_layout_tick(char *key, const char *name, size_t namespace_len)
{
	assert(namespace_len <= strlen(name));
	return BUILD(key, "%.*s" TICK_PART "%s", (int) namespace_len, name,
				 name + namespace_len);
}

void
key_layout_ticks(char *start, char *end, const char *name, size_t namespace_len)
{
	size_t		len = BUILD(start, "%.*s" TICK_PART, (int) namespace_len, name);

	memcpy(end, start, len + 1);
	end[len - 1] = '/' + 1;
}

size_t
key_layout_tick_lease(char *key, const char *ns, uint64_t lease)
{
	return BUILD(key, "%s" TICK_LEASE_PART "%" PRIx64, ns, lease);
}

void
key_layout_tick_leases(char *start, char *end, const char *ns)
{
	size_t		len = BUILD(start, "%s" TICK_LEASE_PART, ns);

	memcpy(end, start, len + 1);
	end[len - 1] = '/' + 1;
}

/* ----------------------------------------------------------------
 *		Recognizing
 * ----------------------------------------------------------------
 */

static bool
starts_with(const char *s, size_t len, const char *start, size_t start_len)
{
	return len >= start_len && memcmp(s, start, start_len) == 0;
}

bool
key_layout_is_below(const char *key, size_t key_len, const char *name, size_t name_len)
{
	return key_len > name_len && memcmp(key, name, name_len) == 0 && key[name_len] == '/';
}

/*
 * The last part has no slash and is not empty: a key with more slashes belongs
 * to a lock with a longer name, even though Go's clients disagree.
 */
QueueKeyKind
key_layout_kind(const char *name, size_t name_len, const char *key, size_t key_len,
				size_t *last)
{
	QueueKeyKind kind = QUEUE_KEY_PLAIN;
	size_t		at = name_len + 1;

	if (!key_layout_is_below(key, key_len, name, name_len))
		return QUEUE_KEY_OTHER;

	if (starts_with(key + at, key_len - at, READ_PART, strlen(READ_PART)))
	{
		kind = QUEUE_KEY_READ;
		at += strlen(READ_PART);
	}
	else if (starts_with(key + at, key_len - at, WRITE_PART, strlen(WRITE_PART)))
	{
		kind = QUEUE_KEY_WRITE;
		at += strlen(WRITE_PART);
	}
	if (at == key_len || memchr(key + at, '/', key_len - at) != NULL)
		return QUEUE_KEY_OTHER;
	*last = at;
	return kind;
}

/*
 * A number as our servers write it: no upper case, no sign, at most 64 bits.
 */
static bool
read_number(const char *digits, size_t len, unsigned base, uint64_t *value)
{
	uint64_t	result = 0;

	if (len == 0)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		unsigned	digit;

		if (digits[i] >= '0' && digits[i] <= '9')
			digit = digits[i] - '0';
		else if (digits[i] >= 'a' && digits[i] <= 'f')
			digit = digits[i] - 'a' + 10;
		else
			return false;
		if (digit >= base ||
			__builtin_mul_overflow(result, base, &result) ||
			__builtin_add_overflow(result, digit, &result))
			return false;
	}
	*value = result;
	return true;
}

/* <lease>-<serial>, up to the end. */
static bool
read_own_part(const char *text, size_t len, uint64_t *lease, uint64_t *serial)
{
	const char *dash = memchr(text, '-', len);

	return dash != NULL &&
		read_number(text, dash - text, 16, lease) &&
		read_number(dash + 1, text + len - dash - 1, 10, serial);
}

static bool
ends_in_part(const char *key, size_t len, const char *part)
{
	size_t		part_len = strlen(part);

	return len > part_len && key[len - part_len - 1] == '/' &&
		memcmp(key + len - part_len, part, part_len) == 0;
}

/*
 * Returns the length of <lease>-<serial> without the part that says how long
 * the key may be kept.  A key with a longer time than our servers use is not
 * ours.
 */
static size_t
cut_keep_part(const char *text, size_t len, unsigned *keep)
{
	size_t		digits = len;
	uint64_t	value;

	*keep = 0;
	while (digits > 0 && text[digits - 1] >= '0' && text[digits - 1] <= '9')
		digits--;
	if (digits < strlen(KEEP_PART) ||
		memcmp(text + digits - strlen(KEEP_PART), KEEP_PART, strlen(KEEP_PART)) != 0 ||
		!read_number(text + digits, len - digits, 10, &value) ||
		value == 0 || value > KEY_LAYOUT_MAX_KEEP)
		return len;
	*keep = (unsigned) value;
	return digits - strlen(KEEP_PART);
}

bool
key_layout_split(const char *key, size_t key_len, QueueKeyParts *parts)
{
	size_t		last = key_len;
	size_t		own_len;
	unsigned	keep;

	memset(parts, 0, sizeof(*parts));
	while (last > 0 && key[last - 1] != '/')
		last--;
	if (last == 0 || last == key_len)
		return false;			/* no slash, or nothing after it */

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

	if (parts->kind == QUEUE_KEY_PLAIN)
		return true;
	own_len = cut_keep_part(key + last, key_len - last, &keep);
	parts->is_server = read_own_part(key + last, own_len, &parts->lease, &parts->serial);
	parts->keep = parts->is_server ? keep : 0;
	return true;
}

bool
key_layout_is_own(const char *key, size_t key_len, uint64_t lease, uint64_t *serial)
{
	QueueKeyParts parts;

	if (!key_layout_split(key, key_len, &parts) || !parts.is_server ||
		parts.lease != lease)
		return false;
	*serial = parts.serial;
	return true;
}

/*
 * Returns where the part after the last slash begins, or key_len if there is
 * none.
 */
static size_t
last_part(const char *key, size_t key_len)
{
	for (size_t i = key_len; i > 0; i--)
	{
		if (key[i - 1] == '/')
			return i;
	}
	return key_len;
}

bool
key_layout_is_message(const char *key, size_t key_len, const char *sentinel,
					  const char **name, size_t *name_len, uint64_t *serial)
{
	size_t		begin = strlen(sentinel) + strlen(MESSAGE_PART);
	size_t		last = last_part(key, key_len);
	uint64_t	lease;

	if (!starts_with(key, key_len, sentinel, strlen(sentinel)) ||
		!starts_with(key + strlen(sentinel), key_len - strlen(sentinel),
					 MESSAGE_PART, strlen(MESSAGE_PART)) ||
		last <= begin + 1 || memchr(key, '\0', key_len) != NULL ||
		!read_own_part(key + last, key_len - last, &lease, serial))
		return false;
	*name = key + begin;
	*name_len = last - 1 - begin;
	return true;
}

static bool
is_below(const char *key, size_t key_len, const char *sentinel, const char *part,
		 uint64_t *lease, uint64_t *id)
{
	size_t		sentinel_len = strlen(sentinel);
	size_t		begin = sentinel_len + strlen(part);

	return starts_with(key, key_len, sentinel, sentinel_len) &&
		starts_with(key + sentinel_len, key_len - sentinel_len, part, strlen(part)) &&
		read_own_part(key + begin, key_len - begin, lease, id);
}

bool
key_layout_is_question(const char *key, size_t key_len, const char *sentinel,
					   uint64_t *asker, uint64_t *id)
{
	return is_below(key, key_len, sentinel, QUESTION_PART, asker, id);
}

bool
key_layout_is_position(const char *key, size_t key_len, const char *sentinel,
					   uint64_t *primary, uint64_t *id)
{
	return is_below(key, key_len, sentinel, POSITION_PART, primary, id);
}

bool
key_layout_is_deadlock(const char *key, size_t key_len, const char *sentinel,
					   uint64_t *sender, uint64_t *id)
{
	return is_below(key, key_len, sentinel, DEADLOCK_PART, sender, id);
}

/* Returns where this text occurs last, or key_len if it does not. */
static size_t
find_last(const char *key, size_t key_len, const char *text)
{
	size_t		len = strlen(text);

	for (size_t i = key_len; i-- > 0;)
	{
		if (starts_with(key + i, key_len - i, text, len))
			return i;
	}
	return key_len;
}

bool
key_layout_is_note(const char *key, size_t key_len, uint64_t lease, uint64_t *serial)
{
	size_t		part = find_last(key, key_len, NOTE_PART);
	size_t		last = last_part(key, key_len);
	uint64_t	revision;
	uint64_t	of_lease;

	return part < key_len && last > part + strlen(NOTE_PART) &&
		read_number(key + part + strlen(NOTE_PART),
					last - 1 - part - strlen(NOTE_PART), 10, &revision) &&
		read_own_part(key + last, key_len - last, &of_lease, serial) &&
		of_lease == lease;
}

/*
 * Returns where the reserved prefix occurs first in a name, or len if it does not.
 * Its last slash may be the one after the name, below which its keys are.
 */
static size_t
find_reserved(const char *name, size_t len)
{
	size_t		part_len = strlen(KEY_LAYOUT_RESERVED) - 1;

	for (size_t i = 0; i + part_len <= len; i++)
	{
		if (memcmp(name + i, KEY_LAYOUT_RESERVED, part_len) == 0 &&
			(i + part_len == len || name[i + part_len] == '/'))
			return i;
	}
	return len;
}

bool
key_layout_is_reserved(const char *key, size_t name_len)
{
	size_t		at = find_reserved(key, name_len);

	return at < name_len && !key_layout_is_integer(key + at, name_len - at);
}

bool
key_layout_has_reserved(const char *name, size_t len)
{
	return find_reserved(name, len) < len;
}

bool
key_layout_ends_in_mode(const char *name, size_t len)
{
	return ends_in_part(name, len, "read") || ends_in_part(name, len, "write");
}

bool
key_layout_is_integer(const char *name, size_t len)
{
	return starts_with(name, len, INTEGER_PART, strlen(INTEGER_PART));
}

size_t
key_layout_written_part(const char *name, size_t len, const char *prefix)
{
	size_t		prefix_len = strlen(prefix);

	return len > prefix_len && starts_with(name, len, prefix, prefix_len) ? prefix_len : 0;
}
