/*-------------------------------------------------------------------------
 *
 * auth.c
 *	  Logging in to an etcd with authentication.
 *
 * A user name and a password yield a token, which goes with every request.
 * Etcd forgets tokens when it is restarted, when the password is changed, and
 * after some time without use.  Then it refuses a request without applying it,
 * we log in again, and the request is sent again (link.c).
 *
 * Checking a password is expensive for etcd on purpose, so a failed login is
 * repeated with growing pauses, but at once if the password file has changed.
 *
 * Neither password nor token is ever part of a message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/auth.h"
#include "client/config_file.h"
#include "client/etcd_client.h"
#include "shared/clock.h"
#include "shared/settings.h"
#include "utils/memutils.h"

/*
 * Pause after a failed login, microseconds: doubled from first to last, and up to a
 * quarter longer, so that many servers do not come at once.  Once etcd accepts
 * logins again, locks soon work again; checking a password costs etcd 60 ms.
 */
#define FIRST_PAUSE		INT64CONST(1000000)
#define LAST_PAUSE		INT64CONST(5000000)

/* How often to check whether the password file has changed. */
#define FILE_POLL		INT64CONST(500000)

/*
 * Longest pause if etcd refuses tokens that it has just issued: whatever is
 * wrong may end, and the lease must not run out because of the pause.
 */
#define MAX_REFUSED_PAUSE	((int64) etcd_lock_lease_ttl * 1000000 / 10)

/* Pause after a login that got no response. */
#define RETRY_PAUSE		INT64CONST(100000)

typedef enum AuthState
{
	AUTH_NONE,					/* there is no user name */
	AUTH_WANTED,				/* to log in, from not_before on */
	AUTH_ASKED,					/* in flight */
	AUTH_TOKEN,					/* there is a token */
	AUTH_DISABLED				/* etcd does not want one */
} AuthState;

struct Auth
{
	const AuthHooks *hooks;
	AuthState	state;
	char	   *username;		/* that the token belongs to */
	char	   *token;			/* malloc'ed */
	uint64		number;			/* of the token, or of none; never the same
								 * again */
	bool		worked;			/* some request was accepted with it */
	int64		not_before;		/* clock_now() */
	int64		pause_us;		/* the last one; 0: none yet */
	int64		poll_at;		/* clock_now(): look at the file */
	struct stat used_file;		/* the password file, as it was last read */
	char		said[ETCD_MESSAGE_SIZE];	/* error in the log */
};

#define MyAuth (MyClient->auth)

static void
drop_token(void)
{
	if (MyAuth->token != NULL)
	{
		explicit_bzero(MyAuth->token, strlen(MyAuth->token));
		free(MyAuth->token);
	}
	MyAuth->token = NULL;
	MyAuth->number++;
	MyAuth->worked = false;
}

void
auth_create(const AuthHooks *hooks)
{
	MyAuth = MemoryContextAllocZero(TopMemoryContext, sizeof(struct Auth));
	MyAuth->hooks = hooks;
}

const char *
auth_token(void)
{
	Assert((MyAuth->token != NULL) == (MyAuth->state == AUTH_TOKEN));
	return MyAuth->token;
}

bool
auth_configured(void)
{
	return MyAuth->state != AUTH_NONE;
}

bool
auth_ready(void)
{
	return MyAuth->state != AUTH_WANTED && MyAuth->state != AUTH_ASKED;
}

uint64
auth_token_number(void)
{
	return MyAuth->number;
}

static void
cancel_login(void)
{
	if (MyAuth->state == AUTH_ASKED)
		MyAuth->hooks->cancel();
}

static void
want_login(int64 pause)
{
	cancel_login();
	MyAuth->state = AUTH_WANTED;
	MyAuth->not_before = clock_now() + pause;
	MyAuth->poll_at = clock_now() + FILE_POLL;
}

/* Log in again after a pause, which is no longer than "longest". */
static void
pause_logins(const char *error, int64 longest)
{
	uint32		random = 0;

	/* without a random number there is no jitter */
	(void) pg_strong_random(&random, sizeof(random));
	MyAuth->pause_us = MyAuth->pause_us == 0 ? FIRST_PAUSE : Min(2 * MyAuth->pause_us, LAST_PAUSE);
	want_login(Min(MyAuth->pause_us + random % (MyAuth->pause_us / 4), longest));
	/* what is remembered may be only its beginning */
	if (strncmp(MyAuth->said, error, sizeof(MyAuth->said) - 1) != 0)
	{
		strlcpy(MyAuth->said, error, sizeof(MyAuth->said));
		ereport(LOG,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("etcd_lock: could not log in to etcd as \"%s\": %s",
						MyAuth->username, error)));
	}
	MyAuth->hooks->not_logged_in(psprintf("could not log in as \"%s\": %s", MyAuth->username, error));
}

static void
login_failed(const char *error)
{
	pause_logins(error, PG_INT64_MAX);
}

/*
 * Read the file, which has one line, without its end.  Returns NULL, or what
 * is wrong.
 */
static char *
read_password(ConfigFile *file)
{
	char	   *error;
	size_t		len;

	memset(file, 0, sizeof(ConfigFile));
	if (etcd_lock_password_file[0] == '\0')
		return pstrdup("\"etcd_lock.password_file\" is not set");
	error = config_file_read(etcd_lock_password_file, true, file);
	MyAuth->used_file = file->stat;
	if (error != NULL)
		return error;

	len = file->len;
	if (len > 0 && file->content[len - 1] == '\n')
		len--;
	if (len > 0 && file->content[len - 1] == '\r')
		len--;
	file->content[len] = '\0';
	if (len == 0)
		error = psprintf("file \"%s\" is empty", etcd_lock_password_file);
	else if (strlen(file->content) != len || strchr(file->content, '\n') != NULL)
		error = psprintf("file \"%s\" contains more than one line of text",
						 etcd_lock_password_file);
	if (error != NULL)
		config_file_free(file);
	return error;
}

