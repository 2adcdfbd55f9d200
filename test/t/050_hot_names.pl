# Hot names: a lock that a server takes again and again stays with it, at no cost in
# etcd, and goes to others when they ask for it.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $here = start_server('here', endpoints => $proxy->url);
my $there = start_server('there', endpoints => $etcd->endpoint);
my $holder = session($here);
my $second = session($here);
my $other = session($there);

sub set
{
	my ($setting, $value) = @_;
	foreach my $node ($here, $there)
	{
		$node->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.$setting = '$value'");
		$node->reload;
	}
	foreach my $session ($holder, $other)
	{
		wait_until("$setting is $value",
			sub { $session->query("SHOW etcd_lock.$setting") eq $value });
	}
	return;
}

# Lock and unlock so many times, each in a transaction of its own.
sub loop
{
	my ($session, $name, $times, $mode) = @_;
	$mode //= '';
	$session->query(join ' ',
		("SELECT etcd_lock$mode('$name'); SELECT etcd_unlock$mode('$name');") x $times);
	return;
}

# The same until the server keeps the lock: on a busy machine the first rounds may be too
# far apart, and it takes a while until it knows that nobody else comes.  Returns the key.
sub heat
{
	my ($session, $name, $mode) = @_;
	wait_until(
		"$name is hot",
		sub {
			loop($session, $name, 5, $mode);
			my $before = stat_of($session->{node}, 'acquired_etcd');
			loop($session, $name, 5, $mode);
			return stat_of($session->{node}, 'acquired_etcd') == $before;
		});
	return (keys_of($name))[0];
}

# The server's keys of the lock.
sub keys_of
{
	my ($name) = @_;
	return grep { m{^\Q$name\E/(?:read|write)/} } $etcd->keys;
}

sub stat_of
{
	my ($node, $column) = @_;
	return $node->safe_psql('postgres', "SELECT $column FROM etcd_lock_stats");
}

# Nobody else asks.
set('keep_window', '10s');
$holder->query("SELECT etcd_lock('/cold')");
$holder->query("SELECT etcd_unlock('/cold')");
is(join(' ', keys_of('/cold')), '', 'a lock that is used once goes back to etcd');

like(heat($holder, '/hot'), qr{^/hot/write/[0-9a-f]+-\d+-keep10000$},
	'one that is used again and again is kept, as its key says');
my $requests = stat_of($here, 'requests');
my $acquired = stat_of($here, 'acquired_etcd');
loop($holder, '/hot', 300);
loop($second, '/hot', 300);
is(stat_of($here, 'acquired_etcd') - $acquired, 0, '600 times: not from etcd');
cmp_ok(stat_of($here, 'reused'), '>=', 600, '... but by a key that nobody used meanwhile');
is(stat_of($here, 'kept'), 1, 'one key is kept');
is($here->safe_psql('postgres', 'SELECT name, mode, pid IS NULL FROM etcd_locks'),
	'/hot|exclusive|t', '... as etcd_locks shows');
is($there->safe_psql('postgres', 'SELECT name, granted, kept FROM etcd_lock_queue()'),
	'/hot|t|t', '... and, on any server, etcd_lock_queue()');
cmp_ok(stat_of($here, 'requests') - $requests, '<', 100, '... and hardly a request to etcd');
my $token = $second->query("SELECT etcd_lock('/hot')");
cmp_ok($holder->query("SELECT etcd_lock_token('/hot') IS NULL") eq 't' && $token, '>', 0,
	'the lock itself is what it always is');
is($other->query("SELECT etcd_try_lock('/hot')"), 'f', 'a held lock is refused');
is($other->query("SELECT etcd_try_lock('/hot', wait => '1 s')"), 'f', '... also with a wait');
is($second->query("SELECT etcd_lock_check('/hot')"), 't', 'and etcd says so');
$second->query("SELECT etcd_unlock('/hot')");

# Others ask.
sub is_given
{
	my ($what, $ask) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $kept = heat($holder, '/give');
	my $given_up = stat_of($here, 'given_up');
	my $began = time;
	$ask->();
	cmp_ok(time - $began, '<', 5, "$what: long before the window ends");
	is(join(' ', grep { $_ eq $kept } keys_of('/give')), '', "$what: that key is gone");
	is(stat_of($here, 'given_up') - $given_up, 1, "$what: ... which is counted");
	$other->query('SELECT etcd_unlock_all()');
	wait_until('nobody has it', sub { !keys_of('/give') || grep { /keep/ } keys_of('/give') });
	return;
}

