#-------------------------------------------------------------------------
# Bench::Rows::Ours - etcd_lock and pg_advisory_lock, by pgbench
#-------------------------------------------------------------------------
package Bench::Rows::Ours;

use strict;
use warnings;

use Bench::Numbers qw(sum);
use EtcdLockTest;

my $sync_off = { 'etcd_lock.synchronous_release' => 'off' };

# Transactions of each statement at the beginning that are not counted: there it
# is prepared.
my $warm_up = 10;

sub rows
{
	my $etcd = '`etcd_lock`';
	my $off = ', `synchronous_release` off';
	my $advisory = '`pg_advisory_lock`';

	return (
		both(one('ours_one', $etcd)),
		cold(one('ours_one_off', "$etcd$off", settings => $sync_off)),
		thorough(both(one('ours_one_shared', '`etcd_lock_shared`',
			lock => "etcd_lock_shared('/bench/one')", unlock => "etcd_unlock_shared('/bench/one')"))),
		both(one('ours_one_try', '`etcd_try_lock`', lock => "etcd_try_lock('/bench/one')")),
		thorough(both(one('ours_one_int', '`etcd_lock(bigint)`', lock => 'etcd_lock(1)', unlock => 'etcd_unlock(1)'))),
		both(transaction('ours_one_xact', '`etcd_xact_lock`, BEGIN to COMMIT',
			group => 'one', script => xact("'/bench/one'"))),
		thorough(cold(transaction('ours_one_xact_off', "`etcd_xact_lock`, BEGIN to COMMIT$off",
			group => 'one', script => xact("'/bench/one'"), settings => $sync_off))),
		one('advisory_one', $advisory,
			lock => 'pg_advisory_lock(1)', unlock => 'pg_advisory_unlock(1)'),

		(
			map {
				my $n = $_;
				map { $n == 8 ? thorough($_) : $_ }
				both(load("ours_$n", 'many', "$etcd, $n sessions", $n, pair("'/bench/' || :client_id"))),
				cold(load("ours_${n}_off", 'many', "$etcd, $n sessions$off",
					$n, pair("'/bench/' || :client_id"), settings => $sync_off)),
				load("advisory_$n", 'many', "$advisory, $n sessions", $n, advisory(':client_id'))
			} 8, 64
		),
		thorough(
			both(load('ours_64_xact', 'many', '`etcd_xact_lock`, 64 sessions', 64,
				xact("'/bench/' || :client_id"))),
			both(load('ours_64_shared', 'many', '`etcd_lock_shared`, 64 sessions', 64,
				pair("'/bench/' || :client_id", '_shared')))),

		(
			map {
				my $n = $_;
				both(load("same_$n", 'same', "$etcd, $n sessions of one server", $n, pair("'/bench/same'"))),
				load("advisory_same_$n", 'same', "$advisory, $n sessions", $n, advisory('1'))
			} 2, 8, 64
		),
		thorough(
			both(load('same_64_xact', 'same', '`etcd_xact_lock`, 64 sessions of one server', 64,
				xact("'/bench/same'"))),
			both(load('same_64_shared', 'same', '`etcd_lock_shared`, 64 sessions of one server', 64,
				pair("'/bench/same'", '_shared')))),
		both(load('each_of_two', 'same', "$etcd, one session on each of two servers", 1,
			pair("'/bench/same'"), servers => [qw(a b)])),
		both(load('two_servers', 'same', "$etcd, two servers with 4 sessions each", 4,
			pair("'/bench/same'"), servers => [qw(a b)])),
		thorough(both(load('three_servers', 'same', "$etcd, three servers with 4 sessions each", 4,
			pair("'/bench/same'"), servers => [qw(a b c)]))),

		{
			id => 'handover',
			group => 'between',
			title => "$etcd: release called to granted on another server, which has waited for 10 ms, cold",
			keep => '0',
			run => sub { handover(10, 'on', @_) },
		},
		{
			id => 'handover_late',
			group => 'between',
			title => 'the same; the other has waited for 250 ms',
			keep => '0',
			run => sub { handover(250, 'on', @_) },
		},
		{
			id => 'handover_off',
			group => 'between',
			title => "$etcd$off: the same; the other has waited for 10 ms",
			keep => '0',
			run => sub { handover(10, 'off', @_) },
		},
		{
			id => 'handover_hot',
			group => 'between',
			title => "$etcd: the same, hot; the other has waited for 10 ms",
			run => sub { handover(10, 'on', @_) },
		},
		taken('try_elsewhere', '`etcd_try_lock` on a lock that another server has', 'b'),
		taken('try_here', '`etcd_try_lock` on a lock that this server has', 'a'),

		transaction('write', 'without a lock', group => 'transaction', script => writing('')),
		both(transaction('write_lock', '`etcd_xact_lock`', group => 'transaction',
			script => writing("SELECT etcd_xact_lock('/bench/writes');"))),
		cold(transaction('write_lock_off', "`etcd_xact_lock`$off", group => 'transaction',
			script => writing("SELECT etcd_xact_lock('/bench/writes');"), settings => $sync_off)));
}

sub thorough { return map { +{ %$_, thorough => 1 } } @_ }

# Each row twice: with names that are not kept, as those that are used now and then; and
# as it is, where names become hot.
sub cold
{
	my ($row) = @_;
	return { %$row, title => "$row->{title}, cold", keep => '0' };
}

