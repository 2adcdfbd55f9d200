# A lock on a standby is returned only after the standby shows what the primary had
# written: by every function, however slow replay is, and whatever becomes of the
# primary.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $etcd = EtcdLockTest::Etcd->new;
my $primary = new_server(
	'primary',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 1 },
	conf => <<'END');
etcd_lock.lease_ttl = '60s'
etcd_lock.request_timeout = '30s'
autovacuum = off
wal_writer_delay = '50ms'
max_standby_streaming_delay = -1
END
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
my $outsider = start_server('outsider', endpoints => $etcd->endpoint,
	conf => "etcd_lock.lease_ttl = '60s'");

sub add_standby
{
	my ($name, $upstream) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$upstream->backup("for $name");
	$standby->init_from_backup($upstream, "for $name", has_streaming => 1);
	$standby->start;
	return $standby;
}
my $standby = add_standby('standby', $primary);
my $cascading = add_standby('cascading', $standby);

sub caught_up
{
	my ($node) = @_;
	my $end = $primary->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	$node->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$end'")
	  or die 'no catch-up';
	return;
}
caught_up($_) foreach $standby, $cascading;

sub pause
{
	my ($node) = @_;
	caught_up($node);
	$node->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	$node->poll_query_until('postgres', q(SELECT pg_get_wal_replay_pause_state() = 'paused'))
	  or die 'replay does not pause';
	return;
}
sub resume { return $_[0]->safe_psql('postgres', 'SELECT pg_wal_replay_resume()') }

sub set
{
	my ($node, $setting, $value) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting = '$value'");
	$node->reload;
	return wait_until("$setting is set",
		sub { $node->safe_psql('postgres', "SHOW $setting") eq $value });
}

# On the primary, under the lock: what the next holder is to see.
my $number = 0;

sub migrate
{
	my ($session, %options) = @_;
	my $table = 'migrated' . ++$number;
	my $settings = $options{settings} // '';
	$session->query("$settings; SELECT etcd_lock('/m'); CREATE TABLE $table (); SELECT etcd_unlock('/m')");
	return $table;
}
sub sees { return $_[0]->query("SELECT to_regclass('$_[1]') IS NOT NULL") }

# Its session has the lock, and waits for replay.
sub wait_until_behind
{
	foreach my $session (@_)
	{
		my $pid = $session->pid;
		wait_until("$pid waits for replay", sub {
			die "it does not wait: $session->{stdout}$session->{stderr}" if $session->done;
			return $session->{node}->safe_psql('postgres', <<"SQL");
SELECT 1 FROM etcd_locks l JOIN pg_stat_activity a USING (pid)
WHERE pid = $pid AND granted AND wait_event IN ('Extension', 'EtcdLockCatchUp')
SQL
		});
	}
	return;
}

my $here = session($primary);
my $there = session($standby);

#
# What it is for; and that the test can fail.
#
pause($standby);
my $table = migrate($here);
$there->query("SET etcd_lock.catch_up = off; SELECT etcd_lock('/m')");
is(sees($there, $table), 'f', 'catch_up = off: the lock is had at once, and the past is seen');
$there->query("SELECT etcd_unlock('/m'); RESET etcd_lock.catch_up");

my $offset = -s $standby->logfile;
$there->query("SET client_min_messages = debug1");
$there->send("CALL etcd_lock_wait('/m')");
wait_until_behind($there);
is( $standby->safe_psql('postgres', 'SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE pid = ' . $there->pid),
	't', 'CALL waits without a snapshot');
is($here->query("SELECT etcd_try_lock('/m')"), 'f', 'meanwhile nobody else has the lock');
resume($standby);
my $result = $there->result;
is($result->{sqlstate}, '', 'replay goes on: the wait ends');
like($result->{err}, qr/waits until this standby has replayed.*this standby has replayed it/s, 'the trace shows it');
$there->query('RESET client_min_messages');
is(sees($there, $table), 't', 'and the present is seen');
$there->query("SELECT etcd_unlock('/m')");

#
# Every way to acquire a lock.
#
my @ways = (
	"SELECT etcd_lock('%s')", "SELECT etcd_lock_shared('%s')",
	"BEGIN; SELECT etcd_xact_lock('%s')", "BEGIN; SELECT etcd_xact_lock_shared('%s')",
	"SELECT etcd_try_lock('%s')", "SELECT etcd_try_lock_shared('%s')",
	"BEGIN; SELECT etcd_try_xact_lock('%s')", "BEGIN; SELECT etcd_try_xact_lock_shared('%s')",
	"SELECT etcd_try_lock('%s', wait => '1 min')", "CALL etcd_lock_wait('%s')",
	"CALL etcd_lock_wait('%s', wait => '1 min')",
	"BEGIN; SELECT etcd_try_once('%s', '2030-01-01')",
	'SELECT etcd_lock(4711)', 'SELECT etcd_try_lock_shared(47, 11)', 'CALL etcd_lock_wait(4712)',
	'SELECT etcd_advisory.pg_advisory_lock(4713)', 'SELECT etcd_advisory.pg_try_advisory_lock(4714)',
	'BEGIN; SELECT etcd_advisory.pg_advisory_xact_lock_shared(4715)',
	"SELECT etcd_lock_all('%s', '%s/2')", "BEGIN; SELECT etcd_xact_lock_all('%s', '%s/2')");
