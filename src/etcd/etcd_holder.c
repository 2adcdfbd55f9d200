/*-------------------------------------------------------------------------
 *
 * etcd_holder.c
 *	  Who holds a lock or waits for it: the value of a key in etcd.
 *
 * The value is a JSON object, so that people can read it, too:
 *
 *	{"server": "main", "host": "db1", "port": 5432, "pid": 4711,
 *	 "database": "app", "user": "batch", "application": "psql",
 *	 "namespace": "", "since": "2030-01-01T12:00:00.000000Z"}
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/etcd_holder.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "etcd/printable.h"

#define MICROSECONDS	INT64_C(1000000)
#define SECONDS_PER_DAY	86400

/* Room for what print_time() writes. */
#define TIME_SIZE		40

/* Limit of values in a JSON object. */
#define MAX_VALUES		1000

/* ----------------------------------------------------------------
 *		Dates
 * ----------------------------------------------------------------
 */

/* Days from 1970-01-01 to a day of the Gregorian calendar, year 0 or later. */
static int64_t
days_from_date(int64_t year, int month, int day)
{
	int64_t		y = month > 2 ? year : year - 1;	/* years begin in March */
	int			m = month > 2 ? month - 3 : month + 9;

	return 365 * y + (y >= 0 ? y / 4 - y / 100 + y / 400 : -1) +
		(153 * m + 2) / 5 + day - 1 - 719468;
}

static void
date_from_days(int64_t days, int64_t *year, int *month, int *day)
{
	int64_t		era;
	int64_t		day_of_era;
	int64_t		year_of_era;
	int			day_of_year;
	int			m;

	days += 719468;
	era = days / 146097;		/* days of 400 years */
	day_of_era = days % 146097;
	year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 -
				   day_of_era / 146096) / 365;
	day_of_year = (int) (day_of_era - (365 * year_of_era + year_of_era / 4 -
									   year_of_era / 100));
	m = (5 * day_of_year + 2) / 153;
	*day = day_of_year - (153 * m + 2) / 5 + 1;
	*month = m < 10 ? m + 3 : m - 9;
	*year = era * 400 + year_of_era + (*month <= 2 ? 1 : 0);
}

/* A time beyond the calendar becomes an empty text. */
static void
print_time(int64_t since, char *buf)
{
	int64_t		seconds = since / MICROSECONDS;
	int64_t		fraction = since % MICROSECONDS;
	int64_t		days;
	int64_t		year;
	int			month;
	int			day;

	buf[0] = '\0';
	if (fraction < 0)
	{
		fraction += MICROSECONDS;
		seconds--;
	}
	days = seconds / SECONDS_PER_DAY;
	seconds %= SECONDS_PER_DAY;
	if (seconds < 0)
	{
		seconds += SECONDS_PER_DAY;
		days--;
	}
	if (days < days_from_date(1, 1, 1) || days > days_from_date(9999, 12, 31))
		return;
	date_from_days(days, &year, &month, &day);
	snprintf(buf, TIME_SIZE, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
			 (int) year, month, day, (int) (seconds / 3600),
			 (int) (seconds / 60 % 60), (int) (seconds % 60), (int) fraction);
}

/* Exactly n digits. */
static bool
read_digits(const char **text, int n, int *value)
{
	*value = 0;
	for (int i = 0; i < n; i++, (*text)++)
	{
		if (**text < '0' || **text > '9')
			return false;
		*value = *value * 10 + (**text - '0');
	}
	return true;
}

static bool
read_char(const char **text, char c)
{
	if (**text != c)
		return false;
	(*text)++;
	return true;
}

/* Accepts exactly what print_time() writes. */
static bool
read_time(const char *text, int64_t *since)
{
	int64_t		days;
	int64_t		real_year;
	int			real_month;
	int			real_day;
	int			year;
	int			month;
	int			day;
	int			hour;
	int			minute;
	int			second;
	int			fraction;

	if (!read_digits(&text, 4, &year) || !read_char(&text, '-') ||
		!read_digits(&text, 2, &month) || !read_char(&text, '-') ||
		!read_digits(&text, 2, &day) || !read_char(&text, 'T') ||
		!read_digits(&text, 2, &hour) || !read_char(&text, ':') ||
		!read_digits(&text, 2, &minute) || !read_char(&text, ':') ||
		!read_digits(&text, 2, &second) || !read_char(&text, '.') ||
		!read_digits(&text, 6, &fraction) || strcmp(text, "Z") != 0)
		return false;
	if (year < 1 || month < 1 || month > 12 || day < 1 ||
		hour > 23 || minute > 59 || second > 59)
		return false;

	/* a day that the month does not have becomes one of the next month */
	days = days_from_date(year, month, day);
	date_from_days(days, &real_year, &real_month, &real_day);
	if (real_month != month || real_day != day)
		return false;
	*since = ((days * SECONDS_PER_DAY +
			   hour * 3600 + minute * 60 + second) * MICROSECONDS) + fraction;
	return true;
}

/* ----------------------------------------------------------------
 *		The object
 * ----------------------------------------------------------------
 */

static bool
add_text(cJSON *object, const char *name, const char *value)
{
	return cJSON_AddStringToObject(object, name, value) != NULL;
}

