# Responses of etcd that contain a lie, or belong to another request, and foreign
# clients that put anything below our names.  Each time, no lock is granted wrongly, the
# worker limits its memory and carries on, and locks work again afterwards.
#
# Servers that are not etcd at all are in test/tools/101_hostile_server.pl.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep time);

my $connect_timeout = 1;
my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $conf = <<"END";
etcd_lock.lease_ttl = '6s'
etcd_lock.request_timeout = '1s'
etcd_lock.connect_timeout = '${connect_timeout}s'
END
my $here = start_server('here', endpoints => $proxy->url, conf => $conf);
my $there = start_server('there', endpoints => $etcd->endpoint);
my ($session, $holder, $other) =
  (session($here), session($here), session($there));
my $worker;

#
# Answers of etcd's with a lie in them, or to another request
#

my $lies = 0;

# A session holds '/held'; the proxy changes answers for a while.
sub lies
{
	my ($name, $rule, $check) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_until_locks_work($session);
	$worker = worker_pid($here);
	# one that nothing is known of yet
	my $x = '/x' . ++$lies;
	$other->query("SELECT etcd_lock('$x')");
	$holder->query("SELECT etcd_unlock_all(); SELECT etcd_lock('/held')");
	$holder->query("SELECT etcd_lock('/held2')");
	$proxy->rules({ name => $name, %$rule });
	$session->query("SET statement_timeout = '1500 ms'");
	my @results = map { $session->try($_) } "SELECT etcd_lock('$x')", "SELECT etcd_try_lock('$x')";
	$session->query('RESET statement_timeout');
	foreach my $result (@results)
	{
		ok($result->{sqlstate} ne '' || $result->{out} eq 'f',
			"$name: the lock that another server has is not granted")
		  or diag($result->{out});
	}
	wait_until("$name: the proxy has done it", sub { $proxy->hits($name) });
	$check->() if $check;
	foreach my $lock ('/held', '/held2')
	{
		my $belief = $holder->try("SELECT etcd_lock_check('$lock')");
		my $has_key = scalar(my @keys = $etcd->keys("$lock/write/"));
		ok($belief->{out} ne 't' || $has_key, "$name: $lock is held, or not believed to be");
		note "$name: $lock: $belief->{out}$belief->{sqlstate}";
	}
	$proxy->rules;
	$other->query('SELECT etcd_unlock_all()');
	wait_until_locks_work($session);
	is(worker_pid($here), $worker, "$name: with the same worker");
	return;
}

my $kv = '^/v3/kv/';
foreach my $case (
	[ 'a revision that is too high', { path => $kv, match => '"revision": ?"\d+"', with => '"revision":"9223372036854775807"' } ],
	[ 'a revision that is high', { path => $kv, match => '"revision": ?"\d+"', with => '"revision":"8796093022207"' } ],
	[ 'a revision that is too low', { path => $kv, match => '"revision": ?"\d+"', with => '"revision":"1"' } ],
	[ 'a key created in the future',
		{ path => $kv, match => '"create_revision": ?"\d+"', with => '"create_revision":"9223372036854775807"' } ],
	[ 'keys of another lock', { path => $kv, match => '"key": ?"[^"]+"', with => '"key":"L290aGVyL3gvMQ=="' } ],
	[ 'no keys', { path => $kv, match => '"kvs": ?\[[^\]]*\]', with => '"kvs":[]' } ],
	[ 'a compare that did not fail', { path => '/txn$', match => '"succeeded": ?true', with => '"succeeded":false' } ],
	[ 'a TTL of centuries', { path => '/lease/', match => '"TTL": ?"\d+"', with => '"TTL":"9223372036854775807"' } ],
	[ 'no TTL', { path => '/lease/', match => '"TTL": ?"\d+"', with => '"TTL":"0"' } ],
	[ 'a negative TTL', { path => '/lease/', match => '"TTL": ?"\d+"', with => '"TTL":"-9223372036854775808"' } ],
	[ 'another lease', { path => '/lease/', match => '"ID": ?"\d+"', with => '"ID":"5"' } ],
	[ 'another cluster', { path => $kv, match => '"cluster_id": ?"\d+"', with => '"cluster_id":"77"' } ])
{
	my ($what, $rule) = @$case;
	lies("a lie: $what", { do => 'edit_answer', %$rule });
}
foreach my $path ('/kv/txn$', '/kv/range$', '/lease/keepalive$', '^/v3/')
{
	lies("the answer to an earlier request: $path", { do => 'stale_answer', path => $path });
}

