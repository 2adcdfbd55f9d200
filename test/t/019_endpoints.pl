# Several endpoints, in any mix of up, down, hanging, wrong, without a leader, or with a
# name that cannot be resolved or takes long to resolve: the worker finds one that
# serves, moves to another one when that fails, and keeps its lease and locks.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Dns;
use EtcdLockTest::EtcdCluster;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# What is there sooner has waited neither for a request that got no answer nor for
# etcd itself to give one up, which takes 7 s.
my $ttl = 15;
my $request_timeout = 16;
my $soon = 6;
my $cluster = EtcdLockTest::EtcdCluster->new;

# Endpoints that do not serve.
my $hanging = EtcdLockTest::FakeEndpoint->new;
my $page = EtcdLockTest::FakeEndpoint->new(
	type => 'text/html',
	body => '<html><body><h1>It works!</h1></body></html>');
my $lonely = EtcdLockTest::Etcd->new(start => 0);
$lonely->{cluster} = $lonely->as_member . ',other=http://127.0.0.1:'
  . PostgreSQL::Test::Cluster::get_free_port();
$lonely->launch;
my %bad = (
	down => 'http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port(),
	hanging => $hanging->url,
	'a web server' => $page->url,
	'starting for ever' => $lonely->endpoint,
	'no such name' => 'http://no-such-host.invalid:2379',
	'no certificate' => 'https://127.0.0.1:' . ($page->url =~ /(\d+)$/)[0]);

# Names are resolved by a name server of the test's own, which may fall silent.
my $dns = EtcdLockTest::Dns->new;

my $conf = "etcd_lock.lease_ttl = '${ttl}s'\netcd_lock.request_timeout = '${request_timeout}s'";
my ($here, $there) =
  map { new_server($_, endpoints => $cluster->endpoints, conf => $conf) } qw(here there);
{
	local $ENV{LD_PRELOAD} = $dns->library;
	$_->start foreach $here, $there;
}
$_->safe_psql('postgres', 'CREATE EXTENSION etcd_lock') foreach $here, $there;
my ($holder, $waiter, $prober) = (session($here), session($there), session($here));

sub status
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		'SELECT state, lease, endpoint FROM etcd_lock_status()');
}

$holder->query("SELECT etcd_lock('/held')");
$waiter->send("SELECT etcd_lock('/held')");
wait_until_waiting($waiter);
my ($lease) = status($here) =~ /^ready\|(\w+)\|/ or die status($here);

# How long until a new lock is granted, and is everything else as it was?
sub nothing_is_lost
{
	my ($name, $begin) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$begin //= time;
	is($prober->query("SELECT etcd_try_lock('/new'), etcd_unlock('/new')"),
		't|t', "$name: new locks are granted");
	my $elapsed = time - $begin;
	cmp_ok($elapsed, '<', $soon, "$name: soon");
	diag sprintf '%-50s new locks after %.2f s', "$name:", $elapsed;
	is($holder->query("SELECT etcd_lock_check('/held')"), 't', "$name: the lock is held");
	ok(!$waiter->done, "$name: the waiter waits");
	like(status($here), qr/^ready\|$lease\|/, "$name: the same lease");
	return;
}

# One that serves is found among all the others, wherever it stands.
{
	my @bad = map { $bad{$_} } sort keys %bad;
	foreach my $place (0, 3, scalar @bad)
	{
		my @list = @bad;
		my $good = ($cluster->members)[ $place % 3 ]->endpoint;
		splice @list, $place, 0, $good;

		# What was in use is not in the new list.
		set_endpoints($here, $bad{hanging});
		wait_until('the endpoint in use hangs',
			sub { status($here) =~ /disconnected.*\Q$bad{hanging}\E/ });
		my $begin = time;
		set_endpoints($here, join ',', @list);
		nothing_is_lost("one of @{[scalar @list]} serves, place $place", $begin);
		like(status($here), qr/\Q$good\E/, "place $place: the one that serves");
	}
	foreach my $kind (sort keys %bad)
	{
		my $good = ($cluster->members)[0]->endpoint;
		set_endpoints($here, $bad{$kind});
		wait_until('the link is down', sub { status($here) =~ /^disconnected/ });
		my $begin = time;
		set_endpoints($here, "$bad{$kind},$good");
		nothing_is_lost("$kind, then one that serves", $begin);
	}

	set_endpoints($here, join ',', @bad, $cluster->endpoints);
}

