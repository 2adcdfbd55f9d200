# Everything that can end a wait, whether the lock is held on the same server or on
# another one; nothing is left behind.

use strict;
use warnings;

use EtcdLockTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, 'here', 'there');

my $control = session($here);
my %holder = (
	'the same server' => session($here),
	'another server' => session($there));

# What ends a wait.  prepare: sent before the wait; wait: the statement that
# waits; act: what another session does meanwhile; after: the seconds from the
# wait's begin (or from act) to its end; ends: SQLSTATE or output.
my @ends = (
	{
		name => 'lock_timeout',
		prepare => "SET lock_timeout = '300 ms'",
		after => 0.3,
		ends => '55P03'
	},
	{
		name => 'statement_timeout',
		prepare => "SET statement_timeout = '300 ms'",
		after => 0.3,
		ends => '57014'
	},
	{
		name => 'wait argument',
		wait => "SELECT etcd_try_lock('/wait', interval '1 s')",
		after => 1,
		ends => 'f'
	},
	{
		name => 'wait argument of a procedure',
		wait => "CALL etcd_lock_wait('/wait', interval '300 ms')",
		after => 0.3,
		ends => '55P03'
	},
	{
		name => 'lock_timeout, procedure',
		prepare => "SET lock_timeout = '300 ms'",
		wait => "CALL etcd_lock_wait('/wait')",
		after => 0.3,
		ends => '55P03'
	},
	{
		name => 'pg_cancel_backend',
		act => 'pg_cancel_backend',
		ends => '57014'
	},
	{
		name => 'pg_cancel_backend, shared',
		wait => "SELECT etcd_lock_shared('/wait')",
		act => 'pg_cancel_backend',
		ends => '57014'
	},
	{
		name => 'pg_cancel_backend, transaction lock',
		wait => "SELECT etcd_xact_lock('/wait')",
		act => 'pg_cancel_backend',
		ends => '57014'
	},
	{
		name => 'pg_cancel_backend, procedure',
		wait => "CALL etcd_lock_wait('/wait')",
		act => 'pg_cancel_backend',
		ends => '57014'
	},
	{
		name => 'pg_terminate_backend',
		act => 'pg_terminate_backend',
		ends => '57P01'
	});

# Nothing is left of a wait: no lock of PostgreSQL, no row in the view, and in
# etcd nothing but the holder's key.
sub waiter_is_gone
{
	my ($pid, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( $control->query(
			"SELECT (SELECT count(*) FROM pg_locks
			          WHERE pid = $pid AND locktype = 'advisory'),
			        (SELECT count(*) FROM etcd_locks WHERE pid = $pid)"),
		'0|0',
		"$name: no trace of the waiter on its server");
	ok( eval {
			wait_until('one key', sub { $etcd->keys('/wait/') == 1 }, 30);
		},
		"$name: only the holder's key is in etcd")
	  or diag(join "\n", $etcd->keys('/wait/'));
	return;
}

foreach my $where (sort keys %holder)
{
	my $holder = $holder{$where};
	$holder->query("SELECT etcd_lock('/wait')");

	foreach my $end (@ends)
	{
		my $name = "held on $where, $end->{name}";
		my $waiter = session($here);

		$waiter->query($end->{prepare}) if $end->{prepare};
		my $begin = time;
		$waiter->send($end->{wait} // "SELECT etcd_lock('/wait')");
		if ($end->{act})
		{
			wait_until_waiting($waiter);
			$begin = time;
			$control->query("SELECT $end->{act}(" . $waiter->pid . ')');
		}
		my $result = $waiter->result;
		my $late = time - $begin - ($end->{after} // 0);

		is($result->{sqlstate} || $result->{out}, $end->{ends},
			"$name: ends the wait")
		  or diag($result->{err});
		cmp_ok($late, '>=', 0, "$name: not before its time") if $end->{after};
		cmp_ok($late, '<', 2.5, "$name: before the queue is read again");
		waiter_is_gone($waiter->pid, $name);
		if (!$result->{closed})
		{
			is( $waiter->query(
					"RESET ALL; SELECT etcd_try_lock('/free'); SELECT etcd_unlock('/free')"
				),
				"t\nt",
				"$name: the session goes on");
		}
		$waiter->quit;
	}

	$holder->query("SELECT etcd_unlock('/wait')");
	is_left_clean($etcd, $here, $there);
}

# A client that goes away while it waits: the backend notices it here.
{
	my $holder = $holder{'another server'};
	$holder->query("SELECT etcd_lock('/wait')");
	my $waiter = session($here);
	$waiter->query("SET client_connection_check_interval = '100 ms'");
	$waiter->send("SELECT etcd_lock('/wait')");
	wait_until_waiting($waiter);
	my $pid = $waiter->pid;
	$waiter->kill;
	wait_until(
		'the backend of a client that went away ends',
		sub {
			!$control->query("SELECT pid FROM pg_stat_activity WHERE pid = $pid");
		});
	waiter_is_gone($pid, 'client went away');
	$holder->query("SELECT etcd_unlock('/wait')");
}

# lock_timeout is for both parts of a wait together: first for a session of the
# same server, which itself waits for another server, then for that server.
{
	my $holder = $holder{'another server'};
	$holder->query("SELECT etcd_lock('/wait')");
	my ($first, $second) = (session($here), session($here));
	$first->send("SELECT etcd_lock('/wait')");
	wait_until_waiting($first);

	my $timeout = 6;
	$second->query("SET lock_timeout = '$timeout s'");
	my $begin = time;
	$second->send("SELECT etcd_lock('/wait')");
	wait_until_waiting($second);
	sleep 0.01 while time - $begin < $timeout / 2;
	my $first_part = time - $begin;
	$control->query('SELECT pg_cancel_backend(' . $first->pid . ')');
	is($first->result->{sqlstate}, '57014', 'the first waiter is canceled');
	ok(!$second->done, 'the second one continues to wait');

	my $result = $second->result;
	is($result->{sqlstate}, '55P03', 'lock_timeout ends a wait in two parts');
	cmp_ok($result->{elapsed}, '>=', $timeout - 0.05, 'not before its time');
	cmp_ok($result->{elapsed}, '<', $timeout + 0.9 * $first_part,
		'and both parts together are as long as it says');
	waiter_is_gone($second->pid, 'wait in two parts');
	$_->quit foreach $first, $second;
	$holder->query("SELECT etcd_unlock('/wait')");
}

# Those behind a waiter that gives up are served.
{
	my $holder = $holder{'another server'};
	$holder->query("SELECT etcd_lock_shared('/wait')");
	my ($writer, $reader) = (session($here), session($here));
	$writer->send("SELECT etcd_lock('/wait')");
	wait_until_waiting($writer);
	$reader->send("SELECT etcd_lock_shared('/wait') > 0");
	wait_until_waiting($reader);
	$control->query('SELECT pg_cancel_backend(' . $writer->pid . ')');
	is($writer->result->{sqlstate}, '57014', 'an exclusive waiter gives up');
	is($reader->result->{out}, 't', 'a shared one behind it is served');
	$_->quit foreach $writer, $reader;
	$holder->query("SELECT etcd_unlock_shared('/wait')");
}

is_left_clean($etcd, $here, $there);
$_->quit foreach $control, values %holder;
finish($etcd, $here, $there);
