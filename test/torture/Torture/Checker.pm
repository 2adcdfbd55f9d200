#-------------------------------------------------------------------------
# Torture::Checker - checks a history of locked sections
#
# Pure: gets what the sessions have noted, and says what is wrong with it.
# README.md tells why each of these is a violation.
#-------------------------------------------------------------------------
package Torture::Checker;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(
  committed
  fence_violations
  lost_updates
  overlaps
  robbed
  row_violations
  shared_violations
  token_violations
  unreplicated
);

# All times are of one clock, as floating-point seconds.
my $granularity = 0.00001;

=pod

=over

=item committed(\@events, \%rows)

The guarded transactions that committed: those that were told so, and those
that were told nothing and have left their row.  %rows: by server and id.

=cut

sub committed
{
	my ($events, $rows) = @_;
	return grep {
		$_->{t} eq 'txn'
		  && ($_->{outcome} eq 'committed'
			|| $_->{outcome} eq 'unknown' && $rows->{ $_->{server} }{ $_->{id} })
	} @$events;
}

=item robbed(\@committed, \@thefts)

Those whose lock was taken away by hand in etcd before they sent the COMMIT.
With commit_guard = lease they may not have known; with etcd they must have.

=cut

sub robbed
{
	my ($committed, $thefts) = @_;
	return grep {
		my $event = $_;
		$event->{guard} eq 'lease' && grep {
			     $_->{from} <= $event->{sent}
			  && $_->{to} >= $event->{asked}
			  && (!defined $_->{server} || $_->{server} == $event->{server})
			  && (!defined $_->{name} || $_->{name} eq $event->{name})
		} @$thefts
	} @$committed;
}

=item unreplicated(\@committed, \@outages, \@cancels)

Commits that were acknowledged while the standby that has to have them was not
there: from an outage's beginning to its end, on its server.  What the standby had
said before may arrive a moment later.  Somebody's cancel ends the wait, as ever:
those say { server, at }.

=cut

sub unreplicated
{
	my ($committed, $outages, $cancels) = @_;
	my @found;
	foreach my $event (grep { $_->{outcome} eq 'committed' && !$_->{async} } @$committed)
	{
		next if grep {
			     $_->{server} == $event->{server}
			  && $_->{at} >= $event->{sent} - 0.1
			  && $_->{at} <= $event->{done}
		} @$cancels;
		foreach my $outage (@$outages)
		{
			push @found, in_words($event) . sprintf ', acknowledged at %.6f, without the standby from %.6f to %.6f',
			  $event->{done}, @$outage{qw(from to)}
			  if $outage->{server} == $event->{server}
			  && $event->{sent} > $outage->{from} - 0.1
			  && $event->{done} > $outage->{from} + 0.2
			  && $event->{done} < $outage->{to};
		}
	}
	return @found;
}

sub by_name
{
	my %by_name;
	push @{ $by_name{ $_->{name} } }, $_ foreach @_;
	return map { $by_name{$_} } sort keys %by_name;
}

sub in_words
{
	my ($event) = @_;
	return sprintf '%s %s %s (session %d on server %d, token %s) %.6f to %.6f',
	  $event->{name}, $event->{mode} eq 'x' ? 'exclusive' : 'shared',
	  $event->{id}, $event->{session}, $event->{server}, $event->{token},
	  $event->{grant}, $event->{sent};
}

=item lost_updates(@committed)

Two transactions that both read what the same third one wrote: one of them has
overwritten what the other one wrote.

=cut

sub lost_updates
{
	my @found;
	foreach my $list (by_name(grep { $_->{mode} eq 'x' } @_))
	{
		my %reader;
		foreach my $event (sort { $a->{sent} <=> $b->{sent} } @$list)
		{
			my $other = $reader{ $event->{read} };
			push @found,
			  "both read what $event->{read} wrote:\n  "
			  . in_words($other) . "\n  "
			  . in_words($event)
			  if $other;
			$reader{ $event->{read} } = $event;
		}
	}
	return @found;
}

