#!/usr/bin/env perl
#-------------------------------------------------------------------------
# torture.pl - sessions on several servers lock, while everything else fails
#
# Started by test/torture/run or test/run torture; README.md tells what it does
# and what it checks.
#-------------------------------------------------------------------------
use strict;
use warnings;

use feature 'state';

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Getopt::Long;

my ($here, %option);

# The library that the servers load is chosen, and a weakened one built, before
# the modules for tests look for it.
BEGIN
{
	$here = abs_path(dirname(__FILE__));
	%option = (
		seconds => 60,
		seed => int rand 1_000_000,
		servers => 3,
		sessions => 24,
		names => 6,
		ttl => 3,
		grace => 10,
		weaken => '',
		only => '');
	GetOptions(\%option, 'seconds=i', 'seed=i', 'servers=i', 'sessions=i',
		'names=i', 'ttl=i', 'grace=i', 'weaken=s', 'only=s')
	  && !@ARGV
	  && $option{weaken} =~ /^(guard|deadline|none|)$/
	  or die <<'END';
usage: torture.pl [--seconds N] [--seed N] [--weaken guard|deadline|none]
                  [--servers N] [--sessions N] [--names N] [--ttl SECONDS]
                  [--grace SECONDS] [--only FAILURE,...]
END

	if ($option{weaken} eq 'deadline')
	{
		my $dir =
		  ($ENV{TESTDATADIR} // ($ENV{TESTDIR} // '.') . '/tmp_check') . '/weakened';
		my $top = abs_path("$here/../..");
		system("mkdir -p '$dir' && cd '$dir' && "
			  . "cp -R '$top/Makefile' '$top/etcd_lock.control' '$top/src' '$top/sql' . && "
			  . "rm -f src/*.o src/*/*.o && make -s -j\$(nproc) COPT=-DETCD_LOCK_WEAKEN_DEADLINE "
			  . "DESTDIR=\"\$PWD/stage\" install >make.log 2>&1") == 0
		  or die "could not build the weakened library, see $dir/make.log\n";
		$ENV{ETCD_LOCK_STAGE} = "$dir/stage";
	}
}

use lib $here, "$here/../perl";
use EtcdLockTest;
use EtcdLockTest::Proxy;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX qw(WNOHANG);
use Test::More;
use Torture::Checker;
use Torture::EtcdCluster;
use Torture::Nemesis;
use Torture::Session;
use Torture::Wire qw(now nap);

my $aim = $option{weaken} ne '';
my $weak = $aim && $option{weaken} ne 'none';
my $user = getpwuid $>;
my %session;    # pid => number
my $main = $$;

$option{only} ||= 'worker_stop_long' if $aim;

diag "seed $option{seed}: " . join ' ', map { "$_=$option{$_}" }
  grep { $option{$_} ne '' && $_ ne 'seed' } sort keys %option;

#
# What there is
#

my $etcd = Torture::EtcdCluster->new;

my $store = new_server('store', preload => 0);
$store->start;

# As in SQL: some are text, some are integers.
my @names =
  map { $_ % 5 == 4 ? 1000 + $_ : "'/torture/$_'" } 0 .. $option{names} - 1;

# One for each server, which takes it again and again.
my @hot = map { "'/torture/hot/$_'" } 0 .. $option{servers} - 1;
$store->safe_psql('postgres',
	"CREATE TABLE counter (name text PRIMARY KEY, value bigint DEFAULT 0,"
	  . " writer text DEFAULT 'nobody', fence bigint DEFAULT 0, fenced bigint DEFAULT 0);"
	  . join('', map { "INSERT INTO counter VALUES (\$\$$_\$\$);" } @names, @hot));

my (@nodes, @proxies);
foreach my $i (0 .. $option{servers} - 1)
{
	# A server's links to all members can fail without those of the others;
	# each begins with another member.
	$proxies[$i] =
	  [ map { EtcdLockTest::Proxy->new($etcd->url(($i + $_) % 3)) } 0 .. 2 ];
	my $node = start_server(
		"server$i",
		endpoints => join(',', map { $_->url } @{ $proxies[$i] }),
		init => { allows_streaming => 1 },
		conf => join "\n",
		"etcd_lock.lease_ttl = '$option{ttl}s'",
		"etcd_lock.connect_timeout = '3s'",
		"etcd_lock.request_timeout = '2s'",
		"wal_sender_timeout = '3s'",
		$option{weaken} eq 'guard'
		? ("etcd_lock.commit_guard = 'off'", "etcd_lock.on_loss = 'warn'", '')
		: '');
	$node->safe_psql('postgres', 'CREATE TABLE done (id text PRIMARY KEY, token bigint)');
	push @nodes, $node;
}

# The first one waits for a standby at each commit, which takes no part in locking.
my $standby;
if (!$aim)
{
	$nodes[0]->backup('standby');
	$standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($nodes[0], 'standby', has_streaming => 1);
	$standby->append_conf('postgresql.conf', <<'END');
shared_preload_libraries = ''
wal_retrieve_retry_interval = '200ms'
END
	$standby->start;
	$nodes[0]->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'");
	$nodes[0]->reload;
}

sub log_of { return "$PostgreSQL::Test::Utils::log_path/$_[0].jsonl" }

my $nemesis = Torture::Nemesis->new(
	seed => $option{seed},
	ttl => $option{ttl},
	nodes => \@nodes,
	standby => $standby,
	etcd => $etcd,
	proxies => \@proxies,
	user => $user,
	aim => $aim,
	log => "$PostgreSQL::Test::Utils::log_path/nemesis.log",
	only => [
		  $option{only}
		? split(/,/, $option{only})
		: Torture::Nemesis->kinds
	]);

#
# The run
#

my $began = now();
foreach my $number (0 .. $option{sessions} - 1)
{
	my $server = $number % @nodes;
	my $pid = Torture::Session::start(
		number => $number,
		server => $server,
		seed => $option{seed},
		names => \@names,
		hot => \@hot,
		ttl => $option{ttl},
		aim => $aim,
		extended => int($number / @nodes) % 2,
		user => $user,
		socket => socket_of($nodes[$server]),
		store => socket_of($store),
		log => log_of("session$number"));
	$session{$pid} = $number;
}

sub socket_of { my ($node) = @_; return $node->host . '/.s.PGSQL.' . $node->port }

my $bad_ends = 0;


# What a run of a minute must have shown of kept keys: the nemesis, if it may, and sessions.
my @kept_kinds = grep { my $kind = $_; grep { $_ eq $kind } split /,/, $option{only} || join ',', Torture::Nemesis->kinds }
  qw(kept_death kept_try);
my $is_long = !$aim && $option{seconds} >= 60;
my %most_kept;    # server's life => column of etcd_lock_stats => its highest value

nap(2);
while (now() < $began + $option{seconds}
	|| $weak && !is_caught()
	|| $is_long && !has_kept() && now() < $began + 2 * $option{seconds})
{
	$nemesis->insist(@kept_kinds) if $is_long && now() > $began + $option{seconds} / 2;
	$nemesis->step;
	note_kept();
	nap(0.02);
}

# A crash, and a start, begin the counters anew.
sub note_kept
{
	state $next = 0;
	return if now() < $next;
	$next = now() + 0.3;
	foreach my $server (grep { !$nemesis->is_down($_) } 0 .. $#nodes)
	{
		my $row = $nemesis->ask($server,
			"SELECT concat_ws(' ', extract(epoch FROM stats_reset), reused, kept, given_up) FROM etcd_lock_stats")
		  // next;
		my ($life, %value);
		($life, @value{qw(reused kept given_up)}) = split / /, $row;
		my $most = $most_kept{"$server $life"} //= {};
		foreach (keys %value) { $most->{$_} = $value{$_} if $value{$_} > ($most->{$_} // 0) }
	}
	return;
}

# A column's highest values, added up over all servers and their lives.
sub kept_in_all
{
	my ($column) = @_;
	my $sum = 0;
	$sum += $_->{$column} // 0 foreach values %most_kept;
	return $sum;
}

sub has_kept
{
	return !$nemesis->missing && !grep { !kept_in_all($_) } qw(reused kept given_up);
}

# Whether what is weak has shown: by chance that takes longer, now and then.
sub is_caught
{
	state $next = 0;
	return 0 if now() < $next;
	$next = now() + 5;
	return 1 if now() > $began + 6 * $option{seconds};
	my @so_far = Torture::Checker::committed([ read_events() ], { read_rows() });
	return Torture::Checker::lost_updates(@so_far) > 0
	  && Torture::Checker::overlaps(@so_far) > 0;
}

kill 'USR1', keys %session;
my $is_healed = $nemesis->heal_all;
my $healed = now();
nap(0.1) while now() < $healed + $option{ttl} + $option{grace};
kill 'USR2', keys %session;
my $until = now() + 60;
while (now() < $until)
{
	reap_sessions();
	last unless %session;
	nap(0.1);
}

# Only them: others wait for their own children.
sub reap_sessions
{
	foreach my $pid (keys %session)
	{
		next unless waitpid($pid, WNOHANG) == $pid;
		$bad_ends++ if $?;
		delete $session{$pid};
	}
	return;
}

# What the sessions have noted, but for a line that is not complete yet.
sub read_events
{
	my @events;
	foreach my $number (0 .. $option{sessions} - 1)
	{
		open my $file, '<', log_of("session$number") or die "session $number: $!";
		push @events, map { decode_json($_) } grep { /\n\z/ } <$file>;
	}
	return
	  sort { ($a->{at} // $a->{done} // 0) <=> ($b->{at} // $b->{done} // 0) } @events;
}

# What is in the servers' tables: server => { id => 1 }.
sub read_rows
{
	my %rows;
	foreach my $i (0 .. $#nodes)
	{
		$rows{$i}{$_} = 1
		  foreach split /\n/, $nodes[$i]->safe_psql('postgres', 'SELECT id FROM done');
	}
	return %rows;
}

#
# What became of it
#

my @stuck = values %session;
my @events = read_events();
my %rows = read_rows();
my %fenced = map { split /\t/ }
  split /\n/, $store->safe_psql('postgres', "SELECT name || E'\\t' || fenced FROM counter");
my @committed = Torture::Checker::committed(\@events, \%rows);
my @robbed = Torture::Checker::robbed(\@committed, [ $nemesis->thefts ]);
my %is_robbed = map { $_ => 1 } @robbed;
my @guarded = grep { !$is_robbed{$_} } @committed;

# A test for nothing wrong; else the first few of what is.
sub none
{
	my ($name, @found) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!@found, $name)
	  or diag(@found . " found, seed $option{seed}:\n" . join "\n",
		@found[ 0 .. ($#found < 4 ? $#found : 4) ]);
	return;
}

my @lost_updates = Torture::Checker::lost_updates(@guarded);
my @overlaps = Torture::Checker::overlaps(@guarded);
my @fence = Torture::Checker::fence_violations(\@events, \%fenced);
my $again = 0;

if ($weak)
{
	ok(@lost_updates > 0, "weakened, $option{weaken}: lost updates are found");
	ok(@overlaps > 0, "weakened, $option{weaken}: two holders at a time are found");
	diag scalar(@lost_updates) . ' lost updates, ' . @overlaps . ' overlaps; the first ones:';
	diag $_ foreach grep { defined } $lost_updates[0], $overlaps[0];
	none('fencing by the token holds all the same', @fence);
}
else
{
	none('no update was lost', @lost_updates);
	none('no two held a lock at the same time', @overlaps);
	none('nothing changed under a shared lock',
		Torture::Checker::shared_violations(@guarded));
	none('tokens rise in the order of commits',
		Torture::Checker::token_violations(@guarded));
	none('what is told of a commit is true',
		Torture::Checker::row_violations(\@events, \%rows));
	none('fencing by the token has kept every write', @fence);
	none('no commit was acknowledged without its standby',
		Torture::Checker::unreplicated(\@committed, [ $nemesis->outages ], [ $nemesis->cancels ]));
	check_recovery();
}
check_what_ran();
check_what_is_left();
summary();
done_testing();

# Every session was granted a lock again, and soon.
sub check_recovery
{
	my %again;
	foreach my $event (grep { $_->{t} eq 'grant' && $_->{at} > $healed } @events)
	{
		$again{ $event->{session} } //= $event->{at} - $healed;
	}
	foreach (values %again) { $again = $_ if $_ > $again }
	ok($is_healed, 'servers and etcd are up again');
	none(
		"everybody was granted again within $option{ttl} + $option{grace} s",
		map { "session $_: " . ($again{$_} // 'never') }
		  grep { ($again{$_} // 1e9) > $option{ttl} + $option{grace} }
		  0 .. $option{sessions} - 1);
	return;
}

sub check_what_ran
{
	none('no session hangs', map { "session $_" } @stuck);
	none('no statement hangs',
		map { "session $_->{session}: $_->{sql}" }
		  grep { $_->{t} eq 'op' && $_->{end} eq 'stuck' } @events);
	is($bad_ends, 0, 'no session ended by a fault of the test');
	my %kind;
	$kind{"$_->{mode} $_->{scope}"}++ foreach @committed;
	is(scalar(keys %kind), 4, 'exclusive and shared locks of both scopes were in use')
	  or diag explain \%kind;

	if ($is_long)
	{
		none('keys were kept, used again and given up', grep { !kept_in_all($_) } qw(reused kept given_up));
		none('the nemesis has met kept keys', $nemesis->missing);
	}
	none(
		'no server crashed by itself',
		map {
			my $node = $_;
			map { $node->name . ": $_" }
			  grep { /PANIC|TRAP:|terminated by signal (?!9\b)/ }
			  split /\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile)
		} @nodes);
	return;
}

# Nothing of a lock stays behind while the servers run, nothing at all after.
sub check_what_is_left
{
	$_->rules foreach map { @$_ } @proxies;
	foreach my $node (@nodes)
	{
		none_soon('no row is left in etcd_locks of ' . $node->name,
			sub { [ split /\n/, $node->safe_psql('postgres', 'SELECT * FROM etcd_locks') ] });
	}
	none_soon('no lock is left in etcd', sub { $etcd->any('lock_keys') });
	none_soon(
		'one lease for each server',
		sub {
			my $leases = $etcd->any('leases') // return;
			return @$leases == @nodes ? [] : $leases;
		});
	$_->stop('fast') foreach @nodes, $standby // ();
	none_soon('servers stopped: no key is left in etcd', sub { $etcd->any('keys', '') });
	none_soon('servers stopped: no lease is left in etcd', sub { $etcd->any('leases') });
	return;
}

sub none_soon
{
	my ($name, $list) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $left;
	my $until = now() + $option{ttl} + $option{grace};
	while (1)
	{
		$left = $list->();
		last if $left && !@$left || now() > $until;
		nap(0.1);
	}
	none($name, $left ? @$left : 'no response from etcd');
	return;
}

sub summary
{
	my (%end, %outcome);
	$end{ $_->{end} }++ foreach grep { $_->{t} eq 'op' } @events;
	$outcome{ $_->{outcome} . ($_->{state} ? " $_->{state}" : '') }++
	  foreach grep { $_->{t} eq 'txn' } @events;
	my $operations = 0;
	$operations += $_ foreach values %end;
	my $wait = 0;
	foreach (grep { $_->{t} eq 'grant' } @events)
	{
		$wait = $_->{at} - $_->{asked} if $_->{at} - $_->{asked} > $wait;
	}
	my $count = $nemesis->count;
	my $nemeses = 0;
	$nemeses += $_ foreach values %$count;

	diag "seed $option{seed}, $option{seconds} s";
	diag "operations: $operations, by their end: " . in_words(\%end);
	diag 'guarded transactions: ' . in_words(\%outcome);
	diag 'commits: ' . @committed . ', of them unconfirmed '
	  . (grep { $_->{outcome} eq 'unknown' } @committed)
	  . ', told of a loss behind the commit ' . (grep { $_->{t} eq 'late' } @events)
	  . ', not checked because robbed ' . @robbed;
	diag 'refused commits: ' . ($outcome{'refused EL002'} // 0) . ', losses: '
	  . (($end{EL001} // 0) + ($end{EL002} // 0) + ($end{lost} // 0));
	diag "nemesis: $nemeses, " . in_words($count);
	diag 'kept keys: ' . in_words({ map { $_ => kept_in_all($_) } qw(reused kept given_up) });
	diag sprintf 'longest wait for a lock: %.2f s; granted again at the end after %.2f s',
	  $wait, $again;
	return;
}

sub in_words
{
	my ($count) = @_;
	return join ', ', map { "$_ $count->{$_}" } sort keys %$count;
}

# Sessions end with the test.
END
{
	my $exit_code = $?;
	if (defined $main && $$ == $main)
	{
		kill 'KILL', keys %session;
		if ($nemesis) { $_->resume foreach $etcd->members }
	}
	$? = $exit_code;
}
