# Many operations travel in one Txn, and none suffers from another's trouble: neither
# from a name that etcd forbids, nor from one with other names below it, nor from a try
# that finds its lock taken.  With 5 ms to etcd, rates are compared within one run,
# alternately.  This test runs alone (test/prove.yml).

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use List::Util qw(sum0);
use PostgreSQL::Test::Utils;
use Test::More;

my ($rounds, $most_batches) = (3, 6);

my $etcd = EtcdLockTest::Etcd->new;
$etcd->enable_auth(app => 'secret', [ 'app/', '.etcd_lock/' ]);
my $dir = PostgreSQL::Test::Utils::tempdir('client');
append_to_file("$dir/password", "secret\n");
chmod 0600, "$dir/password";

my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $here = start_server(
	'here',
	endpoints => $proxy->url,
	conf => <<"END");
max_connections = 150
etcd_lock.username = 'app'
etcd_lock.password_file = '$dir/password'
etcd_lock.lease_ttl = '60s'
etcd_lock.keep_window = 0
END

my $control = session($here);
my $scripts = 0;

# Scripts of pgbench: what each does again and again.
sub script
{
	my ($sql) = @_;
	my $file = sprintf '%s/%d.sql', $dir, $scripts++;
	append_to_file($file, $sql);
	return $file;
}

my %script = (
	lock => script(<<'END'),
SELECT etcd_lock('app/own/' || :client_id);
SELECT etcd_unlock('app/own/' || :client_id);
END
	try => script(<<'END'),
SELECT 1 / etcd_try_lock('app/own/' || :client_id)::int;
SELECT etcd_unlock('app/own/' || :client_id);
END
	alone => script("SELECT etcd_lock('app/alone');\nSELECT etcd_unlock('app/alone');\n"),
	try_alone => script("SELECT 1 / etcd_try_lock('app/alone')::int;\nSELECT etcd_unlock('app/alone');\n"),
	taken => script("SELECT etcd_try_lock('app/taken');\n"),
	advisory => script("SELECT pg_try_advisory_lock(77);\n"),
	forbidden => script(<<'END'),
DO $$ BEGIN PERFORM etcd_lock('other/' || random()); EXCEPTION WHEN insufficient_privilege THEN END $$;
END
	shallow => script(<<'END'),
SELECT etcd_lock('app/shallow' || :client_id);
SELECT etcd_unlock('app/shallow' || :client_id);
END
	deep => script(<<'END'),
SELECT etcd_lock('app/deep' || :client_id);
SELECT etcd_unlock('app/deep' || :client_id);
END
);

sub start_pgbench
{
	my ($what, $clients, @options) = @_;
	my $run = { out => '', what => $what };
	$run->{handle} = IPC::Run::start(
		[
			'pgbench', '-n', '-f', $script{$what}, '-c', $clients,
			@options, $here->connstr('postgres') . " application_name=$what"
		],
		'>', \$run->{out}, '2>', \$run->{err});
	return $run;
}

# So many transactions of each client: the rate, without the time to connect.
sub rate
{
	my ($what, $clients, $transactions, @options) = @_;
	my $run = start_pgbench($what, $clients, '-t', $transactions, @options);
	$run->{handle}->finish or diag("pgbench, $run->{what}: $run->{err}");
	return $run->{out} =~ /tps = ([0-9.]+) / ? $1 : die "pgbench: $run->{out}";
}

# Run $do beside others that are busy all the time.
sub beside
{
	my ($others, $do) = @_;
	my @others = map { start_pgbench(@$_, '-T', 600) } @$others;
	foreach my $other (@$others)
	{
		my ($what, $clients) = @$other;
		wait_until("$what begins",
			sub { $control->query("SELECT count(*) FROM pg_stat_activity WHERE application_name = '$what'") >= $clients });
	}
	my $result = $do->();
	$_->{handle}->kill_kill foreach @others;
	wait_until('the others have ended',
		sub { $control->query("SELECT count(*) FROM pg_stat_activity WHERE application_name = '$_->{what}'") eq '0' })
	  foreach @others;
	return $result;
}

