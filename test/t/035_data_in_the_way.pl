# A key without a lease below a lock's name is somebody's data: because no wait would
# end it, an error names it; views show it as data, and nothing deletes it.

use strict;
use warnings;

use EtcdLockTest;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, qw(here there));
my ($session, $other) = (session($here), session($there));

sub is_named
{
	my ($sql, $key, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $result = $session->try($sql);
	is($result->{sqlstate}, '55000', "$name: an error");
	like($result->{err}, qr/is not a lock blocks etcd lock/, "$name: which says why");
	like($result->{err}, qr/DETAIL:  Key "\Q$key\E" has no lease\./, "$name: and names the key");
	return;
}

$etcd->put('/app/setting', 'precious');
foreach my $call (
	"etcd_lock('/app')",             "etcd_lock_shared('/app')",
	"etcd_xact_lock('/app')",        "etcd_try_lock('/app')",
	"etcd_try_lock('/app', '10 s')", "etcd_try_lock_shared('/app')",
	"etcd_try_once('/app', '2030-01-01')")
{
	is_named("SELECT $call", '/app/setting', $call);
}
is_named("CALL etcd_lock_wait('/app')", '/app/setting', 'CALL');
is($session->query("SELECT etcd_lock('/app/setting') > 0, etcd_unlock('/app/setting')"),
	't|t', 'a name next to it');
$etcd->put('/app/read/setting', '1');
$etcd->delete('/app/setting');
is_named("SELECT etcd_try_lock('/app')", '/app/read/setting', 'below <name>/read/');
is($session->query("SELECT etcd_try_lock_shared('/app'), etcd_unlock_shared('/app')"),
	't|t', '... which does not hinder sharers');
$etcd->delete('/app/read/');
is($session->query("SELECT etcd_try_lock('/app')"), 't', 'gone: the lock is free');

# It comes while the lock is held: who waits for the holder need not wait for it.
$etcd->put("/app/a\x01b", 'precious');
is($session->query("SELECT etcd_lock_check('/app')"), 't', 'the holder is not disturbed');
is($other->try("SELECT etcd_lock('/app')")->{sqlstate}, '55000', 'a newcomer gets an error');
wait_until('its own key is gone again', sub { $etcd->keys('/app/') == 2 });
is( $other->query(<<'SQL'), "1|exclusive|t|t\n2|no lock|f|f", 'the queue shows what it is');
SELECT position, mode, granted, lease IS NOT NULL FROM etcd_lock_queue('/app')
SQL
is($session->query("SELECT etcd_unlock('/app')"), 't', 'unlocked');
is($other->query(<<'SQL'), 'no lock|f', '... then, too');
SELECT mode, granted FROM etcd_lock_queue('/app')
SQL

# The way to break every lock that is shown.
my $result = $other->try(<<'SQL');
SELECT etcd_lock_break(name, create_revision << 20) FROM etcd_lock_queue('/app')
SQL
is($result->{sqlstate}, '55000', 'it is not broken');
like($result->{err}, qr/DETAIL:.*is not a lock: it has no lease/, 'which says why');
is($other->query(<<'SQL'), '', "nor by the README's query");
SELECT etcd_lock_break(name, create_revision << 20) FROM etcd_lock_queue('/app') WHERE granted
SQL
is(scalar $etcd->keys('/app/'), 1, 'it is still there');

# A foreign lock is one.
$etcd->delete('/app/');
my $client = EtcdLockTest::EtcdctlLock->new($etcd, '/app');
wait_until('etcdctl has it', sub { $client->held });
is($session->query("SELECT etcd_try_lock('/app')"), 'f', 'a client with a lease has the lock');
is($session->query(<<'SQL'), 't', 'and can be broken');
SELECT etcd_lock_break(name, create_revision << 20) FROM etcd_lock_queue('/app') WHERE granted
SQL
is($session->query("SELECT etcd_try_lock('/app')"), 't', 'then it is free');
$client->release;

$session->query('SELECT etcd_unlock_all()');
$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, $here, $there);
$_->quit foreach $session, $other;
finish($etcd, $here, $there);
