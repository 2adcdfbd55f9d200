/* sql/etcd_lock--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION etcd_lock" to load this file. \quit

-- Locks of the session and of the transaction.  Each function exists for a
-- name, for a bigint and for two ints, as pg_advisory_lock() does.

CREATE FUNCTION etcd_lock(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_shared(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_shared(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_shared(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock_shared(name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock_shared(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_xact_lock_shared(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- Without "wait" they do not wait for other holders, with it at most so long.

CREATE FUNCTION etcd_try_lock(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(name text, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(key bigint, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock(key1 integer, key2 integer, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(name text, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(key bigint, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_lock_shared(key1 integer, key2 integer, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(name text, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(key bigint, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock(key1 integer, key2 integer, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(name text, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(key bigint, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_try_xact_lock_shared(key1 integer, key2 integer, wait interval)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_xact_lock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- True for one caller among all servers for each tick, with the lock of the
-- transaction on the name.

CREATE FUNCTION etcd_try_once(name text, tick timestamptz)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_try_once'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock_shared(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock_shared(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock_shared(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock_shared'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_unlock_all()
RETURNS void
AS 'MODULE_PATHNAME', 'etcd_lock_sql_unlock_all'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- Procedures can be neither strict nor volatile; they look at their arguments.

CREATE PROCEDURE etcd_lock_wait(name text, wait interval DEFAULT NULL)
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
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_token(key bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_token'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_token(key1 integer, key2 integer)
RETURNS bigint
AS 'MODULE_PATHNAME', 'etcd_lock_sql_token'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_check(name text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_check'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_check(key bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_check'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_check(key1 integer, key2 integer)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_check'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- What can be seen of this server.
CREATE FUNCTION etcd_locks(
	OUT name text, OUT mode text, OUT scope text, OUT granted boolean,
	OUT pid integer, OUT token bigint, OUT waitstart timestamptz,
	OUT heldsince timestamptz, OUT lost boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_locks'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW etcd_locks AS SELECT * FROM etcd_locks();

CREATE FUNCTION etcd_lock_status(
	OUT state text, OUT endpoint text, OUT server_version text,
	OUT lease text, OUT ttl_left interval, OUT keys_held bigint,
	OUT waiting bigint, OUT watches integer, OUT db_size bigint,
	OUT alarms text[], OUT last_error text, OUT last_error_at timestamptz,
	OUT worker_pid integer)
RETURNS record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_status'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- Every endpoint of etcd's, as it was last seen.
CREATE FUNCTION etcd_lock_endpoints(
	OUT endpoint text, OUT in_use boolean, OUT healthy boolean,
	OUT checked_at timestamptz, OUT response_ms double precision,
	OUT server_version text, OUT db_size bigint, OUT is_leader boolean,
	OUT error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_endpoints'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- Counters since the server's start, or since they were reset.
CREATE FUNCTION etcd_lock_stats(
	OUT asked bigint, OUT acquired_etcd bigint, OUT acquired_passed_on bigint,
	OUT tries_failed bigint, OUT timeouts bigint, OUT deadlocks bigint,
	OUT cancelled bigint, OUT failed bigint, OUT waiting bigint,
	OUT released bigint, OUT lost bigint, OUT held bigint,
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
	OUT server text, OUT host text, OUT port integer, OUT pid integer,
	OUT database text, OUT username text, OUT application_name text,
	OUT since timestamptz, OUT key text, OUT lease text, OUT create_revision bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_queue'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION etcd_lock_queue(
	name text,
	OUT name text, OUT "position" integer, OUT mode text, OUT granted boolean,
	OUT server text, OUT host text, OUT port integer, OUT pid integer,
	OUT database text, OUT username text, OUT application_name text,
	OUT since timestamptz, OUT key text, OUT lease text, OUT create_revision bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'etcd_lock_sql_queue'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- Takes the lock away from whoever holds it with that token; superusers only.
CREATE FUNCTION etcd_lock_break(name text, token bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'etcd_lock_sql_break'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- Fencing of writes in this database: the highest token seen for a name, which has
-- the namespace in front, so that one tenant cannot fence off another.
CREATE TABLE etcd_lock_fences (
	name text PRIMARY KEY,
	token bigint NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('etcd_lock_fences', '');

-- True, and the token is noted, unless a higher one was seen before.  A writer
-- with an older token that comes meanwhile waits for this transaction.  Like all
-- functions it fails where the module is not loaded: by etcd_lock_status().
CREATE FUNCTION etcd_lock_fence(name text, token bigint)
RETURNS boolean
LANGUAGE SQL STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER
BEGIN ATOMIC
	WITH raised AS (
		INSERT INTO etcd_lock_fences AS f (name, token)
		SELECT pg_catalog.concat(pg_catalog.current_setting('etcd_lock.namespace', true),
			etcd_lock_fence.name), etcd_lock_fence.token
		FROM etcd_lock_status()
		ON CONFLICT (name) DO UPDATE SET token = excluded.token
		WHERE f.token OPERATOR(pg_catalog.<=) excluded.token
		RETURNING 1)
	SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 FROM raised;
END;

-- For programs that know pg_advisory_lock() only: PostgreSQL's 21 functions once
-- more, with the same arguments and results, in a schema that a search_path puts
-- before pg_catalog.  The schema is open to all, so that a role without EXECUTE
-- gets an error, and not PostgreSQL's own function behind it.

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

-- A lock reaches other servers, so nobody may lock without a GRANT.  And of
-- several conditions a lock is to be the last to be looked at.
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
GRANT SELECT ON etcd_locks, etcd_lock_stats, etcd_lock_stats_histogram TO pg_monitor;
