# What a network does to requests and responses: they are lost, late, repeated or
# truncated.  One server reaches etcd through the fault proxy, the other one directly.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use Test::More;
use Time::HiRes qw(sleep time);

my $ttl = 10;
my $keepalive = $ttl / 5;    # seconds between two of them
my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $conf = <<"END";
etcd_lock.lease_ttl = '${ttl}s'
etcd_lock.request_timeout = '1s'
etcd_lock.connect_timeout = '20s'
END
my $here = start_server('here', endpoints => $proxy->url, conf => $conf);
my $there = start_server('there', endpoints => $etcd->endpoint, conf => $conf);
my ($session, $second, $other) =
  (session($here), session($here), session($there));
my $lock = "SELECT etcd_lock('/name')";
my $unlock = "SELECT etcd_unlock('/name')";

# Requests, by what is in them.
my $txn = '^/v3/kv/txn$';
my %put = (path => $txn, body => 'request_?put.*L25hbWUv');    # below "/name/"
my %delete = (path => $txn, body => 'request_?delete_?range');

# The other server gets the lock, and gives it back.
sub other_gets_it
{
	my ($name, $limit) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$other->send($lock) unless defined $other->{sql};
	my $result = $other->result($limit);
	is($result->{sqlstate}, '', "$name: the other server gets the lock");
	higher_token($result->{out}, $name);
	$other->query($unlock);
	return;
}

sub has_key
{
	return scalar(my @keys = $etcd->keys('/name/'));
}

sub leases
{
	return join ' ', map {
		$_->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status()')
	} $here, $there;
}
my $leases = leases();

#
# One request, or its answer, goes wrong
#

foreach my $case (
	[ 'request is lost', { do => 'hold' } ],
	[ 'request is reset', { do => 'refuse' } ],
	[ 'request is refused', { do => 'refuse', code => 7 } ],    # REFUSED_STREAM
	[ 'connection is reset', { do => 'reset' } ],
	[ 'connection takes no more requests', { do => 'goaway' } ],
	[
		'etcd is too busy',
		{
			EtcdLockTest::Proxy::refusal(8, 'etcdserver: too many requests')
		}
	],
	[ 'request comes late', { do => 'delay', ms => 1500 } ],
	[ 'request comes twice', { do => 'repeat', ms => 0 } ],
	[ 'answer is lost', { do => 'hold_answer' } ],
	[ 'answer comes late', { do => 'delay_answer', ms => 1500 } ],
	[ 'answer is dropped', { do => 'drop_answer' } ],
	[ 'answer has no end', { do => 'no_trailers' } ],
	[ 'answer is cut in its head', { do => 'cut_answer', bytes => 40 } ],
	[
		'answer is cut in its body',
		{ do => 'cut_answer', after => '"header"', bytes => 50 }
	])
{
	my ($what, $rule) = @$case;

	my $name = "put: $what";
	$proxy->rules({ %put, %$rule, name => $name, times => 1 });
	my $result = $session->try($lock);
	is($result->{sqlstate}, '', "$name: granted all the same");
	my $granted = $result->{elapsed};
	cmp_ok($granted, '<', 10, "$name: soon");
	higher_token($result->{out}, $name);
	is($proxy->hits($name), 1, "$name: the proxy has done it");

	$name = "delete: $what";
	$proxy->rules({ %delete, %$rule, name => $name, times => 1 });
	$other->send($lock);
	wait_until_waiting($other);
	$result = $session->try($unlock);
	is($result->{out}, 't', "$name: unlocked");
	cmp_ok($result->{elapsed}, '<', 5, "$name: without waiting for ever");
	is($proxy->hits($name), 1, "$name: the proxy has done it");
	my $begin = time - $result->{elapsed};
	other_gets_it($name, 20);
	note sprintf '%-30s lock after %.2f s, unlock after %.2f s, another after %.2f s',
	  $what, $granted, $result->{elapsed}, time - $begin;
	wait_until("$what: no key is left", sub { !has_key() }, 4 * $keepalive + 10);
}
$proxy->rules;
is(leases(), $leases, 'nothing of this has cost a lease');
is_left_clean($etcd, $here, $there);

