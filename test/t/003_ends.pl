# Everything that ends a hold makes the lock free for the other server, and nothing else
# loses it.  The lease lives for a minute, and its keys are checked every 12 seconds: a
# lock that is free sooner has waited for neither.

use strict;
use warnings;

use EtcdLockTest;
use Test::More;
use Time::HiRes qw(time);

my $at_once = 10;

my $etcd = EtcdLockTest::Etcd->new;
my $here = start_server(
	'here',
	endpoints => $etcd->endpoint,
	conf => "etcd_lock.lease_ttl = '60s'\nmax_prepared_transactions = 2");
my $there = start_server(
	'there',
	endpoints => $etcd->endpoint,
	conf => "etcd_lock.lease_ttl = '60s'");
my $other = session($there);
my $control = session($here);

# Give a session of the first server the lock, let the other server wait for
# it, do what is to end the hold: the other one must get the lock at once.
sub frees
{
	my ($name, $take, $end) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $holder = session($here);
	ref $take ? $take->($holder) : $holder->query($take);
	$other->send("SELECT etcd_lock('/held') > 0");
	wait_until_waiting($other);
	my $begin = time;
	ref $end ? $end->($holder) : $holder->try($end);
	my $result = eval { $other->result($at_once) };
	ok($result && $result->{out} eq 't', "free at once: $name");
	die "the lock did not get free: $name" unless $result;
	note sprintf '%s: %.1f ms', $name, 1000 * (time - $begin);
	$other->query('SELECT etcd_unlock_all()');
	$holder->quit;
	return;
}

# After a rollback nobody waits until etcd has confirmed that a lock is free.
sub becomes_free
{
	my ($other) = @_;
	return wait_until(
		'the lock is free',
		sub {
			$other->query("SELECT etcd_try_lock('/held'), etcd_unlock('/held')")
			  eq 't|t';
		});
}

my $session_lock = "SELECT etcd_lock('/held')";
my $xact_lock = "SELECT etcd_xact_lock('/held')";

frees('etcd_unlock', $session_lock, "SELECT etcd_unlock('/held')");
frees('etcd_unlock, locked twice', "$session_lock; $session_lock",
	"SELECT etcd_unlock('/held'), etcd_unlock('/held')");
frees('etcd_unlock_all', "$session_lock; $session_lock",
	'SELECT etcd_unlock_all()');
frees('DISCARD ALL', $session_lock, 'DISCARD ALL');
frees('pg_advisory_unlock_all', $session_lock,
	'SELECT pg_advisory_unlock_all()');
frees('the session\'s end', $session_lock, sub { $_[0]->quit });
frees('the session\'s end inside a transaction',
	"BEGIN; $xact_lock", sub { $_[0]->quit });
frees('a lost client', $session_lock, sub { $_[0]->kill });
frees('pg_terminate_backend', $session_lock,
	sub { $control->query('SELECT pg_terminate_backend(' . $_[0]->pid . ')') });
frees('pg_terminate_backend inside a transaction',
	"BEGIN; $session_lock; $xact_lock",
	sub { $control->query('SELECT pg_terminate_backend(' . $_[0]->pid . ')') });
frees('COMMIT', "BEGIN; $xact_lock", 'COMMIT');
frees('ROLLBACK', "BEGIN; $xact_lock", 'ROLLBACK');
frees('an error', "BEGIN; $xact_lock", 'SELECT 1/0');
frees('ROLLBACK TO', "BEGIN; SAVEPOINT s; $xact_lock", 'ROLLBACK TO s');
frees('COMMIT after RELEASE', "BEGIN; SAVEPOINT s; $xact_lock; RELEASE s",
	'COMMIT');
frees('ROLLBACK TO of an outer savepoint',
	"BEGIN; SAVEPOINT o; SAVEPOINT s; $xact_lock; RELEASE s", 'ROLLBACK TO o');

