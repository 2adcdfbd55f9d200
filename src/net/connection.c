/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  One TCP or TLS connection, established and verified by libcurl, never
 *	  blocking.
 *
 * A libcurl transfer with CURLOPT_CONNECT_ONLY ends when the connection is
 * established, and curl_easy_send() and curl_easy_recv() use it from then on.
 * Each connection has its own multi handle, so that no cache of libcurl closes
 * or shares it.
 *
 * TLS: The server's name and certificate are always verified, with TLS 1.2 or
 * later.  No session of an earlier connection is resumed, because then the
 * server's certificate would not be checked.
 *
 * ALPN: The server has to agree to HTTP/2.  If libcurl asked for that, it
 * would speak HTTP/2 itself, so we tell OpenSSL instead, and check what was
 * agreed on after the handshake.
 *
 *-------------------------------------------------------------------------
 */
#include "net/connection.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <curl/curl.h>
#include <openssl/ssl.h>

/*
 * When to notice that the peer is gone: by data that is not acknowledged
 * (milliseconds), and on an idle connection by keepalive probes.
 */
#define USER_TIMEOUT		15000
#define KEEPALIVE_IDLE		10	/* seconds */
#define KEEPALIVE_INTERVAL	5
#define KEEPALIVE_COUNT		3

#define ERROR_SIZE			(CURL_ERROR_SIZE + 64)

/* No socket yet. */
#define NO_FD				(-1)

/*
 * How many sockets libcurl may use while it connects; with one address, it
 * needs one.
 */
#define MAX_SOCKETS			4

struct ConnectionTls
{
	int			references;
	struct curl_blob cacert;
	struct curl_blob cert;
	struct curl_blob key;
};

struct Connection
{
	LoopTask   *task;
	CURLM	   *multi;
	CURL	   *easy;
	struct curl_slist *connect_to;
	ConnectionTls *tls;			/* NULL: plain TCP */
	ConnectionState state;
	bool		agreed;			/* the server has agreed to HTTP/2 */
	bool		wants_write;
	int64_t		deadline;		/* of connecting */
	long		timeout_ms;
	int			fd;				/* when open */
	int			sockets[MAX_SOCKETS];	/* until then */
	int			nsockets;
	char		curl_error[CURL_ERROR_SIZE];	/* libcurl writes it as long
												 * as the handle lives */
	char		error[ERROR_SIZE];
};

/*
 * Certificates
 */

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

ConnectionTls *
connection_tls_create(const NetTls *tls)
{
	ConnectionTls *copy = calloc(1, sizeof(ConnectionTls));

	if (copy == NULL)
		return NULL;
	copy->references = 1;
	if (copy_blob(&copy->cacert, tls->cacert, tls->cacert_len) &&
		copy_blob(&copy->cert, tls->cert, tls->cert_len) &&
		copy_blob(&copy->key, tls->key, tls->key_len))
		return copy;
	connection_tls_release(copy);
	return NULL;
}

void
connection_tls_release(ConnectionTls *tls)
{
	assert(tls == NULL || tls->references > 0);
	if (tls == NULL || --tls->references > 0)
		return;
	free(tls->cacert.data);
	free(tls->cert.data);
	if (tls->key.data != NULL)
		explicit_bzero(tls->key.data, tls->key.len);
	free(tls->key.data);
	free(tls);
}

static bool
blob_is(const struct curl_blob *blob, const void *data, size_t len)
{
	return blob->len == len && (len == 0 || memcmp(blob->data, data, len) == 0);
}

bool
connection_tls_is(const ConnectionTls *tls, const NetTls *other)
{
	return blob_is(&tls->cacert, other->cacert, other->cacert_len) &&
		blob_is(&tls->cert, other->cert, other->cert_len) &&
		blob_is(&tls->key, other->key, other->key_len);
}

/*
 * Callbacks of libcurl and OpenSSL
 */

