# pgbouncer.  With session pooling, the reset query frees what a client leaves behind.
# With transaction pooling, transaction locks work, and session locks are stranded, so
# that an administrator can refuse them.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Pgbouncer;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'pgbouncer is not installed'
  unless EtcdLockTest::Pgbouncer->available;

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, 'here', 'there');
$here->safe_psql('postgres', <<'SQL');
CREATE ROLE app LOGIN;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public, etcd_advisory TO app;
CREATE TABLE counter (n int);
INSERT INTO counter VALUES (0);
GRANT ALL ON counter TO app;
SQL
my $other = session($there);

sub no_lock_in_etcd { return !$etcd->lock_keys }

my $many = <<'SQL';
SELECT etcd_lock('/a') > 0, etcd_lock('/a') > 0, etcd_lock_shared('/b') > 0,
       etcd_lock(1) > 0, etcd_try_lock(1, 2), etcd_try_lock_shared('/c');
CALL etcd_lock_wait('/d')
SQL

# A pool of sessions with one connection to the server: DISCARD ALL, which is
# pgbouncer's reset query unless told otherwise, frees everything at the end of a
# client, and the next one goes on with the connection.
{
	my $pgbouncer = EtcdLockTest::Pgbouncer->new(
		$here,
		pool_mode => 'session',
		default_pool_size => 1);
	my $client = $pgbouncer->session;
	my $backend = $client->pid;
	is($client->query($many), 't|t|t|t|t|t', 'session mode: locks of all kinds');
	is(scalar($etcd->lock_keys), 6, 'they are in etcd');
	is($other->query("SELECT etcd_try_lock('/a'), etcd_try_lock('/d')"),
		'f|f', 'and exclude the other server');
	$client->quit;
	ok(wait_until('etcd is empty', \&no_lock_in_etcd),
		'session mode: the end of a client frees everything');
	$client = $pgbouncer->session;
	is($client->pid, $backend, 'the connection to the server is still the same');
	is($client->query('SELECT count(pid) FROM etcd_locks'), 0, 'it holds nothing');

	# A client that dies in a transaction, and one that dies waiting.
	$client->query("BEGIN; SELECT etcd_xact_lock('/a'), etcd_lock('/b')");
	$client->kill;
	ok(wait_until('etcd is empty', \&no_lock_in_etcd),
		'a client that is killed in a transaction');
	$client = $pgbouncer->session;

	# (A backend that waits looks at its connection only if it is told to.)
	$other->query("SELECT etcd_lock('/a')");
	$client->query("SET client_connection_check_interval = '100 ms'");
	$client->send("SELECT etcd_lock('/a')");
	wait_until_waiting($client);
	$client->kill;
	ok(wait_until('the waiter is gone', sub { $etcd->lock_keys == 1 }),
		'a client that is killed while it waits');
	$other->query('SELECT etcd_unlock_all()');
	$pgbouncer->stop;
}

# The test can fail: without a reset query everything is stranded.
{
	my $pgbouncer = EtcdLockTest::Pgbouncer->new(
		$here,
		pool_mode => 'session',
		server_reset_query => '',
		default_pool_size => 1);
	my $client = $pgbouncer->session;
	my $backend = $client->pid;
	$client->query($many);
	$client->quit;
	$client = $pgbouncer->session;
	is($client->pid, $backend, 'no reset query: the same connection');
	is(scalar($etcd->lock_keys), 6, 'still holds all locks');
	$pgbouncer->stop;
	ok(wait_until('etcd is empty', \&no_lock_in_etcd),
		'until the connection to the server ends');
}
is_left_clean($etcd, $here, $there);

# A pool of transactions: many clients on few connections.
my $pool = EtcdLockTest::Pgbouncer->new(
	$here,
	pool_mode => 'transaction',
	default_pool_size => 4);

# Reading, thinking and writing, as a transaction of 20 clients: what comes out
# if they disturb each other, and under the lock.
sub count_up
{
	my ($lock) = @_;
	my ($clients, $each) = (20, 10);
	my $script = $here->basedir . '/count_up.sql';

	unlink $script;
	append_to_file($script, <<SQL);
BEGIN;
$lock;
SELECT n FROM counter \\gset
SELECT pg_sleep(0.001);
UPDATE counter SET n = :n + 1;
COMMIT;
SQL
	$here->safe_psql('postgres', 'UPDATE counter SET n = 0');
	command_ok(
		[
			'pgbench', '-n', '-c', $clients, '-t', $each, '-f', $script,
			$pool->connstr('postgres')
		],
		"20 clients: $lock");
	return $here->safe_psql('postgres', 'SELECT n FROM counter') -
	  $clients * $each;
}
cmp_ok(count_up('SELECT 1'), '<', 0, 'without a lock they lose updates');
is(count_up("SELECT etcd_xact_lock('/counter')"),
	0, 'transaction mode: no update is lost under etcd_xact_lock');
