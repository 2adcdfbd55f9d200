# The locks that a server holds are compared with etcd's keys, and its lease is kept,
# regardless of the TTL, of the number of locks, and of what etcd does not tell.
# ETCD_LOCK_LONG_NAMES: so many names of the greatest length are held, and one is lost, too.
# ETCD_LOCK_NAMES: so many names are held by one server at last, and what that costs is bounded.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep time);

my $names = $ENV{ETCD_LOCK_NAMES} // 0;
my $long_names = $ENV{ETCD_LOCK_LONG_NAMES} // 0;
my $etcd = EtcdLockTest::Etcd->new(args => $names ? [ '--quota-backend-bytes', 8 * 1024**3 ] : []);
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $here = start_server('here', endpoints => $proxy->url, conf => <<'END');
etcd_lock.lease_ttl = '5min'
etcd_lock.request_timeout = '1s'
etcd_lock.max_names = 6000
END
my $there = start_server('there', endpoints => $etcd->endpoint);
my ($session, $other, $look) = (session($here), session($there), session($here));

sub status
{
	my ($what) = @_;
	return $look->query("SELECT $what FROM etcd_lock_status()");
}

#
# A put that comes when nobody waits for it any more
#

# Returns when it was sent, and a revision from before it came.
sub give_up
{
	my ($name, $rule, $ms) = @_;
	my $put = 'request_?put.*' . encode_base64("$name/", '');    # six bytes, so that no other follows in it
	$proxy->rules({ name => $rule, path => '^/v3/kv/txn$', body => $put, do => 'delay', ms => $ms, times => 1 });
	my $since = $etcd->revision;
	my $giver_up = session($here);
	my $sent = time;
	my $result = $giver_up->try("SET lock_timeout = '200 ms'; SELECT etcd_lock('$name')");
	is($result->{sqlstate}, '55P03', "$rule: given up");
	is($proxy->hits($rule), 1, '... and on its way');
	$giver_up->quit;
	return ($sent, $since);
}

# Returns how long after its key has come another server has the lock.
sub gone_after
{
	my ($name, $rule, $ms, $sent, $since) = @_;
	wait_until("$rule: the key comes", sub { $etcd->key_has_come("$name/", $since) });
	cmp_ok(time - $sent, '>', $ms / 1000, "$rule: the key comes");
	like($other->try("SET lock_timeout = '30 s'; SELECT etcd_lock('$name')")->{out}, qr/^\d+$/,
		'... another server gets the lock');
	my $took = time - $sent - $ms / 1000;
	note sprintf '%s, TTL 5 min: found and gone after %.2f s', $rule, $took;
	$other->query("SELECT etcd_unlock('$name')");
	return $took;
}

# One that comes much later than etcd itself would let it
my @slow = ('/slow', 'a put that is 20 s late', 20_000);
push @slow, give_up(@slow);

# It is looked for every 250 ms, and not only by the list of all keys.
my @found;
foreach my $attempt (1 .. 3)
{
	my @late = ('/late', "a put that is late, $attempt", 3000);
	push @found, gone_after(@late, give_up(@late));
}
cmp_ok(median(@found), '<', 0.5, 'late puts are found as soon as their keys have come');

# Nothing looks for it any more, but the list shows it, which comes as often as what is held is
# compared.
$session->query("SELECT etcd_lock('/compared')");
cmp_ok(gone_after(@slow), '<', 4, 'a put that is later than etcd allows is found with the next list');
$session->query("SELECT etcd_unlock('/compared')");
wait_until('nothing is held', sub { status('keys_held') == 0 });

#
# Keys that are deleted by hand, while no watch tells
#

# The worker does not ask again for a minute for a list that it could not have.
sub start_again
{
	$_->quit foreach $session, $look;
	$here->restart;
	($session, $look) = (session($here), session($here));
	return;
}

# "1": of few names; "4500": of so many long ones that they are read in slices
sub lose_one_of
{
	my ($n, $when_held) = @_;
	my $long = 'x' x 500;    # with what is around it 512 bytes, the most that a name may have

	# by many sessions at once, as requests travel together
	my @holders = map { session($here) } 1 .. ($n > 100 ? 10 : 1);
	foreach my $i (1 .. @holders)
	{
		$holders[ $i - 1 ]->send(sprintf
			  "SELECT count(etcd_lock('/held/$long/' || i)) FROM generate_series(%d, %d, %d) i",
			$i, $n, scalar @holders);
	}
	$_->result foreach @holders;
	is(status('keys_held'), $n, "$n names: held");
	$when_held->() if $when_held;
	my $took = fastest(
		2,
		sub {
			wait_until("$n names: all compared once", sub { status("audit_age < '3 s' AND keys_held = $n") eq 't' });
			sleep 2.5;
			my $at = 1 + int rand $n;
			my $deleted = time;
			$etcd->delete("/held/$long/$at/");
			wait_until("$n names: the loss is known", sub {
					$look->query("SELECT count(*) FROM etcd_locks() WHERE lost") == 1 });
			my $took = time - $deleted;
			note sprintf 'a key of %d deleted by hand, no watch, TTL 5 min: known after %.2f s', $n, $took;
			is($look->query("SELECT name FROM etcd_locks() WHERE lost"), "/held/$long/$at", "$n names: the right one");
			like($other->query("SELECT etcd_lock('/held/$long/$at')"), qr/^\d+$/, "$n names: another server gets it");
			$other->query("SELECT etcd_unlock('/held/$long/$at')");
			my $holder = $holders[ ($at - 1) % @holders ];
			$holder->query("SELECT etcd_unlock('/held/$long/$at')");
			like($holder->query("SELECT etcd_lock('/held/$long/$at')"), qr/^\d+$/, "$n names: it can be had again");
			return $took;
		});
	cmp_ok($took, '<', 2, "$n names: known as soon as doc/monitoring.md says");
	$_->quit foreach @holders;
	wait_until("$n names: all released", sub { status('keys_held') == 0 });
	return;
}

