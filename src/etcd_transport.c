/*-------------------------------------------------------------------------
 *
 * etcd_transport.c
 *	  HTTP requests to etcd without ever blocking, by libcurl's multi interface.
 *
 * libcurl tells which sockets it waits for (watch_socket, kept in an epoll
 * set) and when it wants to be called again (set_timer).  What its transfers
 * bring is only stored while curl is running; etcd_transport_run delivers it
 * to the callbacks afterwards, from the list of ready requests.
 *
 * A callback may leave with a longjmp and may cancel any request, its own
 * included.  So nothing is kept on the stack across a callback: a request is
 * taken off the ready list before its callback is called, and what the
 * callback is given stays with the transport (given_data, given_request)
 * until the next delivery.
 *
 * When a kept connection turns out to be reset, libcurl may send a POST again
 * on a new one, without a word.  Callers must therefore send only requests
 * that may safely be carried out twice.
 *
 * libcurl's resolver starts threads.  Signals are blocked around every call
 * that may do so, since a signal handler must not run in such a thread.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_transport.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>

#include "etcd_handles.h"

#ifndef CURL_WRITEFUNC_ERROR	/* before 7.87 */
#define CURL_WRITEFUNC_ERROR	0xFFFFFFFF
#endif

/* Connections kept open: those of all watches and then some. */
#define MAX_CONNECTIONS		512L

/* Sockets served in one run; the others show up in the next. */
#define MAX_SOCKET_EVENTS	64

/* Link of a circular list. */
typedef struct Link
{
	struct Link *prev;
	struct Link *next;			/* NULL: on no list */
	EtcdRequest *request;		/* NULL: the list's head */
} Link;

struct EtcdTransport
{
	CURLM	   *multi;
	int			epoll_fd;
	EtcdHandles *handles;
	char	   *forget;			/* endpoint whose address is to be forgotten */
	int64_t		deadline;		/* when curl wants to be called, us; or -1 */

	Link		requests;		/* all but given_request */
	Link		ready;			/* those with something to deliver, in order */
	uint64_t	last_ready;		/* number of the latest one put there */
	size_t		stored;			/* bytes in all requests' data, but streams' */

	char	   *given_data;		/* lent to a data callback */
	EtcdRequest *given_request; /* its done callback was called */
};

struct EtcdRequest
{
	EtcdTransport *transport;
	Link		in_requests;
	Link		in_ready;
	uint64_t	ready_number;	/* when on the ready list */

	EtcdCallbacks callbacks;
	void	   *arg;

	EtcdHandle *handle;			/* NULL once the transfer has ended */
	char	   *request_body;
	struct curl_slist *forget;	/* addresses; see etcd_handles.h */
	bool		sent;			/* the server may have got some of it */

	char	   *data;			/* received and not delivered */
	size_t		len;
	size_t		size;
	size_t		header_len;
	const char *too_long;		/* given up: what was longer */
	size_t		limit;			/* than this */
	int			http_status;	/* 0: none yet */

	bool		ended;			/* the rest of the answer is known */
	bool		delivered;
	char		error[CURL_ERROR_SIZE];
};

/*
 * Lists
 */

static void
list_init(Link *head)
{
	head->prev = head->next = head;
	head->request = NULL;
}

static void
list_append(Link *head, Link *link, EtcdRequest *request)
{
	link->request = request;
	link->prev = head->prev;
	link->next = head;
	link->prev->next = link;
	head->prev = link;
}

static void
list_remove(Link *link)
{
	if (link->next == NULL)
		return;
	link->prev->next = link->next;
	link->next->prev = link->prev;
	link->prev = link->next = NULL;
}

/*
 * Time and signals
 */

/* Microseconds: with milliseconds, a timer might be served a bit too early. */
static int64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/*
 * Block all signals but those that report a crash, which would kill the
 * process without their handler being called.
 */
static void
block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGABRT);
	sigdelset(&all, SIGTRAP);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/*
 * Callbacks of curl's
 */

/*
 * A socket that cannot be added is left to its timeout: an error from here
 * would make curl give up all transfers for good.
 */
