/*-------------------------------------------------------------------------
 *
 * deadline.c
 *	  The time until which this server may rely on its locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/deadline.h"

void
deadline_init(DeadlineShared *deadline)
{
	pg_atomic_init_u64(&deadline->epoch, 1);
	pg_atomic_init_u64(&deadline->boottime, 0);
	pg_atomic_init_u64(&deadline->raw, 0);
}

uint64
deadline_epoch(const DeadlineShared *deadline)
{
	return pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &deadline->epoch));
}

/*
 * The worker sets the deadline to 0 before it raises the epoch, and sets a new
 * one only afterwards.  So if the epoch is the same before and after reading
 * the deadline, the deadline belongs to that epoch or is 0.
 */
bool
deadline_valid(DeadlineShared *deadline, uint64 epoch)
{
	int64		boottime;
	int64		raw;
	ClockReading now;

	if (pg_atomic_read_u64(&deadline->epoch) != epoch)
		return false;
	pg_read_barrier();
	boottime = (int64) pg_atomic_read_u64(&deadline->boottime);
	raw = (int64) pg_atomic_read_u64(&deadline->raw);
	pg_read_barrier();
	if (pg_atomic_read_u64(&deadline->epoch) != epoch)
		return false;

#ifdef ETCD_LOCK_WEAKEN_DEADLINE	/* test/torture shows that this check is
									 * needed */
	return true;
#endif
	now = clock_read();
	return now.boottime < boottime && now.raw < raw;
}

int64
deadline_left(DeadlineShared *deadline)
{
	ClockReading now = clock_read();
	int64		left;

	left = Min((int64) pg_atomic_read_u64(&deadline->boottime) - now.boottime,
			   (int64) pg_atomic_read_u64(&deadline->raw) - now.raw);
	return Max(left, 0);
}

void
deadline_extend(DeadlineShared *deadline, ClockReading from, int64 microseconds)
{
	int64		boottime = from.boottime + microseconds;
	int64		raw = from.raw + microseconds;

	if (boottime > (int64) pg_atomic_read_u64(&deadline->boottime))
		pg_atomic_write_u64(&deadline->boottime, boottime);
	if (raw > (int64) pg_atomic_read_u64(&deadline->raw))
		pg_atomic_write_u64(&deadline->raw, raw);
}

void
deadline_end_epoch(DeadlineShared *deadline)
{
	pg_atomic_write_u64(&deadline->boottime, 0);
	pg_atomic_write_u64(&deadline->raw, 0);
	pg_write_barrier();
	pg_atomic_fetch_add_u64(&deadline->epoch, 1);
}
