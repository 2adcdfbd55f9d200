/*-------------------------------------------------------------------------
 *
 * test_deadlock_probe.c
 *	  Paths of waits through several servers: written and read, followed and dropped.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "etcd/deadlock_probe.h"
#include "etcd/pb.h"
#include "tap.h"

static DeadlockProbe probe;

static void
set_text(char *text, size_t size, char c)
{
	memset(text, c, size - 1);
	text[size - 1] = '\0';
}

/* As it begins: server 1 waits by a key of revision 100 for key 21 of server 2. */
static void
begin(void)
{
	DeadlockHop *hop;

	memset(&probe, 0, sizeof(probe));
	probe.round = 1;
	probe.number = UINT64_MAX;
	probe.to = (DeadlockKey) {.serial = 21, .create_revision = 50};
	hop = deadlock_probe_add_hop(&probe);
	hop->lease = 1;
	hop->wanted = (DeadlockKey) {.serial = 11, .create_revision = 100};
	hop->exclusive = true;
}

/* One server more, which waits by a key of this revision. */
static DeadlockHop *
add_hop(uint64_t lease, int64_t revision, int nprocesses)
{
	DeadlockHop *hop = deadlock_probe_add_hop(&probe);

	if (hop == NULL)
		return NULL;
	hop->lease = lease;
	hop->held = (DeadlockKey) {.serial = lease * 10 + 1, .create_revision = 50};
	hop->wanted = (DeadlockKey) {.serial = lease * 10 + 2, .create_revision = revision};
	for (int i = 0; i < nprocesses; i++)
	{
		DeadlockProcess *process = deadlock_probe_add_process(&probe);

		if (process == NULL)
			return NULL;
		process->pid = (int32_t) lease * 100 + i;
		process->wait = UINT64_MAX - (uint64_t) i;
	}
	return hop;
}

/* Written and read again, it is as it was; returns the message's length. */
static size_t
goes_through(const char *what)
{
	static DeadlockProbe read;
	size_t		len = 0;
	unsigned char *data = deadlock_probe_encode(&probe, &len);
	bool		ok = data != NULL && deadlock_probe_decode(data, len, &read);

	ok(ok && deadlock_probe_same_path(&probe, &read) && read.number == probe.number &&
	   read.round == probe.round && read.at == probe.at &&
	   read.to.serial == probe.to.serial &&
	   read.to.create_revision == probe.to.create_revision &&
	   read.tells_names == probe.tells_names &&
	   strcmp(read.names_ns, probe.names_ns) == 0, "%s is read as it was written", what);
	for (int i = 0; i < probe.nprocesses; i++)
	{
		if (memcmp(&read.processes[i], &probe.processes[i], sizeof(DeadlockProcess)) != 0)
			ok(false, "%s: process %d", what, i);
	}
	for (int i = 0; i < probe.nhops; i++)
	{
		if (strcmp(read.hops[i].server, probe.hops[i].server) != 0)
			ok(false, "%s: server %d", what, i);
	}
	free(data);
	return len;
}

static void
is_refused(const char *what)
{
	static DeadlockProbe read;
	size_t		len;
	unsigned char *data = deadlock_probe_encode(&probe, &len);

	ok(data != NULL && !deadlock_probe_decode(data, len, &read), "%s is refused", what);
	free(data);
}

static void
make_second_round(void)
{
	begin();
	probe.round = 2;
	probe.hops[0].held = (DeadlockKey) {.serial = 12, .create_revision = 40};
	deadlock_probe_add_process(&probe)->pid = 100;
	add_hop(2, 90, 2);
	probe.at = 1;
}

static void
test_messages(void)
{
	begin();
	goes_through("the beginning");
	add_hop(2, 90, 3);
	add_hop(3, 80, 1);
	goes_through("a path");

	make_second_round();
	probe.tells_names = true;
	strcpy(probe.names_ns, "tenant/");
	strcpy(probe.hops[1].server, "second");
	probe.processes[1].kind = DEADLOCK_WAIT_TAG;
	probe.processes[1].mode = 5;
	for (int i = 0; i < 6; i++)
		probe.processes[1].tag[i] = UINT32_MAX - i;
	probe.processes[2].kind = DEADLOCK_WAIT_NAME;
	probe.processes[2].mode = 7;
	strcpy(probe.processes[2].name, "/jobs/report");
	goes_through("a second round");
}

