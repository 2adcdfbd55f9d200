--
-- Integer keys: the same functions, and the same locks as pg_advisory_lock's
-- on this server
--
CREATE VIEW held AS
  SELECT name, mode, scope, granted FROM etcd_locks
   WHERE pid = pg_backend_pid() ORDER BY name COLLATE "C", mode, scope;
CREATE VIEW advisory AS
  SELECT classid, objid, objsubid, mode FROM pg_locks
   WHERE locktype = 'advisory' AND pid = pg_backend_pid()
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   ORDER BY classid, objid, objsubid, mode;

-- Every function
SELECT etcd_lock(1) > 0 AS lock, etcd_lock_shared(2) > 0 AS lock_shared,
       etcd_try_lock(3), etcd_try_lock_shared(4),
       etcd_try_lock(5, interval '1 second'), etcd_try_lock_shared(6, interval '1 second');
CALL etcd_lock_wait(7);
CALL etcd_lock_wait(8, interval '1 second');
SELECT etcd_lock(1, 1) > 0 AS lock, etcd_lock_shared(1, 2) > 0 AS lock_shared,
       etcd_try_lock(1, 3), etcd_try_lock_shared(1, 4),
       etcd_try_lock(1, 5, interval '1 second'),
       etcd_try_lock_shared(1, 6, interval '1 second');
CALL etcd_lock_wait(1, 7);
CALL etcd_lock_wait(1, 8, interval '1 second');
SELECT * FROM held;
SELECT * FROM advisory;
SELECT etcd_lock_token(1) > 0 AS token, etcd_lock_token(1, 1) > 0 AS token2,
       etcd_lock_check(1), etcd_lock_check(1, 1);
SELECT etcd_unlock(1), etcd_unlock_shared(2), etcd_unlock(1, 1), etcd_unlock_shared(1, 2);
SELECT etcd_unlock_all();
SELECT * FROM held;
SELECT * FROM advisory;

BEGIN;
SELECT etcd_xact_lock(1) > 0 AS xact_lock, etcd_xact_lock_shared(2) > 0 AS xact_lock_shared,
       etcd_try_xact_lock(3), etcd_try_xact_lock_shared(4),
       etcd_try_xact_lock(5, interval '1 second'),
       etcd_try_xact_lock_shared(6, interval '1 second');
SELECT etcd_xact_lock(1, 1) > 0 AS xact_lock,
       etcd_xact_lock_shared(1, 2) > 0 AS xact_lock_shared,
       etcd_try_xact_lock(1, 3), etcd_try_xact_lock_shared(1, 4),
       etcd_try_xact_lock(1, 5, interval '1 second'),
       etcd_try_xact_lock_shared(1, 6, interval '1 second');
SELECT * FROM held;
SELECT * FROM advisory;
COMMIT;
SELECT * FROM held;
SELECT * FROM advisory;

-- Not held
SELECT etcd_unlock(1);
SELECT etcd_unlock_shared(1, 2);
SELECT etcd_lock_token(1) IS NULL AS no_token, etcd_lock_check(1, 1);

-- Any integer is a key; smaller types are widened
SELECT etcd_lock(-1) > 0, etcd_lock(0) > 0, etcd_lock(9223372036854775807) > 0,
       etcd_lock('-9223372036854775808'::bigint) > 0, etcd_lock(2::smallint) > 0,
       etcd_lock(-1, 2147483647) > 0, etcd_lock('-2147483648'::int, 0) > 0;
SELECT * FROM held;
SELECT * FROM advisory;

-- One bigint, two integers and a text are different locks
SELECT etcd_lock((1::bigint << 32) + 2) > 0 AS bigint, etcd_lock(1, 2) > 0 AS int_int,
       etcd_lock('1, 2, text') > 0 AS text;
SELECT etcd_unlock((1::bigint << 32) + 2) AS bigint, etcd_unlock(1, 2) AS int_int,
       etcd_unlock('1, 2, text') AS text;
SELECT etcd_unlock_all();
SELECT * FROM held;

-- What pg_advisory_lock holds is not ours to unlock
SELECT pg_advisory_lock(1);
SELECT etcd_unlock(1);
SELECT etcd_lock_check(1), etcd_lock_token(1) IS NULL AS no_token;
SELECT etcd_lock(1) > 0 AS both;
SELECT etcd_unlock(1);
SELECT * FROM advisory;
SELECT pg_advisory_unlock(1);
SELECT * FROM advisory;

-- pg_advisory_unlock_all takes the lock away: we do not pretend to have it
SELECT etcd_lock(1) > 0 AS locked, etcd_lock('text') > 0 AS locked_text;
SELECT pg_advisory_unlock_all();
SELECT * FROM held;
SELECT etcd_lock_check(1), etcd_lock_token(1) IS NULL AS no_token,
       etcd_lock_check('text'), etcd_lock_token('text') IS NULL AS no_token_text;
SELECT etcd_unlock(1);
SELECT etcd_lock(1) > 0 AS again, etcd_lock('text') > 0 AS again_text;
SELECT etcd_unlock(1), etcd_unlock('text');

-- so does pg_advisory_unlock; inside a transaction, it shows at once
BEGIN;
SELECT etcd_lock(1) > 0 AS locked;
SELECT pg_advisory_unlock(1);
SELECT etcd_lock_check(1), etcd_lock_token(1) IS NULL AS no_token;
COMMIT;
SELECT * FROM held;

SELECT count(pid) FROM etcd_locks;
DROP VIEW held, advisory;
