--
-- One session and both modes of a lock
--
CREATE VIEW held AS
  SELECT name, mode, scope, granted FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C", mode, scope;

-- Shared, then exclusive
SELECT etcd_lock_shared('up') > 0 AS shared;
SELECT etcd_lock('up') > 0 AS exclusive;
SELECT * FROM held;
SELECT etcd_unlock('up');
SELECT * FROM held;
SELECT etcd_lock_check('up');
SELECT etcd_unlock_shared('up');
SELECT * FROM held;

-- released in the other order
SELECT etcd_lock_shared('up') > 0 AS shared, etcd_lock('up') > 0 AS exclusive;
SELECT etcd_unlock_shared('up');
SELECT * FROM held;
SELECT etcd_lock_check('up');
SELECT etcd_unlock('up');
SELECT * FROM held;

-- Exclusive, then shared
SELECT etcd_lock('down') > 0 AS exclusive;
SELECT etcd_lock_shared('down') > 0 AS shared;
SELECT * FROM held;
SELECT etcd_unlock('down');
SELECT * FROM held;
SELECT etcd_lock_check('down');

-- and exclusive once more
SELECT etcd_lock('down') > 0 AS exclusive;
SELECT * FROM held;
SELECT etcd_unlock_shared('down');
SELECT etcd_unlock('down');
SELECT * FROM held;

-- The same with tries, none of which can fail
SELECT etcd_try_lock_shared('try') AS shared, etcd_try_lock('try') AS exclusive,
       etcd_try_lock_shared('try') AS shared_again,
       etcd_try_lock('try', interval '1 second') AS exclusive_again;
SELECT * FROM held;
SELECT etcd_unlock('try'), etcd_unlock('try'), etcd_unlock_shared('try'),
       etcd_unlock_shared('try');
SELECT * FROM held;

-- One mode for the transaction, the other for the session
SELECT etcd_lock_shared('mixed') > 0 AS shared;
BEGIN;
SELECT etcd_xact_lock('mixed') > 0 AS exclusive;
SELECT * FROM held;
COMMIT;
SELECT * FROM held;
BEGIN;
SELECT etcd_xact_lock('mixed') > 0 AS exclusive;
SELECT etcd_unlock_shared('mixed');
SELECT * FROM held;
ROLLBACK;
SELECT * FROM held;

-- Tokens never decrease, whatever the mode
CREATE TEMP TABLE tokens (n serial, token bigint);
INSERT INTO tokens (token) SELECT etcd_lock_shared('tokens');
INSERT INTO tokens (token) SELECT etcd_lock('tokens');
SELECT etcd_unlock_all();
INSERT INTO tokens (token) SELECT etcd_lock('tokens');
SELECT etcd_unlock_all();
INSERT INTO tokens (token) SELECT etcd_lock_shared('tokens');
SELECT etcd_unlock_all();
INSERT INTO tokens (token) SELECT etcd_lock('tokens');
SELECT etcd_unlock_all();
SELECT count(*) AS tokens,
       count(*) FILTER (WHERE token < before) AS decreased
  FROM (SELECT token, lag(token) OVER (ORDER BY n) AS before FROM tokens) t;

SELECT count(pid) FROM etcd_locks;
DROP VIEW held;