static void
test_bounds(void)
{
	size_t		len;

	make_second_round();
	while (probe.nhops < DEADLOCK_PROBE_MAX_HOPS)
		add_hop(100 + probe.nhops, 1, 1);
	while (deadlock_probe_add_process(&probe) != NULL)
		probe.processes[probe.nprocesses - 1].pid = INT32_MAX;
	ok(deadlock_probe_add_hop(&probe) == NULL, "a path has no room for ever");
	set_text(probe.names_ns, sizeof(probe.names_ns), 'n');
	for (int i = 0; i < probe.nhops; i++)
	{
		probe.hops[i].lease = INT64_MAX;
		set_text(probe.hops[i].ns, sizeof(probe.hops[i].ns), 'n');
		set_text(probe.hops[i].server, sizeof(probe.hops[i].server), 's');
		probe.hops[i].held.serial = UINT64_MAX;
		probe.hops[i].wanted.serial = UINT64_MAX;
	}
	for (int i = 0; i < probe.nprocesses; i++)
	{
		probe.processes[i].wait = UINT64_MAX;
		probe.processes[i].kind = DEADLOCK_WAIT_TAG;
		memset(probe.processes[i].tag, 0xff, sizeof(probe.processes[i].tag));
		set_text(probe.processes[i].name, sizeof(probe.processes[i].name), 'x');
	}
	len = goes_through("the longest one");
	ok(len > DEADLOCK_PROBE_MAX_SIZE / 2, "which has %zu bytes", len);
}

static void
test_refused(void)
{
	static DeadlockProbe read;
	PbWriter	writer;

	begin();
	probe.number = 0;
	is_refused("one without a number");
	begin();
	probe.nhops = 0;
	is_refused("one without a path");
	begin();
	probe.to.create_revision = 0;
	is_refused("one to no key");
	begin();
	probe.round = 0;
	is_refused("one of no round");
	begin();
	probe.hops[0].lease = 0;
	is_refused("a server without a lease");
	begin();
	add_hop(2, 90, 0);
	is_refused("a server without a process");
	begin();
	add_hop(2, 90, 1);
	probe.processes[0].pid = 0;
	is_refused("a process without a number");
	begin();
	probe.hops[0].wanted.create_revision = INT64_C(1) << 43;
	is_refused("a revision that is none");
	make_second_round();
	probe.at = 2;
	is_refused("a place behind the end");

	ok(!deadlock_probe_decode("", 0, &read), "nothing is refused");
	ok(!deadlock_probe_decode("\x0a", 1, &read), "half a field is refused");
	pb_write_start(&writer, 100);
	pb_write_bytes(&writer, 1, "x", 1);
	ok(!deadlock_probe_decode(writer.data, writer.len, &read), "a text for a number is refused");
	free(writer.data);
}

static void
test_verdicts(void)
{
	DeadlockKey key = {.serial = 11, .create_revision = 100};

	begin();
	add_hop(2, 90, 1);
	ok(deadlock_probe_decide(&probe, 1, &key) == DEADLOCK_CLOSED,
	   "it has come back to where it began");
	ok(deadlock_probe_decide(&probe, 3, &key) == DEADLOCK_DROPPED,
	   "of two with one revision only one goes on: the higher lease looks for itself");
	key.serial = 10;
	ok(deadlock_probe_decide(&probe, 1, &key) == DEADLOCK_GOES_ON,
	   "... and the lower serial of a lease is the older one");
	key.create_revision = 101;
	ok(deadlock_probe_decide(&probe, 2, &key) == DEADLOCK_DROPPED,
	   "a younger wait looks for itself");
	key.create_revision = 99;
	ok(deadlock_probe_decide(&probe, 2, &key) == DEADLOCK_GOES_ON, "an older one goes on");
	ok(deadlock_probe_decide(&probe, 2, &probe.hops[1].wanted) == DEADLOCK_DROPPED,
	   "a cycle without its beginning is not followed for ever");
}

/* Whatever a message says, and wherever it is cut: one path or none. */
static void
test_same_path(void)
{
	static DeadlockProbe other;

	make_second_round();
	other = probe;
	strcpy(other.processes[0].name, "told");
	strcpy(other.hops[0].server, "told");
	ok(deadlock_probe_same_path(&probe, &other), "what is told is not looked at");
	other.processes[1].wait--;
	ok(!deadlock_probe_same_path(&probe, &other), "another wait is another path");
	other = probe;
	other.hops[1].wanted.create_revision++;
	ok(!deadlock_probe_same_path(&probe, &other), "so is another key");
	other = probe;
	strcpy(other.hops[1].ns, "elsewhere");
	ok(!deadlock_probe_same_path(&probe, &other), "... or another namespace");
	ok(deadlock_probe_first_process(&probe, 0) == 0 &&
	   deadlock_probe_first_process(&probe, 1) == 1, "each hop has its processes");
}

int
main(void)
{
	test_messages();
	test_bounds();
	test_refused();
	test_verdicts();
	test_same_path();
	return done_testing();
}
