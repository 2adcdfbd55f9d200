# One script of scopes, losses and releases for all drivers, on two servers: what comes
# back must be the same, whatever protocol a driver speaks.
#
# All drivers take each step at the same time, each with names of its own (%n, and
# the integer %k).  A line is a command for the drivers (test/world/drivers/README.md)
# and its answer; values are behind "::".  "until" repeats it, "&" does not wait for the
# answer, which is "wait"'s then; "or" is between answers that are as good.  A line with "!" is for the test itself.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Driver;
use EtcdLockTest::Loss;
use Test::More;
use Time::HiRes qw(sleep time);

my @names = grep { EtcdLockTest::Driver::available($_) } EtcdLockTest::Driver::names();
my %missing = map { $_ => 1 } EtcdLockTest::Driver::names();
delete @missing{@names};
plan skip_all => 'no driver is installed' unless @names;

my $SCRIPT = <<'END';
== a session lock
q a SELECT etcd_lock('%n') > 0 => t
q b SELECT etcd_try_lock('%n') => f
q a2 SELECT etcd_try_lock('%n') => f
q a SELECT etcd_lock('%n') > 0 => t
q a SELECT etcd_unlock('%n') => t
q b SELECT etcd_try_lock('%n') => f
q a SELECT etcd_unlock('%n') => t
q b SELECT etcd_try_lock('%n') => t
q a SELECT etcd_try_lock('%n') => f
q b SELECT etcd_unlock('%n') => t
q b SELECT etcd_unlock('%n') => f

== by a parameter
p a SELECT etcd_lock($1) > 0 :: s:%n/Ж => t
p b SELECT etcd_try_lock($1) :: s:%n/Ж => f
p a SELECT etcd_lock_token($1) > 0, etcd_lock_check($2) :: s:%n/Ж :: s:%n/Ж => t|t
p b SELECT etcd_unlock($1) :: s:%n/Ж => f
p a SELECT etcd_unlock($1) :: s:%n/Ж => t
p b SELECT etcd_try_lock($1) :: s:%n/Ж => t
p b SELECT etcd_unlock($1) :: s:%n/Ж => t

== a transaction lock
begin a
q a SELECT etcd_xact_lock('%n') > 0 => t
q a INSERT INTO t VALUES ('%n committed')
q b SELECT etcd_try_xact_lock('%n') => f
commit a
q b SELECT etcd_try_xact_lock('%n') => t
q a SELECT count(*) FROM t WHERE v = '%n committed' => 1
begin a
q a SELECT etcd_xact_lock('%n') > 0 => t
q a INSERT INTO t VALUES ('%n rolled back')
rollback a
until q b SELECT etcd_try_xact_lock('%n') => t
q a SELECT count(*) FROM t WHERE v = '%n rolled back' => 0

== errors and savepoints
begin a
q a SELECT etcd_xact_lock('%n/outer') > 0 => t
q a SAVEPOINT s
q a SELECT etcd_xact_lock('%n/inner') > 0 => t
q a SELECT 1/0 => error 22012
q b SELECT etcd_try_xact_lock('%n/outer') => f
q a ROLLBACK TO s
until q b SELECT etcd_try_xact_lock('%n/inner') => t
q b SELECT etcd_try_xact_lock('%n/outer') => f
q a RELEASE s
q a SELECT 1/0 => error 22012
until q b SELECT etcd_try_xact_lock('%n/outer') => t
rollback a

== without a transaction, a transaction lock ends with its statement
q a SELECT etcd_xact_lock('%n') > 0 => t
q b SELECT etcd_try_xact_lock('%n') => t
p a SELECT etcd_xact_lock($1) > 0 :: s:%n => t
p b SELECT etcd_try_xact_lock($1) :: s:%n => t

