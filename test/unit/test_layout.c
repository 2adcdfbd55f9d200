/*-------------------------------------------------------------------------
 *
 * test_layout.c
 *	  How keys are named in etcd.
 *
 * The layout is what other servers and other clients rely on: what is built is
 * compared with the text that README.md tells, and what was built must be
 * recognized, and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/key_layout.h"

#include "tap.h"

#define LEASE	0x4000a1b2c3d4e5fULL

static char key[KEY_LAYOUT_SIZE];

static void
built(size_t len, const char *expected, const char *what)
{
	is_string(key, expected, what);
	is_int(len, strlen(expected), "... and its length");
}

static void
test_building(void)
{
	char		end[KEY_LAYOUT_SIZE];

	built(key_layout_lock(key, "/app/jobs", true, LEASE, 7, 0),
		  "/app/jobs/write/4000a1b2c3d4e5f-000000000007", "an exclusive key");
	built(key_layout_lock(key, "/app/jobs", false, 0xff, UINT64_MAX, 0),
		  "/app/jobs/read/ff-18446744073709551615", "a shared key");
	built(key_layout_queue_start(key, "/app/jobs"), "/app/jobs/", "start of a queue");
	built(key_layout_queue_end(key, "/app/jobs"), "/app/jobs0", "end of a queue");
	built(key_layout_sentinel(key, "app/", LEASE),
		  "app/.etcd_lock/server/4000a1b2c3d4e5f", "a sentinel");
	built(key_layout_sentinels(key, ""), ".etcd_lock/server/", "all sentinels");
	built(key_layout_primary(key, "app/", 42, LEASE),
		  "app/.etcd_lock/primary/42/4000a1b2c3d4e5f", "a primary");
	key_layout_primaries(key, end, "app/", 42);
	ok(strcmp(key, "app/.etcd_lock/primary/42/") == 0 &&
	   strcmp(end, "app/.etcd_lock/primary/420") == 0, "all primaries of a system");
	built(key_layout_sentinels_end(key, "a/"), "a/.etcd_lock/server0", "their end");
	built(key_layout_sentinel_start(key, "app/.etcd_lock/server/ff"),
		  "app/.etcd_lock/server/ff/", "where what is below a sentinel starts");
	built(key_layout_sentinel_end(key, "app/.etcd_lock/server/ff"),
		  "app/.etcd_lock/server/ff0", "the end of what is below a sentinel");
	built(key_layout_message(key, "app/", 0xff, "app/x/y", 12),
		  "app/.etcd_lock/server/ff/broken/app/x/y/ff-000000000012", "a message");
	built(key_layout_question(key, "app/.etcd_lock/server/ff", 0xee, 12),
		  "app/.etcd_lock/server/ff/asked/ee-000000000012", "a question");
	built(key_layout_position(key, "app/.etcd_lock/server/ee", 0xff, 12),
		  "app/.etcd_lock/server/ee/position/ff-000000000012", "its answer");
	built(key_layout_deadlock(key, "app/", 0xff, 0xee, 12),
		  "app/.etcd_lock/server/ff/deadlock/ee-000000000012", "a path of waits");
	built(key_layout_note(key, "app/", 1234, 0xff, 12),
		  "app/.etcd_lock/holder/1234/ff-000000000012", "a note");
	built(key_layout_tick(key, "app//x/y", 4), "app/.etcd_lock/tick//x/y", "a tick");
	built(key_layout_tick(key, "x", 0), ".etcd_lock/tick/x", "a tick without a namespace");
	built(key_layout_tick_lease(key, "app/", 0xff), "app/.etcd_lock/tick_lease/ff", "a lease of ticks");
	key_layout_ticks(key, end, "app//x/y", 4);
	ok(strcmp(key, "app/.etcd_lock/tick/") == 0 && strcmp(end, "app/.etcd_lock/tick0") == 0,
	   "the ticks of a namespace");
	key_layout_tick_leases(key, end, "app/");
	ok(strcmp(key, "app/.etcd_lock/tick_lease/") == 0 &&
	   strcmp(end, "app/.etcd_lock/tick_lease0") == 0, "the leases of ticks");
}

static void
test_namespace_end(void)
{
	built(key_layout_namespace_end(key, "app/"), "app0", "the end of a namespace");
	built(key_layout_namespace_end(key, "a/b/"), "a/b0", "the end of a deeper one");
	built(key_layout_namespace_end(key, ""), "", "no namespace has no end");
}

static void
test_integer_prefix(void)
{
	char		longest[KEY_LAYOUT_INTEGER_SIZE(64)];
	char		slashes[65];

	built(key_layout_integer_prefix(key, "db"), ".etcd_lock/int/db/", "integer keys of a database");
	built(key_layout_integer_prefix(key, "a/b"), ".etcd_lock/int/a%2Fb/", "a slash is escaped");
	built(key_layout_integer_prefix(key, "a%2Fb"), ".etcd_lock/int/a%252Fb/", "and what escapes it");
	built(key_layout_integer_prefix(key, "b\xc3\xa4r"), ".etcd_lock/int/b\xc3\xa4r/", "UTF-8 stays");
	memset(slashes, '/', sizeof(slashes) - 1);
	slashes[sizeof(slashes) - 1] = '\0';
	is_int(key_layout_integer_prefix(longest, slashes), sizeof(longest) - 1,
		   "the longest prefix has room");

	is_int(key_layout_written_part(".etcd_lock/int/db/42", 20, ".etcd_lock/int/db/"), 18,
		   "users write an integer key without the prefix");
	is_int(key_layout_written_part(".etcd_lock/int/db/", 18, ".etcd_lock/int/db/"), 0,
		   "not if nothing is left");
	is_int(key_layout_written_part(".etcd_lock/int/dc/42", 20, ".etcd_lock/int/db/"), 0,
		   "nor one of another database");
	is_int(key_layout_written_part("x", 1, ".etcd_lock/int/db/"), 0, "nor a text name");
}

/* Names and namespaces as long as they may be. */
static void
test_longest(void)
{
	char		name[KEY_LAYOUT_MAX_NAME + 1];
	char		ns[KEY_LAYOUT_MAX_NAME + 1];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	memset(ns, 's', 255);
	ns[255] = '\0';
	ok(key_layout_message(key, ns, UINT64_MAX, name, UINT64_MAX) < KEY_LAYOUT_SIZE,
	   "the longest message has room");
	ok(key_layout_note(key, ns, INT64_MAX, UINT64_MAX, UINT64_MAX) < KEY_LAYOUT_SIZE,
	   "the longest note has room");
	ok(key_layout_tick(key, name, 255) < KEY_LAYOUT_SIZE, "the longest tick has room");
	ok(key_layout_lock(key, name, true, UINT64_MAX, UINT64_MAX, 0) < KEY_LAYOUT_SIZE,
	   "the longest key has room");
}

