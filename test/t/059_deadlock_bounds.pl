# Deadlocks over several servers that much else is in the way of: servers that may not be
# written to, or that pass no probe on; sessions that wait for something else; paths that
# have ended.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

# Each server has a namespace of its own, and so its sentinel there; the sessions' locks
# are in one that all share.
my $timeout = 0.2;
my $ns = 'shared/';
my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
$etcd->enable_auth(a => 'secret', [ 'a/', 'b/', 'c/', $ns ]);
$etcd->add_user(b => 'secret', [ 'b/', 'c/', $ns ]);
$etcd->add_user(c => 'secret', [ 'a/', 'b/', 'c/', $ns ]);
my $password_file = PostgreSQL::Test::Utils::tempdir('client') . '/password';
append_to_file($password_file, "secret\n");
chmod 0600, $password_file;
my ($a, $b, $c) = map {
	start_server(
		$_,
		endpoints => $_ eq 'a' ? $proxy->url : $etcd->endpoint,
		conf => <<"END")
deadlock_timeout = '${\ ($timeout * 1000)}ms'
max_connections = 250
etcd_lock.namespace = '$_/'
etcd_lock.username = '$_'
etcd_lock.password_file = '$password_file'
END
} qw(a b c);
$_->safe_psql('postgres', 'CREATE TABLE t AS SELECT i, 0 AS v FROM generate_series(1, 9) i')
  foreach $a, $b, $c;
local $ENV{PGOPTIONS} = "-c etcd_lock.namespace=$ns";
my ($on_a, $on_b, $on_c) = map { session($_) } $a, $b, $c;
my ($on_a2, $on_b2) = map { session($_) } $a, $b;
my $on_a3 = session($a);
my @all = ($on_a, $on_b, $on_c, $on_a2, $on_b2, $on_a3);

sub release
{
	$_->query('ROLLBACK; SELECT etcd_unlock_all()') foreach @_;
	return;
}

# The session is ended as a victim, and soon.
sub is_ended
{
	my ($session, $name) = @_;
	my $result = $session->result;
	is($result->{sqlstate}, '40P01', "$name: one session is ended") or diag($result->{err});
	cmp_ok($result->{elapsed}, '<', 30, "$name: soon");
	diag sprintf '%-45s %.2f s', "$name:", $result->{elapsed};
	return;
}

# Sessions that run a script, at whose end they wait for /a/0 or the like.
sub start_many
{
	my ($node, $n, $sql) = @_;
	my $script = PostgreSQL::Test::Utils::tempdir('pgbench') . '/script.sql';
	append_to_file($script, $sql);
	my $many = { node => $node, out => '', err => '' };
	$many->{run} = IPC::Run::start(
		[ 'pgbench', '-n', '-f', $script, '-c', $n, '-j', 1, '-t', 1, $node->connstr('postgres') ],
		'>', \$many->{out}, '2>', \$many->{err});
	return $many;
}

sub end_many
{
	my (@many) = @_;
	$many[0]{node}->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid) FROM etcd_locks WHERE name ~ '^/[ac]/' AND NOT granted");
	$_->{run}->finish foreach @many;
	return;
}

sub count_waiting
{
	my ($node, $pattern) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM etcd_locks WHERE name LIKE '$pattern' AND NOT granted");
}

# B may not write below the sentinel of A, which has many locks that sessions of B wait for.
{
	my $n = 140;
	$on_a->query("SELECT count(etcd_lock('/a/' || i)) FROM generate_series(0, $n - 1) i");
	my $many = start_many($b, $n, "SELECT etcd_lock('/a/' || :client_id);\n");
	wait_until("$n sessions wait", sub { count_waiting($b, '/a/%') == $n });
	$on_c->query("SELECT etcd_lock('/1')");
	$on_b->query("SELECT etcd_lock('/2')");
	$on_c->send("SELECT etcd_lock('/2')");
	wait_until_queued($etcd, $on_c);
	$on_b->send("SELECT etcd_lock('/1')");
	is_ended($on_b, 'beside many waits for a server that may not be written to');
	release($on_b);
	is($on_c->result->{sqlstate}, '', '... the other one goes on');
	end_many($many);
	release($on_a, $on_c);
}
$etcd->etcdctl_root('role', 'grant-permission', 'b', 'readwrite', '--prefix=true', 'a/');

