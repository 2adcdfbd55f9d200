/*-------------------------------------------------------------------------
 *
 * turns.c
 *	  The order in which the requests of several owners are served.
 *
 * A request's rank is the number of its owner's requests before it; that of
 * the owner that was served last begins with 1.  They are served by rank, and
 * within a rank in the order in which they came.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/turns.h"

#include <assert.h>

typedef struct Owners
{
	uint32_t	owner[TURNS_MAX_OWNERS];
	int			next_rank[TURNS_MAX_OWNERS];
	int			n;
} Owners;

static int
find_owner(Owners *owners, uint32_t owner)
{
	for (int i = 0; i < owners->n; i++)
	{
		if (owners->owner[i] == owner)
			return i;
	}
	if (owners->n == TURNS_MAX_OWNERS)
		return TURNS_MAX_OWNERS - 1;
	owners->owner[owners->n] = owner;
	owners->next_rank[owners->n] = 0;
	return owners->n++;
}

void
turns_order(const uint32_t *owners, int n, uint32_t last, int *scratch, int *order)
{
	int		   *ranks = scratch;
	int		   *places = scratch + n;	/* of each rank: where its next one
										 * goes */
	Owners		known;

	known.n = 0;
	known.next_rank[find_owner(&known, last)] = 1;
	for (int i = 0; i < n + 2; i++)
		places[i] = 0;
	for (int i = 0; i < n; i++)
	{
		ranks[i] = known.next_rank[find_owner(&known, owners[i])]++;
		assert(ranks[i] <= n);
		places[ranks[i] + 1]++;
	}
	for (int rank = 1; rank <= n; rank++)
		places[rank] += places[rank - 1];
	for (int i = 0; i < n; i++)
		order[places[ranks[i]]++] = i;
}
