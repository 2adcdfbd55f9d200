/*-------------------------------------------------------------------------
 *
 * deadlock_probe.c
 *	  A path of waits through several servers, as they pass it on.
 *
 * A message is in Protocol Buffers, with no schema elsewhere.  Unknown fields
 * are skipped, so that later versions can say more.  Anybody who may write
 * below a sentinel can put a message, so every number and length is checked.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/deadlock_probe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "etcd/etcd_api.h"
#include "etcd/pb.h"

enum
{
	PROBE_ROUND = 1,
	PROBE_NUMBER,
	PROBE_TO,
	PROBE_AT,
	PROBE_TELLS_NAMES,
	PROBE_NAMES_NS,
	PROBE_HOP
};

enum
{
	HOP_LEASE = 1,
	HOP_NS,
	HOP_HELD,
	HOP_WANTED,
	HOP_EXCLUSIVE,
	HOP_SERVER,
	HOP_PROCESS
};

enum
{
	PROCESS_PID = 1,
	PROCESS_WAIT,
	PROCESS_KIND,
	PROCESS_MODE,
	PROCESS_TAG,
	PROCESS_NAME
};

enum
{
	KEY_SERIAL = 1,
	KEY_REVISION
};

/* No lock mode of PostgreSQL's is higher. */
#define MAX_MODE		15

#define TAG_FIELDS		6

/* ----------------------------------------------------------------
 *		Writing
 * ----------------------------------------------------------------
 */

static void
write_text(PbWriter *writer, int field, const char *text)
{
	pb_write_bytes(writer, field, text, strlen(text));
}

static void
write_key(PbWriter *writer, int field, const DeadlockKey *key)
{
	size_t		opened = pb_write_open(writer, field);

	pb_write_int(writer, KEY_SERIAL, (int64_t) key->serial);
	pb_write_int(writer, KEY_REVISION, key->create_revision);
	pb_write_close(writer, opened);
}

static void
write_process(PbWriter *writer, const DeadlockProcess *process)
{
	size_t		opened = pb_write_open(writer, HOP_PROCESS);

	pb_write_int(writer, PROCESS_PID, process->pid);
	pb_write_int(writer, PROCESS_WAIT, (int64_t) process->wait);
	pb_write_int(writer, PROCESS_KIND, process->kind);
	pb_write_int(writer, PROCESS_MODE, process->mode);
	for (int i = 0; process->kind == DEADLOCK_WAIT_TAG && i < TAG_FIELDS; i++)
		pb_write_int_always(writer, PROCESS_TAG, process->tag[i]);
	write_text(writer, PROCESS_NAME, process->name);
	pb_write_close(writer, opened);
}

static void
write_hop(PbWriter *writer, const DeadlockHop *hop, const DeadlockProcess *processes)
{
	size_t		opened = pb_write_open(writer, PROBE_HOP);

	pb_write_int(writer, HOP_LEASE, (int64_t) hop->lease);
	write_text(writer, HOP_NS, hop->ns);
	write_key(writer, HOP_HELD, &hop->held);
	write_key(writer, HOP_WANTED, &hop->wanted);
	pb_write_int(writer, HOP_EXCLUSIVE, hop->exclusive);
	write_text(writer, HOP_SERVER, hop->server);
	for (int i = 0; i < hop->nprocesses; i++)
		write_process(writer, &processes[i]);
	pb_write_close(writer, opened);
}

unsigned char *
deadlock_probe_encode(const DeadlockProbe *probe, size_t *len)
{
	PbWriter	writer;
	int			process = 0;

	if (!pb_write_start(&writer, 512))
		return NULL;
	pb_write_int(&writer, PROBE_ROUND, probe->round);
	pb_write_int(&writer, PROBE_NUMBER, (int64_t) probe->number);
	write_key(&writer, PROBE_TO, &probe->to);
	pb_write_int(&writer, PROBE_AT, probe->at);
	pb_write_int(&writer, PROBE_TELLS_NAMES, probe->tells_names);
	write_text(&writer, PROBE_NAMES_NS, probe->names_ns);
	for (int i = 0; i < probe->nhops; i++)
	{
		write_hop(&writer, &probe->hops[i], &probe->processes[process]);
		process += probe->hops[i].nprocesses;
	}
	assert(process == probe->nprocesses);
	if (writer.failed || writer.len > DEADLOCK_PROBE_MAX_SIZE)
	{
		free(writer.data);
		return NULL;
	}
	*len = writer.len;
	return writer.data;
}

/* ----------------------------------------------------------------
 *		Reading
 * ----------------------------------------------------------------
 */

/* A field of the wrong kind is as bad as a broken one. */
static uint64_t
read_int(PbReader *reader, const PbField *field, uint64_t max)
{
	if (field->wire != PB_VARINT || field->value > max)
	{
		reader->broken = true;
		return 0;
	}
	return field->value;
}

