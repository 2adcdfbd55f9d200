/*-------------------------------------------------------------------------
 *
 * fuzz_stream.c
 *	  etcd_stream.c: the input is what a watch's connection brings.
 *
 * However the network cuts it, the same messages come out, up to the same
 * error.  What they are is told by a simpler splitter, which sees all of the
 * input at once, and where cJSON understands a message, by cJSON.
 *
 *-------------------------------------------------------------------------
 */
#include <cjson/cJSON.h>

#include "etcd_stream.h"
#include "fuzz.h"

#define LARGE	(1024 * 1024)

/* Messages, each by its length and a hash of its bytes. */
typedef struct Messages
{
	size_t		n;
	size_t		bytes;
	uint64_t	hash;
	bool		good;
} Messages;

static void
add_message(void *arg, const char *message, size_t len)
{
	Messages   *messages = arg;

	check(len >= 2 && message[0] == '{');
	messages->n++;
	messages->bytes += len;
	messages->hash = hash_bytes(hash_number(messages->hash, len), message, len);
}

/* Length of the object at "text", or 0 when it does not end. */
static size_t
object_length(const char *text, size_t len)
{
	size_t		open = 0;
	size_t		i;

	for (i = 0; i < len; i++)
	{
		if (text[i] == '"')
		{
			for (i++; i < len && text[i] != '"'; i++)
				i += text[i] == '\\';
		}
		else if (strchr("{[", text[i]) != NULL && text[i] != '\0')
			open++;
		else if ((text[i] == '}' || text[i] == ']') && --open == 0)
			return i + 1;
	}
	return 0;
}

static void
compare_with_cjson(const char *text, size_t len, size_t message_len)
{
	char	   *copy;
	const char *end = NULL;
	cJSON	   *object;

	/* cJSON before 1.7.18 may read the byte behind the end. */
	copy = malloc(len + 1);
	check(copy != NULL);
	memcpy(copy, text, len);
	copy[len] = '\0';
	object = cJSON_ParseWithLengthOpts(copy, len, &end, 0);
	if (object != NULL)
		check((size_t) (end - copy) == message_len);
	cJSON_Delete(object);
	free(copy);
}

static Messages
split_plainly(const char *data, size_t len, size_t max)
{
	Messages	messages = {0, 0, HASH_START, true};
	size_t		at = 0;

	while (at < len)
	{
		size_t		message_len;

		if (memchr(" \t\r\n", data[at], 4) != NULL)
		{
			at++;
			continue;
		}
		message_len = data[at] == '{' ? object_length(data + at, len - at) : 0;
		if (data[at] != '{' || message_len > max ||
			(message_len == 0 && len - at > max))
			messages.good = false;
		if (message_len == 0 || !messages.good)
			break;
		if (max == LARGE && messages.n < 8)
			compare_with_cjson(data + at, len - at, message_len);
		add_message(&messages, data + at, message_len);
		at += message_len;
	}
	return messages;
}

/* Pieces of at most "most" bytes. */
static Messages
split_in_pieces(const char *data, size_t len, size_t max, size_t most,
				uint64_t seed)
{
	Messages	messages = {0, 0, HASH_START, true};
	EtcdStream	stream;
	char	   *byte = malloc(1);
	size_t		at = 0;

	check(byte != NULL);
	etcd_stream_init(&stream, max);
	while (at < len && messages.good)
	{
		size_t		n = most == 1 ? 1 : 1 + draw(&seed) % most;
		char	   *piece = byte;

		if (n > len - at)
			n = len - at;
		if (n == 1)
			*byte = data[at];
		else
			piece = exact_copy(data + at, n);
		messages.good = etcd_stream_feed(&stream, piece, n, add_message, &messages);
		if (piece != byte)
			free(piece);
		check(stream.len <= max);
		at += n;
	}
	if (!messages.good)
	{
		Messages	before = messages;

		check(!etcd_stream_feed(&stream, "{}", 2, add_message, &messages));
		check(messages.n == before.n && stream.buf == NULL);
	}
	etcd_stream_free(&stream);
	free(byte);
	return messages;
}

static void
compare(Messages expected, Messages got)
{
	check(got.good == expected.good);
	check(got.n == expected.n);
	check(got.bytes == expected.bytes);
	check(got.hash == expected.hash);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *) data;
	uint64_t	seed = hash_bytes(HASH_START, data, size);
	size_t		max[2];
	int			i;

	max[0] = LARGE;
	max[1] = 1 + seed % (size + 1);
	for (i = 0; i < 2; i++)
	{
		Messages	expected = split_plainly(text, size, max[i]);

		compare(expected, split_in_pieces(text, size, max[i], size + 1, seed));
		compare(expected, split_in_pieces(text, size, max[i], 1, seed));
		compare(expected, split_in_pieces(text, size, max[i], 8, seed));
		compare(expected, split_in_pieces(text, size, max[i], 200, seed));
	}
	return 0;
}
