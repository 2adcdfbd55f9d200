#-------------------------------------------------------------------------
# EtcdLockTest::Etcd - a throwaway etcd with one member
#
# Listens on two client ports of 127.0.0.1, so that a server can be moved from
# one endpoint to another without losing its etcd.  Keys and leases are read
# through the JSON gateway, with nothing of the extension in between.
#-------------------------------------------------------------------------
package EtcdLockTest::Etcd;

use strict;
use warnings;

use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(encode_base64 decode_base64);
use POSIX qw(WNOHANG WUNTRACED);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

# Every instance, so that END finds those that a dying test leaves running.
my @all;

=pod

=over

=item EtcdLockTest::Etcd->new(%options)

An etcd with a data directory of its own, started and healthy.  Options: args
(list of further arguments); start (default 1); fsync (default 0: as the servers of
PostgreSQL::Test::Cluster, it does not wait for the disk, which stalls where others
use it, too); tls (hash of file names: cert and key of the server, and ca, by which
clients' certificates are verified if it is given): then endpoint 0 speaks https,
and endpoint 1 still http, for the test.

=cut

sub new
{
	my ($class, %options) = @_;
	my $number = @all + 1;
	my ($test) = $0 =~ m{([^/]+?)(?:\.pl)?$};
	my $self = bless {
		binary => $ENV{ETCD} // 'etcd',
		name => "etcd$number",
		datadir => PostgreSQL::Test::Utils::tempdir("etcd$number"),
		log => "$PostgreSQL::Test::Utils::log_path/${test}_etcd$number.log",
		urls => [ map { 'http://127.0.0.1:' . free_port() } 1 .. 2 ],
		peer => 'http://127.0.0.1:' . free_port(),
		http => HTTP::Tiny->new(timeout => 30),
		args => [ $options{fsync} ? () : no_fsync(), @{ $options{args} // [] } ],
		tls => $options{tls},
		owner => $$,
	}, $class;
	$self->{urls}[0] =~ s/^http:/https:/ if $self->{tls};

	push @all, $self;
	$self->start if $options{start} // 1;
	return $self;
}

# The option is older than its place in what --help tells.
my $no_fsync;

sub no_fsync
{
	$no_fsync //= [
		grep { IPC::Run::run([ $ENV{ETCD} // 'etcd', $_, '--version' ], '>&', \my $output) }
		  '--unsafe-no-fsync' ];
	return @$no_fsync;
}

sub free_port { return PostgreSQL::Test::Cluster::get_free_port() }

=item $etcd->endpoint([$n])

The client URL number $n, 0 (default) or 1.

=cut

sub endpoint
{
	my ($self, $n) = @_;
	return $self->{urls}[ $n // 0 ];
}

# The one by which the test itself speaks to it.
sub test_endpoint { my ($self) = @_; return $self->{urls}[ $self->{tls} ? 1 : 0 ] }

sub tls_args
{
	my ($self) = @_;
	my $tls = $self->{tls} or return;
	return (
		'--cert-file', $tls->{cert}, '--key-file', $tls->{key},
		$tls->{ca} ? ('--client-cert-auth', '--trusted-ca-file', $tls->{ca}) : ());
}

=item $etcd->start

Start it on its data directory and wait until it is healthy.

=cut

sub start
{
	my ($self) = @_;
	$self->launch;
	$self->wait_healthy;
	return;
}

# Start it, and do not wait.
sub launch
{
	my ($self) = @_;
	my $clients = join ',', @{ $self->{urls} };

	my $pid = fork // die "could not fork: $!";
	if ($pid == 0)
	{
		# etcd takes settings from the environment, too.
		delete @ENV{ grep { /^ETCD_/ } keys %ENV };
		open STDOUT, '>>', $self->{log} or POSIX::_exit(126);
		open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
		{
			no warnings 'exec';
			exec $self->{binary}, '--name', $self->{name},
			  '--data-dir', $self->{datadir},
			  '--listen-client-urls', $clients,
			  '--advertise-client-urls', $clients,
			  '--listen-peer-urls', $self->{peer},
			  '--initial-advertise-peer-urls', $self->peer_url,
			  '--initial-cluster', $self->{cluster} // $self->as_member,
			  $self->tls_args, @{ $self->{args} };
		}
		POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	return;
}

# The URL by which other members reach it, and how it is named to them.
sub peer_url { my ($self) = @_; return $self->{advertised_peer} // $self->{peer} }
sub as_member { my ($self) = @_; return "$self->{name}=" . $self->peer_url }

sub wait_healthy
{
	my ($self) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;

	until ($self->healthy)
	{
		if (waitpid($self->{pid}, WNOHANG) == $self->{pid})
		{
			delete $self->{pid};
			die "$self->{binary} did not start, see $self->{log}";
		}
		die "$self->{binary} is not healthy, see $self->{log}"
		  if time > $until;
		sleep 0.05;
	}
	return;
}

sub healthy
{
	my ($self) = @_;
	my $answer = $self->{http}->get($self->test_endpoint . '/health');
	return $answer->{success} && $answer->{content} =~ /true/;
}

# Send a signal to the etcd that we started, if there is one.
sub signal
{
	my ($self, $signal) = @_;
	return 0 unless $self->{pid} && $self->{owner} == $$;
	return kill $signal, $self->{pid};
}

# Send a signal that ends etcd, and wait for its end.
sub end_with
{
	my ($self, $signal) = @_;
	return unless $self->signal($signal);
	$self->signal('CONT');
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

=item $etcd->stop, $etcd->kill9

End it gracefully, or at once.  start() continues with the same data.

=cut

sub stop { my ($self) = @_; return $self->end_with('TERM') }
sub kill9 { my ($self) = @_; return $self->end_with('KILL') }

=item $etcd->pause, $etcd->resume

Let it hang and go on (SIGSTOP, SIGCONT).  It answers nothing any more when pause
returns.

=cut

sub pause
{
	my ($self) = @_;
	my $signalled = $self->signal('STOP');
	local $?;
	waitpid $self->{pid}, WUNTRACED if $signalled;
	return $signalled;
}

sub resume { my ($self) = @_; return $self->signal('CONT') }

=item $etcd->call($path, \%request)

A request to the gateway; the decoded answer.

=cut

sub call
{
	my ($self, $path, $request, $again) = @_;
	my $answer = $self->{http}->post(
		$self->test_endpoint . $path,
		{
			content => encode_json($request),
			headers => $self->{token} ? { Authorization => $self->{token} } : {}
		});
	if ($answer->{status} == 401 && $self->{token} && !$again)
	{
		$self->log_in_again;
		return $self->call($path, $request, 1);
	}
	die "etcd, $path: $answer->{status} $answer->{content}"
	  unless $answer->{success};
	return decode_json($answer->{content});
}

# The range [prefix, end) that holds every key below a prefix.
sub prefix_range
{
	my ($prefix) = @_;
	return (key => encode_base64("\0", ''), range_end => encode_base64("\0", ''))
	  if $prefix eq '';
	my $end = $prefix;
	substr($end, -1) = chr(ord(substr($end, -1)) + 1);
	return (
		key => encode_base64($prefix, ''),
		range_end => encode_base64($end, ''));
}

=item $etcd->etcdctl(@arguments), $etcd->etcdctl_root(@arguments)

Run etcdctl, as root where etcd wants to know; its output.  The last argument may
be a reference to its input.

=cut

sub etcdctl
{
	my ($self, @arguments) = @_;
	my $input = ref $arguments[-1] ? pop @arguments : \'';
	my $output = '';
	local $ENV{ETCDCTL_API} = 3;

	IPC::Run::run(
		[
			$ENV{ETCDCTL} // 'etcdctl', '--endpoints', $self->test_endpoint,
			'--dial-timeout=60s', '--command-timeout=60s', @arguments
		],
		'<', $input, '>&', \$output) or die "etcdctl @arguments:\n$output";
	return $output;
}

sub etcdctl_root
{
	my ($self, @arguments) = @_;
	return $self->etcdctl($self->{token} ? '--user=root:root' : (), @arguments);
}

=item $etcd->enable_auth($user => $password, \@prefixes)

Make a user with a role of the same name that may read and write these
prefixes, and enable authentication.

=cut

sub enable_auth
{
	my ($self, $user, $password, $prefixes) = @_;
	$self->etcdctl('user', 'add', 'root:root');
	$self->etcdctl('user', 'grant-role', 'root', 'root');
	$self->add_user($user, $password, $prefixes);
	$self->etcdctl('auth', 'enable');
	$self->log_in_again;
	return;
}

sub add_user
{
	my ($self, $user, $password, $prefixes) = @_;
	$self->etcdctl_root('role', 'add', $user);
	$self->etcdctl_root('role', 'grant-permission', $user, 'readwrite',
		'--prefix=true', $_)
	  foreach @$prefixes;
	# etcdctl would read the password up to the first space.
	$self->call('/v3/auth/user/add', { name => $user, password => $password });
	$self->etcdctl_root('user', 'grant-role', $user, $user);
	return;
}

sub change_password
{
	my ($self, $user, $password) = @_;
	$self->call('/v3/auth/user/changepw', { name => $user, password => $password });
	return;
}

# The token with which the test itself asks; etcd forgets it when it restarts.
sub log_in_again
{
	my ($self) = @_;
	delete $self->{token};
	$self->{token} =
	  $self->call('/v3/auth/authenticate', { name => 'root', password => 'root' })
	  ->{token};
	return;
}

=item $etcd->entries($prefix)

What is below a prefix, oldest first: a list of { key, value, lease,
create_revision }.

=cut

sub entries
{
	my ($self, $prefix) = @_;
	my $answer = $self->call('/v3/kv/range',
		{ prefix_range($prefix), sort_target => 'CREATE', sort_order => 'ASCEND' });

	return map {
		{
			key => decode_base64($_->{key}),
			value => decode_base64($_->{value} // ''),
			lease => $_->{lease} // 0,
			create_revision => $_->{create_revision}
		}
	} @{ $answer->{kvs} // [] };
}

=item $etcd->keys($prefix)

The names of the keys below a prefix, oldest first.

=cut

sub keys
{
	my ($self, $prefix) = @_;
	return map { $_->{key} } $self->entries($prefix);
}

=item $etcd->key_count($prefix)

How many keys are below a prefix.  Of 10,000 keys, entries() takes a second to decode the
names.

=cut

sub key_count
{
	my ($self, $prefix) = @_;
	my $answer = $self->call('/v3/kv/range', { prefix_range($prefix), count_only => JSON::PP::true });
	return $answer->{count} // 0;
}

=item $etcd->revision, $etcd->key_has_come($prefix, $since)

Its revision; whether there has been a key below a prefix since one of them, which may
be gone again before somebody looks.

=cut

sub revision
{
	my ($self) = @_;
	return $self->call('/v3/maintenance/status', {})->{header}{revision};
}

sub key_has_come
{
	my ($self, $prefix, $since) = @_;
	my @range = prefix_range($prefix);
	foreach my $revision ($since + 1 .. $self->revision)
	{
		return 1 if $self->call('/v3/kv/range', { @range, revision => $revision })->{kvs};
	}
	return 0;
}

=item $etcd->lock_keys

The keys that stand for locks: all but the one key of each running server, and
notes on who has a lock.

=cut

sub lock_keys
{
	my ($self) = @_;
	return grep { !m{^\.etcd_lock/holder/} } $self->left_keys;
}

=item $etcd->left_keys

The keys that must be gone when nobody holds or wants a lock.

=cut

sub left_keys
{
	my ($self) = @_;
	return grep { !m{^\.etcd_lock/(?:server|primary/\d+|tick_lease)/[0-9a-f]+$} } $self->keys('');
}

=item $etcd->leases

The ids of all leases but those of ticks.

=cut

sub leases
{
	my ($self) = @_;
	my $answer = $self->call('/v3/lease/leases', {});
	my %of_ticks = map { $_->{lease} => 1 } $self->tick_leases;
	return grep { !$of_ticks{$_} } map { $_->{ID} } @{ $answer->{leases} // [] };
}

=item $etcd->watchers

How many watches are open, by etcd's own account.

=cut

sub watchers
{
	my ($self) = @_;
	return $self->metric('etcd_debugging_mvcc_watcher_total');
}

=item $etcd->watch_streams

On how many streams.

=cut

sub watch_streams
{
	my ($self) = @_;
	return $self->metric('etcd_debugging_mvcc_watch_stream_total');
}

sub metric
{
	my ($self, $name) = @_;
	my $answer = $self->{http}->get($self->endpoint . '/metrics');
	my ($n) = $answer->{content} =~ /^$name (\d+)/m
	  or die "no metrics: $answer->{status}";
	return $n;
}

=item $etcd->lease_of($prefix)

The lease of the oldest key below a prefix.

=cut

sub lease_of
{
	my ($self, $prefix) = @_;
	my ($entry) = $self->entries($prefix);
	return $entry ? $entry->{lease} : 0;
}

=item $etcd->revoke($lease)

Revoke a lease, with its keys.

=cut

sub revoke
{
	my ($self, $lease) = @_;
	$self->call('/v3/lease/revoke', { ID => $lease });
	return;
}

=item $etcd->granted_ttl($lease)

For how many seconds it was granted.

=cut

sub granted_ttl
{
	my ($self, $lease) = @_;
	return $self->call('/v3/lease/timetolive', { ID => $lease })->{grantedTTL};
}

=item $etcd->put($key, $value, [$lease])

Put a key, both given as bytes.

=cut

sub put
{
	my ($self, $key, $value, $lease) = @_;
	$self->put_all([ [ $key, $value, $lease ] ]);
	return;
}

=item $etcd->put_all([[$key, $value, [$lease]], ...])

Put many keys, as many at a time as etcd allows.

=cut

sub put_all
{
	my ($self, $puts) = @_;

	# By hand: encode_json takes long for so much.
	my @puts = map {
		my ($key, $value, $lease) = @$_;
		sprintf '{"request_put":{"key":"%s","value":"%s","lease":"%s"}}',
		  encode_base64($key, ''), encode_base64($value, ''), $lease // 0
	} @$puts;

	while (my @some = splice @puts, 0, 128)
	{
		my $answer = $self->{http}->post($self->endpoint . '/v3/kv/txn',
			{
				content => '{"success":[' . join(',', @some) . ']}',
				headers => $self->{token} ? { Authorization => $self->{token} } : {}
			});
		die "etcd: $answer->{status} $answer->{content}" unless $answer->{success};
	}
	return;
}

=item $etcd->grant([$ttl])

A lease of so many seconds (default 600); its id.

=cut

sub grant
{
	my ($self, $ttl) = @_;
	return $self->call('/v3/lease/grant', { TTL => $ttl // 600 })->{ID};
}

=item $etcd->forget_ticks

Revoke the leases of ticks, with all ticks on them.

=cut

sub forget_ticks
{
	my ($self) = @_;
	$self->revoke($_->{lease}) foreach $self->tick_leases;
	return;
}

# The keys that stand for leases of ticks, in any namespace.
sub tick_leases
{
	my ($self) = @_;
	return grep { $_->{key} =~ m{\.etcd_lock/tick_lease/} } $self->entries('');
}

=item $etcd->delete($prefix)

Delete every key below a prefix.

=cut

sub delete
{
	my ($self, $prefix) = @_;
	$self->call('/v3/kv/deleterange', { prefix_range($prefix) });
	return;
}

=back

=cut

# An exit in the middle of a test leaves nothing behind.
END
{
	my $exit_code = $?;
	$_->end_with('KILL') for @all;
	$? = $exit_code;
}

1;
