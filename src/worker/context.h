/*-------------------------------------------------------------------------
 *
 * context.h
 *	  The state of the worker as a whole.
 *
 * Each part keeps its state in a structure of its own, which no other part
 * looks into, and which its function ..._create() creates.  MyWorker points to
 * it.  A program that runs several servers in one process, such as the
 * simulator, loads the library once for each of them, so each has its own
 * MyWorker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONTEXT_H
#define CONTEXT_H

#include "postgres.h"

typedef struct WorkerContext
{
	bool		stopping;		/* the server is stopping: nothing new is
								 * granted */
	uint64		ahead_gone;		/* how often keys ahead of ours have gone */

	struct Audit *audit;
	struct BreakMessages *break_messages;
	struct BreakWorker *break_worker;
	struct CatchUpWorker *catch_up_worker;
	struct ClaimWorker *claim_worker;
	struct DeadlockPost *deadlock_post;
	struct DeadlockWorker *deadlock_worker;
	struct Duplicate *duplicate;
	struct Health *health;
	struct HeldKeys *held_keys;
	struct KeyValue *key_value;
	struct Lease *lease;
	struct Names *names;
	struct NamesTimes *names_times;
	struct OldLeases *old_leases;
	struct Orphans *orphans;
	struct QueuePages *queue_pages;
	struct RecentNames *recent_names;
	struct RoleRequests *role_requests;
	struct Serials *serials;
	struct TickLease *tick_lease;
	struct TxnBuild *txn_build;
	struct TxnQueue *txn_queue;
} WorkerContext;

extern WorkerContext *MyWorker;

/* Returns an empty context, in TopMemoryContext. */
extern WorkerContext *context_create(void);

#endif							/* CONTEXT_H */
