/*-------------------------------------------------------------------------
 *
 * pb.h
 *	  Protocol Buffers' wire format: fields written and read one by one.
 *
 * As much of the format as etcd's API needs: varints, bytes, nested messages.
 * A writer that runs out of memory reports that once, at the end; a reader
 * that finds a violation of the format stops, and reports that once, at its
 * end.  A reader copies nothing: what it returns points into the message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PB_H
#define PB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a field's value is written. */
typedef enum PbWire
{
	PB_VARINT = 0,
	PB_FIXED64 = 1,
	PB_BYTES = 2,
	PB_FIXED32 = 5
} PbWire;

typedef struct PbWriter
{
	uint8_t    *data;			/* malloc'd */
	size_t		len;
	size_t		size;
	bool		failed;			/* out of memory: nothing more is written */
} PbWriter;

/* Begins with "size" bytes.  Returns false if out of memory. */
extern bool pb_write_start(PbWriter *writer, size_t size);

/* Proto3 leaves out zeros, false and empty bytes; so do these. */
extern void pb_write_int(PbWriter *writer, int field, int64_t value);
extern void pb_write_bytes(PbWriter *writer, int field, const void *data, size_t len);

/* A member of a oneof, or an element of a list, is always written. */
extern void pb_write_int_always(PbWriter *writer, int field, int64_t value);

/*
 * A nested message consists of what is written between these two calls.
 * "open" returns what "close" needs.
 */
extern size_t pb_write_open(PbWriter *writer, int field);
extern void pb_write_close(PbWriter *writer, size_t opened);

typedef struct PbReader
{
	const uint8_t *next;
	const uint8_t *end;
	bool		broken;			/* not the format: nothing more is read */
} PbReader;

typedef struct PbField
{
	int			number;
	PbWire		wire;
	uint64_t	value;			/* PB_VARINT */
	const uint8_t *data;		/* PB_BYTES */
	size_t		len;
} PbField;

extern void pb_read_start(PbReader *reader, const void *data, size_t len);

/*
 * Reads the next field.  Returns false if there is none, or the message is
 * broken.
 */
extern bool pb_read(PbReader *reader, PbField *field);

#endif							/* PB_H */