# Keys of others, in the list of those on our lease.
{
	my $name = 'a lie: others\' keys on our lease';
	$etcd->call('/v3/kv/put', { key => encode_base64($_, ''), value => '' })
	  foreach '/others/1', '/others/write/1234-000000000001';
	my $list = join ',', map { '"' . encode_base64($_, '') . '"' } '/others/1', '/others/write/1234-000000000001';
	lies(
		$name,
		{ do => 'edit_answer', path => '/timetolive$', match => '"keys": ?\[', with => "\"keys\":[$list," },
		sub {
			wait_until('some keepalives', sub { $proxy->hits($name) > 2 });
		});
	is(scalar(my @keys = $etcd->keys('/others/')), 2, "$name: they are not deleted");
	$etcd->delete('/others/');
}

# Nothing is sent twice: an answer that is lost leaves it to us to find out.
{
	my $name = 'a put whose answer is lost';
	wait_until_locks_work($session);
	$proxy->rules({ path => '/txn$', body => 'request_?put', name => $name, do => 'drop_answer', times => 1 });
	my $result = $session->try("SELECT etcd_lock('/once') > 0");
	is($result->{out}, 't', "$name: granted") or diag($result->{err});
	is($proxy->hits($name), 1, "$name: the proxy has done it");
	$proxy->rules;
	is($session->query("SELECT etcd_lock_check('/once')"), 't', "$name: it is held");
	$session->query("SELECT etcd_unlock('/once')");
	wait_until("$name: no key is left", sub { !$etcd->keys('/once/') });
	pass("$name: no key is left");
}

#
# Foreign keys
#

# On a lease of their own: what has none is no lock.
my $foreign = $etcd->grant;

