# CREATE INDEX CONCURRENTLY and its kin wait for older snapshots.  Sessions that wait
# for the lock that the index builder holds must never make it hang or fail: with CALL
# they have no snapshot, with SELECT they get the deadlock error themselves.

use strict;
use warnings;

use EtcdLockTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $DEADLOCK_TIMEOUT = 1;    # seconds
my $WAITERS = 9;

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = start_servers($etcd, 'here', 'there');
foreach my $node (@nodes)
{
	$node->safe_psql('postgres', <<"END");
ALTER SYSTEM SET deadlock_timeout = '${DEADLOCK_TIMEOUT}s';
ALTER SYSTEM SET autovacuum = off;
ALTER SYSTEM SET log_lock_waits = on;
CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i;
CREATE TABLE other_rows AS SELECT 1 AS i;
END
	$node->reload;
}

my $control = session($here);
my $holder = session($here);

sub is_valid
{
	return $control->query(
		q{SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('t_i')});
}

# The three commands, one after the other, each of which has to succeed.
my @commands = (
	[ 'CREATE INDEX CONCURRENTLY t_i ON t (i)', 't' ],
	[ 'REINDEX INDEX CONCURRENTLY t_i', 't' ],
	[ 'REINDEX TABLE CONCURRENTLY t', 't' ],
	[ 'DROP INDEX CONCURRENTLY t_i', '' ]);