my $highest = $holder->query("SELECT etcd_lock('/give')");
$holder->query("SELECT etcd_unlock('/give')");
is_given('etcd_lock',
	sub {
		my $got = $other->query("SELECT etcd_lock('/give')");
		cmp_ok($got, '>', $highest, 'the token is higher');
	});
is_given('etcd_lock_shared', sub { $other->query("SELECT etcd_lock_shared('/give')") });
is_given('etcd_try_lock',
	sub { is($other->query("SELECT etcd_try_lock('/give')"), 't', 'a try gets it') });
is_given('etcd_try_lock_shared',
	sub { is($other->query("SELECT etcd_try_lock_shared('/give')"), 't', 'a try gets it') });
is_given('etcd_try_lock with a wait',
	sub {
		is($other->query("SELECT etcd_try_lock('/give', wait => '4s')"), 't',
			'a try that waits gets it');
	});
is_given('etcdctl lock',
	sub {
		my $lock = EtcdLockTest::EtcdctlLock->new($etcd, '/give');
		wait_until('etcdctl has the lock', sub { $lock->held });
		is($holder->query("SELECT etcd_try_lock('/give')"), 'f', 'and excludes us');
		$lock->release;
	});
is_given('etcd_try_once',
	sub {
		my $tick = '2026-01-01 00:00:00+00';
		is($other->query("BEGIN; SELECT etcd_try_once('/give', '$tick')"), 't',
			'a tick is claimed');
		is($other->query("COMMIT; SELECT etcd_try_once('/give', '$tick')"), 'f', '... once');
		is($holder->query("SELECT etcd_try_once('/give', '$tick')"), 'f',
			'... among all servers');
		$etcd->delete("/give" =~ s{^}{.etcd_lock/tick/}r);
	});

# Both modes.
like(heat($holder, '/both', '_shared'), qr{^/both/read/\S+-keep10000$}, 'shared keys are kept');
is($other->query("SELECT etcd_try_lock_shared('/both')"), 't', 'a kept shared key does not refuse sharers');
is(scalar(grep { /keep/ } keys_of('/both')), 1, '... and the key stays');
$other->query("SELECT etcd_unlock_shared('/both')");
is($holder->query("SELECT etcd_lock('/both') IS NOT NULL"), 't',
	'the other mode is asked of etcd');
is($other->query("SELECT etcd_try_lock_shared('/both')"), 'f', '... and excludes sharers');
$holder->query("SELECT etcd_unlock('/both')");

# A try that could only wait in a circle is refused, as of a cold name.
loop($_, '/circle', 5, '_shared') foreach $holder, $other;
$_->query("SELECT etcd_lock_shared('/circle')") foreach $holder, $other;
$holder->send("SELECT etcd_lock('/circle') > 0");
wait_until('the first one is queued', sub { keys_of('/circle') == 3 });
is(scalar(grep { /-keep/ } keys_of('/circle')), 3, 'two servers share a hot lock, and one waits for the rest');
is($other->try("SELECT etcd_try_lock('/circle')")->{out}, 'f', '... a try is refused');
$other->query("SELECT etcd_unlock_shared('/circle')");
is($holder->result->{out}, 't', '... and the one that waits gets it');
$holder->query('SELECT etcd_unlock_all()');

# A key that waits for a kept one does not refuse a try: nobody has the lock.
heat($holder, '/behind');
my $worker = worker_pid($here);
kill 'STOP', $worker;
my $lease = $etcd->grant(60);
$etcd->put('/behind/write/other', '', $lease);
$other->send("SELECT etcd_try_lock('/behind')");
wait_until('it has asked', sub { $other->done || keys_of('/behind') == 3 });
ok(!$other->done, 'behind a kept key: a try waits');
$etcd->revoke($lease);
kill 'CONT', $worker;
is($other->result->{out}, 't', '... and gets the lock');
$other->query('SELECT etcd_unlock_all()');

# While it is held, others wait, and get it.
heat($holder, '/wait');
$holder->query("SELECT etcd_lock('/wait')");
$other->send("SELECT etcd_lock('/wait')");
wait_until_waiting($other);
$holder->query("SELECT etcd_unlock('/wait')");
my $got = $other->result->{out};
cmp_ok($got, '>', 0, 'the waiter gets it when it is released');
$other->query("SELECT etcd_unlock('/wait')");

