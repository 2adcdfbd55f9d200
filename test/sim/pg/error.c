/*-------------------------------------------------------------------------
 *
 * error.c
 *	  ereport(): errors by longjmp, warnings for the client, a log for the trace.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/memutils.h"

#define DEPTH		8
#define TEXT_SIZE	2048

typedef struct Frame
{
	ErrorData	data;
	char		message[TEXT_SIZE];
	char		detail[TEXT_SIZE];
	char		hint[TEXT_SIZE];
	char		context[TEXT_SIZE];
} Frame;

ErrorContextCallback *error_context_stack = NULL;
sigjmp_buf *PG_exception_stack = NULL;
SimResult  *pg_result = NULL;
emit_log_hook_type emit_log_hook = NULL;

static Frame frames[DEPTH];
static int	depth = -1;

static Frame *
current(void)
{
	if (depth < 0)
		sim_exit(99);
	return &frames[depth];
}

static Frame *
push(int elevel)
{
	Frame	   *frame;

	if (++depth >= DEPTH)
		sim_exit(99);			/* ERRORDATA_STACK_SIZE exceeded: PANIC */
	frame = &frames[depth];
	memset(frame, 0, sizeof(*frame));
	frame->data.elevel = elevel;
	frame->data.sqlerrcode = elevel >= ERROR ? ERRCODE_INTERNAL_ERROR :
		elevel >= WARNING ? ERRCODE_WARNING : ERRCODE_SUCCESSFUL_COMPLETION;
	frame->data.message = frame->message;
	frame->data.saved_errno = errno;
	return frame;
}

