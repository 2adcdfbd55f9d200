# The fault proxies do what they say, because other tests' conclusions rest on them.  The
# client of test/faultproxy is a plain HTTP client, that of test/grpcproxy is etcdctl; etcd
# shows what arrived.

use strict;
use warnings;

use EtcdLockTest;
use EtcdLockTest::Proxy;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep time);

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

# What becomes of a request, and of its answer: whether it comes, how many puts etcd sees
# by then, and (eventually) afterwards.
my @cases = (
	[ 'hold', { do => 'hold' }, 0, 0, 0 ],
	[ 'refuse', { do => 'refuse' }, 0, 0, 0 ],
	[ 'delay', { do => 'delay', ms => 300 }, 1, 1, 1 ],
	[ 'delay for longer than the client waits', { do => 'delay', ms => 4000 }, 0, 0, 1 ],
	[ 'repeat', { do => 'repeat', ms => 3000 }, 1, 1, 2 ],
	[ 'hold_answer', { do => 'hold_answer' }, 0, 1, 1 ],
	[ 'delay_answer', { do => 'delay_answer', ms => 300 }, 1, 1, 1 ],
	[ 'drop_answer', { do => 'drop_answer' }, 0, 1, 1 ]);

# $put puts a key by way of a proxy, within a timeout, and returns whether it was answered.
sub proxy_does
{
	my ($which, $proxy, $put, @cases) = @_;
	foreach my $case (@cases)
	{
		my ($what, $rule, $answered, $by_then, $at_last) = @$case;
		my $name = "$which, $what";
		$proxy->rules({ %$rule, name => $name });
		my $waits = $rule->{do} =~ /^hold/ || !$answered && $rule->{ms};
		my $begin = time;
		my $got = $put->($name, $waits ? 1 : 60);
		my $elapsed = time - $begin;
		is($got ? 1 : 0, $answered, "$name: the client's answer");
		is(puts($name), $by_then, "$name: what has reached etcd by then");
		wait_until("$name: reached etcd", sub { puts($name) == $at_last });
		is($proxy->hits($name), 1, "$name: counted");

		cmp_ok($elapsed, '>=', 0.9, "$name: the client has waited") if $waits;
		cmp_ok($elapsed, '<', 30, "$name: the client did not have to wait") if !$waits && !$answered;
		cmp_ok($elapsed, '>=', 0.3, "$name: it took its time") if $answered && $rule->{do} =~ /delay/;
		$proxy->rules;
		ok($put->('after', 60), "$name: and then all is well again");
	}
	return;
}

proxy_does('faultproxy', $proxy, sub {
		my ($key, $timeout) = @_;
		my $status = put($key, timeout => $timeout)->{status};
		die "status $status" unless $status =~ /^(?:200|599)$/;
		return $status == 200;
	},
	@cases,
	[ 'cut_answer', { do => 'cut_answer', bytes => 40 }, 0, 1, 1 ],
	[ 'cut_answer after', { do => 'cut_answer', after => 'raft', bytes => 3 }, 0, 1, 1 ]);

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

#
# The same of test/grpcproxy
#

my $grpc = EtcdLockTest::Proxy->new($etcd->endpoint);