$proxy->rules({ path => '^/v3/watch$', do => 'hold' });
is(status('audit_age'), '', 'nothing is held: nothing to compare');
lose_one_of(1);
lose_one_of(4500);

# Etcd that refuses the list, or one of the keys
$proxy->rules(
	{ path => '^/v3/watch$', do => 'hold' },
	{ name => 'list', path => '/timetolive$', EtcdLockTest::Proxy::refusal(7, 'etcdserver: permission denied') });
lose_one_of(2);
cmp_ok($proxy->hits('list'), '>', 0, 'the list was refused');

# A list that is longer than a response may be.  The names of 30,000 locks can make it so long,
# and so do keys that others attach to the lease.
$proxy->rules;
start_again();
$session->query("SELECT etcd_lock('/first')");
my $lease = $etcd->lease_of('/first/');
my @longer = ('/longer', 'a put that is 14 s late', 14_000);
push @longer, give_up(@longer);
$proxy->rules(
	{ path => '^/v3/watch$', do => 'hold' },
	{ name => 'long list', path => '/timetolive$', do => 'delay', ms => 0 });
$etcd->put("/attached/$_/" . 'x' x 1_000_000, '', $lease) foreach 1 .. 17;

# the list would be asked for every 1.5 s
my ($lists, $asked) = (0, time);
wait_until(
	'the long list is given up',
	sub {
		my $hits = $proxy->hits('long list');
		($lists, $asked) = ($hits, time) if $hits != $lists;
		return $hits > 0 && time - $asked > 4;
	});
$session->query("SELECT etcd_unlock('/first')");
lose_one_of(2);
cmp_ok($proxy->hits('long list') - $lists, '<', 2, 'the long list is asked for once a minute');
cmp_ok(gone_after(@longer), '<', 10, 'without a list, a late put is looked for by its name for longer');
$proxy->rules;

#
# Etcd does not show whether a key is still there
#

sub lose_unseen
{
	my ($what, $deletes, $read, @refused) = @_;
	my $holder = session($here);

	is($look->query("SELECT count(*) FROM etcd_locks() WHERE lost"), 0, "$what: nothing is lost before");
	like($holder->query("SELECT etcd_lock('/gone')"), qr/^\d+$/, "$what: locked");
	$proxy->rules(
		{ path => '^/v3/watch$', do => 'hold' },
		{ name => 'read', path => '^/v3/kv/', body => 'L2dvbmUv', %$read },    # "/gone/"
		map { { path => $_, %$read } } @refused);
	$etcd->delete('/gone/') if $deletes;
	wait_until("$what: the lock is lost", sub {
			$look->query("SELECT name FROM etcd_locks() WHERE lost") eq '/gone' });
	cmp_ok($proxy->hits('read'), '>', 0, "$what: etcd was asked");
	$proxy->rules;
	$holder->quit;
	$other->send("SELECT etcd_lock('/gone')");
	like($other->result(30)->{out}, qr/^\d+$/, "$what: another server gets it");
	is($other->query("SELECT etcd_unlock('/gone')"), 't', "$what: and gives it back");
	return;
}

start_again();
my %denied = EtcdLockTest::Proxy::refusal(7, 'etcdserver: permission denied');
lose_unseen('a key that the list lacks', 1, \%denied);
lose_unseen('a key that is nowhere to be seen', 0, \%denied, '/timetolive$');
start_again();
lose_unseen('a key that the list lacks, and no response', 1, { do => 'hold' });
lose_unseen('a key that the list lacks, and an odd refusal', 1,
	{ EtcdLockTest::Proxy::refusal(9, 'etcdserver: not now') });

#
# Nothing can be compared: that is told, and the lease not extended
#

$here->append_conf('postgresql.conf', "etcd_lock.lease_ttl = '30s'");
start_again();
$session->query("SELECT etcd_lock('/blind')");
my $log = -s $here->logfile;
$proxy->rules({ path => '/timetolive$', do => 'hold' },
	{ path => '^/v3/kv/', body => 'L2JsaW5k', do => 'hold' });    # "/blind"
is_logged($here, $log, qr/WARNING: .*could not compare the locks that this server holds/,
	'that nothing can be compared is told');
