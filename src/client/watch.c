/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  Watches: etcd reports deletions as they happen.
 *
 * A watch always starts from now, never from a past revision, because etcd
 * serves the latter in a loop that runs every 100 ms.  So the owner opens it
 * first, and reads the keys again once etcd has acknowledged it; from that
 * read on, the watch shows what changes.
 *
 * All watches share one stream; each has an id that is never used again.  A
 * watch that etcd refuses, cancels or can no longer serve (compaction) ends
 * alone; all end with the stream.  Etcd acknowledges them in the order in
 * which they were requested, and may not say which one it refuses: so we keep
 * the order, and a watch that is closed before it was acknowledged waits for
 * that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/etcd_client.h"
#include "client/link.h"
#include "client/watch.h"
#include "etcd/etcd_response.h"
#include "lib/ilist.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/*
 * Longest message, bytes.  Etcd splits messages that are longer than 2 MB; if
 * one is longer than this, the stream ends, and the queues are read instead.
 */
#define MAX_MESSAGE			(4 * 1024 * 1024)

/*
 * Watches that their owners have closed, and that etcd has not acknowledged.  If
 * there are more, it has stalled, and would fill our memory with them.
 */
#define MAX_CLOSED			10000

struct Watch
{
	dlist_node	node;			/* of "pending" or "open" */
	int64		id;
	const WatchCallbacks *callbacks;
	void	   *arg;
	bool		created;		/* acknowledged by etcd */
	bool		closed;			/* by its owner, which must not be called any
								 * more */
	int64		revision;		/* when it was created: it shows what comes
								 * after */
	uint64		generation;		/* of the link it was opened on */
};

typedef struct WatchEntry
{
	int64		id;
	Watch	   *watch;
} WatchEntry;

struct Watches
{
	LinkStream *stream;
	uint64		stream_generation;	/* of the link that it was opened on */
	dlist_head	pending;		/* in the order in which they were requested */
	dlist_head	open;
	HTAB	   *watches;		/* all of both lists, by their ids */
	int64		last_id;
	int			nwatches;		/* without those that are closed */
};

#define MyWatches (MyClient->watches)

void
watch_create(void)
{
	MyWatches = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Watches));
	dlist_init(&MyWatches->pending);
	dlist_init(&MyWatches->open);
}

int
watch_count(void)
{
	return MyWatches->nwatches;
}

/* Acknowledged by etcd? */
bool
watch_is_open(const Watch *watch)
{
	return watch != NULL && watch->created;
}

/*
 * Does it show each deletion after this revision?  It does not show those
 * between an older response and the beginning of the watch.
 */
bool
watch_covers(const Watch *watch, int64 revision)
{
	return watch_is_open(watch) && revision >= watch->revision;
}

/* Is it on the connection that is in use now? */
bool
watch_is_current(const Watch *watch)
{
	return watch->generation == link_generation();
}

/* ----------------------------------------------------------------
 *		The table
 * ----------------------------------------------------------------
 */

