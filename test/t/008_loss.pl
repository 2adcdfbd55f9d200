# A lost lock, whatever the cause: its transaction does not commit, its session is told
# at once, and the lock is never silently regained.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $ttl = 6;
my $etcd = EtcdLockTest::Etcd->new;
my $here = start_server(
	'here',
	endpoints => $etcd->endpoint,
	conf => "etcd_lock.lease_ttl = '${ttl}s'\nmax_prepared_transactions = 2");

# Its keepalives are rare, so that they are not what notices something.
my $there = start_server(
	'there',
	endpoints => $etcd->endpoint,
	conf => "etcd_lock.lease_ttl = '60s'\netcd_lock.request_timeout = '2s'");
$_->safe_psql('postgres', 'CREATE TABLE t (v text)') foreach $here, $there;
my $control = session($here);
my $other = session($there);

sub committed
{
	my ($node, $value) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM t WHERE v = '$value'");
}

sub new_lease
{
	my ($node, $old) = @_;
	wait_until(
		'another lease',
		sub {
			my $lease = $node->safe_psql('postgres',
				"SELECT lease FROM etcd_lock_status() WHERE state = 'ready'");
			return $lease ne '' && $lease ne $old;
		});
	return;
}

sub lease
{
	my ($node) = @_;
	return $node->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status()');
}

# When a backend failed by its own account: on a busy machine, what it says takes a while
# to arrive.
sub failed_at
{
	my ($pid, $offset) = @_;
	my ($at) = slurp_file($here->logfile, $offset) =~ /^(\S+ \S+ \S+) \[$pid\] .*(?:ERROR|FATAL): /m;
	return $here->safe_psql('postgres', "SELECT extract(epoch FROM timestamptz '$at')");
}

#
# Every session of one server loses its lock, in each of these ways.
#

my $lost = 'etcd lock "/lost/\w+" was lost';

