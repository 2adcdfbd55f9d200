/*-------------------------------------------------------------------------
 *
 * loss_signal.c
 *	  Signals to a session that has lost a lock.
 *
 * All of them are sent here: by the worker, by a session that breaks a lock,
 * and by the session's own timer.  A session whose commit can no longer be
 * refused must not get any: a cancel ends a wait for a synchronous standby,
 * and the commit would be acknowledged without it (README.md, rule 30).
 *
 * LossInbox.gate has the bit GATE_COMMITTING, which the session sets, and a
 * count of the processes that are just sending.  A sender increments the count
 * and then tests the bit; the session sets the bit and then waits until the
 * count is zero.  So each signal either arrived before that, or was held back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "shared/loss_signal.h"
#include "storage/proc.h"

#define GATE_COMMITTING		0x80000000U
#define GATE_HELD_BACK		0x40000000U
#define GATE_SENDERS		0x3FFFFFFFU

StaticAssertDecl((GATE_COMMITTING ^ GATE_HELD_BACK ^ GATE_SENDERS) == PG_UINT32_MAX,
				 "each bit of the gate must have one meaning");
StaticAssertDecl(MAX_BACKENDS <= GATE_SENDERS, "all processes may send at the same time");

/*
 * How long the session waits for senders, in microseconds.  A sender needs
 * only a few instructions, unless it is stopped just there.
 */
#define SENDER_TIMEOUT		1000000
#define SENDER_NAP			20

static LossInbox *
inbox_of(int procno)
{
	return &lock_table_proc(procno)->inbox;
}

/*
 * A cancel ends a statement.  An idle session has none, and an idle background
 * worker would take the cancel as a request to exit.
 */
static void
send_signal(int procno, int pid, int on_loss)
{
	if (on_loss == ON_LOSS_TERMINATE)
		kill(pid, SIGTERM);
	else if (on_loss == ON_LOSS_CANCEL &&
			 compat_lxid_of(procno) != InvalidLocalTransactionId)
		kill(pid, SIGINT);
}

/*
 * Is the session committing?  Then note in the same step that a signal was
 * held back, so that the session sees it when the commit has ended.  Otherwise
 * a commit that begins now waits for us.
 */
static bool
note_held_back(LossInbox *inbox)
{
	uint32		gate = pg_atomic_read_u32(&inbox->gate);

	while ((gate & GATE_COMMITTING) != 0)
	{
		if (pg_atomic_compare_exchange_u32(&inbox->gate, &gate, gate | GATE_HELD_BACK))
			return true;
	}
	return false;
}

void
loss_signal_send(int procno, int pid)
{
	LossInbox  *inbox = inbox_of(procno);

	pg_atomic_fetch_add_u32(&inbox->gate, 1);
	if (!note_held_back(inbox))
		send_signal(procno, pid, (int) pg_atomic_read_u32(&inbox->on_loss));
	pg_atomic_fetch_sub_u32(&inbox->gate, 1);
}

/*
 * The worker and the session's own timer both call this when a deadline has
 * passed; the second one finds that the signal was sent.
 */
void
loss_signal_send_epoch(int procno, int pid, uint64 epoch)
{
	LossInbox  *inbox = inbox_of(procno);
	uint64		sent = pg_atomic_read_u64(&inbox->signalled_epoch);

	while (sent < epoch)
	{
		if (pg_atomic_compare_exchange_u64(&inbox->signalled_epoch, &sent, epoch))
		{
			loss_signal_send(procno, pid);
			return;
		}
	}
}

void
loss_signal_set_on_loss(int on_loss)
{
	pg_atomic_write_u32(&inbox_of(compat_my_procno())->on_loss, on_loss);
}

void
loss_signal_note_breaker(int procno, uint64 key_id, const char *by)
{
	LossInbox  *inbox = inbox_of(procno);

	SpinLockAcquire(&inbox->mutex);
	inbox->broken_key = key_id;
	strlcpy(inbox->breaker, by, LOCK_BREAKER_TEXT);
	SpinLockRelease(&inbox->mutex);
}

bool
loss_signal_breaker(uint64 key_id, char *by)
{
	LossInbox  *inbox = inbox_of(compat_my_procno());
	bool		known;

	SpinLockAcquire(&inbox->mutex);
	known = key_id != 0 && inbox->broken_key == key_id;
	if (known)
		strlcpy(by, inbox->breaker, LOCK_BREAKER_TEXT);
	SpinLockRelease(&inbox->mutex);
	return known;
}

void
loss_signal_count(int procno)
{
	pg_atomic_fetch_add_u32(&inbox_of(procno)->losses, 1);
}

uint32
loss_signal_losses(void)
{
	return pg_atomic_read_u32(&inbox_of(compat_my_procno())->losses);
}

void
loss_signal_hold_back(void)
{
	LossInbox  *inbox = inbox_of(compat_my_procno());

	pg_atomic_fetch_or_u32(&inbox->gate, GATE_COMMITTING);
	for (int waited = 0; waited < SENDER_TIMEOUT; waited += SENDER_NAP)
	{
		if ((pg_atomic_read_u32(&inbox->gate) & GATE_SENDERS) == 0)
			break;
		pg_usleep(SENDER_NAP);
	}

	/* The kernel delivers what was sent when a system call returns. */
	(void) getppid();
}

bool
loss_signal_let_through(void)
{
	LossInbox  *inbox = inbox_of(compat_my_procno());
	uint32		gate = pg_atomic_fetch_and_u32(&inbox->gate,
											   ~(GATE_COMMITTING | GATE_HELD_BACK));

	return (gate & GATE_HELD_BACK) != 0;
}

/*
 * The caller has ended the epoch: a session that still saw it in its guard had set its
 * bit before, so it is seen here.
 */
bool
loss_signal_any_committing(void)
{
	pg_memory_barrier();
	for (int i = 0; i < MaxBackends; i++)
	{
		if ((pg_atomic_read_u32(&inbox_of(i)->gate) & GATE_COMMITTING) != 0)
			return true;
	}
	return false;
}
