# A server in etcd's place that is hostile or broken: HTTP, JSON and watches.  Each
# time: no lock is granted wrongly, the caller gets an error in bounded time, the
# worker keeps to its memory and goes on, and afterwards locks work again.
#
# What etcd has to do with it is in test/t/020_hostile.pl; what a network does in
# 012.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep time);

my $connect_timeout = 1;
my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint);
my $trap = EtcdLockTest::Proxy->new($etcd->endpoint);
my $conf = <<"END";
etcd_lock.lease_ttl = '6s'
etcd_lock.request_timeout = '1s'
etcd_lock.connect_timeout = '${connect_timeout}s'
END
my $here = start_server('here', endpoints => $proxy->url, conf => $conf);
my $there = start_server('there', endpoints => $etcd->endpoint);
my ($session, $holder, $other) =
  (session($here), session($here), session($there));
my $worker;

# The other server has the lock; a session of this one asks for it while the
# proxy does what it is told.
sub hostile
{
	my ($name, $rule, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $limit = 100_000;    # kB: of answers 64 MB at most

	wait_until_locks_work($session);
	$worker = worker_pid($here);
	$other->query("SELECT etcd_lock('/x')");
	my $before = forget_peak($worker);
	my $log = -s $here->logfile;
	$proxy->rules({ path => '^/v3/', name => $name, %$rule });
	$proxy->reset;
	$session->query("SET statement_timeout = '30 s'");
	my $result = $session->try("SELECT etcd_lock('/x')");
	$session->query('RESET statement_timeout');
	like($result->{sqlstate}, $options{sqlstate} // qr/^(08006|08000|38000|54000)$/,
		"$name: an error")
	  or diag("$result->{out}$result->{err}");
	cmp_ok($result->{elapsed}, '<', $connect_timeout + 10, "$name: in bounded time");
	cmp_ok($proxy->hits($name), '>', 0, "$name: the proxy has done it");
	my $peak = memory_of($worker, 'VmHWM') - $before;
	cmp_ok($peak, '<', $limit, "$name: in bounded memory");
	my $logged = (-s $here->logfile) - $log;
	cmp_ok($logged, '<', 20_000, "$name: without flooding the log");
	is($here->safe_psql('postgres', "SELECT count(*) FROM etcd_locks WHERE name = '/x'"),
		0, "$name: nothing is left in etcd_locks");
	diag sprintf '%-40s %s after %.2f s, %d kB more, %d bytes logged',
	  "$name:", $result->{sqlstate}, $result->{elapsed}, $peak, $logged;
	$proxy->rules;
	$proxy->reset;
	$other->query("SELECT etcd_unlock('/x')");
	wait_until_locks_work($session);
	is(worker_pid($here), $worker, "$name: with the same worker");
	return $result;
}

sub http
{
	my ($status, @headers) = @_;
	return join "\r\n", "HTTP/1.1 $status", @headers, '', '';
}

sub json_answer
{
	my ($body, %options) = @_;
	return {
		do => 'answer',
		start => http($options{status} // '200 OK',
			'Content-Type: ' . ($options{type} // 'application/json'),
			'Content-Length: ' . length $body) . $body
	};
}

my $header =
  '"header":{"cluster_id":"1","member_id":"2","revision":"9","raft_term":"2"}';

#
# HTTP
#

hostile('a body without end',
	{ do => 'answer', start => http('200 OK'), again => 'x' x 1000 });
hostile('JSON without end',
	{ do => 'answer', start => http('200 OK') . '{"a":[', again => '"xxxxxxxxxxxxxx",' });
hostile(
	'an error without end',
	{ do => 'answer', start => http('500 Oops'), again => 'y' x 1000 });
hostile(
	'a content length of petabytes',
	{
		do => 'answer',
		start => http('200 OK', 'Content-Length: 9999999999999999'),
		again => 'x' x 1000
	});
hostile('headers without end',
	{ do => 'answer', start => "HTTP/1.1 200 OK\r\n", again => 'X-Header: ' . 'h' x 200 . "\r\n" });
hostile('one header without end',
	{ do => 'answer', start => "HTTP/1.1 200 OK\r\nX-Header: ", again => 'h' x 1000 });
hostile('"100 Continue" for ever',
	{ do => 'answer', start => '', again => "HTTP/1.1 100 Continue\r\n\r\n" });
hostile('a byte each second',
	{ do => 'answer', start => http('200 OK', 'Content-Length: 1000'), again => ' ', ms => 1000 });
hostile('a byte of the header each second',
	{ do => 'answer', start => "HTTP/1.1 200 OK\r\nX-Header: ", again => 'h', ms => 1000 });
foreach my $chunk ('FFFFFFFFFFFFFFFFF', '-1', 'ten', '')
{
	hostile(
		"a chunk of length \"$chunk\"",
		{
			do => 'answer',
			start => http('200 OK', 'Transfer-Encoding: chunked') . "$chunk\r\n",
			again => 'x' x 1000,
			count => 100
		});
}
hostile(
	'trailers without end',
	{
		do => 'answer',
		start => http('200 OK', 'Transfer-Encoding: chunked') . "2\r\n{}\r\n0\r\n",
		again => 'X-Trailer: ' . 't' x 200 . "\r\n"
	});
hostile(
	'a body shorter than its length',
	{
		do => 'answer',
		start => http('200 OK', 'Content-Length: 1000') . "{$header}",
		end => 'close'
	});
hostile(
	'a body longer than its length',
	{
		do => 'answer',
		start => http('200 OK', 'Content-Length: 2') . "{}{$header,\"succeeded\":true}" x 5
	});
foreach my $status ('301 Moved', '307 Temporary Redirect')
{
	hostile(
		"a redirect, $status",
		{
			do => 'answer',
			start => http($status, 'Location: ' . $trap->url . '/v3/kv/range', 'Content-Length: 0')
		});
}
is($trap->requests, 0, 'no redirect was followed');
hostile('gzip that nobody asked for',
	{
		do => 'answer',
		start => http('200 OK', 'Content-Encoding: gzip', 'Content-Length: 20') . "\x1f\x8b" . 'z' x 18
	});
hostile('another protocol', { do => 'answer', start => "SSH-2.0-OpenSSH_9.2\r\n", end => 'close' });
hostile('a reset at once', { do => 'refuse' });
hostile('a reset within the header', { do => 'answer', start => 'HTTP/1.1 2', end => 'reset' });

#
# JSON
#

hostile('an HTML page as JSON', json_answer('<html><body>{}</body></html>'));
hostile('JSON as an HTML page',
	json_answer("{$header,\"kvs\":[]}", status => '404 Not Found', type => 'text/html'));
hostile('deep nesting', json_answer('{"a":' . '[' x 100_000 . ']' x 100_000 . '}'));
hostile('deep nesting that does not end',
	{ do => 'answer', start => http('200 OK') . '{"a":', again => '[' });
# As a tree they would take more than the limit.
hostile('5 MB of digits', json_answer("{$header,\"kvs\":[" . '0,' x 2_500_000 . '0]}'));
my %bodies = (
	'wrong types' => '{"header":[],"kvs":{},"responses":5,"succeeded":"yes","TTL":{}}',
	'no header' => '{"succeeded":true,"responses":[{"response_put":{}}]}',
	'impossible revisions' =>
	  '{"header":{"cluster_id":"1","revision":"9223372036854775807"},"succeeded":true,"responses":[{"response_put":{}}]}',
	'invalid base64' => "{$header,\"kvs\":[{\"key\":\"***\",\"create_revision\":\"2\",\"mod_revision\":\"2\"}],\"count\":\"1\"}",
	'an error of binary bytes' => '{"code":3,"message":"' . join('', map { chr } 0x80 .. 0xff) . '"}',
	'an error that is no error' => '{"error":{"code":0,"message":""}}',
	'one answer for all' => "{$header,\"succeeded\":true,\"responses\":[{\"response_put\":{}}],\"ID\":\"5\",\"TTL\":\"5\"}");
hostile($_, json_answer($bodies{$_})) foreach sort keys %bodies;

# What etcd says goes to databases in any encoding.
{
	my $name = 'an error that the database cannot show';
	$here->safe_psql('postgres',
		"CREATE DATABASE latin ENCODING 'EUC_JP' LOCALE 'C' TEMPLATE template0");
	$here->safe_psql('latin', 'CREATE EXTENSION etcd_lock');
	my $japan = session($here, db => 'latin');
	$proxy->rules({
		%{ json_answer("{\"code\":3,\"message\":\"\xc3\xa4 \xf0\x9f\x98\x80 refused\"}", status => '400 Bad') },
		path => '^/v3/kv/(txn|range)$', body => encode_base64('/japan', '') =~ s/..?.?=*$//r });
	my $result = $japan->try("SELECT etcd_lock('/japan')");
	is($result->{sqlstate}, '38000', "$name: an error") or diag($result->{err});
	like($result->{err}, qr/refused/, "$name: that can be read");
	$proxy->rules;
	is($japan->query("SELECT etcd_try_lock('/japan')"), 't', "$name: the session lives");
	$japan->quit;
}

#
# Watches that never end and bring nothing good
#

sub revision
{
	return $etcd->call('/v3/maintenance/status', {})->{header}{revision};
}

sub event
{
	my ($key, $revision) = @_;
	return encode_json({ result => {
		header => { cluster_id => '1', member_id => '2', revision => "$revision", raft_term => '2' },
		events => [ { type => 'DELETE', kv => { key => encode_base64($key, ''), mod_revision => "$revision" } } ] } })
	  . "\n";
}

foreach my $case (
	[ 'an error without end', { start => http('500 Oops'), again => 'y' x 1000 } ],
	[ 'a message without end', { start => http('200 OK') . '{"a":"', again => 'x' x 1000 } ],
	[ 'garbage', { start => http('200 OK'), again => 'garbage ' } ],
	[ 'white space without end', { start => http('200 OK'), again => "\n" x 1000 } ],
	[ 'empty messages without end', { start => http('200 OK'), again => "{}\n" } ],
	[ 'a byte each second', { start => http('200 OK'), again => '{', ms => 1000 } ],
	[ 'created again and again',
		{ start => http('200 OK'), again => "{\"result\":{$header,\"created\":true}}\n", ms => 50 } ],
	[ 'deletions of others\' keys', sub {
		{ start => http('200 OK') . "{\"result\":{$header,\"created\":true}}\n",
			again => join('', map { event($_, revision() + 1000) } "/w0/other", "/w1/x/y", "\0\xff", '/w0/write/' . 'f' x 2000), ms => 50 } } ])
{
	my ($name, $rule) = @$case;
	$name = "watches: $name";
	wait_until_locks_work($session);
	$worker = worker_pid($here);
	my @names = map { "/w$_" } 0 .. 19;
	$other->query("SELECT etcd_lock('$_')") foreach @names;
	my $before = forget_peak($worker);
	$rule = $rule->() if ref $rule eq 'CODE';
	$proxy->rules({ path => '^/v3/watch$', name => $name, do => 'answer', %$rule });
	$proxy->reset;
	my @waiters = map { session($here)->send("SELECT etcd_lock('$_') > 0") } @names;
	wait_until_waiting(@waiters);
	my $begin = time;
	wait_until("$name: the proxy has done it", sub { $proxy->hits($name) >= 20 });
	wait_until("$name: a while", sub { time - $begin > 1.5 });
	ok(!(grep { $_->done } @waiters), "$name: nobody is granted") ;
	my $peak = memory_of($worker, 'VmHWM') - $before;
	cmp_ok($peak, '<', 60_000, "$name: in bounded memory");
	$begin = time;
	$other->query('SELECT etcd_unlock_all()');
	is(join('', map { $_->result->{out} } @waiters), 't' x 20, "$name: all are granted then");
	my $took = time - $begin;
	cmp_ok($took, '<', 15, "$name: by looking from time to time");
	diag sprintf '%-40s %d kB more, granted after %.2f s', "$name:", $peak, $took;
	is(worker_pid($here), $worker, "$name: the same worker");
	$_->quit foreach @waiters;
	$proxy->rules;
	$proxy->reset;
}

# By connections that are not reset, so that the worker can give its lease back.
wait_until_locks_work($session);

unlike(
	PostgreSQL::Test::Utils::slurp_file($here->logfile),
	qr/terminated by signal|PANIC:|exited with exit code/,
	'no process has crashed, and the worker never ended');

$_->query('SELECT etcd_unlock_all()') foreach $session, $holder, $other;
is_left_clean($etcd, $here, $there);
$_->quit foreach $session, $holder, $other;
finish($etcd, $here, $there);
$_->stop foreach $proxy, $trap;
