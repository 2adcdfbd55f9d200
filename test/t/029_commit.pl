# The commit of a session with locks, for all kinds of transactions: it is refused
# before anything is done, or it is done and acknowledged when it may be, and the locks
# are free when its client has the result.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Wire;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $request_timeout = 2;
my $etcd = EtcdLockTest::Etcd->new;
my $here = start_server(
	'here',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 'logical' },
	conf => <<"END");
etcd_lock.lease_ttl = '60s'
etcd_lock.request_timeout = '${request_timeout}s'
max_prepared_transactions = 4
END
my $there = start_server(
	'there',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 'logical' },
	conf => "etcd_lock.lease_ttl = '60s'");
$_->safe_psql('postgres', 'CREATE TABLE t (v text)') foreach $here, $there;
my $control = session($here);
my $other = session($there);

sub committed
{
	my ($node, $value) = @_;
	return $node->safe_psql('postgres', "SELECT count(*) FROM t WHERE v = '$value'");
}

# Take a lock away from the session that has it on the one server, by the other.
sub break_lock
{
	my ($name) = @_;
	is( $other->query("SELECT etcd_lock_break('$name', create_revision << 20) "
			  . "FROM etcd_lock_queue('$name') WHERE granted"),
		't',
		"$name is broken");
	return;
}

sub wait_until_lost
{
	my ($name) = @_;
	wait_until(
		"the loss of $name is known",
		sub { $control->query("SELECT bool_or(lost) FROM etcd_locks WHERE name = '$name'") eq 't' },
		20);
	return;
}

sub wait_for_event
{
	my ($session, $event) = @_;
	my $pid = $session->pid;
	wait_until(
		"process $pid waits for $event",
		sub {
			$control->query("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq $event;
		},
		20);
	return;
}

sub extended { return EtcdLockTest::Wire->new(@_) }

# Replication to a standby that is not there: nothing is acknowledged until release.
sub without_standby
{
	my ($what) = @_;
	$here->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
	$here->reload;

	# It is the checkpointer that makes the setting known to all.
	my $probe = session($here);
	my $waits = 'SELECT count(*) FROM pg_stat_activity WHERE wait_event = $$SyncRep$$ AND pid = '
	  . $probe->pid;
	wait_until(
		'the standby is missed',
		sub {
			$probe->send("INSERT INTO t VALUES ('probe')");
			wait_until('an answer, or none',
				sub { $probe->done || $control->query($waits) eq '1' });
			$probe->result if $probe->done;
			return !$probe->{sql} ? 0 : 1;
		});
	# One that waits serves no barrier, which DROP DATABASE needs.
	$control->query('SELECT pg_cancel_backend(' . $probe->pid . ')');
	$probe->result;
	$probe->quit;
	my $ok = eval { $what->(); 1 };
	my $error = $@;
	acknowledge();
	die $error unless $ok;
	return;
}

sub acknowledge
{
	$here->append_conf('postgresql.auto.conf', "synchronous_standby_names = ''");
	$here->reload;
	wait_until('no standby is waited for',
		sub { $control->query('SHOW synchronous_standby_names') eq '' });
	return;
}

# Not acknowledged for a while: it must not be.
sub stays_unacknowledged
{
	my ($session, $name) = @_;
	my $until = time + 1.5;
	sleep 0.05 until $session->done || time > $until;
	ok(!$session->done, "$name: not acknowledged without the standby");
	return;
}

# A lease of another length, for the one server.
sub new_lease
{
	my ($ttl) = @_;
	my $session = session($here);
	my $status = "SELECT lease FROM etcd_lock_status() WHERE state = 'ready'";
	$here->append_conf('postgresql.conf', "etcd_lock.lease_ttl = '$ttl'");
	$here->reload;
	wait_until_locks_work($session);
	$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/lease')");
	my $old = $here->safe_psql('postgres', $status);
	$etcd->revoke($etcd->lease_of('/lease'));
	wait_until('another lease',
		sub { my $new = $here->safe_psql('postgres', $status); $new ne '' && $new ne $old });
	$session->quit;
	return;
}

# One after the other, whatever becomes of it.
sub fault
{
	my ($name, $test) = @_;
	subtest $name => sub {
		eval { $test->(); 1 } or fail("$name: $@");
		$etcd->resume;
	};
	return;
}

my $late = qr/WARNING:  EL001: etcd lock "[^"]+" was lost while .* committed/;

