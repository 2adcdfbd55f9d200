#-------------------------------------------------------------------------
# EtcdLockTest::EtcdCluster - a throwaway etcd with several members
#
# The members reach each other through a fault proxy in front of each, so that
# one can be cut off from the others while its clients still reach it.
#-------------------------------------------------------------------------
package EtcdLockTest::EtcdCluster;

use strict;
use warnings;

use EtcdLockTest::Etcd;
use EtcdLockTest::Proxy;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

=pod

=over

=item EtcdLockTest::EtcdCluster->new([$n], %options)

A cluster of so many members (default 3), started and healthy.  The options are
those of EtcdLockTest::Etcd.

=cut

sub new
{
	my ($class, $n, %options) = @_;
	my @members =
	  map { EtcdLockTest::Etcd->new(%options, start => 0) } 1 .. $n // 3;
	my $self = bless { members => \@members }, $class;

	foreach my $member (@members)
	{
		$member->{proxy} = EtcdLockTest::Proxy->new($member->{peer}, http1 => 1);
		$member->{advertised_peer} = $member->{proxy}->url;
	}
	my $cluster = join ',', map { $_->as_member } @members;
	$_->{cluster} = $cluster foreach @members;
	$_->launch foreach @members;
	$_->wait_healthy foreach @members;
	return $self;
}

=item $cluster->members

The members, each an EtcdLockTest::Etcd.

=cut

sub members { my ($self) = @_; return @{ $self->{members} } }

=item $cluster->endpoints(@members)

Their client URLs (default: all members'), for etcd_lock.endpoints.

=cut

sub endpoints
{
	my ($self, @members) = @_;
	@members = $self->members unless @members;
	return join ',', map { $_->endpoint } @members;
}

=item $cluster->leader([$not])

The member that leads: asked of a member other than $not, and another one than
that.  Waits until there is one.

=cut

sub leader
{
	my ($self, $not) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $until)
	{
		foreach my $member (grep { $_->{pid} && (!$not || $_ != $not) } $self->members)
		{
			my $status = eval { $member->call('/v3/maintenance/status', {}) };
			next unless $status && $status->{leader};
			return $member
			  if $status->{leader} eq $status->{header}{member_id};
		}
		sleep 0.05;
	}
	die "the cluster has no leader\n";
}

=item $cluster->cut_off($member), $cluster->join_again

Nothing passes between this member and the others, in either direction, until
it does again.

=cut

sub cut_off
{
	my ($self, $member) = @_;
	my $id = sprintf '%x',
	  $member->call('/v3/maintenance/status', {})->{header}{member_id};

	foreach my $other ($self->members)
	{
		$other->{proxy}->rules(
			$other == $member
			? { do => 'hold' }
			: { head => "^x-server-from: $id\r", do => 'hold' });
	}
	return;
}

sub join_again
{
	my ($self) = @_;
	foreach my $member ($self->members)
	{
		$member->{proxy}->rules;
		$member->{proxy}->reset;
	}
	return;
}

=item $cluster->stop

End all members.

=cut

sub stop
{
	my ($self) = @_;
	$_->kill9 foreach $self->members;
	$_->{proxy}->stop foreach $self->members;
	return;
}

=back

=cut

1;
