# An unprivileged role calls all functions with whatever arguments, for some seconds, in
# several sessions, some of which are cancelled or terminated meanwhile: nothing crashes,
# nothing hangs, each error has an SQLSTATE of its own, and nothing is left.

use strict;
use warnings;

use EtcdLockTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = 8;
my $seed = time * 1000 % 2**31;
srand $seed;
diag "seed $seed";

my $etcd = EtcdLockTest::Etcd->new;
my ($here, $there) = start_servers($etcd, 'here', 'there');
foreach my $node ($here, $there)
{
	$node->safe_psql('postgres', <<'SQL');
CREATE ROLE hunter LOGIN;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO hunter;
GRANT USAGE ON SCHEMA etcd_advisory TO hunter;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA etcd_advisory TO hunter;
ALTER ROLE hunter SET lock_timeout = '50ms';
SQL
}
my $root = session($here);
my $worker = worker_pid($here);

# All functions of the extension, with the types of their arguments.
my @functions = map { my ($call, $name, @types) = split /\|/; { call => $call, name => $name, types => \@types } }
  split /\n/, $root->query(<<'SQL');
SELECT concat_ws('|', CASE prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, p.oid::regproc,
	(SELECT string_agg(format_type(t, NULL), '|' ORDER BY n) FROM unnest(proargtypes::oid[]) WITH ORDINALITY AS a (t, n)))
  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'etcd_lock'
SQL
cmp_ok(scalar(@functions), '>', 60, 'there are functions to call');

my @names = ('a', '/b', 'b/c', '', '/', 'x/read', 'x/write/', '.etcd_lock/x', '42', '1,2', "\\x01\\n\"", '%s%n', ('n' x 600), "\\u00e4", ' ');
my %values = (
	text => [ (map { "E'$_'" } @names) x 3, "repeat('y', 100000)", 'NULL' ],
	'text[]' => [ "ARRAY['a','/b']", "'{}'", "ARRAY['a','a',NULL]", "'{{a},{b}}'", 'NULL', "array_fill('z'::text, ARRAY[50])", "ARRAY['a','/']" ],
	bigint => [ 0, 1, -1, '9223372036854775807', '-9223372036854775808', 'NULL', '(random() * 5)::bigint' ],
	integer => [ 0, 1, -1, 2147483647, -2147483648, 'NULL' ],
	interval => [ "'5 s'", "'-1 day'", "'0'", "'178000000 years'", "'1 month -30 days'", 'NULL' ],
	'timestamp with time zone' => [ 'now()', "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "'0001-01-01Z'", "'9999-12-31'", 'NULL' ],
	boolean => [qw(true false NULL)]);

sub pick { my (@from) = @_; return $from[ rand @from ] }

sub random_call
{
	my $function = pick(@functions);
	my @arguments = map {
		my $type = $_;
		my $value = $values{$type} ? pick(@{ $values{$type} }) : 'NULL';
		"${value}::$type";
	} @{ $function->{types} };
	$arguments[-1] = "VARIADIC $arguments[-1]" if @arguments && $function->{types}[-1] eq 'text[]';
	my $call = "$function->{name}(" . join(', ', @arguments) . ')';
	return $function->{call} eq 'CALL' ? "CALL $call" : 'SELECT ' . (rand() < 0.2 ? "* FROM $call" : $call);
}
sub random_statement
{
	my $r = rand;
	return $r < 0.10 ? 'BEGIN' : $r < 0.16 ? 'COMMIT' : $r < 0.22 ? 'ROLLBACK' : $r < 0.27 ? 'SAVEPOINT s' : $r < 0.32 ? 'ROLLBACK TO s'
	  : $r < 0.35 ? 'RELEASE s' : $r < 0.37 ? 'DISCARD ALL' : $r < 0.39 ? 'SELECT pg_advisory_unlock_all()'
	  : $r < 0.41 ? 'SELECT pg_advisory_unlock(1)' : $r < 0.43 ? 'SET etcd_lock.synchronous_release = ' . pick(qw(on off))
	  : random_call();
}

my %sqlstates;
my ($statements, $closed) = (0, 0);
my @sessions = map { session($_ % 3 ? $here : $there, user => 'hunter') } 1 .. 6;
my $until = time + $seconds;
while (time < $until)
{
	foreach my $i (0 .. $#sessions)
	{
		$sessions[$i]->send(join ";\n", 'ROLLBACK', map { random_statement() } 1 .. 25);
	}
	$sessions[0]->{node}->safe_psql('postgres', 'SELECT ' . pick('pg_cancel_backend', 'pg_terminate_backend') . '(' . $sessions[0]->pid . ')')
	  if rand() < 0.3;
	foreach my $i (0 .. $#sessions)
	{
		my $result = $sessions[$i]->result(60);
		$sqlstates{$_}++ foreach $result->{err} =~ /(?:ERROR|FATAL|PANIC):\s+(\w{5}):/g;
		$statements += 26;
		next unless $result->{closed};
		$closed++;
		$sessions[$i]->kill;
		$sessions[$i] = session($i % 3 == 2 ? $there : $here, user => 'hunter');
	}
}
diag "$statements statements, $closed sessions ended, " . join ' ', map { "$_ $sqlstates{$_}" } sort keys %sqlstates;
cmp_ok($statements, '>', 500, 'statements ran');
is_deeply([ grep { /^(?:XX|58|08)/ } keys %sqlstates ], [], 'no error is an internal one or one of the link');
is_deeply([ grep { !$sqlstates{$_} } qw(22004 42602 42501 55P03) ], [], 'the expected ones occurred');
unlike(slurp_file($_->logfile), qr/terminated by signal|PANIC:|exited with exit code [^1]|TRAP:/, $_->name . ': no process has crashed') foreach $here, $there;
is(worker_pid($here), $worker, 'the worker is still the same');

$_->quit foreach @sessions;
$etcd->forget_ticks;
is_left_clean($etcd, $here, $there);
wait_until_locks_work($root);
$root->quit;
finish($etcd, $here, $there);
