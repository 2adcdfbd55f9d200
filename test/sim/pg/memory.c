/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  Memory contexts, and what is built on palloc(): texts, lists.
 *
 * A context is a list of pieces from malloc().  All of a process is freed at
 * once when it has ended.
 *
 *-------------------------------------------------------------------------
 */
#include "pg.h"

#include "lib/stringinfo.h"
#include "nodes/memnodes.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

typedef struct Chunk
{
	struct Chunk *next;
	struct Chunk *prev;
	struct Context *context;
	size_t		size;
} Chunk;

typedef struct Context
{
	MemoryContextData base;
	Chunk		chunks;			/* head of a ring */
	struct Context *next_sibling;
	struct Context *first_child;
	struct Context *parent;
} Context;

MemoryContext CurrentMemoryContext = NULL;
MemoryContext TopMemoryContext = NULL;
MemoryContext ErrorContext = NULL;
MemoryContext MessageContext = NULL;
MemoryContext TopTransactionContext = NULL;
MemoryContext CurTransactionContext = NULL;

static Context *top = NULL;
static size_t in_use = 0;

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name,
							  Size minContextSize, Size initBlockSize, Size maxBlockSize)
{
	Context    *context = calloc(1, sizeof(Context));

	context->base.type = T_AllocSetContext;
	context->base.name = name;
	context->chunks.next = context->chunks.prev = &context->chunks;
	context->parent = (Context *) parent;
	if (parent != NULL)
	{
		context->next_sibling = context->parent->first_child;
		context->parent->first_child = context;
	}
	return &context->base;
}

/* Chunks of one size. */
MemoryContext
SlabContextCreate(MemoryContext parent, const char *name, Size blockSize, Size chunkSize)
{
	return AllocSetContextCreateInternal(parent, name, 0, 0, 0);
}

void
pg_memory_init(void)
{
	TopMemoryContext = AllocSetContextCreateInternal(NULL, "TopMemoryContext", 0, 0, 0);
	top = (Context *) TopMemoryContext;
	ErrorContext = AllocSetContextCreateInternal(TopMemoryContext, "ErrorContext", 0, 0, 0);
	MessageContext = AllocSetContextCreateInternal(TopMemoryContext, "MessageContext", 0, 0, 0);
	TopTransactionContext = AllocSetContextCreateInternal(TopMemoryContext, "TopTransactionContext", 0, 0, 0);
	CurTransactionContext = TopTransactionContext;
	CurrentMemoryContext = TopMemoryContext;
}

static void
free_chunk(Chunk *chunk)
{
	chunk->prev->next = chunk->next;
	chunk->next->prev = chunk->prev;
	in_use -= chunk->size;
	free(chunk);
}

static void
delete_children(Context *context)
{
	while (context->first_child != NULL)
		MemoryContextDelete(&context->first_child->base);
}

void
MemoryContextReset(MemoryContext c)
{
	Context    *context = (Context *) c;

	delete_children(context);
	while (context->chunks.next != &context->chunks)
		free_chunk(context->chunks.next);
}

void
MemoryContextDelete(MemoryContext c)
{
	Context    *context = (Context *) c;

	MemoryContextReset(c);
	if (context->parent != NULL)
	{
		Context   **link = &context->parent->first_child;

		while (*link != context)
			link = &(*link)->next_sibling;
		*link = context->next_sibling;
	}
	free(context);
}

void
pg_free_memory(void)
{
	if (top != NULL)
		MemoryContextDelete(&top->base);
	top = NULL;
}

size_t
pg_memory(void)
{
	return in_use;
}

/* Only the worker runs out of memory: the error ends it, wherever it is. */
static void *
allocate(MemoryContext c, Size size, bool zero)
{
	Context    *context = (Context *) c;
	Chunk	   *chunk;

	if (pg_is_past_commit())
		sim_wrong("an allocation past the commit, which may fail");
	if (sim_should_fail("memory"))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	chunk = malloc(sizeof(Chunk) + size);
	chunk->context = context;
	chunk->size = size;
	chunk->next = &context->chunks;
	chunk->prev = context->chunks.prev;
	chunk->prev->next = chunk;
	context->chunks.prev = chunk;
	in_use += size;

	/* what was not set is not to be relied upon */
	memset(chunk + 1, zero ? 0 : 0x7F, size);
	return chunk + 1;
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return allocate(context, size, false);
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return allocate(context, size, true);
}

void *
MemoryContextAllocZeroAligned(MemoryContext context, Size size)
{
	return allocate(context, size, true);
}

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	return allocate(context, size, (flags & MCXT_ALLOC_ZERO) != 0);
}

