# Only requests about the lease decide whether the link is well, and those decide by what
# they are answered: slow members serve, as one or as three; what is asked beside
# them may be refused or take for ever; refused tokens end no lease.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $etcd = EtcdLockTest::Etcd->new;
my @proxies = map { EtcdLockTest::Proxy->new($etcd->endpoint) } 1 .. 3;
my $proxy = $proxies[0];
my $here = start_server('here', endpoints => $proxy->url, conf => "etcd_lock.request_timeout = '3s'\n");
my ($session, $look) = (session($here), session($here));

sub status
{
	my ($what) = @_;
	return $look->query("SELECT $what FROM etcd_lock_status()");
}

# What the log says of a link that was lost since.
sub losses
{
	my ($offset) = @_;
	return scalar(() = slurp_file($here->logfile, $offset) =~ /WARNING: .*etcd_lock/g);
}

# How many streams of watches were ever opened.
sub watch_streams
{
	my $answer = $etcd->{http}->get($etcd->endpoint . '/metrics');
	my ($n) = $answer->{content} =~ /^grpc_server_started_total\{.*grpc_method="Watch".*\} (\d+)/m;
	return $n;
}

#
# Etcd is slow, at one address, or at three
#

foreach my $n (1, 3)
{
	$_->rules({ path => '^/v3/(?!watch)', do => 'delay_answer', ms => 1700 }) foreach @proxies;
	set_endpoints($here, join ',', map { $_->url } @proxies[ 0 .. $n - 1 ]);
	$here->restart;
	($session, $look) = (session($here), session($here));
	my $began = time;
	wait_until("$n slow: a lease", sub { status("state = 'ready'") eq 't' }, 60);
	note sprintf '%d endpoints that answer after 1.7 s: a lease after %.1f s', $n, time - $began;

	# longer than the lease lives by itself; a machine that stalls for long loses it, too
	my ($ready, $locked, $held, $released);
	foreach my $attempt (1 .. 3)
	{
		wait_until("$n slow: a lease again", sub { status("state = 'ready'") eq 't' });
		my $lease = status('lease');
		$locked = $session->try("SELECT etcd_lock('/slow') > 0")->{out};
		$ready = 1;
		foreach (1 .. 24)
		{
			$ready &&= status('lease') eq $lease;
			sleep 0.5;
		}
		my $result = $session->try("SELECT etcd_lock_check('/slow')");
		$held = $result->{out} . $result->{err};
		$released = $session->try("SELECT etcd_unlock('/slow')")->{out};
		last if $ready && $result->{sqlstate} eq '';
	}
	is($locked, 't', "$n slow: a lock");
	ok($ready, "$n slow: the lease is kept");
	is($held, 't', "$n slow: and the lock");
	is($released, 't', "$n slow: and released");
	$_->rules foreach @proxies;
}

#
# What is asked on the side is refused, or takes longer than request_timeout
#

set_endpoints($here, $proxy->url);
$here->restart;
($session, $look) = (session($here), session($here));
wait_until_locks_work($session);
$session->query("SELECT etcd_lock('/held')");
my $lease = status('lease');
foreach my $case (
	[ 'unimplemented', EtcdLockTest::Proxy::refusal(12, 'unknown method') ],
	[ 'not found', do => 'answer', status => 404, type => 'text/plain', text => '404 page not found' ])
{
	my ($name, @answer) = @$case;
	$proxy->rules(
		{ name => 'status', path => '/maintenance/status$', @answer },
		{ name => 'view', path => '/kv/range$', body => 'limit', do => 'delay', ms => 4000 });
	my ($offset, $streams, $until) = (-s $here->logfile, watch_streams(), time + 8);
	$here->reload;    # has it asked at once
	my ($views, $locked) = (0, 1);
	my $viewer = session($here);
	while (time < $until)
	{
		$viewer->send('SELECT count(*) FROM etcd_lock_queue()');
		$locked &&= $session->try("SELECT etcd_lock('/new') > 0, etcd_unlock('/new')")->{out} eq 't|t';
		$viewer->result;
		$views++;
	}
	$viewer->quit;
	cmp_ok($proxy->hits('status'), '>', 0, "status requests, $name: asked");
	cmp_ok($proxy->hits('view'), '>', 0, '... and slow views');
	ok($locked, '... locks come and go');
	is(losses($offset), 0, '... the link is not lost') or diag(slurp_file($here->logfile, $offset));
	is(watch_streams() - $streams, 0, '... no watch is opened again');
	is(status('lease'), $lease, '... and the lease is the same');
}
$proxy->rules;

