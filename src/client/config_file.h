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

/*
 * The contents of a file, palloc'd in the current context and NUL-terminated.
 */
typedef struct ConfigFile
{
	char	   *content;
	size_t		len;
	struct stat stat;			/* as it was when it was read */
} ConfigFile;

/*
 * Read a file.  Returns NULL, or a palloc'd text that says why it cannot be
 * read; then *file is zeroed, except for what is known of file->stat.
 */
extern char *config_file_read(const char *path, bool is_secret, ConfigFile *file);

/* Wipe and free what was read. */
extern void config_file_free(ConfigFile *file);

/* Is it a different file from the one with this stat, or was it changed? */
extern bool config_file_changed(const char *path, const struct stat *stat);

#endif							/* CONFIG_FILE_H */
