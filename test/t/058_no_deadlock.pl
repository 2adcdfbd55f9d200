# Waits that are no deadlock: nobody is ended.  Waits end, time out and begin again while
# probes are on their way, servers die, foreign clients are in the way, messages lie, or
# come late.  And what a tenant is told of others, and what many waits cost.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::EtcdctlLock;
use IPC::Run;
use EtcdLockTest::Proxy;
use List::Util qw(sum0);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $timeout = 0.2;
my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $conf = "deadlock_timeout = '${\ ($timeout * 1000)}ms'\n";
my $many = "max_connections = 1100\netcd_lock.lease_ttl = '60s'\n";
my $a = start_server('a', endpoints => $proxy->url, conf => $conf . $many);
my $b = start_server('b', endpoints => $etcd->endpoint, conf => $conf . $many);
my $c = start_server('c', endpoints => $etcd->endpoint, conf => $conf);
$_->safe_psql('postgres', <<'SQL') foreach $a, $b, $c;
CREATE TABLE t AS SELECT i, 0 AS v FROM generate_series(1, 9) i;
ALTER TABLE t ADD PRIMARY KEY (i);
CREATE ROLE tenant_a LOGIN;
CREATE ROLE tenant_b LOGIN;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO tenant_a, tenant_b;
GRANT ALL ON t TO tenant_a, tenant_b;
ALTER ROLE tenant_a SET etcd_lock.namespace = 'tenants/a/';
ALTER ROLE tenant_b SET etcd_lock.namespace = 'tenants/b/';
SQL
my ($on_a, $on_b, $on_c) = map { session($_) } $a, $b, $c;
my ($on_a2, $on_b2) = map { session($_) } $a, $b;
my @all = ($on_a, $on_b, $on_c, $on_a2, $on_b2);

sub deadlocks
{
	return sum0(map { $_->safe_psql('postgres', 'SELECT deadlocks FROM etcd_lock_stats') } $a, $b, $c);
}

sub release
{
	$_->query('ROLLBACK; SELECT etcd_unlock_all()') foreach @_;
	return;
}

# How many messages there are below sentinels.
sub messages
{
	return scalar grep { m{/deadlock/} } $etcd->keys('');
}

# A chain is none.
$on_a->query("SELECT etcd_lock('/1')");
$on_b->query("SELECT etcd_lock('/2')");
$on_b->send("SELECT etcd_lock('/1')");
wait_until_queued($etcd, $on_b);
$on_c->send("SELECT etcd_lock('/2')");
sleep 5 * $timeout;
ok(!$on_b->done && !$on_c->done, 'a chain: all wait');
release($on_a);
is($on_b->result->{sqlstate}, '', 'a chain: the first one goes on');
release($on_b);
is($on_c->result->{sqlstate}, '', 'a chain: so does the second one');
release($on_c);

# A cycle with a wait that ends in time.
foreach my $how ("SET lock_timeout = '100ms'; SELECT etcd_lock('/2')",
	"SET lock_timeout = 0; SELECT etcd_try_lock('/2', '100 ms')")
{
	$on_a->query("SELECT etcd_lock('/1')");
	$on_b->query("SELECT etcd_lock('/2')");
	$on_b->send("SELECT etcd_lock('/1')");
	wait_until_queued($etcd, $on_b);
	my $result = $on_a->try($how);
	# 08006: a busy machine has not found out whether somebody else has it
	like($result->{sqlstate}, qr/^(55P03|08006)?$/, 'it gives up before there is a deadlock');
	$on_a->query('RESET lock_timeout');
	sleep 3 * $timeout;
	ok(!$on_b->done, '... and nobody is ended');
	release($on_a);
	is($on_b->result->{sqlstate}, '', '... the other one goes on');
	release($on_b);
}

