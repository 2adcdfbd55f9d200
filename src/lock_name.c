/*-------------------------------------------------------------------------
 *
 * lock_name.c
 *	  What a lock is called: in SQL, in etcd, and to PostgreSQL's lock manager.
 *
 * A text name is the same lock in every database of every server, whatever
 * the database's encoding: in etcd it stands in UTF-8.  An integer key belongs
 * to the database's name, and has the very lock tag that pg_advisory_lock()
 * gives it, so that both exclude each other within a server.
 *
 *-------------------------------------------------------------------------
 */
#include "lock_name.h"

#include "catalog/namespace.h"
#include "commands/dbcommands.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

/*
 * Fourth part of an advisory lock's tag: 1 and 2 are the core's own, for
 * bigint and for two ints.
 */
#define TAG_BIGINT		1
#define TAG_TWO_INTS	2
#define TAG_TEXT		3

#define INTEGER_PREFIX	ETCD_LOCK_RESERVED "int/"

static bool
ends_with(const char *s, size_t len, const char *end)
{
	size_t		end_len = strlen(end);

	return len >= end_len && memcmp(s + len - end_len, end, end_len) == 0;
}

static void
bad_name(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_NAME),
			 errmsg("invalid name of an etcd lock"),
			 errdetail_internal("%s", detail)));
}

/* Put the namespace in front, check what comes out. */
static void
set_key(LockName *name, const char *utf8, size_t len)
{
	const char *ns = pg_server_to_any(etcd_lock_namespace,
									  strlen(etcd_lock_namespace), PG_UTF8);
	size_t		ns_len = strlen(ns);

	if (ns_len + len > ETCD_LOCK_MAX_KEY)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name of an etcd lock is too long"),
				 errdetail("Namespace and name together have %zu bytes in UTF-8; the limit is %d.",
						   ns_len + len, ETCD_LOCK_MAX_KEY)));
	memcpy(name->key, ns, ns_len);
	memcpy(name->key + ns_len, utf8, len);
	name->key[ns_len + len] = '\0';
	name->namespace_len = ns_len;
}

static void
set_text_name(LockName *name, text *user_name, bool integer_too)
{
	char	   *server = text_to_cstring(user_name);
	char	   *utf8 = pg_server_to_any(server, strlen(server), PG_UTF8);
	size_t		len = strlen(utf8);
	uint64		hash;

	if (len == 0)
		bad_name(_("The name is empty."));
	set_key(name, utf8, len);
	if (ends_with(utf8, len, "/"))
		bad_name(_("The name ends in a slash."));

	/*
	 * The keys of a lock <name> are <name>/X, <name>/read/X and
	 * <name>/write/X: a lock <name>/read would be taken for holders of <name>
	 * by clients that know one mode only.
	 */
	if (ends_with(name->key, strlen(name->key), "/read") ||
		ends_with(name->key, strlen(name->key), "/write"))
		bad_name(_("The name ends in \"/read\" or \"/write\"."));

	/* Nor may its keys, which have a slash behind it, lie where ours are. */
	if (strstr(psprintf("%s/", name->key), ETCD_LOCK_RESERVED) != NULL &&
		!(integer_too && strncmp(utf8, INTEGER_PREFIX, strlen(INTEGER_PREFIX)) == 0))
		bad_name(psprintf(_("\"%s\" is reserved."), ETCD_LOCK_RESERVED));

	hash = hash_bytes_extended((unsigned char *) name->key, strlen(name->key), 0);
	SET_LOCKTAG_ADVISORY(name->tag, InvalidOid, (uint32) (hash >> 32),
						 (uint32) hash, TAG_TEXT);
}

void
lock_name_from_text(LockName *name, text *user_name)
{
	set_text_name(name, user_name, false);
}

/* The tag of an integer key is not set so: this is for looking only. */
void
lock_name_from_shown(LockName *name, text *user_name)
{
	set_text_name(name, user_name, true);
}

static bool
is_ascii(const char *s)
{
	for (; *s != '\0'; s++)
	{
		if (IS_HIGHBIT_SET(*s))
			return false;
	}
	return true;
}

