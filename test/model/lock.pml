/*
 * lock.pml
 *	  Servers, their sessions, their keys, and etcd's queue.
 *
 * The model of src/shared/lock_table.c, lock_grant.c, lock_keys.c, lock_session.c,
 * names.c, name_queue.c, queue.c, txn_queue.c and txn_response.c.  One step of the model is
 * what those do under one LWLock, or what etcd does in one Txn.  README.md tells
 * what is left out, and what NO_RULE_n removes.
 *
 * Macros of a configuration (with their defaults):
 *
 *	NSES		sessions, of which
 *	NLOC		live on server 0,
 *	NLOC1		on server 1, and the others on server 2
 *	NN			names
 *	OPS0..OPS4	what each session does: a sum of the OP_ values
 *	ROUNDS		requests of a session; 0: for ever
 *	LOSSES		how often a lease is lost
 *	LOST		requests whose answer is lost, applied or not, or late
 *	TWICE		requests that are applied twice
 *	BYHAND		keys deleted by hand
 *	RESTARTS	restarts of a worker
 *	CRASHES		crash restarts of server 0
 *	CANCELS		how often a session stops waiting
 *	MUTEXES		acquisitions by a client of another kind, on name 0
 *	TOKENS		check the tokens; needs ROUNDS
 *	KEEP		hot names: a key stays when its last holder lets it go
 *	SLOW		sessions that were woken may sleep on for any time
 *	WATCHDOG	who drains looks again when a session begins to upgrade
 *	VICTIM		a session that must be served again and again
 */
#ifndef NSES
#define NSES	3
#endif
#ifndef NLOC
#define NLOC	2
#endif
#ifndef NLOC1
#define NLOC1	(NSES - NLOC)
#endif
#ifndef NN
#define NN		1
#endif
#ifndef NSRV
#define NSRV	2
#endif
#ifndef K
#define K		3				/* keys of a server for a name */
#endif
#define QL		7				/* room in etcd for the keys of a name */
#ifndef ROUNDS
#define ROUNDS	2
#endif
#ifndef LOSSES
#define LOSSES	0
#endif
#ifndef LOST
#define LOST	0
#endif
#ifndef TWICE
#define TWICE	0
#endif
#ifndef BYHAND
#define BYHAND	0
#endif
#ifndef RESTARTS
#define RESTARTS	0
#endif
#ifndef CRASHES
#define CRASHES	0
#endif
#ifndef CANCELS
#define CANCELS	0
#endif
#ifndef MUTEXES
#define MUTEXES	0
#endif

#define OP_X	1				/* asks for exclusive mode */
#define OP_S	2				/* for shared mode */
#define OP_UP	4				/* for exclusive while it shares */
#define OP_DOWN	8				/* for shared under exclusive, and back */
#define OP_TRYX	16
#define OP_TRYS	32
#define OP_RAW	64				/* drops and takes PostgreSQL's lock apart */
#define OP_COMMIT	128			/* PostgreSQL's lock goes first */
#define OP_STAY	512				/* releases no lost key before it is told */
#define OP_ONCE	256			/* OP_X and OP_UP in the first round only */
#ifndef OPS0
#define OPS0	OP_X
#endif
#ifndef OPS1
#define OPS1	OP_X
#endif
#ifndef OPS2
#define OPS2	OP_X
#endif
#ifndef OPS3
#define OPS3	OP_X
#endif
#ifndef OPS4
#define OPS4	OP_X
#endif

#define SH		0
#define EX		1

#define FREE	0				/* states of a key */
#define WANTED	1
#define SENT	2
#define QUEUED	3
#define HELD	4
#define DELETING	5

#define NONE	0				/* states of a hold */
#define WAITING	1
#define DRAINING	2
#define ASKED	3
#define HOLDING	4

#define WAIT	0				/* answers to a session */
#define GRANTED	1
#define DRAIN	2
#define FAILED	3

#define SRV(t)	((t) < NLOC -> 0 : ((t) < NLOC + NLOC1 -> 1 : 2))
#define NENT	(NSRV * NN)
#define ENT(t, n)	(SRV(t) * NN + (n))
#define HOLD(t, n, m)	(((t) * NN + (n)) * 2 + (m))
#define NH		(NSES * NN * 2)
#define LIVE(i)	(key[i].st != FREE && key[i].st != DELETING)

/* A key in etcd: whose, in which mode, in which slot of its server. */
#define GHOST	7				/* no slot knows it */
#define ENTRY(o, m, i)	(64 + (o) * 16 + (m) * 8 + (i))
#define OWNER(q)	(((q) >> 4) & 3)
#define MODE(q)	(((q) >> 3) & 1)
#define SLOT(q)	((q) & 7)
#define MUTEX	3				/* the other client */
#define OLD		128				/* on a lease of the past */

typedef Key {
	unsigned st : 3;
	bit mode;
	bit try;
	bit flying;					/* the put is on its way */
	bit window;
	bit fresh;
	bit gone;					/* deleted by hand, while held */
#ifdef KEEP
	bit behind;					/* a try may be told that others are ahead */
#endif
	unsigned check : 2;			/* 1 asked; 2 nobody waits; 3 somebody does */
#ifdef NO_RULE_1
	bit deleting;
#endif
#ifdef TOKENS
	byte rev;
#endif
#if TWICE > 0
	bit twice;					/* the put will be applied again */
	bit put_again;				/* it is another key of that name */
#endif
#if BYHAND > 0
	bit unlisted;				/* not compared with the lease's keys */
#endif
};

typedef Hold {
	unsigned st : 3;
	byte key;					/* 1 + its index; 0: lost */
	bit up;
	bit lost;
	bit superseded;
	bit failed;
	bit try;
};

Key key[NENT * K];
Hold h[NH];
byte q[NN * QL];				/* etcd's queues, oldest first; 0: no more */
byte tag[NSES * NN];			/* PostgreSQL's locks: 1 shared, 2 exclusive */
byte place[NSES * NN];			/* in PostgreSQL's queue, from 1; 0: not */
bit wantx[NSES * NN];			/* what is waited for there */
bit latch[NSES];
bit valid[NSRV];				/* now < deadline */
#if LOST + TWICE > 0
byte late[NENT * 2];			/* puts that will come yet */
#endif
#if LOST > 0
byte lost_budget = LOST;
#endif
#if TWICE > 0
byte twice_budget = TWICE;
#endif
#if CANCELS > 0
byte cancel_budget = CANCELS;
#endif
#if CRASHES > 0
bit crash[NSES];
#endif
#if MUTEXES > 0
bit mutex_held;
#endif
#ifdef TOKENS
byte qrev[NN * QL];
byte revision[NN];
byte last[NENT];
byte highest_ex[NN];
byte highest[NN];
#endif

/* Scratch, meaningless between steps. */
hidden byte a, b, c, d, e2, f, g, u;
hidden byte res, found, other;
byte answer;

