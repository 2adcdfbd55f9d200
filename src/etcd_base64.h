/*-------------------------------------------------------------------------
 *
 * etcd_base64.h
 *	  Base64 as etcd's JSON gateway uses it: standard alphabet, padded.
 *
 * Pure: knows neither PostgreSQL nor curl, and allocates nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_BASE64_H
#define ETCD_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes that encoding or decoding "len" bytes needs at most, without a NUL. */
#define ETCD_BASE64_ENCODED_LEN(len)	(((len) + 2) / 3 * 4)
#define ETCD_BASE64_DECODED_LEN(len)	((len) / 4 * 3)

/* Writes ETCD_BASE64_ENCODED_LEN(len) characters and a NUL behind them. */
extern void etcd_base64_encode(const char *src, size_t len, char *dst);

/*
 * False when "src" is not what an encoder makes of some bytes: characters out
 * of the alphabet, white space, missing padding, bits set behind the last
 * byte.  Then *dst_len is unset and dst holds anything.
 */
extern bool etcd_base64_decode(const char *src, size_t len,
							   char *dst, size_t *dst_len);

#endif							/* ETCD_BASE64_H */
