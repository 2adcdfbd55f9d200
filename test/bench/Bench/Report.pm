#-------------------------------------------------------------------------
# Bench::Report - the results as Markdown
#-------------------------------------------------------------------------
package Bench::Report;

use strict;
use warnings;

use Bench::Chart;
use Bench::Numbers qw(written);
use Bench::Targets;

my @groups = (
	[ floor => 'Floors' ],
	[ one => 'One client, one lock that nobody else wants: lock and unlock' ],
	[ many => 'Many clients, a lock each: lock and unlock' ],
	[ same => 'Many clients, one lock' ],
	[ between => 'Between servers' ],
	[ transaction => 'A transaction that writes one row' ],
	[ views => 'Reading views ten times a second, beside 64 sessions with a lock each' ],
	[ hot => 'Hot locks: what they cost etcd, and how they end' ],
	[ cost => 'At rest, and with many names and waiters' ],
	[ greedy => 'An ordinary tenant, one session: lock and unlock, beside a greedy one' ]);

my @cost_of_each = (
	[ 'requests', 'requests to etcd' ],
	[ 'proposals', 'raft proposals' ],
	[ 'session_us', 'CPU of sessions, µs' ],
	[ 'worker_us', 'of workers' ],
	[ 'etcd_us', 'of etcd' ]);
my @load = ([ 'rate', 'per second' ], [ 'pair', 'median, ms' ], [ 'pair.p99', 'p99' ], @cost_of_each);

# Columns of each group: value and heading.  Several values: the first that the
# row has.
my %columns = (
	floor => [
		[ 'put late_put range statement fdatasync switch', 'median, ms' ],
		[ 'put.p99 late_put.p99 range.p99 statement.p99 fdatasync.p99 switch.p99', 'p99' ],
		[ 'rate', 'per second' ],
		[ 'etcd_us', 'CPU of etcd, µs' ]
	],
	one => [
		[ 'lock', 'lock, ms' ],
		[ 'unlock', 'unlock' ],
		[ 'pair', 'both' ],
		[ 'pair.p99', 'p99' ],
		@cost_of_each
	],
	many => \@load,
	same => [ @load, [ 'share', 'part of the server with less' ], [ 'longest', 'longest, ms' ] ],
	hot => [
		[ 'rate', 'pairs per second' ],
		[ 'requests_per_second', 'requests to etcd per second' ],
		[ 'requests_per_1000', 'for 1,000 pairs' ],
		[ 'kept', 'kept' ],
		[ 'late_s', 'all gone after keep_window and, s' ],
		[ 'keys_per_request', 'keys in a request' ],
		[ 'blocked_s', 'another server waits, s' ]
	],
	between => [
		[ 'granted refused statement', 'median, ms' ],
		[ 'granted.p99 refused.p99 statement.p99', 'p99' ],
		[ 'released', 'release returns, ms' ],
		[ 'given_up', 'part that was kept' ],
		@cost_of_each
	],
	transaction => \@load,
	views => [
		[ 'reading', 'reading takes, ms' ],
		[ 'reading.p99', 'p99' ],
		[ 'without', 'pairs/s without' ],
		[ 'rate', 'with' ],
		[ 'slower', 'less, %' ]
	],
	cost => [
		[ 'wakes', 'wake-ups of the worker per second' ],
		[ 'worker_percent', 'its CPU, %' ],
		[ 'etcd_percent', 'etcd\'s, %' ],
		[ 'requests_per_second', 'requests to etcd per second' ],
		[ 'requests_per_keepalive', 'for each keepalive' ],
		[ 'lock_ms', 'to get each lock, ms' ],
		[ 'release_all_ms', 'to release all, ms' ],
		[ 'all_served_ms', 'until all waiters have had it, ms' ]
	],
	greedy => [
		[ 'alone', 'alone, ms' ],
		[ 'beside', 'beside' ],
		[ 'limited', 'beside, `max_requests_per_role` 1' ],
		[ 'alone.p99', 'p99 alone' ],
		[ 'beside.p99', 'beside' ],
		[ 'limited.p99', 'limited' ],
		[ 'rate_alone', 'per second, alone' ],
		[ 'rate', 'beside' ],
		[ 'rate_limited', 'limited' ]
	]);

=pod

=over

=item Bench::Report::write($results, $dir)

benchmark.md and benchmark.svg.

=cut

sub write
{
	my ($results, $dir) = @_;
	save("$dir/benchmark.md", report($results));
	save("$dir/benchmark.svg", Bench::Chart::svg($results));
	return;
}

sub save
{
	my ($file, $text) = @_;
	open my $to, '>', $file or die "$file: $!\n";
	print $to $text;
	close $to or die "$file: $!\n";
	return;
}

sub report
{
	my ($results) = @_;
	return join "\n", "# Benchmark\n", about($results), "![Chart](benchmark.svg)\n",
	  "## Beside others\n", summary($results),
	  "The locks of python3-etcd3 and of node's etcd3 do not exclude those of others: they use\n"
	  . "[keys of their own](interop.md).\n",
	  "## Targets\n", targets($results),
	  (map { group($results, @$_) } @groups), others($results);
}

