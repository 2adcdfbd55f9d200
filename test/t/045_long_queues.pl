# Names below names: reading the queue of a name reads the keys of all names below it.
# A tenant that holds many of them, and keeps trying to lock one, does not slow down
# others.

use strict;
use warnings;

use EtcdLockTest;
use Test::More;
use Time::HiRes qw(time);

my ($least_rounds, $most_rounds) = (3, 11);
my $etcd = EtcdLockTest::Etcd->new;
my $here = start_server('here', endpoints => $etcd->endpoint, conf => 'etcd_lock.keep_window = 0');
$here->safe_psql('postgres', <<'SQL');
CREATE ROLE locker;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO locker;
CREATE ROLE greedy LOGIN IN ROLE locker;
CREATE ROLE neighbour LOGIN IN ROLE locker;
ALTER ROLE greedy SET etcd_lock.namespace = 'greedy/';
ALTER ROLE neighbour SET etcd_lock.namespace = 'neighbour/';
ALTER ROLE greedy SET etcd_lock.max_names_per_session = 100;
SQL

my $neighbour = session($here, user => 'neighbour');
my @idle = map { session($here, user => 'greedy') } 1 .. 10;
my @busy = map { session($here, user => 'greedy') } 1 .. 10;

# One lock and unlock of the neighbour's, in milliseconds.
sub latency
{
	my $loop = 'DO $$ BEGIN FOR i IN 1 .. 100 LOOP PERFORM etcd_lock(\'own\'); PERFORM etcd_unlock(\'own\'); END LOOP; END $$';
	$neighbour->query($loop =~ s/100/10/r);
	return $neighbour->try($loop)->{elapsed} * 10;
}

foreach my $i (0 .. $#idle)
{
	$idle[$i]->query("SELECT count(etcd_lock(repeat('x/', 11) || '$i/' || n)) FROM generate_series(0, 99) n");
}
is(scalar($etcd->keys('greedy/x/')), 1000, 'names below a name');

# Each locks a name of its own, below which all of these are.
sub ancestor { my ($i) = @_; return "repeat('x/', $i) || 'x'" }

# Alone and beside, by turns.
my @ratios;
my $kept;
while (!$kept && @ratios < $most_rounds)
{
	my $alone = latency();
	foreach my $i (0 .. $#busy)
	{
		my $name = ancestor($i);
		$busy[$i]->send("DO \$\$ BEGIN LOOP PERFORM etcd_try_lock($name); PERFORM etcd_unlock($name); END LOOP; END \$\$");
	}
	my $beside = latency();
	$here->safe_psql('postgres', 'SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = \'greedy\' AND state = \'active\'');
	$_->result foreach @busy;
	$_->query('SELECT etcd_unlock_all()') foreach @busy;
	push @ratios, $beside / $alone;
	diag sprintf 'alone %.2f ms, beside %.2f ms', $alone, $beside;
	$kept = @ratios >= $least_rounds && median(@ratios) <= 2;
}
ok($kept, "a neighbour's locks take twice the time at most") or diag("@ratios");

# Nor is the one who does that shut out.
$busy[0]->query("SELECT etcd_lock('x')");
is($busy[1]->query("SELECT etcd_try_lock('x')"), 'f', 'a try gets its result');
$busy[1]->send("SELECT etcd_lock('x')");
wait_until_waiting($busy[1]);
$busy[0]->query("SELECT etcd_unlock('x')");
like($busy[1]->result->{out}, qr/^\d+$/, 'a waiter gets the lock');

$_->quit foreach $neighbour, @idle, @busy;
is_left_clean($etcd, $here);
finish($etcd, $here);
