--
-- Fencing: the highest token seen in this database
--
SELECT etcd_lock('fenced') AS token \gset
SELECT etcd_lock_fence('fenced', :token) AS new, etcd_lock_fence('fenced', :token) AS again,
       etcd_lock_fence('fenced', :token - 1) AS old;
SELECT name, token = :token AS token FROM etcd_lock_fences;

-- The row has the namespace in front
SET etcd_lock.namespace = 'team/';
SELECT etcd_lock_fence('fenced', 1);
SELECT name FROM etcd_lock_fences ORDER BY name COLLATE "C";
SELECT etcd_lock_fence_reset('fenced');
RESET etcd_lock.namespace;

-- It writes
BEGIN READ ONLY;
SELECT etcd_lock_fence('fenced', :token);
ROLLBACK;
BEGIN READ ONLY;
SELECT etcd_lock_fence_reset('fenced');
ROLLBACK;

-- As if etcd counted anew: the token of the very holder is below the fence.  It must
-- not look as if it held the lock no more.
SELECT etcd_lock_fence('fenced', :token + 5);
\set VERBOSITY sqlstate
SELECT etcd_lock_fence('fenced', :token);
\set VERBOSITY default
SELECT etcd_lock_fence('fenced', :token - 1);
SELECT etcd_lock_fence_reset('fenced');
SELECT etcd_lock_fence_reset('fenced');
SELECT etcd_lock_fence('fenced', :token);
SELECT etcd_unlock('fenced');

-- Likewise for an integer key, under the name that views show
SELECT etcd_lock(42) AS token \gset
SELECT etcd_lock_fence('42', :token + 1);
\set VERBOSITY sqlstate
SELECT etcd_lock_fence('42', :token);
\set VERBOSITY default
SELECT etcd_unlock(42);
SELECT etcd_lock_fence('42', :token);

-- However it is written
SELECT etcd_lock_fence(' 042', :token), etcd_lock_fence('+42', :token + 2),
       etcd_lock_fence('1,2', 2), etcd_lock_fence('1, 2', 1);
SELECT name FROM etcd_lock_fences ORDER BY name COLLATE "C";
SELECT etcd_lock_fence_reset(' 1,2');

-- Who does not hold it gets a plain answer
SELECT etcd_lock_fence('fenced', 1);

-- Only superusers reset
CREATE ROLE regress_etcd_fence;
GRANT EXECUTE ON FUNCTION etcd_lock_fence(text, bigint), etcd_lock_fence_reset(text)
  TO regress_etcd_fence;
SET ROLE regress_etcd_fence;
SELECT etcd_lock_fence('of a role', 1);
SELECT etcd_lock_fence_reset('of a role');
SELECT count(*) FROM etcd_lock_fences;
RESET ROLE;
DROP OWNED BY regress_etcd_fence;
DROP ROLE regress_etcd_fence;
SELECT count(etcd_lock_fence_reset(n)) FROM unnest(ARRAY['fenced', '42', 'of a role']) n;
TABLE etcd_lock_fences;

-- Not what somebody else runs for us: a namespace and limits are those of the session
CREATE FUNCTION locks(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.etcd_lock('trap'), public.etcd_lock_fence('trap', 1);
	RETURN $1;
END $$;
CREATE TABLE trap (n bigint);
INSERT INTO trap VALUES (1);
CREATE INDEX trap_index ON trap (locks(n));
CREATE FUNCTION unlocks(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.etcd_unlock_all();
	RETURN $1;
END $$;
CREATE INDEX trap_index ON trap (unlocks(n));
CREATE MATERIALIZED VIEW trap_view AS SELECT etcd_advisory.pg_try_advisory_lock(1) WITH NO DATA;
REFRESH MATERIALIZED VIEW trap_view;
SELECT count(pid) FROM etcd_locks;
DROP TABLE trap CASCADE;
DROP MATERIALIZED VIEW trap_view;
DROP FUNCTION locks(bigint);
DROP FUNCTION unlocks(bigint);

-- In SECURITY DEFINER functions they are the session's, too
CREATE FUNCTION definer() RETURNS bigint SECURITY DEFINER LANGUAGE sql AS $$
	SELECT etcd_xact_lock('of the session') $$;
SET etcd_lock.namespace = 'team/';
BEGIN;
SELECT definer() > 0 AS locked;
RESET etcd_lock.namespace;
SELECT etcd_lock_token('team/of the session') > 0 AS has_token;
COMMIT;
DROP FUNCTION definer();