# An exception block, whose end is still inside the statement and the
# transaction: advisory locks of the controlling session stop it before and
# behind that end.
$control->query('SELECT pg_advisory_lock(1), pg_advisory_lock(2)');
frees(
	'an exception block',
	sub {
		my ($holder) = @_;
		$holder->send(<<'SQL');
DO $$
BEGIN
	BEGIN
		PERFORM etcd_xact_lock('/held');
		PERFORM pg_advisory_xact_lock(1);
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		PERFORM pg_advisory_xact_lock(2);
	END;
END
$$
SQL
		wait_until('the block has the lock',
			sub { $control->query("SELECT 1 FROM etcd_locks WHERE granted AND pid = " . $holder->pid) });
	},
	sub {
		my ($holder) = @_;
		$control->query('SELECT pg_advisory_unlock(1)');
		wait_until('the lock is free', sub { $other->done }, $at_once);
		ok(!$holder->done, 'the exception block\'s transaction still runs');
		$control->query('SELECT pg_advisory_unlock(2)');
		$holder->result;
	});

# What does not end a hold.
{
	my $holder = session($here);
	foreach my $case (
		[ 'ROLLBACK keeps a session lock', "BEGIN; $session_lock; ROLLBACK" ],
		[
			'an error keeps a session lock',
			"BEGIN; $session_lock; SELECT 1/0; ROLLBACK"
		],
		[
			'one of two unlocks',
			"$session_lock; $session_lock; SELECT etcd_unlock('/held')"
		],
		[
			'ROLLBACK TO a later savepoint',
			"BEGIN; $xact_lock; SAVEPOINT s; $xact_lock; ROLLBACK TO s"
		],
		[
			'RELEASE of a savepoint',
			"BEGIN; SAVEPOINT s; $xact_lock; RELEASE s"
		],
		[
			'etcd_unlock does not end a transaction lock',
			"BEGIN; $xact_lock; SELECT etcd_unlock('/held'), etcd_unlock_all()"
		],
		[
			'COMMIT keeps what is locked for the session, too',
			"BEGIN; $session_lock; $xact_lock; COMMIT"
		])
	{
		my ($name, $sql) = @$case;
		$holder->try($sql);
		is($other->query("SELECT etcd_try_lock('/held')"), 'f', $name);
		$holder->query('ROLLBACK; SELECT etcd_unlock_all()');
		ok(becomes_free($other), "$name: and then it is free");
	}

	# PREPARE TRANSACTION would leave a lock without a session.
	is( $holder->try("BEGIN; $xact_lock; PREPARE TRANSACTION 'p'")->{sqlstate},
		'0A000', 'PREPARE TRANSACTION with a transaction lock is refused');
	ok(becomes_free($other), 'and has rolled back');
	is( $holder->query('SELECT count(*) FROM pg_prepared_xacts'),
		0, 'nothing is prepared');
	is( $holder->try("$session_lock; BEGIN; PREPARE TRANSACTION 'p'")
		  ->{sqlstate},
		'', 'a session lock does not hinder PREPARE TRANSACTION');
	is($other->query("SELECT etcd_try_lock('/held')"),
		'f', 'and stays with the session');
	$holder->query("COMMIT PREPARED 'p'");
	$holder->quit;
}
is_left_clean($etcd, $here, $there);

# The worker ends: it comes back with the same lease, and nobody loses a lock.
{
	my $holder = session($here);
	my $token = $holder->query($session_lock);
	my @leases = sort $etcd->leases;
	my $worker = worker_pid($here);
	$other->send("SELECT etcd_lock('/held') > 0");
	wait_until_waiting($other);

	$control->query("SELECT pg_terminate_backend($worker)");
	wait_until(
		'another worker runs',
		sub {
			my $pid = worker_pid($here);
			return $pid && $pid ne $worker;
		});
	is($holder->query("SELECT etcd_lock_check('/held')"),
		't', 'worker terminated: the holder still has the lock');
	is($holder->query("SELECT etcd_lock_token('/held')"),
		$token, 'with the same token');
	is_deeply([ sort $etcd->leases ], \@leases, 'the lease is the same one');
	ok(!$other->done, 'the other server still waits');
	is( $holder->query(
			"SELECT etcd_try_lock('/new'), etcd_unlock('/new')"),
		't|t',
		'further locks are granted');
	$holder->query("SELECT etcd_unlock('/held')");
	is($other->result($at_once)->{out}, 't', 'and the lock is handed over');

	# The same for the worker of a server that waits.
	$holder->send("SELECT etcd_lock('/held') > 0");
	wait_until_waiting($holder);
	$control->query('SELECT pg_terminate_backend(' . worker_pid($here) . ')');
	$other->query('SELECT etcd_unlock_all()');
	is($holder->result->{out}, 't',
		'worker of a waiter terminated: the lock is granted all the same');
	$holder->quit;
}

