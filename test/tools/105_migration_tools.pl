# Migration tools that know only pg_advisory_lock(), unmodified, on two servers at
# once.  A search_path makes their locks cluster-wide.
#
# Each of the two servers has its own database of the same name, and needs each
# migration once.  Ten runs are started together, five on each server: one works, and
# the others wait or refuse, as the tool does with one server, until everything is
# done.  The servers' logs show which run worked, and when, because a transaction that
# is killed leaves nothing in a table.

use strict;
use warnings;

use EtcdLockTest;
use File::Basename ();
use File::Spec;
use PostgreSQL::Test::Utils;
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);

my $RUNS = 10;
my $scripts = File::Spec->rel2abs(File::Basename::dirname(__FILE__) . '/migrate');
my $dir = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
my $node_modules = $ENV{NODE_MODULES} // '';
my $owner = $$;

sub have { return system("@_ >/dev/null 2>&1") == 0 }

# A tool of node's that a script of ours runs.
sub node_tool
{
	my ($name, %how) = @_;
	return (
		$name => {
			missing => sub { !(-d "$node_modules/$name" && have('node --version')) },
			command => sub { return ('node', "$scripts/$name.js", $_[0]) },
			%how
		});
}

# "waits": in the lock; "polls": tries again and again; "refuses": fails with this.
my %TOOLS = (
	node_tool('kysely', waits => 1),
	node_tool('pg-boss', waits => 1),
	node_tool('postgres-migrations', polls => 1),
	node_tool('graphile-migrate', refuses => qr/Failed to get exclusive lock/),
	'alembic' => {
		missing => sub { !have(q{python3 -c 'import alembic, psycopg2'}) },
		waits => 1,
		command => sub {
			return ('python3', '-m', 'alembic.config', '-c', "$dir/alembic/alembic.ini",
				'upgrade', "change$_[0]");
		}
	},
	'django' => {
		missing => sub { !have(q{python3 -c 'import django, psycopg2'}) },
		waits => 1,
		command => sub { return ('python3', "$scripts/django_migrate.py", $_[0]) }
	},
	'sqitch' => {
		missing => sub {
			!(have('sqitch --version') && have('perl -MDBD::Pg -e 1'));
		},
		waits => 1,
		command => sub {
			my ($version) = @_;
			return ('sqitch', '--chdir', "$dir/sqitch", 'deploy', '--to', "change$version",
				'--lock-timeout', $version == 3 ? 12 : 120, 'db:pg:');
		}
	},
	'node-pg-migrate' => {
		missing => sub { !(-d "$node_modules/node-pg-migrate" && have('node --version')) },
		refuses => qr/Another migration is already running/,
		command => sub {
			my ($version) = @_;
			return ('node', "$dir/node/node_modules/node-pg-migrate/bin/node-pg-migrate.js",
				'up', '-m', "$dir/node/$version");
		}
	},
	'ActiveRecord' => {
		missing => sub { !have(q{ruby -e 'require "pg"; require "active_record"'}) },
		refuses => qr/ConcurrentMigrationError/,
		command => sub {
			my ($version) = @_;
			return ('ruby', "$dir/rails/migrate.rb", $version);
		}
	});

my @tools = grep { !$TOOLS{$_}{missing}->() } sort keys %TOOLS;
plan skip_all => 'none of the tools is installed' unless @tools;

#
# Migrations: change 0 is applied alone, 1 by ten, in the middle of 2 one is killed
#
sub write_file
{
	my ($file, $content) = @_;
	system_or_bail('mkdir', '-p', File::Basename::dirname("$dir/$file"));
	append_to_file("$dir/$file", $content);
	return;
}

