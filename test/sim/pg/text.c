/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Texts and their encodings, the catalogs' few answers, functions' calls.
 *
 * The database is in UTF-8, so nothing is ever converted.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "postmaster/autovacuum.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

Oid			pg_call_types[4];
int			pg_call_nargs;

ExecutorStart_hook_type ExecutorStart_hook = NULL;
ExecutorRun_hook_type ExecutorRun_hook = NULL;
ExecutorFinish_hook_type ExecutorFinish_hook = NULL;
ExecutorEnd_hook_type ExecutorEnd_hook = NULL;
ProcessUtility_hook_type ProcessUtility_hook = NULL;
object_access_hook_type object_access_hook = NULL;

int
GetDatabaseEncoding(void)
{
	return PG_UTF8;
}

char *
pg_server_to_any(const char *s, int len, int encoding)
{
	return (char *) s;
}

char *
pg_any_to_server(const char *s, int len, int encoding)
{
	return (char *) s;
}

Oid
FindDefaultConversionProc(int32 for_encoding, int32 to_encoding)
{
	return InvalidOid;
}

int
pg_do_encoding_conversion_buf(Oid proc, int src_encoding, int dest_encoding,
							  unsigned char *src, int srclen,
							  unsigned char *dst, int dstlen, bool noError)
{
	int			n = Min(srclen, dstlen - 1);

	memcpy(dst, src, n);
	dst[n] = '\0';
	return n;
}

/* all names here are ASCII */
int
pg_encoding_mbcliplen(int encoding, const char *mbstr, int len, int limit)
{
	return Min(len, limit);
}

int
pg_mbcliplen(const char *mbstr, int len, int limit)
{
	return Min(len, limit);
}

int
pg_encoding_mblen(int encoding, const char *mbstr)
{
	return 1;
}

int
pg_encoding_verifymbstr(int encoding, const char *mbstr, int len)
{
	return len;
}

text *
cstring_to_text(const char *s)
{
	size_t		len = strlen(s);
	text	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), s, len);
	return result;
}

