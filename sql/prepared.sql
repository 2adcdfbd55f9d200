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

DROP VIEW held;
