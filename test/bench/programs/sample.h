/*-------------------------------------------------------------------------
 *
 * sample.h
 *	  How the benchmark's programs tell what they measured.
 *
 * One line for each operation, "KIND MICROSECONDS", and a last line "done
 * OPERATIONS SECONDS".  They are kept in memory until the end, so that writing
 * them is not measured.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct Sample
{
	const char *kind;
	double		us;
} Sample;

static Sample *samples;
static size_t nsamples;
static size_t room;

static inline double
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static inline void
fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static inline void
sample(const char *kind, double us)
{
	if (nsamples == room)
	{
		room = room ? room * 2 : 65536;
		samples = realloc(samples, room * sizeof(Sample));
		if (samples == NULL)
			fail("out of memory");
	}
	samples[nsamples].kind = kind;
	samples[nsamples++].us = us;
}

static inline void
print_samples(long operations, double us)
{
	size_t		i;

	for (i = 0; i < nsamples; i++)
		printf("%s %.2f\n", samples[i].kind, samples[i].us);
	printf("done %ld %.6f\n", operations, us / 1e6);
}

#endif							/* SAMPLE_H */
