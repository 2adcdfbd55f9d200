# An etcd with authentication: logging in, tokens that become invalid while locks are
# held, wrong passwords, and what a role may lock.

use strict;
use warnings;

use EtcdLockTest;
use File::Copy qw(copy);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# An etcd that is stopped and started needs some seconds, on a loaded machine more.
my $ttl = 30;
my $connect_timeout = 5;
my $ca = EtcdLockTest::Certificates->new;

# Odd characters, which must arrive as they are.
my $password = q{pass"word\\ {$a}%s};
my $other_password = 'another one';

my $etcd = EtcdLockTest::Etcd->new(
	tls => { %{ $ca->issue }, ca => $ca->file },
	args => [ '--auth-token-ttl', 10 ]);
$etcd->enable_auth(app => $password, [ '/app/', '.etcd_lock/' ]);
$etcd->etcdctl_root('role', 'grant-permission', 'app', 'read', '--prefix=true', '/readable/');

my $dir = PostgreSQL::Test::Utils::tempdir('client');
my $password_file = "$dir/password";

sub write_password
{
	my ($content, $mode) = @_;
	unlink "$password_file.new";
	append_to_file("$password_file.new", $content);
	chmod $mode // 0600, "$password_file.new";
	rename "$password_file.new", $password_file or die "could not rename: $!";
	return;
}
write_password("$password\n");

sub tls_conf
{
	my ($pair) = @_;
	return join '', map { "etcd_lock.$_->[0] = '$_->[1]'\n" }[ cacert => $ca->file ],
	  [ cert => $pair->{cert} ], [ key => $pair->{key} ];
}

my $conf = tls_conf($ca->issue) . <<"END";
etcd_lock.username = 'app'
etcd_lock.password_file = '$password_file'
etcd_lock.lease_ttl = '${ttl}s'
etcd_lock.connect_timeout = '${connect_timeout}s'
log_min_messages = debug5
log_statement = all
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

$holder->query("SELECT etcd_lock('/app/held')");
$waiter->send("SELECT etcd_lock('/app/held')");
wait_until_waiting($waiter);
my ($lease) = status($here) =~ /^ready\|(\w+)\|/ or die status($here);
pass('locks work with a user, a password and TLS');

# Does the lock go from here to there and back, and has the lease lived on?
sub nothing_is_lost
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($holder->query("SELECT etcd_lock_check('/app/held')"), 't', "$name: the lock is held");
	my $begin = time;
	is($prober->query("SELECT etcd_try_lock('/app/new'), etcd_unlock('/app/new')"),
		't|t', "$name: new locks are granted");
	diag sprintf '%-30s new locks after %.2f s', "$name:", time - $begin;
	ok(!$waiter->done, "$name: the waiter waits");
	$holder->query("SELECT etcd_unlock('/app/held')");
	my $result = $waiter->result;
	is($result->{sqlstate}, '', "$name: the lock is handed over");
	$waiter->query("SELECT etcd_unlock('/app/held')");
	$holder->query("SELECT etcd_lock('/app/held')");
	$waiter->send("SELECT etcd_lock('/app/held')");
	wait_until_waiting($waiter);
	like(status($here), qr/^ready\|$lease\|/, "$name: the lease lives");
	return;
}

# Tokens that etcd does not know any more.
{
	my $logged_in = qr/logged in to etcd as "app"/;
	my $offset = -s $here->logfile;
	$etcd->stop;
	$etcd->start;
	nothing_is_lost('etcd restarted');
	is_logged($here, $offset, $logged_in, 'etcd restarted: logged in again');

	# The worker asks every 6 s and so keeps its token: let it hang.
	$offset = -s $here->logfile;
	my $worker = worker_pid($here);
	kill 'STOP', $worker;
	sleep 13;
	kill 'CONT', $worker;
	nothing_is_lost('token expired');
	is_logged($here, $offset, $logged_in, 'token expired: logged in again');
}

# The password is changed, the file first.
{
	my $begin = -s $there->logfile;
	write_password($other_password);
	$etcd->change_password(app => $other_password);
	nothing_is_lost('password changed, file first');
	# the old stream keeps the old token, so etcd refuses the waiter's new watch on it
	is_logged($there, $begin, qr/the watches have failed: there is another token/,
		'password changed, file first: another stream of watches');

	# The file a moment later: noticed without being told.
	my $offset = -s $here->logfile;
	$etcd->change_password(app => $password);
	is_logged($here, $offset, qr/could not log in to etcd as "app": etcdserver: authentication failed/,
		'password changed, file later: the log says it');
	write_password("$password\r\n");
	nothing_is_lost('password changed, file later');
}

