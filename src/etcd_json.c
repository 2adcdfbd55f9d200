/*-------------------------------------------------------------------------
 *
 * etcd_json.c
 *	  Strict reading of etcd's JSON, and of its errors.
 *
 * The gateway has two generations, told apart by nothing but the shape of
 * what they send.  Errors of theirs:
 *
 *	  unary, v1		{"error": "text", "message": "text", "code": 5}
 *	  unary, v2		{"code": 5, "message": "text"}
 *	  stream, v1	{"error": {"grpc_code": 5, "http_code": 404,
 *							   "message": "text", "http_status": "Not Found"}}
 *	  stream, v2	{"error": {"code": 5, "message": "text"}}
 *
 * Some errors are plain text, and a proxy in between sends HTML.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Values in an answer that is read: as many as 16 MB of keys may have. */
#define MAX_VALUES			1000000

/* Greatest integer below which a double holds every integer exactly. */
#define MAX_EXACT_DOUBLE	9007199254740991.0

/*
 * Length of the UTF-8 character at "text", or 0 when the bytes there are no
 * well-formed printable one.
 */
static size_t
printable_length(const unsigned char *text, size_t len)
{
	uint32_t	c = text[0];
	uint32_t	least;
	size_t		n;
	size_t		i;

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f ? 1 : 0;
	if (c >= 0xc0 && c < 0xe0)
	{
		n = 2;
		c &= 0x1f;
		least = 0xa0;			/* below are control characters */
	}
	else if (c >= 0xe0 && c < 0xf0)
	{
		n = 3;
		c &= 0x0f;
		least = 0x800;
	}
	else if (c >= 0xf0 && c < 0xf8)
	{
		n = 4;
		c &= 0x07;
		least = 0x10000;
	}
	else
		return 0;
	if (len < n)
		return 0;
	for (i = 1; i < n; i++)
	{
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (text[i] & 0x3f);
	}
	if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	return n;
}

/*
 * White space and all that is not printable becomes one space, none at either
 * end.
 */
void
etcd_json_printable(char *dst, size_t size, const char *text, size_t len)
{
	const unsigned char *in = (const unsigned char *) text;
	size_t		used = 0;
	bool		space = false;

	while (len > 0)
	{
		size_t		n = *in == ' ' ? 0 : printable_length(in, len);

		if (n == 0)
		{
			space = used > 0;
			in++;
			len--;
			continue;
		}
		if (used + (space ? 1 : 0) + n >= size)
			break;
		if (space)
			dst[used++] = ' ';
		space = false;
		memcpy(dst + used, in, n);
		used += n;
		in += n;
		len -= n;
	}
	dst[used] = '\0';
}

bool
etcd_json_bad(EtcdError *err, const char *fmt,...)
{
	va_list		args;
	char		text[ETCD_MESSAGE_SIZE];

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	err->code = ETCD_BAD_ANSWER;
	etcd_json_printable(err->message, sizeof(err->message), text, strlen(text));
	return false;
}

/* A member, or NULL when it is missing or null. */
static const cJSON *
member(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsNull(item) ? NULL : item;
}

static bool
wrong_type(EtcdError *err, const char *name)
{
	return etcd_json_bad(err, "unexpected type or value of \"%s\" in etcd's answer",
						 name);
}

/*
 * Digits only: strtoll would also take leading white space and a plus sign.
 */
static bool
all_digits(const char *text)
{
	return *text != '\0' && strspn(text, "0123456789") == strlen(text);
}

/* A JSON number is taken only when it cannot have been rounded. */
static bool
exact_number(const cJSON *item, int64_t *value)
{
	double		number = item->valuedouble;

	if (!(number >= -MAX_EXACT_DOUBLE && number <= MAX_EXACT_DOUBLE))
		return false;
	*value = (int64_t) number;
	return (double) *value == number;
}

static bool
item_int64(const cJSON *item, int64_t *value)
{
	const char *digits = item->valuestring;

	if (cJSON_IsNumber(item))
		return exact_number(item, value);
	if (!cJSON_IsString(item) || !all_digits(digits + (*digits == '-' ? 1 : 0)))
		return false;
	errno = 0;
	*value = strtoimax(digits, NULL, 10);
	return errno == 0;
}

