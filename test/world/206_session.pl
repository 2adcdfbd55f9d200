# A session that continues with a lost lock, or with one whose state is unknown: what it
# may do, what it is told, how long that takes, and what is left when it ends.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Loss;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $request_timeout = 2;
my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = map {
	start_server(
		$_,
		endpoints => $etcd->endpoint,
		conf => <<"END")
etcd_lock.lease_ttl = '60s'
etcd_lock.request_timeout = '${request_timeout}s'
autovacuum = off
END
} qw(here there);
$here->safe_psql('postgres', 'CREATE TABLE t (v text)');
my ($control, $remote) = map { session($_) } @nodes;
my $n = 0;

# A session of the first server with this lock, that it then loses.
sub loser
{
	my ($settings, @names) = @_;
	my $session = session($here);
	$session->query(join ';', $settings, map { "SELECT etcd_lock('$_')" } @names);
	break_lock($remote, $etcd, $_) foreach @names;
	wait_until_lost($control, @names);
	return $session;
}

#
# Lost, unlocked, committed
#
foreach my $case (
	[ 'etcd_unlock', "SELECT etcd_unlock('/u')" ],
	[ 'etcd_unlock_all', 'SELECT etcd_unlock_all()' ],
	[ 'pg_advisory_unlock_all', 'SELECT pg_advisory_unlock_all()' ],
	[ 'the drop-in\'s pg_advisory_unlock_all', 'SELECT etcd_advisory.pg_advisory_unlock_all()' ],
	[ 'a subtransaction', "SAVEPOINT s; SELECT etcd_unlock('/u'); RELEASE s" ],
	[ 'an exception block', "DO \$\$ BEGIN PERFORM etcd_unlock('/u'); EXCEPTION WHEN division_by_zero THEN END \$\$" ],
	[ 'a lock anew', "SELECT etcd_unlock('/u'); SELECT etcd_lock('/u')" ])
{
	my ($way, $unlock) = @$case;
	foreach my $settings ("SET etcd_lock.on_loss = 'cancel'", "SET etcd_lock.commit_guard = 'etcd'")
	{
		my $value = 'unlocked ' . ++$n;
		my $session = session($here);
		$session->query("$settings; SELECT etcd_lock('/u'); BEGIN; INSERT INTO t VALUES ('$value')");
		break_lock($remote, $etcd, '/u');
		wait_until_lost($control, '/u');
		$session->query($unlock);
		my $result = $session->try('COMMIT');

		is($result->{sqlstate}, 'EL002', "lost, unlocked by $way, $settings: refused");
		is(is_committed($control, $value), 0, "by $way: nothing is committed");

		# The next transaction is another one.
		$session->query('SELECT etcd_unlock_all()');
		is($session->try("BEGIN; INSERT INTO t VALUES ('$value, next'); COMMIT")->{sqlstate},
			'', "by $way: the next transaction commits");
		$session->quit;
	}
}

# What was acknowledged before anything changed hinders nobody.
{
	my $session = loser("SET etcd_lock.on_loss = 'warn'", '/u');
	$session->query("BEGIN; SELECT 1; SELECT etcd_unlock('/u'); INSERT INTO t VALUES ('acknowledged'); COMMIT");
	is(is_committed($control, 'acknowledged'), 1, 'unlocked before the first change: committed');
	$session->quit;
}

# All in one message of the simple protocol, and in one call.
{
	my $session = session($here);
	my $lost = $n;
	$control->query('SELECT pg_advisory_lock(1)');
	$session->query("SET etcd_lock.on_loss = 'warn'; SELECT etcd_lock('/u')");
	$session->send("INSERT INTO t VALUES ('one message') \\; SELECT pg_advisory_lock(1) \\; SELECT etcd_unlock_all()");
	wait_until_waits_for($control, $session->pid, 'advisory');
	break_lock($remote, $etcd, '/u');
	wait_until_lost($control, '/u');
	$control->query('SELECT pg_advisory_unlock(1)');
	my $result = $session->result;
	is($result->{sqlstate}, 'EL002', 'lost and unlocked in one message: refused');
	is(is_committed($control, 'one message'), 0, 'nothing is committed');
	$session->quit;
}
is_left_clean($etcd, @nodes);

