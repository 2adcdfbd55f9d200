/*-------------------------------------------------------------------------
 *
 * fuzz_holder.c
 *	  etcd_holder.c: the input is the value of a key that anybody may have put,
 *	  and is drawn on for one of ours.
 *
 *-------------------------------------------------------------------------
 */
#include <cjson/cJSON.h>

#include "etcd/etcd_holder.h"
#include "fuzz.h"

static void
check_holder(const EtcdHolder *holder)
{
	check(memchr(holder->server, '\0', ETCD_HOLDER_TEXT) != NULL);
	check(memchr(holder->host, '\0', ETCD_HOLDER_TEXT) != NULL);
	check(memchr(holder->database, '\0', ETCD_HOLDER_TEXT) != NULL);
	check(memchr(holder->user, '\0', ETCD_HOLDER_TEXT) != NULL);
	check(memchr(holder->application, '\0', ETCD_HOLDER_TEXT) != NULL);
	check(!holder->has_port || holder->port >= 0);
	check(!holder->has_pid || holder->pid >= 0);
	check(!holder->has_timeline || holder->timeline >= 0);
}

static bool
is_same(const EtcdHolder *a, const EtcdHolder *b)
{
	return strcmp(a->server, b->server) == 0 && strcmp(a->host, b->host) == 0 &&
		a->has_session == b->has_session &&
		strcmp(a->database, b->database) == 0 &&
		strcmp(a->user, b->user) == 0 &&
		strcmp(a->application, b->application) == 0 &&
		a->has_port == b->has_port && a->port == b->port &&
		a->has_pid == b->has_pid && a->pid == b->pid &&
		a->has_timeline == b->has_timeline && a->timeline == b->timeline &&
		a->has_since == b->has_since && a->since == b->since;
}

/* What is written is read as it was, also by way of what was read. */
static void
write_and_read(const EtcdHolder *holder)
{
	EtcdHolder	again;
	char	   *value = etcd_holder_encode(holder);
	char	   *copy;

	check(value != NULL);
	copy = exact_copy(value, strlen(value));
	check(etcd_holder_decode(copy, strlen(value), &again));
	check(is_same(holder, &again));
	free(copy);
	free(value);
}

/* A time that is understood is the one that is written. */
static void
check_time(const char *value, size_t len, const EtcdHolder *holder)
{
	char	   *copy = malloc(len + 1);
	char	   *text = etcd_holder_encode(holder);
	cJSON	   *before;
	cJSON	   *after = cJSON_Parse(text);

	check(copy != NULL);
	memcpy(copy, value, len);
	copy[len] = '\0';
	before = cJSON_Parse(copy);
	check(strcmp(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(before, "since")),
				 cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(after, "since"))) == 0);
	cJSON_Delete(before);
	cJSON_Delete(after);
	free(text);
	free(copy);
}

static void
take_text(const uint8_t **data, size_t *size, char *text)
{
	size_t		len = *size > 0 ? **data : 0;
	size_t		i;

	if (*size > 0)
		(*data)++, (*size)--;
	if (len > *size)
		len = *size;
	memset(text, 0, ETCD_HOLDER_TEXT);
	for (i = 0; i < len; i++)
		text[i] = (*data)[i] == 0 ? '0' : (char) (*data)[i];
	*data += len;
	*size -= len;
}

static void
draw_one(const uint8_t *data, size_t size)
{
	uint64_t	seed = hash_bytes(HASH_START, data, size);
	EtcdHolder	holder = {.has_session = true, .has_port = true, .has_pid = true};

	take_text(&data, &size, holder.server);
	take_text(&data, &size, holder.host);
	take_text(&data, &size, holder.database);
	take_text(&data, &size, holder.user);
	take_text(&data, &size, holder.application);
	holder.port = (int32_t) (draw(&seed) & INT32_MAX);
	holder.pid = (int32_t) (draw(&seed) & INT32_MAX);
	holder.has_since = draw(&seed) % 2 == 0;
	if (holder.has_since)
	{
		/* within the years 1 to 9999 */
		holder.since = (int64_t) ((uint64_t) draw(&seed) << 32 | draw(&seed)) %
			INT64_C(60000000000000000);
	}
	write_and_read(&holder);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	EtcdHolder	holder;
	char	   *value = exact_copy(data, size);

	memset(&holder, 0xee, sizeof(holder));
	if (etcd_holder_decode(value, size, &holder))
	{
		check_holder(&holder);
		write_and_read(&holder);
		if (holder.has_since)
			check_time(value, size, &holder);
	}
	free(value);
	draw_one(data, size);
	return 0;
}
