/*-------------------------------------------------------------------------
 *
 * left_over_worker.c
 *	  What a worker that has nothing to do has left in its own memory.
 *
 * As in left_over.c, files whose structures are their own are compiled a second time.
 *
 *-------------------------------------------------------------------------
 */
#pragma GCC diagnostic ignored "-Wunused-function"

#define deadlock_post_create peek_deadlock_post_create
#define deadlock_post_to_server peek_deadlock_post_to_server
#define deadlock_post_to_owner peek_deadlock_post_to_owner
#define deadlock_post_tick peek_deadlock_post_tick
#define deadlock_post_next_time peek_deadlock_post_next_time
#define deadlock_worker_create peek_deadlock_worker_create
#define deadlock_worker_take peek_deadlock_worker_take
#define deadlock_worker_message peek_deadlock_worker_message
#define deadlock_worker_tick peek_deadlock_worker_tick
#define deadlock_worker_next_time peek_deadlock_worker_next_time
#define txn_queue_create peek_txn_queue_create
#define txn_queue_key peek_txn_queue_key
#define txn_queue_range peek_txn_queue_range
#define txn_queue_send peek_txn_queue_send
#define txn_queue_next_time peek_txn_queue_next_time

#include "worker/deadlock_post.c"
#undef MAX_PER_SECOND
#include "worker/deadlock_worker.c"
#include "worker/txn_queue.c"

#include "pg.h"
#include "client/watch.h"
#include "worker/held_keys.h"
#include "worker/old_leases.h"
#include "worker/orphans.h"
#include "worker/role_requests.h"
#include "worker/serials.h"

/* The sentinel's. */
#define WATCHES		1

static const char *
left_in_lanes(void)
{
	for (int i = 0; i < TXN_NLANES; i++)
	{
		const Lane *lane = &MyTxnQueue->lanes[i];

		if (!dlist_is_empty(unconstify(dlist_head *, &lane->deletes)) ||
			!dlist_is_empty(unconstify(dlist_head *, &lane->puts)) ||
			!dlist_is_empty(unconstify(dlist_head *, &lane->key_reads)) ||
			!dlist_is_empty(unconstify(dlist_head *, &lane->ranges)))
			return "what is to be sent";
		if (!dlist_is_empty(unconstify(dlist_head *, &lane->sent)) || lane->writes != 0 ||
			lane->reads != 0 || lane->write_ops != 0 || lane->extra_writes != 0 ||
			lane->extra_reads != 0 || lane->overdue != 0)
			return "what is in flight";
	}
	return MyTxnQueue->orphan_txns != 0 ? "deletions of orphans" : NULL;
}

/* NULL: nothing */
const char *
pg_left_over_worker(void)
{
	if (!dlist_is_empty(name_list_all()))
		return "a name";
	if (name_count_waiting() != 0 || !dlist_is_empty(name_list_waiting()))
		return "a name that waits";
	if (name_count_kept_watches() != 0 || !dlist_is_empty(name_list_watch_changed()) ||
		!dlist_is_empty(name_list_watch_missing()) || name_first_look() != NULL ||
		name_first_holder_look() != NULL)
		return "what is to be done about a name";
	if (name_count_audited() != 0 || name_audited_bytes() != 0 ||
		!dlist_is_empty(name_list_audited()))
		return "a key to be compared with etcd's";
	if (serials_count() != 0)
		return "a serial";
	if (watch_count() > WATCHES)
		return "a watch";
	if (!dlist_is_empty(orphans_all()))
		return "an orphan";
	if (old_leases_next_time() != PG_INT64_MAX)
		return "an old lease";
	if (!role_requests_is_idle(MyProc->roleId))
		return "a role's request in flight";
	if (MyPost->nposts != 0 || !dlist_is_empty(&MyPost->posts))
		return "a message about a deadlock";
	/* what is looked for ends when it is looked at next, in up to two minutes */
	if (MyDeadlocks->ncycles != 0)
		return "a deadlock to be confirmed";
	return left_in_lanes();
}
