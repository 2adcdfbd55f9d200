#-------------------------------------------------------------------------
# EtcdLockTest - what the TAP tests of etcd_lock share
#
# Run them as a user that may run initdb (not root), with PostgreSQL's Perl
# modules and this directory in the include path:
#
#   prove -I "$(dirname "$(pg_config --pgxs)")/../test/perl" -I test/perl test/t
#
# The environment may name the etcd to test with (ETCD, ETCDCTL), and the
# directory that "make DESTDIR=... install" filled (ETCD_LOCK_STAGE); without
# it the installed extension is tested.
#-------------------------------------------------------------------------
package EtcdLockTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use File::Spec;
use List::Util qw(max min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use EtcdLockTest::Certificates;
use EtcdLockTest::Etcd;
use EtcdLockTest::EtcdctlLock;
use EtcdLockTest::FakeEndpoint;
use EtcdLockTest::Session;

our @EXPORT = qw(
  session
  fastest
  finish
  forget_peak
  higher_token
  is_left_clean
  is_logged
  median
  memory_of
  new_server
  send_sleep
  set_endpoints
  start_server
  start_servers
  wait_until
  wait_until_blocked
  wait_until_locks_work
  wait_until_queued
  wait_until_waiting
  worker_pid
);

# PostgreSQL::Test::Cluster needs the server's programs and pg_regress.
BEGIN
{
	my ($bindir, $libdir, $pgxs) =
	  map { my $path = `pg_config $_`; chomp $path; $path }
	  qw(--bindir --pkglibdir --pgxs);

	$ENV{PATH} = "$bindir:$ENV{PATH}";
	$ENV{PG_REGRESS} //=
	  File::Spec->rel2abs(dirname($pgxs) . '/../test/regress/pg_regress');

	if (my $stage = $ENV{ETCD_LOCK_STAGE})
	{
		$ENV{ETCD_LOCK_STAGE} = $stage = File::Spec->rel2abs($stage);
		-d "$stage$libdir"
		  or die "nothing is installed in ETCD_LOCK_STAGE=$stage\n";
		$EtcdLockTest::staged_libdir = "$stage$libdir";
	}
}

# A test that is told to stop runs its END blocks, which end what it started.
$SIG{$_} = sub { exit 1 }
  foreach qw(INT TERM HUP);

=pod

=head1 Servers

=over

=item start_servers($etcd, @names)

Start servers with the extension created in database postgres: a list of nodes.

=cut

sub start_servers
{
	my ($etcd, @names) = @_;
	return map { start_server($_, endpoints => $etcd->endpoint) } @names;
}

=item start_server($name, %options)

One of them, with the options of new_server.

=cut

sub start_server
{
	my $node = new_server(@_);
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
	return $node;
}

=item new_server($name, %options)

A node, initialized and not started.  Options: endpoints; preload (default 1);
conf (further lines for postgresql.conf); init (arguments of the node's init).

=cut

sub new_server
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my %init = %{ $options{init} // {} };

	$node->init(extra => [ '--encoding=UTF8', '--locale=C' ], %init);
	$node->append_conf('postgresql.conf', install_conf());
	$node->append_conf('postgresql.conf', <<'END');
log_statement = none
restart_after_crash = on
max_connections = 150
deadlock_timeout = 200ms
authentication_timeout = 10min
END
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'etcd_lock'")
	  if $options{preload} // 1;
	$node->append_conf('postgresql.conf',
		"etcd_lock.endpoints = '$options{endpoints}'")
	  if defined $options{endpoints};
	$node->append_conf('postgresql.conf', $options{conf})
	  if defined $options{conf};
	return $node;
}

# The settings that find an extension that is not installed system-wide.
sub install_conf
{
	return '' unless $ENV{ETCD_LOCK_STAGE};

	my $conf =
	  "dynamic_library_path = '$EtcdLockTest::staged_libdir:\$libdir'\n";
	my ($version) = `pg_config --version` =~ /(\d+)/;
	my $sharedir = `pg_config --sharedir`;
	chomp $sharedir;

	# Debian patches the first one into its releases before 18.
	return $conf
	  . (
		$version >= 18
		? "extension_control_path = '$ENV{ETCD_LOCK_STAGE}$sharedir:\$system'\n"
		: "extension_destdir = '$ENV{ETCD_LOCK_STAGE}'\n");
}

=item set_endpoints($node, $endpoints)

Change etcd_lock.endpoints and reload.

=cut

sub set_endpoints
{
	my ($node, $endpoints) = @_;
	$node->safe_psql('postgres',
		"ALTER SYSTEM SET etcd_lock.endpoints = '$endpoints'");
	$node->reload;
	return;
}

=item worker_pid($node)

The process id of the extension's background worker, or empty.

=cut

sub worker_pid
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type ~ '^etcd_lock'");
}

=item memory_of($pid, $field)

What /proc says of a process, in kilobytes: VmRSS, or VmHWM for its peak since
forget_peak($pid), which returns what it has now.

=cut

sub memory_of
{
	my ($pid, $field) = @_;
	open my $status, '<', "/proc/$pid/status" or die "process $pid is gone: $!";
	my ($kb) = map { /^$field:\s+(\d+) kB/ ? $1 : () } <$status>;
	return $kb;
}

sub forget_peak
{
	my ($pid) = @_;
	open my $refs, '>', "/proc/$pid/clear_refs" or die "clear_refs: $!";
	print $refs "5\n";
	close $refs or die "clear_refs: $!";
	return memory_of($pid, 'VmRSS');
}

=item session($node, %options)

A new session: see EtcdLockTest::Session.

=cut

sub session { return EtcdLockTest::Session->new(@_) }

=back

=head1 Waiting for conditions

=over

=item wait_until($what, $condition, [$timeout])

Call $condition until it returns true, and return that.  After the timeout:
fail the test file with "$what".

=cut

sub wait_until
{
	my ($what, $condition, $timeout) = @_;
	my $until = time + ($timeout // $PostgreSQL::Test::Utils::timeout_default);

	while (1)
	{
		my $began = time;
		my $value = $condition->();
		return $value if $value;
		die "timed out waiting: $what\n" if time > $until;

		# The more a look costs, the longer the machine is left to what is waited for.
		sleep min(max(0.01, 2 * (time - $began)), 0.2);
	}
}

=item fastest($limit, $measure)

The seconds that $measure returns; if they are not below the limit, the least of
three attempts.  A machine that stalls for a moment says nothing about what is
measured.

=cut

sub fastest
{
	my ($limit, $measure) = @_;
	my $least;

	foreach my $attempt (1 .. 3)
	{
		my $seconds = $measure->();
		$least = $seconds if !defined $least || $seconds < $least;
		last if $least < $limit;
	}
	return $least;
}

=item wait_until_waiting($session...)

Wait until the statement of each session waits for a lock, be it for another
session of its server or for another server.

=cut

sub wait_until_waiting
{
	return wait_until_each_has(
		'SELECT 1 FROM etcd_locks WHERE pid = %s AND NOT granted AND NOT lost', @_);
}

=item wait_until_blocked($session...)

The same for a lock of any kind: a row's or a table's, too.

=cut

sub wait_until_blocked
{
	return wait_until_each_has(<<'SQL', @_);
SELECT 1 FROM etcd_locks WHERE pid = %1$s AND NOT granted AND NOT lost
UNION ALL SELECT 1 FROM pg_locks WHERE pid = %1$s AND NOT granted LIMIT 1
SQL
}

=item wait_until_queued($etcd, $session...)

The same, and a wait for an etcd lock has its key in etcd, which decides who came
first.

=cut

sub wait_until_queued
{
	my ($etcd, @sessions) = @_;
	foreach my $session (@sessions)
	{
		wait_until_blocked($session);
		my ($pid, $node) = ($session->pid, $session->{node});
		my $lock = $node->safe_psql('postgres',
			"SELECT name, mode FROM etcd_locks WHERE pid = $pid AND NOT granted") || next;
		my ($name, $mode) = split /\|/, $lock;
		my $part = $mode eq 'shared' ? 'read' : 'write';
		my $lease = $node->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status');

		# what may be in front of it: a namespace, or what makes an integer a name
		my $key = qr{^(?:[\w/]+/|\.etcd_lock/int/\w+/)?\Q$name/$part/$lease-\E};
		wait_until("backend $pid is in the queue", sub { grep { /$key/ } $etcd->keys('') });
	}
	return;
}

# Wait until the query returns something for the process of each session (%s).
sub wait_until_each_has
{
	my ($query, @sessions) = @_;
	foreach my $session (@sessions)
	{
		my $pid = $session->pid;
		wait_until(
			"backend $pid waits",
			sub {
				die "backend $pid does not wait: $session->{stdout}"
				  . $session->{stderr}
				  if $session->done;
				return $session->{node}->safe_psql('postgres', sprintf($query, $pid));
			});
	}
	return;
}

=item send_sleep($session)

Send a statement that sleeps for a minute, and wait until it does, so that a cancel
meets it and not an idle session.

=cut

sub send_sleep
{
	my ($session) = @_;
	my $pid = $session->pid;
	$session->send('SELECT pg_sleep(60)');
	wait_until(
		"backend $pid sleeps",
		sub {
			return $session->{node}->safe_psql('postgres',
				"SELECT 1 FROM pg_stat_activity WHERE pid = $pid AND wait_event = 'PgSleep'");
		});
	return;
}

=item wait_until_locks_work($session)

Wait until its server grants locks again.

=cut

sub wait_until_locks_work
{
	my ($session) = @_;
	wait_until('locks work again',
		sub { $session->try("SELECT etcd_try_lock('/again')")->{out} eq 't' });
	$session->query("SELECT etcd_unlock('/again')");
	return;
}

=back

=head1 Results

=over

=item median(@numbers)

=cut

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return $sorted[ @sorted / 2 ];
}

=item is_logged($node, $offset, $pattern, $name)

Check that the server's log has soon something that matches, behind this offset.

=cut

sub is_logged
{
	my ($node, $offset, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found = eval {
		wait_until($name,
			sub { slurp_file($node->logfile, $offset) =~ $pattern }, 60);
	};
	ok($found, $name)
	  or diag(slurp_file($node->logfile, $offset) =~ /(etcd_lock: .*)/g);
	return;
}

=item higher_token($token, $name)

Check that a token is higher than all before, in a test with one lock.

=cut

my $highest_token = 0;

sub higher_token
{
	my ($token, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	cmp_ok($token, '>', $highest_token, "$name: the token is higher than all before");
	$highest_token = $token if $token > $highest_token;
	return;
}

=item is_left_clean($etcd, @nodes)

Check that nothing is left while the servers run: no lock in etcd, only the
key of each running server; no row in etcd_locks.

=cut

# Sooner than what was left behind is found on a lease that lives for a minute.
my $PATIENCE = 10;

sub is_left_clean
{
	my ($etcd, @nodes) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_empty('no lock is left in etcd', sub { $etcd->left_keys }, $PATIENCE);
	foreach my $node (@nodes)
	{
		is_empty('no row is left in etcd_locks of ' . $node->name,
			sub { $node->safe_psql('postgres', 'SELECT * FROM etcd_locks') || () },
			$PATIENCE);
	}
	return;
}

=item finish($etcd, @nodes)

The end of a test file: stop the servers gracefully, check that etcd has no key
and no lease but those of ticks, and stop it.

=cut

sub finish
{
	my ($etcd, @nodes) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$_->stop('fast') foreach @nodes;
	$etcd->forget_ticks;
	# Sooner than a lease that is not revoked ends by itself.
	is_empty('servers stopped: no key is left in etcd',
		sub { $etcd->keys('') }, 5);
	is_empty('servers stopped: no lease is left in etcd',
		sub { $etcd->leases }, 5);
	$etcd->stop;
	done_testing();
	return;
}

=back

=cut

# Check that a list becomes empty within some seconds.
sub is_empty
{
	my ($name, $list, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @left;

	eval {
		wait_until($name, sub { @left = $list->(); return !@left }, $seconds);
		1;
	};
	ok(!@left, $name) or diag(join "\n", @left);
	return;
}

1;
