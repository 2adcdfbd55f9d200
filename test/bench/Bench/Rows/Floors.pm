#-------------------------------------------------------------------------
# Bench::Rows::Floors - what there is no getting below
#-------------------------------------------------------------------------
package Bench::Rows::Floors;

use strict;
use warnings;

sub rows
{
	return (
		{
			id => 'put',
			group => 'floor',
			title => 'raw put by gRPC, one connection',
			run => sub { wire('put', 1, @_) },
		},
		{
			id => 'put_64',
			group => 'floor',
			title => 'the same, 64 connections',
			run => sub { wire('put', 64, @_) },
		},
		{
			id => 'late_put',
			group => 'floor',
			title => 'raw put, 10 to 15 ms after the last one',
			run => sub { wire('late_put', 1, @_) },
		},
		{
			id => 'range',
			group => 'floor',
			title => 'linearizable range by gRPC',
			run => sub { wire('range', 1, @_) },
		},
		{
			id => 'select',
			group => 'floor',
			title => '`SELECT 1` by pgbench',
			run => sub {
				my ($rig, $seconds) = @_;
				my $run = $rig->pgbench(script => 'SELECT 1;', seconds => $seconds);
				return { samples => { statement => $run->{latencies} }, rate => $run->{tps} };
			},
		},
		{
			id => 'fdatasync',
			group => 'floor',
			title => 'fdatasync of a block, in etcd\'s file system',
			run => sub {
				my ($rig, $seconds) = @_;
				return $rig->program('floor', 'fdatasync', "$rig->{dir}/synced", $seconds);
			},
		},
		{
			id => 'switch',
			group => 'floor',
			title => 'to another process and back: two context switches',
			run => sub {
				my ($rig, $seconds) = @_;
				return $rig->program('floor', 'switch', $seconds);
			},
		});
}

sub wire
{
	my ($what, $clients, $rig, $seconds) = @_;
	my $run = $rig->accounted('count',
		sub { $rig->program('wire', $what, $rig->endpoint, $seconds, $clients) });
	$run->{rate} = $run->{count} / $run->{seconds};
	return $run;
}

1;
