# The fault proxy does what it says, because other tests' conclusions rest on it.  The
# client is a plain HTTP client; etcd's revision shows what arrived.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use HTTP::Tiny;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(time);

my $etcd = EtcdLockTest::Etcd->new;
my $proxy = EtcdLockTest::Proxy->new($etcd->endpoint, http1 => 1);

# A put by way of the proxy: HTTP::Tiny's answer (status 599: there was none).
sub put
{
	my ($key, %options) = @_;
	my $http = $options{http} // HTTP::Tiny->new(timeout => $options{timeout} // 5);
	return $http->post(
		$proxy->url . '/v3/kv/put',
		{
			content => encode_json({
				key => encode_base64($key, ''), value => encode_base64('v', '')
			})
		});
}

# How many puts of a key etcd has seen.
sub puts
{
	my ($key) = @_;
	my $answer =
	  $etcd->call('/v3/kv/range', { key => encode_base64($key, '') });
	return $answer->{kvs} ? $answer->{kvs}[0]{version} : 0;
}

# Without rules, on one connection and on several.
{
	my $http = HTTP::Tiny->new(timeout => 5);
	is(join(' ', map { put('pass', http => $http)->{status} } 1 .. 3),
		'200 200 200', 'no rules: requests on one connection are answered');
	is(put('pass')->{status}, 200, 'and on another one');
	is(puts('pass'), 4, 'each reaches etcd once');
	is($proxy->requests, 4, 'the proxy has counted them');
	my $big = $http->post(
		$proxy->url . '/v3/kv/put',
		{
			content => encode_json({
				key => encode_base64('big', ''),
				value => encode_base64('v' x 500_000, '')
			})
		});
	is($big->{status}, 200, 'a big request passes');
	is(length($http->post(
			$proxy->url . '/v3/kv/range',
			{ content => encode_json({ key => encode_base64('big', '') }) }
		)->{content}) > 500_000,
		1, 'and a big answer');
}

# A rule's choice.
$proxy->rules(
	{ name => 'none', path => '^/v3/watch$', do => 'refuse' },
	{
		name => 'body',
		body => quotemeta(encode_base64('chosen', '')),
		do => 'refuse',
		times => 1
	},
	{ name => 'head', head => '^x-test: yes', do => 'refuse' });
is(put('other')->{status}, 200, 'a rule for other requests does nothing');
is(put('chosen')->{status}, 599, 'a rule chooses by body');
is(put('chosen')->{status}, 200, 'as often as it says');
is($proxy->hits('body'), 1, 'and counts');
is($proxy->hits('none'), 0, 'the one for other requests has none');

# What becomes of a request, and of its answer.  arrives: how many puts etcd
# sees by then, and (eventually) afterwards.
foreach my $case (
	[ 'hold', { do => 'hold' }, 599, 0, 0 ],
	[ 'refuse', { do => 'refuse' }, 599, 0, 0 ],
	[ 'delay', { do => 'delay', ms => 300 }, 200, 1, 1 ],
	[ 'delay for longer than the client waits',
		{ do => 'delay', ms => 4000 }, 599, 0, 1 ],
	[ 'repeat', { do => 'repeat', ms => 3000 }, 200, 1, 2 ],
	[ 'hold_answer', { do => 'hold_answer' }, 599, 1, 1 ],
	[ 'delay_answer', { do => 'delay_answer', ms => 300 }, 200, 1, 1 ],
	[ 'drop_answer', { do => 'drop_answer' }, 599, 1, 1 ],
	[ 'cut_answer', { do => 'cut_answer', bytes => 40 }, 599, 1, 1 ],
	[
		'cut_answer after', { do => 'cut_answer', after => 'raft', bytes => 3 },
		599, 1, 1
	])
{
	my ($name, $rule, $status, $by_then, $at_last) = @$case;
	$proxy->rules({ %$rule, name => $name });
	my $waits = $rule->{do} =~ /^hold/ || $status == 599 && $rule->{ms};
	my $begin = time;
	my $answer = put($name, timeout => $waits ? 1 : 60);
	my $elapsed = time - $begin;
	is($answer->{status}, $status, "$name: the client's answer")
	  or diag($answer->{content});
	is(puts($name), $by_then, "$name: what has reached etcd by then");
	wait_until("$name: reached etcd", sub { puts($name) == $at_last });
	is($proxy->hits($name), 1, "$name: counted");

	cmp_ok($elapsed, '>=', 0.9, "$name: the client has waited") if $waits;
	cmp_ok($elapsed, '<', 30, "$name: the client did not have to wait")
	  if !$waits && $status == 599;
	cmp_ok($elapsed, '>=', 0.3, "$name: it took its time")
	  if $status == 200 && $rule->{do} =~ /delay/;
	$proxy->rules;
	is(put('after')->{status}, 200, "$name: and then all is well again");
}

