# The queue: who comes next, between servers and within one; nobody starves, and nothing
# is left behind.

use strict;
use warnings;

use EtcdLockTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $etcd = EtcdLockTest::Etcd->new;
my @nodes = start_servers($etcd, qw(a b c));
my %node = map { $_->name => $_ } @nodes;

# Set handoff_window on every server, for the sessions to come.
sub set_window
{
	my ($window) = @_;
	foreach my $node (@nodes)
	{
		$node->safe_psql('postgres',
			"ALTER SYSTEM SET etcd_lock.handoff_window = '$window'");
		$node->reload;
		$node->poll_query_until('postgres',
			"SELECT current_setting('etcd_lock.handoff_window') = '$window'")
		  or die 'the setting did not arrive';
	}
	return;
}

# Let sessions queue for a lock in a given order ("a1 b1 a2": a's first session,
# ...), then let each that has it unlock it: the order in which they get it.
# The first one has it from the start.
sub order_of_grants
{
	my ($name, @queue) = @_;
	my %session = map { $_ => session($node{ substr $_, 0, 1 }) } @queue;
	my %queued;
	my ($holder, @waiting) = @queue;
	my @granted = ($holder);

	$session{$holder}->query("SELECT etcd_lock('$name')");
	$queued{ substr $holder, 0, 1 } = 1;
	foreach my $waiter (@waiting)
	{
		$session{$waiter}->send("SELECT etcd_lock('$name')");
		wait_until_waiting($session{$waiter});
		$queued{ substr $waiter, 0, 1 } = 1;
		wait_until('every server that waits has a key',
			sub { $etcd->keys("$name/") == keys %queued });
	}

	while (@waiting)
	{
		# The next one of a server comes into the queue when it is woken.
		my %server = map { substr($_, 0, 1) => 1 } $holder, @waiting;
		wait_until('every server that holds or waits has a key',
			sub { $etcd->keys("$name/") == keys %server });
		$session{$holder}->query("SELECT etcd_unlock('$name')");
		($holder) = wait_until('somebody gets the lock',
			sub {
				my ($next) = grep { $session{$_}->done } @waiting;
				return $next;
			});
		my $result = $session{$holder}->result;
		die "$holder: $result->{err}" if $result->{sqlstate} ne '';
		@waiting = grep { $_ ne $holder } @waiting;
		push @granted, $holder;
	}
	$session{$holder}->query("SELECT etcd_unlock('$name')");
	$_->quit foreach values %session;
	return "@granted";
}

# First come, first served between servers, and between a server's sessions.
set_window('0');
is(order_of_grants('/fifo', qw(a1 b1 c1)), 'a1 b1 c1', 'FIFO between servers');
is(order_of_grants('/fifo', qw(c1 b1 a1)), 'c1 b1 a1',
	'FIFO between servers, the other way round');
is(order_of_grants('/fifo', qw(a1 a2 a3 a4)),
	'a1 a2 a3 a4', 'FIFO between the sessions of a server');
is(order_of_grants('/fifo', qw(a1 a2 b1 b2 c1)),
	'a1 b1 c1 a2 b2', 'handoff_window = 0: other servers come first');
set_window('10s');
is(order_of_grants('/fifo', qw(a1 a2 b1 b2 a3)),
	'a1 a2 a3 b1 b2',
	'within a long handoff_window the sessions of the server come first');
set_window('100ms');
is_left_clean($etcd, @nodes);

