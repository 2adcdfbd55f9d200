--
-- Names: which are refused, and that the others mean what they say
--

-- Refused; the functions that only look or unlock refuse them, too
SELECT etcd_lock('');
SELECT etcd_lock('/');
SELECT etcd_lock('jobs/');
SELECT etcd_lock('jobs/read');
SELECT etcd_lock('jobs/write');
SELECT etcd_lock('/read');
SELECT etcd_lock('.etcd_lock/server');
SELECT etcd_lock('jobs/.etcd_lock/x');
SELECT etcd_lock('jobs/.etcd_lock');
SELECT etcd_lock(repeat('x', 513));
SELECT etcd_lock_shared('');
SELECT etcd_xact_lock('');
SELECT etcd_xact_lock_shared('');
SELECT etcd_try_lock('');
SELECT etcd_try_lock('', interval '1 second');
SELECT etcd_try_lock_shared('');
SELECT etcd_try_xact_lock('');
SELECT etcd_try_xact_lock_shared('');
SELECT etcd_unlock('');
SELECT etcd_unlock_shared('');
SELECT etcd_lock_token('');
SELECT etcd_lock_check('');
SELECT etcd_try_once('', now());
CALL etcd_lock_wait('');

-- Refused: it could be meant as an integer key, or as two of them
SELECT etcd_lock('42');
SELECT etcd_try_lock('-1');
SELECT etcd_xact_lock_shared(E' +007\t');
SELECT etcd_lock('9223372036854775808');
SELECT etcd_try_xact_lock('1,2');
SELECT etcd_unlock(' 1 , -2 ');
SELECT etcd_try_once('42', now());
CALL etcd_lock_wait('42');

-- What parameters without a type resolve to, as drivers send them
PREPARE one AS SELECT etcd_try_lock($1);
PREPARE two AS SELECT etcd_try_lock($1, $2);
PREPARE ints AS SELECT etcd_lock($1, $2) > 0 AS locked;
SELECT name, parameter_types FROM pg_prepared_statements ORDER BY name;
EXECUTE one('42');
EXECUTE one('jobs');
EXECUTE two('jobs', '100 ms');
EXECUTE two('jobs', '1');
EXECUTE two('1', '2');
EXECUTE ints('1', '2');
SELECT name FROM etcd_locks WHERE pid IS NOT NULL ORDER BY name;
SELECT etcd_unlock_all();
DEALLOCATE ALL;

-- The wait: an interval, or its text
SELECT etcd_try_lock('jobs', '1 s'), etcd_try_lock('jobs', wait => '1 s'),
       etcd_try_lock('jobs', interval '1 s'), etcd_try_lock('jobs', '1 s'::text),
       etcd_try_lock_shared('jobs', '1 s'), etcd_try_xact_lock('jobs', '1 s'),
       etcd_try_xact_lock_shared('jobs', '1 s'), etcd_try_lock(42, wait => '1 s');
CALL etcd_lock_wait('jobs', '1 s');
CALL etcd_lock_wait('jobs', wait => '1 s');
SELECT etcd_unlock_all();
SELECT etcd_try_lock('jobs', 'soon');
SELECT etcd_try_lock('jobs', 5);
SELECT etcd_try_xact_lock_shared('jobs', wait => 5);
CALL etcd_lock_wait('jobs', 5);
SELECT etcd_try_lock('jobs', wait => ' 1.5 ');
SELECT etcd_try_lock('jobs', '0'), etcd_try_lock('jobs', interval '5'), etcd_try_lock('jobs', '0:05');
SELECT etcd_unlock_all();

-- With SQLSTATE
\set VERBOSITY sqlstate
SELECT etcd_lock('jobs/read');
SELECT etcd_lock(repeat('x', 513));
\set VERBOSITY default

-- As long as can be
SELECT etcd_lock(repeat('x', 512)) > 0 AS locked;
SELECT length(name) FROM etcd_locks WHERE pid IS NOT NULL;
SELECT etcd_unlock(repeat('x', 512));

-- Names are compared byte by byte
SELECT etcd_lock('Jobs') > 0 AS locked;
SELECT etcd_unlock('jobs');
SELECT etcd_unlock('Jobs ');
SELECT etcd_unlock(' Jobs');
SELECT etcd_unlock('Jobs');

-- These look like others, and are not
SELECT count(etcd_lock(name)) AS locked
  FROM unnest(ARRAY['jobs', '/jobs', '//jobs', 'jobs/a', 'jobs//a', 'read', 'write',
                    'jobs/read/a', 'jobs/write/a', 'jobs/reads', 'jobs/%', 'jobs/_',
                    'jobs/..', '.', ' ', '1.5', '1a', '1,2,3', '-', ',', '1 2', E'tab\t', E'new\nline', '"quoted"',
                    $$it's$$, E'back\\slash', '{"json": true}']) name;
SELECT name FROM etcd_locks WHERE pid IS NOT NULL ORDER BY name COLLATE "C";
SELECT bool_and(etcd_lock_check(name)) AS held FROM etcd_locks WHERE pid IS NOT NULL;
SELECT etcd_unlock_all();

-- A name is text, whatever it was before
SELECT etcd_lock('jobs'::varchar(10)) > 0 AS varchar, etcd_lock('jobs'::name::text) > 0 AS name;
SELECT etcd_unlock('jobs'), etcd_unlock('jobs');

-- The namespace stands in front of every name, and is not shown
SET etcd_lock.namespace = '/team/';
SELECT etcd_lock('jobs') > 0 AS locked;
SELECT name FROM etcd_locks WHERE pid IS NOT NULL;
SELECT etcd_lock(repeat('x', 507));
SELECT etcd_try_lock(repeat('x', 506));
RESET etcd_lock.namespace;
SELECT etcd_unlock('jobs');
SELECT etcd_unlock('/team/jobs');
SELECT etcd_unlock_all();

SELECT count(pid) FROM etcd_locks;
