--
-- The extension's objects, and that a lock can be taken and released at all
--
CREATE EXTENSION etcd_lock;

-- Every function for locks, with its arguments and result; pg_advisory.sql has
-- those of etcd_advisory
SELECT p.oid::regprocedure AS function,
       CASE p.prokind WHEN 'p' THEN 'CALL' ELSE pg_get_function_result(p.oid) END
         AS result
  FROM pg_proc p
  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
  JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'etcd_lock'
 WHERE d.deptype = 'e' AND p.pronamespace <> 'etcd_advisory'::regnamespace
 ORDER BY p.oid::regprocedure::text COLLATE "C";

-- All of them are VOLATILE, PARALLEL UNSAFE, STRICT (a procedure cannot be) and
-- not for PUBLIC
SELECT p.oid::regprocedure AS function, p.provolatile, p.proparallel,
       p.proisstrict, has_function_privilege('public', p.oid, 'EXECUTE') AS public
  FROM pg_proc p
  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
  JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'etcd_lock'
 WHERE d.deptype = 'e'
   AND (p.provolatile <> 'v' OR p.proparallel <> 'u' OR
        (p.prokind = 'f' AND NOT p.proisstrict) OR
        has_function_privilege('public', p.oid, 'EXECUTE'))
 ORDER BY p.oid::regprocedure::text COLLATE "C";

-- What can be looked at is for pg_monitor
SELECT c.relname, c.relkind,
       has_table_privilege('public', c.oid, 'SELECT') AS public,
       has_table_privilege('pg_monitor', c.oid, 'SELECT') AS pg_monitor
  FROM pg_class c
  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
  JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'etcd_lock'
 WHERE d.deptype = 'e'
 ORDER BY c.relname COLLATE "C";
SELECT attname, format_type(atttypid, atttypmod)
  FROM pg_attribute
 WHERE attrelid = 'etcd_locks'::regclass AND attnum > 0
 ORDER BY attnum;

-- The settings and their defaults
SELECT name, setting, unit, context
  FROM pg_settings
 WHERE name LIKE 'etcd_lock.%' AND name <> 'etcd_lock.endpoints'
 ORDER BY name COLLATE "C";

-- A setting that does not exist
SET etcd_lock.no_such_setting = 1;

-- A lock
SELECT etcd_lock('basic') > 0 AS locked;
SELECT etcd_lock_token('basic') > 0 AS has_token, etcd_lock_check('basic');
SELECT name, mode, scope, granted, pid = pg_backend_pid() AS mine, token > 0 AS has_token,
       waitstart IS NULL AS does_not_wait, heldsince <= clock_timestamp() AS held, lost
  FROM etcd_locks;
SELECT etcd_unlock('basic');
SELECT etcd_lock_token('basic') IS NULL AS no_token, etcd_lock_check('basic');
SELECT count(*) FROM etcd_locks;

-- Nothing is locked for a NULL
SELECT etcd_lock(NULL::text) IS NULL AS text, etcd_lock(NULL::bigint) IS NULL AS bigint,
       etcd_lock(1, NULL) IS NULL AS int_int,
       etcd_try_lock('basic', wait => NULL) IS NULL AS wait,
       etcd_unlock(NULL::text) IS NULL AS unlock;
SELECT count(*) FROM etcd_locks;

-- A role needs EXECUTE
CREATE ROLE regress_etcd_lock;
SET ROLE regress_etcd_lock;
SELECT etcd_lock('basic');
SELECT etcd_unlock_all();
CALL etcd_lock_wait('basic');
SELECT * FROM etcd_locks;
RESET ROLE;
GRANT EXECUTE ON FUNCTION etcd_lock(text), etcd_unlock(text) TO regress_etcd_lock;
SET ROLE regress_etcd_lock;
SELECT etcd_lock('basic') > 0 AS locked;
SELECT etcd_unlock('basic');
SELECT etcd_lock(1);
RESET ROLE;
DROP OWNED BY regress_etcd_lock;
DROP ROLE regress_etcd_lock;

-- Created and dropped as often as one likes; a lock outlives the functions
SELECT etcd_lock('basic') > 0 AS locked;
DROP EXTENSION etcd_lock;
CREATE EXTENSION etcd_lock;
SELECT etcd_unlock('basic');
