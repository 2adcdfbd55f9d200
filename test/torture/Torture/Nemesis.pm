#-------------------------------------------------------------------------
# Torture::Nemesis - draws failures at random and makes them happen
#
# What, where and for how long comes from the seed alone; when it hits whom
# depends on how the run goes.  Several failures may be at work at a time, but
# not two of the same server's processes, of its link, or of etcd's members: what
# is drawn for a target that is not healed yet is left out.
#-------------------------------------------------------------------------
package Torture::Nemesis;

use strict;
use warnings;

use EtcdLockTest::Etcd;
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Utils;
use Torture::Wire qw(now nap);

# How often each is drawn, and what its target is: a server, the link of a
# server to etcd, or etcd.
my %kinds = (
	backend_kill => { weight => 2, target => 'none' },
	backend_terminate => { weight => 6, target => 'none' },
	backend_cancel => { weight => 6, target => 'none' },
	worker_terminate => { weight => 4, target => 'none' },
	worker_kill => { weight => 1, target => 'none' },
	worker_stop_short => { weight => 4, target => 'server' },
	worker_stop_long => { weight => 4, target => 'server' },
	server_immediate => { weight => 2, target => 'server' },
	server_fast => { weight => 2, target => 'server' },
	server_kill => { weight => 1, target => 'server' },
	server_reload => { weight => 4, target => 'none' },
	kept_death => { weight => 3, target => 'server' },
	kept_try => { weight => 8, target => 'none' },
	member_kill => { weight => 4, target => 'etcd' },
	member_stop => { weight => 3, target => 'etcd' },
	leader_stop => { weight => 3, target => 'etcd' },
	leader_cut => { weight => 2, target => 'etcd' },
	quorum_loss => { weight => 2, target => 'etcd' },
	key_delete => { weight => 5, target => 'none' },
	lease_revoke => { weight => 3, target => 'none' },
	compaction => { weight => 3, target => 'none' },
	standby_stop => { weight => 3, target => 'standby' },
	standby_hang => { weight => 3, target => 'standby' },
	link_refuse => { weight => 3, target => 'link' },
	link_hold => { weight => 3, target => 'link' },
	link_delay => { weight => 4, target => 'link' },
	link_drop => { weight => 4, target => 'link' },
	link_cut => { weight => 4, target => 'link' },
	link_repeat => { weight => 4, target => 'link' },
	link_reset => { weight => 2, target => 'link' });

my @paths = (
	'', '^/v3/kv/txn', '^/v3/kv/range', '^/v3/watch',
	'^/v3/lease/keepalive', '^/v3/(kv/)?lease/');

=pod

=over

=item Torture::Nemesis->new(%options)

Options: seed, ttl (of leases, seconds), nodes, standby (a node, that the first one
waits for; or none), etcd, proxies (for each node a list of them, one for each
member), user, only (names of failures), log; aim
(one failure at a time, long, and where most locks are held).

=item Torture::Nemesis->kinds

Their names.

=cut

sub kinds { return sort keys %kinds }

sub new
{
	my ($class, %options) = @_;
	my $self = bless {
		%options,
		random => $options{seed} * 2654435761 % 2**32,
		heal => [],
		busy => {},
		count => {},
		insisted => [],
		keeps => [],
		thefts => [],
		outages => [],
		cancels => [],
		next => now(),
		connections => []
	}, $class;
	open $self->{file}, '>', $options{log} or die "$options{log}: $!";
	$self->{file}->autoflush;
	$self->{drawn_from} =
	  [ map { ($_) x $kinds{$_}{weight} } @{ $options{only} } ];
	return $self;
}

# Its own generator: rand() is drawn from by others, too.
sub draw
{
	my ($self, $below) = @_;
	$self->{random} = ($self->{random} * 1664525 + 1013904223) % 2**32;
	return $self->{random} / 2**32 * $below;
}

sub one_of { my ($self, @list) = @_; return $list[ $self->draw(scalar @list) ] }

sub between
{
	my ($self, $from, $to) = @_;
	return $from + $self->draw($to - $from);
}

sub say
{
	my ($self, $text) = @_;
	printf { $self->{file} } "%.3f %s\n", now(), $text;
	return;
}

=item $nemesis->step

Heal what is due, and begin what is due.  Call it often.

=cut