=item shared_violations(@committed)

What was read twice under a shared lock, and changed in between by a transaction
that committed.

=cut

sub shared_violations
{
	my %exclusive = map { $_->{id} => $_ } grep { $_->{mode} eq 'x' } @_;
	return map {
		my $writer = $exclusive{ $_->{read_again} };
		"changed under a shared lock:\n  " . in_words($_) . "\n  " . in_words($writer)
	  }
	  grep {
		     defined $_->{read_again}
		  && $_->{read_again} ne $_->{read}
		  && $exclusive{ $_->{read_again} }
	  } @_;
}

# A session's lock may be good for several commits: one interval, up to the last.
sub holds
{
	my %hold;
	foreach my $event (sort { $a->{sent} <=> $b->{sent} } @_)
	{
		my $hold = $hold{"$event->{hold} $event->{mode}"} //= {%$event};
		@$hold{qw(sent id)} = @$event{qw(sent id)};
	}
	return values %hold;
}

=item overlaps(@committed)

Pairs of holders at the same time, from when they knew that they had the lock to
when they sent the COMMIT that succeeded.

=cut

sub overlaps
{
	my @found;
	foreach my $list (by_name(holds(@_)))
	{
		# Of those that began before, the last to end, for each mode.
		my %last;
		foreach my $hold (sort { $a->{grant} <=> $b->{grant} } @$list)
		{
			foreach my $mode ($hold->{mode} eq 'x' ? qw(x s) : 'x')
			{
				my $other = $last{$mode} // next;
				push @found,
				  "at the same time:\n  " . in_words($other) . "\n  " . in_words($hold)
				  if $hold->{grant} + $granularity < $other->{sent};
			}
			my $last = \$last{ $hold->{mode} };
			$$last = $hold if !$$last || $hold->{sent} > $$last->{sent};
		}
	}
	return @found;
}

=item token_violations(@committed)

Commits in an order that is not that of their tokens.  Sharers have no order
among each other.

=cut

sub token_violations
{
	my @found;
	foreach my $list (by_name(holds(@_)))
	{
		my %highest;
		foreach my $hold (sort { $a->{sent} <=> $b->{sent} } @$list)
		{
			foreach my $mode ($hold->{mode} eq 'x' ? qw(x s) : 'x')
			{
				my $other = $highest{$mode} // next;
				push @found,
				  "token does not rise:\n  " . in_words($other) . "\n  " . in_words($hold)
				  if $hold->{token} <= $other->{token};
			}
			my $highest = \$highest{ $hold->{mode} };
			$$highest = $hold if !$$highest || $hold->{token} > $$highest->{token};
		}
	}
	return @found;
}

=item row_violations(\@events, \%rows)

Commits that were confirmed and are not there, or refused and are.

=cut

sub row_violations
{
	my ($events, $rows) = @_;
	my @found;
	foreach my $event (grep { $_->{t} eq 'txn' } @$events)
	{
		my $is_there = $rows->{ $event->{server} }{ $event->{id} };
		next if $event->{outcome} eq 'unknown';
		push @found, "$event->{outcome}, but its row is "
		  . ($is_there ? 'there: ' : 'not there: ')
		  . "$event->{id} of server $event->{server}"
		  if ($is_there xor $event->{outcome} eq 'committed');
	}
	return @found;
}

=item fence_violations(\@events, \%fenced)

Counters with fencing that are not the number of writes that passed, whether of
transactions that committed or not.

=cut

sub fence_violations
{
	my ($events, $fenced) = @_;
	my %passed;
	$passed{ $_->{name} } += $_->{fenced} // 0
	  foreach grep { $_->{t} eq 'txn' && $_->{mode} eq 'x' } @$events;
	return map {
		    "$_: $passed{$_} writes have passed the fence, the counter says "
		  . ($fenced->{$_} // 'nothing')
	} grep { $passed{$_} != ($fenced->{$_} // -1) } sort keys %passed;
}

=back

=cut

1;
