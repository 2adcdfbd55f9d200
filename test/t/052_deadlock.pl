# Deadlocks through locks of several servers, with whatever else is in between: one session
# gets an error that tells the path, all others go on.

use strict;
use warnings;

use EtcdLockTest;
use List::Util qw(sum0 max);
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

# Seconds: the bound that is told is deadlock_timeout and one more.
my $timeout = 0.5;
my $bound = $timeout + 1;

my $etcd = EtcdLockTest::Etcd->new;
my @node = map {
	start_server(
		$_,
		endpoints => $etcd->endpoint,
		init => { allows_streaming => 1 },
		conf => "deadlock_timeout = '${\ ($timeout * 1000)}ms'\nwal_receiver_status_interval = 1")
} qw(a b c d e);
my ($a, $b, $c) = @node;
$_->safe_psql('postgres', <<'SQL') foreach @node;
CREATE TABLE t AS SELECT i, 0 AS v FROM generate_series(1, 9) i;
ALTER TABLE t ADD PRIMARY KEY (i);
SQL
$a->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($a, 'backup', has_streaming => 1);
$standby->start;
wait_until('all have a lease', sub { $etcd->leases == 6 });

sub counted
{
	return sum0(map { $_->safe_psql('postgres', 'SELECT deadlocks FROM etcd_lock_stats') }
		  @_ ? @_ : (@node, $standby));
}

