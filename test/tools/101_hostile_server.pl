# A server in etcd's place that is hostile or broken: HTTP/2, gRPC, messages and
# watches.  Each time, no lock is granted wrongly, the caller gets an error in bounded
# time, the worker limits its memory and carries on, and locks work again afterwards.
#
# What involves a real etcd is in test/t/020_hostile.pl; what a network does is in 012.

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
	my $rate = $proxy->hits($name) / ($result->{elapsed} + 1);
	cmp_ok($rate, '<', 50, "$name: without hammering it");
	my $peak = memory_of($worker, 'VmHWM') - $before;
	cmp_ok($peak, '<', $limit, "$name: in bounded memory");
	my $logged = (-s $here->logfile) - $log;
	cmp_ok($logged, '<', 20_000, "$name: without flooding the log");
	is($here->safe_psql('postgres', "SELECT count(pid) FROM etcd_locks WHERE name = '/x'"),
		0, "$name: nothing is left in etcd_locks");
	diag sprintf '%-40s %s after %.2f s, %.1f requests/s, %d kB more, %d bytes logged',
	  "$name:", $result->{sqlstate}, $result->{elapsed}, $rate, $peak, $logged;
	$proxy->rules;
	$proxy->reset;
	$other->query("SELECT etcd_unlock('/x')");
	wait_until_locks_work($session);
	is(worker_pid($here), $worker, "$name: with the same worker");
	return $result;
}

#
# HTTP/2, by its bytes.  {STREAM} is the number of the call's stream.
#

