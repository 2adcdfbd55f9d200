# log_lock_waits: a wait for another server is logged, with who holds the lock, and
# again when the session has acquired it.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $here = start_server('here', endpoints => $proxy->url, conf => 'log_lock_waits = on');
my $there = start_server('there', endpoints => $etcd->endpoint, conf => "cluster_name = 'there'");
my ($waiter, $second, $far) = (session($here), session($here), session($there));
my $offset;

# What $here has logged of waits since $offset, and their details.
sub waits
{
	return grep { /still waiting|acquired|DETAIL/ } split /\n/,
	  slurp_file($here->logfile, $offset);
}

# Wait with a session, until something is logged.
sub wait_and_log
{
	my ($name, $session, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$offset = -s $here->logfile;
	$session->send($sql);
	wait_until("$name: a line in the log", sub { grep { /DETAIL/ } waits() });
	my ($line, $detail) = waits();
	return ($line, $detail);
}

sub still_waiting
{
	my ($pid, $mode, $name) = @_;
	return qr/LOG:  process $pid still waiting for $mode on etcd lock "\Q$name\E" after (\d+)\.\d{3} ms$/;
}

# Another server has it.
{
	my $name = 'another server';
	$far->query("SET application_name = 'boss'; SELECT etcd_lock('/w')");
	my ($line, $detail) = wait_and_log($name, $waiter, "SELECT etcd_lock('/w')");
	like($line, still_waiting($waiter->pid, 'ExclusiveLock', '/w'), "$name: who waits");
	my ($waited) = $line =~ /after (\d+)/;
	cmp_ok($waited, '>=', 200, "$name: after deadlock_timeout");
	cmp_ok($waited, '<', 5000, "$name: ... and soon after it") or diag($line);
	my $pid = $far->pid;
	my $port = $there->port;
	like($detail,
		qr/DETAIL:  Holder of the lock: server "there", host "[^"]+", port $port, process $pid, user "[^"]+", database "postgres", application "boss", since \d{4}-\S+ [^"]+\.$/,
		"$name: who holds it");
	sleep 1.2;
	is(scalar(my @lines = waits()), 2, "$name: logged once") or diag(join "\n", waits());
	$far->query("SELECT etcd_unlock('/w')");
	$waiter->result;
	wait_until("$name: the end is logged", sub { waits() == 3 });
	like((waits())[2],
		qr/LOG:  process ${\$waiter->pid} acquired ExclusiveLock on etcd lock "\/w" after \d+\.\d{3} ms$/,
		"$name: the end");
}

# Another server has it and has passed it on: who has it now.
{
	my $name = 'passed on';
	my $next = session($there);
	$there->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.handoff_window = '10s'");
	$there->reload;
	$there->poll_query_until('postgres', "SELECT current_setting('etcd_lock.handoff_window') = '10s'");
	$far->query("SELECT etcd_lock('/p')");
	$next->send("SELECT etcd_lock('/p')");
	wait_until_waiting($next);
	$far->query("SELECT etcd_unlock('/p')");
	$next->result;
	my ($entry) = $etcd->entries('/p/');
	wait_until("$name: etcd knows",
		sub { $etcd->keys(".etcd_lock/holder/$entry->{create_revision}/") });
	my ($line, $detail) = wait_and_log($name, $waiter, "SELECT etcd_lock('/p')");
	like($detail, qr/Holder of the lock: server "there", .*, process ${\$next->pid}, /,
		"$name: the session that has it now");
	$next->query("SELECT etcd_unlock('/p')");
	$waiter->result;
	$waiter->query("SELECT etcd_unlock('/p')");
	$next->quit;
	$there->safe_psql('postgres', 'ALTER SYSTEM RESET etcd_lock.handoff_window');
	$there->reload;
}

# Within the server PostgreSQL says it; the context has the name.
{
	$offset = -s $here->logfile;
	$second->send("SELECT etcd_lock('/w')");
	wait_until('a wait here is logged', sub { grep { /still waiting/ } waits() });
	like(slurp_file($here->logfile, $offset),
		qr/process ${\$second->pid} still waiting for ExclusiveLock on advisory lock .*\n.*DETAIL:  Process holding the lock: ${\$waiter->pid}\..*\n.*CONTEXT:  while waiting for etcd lock "\/w"/,
		'a wait here is PostgreSQL\'s, and has the name');
	$waiter->query("SELECT etcd_unlock('/w')");
	$second->result;
	$second->query("SELECT etcd_unlock('/w')");
}

# A client that does not say who it is, and others ahead, too.
{
	my $name = 'etcdctl';
	my $etcdctl = EtcdLockTest::EtcdctlLock->new($etcd, '/f');
	wait_until('etcdctl has the lock', sub { $etcdctl->held });
	$far->send("SELECT etcd_lock('/f')");
	wait_until('the other server queues', sub { $etcd->keys('/f/') == 2 });
	my ($line, $detail) = wait_and_log($name, $waiter, "SELECT etcd_lock_shared('/f')");
	like($line, still_waiting($waiter->pid, 'ShareLock', '/f'), "$name: who waits");
	my ($entry) = $etcd->entries('/f/');
	my $lease = sprintf '%x', $entry->{lease};
	like($detail,
		qr/DETAIL:  Holder of the lock: another client of etcd, key "\Q$entry->{key}\E", lease $lease\. Ahead in the queue: 2\.$/,
		"$name: what holds it");
	$etcdctl->release;
	$far->result;
	$far->query("SELECT etcd_unlock('/f')");
	$waiter->result;
	$waiter->query("SELECT etcd_unlock_shared('/f')");
}

# A value that is meant to look like more lines.
{
	my $lease = $etcd->call('/v3/lease/grant', { TTL => 60 })->{ID};
	$etcd->call('/v3/kv/put',
		{
			key => encode_base64('/evil/x', ''),
			value => encode_base64('{"server":"a\nFATAL:  x","host":"' . ('h' x 3000) . '","pid":1}', ''),
			lease => $lease
		});
	my ($line, $detail) = wait_and_log('a forged value', $waiter, "SELECT etcd_lock('/evil')");
	like($detail, qr/server "a\?FATAL:  x"/, 'a forged value stays one line');
	cmp_ok(length $detail, '<', 700, 'a forged value is cut');
	$etcd->revoke($lease);
	$waiter->result;
	$waiter->query("SELECT etcd_unlock('/evil')");
}

# A key with bytes that no text has, and very long.
{
	my $lease = $etcd->call('/v3/lease/grant', { TTL => 60 })->{ID};
	my $worker = worker_pid($here);
	foreach my $key ("/nul/x\0y", "/nul2/x\0" . 'y' x 1_000_000)
	{
		my ($name) = $key =~ m{^(/\w+)};
		$etcd->call('/v3/kv/put',
			{
				key => encode_base64($key, ''),
				value => encode_base64('{"server":"odd","pid":1}', ''),
				lease => $lease
			});
		my ($line, $detail) = wait_and_log("a key of $name", $waiter, "SELECT etcd_lock('$name')");
		like($detail, qr/server "odd"|another client of etcd|does not tell/, "$name: its key is asked for");
		$etcd->revoke($lease);
		$waiter->result;
		$waiter->query("SELECT etcd_unlock('$name')");
		$lease = $etcd->call('/v3/lease/grant', { TTL => 60 })->{ID};
	}
	is(worker_pid($here), $worker, '... the worker is the same');
	$etcd->revoke($lease);
}

# An integer key, and a name in a namespace.
{
	$far->query("SELECT etcd_lock(42); SET etcd_lock.namespace = 'ns/'; SELECT etcd_lock('/w')");
	my ($line) = wait_and_log('an integer key', $waiter, 'SELECT etcd_lock(42)');
	like($line, still_waiting($waiter->pid, 'ExclusiveLock', '42'), 'an integer key');
	($line) = wait_and_log('a namespace', $second,
		"SET etcd_lock.namespace = 'ns/'; SELECT etcd_lock('/w')");
	like($line, still_waiting($second->pid, 'ExclusiveLock', '/w'), 'a namespace');
	$far->query('SELECT etcd_unlock_all(); RESET etcd_lock.namespace');
	$_->result foreach $waiter, $second;
	$_->query('SELECT etcd_unlock_all(); RESET etcd_lock.namespace') foreach $waiter, $second;
}

# Etcd does not respond just then.
{
	$far->query("SELECT etcd_lock('/w')");
	$proxy->rules({ path => '/v3/kv/txn', body => encode_base64('.etcd_lock/holder/', ''), do => 'hold', name => 'held' });
	my ($line, $detail) = wait_and_log('no answer', $waiter, "SELECT etcd_lock('/w')");
	like($detail, qr/DETAIL:  Etcd does not tell who holds the lock\.$/, 'no answer: logged all the same');
	my ($waited) = $line =~ /after (\d+)/;
	cmp_ok($waited, '<', 4900, 'no answer: before request_timeout') or diag($line);
	is($proxy->hits('held'), 1, 'no answer: etcd was asked once') or diag($proxy->hits('held'));
	$proxy->rules;
	$far->query("SELECT etcd_unlock('/w')");
	$waiter->result;
	$waiter->query("SELECT etcd_unlock('/w')");
}

# Sharers here, and somebody else who came first: the newcomer waits for both.
{
	$waiter->query("SELECT etcd_lock_shared('/s')");
	$far->send("SELECT etcd_lock('/s')");
	wait_until('the other server queues', sub { $etcd->keys('/s/') == 2 });
	sleep 0.2;    # the handoff window ends
	my ($line, $detail) = wait_and_log('a draining key', $second, "SELECT etcd_lock_shared('/s')");
	like($line, still_waiting($second->pid, 'ShareLock', '/s'), 'a draining key: who waits');
	like($detail, qr/another server that waits for it exclusively comes first/,
		'a draining key: what for');
	$waiter->query("SELECT etcd_unlock_shared('/s')");
	$far->result;
	$far->query("SELECT etcd_unlock('/s')");
	$second->result;
	$second->query("SELECT etcd_unlock_shared('/s')");
}

# Not wanted, or not long enough: nothing.
{
	$offset = -s $here->logfile;
	$far->query("SELECT etcd_lock('/w'), etcd_lock('/q')");
	$waiter->query("SET log_lock_waits = off");
	$waiter->send("SELECT etcd_lock('/w')");
	$second->query("SET deadlock_timeout = '1 min'");
	is($second->query("SELECT etcd_try_lock('/q', wait => '600 ms')"),
		'f', 'a wait that is not long enough');
	$far->query('SELECT etcd_unlock_all()');
	$waiter->result;
	is(scalar(my @lines = waits()), 0, 'nothing is logged of either') or diag(join "\n", waits());
	$_->query('SELECT etcd_unlock_all()') foreach $waiter, $second;
}

is_left_clean($etcd, $here, $there);
$_->quit foreach $waiter, $second, $far;
finish($etcd, $here, $there);
