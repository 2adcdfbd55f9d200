#-------------------------------------------------------------------------
# Bench::Targets - what the results are meant to be
#-------------------------------------------------------------------------
package Bench::Targets;

use strict;
use warnings;

# Each: what is meant; a row's value; "<=" or ">="; a factor; another row's value
# (none: the factor is the limit itself).  "plus" adds a third value.
my @targets = (
	# hot
	[ 'hot lock and unlock, one session', 'ours_one_hot pair', '<=', 1.5, 'advisory_one pair' ],
	[ 'the same', 'ours_one_hot pair', '<=', 0.125, 'go_one pair' ],
	[ 'hot, 64 sessions, a lock each, pairs/s', 'ours_64_hot rate', '>=', 0.85, 'advisory_64 rate' ],
	[ 'the same', 'ours_64_hot rate', '>=', 4, 'go_64 rate' ],
	[ 'one lock, 2 sessions of a server, pairs/s', 'same_2_hot rate', '>=', 0.8, 'advisory_same_2 rate' ],
	[ 'one lock, a session on each of 2 servers, pairs/s', 'each_of_two_hot rate', '>=', 2000 ],
	[ 'the same, part of the server with less', 'each_of_two_hot share', '>=', 0.4 ],
	[ 'the same, longest pair in ms (`handoff_window` is 100)', 'each_of_two_hot longest', '<=', 200 ],
	[ 'hot, requests to etcd for 1,000 pairs', 'steady requests_per_1000', '<=', 0.1 ],
	[ '10,000 hot locks, idle again: all gone so many s after `keep_window`', 'idle_again late_s', '<=', 1 ],
	[ 'a lock that is kept, to another server', 'kept_lock granted', '<=', 3, 'put put' ],
	[ 'the same', 'kept_lock granted', '<=', 3, 'late_put late_put' ],
	[ 'a lock that is kept, to Go\'s Mutex, ms', 'kept_go granted', '<=', 5 ],
	[ '`etcd_try_lock` of a lock that is kept elsewhere (true)', 'kept_try granted', '<=', 4, 'put put' ],
	[ 'the same', 'kept_try granted', '<=', 4, 'late_put late_put' ],
	[ '`etcd_try_lock`, held elsewhere, hot, ms (`keep_window` is 200)', 'held_try refused', '<=', 201 ],

	# cold
	[ '`etcd_try_lock`, held elsewhere, cold', 'try_elsewhere statement', '<=', 1.5, 'range range' ],
	[ 'cold lock, one session', 'ours_one lock', '<=', 1.5, 'put put' ],
	[ 'cold lock and unlock, confirmed', 'ours_one pair', '<=', 1.2, 'go_one pair' ],
	[ 'cold, `synchronous_release` off', 'ours_one_off pair', '<=', 0.8, 'go_one pair' ],
	[ 'cold, 64 sessions, a lock each, pairs/s', 'ours_64 rate', '>=', 1.0, 'go_64 rate' ],
	[ 'the same, CPU of etcd for a pair', 'ours_64 etcd_us', '<=', 0.5, 'go_64 etcd_us' ],
	[ 'the same', 'ours_64 etcd_us', '<=', 0.4, 'go_64 etcd_us' ],
	[ 'handover between servers', 'handover granted', '<=', 2, 'put put' ],
	[ 'the same', 'handover granted', '<=', 2, 'late_put late_put' ],
	[ 'handover between servers, p99 in ms', 'handover granted.p99', '<=', 10 ],

	# one lock, many
	[ '8 sessions of a server, one lock, pairs/s', 'same_8_hot rate', '>=', 0.6, 'advisory_same_8 rate' ],
	[ '64 sessions of a server, one lock, pairs/s', 'same_64_hot rate', '>=', 0.6, 'advisory_same_64 rate' ],
	[ '8 clients, one lock, pairs/s', 'same_8_hot rate', '>=', 50, 'go_same_8 rate' ],

	# what else it costs
	[ '`etcd_try_lock`, held in this server, requests to etcd', 'try_here own_requests', '<=', 0 ],
	[ 'idle, 1,000 locks held, % CPU of the worker', 'idle_1000 worker_percent', '<=', 0.2 ],
	[ 'idle, 1,000 locks held, requests for each keepalive', 'idle_1000 requests_per_keepalive', '<=', 3.5 ],
	[ '1,000 waiters, requests/s, beside 1 waiter', 'waiters_1000 requests_per_second', '<=', 1.2, 'waiters_1 requests_per_second' ],
	[ 'a transaction with a cold lock, `synchronous_release` off, more than without', 'write_lock_off more', '<=', 1.2, 'put put' ],
	[ 'views read 10 times a second, % of throughput', 'views slower', '<=', 2 ]);

=pod

=over

=item Bench::Targets::compared($results)

A list of { work, measured, sense, factor, against, ratio, met }; against and
ratio are undef where the limit is a number.  Without what was not measured.

=cut

sub compared
{
	my ($results) = @_;
	return grep { defined } map { compare($results, @$_) } @targets;
}

sub value
{
	my ($results, $what) = @_;
	my ($row, $name) = split ' ', $what;
	if ($name eq 'more')
	{
		my ($with, $without) = map { $results->value($_, 'pair') } $row, 'write';
		return defined $with && defined $without ? $with - $without : undef;
	}
	return $results->value($row, $name);
}

sub compare
{
	my ($results, $work, $what, $sense, $factor, $against) = @_;
	my $measured = value($results, $what) // return;
	my $other = $against ? value($results, $against) // return : undef;
	my $ratio = $against ? ($other ? $measured / $other : 0) : $measured;
	return {
		work => $work,
		measured => $measured,
		sense => $sense,
		factor => $factor,
		against => $other,
		other => $against,
		ratio => $against ? $ratio : undef,
		met => $sense eq '<=' ? $ratio <= $factor : $ratio >= $factor,
	};
}

=back

=cut

1;
