/*-------------------------------------------------------------------------
 *
 * test_key_machine.c
 *	  Unit test of key_machine.c: every cell, and what must hold of them all.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/key_machine.h"
#include "tap.h"

/* What each event does in each state where it can happen. */
static const struct
{
	const char *state;
	const char *event;
	const char *next;
	const char *actions;
}			cells[] = {
	{"free", "want", "wanted", "work"},
	{"wanted", "take put", "put ready", "queue"},
	{"wanted", "take read", "read ready", "queue"},
	{"wanted", "take try", "try ready", "queue"},
	{"wanted", "abandon", "free", "free wake"},
	{"put ready", "send", "put sent", ""},
	{"put ready", "abandon", "dropped", "work wake"},
	{"put ready", "end epoch", "free", "free wake reuse"},
	{"put ready", "adopt", "put ready", "queue"},
	{"put sent", "put", "queued", "wake"},
	{"put sent", "unsent", "put ready", "queue"},
	{"put sent", "unknown", "delete ready", "wake queue"},
	{"put sent", "refuse", "free", "fail free wake reuse"},
	{"put sent", "exists", "delete ready", "wake queue"},
	{"put sent", "abandon", "abandoned", "wake"},
	{"put sent", "end epoch", "free", "free wake"},
	{"put sent", "adopt", "delete ready", "wake queue"},
	{"read ready", "send", "read sent", ""},
	{"read ready", "abandon", "dropped", "work wake"},
	{"read ready", "end epoch", "free", "free wake reuse"},
	{"read ready", "adopt", "read ready", "queue"},
	{"read sent", "unsent", "read ready", "queue"},
	{"read sent", "unknown", "read ready", "queue"},
	{"read sent", "refuse", "free", "fail free wake reuse"},
	{"read sent", "exists", "delete ready", "wake queue"},
	{"read sent", "clear", "try ready", "queue"},
	{"read sent", "kept", "put ready", "queue"},
	{"read sent", "blocked", "free", "fail free wake reuse"},
	{"read sent", "abandon", "dropped", "work wake"},
	{"read sent", "end epoch", "free", "free wake reuse"},
	{"read sent", "adopt", "read ready", "queue"},
	{"try ready", "take read", "read ready", "queue"},
	{"try ready", "send", "try sent", ""},
	{"try ready", "abandon", "dropped", "work wake"},
	{"try ready", "end epoch", "free", "free wake reuse"},
	{"try ready", "adopt", "read ready", "queue"},
	{"try sent", "put", "queued", "wake"},
	{"try sent", "unsent", "try ready", "queue"},
	{"try sent", "unknown", "delete ready", "unsure wake queue"},
	{"try sent", "refuse", "free", "fail free wake reuse"},
	{"try sent", "exists", "delete ready", "unsure wake queue"},
	{"try sent", "clear", "try ready", "queue"},
	{"try sent", "kept", "put ready", "queue"},
	{"try sent", "blocked", "free", "fail free wake reuse"},
	{"try sent", "abandon", "abandoned", "wake"},
	{"try sent", "end epoch", "free", "unsure free wake"},
	{"try sent", "adopt", "delete ready", "unsure wake queue"},
	{"queued", "grant", "held", "wake"},
	{"queued", "missing", "delete ready", "unsure wake queue"},
	{"queued", "hopeless", "delete ready", "fail wake queue"},
	{"queued", "abandon", "delete ready", "work wake"},
	{"queued", "end epoch", "free", "unsure free wake"},
	{"queued", "adopt", "queued", "read"},
	{"held", "missing", "free", "unsure lose free wake"},
	{"held", "abandon", "delete ready", "work wake"},
	{"held", "break", "delete ready", "unsure lose work wake"},
	{"held", "end epoch", "free", "unsure lose free wake"},
	{"held", "adopt", "held", "read"},
	{"dropped", "unsent", "dropped", ""},
	{"dropped", "unknown", "dropped", ""},
	{"dropped", "refuse", "dropped", ""},
	{"dropped", "exists", "dropped", ""},
	{"dropped", "clear", "dropped", ""},
	{"dropped", "kept", "dropped", ""},
	{"dropped", "blocked", "dropped", ""},
	{"dropped", "drop", "free", "free wake reuse"},
	{"dropped", "end epoch", "free", "free wake reuse"},
	{"dropped", "adopt", "dropped", ""},
	{"abandoned", "put", "delete ready", "wake queue"},
	{"abandoned", "unsent", "free", "free wake reuse"},
	{"abandoned", "unknown", "delete ready", "wake queue"},
	{"abandoned", "refuse", "free", "free wake reuse"},
	{"abandoned", "exists", "delete ready", "wake queue"},
	{"abandoned", "clear", "free", "free wake reuse"},
	{"abandoned", "kept", "free", "free wake reuse"},
	{"abandoned", "blocked", "free", "free wake reuse"},
	{"abandoned", "end epoch", "free", "free wake"},
	{"abandoned", "adopt", "delete ready", "wake queue"},
	{"delete ready", "send", "delete sent", ""},
	{"delete ready", "end epoch", "free", "free wake"},
	{"delete ready", "adopt", "delete ready", "queue"},
	{"delete sent", "unsent", "delete ready", "queue"},
	{"delete sent", "unknown", "delete ready", "queue"},
	{"delete sent", "refuse", "delete ready", "queue"},
	{"delete sent", "missing", "free", "free wake"},
	{"delete sent", "deleted", "free", "free wake reuse"},
	{"delete sent", "end epoch", "free", "free wake"},
	{"delete sent", "adopt", "delete ready", "queue"},
};

