/*-------------------------------------------------------------------------
 *
 * auth.h
 *	  Logging in to an etcd with authentication.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUTH_H
#define AUTH_H

#include "postgres.h"

#include "etcd/etcd_request.h"
#include "etcd/etcd_response.h"

/* What auth.c needs from link.c. */
typedef struct AuthHooks
{
	/*
	 * Send a login, and take over the message; returns false if it could not
	 * be sent.
	 */
	bool		(*send) (EtcdMessage *message,
						 void (*done) (void *arg, const EtcdResponse *response));
	/* drop the login that is in flight */
	void		(*cancel) (void);
	/* may requests be sent to the endpoint? */
	bool		(*is_open) (void);
	/* etcd responds, but will not do anything for us */
	void		(*not_logged_in) (const char *error);
	/* show this error in the views */
	void		(*note_error) (const char *error);
} AuthHooks;

extern void auth_create(const AuthHooks *hooks);

/* Settings were read, for the first time or again. */
extern void auth_reload(void);

/* Is there a user name to log in with? */
extern bool auth_configured(void);

/* May requests be sent, because there is a token, or none is needed? */
extern bool auth_ready(void);

/* Log in when that is due; auth_next_time() says when it may be. */
extern void auth_tick(void);
extern int64 auth_next_time(void);

/* Returns the token to send with every request, or NULL. */
extern const char *auth_token(void);

/*
 * The number of the token that requests are sent with.  When a response comes,
 * link.c reports what it says about the token that the request had.
 */
extern uint64 auth_token_number(void);
extern bool auth_is_refusal(const EtcdError *error);
extern void auth_token_worked(uint64 number);
extern void auth_token_refused(uint64 number);

/* Mask the token if a server sends it back. */
extern void auth_censor(char *message, size_t len);

#endif							/* AUTH_H */