# Files that cannot be used are told of when the configuration is reloaded, and
# do no harm as long as the token is good.
{
	my %bad = (
		'password that others may read' =>
		  [ sub { write_password($password, 0644) }, qr/has group or world access/ ],
		'password that the group may read' =>
		  [ sub { write_password($password, 0640) }, qr/has group or world access/ ],
		'no password file' => [ sub { unlink $password_file }, qr/could not open file/ ],
		'empty password file' => [ sub { write_password('') }, qr/is empty/ ],
		'two lines' => [ sub { write_password("a\nb\n") }, qr/more than one line/ ],
		'NUL' => [ sub { write_password("a\0b") }, qr/more than one line/ ]);
	foreach my $name (sort keys %bad)
	{
		my ($break, $message) = @{ $bad{$name} };
		my $offset = -s $here->logfile;
		$break->();
		$here->reload;
		is_logged($here, $offset, qr/LOG:.*$message/, "$name: the log says it");
		like(status($here), qr/^ready\|$lease\|.*$message/, "$name: so does the status");
		write_password($password);
	}
	$here->reload;
}

# A wrong password: few attempts, clear words; right again as soon as the file
# is.  Another user's name needs a reload.
{
	my $third = new_server('third', endpoints => $etcd->endpoint,
		conf => $conf . "etcd_lock.password_file = '$dir/wrong'\n");
	append_to_file("$dir/wrong", 'wrong password');
	chmod 0600, "$dir/wrong";
	my $log_offset = -s $etcd->{log};
	my $started = time;
	$third->start;
	$third->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
	my $session = session($third);
	my $result = $session->try("SELECT etcd_lock('/app/new')");
	is($result->{sqlstate}, '08006', 'wrong password: no lock');
	like($result->{err},
		qr/DETAIL:.*could not log in as "app": etcdserver: authentication failed/,
		'wrong password: the caller is told');
	like(status($third), qr/^disconnected\|\|could not log in as "app": etcdserver: auth/,
		'wrong password: so does the status');
	# With pauses that become longer, from a second on.
	my $attempts;
	wait_until('tried four times', sub {
		$attempts = () = slurp_file($etcd->{log}, $log_offset) =~ /invalid authentication/g;
		return $attempts >= 4;
	});
	pass('wrong password: tried again');
	cmp_ok(time - $started, '>=', 1 + 2 + 4, 'wrong password: etcd is not hammered');
	my @logins = slurp_file($third->logfile) =~ /could not log in to etcd as/g;
	is(scalar(@logins), 1, 'wrong password: said once in the log');

	truncate "$dir/wrong", 0;
	append_to_file("$dir/wrong", $password);
	my $begin = time;
	is($session->query("SELECT etcd_lock('/app/new') > 0"), 't', 'password mended: locks');
	cmp_ok(time - $begin, '<', $connect_timeout, 'password mended: noticed at once');
	$session->query("SELECT etcd_unlock('/app/new')");

	# Etcd lets in nobody for long, then everybody.
	$etcd->add_user(late => $password, ['/app/', '.etcd_lock/']);
	$third->append_conf('postgresql.conf', "etcd_lock.username = 'late'");
	$third->reload;
	wait_until('locks of another user',
		sub { $session->try("SELECT etcd_lock('/app/late'), etcd_unlock('/app/late')")->{sqlstate} eq '' });
	$etcd->change_password(late => 'another');
	$log_offset = -s $etcd->{log};
	wait_until('etcd refuses it for long', sub {
		return 5 <= (() = slurp_file($etcd->{log}, $log_offset) =~ /invalid authentication/g);
	});
	$etcd->change_password(late => $password);
	$begin = time;
	wait_until('etcd lets it in again',
		sub { $session->try("SELECT etcd_lock('/app/late'), etcd_unlock('/app/late')")->{sqlstate} eq '' });
	cmp_ok(time - $begin, '<', 8, '... and there are locks in a few seconds');

	foreach my $case (
		[ "etcd_lock.username = 'nobody'", qr/could not log in as "nobody": etcdserver: auth/ ],
		[ "etcd_lock.username = 'ap\"p\r'", qr/could not log in as "ap"p/ ],
		[ "etcd_lock.username = 'app'\netcd_lock.password_file = ''", qr/"etcd_lock.password_file" is not set/ ],
		[ "etcd_lock.username = ''", qr/etcdserver: (user name is empty|permission denied)/ ])
	{
		$third->append_conf('postgresql.conf', $case->[0]);
		$third->restart;
		my $again = session($third);
		$result = $again->try("SELECT etcd_lock('/app/new')");
		is($result->{sqlstate}, '08006', "$case->[0]: no lock");
		like($result->{err}, $case->[1], "$case->[0]: said");
		$again->quit;
	}

	# A certificate's name is the user's, without a password.
	foreach my $case (
		[ 'app', 'a user of etcd', '', 't' ],
		[ 'nobody', 'no user of etcd', '08006', '' ])
	{
		my ($user, $what, $sqlstate, $out) = @$case;
		my $name = "certificate with the Common Name of $what";
		$third->append_conf('postgresql.conf',
			tls_conf($ca->issue(subject => "/CN=$user")) . "etcd_lock.username = ''\n");
		$third->restart;
		my $again = session($third);
		$result = $again->try("SELECT etcd_lock('/app/new') > 0");
		is($result->{sqlstate}, $sqlstate, "$name: " . ($out ? 'locks' : 'no lock')) or diag($result->{err});
		is($result->{out}, $out, "$name: as its roles allow");
		if ($out)
		{
			$result = $again->try("SELECT etcd_lock('/forbidden/new')");
			is($result->{sqlstate}, '42501', "$name: and no more") or diag($result->{out} . $result->{err});
		}
		$again->quit;
	}
	$session->quit;
	$third->stop;
}