static const char *
state_name(KeyState state)
{
	static const char *const names[] = {
		"free", "wanted", "put ready", "put sent", "read ready", "read sent",
		"try ready", "try sent", "queued", "held", "dropped", "abandoned",
		"delete ready", "delete sent"
	};

	_Static_assert(sizeof(names) / sizeof(names[0]) == KEY_NSTATES,
				   "each state must have a name");

	return names[state];
}

static const char *
event_name(KeyEvent event)
{
	static const char *const names[] = {
		"want", "take put", "take read", "take try", "send", "put", "unsent",
		"unknown", "refuse", "exists", "clear", "kept", "blocked", "grant", "missing",
		"hopeless", "deleted", "abandon", "break", "drop", "end epoch", "adopt"
	};

	_Static_assert(sizeof(names) / sizeof(names[0]) == KEY_NEVENTS,
				   "each event must have a name");

	return names[event];
}

#define NCELLS ((int) (sizeof(cells) / sizeof(cells[0])))

static const char *
actions_text(int actions)
{
	static const char *const names[] = {
		"unsure", "lose", "fail", "free", "work", "wake", "reuse", "queue", "read"
	};
	static char text[128];

	text[0] = '\0';
	for (int i = 0; i < 9; i++)
	{
		if (!(actions & 1 << i))
			continue;
		if (text[0] != '\0')
			strcat(text, " ");
		strcat(text, names[i]);
	}
	return text;
}

static int
find_cell(KeyState state, KeyEvent event)
{
	for (int i = 0; i < NCELLS; i++)
	{
		if (strcmp(cells[i].state, state_name(state)) == 0 &&
			strcmp(cells[i].event, event_name(event)) == 0)
			return i;
	}
	return -1;
}

static void
test_cells(void)
{
	int			legal = 0;

	for (KeyState state = 0; state < KEY_NSTATES; state++)
	{
		for (KeyEvent event = 0; event < KEY_NEVENTS; event++)
		{
			KeyStep		step = key_machine_step(state, event);
			int			i = find_cell(state, event);

			legal += step.legal;
			if (i < 0)
				ok(!step.legal, "%s: no %s", state_name(state),
				   event_name(event));
			else
				ok(step.legal &&
				   strcmp(cells[i].next, state_name(step.next)) == 0 &&
				   strcmp(cells[i].actions, actions_text(step.actions)) == 0,
				   "%s, %s: %s (%s)", cells[i].state, cells[i].event,
				   cells[i].next, cells[i].actions);
		}
	}
	is_int(legal, NCELLS, "every cell was seen");
}

static void
test_outside(void)
{
	ok(!key_machine_step(KEY_NSTATES, KEY_ON_WANT).legal, "no state beyond the last");
	ok(!key_machine_step(KEY_FREE, KEY_NEVENTS).legal, "no event beyond the last");
}

/* All states that can follow this one, without going through a free slot. */
static unsigned
reachable(KeyState from)
{
	unsigned	seen = 1u << from;
	bool		more = true;

	while (more)
	{
		more = false;
		for (KeyState state = 0; state < KEY_NSTATES; state++)
		{
			if (!(seen & 1u << state) || state == KEY_FREE)
				continue;
			for (KeyEvent event = 0; event < KEY_NEVENTS; event++)
			{
				KeyStep		step = key_machine_step(state, event);

				if (step.legal && !(seen & 1u << step.next))
				{
					seen |= 1u << step.next;
					more = true;
				}
			}
		}
	}
	return seen;
}