== shared
q a SELECT etcd_lock_shared('%n') > 0 => t
q b SELECT etcd_lock_shared('%n') > 0 => t
q a2 SELECT etcd_try_lock_shared('%n') => t
q a SELECT etcd_try_lock('%n') => f
q a SELECT etcd_unlock_shared('%n') => t
q a2 SELECT etcd_unlock_shared('%n') => t
q b SELECT etcd_try_lock('%n') => t
q b SELECT etcd_unlock('%n') AND etcd_unlock_shared('%n') => t
begin a
q a SELECT etcd_xact_lock_shared('%n') > 0 => t
q b SELECT etcd_try_xact_lock_shared('%n') => t
q b SELECT etcd_try_xact_lock('%n') => f
commit a
q b SELECT etcd_try_xact_lock('%n') => t

== integer keys
q a SELECT etcd_lock(%k) > 0 => t
p b SELECT etcd_try_lock($1::bigint) :: i:%k => f
p a2 SELECT etcd_try_lock($1::bigint) :: i:%k => f
p a SELECT etcd_unlock($1::bigint) :: i:%k => t
p b SELECT etcd_try_lock($1::bigint) :: i:%k => t
p b SELECT etcd_unlock($1::bigint) :: i:%k => t
p a SELECT etcd_lock($1::int, $2::int) > 0 :: i:%k :: i:7 => t
q b SELECT etcd_try_lock(%k, 7) => f
q b SELECT etcd_try_lock(%k) => t
q b SELECT etcd_unlock(%k) => t
p a SELECT etcd_unlock($1::int, $2::int) :: i:%k :: i:7 => t

== an integer without a type is a lock by the integer, or an error, never another lock
p a SELECT etcd_try_lock($1) :: i:%k => t or error 42602 or error closed
!integers
p a SELECT etcd_try_lock($1) :: s:%k => error 42602
!integers
q a SELECT 1 FROM etcd_unlock_all() => 1

== a text without a type is a name, or how long to wait
p a SELECT etcd_try_lock($1, $2) :: s:%n :: s:5 s => t
p b SELECT etcd_try_lock($1, $2) :: s:%n :: s:1 s => f
p b SELECT etcd_try_lock($1, $2) :: s:%n :: s:soon => error 22007
q a SELECT etcd_unlock('%n') => t

== waiting
q a SELECT etcd_lock('%n') > 0 => t
q b SELECT etcd_try_lock('%n', interval '1 s') => f
q b SET lock_timeout = '200ms'
q b SELECT etcd_lock('%n') => error 55P03
q b RESET lock_timeout
q a SELECT etcd_unlock('%n') => t
!hold
& q b SELECT etcd_lock('%n') > 0
!waiting
!release
wait => t
q b SELECT etcd_unlock('%n') => t
q b CALL etcd_lock_wait('%n')
q a SELECT etcd_try_lock('%n') => f
q b SELECT etcd_unlock('%n') => t

== the end of a connection
open c A
q c SELECT etcd_lock('%n') > 0 => t
q b SELECT etcd_try_lock('%n') => f
close c
until q b SELECT etcd_try_xact_lock('%n') => t

== released at once: a transaction lock in autocommit
release 200 a b :: SELECT etcd_xact_lock('%n') :: SELECT etcd_try_xact_lock('%n') => 0

== released at once: several locks, and shared ones
release 30 a b :: SELECT etcd_xact_lock('%n/1'), etcd_xact_lock('%n/2'), etcd_xact_lock_shared('%n/3') :: SELECT etcd_try_xact_lock('%n/1') AND etcd_try_xact_lock('%n/2') AND etcd_try_xact_lock('%n/3') => 0

== released at once: a session lock
release 30 a b :: SELECT etcd_lock('%n') > 0 AND etcd_unlock('%n') :: SELECT etcd_try_xact_lock('%n') => 0

== released at once: COMMIT in DO
release 60 a b :: DO $$ BEGIN PERFORM etcd_xact_lock('%n'); COMMIT; END $$ :: SELECT etcd_try_xact_lock('%n') => 0

== released at once: the end of DO
release 30 a b :: DO $$ BEGIN PERFORM etcd_xact_lock('%n'); END $$ :: SELECT etcd_try_xact_lock('%n') => 0

== released at once: a function that writes
release 30 a b :: INSERT INTO t SELECT etcd_xact_lock('%n')::text :: SELECT etcd_try_xact_lock('%n') => 0

