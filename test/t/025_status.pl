# Views of a server and its etcd: etcd_locks next to pg_locks, wait events,
# etcd_lock_status(), etcd_lock_endpoints(), alarms, log messages.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd =
  EtcdLockTest::Etcd->new(args => [ '--quota-backend-bytes', 16 * 1024 * 1024 ]);
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $ttl = 20;
my ($here, $there) =
  map { start_server($_->[0], endpoints => $_->[1], conf => "etcd_lock.lease_ttl = '${ttl}s'") }
  [ here => $proxy->url ], [ there => $etcd->endpoint ];
my $look = session($here);

sub status { my ($columns) = @_; return $look->query("SELECT $columns FROM etcd_lock_status()") }

sub wait_for_status
{
	my ($what, $condition) = @_;
	wait_until($what, sub { status($condition) eq 't' });
	return;
}

# Lines of a server's log since an offset, that match.
sub logged
{
	my ($node, $offset, $pattern) = @_;
	return grep { /$pattern/ } split /\n/, slurp_file($node->logfile, $offset);
}

sub offset { my ($node) = @_; return -s $node->logfile }

#
# etcd_locks and pg_locks
#

my ($holder, $local, $remote, $far) =
  (session($here), session($here), session($here), session($there));
$holder->query("SELECT etcd_lock('/k')");
$far->query("SELECT etcd_lock('/far')");
$local->send("BEGIN; SELECT etcd_xact_lock('/k')");
$remote->send("SELECT etcd_lock('/far')");
wait_until_waiting($local, $remote);
my %pid = map { $_->[0] => $_->[1]->pid } [ h => $holder ], [ l => $local ], [ r => $remote ];

wait_until('the waiter for another server has its place',
	sub { $etcd->keys('/far/') == 2 });
is($look->query(<<'END'), join("\n",
SELECT pid, name, mode, scope, e.granted, p.granted, token IS NULL, e.waitstart IS NULL,
       heldsince IS NULL, lost
  FROM etcd_locks e
  FULL JOIN (SELECT pid, granted FROM pg_locks
              WHERE locktype = 'advisory' AND database = 0 AND objsubid = 3) p USING (pid)
 ORDER BY e.granted DESC, name DESC
END
		"$pid{h}|/k|exclusive|session|t|t|f|t|f|f",
		"$pid{l}|/k|exclusive|transaction|f|f|t|f|t|f",
		"$pid{r}|/far|exclusive|session|f|t|t|f|t|f"),
	'etcd_locks has the pids of pg_locks, and granted is the truth');
is($look->query("SELECT pg_blocking_pids($pid{l}), pg_blocking_pids($pid{r})"),
	"{$pid{h}}|{}", 'PostgreSQL knows who blocks within the server');
is($look->query(<<"END"), 't|t|t', 'times fit');
SELECT bool_and(waitstart BETWEEN query_start AND clock_timestamp()) FILTER (WHERE NOT granted),
       bool_and(heldsince BETWEEN backend_start AND clock_timestamp()) FILTER (WHERE granted),
       (SELECT abs(extract(epoch FROM e.waitstart - p.waitstart)) < 1
          FROM etcd_locks e JOIN pg_locks p USING (pid) WHERE pid = $pid{l} AND NOT p.granted)
  FROM etcd_locks JOIN pg_stat_activity USING (pid)
END
my $event = $here->pg_version >= 17 ? 'EtcdLockAcquire' : 'Extension';
is($look->query("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = $pid{l}"),
	'Lock|advisory', 'the wait event within the server');
is($look->query("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = $pid{r}"),
	"Extension|$event", 'the wait event for another server');
is( $look->query("SELECT wait_event_type FROM pg_stat_activity WHERE backend_type ~ '^etcd_lock'"),
	'Extension', 'the wait event of the worker');

# The status at this moment.
wait_for_status('a lock that is held for long is watched, too', 'watches = 3');
is(status(<<"END"), 'ready|t|t|t|t|1|2|3|t|{}|t', 'etcd_lock_status');
state, endpoint ~ '^http://127.0.0.1:', server_version ~ '^3\\.', lease ~ '^[0-9a-f]{16}\$',
ttl_left BETWEEN '1 s' AND '$ttl s', keys_held, waiting, watches, db_size > 10000, alarms,
(SELECT pid FROM pg_stat_activity WHERE backend_type ~ '^etcd_lock') = worker_pid
END
is(status('lease'), sprintf('%x', $etcd->lease_of('/k/')), '... has the lease of the keys');

$far->query('SELECT etcd_unlock_all()');
$holder->query('SELECT etcd_unlock_all()');
$_->result foreach $local, $remote;
$local->query('COMMIT');
$remote->query('SELECT etcd_unlock_all()');

