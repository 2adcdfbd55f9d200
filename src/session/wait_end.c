/*-------------------------------------------------------------------------
 *
 * wait_end.c
 *	  The detail of the error when a session's wait for a lock has failed.
 *
 * "Lock timeout" alone does not say whom to ask.  The shared table shows a
 * session of this server that is ahead.  Etcd knows about other servers and
 * clients: the session asks shortly before its time is up (wait_log_worker.c),
 * so that it has the response by then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "session/wait_end.h"
#include "shared/link_status.h"
#include "shared/lock_text.h"
#include "shared/wait_events.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

/*
 * How long to wait for etcd's word about whom a session ahead of us waits for;
 * milliseconds.
 */
#define ANSWER_WAIT		100
#define ANSWER_POLL		10

static void
look_at_link(WaitEnd *end)
{
	LinkStatus	status;

	link_status_get(&status);
	end->has_link = status.up;
	end->down_since = status.down_since;
}

void
wait_end_look(LockHold *hold, bool had_tag, WaitEnd *end)
{
	end->had_tag = had_tag;
	look_at_link(end);
	(void) lock_hold_get_holder(hold, end->holder);
	end->has_other = lock_hold_other(hold, end->has_link, &end->other);

	for (int waited = 0; waited < ANSWER_WAIT && end->has_link && end->has_other &&
		 !end->other.holding && end->other.holder[0] == '\0'; waited += ANSWER_POLL)
	{
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ANSWER_POLL,
						 wait_events_acquire());
		end->has_other = lock_hold_other(hold, false, &end->other);
	}
}

static void
append_quoted(StringInfo buf, const char *what, const char *utf8)
{
	if (utf8[0] != '\0')
		appendStringInfo(buf, ", %s \"%s\"", what,
						 lock_text_for_user(utf8, strlen(utf8)));
}

static void
describe_other(StringInfo buf, const LockOther *other)
{
	appendStringInfo(buf, _("Holder of the lock: this server, process %d"), other->pid);
	append_quoted(buf, "user", other->who.username);
	append_quoted(buf, "database", other->who.database);
	append_quoted(buf, "application", other->who.application);
	appendStringInfo(buf, ", since %s.", timestamptz_to_str(other->since));
}

static void
describe_link(StringInfo buf, const WaitEnd *end)
{
	if (end->down_since == 0)
		appendStringInfoString(buf, _("There has been no link to etcd since the server started."));
	else
		appendStringInfo(buf, _("There has been no link to etcd since %s."),
						 timestamptz_to_str(end->down_since));
}

char *
wait_end_detail(const WaitEnd *end)
{
	StringInfoData buf;
	const char *holder = end->holder;

	initStringInfo(&buf);
	if (end->has_other && end->other.holding)
	{
		describe_other(&buf, &end->other);
		return buf.data;
	}
	if (end->has_other)
	{
		appendStringInfo(&buf, _("Process %d of this server waits for it, too, and comes first. "),
						 end->other.pid);
		holder = end->other.holder;
	}
	if (holder[0] != '\0')
		appendStringInfoString(&buf, lock_text_for_user(holder, strlen(holder)));
	else if (!end->has_link)
		describe_link(&buf, end);
	else if (!end->had_tag && !end->has_other)
		appendStringInfoString(&buf, _("A session of this server holds PostgreSQL's advisory lock of the same key."));
	else
		appendStringInfoString(&buf, _("Etcd did not say in time who holds the lock."));
	return buf.data;
}