static bool
item_uint64(const cJSON *item, uint64_t *value)
{
	int64_t		number;

	if (cJSON_IsNumber(item))
	{
		if (!exact_number(item, &number) || number < 0)
			return false;
		*value = (uint64_t) number;
		return true;
	}
	if (!cJSON_IsString(item) || !all_digits(item->valuestring))
		return false;
	errno = 0;
	*value = strtoumax(item->valuestring, NULL, 10);
	return errno == 0;
}

bool
etcd_json_int64(const cJSON *object, const char *name, int64_t *value,
				EtcdError *err)
{
	const cJSON *item = member(object, name);

	*value = 0;
	if (item != NULL && !item_int64(item, value))
		return wrong_type(err, name);
	return true;
}

bool
etcd_json_uint64(const cJSON *object, const char *name, uint64_t *value,
				 EtcdError *err)
{
	const cJSON *item = member(object, name);

	*value = 0;
	if (item != NULL && !item_uint64(item, value))
		return wrong_type(err, name);
	return true;
}

bool
etcd_json_bool(const cJSON *object, const char *name, bool *value,
			   EtcdError *err)
{
	const cJSON *item = member(object, name);

	*value = cJSON_IsTrue(item);
	if (item != NULL && !cJSON_IsBool(item))
		return wrong_type(err, name);
	return true;
}

bool
etcd_json_string(const cJSON *object, const char *name, const char **value,
				 EtcdError *err)
{
	const cJSON *item = member(object, name);

	*value = "";
	if (item == NULL)
		return true;
	if (!cJSON_IsString(item))
		return wrong_type(err, name);
	*value = item->valuestring;
	return true;
}

bool
etcd_json_array(const cJSON *object, const char *name, const cJSON **value,
				EtcdError *err)
{
	*value = member(object, name);
	if (*value != NULL && !cJSON_IsArray(*value))
		return wrong_type(err, name);
	return true;
}

bool
etcd_json_object(const cJSON *object, const char *name, const cJSON **value,
				 EtcdError *err)
{
	*value = member(object, name);
	if (*value != NULL && !cJSON_IsObject(*value))
		return wrong_type(err, name);
	return true;
}

/*
 * The code that an HTTP status stands for when the answer names none.  404 is
 * left out: what etcd itself does not know it reports with a code, and a
 * wrong path must not look like a lost lease.
 */
static int
code_of_http_status(int http_status)
{
	switch (http_status)
	{
		case 401:
			return ETCD_UNAUTHENTICATED;
		case 403:
			return ETCD_PERMISSION_DENIED;
		case 429:
			return ETCD_RESOURCE_EXHAUSTED;
		case 502:
		case 503:
			return ETCD_UNAVAILABLE;
		case 504:
			return ETCD_DEADLINE_EXCEEDED;
		default:
			return ETCD_BAD_ANSWER;
	}
}

/*
 * What etcd's gateway answers to every request, in plain text, when a client's
 * certificate has a Common Name while authentication is enabled.
 */
#define COMMON_NAME_REFUSED	"CommonName of client"
#define COMMON_NAME_MESSAGE "etcd's gateway accepts no client certificate with a Common Name (CN) while authentication is enabled; use one without"

static bool
is_common_name_refused(const char *body, size_t len)
{
	size_t		pattern = strlen(COMMON_NAME_REFUSED);

	for (; len >= pattern; body++, len--)
	{
		if (memcmp(body, COMMON_NAME_REFUSED, pattern) == 0)
			return true;
	}
	return false;
}

bool
etcd_json_is_etcds(const EtcdError *err)
{
	return strncmp(err->message, "etcdserver: ", strlen("etcdserver: ")) == 0 ||
		strcmp(err->message, COMMON_NAME_MESSAGE) == 0;
}

/* What is no answer of etcd's: say it with the bytes that came. */
static void
not_etcds_answer(const char *body, size_t len, int http_status, EtcdError *err)
{
	int			prefix;

	err->code = code_of_http_status(http_status);
	if (http_status == 400 && len < 1024 && is_common_name_refused(body, len))
	{
		strcpy(err->message, COMMON_NAME_MESSAGE);
		return;
	}
	prefix = snprintf(err->message, sizeof(err->message),
					  "HTTP status %d, and no answer of etcd's: ", http_status);
	etcd_json_printable(err->message + prefix, sizeof(err->message) - prefix,
						body, len);
	if (err->message[prefix] == '\0')
		snprintf(err->message, sizeof(err->message),
				 "HTTP status %d, and no answer of etcd's", http_status);
}

/*
 * A router of the gateway's second generation answers an unknown path with
 * code 5 as well, and with HTTP's own phrase.
 */