#
# Nobody interrupts a session past the guard.
#

foreach my $on_loss (qw(cancel terminate warn))
{
	foreach my $scope (qw(xact session))
	{
		fault "synchronous standby missing, $on_loss, lock of the $scope" => sub {
			my $name = "/sync/$on_loss/$scope";
			my $lock = $scope eq 'xact' ? 'etcd_xact_lock' : 'etcd_lock';
			my $session = extended($here);
			$session->query("SET etcd_lock.on_loss = $on_loss");
			$session->query("BEGIN; SELECT $lock('$name'); INSERT INTO t VALUES ('$name')");
			my $result;
			without_standby(sub {
				$session->send('COMMIT');
				wait_for_event($session, 'SyncRep');
				break_lock($name);
				wait_until_lost($name);
				stays_unacknowledged($session, $name);
				acknowledge();
				$result = $session->result;
			});
			is_deeply($result->{tags}, ['COMMIT'], 'then it is committed');
			unlike($result->{err}, qr/canceling wait/, 'and nothing was cancelled');
			if ($on_loss eq 'terminate' && $scope eq 'session')
			{
				wait_until('the session is terminated behind its commit',
					sub { $session->try('SELECT 1')->{closed} }, 10);
				is(committed($here, $name), 1, 'the commit has happened');
				return;
			}
			$result = $session->try('SELECT 1');
			is($result->{out}, 1, 'the session goes on');
			like($result->{err}, $late, 'and is told of the loss');
			unlike($session->try('SELECT 1')->{err}, $late, 'once');
			$session->query('SELECT etcd_unlock_all()');
			$session->quit;
		};
	}
}

# A refusal that is caught lets nothing through.
fault 'the refusal of a command is caught' => sub {
	my $session = session($here);
	$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/caught'); BEGIN; INSERT INTO t VALUES ('caught')");
	break_lock('/caught');
	wait_until_lost('/caught');
	$session->query(q{DO $$ BEGIN ALTER DATABASE postgres CONNECTION LIMIT 50; RAISE 'not refused';
		EXCEPTION WHEN SQLSTATE 'EL002' THEN NULL; END $$});
	$session->query("SELECT etcd_unlock('/caught')");
	is($session->try('COMMIT')->{sqlstate}, 'EL002', 'nor does the transaction commit');
	is(committed($here, 'caught'), 0, 'nothing of it');
	$session->quit;
};

# The lease ends, though etcd still has it: for the margin of its 60 s, no key that
# protects a commit goes, neither with the lease nor because nobody here knows it.
fault 'synchronous standby missing, the lease is given up' => sub {
	my $name = '/sync/margin';
	my ($session, $sharer) = (extended($here), session($here));
	$session->query("SET etcd_lock.on_loss = warn; BEGIN; SELECT etcd_xact_lock_shared('$name'); INSERT INTO t VALUES ('$name')");
	without_standby(sub {
		$session->send('COMMIT');
		wait_for_event($session, 'SyncRep');
		$other->send("SELECT etcd_lock('$name') > 0");
		wait_until('it waits in etcd', sub { my @keys = $etcd->keys("$name/"); @keys == 2 });
		my $lease = $here->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status()');
		$etcd->delete(".etcd_lock/server/$lease");
		wait_until_lost($name);
		$sharer->send("SELECT etcd_lock_shared('$name') > 0");
		wait_until('one here asks, too', sub { my @keys = $etcd->keys("$name/"); $other->done || @keys == 3 });
		my $until = time + 2;
		sleep 0.05 until $other->done || time > $until;
		ok(!$other->done, 'the other server does not have the lock');
		acknowledge();
		like("@{$session->result->{tags}}", qr/^COMMIT$/, 'committed');
	});
	is($other->result->{out}, 't', 'then it has it');
	$other->query("SELECT etcd_unlock('$name')");
	is($sharer->result->{out}, 't', 'and then the one here');
	$_->query('SELECT etcd_unlock_all()'), $_->quit foreach $session, $sharer;
};

