#!/usr/bin/env perl
#-------------------------------------------------------------------------
# bench.pl - measure every row again and again, by turns
#
# Started by test/bench/run or test/run bench; README.md tells what for.  A row
# that cannot be produced is a failed test; slow ones are none.
#-------------------------------------------------------------------------
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Getopt::Long qw(GetOptionsFromString);

my ($here, %option);

BEGIN
{
	$here = abs_path(dirname(__FILE__));
	%option = (rounds => 5, seconds => 1);
	my ($is_right, $rest) = GetOptionsFromString($ENV{BENCH} // '',
		\%option, 'quick', 'only=s', 'rounds=i', 'seconds=f');
	$is_right
	  && !@$rest
	  && $option{rounds} > 0
	  && $option{seconds} > 0
	  or die "usage: BENCH='[--quick] [--only REGEX] [--rounds N] [--seconds N]' bench.pl\n";
	@option{qw(rounds seconds)} = (1, 0.4) if $option{quick};
}

use lib $here, "$here/../perl";
use Bench::Machine;
use Bench::Numbers qw(written);
use Bench::Report;
use Bench::Results;
use Bench::Rig;
use Bench::Rows;
use Test::More;
use Time::HiRes qw(time);

my $out = $ENV{ETCD_LOCK_BENCH_OUT} // '.';
my @rows = grep { !defined $option{only} || $_->{id} =~ /$option{only}/ } Bench::Rows::all();
@rows = grep { !$_->{thorough} } @rows if $option{quick} && !defined $option{only};
@rows or die "no row matches $option{only}\n";

my $rig = Bench::Rig->new(
	programs => $ENV{ETCD_LOCK_BENCH_PROGRAMS} // "$here/programs/build",
	quick => $option{quick});
my $results = Bench::Results->new(
	machine => Bench::Machine::describe($rig),
	rounds => $option{rounds},
	quick => $option{quick} ? 1 : 0,
	seconds => $option{seconds});

foreach my $round (1 .. $option{rounds})
{
	foreach my $row (@rows)
	{
		next if $row->{once} && $round < $option{rounds};
		$rig->keep($row->{keep} // '200ms');
		my $began = time;
		my ($result, $error);

		# A machine that does something else may take long to begin.
		foreach my $more (0, 3, 20)
		{
			$result = eval { $row->{run}->($rig, $option{seconds} + $more) };
			last if $result;
			$error = $@;
		}
		diag sprintf 'round %d, %s: %s (%.1f s)', $round, $row->{id},
		  $result ? in_words($result) : 'FAILED', time - $began;
		$result ||= { failed => $error };
		diag $error if $result->{failed};
		$results->add($row, $result);
	}
}
$rig->stop;

foreach my $row (@rows)
{
	my $of = $results->row($row->{id});
  SKIP:
	{
		skip "$row->{id}: $of->{skipped}", 1 if $of->{skipped};
		ok(!$of->{failed}, $row->{id});
	}
}

$results->save("$out/benchmark.json");
Bench::Report::write($results, $out);
done_testing();

# For those who watch.
sub in_words
{
	my ($result) = @_;
	return "skipped, $result->{skipped}" if $result->{skipped};
	my $samples = $result->{samples} // {};
	return join ', ', (
		map { sprintf '%s %s ms', $_, written(Bench::Numbers::median(@{ $samples->{$_} }) / 1e3) }
		  sort keys %$samples),
	  map { "$_ " . written($result->{$_}) }
	  grep { !ref $result->{$_} } sort keys %$result;
}
