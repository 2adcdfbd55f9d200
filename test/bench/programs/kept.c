/*-------------------------------------------------------------------------
 *
 * kept.c
 *	  What others pay who ask for a lock that a server keeps.
 *
 *		kept CONNINFO CONNINFO NAME SECONDS CALL idle|held [true|false]
 *
 * The first session takes and releases a lock until its server keeps it, and with
 * "held" takes it once more.  Then the second one, usually of another server, runs
 * CALL, "etcd_lock" or the like, and prints how long that takes, as "granted" or
 * "refused"; true or false is what it has to return.  Each time it is another name,
 * so that the second server does not keep it, too.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <libpq-fe.h>
#include <string.h>

#include "sample.h"

/* For so long, until a name is kept. */
#define HEAT_US			20000

/* The first column of what a statement returns; good until the next one. */
static const char *
run(PGconn *conn, const char *statement, const char *name)
{
	static char value[64];
	PGresult   *result = PQexecPrepared(conn, statement, 1, &name, NULL, NULL, 0);

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		fail(PQerrorMessage(conn));
	snprintf(value, sizeof(value), "%s", PQgetvalue(result, 0, 0));
	PQclear(result);
	return value;
}

static PGconn *
connect_to(const char *conninfo, const char *call)
{
	PGconn	   *conn = PQconnectdb(conninfo);
	char		sql[256];

	if (PQstatus(conn) != CONNECTION_OK)
		fail(PQerrorMessage(conn));
	PQclear(PQprepare(conn, "lock", "SELECT etcd_lock($1::text)", 1, NULL));
	PQclear(PQprepare(conn, "unlock", "SELECT etcd_unlock($1::text)", 1, NULL));
	snprintf(sql, sizeof(sql), "SELECT %s($1::text)", call);
	PQclear(PQprepare(conn, "call", sql, 1, NULL));
	return conn;
}

int
main(int argc, char **argv)
{
	PGconn	   *keeper;
	PGconn	   *other;
	double		began;
	long		n = 0;
	int			held;

	if (argc != 7 && argc != 8)
		fail("usage: kept CONNINFO CONNINFO NAME SECONDS CALL idle|held [true|false]");
	held = strcmp(argv[6], "held") == 0;
	keeper = connect_to(argv[1], argv[5]);
	other = connect_to(argv[2], argv[5]);

	began = now_us();
	while (now_us() < began + atof(argv[4]) * 1e6)
	{
		char		name[256];
		const char *answer;
		double		asked;

		snprintf(name, sizeof(name), "%s/%ld", argv[3], n++ % 1000);
		asked = now_us();
		while (now_us() < asked + HEAT_US)
		{
			run(keeper, "lock", name);
			run(keeper, "unlock", name);
		}
		run(keeper, "lock", name);
		if (!held)
			run(keeper, "unlock", name);

		asked = now_us();
		answer = run(other, "call", name);
		sample(held ? "refused" : "granted", now_us() - asked);
		if (argc == 8 && answer[0] != (argv[7][0] == 't' ? 't' : 'f'))
			fail("another answer than was expected");
		run(held ? keeper : other, "unlock", name);
	}
	print_samples(n, now_us() - began);
	PQfinish(keeper);
	PQfinish(other);
	return 0;
}
