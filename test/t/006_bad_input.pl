# Bad names, bad endpoints, full tables, missing privileges: each gives one clear error
# with an SQLSTATE, after which the server and the worker carry on.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;

# A port on which nobody listens.
my $closed = 'http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();

# The first server starts without an etcd.
my $here = start_server(
	'here',
	endpoints => $closed,
	conf => <<'END');
etcd_lock.connect_timeout = '1s'
etcd_lock.request_timeout = '1s'
etcd_lock.max_names = 40
END

# The session that fails() uses.
our $session = session($here);

# Check that statements end with one error in bounded time, and that the
# session goes on.
sub fails
{
	my ($name, $sql, $sqlstate, $message, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $result = $session->try($sql);
	my @errors = $result->{err} =~ /(?:ERROR|FATAL|PANIC):/g;
	is(scalar @errors, 1, "$name: one error");
	like($result->{sqlstate}, $sqlstate, "$name: SQLSTATE")
	  or diag($result->{err});
	like($result->{err}, $message, "$name: message");
	cmp_ok($result->{elapsed}, '<', $seconds // 5, "$name: in bounded time");
	is($session->query('ROLLBACK; SELECT 1'), '1', "$name: the session lives");
	return $result;
}

# Endpoints that are no etcd.
my $answers_within = 15;
my %fake = (
	'an HTML page' => {
		type => 'text/html',
		body => '<html><body><h1>It works!</h1></body></html>'
	},
	'an HTML error page' => {
		status => '502 Bad Gateway',
		type => 'text/html',
		body => '<html><body><h1>502 Bad Gateway</h1></body></html>'
	},
	'cut JSON' => { body => '{"header":{"cluster_id":"142' },
	'JSON of another kind' => { body => '["surprise", {"header": 5}]' },
	'an empty object' => { body => '{}' },
	'an empty body' => { body => '' },
	'bytes' => { body => join '', map { chr } 0 .. 255 },
	'silence' => {});
my %wrong = (
	'a closed port' => $closed,
	'a wrong host' => 'http://no-such-host.invalid:2379');
my $worker;
foreach my $kind (sort(keys %wrong), sort keys %fake)
{
	my $fake = $fake{$kind}
	  && EtcdLockTest::FakeEndpoint->new(%{ $fake{$kind} });
	my $url = $fake ? $fake->url : $wrong{$kind};

	# The first one is met by a server that never had a link, and by all ways to
	# wait; the others by a server that has a lease.
	set_endpoints($here, $url);
	wait_until('the session sees the setting',
		sub { $session->query('SHOW etcd_lock.endpoints') eq $url });
	wait_until('so does the worker',
		sub { $session->query("SELECT state <> 'ready' FROM etcd_lock_status()") eq 't' });
	my $log_offset = -s $here->logfile;
	my @statements = ("SELECT etcd_lock('/x')");
	push @statements, "SELECT etcd_try_lock('/x')", "CALL etcd_lock_wait('/x')"
	  unless defined $worker;
	foreach my $sql (@statements)
	{
		my $result =
		  fails("$kind: $sql", $sql, qr/^(?!XX|00)\w{5}$/, qr/etcd/,
			$answers_within);
		like($result->{err}, qr/\Q$url\E/,
			"$kind: $sql: the endpoint is named");
	}
	is( $here->safe_psql('postgres', 'SELECT count(pid) FROM etcd_locks'),
		0, "$kind: no row is left in etcd_locks");
	cmp_ok(
		(-s $here->logfile) - $log_offset,
		'<', 100_000,
		"$kind: the server's log is not flooded");

	# The right endpoint again: everything works, with the same worker.
	set_endpoints($here, $etcd->endpoint);
	wait_until_locks_work($session);
	$worker //= worker_pid($here);
	is(worker_pid($here), $worker, "$kind: the worker lives");
	is_left_clean($etcd, $here);
	$fake->stop if $fake;
}
unlike(
	slurp_file($here->logfile),
	qr/terminated by signal|PANIC:|exited with exit code/,
	'no process has crashed, and the worker never ended');

# An etcd that hangs, and goes on.
$session->query("SELECT etcd_lock('/kept')");
$etcd->pause;
fails('etcd hangs', "SELECT etcd_lock('/x')",
	qr/^(?!XX|00)\w{5}$/, qr/etcd/, $answers_within);
$etcd->resume;
wait_until_locks_work($session);
$session->query("SELECT etcd_unlock_all()");
is_left_clean($etcd, $here);

# From here on etcd is there: who asks may wait for it as long as by default.
$here->safe_psql('postgres', <<'SQL');
ALTER SYSTEM SET etcd_lock.connect_timeout = '10s';
ALTER SYSTEM SET etcd_lock.request_timeout = '5s';
SELECT pg_reload_conf();
SQL

# Settings that make no sense.
foreach my $endpoints ('', 'no URL', 'ftp://127.0.0.1', 'http://',
	$etcd->endpoint . ',', 'http:///path')
{
	is( $session->try("ALTER SYSTEM SET etcd_lock.endpoints = '$endpoints'")
		  ->{sqlstate},
		'22023', "endpoints = '$endpoints' is refused");
}

# Names.
my $bad_name = qr/^(22|42)\w{3}$/;
foreach my $name ('', '/', '/x/', '/read', '/x/read', '/x/write',
	'.etcd_lock/x', '.etcd_lock/server/1')
{
	fails("name '$name'", "SELECT etcd_lock('$name')", $bad_name, qr/name/);
}
my ($limit) = fails(
	'a name that is too long', "SELECT etcd_lock(repeat('x', 10000))",
	$bad_name, qr/limit is \d+/)->{err} =~ /limit is (\d+)/;
$limit //= 0;
is($session->query("SELECT etcd_try_lock(repeat('x', $limit))"),
	't', "a name of $limit bytes, the limit named, is not too long");
fails('one byte more', "SELECT etcd_lock(repeat('x', $limit + 1))",
	$bad_name, qr/limit is $limit/);
fails(
	'the limit is one of bytes, not characters',
	"SELECT etcd_lock(repeat(U&'\\00e4', $limit - 1))",
	$bad_name, qr/limit is $limit/);
$session->query('SELECT etcd_unlock_all()');
foreach my $name ('read', '/x/reader', '/x/read/y', ' ', q{''"\\},
	"a\nb\tc", "umlaut \xc3\xa4", '{"json":1}', '/x//y', 'x%y', '..')
{
	my $quoted =
	  "convert_from('\\x" . unpack('H*', $name) . q{'::bytea, 'UTF8')};
	(my $shown = $name) =~ s/\s+/ /g;
	is( $session->query(
			"SELECT etcd_try_lock($quoted);
			 SELECT name = $quoted FROM etcd_locks;
			 SELECT etcd_unlock($quoted)"),
		"t\nt\nt",
		"name '$shown' is as good as any");
}
is_left_clean($etcd, $here);

# One name is one lock, whatever the encoding of the database.
foreach my $encoding (qw(LATIN1 SQL_ASCII EUC_JP))
{
	$here->safe_psql('postgres',
		"CREATE DATABASE \"$encoding\" ENCODING '$encoding' LOCALE 'C' TEMPLATE template0"
	);
	$here->safe_psql($encoding, 'CREATE EXTENSION etcd_lock');
}
my %by_encoding =
  map { $_ => session($here, db => $_) } qw(LATIN1 SQL_ASCII EUC_JP);
my $umlaut = q{U&'/m\00e4rz'};
my $umlaut_bytes = q{convert_from('\x2f6dc3a4727a'::bytea, 'SQL_ASCII')};
my ($there) = start_servers($etcd, 'there');
my $remote = session($there);
foreach my $other ($session, $remote)
{
	$other->query("SELECT etcd_lock($umlaut)");
	is($by_encoding{LATIN1}->query("SELECT etcd_try_lock($umlaut)"),
		'f', 'a LATIN1 database means the same lock');
	is($by_encoding{SQL_ASCII}->query("SELECT etcd_try_lock($umlaut_bytes)"),
		'f', 'so does UTF-8 in an SQL_ASCII database');
	$other->query("SELECT etcd_unlock($umlaut)");
}
is($by_encoding{LATIN1}->query("SELECT etcd_try_lock($umlaut)"),
	't', 'it is granted in a LATIN1 database');
is($remote->query("SELECT etcd_try_lock($umlaut)"),
	'f', 'and refused in UTF8 elsewhere');
$by_encoding{LATIN1}->query('SELECT etcd_unlock_all()');

# The limit is one of UTF-8, also where a character is a byte.
is( $by_encoding{LATIN1}
	  ->try("SELECT etcd_lock(repeat(U&'\\00e4', $limit - 1))")->{sqlstate},
	$session->try("SELECT etcd_lock(repeat(U&'\\00e4', $limit - 1))")
	  ->{sqlstate},
	'the limit is the same in LATIN1');

{
	local $session = $by_encoding{SQL_ASCII};
	fails(
		'bytes that are not UTF-8, SQL_ASCII database',
		q{SELECT etcd_lock(convert_from('\x6de4727a'::bytea, 'SQL_ASCII'))},
		qr/^22021$/, qr/UTF8/);
}
{
	# The view of another database must show what its encoding lacks.
	$session->query("SELECT etcd_lock($umlaut)");
	is($by_encoding{EUC_JP}->query('SELECT count(name) FROM etcd_locks'),
		1, 'etcd_locks shows names that the database\'s encoding lacks');
	$session->query('SELECT etcd_unlock_all()');
}
$_->quit foreach values %by_encoding, $remote;

# The table of names is full.
is( $session->query(
		"SELECT count(etcd_lock('/n/' || i)) FROM generate_series(1, 40) i"),
	40, 'as many names as max_names');
my $neighbour = session($here);
{
	local $session = $neighbour;
	fails(
		'one name more',
		"SELECT etcd_lock('/n/41')",
		qr/^53\w{3}$/, qr/etcd_lock\.max_names/);
}
is($neighbour->query("SELECT etcd_try_lock('/n/1')"),
	'f', 'a name that is there already can be asked for');
$session->query("SELECT etcd_unlock('/n/1')");
is($neighbour->query("SELECT etcd_try_lock('/n/41')"),
	't', 'there is room once a lock is released');
$_->query('SELECT etcd_unlock_all()') foreach $session, $neighbour;
foreach my $round (1 .. 5)
{
	$session->query(
		"SELECT count(etcd_try_lock('/r$round/' || i)) FROM generate_series(1, 40) i;
		 SELECT etcd_unlock_all()");
}
pass('names in use at a time count, not names ever used');
is_left_clean($etcd, $here, $there);

# A session has a limit of its own.
$session->query(
	"SET etcd_lock.max_names_per_session = 4;
	 SELECT etcd_lock('/n/' || i) FROM generate_series(1, 4) i");
fails(
	'one name more than max_names_per_session',
	"SELECT etcd_lock('/n/5')",
	qr/^5[34]\w{3}$/, qr/etcd_lock\.max_names_per_session/);
is($session->query("SELECT etcd_try_lock('/n/4')"),
	't', 'what it holds it may lock again');
is($neighbour->query("SELECT etcd_try_lock('/n/5')"),
	't', 'the refused name is free');
$_->query('SELECT etcd_unlock_all()') foreach $session, $neighbour;
$session->query('RESET etcd_lock.max_names_per_session');

# Only those may who are told so.
$here->safe_psql('postgres', 'CREATE ROLE app LOGIN');
{
	local $session = session($here, user => 'app');
	fails('no right to lock', "SELECT etcd_lock('/x')",
		qr/^42501$/, qr/permission denied/);
	fails('no right to see', 'SELECT * FROM etcd_locks',
		qr/^42501$/, qr/permission denied/);
	$here->safe_psql('postgres',
		'GRANT EXECUTE ON FUNCTION etcd_lock(text), etcd_unlock(text) TO app');
	is( $session->query("SELECT etcd_lock('/x') > 0; SELECT etcd_unlock('/x')"),
		"t\nt",
		'with EXECUTE granted it works');
	fails('only for what was granted', 'SELECT etcd_lock(1)',
		qr/^42501$/, qr/permission denied/);
	foreach my $setting (
		'namespace = x', 'commit_guard = off',
		'session_locks = warn', 'max_names_per_session = 5')
	{
		fails("no right to set $setting", "SET etcd_lock.$setting",
			qr/^42501$/, qr/permission denied/);
	}
	is($session->try('SET etcd_lock.synchronous_release = off')->{sqlstate},
		'', 'synchronous_release is everybody\'s');
	$here->safe_psql('postgres', 'GRANT pg_monitor TO app');
	is($session->query('SELECT count(pid) FROM etcd_locks'),
		0, 'pg_monitor may see');
	$session->quit;
}

# Without shared_preload_libraries every function says what is missing, and so does
# CREATE EXTENSION.
my $plain = new_server('plain', preload => 0);
$plain->start;
my $err;
$plain->psql('postgres', 'CREATE EXTENSION etcd_lock', stderr => \$err);
like($err, qr/WARNING:  etcd_lock is not in shared_preload_libraries/, 'a warning');
{
	local $session = session($plain);
	my %argument = (
		text => q{'x'},
		bigint => '1::bigint',
		integer => '1',
		interval => q{interval '1 s'},
		'timestamp with time zone' => 'now()');
	my @functions = split /\n/, $session->query(<<'SQL');
SELECT p.prokind, p.pronamespace::regnamespace || '.' || p.proname, array_to_string(ARRAY(
         SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY
                AS u(t, n) ORDER BY n), ',')
  FROM pg_proc p
  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
  JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'etcd_lock'
 WHERE d.deptype = 'e' AND p.proname <> 'etcd_advisory_in_effect'
 ORDER BY p.oid
SQL
	cmp_ok(scalar @functions, '>=', 30, 'there are functions');
	foreach (@functions)
	{
		my ($kind, $name, $types) = split /\|/;
		my @arguments = map { $argument{$_} // (/\[\]$/ ? 'VARIADIC ' : '') . "NULL::$_" }
		  split /,/, $types // '';
		fails(
			"not preloaded: $name(" . ($types // '') . ')',
			($kind eq 'p' ? 'CALL' : 'SELECT')
			  . " $name("
			  . join(', ', @arguments) . ')',
			qr/^55000$/,
			qr/HINT:.*shared_preload_libraries/);
	}
	$session->quit;
}
$plain->stop;

# A server that ignored one of these would use the default, and perhaps another etcd.
$there->stop;
foreach (
	[ 'etcd_lock.endpoints', '127.0.0.1:2379', qr/DETAIL:.*Element 1 is not of the form/ ],
	[ 'Etcd_Lock.Namespace', 'jobs', qr/DETAIL:.*must end in a slash/ ],
	[ 'etcd_lock.cluster_id', '0xa', qr/DETAIL:.*hexadecimal/ ],
	[ 'etcd_lock.lease_ttl', '1s', qr/1 s is outside the valid range/ ],
	[ 'etcd_lock.commit_guard', 'none', qr/HINT:.*Available values/ ])
{
	my ($setting, $value, $reason) = @$_;
	my $log_offset = -s $there->logfile;
	my $conf = slurp_file($there->data_dir . '/postgresql.conf');
	$there->append_conf('postgresql.conf', "$setting = '$value'\n");
	ok(!$there->start(fail_ok => 1), "$setting = $value: the server does not start");
	my $log = slurp_file($there->logfile, $log_offset);
	like($log, qr/FATAL:.*parameter "\Q$setting\E"/i, "$setting = $value: said");
	like($log, $reason, "$setting = $value: with the reason");
	unlink $there->data_dir . '/postgresql.conf';
	append_to_file($there->data_dir . '/postgresql.conf', $conf);
}

$_->quit foreach $session, $neighbour;
finish($etcd, $here, $there);