foreach my $way (
	{
		name => 'keys deleted by hand',
		lose => sub { $etcd->delete('/lost/') }
	},
	{
		name => 'lease revoked by hand',
		lose => sub { $etcd->revoke($etcd->lease_of('/lost/')) }
	},
	{
		name => 'etcd hangs for longer than the TTL',
		lose => sub { $etcd->pause },
		heal => sub { $etcd->resume },
		is_time => 1
	},
	{
		name => 'the worker hangs for longer than the TTL',
		lose => sub { kill 'STOP', worker_pid($here) },
		heal => sub { kill 'CONT', worker_pid($here) },
		is_time => 1
	})
{
	my $name = $way->{name};
	my %session = map { $_ => session($here) }
	  qw(xact idle reader unlocker cancel terminate idle_terminate warn);

	$session{xact}->query(
		"BEGIN; SELECT etcd_xact_lock('/lost/xact'); INSERT INTO t VALUES ('$name')");
	$session{idle}->query("SELECT etcd_lock('/lost/idle')");
	$session{reader}->query(
		"SET etcd_lock.on_loss = 'warn'; SELECT etcd_lock('/lost/reader')");
	$session{unlocker}->query(
		"BEGIN; INSERT INTO t VALUES ('$name, unlocked'); SELECT etcd_lock('/lost/unlocker')"
	);
	foreach my $on_loss (qw(cancel terminate warn))
	{
		my $seconds = $on_loss eq 'warn' ? $ttl + 3 : 60;
		$session{$on_loss}
		  ->query("SET etcd_lock.on_loss = '$on_loss'; SELECT etcd_lock('/lost/$on_loss')");
		$session{$on_loss}->send("SELECT 'slept' FROM pg_sleep($seconds)");
	}
	$session{idle_terminate}->query(
		"SET etcd_lock.on_loss = 'terminate'; SELECT etcd_lock('/lost/idle_terminate')");
	my $old_token = $session{idle}->query("SELECT etcd_lock_token('/lost/idle')");
	$other->send("SELECT etcd_lock('/lost/xact')");
	wait_until_waiting($other);

	my %pid = map { $_ => $session{$_}->pid } qw(cancel terminate);
	my $offset = -s $here->logfile;
	my $begin = time;
	$way->{lose}->();
	my %took;
	my $told_first = 1;
	wait_until(
		"$name: told and free",
		sub {
			my $granted = $other->done;
			foreach my $on_loss (qw(cancel terminate))
			{
				next unless $session{$on_loss}->done;
				$took{$on_loss} //= time - $begin;
			}
			$told_first = 0 if $granted && !$took{cancel};
			$took{another} //= time - $begin if $granted;
			return 1 if keys %took == 3;
			# Nothing is granted while etcd hangs.
			return 1
			  if $name =~ /^etcd/ && $took{cancel} && $took{terminate};
			return;
		},
		30);
	ok($told_first, "$name: the holder is told before another one is granted")
	  if $way->{is_time};
	diag sprintf '%-42s %s', "$name:",
	  join ', ', map { sprintf "%s after %.2f s", $_, $took{$_} }
	  sort keys %took;
	cmp_ok(failed_at($pid{cancel}, $offset) - $begin,
		'<', $ttl, "$name: a statement is cancelled before the lease ends");
	cmp_ok(failed_at($pid{terminate}, $offset) - $begin,
		'<', $ttl, "$name: and a session terminated");

	# What was running.
	my $result = $session{cancel}->result;
	is($result->{sqlstate}, '57014', "$name: on_loss = cancel");
	like($result->{err}, qr/canceling statement because $lost/,
		"$name: with its reason");
	$result = $session{terminate}->result;
	is($result->{sqlstate}, '57P01', "$name: on_loss = terminate");
	wait_until("$name: an idle session is terminated",
		sub { $session{idle_terminate}->try('SELECT 1')->{closed} });
	pass("$name: on_loss = terminate, an idle session");

	# The transaction.
	$result = $session{xact}->try('COMMIT');
	is($result->{sqlstate}, 'EL002', "$name: the transaction is not committed");
	like($result->{err},
		qr/transaction was not committed because $lost.*DETAIL.*HINT/s,
		"$name: and says why");
	cmp_ok($result->{elapsed}, '<', 5, "$name: the refusal comes at once");
	is(committed($here, $name), 0, "$name: nothing is written");

	# The session that did nothing.
	is( $session{idle}->query(
			"SELECT etcd_lock_check('/lost/idle'), etcd_lock_token('/lost/idle')"),
		"f|$old_token",
		"$name: check and token of a lost lock");
	$result = $session{idle}->try("SELECT etcd_lock('/lost/idle')");
	is($result->{sqlstate}, 'EL001', "$name: it is not regained by locking");
	like($result->{err}, qr/ERROR:.*$lost.*HINT/s, "$name: and says why");
	is($session{idle}->try("SELECT etcd_try_lock('/lost/idle')")->{sqlstate},
		'EL001', "$name: nor by trying");
	is( $session{idle}
		  ->try("SELECT etcd_xact_lock_shared('/lost/idle')")->{sqlstate},
		'EL001',
		"$name: nor in another mode");
	is($session{idle}->try("INSERT INTO t VALUES ('$name, idle')")->{sqlstate},
		'EL001', "$name: writing is refused at once");
	my @notify = (
		'NOTIFY lost',
		"SELECT pg_notify('lost', '')",
		"DO \$\$ BEGIN PERFORM pg_notify('lost', ''); END \$\$");
	is($session{idle}->try($_)->{sqlstate}, 'EL001', "$name: so is $_") foreach @notify;
	is($session{idle}->query("SELECT etcd_unlock('/lost/idle')"),
		't', "$name: unlocking acknowledges it");

	# Reading, with on_loss = warn.
	$result = $session{reader}->try("SELECT 'read'");
	is($result->{out}, 'read', "$name: a plain SELECT returns its rows");
	like($result->{err}, qr/WARNING:  EL001:.*"\/lost\/reader".* was lost/,
		"$name: with a warning");
	$result = $session{reader}
	  ->try("BEGIN; INSERT INTO t VALUES ('$name, reader'); COMMIT");
	is($result->{sqlstate}, 'EL002',
		"$name: a session that has lost its lock cannot commit a change");
	is(committed($here, "$name, reader"), 0, "$name: nothing is written");
	is($session{reader}->try("BEGIN; $_; COMMIT")->{sqlstate},
		'EL002', "$name: $_ cannot be committed") foreach @notify;
	$result = $session{reader}->try(
		"SELECT etcd_unlock('/lost/reader'); INSERT INTO t VALUES ('$name, reader')");
	is($result->{sqlstate}, '', "$name: after unlocking it can");
	is(committed($here, "$name, reader"), 1, "$name: and has");

	# Acknowledged within a transaction: it cannot commit what it has changed, and
	# the next one can.
	$result = $session{unlocker}->try("SELECT etcd_unlock('/lost/unlocker'); COMMIT");
	is($result->{sqlstate}, 'EL002',
		"$name: unlocking a lost lock does not save the transaction's changes");
	$result = $session{unlocker}->try("INSERT INTO t VALUES ('$name, unlocked again')");
	is($result->{sqlstate}, '', "$name: the next transaction is free of it");

	$way->{heal}->() if $way->{heal};
	if (!defined $took{another})
	{
		my $healed = time;
		wait_until("$name: granted when it is over", sub { $other->done }, 30);
		diag sprintf '%-42s another after %.2f s more', "$name:",
		  time - $healed;
	}
	higher_token($other->result->{out}, $name);
	$other->query("SELECT etcd_unlock('/lost/xact')");

	# It slept on, and cannot commit either.
	$result = $session{warn}->result;
	is($result->{out}, 'slept', "$name: on_loss = warn");
	like($result->{err}, qr/WARNING:  EL001/, "$name: warns");

	# Acknowledged, all works again.
	new_lease($here, '');
	if ($name !~ /deleted/)
	{
		# A watch may show the end of a key before the end of the lease is noticed.
		my $log = slurp_file($here->logfile, $offset);
		my ($with) = $log =~
		  /WARNING:  (?:\w+: )?etcd_lock: lease lost: .*\n.*DETAIL:  (\d+) locks? w\w+ lost with it/;
		my @before = $log =~ /etcd_lock: lock "([^"]+)" was lost: its key was deleted from etcd/g;
		is(($with // 0) + @before, scalar keys %session,
			"$name: the log says how many locks were lost, regardless of who noticed first");
	}
	higher_token($session{xact}->query("SELECT etcd_lock('/lost/xact')"),
		"$name: locked again");
	is( $session{idle}->query(
			"SELECT etcd_lock('/lost/idle') > $old_token, etcd_lock_check('/lost/idle')"),
		't|t',
		"$name: locked again");
	$session{xact}->query("INSERT INTO t VALUES ('$name, again')");
	is(committed($here, "$name, again"), 1, "$name: and written");
	$_->quit foreach values %session;
	is_left_clean($etcd, $here, $there);
}

