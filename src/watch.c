/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  Watches: etcd tells of deletions as they happen.
 *
 * A watch is opened from now on, never from a revision of the past: etcd
 * serves the latter by a loop that runs every 100 ms.  So it is opened first,
 * and who opened it looks at the keys again once etcd has acknowledged it;
 * from that look on, the watch tells what changes.
 *
 * Each watch is a request on a connection of its own, with one "create" in it:
 * of several in one HTTP/1.1 request etcd may lose all but the first.
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#include "etcd_stream.h"
#include "utils/memutils.h"

/*
 * Longest message, bytes: the deletion of a thousand keys at once.  Beyond it
 * the watch ends, and the queue is read instead.
 */
#define MAX_MESSAGE			(256 * 1024)

#define CONNECT_TIMEOUT		2000	/* milliseconds */

struct Watch
{
	const WatchCallbacks *callbacks;
	void	   *arg;
	LinkCall   *call;
	EtcdStream	stream;
	uint64		generation;		/* of the link it was opened on */
	bool		created;		/* acknowledged by etcd */
	int64		revision;		/* as of then: it tells what comes behind */
	bool		in_feed;		/* stream is in use: close later */
	bool		doomed;
	bool		closed;			/* by its owner, who is not to be called */
};

static int	nwatches = 0;

int
watch_count(void)
{
	return nwatches;
}

/* Acknowledged by etcd? */
bool
watch_is_open(const Watch *watch)
{
	return watch != NULL && watch->created && !watch->doomed;
}

/*
 * Does it tell of each deletion behind this revision?  Not of those between an
 * answer that is older than the watch and the watch.
 */
bool
watch_covers(const Watch *watch, int64 revision)
{
	return watch_is_open(watch) && revision >= watch->revision;
}

/* On the endpoint that is in use now? */
bool
watch_is_current(const Watch *watch)
{
	return watch->generation == link_generation();
}

static void
free_watch(Watch *watch)
{
	const WatchCallbacks *callbacks = watch->callbacks;
	void	   *arg = watch->arg;
	bool		closed = watch->closed;

	etcd_stream_free(&watch->stream);
	pfree(watch);
	nwatches--;
	if (!closed)
		callbacks->ended(arg);
}

/* The owner needs it no more; "ended" is not called. */
void
watch_close(Watch *watch)
{
	watch->doomed = true;
	watch->closed = true;
	if (watch->in_feed)
		return;
	link_cancel(watch->call);
	free_watch(watch);
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
				(errmsg_internal("etcd_lock: a watch failed: %s", error.message)));
		watch->doomed = true;
		return;
	}

	/* canceled may come together with created: then it was refused */
	if (msg.canceled || msg.compact_revision != 0)
	{
		watch->doomed = true;
		if (msg.canceled)
			link_watch_refused(watch->call, msg.cancel_reason);
	}
	else if (msg.created)
	{
		watch->created = true;
		watch->revision = msg.header.revision;
		watch->callbacks->created(watch->arg);
	}
	for (int i = 0; i < msg.nevents && !watch->doomed; i++)
	{
		const EtcdEvent *event = &msg.events[i];

		if (event->type == ETCD_EVENT_DELETE)
			watch->callbacks->deleted(watch->arg, event->kv.key,
									  event->kv.key_len,
									  event->kv.mod_revision);
		else if (watch->callbacks->put != NULL)
			watch->callbacks->put(watch->arg, &event->kv);
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
		link_cancel(watch->call);
		free_watch(watch);
	}
}

static void
done(void *arg, const EtcdAnswer *answer)
{
	free_watch(arg);
}

/* NULL when it could not be sent; then nothing will be called. */
Watch *
watch_open(const EtcdRange *range, const WatchCallbacks *callbacks, void *arg)
{
	static const EtcdCallbacks transport_callbacks = {data, done};
	Watch	   *watch;

	watch = MemoryContextAllocZero(TopMemoryContext, sizeof(Watch));
	watch->callbacks = callbacks;
	watch->arg = arg;
	watch->generation = link_generation();
	etcd_stream_init(&watch->stream, MAX_MESSAGE);
	nwatches++;
	watch->call = link_call(ETCD_PATH_WATCH,
							etcd_encode_watch_create(range, callbacks->put == NULL),
							CONNECT_TIMEOUT, &transport_callbacks, watch);
	if (watch->call == NULL)
	{
		watch->closed = true;
		free_watch(watch);
		return NULL;
	}
	return watch;
}
