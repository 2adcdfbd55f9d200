# An endpoint's name can have several addresses, or one that changes, or come from DNS
# SRV records; IPv6; a balancer that cuts idle connections; an etcd without its JSON
# gateway.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Dns;
use EtcdLockTest::EtcdCluster;
use EtcdLockTest::Proxy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IO::Socket::INET;
use IO::Socket::IP;
use POSIX ();
use Time::HiRes qw(sleep time);

my $dns = EtcdLockTest::Dns->new;
my $ttl = 10;
my $conf = "etcd_lock.lease_ttl = '${ttl}s'";

sub start_named
{
	my ($name, $endpoints) = @_;
	local $ENV{LD_PRELOAD} = $dns->library;
	return start_server($name, endpoints => $endpoints, conf => $conf);
}

sub status
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		'SELECT state, lease, endpoint, last_error FROM etcd_lock_status()');
}

# A new lock, and how long it takes.
sub new_lock
{
	my ($session, $name, $limit) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $begin = time;
	is($session->query("SELECT etcd_try_lock('/new'), etcd_unlock('/new')"), 't|t', "$name: a new lock");
	my $elapsed = time - $begin;
	cmp_ok($elapsed, '<', $limit, "$name: in time");
	diag sprintf '%-45s new lock after %.2f s', "$name:", $elapsed;
	return;
}

#
# A name with three addresses: each is a relay to a member
#

# Something that listens at an address of its own, all of them on one port, and
# passes bytes to a member.
my @relays;
our $port = PostgreSQL::Test::Cluster::get_free_port();

sub relay
{
	my ($address, $url) = @_;
	my ($to) = $url =~ m{^http://(.*)$};
	my $pid = fork // die "could not fork: $!";
	if ($pid == 0)
	{
		exec '/usr/bin/python3', '-c', <<'END', $address, $port, split /:/, $to or POSIX::_exit(127);
import asyncio, sys
host, port, to_host, to_port = sys.argv[1:5]
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    try:
        up_reader, up_writer = await asyncio.open_connection(to_host, int(to_port))
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
async def main():
    server = await asyncio.start_server(serve, host, int(port))
    await server.serve_forever()
asyncio.run(main())
END
	}
	push @relays, $pid;
	return $pid;
}

END
{
	my $exit_code = $?;
	kill 'KILL', $_ foreach @relays;
	$? = $exit_code;
}

my $cluster = EtcdLockTest::EtcdCluster->new;
my @members = $cluster->members;
my @pids = map { relay("127.0.0.1$_", $members[$_]->endpoint) } 0 .. 2;
wait_until('the relays listen', sub {
	!grep { !IO::Socket::INET->new(PeerAddr => "127.0.0.1$_:$port") } 0 .. 2;
});
$dns->set('etcd.test', A => map { "127.0.0.1$_" } 0 .. 2);
my $here = start_named('here', "http://etcd.test:$port");
my ($holder, $session) = (session($here), session($here));
$holder->query("SELECT etcd_lock('/held')");
my (undef, $lease) = split /\|/, status($here);

# Which address the log says is in use.
sub address_in_use
{
	my @all = slurp_file($here->logfile) =~ /connected to etcd at "\S+ \((127\.0\.0\.1\d)\)"/g;
	return $all[-1];
}

sub nothing_is_lost
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($holder->query("SELECT etcd_lock_check('/held')"), 't', "$name: the lock is held");
	like(status($here), qr/^ready\|$lease\|/, "$name: with the same lease");
	return;
}

foreach my $case ([ 'stopped', 'STOP', 'CONT' ], [ 'cut off', 'KILL', undef ])
{
	my ($what, $signal, $heal) = @$case;
	my $name = "three addresses, the one in use $what";
	my ($in_use) = address_in_use() =~ /(\d)$/ or die 'no address is logged';
	kill $signal, $pids[$in_use];
	new_lock($session, $name, 3);
	nothing_is_lost($name);
	wait_until("$name: another is in use", sub { address_in_use() ne "127.0.0.1$in_use" });
	pass("$name: another one is in use");
	kill $heal, $pids[$in_use] if $heal;
	$pids[$in_use] = relay("127.0.0.1$in_use", $members[$in_use]->endpoint) unless $heal;
}

