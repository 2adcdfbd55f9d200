# The ends of locks that do not belong to the transaction itself but to portals,
# cursors, procedures, DO, or pipelines.  They end when PostgreSQL's own advisory locks
# do, are free elsewhere once the client has its result, and a loss in the middle undoes
# everything that is not committed yet.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Driver;
use EtcdLockTest::Loss;
use Test::More;
use Time::HiRes qw(time);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = map {
	start_server($_, endpoints => $etcd->endpoint, conf => <<'END')
etcd_lock.lease_ttl = '60s'
listen_addresses = '127.0.0.1'
END
} qw(here there);
$here->safe_psql('postgres', <<'SQL');
CREATE TABLE t (v text);
CREATE TABLE gate (pid int);

-- Stops the caller until the test lets it go on.
CREATE FUNCTION pass_gate() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(99), pg_advisory_unlock(99)';
SQL
my ($control, $remote) = map { session($_) } @nodes;
sub close_gate { $control->query('SELECT pg_advisory_lock(99)'); return }
sub open_gate { $control->query('SELECT pg_advisory_unlock(99)'); return }
sub wait_at_gate { my ($pid) = @_; return wait_until_waits_for($control, $pid, 'advisory') }

#
# As PostgreSQL's own: the same statements with either lock, and whether somebody else
# can have it then.
#
my $local = session($here);
foreach my $case (
	[ 'a cursor, fetched', 'BEGIN; DECLARE c CURSOR FOR SELECT LOCK; FETCH c' ],
	[ 'a cursor, not fetched', 'BEGIN; DECLARE c CURSOR FOR SELECT LOCK' ],
	[ 'a cursor, closed', 'BEGIN; DECLARE c CURSOR FOR SELECT LOCK; FETCH c; CLOSE c' ],
	[ 'a cursor of a savepoint, rolled back', 'BEGIN; SAVEPOINT s; DECLARE c CURSOR FOR SELECT LOCK; FETCH c; ROLLBACK TO s' ],
	[ 'a cursor of a savepoint, released', 'BEGIN; SAVEPOINT s; DECLARE c CURSOR FOR SELECT LOCK; FETCH c; RELEASE s' ],
	[ 'a cursor, fetched in a savepoint that is rolled back', 'BEGIN; DECLARE c CURSOR FOR SELECT LOCK; SAVEPOINT s; FETCH c; ROLLBACK TO s' ],
	[ 'a cursor, fetched in a savepoint, closed behind it', 'BEGIN; DECLARE c CURSOR FOR SELECT LOCK; SAVEPOINT s; FETCH c; RELEASE s; CLOSE c' ],
	[ 'a cursor, at the commit', 'BEGIN; DECLARE c CURSOR FOR SELECT LOCK; FETCH c; COMMIT' ],
	[ 'a cursor WITH HOLD, at the commit', 'BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT LOCK; COMMIT' ],
	[ 'a cursor WITH HOLD, fetched behind the commit', 'BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT LOCK; COMMIT; FETCH c' ],
	[ 'a cursor WITH HOLD that is locked for the session', 'BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT SESSION; COMMIT; CLOSE c' ],
	[ 'a prepared statement', 'PREPARE p AS SELECT LOCK; BEGIN; EXECUTE p' ],
	[ 'DO', 'BEGIN; DO $$ BEGIN PERFORM LOCK; END $$' ],
	[ 'DO with COMMIT', 'DO $$ BEGIN PERFORM LOCK; COMMIT; END $$' ],
	[ 'DO with COMMIT, for the session', 'DO $$ BEGIN PERFORM SESSION; COMMIT; END $$' ],
	[ 'DO with ROLLBACK', 'DO $$ BEGIN PERFORM LOCK; ROLLBACK; END $$' ],
	[ 'DO with ROLLBACK, for the session', 'DO $$ BEGIN PERFORM SESSION; ROLLBACK; END $$' ],
	[ 'an exception block that fails', 'BEGIN; DO $$ BEGIN PERFORM LOCK; PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN END $$' ],
	[ 'an exception block that does not', 'BEGIN; DO $$ BEGIN PERFORM LOCK; EXCEPTION WHEN division_by_zero THEN END $$' ],
	[ 'a function with a setting of its own', q(CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql SET work_mem = '1MB' AS 'BEGIN PERFORM LOCK; END'; BEGIN; SELECT f()) ],
	[ 'COMMIT AND CHAIN', 'BEGIN; SELECT LOCK; COMMIT AND CHAIN; SELECT 1' ],
	[ 'a loop over a cursor with COMMIT', 'DO $$ DECLARE r record; BEGIN FOR r IN SELECT LOCK FROM generate_series(1, 3) LOOP COMMIT; END LOOP; END $$' ],
	[ 'an error in the simple protocol\'s message', 'SELECT LOCK \; SELECT 1/0' ],
	[ 'a message of several statements', 'SELECT LOCK \; SELECT 1' ])
{
	my ($title, $sql) = @$case;
	my $key = 5;
	my %locks = (
		pg => { LOCK => "pg_advisory_xact_lock($key)", SESSION => "pg_advisory_lock($key)" },
		etcd => { LOCK => "etcd_xact_lock($key)", SESSION => "etcd_lock($key)" });
	my %held;

	foreach my $kind (qw(pg etcd))
	{
		my $session = session($here);
		my $probe = $kind eq 'pg' ? $local : $remote;
		$session->try($sql =~ s/(LOCK|SESSION)/$locks{$kind}{$1}/gr);

		# After a rollback nobody waits until etcd has confirmed it.
		my $is_held = sub { $probe->query("SELECT NOT ${kind}_" . ($kind eq 'pg' ? 'try_advisory_xact_lock' : 'try_xact_lock') . "($key)") };
		$held{$kind} = $is_held->();
		eval { wait_until($title, sub { ($held{etcd} = $is_held->()) eq $held{pg} }, 3) }
		  if $kind eq 'etcd';
		$session->quit;
	}
	is($held{etcd}, $held{pg}, "as PostgreSQL's own: $title");
}
$local->quit;
is_left_clean($etcd, @nodes);