# A promise is kept if two batches of rounds in a row say so, each by itself: the machine
# may be busy in some, and one may say so by chance.  What the rounds of a batch return is
# passed to $is_kept.
sub is_kept
{
	my ($name, $round, $is_kept) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $in_a_row = 0;
	foreach my $batch (1 .. $most_batches)
	{
		my @results = map { $round->() } 1 .. $rounds;
		$in_a_row = $is_kept->(@results) ? $in_a_row + 1 : 0;
		last if $in_a_row == 2;
	}
	is($in_a_row, 2, $name);
	return;
}

# The rates of some sessions, alone and beside others, and the median of their ratios.
sub compare
{
	my ($name, $least, @cases) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_kept(
		$name,
		sub {
			my ($one, $other) =
			  map { my $case = $_; beside($case->{beside} // [], sub { rate(@{ $case->{run} }) }) } @cases;
			return $other / $one;
		},
		sub {
			diag sprintf '%s: %.2f (%s)', $name, median(@_), join ', ', map { sprintf '%.2f', $_ } @_;
			return median(@_) > $least;
		});
	return;
}

# How long the slowest of a hundred of one session's transactions takes, beside others.
sub compare_slowest
{
	my ($name, $most, $beside, @whats) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_kept(
		$name,
		sub {
			my %took;
			foreach my $what (@whats)
			{
				my $log = "$dir/latency";
				beside([$beside], sub { rate($what, 1, 100, '-l', '--log-prefix', $log) });
				foreach my $file (glob "$log.*")
				{
					push @{ $took{$what} }, map { (split)[2] / 1000 } split /\n/, slurp_file($file);
					unlink $file;
				}
			}
			return \%took;
		},
		sub {
			my @batch = @_;
			my @slowest = map {
				my $what = $_;
				my @sorted = sort { $a <=> $b } map { @{ $_->{$what} } } @batch;
				$sorted[ 0.99 * @sorted ];
			} @whats;
			diag sprintf '%s: %.1f and %.1f ms, of %d', $name, @slowest, sum0(map { scalar @{ $_->{ $whats[0] } } } @batch);
			return $slowest[1] <= $most * $slowest[0];
		});
	return;
}

my $holder = session($here);
wait_until('locks work',
	sub { $holder->try(q{SELECT etcd_try_xact_lock('app/first')})->{out} eq 't' });
is($holder->try(q{SELECT etcd_lock('other/name')})->{sqlstate},
	'42501', 'a name that etcd forbids');
$holder->query(q{SELECT etcd_lock('app/taken'), pg_advisory_lock(77)});
$proxy->rules({ do => 'delay', ms => 5 });

my @locks = (run => [ lock => 40, 80 ]);
compare('beside a session that asks for forbidden names',
	0.8, {@locks}, { @locks, beside => [ [ forbidden => 1 ] ] });
compare('beside four of them', 0.8, {@locks}, { @locks, beside => [ [ forbidden => 4 ] ] });
# these take processors, as any loop does, but nothing else
compare("beside tries of a lock that is taken, and of PostgreSQL's own",
	0.8, { @locks, beside => [ [ advisory => 4 ] ] }, { @locks, beside => [ [ taken => 4 ] ] });
compare('tries of free locks and locks', 0.9, { run => [ lock => 30, 80 ] }, { run => [ try => 30, 80 ] });

compare_slowest('tries of a free lock beside sessions that lock, and locks', 2, [ lock => 30 ], qw(alone try_alone));

my $deep = session($here);
$deep->query(qq{SELECT etcd_lock('app/deep$_/below')}) foreach 0 .. 3;
compare('names with other names below them',
	0.9, { run => [ shallow => 4, 80 ] }, { run => [ deep => 4, 80 ] });
$deep->quit;

$proxy->rules;
$_->quit foreach $holder, $control;
is_left_clean($etcd, $here);
finish($etcd, $here);
