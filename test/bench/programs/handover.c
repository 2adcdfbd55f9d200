/*-------------------------------------------------------------------------
 *
 * handover.c
 *	  From "release called" in one session to "granted" in another one.
 *
 *		handover CONNINFO CONNINFO NAME SECONDS SETTLE_MS [SQL...]
 *
 * Two sessions, usually of two servers, take turns: one holds the lock, the
 * other has been waiting for it for SETTLE_MS (and up to half as much more, so
 * that no timer stays in step).  Both are clients of this process, so that there
 * is one clock.  Prints "granted" and, for the caller of the release, "released".
 * SQL is run in both sessions before.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <libpq-fe.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "sample.h"

#define PATIENCE_MS		30000

static void
check(PGconn *conn, PGresult *result)
{
	if (PQresultStatus(result) != PGRES_TUPLES_OK &&
		PQresultStatus(result) != PGRES_COMMAND_OK)
		fail(PQerrorMessage(conn));
	PQclear(result);
}

static PGconn *
connect_to(const char *conninfo, char **sql, int nsql)
{
	PGconn	   *conn = PQconnectdb(conninfo);
	int			i;

	if (PQstatus(conn) != CONNECTION_OK)
		fail(PQerrorMessage(conn));
	for (i = 0; i < nsql; i++)
		check(conn, PQexec(conn, sql[i]));
	check(conn, PQprepare(conn, "lock", "SELECT etcd_lock($1::text)", 1, NULL));
	check(conn, PQprepare(conn, "unlock", "SELECT etcd_unlock($1::text)", 1, NULL));
	return conn;
}

static void
send_prepared(PGconn *conn, const char *statement, const char *name)
{
	if (!PQsendQueryPrepared(conn, statement, 1, &name, NULL, NULL, 0) ||
		PQflush(conn) != 0)
		fail(PQerrorMessage(conn));
}

/* Wait for both answers, and note when each is there. */
static void
wait_for_answers(PGconn *const *conn, double *at)
{
	int			left = 2;
	int			i;

	at[0] = at[1] = 0;
	while (left > 0)
	{
		struct pollfd pfd[2];

		for (i = 0; i < 2; i++)
		{
			pfd[i].fd = at[i] > 0 ? -1 : PQsocket(conn[i]);
			pfd[i].events = POLLIN;
			pfd[i].revents = 0;
		}
		if (poll(pfd, 2, PATIENCE_MS) <= 0)
			fail("no answer");
		for (i = 0; i < 2; i++)
		{
			if (pfd[i].revents == 0)
				continue;
			if (!PQconsumeInput(conn[i]))
				fail(PQerrorMessage(conn[i]));
			if (!PQisBusy(conn[i]))
			{
				at[i] = now_us();
				left--;
			}
		}
	}
	for (i = 0; i < 2; i++)
	{
		check(conn[i], PQgetResult(conn[i]));
		while (PQgetResult(conn[i]) != NULL)
			;
	}
}

int
main(int argc, char **argv)
{
	PGconn	   *conn[2];		/* the holder, the waiter */
	const char *name;
	double		settle;
	double		began;
	long		n = 0;

	if (argc < 6)
		fail("usage: handover CONNINFO CONNINFO NAME SECONDS SETTLE_MS [SQL...]");
	name = argv[3];
	settle = atof(argv[5]) * 1000;
	conn[0] = connect_to(argv[1], argv + 6, argc - 6);
	conn[1] = connect_to(argv[2], argv + 6, argc - 6);

	check(conn[0], PQexecPrepared(conn[0], "lock", 1, &name, NULL, NULL, 0));
	began = now_us();
	while (now_us() < began + atof(argv[4]) * 1e6)
	{
		PGconn	   *other;
		double		released;
		double		at[2];

		send_prepared(conn[1], "lock", name);
		usleep(settle * (1 + 0.5 * random() / RAND_MAX));
		PQconsumeInput(conn[1]);
		if (!PQisBusy(conn[1]))
			fail("granted while it was held");

		released = now_us();
		send_prepared(conn[0], "unlock", name);
		wait_for_answers(conn, at);
		sample("released", at[0] - released);
		sample("granted", at[1] - released);
		n++;

		other = conn[0];
		conn[0] = conn[1];
		conn[1] = other;
	}
	print_samples(n, now_us() - began);
	PQfinish(conn[0]);
	PQfinish(conn[1]);
	return 0;
}
