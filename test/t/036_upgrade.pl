# The upgrade from version 1.0 to 1.1, while in use: first the library, then the
# extension in each database; and servers of both versions side by side.

use strict;
use warnings;

use EtcdLockTest;
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = map { new_server($_, endpoints => $etcd->endpoint) } qw(here there);

# Where 1.0 was built, the servers begin with its library; else with the new one
# below the old definitions, which is what a restart leaves.
my $old = $ENV{ETCD_LOCK_1_0_STAGE};
if ($old)
{
	my ($libdir, $sharedir, $release) =
	  map { my $line = `pg_config $_`; chomp $line; $line } qw(--pkglibdir --sharedir --version);
	my ($major) = $release =~ /(\d+)/;
	$_->append_conf('old.conf',
		"dynamic_library_path = '$old$libdir:\$libdir'\n"
		  . (
			$major >= 18
			? "extension_control_path = '$old$sharedir:\$system'\n"
			: "extension_destdir = '$old'\n"))
	  foreach $here, $there;
	diag 'the servers begin with the library of version 1.0';
}
else
{
	diag 'version 1.0 was not built: its library is not tried';
	$_->append_conf('old.conf', '') foreach $here, $there;
}
foreach my $node ($here, $there)
{
	$node->append_conf('postgresql.conf', "include_if_exists = 'old.conf'");
	$node->start;
	$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA locks;
CREATE EXTENSION etcd_lock SCHEMA locks VERSION '1.0';
CREATE ROLE app LOGIN;
CREATE ROLE other LOGIN;
GRANT USAGE ON SCHEMA locks TO app, other;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA locks TO app WITH GRANT OPTION;
GRANT EXECUTE ON FUNCTION locks.etcd_try_lock(text) TO other;
ALTER DATABASE postgres SET search_path = locks, public;
SQL
}

sub version_of
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		"SELECT extversion FROM pg_extension WHERE extname = 'etcd_lock'");
}

# Locks go from one server to the other, and exclude each other.
sub works_between
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($a, $b) = (session($here, user => 'app'), session($there, user => 'app'));
	foreach my $pair ([ $a, $b ], [ $b, $a ])
	{
		my ($holder, $waiter) = @$pair;
		my $token = $holder->query("SELECT etcd_lock('/between')");
		is($waiter->query("SELECT etcd_try_lock('/between')"), 'f', "$name: exclusion");
		is($waiter->query("SELECT etcd_try_lock('/between', wait => '1 s')"),
			'f', "$name: ... with a wait");
		is($waiter->query("SELECT etcd_try_lock(1, 1), etcd_unlock(1, 1)"), 't|t', "$name: keys");
		$waiter->send("SELECT etcd_lock('/between')");
		wait_until("$name: it waits", sub { $etcd->lock_keys >= 2 });
		$holder->query("SELECT etcd_unlock('/between')");
		cmp_ok($waiter->result->{out}, '>', $token, "$name: handed over with a higher token");
		$waiter->query("SELECT etcd_unlock('/between')");
	}
	is(join(' ', map { $_->query("SELECT etcd_try_once('/tick', '2030-01-01')") } $a, $b),
		'f f', "$name: a tick that was claimed")
	  if $etcd->keys('.etcd_lock/tick/');
	is($a->query("SELECT etcd_try_once('/tick', '2030-01-01')"), 't', "$name: a tick")
	  unless $etcd->keys('.etcd_lock/tick/');
	$_->quit foreach $a, $b;
	wait_until("$name: all is released", sub { !grep { !m{/tick/} } $etcd->lock_keys });
	return;
}

# The views of the old definitions.
my %old_columns = (
	etcd_locks => 'name,mode,scope,granted,pid,token,waitstart,heldsince,lost',
	'etcd_lock_queue()' => 'name,position,mode,granted,server,host,port,pid,database,'
	  . 'username,application_name,since,key,lease,create_revision');

sub old_definitions_work
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $session = session($node);
	$session->query("SELECT etcd_lock('/seen')");
	while (my ($view, $columns) = each %old_columns)
	{
		is( $session->query("SELECT $columns FROM $view WHERE false"), '', "$name: $view: columns");
		like($session->query("SELECT * FROM $view"), qr{^/seen\|}, "$name: $view: rows");
	}
	my $pid = $session->pid;
	like($session->query("SELECT pid, username, database FROM etcd_lock_queue('/seen')"),
		qr/^$pid\|\w+\|postgres$/, "$name: who");
	is($session->query('SELECT state FROM etcd_lock_status()'), 'ready', "$name: status");
	is( $session->query("SELECT count(*) FROM etcd_lock_endpoints(), etcd_lock_stats"),
		1, "$name: endpoints, statistics");
	is($session->query("SELECT etcd_lock_fence('/fenced', 5), etcd_lock_fence('/fenced', 4)"),
		't|f', "$name: fence");
	is($session->query('SELECT etcd_lock(NULL::text) IS NULL'), 't', "$name: STRICT");
	$session->quit;
	return;
}

