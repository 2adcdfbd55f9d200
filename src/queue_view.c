/*-------------------------------------------------------------------------
 *
 * queue_view.c
 *	  etcd_lock_queue(): who holds and who waits, on all servers.
 *
 * The keys come from etcd in the order of their bytes (queue_pages.c).  They
 * are gathered, and those of each lock put into the order of its queue.
 *
 * One row is one key: of several sessions of a server that share a key, or wait
 * for it, one is shown.  Who it is, is what etcd knows, but for this server's
 * own keys: there the shared table knows better.
 *
 *-------------------------------------------------------------------------
 */
#include "lock_table.h"

#include "catalog/pg_authid.h"
#include "etcd_holder.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "queue_pages.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_queue);

/* So much is read and shown at most. */
#define MAX_SCANNED		200000
#define MAX_KEYS		10000

#define NCOLUMNS		15

typedef struct SeenKey
{
	QueuePageKey page;
	char	   *key;			/* what is shown of it, NUL behind it */
	EtcdHolder *holder;			/* NULL: nothing is known */
	QueuePlace	place;
} SeenKey;

/* A listing under way. */
typedef struct Listing
{
	ReturnSetInfo *rsinfo;
	const char *ns;				/* namespace, UTF-8 */
	size_t		ns_len;
	const char *only;			/* the lock asked for, or NULL: all */
	const char *integer;		/* what this database's integer keys begin with */
	SeenKey    *keys;
	int			nkeys;
	int			max_keys;
	bool		cut;			/* there are more */
} Listing;

/* ----------------------------------------------------------------
 *		Gathering
 * ----------------------------------------------------------------
 */

/* The end of the range of keys that begin so; empty: there is none. */
static char *
prefix_end(const char *prefix)
{
	char	   *end = pstrdup(prefix);
	size_t		len = strlen(end);

	while (len > 0 && (unsigned char) end[len - 1] == 0xff)
		len--;
	end[len] = '\0';
	if (len > 0)
		end[len - 1]++;
	return end;
}

static void
add_key(Listing *listing, const QueuePageKey *page, const char *key,
		const char *value)
{
	SeenKey    *seen;

	if (listing->nkeys == listing->max_keys)
	{
		listing->max_keys = Max(64, listing->max_keys * 2);
		listing->keys = listing->keys == NULL ?
			palloc_extended(listing->max_keys * sizeof(SeenKey), MCXT_ALLOC_HUGE) :
			repalloc_huge(listing->keys, listing->max_keys * sizeof(SeenKey));
	}
	seen = &listing->keys[listing->nkeys++];
	seen->page = *page;
	seen->place.position = 0;
	seen->key = palloc(page->shown_len + 1);
	memcpy(seen->key, key, page->shown_len);
	seen->key[page->shown_len] = '\0';
	seen->holder = NULL;
	if (page->value_len > 0)
	{
		seen->holder = palloc(sizeof(EtcdHolder));
		if (!etcd_holder_decode(value, page->value_len, seen->holder))
		{
			pfree(seen->holder);
			seen->holder = NULL;
		}
	}
}

static void
gather(Listing *listing, QueueReader *reader)
{
	const QueuePageKey *page;
	const char *key;
	const char *value;

	while (queue_reader_next_page(reader))
	{
		while ((page = queue_reader_next_key(reader, &key, &value)) != NULL)
			add_key(listing, page, key, value);
		if ((listing->nkeys > MAX_KEYS ||
			 queue_reader_scanned(reader) > MAX_SCANNED) &&
			!queue_reader_at_end(reader))
		{
			listing->cut = true;
			return;
		}
	}
}

static void
read_keys(Listing *listing, const char *start, const char *end)
{
	QueueReader *reader = queue_reader_open(start, end, listing->ns);

	PG_TRY();
	{
		gather(listing, reader);
	}
	PG_FINALLY();
	{
		queue_reader_close(reader);
	}
	PG_END_TRY();
}

/* ----------------------------------------------------------------
 *		Rows
 * ----------------------------------------------------------------
 */

static void
set_text(Datum *value, bool *null, const char *utf8)
{
	*null = utf8[0] == '\0';
	if (!*null)
		*value = CStringGetTextDatum(lock_text_for_user(utf8, strlen(utf8)));
}

/* The lock's name as users write it. */
static char *
shown_name(const Listing *listing, const char *key, size_t name_len)
{
	size_t		integer_len = strlen(listing->integer);

	key += listing->ns_len;
	name_len -= listing->ns_len;
	if (name_len > integer_len && memcmp(key, listing->integer, integer_len) == 0)
	{
		key += integer_len;
		name_len -= integer_len;
	}
	return lock_text_for_user(key, name_len);
}