void *
palloc(Size size)
{
	return allocate(CurrentMemoryContext, size, false);
}

void *
palloc0(Size size)
{
	return allocate(CurrentMemoryContext, size, true);
}

void *
palloc_extended(Size size, int flags)
{
	return allocate(CurrentMemoryContext, size, (flags & MCXT_ALLOC_ZERO) != 0);
}

void
pfree(void *pointer)
{
	free_chunk((Chunk *) pointer - 1);
}

void *
repalloc(void *pointer, Size size)
{
	Chunk	   *chunk = (Chunk *) pointer - 1;
	void	   *copy = allocate(&chunk->context->base, size, false);

	memcpy(copy, pointer, Min(chunk->size, size));
	free_chunk(chunk);
	return copy;
}

void *
repalloc_huge(void *pointer, Size size)
{
	return repalloc(pointer, size);
}

char *
MemoryContextStrdup(MemoryContext context, const char *string)
{
	size_t		size = strlen(string) + 1;

	return memcpy(MemoryContextAlloc(context, size), string, size);
}

char *
pstrdup(const char *in)
{
	return MemoryContextStrdup(CurrentMemoryContext, in);
}

char *
pnstrdup(const char *in, Size len)
{
	char	   *out;

	len = strnlen(in, len);
	out = palloc(len + 1);
	memcpy(out, in, len);
	out[len] = '\0';
	return out;
}

static char *
format_text(const char *fmt, va_list args)
{
	va_list		again;
	int			n;
	char	   *text;

	va_copy(again, args);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	text = palloc(n + 1);
	vsnprintf(text, n + 1, fmt, args);
	return text;
}

char *
psprintf(const char *fmt,...)
{
	va_list		args;
	char	   *text;

	va_start(args, fmt);
	text = format_text(fmt, args);
	va_end(args);
	return text;
}

/* ---- StringInfo ---- */

void
initStringInfo(StringInfo str)
{
	str->maxlen = 64;
	str->data = palloc(str->maxlen);
	str->data[0] = '\0';
	str->len = 0;
	str->cursor = 0;
}

void
resetStringInfo(StringInfo str)
{
	str->data[0] = '\0';
	str->len = 0;
	str->cursor = 0;
}

void
appendBinaryStringInfo(StringInfo str, const char *data, int datalen)
{
	if (str->len + datalen + 1 > str->maxlen)
	{
		str->maxlen = 2 * (str->len + datalen + 1);
		str->data = repalloc(str->data, str->maxlen);
	}
	memcpy(str->data + str->len, data, datalen);
	str->len += datalen;
	str->data[str->len] = '\0';
}

void
appendStringInfoString(StringInfo str, const char *s)
{
	appendBinaryStringInfo(str, s, strlen(s));
}

void
appendStringInfoChar(StringInfo str, char ch)
{
	appendBinaryStringInfo(str, &ch, 1);
}

void
appendStringInfo(StringInfo str, const char *fmt,...)
{
	va_list		args;
	char	   *text;

	va_start(args, fmt);
	text = format_text(fmt, args);
	va_end(args);
	appendStringInfoString(str, text);
	pfree(text);
}

/* ---- lists ---- */

static List *
new_list(NodeTag type, int max)
{
	List	   *list = palloc0(sizeof(List));

	list->type = type;
	list->max_length = max;
	list->elements = palloc0(max * sizeof(ListCell));
	return list;
}

List *
list_make1_impl(NodeTag t, ListCell datum1)
{
	List	   *list = new_list(t, 8);

	list->elements[0] = datum1;
	list->length = 1;
	return list;
}

static List *
append_cell(List *list, NodeTag type, ListCell cell)
{
	if (list == NIL)
		return list_make1_impl(type, cell);
	if (list->length == list->max_length)
	{
		list->max_length *= 2;
		list->elements = repalloc(list->elements, list->max_length * sizeof(ListCell));
	}
	list->elements[list->length++] = cell;
	return list;
}

List *
lappend(List *list, void *datum)
{
	ListCell	cell = {.ptr_value = datum};

	return append_cell(list, T_List, cell);
}

bool
list_member_int(const List *list, int datum)
{
	for (int i = 0; i < list_length(list); i++)
	{
		if (list->elements[i].int_value == datum)
			return true;
	}
	return false;
}

List *
lappend_int(List *list, int datum)
{
	ListCell	cell = {.int_value = datum};

	return append_cell(list, T_IntList, cell);
}

List *
list_append_unique_int(List *list, int datum)
{
	return list_member_int(list, datum) ? list : lappend_int(list, datum);
}

void
list_free(List *list)
{
	if (list == NIL)
		return;
	pfree(list->elements);
	pfree(list);
}