# The one in use fails, in all ways, among others that do not serve.
my @members = $cluster->members;

sub in_use
{
	my ($node) = @_;
	my ($endpoint) = status($node) =~ /\|([^|]+)$/;
	my ($member) = grep { $_->endpoint eq $endpoint } @members;
	return $member // die "$endpoint is none of the members";
}

{
	my $member = in_use($here);
	my $begin = time;
	$member->kill9;
	nothing_is_lost('killed', $begin);
	$member->start;

	$member = in_use($here);
	$begin = time;
	$member->pause;
	nothing_is_lost('hangs', $begin);
	isnt(in_use($here), $member, 'hangs: another one is in use');
	$member->resume;
	$member->wait_healthy;

	$member = in_use($here);
	$begin = time;
	$cluster->cut_off($member);
	nothing_is_lost('cut off from the others', $begin);
	isnt(in_use($here), $member, 'cut off: another one is in use');
	$cluster->join_again;
	$member->wait_healthy;

	# A follower that is cut off has no leader after a while, and says so.
	my $leader = $cluster->leader;
	my ($follower) = grep { $_ != $leader } @members;
	set_endpoints($here, $follower->endpoint);
	wait_until('the follower is in use', sub { status($here) =~ /^ready.*\Q@{[$follower->endpoint]}\E/ });
	set_endpoints($here, join ',', $follower->endpoint, $bad{hanging}, $leader->endpoint);
	$begin = time;
	$cluster->cut_off($follower);
	nothing_is_lost('follower cut off', $begin);
	$cluster->join_again;
	$follower->wait_healthy;
	set_endpoints($here, $cluster->endpoints);
}

# What was on its way when an endpoint failed is not waited for.
{
	my $member = in_use($here);
	my @sessions = map { session($here) } 1 .. 10;
	$member->pause;
	my $begin = time;
	$sessions[$_]->send("SELECT etcd_lock('/flight/$_') > 0") foreach 0 .. $#sessions;
	my @results = map { $_->result } @sessions;
	my $elapsed = time - $begin;
	is(scalar(grep { $_->{out} eq 't' } @results), 10, 'requests in flight: all are granted');
	cmp_ok($elapsed, '<', $soon, 'requests in flight: in time');
	diag sprintf '%-50s all after %.2f s', '10 requests in flight to one that hangs:', $elapsed;
	$_->quit foreach @sessions;
	$member->resume;
	$member->wait_healthy;
	nothing_is_lost('afterwards');
	wait_until('nothing is left of them',
		sub { !grep { m{^/flight} } $members[0]->keys('') });
}

# An endpoint of another cluster is not taken while our lease lives.
{
	my $other = EtcdLockTest::Etcd->new;
	my $member = in_use($here);
	my $offset = -s $here->logfile;
	set_endpoints($here, join ',', $member->endpoint, $other->endpoint);
	$member->kill9;
	wait_until('the endpoint is missed', sub { status($here) =~ /^disconnected/ });
	wait_until('the other cluster is seen', sub {
		slurp_file($here->logfile, $offset) =~
		  qr/WARNING:.*\Q@{[$other->endpoint]}\E" belongs to another etcd cluster/;
	});
	pass('another cluster: said in the log');
	$member->start;
	nothing_is_lost('an endpoint of another cluster');
	is_deeply([ $other->keys('') ], [], 'another cluster: nothing was put there');
	set_endpoints($here, $cluster->endpoints);
	$other->stop;
}