/*
 * This server knows better than etcd who has one of its keys.  Nobody, when it
 * is about to be passed on or deleted.
 */
static void
ask_own_table(const SeenKey *seen, EtcdHolder *holder)
{
	char	   *name = pnstrdup(seen->key, seen->page.parts.name_len);
	LockHolder	own;

	if (!seen->page.parts.is_server ||
		seen->page.parts.lease != pg_atomic_read_u64(&lock_shared->lease) ||
		!lock_table_holder(name, seen->page.create_revision, &own))
		return;
	holder->has_session = own.somebody;
	holder->has_pid = own.somebody;
	holder->has_since = own.somebody;
	if (!own.somebody)
		return;
	holder->pid = own.pid;
	holder->since = own.since + UNIX_TO_POSTGRES;
	strlcpy(holder->database, own.who.database, ETCD_HOLDER_TEXT);
	strlcpy(holder->user, own.who.username, ETCD_HOLDER_TEXT);
	strlcpy(holder->application, own.who.application, ETCD_HOLDER_TEXT);
}

static void
put_row(const Listing *listing, const SeenKey *seen)
{
	const QueuePageKey *page = &seen->page;
	EtcdHolder	holder = {0};
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};
	char	   *key = lock_text_for_user(seen->key, page->shown_len);
	TimestampTz since;

	if (seen->holder != NULL)
		holder = *seen->holder;
	ask_own_table(seen, &holder);
	since = holder.since - UNIX_TO_POSTGRES;

	values[0] = CStringGetTextDatum(shown_name(listing, seen->key, page->parts.name_len));
	values[1] = Int32GetDatum(seen->place.position);
	values[2] = CStringGetTextDatum(page->parts.kind == QUEUE_KEY_READ ?
									"shared" : "exclusive");
	values[3] = BoolGetDatum(seen->place.granted);
	set_text(&values[4], &nulls[4], holder.server);
	set_text(&values[5], &nulls[5], holder.host);
	values[6] = Int32GetDatum(holder.port);
	nulls[6] = !holder.has_port;
	values[7] = Int32GetDatum(holder.pid);
	nulls[7] = !holder.has_pid;
	set_text(&values[8], &nulls[8], holder.has_session ? holder.database : "");
	set_text(&values[9], &nulls[9], holder.has_session ? holder.user : "");
	set_text(&values[10], &nulls[10], holder.has_session ? holder.application : "");
	values[11] = TimestampTzGetDatum(since);
	nulls[11] = !holder.has_since || !IS_VALID_TIMESTAMP(since);
	values[12] = CStringGetTextDatum(page->cut ? psprintf("%s...", key) : key);
	values[13] = CStringGetTextDatum(psprintf("%llx", (unsigned long long) page->lease));
	nulls[13] = page->lease == 0;
	values[14] = Int64GetDatum(page->create_revision);
	tuplestore_putvalues(listing->rsinfo->setResult, listing->rsinfo->setDesc,
						 values, nulls);
}

/* ----------------------------------------------------------------
 *		Locks
 * ----------------------------------------------------------------
 */

static bool
is_of_lock(const SeenKey *seen, const char *name, size_t name_len)
{
	return seen->page.parts.name_len == name_len &&
		memcmp(seen->key, name, name_len) == 0;
}

/* Is it a key of the lock, or of one with a deeper name? */
static bool
is_below(const SeenKey *seen, const char *name, size_t name_len)
{
	return seen->page.shown_len > name_len && seen->key[name_len] == '/' &&
		memcmp(seen->key, name, name_len) == 0;
}

static int
compare_revisions(const void *a, const void *b)
{
	const SeenKey *left = *(SeenKey *const *) a;
	const SeenKey *right = *(SeenKey *const *) b;

	if (left->page.create_revision != right->page.create_revision)
		return left->page.create_revision < right->page.create_revision ? -1 : 1;
	return left < right ? -1 : left > right;
}

