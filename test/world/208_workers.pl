# Locks that no client takes: triggers in the apply workers of logical replication, and
# sessions whose queries run in parallel workers.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Loss;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = map {
	my $node = new_server(
		$_,
		endpoints => $etcd->endpoint,
		init => { allows_streaming => 'logical' },
		conf => <<'END');
etcd_lock.lease_ttl = '60s'
wal_retrieve_retry_interval = '200ms'
max_parallel_workers_per_gather = 2
min_parallel_table_scan_size = 0
parallel_setup_cost = 0
parallel_tuple_cost = 0
END
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION etcd_lock; CREATE TABLE t (v text)');
	$node;
} qw(here there);
my ($control, $publisher) = map { session($_) } @nodes;

#
# Apply workers
#
$publisher->query('CREATE TABLE source (v text); CREATE PUBLICATION p FOR TABLE source');
$here->safe_psql('postgres', <<'SQL');
CREATE TABLE source (v text);
CREATE FUNCTION pass_gate() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(99), pg_advisory_unlock(99)';

-- In the transaction that applies the change, where the search_path is empty: what is
-- locked, and for how long, the row says.
CREATE FUNCTION locks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.v LIKE 'session%' THEN
		PERFORM public.etcd_lock('/apply');
	ELSE
		PERFORM public.etcd_xact_lock('/apply');
	END IF;
	INSERT INTO public.t VALUES (NEW.v);
	IF NEW.v LIKE '%gate%' THEN
		PERFORM public.pass_gate();
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER locks BEFORE INSERT ON source FOR EACH ROW EXECUTE FUNCTION locks();
ALTER TABLE source ENABLE ALWAYS TRIGGER locks;
SQL
my $conninfo = join ' ', 'host=' . $there->host, 'port=' . $there->port, 'dbname=postgres';
$here->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$conninfo' PUBLICATION p");
$here->wait_for_subscription_sync($there, 's');

sub apply_worker
{
	return $control->query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'logical replication worker'");
}

sub applied
{
	my ($value) = @_;
	return $control->query("SELECT (SELECT count(*) FROM source WHERE v = '$value'), (SELECT count(*) FROM t WHERE v = '$value')");
}

sub wait_until_applied
{
	my ($value) = @_;
	return wait_until("$value is applied", sub { applied($value) =~ /^[1-9]/ }, 60);
}

# It waits for a lock, as anybody does, and for the other server's.
$publisher->query(q(SELECT etcd_lock('/apply')));
$publisher->query(q(INSERT INTO source VALUES ('waits')));
wait_until('the apply worker waits',
	sub { $control->query('SELECT count(*) FROM etcd_locks WHERE NOT granted') eq '1' });
is(applied('waits'), '0|0', 'an apply worker waits for a lock of another server');
$publisher->query(q(SELECT etcd_unlock('/apply')));
wait_until_applied('waits');
is(applied('waits'), '1|1', 'and then applies');
is($publisher->query(q(SELECT etcd_try_xact_lock('/apply'))), 't', 'and its lock ends with the transaction');