/* libcurl says what it waits for while it connects. */
static int
watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	Connection *connection = arg;
	int			i;

	(void) easy;
	(void) known;
	for (i = 0; i < connection->nsockets && connection->sockets[i] != fd; i++)
		 /* found, or not */ ;
	if (what == CURL_POLL_REMOVE)
	{
		if (i < connection->nsockets)
			connection->sockets[i] = connection->sockets[--connection->nsockets];
		loop_forget(connection->task, fd);
		return 0;
	}
	if (i == MAX_SOCKETS)
		return 0;				/* left to its timeout */
	if (i == connection->nsockets)
		connection->sockets[connection->nsockets++] = fd;
	loop_watch(connection->task, fd, (what & CURL_POLL_IN) != 0,
			   (what & CURL_POLL_OUT) != 0);
	return 0;
}

/* Have libcurl check its sockets and timers. */
static void
run_curl(Connection *connection)
{
	int			sockets[MAX_SOCKETS];
	int			n = connection->nsockets;
	int			running;
	int			i;

	memcpy(sockets, connection->sockets, sizeof(sockets));
	for (i = 0; i < n; i++)
		curl_multi_socket_action(connection->multi, sockets[i], 0, &running);
	curl_multi_socket_action(connection->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

static int
set_socket_options(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	int			on = 1;
	int			idle = KEEPALIVE_IDLE;
	int			interval = KEEPALIVE_INTERVAL;
	int			count = KEEPALIVE_COUNT;
	unsigned int timeout = USER_TIMEOUT;

	(void) arg;
	(void) purpose;
	/* best effort: without them, we only notice later that the peer is gone */
	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	(void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	(void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
	return CURL_SOCKOPT_OK;
}

/* libcurl must not read any part of a response. */
static size_t
refuse_data(char *data, size_t size, size_t n, void *arg)
{
	(void) data;
	(void) size;
	(void) n;
	(void) arg;
	return 0;
}

/* Which protocol has the server agreed to? */
static void
handshake_done(const SSL *ssl, int where, int ret)
{
	Connection *connection;
	const unsigned char *protocol = NULL;
	unsigned int len = 0;

	(void) ret;
	if ((where & SSL_CB_HANDSHAKE_DONE) == 0)
		return;
	connection = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	SSL_get0_alpn_selected(ssl, &protocol, &len);
	connection->agreed = len == 2 && memcmp(protocol, "h2", 2) == 0;
}

/* The context is this connection's alone. */
static CURLcode
ask_for_http2(CURL *easy, void *context, void *arg)
{
	static const unsigned char protocols[] = {2, 'h', '2'};

	(void) easy;
	SSL_CTX_set_app_data((SSL_CTX *) context, arg);
	SSL_CTX_set_info_callback((SSL_CTX *) context, handshake_done);
	return SSL_CTX_set_alpn_protos((SSL_CTX *) context, protocols,
								   sizeof(protocols)) == 0 ?
		CURLE_OK : CURLE_SSL_CONNECT_ERROR;
}

/*
 * Setting up
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

static bool
set_blob(CURL *easy, CURLoption option, struct curl_blob *blob)
{
	return blob->len == 0 || curl_easy_setopt(easy, option, blob) == CURLE_OK;
}

static bool
set_tls(Connection *connection)
{
	CURL	   *easy = connection->easy;
	ConnectionTls *tls = connection->tls;

	return curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSLVERSION,
						 (long) CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSLCERTTYPE, "PEM") == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSLKEYTYPE, "PEM") == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_ENABLE_ALPN, 0L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, ask_for_http2) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, connection) == CURLE_OK &&
		set_blob(easy, CURLOPT_CAINFO_BLOB, &tls->cacert) &&
		set_blob(easy, CURLOPT_SSLCERT_BLOB, &tls->cert) &&
		set_blob(easy, CURLOPT_SSLKEY_BLOB, &tls->key);
}

/* "::address:port", for any URL, with the brackets that IPv6 needs. */
static bool
set_address(Connection *connection, int port, const char *address)
{
	char		entry[128];
	const char *open = strchr(address, ':') != NULL ? "[" : "";
	const char *close = open[0] != '\0' ? "]" : "";

	if (snprintf(entry, sizeof(entry), "::%s%s%s:%d", open, address, close, port) >=
		(int) sizeof(entry))
		return false;
	connection->connect_to = curl_slist_append(NULL, entry);
	return connection->connect_to != NULL &&
		curl_easy_setopt(connection->easy, CURLOPT_CONNECT_TO,
						 connection->connect_to) == CURLE_OK;
}

static bool
set_up_easy(Connection *connection, const char *url)
{
	CURL	   *easy = connection->easy;

	return curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, connection->curl_error) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connection->timeout_ms) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, set_socket_options) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, refuse_data) == CURLE_OK &&
		set_protocols(easy) &&
		(connection->tls == NULL || set_tls(connection));
}

