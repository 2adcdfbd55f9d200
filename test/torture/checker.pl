#!/usr/bin/env perl
# The checker of the torture test finds what is wrong with a history, and finds
# nothing where nothing is.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Test::More;

use lib abs_path(dirname(__FILE__));
use Torture::Checker;

my $serial = 0;

# A guarded transaction: from grant to COMMIT.
sub txn
{
	my ($mode, $grant, $sent, $token, %more) = @_;
	$serial++;
	return {
		t => 'txn', name => 'a', mode => $mode, server => 0, session => $serial,
		id => "t$serial", hold => "h$serial", token => $token, guard => 'lease',
		asked => $grant, grant => $grant, sent => $sent, outcome => 'committed',
		read => "before t$serial", fenced => 1, %more
	};
}

# The names of the checks that find something.
sub found
{
	my @history = @_;
	no strict 'refs';
	return join ' ',
	  grep { &{"Torture::Checker::$_"}(@history) }
	  qw(lost_updates overlaps shared_violations token_violations);
}

is(found(txn('x', 1, 2, 10), txn('x', 2, 3, 11)), '', 'one after the other');
is(found(txn('x', 1, 3, 10), txn('x', 2, 4, 11)), 'overlaps', 'two exclusive ones');
is(found(txn('x', 1, 9, 10), txn('x', 2, 3, 11), txn('x', 4, 5, 12)),
	'overlaps token_violations', 'others within one');
is(found(txn('s', 1, 3, 10), txn('s', 2, 4, 10)), '', 'two sharers');
is(found(txn('s', 1, 3, 10), txn('s', 1, 2, 9), txn('x', 2.5, 4, 11)),
	'overlaps', 'exclusive before the last sharer has ended');
is(found(txn('x', 1, 3, 10), txn('s', 2, 4, 11)), 'overlaps', 'shared within exclusive');
is(found(txn('x', 1, 3, 10), txn('x', 2, 4, 11, name => 'b')), '', 'two names');
is(found(txn('x', 1, 2, 10), txn('x', 3, 4, 10)), 'token_violations', 'the same token');
is(found(txn('x', 1, 2, 10), txn('s', 3, 4, 10)), 'token_violations', 'and shared');
is(found(txn('s', 1, 2, 11), txn('x', 3, 4, 10)), 'token_violations', 'the other way round');
is(found(txn('s', 1, 2, 11), txn('s', 3, 4, 10)), '', 'sharers in any order');
is(found(txn('x', 1, 2, 9), txn('x', 3, 4, 10)), '', 'as numbers, not as text');

is( found(
		txn('x', 1, 2, 10, hold => 'h', scope => 'session'),
		txn('x', 1, 4, 10, hold => 'h', scope => 'session')),
	'', 'two commits of a session lock');
is( found(
		txn('x', 1, 2, 10, hold => 'h'),
		txn('x', 1, 4, 10, hold => 'h'),
		txn('x', 3, 5, 11)),
	'overlaps', 'it lasts until the last one');

is(found(txn('x', 1, 2, 10, read => 'z'), txn('x', 3, 4, 11, read => 'z')),
	'lost_updates', 'both have read the same');
my $writer = txn('x', 1, 2, 10);
is(found($writer, txn('s', 3, 4, 11, read => 'z', read_again => $writer->{id})),
	'shared_violations', 'a sharer reads something new');
is(found($writer, txn('s', 3, 4, 11, read => 'z', read_again => 'refused')),
	'', 'written by one that did not commit');

# Who has committed.
my $unknown = txn('x', 1, 2, 10, outcome => 'unknown');
my @events = (
	$writer, $unknown,
	txn('x', 1, 2, 10, outcome => 'refused'),
	{ t => 'grant' });
is(scalar Torture::Checker::committed(\@events, {}), 1, 'confirmed');
is(scalar Torture::Checker::committed(\@events, { 0 => { $unknown->{id} => 1 } }),
	2, 'not confirmed, and there');
is(scalar Torture::Checker::committed(\@events, { 1 => { $unknown->{id} => 1 } }),
	1, 'on another server');
is(scalar Torture::Checker::row_violations(\@events, { 0 => { $writer->{id} => 1 } }),
	0, 'a row for what has committed');
is(scalar Torture::Checker::row_violations(\@events, {}), 1, 'a row is missing');
is( scalar Torture::Checker::row_violations(
		\@events, { 0 => { $writer->{id} => 1, $events[2]{id} => 1 } }),
	1, 'a row of what was refused');
is(scalar Torture::Checker::fence_violations([ $writer, $unknown ], { a => 2 }),
	0, 'fenced');
is(scalar Torture::Checker::fence_violations([ $writer, $unknown ], { a => 1 }),
	1, 'a fenced write is lost');

# Robbed by hand.
foreach my $case (
	[ 1, 'robbed', {} ],
	[ 0, 'another server', { server => 1 } ],
	[ 0, 'another name', { name => 'b' } ],
	[ 0, 'before', { from => 8, to => 9 } ],
	[ 1, 'perhaps only now', { from => 8, to => 11 } ],
	[ 0, 'behind', { from => 21, to => 22 } ],
	[ 0, 'a guard that asks etcd', {}, guard => 'etcd' ])
{
	my ($expected, $name, $theft, %more) = @$case;
	my @robbed = Torture::Checker::robbed(
		[ txn('x', 10, 20, 1, %more) ],
		[ { server => undef, name => undef, from => 12, to => 12, %$theft } ]);
	is(scalar @robbed, $expected, $name);
}

# Acknowledged without the standby.
foreach my $case (
	[ 1, 'while the standby was away', {} ],
	[ 0, 'when it was back', { done => 31 } ],
	[ 0, 'just before', { sent => 9, done => 10.1 } ],
	[ 0, 'on a server without a standby', { server => 1 } ],
	[ 0, 'synchronous_commit = off', { async => 1 } ],
	[ 0, 'refused', { outcome => 'refused' } ],
	[ 0, 'cancelled by somebody', { done => 15 } ],
	[ 1, 'another one cancelled', { done => 13 } ])
{
	my ($expected, $name, $more) = @$case;
	my @found = Torture::Checker::unreplicated(
		[ txn('x', 5, 12, 1, done => 20, async => 0, %$more) ],
		[ { server => 0, from => 10, to => 30 } ],
		[ $name =~ /cancel/ ? ({ server => 0, at => 14 }) : (), { server => 1, at => 13 } ]);
	is(scalar @found, $expected, "acknowledged $name");
}

done_testing();
