# Which locks of other clients of etcd exclude ours, and are excluded by ours: tests
# each row of doc/interop.md.

use strict;
use warnings;

use EtcdLockTest;
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

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

foreach (sort keys %missing)
{
  SKIP: { skip "$missing{$_} is not installed", 1 }
}

# Some leave their leases, which live on for a minute.
$session->quit;
$server->stop('fast');
$etcd->stop;
done_testing();
