--
-- CALL etcd_lock_wait: a session lock, waited for outside of any transaction
--
CREATE VIEW held AS
  SELECT name, mode, scope, granted FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C", mode, scope;

CALL etcd_lock_wait('p1');
CALL etcd_lock_wait('p1', interval '1 second');
CALL etcd_lock_wait('p2', wait => '1 second');
SELECT * FROM held;
SELECT etcd_unlock('p1'), etcd_unlock('p1'), etcd_unlock('p1'), etcd_unlock('p2');

-- Nothing of a transaction remains, and the next one is a new one
CALL etcd_lock_wait('p1');
SELECT now() = statement_timestamp() AS new_transaction;
SELECT etcd_unlock_all();

-- Not in a transaction block
BEGIN;
CALL etcd_lock_wait('p1');
ROLLBACK;
SELECT * FROM held;

-- nor in a function, nor in an exception block, which is a subtransaction
CREATE FUNCTION waits() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CALL etcd_lock_wait('p1');
END
$$;
SELECT waits();
DROP FUNCTION waits();
DO $$
BEGIN
	BEGIN
		CALL etcd_lock_wait('p1');
	EXCEPTION WHEN division_by_zero THEN
		NULL;
	END;
END
$$;
SELECT * FROM held;

-- In a DO block and in procedures, also nested and repeated
DO $$
BEGIN
	FOR i IN 1 .. 3 LOOP
		CALL etcd_lock_wait('p' || i);
	END LOOP;
END
$$;
SELECT * FROM held;
SELECT etcd_unlock_all();

CREATE TABLE log (entry text);
CREATE PROCEDURE inner_procedure() LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log VALUES ('before');
	CALL etcd_lock_wait('p1');
	INSERT INTO log VALUES ('after');
END
$$;
CREATE PROCEDURE outer_procedure() LANGUAGE plpgsql AS $$
BEGIN
	CALL inner_procedure();
	RAISE NOTICE 'held: %', etcd_lock_check('p1');
	PERFORM etcd_unlock('p1');
	ROLLBACK;
END
$$;
CALL outer_procedure();
-- what came before the wait was committed by it, what came after was not
SELECT * FROM log;
SELECT * FROM held;
DROP PROCEDURE outer_procedure();
DROP PROCEDURE inner_procedure();
DROP TABLE log;

-- A transaction lock of before does not survive the commit
DO $$
BEGIN
	PERFORM etcd_xact_lock('p1');
	CALL etcd_lock_wait('p2');
	RAISE NOTICE 'held: %', (SELECT array_agg(name) FROM etcd_locks WHERE pid IS NOT NULL);
END
$$;
SELECT etcd_unlock_all();

-- Bad arguments
CALL etcd_lock_wait(NULL::text);
CALL etcd_lock_wait('');
CALL etcd_lock_wait('p1', interval '-1 second');
SELECT etcd_try_lock('p1', interval '-1 second');
SELECT etcd_lock_wait('p1');

SELECT etcd_unlock_all();
SELECT count(pid) FROM etcd_locks;
DROP VIEW held;