# Etcd takes no more requests on a connection, as it does before it stops: those that are in
# flight are answered there, and nothing is sent twice.
{
	my $name = 'no more requests, some in flight';
	$here->safe_psql('postgres', $_) foreach
	  "ALTER SYSTEM SET etcd_lock.request_timeout = '8s'",
	  'ALTER SYSTEM SET etcd_lock.keep_window = 0', 'SELECT pg_reload_conf()';
	$other->query("SELECT etcd_lock('/waited')");
	my ($waiter, $locker, $releaser, $viewer) = map { session($here) } 1 .. 4;
	$releaser->query("SELECT etcd_lock('/released')");
	$waiter->send("SELECT etcd_lock('/waited')");
	wait_until("$name: one stands in the queue", sub { $etcd->keys('/waited/') == 2 });

	$proxy->rules(
		{ name => "$name: put", %put, do => 'delay_answer', ms => 4000 },
		{ name => "$name: delete", path => $txn, body => 'request_?delete_?range.*L3JlbGVhc2Vk', do => 'delay_answer', ms => 4000 },
		{ name => "$name: read", path => '^/v3/kv/range$', body => 'L3ZpZXdlZC', do => 'delay_answer', ms => 4000 });
	my @kinds = map { "$name: $_" } qw(put delete read);
	$locker->send($lock);
	wait_until("$name: a put is in flight", sub { $proxy->hits($kinds[0]) });
	$releaser->send("SELECT etcd_unlock('/released')");
	wait_until("$name: and a delete", sub { $proxy->hits($kinds[1]) });
	$viewer->send("SELECT count(*) = 0 FROM etcd_lock_queue('/viewed')");
	wait_until("$name: and a read", sub { $proxy->hits($kinds[2]) });
	$proxy->goaway;

	# another connection serves at once, and is the only one in the end
	is($second->query("SELECT etcd_lock('/new') > 0"), 't', "$name: a lock");
	ok(!$locker->done, "$name: before those are answered");
	my $result = $locker->result;
	is($result->{sqlstate}, '', "$name: the lock is granted");
	higher_token($result->{out}, $name);
	is($releaser->result->{out}, 't', "$name: the other one released");
	is($viewer->result->{out}, 't', "$name: the view shown");
	is($proxy->hits($_), 1, "$_: sent once") foreach @kinds;
	$proxy->rules;
	$other->query("SELECT etcd_unlock('/waited')");
	is($waiter->result->{sqlstate}, '', "$name: who waited has been told");
	wait_until("$name: the old connection is closed", sub { $proxy->connections == 1 });
	pass("$name: the old connection is closed");
	$_->query('SELECT etcd_unlock_all()') foreach $waiter, $locker, $second;
	$_->quit foreach $waiter, $locker, $releaser, $viewer;
	$here->safe_psql('postgres', $_) foreach
	  'ALTER SYSTEM RESET etcd_lock.request_timeout',
	  'ALTER SYSTEM RESET etcd_lock.keep_window', 'SELECT pg_reload_conf()';
	is(leases(), $leases, "$name: with the same lease");
	is_left_clean($etcd, $here, $there);
}

#
# Keys that come when nobody wants them any more
#

# The put reaches etcd after the session has given up, by an error or its end,
# and after the key was deleted, to be sure.
foreach my $end ('lock_timeout', 'the end of the session')
{
	my $name = "put comes after $end";
	$proxy->rules({ %put, name => $name, do => 'delay', ms => 2500, times => 1 });
	my $giver_up = session($here);
	my $since = $etcd->revision;
	if ($end eq 'lock_timeout')
	{
		$giver_up->query("SET lock_timeout = '200 ms'");
		is($giver_up->try($lock)->{sqlstate}, '55P03', "$name: given up");
		$giver_up->quit;
	}
	else
	{
		$giver_up->send($lock);
		wait_until('it is sent', sub { $proxy->hits($name) });
		$giver_up->kill;
	}
	wait_until('the key comes', sub { $etcd->key_has_come('/name/', $since) });
	my $begin = time;
	other_gets_it($name, 3 * $keepalive + 10);
	diag sprintf '%-50s found and deleted after %.2f s', "$name:", time - $begin;
}

