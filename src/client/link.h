/*-------------------------------------------------------------------------
 *
 * link.h
 *	  The worker's link to etcd: requests to the address in use, and its state.
 *
 * The worker's loop waits for link_fd() and link_timeout(), then calls
 * link_run(), which calls back for what has come, and link_tick(), which does
 * what is due; link_tick_time() says when that is next.  Callbacks may make and
 * cancel requests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LINK_H
#define LINK_H

#include "postgres.h"

#include "etcd/etcd_request.h"
#include "etcd/etcd_response.h"

typedef struct LinkCall LinkCall;

/*
 * What a request is about.  Only requests about the lease, and the connection
 * itself, decide whether the link is up; side requests cannot take it down,
 * and only a few of them are in flight at a time.
 */
typedef enum LinkClass
{
	LINK_LEASE,					/* keepalive, sentinel, logins, probes */
	LINK_LOCK,					/* keys: put, deleted, read */
	LINK_SIDE					/* views, health, notes, old leases */
} LinkClass;

typedef struct LinkCallbacks
{
	/* the request has ended; the response is freed when this returns */
	void		(*done) (void *arg, const EtcdResponse *response);
	/* longest response, bytes; 0: GRPC_MAX_MESSAGE */
	size_t		max_message;
	/* LINK_SIDE: does not wait for others of this class */
	bool		is_urgent;
	/* for etcd's anonymous user only; see link_is_anonymous() */
	bool		is_anonymous;
} LinkCallbacks;

/* A stream, for watch.c, which lasts as long as the connection. */
typedef struct LinkStream LinkStream;

typedef struct LinkStreamCallbacks
{
	void		(*message) (void *arg, const void *data, size_t len);
	void		(*ended) (void *arg, const EtcdResponse *response);
	size_t		max_message;
} LinkStreamCallbacks;

/* For the worker's loop: one descriptor stands for the network. */
extern bool link_create(void);	/* false, with errno set: it failed */
extern int	link_fd(void);
extern long link_timeout(void); /* milliseconds, -1: none */
extern void link_run(void);

/* The settings were read, for the first time or again. */
extern void link_init(void);
extern void link_reload(void);

/* Do what is due; when that is: clock_now(). */
extern void link_tick(void);
extern int64 link_tick_time(void);

/* The URL of the endpoint in use, or of the one to be tried first. */
extern const char *link_endpoint(void);

/* Changes with the connection in use. */
extern uint64 link_generation(void);

/* Would a request be sent at once? */
extern bool link_ready(void);

/*
 * 0 if it would, else PG_INT64_MAX, because what a request waits for wakes the
 * worker.
 */
extern int64 link_next_time(void);

/*
 * Send a request, and take over its message.  Returns NULL if memory is
 * exhausted; then no callback is called.  timeout_ms is the total time,
 * including that in which there is no link.
 */
extern LinkCall *link_call(LinkClass class, EtcdMessage message, long timeout_ms,
						   const LinkCallbacks *callbacks, void *arg);

/*
 * Do requests come without a user's name, neither by a token nor by a
 * certificate?  Then etcd either checks nobody's rights or refuses all of them.
 */
extern bool link_is_anonymous(void);

/* Drop a request that is in flight; its callback is not called. */
extern void link_cancel(LinkCall *call);

/* Returns NULL if there is no link at the moment. */
extern LinkStream *link_stream(EtcdMessage message,
							   const LinkStreamCallbacks *callbacks, void *arg);
extern bool link_stream_send(LinkStream *stream, EtcdMessage message);
extern void link_stream_close(LinkStream *stream);

/* Etcd has cancelled a watch, perhaps because of its token. */
extern bool link_watch_refused(const LinkStream *stream, const char *reason);

/*
 * For "done" callbacks: etcd would not send this response, or it says that the
 * member cannot serve.
 */
extern void link_bad_response(const EtcdResponse *response, const char *error);

/* This response has granted the lease or kept it alive. */
extern void link_proven(const EtcdResponse *response);

/* A response had this raft term. */
extern void link_saw_term(uint64 term);

/* Show this error in the views, although the link as such is up. */
extern void link_note_error(const char *error);

/* Send a request to another endpoint; see endpoints_ask(). */
extern bool link_ask(const char *url, EtcdMessage message, long timeout_ms,
					 void (*done) (void *arg, const EtcdResponse *response), void *arg);

#endif							/* LINK_H */