#
# The lease is lost and another one granted, all within a transaction.
#

foreach my $scope (qw(xact session))
{
	my $holder = session($here);
	my $lock = $scope eq 'xact' ? 'etcd_xact_lock' : 'etcd_lock';
	my $name = "loss and new lease within a transaction, $scope lock";
	$holder->query("BEGIN; INSERT INTO t VALUES ('$name'); SELECT $lock('/lost/a')");
	my $lease = lease($here);
	$etcd->revoke($etcd->lease_of('/lost/a'));
	new_lease($here, $lease);
	is($holder->query("SELECT etcd_xact_lock('/lost/b') > 0"),
		't', "$name: another lock is granted by the new lease");
	is($holder->try('COMMIT')->{sqlstate}, 'EL002', "$name: not committed");
	is(committed($here, $name), 0, "$name: nothing is written");
	$holder->query('SELECT etcd_unlock_all()');

	# A savepoint that is rolled back takes its lock and its changes along.
	next if $scope eq 'session';
	$holder->query(<<"SQL");
BEGIN;
INSERT INTO t VALUES ('$name');
SAVEPOINT s;
SELECT etcd_xact_lock('/lost/a');
SQL
	$etcd->delete('/lost/');
	wait_until(
		'the loss is noticed',
		sub { $control->query('SELECT bool_or(lost) FROM etcd_locks') eq 't' });
	is($holder->try('ROLLBACK TO s; COMMIT')->{sqlstate},
		'', "$name: ROLLBACK TO takes the lost lock along");
	is(committed($here, $name), 1, "$name: what remains is committed");
	$holder->quit;
}

# Prepared transactions.
{
	my $holder = session($here);
	$holder->query("BEGIN; INSERT INTO t VALUES ('prepared'); PREPARE TRANSACTION 'p'");
	$holder->query("SELECT etcd_lock('/lost/a')");
	$etcd->delete('/lost/');
	wait_until(
		'the loss is noticed',
		sub { $control->query('SELECT bool_or(lost) FROM etcd_locks') eq 't' });
	is($holder->try("COMMIT PREPARED 'p'")->{sqlstate},
		'EL002', 'lost lock: COMMIT PREPARED is refused');
	is(committed($here, 'prepared'), 0, 'and nothing is committed');
	is( $holder->try("BEGIN; SELECT 1; PREPARE TRANSACTION 'q'")->{sqlstate},
		'EL002',
		'lost lock: PREPARE TRANSACTION is refused');
	$holder->query("SELECT etcd_unlock('/lost/a')");
	$holder->query("COMMIT PREPARED 'p'");
	is(committed($here, 'prepared'), 1, 'unlocked: COMMIT PREPARED commits');
	$holder->quit;
}

