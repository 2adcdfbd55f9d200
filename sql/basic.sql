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

-- All of them are VOLATILE, PARALLEL UNSAFE, not STRICT if they have arguments,
-- and not for PUBLIC, but for one that only looks at the caller's search_path
SELECT p.oid::regprocedure AS function, p.provolatile, p.proparallel,
       p.proisstrict, has_function_privilege('public', p.oid, 'EXECUTE') AS public
  FROM pg_proc p
  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
  JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'etcd_lock'
 WHERE d.deptype = 'e'
   AND (p.provolatile <> 'v' OR p.proparallel <> 'u' OR
        (p.pronargs > 0 AND
         p.proisstrict <> (p.pronamespace = 'etcd_advisory'::regnamespace)) OR
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
  FROM etcd_locks WHERE pid IS NOT NULL;
SELECT etcd_unlock('basic');
SELECT etcd_lock_token('basic') IS NULL AS no_token, etcd_lock_check('basic');
SELECT count(pid) FROM etcd_locks;

-- How often it is held shows, and for whom
SELECT etcd_lock('basic') > 0 AS once, etcd_lock('basic') > 0 AS twice,
       etcd_xact_lock('basic') > 0 AS thrice, etcd_lock_shared('basic') > 0 AS shared;
SELECT name, mode, depth, datname = current_database() AS datname,
       usename = session_user AS usename
  FROM etcd_locks WHERE pid IS NOT NULL ORDER BY mode;
BEGIN;
SELECT etcd_xact_lock('basic') > 0 AS thrice;
SELECT mode, scope, depth FROM etcd_locks WHERE pid IS NOT NULL ORDER BY mode;
COMMIT;
SELECT mode, scope, depth FROM etcd_locks WHERE pid IS NOT NULL ORDER BY mode;
SELECT etcd_unlock_all();

-- Everything says what it is for
SELECT pg_describe_object(classid, objid, 0) AS without_comment
  FROM pg_depend d
  JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'etcd_lock'
 WHERE d.deptype = 'e' AND obj_description(objid, classid::regclass::name) IS NULL
   AND NOT EXISTS (SELECT FROM pg_type t WHERE classid = 'pg_type'::regclass AND t.oid = objid)
 ORDER BY 1;

-- Each argument NULL in turn is an error, in each of them: nothing locked must not
-- look like an answer
DO $$
DECLARE
  f regproc;
  types oid[];
  arguments text;
BEGIN
  FOR f, types IN
    SELECT p.oid, string_to_array(p.proargtypes::text, ' ')::oid[]
      FROM pg_proc p
      JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
      JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'etcd_lock'
     WHERE d.deptype = 'e' AND p.prokind = 'f' AND p.pronargs > 0 AND p.provariadic = 0 AND
           p.pronamespace <> 'etcd_advisory'::regnamespace
     ORDER BY p.oid::regprocedure::text COLLATE "C"
  LOOP
    FOR i IN 1 .. array_length(types, 1) LOOP
      SELECT string_agg(CASE WHEN n = i THEN 'NULL'
                             WHEN type = 'text'::regtype THEN quote_literal('a')
                             WHEN type = 'interval'::regtype THEN quote_literal('0')
                             WHEN type = 'timestamptz'::regtype THEN quote_literal('2000-01-01')
                             ELSE '1' END || '::' || format_type(type, NULL), ', ' ORDER BY n)
        INTO arguments
        FROM unnest(types) WITH ORDINALITY AS u (type, n);
      BEGIN
        EXECUTE format('SELECT %s(%s)', f, arguments);
        RAISE WARNING 'no error from %(%)', f, arguments;
      EXCEPTION WHEN null_value_not_allowed THEN
        NULL;
      END;
    END LOOP;
  END LOOP;
END
$$;
CALL etcd_lock_wait(NULL::text);
CALL etcd_lock_wait(NULL::bigint);
CALL etcd_lock_wait(1, NULL);
SELECT etcd_lock(NULL::text);
SELECT etcd_lock(1, NULL);
SELECT etcd_try_lock('basic', wait => NULL);
SELECT etcd_try_once('basic', NULL);
SELECT count(pid) FROM etcd_locks;

-- A role needs EXECUTE
CREATE ROLE regress_etcd_lock;
SET ROLE regress_etcd_lock;
SELECT etcd_lock('basic');
SELECT etcd_unlock_all();
CALL etcd_lock_wait('basic');
SELECT * FROM etcd_locks WHERE pid IS NOT NULL;
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