/* ---------------------------------------------------------------- checks */

#define BELIEVES(t, n, m) \
	(h[HOLD(t, n, m)].st == HOLDING && !h[HOLD(t, n, m)].lost && \
	 !h[HOLD(t, n, m)].superseded && valid[SRV(t)] && \
	 (tag[(t) * NN + (n)] & (1 << (m))) && \
	 !(h[HOLD(t, n, m)].key != 0 && key[h[HOLD(t, n, m)].key - 1].gone))

/* At most one session holds the name when one holds it exclusively. */
inline check_exclusion(n)
{
	a = 0; b = 0;
	for (u : 0 .. NSES - 1) {
		if
		:: BELIEVES(u, n, EX) -> a++; b++
		:: !BELIEVES(u, n, EX) && BELIEVES(u, n, SH) -> b++
		:: else
		fi
	}
#if MUTEXES > 0
	if
	:: n == 0 && mutex_held -> a++; b++
	:: else
	fi;
#endif
	assert(!(a > 0 && b > 1))
}

#ifdef TOKENS
#define PASSES	8
/* Of two grants in conflict the later one has the higher token. */
inline check_token(n, m, token)
{
	assert(token > highest_ex[n]);
	assert(m == SH || token > highest[n]);
	highest[n] = (token > highest[n] -> token : highest[n]);
	highest_ex[n] = (m == EX -> token : highest_ex[n])
}
#endif

/* ---------------------------------------------------------------- etcd */

inline append(n, what)
{
	printf("etcd: put server %d, mode %d, slot %d\n", OWNER(what), MODE(what), SLOT(what));
	for (c : 0 .. QL - 1) {
		if
		:: q[(n) * QL + c] == 0 ->
			q[(n) * QL + c] = what;
#ifdef TOKENS
			revision[n]++;
			qrev[(n) * QL + c] = revision[n];
#endif
			break
		:: else -> assert(c < QL - 1)
		fi
	}
}

/* Close the gaps. */
inline compact(n)
{
	d = 0;
	for (c : 0 .. QL - 1) {
		if
		:: q[(n) * QL + c] != 0 ->
			if
			:: d < c ->
				q[(n) * QL + d] = q[(n) * QL + c];
				q[(n) * QL + c] = 0;
#ifdef TOKENS
				qrev[(n) * QL + d] = qrev[(n) * QL + c];
				qrev[(n) * QL + c] = 0;
#endif
			:: else
			fi;
			d++
		:: else
#ifdef TOKENS
			-> qrev[(n) * QL + c] = 0
#endif
		fi
	}
	c = 0; d = 0
}

inline remove(n, what)
{
	for (c : 0 .. QL - 1) {
		if
		:: q[(n) * QL + c] == what -> q[(n) * QL + c] = 0
		:: else
		fi
	}
	compact(n)
}

inline replace(n, what, with)
{
	for (c : 0 .. QL - 1) {
		if
		:: q[(n) * QL + c] == what -> q[(n) * QL + c] = with
		:: else
		fi
	}
	c = 0
}

/* found = its place + 1, or 0 */
inline find(n, what)
{
	found = 0;
	for (c : 0 .. QL - 1) {
		if
		:: q[(n) * QL + c] == what -> found = c + 1
		:: else
		fi
	}
}

#define FOREIGN(x, s)	((x) != 0 && OWNER(x) != (s))
#define CONFLICT(x, s, m)	(FOREIGN(x, s) && ((m) == EX || MODE(x) == EX))

#if defined(KEEP) && !defined(NO_RULE_38)
#define MAY_BE_KEPT(x)	(OWNER(x) != MUTEX)
#define KNOWN_BEHIND(i)	(key[i].behind)
#else
#define MAY_BE_KEPT(x)	false
#define KNOWN_BEHIND(i)	true
#endif

/* ---------------------------------------------------------------- the table */

inline wake(t, n)
{
	if
	:: h[HOLD(t, n, SH)].st == ASKED || h[HOLD(t, n, EX)].st == ASKED ||
	   h[HOLD(t, n, SH)].st == DRAINING -> latch[t] = 1
	:: else
	fi
}

inline wake_entry(s, n)
{
	for (a : 0 .. NSES - 1) {
		if
		:: SRV(a) == s -> wake(a, n)
		:: else
		fi
	}
}

inline wake_drainers(s, n)
{
	for (a : 0 .. NSES - 1) {
		if
		:: SRV(a) == s && h[HOLD(a, n, SH)].st == DRAINING -> latch[a] = 1
		:: else
		fi
	}
}

inline clear_key(i)
{
	key[i].st = FREE; key[i].mode = 0; key[i].try = 0; key[i].flying = 0;
	key[i].window = 0; key[i].fresh = 0; key[i].check = 0; key[i].gone = 0;
#ifdef TOKENS
	key[i].rev = 0;
#endif
#ifdef KEEP
	key[i].behind = 0;
#endif
#ifdef NO_RULE_1
	key[i].deleting = 0;
#endif
#if TWICE > 0
	key[i].twice = 0; key[i].put_again = 0;
#endif
#if BYHAND > 0
	key[i].unlisted = 0;
#endif
	for (a : 0 .. NH - 1) {
		if
		:: h[a].key == (i) + 1 -> h[a].key = 0
		:: else
		fi
	}
}

#define ENTRY_OF(i)	((i) / K)
#define SERVER_OF(i)	((i) / K / NN)
#define NAME_OF(i)	(((i) / K) % NN)
#define IN_ETCD(i)	ENTRY(SERVER_OF(i), key[i].mode, (i) % K)

inline free_key(i)
{
	clear_key(i);
	wake_entry(SERVER_OF(i), NAME_OF(i))
}

/* etcd has the key no more. */
inline lose(i)
{
	for (a : 0 .. NH - 1) {
		if
		:: h[a].st == HOLDING && h[a].key == (i) + 1 -> h[a].lost = 1; h[a].key = 0
		:: else
		fi
	}
	free_key(i)
}

inline mark_deleting(i)
{
	if
	:: key[i].st == WANTED -> free_key(i)
#ifdef NO_RULE_1
	:: key[i].st == HELD -> key[i].deleting = 1
#endif
	:: else ->
		printf("server %d: key %d is marked deleting\n", SERVER_OF(i), i);
		key[i].st = DELETING;
		key[i].window = 0; key[i].fresh = 0; key[i].check = 0;
		wake_entry(SERVER_OF(i), NAME_OF(i))
	fi
}

