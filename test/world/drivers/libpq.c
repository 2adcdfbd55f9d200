/*-------------------------------------------------------------------------
 *
 * libpq.c
 *	  The driver script by libpq: see README.md.
 *
 *	  libpq simple | extended | prepared | pipeline
 *
 *-------------------------------------------------------------------------
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>

#define MAX_FIELDS		64
#define MAX_CONNECTIONS 16
#define MAX_PARAMS		8

#define INT8OID			20
#define TEXTOID			25

typedef enum Mode
{
	MODE_SIMPLE,
	MODE_EXTENDED,
	MODE_PREPARED,
	MODE_PIPELINE
} Mode;

typedef struct Connection
{
	char		name[32];
	PGconn	   *conn;
} Connection;

static Mode mode;
static Connection connections[MAX_CONNECTIONS];

static char answer[65536];

/* Nothing is said before the test asks; warnings are for psql's users. */
static void
ignore_notice(void *arg, const PGresult *result)
{
}

static Connection *
find(const char *name)
{
	for (int i = 0; i < MAX_CONNECTIONS; i++)
	{
		if (strcmp(connections[i].name, name) == 0)
			return &connections[i];
	}
	fprintf(stderr, "no connection \"%s\"\n", name);
	exit(2);
}

static void
add(const char *text)
{
	strncat(answer, text, sizeof(answer) - strlen(answer) - 1);
}

static void
answer_error(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	snprintf(answer, sizeof(answer), "error\t%s", state != NULL ? state : "closed");
}

/* Add the rows of a result to the answer; false if it is an error. */
static bool
add_result(const PGresult *result)
{
	if (PQresultStatus(result) != PGRES_TUPLES_OK &&
		PQresultStatus(result) != PGRES_COMMAND_OK &&
		PQresultStatus(result) != PGRES_EMPTY_QUERY)
	{
		answer_error(result);
		return false;
	}
	for (int row = 0; row < PQntuples(result); row++)
	{
		add(row == 0 ? "" : ";");
		for (int column = 0; column < PQnfields(result); column++)
		{
			add(column == 0 ? "" : "|");
			add(PQgetisnull(result, row, column) ? "null" :
				*PQgetvalue(result, row, column) == '\0' ? "" :
				PQgetvalue(result, row, column));
		}
	}
	return true;
}

/* All statements of a pipeline, up to its Sync. */
static void
run_pipeline(PGconn *conn, char **statements, int nstatements, int nparams,
			 const Oid *types, const char *const *values)
{
	bool		failed = false;
	PGresult   *result;

	if (PQenterPipelineMode(conn) != 1)
	{
		strcpy(answer, "error\tclosed");
		return;
	}
	for (int i = 0; i < nstatements; i++)
		PQsendQueryParams(conn, statements[i], nparams, types, values, NULL, NULL, 0);
	PQpipelineSync(conn);

	for (int i = 0; i < nstatements;)
	{
		result = PQgetResult(conn);
		if (result == NULL)
		{
			i++;
			if (PQstatus(conn) == CONNECTION_BAD)
				break;
			if (i < nstatements && !failed)
				add("|");
			continue;
		}
		if (!failed && PQresultStatus(result) != PGRES_PIPELINE_ABORTED)
			failed = !add_result(result);
		PQclear(result);
	}

	/* An implicit transaction fails at its commit, which is at the Sync. */
	for (bool synced = false; !synced && PQstatus(conn) == CONNECTION_OK;)
	{
		result = PQgetResult(conn);
		synced = result != NULL && PQresultStatus(result) == PGRES_PIPELINE_SYNC;
		if (result != NULL && PQresultStatus(result) == PGRES_FATAL_ERROR && !failed)
			failed = !add_result(result);
		PQclear(result);
	}
	if (PQstatus(conn) == CONNECTION_BAD && !failed)
		strcpy(answer, "error\tclosed");
	PQexitPipelineMode(conn);
}

