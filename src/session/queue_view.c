/*-------------------------------------------------------------------------
 *
 * queue_view.c
 *	  etcd_lock_queue(): who holds and who waits, on all servers.
 *
 * The keys come from etcd in the order of their bytes (queue_pages.c).  We
 * collect them, and sort those of each lock into the order of its queue.
 *
 * Each row is one key: of several sessions of a server that share a key, or
 * wait for it, one is shown.  Etcd knows which one, but for this server's own
 * keys, the shared table knows better.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "etcd/etcd_holder.h"
#include "etcd/key_layout.h"
#include "etcd/queue.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "session/lock_sql.h"
#include "session/queue_reader.h"
#include "session/view_row.h"
#include "shared/lock_holds.h"
#include "shared/lock_keys.h"
#include "shared/lock_name.h"
#include "shared/lock_table.h"
#include "shared/lock_text.h"
#include "shared/queue_slots.h"
#include "shared/settings.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(etcd_lock_sql_queue);

/* At most this many keys are read and shown. */
#define MAX_SCANNED		200000
#define MAX_KEYS		10000

enum
{
	QUEUE_NAME,
	QUEUE_POSITION,
	QUEUE_MODE,
	QUEUE_GRANTED_NOW,
	QUEUE_KEPT,
	QUEUE_SERVER,
	QUEUE_HOST,
	QUEUE_PORT,
	QUEUE_PID,
	QUEUE_DATNAME,
	QUEUE_USENAME,
	QUEUE_APPLICATION_NAME,
	QUEUE_SINCE,
	QUEUE_KEY,
	QUEUE_LEASE,
	QUEUE_CREATE_REVISION
};

static const ViewColumn queue_columns[] = {
	{"name"}, {"position"}, {"mode"}, {"granted"}, {"kept"}, {"server"}, {"host"}, {"port"},
	{"pid"}, {"datname", "database"}, {"usename", "username"}, {"application_name"},
	{"since"}, {"key"}, {"lease"}, {"create_revision"}
};

typedef struct SeenKey
{
	QueuePageKey page;
	char	   *key;			/* the part to show, NUL-terminated */
	EtcdHolder *holder;			/* NULL: nothing is known */
	QueuePlace	place;
} SeenKey;

/* A listing in progress. */
typedef struct Listing
{
	ReturnSetInfo *rsinfo;
	ViewRow		row;
	const char *ns;				/* namespace, UTF-8 */
	size_t		ns_len;
	const char *only;			/* the lock asked for, or NULL: all */
	const char *integer;		/* prefix of this database's integer keys */
	SeenKey    *keys;
	int			nkeys;
	int			max_keys;
	bool		cut;			/* there are more */
} Listing;

/* ----------------------------------------------------------------
 *		Gathering
 * ----------------------------------------------------------------
 */