/* Where each of these keys, which are all that begin with the name, stands. */
static void
find_places(SeenKey **order, int n, const char *name, size_t name_len)
{
	QueueView	view = {.name = name, .name_len = name_len};
	QueueKey   *keys = palloc_extended(n * sizeof(QueueKey), MCXT_ALLOC_HUGE);
	QueuePlace *places = palloc_extended(n * sizeof(QueuePlace), MCXT_ALLOC_HUGE);

	for (int i = 0; i < n; i++)
	{
		keys[i].key = order[i]->key;
		keys[i].key_len = order[i]->page.shown_len;
		keys[i].create_revision = order[i]->page.create_revision;
	}
	view.keys = keys;
	view.nkeys = n;
	queue_places(&view, places);
	for (int i = 0; i < n; i++)
	{
		if (is_of_lock(order[i], name, name_len))
			order[i]->place = places[i];
	}
	pfree(keys);
	pfree(places);
}

/*
 * Is it a lock at all?  Somebody's settings may look like one; but no client
 * takes a lock without a lease.
 */
static bool
is_lock(SeenKey **order, int n, const char *name, size_t name_len)
{
	for (int i = 0; i < n; i++)
	{
		if (is_of_lock(order[i], name, name_len) && order[i]->page.lease != 0)
			return true;
	}
	return false;
}

/*
 * The lock that this key belongs to.  All keys that begin with its name stand
 * together, those of deeper names among them.
 */
static void
show_lock(Listing *listing, int first)
{
	const SeenKey *seen = &listing->keys[first];
	size_t		name_len = seen->page.parts.name_len;
	const char *name = seen->key;
	int			begin = first;
	int			end = first;
	SeenKey   **order;

	while (begin > 0 && is_below(&listing->keys[begin - 1], name, name_len))
		begin--;
	while (end < listing->nkeys && is_below(&listing->keys[end], name, name_len))
		end++;
	order = palloc_extended((end - begin) * sizeof(SeenKey *), MCXT_ALLOC_HUGE);
	for (int i = begin; i < end; i++)
		order[i - begin] = &listing->keys[i];
	qsort(order, end - begin, sizeof(SeenKey *), compare_revisions);
	find_places(order, end - begin, name, name_len);

	/*
	 * Nothing can be said of a lock whose keys were not all read, which is
	 * when the last one that was begins with its name.
	 */
	if (!(listing->cut && end == listing->nkeys) &&
		(listing->only != NULL || is_lock(order, end - begin, name, name_len)))
	{
		for (int i = 0; i < end - begin; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (is_of_lock(order[i], name, name_len))
				put_row(listing, order[i]);
		}
	}
	pfree(order);
}

static void
show_locks(Listing *listing)
{
	for (int i = 0; i < listing->nkeys; i++)
	{
		SeenKey    *seen = &listing->keys[i];

		if (seen->place.position == 0 &&
			(listing->only == NULL ||
			 is_of_lock(seen, listing->only, strlen(listing->only))))
			show_lock(listing, i);
	}
}

/* ----------------------------------------------------------------
 *		SQL
 * ----------------------------------------------------------------
 */

/*
 * A grant of all of the extension's functions, as for a role that locks, must
 * not open what other tenants do.
 */
static void
require_monitor(void)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_MONITOR))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to see the queue of etcd locks"),
				 errdetail("Only roles with privileges of the \"%s\" role may see it.",
						   "pg_monitor")));
}

Datum
etcd_lock_sql_queue(PG_FUNCTION_ARGS)
{
	Listing		listing = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	LockName	name;

	lock_require_preload();
	require_monitor();
	InitMaterializedSRF(fcinfo, 0);
	listing.ns = pg_server_to_any(etcd_lock_namespace,
								  strlen(etcd_lock_namespace), PG_UTF8);
	listing.ns_len = strlen(listing.ns);
	listing.integer = lock_name_integer_prefix();
	if (PG_NARGS() > 0)
	{
		lock_name_from_shown(&name, PG_GETARG_TEXT_PP(0));
		listing.only = name.key;
		read_keys(&listing, psprintf("%s/", name.key),
				  psprintf("%s%c", name.key, '/' + 1));
		if (listing.cut)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("there are too many keys below \"%s\" in etcd",
							name.key),
					 errdetail("At most %d keys of locks and %d keys in all are read.",
							   MAX_KEYS, MAX_SCANNED)));
	}
	else
	{
		read_keys(&listing, listing.ns, prefix_end(listing.ns));
		if (listing.cut)
			ereport(WARNING,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("not all etcd locks are shown"),
					 errdetail("At most %d keys of locks and %d keys in all are read.",
							   MAX_KEYS, MAX_SCANNED),
					 errhint("Ask for one lock by its name, or set \"%s\".",
							 "etcd_lock.namespace")));
	}
	show_locks(&listing);
	return (Datum) 0;
}
