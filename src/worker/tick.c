/*-------------------------------------------------------------------------
 *
 * tick.c
 *	  Ticks of etcd_try_once() in etcd: their values.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"
#include "worker/tick.h"

/*
 * A tick's value in etcd: the tick, TICK_LEN long, and the number of the
 * claim.
 */
char *
tick_value(TimestampTz tick, uint64 claim)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(tick, NULL, &tm, &fsec, NULL, NULL) != 0)
		elog(ERROR, "timestamp out of range");
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ %016llx",
					tm.tm_year, tm.tm_mon, tm.tm_mday,
					tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fsec,
					(unsigned long long) claim);
}

/*
 * The value that a tick's key has, or one that it may get if there is none.
 * The buffer has room for TICK_MAX_LEN characters; of what is not a tick it may
 * get a part.
 */
void
tick_copy(char *buf, const EtcdOpResult *result)
{
	strlcpy(buf, result->nkvs > 0 ? result->kvs[0].value : TICK_NEVER, TICK_MAX_LEN + 1);
}

/*
 * The state of a tick's key.  If the same call has claimed it, it is as good
 * as free: an earlier request was applied, but the response was lost, so
 * nobody has been told that they have the tick.
 */
TickState
tick_state_of(const EtcdOpResult *result, TimestampTz tick, uint64 claim)
{
	const EtcdKeyValue *kv = result->kvs;
	TickState	state;
	char	   *wanted;
	int			order;

	if (result->nkvs == 0)
		return TICK_FREE;
	if (kv->value_len < TICK_LEN || kv->value_len > TICK_MAX_LEN ||
		strlen(kv->value) != kv->value_len)
		return TICK_ODD;
	wanted = tick_value(tick, claim);
	order = strncmp(kv->value, wanted, TICK_LEN);
	if (order < 0)
		state = TICK_FREE;
	else if (order > 0)
		state = TICK_PAST;
	else
		state = strcmp(kv->value, wanted) == 0 ? TICK_OURS : TICK_TAKEN;
	pfree(wanted);
	return state;
}