#
# Free elsewhere once the client has its answer.
#
my %drivers = map {
	my $name = $_;
	EtcdLockTest::Driver::available($name)
	  ? ($name => EtcdLockTest::Driver->new($name, A => $here, B => $there))
	  : ()
} 'libpq simple', 'libpq extended', 'libpq pipeline', 'JDBC';
foreach my $driver (values %drivers)
{
	$driver->ask('open', 'a', 'A');
	$driver->ask('open', 'b', 'B');
}
$here->safe_psql('postgres', <<'SQL');
CREATE PROCEDURE locks_and_commits() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 3 LOOP
		PERFORM etcd_xact_lock('/p');
		INSERT INTO t VALUES ('procedure');
		COMMIT;
	END LOOP;
END
$$;
SQL
foreach my $case (
	[ 'simple', 'COMMIT with a cursor open', q(BEGIN; DECLARE c CURSOR FOR SELECT etcd_xact_lock('/p'); FETCH c; COMMIT) ],
	[ 'simple', 'COMMIT with a cursor WITH HOLD', q(BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT etcd_xact_lock('/p'); COMMIT; CLOSE c) ],
	[ 'simple', 'a procedure that commits', 'CALL locks_and_commits()' ],
	[ 'extended', 'a procedure that commits', 'CALL locks_and_commits()' ],
	[ 'simple', 'a message of several statements', q(SELECT etcd_xact_lock('/p'); SELECT 1) ],
	[ 'simple', 'an exception block', q(DO $$ BEGIN PERFORM etcd_xact_lock('/p'); EXCEPTION WHEN division_by_zero THEN END $$) ])
{
	my ($mode, $title, $sql) = @$case;
	my $driver = $drivers{"libpq $mode"} or next;
	is($driver->ask('release', 40, 'a', 'b', $sql, q(SELECT etcd_try_xact_lock('/p'))),
		0, "free at once: $title, $mode protocol");
}
foreach my $case (
	[ 'of the transaction', q(SELECT count(etcd_xact_lock('/many/' || i)) FROM generate_series(1, 300) i) ],
	[ 'of the session', q(SELECT count(etcd_lock('/many/' || i)) FROM generate_series(1, 300) i; SELECT etcd_unlock_all()) ],
	[ 'of the session, by PostgreSQL\'s function', q(SELECT count(etcd_lock('/many/' || i)) FROM generate_series(1, 300) i; SELECT pg_advisory_unlock_all()) ])
{
	my ($title, $sql) = @$case;
	my $driver = $drivers{'libpq simple'} or next;
	is( $driver->ask('release', 6, 'a', 'b', $sql,
			q(SELECT etcd_try_xact_lock('/many/' || floor(1 + 300 * random())))),
		0, "free at once: 300 locks $title");
}

