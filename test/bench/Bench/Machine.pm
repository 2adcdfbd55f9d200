#-------------------------------------------------------------------------
# Bench::Machine - where it was measured
#-------------------------------------------------------------------------
package Bench::Machine;

use strict;
use warnings;

use POSIX qw(strftime uname);

sub first_line { my ($line) = split /\n/, $_[0]; return $line // '' }

sub versions
{
	my ($rig) = @_;
	my ($etcd) = `'$rig->{etcd}{binary}' --version` =~ /etcd Version: (\S+)/;
	my ($postgres) = $rig->server('a')->safe_psql('postgres', 'SHOW server_version') =~ /^(\S+)/;
	my ($curl) = `curl-config --version 2>/dev/null` =~ /(\d\S+)/;
	my ($go) = `go version 2>/dev/null` =~ /go(\d\S+)/;
	my %version = (etcd => $etcd, PostgreSQL => $postgres, libcurl => $curl, Go => $go);
	return join ', ', map { "$_ $version{$_}" } grep { defined $version{$_} } qw(etcd PostgreSQL libcurl Go);
}

# What else the machine does, as it has been for a quarter of an hour.
sub load
{
	my ($load) = `cat /proc/loadavg` =~ /^\S+ \S+ (\S+)/;
	return $load;
}

sub describe
{
	my ($rig) = @_;
	my $cpu = `cat /proc/cpuinfo`;
	my ($model) = $cpu =~ /^model name\s*:\s*(.*)/m;
	my $cpus = () = $cpu =~ /^processor\s*:/mg;
	my ($os) = `cat /etc/os-release 2>/dev/null` =~ /^PRETTY_NAME="(.*)"/m;
	my $fs = first_line(`stat -f -c %T '$rig->{dir}' 2>/dev/null`);
	$fs = 'ext4' if $fs eq 'ext2/ext3';
	return {
		date => strftime('%Y-%m-%d', gmtime),
		cpu => ($model // 'unknown processor') . ", $cpus " . ($cpus == 1 ? 'core' : 'cores'),
		os => join(', ', grep { $_ } $os, 'Linux ' . (uname)[2]),
		filesystem => $fs,
		versions => versions($rig),
		load => load(),
	};
}

1;
