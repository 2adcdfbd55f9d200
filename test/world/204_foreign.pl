# Changes elsewhere: foreign tables of postgres_fdw, dblink, and two-phase commits.  The
# other side of a transaction that lost its lock does not commit, whether or not
# something changes here.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Loss;
use Test::More;
use Time::HiRes qw(sleep);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = map {
	start_server($_, endpoints => $etcd->endpoint,
		conf => "etcd_lock.lease_ttl = '60s'\netcd_lock.request_timeout = '1s'\nmax_prepared_transactions = 10")
} qw(here there);
$there->safe_psql('postgres', 'CREATE TABLE t (v text); CREATE TABLE old (v text)');
my ($host, $port) = ($there->host, $there->port);
$here->safe_psql('postgres', <<"SQL");
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION dblink;
CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw
	OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR PUBLIC SERVER there;
CREATE TABLE t (v text);
CREATE FOREIGN TABLE remote (v text) SERVER there OPTIONS (table_name 't');
CREATE FOREIGN TABLE old (v text) SERVER there;
SQL
my ($control, $remote) = map { session($_) } @nodes;

# How a transaction changes something there, and nothing here.
my $n = 0;
my %CHANGES = (
	'INSERT' => q(INSERT INTO remote VALUES ('%s')),
	'UPDATE' => q(UPDATE old SET v = '%s'),
	'DELETE' => q(DELETE FROM old),
	'TRUNCATE' => q(TRUNCATE old),
	'a CTE' => q(WITH x AS (INSERT INTO remote VALUES ('%s') RETURNING v) SELECT * FROM x),
	'a function' => q(DO 'BEGIN INSERT INTO remote VALUES (''%s''); END'),
	'a prepared statement' => q(PREPARE p AS INSERT INTO remote VALUES ('%s'); EXECUTE p; DEALLOCATE p),
	'SELECT FOR UPDATE and an INSERT' => q(SELECT v FROM old FOR UPDATE; INSERT INTO remote VALUES ('%s')));

