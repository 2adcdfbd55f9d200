/*-------------------------------------------------------------------------
 *
 * sim_kernel.c
 *	  Virtual time, processes as coroutines, servers with their memory and
 *	  clocks.
 *
 * All that happens is an event: a process may go on, or a function is called.
 * Events of the same time happen in the order in which they were noted, so a
 * seed decides everything.
 *
 * Each process has a copy of libserver.so to itself, loaded from a file in
 * memory.  When the next process takes a copy over, its writable data are set
 * back to what they were after loading.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include "sim_kernel.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <link.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "sim_image.h"

#define STACK_SIZE			(512 * 1024)

/* Virtual time begins here, so that no clock ever shows 0. */
#define FIRST_TIME			(1000 * SIM_SECOND)

/* Of this many points where a process could be interrupted, one is used. */
#define STEP_RATE			8

typedef struct Event
{
	int64_t		time;
	uint64_t	seq;
	SimProc    *proc;			/* lets it go on, if run is still its number */
	uint64_t	run;
	void		(*fn) (void *arg);
	void	   *arg;
} Event;

typedef struct Coroutine
{
	struct Coroutine *next;		/* free ones */
	ucontext_t	context;
	jmp_buf		here;
	bool		started;
	SimProc    *proc;
	char	   *stack;
} Coroutine;

/* One copy of libserver.so. */
typedef struct Copy
{
	struct Copy *next;			/* free ones */
	void	   *handle;
	const SimImage *image;
	char	   *data;			/* its writable data */
	size_t		len;
	char	   *pristine;
	SimProc    *proc;
} Copy;

typedef struct Segment
{
	struct Segment *next;
	char		name[64];
	size_t		size;
	void	   *memory;
} Segment;

SimServer	sim_servers[SIM_MAX_SERVERS];
int			sim_nservers = 0;
SimProc    *sim_self = NULL;
SimRandom	sim_rand;
SimRandom	sim_fault_rand;
SimRandom	sim_work_rand;
bool		sim_tracing = false;
bool		sim_checking = false;
void		(*sim_after_event) (void) = NULL;
void		(*sim_proc_ended) (SimProc *proc, int code) = NULL;
void		(*sim_proc_gone) (SimProc *proc) = NULL;

static int64_t now;
static Event *heap;
static int	nheap;
static int	max_heap;
static uint64_t next_seq;
static uint64_t nsteps;
static bool stopped;
static int64_t run_limit;		/* of sim_run_until() */
static int	next_pid;
static jmp_buf kernel;
static Coroutine *free_coroutines;
static Copy *free_copies;
static int	library = -1;		/* memfd of libserver.so */

