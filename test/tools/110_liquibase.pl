# Liquibase, on two servers at once, with a lock of all servers as doc/migrations.md has it.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Markdown;
use File::Basename qw(dirname);
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $liquibase = ($ENV{LIQUIBASE_MODULES} // '') . '/liquibase/dist/liquibase/liquibase';
plan skip_all => 'no Liquibase' unless -f $liquibase;
plan skip_all => 'no Java, for Liquibase' if system('java -version >/dev/null 2>&1');

my $dir = PostgreSQL::Test::Utils::tempdir();
my ($changelog) = grep { $_->{section} eq 'Liquibase' }
  EtcdLockTest::Markdown::blocks(slurp_file(dirname(__FILE__) . '/../../doc/migrations.md'));
append_to_file("$dir/changelog.sql", $changelog->{text} . <<'SQL');

--changeset app:1
CREATE TABLE app (i int);
INSERT INTO work VALUES ('begins', clock_timestamp());
SELECT wait_for_gate();
INSERT INTO work VALUES ('ends', clock_timestamp());
SQL

my $etcd = EtcdLockTest::Etcd->new;
my @nodes = map {
	start_server($_, endpoints => $etcd->endpoint, conf => "listen_addresses = '127.0.0.1'")
} qw(here there);
foreach my $node (@nodes)
{
	$node->safe_psql('postgres', <<'SQL');
ALTER SYSTEM SET client_connection_check_interval = '100ms';
SELECT pg_reload_conf();
CREATE TABLE gate ();
CREATE TABLE work (what text, at timestamptz);
CREATE FUNCTION wait_for_gate() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM gate) LOOP
		PERFORM pg_sleep(0.02);
	END LOOP;
END
$$;
SQL
}

sub start_deploy
{
	my ($node) = @_;
	my $output = '';
	my $run = IPC::Run::start(
		[
			'sh', $liquibase, '--url', 'jdbc:postgresql://127.0.0.1:' . $node->port . '/postgres',
			'--username', $node->safe_psql('postgres', 'SELECT current_user'),
			'--search-path', $dir, '--changelog-file', 'changelog.sql', 'update'
		],
		'<', \undef, '>&', \$output);
	return { run => $run, output => \$output, node => $node };
}

# Wait for what a deploy that still runs comes to.
sub wait_for
{
	my ($what, $deploy, $condition) = @_;
	wait_until(
		$what,
		sub {
			die "Liquibase has ended: ${ $deploy->{output} }" unless $deploy->{run}->pumpable;
			$deploy->{run}->pump_nb;
			return $condition->();
		});
	return;
}

sub is_done
{
	my ($deploy) = @_;
	my $name = $deploy->{node}->name;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($deploy->{run}->finish, "$name: succeeds") or diag ${ $deploy->{output} };
	is($deploy->{node}->safe_psql('postgres', "SELECT string_agg(what, ' ' ORDER BY at) FROM work"),
		'begins ends', "$name: the change was made once");
	return;
}

sub count { return $_[0]->safe_psql('postgres', "SELECT count(*) FROM $_[1]") }

my @deploys = start_deploy($nodes[0]);
wait_for('the first deploy works',
	$deploys[0], sub { count($nodes[0], "pg_locks WHERE relation = 'gate'::regclass") });
push @deploys, start_deploy($nodes[1]);
wait_for('the second one waits',
	$deploys[1], sub { count($nodes[1], 'etcd_locks WHERE NOT granted') });
is(count($nodes[1], 'work'), 0, 'there: waits while the other one works');
$_->safe_psql('postgres', 'INSERT INTO gate DEFAULT VALUES') foreach @nodes;
is_done($_) foreach @deploys;
cmp_ok(
	$nodes[0]->safe_psql('postgres', 'SELECT extract(epoch FROM max(at)) FROM work'),
	'<',
	$nodes[1]->safe_psql('postgres', 'SELECT extract(epoch FROM min(at)) FROM work'),
	'one after the other');

# The lock comes first each time, and goes with Liquibase's session.
is_done(start_deploy($nodes[0]));
is_left_clean($etcd, @nodes);

finish($etcd, @nodes);