char *
etcd_holder_encode(const EtcdHolder *holder)
{
	cJSON	   *object = cJSON_CreateObject();
	char	   *text = NULL;
	char		since[TIME_SIZE] = "";
	bool		ok;

	if (holder->has_since)
		print_time(holder->since, since);
	ok = object != NULL &&
		add_text(object, "server", holder->server) &&
		add_text(object, "host", holder->host) &&
		(!holder->has_port ||
		 cJSON_AddNumberToObject(object, "port", holder->port) != NULL) &&
		(!holder->has_pid ||
		 cJSON_AddNumberToObject(object, "pid", holder->pid) != NULL) &&
		(!holder->has_session ||
		 (add_text(object, "database", holder->database) &&
		  add_text(object, "user", holder->user) &&
		  add_text(object, "application", holder->application))) &&
		(holder->instance[0] == '\0' ||
		 add_text(object, "instance", holder->instance)) &&
		(!holder->has_sentinel_ns ||
		 add_text(object, "namespace", holder->sentinel_ns)) &&
		(!holder->has_timeline ||
		 cJSON_AddNumberToObject(object, "timeline", holder->timeline) != NULL) &&
		(since[0] == '\0' || add_text(object, "since", since));
	if (ok)
		text = cJSON_PrintUnformatted(object);

	cJSON_Delete(object);
	return text;
}

/* A text that does not fit is left out, not truncated. */
static bool
get_text(const cJSON *object, const char *name, char *value)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	value[0] = '\0';
	if (!cJSON_IsString(item) || strlen(item->valuestring) >= ETCD_HOLDER_TEXT)
		return false;
	strcpy(value, item->valuestring);
	return true;
}

static bool
get_int(const cJSON *object, const char *name, int32_t *value)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	*value = 0;
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) ||
		item->valuedouble > INT32_MAX ||
		item->valuedouble != (double) (int32_t) item->valuedouble)
		return false;
	*value = (int32_t) item->valuedouble;
	return true;
}

/*
 * Each value, even a digit, costs cJSON about 80 bytes.  So we refuse a text
 * of many small values before it takes much memory.  (cJSON itself limits
 * nesting.)  Commas and brackets in strings are counted, too, but a value of
 * ours is far below the limit.
 */
static bool
has_too_many_values(const char *text, size_t len)
{
	size_t		n = 0;
	size_t		i;

	for (i = 0; i < len; i++)
		n += text[i] == ',' || text[i] == '[' || text[i] == '{';
	return n > MAX_VALUES;
}

/* As a byte, or as an escape. */
static bool
contains_nul(const char *text, size_t len)
{
	static const char escape[] = "\\u0000";
	size_t		i;

	for (i = 0; i + sizeof(escape) - 1 <= len; i++)
	{
		if (text[i] != '\\')
			continue;
		if (memcmp(text + i, escape, sizeof(escape) - 1) == 0)
			return true;
		i++;					/* the escaped character may be a backslash */
	}
	return memchr(text, '\0', len) != NULL;
}

/*
 * Parse one JSON object, with nothing after it and no NUL in it, not even as
 * an escape, because a C string ends there.  We look for the last brace first
 * because cJSON before 1.7.18 reads one byte too far if the text ends in a
 * comma.
 */
static cJSON *
parse(const char *text, size_t len)
{
	const char *end = NULL;
	cJSON	   *root;

	while (len > 0 && strchr(" \t\r\n", text[len - 1]) != NULL && text[len - 1] != '\0')
		len--;
	if (len < 2 || text[len - 1] != '}' || contains_nul(text, len) || has_too_many_values(text, len))
		return NULL;

	root = cJSON_ParseWithLengthOpts(text, len, &end, 0);
	if (root != NULL && (end != text + len || !cJSON_IsObject(root)))
	{
		cJSON_Delete(root);
		return NULL;
	}
	return root;
}

bool
etcd_holder_decode(const char *value, size_t len, EtcdHolder *holder)
{
	cJSON	   *object = parse(value, len);
	char		since[ETCD_HOLDER_TEXT];
	bool		known;

	memset(holder, 0, sizeof(*holder));
	if (object == NULL)
		return false;
	known = get_text(object, "server", holder->server);
	known |= get_text(object, "host", holder->host);
	holder->has_session = get_text(object, "database", holder->database);
	holder->has_session |= get_text(object, "user", holder->user);
	holder->has_session |= get_text(object, "application", holder->application);
	holder->has_port = get_int(object, "port", &holder->port);
	holder->has_pid = get_int(object, "pid", &holder->pid);
	known |= get_text(object, "instance", holder->instance);
	holder->has_sentinel_ns = get_text(object, "namespace", holder->sentinel_ns);
	holder->has_timeline = get_int(object, "timeline", &holder->timeline);
	holder->has_since = get_text(object, "since", since) &&
		read_time(since, &holder->since);
	cJSON_Delete(object);
	return known || holder->has_session || holder->has_port || holder->has_pid ||
		holder->has_sentinel_ns || holder->has_timeline || holder->has_since;
}

/* The printable text is never longer than the original. */
void
etcd_holder_printable(char *value)
{
	size_t		size = strlen(value) + 1;
	char	   *copy = malloc(size);

	if (copy == NULL)
	{
		value[0] = '\0';
		return;
	}
	printable_copy(copy, size, value, size - 1);
	memcpy(value, copy, strlen(copy) + 1);
	free(copy);
}