void
sim_panic(const char *format,...)
{
	va_list		args;

	fflush(stdout);
	fprintf(stderr, "sim: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	abort();
}

/* ----------------------------------------------------------------
 *		Events
 * ----------------------------------------------------------------
 */

static bool
is_before(const Event *a, const Event *b)
{
	return a->time < b->time || (a->time == b->time && a->seq < b->seq);
}

static void
push(Event event)
{
	int			at;

	if (nheap == max_heap)
	{
		max_heap = max_heap == 0 ? 1024 : 2 * max_heap;
		heap = realloc(heap, max_heap * sizeof(Event));
		if (heap == NULL)
			abort();
	}
	event.seq = next_seq++;
	for (at = nheap++; at > 0 && is_before(&event, &heap[(at - 1) / 2]); at = (at - 1) / 2)
		heap[at] = heap[(at - 1) / 2];
	heap[at] = event;
}

static Event
pop(void)
{
	Event		first = heap[0];
	Event		last = heap[--nheap];
	int			at = 0;

	for (;;)
	{
		int			child = 2 * at + 1;

		if (child >= nheap)
			break;
		if (child + 1 < nheap && is_before(&heap[child + 1], &heap[child]))
			child++;
		if (!is_before(&heap[child], &last))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = last;
	return first;
}

void
sim_at(int64_t time, void (*fn) (void *arg), void *arg)
{
	Event		event = {.time = time > now ? time : now,.fn = fn,.arg = arg};

	push(event);
}

static void
let_run(SimProc *proc, int64_t time)
{
	Event		event = {.time = time,.proc = proc,.run = proc->run};

	push(event);
}

int64_t
sim_now(void)
{
	return now;
}

uint64_t
sim_nsteps(void)
{
	return nsteps;
}

/* ----------------------------------------------------------------
 *		Coroutines
 * ----------------------------------------------------------------
 */

static void
begin_coroutine(void)
{
	sim_self->image->run(sim_self);
	sim_panic("a process has returned");
}

static void
go_to(SimProc *proc)
{
	Coroutine  *coroutine = proc->coroutine;

	sim_self = proc;
	if (_setjmp(kernel) == 0)
	{
		if (coroutine->started)
			_longjmp(coroutine->here, 1);
		coroutine->started = true;
		setcontext(&coroutine->context);
	}
	sim_self = NULL;
}

static void
back_to_kernel(void)
{
	Coroutine  *coroutine = sim_self->coroutine;

	if (_setjmp(coroutine->here) == 0)
		_longjmp(kernel, 1);
}

static Coroutine *
new_coroutine(SimProc *proc)
{
	Coroutine  *coroutine = free_coroutines;

	if (coroutine != NULL)
		free_coroutines = coroutine->next;
	else
	{
		coroutine = calloc(1, sizeof(Coroutine));
		coroutine->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
								MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
		if (coroutine->stack == MAP_FAILED)
			abort();
	}
	coroutine->started = false;
	coroutine->proc = proc;
	getcontext(&coroutine->context);
	coroutine->context.uc_stack.ss_sp = coroutine->stack;
	coroutine->context.uc_stack.ss_size = STACK_SIZE;
	coroutine->context.uc_link = NULL;
	makecontext(&coroutine->context, begin_coroutine, 0);
	return coroutine;
}

/* ----------------------------------------------------------------
 *		Copies of the library
 * ----------------------------------------------------------------
 */

static const char *
library_path(void)
{
	static char path[4096];
	ssize_t		len = readlink("/proc/self/exe", path, sizeof(path) - 32);
	const char *name = getenv("SIM_LIBRARY");

	if (name != NULL)
		return name;
	if (len < 0)
		abort();
	path[len] = '\0';
	strcpy(strrchr(path, '/') + 1, "libserver.so");
	return path;
}

static void
read_library(void)
{
	FILE	   *file = fopen(library_path(), "r");
	char		buffer[65536];
	size_t		n;

	if (file == NULL)
		sim_panic("cannot read %s", library_path());
	library = memfd_create("libserver", 0);
	while ((n = fread(buffer, 1, sizeof(buffer), file)) > 0)
	{
		if (write(library, buffer, n) != (ssize_t) n)
			abort();
	}
	fclose(file);
}

/* Can the library be loaded at all?  Else it says what is missing. */
bool
sim_kernel_check(void)
{
	void	   *handle = dlopen(library_path(), RTLD_NOW | RTLD_LOCAL);

	if (handle == NULL)
	{
		fprintf(stderr, "sim: %s\n", dlerror());
		return false;
	}
	dlclose(handle);
	return true;
}

typedef struct FindData
{
	uintptr_t	base;
	char	   *data;
	size_t		len;
} FindData;

/* The writable segment, but for what is read-only behind relocation. */
static int
find_data(struct dl_phdr_info *info, size_t size, void *arg)
{
	FindData   *find = arg;
	char	   *relro_end = NULL;

	(void) size;
	if (info->dlpi_addr != find->base)
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++)
	{
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];

		if (header->p_type == PT_GNU_RELRO)
			relro_end = (char *) (((find->base + header->p_vaddr + header->p_memsz) / 4096) * 4096);
	}
	for (int i = 0; i < info->dlpi_phnum; i++)
	{
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];

		if (header->p_type != PT_LOAD || (header->p_flags & PF_W) == 0)
			continue;
		find->data = (char *) (find->base + header->p_vaddr);
		find->len = header->p_memsz;
		if (relro_end > find->data)
		{
			find->len -= relro_end - find->data;
			find->data = relro_end;
		}
	}
	return 1;
}

