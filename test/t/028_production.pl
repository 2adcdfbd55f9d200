# What doc/production.md says about a production cluster, run as it is written there, on
# a cluster of three members, except for their addresses and the directory.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::EtcdCluster;
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $ca = EtcdLockTest::Certificates->new;
my $cluster = EtcdLockTest::EtcdCluster->new(3,
	tls => { %{ $ca->issue }, ca => $ca->file });
my $dir = PostgreSQL::Test::Utils::tempdir('etc');
foreach my $file (qw(ca.crt ca.key))
{
	append_to_file("$dir/$file", slurp_file(dirname($ca->file) . "/$file"));
}
my $bin = PostgreSQL::Test::Utils::tempdir('bin');
my $etcdctl = $ENV{ETCDCTL} // 'etcdctl';
$etcdctl = (grep { -x } map { "$_/etcdctl" } split /:/, $ENV{PATH})[0]
  if $etcdctl !~ m{/};
symlink $etcdctl, "$bin/etcdctl" or die "no etcdctl: $!";

# Its blocks: [ language, text ].
my $text = slurp_file(dirname(__FILE__) . '/../../doc/production.md');
my @blocks;
while ($text =~ /^```(\w+)\n(.*?)^```$/msg)
{
	push @blocks, [ $1, $2 ];
}
is(join(' ', map { $_->[0] } @blocks), 'sh sh ini sql sql sql', 'the blocks of the text');

my $endpoints = $cluster->endpoints;
my $places = 0;
foreach my $block (@blocks)
{
	$places += $block->[1] =~ s{https://etcd-1:2379,https://etcd-2:2379,https://etcd-3:2379}{$endpoints}g;
	$block->[1] =~ s{/etc/etcd_lock\b}{$dir}g;
}
is($places, 2, 'the endpoints are named twice');

sub shell
{
	my ($script) = @_;
	my $output = '';
	local $ENV{PATH} = "$bin:$ENV{PATH}";
	local $ENV{ROOT_PASSWORD} = 'root';
	my $ok = IPC::Run::run([ 'bash', '-e' ], '<', \$script, '>&', \$output);
	diag($output) unless $ok;
	return $ok;
}
ok(shell($blocks[0][1]), 'the certificate and the password');
ok(shell($blocks[1][1]), 'the user and its role');

my @nodes = map { new_server($_, preload => 0, conf => $blocks[2][1]) } qw(here there);
$_->start foreach @nodes;
$_->safe_psql('postgres', $blocks[3][1] =~ s/SELECT.*//sr) foreach @nodes;
foreach my $node (@nodes)
{
	my ($query) = $blocks[3][1] =~ /(SELECT.*)/s;
	wait_until('the status is ready',
		sub { $node->safe_psql('postgres', $query) =~ m{^ready\|https://127} });
	pass($node->name . ' is ready');
	is($node->safe_psql('postgres', $query) =~ s/.*\|//r, '', 'without an error');
	$node->safe_psql('postgres', $blocks[4][1]);
}

# It locks, and only where it may.
my ($here, $there) = map { session($_) } @nodes;
ok($here->query("SELECT etcd_lock('/job')"), 'a lock');
is($there->query("SELECT etcd_try_lock('/job')"), 'f', 'of all servers');
my ($member) = $cluster->members;
$member->log_in_again;
is(scalar($member->keys('prod//job/')), 1, 'below the prefix');
is_deeply([ grep { !m{^prod/} } $member->keys('') ], [], 'and nothing elsewhere');
is($here->query("SELECT etcd_try_lock(1), etcd_try_once('/tick', now())"), 't|t', 'integer keys, ticks');
$here->query("SET etcd_lock.namespace = 'other/'");
my $result = $here->try("SELECT etcd_lock('/job')");
is($result->{sqlstate}, '42501', 'another namespace is denied');
like($result->{err}, qr{permission denied by etcd for "/job"}, 'and says so');
$here->query('RESET etcd_lock.namespace');

# The tenants.
my ($billing, $shipping) = map { session($nodes[0], user => $_) } qw(billing shipping);
is($_->query("SELECT etcd_try_lock('/invoice')"), 't', 'each tenant has its own') foreach $billing, $shipping;
is(scalar($member->keys('prod/billing//invoice/')), 1, 'in its namespace');
is($billing->try("SET etcd_lock.namespace = 'prod/shipping/'")->{sqlstate}, '42501', 'which it cannot change');

$shipping->query("SELECT etcd_lock('/parcel')");
my $third = session($nodes[0], user => 'shipping');
$third->send("SELECT etcd_lock('/parcel')");
wait_until_waiting($third);
like($nodes[0]->safe_psql('postgres', $blocks[5][1]), qr/^shipping\|3\|1$/m, 'what each role uses');
$third->kill;

# A new certificate, as it is said there.
ok(shell($blocks[0][1] =~ s/^openssl rand.*\n//mr), 'a new certificate');
$_->safe_psql('postgres', 'SELECT pg_reload_conf()') foreach @nodes;
is($there->query("SELECT etcd_try_lock('/new'), etcd_unlock('/new')"), 't|t', 'it works');
is($here->query("SELECT etcd_lock_check('/job')"), 't', 'no lock is lost');

$_->quit foreach $here, $there, $billing, $shipping;
$_->stop('fast') foreach @nodes;
wait_until('nothing is left', sub { !grep { !/tick/ } $member->keys('') });
pass('nothing but a tick is left in etcd');
$cluster->stop;
done_testing();
