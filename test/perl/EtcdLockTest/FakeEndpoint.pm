#-------------------------------------------------------------------------
# EtcdLockTest::FakeEndpoint - something on a port that is not an etcd
#
# A real etcd responds properly, so wrong responses need a server of our own: it
# sends one fixed HTTP body to every request, or never anything.
#-------------------------------------------------------------------------
package EtcdLockTest::FakeEndpoint;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();

# Every instance, so that END finds those that a dying test leaves running.
my @all;

=pod

=over

=item EtcdLockTest::FakeEndpoint->new(%answer)

Start it.  %answer: body (none: it accepts connections and stays silent),
type (of the content), status (such as "200 OK").

=cut

sub new
{
	my ($class, %answer) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		Proto => 'tcp',
		Listen => 32) or die "could not listen: $!";
	my $self = bless {
		url => 'http://127.0.0.1:' . $listener->sockport,
		owner => $$
	}, $class;

	$self->{pid} = fork // die "could not fork: $!";
	if ($self->{pid} == 0)
	{
		# POSIX::_exit: the END blocks are the parent's business.
		eval { serve($listener, %answer) };
		POSIX::_exit(0);
	}
	close $listener;
	push @all, $self;
	return $self;
}

=item $fake->url

Its URL, for etcd_lock.endpoints.

=cut

sub url { my ($self) = @_; return $self->{url} }

=item $fake->stop

End it and close its connections.

=cut

sub stop
{
	my ($self) = @_;
	return unless $self->{owner} == $$;
	my $pid = delete $self->{pid} or return;
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

=back

=cut

# Accept connections and answer every complete request, for ever.
sub serve
{
	my ($listener, %answer) = @_;
	my $all = IO::Select->new($listener);
	my %received;

	while (my @ready = $all->can_read)
	{
		foreach my $socket (@ready)
		{
			if ($socket == $listener)
			{
				my $connection = $listener->accept;
				$all->add($connection) if $connection;
			}
			elsif (!sysread($socket, $received{$socket}, 65536,
					length($received{$socket} // '')))
			{
				$all->remove($socket);
				delete $received{$socket};
				close $socket;
			}
			elsif (defined $answer{body} && complete($received{$socket}))
			{
				$received{$socket} = '';
				syswrite $socket, response(%answer);
			}
		}
	}
	return;
}

# Whether a request has arrived with all of its body.
sub complete
{
	my ($request) = @_;
	my ($head, $body) = split /\r\n\r\n/, $request, 2;
	return 0 unless defined $body;
	my ($length) = $head =~ /^content-length:\s*(\d+)/mi;
	return length($body) >= ($length // 0);
}

sub response
{
	my (%answer) = @_;
	return join "\r\n", 'HTTP/1.1 ' . ($answer{status} // '200 OK'),
	  'Content-Type: ' . ($answer{type} // 'application/json'),
	  'Content-Length: ' . length($answer{body}), '', $answer{body};
}

END
{
	my $exit_code = $?;
	$_->stop for @all;
	$? = $exit_code;
}

1;
