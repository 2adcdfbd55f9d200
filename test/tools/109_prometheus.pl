# What doc/ has for Prometheus: the alerts fire when they should, sql_exporter with
# doc/sql_exporter.yaml produces the metrics of doc/postgres_exporter.yaml, and each
# query of the dashboard finds something in a Prometheus.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Markdown;
use File::Basename qw(dirname);
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($prometheus, $promtool, $exporter) =
  @ENV{qw(PROMETHEUS PROMTOOL SQL_EXPORTER)};
$prometheus //= 'prometheus';
$promtool //= 'promtool';
$exporter //= 'prometheus-sql-exporter';
foreach my $program ($prometheus, $promtool, $exporter)
{
	plan skip_all => "$program is not installed"
	  unless grep { -x "$_/$program" } '', split /:/, $ENV{PATH};
}

my $top = dirname(__FILE__) . '/../..';
my $dir = PostgreSQL::Test::Utils::tempdir('prometheus');

sub promtool_says
{
	my ($name, $ok, @command) = @_;
	my $output = '';
	my $success = IPC::Run::run([ $promtool, @command ], '>&', \$output);
	is($success ? 1 : 0, $ok, $name) or diag($output);
	return;
}

# The alerts.
promtool_says('the alerts are well formed', 1, 'check', 'rules', "$top/doc/prometheus_rules.yaml");
promtool_says('and fire when they should', 1, 'test', 'rules', "$top/test/prometheus/rules_test.yaml");

# The test of the alerts can fail: with another number in any of them.
my $rules = slurp_file("$top/doc/prometheus_rules.yaml");
my $tests = slurp_file("$top/test/prometheus/rules_test.yaml");
$tests =~ s{\.\./\.\./doc/prometheus_rules\.yaml}{weakened.yaml} or die;
append_to_file("$dir/rules_test.yaml", $tests);
foreach my $alert ($rules =~ /alert: (\w+)/g)
{
	(my $weakened = $rules) =~ s/(alert: $alert\n.*?expr:.*?)(\n +(?:for|labels):)/$1 + 1e18$2/s or die $alert;
	open my $file, '>', "$dir/weakened.yaml" or die $!;
	print $file $weakened =~ s/or absent\(etcd_lock_link_ready\) \+ 1e18/and absent(etcd_lock_link_ready)/r
	  =~ s/(== 0|[<>] [^\n]*) \+ 1e18/> 1e18/r;
	close $file or die $!;
	promtool_says("without $alert the test of the alerts fails", 0, 'test', 'rules', "$dir/rules_test.yaml");
}

# A server with a lock and one who waits, and the exporter.
my $etcd = EtcdLockTest::Etcd->new;
my ($here) = start_servers($etcd, 'here');
$here->safe_psql('postgres', 'CREATE ROLE exporter LOGIN IN ROLE pg_monitor');
my ($holder, $waiter) = map { session($here) } 1 .. 2;
$holder->query("BEGIN; SELECT etcd_lock('/a')");
$waiter->send("SELECT etcd_lock('/a')");
wait_until_waiting($waiter);

my %started;

sub start
{
	my ($name, @command) = @_;
	$started{$name}{output} = '';
	$started{$name}{run} = IPC::Run::start(\@command, '<', \undef, '>&', \$started{$name}{output});
	return;
}

# The body of a page; undef if there is none.
sub page
{
	my ($url) = @_;
	$_->{run}->pump_nb foreach values %started;
	my $answer = HTTP::Tiny->new(timeout => 10)->get($url);
	return $answer->{success} ? $answer->{content} : undef;
}

