--
-- Schema etcd_advisory: PostgreSQL's functions by name, locks of all servers
--
CREATE VIEW held AS
  SELECT name, mode, scope, granted FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C", mode, scope;
CREATE VIEW advisory AS
  SELECT classid, objid, objsubid, mode FROM pg_locks
   WHERE locktype = 'advisory' AND pid = pg_backend_pid()
   ORDER BY classid, objid, objsubid, mode;

-- The same functions, arguments and results: no difference, and how many there are
WITH pg AS (
       SELECT proname, proargtypes, prorettype, proretset, prokind, proisstrict,
              pronargdefaults, provariadic, proargnames
         FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
          AND proname ~ '^pg_(try_)?advisory_'),
     ours AS (
       SELECT proname, proargtypes, prorettype, proretset, prokind, proisstrict,
              pronargdefaults, provariadic, proargnames
         FROM pg_proc WHERE pronamespace = 'etcd_advisory'::regnamespace)
SELECT 'missing' AS what, count(*) FROM (TABLE pg EXCEPT TABLE ours) AS x
UNION ALL
SELECT 'added', count(*) FROM (TABLE ours EXCEPT TABLE pg) AS x
UNION ALL
SELECT 'all', count(*) FROM ours;

-- Everyone may look into the schema, nobody may use or add to what is there
SELECT has_schema_privilege('public', 'etcd_advisory', 'USAGE') AS usage,
       has_schema_privilege('public', 'etcd_advisory', 'CREATE') AS create,
       count(*) FILTER (WHERE has_function_privilege('public', oid, 'EXECUTE')) AS execute
  FROM pg_proc WHERE pronamespace = 'etcd_advisory'::regnamespace;

-- An unqualified call finds them by search_path alone; whether it does can be asked
SELECT in_effect, cardinality(missing) FROM etcd_advisory_in_effect();
SET search_path = "$user", public, pg_catalog, etcd_advisory;
SELECT in_effect, cardinality(missing) FROM etcd_advisory_in_effect();
SET search_path = "$user", public, etcd_advisory, pg_catalog;
SELECT * FROM etcd_advisory_in_effect();
CREATE ROLE regress_etcd_drop_in;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA etcd_advisory TO regress_etcd_drop_in;
REVOKE EXECUTE ON FUNCTION etcd_advisory.pg_advisory_lock(bigint) FROM regress_etcd_drop_in;
SET ROLE regress_etcd_drop_in;
SELECT * FROM etcd_advisory_in_effect();
RESET ROLE;
DROP OWNED BY regress_etcd_drop_in;
DROP ROLE regress_etcd_drop_in;
SET search_path = "$user", public, etcd_advisory, pg_catalog;
SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2),
       pg_try_advisory_lock(3), pg_try_advisory_lock_shared(4),
       pg_advisory_lock(1, 1), pg_advisory_lock_shared(1, 2),
       pg_try_advisory_lock(1, 3), pg_try_advisory_lock_shared(1, 4);
BEGIN;
SELECT pg_advisory_xact_lock(5), pg_advisory_xact_lock_shared(6),
       pg_try_advisory_xact_lock(7), pg_try_advisory_xact_lock_shared(8),
       pg_advisory_xact_lock(1, 5), pg_advisory_xact_lock_shared(1, 6),
       pg_try_advisory_xact_lock(1, 7), pg_try_advisory_xact_lock_shared(1, 8);
TABLE held;
TABLE advisory;
COMMIT;
TABLE held;
SELECT pg_advisory_unlock(1), pg_advisory_unlock_shared(2), pg_advisory_unlock(3),
       pg_advisory_unlock_shared(4), pg_advisory_unlock(1, 1),
       pg_advisory_unlock_shared(1, 2), pg_advisory_unlock(1, 3),
       pg_advisory_unlock_shared(1, 4);
TABLE held;
TABLE advisory;

-- The warnings are PostgreSQL's
SELECT pg_advisory_unlock(1), pg_advisory_unlock_shared(1, 2);

-- Other ways to give the key
PREPARE locks AS SELECT pg_advisory_lock($1), pg_advisory_lock($1::int, $2);
EXECUTE locks(10, 11);
DO $$
BEGIN
	PERFORM pg_advisory_lock(12);
	PERFORM pg_catalog.pg_advisory_lock(13);
END
$$;
TABLE held;
TABLE advisory;

-- What PostgreSQL's own functions hold is released as well, by the one as by all
SELECT pg_advisory_unlock(13), pg_catalog.pg_advisory_lock(14);
SELECT pg_advisory_unlock_all();
TABLE held;
TABLE advisory;

-- These locks and those by etcd_lock() are the same
SELECT pg_advisory_lock(1), etcd_lock(1) > 0 AS etcd_lock;
SELECT etcd_unlock(1), pg_advisory_unlock(1), pg_advisory_unlock(1);
TABLE held;

-- New objects go where they always did; with the schema in front they would go there
CREATE TABLE made (i int);
SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'made'::regclass;
DROP TABLE made;

-- Who may not use them gets an error, not PostgreSQL's function
RESET search_path;
CREATE ROLE regress_etcd_lock;
SET ROLE regress_etcd_lock;
SET search_path = etcd_advisory, pg_catalog, "$user", public;
SELECT pg_advisory_lock(1);
SELECT pg_try_advisory_xact_lock(1, 1);
CREATE TABLE made (i int);
RESET ROLE;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA etcd_advisory TO regress_etcd_lock;
SET ROLE regress_etcd_lock;
SELECT pg_try_advisory_lock(1);
SELECT pg_advisory_unlock_all();

-- Session locks can be refused; unlocking cannot
RESET ROLE;
RESET search_path;
SELECT etcd_lock(1) > 0 AS locked, etcd_lock_shared('refused') > 0 AS locked_shared;
SET etcd_lock.session_locks = off;
SELECT etcd_lock('refused');
SELECT etcd_lock_shared('refused');
SELECT etcd_try_lock('refused');
SELECT etcd_try_lock('refused', wait => '1 s');
SELECT etcd_try_lock_shared(1, 2);
CALL etcd_lock_wait('refused');
SELECT etcd_advisory.pg_advisory_lock(1);
SELECT etcd_advisory.pg_advisory_lock_shared(1, 2);
SELECT etcd_advisory.pg_try_advisory_lock(1);
BEGIN;
SELECT etcd_xact_lock('allowed') > 0 AS etcd_xact_lock, etcd_try_xact_lock_shared(2),
       etcd_advisory.pg_advisory_xact_lock(3);
TABLE held;
COMMIT;
TABLE held;
SELECT etcd_unlock(1), etcd_unlock_shared('refused');

-- Or warned of
SET etcd_lock.session_locks = warn;
SELECT etcd_lock('warned') > 0 AS locked;
CALL etcd_lock_wait('warned');
SELECT etcd_advisory.pg_try_advisory_lock(1);
SELECT etcd_xact_lock('allowed') > 0 AS no_warning;
TABLE held;
SELECT etcd_unlock_all();
RESET etcd_lock.session_locks;

DROP OWNED BY regress_etcd_lock;
DROP ROLE regress_etcd_lock;
SELECT count(pid) FROM etcd_locks;
DROP VIEW held, advisory;