# Whether what this change does was committed there; undone for the next one.
sub changed_there
{
	my ($value) = @_;
	my $changed = $remote->query("SELECT EXISTS (SELECT FROM t WHERE v = '$value') OR
		NOT EXISTS (SELECT FROM old WHERE v = 'old')");
	$remote->query("TRUNCATE old; INSERT INTO old VALUES ('old')") if $changed eq 't';
	return $changed;
}
$remote->query("INSERT INTO old VALUES ('old')");

foreach my $lock (qw(etcd_xact_lock etcd_lock))
{
	foreach my $setting ('commit_guard = lease', 'commit_guard = etcd', 'on_loss = warn')
	{
		foreach my $change (sort keys %CHANGES)
		{
			my $case = "$change in a transaction, $lock, $setting";
			my $value = ++$n;
			my $sql = sprintf $CHANGES{$change}, $value;
			my $session = session($here);

			$session->query("SET etcd_lock.$setting; BEGIN; SELECT $lock('/f')");
			$session->query($sql);
			if ($setting =~ /etcd/)
			{
				lose('deleted', $etcd, '/f');
			}
			else
			{
				lose('broken', $etcd, '/f', there => $remote);
				wait_until_lost($control, '/f');
			}
			my $result = $session->try('COMMIT');

			is($result->{sqlstate}, 'EL002', "$case: refused");
			is(changed_there($value), 'f', "$case: not committed there");
			$session->quit;
		}
	}
}

# Without an explicit transaction, in a session that has lost its lock.
foreach my $setting ('on_loss = cancel', 'on_loss = warn', 'commit_guard = etcd')
{
	my $session = session($here);
	$session->query("SET etcd_lock.$setting; SELECT etcd_lock('/f')");
	lose('broken', $etcd, '/f', there => $remote);
	wait_until_lost($control, '/f');
	foreach my $change (sort keys %CHANGES)
	{
		my $case = "$change, $setting";
		my $value = ++$n;
		my $sql = sprintf $CHANGES{$change}, $value;

		isnt($session->try($sql)->{sqlstate}, '', "$case: refused in a session that has lost its lock");
		is(changed_there($value), 'f', "$case: not committed there");
		next if $change =~ /prepared|FOR UPDATE/;
		my $procedure = $sql =~ s/^DO 'BEGIN|END'$//gr =~ s/''/'/gr =~ s/;\s*$//r;
		$procedure =~ s/SELECT \* FROM x/UPDATE remote SET v = v WHERE false/;
		$case = "$change and COMMIT in DO, $setting";
		$session->try('DEALLOCATE ALL');
		isnt($session->try("DO \$\$ BEGIN $procedure; COMMIT; END \$\$")->{sqlstate},
			'', "$case: refused");
		is(changed_there($value), 'f', "$case: not committed there");
	}

	# What was lost before a transaction began that writes there only.
	my $value = ++$n;
	my $result = $session->try("BEGIN; INSERT INTO remote VALUES ('$value'); COMMIT");
	{
		isnt($result->{sqlstate}, '', "a transaction, $setting: refused");
		is(changed_there($value), 'f', "a transaction, $setting: not committed there");
	}

	# Reading there is reading.
	is($session->try('SELECT v FROM old')->{out}, 'old', "reading there, $setting: goes through");
	is($session->query("SELECT etcd_unlock('/f')"), 't', "$setting: unlocked");
	$value = ++$n;
	$session->query("INSERT INTO remote VALUES ('$value')");
	is(changed_there($value), 't', "$setting: then it writes");
	$session->quit;
}

# etcd is silent: nobody knows.
{
	my $session = session($here);
	$session->query("SET etcd_lock.commit_guard = 'etcd'; SELECT etcd_lock('/f')");
	my $value = ++$n;
	$session->query("BEGIN; INSERT INTO remote VALUES ('$value')");
	$etcd->pause;
	my $result = $session->try('COMMIT');
	$etcd->resume;
	is($result->{sqlstate}, 'EL002', 'commit_guard = etcd, etcd is silent: refused');
	is(changed_there($value), 'f', 'and not committed there');
	$session->quit;
}

# A lock that is held hinders nobody; the other side commits, and its own locks are
# its own server's.
{
	my $session = session($here);
	my $value = ++$n;
	$session->query("BEGIN; SELECT etcd_xact_lock('/f'); INSERT INTO remote VALUES ('$value'); COMMIT");
	is(changed_there($value), 't', 'held: committed there');
	$session->query("SELECT dblink_connect('c', 'host=$host port=$port dbname=postgres')");
	is($session->query("SELECT etcd_lock('/f') > 0"), 't', 'a lock here');
	is($session->query(q(SELECT r FROM dblink('c', 'SELECT etcd_try_lock(''/f'')') AS d (r bool))),
		'f', 'excludes what this session does through dblink');

	# dblink's statements are committed there, one by one, before anybody here knows.
	$session->query("SET etcd_lock.on_loss = 'warn'");
	lose('broken', $etcd, '/f', there => $remote);
	wait_until_lost($control, '/f');
	$value = ++$n;
	$session->query("BEGIN; SELECT dblink_exec('c', 'INSERT INTO t VALUES (''$value'')'); ROLLBACK");
	is(changed_there($value), 't', 'dblink commits by itself: nothing can guard it');
	$session->query("SELECT etcd_unlock('/f'), dblink_disconnect('c')");
	$session->quit;
}
is_left_clean($etcd, @nodes);

#
# Two phases: prepared on two servers by hand, as a coordinator does it.
#
foreach my $setting ('commit_guard = lease', 'commit_guard = etcd')
{
	my $value = ++$n;
	my $coordinator = session($here);
	$coordinator->query("SET etcd_lock.$setting; SELECT etcd_lock('/2pc')");
	foreach my $node (@nodes)
	{
		$node->safe_psql('postgres',
			"BEGIN; INSERT INTO t VALUES ('$value'); PREPARE TRANSACTION 'p$value'");
	}
	lose('broken', $etcd, '/2pc', there => $remote);
	wait_until_lost($control, '/2pc');
	is($coordinator->try("COMMIT PREPARED 'p$value'")->{sqlstate},
		'EL002', "two phases, $setting: COMMIT PREPARED is refused under a lost lock");
	is(is_committed($control, $value), 0, "two phases, $setting: nothing is committed");
	is($coordinator->try("ROLLBACK PREPARED 'p$value'")->{sqlstate},
		'', "two phases, $setting: ROLLBACK PREPARED is not refused");
	$there->safe_psql('postgres', "ROLLBACK PREPARED 'p$value'");

	# The first phase.
	$value = ++$n;
	my $result = $coordinator->try("BEGIN; INSERT INTO t VALUES ('$value'); PREPARE TRANSACTION 'p$value'");
	isnt($result->{sqlstate}, '', "two phases, $setting: PREPARE TRANSACTION is refused");
	is($control->query('SELECT count(*) FROM pg_prepared_xacts'), 0, "two phases, $setting: nothing is prepared");
	$coordinator->query("SELECT etcd_unlock('/2pc')");

	# The lock belongs to the coordinator's session, not to what it has prepared.
	$value = ++$n;
	$coordinator->query("SELECT etcd_lock('/2pc'); BEGIN; INSERT INTO t VALUES ('$value'); PREPARE TRANSACTION 'p$value'");
	is($remote->query("SELECT etcd_try_lock('/2pc')"), 'f', "two phases, $setting: prepared, the lock is still held");
	$coordinator->query("COMMIT PREPARED 'p$value'");
	is(is_committed($control, $value), 1, "two phases, $setting: held, committed");
	$coordinator->quit;
}

# Silent etcd.
{
	my $value = ++$n;
	my $coordinator = session($here);
	$coordinator->query("SET etcd_lock.commit_guard = 'etcd'; SELECT etcd_lock('/2pc')");
	$here->safe_psql('postgres', "BEGIN; INSERT INTO t VALUES ('$value'); PREPARE TRANSACTION 'p$value'");
	$etcd->pause;
	my $result = $coordinator->try("COMMIT PREPARED 'p$value'");
	$etcd->resume;
	is($result->{sqlstate}, 'EL002', 'two phases, etcd is silent: COMMIT PREPARED is refused');
	is(is_committed($control, $value), 0, 'two phases, etcd is silent: nothing is committed');
	is($control->query('SELECT count(*) FROM pg_prepared_xacts'), 1, 'and it is still prepared');
	wait_until('etcd answers', sub { $coordinator->try("COMMIT PREPARED 'p$value'")->{sqlstate} eq '' });
	is(is_committed($control, $value), 1, 'then it commits');
	$coordinator->quit;
}

is_left_clean($etcd, @nodes);
$_->quit foreach $control, $remote;
finish($etcd, @nodes);
