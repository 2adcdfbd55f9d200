/*-------------------------------------------------------------------------
 *
 * old_leases.c
 *	  Revoking earlier leases of this server.
 *
 * This frees the locks of sessions that are gone.  Each lease runs out by
 * itself in the end, so nothing depends on this, and nothing waits for more
 * than one attempt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/link.h"
#include "shared/clock.h"
#include "shared/lease_id.h"
#include "shared/loss_signal.h"
#include "shared/settings.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/old_leases.h"

/* There are only a few; those beyond this number run out by themselves. */
#define MAX_OLD_LEASES		64

/* How many leases that etcd did not allow us to revoke are remembered. */
#define MAX_REFUSED			64

#define RETRY_PAUSE			INT64CONST(100000)	/* microseconds */
#define COMMIT_PAUSE		INT64CONST(5000)	/* likewise */
#define REVOKE_TIMEOUT		1000	/* milliseconds */

typedef struct OldLease
{
	int64		id;				/* 0: this slot is free */
	bool		in_flight;
	bool		was_asked;		/* at least once, with any result */
	int64		retry_at;		/* clock_now() */
	int64		hold_until;		/* likewise: for sessions past the guard */
} OldLease;

struct OldLeases
{
	OldLease	leases[MAX_OLD_LEASES];
	int64		refused[MAX_REFUSED];	/* a ring */
	int			next_refused;
};

#define MyOldLeases (MyWorker->old_leases)

void
old_leases_create(void)
{
	MyOldLeases = MemoryContextAllocZero(TopMemoryContext, sizeof(struct OldLeases));
}

static bool
was_refused(int64 id)
{
	for (int i = 0; i < MAX_REFUSED; i++)
	{
		if (MyOldLeases->refused[i] == id)
			return true;
	}
	return false;
}

/* With id 0, finds a free slot. */
static OldLease *
find(int64 id)
{
	for (int i = 0; i < MAX_OLD_LEASES; i++)
	{
		if (MyOldLeases->leases[i].id == id)
			return &MyOldLeases->leases[i];
	}
	return NULL;
}

bool
old_leases_add(int64 id, int64 hold_until)
{
	OldLease   *old;

	Assert(id != 0);
	if (was_refused(id) || find(id) != NULL || (old = find(0)) == NULL)
		return false;
	memset(old, 0, sizeof(*old));
	old->id = id;
	old->hold_until = hold_until;
	return true;
}

static bool
is_held(const OldLease *old)
{
	return old->hold_until > clock_now() && loss_signal_any_committing();
}

bool
old_leases_is_held(int64 id)
{
	const OldLease *old = find(id);

	return id != 0 && old != NULL && is_held(old);
}

/*
 * Etcd has responded, and still has the lease.  Is it pointless to ask again?
 */
static bool
is_final(const EtcdResponse *response, const EtcdError *error)
{
	switch (error->code)
	{
		case ETCD_BAD_RESPONSE:
			link_bad_response(response, error->message);
			return false;
		case ETCD_UNAVAILABLE:
		case ETCD_RESOURCE_EXHAUSTED:
		case ETCD_DEADLINE_EXCEEDED:
			return false;
		default:
			return true;
	}
}

/* The lease has keys that we may not delete. */
static void
note_refused(OldLease *old, const EtcdError *error)
{
	ereport(LOG,
			(errcode(ERRCODE_CONNECTION_EXCEPTION),
			 errmsg("etcd_lock: could not revoke the old lease %llx: %s",
					(unsigned long long) old->id, error->message),
			 errdetail("It expires by itself.")));
	MyOldLeases->refused[MyOldLeases->next_refused] = old->id;
	MyOldLeases->next_refused = (MyOldLeases->next_refused + 1) % MAX_REFUSED;
	old->id = 0;
}

static void
revoked(void *arg, const EtcdResponse *response)
{
	OldLease   *old = find((int64) (intptr_t) arg);
	EtcdHeader	header;
	EtcdError	error;

	Assert(old != NULL && old->in_flight);
	old->in_flight = false;
	old->was_asked = true;
	old->retry_at = clock_now() + RETRY_PAUSE;
	if (!response->delivered)
		return;
	if (etcd_response_header(&response->reply, &header, &error) ||
		error.code == ETCD_NOT_FOUND)
		old->id = 0;
	else if (is_final(response, &error))
		note_refused(old, &error);
}

void
old_leases_tick(void)
{
	static const LinkCallbacks callbacks = {.done = revoked};

	if (MyWorker->stopping || !link_ready())
		return;
	for (int i = 0; i < MAX_OLD_LEASES; i++)
	{
		OldLease   *old = &MyOldLeases->leases[i];

		if (old->id == 0 || old->in_flight || old->retry_at > clock_now())
			continue;
		if (is_held(old))
		{
			old->retry_at = clock_now() + COMMIT_PAUSE;
			continue;
		}
		old->in_flight = link_call(LINK_SIDE, etcd_request_lease_revoke(old->id),
								   Min(REVOKE_TIMEOUT, etcd_lock_request_timeout),
								   &callbacks, (void *) (intptr_t) old->id) != NULL;
		if (!old->in_flight)
			old->retry_at = clock_now() + RETRY_PAUSE;
	}
}

int64
old_leases_next_time(void)
{
	int64		next = PG_INT64_MAX;

	if (MyWorker->stopping)
		return next;
	for (int i = 0; i < MAX_OLD_LEASES; i++)
	{
		const OldLease *old = &MyOldLeases->leases[i];

		if (old->id != 0 && !old->in_flight)
			next = Min(next, old->retry_at);
	}
	return next == PG_INT64_MAX ? next : Max(next, link_next_time());
}

/*
 * The names of keys show which are of leases with our own base, so those are
 * ours (rule 14).
 */
bool
old_leases_await(void)
{
	for (int i = 0; i < MAX_OLD_LEASES; i++)
	{
		const OldLease *old = &MyOldLeases->leases[i];

		if (old->id != 0 && !old->was_asked && !lease_id_is_own(old->id))
			return true;
	}
	return false;
}
