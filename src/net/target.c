/*-------------------------------------------------------------------------
 *
 * target.c
 *	  Endpoints: "http[s]://host[:port]".
 *
 * Nothing else may be in them: gRPC has no place for the path of an etcd, and
 * user names and passwords have their own settings.
 *
 *-------------------------------------------------------------------------
 */
#include "net/target.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

static bool
is_numeric(const char *host)
{
	unsigned char address[16];

	return inet_pton(AF_INET, host, address) == 1 ||
		inet_pton(AF_INET6, host, address) == 1;
}

static bool
is_host_char(char c)
{
	return c > ' ' && c <= '~' && strchr("/?#@[]:%\"\\<>^`{|}", c) == NULL;
}

/* Parse "host" or "[IPv6]".  Returns what follows, or NULL. */
static const char *
parse_host(const char *text, Target *target)
{
	const char *end;
	size_t		len;

	if (*text == '[')
	{
		unsigned char address[16];

		end = strchr(++text, ']');
		if (end == NULL)
			return NULL;
		len = (size_t) (end - text);
		if (len >= sizeof(target->host))
			return NULL;
		memcpy(target->host, text, len);
		target->host[len] = '\0';
		return inet_pton(AF_INET6, target->host, address) == 1 ? end + 1 : NULL;
	}
	for (end = text; is_host_char(*end); end++)
		 /* all of it */ ;
	len = (size_t) (end - text);
	if (len == 0 || len >= sizeof(target->host))
		return NULL;
	memcpy(target->host, text, len);
	target->host[len] = '\0';
	return end;
}

/* Parse ":port".  Returns what follows, or NULL. */
static const char *
parse_port(const char *text, Target *target)
{
	int			port = 0;

	target->port = target->is_tls ? 443 : 80;
	if (*text != ':')
		return text;
	for (text++; *text >= '0' && *text <= '9'; text++)
	{
		port = port * 10 + (*text - '0');
		if (port > 65535)
			return NULL;
	}
	target->port = port;
	return port > 0 ? text : NULL;
}

bool
target_parse(const char *url, Target *target)
{
	memset(target, 0, sizeof(*target));
	if (strncmp(url, "http://", 7) == 0)
		url += 7;
	else if (strncmp(url, "https://", 8) == 0)
	{
		target->is_tls = true;
		url += 8;
	}
	else
		return false;
	url = parse_host(url, target);
	if (url != NULL)
		url = parse_port(url, target);
	if (url == NULL)
		return false;
	while (*url == '/')
		url++;
	target->is_numeric = is_numeric(target->host);
	return *url == '\0';
}
