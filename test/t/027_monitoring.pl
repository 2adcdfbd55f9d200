# Every query of doc/monitoring.md runs, as a member of pg_monitor, and shows what the
# document says; those of doc/operations.md run as a superuser.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Markdown;
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;

my $doc = dirname(__FILE__) . '/../../doc';
my @blocks = EtcdLockTest::Markdown::blocks(slurp_file("$doc/monitoring.md"));
my @sql = grep { ($_->{info}[0] // '') eq 'sql' } @blocks;
cmp_ok(scalar(@sql), '>=', 10, 'there are queries');

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) =
  map { start_server($_, endpoints => $etcd->endpoint, conf => "cluster_name = '$_'") } qw(here there);
$here->safe_psql('postgres', 'CREATE TABLE t (); CREATE ROLE monitor LOGIN IN ROLE pg_monitor');

# etcdctl has /c, $far waits for it and has /a, $one waits for that and has /b, for
# which $two here and $other there wait; $two has a table that $three wants.
my ($far, $other) = map { session($there) } 1 .. 2;
my ($one, $two, $three, $sharer) = map { session($here) } 1 .. 4;
my $etcdctl = EtcdLockTest::EtcdctlLock->new($etcd, '/c');
wait_until('etcdctl has its lock', sub { $etcdctl->held });
$far->query("SELECT etcd_lock('/a')");
$far->send("SELECT etcd_lock('/c')");
wait_until('there queues', sub { $etcd->keys('/c/') == 2 });
$one->query("SELECT etcd_lock('/b')");
$one->send("SELECT etcd_lock('/a')");
wait_until('here queues', sub { $etcd->keys('/a/') == 2 });
$other->send("SELECT etcd_lock('/b')");
wait_until('there queues, too', sub { $etcd->keys('/b/') == 2 });
$two->query('BEGIN; LOCK TABLE t');
$two->send("SELECT etcd_lock('/b')");
wait_until_waiting($two);
$three->send('TABLE t');
wait_until('a session waits for the table',
	sub {
		$here->safe_psql('postgres', 'SELECT 1 FROM pg_stat_activity WHERE pid = '
			  . $three->pid . " AND wait_event = 'relation'");
	});

# A lock that is lost, in a session that does nothing.
$sharer->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock_shared('/jobs/report'), etcd_lock('/lost')");
$etcd->delete('/lost/');
wait_until('the lock is lost',
	sub { $here->safe_psql('postgres', 'SELECT bool_or(lost) FROM etcd_locks') eq 't' });

my %pid = (
	far => $far->pid, other => $other->pid, one => $one->pid,
	two => $two->pid, three => $three->pid, sharer => $sharer->pid);
my ($etcdctl_key) = $etcd->keys('/c/');

# For each section, a query at a time: what each of these must match in the rows.
my %expected = (
	'Who holds this lock, and who waits?' => [ [qr/^1\|shared\|t\|here\|$pid{sharer}\|/] ],
	'Who blocks me?' => [ [qr/^$pid{one}\|\/a\|[^|]+\|there\|$pid{far}\|/] ],
	'Who waits for whom, over all servers?' => [
		[
			qr/^etcd client \Q$etcdctl_key\E\|$/m,
			qr/^ {4}there $pid{far}\|etcd lock \/c$/m,
			qr/^ {8}here $pid{one}\|etcd lock \/a$/m,
			qr/^ {12}here $pid{two}\|etcd lock \/b$/m,
			qr/^ {12}there $pid{other}\|etcd lock \/b$/m,
			qr/^ {12}here $pid{two}\|[^\n]*\n {16}here $pid{three}\|Lock relation$/m,
			qr/^(?:[^\n]+\n){5}[^\n]+$/
		]
	],
	'Which locks are held for longer than ten minutes?' => [
		[ qr/^\/a\|exclusive\|there\|$pid{far}\|postgres\|/m, qr/^\/jobs\/report\|shared\|here\|/m ],
		[ qr/^\/b\|exclusive\|session\|$pid{one}\|.*\|active\|.*etcd_lock\('\/a'\)/m ]
	],
	'Who holds a lock and does nothing?' => [ [qr/^\/jobs\/report\|$pid{sharer}\|.*\|idle\|/m] ],
	'Is this server close to losing its lease?' => [ [qr/^ready\|00:00:0\d\.\d+\|10s\|/] ],
	'Has anything been lost?' => [ [qr/^\/lost\|$pid{sharer}\|\d+\|/] ],
	q{Are etcd's members healthy?} => [ [qr/^\Q${\$etcd->endpoint}\E\|t\|t\|t\|[\d.]+\|3\.\d+\.\d+\|[^|]+ [kM]B\|\|/] ],
	'What do the locks do all day?' => [ [qr/^\d+\|[\d.]+\|[\d.]+\|[\d.]+\|[\d.]+\|\d+\|\d+\|\d+\|\d+\|\d+\|1\|/] ],
	'How long do they wait?' => [ [ qr/^request\|.*\|/m, qr/^wait\|Infinity\|100.00$/m ] ],
	'Prometheus' => [ [qr/^$/] ]);

my $monitor = session($here, user => 'monitor');
foreach my $block (@sql)
{
	my $name = "$block->{section} (line $block->{line})";
	my $patterns = shift @{ $expected{ $block->{section} } // [] };
	ok($patterns, "$name: known to this test");

	# Nothing here is ten minutes old.
	(my $text = $block->{text}) =~ s/interval '10 minutes'/interval '0'/;
	my $session = $text =~ /^CREATE ROLE/ ? session($here) : $monitor;
	my $result = $session->try($text);
	is($result->{sqlstate}, '', "$name: runs") or diag($result->{err});
	like($result->{out}, $_, $name) foreach @{ $patterns // [] };
}
is_deeply([ grep { @{ $expected{$_} } } sort keys %expected ], [], 'no query is missing');

# Those that do not ask etcd do not wait for it.
$etcd->pause;
foreach my $block (grep { $_->{text} !~ /etcd_lock_queue|CREATE ROLE/ } @sql)
{
	is($monitor->try($block->{text})->{sqlstate},
		'', "$block->{section} (line $block->{line}): runs while etcd hangs");
}
$etcd->resume;

# What an operator does: break the lock of the sharer, and reset fences.
my %operations = (
	'Breaking a lock' => [ sub { }, qr/^here\|$pid{sharer}\|[^|]+\|t$/ ],
	'Restoring or rebuilding etcd' => [
		sub { $here->safe_psql('postgres', "SELECT etcd_lock_fence('/fenced', 7)") },
		qr/^\/fenced\|7\|t$/
	]);
my $operator = session($here);
foreach my $block (grep { ($_->{info}[0] // '') eq 'sql' }
	EtcdLockTest::Markdown::blocks(slurp_file("$doc/operations.md")))
{
	my ($prepare, $pattern) = @{ delete $operations{ $block->{section} } // [ sub { }, qr/unknown/ ] };
	my $name = "operations.md, $block->{section} (line $block->{line})";
	$prepare->();
	my $result = $operator->try($block->{text});
	is($result->{sqlstate}, '', "$name: runs") or diag($result->{err});
	like($result->{out}, $pattern, $name);
}
is_deeply([ sort keys %operations ], [], 'no query of operations.md is missing');

# Alerts ask for metrics that the exporter's queries bring.
my %metric;
my $namespace;
foreach (split /\n/, slurp_file("$doc/postgres_exporter.yaml"))
{
	$namespace = $1 if /^(\w+):$/;
	$metric{"${namespace}_$1"} = $2 if /^    - (\w+): \{usage: (\w+)/;
}
cmp_ok(scalar(keys %metric), '>', 30, 'there are metrics');
my $rules = slurp_file("$doc/prometheus_rules.yaml");
my @asked = $rules =~ /\b(etcd_lock_\w+)\b(?!\()/g;
foreach my $asked (grep { !/^etcd_lock_status$/ } @asked)
{
	(my $metric = $asked) =~ s/_bucket$//;
	ok($metric{$metric}, "$asked is a metric");
}
my $text = slurp_file("$doc/monitoring.md");
like($text, qr/`$_`/, "$_ is in the text") foreach $rules =~ /alert: (\w+)/g;

$etcdctl->release;
foreach my $next ($far, $one, $other, $two)
{
	$next->result;
	$next->query('ROLLBACK; SELECT etcd_unlock_all()');
}
$sharer->query('SELECT etcd_unlock_all()');
$three->result;
is_left_clean($etcd, $here, $there);
$_->quit foreach $far, $other, $one, $two, $three, $sharer, $monitor, $operator;
finish($etcd, $here, $there);
