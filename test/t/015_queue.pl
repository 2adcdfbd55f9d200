# etcd_lock_queue() shows who holds and who waits, on all servers and among foreign
# clients, on every server; what a key's value in etcd says; and etcd_lock_break().

use strict;
use warnings;

use EtcdLockTest;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $primary = start_server(
	'primary',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 1 });
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
	$columns //= 'position, mode, granted, server, datname, usename, application_name';
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
		application => 'reporter',
		namespace => ''
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
	"SELECT etcd_lock(42), etcd_lock(-4, 2), etcd_lock('4.2'), etcd_lock(E'tab\\t \\'\"%')");
$elsewhere->query('SELECT etcd_lock(42)');
is( queue($other, undef, 'name, mode, granted'),
	join("\n",
		'.etcd_lock/int/odd%2Fname%25/42|exclusive|t',
		'-4,2|exclusive|t', '42|exclusive|t', '4.2|exclusive|t',
		"tab\t '\"%|exclusive|t"),
	'names as users write them');
is( queue($primary, undef, 'name', 'odd/name%'),
	join("\n", 42, '.etcd_lock/int/postgres/-4,2',
		'.etcd_lock/int/postgres/42', '4.2', "tab\t '\"%"),
	'integer keys of another database');
is( queue($other, '.etcd_lock/int/postgres/42', 'name, pid'),
	'42|' . $holder->pid,
	'one integer key');
like(queue($other, '42', 'key'), qr{^\.etcd_lock/int/postgres/42/write}, 'as it is shown');
like(queue($other, '-4,2', 'key'), qr{^\.etcd_lock/int/postgres/-4,2/write}, 'two integers');
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
# Not in the namespace, although the key is below it.
my $outside = $etcd->grant;
$etcd->put("tenant1/$_", '', $outside) foreach 'write/1-1', '1', '/write/1-1', '/1', 'read/1-1';
my ($tenant1, $tenant2) = map { session($primary, db => $_) } qw(tenant1 tenant2);
$_->query("SELECT etcd_lock('/a'), etcd_lock(7)") foreach $tenant1, $tenant2;
is( queue($primary, undef, 'name, datname', 'tenant1'),
	"7|tenant1\n/a|tenant1",
	'all locks are those of the namespace');
is( queue($primary, '/a', 'name, datname, key LIKE $$tenant2/%$$', 'tenant2'),
	'/a|tenant2|t',
	'and so are names');
$etcd->revoke($outside);
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
$etcd->put_all([ [ "/huge/$_", $odd{huge}, $lease ] ]) foreach 1 .. 5;
is(queue($other, '/huge', 'count(*), count(server), bool_or(granted)'),
	'5|0|t', 'many huge values');
is(queue($other, '/huge', 'server', ), join("\n", ('') x 5), 'without harm');
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
	my $creator = session($primary, db => 'latin1');
	$creator->query("SET client_encoding = 'UTF8'; CREATE ROLE \"r\xc3\xb6le \"\"'\\\\\" LOGIN SUPERUSER");
	$creator->quit;
	my $session = session($primary, db => 'latin1', env => { PGUSER => "r\xf6le \"'\\\\" });
	$session->query("SET client_encoding = 'UTF8'; SET application_name = 'a\"\\\n\x01'; SELECT etcd_lock('/odd')");
	my ($odd) = $etcd->entries('/odd/');
	my $who = eval { decode_json($odd->{value}) };
	is(ref $who, 'HASH', 'odd names: the value is JSON');
	is($who->{user}, "r\x{f6}le \"'\\\\", 'the user in UTF-8');
	is($who->{application}, $session->query('SHOW application_name'),
		'the application as PostgreSQL keeps it');
	is($who->{database}, 'latin1', 'the database');
	is( queue($other, '/odd', 'usename'),
		"r\xc3\xb6le \"'\\\\",
		'as other databases see it');
	$session->quit;
}
is_left_clean($etcd, @nodes);

$standby->stop('fast');
$_->quit foreach $second, $elsewhere;

#
# More than a page.
#

$holder->query(
	"SELECT count(etcd_lock('/many/' || i)) FROM generate_series(1, 300) i");