# Names as they were written, and one session that has it all.
$holder->query(<<'END');
SELECT etcd_lock(-42), etcd_lock_shared(4, -2), etcd_lock('/k');
BEGIN; SELECT etcd_xact_lock('/k'), etcd_lock_shared('/k');
SET etcd_lock.namespace = 'tenant/'; SELECT etcd_xact_lock('/k')
END
is($look->query(<<"END"), join("\n",
SELECT name, mode, scope FROM etcd_locks WHERE pid = $pid{h} ORDER BY name COLLATE "C", mode, scope
END
		'-42|exclusive|session', '/k|exclusive|session and transaction',
		'/k|exclusive|transaction', '/k|shared|session', '4,-2|shared|session'),
	'names as they were written');
$holder->query('COMMIT; RESET etcd_lock.namespace; SELECT etcd_unlock_all()');

# A session that has released PostgreSQL's lock holds nothing any more.
$holder->query('BEGIN; SELECT etcd_lock(7); SELECT pg_advisory_unlock(7)');
$local->query('SELECT etcd_lock(7)');
is($look->query("SELECT pid FROM etcd_locks WHERE name = '7'"),
	$local->pid, 'an integer key that pg_advisory_unlock() has released');
$local->query('SELECT etcd_unlock(7)');
$holder->query('COMMIT');

