# A single etcd that fails: restarted, stopped, compacted under open watches, full.

use strict;
use warnings;

use EtcdLockTest;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep time);

my $ttl = 10;
my $connect_timeout = 5;
my $etcd =
  EtcdLockTest::Etcd->new(args => [ '--quota-backend-bytes', 16 * 1024 * 1024 ]);

# An etcd that is stopped and started needs some seconds, on a loaded machine more.
my $conf =
  "etcd_lock.lease_ttl = '30s'\netcd_lock.connect_timeout = '60s'";
my ($here, $there) =
  map { start_server($_, endpoints => $etcd->endpoint, conf => $conf) }
  qw(here there);
$_->safe_psql('postgres', 'CREATE TABLE t (v text)') foreach $here, $there;
my ($holder, $other, $third) = (session($here), session($there), session($there));
my $lock = "SELECT etcd_lock('/held')";

sub lease
{
	my ($node) = @_;
	return $node->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status()');
}

# Unlock one lock of a session after the other: how long it took.
sub unlock
{
	my ($session, $name) = @_;
	my $i = 0;
	return sub {
		$i++;
		my $result = $session->try("SELECT etcd_unlock('/session/$i')");
		is($result->{out}, 't', "$name: a session can unlock");
		return $result->{elapsed};
	};
}

# A holder with a transaction, one who waits, one who comes only now.
sub outage
{
	my ($name, $down, $up) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$holder->query("BEGIN; INSERT INTO t VALUES ('$name'); SELECT etcd_xact_lock('/held')");
	$other->send($lock);
	wait_until_waiting($other);
	my @leases = (lease($here), lease($there));
	my $begin = time;
	$down->();
	$third->send("SELECT etcd_lock('/new') > 0; SELECT etcd_unlock('/new')");
	$up->();
	my $back = time;
	is($third->result->{out}, "t\nt", "$name: who came meanwhile is served");
	diag sprintf '%-36s down for %.2f s, none lost, new locks after %.2f s more',
	  "$name:", $back - $begin, time - $back;
	is($holder->query("SELECT etcd_lock_check('/held')"),
		't', "$name: the lock is held");
	ok(!$other->done, "$name: the waiter waits");
	is($holder->try('COMMIT')->{sqlstate}, '', "$name: the transaction commits");
	my $handed_over = time;
	is($other->result->{sqlstate}, '', "$name: the lock is handed over");
	cmp_ok(time - $handed_over, '<', 5, "$name: without delay");
	is(lease($here) . lease($there), join('', @leases), "$name: same leases");
	$other->query("SELECT etcd_unlock('/held')");
	return;
}

outage('etcd restarted', sub { $etcd->stop }, sub { $etcd->start });
outage('etcd killed', sub { $etcd->kill9 }, sub { $etcd->start });
outage('etcd hangs for less than the TTL',
	sub { $etcd->pause; my $end = time + 1.5; sleep 0.1 while time < $end },
	sub { $etcd->resume });

# From here on with less time.
$_->quit foreach $holder, $other, $third;
foreach my $node ($here, $there)
{
	$node->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.$_")
	  foreach "lease_ttl = '${ttl}s'", "connect_timeout = '${connect_timeout}s'";
	$node->restart;
}
($holder, $other, $third) = (session($here), session($there), session($there));

