# What the sessions of one role may use together: locks, waits, requests; a role never has
# more, and never has less because of a session that has ended, however it did.  And the
# few slots for views, claims and breaks go from role to role.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $here = start_server('here', endpoints => $proxy->url, conf => <<'END');
client_connection_check_interval = '100ms'
etcd_lock.keep_window = 0
etcd_lock.lease_ttl = '60s'
etcd_lock.request_timeout = '30s'
END
my $there = start_server('there', endpoints => $etcd->endpoint);
$here->safe_psql('postgres', <<'SQL');
CREATE ROLE locker;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO locker;
CREATE ROLE tenant LOGIN IN ROLE locker, pg_monitor;
CREATE ROLE neighbour LOGIN IN ROLE locker, pg_monitor;
SQL

sub set_for_tenant
{
	my ($setting, $value) = @_;
	$here->safe_psql('postgres', "ALTER ROLE tenant SET etcd_lock.$setting = $value");
	return;
}
sub tenants { my ($n) = @_; return map { session($here, user => 'tenant') } 1 .. $n }
sub quit { $_->quit foreach @_; return }

# How many of these sessions can have a lock of their own, all asking at once?  All others
# are told that it is the limit.
my $round = 0;
sub how_many_get_one
{
	my (@sessions) = @_;
	my $n = 0;
	$round++;
	$sessions[$_]->send("SELECT etcd_lock('/round$round/$_')") foreach 0 .. $#sessions;
	foreach my $session (@sessions)
	{
		my $result = $session->result;
		$n++, next if $result->{sqlstate} eq '';
		is($result->{sqlstate}, '53400', 'refused by the limit') or diag($result->{err});
	}
	$_->query('SELECT etcd_unlock_all()') foreach @sessions;
	return $n;
}

# ---- Locks ----
set_for_tenant(max_names_per_role => 5);
{
	my ($one, $other) = tenants(2);
	my $neighbour = session($here, user => 'neighbour');
	is($one->try('SET etcd_lock.max_names_per_role = 100')->{sqlstate}, '42501', 'names: a tenant does not raise it');
	$one->query("SELECT etcd_lock('/a' || i) FROM generate_series(1, 3) i");
	$other->query("BEGIN; SELECT etcd_xact_lock_shared('/a4'), etcd_xact_lock_shared('/b5')");
	foreach my $sql ("etcd_lock('/x')", "etcd_try_lock('/x')", "etcd_try_lock('/x', '1 s')", "etcd_lock_all('/a1', '/x')",
		"etcd_try_once('/x', now())", 'etcd_try_lock(1)', "etcd_lock_shared('/a1')")
	{
		my $result = $one->try("SELECT $sql");
		is($result->{sqlstate}, '53400', "names: one more is refused: $sql");
		like($result->{err}, qr/too many etcd locks of role "tenant".*DETAIL:.*5.*HINT:.*max_names_per_role/s, 'and said why');
	}
	is($one->try("CALL etcd_lock_wait('/x')")->{sqlstate}, '53400', 'names: CALL, too');
	is($one->query("SELECT etcd_lock('/a1') > 0"), 't', 'names: one that it has, again');
	is($neighbour->query("SELECT count(etcd_lock('/n' || i)) FROM generate_series(1, 9) i"), 9, "names: others' are not counted");
	is($here->safe_psql('postgres', "SELECT count(*) FROM etcd_locks WHERE usename = 'tenant'"), 5, 'names: of refused ones nothing is left');
	$other->query('COMMIT');
	is($one->query("SELECT etcd_try_lock('/x') AND etcd_try_lock('/y')"), 't', 'names: what ends with its transaction is free');
	is($other->try("SELECT etcd_try_lock('/z')")->{sqlstate}, '53400', 'names: and no more than that');
	quit($one, $other, $neighbour);
}

