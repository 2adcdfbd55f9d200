# etcd_lock_queue(): who holds and who waits, on all servers and among foreign
# clients, seen from every server; what a key's value in etcd says; and
# etcd_lock_break().

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $primary = new_server(
	'primary',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 1 });
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
my ($other) = start_servers($etcd, 'other');
my @nodes = ($primary, $standby, $other);

# Rows of a queue as text, without the columns that are new each time.
sub queue
{
	my ($node, $name, $columns, $db) = @_;
	$columns //= 'position, mode, granted, server, database, username, application_name';
	my $arg = defined $name ? "'$name'" : '';
	return $node->safe_psql($db // 'postgres',
		"SELECT $columns FROM etcd_lock_queue($arg)");
}

sub wait_for_keys
{
	my ($prefix, $n) = @_;
	wait_until("$n keys below $prefix", sub { $etcd->keys($prefix) == $n });
	return;
}

#
# A holder, and waiters of all kinds, seen from each server.
#

my $holder = session($primary);
my $second = session($standby);
my $third = session($other);
my $sharer = session($other);
$holder->query(
	"SET application_name = 'reporter'; SELECT etcd_lock('/jobs/report')");
my $etcdctl = EtcdLockTest::EtcdctlLock->new($etcd, '/jobs/report');
wait_for_keys('/jobs/report/', 2);
$second->send("SELECT etcd_lock('/jobs/report')");
wait_for_keys('/jobs/report/', 3);
$third->send("SELECT etcd_lock_shared('/jobs/report')");
wait_for_keys('/jobs/report/', 4);