static void
read_text(PbReader *reader, const PbField *field, char *text, size_t size)
{
	if (field->wire != PB_BYTES || field->len >= size ||
		memchr(field->data, '\0', field->len) != NULL)
	{
		reader->broken = true;
		return;
	}
	memcpy(text, field->data, field->len);
	text[field->len] = '\0';
}

/* Open a nested message. */
static bool
open_message(PbReader *reader, const PbField *field, PbReader *inner)
{
	if (field->wire != PB_BYTES)
	{
		reader->broken = true;
		return false;
	}
	pb_read_start(inner, field->data, field->len);
	return true;
}

static void
read_key(PbReader *reader, const PbField *field, DeadlockKey *key)
{
	PbReader	inner;
	PbField		part;

	memset(key, 0, sizeof(*key));
	if (!open_message(reader, field, &inner))
		return;
	while (pb_read(&inner, &part))
	{
		if (part.number == KEY_SERIAL)
			key->serial = read_int(&inner, &part, UINT64_MAX);
		else if (part.number == KEY_REVISION)
			key->create_revision = (int64_t) read_int(&inner, &part, ETCD_MAX_REVISION);
	}
	reader->broken |= inner.broken;
}

static void
read_process(PbReader *reader, const PbField *field, DeadlockProcess *process)
{
	PbReader	inner;
	PbField		part;
	int			ntags = 0;

	if (!open_message(reader, field, &inner))
		return;
	while (pb_read(&inner, &part))
	{
		if (part.number == PROCESS_PID)
			process->pid = (int32_t) read_int(&inner, &part, INT32_MAX);
		else if (part.number == PROCESS_WAIT)
			process->wait = read_int(&inner, &part, UINT64_MAX);
		else if (part.number == PROCESS_KIND)
			process->kind = (DeadlockWaitKind) read_int(&inner, &part, DEADLOCK_WAIT_NAME);
		else if (part.number == PROCESS_MODE)
			process->mode = (int) read_int(&inner, &part, MAX_MODE);
		else if (part.number == PROCESS_TAG && ntags < TAG_FIELDS)
			process->tag[ntags++] = (uint32_t) read_int(&inner, &part, UINT32_MAX);
		else if (part.number == PROCESS_NAME)
			read_text(&inner, &part, process->name, sizeof(process->name));
	}
	reader->broken |= inner.broken || process->pid == 0 ||
		(process->kind == DEADLOCK_WAIT_TAG && ntags != TAG_FIELDS);
}

static void
read_hop(PbReader *reader, const PbField *field, DeadlockProbe *probe)
{
	DeadlockHop *hop = deadlock_probe_add_hop(probe);
	DeadlockProcess *process;
	PbReader	inner;
	PbField		part;

	if (hop == NULL || !open_message(reader, field, &inner))
	{
		reader->broken = true;
		return;
	}
	while (pb_read(&inner, &part))
	{
		if (part.number == HOP_LEASE)
			hop->lease = read_int(&inner, &part, INT64_MAX);
		else if (part.number == HOP_NS)
			read_text(&inner, &part, hop->ns, sizeof(hop->ns));
		else if (part.number == HOP_HELD)
			read_key(&inner, &part, &hop->held);
		else if (part.number == HOP_WANTED)
			read_key(&inner, &part, &hop->wanted);
		else if (part.number == HOP_EXCLUSIVE)
			hop->exclusive = read_int(&inner, &part, 1) != 0;
		else if (part.number == HOP_SERVER)
			read_text(&inner, &part, hop->server, sizeof(hop->server));
		else if (part.number == HOP_PROCESS)
		{
			process = deadlock_probe_add_process(probe);
			if (process == NULL)
				inner.broken = true;
			else
				read_process(&inner, &part, process);
		}
	}
	reader->broken |= inner.broken || hop->lease == 0 || hop->wanted.create_revision == 0;
}

/* All but the first hop of a first round have their processes; nor is one left out. */
static bool
is_whole(const DeadlockProbe *probe)
{
	if (probe->nhops == 0 || probe->number == 0)
		return false;
	if (probe->round == 1)
	{
		if (probe->to.create_revision == 0 || probe->hops[0].nprocesses != 0)
			return false;
	}
	else if (probe->round != 2 || probe->at >= probe->nhops || probe->nhops < 2)
		return false;
	for (int i = probe->round == 1 ? 1 : 0; i < probe->nhops; i++)
	{
		if (probe->hops[i].nprocesses == 0 || probe->hops[i].held.create_revision == 0)
			return false;
	}
	return true;
}

