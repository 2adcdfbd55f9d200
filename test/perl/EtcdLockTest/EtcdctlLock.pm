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

=item EtcdLockTest::EtcdctlLock->new($etcd, $name)

Start "etcdctl lock $name"; it waits for the lock if it has to.

=cut

sub new
{
	my ($class, $etcd, $name) = @_;
	my $self = bless { stdout => '', stderr => '' }, $class;

	# etcdctl leaves its lease behind when it ends: let that live briefly.
	local $ENV{ETCDCTL_API} = '3';
	$self->{run} = IPC::Run::start(
		[
			$ENV{ETCDCTL} // 'etcdctl', '--endpoints', $etcd->endpoint,
			'lock', '--ttl', '2', $name
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

Unlock, or stop waiting, and end.

=cut

sub release
{
	my ($self) = @_;
	my $run = delete $self->{run} or return;
	$run->signal('TERM');
	$run->finish;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->{run}->kill_kill if $self->{run};
	return;
}

=back

=cut

1;
