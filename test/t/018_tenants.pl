# Tenants that share a server and an etcd, each with a namespace by role or by database:
# none can reach another's names, whatever names it uses, and none can take more than
# its share.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here) = start_servers($etcd, 'here');

$here->safe_psql('postgres', <<'SQL');
CREATE ROLE locker;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO locker;
CREATE ROLE a LOGIN IN ROLE locker;
CREATE ROLE b LOGIN IN ROLE locker;
CREATE ROLE ab LOGIN IN ROLE locker;
GRANT b TO a;
ALTER ROLE a SET etcd_lock.namespace = 'tenants/a/';
ALTER ROLE b SET etcd_lock.namespace = 'tenants/b/';
ALTER ROLE ab SET etcd_lock.namespace = 'tenants/ab/';
ALTER ROLE a SET etcd_lock.max_names_per_session = 5;
CREATE DATABASE shop;
ALTER DATABASE shop SET etcd_lock.namespace = 'shop/';
CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
ALTER DATABASE latin OWNER TO a;
SQL
foreach my $db (qw(shop latin))
{
	$here->safe_psql($db, <<'SQL');
CREATE EXTENSION etcd_lock;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO locker;
SQL
}

my $a = session($here, user => 'a');
my $b = session($here, user => 'b');
my $root = session($here);

# What is in etcd, but for what belongs to b and the server.
sub keys_outside
{
	my ($own) = @_;
	return grep { !m{^\Q$own\E} && !m{^tenants/b/} && !m{^\.etcd_lock/(?:server|primary|tick_lease)/} }
	  $etcd->keys('');
}

# Each name b holds, and a may have, too, as its own.
$b->query("SELECT etcd_lock(name) FROM unnest('{x,/x,b/x,tenants/b/x}'::text[]) AS name");
is(scalar(grep { m{^tenants/b/} } $etcd->keys('')), 4, 'b has its locks');

my @names = (
	'x', '/x', 'b/x', '/b/x', 'tenants/b/x', '/tenants/b/x',
	'../b/x', '/../b/x', '..//b/x', './../b/x', '../../tenants/b/x', '..', '.', '//b//x',
	'%2e%2e/b/x', '..%2fb%2fx', '%00', '\x00', '\u0000',
	q!"},"x":{"key":"dGVuYW50cy9iL3g=!, q!x","range_end":"AA==!, q!'; DROP TABLE t; --!,
	"x\r\nAuthorization: y", "x\nHost: y", "x\ty", "\x01\x1f\x7f", ' ', ' x', 'x ', '*', '?#',
	'dGVuYW50cy9iL3g=', "\x{e4}\x{1f600}", "\x{202e}b/x", '{x}', '[x]', '$x', '\\', '`id`',
	'x' x (512 - length('tenants/a/')));
utf8::encode($_) foreach @names;

