# How ticks of etcd_try_once() expire, and how many there may be: they outlive servers,
# but not the retention, and no tenant can fill etcd with them.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, 'here', 'there');
my ($session, $other) = map { session($_) } $here, $there;

sub once
{
	my ($session, $name, $minute) = @_;
	return $session->query("SELECT etcd_try_once('$name', '2030-01-01 00:00Z'::timestamptz + interval '$minute min')");
}
sub tick_lease { my ($name) = @_; my ($entry) = $etcd->entries(".etcd_lock/tick/$name"); return $entry ? $entry->{lease} : undef }
sub anchors { return grep { m{^\.etcd_lock/tick_lease/} } $etcd->keys('') }

# By default.
my $lease;
{
	my $days = 24 * 60 * 60;
	is(once($session, '/a', 1), 't', 'a tick');
	$lease = tick_lease('/a');
	ok($lease, 'it has a lease');
	cmp_ok($etcd->granted_ttl($lease), '>=', 30 * $days, 'which lasts for 30 days at least');
	cmp_ok($etcd->granted_ttl($lease), '<=', 32 * $days, 'and not much longer');
	isnt($lease, $etcd->lease_of('.etcd_lock/server/'), "and is not the server's");
	is(once($other, '/b', 1), 't', 'a tick of another server');
	is(tick_lease('/b'), $lease, 'has the same lease');
	$session->query("BEGIN; SELECT etcd_lock('/held')");
	is(once($session, '/held', 1), 't', 'a tick for a lock that is held');
	is(tick_lease('/held'), $lease, 'likewise');
	$session->query('COMMIT; SELECT etcd_unlock_all()');
	is(scalar(anchors()), 1, 'there is one such lease');
}

# It outlives servers, however they end.
foreach my $how ('fast', 'immediate')
{
	$session->quit;
	$here->stop($how);
	wait_until('the server starts', sub { $here->start(fail_ok => 1) });
	$session = session($here);
	wait_until_locks_work($session);
	is(once($session, '/a', 1), 'f', "$how shutdown: the tick is claimed still");
	is(once($session, '/a', $how eq 'fast' ? 2 : 3), 't', "$how shutdown: a later one is free");
	is(tick_lease('/a'), $lease, "$how shutdown: with the same lease");
}

# One of version 1.0 has none.
{
	$etcd->put('.etcd_lock/tick//old', '2030-01-01T00:05:00.000000Z 0000000000000001');
	is(once($session, '/old', 5), 'f', 'a tick without a lease counts');
	is(once($session, '/old', 6), 't', 'a later one is free');
	is(tick_lease('/old'), $lease, 'and then it has a lease');
}

# An administrator revokes it: that ends the ticks, and nothing else.
{
	my $server = $etcd->lease_of('.etcd_lock/server/');
	$session->query("SELECT etcd_lock('/kept')");
	$etcd->revoke($lease);
	my $result = $session->try("SELECT etcd_try_once('/a', '2030-01-01 00:03Z')");
	is($result->{out}, 't', 'lease revoked: its ticks are forgotten') or diag($result->{err});
	$session->query("SELECT etcd_lock('/held')");
	is(once($session, '/held', 1), 't', 'lease revoked: also for a lock that is held');
	isnt(tick_lease('/a'), $lease, 'there is another lease');
	is($etcd->lease_of('.etcd_lock/server/'), $server, "the servers' own leases have lived on");
	is($session->query("SELECT etcd_lock_check('/kept')"), 't', 'and their locks');
	$session->query('SELECT etcd_unlock_all()');
}

# A bound for each namespace.
{
	$here->safe_psql('postgres', <<'SQL');
CREATE ROLE tenant LOGIN;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO tenant;
ALTER ROLE tenant SET etcd_lock.namespace = 'tenants/a/';
ALTER ROLE tenant SET etcd_lock.max_ticks = 5;
SQL
	my $tenant = session($here, user => 'tenant');
	is(once($tenant, "job$_", 1), 't', "max_ticks: name $_") foreach 1 .. 5;
	foreach my $held ('', 'held')
	{
		my $what = "max_ticks" . ($held && ', lock is held');
		$tenant->query("SELECT etcd_lock('job6'), etcd_lock('job5')") if $held;
		my $result = $tenant->try("SELECT etcd_try_once('job6', '2030-01-01Z')");
		is($result->{sqlstate}, '54000', "$what: one more is refused");
		like($result->{err}, qr/too many names with ticks.*DETAIL:.*5 names.*HINT:.*max_ticks/s, "$what: said why");
		is(scalar(grep { m{^tenants/a/\.etcd_lock/tick/} } $etcd->keys('')), 5, "$what: it is not in etcd");
		is(once($tenant, 'job5', $held ? 3 : 2), 't', "$what: those that there are go on");
	}
	is($tenant->try('SET etcd_lock.max_ticks = 100')->{sqlstate}, '42501', 'max_ticks: not to be raised by everybody');
	is(once($session, '/job6', 1), 't', 'max_ticks: others have their own');
	$etcd->delete('tenants/a/.etcd_lock/tick/job1');
	$tenant->query('SELECT etcd_unlock_all()');
	is(once($tenant, 'job6', 1), 't', 'max_ticks: when one is deleted there is room');
	$tenant->quit;
}

# The end.
{
	$here->append_conf('postgresql.conf', "etcd_lock.tick_retention = '4s'");
	$here->reload;
	wait_until('the setting is in effect', sub { $session->query('SHOW etcd_lock.tick_retention') eq '4s' });
	my $server = $etcd->lease_of('.etcd_lock/server/');
	$etcd->forget_ticks;
	is(once($session, '/short', 1), 't', 'a short retention');
	my $begin = time;
	while (time - $begin < 3)
	{
		is(once($session, '/short', 1), 'f', 'not yet over') or last;
		sleep 1;
	}
	wait_until('it is over', sub { !grep { m{tick//short} } $etcd->keys('') });
	pass('the tick has ended');
	is(once($session, '/short', 1), 't', 'and may be claimed again');
	is($etcd->lease_of('.etcd_lock/server/'), $server, "the servers' own leases have lived on");
}

$_->quit foreach $session, $other;
finish($etcd, $here, $there);
