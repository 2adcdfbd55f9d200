/*
 * guard.pml
 *	  No loss interrupts a session that is past its guard, and none goes unnoticed.
 *
 * The model of rule 30: src/session/commit.c and src/shared/loss_signal.c.  A session
 * commits twice, each time as on a primary that waits for its standby.  Two others
 * find that it has lost a lock: they mark it as lost and send a signal.
 *
 * Checked: past the guard no signal is pending; in the end the session knows of each
 * loss.
 *
 * What can be left out: NO_RULE_30, nobody looks whether it is committing; NO_WAIT, the
 * session does not wait for senders on their way; NO_STEP, that a signal was held back
 * is noted in a step of its own.
 */
byte senders;
bit committing, held_back;
bit pending;					/* the signal has arrived */
bit past;						/* the guard */
bit idle;						/* after its last commit */
byte lost;						/* locks, as marked in the shared table */
byte known;						/* of these, what the session was told */

inline act()
{
	d_step { pending -> pending = 0; known = lost }
}

proctype Loser()
{
	lost++;
	senders++;
#ifdef NO_RULE_30
	pending = 1;
#elif defined(NO_STEP)
	if
	:: committing -> held_back = 1
	:: !committing -> pending = 1
	fi;
#else
	if
	:: d_step { committing -> held_back = 1 }
	:: !committing -> pending = 1
	fi;
#endif
	senders--
}

active proctype Session()
{
	byte n, seen;

	do
	:: n < 2 ->
		n++;
		if
		:: act()
		:: skip
		fi;
		committing = 1;
#ifndef NO_WAIT
		senders == 0;
#endif
		seen = lost;
		if
		:: seen > known -> known = seen			/* refused */
		:: else ->
			if
			:: act()							/* cancelled */
			:: !pending ->
				past = 1;
				/* waits for the standby */
				past = 0;
				/* late, by the next statement */
				known = lost
			fi
		fi;
		d_step { committing = 0; pending = pending | held_back; held_back = 0 }
	:: else -> break
	od;

	idle = 1;
end:
	do
	:: act()
	od
}

active proctype Standby()
{
end:
	do
	:: d_step { past -> assert(!pending) }
	od
}

init
{
	run Loser();
	run Loser();
end:
	d_step { idle && _nr_pr == 3 && !pending -> assert(known == lost) }
}
