/*
 * watch.pml
 *	  Granting on a DELETE event, without a confirming look.
 *
 * The model of src/client/watch.c and of name_queue_update(), name_queue_key_put() and
 * name_key_deleted() in src/worker/name_queue.c.  One waiter, whose key W is put behind
 * the key F of another server.  Events and answers come on connections of
 * their own, and overtake each other.
 *
 * Checked: at the revision of what made the waiter believe that it is its
 * turn, an event or an answer, W was in etcd and F was not.  (W may be deleted
 * by hand behind that revision: then it was a held key, see README.md.)  And
 * nobody is forgotten: the waiter is granted, or learns that W is gone, even
 * if it looks at the queue by itself only POLLS times.
 *
 * Macros of a configuration, with their defaults:
 *
 *	BYHAND 1	deletions of W by hand
 *	TWICE 1		how often the put may be applied again
 *	BREAKS 1	of the watch
 *	POLLS 1		looks at the queue for no reason
 *
 * What can be left out: NO_RULE_4, NO_RULE_11, and
 *
 *	NO_CREATED	count answers from before the watch, too
 *	NO_OLDER	count answers that are older than an event heard of, too
 *	NO_AGAIN	do not look again after such an answer
 *	NO_FIRST	do not look when the watch has been opened
 *	NO_BREAK	go on as if the watch had not ended
 */
#ifndef BYHAND
#define BYHAND	1
#endif
#ifndef TWICE
#define TWICE	1
#endif
#ifndef BREAKS
#define BREAKS	1
#endif
#ifndef POLLS
#define POLLS	1
#endif

/* etcd; create_revisions, 0: not there */
byte rev = 1;
byte f = 1;
byte w;
byte w_put;						/* the first revision of W */
byte w_gone;					/* when that was deleted */
byte f_gone;

#define CREATED	1
#define GONE_F	2
#define GONE_W	3
chan stream = [4] of { byte, byte };	/* the watch */
bit watching;

chan answer = [1] of { byte, byte, byte };	/* to a range: revision, f, w */
chan put_answer = [1] of { byte, byte };	/* revision, f */

/* the worker */
#define SENT	0
#define QUEUED	1
#define HELD	2
#define ANEW	3				/* lost its place: asks again */
byte state = SENT;
byte own;						/* create_revision of W */
byte ahead;						/* of F; 0: nobody is ahead */
bit ahead_known;
bit watch_wanted;				/* sent */
bit open;						/* acknowledged */
byte opened_at;
byte event_rev;					/* highest heard of */
bit look;						/* a look at the queue is wanted */
bit looking;					/* and on its way */

inline event(what)
{
	if
	:: watching -> stream!what, rev
	:: else
	fi
}

active proctype Etcd()
{
	byte hand = BYHAND, twice = TWICE, breaks = BREAKS;

end:
	do
	/* F is released */
	:: atomic { f != 0 -> rev++; f = 0; f_gone = rev; event(GONE_F) }
	/* W is put */
	:: atomic { w_put == 0 -> rev++; w = rev; w_put = rev; put_answer!rev, f }
	:: atomic { hand > 0 && w != 0 -> hand--; rev++;
		w_gone = (w == w_put -> rev : w_gone); w = 0; event(GONE_W) }
	:: atomic { twice > 0 && w_put != 0 && w == 0 -> twice--; rev++; w = rev }
	/* a watch begins now */
	:: atomic { watch_wanted && !watching -> watching = 1; stream!CREATED, rev }
	/* it ends, and what was on its way is lost */
	:: atomic { breaks > 0 && watching -> breaks--;
		do
		:: stream?_, _
		:: empty(stream) -> break
		od;
		watching = 0; watch_wanted = 0; open = 0;
#ifndef NO_BREAK
		ahead_known = 0
#endif
		}
	/* a look */
	:: atomic { looking && empty(answer) -> answer!rev, f, w; looking = 0 }
	od
}

/* At revision r it is our turn. */
inline grant(r)
{
	state = HELD;
	assert(w_put == own && (w_gone == 0 || w_gone > r));
	assert(f_gone != 0 && f_gone <= r)
}

#ifdef NO_OLDER
#define NOT_OLDER(r)	true
#else
#define NOT_OLDER(r)	(event_rev <= (r))
#endif
#ifdef NO_CREATED
#define NOT_BEFORE(r)	true
#else
#define NOT_BEFORE(r)	(opened_at <= (r))
#endif
#ifdef NO_AGAIN
#define AGAIN(r)	false
#else
#define AGAIN(r)	(open && (event_rev > (r) || opened_at > (r)))
#endif

/* The queue at revision r. */
inline decide(r, was_f)
{
	if
	:: was_f == 0 || was_f > own -> grant(r)
	:: else ->
		ahead = was_f;
		ahead_known = open && NOT_OLDER(r) && NOT_BEFORE(r);
		look = look || AGAIN(r)
	fi
}

active proctype Worker()
{
	byte r, was_f, was_w, kind, polls = POLLS;

	do
	/* name_queue_key_put() */
	:: atomic { put_answer?r, was_f ->
		own = r; state = QUEUED;
		decide(r, was_f) }
	/* name_queue_update() */
	:: atomic { answer?r, was_f, was_w ->
		if
		:: state != QUEUED || own > r
#ifdef NO_RULE_11
		:: state == QUEUED && own <= r && was_w == 0 -> state = ANEW
#else
		:: state == QUEUED && own <= r && was_w != own -> state = ANEW
#endif
		:: else -> decide(r, was_f)
		fi }
	:: atomic { stream?kind, r ->
		if
		:: kind == CREATED ->
			open = 1; opened_at = r;
#ifndef NO_FIRST
			look = 1
#endif
		/* name_key_deleted() */
		:: else ->
			event_rev = (r > event_rev -> r : event_rev);
			if
#ifndef NO_RULE_4
			:: kind == GONE_W && state == QUEUED && r > own -> state = ANEW
#endif
			:: kind == GONE_F && state == QUEUED && ahead_known && ahead != 0 && r > ahead ->
				ahead = 0;
				grant(r)
			:: else
			fi
		fi }
	:: atomic { look && !looking && empty(answer) -> look = 0; looking = 1 }
	/*
	 * Another key of the server's for this name, or the watch of one that has
	 * just been given up, may open the watch before the put is answered.
	 */
	:: atomic { (state == QUEUED || state == SENT) && !watch_wanted -> watch_wanted = 1 }
	:: atomic { state == QUEUED && polls > 0 && !look -> polls--; look = 1 }
	:: state >= HELD -> break
	od
}
