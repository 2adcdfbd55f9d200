# Clients whose encoding has no characters for a lock's name.  No message about the lock
# can be converted for them.  That must never do harm: neither after a commit, where an
# error would stop the server, nor where it would prevent an unlock.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Loss;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = my @nodes = map {
	my $node = new_server(
		$_,
		endpoints => $etcd->endpoint,
		init => { allows_streaming => 1 },
		conf => "etcd_lock.lease_ttl = '60s'");
	$node->start;
	$node;
} qw(here there);

# The names, by the numbers of their characters: U+0416 is in SJIS and EUC_JP, and
# not in LATIN1; U+00E9 is in LATIN1; U+0E01 is in none of them.
my %NAMES = (cyrillic => 0x416, accent => 0xe9, thai => 0xe01);

foreach my $node (@nodes)
{
	$node->safe_psql('postgres',
		"CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
	foreach my $db (qw(postgres latin))
	{
		$node->safe_psql($db,
			'CREATE EXTENSION etcd_lock; CREATE TABLE t (v text); CREATE TABLE names (id text, client text, name text)');

		# A lock for each encoding of a client, so that all of them can be tried at once.
		foreach my $id ($db eq 'latin' ? 'accent' : sort keys %NAMES)
		{
			my $code = $db eq 'latin' ? "chr($NAMES{$id})" : "U&'\\" . sprintf('%04x', $NAMES{$id}) . q(');
			$node->safe_psql($db, "INSERT INTO names
				SELECT '$id', client, '/jobs/' || current_database() || '/' || client || '/' || $code
				FROM unnest('{LATIN1,SJIS,EUC_JP,UTF8}'::text[]) client");
		}
	}
}

# Each pair of a client's encoding and a name: those that the database can convert, and
# those that it can't.
my @clients;
foreach my $encoding (qw(LATIN1 SJIS EUC_JP UTF8))
{
	push @clients, { db => 'postgres', encoding => $encoding, id => $_ } foreach sort keys %NAMES;
}
push @clients, { db => 'latin', encoding => $_, id => 'accent' } foreach qw(LATIN1 UTF8);
$_->{name} = "$_->{encoding} client, $_->{db}, $_->{id}" foreach @clients;

sub name_of
{
	my ($client) = @_;
	return "(SELECT name FROM names WHERE id = '$client->{id}' AND client = '$client->{encoding}')";
}

# A session of each client.
sub connect_all
{
	foreach my $client (@clients)
	{
		$client->{session} = session(
			$here,
			db => $client->{db},
			env => { PGCLIENTENCODING => $client->{encoding} });
	}
	return;
}

sub quit_all
{
	$_->{session}->quit foreach @clients;
	is_left_clean($etcd, @nodes);
	return;
}

# Asked again when the server has stopped and started anew.
my $control;

sub ask
{
	my ($sql) = @_;
	return wait_until(
		"an answer to: $sql",
		sub {
			$control //= eval { session($here) };
			my $result = $control && eval { $control->try($sql) };
			return [ $result->{out} ] if $result && !$result->{closed};
			$control = undef;
			return;
		})->[0];
}

sub replicate_to
{
	my ($standbys) = @_;
	ask("ALTER SYSTEM SET synchronous_standby_names = '$standbys'");
	$here->reload;
	wait_until('the setting is in force',
		sub { ask('SHOW synchronous_standby_names') eq $standbys });
	return;
}

sub lose_all
{
	lose('deleted', $etcd, '/jobs');
	wait_until('the losses are known',
		sub { ask('SELECT bool_and(lost) FROM etcd_locks') ne 'f' });
	return;
}

sub row_of { my ($client, $what) = @_; return "$what, " . $client->{name} =~ s/'//gr }

sub committed
{
	my ($client, $what) = @_;
	my $row = row_of($client, $what);
	return $here->safe_psql($client->{db}, "SELECT count(*) FROM t WHERE v = '$row'");
}

#
# The same name is the same lock, whatever the databases and the clients speak.
#
foreach my $client (@clients)
{
	my ($holder, $other) = (
		session($here, db => $client->{db}, env => { PGCLIENTENCODING => $client->{encoding} }),
		session($there, env => { PGCLIENTENCODING => 'UTF8' }));
	$holder->query('SELECT etcd_lock(' . name_of($client) . ')');
	my ($key) = $etcd->keys('/jobs/');
	my $name = $key =~ s{/write/.*}{}r;
	is($other->query("SELECT etcd_try_lock('$name')"), 'f', "$client->{name}: excludes another server");
	is($holder->query('SELECT etcd_unlock(' . name_of($client) . ')'), 't', "$client->{name}: unlocked");
	is($other->query("SELECT etcd_try_lock('$name'), etcd_unlock('$name')"), 't|t', "$client->{name}: and is free");
	$_->quit foreach $holder, $other;
}

#
# Lost during a commit, which a standby holds up.
#
foreach my $lock (qw(etcd_xact_lock etcd_lock))
{
	my $offset = -s $here->logfile;
	connect_all();
	replicate_to('nobody');
	foreach my $client (@clients)
	{
		my $row = row_of($client, $lock);
		$client->{session}->query('BEGIN; SELECT ' . "$lock(" . name_of($client) . ") > 0; INSERT INTO t VALUES ('$row')");
		$client->{session}->send('COMMIT');
	}
	wait_until('all of them wait',
		sub { ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == @clients });
	lose_all();
	sleep 0.3;
	replicate_to('');

	foreach my $client (@clients)
	{
		my $result = $client->{session}->result;
		is("$result->{sqlstate}$result->{closed}", '', "$lock, lost during the commit: it succeeds ($client->{name})");
		is($client->{session}->try("SELECT 'next'")->{out},
			'next', "and the session goes on ($client->{name})");
	}
	unlike(slurp_file($here->logfile, $offset), qr/PANIC/, "$lock: no PANIC");
	ask('SELECT 1');
	is(committed($_, $lock), 1, "$lock: it is committed ($_->{name})") foreach @clients;
	quit_all();
}

#
# Lost before the commit: refused, and said somehow.
#
connect_all();
foreach my $client (@clients)
{
	my $row = row_of($client, 'refused');
	$client->{session}->query('BEGIN; SELECT etcd_xact_lock(' . name_of($client) . ") > 0; INSERT INTO t VALUES ('$row')");
}
lose_all();
foreach my $client (@clients)
{
	my $result = $client->{session}->try('COMMIT');
	isnt($result->{sqlstate}, '', "lost before the commit: an error ($client->{name})");
	ok(!$result->{closed}, "the session goes on ($client->{name})");
	is($client->{session}->query('SELECT 1'), 1, "and works ($client->{name})");
	is(committed($client, 'refused'), 0, "nothing is committed ($client->{name})");
}
quit_all();

#
# A lock of the session that was lost: reading and unlocking work, in whatever order.
#
connect_all();
$_->{session}->query('SELECT etcd_lock(' . name_of($_) . ') > 0') foreach @clients;
lose_all();
foreach my $client (@clients)
{
	is($client->{session}->try('SELECT etcd_unlock(' . name_of($client) . ')')->{out},
		't', "lost: unlocking works at once ($client->{name})");
}
quit_all();

connect_all();
$_->{session}->query("SET etcd_lock.on_loss = 'warn'; SELECT etcd_lock(" . name_of($_) . ') > 0') foreach @clients;
lose_all();
foreach my $client (@clients)
{
	my $session = $client->{session};
	{
		is($session->try("SELECT 'read'")->{out}, 'read', "lost: reading works ($client->{name})");
	}
	isnt($session->try('INSERT INTO t VALUES (0)')->{sqlstate}, '', "lost: writing does not ($client->{name})");
	is($session->try('SELECT etcd_unlock(' . name_of($client) . ')')->{out},
		't', "lost: unlocking works ($client->{name})");
	is($session->try("INSERT INTO t VALUES (0); SELECT 'written'")->{out},
		'written', "unlocked: writing works ($client->{name})");
}
quit_all();

# Its exit.
connect_all();
$_->{session}->query('CREATE TEMP TABLE x (); SELECT etcd_lock(' . name_of($_) . ') > 0') foreach @clients;
lose_all();
my $offset = -s $here->logfile;
quit_all();
unlike(slurp_file($here->logfile, $offset), qr/PANIC/, 'no PANIC at the exit');

$control->quit;
finish($etcd, @nodes);
