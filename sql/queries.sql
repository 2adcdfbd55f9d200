--
-- Locks in queries: what doc/locks-in-queries.md says
--
CREATE VIEW locked AS
  SELECT name, depth FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C";
CREATE TABLE jobs AS SELECT id, false AS done FROM generate_series(1, 3) id;

-- To sort, all rows are evaluated
SELECT id FROM jobs WHERE NOT done AND etcd_try_lock('/job/' || id) ORDER BY id LIMIT 1;
SELECT * FROM locked;
SELECT etcd_unlock_all();
BEGIN;
WITH candidate AS MATERIALIZED (
    SELECT id FROM jobs WHERE NOT done ORDER BY id LIMIT 1)
SELECT id FROM candidate WHERE etcd_try_xact_lock('/job/' || id);
SELECT * FROM locked;
COMMIT;

-- Twice in one statement
SELECT etcd_try_lock('/x') WHERE etcd_try_lock('/x');
SELECT * FROM locked;
SELECT etcd_unlock('/x');
SELECT * FROM locked;
SELECT etcd_unlock('/x');

-- Not at all
SELECT EXISTS (SELECT etcd_lock('/x'));
WITH l AS (SELECT etcd_lock('/x')) INSERT INTO jobs VALUES (4, true);
SELECT CASE WHEN id = 1 THEN 0 ELSE etcd_lock('/x') END, coalesce(id, etcd_lock('/x'))
  FROM jobs WHERE id = 1;
SELECT * FROM locked;

-- While a query is planned
CREATE FUNCTION my_lock(text) RETURNS bigint LANGUAGE plpgsql STABLE
  AS 'BEGIN RETURN etcd_lock($1); END';
EXPLAIN (COSTS OFF) SELECT id FROM jobs WHERE id = my_lock('/x');
SELECT name FROM locked;
SELECT etcd_unlock_all();
ALTER FUNCTION my_lock VOLATILE;
EXPLAIN (COSTS OFF) SELECT id FROM jobs WHERE id = my_lock('/x');
SELECT * FROM locked;

-- When a row is fetched
BEGIN;
DECLARE c CURSOR FOR SELECT etcd_try_xact_lock('/job/' || id) FROM generate_series(1, 3) id;
FETCH c;
SELECT * FROM locked;
COMMIT;

-- Names are bytes
SELECT etcd_try_lock('/x'), etcd_try_lock('/x '), etcd_try_lock('//x'), etcd_try_lock('/X');
SELECT * FROM locked;
SELECT etcd_unlock_all();

DROP FUNCTION my_lock;
DROP TABLE jobs;
DROP VIEW locked;
