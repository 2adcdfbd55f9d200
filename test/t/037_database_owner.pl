# The owner of a database who is not a superuser can dump it, including the fences.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here) = start_servers($etcd, 'here');
$here->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN');
$here->safe_psql('postgres', 'CREATE DATABASE owned OWNER owner');
$here->safe_psql('postgres', 'CREATE DATABASE restored OWNER owner');
$here->safe_psql('owned', <<'SQL');
CREATE EXTENSION etcd_lock;
SELECT etcd_lock_fence('/fenced', 7);
SQL

my $dump = $here->data_dir . '/../owned.sql';
my $connstr = $here->connstr('owned');
$here->command_ok([ 'pg_dump', '-f', $dump, "$connstr user=owner" ], 'the owner dumps');
like(slurp_file($dump), qr{^/fenced\t7$}m, 'with the fences');
$here->command_fails_like([ 'pg_dump', '-f', $dump, "$connstr user=reader" ],
	qr/permission denied for table etcd_lock_fences/, 'others do not');
my $owner = session($here, db => 'owned', user => 'owner');
foreach my $sql (
	"INSERT INTO etcd_lock_fences VALUES ('/fenced', 9223372036854775807)",
	'UPDATE etcd_lock_fences SET token = 1',
	'DELETE FROM etcd_lock_fences')
{
	is($owner->try($sql)->{sqlstate}, '42501', "the owner must not: $sql");
}
$owner->quit;

$here->command_ok([ 'pg_dump', '-f', $dump, "$connstr user=owner" ], 'dumped again');
$here->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump,
	'-d', $here->connstr('restored') ], 'a superuser restores');
is($here->safe_psql('restored', "SELECT etcd_lock_fence('/fenced', 6), etcd_lock_fence('/fenced', 7)"),
	'f|t', 'the fences are kept');

is_left_clean($etcd, $here);
finish($etcd, $here);
