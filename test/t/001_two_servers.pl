# A lock held on one server is refused on another one, for every kind of key, every mode
# and every scope.

use strict;
use warnings;

use EtcdLockTest;
use JSON::PP;
use Test::More;
use Time::HiRes qw(time);

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, 'here', 'there');

# Databases with different OIDs on the two servers.
$here->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(one two);
$there->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(two one);
foreach my $node ($here, $there)
{
	$node->safe_psql($_, 'CREATE EXTENSION etcd_lock') foreach qw(one two);
}

my $holder = session($here, db => 'one');
my $other = session($there, db => 'one');
my $third = session($there, db => 'one');

# Every kind of key, in both scopes and all pairs of modes.
my %suffix = (exclusive => '', shared => '_shared');
foreach my $key (q{'/jobs/report'}, '42', '-42::bigint', '4, 2')
{
	foreach my $scope ('', 'xact_')
	{
		foreach my $held (qw(exclusive shared))
		{
			foreach my $wanted (qw(exclusive shared))
			{
				my $free = $held eq 'shared' && $wanted eq 'shared' ? 't' : 'f';

				$holder->query(
					"BEGIN; SELECT etcd_${scope}lock$suffix{$held}($key)");
				is( $other->query(
						"SELECT etcd_try_${scope}lock$suffix{$wanted}($key)"),
					$free,
					"($key): ${scope}lock held $held, $wanted "
					  . ($free eq 't' ? 'granted' : 'refused'));
				$other->query('SELECT etcd_unlock_all()');
				$holder->query('COMMIT; SELECT etcd_unlock_all()');
				is( $other->query(
						"BEGIN; SELECT etcd_try_xact_lock($key); COMMIT"),
					't',
					"($key): free once it is released");
			}
		}
	}
}
is_left_clean($etcd, $here, $there);

# Different locks do not meet.
$holder->query(q{SELECT etcd_lock('/a'), etcd_lock(1), etcd_lock(1, 1)});
is( $other->query(
		q{SELECT etcd_try_lock('/b'), etcd_try_lock('/a/b'), etcd_try_lock(2),
		  etcd_try_lock(1, 2), etcd_try_lock(0, 1), etcd_try_lock('1.0'),
		  etcd_try_lock('1.1')}),
	't|t|t|t|t|t|t',
	'other names and other kinds of keys are other locks');
$other->query('SELECT etcd_unlock_all()');

# Integer keys belong to a database, known by its name; text ones do not.
my $elsewhere = session($there, db => 'two');
is( $elsewhere->query(
		q{SELECT etcd_try_lock(1), etcd_try_lock(1, 1), etcd_try_lock('/a')}),
	't|t|f',
	'integer keys are for one database, text keys for all');
$elsewhere->quit;

# On one server integer keys are the locks of pg_advisory_lock.
my $neighbour = session($here, db => 'one');
is( $neighbour->query(
		'SELECT pg_try_advisory_lock(1), pg_try_advisory_lock(1, 1)'),
	'f|f',
	'an integer key excludes pg_advisory_lock on its server');
$holder->query('SELECT etcd_unlock_all()');
$neighbour->query('SELECT pg_advisory_lock(1), pg_advisory_lock_shared(1, 1)');
is( $holder->query(
		'SELECT etcd_try_lock(1), etcd_try_lock(1, 1), etcd_try_lock_shared(1, 1)'),
	'f|f|t',
	'pg_advisory_lock excludes integer keys on its server');
$holder->query('SELECT etcd_unlock_all()');
$neighbour->quit;
is_left_clean($etcd, $here, $there);

# What etcd tells about a holder.
$holder->query(
	q{SET application_name = 'reporter'; SELECT etcd_lock('/jobs/report')});
my @entries = $etcd->entries('/jobs/report/');
is(@entries, 1, 'a held lock is one key in etcd');
like(
	$entries[0]{key},
	qr{^/jobs/report/write/[0-9a-f]+-[0-9a-f]+$},
	'an exclusive lock is below <name>/write/');
is( [ $entries[0]{key} =~ m{/([0-9a-f]+)-} ]->[0],
	sprintf('%x', $entries[0]{lease}),
	'the key names the lease that it hangs on');
my $value = decode_json($entries[0]{value});
is_deeply(
	[ sort keys %$value ],
	[ sort qw(server host port pid database user application namespace since) ],
	'the value says who holds the lock');
is_deeply(
	[ @$value{qw(port pid database application)} ],
	[ $here->port, $holder->pid, 'one', 'reporter' ],
	'port, pid, database and application are the holder\'s');
is($value->{user}, $holder->query('SELECT session_user'), 'and so is the user');
like($value->{since}, qr/^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d/,
	'and there is a time');

# Who does not hold it cannot unlock it.
my $result = $other->try(q{SELECT etcd_unlock('/jobs/report')});
is($result->{out}, 'f', 'unlock of another server\'s lock is false');
like($result->{err}, qr/WARNING/, 'and warns');
is($other->query(q{SELECT etcd_lock_check('/jobs/report')}),
	'f', 'etcd_lock_check of another server\'s lock is false');