static void
add_key(Listing *listing, const QueuePageKey *page, const char *key,
		const char *value)
{
	SeenKey    *seen;

	/* "tenant/write/1-1" is a key of the lock "tenant", outside "tenant/" */
	if (page->parts.name_len <= listing->ns_len)
		return;
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
set_text(ViewRow *row, int column, const char *utf8)
{
	row->nulls[column] = utf8[0] == '\0';
	if (!row->nulls[column])
		row->values[column] = CStringGetTextDatum(lock_text_for_user(utf8, strlen(utf8)));
}

/* The lock's name as users write it. */
static char *
shown_name(const Listing *listing, const char *key, size_t name_len)
{
	const char *name = key + listing->ns_len;
	size_t		len = name_len - listing->ns_len;
	size_t		at = key_layout_written_part(name, len, listing->integer);

	return lock_text_for_user(name + at, len - at);
}

/*
 * This server knows better than etcd who has one of its keys.  If the key is
 * about to be passed on or deleted, nobody has it.
 */
static void
ask_own_table(const SeenKey *seen, EtcdHolder *holder)
{
	char	   *name = pnstrdup(seen->key, seen->page.parts.name_len);
	LockHolder	own;

	if (!seen->page.parts.is_server ||
		seen->page.parts.lease != pg_atomic_read_u64(&lock_shared->lease) ||
		!lock_hold_on_key(name, seen->page.create_revision, &own))
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

/*
 * The mode, from the key's name; but a key without a lease is not a lock, no
 * matter who put it or what waits for it.
 */
static const char *
mode_of(const QueuePageKey *page)
{
	if (page->lease == 0)
		return "no lock";
	return page->parts.kind == QUEUE_KEY_READ ? "shared" : "exclusive";
}

static void
put_row(Listing *listing, const SeenKey *seen)
{
	const QueuePageKey *page = &seen->page;
	ViewRow    *row = &listing->row;
	EtcdHolder	holder = {0};
	char	   *key = lock_text_for_user(seen->key, page->shown_len);
	TimestampTz since;
	Datum		values[VIEW_MAX_COLUMNS];
	bool		nulls[VIEW_MAX_COLUMNS];

	if (seen->holder != NULL)
		holder = *seen->holder;
	ask_own_table(seen, &holder);
	since = holder.since - UNIX_TO_POSTGRES;

	row->values[QUEUE_NAME] =
		CStringGetTextDatum(shown_name(listing, seen->key, page->parts.name_len));
	row->values[QUEUE_POSITION] = Int32GetDatum(seen->place.position);
	row->values[QUEUE_MODE] = CStringGetTextDatum(mode_of(page));
	row->values[QUEUE_GRANTED_NOW] = BoolGetDatum(seen->place.granted && page->lease != 0);
	row->values[QUEUE_KEPT] = BoolGetDatum(page->parts.keep > 0);
	set_text(row, QUEUE_SERVER, holder.server);
	set_text(row, QUEUE_HOST, holder.host);
	row->values[QUEUE_PORT] = Int32GetDatum(holder.port);
	row->nulls[QUEUE_PORT] = !holder.has_port;
	row->values[QUEUE_PID] = Int32GetDatum(holder.pid);
	row->nulls[QUEUE_PID] = !holder.has_pid;
	set_text(row, QUEUE_DATNAME, holder.has_session ? holder.database : "");
	set_text(row, QUEUE_USENAME, holder.has_session ? holder.user : "");
	set_text(row, QUEUE_APPLICATION_NAME, holder.has_session ? holder.application : "");
	row->values[QUEUE_SINCE] = TimestampTzGetDatum(since);
	row->nulls[QUEUE_SINCE] = !holder.has_since || !IS_VALID_TIMESTAMP(since);
	row->values[QUEUE_KEY] = CStringGetTextDatum(page->cut ? psprintf("%s...", key) : key);
	row->values[QUEUE_LEASE] =
		CStringGetTextDatum(psprintf("%llx", (unsigned long long) page->lease));
	row->nulls[QUEUE_LEASE] = page->lease == 0;
	row->values[QUEUE_CREATE_REVISION] = Int64GetDatum(page->create_revision);
	view_row_arrange(row, values, nulls);
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

static bool
is_below(const SeenKey *seen, const char *name, size_t name_len)
{
	return key_layout_is_below(seen->key, seen->page.shown_len, name, name_len);
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

/* Find the places of these keys, which are all that begin with the name. */
static void
find_places(SeenKey **order, int n, const char *name, size_t name_len)
{
	QueueView	view = {.name = name,.name_len = name_len};
	QueueKey   *keys = palloc_extended(n * sizeof(QueueKey), MCXT_ALLOC_HUGE);
	QueuePlace *places = palloc_extended(n * sizeof(QueuePlace), MCXT_ALLOC_HUGE);

	for (int i = 0; i < n; i++)
	{
		keys[i].key = order[i]->key;
		keys[i].key_len = order[i]->page.shown_len;
		keys[i].create_revision = order[i]->page.create_revision;
		keys[i].no_lease = order[i]->page.lease == 0;
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
 * Is it a lock at all?  Other data may look like one, but no client takes a
 * lock without a lease.
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
 * Show the lock that this key belongs to.  All keys that begin with its name
 * are adjacent, including those of deeper names.
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
	 * Nothing is known about a lock whose keys were not all read, which is
	 * the case if the last key that was read begins with its name.
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
 * A grant of all of the extension's functions, such as for a role that locks,
 * must not reveal what other tenants do.
 */
static void
require_monitor(void)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_MONITOR))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to view the queue of etcd locks"),
				 errdetail("Only roles with privileges of the \"%s\" role may view it.",
						   "pg_monitor")));
}

Datum
etcd_lock_sql_queue(PG_FUNCTION_ARGS)
{
	Listing		listing = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	LockName	name;
	char		start[KEY_LAYOUT_SIZE];
	char		end[KEY_LAYOUT_SIZE];

	lock_table_require_preload();
	require_monitor();
	if (PG_NARGS() > 0)
		lock_sql_refuse_null(fcinfo, 0, _("name"));
	InitMaterializedSRF(fcinfo, 0);
	view_row_init(&listing.row, listing.rsinfo->setDesc, queue_columns,
				  lengthof(queue_columns));
	listing.ns = pg_server_to_any(etcd_lock_namespace,
								  strlen(etcd_lock_namespace), PG_UTF8);
	listing.ns_len = strlen(listing.ns);
	listing.integer = lock_name_integer_prefix();
	if (PG_NARGS() > 0)
	{
		lock_name_from_shown(&name, PG_GETARG_TEXT_PP(0));
		listing.only = name.key;
		key_layout_queue_start(start, name.key);
		key_layout_queue_end(end, name.key);
		read_keys(&listing, start, end);
		if (listing.cut)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("there are too many keys below \"%s\" in etcd",
							lock_name_for_message(&name)),
					 errdetail("At most %d keys of locks and %d keys in all are read.",
							   MAX_KEYS, MAX_SCANNED)));
	}
	else
	{
		(void) key_layout_namespace_end(end, listing.ns);
		read_keys(&listing, listing.ns, end);
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
