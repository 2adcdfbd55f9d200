--
-- Several locks in one call: in one order, all or none
--
SELECT array_length(etcd_lock_all('b', 'a', 'c'), 1) AS tokens;
SELECT name, mode, scope, depth FROM etcd_locks WHERE pid IS NOT NULL ORDER BY heldsince, name COLLATE "C";
SELECT etcd_lock_all('b', 'a') = ARRAY[etcd_lock_token('b'), etcd_lock_token('a')] AS in_my_order;
SELECT name, depth FROM etcd_locks WHERE pid IS NOT NULL ORDER BY name;
SELECT etcd_unlock('a'), etcd_unlock('b');
SELECT etcd_unlock_all();

-- Bytes, not the collation, give the order; a name given twice is locked once
SELECT array_length(etcd_lock_all('b', 'B', 'a', 'b', '~'), 1) AS tokens;
SELECT name, depth FROM etcd_locks WHERE pid IS NOT NULL ORDER BY heldsince, name COLLATE "C";
SELECT etcd_unlock_all();
SELECT etcd_lock_all(VARIADIC '{}') AS nothing, etcd_lock_all(VARIADIC '{x}') > '{0}' AS one;
SELECT etcd_unlock_all();

-- Of the transaction
BEGIN;
SELECT etcd_xact_lock_all('b', 'a') > '{0,0}' AS locked;
SELECT name, scope FROM etcd_locks WHERE pid IS NOT NULL ORDER BY name;
COMMIT;
SELECT count(pid) FROM etcd_locks;

-- None, when one of them is no name, or is to be had no more
SELECT etcd_lock_all('a', NULL);
SELECT etcd_lock_all(VARIADIC NULL);
SELECT etcd_lock_all('a', '42');
SELECT etcd_lock_all('a', 'b/');
SELECT count(pid) FROM etcd_locks;
SELECT etcd_lock('a') > 0 AS held_before;
SET etcd_lock.max_names_per_session = 2;
\set VERBOSITY sqlstate
SELECT etcd_lock_all('a', 'b', 'c', 'd');
BEGIN;
SAVEPOINT s;
SELECT etcd_xact_lock_all('a', 'b', 'c', 'd');
ROLLBACK TO s;
SELECT name, scope, depth FROM etcd_locks WHERE pid IS NOT NULL ORDER BY name;
COMMIT;
\set VERBOSITY default
RESET etcd_lock.max_names_per_session;
SELECT name, scope, depth FROM etcd_locks WHERE pid IS NOT NULL ORDER BY name;
SELECT etcd_unlock_all();
