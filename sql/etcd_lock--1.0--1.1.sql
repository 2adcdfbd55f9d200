/* sql/etcd_lock--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION etcd_lock UPDATE TO '1.1'" to load this file. \quit

-- NULL is an error now, which the functions raise themselves.

ALTER FUNCTION etcd_lock(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_shared(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_shared(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_shared(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_xact_lock(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_xact_lock(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_xact_lock(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_xact_lock_shared(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_xact_lock_shared(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_xact_lock_shared(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock(text, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock(bigint, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock(integer, integer, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock_shared(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock_shared(text, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock_shared(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock_shared(bigint, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock_shared(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_lock_shared(integer, integer, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock(text, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock(bigint, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock(integer, integer, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock_shared(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock_shared(text, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock_shared(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock_shared(bigint, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock_shared(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_xact_lock_shared(integer, integer, interval) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_try_once(text, timestamptz) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_unlock(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_unlock(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_unlock(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_unlock_shared(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_unlock_shared(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_unlock_shared(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_token(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_token(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_token(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_check(text) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_check(bigint) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_check(integer, integer) CALLED ON NULL INPUT;
ALTER FUNCTION etcd_lock_break(text, bigint) CALLED ON NULL INPUT;

-- The wait as text, which literals and untyped parameters resolve to; an integer
-- raises an error that says why.  Roles that may call the function with an interval may
-- call these.

CREATE FUNCTION etcd_try_lock(name text, wait text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_try_lock(name text, wait integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_try_lock_shared(name text, wait text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_try_lock_shared(name text, wait integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_try_xact_lock(name text, wait text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_try_xact_lock(name text, wait integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_try_xact_lock_shared(name text, wait text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_try_xact_lock_shared(name text, wait integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE PROCEDURE etcd_lock_wait(name text, wait text)
AS 'MODULE_PATHNAME', 'etcd_lock_sql_wait'
LANGUAGE C;

CREATE PROCEDURE etcd_lock_wait(name text, wait integer)
AS 'MODULE_PATHNAME', 'etcd_lock_sql_wait'
LANGUAGE C;

-- Literals that meant an interval mean text from now on, so roles that may call the one
-- may call the other.  Privileges that an extension's script grants count as part of it,
-- and pg_dump leaves them out; these belong to the users, like those that they follow.
DO $$
DECLARE
	routine text;
	type text;
	added regprocedure;
	before regprocedure;
	may record;
BEGIN
	FOREACH routine IN ARRAY ARRAY['etcd_try_lock', 'etcd_try_lock_shared',
		'etcd_try_xact_lock', 'etcd_try_xact_lock_shared', 'etcd_lock_wait']
	LOOP
		before := pg_catalog.format('%s(text, interval)', routine)::regprocedure;
		FOREACH type IN ARRAY ARRAY['text', 'integer']
		LOOP
			added := pg_catalog.format('%s(text, %s)', routine, type)::regprocedure;
			EXECUTE pg_catalog.format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', added);
			FOR may IN
				SELECT CASE WHEN grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
					ELSE grantee::regrole::text END AS role, is_grantable
				FROM pg_catalog.pg_proc, pg_catalog.aclexplode(proacl)
				WHERE oid OPERATOR(pg_catalog.=) before
					AND grantee OPERATOR(pg_catalog.<>) proowner
			LOOP
				EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %s%s', added, may.role,
					CASE WHEN may.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
			END LOOP;
			UPDATE pg_catalog.pg_init_privs SET initprivs =
				(SELECT initprivs FROM pg_catalog.pg_init_privs
				 WHERE objoid OPERATOR(pg_catalog.=) before
					AND classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass)
			WHERE objoid OPERATOR(pg_catalog.=) added
				AND classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass;

			-- Since PostgreSQL 17, a role that is named there cannot be dropped.
			DELETE FROM pg_catalog.pg_shdepend
			WHERE dbid OPERATOR(pg_catalog.=)
					(SELECT oid FROM pg_catalog.pg_database
					 WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
				AND classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass
				AND objid OPERATOR(pg_catalog.=) added
				AND deptype OPERATOR(pg_catalog.=) 'i'
				AND NOT EXISTS
					(SELECT FROM pg_catalog.pg_init_privs, pg_catalog.aclexplode(initprivs)
					 WHERE objoid OPERATOR(pg_catalog.=) added
						AND classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass
						AND (refobjid OPERATOR(pg_catalog.=) grantee
							OR refobjid OPERATOR(pg_catalog.=) grantor));
		END LOOP;
	END LOOP;
END
$$;

-- Several names, acquired in one fixed order, all or none; the tokens are in the
-- caller's order.

CREATE FUNCTION etcd_lock_all(VARIADIC names text[])
RETURNS bigint[]
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_all'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_xact_lock_all(VARIADIC names text[])
RETURNS bigint[]
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_all'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

-- Columns have the names that PostgreSQL's views use, and there are new ones.
DROP VIEW etcd_lock_stats;
DROP FUNCTION etcd_lock_stats();
DROP VIEW etcd_locks;
DROP FUNCTION etcd_locks();
DROP FUNCTION etcd_lock_queue();
DROP FUNCTION etcd_lock_queue(text);

CREATE FUNCTION etcd_locks(
	OUT name text, OUT mode text, OUT scope text, OUT granted boolean,
	OUT pid integer, OUT datname text, OUT usename text, OUT depth integer,
	OUT token bigint, OUT waitstart timestamptz, OUT heldsince timestamptz,
	OUT lost boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_locks'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE COST 10000;

CREATE VIEW etcd_locks AS SELECT * FROM etcd_locks();

CREATE FUNCTION etcd_lock_stats(
	OUT asked bigint, OUT acquired_etcd bigint, OUT acquired_passed_on bigint,
	OUT tries_failed bigint, OUT timeouts bigint, OUT deadlocks bigint,
	OUT cancelled bigint, OUT failed bigint, OUT waiting bigint,
	OUT released bigint, OUT lost bigint, OUT held bigint,
	OUT reused bigint, OUT kept bigint, OUT given_up bigint,
	OUT wait_seconds double precision,
	OUT requests bigint, OUT request_errors bigint,
	OUT request_seconds double precision,
	OUT batches bigint, OUT batch_operations bigint,
	OUT leases_lost bigint, OUT lowest_ttl_left double precision,
	OUT waiting_at_reset bigint, OUT held_at_reset bigint,
	OUT stats_reset timestamptz)
RETURNS record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_stats'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE COST 10000;

CREATE VIEW etcd_lock_stats AS SELECT * FROM etcd_lock_stats();

CREATE FUNCTION etcd_lock_queue(
	OUT name text, OUT "position" integer, OUT mode text, OUT granted boolean,
	OUT kept boolean, OUT server text, OUT host text, OUT port integer, OUT pid integer,
	OUT datname text, OUT usename text, OUT application_name text,
	OUT since timestamptz, OUT key text, OUT lease text, OUT create_revision bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_queue'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE COST 10000;

CREATE FUNCTION etcd_lock_queue(
	name text,
	OUT name text, OUT "position" integer, OUT mode text, OUT granted boolean,
	OUT kept boolean, OUT server text, OUT host text, OUT port integer, OUT pid integer,
	OUT datname text, OUT usename text, OUT application_name text,
	OUT since timestamptz, OUT key text, OUT lease text, OUT create_revision bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_queue'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

-- It says why it refuses the token of a session that holds the lock, and costs less.
CREATE OR REPLACE FUNCTION etcd_lock_fence(name text, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_fence'
LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER COST 10000;

DROP FUNCTION etcd_lock_status();
CREATE FUNCTION etcd_lock_status(
	OUT state text, OUT endpoint text, OUT server_version text,
	OUT lease text, OUT ttl_left interval, OUT keys_held bigint,
	OUT waiting bigint, OUT watches integer, OUT db_size bigint,
	OUT alarms text[], OUT last_error text, OUT last_error_at timestamptz,
	OUT worker_pid integer, OUT cluster_id text, OUT duplicate_primary text,
	OUT audit_age interval)
RETURNS record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_status'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE COST 10000;

CREATE VIEW etcd_lock_status AS SELECT * FROM etcd_lock_status();
CREATE VIEW etcd_lock_endpoints AS SELECT * FROM etcd_lock_endpoints();

-- The database's owner must be able to dump it.
GRANT SELECT ON etcd_lock_fences TO pg_database_owner;

-- Forgets the highest token of a name; only for superusers.
CREATE FUNCTION etcd_lock_fence_reset(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_fence_reset'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

-- Do calls of pg_advisory_lock() and its kin by this role, with this search_path,
-- come here?  If not, which go to PostgreSQL's own, or fail for want of EXECUTE?
CREATE FUNCTION etcd_advisory_in_effect(OUT in_effect boolean, OUT missing text[])
RETURNS record
LANGUAGE SQL STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT pg_catalog.bool_and(counts),
		pg_catalog.array_agg(call ORDER BY call) FILTER (WHERE NOT counts)
	FROM (
		SELECT call, pg_catalog.has_function_privilege(oid, 'EXECUTE') AND
			coalesce(pg_catalog.to_regprocedure(call)::oid OPERATOR(pg_catalog.=) oid,
				false) AS counts
		FROM (
			SELECT pg_catalog.format('%s(%s)', proname,
				pg_catalog.pg_get_function_identity_arguments(oid)) AS call, oid
			FROM pg_catalog.pg_proc
			WHERE pronamespace OPERATOR(pg_catalog.=) 'etcd_advisory'::regnamespace
				AND pg_catalog.starts_with(proname::text, 'pg_')) AS functions) AS calls;
END;

REVOKE EXECUTE ON FUNCTION etcd_locks(), etcd_lock_stats(), etcd_lock_status(), etcd_lock_queue(), etcd_lock_queue(text),
	etcd_lock_fence_reset(text), etcd_lock_all(text[]), etcd_xact_lock_all(text[]),
	etcd_advisory_in_effect() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION etcd_locks() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_stats() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_status() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_queue() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_queue(text) TO pg_monitor;
GRANT SELECT ON etcd_locks, etcd_lock_stats, etcd_lock_status, etcd_lock_endpoints TO pg_monitor;

-- It tells each role only about itself.
GRANT EXECUTE ON FUNCTION etcd_advisory_in_effect() TO PUBLIC;
ALTER FUNCTION etcd_advisory_in_effect() COST 100;

COMMENT ON SCHEMA etcd_advisory IS
	'pg_advisory_lock() and its kin as locks on all servers, for use in a search_path';

COMMENT ON FUNCTION etcd_lock(text) IS
	'acquire an exclusive session-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_lock(bigint) IS
	'acquire an exclusive session-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_lock(integer, integer) IS
	'acquire an exclusive session-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_lock_shared(text) IS
	'acquire a shared session-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_lock_shared(bigint) IS
	'acquire a shared session-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_lock_shared(integer, integer) IS
	'acquire a shared session-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_xact_lock(text) IS
	'acquire an exclusive transaction-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_xact_lock(bigint) IS
	'acquire an exclusive transaction-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_xact_lock(integer, integer) IS
	'acquire an exclusive transaction-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_xact_lock_shared(text) IS
	'acquire a shared transaction-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_xact_lock_shared(bigint) IS
	'acquire a shared transaction-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_xact_lock_shared(integer, integer) IS
	'acquire a shared transaction-level lock; returns its fencing token';

COMMENT ON FUNCTION etcd_lock_all(text[]) IS
	'acquire exclusive session-level locks, all or none; returns their fencing tokens';

COMMENT ON FUNCTION etcd_xact_lock_all(text[]) IS
	'acquire exclusive transaction-level locks, all or none; returns their fencing tokens';

COMMENT ON FUNCTION etcd_try_lock(text) IS
	'acquire an exclusive session-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock(bigint) IS
	'acquire an exclusive session-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock(integer, integer) IS
	'acquire an exclusive session-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock(text, interval) IS
	'acquire an exclusive session-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock(text, text) IS
	'acquire an exclusive session-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock(bigint, interval) IS
	'acquire an exclusive session-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock(integer, integer, interval) IS
	'acquire an exclusive session-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock(text, integer) IS
	'raises an error, because the wait must be an interval';

COMMENT ON FUNCTION etcd_try_lock_shared(text) IS
	'acquire a shared session-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock_shared(bigint) IS
	'acquire a shared session-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock_shared(integer, integer) IS
	'acquire a shared session-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock_shared(text, interval) IS
	'acquire a shared session-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock_shared(text, text) IS
	'acquire a shared session-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock_shared(bigint, interval) IS
	'acquire a shared session-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock_shared(integer, integer, interval) IS
	'acquire a shared session-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_lock_shared(text, integer) IS
	'raises an error, because the wait must be an interval';

COMMENT ON FUNCTION etcd_try_xact_lock(text) IS
	'acquire an exclusive transaction-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock(bigint) IS
	'acquire an exclusive transaction-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock(integer, integer) IS
	'acquire an exclusive transaction-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock(text, interval) IS
	'acquire an exclusive transaction-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock(text, text) IS
	'acquire an exclusive transaction-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock(bigint, interval) IS
	'acquire an exclusive transaction-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock(integer, integer, interval) IS
	'acquire an exclusive transaction-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock(text, integer) IS
	'raises an error, because the wait must be an interval';

COMMENT ON FUNCTION etcd_try_xact_lock_shared(text) IS
	'acquire a shared transaction-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock_shared(bigint) IS
	'acquire a shared transaction-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock_shared(integer, integer) IS
	'acquire a shared transaction-level lock if it is free; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock_shared(text, interval) IS
	'acquire a shared transaction-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock_shared(text, text) IS
	'acquire a shared transaction-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock_shared(bigint, interval) IS
	'acquire a shared transaction-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock_shared(integer, integer, interval) IS
	'acquire a shared transaction-level lock if it becomes free in time; returns false if somebody else has it';

COMMENT ON FUNCTION etcd_try_xact_lock_shared(text, integer) IS
	'raises an error, because the wait must be an interval';

COMMENT ON FUNCTION etcd_try_once(text, timestamptz) IS
	'returns true to one caller on all servers for each tick, which also acquires the transaction-level lock';

COMMENT ON FUNCTION etcd_unlock(text) IS
	'release an exclusive session-level lock; returns false if the session holds none';

COMMENT ON FUNCTION etcd_unlock(bigint) IS
	'release an exclusive session-level lock; returns false if the session holds none';

COMMENT ON FUNCTION etcd_unlock(integer, integer) IS
	'release an exclusive session-level lock; returns false if the session holds none';

COMMENT ON FUNCTION etcd_unlock_shared(text) IS
	'release a shared session-level lock; returns false if the session holds none';

COMMENT ON FUNCTION etcd_unlock_shared(bigint) IS
	'release a shared session-level lock; returns false if the session holds none';

COMMENT ON FUNCTION etcd_unlock_shared(integer, integer) IS
	'release a shared session-level lock; returns false if the session holds none';

COMMENT ON FUNCTION etcd_unlock_all() IS
	'release all etcd locks of the session';

COMMENT ON PROCEDURE etcd_lock_wait(text, interval) IS
	'acquire an exclusive session-level lock, waiting without a transaction or snapshot';

COMMENT ON PROCEDURE etcd_lock_wait(text, text) IS
	'acquire an exclusive session-level lock, waiting without a transaction or snapshot';

COMMENT ON PROCEDURE etcd_lock_wait(bigint, interval) IS
	'acquire an exclusive session-level lock, waiting without a transaction or snapshot';

COMMENT ON PROCEDURE etcd_lock_wait(integer, integer, interval) IS
	'acquire an exclusive session-level lock, waiting without a transaction or snapshot';

COMMENT ON PROCEDURE etcd_lock_wait(text, integer) IS
	'raises an error, because the wait must be an interval';

COMMENT ON FUNCTION etcd_lock_token(text) IS
	'fencing token of this session''s lock, even if it was lost; null if it has none; use etcd_lock_check() to know whether it is still held';

COMMENT ON FUNCTION etcd_lock_token(bigint) IS
	'fencing token of this session''s lock, even if it was lost; null if it has none; use etcd_lock_check() to know whether it is still held';

COMMENT ON FUNCTION etcd_lock_token(integer, integer) IS
	'fencing token of this session''s lock, even if it was lost; null if it has none; use etcd_lock_check() to know whether it is still held';

COMMENT ON FUNCTION etcd_lock_check(text) IS
	'asks etcd whether this session still holds the lock';

COMMENT ON FUNCTION etcd_lock_check(bigint) IS
	'asks etcd whether this session still holds the lock';

COMMENT ON FUNCTION etcd_lock_check(integer, integer) IS
	'asks etcd whether this session still holds the lock';

COMMENT ON FUNCTION etcd_locks() IS
	'etcd locks that sessions of this server hold or wait for; without a pid, a key that the server keeps for no session';

COMMENT ON VIEW etcd_locks IS
	'etcd locks that sessions of this server hold or wait for; without a pid, a key that the server keeps for no session';

COMMENT ON FUNCTION etcd_lock_status() IS
	'this server''s link to etcd, its lease, and the last error';

COMMENT ON VIEW etcd_lock_status IS
	'this server''s link to etcd, its lease, and the last error';

COMMENT ON FUNCTION etcd_lock_endpoints() IS
	'health of each endpoint of etcd, as last seen';

COMMENT ON VIEW etcd_lock_endpoints IS
	'health of each endpoint of etcd, as last seen';

COMMENT ON FUNCTION etcd_lock_stats() IS
	'counters of locks and requests since the server started or the last reset';

COMMENT ON VIEW etcd_lock_stats IS
	'counters of locks and requests since the server started or the last reset';

COMMENT ON FUNCTION etcd_lock_stats_histogram() IS
	'how many waits and requests took no longer than a number of seconds';

COMMENT ON VIEW etcd_lock_stats_histogram IS
	'how many waits and requests took no longer than a number of seconds';

COMMENT ON FUNCTION etcd_lock_stats_reset() IS
	'reset the counters; only for superusers, and members of pg_monitor to whom it is granted';

COMMENT ON FUNCTION etcd_lock_queue() IS
	'who holds and who waits for each lock, on all servers, from etcd';

COMMENT ON FUNCTION etcd_lock_queue(text) IS
	'who holds and who waits for a lock, on all servers, from etcd';

COMMENT ON FUNCTION etcd_lock_break(text, bigint) IS
	'take a lock away from the session that holds it with this token; only for superusers';

COMMENT ON TABLE etcd_lock_fences IS
	'highest fencing token seen in this database for each name, including the namespace';

COMMENT ON FUNCTION etcd_lock_fence(text, bigint) IS
	'record a fencing token; returns false if a higher one was seen in this database';

COMMENT ON FUNCTION etcd_lock_fence_reset(text) IS
	'forget the highest fencing token of a name; only for superusers';

COMMENT ON FUNCTION etcd_advisory_in_effect() IS
	'whether calls of pg_advisory_lock() and its kin by this role lock on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_lock(bigint) IS
	'like pg_catalog.pg_advisory_lock(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_lock_shared(bigint) IS
	'like pg_catalog.pg_advisory_lock_shared(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_xact_lock(bigint) IS
	'like pg_catalog.pg_advisory_xact_lock(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_xact_lock_shared(bigint) IS
	'like pg_catalog.pg_advisory_xact_lock_shared(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_try_advisory_lock(bigint) IS
	'like pg_catalog.pg_try_advisory_lock(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_try_advisory_lock_shared(bigint) IS
	'like pg_catalog.pg_try_advisory_lock_shared(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_try_advisory_xact_lock(bigint) IS
	'like pg_catalog.pg_try_advisory_xact_lock(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_try_advisory_xact_lock_shared(bigint) IS
	'like pg_catalog.pg_try_advisory_xact_lock_shared(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_unlock(bigint) IS
	'like pg_catalog.pg_advisory_unlock(), also for locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_unlock_shared(bigint) IS
	'like pg_catalog.pg_advisory_unlock_shared(), also for locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_lock(integer, integer) IS
	'like pg_catalog.pg_advisory_lock(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_lock_shared(integer, integer) IS
	'like pg_catalog.pg_advisory_lock_shared(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_xact_lock(integer, integer) IS
	'like pg_catalog.pg_advisory_xact_lock(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_xact_lock_shared(integer, integer) IS
	'like pg_catalog.pg_advisory_xact_lock_shared(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_try_advisory_lock(integer, integer) IS
	'like pg_catalog.pg_try_advisory_lock(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_try_advisory_lock_shared(integer, integer) IS
	'like pg_catalog.pg_try_advisory_lock_shared(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_try_advisory_xact_lock(integer, integer) IS
	'like pg_catalog.pg_try_advisory_xact_lock(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_try_advisory_xact_lock_shared(integer, integer) IS
	'like pg_catalog.pg_try_advisory_xact_lock_shared(), but locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_unlock(integer, integer) IS
	'like pg_catalog.pg_advisory_unlock(), also for locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_unlock_shared(integer, integer) IS
	'like pg_catalog.pg_advisory_unlock_shared(), also for locks on all servers';

COMMENT ON FUNCTION etcd_advisory.pg_advisory_unlock_all() IS
	'like pg_catalog.pg_advisory_unlock_all(), also for locks on all servers';