sub build_ok
{
	my ($command, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $result = $holder->try($command->[0]);
	is($result->{sqlstate}, '', "$name: $command->[0]")
	  or diag($result->{err});
	is(is_valid(), $command->[1], "$name: the index is as it should be");
	return $result->{elapsed};
}

# The waiters are served one after the other, when the holder has let go.
sub serve
{
	my ($name, @waiters) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(scalar(grep { $_->done } @waiters), 0, "$name: nobody got the lock meanwhile");
	$holder->query("SELECT etcd_unlock('/migrate')");
	my @failed = grep { $_->{sqlstate} ne '' } map { $_->result } @waiters;
	is(scalar @failed, 0, "$name: all waiters are served") or diag($failed[0]{err});
	$_->quit foreach @waiters;
	return;
}

sub dead_rows
{
	my $result = $control->try('VACUUM (VERBOSE) t');
	my ($left) = $result->{err} =~ /(\d+) are dead but not yet removable/;
	return $left;
}

#
# CALL: no snapshot, nobody in the way
#
{
	my @waiters = map { my $node = $_; map { session($node) } 1 .. $WAITERS } @nodes;
	$holder->query("SELECT etcd_lock('/migrate')");
	my @calls = (
		"CALL etcd_lock_wait('/migrate');\nSELECT etcd_unlock('/migrate')",
		"CALL etcd_lock_wait('/migrate', wait => '1 h');\nSELECT etcd_unlock('/migrate')",
		q{DO $$ BEGIN
			INSERT INTO other_rows VALUES (1);
			CALL etcd_lock_wait('/migrate');
			PERFORM etcd_unlock('/migrate');
		  END $$});
	$waiters[$_]->send($calls[ $_ % @calls ]) foreach 0 .. $#waiters;
	wait_until_waiting(@waiters);
	foreach my $node (@nodes)
	{
		is( $node->safe_psql('postgres',
				"SELECT count(*), count(backend_xmin), count(backend_xid)
				   FROM pg_stat_activity JOIN etcd_locks USING (pid)
				  WHERE NOT granted"),
			"$WAITERS|0|0",
			'CALL: those who wait on ' . $node->name . ' have no snapshot and no xid');
	}

	foreach my $command (@commands)
	{
		my $elapsed = build_ok($command, 'CALL');
		cmp_ok($elapsed, '<', 30, 'CALL: soon');
	}
	# the same when they have waited for long
	sleep 1.2 * $DEADLOCK_TIMEOUT;
	cmp_ok(build_ok($commands[0], 'CALL, after a while'),
		'<', 30, 'CALL, after a while: soon');
	$holder->query('DROP INDEX t_i');

	$control->query('DELETE FROM t WHERE i % 2 = 0');
	is(dead_rows(), 0, 'CALL: VACUUM removes all dead rows');
	serve('CALL', @waiters);
}

#
# PostgreSQL's own locks, for comparison: the builder fails
#
{
	my $waiter = session($here);
	$holder->query('SELECT pg_advisory_lock(1)');
	$waiter->send('SELECT pg_advisory_lock(1)');
	wait_until('the waiter has checked for a deadlock',
		sub { slurp_file($here->logfile) =~ /\[@{[$waiter->pid]}\].*still waiting/ });
	is($holder->try($commands[0][0])->{sqlstate},
		'40P01', 'pg_advisory_lock: CREATE INDEX CONCURRENTLY fails');
	is(is_valid(), 'f', 'pg_advisory_lock: and leaves an invalid index');
	$holder->query('SELECT pg_advisory_unlock(1); DROP INDEX t_i');
	$waiter->result;
	$waiter->quit;
}

#
# SELECT: those in the way give way
#

# How a waiter may come to hold a snapshot.
my @selects = (
	"SELECT etcd_lock('/migrate');\nSELECT etcd_unlock('/migrate')",
	"SELECT etcd_lock_shared('/migrate');\nSELECT etcd_unlock_shared('/migrate')",
	"BEGIN; SELECT etcd_xact_lock('/migrate'); COMMIT",
	"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT etcd_xact_lock_shared('/migrate'); COMMIT",
	"SELECT etcd_try_lock('/migrate', wait => '1 h');\nSELECT etcd_unlock('/migrate')",
	"BEGIN; SELECT count(*) FROM t; SAVEPOINT s; SELECT etcd_xact_lock('/migrate'); COMMIT",
	q{DO $$ BEGIN PERFORM etcd_lock('/migrate'); PERFORM etcd_unlock('/migrate'); END $$},
	"SELECT etcd_try_xact_lock_shared('/migrate', wait => '1 h')",
	"WITH w AS (SELECT etcd_xact_lock('/migrate') AS l) INSERT INTO other_rows SELECT 1 FROM w");

# Of the waiters on the builder's server those in the way get the error, with a
# hint; those on the other server wait on, and get the lock in the end.
sub waiters_gave_way
{
	my ($name, $in_the_way, $others) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $i (0 .. $#$in_the_way)
	{
		my $result = $in_the_way->[$i]->result;
		is($result->{sqlstate}, '40P01', "$name: deadlock detected: $selects[$i]");
		like($result->{err}, qr/HINT:.*(CALL etcd_lock_wait|etcd_try_lock_shared)/,
			'... with a hint');
		like($result->{err}, qr{etcd lock "/migrate"}, '... and the name');
		$in_the_way->[$i]->query('ROLLBACK');
	}
	$_->quit foreach @$in_the_way;
	is( $control->query('SELECT count(*) FROM etcd_locks WHERE NOT granted'),
		0, "$name: nothing is left of them");
	serve($name, @$others);
	return;
}

foreach my $waited (0, 2.5 * $DEADLOCK_TIMEOUT)
{
	foreach my $command ($commands[0], $commands[1])
	{
		my $name = "SELECT, waited for $waited s";
		my @in_the_way = map { session($here) } @selects;
		my @others = map { session($there) } 1 .. 3;
		$holder->query("SELECT etcd_lock('/migrate')");
		$in_the_way[$_]->send($selects[$_]) foreach 0 .. $#selects;
		$_->send($selects[0]) foreach @others;
		wait_until_waiting(@in_the_way, @others);
		is(dead_rows(), 0, 'no dead rows') if $command == $commands[0];
		sleep $waited;

		# What the waiters' snapshots do, and a CALL does not.
		if ($waited && $command == $commands[0])
		{
			$control->query('DELETE FROM t WHERE i % 3 = 0');
			cmp_ok(dead_rows(), '>', 0, 'SELECT: VACUUM must keep dead rows');
		}
		build_ok($command, $name);
		waiters_gave_way($name, \@in_the_way, \@others);
	}
	$holder->query('DROP INDEX t_i');
}

# The build begins before the waiters come: it waits for a writer first, and finds
# them there when that has ended.
{
	my $writer = session($here);
	my $name = 'SELECT, came during the build';
	$writer->query('BEGIN; INSERT INTO t VALUES (-1)');
	$holder->query("SELECT etcd_lock('/migrate')");
	$holder->send($commands[0][0]);
	wait_until(
		'the build waits for the writer',
		sub {
			$control->query('SELECT 1 FROM pg_locks
				WHERE NOT granted AND pid = ' . $holder->pid);
		});
	my @in_the_way = map { session($here) } @selects;
	my @others = map { session($there) } 1 .. 3;
	$in_the_way[$_]->send($selects[$_]) foreach 0 .. $#selects;
	$_->send($selects[0]) foreach @others;
	wait_until_waiting(@in_the_way, @others);
	sleep 1.5 * $DEADLOCK_TIMEOUT;
	ok(!$holder->done, "$name: the build has begun");
	$writer->query('COMMIT');
	my $result = $holder->result;
	is($result->{sqlstate}, '', "$name: it ends") or diag($result->{err});
	is(is_valid(), 't', "$name: the index is valid");
	waiters_gave_way($name, \@in_the_way, \@others);
	$writer->quit;
}

# A session ahead of one that is in the way finds the deadlock by its own
# check, though nobody waits for it.  The times of the checks are chosen so that this
# one comes first.
{
	my $name = 'ahead of one in the way';
	my ($ahead, $patient, $in_the_way) = map { session($here) } 1 .. 3;
	$ahead->query("SET deadlock_timeout = '1s'");
	$patient->query("SET deadlock_timeout = '1s'");
	$in_the_way->query("SET deadlock_timeout = '30s'");
	$holder->query("SET deadlock_timeout = '1min'; SELECT etcd_lock('/migrate')");
	$ahead->send("CALL etcd_lock_wait('/migrate');\nSELECT etcd_unlock('/migrate')");
	$patient->send("CALL etcd_lock_wait('/migrate', wait => '1 h');\nSELECT etcd_unlock('/migrate')");
	wait_until_waiting($ahead, $patient);
	$in_the_way->send("SELECT etcd_lock('/migrate')");
	wait_until_waiting($in_the_way);
	$holder->send('REINDEX INDEX CONCURRENTLY t_i');
	my $until = time + 2.5;
	sleep 0.05 while time < $until && !$ahead->done && !$patient->done;
	ok(!$ahead->done && !$patient->done && !$holder->done,
		"$name: CALL waits on, whatever its check found")
	  or diag($ahead->{stderr} . $patient->{stderr});
	$control->query('SELECT pg_cancel_backend(' . $in_the_way->pid . ')');
	is($in_the_way->result->{sqlstate}, '57014', "$name: the other one is canceled");
	is($holder->result->{sqlstate}, '', "$name: and the build ends");
	$holder->query('RESET deadlock_timeout');
	$in_the_way->quit;
	serve($name, $ahead, $patient);
}

# A real deadlock is one for CALL, too: each session holds what the other wants.
{
	my $name = 'crossed';
	my @sessions = map { session($here) } 1 .. 2;
	$sessions[$_]->query("SELECT etcd_lock('/crossed/$_')") foreach 0, 1;
	$sessions[$_]->send("CALL etcd_lock_wait('/crossed/" . (1 - $_) . "')") foreach 0, 1;
	wait_until("$name: one ends", sub { grep { $_->done } @sessions });
	my ($victim) = grep { $_->done } @sessions;
	is($victim->result->{sqlstate}, '40P01', "$name: one gets the error");
	$victim->query('SELECT etcd_unlock_all()');
	is((grep { $_ != $victim } @sessions)[0]->result->{sqlstate},
		'', "$name: the other one gets the lock");
	$_->quit foreach @sessions;
}

# DROP INDEX CONCURRENTLY waits for those only who have used the table.
{
	my $name = 'DROP INDEX CONCURRENTLY';
	my @waiters = map { session($here) } 1 .. 3;
	$holder->query("SELECT etcd_lock('/migrate')");
	$waiters[0]->query('BEGIN; SELECT count(*) FROM t');
	$_->send("SELECT etcd_xact_lock('/migrate')") foreach @waiters;
	wait_until_waiting(@waiters);
	sleep 1.5 * $DEADLOCK_TIMEOUT;
	build_ok($commands[-1], $name);
	is($waiters[0]->result->{sqlstate}, '40P01',
		"$name: a waiter that has used the table gets the error");
	$waiters[0]->quit;
	serve($name, @waiters[ 1, 2 ]);
}

# A builder that shares the lock.  A sharer that came later waits for it to drain, as
# a server elsewhere wants it exclusively; PostgreSQL's lock manager knows nothing
# of that wait.
{
	my $name = 'shared builder';
	$holder->query("SELECT etcd_lock_shared('/migrate')");
	my $writer = session($there);
	$writer->send("SELECT etcd_lock('/migrate')");
	wait_until_waiting($writer);
	sleep 0.2;    # longer than handoff_window
	my @sharers = map { session($here) } 1 .. 3;
	$_->send("SELECT etcd_lock_shared('/migrate')") foreach @sharers;
	wait_until_waiting(@sharers);
	build_ok($commands[0], $name);
	foreach (@sharers)
	{
		my $result = $_->result;
		is($result->{sqlstate}, '40P01', "$name: a later sharer gets the error");
		like($result->{err}, qr/HINT:.*etcd_try_lock_shared/, '... with a hint');
		$_->quit;
	}

	# the same by a row, with no snapshot in play
	my $sharer = session($here);
	$sharer->query('BEGIN; UPDATE other_rows SET i = 2');
	$sharer->send("SELECT etcd_xact_lock_shared('/migrate')");
	wait_until_waiting($sharer);
	my $result = $holder->try('UPDATE other_rows SET i = 3');
	is($result->{sqlstate}, '', "$name: a row of a later sharer: updated");
	is($sharer->result->{sqlstate}, '40P01', "$name: the sharer gets the error");
	$sharer->quit;

	# two that merely wait for each other's turn are no deadlock
	$sharer = session($here);
	$sharer->send("SELECT etcd_lock_shared('/migrate')");
	wait_until_waiting($sharer);
	sleep 1.5 * $DEADLOCK_TIMEOUT;
	ok(!$sharer->done, "$name: a sharer in nobody's way continues to wait");
	$holder->query("SELECT etcd_unlock_shared('/migrate')");
	is($writer->result->{sqlstate}, '', "$name: the exclusive waiter is served");
	$writer->query("SELECT etcd_unlock('/migrate')");
	is($sharer->result->{sqlstate}, '', "$name: then the sharer");
	$_->quit foreach $sharer, $writer;
}

# A session that waits for a holder on another server, in a SELECT, holds up builds here, and
# the log says so.
{
	my $far = session($there);
	my $waiter = session($here);
	$far->query("SELECT etcd_lock('/migrate')");
	$waiter->send("SELECT etcd_xact_lock('/migrate')");
	wait_until_waiting($waiter);
	my $offset = -s $here->logfile;
	$holder->send('REINDEX INDEX CONCURRENTLY t_i');
	wait_until(
		'the log tells',
		sub {
			slurp_file($here->logfile, $offset) =~
			  m{waits for etcd lock "/migrate" holds up another.*HINT:.*CALL etcd_lock_wait}s;
		});
	ok(!$holder->done, 'waiter for another server: the build waits for it');
	$far->query("SELECT etcd_unlock('/migrate')");
	is($waiter->result->{sqlstate}, '', 'until that has the lock');
	is($holder->result->{sqlstate}, '', 'and then ends');
	is(is_valid(), 't', 'with a valid index');
	$_->quit foreach $far, $waiter;
}

#
# Where CALL would have to commit what is not its own
#
sub refused
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $session = session($here);
	my $result = $session->try($sql);
	is($result->{sqlstate}, '25001', "refused: $name");
	like($result->{err}, qr/cannot run inside a transaction block.*HINT:.*autocommit/s,
		'... and told why');
	$session->query('ROLLBACK');
	is($session->query('SELECT count(*) FROM other_rows WHERE i = 0'),
		0, '... and nothing is committed');
	$session->quit;
	return;
}

my $CALL = "CALL etcd_lock_wait('/refused')";
refused("BEGIN; INSERT INTO other_rows VALUES (0); $CALL", 'BEGIN');
refused("BEGIN; SAVEPOINT s; INSERT INTO other_rows VALUES (0); $CALL", 'SAVEPOINT');
refused("INSERT INTO other_rows VALUES (0)\\; $CALL\\; SELECT 1;",
	'several statements in one message');
refused("$CALL\\; INSERT INTO other_rows VALUES (0);",
	'several statements in one message, CALL first');
refused("DO \$\$ BEGIN INSERT INTO other_rows VALUES (0); $CALL; EXCEPTION WHEN division_by_zero THEN END \$\$",
	'exception block');
refused("SET default_transaction_isolation = 'serializable'; BEGIN; $CALL",
	'serializable');

# Prepared, with a parameter, and in a pipeline: pgbench speaks the extended protocol.
sub pgbench
{
	my ($mode, $script) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	append_to_file($file, $script);
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'pgbench', '-n', '-M', $mode, '-t', 2, '-f', $file,
			$here->connstr('postgres') ], '>', \$out, '2>', \$err);
	return "$out$err";
}

foreach my $mode ('simple', 'extended', 'prepared')
{
	like(
		pgbench($mode, <<'END'), qr/actually processed: 2/, "pgbench -M $mode");
\set name 17
CALL etcd_lock_wait(:name::bigint);
SELECT 1 / etcd_unlock(:name::bigint)::int;
END
}
my $out = pgbench('extended', <<"END");
\\startpipeline
INSERT INTO other_rows VALUES (0);
$CALL;
\\endpipeline
END
like($out, qr/cannot run inside a transaction block/, 'refused: pipeline');
is($control->query('SELECT count(*) FROM other_rows WHERE i = 0'),
	0, '... and nothing is committed');
like(pgbench('extended', <<"END"), qr/actually processed: 2/, 'CALL begins a pipeline');
\\startpipeline
$CALL;
SELECT 1 / etcd_unlock('/refused')::int;
\\endpipeline
END

# In a database of another encoding, the lines in the log about its wait give it no
# snapshot either.
$here->safe_psql('postgres', "CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
$here->safe_psql('latin1', 'CREATE EXTENSION etcd_lock');
foreach my $server ($here, $there)
{
	foreach my $name (q('/latin1'), q(U&'/m\00e4rz'))
	{
		my $what = 'LATIN1, ' . $server->name . ", $name";
		my $owner = session($server);
		my $waiter = session($here, db => 'latin1');

		# Where the session looked the conversion up when it began is not first any more.
		$waiter->query('SET search_path = public, pg_catalog');
		$owner->query("SELECT etcd_lock($name)");
		my $log = -s $here->logfile;
		$waiter->send("CALL etcd_lock_wait($name)");
		wait_until_waiting($waiter);
		is_logged($here, $log, qr/still waiting/, "$what: the wait is logged");
		is($control->query('SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE pid = ' . $waiter->pid),
			't', "$what: it has no snapshot");
		$owner->query("SELECT etcd_unlock($name)");
		is($waiter->result->{sqlstate}, '', "$what: it is served");
		$_->quit foreach $owner, $waiter;
	}
}

is_left_clean($etcd, @nodes);
$_->quit foreach $control, $holder;
finish($etcd, @nodes);
