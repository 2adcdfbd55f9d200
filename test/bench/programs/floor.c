/*-------------------------------------------------------------------------
 *
 * floor.c
 *	  What the machine itself costs.
 *
 *		floor fdatasync FILE SECONDS		a block written and synced, as a
 *											write-ahead log does
 *		floor switch SECONDS				to another process and back: two
 *											context switches
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sample.h"

#define FILE_SIZE	(16 * 1024 * 1024)
#define BLOCK_SIZE	4096

static void
measure_fdatasync(const char *file, double seconds)
{
	static char block[BLOCK_SIZE];
	int			fd = open(file, O_CREAT | O_TRUNC | O_RDWR, 0600);
	double		began;
	double		t;
	long		n = 0;
	off_t		at;

	if (fd < 0)
		fail("cannot create the file");
	memset(block, 'x', sizeof(block));
	/* A log writes into space that is there already. */
	for (at = 0; at < FILE_SIZE; at += BLOCK_SIZE)
	{
		if (pwrite(fd, block, sizeof(block), at) != sizeof(block))
			fail("cannot write");
	}
	fsync(fd);

	began = now_us();
	while ((t = now_us()) < began + seconds * 1e6)
	{
		if (pwrite(fd, block, sizeof(block), n++ * BLOCK_SIZE % FILE_SIZE) != sizeof(block) ||
			fdatasync(fd) != 0)
			fail("cannot write");
		sample("fdatasync", now_us() - t);
	}
	print_samples(n, t - began);
	close(fd);
	unlink(file);
}

static void
measure_switch(double seconds)
{
	int			there[2];
	int			back[2];
	char		byte = 0;
	double		began;
	double		t;
	long		n = 0;
	pid_t		child;

	if (pipe(there) != 0 || pipe(back) != 0 || (child = fork()) < 0)
		fail("cannot set up the processes");
	if (child == 0)
	{
		close(there[1]);
		while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
			;
		_exit(0);
	}

	began = now_us();
	while ((t = now_us()) < began + seconds * 1e6)
	{
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			fail("the other process is gone");
		sample("switch", now_us() - t);
		n++;
	}
	print_samples(n, t - began);
	close(there[1]);
	waitpid(child, NULL, 0);
}

int
main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "fdatasync") == 0)
		measure_fdatasync(argv[2], atof(argv[3]));
	else if (argc == 3 && strcmp(argv[1], "switch") == 0)
		measure_switch(atof(argv[2]));
	else
		fail("usage: floor fdatasync FILE SECONDS | floor switch SECONDS");
	return 0;
}