# Another endpoint of the same etcd, and etcd started again.
{
	my $holder = session($here);
	my $token = $holder->query($session_lock);
	$other->send("SELECT etcd_lock('/held') > 0");
	wait_until_waiting($other);

	set_endpoints($here, $etcd->endpoint(1));
	my $in_use = "SELECT endpoint FROM etcd_lock_status() WHERE state = 'ready'";
	wait_until('the new endpoint is used',
		sub { $here->safe_psql('postgres', $in_use) eq $etcd->endpoint(1) });
	is($holder->query("SELECT etcd_lock_check('/held')"),
		't', 'changed endpoints: the holder still has the lock');
	is($holder->query("SELECT etcd_lock_token('/held')"),
		$token, 'changed endpoints: the lock is held with the same token');
	ok(!$other->done, 'the other server still waits');

	$etcd->kill9;
	$etcd->start;
	wait_until(
		'etcd is used again',
		sub {
			my $result = $holder->try("SELECT etcd_lock_check('/held')");
			return $result->{out} eq 't';
		});
	is($holder->query("SELECT etcd_lock_token('/held')"),
		$token, 'etcd restarted: the lock is held with the same token');
	ok(!$other->done, 'the other server still waits');
	$holder->query("SELECT etcd_unlock('/held')");
	is($other->result($at_once)->{out}, 't', 'and gets the lock');
	$other->query('SELECT etcd_unlock_all()');
	$holder->quit;
}
is_left_clean($etcd, $here, $there);

# SIGKILL of a backend restarts its server: all its locks are free long before
# the lease could expire, and so is the place of those that waited.
foreach my $victim (qw(holder waiter))
{
	my ($holder, $waiter) = (session($here), session($here));
	$holder->query("SELECT etcd_lock('/held')");
	$waiter->send("SELECT etcd_lock('/held')");
	wait_until_waiting($waiter);
	$other->send("SELECT etcd_lock('/held') > 0");
	wait_until_waiting($other);

	my $begin = time;
	kill 'KILL', ($victim eq 'holder' ? $holder : $waiter)->pid;
	my $result = eval { $other->result($at_once) };
	ok($result && $result->{out} eq 't', "SIGKILL of a $victim: free at once");
	die "SIGKILL of a $victim: the lock did not get free" unless $result;
	note sprintf 'SIGKILL of a %s: %.1f ms', $victim, 1000 * (time - $begin);
	$other->query('SELECT etcd_unlock_all()');
	$_->quit foreach $holder, $waiter, $control;
	wait_until(
		'the server has restarted and grants locks',
		sub {
			# psql may end before it is sent the query.
			my ($code, $out) =
			  eval { $here->psql('postgres', "SELECT etcd_try_lock('/again')") };
			return defined $code && $code == 0 && $out eq 't';
		});
	$control = session($here);
}
is_left_clean($etcd, $here, $there);

# A graceful stop frees everything and takes its lease along.
foreach my $mode (qw(fast smart))
{
	my $holder = session($here);
	$holder->query($session_lock);
	$other->send("SELECT etcd_lock('/held') > 0");
	wait_until_waiting($other);
	my $leases = $etcd->leases;

	$control->quit;
	$holder->quit if $mode eq 'smart';
	my $begin = time;
	$here->stop($mode);
	is($other->result($at_once)->{out}, 't', "$mode stop: free at once");
	cmp_ok(time - $begin, '<', 2 * $at_once, "$mode stop: does not take long");
	wait_until('the lease is revoked', sub { $etcd->leases < $leases },
		$at_once);
	is(scalar($etcd->leases), $leases - 1, "$mode stop: its lease is gone");
	$other->query('SELECT etcd_unlock_all()');
	$holder->quit;
	$here->start;
	$control = session($here);
}

is_left_clean($etcd, $here, $there);
$_->quit foreach $control, $other;
finish($etcd, $here, $there);
