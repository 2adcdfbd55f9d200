#-------------------------------------------------------------------------
# EtcdLockTest::Driver - a program that uses the locks by a driver
#
# What it understands, test/world/drivers/README.md says.  The environment names
# where the compiled ones are (DRIVERS), and node's modules (NODE_MODULES).
#-------------------------------------------------------------------------
package EtcdLockTest::Driver;

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IO::Handle;
use IO::Select;
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

my $sources = File::Spec->rel2abs(dirname(__FILE__) . '/../../world/drivers');
my $programs = $ENV{DRIVERS} // '';
my $node_modules = $ENV{NODE_MODULES} // '';

# Each driver: the command, and what shows that it is there.
my %DRIVERS = (
	(map { ("libpq $_" => { command => [ "$programs/libpq", $_ ] }) }
		  qw(simple extended prepared pipeline)),
	(map {
			my $module = $_;
			($module => {
				command => [ 'python3', "$sources/psycopg.py", $module ],
				needs => [ 'python3', '-I', '-c', "import $module" ]
			})
		} qw(psycopg psycopg2)),
	'node-postgres' => {
		command => [ 'node', "$sources/node.js" ],
		environment => { NODE_PATH => $node_modules },
		needs => [ 'node', '-e', "require('$node_modules/pg')" ]
	},
	'JDBC' => { command => ["$programs/jdbc"] },
	'pgx' => { command => ["$programs/pgx"] },
	'pq' => { command => ["$programs/pq"] });

# Every instance, so that END finds those that a dying test leaves running.
my @all;

=pod

=over

=item EtcdLockTest::Driver::names

The names of all drivers.

=cut

sub names { return sort keys %DRIVERS }

=item EtcdLockTest::Driver::available($name)

Whether it can be tested here.

=cut

sub available
{
	my ($name) = @_;
	my $driver = $DRIVERS{$name};
	return -x $driver->{command}[0] unless $driver->{needs};
	return IPC::Run::run($driver->{needs}, '<', \'', '>&', \my $output);
}

=item EtcdLockTest::Driver->new($name, A => $node, B => $node)

Start it.

=cut

sub new
{
	my ($class, $name, %nodes) = @_;
	my $driver = $DRIVERS{$name};
	my $self = bless { name => $name, received => '', owner => $$ }, $class;

	pipe(my $in, $self->{to}) or die "could not make a pipe: $!";
	pipe($self->{from}, my $out) or die "could not make a pipe: $!";
	$self->{pid} = fork // die "could not fork: $!";
	if ($self->{pid} == 0)
	{
		delete @ENV{ grep { /^PG/ } keys %ENV };
		$ENV{$_} = $nodes{$_}->port foreach keys %nodes;
		%ENV = (%ENV, %{ $driver->{environment} // {} });
		open STDIN, '<&', $in or POSIX::_exit(126);
		open STDOUT, '>&', $out or POSIX::_exit(126);
		close $_ foreach $self->{to}, $self->{from};
		{
			no warnings 'exec';
			exec @{ $driver->{command} };
		}
		POSIX::_exit(127);
	}
	close $_ foreach $in, $out;
	$self->{to}->autoflush;
	push @all, $self;
	return $self;
}

sub name { my ($self) = @_; return $self->{name} }

=item $driver->send(@fields), $driver->answer

Send a command; wait for what comes back, without the "ok" of a success.

=cut

sub send
{
	my ($self, @fields) = @_;
	print { $self->{to} } join("\t", @fields), "\n" or die "$self->{name}: $!";
	$self->{command} = "@fields";
	return $self;
}

sub answer
{
	my ($self) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;

	while (index($self->{received}, "\n") < 0)
	{
		my $left = $until - time;
		die "$self->{name}: no answer to $self->{command}"
		  if $left <= 0
		  || !IO::Select->new($self->{from})->can_read($left)
		  || !sysread($self->{from}, $self->{received}, 65536, length $self->{received});
	}
	my ($line, $left) = split /\n/, $self->{received}, 2;
	$self->{received} = $left;
	my ($status, $rest) = split /\t/, $line, 2;
	return $status eq 'ok' ? $rest : "$status $rest";
}

=item $driver->ask(@fields)

Both.

=cut

sub ask { my ($self, @fields) = @_; return $self->send(@fields)->answer }

=item $driver->stop

End it.

=cut

sub stop
{
	my ($self) = @_;
	return unless $self->{owner} == $$;
	my $pid = delete $self->{pid} or return;
	close $self->{to};
	kill 'TERM', $pid;
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
