# A copy of a server also has its settings, so it must be noticed.  And endpoints of a
# wrong etcd cluster are refused.

use strict;
use warnings;

use EtcdLockTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $original = start_server('original',
	endpoints => $etcd->endpoint,
	conf => "cluster_name = 'original'\netcd_lock.lease_ttl = '8s'\nmax_wal_senders = 5\nwal_level = replica",
	init => { allows_streaming => 1 });
my $session = session($original);

sub duplicate
{
	my ($node) = @_;
	return $node->safe_psql('postgres', 'SELECT duplicate_primary FROM etcd_lock_status');
}

sub registered { return scalar grep { m{/primary/} } $etcd->keys('.etcd_lock/primary/') }

wait_until('it has registered', sub { registered() == 1 });
is($session->query("SELECT etcd_try_lock('/alone'), etcd_unlock('/alone')"), 't|t', 'alone');

# Standbys have the same system identifier.
$original->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($original, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "cluster_name = 'standby'");
$standby->start;
my $on_standby = session($standby);
wait_until_locks_work($on_standby);
$on_standby->query('SELECT etcd_unlock_all()');
sleep 10;
is(duplicate($_), '', 'a standby is no duplicate') foreach $original, $standby;

# A copy of the primary: both are told, by name, and both go on.
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($original, 'copy');
$copy->append_conf('postgresql.conf', "cluster_name = 'copy'");
my $offset = -s $original->logfile;
$copy->start;
my $other = session($copy);
wait_until('the original knows', sub { duplicate($original) =~ /^server "copy", host ".+", port \d+$/ });
wait_until('the copy knows', sub { duplicate($copy) =~ /^server "original", host ".+", port \d+$/ });
is_logged($original, $offset,
	qr/WARNING:.*another live primary has this server's system identifier: server "copy"/, 'a warning');
is_logged($copy, 0, qr/WARNING:.*system identifier: server "original"/, 'on both');
is($_->query("SELECT etcd_try_lock('/both'), etcd_unlock('/both')"), 't|t', 'both continue')
  foreach $session, $other;

# One of them must not.
foreach my $node ($original, $copy)
{
	$node->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.duplicate_primary = 'refuse'");
	$node->reload;
}
foreach my $sql ("SELECT etcd_lock('/both')", "SELECT etcd_try_lock('/both')",
	"CALL etcd_lock_wait('/both')", "SELECT etcd_try_once('/both', '2030-01-01')",
	'SELECT etcd_advisory.pg_advisory_lock(1)')
{
	wait_until('the setting is read', sub { $other->query('SHOW etcd_lock.duplicate_primary') eq 'refuse' });
	my $result = $other->try($sql);
	is($result->{sqlstate}, '55000', "the copy is refused: $sql");
	like($result->{err}, qr/copy of another live server/, 'which says why');
}
is($session->query("SELECT etcd_try_lock('/both'), etcd_unlock('/both')"),
	't|t', 'who came first goes on');

# Nor in the moment after its start.
$other->quit;
$copy->restart;
is(session($copy)->try("SELECT etcd_try_lock('/both')")->{sqlstate},
	'55000', 'nor before it has looked');

# When the original is gone, the copy is the only one.
$session->quit;
$original->stop;
$other = session($copy);
wait_until('the copy may lock', sub { $other->try("SELECT etcd_try_lock('/both')")->{out} eq 't' });
is(duplicate($copy), '', 'and is no duplicate');
$other->query('SELECT etcd_unlock_all()');

# A server that is killed finds its own key, and does not warn of itself.
$other->quit;
$copy->stop('immediate');
$offset = -s $copy->logfile;
$copy->start;
$other = session($copy);
wait_until_locks_work($other);
$other->query('SELECT etcd_unlock_all()');
wait_until('its former key is gone', sub { registered() == 1 });
is(duplicate($copy), '', 'killed and started: no duplicate');
unlike(PostgreSQL::Test::Utils::slurp_file($copy->logfile, $offset),
	qr/another live primary/, 'and no warning');

# A promoted standby registers.
$on_standby->quit;
$copy->stop;
$standby->promote;
wait_until('it has registered', sub { registered() == 1 });

# Pinned to one etcd.
my $second = EtcdLockTest::Etcd->new;
my ($id) = map { sprintf '%x', $_->call('/v3/kv/range', { key => 'eA==' })->{header}{cluster_id} } $etcd;
my $pinned = session($standby);
is($pinned->query('SELECT cluster_id FROM etcd_lock_status'), $id, 'the id of the etcd cluster');
$standby->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.cluster_id = '$id'");
$standby->reload;
is($pinned->try("SELECT etcd_try_lock('/pinned')")->{out}, 't', 'the right one');
$pinned->query('SELECT etcd_unlock_all()');
set_endpoints($standby, $second->endpoint);
wait_until('no lease there', sub { $standby->safe_psql('postgres', 'SELECT state FROM etcd_lock_status') ne 'ready' });
is($pinned->try("SET lock_timeout = '3s'; SELECT etcd_try_lock('/pinned')")->{sqlstate} =~ /^(?:08006|55P03)$/ ? 1 : 0,
	1, 'another one: no lock');
wait_until('it says why', sub { $standby->safe_psql('postgres', 'SELECT last_error FROM etcd_lock_status') =~ /belongs to etcd cluster/ });
is(scalar $second->left_keys, 0, 'nothing is put there');

# Nor does a session wait longer than it wants to until the server knows whether it is a copy.
$standby->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.duplicate_primary = 'refuse'");
$standby->reload;
wait_until('the setting is read', sub { $pinned->query('SHOW etcd_lock.duplicate_primary') eq 'refuse' });
foreach my $case (
	[ "SET lock_timeout = '500ms'; SELECT etcd_lock('/pinned')", '55P03' ],
	[ "RESET lock_timeout; SELECT etcd_try_lock('/pinned', '500 ms')", '08006' ])
{
	my $result = $pinned->try($case->[0]);
	is($result->{sqlstate}, $case->[1], "without a lease: $case->[0]");
	cmp_ok($result->{elapsed}, '<', 5, '... in time');
}
is($standby->psql('postgres', "ALTER SYSTEM SET etcd_lock.cluster_id = 'x1'"), 3, 'an id is hexadecimal');
set_endpoints($standby, $etcd->endpoint);
wait_until_locks_work($pinned);
$pinned->query('SELECT etcd_unlock_all()');
is_left_clean($etcd, $standby);
$pinned->quit;
$second->stop;
wait_until('the lease of before has ended', sub { $etcd->leases == 1 });
finish($etcd, $standby);
