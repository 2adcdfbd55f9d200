#-------------------------------------------------------------------------
# Bench::Numbers - medians and how numbers are written
#-------------------------------------------------------------------------
package Bench::Numbers;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(median percentile sum written);

=pod

=over

=item percentile($percent, @numbers), median(@numbers), sum(@numbers)

A percentile is one of the numbers; the median of an even number of them is the
mean of the two in the middle.

=cut

sub percentile
{
	my ($percent, @numbers) = @_;
	my @sorted = sort { $a <=> $b } @numbers or return;
	my $at = int(@sorted * $percent / 100);
	return $sorted[ $at > $#sorted ? $#sorted : $at ];
}

sub median
{
	my @sorted = sort { $a <=> $b } @_ or return;
	return ($sorted[ ($#sorted) / 2 ] + $sorted[ @sorted / 2 ]) / 2;
}

sub sum
{
	my $sum = 0;
	$sum += $_ foreach @_;
	return $sum;
}

=item written($number)

With three digits that mean something, and commas in large ones.

=cut

sub written
{
	my ($number) = @_;
	return '' unless defined $number;
	return '0' if $number == 0;
	my $digits = 2 - int(log(abs $number) / log 10 + ($number < 1 ? -0.999999 : 1e-9));
	return sprintf '%.*f', $digits > 4 ? 4 : $digits, $number if $digits > 0;

	my $text = sprintf '%.0f', $number < 10_000 ? $number : 10**-$digits * int($number / 10**-$digits + 0.5);
	1 while $text =~ s/^(\d+)(\d{3})/$1,$2/;
	return $text;
}

=back

=cut

1;
