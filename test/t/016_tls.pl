# TLS to etcd: certificates of both sides, what can be wrong with them, and their
# renewal without losing a lock.

use strict;
use warnings;

use EtcdLockTest;
use File::Copy qw(copy);
use IO::Socket::INET;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# An etcd that is stopped and started needs some seconds, on a loaded machine more.
my $ttl = 30;
my $connect_timeout = 5;
my $ca = EtcdLockTest::Certificates->new;
my $other_ca = EtcdLockTest::Certificates->new('another authority');
my $etcd =
  EtcdLockTest::Etcd->new(tls => { %{ $ca->issue }, ca => $ca->file });

# What the servers are given: files that can be replaced.
my $dir = PostgreSQL::Test::Utils::tempdir('client');
my %file = map { $_ => "$dir/$_" } qw(cacert cert key);

sub install
{
	my ($content, $file, $mode) = @_;
	copy($content, "$file.new") or die "could not copy $content: $!";
	chmod $mode // 0600, "$file.new";
	rename "$file.new", $file or die "could not rename $file: $!";
	return;
}

sub install_client
{
	my ($pair) = @_;
	install($pair->{cert}, $file{cert});
	install($pair->{key}, $file{key});
	return;
}

install($ca->file, $file{cacert});
install_client($ca->issue);

my $conf = <<"END";
etcd_lock.cacert = '$file{cacert}'
etcd_lock.cert = '$file{cert}'
etcd_lock.key = '$file{key}'
etcd_lock.lease_ttl = '${ttl}s'
etcd_lock.connect_timeout = '${connect_timeout}s'
log_min_messages = debug5
END
my ($here, $there) =
  map { start_server($_, endpoints => $etcd->endpoint, conf => $conf) }
  qw(here there);
my ($holder, $waiter, $prober) = (session($here), session($there), session($here));

sub status
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		'SELECT state, lease, last_error FROM etcd_lock_status()');
}

# The lock works between servers, by https alone.
{
	like($etcd->endpoint, qr/^https:/, 'the endpoint speaks https');
	$holder->query("SELECT etcd_lock('/held')");
	is($waiter->query("SELECT etcd_try_lock('/held')"), 'f', 'https: the lock is taken');
	$waiter->send("SELECT etcd_lock('/held')");
	wait_until_waiting($waiter);
	$holder->query("SELECT etcd_unlock('/held')");
	my $result = $waiter->result;
	is($result->{sqlstate}, '', 'https: the lock is handed over');
	cmp_ok($result->{elapsed}, '<', 10, 'https: without delay');
	$waiter->query("SELECT etcd_unlock('/held')");
}

# From here on, somebody holds a lock, and somebody else waits for it.
$holder->query("SELECT etcd_lock('/held')");
$waiter->send("SELECT etcd_lock('/held')");
wait_until_waiting($waiter);
my ($lease) = status($here) =~ /^ready\|(\w+)\|/ or die status($here);

sub nothing_is_lost
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like(status($here), qr/^ready\|$lease\|/, "$name: the lease lives");
	is($holder->query("SELECT etcd_lock_check('/held')"), 't', "$name: the lock is held");
	is($prober->query("SELECT etcd_try_lock('/new'), etcd_unlock('/new')"),
		't|t', "$name: new locks are granted");
	ok(!$waiter->done, "$name: the waiter waits");
	return;
}

# Files that cannot be used: said in the log and in the status, and what was
# read before stays in use.
{
	my $good = { cert => "$dir/good.crt", key => "$dir/good.key" };
	install($file{$_}, $good->{$_}) foreach qw(cert key);
	my $other = $ca->issue;
	my %bad = (
		'key that others may read' => [
			sub { install($good->{key}, $file{key}, 0644) },
			qr/file "\S+key" has group or world access/
		],
		'key that the group may read' => [
			sub { install($good->{key}, $file{key}, 0640) },
			qr/file "\S+key" has group or world access/
		],
		'key that we may not read' => [
			sub { install($good->{key}, $file{key}, 0000) },
			qr/could not open file "\S+key": Permission denied/
		],
		'key of another certificate' => [
			sub { install($other->{key}, $file{key}) },
			qr/private key file "\S+key" does not belong to certificate file "\S+cert"/
		],
		'key that is none' => [
			sub { install($good->{cert}, $file{key}) },
			qr/could not load private key file "\S+key": /
		],
		'no key' => [
			sub { unlink $file{key} },
			qr/could not open file "\S+key": No such file/
		],
		'directory as certificate' => [
			sub { unlink $file{cert}; mkdir $file{cert} },
			qr/"\S+cert" is not a regular file/,
			sub { rmdir $file{cert} }
		],
		'pipe as certificate' => [
			sub { unlink $file{cert}; POSIX::mkfifo($file{cert}, 0600) },
			qr/"\S+cert" is not a regular file/
		],
		'cut certificate' => [
			sub { truncate $file{cert}, 100 },
			qr/could not load certificate file "\S+cert": /
		],
		'cut root certificate' => [
			sub { truncate $file{cacert}, 100 },
			qr/could not load root certificate file "\S+cacert": /
		],
		'empty root certificate' => [
			sub { truncate $file{cacert}, 0 },
			qr/could not load root certificate file "\S+cacert": /
		]);
	foreach my $name (sort keys %bad)
	{
		my ($break, $message, $mend) = @{ $bad{$name} };
		my $offset = -s $here->logfile;
		$break->();
		$here->reload;
		is_logged($here, $offset, qr/LOG:.*could not reload certificates: $message/,
			"$name: the log says it");
		like(status($here), qr/^ready\|$lease\|$message/, "$name: so does the status");
		nothing_is_lost($name);
		$mend->() if $mend;
		install($good->{$_}, $file{$_}) foreach qw(cert key);
		install($ca->file, $file{cacert});
	}
	$here->reload;
}