my $plan = "%syntax-version=1.0.0\n%project=app\n\n";
foreach my $version (0 .. 2)
{
	$plan .= "change$version 2026-01-01T00:00:0${version}Z Test <test\@localhost> # change\n";
	write_file("sqitch/deploy/change$version.sql", <<"END");
BEGIN;
CREATE TABLE sqitch_$version (i int);
SELECT do_work('sqitch $version');
COMMIT;
END
	foreach my $upto ($version .. 2)
	{
		write_file("node/$upto/170000000000${version}_change.js", <<"END");
exports.up = pgm => {
	pgm.createTable('node_$version', { id: 'id' });
	pgm.sql("SELECT do_work('node-pg-migrate $version')");
};
exports.down = false;
END
	}
	my $before = $version == 0 ? 'None' : "'change" . ($version - 1) . "'";
	write_file("alembic/versions/change$version.py", <<"END");
from alembic import op
revision = 'change$version'
down_revision = $before
def upgrade():
    op.execute('CREATE TABLE alembic_$version (i int)')
    op.execute("SELECT do_work('alembic $version')")
END
	my $number = $version + 1;
	my $dependencies = $version == 0 ? '' : "('app', '000${version}_change')";
	write_file("django/app/migrations/000${number}_change.py", <<"END");
from django.db import migrations
class Migration(migrations.Migration):
    dependencies = [$dependencies]
    operations = [migrations.RunSQL(
        "CREATE TABLE django_$version (i int); SELECT do_work('django $version')")]
END
	write_file("rails/migrate/2026010100000${version}_change$version.rb", <<"END");
class Change$version < ActiveRecord::Migration[6.0]
	def up
		create_table(:rails_$version) { |t| t.integer :i }
		execute "SELECT do_work('ActiveRecord $version')"
	end
end
END
}
$plan .= "change3 2026-01-01T00:00:03Z Test <test\@localhost> # change\n";
write_file('sqitch/deploy/change3.sql', <<'END');
SELECT do_work('sqitch 3');
CREATE INDEX CONCURRENTLY sqitch_index ON sqitch_2 (i);
END
write_file('alembic/alembic.ini', "[alembic]\nscript_location = $dir/alembic\n");
write_file('alembic/env.py', slurp_file("$scripts/alembic/env.py"));
write_file("django/app/$_", '') foreach '__init__.py', 'migrations/__init__.py';
write_file('sqitch/sqitch.plan', $plan);
write_file('sqitch/sqitch.conf', "[core]\n\tengine = pg\n");
symlink $node_modules, "$dir/node/node_modules" if $node_modules;
write_file('rails/migrate.rb', <<'END');
# What "rails db:migrate" does.
require 'active_record'
ActiveRecord::Base.establish_connection(adapter: 'postgresql', host: ENV['PGHOST'],
	port: ENV['PGPORT'], database: ENV['PGDATABASE'], username: ENV['PGUSER'])
ActiveRecord::Migration.verbose = false
# From 7.1 on it finds the table of migrations by itself.
more = ActiveRecord.version < Gem::Version.new('7.1') ? [ActiveRecord::SchemaMigration] : []
ActiveRecord::MigrationContext.new(["#{__dir__}/migrate"], *more)
	.migrate(20260101000000 + ARGV[0].to_i)
END

