/*-------------------------------------------------------------------------
 *
 * hooks.h
 *	  Hooks around the statements of a session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HOOKS_H
#define HOOKS_H

#include "postgres.h"

extern void hooks_init(void);

#endif							/* HOOKS_H */
