/*-------------------------------------------------------------------------
 *
 * ring.h
 *	  Rings: circular lists whose links are in their elements.
 *
 * A link that is on no ring is zeroed, so that an element can be removed without
 * knowing whether it is on one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RING_H
#define RING_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct RingLink
{
	struct RingLink *prev;
	struct RingLink *next;		/* NULL: on no ring */
	void	   *element;		/* NULL: the ring's head */
} RingLink;

static inline void
ring_init(RingLink *head)
{
	head->prev = head->next = head;
	head->element = NULL;
}

static inline bool
ring_is_empty(const RingLink *head)
{
	return head->next == head;
}

static inline bool
ring_has(const RingLink *link)
{
	return link->next != NULL;
}

static inline void
ring_append(RingLink *head, RingLink *link, void *element)
{
	assert(!ring_has(link) && element != NULL);
	link->element = element;
	link->prev = head->prev;
	link->next = head;
	link->prev->next = link;
	head->prev = link;
}

static inline void
ring_remove(RingLink *link)
{
	if (link->next == NULL)
		return;
	assert(link->element != NULL);
	link->prev->next = link->next;
	link->next->prev = link->prev;
	link->prev = link->next = NULL;
}

/* Move all of a ring to the end of another one. */
static inline void
ring_take_all(RingLink *head, RingLink *from)
{
	if (ring_is_empty(from))
		return;
	from->next->prev = head->prev;
	head->prev->next = from->next;
	from->prev->next = head;
	head->prev = from->prev;
	ring_init(from);
}

#endif							/* RING_H */