# Deleted by hand.
heat($holder, '/deleted');
my $log = -s $here->logfile;
$token = $holder->query("SELECT etcd_lock('/deleted')");
$holder->query("SELECT etcd_unlock('/deleted')");
$etcd->delete(keys_of('/deleted'));
is($other->query("SELECT etcd_try_lock('/deleted')"), 't', 'deleted by hand: it is free');
# What the watch shows may take a moment on a busy machine.
wait_until('this server knows', sub { $second->query("SELECT count(*) FROM etcd_locks WHERE name = '/deleted'") eq '0' });
$got = $holder->query("SELECT etcd_try_lock('/deleted')");
is($got, 'f', '... and this server knows that it no longer has it');
$other->query("SELECT etcd_unlock('/deleted')");
cmp_ok($holder->query("SELECT etcd_lock('/deleted')"), '>', $token, 'its tokens go on');
$holder->query("SELECT etcd_unlock('/deleted')");
unlike(PostgreSQL::Test::Utils::slurp_file($here->logfile, $log), qr/was lost/,
	'nobody has lost anything');

# It is the watch that tells, and not the next look at all keys.
my $soon = 0;
foreach my $round (1 .. 5)
{
	heat($holder, '/deleted');
	my $began = time;
	$etcd->delete(keys_of('/deleted'));
	wait_until('this server knows',
		sub { $second->query("SELECT count(*) FROM etcd_locks WHERE name = '/deleted'") eq '0' });
	$soon++ if time - $began < 0.5;
}
cmp_ok($soon, '>=', 4, 'this server knows it at once, four times of five');

# What other servers see: who asked for the key first says nothing of who has it now.
heat($holder, '/seen');
my $seen = "SELECT granted, kept, server IS NOT NULL, pid, since IS NULL FROM etcd_lock_queue('/seen')";
ok( eval {
		wait_until('nobody in particular has it',
			sub { loop($holder, '/seen', 20); $other->query($seen) eq 't|t|t||t' });
	},
	'a lock that goes from hand to hand is shown as nobody\'s');
$holder->query("SELECT etcd_lock('/seen')");
ok(eval { wait_until('its holder', sub { $other->query($seen) eq 't|t|t|' . $holder->pid . '|f' }) },
	'... unless a session has it for a while');
$holder->query("SELECT etcd_unlock('/seen')");
ok(eval { wait_until('nobody again', sub { $other->query($seen) eq 't|t|t||t' }) }, '... then not any more');

# Broken while it is only kept: nobody's lock.
heat($holder, '/break');
$log = -s $here->logfile;
$token = $holder->query("SELECT etcd_lock('/break')");
$holder->query("SELECT etcd_unlock('/break')");
is($holder->query("SELECT etcd_lock_break('/break', $token)"), 'f', 'nobody holds it with that token');
my $revision = $other->query(
	"SELECT create_revision << 20 FROM etcd_lock_queue('/break') WHERE kept");
is($other->query("SELECT etcd_lock_break('/break', $revision)"), 't', 'another server breaks it');
is($other->query("SELECT etcd_try_lock('/break')"), 't', '... and can have it');
wait_until('this server knows', sub { $second->query("SELECT count(*) FROM etcd_locks WHERE name = '/break'") eq '0' });
is($holder->query("SELECT etcd_try_lock('/break')"), 'f', '... alone');
$other->query("SELECT etcd_unlock('/break')");
unlike(PostgreSQL::Test::Utils::slurp_file($here->logfile, $log), qr/was lost/, '... and nobody has lost it');

# The stream of watches has gone silent, and sharers never leave the lock idle: nobody
# counts on being told any more.  They began before, so that the worker no longer has a
# look at the lock before it from when it was idle.
heat($holder, '/silent', '_shared');
$holder->query("SELECT etcd_lock_shared('/silent')");

# They take turns until then; exactly one of them has it in between.
my $last = $holder;

sub share_until
{
	my ($is_over) = @_;
	while (!$is_over->())
	{
		my $next = $last == $holder ? $second : $holder;
		# one that has to wait for the other server is given up
		$next->try("SELECT etcd_try_lock_shared('/silent', wait => '100ms')");
		$last->try("SELECT etcd_unlock_shared('/silent')");
		$last = $next;
	}
	return;
}