static int
watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	EtcdTransport *transport = arg;
	struct epoll_event event = {0};
	int			op = known == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	(void) easy;
	if (what == CURL_POLL_REMOVE)
	{
		/* Fails when the socket is closed already: nothing to remove then. */
		epoll_ctl(transport->epoll_fd, EPOLL_CTL_DEL, fd, &event);
		return 0;
	}

	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	event.data.fd = fd;
	if (epoll_ctl(transport->epoll_fd, op, fd, &event) != 0)
	{
		if (errno == EEXIST)
			epoll_ctl(transport->epoll_fd, EPOLL_CTL_MOD, fd, &event);
		else if (errno == ENOENT)
			epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, fd, &event);
	}
	curl_multi_assign(transport->multi, fd, transport);
	return 0;
}

static int
set_timer(CURLM *multi, long timeout_ms, void *arg)
{
	EtcdTransport *transport = arg;

	(void) multi;
	transport->deadline = timeout_ms < 0 ? -1 :
		now_us() + (int64_t) timeout_ms * 1000;
	return 0;
}

/* There is a connection, and the request is about to go out. */
static int
note_sending(void *arg, char *remote_ip, char *local_ip,
			 int remote_port, int local_port)
{
	EtcdRequest *request = arg;

	(void) remote_ip;
	(void) local_ip;
	(void) remote_port;
	(void) local_port;
	request->sent = true;
	return CURL_PREREQFUNC_OK;
}

static bool
is_stream(const EtcdRequest *request)
{
	return request->callbacks.data != NULL;
}

static void
make_ready(EtcdRequest *request)
{
	EtcdTransport *transport = request->transport;

	if (request->in_ready.next != NULL)
		return;
	request->ready_number = ++transport->last_ready;
	list_append(&transport->ready, &request->in_ready, request);
}

static size_t
max_answer(const EtcdRequest *request)
{
	return request->callbacks.max_answer != 0 ?
		request->callbacks.max_answer : ETCD_MAX_ANSWER;
}

static long
http_status(const EtcdRequest *request)
{
	long		status = 0;

	curl_easy_getinfo(request->handle->easy, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

/* Let go of what has come; the memory is the caller's. */
static char *
take_data(EtcdRequest *request)
{
	char	   *data = request->data;

	if (!is_stream(request))
		request->transport->stored -= request->size;
	request->data = NULL;
	request->len = 0;
	request->size = 0;
	return data;
}

static bool
refuse(EtcdRequest *request, const char *what, size_t limit)
{
	request->too_long = what;
	request->limit = limit;
	return false;
}

/* May "more" bytes come, so that memory of "size" is needed? */
static bool
is_within_limits(EtcdRequest *request, size_t more, size_t size)
{
	size_t		len = request->len;
	size_t		max = max_answer(request);

	if (is_stream(request))
		return len + more <= ETCD_MAX_BURST ||
			refuse(request, "what a watch brings at once is", ETCD_MAX_BURST);
	if (more > max - len)
		return refuse(request, "the answer is", max);
	if (size - request->size > ETCD_MAX_ANSWERS - request->transport->stored)
		return refuse(request, "the answers under way are", ETCD_MAX_ANSWERS);
	return true;
}

/* Room for "more" bytes and a NUL. */
static bool
reserve(EtcdRequest *request, size_t more)
{
	size_t		size = request->size == 0 ? 4096 : request->size;
	char	   *data;

	while (size <= request->len + more && size < ETCD_MAX_ANSWER)
		size *= 2;
	if (size <= request->len + more)
		size = ETCD_MAX_ANSWER + 1;
	if (!is_within_limits(request, more, size))
		return false;
	if (size == request->size)
		return true;
	data = realloc(request->data, size);
	if (data == NULL)
		return false;
	if (!is_stream(request))
		request->transport->stored += size - request->size;
	request->data = data;
	request->size = size;
	return true;
}

static size_t
store_data(char *data, size_t size, size_t n, void *arg)
{
	EtcdRequest *request = arg;
	size_t		len = size * n;

	if (!reserve(request, len))
		return CURL_WRITEFUNC_ERROR;
	memcpy(request->data + request->len, data, len);
	request->len += len;
	request->data[request->len] = '\0';

	if (is_stream(request))
	{
		request->http_status = (int) http_status(request);
		if (request->http_status == 200)
			make_ready(request);
	}
	return len;
}

/* Headers are not needed, only bounded: libcurl would keep any number. */
static size_t
count_header(char *data, size_t size, size_t n, void *arg)
{
	EtcdRequest *request = arg;

	(void) data;
	request->header_len += size * n;
	if (request->header_len <= ETCD_MAX_HEADER)
		return size * n;
	(void) refuse(request, "the header of the answer is", ETCD_MAX_HEADER);
	return CURL_WRITEFUNC_ERROR;
}

/*
 * Setting up a request
 */

/* Timeouts of curl's are off at 0, so the least is 1. */
static bool
set_timeouts(EtcdRequest *request, long timeout_ms)
{
	long		total;

	if (timeout_ms < 1)
		timeout_ms = 1;
	total = is_stream(request) ? 0L : timeout_ms;
	return curl_easy_setopt(request->handle->easy, CURLOPT_CONNECTTIMEOUT_MS,
							timeout_ms) == CURLE_OK &&
		curl_easy_setopt(request->handle->easy, CURLOPT_TIMEOUT_MS, total) == CURLE_OK;
}

static bool
set_up_easy(EtcdRequest *request, const char *url, long timeout_ms)
{
	CURL	   *easy = request->handle->easy;

	return curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
						 request->request_body) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
						 (curl_off_t) strlen(request->request_body)) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_PRIVATE, request) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_WRITEDATA, request) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HEADERDATA, request) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_PREREQDATA, request) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, request->error) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_RESOLVE, request->forget) == CURLE_OK &&
		set_timeouts(request, timeout_ms);
}