sub step
{
	my ($self) = @_;
	my @due = grep { $_->{at} <= now() } @{ $self->{heal} };
	$self->{heal} = [ grep { $_->{at} > now() } @{ $self->{heal} } ];
	$self->heal($_) foreach @due;

	return if now() < $self->{next};
	return if $self->{aim} && keys %{ $self->{busy} };
	my $kind = $self->one_of(@{ $self->{drawn_from} });
	my ($missing) = $self->missing;
	$kind = $missing if $missing;
	my $what = {
		kind => $kind,
		server => int $self->draw(scalar @{ $self->{nodes} }),
		member => int $self->draw($self->{etcd}->size),
		short => $self->between(0.1, 0.6 * $self->{ttl}),
		long => $self->between(1.3 * $self->{ttl}, 3 * $self->{ttl}),
		any => $self->between(0.1, 2.5 * $self->{ttl}),
		path => $self->one_of(@paths),
		times => 1 + int $self->draw(4),
		milliseconds => int $self->between(10, 4000),
		bytes => int $self->draw(300),
		pick => $self->draw(1)
	};
	if ($self->{aim})
	{
		$what->{server} = $self->busiest;
		$what->{long} = $self->between(2.6 * $self->{ttl}, 3 * $self->{ttl});
	}
	$what->{target} = $kinds{$kind}{target};
	$what->{target} .= $what->{server} if $what->{target} =~ /server|link/;
	return if $self->{busy}{ $what->{target} };
	$self->let_keep($what->{server}) if $missing;

	my $told = $self->$kind($what) // return;
	$self->{next} = now() + $self->draw(1.5);
	$self->{count}{$kind}++;
	$self->say("$kind $told");
	return;
}

=item $nemesis->insist(@kinds)

Do these next, unless it has done them before: nothing else until then.

=item $nemesis->missing

Which of them it has not done yet.

=cut

sub insist
{
	my ($self, @kinds) = @_;
	$self->{insisted} = \@kinds;
	return;
}

sub missing
{
	my ($self) = @_;
	return grep { !$self->{count}{$_} } @{ $self->{insisted} };
}

=item $nemesis->heal_all

Heal everything, and wait until servers and etcd are up; whether they are.

=cut

sub heal_all
{
	my ($self) = @_;
	$self->heal($_) foreach @{ $self->{heal} };
	$self->{heal} = [];

	my $until = now() + $PostgreSQL::Test::Utils::timeout_default;
	until ($self->all_is_well)
	{
		return 0 if now() > $until;
		nap(0.1);
	}
	$self->say('healed');
	return 1;
}

=item $nemesis->count

How often it did what.

=item $nemesis->is_down($server)

Whether a server's processes are stopped or gone just now.

=item $nemesis->ask($server, $sql)

A value from a server; undef if it does not answer.

=cut

sub count { my ($self) = @_; return $self->{count} }
sub is_down { my ($self, $server) = @_; return $self->{busy}{"server$server"} }

=item $nemesis->thefts

When it has taken locks away by hand: a list of { server, name, from, to };
without server or name: of all of them.

=cut

sub thefts { my ($self) = @_; return @{ $self->{thefts} } }

=item $nemesis->outages, $nemesis->cancels

When the first server had no standby: { server, from, to }; and when it cancelled
a statement or ended a session: { server, at }.

=cut

sub outages { my ($self) = @_; return @{ $self->{outages} } }
sub cancels { my ($self) = @_; return @{ $self->{cancels} } }

=back

=cut