# What is cancelled then is a procedure's next statement, wherever it has taken the lock.
$here->safe_psql('postgres',
	'CREATE FUNCTION sleeps() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN 1; END $$');
foreach my $case (
	[ 'before', 'PERFORM pg_sleep(60)' ],
	[ 'within', 'PERFORM pg_sleep(60)' ],
	[ 'within', 'BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN division_by_zero THEN NULL; END' ],
	[ 'within', 'i := sleeps()' ])
{
	my ($where, $next) = @$case;
	fault "synchronous standby missing, a procedure, the lock is taken $where, then $next" => sub {
		my $name = "/sync/procedure/$where/" . length $next;
		my $session = session($here);
		$session->query("SET etcd_lock.on_loss = cancel");
		$session->query("SELECT etcd_lock('$name')") if $where eq 'before';
		my $take = $where eq 'within' ? "PERFORM etcd_lock('$name');" : '';
		my $result;
		without_standby(sub {
			$session->send("DO \$\$ DECLARE i int; BEGIN $take INSERT INTO t VALUES ('$name'); COMMIT; $next; END \$\$");
			wait_for_event($session, 'SyncRep');
			break_lock($name);
			wait_until_lost($name);
			acknowledge();
			$result = $session->result;
		});
		is($result->{sqlstate}, '57014', 'the next statement is cancelled');
		cmp_ok($result->{elapsed}, '<', 45, '... before its end') if defined $result->{elapsed};
		is(committed($here, $name), 1, 'the commit has happened');
		$session->query('SELECT etcd_unlock_all()');
		$session->quit;
	};
}

fault 'synchronous standby missing, the lease ends' => sub {
	new_lease('4s');
	my %session = (map { $_ => extended($here) } qw(cancel terminate prepared));
	foreach my $on_loss (qw(cancel terminate prepared))
	{
		my $session = $session{$on_loss};
		$session->query("BEGIN; INSERT INTO t VALUES ('prepared'); PREPARE TRANSACTION 'p'")
		  if $on_loss eq 'prepared';
		$session->query("SET etcd_lock.on_loss = " . ($on_loss eq 'prepared' ? 'cancel' : $on_loss));
		$session->query("SELECT etcd_lock('/deadline/$on_loss')");
		$session->query("BEGIN; INSERT INTO t VALUES ('deadline $on_loss')") if $on_loss ne 'prepared';
	}
	without_standby(sub {
		foreach my $on_loss (qw(cancel terminate prepared))
		{
			$session{$on_loss}->send($on_loss eq 'prepared' ? "COMMIT PREPARED 'p'" : 'COMMIT');
			wait_for_event($session{$on_loss}, 'SyncRep');
		}
		$etcd->pause;
		wait_until_lost("/deadline/$_") foreach qw(cancel terminate prepared);
		stays_unacknowledged($session{$_}, "deadline, $_") foreach qw(cancel terminate prepared);
		acknowledge();
		foreach my $on_loss (qw(cancel terminate prepared))
		{
			my $result = $session{$on_loss}->result;
			like("@{$result->{tags}}", qr/^COMMIT( PREPARED)?$/, "$on_loss: committed");
			unlike($result->{err}, qr/canceling wait/, "$on_loss: nothing cancelled");
		}
	});
	$etcd->resume;
	like($session{cancel}->try('SELECT 1')->{err}, $late, 'cancel: told at the next statement');
	like($session{prepared}->try('SELECT 1')->{err}, $late, 'COMMIT PREPARED: likewise');
	wait_until('terminate: the session ends', sub { $session{terminate}->try('SELECT 1')->{closed} }, 10);
	$_->quit foreach values %session;
	new_lease('60s');
};

#
# Nothing is thrown past the commit.
#

