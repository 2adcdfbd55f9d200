/*-------------------------------------------------------------------------
 *
 * config_file.h
 *	  Files that settings name: certificates, keys, the password.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONFIG_FILE_H
#define CONFIG_FILE_H

#include "postgres.h"

#include <sys/stat.h>

/* Longest file that is read, bytes. */
#define CONFIG_FILE_MAX			(1024 * 1024)

/* What a file holds, palloc'd in the current context, NUL behind it. */
typedef struct ConfigFile
{
	char	   *content;
	size_t		len;
	struct stat stat;			/* as it was when it was read */
} ConfigFile;

/*
 * Read a file.  NULL, or why it cannot be read, palloc'd, for people; then
 * *file is zeroed, but for what is known of file->stat.
 */
extern char *config_file_read(const char *path, bool is_secret, ConfigFile *file);

/* Wipe and free what was read. */
extern void config_file_free(ConfigFile *file);

/* Is it another file than the one that stat was taken of, or changed? */
extern bool config_file_changed(const char *path, const struct stat *stat);

#endif							/* CONFIG_FILE_H */