bool
errstart(int elevel, const char *domain)
{
	if (elevel >= ERROR && pg_is_past_commit())
		sim_wrong("an error past the commit, which is a PANIC");
	if (elevel >= ERROR)
	{
		if (CritSectionCount > 0)
			elevel = PANIC;
		if (elevel == ERROR &&
			(PG_exception_stack == NULL || proc_exit_inprogress))
			elevel = FATAL;
		for (int i = 0; i <= depth; i++)
			elevel = Max(elevel, frames[i].data.elevel);
	}
	else if (elevel < LOG)
		return false;			/* by log_min_messages and client_min_messages */
	(void) push(elevel);
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

static void
show(const Frame *frame)
{
	static const struct
	{
		int			level;
		const char *name;
	}			levels[] = {
		{PANIC, "PANIC"}, {FATAL, "FATAL"}, {ERROR, "ERROR"}, {WARNING, "WARNING"}, {LOG, "LOG"}
	};
	const char *name = "LOG";

	for (int i = lengthof(levels); --i >= 0;)
	{
		if (frame->data.elevel >= levels[i].level)
			name = levels[i].name;
	}
	sim_trace("%s %s: %s%s%s", name, unpack_sql_state(frame->data.sqlerrcode),
			  frame->message, frame->detail[0] != '\0' ? " / " : "", frame->detail);
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	Frame	   *frame = current();
	int			elevel = frame->data.elevel;

	for (ErrorContextCallback *c = error_context_stack; c != NULL; c = c->previous)
		c->callback(c->arg);
	frame->data.filename = filename;
	frame->data.lineno = lineno;

	/* An error may yet be caught; who reports it traces it. */
	if (elevel != ERROR)
		show(frame);
	if (elevel == ERROR)
	{
		InterruptHoldoffCount = 0;
		QueryCancelHoldoffCount = 0;
		CritSectionCount = 0;
		pg_re_throw();
	}
	if (elevel == WARNING && pg_result != NULL)
	{
		pg_result->nwarnings++;
		strlcpy(pg_result->warning, frame->message, SIM_TEXT);
		strlcpy(pg_result->warning_state, unpack_sql_state(frame->data.sqlerrcode), 6);
	}
	depth--;
	if (elevel == FATAL)
		proc_exit(1);
	if (elevel >= PANIC)
		sim_exit(99);

	/* As errfinish() does, so that a cancel in the middle of messages works. */
	CHECK_FOR_INTERRUPTS();
}

void
pg_re_throw(void)
{
	if (PG_exception_stack != NULL)
		siglongjmp(*PG_exception_stack, 1);
	show(current());
	proc_exit(1);
}

int
errcode(int sqlerrcode)
{
	current()->data.sqlerrcode = sqlerrcode;
	return 0;
}

#define FORMAT_INTO(field) \
	do { \
		va_list		args; \
		Frame	   *frame = current(); \
		errno = frame->data.saved_errno; \
		va_start(args, fmt); \
		vsnprintf(frame->field, TEXT_SIZE, fmt, args); \
		va_end(args); \
		frame->data.field = frame->field; \
	} while (0)

int
errmsg(const char *fmt,...)
{
	FORMAT_INTO(message);
	return 0;
}

int
errmsg_internal(const char *fmt,...)
{
	FORMAT_INTO(message);
	return 0;
}

int
errmsg_plural(const char *fmt_singular, const char *fmt_plural, unsigned long n,...)
{
	const char *fmt = n == 1 ? fmt_singular : fmt_plural;
	va_list		args;

	va_start(args, n);
	vsnprintf(current()->message, TEXT_SIZE, fmt, args);
	va_end(args);
	return 0;
}

int
errdetail(const char *fmt,...)
{
	FORMAT_INTO(detail);
	return 0;
}

int
errdetail_internal(const char *fmt,...)
{
	FORMAT_INTO(detail);
	return 0;
}

int
errdetail_log(const char *fmt,...)
{
	return 0;
}

int
errdetail_plural(const char *fmt_singular, const char *fmt_plural, unsigned long n,...)
{
	const char *fmt = n == 1 ? fmt_singular : fmt_plural;
	va_list		args;

	va_start(args, n);
	vsnprintf(current()->detail, TEXT_SIZE, fmt, args);
	va_end(args);
	return 0;
}

int
errhint(const char *fmt,...)
{
	FORMAT_INTO(hint);
	return 0;
}

int
errcontext_msg(const char *fmt,...)
{
	FORMAT_INTO(context);
	return 0;
}

int
set_errcontext_domain(const char *domain)
{
	return 0;
}

int
geterrcode(void)
{
	return current()->data.sqlerrcode;
}

ErrorData *
CopyErrorData(void)
{
	ErrorData  *copy = palloc(sizeof(ErrorData));
	Frame	   *frame = current();

	*copy = frame->data;
	copy->message = pstrdup(frame->message);
	copy->detail = frame->detail[0] != '\0' ? pstrdup(frame->detail) : NULL;
	copy->hint = frame->hint[0] != '\0' ? pstrdup(frame->hint) : NULL;
	copy->context = frame->context[0] != '\0' ? pstrdup(frame->context) : NULL;
	return copy;
}

void
FreeErrorData(ErrorData *edata)
{
	pfree(edata->message);
	if (edata->detail != NULL)
		pfree(edata->detail);
	if (edata->hint != NULL)
		pfree(edata->hint);
	if (edata->context != NULL)
		pfree(edata->context);
	pfree(edata);
}

void
FlushErrorState(void)
{
	depth = -1;
}

void
ReThrowError(ErrorData *edata)
{
	Frame	   *frame = push(ERROR);

	frame->data.sqlerrcode = edata->sqlerrcode;
	strlcpy(frame->message, edata->message, TEXT_SIZE);
	strlcpy(frame->detail, edata->detail != NULL ? edata->detail : "", TEXT_SIZE);
	strlcpy(frame->hint, edata->hint != NULL ? edata->hint : "", TEXT_SIZE);
	strlcpy(frame->context, edata->context != NULL ? edata->context : "", TEXT_SIZE);
	pg_re_throw();
}

char *
unpack_sql_state(int sql_state)
{
	static char buf[12];
	int			i;

	for (i = 0; i < 5; i++)
	{
		buf[i] = PGUNSIXBIT(sql_state);
		sql_state >>= 6;
	}
	buf[i] = '\0';
	return buf;
}

void
pg_error_to_result(SimResult *result)
{
	Frame	   *frame = current();

	show(frame);
	result->ok = false;
	strlcpy(result->sqlstate, unpack_sql_state(frame->data.sqlerrcode), 6);
	strlcpy(result->message, frame->message, SIM_TEXT);
}

void
pre_format_elog_string(int errnumber, const char *domain)
{
	errno = errnumber;
}

char *
format_elog_string(const char *fmt,...)
{
	return (char *) fmt;
}

int
errhidecontext(bool hide_ctx)
{
	return 0;
}

int
errhidestmt(bool hide_stmt)
{
	return 0;
}

bool
message_level_is_interesting(int elevel)
{
	return elevel >= LOG;
}

/* An assertion has failed. */
void
ExceptionalCondition(const char *conditionName, const char *errorType,
					 const char *fileName, int lineNumber)
{
	fprintf(stderr, "%s:%d: assertion failed: %s\n", fileName, lineNumber, conditionName);
	abort();
}