#
# What a session is told
#
foreach my $on_loss (qw(cancel warn))
{
	my $session = loser("SET etcd_lock.on_loss = '$on_loss'", '/w');
	my $first = $session->try("SELECT 'read'");
	is($first->{out}, 'read', "$on_loss: a lost lock lets it read");
	like($first->{err}, qr/etcd lock "\/w".* was lost/, "$on_loss: and it is told");
	my @later = map { $session->try($_)->{err} } 'SELECT 1', 'SELECT 2', 'BEGIN; SELECT 3; COMMIT';
	unlike("$first->{err}@later", qr/while the transaction committed/,
		"$on_loss: nothing was committed, and nobody says so");
	is("@later" =~ s/\s//gr, '', "$on_loss: it is told once");
	$session->try('NOTIFY x');
	unlike($session->try('SELECT 4')->{err}, qr/while the transaction committed/,
		"$on_loss: neither after a NOTIFY");
	$session->quit;
}
is_left_clean($etcd, @nodes);

#
# commit_guard = etcd, and etcd is silent: who only reads asks nobody.
#
{
	my %TRANSACTIONS = (
		'SELECT 1' => 'session locks',
		'BEGIN; SELECT count(*) FROM t; COMMIT' => 'session locks, in a transaction',
		"BEGIN READ ONLY; SELECT count(*) FROM t; COMMIT" => 'session locks, read only',
		'SHOW work_mem' => 'session locks, a utility command');
	my %reader = map { $_ => session($here) } keys %TRANSACTIONS;
	my $xact = session($here);
	my $writer = session($here);
	$_->query("SET etcd_lock.commit_guard = 'etcd'") foreach values %reader, $xact, $writer;
	my $lock_group = 0;
	foreach my $session (values %reader, $writer)
	{
		$lock_group++;
		$session->query('SELECT ' . join ', ', map { "etcd_lock('/r/$lock_group/$_')" } 1 .. 5);
	}
	$writer->query("BEGIN; INSERT INTO t VALUES ('silent')");
	$xact->query('BEGIN; SELECT count(*) FROM t; SELECT ' . join ', ', map { "etcd_xact_lock('/x/$_')" } 1 .. 5);

	$etcd->pause;
	$reader{$_}->send($_) foreach keys %TRANSACTIONS;
	$xact->send('COMMIT');
	my %result;
	wait_until(
		'the readers have ended',
		sub {
			foreach my $sql (keys %TRANSACTIONS)
			{
				$result{$sql} //= $reader{$sql}->result if !$result{$sql} && $reader{$sql}->done;
			}
			return keys %result == keys %TRANSACTIONS;
		});
	my $xact_result = $xact->result;
	my $writer_result = $writer->try('COMMIT');
	$etcd->resume;

	foreach my $sql (sort keys %TRANSACTIONS)
	{
		my $result = $result{$sql};
		my $case = $TRANSACTIONS{$sql};
		is($result->{sqlstate}, '', "etcd is silent, $case: reading works");
		cmp_ok($result->{elapsed}, '<', $request_timeout, "$case: at once");
		unlike($result->{err}, qr/lost/, "$case: nothing was lost, and nobody says so");
	}
	{
		# The locks of the transaction end with it, but it has changed nothing.
		is($xact_result->{sqlstate}, '', 'transaction locks: reading works');
		cmp_ok($xact_result->{elapsed}, '<', $request_timeout + 1, 'transaction locks: at once, but for the release');
	}
	is($writer_result->{sqlstate}, 'EL002', 'etcd is silent: a change is refused');
	like($writer_result->{err}, qr/could not be checked/, 'as nobody knows');
	unlike($writer_result->{err}, qr/was lost/, 'which is not a loss');
	cmp_ok($writer_result->{elapsed}, '<', 4 * $request_timeout, 'after one time-out, not one for each lock');
	is(is_committed($control, 'silent'), 0, 'nothing is committed');
	$_->quit foreach values %reader, $xact, $writer;
	wait_until_well($control);
}
is_left_clean($etcd, @nodes);

#
# Its end: temporary tables go with it.
#
foreach my $end (
	[ 'exit', '', sub { $_[0]->quit } ],
	[ 'a client that dies', '', sub { $_[0]->kill } ],
	[ 'exit with on_loss = warn', "SET etcd_lock.on_loss = 'warn'", sub { $_[0]->quit } ],
	[ 'pg_terminate_backend', '', sub { $control->query('SELECT pg_terminate_backend(' . $_[0]->pid . ')') } ],
	[ 'exit inside a transaction', '', sub { $_[0]->query('BEGIN; SELECT 1'); $_[0]->quit } ],
	[ 'exit with commit_guard = etcd', "SET etcd_lock.commit_guard = 'etcd'", sub { $_[0]->quit } ],
	[ 'exit while etcd is silent', "SET etcd_lock.commit_guard = 'etcd'",
		sub { $etcd->pause; $_[0]->quit }, sub { $etcd->resume } ])
{
	my ($case, $settings, $end, $heal) = @$end;
	my $session = session($here);
	$session->query("$settings; CREATE TEMP TABLE x (i int); SELECT etcd_lock('/temp')");
	my $pid = $session->pid;
	unless ($heal)
	{
		break_lock($remote, $etcd, '/temp');
		wait_until_lost($control, '/temp');
	}
	my $began = time;
	$end->($session);
	wait_until("$case: it ends",
		sub { $control->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") eq '0' });
	my $took = time - $began;
	$heal->() if $heal;
	is($control->query(q(SELECT count(*) FROM pg_class WHERE relpersistence = 't')),
		0, "$case: no temporary table is left");
	cmp_ok($took, '<', $request_timeout, "$case: at once");
	$session->kill;
}
is_left_clean($etcd, @nodes);

#
# log_lock_waits: each wait is logged once, as PostgreSQL does.
#
{
	my @waits = (
		[ 'pg_advisory_lock', "SELECT pg_advisory_lock(1)", $here ],
		[ 'etcd_lock', "SELECT etcd_lock('/l')", $here ],
		[ 'etcd_lock_shared', "SELECT etcd_lock_shared('/s')", $here ],
		[ 'etcd_xact_lock', "SELECT etcd_xact_lock('/x')", $here ],
		[ 'an integer key', "SELECT etcd_lock(7)", $here ],
		[ 'CALL etcd_lock_wait()', "CALL etcd_lock_wait('/c')", $here ],
		[ 'etcd_try_lock() with wait', "SELECT etcd_try_lock('/t', interval '1 min')", $here ]);
	my $holder = session($here);
	my $offset = -s $here->logfile;
	$holder->query("SELECT pg_advisory_lock(1), etcd_lock(7), "
		  . join ', ', map { "etcd_lock('/$_')" } qw(l s x c t));
	foreach my $wait (@waits)
	{
		push @$wait, session($here);
		$wait->[3]->query('SET log_lock_waits = on');
		$wait->[3]->send($wait->[1]);
	}
	wait_until_waits_for($control, $waits[0][3]->pid, 'advisory');
	wait_until_waiting(map { $_->[3] } @waits[ 1 .. $#waits ]);
	my $lines_of = sub {
		my $pid = $_[0][3]->pid;
		return slurp_file($here->logfile, $offset) =~
		  /^.*\[$pid\].*LOG:  (?:\w+: )?(?:process $pid still waiting|.*waits? for).*$/mg;
	};
	foreach my $wait (@waits)
	{
		wait_until("log_lock_waits, $wait->[0]: logged", sub { $lines_of->($wait) });
	}
	sleep 3;	# as long as a flood takes
	foreach my $wait (@waits)
	{
		my @lines = $lines_of->($wait);
		# PostgreSQL itself says it again whenever anything else wakes the session.
		next if $wait->[0] eq 'pg_advisory_lock';
		is(scalar @lines, 1, "log_lock_waits, $wait->[0]: logged once") or diag(@lines);
	}
	$holder->quit;
	$_->[3]->result foreach @waits;
	$_->[3]->quit foreach @waits;
}

is_left_clean($etcd, @nodes);
$_->quit foreach $control, $remote;
finish($etcd, @nodes);
