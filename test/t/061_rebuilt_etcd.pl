# Etcd was restored from a snapshot, or is a new one: its revisions have gone back.  Holders
# lose their locks, the log and errors say why, and doc/operations.md has the way out.

use strict;
use warnings;

use EtcdLockTest;
use File::Basename;
use File::Path qw(remove_tree);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my $node = start_server('node', endpoints => $etcd->endpoint, conf => "etcd_lock.lease_ttl = '4s'\n");
my ($session, $holder) = map { session($node) } 1 .. 2;
$session->query('CREATE TABLE t (what text)');
my $tick = '2030-01-01 00:00:00+00';
my $snapshot = PostgreSQL::Test::Utils::tempdir('snapshot') . '/snapshot.db';

# Revisions that will be missing.
sub write_much { $etcd->put('filler', $_) foreach 1 .. 100; return }

# Takes the lock and raises the fence to its token, which it returns.
sub raise_fence
{
	my $token = $session->query("SELECT etcd_lock('/fenced')");
	is($session->query("SELECT etcd_lock_fence('/fenced', $token)"), 't', 'a token raises the fence');
	$session->query("SELECT etcd_unlock('/fenced')");
	return $token;
}

# Stops etcd while a lock is held, has its data replaced when the lease is over, as
# doc/operations.md says, and starts it.
sub replace
{
	my ($what, $data) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$holder->query("BEGIN; INSERT INTO t VALUES ('$what'); SELECT etcd_xact_lock('/held')");
	my $offset = -s $node->logfile;
	$etcd->stop;
	wait_until("$what: the lease is over",
		sub { $session->query('SELECT lease IS NULL FROM etcd_lock_status()') eq 't' });
	remove_tree($etcd->{datadir});
	$data->();
	$etcd->start;
	is($holder->try('COMMIT')->{sqlstate}, 'EL002', "$what: who held a lock cannot commit");
	is($session->query("SELECT count(*) FROM t WHERE what = '$what'"), 0, '... what he has written');
	wait_until_locks_work($session);
	return slurp_file($node->logfile, $offset);
}

# Restores the snapshot; false if this etcd's tools cannot do it in this way.
sub restore
{
	my (@options) = @_;
	local $ENV{ETCDCTL_API} = 3;
	my $etcdutl = ($ENV{ETCDCTL} // 'etcdctl') =~ s/etcdctl$/etcdutl/r;
	foreach my $tool (@options ? ($etcdutl) : ($etcdutl, $ENV{ETCDCTL} // 'etcdctl'))
	{
		my $output;
		return 1
		  if eval {
			IPC::Run::run(
				[
					$tool, 'snapshot', 'restore', $snapshot, @options,
					'--name' => $etcd->{name},
					'--data-dir' => $etcd->{datadir},
					'--initial-cluster' => $etcd->as_member,
					'--initial-cluster-token' => "restored-" . time,
					'--initial-advertise-peer-urls' => $etcd->peer_url
				],
				'>&',
				\$output);
		  };
		diag $output if defined $output;
	}
	return 0;
}

# A snapshot from before the last locks.
$etcd->etcdctl('snapshot', 'save', $snapshot);
write_much();
my $token = raise_fence();
is($session->query("SELECT etcd_try_once('/tick', '$tick')"), 't', 'a tick is claimed');
my $went_back = qr/WARNING: .*etcd's revisions have gone back from \d+ to \d+\n.*DETAIL: .*\n.*HINT: .*etcd_lock_fence_reset/;
my $log = replace('restored', sub { restore() or die 'could not restore the snapshot' });
like($log, $went_back, 'restored: the log says so');
is($session->query("SELECT etcd_try_once('/tick', '$tick')"), 't', '... a tick may be claimed again');
is($session->query("SELECT etcd_try_once('/tick', '$tick')"), 'f', '... once');

my $low = $session->query("SELECT etcd_lock('/fenced')");
cmp_ok($low, '<', $token, '... tokens are lower');
my $result = $session->try("SELECT etcd_lock_fence('/fenced', $low)");
is($result->{sqlstate}, '55000', '... the rightful holder is told so');
like($result->{err}, qr/etcd_lock_fence_reset/, '... and the way out');
is($holder->query("SELECT etcd_lock_fence('/fenced', $low - 1)"), 'f', '... a late writer is refused');

# By the query of doc/operations.md.
my ($query) = slurp_file(dirname(__FILE__) . '/../../doc/operations.md') =~ /^(SELECT .*etcd_lock_fence_reset.*);$/m;
is($session->query($query), "/fenced|$token|t", '... the fence is reset');
is($session->query("SELECT etcd_lock_fence('/fenced', $low)"), 't', '... then the token counts');
$session->query("SELECT etcd_unlock('/fenced')");

# A new one, with nothing in it.
write_much();
$token = raise_fence();
$log = replace('new', sub { });
like($log, $went_back, 'new: the log says so');
cmp_ok($session->query("SELECT etcd_lock('/fenced')"), '<', $token, '... tokens are lower');
$session->query("SELECT etcd_unlock('/fenced')");
$session->query($query);

# Restored as doc/operations.md says.
SKIP:
{
	$etcd->etcdctl('snapshot', 'save', $snapshot);
	write_much();
	$token = raise_fence();
	my $restored;
	$log = replace('raised',
		sub { $restored = restore('--bump-revision' => 1_000_000_000, '--mark-compacted') });
	skip 'this etcd has no etcdutl that raises revisions', 2 unless $restored;
	unlike($log, qr/gone back/, 'raised: revisions have not gone back');
	cmp_ok(raise_fence(), '>', $token, '... and tokens rise');
}

$_->quit foreach $session, $holder;
$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, $node);
finish($etcd, $node);
