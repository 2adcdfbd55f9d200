/*-------------------------------------------------------------------------
 *
 * printable.h
 *	  Makes foreign text fit for logs and views.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PRINTABLE_H
#define PRINTABLE_H

#include <stddef.h>

/*
 * Copy the printable UTF-8 of "text" into "dst" of "size" bytes,
 * NUL-terminated and cut between characters.
 */
extern void printable_copy(char *dst, size_t size, const char *text, size_t len);

#endif							/* PRINTABLE_H */