# Nor does the next worker wait for its list of keys to find what the last one has sent.
{
	my $name = 'put comes after the end of the worker';
	my @took;
	foreach my $round (1 .. 4)
	{
		$proxy->rules({ %put, name => "$name $round", do => 'delay', ms => 3000, times => 1 });
		my $giver_up = session($here);
		my $since = $etcd->revision;
		my $worker = worker_pid($here);
		$giver_up->send($lock);
		wait_until('it is sent', sub { $proxy->hits("$name $round") });
		$here->safe_psql('postgres', 'SELECT pg_terminate_backend(' . $giver_up->pid . ', 2000)');
		kill 'TERM', $worker;
		wait_until('there is another worker', sub { my $new = worker_pid($here); $new && $new != $worker });
		wait_until('the key comes', sub { $etcd->key_has_come('/name/', $since) });
		my $begin = time;
		other_gets_it($name, 3 * $keepalive + 10);
		push @took, time - $begin;
		$proxy->rules;
		$giver_up->quit;
	}
	# Two of four are enough: if a worker has given up the request itself, only the list shows its key.
	cmp_ok((sort { $a <=> $b } @took)[1], '<', 0.7, "$name: found soon");
	diag sprintf '%-50s found and deleted after %.2f s, %.2f s, %.2f s, %.2f s', "$name:", @took;
}

# The same put once more, after the key has been deleted.
{
	my $name = 'put comes again after the unlock';
	$proxy->rules({ %put, do => 'repeat', ms => 3000, times => 1 });
	higher_token($session->query($lock), $name);
	$session->query($unlock);
	wait_until('the key is deleted', sub { !has_key() });
	my $since = $etcd->revision;
	wait_until('the key comes again', sub { $etcd->key_has_come('/name/', $since) });
	my $begin = time;
	other_gets_it($name, 3 * $keepalive + 10);
	diag sprintf '%-50s found and deleted after %.2f s', "$name:", time - $begin;
}

# A delete that comes late must not hit the next hold.
{
	my $name = 'delete comes after the next lock';
	$proxy->rules({ %delete, do => 'delay', ms => 2500, times => 1 });
	higher_token($session->query($lock), $name);
	my $begin = time;
	is($session->query($unlock), 't', "$name: unlocked");
	higher_token($session->query($lock), $name);
	wait_until('the delete has come', sub { time - $begin > 3 });
	is($session->query("SELECT etcd_lock_check('/name')"),
		't', "$name: the lock is held");
	$session->query($unlock);
	other_gets_it($name, 20);
}
$proxy->rules;
is_left_clean($etcd, $here, $there);
is(leases(), $leases, 'nothing of this has cost a lease');

# A break does not take the answer to another request for one to its own.
{
	my $token = $other->query($lock);
	is($session->query("SELECT etcd_lock_break('/another', $token)"), 'f', 'another name: nothing to break');
	my $name = 'a break with the answer to another request';
	my $result;

	# An answer without keys that came just before cannot be told from one to this request.
	foreach my $attempt (1 .. 5)
	{
		$session->query("SELECT etcd_lock('/another'), etcd_unlock('/another')");
		$proxy->rules({ path => '^/v3/kv/range$', body => 'L25hbWUv', name => "$name, $attempt", do => 'stale_answer', times => 1 });
		$result = $session->try("SELECT etcd_lock_break('/name', $token)");
		is($proxy->hits("$name, $attempt"), 1, "$name: the proxy has done it");
		last if $result->{sqlstate} ne '';
		$proxy->rules;
	}
	is("$result->{out}|$result->{sqlstate}", '|38000', "$name: an error");
	$proxy->rules;
	is($other->query($unlock), 't', "$name: the lock was not broken");
}

#
# Many of them
#