sub about
{
	my ($results) = @_;
	my $machine = $results->about('machine');
	my $quick = $results->about('quick')
	  ? "\nA quick run: with fewer names and waiters than the titles say.\n"
	  : '';
	my $load = $machine->{load} // 'not known';
	return sprintf(<<'END', @$machine{qw(date cpu os filesystem versions)}, $load, $results->about('rounds'), $results->about('seconds')) . $quick;
Made by [test/bench/run](../test/bench/README.md), %s, on %s; %s; %s.
Everything runs on this one machine: %s. etcd has one member and syncs to disk,
PostgreSQL has `fsync` on. The load in the quarter of an hour before was %s. Rounds, in which all rows are measured by turns: %s of %s s. A
value is the median of the rounds, and a latency that of their medians, as the
client sees it.
END
}

sub table
{
	my ($headings, @rows) = @_;
	return join '', map { '| ' . join(' | ', @$_) . " |\n" } $headings,
	  [ '---', map { '---:' } 2 .. @$headings ], @rows;
}

# The value of the first of the names that the row has.
sub cell
{
	my ($results, $id, $names) = @_;
	foreach my $name (split ' ', $names)
	{
		my $value = $results->value($id, $name);
		return written($value) if defined $value;
	}
	return '';
}

sub group
{
	my ($results, $group, $title) = @_;
	my @rows = grep { $_->{id} ne 'memory' } $results->rows($group) or return;

	# Columns that nobody has anything in are left out.
	my @columns = grep {
		my $names = $_->[0];
		grep { cell($results, $_->{id}, $names) ne '' } @rows
	} @{ $columns{$group} };
	return "## $title\n",
	  table(
		[ '', map { $_->[1] } @columns ],
		map {
			my $row = $_;
			my $remark = $row->{skipped} ? "not measured: $row->{skipped}" : $row->{failed} ? 'failed' : '';
			[
				$remark ? "$row->{title} ($remark)" : $row->{title},
				map { cell($results, $row->{id}, $_->[0]) } @columns
			]
		} @rows);
}

# What fits into no table.
sub others
{
	my ($results) = @_;
	return unless defined $results->value('memory', 'bytes');
	return sprintf "Shared memory: %s bytes for each name of `etcd_lock.max_names`.\n",
	  cell($results, 'memory', 'bytes');
}

=item Bench::Report::targets($results)

The table of targets.

=cut

sub targets
{
	my ($results) = @_;
	return table(
		[ 'work', 'measured', 'beside', 'ratio', 'target', 'met' ],
		map {
			my $of = $_;
			my $sign = $of->{sense} eq '<=' ? '≤' : '≥';
			my $other = defined $of->{against} ? written($of->{against}) . ' (' . title($results, $of->{other}) . ')' : '';
			[
				$of->{work}, written($of->{measured}), $other, written($of->{ratio}),
				"$sign $of->{factor}" . (defined $of->{against} ? ' ×' : ''), $of->{met} ? 'yes' : '**no**'
			]
		} Bench::Targets::compared($results));
}

sub title
{
	my ($results, $what) = @_;
	my ($id) = split ' ', $what;
	my %short = (
		put => 'raw put', late_put => 'raw put after a pause', range => 'raw range', waiters_1 => '1 waiter');
	return $short{$id} //
	  ( $id =~ /^go/ ? 'Go'
		: $id =~ /^advisory/ ? '`pg_advisory_lock`'
		: $results->row($id)->{title});
}

=item Bench::Report::summary($results)

A small table for the README: who does what how fast.

=cut

my @who = (
	[ '`etcd_lock`, hot', 'ours_one_hot', 'ours_64_hot', 'same_8_hot', 'same_64_hot', 'kept_lock' ],
	[ '`etcd_lock`, cold', 'ours_one', 'ours_64', 'same_8', 'same_64', 'handover handover_late' ],
	[ 'the same, `synchronous_release` off', 'ours_one_off', 'ours_64_off', '', '', 'handover_off' ],
	[ 'Go `concurrency.Mutex`', 'go_one', 'go_64', 'go_same_8', 'go_same_64', 'go_handover go_handover_late' ],
	[ 'v3lock, gRPC', 'v3lock_one', 'v3lock_64', '', '', '' ],
	[ 'python3-etcd3', 'python_one', '', '', '', '' ],
	[ 'node\'s etcd3', 'node_one', '', '', '', '' ],
	[ '`etcdctl lock`', 'etcdctl_one', '', '', '', '' ],
	[ '`pg_advisory_lock`, one server', 'advisory_one', 'advisory_64', 'advisory_same_8', 'advisory_same_64', '' ]);

sub summary
{
	my ($results) = @_;
	my @names = qw(pair rate rate rate granted);
	return table(
		[
			'',
			'lock and unlock, one client, ms',
			'64 clients, a lock each, pairs/s',
			'8 clients, one lock, pairs/s',
			'64 clients, one lock, pairs/s',
			'to another server, ms (hot: a lock that nobody uses; others: to a server that has waited for 10 ms, 250 ms)'
		],
		map {
			my ($who, @ids) = @$_;
			my @cells = map {
				my $name = $names[$_];
				join ', ', grep { $_ ne '' } map { cell($results, $_, $name) } split ' ', $ids[$_]
			} 0 .. $#names;
			[ $who, @cells ]
		} @who);
}

=back

=cut

1;