fault 'a name that the client encoding has not' => sub {
	$control->query("CREATE TABLE names AS SELECT U&'/jobs/\\0416' AS name");
	my $session = session($here, env => { PGCLIENTENCODING => 'LATIN1' });
	my $started = $control->query('SELECT pg_postmaster_start_time()');
	$session->query(
		"BEGIN; SELECT etcd_xact_lock(name) FROM names; INSERT INTO t VALUES ('latin1')");
	my $result;
	my $offset = -s $here->logfile;
	without_standby(sub {
		$session->send('COMMIT');
		wait_for_event($session, 'SyncRep');
		is( $other->query("SELECT etcd_lock_break(name, create_revision << 20) "
				  . "FROM etcd_lock_queue() WHERE granted AND name ~ '^/jobs'"),
			't',
			'the lock is broken');
		wait_until('the loss is known',
			sub { $control->query('SELECT bool_or(lost) FROM etcd_locks') eq 't' });
		acknowledge();
		$result = $session->result;
	});
	is($result->{sqlstate}, '', 'committed');
	unlike(slurp_file($here->logfile, $offset), qr/PANIC/, 'without a PANIC');
	$result = $session->try('SELECT 1');
	is("$result->{out}$result->{sqlstate}", '1', 'and the session goes on');
	like($result->{err}, $late, 'told of the loss, in its own encoding');

	# A refusal, too, keeps its SQLSTATE.
	$session->query("BEGIN; SELECT etcd_xact_lock(name) FROM names; INSERT INTO t VALUES ('latin1, 2')");
	is( $other->query("SELECT etcd_lock_break(name, create_revision << 20) "
			  . "FROM etcd_lock_queue() WHERE granted AND name ~ '^/jobs'"),
		't', 'the lock is broken');
	wait_until('the loss is known',
		sub { $control->query('SELECT bool_or(lost) FROM etcd_locks') eq 't' });
	$result = $session->try('COMMIT');
	is($result->{sqlstate}, 'EL002', 'a commit is refused by its own SQLSTATE');
	like($result->{err}, qr/"\/jobs\/\\xd0\\x96"/, 'and the name is escaped');
	$session->quit;
};

#
# synchronous_release: the lock is free when the client has its answer.
#

sub refused
{
	my ($what, $name) = @_;
	my $refused = 0;
	foreach (1 .. 60)
	{
		my $began = time;
		$what->();
		my $released = time;
		if ($other->query("SELECT etcd_try_lock('$name')") eq 't')
		{
			$other->query("SELECT etcd_unlock('$name')");
		}
		else
		{
			$refused++;
			diag sprintf 'refused: the release took %.3f s, the try %.3f s; in etcd: %s', $released - $began,
			  time - $released, join ' ', $etcd->lock_keys;
		}
	}
	return $refused;
}

fault 'release, by protocol and scope' => sub {
	my $simple = session($here);
	my $session = extended($here);
	$simple->query(<<'SQL');
CREATE PROCEDURE lock_and_commit(name text) LANGUAGE plpgsql AS
$$ BEGIN PERFORM etcd_xact_lock(name); COMMIT; PERFORM 1; END $$
SQL
	is(refused(sub { $simple->query("SELECT etcd_xact_lock('/free')") }, '/free'),
		0, 'simple protocol');
	is(refused(sub { $session->query("SELECT etcd_xact_lock('/free')") }, '/free'),
		0, 'extended protocol');
	is( refused(sub { $simple->query("DO \$\$ BEGIN PERFORM etcd_xact_lock('/free'); COMMIT; END \$\$") },
			'/free'),
		0, 'DO with COMMIT');
	is(refused(sub { $session->query("CALL lock_and_commit('/free')") }, '/free'),
		0, 'a procedure with COMMIT');
	is( refused(
			sub {
				$session->pipeline(
					'BEGIN',
					[ 'open', 'p', "SELECT etcd_xact_lock('/free'), g FROM generate_series(1, 9) g", 1 ],
					'COMMIT')->result;
			},
			'/free'),
		0, 'COMMIT with a portal open');
	is( refused(
			sub {
				$simple->query("BEGIN; DECLARE c CURSOR FOR SELECT etcd_xact_lock('/free'), g "
					  . 'FROM generate_series(1, 9) g; FETCH c; COMMIT');
			},
			'/free'),
		0, 'COMMIT with a cursor open');
	is( refused(
			sub {
				$simple->query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT etcd_xact_lock('/free'), g "
					  . 'FROM generate_series(1, 3) g; COMMIT; CLOSE c');
			},
			'/free'),
		0, 'a cursor WITH HOLD, filled by its COMMIT');
	is( refused(
			sub {
				$session->pipeline("SELECT etcd_xact_lock('/free')", "SELECT etcd_xact_lock('/also')")->result;
			},
			'/free'),
		0, 'a pipeline');
	$_->quit foreach $simple, $session;
};

