/*-------------------------------------------------------------------------
 *
 * auth.c
 *	  Logging in to an etcd that wants to know who we are.
 *
 * A user's name and a password give a token, which goes with every request.
 * Etcd forgets tokens: when it is restarted, when the password is changed,
 * after some time without use.  Then it refuses a request without carrying it
 * out, we log in anew, and the request is sent again (link.c).
 *
 * Checking a password costs etcd much on purpose, so a login that fails is
 * repeated with growing pauses; but at once when the password's file has
 * changed.
 *
 * Neither password nor token is ever part of a message.
 *
 *-------------------------------------------------------------------------
 */
#include "auth.h"

#include "config_file.h"
#include "utils/memutils.h"

/* Pause after a failed login, microseconds: doubled from first to last. */
#define FIRST_PAUSE		INT64CONST(1000000)
#define LAST_PAUSE		INT64CONST(60000000)

/* How often to look whether the password's file has changed meanwhile. */
#define FILE_POLL		INT64CONST(500000)

/* Pause after a login that got no answer. */
#define RETRY_PAUSE		INT64CONST(100000)

typedef enum AuthState
{
	AUTH_NONE,					/* there is no user's name */
	AUTH_WANTED,				/* to log in, from not_before on */
	AUTH_ASKED,					/* under way */
	AUTH_TOKEN,					/* there is a token */
	AUTH_DISABLED				/* etcd does not want one */
} AuthState;

static AuthState state = AUTH_NONE;
static char *username = NULL;	/* that the token belongs to */
static char *token = NULL;		/* malloc'ed */
static uint64 number = 0;
static bool worked = false;		/* some request was accepted with it */
static LinkCall *login = NULL;
static int64 not_before = 0;	/* clock_now() */
static int64 pause_us = 0;
static int64 poll_at = 0;
static struct stat used_file;	/* that the failed login read */
static char said[ETCD_MESSAGE_SIZE];	/* in the log */

static void
drop_token(void)
{
	if (token != NULL)
	{
		explicit_bzero(token, strlen(token));
		free(token);
	}
	token = NULL;
	number++;
	worked = false;
	(void) etcd_transport_set_token(worker_transport, NULL);
}

bool
auth_configured(void)
{
	return state != AUTH_NONE;
}

bool
auth_ready(void)
{
	return state != AUTH_WANTED && state != AUTH_ASKED;
}

uint64
auth_token_number(void)
{
	return number;
}

static void
want_login(int64 pause)
{
	if (login != NULL)
		link_cancel(login);
	login = NULL;
	state = AUTH_WANTED;
	not_before = clock_now() + pause;
	poll_at = clock_now() + FILE_POLL;
}

/* Not to be repeated at once. */
static void
login_failed(const char *error)
{
	pause_us = pause_us == 0 ? FIRST_PAUSE : Min(2 * pause_us, LAST_PAUSE);
	want_login(pause_us);
	if (strcmp(said, error) != 0)
	{
		strlcpy(said, error, sizeof(said));
		ereport(LOG,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("etcd_lock: could not log in to etcd as \"%s\": %s",
						username, error)));
	}
	link_not_logged_in(psprintf("could not log in as \"%s\": %s", username, error));
}

/* The file, of one line and without its end.  NULL, or what is wrong. */
static char *
read_password(ConfigFile *file)
{
	char	   *error;
	size_t		len;

	memset(file, 0, sizeof(ConfigFile));
	if (etcd_lock_password_file[0] == '\0')
		return pstrdup("\"etcd_lock.password_file\" is not set");
	error = config_file_read(etcd_lock_password_file, true, file);
	used_file = file->stat;
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
		error = psprintf("file \"%s\" holds more than one line of text",
						 etcd_lock_password_file);
	if (error != NULL)
		config_file_free(file);
	return error;
}

