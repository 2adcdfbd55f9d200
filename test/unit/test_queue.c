/*-------------------------------------------------------------------------
 *
 * test_queue.c
 *	  Unit test of queue.c.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/queue.h"
#include "tap.h"

#define NAME	"/jobs/report"
#define OWNER	"77-"
#define MAX_KEYS 16

/* The queue to decide about. */
static QueueKey keys[MAX_KEYS];

static QueueView
view(int n)
{
	QueueView	result = {NAME, strlen(NAME), OWNER, strlen(OWNER), keys, n};

	return result;
}

static void
key(int i, int64_t revision, const char *name)
{
	keys[i].key = name;
	keys[i].key_len = strlen(name);
	keys[i].create_revision = revision;
	keys[i].no_lease = false;
}

static QueueKeyKind
kind(const char *name)
{
	QueueView	v = view(0);

	return queue_key_kind(&v, name, strlen(name));
}

static bool
own(const char *name)
{
	QueueView	v = view(0);

	return queue_key_is_own(&v, name, strlen(name));
}

static QueueVerdict
decide(int n, bool exclusive, int64_t revision, int64_t own_read)
{
	QueueView	v = view(n);

	return queue_decide(&v, exclusive, revision, own_read, NULL, NULL);
}

static void
test_kinds(void)
{
	is_int(kind(NAME "/1a2b"), QUEUE_KEY_PLAIN, "a mutex of Go's");
	is_int(kind(NAME "/read/77-1"), QUEUE_KEY_READ, "a read key");
	is_int(kind(NAME "/write/77-1"), QUEUE_KEY_WRITE, "a write key");
	is_int(kind(NAME "/read"), QUEUE_KEY_PLAIN, "\"read\" as a last part");
	is_int(kind(NAME "/reader"), QUEUE_KEY_PLAIN, "what only begins with it");
	is_int(kind(NAME "/read/"), QUEUE_KEY_OTHER, "a read key without a last part");
	is_int(kind(NAME "/"), QUEUE_KEY_OTHER, "no last part at all");
	is_int(kind(NAME), QUEUE_KEY_OTHER, "the name itself");
	is_int(kind(NAME "s/1"), QUEUE_KEY_OTHER, "a name that begins with ours");
	is_int(kind(NAME "/daily/1"), QUEUE_KEY_OTHER, "a plain key of a deeper name");
	is_int(kind(NAME "/daily/write/1"), QUEUE_KEY_OTHER, "a write key of a deeper name");
	is_int(kind(NAME "/write/a/b"), QUEUE_KEY_OTHER, "a deeper name in write/");
	is_int(kind("/jobs/1"), QUEUE_KEY_OTHER, "a key of the name above");
	is_int(kind(""), QUEUE_KEY_OTHER, "an empty key");

	ok(own(NAME "/write/77-1"), "our write key");
	ok(own(NAME "/read/77-000000000001"), "our read key");
	ok(!own(NAME "/write/771-1"), "a lease that begins like ours");
	ok(!own(NAME "/write/7-1"), "a lease that ours begins with");
	ok(!own(NAME "/77-1"), "we put no plain keys");
	ok(!own(NAME "/daily/write/77-1"), "our key of a deeper name");
}