# Everything is sent twice, or every answer comes late: two servers, two
# sessions of one of them, one lock.
foreach my $rule (
	{ path => $txn, do => 'repeat', ms => 0 },
	{ path => $txn, do => 'repeat', ms => 30 },
	{ do => 'delay_answer', ms => 20, path => '^/v3/' },
	{ path => $txn, do => 'drop_answer', times => 20 })
{
	my $name = join ' ', map { "$_=$rule->{$_}" } grep { $_ ne 'path' } sort keys %$rule;
	$proxy->rules($rule);
	my @sessions = ($session, $second, $other);
	foreach my $s (@sessions)
	{
		$s->send(<<'SQL' =~ s/\n/ /gr);
DO $$
DECLARE
	new bigint;
	old bigint = 0;
BEGIN
	FOR i IN 1 .. 20 LOOP
		new = etcd_lock('/name');
		IF new <= old THEN RAISE 'token % after %', new, old; END IF;
		old = new;
		PERFORM etcd_unlock('/name');
	END LOOP;
END
$$
SQL
	}
	is($_->result->{err}, '', "$name: all is well") foreach @sessions;
	$proxy->rules;
	wait_until("$name: no key is left", sub { !has_key() }, 4 * $keepalive + 10);
	higher_token($session->query($lock), $name);
	$session->query($unlock);
}
is_left_clean($etcd, $here, $there);
is(leases(), $leases, 'nothing of this has cost a lease');

#
# Watches
#

# A session of this server waits for the other one.
sub wait_for_other
{
	my ($rule) = @_;
	my $before = $proxy->hits('watch');
	if ($rule)
	{
		# the stream of all watches is opened anew
		$proxy->rules({ path => '^/v3/watch$', name => 'watch', %$rule });
		$proxy->reset;
	}
	higher_token($other->query($lock), 'watch');
	$session->send($lock);
	wait_until('the watch is asked for', sub { $proxy->hits('watch') > $before }) if $rule;
	wait_until('it stands in the queue', sub { $etcd->keys('/name/') == 2 });
	return;
}

foreach my $case (
	[ 'no fault', undef, 1 ],
	[ 'cut in the middle of an event',
		{ do => 'cut_answer', after => '"events"', bytes => 30 }, 1 ],
	[ 'cut in the acknowledgement',
		{ do => 'cut_answer', after => '"created"', bytes => 3, times => 1 }, 1 ],
	[ 'dropped at the first byte', { do => 'drop_answer', times => 1 }, 1 ],
	[ 'refused', { do => 'refuse' }, 1 ],
	[ 'never acknowledged', { do => 'hold' }, 1 ],
	[ 'late', { do => 'delay_answer', ms => 500 }, 2 ])
{
	my ($what, $rule, $limit) = @$case;
	my $name = "watch: $what";
	my $took = fastest(
		$limit,
		sub {
			wait_for_other($rule);
			my $begin = time;
			$other->query($unlock);
			my $result = $session->result;
			my $elapsed = time - $begin;
			is($result->{sqlstate}, '', "$name: granted");
			higher_token($result->{out}, $name);
			$session->query($unlock);
			$proxy->rules;
			$proxy->reset if $rule;
			return $elapsed;
		});
	cmp_ok($took, '<', $limit, "$name: in time");
	diag sprintf '%-50s granted after %.3f s', "$name:", $took;
}

# Open, acknowledged, and silent from then on.
{
	my $name = 'watch: silent';
	wait_for_other();
	wait_until(
		'the watch has been open for a while',
		sub { $session->{sent} + 1 < time });
	$proxy->rules({ path => '^/v3/watch$', name => 'silent', do => 'hold_answer' });
	my $begin = time;
	$other->query($unlock);
	my $result = $session->result;
	is($result->{sqlstate}, '', "$name: granted");
	higher_token($result->{out}, $name);
	cmp_ok($proxy->hits('silent'), '>', 0, "$name: the proxy has done it");
	cmp_ok(time - $begin, '<', 15, "$name: by looking from time to time");
	diag sprintf '%-50s granted after %.3f s', "$name:", time - $begin;
	$session->query($unlock);
	$proxy->rules;
	$proxy->reset;
}
# A waiter whose place is gone, and that gets no other one, does not know who has the lock.
{
	my $name = 'without a place';
	$other->query($lock);
	$session->send("SELECT etcd_try_lock('/name', '5 s')");
	wait_until("$name: it waits", sub { $etcd->keys('/name/') == 2 });
	my $lease = $here->safe_psql('postgres', 'SELECT lease FROM etcd_lock_status');
	my ($place) = grep { m{/$lease-} } $etcd->keys('/name/');
	$proxy->rules({ %put, do => 'hold' });
	$etcd->delete($place);
	my $result = $session->result;
	is("$result->{out}|$result->{sqlstate}", '|08006', "$name: no \"false\"");
	$proxy->rules;
	$proxy->reset;
	$other->query($unlock);
}