# etcd_lock_break, from another server.
{
	my $holder = session($here);
	my $held = $holder->query("SELECT etcd_lock('/lost/a')");
	send_sleep($holder);
	$other->send("SELECT etcd_lock('/lost/a')");
	wait_until_waiting($other);
	my $breaker = session($there);
	is($breaker->query("SELECT etcd_lock_break('/lost/a', 1)"),
		'f', 'etcd_lock_break with another token does nothing');
	ok(!$holder->done && !$other->done, 'and nobody notices it');

	my $begin = time;
	is($breaker->query("SELECT etcd_lock_break('/lost/a', $held)"),
		't', 'etcd_lock_break with the token');
	my $result = $other->result;
	cmp_ok($result->{out}, '>', $held, 'the next one has the lock');
	my $free = time - $begin;
	is($holder->result->{sqlstate}, '57014', 'the holder is told');
	diag sprintf '%-42s another after %.2f s, cancel after %.2f s',
	  'etcd_lock_break:', $free, time - $begin;
	is($breaker->query("SELECT etcd_lock_break('/lost/a', $held)"),
		'f', 'and cannot be broken again');
	is($other->query("SELECT etcd_lock_check('/lost/a')"),
		't', 'which leaves the next one alone');
	$breaker->query('CREATE ROLE nobody; GRANT EXECUTE ON FUNCTION '
		  . 'etcd_lock_break(text, bigint) TO nobody; SET ROLE nobody');
	is($breaker->try("SELECT etcd_lock_break('/lost/a', 1)")->{sqlstate},
		'42501', 'etcd_lock_break is for superusers');
	$other->query("SELECT etcd_unlock('/lost/a')");
	$_->quit foreach $holder, $breaker;
}

#
# commit_guard
#

# Off: nothing is looked at.
{
	my $holder = session($here);
	$holder->query(
		"SET etcd_lock.commit_guard = 'off'; SET etcd_lock.on_loss = 'warn'");
	$holder->query("BEGIN; INSERT INTO t VALUES ('off'); SELECT etcd_xact_lock('/lost/a')");
	$etcd->delete('/lost/');
	wait_until(
		'the loss is noticed',
		sub { $control->query('SELECT bool_or(lost) FROM etcd_locks') eq 't' });
	is($holder->try('COMMIT')->{sqlstate}, '', 'commit_guard = off commits');
	is(committed($here, 'off'), 1, 'commit_guard = off has committed');
	$holder->quit;
}

# etcd: asks etcd, and so knows of a deletion at once.  This server will look
# at its keys in 12 seconds only.
{
	my $holder = session($there);
	$holder->query("SET etcd_lock.commit_guard = 'etcd'");
	$holder->query("BEGIN; INSERT INTO t VALUES ('held'); SELECT etcd_xact_lock('/lost/a')");
	is($holder->try('COMMIT')->{sqlstate}, '', 'commit_guard = etcd: held, committed');

	foreach my $scope (qw(xact session))
	{
		my $lock = $scope eq 'xact' ? 'etcd_xact_lock' : 'etcd_lock';
		$holder->query("BEGIN; INSERT INTO t VALUES ('etcd'); SELECT $lock('/lost/a')");
		$etcd->delete('/lost/');
		my $result = $holder->try('COMMIT');
		is($result->{sqlstate}, 'EL002',
			"commit_guard = etcd: a deletion is known at once, $scope lock");
		cmp_ok($result->{elapsed}, '<', 5, 'without waiting');
		is(committed($there, 'etcd'), 0, 'and nothing is written');
		$holder->query('SELECT etcd_unlock_all()');
	}

	# It cannot know: it refuses.
	$holder->query("BEGIN; INSERT INTO t VALUES ('etcd'); SELECT etcd_xact_lock('/lost/a')");
	$etcd->pause;
	my $result = $holder->try('COMMIT');
	isnt($result->{sqlstate}, '', 'commit_guard = etcd, no answer: refused');
	diag sprintf 'commit_guard = etcd, etcd hangs: %s after %.2f s',
	  $result->{sqlstate}, $result->{elapsed};
	cmp_ok($result->{elapsed}, '<', 20, 'within some request timeouts');
	is(committed($there, 'etcd'), 0, 'and nothing is written');
	$etcd->resume;
	$holder->quit;
}

is_left_clean($etcd, $here, $there);
$_->quit foreach $control, $other;
finish($etcd, $here, $there);
