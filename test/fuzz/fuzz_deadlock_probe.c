/*-------------------------------------------------------------------------
 *
 * fuzz_deadlock_probe.c
 *	  deadlock_probe.c: the input is a message that anybody may have put below a
 *	  sentinel.
 *
 *-------------------------------------------------------------------------
 */
#include "etcd/deadlock_probe.h"
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static DeadlockProbe probe;
	static DeadlockProbe again;
	uint8_t    *copy = (uint8_t *) exact_copy(data, size);
	unsigned char *message;
	size_t		len;
	int			nprocesses = 0;

	if (deadlock_probe_decode(copy, size, &probe))
	{
		check(probe.nhops > 0 && probe.nhops <= DEADLOCK_PROBE_MAX_HOPS);
		check(probe.nprocesses <= DEADLOCK_PROBE_MAX_PROCESSES);
		check(probe.round == 1 || (probe.round == 2 && probe.at < probe.nhops));
		for (int i = 0; i < probe.nhops; i++)
		{
			check(deadlock_probe_first_process(&probe, i) == nprocesses);
			nprocesses += probe.hops[i].nprocesses;
			check(deadlock_probe_decide(&probe, probe.hops[i].lease, &probe.hops[i].wanted) !=
				  DEADLOCK_GOES_ON);
		}
		check(nprocesses == probe.nprocesses);

		/* What it says is written, and read again. */
		message = deadlock_probe_encode(&probe, &len);
		check(message != NULL);
		check(deadlock_probe_decode(message, len, &again));
		check(deadlock_probe_same_path(&probe, &again));
		free(message);
	}
	free(copy);
	return 0;
}
