#-------------------------------------------------------------------------
# Torture::Wire - a connection to a PostgreSQL server
#
# Speaks the protocol itself (simple or extended, a Unix socket, no password),
# because the checker goes by the moments at which messages leave and arrive,
# and needs to know whether a COMMIT was answered before the connection broke.
#-------------------------------------------------------------------------
package Torture::Wire;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::UNIX;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our @EXPORT_OK = qw(now nap);

=pod

=over

=item now()

Seconds on the clock that all processes of the machine share.

=cut

sub now { return clock_gettime(CLOCK_MONOTONIC) }

=item nap($seconds)

Sleep, shorter if a signal comes.

=cut

sub nap
{
	my ($seconds) = @_;
	select undef, undef, undef, $seconds if $seconds > 0;
	return;
}

=item Torture::Wire->connect($socket_path, $user, [$extended])

A connection to database postgres, or undef if there is none to be had.

=cut

sub connect
{
	my ($class, $path, $user, $extended) = @_;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or return;
	my $self = bless {
		socket => $socket,
		select => IO::Select->new($socket),
		in => '',
		extended => $extended
	  },
	  $class;

	my $body = pack 'N(Z*)*x', 196608, user => $user, database => 'postgres',
	  application_name => 'torture';
	$self->send_bytes(pack('N', 4 + length $body) . $body);
	my $answer = $self->answer(now() + 30);
	return if $answer->{closed} || $answer->{error};
	return $self;
}

=item $connection->query($sql, [$timeout])

Send statements and wait for the end of them all.  A hash: rows (of the
statements, lists of columns), tag (of the last one, as "COMMIT"), error and
notices (hashes by field, as C for SQLSTATE and M for message), closed (whether
the connection has ended), late (no answer in time), sent and received.

=cut

sub query
{
	my ($self, $sql, $timeout) = @_;
	my $sent = now();
	$self->send_bytes(
		$self->{extended}
		? join('', map { execute('', $_, 0) } split /;\s+/, $sql) . message('S', '')
		: message('Q', "$sql\0"));
	my $answer = $self->answer($sent + ($timeout // 120));
	$answer->{sent} = $sent;
	$answer->{received} = now();
	return $answer;
}

=item $connection->open($sql)

By the extended protocol, inside a transaction: fetch the first row only, and leave
the portal open, which ends with the transaction.

=cut

sub open
{
	my ($self, $sql) = @_;
	my $sent = now();
	$self->send_bytes(execute('p' . ++$self->{portals}, $sql, 1) . message('S', ''));
	my $answer = $self->answer($sent + 120);
	$answer->{sent} = $sent;
	$answer->{received} = now();
	return $answer;
}

=item $connection->value($sql)

The first column of the first row, or undef for whatever else happens.

=cut

sub value
{
	my ($self, $sql) = @_;
	return $self->query($sql, 10)->{rows}[0][0];
}

=item $connection->closed, $connection->close

=cut

sub closed { my ($self) = @_; return !$self->{socket} }

sub close
{
	my ($self) = @_;
	my $socket = delete $self->{socket} or return;
	CORE::close $socket;
	return;
}

=back

=cut

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body }

# Parse, Bind and Execute, for so many rows.
sub execute
{
	my ($portal, $sql, $rows) = @_;
	return message('P', "\0$sql\0" . pack('n', 0))
	  . message('B', "$portal\0\0" . pack('n3', 0, 0, 0))
	  . message('E', "$portal\0" . pack('N', $rows));
}

sub send_bytes
{
	my ($self, $bytes) = @_;
	return unless $self->{socket};
	while (length $bytes)
	{
		my $n = syswrite $self->{socket}, $bytes;
		next if !defined $n && $!{EINTR};
		# The reason may still be there to be read.
		last if !$n;
		substr $bytes, 0, $n, '';
	}
	return;
}

# Messages until the server is ready for the next query.
sub answer
{
	my ($self, $until) = @_;
	my %answer = (rows => [], notices => [], tag => '');

	while ($self->{socket})
	{
		while (length $self->{in} >= 5)
		{
			my ($type, $length) = unpack 'aN', $self->{in};
			last if length $self->{in} < 1 + $length;
			my $body = substr $self->{in}, 5, $length - 4;
			substr $self->{in}, 0, 1 + $length, '';

			if ($type eq 'D') { push @{ $answer{rows} }, columns($body) }
			elsif ($type eq 'C') { $answer{tag} = unpack 'Z*', $body }
			elsif ($type eq 'E') { $answer{error} //= fields($body) }
			elsif ($type eq 'N') { push @{ $answer{notices} }, fields($body) }
			elsif ($type eq 'Z') { return \%answer }
		}
		if (!$self->{select}->can_read(0.5))
		{
			next if now() < $until;
			$answer{late} = 1;
			last;
		}
		my $n = sysread $self->{socket}, $self->{in}, 65536, length $self->{in};
		last unless $n || !defined $n && $!{EINTR};
	}
	$self->close;
	$answer{closed} = 1;
	return \%answer;
}

sub columns
{
	my ($body) = @_;
	my $n = unpack 'n', $body;
	my $at = 2;
	my @columns;
	foreach (1 .. $n)
	{
		my $length = unpack 'l>', substr $body, $at, 4;
		$at += 4;
		push @columns, $length < 0 ? undef : substr $body, $at, $length;
		$at += $length if $length > 0;
	}
	return \@columns;
}

sub fields
{
	my ($body) = @_;
	return {
		map { /^(.)(.*)/s ? ($1 => $2) : () }
		split /\0/, $body
	};
}

1;
