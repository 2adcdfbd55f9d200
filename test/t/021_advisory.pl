# For programs that know only pg_advisory_lock(): schema etcd_advisory, which a role's
# search_path puts before pg_catalog, makes their locks cluster-wide.  And
# etcd_lock.session_locks, by which an administrator refuses session locks.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = start_servers($etcd, 'here', 'there');

my $PATH = '"$user", public, etcd_advisory, pg_catalog';

foreach my $node (@nodes)
{
	$node->safe_psql('postgres', <<"END");
CREATE DATABASE app;
CREATE DATABASE other;
CREATE ROLE migrator LOGIN;
CREATE ROLE plain LOGIN;
ALTER ROLE migrator SET search_path = $PATH;
END
	$node->safe_psql($_, <<'END') foreach 'app', 'other';
CREATE EXTENSION etcd_lock;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA etcd_advisory TO migrator;
GRANT CREATE ON SCHEMA public TO migrator;
END
}

sub migrator { return session($_[0], db => $_[1] // 'app', user => 'migrator') }

# Each function excludes what it should, on another server, by the same key in a
# database of the same name, and only there.
{
	my ($holder, $other, $elsewhere) =
	  (migrator($here), migrator($there), migrator($there, 'other'));
	my $plain = session($there, db => 'app', user => 'plain');

	foreach my $key ('42', '-1', '4711, 12')
	{
		foreach my $shared ('', '_shared')
		{
			foreach my $xact ('', 'xact_')
			{
				foreach my $try ('', 'try_')
				{
					my $function = "pg_${try}advisory_${xact}lock$shared($key)";
					$holder->query("BEGIN; SELECT $function");
					my $answer = $other->query(
						"BEGIN; SELECT pg_try_advisory_lock($key),
						 pg_try_advisory_xact_lock_shared($key); COMMIT");
					is($answer, $shared ? 'f|t' : 'f|f',
						"$function keeps out those on the other server");
					is( $elsewhere->query(
							"BEGIN; SELECT pg_try_advisory_xact_lock($key); COMMIT"),
						't',
						"$function does not reach a database of another name");
					$holder->query('COMMIT');
					$holder->query("SELECT pg_advisory_unlock$shared($key)")
					  unless $xact;
				}
			}
		}
	}
	is($plain->query('SELECT pg_try_advisory_lock(42)'),
		't', 'without the search_path it is PostgreSQL\'s own');
	$_->quit foreach $holder, $other, $elsewhere, $plain;
}
is_left_clean($etcd, @nodes);

# A wait ends with the unlock on the other server, and with the end of its session.
{
	my ($holder, $waiter) = (migrator($here), migrator($there));
	$holder->query('SELECT pg_advisory_lock(1)');
	$waiter->send('SELECT pg_advisory_lock(1)');
	wait_until_waiting($waiter);
	$holder->query('SELECT pg_advisory_unlock(1)');
	is($waiter->result->{sqlstate}, '', 'unlocked: the waiter has the lock');

	$holder->send('SELECT pg_advisory_xact_lock_shared(1)');
	wait_until_waiting($holder);
	$waiter->kill;
	is($holder->result->{sqlstate}, '',
		'client killed: the waiter has the lock');
	$holder->quit;
}
is_left_clean($etcd, @nodes);

# Where a database's or a role's search_path comes from does not matter; where new
# objects go does.
{
	$here->safe_psql('app', "ALTER DATABASE app SET search_path = $PATH");
	my $session = session($here, db => 'app', user => 'plain');
	is( $session->query("SELECT pronamespace::regnamespace FROM pg_proc
		WHERE oid = 'pg_advisory_lock(bigint)'::regprocedure"),
		'etcd_advisory',
		'search_path of a database: found');
	is($session->try('SELECT pg_advisory_lock(1)')->{sqlstate},
		'42501', 'not granted: an error, no lock of this server alone');
	$session->quit;
	$here->safe_psql('app', 'ALTER DATABASE app RESET search_path');

	my $migrator = migrator($here);
	$migrator->query('CREATE TABLE made (i int)');
	is( $migrator->query("SELECT relnamespace::regnamespace FROM pg_class
		WHERE oid = 'made'::regclass"),
		'public',
		'new objects go to public');
	$migrator->query('SET search_path = etcd_advisory, pg_catalog, "$user", public');
	is($migrator->query('SELECT pg_try_advisory_lock(1), pg_advisory_unlock(1)'),
		't|t', 'with the schema in front, too, its functions are called');
	is($migrator->try('CREATE TABLE made_too (i int)')->{sqlstate},
		'42501', '... but nothing can be created without saying where');
	$migrator->quit;
}

# A dump has the grants, not the functions.
{
	my $dump = "$PostgreSQL::Test::Utils::tmp_check/app.sql";
	$here->command_ok([ 'pg_dump', '-f', $dump, $here->connstr('app') ],
		'pg_dump');
	$here->safe_psql('postgres', 'CREATE DATABASE restored');
	$here->command_ok(
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump,
			$here->connstr('restored') ],
		'restored');
	is( $here->safe_psql('restored', <<'END'), 't|f|t|21', 'with its grants');
SELECT has_function_privilege('migrator', 'etcd_advisory.pg_advisory_lock(bigint)', 'EXECUTE'),
       has_function_privilege('plain', 'etcd_advisory.pg_advisory_lock(bigint)', 'EXECUTE'),
       has_schema_privilege('plain', 'etcd_advisory', 'USAGE'),
       count(*) FROM pg_proc WHERE pronamespace = 'etcd_advisory'::regnamespace;
END
}

# The extension goes into any schema, and takes its own one along when it goes.
{
	$here->safe_psql('postgres', <<'END');
DROP EXTENSION etcd_lock;
CREATE SCHEMA locks;
CREATE EXTENSION etcd_lock SCHEMA locks;
END
	is( $here->safe_psql('postgres',
			q{SELECT locks.etcd_try_lock('/x'), etcd_advisory.pg_try_advisory_lock(1)}),
		't|t',
		'a schema of its own');
	my (undef, $stdout, $stderr) =
	  $here->psql('postgres', 'ALTER EXTENSION etcd_lock SET SCHEMA public');
	like($stderr, qr/does not support SET SCHEMA/, 'chosen once');
	is( $here->safe_psql('postgres', <<'END'), '0', 'dropped with the extension');
DROP EXTENSION etcd_lock;
SELECT count(*) FROM pg_namespace WHERE nspname = 'etcd_advisory';
END
	$here->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
}

#
# etcd_lock.session_locks
#
sub refused
{
	my ($session, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $sql (
		"SELECT etcd_lock('/x')",
		"SELECT etcd_lock_shared(1)",
		"SELECT etcd_try_lock(1, 2)",
		"SELECT etcd_try_lock_shared('/x', wait => '1 s')",
		"CALL etcd_lock_wait('/x')",
		"CALL etcd_lock_wait(1, 2, wait => '1 s')",
		'SELECT etcd_advisory.pg_advisory_lock(1)',
		'SELECT etcd_advisory.pg_try_advisory_lock_shared(1, 2)')
	{
		my $result = $session->try($sql);
		is($result->{sqlstate}, '55000', "$name: refused: $sql");
		like($result->{err},
			qr/"etcd_lock.session_locks" is off: behind a pooler.*HINT: .*etcd_xact_lock/s,
			'and told why, and what to use');
	}
	is($session->query('SELECT count(*) FROM etcd_locks WHERE pid = pg_backend_pid()'),
		0, "$name: nothing is held");
	is( $session->query(<<'END'), 't|t|t|t', "$name: transaction locks are allowed");
BEGIN;
SELECT etcd_xact_lock('/x') > 0, etcd_try_xact_lock_shared(1),
       etcd_advisory.pg_try_advisory_xact_lock(1, 2),
       etcd_try_once('/once', clock_timestamp());
COMMIT;
END
	return;
}

$here->safe_psql('app', <<'END');
CREATE ROLE pooled LOGIN IN ROLE pg_monitor;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public, etcd_advisory TO pooled, plain;
ALTER ROLE pooled SET etcd_lock.session_locks = off;
END
{
	my $session = session($here, db => 'app', user => 'pooled');
	refused($session, 'off by role');
	is($session->try('SET etcd_lock.session_locks = on')->{sqlstate},
		'42501', 'the role cannot turn it on');
	$session->quit;

	$session = session($here, db => 'app', user => 'plain');
	is($session->query("SELECT etcd_try_lock('/x'), etcd_unlock('/x')"),
		't|t', 'other roles may lock');
	$session->quit;

	$here->safe_psql('postgres',
		'ALTER DATABASE app SET etcd_lock.session_locks = off');
	$session = session($here, db => 'app');
	refused($session, 'off by database');
	$session->quit;
	$here->safe_psql('postgres',
		'ALTER DATABASE app SET etcd_lock.session_locks = warn');
	$session = session($here, db => 'app', user => 'plain');
	my $result = $session->try("SELECT etcd_try_lock('/x')");
	is($result->{out}, 't', 'warn: locked');
	like(
		$result->{err},
		qr/WARNING:  01000: session-level etcd lock.*Behind a pooler.*HINT: .*etcd_xact_lock/s,
		'and warned');
	unlike($session->try("SELECT etcd_unlock('/x')")->{err},
		qr/WARNING/, 'not for the unlock');
	$session->quit;
	$here->safe_psql('postgres', 'ALTER DATABASE app RESET ALL');
}

# Turned off while a session holds one: it can still get rid of it.
{
	my $session = session($here, db => 'app');
	$session->query("SELECT etcd_lock('/x'), etcd_lock('/x'), etcd_lock(1)");
	$here->safe_psql('postgres', 'ALTER SYSTEM SET etcd_lock.session_locks = off');
	$here->reload;
	wait_until('the setting is read',
		sub { $session->query('SHOW etcd_lock.session_locks') eq 'off' });
	is($session->try("SELECT etcd_lock('/x')")->{sqlstate},
		'55000', 'off: what is held already is not stacked');
	is( $session->query(
			"SELECT etcd_unlock('/x'), etcd_unlock('/x'), etcd_advisory.pg_advisory_unlock(1)"),
		't|t|t',
		'off: unlocked');
	$session->quit;
	$here->safe_psql('postgres', 'ALTER SYSTEM RESET etcd_lock.session_locks');
	$here->reload;
}

$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, @nodes);
finish($etcd, @nodes);
