/*-------------------------------------------------------------------------
 *
 * response.c
 *	  How a call ended: etcd's response, or why there is none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/auth.h"
#include "client/response.h"

/* Servers other than etcd may send back what they were sent. */
static void
censor(const char *message)
{
	if (message != NULL)
		auth_censor(unconstify(char *, message), strlen(message));
}

void
response_set(EtcdResponse *response, const GrpcReply *reply)
{
	memset(response, 0, sizeof(*response));
	response->delivered = reply->delivered;
	if (reply->delivered)
	{
		censor(reply->message);
		response->reply.status = reply->status == GRPC_NO_STATUS ?
			ETCD_BAD_RESPONSE : reply->status;
		response->reply.message = reply->message;
		response->reply.data = reply->data;
		response->reply.len = reply->len;
		return;
	}
	strlcpy(response->error, reply->error, sizeof(response->error));
	censor(response->error);
	response->ambiguous = reply->ambiguous;
	response->too_long = reply->too_long;
}
