#-------------------------------------------------------------------------
# EtcdLockTest::Wire - a database session by the extended protocol
#
# psql of PostgreSQL 15 speaks the simple protocol only; most drivers speak the
# extended one, whose portals stay open until their transaction ends.  This
# speaks it message by message, so that a test can also leave a portal open, or
# send a pipeline.  Otherwise it is used like EtcdLockTest::Session.
#-------------------------------------------------------------------------
package EtcdLockTest::Wire;

use strict;
use warnings;

use Carp;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

=pod

=over

=item EtcdLockTest::Wire->new($node, %options)

Connect.  Options: db (default postgres), user, settings (hash of further parameters
of the startup message, such as client_encoding).

=cut

sub new
{
	my ($class, $node, %options) = @_;
	my $path = $node->host . '/.s.PGSQL.' . $node->port;
	my $self = bless {
		node => $node,
		in => '',
		pending => 0,
		socket => IO::Socket::UNIX->new(Peer => $path) // croak("cannot connect to $path: $!"),
	}, $class;
	my %startup = (
		user => $options{user} // $ENV{PGUSER} // scalar getpwuid($>),
		database => $options{db} // 'postgres',
		application_name => 'wire',
		%{ $options{settings} // {} });
	my $body = pack('N', 196608) . join('', map { "$_\0$startup{$_}\0" } sort keys %startup) . "\0";

	$self->{socket}->blocking(0);
	$self->write_bytes(pack('N', 4 + length $body) . $body);
	$self->{pending} = 1;
	$self->{sql} = '(startup)';
	$self->start_result;
	my $result = $self->result;
	croak "cannot connect: $result->{err}" if $result->{sqlstate} ne '';
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
}

=item $session->pid

The process id of its backend.

=cut

sub pid { my ($self) = @_; return $self->{pid} }

=item $session->pipeline(@steps)

Send steps, and return at once.  Each is a statement, which is parsed, bound without
a name and executed to its end; or a reference to a list: "sync"; "flush"; "open",
portal, statement, rows: leave the portal open after so many rows.  A Sync is sent
behind them.

=cut

sub pipeline
{
	my ($self, @steps) = @_;
	croak "a query still runs: $self->{sql}" if $self->{pending};

	my $out = '';
	$self->{pending} = 1;
	$self->{sql} = join '; ', map { ref $_ ? "@$_" : $_ } @steps;
	foreach my $step (@steps)
	{
		if (!ref $step)
		{
			$out .= execute_messages('', $step, 0);
		}
		elsif ($step->[0] eq 'sync')
		{
			$out .= message('S', '');
			$self->{pending}++;
		}
		elsif ($step->[0] eq 'flush')
		{
			$out .= message('H', '');
		}
		else
		{
			$out .= execute_messages(@$step[ 1 .. 3 ]);
		}
	}
	$self->start_result;
	$self->write_bytes($out . message('S', ''));
	return $self;
}

=item $session->send($sql)

Send one or more statements, each with a Sync of its own, and return at once.  They
are told apart by a semicolon at the end of a line, or with a space behind it.

=cut

sub send
{
	my ($self, $sql) = @_;
	my @steps = map { ($_, ['sync']) } grep { /\S/ } split /;(?:\s+|$)/, $sql;
	pop @steps;
	return $self->pipeline(@steps);
}

=item $session->done, result, try, query, quit, kill

As in EtcdLockTest::Session.  result() has the tags of the commands, too.

=cut

sub done
{
	my ($self) = @_;
	croak 'no query was sent' unless defined $self->{sql};
	$self->read_messages while $self->{pending} > 0 && $self->read_bytes;
	return $self->{pending} <= 0 || $self->{closed};
}

sub result
{
	my ($self, $timeout) = @_;
	my $until = time + ($timeout // $PostgreSQL::Test::Utils::timeout_default);

	until ($self->done)
	{
		confess "no answer to: $self->{sql}\n$self->{out}$self->{err}" if time > $until;
		sleep 0.0005;
	}
	my %result = (
		out => $self->{out},
		err => $self->{err},
		tags => $self->{tags},
		elapsed => time - $self->{sent},
		closed => $self->{closed} // 0,
		sqlstate => $self->{sqlstate} // '');
	chomp @result{qw(out err)};
	delete $self->{sql};
	$self->{pending} = 0;
	return \%result;
}

sub try { my ($self, $sql) = @_; return $self->send($sql)->result }

sub query
{
	my ($self, $sql) = @_;
	my $result = $self->try($sql);
	confess "failed: $sql\n$result->{err}" if $result->{closed} || $result->{sqlstate} ne '';
	return $result->{out};
}

sub quit
{
	my ($self) = @_;
	my $socket = $self->{socket} or return;
	$self->write_bytes(message('X', ''));
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	sleep 0.001 while !$self->{closed} && ($self->read_bytes || time < $until);
	return $self->kill;
}

sub kill
{
	my ($self) = @_;
	my $socket = delete $self->{socket} or return;
	close $socket;
	$self->{closed} = 1;
	return;
}

sub DESTROY { my ($self) = @_; return $self->kill }

=back

=cut

#
# Messages
#

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body }

sub execute_messages
{
	my ($portal, $sql, $rows) = @_;
	return message('P', "\0$sql\0" . pack('n', 0))
	  . message('B', "$portal\0\0" . pack('n n n', 0, 0, 0))
	  . message('E', "$portal\0" . pack('N', $rows));
}

sub start_result
{
	my ($self) = @_;
	@$self{qw(out err)} = ('', '');
	$self->{tags} = [];
	$self->{sqlstate} = undef;
	$self->{sent} = time;
	return;
}

sub write_bytes
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while (length $bytes && $self->{socket})
	{
		my $n = syswrite $self->{socket}, $bytes;
		if (defined $n) { substr $bytes, 0, $n, '' }
		elsif ($!{EAGAIN}) { sleep 0.001 }
		# The reason may still be there to be read.
		else { last }
	}
	return;
}

# False: there was nothing to read.
sub read_bytes
{
	my ($self) = @_;
	return 0 if $self->{closed} || !$self->{socket};
	my $n = sysread $self->{socket}, $self->{in}, 65536, length $self->{in};
	return 1 if $n;
	$self->{closed} = 1 if defined $n || !$!{EAGAIN};
	return 0;
}

my %label = (S => '', C => '', M => '', D => 'DETAIL', H => 'HINT', W => 'CONTEXT');

# As psql shows an error or a notice, with VERBOSITY verbose.
sub shown
{
	my ($body) = @_;
	my %field = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $body;
	return (
		"$field{S}:  $field{C}: $field{M}\n"
		  . join('', map { exists $field{$_} ? "$label{$_}:  $field{$_}\n" : () } qw(D H W)),
		$field{S}, $field{C});
}

sub read_messages
{
	my ($self) = @_;

	while (length $self->{in} >= 5)
	{
		my ($type, $length) = unpack 'a N', $self->{in};
		last if length $self->{in} < 1 + $length;
		my $body = substr $self->{in}, 5, $length - 4;
		substr $self->{in}, 0, 1 + $length, '';

		if ($type eq 'D')
		{
			my ($n, $rest) = unpack 'n a*', $body;
			my @values;
			foreach (1 .. $n)
			{
				my $len = unpack 'N', $rest;
				my $null = $len == 0xffffffff;
				push @values, $null ? '' : substr $rest, 4, $len;
				substr $rest, 0, 4 + ($null ? 0 : $len), '';
			}
			$self->{out} .= join('|', @values) . "\n";
		}
		elsif ($type eq 'E' || $type eq 'N')
		{
			my ($text, $severity, $state) = shown($body);
			$self->{err} .= $text;
			$self->{sqlstate} //= $state if $type eq 'E';
		}
		elsif ($type eq 'C') { push @{ $self->{tags} }, $body =~ s/\0//r }
		elsif ($type eq 'Z') { $self->{pending}--; $self->{status} = $body }
	}
	return;
}

1;