# Lost while it applies: nothing of that is committed, and it applies anew.
foreach my $kind (qw(xact session))
{
	my $value = "$kind gate";
	my $offset = -s $here->logfile;
	$control->query('SELECT pg_advisory_lock(99)');
	$publisher->query("INSERT INTO source VALUES ('$value')");
	wait_until('it stops at the gate',
		sub { $control->query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 99 AND NOT granted") eq '1' });
	my $worker = apply_worker();
	is($publisher->query(q(SELECT etcd_try_xact_lock('/apply'))), 'f', "$kind lock: excludes another server while it applies");
	break_lock($publisher, $etcd, '/apply');
	wait_until("$kind lock: the worker starts anew",
		sub { my $pid = apply_worker(); $pid ne '' && $pid ne $worker }, 60);
	is(applied($value), '0|0', "$kind lock, lost: nothing is applied");
	is_logged($here, $offset, qr/etcd lock "\/apply" was lost/, "$kind lock, lost: the log says why");
	$control->query('SELECT pg_advisory_unlock(99)');
	wait_until_applied($value);
	is(applied($value), '1|1', "$kind lock, lost: applied once in the end");
}

# A lock of its session that it loses while it has nothing to do: it must not apply
# under it.
{
	my $worker = apply_worker();
	my $offset = -s $here->logfile;
	is($publisher->query(q(SELECT etcd_try_xact_lock('/apply'))), 'f', 'an idle apply worker has a lock of its session');
	break_lock($publisher, $etcd, '/apply');

	# else it may be in the midst of its commit when the loss gets known
	is_logged($here, $offset, qr/lock "\/apply" was lost: its key/, 'this server knows of the loss');
	$publisher->query(q(INSERT INTO source VALUES ('xact behind a loss')));
	wait_until_applied('xact behind a loss');
	is(applied('xact behind a loss'), '1|1', 'what comes behind a loss is applied once');
	isnt(apply_worker(), $worker, 'by another worker, that holds nothing');
	is_logged($here, $offset, qr/etcd lock "\/apply" .*was lost/, 'the log says what was lost');
	unlike(slurp_file($here->logfile, $offset), qr/\[$worker\].*due to user request/,
		'and not that a user wanted it');
}
wait_until('it holds nothing', sub { $control->query('SELECT count(pid) FROM etcd_locks') eq '0' });

# The subscription goes while its worker waits.
$publisher->query(q(SELECT etcd_lock('/apply')));
$publisher->query(q(INSERT INTO source VALUES ('never')));
wait_until('the apply worker waits',
	sub { $control->query('SELECT count(*) FROM etcd_locks WHERE NOT granted') eq '1' });
$here->safe_psql('postgres', 'DROP SUBSCRIPTION s');
ok(wait_until('etcd has one key', sub { $etcd->left_keys == 1 }), 'DROP SUBSCRIPTION ends the wait of its worker');
is(applied('never'), '0|0', 'which has applied nothing');
$publisher->query(q(SELECT etcd_unlock('/apply')));
is_left_clean($etcd, @nodes);

#
# Triggers of sessions that replicate
#
foreach my $role (qw(origin replica local))
{
	my $session = session($here);
	my $enabled = $role eq 'replica' ? 'REPLICA' : 'ALWAYS';
	$here->safe_psql('postgres', "ALTER TABLE source ENABLE $enabled TRIGGER locks");
	$session->query("SET session_replication_role = '$role'; BEGIN; INSERT INTO source VALUES ('role $role')");
	is($publisher->query(q(SELECT etcd_try_xact_lock('/apply'))), 'f', "$role, ENABLE $enabled: the trigger locks");
	break_lock($publisher, $etcd, '/apply');
	wait_until_lost($control, '/apply');
	is($session->try('COMMIT')->{sqlstate}, 'EL002', "$role, lost: not committed");
	is(applied("role $role"), '0|0', "$role, lost: nothing is written");
	$session->quit;
}
is_left_clean($etcd, @nodes);

#
# Parallel plans
#
my $force = $control->query(q(SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')));
$here->safe_psql('postgres', <<'SQL');
CREATE TABLE big AS SELECT i FROM generate_series(1, 20000) i;
ALTER TABLE big SET (parallel_workers = 2);
ANALYZE big;

CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN PERFORM pg_sleep(0.05); RETURN $1; END';
CREATE FUNCTION lies() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS $$ BEGIN RETURN etcd_lock('/lies'); END $$;
CREATE FUNCTION check_lies() RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS $$ BEGIN RETURN etcd_lock_check('/lies'); END $$;
SQL
my $parallel = session($here);
like($parallel->query('EXPLAIN (COSTS off) SELECT sum(slow(i)) FROM big'), qr/Workers Planned: 2/, 'a parallel plan');
unlike($parallel->query(q(EXPLAIN (COSTS off) SELECT sum(etcd_lock('/x' || i)) FROM big)), qr/Workers/,
	'none where a lock is taken');
$parallel->query("SET $force = on");
is($parallel->try('SELECT lies() FROM big LIMIT 1')->{sqlstate}, '25000',
	'a function that says that it is safe takes no lock in a parallel worker')
  or diag($parallel->try('SELECT lies() FROM big LIMIT 1')->{err});
is($parallel->try('SELECT check_lies() FROM big LIMIT 1')->{sqlstate}, '25000', 'nor looks at one');
$parallel->query("RESET $force; SELECT etcd_unlock_all()");

# The leader holds locks: its workers end as any do.
$parallel->query(q(BEGIN; SELECT etcd_xact_lock('/q'), etcd_lock('/s')));
is($parallel->query('SELECT sum(i) FROM big'), 200010000, 'a parallel query under locks');
is($parallel->query('SELECT count(pid) FROM etcd_locks'), 2, 'they are still held');
is($publisher->query(q(SELECT etcd_try_xact_lock('/q') OR etcd_try_xact_lock('/s'))), 'f', 'and exclude another server');
# Dropped, because the rows that are read below are on one of its pages, and one process reads it.
$parallel->query('CREATE INDEX big_i ON big (i)');
$parallel->query('DROP INDEX big_i');
$parallel->query(q(INSERT INTO t VALUES ('parallel'); COMMIT));
is(is_committed($control, 'parallel'), 1, 'committed');
is($publisher->query(q(SELECT etcd_try_xact_lock('/q'))), 't', 'the lock of the transaction is free');
is($publisher->query(q(SELECT etcd_try_xact_lock('/s'))), 'f', 'that of the session is not');
$parallel->query('SELECT etcd_unlock_all()');

# Lost while workers run.
foreach my $on_loss (qw(cancel warn terminate))
{
	my $session = session($here);
	my $value = "parallel, $on_loss";
	my $rows = $on_loss eq 'warn' ? 300 : 20000;
	$session->query("SET etcd_lock.on_loss = '$on_loss'; BEGIN; SELECT etcd_xact_lock('/q'); INSERT INTO t VALUES ('$value')");
	$session->send("SELECT sum(slow(i)) FROM big WHERE i <= $rows");
	my $workers = q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker');
	wait_until('workers run', sub { $control->query($workers) > 0 });
	break_lock($publisher, $etcd, '/q');
	my $result = $session->result;
	my %expected = (cancel => '57014', warn => '', terminate => '57P01');
	is($result->{sqlstate}, $expected{$on_loss}, "$value: the query");
	ok(wait_until('no worker is left', sub { $control->query($workers) eq '0' }), "$value: its workers end");
	is($session->try('COMMIT')->{sqlstate}, 'EL002', "$value: not committed")
	  if $on_loss eq 'warn';
	is(is_committed($control, $value), 0, "$value: nothing is written");
	$session->quit;
}

# A session that has lost its lock may still read in parallel.
$parallel->query(q(SET etcd_lock.on_loss = 'warn'; SELECT etcd_lock('/q')));
break_lock($publisher, $etcd, '/q');
wait_until_lost($control, '/q');
is($parallel->try('SELECT sum(i) FROM big')->{out}, 200010000, 'lost: a parallel query reads');
isnt($parallel->try('CREATE TABLE x AS SELECT i FROM big')->{sqlstate}, '', 'lost: what it writes is refused');
$parallel->quit;

is_left_clean($etcd, @nodes);
$_->quit foreach $control, $publisher;
finish($etcd, @nodes);
