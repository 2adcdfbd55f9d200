/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  How a call ended: etcd's response, or why there is none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client/answer.h"
#include "client/auth.h"

/* Servers other than etcd may send back what they were sent. */
static void
censor(const char *text)
{
	if (text !=NULL)
		auth_censor(unconstify(char *, text), strlen(text));
}

void
answer_set(EtcdAnswer *answer, const GrpcReply *reply)
{
	memset(answer, 0, sizeof(*answer));
	answer->delivered = reply->delivered;
	if (reply->delivered)
	{
		censor(reply->message);
		answer->reply.status = reply->status == GRPC_NO_STATUS ?
			ETCD_BAD_ANSWER : reply->status;
		answer->reply.message = reply->message;
		answer->reply.data = reply->data;
		answer->reply.len = reply->len;
		return;
	}
	strlcpy(answer->error, reply->error, sizeof(answer->error));
	censor(answer->error);
	answer->ambiguous = reply->ambiguous;
	answer->too_long = reply->too_long;
}

/*
 * If etcd refuses a request, it uses one of these codes; others mean that
 * something is broken.
 */
bool
answer_is_unwell(const EtcdError *error)
{
	switch (error->code)
	{
		case ETCD_INVALID_ARGUMENT:
		case ETCD_NOT_FOUND:
		case ETCD_PERMISSION_DENIED:
		case ETCD_RESOURCE_EXHAUSTED:
		case ETCD_FAILED_PRECONDITION:
		case ETCD_OUT_OF_RANGE:
		case ETCD_UNAUTHENTICATED:
			return false;
	}
	return true;
}

bool
answer_is_busy(const EtcdError *error)
{
	return error->code == ETCD_RESOURCE_EXHAUSTED &&
		strstr(error->message, "too many requests") != NULL;
}
