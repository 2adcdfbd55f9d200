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

/*
 * Base64 once more, bit by bit, to compare with: false when "text" is not the
 * one way to write some bytes.  "bytes" has room for len of them.
 */
static inline bool
plain_base64(const char *text, size_t len, char *bytes, size_t *n)
{
	static const char digits[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t		padding = 0;
	size_t		bit;
	size_t		nbits;

	while (padding < len && text[len - 1 - padding] == '=')
		padding++;
	if (len % 4 != 0 || padding > 2)
		return false;
	nbits = (len - padding) * 6;
	*n = nbits / 8;
	memset(bytes, 0, len);
	for (bit = 0; bit < nbits; bit++)
	{
		const char *digit = memchr(digits, text[bit / 6], 64);

		if (digit == NULL)
			return false;
		if (((digit - digits) >> (5 - bit % 6) & 1) == 0)
			continue;
		if (bit / 8 >= *n)
			return false;		/* left over bits must be 0 */
		bytes[bit / 8] |= (char) (1 << (7 - bit % 8));
	}
	return true;
}

#endif							/* FUZZ_H */
