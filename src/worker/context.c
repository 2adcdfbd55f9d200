/*-------------------------------------------------------------------------
 *
 * context.c
 *	  The state of the worker as a whole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "worker/context.h"

WorkerContext *MyWorker = NULL;

WorkerContext *
context_create(void)
{
	return MemoryContextAllocZero(TopMemoryContext, sizeof(WorkerContext));
}
