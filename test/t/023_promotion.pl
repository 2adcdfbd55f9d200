# A hot standby and its promotion: every function works on a standby, a long wait there
# does not hold back replay, and after a failover there is one holder, which an old
# primary that comes back to life cannot disturb.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $primary = new_server(
	'primary',
	endpoints => $proxy->url,
	init => { allows_streaming => 1 },
	conf => <<'END');
etcd_lock.lease_ttl = '8s'
autovacuum = off
hot_standby_feedback = off
max_standby_streaming_delay = '500ms'
END
$primary->start;
$primary->safe_psql('postgres', <<'SQL');
CREATE EXTENSION etcd_lock;
CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i;
SQL
$primary->backup('backup');

sub add_standby
{
	my ($name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);

	# With a lease that outlives a machine that stalls for a moment.
	$standby->append_conf('postgresql.conf',
		"etcd_lock.endpoints = '" . $etcd->endpoint . "'\netcd_lock.lease_ttl = '15s'");
	$standby->start;
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	return $standby;
}

my $standby = add_standby('standby');
my $here = session($primary);
my $there = session($standby);
is($there->query('SELECT pg_is_in_recovery()'), 't', 'the standby is in recovery');

#
# Every routine of the extension, on the primary and on the standby.
#
my %value = (
	text => "'/all'",
	'text[]' => "ARRAY['/all']",
	bigint => '7',
	integer => '8',
	interval => "'1 s'",
	'timestamp with time zone' => "'2030-01-01'");

# What a fresh session answers: its SQLSTATE, and what is true, false or null.
sub outcome
{
	my ($node, $sql) = @_;
	my $keys = sub { scalar grep { !m{/tick/} } $etcd->lock_keys };
	my $before = $keys->();
	my $session = session($node);
	my $result = $session->try("SET statement_timeout = '20 s'; $sql");
	my @values = map { /^[tf]?$/ ? $_ : 'value' } split /\|/, $result->{out}, -1;

	# The server goes on with the end of a session when the client has gone.
	$session->quit;
	wait_until('its locks are gone', sub { $keys->() <= $before });
	return $result->{sqlstate} || join ' ', 'ok', @values;
}

# Until a lease is renewed nobody knows how little was left of it.
foreach my $node ($primary, $standby)
{
	wait_until('a renewal',
		sub { $node->safe_psql('postgres', 'SELECT lowest_ttl_left FROM etcd_lock_stats') ne '' });
}

my @routines = map { [ split /\|/, $_, -1 ] } split /\n/, $primary->safe_psql('postgres', <<'SQL');
SELECT p.prokind, p.proretset, p.oid::regproc,
       (SELECT string_agg(format_type(t, NULL), ', ' ORDER BY n)
        FROM unnest(p.proargtypes) WITH ORDINALITY a(t, n))
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass
	AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'etcd_lock')
ORDER BY p.oid::regprocedure::text
SQL
cmp_ok(scalar(@routines), '>', 40, 'the extension has many routines');
foreach my $routine (@routines)
{
	my ($kind, $is_set, $name, $types) = @$routine;
	my @types = split /, /, $types;
	my $arguments = join ', ', map { ($_ eq 'text[]' ? 'VARIADIC ' : '') . "$value{$_}::$_" } @types;
	$arguments =~ s/'[^']*'::text$/$value{interval}::text/ if $types eq 'text, text';
	my $sql =
	    $kind eq 'p' ? "CALL $name($arguments)"
	  : $is_set eq 't' ? "SELECT count(*) >= 0 FROM $name($arguments)"
	  : "SELECT * FROM $name($arguments)";

	# Ticks are one for all servers: each call needs its own.
	my %sql = map {
		my $server = $_;
		($server => $sql =~ s{'/all'(?=.*2030)}{'/$server'}r)
	} qw(primary standby);
	my %outcome = (
		primary => outcome($primary, $sql{primary}),
		standby => outcome($standby, $sql{standby}));

	# It writes to a table.
	if ($name =~ /etcd_lock_fence(_reset)?$/)
	{
		like("@outcome{qw(primary standby)}", qr/^ok [tf] 25006$/, "$name($types): primary only");
		next;
	}

	# There to say what is wrong with it.
	if ($types eq 'text, integer')
	{
		is("@outcome{qw(primary standby)}", '42804 42804', "$name($types): an error");
		next;
	}
	like($outcome{primary}, qr/^ok/, "$name($types): works on the primary");
	is($outcome{standby}, $outcome{primary}, "$name($types): the same on the standby");
}
$etcd->delete('.etcd_lock/tick/');
foreach my $view (split /\n/, $primary->safe_psql('postgres', <<'SQL'))
SELECT c.oid::regclass FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass
	AND d.deptype = 'e' AND c.relkind IN ('r', 'v')
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'etcd_lock')
SQL
{
	is(outcome($standby, "SELECT count(*) >= 0 FROM $view"),
		'ok t', "$view can be read on the standby");
}
is_left_clean($etcd, $primary, $standby);

