/*-------------------------------------------------------------------------
 *
 * decoder.c
 *	  Reads a message of etcd's field by field.
 *
 * This file checks types, duplicates and the number of elements; etcd_response.c
 * knows what the fields mean.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/decoder.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "etcd/printable.h"

/* Initial room for elements in a list. */
#define FIRST_ELEMENTS	8

/* Fields that may come once have numbers below this. */
#define SEEN_BITS		32

bool
decoder_bad(EtcdError *err, const char *fmt,...)
{
	va_list		args;
	char		text[ETCD_MESSAGE_SIZE];

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	err->code = ETCD_BAD_RESPONSE;
	printable_copy(err->message, sizeof(err->message), text, strlen(text));
	return false;
}

bool
decoder_out_of_memory(EtcdError *err)
{
	return decoder_bad(err, "out of memory while reading etcd's response");
}

/* ----------------------------------------------------------------
 *		Fields
 * ----------------------------------------------------------------
 */

Decoder
decoder_open_message(const void *data, size_t len, int *nelements, EtcdError *err)
{
	Decoder		decoder = {.nelements = nelements,.err = err};

	pb_read_start(&decoder.reader, data, len);
	return decoder;
}

/* Open a message that is nested in the current one. */
Decoder
decoder_open_field(const Decoder *outer)
{
	return decoder_open_message(outer->field.data, outer->field.len, outer->nelements,
								outer->err);
}

bool
decoder_next_field(Decoder *decoder)
{
	return pb_read(&decoder->reader, &decoder->field);
}

/* After the last field: was that the message's end? */
bool
decoder_is_whole(const Decoder *decoder)
{
	return !decoder->reader.broken ||
		decoder_bad(decoder->err, "malformed message in etcd's response");
}

bool
decoder_has_wire(const Decoder *decoder, PbWire wire)
{
	return decoder->field.wire == wire ||
		decoder_bad(decoder->err, "unexpected type of field %d in etcd's response",
					decoder->field.number);
}

/* Check a field that may come only once. */
bool
decoder_is_single(Decoder *decoder, PbWire wire)
{
	uint32_t	bit;

	assert(decoder->field.number < SEEN_BITS);
	bit = UINT32_C(1) << decoder->field.number;
	if (!decoder_has_wire(decoder, wire))
		return false;
	if (decoder->seen & bit)
		return decoder_bad(decoder->err, "field %d is duplicated in etcd's response",
						   decoder->field.number);
	decoder->seen |= bit;
	return true;
}

bool
decoder_was_seen(const Decoder *decoder, int number)
{
	assert(number > 0 && number < SEEN_BITS);
	return (decoder->seen & UINT32_C(1) << number) != 0;
}

bool
decoder_read_int(Decoder *decoder, int64_t *value)
{
	if (!decoder_is_single(decoder, PB_VARINT))
		return false;
	*value = (int64_t) decoder->field.value;
	return true;
}

bool
decoder_read_uint(Decoder *decoder, uint64_t *value)
{
	if (!decoder_is_single(decoder, PB_VARINT))
		return false;
	*value = decoder->field.value;
	return true;
}

bool
decoder_read_bool(Decoder *decoder, bool *value)
{
	if (!decoder_is_single(decoder, PB_VARINT))
		return false;
	if (decoder->field.value > 1)
		return decoder_bad(decoder->err, "invalid boolean in field %d of etcd's response",
						   decoder->field.number);
	*value = decoder->field.value != 0;
	return true;
}

bool
decoder_read_text(Decoder *decoder, char *dst, size_t size)
{
	if (!decoder_is_single(decoder, PB_BYTES))
		return false;
	printable_copy(dst, size, (const char *) decoder->field.data, decoder->field.len);
	return true;
}

/*
 * Add a zeroed element to a list.  Returns NULL if there are too many, or no
 * memory.  The room doubles, so *n tells how much there is.
 */
void *
decoder_add_element(Decoder *decoder, void **elements, int *n, size_t size)
{
	bool		is_full = *n == 0 ||
		(*n >= FIRST_ELEMENTS && (*n & (*n - 1)) == 0);
	char	   *element;

	if (*decoder->nelements >= DECODER_MAX_ELEMENTS)
	{
		decoder_bad(decoder->err, "etcd's response has more than %d elements", DECODER_MAX_ELEMENTS);
		return NULL;
	}
	if (is_full)
	{
		size_t		room = *n == 0 ? FIRST_ELEMENTS : (size_t) *n * 2;
		void	   *larger = realloc(*elements, room * size);

		if (larger == NULL)
		{
			decoder_out_of_memory(decoder->err);
			return NULL;
		}
		*elements = larger;
	}
	element = (char *) *elements + (size_t) *n * size;
	memset(element, 0, size);
	++*decoder->nelements;
	++*n;
	return element;
}