static void
test_deleting_is_final(void)
{
	for (KeyState state = KEY_DROPPED; state < KEY_NSTATES; state++)
	{
		unsigned	seen = reachable(state);
		bool		live = false;

		for (KeyState other = 0; other < KEY_NSTATES; other++)
			live |= (seen & 1u << other) != 0 && key_machine_is_live(other);
		ok(!live, "rule 1: %s is never live again", state_name(state));
		ok((seen & 1u << KEY_FREE) != 0, "%s comes to an end",
		   state_name(state));
	}
}

/* Only these say that etcd does not have the key, nor will. */
static bool
ends_key(KeyState state, KeyEvent event)
{
	switch (event)
	{
		case KEY_ON_UNSENT:
		case KEY_ON_REFUSE:
		case KEY_ON_CLEAR:
		case KEY_ON_KEPT:
		case KEY_ON_BLOCKED:
			return state != KEY_QUEUED && state != KEY_HELD && state != KEY_DELETE_SENT;
		case KEY_ON_MISSING:
		case KEY_ON_DELETED:
		case KEY_ON_END_EPOCH:
			return true;
		default:
			return false;
	}
}

static bool
may_be_in_etcd(KeyState state)
{
	return state == KEY_PUT_SENT || state == KEY_TRY_SENT || state == KEY_QUEUED ||
		state == KEY_HELD || state == KEY_ABANDONED ||
		state == KEY_DELETE_READY || state == KEY_DELETE_SENT;
}

static void
test_step(KeyState state, KeyEvent event, KeyStep step)
{
	const char *from = state_name(state);
	const char *by = event_name(event);

	if (step.next == KEY_HELD && state != KEY_HELD)
		ok(state == KEY_QUEUED && event == KEY_ON_GRANT,
		   "held only by a grant, from the queue");
	if (may_be_in_etcd(state) && !may_be_in_etcd(step.next))
		ok(ends_key(state, event), "rule 15: %s is not forgotten by %s", from, by);
	if (step.next == KEY_FREE && state != KEY_WANTED)
		ok(((step.actions & KEY_DO_REUSE) != 0) ==
		   (!may_be_in_etcd(state) || (ends_key(state, event) &&
									   event != KEY_ON_MISSING && event != KEY_ON_END_EPOCH)),
		   "rule 15: is its serial used again? (%s, %s)", from, by);
	if (step.next == KEY_FREE)
		ok(step.actions & KEY_DO_FREE && step.actions & KEY_DO_WAKE,
		   "a session that waits for a free slot is woken (%s, %s)", from, by);
	if (key_machine_is_live(state) && !key_machine_is_live(step.next))
		ok(step.actions & KEY_DO_WAKE, "so is who asks for it (%s, %s)", from, by);
	if (state == KEY_HELD && step.next != KEY_HELD)
		ok(((step.actions & KEY_DO_LOSE) != 0) == (event != KEY_ON_ABANDON),
		   "holders are told that they lost it by %s", by);
	if (key_machine_step(step.next, KEY_ON_SEND).legal)
		ok(step.actions & (KEY_DO_QUEUE | KEY_DO_WORK),
		   "what is to be sent is (%s, %s)", from, by);
}

/* Part of a request whose response is still to come. */
static bool
is_sent(KeyState state)
{
	return state == KEY_PUT_SENT || state == KEY_READ_SENT ||
		state == KEY_TRY_SENT || state == KEY_ABANDONED ||
		state == KEY_DELETE_SENT;
}

static void
test_steps(void)
{
	for (KeyState state = 0; state < KEY_NSTATES; state++)
	{
		for (KeyEvent event = 0; event < KEY_NEVENTS; event++)
		{
			KeyStep		step = key_machine_step(state, event);

			if (step.legal)
				test_step(state, event, step);
		}
	}
	for (KeyState state = KEY_PUT_READY; state < KEY_NSTATES; state++)
	{
		ok(key_machine_step(state, KEY_ON_ADOPT).legal,
		   "a new worker can go on with %s", state_name(state));
		ok(key_machine_step(state, KEY_ON_END_EPOCH).legal,
		   "the lease can end in %s", state_name(state));
		ok(!is_sent(key_machine_step(state, KEY_ON_ADOPT).next),
		   "and nothing of it is in flight");
	}
}

int
main(void)
{
	test_cells();
	test_outside();
	test_deleting_is_final();
	test_steps();
	return done_testing();
}
