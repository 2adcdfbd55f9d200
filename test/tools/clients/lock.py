#!/usr/bin/python3
"""The lock of python3-etcd3, for test/tools/108_clients.pl.

    lock.py HOST PORT NAME

Prints "held" when it has the lock, unlocks at the end of its input.
"""

import sys

import etcd3

host, port, name = sys.argv[1:]
lock = etcd3.client(host=host, port=int(port)).lock(name, ttl=60)
if lock.acquire(timeout=3):
    print("held", flush=True)
    sys.stdin.read()
    lock.release()
