/*-------------------------------------------------------------------------
 *
 * printable.c
 *	  Makes foreign text fit for logs and views.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/printable.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/*
 * Returns the length of the UTF-8 character at "text", or 0 if the bytes there
 * are not a well-formed printable one.
 */
static size_t
printable_length(const unsigned char *text, size_t len)
{
	uint32_t	c = text[0];
	uint32_t	least;
	size_t		n;
	size_t		i;

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f ? 1 : 0;
	if (c >= 0xc0 && c < 0xe0)
	{
		n = 2;
		c &= 0x1f;
		least = 0xa0;			/* below are control characters */
	}
	else if (c >= 0xe0 && c < 0xf0)
	{
		n = 3;
		c &= 0x0f;
		least = 0x800;
	}
	else if (c >= 0xf0 && c < 0xf8)
	{
		n = 4;
		c &= 0x07;
		least = 0x10000;
	}
	else
		return 0;
	if (len < n)
		return 0;
	for (i = 1; i < n; i++)
	{
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (text[i] & 0x3f);
	}
	if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	return n;
}

/*
 * Each sequence of white space and unprintable bytes becomes one space, but
 * none at either end.
 */
void
printable_copy(char *dst, size_t size, const char *text, size_t len)
{
	const unsigned char *in = (const unsigned char *) text;
	size_t		used = 0;
	bool		space = false;

	assert(size > 0);
	while (len > 0)
	{
		size_t		n = *in == ' ' ? 0 : printable_length(in, len);

		if (n == 0)
		{
			space = used > 0;
			in++;
			len--;
			continue;
		}
		if (used + (space ? 1 : 0) + n >= size)
			break;
		if (space)
			dst[used++] = ' ';
		space = false;
		memcpy(dst + used, in, n);
		used += n;
		in += n;
		len -= n;
	}
	dst[used] = '\0';
}
