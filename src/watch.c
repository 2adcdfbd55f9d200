/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  Watches on the names that somebody here waits for.
 *
 * A watch is opened from now on, never from a revision of the past: etcd
 * serves the latter by a loop that runs every 100 ms.  So it is opened first,
 * and the queue is looked at again once etcd has acknowledged it; from that
 * look on, the watch tells what changes.
 *
 * Each watch is a request on a connection of its own.  Beyond MAX_WATCHES
 * the queue is looked at regularly instead (names.c).
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "etcd_stream.h"
#include "utils/memutils.h"

#define MAX_WATCHES			128
#define MAX_MESSAGE			(16 * 1024 * 1024)	/* bytes */
#define CONNECT_TIMEOUT		2000	/* milliseconds */
#define RETRY_PAUSE			INT64CONST(200000)	/* microseconds */

typedef struct Watch
{
	WorkerName *name;
	EtcdRequest *request;
	EtcdStream	stream;
	uint64		generation;		/* of the link it was opened on */
	bool		created;		/* acknowledged by etcd */
	bool		in_feed;		/* stream is in use: close later */
	bool		doomed;
} Watch;

static int	nwatches = 0;

int
watch_count(void)
{
	return nwatches;
}

bool
watch_is_open(const WorkerName *name)
{
	return name->watch != NULL && name->watch->created &&
		!name->watch->doomed;
}

static void
forget(Watch *watch)
{
	WorkerName *name = watch->name;

	if (name->watch == watch)
	{
		name->watch = NULL;
		name->watch_retry_at = clock_now() + RETRY_PAUSE;
		name_watch_ended(name);
	}
	etcd_stream_free(&watch->stream);
	pfree(watch);
	nwatches--;
}

void
watch_close(WorkerName *name)
{
	Watch	   *watch = name->watch;

	if (watch == NULL)
		return;
	watch->doomed = true;
	if (watch->in_feed)
		return;
	etcd_transport_cancel(watch->request);
	forget(watch);
}

/* One message of the stream. */
static void
message(void *arg, const char *text, size_t len)
{
	Watch	   *watch = arg;
	EtcdWatchMessage msg;
	EtcdError	error;

	if (watch->doomed)
		return;
	if (!etcd_decode_watch(text, len, &msg, &error))
	{
		ereport(DEBUG1,
				(errmsg_internal("etcd_lock: watch of \"%s\" failed: %s",
								 watch->name->name, error.message)));
		watch->doomed = true;
		return;
	}

	/* canceled may come together with created: then it was refused */
	if (msg.canceled || msg.compact_revision != 0)
		watch->doomed = true;
	else if (msg.created)
	{
		watch->created = true;
		requests_range(watch->name);
	}
	for (int i = 0; i < msg.nevents && !watch->doomed; i++)
	{
		const EtcdEvent *event = &msg.events[i];

		if (event->type == ETCD_EVENT_DELETE)
			name_key_deleted(watch->name, event->kv.key, event->kv.key_len,
							 event->kv.mod_revision);
	}
	etcd_watch_message_free(&msg);
}

static void
data(void *arg, const char *bytes, size_t len)
{
	Watch	   *watch = arg;
	bool		good;

	watch->in_feed = true;
	good = etcd_stream_feed(&watch->stream, bytes, len, message, watch);
	watch->in_feed = false;
	if (!good || watch->doomed)
	{
		etcd_transport_cancel(watch->request);
		forget(watch);
	}
}

static void
done(void *arg, const EtcdAnswer *answer)
{
	forget(arg);
}

/* Watch the name, unless it is watched already or there are too many. */
void
watch_name(WorkerName *name)
{
	static const EtcdCallbacks callbacks = {data, done};
	EtcdRange	range;
	Watch	   *watch;

	if (name->watch != NULL)
	{
		if (name->watch->generation == link_generation())
			return;
		watch_close(name);
	}
	if (nwatches >= MAX_WATCHES || name->watch != NULL ||
		clock_now() < name->watch_retry_at || !link_ready())
		return;

	watch = MemoryContextAllocZero(TopMemoryContext, sizeof(Watch));
	watch->name = name;
	watch->generation = link_generation();
	etcd_stream_init(&watch->stream, MAX_MESSAGE);
	range.key = name->prefix;
	range.key_len = name->name_len + 1;
	range.end = name->prefix_end;
	range.end_len = name->name_len + 1;
	nwatches++;
	name->watch = watch;
	watch->request = link_call(ETCD_PATH_WATCH,
							   etcd_encode_watch_create(&range, true),
							   CONNECT_TIMEOUT, &callbacks, watch);
	if (watch->request == NULL)
		forget(watch);
}