/*
 * Requests
 */

/* The body of a request, which may be a secret. */
static void
free_text(const EtcdRequest *request, char *text)
{
	if (text != NULL && request->callbacks.secret)
		explicit_bzero(text, strlen(text));
	free(text);
}

/* Take the transfer away from curl. */
static void
stop_transfer(EtcdRequest *request)
{
	if (request->handle == NULL)
		return;
	curl_multi_remove_handle(request->transport->multi, request->handle->easy);
	etcd_handle_put(request->transport->handles, request->handle);
	request->handle = NULL;
	free_text(request, request->request_body);
	request->request_body = NULL;
}

static void
free_request(EtcdRequest *request)
{
	list_remove(&request->in_requests);
	list_remove(&request->in_ready);
	free_text(request, request->request_body);
	curl_slist_free_all(request->forget);
	if (request->data != NULL && request->callbacks.secret)
		explicit_bzero(request->data, request->size);
	free(take_data(request));
	free(request);
}

static void
free_given(EtcdTransport *transport)
{
	free(transport->given_data);
	transport->given_data = NULL;
	if (transport->given_request != NULL)
		free_request(transport->given_request);
	transport->given_request = NULL;
}

/* What libcurl cannot know: the endpoint may speak the other protocol. */
static void
explain_error(EtcdRequest *request, CURLcode result)
{
	char	   *scheme = NULL;
	const char *hint = NULL;
	size_t		len = strlen(request->error);

	curl_easy_getinfo(request->handle->easy, CURLINFO_SCHEME, &scheme);
	if (scheme == NULL)
		return;
	if (result == CURLE_GOT_NOTHING && strcasecmp(scheme, "http") == 0)
		hint = " (does the endpoint speak https?)";
	else if (!request->sent && strcasecmp(scheme, "https") == 0 &&
			 (strstr(request->error, "SSL_ERROR_SYSCALL") != NULL ||
			  strstr(request->error, "unexpected eof") != NULL ||
			  strstr(request->error, "reset by peer") != NULL))
		hint = " (does the endpoint speak http?)";
	if (hint != NULL && len + strlen(hint) < sizeof(request->error))
		strcpy(request->error + len, hint);
}

/* A transfer is over: note how it went. */
static void
end_request(EtcdRequest *request, CURLcode result)
{
	long		status = 0;

	curl_easy_getinfo(request->handle->easy, CURLINFO_RESPONSE_CODE, &status);
	request->http_status = (int) status;
	request->delivered = result == CURLE_OK;
	if (request->too_long != NULL)
		snprintf(request->error, sizeof(request->error),
				 "%s longer than %zu bytes", request->too_long, request->limit);
	else if (!request->delivered && request->error[0] == '\0')
		snprintf(request->error, sizeof(request->error), "%s",
				 curl_easy_strerror(result));
	if (!request->delivered)
		explain_error(request, result);
	stop_transfer(request);
	request->ended = true;
	make_ready(request);
}

static void
collect_ended(EtcdTransport *transport)
{
	CURLMsg    *msg;
	int			left;

	while ((msg = curl_multi_info_read(transport->multi, &left)) != NULL)
	{
		CURLcode	result = msg->data.result;
		EtcdRequest *request = NULL;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **) &request);
		end_request(request, result);
	}
}