sub all_is_well
{
	my ($self) = @_;
	foreach my $i (0 .. $self->{etcd}->size - 1)
	{
		return 0 unless $self->{etcd}->member($i)->healthy;
	}
	foreach my $i (0 .. $#{ $self->{nodes} })
	{
		return 0 unless $self->ask($i, 'SELECT 1');
	}
	return 0
	  if $self->{standby}
	  && ($self->ask(0, q(SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync')) // 0) == 0;
	return 1;
}

# What is insisted on needs a server that keeps keys, whatever server_reload has set.
sub let_keep
{
	my ($self, $server) = @_;
	return if $self->{keeps}[$server];
	$self->ask($server, "ALTER SYSTEM SET etcd_lock.keep_window = '2s'");
	$self->{keeps}[$server] = $self->ask($server, 'SELECT pg_reload_conf()');
	return;
}

# Heal this later, and leave the target alone until then.
sub later
{
	my ($self, $what, $seconds, $heal) = @_;
	$self->{busy}{ $what->{target} } = 1;
	push @{ $self->{heal} },
	  {
		at => now() + $seconds,
		target => $what->{target},
		kind => $what->{kind},
		heal => $heal
	  };
	return sprintf 'for %.2f s', $seconds;
}

sub heal
{
	my ($self, $healing) = @_;
	$healing->{heal}->();
	delete $self->{busy}{ $healing->{target} };
	$self->say("$healing->{kind} of $healing->{target} has ended");
	return;
}

sub ask
{
	my ($self, $server, $sql) = @_;
	my $node = $self->{nodes}[$server];
	my $connection = \$self->{connections}[$server];

	$$connection = Torture::Wire->connect(
		$node->host . '/.s.PGSQL.' . $node->port,
		$self->{user}) // return
	  if !$$connection || $$connection->closed;
	return $$connection->value($sql);
}

sub busiest
{
	my ($self) = @_;
	my @held = map {
		$self->ask($_, 'SELECT count(DISTINCT name) FROM etcd_locks WHERE granted') // 0
	} 0 .. $#{ $self->{nodes} };
	my ($busiest) = sort { $held[$b] <=> $held[$a] } 0 .. $#held;
	return $busiest;
}

# A process that is this server's, whatever has become of its id.
sub signal_child
{
	my ($self, $server, $pid, $signal) = @_;
	open my $status, '<', "/proc/$pid/status" or return 0;
	my ($parent) = map { /^PPid:\s*(\d+)/ ? $1 : () } <$status>;
	my $postmaster = $self->{nodes}[$server]{_pid} // return 0;
	return $parent == $postmaster && kill $signal, $pid;
}

sub signal_backend
{
	my ($self, $what, $signal) = @_;
	my $pid = $self->ask($what->{server},
		"SELECT a[1 + floor($what->{pick} * cardinality(a))] FROM"
		  . " (SELECT array_agg(pid ORDER BY pid) AS a FROM pg_stat_activity"
		  . " WHERE application_name = 'torture' AND pid <> pg_backend_pid()) s")
	  // return;
	push @{ $self->{cancels} }, { server => $what->{server}, at => now() };
	return $self->signal_child($what->{server}, $pid, $signal)
	  && "server $what->{server} pid $pid";
}

sub backend_kill { return signal_backend(@_, 'KILL') }
sub backend_terminate { return signal_backend(@_, 'TERM') }
sub backend_cancel { return signal_backend(@_, 'INT') }

sub worker
{
	my ($self, $what) = @_;
	return $self->ask($what->{server},
		"SELECT pid FROM pg_stat_activity WHERE backend_type ~ '^etcd_lock'");
}

sub signal_worker
{
	my ($self, $what, $signal) = @_;
	my $pid = $self->worker($what) // return;
	return $self->signal_child($what->{server}, $pid, $signal)
	  && "server $what->{server} pid $pid";
}

sub worker_terminate { return signal_worker(@_, 'TERM') }
sub worker_kill { return signal_worker(@_, 'KILL') }

sub worker_stop
{
	my ($self, $what, $seconds) = @_;
	my $pid = $self->worker($what) // return;
	$self->signal_child($what->{server}, $pid, 'STOP') or return;
	return "server $what->{server} pid $pid "
	  . $self->later($what, $seconds,
		sub { $self->signal_child($what->{server}, $pid, 'CONT') });
}

sub worker_stop_short
{
	my ($self, $what) = @_;
	return $self->worker_stop($what, $what->{short});
}

sub worker_stop_long
{
	my ($self, $what) = @_;
	return $self->worker_stop($what, $what->{long});
}

# The server goes, at once or after what a fast shutdown takes, and comes back.
sub server_down
{
	my ($self, $what, $seconds, $mode) = @_;
	my $node = $self->{nodes}[ $what->{server} ];
	return unless $node->{_pid};
	if ($mode eq 'kill') { $node->kill9 }
	else { $node->stop($mode, fail_ok => 1) or return "$mode: did not stop" }
	return "server $what->{server} "
	  . $self->later(
		$what, $seconds,
		sub { $self->server_up($what->{server}) });
}

# Orphans of a killed postmaster must go before, so that it may take a few
# attempts.
sub server_up
{
	my ($self, $server) = @_;
	my $node = $self->{nodes}[$server];
	my $until = now() + $PostgreSQL::Test::Utils::timeout_default;

	until ($node->start(fail_ok => 1))
	{
		# The node now knows the process id of a file that was left behind,
		# or of a postmaster that took long.
		return if $self->ask($server, 'SELECT 1');
		$node->{_pid} = undef;
		die $node->name . ' does not start again' if now() > $until;
		nap(0.2);
	}
	return;
}

sub server_immediate
{
	my ($self, $what) = @_;
	return $self->server_down($what, $what->{short}, 'immediate');
}

sub server_fast
{
	my ($self, $what) = @_;
	return $self->server_down($what, $what->{short}, 'fast');
}

sub server_kill
{
	my ($self, $what) = @_;
	return $self->server_down($what, $what->{any}, 'kill');
}

sub server_reload
{
	my ($self, $what) = @_;
	my $window = ('0', '20ms', '100ms', '1s')[ $what->{times} - 1 ];
	my $keep = ('200ms', '0', '2s', '200ms', '50ms')[ 5 * $what->{pick} ];
	$self->ask($what->{server},
		"ALTER SYSTEM SET etcd_lock.handoff_window = '$window'");
	$self->ask($what->{server}, "ALTER SYSTEM SET etcd_lock.keep_window = '$keep'");
	my $ok = $self->ask($what->{server}, 'SELECT pg_reload_conf()') // return;
	return "server $what->{server} handoff_window $window keep_window $keep";
}

# A server goes that keeps a lock just now.
sub kept_death
{
	my ($self, $what) = @_;
	my $lease = $self->lease($what->{server}) // return;
	my $keys = $self->{etcd}->any('lock_keys') // return;
	return unless grep { m{/$lease-\d+-keep\d+$} } @$keys;
	return $self->server_down($what, $what->{any}, $what->{pick} < 0.5 ? 'kill' : 'immediate');
}

# What Go's Mutex.TryLock does, of a lock that a server may keep: a key of its own, which
# goes again if it is not the first; else it holds the lock for a moment.
sub kept_try
{
	my ($self, $what) = @_;
	my $keys = $self->{etcd}->any('lock_keys') // return;
	my @kept = grep { /-keep\d+$/ } @$keys or return;
	my ($name) = $kept[ $what->{pick} * @kept ] =~ m{^(.*)/(?:read|write)/} or return;
	my ($lease) = @{ $self->{etcd}->any('grant', 5) // return };
	my $key = sprintf '%s/%x', $name, $lease;

	$self->{etcd}->any('put', $key, '', $lease) // return "$key: tried";
	my $queue = $self->{etcd}->any('call', '/v3/kv/range',
		{ EtcdLockTest::Etcd::prefix_range("$name/"), sort_target => 'CREATE', limit => 1 });
	my $first = $queue ? decode_base64($queue->[0]{kvs}[0]{key} // '') : '';
	my $heal = sub { $self->{etcd}->any('revoke', "$lease") };
	if ($first ne $key)
	{
		$heal->();
		return "$key: refused";
	}
	push @{ $self->{heal} },
	  { at => now() + 0.2 * $what->{short}, target => 'none', kind => 'kept_try', heal => $heal };
	return "$key: granted";
}

# What the first server waits for at each commit.
sub without_standby
{
	my ($self, $what, $end, $heal) = @_;
	$end->();
	my $outage = { server => 0, from => now(), to => 1e9 };
	push @{ $self->{outages} }, $outage;
	return $self->later($what, $what->{any}, sub { $outage->{to} = now(); $heal->() });
}

sub standby_stop
{
	my ($self, $what) = @_;
	my $standby = $self->{standby} // return;
	return $self->without_standby(
		$what,
		sub { $standby->stop('immediate') },
		sub { $standby->start });
}

# Its end of the connection stays as it is.
sub standby_hang
{
	my ($self, $what) = @_;
	my $standby = $self->{standby} // return;
	my $pid = $standby->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver') || return;
	return $self->without_standby(
		$what,
		sub { kill 'STOP', $pid },
		sub { kill 'CONT', $pid });
}

sub member_kill
{
	my ($self, $what) = @_;
	my $member = $self->{etcd}->member($what->{member});
	$member->kill9;
	return "member $what->{member} "
	  . $self->later($what, $what->{any}, sub { $member->launch });
}

sub stop_members
{
	my ($self, $what, $seconds, @members) = @_;
	$self->{etcd}->member($_)->pause foreach @members;
	return "member @members "
	  . $self->later($what, $seconds,
		sub { $self->{etcd}->member($_)->resume foreach @members });
}

sub member_stop
{
	my ($self, $what) = @_;
	return $self->stop_members($what, $what->{any}, $what->{member});
}

sub leader_stop
{
	my ($self, $what) = @_;
	my $leader = $self->{etcd}->leading // return;
	return $self->stop_members($what, $what->{any}, $leader);
}

# From the other members, not from its clients.
sub leader_cut
{
	my ($self, $what) = @_;
	my $leader = $self->{etcd}->leading // return;
	$self->{etcd}->cut_off($self->{etcd}->member($leader));
	return "member $leader "
	  . $self->later($what, $what->{any}, sub { $self->{etcd}->join_again });
}

sub quorum_loss
{
	my ($self, $what) = @_;
	return $self->stop_members($what, $what->{any},
		grep { $_ != $what->{member} } 0 .. $self->{etcd}->size - 1);
}

sub key_delete
{
	my ($self, $what) = @_;
	my $keys = $self->{etcd}->any('lock_keys') // return;
	return unless @$keys;
	my $key = $keys->[ $what->{pick} * @$keys ];
	my ($name, $lease) =
	  $key =~ m{^(.*)/(?:read|write)/([0-9a-f]+)-\d+(?:-keep\d+)?$} or return;
	$name = $name =~ m{^\.etcd_lock/int/.*/(\d+)$} ? $1 : "'$name'";
	my ($server) =
	  grep { ($self->lease($_) // '') eq $lease } 0 .. $#{ $self->{nodes} };

	return $self->by_hand($server, $name, sub { $self->{etcd}->any('delete', $key) })
	  . " $key";
}

sub lease_revoke
{
	my ($self, $what) = @_;
	my $lease = $self->lease($what->{server}) // return;
	# Not while etcd could do it only later.
	$self->{etcd}->any('keys', '') // return;
	return $self->by_hand($what->{server}, undef,
		sub { $self->{etcd}->any('revoke', "" . hex $lease) })
	  . " $lease of server $what->{server}";
}

sub lease
{
	my ($self, $server) = @_;
	return $self->ask($server, 'SELECT lease FROM etcd_lock_status()');
}

# Somebody takes locks away in etcd.  Only the commit guard that asks etcd can
# see that at once: the checker needs to know.  A request without an answer may
# be applied later.
sub by_hand
{
	my ($self, $server, $name, $do) = @_;
	my $theft = { server => $server, name => $name, from => now() };
	push @{ $self->{thefts} }, $theft;
	my $ok = $do->();
	$theft->{to} = now() + ($ok ? 0 : 15);
	return $ok ? 'done' : 'tried';
}

sub compaction { my ($self) = @_; return $self->{etcd}->compact && 'done' }

# Faults of a server's links to all members.
sub link_rule
{
	my ($self, $what, $seconds, %rule) = @_;
	my $proxies = $self->{proxies}[ $what->{server} ];
	$rule{path} = $what->{path} if $what->{path} ne '';
	$_->rules({%rule}) foreach @$proxies;
	return "server $what->{server} "
	  . join(' ', map { "$_=$rule{$_}" } sort keys %rule) . ' '
	  . $self->later($what, $seconds, sub { $_->rules foreach @$proxies });
}

sub link_refuse
{
	my ($self, $what) = @_;
	my $proxies = $self->{proxies}[ $what->{server} ];
	$_->refuse foreach @$proxies;
	return "server $what->{server} "
	  . $self->later($what, $what->{any}, sub { $_->accept foreach @$proxies });
}

# Nothing that hangs at its end stays hanging: the connections are reset.
sub link_hold
{
	my ($self, $what) = @_;
	my $do = $what->{pick} < 0.5 ? 'hold' : 'hold_answer';
	my $proxies = $self->{proxies}[ $what->{server} ];
	my $told = $self->link_rule($what, $what->{any}, do => $do);
	$self->{heal}[-1]{heal} = sub {
		$_->rules foreach @$proxies;
		$_->reset foreach @$proxies;
	};
	return $told;
}

sub link_delay
{
	my ($self, $what) = @_;
	return $self->link_rule(
		$what, $what->{any},
		do => $what->{pick} < 0.5 ? 'delay' : 'delay_answer',
		ms => $what->{milliseconds});
}

sub link_drop
{
	my ($self, $what) = @_;
	return $self->link_rule(
		$what, $what->{any},
		do => 'drop_answer',
		times => $what->{times});
}

sub link_cut
{
	my ($self, $what) = @_;
	return $self->link_rule(
		$what, $what->{any},
		do => 'cut_answer',
		bytes => $what->{bytes},
		times => $what->{times});
}

sub link_repeat
{
	my ($self, $what) = @_;
	return $self->link_rule(
		$what, $what->{any},
		do => 'repeat',
		ms => $what->{milliseconds},
		times => 5 * $what->{times});
}

sub link_reset
{
	my ($self, $what) = @_;
	$_->reset foreach @{ $self->{proxies}[ $what->{server} ] };
	return "server $what->{server}";
}

1;
