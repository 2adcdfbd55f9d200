/*-------------------------------------------------------------------------
 *
 * etcd_handles.h
 *	  libcurl's easy handles, with the options that all requests share.
 *
 * For etcd_transport.c alone.  A handle is made once and used for many
 * requests.  When the options change (certificates, the token), handles that
 * are under way keep those they were made with, and are not used again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_HANDLES_H
#define ETCD_HANDLES_H

#include <curl/curl.h>

#include "etcd_transport.h"

typedef struct EtcdHandles EtcdHandles;
typedef struct HandleOptions HandleOptions;

typedef struct EtcdHandle
{
	CURL	   *easy;
	HandleOptions *options;		/* that it was made with */
} EtcdHandle;

/*
 * "store" gets what comes in, "header" its headers, "sending" is called before a
 * request goes out.
 */
extern EtcdHandles *etcd_handles_create(curl_write_callback store,
										curl_write_callback header,
										curl_prereq_callback sending);
extern void etcd_handles_destroy(EtcdHandles *handles);

/* NULL: out of memory. */
extern EtcdHandle *etcd_handle_get(EtcdHandles *handles);
extern void etcd_handle_put(EtcdHandles *handles, EtcdHandle *handle);

/* For handles that are got from now on; false: out of memory. */
extern bool etcd_handles_set_tls(EtcdHandles *handles, const EtcdTls *tls);
extern bool etcd_handles_set_token(EtcdHandles *handles, const char *token);

/*
 * A list for CURLOPT_RESOLVE that makes libcurl forget the addresses of an
 * endpoint's host; NULL: none is needed, or out of memory.
 */
extern struct curl_slist *etcd_handles_forget_list(const char *endpoint);

/* <endpoint><path>, malloc'ed; NULL when that is no URL of an HTTP server. */
extern char *etcd_handles_url(const char *endpoint, const char *path);

#endif							/* ETCD_HANDLES_H */
