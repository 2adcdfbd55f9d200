/*-------------------------------------------------------------------------
 *
 * sim_random.h
 *	  Random numbers that a seed decides: splitmix64.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct SimRandom
{
	uint64_t	state;
} SimRandom;

static inline uint64_t
sim_random_next(SimRandom *random)
{
	uint64_t	z = (random->state += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* 0 to n - 1 */
static inline int64_t
sim_random_below(SimRandom *random, int64_t n)
{
	return n <= 0 ? 0 : (int64_t) (sim_random_next(random) % (uint64_t) n);
}

/* from low to high, both included */
static inline int64_t
sim_random_between(SimRandom *random, int64_t low, int64_t high)
{
	return low + sim_random_below(random, high - low + 1);
}

/* true once in n times */
static inline bool
sim_random_one_in(SimRandom *random, int64_t n)
{
	return sim_random_below(random, n) == 0;
}

#endif							/* SIM_RANDOM_H */
