# pg_cron on three independent servers with the same schedule: etcd_try_once() allows a
# job to run once for each minute, although the servers' clocks differ, a server dies in
# the middle of a run, or a run takes longer than a minute.
#
# libfaketime gives each server its own clock.  The clocks differ, and are fast, to have
# many minutes in one: CRON_SPEED times (default 10; 1 for real minutes).

use strict;
use warnings;

use EtcdLockTest;
use File::Spec;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(stat time);

my ($libfaketime) = glob '/usr/lib/*/faketime/libfaketime.so.1';
my $libdir = `pg_config --pkglibdir`;
chomp $libdir;
plan skip_all => 'libfaketime is not installed' unless $libfaketime;
plan skip_all => 'pg_cron is not installed' unless -e "$libdir/pg_cron.so";

my $speed = $ENV{CRON_SPEED} || 10;
my $dir = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());

# libfaketime does not fake while it is in select(), where the postmaster of
# PostgreSQL 15 spends its life, and forks: give it one that it does not know.
append_to_file("$dir/select.c", <<'END');
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

int
select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *timeout)
{
	return syscall(SYS_select, n, r, w, e, timeout);
}
END
system_or_bail('gcc', '-shared', '-fPIC', '-o', "$dir/select.so",
	"$dir/select.c");

# Each clock starts some seconds before a full minute, and as many (real) seconds
# late as told.
my %late = (early => 0, late => 0.08, later => 0.3);
my $begin = time;
my $begin_clock = 1893456040;

sub start_with_clock
{
	my ($node) = @_;
	my $now = time;
	my $clock = $begin_clock + ($now - $begin - $late{ $node->name }) * $speed;
	local %ENV = (
		%ENV,
		LD_PRELOAD => "$dir/select.so:$libfaketime",
		FAKETIME => sprintf('%+.6f x%g', $clock - $now, $speed),
		FAKETIME_DONT_FAKE_MONOTONIC => 1,
		NO_FAKE_STAT => 1);
	$node->start;
	return;
}

# pg_cron connects to its server, or uses background workers; the order in which
# the two libraries are loaded differs, too.
my %cron = (
	early => "shared_preload_libraries = 'pg_cron, etcd_lock'",
	late => "shared_preload_libraries = 'etcd_lock, pg_cron'",
	later => "shared_preload_libraries = 'pg_cron, etcd_lock'\n"
	  . "cron.use_background_workers = on\n"
	  . 'max_worker_processes = 20');

my $etcd = EtcdLockTest::Etcd->new;
my @nodes = map {
	my $node = new_server(
		$_,
		endpoints => $etcd->endpoint,
		conf => "etcd_lock.lease_ttl = '3s'\n$cron{$_}");
	$node->append_conf('postgresql.conf', "cron.host = '" . $node->host . "'");
	$node;
} sort keys %cron;

# What runs leaves files, written as it happens, so that there is one also of a
# run that never commits.  Their times are the kernel's, which nobody fakes.
foreach my $node (@nodes)
{
	start_with_clock($node);
	$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION etcd_lock;
CREATE EXTENSION pg_cron;
CREATE FUNCTION note(what text, job text, tick timestamptz) RETURNS void
LANGUAGE plpgsql AS \$\$
BEGIN
	EXECUTE format('COPY (SELECT 1) TO %L', concat_ws('.', '$dir/note', job,
		extract(epoch from tick)::bigint, '${\ $node->name}', pg_backend_pid(), what));
END
\$\$;
CREATE FUNCTION run(job text, tick timestamptz, seconds float8) RETURNS void
LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM note('start', job, tick);
	PERFORM pg_sleep(seconds);
	PERFORM note('end', job, tick);
END
\$\$;
SQL
}

# All runs of a job, in the order in which they started.
sub runs
{
	my ($job) = @_;
	my @runs;

	foreach my $file (glob "$dir/note.$job.*.start")
	{
		my ($tick, $node) = $file =~ /\.(\d+)\.(\w+)\.\d+\.start$/;
		my $end = (stat $file =~ s/start$/end/r)[9];
		push @runs,
		  {
			minute => ($tick - $begin_clock + 40) / 60,
			node => $node,
			start => (stat $file)[9],
			end => $end
		  };
	}
	return sort { $a->{start} <=> $b->{start} } @runs;
}

# How often a job has started in each minute.
sub starts
{
	my %starts;
	$starts{ $_->{minute} }++ foreach runs(@_);
	return \%starts;
}

# What the servers and pg_cron say, for who has to find out why one is missing.
sub diag_minutes
{
	my ($job) = @_;
	diag join "\n", "$job:", describe($job);
	diag $_->name . ":\n"
	  . $_->safe_psql('postgres',
		"SELECT start_time, end_time, status, return_message FROM cron.job_run_details WHERE command LIKE '%/jobs/$job''%' ORDER BY start_time")
	  foreach @nodes;
	return;
}

sub describe
{
	return map {
		sprintf "minute %d on %s, %.2f to %s", $_->{minute}, $_->{node},
		  $_->{start} - $begin, $_->{end} ? sprintf('%.2f', $_->{end} - $begin) : '?'
	} runs(@_);
}

