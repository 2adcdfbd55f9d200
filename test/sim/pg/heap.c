/*-------------------------------------------------------------------------
 *
 * heap.c
 *	  lib/pairingheap.h for the simulator: a list, and a look through all of it.
 *
 * Which of several equal ones is first differs from PostgreSQL's own, which
 * promises nothing there either.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "lib/pairingheap.h"

void
pairingheap_add(pairingheap *heap, pairingheap_node *node)
{
	node->first_child = NULL;
	node->prev_or_parent = NULL;
	node->next_sibling = heap->ph_root;
	if (heap->ph_root != NULL)
		heap->ph_root->prev_or_parent = node;
	heap->ph_root = node;
}

void
pairingheap_remove(pairingheap *heap, pairingheap_node *node)
{
	if (node->next_sibling != NULL)
		node->next_sibling->prev_or_parent = node->prev_or_parent;
	if (node->prev_or_parent != NULL)
		node->prev_or_parent->next_sibling = node->next_sibling;
	else
		heap->ph_root = node->next_sibling;
}

pairingheap_node *
pairingheap_first(pairingheap *heap)
{
	pairingheap_node *first = heap->ph_root;

	for (pairingheap_node *node = first; node != NULL; node = node->next_sibling)
	{
		if (heap->ph_compare(node, first, heap->ph_arg) > 0)
			first = node;
	}
	return first;
}
