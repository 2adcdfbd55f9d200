/*-------------------------------------------------------------------------
 *
 * endpoints.h
 *	  The list of endpoints, and the search for one that serves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ENDPOINTS_H
#define ENDPOINTS_H

#include "worker.h"

/*
 * Read the setting.  The current endpoint stays so when the list still has it;
 * false: it has not, and the first one is current.
 */
extern bool endpoints_read(void);

extern int	endpoints_count(void);
extern const char *endpoints_current(void);

/*
 * Ask all of them at the same time, and take the one that serves first; link.c
 * is told by link_found().  When the current one has failed, with this error
 * (else NULL), any other is taken before it.
 */
extern void endpoints_search(const char *error);
extern bool endpoints_searching(void);
extern void endpoints_tick(void);
extern int64 endpoints_time(void);

/*
 * Requests have gone without an answer for a while: does the current one serve
 * at all?  If not, link.c is told by link_hangs().
 */
extern void endpoints_ask_current(void);

#endif							/* ENDPOINTS_H */
