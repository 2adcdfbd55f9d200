/*-------------------------------------------------------------------------
 *
 * lock_keep.c
 *	  Keys that no session uses: kept for a while, or deleted.
 *
 * A key stays for sessions here that are about to take it over, and that of a
 * hot name for the next one that asks here (README.md, "Hot names").  All
 * callers hold the entry's lock exclusively.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared/counters.h"
#include "shared/hot_names.h"
#include "shared/lock_keep.h"
#include "shared/lock_trace.h"

/*
 * How often keys are given up at most because the table is full, in
 * microseconds; and which part of the time that may take.
 */
#define ROOM_PAUSE			INT64CONST(5000)
#define ROOM_PART			20

static int64
handoff_window(void)
{
	return (int64) etcd_lock_handoff_window * 1000;
}

/*
 * Yes within its window, and as long as no other owner is in the queue, if a
 * watch shows when one comes.
 */
bool
lock_keep_may_pass(const LockKey *key, int64 now)
{
	return now < key->window_end || (key->keep > 0 && key->company == KEY_ALONE);
}

/*
 * The worker is to look at the key by then, and has to read its queue now and
 * then.  While the lock goes back and forth here, it is woken for that once in
 * a while, and not each time.
 */
static void
look_at(LockEntry *entry, LockKey *key, int64 now, int64 when)
{
	when = Min(when, now + LOCK_KEEP_LOOK_INTERVAL);
	if (key->look_at != 0 && key->look_at <= when)
		return;
	key->look_at = when;
	lock_table_push_work(entry);
}

/* The promise to the requester is fulfilled. */
void
lock_keep_taken(LockEntry *entry, LockKey *key)
{
	int64		now = clock_now();

	/*
	 * What counts is when it was asked for: otherwise, of servers that take
	 * turns, one that has to wait longer would get less each time.
	 */
	int64		asked = key->just_granted ? key->wanted_at : now;

	Assert(key->state == KEY_HELD);
	if (key->idle_since != 0 && !key->just_granted)
		counters_reused(entry->hashcode);
	key->just_granted = false;
	key->has_tick = false;
	key->idle_since = 0;
	hot_name_note_asked(entry->hashcode, asked);

	/*
	 * The worker reads the queue now and then while the key goes from hand to
	 * hand, in case the watch has stalled: sharers who come and go may never
	 * leave it idle.
	 */
	if (key->keep > 0 && key->company == KEY_ALONE)
		look_at(entry, key, now, now + (int64) key->keep * 1000);
}

/*
 * Returns until when to keep a held key that no session uses; on clock_now().
 */
static int64
keep_until(LockEntry *entry, const LockKey *key, int64 now)
{
	bool		alone = key->keep > 0 && key->company == KEY_ALONE;
	int64		end = alone ? PG_INT64_MAX : key->window_end;

	/* both settings may have been changed since the key was put */
	int64		keep = (int64) Min(key->keep, etcd_lock_keep_window) * 1000;

	/* for sessions here that are about to take it over */
	if (lock_table_has_waiters(entry))
		return Min(end, now + Max(handoff_window(), alone ? keep : 0));
	if (keep == 0)
		return 0;

	/*
	 * while others wait, only for so long as it takes sessions here to come
	 * back
	 */
	if (key->company == KEY_OTHERS_WAIT)
		return Min(end, key->idle_since + hot_name_gap(entry->hashcode));
	return Min(end, key->idle_since + keep);
}

/*
 * No session needs the key, which is held: is it to stay for a while?  The worker
 * looks at it again when that is over.
 */
static bool
keep(LockEntry *entry, LockKey *key, int64 now)
{
	if (key->idle_since == 0)
	{
		hot_name_note_released(entry->hashcode, now);
		if (!lock_table_has_waiters(entry))
			key->idle_since = now;
		if (key->keep > 0)
			lock_key_holder_changed(entry, key);
	}
	key->kept_until = keep_until(entry, key, now);
	if (now >= key->kept_until)
		return false;
	lock_trace_key(LOCK_TRACE_KEY_KEPT, entry, key, (key->kept_until - now) / 1000);
	look_at(entry, key, now, key->kept_until);
	return true;
}

