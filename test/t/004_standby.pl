# A hot standby is a server like any other: its sessions take locks that exclude those
# of the primary and of every other server, and a promotion changes nothing.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my $primary = start_server(
	'primary',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 1 });
my ($outsider) = start_servers($etcd, 'outsider');

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
wait_until('primary, standby and outsider have a lease each',
	sub { $etcd->leases == 3 });
pass('primary, standby and outsider have a lease each');

my %session = (
	primary => session($primary),
	standby => session($standby),
	outsider => session($outsider));
is($session{standby}->query('SELECT pg_is_in_recovery()'),
	't', 'the standby is one');

# Everyone excludes everyone.
foreach my $holder (sort keys %session)
{
	$session{$holder}->query("SELECT etcd_lock('/held'), etcd_lock(1)");
	foreach my $other (grep { $_ ne $holder } sort keys %session)
	{
		is( $session{$other}->query(
				"SELECT etcd_try_lock('/held'), etcd_try_lock_shared(1)"),
			'f|f',
			"held on the $holder, refused on the $other");
	}
	$session{$holder}->query('SELECT etcd_unlock_all()');
}
is_left_clean($etcd, $primary, $standby, $outsider);

# All kinds of locks on the standby.
is( $session{standby}->query(<<'SQL'), "t|t\nt|t|t", 'the ways to take a lock');
BEGIN READ ONLY;
SELECT etcd_xact_lock('/x') > 0, etcd_try_xact_lock_shared('/y');
COMMIT;
CALL etcd_lock_wait('/held');
SELECT etcd_lock_check('/held'), etcd_lock_token('/held') > 0,
       etcd_try_lock('/z', interval '1 s');
SQL
is_deeply(
	[ sort map { s{/write/.*}{}r } $etcd->lock_keys ],
	[ '/held', '/z' ],
	'only the session locks stay');

# CALL etcd_lock_wait waits without a snapshot, on a standby too.
$session{outsider}->send("SELECT etcd_lock('/held') > 0");
wait_until_waiting($session{outsider});
$session{standby}->query('SELECT etcd_unlock_all()');
is($session{outsider}->result->{out}, 't', 'handed over from the standby');
$session{standby}->send("CALL etcd_lock_wait('/held')");
wait_until_waiting($session{standby});
is( $standby->safe_psql(
		'postgres',
		'SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE pid = '
		  . $session{standby}->pid),
	't',
	'CALL etcd_lock_wait has no snapshot while it waits');
$session{outsider}->query("SELECT etcd_unlock('/held')");
is($session{standby}->result->{sqlstate}, '', 'handed over to the standby');

# Promotion keeps what is held and who waits.
my $token = $session{standby}->query("SELECT etcd_lock_token('/held')");
$session{primary}->send("SELECT etcd_lock('/held') > 0");
wait_until_waiting($session{primary});
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
  or die 'the standby was not promoted';
is( $session{standby}->query(
		"SELECT etcd_lock_check('/held'), etcd_lock_token('/held') = $token"),
	't|t',
	'promoted: the session still holds its lock');
ok(!$session{primary}->done, 'and the others still wait');
is( $session{standby}->query(<<'SQL'), 't', 'a promoted server grants locks');
CREATE TABLE t (i int);
BEGIN;
INSERT INTO t VALUES (1);
SELECT etcd_xact_lock('/x') > 0;
COMMIT;
SQL
$session{standby}->query("SELECT etcd_unlock('/held')");
is($session{primary}->result->{out}, 't', 'and hands them over');
$session{primary}->query('SELECT etcd_unlock_all()');

is_left_clean($etcd, $primary, $standby, $outsider);
$_->quit foreach values %session;
finish($etcd, $standby, $primary, $outsider);
