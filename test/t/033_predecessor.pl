# A server that starts again frees the locks of its last run, which could not revoke its
# lease: at once if it is sure that all of that run is gone, and otherwise never.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

# So long that what is free within seconds has not waited for it.
my $ttl = 60;
my $etcd = EtcdLockTest::Etcd->new;
my $here = start_server(
	'here',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 1 },
	conf => "etcd_lock.lease_ttl = '${ttl}s'\nrestart_after_crash = off");
my ($there) = start_servers($etcd, 'there');
my $other = session($there);
$here->backup('backup');

# The server's own key in etcd: the last one that a server has put.
sub sentinel
{
	my ($node) = @_;
	my $lease = $node->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status()');
	my ($entry) = $etcd->entries(".etcd_lock/server/$lease");
	return $entry;
}

sub is_alive
{
	my ($lease) = @_;
	return scalar grep { $_ == $lease } $etcd->leases;
}

foreach my $way (
	[ 'immediate shutdown', sub { $here->stop('immediate') } ],
	[ 'SIGKILL of all its processes', sub {
		my @children = split ' ', $here->safe_psql('postgres',
			"SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE pid <> pg_backend_pid()");
		$here->kill9;
		kill 'KILL', @children;
		wait_until('its processes are gone', sub { !grep { kill 0, $_ } @children });
	} ])
{
	my ($name, $end) = @$way;
	my $holder = session($here);
	$holder->query("SELECT etcd_lock('/held')");
	my $sentinel = sentinel($here);
	$other->send("SELECT etcd_lock('/held')");
	wait_until_waiting($other);

	my $offset = -s $here->logfile;
	$end->();
	sleep 1;
	ok(!$other->done, "$name: the lock is not free while the server is away");
	my $begin = time;
	wait_until('the server starts', sub { $here->start(fail_ok => 1) });
	my $result = eval { $other->result(15) };
	diag sprintf '%-45s another after %.2f s', "$name:", time - $begin;
	ok($result && $result->{out}, "$name: it is free when the server is back");
	ok(!is_alive($sentinel->{lease}), "$name: the old lease is gone");
	is_logged($here, $offset, qr/freeing the locks of this server's last run/,
		"$name: the log says so");
	$other->query("SELECT etcd_unlock('/held')");
	$holder->quit;
}

# What only looks like it.  Each gets a lease of its own, and the sentinel of a server
# that has just gone, but for one thing.
my %value = (
	'another boot' => sub { s/boot \w/boot x/ },
	'another directory' => sub { s/dir (\w+):\w+/dir $1:1/ },
	'another file system' => sub { s/dir \w+:/dir 0:/ },
	'another system' => sub { s/system \d/system 9/ },
	'another container' => sub { s/pid:\[\d+/pid:[1/ },
	'no instance' => sub { s/"instance":\s*"[^"]*",?// },
	'no JSON' => sub { $_ = 'boot' });
my %lease;
my $sentinel = sentinel($here);
like($sentinel->{value}, qr/"instance":\s*"boot [-0-9a-f]+ pid:\[\d+\] ipc:\[\d+\] dir \w+:\w+ system \d+"/,
	'the sentinel tells which run of the server it is');
sub put_sentinel
{
	my ($name, $spoil, $suffix) = @_;
	$lease{$name} = $etcd->grant($ttl);
	local $_ = $sentinel->{value};
	$spoil->();
	$etcd->put(sprintf('.etcd_lock/server/%x%s', $lease{$name}, $suffix // ''), $_, $lease{$name});
}
put_sentinel($_, $value{$_}) foreach sort keys %value;
put_sentinel('a key below a sentinel', sub { }, '/x');
put_sentinel('the same', sub { });
{
	no warnings 'portable';
	$etcd->put('.etcd_lock/server/ffff', $sentinel->{value}, $lease{'no JSON'});
}

# A standby that was made from a base backup of the server, while that is away.
$here->stop('immediate');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($here, 'backup', has_streaming => 1);
$copy->start;
wait_until('the copy has a lease', sub {
	$copy->safe_psql('postgres', 'SELECT lease IS NOT NULL FROM etcd_lock_status()') eq 't' });
ok(is_alive($sentinel->{lease}), 'a base backup frees nothing');
ok(is_alive($lease{'the same'}), 'nor what looks like the server itself');
$copy->stop;

$here->start;
my $session = session($here);
wait_until_locks_work($session);
$session->quit;
ok(!is_alive($sentinel->{lease}), 'the server itself does');
ok(!is_alive($lease{'the same'}), 'and the same in all');
ok(is_alive($lease{$_}), "but not: $_") foreach sort keys %value, 'a key below a sentinel';

$etcd->revoke($_) foreach grep { is_alive($_) } values %lease;
$etcd->delete('.etcd_lock/server/ffff');
$other->quit;
finish($etcd, $here, $there);
