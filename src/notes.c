/* placeholder */
#include "worker.h"
char *
worker_note_key(const char *ns, uint64 lease, uint64 number)
{
	return psprintf("%s%sholder/%llx-%012llu", ns, ETCD_LOCK_RESERVED,
					(unsigned long long) lease, (unsigned long long) number);
}