static void
serve_timers(EtcdTransport *transport)
{
	int			running;

	transport->deadline = -1;
	curl_multi_socket_action(transport->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

static void
serve_sockets(EtcdTransport *transport)
{
	struct epoll_event events[MAX_SOCKET_EVENTS];
	int			running;
	int			n;
	int			i;

	n = epoll_wait(transport->epoll_fd, events, MAX_SOCKET_EVENTS, 0);
	for (i = 0; i < n; i++)
	{
		int			mask = 0;

		if (events[i].events & EPOLLIN)
			mask |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			mask |= CURL_CSELECT_OUT;
		if (events[i].events & (EPOLLERR | EPOLLHUP))
			mask |= CURL_CSELECT_ERR;
		curl_multi_socket_action(transport->multi, events[i].data.fd, mask,
								 &running);
	}
}

/* The next bytes of a stream.  The request may be gone afterwards. */
static void
deliver_data(EtcdRequest *request)
{
	EtcdTransport *transport = request->transport;
	size_t		len = request->len;

	transport->given_data = take_data(request);
	if (!request->ended)
		list_remove(&request->in_ready);
	request->callbacks.data(request->arg, transport->given_data, len);
}

static void
deliver_done(EtcdRequest *request)
{
	EtcdAnswer	answer;

	list_remove(&request->in_ready);
	list_remove(&request->in_requests);
	request->transport->given_request = request;

	memset(&answer, 0, sizeof(answer));
	answer.delivered = request->delivered;
	answer.body = request->data != NULL ? request->data : "";
	answer.len = request->len;
	if (answer.delivered)
		answer.http_status = request->http_status;
	else
	{
		answer.ambiguous = request->sent;
		answer.too_long = request->too_long != NULL;
		snprintf(answer.error, sizeof(answer.error), "%s", request->error);
	}
	request->callbacks.done(request->arg, &answer);
}

/*
 * Deliver what is ready now.  What becomes ready meanwhile waits for the next
 * run, or a callback that always starts another request would never let the
 * caller go.
 */
static void
deliver(EtcdTransport *transport)
{
	uint64_t	last = transport->last_ready;

	free_given(transport);
	while (transport->ready.next != &transport->ready)
	{
		EtcdRequest *request = transport->ready.next->request;

		if (request->ready_number > last)
			break;
		if (is_stream(request) && request->http_status == 200 && request->len > 0)
			deliver_data(request);
		else
			deliver_done(request);
		free_given(transport);
	}
}

/*
 * The interface
 */

static bool
global_init(void)
{
	static bool done = false;

	if (!done)
		done = curl_global_init(CURL_GLOBAL_ALL) == CURLE_OK;
	return done;
}

static bool
set_up_multi(EtcdTransport *transport)
{
	CURLM	   *multi = transport->multi;

	return curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, transport) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERDATA, transport) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, MAX_CONNECTIONS) == CURLM_OK;
}

EtcdTransport *
etcd_transport_create(void)
{
	EtcdTransport *transport = calloc(1, sizeof(EtcdTransport));
	sigset_t	saved;
	int			error;

	if (transport == NULL)
		return NULL;
	list_init(&transport->requests);
	list_init(&transport->ready);
	transport->deadline = -1;
	transport->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	error = errno;
	if (transport->epoll_fd >= 0)
	{
		error = ENOMEM;
		block_signals(&saved);
		if (global_init() &&
			(transport->handles = etcd_handles_create(store_data, count_header, note_sending)) != NULL &&
			(transport->multi = curl_multi_init()) != NULL &&
			set_up_multi(transport))
			error = 0;
		restore_signals(&saved);
	}
	if (error != 0)
	{
		etcd_transport_destroy(transport);
		errno = error;
		return NULL;
	}
	return transport;
}

void
etcd_transport_destroy(EtcdTransport *transport)
{
	sigset_t	saved;

	if (transport == NULL)
		return;
	block_signals(&saved);
	free_given(transport);
	while (transport->requests.next != &transport->requests)
	{
		EtcdRequest *request = transport->requests.next->request;

		stop_transfer(request);
		free_request(request);
	}
	etcd_handles_destroy(transport->handles);
	free(transport->forget);
	if (transport->multi != NULL)
		curl_multi_cleanup(transport->multi);
	restore_signals(&saved);
	if (transport->epoll_fd >= 0)
		close(transport->epoll_fd);
	free(transport);
}

