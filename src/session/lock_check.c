/*-------------------------------------------------------------------------
 *
 * lock_check.c
 *	  Asking etcd whether it still has our keys.
 *
 * The worker reads the queue with a linearizable read, and marks locks as lost
 * whose keys are gone; if there is no response within request_timeout, the
 * state is unknown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "session/lock_check.h"
#include "shared/clock.h"
#include "shared/link_status.h"
#include "shared/lock_holds.h"
#include "shared/lock_text.h"
#include "shared/settings.h"
#include "shared/wait_events.h"
#include "storage/latch.h"
#include "utils/acl.h"

/* A session looks at least this often, milliseconds. */
#define WATCHDOG	500

static bool
is_held(const LocalHold *local)
{
	return local->hold != NULL && local->nowners > 0 &&
		lock_session_has_tag(local) && lock_hold_valid(local->hold);
}

static void
start_one(LocalHold *local, void *arg)
{
	local->unknown = is_held(local);
	if (local->unknown)
		local->check = lock_hold_start_check(local->hold);
}

static void
look_at_one(LocalHold *local, void *arg)
{
	bool	   *waiting = arg;

	if (!local->unknown)
		return;
	local->unknown = lock_hold_valid(local->hold) &&
		!lock_hold_check_done(local->hold, local->check);
	*waiting = *waiting || local->unknown;
}

/*
 * Wait for the results of the checks that have been started.  A lock is
 * "unknown" until its result is there.
 */
static void
wait_for_responses(LocalHold *only)
{
	int64		give_up_at = clock_now() + (int64) etcd_lock_request_timeout * 1000;

	for (;;)
	{
		bool		waiting = false;

		ResetLatch(MyLatch);
		if (only != NULL)
			look_at_one(only, &waiting);
		else
			lock_session_foreach(look_at_one, &waiting);
		if (!waiting)
			return;
		CHECK_FOR_INTERRUPTS();
		if (clock_now() >= give_up_at)
			return;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 WATCHDOG, wait_events_check());
	}
}

LockCheck
lock_check(LocalHold *local)
{
	start_one(local, NULL);
	wait_for_responses(local);
	if (!is_held(local))
		return LOCK_CHECK_LOST;
	return local->unknown ? LOCK_CHECK_UNKNOWN : LOCK_CHECK_HELD;
}

void
lock_check_all(void)
{
	lock_session_foreach(start_one, NULL);
	wait_for_responses(NULL);
}

/* Where etcd is, is for those who may look into the settings. */
void
lock_check_report_unreachable(int waited)
{
	LinkStatus	status;
	char	   *detail;

	link_status_get(&status);
	detail = status.last_error[0] != '\0' ?
		psprintf("%s: %s", status.endpoint, lock_text_etcd_message(status.last_error)) :
		psprintf(_("There is no response from \"%s\" yet."), status.endpoint);
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 pg_atomic_read_u32(&lock_shared->link_up) == 0 ?
			 errmsg("could not reach etcd within %d ms", waited) :
			 errmsg("could not get a response or a lease from etcd within %d ms",
					waited),
			 has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ?
			 errdetail_internal("%s", detail) : errdetail_log("%s", detail),
			 errhint("Check the configuration parameter \"%s\" and the health of etcd.",
					 "etcd_lock.endpoints")));
}
