#-------------------------------------------------------------------------
# Bench::Rows - what is measured: the list of rows
#
# A row is { id, group, title, run }, "once" if it is run in the last round only,
# "thorough" if a quick run leaves it out, as it does the same as others, and "keep" if
# keep_window is not to be the default.  run is called with the rig and a number of seconds, and returns a hash:
# samples => { KIND => [microseconds] }, and numbers by their names (rate, requests,
# ...); or { skipped => why }.
#-------------------------------------------------------------------------
package Bench::Rows;

use strict;
use warnings;

use Bench::Rows::Cost;
use Bench::Rows::Floors;
use Bench::Rows::Greedy;
use Bench::Rows::Hot;
use Bench::Rows::Ours;
use Bench::Rows::Peers;

sub all
{
	return (
		Bench::Rows::Floors::rows(), Bench::Rows::Ours::rows(),
		Bench::Rows::Peers::rows(), Bench::Rows::Hot::rows(), Bench::Rows::Cost::rows(),
		Bench::Rows::Greedy::rows());
}

1;
