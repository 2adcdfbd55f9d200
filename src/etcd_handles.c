/*-------------------------------------------------------------------------
 *
 * etcd_handles.c
 *	  libcurl's easy handles, with the options that all requests share.
 *
 * TLS.  The server's name and certificate are always verified, and nothing
 * below TLS 1.2 is spoken.  Certificates and the key are given to libcurl as
 * what the files hold, not as their names: libcurl uses a kept connection only
 * for a request with the same certificates, so a renewed file leads to new
 * connections, while those that are under way end in their own time.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_handles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Handles kept for the next requests. */
#define MAX_IDLE_HANDLES	32

/*
 * For how long an address is used, seconds, unless it turns out to be wrong: so
 * long that a slow name server is not asked while all is well.  ("For ever", -1,
 * means never in libcurl 8.14, and is an error in 8.16.)
 */
#define ADDRESS_LIFETIME	1000000L

/*
 * What may change while requests are under way.  Handles refer to it, and
 * libcurl to its memory.
 */
struct HandleOptions
{
	int			references;		/* handles, and EtcdHandles itself */
	struct curl_slist *headers;
	struct curl_blob cacert;
	struct curl_blob cert;
	struct curl_blob key;
};

struct EtcdHandles
{
	curl_write_callback store;
	curl_write_callback header;
	curl_prereq_callback sending;
	HandleOptions *options;		/* for new handles */
	EtcdHandle *idle[MAX_IDLE_HANDLES];	/* all of them with these options */
	int			nidle;
};

/*
 * Options
 */

static void
free_secret(void *data, size_t len)
{
	if (data != NULL)
		explicit_bzero(data, len);
	free(data);
}

static void
free_headers(struct curl_slist *headers)
{
	struct curl_slist *header;

	/* One of them may be the token. */
	for (header = headers; header != NULL; header = header->next)
		explicit_bzero(header->data, strlen(header->data));
	curl_slist_free_all(headers);
}

static void
release_options(HandleOptions *options)
{
	if (options == NULL || --options->references > 0)
		return;
	free_headers(options->headers);
	free(options->cacert.data);
	free(options->cert.data);
	free_secret(options->key.data, options->key.len);
	free(options);
}

static bool
copy_blob(struct curl_blob *dst, const void *data, size_t len)
{
	dst->flags = CURL_BLOB_NOCOPY;
	dst->len = len;
	dst->data = NULL;
	if (len == 0)
		return true;
	dst->data = malloc(len);
	if (dst->data == NULL)
		return false;
	memcpy(dst->data, data, len);
	return true;
}

static bool
append_header(struct curl_slist **headers, const char *line)
{
	struct curl_slist *longer = curl_slist_append(*headers, line);

	if (longer == NULL)
		return false;
	*headers = longer;
	return true;
}

/* etcd wants the bare token, without "Bearer". */
static bool
append_token(struct curl_slist **headers, const char *token)
{
	static const char name[] = "Authorization: ";
	size_t		size = sizeof(name) + strlen(token);
	char	   *line = malloc(size);
	bool		ok;

	if (line == NULL)
		return false;
	memcpy(line, name, sizeof(name) - 1);
	strcpy(line + sizeof(name) - 1, token);
	ok = append_header(headers, line);
	free_secret(line, size);
	return ok;
}