static void
own(const char *text, uint64_t lease, bool expected)
{
	uint64_t	serial = 0;

	ok(key_layout_is_own(text, strlen(text), lease, &serial) == expected,
	   "\"%s\" is %s key", text, expected ? "our" : "not our");
	if (expected)
		is_int(serial, 7, "... its serial");
}

static void
test_own(void)
{
	(void) key_layout_lock(key, "/app/jobs", true, LEASE, 7, 0);
	own(key, LEASE, true);
	own(key, LEASE + 1, false);
	(void) key_layout_lock(key, "a/write", false, LEASE, 7, 0);
	own(key, LEASE, true);
	own("/app/jobs/ff-7", 0xff, false);
	own("/app/jobs/write/ff-7", 0xff, true);
	own("/app/jobs/write/ff-7 ", 0xff, false);
	own("/app/jobs/write/ff", 0xff, false);
	own("/app/jobs/write/FF-7", 0xff, false);
	own("app/.etcd_lock/server/ff", 0xff, false);
	own("", 0xff, false);
	ok(!key_layout_is_own("x/write/ff-7\0", 13, 0xff, &(uint64_t) {0}),
	   "a NUL is part of a key");
}

static void
note(const char *text, size_t len, uint64_t lease, bool expected)
{
	uint64_t	serial = 0;

	ok(key_layout_is_note(text, len, lease, &serial) == expected,
	   "\"%s\" is %s note", text, expected ? "our" : "not our");
	if (expected)
		is_int(serial, 12, "... its serial");
}

static void
test_note(void)
{
	size_t		len = key_layout_note(key, "app/", 1234, LEASE, 12);

	note(key, len, LEASE, true);
	note(key, len, LEASE + 1, false);
	note(key, len + 1, LEASE, false);
	note(key, len - 12, LEASE, false);
	len = key_layout_note(key, ".etcd_lock/holder/", 1, 0xff, 12);
	note(key, len, 0xff, true);
#define NOTE(text, expected) note(text, strlen(text), 0xff, expected)
	NOTE(".etcd_lock/holder/1/ff-12", true);
	NOTE(".etcd_lock/holder//ff-12", false);
	NOTE(".etcd_lock/holder/ff-12", false);
	NOTE(".etcd_lock/holder/x/ff-12", false);
	NOTE(".etcd_lock/holder/1/2/ff-12", false);
	NOTE(".etcd_lock/holder/1/ff-12x", false);
	NOTE("x/write/ff-12", false);
	NOTE("", false);
}

static void
message(const char *text, size_t len, const char *sentinel, const char *expected)
{
	const char *name = NULL;
	size_t		name_len = 0;
	uint64_t	serial = 0;
	bool		found = key_layout_is_message(text, len, sentinel, &name, &name_len,
											  &serial);

	ok(found == (expected != NULL), "\"%s\" is %s message", text,
	   expected != NULL ? "a" : "no");
	if (expected == NULL || !found)
		return;
	ok(name_len == strlen(expected) && memcmp(name, expected, name_len) == 0,
	   "... about \"%s\"", expected);
	is_int(serial, 12, "... its serial");
}

