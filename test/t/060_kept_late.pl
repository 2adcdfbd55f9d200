# Others ask for a lock that a server keeps, and its worker learns that late, or not at all:
# from an answer that comes after what the watch has shown, as a worker that follows another
# one, or while the server stops.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use MIME::Base64;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $keep = "etcd_lock.keep_window = '10s'";
my $here = start_server('here', endpoints => $proxy->url, conf => "$keep\nlog_min_messages = 'debug2'");
my $there = start_server('there', endpoints => $etcd->endpoint, conf => $keep);
my ($holder, $second, $look) = map { session($here) } 1 .. 3;
my ($other, $third) = map { session($there) } 1 .. 2;

sub acquired { return $look->query('SELECT acquired_etcd FROM etcd_lock_stats') }

sub loop
{
	my ($session, $name, $mode) = @_;
	$session->query("SELECT etcd_lock$mode('$name'); SELECT etcd_unlock$mode('$name');" x 5);
	return;
}

# Until the server keeps the lock.
sub heat
{
	my ($session, $name, $mode) = @_;
	$mode //= '';
	wait_until(
		"$name is hot",
		sub {
			my $before = acquired();
			loop($session, $name, $mode);
			return acquired() == $before;
		});
	return;
}

#
# An answer of etcd comes after what the watch has shown since: it does not show that nobody
# else is there
#

# The holder does this, and etcd's response about the name is late.  Returns how long another
# server that asks meanwhile waits after the release, in seconds; undef: it was not late enough.
sub taken_after
{
	my ($name, $etcd_key, $sql) = @_;
	my ($path, $key) = ('^/v3/kv/(range|txn)$', substr(encode_base64($etcd_key, ''), 0, 4 * int(length($etcd_key) / 3)));

	$proxy->rules(
		{
			path => $path, body => qq("key": ?"$key), name => $name, times => 1,
			do => 'delay_answer', ms => 4000
		});
	my $met = $proxy->hits($name);
	my $answered = time + 4;
	$holder->send($sql);
	wait_until('etcd is asked', sub { $proxy->hits($name) > $met });
	$other->send("SELECT etcd_lock('$name') > 0");
	wait_until_waiting($other);

	# what the watches show comes in order: when this server has given up what it kept, it
	# has seen the other server's key, too
	$third->query("SELECT etcd_lock('/shown')");
	$third->query("SELECT etcd_unlock('/shown')");
	my $in_time = time < $answered;

	# neither before the answer nor before the next one has come
	wait_until('etcd has answered',
		sub { time > $answered && !grep { $proxy->open("/v3/kv/$_") } qw(range txn) });
	isnt($holder->result->{out}, '', "$name: the answer has come");
	$second->query("SELECT etcd_lock('/next')");
	$second->query("SELECT etcd_unlock('/next')");
	my $released = time;
	$holder->query('SELECT etcd_unlock_all()');
	is($other->result->{out}, 't', "$name: the other server gets it");
	my $took = time - $released;
	$other->query("SELECT etcd_unlock('$name')");
	return $in_time ? $took : undef;
}

sub is_given_up
{
	my ($name, $what, $attempt) = @_;
	my $took;
	foreach (1 .. 5)
	{
		heat($second, '/shown');
		$took = $attempt->($name);
		last if defined $took;
	}
	cmp_ok($took // 'inf', '<', 5, "$name: $what does not hide who asks");
	return;
}

is_given_up(
	'/late',
	'a late read of the queue',
	sub {
		heat($holder, '/late');
		$holder->query("SELECT etcd_lock('/late')");
		return taken_after('/late', '/late/', "SELECT etcd_lock_check('/late')");
	});

# The name is watched already, because of the other mode's key.
is_given_up(
	'/granted',
	'a late answer to a put',
	sub {
		heat($holder, '/granted', '_shared');
		$holder->query("SELECT etcd_lock_shared('/granted')");
		return taken_after('/granted', '/granted/w', "SELECT etcd_lock('/granted')");
	});
$proxy->rules;

#
# A worker follows another one, and its watches show nothing: it does not rely on those of
# the other one
#

heat($holder, '/worker');
my $worker = worker_pid($here);
$proxy->rules({ path => '^/v3/watch$', name => 'silent', do => 'hold_answer' });
$look->query("SELECT pg_terminate_backend($worker)");
wait_until('another worker', sub { my $pid = worker_pid($here); $pid ne '' && $pid != $worker });
my $before = acquired();
ok( eval {
		wait_until('the lock is acquired from etcd', sub { loop($holder, '/worker', ''); acquired() > $before }, 30);
	},
	'a lock that a worker finds kept is passed on without end only when the worker watches it');
cmp_ok($proxy->hits('silent'), '>', 0, '... which was silent');
$proxy->rules;
$proxy->reset;

#
# A server stops: what is kept cannot be had any more before the lease ends
#

wait_until_locks_work($holder);
heat($holder, '/stop');
$worker = worker_pid($here);
$_->quit foreach $holder, $second, $look;
my $log = -s $here->logfile;
$here->stop('fast');
like(slurp_file($here->logfile, $log), qr{\[$worker\].* lock "/stop": key of revision \d+ is to be deleted},
	'a server that stops gives up what it keeps');
is($other->query("SELECT etcd_try_lock('/stop')"), 't', '... which others can have at once');

finish($etcd, $there);