static bool
is_wrong_path(int code, const char *message)
{
	return code == ETCD_NOT_FOUND && strcmp(message, "Not Found") == 0;
}

/*
 * Fill *err from the object that holds "code" and "message".  False when it
 * has neither, or a code that gRPC doesn't know.
 */
static bool
read_error(const cJSON *object, EtcdError *err)
{
	const cJSON *code = member(object, "code");
	const cJSON *message = member(object, "message");
	const cJSON *http_code = member(object, "http_code");
	int64_t		number;

	if (code == NULL)
		code = member(object, "grpc_code");
	if (code == NULL || !item_int64(code, &number) || number < 1 || number > 16)
		return false;
	if (!cJSON_IsString(message))
		message = member(object, "error");
	if (!cJSON_IsString(message) || is_wrong_path((int) number, message->valuestring))
		return false;

	err->code = (int) number;
	etcd_json_printable(err->message, sizeof(err->message),
						message->valuestring, strlen(message->valuestring));
	if (http_code != NULL && item_int64(http_code, &number) &&
		number >= 100 && number <= 999)
		err->http_status = (int) number;
	return true;
}

/*
 * Whether an answer with HTTP status 200 is an error nevertheless.  A lease's
 * answer has an "error" of its own, empty unless something went wrong.
 */
static bool
has_error(const cJSON *root)
{
	const cJSON *error = member(root, "error");

	if (cJSON_IsString(error) && error->valuestring[0] == '\0')
		return false;
	return error != NULL;
}

/*
 * cJSON cuts a string at a NUL byte, raw or escaped, which etcd never sends:
 * such a text is refused rather than half of a string read.
 */
static bool
contains_nul(const char *text, size_t len)
{
	const char *end = text + len;
	const char *escape = text;

	if (memchr(text, '\0', len) != NULL)
		return true;
	while ((escape = memchr(escape, '\\', (size_t) (end - escape))) != NULL &&
		   end - escape >= 6)
	{
		if (memcmp(escape, "\\u0000", 6) == 0)
			return true;
		escape += 2;			/* what is escaped may be a backslash */
	}
	return false;
}

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/*
 * Each value, be it a digit, costs cJSON about 80 bytes: a text of nothing but
 * small values is refused rather than half of the memory taken.  (Nesting is
 * bounded by cJSON itself.)  Strings are not told apart, so the count may be
 * too high, but a key or value of etcd's has no comma or bracket in its base64.
 */
static bool
has_too_many_values(const char *text, size_t len)
{
	size_t		n = 0;
	size_t		i;

	if (len <= MAX_VALUES)
		return false;
	for (i = 0; i < len; i++)
		n += text[i] == ',' || text[i] == '[' || text[i] == '{';
	return n > MAX_VALUES;
}

/*
 * Parse one JSON object with nothing but white space around it.  The last
 * brace is looked for beforehand because cJSON before 1.7.18 reads one byte
 * too far when the text ends in a comma.
 */
cJSON *
etcd_json_parse(const char *body, size_t len)
{
	const char *end = NULL;
	cJSON	   *root;

	while (len > 0 && is_space(body[len - 1]))
		len--;
	if (len < 2 || body[len - 1] != '}' || contains_nul(body, len) ||
		has_too_many_values(body, len))
		return NULL;

	root = cJSON_ParseWithLengthOpts(body, len, &end, 0);
	if (root != NULL && (end != body + len || !cJSON_IsObject(root)))
	{
		cJSON_Delete(root);
		return NULL;
	}
	return root;
}

cJSON *
etcd_json_open(const char *body, size_t len, int http_status,
			   const cJSON **message, EtcdError *err)
{
	cJSON	   *root = etcd_json_parse(body, len);
	const cJSON *error;

	memset(err, 0, sizeof(*err));
	err->http_status = http_status;
	if (root == NULL)
	{
		not_etcds_answer(body, len, http_status, err);
		return NULL;
	}

	if (http_status != 200 || has_error(root))
	{
		error = member(root, "error");
		if (!read_error(cJSON_IsObject(error) ? error : root, err))
			not_etcds_answer(body, len, http_status, err);
		cJSON_Delete(root);
		return NULL;
	}

	/* Answers of streaming requests are wrapped. */
	if (!etcd_json_object(root, "result", message, err))
	{
		cJSON_Delete(root);
		return NULL;
	}
	if (*message == NULL)
		*message = root;
	return root;
}