# What is to run on the primary only takes no lock on a standby.
my $only_primary =
  "SELECT 'runs' WHERE NOT pg_is_in_recovery() AND etcd_try_lock('/only')";
is( join(' ', map { $_->query($only_primary) } $there, $here),
	' runs', 'on the primary only: and the standby did not take the lock');
$here->query("SELECT etcd_unlock('/only')");
my ($hosts, $ports) =
  map { my $what = $_; join ',', map { $_->$what } $standby, $primary } qw(host port);
my $found = $primary->safe_psql(
	'postgres',
	"CALL etcd_lock_wait('/primary'); SELECT pg_is_in_recovery(), etcd_lock_check('/primary')",
	connstr => "host=$hosts port=$ports dbname=postgres target_session_attrs=primary");
is($found, 'f|t', 'libpq finds the primary for a lock');

# A tick is claimed once among primary and standby.
is( join(' ',
		map { $_->query("SELECT etcd_try_once('/tick', '2030-01-01')") } $there, $here),
	't f',
	'a tick that was claimed on the standby is taken on the primary');

#
# A long wait on the standby, and what VACUUM does to it.
#
my ($selecting, $calling, $holding, $idle) = map { session($standby) } 1 .. 4;
$here->query("SELECT etcd_lock('/long')");
$holding->query("SELECT etcd_lock('/held')");
$idle->query("BEGIN; SELECT etcd_xact_lock('/idle')");
$selecting->send("SELECT etcd_lock('/long')");
$calling->send("CALL etcd_lock_wait('/long')");
wait_until_waiting($selecting, $calling);

my $writer = session($primary);
$writer->query('DELETE FROM t WHERE i > 500');
$writer->query('VACUUM t');
my $result = $selecting->result;
is($result->{sqlstate}, '40001', 'SELECT etcd_lock(): cancelled by replay');
like($result->{err}, qr/conflict with recovery/, 'and told why');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'),
	500, 'replay has gone on');
ok(!$calling->done, 'CALL etcd_lock_wait(): still waits');
is($holding->query("SELECT etcd_lock_check('/held')"), 't', 'a session lock is still held');
is($idle->query("SELECT etcd_lock_check('/idle')"), 't', 'and so is a transaction lock');

# Again and again, for longer than the delay, it does not make replay wait.
foreach (1 .. 5)
{
	$writer->query("INSERT INTO t SELECT generate_series(1, 100); DELETE FROM t WHERE i <= $_ * 50");
	$writer->query('VACUUM t');
}
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
$selecting->quit;
ok( $standby->poll_query_until('postgres',
		'SELECT sum(confl_snapshot) = 1 FROM pg_stat_database_conflicts'),
	'one wait was cancelled in all');
ok(!$calling->done, 'CALL etcd_lock_wait() was not');
$here->query("SELECT etcd_unlock('/long')");
is($calling->result->{sqlstate}, '', 'and then CALL etcd_lock_wait() has the lock');
$idle->quit;
$_->query('SELECT etcd_unlock_all()') foreach $calling, $holding;
is_left_clean_but_tick();

sub is_left_clean_but_tick
{
	ok( wait_until(
			'no lock is left',
			sub { join(' ', $etcd->lock_keys) eq '.etcd_lock/tick//tick' }),
		'no lock is left in etcd, but the tick is');
	return;
}

#
# Failover.  Sessions of the primary and of the standby hold locks; the primary is
# cut off from etcd and lives on; the standby is promoted.
#
my ($leader, $reader, $candidate) = (session($primary), session($standby), session($standby));
my $old_token = $leader->query("SELECT etcd_lock('/primary')");
$leader->query('CREATE TABLE written (who text)');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
$leader->query("BEGIN; INSERT INTO written VALUES ('too late')");
my $kept_token = $reader->query("SELECT etcd_lock('/kept')");
$holding->query("BEGIN; SELECT etcd_xact_lock('/xact')");
$candidate->send("SELECT etcd_lock('/primary')");
$calling->query("SELECT etcd_lock('/broken')");
wait_until_waiting($candidate);

