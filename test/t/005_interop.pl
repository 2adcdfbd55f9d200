# "etcdctl lock", which is built on Go's concurrency.Mutex, and the extension
# exclude each other, and each waits for the other.

use strict;
use warnings;

use EtcdLockTest;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, 'here', 'there');
my ($session, $other) = (session($here), session($there));

# Start etcdctl and wait until it has the lock, or a place in the queue that
# has then so many keys.
sub etcdctl_holds
{
	my ($name, $ttl) = @_;
	my $lock = EtcdLockTest::EtcdctlLock->new($etcd, $name, $ttl);
	wait_until("etcdctl has $name", sub { $lock->held });
	return $lock;
}

sub etcdctl_waits
{
	my ($name) = @_;
	my $keys = $etcd->keys("$name/");
	my $lock = EtcdLockTest::EtcdctlLock->new($etcd, $name);
	wait_until("etcdctl queues for $name",
		sub { $lock->held || $etcd->keys("$name/") > $keys });
	return $lock;
}

foreach my $name ('/jobs/report', 'plain', 'with space', "umlaut-\xc3\xa4")
{
	# The name as bytes for etcdctl, as a literal of the same bytes for SQL.
	my $sql_name =
	  "convert_from('\\x" . unpack('H*', $name) . q{'::bytea, 'UTF8')};

	my $etcdctl = etcdctl_holds($name);
	foreach my $mode ('', '_shared')
	{
		is($session->query("SELECT etcd_try_lock$mode($sql_name)"),
			'f', "$name: etcdctl holds it, etcd_try_lock$mode is refused");
	}
	$session->send("SELECT etcd_lock($sql_name) > 0");
	wait_until_waiting($session);
	ok(!$session->done, "$name: etcd_lock waits for etcdctl");
	$etcdctl->release;
	is($session->result->{out}, 't', "$name: and gets the lock");

	$etcdctl = etcdctl_waits($name);
	ok(!$etcdctl->held, "$name: etcdctl waits for etcd_lock");
	$other->send("SELECT etcd_lock($sql_name) > 0");
	wait_until_waiting($other);
	wait_until('both are in the queue',
		sub { $etcd->keys("$name/") == 3 });
	$session->query("SELECT etcd_unlock($sql_name)");
	wait_until("etcdctl gets $name", sub { $etcdctl->held });
	pass("$name: etcdctl gets the lock");
	ok(!$other->done, "$name: before those that came later");
	$etcdctl->release;
	is($other->result->{out}, 't', "$name: and hands it on");
	$other->query("SELECT etcd_unlock($sql_name)");
}

# A shared holder keeps etcdctl out, too.
$session->query("SELECT etcd_lock_shared('/jobs/report')");
$other->query("SELECT etcd_lock_shared('/jobs/report')");
my $etcdctl = etcdctl_waits('/jobs/report');
$session->query("SELECT etcd_unlock_shared('/jobs/report')");
ok(!$etcdctl->held, 'etcdctl waits for shared holders');
$other->query("SELECT etcd_unlock_shared('/jobs/report')");
wait_until('etcdctl gets the lock', sub { $etcdctl->held });
pass('and gets the lock after the last one');
$etcdctl->release;

# A waiting etcdctl that gives up leaves our queue intact.
$session->query("SELECT etcd_lock('/jobs/report')");
$etcdctl = etcdctl_waits('/jobs/report');
$other->send("SELECT etcd_lock('/jobs/report') > 0");
wait_until_waiting($other);
wait_until('all are in the queue',
	sub { $etcd->keys('/jobs/report/') == 3 });
$etcdctl->release;
wait_until('etcdctl has left the queue',
	sub { $etcd->keys('/jobs/report/') == 2 });
ok(!$other->done, 'a waiter behind etcdctl that gives up still waits');
$session->query("SELECT etcd_unlock('/jobs/report')");
is($other->result->{out}, 't', 'and gets the lock in its turn');
$other->query('SELECT etcd_unlock_all()');

# Names below a name are locks of their own.
$etcdctl = etcdctl_holds('/jobs/report');
is( $session->query(
		"SELECT etcd_try_lock('/jobs'), etcd_try_lock('/jobs/report/daily'),
		        etcd_try_lock('/jobs/repor'), etcd_try_lock('/jobs/report2')"),
	't|t|t|t',
	'etcdctl\'s lock is not in the way of names above and below');
$session->query('SELECT etcd_unlock_all()');
$etcdctl->release;

# An etcdctl that dies without unlocking: its lease of 2 seconds ends.
$etcdctl = etcdctl_holds('/jobs/report', 2);
$session->send("SELECT etcd_lock('/jobs/report') > 0");
wait_until_waiting($session);
undef $etcdctl;
is($session->result->{out}, 't', 'a killed etcdctl frees the lock with its lease');
$session->query('SELECT etcd_unlock_all()');

is_left_clean($etcd, $here, $there);
$_->quit foreach $session, $other;
finish($etcd, $here, $there);
