/*-------------------------------------------------------------------------
 *
 * test_stream.c
 *	  Unit test of etcd_stream.c.
 *
 *-------------------------------------------------------------------------
 */
#include <setjmp.h>
#include <stdlib.h>

#include "etcd_stream.h"
#include "tap.h"

static const char *const messages[] = {
	"{}",
	"{\"a\":1}",
	"{\"a\":\"}\"}",
	"{\"a\":\"{[\",\"b\":[{},[1,2],{\"c\":[]}]}",
	"{\"a\":\"\\\"}\"}",
	"{\"a\":\"\\\\\",\"b\":{}}",
	"{\"a\":\"\\\\\\\"}\"}",
	"{\"\\\\\":\"]\\u007d\"}",
	"{\"a\":\"\xc3\xa4\xe2\x82\xac\"}",
	"{ \"a\" :\n [ \"}\" ]\r\n}",
};

#define N_MESSAGES	((int) (sizeof(messages) / sizeof(messages[0])))

/* What has come out, each message followed by '|'. */
typedef struct Output
{
	char		text[2048];
	size_t		len;
} Output;

static void
collect(void *arg, const char *message, size_t len)
{
	Output	   *output = arg;

	if (output->len + len + 2 > sizeof(output->text))
		return;
	memcpy(output->text + output->len, message, len);
	output->len += len;
	output->text[output->len++] = '|';
	output->text[output->len] = '\0';
}

/* Feed from memory of the exact size, so that reading beyond is noticed. */
static bool
feed(EtcdStream *stream, const char *data, size_t len, Output *output)
{
	char	   *copy = malloc(len > 0 ? len : 1);
	bool		good;

	memcpy(copy, data, len);
	good = etcd_stream_feed(stream, copy, len, collect, output);
	free(copy);
	return good;
}

/* All messages with "separator" behind each, and what must come out of it. */
static void
join(const char *separator, char *input, char *expected)
{
	int			i;

	*input = *expected = '\0';
	for (i = 0; i < N_MESSAGES; i++)
	{
		strcat(strcat(input, messages[i]), separator);
		strcat(strcat(expected, messages[i]), "|");
	}
}

static void
test_cuts(const char *separator)
{
	char		input[2048];
	char		expected[2048];
	size_t		len;
	size_t		first;
	size_t		second;
	bool		good = true;

	join(separator, input, expected);
	len = strlen(input);
	for (first = 0; first <= len; first++)
		for (second = first; second <= len; second++)
		{
			EtcdStream	stream;
			Output		output = {.len = 0};

			etcd_stream_init(&stream, 1000);
			good = good &&
				feed(&stream, input, first, &output) &&
				feed(&stream, input + first, second - first, &output) &&
				feed(&stream, input + second, len - second, &output) &&
				strcmp(output.text, expected) == 0;
			etcd_stream_free(&stream);
		}
	ok(good, "all messages, cut at every two places");
}

static void
test_single_bytes(void)
{
	char		input[2048];
	char		expected[2048];
	EtcdStream	stream;
	Output		output = {.len = 0};
	bool		good = true;
	size_t		i;

	join("\n", input, expected);
	etcd_stream_init(&stream, 1000);
	for (i = 0; input[i] != '\0'; i++)
		good = good && feed(&stream, input + i, 1, &output);
	ok(good, "byte by byte taken in");
	is_string(output.text, expected, "byte by byte handed out");
	etcd_stream_free(&stream);
	etcd_stream_free(&stream);
	ok(stream.buf == NULL, "may be freed twice");
}

static void
test_incomplete(void)
{
	EtcdStream	stream;
	Output		output = {.len = 0};

	etcd_stream_init(&stream, 1000);
	ok(feed(&stream, "{\"a\":1}{\"b\":", 12, &output), "begun message taken in");
	is_string(output.text, "{\"a\":1}|", "only the whole message is handed out");
	etcd_stream_free(&stream);
}

