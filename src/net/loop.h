/*-------------------------------------------------------------------------
 *
 * loop.h
 *	  All descriptors and timers of the network behind one descriptor.
 *
 * The caller puts loop_fd() into its own event loop: when it becomes readable,
 * or when loop_timeout() milliseconds have passed, it calls loop_run(), which
 * runs the tasks whose time has come.  A task has any number of descriptors
 * and one timer; it finds out by itself what has happened.
 *
 * A task may remove any task, including itself.  All of net/ runs in one
 * thread, without locks; only loop_run() calls back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOOP_H
#define LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "net/ring.h"

#define LOOP_NEVER	INT64_MAX

typedef struct Loop Loop;

typedef struct LoopTask
{
	void		(*run) (void *arg);
	void	   *arg;
	int64_t		due;			/* loop_now(): when to run it, or LOOP_NEVER;
								 * the task sets it anew */
	/* loop.c's own */
	Loop	   *loop;
	RingLink	in_tasks;
	RingLink	in_ready;
} LoopTask;

/* Returns NULL, with errno set, if epoll cannot be set up. */
extern Loop *loop_create(void);
extern void loop_destroy(Loop *loop);

extern int	loop_fd(const Loop *loop);

/* Milliseconds until loop_run() must be called; -1: no need. */
extern long loop_timeout(const Loop *loop);

/* Run each task whose time has come, or whose descriptor is ready, once. */
extern void loop_run(Loop *loop);

/* Microseconds on a monotonic clock. */
extern int64_t loop_now(void);

/* The task is the caller's memory.  It must forget its descriptors before it is removed. */
extern void loop_add(Loop *loop, LoopTask *task, void (*run) (void *arg), void *arg);
extern void loop_remove(LoopTask *task);

/*
 * Run the task while the descriptor can be read or written.  If both are
 * false, the descriptor is no longer watched.
 */
extern void loop_watch(LoopTask *task, int fd, bool read, bool write);
extern void loop_forget(LoopTask *task, int fd);

#endif							/* LOOP_H */
