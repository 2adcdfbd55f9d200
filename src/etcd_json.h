/*-------------------------------------------------------------------------
 *
 * etcd_json.h
 *	  Strict reading of JSON, for etcd_decode.c and etcd_holder.c alone.
 *
 * A missing member and null stand for zero, false or empty: the gateway
 * leaves such members out.  Anything of another type than expected makes the
 * whole answer a bad one: the reader fills *err and returns false.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_JSON_H
#define ETCD_JSON_H

#include <cjson/cJSON.h>

#include "etcd_api.h"

extern bool etcd_json_int64(const cJSON *object, const char *name,
							int64_t *value, EtcdError *err);
extern bool etcd_json_uint64(const cJSON *object, const char *name,
							 uint64_t *value, EtcdError *err);
extern bool etcd_json_bool(const cJSON *object, const char *name,
						   bool *value, EtcdError *err);

/* The string itself, owned by the object; "" when missing. */
extern bool etcd_json_string(const cJSON *object, const char *name,
							 const char **value, EtcdError *err);

/* NULL when missing. */
extern bool etcd_json_array(const cJSON *object, const char *name,
							const cJSON **value, EtcdError *err);
extern bool etcd_json_object(const cJSON *object, const char *name,
							 const cJSON **value, EtcdError *err);

/*
 * Parse an answer.  Returns the tree, to be freed with cJSON_Delete, and in
 * *message the object with the answer's fields; NULL when etcd answered with
 * an error or the body cannot be understood, and *err says which.
 */
extern cJSON *etcd_json_open(const char *body, size_t len, int http_status,
							 const cJSON **message, EtcdError *err);

/* Parse one JSON object; NULL: it is none.  Freed with cJSON_Delete. */
extern cJSON *etcd_json_parse(const char *body, size_t len);

/* Is the message etcd's own, or one of ours that says what etcd meant? */
extern bool etcd_json_is_etcds(const EtcdError *err);

/* Note a bad answer; returns false. */
extern bool etcd_json_bad(EtcdError *err, const char *fmt,...)
			__attribute__((format(printf, 2, 3)));

/* Copy what is printable of "text", cut between UTF-8 characters. */
extern void etcd_json_printable(char *dst, size_t size,
								const char *text, size_t len);

#endif							/* ETCD_JSON_H */