ok( $look->query("SELECT audit_age > '3 s' AND last_error ~ 'compared' FROM etcd_lock_status()") eq 't',
	'... and seen');
wait_until('the lease is not extended', sub { status("ttl_left < '15 s'") eq 't' });
$proxy->rules;
wait_until('it is again', sub { status("ttl_left > '20 s' AND audit_age < '3 s'") eq 't' });
is($session->query("SELECT etcd_lock_check('/blind')"), 't', 'the lock is still held');

#
# A keepalive that is refused
#

$here->append_conf('postgresql.conf', "etcd_lock.lease_ttl = '2s'");
$look->quit;
$here->restart;
$look = session($here);
my $kept = 0;
foreach my $attempt (1 .. 5)
{
	my $holder = session($here);

	# a machine that stalls for a second loses the lease by itself
	wait_until_locks_work($look);
	my $lease = status('lease');
	$holder->query("SELECT etcd_lock('/refused')");
	$proxy->rules({ name => "refused $attempt", path => '/keepalive$', times => 1,
			EtcdLockTest::Proxy::refusal(8, 'etcdserver: too many requests') });
	wait_until('a keepalive is refused', sub { $proxy->hits("refused $attempt") });
	sleep 1.5;
	$proxy->rules;
	$kept = status('lease') eq $lease && $holder->try("SELECT etcd_lock_check('/refused')")->{out} eq 't';
	$holder->kill;
	last if $kept;
}
ok($kept, 'one refused keepalive does not lose a lease of 2 s');

#
# Names whose list is longer than a response may be
#

SKIP:
{
	skip 'very long names: ETCD_LOCK_LONG_NAMES does not say how many', 1 unless $long_names;
	my $locks = 64 + int($long_names / 100);
	$here->append_conf('postgresql.conf', <<"END");
etcd_lock.lease_ttl = '5min'
etcd_lock.request_timeout = '15s'
etcd_lock.max_names = @{[ $long_names + 1000 ]}
etcd_lock.max_names_per_session = $long_names
max_locks_per_transaction = $locks
END
	start_again();
	$proxy->rules(
		{ path => '^/v3/watch$', do => 'hold' },
		{ name => 'list of names', path => '/timetolive$', do => 'delay', ms => 0 });
	lose_one_of($long_names, sub {
			my $before = $proxy->hits('list of names');
			wait_until("$long_names names: the list is asked for", sub { $proxy->hits('list of names') > $before });
		});
	$proxy->rules;
}

#
# Very many names, held by one server
#

SKIP:
{
	skip 'very many names: ETCD_LOCK_NAMES does not say how many', 4 unless $names;
	my $sessions = 10;
	my $max = $names + 1000;
	my $locks = 64 + int($max / 100);    # of PostgreSQL, for each of its 150 connections
	my $many = start_server('many', endpoints => $etcd->endpoint, conf => <<"END");
etcd_lock.lease_ttl = '5min'
etcd_lock.request_timeout = '15s'
etcd_lock.max_names = $max
etcd_lock.max_names_per_session = $max
max_locks_per_transaction = $locks
END
	my $status = session($many);
	my $worker = worker_pid($many);
	my $memory = memory_of($worker, 'RssAnon');
	my @holders = map { session($many) } 1 .. $sessions;
	my $began = time;
	$holders[ $_ - 1 ]->send(
		"SELECT count(etcd_lock('/very/many/' || i)) FROM generate_series($_, $names, $sessions) i")
	  foreach 1 .. $sessions;
	my $granted = 0;
	foreach my $holder (@holders)
	{
		my $result = $holder->result(3600);
		diag $result->{err} if $result->{err} ne '';
		$granted += $result->{out} || 0;
	}
	note sprintf '%d names: locked in %.0f s', $names, time - $began;
	is($granted, $names, "$names names: locked");
	is($status->query('SELECT keys_held FROM etcd_lock_status()'), $names, "$names names: held");

	# At most 2 s, or 1 s for each 20,000, as doc/monitoring.md has it.
	my $bound = $names > 40_000 ? $names / 20_000 : 2;
	my $age = sub {
		return $status->query('SELECT EXTRACT(epoch FROM audit_age) FROM etcd_lock_status()');
	};
	wait_until("$names names: all compared", sub { $age->() < $bound });
	my $oldest = fastest(
		$bound,
		sub {
			my ($until, $most) = (time + 3 * $bound, 0);
			while (time < $until)
			{
				my $now = $age->();
				$most = $now if $now > $most;
				sleep 0.2;
			}
			note sprintf '%d names: each compared within %.1f s', $names, $most;
			return $most;
		});
	cmp_ok($oldest, '<', $bound, "$names names: each is compared in time");
	my $each = 1024 * (memory_of($worker, 'RssAnon') - $memory) / $names;
	note sprintf '%d names: the worker has %.0f MB of its own, %.0f bytes for each', $names,
	  memory_of($worker, 'RssAnon') / 1024, $each;
	cmp_ok($each, '<', 1000, "$names names: little memory for each");
	$_->quit foreach @holders, $status;
	$many->stop('fast');
}

finish($etcd, $here, $there);