# Half of an answer, seen by a socket: the connection is reset behind it.
{
	$proxy->rules({ do => 'cut_answer', after => '\{"', bytes => 5 });
	my $socket = IO::Socket::INET->new(PeerAddr => $proxy->url =~ s{^http://}{}r);
	print $socket "POST /v3/maintenance/status HTTP/1.1\r\nHost: x\r\n"
	  . "Content-Length: 2\r\n\r\n{}";
	my $got = '';
	1 while sysread($socket, $got, 65536, length $got);
	ok($!{ECONNRESET}, 'cut_answer: the connection is reset') or diag($!);
	like($got, qr/\r\n\r\n\{"...\z/s, 'cut_answer: so many bytes and no more');
	$proxy->rules;
}

# An answer with something else in it.
{
	$proxy->rules({ do => 'edit_answer', match => '"version":"[^"]*"', with => '"version":"x"' });
	my $answer = HTTP::Tiny->new(timeout => 5)
	  ->post($proxy->url . '/v3/maintenance/status', { content => '{}' });
	is(decode_json($answer->{content})->{version}, 'x', 'edit_answer: this is new');
	cmp_ok(decode_json($answer->{content})->{dbSize}, '>', 0, 'edit_answer: the rest is as it was');
	$proxy->rules;
}

# A watch, which is an answer without end.
sub open_watch
{
	my $socket = IO::Socket::INET->new(
		PeerAddr => $proxy->url =~ s{^http://}{}r,
		Timeout => 5);
	my $body =
	  encode_json({ create_request => { key => encode_base64('watched', '') } });
	print $socket "POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: "
	  . length($body) . "\r\n\r\n$body";
	$socket->blocking(0);
	my $watch = { socket => $socket, got => '' };
	wait_until('the watch is created', sub { watched($watch) =~ /created/ });
	return $watch;
}

sub watched
{
	my ($watch) = @_;
	while (defined(my $n =
			  sysread($watch->{socket}, $watch->{got}, 65536, length $watch->{got})))
	{
		next if $n;
		$watch->{ended} = 1;
		last;
	}
	$watch->{ended} = 1 if $!{ECONNRESET};
	return $watch->{got};
}

{
	my $watch = open_watch();
	put('watched');
	wait_until('an event', sub { watched($watch) =~ /"events"/ });
	pass('events of a watch are passed on');

	$proxy->rules({ path => '^/v3/watch$', do => 'hold_answer' });
	put('watched');
	wait_until('the rule is met', sub { $proxy->hits });
	my $other = open_watch_fails();
	ok($other, 'a held watch is not even acknowledged');
	$proxy->rules;
	my $before = length watched($watch);
	put('watched');
	is(length watched($watch), $before, 'a watch that was open stays silent');
	ok(!$watch->{ended}, 'and open');
	$proxy->reset;
	wait_until('reset', sub { watched($watch); $watch->{ended} });
	pass('reset ends it');

	$watch = open_watch();
	$proxy->rules(
		{ path => '^/v3/watch$', do => 'cut_answer', after => '"kv"', bytes => 8 });
	put('watched');
	wait_until('cut', sub { watched($watch); $watch->{ended} });
	like($watch->{got}, qr/"kv"....\z/s, 'a watch that is cut within an event');
	$proxy->rules;
}

sub open_watch_fails
{
	local $PostgreSQL::Test::Utils::timeout_default = 1;
	return !eval { open_watch(); 1 };
}

# Refusing all connections.
{
	my $http = HTTP::Tiny->new(timeout => 5);
	is(put('refuse', http => $http)->{status}, 200, 'a connection is open');
	$proxy->refuse;
	is(put('refused', http => $http)->{status}, 599, 'refuse: it is reset');
	like(put('refused')->{content}, qr/refused/, 'refuse: none can be made');
	$proxy->accept;
	is(put('refused')->{status}, 200, 'accept: they can, on the same port');
	is(puts('refused'), 1, 'nothing refused has reached etcd');
}

# Etcd is gone.
$etcd->kill9;
is(put('gone')->{status}, 599, 'no etcd: no answer');
$etcd->start;
is(put('gone')->{status}, 200, 'and when it is back, there is one');

$proxy->stop;
$etcd->stop;
done_testing();
