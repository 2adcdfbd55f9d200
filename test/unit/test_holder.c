/*-------------------------------------------------------------------------
 *
 * test_holder.c
 *	  Unit test of etcd_holder.c.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <time.h>

#include "etcd/etcd_holder.h"
#include "tap.h"

static EtcdHolder holder;

/* From memory of the exact size, so that reading beyond is noticed. */
static bool
decode_bytes(const char *value, size_t len)
{
	char	   *copy = malloc(len > 0 ? len : 1);
	bool		known;

	memcpy(copy, value, len);
	memset(&holder, 0xee, sizeof(holder));
	known = etcd_holder_decode(copy, len, &holder);
	free(copy);
	return known;
}

static bool
decode(const char *value)
{
	return decode_bytes(value, strlen(value));
}

static void
test_round_trip(void)
{
	EtcdHolder	out = {
		.server = "main \"one\"", .host = "db\\1", .database = "\xc3\xa4\n\t\x01/%",
		.user = "o'neill", .application = "", .has_session = true,
		.has_port = true, .port = 65535, .has_pid = true, .pid = INT32_MAX,
		.has_sentinel_ns = true, .sentinel_ns = "",
		.has_timeline = true, .timeline = INT32_MAX,
		.has_since = true, .since = INT64_C(1893499200123456)
	};
	char	   *text = etcd_holder_encode(&out);

	is_string(text,
			  "{\"server\":\"main \\\"one\\\"\",\"host\":\"db\\\\1\",\"port\":65535,"
			  "\"pid\":2147483647,\"database\":\"\xc3\xa4\\n\\t\\u0001/%\","
			  "\"user\":\"o'neill\",\"application\":\"\",\"namespace\":\"\",\"timeline\":2147483647,"
			  "\"since\":\"2030-01-01T12:00:00.123456Z\"}", "as people see it");
	ok(decode(text), "it is understood");
	is_string(holder.server, out.server, "server");
	is_string(holder.host, out.host, "host");
	is_string(holder.database, out.database, "database");
	is_string(holder.user, out.user, "user");
	is_string(holder.application, out.application, "application");
	ok(holder.has_port && holder.port == 65535, "port");
	ok(holder.has_pid && holder.pid == INT32_MAX, "pid");
	ok(holder.has_sentinel_ns && holder.sentinel_ns[0] == '\0', "an empty namespace");
	ok(holder.has_timeline && holder.timeline == INT32_MAX, "timeline");
	ok(holder.has_since && holder.since == out.since, "since");
	free(text);

	out.has_session = out.has_port = out.has_pid = false;
	out.has_sentinel_ns = out.has_timeline = out.has_since = false;
	text = etcd_holder_encode(&out);
	is_string(text, "{\"server\":\"main \\\"one\\\"\",\"host\":\"db\\\\1\"}",
			  "only what is known");
	ok(decode(text) && !holder.has_session && !holder.has_port &&
	   !holder.has_pid && !holder.has_sentinel_ns && !holder.has_timeline &&
	   !holder.has_since, "and so it is read");
	free(text);
}

/* Against the C library's calendar. */
static void
test_times(void)
{
	EtcdHolder	out = {.has_since = true};
	int			wrong = 0;

	for (int64_t s = INT64_C(-62135596800); s <= INT64_C(253402300799); s += 86399 * 97)
	{
		time_t		t = (time_t) s;
		struct tm	tm;
		char		expected[80];
		char	   *text;

		gmtime_r(&t, &tm);
		snprintf(expected, sizeof(expected), "\"since\":\"%04d-%02d-%02dT%02d:%02d:%02d.000007Z\"",
				 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
				 tm.tm_sec);
		out.since = s * 1000000 + 7;
		text = etcd_holder_encode(&out);
		if (strstr(text, expected) == NULL || !decode(text) || holder.since != out.since)
			wrong++;
		free(text);
	}
	is_int(wrong, 0, "times from year 1 to 9999");

	for (int i = 0; i < 2; i++)
	{
		char	   *text;

		out.since = i == 0 ? INT64_MIN : INT64_MAX;
		text = etcd_holder_encode(&out);
		ok(strstr(text, "since") == NULL, "a time out of range is left out");
		free(text);
	}
}

static void
test_foreign(void)
{
	static const char *const nothing[] = {
		"", "x", "null", "1", "\"text\"", "[]", "[{\"pid\": 1}]", "{}", "{", "{]", "{\"pid\": 1",
		"{\"pid\": 1} x", "{\"pid\": 1}{\"pid\": 1}", "{\"other\": 1}",
		"{\"pid\": \"1\", \"port\": true, \"server\": 1, \"host\": null, "
		"\"database\": {}, \"user\": [], \"application\": 7, \"since\": 7}",
		"{\"pid\": -1}", "{\"pid\": 1.5}", "{\"pid\": 1e300}", "{\"pid\": 2147483648}",
		"{\"since\": \"\"}", "{\"since\": \"yesterday\"}",
		"{\"since\": \"2030-13-01T12:00:00.000000Z\"}",
		"{\"since\": \"2030-01-32T12:00:00.000000Z\"}",
		"{\"since\": \"2030-01-01T24:00:00.000000Z\"}",
		"{\"since\": \"2030-01-01T12:00:00.000000\"}",
		"{\"since\": \"2030-01-01T12:00:00.000000Z \"}",
		"{\"since\": \"0000-01-01T12:00:00.000000Z\"}",
		"{\"server\": \"a\\u0000b\"}"
	};
	char		text[2000];
	char	   *deep;

	for (size_t i = 0; i < sizeof(nothing) / sizeof(nothing[0]); i++)
		ok(!decode(nothing[i]), "nothing is known from: %s", nothing[i]);
	ok(!decode_bytes("{\"pid\":\0}", 9), "nor from a value with a NUL");

	ok(decode("{\"pid\": 7, \"server\": 7, \"more\": {\"pid\": 8}}") &&
	   holder.has_pid && holder.pid == 7 && holder.server[0] == '\0',
	   "what is understood is taken");
	ok(decode("{\"user\": \"\xff\xfe\"}") && strcmp(holder.user, "\xff\xfe") == 0,
	   "bytes that are no UTF-8 are the reader's business");

	memset(text, 'x', sizeof(text));
	memcpy(text, "{\"pid\":1,\"host\":\"", 17);
	strcpy(text + 17 + 255, "\"}");
	ok(decode(text) && strlen(holder.host) == 255, "the longest text");
	memset(text + 17, 'x', 300);
	strcpy(text + 17 + 256, "\"}");
	ok(decode(text) && holder.host[0] == '\0', "a longer one is not half shown");

	deep = malloc(2000001);
	memset(deep, '[', 1000000);
	memset(deep + 1000000, ']', 1000000);
	memcpy(deep, "{\"a\":", 5);
	deep[1999999] = '}';
	ok(!decode_bytes(deep, 2000000), "nor from one that is nested too deeply");
	free(deep);
}

int
main(void)
{
	test_round_trip();
	test_times();
	test_foreign();
	return done_testing();
}
