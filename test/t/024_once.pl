# etcd_try_once(): of many callers that come at once on several servers, exactly one
# gets the tick, whatever becomes of its transaction, and the tick survives restarts of
# servers and etcd.

use strict;
use warnings;

use feature 'state';

use EtcdLockTest;
use EtcdLockTest::Proxy;
use MIME::Base64 qw(encode_base64);
use Test::More;

# The first server reaches etcd through a proxy that can lose things.
my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my %conf = (
	one => <<'END',
etcd_lock.lease_ttl = '6s'
etcd_lock.request_timeout = '500ms'
etcd_lock.connect_timeout = '30s'
END
	two => "etcd_lock.lease_ttl = '10s'\netcd_lock.connect_timeout = '8s'",
	three => "etcd_lock.lease_ttl = '10s'\netcd_lock.connect_timeout = '8s'");
my @nodes = map {
	start_server(
		$_,
		endpoints => $_ eq 'one' ? $proxy->url : $etcd->endpoint,
		conf => $conf{$_});
} qw(one two three);
my @sessions = map {
	my $node = $_;
	map { session($node) } 1 .. 6;
} @nodes;

# Ask for a tick in a session, as one transaction of its own; what comes back.
sub tick { my ($n) = @_; return "'2030-01-01 UTC'::timestamptz + interval '$n min'" }

sub once
{
	my ($session, $n) = @_;
	return $session->query("SELECT etcd_try_once('/once', ${\ tick($n)})");
}

