/*-------------------------------------------------------------------------
 *
 * config_file.c
 *	  Files that settings name: certificates, keys, the password.
 *
 * The permissions of a file with a secret are checked like those of
 * PostgreSQL's own key files (be-secure-common.c).  Nothing here raises an
 * error: the worker continues with what it has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "client/config_file.h"
#include "storage/fd.h"

/*
 * Nobody else may access a file of our own.  A file of root may be readable by
 * a group, such as Debian's ssl-cert.
 */
static char *
check_secret(const char *path, const struct stat *st)
{
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return psprintf("file \"%s\" must be owned by the database user or root",
						path);
	if ((st->st_uid == geteuid() && st->st_mode & (S_IRWXG | S_IRWXO)) ||
		(st->st_uid == 0 && st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)))
		return psprintf("file \"%s\" has group or world access; it must have permissions u=rw (0600) or less if owned by the database user, or u=rw,g=r (0640) or less if owned by root",
						path);
	return NULL;
}

/*
 * Read the rest of an open file.  Returns false with errno set, or 0 if it is
 * too long.
 */
static bool
read_all(int fd, ConfigFile *file)
{
	size_t		size = file->stat.st_size + 1;

	errno = 0;
	if (file->stat.st_size > CONFIG_FILE_MAX)
		return false;
	file->content = palloc(size + 1);
	while (file->len < size)
	{
		ssize_t		n = read(fd, file->content + file->len, size - file->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		if (n == 0)
			break;
		file->len += n;
	}
	file->content[file->len] = '\0';

	Assert(file->len <= size);

	/* It is longer than a moment ago, so it is being written. */
	errno = EAGAIN;
	return file->len < size;
}

char *
config_file_read(const char *path, bool is_secret, ConfigFile *file)
{
	int			fd;
	char	   *error = NULL;

	memset(file, 0, sizeof(ConfigFile));

	/* Non-blocking, so that we do not wait for the other end of a pipe. */
	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd < 0)
		return psprintf("could not open file \"%s\": %s", path, strerror(errno));
	if (fstat(fd, &file->stat) != 0)
		error = psprintf("could not stat file \"%s\": %s", path, strerror(errno));
	else if (!S_ISREG(file->stat.st_mode))
		error = psprintf("\"%s\" is not a regular file", path);
	else if (is_secret)
		error = check_secret(path, &file->stat);

	if (error == NULL && !read_all(fd, file))
		error = errno == 0 ? psprintf("file \"%s\" is too long", path)
			: psprintf("could not read file \"%s\": %s", path, strerror(errno));
	CloseTransientFile(fd);
	if (error != NULL)
		config_file_free(file);
	return error;
}

void
config_file_free(ConfigFile *file)
{
	if (file->content != NULL)
	{
		explicit_bzero(file->content, file->len);
		pfree(file->content);
	}
	file->content = NULL;
	file->len = 0;
}

bool
config_file_changed(const char *path, const struct stat *st)
{
	struct stat now;

	if (stat(path, &now) != 0)
		return st->st_ino != 0;
	return now.st_ino != st->st_ino || now.st_dev != st->st_dev ||
		now.st_size != st->st_size || now.st_mode != st->st_mode ||
		now.st_uid != st->st_uid ||
		now.st_mtim.tv_sec != st->st_mtim.tv_sec ||
		now.st_mtim.tv_nsec != st->st_mtim.tv_nsec;
}
