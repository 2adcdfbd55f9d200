/*-------------------------------------------------------------------------
 *
 * deadlock_report.c
 *	  Tells a session of which deadlock over several servers it is the victim.
 *
 * The path does not fit into a hold.  So there are a few places for all
 * sessions, used in turn; a session that comes too late, because there were
 * many deadlocks at once, reports its own without the path.
 *
 * DeadlockReports.lock protects all of them: a path is too long for a spinlock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "shared/deadlock_report.h"
#include "storage/shmem.h"

#define REPORTS_TRANCHE	"etcd_lock_deadlocks"

#define NREPORTS	8

typedef struct DeadlockReport
{
	int			pid;			/* whose; 0: nobody's */
	uint64		wait_number;
	size_t		len;
	char		message[DEADLOCK_PROBE_MAX_SIZE];
} DeadlockReport;

typedef struct DeadlockReports
{
	LWLock	   *lock;
	unsigned	next;
	DeadlockReport report[NREPORTS];
} DeadlockReports;

static DeadlockReports *reports = NULL;

Size
deadlock_report_shmem_size(void)
{
	return MAXALIGN(sizeof(DeadlockReports));
}

void
deadlock_report_request_locks(void)
{
	RequestNamedLWLockTranche(REPORTS_TRANCHE, 1);
}

void
deadlock_report_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	reports = ShmemInitStruct("etcd_lock deadlocks", deadlock_report_shmem_size(), &found);
	if (!found)
	{
		memset(reports, 0, sizeof(DeadlockReports));
		reports->lock = &GetNamedLWLockTranche(REPORTS_TRANCHE)->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

void
deadlock_report_put(int pid, uint64 wait_number, const void *message, size_t len)
{
	DeadlockReport *report;

	Assert(len <= DEADLOCK_PROBE_MAX_SIZE);
	LWLockAcquire(reports->lock, LW_EXCLUSIVE);
	report = &reports->report[reports->next++ % NREPORTS];
	report->pid = pid;
	report->wait_number = wait_number;
	report->len = len;
	memcpy(report->message, message, len);
	LWLockRelease(reports->lock);
}

bool
deadlock_report_get(uint64 wait_number, DeadlockProbe *probe)
{
	char	   *message = palloc(DEADLOCK_PROBE_MAX_SIZE);
	size_t		len = 0;

	LWLockAcquire(reports->lock, LW_EXCLUSIVE);
	for (int i = 0; i < NREPORTS; i++)
	{
		DeadlockReport *report = &reports->report[i];

		if (report->pid != MyProcPid || report->wait_number != wait_number)
			continue;
		len = report->len;
		memcpy(message, report->message, len);
		report->pid = 0;
	}
	LWLockRelease(reports->lock);
	return len > 0 && deadlock_probe_decode(message, len, probe);
}
