/*-------------------------------------------------------------------------
 *
 * sim_image.h
 *	  What libserver.so offers to the simulator: how its processes run, and what
 *	  a session's client may ask of its backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_IMAGE_H
#define SIM_IMAGE_H

#include "sim_kernel.h"

#define SIM_TEXT	512

/* Names of one call, at most. */
#define SIM_MANY	4

/* How a statement has ended. */
typedef struct SimResult
{
	bool		ok;
	char		sqlstate[6];
	char		message[SIM_TEXT];
	bool		is_null;
	int64_t		value;			/* bigint or boolean */
	int64_t		tokens[SIM_MANY];	/* of a function of many names */
	int			ntokens;
	int			nwarnings;
	char		warning[SIM_TEXT];	/* the last one */
	char		warning_state[6];
} SimResult;

/* What a statement does. */
typedef enum SimStatement
{
	SIM_SELECT,					/* of one function */
	SIM_UPDATE,					/* changes something: gets a transaction id */
	SIM_UPDATE_FOREIGN,			/* changes something elsewhere: gets none */
	SIM_SELECT_SLEEP,			/* takes a while */
	SIM_VIEWS,					/* SELECT of all views */
	SIM_ROW_LOCK				/* SELECT FOR UPDATE of one of a few rows */
} SimStatement;

typedef struct SimCommand
{
	SimStatement statement;
	const char *function;		/* SELECT: C name of the SQL function */
	bool		is_call;		/* it is a procedure */
	const char *name;			/* its first argument */
	bool		as_shown;		/* even if it is an integer key */
	int			nkeys;			/* 1: a bigint instead, 2: two ints */
	int64_t		keys[2];
	const char *names[SIM_MANY];	/* or an array of so many names */
	int			nnames;
	bool		has_wait;
	int64_t		wait;			/* microseconds */
	bool		has_tick;
	int64_t		tick;
	bool		has_token;
	int64_t		token;
	int64_t		duration;		/* SLEEP: microseconds */
	int			row;
	bool		keep_portal;	/* extended protocol: the portal lives on until
								 * the transaction ends */
} SimCommand;

/* What a session has or wants, as its server's table has it. */
typedef enum SimHoldState
{
	SIM_HOLD_HAS,				/* the lock, by a key */
	SIM_HOLD_WAITS,				/* in etcd's queue, with a key */
	SIM_HOLD_DRAINS
} SimHoldState;

typedef struct SimHold
{
	int			procno;
	SimHoldState state;
	char		name[64];
	bool		exclusive;		/* the key's mode, */
	int64_t		revision;		/* and create_revision */
} SimHold;

struct SimImage
{
	/* The process from its beginning to its end; does not return. */
	void		(*run) (SimProc *proc);
	void		(*free_memory) (void);
	size_t		(*memory) (void);	/* in use, bytes */

	/* For the session's body, in its process. */
	void		(*execute) (const SimCommand *command, SimResult *result);
	void		(*begin) (SimResult *result);
	void		(*commit) (SimResult *result);
	void		(*rollback) (SimResult *result);
	void		(*savepoint) (SimResult *result);
	void		(*rollback_to) (SimResult *result);
	void		(*release) (SimResult *result);
	void		(*discard_all) (SimResult *result);
	void		(*prepare) (SimResult *result); /* TRANSACTION: value is its number */
	void		(*finish_prepared) (SimResult *result, int64_t number, bool commit);
	int64_t		(*any_prepared) (void); /* the server's last one; 0: none */
	/* Does etcd_locks, as SIM_VIEWS last read it, show it as this session's, granted? */
	bool		(*locks_show) (const char *name, bool exclusive, int64_t token);
	bool		(*queue_shows) (const char *name, int64_t revision);	/* likewise its key */
	bool		(*in_transaction) (void);
	bool		(*in_block) (void);
	bool		(*failed) (void);	/* the transaction, until it is rolled back */
	void		(*idle) (int64_t microseconds); /* the client thinks */
	void		(*set_lock_timeout) (int milliseconds);

	/* For checks, called as the server's postmaster. */
	/* the create_revision of the key by which it does; 0: it does not */
	int64_t		(*believes) (int procno, const char *name, bool exclusive, int64_t token);
	/* entries, slots and the like; what: one of them */
	int			(*left_over) (char *what, size_t size);
	const char *(*left_over_worker) (void); /* as the worker; NULL: nothing */
	bool		(*lease_alive) (void);
	uint64_t	(*lease_base) (void);
	int			(*holds) (SimHold *holds, int max);
};

extern const SimImage sim_image;

#endif							/* SIM_IMAGE_H */