# Down for longer than the TTL.
{
	my $name = 'etcd down for longer than the TTL';
	my $session = session($here);
	$session->query("SELECT etcd_lock('/session/' || i) FROM generate_series(1, 3) i");
	$holder->query("BEGIN; INSERT INTO t VALUES ('$name'); SELECT etcd_xact_lock('/held')");
	send_sleep($holder);
	$other->send($lock);
	wait_until_waiting($other);
	my $begin = time;
	$etcd->kill9;
	my $result = $holder->result;
	my $told = time - $begin;
	is($result->{sqlstate}, '57014', "$name: the holder is told");
	cmp_ok($told, '<', $ttl, "$name: before the lease can end");
	is($holder->try('COMMIT; SELECT count(*) FROM t')->{out},
		3, "$name: nothing is written");
	is($session->try('INSERT INTO t VALUES (1)')->{sqlstate},
		'EL001', "$name: nor by a session");

	my @behind = map { session($there) } 1 .. 3;
	$_->send("SELECT etcd_lock('/new')") foreach @behind;
	$result = $third->try("SELECT etcd_lock('/new')");
	is($result->{sqlstate}, '08006', "$name: a new request fails");
	like($result->{err},
		qr/could not reach etcd.*DETAIL: .*\Q${\$etcd->endpoint}\E.*HINT/s,
		"$name: and names the endpoint");
	cmp_ok($result->{elapsed}, '<', $connect_timeout + 5,
		"$name: after connect_timeout");
	diag sprintf '%-36s told after %.2f s, new requests fail after %.2f s',
	  "$name:", $told, $result->{elapsed};
	foreach my $session (@behind)
	{
		$result = $session->result;
		is($result->{sqlstate}, '08006', "$name: so do others for the same name");
		cmp_ok($result->{elapsed}, '<', 2 * $connect_timeout, "$name: not one after another");
		$session->quit;
	}
	$result = $other->result;
	is($result->{sqlstate}, '08006', "$name: who waited is told, too");
	$result = $third->try("SELECT etcd_try_lock('/new')");
	is($result->{sqlstate}, '08006', "$name: nor can one try");

	# An unlock does not wait for what is not there.
	cmp_ok(fastest(1, unlock($session, $name)), '<', 1, "$name: at once");

	$etcd->start;
	my $back = time;
	$result = $other->try($lock);
	is($result->{sqlstate}, '', "$name: afterwards locks are granted");
	diag sprintf '%-36s new locks after %.2f s more', "$name:", time - $back;
	$other->query("SELECT etcd_unlock('/held')");
	$session->quit;
	is_left_clean($etcd, $here, $there);
}

#
# Who has waited for longer than connect_timeout waits on when the lease is lost and
# all is well otherwise.
#

{
	my $name = 'lease revoked under one who waits for long';
	$holder->query("SELECT etcd_lock('/held')");
	$other->send($lock);
	wait_until_waiting($other);
	my $begin = time;
	wait_until('longer than connect_timeout', sub { time - $begin > $connect_timeout + 0.5 });
	my $lease = lease($there);
	$etcd->revoke(hex $lease);
	wait_until("$name: another lease", sub { lease($there) !~ /^(?:|\Q$lease\E)$/ });
	wait_until("$name: it is in the queue again",
		sub { $other->done || (my @keys = $etcd->keys('/held/')) == 2 });
	ok(!$other->done, "$name: it waits on");
	$holder->query("SELECT etcd_unlock('/held')");
	is($other->result->{sqlstate}, '', "$name: and gets the lock");
	$other->query("SELECT etcd_unlock('/held')");
}

#
# Compaction
#

sub put
{
	my ($key, $value) = @_;
	return $etcd->call('/v3/kv/put',
		{ key => encode_base64($key, ''), value => encode_base64($value, '') });
}

sub compact
{
	my $revision = $etcd->call('/v3/kv/range',
		{ key => encode_base64('filler', ''), keys_only => JSON::PP::true })
	  ->{header}{revision};
	$etcd->call('/v3/kv/compaction',
		{ revision => $revision, physical => JSON::PP::true });
	return;
}

{
	foreach my $when ('before', 'after')
	{
		my $name = "compaction $when the waiter comes";
		cmp_ok(fastest(1, sub { handover_takes($name, $when) }), '<', 1, "$name: without delay");
	}
}

sub handover_takes
{
	my ($name, $when) = @_;
	$holder->query($lock);
	put('filler', $_) foreach 1 .. 10;
	compact() if $when eq 'before';
	$other->send($lock);
	wait_until_waiting($other);
	if ($when eq 'after')
	{
		# Its watch is open, and everything before now is compacted, twice.
		foreach (1 .. 2)
		{
			put('filler', $_) foreach 1 .. 10;
			compact();
		}
		$etcd->call('/v3/maintenance/defragment', {});
	}
	ok(!$other->done, "$name: the waiter waits");
	my $begin = time;
	$holder->query("SELECT etcd_unlock('/held')");
	is($other->result->{sqlstate}, '', "$name: the lock is handed over");
	my $took = time - $begin;
	is($other->query("SELECT etcd_lock_check('/held')"), 't', "$name: it is held");
	$other->query("SELECT etcd_unlock('/held')");
	return $took;
}