#
# Servers
#
my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = start_servers($etcd, 'here', 'there');
foreach my $node (@nodes)
{
	# A backend looks for its client while a statement runs only if it is told to.
	$node->safe_psql('postgres', <<'END');
ALTER SYSTEM SET client_connection_check_interval = '100ms';
SELECT pg_reload_conf();
CREATE ROLE migrator LOGIN;
CREATE DATABASE app OWNER migrator;
ALTER ROLE migrator IN DATABASE app SET search_path = "$user", public, etcd_advisory, pg_catalog;
END

	# sqitch sets its own search_path: "SET search_path = 'sqitch'".  In that schema a
	# function for the type of the literal that it passes comes before PostgreSQL's.
	$node->safe_psql('app', <<'SQL');
CREATE EXTENSION etcd_lock;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA etcd_advisory TO migrator;

CREATE SCHEMA sqitch AUTHORIZATION migrator;
CREATE FUNCTION sqitch.pg_try_advisory_lock(integer) RETURNS boolean LANGUAGE SQL
	RETURN etcd_advisory.pg_try_advisory_lock($1);
CREATE FUNCTION sqitch.pg_advisory_lock(integer) RETURNS void LANGUAGE SQL
	BEGIN ATOMIC SELECT etcd_advisory.pg_advisory_lock($1); END;

CREATE TABLE gate ();
GRANT SELECT ON gate TO migrator;
CREATE FUNCTION do_work(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE LOG 'work begins: % %', what, extract(epoch FROM clock_timestamp());
	PERFORM pg_sleep(0.1);
	WHILE NOT EXISTS (SELECT FROM public.gate) LOOP
		PERFORM pg_sleep(0.02);
	END LOOP;
	RAISE LOG 'work ends: % %', what, extract(epoch FROM clock_timestamp());
END
$$;

-- What pg-boss does first, when it has its lock.
CREATE FUNCTION schema_is_work() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.do_work('pg-boss ' || substring(object_identity, '\d+'))
		FROM pg_event_trigger_ddl_commands() WHERE object_identity ~ '^pgboss_\d';
END
$$;
CREATE EVENT TRIGGER schema_is_work ON ddl_command_end WHEN TAG IN ('CREATE SCHEMA')
	EXECUTE FUNCTION schema_is_work();
SQL
}

# Work waits for this.
sub open_gate
{
	$_->safe_psql('app', 'INSERT INTO gate DEFAULT VALUES') foreach @nodes;
	return;
}

sub close_gate
{
	$_->safe_psql('app', 'DELETE FROM gate') foreach @nodes;
	return;
}

# What the logs say of the work on a change: a list of [begin, end, server].
sub work
{
	my ($what) = @_;
	my @work;
	foreach my $node (@nodes)
	{
		my $begun;
		foreach (split /\n/, slurp_file($node->logfile))
		{
			next unless /LOG:  work (begins|ends): \Q$what\E ([\d.]+)$/;
			push @work, [ $2, undef, $node->name ] if $1 eq 'begins';
			$work[-1][1] = $2 if $1 eq 'ends';
		}
	}
	@work = sort { $a->[0] <=> $b->[0] } @work;
	return @work;
}

#
# Runs of the tools
#
my %running;
my $started = 0;

sub start_run
{
	my ($tool, $version, $node) = @_;
	my $log = "$dir/$tool." . ++$started . '.log';
	my $pid = fork // die "could not fork: $!";
	if ($pid == 0)
	{
		setpgrp;
		chdir $dir;
		@ENV{qw(PGHOST PGPORT PGUSER PGDATABASE HOME SQITCH_FULLNAME SQITCH_EMAIL)} =
		  ($node->host, $node->port, 'migrator', 'app', $dir, 'Test', 'test@localhost');
		delete $ENV{PGAPPNAME};
		$ENV{NODE_PATH} = $node_modules;
		$ENV{PYTHONDONTWRITEBYTECODE} = 1;
		open STDIN, '<', '/dev/null' or POSIX::_exit(126);
		open STDOUT, '>', $log or POSIX::_exit(126);
		open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
		exec $TOOLS{$tool}{command}->($version) or POSIX::_exit(127);
	}
	$running{$pid} = 1;
	return { tool => $tool, version => $version, node => $node, pid => $pid, log => $log };
}

sub ended
{
	my ($run) = @_;
	if (!defined $run->{status} && waitpid($run->{pid}, WNOHANG) == $run->{pid})
	{
		$run->{status} = $?;
		delete $running{ $run->{pid} };
	}
	return defined $run->{status};
}

sub output { return -e $_[0]{log} ? slurp_file($_[0]{log}) : '' }

# Wait for the ends of runs; those that failed.
sub failed
{
	my @runs = @_;
	foreach my $run (@runs)
	{
		wait_until("the end of $run->{tool}", sub { ended($run) });
	}
	return grep { $_->{status} != 0 } @runs;
}

sub all_well
{
	my ($name, @runs) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @failed = failed(@runs);
	is(scalar @failed, 0, $name) or diag(output($failed[0]));
	return;
}

END
{
	my $status = $?;
	if ($$ == $owner)
	{
		kill 'KILL', -$_ foreach keys %running;
		waitpid $_, 0 foreach keys %running;
	}
	$? = $status;
}

sub waiting_for_lock
{
	my $n = 0;
	$n += $_->safe_psql('app', "SELECT count(*) FROM etcd_locks WHERE NOT granted")
	  foreach @nodes;
	return $n;
}

sub connections
{
	my $n = 0;
	$n += $_->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app'")
	  foreach @_;
	return $n;
}

# What nobody needs to wait for: one that has failed, and not because it was refused.
sub none_failed
{
	my ($refuses, @runs) = @_;
	foreach my $run (grep { ended($_) && $_->{status} != 0 } @runs)
	{
		die "$run->{tool} has failed: " . output($run)
		  unless $refuses && output($run) =~ $refuses;
	}
	return;
}

# Begun and ended on each server once, never two at a time.
sub done_once
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @work = grep { defined $_->[1] } work($what);
	is(join(' ', sort map { $_->[2] } @work),
		'here there', "$what: done once on each server");
	cmp_ok($work[0][1], '<', $work[1][0], "$what: never on both at a time") if @work == 2;
	return;
}

