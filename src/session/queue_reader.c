/*-------------------------------------------------------------------------
 *
 * queue_reader.c
 *	  Reading etcd's keys page by page, with the worker's help.
 *
 * A session has no link to etcd, so the worker reads for it.  There is no
 * limit to what there is to read, but shared memory is limited.  So the
 * session gets pages, and asks for the next one when it has copied the last
 * one.  There are a few slots, which sessions take for as long as they read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "session/lock_check.h"
#include "session/queue_reader.h"
#include "shared/lock_text.h"
#include "shared/wait_events.h"
#include "storage/ipc.h"

struct QueueReader
{
	int			slot;
	bool		first;
	bool		last;
	int64		scanned;
	uint32		used;
	uint32		read;			/* bytes of data */
	QueuePageKey current;
	char		data[QUEUE_PAGE_SIZE];
};

static int	my_slot = -1;		/* a session reads one thing at a time */

static void
give_slot_back(void)
{
	if (my_slot < 0)
		return;
	LWLockAcquire(queue_slots->lock, LW_EXCLUSIVE);
	queue_slots->slots[my_slot].state = SLOT_FREE;
	queue_slots->slots[my_slot].id++;
	LWLockRelease(queue_slots->lock);
	slot_turns_release(SLOT_POOL_QUEUE, my_slot);
	my_slot = -1;
}

static void
give_slot_back_at_exit(int code, Datum arg)
{
	give_slot_back();
}

static void
take_slot(void)
{
	QueueSlot  *slot;

	my_slot = slot_turns_take(SLOT_POOL_QUEUE,
							  clock_now() + (int64) etcd_lock_connect_timeout * 1000);
	if (my_slot < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many concurrent readers of etcd_lock_queue()"),
				 errdetail("At most %d sessions can read at a time, and those of one role not by all of these slots.",
						   QUEUE_SLOTS)));
	slot = &queue_slots->slots[my_slot];
	LWLockAcquire(queue_slots->lock, LW_EXCLUSIVE);
	slot->state = SLOT_TAKEN;
	slot->id++;
	slot->procno = compat_my_procno();
	LWLockRelease(queue_slots->lock);
}

/*
 * Read the keys from start up to end (exclusive), or to the last one if end is
 * empty; ns is the namespace of the notes.  Until the caller closes the
 * reader, it must catch errors and close it; the exit of the session closes it
 * automatically.
 */
QueueReader *
queue_reader_open(const char *start, const char *end, const char *ns)
{
	static bool registered = false;
	QueueReader *reader = palloc0(sizeof(QueueReader));
	QueueSlot  *slot;

	if (!registered)
		before_shmem_exit(give_slot_back_at_exit, (Datum) 0);
	registered = true;
	give_slot_back();
	take_slot();

	reader->slot = my_slot;
	reader->first = true;
	slot = &queue_slots->slots[my_slot];
	strlcpy(slot->start, start, sizeof(slot->start));
	strlcpy(slot->end, end, sizeof(slot->end));
	strlcpy(slot->ns, ns, sizeof(slot->ns));
	return reader;
}

void
queue_reader_close(QueueReader *reader)
{
	give_slot_back();
}

/* Copy the page, if it is there. */
static bool
take_page(QueueReader *reader, LockFailure *failure)
{
	QueueSlot  *slot = &queue_slots->slots[reader->slot];
	bool		done;

	LWLockAcquire(queue_slots->lock, LW_SHARED);
	done = slot->state == SLOT_DONE;
	if (done)
	{
		*failure = slot->failure;
		reader->last = slot->last;
		reader->scanned += slot->scanned;
		reader->used = slot->used;
		memcpy(reader->data, slot->data, slot->used);
	}
	LWLockRelease(queue_slots->lock);
	return done;
}

/* How long to wait for a page, milliseconds; less if there is no link to etcd. */
static int
deadlines(void)
{
	if (pg_atomic_read_u32(&lock_shared->link_up) == 0)
		return etcd_lock_connect_timeout;
	return Max(etcd_lock_connect_timeout, 2 * etcd_lock_request_timeout);
}

static void
wait_for_page(QueueReader *reader)
{
	int64		asked_at = clock_now();
	LockFailure failure;

	while (!take_page(reader, &failure))
	{
		CHECK_FOR_INTERRUPTS();
		if (clock_now() - asked_at >= (int64) deadlines() * 1000)
			lock_check_report_unreachable(deadlines());
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100, wait_events_check());
		ResetLatch(MyLatch);
	}
	if (failure.kind != FAILURE_NONE)
		ereport(ERROR,
				(errcode(failure.sqlerrcode),
				 failure.sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ?
				 errmsg("permission denied by etcd to read the queue of etcd locks") :
				 errmsg("could not read the queue of etcd locks"),
				 errdetail("%s", lock_text_etcd_message(failure.message))));
}

bool
queue_reader_next_page(QueueReader *reader)
{
	QueueSlot  *slot = &queue_slots->slots[reader->slot];

	if (reader->last)
		return false;
	LWLockAcquire(queue_slots->lock, LW_EXCLUSIVE);
	slot->first = reader->first;
	slot->state = SLOT_ASKED;
	LWLockRelease(queue_slots->lock);
	lock_table_wake_worker();

	reader->first = false;
	reader->read = 0;
	wait_for_page(reader);
	return true;
}

bool
queue_reader_at_end(const QueueReader *reader)
{
	return reader->last;
}

int64
queue_reader_scanned(const QueueReader *reader)
{
	return reader->scanned;
}

const QueuePageKey *
queue_reader_next_key(QueueReader *reader, const char **key, const char **value)
{
	const QueuePageKey *current = &reader->current;

	if (reader->read >= reader->used)
		return NULL;
	memcpy(&reader->current, reader->data + reader->read, sizeof(QueuePageKey));
	reader->read += MAXALIGN(sizeof(QueuePageKey));
	*key = reader->data + reader->read;
	reader->read += MAXALIGN(current->shown_len);
	*value = reader->data + reader->read;
	reader->read += MAXALIGN(current->value_len);
	return current;
}
