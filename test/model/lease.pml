/*
 * lease.pml
 *	  Time: nobody believes longer than etcd keeps the lease.
 *
 * The model of src/worker/lease.c, deadline.c and of the worker's end in worker.c.
 * One server, a session that holds a lock, and an etcd whose leader can be
 * deposed without noticing it.  Time goes by in ticks, without an end, and is
 * kept as what is left or has passed.  Requests and answers take as long as
 * they like.
 *
 * Checked: what a session does within GAP ticks after it has found its hold
 * valid is done while the lease on which the hold hangs lives in etcd.
 *
 * Macros of a configuration, with their defaults:
 *
 *	TTL 4, MARGIN 1, GAP 1	ticks
 *	LEASES 2		leases in a row
 *	LEADERS 1		changes of leader
 *	BACKUPS 0		etcd is restored from a backup
 *	STOPS 0			the worker is told to end
 *
 * What can be left out: NO_RULE_3, NO_RULE_12, NO_RULE_16, NO_RULE_22, and
 *
 *	NO_MARGIN		the deadline is the end of the TTL
 *	NO_SENT			it counts from the answer, not from the request
 *	NO_READ			a keepalive is believed without a read
 *	NO_TERM			the read may come from another leader
 *	NO_TWICE		who reads the deadline looks at the epoch only before
 * */
#ifndef TTL
#define TTL		4
#endif
#ifndef MARGIN
#define MARGIN	1
#endif
#ifndef GAP
#define GAP		1
#endif
#ifndef LEASES
#define LEASES	2
#endif
#ifndef LEADERS
#define LEADERS	1
#endif
#ifndef BACKUPS
#define BACKUPS	0
#endif
#ifndef STOPS
#define STOPS	0
#endif

#ifdef NO_MARGIN
#define BELIEF	TTL
#else
#define BELIEF	(TTL - MARGIN)
#endif

#define FEWER(x)	x = (x > 0 -> x - 1 : 0)
#define MORE(x, most)	x = (x < (most) -> x + 1 : (most))

/* etcd; a lease's id is the epoch of the server that it is for */
bit deposed;					/* there is a leader that was deposed */
bit changed;					/* since the keepalive was answered */
bit alive[LEASES + 2];
byte left[LEASES + 2];			/* of its time, as the leader sees it */
bit restored;
byte restored_ago;

/* shared memory */
byte epoch = 1;
byte deadline;					/* ticks from now; 0: passed */
byte held_epoch;				/* of the session's hold; 0: none */
bit stopping;

/* the worker */
byte sent_ago;

/* the session */
bit waiting = 1;				/* it wants or has something */
byte seen_deadline;				/* what it has read */
bit seen_valid;
byte seen_ago;
bit over;						/* nothing is left to be seen */

proctype Clock()
{
	byte i;

end:
	do
	:: d_step { !over ->
		for (i : 1 .. LEASES) {
			FEWER(left[i])
		}
		FEWER(deadline);
		FEWER(seen_deadline);
		MORE(sent_ago, TTL);
		if
		:: restored -> MORE(restored_ago, TTL + GAP)
		:: else
		fi;
		if
		:: seen_valid -> MORE(seen_ago, GAP + 1)
		:: else
		fi;
		i = 0 }
	od
}

proctype Etcd()
{
	byte leaders = LEADERS, backups = BACKUPS;
	byte i;

end:
	do
	:: d_step { !over && alive[1] && left[1] == 0 -> alive[1] = 0 }
	:: d_step { !over && alive[2] && left[2] == 0 -> alive[2] = 0 }
	/* a new leader gives every lease its full time */
	:: d_step { !over && leaders > 0 ->
		leaders--;
		deposed = 1;
		changed = 1;
		for (i : 1 .. LEASES) {
			left[i] = (alive[i] -> TTL : 0)
		}
		i = 0 }
	/* what was put since the backup is gone, the lease is not */
	:: d_step { !over && backups > 0 && held_epoch != 0 && alive[held_epoch] ->
		backups--;
		restored = 1 }
	od
}

/* The steps are apart, as the memory is read without a lock. */
inline end_epoch()
{
	deadline = 0;
	epoch++
}

inline believe()
{
#ifdef NO_SENT
	sent_ago = 0;
#endif
	d_step {
		if
		:: sent_ago < BELIEF && BELIEF - sent_ago > deadline -> deadline = BELIEF - sent_ago
		:: else
		fi
	}
}

proctype Worker()
{
	byte id;
	bit ok, has_lease;

end:
	do
	/* another lease, and the sentinel on it */
	:: atomic { !over && !has_lease && epoch <= LEASES && !stopping ->
		id = epoch;
		sent_ago = 0 };
		d_step { alive[id] = 1; left[id] = TTL };
		d_step { ok = alive[id]; has_lease = ok };
		if
		:: ok -> believe()
		:: else -> end_epoch()
		fi

	/* a keepalive, answered by the leader, or by one that was deposed */
	:: atomic { !over && has_lease -> sent_ago = 0 };
		if
		:: d_step { alive[id] -> left[id] = TTL; changed = 0; ok = 1 }
		:: d_step { !alive[id] -> ok = 0 }
		:: d_step { deposed -> changed = 1; ok = 1 }
		fi;
#ifndef NO_READ
		/* a read of the sentinel, which only the leader answers */
		if
		:: d_step { ok ->
			ok = alive[id];
#ifndef NO_RULE_16
			/* the revision has gone back */
			ok = ok && !restored
#endif
			}
		:: !ok
		fi;
#endif
		if
		:: !ok -> has_lease = 0; end_epoch()
#if defined(NO_TERM) || defined(NO_READ)
		:: ok -> believe()
#else
		:: ok && !changed -> believe()
		:: ok && changed			/* another term: ask again */
#endif
		fi

	/* not renewed in time */
	:: atomic { has_lease && deadline == 0 -> has_lease = 0 }; end_epoch()

#if STOPS > 0
	:: !stopping -> stopping = 1
	/* nobody is left: the lease is released */
#ifdef NO_RULE_22
	:: stopping && has_lease ->
		d_step { alive[id] = 0; left[id] = 0 }; break
#else
	:: stopping && has_lease && !waiting ->
		end_epoch();
		d_step { alive[id] = 0; left[id] = 0 }; break
#endif
	/* it has taken too long: the lease is left to run out */
	:: stopping && has_lease ->
#ifdef NO_RULE_12
		d_step { alive[id] = 0; left[id] = 0 };
#endif
		break
#endif
	od
}

proctype Session()
{
	byte e1, e2;

	/* granted by the worker, which looks at the deadline, too */
end:
	atomic { deadline > 0 && alive[epoch] && !stopping -> held_epoch = epoch };

	/* the holder looks, at any time: once is enough, as it changes nothing */
	e1 = epoch;
	seen_deadline = deadline;
#ifdef NO_TWICE
	e2 = e1;
#else
	e2 = epoch;
#endif
	if
#ifdef NO_RULE_3
	:: atomic { seen_deadline > 0 -> seen_valid = 1 };
#else
	:: atomic { e1 == held_epoch && e2 == held_epoch && seen_deadline > 0 -> seen_valid = 1 };
#endif
		/* and does what it looked for */
		if
		:: atomic { seen_ago <= GAP ->
			assert(alive[held_epoch]);
			assert(!restored || restored_ago < TTL + GAP) }
		:: seen_ago > GAP
		fi
	:: else
	fi;
	held_epoch = 0;
	waiting = 0;
	over = 1
}

init {
	atomic {
		run Clock();
		run Etcd();
		run Worker();
		run Session()
	}
}
