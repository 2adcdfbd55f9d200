/*
 * commit.pml
 *	  What was committed under the lock is on disk before the lock goes.
 *
 * The model of the ends of src/session/lock_session.c: a session commits with
 * synchronous_commit = off.  PostgreSQL's lock goes in phase LOCKS, the shared
 * record behind it, in phase AFTER_LOCKS.  In between another session of the
 * server may come, and pass the lock on to another server.
 *
 * Checked: what another server is granted the lock after is on disk.
 *
 * What can be left out: NO_RULE_17, nothing is flushed; LATE, it is flushed
 * only when the record is dropped.
 */
bit tag = 1;					/* PostgreSQL's lock is taken */
bit first = 1, second;			/* records; a record needs the key */
bit superseded;					/* the first one */
bit key = 1;					/* in etcd */
bit flushed;

/* Nobody needs the key any more: it goes. */
#define SETTLE	key = ((first && !superseded) || second)

inline flush()
{
#ifdef NO_RULE_17
	skip
#else
	flushed = 1
#endif
}

active proctype First()
{
	/* the commit record is written, and seen by others */
#ifndef LATE
	flush();
#endif
	tag = 0;
#ifdef LATE
	flush();
#endif
	d_step { first = 0; SETTLE }
}

active proctype Second()
{
	d_step { !tag -> tag = 1; superseded = 1; second = 1 };
	if
	:: d_step { key = 0; second = 0 }	/* the window is over: asks etcd anew */
	:: skip								/* holds by the key */
	fi;
	d_step { second = 0; SETTLE };
	tag = 0
}

active proctype Other_server()
{
	d_step { !key -> assert(flushed) }
}