# A portal of the protocol that is open at COMMIT, with rows to come.
if (my $driver = $drivers{JDBC})
{
	my $refused = 0;
	foreach (1 .. 40)
	{
		$driver->ask('begin', 'a');
		$driver->ask('portal', 'a', q(SELECT etcd_xact_lock('/p') > 0 FROM generate_series(1, 3))) eq 't'
		  or die 'no row';
		$driver->ask('q', 'b', q(SELECT etcd_try_xact_lock('/p'))) eq 'f'
		  or die 'not locked';
		$driver->ask('commit', 'a');
		$refused++ if $driver->ask('q', 'b', q(SELECT etcd_try_xact_lock('/p'))) ne 't';
	}
	is($refused, 0, 'free at once: COMMIT with a portal open, JDBC');
}
foreach (grep { !$drivers{$_} } 'libpq simple', 'libpq extended', 'libpq pipeline', 'JDBC')
{
  SKIP: { skip "the driver $_ is not here", 1 }
}

# The wait has a bound, also where etcd is silent, and takes that long (for names that
# are not kept).
foreach my $case (
	[ 'COMMIT', q(BEGIN; SELECT etcd_xact_lock('/silent')) ],
	[ 'COMMIT with a cursor open', q(BEGIN; DECLARE c CURSOR FOR SELECT etcd_xact_lock('/silent with a cursor'); FETCH c) ])
{
	my ($title, $sql) = @$case;
	my $session = session($here);
	$session->query($sql);
	$etcd->pause;
	my $elapsed = $session->try('COMMIT')->{elapsed};
	$etcd->resume;
	cmp_ok($elapsed, '>', 0.9, "etcd is silent: $title waits");
	cmp_ok($elapsed, '<', 5, "etcd is silent: $title does not wait for long");
	$session->quit;
	wait_until_well($control);
}
is_left_clean($etcd, @nodes);

#
# A loss in the middle
#
sub rows { my ($value) = @_; return is_committed($control, $value) }