static bool
set_headers(HandleOptions *options, const char *token)
{
	static const char *const lines[] = {
		"Content-Type: application/json",
		"Expect:",				/* none: it would cost a round trip */
		"Grpc-Metadata-hasleader: true",	/* an error at once when etcd has
											 * no leader */
	};
	size_t		i;

	for (i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
	{
		if (!append_header(&options->headers, lines[i]))
			return false;
	}
	return token == NULL || append_token(&options->headers, token);
}

static bool
copy_headers(HandleOptions *options, const struct curl_slist *headers)
{
	for (; headers != NULL; headers = headers->next)
	{
		if (!append_header(&options->headers, headers->data))
			return false;
	}
	return true;
}

static HandleOptions *
new_options(void)
{
	HandleOptions *options = calloc(1, sizeof(HandleOptions));

	if (options != NULL)
		options->references = 1;
	return options;
}

/*
 * Handles
 */

static bool
set_protocols(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
#else
	return curl_easy_setopt(easy, CURLOPT_PROTOCOLS,
							(long) (CURLPROTO_HTTP | CURLPROTO_HTTPS)) == CURLE_OK;
#endif
}

/*
 * A dead peer of a watch must be noticed, though nothing is sent to it: within
 * half a minute where curl can set the count, else after Linux's nine probes.
 */
static void
set_tcp_options(CURL *easy)
{
	curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 10L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 5L);
#if LIBCURL_VERSION_NUM >= 0x080900
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPCNT, 3L);
#endif
}

static bool
set_blob(CURL *easy, CURLoption option, struct curl_blob *blob)
{
	return blob->len == 0 || curl_easy_setopt(easy, option, blob) == CURLE_OK;
}

/*
 * No session of a former connection is taken up again: with it the server's
 * certificate would not be looked at.
 */
static bool
set_tls(CURL *easy, HandleOptions *options)
{
	return curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSLVERSION,
						 (long) CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSLCERTTYPE, "PEM") == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSLKEYTYPE, "PEM") == CURLE_OK &&
		set_blob(easy, CURLOPT_CAINFO_BLOB, &options->cacert) &&
		set_blob(easy, CURLOPT_SSLCERT_BLOB, &options->cert) &&
		set_blob(easy, CURLOPT_SSLKEY_BLOB, &options->key);
}

/*
 * Do not wait for a resolver's thread when a request is given up: getaddrinfo()
 * may take half a minute, and the thread cleans up after itself.
 */
static void
set_no_waiting(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075700
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
}

static CURL *
new_easy(EtcdHandles *handles)
{
	CURL	   *easy = curl_easy_init();

	if (easy == NULL)
		return NULL;
	set_tcp_options(easy);
	set_no_waiting(easy);
	if (set_protocols(easy) &&
		set_tls(easy, handles->options) &&
		curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, ADDRESS_LIFETIME) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
						 (long) CURL_HTTP_VERSION_1_1) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_USERAGENT, "etcd_lock") == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER,
						 handles->options->headers) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, handles->store) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, handles->header) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, handles->sending) == CURLE_OK)
		return easy;
	curl_easy_cleanup(easy);
	return NULL;
}

static void
free_handle(EtcdHandle *handle)
{
	curl_easy_cleanup(handle->easy);
	release_options(handle->options);
	free(handle);
}

EtcdHandle *
etcd_handle_get(EtcdHandles *handles)
{
	EtcdHandle *handle;

	if (handles->nidle > 0)
		return handles->idle[--handles->nidle];
	handle = calloc(1, sizeof(EtcdHandle));
	if (handle == NULL)
		return NULL;
	handle->easy = new_easy(handles);
	if (handle->easy == NULL)
	{
		free(handle);
		return NULL;
	}
	handle->options = handles->options;
	handle->options->references++;
	return handle;
}

void
etcd_handle_put(EtcdHandles *handles, EtcdHandle *handle)
{
	if (handles->nidle >= MAX_IDLE_HANDLES ||
		handle->options != handles->options)
	{
		free_handle(handle);
		return;
	}
	curl_easy_setopt(handle->easy, CURLOPT_ERRORBUFFER, NULL);
	curl_easy_setopt(handle->easy, CURLOPT_POSTFIELDS, NULL);
	curl_easy_setopt(handle->easy, CURLOPT_RESOLVE, NULL);
	handles->idle[handles->nidle++] = handle;
}

/*
 * All of them
 */