static void
test_message(void)
{
	char		sentinel[KEY_LAYOUT_SIZE];
	size_t		len;

	(void) key_layout_sentinel(sentinel, "app/", 0xff);
	len = key_layout_message(key, "app/", 0xff, "app//x/y", 12);
	message(key, len, sentinel, "app//x/y");
	message(key, len, "other/.etcd_lock/server/ff", NULL);
	message(key, len, "app/.etcd_lock/server/f", NULL);
	message(key, len + 1, sentinel, NULL);
#define MESSAGE(text, expected) message(text, strlen(text), "s", expected)
	MESSAGE("s", NULL);
	MESSAGE("s/broken/", NULL);
	MESSAGE("s/broken/1-12", NULL);
	MESSAGE("s/broken//1-12", NULL);
	MESSAGE("s/broken/x/1-12", "x");
	MESSAGE("s/broken/x/12", NULL);
	MESSAGE("s/broken/x/", NULL);
	MESSAGE("s0/broken/x/1-12", NULL);
	message("s/broken/x\0y/1-12", 17, "s", NULL);
}

static void
test_question(void)
{
	uint64_t	lease;
	uint64_t	id;
	size_t		len = key_layout_question(key, "s", 0xee, 12);

	ok(key_layout_is_question(key, len, "s", &lease, &id) && lease == 0xee && id == 12,
	   "a question is recognized");
	ok(!key_layout_is_position(key, len, "s", &lease, &id), "and is no answer");
	ok(!key_layout_is_question(key, len + 1, "s", &lease, &id), "not with a NUL");
	ok(!key_layout_is_question(key, len, "s0", &lease, &id), "not of another sentinel");
	len = key_layout_position(key, "s", 0xff, UINT64_MAX);
	ok(key_layout_is_position(key, len, "s", &lease, &id) && lease == 0xff && id == UINT64_MAX,
	   "an answer is recognized");
	ok(!key_layout_is_position("s", 1, "s", &lease, &id) &&
	   !key_layout_is_position("s/position/", 11, "s", &lease, &id) &&
	   !key_layout_is_position("s/position/1-2/3-4", 18, "s", &lease, &id), "nothing else is");
}

static void
below(const char *text, const char *name, bool expected)
{
	ok(key_layout_is_below(text, strlen(text), name, strlen(name)) == expected,
	   "\"%s\" is %sbelow \"%s\"", text, expected ? "" : "not ", name);
}

static void
test_below(void)
{
	below("a/x", "a", true);
	below("a/b/write/1-1", "a", true);
	below("a/", "a", true);
	below("a", "a", false);
	below("a0", "a", false);
	below("b/x", "a", false);
	below("", "a", false);
	below("/x", "", true);
	ok(!key_layout_is_below("ab/x", 2, "ab", 2), "a key that was cut before the slash is not below it");
}

/* What users may not call a lock, or a namespace. */
static void
test_names(void)
{
#define NAME(function, name, expected) \
	ok(function((name), strlen(name)) == (expected), #function "(\"%s\")", (name))
	NAME(key_layout_ends_in_mode, "a/read", true);
	NAME(key_layout_ends_in_mode, "a/write", true);
	NAME(key_layout_ends_in_mode, "/read", true);
	NAME(key_layout_ends_in_mode, "read", false);
	NAME(key_layout_ends_in_mode, "a/reader", false);
	NAME(key_layout_ends_in_mode, "a/read/b", false);
	NAME(key_layout_ends_in_mode, "a/bread", false);
	NAME(key_layout_has_reserved, "x", false);
	NAME(key_layout_has_reserved, "", false);
	NAME(key_layout_has_reserved, ".etcd_lock", true);
	NAME(key_layout_has_reserved, "a/.etcd_lock/", true);
	NAME(key_layout_has_reserved, "a.etcd_lock/int/x", true);
	NAME(key_layout_has_reserved, ".etcd_locks", false);
	NAME(key_layout_has_reserved, ".etcd_locks/.etcd_lock", true);
	NAME(key_layout_is_integer, ".etcd_lock/int/db/1", true);
	NAME(key_layout_is_integer, ".etcd_lock/int", false);
	NAME(key_layout_is_integer, "a/.etcd_lock/int/db/1", false);
}

static void
reserved(const char *name, bool expected)
{
	char		text[256];

	(void) snprintf(text, sizeof(text), "%s/write/1-1", name);
	ok(key_layout_is_reserved(text, strlen(name)) == expected,
	   "\"%s\" is %s", name, expected ? "reserved" : "a lock's name");
}

static void
test_reserved(void)
{
	reserved("x", false);
	reserved(".etcd_lock", true);
	reserved(".etcd_lock/x", true);
	reserved("a/b/.etcd_lock/holder/1", true);
	reserved(".etcd_lock/int/postgres/1", false);
	reserved("a/.etcd_lock/int/postgres/1,2", false);
	reserved(".etcd_lock/int", true);
	reserved(".etcd_loc/x", false);
	reserved("x.etcd_lock", true);
}

int
main(void)
{
	test_building();
	test_namespace_end();
	test_integer_prefix();
	test_longest();
	test_own();
	test_note();
	test_message();
	test_question();
	test_below();
	test_names();
	test_reserved();
	return done_testing();
}