static void
run(PGconn *conn, char *sql, int nparams, const Oid *types,
	const char *const *values)
{
	PGresult   *result;

	strcpy(answer, "ok\t");
	switch (mode)
	{
		case MODE_PIPELINE:
			run_pipeline(conn, &sql, 1, nparams, types, values);
			return;
		case MODE_SIMPLE:
			result = nparams == 0 ? PQexec(conn, sql) :
				PQexecParams(conn, sql, nparams, types, values, NULL, NULL, 0);
			break;
		case MODE_EXTENDED:
			result = PQexecParams(conn, sql, nparams, types, values, NULL, NULL, 0);
			break;
		case MODE_PREPARED:
			result = PQprepare(conn, "", sql, nparams, types);
			if (PQresultStatus(result) == PGRES_COMMAND_OK)
			{
				PQclear(result);
				result = PQexecPrepared(conn, "", nparams, values, NULL, NULL, 0);
			}
			break;
		default:
			abort();
	}
	add_result(result);
	PQclear(result);
}

static void
open_connection(const char *name, const char *server)
{
	char		conninfo[256];
	int			i = 0;

	while (connections[i].name[0] != '\0')
	{
		if (++i == MAX_CONNECTIONS)
			exit(2);
	}
	snprintf(conninfo, sizeof(conninfo), "host=127.0.0.1 port=%s dbname=postgres user=postgres",
			 getenv(server));
	connections[i].conn = PQconnectdb(conninfo);
	snprintf(connections[i].name, sizeof(connections[i].name), "%s", name);
	PQsetNoticeReceiver(connections[i].conn, ignore_notice, NULL);
	strcpy(answer, PQstatus(connections[i].conn) == CONNECTION_OK ? "ok\t" : "error\tclosed");
}

static void
close_connection(Connection *connection)
{
	PQfinish(connection->conn);
	connection->name[0] = '\0';
	strcpy(answer, "ok\t");
}

static void
run_params(PGconn *conn, char **fields, int n)
{
	Oid			types[MAX_PARAMS];
	const char *values[MAX_PARAMS];

	for (int i = 0; i < n - 1; i++)
	{
		types[i] = fields[i + 1][0] == 'i' ? INT8OID : TEXTOID;
		values[i] = fields[i + 1] + 2;
	}
	run(conn, fields[0], n - 1, types, values);
}

static void
release(int n, PGconn *first, PGconn *second, char *lock, char *try)
{
	int			refused = 0;

	for (int i = 0; i < n; i++)
	{
		run(first, lock, 0, NULL, NULL);
		if (strncmp(answer, "ok", 2) != 0)
			return;
		run(second, try, 0, NULL, NULL);
		if (strncmp(answer, "ok", 2) != 0)
			return;
		refused += strcmp(answer, "ok\tf") == 0;
	}
	snprintf(answer, sizeof(answer), "ok\t%d", refused);
}

static void
command(char **fields, int n)
{
	const char *name = fields[0];

	if (strcmp(name, "open") == 0)
		open_connection(fields[1], fields[2]);
	else if (strcmp(name, "close") == 0)
		close_connection(find(fields[1]));
	else if (strcmp(name, "q") == 0)
		run(find(fields[1])->conn, fields[2], 0, NULL, NULL);
	else if (strcmp(name, "p") == 0)
		run_params(find(fields[1])->conn, fields + 2, n - 2);
	else if (strcmp(name, "pipe") == 0)
	{
		strcpy(answer, "ok\t");
		run_pipeline(find(fields[1])->conn, fields + 2, n - 2, 0, NULL, NULL);
	}
	else if (strcmp(name, "release") == 0)
		release(atoi(fields[1]), find(fields[2])->conn, find(fields[3])->conn,
				fields[4], fields[5]);
	else						/* begin, commit, rollback */
		run(find(fields[1])->conn, fields[0], 0, NULL, NULL);
}

int
main(int argc, char **argv)
{
	static const char *const modes[] = {"simple", "extended", "prepared", "pipeline"};
	char		line[65536];

	if (argc != 2)
		return 2;
	while (mode <= MODE_PIPELINE && strcmp(modes[mode], argv[1]) != 0)
		mode++;
	if (mode > MODE_PIPELINE)
		return 2;

	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		char	   *fields[MAX_FIELDS];
		int			n = 0;

		line[strcspn(line, "\n")] = '\0';
		for (char *field = strtok(line, "\t"); field != NULL && n < MAX_FIELDS;
			 field = strtok(NULL, "\t"))
			fields[n++] = field;
		command(fields, n);
		printf("%s\n", answer);
		fflush(stdout);
	}
	return 0;
}
