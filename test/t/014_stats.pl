# etcd_lock_stats counts each kind of outcome, and its counters add up: at every moment
# under load, after a crash, and after a reset.

use strict;
use warnings;

use EtcdLockTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, qw(here there));

sub set_window
{
	my ($setting, $window) = @_;
	$here->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.$setting = '$window'");
	$here->reload;
	$here->poll_query_until('postgres',
		"SELECT current_setting('etcd_lock.$setting') = '$window'")
	  or die 'the setting did not arrive';
	return;
}

# So that it does not depend on the machine's speed who passes a lock on.
set_window('handoff_window', '10s');
my $look = session($here);

# The counters' two sums, and the one that is a part of another, as doc/monitoring.md
# tells them.
my $adds_up = <<'END';
	waiting_at_reset + asked = acquired_etcd + acquired_passed_on + tries_failed
		+ timeouts + deadlocks + cancelled + failed + waiting
	AND held_at_reset + acquired_etcd + acquired_passed_on = released + lost + held
	AND reused <= acquired_passed_on
END

# Do something, and compare what the counters have gained with %expected;
# those that are not named must not change.
sub counts
{
	my ($name, $do, %expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @names = qw(asked acquired_etcd acquired_passed_on reused tries_failed timeouts
	  deadlocks cancelled failed waiting released lost held);
	my $sql = 'SELECT ' . join(', ', @names) . ", $adds_up FROM etcd_lock_stats";

	my @before = split /\|/, $look->query($sql);
	$do->();
	my @after = split /\|/, $look->query($sql);
	my %gained =
	  map { $after[$_] != $before[$_] ? ($names[$_] => $after[$_] - $before[$_]) : () }
	  0 .. $#names;
	is_deeply(\%gained, \%expected, $name)
	  or diag(explain(\%gained));
	is($after[-1], 't', "$name: adds up");
	return;
}

sub settle
{
	wait_until('nobody holds or waits',
		sub { $look->query('SELECT held + waiting FROM etcd_lock_stats') == 0 });
	return;
}

my ($one, $two) = (session($here), session($here));
my $far = session($there);

#
# One thing at a time
#

counts('acquired from etcd', sub { $one->query("SELECT etcd_lock('/a')") },
	asked => 1, acquired_etcd => 1, held => 1);
counts('acquired once more', sub { $one->query("SELECT etcd_lock('/a')") });
counts('in the other mode', sub { $one->query("SELECT etcd_lock_shared('/a')") },
	asked => 1, acquired_passed_on => 1, held => 1);
counts('a try fails here', sub { $two->query("SELECT etcd_try_lock('/a')") },
	asked => 1, tries_failed => 1);
counts('a tick fails here', sub { $two->query("SELECT etcd_try_once('/a', now())") },
	asked => 1, tries_failed => 1);
counts('the time to wait ends here',
	sub { $two->query("SELECT etcd_try_lock('/a', wait => '20 ms')") },
	asked => 1, timeouts => 1);
counts('lock_timeout here',
	sub { $two->try("SET lock_timeout = '20ms'; SELECT etcd_lock('/a'); RESET lock_timeout") },
	asked => 1, timeouts => 1);
counts('CALL has no more time',
	sub { $two->try("CALL etcd_lock_wait('/a', wait => '20 ms')") },
	asked => 1, timeouts => 1);
counts('statement_timeout',
	sub {
		$two->try("SET statement_timeout = '20ms'; SELECT etcd_lock('/a'); RESET statement_timeout");
	},
	asked => 1, cancelled => 1);
counts('waits',
	sub { $two->send("SELECT etcd_lock('/a')"); wait_until_waiting($two) },
	asked => 1, waiting => 1);
counts('passed on',
	sub { $one->query('SELECT etcd_unlock_all()'); $two->result },
	acquired_passed_on => 1, waiting => -1, released => 2, held => 0 - 1);
counts('released', sub { $two->query("SELECT etcd_unlock('/a')") },
	released => 1, held => -1);
counts('rolled back',
	sub { $one->query("BEGIN; SELECT etcd_xact_lock('/a'); ROLLBACK") },
	asked => 1, acquired_etcd => 1, released => 1);
counts('integer key',
	sub { $one->query('SELECT etcd_lock(7); SELECT etcd_lock(7, 7); SELECT pg_advisory_unlock_all()') },
	asked => 2, acquired_etcd => 2, released => 2);
counts('a bad name is none', sub { $one->try("SELECT etcd_lock('/bad/')") });

#
# Another server, or somebody else, has it
#

$far->query("SELECT etcd_lock('/far')");
counts('a try fails there', sub { $one->query("SELECT etcd_try_lock('/far')") },
	asked => 1, tries_failed => 1);
counts('the time to wait ends there',
	sub { $one->query("SELECT etcd_try_lock('/far', wait => '1 s')") },
	asked => 1, timeouts => 1);
counts('lock_timeout there',
	sub { $one->try("SET lock_timeout = '20ms'; SELECT etcd_lock('/far'); RESET lock_timeout") },
	asked => 1, timeouts => 1);
counts('cancelled there',
	sub {
		$one->send("SELECT etcd_lock('/far')");
		wait_until_waiting($one);
		$look->query('SELECT pg_cancel_backend(' . $one->pid . ')');
		is($one->result->{sqlstate}, '57014', 'the wait was cancelled');
	},
	asked => 1, cancelled => 1);
counts('terminated there',
	sub {
		my $dying = session($here);
		$dying->send("SELECT etcd_lock('/far')");
		wait_until_waiting($dying);
		$look->query('SELECT pg_terminate_backend(' . $dying->pid . ')');
		$dying->result;
		wait_until('its record is gone',
			sub { $look->query('SELECT waiting FROM etcd_lock_stats') == 0 });
	},
	asked => 1, cancelled => 1);
$far->query("SELECT etcd_unlock('/far')");

{
	my $etcdctl = EtcdLockTest::EtcdctlLock->new($etcd, '/foreign');
	wait_until('etcdctl has the lock', sub { $etcdctl->held });
	counts('a try fails at etcdctl', sub { $one->query("SELECT etcd_try_lock('/foreign')") },
		asked => 1, tries_failed => 1);
	counts('waits for etcdctl',
		sub {
			$one->send("SELECT etcd_lock('/foreign')");
			wait_until_waiting($one);
			$etcdctl->release;
			$one->result;
		},
		asked => 1, acquired_etcd => 1, held => 1);
	$one->query("SELECT etcd_unlock('/foreign')");
}

#
# What goes wrong
#

counts('a deadlock between servers',
	sub {
		$one->query("SELECT etcd_lock_shared('/up')");
		$far->query("SELECT etcd_lock_shared('/up')");
		$far->send("SELECT etcd_lock('/up')");
		wait_until_waiting($far);
		wait_until('its key is there', sub { $etcd->keys('/up/write/') == 1 });
		is($one->try("SELECT etcd_lock('/up')")->{sqlstate}, '40P01', 'deadlock');
		$one->query('SELECT etcd_unlock_all()');
		$far->result;
		$far->query('SELECT etcd_unlock_all()');
	},
	asked => 2, acquired_etcd => 1, deadlocks => 1, released => 1);
counts('a deadlock here',
	sub {
		$one->query("SELECT etcd_lock('/d1')");
		$two->query("SELECT etcd_lock('/d2')");
		$one->send("SELECT etcd_lock('/d2')");
		wait_until_waiting($one);
		$two->send("SELECT etcd_lock('/d1')");
		my $victim = wait_until('one of them ends',
			sub { $one->done ? $one : $two->done ? $two : undef });
		is($victim->result->{sqlstate}, '40P01', 'deadlock');
		$victim->query('SELECT etcd_unlock_all()');
		my $other = $victim == $one ? $two : $one;
		$other->result;
		$other->query('SELECT etcd_unlock_all()');
	},
	asked => 4, acquired_etcd => 2, acquired_passed_on => 1, deadlocks => 1, released => 3);
counts('lost by deletion',
	sub {
		$one->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/lost')");
		$etcd->delete('/lost/');
		is($one->query("SELECT etcd_lock_check('/lost')"), 'f', 'the lock is lost');
	},
	asked => 1, acquired_etcd => 1, lost => 1);
is($look->query('SELECT count(*) FROM etcd_locks WHERE lost'), 1, 'a lost lock is still shown');
counts('what is lost is not released, too', sub { $one->query("SELECT etcd_unlock('/lost')") });
counts('lost with the lease',
	sub {
		my $leases = $look->query('SELECT leases_lost FROM etcd_lock_stats');
		$one->query("SELECT etcd_lock('/lost'); SELECT etcd_lock('/lost2')");
		$etcd->revoke($etcd->lease_of('/lost/'));
		wait_until('the lease is lost',
			sub { $look->query('SELECT leases_lost FROM etcd_lock_stats') == $leases + 1 });
		wait_until('there is another one',
			sub { $look->query("SELECT state = 'ready' FROM etcd_lock_status()") eq 't' });
	},
	asked => 2, acquired_etcd => 2, lost => 2);
counts('acquired anew',
	sub {
		$one->query("SELECT etcd_unlock_all(); RESET etcd_lock.on_loss;
			SELECT etcd_lock('/lost'); SELECT etcd_unlock('/lost')");
	},
	asked => 1, acquired_etcd => 1, released => 1);

#
# A hot name
#

set_window('keep_window', '10s');
wait_until(
	'a lock is kept',
	sub {
		my $before = $look->query('SELECT acquired_etcd FROM etcd_lock_stats');
		$one->query("SELECT etcd_lock('/hot'); SELECT etcd_unlock('/hot');" x 5);
		return $look->query('SELECT acquired_etcd FROM etcd_lock_stats') == $before;
	});
counts('nobody has used it in between',
	sub { $two->query("SELECT etcd_lock('/hot'); SELECT etcd_unlock('/hot')") },
	asked => 1, acquired_passed_on => 1, reused => 1, released => 1);
counts('passed on from session to session',
	sub {
		$one->query("SELECT etcd_lock('/hot')");
		$two->send("SELECT etcd_lock('/hot')");
		wait_until_waiting($two);
		$one->query("SELECT etcd_unlock('/hot')");
		$two->result;
		$two->query("SELECT etcd_unlock('/hot')");
	},
	asked => 2, acquired_passed_on => 2, reused => 1, released => 2);
set_window('keep_window', '200ms');

#
# The worker's part, and the histograms
#

{
	my $sql = 'SELECT requests, batches, batch_operations, request_errors FROM etcd_lock_stats';
	my @before = split /\|/, $look->query($sql);
	$one->query("SELECT etcd_lock('/w'); SELECT etcd_unlock('/w')");
	my @after = split /\|/, $look->query($sql);
	cmp_ok($after[0] - $before[0], '>=', 2, 'a lock takes requests');
	cmp_ok($after[1] - $before[1], '>=', 2, '... in batches');
	cmp_ok($after[2] - $before[2], '>=', 2, '... of operations');
	is($after[3], $before[3], '... and no errors');
}
is($look->query(<<'END'), "request|t|t|t\nwait|t|t|t", 'histograms hold what is counted');
SELECT kind, bool_and(rises), max(count) = max(counted), max(le) = 'Infinity'
  FROM (SELECT kind, le, count,
               count >= lag(count, 1, 0::bigint) OVER (PARTITION BY kind ORDER BY le) AS rises,
               CASE kind WHEN 'wait' THEN acquired_etcd + acquired_passed_on
                         ELSE requests END AS counted
          FROM (SELECT * FROM etcd_lock_stats) s, etcd_lock_stats_histogram) h
 GROUP BY kind ORDER BY kind
END
{
	# A wait of known length lies in its bucket, and in the sum.
	my $sql = <<'END';
SELECT (SELECT count FROM etcd_lock_stats_histogram WHERE kind = 'wait' AND le = 0.25),
       (SELECT count FROM etcd_lock_stats_histogram WHERE kind = 'wait' AND le = 'Infinity'),
       wait_seconds
  FROM etcd_lock_stats
END
	$far->query("SELECT etcd_lock('/long')");
	my @before = split /\|/, $look->query($sql);
	$one->send("SELECT etcd_lock('/long')");
	wait_until_waiting($one);
	$far->query('SELECT pg_sleep(0.3)');
	$far->query("SELECT etcd_unlock('/long')");
	my $took = $one->result->{elapsed};
	my @after = split /\|/, $look->query($sql);
	is($after[0] - $before[0], 0, 'a long wait is not in a bucket of short ones');
	is($after[1] - $before[1], 1, '... but in a later one');
	cmp_ok($after[2] - $before[2], '>=', 0.3, '... and in the sum');
	cmp_ok($after[2] - $before[2], '<=', $took, '... once');
	$one->query("SELECT etcd_unlock('/long')");
}
{
	# While etcd is away requests fail.
	my $errors = $look->query('SELECT request_errors FROM etcd_lock_stats');
	$etcd->kill9;
	wait_until('a request has failed',
		sub { $look->query('SELECT request_errors FROM etcd_lock_stats') > $errors });
	$etcd->start;
	wait_until('the link is back',
		sub { $look->query("SELECT state = 'ready' FROM etcd_lock_status()") eq 't' });
	my $left;
	wait_until('the lease is renewed',
		sub { ($left = $look->query('SELECT lowest_ttl_left FROM etcd_lock_stats')) ne '' });
	cmp_ok($left, '>', 0, 'the lowest remaining TTL is positive');
	cmp_ok($left, '<', 10, '... is known');
}

#
# A reset in the middle, and a crash
#

sub reset_stats { return $look->query('SELECT etcd_lock_stats_reset()') }

settle();
$one->query("SELECT etcd_lock('/r1'); SELECT etcd_lock('/r2')");
$two->send("SELECT etcd_lock('/r1')");
wait_until_waiting($two);
reset_stats();
is($look->query("SELECT asked, acquired_etcd, wait_seconds, released, waiting_at_reset, held_at_reset,
		stats_reset > now() - interval '1 min', $adds_up FROM etcd_lock_stats"),
	'0|0|0|0|1|2|t|t', 'a reset begins anew');
counts('what was held at the reset', sub { $one->query('SELECT etcd_unlock_all()'); $two->result },
	acquired_passed_on => 1, waiting => -1, released => 2, held => -1);
$two->query('SELECT etcd_unlock_all()');
is($look->query('SELECT held, released FROM etcd_lock_stats'), '0|3', '... is counted when it ends');

#
# Many sessions at once.  What they have got they note in a table.
#

# One call for a lock, of some kind, and what came of it.
$_->safe_psql('postgres', <<'SQL') foreach $here, $there;
CREATE UNLOGGED TABLE seen (outcome text);
CREATE FUNCTION mixed(name text, how int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	outcome text := 'acquired';
BEGIN
	BEGIN
		IF how = 1 THEN
			IF NOT etcd_try_xact_lock(name) THEN outcome := 'tries_failed'; END IF;
		ELSIF how = 2 THEN
			IF NOT etcd_try_xact_lock(name, wait => '2 ms') THEN outcome := 'timeouts'; END IF;
		ELSIF how = 3 THEN
			PERFORM set_config('lock_timeout', '3ms', true);
			PERFORM etcd_xact_lock(name);
		ELSIF how = 4 THEN
			PERFORM etcd_xact_lock_shared(name);
		ELSE
			PERFORM etcd_xact_lock(name);
			PERFORM pg_sleep(0.002);
		END IF;
	EXCEPTION
		WHEN lock_not_available THEN outcome := 'timeouts';
		WHEN query_canceled THEN outcome := 'cancelled';
		-- nobody knows so soon whether somebody else has it
		WHEN connection_failure THEN outcome := 'failed';
	END;
	INSERT INTO seen VALUES (outcome);
END
$$;
SQL
my $script = PostgreSQL::Test::Utils::tempdir() . '/mixed.sql';
PostgreSQL::Test::Utils::append_to_file($script, <<'SQL');
\set lock random(1, 4)
\set how random(1, 5)
SELECT mixed('/load/' || :lock, :how);
SQL

# Run it with many sessions on the server, while the other one takes the locks,
# too; meanwhile call $disturb and look whether the counters add up.  At least one has been
# counted by all counters in @$needed.
sub load_adds_up
{
	my ($name, $seconds, $disturb, $needed) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @wrong;
	my $looks = 0;
	my $rounds = 0;

	local $ENV{PGOPTIONS} =
	  '-c etcd_lock.on_loss=warn -c etcd_lock.commit_guard=off -c client_min_messages=error';

	my $counted = join ' AND ', 'true', map { "$_ > 0" } @{ $needed // [] };

	# Where that is slow, several times.
	while (($looks < 20 || $look->query("SELECT $counted FROM etcd_lock_stats") ne 't') && $rounds++ < 10)
	{
		my $out = '';
		my @runs = map {
			IPC::Run::start(
				[
					'pgbench', '-n', '-f', $script,
					'-c', $_ == $here ? 10 : 2,
					'-T', $seconds, $_->connstr('postgres')
				],
				'<', \undef, '>&', \$out)
		} $here, $there;
		my $end = time + $seconds;
		while (time < $end)
		{
			my ($right, $row) = split /\|/,
			  $look->query("SELECT $adds_up, s FROM etcd_lock_stats s"), 2;
			push @wrong, $row if $right ne 't';
			$looks++;
			$disturb->() if $disturb;
		}
		$_->finish foreach @runs;
		settle();
	}
	is_deeply(\@wrong, [], "$name: the counters add up at every moment");
	cmp_ok($looks, '>=', 20, "$name: ... of many");
	is($look->query("SELECT $adds_up FROM etcd_lock_stats"), 't', "$name: ... and in the end");
	return;
}

set_window('handoff_window', '100ms');
reset_stats();
load_adds_up('mixed load', 4, undef, ['reused']);
cmp_ok($look->query('SELECT reused FROM etcd_lock_stats'), '>', 0, 'mixed load: some are reused');
is( $look->query(<<'END'), 't|t|t|t|t', 'mixed load: sessions and counters saw the same')
SELECT acquired_etcd + acquired_passed_on = count(*) FILTER (WHERE outcome = 'acquired'),
       tries_failed = count(*) FILTER (WHERE outcome = 'tries_failed'),
       timeouts = count(*) FILTER (WHERE outcome = 'timeouts'),
       least(acquired_etcd, acquired_passed_on, tries_failed, timeouts) > 0,
       (SELECT max(count) FROM etcd_lock_stats_histogram WHERE kind = 'wait')
         = acquired_etcd + acquired_passed_on
  FROM (SELECT * FROM etcd_lock_stats) s, seen
 GROUP BY acquired_etcd, acquired_passed_on, tries_failed, timeouts
END
  or diag($look->query('SELECT * FROM etcd_lock_stats'),
	$look->query('SELECT outcome, count(*) FROM seen GROUP BY 1'));

my $last = time;
my $loser = session($here);
load_adds_up('load with cancels and losses',
	4,
	sub {
		return if time - $last < 0.2;
		$last = time;
		$look->query(<<'END');
SELECT pg_cancel_backend(pid)
  FROM (SELECT pid FROM etcd_locks WHERE NOT granted ORDER BY random() LIMIT 1) s
END
		# Keys that are only kept are nobody's.
		$loser->try("SELECT etcd_unlock_all()");
		$loser->try("SELECT etcd_lock('/loser')");
		my $lease = $look->query('SELECT lease FROM etcd_lock_status()');

		# It may just have been replaced.
		no warnings 'portable';
		eval { $etcd->revoke(hex $lease) } if $lease ne '';
	},
	[qw(cancelled lost)]);
cmp_ok($look->query("SELECT $_ FROM etcd_lock_stats"), '>', 0, "load with cancels and losses: $_")
  foreach qw(cancelled lost);
$loser->quit;

# Statistics do not outlive shared memory.
{
	my $began = $look->query('SELECT stats_reset FROM etcd_lock_stats');
	my $victim = session($here);
	$victim->query("SELECT etcd_lock('/crash')");
	kill 'KILL', $victim->pid;
	$here->poll_query_until('postgres', "SELECT stats_reset > '$began' FROM etcd_lock_stats")
	  or die 'the server did not come back';
	$look = session($here);
	is($look->query("SELECT asked, held, held_at_reset, $adds_up FROM etcd_lock_stats"),
		'0|0|0|t', 'a crash begins anew');
	my $after = session($here);
	$after->query("SELECT etcd_lock('/crash')");
	is($look->query("SELECT asked, acquired_etcd, held, $adds_up FROM etcd_lock_stats"),
		'1|1|1|t', '... and counts');
	$after->query('SELECT etcd_unlock_all()');
}

#
# Who may see it
#

$here->safe_psql('postgres', 'CREATE ROLE nobody LOGIN; CREATE ROLE monitor LOGIN IN ROLE pg_monitor');
foreach my $what (
	qw(etcd_locks etcd_lock_stats etcd_lock_stats_histogram etcd_locks()
	etcd_lock_stats() etcd_lock_stats_histogram() etcd_lock_status()))
{
	my ($nobody, $monitor) = map { session($here, user => $_) } qw(nobody monitor);
	is($nobody->try("SELECT * FROM $what")->{sqlstate}, '42501', "$what is not for everyone");
	is($monitor->try("SELECT * FROM $what")->{sqlstate}, '', "$what is for pg_monitor");
}

# Not even when it was granted by the dozen, with the functions that lock.
$here->safe_psql('postgres', 'GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO nobody');
{
	my $nobody = session($here, user => 'nobody');
	is($nobody->try("SELECT * FROM $_")->{sqlstate}, '42501', "$_ is for pg_monitor only")
	  foreach qw(etcd_locks() etcd_lock_stats() etcd_lock_stats_histogram()
	  etcd_lock_status() etcd_lock_stats_reset());
}
is(session($here, user => 'monitor')->try('SELECT etcd_lock_stats_reset()')->{sqlstate},
	'42501', 'a reset is not for pg_monitor');

is_left_clean($etcd, $here, $there);
$_->quit foreach $one, $two, $far, $look;
finish($etcd, $here, $there);
