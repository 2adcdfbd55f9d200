/*-------------------------------------------------------------------------
 *
 * deadlock_post.c
 *	  Messages to other servers about paths of waits.
 *
 * A message is a key below the sentinel of the server that is to read it, on
 * that server's lease: it goes with the server.  The value of a key of that
 * server tells where the sentinel is, because servers can have different
 * namespaces (break_worker.c does the same).  One that does not tell is of
 * version 1.0 or a foreign client, which would leave the message there.
 *
 * A message that gets no response is sent again for a while, because the link
 * may be down; it puts the same key, so if it was already applied, there is no
 * second message.  If there is no room, a message is not sent, because
 * sessions that wait ask again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "etcd/etcd_holder.h"
#include "etcd/key_layout.h"
#include "shared/clock.h"
#include "shared/lease_id.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/context.h"
#include "worker/deadlock_post.h"

/* Limits of messages in flight, and of new ones within a second. */
#define MAX_POSTS			128
#define MAX_PER_SECOND		200

/*
 * Without a response: how long to send it again, and how often; microseconds.
 */
#define RETRY_FOR			INT64CONST(60000000)
#define RETRY_PAUSE			INT64CONST(1000000)
#define REFUSED_PAUSE		INT64CONST(10000000)

/* A longer response has no value of ours; bytes. */
#define MAX_RESPONSE			(64 * 1024)

typedef struct Post
{
	dlist_node	link;
	uint64		id;
	uint64		lease;			/* of the receiver */
	bool		knows_ns;
	char		ns[ETCD_HOLDER_TEXT];	/* if so: of its sentinel */
	char	   *owned;			/* else a key of it, */
	size_t		owned_len;
	int64		owned_revision;

	unsigned char *message;		/* malloc's */
	size_t		len;
	int64		since;			/* clock_now() */
	bool		busy;			/* a request is in flight */
	int64		retry_at;		/* clock_now(), if not */
} Post;

struct DeadlockPost
{
	dlist_head	posts;
	int			nposts;
	uint64		next_id;
	int64		second;			/* clock_now(): when it began */
	int			nsecond;		/* messages since */
	int64		next_time;
};

#define MyPost (MyWorker->deadlock_post)

void
deadlock_post_create(void)
{
	MyPost = MemoryContextAllocZero(TopMemoryContext, sizeof(struct DeadlockPost));
	dlist_init(&MyPost->posts);
	if (!pg_strong_random(&MyPost->next_id, sizeof(MyPost->next_id)))
		MyPost->next_id = (uint64) GetCurrentTimestamp();
	MyPost->next_id >>= 24;		/* room to count on */
	MyPost->next_time = PG_INT64_MAX;
}

static void
drop(Post *post)
{
	dlist_delete(&post->link);
	MyPost->nposts--;
	if (post->owned != NULL)
		pfree(post->owned);
	free(post->message);
	pfree(post);
}

static void
due_at(Post *post, int64 when)
{
	post->busy = false;
	post->retry_at = when;
	MyPost->next_time = Min(MyPost->next_time, when);
}

static void
try_again(Post *post, int64 pause)
{
	int64		now = clock_now();

	if (now - post->since >= RETRY_FOR)
		drop(post);
	else
		due_at(post, now + pause);
}

/*
 * If the lease is gone, the server that should read it is gone.  If we may not
 * write there, that will last, and the message must not take another one's
 * room: the session that waits asks again.  Else try again later.
 */
static void
refused(Post *post, const EtcdError *error)
{
	if (error->code == ETCD_NOT_FOUND || error->code == ETCD_PERMISSION_DENIED)
		drop(post);
	else
		try_again(post, REFUSED_PAUSE);
}

static void
call(Post *post, EtcdMessage message, void (*done) (void *, const EtcdResponse *))
{
	LinkCallbacks callbacks = {.done = done,.max_message = MAX_RESPONSE};

	post->busy = true;
	if (link_call(LINK_SIDE, message, etcd_lock_request_timeout, &callbacks, post) == NULL)
		try_again(post, RETRY_PAUSE);
}

static void
put_done(void *arg, const EtcdResponse *response)
{
	Post	   *post = arg;
	EtcdTxnResult result;
	EtcdError	error;

	if (!response->delivered)
		try_again(post, RETRY_PAUSE);
	else if (etcd_response_txn(&response->reply, &result, &error))
	{
		etcd_response_free_txn(&result);
		drop(post);
	}
	else
		refused(post, &error);
}

