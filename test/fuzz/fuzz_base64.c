/*-------------------------------------------------------------------------
 *
 * fuzz_base64.c
 *	  etcd_base64.c: the input is taken as bytes to encode, and as text to
 *	  decode.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd_base64.h"
#include "fuzz.h"

static void
encode_and_back(const char *bytes, size_t len)
{
	size_t		text_len = ETCD_BASE64_ENCODED_LEN(len);
	char	   *text = malloc(text_len + 1);
	char	   *back = malloc(ETCD_BASE64_DECODED_LEN(text_len) + 1);
	char	   *plain = malloc(text_len + 1);
	size_t		n;

	check(text != NULL && back != NULL && plain != NULL);
	etcd_base64_encode(bytes, len, text);
	check(strlen(text) == text_len);
	check(plain_base64(text, text_len, plain, &n) && n == len);
	check(len == 0 || memcmp(plain, bytes, len) == 0);
	check(etcd_base64_decode(text, text_len, back, &n) && n == len);
	check(len == 0 || memcmp(back, bytes, len) == 0);
	free(text);
	free(back);
	free(plain);
}

static void
decode(const char *text, size_t len)
{
	size_t		room = ETCD_BASE64_DECODED_LEN(len);
	char	   *bytes = malloc(room + 1);
	char	   *plain = malloc(len + 1);
	size_t		n = 0;
	size_t		n_plain = 0;
	bool		good;

	check(bytes != NULL && plain != NULL);
	good = etcd_base64_decode(text, len, bytes, &n);
	check(good == plain_base64(text, len, plain, &n_plain));
	if (good)
	{
		check(n == n_plain && n <= room);
		check(memcmp(bytes, plain, n) == 0);
	}
	free(bytes);
	free(plain);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *copy = exact_copy(data, size);

	encode_and_back(copy, size);
	decode(copy, size);
	free(copy);
	return 0;
}
