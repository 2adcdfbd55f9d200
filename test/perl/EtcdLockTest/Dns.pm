#-------------------------------------------------------------------------
# EtcdLockTest::Dns - a name server of the test's own
#
# Answers A, AAAA and SRV questions from a table that the test may change, and may
# fall silent.  c-ares asks the system's name server; a library for LD_PRELOAD has
# it ask this one instead.
#-------------------------------------------------------------------------
package EtcdLockTest::Dns;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Utils;
use POSIX ();
use Socket qw(inet_aton inet_pton AF_INET6);

my %type_of = (A => 1, AAAA => 28, SRV => 33);

# Every instance, so that END finds those that a dying test leaves running.
my @all;

=pod

=over

=item EtcdLockTest::Dns->new

Start it, with an empty table.

=cut

sub new
{
	my ($class) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir('dns');
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'udp')
	  or die "could not open a socket: $!";
	my $self = bless { dir => $dir, owner => $$, port => $socket->sockport, table => {} }, $class;

	chmod 0755, $dir;
	$self->write;
	$self->compile;
	$self->{pid} = fork // die "could not fork: $!";
	if ($self->{pid} == 0)
	{
		# POSIX::_exit: the END blocks are the parent's business.
		eval { serve($socket, "$dir/table") };
		POSIX::_exit(0);
	}
	push @all, $self;
	return $self;
}

=item $dns->library

What to put into LD_PRELOAD.

=cut

sub library { my ($self) = @_; return "$self->{dir}/dns.so" }

=item $dns->set($name, $type, @values)

What a name is; no values: there is nothing of this type.  SRV's are "host port" or
"host port priority".  A type "silent" with a value: nothing about the name is answered.

=cut

sub set
{
	my ($self, $name, $type, @values) = @_;
	$self->{table}{names}{ lc $name }{$type} = \@values;
	$self->write;
	return;
}

=item $dns->silent($bool)

From now on it answers nothing, or everything.

=cut

sub silent
{
	my ($self, $silent) = @_;
	$self->{table}{silent} = $silent ? 1 : 0;
	$self->write;
	return;
}

=item $dns->asked

How many questions have come.

=cut

sub asked { my ($self) = @_; return -s "$self->{dir}/table.asked" // 0 }

=item $dns->stop

End it.

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

sub write
{
	my ($self) = @_;
	my $file = "$self->{dir}/table";
	unlink "$file.new";
	PostgreSQL::Test::Utils::append_to_file("$file.new", encode_json($self->{table}));
	rename "$file.new", $file or die "could not rename: $!";
	return;
}

sub compile
{
	my ($self) = @_;
	PostgreSQL::Test::Utils::append_to_file("$self->{dir}/dns.c", <<"END");
#define _GNU_SOURCE
#include <dlfcn.h>

/* Not from <ares.h>, whose types differ between releases. */
int
ares_init_options(void **channel, void *options, int mask)
{
	int			(*real) (void **, void *, int) = dlsym(RTLD_NEXT, "ares_init_options");
	int			(*servers) (void *, const char *) =
		dlsym(RTLD_DEFAULT, "ares_set_servers_ports_csv");
	int			rc = real(channel, options, mask);

	if (rc == 0)
		servers(*channel, "127.0.0.1:$self->{port}");
	return rc;
}
END
	system('gcc', '-shared', '-fPIC', '-o', $self->library, "$self->{dir}/dns.c", '-ldl') == 0
	  or die 'could not compile the library';
	return;
}

sub serve
{
	my ($socket, $file) = @_;
	while ($socket->recv(my $question, 512))
	{
		open my $asked, '>>', "$file.asked" or die;
		print $asked '.';
		close $asked;
		my $table = decode_json(PostgreSQL::Test::Utils::slurp_file($file));
		next if $table->{silent};
		my $answer = answer($question, $table->{names} // {});
		$socket->send($answer) if defined $answer;
	}
	return;
}

sub wire_name { return join('', map { pack 'C/a', $_ } split /\./, $_[0]) . "\0" }

sub answer
{
	my ($question, $names) = @_;
	my $id = substr $question, 0, 2;
	my ($at, @labels) = (12);
	while (my $len = ord substr $question, $at, 1)
	{
		push @labels, substr $question, $at + 1, $len;
		$at += 1 + $len;
	}
	my $asked = substr $question, 12, $at + 5 - 12;
	my ($type) = unpack 'n', substr $question, $at + 1, 2;
	my $entry = $names->{ lc join '.', @labels };
	return undef if $entry && @{ $entry->{silent} // [] };
	my ($kind) = grep { $type_of{$_} == $type } keys %type_of;
	my @data = map { record($kind, $_) } @{ $kind && $entry ? $entry->{$kind} // [] : [] };
	my $records = join '', map { pack 'n n n N n/a', 0xc00c, $type, 1, 1, $_ } @data;
	return $id . pack('n5', $entry ? 0x8180 : 0x8183, 1, scalar @data, 0, 0) . $asked . $records;
}

sub record
{
	my ($kind, $value) = @_;
	return inet_aton($value) if $kind eq 'A';
	return inet_pton(AF_INET6, $value) if $kind eq 'AAAA';
	my ($host, $port, $priority) = split / /, $value;
	return pack('n3', $priority // 0, 0, $port) . wire_name($host);
}

END
{
	my $exit_code = $?;
	$_->stop for @all;
	$? = $exit_code;
}

1;
