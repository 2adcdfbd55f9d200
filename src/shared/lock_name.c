/*-------------------------------------------------------------------------
 *
 * lock_name.c
 *	  What a lock is called: in SQL, in etcd, and to PostgreSQL's lock manager.
 *
 * A text name is the same lock in every database of every server, regardless
 * of the database's encoding, because it is in UTF-8 in etcd.  An integer key
 * belongs to the database's name, and has the same lock tag as for
 * pg_advisory_lock(), so that both exclude each other within a server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/namespace.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "shared/lock_name.h"
#include "shared/lock_text.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

/* Fourth part of an advisory lock's tag, as in the core. */
#define TAG_BIGINT		1
#define TAG_TWO_INTS	2

static bool
ends_with(const char *s, size_t len, const char *end)
{
	size_t		end_len = strlen(end);

	return len >= end_len && memcmp(s + len - end_len, end, end_len) == 0;
}

static void
bad_name(const char *user_name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_NAME),
			 errmsg("invalid name of an etcd lock: \"%s\"", user_name),
			 errdetail_internal("%s", detail)));
}

/*
 * Returns the end of an integer as SQL reads it, with blanks around it, or
 * NULL.
 */
static const char *
skip_integer(const char *s)
{
	const char *digits;

	while (isspace((unsigned char) *s))
		s++;
	if (*s == '-' || *s == '+')
		s++;
	digits = s;
	while (isdigit((unsigned char) *s))
		s++;
	if (s == digits)
		return NULL;
	while (isspace((unsigned char) *s))
		s++;
	return s;
}

/* Returns 1 for an integer, 2 for two with a comma in between, else 0. */
static int
count_integers(const char *s)
{
	s = skip_integer(s);
	if (s != NULL && *s == '\0')
		return 1;
	if (s != NULL && *s == ',')
	{
		s = skip_integer(s + 1);
		if (s != NULL && *s == '\0')
			return 2;
	}
	return 0;
}

/*
 * PostgreSQL takes parameters that a driver sends without a type for text if
 * it has the choice.  A program that means the integer key 42, as it did with
 * pg_advisory_lock(), would take a lock named '42', which excludes nobody
 * else.
 */
static void
refuse_integer(const char *user_name)
{
	switch (count_integers(user_name))
	{
		case 1:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid name of an etcd lock: \"%s\"", user_name),
					 errdetail("A name that looks like an integer could be meant as an integer key."),
					 errhint("Cast an integer key to bigint, as in etcd_lock($1::bigint), or choose a name that is not a number.")));
			break;
		case 2:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid name of an etcd lock: \"%s\"", user_name),
					 errdetail("A name that looks like two integers could be meant as two integer keys."),
					 errhint("Cast integer keys, as in etcd_lock($1::integer, $2::integer), or choose a name that is not a number.")));
			break;
	}
}

/* Put the namespace in front, and check the result. */
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
set_text_name(LockName *name, const char *server, bool integer_too)
{
	char	   *utf8 = pg_server_to_any(server, strlen(server), PG_UTF8);
	size_t		len = strlen(utf8);

	if (len == 0)
		bad_name(server, _("The name is empty."));
	set_key(name, utf8, len);
	if (ends_with(utf8, len, "/"))
		bad_name(server, _("The name ends in a slash."));

	/*
	 * The keys of a lock <name> are <name>/X, <name>/read/X and
	 * <name>/write/X: a lock <name>/read would be taken for holders of <name>
	 * by clients that know one mode only.
	 */
	if (key_layout_ends_in_mode(name->key, strlen(name->key)))
		bad_name(server, _("The name ends in \"/read\" or \"/write\"."));

	/*
	 * Nor may its keys, which begin with the name and a slash, lie among our
	 * own.
	 */
	if (key_layout_has_reserved(name->key, strlen(name->key)) &&
		!(integer_too && key_layout_is_integer(utf8, len)))
		bad_name(server, psprintf(_("\"%s\" is reserved."), KEY_LAYOUT_RESERVED));

	SET_LOCKTAG_ADVISORY(name->tag, InvalidOid, 0, 0, LOCK_TAG_TEXT);
}

void
lock_name_from_text(LockName *name, text *user_name)
{
	char	   *server = text_to_cstring(user_name);

	refuse_integer(server);
	set_text_name(name, server, false);
}

/*
 * Integer keys of this database are shown as they are written.  The tag of
 * those of other databases is not set: this is only for views.
 */
void
lock_name_from_shown(LockName *name, text *user_name)
{
	char	   *server = text_to_cstring(user_name);
	char	   *second;

	switch (count_integers(server))
	{
		case 1:
			lock_name_from_int8(name, DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(server))));
			break;
		case 2:
			second = strchr(server, ',');
			*second++ = '\0';
			lock_name_from_int4(name, pg_strtoint32(server), pg_strtoint32(second));
			break;
		default:
			set_text_name(name, server, true);
			break;
	}
}

char *
lock_name_integer_prefix(void)
{
	char	   *database = get_database_name(MyDatabaseId);
	char	   *utf8;
	char	   *prefix;

	if (database == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database with OID %u does not exist", MyDatabaseId)));
	utf8 = pg_server_to_any(database, strlen(database), PG_UTF8);
	prefix = palloc(KEY_LAYOUT_INTEGER_SIZE(strlen(utf8)));
	(void) key_layout_integer_prefix(prefix, utf8);
	return prefix;
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

	/*
	 * A database in another encoding may not have all characters of the name.
	 */
	key += namespace_len;
	return lock_text_for_user(key, strlen(key));
}

char *
lock_name_for_message(const LockName *name)
{
	return lock_text_for_message(lock_name_for_user(name->key, name->namespace_len,
													&name->tag));
}