/* Use these from now on; they are taken over. */
static void
change_options(EtcdHandles *handles, HandleOptions *options)
{
	while (handles->nidle > 0)
		free_handle(handles->idle[--handles->nidle]);
	release_options(handles->options);
	handles->options = options;
}

bool
etcd_handles_set_tls(EtcdHandles *handles, const EtcdTls *tls)
{
	HandleOptions *options = new_options();

	if (options == NULL ||
		!copy_headers(options, handles->options->headers) ||
		!copy_blob(&options->cacert, tls->cacert, tls->cacert_len) ||
		!copy_blob(&options->cert, tls->cert, tls->cert_len) ||
		!copy_blob(&options->key, tls->key, tls->key_len))
	{
		release_options(options);
		return false;
	}
	change_options(handles, options);
	return true;
}

bool
etcd_handles_set_token(EtcdHandles *handles, const char *token)
{
	HandleOptions *options = new_options();
	const HandleOptions *old = handles->options;

	if (options == NULL ||
		!set_headers(options, token) ||
		!copy_blob(&options->cacert, old->cacert.data, old->cacert.len) ||
		!copy_blob(&options->cert, old->cert.data, old->cert.len) ||
		!copy_blob(&options->key, old->key.data, old->key.len))
	{
		release_options(options);
		return false;
	}
	change_options(handles, options);
	return true;
}

EtcdHandles *
etcd_handles_create(curl_write_callback store, curl_write_callback header,
					curl_prereq_callback sending)
{
	EtcdHandles *handles = calloc(1, sizeof(EtcdHandles));

	if (handles == NULL)
		return NULL;
	handles->store = store;
	handles->header = header;
	handles->sending = sending;
	handles->options = new_options();
	if (handles->options == NULL || !set_headers(handles->options, NULL))
	{
		etcd_handles_destroy(handles);
		return NULL;
	}
	return handles;
}

void
etcd_handles_destroy(EtcdHandles *handles)
{
	if (handles == NULL)
		return;
	change_options(handles, NULL);
	free(handles);
}

/*
 * URLs
 */

/* Where the host's name starts in "http[s]://host..."; NULL: not such a URL. */
static const char *
host_of(const char *endpoint)
{
	const char *host = NULL;

	if (strncmp(endpoint, "http://", 7) == 0)
		host = endpoint + 7;
	else if (strncmp(endpoint, "https://", 8) == 0)
		host = endpoint + 8;
	return host == NULL || *host == '/' || *host == '\0' ? NULL : host;
}

char *
etcd_handles_url(const char *endpoint, const char *path)
{
	size_t		endpoint_len = strlen(endpoint);
	size_t		size;
	char	   *url;
	CURLU	   *parsed;
	bool		ok;

	if (host_of(endpoint) == NULL || strpbrk(endpoint, "?#@") != NULL)
		return NULL;
	while (endpoint[endpoint_len - 1] == '/')
		endpoint_len--;
	size = endpoint_len + strlen(path) + 1;
	url = malloc(size);
	if (url == NULL)
		return NULL;
	memcpy(url, endpoint, endpoint_len);
	strcpy(url + endpoint_len, path);

	parsed = curl_url();
	ok = parsed != NULL &&
		curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK;
	curl_url_cleanup(parsed);
	if (!ok)
	{
		free(url);
		return NULL;
	}
	return url;
}

struct curl_slist *
etcd_handles_forget_list(const char *endpoint)
{
	CURLU	   *parsed = curl_url();
	char	   *host = NULL;
	char	   *port = NULL;
	char		entry[512];
	struct curl_slist *list = NULL;

	if (parsed != NULL &&
		curl_url_set(parsed, CURLUPART_URL, endpoint, 0) == CURLUE_OK &&
		curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
		curl_url_get(parsed, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
		snprintf(entry, sizeof(entry), "-%s:%s", host, port) < (int) sizeof(entry))
		list = curl_slist_append(NULL, entry);
	curl_free(host);
	curl_free(port);
	curl_url_cleanup(parsed);
	return list;
}
