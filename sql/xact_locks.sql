--
-- Transaction locks: they end with the transaction or the subtransaction that
-- took them
--
CREATE VIEW held AS
  SELECT name, mode, scope, granted FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C", mode, scope;

-- Every way to take one
BEGIN;
SELECT etcd_xact_lock('x1') > 0 AS xact_lock,
       etcd_xact_lock_shared('x2') > 0 AS xact_lock_shared,
       etcd_try_xact_lock('x3'), etcd_try_xact_lock_shared('x4'),
       etcd_try_xact_lock('x5', interval '1 second'),
       etcd_try_xact_lock_shared('x6', interval '1 second');
SELECT * FROM held;
COMMIT;
SELECT * FROM held;

-- One statement is a transaction
SELECT etcd_xact_lock('x1') > 0 AS locked, (SELECT count(pid) FROM etcd_locks) AS held;
SELECT * FROM held;

-- They cannot be unlocked
BEGIN;
SELECT etcd_xact_lock('x1') > 0 AS locked;
SELECT etcd_unlock('x1');
SELECT etcd_unlock_all();
SELECT * FROM held;
ROLLBACK;
SELECT * FROM held;

-- They stack, and all of it ends at once
BEGIN;
SELECT etcd_xact_lock('x1') > 0 AS once, etcd_xact_lock('x1') > 0 AS twice,
       etcd_xact_lock_shared('x1') > 0 AS shared;
SELECT * FROM held;
COMMIT;
SELECT * FROM held;

-- An error ends them
BEGIN;
SELECT etcd_xact_lock('x1') > 0 AS locked;
SELECT 1 / 0;
ROLLBACK;
SELECT * FROM held;
SELECT etcd_xact_lock('x1') > 0, 1 / (random() * 0)::int;
SELECT * FROM held;

-- Savepoints: rolled back
BEGIN;
SELECT etcd_xact_lock('outer') > 0 AS locked;
SAVEPOINT s1;
SELECT etcd_xact_lock('s1') > 0 AS locked;
SAVEPOINT s2;
SELECT etcd_xact_lock('s2') > 0 AS locked, etcd_xact_lock('outer') > 0 AS again;
SELECT * FROM held;
ROLLBACK TO s2;
SELECT * FROM held;
ROLLBACK TO s1;
SELECT * FROM held;
SELECT etcd_lock_check('outer'), etcd_lock_token('s1') IS NULL AS no_token;
COMMIT;
SELECT * FROM held;

-- released: the locks belong to what is around
BEGIN;
SAVEPOINT s1;
SAVEPOINT s2;
SELECT etcd_xact_lock('s2') > 0 AS locked;
RELEASE s2;
SELECT * FROM held;
ROLLBACK TO s1;
SELECT * FROM held;
SAVEPOINT s3;
SELECT etcd_xact_lock('s3') > 0 AS locked;
RELEASE s1;
SELECT * FROM held;
COMMIT;
SELECT * FROM held;

-- A savepoint that is rolled back takes its mode along, and leaves the outer one
BEGIN;
SELECT etcd_xact_lock_shared('both') > 0 AS shared;
SAVEPOINT s;
SELECT etcd_xact_lock('both') > 0 AS exclusive;
SELECT * FROM held;
ROLLBACK TO s;
SELECT * FROM held;
COMMIT;

-- PL/pgSQL: an exception block that fails releases what it acquired
BEGIN;
DO $$
BEGIN
	PERFORM etcd_xact_lock('function');
	BEGIN
		PERFORM etcd_xact_lock('kept');
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	BEGIN
		PERFORM etcd_xact_lock('released');
		PERFORM etcd_lock('session');
		RAISE EXCEPTION 'failed';
	EXCEPTION WHEN OTHERS THEN
		RAISE NOTICE 'caught: %', SQLERRM;
	END;
END
$$;
SELECT * FROM held;
COMMIT;
SELECT * FROM held;
SELECT etcd_unlock('session');

-- the error of a lock that cannot be had is caught like any other
DO $$
BEGIN
	PERFORM etcd_xact_lock('outside');
	BEGIN
		PERFORM etcd_xact_lock('inside');
		PERFORM etcd_xact_lock('bad name/');
	EXCEPTION WHEN invalid_name THEN
		RAISE NOTICE 'caught: %', SQLSTATE;
	END;
	RAISE NOTICE 'held: %',
		(SELECT array_agg(name ORDER BY name COLLATE "C") FROM etcd_locks WHERE pid IS NOT NULL);
END
$$;
SELECT * FROM held;

-- a procedure that commits
CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM etcd_xact_lock('step 1');
	PERFORM etcd_lock('whole');
	COMMIT;
	RAISE NOTICE 'after COMMIT: %', (SELECT array_agg(name) FROM etcd_locks WHERE pid IS NOT NULL);
	PERFORM etcd_xact_lock('step 2');
	ROLLBACK;
	RAISE NOTICE 'after ROLLBACK: %', (SELECT array_agg(name) FROM etcd_locks WHERE pid IS NOT NULL);
	PERFORM etcd_unlock('whole');
END
$$;
CALL in_steps();
SELECT * FROM held;
DROP PROCEDURE in_steps();

-- Cursors: a lock is the transaction's, not the cursor's
BEGIN;
DECLARE c CURSOR FOR
  SELECT i, etcd_xact_lock('cursor' || i) > 0 AS locked FROM generate_series(1, 9) i;
FETCH 2 FROM c;
SELECT * FROM held;
CLOSE c;
SELECT * FROM held;
COMMIT;
SELECT * FROM held;

-- opened outside and read inside a savepoint, as pg_advisory_xact_lock does it
BEGIN;
DECLARE c CURSOR FOR
  SELECT i, etcd_xact_lock('cursor' || i) > 0 AS locked,
         pg_advisory_xact_lock(i) IS NOT NULL AS advisory
    FROM generate_series(1, 9) i;
FETCH 1 FROM c;
SAVEPOINT s;
FETCH 1 FROM c;
ROLLBACK TO s;
SELECT * FROM held;
SELECT objid FROM pg_locks
 WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid() ORDER BY objid;
COMMIT;
SELECT * FROM held;

-- opened inside a savepoint that is rolled back
BEGIN;
SAVEPOINT s;
DECLARE c CURSOR FOR
  SELECT i, etcd_xact_lock('cursor' || i) > 0 AS locked FROM generate_series(1, 9) i;
FETCH 1 FROM c;
ROLLBACK TO s;
SELECT * FROM held;
COMMIT;

-- and one that outlives its transaction
BEGIN;
DECLARE c CURSOR WITH HOLD FOR
  SELECT i, etcd_xact_lock('cursor' || i) > 0 AS locked FROM generate_series(1, 2) i;
FETCH 1 FROM c;
COMMIT;
SELECT * FROM held;
FETCH ALL FROM c;
SELECT * FROM held;
CLOSE c;

-- Read-only transactions may lock
BEGIN READ ONLY;
SELECT etcd_xact_lock('x1') > 0 AS locked;
COMMIT;
SELECT count(pid) FROM etcd_locks;

DROP VIEW held;
