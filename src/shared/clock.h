/*-------------------------------------------------------------------------
 *
 * clock.h
 *	  The clocks that measure deadlines, timeouts and windows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CLOCK_H
#define CLOCK_H

#include "postgres.h"

/*
 * Two clocks, in microseconds.  CLOCK_BOOTTIME keeps running while the machine
 * is suspended; CLOCK_MONOTONIC_RAW is not slewed by NTP.  A time is over as
 * soon as either clock says so.
 */
typedef struct ClockReading
{
	int64		boottime;
	int64		raw;
} ClockReading;

extern ClockReading clock_read(void);

/* CLOCK_BOOTTIME in microseconds, for timeouts and windows. */
extern int64 clock_now(void);

#endif							/* CLOCK_H */
