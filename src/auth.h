/*-------------------------------------------------------------------------
 *
 * auth.h
 *	  Logging in to an etcd that wants to know who we are.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUTH_H
#define AUTH_H

#include "worker.h"

/* Settings were read, for the first time or again. */
extern void auth_reload(void);

/* Is there a user's name to log in with? */
extern bool auth_configured(void);

/* May requests be sent: is there a token, or is none needed? */
extern bool auth_ready(void);

/* Log in when that is due; auth_next_time() says when it may be. */
extern void auth_tick(void);
extern int64 auth_next_time(void);

/*
 * Of the token that requests are sent with.  Who has got an answer tells what
 * it says about the token that the request had.
 */
extern uint64 auth_token_number(void);
extern bool auth_is_refusal(const EtcdError *error);
extern void auth_token_worked(uint64 number);
extern void auth_token_refused(uint64 number);

/* Blot out the token where a server sends it back. */
extern void auth_censor(char *text, size_t len);

#endif							/* AUTH_H */
