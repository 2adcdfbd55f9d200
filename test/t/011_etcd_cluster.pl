# Three members of etcd: as long as two of them work, nobody loses a lock and nothing
# fails, no matter which one goes away and how.  Without a majority, holders are told
# before their lease ends.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::EtcdCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $ttl = 20;
my $connect_timeout = 15;
my $cluster = EtcdLockTest::EtcdCluster->new;

# One server begins with the leader, the other one with somebody else.
my $leader = $cluster->leader;
my @others = grep { $_ != $leader } $cluster->members;
my $conf =
  "etcd_lock.lease_ttl = '${ttl}s'\netcd_lock.connect_timeout = '${connect_timeout}s'";
my $here = start_server('here',
	endpoints => $cluster->endpoints($leader, @others), conf => $conf);
my $there = start_server('there',
	endpoints => $cluster->endpoints(@others, $leader), conf => $conf);
$_->safe_psql('postgres', 'CREATE TABLE t (n bigserial, token bigint)')
  foreach $here, $there;

# Sessions that are ended if they lose their locks, and one that waits.
my @holders = (session($here), session($there));
foreach my $i (0 .. 1)
{
	$holders[$i]
	  ->query("SET etcd_lock.on_loss = 'terminate'; SELECT etcd_lock('/held/$i')");
}
my $waiter = session($there);
$waiter->send("SELECT etcd_lock('/held/0')");
wait_until_waiting($waiter);
my $prober = session($there);
my $prober_here = session($here);

# After something has happened to etcd: when are new locks granted again, and
# is everybody still there who was?
sub nothing_is_lost
{
	my ($name, $begin) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my @times;
	foreach my $session ($prober_here, $prober)
	{
		$session->send("SELECT etcd_lock('/new') > 0; SELECT etcd_unlock('/new')");
	}
	foreach my $session ($prober_here, $prober)
	{
		my $result = $session->result;
		is($result->{out}, "t\nt", "$name: new locks are granted")
		  or diag($result->{err});
		push @times, time - $begin;
	}
	diag sprintf '%-40s none lost, new locks after %.2f s and %.2f s',
	  "$name:", @times;
	foreach my $i (0 .. 1)
	{
		is( $holders[$i]->try("SELECT etcd_lock_check('/held/$i')")->{out},
			't', "$name: holder $i still has its lock");
	}
	ok(!$waiter->done, "$name: the waiter still waits");

	# The waiter gets its turn, and there is another one.
	$holders[0]->query("SELECT etcd_unlock('/held/0')");
	my $handed_over = time;
	my $result = $waiter->result;
	cmp_ok($result->{out}, '>', 0, "$name: a lock is handed over");
	cmp_ok(time - $handed_over, '<', 6, "$name: without delay");
	$waiter->query("SELECT etcd_unlock('/held/0')");
	$holders[0]->query("SELECT etcd_lock('/held/0')");
	$waiter->send("SELECT etcd_lock('/held/0')");
	wait_until_waiting($waiter);
	return;
}

{
	my $begin = time;
	$leader->kill9;
	nothing_is_lost('leader killed', $begin);
	$leader->start;
}

{
	$leader = $cluster->leader;
	my $begin = time;
	$leader->pause;
	nothing_is_lost('leader hangs', $begin);
	$leader->resume;
}

# Both servers talk to the leader that is cut off from the other members, and
# does not know it yet.
{
	$leader = $cluster->leader;
	@others = grep { $_ != $leader } $cluster->members;
	set_endpoints($_, $cluster->endpoints($leader, @others)) foreach $here, $there;
	foreach my $node ($here, $there)
	{
		my $url = $leader->endpoint;
		set_endpoints($node, $url);
		$node->poll_query_until('postgres',
			"SELECT endpoint = '$url' AND state = 'ready' FROM etcd_lock_status()")
		  or die 'the leader is not in use';
		set_endpoints($node, $cluster->endpoints($leader, @others));
	}
	my $begin = time;
	$cluster->cut_off($leader);
	nothing_is_lost('leader cut off from the others', $begin);
	ok($cluster->leader($leader), 'there is another leader');
	$cluster->join_again;
	$leader->wait_healthy;
	nothing_is_lost('joined again', time);
}