is($holder->query(q{SELECT etcd_lock_check('/jobs/report')}),
	't', 'etcd_lock_check of the own lock is true');

# A wait that ends: with false, with an error, with the lock.
$result = $other->try(q{SELECT etcd_try_lock('/jobs/report', interval '1 s')});
is($result->{out}, 'f', 'the wait argument ends a wait with false');
cmp_ok($result->{elapsed}, '>=', 1, 'not before its time');
cmp_ok($result->{elapsed}, '<', 5, 'and soon after it');

$result = $other->try(
	q{SET lock_timeout = '200 ms'; SELECT etcd_try_lock('/jobs/report', interval '1 min')}
);
is($result->{sqlstate}, '55P03', 'a shorter lock_timeout is an error');
cmp_ok($result->{elapsed}, '<', 20, 'and ends the wait in its time');

$result = $other->try(
	q{SET lock_timeout = '1 min'; SELECT etcd_try_lock('/jobs/report', interval '1 s')}
);
is($result->{out}, 'f', 'with a longer lock_timeout the wait argument counts');
$other->query('RESET lock_timeout');

$other->send(q{SELECT etcd_try_lock('/jobs/report', interval '1 min')});
wait_until_waiting($other);
$holder->query(q{SELECT etcd_unlock('/jobs/report')});
is($other->result->{out}, 't', 'a lock that gets free in time is granted');
$other->query('SELECT etcd_unlock_all()');

# Both servers share, a third party waits for both.
$holder->query(q{SELECT etcd_lock_shared('/shared')});
$other->query(q{SELECT etcd_lock_shared('/shared')});
is(scalar(grep { m{/read/} } $etcd->keys('/shared/')),
	2, 'two sharing servers are two keys below <name>/read/');
$third->send(q{SELECT etcd_lock('/shared') > 0});
wait_until_waiting($third);
$holder->query(q{SELECT etcd_unlock_shared('/shared')});
# What its server was told of that is known when it has done something else.
$other->query(q{SELECT etcd_lock('/else'), etcd_unlock('/else')});
ok(!$third->done, 'one of two sharers is not enough');
$other->query(q{SELECT etcd_unlock_shared('/shared')});
is($third->result->{out}, 't', 'exclusive after the last sharer');
$third->query('SELECT etcd_unlock_all()');

# The time from an unlock on one server to the grant on the other, and tokens.  A
# put tells how fast the machine is at the moment.
my $clock = 'SELECT extract(epoch FROM clock_timestamp())';
my (@handovers, @puts, @tokens);
my ($from, $to) = ($holder, $other);
push @tokens, $from->query(q{SELECT etcd_lock('/handover')});
foreach (1 .. 20)
{
	$to->send("SELECT etcd_lock('/handover'); $clock");
	wait_until_waiting($to);
	my ($released) =
	  split /\n/, $from->query("$clock; SELECT etcd_unlock('/handover')");
	my ($token, $granted) = split /\n/, $to->result->{out};
	push @tokens, $token;
	push @handovers, $granted - $released;
	my $begin = time;
	$etcd->put('put', 'x');
	push @puts, time - $begin;
	($from, $to) = ($to, $from);
}
$from->query(q{SELECT etcd_unlock('/handover')});
note sprintf 'handover: median %.1f ms, longest %.1f ms',
  1000 * median(@handovers), 1000 * (sort { $a <=> $b } @handovers)[-1];
cmp_ok(median(@handovers), '<', 0.04 + 5 * median(@puts),
	'a handover takes less than 40 ms and five puts (median of 20)');
$etcd->delete('put');

# Tokens also increase when the lock stays on a server.
foreach my $session ($from, $third, $from, $third, $holder)
{
	push @tokens, $session->query(q{SELECT etcd_lock('/handover')});
	is($session->query(q{SELECT etcd_lock_token('/handover')}),
		$tokens[-1], 'etcd_lock_token is what etcd_lock returned');
	$session->query(q{SELECT etcd_unlock('/handover')});
}
is(scalar(grep { $tokens[$_] <= $tokens[ $_ - 1 ] } 1 .. $#tokens),
	0, 'every grant has a greater token than the one before')
  or diag("@tokens");

# One true for each tick, among all sessions of all servers.
foreach my $tick ('2030-01-01 00:00+00', '2030-01-01 00:01+00')
{
	my @got =
	  map { $_->query("SELECT etcd_try_once('/nightly', '$tick')") }
	  ($holder, $other, $third, $holder);
	is("@got", 't f f f', "etcd_try_once: one for tick $tick");
}
is( $other->query(
		q{SELECT etcd_try_once('/nightly', '2030-01-01 00:00:30+00')}),
	'f', 'etcd_try_once: none for an earlier tick');

# The tick issued last is the one thing that must outlive all servers.
is_deeply([ $etcd->keys('.etcd_lock/tick/') ],
	['.etcd_lock/tick//nightly'], 'etcd_try_once keeps the last tick in etcd');
$etcd->delete('.etcd_lock/tick/');

$_->quit foreach $holder, $other, $third;
finish($etcd, $here, $there);
