# PostgreSQL's own regression test of advisory locks, unchanged, with schema
# etcd_advisory in the search_path: there must be no difference.

use strict;
use warnings;

use EtcdLockTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = $ENV{POSTGRES_SOURCE} // '';
my $sql = "$source/src/test/regress/sql/advisory_lock.sql";
my $expected = "$source/src/test/regress/expected/advisory_lock.out";
plan skip_all => 'the source of PostgreSQL is not here'
  unless $source && -e $sql;

my $etcd = EtcdLockTest::Etcd->new;
my @nodes = start_servers($etcd, 'here');
my ($node) = @nodes;
my $PATH = '"$user", public, etcd_advisory, pg_catalog';

sub revision { return $etcd->call('/v3/kv/range', { key => 'eA==' })->{header}{revision} }

# Locks of all servers.  A hot one is asked for more often than etcd is.
sub asked { return $node->safe_psql('postgres', 'SELECT asked FROM etcd_lock_stats') }

# As pg_regress does it.
sub output
{
	my ($db) = @_;
	my ($out, $ok) = ('');
	$ok = IPC::Run::run(
		[ 'psql', '-X', '-a', '-q', '-d', $node->connstr($db) ],
		'<', $sql, '>&', \$out);
	return $ok ? $out : "psql failed\n$out";
}

foreach my $path ($PATH, 'etcd_advisory, pg_catalog, "$user", public')
{
	$node->safe_psql('postgres', 'CREATE DATABASE regression');
	$node->safe_psql('regression', 'CREATE EXTENSION etcd_lock SCHEMA public');

	my ($revision, $asked) = (revision(), asked());
	is(output('regression'), slurp_file($expected), "without search_path: it is PostgreSQL's");
	is(revision(), $revision, '... and etcd is not asked');

	$node->safe_psql('postgres', "ALTER DATABASE regression SET search_path = $path");
	is(output('regression'), slurp_file($expected), "search_path = $path: no difference");
	cmp_ok(revision(), '>', $revision, '... and etcd had these locks');
	cmp_ok(asked(), '>', $asked + 10, '... all of them');
	$node->safe_psql('postgres', 'DROP DATABASE regression');
}

is_left_clean($etcd, @nodes);
finish($etcd, @nodes);
