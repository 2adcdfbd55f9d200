/*-------------------------------------------------------------------------
 *
 * test_base64.c
 *	  Unit test of etcd_base64.c.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

#include "etcd_base64.h"
#include "tap.h"

/* RFC 4648, section 10, and characters that use the whole alphabet. */
static const struct
{
	const char *plain;
	const char *text;
}			vectors[] =
{
	{"", ""},
	{"f", "Zg=="},
	{"fo", "Zm8="},
	{"foo", "Zm9v"},
	{"foob", "Zm9vYg=="},
	{"fooba", "Zm9vYmE="},
	{"foobar", "Zm9vYmFy"},
	{"\xff\xef\xbe", "/+++"},
	{"\xfb\xff\xfe", "+//+"},
};

static const char *const refused[] = {
	"Z", "Zg", "Zg=", "=", "==", "===", "====", "Z===", "Zg===",
	"Zg==Zg==",					/* padding in the middle */
	"Zm9v=", "Zm9vYg", "Zh==", "Zm9=",	/* bits behind the last byte */
	"Zm 9v", " Zm9v", "Zm9v\n", "Zm9-", "Zm9_", "Zm9v\xc3\xa4==", "Z=9v", "Zg=v",
};

static void
test_vectors(void)
{
	size_t		i;

	for (i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
	{
		const char *plain = vectors[i].plain;
		char		text[32];
		char		bytes[32];
		size_t		len = 999;

		memset(text, 'x', sizeof(text));
		etcd_base64_encode(plain, strlen(plain), text);
		is_string(text, vectors[i].text, "encoded as in the RFC");
		ok(ETCD_BASE64_ENCODED_LEN(strlen(plain)) == strlen(text), "length foretold");
		ok(etcd_base64_decode(text, strlen(text), bytes, &len) &&
		   len == strlen(plain) && memcmp(bytes, plain, len) == 0,
		   "\"%s\" decoded", text);
	}
}

static void
test_refused(void)
{
	size_t		i;

	for (i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
	{
		char		bytes[32];
		size_t		len;

		ok(!etcd_base64_decode(refused[i], strlen(refused[i]), bytes, &len),
		   "refused number %d", (int) i);
	}
	{
		char		bytes[8];
		size_t		len;

		ok(!etcd_base64_decode("Zm\0v", 4, bytes, &len), "NUL refused");
	}
}

/* All bytes at all lengths, in memory of the exact size. */
static void
test_round_trips(void)
{
	size_t		len;
	bool		good = true;

	for (len = 0; len < 600; len++)
	{
		char	   *bytes = malloc(len + 1);
		char	   *text = malloc(ETCD_BASE64_ENCODED_LEN(len) + 1);
		char	   *back = malloc(ETCD_BASE64_DECODED_LEN(ETCD_BASE64_ENCODED_LEN(len)) + 1);
		size_t		back_len;
		size_t		i;

		for (i = 0; i < len; i++)
			bytes[i] = (char) (i * 7 + len);
		etcd_base64_encode(bytes, len, text);
		good = good && strlen(text) == ETCD_BASE64_ENCODED_LEN(len) &&
			etcd_base64_decode(text, strlen(text), back, &back_len) &&
			back_len == len && memcmp(bytes, back, len) == 0;
		free(bytes);
		free(text);
		free(back);
	}
	ok(good, "round trips");
}

/* Each text of four characters is refused or the very encoding of its bytes. */
static void
test_one_spelling(void)
{
	static const char some[] = "ABQgwz09+/=-\n ";
	int			n = (int) sizeof(some) - 1;
	bool		good = true;
	int			i;

	for (i = 0; i < n * n * n * n; i++)
	{
		char		text[4] = {some[i % n], some[i / n % n], some[i / n / n % n],
		some[i / n / n / n]};
		char		bytes[4];
		char		again[8];
		size_t		len;

		if (!etcd_base64_decode(text, 4, bytes, &len))
			continue;
		etcd_base64_encode(bytes, len, again);
		good = good && memcmp(text, again, 4) == 0;
	}
	ok(good, "what is decoded has no other spelling");
}

int
main(void)
{
	test_vectors();
	test_refused();
	test_round_trips();
	test_one_spelling();
	return done_testing();
}