char *
text_to_cstring(const text *t)
{
	return pnstrdup(VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
}

struct varlena *
pg_detoast_datum(struct varlena *datum)
{
	return datum;
}

struct varlena *
pg_detoast_datum_packed(struct varlena *datum)
{
	return datum;
}

bool
SplitGUCList(char *rawstring, char separator, List **namelist)
{
	*namelist = NIL;
	for (char *name = strtok(rawstring, ", "); name != NULL; name = strtok(NULL, ", "))
		*namelist = lappend(*namelist, name);
	return true;
}

/* ---- who we are ---- */

Oid
GetUserId(void)
{
	return 10;
}

Oid
GetSessionUserId(void)
{
	return 10;
}

char *
GetUserNameFromId(Oid roleid, bool noerr)
{
	return pstrdup("postgres");
}

char *
get_database_name(Oid dbid)
{
	return pstrdup("db");
}

bool
superuser(void)
{
	return true;
}

bool
has_privs_of_role(Oid member, Oid role)
{
	return true;
}

Oid
get_role_oid(const char *rolname, bool missing_ok)
{
	return 10;
}

bool
InSecurityRestrictedOperation(void)
{
	return false;
}

bool
IsAutoVacuumWorkerProcess(void)
{
	return false;
}

/* Of the function that is being called. */
Oid
get_func_signature(Oid funcid, Oid **argtypes, int *nargs)
{
	*argtypes = palloc(sizeof(pg_call_types));
	memcpy(*argtypes, pg_call_types, sizeof(pg_call_types));
	*nargs = pg_call_nargs;
	return INT8OID;
}

Datum
DirectFunctionCall1Coll(PGFunction func, Oid collation, Datum arg1)
{
	LOCAL_FCINFO(fcinfo, 1);

	InitFunctionCallInfoData(*fcinfo, NULL, 1, collation, NULL, NULL);
	fcinfo->args[0].value = arg1;
	fcinfo->args[0].isnull = false;
	return func(fcinfo);
}

/*
 * Waits that are texts, and fences in tables, are not used here.
 */
#define NOT_HERE(name) \
	Datum name(PG_FUNCTION_ARGS) { elog(ERROR, #name " is not simulated"); }

NOT_HERE(pg_advisory_unlock_all)
NOT_HERE(pg_advisory_unlock_int4)
NOT_HERE(pg_advisory_unlock_int8)
NOT_HERE(pg_advisory_unlock_shared_int4)
NOT_HERE(pg_advisory_unlock_shared_int8)
NOT_HERE(interval_in)

Datum
int8in(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(strtoll(PG_GETARG_CSTRING(0), NULL, 10));
}

int32
pg_strtoint32(const char *s)
{
	return atoi(s);
}

Datum
DirectFunctionCall3Coll(PGFunction func, Oid collation, Datum arg1, Datum arg2, Datum arg3)
{
	elog(ERROR, "not simulated");
}

int
SPI_connect(void)
{
	elog(ERROR, "queries are not simulated");
}

int
SPI_execute_with_args(const char *src, int nargs, Oid *argtypes, Datum *Values,
					  const char *Nulls, bool read_only, long tcount)
{
	return -1;
}

Datum
SPI_getbinval(HeapTuple tuple, TupleDesc tupdesc, int fnumber, bool *isnull)
{
	return 0;
}

uint64		SPI_processed = 0;
SPITupleTable *SPI_tuptable = NULL;

Oid
get_func_namespace(Oid funcid)
{
	return InvalidOid;
}

char *
get_namespace_name(Oid nspid)
{
	return pstrdup("public");
}

char *
quote_literal_cstr(const char *rawstr)
{
	return psprintf("'%s'", rawstr);
}

char *
quote_qualified_identifier(const char *qualifier, const char *ident)
{
	return psprintf("%s.%s", qualifier, ident);
}

/* ---- time ---- */

int
timestamp2tm(Timestamp dt, int *tzp, struct pg_tm *tm, fsec_t *fsec, const char **tzn,
			 pg_tz *attimezone)
{
	time_t		seconds = dt / 1000000 +
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;
	struct tm	utc;

	gmtime_r(&seconds, &utc);
	tm->tm_year = utc.tm_year + 1900;
	tm->tm_mon = utc.tm_mon + 1;
	tm->tm_mday = utc.tm_mday;
	tm->tm_hour = utc.tm_hour;
	tm->tm_min = utc.tm_min;
	tm->tm_sec = utc.tm_sec;
	*fsec = dt % 1000000;
	return 0;
}

LogStmtLevel
GetCommandLogLevel(Node *parsetree)
{
	return LOGSTMT_ALL;
}

int
pg_get_client_encoding(void)
{
	return PG_UTF8;
}

/* Arrays of names and of tokens, which nobody else looks into. */
typedef struct Array
{
	int32		header;
	int			n;
	Datum		elements[FLEXIBLE_ARRAY_MEMBER];
} Array;

void
deconstruct_array(ArrayType *array, Oid elmtype, int elmlen, bool elmbyval, char elmalign,
				  Datum **elemsp, bool **nullsp, int *nelemsp)
{
	Array	   *from = (Array *) array;

	*nelemsp = from->n;
	*elemsp = palloc(Max(from->n, 1) * sizeof(Datum));
	memcpy(*elemsp, from->elements, from->n * sizeof(Datum));
	*nullsp = palloc0(Max(from->n, 1));
}

ArrayType *
construct_array(Datum *elems, int nelems, Oid elmtype, int elmlen, bool elmbyval, char elmalign)
{
	size_t		size = offsetof(Array, elements) + nelems * sizeof(Datum);
	Array	   *result = palloc0(size);

	SET_VARSIZE(result, size);
	result->n = nelems;
	memcpy(result->elements, elems, nelems * sizeof(Datum));
	return (ArrayType *) result;
}