== lost before COMMIT, by another server's administrator
begin a
q a SELECT etcd_xact_lock('%n') > 0 => t
q a INSERT INTO t VALUES ('%n broken')
!lose broken
!lost
commit a => error EL002
q a SELECT count(*) FROM t WHERE v = '%n broken' => 0
q b SELECT etcd_try_xact_lock('%n') => t

== lost before COMMIT, by a key that is deleted
begin a
q a SELECT etcd_xact_lock('%n') > 0 => t
q a INSERT INTO t VALUES ('%n deleted')
!lose deleted
!lost
commit a => error EL002
q a SELECT count(*) FROM t WHERE v = '%n deleted' => 0

== lost before COMMIT, by a lease that is revoked
begin a
q a SELECT etcd_xact_lock('%n') > 0 => t
q a INSERT INTO t VALUES ('%n revoked')
!lose revoked
!lost
commit a => error EL002
q a SELECT count(*) FROM t WHERE v = '%n revoked' => 0
!well

== a session lock that is lost
q a SELECT etcd_lock('%n') > 0 => t
!lose broken
!lost
q a SELECT 42 => 42
q a SELECT etcd_lock_check('%n') => f
q a INSERT INTO t VALUES ('%n lost') => error EL001
p a INSERT INTO t VALUES ($1) :: s:%n lost => error EL001
q a SELECT etcd_lock('%n') => error EL001
q a SELECT etcd_unlock('%n') => t
q a INSERT INTO t VALUES ('%n unlocked')
q a SELECT v FROM t WHERE v IN ('%n lost', '%n unlocked') => %n unlocked

== a session lock that is lost, with on_loss = warn
q a SET etcd_lock.on_loss = 'warn'
q a SELECT etcd_lock('%n') > 0 => t
begin a
q a INSERT INTO t VALUES ('%n warned')
!lose broken
!lost
q a SELECT 1 => 1
commit a => error EL002
q a SELECT count(*) FROM t WHERE v = '%n warned' => 0
q a INSERT INTO t VALUES ('%n warned') => error EL002
q a SELECT etcd_unlock('%n') => t
q a RESET etcd_lock.on_loss

== lost while a statement runs
q a SELECT etcd_lock('%n') > 0 => t
& q a SELECT pg_sleep(60)
!sleeping
!lose broken
wait => error 57014
q a SELECT etcd_unlock('%n') => t

== lost while a statement runs, with on_loss = terminate
open c A
q c SET etcd_lock.on_loss = 'terminate'
q c SELECT etcd_lock('%n') > 0 => t
& q c SELECT pg_sleep(60)
!sleeping
!lose broken
wait => error 57P01 or error closed
until q b SELECT etcd_try_xact_lock('%n') => t

== COMMIT with the guard that asks etcd
q a SET etcd_lock.commit_guard = 'etcd'
begin a
q a SELECT etcd_xact_lock('%n') > 0 => t
q a INSERT INTO t VALUES ('%n asked')
commit a
q a SELECT count(*) FROM t WHERE v = '%n asked' => 1
begin a
q a SELECT etcd_xact_lock('%n') > 0 => t
q a INSERT INTO t VALUES ('%n asked in vain')
!lose deleted
commit a => error EL002
q a SELECT count(*) FROM t WHERE v = '%n asked in vain' => 0
q a RESET etcd_lock.commit_guard
END

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = map {
	start_server($_, endpoints => $etcd->endpoint, conf => <<'END')
etcd_lock.lease_ttl = '60s'
# a busy machine may take long to give up what is kept, and no try is to be refused
etcd_lock.keep_window = '1s'
listen_addresses = '127.0.0.1'
END
} qw(here there);
$here->safe_psql('postgres', 'CREATE TABLE t (v text)');
my ($control, $remote) = map { session($_) } @nodes;

my @drivers = map { EtcdLockTest::Driver->new($_, A => $here, B => $there) } @names;
my %lock_of = map { $_->name => '/m/' . $_->name =~ s/\W/_/gr } @drivers;
my %key_of = map { $names[$_] => 1000 + $_ } 0 .. $#names;

