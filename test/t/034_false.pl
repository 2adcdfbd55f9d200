# "false" says that somebody else has the lock, never that nobody could find out; and
# the error of a wait says who was in the way.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $conf = <<'END';
etcd_lock.lease_ttl = '60s'
etcd_lock.connect_timeout = '30s'
etcd_lock.request_timeout = '2s'
END
my ($here, $there) =
  map { start_server($_, endpoints => $etcd->endpoint, conf => "$conf\ncluster_name = '$_'") }
  qw(here there);
$here->safe_psql('postgres',
	'CREATE ROLE app LOGIN; GRANT EXECUTE ON FUNCTION etcd_try_lock(text, text) TO app');
my ($holder, $other) = (session($there), session($there));
my ($first, $second, $third) = map { session($here) } 1 .. 3;

sub detail
{
	my ($result) = @_;
	return $result->{err} =~ /^DETAIL:\s+(.*)$/m ? $1 : '';
}

sub is_error
{
	my ($result, $sqlstate, $message, $detail, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($result->{sqlstate}, $sqlstate, $name);
	like($result->{err}, $message, "$name: why");
	like(detail($result), $detail, "$name: DETAIL");
	return;
}

# Who holds the lock.
{
	my $time = qr/\d{4}-\d\d-\d\d [\d:.]+\S* ?\w*/;
	my $who = sub {
		my ($session) = @_;
		my $pid = $session->pid;
		return qr/process $pid, user "\w+", database "postgres", application "[^"]*", since $time\./;
	};
	my $there_holds = do {
		my $by = $who->($holder);
		qr/^Holder of the lock: server "there", host "[^"]*", port \d+, $by/;
	};
	my $here_holds = do {
		my $by = $who->($first);
		qr/^Holder of the lock: this server, $by$/;
	};
	my $lock = "SELECT etcd_lock('/held')";
	my $timeout = "SET lock_timeout = '400ms'; $lock";
	my $call = "CALL etcd_lock_wait('/held', wait => '400ms')";

	$holder->query($lock);
	is($first->query("SELECT etcd_try_lock('/held')"), 'f', 'held elsewhere: false');
	is($first->query("SELECT etcd_try_lock('/held', '1 s')"), 'f', 'and after a wait');
	is_error($first->try($timeout), '55P03', qr/lock timeout/, $there_holds, 'lock_timeout');
	is_error($first->try("RESET lock_timeout; $call"), '55P03', qr/in time/, $there_holds, 'CALL with a wait');
	# The answer is to come within 60 ms, which a busy machine may miss.
	my $result;
	foreach (1 .. 20)
	{
		$result = $first->try("SET lock_timeout = '60ms'; $lock");
		last if detail($result) =~ $there_holds;
	}
	is_error($result, '55P03', qr/lock timeout/, $there_holds, 'lock_timeout that is short');
	is_error($first->try("SELECT etcd_try_lock('/held', '5 s')"),
		'55P03', qr/lock timeout/, $there_holds, 'lock_timeout before the wait has ended');
	is_error(
		$first->try("RESET lock_timeout; CALL etcd_lock_wait('/held', '0')"),
		'55P03', qr/in time/, qr/./, 'CALL that does not wait');

	# Behind another session of this server.
	$second->send($lock);
	wait_until_waiting($second);
	my $pid = $second->pid;
	is_error($first->try($timeout), '55P03', qr/lock timeout/,
		qr/^Process $pid of this server waits for it, too, and comes first\. Holder of the lock: server "there"/,
		'lock_timeout behind a session of this server');
	is($third->query("SELECT etcd_try_lock('/held')"), 'f', 'false behind it');
	is($third->query("SELECT etcd_try_lock('/held', '1 s')"), 'f', 'and after a wait');

	# On this server.
	$holder->query("SELECT etcd_unlock_all()");
	is($second->result->{sqlstate}, '', 'its turn');
	$second->query('SELECT etcd_unlock_all()');
	$first->query("RESET lock_timeout; $lock");
	is_error($second->try($timeout), '55P03', qr/lock timeout/, $here_holds, 'held here');
	is_error($second->try("RESET lock_timeout; $call"),
		'55P03', qr/in time/, $here_holds, 'held here, CALL');
	is_error(
		$holder->try($timeout), '55P03', qr/lock timeout/,
		qr/^Holder of the lock: server "here"/, 'held here, seen from there');
	$holder->query('RESET lock_timeout');

	# By pg_advisory_lock().
	$first->query('SELECT etcd_unlock_all(), pg_advisory_lock(7)');
	is($second->query('SELECT etcd_try_lock(7)'), 'f', 'held by pg_advisory_lock()');
	is_error(
		$second->try("SET lock_timeout = '100ms'; SELECT etcd_lock(7)"),
		'55P03', qr/lock timeout/, qr/pg_advisory_lock|PostgreSQL's advisory lock/,
		'held by pg_advisory_lock()');
	$second->query('RESET lock_timeout');
	$first->query('SELECT pg_advisory_unlock(7)');

	# By somebody who does not say who it is.
	my $client = EtcdLockTest::EtcdctlLock->new($etcd, '/held');
	wait_until('etcdctl has it', sub { $client->held });
	is_error($first->try($timeout), '55P03', qr/lock timeout/,
		qr{^Holder of the lock: another client of etcd, key "/held/}, 'held by etcdctl lock');
	$client->release;
	$first->query('RESET lock_timeout');
}

# How often the session's process has slept.
sub switches
{
	my ($session) = @_;
	my ($n) = PostgreSQL::Test::Utils::slurp_file('/proc/' . $session->pid . '/status') =~
	  /^voluntary_ctxt_switches:\s*(\d+)/m;
	return $n;
}

# Etcd does not respond.
sub no_answer
{
	my ($name, $link) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $sql (
		"SELECT etcd_try_lock('/new', '500 ms')",
		"SELECT etcd_try_lock_shared('/new', '500 ms')",
		"SELECT etcd_try_xact_lock(1, wait => '500 ms')")
	{
		# One asks etcd, the others wait for it.
		my @sessions = ($first, $second, $third);
		$_->send($sql) foreach @sessions;
		foreach my $session (@sessions)
		{
			my $result = $session->result;
			is("$result->{out}|$result->{sqlstate}", '|08006', "$name: $sql");
			like($result->{err}, qr/(reach|from) etcd within 500 ms/, 'within that time');
			cmp_ok($result->{elapsed}, '<', 1.9, 'and not later, as after request_timeout');
		}
	}

	# The second session gets PostgreSQL's lock when the first one gives up, and its time
	# does not begin again.
	$first->send("SELECT etcd_try_lock('/new')");
	sleep 0.3;
	$second->send("SELECT etcd_try_lock('/new')");
	foreach my $session ($first, $second)
	{
		my $result = $session->result;
		is("$result->{out}|$result->{sqlstate}", '|08006', "$name: a plain try");
		like($result->{err}, qr/within 2000 ms/, 'within request_timeout');
		cmp_ok($result->{elapsed}, '<', 3.5, 'and not later');
	}

	# Each look at an integer key goes through all of PostgreSQL's locks.
	my $switches = switches($second);
	$first->send('SELECT etcd_try_lock(2)');
	sleep 0.1;
	$second->send('SELECT etcd_try_lock(2)');
	is($_->result->{sqlstate}, '08006', "$name: a plain try of an integer key") foreach $first, $second;
	cmp_ok(switches($second) - $switches, '<', 300, 'does not look all the time');
	is_error($first->try("SET lock_timeout = '500ms'; SELECT etcd_lock('/new')"),
		'55P03', qr/lock timeout/, $link, "$name: lock_timeout");
	is_error(
		$first->try("RESET lock_timeout; CALL etcd_lock_wait('/new', '500ms')"),
		'55P03', qr/in time/, $link, "$name: CALL");

	# Where etcd is, not everybody is told.
	my $user = session($here, user => 'app');
	my $result = $user->try("SELECT etcd_try_lock('/new', '500 ms')");
	is("$result->{sqlstate}|" . (detail($result)), '08006|', "$name: a user without rights");
	$user->quit;

	# What PostgreSQL knows by itself.
	$first->query('SELECT pg_advisory_lock(8)');
	is($second->query('SELECT etcd_try_lock(8)'), 'f', "$name: held by pg_advisory_lock()");
	is($second->query("SELECT etcd_try_lock(8, wait => '1 s')"), 'f', 'and after a wait');
	$first->query('SELECT pg_advisory_unlock_all()');
	is($second->query("SELECT etcd_try_lock('/mine')"), 'f', "$name: held by a session here");
	return;
}

$holder->query("SELECT etcd_lock('/far')");
$other->query("SELECT etcd_try_lock('/far')");
my $mine = session($here);
$mine->query("SELECT etcd_lock('/mine')");

# What the worker knew before a try began says nothing about the lock now.
{
	$holder->query("SELECT etcd_lock('/stale')");
	$second->send("SELECT etcd_lock('/stale')");
	wait_until_waiting($second);
	wait_until('its place in the queue', sub { $etcd->keys('/stale/') == 2 });
	is($first->query('SELECT etcd_try_lock' . $_), 'f', "the worker looks: $_")
	  foreach "('/stale')", "_shared('/stale')", "('/stale', '100 ms')";

	my $worker = worker_pid($here);
	kill 'STOP', $worker;
	$holder->query("SELECT etcd_unlock('/stale')");
	foreach my $try ("('/stale')", "_shared('/stale')", "('/stale', '100 ms')")
	{
		my $result = $first->try("SELECT etcd_try_lock$try");
		is("$result->{out}|$result->{sqlstate}", '|08006', "the worker hangs: $try");
	}
	kill 'CONT', $worker;
	is($second->result->{sqlstate}, '', 'its turn');
	$second->query('SELECT etcd_unlock_all()');
}

# Over a slow network: nobody waits for longer because others ask meanwhile, and what a put
# shows counts only for those that began before it was sent.
{
	my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
	my $far = start_server('far', endpoints => $proxy->url, conf => "$conf\netcd_lock.keep_window = '10s'");
	my ($waiter, @triers) = map { session($far) } 0 .. 2;
	my $read = '^(?!.*(?:put|delete))';

	$holder->query("SELECT etcd_lock('/often')");
	$waiter->send("SELECT etcd_lock_shared('/often')");
	wait_until_waiting($waiter);
	wait_until('its place in the queue', sub { $etcd->keys('/often/') == 2 });
	$proxy->rules({ path => '^/v3/kv/', body => $read, do => 'delay_answer', ms => 250 });
	my @took;
	foreach (1 .. 5)
	{
		$triers[0]->send("SELECT etcd_try_lock_shared('/often')");
		sleep 0.1;
		$triers[1]->send("SELECT etcd_try_lock_shared('/often')");
		my @results = map { $_->result } @triers;
		is("$results[0]{out} $results[1]{out}", 'f f', 'one try while the read for another is in flight');
		push @took, $results[0]{elapsed};
	}
	my ($least) = sort { $a <=> $b } @took;
	cmp_ok($least, '<', 0.4, 'the first one does not wait for the second one');
	$proxy->rules;
	$holder->query("SELECT etcd_unlock('/often')");
	is($waiter->result->{sqlstate}, '', 'its turn');

	# A hot name is watched before its key is put, so that nothing is read after that.
	$waiter->query("SELECT etcd_lock('/hot'), etcd_unlock('/hot')") foreach 1 .. 4;
	$holder->query("SELECT etcd_lock('/hot')");
	$proxy->rules({ path => '^/v3/kv/', body => 'request_?put', name => 'put', do => 'delay', ms => 500, times => 1 });
	$waiter->send("SELECT etcd_lock('/hot')");
	wait_until('it is sent', sub { $proxy->hits('put') });
	my $result = $triers[0]->try("SELECT etcd_try_lock('/hot', '1500 ms')");
	is("$result->{out}|$result->{sqlstate}", 'f|', 'a wait that began after a put was sent');
	$holder->query("SELECT etcd_unlock('/hot')");
	is($waiter->result->{sqlstate}, '', 'its turn');
	# Nor does a wait with a limit go by what was known before: the one elsewhere for whom sharers
	# stood back is gone, and no watch has told it.
	my $control = session($there);
	$proxy->rules({ path => '^/v3/watch$', do => 'hold' });
	$waiter->query("SELECT etcd_lock_shared('/gone')");
	$other->send("SELECT etcd_lock('/gone')");
	wait_until_waiting($other);
	wait_until('its place in the queue', sub { $etcd->keys('/gone/') == 2 });
	wait_until('sharers stand back',
		sub { $triers[0]->query("SELECT etcd_try_lock_shared('/gone'), etcd_unlock_all()") =~ /^f/ });
	$control->query('SELECT pg_cancel_backend(' . $other->pid . ')');
	is($other->result->{sqlstate}, '57014', 'a waiter elsewhere is cancelled');
	wait_until('its key is gone', sub { $etcd->keys('/gone/') == 1 });
	$result = $triers[0]->try("SELECT etcd_try_lock_shared('/gone', '300 ms')");
	isnt($result->{out}, 'f', '... and nobody is in the way any more');
	is($triers[0]->query("SELECT etcd_try_lock_shared('/gone', '30 s')"), 't', '... so the lock can be had');
	$proxy->rules;
	$_->quit foreach $control, $waiter, @triers;
	$far->stop;
}

# Refused tries use up no serials: each number that a key's name had stays in etcd's index until
# the next compaction.
{
	my $try = "SELECT etcd_try_lock('/serials')";
	my $serial = sub {
		my ($key) = $etcd->keys('/serials/');
		my ($n) = $key =~ m{-(\d+)(?:-keep\d+)?$};
		return $n;
	};
	my $unlock = sub {
		$first->query("SELECT etcd_unlock('/serials')");
		wait_until('the lock is free', sub { $etcd->keys('/serials/') == 0 });
	};

	is($first->query($try), 't', 'a lock');
	my $number = $serial->();
	$unlock->();
	$holder->query("SELECT etcd_lock('/serials')");
	is($first->query($try), 'f', 'refused') foreach 1 .. 20;
	$holder->query("SELECT etcd_unlock('/serials')");
	is($first->query($try), 't', 'and had again');
	is($serial->(), $number, 'by a key with the same serial');
	$unlock->();
}

# What etcd has said of the queue is known, also when it falls silent then.
$first->send("SELECT etcd_try_lock('/far', '3 s')");
wait_until_waiting($first);
wait_until('its place in the queue', sub { $etcd->lock_keys >= 3 });
$etcd->pause;
is($first->result->{out}, 'f', 'a try in the queue of a held lock is refused');

my $link = qr/no link to etcd since \d{4}-|Etcd did not say in time/;
no_answer('etcd hangs', $link);
$etcd->resume;
wait_until_locks_work($first);
$etcd->kill9;
no_answer('etcd is away', qr/no link to etcd since \d{4}-/);
$etcd->start;
wait_until_locks_work($first);
is($first->query("SELECT etcd_try_lock('/far')"), 'f', 'etcd says who has it');
$_->query('SELECT etcd_unlock_all()') foreach $first, $holder, $mine;

# A server that never had a link.
my $alone = start_server('alone', endpoints => 'http://127.0.0.1:1', conf => $conf);
my $session = session($alone);
is_error($session->try("SET lock_timeout = '500ms'; SELECT etcd_lock('/new')"),
	'55P03', qr/lock timeout/, qr/no link to etcd since the server started/, 'never a link');
is($session->try("RESET lock_timeout; SELECT etcd_try_lock('/new')")->{sqlstate},
	'08006', 'never a link: a try');
$alone->stop;

is_left_clean($etcd, $here, $there);
$_->quit foreach $holder, $other, $first, $second, $third, $mine;
finish($etcd, $here, $there);
