#-------------------------------------------------------------------------
# Bench::Rows::Cost - what many names, many waiters, and nothing to do cost
#-------------------------------------------------------------------------
package Bench::Rows::Cost;

use strict;
use warnings;

use Bench::Numbers qw(median);
use Bench::Proc qw(switches);
use EtcdLockTest;
use Time::HiRes qw(sleep time);

sub rows
{
	return (
		{
			id => 'memory',
			group => 'cost',
			title => 'shared memory',
			once => 1,
			run => \&memory,
		},
		{
			id => 'views',
			group => 'views',
			title => '`etcd_locks` and `etcd_lock_stats`',
			once => 1,
			run => sub {
				views("SELECT count(*) FROM etcd_locks;\nSELECT count(*) FROM etcd_lock_stats;\n", @_);
			},
		},
		{
			id => 'views_queue',
			group => 'views',
			title => '`etcd_lock_queue()`, all names',
			once => 1,
			run => sub { views('SELECT count(*) FROM etcd_lock_queue();', @_) },
		},
		idle('idle_0', 'a server that does nothing, no lock held', 0),
		idle('idle_1000', 'the same, 1,000 locks held', 1000),
		{ %{ idle('idle_10000', 'the same, 10,000 locks held', 10_000) }, thorough => 1 },
		waiters('waiters_1', '1 session waits for a lock that another server has', 1, 'b'),
		waiters('waiters_1000', '1,000 sessions wait for it', 1000, 'b'),
		{
			%{ waiters('waiters_advisory', '1,000 sessions wait for `pg_advisory_lock`', 1000, 'a',
					lock => 'pg_advisory_lock(1)', unlock => 'pg_advisory_unlock(1)') },
			thorough => 1
		});
}

# Servers differ in the number of names only.
sub memory
{
	my ($rig) = @_;
	my $sql = q{SELECT sum(allocated_size), current_setting('etcd_lock.max_names')
		FROM pg_shmem_allocations WHERE name ~ 'etcd_lock' OR name = '<anonymous>'};
	my ($a, $b) =
	  map { [ split /\|/, $rig->server($_)->safe_psql('postgres', $sql) ] } qw(a b);
	return { bytes => ($a->[0] - $b->[0]) / ($a->[1] - $b->[1]), megabytes => $a->[0] / 2**20 };
}

# One load, with and without readers by turns of a second, and many of them: the
# difference is smaller than what a machine's speed changes by itself.
sub views
{
	my ($reading, $rig) = @_;
	my $turns = $rig->is_quick ? 1 : 10;
	my $reader = session($rig->server('a'));
	my $load = $rig->start_pgbench(
		script => "SELECT etcd_lock('/bench/' || :client_id);\nSELECT etcd_unlock('/bench/' || :client_id);\n",
		clients => 64,
		seconds => 2 * $turns + 1,
		sample => 1);
	my (@turns, @took);

	wait_until('the load has begun',
		sub { $rig->server('a')->safe_psql('postgres', 'SELECT count(*) > 0 FROM etcd_locks') eq 't' });
	foreach (1 .. $turns)
	{
		my $began = time;
		sleep 1;
		my $middle = time;
		foreach my $n (1 .. 10)
		{
			push @took, 1e6 * $reader->try($reading)->{elapsed};
			my $rest = $middle + $n / 10 - time;
			sleep $rest if $rest > 0;
		}
		push @turns, [ $began, $middle, time ];
	}
	my @ends = @{ $rig->end_pgbench($load)->{ends} };
	$reader->quit;

	my (@without, @with);
	foreach my $turn (@turns)
	{
		my ($began, $middle, $end) = @$turn;
		push @without, (grep { $_ >= $began && $_ < $middle } @ends) / ($middle - $began);
		push @with, (grep { $_ >= $middle && $_ < $end } @ends) / ($end - $middle);
	}
	return {
		samples => { reading => \@took },
		rate => median(@with),
		without => median(@without),
		slower => median(map { 100 * (1 - $with[$_] / $without[$_]) } 0 .. $#with),
	};
}

# What a server and etcd do in so many seconds, when what was before has ended.
sub at_rest
{
	my ($rig, $seconds) = @_;
	sleep($rig->is_quick ? 0.5 : 2);
	my $pid = $rig->worker('a');
	my $account = sub { return { %{ $rig->account({ a => $rig->postmaster('a') }) }, wakes => switches($pid) } };
	my $before = $account->();
	my $began = time;
	sleep $seconds;
	my $after = $account->();
	my $took = time - $began;
	my %rate = map { $_ => ($after->{$_} - $before->{$_}) / $took } keys %$before;
	return {
		wakes => $rate{wakes},
		worker_percent => $rate{worker_us} / 1e4,
		etcd_percent => $rate{etcd_us} / 1e4,
		requests_per_second => $rate{requests},
		proposals_per_second => $rate{proposals},
		$rate{keepalives} ? (requests_per_keepalive => $rate{requests} / $rate{keepalives}) : (),
	};
}

# Ten times the seconds of other rows: keepalives are seconds apart.  Only server a
# runs meanwhile, so all requests are its own.
sub idle
{
	my ($id, $title, $many) = @_;
	return {
		id => $id,
		group => 'cost',
		title => $title,
		once => 1,
		run => sub {
			my ($rig, $seconds) = @_;
			my $held = $rig->is_quick && $many > 1000 ? 1000 : $many;
			$rig->run_only('a');
			my $session = session($rig->server('a'));
			my $began = time;
			$session->query("SELECT count(etcd_lock('/held/' || i)) FROM generate_series(1, $held) i");
			my %held = $held ? (lock_ms => 1e3 * (time - $began) / $held) : ();
			my $result = at_rest($rig, 10 * $seconds);
			$began = time;
			$session->query('SELECT etcd_unlock_all()');
			$held{release_all_ms} = 1e3 * (time - $began) if $held;
			$session->quit;
			wait_until('all keys are deleted', sub { !$rig->etcd->keys('/held/') });
			return { %$result, %held };
		},
	};
}

# Sessions of server a wait for a lock that a session of another one, or the same,
# has.
sub waiters
{
	my ($id, $title, $many, $server, %options) = @_;
	my $lock = $options{lock} // "etcd_lock('/bench/waited')";
	my $unlock = $options{unlock} // "etcd_unlock('/bench/waited')";
	return {
		id => $id,
		group => 'cost',
		title => $title,
		once => 1,
		run => sub {
			my ($rig, $seconds) = @_;
			$rig->run_only('a', $server);
			my $holder = session($rig->server($server));
			my $n = $rig->is_quick && $many > 1 ? 100 : $many;
			$holder->query("SELECT $lock");
			my $waiting = $rig->start_pgbench(
				script => "SELECT $lock;\nSELECT $unlock;\n",
				clients => $n,
				transactions => 1,
				sample => 1);
			wait_until("$n sessions wait", sub { waiting($rig) == $n });
			my $result = at_rest($rig, 10 * $seconds);
			my $began = time;
			$holder->query("SELECT $unlock");
			wait_until('all have had it', sub { waiting($rig) == 0 });
			$result->{all_served_ms} = 1e3 * (time - $began);
			$rig->end_pgbench($waiting);
			$holder->quit;
			return $result;
		},
	};
}

# How many sessions of server a run a statement; pgbench's do nothing but wait.
sub waiting
{
	my ($rig) = @_;
	return $rig->server('a')->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()");
}

1;