# Rounds of one tick each; all begin as near to each other as they can: a lock of
# PostgreSQL on each server holds them back.
my @gates = map { session($_) } @nodes;
my %winners;
my $wrong = 0;
foreach my $round (1 .. 20)
{
	$_->query('SELECT pg_advisory_lock(1)') foreach @gates;
	$_->send('SELECT pg_advisory_xact_lock_shared(1); '
		  . "SELECT etcd_try_once('/once', ${\ tick($round)})")
	  foreach @sessions;
	foreach my $node (@nodes)
	{
		$node->poll_query_until('postgres',
			"SELECT count(*) = 6 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
		  or die 'the callers did not come';
	}
	$_->send('SELECT pg_advisory_unlock(1)') foreach @gates;
	$_->result foreach @gates;

	my @won = grep { $sessions[$_]->result->{out} =~ /^t$/m } 0 .. $#sessions;
	$wrong++ if @won != 1;
	diag "round $round: " . @won . ' winners' if @won != 1;
	$winners{ int($_ / 6) }++ foreach @won;
}
is($wrong, 0, 'of 18 callers at once exactly one has the tick, in each of 20 rounds');
note 'ticks by server: ' . join ' ', map { $winners{$_} // 0 } 0 .. 2;

my ($one, $two, $three) = @sessions[ 0, 6, 12 ];
is(once($two, 20), 'f', 'a claimed tick');
is(once($two, 19), 'f', 'an older one');

# Of several conditions it is the last to be looked at.
is( $one->query("SELECT 1 WHERE etcd_try_once('/once', ${\ tick(25)}) "
		  . "AND now() + interval '1 s' + interval '1 s' < now() + interval '1 s'"),
	'', 'another condition is false');
is(once($one, 25), 't', 'then the tick is not claimed');

# Nobody else takes the tick for a waiter, and each namespace has its own.
my $etcdctl = EtcdLockTest::EtcdctlLock->new($etcd, '/once');
ok(wait_until('etcdctl has the lock', sub { $etcdctl->held }),
	'etcdctl lock on the same name gets it');
is(once($one, 26), 'f', 'and while it has it no tick is claimed');
$etcdctl->release;
wait_until('etcdctl has ended', sub { !$etcd->keys('/once/') });
is(once($one, 26), 't', 'and then it is');
$three->query("SET etcd_lock.namespace = 'tenant/'");
is(join(' ', once($three, 26), once($three, 26)), 't f',
	'in another namespace the same tick is another one');
is(join(' ', $etcd->keys('tenant')), 'tenant/.etcd_lock/tick//once', 'by another key');
$three->query('RESET etcd_lock.namespace');
$etcd->delete('tenant');

# The lock comes with the tick; who finds it held claims nothing.
$one->query('BEGIN');
is(once($one, 30), 't', 'in a transaction');
is($two->query("SELECT etcd_try_lock('/once')"), 'f', 'the lock is held with the tick');
is(once($two, 31), 'f', 'a later tick, while it is');
$one->query('COMMIT');
ok($etcd->lease_of('.etcd_lock/tick//once'), 'the tick stays');
is(join(' ', $etcd->keys('/once')), '', 'and no key of the lock does');
is(once($two, 31), 't', 'a tick that was refused because of the lock is not claimed');

# With the lock held by something else, the same; but who holds it may claim ticks.
foreach my $lock ('etcd_lock', 'etcd_lock_shared')
{
	state $n = 40;
	my $unlock = $lock =~ s/lock/unlock/r;
	$three->query("SELECT $lock('/once')");
	is(once($two, $n), 'f', "$lock: the lock is held for other reasons");
	is(once($three, $n), 't', "$lock: who holds it claims a tick");
	is(once($three, $n), 'f', "$lock: and each only once");
	is(once($three, $n - 1), 'f', "$lock: and no older one");
	is(once($two, $n + 1), 'f', "$lock: the lock is still held");
	is( $three->query('SELECT mode, scope FROM etcd_locks WHERE pid = pg_backend_pid()'),
		($lock =~ /shared/ ? 'shared' : 'exclusive') . '|session',
		"$lock: nothing of the transaction is left");

	# in one transaction: it keeps the lock for a tick that it got, and only for that
	$three->query('BEGIN');
	is(once($three, $n), 'f', "$lock: a claimed tick in a transaction");
	is( $three->query(q{SELECT scope FROM etcd_locks WHERE pid = pg_backend_pid() AND scope <> 'session'}),
		'', "$lock: adds no lock");
	is(once($three, $n + 1), 't', "$lock: the next one");
	is(once($three, $n + 2), 't', "$lock: and one more");
	is(once($three, $n + 2), 'f', "$lock: but once");
	$three->query("SELECT $unlock('/once')");
	is(once($two, $n + 3), 'f', "$lock: unlocked: the transaction holds it");
	$three->query('COMMIT');
	is(once($two, $n + 3), 't', "$lock: then it is free");
	$n += 10;
}

# Shared under its own exclusive key, of which only the shared lock is left.
$three->query(
	"SELECT etcd_lock('/once'), etcd_lock_shared('/once'); SELECT etcd_unlock('/once')");
is(join(' ', map { once($three, $_) } 59, 59), 't f', 'shared by an exclusive key: once');
is($two->query("SELECT etcd_try_lock('/once')"), 'f', 'and the lock is still held');
is($three->query("SELECT etcd_unlock_shared('/once')"), 't', '... by the shared lock');
is(once($two, 59), 'f', 'free again');

# A shared lock that others share, too, cannot be had exclusively.
$_->query("SELECT etcd_lock_shared('/once')") foreach $three, $two;
is(once($three, 60), 'f', 'shared by others: no tick is claimed');
$two->query("SELECT etcd_unlock_shared('/once')");
is(once($three, 60), 't', 'no more: it is');
$three->query("SELECT etcd_unlock_shared('/once')");

# A lock that was lost claims nothing, though its server does not know yet, whether it is the
# first tick of the name or not.
foreach my $n (1, 2)
{
	$three->query("SELECT etcd_lock('/once/lost')");
	$etcd->delete('/once/lost/');
	my $result = $three->try("SELECT etcd_try_once('/once/lost', ${\ tick($n)})");
	# The statement may be cancelled first, by the watch.
	like($result->{sqlstate}, qr/^(EL001|57014)$/, 'key deleted by hand: the lock was lost');
	is($two->query("SELECT etcd_try_once('/once/lost', ${\ tick($n)})"),
		't', 'and the tick is another one\'s');
	$three->try("SELECT etcd_unlock('/once/lost')");
}

# No answer: an error, at once or after request_timeout, and at most one has the tick.
{
	my $victim = session($nodes[2]);
	$victim->query("SELECT etcd_lock('/once')");
	$etcd->pause;
	my $result = $victim->try("SELECT etcd_try_once('/once', ${\ tick(62)})");
	$etcd->resume;
	like($result->{sqlstate}, qr/^(08006|EL001|57014)$/, 'etcd hangs: an error');
	$victim->quit;
	wait_until('the lock is free', sub { !$etcd->keys('/once/') });
	my $claimed = grep { once($_, 62) eq 't' } $one, $two, $three;
	cmp_ok($claimed, '<=', 1, 'and the tick is claimed at most once');
}

# A session that is ended while it waits leaves its place to the next one.
{
	my ($victim, $next) = map { session($nodes[2]) } 1, 2;
	$victim->query("SELECT etcd_lock('/once/ended')");
	$next->query("SELECT etcd_lock('/once/next')");
	$etcd->pause;
	$victim->send("SELECT etcd_try_once('/once/ended', ${\ tick(1)})");
	$nodes[2]->poll_query_until('postgres',
		"SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = ${\ $victim->pid}")
	  or die 'it does not wait';
	$nodes[2]->safe_psql('postgres', "SELECT pg_terminate_backend(${\ $victim->pid}, 10000)");
	$etcd->resume;
	is($next->query("SELECT etcd_try_once('/once/next', ${\ tick(1)})"),
		't', 'a session was ended while it waited: the next one can claim');
	$_->quit foreach $victim, $next;
}

# What is not a tick in etcd is no reason to run.
{
	$etcd->call('/v3/kv/put', {
		key => encode_base64('.etcd_lock/tick//once/odd', ''),
		value => encode_base64('yesterday', '') });
	$three->query("SELECT etcd_lock('/once/odd')");
	is($three->try("SELECT etcd_try_once('/once/odd', now())")->{sqlstate},
		'XX001', 'held: an odd value in etcd is an error');
	$three->query("SELECT etcd_unlock('/once/odd')");
	is($three->try("SELECT etcd_try_once('/once/odd', now())")->{sqlstate},
		'XX001', 'not held: an odd value in etcd is an error');
}

# The sessions of a server take turns at it.  (On a server whose request_timeout is no
# shorter than usual.)
{
	my @holders = map { session($nodes[1]) } 1 .. 6;
	foreach my $round (1 .. 5)
	{
		my @names = map { "'/once/many/$_'" } 0 .. $#holders;
		$holders[$_]->query("SELECT etcd_lock($names[$_])") foreach 0 .. $#holders;
		$holders[$_]->send("SELECT etcd_try_once($names[$_], ${\ tick($round)}),
			etcd_try_once($names[$_], ${\ tick($round)})") foreach 0 .. $#holders;
		is(join(' ', map { $_->result->{out} } @holders),
			join(' ', ('t|f') x @holders), "many locks of one server at once, round $round");
		$holders[$_]->query("SELECT etcd_unlock($names[$_])") foreach 0 .. $#holders;
	}
	$_->quit foreach @holders;
}

# Requests and answers that get lost, come late or twice: the caller asks again, and
# knows its own claim.
my $n = 100;
foreach my $case (
	[ 'the request is lost', { do => 'hold' } ],
	[ 'the request is refused', { do => 'refuse' } ],
	[ 'the request comes late', { do => 'delay', ms => 700 } ],
	[ 'the request comes twice', { do => 'repeat', ms => 0 } ],
	[ 'the request comes once more, late', { do => 'repeat', ms => 300 } ],
	[ 'the answer is lost', { do => 'hold_answer' } ],
	[ 'the answer comes late', { do => 'delay_answer', ms => 700 } ],
	[ 'the answer is dropped', { do => 'drop_answer' } ],
	[ 'two answers are lost', { do => 'hold_answer', times => 2 } ])
{
	my ($name, $rule) = @$case;
	$n++;
	$proxy->rules(
		{ path => '^/v3/kv/txn$', body => 'request_?put', times => 1, name => $name, %$rule });
	is(once($one, $n), 't', "$name: the tick is claimed");
	cmp_ok($proxy->hits($name), '>=', 1, "$name: the proxy has done it");
	$proxy->rules;
	is(join(' ', map { once($_, $n) } $one, $two, $three),
		'f f f', "$name: once");
}

# The answer is lost, and etcd is away until the lease is given up here: there it
# comes back to life, with the key of the claim that nobody was told of.  It may
# refuse for a while to let go of it.
my %busy = EtcdLockTest::Proxy::refusal(8, 'etcdserver: too many requests');
my %denied = EtcdLockTest::Proxy::refusal(7, 'etcdserver: permission denied');
foreach my $case (
	[ 'etcd_try_once', '' ],
	[ 'etcd_try_once', 'cannot be revoked', { path => '/lease/revoke$', %denied } ],
	[ 'etcd_try_once', 'cannot be revoked at once', { path => '/lease/revoke$', %busy, times => 1 } ],
	[ 'etcd_try_once', 'cannot be listed', { path => '/lease/leases$', %denied } ],
	[ 'etcd_try_lock', '' ])
{
	my ($what, $how, @rules) = @$case;
	my $name = "$what: the answer is lost, then the lease" . ($how && ", which $how");
	my $call = $what eq 'etcd_try_once' ? "etcd_try_once('/once', ${\ tick(++$n)})" : "etcd_try_lock('/once')";
	$proxy->rules(
		{ path => '^/v3/kv/txn$', body => 'request_?put', times => 1, do => 'hold_answer' },
		{ path => '^/v3/kv/txn$', body => 'request_?delete', do => 'hold' });
	$one->send("SELECT $call");
	wait_until("$name: it is put", sub { $etcd->keys('/once/') });
	$etcd->kill9;
	wait_until("$name: the lease is given up",
		sub { $nodes[0]->safe_psql('postgres', 'SELECT lease IS NULL FROM etcd_lock_status()') eq 't' });
	$proxy->rules(@rules);
	$etcd->start;
	if ($what eq 'etcd_try_lock')
	{
		is($one->result->{sqlstate}, '08006', "$name: an error");
	}
	else
	{
		is($one->result->{out}, 't', "$name: it is claimed all the same");
		is(join(' ', map { $_->query("SELECT $call") } $two, $three), 'f f', "$name: once");
	}
	$proxy->rules;
	wait_until("$name: nothing is left", sub { !$etcd->keys('/once') });
	wait_until_locks_work($one);
}

# The answer is lost, and somebody else has come into the queue before the caller
# asks again: it cannot run, and must not say that somebody else does.
{
	my $name = 'the answer is lost, and then the lock';
	$n++;
	$proxy->rules(
		{ path => '^/v3/kv/txn$', body => 'request_?put', times => 1, do => 'hold_answer' });
	$one->send("SELECT etcd_try_once('/once', ${\ tick($n)})");
	wait_until("$name: it is put", sub { $etcd->keys('/once/') });
	$proxy->rules({ path => '^/v3/kv/txn$', body => '^(?!.*(?:put|delete))', do => 'hold' });
	my $etcdctl = EtcdLockTest::EtcdctlLock->new($etcd, '/once');
	wait_until('etcdctl is in the queue', sub { grep { !m{/write/} } $etcd->keys('/once/') });
	$proxy->rules;
	my $result = $one->result;
	is($result->{sqlstate}, '08006', "$name: an error");
	like($result->{err}, qr/DETAIL:  The tick is claimed, but the lock has another owner/,
		"$name: which says why");
	wait_until('etcdctl has the lock', sub { $etcdctl->held });
	$etcdctl->release;
	wait_until('etcdctl has ended', sub { !$etcd->keys('/once/') });
	is(join(' ', map { once($_, $n) } $one, $two, $three), 'f f f', "$name: nobody runs");
}

# The same, and a later tick has been claimed by then.
{
	my $name = 'the answer is lost, and then the tick';
	$n++;
	$proxy->rules(
		{ path => '^/v3/kv/txn$', body => 'request_?put', times => 1, do => 'hold_answer' });
	$one->send("SELECT etcd_try_once('/once', ${\ tick($n)})");
	wait_until("$name: it is put", sub { $etcd->keys('/once/') });
	$proxy->rules({ path => '^/v3/kv/txn$', body => '^(?!.*(?:put|delete))', do => 'hold' });
	wait_until("$name: and deleted", sub { !$etcd->keys('/once/') });
	is(once($two, ++$n), 't', "$name: a later one is claimed");
	$proxy->rules;
	my $result = $one->result;
	is($result->{sqlstate}, '08006', "$name: an error");
	like($result->{err}, qr/DETAIL:  It is not known whether the tick was claimed/,
		"$name: which says why");
}

# Nor has etcd applied the request yet when somebody else has the lock: it does when that
# one is gone, whatever the caller was told by then.
{
	my $name = 'the request comes late, behind another lock';
	$n++;
	$proxy->rules({ path => '^/v3/kv/txn$', body => 'request_?put', times => 1, name => $name,
		do => 'delay', ms => 6000 });
	$one->send("SELECT etcd_try_once('/once', ${\ tick($n)})");
	wait_until("$name: it is sent", sub { $proxy->hits($name) });
	$proxy->rules({ path => '^/v3/kv/txn$', body => '^(?!.*(?:put|delete))', do => 'hold' });
	$two->query("SELECT etcd_lock('/once')");
	$proxy->rules;
	my $result = $one->result;
	is("$result->{out}|$result->{sqlstate}", '|08006', "$name: an error");
	like($result->{err}, qr/DETAIL:  It is not known whether the tick will be claimed/,
		"$name: which says why");
	$two->query("SELECT etcd_unlock('/once')");
	my $tick = $two->query("SELECT to_char((${\ tick($n)}) AT TIME ZONE 'UTC', 'HH24:MI')");
	wait_until("$name: the tick is claimed",
		sub { grep { $_->{value} =~ /T$tick:/ } $etcd->entries('.etcd_lock/tick//once') });
	is(join(' ', map { once($_, $n) } $one, $two, $three), 'f f f', "$name: nobody runs");
	wait_until("$name: its key is deleted", sub { !$etcd->keys('/once/') });
}

# With the lock held already the same request, sent twice, is one claim.
$one->query("SELECT etcd_lock('/once')");
foreach (1 .. 5)
{
	$n++;
	$proxy->rules(
		{ path => '^/v3/kv/txn$', body => 'request_?put', times => 1, do => 'repeat', ms => 0 });
	is(join(' ', once($one, $n), once($one, $n)),
		't f', 'the lock is held, the request comes twice: the tick is claimed once');
}
$proxy->rules;

# Nor is the answer to an earlier claim one to this.
is(once($one, ++$n), 't', 'the lock is held: a tick is claimed');
$proxy->rules({ path => '^/v3/kv/txn$', body => '^(?!.*(?:put|delete))', times => 1, do => 'stale_answer' });
is($one->try("SELECT etcd_try_once('/once', ${\ tick($n)})")->{sqlstate},
	'38000', 'and claimed again, with the answer to the first claim: an error');
$proxy->rules;
$one->query("SELECT etcd_unlock('/once')");

# Who gives up has no claim.
$n++;
$proxy->rules(
	{ path => '^/v3/kv/txn$', body => 'request_?put', do => 'hold_answer' });
is( $one->try("SET statement_timeout = '200 ms'; SELECT etcd_try_once('/once', ${\ tick($n)})")
	  ->{sqlstate},
	'57014', 'the caller gives up before the answer comes');
$proxy->rules;
$one->query('RESET statement_timeout');
is(join(' ', map { once($_, $n) } $one, $two, $three),
	'f f f', 'then nobody has the tick');
wait_until('the key that it left is deleted', sub { !$etcd->keys('/once/') });
is(join(' ', map { once($_, $n + 1) } $two, $one, $three), 't f f', 'but the next');

# At most once: what has failed is not run again.
$one->query('BEGIN');
is(once($one, 150), 't', 'a tick whose transaction rolls back');
$one->query('ROLLBACK');
is(once($two, 150), 'f', 'stays claimed');
$one->query('BEGIN');
is(once($one, 160), 't', 'a tick whose server dies');
my @pids = split /\n/, $nodes[0]->safe_psql('postgres',
	'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
push @pids, $nodes[0]->{_pid};
$nodes[0]->kill9;
$_->quit foreach @sessions[ 0 .. 5 ], $gates[0];
is(once($two, 160), 'f', 'stays claimed at once');
wait_until('the lease of the dead server ends',
	sub { !$etcd->keys('/once/') });
is(once($two, 160), 'f', 'and when its lease is over');
is(once($two, 161), 't', 'the next one is free then');
wait_until('its last process has ended', sub { !kill 0, @pids });
$nodes[0]->start;

# Restarts.  Without etcd there is an error; everything stops, everything starts.
$etcd->stop;
is($two->try("SELECT etcd_try_once('/once', ${\ tick(162)})")->{sqlstate},
	'08006', 'etcd is away: an error');
$_->quit foreach @sessions[ 6 .. 17 ], @gates[ 1, 2 ];
$_->stop foreach @nodes;
$etcd->start;
$_->start foreach @nodes;
($one, $two, $three) = map { session($_) } @nodes;
is(join(' ', map { once($_, 161) } $one, $two, $three),
	'f f f', 'a tick survives the restart of all servers and of etcd');
is(join(' ', map { once($_, 162) } $one, $two, $three),
	't f f', 'the next one is claimed once');

# One name's ticks are not another's, and the fraction of a second counts.
is( $one->query(<<'SQL'), 't|f|t|t', 'ticks are per name, and exact');
SELECT etcd_try_once('/once/a', '2030-01-01 00:00:00.000001+00'),
       etcd_try_once('/once/b', '2030-01-01') AND false,
       etcd_try_once('/once/c', '0001-01-01'), etcd_try_once('/once/d', '9999-12-31');
SQL
is( $two->query(<<'SQL'), 'f|t|f|f', 'on another server');
SELECT etcd_try_once('/once/a', '2030-01-01 00:00:00.000001+00'),
       etcd_try_once('/once/a', '2030-01-01 00:00:00.000002+00'),
       etcd_try_once('/once/c', '0001-01-01'), etcd_try_once('/once/d', '9999-12-31');
SQL
foreach my $bad ("'infinity'", "'-infinity'", "'0001-01-01 BC'", "'10000-01-01'")
{
	is($one->try("SELECT etcd_try_once('/once', $bad)")->{sqlstate},
		'22008', "$bad is no tick");
}

$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, @nodes);
$_->quit foreach $one, $two, $three;

# They were stopped without etcd before.
wait_until('the leases of before have ended', sub { $etcd->leases == @nodes });
finish($etcd, @nodes);
