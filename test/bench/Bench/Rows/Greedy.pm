#-------------------------------------------------------------------------
# Bench::Rows::Greedy - an ordinary tenant, alone and beside a greedy one
#-------------------------------------------------------------------------
package Bench::Rows::Greedy;

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep);

my $clients = 10;

# Of the ordinary tenant.
my $pair = "SELECT etcd_lock('own');\nSELECT etcd_unlock('own');\n";

sub rows
{
	return (
		greedy('locks', 'locks and unlocks', "SELECT etcd_lock('x' || :client_id);\nSELECT etcd_unlock('x' || :client_id);\n"),
		greedy('tries', 'tries of a lock that is taken', "SELECT etcd_try_lock('taken');\n"),
		greedy('forbidden', 'names that etcd forbids', <<'END', namespace => ''),
DO $$ BEGIN PERFORM etcd_lock('forbidden/' || random()); EXCEPTION WHEN insufficient_privilege THEN END $$;
END
		greedy('nested', 'names with 1,000 names below them', <<'END', nested => 1),
SELECT etcd_lock(repeat('x/', :client_id) || 'x');
SELECT etcd_unlock(repeat('x/', :client_id) || 'x');
END
		greedy('ticks', '`etcd_try_once`', "SELECT etcd_try_once('tick' || :client_id, clock_timestamp());\n"),
		greedy('claims', '`etcd_try_once` for a lock that is held', <<'END'),
DO $$ BEGIN
	PERFORM etcd_xact_lock('claim' || pg_backend_pid());
	FOR i IN 1 .. 100 LOOP PERFORM etcd_try_once('claim' || pg_backend_pid(), clock_timestamp()); END LOOP;
END $$;
END
		greedy('views', '`etcd_lock_queue()`', "SELECT count(*) FROM etcd_lock_queue();\n"),
		greedy('breaks', '`etcd_lock_break`', "SELECT etcd_lock_break('x', 1);\n"));
}

# A server of their own, as etcd is to forbid something.
sub server
{
	my ($rig) = @_;
	return $rig->{tenants} if $rig->{tenants};

	my $etcd = EtcdLockTest::Etcd->new(fsync => 1);
	my $password = PostgreSQL::Test::Utils::tempdir('bench') . '/password';
	$etcd->enable_auth(app => 'app', [ 'app/', '.etcd_lock/' ]);
	append_to_file($password, "app\n");
	chmod 0600, $password;
	my $node = new_server('tenants', endpoints => $etcd->endpoint, conf => <<"END");
fsync = on
max_connections = 100
etcd_lock.keep_window = 0
etcd_lock.username = 'app'
etcd_lock.password_file = '$password'
END
	$node->start;
	$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION etcd_lock;
CREATE ROLE ordinary LOGIN SUPERUSER;
CREATE ROLE greedy LOGIN SUPERUSER;
ALTER ROLE ordinary SET etcd_lock.namespace = 'app/ordinary/';
SQL
	$rig->{tenants_etcd} = $etcd;
	return $rig->{tenants} = $node;
}

sub ordinary
{
	my ($rig, $seconds) = @_;
	return $rig->pgbench(server => 'tenants', script => $pair, seconds => $seconds, more => [ '-U', 'ordinary' ]);
}

# Sessions of the greedy tenant's that hold a hundred names each.
sub hold_names
{
	my ($node) = @_;
	my @idle = map { session($node, user => 'greedy') } 1 .. 10;
	foreach my $i (0 .. $#idle)
	{
		$idle[$i]->query("SET etcd_lock.namespace = 'app/greedy/';"
			  . "SELECT count(etcd_lock(repeat('x/', 11) || '$i/' || n)) FROM generate_series(0, 99) n");
	}
	return @idle;
}

# The ordinary tenant's times while the greedy one does this, with such settings.
sub beside
{
	my ($rig, $seconds, $script, %settings) = @_;
	my $node = server($rig);
	my $sessions = sub { return $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE usename = 'greedy'") };
	my $before = $sessions->();
	my $started = $rig->start_pgbench(server => 'tenants', script => $script,
		clients => $clients, seconds => 600, sample => 0.001,
		settings => { 'etcd_lock.namespace' => 'app/greedy/', %settings },
		more => [ '-U', 'greedy' ]);
	wait_until('the greedy tenant is busy', sub { $sessions->() >= $before + $clients });
	sleep 0.5;
	my $result = ordinary($rig, $seconds);
	$started->{run}->kill_kill;
	unlink glob "$started->{prefix}.*";
	wait_until('the greedy tenant is gone', sub { $sessions->() <= $before });
	return $result;
}

sub greedy
{
	my ($id, $title, $script, %options) = @_;
	my %namespace = map { ('etcd_lock.namespace' => $_) } grep { defined } $options{namespace};
	return {
		id => "greedy_$id",
		group => 'greedy',
		title => "$title, $clients sessions",
		run => sub {
			my ($rig, $seconds) = @_;
			my $node = server($rig);
			my $holder = session($node, user => 'greedy');
			$holder->query("SET etcd_lock.namespace = 'app/greedy/'; SELECT etcd_lock('taken')");
			my @idle = $options{nested} ? hold_names($node) : ();
			my $alone = ordinary($rig, $seconds);
			my $beside = beside($rig, $seconds, $script, %namespace);
			my $limited = beside($rig, $seconds, $script, %namespace, 'etcd_lock.max_requests_per_role' => 1);
			$_->quit foreach $holder, @idle;
			return {
				samples => { alone => $alone->{latencies}, beside => $beside->{latencies}, limited => $limited->{latencies} },
				rate_alone => $alone->{tps},
				rate => $beside->{tps},
				rate_limited => $limited->{tps},
			};
		},
	};
}

1;
