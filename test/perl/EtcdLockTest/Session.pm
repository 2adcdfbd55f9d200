#-------------------------------------------------------------------------
# EtcdLockTest::Session - a database session that may wait
#
# A psql that can be sent a query without waiting for its end, so that one test
# can have several sessions waiting for each other.  Errors come with SQLSTATE.
#-------------------------------------------------------------------------
package EtcdLockTest::Session;

use strict;
use warnings;

use Carp;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

=pod

=over

=item EtcdLockTest::Session->new($node, %options)

Connect.  Options: db (default postgres), user, env (hash of environment
variables for psql), via (an EtcdLockTest::Pgbouncer).

=cut

sub new
{
	my ($class, $node, %options) = @_;
	my $connstr = ($options{via} // $node)->connstr($options{db} // 'postgres');
	$connstr .= " user=$options{user}" if $options{user};

	my $self = bless {
		node => $node,
		stdin => '',
		stdout => '',
		stderr => '',
		number => 0,
	}, $class;

	local %ENV = (%ENV, %{ $options{env} // {} });
	$self->{run} = IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq',
			'-v', 'VERBOSITY=verbose',
			'-d', $connstr, '-f', '-'
		],
		'<', \$self->{stdin}, '>', \$self->{stdout}, '2>', \$self->{stderr});
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
}

=item $session->pid

The process id of its backend.

=cut

sub pid { my ($self) = @_; return $self->{pid} }

=item $session->send($sql)

Send one or more statements and return at once.

=cut

sub send
{
	my ($self, $sql) = @_;
	croak "a query still runs: $self->{sql}" if defined $self->{sql};

	$self->{sql} = $sql;
	$self->{banner} = 'end of query ' . ++$self->{number};
	$self->{sent} = time;
	$self->{stdin} .=
	  "$sql\n;\n\\echo '$self->{banner}'\n\\warn '$self->{banner}'\n";
	$self->pump;
	return $self;
}

=item $session->done

Whether the statements sent have ended, or the session has.

=cut

sub done
{
	my ($self) = @_;
	croak 'no query was sent' unless defined $self->{sql};

	my $alive = $self->pump;
	return 1 if !$alive;
	return $self->{stdout} =~ /^\Q$self->{banner}\E$/m
	  && $self->{stderr} =~ /^\Q$self->{banner}\E$/m;
}

=item $session->result([$timeout])

Wait for the end of the statements sent.  A hash: out and err (what psql wrote),
sqlstate (of the first error, or empty), elapsed (seconds since they were sent),
closed (whether the session has ended).

=cut

sub result
{
	my ($self, $timeout) = @_;
	my $until = time + ($timeout // $PostgreSQL::Test::Utils::timeout_default);

	until ($self->done)
	{
		confess "no answer to: $self->{sql}\n$self->{stdout}$self->{stderr}"
		  if time > $until;
		sleep 0.002;
	}

	my %result = (
		out => $self->{stdout},
		err => $self->{stderr},
		elapsed => time - $self->{sent},
		closed => !$self->pump);
	s/^\Q$self->{banner}\E\n//m for @result{qw(out err)};
	chomp @result{qw(out err)};
	($result{sqlstate}) = $result{err} =~ /(?:ERROR|FATAL|PANIC):\s+(\w{5}):/;
	$result{sqlstate} //= '';

	@$self{qw(stdout stderr)} = ('', '');
	delete $self->{sql};
	return \%result;
}

=item $session->try($sql)

Send statements and wait for their end, whatever it is: result() of them.

=cut

sub try { my ($self, $sql) = @_; return $self->send($sql)->result }

=item $session->query($sql)

The output of statements that have to succeed.

=cut

sub query
{
	my ($self, $sql) = @_;
	my $result = $self->try($sql);
	confess "failed: $sql\n$result->{err}"
	  if $result->{closed} || $result->{sqlstate} ne '';
	return $result->{out};
}

=item $session->quit

Close the session and wait for psql's end.

=cut

sub quit
{
	my ($self) = @_;
	my $run = delete $self->{run} or return;
	$self->{stdin} .= "\\q\n";
	eval { $run->finish };
	return;
}

=item $session->kill

Close the connection at once, even if a query still runs.

=cut

sub kill
{
	my ($self) = @_;
	my $run = delete $self->{run} or return;
	eval { $run->kill_kill };
	return;
}

# When the test ends, what it needs may be gone before it; then psql ends by itself, as
# nobody writes to it any more.
sub DESTROY
{
	my ($self) = @_;
	return ${^GLOBAL_PHASE} eq 'DESTRUCT' ? undef : $self->kill;
}

=back

=cut

# Exchange what there is to exchange with psql.  False: psql has ended.
sub pump
{
	my ($self) = @_;
	return 0 unless $self->{run};

	# A psql whose connection was closed ends; then writing to it fails.
	return eval { $self->{run}->pump_nb } // 0 if $self->{run}->pumpable;
	return 0;
}

1;