static void
put(Post *post)
{
	EtcdOp		put = {.type = ETCD_OP_PUT};
	EtcdTxn		txn = {.success = &put,.nsuccess = 1};
	char		key[KEY_LAYOUT_SIZE];

	put.range.key = key;
	put.range.key_len = key_layout_deadlock(key, post->ns, post->lease,
											(uint64) lease_id(), post->id);
	put.value = (const char *) post->message;
	put.value_len = post->len;
	put.lease = (int64) post->lease;
	call(post, etcd_request_txn(&txn), put_done);
}

static void
owned_read(void *arg, const EtcdResponse *response)
{
	Post	   *post = arg;
	EtcdRangeResult result;
	EtcdError	error;
	const EtcdKeyValue *kv;
	EtcdHolder	holder;

	if (!response->delivered)
		try_again(post, RETRY_PAUSE);
	else if (!etcd_response_range(&response->reply, &result, &error))
		refused(post, &error);
	else
	{
		kv = result.range.nkvs == 1 ? &result.range.kvs[0] : NULL;
		if (kv != NULL && kv->create_revision == post->owned_revision &&
			(uint64) kv->lease == post->lease &&
			etcd_holder_decode(kv->value, kv->value_len, &holder) && holder.has_sentinel_ns)
		{
			post->knows_ns = true;
			strlcpy(post->ns, holder.sentinel_ns, sizeof(post->ns));
		}
		etcd_response_free_range(&result);
		if (post->knows_ns)
			put(post);
		else
			drop(post);			/* the wait for it has ended, or it reads none */
	}
}

static void
send_post(Post *post)
{
	EtcdOp		op = {.type = ETCD_OP_RANGE};

	if (post->knows_ns)
	{
		put(post);
		return;
	}
	op.range.key = post->owned;
	op.range.key_len = post->owned_len;
	call(post, etcd_request_range(&op), owned_read);
}

/* Returns NULL if there is no room. */
static Post *
add(const DeadlockProbe *probe, uint64 lease)
{
	int64		now = clock_now();
	size_t		len = 0;
	unsigned char *message;
	Post	   *post;

	if (now - MyPost->second >= INT64CONST(1000000))
	{
		MyPost->second = now;
		MyPost->nsecond = 0;
	}
	if (MyPost->nposts >= MAX_POSTS || MyPost->nsecond >= MAX_PER_SECOND)
		return NULL;
	message = deadlock_probe_encode(probe, &len);
	if (message == NULL)
		return NULL;
	MyPost->nsecond++;
	MyPost->nposts++;
	post = MemoryContextAllocZero(TopMemoryContext, sizeof(Post));
	dlist_push_tail(&MyPost->posts, &post->link);
	post->id = ++MyPost->next_id;
	post->lease = lease;
	post->since = now;
	post->message = message;
	post->len = len;
	due_at(post, now);
	return post;
}

bool
deadlock_post_to_server(const DeadlockProbe *probe, uint64 lease, const char *ns)
{
	Post	   *post = add(probe, lease);

	if (post == NULL)
		return false;
	post->knows_ns = true;
	strlcpy(post->ns, ns, sizeof(post->ns));
	return true;
}

bool
deadlock_post_to_owner(const DeadlockProbe *probe, uint64 lease, const AheadKey *key)
{
	Post	   *post = add(probe, lease);

	if (post == NULL)
		return false;
	post->owned = MemoryContextAlloc(TopMemoryContext, key->key_len);
	memcpy(post->owned, key->key, key->key_len);
	post->owned_len = key->key_len;
	post->owned_revision = key->create_revision;
	return true;
}

void
deadlock_post_tick(int64 now)
{
	dlist_mutable_iter iter;

	if (now < MyPost->next_time)
		return;
	MyPost->next_time = PG_INT64_MAX;
	dlist_foreach_modify(iter, &MyPost->posts)
	{
		Post	   *post = dlist_container(Post, link, iter.cur);

		if (post->busy)
			continue;
		if (post->retry_at <= now)
			send_post(post);
		else
			MyPost->next_time = Min(MyPost->next_time, post->retry_at);
	}
}

int64
deadlock_post_next_time(void)
{
	return MyPost->next_time;
}
