# Every example of doc/recipes.md does what it says, on two servers that are set up like
# those of test/demo.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Markdown;
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;

my $libdir = `pg_config --pkglibdir`;
chomp $libdir;
my $has_cron = -e "$libdir/pg_cron.so";

my $etcd = EtcdLockTest::Etcd->new;
my %node = map {
	my $node = new_server(
		$_,
		endpoints => $etcd->endpoint,
		conf => $has_cron ? "shared_preload_libraries = 'etcd_lock, pg_cron'" : undef);
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION etcd_lock');
	($_ => $node);
} qw(A B);

# Sessions by the names that the text gives them: "A", "B, second session",
# "A, as app".
my %session;

sub session_for
{
	my ($name) = @_;
	return $session{$name} //= do
	{
		my ($server, $what) = $name =~ /^([AB])(?:, (.+))?$/
		  or die "no session \"$name\"";
		my ($user) = ($what // '') =~ /^as (\w+)$/;
		die "no session \"$name\""
		  if defined $what && !$user && $what !~ /^(second|third) session$/;
		session($node{$server}, user => $user);
	};
}

# What psql writes, as the text has it: no empty lines, which are void values; of
# errors and warnings the message.
sub answer
{
	my ($result) = @_;
	return (
		(grep { /\S/ } split /\n/, $result->{out}),
		map { /^(?:psql:.*?: )?((?:ERROR|WARNING|NOTICE|FATAL):\s+)(?:\w{5}: )?(.*)/ ? "$1$2" : () }
		  split /\n/, $result->{err});
}

# Does an answer match?  Tokens are other ones each time.
sub is_answer
{
	my ($name, $got, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @got = $got ? answer($got) : ();

	@expected = () if "@expected" eq '(none)' || "@expected" eq 'goes on';
	return pass($name) if "@expected" =~ /^\(.*\)$/;    # it depends
	foreach (\@got, \@expected)
	{
		s/\b\d{7,}\b/TOKEN/g, s/\s*\|\s*/ | /g, s/\s+/ /g foreach @$_;
	}
	is_deeply(\@got, \@expected, $name);
	return;
}

sub run_step
{
	my ($step, $name) = @_;
	my $session = session_for($name);
	my @expected = @{ $step->{expected} };
	my $what = "line $step->{line}, $name: "
	  . ($step->{sql} =~ s/\s+/ /gr =~ s/^(.{50}).+/$1.../r || 'the statement that waited');

	if ($step->{sql} =~ /^\s*\\q\s*$/)
	{
		$session->quit;
		delete $session{$name};
	}
	elsif ("@expected" eq 'waits')
	{
		$session->send($step->{sql});
		wait_until_waiting($session);
		pass("$what waits");
	}
	elsif ($step->{sql} eq '')
	{
		return unless @expected;
		is_answer($what, $session->result, @expected);
	}
	else
	{
		is_answer($what, $session->try($step->{sql}), @expected);
	}
	return;
}

sub end_of_section
{
	$_->quit foreach values %session;
	%session = ();
	ok( wait_until(
			'no lock is left',
			sub { !grep { !m{^\.etcd_lock/tick/} } $etcd->lock_keys }),
		'no lock is left');
	return;
}

my $text = slurp_file(dirname(__FILE__) . '/../../doc/recipes.md');
my @sql = grep { ($_->{info}[0] // '') eq 'sql' } EtcdLockTest::Markdown::blocks($text);
cmp_ok(scalar(@sql), '>', 15, 'there are examples');

my $section = '';
foreach my $block (@sql)
{
	if ($block->{section} ne $section)
	{
		end_of_section() if $section ne '';
		$section = $block->{section};
		note $section;
	}
  SKIP:
	{
		skip "line $block->{line}: pg_cron is not installed", 1
		  if ($block->{info}[1] // '') eq 'pg_cron' && !$has_cron;
		foreach my $step (EtcdLockTest::Markdown::steps($block))
		{
			run_step($step, $_) foreach @{ $step->{sessions} };
		}
	}
}
end_of_section();

$etcd->delete('.etcd_lock/tick/');
is_left_clean($etcd, values %node);
finish($etcd, values %node);
