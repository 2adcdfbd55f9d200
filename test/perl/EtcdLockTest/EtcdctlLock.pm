#-------------------------------------------------------------------------
# EtcdLockTest::EtcdctlLock - a lock taken by "etcdctl lock"
#
# etcdctl prints the name of its key once it has the lock, holds the lock until
# it gets a signal, and then unlocks.
#-------------------------------------------------------------------------
package EtcdLockTest::EtcdctlLock;

use strict;
use warnings;

use IPC::Run;

=pod

=over

=item EtcdLockTest::EtcdctlLock->new($etcd, $name, [$ttl])

Start "etcdctl lock $name"; it waits for the lock if it has to.  Its lease lives
for so many seconds without it; the default is long, as a short lease could end
while a loaded machine stalls.

=cut

# No two have a lease of the same length.
my $longest_ttl = 60;

sub new
{
	my ($class, $etcd, $name, $ttl) = @_;
	my $self = bless {
		stdout => '', stderr => '', etcd => $etcd,
		ttl => $ttl // ++$longest_ttl
	}, $class;

	local $ENV{ETCDCTL_API} = '3';
	$self->{run} = IPC::Run::start(
		[
			$ENV{ETCDCTL} // 'etcdctl', '--endpoints', $etcd->endpoint,
			'lock', '--ttl', $self->{ttl}, $name
		],
		'<', \undef, '>', \$self->{stdout}, '2>', \$self->{stderr});
	return $self;
}

=item $lock->held

Whether it has the lock by now.

=cut

sub held
{
	my ($self) = @_;
	$self->{run}->pump_nb if $self->{run}->pumpable;
	die "etcdctl lock: $self->{stderr}" if $self->{stderr} ne '';
	return $self->{stdout} ne '';
}

=item $lock->release

Unlock, or stop waiting, and end.  etcdctl leaves its lease behind: revoke it.

=cut

sub release
{
	my ($self) = @_;
	my $run = delete $self->{run} or return;
	$run->signal('TERM');
	$run->finish;
	my $etcd = $self->{etcd};
	$etcd->revoke($_)
	  foreach grep { ($etcd->granted_ttl($_) // 0) == $self->{ttl} } $etcd->leases;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->{run}->kill_kill if $self->{run} && ${^GLOBAL_PHASE} ne 'DESTRUCT';
	return;
}

=back

=cut

1;