static Copy *
load_copy(void)
{
	Copy	   *copy = calloc(1, sizeof(Copy));
	char		path[64];
	int			fd = memfd_create("libserver", 0);
	off_t		offset = 0;
	off_t		size = lseek(library, 0, SEEK_END);
	struct link_map *map;
	FindData	find = {0};
	char	   *content = mmap(NULL, size, PROT_READ, MAP_SHARED, library, 0);

	while (offset < size)
	{
		ssize_t		n = write(fd, content + offset, size - offset);

		if (n < 0)
			abort();
		offset += n;
	}
	munmap(content, size);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int) getpid(), fd);
	copy->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (copy->handle == NULL)
		sim_panic("%s", dlerror());
	/* the file stays open: another one by the same path would not be loaded */
	copy->image = dlsym(copy->handle, "sim_image");
	if (copy->image == NULL || dlinfo(copy->handle, RTLD_DI_LINKMAP, &map) != 0)
		sim_panic("no image in the library");
	find.base = map->l_addr;
	(void) dl_iterate_phdr(find_data, &find);
	copy->data = find.data;
	copy->len = find.len;
	copy->pristine = malloc(copy->len);
	memcpy(copy->pristine, copy->data, copy->len);
	return copy;
}

/* So many are there already when a run begins. */
void
sim_kernel_preload(int ncopies)
{
	if (library < 0)
		read_library();
	for (const Copy *copy = free_copies; copy != NULL; copy = copy->next)
		ncopies--;
	for (; ncopies > 0; ncopies--)
	{
		Copy	   *copy = load_copy();

		copy->next = free_copies;
		free_copies = copy;
	}
}

static Copy *
take_copy(SimProc *proc)
{
	Copy	   *copy = free_copies;

	if (copy != NULL)
		free_copies = copy->next;
	else
		copy = load_copy();
	copy->proc = proc;
	return copy;
}

static void
give_copy(Copy *copy)
{
	copy->image->free_memory();
	memcpy(copy->data, copy->pristine, copy->len);
	copy->proc = NULL;
	copy->next = free_copies;
	free_copies = copy;
}

/* ----------------------------------------------------------------
 *		Processes
 * ----------------------------------------------------------------
 */

const char *
sim_proc_name(const SimProc *proc)
{
	static char names[4][32];
	static int	next = 0;
	char	   *name = names[next++ % 4];

	if (proc == NULL)
		return "-";
	if (proc->kind == SIM_WORKER)
		snprintf(name, 32, "s%d.w", proc->server->number);
	else if (proc->kind == SIM_POSTMASTER)
		snprintf(name, 32, "s%d.pm", proc->server->number);
	else
		snprintf(name, 32, "s%d.%d", proc->server->number, proc->procno);
	return name;
}

static void
start(SimProc *proc, SimServer *server, int procno, SimProcKind kind,
	  void (*body) (SimProc *proc), void *arg)
{
	Copy	   *copy = take_copy(proc);

	memset(proc, 0, sizeof(*proc));
	proc->server = server;
	proc->kind = kind;
	proc->procno = procno;
	proc->pid = next_pid++;
	proc->copy = copy;
	proc->image = copy->image;
	proc->alive = true;
	proc->started_at = now;
	proc->body = body;
	proc->arg = arg;
	proc->coroutine = new_coroutine(proc);
	proc->run = next_seq;
	let_run(proc, now);
}

/* It is no more, wherever it was; its copy is free. */
static void
bury(SimProc *proc)
{
	Coroutine  *coroutine = proc->coroutine;

	proc->alive = false;
	proc->run = 0;
	proc->blocked = false;
	if (proc->waits_on != NULL)
		proc->server->nwaiting--;
	proc->waits_on = NULL;
	coroutine->next = free_coroutines;
	free_coroutines = coroutine;
	proc->coroutine = NULL;
	give_copy(proc->copy);
	proc->copy = NULL;
}

