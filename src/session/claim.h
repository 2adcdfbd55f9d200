/*-------------------------------------------------------------------------
 *
 * claim.h
 *	  Claiming a tick for a lock that the session already holds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CLAIM_H
#define CLAIM_H

#include "session/lock_session.h"

/* Raise the error that the namespace has too many names with ticks. */
extern void claim_report_too_many(void);

/* Returns false if the tick, or a later one, is claimed already. */
extern bool claim_tick(LocalHold *local, TimestampTz tick, uint64 claim);

#endif							/* CLAIM_H */
