#-------------------------------------------------------------------------
# Bench::Targets - what the results are meant to be
#-------------------------------------------------------------------------
package Bench::Targets;

use strict;
use warnings;

# Each: what is meant; a row's value; "<=" or ">="; a factor; another row's value
# (none: the factor is the limit itself).  "plus" adds a third value.
my @targets = (
	[ '`etcd_lock`, one session, nobody else', 'ours_one lock', '<=', 1.3, 'put put' ],
	[ 'lock and unlock, `synchronous_release` off', 'ours_one_off pair', '<=', 0.85, 'go_one pair' ],
	[ 'lock and unlock, `synchronous_release` on', 'ours_one pair', '<=', 1.4, 'go_one pair' ],
	[ '64 sessions, a lock each, pairs/s', 'ours_64 rate', '>=', 1.5, 'go_64 rate' ],
	[ '8 sessions of a server, one lock, acquisitions/s', 'same_8 rate', '>=', 0.6, 'advisory_same_8 rate' ],
	[ '64 sessions of a server, one lock, acquisitions/s', 'same_64 rate', '>=', 0.6, 'advisory_same_64 rate' ],
	[ '8 clients, one lock, acquisitions/s', 'same_8 rate', '>=', 50, 'go_same_8 rate' ],
	[ 'handover between servers', 'handover granted', '<=', 2.5, 'put put' ],
	[ 'handover between servers, p99 in ms', 'handover granted.p99', '<=', 20 ],
	[ '`etcd_try_lock`, taken by another server', 'try_elsewhere statement', '<=', 1.5, 'range range' ],
	[ '`etcd_try_lock`, taken in this server, requests to etcd', 'try_here own_requests', '<=', 0 ],
	[ 'idle, 1,000 locks held, % CPU of the worker', 'idle_1000 worker_percent', '<=', 0.2 ],
	[ 'idle, 1,000 locks held, requests for each keepalive', 'idle_1000 requests_per_keepalive', '<=', 3 ],
	[ '1,000 waiters, requests/s, beside 1 waiter', 'waiters_1000 requests_per_second', '<=', 1.2, 'waiters_1 requests_per_second' ],
	[ 'a transaction with a lock, `synchronous_release` off, more than without', 'write_lock_off more', '<=', 1.2, 'put put' ],
	[ 'views read 10 times a second, % of throughput', 'views slower', '<=', 2 ]);

=pod

=over

=item Bench::Targets::judged($results)

A list of { work, measured, sense, factor, against, ratio, met }; against and
ratio are undef where the limit is a number.  Without what was not measured.

=cut

sub judged
{
	my ($results) = @_;
	return grep { defined } map { judge($results, @$_) } @targets;
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

sub judge
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
