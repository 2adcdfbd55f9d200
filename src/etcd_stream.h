/*-------------------------------------------------------------------------
 *
 * etcd_stream.h
 *	  Cuts the answer of a streaming request into its JSON messages.
 *
 * etcd's gateway sends one JSON object after another, and the network may cut
 * or join them anywhere.  Pure: knows neither PostgreSQL nor curl.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_STREAM_H
#define ETCD_STREAM_H

#include <stdbool.h>
#include <stddef.h>

typedef struct EtcdStream
{
	char	   *buf;			/* the message begun and not yet complete */
	size_t		len;
	size_t		size;
	size_t		max;			/* a longer message is an error, bytes */
	int			depth;			/* open braces and brackets */
	bool		in_string;
	bool		escaped;		/* the last byte was a backslash in a string */
	bool		failed;
} EtcdStream;

/* Called once for each complete message, in order.  Must not feed or free. */
typedef void (*EtcdStreamCallback) (void *arg, const char *message, size_t len);

extern void etcd_stream_init(EtcdStream *stream, size_t max);

/*
 * Take in the next bytes.  False once the stream holds something that is not
 * a sequence of JSON objects, a message is too long, or memory is exhausted;
 * every further call is then false too.
 */
extern bool etcd_stream_feed(EtcdStream *stream, const char *data, size_t len,
							 EtcdStreamCallback callback, void *arg);
extern void etcd_stream_free(EtcdStream *stream);

#endif							/* ETCD_STREAM_H */
