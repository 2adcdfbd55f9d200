/* sql/etcd_lock--1.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION etcd_lock" to load this file. \quit

-- Session-level and transaction-level locks.  Each function exists for a
-- name, for a bigint and for two ints, like pg_advisory_lock().  None is STRICT,
-- because a NULL result could be taken for success; so NULL is an error.

CREATE FUNCTION etcd_lock(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_shared(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_shared(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_shared(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock_shared(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock_shared(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock_shared(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Several names, acquired in one fixed order, all or none; the tokens are in the
-- caller's order.

CREATE FUNCTION etcd_lock_all(VARIADIC names text[])
RETURNS bigint[]
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_all'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock_all(VARIADIC names text[])
RETURNS bigint[]
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_all'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Without "wait" they do not wait for other holders, with it at most for that time.
-- It may be a text, because literals and untyped parameters would be ambiguous
-- otherwise, due to the integer keys.  An integer raises an error that says why.

CREATE FUNCTION etcd_try_lock(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(name text, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(name text, wait text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(name text, wait integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(key bigint, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(key1 integer, key2 integer, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(name text, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(name text, wait text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(name text, wait integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(key bigint, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(key1 integer, key2 integer, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(name text, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(name text, wait text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(name text, wait integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(key bigint, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(key1 integer, key2 integer, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(name text, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(name text, wait text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(name text, wait integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(key bigint, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(key1 integer, key2 integer, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Returns true to one caller on all servers for each tick, which also acquires the
-- transaction-level lock on the name.

CREATE FUNCTION etcd_try_once(name text, tick timestamptz)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_once'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock_shared(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock_shared(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock_shared(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock_shared'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock_all()
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock_all'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- Without "wait", or if it is NULL, they wait forever.

CREATE PROCEDURE etcd_lock_wait(name text, wait interval DEFAULT NULL)
AS 'MODULE_PATHNAME', 'etcd_lock_sql_wait'
LANGUAGE C;

CREATE PROCEDURE etcd_lock_wait(name text, wait text)
AS 'MODULE_PATHNAME', 'etcd_lock_sql_wait'
LANGUAGE C;

CREATE PROCEDURE etcd_lock_wait(name text, wait integer)
AS 'MODULE_PATHNAME', 'etcd_lock_sql_wait'
LANGUAGE C;

CREATE PROCEDURE etcd_lock_wait(key bigint, wait interval DEFAULT NULL)
AS 'MODULE_PATHNAME', 'etcd_lock_sql_wait'
LANGUAGE C;

CREATE PROCEDURE etcd_lock_wait(key1 integer, key2 integer, wait interval DEFAULT NULL)
AS 'MODULE_PATHNAME', 'etcd_lock_sql_wait'
LANGUAGE C;

CREATE FUNCTION etcd_lock_token(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_token'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_token(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_token'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_token(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_token'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_check(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_check(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_check(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Views of this server.
CREATE FUNCTION etcd_locks(
	OUT name text, OUT mode text, OUT scope text, OUT granted boolean,
	OUT pid integer, OUT datname text, OUT usename text, OUT depth integer,
	OUT token bigint, OUT waitstart timestamptz, OUT heldsince timestamptz,
	OUT lost boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_locks'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW etcd_locks AS SELECT * FROM etcd_locks();

CREATE FUNCTION etcd_lock_status(
	OUT state text, OUT endpoint text, OUT server_version text,
	OUT lease text, OUT ttl_left interval, OUT keys_held bigint,
	OUT waiting bigint, OUT watches integer, OUT db_size bigint,
	OUT alarms text[], OUT last_error text, OUT last_error_at timestamptz,
	OUT worker_pid integer, OUT cluster_id text, OUT duplicate_primary text,
	OUT audit_age interval)
RETURNS record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_status'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW etcd_lock_status AS SELECT * FROM etcd_lock_status();

-- Every endpoint of etcd, as last seen.
CREATE FUNCTION etcd_lock_endpoints(
	OUT endpoint text, OUT in_use boolean, OUT healthy boolean,
	OUT checked_at timestamptz, OUT response_ms double precision,
	OUT server_version text, OUT db_size bigint, OUT is_leader boolean,
	OUT error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_endpoints'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW etcd_lock_endpoints AS SELECT * FROM etcd_lock_endpoints();

-- Counters since the server's start, or since they were reset.
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
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW etcd_lock_stats AS SELECT * FROM etcd_lock_stats();

-- How many waits and requests took no longer than "le" seconds.
CREATE FUNCTION etcd_lock_stats_histogram(
	OUT kind text, OUT le double precision, OUT count bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_stats_histogram'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW etcd_lock_stats_histogram AS SELECT * FROM etcd_lock_stats_histogram();

CREATE FUNCTION etcd_lock_stats_reset()
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_stats_reset'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- Who holds and who waits, on all servers and among foreign clients, from etcd.
CREATE FUNCTION etcd_lock_queue(
	OUT name text, OUT "position" integer, OUT mode text, OUT granted boolean,
	OUT kept boolean, OUT server text, OUT host text, OUT port integer, OUT pid integer,
	OUT datname text, OUT usename text, OUT application_name text,
	OUT since timestamptz, OUT key text, OUT lease text, OUT create_revision bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_queue'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_queue(
	name text,
	OUT name text, OUT "position" integer, OUT mode text, OUT granted boolean,
	OUT kept boolean, OUT server text, OUT host text, OUT port integer, OUT pid integer,
	OUT datname text, OUT usename text, OUT application_name text,
	OUT since timestamptz, OUT key text, OUT lease text, OUT create_revision bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_queue'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Takes the lock away from the session that holds it with that token; only for superusers.
CREATE FUNCTION etcd_lock_break(name text, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_break'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Fencing of writes in this database: the highest token seen for each name, including
-- the namespace, so that one tenant cannot fence off another.  The
-- database's owner must be able to dump it.
CREATE TABLE etcd_lock_fences (
	name text PRIMARY KEY,
	token bigint NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('etcd_lock_fences', '');
GRANT SELECT ON etcd_lock_fences TO pg_database_owner;

-- Returns true, and records the token, unless a higher one was seen before.  A writer
-- with an older token that comes meanwhile waits for this transaction.
CREATE FUNCTION etcd_lock_fence(name text, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_fence'
LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER;

-- Forgets the highest token of a name; only for superusers.
CREATE FUNCTION etcd_lock_fence_reset(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_fence_reset'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- For programs that know only pg_advisory_lock(): counterparts of PostgreSQL's 21
-- functions, with the same arguments and results, in a schema that a search_path puts
-- before pg_catalog.  Everybody may use the schema, so that a role without EXECUTE
-- gets an error, and not PostgreSQL's own function.

CREATE SCHEMA etcd_advisory;
GRANT USAGE ON SCHEMA etcd_advisory TO PUBLIC;

CREATE FUNCTION etcd_advisory.pg_advisory_lock(bigint)
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_lock_shared(bigint)
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_xact_lock(bigint)
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_xact_lock_shared(bigint)
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_try_advisory_lock(bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_try_advisory_lock_shared(bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_try_advisory_xact_lock(bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_try_advisory_xact_lock_shared(bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_unlock(bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_advisory_unlock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_unlock_shared(bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_advisory_unlock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_lock(integer, integer)
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_lock_shared(integer, integer)
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_xact_lock(integer, integer)
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_xact_lock_shared(integer, integer)
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_try_advisory_lock(integer, integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_try_advisory_lock_shared(integer, integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_try_advisory_xact_lock(integer, integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_try_advisory_xact_lock_shared(integer, integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_unlock(integer, integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_advisory_unlock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_unlock_shared(integer, integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_advisory_unlock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_advisory.pg_advisory_unlock_all()
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_advisory_unlock_all'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

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

-- Locks affect other servers, so nobody may lock without a GRANT.  The high cost
-- makes PostgreSQL check other conditions before it takes a lock.
DO $$
DECLARE
	routine regprocedure;
	is_function boolean;
BEGIN
	FOR routine, is_function IN
		SELECT objid::regprocedure, prokind OPERATOR(pg_catalog.=) 'f'
		FROM pg_catalog.pg_depend JOIN pg_catalog.pg_proc
			ON pg_proc.oid OPERATOR(pg_catalog.=) objid
		WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::regclass
			AND refobjid OPERATOR(pg_catalog.=)
				(SELECT oid FROM pg_catalog.pg_extension
				 WHERE extname OPERATOR(pg_catalog.=) 'etcd_lock')
			AND classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass
	LOOP
		EXECUTE pg_catalog.format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', routine);
		IF is_function THEN
			EXECUTE pg_catalog.format('ALTER FUNCTION %s COST 10000', routine);
		END IF;
	END LOOP;
END
$$;

GRANT EXECUTE ON FUNCTION etcd_locks() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_status() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_endpoints() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_stats() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_stats_histogram() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_queue() TO pg_monitor;
GRANT EXECUTE ON FUNCTION etcd_lock_queue(text) TO pg_monitor;
GRANT SELECT ON etcd_locks, etcd_lock_status, etcd_lock_endpoints, etcd_lock_stats,
	etcd_lock_stats_histogram TO pg_monitor;

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

-- CREATE EXTENSION works without the module, for pg_dump, but locks do not.
DO $$
BEGIN
	IF pg_catalog.current_setting('shared_preload_libraries')
		OPERATOR(pg_catalog.!~) '\metcd_lock\M' THEN
		RAISE WARNING 'etcd_lock is not in shared_preload_libraries'
			USING DETAIL = 'No lock can be acquired on this server until it is.',
				HINT = 'Add "etcd_lock" to shared_preload_libraries and restart the server.';
	END IF;
END
$$;
