/*-------------------------------------------------------------------------
 *
 * sim_message.h
 *	  Requests to etcd and its answers, as structs on their way.
 *
 * They stand for what the extension's codec would put on the wire: the codec is
 * tested and fuzzed by itself.  Everything in a request is a copy.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIM_MESSAGE_H
#define SIM_MESSAGE_H

#include "etcd/etcd_api.h"

typedef enum SimMethod
{
	SIM_RANGE,
	SIM_TXN,
	SIM_LEASE_GRANT,
	SIM_LEASE_REVOKE,
	SIM_LEASE_KEEPALIVE,
	SIM_LEASE_TIMETOLIVE,
	SIM_STATUS,
	SIM_AUTHENTICATE,
	SIM_WATCH_CREATE,
	SIM_WATCH_CANCEL,
	SIM_CONNECT					/* open, from the first message to the end */
} SimMethod;

typedef struct SimAsk
{
	SimMethod	method;
	EtcdOp		op;				/* RANGE; WATCH: the range */
	EtcdTxn		txn;
	int64_t		id;				/* of a lease or a watch */
	int64_t		ttl;
	bool		keys;
	bool		deletes_only;
	uint64_t	token;			/* that it is sent with; 0: none */
	char	   *name;
	char	   *password;
	void	   *memory;			/* all that it points to */
	int			references;
} SimAsk;

typedef struct SimAnswer
{
	SimMethod	method;
	int			code;			/* EtcdCode; not OK: error */
	EtcdError	error;
	union
	{
		EtcdRangeResult range;
		EtcdTxnResult txn;
		EtcdLeaseResult lease;
		EtcdStatusResult status;
		EtcdAuthResult auth;
		EtcdHeader	header;
		EtcdWatchMessage watch;
	}			of;
} SimAnswer;

extern SimAsk *sim_ask(SimMethod method);
extern SimAsk *sim_ask_range(const EtcdOp *op);
extern SimAsk *sim_ask_txn(const EtcdTxn *txn);
extern SimAsk *sim_ask_watch(const EtcdRange *range, bool deletes_only, int64_t id);
extern SimAsk *sim_ask_login(const char *name, const char *password);
extern SimAsk *sim_ask_keep(SimAsk *ask);	/* one more reference */
extern void sim_ask_free(SimAsk *ask);	/* one less */
extern const char *sim_ask_text(const SimAsk *ask);	/* for people; static */

extern void sim_answer_free(SimAnswer *answer);
extern const char *sim_answer_text(const SimAnswer *answer);

/* Copies of results, for who decodes an answer. */
extern void sim_copy_txn(const EtcdTxnResult *from, EtcdTxnResult *to);
extern void sim_copy_op(const EtcdOpResult *from, EtcdOpResult *to);
extern void sim_copy_lease(const EtcdLeaseResult *from, EtcdLeaseResult *to);
extern void sim_copy_watch(const EtcdWatchMessage *from, EtcdWatchMessage *to);

/* ---- the network, as the running worker sees it ---- */

typedef struct SimCall SimCall;

typedef struct SimNetEvent
{
	SimCall    *call;
	void	   *arg;			/* the caller's */
	bool		message;		/* one of a watch; else the end of the call */
	bool		delivered;		/* end: answer is what etcd has answered */
	bool		ambiguous;		/* end, not delivered: may have been received */
	const char *error;			/* end, not delivered */
	SimAnswer  *answer;			/* message, or end when delivered */
} SimNetEvent;

/*
 * The ask is taken over.  timeout: microseconds; 0: none.  Requests and messages of
 * one stream, a number that sim_net_stream() has drawn, stay in order; 0: of none.
 */
extern SimCall *sim_net_call(const char *endpoint, SimAsk *ask, int64_t timeout,
							 int stream, void *arg);
extern int	sim_net_stream(void);
extern void sim_net_cancel(SimCall *call);

/* The next thing that has come for this process; the answer is the caller's. */
extern bool sim_net_next(SimNetEvent *event);
extern bool sim_net_pending(void);

#endif							/* SIM_MESSAGE_H */
