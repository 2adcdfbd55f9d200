/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  A Txn of many operations, and what each of them was for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BATCH_H
#define BATCH_H

#include "worker.h"

/*
 * Operations in a Txn: etcd's default limit, counted on the longest of its
 * three lists.
 */
#define MAX_OPS				128

typedef enum ItemKind
{
	ITEM_PUT,					/* put it, and look at the queue */
	ITEM_PUT_FIRST,				/* put it if the queue is empty */
	ITEM_TRY,
	ITEM_DELETE,
	ITEM_STRAY_LOOK,			/* a key of ours that nobody knows: is it there? */
	ITEM_STRAY,					/* delete it */
	ITEM_LOOK,					/* first step of a try */
	ITEM_RANGE					/* look at the queue */
} ItemKind;

/* A key with our lease's id that nobody here knows. */
typedef struct Stray
{
	dlist_node	link;
	int64		create_revision;	/* 0: to be looked up */
	int64		retry_at;		/* clock_now(): not before */
	bool		under_way;
	size_t		key_len;
	char		key[FLEXIBLE_ARRAY_MEMBER];
} Stray;

typedef struct Item
{
	ItemKind	kind;
	WorkerName *name;			/* NULL for strays */
	WorkerKey  *key;			/* PUT, TRY, DELETE, LOOK */
	uint64		number;
	Stray	   *stray;
	bool		fenced;			/* DELETE: of the key with this create_revision */
	int			result;			/* index of its first answer if all goes well */
	int			else_result;	/* TRY: if a compare fails */
	bool		has_tick;		/* TRY, LOOK: the tick's answer follows */
	LockChecks	checks;			/* RANGE */
} Item;

typedef struct Batch
{
	bool		is_read;
	bool		is_single;		/* a range, sent without a Txn around it */
	uint64		epoch;			/* in which it was sent */
	int64		floor;			/* highest revision known before that */
	int			nsuccess;		/* operations in each branch */
	int			nfailure;
	int			nitems;
	Item		items[MAX_OPS];
} Batch;

/* A Txn being put together. */
typedef struct Building
{
	Batch	   *batch;
	size_t		bytes;
	EtcdCompare compare[MAX_OPS];
	int			ncompare;
	EtcdOp		success[MAX_OPS];
	int			nsuccess;
	EtcdOp		failure[MAX_OPS];
	int			nfailure;
} Building;

/*
 * A tick's value in etcd: ISO 8601, UTC, which sorts as text; behind it the
 * claim's number.
 */
#define TICK_LEN			27

/* A tick's key, as seen by who wants to claim a tick. */
typedef enum TickState
{
	TICK_FREE,					/* an earlier one is in it, or none */
	TICK_OURS,					/* claimed by the same call */
	TICK_TAKEN,					/* claimed by another one */
	TICK_PAST,					/* a later one is claimed */
	TICK_ODD					/* that is no tick */
} TickState;

/* batch.c */
extern Building *batch_start(bool is_read);
extern void batch_free(Batch *batch);
extern bool batch_has_room(const Building *b, int ncompare, int nsuccess,
						   int nfailure);
extern bool batch_has_delete(const Building *b, const WorkerKey *key);
extern bool batch_has_put(const Building *b, const WorkerName *name);
extern void batch_add_delete(Building *b, WorkerKey *key);
extern void batch_add_stray_look(Building *b, Stray *stray);
extern void batch_add_stray(Building *b, Stray *stray);
extern void batch_add_put(Building *b, WorkerKey *key);
extern void batch_add_put_first(Building *b, WorkerKey *key, int64 since);
extern void batch_add_try(Building *b, WorkerKey *key);
extern void batch_add_look(Building *b, WorkerKey *key);
extern void batch_add_range(Building *b, WorkerName *name);
extern char *batch_tick_key(const WorkerKey *key);
extern char *batch_tick_value(TimestampTz tick, uint64 claim);
extern char *batch_encode(Building *b, const char **path);

/* answers.c */
extern TickState batch_tick_state(const EtcdOpResult *result, TimestampTz tick,
								  uint64 claim);
extern void batch_done(void *arg, const EtcdAnswer *answer);

/* requests.c, for answers.c */
extern void requests_batch_ended(const Batch *batch);
extern void requests_requeue(WorkerKey *key);
extern void requests_stray_later(Stray *stray);
extern void requests_forget_stray(Stray *stray);

#endif							/* BATCH_H */