# Names that take long to resolve hold up nobody: an address is kept as long as
# it is good, and what waits for the resolver is left when another one serves.
{
	my $port = ($members[0]->endpoint =~ /(\d+)$/)[0];
	my $named = "http://slow-etcd.test:$port";
	$dns->set($_, A => '127.0.0.1') foreach 'slow-etcd.test', 'slow-too.test';
	set_endpoints($here, $named);
	wait_until('a name is in use', sub { status($here) =~ /^ready.*slow-etcd/ });
	$dns->silent(1);

	# For longer than the lease.
	my @waiters = map { session($here) } 1 .. 5;
	my @holders = session($there);
	$holders[0]->query("SELECT etcd_lock('/slow/$_')") foreach 0 .. $#waiters;
	$waiters[$_]->send("SELECT etcd_lock('/slow/$_')") foreach 0 .. $#waiters;
	wait_until_waiting(@waiters);
	my $until = time + $ttl + 1;
	my $slowest = 0;
	while (time < $until)
	{
		my $begin = time;
		$prober->query("SELECT etcd_try_lock('/new'), etcd_unlock('/new')");
		$slowest = time - $begin if time - $begin > $slowest;
		sleep 0.1;
	}
	cmp_ok($slowest, '<', $soon, 'slow resolver: no lock takes long');
	nothing_is_lost('slow resolver, address known');
	$holders[0]->query('SELECT etcd_unlock_all()');
	$_->result foreach @waiters;
	$_->query('SELECT etcd_unlock_all()') foreach @waiters;
	$_->quit foreach @waiters, @holders;

	# A name that nobody has looked up yet, among others.
	my $begin = time;
	set_endpoints($here, join ',', 'http://slow-nowhere.test:1', 'http://slow-too.test:1', $members[1]->endpoint);
	wait_until('the other member is in use', sub { status($here) =~ /\Q@{[$members[1]->endpoint]}\E$/ });
	nothing_is_lost('slow resolver, other endpoints', $begin);

	# The one in use fails while the others resolve slowly, and is there again.
	$members[1]->pause;
	sleep 3;
	$members[1]->resume;
	nothing_is_lost('slow resolver, the only other one hung');

	# Its own name takes long, and it was away.
	$dns->silent(0);
	set_endpoints($here, $named);
	wait_until('a name is in use again', sub { status($here) =~ /^ready.*slow-etcd/ });
	$dns->silent(1);
	$members[0]->kill9;
	$members[0]->start;
	nothing_is_lost('slow resolver, restarted');

	$dns->silent(0);
	set_endpoints($here, $cluster->endpoints);
}

# The shortest connect_timeout is kept, and takes no worker that sleeps for a
# dead one.
{
	my $server = start_server('third', endpoints => $cluster->endpoints,
		conf => "etcd_lock.connect_timeout = '100ms'");
	my ($session, $second) = (session($server), session($there));
	wait_until('ready', sub { status($server) =~ /^ready/ });
	$second->query("SELECT etcd_lock('/short')");
	$session->send("SELECT etcd_lock('/short') > 0");
	wait_until_waiting($session);
	sleep 3;
	ok(!$session->done, 'connect_timeout of 100 ms: a waiter waits');
	$second->query("SELECT etcd_unlock('/short')");
	is($session->result->{out}, 't', 'connect_timeout of 100 ms: and is granted');
	set_endpoints($server, $bad{hanging});
	wait_until('no link', sub { status($server) !~ /^ready/ });
	my $result = $session->try("SELECT etcd_lock('/other')");
	is($result->{sqlstate}, '08006', 'connect_timeout of 100 ms: no link');
	cmp_ok($result->{elapsed}, '<', 5, 'connect_timeout of 100 ms: said soon');
	# None of several serves: each is named with what is wrong.
	set_endpoints($server, join ',', map { $bad{$_} } ('down', 'a web server', 'hanging'));
	my $error;
	wait_until('errors are told', sub {
		$error = $server->safe_psql('postgres', "SELECT endpoint || ': ' || last_error FROM etcd_lock_status()");
		return !grep { $error !~ /$_/ } qr/Could(?:n't| not) connect|Failed to connect/, qr/HTTP\/1/, qr/within \d+ ms/;
	});
	like($error, qr/\Q$bad{$_}\E: /, "each endpoint is named with its error: $_")
	  foreach 'a web server', 'hanging';
	$_->quit foreach $session, $second;
	$server->stop('immediate');
}

$holder->query("SELECT etcd_unlock('/held')");
is($waiter->result->{sqlstate}, '', 'after all of that the lock is handed over');

# A name gets another address: the one that is of no use any more is forgotten.
{
	my $port = ($members[0]->endpoint =~ /(\d+)$/)[0];
	$dns->set('moved.test', A => '127.0.0.9');
	set_endpoints($there, "http://moved.test:$port");
	wait_until('the address is of no use', sub {
		$there->safe_psql('postgres', 'SELECT last_error FROM etcd_lock_status()') =~ /[Cc]ould(?:n't| not) connect|Failed to connect/;
	});
	$dns->set('moved.test', A => '127.0.0.1');
	wait_until('the new address is used', sub { status($there) =~ /^ready.*moved/ });
	pass('a name gets another address');
}

$_->quit foreach $holder, $waiter, $prober;
$_->stop('fast') foreach $here, $there;
$_->stop foreach $hanging, $page, $dns;
$lonely->kill9;
$cluster->stop;
done_testing();