fault 'a pipeline behind a command that acts before its commit' => sub {
	my $session = extended($here);
	$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/pipeline')");
	foreach my $loses (0, 1)
	{
		my $value = "pipeline $loses";
		$session->pipeline(
			'ALTER DATABASE postgres CONNECTION LIMIT 50',
			"INSERT INTO t SELECT '$value' FROM pg_sleep(3)");
		wait_until('it sleeps',
			sub { $control->query("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") eq '1' });
		if ($loses)
		{
			break_lock('/pipeline');
			wait_until_lost('/pipeline');
		}
		is($session->result->{sqlstate}, $loses ? 'EL002' : '', "$value: its commit");
		is(committed($here, $value), $loses ? 0 : 1, "$value: what is committed");
	}
	$session->quit;
	$control->query('ALTER DATABASE postgres CONNECTION LIMIT -1');
};

fault 'release, when etcd does not respond' => sub {
	my $session = session($here);
	my $portals = extended($here);
	foreach my $way (
		[ 'a cursor open', $session,
			"DECLARE c CURSOR FOR SELECT etcd_xact_lock('/slow'), g FROM generate_series(1, 9) g; FETCH c" ],
		[ 'a plain statement', $session, "SELECT etcd_xact_lock('/slow')" ],
		[ 'the extended protocol', $portals, "SELECT etcd_xact_lock('/slow')" ])
	{
		my ($name, $by, $sql) = @$way;
		$by->query("BEGIN; $sql");
		$etcd->pause;
		my $result = $by->try('COMMIT');
		$etcd->resume;
		is($result->{sqlstate}, '', "$name: committed");
		cmp_ok($result->{elapsed}, '>', 0.9, "$name: COMMIT waits for a second");
		cmp_ok($result->{elapsed}, '<', 5, "$name: and no longer");
		$control->query("SELECT etcd_lock('/slow'); SELECT etcd_unlock('/slow')");
	}
	$_->quit foreach $session, $portals;
};

fault 'release of many' => sub {
	my $session = extended($here);
	my $names = "(SELECT '/many/' || g AS name FROM generate_series(1, 300) g) n";
	foreach my $way (
		[ 'commit', 'etcd_xact_lock', 'COMMIT' ],
		[ 'etcd_unlock_all', 'etcd_lock', 'COMMIT; SELECT etcd_unlock_all()' ])
	{
		my ($name, $lock, $release) = @$way;
		my $refused = 0;
		foreach (1 .. 3)
		{
			$session->query("BEGIN; SELECT sum($lock(name)) > 0 FROM $names");
			$session->query($release);
			$refused += $other->query(
				"SELECT count(*) FROM $names WHERE NOT etcd_try_xact_lock(name)");
		}
		is($refused, 0, "$name: all are free");
	}
	$session->quit;
};

#
# What is written elsewhere.
#

