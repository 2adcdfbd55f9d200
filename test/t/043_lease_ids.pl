# Anybody who can log in to etcd can use any lease id: a user with one key can take ids that
# can be guessed, and keep old leases from being revoked.  No server waits for that.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
$etcd->enable_auth(app => 'app', [ '/app/', '.etcd_lock/' ]);

my $dir = PostgreSQL::Test::Utils::tempdir('client');
append_to_file("$dir/password", "app\n");
chmod 0600, "$dir/password";
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $here = start_server('here', endpoints => $proxy->url, conf => <<"END");
etcd_lock.username = 'app'
etcd_lock.password_file = '$dir/password'
etcd_lock.lease_ttl = '60s'
END
my $session = session($here);

sub lease
{
	my $lease = $here->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status()');
	return $lease eq '' ? 0 : hex $lease;
}

# The server's lease is gone: for how long is there none?
sub without_lease
{
	my ($name) = @_;
	my $old = lease();
	my $begin = time;
	$etcd->revoke($old);
	wait_until("$name: a new lease", sub { my $new = lease(); $new && $new != $old });
	my $seconds = time - $begin;
	diag sprintf '%-45s a new lease after %.2f s', "$name:", $seconds;
	is($session->query("SELECT etcd_try_lock('/app/x'), etcd_unlock('/app/x')"), 't|t', "$name: locks work");
	return $seconds;
}

# Etcd's list of leases and our views tell the ids to everybody: that of the next lease must
# not follow from them, because the first one to grant it has it.
{
	wait_until('the first lease', sub { lease() });
	my @ids = (lease());
	foreach my $i (1 .. 4)
	{
		without_lease("epoch $i");
		push @ids, lease();
	}
	foreach my $i (1 .. $#ids)
	{
		my @near = grep { abs($ids[$i] - $_) <= 100 } @ids[0 .. $i - 1];
		is_deeply(\@near, [], sprintf 'id %x does not follow from those before it', $ids[$i]);
	}
}

# Whatever id the server chooses.
{
	my $name = 'ids that it draws are taken';
	$proxy->rules({ path => '/lease/grant$', name => 'taken', times => 5,
		EtcdLockTest::Proxy::refusal(9, 'etcdserver: lease already exists') });
	cmp_ok(without_lease($name), '<', 5, "$name: at once");
	is($proxy->hits('taken'), 5, "$name: five of them");
	$proxy->rules;
}

# Old leases of ours that may not be revoked: a key of somebody else's is on them.
{
	my $name = 'old leases that may not be revoked';
	my $base = lease() & ~0xffffff;
	foreach my $i (1 .. 10)
	{
		my $id = $base + $i;
		$etcd->call('/v3/lease/grant', { ID => $id, TTL => 600 });
		$etcd->put(sprintf('.etcd_lock/server/%x', $id), '{}', $id);
		$etcd->put("/squatter/$i", '', $id);
	}
	my $offset = -s $here->logfile;
	$proxy->rules({ path => '/lease/revoke$', name => 'revoke', do => 'delay_answer', ms => 0 });
	cmp_ok(without_lease($name), '<', 5, "$name: nothing waits for them");
	wait_until("$name: all were asked for",
		sub { (() = slurp_file($here->logfile, $offset) =~ /could not revoke the old lease/g) == 10 });
	my $asked = $proxy->hits('revoke');
	without_lease("$name, again");
	sleep 2;
	cmp_ok($proxy->hits('revoke'), '<=', $asked + 1, "$name: each is asked for once");
	is(scalar(() = slurp_file($here->logfile, $offset) =~ /could not revoke the old lease/g), 10, "$name: and logged once");
	$proxy->rules;
}

# More servers' keys than can be read: none of them may stop this one.  It tries twice, for
# 6 s each, if etcd does not respond in time, which is busy with them.
{
	my $name = 'too many keys of servers';
	$etcd->put(".etcd_lock/server/0/$_", 'x' x 1_000_000) foreach 1 .. 20;
	cmp_ok(without_lease($name), '<', 60, "$name: a lease all the same");
}

$session->quit;
$here->stop('fast');
$etcd->stop;
$proxy->stop;
done_testing;