# What the role may not lock fails for who asks, and for nobody else, however
# many ask at the same time.
{
	my @sessions = map { session($_) } ($here) x 24, ($there) x 8;
	my $wrong = 0;
	my $slowest = 0;
	foreach my $round (1 .. 5)
	{
		foreach my $i (0 .. $#sessions)
		{
			my $name = $i % 4 == 1 ? "/forbidden/$round/$i" : "/app/$round/$i";
			my $call = $i % 8 < 4 ? "etcd_lock('$name') > 0" : "etcd_try_lock('$name')";
			$sessions[$i]->send("SELECT $call");
		}
		foreach my $i (0 .. $#sessions)
		{
			my $result = $sessions[$i]->result;
			my $forbidden = $i % 4 == 1;
			$slowest = $result->{elapsed} if $result->{elapsed} > $slowest;
			next if $forbidden
			  ? $result->{sqlstate} eq '42501'
			  && $result->{err} =~ m{permission denied by etcd for "/forbidden/$round/$i"}
			  : $result->{out} eq 't';
			$wrong++;
			diag("session $i: $result->{out}$result->{err}");
		}
		$_->query('SELECT etcd_unlock_all()') foreach @sessions;
	}
	is($wrong, 0, 'forbidden names fail, their neighbours are locked');
	cmp_ok($slowest, '<', 20, 'nobody waits long for the others');
	diag sprintf 'slowest of %d requests, a quarter of them forbidden: %.2f s',
	  5 * @sessions, $slowest;

	# Reading is not enough, and neither is the right to something like it.
	foreach my $name ('/readable/x', '/ap', '/application')
	{
		my $result = $sessions[0]->try("SELECT etcd_lock('$name')");
		is($result->{sqlstate}, '42501', "$name: denied");
		like($result->{err}, qr/permission denied by etcd for "$name"/, "$name: said");
		is($sessions[0]->try("SELECT etcd_try_lock('$name')")->{sqlstate},
			'42501', "$name: denied to who tries");
	}

	# By integers and for ticks, with the keys that are ours alone.
	is($sessions[0]->query('SELECT etcd_try_lock(5), etcd_unlock(5)'), 't|t', 'integer key');
	is($sessions[0]->query("SELECT etcd_try_once('/app/tick', now())"), 't', 'tick');
	$_->quit foreach @sessions;
	nothing_is_lost('permission denied');
}

# Notes on who has a lock by now: those of a namespace where etcd refuses them keep nobody
# else's away.
{
	$etcd->etcdctl_root('role', 'grant-permission', 'app', 'readwrite',
		'--prefix=true', 'tenant/job');
	my @sessions = map { session($here) } 1 .. 4;
	$_->query("SET etcd_lock.namespace = 'tenant/'") foreach @sessions[ 0, 1 ];
	$_->query("SELECT etcd_lock_shared('job')") foreach @sessions[ 0, 1 ];
	$_->query("SELECT etcd_lock_shared('/app/noted')") foreach @sessions[ 2, 3 ];
	$sessions[0]->query("SELECT etcd_unlock_shared('job')");
	$sessions[2]->query("SELECT etcd_unlock_shared('/app/noted')");
	my $other = session($there);
	my $told = sub { $other->query("SELECT pid FROM etcd_lock_queue('/app/noted')") };
	wait_until('other servers know who has it', sub { $told->() eq $sessions[3]->pid });
	pass('a note beside one that etcd refuses');
	ok(!(grep { m{^tenant/\.etcd_lock/} } $etcd->keys('')), '... which is not there');
	$_->quit foreach @sessions, $other;
	nothing_is_lost('notes are refused');
}

# Rights that change while locks are held.
{
	$etcd->etcdctl_root('role', 'grant-permission', 'app', 'readwrite',
		'--prefix=true', '/more/');
	is($prober->query("SELECT etcd_try_lock('/more/x')"), 't', 'a new permission counts at once');
	$etcd->etcdctl_root('role', 'revoke-permission', 'app', '--prefix=true', '/more/');
	$prober->query("SELECT etcd_unlock('/more/x')");
	is($prober->try("SELECT etcd_try_lock('/more/y')")->{sqlstate},
		'42501', 'so does one that is taken away');
	$etcd->etcdctl_root('role', 'grant-permission', 'app', 'readwrite',
		'--prefix=true', '/more/');
	my ($first, $second) = map { session($_) } $here, $there;
	$first->query("SELECT etcd_lock('/more/z')");
	$second->send("SELECT etcd_lock('/more/z')");
	wait_until('somebody waits', sub { my @keys = $etcd->keys('/more/z'); @keys == 2 });
	$etcd->etcdctl_root('role', 'revoke-permission', 'app', '--prefix=true', '/more/');
	is($second->result->{sqlstate}, '42501', 'a waiter for a name that became forbidden gets an error');
	$etcd->etcdctl_root('role', 'grant-permission', 'app', 'readwrite',
		'--prefix=true', '/more/');
	$_->quit foreach $first, $second;
	wait_until('what could not be released is', sub { !grep { m{^/more} } $etcd->keys('') });
	pass('a lock whose name became forbidden is released later');
	nothing_is_lost('rights changed');
}

# Authentication is turned off, and on again.
{
	$etcd->etcdctl_root('auth', 'disable');
	nothing_is_lost('authentication disabled');
	delete $etcd->{token};
	$etcd->etcdctl_root('auth', 'enable');
	nothing_is_lost('authentication enabled');
	$etcd->log_in_again;
}

# Nobody is told a password or a token.
{
	$here->safe_psql('postgres', 'CREATE ROLE ordinary LOGIN');
	my $user = session($here, user => 'ordinary');
	foreach my $setting (qw(username password_file))
	{
		is($user->try("SHOW etcd_lock.$setting")->{sqlstate}, '42501',
			"an ordinary user may not see etcd_lock.$setting");
		is($user->query("SELECT count(*) FROM pg_settings WHERE name = 'etcd_lock.$setting'"),
			0, 'nor in pg_settings');
	}
	$user->quit;

	# Where the password's file is, a superuser may see.  What it holds is
	# nowhere: not in the catalog of settings, in any view, in any log, or in
	# what "ps" shows.
	my $worker = worker_pid($here);
	my $seen = join "\n",
	  $here->safe_psql('postgres', 'SELECT * FROM pg_settings'),
	  $here->safe_psql('postgres', 'SELECT * FROM etcd_lock_status()'),
	  $here->safe_psql('postgres', 'SELECT * FROM pg_stat_activity'),
	  slurp_file("/proc/$worker/cmdline"), slurp_file("/proc/$worker/environ"),
	  map { slurp_file($_->logfile) } $here, $there;
	like($seen, qr/DEBUG:/, 'the log has everything');
	foreach my $secret ($password, $password =~ s/(["\\])/\\$1/gr, $other_password, 'wrong password')
	{
		is(index($seen, $secret), -1, 'no password is seen');
	}
	# Simple tokens are 16 letters, a point, and a number.
	unlike($seen, qr/\b[A-Za-z]{16}\.\d+\b/, 'no token is seen');
	unlike($seen, qr/Authorization/i, 'no header is seen');
}

$_->quit foreach $holder, $waiter, $prober;
$_->stop('fast') foreach $here, $there;
$etcd->delete('.etcd_lock/tick/');
finish($etcd);