int
etcd_transport_fd(const EtcdTransport *transport)
{
	return transport->epoll_fd;
}

long
etcd_transport_timeout(const EtcdTransport *transport)
{
	int64_t		left;

	if (transport->ready.next != &transport->ready)
		return 0;
	if (transport->deadline < 0)
		return -1;
	left = transport->deadline - now_us();
	if (left <= 0)
		return 0;
	left = (left + 999) / 1000;
	return left < INT_MAX ? (long) left : INT_MAX;
}

void
etcd_transport_run(EtcdTransport *transport)
{
	sigset_t	saved;

	block_signals(&saved);
	serve_sockets(transport);
	if (transport->deadline >= 0 && transport->deadline <= now_us())
		serve_timers(transport);
	collect_ended(transport);
	restore_signals(&saved);
	deliver(transport);
}

/*
 * Hand the request to curl, which sends it at once when a connection is
 * there.
 */
static bool
start_transfer(EtcdRequest *request, const char *url, long timeout_ms)
{
	EtcdTransport *transport = request->transport;

	request->handle = etcd_handle_get(transport->handles);
	if (request->handle == NULL)
		return false;
	if (!set_up_easy(request, url, timeout_ms) ||
		curl_multi_add_handle(transport->multi, request->handle->easy) != CURLM_OK)
	{
		etcd_handle_put(transport->handles, request->handle);
		request->handle = NULL;
		return false;
	}
	serve_timers(transport);
	collect_ended(transport);
	return true;
}

EtcdRequest *
etcd_transport_post(EtcdTransport *transport, const char *endpoint,
					const char *path, char *body, long timeout_ms,
					const EtcdCallbacks *callbacks, void *arg)
{
	EtcdRequest *request = calloc(1, sizeof(EtcdRequest));
	char	   *url = etcd_handles_url(endpoint, path);
	sigset_t	saved;
	bool		ok = false;

	if (request == NULL || url == NULL || body == NULL)
	{
		if (body != NULL && callbacks->secret)
			explicit_bzero(body, strlen(body));
		free(request);
		free(url);
		free(body);
		return NULL;
	}
	request->transport = transport;
	request->callbacks = *callbacks;
	request->arg = arg;
	request->request_body = body;
	list_append(&transport->requests, &request->in_requests, request);

	if (transport->forget != NULL && strcmp(transport->forget, endpoint) == 0)
	{
		request->forget = etcd_handles_forget_list(endpoint);
		free(transport->forget);
		transport->forget = NULL;
	}
	block_signals(&saved);
	ok = start_transfer(request, url, timeout_ms);
	restore_signals(&saved);
	free(url);
	if (!ok)
	{
		free_request(request);
		return NULL;
	}
	return request;
}

/* An answer that is there already is delivered all the same. */
void
etcd_transport_abort(EtcdRequest *request, const char *error)
{
	sigset_t	saved;

	if (request->ended || request == request->transport->given_request)
		return;
	block_signals(&saved);
	stop_transfer(request);
	restore_signals(&saved);
	snprintf(request->error, sizeof(request->error), "%s", error);
	request->ended = true;
	make_ready(request);
}

void
etcd_transport_forget_address(EtcdTransport *transport, const char *endpoint)
{
	/* One is enough: if two fail, the other one fails again. */
	free(transport->forget);
	transport->forget = strdup(endpoint);
}

bool
etcd_transport_resolves_async(void)
{
	return (curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_ASYNCHDNS) != 0;
}

bool
etcd_transport_set_tls(EtcdTransport *transport, const EtcdTls *tls)
{
	sigset_t	saved;
	bool		ok;

	block_signals(&saved);
	ok = etcd_handles_set_tls(transport->handles, tls);
	restore_signals(&saved);
	return ok;
}

bool
etcd_transport_set_token(EtcdTransport *transport, const char *token)
{
	sigset_t	saved;
	bool		ok;

	block_signals(&saved);
	ok = etcd_handles_set_token(transport->handles, token);
	restore_signals(&saved);
	return ok;
}

void
etcd_transport_cancel(EtcdRequest *request)
{
	EtcdTransport *transport = request->transport;
	sigset_t	saved;

	/* In its own done callback, or left from there: it is freed anyway. */
	if (request == transport->given_request)
		return;
	block_signals(&saved);
	stop_transfer(request);
	restore_signals(&saved);
	free_request(request);
}
