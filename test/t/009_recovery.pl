# Everything that ends or restarts on PostgreSQL's side: either nobody loses anything,
# or the lock is free at once, or after at most the TTL; nobody commits without it; and
# its tokens rise through all of that.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

# With the long TTL, what is free within seconds has not waited for it.
my ($long, $short) = (30, 5);
my $at_once = 12;

my $etcd = EtcdLockTest::Etcd->new;
my $here = start_server(
	'here',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 1 },
	conf => "etcd_lock.lease_ttl = '${long}s'");
$here->safe_psql('postgres', 'CREATE TABLE t (v text)');
my ($there) = start_servers($etcd, 'there');
my $other = session($there);

# A session of the first server that has the lock, by some statements.
sub holder
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $holder = session($here);
	$holder->query($sql);
	higher_token($holder->query("SELECT etcd_lock_token('/held')"), $name);
	return $holder;
}

my $lock = "SELECT etcd_lock('/held')";

# The other server waits; do what is to make the lock free; check how long it
# took.
sub frees
{
	my ($name, $limit, $end) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$other->send($lock);
	wait_until_waiting($other);
	my $begin = time;
	$end->();
	my $result = eval { $other->result($limit - (time - $begin)) };
	my $took = time - $begin;
	ok($result, "$name: the lock gets free");
	die "$name: the lock did not get free in $limit s" unless $result;
	diag sprintf '%-45s another after %.2f s', "$name:", $took;
	higher_token($result->{out}, $name);
	$other->query("SELECT etcd_unlock('/held')");
	return;
}

# After the crash of a backend the server comes back by itself.
sub wait_for_server
{
	wait_until(
		'the server grants locks again',
		sub {
			# psql may end before it is sent the query.
			my ($code, $out) = eval {
				$here->psql('postgres', "SELECT etcd_try_lock('/again', interval '100 ms')");
			};
			return defined $code && $code == 0 && $out eq 't';
		});
	return;
}

# Looked at by a session that is not told of it.
sub wait_for_loss
{
	wait_until(
		'the loss is noticed',
		sub {
			$here->safe_psql('postgres', 'SELECT bool_or(lost) FROM etcd_locks') eq
			  't';
		});
	return;
}

sub no_row
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($here->safe_psql('postgres', "SELECT count(*) FROM t WHERE v = '$name'"),
		0, "$name: nothing was committed");
	return;
}

#
# Nobody loses anything
#

{
	my $name = 'reload';
	my $holder = holder("BEGIN; SELECT etcd_xact_lock('/held')", $name);
	my $lease = $etcd->lease_of('/held/');
	$here->safe_psql('postgres',
		"ALTER SYSTEM SET etcd_lock.lease_ttl = '${short}s'");
	$here->reload;
	wait_until(
		'the setting is read',
		sub {
			$here->safe_psql('postgres', 'SHOW etcd_lock.lease_ttl') eq
			  "${short}s";
		});
	is($holder->query("SELECT etcd_lock_check('/held')"),
		't', "$name: the lock is held");
	is($etcd->granted_ttl($lease), $long, "$name: with the same lease");
	is($holder->try("INSERT INTO t VALUES ('kept'); COMMIT")->{sqlstate},
		'', "$name: and the transaction commits");
	$holder->quit;
}

# The new worker goes on with a lease that lives for longer than the setting
# says by now.
{
	my $name = 'worker terminated';
	my $holder = holder("BEGIN; SELECT etcd_xact_lock('/held')", $name);
	my $token = $holder->query("SELECT etcd_lock_token('/held')");
	my $worker = worker_pid($here);
	$other->send($lock);
	wait_until_waiting($other);
	my $begin = time;
	$here->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
	wait_until('another worker', sub { worker_pid($here) !~ /^($worker)?$/ });
	is($here->safe_psql('postgres', "SELECT etcd_try_lock('/new')"),
		't', "$name: others are granted");
	diag sprintf '%-45s none lost, others wait for %.2f s', "$name:",
	  time - $begin;
	is( $holder->query(
			"SELECT etcd_lock_check('/held'), etcd_lock_token('/held')"),
		"t|$token",
		"$name: the lock is held");
	ok(!$other->done, "$name: the other server still waits");
	is($holder->try("INSERT INTO t VALUES ('kept'); COMMIT")->{sqlstate},
		'', "$name: and the transaction commits");
	higher_token($other->result->{out}, $name);
	$other->query("SELECT etcd_unlock('/held')");
	$holder->quit;
}

