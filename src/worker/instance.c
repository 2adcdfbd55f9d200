/*-------------------------------------------------------------------------
 *
 * instance.c
 *	  Identifies this server: which run of which data directory on which machine.
 *
 * A starting server recognizes its predecessor's lease by this: the same data
 * directory (device, inode and system identifier) on the same boot of the same
 * machine means that the predecessor is gone, with all of its sessions.
 * PostgreSQL ensures that before it starts: postmaster.pid must not name a
 * live process, and nobody may be attached to the shared memory that it names.
 * PostgreSQL looks up both in this process's namespaces of process ids and of
 * shared memory, so those are part of the text: a second server on the same
 * directory in another container is never taken for a successor.
 *
 * Another directory cannot have the same text: as long as a process of a
 * server lives, its working directory prevents the inode from being used
 * again.  A base backup or a copy has another inode; another machine or boot
 * has another boot id.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "worker/instance.h"

#define BOOT_ID_FILE	"/proc/sys/kernel/random/boot_id"
#define PID_SPACE_FILE	"/proc/self/ns/pid"
#define IPC_SPACE_FILE	"/proc/self/ns/ipc"

/* The first line of a file, without its end. */
static bool
read_line(const char *path, char *line, size_t size)
{
	FILE	   *file = AllocateFile(path, "r");
	bool		good;

	if (file == NULL)
		return false;
	good = fgets(line, (int) size, file) != NULL;
	FreeFile(file);
	if (good)
		line[strcspn(line, "\n")] = '\0';
	return good && line[0] != '\0';
}

/* The target of a link in /proc, such as "pid:[4026531836]". */
static bool
read_space(const char *path, char *space, size_t size)
{
	ssize_t		len = readlink(path, space, size - 1);

	if (len <= 0)
		return false;
	space[len] = '\0';
	return true;
}

void
instance_describe(char *identity)
{
	char		boot[64];
	char		pid_space[64];
	char		ipc_space[64];
	struct stat dir;

	identity[0] = '\0';

	if (!read_line(BOOT_ID_FILE, boot, sizeof(boot)) ||
		!read_space(PID_SPACE_FILE, pid_space, sizeof(pid_space)) ||
		!read_space(IPC_SPACE_FILE, ipc_space, sizeof(ipc_space)) ||
		stat(DataDir, &dir) != 0)
		return;
	snprintf(identity, INSTANCE_TEXT, "boot %s %s %s dir %llx:%llx system " UINT64_FORMAT,
			 boot, pid_space, ipc_space, (unsigned long long) dir.st_dev,
			 (unsigned long long) dir.st_ino, GetSystemIdentifier());
}
