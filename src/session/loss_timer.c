/*-------------------------------------------------------------------------
 *
 * loss_timer.c
 *	  The session's own timer for the deadline.
 *
 * When the deadline passes, the session signals itself, which works even if
 * the worker is dead or hangs.  Errors disable timeouts, so it is armed again
 * on abort and at each statement (README.md, rule 25).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "session/loss_timer.h"
#include "shared/deadline.h"
#include "shared/loss_signal.h"
#include "utils/timeout.h"

/* It checks at least this often, milliseconds. */
#define LONGEST		60000

static TimeoutId timer = MAX_TIMEOUTS;
static volatile uint64 watched_epoch = 0;	/* 0: nothing to watch */

static void
arm(void)
{
	int64		left = deadline_left(&lock_shared->deadline);

	enable_timeout_after(timer, (int) Min(left / 1000 + 1, LONGEST));
}

/* Runs in a signal handler, so it may use only atomics, clocks and signals. */
static void
timer_handler(void)
{
	uint64		epoch = watched_epoch;

	if (epoch == 0 || MyProc == NULL)
		return;
	if (deadline_valid(&lock_shared->deadline, epoch))
		arm();
	else
		loss_signal_send_epoch(compat_my_procno(), MyProcPid, epoch);
}

void
loss_timer_watch(uint64 epoch)
{
	if (timer == MAX_TIMEOUTS)
		timer = RegisterTimeout(USER_TIMEOUT, timer_handler);
	watched_epoch = epoch;
	if (!get_timeout_active(timer))
		arm();
}

void
loss_timer_unwatch(void)
{
	watched_epoch = 0;
}

void
loss_timer_rearm(void)
{
	if (watched_epoch != 0 && !get_timeout_active(timer) &&
		deadline_valid(&lock_shared->deadline, watched_epoch))
		arm();
}
