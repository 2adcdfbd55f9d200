--
-- Session locks: they stack, ignore transactions, and last until they are
-- unlocked
--
CREATE VIEW held AS
  SELECT name, mode, scope, granted FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C", mode, scope;

-- Every way to take one
SELECT etcd_lock('s1') > 0 AS lock, etcd_lock_shared('s2') > 0 AS lock_shared,
       etcd_try_lock('s3'), etcd_try_lock_shared('s4'),
       etcd_try_lock('s5', interval '1 second'),
       etcd_try_lock_shared('s6', interval '1 second');
CALL etcd_lock_wait('s7');
SELECT * FROM held;

-- Each is an advisory lock of PostgreSQL, too
SELECT mode, granted, count(*) FROM pg_locks
 WHERE locktype = 'advisory' AND pid = pg_backend_pid()
 GROUP BY mode, granted ORDER BY mode;

-- Both ways to give them back
SELECT etcd_unlock('s1'), etcd_unlock_shared('s2'), etcd_unlock('s3'),
       etcd_unlock_shared('s4');
SELECT * FROM held;
SELECT etcd_unlock_all();
SELECT * FROM held;

-- Not held, or not held in that mode: false and a warning
SELECT etcd_unlock('s1');
SELECT etcd_unlock_shared('s1');
SELECT etcd_lock('s1') > 0 AS locked;
SELECT etcd_unlock_shared('s1');
SELECT etcd_unlock('s1');
SELECT etcd_lock_shared('s1') > 0 AS locked;
SELECT etcd_unlock('s1');
SELECT etcd_unlock_shared('s1');
SELECT etcd_unlock_all();

-- It must be released as often as it was acquired
SELECT etcd_lock('s1') > 0 AS first, etcd_lock('s1') > 0 AS second,
       etcd_try_lock('s1') AS third;
SELECT * FROM held;
SELECT etcd_unlock('s1');
SELECT etcd_unlock('s1');
SELECT * FROM held;
SELECT etcd_lock_check('s1');
SELECT etcd_unlock('s1');
SELECT * FROM held;
SELECT etcd_unlock('s1');

-- All at once, however often taken
SELECT etcd_lock('s1') > 0 AS lock, etcd_lock('s1') > 0 AS again,
       etcd_lock_shared('s1') > 0 AS shared, etcd_lock_shared('s2') > 0 AS other;
SELECT etcd_unlock_all();
SELECT * FROM held;

-- The token is the one that the lock was granted with
SELECT etcd_lock('s1') AS token \gset
SELECT etcd_lock_token('s1') = :token AS same;
SELECT etcd_lock('s2') AS other_token \gset
SELECT etcd_lock_token('s1') = :token AS same, etcd_lock_token('s2') = :other_token AS other_same;
SELECT etcd_unlock('s1');
SELECT etcd_lock_token('s1') IS NULL AS none;
SELECT etcd_lock('s1') > :token AS greater;
SELECT etcd_unlock_all();

-- Transactions do not matter: taken and rolled back
BEGIN;
SELECT etcd_lock('s1') > 0 AS locked;
SAVEPOINT s;
SELECT etcd_lock('s2') > 0 AS locked;
ROLLBACK TO s;
SELECT * FROM held;
ROLLBACK;
SELECT * FROM held;

-- released and rolled back
BEGIN;
SELECT etcd_unlock('s1');
ROLLBACK;
SELECT * FROM held;
SELECT etcd_unlock('s2');

-- taken in a statement that fails
SELECT etcd_lock('s1') > 0, 1 / (random() * 0)::int;
SELECT * FROM held;
SELECT etcd_unlock('s1');

-- In the same transaction for the session and for the transaction
BEGIN;
SELECT etcd_xact_lock('s1') > 0 AS xact, etcd_lock('s1') > 0 AS session;
SELECT * FROM held;
SELECT etcd_unlock('s1');
SELECT * FROM held;
SELECT etcd_unlock('s1');
SELECT etcd_lock('s1') > 0 AS session;
COMMIT;
SELECT * FROM held;
SELECT etcd_unlock('s1');

-- etcd_unlock_all leaves transaction locks alone
BEGIN;
SELECT etcd_xact_lock('s1') > 0 AS xact, etcd_lock('s1') > 0 AS session,
       etcd_lock_shared('s2') > 0 AS session_shared;
SELECT etcd_unlock_all();
SELECT * FROM held;
COMMIT;
SELECT * FROM held;

-- Many at a time
SELECT count(etcd_lock('many/' || i)) FROM generate_series(1, 300) i;
SELECT count(pid), count(DISTINCT name) FILTER (WHERE pid IS NOT NULL) FROM etcd_locks;
SELECT count(*) FILTER (WHERE etcd_unlock('many/' || i)) AS unlocked
  FROM generate_series(1, 299) i;
SELECT * FROM held;
SELECT etcd_unlock_all();
SELECT count(pid) FROM etcd_locks;

-- Acquired and released again and again: the table does not fill up
DO $$
BEGIN
	FOR i IN 1 .. 500 LOOP
		PERFORM etcd_lock('again/' || i);
		PERFORM etcd_unlock('again/' || i);
	END LOOP;
END
$$;
SELECT count(pid) FROM etcd_locks;

DROP VIEW held;