sub literal { my ($s) = @_; $s =~ s/'/''/g; $s =~ s/\\/\\\\/g; $s =~ s/\n/\\n/g; $s =~ s/\r/\\r/g; return "E'$s'" }

foreach my $name (@names)
{
	my $shown = substr($name =~ s/[^ -~]/./gr, 0, 40);
	my $result = $a->try('SELECT etcd_try_lock(' . literal($name) . ')');
	is($result->{out}, 't', "$shown: a's own") or diag($result->{err});
	my @keys = $etcd->keys('tenants/a/');
	is(scalar(grep { index($_, "tenants/a/$name/write/") == 0 } @keys), 1, "$shown: the key has its name")
	  or diag(@keys);
	is_deeply([ keys_outside('tenants/a/') ], [], "$shown: nothing outside of the namespace");
	is($a->query('SELECT etcd_unlock(' . literal($name) . ')'), 't', "$shown: released");
}
is($b->query("SELECT bool_and(etcd_lock_check(name)) FROM unnest('{x,/x,b/x,tenants/b/x}'::text[]) AS name"),
	't', 'b still has all of its locks');

# Names that cannot be.
my %refused = (
	'too long' => [ literal('x' x (513 - length('tenants/a/'))), '42622' ],
	'too long by a lot' => [ q{repeat('x', 10000000)}, '42622' ],
	'a NUL' => [ q{E'\\000'}, '22021' ],
	'not UTF-8' => [ q{E'\\xff'}, '22021' ],
	'a slash in two bytes' => [ q{E'\\xc0\\xaf'}, '22021' ],
	'a surrogate' => [ q{E'\\ud800'}, '42601' ],
	'empty' => [ q{''}, '42602' ],
	'a key of ours' => [ q{'.etcd_lock/server/1'}, '42602' ],
	'a key of ours, deeper' => [ q{'x/.etcd_lock/tick/y'}, '42602' ],
	'read' => [ q{'x/read'}, '42602' ],
	'write' => [ q{'x/write'}, '42602' ],
	'a slash at the end' => [ q{'x/'}, '42602' ]);
foreach my $name (sort keys %refused)
{
	my ($sql, $sqlstate) = @{ $refused{$name} };
	is($a->try("SELECT etcd_try_lock($sql)")->{sqlstate}, $sqlstate, "$name: refused");
}
is_deeply([ keys_outside('tenants/a/') ], [], 'refused names: nothing in etcd');

# The same name in another encoding is the same lock, in the same namespace.
{
	my $latin = session($here, user => 'a', db => 'latin', env => { PGCLIENTENCODING => 'UTF8' });
	my $umlaut = "\xc3\xa4";
	$a->query("SELECT etcd_lock('$umlaut')");
	is($latin->query("SELECT etcd_try_lock('$umlaut')"), 'f', 'LATIN1: the same name');
	$a->query("SELECT etcd_unlock('$umlaut')");
	is($latin->query(q{SELECT etcd_try_lock(E'\\xc0\\xaf')}), 't', 'LATIN1: bytes are characters');
	is_deeply([ keys_outside('tenants/a/') ], [], 'LATIN1: nothing outside of the namespace');
	$latin->quit;
}

# Ways to another namespace.
sub still_in
{
	my ($session, $namespace, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$session->query("ROLLBACK; SELECT etcd_lock('probe')");
	is_deeply([ grep { m{probe} } $etcd->keys('') ], [ $etcd->keys("${namespace}probe/") ],
		"$name: still in $namespace");
	is(scalar($etcd->keys("${namespace}probe/")), 1, "$name: with one key");
	$session->query("SELECT etcd_unlock('probe')");
	return;
}

foreach my $sql (
	"SET etcd_lock.namespace = 'tenants/b/'",
	"SET LOCAL etcd_lock.namespace = 'tenants/b/'",
	"SELECT set_config('etcd_lock.namespace', 'tenants/b/', false)",
	"SELECT set_config('etcd_lock.namespace', '', true)",
	"UPDATE pg_settings SET setting = '' WHERE name = 'etcd_lock.namespace'",
	'RESET etcd_lock.namespace',
	"ALTER ROLE a SET etcd_lock.namespace = ''",
	'ALTER ROLE a RESET etcd_lock.namespace',
	"ALTER ROLE b SET etcd_lock.namespace = 'tenants/a/'",
	"ALTER DATABASE latin SET etcd_lock.namespace = ''",
	"ALTER SYSTEM SET etcd_lock.namespace = ''",
	"DO \$\$ BEGIN SET etcd_lock.namespace = ''; END \$\$",
	"CREATE FUNCTION pg_temp.f() RETURNS bigint LANGUAGE sql SET etcd_lock.namespace = 'tenants/b/' AS 'SELECT etcd_lock(''x'')'; SELECT pg_temp.f()",
	'SET etcd_lock.max_names_per_session = 1000',
	"SELECT etcd_lock_break('x', 1)",
	'SELECT * FROM etcd_lock_fences',
	"INSERT INTO etcd_lock_fences VALUES ('tenants/b/x', 9223372036854775807)")
{
	like($a->try($sql)->{sqlstate}, qr/^(?:42501|28000)$/, "$sql: denied");
	still_in($a, 'tenants/a/', $sql);
}
foreach my $sql ('RESET ALL', 'DISCARD ALL', 'SET ROLE b', 'SET SESSION ROLE b', 'BEGIN; SET LOCAL ROLE b; SAVEPOINT s; ROLLBACK TO s')
{
	$a->query($sql);
	still_in($a, 'tenants/a/', $sql);
	$a->query('RESET ROLE');
}
is($a->try('SET SESSION AUTHORIZATION b')->{sqlstate}, '42501', 'session authorization: denied');

# Functions of others, and statements prepared earlier, use the session's own.
$here->safe_psql('postgres', <<'SQL');
GRANT CREATE ON SCHEMA public TO b;
SET SESSION AUTHORIZATION b;
CREATE FUNCTION of_b(name text) RETURNS boolean LANGUAGE sql SECURITY DEFINER
AS 'SELECT etcd_try_lock(name)';
SQL
is($a->query("SELECT of_b('probe2')"), 't', "a function of b's");
is_deeply([ grep { m{probe2} } $etcd->keys('') ], [ $etcd->keys('tenants/a/probe2/') ],
	"a function of b's: in the caller's namespace");
$a->query("PREPARE p(text) AS SELECT etcd_try_lock(\$1)");
is($a->query("EXECUTE p('../b/x')"), 't', 'prepared: its own');
is_deeply([ keys_outside('tenants/a/') ], [], 'prepared: nothing outside of the namespace');
$a->query('DEALLOCATE p; SELECT etcd_unlock_all()');

# A superuser's function may have a namespace of its own; it ends with the call.
$here->safe_psql('postgres', <<'SQL');
CREATE FUNCTION of_root(name text) RETURNS boolean LANGUAGE sql SECURITY DEFINER
SET etcd_lock.namespace = 'common/' AS 'SELECT etcd_try_xact_lock(name)';
SQL
is($a->query("BEGIN; SELECT of_root('y')"), 't', "a superuser's function");
is(scalar($etcd->keys('common/y/')), 1, "a superuser's function: in its namespace");
still_in($a, 'tenants/a/', "a superuser's function");

# At the start of a connection.
{
	my ($status, $out, $err) = (0, '', '');
	local $ENV{PGOPTIONS} = '-c etcd_lock.namespace=tenants/b/';
	local $ENV{PGUSER} = 'a';
	# psql may end before it is sent the query.
	$status = eval {
		$here->psql('postgres', "SELECT current_setting('etcd_lock.namespace')",
			stdout => \$out, stderr => \$err);
	} // 1;
	ok($status != 0 || $out eq 'tenants/a/', 'options of the connection: of no use')
	  or diag("$status $out");
}

# By database, and for who has none of its own.
{
	my $superuser = session($here, db => 'shop');
	$superuser->query("SELECT etcd_lock('x')");
	is(scalar($etcd->keys('shop/x/')), 1, 'by database');
	my $in_shop = session($here, user => 'a', db => 'shop');
	is($in_shop->query('SHOW etcd_lock.namespace'), 'tenants/a/', "the role's goes before the database's");
	$_->quit foreach $superuser, $in_shop;
}

# Namespaces that could meet are refused; the beginning of a name is none.
{
	my $ab = session($here, user => 'ab');
	is($ab->query("SELECT etcd_try_lock('x')"), 't', 'a namespace that begins like another');
	$ab->quit;
	foreach my $bad ('tenants/c', 'x', "tenants/\xc3\xa4/", 'tenants/a b/', "tenants/\\t/", 'x/.etcd_lock/', ('x' x 255) . '/')
	{
		my $result = $root->try("ALTER ROLE b SET etcd_lock.namespace = E'$bad'");
		is($result->{sqlstate}, '22023', 'namespace refused: ' . substr($bad =~ s/[^ -~]/./gr, 0, 20));
		like($result->{err}, qr/DETAIL:/, 'and said why');
	}
}

# Ticks, fences and queues are each tenant's own.  Integer keys exclude each other
# on one server, as pg_advisory_lock() does.
{
	my $tick = q{'2026-01-01 00:00+00'};
	is($_->query("SELECT etcd_try_once('tick', $tick)"), 't', 'a tick for each tenant') foreach $a, $b;
	is($a->query("SELECT etcd_try_once('tick', $tick)"), 'f', 'and once');
	is_deeply([ sort grep { m{/tick/} } $etcd->keys('') ],
		[ map { "tenants/$_/.etcd_lock/tick/tick" } qw(a b) ], 'ticks are in the namespaces');

	is($a->try("SELECT etcd_lock_fence('x', 9223372036854775807)")->{sqlstate},
		'22023', 'nobody fences a name off for good');
	is($a->query("SELECT etcd_lock_fence('x', 1000)"), 't', 'a fences its name');
	is($b->query("SELECT etcd_lock_fence('x', 1)"), 't', "that does not fence off b's");
	is($a->query("SELECT etcd_lock_fence('x', 1)"), 'f', "but a's own");

	is($a->try("SELECT count(*) FROM etcd_lock_queue('x')")->{sqlstate}, '42501', 'not everybody may read queues');
	$root->query('GRANT pg_monitor TO a, b');
	is($a->query("SELECT count(*) FROM etcd_lock_queue('x')"), 0, "and then a does not see b's");
	is($b->query("SELECT count(*) FROM etcd_lock_queue('x')"), 1, 'b does');
	is($a->query("SELECT count(*) FROM etcd_lock_queue() WHERE name <> 'x' AND name NOT LIKE 'probe%'"), 0, 'nor by asking for all');
	is($a->query("SELECT count(*) FROM etcd_lock_queue('../b/x')"), 0, 'nor by another name');
	$root->query('REVOKE pg_monitor FROM a, b');
	is($a->query("SELECT etcd_lock_token('../b/x') IS NULL, etcd_lock_check('../b/x')"), 't|f', 'nor its token');

	$b->query('SELECT etcd_lock(7)');
	isnt($a->try('SELECT etcd_try_lock(7)')->{out}, 't', 'integer keys belong to the database');
	$b->query('SELECT etcd_unlock(7)');
	is($a->query('SELECT etcd_try_lock(7), etcd_unlock(7)'), 't|t', 'and are free again');
}

# No more than a share.
{
	$a->query('SELECT etcd_unlock_all()');
	$a->query("SELECT etcd_lock('n' || i) FROM generate_series(1, 5) i");
	my $result = $a->try("SELECT etcd_lock('n6')");
	is($result->{sqlstate}, '53400', 'max_names_per_session: one more is refused');
	like($result->{err}, qr/too many etcd locks in one session.*DETAIL:.*5.*HINT:.*max_names_per_session/s,
		'max_names_per_session: said why');
	is($a->try("SELECT etcd_try_xact_lock('n6')")->{sqlstate}, '53400', 'max_names_per_session: of a transaction, too');
	is($a->query("SELECT etcd_lock('n1') > 0"), 't', 'max_names_per_session: one that it has, again');
	is($b->query("SELECT count(etcd_lock('m' || i)) FROM generate_series(1, 20) i"), 20,
		'max_names_per_session: others have their own');
	$a->query('SELECT etcd_unlock_all()');
	is($a->query("SELECT etcd_lock('n6') > 0"), 't', 'max_names_per_session: free again');
	$a->query('SELECT etcd_unlock_all()');
	$b->query('SELECT etcd_unlock_all()');
}

# Objects of the same names in the way of the extension's script and functions.
{
	my $db = 'evil';
	$here->safe_psql('postgres', "CREATE DATABASE $db");
	$here->safe_psql($db, <<'SQL');
CREATE SCHEMA evil;
GRANT ALL ON SCHEMA evil TO b;
SET SESSION AUTHORIZATION b;
CREATE TABLE evil.caught (who text);
GRANT ALL ON evil.caught TO PUBLIC;
CREATE FUNCTION evil.caught() RETURNS void LANGUAGE sql AS 'INSERT INTO evil.caught VALUES (current_user)';
CREATE FUNCTION evil.format(text, regprocedure) RETURNS text LANGUAGE sql AS 'SELECT evil.caught(); SELECT ''SELECT 1''';
CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT evil.caught(); SELECT ''SELECT 1''';
CREATE FUNCTION evil.pg_extension_config_dump(regclass, text) RETURNS void LANGUAGE sql AS 'SELECT evil.caught()';
CREATE FUNCTION evil.count() RETURNS bigint LANGUAGE sql AS 'SELECT evil.caught(); SELECT 1::bigint';
CREATE FUNCTION evil.eq(name, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.caught(); SELECT true';
CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.eq);
CREATE FUNCTION evil.eq(oid, regclass) RETURNS boolean LANGUAGE sql AS 'SELECT evil.caught(); SELECT true';
CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = evil.eq);
CREATE FUNCTION evil.le(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT evil.caught(); SELECT true';
CREATE OPERATOR evil.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.le);
CREATE OPERATOR evil.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.le);
CREATE FUNCTION evil.eq(oid, oid) RETURNS boolean LANGUAGE sql AS 'SELECT evil.caught(); SELECT true';
CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.eq);
CREATE FUNCTION evil.eq(oid, integer) RETURNS boolean LANGUAGE sql AS 'SELECT evil.caught(); SELECT true';
CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = integer, FUNCTION = evil.eq);
CREATE TABLE evil.pg_depend (objid oid, refclassid oid, refobjid oid, classid oid);
CREATE TABLE evil.pg_extension (oid oid, extname name);
SQL
	$here->safe_psql($db, 'SET search_path = evil, pg_catalog; CREATE EXTENSION etcd_lock SCHEMA evil');
	is($here->safe_psql($db, <<'SQL'), '', 'created among traps: no lock is for everybody');
SELECT p.oid::regprocedure
  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
  JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'etcd_lock'
 WHERE d.deptype = 'e' AND has_function_privilege('public', p.oid, 'EXECUTE')
   AND proname <> 'etcd_advisory_in_effect'
SQL
	is($here->safe_psql($db, <<'SQL'), 't|f', 'created among traps: the functions work');
SET search_path = evil, pg_catalog;
SELECT etcd_lock_fence('x', 2), etcd_lock_fence('x', 1);
SQL
	is($here->safe_psql($db, 'SELECT count(*) FROM evil.caught'), 0, 'created among traps: none has caught anybody');
	$here->safe_psql($db, 'SELECT evil.caught()');
	is($here->safe_psql($db, 'SELECT count(*) FROM evil.caught'), 1, 'the traps work');
}

# What a tenant calls its locks does not forge lines of the log.
{
	my $name = "x\nLOG:  forged";
	my $offset = -s $here->logfile;
	$a->query('SELECT etcd_lock(' . literal($name) . ')');
	$etcd->delete("tenants/a/$name/");
	is_logged($here, $offset, qr{lock "tenants/a/x\s+LOG:  forged" was lost}, 'a lost lock with an odd name is logged');
	unlike(slurp_file($here->logfile, $offset), qr/^LOG:  forged/m, 'and not as a line of its own');
	$a->try('SELECT etcd_unlock_all()');
}

# Settings that hold paths or names, and endpoints that would inject something.
{
	my $hidden = $root->query(<<'SQL');
SELECT string_agg(name, ' ' ORDER BY name COLLATE "C") FROM pg_settings WHERE name LIKE 'etcd_lock.%'
SQL
	my $seen = $b->query(<<'SQL');
SELECT string_agg(name, ' ' ORDER BY name COLLATE "C") FROM pg_settings WHERE name LIKE 'etcd_lock.%'
SQL
	foreach my $setting (qw(endpoints cacert cert key username password_file))
	{
		like($hidden, qr/etcd_lock\.$setting\b/, "etcd_lock.$setting is there");
		unlike($seen, qr/etcd_lock\.$setting\b/, 'and not for ordinary users');
		is($b->try("SET etcd_lock.$setting = 'x'")->{sqlstate}, '55P02', 'it cannot be set in a session');
	}
	foreach my $url (
		'http://u:secret@127.0.0.1:2379', "http://127.0.0.1:2379\r\nX: y", "http://127.0.0.1:2379/\n",
		'http://127.0.0.1:2379/path', 'http://127.0.0.1:2379?x', 'http://127.0.0.1:2379#x', 'http://a b',
		'http://', 'http://:2379', 'http://x:0', 'http://x:99999', 'http://x:1:2', 'http://[::1', 'http://[x]:1',
		'ftp://x', 'file:///etc/passwd', 'gopher://x', '//x', "http://\xc3\xa4", '')
	{
		my $shown = $url =~ s/[^ -~]/./gr;
		my $result = $root->try('ALTER SYSTEM SET etcd_lock.endpoints = ' . literal($url));
		is($result->{sqlstate}, '22023', "endpoint refused: $shown");
		unlike($result->{err} =~ s/^.*?ERROR[^\n]*//sr, qr/secret/, 'without its password in the detail') if $url =~ /secret/;
	}
	foreach my $url ('http://127.0.0.1:2379', 'https://etcd-1.example.com', 'http://[::1]:2379/', 'http://a_b:1,https://c:2')
	{
		is($root->try("ALTER SYSTEM SET etcd_lock.endpoints = '$url'")->{sqlstate}, '', "endpoint taken: $url");
	}
	$root->query("ALTER SYSTEM RESET etcd_lock.endpoints");
}

$_->quit foreach $a, $b, $root;
is_deeply([ grep { !/tick/ } $etcd->lock_keys ], [], 'no lock is left in etcd');
$etcd->delete('tenants/');
finish($etcd, $here);