fault 'postgres_fdw' => sub {
	my ($host, $port) = ($there->host, $there->port);
	$control->query(<<"SQL");
CREATE EXTENSION postgres_fdw;
CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw
	OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER there;
CREATE FOREIGN TABLE ft (v text) SERVER there OPTIONS (table_name 't');
CREATE PROCEDURE insert_and_commit(v text) LANGUAGE plpgsql AS
\$\$ BEGIN INSERT INTO ft VALUES (v); COMMIT; END \$\$;
SQL
	foreach my $guard (qw(lease etcd))
	{
		foreach my $way (
			[ 'transaction', 'BEGIN; INSERT INTO ft VALUES (%s)', 'COMMIT', 0 ],
			[ 'autocommit', 'SELECT 1', 'INSERT INTO ft VALUES (%s)', 1 ],
			[ 'copy', 'SELECT 1', 'COPY ft FROM PROGRAM $$echo %s$$', 1 ],
			[ 'function', 'SELECT 1', 'DO $$ BEGIN INSERT INTO ft VALUES (%s); END $$', 1 ],
			[ 'procedure', 'SELECT 1', 'CALL insert_and_commit(%s)', 1 ])
		{
			my ($name, $before, $commit, $late_change) = @$way;
			$name = "fdw $name $guard";
			my $session = session($here);
			$session->query("SET etcd_lock.on_loss = warn; SET etcd_lock.commit_guard = $guard; "
				  . "SELECT etcd_lock('/fdw')");
			s/%s/'$name'/ foreach $before, $commit;
			$session->query($before);
			break_lock('/fdw');
			wait_until_lost('/fdw');
			my $result = $session->try($commit);
			is($result->{sqlstate}, 'EL002', "$name is refused") or diag $result->{err};
			is(committed($there, $name), 0, "$name: nothing is written there");
			$session->try('ROLLBACK');
			$session->query('SELECT etcd_unlock_all()');
			$session->query($before =~ /^BEGIN/ ? "$before; COMMIT" : $commit);
			is(committed($there, $name), 1, "$name: with the lock unlocked it is");
			$session->quit;
		}
	}

	# Reading there is no change.
	my $session = session($here);
	$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/fdw')");
	break_lock('/fdw');
	wait_until_lost('/fdw');
	is($session->try('SELECT count(*) > 0 FROM ft')->{sqlstate}, '', 'reading there is let through');
	is($session->try('EXPLAIN INSERT INTO ft VALUES (1)')->{sqlstate}, '', 'so is EXPLAIN');
	$session->quit;
};

#
# Commands that act before their commit.
#

