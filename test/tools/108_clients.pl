# Which locks of other clients of etcd exclude ours, and are excluded by ours: tests
# each row of doc/interop.md.  A key that our server only keeps goes as soon as one of them asks.

use strict;
use warnings;

use EtcdLockTest;
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $programs = dirname(__FILE__) . '/clients';
my $gopath = '/usr/share/gocode';
my $etcd = EtcdLockTest::Etcd->new;
my ($server) = start_servers($etcd, 'here');
my $session = session($server);
my ($host, $port) = $etcd->endpoint =~ m{//(.+):(\d+)};

# The commands to take a lock with: "%s" is its name.
my (%command, %missing);
my $dir = PostgreSQL::Test::Utils::tempdir('clients');

if (-d "$gopath/src/go.etcd.io/etcd/contrib/recipes")
{
	local @ENV{qw(GOPATH GO111MODULE GOCACHE)} = ($gopath, 'off', "$dir/cache");
	my ($output, $ok) = ('');
	$ok = eval { IPC::Run::run([ 'go', 'build', '-o', "$dir/lock", "$programs/lock.go" ], '>&', \$output) };
	ok($ok, 'the Go client compiles') or diag($output);
	$command{"Go $_"} = [ "$dir/lock", $etcd->endpoint, $_, '%s' ]
	  foreach qw(mutex read write v3lock);
}
else
{
	$missing{Go} = 'golang-etcd-server-dev';
}
if (-d '/usr/lib/python3/dist-packages/etcd3')
{
	$command{python3} = [ '/usr/bin/python3', "$programs/lock.py", $host, $port, '%s' ];
}
else
{
	$missing{python3} = 'python3-etcd3';
}
if ($ENV{ETCD3_MODULES} && -d "$ENV{ETCD3_MODULES}/etcd3")
{
	$command{node} = [ 'env', "NODE_PATH=$ENV{ETCD3_MODULES}", 'node', "$programs/lock.js", $etcd->endpoint, '%s' ];
}
else
{
	$missing{node} = "npm's etcd3";
}
$command{etcdctl} = [];

sub start
{
	my ($who, $name) = @_;
	my $client = { out => '', in => '' };
	return EtcdLockTest::EtcdctlLock->new($etcd, $name) if $who eq 'etcdctl';
	local $ENV{ETCDCTL_API} = 3;
	$client->{run} = IPC::Run::start([ map { s/^%s$/$name/r } @{ $command{$who} } ],
		'<', \$client->{in}, '>', \$client->{out}, '2>', \$client->{err});
	return $client;
}

sub held
{
	my ($client) = @_;
	return $client->held if ref $client eq 'EtcdLockTest::EtcdctlLock';
	eval { $client->{run}->pump_nb } if $client->{run}->pumpable;
	return $client->{out} =~ /held/;
}

# Its input ends, and with it its lock.
sub end
{
	my ($client) = @_;
	return $client->release if ref $client eq 'EtcdLockTest::EtcdctlLock';
	eval { $client->{run}->finish };
	return;
}

# As long as it holds NAME, which of our modes are refused?
sub excludes
{
	my ($who, $name, $ours) = @_;
	my $client = start($who, $name);
	wait_until("$who holds $name", sub { held($client) });
	my $got = join ' ', map {
		my $got = $session->query("SELECT etcd_try_lock$_('$ours')");
		$session->query("SELECT etcd_unlock$_('$ours')") if $got eq 't';
		$got eq 'f' ? 1 : 0;
	} '', '_shared';
	end($client);
	return $got;
}

# In which of our modes do we keep it out?  One that is let in is so within seconds.
sub is_excluded
{
	my ($who, $name, $ours) = @_;
	return join ' ', map {
		$session->query("SELECT etcd_lock$_('$ours')");
		my $client = start($who, $name);
		my $queues = sub { $etcd->keys("$ours/") > 1 };
		my $let_in = 0;
		wait_until("$who waits for $name, or has it",
			sub { ($let_in = held($client)) || $queues->() });
		# One that waits goes on waiting.
		if (!$let_in)
		{
			my $until = time + 2;
			wait_until('some time passes', sub { ($let_in = held($client)) || time >= $until });
		}
		$session->query("SELECT etcd_unlock$_('$ours')");
		wait_until("$who has $name", sub { held($client) });
		end($client);
		$let_in ? 0 : 1;
	} '', '_shared';
}

# Exclusive and shared: does theirs exclude ours, and ours theirs?  RWMutex's readers
# look at writers only, so nothing keeps them out but an exclusive lock of ours.
my %expected = (
	etcdctl => [ '1 1', '1 1' ],
	'Go mutex' => [ '1 1', '1 1' ],
	'Go v3lock' => [ '1 1', '1 1' ],
	'Go write' => [ '1 1', '1 1' ],
	'Go read' => [ '1 0', '1 0' ],
	python3 => [ '0 0', '0 0' ],
	node => [ '0 0', '0 0' ]);

my %row;
foreach my $who (sort keys %command)
{
	my $name = '/interop/' . ($who =~ s/\W/_/gr);
	is(excludes($who, $name, $name), $expected{$who}[0], "$who excludes ours: exclusive, shared");
	is(is_excluded($who, $name, $name),
		$expected{$who}[1], "$who is excluded by ours: exclusive, shared");
	wait_until("$who leaves no key", sub { !$etcd->keys("$name/") });
}

# What doc/interop.md says of python3-etcd3: its keys are "/locks/NAME".
is(excludes('python3', 'job', '/locks'), '1 1', 'a lock named /locks waits for any of python3')
  if $command{python3};

#
# Hot names
#

# So that the end of the window is not what lets others in.
$server->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.keep_window = '10s'");
$server->reload;
wait_until('keep_window is 10s', sub { $session->query('SHOW etcd_lock.keep_window') eq '10s' });

# Until the server keeps the lock.  Returns the key.
sub heat
{
	my ($name, $mode) = @_;
	my $acquired = sub { $session->query('SELECT acquired_etcd FROM etcd_lock_stats') };
	wait_until(
		"$name is kept",
		sub {
			my $before = $acquired->();
			$session->query("SELECT etcd_lock$mode('$name'); SELECT etcd_unlock$mode('$name');" x 5);
			return $acquired->() == $before;
		});
	my ($key) = grep { /-keep10000$/ } $etcd->keys("$name/");
	return $key // die "$name is not kept\n";
}

sub given_up { return $session->query('SELECT given_up FROM etcd_lock_stats') }

# How long one takes to get a lock that our server keeps, what becomes of our key, and
# which of our modes are refused then.
sub takes_kept
{
	my ($who, $name, $mode) = @_;
	my $kept = heat($name, $mode);
	my $before = given_up();
	my $began = time;
	my $client = start($who, $name);
	wait_until("$who holds $name", sub { held($client) });
	my $took = time - $began;
	my $stays = grep { $_ eq $kept } $etcd->keys("$name/");
	my $given_up = given_up() - $before;
	my $tries = join ' ', map { $session->query("SELECT etcd_try_lock$_('$name')") } '', '_shared';
	$session->query('SELECT etcd_unlock_all()');
	end($client);
	return ($took, $stays ? 'stays' : $given_up == 1 ? 'given up' : 'gone', $tries);
}

# Our server takes the lock again and again, and the other client gets it, too: none of our
# times is in its own.  Both are of one clock.
$server->safe_psql('postgres', <<'SQL');
CREATE TABLE enough ();
CREATE FUNCTION busy(name text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	since timestamptz;
BEGIN
	WHILE NOT EXISTS (SELECT FROM enough) LOOP
		PERFORM etcd_lock(name);
		since := clock_timestamp();
		PERFORM pg_sleep(0.0005);
		RETURN NEXT concat_ws(' ', extract(epoch FROM since), extract(epoch FROM clock_timestamp()));
		PERFORM etcd_unlock(name);
	END LOOP;
END $$
SQL

# Until it has had the lock several times more.
sub goes_round
{
	my $count = sub { $server->safe_psql('postgres', 'SELECT reused FROM etcd_lock_stats') };
	my $from = $count->();
	wait_until('the lock goes round', sub { $count->() >= $from + 10 });
	return;
}

sub comes_between
{
	my ($who, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->safe_psql('postgres', 'TRUNCATE enough');
	$session->send("SELECT busy('$name')");
	goes_round();
	my $began = time;
	my $client = start($who, $name);
	wait_until("$who holds $name", sub { held($client) });
	my $since = time;
	sleep 0.3;
	my $until = time;
	end($client);
	goes_round();
	$server->safe_psql('postgres', 'INSERT INTO enough DEFAULT VALUES');
	my @ours = map { [ split / / ] } split /\n/, $session->result->{out};
	is(scalar(grep { $_->[0] < $until && $_->[1] > $since } @ours),
		0, "$who comes in between: it alone has the lock");
	ok((grep { $_->[1] < $since } @ours) && (grep { $_->[0] > $until } @ours),
		'... which our server had before and afterwards');
	cmp_ok($since - $began, '<', 5, '... and has not waited for long');
	return;
}

# Readers share a lock that our server has shared.
foreach my $who (grep { $expected{$_}[1] =~ /1/ } sort keys %command)
{
	my $name = '/kept/' . ($who =~ s/\W/_/gr);
	foreach my $mode ('', '_shared')
	{
		my $fate = $who eq 'Go read' && $mode ? 'stays' : 'given up';
		my @runs = map { [ takes_kept($who, $name, $mode) ] } 1 .. 5;
		my $took = median(map { $_->[0] } @runs);
		note sprintf '%s, etcd_lock%s: %.0f ms with the start of the program', $who, $mode, 1e3 * $took;

		# it may take long to start a program on a busy machine
		cmp_ok($took, '<', 5, "$who: gets what is kept by etcd_lock$mode, long before the window ends");
		is(join(', ', map { $_->[1] } @runs), join(', ', ($fate) x 5), "$who: ... the key: $fate");
		is(join(', ', map { $_->[2] } @runs), join(', ', ($who eq 'Go read' ? 'f t' : 'f f') x 5),
			"$who: ... and has the lock");
	}
	comes_between($who, $name);
}

foreach (sort keys %missing)
{
  SKIP: { skip "$missing{$_} is not installed", 1 }
}

# Some leave their leases, which live on for a minute.
$session->quit;
$server->stop('fast');
$etcd->stop;
done_testing();
