# A server of another namespace breaks a lock: the server that loses it is told at once,
# and by whom, although its own key in etcd is elsewhere.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);

# So long that no keepalive tells of it.
my $ttl = 60;
my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = map {
	start_server(
		$_,
		endpoints => $etcd->endpoint,
		conf => "etcd_lock.lease_ttl = '${ttl}s'\netcd_lock.namespace = '$_/'")
} qw(here there);

foreach my $namespace ('shared/', 'here/', 'there/', '')
{
	my $name = $namespace eq '' ? 'no namespace' : $namespace;
	my $holder = session($here);
	my $breaker = session($there);
	$_->query("SET etcd_lock.namespace = '$namespace'") foreach $holder, $breaker;
	my $token = $holder->query("SELECT etcd_lock('/broken')");
	my $offset = -s $here->logfile;
	$holder->send('SELECT pg_sleep(60)');
	$here->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
	  or die 'it does not sleep';

	my $begin = time;
	is($breaker->query("SELECT etcd_lock_break('/broken', $token)"), 't', "$name: broken");
	my $result = $holder->result(30);
	diag sprintf '%-45s told after %.2f s', "$name:", time - $begin;
	is($result->{sqlstate}, '57014', "$name: the holder is told");
	cmp_ok(time - $begin, '<', 5, "$name: at once");
	is_logged($here, $offset,
		qr/lock "\Q$namespace\E\/broken" was broken by user ".*" on server "there"/,
		"$name: and the log says who it was");
	ok(!(grep { m{/broken/} } $etcd->keys('')), "$name: the message is deleted")
	  or diag(join ' ', $etcd->keys(''));
	$_->quit foreach $holder, $breaker;
}

finish($etcd, $here, $there);
