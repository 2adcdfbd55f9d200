/*-------------------------------------------------------------------------
 *
 * test_turns.c
 *	  In which order the requests of several owners are served.
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "etcd/turns.h"
#include "tap.h"

#define MAX_REQUESTS	200

/* Owners as letters; the order as the letters with each owner's count. */
static void
is_order(const char *owners, char last, const char *expected)
{
	uint32_t	owner[MAX_REQUESTS] = {0};
	int			scratch[TURNS_SCRATCH(MAX_REQUESTS)];
	int			order[MAX_REQUESTS];
	char		got[MAX_REQUESTS + 1] = "";
	int			n = (int) strlen(owners);

	for (int i = 0; i < n; i++)
		owner[i] = (uint32_t) owners[i];
	turns_order(owner, n, (uint32_t) last, scratch, order);
	for (int i = 0; i < n; i++)
		got[i] = owners[order[i]];
	ok(strcmp(got, expected) == 0, "%s behind %c: %s, expected %s", owners, last, got, expected);
	for (int i = 1; i < n; i++)
	{
		for (int j = 0; j < i; j++)
		{
			if (owners[order[i]] == owners[order[j]] && order[i] < order[j])
				ok(0, "%s: an owner's own requests keep their order", owners);
		}
	}
}

int
main(void)
{
	uint32_t	owner[MAX_REQUESTS];
	int			scratch[TURNS_SCRATCH(MAX_REQUESTS)];
	int			order[MAX_REQUESTS];
	int			seen[MAX_REQUESTS] = {0};
	int			n = 0;

	is_order("", 'a', "");
	is_order("a", 'a', "a");
	is_order("aaa", 'b', "aaa");
	is_order("aaab", 'c', "abaa");
	is_order("aaab", 'a', "baaa");
	is_order("aaaabbc", 'c', "ababcaa");
	is_order("aaaabbc", 'x', "abcabaa");

	/* More owners than are told apart. */
	for (int i = 0; i < MAX_REQUESTS; i++)
		owner[i] = (uint32_t) i;
	turns_order(owner, MAX_REQUESTS, 7, scratch, order);
	for (int i = 0; i < MAX_REQUESTS; i++)
		n += seen[order[i]]++ == 0;
	ok(n == MAX_REQUESTS, "many owners: each is served once");
	return done_testing();
}