# A waiting writer of another server is not passed by new readers.
{
	set_window('0');
	my ($reader, $late) = (session($node{a}), session($node{a}));
	my $writer = session($node{b});
	$reader->query("SELECT etcd_lock_shared('/fair')");
	$writer->send("SELECT etcd_lock('/fair') > 0");
	wait_until_waiting($writer);
	wait_until('the writer is queued', sub { $etcd->keys('/fair/') == 2 });
	is($late->query("SELECT etcd_try_lock_shared('/fair')"),
		'f', 'a waiting writer of another server keeps new readers out');
	$late->send("SELECT etcd_lock_shared('/fair') > 0");
	wait_until_waiting($late);
	$reader->query("SELECT etcd_unlock_shared('/fair')");
	is($writer->result->{out}, 't', 'the writer comes first');
	ok(!$late->done, 'then the late reader still waits');
	$writer->query("SELECT etcd_unlock('/fair')");
	is($late->result->{out}, 't', 'and comes last');
	$late->query('SELECT etcd_unlock_all()');
	$_->quit foreach $reader, $late, $writer;
	set_window('100ms');
}

# Without a window sharers of a server still come together.
{
	my @sharers = map { session($node{a}) } 1 .. 3;
	set_window('0');
	is($_->query("SELECT etcd_lock_shared('/fair') > 0"),
		't', 'handoff_window = 0: a sharer joins')
	  foreach @sharers;
	is($_->query("SELECT etcd_unlock_shared('/fair')"),
		't', 'handoff_window = 0: and leaves')
	  foreach @sharers;
	$_->quit foreach @sharers;
	set_window('100ms');
}

# Two servers that share a lock and both want it exclusively: the one that asks
# later gets an error, the other one the lock.
foreach my $scope ('', 'xact_')
{
	my ($winner, $loser) = (session($node{a}), session($node{b}));
	$_->query("BEGIN; SELECT etcd_${scope}lock_shared('/up')")
	  foreach $winner, $loser;
	$winner->send("SELECT etcd_${scope}lock('/up') > 0");
	wait_until_waiting($winner);
	wait_until('the first one is queued', sub { $etcd->keys('/up/') == 3 });
	is($loser->try("SELECT etcd_${scope}lock('/up') > 0")->{sqlstate},
		'40P01', "${scope}lock: the second one is told");

	# The error ends a transaction lock, but not a session lock.
	if ($scope eq '')
	{
		ok(!$winner->done, "${scope}lock: its shared lock is still in the way");
		$loser->query("ROLLBACK; SELECT etcd_unlock_shared('/up')");
	}
	is($winner->result->{out}, 't', "${scope}lock: the first one gets the lock");
	$loser->query('ROLLBACK');
	is($loser->query("SELECT etcd_try_lock_shared('/up')"),
		'f', "${scope}lock: for itself alone");
	$_->query('ROLLBACK; SELECT etcd_unlock_all()') foreach $winner, $loser;
	$_->quit foreach $winner, $loser;
}

# A shared try beside somebody who waits to share is not refused for what its worker
# has heard before, while that does not come to hear of the end of the lock.
{
	my ($holder, $waiter, $try) = map { session($node{$_}) } qw(a b b);
	$holder->query("SELECT etcd_lock('/stale')");
	$waiter->send("SELECT etcd_lock_shared('/stale')");
	wait_until('it waits in etcd', sub { my @keys = $etcd->keys('/stale/'); @keys == 2 });
	is($try->query("SELECT etcd_try_lock_shared('/stale')"), 'f', 'beside a waiter: the lock is taken');
	my $worker = worker_pid($node{b});
	kill 'STOP', $worker;
	$holder->query("SELECT etcd_unlock('/stale')");
	$try->send("SELECT etcd_try_lock_shared('/stale')");
	my $begin = time;
	wait_until('for a while', sub { $try->done || time - $begin > 0.3 });
	kill 'CONT', $worker;
	is($try->result->{out}, 't', 'beside a waiter: it is not');
	is($waiter->result->{sqlstate}, '', 'and the waiter has it, too');
	$_->quit foreach $holder, $waiter, $try;
}

