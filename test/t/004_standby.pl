# A hot standby is a server like any other: its sessions take locks that exclude those
# of the primary and of every other server, and a promotion changes nothing.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);

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

# Keys that are kept, for longer than anybody has to wait: some are idle during the promotion
# below, some are used and waited for.
sub set_keep_window
{
	my ($who, $window) = @_;
	$session{$who}->query("ALTER SYSTEM SET etcd_lock.keep_window = '$window'");
	$session{$who}{node}->reload;
	wait_until("keep_window is $window",
		sub { $session{$who}->query('SHOW etcd_lock.keep_window') eq $window });
	return;
}
set_keep_window($_, '10s') foreach qw(primary standby);

# Until its server keeps the lock.
sub heat
{
	my ($who, $name) = @_;
	my $acquired = sub { $session{$who}->query('SELECT acquired_etcd FROM etcd_lock_stats') };
	wait_until(
		"$name is kept",
		sub {
			my $before = $acquired->();
			$session{$who}->query("SELECT etcd_lock('$name'); SELECT etcd_unlock('$name');" x 5);
			return $acquired->() == $before && grep { m{^\Q$name\E/write/.*-keep10000$} } $etcd->lock_keys;
		});
	return;
}

my %token;
sub taken { my ($who, $name) = @_; return $token{$name} = $session{$who}->query("SELECT etcd_lock('$name')") }

my %waiter = (primary => session($standby), standby => session($primary));
foreach my $who (qw(primary standby))
{
	heat($who, $_) foreach "/used/$who", "/idle/$who", "/again/$who";
	taken($who, $_) foreach "/used/$who", "/idle/$who", "/again/$who";
	$session{$who}->query("SELECT etcd_unlock('$_')") foreach "/idle/$who", "/again/$who";
	$waiter{$who}->send("SELECT etcd_lock('/used/$who')");
	wait_until_waiting($waiter{$who});
}

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

# What was kept goes to who asks, on the old primary and on the new one.
sub soon
{
	my ($name, $what, $do) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($before, $began) = ($token{$name}, time);
	cmp_ok($do->(), '>', $before, "$what: with a higher token");
	cmp_ok(time - $began, '<', 5, "$what: soon");
	return;
}

my %other = (primary => 'standby', standby => 'primary');
foreach my $who (qw(primary standby))
{
	my $other = $other{$who};
	soon("/used/$who", "kept and used on the $who, waited for on the $other",
		sub {
			$session{$who}->query("SELECT etcd_unlock('/used/$who')");
			return $waiter{$who}->result->{out};
		});
	soon("/idle/$who", "kept on the $who, asked for on the $other", sub { taken($other, "/idle/$who") });
	soon("/again/$who", "kept on the $who, asked for there", sub { taken($who, "/again/$who") });
	is( $session{$who}->query("SELECT etcd_try_lock('/used/$who'), etcd_try_lock('/idle/$who')"),
		'f|f', "the $who no longer has what it has kept");
	is($session{$other}->query("SELECT etcd_try_lock('/again/$who')"), 'f', '... but what it has again');
}
$_->quit foreach values %waiter;
set_keep_window('standby', '0');
$_->query('SELECT etcd_unlock_all()') foreach values %session;

# The old primary stops while it keeps keys.
heat('primary', '/stop');
taken('primary', '/stop');
$session{primary}->query("SELECT etcd_unlock('/stop')");
$session{primary}->quit;
$primary->stop('fast');
soon('/stop', 'the old primary has stopped', sub { taken('standby', '/stop') });
$session{standby}->query("SELECT etcd_unlock('/stop')");

is_left_clean($etcd, $standby, $outsider);
$_->quit foreach values %session;
finish($etcd, $standby, $outsider);