# What the test does when a line with "!" says so.
my %ACTIONS = (
	lose => sub {
		my ($how) = @_;
		lose($how, $etcd, $_, there => $remote) foreach $how eq 'broken' ? values %lock_of : '/m';
	},
	lost => sub { wait_until_lost($control, values %lock_of) },
	well => sub { wait_until_well($control) },
	waiting => sub {
		wait_until('all of them wait',
			sub { $remote->query('SELECT count(*) FROM etcd_locks WHERE NOT granted') == @drivers });
	},
	integers => sub {
		my @named = grep { /^\d/ } $etcd->keys('');
		is("@named", '', 'no lock is named by an integer');
	},
	hold => sub { $control->query("SELECT etcd_lock('$_')") foreach values %lock_of },
	release => sub { $control->query('SELECT etcd_unlock_all()') },
	sleeping => sub {
		wait_until('all of them sleep',
			sub { $control->query(q(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep')) == @drivers });
	});

sub fields_for
{
	my ($driver, $command) = @_;
	my $name = $driver->name;
	$command =~ s/%n/$lock_of{$name}/g;
	$command =~ s/%k/$key_of{$name}/g;
	my ($head, @values) = split / :: /, $command;
	my @words = split / /, $head;
	return @words, @values if $words[0] eq 'release' || $words[0] eq 'open';
	return split(/ /, $head, 3), @values;
}

# One step of all drivers: the answers, by their names.
sub step
{
	my ($how, $command, $expected) = @_;
	$_->send(fields_for($_, $command)) foreach @drivers;
	return if $how eq '&';

	my %answers = map { $_->name => $_->answer } @drivers;
	foreach my $driver ($how eq 'until' ? @drivers : ())
	{
		my $name = $driver->name;
		my $until = time + 5;
		until ($answers{$name} eq $expected || time > $until)
		{
			sleep 0.02;
			$answers{$name} = $driver->ask(fields_for($driver, $command));
		}
	}
	return %answers;
}

# A case: what each driver has answered, against what it should have.
sub run_case
{
	my ($title, @lines) = @_;
	my (%got, %expected);

	foreach my $line (@lines)
	{
		if ($line =~ /^!(\w+)(?: (.*))?$/)
		{
			$ACTIONS{$1}->($2);
			next;
		}
		my ($how, $command, $expected) = $line =~ /^(?:(until|&) )?(.*?)(?: => (.*))?$/;
		$how //= '';
		$expected //= '';
		my %answers =
		  $command eq 'wait'
		  ? map { $_->name => $_->answer } @drivers
		  : step($how, $command, $expected);
		next if $how eq '&';
		foreach my $name (@names)
		{
			my $answer = $answers{$name};
			my ($right) = grep { $_ eq $answer } split / or /, $expected;
			push @{ $got{$name} }, "$line: $answer";
			push @{ $expected{$name} },
			  "$line: " . ($right // $expected) =~ s/%n/$lock_of{$name}/gr;
		}
	}
	foreach my $name (@names)
	{
		is(join("\n", @{ $got{$name} }), join("\n", @{ $expected{$name} }), "$title: $name");
	}
	wait_until("$title: etcd is empty", sub { !$etcd->left_keys });
	return;
}

foreach my $connection ([ 'a', 'A' ], [ 'a2', 'A' ], [ 'b', 'B' ])
{
	my %answers = step('', "open @$connection", '');
	is($answers{$_}, '', "connected to $connection->[1]: $_") foreach @names;
}

foreach my $case (split /^== /m, $SCRIPT)
{
	my ($title, @lines) = grep { /\S/ } split /\n/, $case;
	next unless defined $title;
	my $begin = time;
	run_case($title, @lines);
	note sprintf '%s: %.1f s', $title, time - $begin;
}

$_->stop foreach @drivers;
is_left_clean($etcd, @nodes);
foreach (sort keys %missing)
{
  SKIP: { skip "the driver $_ is not here", 1 }
}
$_->quit foreach $control, $remote;
finish($etcd, @nodes);
