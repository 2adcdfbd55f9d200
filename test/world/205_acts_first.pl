# Commands that act before their transaction commits: if only the commit were refused,
# files, or slots on other servers, would already be gone.  So the commands are refused
# before they run.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Loss;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = map {
	my $node = new_server(
		$_,
		endpoints => $etcd->endpoint,
		init => { allows_streaming => 'logical' },
		conf => "etcd_lock.lease_ttl = '60s'\netcd_lock.request_timeout = '1s'");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
	$node;
} qw(here there);
my $publisher = join ' ', 'host=' . $there->host, 'port=' . $there->port, 'dbname=postgres';
my $spaces = PostgreSQL::Test::Utils::tempdir_short();
my ($control, $remote) = map { session($_) } @nodes;
my $data = $control->query('SHOW data_directory');
mkdir "$spaces/$_" foreach qw(old new);

$remote->query('CREATE TABLE t (v text); CREATE PUBLICATION p FOR TABLE t');
$here->safe_psql('postgres', $_) foreach
  'CREATE TABLE t (v text)',
  (map { "CREATE TABLE i$_ (v int); CREATE INDEX old_index$_ ON i$_ (v)" } 1 .. 3),
  'CREATE TABLE parted (v int) PARTITION BY LIST (v)',
  'CREATE TABLE part PARTITION OF parted FOR VALUES IN (1)',
  'CREATE DATABASE old_db',
  'CREATE DATABASE moved_db',
  "CREATE TABLESPACE old_space LOCATION '$spaces/old'",
  'CREATE TABLESPACE target_space LOCATION ' . do { mkdir "$spaces/target"; "'$spaces/target'" },
  "CREATE SUBSCRIPTION old_sub CONNECTION '$publisher' PUBLICATION p WITH (slot_name = old_slot)";
$here->safe_psql('old_db', q(CREATE TABLE kept AS SELECT 'kept' AS v));
$here->safe_psql('moved_db', q(CREATE TABLE kept AS SELECT 'kept' AS v));

sub files { my ($dir) = @_; return join ' ', sort grep { !/pgsql_tmp/ } map { s{.*/}{}r } glob "$dir/*" }
# psql may end before it is sent the query, if the database is gone.
sub kept { my ($db) = @_; return sub { eval { ($here->psql($db, 'SELECT v FROM kept'))[1] } } }
sub sql { my ($sql) = @_; return sub { $control->query($sql) } }

# Each command with what it is about: the same before a refusal and after it, and
# something else after its success.
my @COMMANDS = (
	[ 'DROP DATABASE old_db', kept('old_db') ],
	[ 'DROP TABLESPACE old_space', sub { files("$spaces/old") } ],
	[ "CREATE TABLESPACE new_space LOCATION '$spaces/new'", sub { files("$spaces/new") } ],
	[ 'DROP SUBSCRIPTION old_sub',
		sub { $remote->query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'old_slot'") } ],
	[ "CREATE SUBSCRIPTION new_sub CONNECTION '$publisher' PUBLICATION p WITH (slot_name = new_slot, enabled = false)",
		sub { $remote->query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'new_slot'") } ],
	[ 'ALTER DATABASE moved_db SET TABLESPACE target_space',
		sub { kept('moved_db')->() . ' ' . files("$spaces/target/PG_*") } ],
	[ 'CREATE INDEX CONCURRENTLY new_index ON i1 (v)',
		sql("SELECT count(*) FROM pg_class WHERE relname = 'new_index'") ],
	[ 'REINDEX INDEX CONCURRENTLY old_index2',
		sql("SELECT oid FROM pg_class WHERE relname ~ '^old_index2' ORDER BY relname") ],
	[ 'ALTER TABLE parted DETACH PARTITION part CONCURRENTLY',
		sql("SELECT inhdetachpending FROM pg_inherits WHERE inhparent = 'parted'::regclass") ],
	[ 'DROP INDEX CONCURRENTLY old_index3',
		sql("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('old_index3')") ]);
my @CREATE_DATABASE = map {
	[ "CREATE DATABASE new_$_ STRATEGY $_", sub { files("$data/base") } ]
} qw(wal_log file_copy);

# All at a time, each in a session of its own, while etcd is silent and the guard
# wants to ask it; what they are about is looked at when all have ended.
sub refused
{
	my ($case, $settings, $how, @commands) = @_;
	my %before = map { $_->[0] => $_->[1]->() } @commands;
	my %session;
	my $n = 0;

	foreach (@commands)
	{
		my ($command) = @$_;
		my $session = $session{$command} = session($here);
		$n++;
		$session->query("$settings; SELECT etcd_lock('/acts/$n')");
	}
	lose($how, $etcd, $how eq 'broken' ? "/acts/$_" : '/acts', there => $remote)
	  foreach $how eq 'broken' ? 1 .. $n : 0;
	wait_until_lost($control, map { "/acts/$_" } 1 .. $n) if $how eq 'broken';

	$session{ $_->[0] }->send($_->[0]) foreach @commands;
	my %result = map { $_->[0] => $session{ $_->[0] }->result } @commands;
	heal($etcd) if $how eq 'silent';
	foreach (@commands)
	{
		my ($command, $about) = @$_;
		my $name = $command =~ s/ (CONNECTION|LOCATION).*//r;

		like($result{$command}{sqlstate}, qr/^EL/, "$case: refused: $name");
		is($about->(), $before{$command}, "$case: nothing has happened: $name");
	}
	$_->quit foreach values %session;
	is_left_clean($etcd, @nodes);
	return;
}

foreach my $commands (\@COMMANDS, \@CREATE_DATABASE)
{
	refused('etcd is silent', "SET etcd_lock.commit_guard = 'etcd'", 'silent', @$commands);
	refused('deleted', "SET etcd_lock.commit_guard = 'etcd'", 'deleted', @$commands);
	refused('lost, on_loss = warn', "SET etcd_lock.on_loss = 'warn'", 'broken', @$commands);
	refused('lost', 'SELECT', 'broken', @$commands);
}

# With the lock they all work.  Fewer than there should be are left if one was
# refused too late.
my $session = session($here);
$session->query("SET etcd_lock.commit_guard = 'etcd'; SELECT etcd_lock('/acts')");
foreach (@COMMANDS, @CREATE_DATABASE)
{
	my ($command, $about) = @$_;
	my $name = $command =~ s/ (CONNECTION|LOCATION).*//r;
	my $before = $about->();

	is($session->try($command)->{sqlstate}, '', "held: works: $name");
	isnt($about->() // '', $before // '', "held: something has happened: $name");
}
$session->quit;

is_left_clean($etcd, @nodes);
$_->quit foreach $control, $remote;
$here->psql('postgres', $_)
  foreach 'ALTER SUBSCRIPTION new_sub SET (slot_name = NONE)', 'DROP SUBSCRIPTION new_sub';
finish($etcd, @nodes);