my $tick = "date_trunc('minute', now())";
my %job = (
	# 10 ms, over before the next server's clock says that it is time
	short => "SELECT run('short', $tick, 0.01 * $speed) "
	  . "WHERE etcd_try_once('/jobs/short', $tick)",

	# the same with mutual exclusion only
	locked => "SELECT run('locked', $tick, 0.01 * $speed) "
	  . "WHERE etcd_try_xact_lock('/jobs/locked')",

	# half a minute: a server will die meanwhile
	half => "SELECT run('half', $tick, 30) WHERE etcd_try_once('/jobs/half', $tick)",

	# longer than the time from tick to tick
	long => "SELECT run('long', $tick, 80) WHERE etcd_try_once('/jobs/long', $tick)",

	# and with the rule that who is late does not run
	punctual => "SELECT run('punctual', $tick, 80) "
	  . "WHERE now() < $tick + interval '15 s' AND etcd_try_once('/jobs/punctual', $tick)");

foreach my $node (@nodes)
{
	$node->safe_psql('postgres',
		"SELECT cron.schedule('$_', '* * * * *', \$job\$$job{$_}\$job\$)")
	  foreach sort keys %job;
}

sub wait_for_minutes
{
	my ($job, $n) = @_;
	return wait_until("$n minutes of job $job",
		sub { keys %{ starts($job) } >= $n },
		30 + 60 * 2 * $n / $speed);
}

# A server dies in the middle of a run, but so early that its lease ends before the
# next minute begins.
wait_for_minutes('half', 2);
my $run = wait_until(
	'a run has begun',
	sub {
		my ($last) = reverse runs('half');
		my $since = time - $last->{start};
		return !$last->{end} && $since > 0.5 && $since < 15 / $speed && $last;
	},
	30 + 120 / $speed);
my ($victim) = grep { $_->name eq $run->{node} } @nodes;
$victim->kill9;
my $killed_at = time;
my $next = wait_until(
	'the job runs elsewhere',
	sub { (grep { $_->{minute} > $run->{minute} } runs('half'))[0] },
	30 + 120 / $speed);
is($next->{minute}, $run->{minute} + 1,
	'a server is killed in the middle of a run: the next one is that of the next minute');
isnt($next->{node}, $run->{node}, 'on another server');

# etcd restarts, the dead server comes back.
$etcd->kill9;
$etcd->start;
start_with_clock($victim);
wait_for_minutes('long', 4);
wait_for_minutes('short', 7);
$_->safe_psql('postgres', 'SELECT cron.unschedule(jobid) FROM cron.job')
  foreach @nodes;
wait_until(
	'the last runs end',
	sub {
		!grep { $_->safe_psql('postgres', 'SELECT 1 FROM etcd_locks WHERE pid IS NOT NULL LIMIT 1') } @nodes;
	},
	30 + 180 / $speed);

foreach my $job (sort keys %job)
{
	my @runs = runs($job);
	my $starts = starts($job);
	my @minutes = sort { $a <=> $b } keys %$starts;
	my $overlaps = grep
	{
		my ($one, $other) = @runs[ $_ - 1, $_ ];
		$other->{start} < ($one->{end} // $killed_at);
	} 1 .. $#runs;
	my @missed = grep { !$starts->{$_} } $minutes[0] .. $minutes[-1];

	note "$job:";
	note "    $_" foreach describe($job);
	is($overlaps, 0, "$job: runs do not overlap");
	if ($job eq 'locked')
	{
		cmp_ok(scalar(@runs), '>', scalar(@minutes),
			'locked: a lock alone does not keep a job from running again');
		next;
	}
	is(scalar(grep { $_ > 1 } values %$starts), 0, "$job: no minute ran twice");
	if ($job eq 'short' || $job eq 'half')
	{
		is("@missed", '', "$job: no minute was left out") or diag_minutes($job);
	}
	cmp_ok(scalar(@missed), '>=', 1, 'punctual: minutes under a long run are left out')
	  if $job eq 'punctual';
}
my ($unfinished) = grep { !$_->{end} } runs('half');
is($unfinished->{minute}, $run->{minute}, 'the killed run never ended');
cmp_ok(scalar(keys %{ { map { $_->{node} => 1 } map { runs($_) } keys %job } }),
	'>', 1, 'not all runs were on one server');

# All that is left is the last tick of each job, on a lease of the ticks' own, once no server
# keeps a lock any more.
wait_until('no lock is kept', sub { !grep { /-keep\d+$/ } $etcd->keys('') });
is_left_clean_but_ticks();

sub is_left_clean_but_ticks
{
	my @left = grep { $_->{key} !~ m{^\.etcd_lock/(?:server|primary)/} } $etcd->entries('');
	# Servers that come to it at once may make several.
	my %anchors = map { $_->{lease} => $_ }
	  grep { $_->{key} =~ m{^\.etcd_lock/tick_lease/[0-9a-f]+$} } @left;
	ok(%anchors && !$anchors{0}, 'the ticks have leases of their own');
	is_deeply(
		[
			map { $_->{key} . ($anchors{ $_->{lease} } ? '' : " on $_->{lease}") }
			sort { $a->{key} cmp $b->{key} } grep { $_->{key} !~ m{/tick_lease/} } @left
		],
		[ map { ".etcd_lock/tick//jobs/$_" } qw(half long punctual short) ],
		'the last ticks are kept on them, outside the locks');
	return;
}

$etcd->delete('.etcd_lock/tick/');
finish($etcd, @nodes);