my %by_way;

# Tries wait for replay for that long; here they wait until all others do.
set($standby, 'etcd_lock.request_timeout', '3min');
pause($standby);
$table = migrate($here);
foreach my $i (0 .. $#ways)
{
	my $session = $by_way{ $ways[$i] } = session($standby);
	$session->send($ways[$i] =~ s/%s/\/way\/$i/gr);
}
wait_until_behind(values %by_way);
pass('each waits');
resume($standby);
foreach my $way (@ways)
{
	my $session = $by_way{$way};
	my $got = $session->result;
	is($got->{sqlstate}, '', "gets the lock: $way");
	unlike($got->{out}, qr/^f$/m, "which is not \"false\": $way");
	is(sees($session, $table), 't', "and sees it: $way");
	$session->quit;
}
set($standby, 'etcd_lock.request_timeout', '30s');
$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, $primary, $standby, $cascading, $outsider);

#
# Ends of the wait: the lock is released then, whatever it is.
#
pause($standby);
$table = migrate($here);
set($standby, 'log_lock_waits', 'on');
set($standby, 'etcd_lock.request_timeout', '2s');
my $detail = qr/DETAIL:  This standby has replayed WAL up to \S+ of timeline 1; the primary had written up to \S+ of timeline 1\.  Replay is paused\./;
foreach my $end (
	[ "SET lock_timeout = '300ms'; SELECT etcd_lock('/end')", '55P03', $detail ],
	[ "SET lock_timeout = '300ms'; CALL etcd_lock_wait('/end')", '55P03', $detail ],
	[ "SELECT etcd_try_lock('/end', wait => '300 ms')", '55P03', $detail ],
	[ "CALL etcd_lock_wait('/end', wait => '300 ms')", '55P03', $detail ],
	[ "SELECT etcd_try_lock('/end')", '55P03', $detail ],
	[ "SELECT etcd_advisory.pg_try_advisory_lock(1)", '55P03', $detail ],
	[ "SET statement_timeout = '300ms'; SELECT etcd_lock_shared('/end')", '57014', qr/statement timeout/ ],
	[ "BEGIN; SELECT etcd_try_once('/end', '2030-01-01')", '55P03', $detail ],
	[ "SET lock_timeout = '300ms'; SELECT etcd_lock_all('/end', '/end2')", '55P03', $detail ])
{
	my ($sql, $sqlstate, $text) = @$end;
	my $session = session($standby);
	my $got = $session->try($sql);
	is($got->{sqlstate}, $sqlstate, "an error: $sql");
	like($got->{err}, $text, 'which says why');
	is($session->query("ROLLBACK; SELECT count(*) FROM etcd_locks WHERE pid = pg_backend_pid()"), '0',
		'and the session has no lock');
	is($here->query("SELECT etcd_try_lock('/end'), etcd_try_lock('/end2'), etcd_try_lock(1)"), 't|t|t',
		'others can have it');
	$here->query('SELECT etcd_unlock_all()');
	$session->quit;
}
is_logged($standby, $offset, qr/LOG:.*process \d+ has an etcd lock, and still waits for replay after [\d.]+ ms/,
	'log_lock_waits tells of it');
set($standby, 'etcd_lock.request_timeout', '30s');

# Cancelled; caught in a block; terminated.
my ($cancelled, $caught, $terminated) = map { session($standby) } 1 .. 3;
$cancelled->send("SELECT etcd_lock('/cancelled')");
$caught->send(<<'SQL');
SET lock_timeout = '1s';
DO $$ BEGIN PERFORM etcd_lock('/caught'); EXCEPTION WHEN lock_not_available THEN NULL; END $$;
SELECT count(*) FROM etcd_locks WHERE pid = pg_backend_pid()
SQL
$terminated->send("SELECT etcd_lock('/terminated')");
wait_until_behind($cancelled, $terminated);
$standby->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $cancelled->pid . ')');
$standby->safe_psql('postgres', 'SELECT pg_terminate_backend(' . $terminated->pid . ')');
is($cancelled->result->{sqlstate}, '57014', 'a cancel ends it');
is($caught->result->{out}, '0', 'caught in a block: no lock is left');
is($terminated->result->{closed}, 1, 'a termination ends it');
$_->quit foreach $cancelled, $caught;
$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, $standby);

