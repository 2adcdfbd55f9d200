#-------------------------------------------------------------------------
# Bench::Chart - the results as bars, in SVG
#-------------------------------------------------------------------------
package Bench::Chart;

use strict;
use warnings;

use Bench::Numbers qw(written);

# Panels: title, the value, and bars: a row and what it is called.
my @panels = (
	[
		'Lock and unlock, one client: milliseconds, less is better', 'pair',
		[ ours_one_hot => 'etcd_lock, hot' ],
		[ ours_one => 'etcd_lock, cold' ],
		[ ours_one_off => 'etcd_lock, cold, not confirmed' ],
		[ go_one => 'Go Mutex' ],
		[ v3lock_one => 'v3lock, gRPC' ],
		[ python_one => 'python3-etcd3' ],
		[ node_one => 'node etcd3' ],
		[ advisory_one => 'pg_advisory_lock' ]
	],
	[
		'64 clients, a lock each: locks and unlocks per second', 'rate',
		[ ours_64_hot => 'etcd_lock, hot' ],
		[ ours_64 => 'etcd_lock, cold' ],
		[ ours_64_off => 'etcd_lock, cold, not confirmed' ],
		[ go_64 => 'Go Mutex' ],
		[ v3lock_64 => 'v3lock, gRPC' ],
		[ advisory_64 => 'pg_advisory_lock' ]
	],
	[
		'8 clients, one lock: locks and unlocks per second', 'rate',
		[ same_8_hot => 'etcd_lock, one server' ],
		[ two_servers_hot => 'etcd_lock, two servers' ],
		[ go_same_8 => 'Go Mutex' ],
		[ advisory_same_8 => 'pg_advisory_lock' ]
	],
	[
		'To another server, from release to grant: milliseconds, less is better', 'granted',
		[ kept_lock => 'etcd_lock, kept' ],
		[ handover => 'etcd_lock, waiting for 10 ms' ],
		[ handover_late => 'etcd_lock, waiting for 250 ms' ],
		[ go_handover => 'Go Mutex, waiting for 10 ms' ],
		[ go_handover_late => 'Go Mutex, waiting for 250 ms' ],
		[ kept_go => 'Go Mutex, kept by etcd_lock' ]
	]);

my ($width, $left, $right, $bar, $gap) = (820, 250, 80, 16, 6);

# The page may be dark.
my $style = <<'END';
text { font: 13px sans-serif; fill: #1f2328 }
.title { font-weight: bold }
.ours { fill: #2f6f9f }
.other { fill: #b0b7bf }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.ours { fill: #58a6d6 }
.other { fill: #6e7681 }
}
END

=pod

=over

=item Bench::Chart::svg($results)

=cut

sub svg
{
	my ($results) = @_;
	my ($y, @parts) = (10);

	foreach (@panels)
	{
		my ($title, $name, @bars) = @$_;
		@bars = grep { defined $_->[2] } map { [ @$_, $results->value($_->[0], $name) ] } @bars
		  or next;
		my ($most) = sort { $b <=> $a } map { $_->[2] } @bars;
		$y += 18;
		push @parts, sprintf '<text class="title" x="10" y="%d">%s</text>', $y, $title;
		$y += 12;
		foreach (@bars)
		{
			my ($id, $who, $value) = @$_;
			my $length = $most ? ($width - $left - $right) * $value / $most : 0;
			push @parts,
			  sprintf('<text x="%d" y="%d" text-anchor="end">%s</text>', $left - 8, $y + $bar - 4, $who),
			  sprintf('<rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/>',
				$who =~ /^etcd_lock/ ? 'ours' : 'other', $left, $y, $length < 1 ? 1 : $length, $bar),
			  sprintf('<text x="%.1f" y="%d">%s</text>', $left + $length + 6, $y + $bar - 4, written($value));
			$y += $bar + $gap;
		}
		$y += 12;
	}
	return join "\n",
	  qq{<svg xmlns="http://www.w3.org/2000/svg" width="$width" height="$y" viewBox="0 0 $width $y" role="img">},
	  '<title>etcd_lock beside other locks</title>', "<style>\n$style</style>", @parts, "</svg>\n";
}

=back

=cut

1;