# A wait that ends again and again, by whatever: a session that waits for a row for so short
# a time that there is never a deadlock that lasts.
{
	my $before = deadlocks();
	$on_a->query("SELECT etcd_lock('/1')");
	$on_b->query("BEGIN; UPDATE t SET v = v + 1 WHERE i = 1");
	$on_b2->query("SELECT etcd_lock('/2')");
	$on_b->send("SELECT etcd_lock('/1')");
	wait_until_queued($etcd, $on_b);
	$on_a->send("SELECT etcd_lock('/2')");
	my $until = time + 12 * $timeout;
	my $n = 0;
	$on_b2->query("SET lock_timeout = '20ms'");
	while (time < $until)
	{
		$on_b2->try('UPDATE t SET v = v + 1 WHERE i = 1');
		$n++;
		sleep 0.03;
	}
	ok(!$on_b->done && !$on_a->done, "a wait that ends $n times: nobody is ended");
	is(deadlocks(), $before, '... nor counted');
	$on_b2->query('RESET lock_timeout');

	# And then it stays.
	$on_b2->send('UPDATE t SET v = v + 1 WHERE i = 1');
	my $begin = time;
	my $result = $on_a->result(30);
	is($result->{sqlstate}, '40P01', 'once it lasts, the youngest is ended');
	cmp_ok(time - $begin, '<', $timeout + 11, '... in time');
	diag sprintf 'ended %.2f s after the wait for the row began', time - $begin;
	release($on_a);
	$on_b->result;
	release($on_b);
	$on_b2->result;
	release($on_b2);
}

# A foreign client in the way ends the path.
{
	my $foreign = EtcdLockTest::EtcdctlLock->new($etcd, '/foreign');
	wait_until('etcdctl has the lock', sub { $foreign->held });
	$on_a->query("SELECT etcd_lock('/1')");
	$on_b->send("SELECT etcd_lock('/1')");
	$on_a->send("SELECT etcd_lock('/foreign')");
	sleep 3 * $timeout;
	ok(!$on_a->done && !$on_b->done, 'a foreign client: both wait');
	$foreign->release;
	is($on_a->result->{sqlstate}, '', 'a foreign client: it is waited for');
	release($on_a);
	$on_b->result;
	release($on_b);
}

# Two cycles at once, which share a session.
{
	my $before = deadlocks();
	my $on_c2 = session($c);
	$on_a->query("SELECT etcd_lock('/1')");
	$on_b->query("SELECT etcd_lock_shared('/2')");
	$on_c->query("SELECT etcd_lock_shared('/2')");
	$on_a->send("SELECT etcd_lock('/2')");
	wait_until_queued($etcd, $on_a);
	$on_b->send("SELECT etcd_lock('/1')");
	$on_c->send("SELECT etcd_lock('/1')");
	my %left = map { $_->pid => $_ } $on_a, $on_b, $on_c;
	my $n = 0;
	my $until = time + 60;
	while (%left && time < $until)
	{
		foreach my $session (grep { $_->done } values %left)
		{
			$n++ if $session->result->{sqlstate} eq '40P01';
			delete $left{ $session->pid };
			release($session);
		}
		sleep 0.01;
	}
	is(scalar keys %left, 0, 'two cycles: all go on');
	# The session that is in both may be the youngest of none.
	is($n, 2, 'two cycles: each is broken once');
	is(deadlocks() - $before, $n, 'two cycles: they are counted');
}

# Two independent ones.
{
	my $before = deadlocks();
	$on_a->query("SELECT etcd_lock('/1')");
	$on_b->query("SELECT etcd_lock('/2')");
	$on_a2->query("SELECT etcd_lock('/3')");
	$on_b2->query("SELECT etcd_lock('/4')");
	$on_a->send("SELECT etcd_lock('/2')");
	$on_a2->send("SELECT etcd_lock('/4')");
	wait_until_queued($etcd, $_) foreach $on_a, $on_a2;
	$on_b->send("SELECT etcd_lock('/1')");
	$on_b2->send("SELECT etcd_lock('/3')");
	is($_->result(30)->{sqlstate}, '40P01', 'two at once: the youngest is ended') foreach $on_b, $on_b2;
	release($on_b, $on_b2);
	is($_->result(30)->{sqlstate}, '', 'two at once: the other goes on') foreach $on_a, $on_a2;
	release($on_a, $on_a2);
	is(deadlocks() - $before, 2, 'two at once: both are counted');
}