fault 'commands that act before their commit' => sub {
	my $space = PostgreSQL::Test::Utils::tempdir_short();
	my ($host, $port) = ($there->host, $there->port);
	$control->query('CREATE DATABASE victim');
	$control->query("CREATE TABLESPACE space LOCATION '$space'");
	$there->safe_psql('postgres', 'CREATE PUBLICATION pub FOR TABLE t');
	$control->query("CREATE SUBSCRIPTION sub CONNECTION 'host=$host port=$port dbname=postgres' PUBLICATION pub");
	$control->query('ALTER SUBSCRIPTION sub DISABLE');
	my $slots = sub { $there->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ $$^sub$$') };
	my $files = sub { scalar(my @files = glob $here->data_dir . '/base/*') };

	# The link has failed, and nobody knows whether the lock is held.
	my $session = session($here);
	$session->query("SET etcd_lock.commit_guard = etcd; SET etcd_lock.on_loss = warn; SELECT etcd_lock('/ddl')");
	my $before = $files->();
	$etcd->pause;
	foreach my $command (
		'DROP DATABASE victim',
		'CREATE DATABASE another',
		'ALTER DATABASE victim SET TABLESPACE space',
		'DROP TABLESPACE space',
		'DROP SUBSCRIPTION sub',
		"CREATE SUBSCRIPTION sub2 CONNECTION 'host=$host port=$port dbname=postgres' PUBLICATION pub",
		"ALTER SYSTEM SET work_mem = '5MB'")
	{
		my $result = $session->try($command);
		is($result->{sqlstate}, 'EL002', "$command is refused");
		like($result->{err}, qr/could not be checked/, 'as it is unknown whether the lock is held');
	}
	$etcd->resume;
	is($files->(), $before, 'no files are left over or missing');
	is($here->safe_psql('victim', 'SELECT 1'), 1, 'DROP DATABASE has not happened');
	ok(-e "$space/" . (glob("$space/PG_*") =~ s{.*/}{}r), 'DROP TABLESPACE has not happened');
	is($slots->(), 1, 'nor any to subscriptions');
	unlike(slurp_file($here->data_dir . '/postgresql.auto.conf'), qr/work_mem/, 'nor ALTER SYSTEM');
	$session->query('SELECT etcd_unlock_all()');
	wait_until_locks_work($session);

	# A loss while they run: they are not refused when it is done.
	$session->query("SET etcd_lock.commit_guard = lease; SET etcd_lock.on_loss = cancel; SELECT etcd_lock('/ddl')");
	without_standby(sub {
		$session->send('DROP DATABASE victim');
		wait_for_event($session, 'SyncRep');
		break_lock('/ddl');
		wait_until_lost('/ddl');
		stays_unacknowledged($session, 'DROP DATABASE');
		acknowledge();
		is($session->result->{sqlstate}, '', 'then it is done');
	});
	like($session->try('SELECT 1')->{err}, $late, 'and the session told');
	is($session->try('DROP TABLESPACE space')->{sqlstate}, 'EL001', 'with a lost lock they are refused');
	$session->query('SELECT etcd_unlock_all()');
	$session->query('DROP TABLESPACE space');
	$session->query('DROP SUBSCRIPTION sub');
	is($slots->(), 0, 'without locks, they run');
	$session->quit;
};

fault 'such a command within a transaction' => sub {
	my $session = session($here);
	my $begin = "BEGIN; CREATE SUBSCRIPTION inside CONNECTION 'dbname=postgres' PUBLICATION pub WITH (connect = false)";
	foreach my $on_loss (qw(warn cancel))
	{
		$session->query("SET etcd_lock.on_loss = $on_loss; SELECT etcd_lock('/inside'); $begin; INSERT INTO t VALUES ('inside')");
		break_lock('/inside');
		wait_until_lost('/inside');
		is($session->try('COMMIT')->{sqlstate}, 'EL002', "$on_loss: what comes behind it is guarded");
		$session->query('SELECT etcd_unlock_all()');
	}

	# Nor is the session deaf to a loss until then.
	$session->query("SELECT etcd_lock('/inside'); $begin");
	$session->send('SELECT pg_sleep(60)');
	wait_for_event($session, 'PgSleep');
	break_lock('/inside');
	is($session->result(20)->{sqlstate}, '57014', 'and its statements are cancelled');
	$session->query('ROLLBACK; SELECT etcd_unlock_all()');
	is(committed($here, 'inside'), 0, 'nothing is written');
	$session->quit;
};

#
# Reading with a lost lock.
#

fault 'reading with a lost lock' => sub {
	my $session = session($here);
	$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/reads')");
	break_lock('/reads');
	wait_until_lost('/reads');
	my $err = join '', map { $session->try('SELECT 1')->{err} } 1 .. 5;
	my @warnings = $err =~ /(WARNING: .*)/g;
	is(@warnings, 1, 'one warning for all statements') or diag $err;
	unlike($err, $late, 'and none that says that something was committed');
	$session->quit;
};

#
# commit_guard = etcd
#

fault 'commit_guard = etcd, etcd silent' => sub {
	my $session = session($here);
	$session->query("SET etcd_lock.commit_guard = etcd; SELECT etcd_lock('/five/' || g) FROM generate_series(1, 5) g");
	$session->query("BEGIN; SELECT etcd_xact_lock('/five/x')");
	$etcd->pause;
	my $result = $session->try('COMMIT');
	cmp_ok($result->{elapsed}, '<', $request_timeout + 1, 'a transaction that has read asks nothing');
	is("$result->{sqlstate}$result->{err}", '', 'and commits');
	$result = $session->try('SELECT 1');
	cmp_ok($result->{elapsed}, '<', $request_timeout, 'a statement that reads asks nothing');
	is($result->{err}, '', 'and says nothing of locks that are held');
	$result = $session->try("INSERT INTO t VALUES ('five')");
	is($result->{sqlstate}, 'EL002', 'a change is refused');
	like($result->{err}, qr/could not be checked/, 'as it is unknown whether the lock is held');
	cmp_ok($result->{elapsed}, '<', 4 * $request_timeout, 'after one request_timeout, and not five');
	$etcd->resume;
	wait_until('etcd responds again', sub { $session->try("SELECT etcd_lock_check('/five/1')")->{out} eq 't' });
	$result = $session->try("INSERT INTO t VALUES ('five')");
	is($result->{sqlstate}, '', 'then it commits with the same locks');
	is(committed($here, 'five'), 1, 'once');
	$session->query('SELECT etcd_unlock_all()');
	$session->quit;
};

#
# Unlocking a lost lock does not save what was changed under it.
#

foreach my $way (
	[ 'etcd_unlock', "SELECT etcd_unlock('%s')" ],
	[ 'etcd_unlock_all', 'SELECT etcd_unlock_all()' ],
	[ 'etcd_advisory.pg_advisory_unlock_all', 'SELECT etcd_advisory.pg_advisory_unlock_all()' ],
	[ 'pg_advisory_unlock_all', 'SELECT pg_advisory_unlock_all()' ],
	[ 'in a subtransaction', "SAVEPOINT s; SELECT etcd_unlock('%s'); ROLLBACK TO s" ],
	[ 'in a function', "DO \$\$ BEGIN PERFORM etcd_unlock('%s'); EXCEPTION WHEN others THEN END \$\$" ],
	[ 'and locked again', "SELECT etcd_unlock('%s'); SELECT etcd_lock('%s')" ],
	[ 'a transaction lock on top', "SELECT etcd_unlock('%s')", 'etcd_xact_lock' ])
{
	my ($name, $unlock, $too) = @$way;
	fault "lost, unlocked by $name" => sub {
		my $key = '/unlocked';
		my $session = session($here);
		$unlock =~ s/%s/$key/g;
		$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('$key')");
		$session->query("BEGIN; INSERT INTO t VALUES ('$name')");
		$session->query("SELECT $too('$key')") if $too;
		break_lock($key);
		wait_until_lost($key);
		my $result = $session->try($unlock);
		like($result->{err}, qr/WARNING:  EL001/, 'a warning') unless $name =~ /^pg_/;
		is($session->try('COMMIT')->{sqlstate}, 'EL002', 'not committed');
		is(committed($here, $name), 0, 'nothing is written');
		$session->query('SELECT etcd_unlock_all()');
		$session->query("INSERT INTO t VALUES ('$name')");
		is(committed($here, $name), 1, 'the next transaction is free of it');
		$session->quit;
	};
}

fault 'lost, unlocked, then changed' => sub {
	my $session = session($here);
	$session->query("SET etcd_lock.on_loss = warn; SELECT etcd_lock('/then')");
	break_lock('/then');
	wait_until_lost('/then');
	$session->query("BEGIN; SELECT etcd_unlock('/then'); INSERT INTO t VALUES ('then')");
	is($session->try('COMMIT')->{sqlstate}, '', 'what is changed behind the unlock is committed');
	$session->query("SELECT etcd_lock('/then'); BEGIN; INSERT INTO t VALUES ('then')");
	$session->query("SELECT etcd_unlock('/then')");
	is($session->try('COMMIT')->{sqlstate}, '', 'so is what was changed under a lock that was held');
	$session->quit;
};

#
# Exits.
#

fault 'temporary tables of a session that ends' => sub {
	my $temporary = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relname = 'temporary'";
	foreach my $on_loss (qw(warn cancel terminate))
	{
		my $session = session($here);
		$session->query("SET etcd_lock.on_loss = $on_loss; CREATE TEMPORARY TABLE temporary (i int); "
			  . "INSERT INTO temporary VALUES (1); SELECT etcd_lock('/exit')");
		is($control->query($temporary), 1, "$on_loss: there is one");
		my $pid = $session->pid;
		break_lock('/exit');
		wait_until_lost('/exit') if $on_loss ne 'terminate';
		$session->quit;
		wait_until('the session has ended',
			sub { $control->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") eq '0' });
		is($control->query($temporary), 0, "$on_loss: none is left");
	}
};

is_left_clean($etcd, $here, $there);
$_->quit foreach $control, $other;
finish($etcd, $here, $there);