{
	my $name = 'another lease_ttl';
	my $holder = holder($lock, $name);
	my $lease = $etcd->lease_of('/held/');
	is($etcd->granted_ttl($lease), $long, "$name: not for this lease");
	foreach my $ttl ($short, $long)
	{
		$here->safe_psql('postgres',
			"ALTER SYSTEM SET etcd_lock.lease_ttl = '${ttl}s'");
		$here->reload;
		$etcd->revoke($etcd->lease_of('/held/'));
		wait_for_loss();
		$holder->query("SELECT etcd_unlock('/held')");
		higher_token($holder->query($lock), $name);
		is($etcd->granted_ttl($etcd->lease_of('/held/')),
			$ttl, "$name: for the next one");
	}
	$holder->quit;
}

#
# Free at once: the server has restarted, and revokes its old lease.
#

sub transaction
{
	my ($name) = @_;
	return "BEGIN; INSERT INTO t VALUES ('$name'); SELECT etcd_xact_lock('/held')";
}

foreach my $case (
	[ 'backend killed', sub { kill 'KILL', $_[0]->pid } ],
	[ 'worker killed', sub { kill 'KILL', worker_pid($here) } ],
	[
		'backend killed, after a lease that was lost',
		sub { kill 'KILL', $_[0]->pid },
		1
	])
{
	my ($name, $kill, $lose_before) = @$case;
	if ($lose_before)
	{
		my $session = holder($lock, $name);
		$etcd->revoke($etcd->lease_of('/held/'));
		wait_for_loss();
		$session->quit;
	}
	my $holder = holder(transaction($name), $name);
	my $lease = $etcd->lease_of('/held/');
	frees($name, $at_once, sub { $kill->($holder) });
	ok(!(grep { $_ eq $lease } $etcd->leases), "$name: the old lease is gone");
	$holder->quit;
	wait_for_server();
	no_row($name);
}

