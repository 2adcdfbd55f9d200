/*-------------------------------------------------------------------------
 *
 * target.h
 *	  Endpoints: "http[s]://host[:port]".
 *
 *-------------------------------------------------------------------------
 */
#ifndef TARGET_H
#define TARGET_H

#include <stdbool.h>

#define TARGET_HOST_SIZE	256

typedef struct Target
{
	bool		is_tls;
	char		host[TARGET_HOST_SIZE]; /* IPv6: without brackets */
	int			port;
	bool		is_numeric;		/* the host is an address */
} Target;

/* Returns false if it is not a URL of an etcd. */
extern bool target_parse(const char *url, Target *target);

#endif							/* TARGET_H */
