/*-------------------------------------------------------------------------
 *
 * tick.h
 *	  Ticks of etcd_try_once() in etcd: their values.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TICK_H
#define TICK_H

#include "datatype/timestamp.h"
#include "etcd/etcd_api.h"

/*
 * A tick's value in etcd: ISO 8601, UTC, which sorts as text, followed by the
 * claim's number.
 */
#define TICK_LEN			27

/* The most that a value may have, with what later versions may add. */
#define TICK_MAX_LEN		64

/* A value earlier than all others, of a call that nobody makes. */
#define TICK_NEVER			"0000-00-00T00:00:00.000000Z 0000000000000000"

/* A tick's key, from the view of a call that wants to claim a tick. */
typedef enum TickState
{
	TICK_FREE,					/* an earlier one is in it, or none */
	TICK_OURS,					/* claimed by the same call */
	TICK_TAKEN,					/* claimed by another one */
	TICK_PAST,					/* a later one is claimed */
	TICK_ODD					/* the value is not a tick */
} TickState;

extern char *tick_value(TimestampTz tick, uint64 claim);
extern void tick_copy(char *buf, const EtcdOpResult *result);
extern TickState tick_state_of(const EtcdOpResult *result, TimestampTz tick,
							   uint64 claim);

#endif							/* TICK_H */