my ($exporter_port, $prometheus_port) = map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 2;
my $config = slurp_file("$top/doc/sql_exporter.yaml");
$config =~ s{postgres://exporter\@/postgres\?host=/var/run/postgresql}
  {'postgres://exporter@/postgres?host=' . $here->host . '&port=' . $here->port}e or die;
$config =~ s/interval: 15s/interval: 1s/ or die;
append_to_file("$dir/sql_exporter.yaml", $config);
start('sql_exporter', $exporter, '-config.file', "$dir/sql_exporter.yaml",
	'-web.listen-address', "127.0.0.1:$exporter_port");

# Prometheus with the configuration of the text.
my ($scrape) = map { $_->{text} }
  grep { ($_->{info}[0] // '') eq 'yaml' } EtcdLockTest::Markdown::blocks(slurp_file("$top/doc/monitoring.md"));
$scrape =~ s/\['db1:9237', 'db2:9237'\]/['127.0.0.1:$exporter_port']/ or die;
append_to_file("$dir/prometheus_rules.yaml", $rules);
append_to_file("$dir/prometheus.yaml", "global:\n  scrape_interval: 1s\n$scrape");
start('prometheus', $prometheus, "--config.file=$dir/prometheus.yaml",
	"--storage.tsdb.path=$dir/data", "--web.listen-address=127.0.0.1:$prometheus_port");

sub query
{
	my ($expr) = @_;
	my $url = "http://127.0.0.1:$prometheus_port/api/v1/query?"
	  . HTTP::Tiny->new->www_form_urlencode({ query => $expr });
	my $page = page($url) // return;
	return decode_json($page)->{data}{result};
}

wait_until('Prometheus has the metrics', sub { my $r = query('etcd_lock_link_ready'); $r && @$r })
  or diag(map { "$_: $started{$_}{output}\n" } keys %started);

my $loaded = decode_json(page("http://127.0.0.1:$prometheus_port/api/v1/rules") // '{}');
is_deeply([ map { $_->{name} } map { @{ $_->{rules} } } @{ $loaded->{data}{groups} } ],
	[ $rules =~ /alert: (\w+)/g ], 'it has loaded the alerts');

# Each metric that postgres_exporter brings, with the same labels.
my $namespace;
foreach (split /\n/, slurp_file("$top/doc/postgres_exporter.yaml"))
{
	$namespace = $1 if /^(\w+):$/;
	next unless /^    - (\w+): \{usage: (GAUGE|COUNTER|HISTOGRAM)/;
	foreach my $name ($2 eq 'HISTOGRAM' ? map { "${namespace}_$1$_" } qw(_bucket _sum _count) : "${namespace}_$1")
	{
		# There was no trouble yet.
		next if $name eq 'etcd_lock_link_last_error_time_seconds';
		my $result = query($name);
		ok($result && @$result, "$name is there") or next;
		my @expected = sort 'instance', 'job', $name =~ /_endpoint_/ ? 'endpoint' : (), $name =~ /_bucket$/ ? 'le' : ();
		is_deeply([ sort grep { $_ ne '__name__' } keys %{ $result->[0]{metric} } ],
			\@expected, "$name has its labels");
	}
}
is(query('etcd_lock_link_waiting')->[0]{value}[1], '1', 'and tells what is');
is(query('etcd_lock_held')->[0]{value}[1], '1', 'of locks, too');
cmp_ok(query('etcd_lock_oldest_held_idle_in_transaction_seconds')->[0]{value}[1], '>', 0,
	'a holder is idle in a transaction');

# The dashboard's queries, as Grafana would ask them.
my $dashboard = decode_json(slurp_file("$top/doc/grafana_dashboard.json"));
my @queries = map { my $panel = $_; map { [ $panel->{title}, $_->{expr} ] } @{ $panel->{targets} } }
  @{ $dashboard->{panels} };
cmp_ok(scalar(@queries), '>', 20, 'the dashboard has queries');
foreach (@queries)
{
	my ($title, $expr) = @$_;
	$expr =~ s/\$__rate_interval/30s/g;
	$expr =~ s/\$instance/.*/g;
	unlike($expr, qr/\$/, "$title: no other variable");
	wait_until("$title: $expr finds something", sub { my $r = query($expr); $r && @$r });
	pass("$title: $expr");
}

foreach (values %started)
{
	$_->{run}->signal('TERM');
	eval { $_->{run}->finish };
}
$holder->query("COMMIT; SELECT etcd_unlock_all()");
$waiter->result;
$waiter->query('SELECT etcd_unlock_all()');
is_left_clean($etcd, $here);
$_->quit foreach $holder, $waiter;
finish($etcd, $here);
