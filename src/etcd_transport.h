/*-------------------------------------------------------------------------
 *
 * etcd_transport.h
 *	  HTTP requests to etcd without ever blocking, by libcurl's multi interface.
 *
 * All sockets of a transport stand behind one epoll descriptor, which the
 * caller puts into its own event loop: when it becomes readable, or when
 * etcd_transport_timeout() milliseconds have gone by, call
 * etcd_transport_run().  The "done" and "data" callbacks are called from
 * there, never from inside a callback of curl's, so they may start and cancel
 * requests and may leave with a longjmp.
 *
 * etcd_transport_run() and etcd_transport_destroy() must not be called from a
 * callback.
 *
 * libcurl may silently send a POST twice when a kept connection is reset, so
 * every request must be one that may be carried out twice.  The process must
 * ignore SIGPIPE.
 *
 * Memory is malloc's.  Every request has connections to itself while it runs:
 * a slow one never holds up another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETCD_TRANSPORT_H
#define ETCD_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Bytes beyond which an answer is given up, whatever would have come: of one, of
 * all that are under way, of a header, and of what a stream brings at once,
 * before it can be handed out.
 */
#define ETCD_MAX_ANSWER		(16 * 1024 * 1024)
#define ETCD_MAX_ANSWERS	(64 * 1024 * 1024)
#define ETCD_MAX_HEADER		(64 * 1024)
#define ETCD_MAX_BURST		(256 * 1024)

typedef struct EtcdTransport EtcdTransport;
typedef struct EtcdRequest EtcdRequest;

typedef struct EtcdAnswer
{
	bool		delivered;		/* an HTTP answer came, whole */
	int			http_status;	/* valid when delivered */
	const char *body;			/* NUL behind the last byte; empty when the
								 * data callback has got it */
	size_t		len;
	char		error[256];		/* not delivered: why, for people */
	bool		ambiguous;		/* not delivered: the server may have got the
								 * request and may still carry it out */
	bool		too_long;		/* not delivered: given up for its length */
} EtcdAnswer;

typedef struct EtcdCallbacks
{
	/* streaming requests: the next bytes of the answer (only of HTTP 200) */
	void		(*data) (void *arg, const char *data, size_t len);
	/* the request has ended; it is freed after this returns */
	void		(*done) (void *arg, const EtcdAnswer *answer);
	bool		secret;			/* body and answer are wiped when they are freed */
	/* unary requests: longest answer, bytes; 0: ETCD_MAX_ANSWER */
	size_t		max_answer;
} EtcdCallbacks;

/* What PEM files hold; a length of 0: there is none. */
typedef struct EtcdTls
{
	const char *cacert;			/* none: the system's */
	size_t		cacert_len;
	const char *cert;			/* the client's, with its chain */
	size_t		cert_len;
	const char *key;
	size_t		key_len;
} EtcdTls;

/* NULL, with errno set, when epoll or curl cannot be set up. */
extern EtcdTransport *etcd_transport_create(void);
extern void etcd_transport_destroy(EtcdTransport *transport);

extern int	etcd_transport_fd(const EtcdTransport *transport);

/* Milliseconds until etcd_transport_run() must be called; -1: no need. */
extern long etcd_transport_timeout(const EtcdTransport *transport);
extern void etcd_transport_run(EtcdTransport *transport);

/*
 * Certificates and key, which are copied, for https endpoints.  Requests that
 * are under way go on with what they began with.  False: out of memory, and
 * nothing has changed.
 */
extern bool etcd_transport_set_tls(EtcdTransport *transport, const EtcdTls *tls);

/*
 * The token, of printable characters, that goes with every request from now
 * on; NULL: none.  False as above.
 */
extern bool etcd_transport_set_token(EtcdTransport *transport, const char *token);

/*
 * The addresses of a host's name are kept as long as the transport lives, so
 * that a slow resolver holds up nobody.  This makes the next request to the
 * endpoint look them up anew.
 */
extern void etcd_transport_forget_address(EtcdTransport *transport,
										  const char *endpoint);

/* Are names resolved without blocking?  It depends on how libcurl was built. */
extern bool etcd_transport_resolves_async(void);

/*
 * Send POST <endpoint><path> with a JSON body, which is taken over and freed
 * (also on failure).  timeout_ms bounds the whole of a unary request; for a
 * streaming one (callbacks->data set) it bounds only the connecting, and the
 * answer may go on for ever.  NULL: out of memory or an endpoint that is no
 * URL; nothing will be called.
 */
extern EtcdRequest *etcd_transport_post(EtcdTransport *transport,
										const char *endpoint, const char *path,
										char *body, long timeout_ms,
										const EtcdCallbacks *callbacks, void *arg);

/*
 * Drop a request that is under way; its callbacks will not be called.  From
 * inside its own done callback this does nothing.
 */
extern void etcd_transport_cancel(EtcdRequest *request);

/* Give it up: its done callback is called, with this error, from the next run. */
extern void etcd_transport_abort(EtcdRequest *request, const char *error);

#endif							/* ETCD_TRANSPORT_H */