# Whether it succeeds, and what it prints.
sub etcdctl
{
	my ($timeout, @arguments) = @_;
	local $ENV{ETCDCTL_API} = 3;
	my $done = IPC::Run::run(
		[ $ENV{ETCDCTL} // 'etcdctl', '--endpoints', $grpc->url, "--command-timeout=${timeout}s", @arguments ],
		'<', \'', '>&', \my $output);
	return ($done, $output);
}

sub grpc_put
{
	my ($key, $timeout) = @_;
	my ($done) = etcdctl($timeout // 60, 'put', $key, 'v');
	return $done;
}

# Without rules, and a rule's choice.
{
	my $before = $grpc->requests;
	ok(grpc_put('grpc pass'), 'grpcproxy, no rules: a request is answered');
	is(puts('grpc pass'), 1, '... and reaches etcd once');
	is($grpc->requests - $before, 1, '... and is counted');
	my ($done, $output) = etcdctl(60, 'put', 'grpc big', 'v' x 100_000);
	ok($done, 'grpcproxy: a big request passes') or diag($output);
	($done, $output) = etcdctl(60, 'get', 'grpc big');
	cmp_ok(length $output, '>', 100_000, '... and a big answer');

	$grpc->rules(
		{ name => 'other path', path => '^/v3/watch$', do => 'refuse' },
		{
			name => 'by body',
			path => '^/v3/kv/put$',
			body => quotemeta(encode_base64('grpc chosen', '')),
			do => 'refuse',
			times => 1
		});
	ok(grpc_put('grpc other'), 'grpcproxy: a rule for other requests does nothing');
	ok(!grpc_put('grpc chosen'), '... a rule chooses by body');
	ok(grpc_put('grpc chosen'), '... as often as it says');
	is($grpc->hits('by body'), 1, '... and counts');
	is($grpc->hits('other path'), 0, '... the one for other requests has none');
	$grpc->rules;
}

proxy_does('grpcproxy', $grpc, \&grpc_put, @cases,
	[ 'reset', { do => 'reset' }, 0, 0, 0 ],
	[ 'cut_answer', { do => 'cut_answer', bytes => 10 }, 0, 1, 1 ],
	[ 'cut_answer after', { do => 'cut_answer', after => 'raft', bytes => 3 }, 0, 1, 1 ],
	[ 'no_trailers', { do => 'no_trailers' }, 0, 1, 1 ],
	[ 'answer, a refusal', { EtcdLockTest::Proxy::refusal(8, 'not now') }, 0, 0, 0 ],
	[ 'answer, no gRPC', { do => 'answer', status => 404, text => 'nothing here' }, 0, 0, 0 ],
	[ 'answer, a message', { do => 'answer', json => '{}' }, 1, 0, 0 ]);

# Those that say that the call was not taken: Go's client then sends it again.
foreach my $rule ({ do => 'refuse', code => 7 }, { do => 'goaway' })
{
	my $name = join ' ', 'grpcproxy,', map { "$_ $rule->{$_}" } sort keys %$rule;
	$grpc->rules({ %$rule, name => $name, times => 1 });
	ok(grpc_put($name), "$name: it is sent again, and answered");
	is(puts($name), 1, "$name: it has reached etcd once");
	is($grpc->hits($name), 1, "$name: counted");
	$grpc->rules;
}

# An answer with something else in it, or to an earlier call; what a refusal says.
{
	$grpc->rules({ do => 'edit_answer', match => '"version":"[^"]*"', with => '"version":"9.9.9"' });
	my ($done, $output) = etcdctl(60, 'endpoint', 'status');
	like($output, qr/, 9\.9\.9, [\d.]+ [kM]B/, 'grpcproxy, edit_answer: this is new, the rest as it was');
	$grpc->rules;
	etcdctl(60, 'put', 'grpc stale', 'old');
	etcdctl(60, 'get', 'grpc stale');
	etcdctl(60, 'put', 'grpc stale', 'new');
	$grpc->rules({ do => 'stale_answer', path => '^/v3/kv/range$' });
	is((etcdctl(60, 'get', 'grpc stale'))[1], "grpc stale\nold\n", 'grpcproxy, stale_answer: the earlier one');
	$grpc->rules({ EtcdLockTest::Proxy::refusal(8, 'not now') });
	like((etcdctl(60, 'get', 'grpc stale'))[1], qr/not now/, 'grpcproxy, answer: the message');
	$grpc->rules;
	is((etcdctl(60, 'get', 'grpc stale'))[1], "grpc stale\nnew\n", 'grpcproxy: and then all is well again');
}

# A watch, which is an answer without end.
{
	my ($out, $err) = ('', '');
	local $ENV{ETCDCTL_API} = 3;
	my $watch = IPC::Run::start(
		[ $ENV{ETCDCTL} // 'etcdctl', '--endpoints', $grpc->url, 'watch', 'grpc watched' ],
		'<', \my $in, '>', \$out, '2>', \$err);
	my $shown = sub { $watch->pump_nb; return scalar(() = $out =~ /^PUT$/mg) };
	my $shows = sub {
		my ($n, $name) = @_;
		wait_until($name, sub { $shown->() == $n });
		pass($name);
		return;
	};
	wait_until('the watch is open', sub { $grpc->open('/v3/watch') == 1 && $etcd->watchers > 0 });
	$etcd->put('grpc watched', 1);
	$shows->(1, 'grpcproxy: events of a watch are passed on');
	is($grpc->connections, 1, '... on one connection');

	$grpc->goaway;
	$etcd->put('grpc watched', 2);
	$shows->(2, 'grpcproxy, goaway: the call that was open goes on');
	is($grpc->open('/v3/watch'), 1, '... the same one');

	$grpc->rules({ name => 'held watch', path => '^/v3/watch$', do => 'hold_answer' });
	$etcd->put('grpc watched', 3);
	wait_until('the rule is met', sub { $grpc->hits('held watch') });
	$grpc->rules;
	$etcd->put('grpc watched', 4);
	sleep 0.5;
	is($shown->(), 2, 'grpcproxy, hold_answer: a watch that was open stays silent');
	is($grpc->open('/v3/watch'), 1, '... and open');
	$grpc->reset;
	$shows->(4, 'grpcproxy: reset ends it, and the client opens another one');

	$grpc->rules({ name => 'cut watch', path => '^/v3/watch$', do => 'cut_answer', after => '"kv"', bytes => 8, times => 1 });
	my $requests = $grpc->requests;
	$etcd->put('grpc watched', 5);
	$shows->(5, 'grpcproxy, cut_answer: a watch that is cut within an event');
	is($grpc->hits('cut watch'), 1, '... was cut');
	cmp_ok($grpc->requests, '>', $requests, '... and opened again');
	$grpc->rules;
	$watch->kill_kill;
}

# Refusing all connections, and an etcd that is gone.
{
	$grpc->refuse;
	ok(!grpc_put('grpc refused', 1), 'grpcproxy, refuse: no connection can be made');
	$grpc->accept;
	ok(grpc_put('grpc refused'), '... accept: one can, on the same port');
	is(puts('grpc refused'), 1, '... and nothing refused has reached etcd');
	$etcd->kill9;
	ok(!grpc_put('grpc gone', 2), 'grpcproxy, no etcd: no answer');
	$etcd->start;
	wait_until('it is back', sub { grpc_put('grpc gone', 5) });
	pass('... and when it is back, there is one');
}

$grpc->stop;
$etcd->stop;
done_testing();