# What the sessions have first, then what each waits for: in this order, so that the last
# wait closes the cycle.  Just one is ended, the one that asked etcd last unless told
# otherwise; a session that has its lock releases what it has, and so all do.  Returns the victim's
# result.
sub is_broken
{
	my ($name, $first, $waits, %options) = @_;
	my $before = counted();
	$_->[0]->query("BEGIN; $_->[1]") foreach @$first;
	foreach my $wait (@$waits)
	{
		my ($session, $sql) = @$wait;
		$session->send($sql);
		wait_until_queued($etcd, $session) unless $wait == $waits->[-1];
	}
	my $begin = time;
	my %left = map { $_->[0]->pid => $_->[0] } @$waits;
	my @others = grep { !$left{ $_->pid } } map { $_->[0] } @$first;
	my (@victims, $took, @failed);
	while (%left)
	{
		die "$name: nobody goes on" if time - $begin > 60;
		foreach my $session (grep { $_->done } values %left)
		{
			my $result = $session->result;
			if ($result->{sqlstate} eq '40P01')
			{
				$took //= time - $begin;
				push @victims, [ $session, $result ];
				$_->query('ROLLBACK; SELECT etcd_unlock_all()') foreach @others;
			}
			elsif ($result->{sqlstate} ne '') { push @failed, $result->{err} }
			delete $left{ $session->pid };
			$session->query('ROLLBACK; SELECT etcd_unlock_all()');
		}
		sleep 0.005;
	}
	is(scalar @victims, 1, "$name: one session is ended");
	is_deeply(\@failed, [], "$name: all others go on");
	my $late = sprintf '%.2f s', $took // -1;
	# On a busy machine what is bounded is what is waited for.
	cmp_ok($took // 99, '<', $bound + 10, "$name: in time");
	diag sprintf '%-50s %s%s', "$name:", $late, ($took // 0) > $bound ? ' (late)' : '';
	is(counted() - $before, 1, "$name: it is counted");
	my $victim = $options{victim} // $waits->[-1][0];
	is($victims[0][0]->pid, $victim->pid, "$name: the youngest wait is ended")
	  if @victims && !$options{any};
	return @victims ? $victims[0][1] : {};
}

my ($on_a, $on_b, $on_c) = map { session($_) } $a, $b, $c;
my ($on_a2, $on_b2, $on_c2) = map { session($_) } $a, $b, $c;

# Two servers.
my $offset = -s $b->logfile;
my $result = is_broken('two servers',
	[ [ $on_a, "SELECT etcd_lock('/1')" ], [ $on_b, "SELECT etcd_lock('/2')" ] ],
	[ [ $on_a, "SELECT etcd_lock('/2')" ], [ $on_b, "SELECT etcd_lock('/1')" ] ]);
my ($pid_a, $pid_b) = ($on_a->pid, $on_b->pid);
like($result->{err}, qr/ERROR:  40P01: deadlock detected/, 'the message is core\'s');
like(
	$result->{err},
	qr{DETAIL:  Process $pid_b of server "b" waits for ExclusiveLock on etcd lock "/1"; blocked by process $pid_a of server "a"\.
Process $pid_a of server "a" waits for ExclusiveLock on etcd lock "/2"; blocked by process $pid_b of server "b"\.},
	'DETAIL tells the path');
like($result->{err}, qr/HINT:  See server log for query details\./, 'HINT is core\'s');
like($result->{err}, qr{CONTEXT:  while waiting for etcd lock "/1"}, 'CONTEXT names the lock');
unlike($result->{err}, qr/Process \d+: SELECT/, 'no query is told to the client');
is_logged($b, $offset, qr/Process $pid_b: SELECT etcd_lock\('\/1'\)/, 'but the log has it');

# The kinds of locks.
is_broken('transaction locks',
	[ [ $on_a, "SELECT etcd_xact_lock('/1')" ], [ $on_b, "SELECT etcd_xact_lock('/2')" ] ],
	[ [ $on_a, "SELECT etcd_xact_lock('/2')" ], [ $on_b, "SELECT etcd_xact_lock('/1')" ] ]);
is_broken('shared locks in the way',
	[ [ $on_a, "SELECT etcd_lock_shared('/1')" ], [ $on_b, "SELECT etcd_lock_shared('/2')" ] ],
	[ [ $on_a, "SELECT etcd_lock('/2')" ], [ $on_b, "SELECT etcd_lock('/1')" ] ]);
is_broken('one of several who share',
	[
		[ $on_a, "SELECT etcd_lock('/1')" ],
		[ $on_c, "SELECT etcd_lock_shared('/2')" ],
		[ $on_b2, "SELECT etcd_lock_shared('/2')" ],
		[ $on_b, "SELECT etcd_lock_shared('/2')" ]
	],
	[ [ $on_a, "SELECT etcd_lock('/2')" ], [ $on_b, "SELECT etcd_lock_shared('/1')" ] ]);
is_broken('waiting to share',
	[ [ $on_a, "SELECT etcd_lock('/1')" ], [ $on_b, "SELECT etcd_lock('/2')" ] ],
	[ [ $on_a, "SELECT etcd_lock_shared('/2')" ], [ $on_b, "SELECT etcd_lock_shared('/1')" ] ]);
is_broken('integer keys',
	[ [ $on_a, 'SELECT etcd_lock(1)' ], [ $on_b, 'SELECT etcd_lock(1, 2)' ] ],
	[ [ $on_a, 'SELECT etcd_lock(1, 2)' ], [ $on_b, 'SELECT etcd_lock(1)' ] ]);
is_broken('drop-in functions',
	[
		[ $on_a, 'SELECT etcd_advisory.pg_advisory_lock(1)' ],
		[ $on_b, 'SELECT etcd_advisory.pg_advisory_xact_lock(2)' ]
	],
	[
		[ $on_a, 'SELECT etcd_advisory.pg_advisory_xact_lock(2)' ],
		[ $on_b, 'SELECT etcd_advisory.pg_advisory_lock(1)' ]
	]);
is_broken('an upgrade',
	[
		[ $on_a, "SELECT etcd_lock('/2'), etcd_lock_shared('/1')" ],
		[ $on_b, "SELECT etcd_lock_shared('/1')" ]
	],
	[ [ $on_a, "SELECT etcd_lock('/1')" ], [ $on_b, "SELECT etcd_lock('/2')" ] ]);
is_broken('a wait with an end',
	[ [ $on_a, "SELECT etcd_try_lock('/1')" ], [ $on_b, "SELECT etcd_try_xact_lock('/2')" ] ],
	[ [ $on_a, "SELECT etcd_lock('/2')" ], [ $on_b, "SELECT etcd_try_lock('/1', '1 min')" ] ]);
is_broken('etcd_lock_all()',
	[ [ $on_a, "SELECT etcd_lock('/2')" ], [ $on_b, "SELECT etcd_lock('/3')" ] ],
	[ [ $on_a, "SELECT etcd_lock('/3')" ], [ $on_b, "SELECT etcd_lock_all('/1', '/2')" ] ]);

# What is in between on a server.
$result = is_broken('a row',
	[
		[ $on_a, "UPDATE t SET v = v + 1 WHERE i = 1" ],
		[ $on_b, "SELECT etcd_lock('/1')" ],
		[ $on_a2, "SELECT etcd_lock('/2')" ]
	],
	[
		[ $on_a2, 'UPDATE t SET v = v + 1 WHERE i = 1' ],
		[ $on_b, "SELECT etcd_lock('/2')" ],
		[ $on_a, "SELECT etcd_lock('/1')" ]
	]);
my $pid_a2 = $on_a2->pid;
like(
	$result->{err},
	qr{Process $pid_b of server "b" waits for ExclusiveLock on etcd lock "/2"; blocked by process $pid_a2 of server "a"\.
Process $pid_a2 of server "a" waits for ShareLock on transaction \d+; blocked by process $pid_a of server "a"\.},
	'DETAIL tells of the row');
is_broken('a row, waited for last',
	[
		[ $on_a, "UPDATE t SET v = v + 1 WHERE i = 1" ],
		[ $on_b, "SELECT etcd_lock('/1')" ],
		[ $on_a2, "SELECT etcd_lock('/2')" ]
	],
	[
		[ $on_b, "SELECT etcd_lock('/2')" ],
		[ $on_a, "SELECT etcd_lock('/1')" ],
		[ $on_a2, 'UPDATE t SET v = v + 1 WHERE i = 1' ]
	],
	victim => $on_a);
is_broken('a table and an advisory lock',
	[
		[ $on_a, 'LOCK t IN SHARE MODE' ],
		[ $on_b, 'SELECT pg_advisory_xact_lock(77)' ],
		[ $on_a2, "SELECT etcd_lock('/1')" ],
		[ $on_b2, "SELECT etcd_lock('/2')" ]
	],
	[
		[ $on_a2, 'LOCK t' ],
		[ $on_b2, 'SELECT pg_advisory_xact_lock(77)' ],
		[ $on_a, "SELECT etcd_lock('/2')" ],
		[ $on_b, "SELECT etcd_lock('/1')" ]
	]);
is_broken('an etcd lock within the server',
	[
		[ $on_a, "SELECT etcd_lock('/3')" ],
		[ $on_a2, "SELECT etcd_lock('/1')" ],
		[ $on_b, "SELECT etcd_lock('/2')" ]
	],
	[
		[ $on_a2, "SELECT etcd_lock('/3')" ],
		[ $on_a, "SELECT etcd_lock('/2')" ],
		[ $on_b, "SELECT etcd_lock('/1')" ]
	]);

# More servers, and one that is a standby.
my @on = map { session($_) } @node;
foreach my $n (3, 5)
{
	is_broken("$n servers",
		[ map { [ $on[$_], "SELECT etcd_lock('/ring/$_')" ] } 0 .. $n - 1 ],
		[ map { my $next = ($_ + 1) % $n; [ $on[$_], "SELECT etcd_lock('/ring/$next')" ] } 0 .. $n - 1 ]);
}
my $on_standby = session($standby);
is_broken('a standby',
	[ [ $on_standby, "SELECT etcd_lock('/1')" ], [ $on_b, "SELECT etcd_lock('/2')" ] ],
	[ [ $on_standby, "SELECT etcd_lock('/2')" ], [ $on_b, "SELECT etcd_lock('/1')" ] ]);
is_broken('a standby is the victim',
	[ [ $on_standby, "SELECT etcd_lock('/1')" ], [ $on_b, "SELECT etcd_lock('/2')" ] ],
	[ [ $on_b, "SELECT etcd_lock('/1')" ], [ $on_standby, "SELECT etcd_lock('/2')" ] ]);

# C waits for B's key, and B for A's, which A's session shares; C does not wait for that
# one.  Between them is a foreign client, which all wait for, and which tells nobody.
{
	$on_a->query("BEGIN; SELECT etcd_xact_lock_shared('/f')");
	my $foreign = EtcdLockTest::EtcdctlLock->new($etcd, '/f');
	wait_until('etcdctl is in the queue', sub { (grep { m{^/f/} } $etcd->keys('')) == 2 });
	$on_c->query("SELECT etcd_lock('/1')");
	$on_b->send("SELECT etcd_lock('/f')");
	wait_until_queued($etcd, $on_b);
	$on_c->send("SELECT etcd_lock_shared('/f')");
	wait_until_queued($etcd, $on_c);
	is($on_a->try("SELECT etcd_lock('/1')")->{sqlstate}, '40P01', 'behind a foreign client: one session is ended');
	$on_a->query('ROLLBACK');
	wait_until('etcdctl has the lock', sub { $foreign->held });
	$foreign->release;
	foreach my $session ($on_b, $on_c)
	{
		is($session->result->{sqlstate}, '', 'behind a foreign client: the others go on');
		$session->query('SELECT etcd_unlock_all()');
	}
}

# A wait without a transaction.
$on_a->query("SELECT etcd_lock('/1')");
$on_b->query("SELECT etcd_lock('/2')");
$on_a->send("CALL etcd_lock_wait('/2')");
wait_until_queued($etcd, $on_a);
is($on_b->try("CALL etcd_lock_wait('/1')")->{sqlstate}, '40P01', 'CALL: one session is ended');
$on_b->query('SELECT etcd_unlock_all()');
is($on_a->result->{sqlstate}, '', 'CALL: the other one goes on');
$on_a->query('SELECT etcd_unlock_all()');

is_left_clean($etcd, @node, $standby);
ok(!(grep { m{/deadlock/} } $etcd->keys('')), 'no message is left');
$standby->stop;
finish($etcd, @node);
