/*-------------------------------------------------------------------------
 *
 * role_requests.c
 *	  Counts the requests of each role that are in flight.
 *
 * This is for etcd_lock.max_requests_per_role, and so that a role that has
 * none does not wait for those of others.  Deletions count, but are not held
 * up, because somebody may wait for them.  Requests of claims, breaks and
 * views are limited where sessions take their slots (slot_turns.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "worker/context.h"
#include "worker/role_requests.h"

typedef struct RoleInFlight
{
	Oid			role;			/* hash key */
	int			n;				/* never 0 */
} RoleInFlight;

struct RoleRequests
{
	HTAB	   *in_flight;
};

#define MyRoleRequests (MyWorker->role_requests)

void
role_requests_create(void)
{
	HASHCTL		info = {.keysize = sizeof(Oid),.entrysize = sizeof(RoleInFlight)};

	info.hcxt = TopMemoryContext;
	MyRoleRequests = MemoryContextAllocZero(TopMemoryContext, sizeof(struct RoleRequests));
	MyRoleRequests->in_flight = hash_create("etcd_lock requests of roles", 16, &info,
											HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

bool
role_requests_may_send(const LockKey *key)
{
	const RoleInFlight *found;

	if (key->max_requests < 0)
		return true;
	found = hash_search(MyRoleRequests->in_flight, &key->role, HASH_FIND, NULL);
	return found == NULL || found->n < key->max_requests;
}

bool
role_requests_is_idle(Oid role)
{
	return hash_search(MyRoleRequests->in_flight, &role, HASH_FIND, NULL) == NULL;
}

void
role_requests_sent(Oid role)
{
	bool		found;
	RoleInFlight *entry = hash_search(MyRoleRequests->in_flight, &role, HASH_ENTER, &found);

	entry->n = found ? entry->n + 1 : 1;
}

void
role_requests_ended(Oid role)
{
	RoleInFlight *entry = hash_search(MyRoleRequests->in_flight, &role, HASH_FIND, NULL);

	Assert(entry != NULL);
	if (entry != NULL && --entry->n == 0)
		(void) hash_search(MyRoleRequests->in_flight, &role, HASH_REMOVE, NULL);
}
