#-------------------------------------------------------------------------
# EtcdLockTest::Pgbouncer - a pgbouncer in front of a server
#
# The environment may name the program (PGBOUNCER) and where its libraries are
# (PGBOUNCER_LIBRARY_PATH).
#-------------------------------------------------------------------------
package EtcdLockTest::Pgbouncer;

use strict;
use warnings;

use EtcdLockTest::Session;
use File::Spec;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

# Every instance, so that END finds those that a dying test leaves running.
my @all;

=pod

=over

=item EtcdLockTest::Pgbouncer->available

Whether there is one to test with.

=cut

sub available
{
	my $pid = launch('--version');
	waitpid $pid, 0;
	return $? == 0;
}

=item EtcdLockTest::Pgbouncer->new($node, %settings)

Start one, with these settings for pgbouncer.ini.  It knows the server's roles,
and clients need no password.

=cut

sub new
{
	my ($class, $node, %settings) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $self = bless {
		node => $node,
		dir => $dir,
		log => "$PostgreSQL::Test::Utils::log_path/pgbouncer" . @all . '.log',
		port => PostgreSQL::Test::Cluster::get_free_port(),
		owner => $$,
	}, $class;

	%settings = (
		listen_addr => '',
		listen_port => $self->{port},
		unix_socket_dir => $dir,
		auth_type => 'trust',
		auth_file => "$dir/users",
		logfile => File::Spec->rel2abs($self->{log}),
		%settings);
	append_to_file(
		"$dir/users",
		$node->safe_psql(
			'postgres',
			q(SELECT format('"%s" ""', rolname) FROM pg_roles WHERE rolcanlogin))
		  . "\n");
	append_to_file(
		"$dir/pgbouncer.ini",
		join "\n", '[databases]',
		'* = host=' . $node->host . ' port=' . $node->port,
		'[pgbouncer]', (map { "$_ = $settings{$_}" } sort keys %settings), '');

	my $pid = launch("$dir/pgbouncer.ini");
	$self->{pid} = $pid;
	push @all, $self;

	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	until (-S "$dir/.s.PGSQL.$self->{port}")
	{
		die "pgbouncer does not start, see $self->{log}"
		  if time > $until || waitpid($pid, POSIX::WNOHANG()) == $pid;
		sleep 0.02;
	}
	return $self;
}

# Run the program; returns its process id.
sub launch
{
	my @args = @_;
	my $pid = fork // die "could not fork: $!";
	return $pid if $pid;

	$ENV{LD_LIBRARY_PATH} = $ENV{PGBOUNCER_LIBRARY_PATH}
	  if $ENV{PGBOUNCER_LIBRARY_PATH};
	open STDOUT, '>', '/dev/null' or POSIX::_exit(126);
	open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
	{
		no warnings 'exec';
		exec $ENV{PGBOUNCER} || 'pgbouncer', @args;
	}
	POSIX::_exit(127);
}

=item $pgbouncer->connstr($db)

How clients connect to it.

=cut

sub connstr
{
	my ($self, $db) = @_;
	return "host=$self->{dir} port=$self->{port} dbname=$db";
}

=item $pgbouncer->session(%options)

A session through it: see EtcdLockTest::Session.  With a pool that shares
connections its pid() is that of the backend of its first query.

=cut

sub session
{
	my ($self, %options) = @_;
	return EtcdLockTest::Session->new($self->{node}, via => $self, %options);
}

=item $pgbouncer->stop

End it, and its connections.

=cut

sub stop
{
	my ($self) = @_;
	return unless $self->{owner} == $$;
	my $pid = delete $self->{pid} or return;
	# From 1.23 on TERM waits for the clients, and QUIT does not.
	kill 'TERM', $pid;
	foreach (1 .. 20)
	{
		return if waitpid($pid, POSIX::WNOHANG()) == $pid;
		sleep 0.1;
	}
	kill 'QUIT', $pid;
	waitpid $pid, 0;
	return;
}

=back

=cut

END
{
	my $exit_code = $?;
	$_->stop for @all;
	$? = $exit_code;
}

1;