/* res = does a session need the key? */
inline needed(i)
{
	res = 0;
	for (a : 0 .. NSES - 1) {
		for (b : 0 .. 1) {
			if
			:: SRV(a) != SERVER_OF(i)
			:: else ->
				g = HOLD(a, NAME_OF(i), b);
				if
				:: h[g].superseded
				:: !h[g].superseded && h[g].st == HOLDING && h[g].key == (i) + 1 -> res = 1
				:: !h[g].superseded && h[g].st == ASKED && b == key[i].mode -> res = 1
#ifdef NO_RULE_5
				:: !h[g].superseded && h[g].st == WAITING && b == key[i].mode -> res = 1
#endif
				:: else
				fi
			fi
		}
	}
}

/* res = does a session hold the lock by it? */
inline has_holders(i)
{
	res = 0;
	for (a : 0 .. NH - 1) {
		if
		:: h[a].st == HOLDING && h[a].key == (i) + 1 && !h[a].superseded -> res = 1
		:: else
		fi
	}
}

/* res = does session t hold the lock by it, in mode m? */
#define RIDES(t, n, m, i) \
	(h[HOLD(t, n, m)].st == HOLDING && !h[HOLD(t, n, m)].superseded && \
	 h[HOLD(t, n, m)].key == (i) + 1)

#ifdef KEEP
/*
 * other = 1 + index of a key that stands in the way of key i and that nobody uses,
 * or 0.  The key of a server that is cut off is as good as used.
 */
inline find_idle(i)
{
	other = 0;
	for (c : 0 .. QL - 1) {
		if
		:: other == 0 && CONFLICT(q[NAME_OF(i) * QL + c], SERVER_OF(i), key[i].mode) &&
		   OWNER(q[NAME_OF(i) * QL + c]) != MUTEX && !(q[NAME_OF(i) * QL + c] & OLD) &&
		   SLOT(q[NAME_OF(i) * QL + c]) != GHOST && valid[OWNER(q[NAME_OF(i) * QL + c])] ->
			f = (OWNER(q[NAME_OF(i) * QL + c]) * NN + NAME_OF(i)) * K +
				SLOT(q[NAME_OF(i) * QL + c]);
			if
			:: key[f].st == HELD && !key[f].gone ->
				needed(f);
				other = (res -> 0 : f + 1)
			:: else
			fi
		:: else
		fi;
		if
		:: q[NAME_OF(i) * QL + c] == IN_ETCD(i) -> break
		:: else
		fi
	}
	a = 0; b = 0; c = 0; f = 0; g = 0; res = 0
}

/* A try is not refused by a key that nobody uses. */
inline check_refusal(i)
{
	find_idle(i);
	assert(other == 0);
	other = 0
}
#endif

/* found = 1 + index of the live key in mode m, or 0 */
inline live_key(en, m)
{
	found = 0;
	for (a : 0 .. K - 1) {
		if
		:: LIVE((en) * K + a) && key[(en) * K + a].mode == m -> found = (en) * K + a + 1
		:: else
		fi
	}
}

/* res = does anybody wait in PostgreSQL; with up = only those that upgrade */
inline has_waiters(s, n, only_up)
{
	res = 0;
	for (a : 0 .. NSES - 1) {
		for (b : 0 .. 1) {
			if
			:: SRV(a) == s && h[HOLD(a, n, b)].st == WAITING &&
			   (!(only_up) || h[HOLD(a, n, b)].up) -> res = 1
			:: else
			fi
		}
	}
}

/*
 * Keys that nobody needs go, but for the rest of a window: for those here who
 * are about to take it over, or, of a hot name, for the next one that asks.
 */
inline settle(en)
{
#ifdef KEEP
	other = 1;
#else
	has_waiters((en) / NN, (en) % NN, 0);
	other = res;
#endif
	for (f : (en) * K .. (en) * K + K - 1) {
		if
		:: LIVE(f) ->
			needed(f);
			if
			:: res
			:: !res && other && key[f].st == HELD && valid[(en) / NN] && key[f].window
			:: else -> mark_deleting(f)
			fi
		:: else
		fi
	}
}

/* A new key in mode m for session t. */
inline want(t, n, m, is_try)
{
	h[HOLD(t, n, m)].st = ASKED;
#ifndef NO_RULE_6
	live_key(ENT(t, n), 1 - (m));
	if
	:: found ->
		f = found - 1;
		needed(f);
		if
		:: !res -> mark_deleting(f)
		:: else
		fi
	:: else
	fi;
#endif
	for (c : ENT(t, n) * K .. ENT(t, n) * K + K - 1) {
		if
		:: key[c].st == FREE ->
			key[c].st = WANTED;
			key[c].mode = m;
			key[c].try = is_try;
			printf("server %d session %d: wants key %d, mode %d\n", SRV(t), t, c, m);
			break
		:: else
		fi
	}
	c = 0;
	answer = WAIT
}

inline grant(t, n, m, i)
{
	h[HOLD(t, n, m)].st = HOLDING;
	h[HOLD(t, n, m)].key = (i) + 1;
	h[HOLD(t, n, m)].try = 0;
	printf("server %d session %d: granted mode %d by key %d\n", SRV(t), t, m, i);
	key[i].fresh = 0;
	answer = GRANTED;
#ifdef TOKENS
#ifdef NO_RULE_10
	last[ENT(t, n)] = key[i].rev * PASSES;
#else
	last[ENT(t, n)] = (key[i].rev * PASSES > last[ENT(t, n)] + 1 ->
		key[i].rev * PASSES : last[ENT(t, n)] + 1);
#endif
	if
	:: !key[i].gone -> check_token(n, m, last[ENT(t, n)])
	:: else
	fi;
#endif
	check_exclusion(n)
}

inline wait_as_asker(t, n, m)
{
	h[HOLD(t, n, m)].st = ASKED;
	printf("server %d session %d: waits for mode %d\n", SRV(t), t, m);
	answer = WAIT
}

inline ask_exclusive(t, n)
{
	live_key(ENT(t, n), EX);
	if
	:: !found -> want(t, n, EX, h[HOLD(t, n, EX)].try)
	:: found && key[found - 1].st == HELD ->
		found--;
		if
		:: !valid[SRV(t)] -> wait_as_asker(t, n, EX)
#ifndef NO_RULE_9B
		:: valid[SRV(t)] && RIDES(t, n, SH, found) -> e2 = found; grant(t, n, EX, e2)
		:: valid[SRV(t)] && !RIDES(t, n, SH, found) &&
		   (key[found].fresh || key[found].window) -> e2 = found; grant(t, n, EX, e2)
#else
		:: valid[SRV(t)] && (key[found].fresh || key[found].window) -> e2 = found; grant(t, n, EX, e2)
#endif
		:: else ->
			e2 = found;
			mark_deleting(e2);
			want(t, n, EX, h[HOLD(t, n, EX)].try)
		fi
	:: found && key[found - 1].st == QUEUED && h[HOLD(t, n, EX)].try &&
	   KNOWN_BEHIND(found - 1) -> answer = FAILED
	:: else -> wait_as_asker(t, n, EX)
	fi
}

