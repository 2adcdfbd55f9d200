/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  The clocks that measure deadlines, timeouts and windows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "shared/clock.h"

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