# Lost while it waits.
my $loser = session($standby);
$loser->send("SELECT etcd_lock('/lost')");
wait_until_behind($loser);
$etcd->delete('/lost/');
isnt($loser->result->{sqlstate}, '', 'a loss ends it');
$loser->quit;
resume($standby);
is_left_clean($etcd, $standby);

#
# However WAL is written, and comes.
#
set($standby, 'recovery_min_apply_delay', '2s');
$table = migrate($here);
$there->query("CALL etcd_lock_wait('/m')");
is(sees($there, $table), 't', 'recovery_min_apply_delay: waited for');
$there->query("SELECT etcd_unlock('/m')");
set($standby, 'recovery_min_apply_delay', '0');

foreach my $commit (qw(off local on remote_apply))
{
	set($primary, 'synchronous_standby_names', 'standby') if $commit eq 'on';
	pause($standby) unless $commit eq 'remote_apply';
	$table = migrate($here, settings => "SET synchronous_commit = $commit");
	$there->send("SELECT etcd_lock('/m')");
	if ($commit ne 'remote_apply')
	{
		wait_until_behind($there);
		resume($standby);
	}
	$there->result;
	is(sees($there, $table), 't', "synchronous_commit = $commit: waited for");
	$there->query("SELECT etcd_unlock('/m')");
}
set($primary, 'synchronous_standby_names', '');
$here->query('RESET synchronous_commit');

# What a program does under a lock that it has by another session, or another client.
my $worker = session($primary);
$worker->query('SET synchronous_commit = off');
foreach my $i (1 .. 5)
{
	$here->query("SELECT etcd_lock('/m')");
	$worker->query("CREATE TABLE elsewhere$i ()");
	$here->query("SELECT etcd_unlock('/m')");
	$there->query("SELECT etcd_lock('/m')");
	is(sees($there, "elsewhere$i"), 't', 'done in another session, without a flush: waited for');
	$there->query("SELECT etcd_unlock('/m')");
}

# A primary that has written, and does not go on: half a record may be flushed, or the
# next one begins behind a page's header.
$worker->query('CREATE TABLE big (t text); CHECKPOINT');
$there->query("SET lock_timeout = '12s'");
foreach my $sql ("BEGIN; INSERT INTO big SELECT repeat('x', 1000) FROM generate_series(1, 3000)",
	'ROLLBACK', 'SELECT pg_switch_wal()')
{
	$worker->query($sql);
	is($there->try("CALL etcd_lock_wait('/m')")->{sqlstate}, '', "nothing follows: $sql");
	$there->query("SELECT etcd_unlock('/m')");
}
$there->query('RESET lock_timeout');

# A standby's standby.
my $below = session($cascading);
pause($cascading);
$table = migrate($here);
$below->send("CALL etcd_lock_wait('/m')");
wait_until_behind($below);
resume($cascading);
$below->result;
is(sees($below, $table), 't', 'a cascading standby waits, too');
$below->query("SELECT etcd_unlock('/m')");

# On the primary, and on a server of another system, nothing is waited for.
pause($standby);
my $elsewhere = session($outsider);
is($_->query("SELECT etcd_try_lock('/x'), etcd_unlock('/x')"), 't|t', 'not a standby: at once')
  foreach $here, $elsewhere;
resume($standby);
is_left_clean($etcd, $primary, $standby, $cascading, $outsider);

#
# A primary that does not answer.
#
set($standby, 'etcd_lock.request_timeout', '2s');
$table = migrate($here);
kill STOP => worker_pid($primary);
foreach my $sql ("SELECT etcd_lock('/silent')", "SELECT etcd_try_lock('/silent')",
	"SELECT etcd_try_lock('/silent', wait => '500 ms')", "CALL etcd_lock_wait('/silent')")
{
	$result = $there->try($sql);
	is($result->{sqlstate}, '08006', "no answer is an error: $sql");
	like($result->{err}, qr/could not determine (?:within \d+ ms )?how far the primary had written/, 'which says so');
}
is($elsewhere->query("SELECT etcd_try_lock('/silent'), etcd_unlock('/silent')"), 't|t', 'the lock is released');
kill CONT => worker_pid($primary);
$there->query("SELECT etcd_lock('/silent')");
is(sees($there, $table), 't', 'when it answers again, all is well');
$there->query("SELECT etcd_unlock('/silent')");
set($standby, 'etcd_lock.request_timeout', '30s');
is_left_clean($etcd, $primary, $standby);

