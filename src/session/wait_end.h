/*-------------------------------------------------------------------------
 *
 * wait_end.h
 *	  The detail of the error when a session's wait for a lock has failed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WAIT_END_H
#define WAIT_END_H

#include "shared/lock_holds.h"

/* Who was in the way, as far as we know. */
typedef struct WaitEnd
{
	bool		had_tag;		/* it waited for etcd, not within this server */
	bool		has_other;		/* a session of this server is ahead */
	LockOther	other;
	char		holder[LOCK_HOLDER_TEXT];	/* what etcd says about the
											 * holder, UTF-8; or empty */
	bool		has_link;
	TimestampTz down_since;		/* if not; 0: there was none yet */
} WaitEnd;

/* May wait for a tenth of a second; does not allocate or throw. */
extern void wait_end_look(LockHold *hold, bool had_tag, WaitEnd *end);

/* The sentence for DETAIL. */
extern char *wait_end_detail(const WaitEnd *end);

#endif							/* WAIT_END_H */