# However sessions end, with whatever they hold or wait for, the count is right.
{
	my @sessions = tenants(9);
	is(how_many_get_one(@sessions), 5, 'names: of nine at once five get one') foreach 1 .. 5;

	my $holder = session($here);
	$holder->query("SELECT etcd_lock('/held')");
	my %ends = (
		'a disconnect' => sub { $_[0]->kill },
		'a termination' => sub { $holder->query('SELECT pg_terminate_backend(' . $_[0]->pid . ', 60000)') },
		'a cancel' => sub { $holder->query('SELECT pg_cancel_backend(' . $_[0]->pid . ')') },
		'a timeout' => sub { });
	foreach my $end (sort keys %ends)
	{
		my ($session) = tenants(1);
		$session->query('SELECT etcd_lock(\'/mine\')');
		$session->query("SET lock_timeout = '100ms'") if $end eq 'a timeout';
		$session->send("SELECT etcd_lock('/held')");
		wait_until_waiting($session) unless $end eq 'a timeout';
		$ends{$end}->($session);
		$session->result unless $end eq 'a disconnect';
		$session->kill;
		wait_until("$end: the session is gone",
			sub { $here->safe_psql('postgres', "SELECT count(*) = 9 FROM pg_stat_activity WHERE usename = 'tenant'") eq 't' });
		is(how_many_get_one(@sessions), 5, "names: five, after $end");
	}
	quit(@sessions, $holder);
	is(how_many_get_one(@sessions = tenants(9)), 5, 'names: five for sessions that come later');

	# A crash: shared memory is made anew.
	$sessions[0]->query("SELECT etcd_lock('/a'), etcd_lock('/b')");
	$sessions[1]->send("SELECT etcd_lock('/a')");
	wait_until_waiting($sessions[1]);
	kill 'KILL', $sessions[2]->pid;
	$_->kill foreach @sessions;
	wait_until('the server is back', sub { ($here->psql('postgres', 'SELECT 1'))[0] == 0 });
	my $probe = session($here);
	wait_until_locks_work($probe);
	quit($probe);
	is(how_many_get_one(@sessions = tenants(9)), 5, 'names: five after a crash');
	quit(@sessions);
}
set_for_tenant(max_names_per_role => -1);

# ---- Waits ----
set_for_tenant(max_waiting_per_role => 2);
foreach my $where ('this server', 'another server')
{
	my $holder = session($where eq 'this server' ? $here : $there);
	$holder->query("SELECT etcd_lock('/w1'), etcd_lock('/w2')");
	my ($first, $second, $third) = my @sessions = tenants(3);
	is($first->try('SET etcd_lock.max_waiting_per_role = -1')->{sqlstate}, '42501', "waits, $where: a tenant does not raise it");
	$first->send("SELECT etcd_lock('/w1')");
	$second->send("SELECT etcd_lock_shared('/w2')");
	wait_until_waiting($first, $second);
	foreach my $sql ("SELECT etcd_lock('/w1')", "SELECT etcd_xact_lock('/w2')", "SELECT etcd_try_lock('/w1', '10 s')", "CALL etcd_lock_wait('/w1')",
		"SELECT etcd_lock_all('/w0', '/w1')")
	{
		my $result;

		# That the place in the tag's queue is had, and others are ahead in etcd, comes later:
		# until then the newcomer may be the second one, and the second one refused.
		wait_until(
			"waits, $where: $sql is refused",
			sub {
				$result = $third->try("SET lock_timeout = '5s'; $sql");
				if ($second->done)
				{
					$second->result;
					$second->send("SELECT etcd_lock_shared('/w2')");
					wait_until_waiting($second);
				}
				return $result->{sqlstate} eq '53400';
			});
		like($result->{err}, qr/too many sessions of role "tenant" wait.*DETAIL:.*2.*HINT:.*max_waiting_per_role/s, "waits, $where: said why: $sql");
	}
	is($third->query("SELECT etcd_try_lock('/w1')"), 'f', "waits, $where: who only tries is answered");
	is($third->query("SELECT etcd_lock('/w3') > 0 AND etcd_unlock('/w3')"), 't', "waits, $where: a free lock is no wait");
	is($third->query("SELECT count(*) FROM etcd_locks WHERE pid = pg_backend_pid()"), 0, "waits, $where: nothing is left of what was refused");

	# One gives up, whose place another one takes.
	$here->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $first->pid . ')');
	is($first->result->{sqlstate}, '57014', "waits, $where: one gives up");
	$third->query("SET lock_timeout = 0");
	$third->send("SELECT etcd_lock('/w1')");
	wait_until_waiting($third);
	$holder->query('SELECT etcd_unlock_all()');
	like($_->result->{out}, qr/^\d+$/, "waits, $where: who waits gets the lock") foreach $second, $third;
	$_->query('SELECT etcd_unlock_all()') foreach $second, $third;

	# Granted ones wait no more.
	$holder->query("SELECT etcd_lock('/w1')");
	$second->send("SELECT etcd_lock('/w1')");
	$third->send("SELECT etcd_lock('/w1')");
	wait_until_waiting($second, $third);
	pass("waits, $where: two may wait again");
	quit($holder);
	my @others = ($second, $third);
	wait_until("waits, $where: one has it", sub { grep { $_->done } @others });
	foreach (@others) { $_->done or next; $_->result; $_->query('SELECT etcd_unlock_all()') }
	foreach (@others) { defined $_->{sql} or next; $_->result; $_->query('SELECT etcd_unlock_all()') }
	quit(@sessions);
}
set_for_tenant(max_waiting_per_role => 0);
{
	my ($session) = tenants(1);
	my $holder = session($there);
	$holder->query("SELECT etcd_lock('/w1')");
	is($session->query("SELECT etcd_lock('/w2') > 0"), 't', 'waits, none allowed: a free lock');
	is($session->try("SELECT etcd_lock('/w1')")->{sqlstate}, '53400', 'waits, none allowed: one that another server has');
	is($session->query("SELECT etcd_try_lock('/w1')"), 'f', 'waits, none allowed: a try');
	$_->query('SELECT etcd_unlock_all()') foreach $session, $holder;
	quit($session, $holder);
}
set_for_tenant(max_waiting_per_role => -1);

