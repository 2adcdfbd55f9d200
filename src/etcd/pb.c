/*-------------------------------------------------------------------------
 *
 * pb.c
 *	  Protocol Buffers' wire format: fields written and read one by one.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/pb.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_VARINT	10
#define MAX_FIELD		((1 << 29) - 1)

/*
 * Writing
 */

bool
pb_write_start(PbWriter *writer, size_t size)
{
	memset(writer, 0, sizeof(*writer));
	writer->data = malloc(size);
	writer->size = size;
	writer->failed = writer->data == NULL;
	return !writer->failed;
}

/* Make room for "more" bytes.  Returns false if out of memory. */
static bool
reserve(PbWriter *writer, size_t more)
{
	size_t		size = writer->size;
	uint8_t    *data;

	if (writer->failed)
		return false;
	assert(writer->len <= writer->size);
	if (more <= size - writer->len)
		return true;
	size = (size > more ? size : more) * 2;
	data = realloc(writer->data, size);
	if (data == NULL)
	{
		writer->failed = true;
		return false;
	}
	writer->data = data;
	writer->size = size;
	return true;
}

static size_t
put_varint(uint8_t *dst, uint64_t value)
{
	size_t		n = 0;

	while (value >= 0x80)
	{
		dst[n++] = (uint8_t) (value | 0x80);
		value >>= 7;
	}
	dst[n++] = (uint8_t) value;
	return n;
}

static void
write_varint(PbWriter *writer, uint64_t value)
{
	if (reserve(writer, LONGEST_VARINT))
		writer->len += put_varint(writer->data + writer->len, value);
}

static void
write_tag(PbWriter *writer, int field, PbWire wire)
{
	write_varint(writer, (uint64_t) field << 3 | wire);
}

void
pb_write_int_always(PbWriter *writer, int field, int64_t value)
{
	write_tag(writer, field, PB_VARINT);
	write_varint(writer, (uint64_t) value);
}

void
pb_write_int(PbWriter *writer, int field, int64_t value)
{
	if (value != 0)
		pb_write_int_always(writer, field, value);
}

void
pb_write_bytes(PbWriter *writer, int field, const void *data, size_t len)
{
	if (len == 0)
		return;
	write_tag(writer, field, PB_BYTES);
	write_varint(writer, len);
	if (!reserve(writer, len))
		return;
	memcpy(writer->data + writer->len, data, len);
	writer->len += len;
}

/* One byte is reserved for the length, which is usually enough. */
size_t
pb_write_open(PbWriter *writer, int field)
{
	write_tag(writer, field, PB_BYTES);
	if (reserve(writer, 1))
		writer->len++;
	return writer->len;
}

void
pb_write_close(PbWriter *writer, size_t opened)
{
	uint8_t		length[LONGEST_VARINT];
	size_t		len;
	size_t		n;

	if (writer->failed)
		return;
	assert(opened > 1 && opened <= writer->len);
	len = writer->len - opened;
	n = put_varint(length, len);
	if (!reserve(writer, n - 1))
		return;
	memmove(writer->data + opened + n - 1, writer->data + opened, len);
	memcpy(writer->data + opened - 1, length, n);
	writer->len += n - 1;
}

/*
 * Reading
 */

void
pb_read_start(PbReader *reader, const void *data, size_t len)
{
	reader->next = data;
	reader->end = reader->next + len;
	reader->broken = false;
}

static bool
broken(PbReader *reader)
{
	reader->broken = true;
	return false;
}

/* The tenth byte has the last one of 64 bits. */
static bool
read_varint(PbReader *reader, uint64_t *value)
{
	int			shift;

	*value = 0;
	for (shift = 0; shift < 64; shift += 7)
	{
		uint8_t		byte;

		if (reader->next == reader->end)
			return broken(reader);
		byte = *reader->next++;
		if (shift == 63 && byte > 1)
			return broken(reader);
		*value |= (uint64_t) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
			return true;
	}
	return broken(reader);
}

static bool
read_bytes(PbReader *reader, PbField *field, uint64_t len)
{
	if (len > (uint64_t) (reader->end - reader->next))
		return broken(reader);
	field->data = reader->next;
	field->len = (size_t) len;
	reader->next += len;
	return true;
}

bool
pb_read(PbReader *reader, PbField *field)
{
	uint64_t	tag;
	uint64_t	len;

	if (reader->broken || reader->next == reader->end)
		return false;
	memset(field, 0, sizeof(*field));
	if (!read_varint(reader, &tag))
		return false;
	if (tag >> 3 == 0 || tag >> 3 > MAX_FIELD)
		return broken(reader);
	field->number = (int) (tag >> 3);
	field->wire = (PbWire) (tag & 7);
	switch (field->wire)
	{
		case PB_VARINT:
			return read_varint(reader, &field->value);
		case PB_FIXED64:
			return read_bytes(reader, field, 8);
		case PB_BYTES:
			return read_varint(reader, &len) && read_bytes(reader, field, len);
		case PB_FIXED32:
			return read_bytes(reader, field, 4);
	}
	return broken(reader);		/* a group, or an unknown type */
}