/* May a sharer join those who hold key i? */
inline join(t, n, i)
{
	has_waiters(SRV(t), n, 1);
	if
	:: key[i].fresh || key[i].window -> grant(t, n, SH, i)
#ifndef NO_RULE_8
	:: !(key[i].fresh || key[i].window) && res -> grant(t, n, SH, i)
#endif
	:: else ->
		if
		:: key[i].check == 2 -> key[i].check = 0; grant(t, n, SH, i)
		:: key[i].check == 3 ->
			key[i].check = 0;
			has_holders(i);
			if
#ifdef NO_RULE_2
			:: true ->
#else
			:: !res ->
#endif
				mark_deleting(i); want(t, n, SH, h[HOLD(t, n, SH)].try)
#ifndef NO_RULE_2
			:: res && h[HOLD(t, n, SH)].try -> answer = FAILED
			:: else -> h[HOLD(t, n, SH)].st = DRAINING; answer = DRAIN;
				printf("server %d session %d: is to wait until key %d has drained\n", SRV(t), t, i)
#endif
			fi
		:: else -> key[i].check = 1; wait_as_asker(t, n, SH)
		fi
	fi
}

inline ask_shared(t, n)
{
	live_key(ENT(t, n), EX);
	e2 = found;
	live_key(ENT(t, n), SH);
	other = found;
	if
	:: e2 -> f = e2 - 1; needed(f)
	:: else -> res = 0
	fi;
	if
#ifndef NO_RULE_9
	:: e2 && key[e2 - 1].st == HELD && valid[SRV(t)] && RIDES(t, n, EX, e2 - 1) ->
		e2--; grant(t, n, SH, e2)
	:: else ->
		if
		:: !other && e2 && res -> other = e2
		:: else
		fi;
#else
	:: true ->
#endif
		if
		:: !other -> want(t, n, SH, h[HOLD(t, n, SH)].try)
		:: other && key[other - 1].st == HELD && valid[SRV(t)] ->
			e2 = other - 1; join(t, n, e2)
		:: other && key[other - 1].st == QUEUED && h[HOLD(t, n, SH)].try &&
		   KNOWN_BEHIND(other - 1) -> answer = FAILED
		:: else -> wait_as_asker(t, n, SH)
		fi
	fi
}

/* Who has PostgreSQL's lock knows that other owners have it no more. */
inline supersede_others(t, n, m)
{
#ifdef NO_RULE_13
	skip
#else
	for (a : 0 .. NSES - 1) {
		for (b : 0 .. 1) {
			if
			:: a != t && SRV(a) == SRV(t) && h[HOLD(a, n, b)].st >= ASKED &&
			   ((m) == EX || b == EX) -> h[HOLD(a, n, b)].superseded = 1
			:: else
			fi
		}
	}
#endif
}

inline ask(t, n, m)
{
	latch[t] = 0;
	if
	:: h[HOLD(t, n, m)].failed -> answer = FAILED
	:: else ->
		supersede_others(t, n, m);
		if
		:: (m) == EX -> ask_exclusive(t, n)
		:: else -> ask_shared(t, n)
		fi
	fi;
	a = 0; b = 0; c = 0; d = 0; e2 = 0; f = 0; g = 0; u = 0;
	res = 0; found = 0; other = 0
}

inline clear_hold(x)
{
	h[x].st = NONE; h[x].key = 0; h[x].up = 0; h[x].lost = 0;
	h[x].superseded = 0; h[x].failed = 0; h[x].try = 0
}

/* ---------------------------------------------------------------- sessions */

#define CLASH(t, o, n, m) \
	((o) < NSES && (o) != (t) && SRV(o) == SRV(t) && \
	 (((m) == EX && tag[((o) % NSES) * NN + (n)] != 0) || \
	  (tag[((o) % NSES) * NN + (n)] & 2) || \
	  (place[((o) % NSES) * NN + (n)] != 0 && \
	   (place[(t) * NN + (n)] == 0 || \
		place[((o) % NSES) * NN + (n)] < place[(t) * NN + (n)]) && \
	   ((m) == EX || wantx[((o) % NSES) * NN + (n)]))))
/* Can PostgreSQL grant its lock? */
#define FITS(t, n, m) \
	(!CLASH(t, 0, n, m) && !CLASH(t, 1, n, m) && !CLASH(t, 2, n, m) && \
	 !CLASH(t, 3, n, m) && !CLASH(t, 4, n, m))

#define UPGRADES(t, o, n) \
	((o) < NSES && (o) != (t) && SRV(o) == SRV(t) && \
	 tag[((o) % NSES) * NN + (n)] == 1 && place[((o) % NSES) * NN + (n)] != 0 && \
	 wantx[((o) % NSES) * NN + (n)])
/* Two that share want more: PostgreSQL ends the wait of one. */
#define LOCAL_DEADLOCK(t, n) \
	(tag[(t) * NN + (n)] == 1 && wantx[(t) * NN + (n)] && place[(t) * NN + (n)] != 0 && \
	 (UPGRADES(t, 0, n) || UPGRADES(t, 1, n) || UPGRADES(t, 2, n) || \
	  UPGRADES(t, 3, n) || UPGRADES(t, 4, n)))

/* At the end of PostgreSQL's queue; who has the lock already, at its head. */
inline stand_in_line(t, n, m)
{
	a = 1;
	for (b : 0 .. NSES - 1) {
		if
		:: SRV(b) == SRV(t) && place[b * NN + (n)] != 0 ->
			if
			:: tag[(t) * NN + (n)] != 0 -> place[b * NN + (n)]++
			:: else -> a++
			fi
		:: else
		fi
	}
	place[(t) * NN + (n)] = a;
	wantx[(t) * NN + (n)] = m;
	a = 0; b = 0
}

inline leave_line(t, n)
{
	if
	:: place[(t) * NN + (n)] != 0 ->
		for (b : 0 .. NSES - 1) {
			if
			:: SRV(b) == SRV(t) && place[b * NN + (n)] > place[(t) * NN + (n)] ->
				place[b * NN + (n)]--
			:: else
			fi
		}
		place[(t) * NN + (n)] = 0;
		wantx[(t) * NN + (n)] = 0
	:: else
	fi;
	b = 0
}

inline drop(t, n, m)
{
	printf("server %d session %d: drops mode %d\n", SRV(t), t, m);
	clear_hold(HOLD(t, n, m));
#ifndef NO_RULE_18
	settle(ENT(t, n));
#endif
	a = 0; b = 0; f = 0; g = 0; res = 0; other = 0
}

/* The key that it holds by is gone, and it does not know. */
#define GONE(t, n, m)	(h[HOLD(t, n, m)].key != 0 && key[h[HOLD(t, n, m)].key - 1].gone)
#define HAS(t, n, m)	(h[HOLD(t, n, m)].st == HOLDING)