# ---- Requests ----
# Each takes so long at least; seconds.
my $delay = 0.3;
sub slowly
{
	my ($path, $seconds) = @_;
	$proxy->rules({ path => $path, do => 'delay_answer', ms => 1000 * ($seconds // $delay) });
	return;
}

is($here->safe_psql('postgres', "SELECT etcd_lock('/x'), etcd_unlock('/x')") =~ /t$/ ? 1 : 0, 1, 'requests: locks work');
{
	my ($ret, $out, $err) = $here->psql('postgres', 'ALTER ROLE tenant SET etcd_lock.max_requests_per_role = 0');
	like($err, qr/DETAIL:.*at least 1/, 'requests: not none');
}
set_for_tenant(max_requests_per_role => 2);
{
	my @sessions = tenants(8);
	my $neighbour = session($here, user => 'neighbour');
	is($sessions[0]->try('SET etcd_lock.max_requests_per_role = 100')->{sqlstate}, '42501', 'requests: a tenant does not raise it');
	foreach my $function ('etcd_lock', 'etcd_try_lock')
	{
		slowly('/kv/');
		my $began = time;
		$sessions[$_]->send("SELECT $function('/r$_')") foreach 0 .. $#sessions;
		sleep $delay / 10;
		$neighbour->query("SELECT $function('/neighbour')");
		my $before = grep { $_->done } @sessions;
		cmp_ok($before, '<=', 6, "requests, $function: the neighbour does not wait for all of them");
		$_->result foreach @sessions;
		cmp_ok(time - $began, '>=', 4 * $delay, "requests, $function: two at a time");
		$proxy->rules;
		$_->query('SELECT etcd_unlock_all()') foreach @sessions, $neighbour;
	}
	quit(@sessions, $neighbour);
}
set_for_tenant(max_requests_per_role => -1);

# ---- Who has nothing in flight does not wait for those who have ----
# Each response takes so long that the machine's load counts for little.
{
	my $holder = session($there);
	$holder->query("SELECT etcd_lock('/taken')");
	my $neighbour = session($here, user => 'neighbour');
	my $latency = sub {
		return median(map { $neighbour->try("SELECT etcd_lock('/own/' || random()), etcd_unlock_all()")->{elapsed} } 1 .. 9);
	};
	my %loops = (
		locks => "etcd_lock('/greedy' || pg_backend_pid()), etcd_unlock('/greedy' || pg_backend_pid())",
		tries => "etcd_try_lock('/taken')",
		claims => "etcd_lock('/claim' || pg_backend_pid()), etcd_try_once('/claim' || pg_backend_pid(), clock_timestamp())",
		ticks => "etcd_try_once('/tick' || pg_backend_pid(), clock_timestamp())");
	foreach my $kind (sort keys %loops)
	{
		my ($ratio, $best) = (0, 100);
		foreach my $attempt (1 .. 5)
		{
			slowly('/kv/', 0.03);
			my $alone = $latency->();
			my @sessions = tenants(10);
			$_->send("DO \$\$ BEGIN LOOP PERFORM $loops{$kind}; COMMIT; END LOOP; END \$\$") foreach @sessions;
			wait_until("$kind: the tenant is busy", sub { $here->safe_psql('postgres', "SELECT count(*) >= 8 FROM etcd_locks WHERE usename = 'tenant'") eq 't' })
			  unless $kind eq 'tries';
			$ratio = $latency->() / $alone;
			$here->safe_psql('postgres', "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'tenant'");
			$_->kill foreach @sessions;
			$proxy->rules;
			$best = $ratio if $ratio < $best;
			last if $best <= 1.25;
		}
		cmp_ok($best, '<=', 1.25, "beside a loop of $kind a neighbour's lock takes as long as alone");
	}
	quit($holder, $neighbour);
}

# ---- Nobody pays for a session that was there before ----
# A session that asks for a name with many keys below it is served more slowly for a while; not so
# the next session that PostgreSQL gives the same place.
{
	my $holder = session($here);
	$holder->query("SELECT count(etcd_lock('/deep/' || i)) FROM generate_series(1, 120) i");
	my $seconds = sub {
		$_->send("SELECT count(etcd_lock('/own/' || i || random())) FROM generate_series(1, 6) i") foreach @_;
		my $elapsed = (sort { $b <=> $a } map { $_->result->{elapsed} } @_)[0];
		$_->query('SELECT etcd_unlock_all()') foreach @_;
		return $elapsed;
	};
	my ($best, $marked_ratio) = (100, 0);
	foreach my $attempt (1 .. 4)
	{
		my ($marked) = tenants(1);
		slowly('/kv/', 0.1);
		my $usual = $seconds->($marked);
		$proxy->rules;
		$marked->query("SELECT etcd_try_lock('/deep')");
		slowly('/kv/', 0.1);
		my $ratio = $seconds->($marked) / $usual;
		$marked_ratio = $ratio if $ratio > $marked_ratio;
		$proxy->rules;
		$marked->query("SELECT etcd_try_lock('/deep')");
		$marked->quit;
		wait_until('the session is gone', sub { $here->safe_psql('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'tenant'") eq 't' });
		# One of them has it.
		my @next = map { session($here, user => 'neighbour') } 1 .. 4;
		slowly('/kv/', 0.1);
		$ratio = $seconds->(@next) / $usual;
		$best = $ratio if $ratio < $best;
		$proxy->rules;
		quit(@next);
		last if $best <= 1.5 && $marked_ratio >= 1.8;
	}
	cmp_ok($marked_ratio, '>=', 1.8, 'a role that asks for a name with many keys below it is slow for a while');
	cmp_ok($best, '<=', 1.5, 'and the next session in its place is not');
	quit($holder);
}

# ---- Slots ----
# More sessions of the tenant than there are slots, and then one of the neighbour's: how
# many of them are done before it?
sub done_before_neighbour
{
	my ($sql, $n, $path, $prepare) = @_;
	my @sessions = tenants($n);
	my $neighbour = session($here, user => 'neighbour');
	if ($prepare) { $_->query($prepare) foreach @sessions, $neighbour }
	slowly($path);
	$_->send($sql) foreach @sessions;
	wait_until('the sessions wait for slots', sub {
		$here->safe_psql('postgres',
			"SELECT count(*) >= $n FROM pg_stat_activity WHERE usename = 'tenant' AND state = 'active' AND wait_event_type = 'Extension'") eq 't'
		  || grep { $_->done } @sessions;
	});
	my $result = $neighbour->try($sql);
	my $before = grep { $_->done } @sessions;
	is($result->{sqlstate}, '', 'the neighbour has its turn') or diag($result->{err});
	is($_->result->{sqlstate}, '', 'so has the tenant') foreach @sessions;
	$proxy->rules;
	if ($prepare) { $_->query('ROLLBACK; SELECT etcd_unlock_all()') foreach @sessions, $neighbour }
	quit(@sessions, $neighbour);
	return $before;
}
{
	my $holder = session($there);
	$holder->query("SELECT etcd_lock('/queue')");
	cmp_ok(done_before_neighbour("SELECT count(*) FROM etcd_lock_queue('/queue')", 12, '/kv/'), '<=', 6, 'views: by turns');
	quit($holder);

	cmp_ok(done_before_neighbour("SELECT etcd_try_once('/claim' || pg_backend_pid(), '2030-01-01Z')", 24, '/kv/',
			"SELECT etcd_lock('/claim' || pg_backend_pid())"), '<=', 16, 'claims: by turns');
	$here->safe_psql('postgres', 'ALTER ROLE tenant SUPERUSER; ALTER ROLE neighbour SUPERUSER');
	cmp_ok(done_before_neighbour("SELECT etcd_lock_break('/nobody', 1)", 6, '/kv/'), '<=', 3, 'breaks: by turns');
	$here->safe_psql('postgres', 'ALTER ROLE tenant NOSUPERUSER; ALTER ROLE neighbour NOSUPERUSER');
}

# Who stands in the list and leaves it, is passed over; who was just given a slot, passes it on.
{
	my $holder = session($there);
	$holder->query("SELECT etcd_lock('/queue')");
	my @sessions = tenants(8);
	slowly('/kv/');
	$_->send("SELECT count(*) FROM etcd_lock_queue('/queue')") foreach @sessions;
	$here->safe_psql('postgres', 'SELECT ' . join ', ', map { "pg_cancel_backend($_)" } map { $_->pid } @sessions[0 .. 2]);
	$here->safe_psql('postgres', 'SELECT ' . join ', ', map { "pg_terminate_backend($_)" } map { $_->pid } @sessions[3 .. 5]);
	$_->result foreach @sessions;
	$proxy->rules;
	is($_->try("SELECT count(*) FROM etcd_lock_queue('/queue')")->{out}, 1, 'slots: they are there for the others') foreach @sessions[6, 7];
	$_->kill foreach @sessions[0 .. 5];
	quit(@sessions[6, 7], $holder);
}

$etcd->forget_ticks;
is_left_clean($etcd, $here, $there);
finish($etcd, $here, $there);
