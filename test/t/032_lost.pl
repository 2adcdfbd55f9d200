# More about lost locks: which value of a setting counts, what the session is told, how
# others see it, and what a server shows of its locks' names.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Wire;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = map {
	start_server(
		$_,
		endpoints => $etcd->endpoint,
		init => { allows_streaming => 'logical' },
		conf => "etcd_lock.lease_ttl = '60s'")
} qw(here there);
$_->safe_psql('postgres', 'CREATE TABLE t (v text)') foreach $here, $there;
my $control = session($here);
my $other = session($there);

# Take a lock away from the session that has it on the one server, by the other.
sub break_lock
{
	my ($name) = @_;
	is( $other->query("SELECT etcd_lock_break('$name', create_revision << 20) "
			  . "FROM etcd_lock_queue('$name') WHERE granted"),
		't', "$name is broken");
	wait_until("the loss of $name is known",
		sub { $control->query("SELECT count(*) FROM etcd_locks WHERE name = '$name' AND NOT lost") eq '0' });
	return;
}

sub sleep_in
{
	my ($session) = @_;
	my $pid = $session->pid;
	$session->send('SELECT pg_sleep(60)');
	wait_until('it sleeps',
		sub { $control->query("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'PgSleep' });
	return;
}

# One after the other, whatever becomes of it.
sub part
{
	my ($name, $test) = @_;
	subtest $name => sub { eval { $test->(); 1 } or fail("$name: $@") };
	return;
}

sub is_alive { my ($session) = @_; return $session->try('SELECT 1')->{out} eq '1' }

part 'on_loss is what it is when the lock is lost' => sub {
	my $session = session($here);
	$session->query("SELECT etcd_lock('/a'); SET etcd_lock.on_loss = terminate");
	break_lock('/a');
	wait_until('the session ends', sub { !is_alive($session) });
	pass('on_loss: terminate, set behind the lock');

	$session = session($here);
	$session->query("SET etcd_lock.on_loss = terminate; SELECT etcd_lock('/a'); SET etcd_lock.on_loss = warn");
	break_lock('/a');
	ok(is_alive($session), 'on_loss: warn, set behind the lock');
	$session->query('SELECT etcd_unlock_all(); SET etcd_lock.on_loss = cancel');

	$session->query("SELECT etcd_lock('/a'); BEGIN; SET LOCAL etcd_lock.on_loss = terminate; COMMIT");
	break_lock('/a');
	ok(is_alive($session), 'on_loss: terminate, for a transaction that has ended');
	$session->query('SELECT etcd_unlock_all()');
	$session->query("ALTER ROLE CURRENT_USER SET etcd_lock.on_loss = terminate");
	my $second = session($here);
	$control->query("ALTER ROLE CURRENT_USER RESET etcd_lock.on_loss");
	$second->query("SELECT etcd_lock('/a')");
	break_lock('/a');
	wait_until('the session ends', sub { !is_alive($second) });
	pass('on_loss: terminate, of the role');
	$session->quit;
};

# All processes read the server's configuration, also those that can hold no lock.
part 'on_loss of the server' => sub {
	my $session = session($here);
	$session->query("SELECT etcd_lock('/a')");
	foreach my $value (qw(warn cancel terminate))
	{
		$control->query("ALTER SYSTEM SET etcd_lock.on_loss = $value");
		$control->query('SELECT pg_reload_conf()');
		wait_until("a session has $value",
			sub { $control->query('SHOW etcd_lock.on_loss') eq $value });
		$session->query('SELECT 1');
		sleep 0.5;
		is($control->query("SELECT count(*) FROM etcd_locks, etcd_lock_status() WHERE name = '/a'"),
			1, "on_loss = $value: views");
		is($control->query("SELECT etcd_try_lock('/$_'), etcd_unlock('/$_')"), 't|t', "on_loss = $value: locks")
		  foreach 1 .. 300;
	}
	break_lock('/a');
	wait_until('the session ends', sub { !is_alive($session) });
	pass('on_loss: terminate, after a reload');
	$control->query('ALTER SYSTEM RESET etcd_lock.on_loss');
	$control->query('SELECT pg_reload_conf()');
	wait_until('the default', sub { $control->query('SHOW etcd_lock.on_loss') eq 'cancel' });
};

# The session is told which lock it was, and who has broken it.
foreach my $by ('another server', 'the same server')
{
	part "told, broken by $by" => sub {
		my $breaker = $by eq 'another server' ? $other : $control;
		my $break = sub {
			is( $breaker->query("SELECT etcd_lock_break('/named', create_revision << 20) "
					  . "FROM etcd_lock_queue('/named') WHERE granted"),
				't', "broken by $by");
		};
		my $pid = $breaker->pid;
		my $name = qr/etcd lock "\/named"/;
		my $who = $by eq 'another server'
		  ? qr/broken by user "\w+" on server "there" \(process $pid\)/
		  : qr/broken by user "\w+" on this server \(process $pid\)/;
		my $session = EtcdLockTest::Wire->new($here);

		$session->query("SELECT etcd_lock('/named')");
		sleep_in($session);
		$break->();
		my $result = $session->result;
		is($result->{sqlstate}, '57014', "$by, cancel");
		like($result->{err}, $name, "$by, cancel: names the lock");
		like($result->{err}, $who, "$by, cancel: names who has broken it");
		like($session->try("INSERT INTO t VALUES ('x')")->{err}, $who, "$by: so does the refusal of a change");
		$session->query('SELECT etcd_unlock_all()');

		$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/named'); BEGIN; INSERT INTO t VALUES ('x')");
		$break->();
		wait_until('lost', sub { $control->query("SELECT lost FROM etcd_locks WHERE name = '/named'") eq 't' });
		$result = $session->try('COMMIT');
		is($result->{sqlstate}, 'EL002', "$by, COMMIT");
		like($result->{err}, $who, "$by, COMMIT: names who has broken it");
		$session->query("SELECT etcd_unlock_all(); SET etcd_lock.on_loss = terminate; SELECT etcd_lock('/named')");
		sleep_in($session);
		$break->();
		$result = $session->result;
		is($result->{sqlstate}, '57P01', "$by, terminate");
		like($result->{err}, qr/CONTEXT:  .*$name/, "$by, terminate: the error names the lock");
		like($result->{err}, $who, "$by, terminate: and who has broken it");

		# Idle.
		$session = EtcdLockTest::Wire->new($here);
		$session->query("SET etcd_lock.on_loss = terminate; SELECT etcd_lock('/named')");
		my $idle = $session->pid;
		$break->();
		wait_until('the session has ended',
			sub { $control->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $idle") eq '0' });
		$result = $session->try('SELECT 1');
		is($result->{sqlstate}, '57P01', "$by, terminate, idle");
		like($result->{err}, qr/WARNING:  EL001: $name was lost/, "$by, terminate, idle: names the lock");
		like($result->{err}, $who, "$by, terminate, idle: and who has broken it");
	};
}

# A hint says what releases the lock: the function of its mode, or the end of its transaction.
part 'hints' => sub {
	my $session = session($here);
	my %take = (
		exclusive => [ "SELECT etcd_lock('/hint')", qr/HINT:  Release it with etcd_unlock\(\), then / ],
		shared => [ "SELECT etcd_lock_shared('/hint')", qr/HINT:  Release it with etcd_unlock_shared\(\), then / ],
		transaction => [ "SELECT etcd_xact_lock('/hint')", qr/HINT:  Retry the transaction\./ ],
		both => [ "SELECT etcd_lock('/hint'), etcd_xact_lock('/hint')",
			qr/HINT:  Release it with etcd_unlock\(\), then / ]);
	foreach my $name (sort keys %take)
	{
		my ($take, $hint) = @{ $take{$name} };
		$session->query("BEGIN; $take");
		break_lock('/hint');
		my $result = $session->try($take);
		is($result->{sqlstate}, 'EL001', "$name: lost");
		like($result->{err}, $hint, "$name: the hint");
		$session->query('ROLLBACK; SELECT etcd_unlock_all()');
	}

	$session->query("SET etcd_lock.on_loss = warn");
	foreach my $unlock (qw(etcd_unlock etcd_unlock_shared))
	{
		my $take = $unlock =~ /shared/ ? 'etcd_lock_shared' : 'etcd_lock';
		$session->query("SELECT $take('/hint')");
		break_lock('/hint');
		like($session->try('SELECT 1')->{err}, qr/WARNING:.*HINT:  Release it with $unlock\(\)\./s,
			"$take, a transaction that reads: the hint");
		my $result = $session->try("INSERT INTO t VALUES ('hint')");
		is($result->{sqlstate}, 'EL002', "$take, one that writes");
		like($result->{err}, qr/HINT:  Release the lock with $unlock\(\), acquire it again, /, "$take, one that writes: the hint");
		$session->query('SELECT etcd_unlock_all()');
	}
	$session->quit;
};

# A lock that is lost is not granted, and nobody waits for it.
part 'a lost lock in etcd_locks' => sub {
	my $session = session($here);
	$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/seen')");
	is($control->query("SELECT granted, lost FROM etcd_locks WHERE name = '/seen'"), 't|f', 'held');
	break_lock('/seen');
	is($control->query("SELECT granted, lost, waitstart IS NULL FROM etcd_locks WHERE name = '/seen'"),
		'f|t|t', 'lost');
	$session->query('SELECT etcd_unlock_all()');
	$session->quit;
};

# A worker that applies what was replicated is idle in between.
part 'a worker that applies' => sub {
	my ($host, $port) = ($there->host, $there->port);
	$control->query(<<'SQL');
CREATE TABLE applied (v int);
CREATE FUNCTION lock_applied() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM public.etcd_lock('/applied'); RETURN new; END $$;
CREATE TRIGGER lock_applied BEFORE INSERT ON applied FOR EACH ROW EXECUTE FUNCTION lock_applied();
ALTER TABLE applied ENABLE ALWAYS TRIGGER lock_applied;
SQL
	$other->query('CREATE TABLE applied (v int); CREATE PUBLICATION applied FOR TABLE applied');
	$control->query("CREATE SUBSCRIPTION applied CONNECTION 'host=$host port=$port dbname=postgres' PUBLICATION applied");
	wait_until('it has caught up',
		sub { $control->query("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel") eq 't' });
	$other->query('INSERT INTO applied VALUES (1)');
	wait_until('applied', sub { $control->query('SELECT count(*) FROM applied') eq '1' });
	is($control->query("SELECT granted FROM etcd_locks WHERE name = '/applied'"),
		't', 'a worker that applies has taken a lock');

	my $worker = $control->query("SELECT pid FROM etcd_locks WHERE name = '/applied'");
	my $offset = -s $here->logfile;
	break_lock('/applied');
	sleep 0.5;
	is($control->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $worker"),
		1, 'idle, it is not cancelled');
	$other->query('INSERT INTO applied VALUES (2)');
	wait_until('applied again', sub { $control->query('SELECT count(*) FROM applied') eq '2' });
	my $log = slurp_file($here->logfile, $offset);
	unlike($log, qr/due to user request/, 'no user has requested anything');
	like($log, qr/ERROR: .*etcd lock "\/applied" was lost/, 'it ends with the true reason, and its successor applies');
	$control->query('DROP SUBSCRIPTION applied');
};

# 1,000 locks do not slow down what has none.  The processor's time counts, of the
# session that does the work, as other processes may have the processor meanwhile.
part 'subtransactions' => sub {
	my $subtransactions = <<'SQL' =~ s/\n/ /gr;
DO $$ BEGIN FOR i IN 1..20000 LOOP BEGIN PERFORM 1; EXCEPTION WHEN division_by_zero THEN END; END LOOP; END $$
SQL
	my @names = ('without', 'with 1,000 locks');
	my %session = map { $_ => session($here) } @names;
	$session{$names[1]}->query("SELECT count(etcd_lock('/many/' || g)) FROM generate_series(1, 1000) g");
	$_->query('SET client_min_messages = log; SET log_statement_stats = on') foreach values %session;

	my %least;
	foreach my $round (1 .. 7)
	{
		foreach my $name (@names)
		{
			my $statistics = $session{$name}->try($subtransactions)->{err};
			$statistics =~ m{([\d.]+) s user, ([\d.]+) s system} or die "no statistics: $statistics";
			my $seconds = $1 + $2;
			$least{$name} = $seconds if $seconds < ($least{$name} // $seconds + 1);
		}
	}
	diag '20,000 subtransactions: ' . join ', ', map { sprintf '%s %.3f s', $_, $least{$_} } @names;
	cmp_ok($least{$names[1]}, '<', 1.5 * $least{without}, '1,000 locks do not cost each subtransaction');
	foreach my $session (values %session)
	{
		$session->query('SELECT etcd_unlock_all()');
		$session->quit;
	}
};

# pg_locks shows everybody a number that tells nothing of the name, and no other name
# has the same.
part 'lock tags' => sub {
	my $session = session($here);
	my $tag = "SELECT string_agg(((classid::bigint << 32) | objid::bigint)::text, ' ' ORDER BY objid) "
	  . "FROM pg_locks WHERE locktype = 'advisory' AND pid = " . $session->pid;
	$session->query("SELECT etcd_lock('/secret'), etcd_lock_shared('/secret'), etcd_lock('/secret too')");
	my @first = split / /, $control->query($tag);
	is(scalar @first, 3, 'a tag for each lock');
	my %first = map { $_ => 1 } @first;
	is(scalar keys %first, 2, 'the same for both modes, and for no other name');
	my $hash = $control->query("SELECT hashtextextended('/secret', 0)");
	ok(!$first{$hash}, 'it is not the hash of the name');
	my $waiter = session($here);
	$waiter->send("SELECT etcd_lock('/secret')");
	wait_until_waiting($waiter);
	is($control->query('SELECT cardinality(pg_blocking_pids(' . $waiter->pid . '))'), 1, 'and they exclude each other by it');
	$session->query('SELECT etcd_unlock_all()');
	is($waiter->result->{sqlstate}, '', 'the next one has the lock');
	$waiter->query('SELECT etcd_unlock_all()');
	$waiter->quit;
	$session->query("SELECT etcd_lock('/secret')");
	my ($again) = split / /, $control->query($tag);
	ok(!$first{$again}, 'another time it is another number');
	$session->query('SELECT etcd_unlock_all()');
	$session->quit;
};

# The shortest lease survives a new worker.
part 'lease_ttl = 2s' => sub {
	my $session = session($here);
	$session->query("SELECT etcd_lock('/lease')");
	$here->append_conf('postgresql.conf', "etcd_lock.lease_ttl = '2s'");
	$here->reload;
	my $status = "SELECT lease FROM etcd_lock_status() WHERE state = 'ready'";
	my $old = $control->query($status);
	$etcd->revoke($etcd->lease_of('/lease'));
	wait_until('another lease',
		sub { my $new = $control->query($status); $new ne '' && $new ne $old });
	$session->query('SELECT etcd_unlock_all()');

	# A machine that stalls for a moment says nothing.
	my $held = 0;
	foreach (1 .. 3)
	{
		$session->query("SELECT etcd_unlock_all(); SELECT etcd_lock('/lease')");
		my $worker = worker_pid($here);
		$control->query("SELECT pg_terminate_backend($worker)");
		wait_until('another worker', sub { my $pid = worker_pid($here); $pid && $pid ne $worker });
		sleep 1.2;
		$held = $session->query("SELECT etcd_lock_check('/lease')") eq 't';
		last if $held;
	}
	ok($held, 'lease_ttl = 2s: a new worker keeps the lease');
	$session->query('SELECT etcd_unlock_all()');
	$session->quit;
};

is_left_clean($etcd, $here, $there);
$_->quit foreach $control, $other;
finish($etcd, $here, $there);