void
sim_proc_start(SimServer *server, int procno, SimProcKind kind,
			   void (*body) (SimProc *proc), void *arg)
{
	if (server->procs[procno].alive)
		sim_panic("process %d is still there", procno);
	start(&server->procs[procno], server, procno, kind, body, arg);
}

void
sim_proc_kill(SimProc *proc)
{
	if (!proc->alive)
		return;
	if (proc == sim_self)
		sim_panic("a process cannot kill itself");
	bury(proc);
	sim_lockmgr_forget(proc);
	if (sim_proc_gone != NULL)
		sim_proc_gone(proc);
}

void
sim_proc_freeze(SimProc *proc, int64_t until)
{
	if (until > proc->frozen_until)
		proc->frozen_until = until;
}

void
sim_wake(SimProc *proc)
{
	if (!proc->alive || !proc->blocked || proc->woken)
		return;
	proc->woken = true;
	let_run(proc, now + sim_random_between(&sim_rand, 4, sim_random_one_in(&sim_rand, 50) ? 2000 : 40));
}

void
sim_send_signal(SimProc *proc, int sig)
{
	if (!proc->alive)
		return;
	proc->signals |= UINT32_C(1) << sig;
	sim_wake(proc);
}

/* An event that lets a process go on. */
static void
run_proc(const Event *event)
{
	SimProc    *proc = event->proc;
	int64_t		frozen;

	if (!proc->alive || proc->run != event->run)
		return;
	frozen = proc->frozen_until > proc->server->frozen_until ?
		proc->frozen_until : proc->server->frozen_until;
	if (frozen > now)
	{
		proc->held_up_until = frozen;
		let_run(proc, frozen);
		return;
	}
	proc->run = next_seq++;		/* other events for it are void now */
	nsteps++;
	go_to(proc);
}

void
sim_run_until(int64_t time)
{
	stopped = false;
	run_limit = time;
	while (!stopped && nheap > 0 && heap[0].time <= time)
	{
		Event		event = pop();

		if (event.time > now)
			now = event.time;
		if (event.proc != NULL)
			run_proc(&event);
		else
			event.fn(event.arg);
		if (sim_after_event != NULL)
			sim_after_event();
	}
	if (!stopped && now < time)
		now = time;
}

void
sim_stop(void)
{
	stopped = true;
}

/*
 * The running process is to go on then.  If nothing else happens before, its event would
 * be the next one: so it is as if it had come already, without a change of coroutines.
 */
static bool
goes_on_at(int64_t time)
{
	SimProc    *self = sim_self;

	if (time < now)
		time = now;
	if (stopped || time > run_limit || (nheap > 0 && heap[0].time <= time) ||
		self->frozen_until > time || self->server->frozen_until > time)
		return false;
	if (sim_after_event != NULL)
		sim_after_event();
	if (stopped)
		return false;
	now = time;
	next_seq++;					/* the event's */
	self->run = next_seq++;
	nsteps++;
	return true;
}

/* ---- what a running process calls ---- */

int
sim_procno(void)
{
	return sim_self->procno;
}

int
sim_pid(void)
{
	return sim_self->pid;
}

int
sim_server(void)
{
	return sim_self->server->number;
}

bool
sim_block(int64_t until)
{
	SimProc    *self = sim_self;

	/* A signal that has come is to be seen first. */
	if (self->signals != 0)
		return true;
	if (until != SIM_FOREVER && goes_on_at(until))
		return false;
	self->blocked = true;
	self->woken = false;
	if (until != SIM_FOREVER)
		let_run(self, until > now ? until : now);
	back_to_kernel();
	self->blocked = false;
	return self->woken;
}

void
sim_stop_for(int64_t delay)
{
	if (goes_on_at(now + delay))
		return;
	let_run(sim_self, now + delay);
	back_to_kernel();
}