old_definitions_work($here, 'before');
works_between('both 1.0');

# The library.  What a session holds ends with the server, as at any restart.
$here->stop;
unlink $here->data_dir . '/old.conf';
$here->start;
is(version_of($here), '1.0', 'the library is new, the definitions are old');
old_definitions_work($here, 'library 1.1, definitions 1.0');
works_between('library 1.1 beside 1.0');
is($here->safe_psql('postgres', "SELECT etcd_lock_break('/nobody', 1)"), 'f', 'break');

# A lock that the new library keeps: the old one waits for it as for any other, and does
# not know that a try could.
{
	$here->safe_psql('postgres', $_)
	  foreach "ALTER SYSTEM SET etcd_lock.keep_window = '10s'", 'SELECT pg_reload_conf()';
	my ($hot, $cold) = (session($here), session($there));
	wait_until(
		'a lock is kept',
		sub {
			$hot->query("SELECT etcd_lock('/hot'); SELECT etcd_unlock('/hot')") foreach 1 .. 5;
			return grep { m{^/hot/write/.*-keep} } $etcd->lock_keys;
		});
	is($cold->query("SELECT etcd_try_lock('/hot')"), $old ? 'f' : 't', 'a kept lock: a try');
	$cold->query('SELECT etcd_unlock_all()');
	cmp_ok($cold->query("SELECT etcd_lock('/hot')"), '>', 0, '... a lock');
	$_->quit foreach $hot, $cold;
	$here->safe_psql('postgres', $_)
	  foreach 'ALTER SYSTEM RESET etcd_lock.keep_window', 'SELECT pg_reload_conf()';
}

# The definitions, under use.
my ($holder, $waiter) = (session($here, user => 'app'), session($here, user => 'app'));
my $far = session($there, user => 'app');
$holder->query("BEGIN; SELECT etcd_xact_lock('/used'), etcd_lock(7)");
$waiter->query("PREPARE p AS SELECT etcd_try_lock('/prepared', interval '1 s')");
$waiter->query("SELECT etcd_unlock('/prepared') FROM (SELECT etcd_try_lock('/prepared')) x");
$_->send("SELECT etcd_lock('/used')") foreach $waiter, $far;
wait_until_waiting($waiter);
$here->safe_psql('postgres', 'ALTER EXTENSION etcd_lock UPDATE');
is(version_of($here), '1.1', 'updated under use');
is($holder->query("SELECT etcd_lock_check('/used'), etcd_lock_check(7)"),
	't|t', 'what was held is held');
$holder->query('COMMIT');
wait_until('one of the waiters has it', sub { $waiter->done || $far->done });
foreach my $session ($waiter->done ? ($waiter, $far) : ($far, $waiter))
{
	is($session->result->{sqlstate}, '', 'the waiter gets the lock');
	is($session->query("SELECT etcd_unlock('/used')"), 't', 'and releases it');
}
is($waiter->query('EXECUTE p'), 't', 'a prepared statement works');
is($waiter->query("SELECT etcd_unlock('/prepared')"), 't', '... as before');
$_->quit foreach $holder, $waiter, $far;
works_between('1.1 beside 1.0');
is($here->safe_psql('postgres', 'TABLE etcd_lock_fences'), '/fenced|5', 'fences are kept');

