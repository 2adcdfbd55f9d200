# postgres_exporter with doc/postgres_exporter.yaml, as doc/monitoring.md says.

use strict;
use warnings;

use EtcdLockTest;
use File::Basename qw(dirname);
use HTTP::Tiny;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $exporter = $ENV{POSTGRES_EXPORTER} // 'prometheus-postgres-exporter';
plan skip_all => 'postgres_exporter is not installed'
  unless grep { -x "$_/$exporter" } '', split /:/, $ENV{PATH};

my $file = dirname(__FILE__) . '/../../doc/postgres_exporter.yaml';
my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, qw(here there));
$here->safe_psql('postgres', 'CREATE ROLE exporter LOGIN IN ROLE pg_monitor');
my ($one, $far) = (session($here), session($there));
$one->query("SELECT etcd_lock('/a'), etcd_lock('/b'); SELECT etcd_unlock('/b')");
$one->query("SELECT etcd_try_lock('/a'), etcd_try_lock_shared('/c')");
$far->query("SELECT etcd_lock('/far')");
$one->query("SELECT etcd_try_lock('/far')");

my $port = PostgreSQL::Test::Cluster::get_free_port();
my ($out, $run) = ('');
{
	local $ENV{DATA_SOURCE_NAME} = 'host=' . $here->host . ' port=' . $here->port
	  . ' user=exporter dbname=postgres';
	$run = IPC::Run::start(
		[ $exporter, "--extend.query-path=$file", "--web.listen-address=127.0.0.1:$port" ],
		'<', \undef, '>&', \$out);
}

# The metrics: name, with labels but for that of the server, to value.
sub metrics
{
	$run->pump_nb;
	my $answer = HTTP::Tiny->new(timeout => 30)->get("http://127.0.0.1:$port/metrics");
	return unless $answer->{success};
	my %metrics;
	foreach (split /\n/, $answer->{content})
	{
		next unless /^((?:etcd_lock|pg_exporter)\w+)(?:\{(.*)\})? (\S+)$/;
		my ($name, $labels, $value) = ($1, $2 // '', $3);
		$labels = join ',', grep { !/^(?:server|filename|hashsum)=/ } split /,/, $labels;
		$metrics{ $labels eq '' ? $name : "$name\{$labels}" } = $value;
	}
	return \%metrics;
}

my $metrics = wait_until('the exporter answers',
	sub { my $m = metrics(); $m && defined $m->{etcd_lock_link_ready} ? $m : undef });
is($metrics->{pg_exporter_user_queries_load_error}, 0, 'the file was read');
is($metrics->{pg_exporter_last_scrape_error}, 0, 'no query failed') or diag($out);

# Each metric of the file is there.
my $namespace;
foreach (split /\n/, slurp_file($file))
{
	$namespace = $1 if /^(\w+):$/;
	next unless /^    - (\w+): \{usage: (GAUGE|COUNTER|HISTOGRAM)/;
	my $name = "${namespace}_$1" . ($2 eq 'HISTOGRAM' ? '_count' : '');
	my @found = grep { /^$name(?:\{|$)/ } keys %$metrics;
	is(scalar(@found), 1, "$name is there");
}

# And tells what is.
my %expected = (
	etcd_lock_link_ready => 1,
	etcd_lock_link_keys_held => 2,
	etcd_lock_link_waiting => 0,
	etcd_lock_link_alarms => 0,
	etcd_lock_link_lease_ttl_seconds => 10,
	etcd_lock_asked_total => 4,
	etcd_lock_acquired_etcd_total => 3,
	etcd_lock_tries_failed_total => 1,
	etcd_lock_released_total => 1,
	etcd_lock_held => 2,
	etcd_lock_duration_wait_seconds_count => 3,
	'etcd_lock_duration_wait_seconds_bucket{le="+Inf"}' => 3,
	'etcd_lock_endpoint_healthy{endpoint="' . $etcd->endpoint . '"}' => 1);
is($metrics->{$_}, $expected{$_}, $_) foreach sort keys %expected;
cmp_ok($metrics->{etcd_lock_link_ttl_left_seconds}, '>', 1, 'ttl_left');
cmp_ok($metrics->{etcd_lock_oldest_held_seconds}, '>', 0, 'oldest lock');
cmp_ok($metrics->{etcd_lock_duration_request_seconds_sum}, '>', 0, 'time of requests');

# Counters go on, and an outage shows.
$one->query('SELECT etcd_unlock_all()');
is(metrics()->{etcd_lock_released_total}, 3, 'counters go on');
$etcd->stop;
wait_until('the outage shows', sub { metrics()->{etcd_lock_link_ready} == 0 });
is(metrics()->{ 'etcd_lock_endpoint_healthy{endpoint="' . $etcd->endpoint . '"}' },
	0, 'the endpoint is down');
$etcd->start;
wait_until('its end shows', sub { metrics()->{etcd_lock_link_ready} == 1 });

$run->signal('TERM');
eval { $run->finish };
$far->query('SELECT etcd_unlock_all()');
is_left_clean($etcd, $here, $there);
$_->quit foreach $one, $far;
finish($etcd, $here, $there);