bool
sim_step(void)
{
	int64_t		delay;

	if (sim_checking || !sim_random_one_in(&sim_rand, STEP_RATE))
		return false;
	delay = sim_random_between(&sim_rand, 0, 20);
	if (sim_random_one_in(&sim_rand, 400))
		delay = sim_random_between(&sim_rand, 0, 5000);
	sim_stop_for(delay);
	return true;
}

uint32_t
sim_take_signals(void)
{
	uint32_t	signals = sim_self->signals;

	sim_self->signals = 0;
	return signals;
}

static void
proc_has_ended(void *arg)
{
	SimProc    *proc = arg;
	int			code = (int) (intptr_t) proc->arg;

	if (!proc->alive)
		return;
	bury(proc);
	sim_lockmgr_forget(proc);
	if (sim_proc_gone != NULL)
		sim_proc_gone(proc);
	if (sim_proc_ended != NULL)
		sim_proc_ended(proc, code);
}

void
sim_exit(int code)
{
	sim_self->arg = (void *) (intptr_t) code;
	sim_self->run = next_seq++;
	sim_at(now, proc_has_ended, sim_self);
	back_to_kernel();
	sim_panic("a process goes on behind its end");
}

uint64_t
sim_random_number(void)
{
	return sim_random_next(&sim_rand);
}

void
sim_drew(uint64_t number)
{
	sim_self->drawn = number;
}

void *
sim_symbol(const char *name)
{
	void	   *symbol = dlsym(((Copy *) sim_self->copy)->handle, name);

	if (symbol == NULL)
		sim_panic("no function %s", name);
	return symbol;
}

static SimProc *
find_pid(int pid)
{
	for (int i = 0; i < sim_self->server->nprocs; i++)
	{
		if (sim_self->server->procs[i].alive && sim_self->server->procs[i].pid == pid)
			return &sim_self->server->procs[i];
	}
	return NULL;
}

void
sim_signal(int pid, int sig)
{
	SimProc    *proc = find_pid(pid);

	if (proc != NULL)
		sim_send_signal(proc, sig);
}

void
sim_wake_pid(int pid)
{
	SimProc    *proc = find_pid(pid);

	if (proc != NULL)
		sim_wake(proc);
}

void
sim_wait_on(const void *lock)
{
	uint32_t	signals = sim_self->signals;

	/* not to be interrupted by a signal */
	sim_self->signals = 0;
	sim_wait_on_until(lock, SIM_FOREVER);
	sim_self->signals |= signals;
}

void
sim_wait_on_until(const void *lock, int64_t until)
{
	sim_self->waits_on = lock;
	sim_self->server->nwaiting++;
	(void) sim_block(until);
	sim_self->server->nwaiting--;
	sim_self->waits_on = NULL;
}

int
sim_boot(void)
{
	return sim_self->server->boot;
}

bool
sim_stopping(void)
{
	return sim_self->server->stopping;
}

void
sim_released(const void *lock)
{
	SimServer  *server = sim_self->server;

	for (int i = 0; server->nwaiting > 0 && i < server->nprocs; i++)
	{
		if (server->procs[i].alive && server->procs[i].waits_on == lock)
			sim_wake(&server->procs[i]);
	}
}

/* ----------------------------------------------------------------
 *		Servers
 * ----------------------------------------------------------------
 */

int64_t
sim_server_clock(const SimServer *server, SimClock clock)
{
	return server->base[clock] + (int64_t) ((double) now * server->rate[clock]);
}

int64_t
sim_clock(SimClock clock)
{
	return sim_server_clock(sim_self->server, clock);
}

int64_t
sim_after(int64_t microseconds)
{
	return microseconds >= SIM_FOREVER - now ? SIM_FOREVER : now + microseconds;
}

static void
free_shmem(SimServer *server)
{
	while (server->shmem != NULL)
	{
		Segment    *segment = server->shmem;

		server->shmem = segment->next;
		free(segment->memory);
		free(segment);
	}
}

