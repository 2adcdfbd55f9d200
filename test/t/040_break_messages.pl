# Anybody who may write below a server's key in etcd can leave messages that its locks
# were broken.  They are not believed, and do not fill the log.

use strict;
use warnings;

use EtcdLockTest;
use JSON::PP;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, qw(here there));
my ($holder, $breaker) = (session($here), session($there));
$holder->query("SELECT etcd_lock('/broken')");
my ($lease, $key, $revision) = split /\|/, $breaker->query(
	"SELECT lease, key, create_revision FROM etcd_lock_queue('/broken')");
my ($serial) = $key =~ /-(\d+)$/ or die "no serial in $key";
my $sentinel = ".etcd_lock/server/$lease";
my $log = sub { slurp_file($here->logfile) };

my $value = encode_json({ server => 'x' x 2_000, user => "a\nb", pid => 1 });
foreach my $name ('/broken', '/other')
{
	my $i = 0;
	foreach my $number ($serial, map { sprintf '%012d', $_ } 900_000 .. 900_019)
	{
		$etcd->put("$sentinel/broken/$name/$lease-$number", $value);
	}
}
my $again = session($there);
wait_until('they are deleted', sub { !$etcd->keys("$sentinel/broken/") });
is($holder->query("SELECT etcd_lock_check('/broken')"), 't', 'the lock is held');
unlike($log->(), qr/was broken/, 'and the log does not say otherwise');

# The real one, in the same Txn as the deletion.
send_sleep($holder);
is($breaker->query("SELECT etcd_lock_break('/broken', $revision << 20)"), 't', 'broken');
is($holder->result->{sqlstate}, '57014', 'the holder is told');
wait_until('it is logged', sub { $log->() =~ /lock "\/broken" was broken by/ });
wait_until('the message is deleted', sub { !$etcd->keys("$sentinel/broken/") });
is(scalar(grep { /LOG:  etcd_lock: lock .* was broken by/ } split /\n/, $log->()), 1, 'once');
cmp_ok(length($log->()), '<', 100_000, 'the log is short');

$holder->query('SELECT etcd_unlock_all()');
is_left_clean($etcd, $here, $there);
$_->quit foreach $holder, $breaker, $again;
finish($etcd, $here, $there);