/* Who conflicts with whom, one foreign key ahead. */
static void
test_conflicts(void)
{
	static const struct
	{
		const char *key;
		bool		blocks_exclusive;
		bool		blocks_shared;
	}			cases[] = {
		{NAME "/write/9-1", true, true},
		{NAME "/read/9-1", true, false},
		{NAME "/9a", true, true},
		{NAME "/deeper/9a", false, false},
		{NAME "/write/77-1", false, false},
		{NAME "/read/77-1", false, false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		key(0, 5, cases[i].key);
		ok((decide(1, true, 6, 0) == QUEUE_WAIT) == cases[i].blocks_exclusive,
		   "exclusive behind %s", cases[i].key);
		ok((decide(1, false, 6, 0) == QUEUE_WAIT) == cases[i].blocks_shared,
		   "shared behind %s", cases[i].key);
		ok(decide(1, true, 4, 0) == QUEUE_GRANTED, "exclusive before %s",
		   cases[i].key);
		ok(decide(1, false, 4, 0) == QUEUE_GRANTED, "shared before %s",
		   cases[i].key);
	}
	ok(decide(0, true, 1, 0) == QUEUE_GRANTED, "nobody there");
	key(0, 5, NAME "/write/77-1");
	ok(decide(1, true, 5, 0) == QUEUE_GRANTED, "a key does not wait for itself");
}

/* The set of those ahead, whatever the order of the answer. */
static void
test_ahead(void)
{
	QueueView	v;
	int			ahead[MAX_KEYS];
	int			n = -1;

	key(0, 9, NAME "/9a");
	key(1, 3, NAME "/read/8-1");
	key(2, 7, NAME "/write/77-2");
	key(3, 5, NAME "/write/9-1");
	key(4, 4, NAME "/deep/write/9-1");
	v = view(5);
	is_int(queue_decide(&v, true, 7, 0, ahead, &n), QUEUE_WAIT, "two are ahead");
	is_int(n, 2, "so many");
	is_int(ahead[0], 1, "the reader");
	is_int(ahead[1], 3, "the writer");

	is_int(queue_decide(&v, false, 7, 0, ahead, &n), QUEUE_WAIT,
		   "a sharer waits for the writer");
	is_int(n, 1, "alone");
	is_int(ahead[0], 3, "which it is");

	is_int(queue_decide(&v, true, 2, 0, ahead, &n), QUEUE_GRANTED, "the first one");
	is_int(n, 0, "has nobody ahead");
}

/* Own read key, foreign writer, own write key: nobody could move. */
static void
test_deadlock(void)
{
	key(0, 3, NAME "/read/77-1");
	key(1, 5, NAME "/write/9-1");
	key(2, 7, NAME "/write/77-2");
	is_int(decide(3, true, 7, 3), QUEUE_DEADLOCK, "an upgrade behind a writer");
	is_int(decide(3, true, 7, 0), QUEUE_WAIT, "none when nobody needs the read key");
	is_int(decide(3, true, 4, 3), QUEUE_GRANTED, "none when we came first");
	is_int(decide(3, false, 7, 3), QUEUE_WAIT, "none for a sharer");

	key(1, 5, NAME "/9a");
	is_int(decide(3, true, 7, 3), QUEUE_DEADLOCK, "a mutex of Go's waits for us too");
	key(1, 5, NAME "/read/9-1");
	is_int(decide(3, true, 7, 3), QUEUE_WAIT, "a reader does not wait for us");
	key(1, 5, NAME "/deeper/9a");
	is_int(decide(3, true, 7, 3), QUEUE_GRANTED, "a deeper name is not in it");
	key(1, 2, NAME "/read/9-1");
	is_int(decide(3, true, 7, 3), QUEUE_WAIT, "a reader that came before is waited for");

	key(1, 2, NAME "/write/9-1");
	is_int(decide(3, true, 7, 3), QUEUE_WAIT, "so is a writer");

	/* a waiting writer anywhere between, with readers around it */
	key(0, 2, NAME "/read/8-1");
	key(1, 3, NAME "/read/77-1");
	key(2, 4, NAME "/read/9-1");
	key(3, 5, NAME "/write/9-2");
	key(4, 6, NAME "/read/8-2");
	is_int(decide(5, true, 7, 3), QUEUE_DEADLOCK, "a writer among readers");
}

static void
test_others(void)
{
	QueueView	v;

	key(0, 5, NAME "/read/9-1");
	v = view(1);
	ok(!queue_is_free(&v, true), "a reader refuses a writer");
	ok(queue_is_free(&v, false), "but not a reader");
	ok(queue_somebody_waits(&v, true, 4), "a reader waits for our write key");
	ok(!queue_somebody_waits(&v, false, 4), "but not for our read key");
	ok(!queue_somebody_waits(&v, true, 6), "one ahead does not wait for us");

	key(0, 5, NAME "/write/9-1");
	ok(!queue_is_free(&v, false), "a writer refuses a reader");
	ok(queue_somebody_waits(&v, false, 4), "a writer waits for our read key");
	key(0, 5, NAME "/write/77-1");
	ok(queue_is_free(&v, true), "an own leftover refuses nobody");
	ok(!queue_somebody_waits(&v, true, 4), "and waits for nobody");
	key(0, 5, NAME "/deeper/write/9-1");
	ok(queue_is_free(&v, true), "a deeper name refuses nobody");
	ok(!queue_somebody_waits(&v, true, 4), "and waits for nobody");
}

/* ----------------------------------------------------------------
 *		The queue seen from outside
 * ----------------------------------------------------------------
 */

static void
split(const char *name, bool good, QueueKeyKind expected_kind, size_t name_len,
	  bool is_server)
{
	QueueKeyParts parts;

	if (!ok(key_layout_split(name, strlen(name), &parts) == good,
			"\"%s\" is %sa lock's", name, good ? "" : "not ") || !good)
		return;
	is_int(parts.kind, expected_kind, "its kind");
	is_int((long long) parts.name_len, (long long) name_len, "its name's length");
	is_int(parts.is_server, is_server, "a server's or not");
}

static void
test_split(void)
{
	QueueKeyParts parts;

	split(NAME "/9a", true, QUEUE_KEY_PLAIN, strlen(NAME), false);
	split(NAME "/read/9a", true, QUEUE_KEY_READ, strlen(NAME), false);
	split(NAME "/write/9a-12", true, QUEUE_KEY_WRITE, strlen(NAME), true);
	split(NAME "/9a-12", true, QUEUE_KEY_PLAIN, strlen(NAME), false);
	split("read/x", true, QUEUE_KEY_PLAIN, 4, false);
	split("x/write", true, QUEUE_KEY_PLAIN, 1, false);
	split("x//read/y", true, QUEUE_KEY_READ, 2, false);
	split("xread/y", true, QUEUE_KEY_PLAIN, 5, false);
	split("//write/1-1", true, QUEUE_KEY_WRITE, 1, true);
	split("x/write/9A-1", true, QUEUE_KEY_WRITE, 1, false);
	split("x/write/-1", true, QUEUE_KEY_WRITE, 1, false);
	split("x/write/1-", true, QUEUE_KEY_WRITE, 1, false);
	split("x/write/1-a", true, QUEUE_KEY_WRITE, 1, false);
	split("x/write/10000000000000000-1", true, QUEUE_KEY_WRITE, 1, false);
	split("x/write/1-18446744073709551616", true, QUEUE_KEY_WRITE, 1, false);
	split("", false, 0, 0, false);
	split("x", false, 0, 0, false);
	split("x/", false, 0, 0, false);
	split("/x", false, 0, 0, false);
	split("/read/x", false, 0, 0, false);
	split("x/read/", false, 0, 0, false);

	(void) key_layout_split("x/read/ff-18446744073709551615", 30, &parts);
	ok(parts.lease == 0xff && parts.serial == UINT64_MAX, "lease and serial");
}

/* The places of the first n keys, as "1t 2f 0", in their order. */
static const char *
places(int n)
{
	static char text[256];
	QueuePlace	place[MAX_KEYS];
	QueueView	v = view(n);

	text[0] = '\0';
	queue_places(&v, place);
	for (int i = 0; i < n; i++)
	{
		size_t		len = strlen(text);

		snprintf(text + len, sizeof(text) - len, "%s%d%s", i > 0 ? " " : "",
				 place[i].position, place[i].position == 0 ? "" :
				 place[i].granted ? "t" : "f");
	}
	return text;
}

static void
test_places(void)
{
	key(0, 1, NAME "/read/1-1");
	key(1, 2, NAME "/read/2-1");
	key(2, 3, NAME "/write/3-1");
	key(3, 4, NAME "/read/4-1");
	is_string(places(4), "1t 2t 3f 4f", "readers, a writer, a reader");

	key(0, 1, NAME "/read/1-1");
	key(1, 2, NAME "/write/1-2");
	key(2, 3, NAME "/write/2-1");
	key(3, 4, NAME "/read/1-3");
	is_string(places(4), "1t 2t 3f 4f", "a server does not wait for itself");
	key(2, 3, NAME "/deeper/write/2-1");
	is_string(places(4), "1t 2t 0 3t", "nor for deeper names");

	key(0, 1, NAME "/deeper/write/2-1");
	key(1, 2, NAME "/1a");
	key(2, 3, NAME "/write/3-1");
	is_string(places(3), "0 1f 2f", "but Go's mutex does");
	key(0, 1, NAME "/1a");
	key(1, 2, NAME "/read/2b");
	key(2, 3, NAME "/write/3c");
	key(3, 4, NAME "/read/4d");
	is_string(places(4), "1t 2t 3f 4f", "Go's readers look at writers only");
	is_string(places(0), "", "nobody");
}

/* Servers see the queue from outside as each sees it from its own place. */
static void
test_places_like_judge(void)
{
	static const char *const name[] = {
		NAME "/read/1-1", NAME "/write/1-2", NAME "/read/2-1", NAME "/write/2-2",
		NAME "/read/3-1", NAME "/write/3-2"
	};
	static const char *const owner[] = {"1-", "1-", "2-", "2-", "3-", "3-"};
	int			differ = 0;

	/* all queues of four of them */
	for (int q = 0; q < 6 * 6 * 6 * 6; q++)
	{
		QueuePlace	place[4];
		QueueView	v = view(4);
		int			rest = q;

		for (int i = 0; i < 4; i++, rest /= 6)
			key(i, i + 1, name[rest % 6]);
		queue_places(&v, place);
		rest = q;
		for (int i = 0; i < 4; i++, rest /= 6)
		{
			v.owner = owner[rest % 6];
			v.owner_len = 2;
			if (place[i].position != i + 1 ||
				place[i].granted != (queue_decide(&v, rest % 2 == 1, i + 1, 0, NULL, NULL) ==
									 QUEUE_GRANTED))
				differ++;
		}
	}
	is_int(differ, 0, "places and judgements agree");
}

/* What is no lock is found where it would be waited for, and only there. */
static void
test_data(void)
{
	QueueView	v = view(4);

	key(0, 5, NAME "/deeper/setting");
	key(1, 6, NAME "/read/x");
	key(2, 7, NAME "/setting");
	key(3, 9, NAME "/write/9-1");
	is_int(queue_find_data(&v, true, 10), -1, "all have leases");
	keys[0].no_lease = true;
	is_int(queue_find_data(&v, true, 10), -1, "a key below a deeper name is not in the way");
	keys[1].no_lease = true;
	is_int(queue_find_data(&v, true, 10), 1, "one below <name>/read/ is");
	is_int(queue_find_data(&v, false, 10), -1, "not for a sharer");
	keys[2].no_lease = true;
	is_int(queue_find_data(&v, false, 10), 2, "one right below the name is for all");
	is_int(queue_find_data(&v, false, 7), -1, "but not if it comes later");
}

/* For how long those ahead of a key at the end of the first n may be kept. */
static int
kept(int n, bool exclusive)
{
	QueueView	v = view(n);

	return (int) queue_kept_ahead(&v, exclusive, INT64_MAX);
}

static void
test_kept(void)
{
	is_int(kept(0, true), 0, "an empty queue: nothing is kept");

	key(0, 5, NAME "/write/1-1-keep200");
	is_int(kept(1, true), 200, "a kept key");
	is_int(kept(1, false), 200, "a kept key, and a sharer");

	key(1, 6, NAME "/write/2-1");
	is_int(kept(2, true), 200, "one waits for it");
	key(1, 4, NAME "/write/2-1");
	is_int(kept(2, true), 0, "one is ahead of it");
	key(1, 6, NAME "/write/1-2");
	is_int(kept(2, true), 0, "one of the same server does not wait for it");
	key(1, 6, NAME "/2");
	is_int(kept(2, true), 200, "another client waits for it");
	keys[1].no_lease = true;
	is_int(kept(2, true), 0, "somebody's data does not");

	key(0, 5, NAME "/read/1-1-keep200");
	key(1, 6, NAME "/read/2-1");
	is_int(kept(2, true), 0, "a sharer does not wait for a kept read key");
	is_int(kept(2, false), 0, "nor is either in a sharer's way");
	key(1, 6, NAME "/write/2-1");
	is_int(kept(2, true), 200, "a writer waits for it");
	is_int(kept(2, false), 0, "and is in a sharer's way by itself");

	key(0, 7, NAME "/write/3-1-keep100");
	key(1, 6, NAME "/write/2-1");
	key(2, 5, NAME "/write/1-1-keep200");
	is_int(kept(3, true), 200, "in any order, the longest");
	key(0, 7, NAME "/write/77-1-keep100");
	key(1, 8, NAME "/write/2-1");
	is_int(kept(2, true), 0, "one of our own is in nobody's way here");
}

static int
older_read(int n, int64_t revision)
{
	QueueView	v = view(n);

	return queue_find_older_read(&v, revision);
}

static bool
is_write_of(int write, int read)
{
	QueueView	v = view(MAX_KEYS);

	return queue_is_write_of(&v, &keys[write], &keys[read]);
}

static void
test_older_read(void)
{
	key(0, 5, NAME "/read/10a1-1");
	key(1, 7, NAME "/write/10a1-2");
	ok(is_write_of(1, 0), "a server's write key and its read key");
	is_int(older_read(2, 7), 0, "the read key came first");
	is_int(older_read(1, 7), 0, "likewise if the write key is gone");
	is_int(older_read(1, 5), -1, "none before itself");
	key(2, 7, NAME "/write/10a2-2");
	ok(!is_write_of(2, 0), "a write key of another lease");
	key(2, 7, NAME "/write/x");
	ok(!is_write_of(2, 0), "a foreign write key");
	key(2, 7, NAME "/read/10a1-2");
	ok(!is_write_of(2, 0), "two read keys");

	key(0, 6, NAME "/read/x");
	key(1, 5, NAME "/read/10a1-1");
	is_int(older_read(2, 7), -1, "none if there is a foreign key, too");
	key(0, 8, NAME "/read/x");
	is_int(older_read(2, 7), 1, "a foreign key that comes later does not matter");
	key(0, 6, NAME "/deeper/read/x");
	is_int(older_read(2, 7), 1, "nor does one of a deeper name");
	key(0, 6, NAME "/read/20a1-1");
	is_int(older_read(2, 7), -1, "none if two servers have one");
	key(0, 6, NAME "/read/77-1");
	is_int(older_read(2, 7), -1, "none beside one of our own");
	is_int(older_read(1, 7), -1, "nor is it our own");
	key(0, 6, NAME "/read/10a2-9");
	is_int(older_read(2, 7), 0, "of one server's the youngest");
	key(0, 4, NAME "/write/10a2-9");
	is_int(older_read(2, 7), 1, "beside a former lease's write key");
	keys[1].no_lease = true;
	is_int(older_read(2, 7), -1, "none without a lease");
}

int
main(void)
{
	test_kinds();
	test_conflicts();
	test_ahead();
	test_deadlock();
	test_others();
	test_split();
	test_data();
	test_kept();
	test_older_read();
	test_places();
	test_places_like_judge();
	return done_testing();
}