static void
login_done(void *arg, const EtcdAnswer *answer)
{
	EtcdAuthResult result;
	EtcdError	error;

	login = NULL;
	if (!answer->delivered)
	{
		want_login(RETRY_PAUSE);	/* link.c has said why */
		return;
	}
	if (!etcd_decode_auth(answer->body, answer->len, answer->http_status,
						  &result, &error))
	{
		if (error.code == ETCD_FAILED_PRECONDITION)
		{
			/* authentication is not enabled */
			state = AUTH_DISABLED;
			return;
		}
		login_failed(error.message);
		return;
	}
	drop_token();
	if (!etcd_transport_set_token(worker_transport, result.token))
	{
		etcd_auth_result_free(&result);
		login_failed("out of memory");
		return;
	}
	token = result.token;
	result.token = NULL;
	etcd_auth_result_free(&result);
	state = AUTH_TOKEN;
	ereport(DEBUG1,
			(errmsg_internal("etcd_lock: logged in to etcd as \"%s\"", username)));
}

/* What would make the next login fail is better known now. */
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
	link_note_error(error);
}

void
auth_reload(void)
{
	bool		same = username != NULL && strcmp(username, etcd_lock_username) == 0;

	pause_us = 0;
	said[0] = '\0';
	if (!same)
	{
		if (token != NULL || state != AUTH_NONE)
			drop_token();
		if (username != NULL)
			pfree(username);
		username = MemoryContextStrdup(TopMemoryContext, etcd_lock_username);
	}
	if (etcd_lock_username[0] == '\0')
	{
		if (login != NULL)
			link_cancel(login);
		login = NULL;
		state = AUTH_NONE;
	}
	else if (!same || state == AUTH_WANTED)
		want_login(0);
	else
		check_password_file();
}

static void
send_login(void)
{
	static const EtcdCallbacks callbacks = {.done = login_done, .secret = true};
	ConfigFile	password;
	char	   *error = read_password(&password);
	char	   *body;

	if (error != NULL)
	{
		login_failed(error);
		return;
	}
	body = etcd_encode_auth(username, password.content);
	config_file_free(&password);
	state = AUTH_ASKED;
	login = body == NULL ? NULL :
		link_call(ETCD_PATH_AUTHENTICATE, body, etcd_lock_request_timeout,
				  &callbacks, NULL);
	if (login == NULL)
		want_login(RETRY_PAUSE);
}

void
auth_tick(void)
{
	int64		now;

	if (state != AUTH_WANTED || !link_open())
		return;
	now = clock_now();
	if (now < not_before && now >= poll_at)
	{
		poll_at = now + FILE_POLL;
		if (config_file_changed(etcd_lock_password_file, &used_file))
			not_before = now;
	}
	if (now >= not_before)
		send_login();
}

int64
auth_next_time(void)
{
	return state == AUTH_WANTED ? Min(not_before, poll_at) : PG_INT64_MAX;
}

/*
 * Has etcd refused a request because of the token, so that another one may
 * help?  It has not been carried out then.
 */
bool
auth_is_refusal(const EtcdError *error)
{
	return error->code == ETCD_UNAUTHENTICATED ||
		strstr(error->message, "user name is empty") != NULL ||
		strstr(error->message, "invalid auth token") != NULL ||
		strstr(error->message, "revision of auth store is old") != NULL;
}

void
auth_token_worked(uint64 of_number)
{
	if (of_number != number || state != AUTH_TOKEN || worked)
		return;
	worked = true;
	pause_us = 0;
	said[0] = '\0';
}

void
auth_token_refused(uint64 of_number)
{
	if (of_number != number || !auth_ready() || state == AUTH_NONE)
		return;
	if (state == AUTH_TOKEN && !worked)
	{
		/* a new one: logging in again does not help */
		drop_token();
		login_failed("the token that etcd gave is refused");
		return;
	}
	drop_token();
	want_login(0);
}

void
auth_censor(char *text, size_t len)
{
	size_t		token_len;
	char	   *found;

	if (token == NULL)
		return;
	token_len = strlen(token);
	while ((found = memmem(text, len, token, token_len)) != NULL)
		memset(found, '*', token_len);
}