proctype Session(byte me; short ops)
{
	byte n, m, left, upgraded;
#ifdef NO_RULE_18
	byte doomed;
#endif

again:
	atomic {
		n = 0; m = 0; upgraded = 0; left = ROUNDS
	}
	{
end_idle:
		do
		/* a new request */
		:: atomic { ROUNDS == 0 || left > 0 ->
			upgraded = 0;
			if
			:: (ops & OP_X) && !((ops & OP_ONCE) && left != ROUNDS) -> m = EX
			:: ops & OP_S -> m = SH
			:: ops & OP_TRYX -> m = EX; h[HOLD(me, n, EX)].try = 1
			:: ops & OP_TRYS -> m = SH; h[HOLD(me, n, SH)].try = 1
			fi;
			left = (ROUNDS == 0 -> 1 : left - 1) };

acquire:	atomic { true; d_step {
				h[HOLD(me, n, m)].st = WAITING;
				h[HOLD(me, n, m)].up = (m == EX && tag[me * NN + n] != 0);
				stand_in_line(me, n, m);
#ifdef WATCHDOG
				if
				:: h[HOLD(me, n, m)].up -> wake_drainers(SRV(me), n); a = 0
				:: else
				fi
#endif
			} };
line:		if
			:: atomic { FITS(me, n, m) ->
				leave_line(me, n);
				tag[me * NN + n] = tag[me * NN + n] | (1 << m) }
			:: h[HOLD(me, n, m)].try && !FITS(me, n, m) -> goto give_up
			:: LOCAL_DEADLOCK(me, n) -> goto give_up
#if CANCELS > 0
			:: atomic { cancel_budget > 0 -> cancel_budget--; goto give_up }
#endif
			fi;

asking:		atomic { true; d_step { ask(me, n, m) };
				if
				:: answer == GRANTED -> answer = 0; goto granted
				:: answer == FAILED -> answer = 0; goto give_up
				:: answer == DRAIN -> answer = 0; goto drain
				:: answer == WAIT
				fi
			};
			if
			:: latch[me] -> goto asking
#if CANCELS > 0
			:: atomic { cancel_budget > 0 -> cancel_budget--; goto give_up }
#endif
			fi;

			/* without PostgreSQL's lock, until the key has drained */
drain:
#ifndef NO_RULE_21
			atomic { true; d_step { tag[me * NN + n] = tag[me * NN + n] & (m == EX -> 1 : 2) } };
			atomic { latch[me]; d_step { stand_in_line(me, n, m) } };
			goto line;
#else
			latch[me];
			goto asking;
#endif

			/* the record first, so that the next in line does not find it */
give_up:	atomic { true; d_step { leave_line(me, n); drop(me, n, m) } };
			d_step { tag[me * NN + n] = tag[me * NN + n] & (m == EX -> 1 : 2) };
			goto holding;

granted:
#ifdef VICTIM
			if
			:: me == VICTIM ->
progress:		skip
			:: else
			fi;
#endif
holding:
			if
			:: atomic { (ops & OP_UP) && !upgraded && HAS(me, n, SH) && !HAS(me, n, EX) ->
				upgraded = 1; m = EX; goto acquire }
			:: atomic { (ops & OP_DOWN) && !upgraded && HAS(me, n, EX) && !HAS(me, n, SH) ->
				upgraded = 1; m = SH; goto acquire }
			/* back to shared mode, and perhaps up again */
			:: atomic { (ops & OP_DOWN) && HAS(me, n, EX) && HAS(me, n, SH) -> m = EX };
				d_step { drop(me, n, EX) };
				d_step { tag[me * NN + n] = tag[me * NN + n] & 1 };
				if
				:: atomic { upgraded < 2 -> upgraded = 2; m = EX; goto acquire }
				:: m = SH; goto holding
				fi
			:: atomic { NN > 1 && n + 1 < NN && HAS(me, n, m) -> n++; goto acquire }
			/* pg_advisory_unlock(), pg_advisory_lock(): behind our back */
			:: (ops & OP_RAW) && HAS(me, n, EX) && !HAS(me, n, SH) ->
				d_step { tag[me * NN + n] = 0 };
				if
				:: d_step { stand_in_line(me, n, EX) };
					d_step { FITS(me, n, EX) -> leave_line(me, n);
						tag[me * NN + n] = 2;
						check_exclusion(n); a = 0; b = 0; u = 0 }
				:: skip
				fi;
#ifdef NO_RULE_19
				d_step { tag[me * NN + n] == 0 }; goto end_idle
#else
				goto release
#endif
			:: !(ops & OP_STAY) || !GONE(me, n, m) -> goto release
			fi;

			/* the newest name first */
release:
			if
			:: (ops & OP_COMMIT) || HAS(me, n, SH) && HAS(me, n, EX) ->
				d_step { tag[me * NN + n] = 0 };
				d_step {
					clear_hold(HOLD(me, n, SH));
					clear_hold(HOLD(me, n, EX));
#ifdef NO_RULE_18
				}
				skip
#else
					drop(me, n, SH)
				}
#endif
			:: else ->
#ifdef NO_RULE_18
				/* who needs the key is looked at first */
				d_step {
					clear_hold(HOLD(me, n, EX));
					clear_hold(HOLD(me, n, SH));
					doomed = 0;
					for (f : ENT(me, n) * K .. ENT(me, n) * K + K - 1) {
						if
						:: LIVE(f) -> needed(f); doomed = (res -> doomed : f + 1)
						:: else
						fi
					}
					a = 0; b = 0; f = 0; g = 0; res = 0
				};
				d_step {
					if
					:: doomed && LIVE(doomed - 1) -> f = doomed - 1; mark_deleting(f)
					:: else
					fi;
					a = 0; doomed = 0; f = 0
				};
#else
				d_step { drop(me, n, SH); drop(me, n, EX) };
#endif
				d_step { tag[me * NN + n] = 0 }
			fi;
			if
			:: n > 0 -> n--; goto release
			:: else
			fi;
			m = 0; upgraded = 0
		od
	}
#if CRASHES > 0
	unless {
		d_step { crash[me] -> crash[me] = 0 }
	};
	goto again
#endif
}

/* ---------------------------------------------------------------- the worker */

/* A session that asks by this key is told that it will not get it. */
inline fail(i, only_tries)
{
	for (b : 0 .. NSES - 1) {
		g = HOLD(b, NAME_OF(i), key[i].mode);
		if
		:: SRV(b) == SERVER_OF(i) && h[g].st == ASKED && (!(only_tries) || h[g].try) ->
			h[g].failed = 1
		:: else
		fi
	}
	b = 0; g = 0
}

/*
 * Whose turn is it?  res: 1 granted, 0 wait, 2 deadlock, 3 its key is not
 * there.
 */