static void
test_garbage(void)
{
	static const char *const garbage[] = {
		"x", "[]", "]", "}", "\"a\"", "1", "null", "<html>", "404 page not found\n",
		"\xef\xbb\xbf{}", "data: {}",
	};
	size_t		i;

	for (i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++)
	{
		EtcdStream	stream;
		Output		output = {.len = 0};

		etcd_stream_init(&stream, 1000);
		ok(!feed(&stream, garbage[i], strlen(garbage[i]), &output), "garbage %d refused", (int) i);
		ok(!feed(&stream, "{}", 2, &output) && output.len == 0,
		   "garbage %d: nothing after it either", (int) i);
		etcd_stream_free(&stream);

		output.len = 0;
		etcd_stream_init(&stream, 1000);
		ok(feed(&stream, "{\"a\":1} ", 8, &output) &&
		   !feed(&stream, garbage[i], strlen(garbage[i]), &output) &&
		   strcmp(output.text, "{\"a\":1}|") == 0,
		   "garbage %d refused behind a message", (int) i);
		etcd_stream_free(&stream);
	}
	{
		EtcdStream	stream;
		Output		output = {.len = 0};

		etcd_stream_init(&stream, 1000);
		ok(!feed(&stream, "\0{}", 3, &output), "NUL refused");
		etcd_stream_free(&stream);
	}
}

/* Feed a message of "len" bytes in pieces of "piece" to a stream of max 20. */
static bool
feed_long(size_t len, size_t piece, Output *output)
{
	EtcdStream	stream;
	char		message[64];
	bool		good = true;
	size_t		i;

	memset(message, ' ', sizeof(message));
	message[0] = '{';
	message[len - 1] = '}';
	etcd_stream_init(&stream, 20);
	for (i = 0; i < len; i += piece)
		good = feed(&stream, message + i, len - i < piece ? len - i : piece, output);
	etcd_stream_free(&stream);
	return good;
}

static void
test_too_long(void)
{
	size_t		piece;

	for (piece = 1; piece <= 40; piece++)
	{
		Output		fits = {.len = 0};
		Output		too_long = {.len = 0};

		ok(feed_long(20, piece, &fits) && fits.len == 21 &&
		   !feed_long(21, piece, &too_long) && too_long.len == 0,
		   "longest message in pieces of %d", (int) piece);
	}
}

static void
test_never_ending(void)
{
	EtcdStream	stream;
	Output		output = {.len = 0};
	bool		good = true;
	int			i;

	etcd_stream_init(&stream, 100);
	for (i = 0; i < 100; i++)
		good = feed(&stream, "{[", 2, &output) && good;
	ok(!good && stream.buf == NULL, "a message that never ends is given up");
	etcd_stream_free(&stream);
}

static jmp_buf escape;

static void
leave(void *arg, const char *message, size_t len)
{
	collect(arg, message, len);
	longjmp(escape, 1);
}

static void
test_longjmp(void)
{
	static EtcdStream stream;
	static Output output;

	etcd_stream_init(&stream, 1000);
	etcd_stream_feed(&stream, "{\"a\":", 5, collect, &output);
	if (setjmp(escape) == 0)
		etcd_stream_feed(&stream, "1}", 2, leave, &output);
	ok(etcd_stream_feed(&stream, "{}", 2, collect, &output) &&
	   strcmp(output.text, "{\"a\":1}|{}|") == 0,
	   "goes on when a callback does not return");
	etcd_stream_free(&stream);
}

static void
count_bytes(void *arg, const char *message, size_t len)
{
	(void) message;
	*(size_t *) arg += len;
}

static void
test_memory_given_back(void)
{
	EtcdStream	stream;
	static char message[300000];
	size_t		bytes = 0;

	memset(message, ' ', sizeof(message));
	message[0] = '{';
	message[sizeof(message) - 1] = '}';
	etcd_stream_init(&stream, sizeof(message));
	ok(etcd_stream_feed(&stream, message, 200000, count_bytes, &bytes) &&
	   etcd_stream_feed(&stream, message + 200000, 100000, count_bytes, &bytes) &&
	   bytes == sizeof(message), "a big message");
	ok(stream.buf == NULL, "its memory is given back");
	etcd_stream_free(&stream);
}

int
main(void)
{
	test_cuts("");
	test_cuts("\n");
	test_cuts(" \r\n\t");
	test_single_bytes();
	test_incomplete();
	test_garbage();
	test_too_long();
	test_never_ending();
	test_longjmp();
	test_memory_given_back();
	return done_testing();
}