sub both
{
	my ($row) = @_;
	return cold($row), { %$row, id => "$row->{id}_hot", title => "$row->{title}, hot" };
}

#
# Scripts
#

sub pair
{
	my ($name, $mode) = (@_, '');
	return "SELECT etcd_lock$mode($name);\nSELECT etcd_unlock$mode($name);\n";
}

sub advisory
{
	my ($key) = @_;
	return "SELECT pg_advisory_lock($key);\nSELECT pg_advisory_unlock($key);\n";
}

sub xact
{
	my ($name) = @_;
	return "BEGIN;\nSELECT etcd_xact_lock($name);\nCOMMIT;\n";
}

sub writing
{
	my ($lock) = @_;
	return "BEGIN;\n$lock\nUPDATE written SET value = value + 1 WHERE id = :client_id;\nCOMMIT;\n";
}

#
# Kinds of rows
#

# One session.  pgbench notes how long a run of the script takes, so a run has
# one statement: the lock and the unlock by turns.
sub one
{
	my ($id, $title, %options) = @_;
	my $lock = $options{lock} // "etcd_lock('/bench/one')";
	my $unlock = $options{unlock} // "etcd_unlock('/bench/one')";
	my $script = <<END;
\\if :step = 0
SELECT $lock;
\\set step 1
\\else
SELECT $unlock;
\\set step 0
\\endif
END

	return {
		id => $id,
		group => 'one',
		title => $title,
		run => sub {
			my ($rig, $seconds) = @_;
			my $run = $rig->accounted(
				sub { $_[0]{count} / 2 },
				sub {
					$rig->pgbench(script => $script, seconds => $seconds,
						settings => $options{settings});
				},
				'a');
			my @all = @{ delete $run->{latencies} };
			my %samples;
			for (my $i = 2 * $warm_up; $i < $#all; $i += 2)
			{
				push @{ $samples{lock} }, $all[$i];
				push @{ $samples{unlock} }, $all[ $i + 1 ];
				push @{ $samples{pair} }, $all[$i] + $all[ $i + 1 ];
			}
			return { %$run, samples => \%samples, rate => $run->{tps} / 2 };
		},
	};
}

# One session that runs a script again and again.
sub transaction
{
	my ($id, $title, %options) = @_;
	return {
		id => $id,
		group => $options{group},
		title => $title,
		run => sub {
			my ($rig, $seconds) = @_;
			my $run = $rig->accounted(
				'count',
				sub {
					$rig->pgbench(script => $options{script}, seconds => $seconds,
						settings => $options{settings});
				},
				'a');
			my @all = @{ delete $run->{latencies} };
			return {
				%$run,
				samples => { pair => [ @all[ $warm_up .. $#all ] ] },
				rate => $run->{tps}
			};
		},
	};
}

# Several sessions, of one server or of several, that run it.
sub load
{
	my ($id, $group, $title, $clients, $script, %options) = @_;
	my @servers = @{ $options{servers} // ['a'] };
	return {
		id => $id,
		group => $group,
		title => $title,
		run => sub {
			my ($rig, $seconds) = @_;
			return $rig->accounted(
				'count',
				sub {
					my @started = map {
						$rig->start_pgbench(server => $_, script => $script, clients => $clients,
							seconds => $seconds, settings => $options{settings})
					} @servers;
					my @runs = map { $rig->end_pgbench($_) } @started;
					my @rates = sort { $a <=> $b } map { $_->{tps} } @runs;
					my @took = sort { $a <=> $b } map { @{ $_->{latencies} } } @runs;
					return {
						count => sum(map { $_->{count} } @runs),
						rate => sum(@rates),
						samples => { pair => \@took },
						@servers > 1 ? (share => $rates[0] / sum(@rates), longest => $took[-1] / 1e3) : (),
					};
				},
				@servers);
		},
	};
}

# A lock that one server has and a session of server a tries to get.
sub taken
{
	my ($id, $title, $holder) = @_;
	return {
		id => $id,
		group => 'between',
		title => $title,
		run => sub {
			my ($rig, $seconds) = @_;
			my $session = session($rig->server($holder));
			my $try = "SELECT etcd_try_lock('/bench/taken')";
			$session->query("SELECT etcd_lock('/bench/taken')");
			die "a taken lock was granted\n"
			  unless $rig->server('a')->safe_psql('postgres', $try) eq 'f';
			my $run = $rig->accounted(
				'count',
				sub { $rig->pgbench(script => "$try;", seconds => $seconds) },
				'a');
			$session->quit;
			my @all = @{ delete $run->{latencies} };
			# The servers' keepalives are three requests each, of which the first or
			# the last may have been cut off.
			my $own = $run->{requests} - 3 * $run->{keepalives};
			return {
				%$run,
				samples => { statement => [ @all[ $warm_up .. $#all ] ] },
				rate => $run->{tps},
				own_requests => abs $own < 10 / $run->{count} ? 0 : $own
			};
		},
	};
}

sub handover
{
	my ($settle, $sync, $rig, $seconds) = @_;
	my @conninfo = map { $rig->server($_)->connstr('postgres') } qw(a b);
	return $rig->accounted('count',
		sub {
			$rig->program('handover', @conninfo, '/bench/handover', $seconds, $settle,
				"SET etcd_lock.synchronous_release = $sync");
		},
		qw(a b));
}

1;
