# Attacks of a tenant, of anybody who names things, or points settings at files:
# code that runs as a tenant in another session, names that are meant to be read as
# something else, functions and operators in front of PostgreSQL's own, files that are
# none.

use strict;
use warnings;

use EtcdLockTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use POSIX qw(mkfifo);
use Test::More;

my $etcd = EtcdLockTest::Etcd->new;
my ($here) = start_servers($etcd, 'here');
$here->safe_psql('postgres', <<'SQL');
CREATE ROLE locker;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO locker;
GRANT USAGE, CREATE ON SCHEMA public TO locker;
CREATE ROLE tenant LOGIN IN ROLE locker, pg_monitor;
ALTER ROLE tenant SET etcd_lock.namespace = 'tenants/a/';
SQL
my $root = session($here);
my $tenant = session($here, user => 'tenant');

sub keys_outside
{
	return grep { !m{^tenants/a/} && !m{^\.etcd_lock/(?:server|primary|tick_lease)/} } $etcd->keys('');
}

# ---- A tenant's function, run by autovacuum and by commands of a superuser ----
$tenant->query(<<'SQL');
CREATE TABLE seen (what text, pid int DEFAULT pg_backend_pid());
CREATE FUNCTION attack(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE
	call text;
BEGIN
	PERFORM set_config('search_path', 'public', true);
	FOREACH call IN ARRAY ARRAY['etcd_lock(''victim'')', 'etcd_try_lock(''victim'')', 'etcd_try_xact_lock(1)',
		'etcd_lock_fence(''victim'', 1000)', 'etcd_try_once(''victim'', now())', 'etcd_lock_all(''victim'')',
		'etcd_unlock_all()', 'etcd_advisory.pg_try_advisory_lock(1)']
	LOOP
		BEGIN
			EXECUTE 'SELECT ' || call;
			RAISE LOG 'ATTACK %: succeeded', call;
		EXCEPTION WHEN OTHERS THEN
			RAISE LOG 'ATTACK %: %', call, SQLSTATE;
		END;
	END LOOP;
	RETURN i;
END $$;
SQL
$here->safe_psql('postgres', 'GRANT USAGE ON SCHEMA etcd_advisory TO tenant; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA etcd_advisory TO tenant');
$tenant->query('CREATE TABLE trap (i int) WITH (autovacuum_enabled = off)');
$tenant->query('INSERT INTO trap SELECT generate_series(1, 2); CREATE INDEX trap_index ON trap (i) WHERE i > 0');
$tenant->query('DROP INDEX trap_index; CREATE INDEX trap_index ON trap (attack(i)); CREATE MATERIALIZED VIEW trap_view AS SELECT attack(1)');

# In which a role and its settings are the tenant's own: the namespace holds.
is_deeply([ keys_outside() ], [], 'an index of its own: nothing outside of the namespace');
$tenant->query('SELECT etcd_unlock_all()');

# All calls of the attack were made by it, and none has succeeded.
sub is_held_off
{
	my ($name, $offset) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @attacks = slurp_file($here->logfile, $offset) =~ /ATTACK (.*)/g;
	cmp_ok(scalar(@attacks), '>=', 7, "$name: the attack ran");
	is_deeply([ grep { !/: 42501$/ } @attacks ], [], "$name: and got nowhere");
	is_deeply([ keys_outside() ], [], "$name: nothing in etcd");
	is($root->query('SELECT count(*) FROM etcd_locks'), 0, "$name: no lock");
	return;
}
foreach my $sql ('ANALYZE trap', 'REINDEX TABLE trap', 'VACUUM FULL trap', 'CLUSTER trap USING trap_index', 'REFRESH MATERIALIZED VIEW trap_view')
{
	my $offset = -s $here->logfile;
	$root->try($sql);
	is_held_off("a superuser's $sql", $offset);
}
{
	$root->query(<<'SQL');
ALTER SYSTEM SET autovacuum_naptime = '1s';
ALTER TABLE trap SET (autovacuum_enabled = on, autovacuum_analyze_threshold = 1, autovacuum_analyze_scale_factor = 0);
SELECT pg_reload_conf();
SQL
	# As the tenant: who inserts runs the function as himself.
	$tenant->query('INSERT INTO trap SELECT generate_series(3, 100); SELECT etcd_unlock_all()');
	my $inserted = -s $here->logfile;
	wait_until('autovacuum has come by', sub {
		$root->query("SELECT autoanalyze_count > 0 FROM pg_stat_all_tables WHERE relname = 'trap'") eq 't' });
	is_held_off('autovacuum', $inserted);
	$root->query('ALTER SYSTEM RESET autovacuum_naptime');
	$root->query('SELECT pg_reload_conf()');
}
$root->query('DROP TABLE trap CASCADE; DROP MATERIALIZED VIEW trap_view');
is($root->query("SELECT count(*) FROM etcd_lock_fences WHERE name NOT LIKE 'tenants/a/%'"), 0, 'fences only within the namespace');

# ---- Names that are meant to be read as something else ----
my @texts = (
	q{"}, q{","pid":1,"x":"}, q{'; DROP TABLE seen; --}, "\n2026-01-01 00:00:00.000 UTC [1] LOG:  forged", "\r\nLOG:  forged",
	"\t\x01\x1b[31m\x7f", q{\\}, q{\\u0000\\n}, q{%s%n%d}, q{$1 ${x} `id`}, "\xe2\x80\xae\xf0\x9f\x98\x80", q{</script>&lt;});
sub literal
{
	my ($s) = @_;
	return "E'" . join('', map { /[\w ]/ && ord($_) < 128 ? $_ : sprintf '\\x%02x', ord } split //, $s) . "'";
}
foreach my $i (0 .. $#texts)
{
	my $text = $texts[$i];
	my $shown = sprintf '%s (%d)', $text =~ s/[^ -~]/./gr, $i;
	my $name = literal("n$text");
	my $offset = -s $here->logfile;

	# As a lock's name, a role's, an application's.
	my $odd = $root->query("SELECT quote_ident('r' || $i || " . literal($text =~ s/[\0]//gr) . ')');
	$root->query("CREATE ROLE $odd LOGIN SUPERUSER") if $text !~ /[\r\n]/;
	my $session = session($here);
	$session->query("SET SESSION AUTHORIZATION $odd") if $text !~ /[\r\n]/;
	$session->query("SET application_name = " . literal($text) . "; SELECT etcd_lock($name)");

	my ($entry) = grep { index($_->{key}, "n$text/write/") == 0 } $etcd->entries("n");
	ok($entry, "$shown: the key has the name") or diag(join ' ', $etcd->keys('n'));
	my $value = eval { JSON::PP->new->utf8->decode($entry->{value}) };
	ok($value, "$shown: the value is JSON") or diag($entry->{value});
	is($value->{pid}, $session->pid, "$shown: with the right process");
	is($root->query("SELECT pid FROM etcd_locks WHERE name = $name"), $session->pid, "$shown: etcd_locks");
	is($root->query("SELECT pid FROM etcd_lock_queue($name)"), $session->pid, "$shown: etcd_lock_queue()");
	is($root->query("SELECT q.application_name = a.application_name FROM etcd_lock_queue($name) q JOIN pg_stat_activity a USING (pid)"),
		't', "$shown: its application");

	# Said in messages and in the log: that somebody waits, that it is broken, that it is lost.
	my $waiter = session($here);
	$waiter->query("SET log_lock_waits = on; SET lock_timeout = '1s'");
	is($waiter->try("SELECT etcd_lock($name)")->{sqlstate}, '55P03', "$shown: another session waits, and fails");
	is($root->query("SELECT etcd_lock_break($name, token) FROM etcd_locks WHERE name = $name AND granted"), 't', "$shown: broken");
	$session->try("SELECT etcd_unlock_all()");
	$session->query("SELECT etcd_lock($name)");
	$etcd->delete("n$text/");
	wait_until("$shown: the loss is noticed", sub { $root->query("SELECT bool_and(lost) FROM etcd_locks WHERE name = $name") eq 't' });
	$session->try('SELECT etcd_unlock_all()');
	$_->quit foreach $session, $waiter;
	my $log = slurp_file($here->logfile, $offset);
	unlike($log, qr/^(?:LOG|2026-01-01 00:00:00.000)[^\n]*forged/m, "$shown: no line of the log is forged");
	$root->query("DROP ROLE $odd") if $text !~ /[\r\n]/;
}
is($root->query("SELECT count(*) FROM pg_class WHERE relname = 'seen'"), 1, 'nothing was dropped');

# ---- Functions and operators in front of PostgreSQL's own ----
{
	my $victim = session($here);
	$tenant->query(<<'SQL');
CREATE TABLE caught (who text);
GRANT ALL ON caught TO PUBLIC;
CREATE FUNCTION public.caught() RETURNS boolean LANGUAGE sql AS 'INSERT INTO public.caught VALUES (current_user); SELECT true';
SQL
	my %operators = ('=' => 'eq', '<=' => 'le', '>' => 'gt', '<>' => 'ne', '||' => 'cat');
	foreach my $type (qw(text bigint integer name oid))
	{
		$tenant->query("CREATE FUNCTION public.$operators{$_}($type, $type) RETURNS boolean LANGUAGE sql AS 'SELECT public.caught()';"
			  . "CREATE OPERATOR public.$_ (LEFTARG = $type, RIGHTARG = $type, FUNCTION = public.$operators{$_})") foreach sort keys %operators;
	}
	$tenant->query(<<'SQL');
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT public.caught(); SELECT pg_catalog.now()';
CREATE FUNCTION public.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT public.caught(); SELECT ''''';
CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT public.caught(); SELECT ''''';
CREATE FUNCTION public.pg_has_role(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT public.caught()';
SQL
	# The victim's own path is wrong, and its temporary schema has tables of odd names.
	$victim->query('CREATE TEMP TABLE etcd_lock_fences (name text PRIMARY KEY, token bigint); CREATE TEMP TABLE pg_locks (x int)');
	$victim->query('SET search_path = public, pg_catalog, pg_temp');
	$victim->query($_) foreach (
		"SELECT etcd_lock('/x'), etcd_lock_fence('/x', 5)", 'SELECT count(*) FROM etcd_locks', 'SELECT count(*) FROM etcd_lock_queue()',
		'SELECT count(*) FROM etcd_lock_status', 'SELECT count(*) FROM etcd_lock_endpoints', 'SELECT count(*) FROM etcd_lock_stats',
		"SELECT etcd_lock_check('/x'), etcd_unlock('/x')", "SELECT etcd_try_once('/x', '2030-01-01Z')", "SELECT etcd_lock_fence('/x', 4)",
		"SELECT etcd_lock_fence_reset('/x')", "BEGIN; SELECT etcd_xact_lock('/y'); COMMIT");
	is($victim->query('SELECT count(*) FROM public.caught'), 0, 'traps in the path: none has caught anybody');
	is($victim->query('SELECT count(*) FROM pg_temp.etcd_lock_fences'), 0, 'traps in the path: no fence in a table of somebody else');
	is($tenant->query("SET search_path = public, pg_catalog; SELECT 'a'::text = 'b'::text"), 't', 'traps in the path: they work');
	$victim->quit;
	$tenant->query('RESET search_path');
}

# ---- Files that are none ----
{
	my $dir = PostgreSQL::Test::Utils::tempdir('files');
	append_to_file("$dir/secret", "the secret of somebody else\n");
	chmod 0600, "$dir/secret";
	append_to_file("$dir/open", "open\n");
	chmod 0644, "$dir/open";
	mkfifo("$dir/fifo", 0600) or die "mkfifo: $!";
	symlink "$dir/open", "$dir/link" or die "symlink: $!";
	symlink "$dir/loop", "$dir/loop" or die "symlink: $!";
	my %files = ((map { $_ => 'is not a regular file' } "$dir/fifo", $dir, '/dev/zero', '/dev/tty'), (map { $_ => 'could not open file' } "$dir/loop", "$dir/none"));
	my %open = (%files, map { $_ => 'has group or world access' } "$dir/open", "$dir/link", '/etc/passwd');
	my $worker = worker_pid($here);
	foreach my $setting (qw(password_file key cacert cert))
	{
		my %bad = $setting =~ /password|key/ ? %open : %files;
		foreach my $file (sort keys %bad)
		{
			my $offset = -s $here->logfile;
			my $shown = $file =~ s/^\Q$dir\E/dir/r;
			$root->query("ALTER SYSTEM SET etcd_lock.endpoints = 'https://127.0.0.1:1'") if $setting ne 'password_file';
			$root->query("ALTER SYSTEM SET etcd_lock.username = 'app'") if $setting eq 'password_file';
			$root->query("ALTER SYSTEM SET etcd_lock.$_ = '$dir/secret'") foreach $setting eq 'key' ? 'cert' : $setting eq 'cert' ? 'key' : ();
			$root->query("ALTER SYSTEM SET etcd_lock.$setting = '$file'");
			$root->query('SELECT pg_reload_conf()');
			wait_until("$setting = $shown: it is said", sub {
				join("\n", slurp_file($here->logfile, $offset), $root->query('SELECT last_error FROM etcd_lock_status()')) =~ /"\Q$file\E" (?:$bad{$file})|(?:$bad{$file}) "\Q$file\E"|could not open file "\Q$file\E"/ }, 30);
			pass("$setting = $shown: it is said");
			unlike(slurp_file($here->logfile, $offset), qr/secret of somebody/, "$setting = $shown: nothing of a file is shown");
			$root->query("ALTER SYSTEM RESET etcd_lock.$_") foreach $setting, qw(username cert key endpoints);
			$root->query('SELECT pg_reload_conf()');
		}
	}
	wait_until_locks_work($root);
	is(worker_pid($here), $worker, 'the worker has lived on');
	is($tenant->try("SET etcd_lock.$_ = '/etc/passwd'")->{sqlstate}, '55P02', "$_: a tenant does not set it") foreach qw(password_file key cert cacert);
}

$tenant->quit;
$root->quit;
$etcd->forget_ticks;
is_left_clean($etcd, $here);
finish($etcd, $here);