static bool
set_up_multi(Connection *connection)
{
	return curl_multi_setopt(connection->multi, CURLMOPT_SOCKETFUNCTION, watch_socket) == CURLM_OK &&
		curl_multi_setopt(connection->multi, CURLMOPT_SOCKETDATA, connection) == CURLM_OK &&
		curl_multi_add_handle(connection->multi, connection->easy) == CURLM_OK;
}

static bool
global_init(void)
{
	static bool done = false;

	if (!done)
		done = curl_global_init(CURL_GLOBAL_ALL) == CURLE_OK;
	return done;
}

Connection *
connection_create(LoopTask *task, const char *url, int port, const char *address,
				  ConnectionTls *tls, long timeout_ms)
{
	Connection *connection;

	if (!global_init())
		return NULL;
	connection = calloc(1, sizeof(Connection));
	if (connection == NULL)
		return NULL;
	connection->task = task;
	connection->fd = NO_FD;
	connection->timeout_ms = timeout_ms > 0 ? timeout_ms : 1;
	connection->deadline = loop_now() + (int64_t) connection->timeout_ms * 1000;
	if (tls != NULL && strncmp(url, "https://", 8) == 0)
	{
		connection->tls = tls;
		tls->references++;
	}
	connection->multi = curl_multi_init();
	connection->easy = curl_easy_init();
	if (connection->multi == NULL || connection->easy == NULL ||
		!set_up_easy(connection, url) ||
		!set_address(connection, port, address) ||
		!set_up_multi(connection))
	{
		connection_destroy(connection);
		return NULL;
	}
	task->due = loop_now();		/* libcurl is to begin */
	return connection;
}

void
connection_destroy(Connection *connection)
{
	if (connection == NULL)
		return;
	if (connection->fd != NO_FD)
		loop_forget(connection->task, connection->fd);
	if (connection->multi != NULL && connection->easy != NULL)
		curl_multi_remove_handle(connection->multi, connection->easy);
	curl_easy_cleanup(connection->easy);
	if (connection->multi != NULL)
		curl_multi_cleanup(connection->multi);
	curl_slist_free_all(connection->connect_to);
	connection_tls_release(connection->tls);
	free(connection);
}

/*
 * Errors
 */

const char *
connection_error(const Connection *connection)
{
	return connection->error;
}

/* What libcurl does not know: the endpoint may not speak TLS. */
static const char *
hint(const Connection *connection)
{
	const char *error = connection->error;

	if (connection->tls == NULL)
		return "";
	if (strstr(error, "wrong version number") != NULL ||
		strstr(error, "packet length too long") != NULL ||
		strstr(error, "record layer failure") != NULL)
		return " (does the endpoint speak http?)";
	if (connection->state == CONNECTION_CONNECTING &&
		(strstr(error, "SSL_ERROR_SYSCALL") != NULL ||
		 strstr(error, "unexpected eof") != NULL ||
		 strstr(error, "reset by peer") != NULL))
		return " (does the endpoint speak http?)";
	if (strstr(error, "certificate required") != NULL)
		return " (the endpoint requires a client certificate)";
	return "";
}

static void
set_error(Connection *connection, CURLcode code)
{
	const char *text = connection->curl_error[0] != '\0' ? connection->curl_error :
		curl_easy_strerror(code);
	size_t		len;

	snprintf(connection->error, sizeof(connection->error), "%s", text);
	len = strlen(connection->error);
	snprintf(connection->error + len, sizeof(connection->error) - len, "%s",
			 hint(connection));
	connection->state = CONNECTION_FAILED;
}

/*
 * Connecting
 */

