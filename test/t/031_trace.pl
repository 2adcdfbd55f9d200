# Debug messages report what becomes of a lock: a session's own locks at DEBUG1, and the
# server's keys, by the worker, at DEBUG2.  They follow one lock through two servers.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = map {
	start_server($_, endpoints => $etcd->endpoint,
		conf => "cluster_name = '$_'\nlog_min_messages = 'debug2'\n"
		  . "etcd_lock.handoff_window = '10s'")
} qw(here there);
my ($first, $second, $far) = (session($here), session($here), session($there));
$_->query("SET client_min_messages = 'debug1'") foreach $first, $second, $far;

# The steps of a lock among some lines, and their times in milliseconds.
sub steps
{
	my ($lock, $text) = @_;
	my (@steps, @times);

	foreach my $line (split /\n/, $text)
	{
		my ($step, $time) =
		  $line =~ /DEBUG:.* etcd lock(?:s| "\Q$lock\E"): (.*) \((\d+\.\d{3}) ms\)$/
		  or next;
		push @steps, $step;
		push @times, $time;
	}
	return (\@steps, \@times);
}

# What a session is told when it sends this.
sub told
{
	my ($session, $sql, $lock) = @_;
	return steps($lock, $session->send($sql)->result->{err});
}

# What a server's worker has logged about a lock.
sub worker_steps
{
	my ($node, $lock) = @_;
	my $worker = worker_pid($node);
	my ($steps) = steps($lock, join "\n", grep { /\[$worker\]/ } split /\n/, slurp_file($node->logfile));
	return join "\n", @$steps;
}

my ($steps, $times) = told($first, "SELECT etcd_lock('/t')", '/t');
my ($revision) = "@$steps" =~ /revision (\d+)/;
my $token = $revision << 20;
is_deeply(
	$steps,
	[
		'asked for, exclusive',
		"acquired PostgreSQL's lock on this server",
		'needs a key in etcd',
		"key is in etcd, revision $revision",
		"granted by etcd, token $token",
	],
	'a free lock');
is_deeply($times, [ sort { $a <=> $b } @$times ], 'a free lock: times rise');

# Another server comes, and then another session here.
$far->send("SELECT etcd_lock('/t')");
wait_until_waiting($far);
wait_until('the other server is in the queue', sub { $etcd->keys('/t/') == 2 });
$second->send("SELECT etcd_lock('/t')");
wait_until_waiting($second);
sleep 0.3;
($steps) = told($first, "SELECT etcd_unlock('/t')", '/t');
is(scalar @$steps, 2, 'passed on: two steps') or diag "@$steps";
like($steps->[0], qr/^released, held for \d+ ms$/, 'passed on: released');
like($steps->[1],
	qr/^key is kept for sessions here, for \d{4} ms at most$/,
	'passed on: the key stays');
($steps, $times) = steps('/t', $second->result->{err});
$token++;
is_deeply(
	$steps,
	[
		'asked for, exclusive',
		"waits for process ${\$first->pid} of this server",
		"acquired PostgreSQL's lock on this server",
		"key is in etcd, revision $revision",
		"granted within this server, token $token",
	],
	'passed on: to the session that waits here');
cmp_ok($times->[2], '>=', 300, 'passed on: when it had waited');

# It goes to the other server.
($steps) = told($second, "SELECT etcd_unlock('/t')", '/t');
shift @$steps;
is_deeply(
	$steps,
	[
		"key of revision $revision is to be deleted",
		'etcd confirmed the deletion of 1 key'
	],
	'handed over');
my $err = $far->result->{err};
($steps, $times) = steps('/t', $err);
my ($far_revision) = "@$steps" =~ /revision (\d+)/;
$token = $far_revision << 20;
is_deeply(
	$steps,
	[
		'asked for, exclusive',
		"acquired PostgreSQL's lock on this server",
		'needs a key in etcd',
		"key is in etcd, revision $far_revision",
		'waits for another server',
		"granted by etcd, token $token",
	],
	'handed over: to the other server');
like($err,
	qr/waits for another server.*\n.*DETAIL:  Holder of the lock: server "here", .*process ${\$first->pid}, /,
	'handed over: whom it waited for');
cmp_ok($times->[-1] - $times->[3], '>=', 300, 'handed over: when it had waited');

# A lock of the transaction: its end is told by the next statement.
told($far, "BEGIN; SELECT etcd_xact_lock('/x'); COMMIT", '/x');
my ($later) = steps('/x', $far->send("SELECT 1")->result->{err});
like("@$later",
	qr/^released, held for \d+ ms key of revision \d+ is to be deleted etcd confirmed the deletion of 1 key/,
	'transaction: its end');

# Not granted.
($steps) = told($second, "SELECT etcd_try_lock('/t')", '/t');
is($steps->[-1], 'not granted', 'try: refused');
($steps) = told($far, "SELECT etcd_unlock_all()", '/t');
like("@$steps", qr/released, held/, 'all unlocked');

# Several locks at once: one is free, the next one is held here, and the last one there.
$first->query("SELECT etcd_lock('/all/2')");
$far->query("SELECT etcd_lock('/all/3')");
$second->send("SELECT etcd_lock_all('/all/1', '/all/2', '/all/3')");
wait_until_waiting($second);
$first->query("SELECT etcd_unlock('/all/2')");
wait_until('several: it waits for the other server', sub { $etcd->keys('/all/3/') == 2 });
$far->query("SELECT etcd_unlock('/all/3')");
my $all = $second->result->{err};
($steps) = steps('/all/1', $all);
like(join("\n", @$steps), qr/^asked for, exclusive
acquired PostgreSQL's lock on this server
needs a key in etcd
key is in etcd, revision \d+
granted by etcd, token \d+$/m, 'several: a free one');
($steps) = steps('/all/2', $all);
like(join("\n", @$steps), qr/\Aasked for, exclusive
not granted
asked for, exclusive
waits for process ${\$first->pid} of this server
acquired PostgreSQL's lock on this server\n/, 'several: one that is held here');
$second->query("SELECT etcd_unlock_all()");

# A try that is dropped, because the one before it is refused.
$far->query("SELECT etcd_lock('/all/1')");
$second->query("SET lock_timeout = '100ms'");
($steps) = steps('/all/4',
	$second->send("SELECT etcd_lock_all('/all/1', '/all/4')")->result->{err});
my $dropped = join "\n", @$steps;
like($dropped, qr/\Aasked for, exclusive\nacquired PostgreSQL's lock on this server\n/,
	'several: tried together');
like($dropped, qr/^not granted$/m, 'several: dropped');
$second->query("RESET lock_timeout");
$far->query("SELECT etcd_unlock_all()");

# The same by the workers.
wait_until('workers: the last key is gone',
	sub { worker_steps($there, '/t') =~ /of revision $far_revision is gone/ });
is(worker_steps($there, '/t'), <<END =~ s/\n\z//r, 'worker of the other server');
key is sent to etcd
key is in etcd, revision $far_revision
waits behind 1 key
key of revision $far_revision is granted to this server
key of revision $far_revision is gone from etcd
END
like(worker_steps($here, '/t'), qr/\A\Qkey is sent to etcd
key is in etcd, revision $revision
key of revision $revision is granted to this server
key of revision $revision is gone from etcd\E$/m, 'worker here');

# Nobody is told who has not asked.
$first->query("RESET client_min_messages");
my $result = $first->send("SELECT etcd_lock('/t'); SELECT etcd_unlock('/t')")->result;
is($result->{err}, '', 'off: nothing is said');

finish($etcd, $here, $there);
