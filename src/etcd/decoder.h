/*-------------------------------------------------------------------------
 *
 * decoder.h
 *	  Reads a message of etcd's field by field.
 *
 * If something is wrong, a function returns false, or NULL, and *err says what.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DECODER_H
#define DECODER_H

#include "etcd/etcd_api.h"
#include "etcd/pb.h"

/*
 * Limit of keys, operations, events or ids in one message: each takes about
 * 100 bytes of memory, but may be only a few bytes on the wire.
 */
#define DECODER_MAX_ELEMENTS	1000000

/* The message that is being read. */
typedef struct Decoder
{
	PbReader	reader;
	PbField		field;			/* the current one */
	uint32_t	seen;			/* bits of the fields that may come once */
	int		   *nelements;		/* of the whole response */
	EtcdError  *err;
} Decoder;

extern bool decoder_bad(EtcdError *err, const char *fmt,...) __attribute__((format(printf, 2, 3)));
extern bool decoder_out_of_memory(EtcdError *err);
extern Decoder decoder_open_message(const void *data, size_t len, int *nelements, EtcdError *err);
extern Decoder decoder_open_field(const Decoder *outer);
extern bool decoder_next_field(Decoder *decoder);
extern bool decoder_is_whole(const Decoder *decoder);
extern bool decoder_has_wire(const Decoder *decoder, PbWire wire);
extern bool decoder_is_single(Decoder *decoder, PbWire wire);
extern bool decoder_was_seen(const Decoder *decoder, int number);
extern bool decoder_read_int(Decoder *decoder, int64_t *value);
extern bool decoder_read_uint(Decoder *decoder, uint64_t *value);
extern bool decoder_read_bool(Decoder *decoder, bool *value);
extern bool decoder_read_text(Decoder *decoder, char *dst, size_t size);
extern void *decoder_add_element(Decoder *decoder, void **elements, int *n, size_t size);

#endif							/* DECODER_H */