#
# As many views as may be asked for at a time, which no role alone is allowed, each slow:
# they do not stand in the way of what else is asked on the side
#

$session->query('CREATE ROLE viewer LOGIN IN ROLE pg_monitor');
my $there = start_server('there', endpoints => $etcd->endpoint);
my $holder = session($there);
foreach my $ms (1500, 60_000)    # less and more than request_timeout
{
	my $name = sprintf 'four views that take %.1f s each', $ms / 1000;
	my @viewers = map { session($here, %$_) } {}, {}, ({ user => 'viewer' }) x 2;
	my $asker = session($here);
	$proxy->rules({ path => '/kv/range$', body => 'L3ZpZXdlZC', do => 'delay', ms => $ms });    # "/viewed"

	# each begins another one as soon as it has ended
	my $go_on = sub {
		foreach my $viewer (@viewers)
		{
			$viewer->result if defined $viewer->{sql} && $viewer->done;
			$viewer->send("SELECT count(*) FROM etcd_lock_queue('/viewed')") unless defined $viewer->{sql};
		}
	};
	my $beside = sub {
		my ($what, $sql, $wanted) = @_;
		my (@out, @took);
		foreach (1 .. 5)
		{
			my $statement = $sql->();
			wait_until("$name: all are in flight", sub { $go_on->(); $proxy->open('/v3/kv/range') >= 4 });
			$asker->send($statement);
			until ($asker->done) { $go_on->(); sleep 0.01 }
			my $result = $asker->result;
			push @out, $result->{out} . $result->{err};
			push @took, $result->{elapsed};
		}
		is_deeply(\@out, [ ($wanted) x 5 ], "$name: $what");
		# each of a break's two requests may wait until a view has ended, or is given up
		cmp_ok(max(@took), '<', 7, "$name: $what, soon");
		note sprintf '%s: %s after %s s', $name, $what, join ', ', map { sprintf '%.2f', $_ } @took;
		return;
	};
	my $ticks = 0;
	$beside->('etcd_try_once', sub { sprintf "SELECT etcd_try_once('/tick/$ms/%d', now())", ++$ticks }, 't');
	$beside->(
		'etcd_lock_break',
		sub {
			my $token = $holder->query("SELECT etcd_unlock_all(); SELECT etcd_lock('/broken')") =~ s/\s+//gr;
			return "SELECT etcd_lock_break('/broken', $token)";
		},
		't');
	$proxy->rules;
	$_->kill foreach @viewers;
	$asker->quit;
}
$holder->quit;
$there->stop;
is(status('lease'), $lease, 'slow views: the lease is the same');
$session->quit;

#
# Tokens that are refused
#

$etcd->enable_auth(app => 'secret', [ '/', '.etcd_lock/' ]);
my $dir = PostgreSQL::Test::Utils::tempdir('client');
append_to_file("$dir/password", "secret\n");
chmod 0600, "$dir/password";
$here->append_conf('postgresql.conf', <<"END");
etcd_lock.username = 'app'
etcd_lock.password_file = '$dir/password'
etcd_lock.lease_ttl = '5s'
END
$here->restart;
($session, $look) = (session($here), session($here));
my $kept = 0;
foreach my $attempt (1 .. 5)
{
	# a machine that stalls for long loses the lease by itself
	wait_until_locks_work($session);
	$lease = status('lease');
	$session->query("SELECT etcd_lock('/held')");
	$proxy->rules({ name => "burst $attempt", path => '^/v3/(?!auth)',
			EtcdLockTest::Proxy::refusal(16, 'etcdserver: invalid auth token') });
	wait_until('a token is refused', sub { $proxy->hits("burst $attempt") });
	sleep 2;
	$proxy->rules;
	wait_until_locks_work($look);
	$kept = status('lease') eq $lease && $session->try("SELECT etcd_lock_check('/held')")->{out} eq 't';
	$session->try("SELECT etcd_unlock('/held')");
	last if $kept;
}
ok($kept, 'a burst of refused tokens ends no lease');

finish($etcd, $here);
