/*-------------------------------------------------------------------------
 *
 * deadlock_report.h
 *	  Tells a session of which deadlock over several servers it is the victim.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DEADLOCK_REPORT_H
#define DEADLOCK_REPORT_H

#include "etcd/deadlock_probe.h"
#include "shared/lock_table.h"

extern Size deadlock_report_shmem_size(void);
extern void deadlock_report_request_locks(void);
extern void deadlock_report_shmem_init(void);

/*
 * Worker: leave the path for the wait with this number (LockHold.wait_number)
 * of a process.
 */
extern void deadlock_report_put(int pid, uint64 wait_number, const void *message, size_t len);

/* Session: get the path; returns false if others have overwritten it. */
extern bool deadlock_report_get(uint64 wait_number, DeadlockProbe *probe);

#endif							/* DEADLOCK_REPORT_H */
