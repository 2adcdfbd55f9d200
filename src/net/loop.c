/*-------------------------------------------------------------------------
 *
 * loop.c
 *	  All descriptors and timers of the network behind one descriptor.
 *
 * The descriptor is that of an epoll, which reports a descriptor as long as it
 * is ready.  A run first collects the tasks to be run, and then runs them one by
 * one, so that a task can remove one whose turn has not come yet.
 *
 *-------------------------------------------------------------------------
 */
#include "net/loop.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

/* How many descriptors one run handles; the others show up in the next. */
#define MAX_EVENTS		64

struct Loop
{
	int			epoll_fd;
	RingLink	tasks;
	RingLink	ready;			/* to be run in this run */
};

int64_t
loop_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

Loop *
loop_create(void)
{
	Loop	   *loop = calloc(1, sizeof(Loop));

	if (loop == NULL)
		return NULL;
	ring_init(&loop->tasks);
	ring_init(&loop->ready);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
	{
		int			error = errno;

		free(loop);
		errno = error;
		return NULL;
	}
	return loop;
}

void
loop_destroy(Loop *loop)
{
	if (loop == NULL)
		return;
	assert(ring_is_empty(&loop->tasks) && ring_is_empty(&loop->ready));
	close(loop->epoll_fd);
	free(loop);
}

int
loop_fd(const Loop *loop)
{
	return loop->epoll_fd;
}

void
loop_add(Loop *loop, LoopTask *task, void (*run) (void *arg), void *arg)
{
	memset(task, 0, sizeof(*task));
	task->loop = loop;
	task->run = run;
	task->arg = arg;
	task->due = LOOP_NEVER;
	ring_append(&loop->tasks, &task->in_tasks, task);
}

void
loop_remove(LoopTask *task)
{
	ring_remove(&task->in_tasks);
	ring_remove(&task->in_ready);
}

void
loop_watch(LoopTask *task, int fd, bool read, bool write)
{
	struct epoll_event event = {0};
	int			epoll_fd = task->loop->epoll_fd;

	if (!read && !write)
	{
		/* epoll would still report that the other end is gone */
		loop_forget(task, fd);
		return;
	}
	event.events = (read ? EPOLLIN : 0) | (write ? EPOLLOUT : 0);
	event.data.ptr = task;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event) != 0 && errno == ENOENT)
		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

void
loop_forget(LoopTask *task, int fd)
{
	struct epoll_event event = {0};

	/*
	 * This fails if the descriptor is already closed; then there is nothing
	 * to remove.
	 */
	epoll_ctl(task->loop->epoll_fd, EPOLL_CTL_DEL, fd, &event);
}

/*
 * A linear search: there are as many tasks as connections, which is one unless
 * an endpoint is searched for.
 */
long
loop_timeout(const Loop *loop)
{
	int64_t		due = LOOP_NEVER;
	int64_t		left;
	const RingLink *link;

	for (link = loop->tasks.next; link != &loop->tasks; link = link->next)
	{
		const LoopTask *task = link->element;

		if (task->due < due)
			due = task->due;
	}
	if (due == LOOP_NEVER)
		return -1;
	left = due - loop_now();
	if (left <= 0)
		return 0;
	left = (left + 999) / 1000;
	return left < INT_MAX ? (long) left : INT_MAX;
}

static void
make_ready(Loop *loop, LoopTask *task)
{
	assert(task->loop == loop && ring_has(&task->in_tasks));
	if (!ring_has(&task->in_ready))
		ring_append(&loop->ready, &task->in_ready, task);
}

void
loop_run(Loop *loop)
{
	struct epoll_event events[MAX_EVENTS];
	int			n = epoll_wait(loop->epoll_fd, events, MAX_EVENTS, 0);
	int64_t		now = loop_now();
	RingLink   *link;
	int			i;

	for (i = 0; i < n; i++)
		make_ready(loop, events[i].data.ptr);
	for (link = loop->tasks.next; link != &loop->tasks; link = link->next)
	{
		LoopTask   *task = link->element;

		if (task->due <= now)
			make_ready(loop, task);
	}
	while (!ring_is_empty(&loop->ready))
	{
		LoopTask   *task = loop->ready.next->element;

		ring_remove(&task->in_ready);
		task->run(task->arg);
	}
}
