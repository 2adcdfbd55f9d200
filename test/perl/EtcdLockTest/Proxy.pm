#-------------------------------------------------------------------------
# EtcdLockTest::Proxy - a test/grpcproxy in front of an etcd
#
# What its rules are, test/grpcproxy says.  For what speaks HTTP/1.1 (members of
# etcd among each other, its JSON gateway) it can be a test/faultproxy instead.
#-------------------------------------------------------------------------
package EtcdLockTest::Proxy;

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IO::Handle;
use JSON::PP;
use POSIX ();

my $dir = File::Spec->rel2abs(dirname(__FILE__) . '/../..');

# Every instance, so that END finds those that a dying test leaves running.
my @all;

=pod

=over

=item EtcdLockTest::Proxy->new($url, %options)

Start one in front of the etcd with this URL; it passes everything on.  Option:
http1 (a test/faultproxy).

=cut

sub new
{
	my ($class, $url, %options) = @_;
	my @program = $options{http1} ? ($^X, "$dir/faultproxy") : "$dir/grpcproxy";
	my ($address) = $url =~ m{^http://([^/]+)$} or die "not a URL: $url";
	my $self = bless { owner => $$ }, $class;

	pipe(my $commands, $self->{commands}) or die "could not make a pipe: $!";
	pipe($self->{answers}, my $answers) or die "could not make a pipe: $!";
	$self->{pid} = fork // die "could not fork: $!";
	if ($self->{pid} == 0)
	{
		open STDIN, '<&', $commands or POSIX::_exit(126);
		open STDOUT, '>&', $answers or POSIX::_exit(126);
		close $_ foreach $self->{commands}, $self->{answers};
		{
			no warnings 'exec';
			exec @program, $address;
		}
		POSIX::_exit(127);
	}
	close $_ foreach $commands, $answers;
	$self->{commands}->autoflush;
	push @all, $self;
	my $port = readline($self->{answers}) // die 'the proxy did not start';
	chomp $port;
	$self->{url} = "http://127.0.0.1:$port";
	return $self;
}

=item $proxy->url

Its URL, for etcd_lock.endpoints.

=cut

sub url { my ($self) = @_; return $self->{url} }

# Send a command and wait for its answer.
sub command
{
	my ($self, $command) = @_;
	print { $self->{commands} } encode_json($command), "\n"
	  or die "could not write to the proxy: $!";
	my $answer = readline $self->{answers};
	return decode_json($answer // die 'the proxy has ended');
}

=item $proxy->rules(@rules)

Replace its rules, hashes; none: everything is passed on from now on.

=cut

sub rules
{
	my ($self, @rules) = @_;
	$self->command({ rules => \@rules });
	return;
}

=item EtcdLockTest::Proxy::refusal($code, $message)

What makes a rule answer in etcd's place that it refuses, with this gRPC code.

=cut

sub refusal
{
	my ($code, $message) = @_;
	return (do => 'answer', code => $code, message => $message);
}

=item $proxy->hits([$name])

How many exchanges have met a rule of this name (without: that has no name).

=cut

sub hits
{
	my ($self, $name) = @_;
	return $self->command({ do => 'status' })->{hits}{ $name // 'rule' } // 0;
}

=item $proxy->requests

How many requests have come.

=cut

sub requests
{
	my ($self) = @_;
	return $self->command({ do => 'status' })->{requests};
}

=item $proxy->open($path)

How many calls of this path are open.

=cut

sub open
{
	my ($self, $path) = @_;
	return $self->command({ do => 'status' })->{open}{$path} // 0;
}

=item $proxy->connections

How many connections there are.

=cut

sub connections { my ($self) = @_; return $self->command({ do => 'status' })->{connections} }

=item $proxy->refuse, $proxy->accept, $proxy->reset, $proxy->goaway

Refuse connections and reset those that exist; accept them again; only reset
those that exist, or take no more calls on them.

=cut

sub refuse { my ($self) = @_; $self->command({ do => 'refuse' }); return }
sub accept { my ($self) = @_; $self->command({ do => 'accept' }); return }
sub goaway { my ($self) = @_; $self->command({ do => 'goaway' }); return }
sub reset { my ($self) = @_; $self->command({ do => 'reset' }); return }

=item $proxy->stop

End it and close its connections.

=cut

sub stop
{
	my ($self) = @_;
	return unless $self->{owner} == $$;
	my $pid = delete $self->{pid} or return;
	close $self->{commands};
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