my $user = $holder->query('SELECT session_user');
foreach my $node (@nodes)
{
	is( queue($node, '/jobs/report'),
		"1|exclusive|t|primary|postgres|$user|reporter\n"
		  . "2|exclusive|f||||\n"
		  . "3|exclusive|f|standby|postgres|$user|015_queue.pl\n"
		  . "4|shared|f|other|postgres|$user|015_queue.pl",
		'the queue, seen from ' . $node->name);
	is( queue(
			$node,
			'/jobs/report',
			"pid, port, since <= clock_timestamp() AND
			 since > clock_timestamp() - interval '5 min', lease <> '',
			 create_revision > lag(create_revision, 1, 0) OVER (ORDER BY position),
			 key LIKE '/jobs/report/%', name"),
		join("\n",
			$holder->pid . '|' . $primary->port . '|t|t|t|t|/jobs/report',
			'|||t|t|t|/jobs/report',
			$second->pid . '|' . $standby->port . '|t|t|t|t|/jobs/report',
			$third->pid . '|' . $other->port . '|t|t|t|t|/jobs/report'),
		'and the rest of the columns');
}

# What psql's user would look at without any extension.
my ($entry) = $etcd->entries('/jobs/report/');
my $value = decode_json($entry->{value});
delete $value->{since};
is_deeply(
	$value,
	{
		server => 'primary',
		host => $value->{host},
		port => $primary->port + 0,
		pid => $holder->pid + 0,
		database => 'postgres',
		user => $user,
		application => 'reporter'
	},
	'the value in etcd says the same');

# Etcdctl in front.
$holder->query("SELECT etcd_unlock('/jobs/report')");
wait_until('etcdctl has the lock', sub { $etcdctl->held });
is( queue($other, '/jobs/report', 'position, mode, granted, server'),
	"1|exclusive|t|\n2|exclusive|f|standby\n3|shared|f|other",
	'etcdctl holds');
$etcdctl->release;
$second->result;
is( queue($primary, '/jobs/report', 'position, mode, granted, server'),
	"1|exclusive|t|standby\n2|shared|f|other",
	'the next one holds');
$second->query("SELECT etcd_unlock('/jobs/report')");
$third->result;

# Two servers share, one key each; a server's sessions share one key.
$holder->query("SELECT etcd_lock_shared('/jobs/report')");
$sharer->query("SELECT etcd_lock_shared('/jobs/report')");
$second->send("SELECT etcd_lock('/jobs/report')");
wait_for_keys('/jobs/report/', 3);
is( queue($standby, '/jobs/report', 'position, mode, granted, pid'),
	join("\n",
		'1|shared|t|' . $third->pid,
		'2|shared|t|' . $holder->pid,
		'3|exclusive|f|' . $second->pid),
	'sharers and a writer behind them: one row is one key');
$_->query("SELECT etcd_unlock_shared('/jobs/report')")
  foreach $holder, $third, $sharer;
$second->result;
$second->query("SELECT etcd_unlock('/jobs/report')");

#
# All locks: names as users write them.
#

$primary->safe_psql('postgres', 'CREATE DATABASE "odd/name%"');
$primary->safe_psql('odd/name%', 'CREATE EXTENSION etcd_lock');
my $elsewhere = session($primary, db => 'odd/name%');
$holder->query(
	"SELECT etcd_lock(42), etcd_lock(-4, 2), etcd_lock('42'), etcd_lock(E'tab\\t \\'\"%')");
$elsewhere->query('SELECT etcd_lock(42)');
is( queue($other, undef, 'name, mode, granted'),
	join("\n",
		'.etcd_lock/int/odd%2Fname%25/42|exclusive|t',
		'-4,2|exclusive|t', '42|exclusive|t', '42|exclusive|t',
		"tab\t '\"%|exclusive|t"),
	'names as users write them');
is( queue($primary, undef, 'name', 'odd/name%'),
	join("\n", 42, '.etcd_lock/int/postgres/-4,2',
		'.etcd_lock/int/postgres/42', 42, "tab\t '\"%"),
	'integer keys of another database');
is( queue($other, '.etcd_lock/int/postgres/42', 'name, pid'),
	'42|' . $holder->pid,
	'one integer key');
like(queue($other, '42', 'key'), qr/^42\/write/, 'a name that looks like one');
is(queue($other, '/nobody'), '', 'a lock that nobody has');
$_->query('SELECT etcd_unlock_all()') foreach $holder, $elsewhere;
is(queue($other), '', 'nobody has anything');
is($holder->try("SELECT * FROM etcd_lock_queue('x/')")->{sqlstate},
	'42602', 'a bad name is refused');

#
# A namespace.
#

$primary->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(tenant1 tenant2);
foreach my $db (qw(tenant1 tenant2))
{
	$primary->safe_psql('postgres',
		"ALTER DATABASE $db SET etcd_lock.namespace = '$db/'");
	$primary->safe_psql($db, 'CREATE EXTENSION etcd_lock');
}
my ($tenant1, $tenant2) = map { session($primary, db => $_) } qw(tenant1 tenant2);
$_->query("SELECT etcd_lock('/a'), etcd_lock(7)") foreach $tenant1, $tenant2;
is( queue($primary, undef, 'name, database', 'tenant1'),
	"7|tenant1\n/a|tenant1",
	'all locks are those of the namespace');
is( queue($primary, '/a', 'name, database, key LIKE $$tenant2/%$$', 'tenant2'),
	'/a|tenant2|t',
	'and so are names');
is( queue($other, undef, 'DISTINCT name') =~ tr/\n//,
	3, 'without a namespace all of them are seen');

# Who may look.
$primary->safe_psql('tenant1', <<'SQL');
CREATE ROLE app LOGIN;
CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO app;
SQL
foreach my $case ([ app => '42501' ], [ watcher => '' ])
{
	my ($role, $sqlstate) = @$case;
	my $session = session($primary, db => 'tenant1', user => $role);
	foreach my $call ('etcd_lock_queue()', "etcd_lock_queue('/a')")
	{
		is($session->try("SELECT * FROM $call")->{sqlstate},
			$sqlstate, "$call as $role: " . ($sqlstate ? 'refused' : 'allowed'));
	}
	isnt($session->try("SET etcd_lock.namespace = ''")->{sqlstate},
		'', "$role cannot leave the namespace");
	$session->quit;
}
$_->quit foreach $tenant1, $tenant2;
wait_for_keys('tenant', 0);

#
# Values and keys of any shape.
#

my $lease = $etcd->grant;
my %odd = (
	empty => '',
	text => 'not JSON',
	number => '17',
	cut => '{"pid": 1',
	types => '{"pid": "1", "server": [], "since": {}, "port": 1e99}',
	deep => '[' x 2000,
	deep_object => '{"a":' x 500 . '1' . '}' x 500,
	huge => '{"server": "' . 'x' x 1_000_000 . '"}',
	nul => "{\"server\": \"\0\"}");
$etcd->put_all([ map { [ "/odd/$_/write/x", $odd{$_}, $lease ] } sort keys %odd ]);
$etcd->put('/odd/like_ours/write/abc-000000000001', '{"pid": 9, "since": "never"}', $lease);
$etcd->put('/odd/bytes/x', "{\"server\": \"\xff\xc3\xa4\"}", $lease);
is( queue($other, undef, 'name, granted, server, pid, since'),
	join("\n",
		map {
			$_ eq 'like_ours' ? "/odd/$_|t||9|" :
			$_ eq 'bytes' ? "/odd/$_|t|\\xff\xc3\xa4||" :
			"/odd/$_|t|||"
		} sort keys %odd, 'like_ours', 'bytes'),
	'values of any shape are no error');
foreach my $name (sort keys %odd)
{
	is(queue($other, "/odd/$name", 'name, granted, server, pid, since'),
		"/odd/$name|t|||", "value: $name");
}
$etcd->delete('/odd/');

# Many that are huge come one by one.
$etcd->put_all([ [ "/huge/$_", $odd{huge}, $lease ] ]) foreach 1 .. 12;
is(queue($other, '/huge', 'count(*), count(server), bool_or(granted)'),
	'12|0|t', 'many huge values');
is(queue($other, '/huge', 'server', ), join("\n", ('') x 12), 'without harm');
is( $other->safe_psql('postgres', 'SELECT state FROM etcd_lock_status()'),
	'ready', 'and the link is well');
$etcd->delete('/huge/');

$primary->safe_psql('postgres',
	"CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
$primary->safe_psql('postgres',
	"CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'");
$primary->safe_psql($_, 'CREATE EXTENSION etcd_lock') foreach qw(latin1 ascii);
$etcd->put_all(
	[
		[ "\xc3\xa4/1", '', $lease ],                # a umlaut
		[ "\xe2\x82\xac/1", '', $lease ],            # euro sign
		[ "\xff\xfe/1", '', $lease ],                # no UTF-8
		[ "a\0b/1", '', $lease ],
		[ 'long/' . 'x' x 5000, '', $lease ],
		[ 'y' x 600 . '/1', '', $lease ],
		[ '/slash', '', $lease ],                    # no name
		[ 'slash/', '', $lease ],                    # nothing behind it
		[ 'none', '', $lease ],
		[ 'settings/color', 'blue' ],                # no lease
	]);
my %shown = (
	postgres => [ "\xc3\xa4", "\xe2\x82\xac", '\xff\xfe' ],
	latin1 => [ "\xc3\xa4", '\xe2\x82\xac', '\xff\xfe' ],
	ascii => [ "\xc3\xa4", "\xe2\x82\xac", '\xff\xfe' ]);
foreach my $db (sort keys %shown)
{
	my $session = session($primary, db => $db);
	$session->query("SET client_encoding = 'UTF8'") if $db ne 'ascii';
	is( $session->query('SELECT name FROM etcd_lock_queue()'),
		join("\n", 'a\x00b', 'long', @{ $shown{$db} }),
		"keys of any bytes in database $db");
	is($session->query("SELECT length(key) < 1100 FROM etcd_lock_queue('long')"),
		't', 'a long key is cut');
	$session->quit;
}
$etcd->revoke($lease);
$etcd->delete('settings/');

# Who we are, with odd names; in a database of another encoding.
{
	my $session = session($primary, db => 'latin1');
	$session->query("SET client_encoding = 'UTF8'; CREATE ROLE \"r\xc3\xb6le \"\"'\\\\\" SUPERUSER");
	$session->query(
		"SET application_name = 'a\"\\\n\x01'; "
		  . "SET SESSION AUTHORIZATION \"r\xc3\xb6le \"\"'\\\\\"; SELECT etcd_lock('/odd')");
	my ($odd) = $etcd->entries('/odd/');
	my $who = eval { decode_json($odd->{value}) };
	is(ref $who, 'HASH', 'odd names: the value is JSON');
	is($who->{user}, "r\x{f6}le \"'\\\\", 'the user in UTF-8');
	is($who->{application}, 'a"\??', 'the application as PostgreSQL keeps it');
	is($who->{database}, 'latin1', 'the database');
	is( queue($other, '/odd', 'username'),
		"r\xc3\xb6le \"'\\\\",
		'as other databases see it');
	$session->quit;
}
is_left_clean($etcd, @nodes);

$_->quit foreach $holder, $second, $third, $sharer, $elsewhere;
$_->stop('fast') foreach $standby;
finish($etcd, $primary, $other);