# What ps shows of the worker.
sub title
{
	my $title = slurp_file('/proc/' . worker_pid($here) . '/cmdline');
	$title =~ s/\0+$//;
	return $title;
}
$holder->query("SELECT etcd_lock('/t1'), etcd_lock('/t2')");
my ($address) = $proxy->url =~ m{//(.*)};
wait_until('the title of the worker',
	sub { title() =~ /etcd_lock: lease [0-9a-f]{16}, 2 keys, \Q$address\E$/ });
like(title(), qr/^postgres: (?:\S+: )?etcd_lock: lease /, 'the title of the worker');
$holder->query('SELECT etcd_unlock_all()');
wait_until('the title without keys', sub { title() =~ /0 keys/ });

#
# Endpoints
#

{
	my $other = EtcdLockTest::Etcd->new;
	my $hung = EtcdLockTest::Etcd->new;
	my $closed = 'http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
	$hung->pause;
	my @urls = ($proxy->url, $etcd->endpoint, $closed, $other->endpoint, $hung->endpoint);
	$look->query('SELECT etcd_lock_stats_reset()');
	set_endpoints($here, join ',', @urls);
	wait_until('every endpoint was looked at',
		sub { $look->query('SELECT bool_and(healthy IS NOT NULL) AND count(*) = 5
			FROM etcd_lock_endpoints()') eq 't' });
	is($look->query(<<'END'), join("\n",
SELECT endpoint, in_use, healthy, server_version ~ '^3\.', db_size > 0, is_leader,
       response_ms > 0, error ~ 'onnect to', error ~ 'another etcd cluster',
       checked_at > now() - interval '1 min'
  FROM etcd_lock_endpoints()
END
			"$urls[0]|t|t|t|t|t|t|||t",
			"$urls[1]|f|t|t|t|t|t|||t",
			"$urls[2]|f|f|||||t|f|t",
			"$urls[3]|f|f|||||f|t|t",
			"$urls[4]|f|f|||||f|f|t"),
		'etcd_lock_endpoints');
	wait_until('a keepalive since',
		sub { $look->query('SELECT lowest_ttl_left IS NOT NULL FROM etcd_lock_stats') eq 't' });
	# They come every 4 s, to a lease that is believed for 18 s; it would hold them up
	# for request_timeout, 5 s.
	cmp_ok($look->query('SELECT lowest_ttl_left FROM etcd_lock_stats'),
		'>', 9.5, 'one that hangs does not hold up keepalives');

	# The one in use fails: the next one takes over, which is told once.
	my $offset = offset($here);
	$proxy->refuse;
	wait_for_status('the link has moved', "endpoint = '$urls[1]' AND state = 'ready'");
	is($look->query('SELECT healthy, in_use, error IS NULL FROM etcd_lock_endpoints() LIMIT 1'),
		'f|f|f', 'the one that failed is known to');
	wait_until('the log tells of the new one',
		sub { logged($here, $offset, qr/connected to etcd at "\Q$urls[1]\E"/) });
	is(scalar(logged($here, $offset, qr/(?:LOG|WARNING):(?=.*etcd_lock)(?!.*belongs to another etcd cluster)/)), 2, 'in two lines')
	  or diag(slurp_file($here->logfile, $offset));
	is(scalar(logged($here, $offset, qr/WARNING:.*no link to etcd at "\Q$urls[0]\E"/)),
		1, '... what happened');
	$proxy->accept;
	set_endpoints($here, $proxy->url);
	wait_until('only one is left',
		sub { $look->query('SELECT count(*) FROM etcd_lock_endpoints()') == 1 });
	wait_for_status('the link is back', "endpoint = '$urls[0]' AND state = 'ready'");
	$_->stop foreach $other, $hung;
}

# A member that has no vote yet responds, but grants no lease.
{
	my $learner = EtcdLockTest::Etcd->new(start => 0, args => [ '--initial-cluster-state', 'existing' ]);
	my $added = $etcd->call('/v3/cluster/member/add',
		{ peerURLs => [ $learner->peer_url ], isLearner => JSON::PP::true() });
	$learner->{cluster} = join ',', $etcd->as_member, $learner->as_member;
	$learner->launch;
	wait_until('the learner responds',
		sub { eval { $learner->call('/v3/maintenance/status', {})->{isLearner} } });
	set_endpoints($here, join ',', $proxy->url, $learner->endpoint);
	wait_until('both were looked at',
		sub { $look->query('SELECT bool_and(healthy IS NOT NULL) AND count(*) = 2
			FROM etcd_lock_endpoints()') eq 't' });
	is($look->query('SELECT healthy, error FROM etcd_lock_endpoints() OFFSET 1'),
		'f|is a learner, which grants no locks', 'a learner is not healthy');
	set_endpoints($here, $proxy->url);
	$etcd->call('/v3/cluster/member/remove', { ID => $added->{member}{ID} });
	$learner->stop;
}

#
# A full database
#

sub put
{
	my ($value) = @_;
	return $etcd->call('/v3/kv/put',
		{ key => encode_base64('filler', ''), value => encode_base64($value, '') });
}

{
	my $offset = offset($here);
	my $full = 0;
	for (1 .. 200)
	{
		eval { put('x' x 400_000); 1 } or $full = 1;
		last if $full;
	}
	ok($full, 'etcd is full') or die;
	is($holder->try("SELECT etcd_lock('/full')")->{sqlstate}, '53100', 'a lock is refused');
	wait_for_status('the alarm is seen', "alarms = '{NOSPACE}'");
	$holder->try("SELECT etcd_lock('/full')") for 1 .. 3;
	$here->reload;
	sleep 1.5;
	is(scalar(logged($here, $offset, qr/WARNING:.*etcd has raised an alarm: NOSPACE/)),
		1, 'an alarm is told once');
	cmp_ok(status('db_size'), '>', 10_000_000, 'db_size tells how big it is');
	my $health = $etcd->{http}->get($etcd->endpoint . '/health');
	isnt($health->{status}, 200, 'etcd calls itself unhealthy with an alarm')
	  or diag($health->{content});
	is($look->query('SELECT healthy FROM etcd_lock_endpoints()'),
		't', '... but it is reachable, which is what counts');

	# So does a server that gets no lease.
	$there->restart;
	wait_until('a server without a lease sees the alarm',
		sub {
			$there->safe_psql('postgres', 'SELECT alarms FROM etcd_lock_status()') eq '{NOSPACE}';
		});

	$offset = offset($here);
	my $revision = $etcd->call('/v3/kv/range', { key => encode_base64('x', '') })->{header}{revision};
	$etcd->call('/v3/kv/compaction', { revision => $revision, physical => JSON::PP::true() });
	$etcd->call('/v3/maintenance/defragment', {});
	$etcd->call('/v3/maintenance/alarm', { %$_, action => 'DEACTIVATE' })
	  foreach @{ $etcd->call('/v3/maintenance/alarm', { action => 'GET' })->{alarms} };
	$here->reload;
	wait_for_status('the alarm is over', "alarms = '{}'");
	wait_until('the log tells that the alarm is over',
		sub { logged($here, $offset, qr/LOG:.*alarm was cleared/) });
	is(scalar(logged($here, $offset, qr/LOG:.*alarm was cleared: NOSPACE/)), 1, 'its end is logged, too');
	is($holder->query("SELECT etcd_lock('/full') > 0; SELECT etcd_unlock('/full')"),
		"t\nt", 'locks are granted again');
	$far->quit;
}

# A database near its quota.  What etcd tells of its size is edited on the way.
sub set_db_size
{
	my ($size) = @_;
	$proxy->rules({
		path => '/maintenance/status', do => 'edit_answer',
		match => '"dbSize":\s*"\d+",\s*"leader":\s*"\d+"', with => "\"dbSize\":\"$size\""
	});
	# A look follows a reload, but not within a second of another one.
	wait_until('the size is seen',
		sub { $here->reload; sleep 0.2; status("db_size = $size") eq 't' });
	return;
}

{
	my $offset = offset($here);
	my $near = qr/WARNING:.*etcd's database has grown to/;
	set_db_size(1_700_000_000);
	is(scalar(logged($here, $offset, $near)), 0, '1.7 GB are no reason to warn');
	set_db_size(1_800_000_000);
	set_db_size(1_800_000_001);
	is(scalar(logged($here, $offset, $near)), 1, '1.8 GB are one, once');
	set_db_size(1_600_000_000);
	set_db_size(1_800_000_002);
	is(scalar(logged($here, $offset, $near)), 1, 'small changes are not logged');
	set_db_size(1_000_000_000);
	set_db_size(1_800_000_003);
	wait_until('the log tells again', sub { logged($here, $offset, $near) > 1 });
	is(scalar(logged($here, $offset, $near)), 2, 'growing again is');
	$proxy->rules;
}

# What etcd says is UTF-8; a database may have another encoding.
$here->safe_psql('postgres', "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
$here->safe_psql('latin', 'CREATE EXTENSION etcd_lock');
$proxy->rules({
	path => '/maintenance/status', do => 'edit_answer', match => '"version": ?"[^"]*"', with => '"version": "3.9.\u00fc"'
});
foreach my $view (qw(server_version|etcd_lock_status server_version|etcd_lock_endpoints))
{
	my ($column, $function) = split /\|/, $view;
	ok( eval {
			wait_until("$function in LATIN1", sub {
				$here->reload;
				sleep 0.2;
				$here->safe_psql('latin', "SELECT $column = '3.9.' || chr(252) FROM $function()") eq 't';
			}, 10);
		},
		"$function() in the database's encoding");
}
$proxy->rules;

#
# etcd is away: what is logged meanwhile
#

sub lines_while
{
	my ($name, $down, $seconds, $up) = @_;
	my $offset = offset($here);
	my $waiter = session($here);
	$down->();
	my $end = time + $seconds;
	$waiter->send("SET statement_timeout = '" . int($seconds * 1000 - 500) . "';
		SELECT etcd_lock('/away')");
	sleep 0.05 while time < $end;
	$waiter->result;
	$waiter->quit;
	my @away = logged($here, $offset, qr/(LOG|WARNING):.*etcd_lock/);
	$offset = offset($here);
	$up->();
	wait_for_status('the link is back', "state = 'ready'");
	wait_until('the log tells that it is back',
		sub { logged($here, $offset, qr/connected to etcd at/) });
	my @back = logged($here, $offset, qr/(LOG|WARNING):.*etcd_lock/);
	return (\@away, \@back);
}

{
	my ($away, $back) = lines_while('refused', sub { $proxy->refuse }, 4, sub { $proxy->accept });
	is(scalar(grep { /WARNING:.*no link to etcd/ } @$away), 1, 'etcd away: told once');
	is(scalar(@$away), 1, 'etcd away: nothing else is logged') or diag(join "\n", @$away);
	is(scalar(@$back), 1, 'etcd back: one line') or diag(join "\n", @$back);

	# Longer than the lease, and two endpoints that are not etcd's.
	my @fakes = (
		EtcdLockTest::FakeEndpoint->new(body => '<html>', type => 'text/html'),
		EtcdLockTest::FakeEndpoint->new(body => '{}'),
		EtcdLockTest::FakeEndpoint->new(body => 'no', status => '503 Service Unavailable'));
	($away, $back) = lines_while(
		'not etcd',
		sub { set_endpoints($here, join ',', map { $_->url } @fakes) },
		$ttl + 3,
		sub { set_endpoints($here, $proxy->url) });
	cmp_ok(scalar(grep { /connected to/ } @$away), '==', 0, 'a server that is not etcd');
	cmp_ok(scalar(grep { /lease lost/ } @$away), '==', 1, 'not etcd: the lease is lost once');
	cmp_ok(scalar(@$away), '<=', 8, 'not etcd: no flood') or diag(join "\n", @$away);
	cmp_ok(scalar(@$back), '<=', 3, 'etcd back: no flood') or diag(join "\n", @$back);
	$_->stop foreach @fakes;
}

# Without a worker the views still answer.
{
	my $pid = worker_pid($here);
	kill 'STOP', $pid;
	is(session($here)->try('SELECT count(*) FROM etcd_locks, etcd_lock_status(),
			etcd_lock_endpoints(), etcd_lock_stats')->{sqlstate},
		'', 'a worker that hangs does not hang the views');
	kill 'CONT', $pid;
	wait_for_status('the worker is back', "state = 'ready'");
}

$etcd->delete('filler');
is_left_clean($etcd, $here, $there);
$_->quit foreach $look, $holder, $local, $remote;
finish($etcd, $here, $there);
