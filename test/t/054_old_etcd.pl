# Releases of etcd with faults that matter here are named in the log, once each; and
# nobody is warned of those that do not.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use PostgreSQL::Test::Utils;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
$etcd->enable_auth(app => 'app', ['']);
# Etcd from 3.5.28 on shows its status to no other user.
$etcd->etcdctl_root('user', 'grant-role', 'app', 'root');
my $password_file = PostgreSQL::Test::Utils::tempdir('client') . '/password';
append_to_file($password_file, "app\n");
chmod 0600, $password_file;
my $here = start_server('here', endpoints => $proxy->url, conf => <<"END");
etcd_lock.username = 'app'
etcd_lock.password_file = '$password_file'
END

# What it says of the real etcd must not come into what follows.
wait_until('the server has seen etcd', sub {
	$here->safe_psql('postgres', 'SELECT server_version FROM etcd_lock_status()') ne '' });

sub warnings_of
{
	my ($version) = @_;
	my $offset = -s $here->logfile;
	$here->stop('fast');
	$proxy->rules({ path => '/maintenance/status$', do => 'edit_answer', match => '"version": ?"[^"]*"', with => qq("version": "$version") });
	$here->start;
	wait_until("$version: the server has seen it", sub {
		$here->safe_psql('postgres', 'SELECT server_version FROM etcd_lock_status()') eq $version });
	return [ map { /WARNING:\s+etcd_lock: (etcd .*)/ ? $1 : () } split /\n/, slurp_file($here->logfile, $offset) ];
}

my ($shows, $revokes) =
  ('shows the names of locks to users of etcd who may not read them', 'can revoke leases that are alive');
my %expected = (
	'3.3.9' => [ $revokes, $shows ],
	'3.4.25' => [ $revokes, $shows ],
	'3.4.26' => [$revokes],
	'3.4.31' => [],
	'3.5.8' => [ $revokes, $shows ],
	'3.5.9' => [$revokes],
	'3.5.13' => [],
	'3.6.0' => []);
foreach my $version (sort keys %expected)
{
	is_deeply(warnings_of($version), [ map { "etcd $version $_" } @{ $expected{$version} } ], "etcd $version");
}

# Where all may read everything, there is nothing to hide.
$etcd->etcdctl_root('auth', 'disable');
delete $etcd->{token};
$here->append_conf('postgresql.conf', "etcd_lock.username = ''");
is_deeply(warnings_of('3.4.25'), ["etcd 3.4.25 $revokes"], 'without users');

$proxy->rules;
finish($etcd, $here);
