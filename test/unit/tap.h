/*-------------------------------------------------------------------------
 *
 * tap.h
 *	  As much of the Test Anything Protocol as the unit tests need.
 *
 * For the one source file of a test program.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int	tap_run = 0;
static int	tap_failed = 0;

#define diag(...) \
	do { \
		printf("# " __VA_ARGS__); \
		printf("\n"); \
	} while (0)

/* ok(condition, name as printf's format, ...); the condition's value */
#define ok(condition, ...) \
	tap_ok((condition), __FILE__, __LINE__, __VA_ARGS__)

static bool __attribute__((format(printf, 4, 5)))
tap_ok(bool condition, const char *file, int line, const char *fmt,...)
{
	va_list		args;

	printf("%sok %d - ", condition ? "" : "not ", ++tap_run);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	if (!condition)
	{
		tap_failed++;
		diag("failed at %s line %d", file, line);
	}
	fflush(stdout);
	return condition;
}

static inline bool
is_int(long long got, long long expected, const char *name)
{
	bool		same = ok(got == expected, "%s", name);

	if (!same)
		diag("got %lld, expected %lld", got, expected);
	return same;
}

static inline bool
is_string(const char *got, const char *expected, const char *name)
{
	bool		same = ok(got != NULL && strcmp(got, expected) == 0, "%s", name);

	if (!same)
		diag("got \"%s\", expected \"%s\"", got == NULL ? "(null)" : got, expected);
	return same;
}

/* The plan; what it returns is main's to return. */
static int
done_testing(void)
{
	printf("1..%d\n", tap_run);
	return tap_failed == 0 && tap_run > 0 ? 0 : 1;
}

#endif							/* TAP_H */