inline decide(i)
{
	find(NAME_OF(i), IN_ETCD(i));
	d = found;
	/* the read key of ours that sessions need */
	other = 0;
	if
	:: key[i].mode == EX && d ->
		live_key(ENTRY_OF(i), SH);
		if
		:: found && key[found - 1].st == HELD ->
			f = found - 1;
			needed(f);
			if
			:: res -> find(NAME_OF(i), IN_ETCD(f)); other = found
			:: else
			fi
		:: else
		fi
	:: else
	fi;
	res = (d == 0 -> 3 : 1);
	for (c : 0 .. QL - 1) {
		if
		:: c + 1 < d && CONFLICT(q[NAME_OF(i) * QL + c], SERVER_OF(i), key[i].mode) ->
#ifndef NO_RULE_7
			if
			:: other && c + 1 > other && MODE(q[NAME_OF(i) * QL + c]) == EX -> res = 2
			:: res == 1 -> res = 0
			:: else
			fi
#else
			res = 0
#endif
		:: else
		fi
	}
#ifdef TOKENS
	if
	:: d -> key[i].rev = qrev[NAME_OF(i) * QL + d - 1]
	:: else
	fi;
#endif
	c = 0; d = 0; f = 0; found = 0; other = 0; a = 0; b = 0; g = 0
}

inline look(i)
{
	decide(i);
	if
	:: res == 1 && valid[SERVER_OF(i)] ->
		printf("server %d: key %d is granted\n", SERVER_OF(i), i);
		key[i].st = HELD; key[i].fresh = 1; key[i].window = 1;
		wake_entry(SERVER_OF(i), NAME_OF(i))
	:: res == 2 ->
		printf("server %d: key %d would deadlock\n", SERVER_OF(i), i);
		fail(i, 0);
		/* only who shares is told so */
		for (a : 0 .. NSES - 1) {
			assert(!h[HOLD(a, NAME_OF(i), EX)].failed || h[HOLD(a, NAME_OF(i), SH)].st == HOLDING)
		}
		mark_deleting(i);
		wake_entry(SERVER_OF(i), NAME_OF(i))
	:: res == 3 -> mark_deleting(i); wake_entry(SERVER_OF(i), NAME_OF(i))
	:: else
	fi;
	a = 0; res = 0
}

/* Is a conflicting key ahead of key i?  An expression, to be a guard. */
#define AT(i, x)	q[NAME_OF(i) * QL + (x)]
#define BEHIND(i, x)	(AT(i, x) == IN_ETCD(i))
#define BLOCKS(i, x)	CONFLICT(AT(i, x), SERVER_OF(i), key[i].mode)
#define BLOCKED(i) \
	((BLOCKS(i, 0) && (BEHIND(i, 1) || BEHIND(i, 2) || BEHIND(i, 3) || BEHIND(i, 4) || BEHIND(i, 5) || BEHIND(i, 6))) || \
	 (BLOCKS(i, 1) && (BEHIND(i, 2) || BEHIND(i, 3) || BEHIND(i, 4) || BEHIND(i, 5) || BEHIND(i, 6))) || \
	 (BLOCKS(i, 2) && (BEHIND(i, 3) || BEHIND(i, 4) || BEHIND(i, 5) || BEHIND(i, 6))) || \
	 (BLOCKS(i, 3) && (BEHIND(i, 4) || BEHIND(i, 5) || BEHIND(i, 6))) || \
	 (BLOCKS(i, 4) && (BEHIND(i, 5) || BEHIND(i, 6))) || \
	 (BLOCKS(i, 5) && BEHIND(i, 6)))
/*
 * Time, as far as the order of things depends on it: a session that was woken
 * looks at the table before a window ends that began when it was woken, and
 * before a key that is wanted after it was woken is put.
 */
#ifdef NO_RULE_37
#define WINDOW_MAY_END	false		/* nobody looks whether others have come */
#else
#define WINDOW_MAY_END	true
#endif

#ifdef SLOW
#define MAY_END(i)	true
#define MAY_SEND(i)	true
#else
#define WOKEN(i, t) \
	((t) < NSES && SRV(t) == SERVER_OF(i) && latch[(t) % NSES] && \
	 h[HOLD((t) % NSES, NAME_OF(i), key[i].mode)].st == ASKED)
#define DRAINED(i, t) \
	((t) < NSES && SRV(t) == SERVER_OF(i) && latch[(t) % NSES] && \
	 h[HOLD((t) % NSES, NAME_OF(i), SH)].st == DRAINING && FITS(t, NAME_OF(i), SH))
#define MAY_END(i) \
	(!WOKEN(i, 0) && !WOKEN(i, 1) && !WOKEN(i, 2) && !WOKEN(i, 3) && !WOKEN(i, 4))
#define MAY_SEND(i) \
	(!DRAINED(i, 0) && !DRAINED(i, 1) && !DRAINED(i, 2) && !DRAINED(i, 3) && !DRAINED(i, 4))
#endif
#define ABSENT(i) \
	!(BEHIND(i, 0) || BEHIND(i, 1) || BEHIND(i, 2) || BEHIND(i, 3) || BEHIND(i, 4) || BEHIND(i, 5) || BEHIND(i, 6))

/*
 * One process for each key, so that fairness means that none is forgotten.
 * The queue is looked at as it is: by a range, or by a watch that tells what
 * changes; watch.pml shows that the latter comes to the same.
 */
