/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between PostgreSQL 15, 16, 17 and 18, and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_LOCK_COMPAT_H
#define ETCD_LOCK_COMPAT_H

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif

#if PG_VERSION_NUM < 170000
#include "postmaster/autovacuum.h"
#endif

#if PG_VERSION_NUM >= 170000
#define compat_my_procno()			((int) MyProcNumber)
#define compat_my_lxid()			(MyProc->vxid.lxid)
#define compat_procno(proc)			((int) GetNumberFromPGProc(proc))
#define compat_lxid_of(procno)		(ProcGlobal->allProcs[procno].vxid.lxid)
#define compat_lock_held_by_me(tag, mode)	LockHeldByMe((tag), (mode), false)
#define compat_wait_event_set(n)	CreateWaitEventSet(NULL, (n))
#define compat_wait_event(name)		WaitEventExtensionNew(name)
#define compat_am_autovacuum_worker()	AmAutoVacuumWorkerProcess()
#else
#define compat_my_procno()			(MyProc->pgprocno)
#define compat_my_lxid()			(MyProc->lxid)
#define compat_procno(proc)			((proc)->pgprocno)
#define compat_lxid_of(procno)		(ProcGlobal->allProcs[procno].lxid)
#define compat_lock_held_by_me(tag, mode)	LockHeldByMe((tag), (mode))
#define compat_wait_event_set(n)	CreateWaitEventSet(TopMemoryContext, (n))
#define compat_wait_event(name)		PG_WAIT_EXTENSION
#define compat_am_autovacuum_worker()	IsAutoVacuumWorkerProcess()
#endif

/* sets *n to their number; needs utils/guc_tables.h */
#if PG_VERSION_NUM >= 160000
#define compat_guc_variables(n)		get_guc_variables(n)
#else
#define compat_guc_variables(n)		(*(n) = GetNumConfigOptions(), get_guc_variables())
#endif

/* ExecutorRun's last parameter, which 18 does not have */
#if PG_VERSION_NUM >= 180000
#define COMPAT_EXECUTE_ONCE_PARAM
#define COMPAT_EXECUTE_ONCE
#else
#define COMPAT_EXECUTE_ONCE_PARAM	, bool execute_once
#define COMPAT_EXECUTE_ONCE			, execute_once
#endif

#if PG_VERSION_NUM >= 180000
#define COMPAT_MODULE_MAGIC(ext_name, ext_version) \
	PG_MODULE_MAGIC_EXT(.name = (ext_name), .version = (ext_version))
#else
#define COMPAT_MODULE_MAGIC(ext_name, ext_version) PG_MODULE_MAGIC
#endif

#endif							/* ETCD_LOCK_COMPAT_H */
