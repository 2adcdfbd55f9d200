#-------------------------------------------------------------------------
# Bench::Proc - what processes and etcd have used up, by their own accounts
#-------------------------------------------------------------------------
package Bench::Proc;

use strict;
use warnings;

use Exporter 'import';
use HTTP::Tiny;
use POSIX ();

our @EXPORT_OK = qw(cpu_us children_cpu_us children_of switches etcd_counters);

my $tick = 1e6 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
my $http = HTTP::Tiny->new(timeout => 10, keep_alive => 1);

sub slurp
{
	my ($file) = @_;
	open my $handle, '<', $file or die "$file: $!\n";
	local $/;
	return scalar <$handle>;
}

# The fields of /proc/<pid>/stat from the third on, as the second one may have
# spaces in it.
sub stat_of
{
	my ($pid) = @_;
	my ($rest) = slurp("/proc/$pid/stat") =~ /.*\) (.*)/s;
	return split ' ', $rest;
}

=pod

=over

=item cpu_us($pid)

Microseconds of CPU that a process with all its threads has used.

=cut

sub cpu_us
{
	my ($pid) = @_;
	my $us = 0;
	foreach my $task (glob "/proc/$pid/task/*/schedstat")
	{
		my ($ns) = eval { split ' ', slurp($task) } or next;
		$us += $ns / 1e3;
	}
	return $us if $us;

	# A kernel without schedstat.
	return $tick * ((stat_of($pid))[11] + (stat_of($pid))[12]);
}

=item children_cpu_us($pid)

The same of its children that have ended and that it has waited for.

=cut

sub children_cpu_us
{
	my ($pid) = @_;
	my @stat = stat_of($pid);
	return $tick * ($stat[13] + $stat[14]);
}

=item children_of($pid)

How many it has.

=cut

sub children_of
{
	my ($pid) = @_;
	return scalar grep {
		my ($stat) = eval { slurp($_) } // '';
		$stat =~ /.*\) \S (\d+)/s && $1 == $pid
	} glob '/proc/[0-9]*/stat';
}

=item switches($pid)

How often a process has gone to sleep by itself: so often it was woken.

=cut

sub switches
{
	my ($pid) = @_;
	my ($count) = slurp("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	return $count;
}

=item etcd_counters($endpoint)

From etcd's metrics: { requests, keepalives, proposals }.

=cut

sub etcd_counters
{
	my ($endpoint) = @_;
	my $answer = $http->get("$endpoint/metrics");
	die "no metrics of etcd: $answer->{status} $answer->{content}\n"
	  unless $answer->{success};

	my %counter = (requests => 0, keepalives => 0, proposals => 0);
	foreach (split /\n/, $answer->{content})
	{
		if (/^grpc_server_started_total\{.*grpc_method="(\w+)".*\} (\S+)/)
		{
			$counter{requests} += $2;
			$counter{keepalives} += $2 if $1 eq 'LeaseKeepAlive';
		}
		$counter{proposals} = $1 if /^etcd_server_proposals_committed_total (\S+)/;
	}
	return \%counter;
}

=back

=cut

1;