void *
sim_shmem(const char *name, size_t size, bool *found)
{
	SimServer  *server = sim_self->server;
	Segment    *segment;

	for (segment = server->shmem; segment != NULL; segment = segment->next)
	{
		if (strcmp(segment->name, name) == 0)
		{
			*found = true;
			return segment->memory;
		}
	}
	segment = calloc(1, sizeof(Segment));
	snprintf(segment->name, sizeof(segment->name), "%s", name);
	segment->size = size;
	if (posix_memalign(&segment->memory, 128, size + 128) != 0)
		abort();
	memset(segment->memory, 0, size);
	segment->next = server->shmem;
	server->shmem = segment;
	*found = false;
	return segment->memory;
}

size_t
sim_shmem_size(const char *name)
{
	for (const Segment *segment = sim_self->server->shmem; segment != NULL; segment = segment->next)
	{
		if (strcmp(segment->name, name) == 0)
			return segment->size;
	}
	return 0;
}

SimServer *
sim_server_create(int nprocs)
{
	SimServer  *server = &sim_servers[sim_nservers];

	memset(server, 0, sizeof(*server));
	server->number = ++sim_nservers;
	server->nprocs = nprocs;
	for (int i = 0; i < nprocs; i++)
	{
		server->procs[i].server = server;
		server->procs[i].procno = i;
	}
	for (int i = 0; i < 3; i++)
		server->rate[i] = 1.0;
	server->base[SIM_WALL] = INT64_C(1790000000) * SIM_SECOND;
	return server;
}

static void
kill_procs(SimServer *server)
{
	for (int i = 0; i < server->nprocs; i++)
		sim_proc_kill(&server->procs[i]);
	sim_lockmgr_reset(server);
	free_shmem(server);
	server->generation++;
}

/* The postmaster's part: it runs in its own copy, as its statics live on. */
static void
make_shmem(SimServer *server)
{
	SimProc    *self = sim_self;

	sim_self = &server->postmaster;
	sim_checking = true;
	server->postmaster.image->run(&server->postmaster);
	sim_checking = false;
	sim_self = self;
}

void
sim_server_boot(SimServer *server)
{
	SimProc    *postmaster = &server->postmaster;
	Copy	   *copy = take_copy(postmaster);

	memset(postmaster, 0, sizeof(*postmaster));
	postmaster->server = server;
	postmaster->kind = SIM_POSTMASTER;
	postmaster->pid = next_pid++;
	postmaster->copy = copy;
	postmaster->image = copy->image;
	postmaster->alive = true;
	server->up = true;
	server->stopping = false;
	make_shmem(server);
}

void
sim_server_crash(SimServer *server)
{
	kill_procs(server);
	make_shmem(server);
}

void
sim_server_halt(SimServer *server)
{
	kill_procs(server);
	give_copy(server->postmaster.copy);
	server->postmaster.alive = false;
	server->up = false;
}

/* ----------------------------------------------------------------
 *		All of it
 * ----------------------------------------------------------------
 */

void
sim_kernel_start(uint64_t seed)
{
	if (library < 0)
		read_library();
	now = FIRST_TIME;
	nheap = 0;
	next_seq = 1;
	nsteps = 0;
	next_pid = 1000;
	sim_nservers = 0;
	sim_rand.state = seed;
	sim_fault_rand.state = seed ^ UINT64_C(0xF417);
	sim_work_rand.state = seed ^ UINT64_C(0x3087);
}

void
sim_kernel_end(void)
{
	sim_proc_gone = NULL;
	sim_proc_ended = NULL;
	for (int i = 0; i < sim_nservers; i++)
	{
		if (sim_servers[i].up)
			sim_server_halt(&sim_servers[i]);
		free_shmem(&sim_servers[i]);
	}
	nheap = 0;
}

void
sim_trace_line(const char *format,...)
{
	va_list		args;

	printf("%12.3f %-5s ", (double) (now - FIRST_TIME) / 1000,
		   sim_proc_name(sim_self));
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}
