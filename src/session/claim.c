/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  Claiming a tick for a lock that the session already holds.
 *
 * Usually etcd_try_once() puts the tick together with the lock's key.  If the
 * session already holds the lock, the key is there: then a Txn puts the tick
 * if that key still exists, and nobody has put a tick since it was read.  So
 * here, too, a tick is claimed once, and only by the holder of the lock in
 * etcd.
 *
 * If there is no response, the tick may have been claimed, and the session
 * gets an error: at most one session runs, as always.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "session/claim.h"
#include "shared/lock_name.h"
#include "shared/lock_text.h"
#include "shared/request_slot.h"

void
claim_report_too_many(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many names with ticks in one namespace"),
			 errdetail("Ticks of %d names or more are in etcd.", etcd_lock_max_ticks),
			 errhint("Call etcd_try_once() with a fixed set of names.  A superuser can raise \"%s\" or delete ticks from etcd.",
					 "etcd_lock.max_ticks")));
}

bool
claim_tick(LocalHold *local, TimestampTz tick, uint64 claim)
{
	ClaimRequest request = {
		.key_id = local->hold->key_id,.tick = tick,.claim = claim,
		.max_ticks = etcd_lock_max_ticks,.namespace_len = local->name.namespace_len,
		.give_up_at = clock_now() + (int64) etcd_lock_request_timeout * 1000
	};
	int			result = CLAIM_LOST;
	LockFailure failure;

	strlcpy(request.name, local->name.key, sizeof(request.name));
	key_layout_tick(request.tick_key, local->name.key, local->name.namespace_len);

	switch (request_slot_run(REQUEST_CLAIM, &request, etcd_lock_request_timeout,
							 &result, &failure))
	{
		case REQUEST_SLOT_DONE:
			break;
		case REQUEST_SLOT_FAILED:
			ereport(ERROR,
					(errcode(failure.sqlerrcode),
					 errmsg("could not claim the tick for etcd lock \"%s\"",
							lock_name_for_message(&local->name)),
					 errdetail("%s", lock_text_etcd_message(failure.message))));
			break;
		case REQUEST_SLOT_NO_TURN:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not get a response from etcd within %d ms",
							etcd_lock_request_timeout),
					 errdetail("The tick was not claimed; other sessions were claiming ticks.")));
			break;
		case REQUEST_SLOT_NO_RESPONSE:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not get a response from etcd within %d ms",
							etcd_lock_request_timeout),
					 errdetail("It is not known whether the tick was claimed.")));
			break;
	}
	if (result == CLAIM_LOST)
		lock_session_report_lost(local);
	if (result == CLAIM_TOO_MANY)
		claim_report_too_many();
	return result == CLAIM_CLAIMED;
}