# One who upgrades while another server waits for its shared lock could only
# wait in a circle.
{
	my ($upgrader, $writer) = (session($node{a}), session($node{b}));
	$upgrader->query("SELECT etcd_lock_shared('/up')");
	$writer->send("SELECT etcd_lock('/up') > 0");
	wait_until_waiting($writer);
	wait_until('the writer is queued', sub { $etcd->keys('/up/') == 2 });
	is($upgrader->try("SELECT etcd_lock('/up')")->{sqlstate},
		'40P01', 'an upgrade behind a waiting writer is a deadlock');
	$upgrader->query("SELECT etcd_unlock_shared('/up')");
	is($writer->result->{out}, 't', 'the writer gets the lock');
	$_->query('SELECT etcd_unlock_all()') foreach $upgrader, $writer;
	$_->quit foreach $upgrader, $writer;
}

# A lone sharer upgrades, and an exclusive holder shares.
{
	my ($session, $other) = (session($node{a}), session($node{b}));
	is( $session->query(
			"SELECT etcd_lock_shared('/up') > 0, etcd_lock('/up') > 0"),
		't|t', 'a lone sharer gets the lock exclusively');
	is($other->query("SELECT etcd_try_lock_shared('/up')"),
		'f', 'and excludes sharers');
	$session->query("SELECT etcd_unlock_all(); SELECT etcd_lock('/up')");
	is($session->query("SELECT etcd_try_lock_shared('/up')"),
		't', 'an exclusive holder may share');
	is($other->query("SELECT etcd_try_lock_shared('/up')"),
		'f', 'others may not');
	$session->query("SELECT etcd_unlock('/up')");
	is($other->query("SELECT etcd_try_lock('/up')"),
		'f', 'what is left of the two is still a shared lock');
	is( $session->query(
			"SELECT etcd_try_lock('/up'), etcd_unlock('/up'), etcd_unlock_shared('/up')"
		),
		't|t|t',
		'the session may ask for the exclusive lock again');
	is($other->query("SELECT etcd_try_lock('/up'), etcd_unlock('/up')"),
		't|t', 'free after both are released');
	$_->quit foreach $session, $other;
}
is_left_clean($etcd, @nodes);