static void
add_watch(Watch *watch)
{
	WatchEntry *entry;
	bool		found;

	if (MyWatches->watches == NULL)
	{
		HASHCTL		control = {
			.keysize = sizeof(int64),.entrysize = sizeof(WatchEntry),
			.hcxt = TopMemoryContext
		};

		MyWatches->watches = hash_create("etcd_lock watches", 256, &control,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(MyWatches->watches, &watch->id, HASH_ENTER, &found);
	Assert(!found);
	entry->watch = watch;
	dlist_push_tail(&MyWatches->pending, &watch->node);
	MyWatches->nwatches++;
}

static Watch *
find_watch(int64 id)
{
	WatchEntry *entry = MyWatches->watches == NULL ? NULL :
		hash_search(MyWatches->watches, &id, HASH_FIND, NULL);

	return entry == NULL ? NULL : entry->watch;
}

/* The watch has ended; tell its owner, unless the owner has closed it. */
static void
free_watch(Watch *watch)
{
	const WatchCallbacks *callbacks = watch->callbacks;
	void	   *arg = watch->arg;
	bool		closed = watch->closed;

	hash_search(MyWatches->watches, &watch->id, HASH_REMOVE, NULL);
	dlist_delete(&watch->node);
	pfree(watch);
	if (closed)
		return;
	MyWatches->nwatches--;
	Assert(MyWatches->nwatches >= 0);
	callbacks->ended(arg);
}

/* ----------------------------------------------------------------
 *		The stream
 * ----------------------------------------------------------------
 */

/*
 * The stream has ended, or is useless.  Callbacks may open other watches
 * meanwhile, on another stream.
 */
static void
end_stream(void)
{
	dlist_head	ending;

	dlist_init(&ending);
	MyWatches->stream = NULL;
	while (!dlist_is_empty(&MyWatches->pending))
		dlist_push_tail(&ending, dlist_pop_head_node(&MyWatches->pending));
	while (!dlist_is_empty(&MyWatches->open))
		dlist_push_tail(&ending, dlist_pop_head_node(&MyWatches->open));
	while (!dlist_is_empty(&ending))
		free_watch(dlist_head_element(Watch, node, &ending));
}

static void
stream_ended(void *arg, const EtcdResponse *response)
{
	const char *reason = response->error;
	EtcdError	error;

	if (response->delivered)
	{
		etcd_response_error(&response->reply, &error);
		reason = error.message;
	}
	ereport(DEBUG1,
			(errmsg_internal("etcd_lock: the watches have ended: %s", reason)));
	end_stream();
}

static void
break_stream(const char *reason)
{
	ereport(DEBUG1,
			(errmsg_internal("etcd_lock: the watches have failed: %s", reason)));
	link_stream_close(MyWatches->stream);
	end_stream();
}

/*
 * Returns the watch of a response to "create", or NULL if it is not one of
 * ours.
 */
static Watch *
acknowledged(const EtcdWatchMessage *msg)
{
	Watch	   *watch = find_watch(msg->watch_id);

	if (watch == NULL && msg->canceled && !dlist_is_empty(&MyWatches->pending))
		watch = dlist_head_element(Watch, node, &MyWatches->pending);
	return watch == NULL || watch->created ? NULL : watch;
}

static void
created(Watch *watch, int64 revision)
{
	Assert(!watch->created);
	watch->created = true;
	watch->revision = revision;
	dlist_delete(&watch->node);
	dlist_push_tail(&MyWatches->open, &watch->node);
	if (!watch->closed)
	{
		watch->callbacks->created(watch->arg);
		return;
	}
	if (!link_stream_send(MyWatches->stream, etcd_request_watch_cancel(watch->id)))
		break_stream("could not cancel a watch");
	else
		free_watch(watch);
}

/* A callback may close the watch. */
static void
tell_events(const EtcdWatchMessage *msg)
{
	for (int i = 0; i < msg->nevents; i++)
	{
		const EtcdEvent *event = &msg->events[i];
		Watch	   *watch = find_watch(msg->watch_id);

		if (watch == NULL || watch->closed || !watch->created)
			return;
		if (event->type == ETCD_EVENT_DELETE)
			watch->callbacks->deleted(watch->arg, event->kv.key,
									  event->kv.key_len,
									  event->kv.mod_revision);
		else if (watch->callbacks->put != NULL)
			watch->callbacks->put(watch->arg, &event->kv);
	}
}

static void
stream_message(void *arg, const void *data, size_t len)
{
	EtcdWatchMessage msg;
	EtcdError	error;
	Watch	   *watch;

	if (!etcd_response_watch(data, len, &msg, &error))
	{
		break_stream(error.message);
		return;
	}
	watch = msg.created ? acknowledged(&msg) : find_watch(msg.watch_id);

	/* canceled may come together with created: then it was refused */
	if (watch == NULL)
		 /* closed meanwhile */ ;
	else if (msg.canceled || msg.compact_revision != 0)
	{
		if (msg.canceled && link_watch_refused(MyWatches->stream, msg.cancel_reason))
			break_stream("there is another token");
		else
			free_watch(watch);
	}
	else if (msg.created)
		created(watch, msg.header.revision);
	tell_events(&msg);
	etcd_response_free_watch(&msg);
}

/* ----------------------------------------------------------------
 *		The interface
 * ----------------------------------------------------------------
 */

static bool
has_stalled(void)
{
	return MyWatches->watches != NULL &&
		hash_get_num_entries(MyWatches->watches) - MyWatches->nwatches > MAX_CLOSED;
}

/* Returns false if it could not be sent. */
static bool
send_create(const EtcdRange *range, bool deletes_only, int64 id)
{
	static const LinkStreamCallbacks callbacks = {
		stream_message, stream_ended, MAX_MESSAGE
	};
	EtcdMessage message;

	if (!link_ready())
		return false;
	if (MyWatches->stream != NULL && MyWatches->stream_generation != link_generation())
		break_stream("there is another connection");
	if (MyWatches->stream != NULL && has_stalled())
		break_stream("etcd does not acknowledge them");
	message = etcd_request_watch_create(id, range, deletes_only);
	if (MyWatches->stream != NULL)
		return link_stream_send(MyWatches->stream, message);
	MyWatches->stream = link_stream(message, &callbacks, NULL);
	MyWatches->stream_generation = link_generation();
	return MyWatches->stream != NULL;
}

/* Returns NULL if it could not be sent; then no callback is called. */
Watch *
watch_open(const EtcdRange *range, const WatchCallbacks *callbacks, void *arg)
{
	Watch	   *watch;

	if (!send_create(range, callbacks->put == NULL, MyWatches->last_id + 1))
		return NULL;
	watch = MemoryContextAllocZero(TopMemoryContext, sizeof(Watch));
	watch->id = ++MyWatches->last_id;
	watch->callbacks = callbacks;
	watch->arg = arg;
	watch->generation = link_generation();
	add_watch(watch);
	return watch;
}

/* The owner no longer needs it; "ended" is not called. */
void
watch_close(Watch *watch)
{
	Assert(!watch->closed);
	watch->closed = true;
	MyWatches->nwatches--;
	Assert(MyWatches->nwatches >= 0);
	if (!watch->created)
		return;					/* see created() */
	if (MyWatches->stream != NULL)
		(void) link_stream_send(MyWatches->stream, etcd_request_watch_cancel(watch->id));
	free_watch(watch);
}
