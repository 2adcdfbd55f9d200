#-------------------------------------------------------------------------
# Bench::Results - the values of all rounds, and what they come to
#
# A row's value is the median over its rounds; that of a latency is the median of
# each round's median, its "p99" that of all rounds together.  Latencies are
# milliseconds from here on.
#-------------------------------------------------------------------------
package Bench::Results;

use strict;
use warnings;

use Bench::Numbers qw(median percentile);
use JSON::PP;

sub new
{
	my ($class, %about) = @_;
	return bless { about => \%about, rows => {}, order => [], samples => {} }, $class;
}

=pod

=over

=item $results->add($row, $result)

What a round of a row gave, see Bench::Rows.

=cut

sub add
{
	my ($self, $row, $result) = @_;
	my $id = $row->{id};
	push @{ $self->{order} }, $id unless $self->{rows}{$id};
	my $to = $self->{rows}{$id} //=
	  { id => $id, group => $row->{group}, title => $row->{title}, rounds => {} };

	foreach my $kind (keys %{ $result->{samples} // {} })
	{
		my @ms = map { $_ / 1e3 } @{ $result->{samples}{$kind} } or next;
		push @{ $to->{rounds}{$kind} }, short(median(@ms));
		push @{ $self->{samples}{$id}{$kind} }, @ms;
		$to->{rounds}{"$kind.p99"} = [ short(percentile(99, @{ $self->{samples}{$id}{$kind} })) ];
	}
	foreach my $name (grep { !ref $result->{$_} } keys %$result)
	{
		if ($name eq 'failed' || $name eq 'skipped') { $to->{$name} = $result->{$name} }
		else { push @{ $to->{rounds}{$name} }, short($result->{$name}) }
	}
	return;
}

# Nobody needs more digits.
sub short { return sprintf('%.5g', $_[0]) + 0 }

=item $results->value($id, $name), $results->row($id), $results->rows($group)

A row's value, or undef; the row itself; all rows of a group.

=cut

sub value
{
	my ($self, $id, $name) = @_;
	my $row = $self->{rows}{$id} or return;
	return median(@{ $row->{rounds}{$name} // [] });
}

sub row { my ($self, $id) = @_; return $self->{rows}{$id} }

sub rows
{
	my ($self, $group) = @_;
	return grep { $_->{group} eq $group } map { $self->{rows}{$_} } @{ $self->{order} };
}

sub about { my ($self, $what) = @_; return $self->{about}{$what} }

=item $results->save($file), Bench::Results->load($file)

All but the single samples.

=cut

sub save
{
	my ($self, $file) = @_;
	open my $to, '>', $file or die "$file: $!\n";
	print $to JSON::PP->new->canonical->encode(
		{ about => $self->{about}, rows => $self->{rows}, order => $self->{order} }), "\n";
	close $to or die "$file: $!\n";
	return;
}

sub load
{
	my ($class, $file) = @_;
	open my $from, '<', $file or die "$file: $!\n";
	local $/;
	return bless { %{ decode_json(<$from>) }, samples => {} }, $class;
}

=back

=cut

1;