char *
lock_name_integer_prefix(void)
{
	char	   *database = get_database_name(MyDatabaseId);
	char	   *utf8;
	StringInfoData buf;

	if (database == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database with OID %u does not exist", MyDatabaseId)));
	utf8 = pg_server_to_any(database, strlen(database), PG_UTF8);

	initStringInfo(&buf);
	appendStringInfoString(&buf, INTEGER_PREFIX);
	for (const char *c = utf8; *c != '\0'; c++)
	{
		/* A slash would add a level to the key, and two names could meet. */
		if (*c == '/' || *c == '%')
			appendStringInfo(&buf, "%%%02X", (unsigned char) *c);
		else
			appendStringInfoChar(&buf, *c);
	}
	appendStringInfoChar(&buf, '/');
	return buf.data;
}

static void
set_integer_key(LockName *name, const char *key)
{
	char	   *text = psprintf("%s%s", lock_name_integer_prefix(), key);

	set_key(name, text, strlen(text));
}

void
lock_name_from_int8(LockName *name, int64 key)
{
	set_integer_key(name, psprintf(INT64_FORMAT, key));
	SET_LOCKTAG_ADVISORY(name->tag, MyDatabaseId, (uint32) (key >> 32),
						 (uint32) key, TAG_BIGINT);
}

void
lock_name_from_int4(LockName *name, int32 key1, int32 key2)
{
	set_integer_key(name, psprintf("%d,%d", key1, key2));
	SET_LOCKTAG_ADVISORY(name->tag, MyDatabaseId, key1, key2, TAG_TWO_INTS);
}

char *
lock_name_for_user(const char *key, int namespace_len, const LOCKTAG *tag)
{
	if (tag->locktag_field4 == TAG_BIGINT)
		return psprintf(INT64_FORMAT,
						(int64) (((uint64) tag->locktag_field2 << 32) |
								 tag->locktag_field3));
	if (tag->locktag_field4 == TAG_TWO_INTS)
		return psprintf("%d,%d", (int32) tag->locktag_field2,
						(int32) tag->locktag_field3);

	key += namespace_len;

	/*
	 * A database in another encoding may not be able to show a name that
	 * comes from elsewhere; that must not make a view fail.
	 */
	if (GetDatabaseEncoding() != PG_UTF8 && !is_ascii(key))
	{
		StringInfoData buf;

		initStringInfo(&buf);
		for (; *key != '\0'; key++)
		{
			if (IS_HIGHBIT_SET(*key))
				appendStringInfo(&buf, "\\x%02x", (unsigned char) *key);
			else
				appendStringInfoChar(&buf, *key);
		}
		return buf.data;
	}
	return pstrdup(key);
}

/*
 * The bytes that no character stands for in the other encoding, or that are
 * no character.
 */
static void
append_escaped(StringInfo buf, const char *bytes, int len)
{
	for (int i = 0; i < len; i++)
		appendStringInfo(buf, "\\x%02x", (unsigned char) bytes[i]);
}

/* Valid text of one encoding in another one, as far as that has it. */
static void
append_converted(StringInfo buf, const char *text, int len, int from, int to)
{
	Oid			proc;

	if (from == to)
	{
		appendBinaryStringInfo(buf, text, len);
		return;
	}
	proc = FindDefaultConversionProc(from, to);
	while (len > 0)
	{
		int			plain = 0;
		int			done;
		int			odd;

		while (plain < len && !IS_HIGHBIT_SET(text[plain]))
			plain++;
		appendBinaryStringInfo(buf, text, plain);
		text += plain;
		len -= plain;
		if (len == 0)
			break;

		if (OidIsValid(proc))
		{
			int			size = len * MAX_CONVERSION_GROWTH + 2;
			char	   *converted = palloc(size);

			done = pg_do_encoding_conversion_buf(proc, from, to,
												 (unsigned char *) text, len,
												 (unsigned char *) converted,
												 size, true);
			appendStringInfoString(buf, converted);
			pfree(converted);
			text += done;
			len -= done;
			if (len == 0)
				break;
		}
		odd = Min(pg_encoding_mblen(from, text), len);
		append_escaped(buf, text, odd);
		text += odd;
		len -= odd;
	}
}

static char *
convert(const char *text, size_t len, int from, int to)
{
	StringInfoData buf;

	/* Nothing is known of such text but that ours is in UTF-8. */
	if (from == PG_SQL_ASCII)
		from = PG_UTF8;
	if (to == PG_SQL_ASCII)
		to = PG_UTF8;

	initStringInfo(&buf);
	while (len > 0)
	{
		int			valid = pg_encoding_verifymbstr(from, text, (int) len);

		append_converted(&buf, text, valid, from, to);
		text += valid;
		len -= valid;
		if (len > 0)
		{
			append_escaped(&buf, text, 1);
			text++;
			len--;
		}
	}
	return buf.data;
}

void
lock_text_to_utf8(const char *text, char *utf8, size_t size)
{
	char	   *converted = convert(text, strlen(text), GetDatabaseEncoding(),
									PG_UTF8);

	strlcpy(utf8, converted, size);
	pfree(converted);
}

char *
lock_text_for_user(const char *utf8, size_t len)
{
	return convert(utf8, len, PG_UTF8, GetDatabaseEncoding());
}