# A server that starts with a bad key has no link, and says why; it takes the
# key as soon as it is good, without being told.
{
	my $third = new_server(
		'third',
		endpoints => $etcd->endpoint,
		conf => $conf . "etcd_lock.key = '$dir/late'\n");
	install($file{key}, "$dir/late", 0644);
	$third->start;
	$third->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
	my $session = session($third);
	my $result = $session->try("SELECT etcd_lock('/new')");
	is($result->{sqlstate}, '08006', 'bad key at the start: no link');
	like($result->{err}, qr/DETAIL:.*"\S+late" has group or world access/,
		'bad key at the start: the caller is told why');
	is_logged($third, 0, qr/LOG:.*could not load certificates: .*"\S+late" has group or world access/,
		'bad key at the start: so does the log');
	chmod 0600, "$dir/late";
	is($session->query("SELECT etcd_lock('/new') > 0"),
		't', 'bad key at the start: used as soon as it is good');
	$session->quit;
	$third->stop;
}

# What a server says of a certificate that it does not believe, and if there is none; etcd
# made with an old Go says the first in both cases.
my $says_refused = qr/alert (?:bad certificate|unknown ca)/;
my $says_required = qr/certificate required.* \(the endpoint requires a client certificate\)/;

# New certificates from a new authority on both sides, while locks are held and
# waited for.  Etcd is restarted last, and then takes nothing of the old ones.
{
	my $both = "$dir/both";
	append_to_file($both, slurp_file($ca->file) . slurp_file($other_ca->file));
	install($both, $file{cacert});
	install_client($other_ca->issue);
	$_->reload foreach $here, $there;
	$etcd->stop;
	$etcd->{tls} = { %{ $other_ca->issue }, ca => $other_ca->file };
	$etcd->start;
	is($prober->query("SELECT etcd_lock('/new') > 0"), 't', 'new authority: locks are granted');
	$prober->query("SELECT etcd_unlock('/new')");
	nothing_is_lost('new authority');

	# The old one is no longer believed by etcd, so the new files are in use.
	my $name = 'old certificate';
	my $third = start_server('fourth', endpoints => $etcd->endpoint,
		conf => $conf . join '', map { "etcd_lock.$_ = '$dir/good." . ($_ eq 'key' ? 'key' : 'crt') . "'\n" } qw(cert key));
	my $session = session($third);
	my $result = $session->try("SELECT etcd_lock('/new')");
	is($result->{sqlstate}, '08006', "$name: refused by etcd");
	like($result->{err}, qr/DETAIL:.*$says_refused/, "$name: the caller is told why");
	diag($result->{err} =~ /DETAIL:\s+(.*)/);

	# None at all.
	$name = 'no certificate';
	my $offset = -s $etcd->{log};
	$third->append_conf('postgresql.conf', "etcd_lock.cert = ''\netcd_lock.key = ''");
	$third->reload;
	$result = $session->try("SELECT etcd_lock('/new')");
	is($result->{sqlstate}, '08006', "$name: refused by etcd");
	like($result->{err}, qr/DETAIL:.*(?:$says_refused|$says_required)/, "$name: the caller is told why");
	diag($result->{err} =~ /DETAIL:\s+(.*)/);
	wait_until("$name: etcd says so",
		sub { slurp_file($etcd->{log}, $offset) =~ /client didn't provide a certificate/ });
	pass("$name: etcd says so");

	# A key without its certificate.
	$name = 'key without certificate';
	$offset = -s $third->logfile;
	$third->append_conf('postgresql.conf', "etcd_lock.key = '$file{key}'");
	$third->reload;
	is_logged($third, $offset, qr/"etcd_lock.cert" and "etcd_lock.key" must be set together/, "$name: said");
	$session->quit;
	$third->stop;

	# Both hear of the end of the old authority.
	install($other_ca->file, $file{cacert});
	$_->reload foreach $here, $there;
	nothing_is_lost('old authority gone');
	$holder->query("SELECT etcd_unlock('/held')");
	my $handed = $waiter->result;
	is($handed->{sqlstate}, '', 'new authority: the lock is handed over');
	$waiter->query("SELECT etcd_unlock('/held')");
}

# A certificate that etcd refuses: nothing happens while the old connection lasts, and
# when it has ended, the log says why there is no other.
my $relay;

END
{
	my $exit_code = $?;
	$relay->kill_kill if $relay;
	$? = $exit_code;
}

{
	my $name = 'refused certificate';
	my $relay_port = PostgreSQL::Test::Cluster::get_free_port();
	$relay = IPC::Run::start([ '/usr/bin/python3', '-c', <<'END', $relay_port, $etcd->endpoint =~ /:(\d+)$/ ]);
import asyncio, signal, sys
writers = set()
async def pump(reader, writer):
    writers.add(writer)
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writers.discard(writer)
    writer.close()
async def serve(reader, writer):
    up_reader, up_writer = await asyncio.open_connection('127.0.0.1', int(sys.argv[2]))
    await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
def cut():
    for writer in writers:
        writer.transport.abort()
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, cut)
    server = await asyncio.start_server(serve, '127.0.0.1', int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
END
	wait_until('the relay listens', sub { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$relay_port") });
	my %its = map { $_ => "$dir/its.$_" } qw(cert key);
	my $good = $other_ca->issue;
	my $refused = $ca->issue;
	install($good->{$_}, $its{$_}) foreach qw(cert key);
	my $third = start_server('fifth', endpoints => "https://127.0.0.1:$relay_port",
		conf => $conf . join '', map { "etcd_lock.$_ = '$its{$_}'\n" } qw(cert key));
	my $session = session($third);
	$session->query("SELECT etcd_lock('/new'), etcd_unlock('/new')");
	install($refused->{$_}, $its{$_}) foreach qw(cert key);
	$third->reload;
	wait_until("$name: it is seen", sub {
			$session->query('SELECT count(*) FROM etcd_lock_endpoints() WHERE NOT healthy') == 1 });
	is($session->query("SELECT etcd_lock('/new') > 0, etcd_unlock('/new')"), 't|t', "$name: the old connection serves");
	my $offset = -s $third->logfile;
	$relay->signal('USR1');
	is_logged($third, $offset, qr/no link to etcd at "\S+": .*$says_refused/,
		"$name: said when there is no other connection");
	install($good->{$_}, $its{$_}) foreach qw(cert key);
	$third->reload;
	wait_until("$name: another one serves", sub { status($third) =~ /^ready\|/ });
	$session->quit;
	$third->stop;
}

# Endpoints that must not be believed: in the log, in the status, and in the
# caller's error.
{
	my $expired =
	  EtcdLockTest::Etcd->new(tls => $other_ca->issue(days => -1));
	my $unknown = EtcdLockTest::Etcd->new(tls => $ca->issue);
	my $plain = $etcd->endpoint(1);
	my %bad = (
		'expired' => [ $expired->endpoint, qr/certificate has expired/ ],
		'unknown authority' =>
		  [ $unknown->endpoint, qr/unable to get local issuer certificate|self.signed/ ],
		'wrong host' => [
			$etcd->endpoint =~ s/127\.0\.0\.1/localhost/r,
			qr/(?:no alternative certificate )?subject name.* 'localhost'/
		],
		'http spoken by an https endpoint' =>
		  [ $plain =~ s/^http:/https:/r, qr/\(does the endpoint speak http\?\)/ ],
		'https spoken by an http endpoint' => [
			$etcd->endpoint =~ s/^https:/http:/r,
			qr/HTTP request to an HTTPS server|speak https\?/
		]);
	foreach my $name (sort keys %bad)
	{
		my ($url, $message) = @{ $bad{$name} };
		my $offset = -s $here->logfile;
		set_endpoints($here, $url);
		wait_until("$name: the link is down",
			sub { status($here) =~ /^(?:disconnected|no lease)\|/ });
		my $result = $prober->try("SELECT etcd_lock('/new')");
		is($result->{sqlstate}, '08006', "$name: no lock");
		like($result->{err}, qr/DETAIL:\s+\Q$url\E: .*$message/, "$name: the caller is told why");
		like(status($here), $message, "$name: so does the status");
		is_logged($here, $offset, qr/no link to etcd at "\Q$url\E": .*$message/, "$name: the log says it");
	}

	# Among others it does no harm.
	set_endpoints($here, join ',', (map { $_->[0] } values %bad), $etcd->endpoint(1), $etcd->endpoint);
	is($prober->query("SELECT etcd_lock('/new') > 0"), 't', 'https and http mixed: a good one is found');
	$prober->query("SELECT etcd_unlock('/new')");
	$_->stop foreach $expired, $unknown;
	set_endpoints($here, $etcd->endpoint);
	wait_until('the link is back', sub { status($here) =~ /^ready\|/ });
}

# Nothing below TLS 1.2, even where the system would allow it.
my $server;

END
{
	my $exit_code = $?;
	$server->kill_kill if $server;
	$? = $exit_code;
}

{
	my $lax = "$dir/lax.cnf";
	append_to_file($lax, <<'END');
openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = defaults
[defaults]
MinProtocol = TLSv1
CipherString = ALL:@SECLEVEL=0
END
	my $pair = $other_ca->issue;
	my $third = new_server('lax', endpoints => $etcd->endpoint, conf => $conf);
	{
		local $ENV{OPENSSL_CONF} = $lax;
		$third->start;
	}
	$third->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
	my $session = session($third);
	foreach my $case (
		[ 'TLS 1.1', qr/protocol version/, '-tls1_1' ],
		[ 'TLS 1.2, without ALPN', qr/the endpoint did not negotiate HTTP\/2/, '-tls1_2' ],
		[ 'TLS 1.3, without ALPN', qr/the endpoint did not negotiate HTTP\/2/, '-tls1_3' ],
		[ 'TLS 1.3, no client certificate', $says_required, '-tls1_3', '-alpn', 'h2', '-Verify', 1 ])
	{
		my ($name, $message, @options) = @$case;
		my $port = PostgreSQL::Test::Cluster::get_free_port();
		my ($out, $err) = ('', '');
		local $ENV{OPENSSL_CONF} = $lax;
		$server = IPC::Run::start(
			[
				'openssl', 's_server', '-accept', "127.0.0.1:$port",
				'-cert', $pair->{cert}, '-key', $pair->{key}, @options
			],
			'<', \my $in, '>', \$out, '2>', \$err);
		$third->append_conf('postgresql.conf', "etcd_lock.cert = ''\netcd_lock.key = ''") if $name =~ /no client/;
		set_endpoints($third, "https://127.0.0.1:$port");

		# The worker may still have the old link: nothing must be held then.
		my $result;
		wait_until("$name: an answer", sub {
				$server->pump_nb;
				$result = $session->try("SELECT etcd_xact_lock('/new')");
				return $result->{err} =~ /:$port: (?!.*Could(?:n't| not) connect)/ });
		is($result->{sqlstate}, '08006', "$name: no lock");
		like($result->{err}, $message, "$name: the caller is told why");
		# What it prints when the handshake is over.
		wait_until("$name: a handshake", sub { $server->pump_nb; return $out =~ /CIPHER is/ })
		  if $name =~ /without ALPN/;
		$server->kill_kill;
		undef $server;
	}
	$third->append_conf('postgresql.conf', $conf);
	$session->quit;

	# So that it can give its lease back.
	set_endpoints($third, $etcd->endpoint);
	wait_until('the link is back', sub { status($third) =~ /^ready\|/ });
	$third->stop;
}

# Nobody is told what is in the files, and an ordinary user not where they are.
{
	$here->safe_psql('postgres', 'CREATE ROLE ordinary LOGIN');
	my $user = session($here, user => 'ordinary');
	foreach my $setting (qw(cacert cert key endpoints))
	{
		is($user->try("SHOW etcd_lock.$setting")->{sqlstate}, '42501',
			"an ordinary user may not see etcd_lock.$setting");
		is($user->query("SELECT count(*) FROM pg_settings WHERE name = 'etcd_lock.$setting'"),
			0, "nor in pg_settings");
	}
	$user->quit;
	foreach my $node ($here, $there)
	{
		my $log = slurp_file($node->logfile);
		my ($secret) = slurp_file($file{key}) =~ /KEY-----\s+(\S+)/;
		is(index($log, $secret), -1, 'no key in the log');
	}
}

$_->quit foreach $holder, $waiter, $prober;
is_left_clean($etcd, $here, $there);
finish($etcd, $here, $there);
