--
-- DISCARD ALL, which connection poolers send between two clients
--
CREATE VIEW held AS
  SELECT name, mode, scope, granted FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C", mode, scope;

SELECT etcd_lock('d1') > 0, etcd_lock('d1') > 0, etcd_lock_shared('d1') > 0,
       etcd_lock_shared('d2') > 0, etcd_lock(1) > 0, etcd_lock(1, 2) > 0;
SELECT * FROM held;
DISCARD ALL;
SELECT * FROM held;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';
SELECT etcd_unlock('d1');
SELECT etcd_lock_check('d1'), etcd_lock_token('d1') IS NULL AS no_token;

-- Locks work as before
SELECT etcd_lock('d1') > 0 AS locked;
SELECT etcd_unlock('d1');

-- Again and again, with nothing held, too
DISCARD ALL;
SELECT etcd_lock('d1') > 0 AS locked;
DISCARD ALL;
SELECT etcd_lock('d1') > 0 AS locked;
DISCARD ALL;
SELECT * FROM held;

-- Refused in a transaction block, where nothing is lost
SELECT etcd_lock('d1') > 0 AS locked;
BEGIN;
SELECT etcd_xact_lock('d2') > 0 AS locked;
DISCARD ALL;
ROLLBACK;
SELECT * FROM held;

-- The other DISCARDs are none of our business
DISCARD PLANS;
DISCARD SEQUENCES;
DISCARD TEMP;
SELECT * FROM held;
SELECT etcd_unlock('d1');

-- A new session has nothing of the old one
SELECT etcd_lock('d1') > 0 AS locked;
\c
SELECT count(etcd_lock('d1')) AS locked;
SELECT etcd_unlock_all();

SELECT count(pid) FROM etcd_locks;
DROP VIEW held;
