/*-------------------------------------------------------------------------
 *
 * etcd_base64.c
 *	  Base64 as etcd's JSON gateway uses it: standard alphabet, padded.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_base64.h"

#include <stdint.h>

static const char alphabet[] =
"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
etcd_base64_encode(const char *src, size_t len, char *dst)
{
	const unsigned char *in = (const unsigned char *) src;

	for (; len >= 3; len -= 3, in += 3)
	{
		*dst++ = alphabet[in[0] >> 2];
		*dst++ = alphabet[(in[0] & 0x03) << 4 | in[1] >> 4];
		*dst++ = alphabet[(in[1] & 0x0f) << 2 | in[2] >> 6];
		*dst++ = alphabet[in[2] & 0x3f];
	}
	if (len > 0)
	{
		unsigned char second = len == 2 ? in[1] : 0;

		*dst++ = alphabet[in[0] >> 2];
		*dst++ = alphabet[(in[0] & 0x03) << 4 | second >> 4];
		*dst++ = len == 2 ? alphabet[(second & 0x0f) << 2] : '=';
		*dst++ = '=';
	}
	*dst = '\0';
}

/* The six bits that a character stands for, or -1. */
static int
sextet(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+')
		return 62;
	if (c == '/')
		return 63;
	return -1;
}

bool
etcd_base64_decode(const char *src, size_t len, char *dst, size_t *dst_len)
{
	char	   *out = dst;
	size_t		padding = 0;
	size_t		i;
	uint32_t	bits = 0;

	if (len % 4 != 0)
		return false;
	if (len > 0 && src[len - 1] == '=')
		padding = src[len - 2] == '=' ? 2 : 1;

	for (i = 0; i < len - padding; i++)
	{
		int			six = sextet(src[i]);

		if (six < 0)
			return false;
		bits = bits << 6 | (uint32_t) six;
		if (i % 4 == 3)
		{
			*out++ = (char) (bits >> 16 & 0xff);
			*out++ = (char) (bits >> 8 & 0xff);
			*out++ = (char) (bits & 0xff);
			bits = 0;
		}
	}

	/* What is left are 12 bits for one byte, or 18 for two. */
	if (padding == 2)
	{
		if ((bits & 0x0f) != 0)
			return false;
		*out++ = (char) (bits >> 4 & 0xff);
	}
	else if (padding == 1)
	{
		if ((bits & 0x03) != 0)
			return false;
		*out++ = (char) (bits >> 10 & 0xff);
		*out++ = (char) (bits >> 2 & 0xff);
	}
	*dst_len = (size_t) (out - dst);
	return true;
}