#
# The one address of a name becomes a black hole, and the name gets one that it never had
#
foreach my $case (
	[ 'before it is searched', 'moves1.test', 0, 1.5 ],
	# a name is not looked up twice within a second
	[ 'before it is searched, just looked up', 'moves2.test', 0, 0 ],
	# the search has asked for the name, and got the old one
	[ 'while it is searched', 'moves3.test', 1, 1.5 ])
{
	my ($when, $host, $searching, $pause) = @$case;
	my $name = "the address changes $when";
	$dns->set($host, A => '127.0.0.10');
	set_endpoints($here, "http://$host:$port");
	wait_until("$name: the old one is in use", sub { status($here) =~ m{^ready\|\w+\|http://$host} });
	sleep $pause;
	my $asked = $dns->asked;
	$dns->set($host, A => '127.0.0.11') unless $searching;
	my $stopped = time;
	kill 'STOP', $pids[0];
	$session->send("SELECT etcd_lock('/new') > 0, etcd_unlock('/new')");
	if ($searching)
	{
		wait_until("$name: it is asked for", sub { $dns->asked > $asked });
		sleep 0.2;    # both kinds of addresses
		sleep 0.05 while time < $stopped + 1;
		$dns->set($host, A => '127.0.0.11');
	}
	my $both = time;
	my $result = $session->result;
	while ($result->{out} ne 't|t' && time < $both + 30)
	{
		$result = $session->try("SELECT etcd_lock('/new') > 0, etcd_unlock('/new')");
	}
	my $took = time - $both;
	is($result->{out}, 't|t', "$name: a new lock");
	cmp_ok($took, '<', $ttl / 3, "$name: in time");
	diag sprintf '%-45s new lock after %.2f s; it changed %.2f s after the stop', "$name:", $took, $both - $stopped;
	nothing_is_lost($name);
	kill 'CONT', $pids[0];

	# What comes next does not depend on it.
	$holder->query("SELECT etcd_unlock_all(); SELECT etcd_lock('/held')");
	(undef, $lease) = split /\|/, status($here);
}

#
# A name almost as long as names can be: it is in use, and not said to be again and again
#
{
	my $name = 'a long name';
	my $host = join '.', ('long' x 15) x 4;
	$dns->set($host, A => '127.0.0.10');
	my $offset = -s $here->logfile;
	set_endpoints($here, "http://$host:$port");
	is_logged($here, $offset, qr/connected to etcd at "http:\S+$host/, "$name: it is in use");
	nothing_is_lost($name);
	my $said = fastest(
		1,
		sub {
			$offset = -s $here->logfile;
			sleep $ttl / 2;    # keepalives come every $ttl / 5
			return scalar(() = slurp_file($here->logfile, $offset) =~ /connected to etcd at/g);
		});
	is($said, 0, "$name: ... and not said to be again");
}

#
# DNS SRV
#
{
	my $name = 'DNS SRV';
	my @urls = map { $_->endpoint } @members;
	$dns->set("member$_.test", A => '127.0.0.1') foreach 0 .. 2;
	$dns->set('_etcd-client._tcp.example.test',
		SRV => map { "member$_.test " . ($urls[$_] =~ /(\d+)$/)[0] } 0 .. 2);
	$here->append_conf('postgresql.conf', "etcd_lock.discovery_srv = 'example.test'");
	$here->reload;
	wait_until("$name: a member is in use", sub { status($here) =~ m{^ready\|\w+\|http://member\d\.test} });
	new_lock($session, $name, 3);
	nothing_is_lost($name);
	is($here->safe_psql('postgres', 'SELECT count(*) FROM etcd_lock_endpoints()'), 3, "$name: all are listed");

	# the one in use is no longer among them
	my ($in_use) = status($here) =~ m{(http://member\d\.test:\d+)};
	my @others = grep { index($in_use, "member$_.") < 0 } 0 .. 2;
	my $list = sub {
		my ($pattern) = @_;
		return $here->safe_psql('postgres', "SELECT count(*) FROM etcd_lock_endpoints() WHERE endpoint ~ '$pattern'");
	};
	$dns->set('_etcd-client._tcp.example.test',
		SRV => map { "member$_.test " . ($urls[$_] =~ /(\d+)$/)[0] } @others);
	$here->reload;
	wait_until("$name: another member is in use",
		sub { my $now = status($here); $now =~ m{^ready\|\w+\|http://member\d\.test} && index($now, $in_use) < 0 }, $ttl);
	nothing_is_lost("$name: without the one in use");

	# a list that the name server does not send is not an empty one
	$dns->set('_etcd-client-ssl._tcp.example.test', SRV => 'member9.test 1');
	$here->reload;
	wait_until("$name: https is listed, too", sub { $list->('^https:') == 1 });
	$dns->set('_etcd-client-ssl._tcp.example.test', silent => 1);
	$dns->set('_etcd-client._tcp.example.test',
		SRV => map { "member$_.test " . ($urls[$_] =~ /(\d+)$/)[0] } 0 .. 2);
	$here->reload;
	wait_until("$name: half of the answer has come", sub { $list->('^http:') == 3 });
	is($list->('^https:'), 1, "$name: the other half is as before");
	nothing_is_lost("$name: half of an answer");

	# the only one is gone, and other records come some time after that
	$name = 'DNS SRV, other members';
	my $gone = relay('127.0.0.13', $urls[0]);
	wait_until("$name: the relay listens", sub { IO::Socket::INET->new(PeerAddr => "127.0.0.13:$port") });
	$dns->set('gone.test', A => '127.0.0.13');
	$dns->set('_etcd-client._tcp.other.test', SRV => "gone.test $port");
	$here->append_conf('postgresql.conf', "etcd_lock.discovery_srv = 'other.test'");
	$here->reload;
	wait_until("$name: the one in use", sub { status($here) =~ m{\|http://gone\.test} });
	sleep 2.5;
	my $offset = -s $here->logfile;
	kill 'KILL', $gone;
	is_logged($here, $offset, qr/no link to etcd at "http:\S+gone\.test/, "$name: it is gone");
	sleep 1.5;
	$dns->set('_etcd-client._tcp.other.test', SRV => 'member1.test ' . ($urls[1] =~ /(\d+)$/)[0]);
	new_lock($session, $name, 5);
	nothing_is_lost($name);
	sleep 1.5;
	my $asked = $dns->asked;
	sleep 1.5;
	is($dns->asked, $asked, "$name: then no name server is asked");
	$here->append_conf('postgresql.conf', "etcd_lock.discovery_srv = ''");
	set_endpoints($here, $cluster->endpoints);
}

#
# A balancer that goes round the members, and cuts what is idle for 1 s
#
SKIP:
{
	my ($haproxy) = grep { -x } $ENV{HAPROXY} // (), '/usr/sbin/haproxy', '/usr/local/sbin/haproxy';
	skip 'no haproxy', 7 unless $haproxy;
	my $name = 'a balancer that cuts what is idle';
	my $dir = PostgreSQL::Test::Utils::tempdir('haproxy');
	my $balanced = PostgreSQL::Test::Cluster::get_free_port();
	append_to_file("$dir/haproxy.cfg", <<"END" . join '', map { "  server m$_ " . ($members[$_]->endpoint =~ m{//(.*)})[0] . " check inter 200ms\n" } 0 .. 2);
defaults
  mode tcp
  timeout connect 1s
  timeout client 1s
  timeout server 1s
listen etcd
  bind 127.0.0.1:$balanced
  balance roundrobin
END
	my $pid = fork // die;
	if ($pid == 0)
	{
		open STDOUT, '>', "$dir/log";
		open STDERR, '>&', \*STDOUT;
		$ENV{LD_LIBRARY_PATH} = $ENV{HAPROXY_LIBRARY_PATH} if $ENV{HAPROXY_LIBRARY_PATH};
		exec $haproxy, '-f', "$dir/haproxy.cfg" or POSIX::_exit(127);
	}
	push @relays, $pid;
	wait_until('the balancer listens',
		sub {
			die "haproxy has ended: " . slurp_file("$dir/log") if waitpid($pid, POSIX::WNOHANG) != 0;
			IO::Socket::INET->new(PeerAddr => "127.0.0.1:$balanced");
		});
	# keepalives every 12 s, and the list of keys every 1.5 s, so that the connection is idle
	# again and again
	$here->append_conf('postgresql.conf', "etcd_lock.lease_ttl = '60s'\nlog_min_messages = debug1");
	set_endpoints($here, "http://127.0.0.1:$balanced");
	$here->stop;
	{
		local $ENV{LD_PRELOAD} = $dns->library;
		$here->start;
	}
	$_->quit foreach $holder, $session;
	($holder, $session) = (session($here), session($here));
	$holder->query("SELECT etcd_lock('/held')");
	(undef, $lease) = split /\|/, status($here);
	like(status($here), qr{\|http://127\.0\.0\.1:$balanced\|}, "$name: it is in use");
	my $offset = -s $here->logfile;
	sleep 18;
	nothing_is_lost($name);
	new_lock($session, $name, 3);
	my $log = slurp_file($here->logfile, $offset);
	my $cuts = () = $log =~ /DEBUG:  etcd_lock: lost the connection/g;
	cmp_ok($cuts, '>=', 5, "$name: it has cut");
	diag "$name: $cuts connections cut in 18 s";
	my @lines = $log =~ /(?:WARNING|LOG|ERROR|FATAL|PANIC):  etcd_lock.*/g;
	is_deeply(\@lines, [], "$name: nothing is logged");
}

$_->quit foreach $holder, $session;
$here->stop;

#
# IPv6, and an etcd without its gateway
#
SKIP:
{
	my $socket = IO::Socket::IP->new(Listen => 1, LocalHost => '::1')
	  or skip 'no IPv6', 3;
	my $free = $socket->sockport;
	close $socket;
	my $name = 'IPv6';
	{
		local $port = $free;
		relay('::1', $members[0]->endpoint);
	}
	wait_until('the relay listens', sub { IO::Socket::IP->new(PeerHost => '::1', PeerPort => $free) });
	my $six = start_server('six', endpoints => "http://[::1]:$free");
	my $s = session($six);
	new_lock($s, $name, 5);
	like(status($six), qr{^ready\|\w+\|http://\[::1\]:$free}, "$name: the endpoint");
	$s->quit;
	$six->stop;
}
$cluster->stop;
{
	my $etcd = EtcdLockTest::Etcd->new(args => ['--enable-grpc-gateway=false']);
	my $node = start_server('nogateway', endpoints => $etcd->endpoint);
	my $s = session($node);
	new_lock($s, 'etcd without its JSON gateway', 5);
	$s->quit;
	$node->stop;
	$etcd->stop;
}
$dns->stop;
done_testing();