sub frame
{
	my ($type, $flags, $payload, $stream) = @_;
	my %types = (data => 0, headers => 1, priority => 2, rst_stream => 3, settings => 4,
		push_promise => 5, ping => 6, goaway => 7, window_update => 8, continuation => 9);
	return substr(pack('N', length $payload), 1)
	  . pack('CC', $types{$type} // $type, $flags)
	  . ($stream // '{STREAM}')
	  . $payload;
}
my $connection = pack 'N', 0;
my ($end_stream, $end_headers) = (1, 4);

# A header field as it is, in no table.
sub field
{
	my ($name, $value) = @_;
	return "\0" . pack('C/a C', $name, 0x7f & length $value) . $value if length $value < 127;
	my $rest = length($value) - 127;
	my $length = "\x7f";
	while ($rest >= 128) { $length .= chr($rest % 128 + 128); $rest = int($rest / 128) }
	return "\0" . pack('C/a', $name) . $length . chr($rest) . $value;
}
my $ok = field(':status', '200') . field('content-type', 'application/grpc');
my $head = frame('headers', $end_headers, $ok);
my $trailers = field('grpc-status', '0');

sub message { my ($bytes) = @_; return "\0" . pack('N/a', $bytes) }

sub raw { my ($start, %options) = @_; return { do => 'answer', start => $start, %options } }

hostile('DATA without end', raw($head, again => frame('data', 0, 'x' x 1000)));
hostile('a message without end', raw($head . frame('data', 0, "\0\0\xff\xff\xf0"), again => frame('data', 0, 'x' x 16000)));
hostile('a message of 4 GB', raw($head . frame('data', 0, "\0\xff\xff\xff\xff"), again => frame('data', 0, 'x' x 16000)));
hostile('messages without end', raw($head, again => frame('data', 0, message(''))));
hostile('a compressed message', raw($head . frame('data', 0, "\1\0\0\0\1x") . frame('headers', $end_headers | $end_stream, $trailers)));
hostile('an error without end',
	raw(frame('headers', $end_headers, field(':status', '500') . field('content-type', 'text/html')),
		again => frame('data', 0, 'y' x 1000)));
hostile('headers without end', raw(frame('headers', 0, $ok), again => frame('continuation', 0, field('x-header', 'h' x 100))));
hostile('a header bomb',
	raw(frame('headers', $end_headers, $ok . "\x40" . pack('C/a', 'x-bomb') . "\x7f\xa1\x1e" . 'b' x 4000 . "\xbe" x 12000)));
hostile('trailers without end', raw($head, again => frame('headers', $end_headers, field('x-trailer', 't' x 100))));
hostile('"100 Continue" for ever', raw('', again => frame('headers', $end_headers, field(':status', '100'))));
hostile('a byte each second', raw($head, again => frame('data', 0, "\0"), ms => 1000));
hostile('a byte of a frame each second', raw('', again => "\0", ms => 1000));
hostile('empty DATA frames without end', raw($head, again => frame('data', 0, '')));
hostile('a response without a message', raw($head . frame('headers', $end_headers | $end_stream, $trailers)));
hostile('two messages', raw($head . frame('data', 0, message('') x 2) . frame('headers', $end_headers | $end_stream, $trailers)));
hostile('half of a message', raw($head . frame('data', 0, "\0\0\0\0\x09half") . frame('headers', $end_headers | $end_stream, $trailers)));
hostile('no trailers', raw($head . frame('data', $end_stream, message('x'))));
hostile('a status that is no number', raw($head . frame('headers', $end_headers | $end_stream, field('grpc-status', 'five'))));
hostile('a status that is too large', raw($head . frame('headers', $end_headers | $end_stream, field('grpc-status', '99999999999'))));
foreach my $case (
	[ 'SETTINGS', 'settings', 0, pack('nN', 4, 65535), $connection ],
	[ 'PING', 'ping', 0, '12345678', $connection ],
	[ 'PRIORITY', 'priority', 0, pack('NC', 0, 1) ],
	[ 'WINDOW_UPDATE', 'window_update', 0, pack('N', 1), $connection ],
	[ 'RST_STREAM', 'rst_stream', 0, pack('N', 0) ],
	[ 'unknown frames', 99, 0, 'z' x 100 ],
	[ 'frames on streams that are not there', 'data', 0, 'd', pack('N', 2001) ])
{
	my ($what, @frame) = @$case;
	hostile("$what without end", raw('', again => frame(@frame)));
}
hostile('a frame that is too long', raw("\xff\xff\xff\0\0{STREAM}", again => 'x' x 1000));
hostile('PUSH_PROMISE', raw(frame('push_promise', $end_headers, pack('N', 2) . $ok)));
hostile('a header out of no table', raw(frame('headers', $end_headers, "\xff\xff\xff\x7f")));
hostile('GOAWAY', raw(frame('goaway', 0, pack('NN', 0, 0), $connection)));
hostile('GOAWAY without an end of it', raw(frame('goaway', 0, pack('NN', 0x7fffffff, 0), $connection)));
hostile('windows that never open', raw(frame('settings', 0, pack('nN', 4, 0), $connection)));
hostile('a window beyond all bounds', raw(frame('window_update', 0, pack('N', 0x7fffffff), $connection) x 2));
hostile('no more streams', raw(frame('settings', 0, pack('nN', 3, 0), $connection)));
hostile('HTTP/1', raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"));
hostile('another protocol', raw("SSH-2.0-OpenSSH_9.2\r\n", end => 'close'));
hostile('a reset at once', { do => 'reset' });
hostile('a reset within a frame', raw(substr($head, 0, 12), end => 'reset'));
hostile('each call reset', { do => 'refuse' });
hostile('each call refused', { do => 'refuse', code => 7 });
foreach my $status (301, 307, 404, 503)
{
	hostile("HTTP status $status", { do => 'answer', status => $status, text => '<html><body>It works!</body></html>' });
}
is($trap->requests, 0, 'no redirect was followed');

#
# Messages
#

my %messages = (
	'no message' => '',
	'an HTML page' => unpack('H*', '<html><body>{}</body></html>'),
	'no header' => '1001',
	'no cluster' => '0a0418092002',
	'an impossible revision' => '0a0f0801100218ffffffffffffffff7f20021001',
	'Txns in Txns' => '0a080801100218092002' . '1a0e220c1a0a22081a0622041a022200',
	'a field without an end' => '0aff01',
	'a varint without an end' => 'ff' x 100,
	'one answer for all' => '0a080801100218092002' . '1005' . '1805');
foreach my $name (sort keys %messages)
{
	my $hex = $messages{$name};
	$hex .= '0' if length($hex) % 2;
	hostile($name, { do => 'answer', hex => $hex });
}

# A response that is small on the wire and large in memory.
hostile('5 MB of keys', { do => 'answer', hex => '0a080801100218092002' . '1005' . '2a016b' x 1_700_000 });

hostile('an error of binary bytes', { do => 'answer', code => 3, message => join('', map { sprintf '%%%02x', $_ } 0 .. 255) });
# Without a user name in the settings, logging in cannot help.
hostile("a demand for a login ($_)", { do => 'answer', code => $_, message => 'etcdserver: user name is empty' },
	sqlstate => qr/^(38000|28000)$/) foreach 3, 16;

hostile('an error that etcd does not know', { do => 'answer', code => 99, message => '' });

# What etcd says goes to databases in any encoding.
{
	my $name = 'an error that the database cannot show';
	$here->safe_psql('postgres',
		"CREATE DATABASE latin ENCODING 'EUC_JP' LOCALE 'C' TEMPLATE template0");
	$here->safe_psql('latin', 'CREATE EXTENSION etcd_lock');
	my $japan = session($here, db => 'latin');
	$proxy->rules({
		do => 'answer', code => 3, message => '%c3%a4 %f0%9f%98%80 refused',
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

my $header = '"header":{"cluster_id":"1","member_id":"2","revision":"9","raft_term":"2"}';

sub varint
{
	my ($n) = @_;
	my $out = '';
	while ($n >= 128) { $out .= chr($n % 128 + 128); $n = int($n / 128) }
	return $out . chr $n;
}

sub bytes_field { my ($number, $bytes) = @_; return varint($number << 3 | 2) . varint(length $bytes) . $bytes }
sub int_field { my ($number, $n) = @_; return varint($number << 3) . varint($n) }
my $watch_header = bytes_field(1, int_field(1, 1) . int_field(2, 2) . int_field(3, 9) . int_field(4, 2));

# Of the watch with this number.
sub created { my ($id) = @_; return frame('data', 0, message($watch_header . int_field(2, $id) . int_field(3, 1))) }

sub event
{
	my ($key, $revision) = @_;
	return join '', map {
		frame('data', 0, message(bytes_field(1, int_field(1, 1) . int_field(3, $revision))
			. int_field(2, $_) . bytes_field(11, int_field(1, 1) . bytes_field(2, bytes_field(1, $key) . int_field(3, $revision)))))
	} 1 .. 25;
}

foreach my $case (
	[ 'an error without end', { start => frame('headers', $end_headers, field(':status', '500')), again => frame('data', 0, 'y' x 1000) } ],
	[ 'a message without end', { start => $head . frame('data', 0, "\0\0\xff\xff\xff"), again => frame('data', 0, 'x' x 1000) } ],
	[ 'garbage', { start => $head, again => frame('data', 0, message('garbage')), ms => 20 } ],
	[ 'empty messages without end', { start => $head, again => frame('data', 0, message('')), ms => 20 } ],
	[ 'a byte each second', { start => $head, again => frame('data', 0, "\0"), ms => 1000 } ],
	[ 'created again and again', { start => $head, again => join('', map { created($_) } 1 .. 25), ms => 50 } ],
	[ 'refused without a number', { start => $head, again => frame('data', 0, message($watch_header
		. varint(2 << 3) . "\xff" x 9 . "\1" . int_field(3, 1) . int_field(4, 1))), ms => 50 } ],
	[ 'deletions of others\' keys', sub {
		{ start => $head . join('', map { created($_) } 1 .. 25),
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
	wait_until("$name: the proxy has done it", sub { $proxy->hits($name) >= 1 });
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

# What it says about the end of a stream is one line of the log.
{
	my $name = 'a forged line in the log';
	wait_until_locks_work($session);
	$here->append_conf('postgresql.conf', 'log_min_messages = debug1');
	$here->reload;
	$other->query("SELECT etcd_lock('/x')");
	my $log = -s $here->logfile;
	$proxy->rules({ path => '^/v3/watch$', do => 'answer', code => 9, message => 'over%0aLOG:  forged' });
	$proxy->reset;
	my $waiter = session($here)->send("SELECT etcd_lock('/x') > 0");
	is_logged($here, $log, qr/the watches have ended: over LOG: forged/, "$name: it is in one line");
	$proxy->rules;
	$other->query("SELECT etcd_unlock('/x')");
	is($waiter->result->{out}, 't', "$name: locks work");
	$waiter->quit;
	$here->append_conf('postgresql.conf', 'log_min_messages = warning');
	$here->reload;
}

# A token that is found in what the server says, and in what it is masked by there
{
	my $name = 'a token of asterisks';
	wait_until_locks_work($session);
	$worker = worker_pid($here);
	my $dir = PostgreSQL::Test::Utils::tempdir('client');
	PostgreSQL::Test::Utils::append_to_file("$dir/password", 'password');
	chmod 0600, "$dir/password";
	my $log = -s $here->logfile;
	$proxy->rules(
		{ path => '^/v3/auth/', do => 'answer', name => $name, hex => unpack 'H*', $watch_header . bytes_field(2, '**') },
		{ path => '^/v3/', do => 'answer', code => 3, message => 'no *** at all' });
	$here->append_conf('postgresql.conf', "etcd_lock.username = 'user'\netcd_lock.password_file = '$dir/password'");
	$here->reload;
	wait_until("$name: the worker logs in", sub { $proxy->hits($name) > 0 });
	is_logged($here, $log, qr/no \*\*\* at all/, "$name: the worker goes on");
	$proxy->rules;
	$here->append_conf('postgresql.conf', "etcd_lock.username = ''");
	$here->reload;
	wait_until_locks_work($session);
	is(worker_pid($here), $worker, "$name: it is the same worker");
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