foreach my $tool (@tools)
{
	my ($refuses, $polls) = @{ $TOOLS{$tool} }{qw(refuses polls)};

	# What the tool needs for itself is made by the first run.
	open_gate();
	all_well("$tool: change 0 on " . $_->name, start_run($tool, 0, $_)) foreach @nodes;
	close_gate();

	# Ten at a time.
	my @runs = map { start_run($tool, 1, $nodes[ $_ % 2 ]) } 1 .. $RUNS;
	wait_until(
		"$tool: one works, the others wait or have refused",
		sub {
			none_failed($refuses, @runs);
			my $others =
			    $refuses ? grep { ended($_) } @runs
			  : $polls ? connections(@nodes) - 1
			  : waiting_for_lock();
			return work("$tool 1") && $others == $RUNS - 1;
		});
	sleep($polls ? 1.5 : 0.3);
	is(scalar(my @work = work("$tool 1")), 1, "$tool: of $RUNS on two servers one works");
	my @ended = grep { ended($_) } @runs;
	if ($refuses)
	{
		is(scalar @ended, $RUNS - 1, "$tool: the others have ended");
		is( scalar(grep { $_->{status} != 0 && output($_) =~ $refuses } @ended),
			$RUNS - 1, "$tool: as it does with one server");
	}
	else
	{
		is(scalar @ended, 0, "$tool: the others wait");
	}
	open_gate();
	if ($refuses)
	{
		my ($worker) = grep { my $run = $_; !grep { $_ == $run } @ended } @runs;
		all_well("$tool: the one that worked succeeds", $worker);

		# Deploys that were refused try again, all together.
		my @again = @ended;
		my $rounds = 0;
		while (@again && $rounds++ < $RUNS)
		{
			@again = failed(map { start_run($tool, 1, $_->{node}) } @again);
			my @odd = grep { output($_) !~ $refuses } @again;
			is(scalar @odd, 0, "$tool: again: who does not succeed is refused")
			  or diag(output($odd[0]));
		}
		is(scalar @again, 0, "$tool: tried again, all succeed");
	}
	else
	{
		all_well("$tool: all succeed in the end", @runs);
	}
	done_once("$tool 1");

	# One is killed at work.  The next one goes on, on either server, with nothing
	# unlocked by hand.  The gate stays shut until the server has found out, as else
	# the work of the dead could still end.
	close_gate();
	my $killed = start_run($tool, 2, $here);
	wait_until("$tool: works", sub { none_failed(undef, $killed); work("$tool 2") });
	kill 'KILL', -$killed->{pid};
	my $next = start_run($tool, 2, $there);
	wait_until("$tool: is dead", sub { ended($killed) });
	wait_until("$tool: its server has found out", sub { connections($here) == 0 });
	open_gate();
	foreach my $node ($there, $here)
	{
		my $run = $next // start_run($tool, 2, $node);
		my $tries = 0;
		$next = undef;

		# A tool that refuses may have come before the server knew of the death.
		while (failed($run) && $refuses && output($run) =~ $refuses && ++$tries < 10)
		{
			$run = start_run($tool, 2, $node);
		}
		all_well("$tool: killed at work: the next one succeeds on " . $node->name, $run);
	}
	my @lost = grep { !defined $_->[1] } work("$tool 2");
	is(scalar @lost, 1, "$tool: one did not end its work");
	done_once("$tool 2");
	close_gate();
	is_left_clean($etcd, @nodes);

	# postgres-migrations takes a table of this name, in whatever schema, for its own.
	$_->safe_psql('app', 'DROP SCHEMA IF EXISTS graphile_migrate CASCADE') foreach @nodes;
}

# sqitch has its lock in one session and runs the change in another, so neither
# PostgreSQL nor etcd_lock can know that an index build waits for those who wait for
# the lock, in a SELECT: until they give up, with one server as with many.
if (grep { $_ eq 'sqitch' } @tools)
{
	my @runs = map { start_run('sqitch', 3, $nodes[ $_ % 2 ]) } 1 .. 4;
	wait_until('index: one works, the others wait, or have given up',
		sub { return work('sqitch 3') && waiting_for_lock() + scalar(grep { ended($_) } @runs) == @runs - 1 });
	open_gate();

	# They are run again until all have succeeded.
	my @failed = failed(@runs);
	cmp_ok(scalar(@failed), '<', scalar(@runs), 'index: one succeeds');
	for (1 .. @runs)
	{
		my @odd = grep { output($_) !~ /Timed out waiting/ } @failed;
		is(scalar @odd, 0, 'index: the others gave up, or had nothing to do')
		  or diag(output($odd[0]));
		last unless @failed;
		@failed = failed(map { start_run('sqitch', 3, $_->{node}) } @failed);
	}
	is(scalar @failed, 0, 'index: run again, all succeed');
	done_once('sqitch 3');
	foreach my $node (@nodes)
	{
		is( $node->safe_psql('app', "SELECT indisvalid FROM pg_index
				WHERE indexrelid = 'sqitch_index'::regclass"),
			't', 'index: it is valid on ' . $node->name);
	}
	is_left_clean($etcd, @nodes);
}

foreach (grep { $TOOLS{$_}{missing}->() } sort keys %TOOLS)
{
  SKIP: { skip "$_ is not installed", 1 }
}

finish($etcd, @nodes);