static void
connected(Connection *connection)
{
	curl_socket_t fd;

	assert(connection->state == CONNECTION_CONNECTING && connection->fd == NO_FD);
	if (connection->tls != NULL && !connection->agreed)
	{
		snprintf(connection->error, sizeof(connection->error),
				 "the endpoint did not negotiate HTTP/2: it is not etcd, or it is behind a proxy");
		connection->state = CONNECTION_FAILED;
		return;
	}
	if (curl_easy_getinfo(connection->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK ||
		fd == CURL_SOCKET_BAD)
	{
		set_error(connection, CURLE_COULDNT_CONNECT);
		return;
	}
	connection->fd = fd;
	connection->state = CONNECTION_OPEN;
	connection->curl_error[0] = '\0';
	loop_watch(connection->task, fd, true, false);
}

/* Returns when libcurl wants to be called again. */
static int64_t
curl_due(Connection *connection)
{
	long		timeout = -1;

	curl_multi_timeout(connection->multi, &timeout);
	if (timeout < 0 || loop_now() + (int64_t) timeout * 1000 > connection->deadline)
		return connection->deadline;
	return loop_now() + (int64_t) timeout * 1000;
}

ConnectionState
connection_advance(Connection *connection)
{
	CURLMsg    *msg;
	int			left;

	if (connection->state != CONNECTION_CONNECTING)
		return connection->state;
	run_curl(connection);
	while ((msg = curl_multi_info_read(connection->multi, &left)) != NULL)
	{
		if (msg->msg != CURLMSG_DONE)
			continue;
		if (msg->data.result == CURLE_OK)
			connected(connection);
		else
			set_error(connection, msg->data.result);
		break;
	}
	if (connection->state == CONNECTION_CONNECTING &&
		loop_now() >= connection->deadline)
	{
		snprintf(connection->error, sizeof(connection->error),
				 "no connection within %ld ms", connection->timeout_ms);
		connection->state = CONNECTION_FAILED;
	}
	connection->task->due = connection->state == CONNECTION_CONNECTING ?
		curl_due(connection) : LOOP_NEVER;
	return connection->state;
}

/*
 * Bytes
 */

ssize_t
connection_read(Connection *connection, void *data, size_t size)
{
	size_t		n = 0;
	CURLcode	code;

	assert(connection->state != CONNECTION_CONNECTING);
	if (connection->state == CONNECTION_FAILED)
		return -1;
	code = curl_easy_recv(connection->easy, data, size, &n);
	if (code == CURLE_AGAIN)
		return 0;
	if (code == CURLE_OK && n > 0)
		return (ssize_t) n;
	if (code == CURLE_OK)
	{
		snprintf(connection->error, sizeof(connection->error),
				 "the server closed the connection");
		connection->state = CONNECTION_FAILED;
		return -1;
	}
	set_error(connection, code);
	return -1;
}

/*
 * A server that refuses our certificate says so after it has accepted the
 * connection, and closes it; so look for that, because a failed write alone
 * says nothing.
 */
static void
look_for_alert(Connection *connection)
{
	char		data[256];
	size_t		n;
	CURLcode	code = curl_easy_recv(connection->easy, data, sizeof(data), &n);

	if (code != CURLE_OK && code != CURLE_AGAIN)
		set_error(connection, code);
}

ssize_t
connection_write(Connection *connection, const void *data, size_t len)
{
	size_t		n = 0;
	CURLcode	code;

	assert(connection->state != CONNECTION_CONNECTING);
	if (connection->state == CONNECTION_FAILED)
		return -1;
	code = curl_easy_send(connection->easy, data, len, &n);
	if (code == CURLE_AGAIN)
		return 0;
	if (code == CURLE_OK)
		return (ssize_t) n;
	if (connection->tls != NULL)
		look_for_alert(connection);
	if (connection->state != CONNECTION_FAILED)
		set_error(connection, code);
	return -1;
}

void
connection_want_write(Connection *connection, bool want)
{
	if (connection->fd == NO_FD || connection->wants_write == want)
		return;
	connection->wants_write = want;
	loop_watch(connection->task, connection->fd, true, want);
}
