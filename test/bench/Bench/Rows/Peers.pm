#-------------------------------------------------------------------------
# Bench::Rows::Peers - other clients of etcd's that lock
#-------------------------------------------------------------------------
package Bench::Rows::Peers;

use strict;
use warnings;

use File::Basename qw(dirname);
use Time::HiRes qw(time);

my $programs = dirname(__FILE__) . '/../../programs';

sub rows
{
	my $go = 'Go `concurrency.Mutex`';
	return (
		go('go_one', 'one', $go, 1),
		{
			id => 'v3lock_one',
			group => 'one',
			title => 'v3lock by gRPC',
			run => sub { wire(1, @_) },
		},
		{
			id => 'python_one',
			group => 'one',
			title => 'python3-etcd3',
			run => \&python,
		},
		{
			id => 'node_one',
			group => 'one',
			title => 'node\'s etcd3',
			run => \&node,
		},
		{
			id => 'etcdctl_one',
			group => 'one',
			title => '`etcdctl lock NAME true`, from start to end',
			run => \&etcdctl,
		},
		(
			map {
				+{ %{ go("go_$_", 'many', "$go, $_ clients of one program", $_) }, $_ == 8 ? (thorough => 1) : () },
				+{ %{ go("go_${_}_apart", 'many', "$go, $_ clients, a connection each", $_, 'apart') }, thorough => 1 }
			} 8, 64
		),
		{
			id => 'v3lock_64',
			group => 'many',
			title => 'v3lock by gRPC, 64 clients',
			run => sub { wire(64, @_) },
		},
		(map { go("go_same_$_", 'same', "$go, $_ clients", $_, 'one') } 8, 64),
		handover('go_handover', "$go, the same; the other has waited for 10 ms", 10),
		handover('go_handover_late', "$go, the same; the other has waited for 250 ms", 250));
}

sub port { my ($rig) = @_; return $rig->endpoint =~ m{//(.*):(\d+)} }

sub rated
{
	my ($run) = @_;
	$run->{rate} = $run->{count} / $run->{seconds};
	return $run;
}

sub go
{
	my ($id, $group, $title, @arguments) = @_;
	return {
		id => $id,
		group => $group,
		title => $title,
		run => sub {
			my ($rig, $seconds) = @_;
			return rated($rig->accounted('count',
				sub { $rig->program('gomutex', 'locks', $rig->endpoint, $seconds, @arguments) }));
		},
	};
}

sub handover
{
	my ($id, $title, $settle) = @_;
	return {
		id => $id,
		group => 'between',
		title => $title,
		run => sub {
			my ($rig, $seconds) = @_;
			return $rig->accounted('count',
				sub { $rig->program('gomutex', 'handover', $rig->endpoint, $seconds, $settle) });
		},
	};
}

sub wire
{
	my ($clients, $rig, $seconds) = @_;
	return rated($rig->accounted('count',
		sub { $rig->program('wire', 'v3lock', $rig->endpoint, $seconds, $clients) }));
}

sub python
{
	my ($rig, $seconds) = @_;
	my ($host, $port) = port($rig);
	return rated($rig->accounted('count',
		sub { $rig->program('/usr/bin/python3', "$programs/python3_etcd3.py", $host, $port, $seconds) }));
}

# Not of Debian's: test/run fetches it where npm is there.
sub node
{
	my ($rig, $seconds) = @_;
	return { skipped => 'npm, or its registry, is not there' } unless -d "$rig->{programs}/node_modules/etcd3";
	local $ENV{NODE_PATH} = "$rig->{programs}/node_modules";
	return rated($rig->accounted('count',
		sub { $rig->program('node', "$programs/node_etcd3.js", join(':', port($rig)), $seconds) }));
}

sub etcdctl
{
	my ($rig, $seconds) = @_;
	my @took;
	local $ENV{ETCDCTL_API} = 3;
	my $until = time + $seconds;
	while (time < $until)
	{
		my $began = time;
		system('sh', '-c', 'exec "$@" >/dev/null', 'sh', $ENV{ETCDCTL} // 'etcdctl',
			'--endpoints=' . $rig->endpoint, 'lock', '/bench/etcdctl', 'true') == 0
		  or die "etcdctl lock failed\n";
		push @took, 1e6 * (time - $began);
	}
	return { samples => { pair => \@took } };
}

1;
