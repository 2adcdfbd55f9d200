/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What the fuzz targets share.
 *
 * A target is one function, which libFuzzer (or AFL++) calls with bytes.  It
 * must come back whatever they are; a memory error, undefined behaviour, a leak
 * and a check() that fails are findings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define check(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: check failed: %s\n", \
					__FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

/* Memory of the exact size, so that reading beyond its end is noticed. */
static inline char *
exact_copy(const void *data, size_t len)
{
	char	   *copy = malloc(len > 0 ? len : 1);

	check(copy != NULL);
	if (len > 0)
		memcpy(copy, data, len);
	return copy;
}

/* FNV-1a: to compare results, and to draw what follows from the input alone. */
#define HASH_START	UINT64_C(14695981039346656037)

static inline uint64_t
hash_bytes(uint64_t hash, const void *data, size_t len)
{
	const uint8_t *byte = data;
	size_t		i;

	for (i = 0; i < len; i++)
		hash = (hash ^ byte[i]) * UINT64_C(1099511628211);
	return hash;
}

static inline uint64_t
hash_number(uint64_t hash, uint64_t number)
{
	return hash_bytes(hash, &number, sizeof(number));
}

/* The next number of a sequence that *state stands for. */
static inline uint32_t
draw(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t) (*state >> 33);
}

#endif							/* FUZZ_H */