#
# The database of etcd is full
#

{
	my $name = 'etcd is full';
	my $session = session($here);
	$holder->query("BEGIN; INSERT INTO t VALUES ('$name'); SELECT etcd_xact_lock('/held')");
	$session->query("SELECT etcd_lock('/session/' || i) FROM generate_series(1, 3) i");
	$other->send($lock);
	wait_until_waiting($other);
	my $big = 'x' x 400_000;
	my $n = 0;
	1 while eval { put('filler', $big); 1 } && ++$n < 200;
	cmp_ok($n, '<', 200, 'etcd is full') or die;
	my @leases = (lease($here), lease($there));

	my $result = $third->try("SELECT etcd_lock('/new')");
	is($result->{sqlstate}, '53100', "$name: a new lock is refused");
	like($result->{err}, qr/etcd refused lock "\/new".*space exceeded/s,
		"$name: and says why");
	cmp_ok($result->{elapsed}, '<', $connect_timeout, "$name: at once");
	diag sprintf '%-36s %s after %.2f s', "$name:", $result->{sqlstate},
	  $result->{elapsed};
	is($third->try("SELECT etcd_try_lock('/new')")->{sqlstate},
		'53100', "$name: a try says so, too");

	# A tick needs a lease first, whether its lock is held already or not.
	foreach my $case ([ 'a tick', $third, '/tick' ], [ 'a tick of a lock that is held', $session, '/session/2' ])
	{
		my ($what, $who, $lock_name) = @$case;
		$result = $who->try("SELECT etcd_try_once('$lock_name', date_trunc('hour', now()))");
		is($result->{sqlstate}, '53100', "$name: $what");
		cmp_ok($result->{elapsed}, '<', 3, "$name: $what: soon");
	}

	# Who has a lock, or a place in the queue, does not need space.
	ok(!$other->done, "$name: a waiter waits");
	my $begin = time;
	cmp_ok(fastest(1, unlock($session, $name)), '<', 1, "$name: at once");
	wait_until("$name: and the key is gone", sub { !$etcd->keys('/session/1/') });
	is($holder->query("SELECT etcd_lock_check('/held')"),
		't', "$name: the lock is held");
	wait_until('longer than the TTL', sub { time - $begin > $ttl });
	is($holder->try('COMMIT')->{sqlstate},
		'', "$name: the transaction commits, even after the TTL");
	is($other->result->{sqlstate}, '', "$name: the lock is handed over");
	is($other->query("SELECT etcd_lock_check('/held')"), 't', "$name: it is held");
	is(lease($here) . lease($there), join('', @leases), "$name: same leases");

	# A server that has no lease cannot get one.
	$here->stop;
	$here->start;
	$_->quit foreach $holder, $session;
	$holder = session($here);
	$holder->query("SET statement_timeout = '" . (3 * $connect_timeout) . " s'");
	$result = $holder->try("SELECT etcd_lock('/new')");
	like($result->{sqlstate}, qr/^(08006|53100)$/,
		"$name: a server without a lease fails");
	like($result->{err}, qr/space exceeded/, "$name: and says why");
	diag sprintf '%-36s without a lease: %s after %.2f s', "$name:",
	  $result->{sqlstate}, $result->{elapsed};

	# Make space.
	compact();
	$etcd->call('/v3/maintenance/defragment', {});
	my $alarms = $etcd->call('/v3/maintenance/alarm', { action => 'GET' })->{alarms};
	$etcd->call('/v3/maintenance/alarm', { %$_, action => 'DEACTIVATE' })
	  foreach @$alarms;
	my $back = time;
	is($third->try("SELECT etcd_lock('/new') > 0; SELECT etcd_unlock('/new')")->{out},
		"t\nt", "$name: afterwards locks are granted");
	is($holder->try("SELECT etcd_lock('/new') > 0; SELECT etcd_unlock('/new')")->{out},
		"t\nt", "$name: on the other server, too");
	diag sprintf '%-36s new locks after %.2f s', 'space again:', time - $back;
	$other->query("SELECT etcd_unlock('/held')");
}

$etcd->delete('filler');
is_left_clean($etcd, $here, $there);
$_->quit foreach $holder, $other, $third;
finish($etcd, $here, $there);