# Many locks in a transaction.
{
	my ($session, $other) = (session($node{a}), session($node{b}));
	my $begin = time;
	is( $session->query(
			"BEGIN; SELECT count(etcd_xact_lock('/many/' || i))
			          FROM generate_series(1, 500) i"),
		500, '500 locks in a transaction');
	is(scalar($etcd->keys('/many/')), 500, '... are 500 keys in etcd');
	is($other->query("SELECT etcd_try_lock('/many/250')"),
		'f', 'every one of them excludes');
	$session->query('COMMIT');

	# It waits for that for a second at most.
	wait_until('all are gone', sub { !$etcd->keys('/many/') });
	pass('and all are gone after COMMIT');
	is( $other->query("SELECT etcd_try_lock('/many/250'), etcd_unlock_all()"),
		't|', 'and free');
	note sprintf '500 locks: %.2f s', time - $begin;
	$_->quit foreach $session, $other;
}
is_left_clean($etcd, @nodes);

# pgbench in the background, with a script of its own.
sub start_pgbench
{
	my ($node, $script, @options) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	append_to_file($file, $script);

	my %run = (out => '', err => '');
	$run{harness} = IPC::Run::start(
		[ 'pgbench', '-n', '-f', $file, @options, $node->connstr('postgres') ],
		'<', \undef, '>', \$run{out}, '2>', \$run{err});
	return \%run;
}

# Wait for its end: the number of transactions, or undef if it failed.
sub end_pgbench
{
	my ($run) = @_;
	my $success = $run->{harness}->finish;
	diag($run->{out}, $run->{err}) unless $success;
	my ($done) = $run->{out} =~ /actually processed: (\d+)/;
	return $success ? $done : undef;
}

# A crowd waits: few keys in etcd, and everyone is served.
{
	my $holder = session($node{a});
	my $per_server = 100;
	$holder->query("SELECT etcd_lock('/crowd')");
	my @runs = map {
		start_pgbench($_,
			"SELECT etcd_lock('/crowd');\nSELECT etcd_unlock('/crowd');\n",
			'-c', $per_server, '-t', 1);
	} @node{qw(a b)};
	foreach my $node (@node{qw(a b)})
	{
		my $waiting;
		wait_until(
			'all wait',
			sub {
				$waiting = $node->safe_psql('postgres',
					"SELECT count(*) FROM etcd_locks WHERE NOT granted");
				return $waiting == $per_server;
			});
		is($waiting, $per_server,
			"$per_server sessions wait on " . $node->name);
	}
	cmp_ok(scalar($etcd->keys('/crowd/')),
		'<=', 4, 'they are at most two keys a server in etcd');
	$holder->query("SELECT etcd_unlock('/crowd')");
	is(end_pgbench($_), $per_server, 'all of a server are served')
	  foreach @runs;
	$holder->quit;
}
is_left_clean($etcd, @nodes);

# Servers that hammer on one lock: none starves, and what the lock protects
# stays whole.  A counter on the first server is read and written back in two
# statements; one increment is lost wherever two hold the lock at once.  Beside it
# each server counts its own turns.
$node{a}->safe_psql('postgres',
	'CREATE TABLE counter AS SELECT 0 AS value, 0 AS a, 0 AS b, 0 AS c');
my ($host, $port) = ($node{a}->host, $node{a}->port);
$_->safe_psql('postgres', <<"END") foreach @node{qw(b c)};
CREATE EXTENSION postgres_fdw;
CREATE SERVER a FOREIGN DATA WRAPPER postgres_fdw
	OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER a;
CREATE FOREIGN TABLE counter (value int, a int, b int, c int) SERVER a;
END

# The turns of each server so far, if all of them are still at it.
sub turns_of_each
{
	my ($look, @runs) = @_;
	my @turns = split /\|/, $look->query('SELECT a, b, c FROM counter');
	foreach my $harness (map { $_->{harness} } @runs)
	{
		$harness->pump_nb if $harness->pumpable;
		return unless $harness->pumpable;
	}
	return \@turns;
}

# Let all servers hammer; how long a turn took, and each server's turns, while all
# of them were at it: one that starts before the others has the lock for itself.
sub hammer
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $look = session($node{a});
	$look->query('UPDATE counter SET value = 0, a = 0, b = 0, c = 0');
	my @runs = map {
		my $mine = $_->name;
		start_pgbench($_, <<"END", '-c', 4, '-T', 5);
SELECT etcd_lock('/hot');
SELECT value FROM counter \\gset
UPDATE counter SET value = :value + 1, $mine = $mine + 1;
SELECT etcd_unlock('/hot');
END
	} @nodes;

	my ($first, $last, $begin, $end);
	wait_until(
		'the first one ends',
		sub {
			my $turns = turns_of_each($look, @runs) or return 1;
			return 0 if grep { $_ == 0 } @$turns;
			($first, $begin) = ($turns, time) unless $first;
			($last, $end) = ($turns, time);
			return 0;
		});
	my $sum = 0;
	$sum += end_pgbench($_) // 0 foreach @runs;
	is($look->query('SELECT value FROM counter'), $sum, "$name: no increment is lost");
	is($look->query('SELECT a + b + c FROM counter'), $sum, "$name: of all that were made");
	is_left_clean($etcd, @nodes);
	$look->quit;

	# Too short a time says nothing.
	return 1e9 unless $last && $end - $begin > 2;
	my @turns = map { $last->[$_] - $first->[$_] } 0 .. 2;
	note "$name: turns for each server: @turns";
	return (($end - $begin) / ($turns[0] + $turns[1] + $turns[2] || 1), @turns);
}

foreach my $window ('100ms', '0')
{
	my $name = "handoff_window = $window";
	set_window($window);
	my @turns;
	cmp_ok(
		fastest(0.15, sub { (my $turn, @turns) = hammer($name); return $turn }),
		'<', 0.15, "$name: a turn takes less than a poll would");
	my ($least, undef, $most) = sort { $a <=> $b } @turns;
	cmp_ok($least // 0, '>=', ($most // 1) / 15, "$name: no server gets much less than the others");
}

finish($etcd, @nodes);