my $began_at = time;
share_until(sub { time - $began_at > 2 });
$proxy->rules({ path => '^/v3/watch$', name => 'silent', do => 'hold_answer' });
$other->send("SELECT etcd_lock('/silent') > 0");
my $limit = time + 8;
share_until(sub { time >= $limit || $other->done });
$_->try('SELECT etcd_unlock_all()') foreach $holder, $second;
cmp_ok(time, '<', $limit, 'sharers let in a waiter that the watch has missed');
is($other->result->{out}, 't', '... who has it');
cmp_ok($proxy->hits('silent'), '>', 0, '... and the watch was silent');
$other->query('SELECT etcd_unlock_all()');
$proxy->rules;
$proxy->reset;
wait_until('here is well again', sub { $holder->try("SELECT etcd_lock('/well')")->{sqlstate} eq '' });
$holder->query('SELECT etcd_unlock_all()');

# How it ends.
heat($holder, '/end');
$holder->query('DISCARD ALL');
is($other->query("SELECT etcd_try_lock('/end')"), 't', 'DISCARD ALL: to be had');
$other->query("SELECT etcd_unlock('/end')");
heat($second, '/end');
$second->quit;
is($other->query("SELECT etcd_try_lock('/end')"), 't', 'the session has ended: to be had');
$other->query("SELECT etcd_unlock('/end')");

set("keep_window", "200ms");
loop($holder, "/name$_", 5) foreach 1 .. 20;
ok(eval { wait_until('gone', sub { !grep { /keep/ } $etcd->keys }, 20) },
	'what nobody uses any more goes');
is_left_clean($etcd, $here, $there);

# One session on each of two servers, without a pause: each gets its share.
my $until = "clock_timestamp() + interval '4 seconds'";
my $do = <<"END";
CREATE OR REPLACE FUNCTION busy() RETURNS bigint LANGUAGE plpgsql AS \$\$
DECLARE
	until timestamptz := $until;
	n bigint := 0;
BEGIN
	WHILE clock_timestamp() < until LOOP
		PERFORM etcd_lock('/busy');
		PERFORM etcd_unlock('/busy');
		n := n + 1;
	END LOOP;
	RETURN n;
END \$\$
END
$_->safe_psql('postgres', $do) foreach $here, $there;
$_->send('SELECT busy()') foreach $holder, $other;
my @n = map { $_->result->{out} } $holder, $other;
note "one name, a session on each of two servers, 4 s: @n";
cmp_ok($n[0] < $n[1] ? $n[0] : $n[1], '>=', 0.2 * ($n[0] + $n[1]), 'each server has its share');

# Two servers take turns, and each asks again only long after its release: nobody waits for
# what will not come back in time.
set("keep_window", "10s");
my @turns = ($holder, $other);
$_->query('SET client_min_messages = debug1') foreach @turns;
$holder->query("SELECT etcd_lock('/turns')");
my ($kept, $given) = (0, 0);
foreach (1 .. 20)
{
	$turns[1]->send("SELECT etcd_lock('/turns')");
	wait_until_waiting($turns[1]);
	wait_until('both are in the queue', sub { keys_of('/turns') == 2 });
	my $told = $turns[0]->send("SELECT etcd_unlock('/turns')")->result->{err};
	$kept++ if $told =~ /key is kept for sessions here, for [1-9]\d* ms/;
	$given++ if $turns[1]->result->{sqlstate} eq '';
	@turns = reverse @turns;
	sleep 0.01;
}
is($given, 20, 'by turns: each gets it');
# The first one of each server has no gap behind it; a loaded machine may add one.
cmp_ok($kept, '<=', 4, 'by turns: no gap is kept that was longer than 3 ms the last time')
  or diag $kept;
$_->query('RESET client_min_messages; SELECT etcd_unlock_all()') foreach @turns;

# keep_window = 0.
heat($holder, '/off');
set("keep_window", "0");
loop($holder, '/off', 1);
is(join(' ', keys_of('/off')), '', 'keep_window = 0: what was kept goes with its next use');
loop($holder, '/never', 5);
is(join(' ', keys_of('/never')), '', '... and nothing is kept');
is_left_clean($etcd, $here, $there);

# A server that stops leaves nothing.
$here->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.keep_window = '10s'");
$here->reload;
wait_until('keep_window is 10s',
	sub { $holder->query('SHOW etcd_lock.keep_window') eq '10s' });
heat($holder, '/stop');
$holder->quit;
my $began = time;
$here->stop('fast');
is($other->query("SELECT etcd_try_lock('/stop')"), 't', 'a server that stops keeps nothing');

finish($etcd, $there);
