/*-------------------------------------------------------------------------
 *
 * turns.h
 *	  The order in which the requests of several owners are served.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TURNS_H
#define TURNS_H

#include <stdint.h>

/* Owners beyond this number are served as one. */
#define TURNS_MAX_OWNERS	64

/*
 * Of n requests that have come in this order, owners[i] has made number i: fills order
 * with their numbers as they are to be served, each owner in turn.  "last" was served
 * just before, so its turn comes last; an owner's own requests keep their order.
 * scratch is room for TURNS_SCRATCH(n) numbers.
 */
#define TURNS_SCRATCH(n)	(2 * (n) + 2)

extern void turns_order(const uint32_t *owners, int n, uint32_t last, int *scratch, int *order);

#endif							/* TURNS_H */