# Who may do what: as before, in each overload.
my $app = session($here, user => 'app');
is( $app->query(
		"SELECT etcd_try_lock('/app', '1 s'), etcd_try_lock('/app', interval '1 s'),
		        etcd_try_xact_lock_shared('/app', wait => '1 s'), etcd_lock_fence('/app', 1)"),
	't|t|t|t', 'a role may go on');
is($app->try("CALL etcd_lock_wait('/app', wait => '1 s')")->{sqlstate}, '', 'CALL, too');
is( $app->try("GRANT EXECUTE ON FUNCTION etcd_try_lock(text, text) TO other")->{sqlstate},
	'', 'and grant what it could grant');
$app->quit;
my $other = session($here, user => 'other');
is($other->try("SELECT etcd_try_lock('/other', '1 s')")->{sqlstate}, '', 'which works');
is($other->try("SELECT etcd_try_lock_shared('/other', '1 s')")->{sqlstate},
	'42501', 'others may not');
is($other->try('SELECT etcd_lock_queue()')->{sqlstate}, '42501', 'nor look');
$other->quit;
like(
	$here->safe_psql('postgres',
		q{SELECT string_agg(x, ' ') FROM pg_proc p, unnest(proacl::text[]) x
		   WHERE oid = 'etcd_try_lock(text, text)'::regprocedure}),
	qr/app=X\*/, 'the grant is there');
my $dump = $here->data_dir . '/../dump.sql';
$here->command_ok([ 'pg_dump', '-f', $dump, $here->connstr('postgres') ], 'dumped');
like(PostgreSQL::Test::Utils::slurp_file($dump),
	qr/GRANT ALL ON FUNCTION locks\.etcd_try_lock\(name text, wait text\) TO app WITH GRANT OPTION/,
	'a dump has the grants on the new overloads');

# The catalogs of an updated and of a new extension.
my $catalogs = <<'SQL';
WITH member AS (
       SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS what
         FROM pg_depend d JOIN pg_extension e
           ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
        WHERE d.deptype = 'e' AND e.extname = 'etcd_lock'),
     row AS (
       SELECT what, (to_jsonb(p) - '{oid,pronamespace,prosqlbody,proargdefaults,proacl,proowner,prorettype,proallargtypes,proargtypes}'::text[])::text
                || pg_get_functiondef(p.oid) AS content, p.proacl AS acl, classid, objid
         FROM member JOIN pg_proc p ON classid = 'pg_proc'::regclass AND objid = p.oid
        UNION ALL
       SELECT what, concat(relkind, relpersistence, relrowsecurity, pg_get_viewdef(c.oid),
                (SELECT string_agg(concat(attname, format_type(atttypid, atttypmod), attnotnull), ',' ORDER BY attnum)
                   FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0),
                c.oid = ANY (SELECT unnest(extconfig) FROM pg_extension)), c.relacl, classid, objid
         FROM member JOIN pg_class c ON classid = 'pg_class'::regclass AND objid = c.oid
        UNION ALL
       SELECT what, '', nspacl, classid, objid
         FROM member JOIN pg_namespace n ON classid = 'pg_namespace'::regclass AND objid = n.oid
        UNION ALL
       SELECT what, '', NULL, classid, objid
         FROM member WHERE classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass))
SELECT what, replace(content, E'\n', ' '), (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(acl) a),
       (SELECT string_agg(a::text, ' ' ORDER BY a::text)
          FROM pg_init_privs i, unnest(initprivs) a WHERE i.objoid = row.objid AND i.classoid = row.classid),
       obj_description(objid, classid::regclass::name)
  FROM row ORDER BY what
SQL
$here->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(updated fresh);
$here->safe_psql('updated',
	"CREATE EXTENSION etcd_lock VERSION '1.0'; ALTER EXTENSION etcd_lock UPDATE");
$here->safe_psql('fresh', 'CREATE EXTENSION etcd_lock');
my ($updated, $fresh) =
  map { my %objects = map { $_ => 1 } split /\n/, $here->safe_psql($_, $catalogs); \%objects }
  qw(updated fresh);
cmp_ok(scalar(keys %$fresh), '>', 100, 'an extension of many objects');
is(join("\n", sort grep { !$fresh->{$_} } keys %$updated), '', 'updated: nothing is other than new');
is(join("\n", sort grep { !$updated->{$_} } keys %$fresh), '', 'new: nothing is other than updated');

# The other server: both steps at once.
$there->stop;
unlink $there->data_dir . '/old.conf';
$there->start;
$there->safe_psql('postgres', 'ALTER EXTENSION etcd_lock UPDATE');
works_between('both 1.1');

# A role that had grants can go.
$here->safe_psql('postgres', 'DROP OWNED BY app, other; DROP ROLE app, other');
is($here->safe_psql('postgres', "SELECT count(*) FROM pg_roles WHERE rolname IN ('app', 'other')"),
	0, 'a role that had grants is dropped');

# Away and back.
$there->safe_psql('postgres', 'DROP EXTENSION etcd_lock; CREATE EXTENSION etcd_lock');
is(version_of($there), '1.1', 'dropped and created');

$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, $here, $there);
finish($etcd, $here, $there);