static void
login_done(void *arg, const EtcdResponse *response)
{
	EtcdAuthResult result;
	EtcdError	error;

	Assert(MyAuth->state == AUTH_ASKED);
	if (!response->delivered)
	{
		want_login(RETRY_PAUSE);	/* link.c has reported why */
		return;
	}
	if (!etcd_response_auth(&response->reply, &result, &error))
	{
		if (error.code == ETCD_FAILED_PRECONDITION)
		{
			/* authentication is not enabled */
			MyAuth->state = AUTH_DISABLED;
			return;
		}
		if (error.code == ETCD_UNAVAILABLE || error.code == ETCD_DEADLINE_EXCEEDED)
		{
			want_login(RETRY_PAUSE);	/* from another member */
			return;
		}
		login_failed(error.message);
		return;
	}
	drop_token();
	MyAuth->token = result.token;
	result.token = NULL;
	etcd_response_free_auth(&result);
	MyAuth->state = AUTH_TOKEN;
	ereport(DEBUG1,
			(errmsg_internal("etcd_lock: logged in to etcd as \"%s\"", MyAuth->username)));
}

/* Report now what would make the next login fail. */
static void
check_password_file(void)
{
	ConfigFile	password;
	char	   *error = read_password(&password);

	if (error == NULL)
	{
		config_file_free(&password);
		return;
	}
	ereport(LOG,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("etcd_lock: %s", error)));
	MyAuth->hooks->note_error(error);
}

void
auth_reload(void)
{
	bool		same = MyAuth->username != NULL && strcmp(MyAuth->username, etcd_lock_username) == 0;

	MyAuth->pause_us = 0;
	MyAuth->said[0] = '\0';
	if (!same)
	{
		if (MyAuth->token != NULL || MyAuth->state != AUTH_NONE)
			drop_token();
		if (MyAuth->username != NULL)
			pfree(MyAuth->username);
		MyAuth->username = MemoryContextStrdup(TopMemoryContext, etcd_lock_username);
	}
	if (etcd_lock_username[0] == '\0')
	{
		cancel_login();
		MyAuth->state = AUTH_NONE;
	}
	else if (!same || MyAuth->state == AUTH_WANTED)
		want_login(0);
	else
		check_password_file();
}

static void
send_login(void)
{
	ConfigFile	password;
	char	   *error = read_password(&password);
	EtcdMessage message;

	if (error != NULL)
	{
		login_failed(error);
		return;
	}
	message = etcd_request_authenticate(MyAuth->username, password.content);
	config_file_free(&password);
	if (MyAuth->hooks->send(&message, login_done))
		MyAuth->state = AUTH_ASKED;
	else
		want_login(RETRY_PAUSE);
}

void
auth_tick(void)
{
	int64		now;

	if (MyAuth->state != AUTH_WANTED || !MyAuth->hooks->is_open())
		return;
	now = clock_now();
	if (now < MyAuth->not_before && now >= MyAuth->poll_at)
	{
		MyAuth->poll_at = now + FILE_POLL;
		if (config_file_changed(etcd_lock_password_file, &MyAuth->used_file))
			MyAuth->not_before = now;
	}
	if (now >= MyAuth->not_before)
		send_login();
}

/* Before the link is open, there is nothing to do. */
int64
auth_next_time(void)
{
	if (MyAuth->state != AUTH_WANTED || !MyAuth->hooks->is_open())
		return PG_INT64_MAX;
	return Min(MyAuth->not_before, MyAuth->poll_at);
}

/*
 * Has etcd refused a request because of its token, so that another one may
 * help?  Then the request was not applied.  If there is nobody to log in as,
 * no other token will come.
 */
bool
auth_is_refusal(const EtcdError *error)
{
	return auth_configured() &&
		(error->code == ETCD_UNAUTHENTICATED ||
		 strstr(error->message, "user name is empty") != NULL ||
		 strstr(error->message, "invalid auth token") != NULL ||
		 strstr(error->message, "revision of auth store is old") != NULL);
}

void
auth_token_worked(uint64 of_number)
{
	if (of_number != MyAuth->number || MyAuth->state != AUTH_TOKEN || MyAuth->worked)
		return;
	MyAuth->worked = true;
	MyAuth->pause_us = 0;
	MyAuth->said[0] = '\0';
}

void
auth_token_refused(uint64 of_number)
{
	if (of_number != MyAuth->number || !auth_ready() || MyAuth->state == AUTH_NONE)
		return;
	if (MyAuth->state == AUTH_TOKEN && !MyAuth->worked)
	{
		/* a new one: logging in again does not help */
		drop_token();
		pause_logins("etcd refuses the token that it issued", MAX_REFUSED_PAUSE);
		return;
	}
	drop_token();
	want_login(0);
}

void
auth_censor(char *message, size_t len)
{
	const char *end = message + len;
	char	   *found = message;
	size_t		token_len;

	if (MyAuth->token == NULL)
		return;
	token_len = strlen(MyAuth->token);

	/* Go on behind the asterisks, because a token may consist of them. */
	while ((found = memmem(found, end - found, MyAuth->token, token_len)) != NULL)
	{
		memset(found, '*', token_len);
		found += token_len;
	}
}
