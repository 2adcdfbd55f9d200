--
-- Prepared transactions.  Where max_prepared_transactions is 0, there are none:
-- prepared_1.out
--
CREATE VIEW held AS
  SELECT name, mode, scope, granted FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C", mode, scope;

-- Prepared transactions have no session that could hold a lock
BEGIN;
SELECT etcd_xact_lock('x1') > 0 AS locked;
PREPARE TRANSACTION 'with a lock';
SELECT * FROM held;
SELECT count(*) FROM pg_prepared_xacts;

-- The hint that there are none differs between PostgreSQL's releases
\set VERBOSITY terse
BEGIN;
SAVEPOINT s;
SELECT etcd_xact_lock('x1') > 0 AS locked;
ROLLBACK TO s;
PREPARE TRANSACTION 'without one';
COMMIT PREPARED 'without one';
SELECT etcd_lock('x1') > 0 AS locked;
BEGIN;
PREPARE TRANSACTION 'with a session lock';
SELECT * FROM held;
ROLLBACK PREPARED 'with a session lock';
SELECT etcd_unlock('x1');

-- But they can hold an integer key of PostgreSQL's own
BEGIN;
SELECT pg_advisory_xact_lock(1);
PREPARE TRANSACTION 'with an integer key';
SELECT etcd_try_lock(1), etcd_try_lock(1, interval '100 ms'), etcd_try_lock(2);
ROLLBACK PREPARED 'with an integer key';
SELECT etcd_try_lock(1), etcd_unlock_all();

DROP VIEW held;