# A rolling restart of all members while locks come and go.
{
	my @load = map { session($_) } $here, $here, $there, $there;
	foreach my $session (@load)
	{
		# Ends by a row in the table, which a new snapshot sees.
		$session->send(<<'SQL' =~ s/\n/ /gr);
DO $$
DECLARE
	new bigint;
BEGIN
	WHILE NOT EXISTS (SELECT FROM t WHERE token = 0) LOOP
		new = etcd_xact_lock('/load');
		INSERT INTO t (token) VALUES (new);
		COMMIT;
	END LOOP;
END
$$
SQL
	}
	wait_until('there is load',
		sub { $here->safe_psql('postgres', 'SELECT count(*) > 10 FROM t') eq 't' });
	foreach my $member ($cluster->members)
	{
		$member->stop;
		$member->start;
	}
	my $begin = time;
	nothing_is_lost('all members restarted under load', $begin);
	$_->safe_psql('postgres', 'INSERT INTO t (token) VALUES (0)') foreach $here, $there;
	foreach my $session (@load)
	{
		my $result = $session->result;
		is($result->{sqlstate}, '', 'restarted under load: nothing has failed')
		  or diag($result->{err});
		$session->quit;
	}
	my @tokens = map {
		split /\n/, $_->safe_psql('postgres', 'SELECT token FROM t WHERE token > 0')
	} $here, $there;
	my %seen = map { $_ => 1 } @tokens;
	is(scalar(keys %seen), scalar(@tokens),
		'restarted under load: no token was given twice');
	foreach my $node ($here, $there)
	{
		# Numbered under the lock, so in the order in which it was given.
		is( $node->safe_psql(
				'postgres', <<'SQL'),
SELECT bool_and(token > before)
FROM (SELECT token, lag(token, 1, 0::bigint) OVER (ORDER BY n) AS before
      FROM t WHERE token > 0) s
SQL
			't',
			'restarted under load: tokens rise');
	}
	diag scalar(@tokens) . ' transactions under load';
}

# Without a majority nobody can be granted anything, and the lease cannot be
# believed: holders are told before it ends.
{
	my $name = 'majority lost';
	my $running = session($here);
	$running->query("SELECT etcd_lock('/running')");
	send_sleep($running);
	@others = ($cluster->members)[0, 1];
	my $begin = time;
	$_->kill9 foreach @others;

	my $result = $running->result;
	my $told = time - $begin;
	is($result->{sqlstate}, '57014', "$name: holders are told");
	cmp_ok($told, '<', $ttl, "$name: before the lease ends");
	wait_until(
		"$name: on_loss = terminate",
		sub {
			2 == grep { $_->try('SELECT 1')->{closed} } @holders;
		});
	my $waits = $waiter->done ? $waiter->result : undef;

	$result = $prober->try("SELECT etcd_lock('/new')");
	is($result->{sqlstate}, '08006', "$name: a new request fails");
	like($result->{err}, qr/could not reach etcd.*DETAIL: .*HINT/s,
		"$name: and says why");
	cmp_ok($result->{elapsed}, '<', $connect_timeout + 6,
		"$name: after connect_timeout");
	diag sprintf '%-40s holders told after %.2f s, new requests fail after %.2f s',
	  "$name:", $told, $result->{elapsed};

	# Its place in the queue went with the lease.
	$waits //= $waiter->result;
	is($waits->{sqlstate}, '08006', "$name: the waiter is told, too");

	$_->launch foreach @others;
	$_->wait_healthy foreach @others;
	my $back = time;
	cmp_ok($waiter->query("SELECT etcd_lock('/held/0')"),
		'>', 0, "$name: afterwards locks are granted again");
	diag sprintf '%-40s new locks after %.2f s', 'majority back:', time - $back;
	$running->quit;
}

$_->quit foreach @holders, $waiter, $prober, $prober_here;
is_left_clean(($cluster->members)[0], $here, $there);
$_->stop foreach $here, $there;
$cluster->stop;
done_testing();