foreach my $lock (qw(etcd_xact_lock etcd_lock))
{
	foreach my $on_loss (qw(cancel warn))
	{
		foreach my $case (
			[ 'DO with COMMIT', "DO \$\$ BEGIN FOR i IN 1 .. 3 LOOP PERFORM $lock('/l'); INSERT INTO t VALUES ('%v'); PERFORM pass_gate(); COMMIT; END LOOP; END \$\$" ],
			[ 'DO with COMMIT in the loop over a cursor', "DO \$\$ DECLARE r record; BEGIN FOR r IN SELECT $lock('/l') FROM generate_series(1, 3) LOOP INSERT INTO t VALUES ('%v'); PERFORM pass_gate(); COMMIT; END LOOP; END \$\$" ],
			[ 'a message of several statements', "SELECT $lock('/l') \\; INSERT INTO t VALUES ('%v') \\; SELECT pass_gate()" ],
			[ 'a cursor WITH HOLD that is run at COMMIT', "BEGIN; SELECT $lock('/l'); INSERT INTO t VALUES ('%v'); DECLARE c CURSOR WITH HOLD FOR SELECT pass_gate(); COMMIT" ])
		{
			my ($title, $sql) = @$case;
			my $value = "$title, $lock, $on_loss";
			my $session = session($here);
			$session->query("SET etcd_lock.on_loss = '$on_loss'");
			close_gate();
			$session->send($sql =~ s/%v/$value/gr);
			wait_at_gate($session->pid);
			break_lock($remote, $etcd, '/l');
			wait_until_lost($control, '/l');
			open_gate();
			my $result = $session->result;
			like($result->{sqlstate}, $on_loss eq 'cancel' ? qr/^(57014|EL002)$/ : qr/^EL00[12]$/,
				"lost in the middle of $value: refused");
			is(rows($value), 0, "lost in the middle of $value: nothing is committed");
			$session->quit;
		}
	}
}

# What was committed before stays.
{
	my $session = session($here);
	close_gate();
	$session->send(q(DO $$ BEGIN PERFORM etcd_lock('/l'); INSERT INTO t VALUES ('before'); COMMIT; INSERT INTO t VALUES ('behind'); PERFORM pass_gate(); COMMIT; END $$));
	wait_at_gate($session->pid);
	break_lock($remote, $etcd, '/l');
	wait_until_lost($control, '/l');
	open_gate();
	isnt($session->result->{sqlstate}, '', 'lost between two COMMITs in DO: refused');
	is(rows('before') . rows('behind'), '10', 'what was committed before stays');
	$session->quit;
}

# Pipelines: one transaction up to the Sync, or several by hand.
if (my $driver = $drivers{'libpq pipeline'})
{
	my $pid = $driver->ask('q', 'a', 'SELECT pg_backend_pid()');
	foreach my $on_loss (qw(cancel warn))
	{
		$driver->ask('q', 'a', "SET etcd_lock.on_loss = '$on_loss'");
		foreach my $case (
			[ 'implicit', q(SELECT etcd_xact_lock('/l')), q(INSERT INTO t VALUES ('%v')), 'SELECT pass_gate()', q(INSERT INTO t VALUES ('%v')) ],
			[ 'explicit', 'BEGIN', q(SELECT etcd_xact_lock('/l')), q(INSERT INTO t VALUES ('%v')), 'SELECT pass_gate()', 'COMMIT', q(INSERT INTO t VALUES ('%v')) ])
		{
			my ($kind, @sql) = @$case;
			my $value = "pipeline, $kind, $on_loss";
			close_gate();
			$driver->send('pipe', 'a', map { s/%v/$value/gr } @sql);
			wait_at_gate($pid);
			is($remote->query(q(SELECT etcd_try_xact_lock('/l'))), 'f', "$value: excludes another server up to the Sync");
			break_lock($remote, $etcd, '/l');
			wait_until_lost($control, '/l');
			open_gate();
			like($driver->answer, $on_loss eq 'cancel' ? qr/^error (57014|EL002)$/ : qr/^error EL002$/, "$value: refused");
			$driver->ask('q', 'a', 'ROLLBACK');
			is(rows($value), 0, "$value: nothing is committed");
			is($driver->ask('q', 'a', 'SELECT 1'), 1, "$value: the connection goes on");
		}
	}
	is($driver->ask('pipe', 'a', q(SELECT etcd_xact_lock('/l') > 0), q(INSERT INTO t VALUES ('held')), 'SELECT 1'),
		't||1', 'a pipeline that keeps its lock');
	is(rows('held'), 1, 'is committed');
}

$_->stop foreach values %drivers;
is_left_clean($etcd, @nodes);
$_->quit foreach $control, $remote;
finish($etcd, @nodes);
