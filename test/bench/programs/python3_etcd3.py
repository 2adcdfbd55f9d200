#!/usr/bin/python3
"""What the lock of Debian's python3-etcd3 does, one client.

    python3_etcd3.py HOST PORT SECONDS

Prints what sample.h tells.
"""

import sys
import time

import etcd3

WARM_UP = 10


def main():
    host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    client = etcd3.client(host=host, port=port)
    samples = []
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        # A lock object has a lease of its own; it is granted in acquire().
        lock = client.lock("/bench/python", ttl=60)
        before = time.monotonic()
        if not lock.acquire():
            sys.exit("not acquired")
        locked = time.monotonic()
        lock.release()
        samples.append((locked - before, time.monotonic() - locked))
    took = time.monotonic() - began

    for lock_took, unlock_took in samples[WARM_UP:]:
        print("lock %.2f\nunlock %.2f\npair %.2f"
              % (lock_took * 1e6, unlock_took * 1e6, (lock_took + unlock_took) * 1e6))
    print("done %d %.6f" % (len(samples), took))


main()
