/*-------------------------------------------------------------------------
 *
 * key_value.c
 *	  The value of our keys in etcd: who asked for the lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xlog.h"
#include "etcd/etcd_holder.h"
#include "postmaster/postmaster.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/instance.h"
#include "worker/key_value.h"

struct KeyValue
{
	char		host[256];		/* ours, from gethostname() */
};

#define MyKeyValue (MyWorker->key_value)

void
key_value_create(void)
{
	MyKeyValue = MemoryContextAllocZero(TopMemoryContext, sizeof(struct KeyValue));
	if (gethostname(MyKeyValue->host, sizeof(MyKeyValue->host)) != 0)
		MyKeyValue->host[0] = '\0';
	MyKeyValue->host[sizeof(MyKeyValue->host) - 1] = '\0';
}

void
key_value_server(char *text, size_t size)
{
	if (cluster_name[0] != '\0')
		strlcpy(text, cluster_name, size);
	else
		snprintf(text, size, "%.*s:%d", (int) size - 8, MyKeyValue->host, PostPortNumber);
}

static void
describe_server(EtcdHolder *holder)
{
	strlcpy(holder->host, MyKeyValue->host, sizeof(holder->host));
	key_value_server(holder->server, sizeof(holder->server));
	holder->has_port = true;
	holder->port = PostPortNumber;
	holder->has_sentinel_ns = true;
	strlcpy(holder->sentinel_ns, lock_shared->sentinel_ns, sizeof(holder->sentinel_ns));
}

StaticAssertDecl(LOCK_PROC_TEXT <= ETCD_HOLDER_TEXT,
				 "a value must have room for the names of roles and databases");

/* palloc'd */
static char *
encode(const EtcdHolder *holder)
{
	char	   *json = etcd_holder_encode(holder);
	char	   *result;

	if (json == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	result = pstrdup(json);
	free(json);
	return result;
}

/*
 * Returns the value of a key of ours in etcd.  who is NULL for the key of the
 * server itself.
 */
char *
key_value_make(const LockWho *who, int pid, TimestampTz since)
{
	EtcdHolder	holder = {0};

	describe_server(&holder);
	holder.has_pid = true;
	holder.pid = pid;
	if (who == NULL)
	{
		instance_describe(holder.instance);
		holder.has_timeline = !RecoveryInProgress();
		if (holder.has_timeline)
			holder.timeline = (int32) GetWALInsertionTimeLine();
	}
	else
	{
		holder.has_session = true;
		strlcpy(holder.database, who->database, sizeof(holder.database));
		strlcpy(holder.user, who->username, sizeof(holder.user));
		strlcpy(holder.application, who->application,
				sizeof(holder.application));
	}
	holder.has_since = true;
	holder.since = since + UNIX_TO_POSTGRES;
	return encode(&holder);
}

/* The note on a key that the server keeps for none of its sessions. */
char *
key_value_make_kept(void)
{
	EtcdHolder	holder = {0};

	describe_server(&holder);
	return encode(&holder);
}