proctype Slot(byte i)
{
	byte found_state;

end:
	do
	/* taken up, and sent */
	:: d_step { key[i].st == WANTED && valid[SERVER_OF(i)] && MAY_SEND(i) -> key[i].st = SENT; key[i].flying = 1 }

	/* etcd carries it out */
	:: d_step { key[i].flying && !key[i].try ->
		key[i].flying = 0;
		append(NAME_OF(i), IN_ETCD(i));
#ifdef TOKENS
		key[i].rev = revision[NAME_OF(i)];
#endif
#if TWICE > 0
		if
		:: twice_budget > 0 -> twice_budget--; key[i].twice = 1
		:: else
		fi;
#endif
		c = 0 }
	/* a try: only if nobody is in the way */
	:: d_step { key[i].flying && key[i].try ->
		key[i].flying = 0;
		res = 1;
		for (c : 0 .. QL - 1) {
			if
			:: CONFLICT(q[NAME_OF(i) * QL + c], SERVER_OF(i), key[i].mode) ->
				/* behind keys that may be kept it stands in line for a while */
				res = (MAY_BE_KEPT(q[NAME_OF(i) * QL + c]) -> res : 0)
#ifdef NO_RULE_14
			/* own keys that are as good as gone count as well */
			:: q[NAME_OF(i) * QL + c] != 0 && !FOREIGN(q[NAME_OF(i) * QL + c], SERVER_OF(i)) &&
			   !(q[NAME_OF(i) * QL + c] & OLD) && SLOT(q[NAME_OF(i) * QL + c]) != GHOST &&
			   key[ENTRY_OF(i) * K + SLOT(q[NAME_OF(i) * QL + c]) % K].st == DELETING &&
			   res == 1 -> res = 2
#endif
#ifdef NO_RULE_14_LEASE
			/* nor are those of a former lease own ones */
			:: q[NAME_OF(i) * QL + c] != 0 && OWNER(q[NAME_OF(i) * QL + c]) == SERVER_OF(i) &&
			   (q[NAME_OF(i) * QL + c] & OLD) && res == 1 -> res = 2
#endif
			:: else
			fi
		}
		if
		:: res == 1 ->
			append(NAME_OF(i), IN_ETCD(i));
#ifdef TOKENS
			key[i].rev = revision[NAME_OF(i)];
#endif
		:: else ->
			/* refused without a reason? */
			assert(res == 0);
#ifdef KEEP
			check_refusal(i);
#endif
			if
			:: key[i].st == SENT -> fail(i, 1)
			:: else
			fi;
			free_key(i)
		fi;
		a = 0; b = 0; c = 0; res = 0 }

#if LOST > 0
	/* no answer; it may come late */
	:: d_step { key[i].flying && lost_budget > 0 ->
		lost_budget--;
		key[i].flying = 0;
		late[ENTRY_OF(i) * 2 + key[i].mode]++;
		mark_deleting(i);
		wake_entry(SERVER_OF(i), NAME_OF(i)); a = 0 }
	/* applied, but no answer */
	:: d_step { key[i].st == SENT && !key[i].flying && lost_budget > 0 ->
		lost_budget--;
		mark_deleting(i);
		wake_entry(SERVER_OF(i), NAME_OF(i)); a = 0 }
#endif

	/* the answer, with the queue as it is; then every look that tells more */
	:: d_step { key[i].st == SENT && !key[i].flying ->
		key[i].st = QUEUED;
		wake_entry(SERVER_OF(i), NAME_OF(i));
		look(i) }
	:: d_step { key[i].st == QUEUED && valid[SERVER_OF(i)] && !BLOCKED(i) -> look(i) }

#ifdef KEEP
	/*
	 * It has stood in line for longer than any idle key is kept: what is ahead
	 * uses the lock, and tries are told.
	 */
	:: d_step { key[i].st == QUEUED && !key[i].behind && BLOCKED(i) ->
		find_idle(i);
		if
		:: other == 0 ->
			key[i].behind = 1;
			wake_entry(SERVER_OF(i), NAME_OF(i))
		:: else
		fi;
		a = 0; other = 0 }
#endif

#if BYHAND > 0
	/* the keys on the lease are listed; the queue itself decides */
	:: d_step { key[i].st == HELD && !key[i].unlisted &&
		(ABSENT(i)
#if TWICE > 0
		 || key[i].put_again
#endif
		) ->
#if TWICE > 0
		if
		:: key[i].put_again ->
#ifdef NO_RULE_11
			/* there is a key of that name */
			key[i].gone = 0; key[i].put_again = 0
#else
			replace(NAME_OF(i), IN_ETCD(i), ENTRY(SERVER_OF(i), key[i].mode, GHOST))
#endif
		:: else
		fi;
#ifdef NO_RULE_11
		if
		:: ABSENT(i) -> lose(i)
		:: else -> check_exclusion(NAME_OF(i))
		fi;
#else
		lose(i);
#endif
#else
		lose(i);
#endif
		a = 0; b = 0; u = 0 }
#endif
#if TWICE > 0
	/* a put that was applied is applied again; a compare sees to it
	 * that nothing comes of that while the key is there */
	:: d_step { key[i].twice && LIVE(i) ->
		key[i].twice = 0;
		if
		:: ABSENT(i) -> append(NAME_OF(i), IN_ETCD(i)); key[i].put_again = 1
		:: else
		fi;
		c = 0 }
#endif

	/* deleted, and confirmed */
	:: d_step { key[i].st == DELETING && !key[i].flying ->
		printf("etcd: delete key %d\n", i);
		remove(NAME_OF(i), IN_ETCD(i));
#if TWICE > 0
		if
		:: key[i].twice -> late[ENTRY_OF(i) * 2 + key[i].mode]++
		:: else
		fi;
#endif
		free_key(i); a = 0 }
#ifdef NO_RULE_1
	:: d_step { key[i].st == HELD && key[i].deleting == 1 ->
		remove(NAME_OF(i), IN_ETCD(i)); key[i].deleting = 0; found_state = 1 };
		d_step { found_state ->
			found_state = 0;
			if
			:: key[i].st == HELD -> free_key(i)
			:: else
			fi; a = 0 }
#endif

	/* the window ends, and the key goes when it was only kept for it */
	:: d_step { key[i].st == HELD && key[i].window && MAY_END(i) && WINDOW_MAY_END ->
		printf("server %d: the window of key %d ends\n", SERVER_OF(i), i);
		key[i].window = 0;
		needed(i);
		if
		:: !res -> mark_deleting(i)
		:: else
		fi;
		a = 0; b = 0; g = 0; res = 0 }

	/* does another server wait behind it? */
	:: d_step { key[i].st == HELD && key[i].check == 1 ->
		find(NAME_OF(i), IN_ETCD(i));
		if
		:: found ->
			key[i].check = 2;
			for (c : 0 .. QL - 1) {
				if
				:: c + 1 > found && FOREIGN(q[NAME_OF(i) * QL + c], SERVER_OF(i)) &&
				   (MODE(q[NAME_OF(i) * QL + c]) == EX
#ifndef NO_RULE_9C
					|| key[i].mode == EX
#endif
				   ) -> key[i].check = 3
				:: else
				fi
			}
			wake_entry(SERVER_OF(i), NAME_OF(i))
		:: else -> skip
		fi;
		a = 0; c = 0; found = 0 }
	od
}

/* A key with our lease's id that nobody here knows. */
proctype Ghosts(byte s)
{
	byte n;

end:
	do
#ifndef NO_RULE_15
	:: d_step {
		(q[0] == ENTRY(s, SH, GHOST) || q[0] == ENTRY(s, EX, GHOST) ||
		 q[1] == ENTRY(s, SH, GHOST) || q[1] == ENTRY(s, EX, GHOST) ||
		 q[2] == ENTRY(s, SH, GHOST) || q[2] == ENTRY(s, EX, GHOST) ||
		 q[3] == ENTRY(s, SH, GHOST) || q[3] == ENTRY(s, EX, GHOST)) ->
		remove(0, ENTRY(s, SH, GHOST));
		remove(0, ENTRY(s, EX, GHOST)) }
#endif
#if LOST + TWICE > 0
	/* a put that comes late; only while its lease lives */
	:: d_step { late[s * NN * 2 + SH] > 0 ->
		late[s * NN * 2 + SH]--; append(0, ENTRY(s, SH, GHOST)); c = 0 }
	:: d_step { late[s * NN * 2 + EX] > 0 ->
		late[s * NN * 2 + EX]--; append(0, ENTRY(s, EX, GHOST)); c = 0 }
#endif
	:: false
	od
}

