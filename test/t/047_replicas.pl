# doc/recipes.md, "Migrations over replicas", from start to end: three instances, one on
# the primary and two on standbys, start at once; one migrates, and the others know it.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Markdown;
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my $primary = new_server(
	'primary',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 1 },
	conf => "etcd_lock.lease_ttl = '60s'\netcd_lock.request_timeout = '30s'");
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
$primary->backup('backup');
my @standbys = map {
	my $standby = PostgreSQL::Test::Cluster->new($_);
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "recovery_min_apply_delay = '1s'");
	$standby->start;
	$standby;
} qw(b c);
my @nodes = ($primary, @standbys);

my ($block) = grep { $_->{section} eq 'Migrations over replicas' && "@{ $_->{info} }" eq 'psql' }
  EtcdLockTest::Markdown::blocks(slurp_file(dirname(__FILE__) . '/../../doc/recipes.md'));
ok($block, 'the recipe has a script');

sub conninfo
{
	my ($attrs, @in_order) = @_;
	return 'host=' . join(',', map { $_->host } @in_order)
	  . ' port=' . join(',', map { $_->port } @in_order)
	  . " dbname=postgres target_session_attrs=$attrs";
}

# Three instances at once, each on another server; what they said, and how often the work was done.
sub deploy
{
	my ($table, $settings) = @_;
	my $script = $block->{text} =~ s/orders_v2/$table/gr;
	local $ENV{PRIMARY} = conninfo('primary', reverse @nodes);
	local $ENV{PGOPTIONS} = $settings;
	my @instances = map {
		my $first = $_;
		my %instance = (in => $script, out => '', err => '');
		$instance{run} = IPC::Run::start(
			[
				$primary->installed_command('psql'), '-XAt',
				'-d', conninfo('any', $first, grep { $_ != $first } @nodes), '-f', '-'
			],
			'<', \$instance{in}, '>', \$instance{out}, '2>', \$instance{err},
			IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
		\%instance;
	} @nodes;
	$_->{run}->finish foreach @instances;
	return @instances;
}

foreach my $i (1 .. 4)
{
	my @instances = deploy("deployed$i", '');
	is(join('', map { $_->{err} } @instances), '', "deploy $i: no error, so one has migrated");
	is(scalar(grep { $_->{out} =~ /^t$/m } @instances), 3, 'each had the lock');
	is($primary->safe_psql('postgres', "SELECT to_regclass('deployed$i') IS NOT NULL"), 't', 'it is done');
}

# Why that is so.
my @instances = deploy('deployed_twice', '-c etcd_lock.catch_up=off');
like(join('', map { $_->{err} } @instances), qr/relation "deployed_twice" already exists/,
	'without waiting for replay it is done more than once');

is_left_clean($etcd, @nodes);
finish($etcd, @standbys, $primary);
