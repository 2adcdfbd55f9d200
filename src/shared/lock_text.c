/*-------------------------------------------------------------------------
 *
 * lock_text.c
 *	  Converts text between the database's encoding and UTF-8, which etcd has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "shared/lock_text.h"

/* The longest character in any encoding, in bytes. */
#define MAX_CHARACTER	8

/*
 * Append bytes that have no equivalent in the other encoding, or that are not
 * a valid character.
 */
static void
append_escaped(StringInfo buf, const char *bytes, int len)
{
	for (int i = 0; i < len; i++)
		appendStringInfo(buf, "\\x%02x", (unsigned char) bytes[i]);
}

/*
 * Only for text that is not plain ASCII: it may read the catalogs, which is
 * impossible outside of a transaction.
 */
static Oid
find_conversion(int from, int to)
{
	return IsTransactionState() ? FindDefaultConversionProc(from, to) : InvalidOid;
}

/* Append valid text of one encoding in another one, as far as that has it. */
static void
append_converted(StringInfo buf, const char *bytes, int len, int from, int to)
{
	Oid			proc = InvalidOid;

	if (from == to)
	{
		appendBinaryStringInfo(buf, bytes, len);
		return;
	}
	while (len > 0)
	{
		int			plain = 0;
		int			done;
		int			odd;

		while (plain < len && !IS_HIGHBIT_SET(bytes[plain]))
			plain++;
		appendBinaryStringInfo(buf, bytes, plain);
		bytes += plain;
		len -= plain;
		if (len == 0)
			break;

		if (!OidIsValid(proc))
			proc = find_conversion(from, to);
		if (OidIsValid(proc))
		{
			int			size = len * MAX_CONVERSION_GROWTH + 2;
			char	   *converted = palloc(size);

			done = pg_do_encoding_conversion_buf(proc, from, to,
												 (unsigned char *) bytes, len,
												 (unsigned char *) converted,
												 size, true);
			appendStringInfoString(buf, converted);
			pfree(converted);
			bytes += done;
			len -= done;
			if (len == 0)
				break;
		}
		odd = Min(pg_encoding_mblen(from, bytes), len);
		append_escaped(buf, bytes, odd);
		bytes += odd;
		len -= odd;
	}
}

static char *
convert(const char *bytes, size_t len, int from, int to)
{
	StringInfoData buf;

	/* The encoding of such text is unknown, but ours is in UTF-8. */
	if (from == PG_SQL_ASCII)
		from = PG_UTF8;
	if (to == PG_SQL_ASCII)
		to = PG_UTF8;

	initStringInfo(&buf);
	while (len > 0)
	{
		int			valid = pg_encoding_verifymbstr(from, bytes, (int) len);

		append_converted(&buf, bytes, valid, from, to);
		bytes += valid;
		len -= valid;
		if (len > 0)
		{
			append_escaped(&buf, bytes, 1);
			bytes++;
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

/* Does the other encoding have this character? */
static bool
has_character(Oid proc, const char *character, int len, int from, int to)
{
	unsigned char converted[MAX_CHARACTER * MAX_CONVERSION_GROWTH + 1];

	return OidIsValid(proc) &&
		pg_do_encoding_conversion_buf(proc, from, to, (unsigned char *) character, len,
									  converted, sizeof(converted), true) == len;
}

char *
lock_text_for_message(const char *message)
{
	int			from = GetDatabaseEncoding();
	int			to = pg_get_client_encoding();
	Oid			proc = InvalidOid;
	StringInfoData buf;

	if (from == to || from == PG_SQL_ASCII || to == PG_SQL_ASCII)
		return pstrdup(message);

	initStringInfo(&buf);
	while (*message != '\0')
	{
		int			len = Min(pg_encoding_mblen(from, message), (int) strlen(message));

		if (IS_HIGHBIT_SET(*message) && !OidIsValid(proc))
			proc = find_conversion(from, to);
		if (!IS_HIGHBIT_SET(*message) || has_character(proc, message, len, from, to))
			appendBinaryStringInfo(&buf, message, len);
		else
			append_escaped(&buf, message, len);
		message += len;
	}
	return buf.data;
}

void
lock_text_prepare(void)
{
	int			ours = GetDatabaseEncoding();
	int			client = pg_get_client_encoding();

	if (ours != PG_UTF8 && ours != PG_SQL_ASCII)
		(void) find_conversion(PG_UTF8, ours);
	if (ours != client && ours != PG_SQL_ASCII && client != PG_SQL_ASCII)
		(void) find_conversion(ours, client);
}

char *
lock_text_etcd_message(const char *utf8)
{
	return lock_text_for_message(lock_text_for_user(utf8, strlen(utf8)));
}