/* ---------------------------------------------------------------- what goes wrong */

/* Every key on this server's lease goes, or becomes a stranger's. */
inline lease_keys(s, gone)
{
	for (f : 0 .. NN - 1) {
		for (c : 0 .. QL - 1) {
			if
			:: q[f * QL + c] == 0
			:: (gone) && q[f * QL + c] != 0 && OWNER(q[f * QL + c]) == (s) ->
				q[f * QL + c] = 0
			:: !(gone) && q[f * QL + c] != 0 && OWNER(q[f * QL + c]) == (s) ->
				q[f * QL + c] = q[f * QL + c] | OLD
			:: else
			fi
		}
		compact(f)
	}
#if LOST + TWICE > 0
	for (f : (s) * NN * 2 .. (s) * NN * 2 + NN * 2 - 1) {
		late[f] = 0
	}
#endif
	c = 0; f = 0
}

inline old_keys_go(s)
{
	for (f : 0 .. NN - 1) {
		for (c : 0 .. QL - 1) {
			if
			:: (q[f * QL + c] & OLD) && OWNER(q[f * QL + c]) == (s) -> q[f * QL + c] = 0
			:: else
			fi
		}
		compact(f)
	}
	c = 0; f = 0
}

/* The deadline always passes before etcd ends the lease: lease.pml. */
#if LOSSES > 0
byte loss_budget = LOSSES;

proctype Lease(byte s)
{
end:
	do
	:: d_step { valid[s] && loss_budget > 0 -> loss_budget--; valid[s] = 0;
		printf("server %d: the deadline passes\n", s) };
		if
		:: d_step { lease_keys(s, 1) }
		:: skip
		fi;
		/* the epoch ends */
		d_step {
			for (e2 : s * NN * K .. s * NN * K + NN * K - 1) {
#ifdef NO_RULE_3
				/* holds are not marked */
				if
				:: key[e2].st != FREE && key[e2].st != WANTED -> free_key(e2)
				:: else
				fi
#else
				if
				:: key[e2].st == HELD -> lose(e2)
				:: key[e2].st != FREE && key[e2].st != WANTED && key[e2].st != HELD -> free_key(e2)
				:: else
				fi
#endif
			}
			lease_keys(s, 0);
			a = 0; e2 = 0
		};
		if
		:: d_step { old_keys_go(s) }
		:: skip
		fi;
		/* another lease */
		d_step {
			valid[s] = 1;
			check_exclusion(0); a = 0; b = 0; u = 0
		};
		d_step { old_keys_go(s) }
	od
}
#endif

#if BYHAND > 0
proctype Hand()
{
	byte left = BYHAND;
	byte x;

end:
	do
	:: left > 0 ->
		if
		:: x = 0
		:: x = 1
		:: x = 2
		fi;
		d_step {
			left--;
			if
			:: q[x] != 0 && OWNER(q[x]) != MUTEX ->
				if
				:: !(q[x] & OLD) && SLOT(q[x]) != GHOST &&
				   key[OWNER(q[x]) * NN * K + SLOT(q[x]) % K].st == HELD ->
					key[OWNER(q[x]) * NN * K + SLOT(q[x]) % K].gone = 1
				:: else
				fi;
				q[x] = 0;
				compact(0)
			:: else
			fi;
			x = 0
		}
	od
}
#endif

#if RESTARTS > 0
/* The worker of server 0 dies; the next one sees what is in shared memory. */
proctype Restart()
{
	byte left = RESTARTS;

end:
	do
	:: d_step { left > 0 ->
		left--;
		for (f : 0 .. NN * K - 1) {
			if
			:: key[f].flying ->
#if LOST + TWICE > 0
				late[(f / K) * 2 + key[f].mode]++;
#endif
				key[f].flying = 0
			:: else
			fi;
			if
			:: key[f].st == SENT -> mark_deleting(f); wake_entry(0, f / K)
#if BYHAND > 0
#ifdef NO_RELIST
			:: key[f].st == HELD -> key[f].unlisted = 1
#endif
#endif
			:: else
			fi
		}
		a = 0; f = 0 }
	od
}
#endif

#if CRASHES > 0
/* A backend of server 0 is killed: all go, shared memory is made anew. */
proctype Crash()
{
	byte left = CRASHES;

end:
	do
	:: d_step { left > 0 ->
		left--;
		for (f : 0 .. NN * K - 1) {
			clear_key(f)
		}
		for (f : 0 .. NSES - 1) {
			if
			:: SRV(f) == 0 -> crash[f] = 1; latch[f] = 0
			:: else
			fi
		}
		for (f : 0 .. NSES * NN - 1) {
			if
			:: SRV(f / NN) == 0 ->
				tag[f] = 0; place[f] = 0; wantx[f] = 0;
				clear_hold(f * 2); clear_hold(f * 2 + 1)
			:: else
			fi
		}
#ifdef TOKENS
		for (f : 0 .. NN - 1) {
			last[f] = 0
		}
#endif
		lease_keys(0, 0);
		a = 0; f = 0 };
		d_step { old_keys_go(0) }
	od
}
#endif

#if MUTEXES > 0
/* A client of Go's Mutex: a key under the name, and wait for all before it. */
proctype Mutex()
{
	byte left = MUTEXES;

end:
	do
	:: d_step { left > 0 -> left--; append(0, ENTRY(MUTEX, EX, 0)); c = 0 };
		d_step { q[0] == ENTRY(MUTEX, EX, 0) ->
			mutex_held = 1;
#ifdef TOKENS
			check_token(0, EX, qrev[0] * PASSES);
#endif
			check_exclusion(0); a = 0; b = 0; u = 0 };
		d_step { mutex_held = 0; remove(0, ENTRY(MUTEX, EX, 0)) }
	od
}
#endif

init {
	atomic {
		for (a : 0 .. NSRV - 1) {
			valid[a] = 1
		}
		for (a : 0 .. NENT * K - 1) {
			run Slot(a)
		}
#if LOST + TWICE > 0
		for (a : 0 .. NSRV - 1) {
			run Ghosts(a)
		}
#endif
		run Session(0, OPS0);
		run Session(1, OPS1);
#if NSES > 2
		run Session(2, OPS2);
#endif
#if NSES > 3
		run Session(3, OPS3);
#endif
#if NSES > 4
		run Session(4, OPS4);
#endif
#if LOSSES > 0
		run Lease(0);
		run Lease(1);
#endif
#if BYHAND > 0
		run Hand();
#endif
#if RESTARTS > 0
		run Restart();
#endif
#if CRASHES > 0
		run Crash();
#endif
#if MUTEXES > 0
		run Mutex();
#endif
		a = 0
	}
}