{
	my $name = 'backend killed while etcd is down';
	my $holder = holder(transaction($name), $name);
	$other->send($lock);
	wait_until_waiting($other);
	$etcd->kill9;
	kill 'KILL', $holder->pid;
	$holder->quit;
	wait_until('the server has restarted',
		sub { (eval { ($here->psql('postgres', 'SELECT 1'))[0] } // 1) == 0 });
	my $begin = time;
	$etcd->start;
	my $result = eval { $other->result($at_once) };
	ok($result, "$name: the lock is free when it is up again");
	diag sprintf '%-45s another after %.2f s', "$name, then up:", time - $begin;
	higher_token($result->{out}, $name);
	$other->query("SELECT etcd_unlock('/held')");
	wait_for_server();
	no_row($name);
}

#
# Shutdown
#

foreach my $mode (qw(fast immediate))
{
	my $name = "$mode shutdown";
	if ($mode eq 'immediate')
	{
		$here->safe_psql('postgres',
			"ALTER SYSTEM SET etcd_lock.lease_ttl = '${short}s'");
		$here->restart;
	}
	my $holder = holder(transaction($name), $name);
	frees(
		$name,
		$mode eq 'fast' ? $at_once : $short + 10,
		sub { $here->stop($mode) });
	$holder->quit;
	$here->start;
	no_row($name);
}

# The lease_ttl is short from here on.  A backend that does not end at once
# keeps its lock: the lease is not revoked meanwhile.
{
	my $name = 'fast shutdown, a backend hangs';
	my $holder = holder(transaction($name), $name);
	$other->send($lock);
	wait_until_waiting($other);
	kill 'STOP', $holder->pid;
	my $begin = time;
	kill 'INT', $here->safe_psql('postgres',
		"SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)");
	sleep 0.05 while time - $begin < 2 * $short / 3 && !$other->done;
	ok(!$other->done, "$name: it is not free while the lease may be believed");
	my $result = eval { $other->result(30) };
	diag sprintf '%-45s another after %.2f s', "$name:", time - $begin;
	ok($result, "$name: but after a while");
	higher_token($result->{out}, $name);
	$other->query("SELECT etcd_unlock('/held')");
	kill 'CONT', $holder->pid;
	$holder->quit;
	wait_until('the server has ended',
		sub { !-e $here->data_dir . '/postmaster.pid' });
	$here->_update_pid(0);
	$here->start;
	no_row($name);
}

# The postmaster is gone, its backends are not: they know the deadline.  The
# transactions are one message each, so that nothing is waited for in between.
{
	my $name = 'postmaster killed';
	my %busy;
	my $holder = holder($lock, $name);
	foreach my $on_loss (qw(cancel warn))
	{
		$busy{$on_loss} = session($here);
		$busy{$on_loss}->query("SET etcd_lock.on_loss = '$on_loss'");
		$busy{$on_loss}->send(<<"SQL" =~ s/\n/ /gr);
BEGIN \\; INSERT INTO t VALUES ('$name') \\; SELECT etcd_xact_lock('/busy/$on_loss') \\;
DO \$\$ DECLARE until timestamptz := clock_timestamp() + interval '${\($short + 4)} s';
BEGIN WHILE clock_timestamp() < until LOOP END LOOP; END \$\$ \\; COMMIT
SQL
		wait_until('it holds its lock', sub { $etcd->keys("/busy/$on_loss") });
	}
	frees($name, $short + 10, sub { $here->kill9 });
	my $result = $busy{cancel}->result;
	is($result->{sqlstate}, '57014', "$name: a running statement is cancelled")
	  or diag($result->{err});
	$result = $busy{warn}->result;
	is($result->{sqlstate}, 'EL002', "$name: a transaction does not commit")
	  or diag($result->{err});
	$_->quit foreach $holder, values %busy;
	wait_until('the last backend has ended',
		sub { $here->start(fail_ok => 1) });
	no_row($name);
}

#
# Promotion
#

{
	my $name = 'promotion';

	# A lease that outlives a machine that stalls for a moment.
	my $ttl = 8;
	$here->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.lease_ttl = '${ttl}s'");
	$here->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($here, 'backup', has_streaming => 1);
	$standby->start;
	$here->wait_for_catchup($standby, 'replay', $here->lsn('insert'));
	my %session = map { $_ => session($standby) } qw(xact session);
	$session{xact}->query("BEGIN; SELECT etcd_xact_lock('/x')");
	$session{session}->query($lock);
	higher_token($session{session}->query("SELECT etcd_lock_token('/held')"),
		$name);
	$other->send($lock);
	wait_until_waiting($other);

	$here->stop('immediate');
	my $begin = time;
	$standby->promote;
	$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
	  or die 'the standby was not promoted';

	# Longer than the lease of a server that does not keep it alive.
	wait_until('time goes by', sub { time - $begin > $ttl + 1 });
	is($session{xact}->query("SELECT etcd_lock_check('/x')"),
		't', "$name: a transaction keeps its lock");
	is($session{xact}->try('COMMIT')->{sqlstate}, '', "$name: and commits");
	is($session{session}->query("SELECT etcd_lock_check('/held')"),
		't', "$name: a session keeps its lock");
	ok(!$other->done, "$name: the other server still waits");
	is( $session{session}
		  ->try("INSERT INTO t VALUES ('$name')")->{sqlstate},
		'',
		"$name: and it can write under it");
	$session{session}->query("SELECT etcd_unlock('/held')");
	higher_token($other->result->{out}, $name);
	$other->query("SELECT etcd_unlock('/held')");
	$_->quit foreach values %session;
	is_left_clean($etcd, $there, $standby);
	$standby->stop;
}

$here->start;
is_left_clean($etcd, $here, $there);
$other->quit;
finish($etcd, $here, $there);