is( queue($other, undef, 'count(*), count(DISTINCT name), count(DISTINCT key),
		count(DISTINCT create_revision), min(position), max(position), bool_and(granted),
		count(pid), min(pid) = max(pid)'),
	'300|300|300|300|1|1|t|300|t', 'many locks, in pages');
$holder->query('SELECT etcd_unlock_all()');

{
	my $big = $etcd->grant;
	$etcd->put_all(
		[
			map { [ sprintf('/cut/%05d/write/1-%012d', $_ / 2, $_), '', $big ] }
			  0 .. 10_249
		]);
	my $session = session($other);
	my $result = $session->try(
		'SELECT count(*) BETWEEN 9900 AND 10100, count(DISTINCT name) * 2 = count(*) FROM etcd_lock_queue()'
	);
	is($result->{out}, 't|t', 'too many: some are left out, whole locks only');
	like($result->{err}, qr/WARNING:  54000: not all etcd locks are shown/,
		'with a warning');
	is( queue($other, '/cut/05124', 'position, granted'),
		"1|t\n2|t", 'one of them can be asked for');
	is($session->try("SELECT * FROM etcd_lock_queue('/cut')")->{sqlstate},
		'54000', 'too many below one name');
	$etcd->revoke($big);
	$session->quit;
}

#
# Who has it now: passed on within a server.
#

sub set
{
	my ($node, %settings) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.$_ = '$settings{$_}'")
	  foreach sort keys %settings;
	$node->reload;
	foreach my $name (sort keys %settings)
	{
		$node->poll_query_until('postgres',
			"SELECT current_setting('etcd_lock.$name') = '$settings{$name}'");
	}
	return;
}

# From here on the primary's keepalives come every 12 seconds.
set($primary, handoff_window => '10s', lease_ttl => '1min');
$primary->restart;
($holder, my $next) = map { session($primary) } 1 .. 2;

my $begin = $holder->query("SELECT etcd_lock('/passed'); SELECT clock_timestamp()");
$next->send("SELECT etcd_lock('/passed')");
wait_until_waiting($next);
my ($key) = $etcd->entries('/passed/');
$holder->query("SELECT etcd_unlock('/passed')");
$next->result;
is(queue($primary, '/passed', 'pid'), $next->pid,
	'the own server knows at once who got it');
wait_until(
	'other servers know it soon',
	sub { queue($other, '/passed', 'pid') eq $next->pid },
	10);
is( queue($other, '/passed', "since >= '" . (split /\n/, $begin)[1] . "'"),
	't', 'and since when');
is_deeply([ $etcd->entries('/passed/') ], [$key], 'the key is as it was');
my ($note) = $etcd->entries('.etcd_lock/holder/');
is($note->{lease}, $key->{lease}, 'the note is attached to the lease');

# A worker that follows another one knows the note.
my $worker = worker_pid($primary);
kill 'TERM', $worker;
wait_until('another worker', sub { worker_pid($primary) !~ /^(?:$worker)?$/ });
wait_until(
	'it is there',
	sub { queue($primary, '/passed', 'count(*)') eq '1' });
is(queue($other, '/passed', 'pid'), $next->pid, 'a restarted worker changes nothing');
sub revision { return $etcd->call('/v3/kv/range', { key => 'AA==' })->{header}{revision} }
my $revision = revision();
$next->query("SELECT etcd_unlock('/passed')");
is_deeply([ scalar $etcd->entries('.etcd_lock/holder/'), revision() - $revision ], [ 0, 1 ],
	'the note goes with its key, in one revision');
is_left_clean($etcd, $primary, $other);

# Since when it holds, and not since when it waited.
{
	my $session = session($other);
	$session->query("SELECT etcd_lock('/waited')");
	$holder->send("SELECT etcd_lock('/waited')");
	wait_for_keys('/waited/', 2);
	wait_until(
		'for more than a second',
		sub {
			queue($other, '/waited',
				"bool_or(NOT granted AND since < clock_timestamp() - interval '1.5 s')") eq 't';
		});
	my $free = $session->query(
		"SELECT clock_timestamp(); SELECT etcd_unlock('/waited')") =~ s/\n.*//r;
	$holder->result;
	wait_until(
		'since when it holds',
		sub { queue($other, '/waited', "since >= '$free'") eq 't' }, 10);
	pass('since when it holds');
	$holder->query("SELECT etcd_unlock('/waited')");
	$session->quit;
}

sub token_in_queue
{
	my ($name) = @_;
	return queue($other, $name, 'create_revision << 20');
}

#
# Deleted by hand: told at once, although the next keepalive is far away.
#

# Each server has one at its own key.
my $watchers = 2;
wait_until('no other watch is open', sub { $etcd->watchers == $watchers });
$holder->query("SELECT count(etcd_lock('/deleted/' || i)) FROM generate_series(1, 3) i");
wait_until('what is held for long is watched',
	sub { $etcd->watchers >= $watchers + 3 });
send_sleep($holder);
$etcd->delete('/deleted/1/');
my $result = $holder->result;
is($result->{sqlstate}, '57014', 'deleted by hand: the holder is told');
cmp_ok($result->{elapsed}, '<', 8, 'at once');
$holder->query('SELECT etcd_unlock_all()');
wait_until('watches are closed again', sub { $etcd->watchers == $watchers });
my $log = PostgreSQL::Test::Utils::slurp_file($primary->logfile);
like($log, qr{lock "/deleted/1" was lost: its key was deleted from etcd},
	'the log tells of it');

# However many are held, each is watched.
$holder->query(
	"SELECT count(etcd_lock('/held/' || i)) FROM generate_series(1, 900) i");
wait_until('all are watched', sub { $etcd->watchers == $watchers + 900 });
{
	my @took;
	foreach my $i (1, 777, 900)
	{
		$etcd->delete("/held/$i/");
		my $begin = time;
		wait_until("/held/$i is told", sub {
			PostgreSQL::Test::Utils::slurp_file($primary->logfile) =~ m{lock "/held/$i" was lost};
		});
		push @took, time - $begin;
	}
	cmp_ok((sort { $a <=> $b } @took)[0], '<', 0.5, 'deleted by hand: any of them is told in a moment');
	diag 'one of 900, deleted by hand: told after ' . join ', ', map { sprintf '%.3f s', $_ } @took;
}

# A lock that is not watched is broken, and the holder is told as soon.
my $unwatched = token_in_queue('/held/200');
send_sleep($holder);
is( $other->safe_psql('postgres', "SELECT etcd_lock_break('/held/200', $unwatched)"),
	't', 'one that is not watched is broken');
$result = $holder->result;
is($result->{sqlstate}, '57014', 'the holder is told');
cmp_ok($result->{elapsed}, '<', 8, 'at once');
$holder->query('SELECT etcd_unlock_all()');

#
# etcd_lock_break.
#

sub log_of
{
	my ($node) = @_;
	return PostgreSQL::Test::Utils::slurp_file($node->logfile);
}

my $breaker = session($other);
my $local = session($primary);
my $waiter = session($other);

# From another server.
$holder->query("SELECT etcd_lock('/broken/remote')");
my $token = token_in_queue('/broken/remote');
send_sleep($holder);
$waiter->send("SELECT etcd_lock('/broken/remote') > $token");
wait_for_keys('/broken/remote/', 2);
is($breaker->query("SELECT etcd_lock_break('/broken/remote', $token - (1 << 20))"),
	'f', 'break: another token');
is($breaker->query("SELECT etcd_lock_break('/broken/remote', $token)"),
	't', 'break: a lock of another server');
$result = $holder->result;
is($result->{sqlstate}, '57014', 'the holder is told');
cmp_ok($result->{elapsed}, '<', 8, 'at once');
is($waiter->result->{out}, 't', 'the next one has it');
$waiter->query('SELECT etcd_unlock_all()');
$holder->query('SELECT etcd_unlock_all()');
my $by = sprintf 'process %d, database "postgres"', $breaker->pid;
like(log_of($other),
	qr{lock "/broken/remote" with token $token was broken by user "$user" \($by\)},
	'the log says who broke it');
is_logged($primary, 0,
	qr{lock "/broken/remote" was broken by user "$user" on server "other" \($by\)},
	'on the other side, too');

# On this server: not the session that has acquired it since.
$token = $holder->query("SELECT etcd_lock('/broken/local')");
$next->send("SELECT etcd_lock('/broken/local')");
wait_until_waiting($next);
$holder->query("SELECT etcd_unlock('/broken/local')");
my $passed = $next->result->{out};
cmp_ok($passed, '>', $token, 'passed on');
is($passed >> 20, $token >> 20, 'by the same key');
is($local->query("SELECT etcd_lock_break('/broken/local', $token)"),
	'f', 'break: the token of a former holder');
send_sleep($next);
$waiter->send("SELECT etcd_lock('/broken/local') > $passed");
wait_for_keys('/broken/local/', 2);
is($local->query("SELECT etcd_lock_break('/broken/local', $passed)"),
	't', 'break: that of the holder');
is($next->result->{sqlstate}, '57014', 'the holder is told');
is($waiter->result->{out}, 't', 'the next one has it');
is($next->try('INSERT INTO pg_class SELECT FROM pg_class WHERE false')->{sqlstate},
	'EL001', 'the holder cannot go on');
$next->query('SELECT etcd_unlock_all()');
$waiter->query('SELECT etcd_unlock_all()');
like(log_of($primary),
	qr{lock "/broken/local" with token $passed was broken by user "$user" \(process @{[$local->pid]},},
	'the log says who broke it');

# After an upgrade: the exclusive lock alone.
$token = $holder->query("SELECT etcd_lock_shared('/broken/upgraded')");
my $upgraded = $holder->query("SELECT etcd_lock('/broken/upgraded')");
cmp_ok($upgraded >> 20, '>', $token >> 20, 'upgraded by a newer key');
is($breaker->query("SELECT etcd_lock_break('/broken/upgraded', $upgraded)"), 't', 'break: an upgraded lock');
my $lost = "SELECT string_agg(DISTINCT mode, ',' ORDER BY mode) FROM etcd_locks WHERE name = '/broken/upgraded' AND lost";
wait_until('it is lost', sub { $local->query($lost) ne '' });
is($local->query($lost), 'exclusive', 'the shared one is not lost');
$holder->query('SELECT etcd_unlock_all()');

# Tokens of a name rise, so after an upgrade those of sharers do not name their key, which
# is older.

foreach my $compacted (0, 1)
{
	$holder->query("SELECT etcd_lock_shared('/broken/upgraded')");
	$upgraded = $holder->query("SELECT etcd_lock('/broken/upgraded')");
	$holder->query("SELECT etcd_unlock('/broken/upgraded')");
	$token = $next->query("SELECT etcd_lock_shared('/broken/upgraded')");
	is($token >> 20, $upgraded >> 20, 'a sharer\'s token is of the write key');
	wait_for_keys('/broken/upgraded/', 1);
	is($breaker->query("SELECT etcd_lock_break('/broken/upgraded', $upgraded)"), 'f',
		'break: that of the former exclusive lock');
	if ($compacted)
	{
		$etcd->call('/v3/kv/compaction', { revision => $etcd->revision, physical => JSON::PP::true() });
		$result = $breaker->try("SELECT etcd_lock_break('/broken/upgraded', $token)");
		is($result->{sqlstate}, '55000', 'no "false" if etcd has compacted its history');
		like($result->{err}, qr/compacted/, '... which the message says');
		is($breaker->query("SELECT etcd_lock_break(name, create_revision << 20) FROM etcd_lock_queue('/broken/upgraded')"),
			't', '... but a key of the queue can be broken');
	}
	else
	{
		is($breaker->query("SELECT etcd_lock_break('/broken/upgraded', $token)"), 't', 'break: by that token');
	}
	wait_until('it is lost',
		sub { $local->query("SELECT count(*) FROM etcd_locks WHERE name = '/broken/upgraded' AND lost") eq '2' });
	$_->query('SELECT etcd_unlock_all()') foreach $holder, $next;
}

# A former sharer's token does not hit one who was there before.
my $lease = $etcd->grant;
$etcd->put(sprintf('/broken/former/read/%016x-%012d', $lease, 1), '', $lease);
$token = $holder->query("SELECT etcd_lock_shared('/broken/former')");
$holder->query('SELECT etcd_unlock_all()');
wait_for_keys('/broken/former/', 1);
is($breaker->query("SELECT etcd_lock_break('/broken/former', $token)"), 'f',
	'break: the token of a former sharer');
is(scalar($etcd->keys('/broken/former/')), 1, 'the key of another server is still there');
$etcd->revoke($lease);

# Sharers of one key lose it together; integer keys; foreign clients.
$token = $holder->query("SELECT etcd_lock_shared('/broken/shared')");
$next->query("SELECT etcd_lock_shared('/broken/shared')");
is($local->query("SELECT etcd_lock_break('/broken/shared', $token)"),
	't', 'break: a shared lock');
is( $local->query(
		"SELECT count(*) FROM etcd_locks WHERE name = '/broken/shared' AND lost"),
	2,
	'all its sharers have lost it');
$_->query('SELECT etcd_unlock_all()') foreach $holder, $next;
$token = $holder->query('SELECT etcd_lock(4711)');
is($breaker->query("SELECT etcd_lock_break('.etcd_lock/int/postgres/4711', $token)"),
	't', 'break: an integer key');
wait_until('it is lost',
	sub { $local->query('SELECT bool_and(lost) FROM etcd_locks') eq 't' });
$holder->query('SELECT etcd_unlock_all()');
$etcdctl = EtcdLockTest::EtcdctlLock->new($etcd, '/broken/foreign');
wait_until('etcdctl has the lock', sub { $etcdctl->held });
$token = token_in_queue('/broken/foreign');
is($breaker->query("SELECT etcd_lock_break('/broken/foreign', $token)"),
	't', 'break: etcdctl');
is(queue($primary, '/broken/foreign'), '', 'its key is gone');
$etcdctl->release;
wait_until('messages are gone',
	sub { !grep { m{/broken/} } $etcd->keys('') }, 30);

#
# Without etcd.
#

set($other, connect_timeout => '1s', request_timeout => '500ms');
$etcd->pause;
$result = $waiter->try('SELECT * FROM etcd_lock_queue()');
is($result->{sqlstate}, '08006', 'etcd hangs: an error');
cmp_ok($result->{elapsed}, '<', 20, 'in time');
like($result->{err}, qr/HINT/, 'with a hint');
set($other, connect_timeout => '1min');
$result = $waiter->try(
	"SET statement_timeout = '300ms'; SELECT * FROM etcd_lock_queue('/a')");
is($result->{sqlstate}, '57014', 'it can be cancelled');
cmp_ok($result->{elapsed}, '<', 20, 'before that');
$waiter->query('RESET statement_timeout');

# Sessions that are terminated while they ask leave their places to others.
set($primary, connect_timeout => '1min');
foreach my $call ('* FROM etcd_lock_queue()', "etcd_lock_break('/a', 1)")
{
	my @sessions = map { session($primary) } 1 .. 6;
	$_->send("SELECT $call") foreach @sessions;
	wait_until(
		'all ask',
		sub {
			$primary->safe_psql('postgres',
				"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event_type = 'Extension' AND query LIKE '%etcd_lock_%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
			) >= 6;
		});
	$primary->safe_psql('postgres',
		'SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE pid IN ('
		  . join(',', map { $_->pid } @sessions) . ')');
	ok($_->result->{closed}, 'terminated') foreach @sessions;
}
$etcd->resume;
$primary->poll_query_until('postgres',
	"SELECT state = 'ready' FROM etcd_lock_status()");
is($local->query("SELECT etcd_lock_break('/a', 1)"), 'f', 'the slot for breaks is free');
{
	my @sessions = map { session($primary) } 1 .. 12;
	$holder->query("SELECT etcd_lock('/a')");
	$_->send(<<'SQL') foreach @sessions;
DO $$
BEGIN
	FOR i IN 1 .. 30 LOOP
		IF NOT (SELECT granted FROM etcd_lock_queue('/a')) THEN
			RAISE 'wrong';
		END IF;
	END LOOP;
END $$;
SELECT 'done'
SQL
	is(join(' ', map { $_->result->{out} } @sessions),
		join(' ', ('done') x 12), 'many ask at the same time');

	# The worker ends while they ask.
	$worker = worker_pid($primary);
	kill 'STOP', $worker;
	$_->send("SELECT granted FROM etcd_lock_queue('/a')") foreach @sessions[ 0 .. 2 ];
	sleep 0.2;
	kill 'TERM', $worker;
	kill 'CONT', $worker;
	is(join(' ', map { $_->result->{out} } @sessions[ 0 .. 2 ]),
		't t t', 'the next worker answers');
	$_->quit foreach @sessions;
}

# The user is the role that has logged in, as in pg_stat_activity, whatever it sets then.
$primary->safe_psql('postgres', 'CREATE ROLE somebody SUPERUSER');
{
	my $session = session($primary);
	$session->query("SET SESSION AUTHORIZATION somebody; SELECT etcd_lock('/who')");
	is(queue($other, '/who', 'usename'), $user, 'the role that has logged in');
	is($session->query("SELECT usename FROM etcd_locks WHERE name = '/who'"), $user, '... here, too');
	$session->query("RESET SESSION AUTHORIZATION; SELECT etcd_unlock('/who')");
	$session->quit;
}

$_->quit
  foreach $holder, $next, $breaker, $local, $waiter, $third, $sharer;
finish($etcd, $primary, $other);