# Probes that are lost, late, refused or repeated: of server a, whose requests pass the proxy.
# Keys are base64 there, so the word may stand in three ways.
my %probe = (path => '/kv/txn$', body => 'request_?put"?: *\{"key": *"[^"]*(ZGVhZGxvY2|lYWRsb2Nr|ZWFkbG9ja)');
foreach my $rule (
	{ do => 'hold', times => 1 },
	{ do => 'refuse', times => 1 },
	{ do => 'hold_answer', times => 1 },
	{ do => 'drop_answer', times => 1 },
	{ do => 'repeat', ms => 50 },
	{ do => 'delay', ms => 400 },
	{ EtcdLockTest::Proxy::refusal(8, 'etcdserver: too many requests'), times => 1 })
{
	foreach my $victim ($on_a, $on_b)
	{
		my $other = $victim == $on_a ? $on_b : $on_a;
		my $name = "$rule->{do}, the youngest is on " . $victim->{node}->name;
		my $before = deadlocks();
		$proxy->rules({ %probe, %$rule, name => 'probe' });
		$victim->query("SELECT etcd_lock('/1')");
		$other->query("SELECT etcd_lock('/2')");
		$other->send("SELECT etcd_lock('/1')");
		wait_until_queued($etcd, $other);
		my $result = $victim->try("SELECT etcd_lock('/2')");
		is($result->{sqlstate}, '40P01', "$name: it is ended");
		cmp_ok($proxy->hits('probe'), '>', 0, "$name: a probe has met the rule");
		diag sprintf '%-45s %.2f s', "$name:", $result->{elapsed};
		cmp_ok($result->{elapsed}, '<', 20, "$name: soon");
		release($victim);
		is($other->result->{sqlstate}, '', "$name: the other one goes on");
		release($other);
		is(deadlocks() - $before, 1, "$name: it is counted once");
	}
}
$proxy->rules();

# A server that dies in the middle.
{
	$on_a->query("SELECT etcd_lock('/1')");
	$on_c->query("SELECT etcd_lock('/2')");
	$on_b->query("SELECT etcd_lock('/3')");
	$on_b->send("SELECT etcd_lock('/1')");
	wait_until_queued($etcd, $on_b);
	$on_c->send("SELECT etcd_lock('/3')");
	wait_until_queued($etcd, $on_c);
	$c->stop('immediate');
	my $result = $on_a->try("SET lock_timeout = '20s'; SELECT etcd_lock('/2')");
	is($result->{sqlstate}, '', 'a server that has died: its lock is had in the end')
	  or diag($result->{err});
	ok(!$on_b->done, '... and nobody is ended');
	release($on_a);
	is($on_b->result->{sqlstate}, '', '... but goes on');
	release($on_b);
	$c->start;
	$on_c = session($c);
	wait_until_locks_work($on_c);
}

# Tenants: an error tells of the path, but not of others' names and roles.
{
	my ($ta, $tb) = (session($a, user => 'tenant_a'), session($b, user => 'tenant_b'));
	my ($ta2, $tb2) = (session($a, user => 'tenant_b'), session($b, user => 'tenant_a'));
	$ta->query("BEGIN; UPDATE t SET v = 1 WHERE i = 5");
	$tb->query("BEGIN; UPDATE t SET v = 1 WHERE i = 6");
	$ta2->query("BEGIN; SELECT etcd_lock('/secret of b')");
	$tb2->query("BEGIN; SELECT etcd_lock('/secret of a')");
	$ta2->send('UPDATE t SET v = 2 WHERE i = 5');
	$tb2->send('UPDATE t SET v = 2 WHERE i = 6');
	wait_until_queued($etcd, $_) foreach $ta2, $tb2;
	$tb->send("SELECT etcd_lock('/secret of b')");
	wait_until_queued($etcd, $tb);
	$ta->send("SELECT etcd_lock('/secret of a')");
	my $result = $ta->result(30);
	is($result->{sqlstate}, '40P01', 'tenants: a deadlock through both is broken');
	like($result->{err}, qr{etcd lock "/secret of a"}, 'tenants: the own name is told');
	like($result->{err}, qr{an etcd lock of another namespace}, 'tenants: another one is not');
	unlike($result->{err}, qr{secret of b|tenant}, 'tenants: nor is a role');
	release($ta);
	$_->result foreach $ta2;
	release($ta2);
	$_->result foreach $tb;
	release($tb);
	$tb2->result;
	release($tb2);
	$_->quit foreach $ta, $tb, $ta2, $tb2;
}

