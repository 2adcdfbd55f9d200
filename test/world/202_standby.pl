# A commit that waits for a synchronous standby.  It is already on disk, and must not be
# acknowledged before it is replicated: no loss of a lock ends that wait, whatever the
# cause, and whatever on_loss the session has chosen.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Loss;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my $primary = new_server(
	'primary',
	endpoints => $etcd->endpoint,
	init => { allows_streaming => 1 },
	conf => "etcd_lock.lease_ttl = '4s'");
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION etcd_lock; CREATE TABLE t (v text)');
my $elsewhere = start_server(
	'elsewhere',
	endpoints => $etcd->endpoint,
	conf => "etcd_lock.lease_ttl = '60s'");
my $control = session($primary);
my $there = session($elsewhere);

sub replicate_to
{
	my ($standbys) = @_;
	$control->query("ALTER SYSTEM SET synchronous_standby_names = '$standbys'");
	$primary->reload;
	wait_until('the setting is in force',
		sub { $control->query('SHOW synchronous_standby_names') eq $standbys });
	return;
}

# What is to be committed, each by a session of its own: [lock, settings, statements
# before the last one, and the last one].
my %commits = (
	xact => [ 'etcd_xact_lock', '', 'BEGIN; INSERT', 'COMMIT' ],
	session => [ 'etcd_lock', '', 'BEGIN; INSERT', 'COMMIT' ],
	terminate => [ 'etcd_xact_lock', "SET etcd_lock.on_loss = 'terminate'", 'BEGIN; INSERT', 'COMMIT' ],
	warn => [ 'etcd_xact_lock', "SET etcd_lock.on_loss = 'warn'", 'BEGIN; INSERT', 'COMMIT' ],
	guard_etcd =>
	  [ 'etcd_xact_lock', "SET etcd_lock.commit_guard = 'etcd'", 'BEGIN; INSERT', 'COMMIT' ],
	autocommit => [ 'etcd_lock', '', '', 'INSERT' ],
	procedure => [ 'etcd_lock', '', '', 'DO $$ BEGIN INSERT; COMMIT; END $$' ]);

# Let each of them wait for a standby, and return the sessions.
sub hanging_commits
{
	my ($case) = @_;
	my %hanging;

	foreach my $kind (sort keys %commits)
	{
		my ($lock, $settings, $before, $last) = @{ $commits{$kind} };
		s/\bINSERT\b/INSERT INTO t VALUES ('$case $kind')/ foreach $before, $last;
		my $session = session($primary);
		my $take = "SELECT $lock('/s/$kind') > 0";

		# In the transaction, if there is one.
		$session->query("$settings;" . ($before =~ s/BEGIN;/BEGIN; $take;/r || $take));
		$session->send($last);
		$hanging{$kind} = $session;
	}
	wait_until_waits_for($control, $_->pid, 'SyncRep') foreach values %hanging;
	return %hanging;
}

sub lose_all
{
	my ($how, $case) = @_;
	lose($how, $etcd, $_, there => $there)
	  foreach $how eq 'broken' ? map { "/s/$_" } sort keys %commits : '/s';
	wait_until_lost($control, map { "/s/$_" } keys %commits);

	return;
}

sub none_returns
{
	my ($case, %hanging) = @_;

	# Whatever comes of the losses comes now: each session is told by the worker at
	# once, and by its own timer within a second.
	my $until = time + 1.2;
	while (time < $until)
	{
		$_->done foreach values %hanging;
		sleep 0.05;
	}
	foreach my $kind (sort keys %hanging)
	{
		ok(!$hanging{$kind}->done, "$case: COMMIT waits on ($kind)");
	}
	return;
}

sub all_succeed
{
	my ($case, %hanging) = @_;
	foreach my $kind (sort keys %hanging)
	{
		my $result = $hanging{$kind}->result;

		# One that was ended before its time has said so in the test before this.
		is($result->{sqlstate}, '', "$case: then it succeeds ($kind)");
		unlike($result->{err}, qr/canceling|terminating/,
			"$case: and was replicated, or is no longer to be ($kind)");
	}
	return;
}

replicate_to('nobody');
foreach my $how (qw(broken deleted revoked silent))
{
	my %hanging = hanging_commits($how);
	my $reader = session($primary);
	$reader->query("SELECT etcd_lock('/s/reader')");
	$reader->send('SELECT pg_sleep(60)');

	lose_all($how, $how);
	none_returns($how, %hanging);

	# The test can fail: what does not commit is told of its loss.
	lose('broken', $etcd, '/s/reader', there => $there) if $how eq 'broken';
	is($reader->result->{sqlstate}, '57014', "$how: a session that does not commit is cancelled");
	$reader->quit;

	heal($etcd) if $how eq 'silent';
	replicate_to('');
	all_succeed($how, %hanging);

	# Too late to refuse, and not too late to say it, once, at the next statement.
	foreach my $kind (grep { $_ ne 'terminate' } sort keys %hanging)
	{
		my $told = qr/"\/s\/$kind" was lost while the last transaction committed/;
		my @said = map { $hanging{$kind}->try('SELECT 1')->{err} } 1 .. 2;
		like($said[0], $told, "$how: the next statement says what was lost ($kind)");
		unlike($said[1], $told, "$how: once ($kind)");
	}
	is(is_committed($control, "$how $_"), 1, "$how: it is committed ($_)") foreach sort keys %hanging;
	$_->quit foreach values %hanging;
	wait_until_well($control);
	replicate_to('nobody');
}
is_left_clean($etcd, $primary, $elsewhere);

# A cancel or a termination by somebody else is PostgreSQL's own affair: it ends the
# wait, with a warning.
{
	my %hanging = hanging_commits('by hand');
	$control->query('SELECT pg_cancel_backend(' . $hanging{xact}->pid . ')');
	my $result = $hanging{xact}->result;
	like($result->{err}, qr/canceling wait for synchronous replication/,
		'pg_cancel_backend() ends the wait, as without etcd_lock');
	$control->query('SELECT pg_terminate_backend(' . $hanging{session}->pid . ')');
	$result = $hanging{session}->result;
	like($result->{err}, qr/canceling the wait for synchronous replication and terminating/,
		'and so does pg_terminate_backend()');
	replicate_to('');
	delete @hanging{qw(xact session)};
	all_succeed('by hand', %hanging);
	$_->quit foreach values %hanging;
}
is_left_clean($etcd, $primary, $elsewhere);

# A standby that comes back has what was acknowledged.
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "etcd_lock.lease_ttl = '60s'");
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
$standby->stop;
replicate_to('standby');
{
	my %hanging = hanging_commits('standby');
	lose_all('broken', 'standby');
	none_returns('standby', %hanging);
	$standby->start;
	all_succeed('standby', %hanging);
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	is( $standby->safe_psql('postgres', q(SELECT count(*) FROM t WHERE v LIKE 'standby %')),
		scalar(keys %commits), 'the standby has all that was acknowledged');
	$_->quit foreach values %hanging;
}
replicate_to('');
is_left_clean($etcd, $primary, $elsewhere, $standby);
$_->quit foreach $control, $there;
finish($etcd, $standby, $primary, $elsewhere);