bool
deadlock_probe_decode(const void *data, size_t len, DeadlockProbe *probe)
{
	PbReader	reader;
	PbField		field;

	memset(probe, 0, sizeof(*probe));
	if (len > DEADLOCK_PROBE_MAX_SIZE)
		return false;
	pb_read_start(&reader, data, len);
	while (pb_read(&reader, &field))
	{
		if (field.number == PROBE_ROUND)
			probe->round = (int) read_int(&reader, &field, 2);
		else if (field.number == PROBE_NUMBER)
			probe->number = read_int(&reader, &field, UINT64_MAX);
		else if (field.number == PROBE_TO)
			read_key(&reader, &field, &probe->to);
		else if (field.number == PROBE_AT)
			probe->at = (int) read_int(&reader, &field, DEADLOCK_PROBE_MAX_HOPS);
		else if (field.number == PROBE_TELLS_NAMES)
			probe->tells_names = read_int(&reader, &field, 1) != 0;
		else if (field.number == PROBE_NAMES_NS)
			read_text(&reader, &field, probe->names_ns, sizeof(probe->names_ns));
		else if (field.number == PROBE_HOP)
			read_hop(&reader, &field, probe);
	}
	return !reader.broken && is_whole(probe);
}

/* ----------------------------------------------------------------
 *		The path
 * ----------------------------------------------------------------
 */

DeadlockHop *
deadlock_probe_add_hop(DeadlockProbe *probe)
{
	DeadlockHop *hop;

	if (probe->nhops == DEADLOCK_PROBE_MAX_HOPS)
		return NULL;
	hop = &probe->hops[probe->nhops++];
	memset(hop, 0, sizeof(*hop));
	return hop;
}

DeadlockProcess *
deadlock_probe_add_process(DeadlockProbe *probe)
{
	DeadlockProcess *process;

	if (probe->nhops == 0 || probe->nprocesses == DEADLOCK_PROBE_MAX_PROCESSES)
		return NULL;
	process = &probe->processes[probe->nprocesses++];
	memset(process, 0, sizeof(*process));
	probe->hops[probe->nhops - 1].nprocesses++;
	return process;
}

int
deadlock_probe_first_process(const DeadlockProbe *probe, int hop)
{
	int			first = 0;

	assert(hop <= probe->nhops);
	for (int i = 0; i < hop; i++)
		first += probe->hops[i].nprocesses;
	return first;
}

static bool
same_key(const DeadlockKey *a, const DeadlockKey *b)
{
	return a->serial == b->serial && a->create_revision == b->create_revision;
}

/* Keys of one Txn have one revision. */
static bool
is_younger(uint64_t lease_a, const DeadlockKey *a, uint64_t lease_b, const DeadlockKey *b)
{
	if (a->create_revision != b->create_revision)
		return a->create_revision > b->create_revision;
	if (lease_a != lease_b)
		return lease_a > lease_b;
	return a->serial > b->serial;
}

DeadlockVerdict
deadlock_probe_decide(const DeadlockProbe *probe, uint64_t lease, const DeadlockKey *wanted)
{
	const DeadlockHop *first = &probe->hops[0];

	assert(probe->nhops > 0);
	if (first->lease == lease && same_key(&first->wanted, wanted))
		return DEADLOCK_CLOSED;
	if (is_younger(lease, wanted, first->lease, &first->wanted))
		return DEADLOCK_DROPPED;
	for (int i = 1; i < probe->nhops; i++)
	{
		if (probe->hops[i].lease == lease && same_key(&probe->hops[i].wanted, wanted))
			return DEADLOCK_DROPPED;
	}
	return DEADLOCK_GOES_ON;
}

bool
deadlock_probe_close(DeadlockProbe *probe, const DeadlockKey *held,
					 const DeadlockProcess *processes, int nprocesses)
{
	assert(probe->nhops > 0 && probe->hops[0].nprocesses == 0);
	if (probe->nprocesses + nprocesses > DEADLOCK_PROBE_MAX_PROCESSES)
		return false;
	memmove(&probe->processes[nprocesses], &probe->processes[0],
			(size_t) probe->nprocesses * sizeof(DeadlockProcess));
	memcpy(&probe->processes[0], processes, (size_t) nprocesses * sizeof(DeadlockProcess));
	probe->nprocesses += nprocesses;
	probe->hops[0].nprocesses = nprocesses;
	probe->hops[0].held = *held;
	return true;
}

static bool
same_hop(const DeadlockHop *a, const DeadlockHop *b)
{
	return a->lease == b->lease && strcmp(a->ns, b->ns) == 0 &&
		same_key(&a->held, &b->held) && same_key(&a->wanted, &b->wanted) &&
		a->exclusive == b->exclusive && a->nprocesses == b->nprocesses;
}

bool
deadlock_probe_same_path(const DeadlockProbe *a, const DeadlockProbe *b)
{
	if (a->nhops != b->nhops || a->nprocesses != b->nprocesses)
		return false;
	for (int i = 0; i < a->nhops; i++)
	{
		if (!same_hop(&a->hops[i], &b->hops[i]))
			return false;
	}
	for (int i = 0; i < a->nprocesses; i++)
	{
		if (a->processes[i].pid != b->processes[i].pid ||
			a->processes[i].wait != b->processes[i].wait)
			return false;
	}
	return true;
}