# Messages that lie: they are deleted, and nobody is ended.
{
	my $before = deadlocks();
	$on_a->query("SELECT etcd_lock('/1')");
	$on_b->send("SELECT etcd_lock('/1')");
	wait_until_queued($etcd, $on_b);
	foreach my $sentinel (grep { m{^\.etcd_lock/server/[0-9a-f]+$} } $etcd->keys(''))
	{
		my $i = 0;
		foreach my $value ('', 'x', "\x08\x02\x10\x01", "\x08\x01" x 1000, pack('C*', map { int rand 256 } 1 .. 3000))
		{
			$etcd->put("$sentinel/deadlock/1-" . ++$i, $value);
		}
	}
	sleep 3 * $timeout;
	ok(!$on_b->done, 'messages that lie: nobody is ended');
	wait_until('messages that lie are deleted', sub { messages() == 0 });
	release($on_a);
	is($on_b->result->{sqlstate}, '', 'messages that lie: it goes on');
	release($on_b);
	is(deadlocks(), $before, 'messages that lie: nothing is counted');
}

# A server of version 1.0, here only a key, reads no messages.
{
	my $lease = $etcd->grant;
	$etcd->put(sprintf('/old/write/%x-000000000001', $lease), '{"server":"old","pid":1}', $lease);
	$on_b->send("SELECT etcd_lock('/old')");
	wait_until_waiting($on_b);
	sleep 5 * $timeout;
	is(messages(), 0, 'a server of version 1.0 is sent no messages');
	$etcd->revoke($lease);
	is($on_b->result->{sqlstate}, '', '... and waited for like any other');
	release($on_b);
}

# What waits cost: a thousand sessions that wait for one name are one key, and one probe
# each time.  They come in waves, because a server that is busy with logins has no time for
# its lease.
{
	my ($n, $wave) = (1000, 100);
	my $those = "FROM etcd_locks WHERE name = '/many' AND NOT granted AND NOT lost";
	$on_a->query("SELECT etcd_lock('/many')");
	# this one waits for etcd, and has probes sent
	$on_b2->send("SELECT etcd_lock('/many')");
	wait_until_waiting($on_b2);
	my $script = PostgreSQL::Test::Utils::tempdir('pgbench') . '/wait.sql';
	append_to_file($script, "SELECT etcd_lock('/many');\n");
	# PostgreSQL's own check of a long queue takes its length cubed
	my $connstr = $b->connstr('postgres') . " options='-c deadlock_timeout=10min'";
	my @runs;
	while ($wave * @runs < $n)
	{
		my $run = { out => '', err => '' };
		$run->{handle} = IPC::Run::start(
			[ 'pgbench', '-n', '-f', $script, '-c', $wave, '-j', 1, '-t', 1, $connstr ],
			'>', \$run->{out}, '2>', \$run->{err});
		push @runs, $run;
		my $waiting = 1 + $wave * @runs;
		wait_until("$waiting sessions wait", sub { $on_b->query("SELECT count(*) $those") == $waiting });
	}
	sleep 2 * $timeout;
	my @requests = map { $_->safe_psql('postgres', 'SELECT requests FROM etcd_lock_stats') } $a, $b;
	my $begin = time;
	sleep 5;
	my $took = time - $begin;
	my @later = map { $_->safe_psql('postgres', 'SELECT requests FROM etcd_lock_stats') } $a, $b;
	diag sprintf '%d waiting sessions: %d and %d requests in %.1f s', $n,
	  $later[0] - $requests[0], $later[1] - $requests[1], $took;
	cmp_ok($later[1] - $requests[1], '<', 20 * $took, "$n waiting sessions ask as one");
	$on_b->query("SELECT pg_terminate_backend(pid) $those AND pid <> " . $on_b2->pid);
	$_->{handle}->finish foreach @runs;
	wait_until('they are gone', sub { $on_b->query("SELECT count(*) $those") == 1 });
	release($on_a);
	is($on_b2->result->{sqlstate}, '', 'the first one goes on');
	release($on_b2);
}

$_->quit foreach @all;
is_left_clean($etcd, $a, $b, $c);
ok(messages() == 0, 'no message is left');
finish($etcd, $a, $b, $c);
$proxy->stop;
