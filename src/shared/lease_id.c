/*-------------------------------------------------------------------------
 *
 * lease_id.c
 *	  The id of this server's lease in etcd, which is ours to choose.
 *
 * 		base (1, and 38 random bits, drawn by the postmaster once)	39 bits
 * 		a random number for each epoch								24 bits
 *
 * so that a new worker recognizes earlier leases by their base and revokes
 * them: after a crash of a backend, the locks of dead sessions are free at once.
 * The base is never written to disk, because a base backup would carry it to
 * another server.
 *
 * Anybody who can log in to etcd may grant leases with ids of their choice, and see
 * all existing ones.  So the next id must not follow from the last one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/lease_id.h"
#include "shared/lock_table.h"

#define BASE_BITS		39
#define EPOCH_BITS		24
#define EPOCH_MASK		((UINT64CONST(1) << EPOCH_BITS) - 1)

static uint64
random_number(int elevel)
{
	uint64		number;

	if (!pg_strong_random(&number, sizeof(number)))
		ereport(elevel,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random lease id")));
	return number;
}

/*
 * In the postmaster, at every start of shared memory: after a crash of a
 * backend too, when the base must stay.
 */
void
lease_id_shmem_init(void)
{
	static uint64 base = 0;

	if (base == 0)
	{
		base = random_number(FATAL) & ((UINT64CONST(1) << BASE_BITS) - 1);
		base |= UINT64CONST(1) << (BASE_BITS - 1);	/* neither 0 nor short */
	}
	lock_shared->lease_id = base << EPOCH_BITS;
	lease_id_draw(FATAL);
}

void
lease_id_draw(int elevel)
{
	uint64		old = lock_shared->lease_id;

	do
		lock_shared->lease_id = (old & ~EPOCH_MASK) | (random_number(elevel) & EPOCH_MASK);
	while (lock_shared->lease_id == old);
}

int64
lease_id(void)
{
	return (int64) lock_shared->lease_id;
}

const char *
lease_id_hex(void)
{
	static char hex[20];

	snprintf(hex, sizeof(hex), "%llx", (unsigned long long) lease_id());
	return hex;
}

const char *
lease_id_base_hex(void)
{
	static char base[20];

	snprintf(base, sizeof(base), "%llx",
			 (unsigned long long) (lease_id() >> EPOCH_BITS));
	return base;
}

bool
lease_id_is_own(int64 id)
{
	return ((uint64) id >> EPOCH_BITS) == (lock_shared->lease_id >> EPOCH_BITS);
}