# Many sessions of B share a lock that A waits for; each of them waits for something else.
# Only one, in the middle, waits for A.
{
	my $n = 70;
	$on_c->query("SELECT count(etcd_lock('/c/' || i)) FROM generate_series(0, 2 * $n - 1) i");
	$on_a->query("SELECT etcd_lock('/x')");
	my @many;
	foreach my $from (0, $n)
	{
		$on_b->query("BEGIN; SELECT etcd_lock_shared('/s')") if $from > 0;
		push @many,
		  start_many($b, $n, <<"SQL");
SELECT etcd_lock_shared('/s');
SELECT etcd_lock('/c/' || :client_id + $from);
SQL
		wait_until("sessions wait", sub { count_waiting($b, '/c/%') == $from + $n });
	}
	$on_b->send("SELECT etcd_lock('/x')");
	wait_until_queued($etcd, $on_b);
	$on_a->send("SELECT etcd_lock('/s')");
	is_ended($on_a, 'beside many who wait for something else');
	release($on_a);
	is($on_b->result->{sqlstate}, '', '... the other one goes on');

	# Within B: a session that waits until all of them release the lock holds a row that one
	# of them wants.
	$on_a->send("SELECT etcd_lock('/s')");
	wait_until_queued($etcd, $on_a);
	$on_b2->query('BEGIN; UPDATE t SET v = v + 1 WHERE i = 1');
	$on_b2->send("SELECT etcd_lock_shared('/s')");
	wait_until_queued($etcd, $on_b2);
	$on_b->send('UPDATE t SET v = v + 1 WHERE i = 1');
	is_ended($on_b2, 'one of many who share');
	release($on_b2);
	is($on_b->result->{sqlstate}, '', '... the other one goes on');
	release($on_b);
	end_many(@many);
	is($on_a->result->{sqlstate}, '', '... and so does who waited for all of them');
	release($on_a, $on_c);
}

# C waits to share a lock behind B, which waits for A; and behind a server, here only a key,
# that passes no probe on, such as one of version 1.0.
{
	$on_a->query("BEGIN; SELECT etcd_xact_lock_shared('/f')");
	my $lease = $etcd->grant;
	$etcd->put(sprintf("$ns/f/write/%x-000000000001", $lease), '{"server":"old","pid":1}', $lease);
	$on_c->query("SELECT etcd_lock('/1')");
	$on_b->send("SELECT etcd_lock('/f')");
	wait_until_queued($etcd, $on_b);
	$on_c->send("SELECT etcd_lock_shared('/f')");
	wait_until_queued($etcd, $on_c);
	$on_a->send("SELECT etcd_lock('/1')");
	is_ended($on_a, 'behind a server that passes no probe on');
	$on_a->query('ROLLBACK');
	$etcd->revoke($lease);
	foreach my $session ($on_b, $on_c)
	{
		is($session->result->{sqlstate}, '', '... the others go on');
		$session->query('SELECT etcd_unlock_all()');
	}
}

# A probe has come back to A along the wait of B, which has ended since.  When A's own
# sessions begin to wait for each other, this is no cycle, but one by way of C is.
{
	$_->query("SELECT etcd_lock_shared('/s')") foreach $on_b, $on_c;
	$on_a2->query("SELECT etcd_lock('/x')");
	$on_a3->query("SELECT etcd_lock('/y')");
	$on_b->send("SELECT etcd_lock('/x')");
	$on_c->send("SELECT etcd_lock('/y')");
	wait_until_queued($etcd, $on_b, $on_c);
	$on_a->query('BEGIN; UPDATE t SET v = v + 1 WHERE i IN (1, 2)');
	$on_a->send("SELECT etcd_lock('/s')");
	wait_until_queued($etcd, $on_a);
	sleep 10 * $timeout;
	$b->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $on_b->pid . ')');
	is($on_b->result->{sqlstate}, '57014', 'a wait on the path ends');

	# what B and C pass on is slower than what A knows
	$proxy->rules({ do => 'delay', ms => 200, path => '/kv/' });
	$on_a2->send('UPDATE t SET v = v + 1 WHERE i = 1');
	wait_until_blocked($on_a2);
	sleep 3 * $timeout;
	$on_a3->send('UPDATE t SET v = v + 1 WHERE i = 2');
	is_ended($on_a, 'a path that has ended');
	$proxy->rules();
	release($on_a);
	foreach my $session ($on_a2, $on_a3)
	{
		is($session->result->{sqlstate}, '', '... the others go on');
		release($session);
	}
	is($on_c->result->{sqlstate}, '', '... on the other server, too');
	release($on_b, $on_c);
}

$_->quit foreach @all;
wait_until('no lock is left', sub { !grep { m{^$ns/} } $etcd->keys('') });
wait_until('no message is left', sub { !grep { m{/deadlock/} } $etcd->keys('') });
finish($etcd, $a, $b, $c);
$proxy->stop;