# A primary without the extension, or none: nothing to wait for, not even what has come
# with replay paused.
$_->quit foreach $here, $worker;
$primary->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$primary->restart;
pause($standby);
$primary->safe_psql('postgres', 'CREATE TABLE not_ours ()');
is($there->query("SELECT etcd_try_lock('/none')"), 't', 'a primary that does not preload: at once');
$there->query("SELECT etcd_unlock('/none')");
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'etcd_lock'");
$primary->restart;
$here = session($primary);
wait_until_locks_work($here);

# It was there when it was asked, and is gone for good while the session waits.
$there->send("SELECT etcd_lock('/gone')");
wait_until_behind($there);
$here->quit;
$primary->stop;
is($there->result->{sqlstate}, '', 'stopped while it is waited for: nothing to wait for');
$there->query("SELECT etcd_unlock('/gone')");
is($there->query("SELECT etcd_try_lock('/gone'), etcd_unlock('/gone')"), 't|t', 'stopped: at once');
$primary->start;
resume($standby);
$here = session($primary);
wait_until_locks_work($here);
$below->query("SELECT etcd_lock('/again')");
$below->query("SELECT etcd_unlock('/again')");

#
# A failover.  The primary is killed while a session waits for replay; its key stays, as
# its lease goes on.
#
pause($standby);
$table = migrate($here);
$there->send("CALL etcd_lock_wait('/m')");
wait_until_behind($there);
$primary->wait_for_catchup($standby, 'flush', $primary->lsn('flush'));
$here->kill;
my ($lease) = map { $_->{value} =~ /"port":${\ $primary->port},.*"timeline":1\b/ ? $_->{lease} : () }
  $etcd->entries('.etcd_lock/server/');
ok($lease, 'the primary says its timeline');
$primary->stop('immediate');
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'not promoted';
is($there->result->{sqlstate}, '', 'promoted while it waits: the session has the lock');
is(sees($there, $table), 't', 'and sees what the last holder committed');
wait_until('it is registered, beside the killed one and the outsider',
	sub { $etcd->keys('.etcd_lock/primary/') == 3 });
$there->query("SELECT etcd_unlock('/m')");

# The cascading standby follows it to the next timeline, and does not ask the dead one.
set($cascading, 'etcd_lock.request_timeout', '10s');
$cascading->poll_query_until('postgres',
	q(SELECT received_tli = 2 FROM pg_stat_wal_receiver)) or die 'it does not follow';
$table = migrate($there);
my $end = $standby->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
$below->query("CALL etcd_lock_wait('/m')");
is(sees($below, $table), 't', 'the new primary was asked');
$below->query("SELECT etcd_unlock('/m')");
$cascading->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$table = migrate($there);
$below->send("CALL etcd_lock_wait('/m')");
wait_until_behind($below);
resume($cascading);
is($below->result->{sqlstate}, '', 'on the new timeline');
is(sees($below, $table), 't', 'it is waited for, too');
$below->query("SELECT etcd_unlock('/m')");
$etcd->revoke($lease);

# A primary that loses its lease has no key until it has another one, but its locks are free.
$there->query("SELECT etcd_lock('/m')");
$below->send("CALL etcd_lock_wait('/m')");
wait_until_waiting($below);
$cascading->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$there->query('CREATE TABLE between_leases ()');
my $its = $standby->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status()');
$etcd->revoke($_->{lease}) foreach grep { sprintf('%x', $_->{lease}) eq $its } $etcd->entries('/m/');
wait_until_behind($below);
resume($cascading);
is($below->result->{sqlstate}, '', 'between two leases of the primary');
is(sees($below, 'between_leases'), 't', 'it is waited for, too');
$_->query("SELECT etcd_unlock('/m')") foreach $below, $there;

# After a reload of the namespace, sentinels are where they were until the next lease.
set($_, 'etcd_lock.namespace', 'moved/') foreach $standby, $cascading;
wait_until('the primary is registered there', sub { $etcd->keys('moved/.etcd_lock/primary/') == 1 });
$below->quit;
$cascading->restart;
$below = session($cascading);
wait_until_locks_work($below);
$cascading->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$table = migrate($there);
$below->send("CALL etcd_lock_wait('/m')");
wait_until_behind($below);
resume($cascading);
is($below->result->{sqlstate}, '', 'in another namespace');
is(sees($below, $table), 't', 'it is waited for, too');
$below->query("SELECT etcd_unlock('/m')");

$_->quit foreach $there, $below, $elsewhere;
set($_, 'etcd_lock.namespace', '') foreach $standby, $cascading;
$_->restart foreach $standby, $cascading;
is_left_clean($etcd, $standby, $cascading, $outsider);
finish($etcd, $cascading, $standby, $outsider);