sub put
{
	my ($key, %options) = @_;
	return $etcd->call(
		'/v3/kv/put',
		{
			key => encode_base64($key, ''),
			value => encode_base64($options{value} // '', ''),
			lease => $options{lease} // $foreign
		});
}

sub key_of
{
	my ($lock) = @_;
	my ($key) = $etcd->keys("$lock/write/");
	return $key;
}

# Keys in which ours are hidden: behind a NUL they are others.
{
	my $name = 'our own key, and more behind a NUL';
	$holder->query("SELECT etcd_unlock_all(); SELECT etcd_lock('/held')");
	my $key = key_of('/held');
	my $lease = $etcd->lease_of('/held/');
	my ($number) = $key =~ /-(\d+)$/;
	my $far = '9' x length $number;
	put($_, lease => $lease)
	  foreach "$key\0", "$key\0x", "$key\0-$number", "$key\0-$far", "$key/x", "$key\xff";
	put("$key\0other");
	my $offset = $proxy->requests;
	wait_until("$name: some keepalives", sub { $proxy->requests > $offset + 9 });
	is($holder->query("SELECT etcd_lock_check('/held')"), 't', "$name: the lock is held");
	is(key_of('/held'), $key, "$name: by the same key");
	$holder->query("SELECT etcd_unlock('/held')");
	$etcd->delete('/held/');
}

# With our lease in their names, and on our lease.
{
	my $name = 'keys with our lease\'s id';
	$other->query("SELECT etcd_lock('/x')");
	$holder->query("SELECT etcd_lock('/held')");
	my ($lease) = key_of('/held') =~ m{/(\w+)-\d+(?:-keep\d+)?$};
	my $id = $etcd->lease_of('/held/');
	put("/x/$_/$lease-000000000001", lease => $id) foreach qw(read write);
	put("/x/write/$lease-", lease => $id);
	put("/x/write/$lease-\0", lease => $id);
	put("/x/$lease", lease => $id);
	put('/unrelated', lease => $id);
	is($session->query("SELECT etcd_try_lock('/x')"), 'f', "$name: are no lock of ours");
	wait_until("$name: those like ours are deleted",
		sub { !grep { m{^/x/(read|write)/$lease-\d+$} } $etcd->keys('/x/') });
	is(join(' ', $etcd->keys('/unrelated')), '/unrelated', "$name: others are left alone");
	$etcd->delete($_) foreach '/x/write/' . $lease, "/x/$lease", '/unrelated';
	is($holder->query("SELECT etcd_lock_check('/held')"), 't', "$name: the lock is held");
	$other->query("SELECT etcd_unlock('/x')");
	is($session->query("SELECT etcd_try_lock('/x')"), 't', "$name: and are gone");
	$session->query("SELECT etcd_unlock('/x')");
	$holder->query("SELECT etcd_unlock('/held')");
}

# Of any shape below a lock's name.
{
	my $name = 'foreign keys of any shape';
	my @shapes = map { "/f$_" } '/', '//', '/read', '/read/', '/write/', '/read//', '/read/a/b',
	  '/write/a/b/c', "/deeper/write/1-1\0", '/ ', 'x', '/../x/write/1';
	put($_) foreach @shapes;
	is($session->query("SELECT etcd_try_lock_shared('/f')"), 'f', "$name: a plain key is in the way");
	$etcd->delete('/f/ ');
	$etcd->delete('/f/read');
	put('/f/read/');
	put('/f/read/a/b');
	is($session->query("SELECT etcd_try_lock('/f')"), 't', "$name: what belongs to no lock is not");
	$session->query("SELECT etcd_unlock('/f')");
	my $bytes = join '', map { chr } 1 .. 46, 48 .. 255;
	put("/f/$bytes", value => 'v' x 1_000_000);
	put("/f/read/\0\0", value => '[' x 100_000);
	put("/f/write/\xff\xfe", value => '{"server":' x 10_000);
	put('/f/json', value => '{"a":' . '[0,' x 300_000);
	$worker = worker_pid($here);
	my $before = forget_peak($worker);
	foreach my $mode ('', '_shared')
	{
		is($session->query("SELECT etcd_try_lock$mode('/f')"), 'f', "$name: binary keys are in the way$mode");
	}
	$session->send("SELECT etcd_lock('/f') > 0");
	wait_until_waiting($session);

	# On a loaded machine, a megabyte may take longer than request_timeout.
	my $shown;
	wait_until("$name: a response",
		sub { ($shown = $holder->try("SELECT count(*) FROM etcd_lock_queue('/f')"))->{sqlstate} ne '08006' });
	is($shown->{out}, 5, "$name: etcd_lock_queue() shows them") or diag($shown->{err});
	cmp_ok(memory_of($worker, 'VmHWM') - $before, '<', 30_000, "$name: in bounded memory");
	$etcd->delete('/f/');
	is($session->result->{out}, 't', "$name: granted when they are gone");
	$session->query("SELECT etcd_unlock('/f')");
	$etcd->delete('/f');
}

# Thousands of them.
sub crowd
{
	my ($lock, $n, $length) = @_;
	my $batch = $length > 500 ? 100 : 128;
	for (my $i = 0; $i < $n; $i += $batch)
	{
		$etcd->call(
			'/v3/kv/txn',
			{
				success => [
					map {
						{
							request_put => {
								lease => $foreign,
								key => encode_base64(
									"$lock/" . sprintf('%06d', $_) . 'k' x ($length - length($lock) - 7), '')
							}
						}
					} $i .. $i + $batch - 1
				]
			});
	}
	return;
}

{
	my $name = 'thousands of keys';
	crowd('/crowd', 5000, 40);
	is($session->query("SELECT etcd_try_lock('/crowd')"), 'f', "$name: are in the way");
	$session->send("SELECT etcd_lock('/crowd') > 0");
	wait_until_waiting($session);
	my $begin = time;
	$other->query("SELECT etcd_lock('/x'); SELECT etcd_unlock('/x')");
	$holder->query("SELECT etcd_lock('/x'); SELECT etcd_unlock('/x')");
	cmp_ok(time - $begin, '<', 10, "$name: others are served meanwhile");
	$etcd->delete('/crowd/');
	is($session->result->{out}, 't', "$name: granted when they are gone");
	$session->query("SELECT etcd_unlock('/crowd')");
}
# A queue that takes more than a second to read, maybe, and keeps etcd busy: without the
# proxy, and with time.
{
	my $name = 'more keys than an answer may hold';
	$holder->query('SELECT etcd_unlock_all()');
	$here->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.$_ = '20s'")
	  foreach qw(request_timeout connect_timeout);
	$here->safe_psql('postgres', "ALTER SYSTEM SET etcd_lock.lease_ttl = '60s'");
	set_endpoints($here, $etcd->endpoint);
	wait_until("$name: a long lease", sub {
			no warnings 'portable';
			my ($lease, $is_long) = split /\|/,
			  $here->safe_psql('postgres', "SELECT lease, ttl_left > '20 s' FROM etcd_lock_status()");
			return 1 if ($is_long // '') eq 't';
			eval { $etcd->revoke(hex $lease) } if $lease;
			sleep 1;
			return 0;
		});
	crowd('/huge', 8500, 2000);
	wait_until_locks_work($session);
	$worker = worker_pid($here);
	my $before = forget_peak($worker);
	my @neighbours = map { session($here) } 1 .. 4;
	$holder->query("SELECT etcd_lock('/held')");
	foreach my $sql ("SELECT etcd_try_lock('/huge')", "SELECT etcd_lock('/huge')", "SELECT etcd_lock_shared('/huge')")
	{
		$session->send($sql);
		foreach my $round (1 .. 5)
		{
			$_->send("SELECT etcd_lock('/n' || pg_backend_pid()) > 0; SELECT etcd_unlock_all()") foreach @neighbours;
			is(join('', map { $_->result->{out} =~ s/\s//gr } @neighbours), 'tttt',
				"$name: $sql: others are served meanwhile");
		}
		my $result = $session->result;
		is($result->{sqlstate}, '54000', "$name: $sql: an error") or diag("$result->{out}$result->{err}");
		like($result->{err}, qr/\/huge.*longer than/s, "$name: $sql: that tells why");
		diag sprintf '%-40s %s after %.2f s', $sql, $result->{sqlstate}, $result->{elapsed};
	}
	is($holder->query("SELECT etcd_lock_check('/held')"), 't', "$name: a lock is held");
	my $peak = memory_of($worker, 'VmHWM') - $before;
	cmp_ok($peak, '<', 150_000, "$name: in bounded memory");
	diag "$name: $peak kB more";
	is(worker_pid($here), $worker, "$name: the same worker");
	$etcd->delete('/huge/');
	is($session->query("SELECT etcd_try_lock('/huge')"), 't', "$name: it can be had when they are gone");
	$_->quit foreach @neighbours;
}

unlike(
	PostgreSQL::Test::Utils::slurp_file($here->logfile),
	qr/terminated by signal|PANIC:|exited with exit code/,
	'no process has crashed, and the worker never ended');

$etcd->revoke($foreign);
$_->query('SELECT etcd_unlock_all()') foreach $session, $holder, $other;
is_left_clean($etcd, $here, $there);
$_->quit foreach $session, $holder, $other;
finish($etcd, $here, $there);
$proxy->stop;
