/*-------------------------------------------------------------------------
 *
 * deadline.c
 *	  Until when this server may believe that it holds its locks.
 *
 *-------------------------------------------------------------------------
 */
#include "deadline.h"

#include <time.h>

static int64
read_one_clock(clockid_t id)
{
	struct timespec ts;

	/* Cannot fail on Linux for the clocks in use. */
	clock_gettime(id, &ts);
	return (int64) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

ClockReading
clock_read(void)
{
	ClockReading reading;

	reading.boottime = read_one_clock(CLOCK_BOOTTIME);
	reading.raw = read_one_clock(CLOCK_MONOTONIC_RAW);
	return reading;
}

int64
clock_now(void)
{
	return read_one_clock(CLOCK_BOOTTIME);
}

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

#ifdef ETCD_LOCK_WEAKEN_DEADLINE	/* test/torture shows that it is missed */
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
