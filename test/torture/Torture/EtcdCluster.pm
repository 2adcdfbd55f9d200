#-------------------------------------------------------------------------
# Torture::EtcdCluster - an etcd whose members come and go
#
# EtcdLockTest::EtcdCluster, asked of whichever member answers, and patient with
# those that do not.  Members go by their number, 0 and up.
#-------------------------------------------------------------------------
package Torture::EtcdCluster;

use strict;
use warnings;

use parent 'EtcdLockTest::EtcdCluster';

use HTTP::Tiny;

sub new
{
	my ($class, @arguments) = @_;
	my $self = $class->SUPER::new(@arguments);
	$_->{http} = HTTP::Tiny->new(timeout => 3, keep_alive => 0) foreach $self->members;
	return $self;
}

=pod

=over

=item $etcd->size, $etcd->url($i)

=cut

sub size { my ($self) = @_; return scalar $self->members }
sub member { my ($self, $i) = @_; return ($self->members)[$i] }
sub url { my ($self, $i) = @_; return $self->member($i)->endpoint }

=item $etcd->leading

The number of the member that leads, as one of them says; undef if none does.

=cut

sub leading
{
	my ($self) = @_;
	foreach my $i (0 .. $self->size - 1)
	{
		my $status = eval { $self->member($i)->call('/v3/maintenance/status', {}) } or next;
		return $i if ($status->{leader} // '') eq $status->{header}{member_id};
	}
	return;
}

=item $etcd->any($method, @arguments)

What this method of a member returns, as a list, of the first that does not die;
undef if all do.

=cut

sub any
{
	my ($self, $method, @arguments) = @_;
	foreach my $member (grep { $_->{pid} } $self->members)
	{
		my @answer;
		return \@answer
		  if eval { @answer = $member->$method(@arguments); 1 };
	}
	return;
}

=item $etcd->compact

Up to the newest revision; whether it was done.

=cut

sub compact
{
	my ($self) = @_;
	my $answer = $self->any('call', '/v3/kv/range', { key => 'eA==' }) or return;
	return $self->any('call', '/v3/kv/compaction',
		{ revision => $answer->[0]{header}{revision} });
}

=back

=cut

1;
