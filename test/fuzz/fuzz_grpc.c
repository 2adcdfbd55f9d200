/*-------------------------------------------------------------------------
 *
 * fuzz_grpc.c
 *	  grpc.c: the input is what a server sends, in pieces, while calls are made,
 *	  dropped and given up.
 *
 * The first bytes choose what the client does; the rest goes to the connection,
 * behind a SETTINGS frame in most cases.  Each call ends just once, unless it was
 * cancelled; what is stored stays below the limits, and nothing of it is left at
 * the end.
 *
 *-------------------------------------------------------------------------
 */
#include "net/grpc.h"
#include "fuzz.h"

#define NCALLS		6
#define MAX_MESSAGE	3000

typedef struct Client
{
	Grpc	   *grpc;
	GrpcCall   *calls[NCALLS];
	int			ended[NCALLS];
	bool		dropped[NCALLS];
	bool		drops_itself;
} Client;

typedef struct CallArg
{
	Client	   *client;
	int			number;
} CallArg;

static CallArg args[NCALLS];

static void
message(void *arg, const void *data, size_t len)
{
	CallArg    *call = arg;

	check(!call->client->dropped[call->number] && call->client->ended[call->number] == 0);
	check(len <= MAX_MESSAGE);
	(void) hash_bytes(HASH_START, data, len);
	if (call->client->drops_itself)
	{
		call->client->dropped[call->number] = true;
		grpc_cancel(call->client->calls[call->number]);
		call->client->calls[call->number] = NULL;
	}
}

static void
done(void *arg, const GrpcReply *reply)
{
	CallArg    *call = arg;

	check(!call->client->dropped[call->number]);
	check(++call->client->ended[call->number] == 1);
	call->client->calls[call->number] = NULL;
	if (reply->delivered)
	{
		check(reply->status >= GRPC_NO_STATUS && reply->status <= 999 && reply->message != NULL);
		check(reply->len <= MAX_MESSAGE);
		(void) hash_bytes(HASH_START, reply->data, reply->len);
	}
	else
		check(reply->error != NULL && reply->error[0] != '\0');
}

static void
make_call(Client *client, int number)
{
	static const GrpcCallbacks callbacks = {.message = message,.done = done,.max_message = MAX_MESSAGE};
	GrpcRequest request = {.path = "/a.B/C",.token = number % 2 ? "token" : NULL,
	.data = "hello",.len = 5,.now = 1000,.timeout = number == 3 ? 500 : 0};

	args[number].client = client;
	args[number].number = number;
	client->calls[number] = number >= 4 ?
		grpc_stream(client->grpc, &request, &callbacks, &args[number]) :
		grpc_call(client->grpc, &request, &callbacks, &args[number]);
}

static void
send_all(Client *client)
{
	const void *data;
	size_t		len;

	while ((len = grpc_to_send(client->grpc, &data)) > 0)
	{
		(void) hash_bytes(HASH_START, data, len);
		grpc_sent(client->grpc, len > 100 ? 100 : len);
	}
}

/* What the client does between two pieces. */
static void
act(Client *client, uint32_t what)
{
	int			number = (int) (what >> 8) % NCALLS;

	switch (what % 8)
	{
		case 0:
			if (client->calls[number] == NULL && client->ended[number] == 0 && !client->dropped[number])
				make_call(client, number);
			break;
		case 1:
			if (client->calls[number] != NULL)
			{
				grpc_cancel(client->calls[number]);
				client->calls[number] = NULL;
				client->dropped[number] = true;
			}
			break;
		case 2:
			if (client->calls[number] != NULL)
				grpc_abort(client->calls[number], "given up");
			break;
		case 3:
			if (client->calls[number] != NULL && number >= 4)
				(void) grpc_send(client->calls[number], "more", 4);
			break;
		case 4:
			grpc_expire(client->grpc, 1000 + (what >> 16) % 1000);
			break;
		case 5:
			send_all(client);
			break;
		default:
			grpc_deliver(client->grpc);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
	size_t		stored = 0;
	Client		client = {0};
	uint64_t	state = 1;
	size_t		at = 0;
	int			i;

	if (size < 4)
		return 0;
	state += data[0] | (uint64_t) data[1] << 8;
	client.drops_itself = data[2] % 4 == 0;
	client.grpc = grpc_create(data[2] % 2, "host:1", &stored);
	check(client.grpc != NULL);
	for (i = 0; i < NCALLS; i++)
		make_call(&client, i);
	send_all(&client);
	if (data[3] % 8 != 0)
		check(grpc_receive(client.grpc, settings, sizeof(settings)));
	send_all(&client);
	data += 4;
	size -= 4;
	while (at < size)
	{
		size_t		n = draw(&state) % (draw(&state) % 4 == 0 ? 8 : 600) + 1;
		char	   *piece;

		if (n > size - at)
			n = size - at;
		piece = exact_copy(data + at, n);
		(void) grpc_receive(client.grpc, piece, n);
		free(piece);
		at += n;
		check(stored <= GRPC_MAX_STORED);
		act(&client, draw(&state));
		act(&client, draw(&state));
	}
	send_all(&client);
	grpc_fail(client.grpc, "the end");
	while (grpc_has_ready(client.grpc))
		grpc_deliver(client.grpc);
	for (i = 0; i < NCALLS; i++)
		check(client.calls[i] == NULL && client.ended[i] <= 1);
	check(grpc_ncalls(client.grpc) == 0);
	grpc_destroy(client.grpc);
	check(stored == 0);
	return 0;
}