/* Returns how many were marked deleting, and which. */
int
lock_keep_settle(LockEntry *entry, LockReleasedKey *released)
{
	int			n = 0;

	for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
	{
		LockKey    *key = &entry->keys[i];

		if (!key_machine_is_live(key->state) || lock_key_needed(entry, key))
			continue;
		if (lock_key_held_valid(key) && keep(entry, key, clock_now()))
			continue;
		if (released != NULL && key->state == KEY_HELD)
		{
			released[n].key = key;
			released[n].key_id = lock_key_id(key);
			n++;
			key->release_waiter = compat_my_procno();
		}
		lock_key_mark_deleting(entry, key);
	}
	return n;
}

bool
lock_keep_end_idle(bool *in_use)
{
	HASH_SEQ_STATUS status;
	LockEntry  *entry;
	bool		found = false;

	*in_use = false;
	lock_table_lock_all(LW_EXCLUSIVE);
	hash_seq_init(&status, lock_table_hash());
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (lock_table_in_use(entry))
		{
			*in_use = true;
			continue;
		}
		found = true;
		for (int i = 0; i < LOCK_KEYS_PER_NAME; i++)
		{
			if (key_machine_is_live(entry->keys[i].state))
				lock_key_mark_deleting(entry, &entry->keys[i]);
		}
	}
	lock_table_unlock_all();
	return found;
}

/*
 * Such a step goes through the whole table while nobody else can use it, and a
 * session whose call has failed may call again at once.  So all of them
 * together may take only a part of the time, and those that come in between
 * get the last result.
 */
bool
lock_keep_make_room(void)
{
	int64		now = clock_now();
	uint64		next = pg_atomic_read_u64(&lock_shared->room_next);
	bool		in_use;
	bool		found;

	if (now < (int64) next ||
		!pg_atomic_compare_exchange_u64(&lock_shared->room_next, &next,
										(uint64) (now + ROOM_PAUSE)))
		return pg_atomic_read_u32(&lock_shared->room_expected) != 0;
	found = lock_keep_end_idle(&in_use);
	pg_atomic_write_u32(&lock_shared->room_expected, found ? 1 : 0);
	pg_atomic_write_u64(&lock_shared->room_next, (uint64)
						(now + Max(ROOM_PAUSE, ROOM_PART * (clock_now() - now))));
	return found;
}

/* It is time to check whether the key is still used. */
void
lock_keep_look(LockEntry *entry, LockKey *key, int64 now)
{
	Assert(key->state == KEY_HELD);
	key->look_at = 0;
	if (lock_key_needed(entry, key))
		return;
	if (now < key->kept_until)
		key->look_at = Min(key->kept_until, now + LOCK_KEEP_LOOK_INTERVAL);
	else
	{
		if (key->company == KEY_OTHERS_WAIT)
			counters_given_up(entry->hashcode);
		lock_key_mark_deleting(entry, key);
	}
}

/*
 * Record what a watch and a read of the queue have shown about other owners.
 * Once there is one, an idle key goes at once, and one in use within the
 * handoff window.
 */
void
lock_keep_set_company(LockEntry *entry, LockKey *key, KeyCompany company)
{
	int64		now = clock_now();

	if (key->state != KEY_HELD || key->keep == 0 || key->company == company)
		return;
	if (key->company == KEY_ALONE)
		key->window_end = now + handoff_window();
	key->company = company;
	if (company == KEY_ALONE || lock_key_needed(entry, key))
		return;
	if (company == KEY_OTHERS_WAIT && !lock_table_has_waiters(entry))
	{
		counters_given_up(entry->hashcode);
		lock_key_mark_deleting(entry, key);
		return;
	}
	key->kept_until = Min(key->kept_until, key->window_end);
	key->look_at = key->kept_until;
	lock_table_push_work(entry);
}
