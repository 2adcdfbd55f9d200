/*-------------------------------------------------------------------------
 *
 * hot_names.h
 *	  Remembers which names are used here again and again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HOT_NAMES_H
#define HOT_NAMES_H

#include "postgres.h"

extern Size hot_names_shmem_size(void);
extern void hot_names_shmem_init(void);

/*
 * The caller holds the lock of the name's partition exclusively; now:
 * clock_now().
 */

/*
 * A session has acquired the lock, for which it asked at this time; its last holder has
 * released it.
 */
extern void hot_name_note_asked(uint32 hashcode, int64 now);
extern void hot_name_note_released(uint32 hashcode, int64 now);

/* Is the name hot, now that a session asks for it again? */
extern bool hot_name_is_hot(uint32 hashcode, int64 now);

/*
 * How long may no session use it before that is more than a gap?
 * Microseconds.
 */
extern int64 hot_name_gap(uint32 hashcode);

#endif							/* HOT_NAMES_H */