is(count_up('SELECT etcd_xact_lock(4, 2)'), 0, 'nor with integer keys');

# The other server takes its turn, and each waits for the other.
my ($one, $two) = ($pool->session, $pool->session);
$one->query("BEGIN; SELECT etcd_xact_lock('/counter')");
is($other->query("SELECT etcd_try_lock('/counter')"),
	'f', 'a transaction in the pool excludes the other server');
$other->send("SELECT etcd_lock('/counter') > 0");
wait_until_waiting($other);
$one->query('COMMIT');
is($other->result->{out}, 't', 'its end lets the other server in');
$one->send("BEGIN; SELECT etcd_xact_lock('/counter') > 0");
wait_until('the client waits',
	sub { $here->safe_psql('postgres', 'SELECT 1 FROM etcd_locks WHERE NOT granted') });
is($two->query('SELECT 1'), 1, 'a client that waits does not keep others waiting');
$other->query('SELECT etcd_unlock_all()');
is($one->result->{out}, 't', 'a client of the pool gets the lock from the other server');
$one->query('ROLLBACK');
is( $two->query("SELECT etcd_try_once('/tick', '2030-01-01')"),
	't', 'etcd_try_once is for pools of transactions, too');
$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, $here, $there);
$_->quit foreach $one, $two;
$pool->stop;

# Locks of a session are stranded there: the connection is somebody else's next.
$pool = EtcdLockTest::Pgbouncer->new(
	$here,
	pool_mode => 'transaction',
	default_pool_size => 1);
($one, $two) = ($pool->session(user => 'app'), $pool->session(user => 'app'));
$one->query("SELECT etcd_lock('/stranded')");
is($two->query("SELECT etcd_try_lock('/stranded')"),
	't', 'transaction mode: another client has the lock of the first one');
$_->quit foreach $one, $two;
is($other->query("SELECT etcd_try_lock('/stranded')"),
	'f', 'and it stays when they both are gone');
$pool->stop;
wait_until('etcd is empty', \&no_lock_in_etcd);

# So an administrator refuses them, for the role or the database of the pool.
my @session_locks = (
	"SELECT etcd_lock('/a')",
	"SELECT etcd_lock_shared('/a')",
	"SELECT etcd_try_lock('/a')",
	"SELECT etcd_try_lock('/a', interval '1 s')",
	"SELECT etcd_try_lock_shared('/a')",
	'SELECT etcd_lock(1)',
	'SELECT etcd_try_lock_shared(1, 2)',
	"CALL etcd_lock_wait('/a')",
	'SELECT etcd_advisory.pg_advisory_lock(1)',
	'SELECT etcd_advisory.pg_try_advisory_lock(1)');

foreach my $whom ('ROLE app', 'DATABASE postgres')
{
	foreach my $value (qw(off warn))
	{
		$here->safe_psql('postgres',
			"ALTER $whom SET etcd_lock.session_locks = $value");
		$pool = EtcdLockTest::Pgbouncer->new(
			$here,
			pool_mode => 'transaction',
			default_pool_size => 1);
		my $client = $pool->session(user => 'app');
		my $word = $value eq 'off' ? 'ERROR' : 'WARNING';

		foreach my $sql (@session_locks)
		{
			my $result = $client->try($sql);
			like(
				$result->{err},
				qr/$word: .*session-level etcd lock.*\nDETAIL: .*another client.*\nHINT: .*etcd_xact_lock\(\)/s,
				"$whom, $value: $sql") or diag $result->{err};
			is($result->{sqlstate}, $value eq 'off' ? '55000' : '',
				'its SQLSTATE');
		}
		is(scalar($etcd->lock_keys), $value eq 'off' ? 0 : 3,
			$value eq 'off' ? 'nothing is locked' : 'the locks are granted');

		my $result = $client->try(<<'SQL');
SELECT etcd_unlock_all();
BEGIN;
SELECT etcd_xact_lock('/a') > 0, etcd_xact_lock_shared('/b') > 0,
       etcd_try_xact_lock('/c'), etcd_try_once('/d', '2030-01-01'), etcd_xact_lock(1) > 0;
COMMIT;
SQL
		is($result->{out}, "\nt|t|t|t|t", 'locks of the transaction are as ever');
		is($result->{err}, '', 'without a word');
		is( $client->try('SET etcd_lock.session_locks = on')->{sqlstate},
			'42501', 'the setting is not for the pool\'s clients to change');
		$client->quit;
		$pool->stop;
		$etcd->delete('.etcd_lock/tick/');
	}
	$here->safe_psql('postgres', "ALTER $whom RESET etcd_lock.session_locks");
}

is_left_clean($etcd, $here, $there);
$other->quit;
finish($etcd, $here, $there);
