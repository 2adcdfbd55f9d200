/*-------------------------------------------------------------------------
 *
 * etcd_stream.c
 *	  Cuts the answer of a streaming request into its JSON messages.
 *
 * Only braces, brackets and strings are followed, enough to find where an
 * object ends; whether it is good JSON is for the decoder to say.  A message
 * that lies whole in the fed bytes is handed out from there without a copy.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_stream.h"

#include <stdlib.h>
#include <string.h>

/* A buffer larger than this is given back after its message. */
#define KEEP_SIZE	(64 * 1024)

void
etcd_stream_init(EtcdStream *stream, size_t max)
{
	memset(stream, 0, sizeof(*stream));
	stream->max = max;
}

void
etcd_stream_free(EtcdStream *stream)
{
	free(stream->buf);
	etcd_stream_init(stream, stream->max);
}

static bool
fail(EtcdStream *stream)
{
	free(stream->buf);
	stream->buf = NULL;
	stream->len = 0;
	stream->size = 0;
	stream->failed = true;
	return false;
}

static bool
append(EtcdStream *stream, const char *data, size_t len)
{
	if (len > stream->max - stream->len)
		return false;
	if (len > stream->size - stream->len)
	{
		size_t		size = stream->size == 0 ? 1024 : stream->size;
		char	   *buf;

		while (size - stream->len < len)
			size *= 2;
		buf = realloc(stream->buf, size);
		if (buf == NULL)
			return false;
		stream->buf = buf;
		stream->size = size;
	}
	memcpy(stream->buf + stream->len, data, len);
	stream->len += len;
	return true;
}

/* Follow one byte of a message; true when it ends the message. */
static bool
follow(EtcdStream *stream, char c)
{
	if (stream->in_string)
	{
		if (stream->escaped)
			stream->escaped = false;
		else if (c == '\\')
			stream->escaped = true;
		else if (c == '"')
			stream->in_string = false;
		return false;
	}
	if (c == '"')
		stream->in_string = true;
	else if (c == '{' || c == '[')
		stream->depth++;
	else if (c == '}' || c == ']')
		return --stream->depth == 0;
	return false;
}

/*
 * Hand out the message whose last bytes are data[0..len).  The stream is
 * ready for the next one before the callback is called, which need not
 * return.
 */
static bool
deliver(EtcdStream *stream, const char *data, size_t len,
		EtcdStreamCallback callback, void *arg)
{
	if (len > stream->max - stream->len)
		return false;
	if (stream->len > 0)
	{
		if (!append(stream, data, len))
			return false;
		data = stream->buf;
		len = stream->len;
		stream->len = 0;
	}
	callback(arg, data, len);
	if (stream->size > KEEP_SIZE)
	{
		free(stream->buf);
		stream->buf = NULL;
		stream->size = 0;
	}
	return true;
}

bool
etcd_stream_feed(EtcdStream *stream, const char *data, size_t len,
				 EtcdStreamCallback callback, void *arg)
{
	size_t		start = 0;		/* of the message's bytes within data */
	size_t		i;

	if (stream->failed)
		return false;
	for (i = 0; i < len; i++)
	{
		char		c = data[i];

		if (stream->depth == 0)
		{
			if (c == ' ' || c == '\t' || c == '\r' || c == '\n')
				continue;
			if (c != '{')
				return fail(stream);
			start = i;
		}
		if (follow(stream, c) &&
			!deliver(stream, data + start, i + 1 - start, callback, arg))
			return fail(stream);
	}
	if (stream->depth > 0 && !append(stream, data + start, len - start))
		return fail(stream);
	return true;
}