# A watch that has turned out to be silent is not relied on again.  The names are looked at at
# different moments, so that without a look that is soon one of them waits for long.
{
	my $name = 'watch: known to be silent';
	my $lease = $etcd->grant;
	my @waiters = map { session($here) } 1 .. 6;
	foreach my $i (0 .. $#waiters)
	{
		$etcd->put("/silent$i/$_", '', $lease) foreach 1, 2;
		$waiters[$i]->send("SELECT etcd_lock('/silent$i') > 0");
		wait_until("$name: it waits", sub { $etcd->keys("/silent$i/") == 3 });
		sleep 0.5;
	}
	$proxy->rules({ path => '^/v3/watch$', name => 'silent', do => 'hold_answer' });
	$etcd->delete("/silent$_/1") foreach 0 .. $#waiters;
	sleep 6;
	$etcd->delete("/silent$_/2") foreach 0 .. $#waiters;
	my $begin = time;
	is($_->result->{out}, 't', "$name: granted") foreach @waiters;
	cmp_ok(time - $begin, '<', 1.5, "$name: by looking often");
	diag sprintf '%-50s all granted after %.3f s', "$name:", time - $begin;
	$_->query('SELECT etcd_unlock_all()') foreach @waiters;
	$_->quit foreach @waiters;
	$etcd->revoke($lease);
	$proxy->rules;
	$proxy->reset;
}
is_left_clean($etcd, $here, $there);
is(leases(), $leases, 'nothing of this has cost a lease');

# Many waits that end before their watches are acknowledged: these do not take memory
# without bound, so the stream is given up after 10,000.
{
	my $name = 'watches that are never acknowledged';
	my $n = 10;
	$other->query("SELECT etcd_lock('/many/$_')") foreach 1 .. $n;
	$proxy->rules({ path => '^/v3/watch$', name => $name, do => 'hold' });
	$proxy->reset;
	wait_until_locks_work($session);
	my @sessions = map { session($here) } 1 .. $n;
	my $begin = time;

	# A wait may end before its watch is asked for, above all on a loaded machine: then
	# the next ones are longer.
	foreach my $round (1 .. 8)
	{
		my $ms = 10 * $round;
		$_->query("SET lock_timeout = '${ms}ms'") foreach @sessions;
		$sessions[ $_ - 1 ]->send(<<"END") foreach 1 .. $n;
DO \$\$
BEGIN
  FOR i IN 1 .. 500 LOOP
    BEGIN
      PERFORM etcd_lock('/many/$_');
    EXCEPTION WHEN lock_not_available THEN NULL;
    END;
  END LOOP;
END \$\$;
END
		$_->result foreach @sessions;
		last if $proxy->hits($name) > 1;
	}
	diag sprintf '%-50s %.1f s', "$name:", time - $begin;
	cmp_ok($proxy->hits($name), '>', 1, "$name: another stream");
	$_->quit foreach @sessions;
	$proxy->rules;
	$proxy->reset;
	$other->query('SELECT etcd_unlock_all()');
	wait_until_locks_work($session);
}

# A watch that is still open when nothing else gets through is given up: an etcd
# that is being stopped waits for it.
{
	my $name = 'watches on a link that has failed';
	$session->query($lock);
	wait_until("$name: their stream is open",
		sub { $proxy->open('/v3/watch') == 1 });
	$proxy->rules({ path => '^/v3/(?!watch)', do => 'refuse' });
	ok( eval { wait_until("$name: closed", sub { !$proxy->open('/v3/watch') }, $ttl / 2) },
		"$name: closed");
	$proxy->rules;
	is($session->query("SELECT etcd_lock_check('/name')"), 't',
		"$name: the lock is held");
	$session->query($unlock);
	is(leases(), $leases, "$name: with the same lease");
}

#
# The lease
#

# Some keepalives that get no answer cost nothing.
foreach my $do (qw(hold hold_answer drop_answer refuse))
{
	my $name = "keepalive, twice: $do";
	$session->query($lock);
	$proxy->rules({ path => '/lease/keepalive$', name => $name, do => $do, times => 2 });
	wait_until('they have failed', sub { $proxy->hits($name) == 2 });
	$proxy->rules;
	wait_until(
		'one is believed again',
		sub {
			$here->safe_psql('postgres',
				"SELECT ttl_left > interval '${\($ttl - 2)} s' FROM etcd_lock_status()") eq 't';
		});
	is($session->query("SELECT etcd_lock_check('/name')"), 't',
		"$name: the lock is held");
	$session->query($unlock);
}
is(leases(), $leases, 'nothing of this has cost a lease');

# Requests that are lost while others are answered hold up nobody else.
{
	my $name = 'as many requests are lost as may be in flight';
	my $third = session($here);
	$here->safe_psql('postgres', $_) foreach
	  "ALTER SYSTEM SET etcd_lock.request_timeout = '8s'", 'SELECT pg_reload_conf()';
	$proxy->rules(
		{ path => $txn, body => 'request_?put.*L2xvc3Qv', do => 'hold', times => 2, name => $name });
	my $sent = 0;
	foreach my $lost ($session, $second)
	{
		$sent++;
		$lost->send("SELECT etcd_lock('/lost/$sent') > 0; SELECT etcd_unlock('/lost/$sent')");
		wait_until('it is lost', sub { $proxy->hits($name) == $sent });
	}
	my $result = $third->try($lock);
	is($result->{sqlstate}, '', "$name: the next one is served");
	cmp_ok($result->{elapsed}, '<', 6, "$name: before they are given up");
	ok(!$_->done, "$name: which they are not yet") foreach $session, $second;
	$third->query($unlock);
	is($_->result->{out}, "t\nt", "$name: they are sent again later") foreach $session, $second;
	$third->quit;
	$here->safe_psql('postgres', $_) foreach
	  'ALTER SYSTEM RESET etcd_lock.request_timeout', 'SELECT pg_reload_conf()';
	$proxy->rules;
	is(leases(), $leases, "$name: with the same lease");
}

# All connections are gone, for less than the TTL.
{
	my $name = 'no connections for a while';
	$session->query($lock);
	$proxy->refuse;
	my $begin = time;
	$second->send("SELECT etcd_lock('/new') > 0; SELECT etcd_unlock('/new')");
	wait_until('a while', sub { time - $begin > 2 });
	$proxy->accept;
	is($second->result->{out}, "t\nt", "$name: who came meanwhile is served");
	is($session->query("SELECT etcd_lock_check('/name')"), 't',
		"$name: the lock is held");
	$session->query($unlock);
	is(leases(), $leases, "$name: with the same lease");
}

# Keepalives are answered, but the read that must confirm them is not: they are
# not believed.
{
	my $name = 'keepalives that nothing confirms';
	$session->query($lock);
	send_sleep($session);
	my $begin = time;
	$proxy->rules(
		{ path => '^/v3/kv/range$', do => 'hold_answer' });
	my $result = $session->result;
	is($result->{sqlstate}, '57014', "$name: the holder is told");
	cmp_ok(time - $begin, '<', $ttl, "$name: in time");
	diag sprintf '%-50s told after %.2f s', "$name:", time - $begin;
	$proxy->rules;
	$session->query($unlock);
	other_gets_it($name, $ttl + 20);
	is($session->query('SELECT etcd_try_lock(\'/name\')'),
		't', "$name: afterwards locks are granted");
	$session->query($unlock);
}

is_left_clean($etcd, $here, $there);
$_->quit foreach $session, $second, $other;

# At shutdown a connection breaks, and etcd changes its leader: the lease is revoked
# all the same, see finish().
$proxy->rules(
	{ path => '/lease/revoke$', name => 'revoke', do => 'refuse', times => 2 },
	{
		path => '/lease/revoke$', name => 'no leader', times => 2,
		EtcdLockTest::Proxy::refusal(14, 'etcdserver: leader changed')
	});
$here->stop('fast');
is($proxy->hits('revoke'), 2, 'revoke at shutdown: it is tried again');
is($proxy->hits('no leader'), 2, '... also when etcd has no leader');
finish($etcd, $here, $there);
$proxy->stop;