# A session of the primary takes a lock again and again, as its server keeps it, and somebody
# on the standby wants it, too, as soon as the primary is cut off.
$primary->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.keep_window = '10s'");
$primary->reload;
wait_until('keep_window is 10s', sub { $here->query('SHOW etcd_lock.keep_window') eq '10s' });
my $acquired = sub { $here->query('SELECT acquired_etcd FROM etcd_lock_stats') };
wait_until(
	'the primary keeps the lock',
	sub {
		my $before = $acquired->();
		$here->query("SELECT etcd_lock('/hot'); SELECT etcd_unlock('/hot');" x 5);
		return $acquired->() == $before;
	});
my $hot = "SELECT etcd_lock('/hot'), extract(epoch FROM clock_timestamp())";
my $last = $here->query($hot);
$here->query("SELECT etcd_unlock('/hot')");

$proxy->refuse;
my $cut_off = time;
$there->send($hot);
$here->query("SET lock_timeout = '200ms'");
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
  or die 'the standby was not promoted';

my $until = 0;
until ($until && time > $until)
{
	$until ||= time + 0.5 if $there->done;
	my $out = $here->try($hot)->{out};
	$last = $out if $out ne '';
	$here->try("SELECT etcd_unlock('/hot')");
	sleep 0.01;
}
my ($hot_token, $hot_since) = split /\|/, $there->result->{out};
my ($last_token, $last_since) = split /\|/, $last;
note sprintf 'the old primary has it for the last time %.1f s after the cut, the new one %.1f s after it',
  $last_since - $cut_off, $hot_since - $cut_off;
cmp_ok($hot_token, '>', $last_token, 'what the old primary keeps: the new one gets it, with a higher token');
cmp_ok($hot_since, '>', $last_since, '... when the old one no longer does');

# after its lease, of 8 s
cmp_ok($hot_since - $cut_off, '<', 18, '... and its lease has ended');

# What the standby's sessions had lives on.
is( $reader->query("SELECT etcd_lock_check('/kept'), etcd_lock_token('/kept') = $kept_token"),
	't|t', 'promoted: a session lock lives on, with its token');
is( $holding->query("SELECT etcd_lock_check('/xact')"),
	't', 'and a transaction lock');
$result = $holding->try('COMMIT');
is($result->{sqlstate}, '', 'which may commit');

# Or is lost and told: what is deleted after the promotion as well as before.
$etcd->delete('/broken/');
wait_until('the loss is seen',
	sub { $standby->safe_psql('postgres', 'SELECT 1 FROM etcd_locks WHERE lost') });
is($calling->try("SELECT etcd_lock('/broken')")->{sqlstate},
	'EL001', 'a lock that is lost after the promotion is told to be');
$calling->query("SELECT etcd_unlock('/broken')");

# The new primary's session gets the lock when the old one's lease is over.
$result = $candidate->result;
is($result->{sqlstate}, '', 'the waiter on the standby gets the lock as a primary');
my $token = $result->{out};
cmp_ok($token, '>', $old_token, 'with a higher token');
is( $candidate->query(<<SQL), 't', 'and may write');
BEGIN;
INSERT INTO written VALUES ('new primary') RETURNING etcd_lock_fence('/primary', $token);
COMMIT;
SQL

# The old primary is one, too, as it believes; but it has no lock.
is($primary->safe_psql('postgres', 'SELECT pg_is_in_recovery()'),
	'f', 'the old primary believes that it is one');
is($leader->try('COMMIT')->{sqlstate}, 'EL002', 'its session cannot commit');
is($leader->query('SELECT count(*) FROM written'), 0, 'nothing was written there');
$proxy->accept;
$leader->query("SELECT etcd_unlock('/primary')");
is( wait_until(
		'the old primary is back',
		sub {
			my $result = $leader->try("SELECT etcd_try_lock('/primary')");
			return $result->{sqlstate} eq '' && $result->{out};
		}),
	'f',
	'when it has a link again, the lock is taken');
is($here->query("RESET lock_timeout; SELECT etcd_try_lock('/hot')"), 'f', '... and so is the one that it kept');

# Ticks and fences are what they were.
is($candidate->query("SELECT etcd_try_once('/tick', '2030-01-01')"),
	'f', 'the tick is still claimed after the promotion');
is($candidate->query("SELECT etcd_lock_fence('/primary', $old_token)"),
	'f', 'an old token is refused by the new primary');

$_->query('SELECT etcd_unlock_all()') foreach $candidate, $reader, $there;
$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, $standby, $primary);
$_->quit foreach $here, $there, $calling, $holding, $writer, $leader, $reader, $candidate;
finish($etcd, $standby, $primary);
